//! Settings of domains, and the accounts of each, against a model.

use std::collections::{BTreeMap, BTreeSet};

use carillon_proto::{
    Level, ShardId,
    limits::{CROSSINGS, DOMAIN_CROSSINGS, DOMAIN_KEYS, LEAST_DOMAIN_AGE_MS, MOST_DOMAIN_AGE_MS},
    pb::store::{
        Account, CountAccounts, DeleteAccount, DirectoryCommand, Domain, DomainKey, EraseAccount, ListAccounts,
        PutAccount, Rejected, SetDomain, SetLevel, StoreError, directory_command::Op, put_account::Mode,
        rejected::Reason, store_error::Why,
    },
};
use proptest::prelude::*;

use super::*;
use crate::machine::{DirectoryMachine, DirectoryReader, Outcome, admit_directory, check_directory};

const SHARD: ShardId = ShardId::REGISTRY;
const DOMAINS: [&str; 3] = ["", "acme.example", "b.example"];
const LOCALS: [&str; 3] = ["ann", "bob", "ann.x"];

fn user(local: usize, domain: usize) -> String {
    match DOMAINS[domain] {
        "" => LOCALS[local].to_owned(),
        domain => format!("{}@{domain}", LOCALS[local]),
    }
}

fn command(op: Op) -> DirectoryCommand {
    DirectoryCommand { op: Some(op) }
}

fn hash(key: u8) -> Vec<u8> {
    vec![key; 32]
}

fn set() -> impl Strategy<Value = SetDomain> {
    let number = || proptest::option::of(0..4u32);
    let keys = (proptest::option::of(0..4u8), proptest::option::of(0..4u8));
    let others = || proptest::collection::vec(0..4usize, 0..3);
    let numbers = [number(), number(), number(), number()];
    (0..3usize, numbers, keys, any::<[bool; 4]>(), 0..12u8, [others(), others()]).prop_map(
        |(domain, [bytes, sends, users, members], (add, remove), [closed, sets_flags, open, _], kind, [to, from])| {
            let name = DOMAINS[domain].to_owned();
            let named = |others: Vec<usize>| -> Vec<String> {
                let all = [&DOMAINS[..], &["*"]].concat();
                others.into_iter().filter(|other| *other != domain).map(|other| all[other].to_owned()).collect()
            };
            if kind == 0 {
                return SetDomain { name, remove: true, ..SetDomain::default() };
            }
            SetDomain {
                name,
                max_message_bytes: bytes,
                sends_per_second: sends,
                max_users: users.map(u64::from),
                max_group_members: members,
                closed: sets_flags.then_some(closed),
                no_new_groups: sets_flags.then_some(open),
                message_age_ms: Some(u64::from(kind) * LEAST_DOMAIN_AGE_MS),
                report_age_ms: (kind % 2 == 0).then_some(u64::from(kind) * LEAST_DOMAIN_AGE_MS),
                cross_to: named(to),
                part_from: if kind < 4 { named(from) } else { Vec::new() },
                add_key: add.map(|key| DomainKey { sha256: hash(key).into(), created_ms: key.into() }),
                remove_key: remove.filter(|_| kind == 1).map(hash).unwrap_or_default().into(),
                ..SetDomain::default()
            }
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let mode = prop_oneof![Just(Mode::Create), Just(Mode::Ensure), Just(Mode::Replace)];
    let put = (0..3usize, 0..3usize, mode, proptest::option::of(0..4u64), any::<[bool; 2]>(), 0..3u64).prop_map(
        |(local, domain, mode, most_accounts, [reserved, revive], created_ms)| {
            let account = Account {
                user: user(local, domain),
                created_ms,
                reserved: reserved && mode == Mode::Ensure,
                ..Account::default()
            };
            Op::PutAccount(PutAccount {
                account: Some(account),
                mode: mode.into(),
                numbered: true,
                revive,
                most_accounts,
            })
        },
    );
    let of_user = || (0..3usize, 0..3usize, 1..4u64);
    prop_oneof![
        6 => put,
        2 => of_user().prop_map(|(local, domain, time_ms)| {
            Op::DeleteAccount(DeleteAccount { user: user(local, domain), time_ms })
        }),
        1 => of_user().prop_map(|(local, domain, time_ms)| {
            Op::EraseAccount(EraseAccount { user: user(local, domain), time_ms })
        }),
        3 => set().prop_map(Op::SetDomain),
    ]
}

/// By the answers alone: what the machine has done is read back, and counted anew.
#[derive(Default)]
struct Model {
    /// Whether each name has an owner now.
    users: BTreeMap<String, bool>,
    domains: BTreeMap<String, Domain>,
}

fn domain_of(user: &str) -> &str {
    user.split_once('@').map_or("", |(_, domain)| domain)
}

impl Model {
    fn accounts(&self, domain: &str) -> u64 {
        if domain.is_empty() {
            return 0;
        }
        self.users.iter().filter(|(user, lives)| **lives && domain_of(user) == domain).count() as u64
    }

    fn follow(&mut self, op: &Op, before: Option<&Account>, after: Option<&Account>, outcome: &Outcome) {
        let reason = match outcome {
            Outcome::Error(StoreError { why: Some(Why::Rejected(Rejected { reason, .. })) }) => {
                Some(Reason::try_from(*reason).expect("known"))
            }
            _ => None,
        };
        let lives = |account: Option<&Account>| account.is_some_and(|account| !account.deleted && !account.reserved);
        match op {
            Op::PutAccount(op) => {
                let account = op.account.as_ref().expect("has one");
                let is_full = op.most_accounts.is_some_and(|most| self.accounts(domain_of(&account.user)) >= most);
                if reason == Some(Reason::Full) {
                    assert!(is_full && !lives(before) && before == after, "{op:?}");
                } else {
                    assert!(
                        !(is_full && !lives(before) && lives(after)),
                        "{op:?} of {}",
                        self.accounts(domain_of(&account.user))
                    );
                }
                if after.is_some() {
                    self.users.insert(account.user.clone(), lives(after));
                }
            }
            Op::DeleteAccount(DeleteAccount { user, .. }) | Op::EraseAccount(EraseAccount { user, .. }) => {
                if after.is_some() {
                    assert!(!lives(after));
                    self.users.insert(user.clone(), false);
                }
            }
            Op::SetDomain(op) => {
                let expected = self.set(op);
                assert_eq!(reason, expected, "{op:?} of {:?}", self.domains);
            }
            other => panic!("not among the commands: {other:?}"),
        }
    }

    fn set(&mut self, op: &SetDomain) -> Option<Reason> {
        if op.remove {
            if self.domains.remove(&op.name).is_none() {
                return Some(Reason::NotFound);
            }
            self.domains.values_mut().for_each(|other| other.crosses_to.retain(|name| *name != op.name));
            return None;
        }
        let known = self.domains.get(&op.name).cloned();
        let mut row = known.unwrap_or_else(|| Domain { name: op.name.clone(), ..Domain::default() });
        let mut keys = row.keys.clone();
        keys.retain(|key| key.sha256 != op.remove_key);
        if !op.remove_key.is_empty() && keys.len() == row.keys.len() {
            return Some(Reason::NotFound);
        }
        if let Some(key) = &op.add_key
            && !keys.iter().any(|known| known.sha256 == key.sha256)
        {
            keys.push(key.clone());
        }
        if keys.len() > DOMAIN_KEYS {
            return Some(Reason::Full);
        }
        row.keys = keys;
        let mut crossings: BTreeSet<String> = row.crosses_to.into_iter().collect();
        let mut parted = BTreeSet::new();
        for other in &op.part_from {
            let names_this = self.domains.get(other).is_some_and(|row| row.crosses_to.contains(&op.name));
            // The rows of others change only afterwards, so the second time there is nothing to part from but there.
            if !crossings.remove(other) && !names_this {
                return Some(Reason::NotFound);
            }
            parted.insert(other.clone());
        }
        crossings.extend(op.cross_to.iter().cloned());
        row.crosses_to = crossings.into_iter().collect();
        for other in &parted {
            if let Some(other) = self.domains.get_mut(other) {
                other.crosses_to.retain(|name| *name != op.name);
            }
        }
        row.report_age_ms = op.report_age_ms.unwrap_or(row.report_age_ms);
        row.max_message_bytes = op.max_message_bytes.unwrap_or(row.max_message_bytes);
        row.sends_per_second = op.sends_per_second.unwrap_or(row.sends_per_second);
        row.max_users = op.max_users.unwrap_or(row.max_users);
        row.max_group_members = op.max_group_members.unwrap_or(row.max_group_members);
        row.message_age_ms = op.message_age_ms.unwrap_or(row.message_age_ms);
        row.closed = op.closed.unwrap_or(row.closed);
        row.no_new_groups = op.no_new_groups.unwrap_or(row.no_new_groups);
        self.domains.insert(op.name.clone(), row);
        None
    }

    fn check(&self, reader: &DirectoryReader) {
        let state = reader.registry().borrow().clone();
        let rows: Vec<Domain> = self.domains.values().cloned().collect();
        assert_eq!(state.domains.all(), rows);
        let of = |age_ms: fn(&Domain) -> u64| -> BTreeMap<String, u64> {
            let all = self.domains.iter().map(|(name, row)| (name.clone(), age_ms(row)));
            all.filter(|(_, age_ms)| *age_ms != 0).collect()
        };
        let ages = state.domains.ages();
        assert_eq!(*ages.messages, of(|row| row.message_age_ms));
        assert_eq!(*ages.reports, of(|row| row.report_age_ms));
        for domain in &DOMAINS[1..] {
            let count = reader.count_accounts(&CountAccounts { domain: (*domain).to_owned() }).expect("reads");
            assert_eq!(count.accounts, self.accounts(domain), "{domain}");
            let mut listed = Vec::new();
            let mut after_user = String::new();
            loop {
                let list = ListAccounts { after_user, limit: 1, ending: false, domain: (*domain).to_owned() };
                let page = reader.accounts(&list).expect("reads");
                listed.extend(page.accounts.into_iter().map(|account| account.user));
                after_user = page.next_user;
                if after_user.is_empty() {
                    break;
                }
            }
            let all: Vec<&String> = self.users.keys().filter(|user| domain_of(user) == *domain).collect();
            assert_eq!(listed.iter().collect::<Vec<_>>(), all, "of {domain}, with those that have ended");
        }
    }
}

struct World {
    shard: OpenShard<DirectoryMachine, DirectoryReader>,
    index: u64,
    model: Model,
}

fn set_level(level: Level) -> DirectoryCommand {
    command(Op::SetLevel(SetLevel { level: level.0 }))
}

impl World {
    fn new() -> Self {
        let shard = OpenShard::new(|engines| engines.directory(SHARD).expect("shard"), &set_level(Level::OF_PROGRAM));
        Self { shard, index: 0, model: Model::default() }
    }

    fn account(&self, user: &str) -> Option<Account> {
        self.shard.reader.user(user).expect("reads").account
    }

    fn apply(&mut self, op: &Op) -> Outcome {
        self.index += 1;
        let entries = [entry(self.index, &[command(op.clone())])];
        self.shard.machine.apply(&entries, &self.index.to_be_bytes()).expect("applies").remove(0).remove(0)
    }

    fn act(&mut self, op: &Op) {
        let user = match op {
            Op::PutAccount(op) => op.account.as_ref().map(|account| account.user.clone()),
            Op::DeleteAccount(DeleteAccount { user, .. }) | Op::EraseAccount(EraseAccount { user, .. }) => {
                Some(user.clone())
            }
            _ => None,
        };
        let before = user.as_deref().and_then(|user| self.account(user));
        let outcome = self.apply(op);
        let after = user.as_deref().and_then(|user| self.account(user));
        self.model.follow(op, before.as_ref(), after.as_ref(), &outcome);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn domains_have_what_was_decided_and_as_many_accounts_as_they_may(
        steps in proptest::collection::vec(step(proptest::collection::vec(proptest::collection::vec(op(), 0..6), 1..4)), 1..20),
    ) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Apply(ops) => ops.iter().flatten().for_each(|op| world.act(op)),
                Step::Reopen => world.shard = world.shard.reopened(),
                Step::SnapshotAndRestore => world.shard = world.shard.restored_from_its_snapshot(),
            }
            world.model.check(&world.shard.reader);
        }
    }

    #[test]
    fn batch_boundaries_make_no_difference_to_domains(
        ops in proptest::collection::vec(proptest::collection::vec(op(), 0..12), 1..10),
    ) {
        let entries = ops.into_iter().map(|ops| ops.into_iter().map(command).collect());
        let set_level = set_level(Level::OF_PROGRAM);
        check_batches(|engines| engines.directory(SHARD).expect("shard").0, &set_level, entries);
    }
}

#[test]
fn what_can_t_be_decided_is_refused() {
    let check =
        |op: SetDomain| check_directory(SHARD, MAP, &command(Op::SetDomain(op))).map_err(|rejected| rejected.detail);
    let of = |name: &str| SetDomain { name: name.to_owned(), ..SetDomain::default() };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let key = |bytes: usize| Some(DomainKey { sha256: vec![1; bytes].into(), created_ms: 1 });
    for right in [
        SetDomain { max_users: Some(3), message_age_ms: Some(LEAST_DOMAIN_AGE_MS), ..of("acme.example") },
        SetDomain { max_users: Some(0), message_age_ms: Some(0), closed: Some(true), ..of("") },
        SetDomain { report_age_ms: Some(MOST_DOMAIN_AGE_MS), ..of("acme.example") },
        SetDomain { add_key: key(32), remove_key: vec![2; 32].into(), ..of("bücher.example") },
        SetDomain { remove: true, ..of("") },
        SetDomain { cross_to: names(&["", "*", "b.example"]), part_from: names(&["c.example"]), ..of("acme.example") },
    ] {
        assert_eq!(check(right.clone()), Ok(()), "{right:?}");
    }
    for (why, wrong) in [
        ("nothing is to be set", of("acme.example")),
        ("not set as well", SetDomain { remove: true, closed: Some(true), ..of("acme.example") }),
        ("normal form", SetDomain { closed: Some(true), ..of("Acme.example") }),
        ("not counted", SetDomain { max_users: Some(3), ..of("") }),
        ("at least 1 minute", SetDomain { message_age_ms: Some(LEAST_DOMAIN_AGE_MS - 1), ..of("acme.example") }),
        ("reports are kept for 0", SetDomain { report_age_ms: Some(1), ..of("acme.example") }),
        ("at most 36600 days", SetDomain { message_age_ms: Some(MOST_DOMAIN_AGE_MS + 1), ..of("acme.example") }),
        ("always reach each other", SetDomain { cross_to: names(&["acme.example"]), ..of("acme.example") }),
        ("always reach each other", SetDomain { part_from: names(&[""]), ..of("") }),
        ("normal form", SetDomain { cross_to: names(&["B.example"]), ..of("acme.example") }),
        ("not up to 32", SetDomain { cross_to: vec!["*".to_owned(); 33], ..of("acme.example") }),
        ("32 bytes", SetDomain { add_key: key(31), ..of("acme.example") }),
        ("32 bytes", SetDomain { remove_key: vec![1; 33].into(), ..of("acme.example") }),
    ] {
        let refused = check(wrong).expect_err(why);
        assert!(refused.contains(why), "{refused}");
    }
    let elsewhere = ShardId { index: 1, ..SHARD };
    let set = SetDomain { closed: Some(true), ..of("acme.example") };
    let refused = check_directory(elsewhere, MAP, &command(Op::SetDomain(set))).expect_err("another shard");
    assert_eq!(refused.reason(), Reason::WrongShard);
}

#[test]
fn below_its_level_there_is_neither_a_domains_row_nor_an_account_of_a_domain() {
    let put = |user: &str, most_accounts| {
        let account = Some(Account { user: user.to_owned(), created_ms: 1, ..Account::default() });
        let mode = Mode::Ensure.into();
        command(Op::PutAccount(PutAccount { account, mode, numbered: true, revive: false, most_accounts }))
    };
    let in_its_shard = |user: &str| MAP.directory_of(&carillon_proto::UserId::new(user).expect("valid"));
    let admit = |user: &str, level, most| {
        admit_directory(in_its_shard(user), MAP, level, put(user, most)).map_err(|rejected| rejected.reason())
    };
    assert!(admit("ann", Level::RING_SLOTS, None).is_ok() && admit("ann@acme.example", Level::GROUPS, Some(1)).is_ok());
    assert_eq!(admit("ann", Level::RING_SLOTS, Some(0)), Err(Reason::Level));
    assert_eq!(admit("ann@acme.example", Level::RING_SLOTS, None), Err(Reason::Level));
    let set = SetDomain { name: "acme.example".into(), closed: Some(true), ..SetDomain::default() };
    let set = admit_directory(SHARD, MAP, Level::RING_SLOTS, command(Op::SetDomain(set)));
    assert_eq!(set.map_err(|rejected| rejected.reason()), Err(Reason::Level));
}

#[test]
fn the_number_of_domains_is_bounded() {
    let mut world = World::new();
    for number in 0..carillon_proto::limits::DOMAINS {
        let set = SetDomain { name: format!("d{number}.example"), closed: Some(true), ..SetDomain::default() };
        assert!(matches!(world.apply(&Op::SetDomain(set)), Outcome::Done(_)));
    }
    let more = SetDomain { name: "more.example".into(), closed: Some(true), ..SetDomain::default() };
    let refused = world.apply(&Op::SetDomain(more));
    let Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) }) = refused else { panic!("{refused:?}") };
    assert_eq!(rejected.reason(), Reason::Full);
    let known = SetDomain { name: "d7.example".into(), closed: Some(false), ..SetDomain::default() };
    assert!(matches!(world.apply(&Op::SetDomain(known)), Outcome::Done(_)));
}

#[test]
fn a_crossing_ends_for_both_whoever_named_the_other_one() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let cross = |name: &str, to: &[&str]| {
        Op::SetDomain(SetDomain { name: name.to_owned(), cross_to: names(to), ..SetDomain::default() })
    };
    let part = |name: &str, from: &[&str]| {
        Op::SetDomain(SetDomain { name: name.to_owned(), part_from: names(from), ..SetDomain::default() })
    };
    let mut world = World::new();
    let does = |world: &mut World, op: Op| match world.apply(&op) {
        Outcome::Done(_) => Ok(()),
        Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) }) => Err((rejected.reason(), rejected.detail)),
        other => panic!("{other:?}"),
    };
    let crossings = |world: &World| {
        let rows = world.shard.reader.registry().borrow().domains.all();
        rows.into_iter().map(|row| (row.name, row.crosses_to.join(" "))).collect::<Vec<_>>()
    };
    let is = |expected: &[(&str, &str)]| -> Vec<(String, String)> {
        expected.iter().map(|(name, to)| ((*name).to_owned(), (*to).to_owned())).collect()
    };
    does(&mut world, cross("a.example", &["c.example", "b.example", "b.example"])).expect("set");
    does(&mut world, cross("b.example", &["a.example", ""])).expect("set");
    assert_eq!(crossings(&world), is(&[("a.example", "b.example c.example"), ("b.example", " a.example")]));
    does(&mut world, part("b.example", &["a.example"])).expect("ended");
    assert_eq!(crossings(&world), is(&[("a.example", "c.example"), ("b.example", "")]));
    // By the other one's name, too.
    does(&mut world, part("c.example", &["a.example"])).expect("ended");
    assert_eq!(crossings(&world), is(&[("a.example", ""), ("b.example", ""), ("c.example", "")]));
    let (reason, why) = does(&mut world, part("c.example", &["a.example"])).expect_err("there is none");
    assert!(reason == Reason::NotFound && why.contains("does not cross to"), "{why}");
    does(&mut world, cross("a.example", &["*"])).expect("set");
    let (reason, why) = does(&mut world, part("c.example", &["a.example"])).expect_err("it would go on");
    assert!(reason == Reason::NotFound && why.contains("take \"*\" from it"), "{why}");
    does(&mut world, part("a.example", &["*"])).expect("ended");
    does(&mut world, cross("a.example", &["c.example"])).expect("set");
    let remove = SetDomain { name: "c.example".to_owned(), remove: true, ..SetDomain::default() };
    does(&mut world, Op::SetDomain(remove)).expect("removed");
    assert_eq!(crossings(&world), is(&[("a.example", ""), ("b.example", "")]));

    // Many.
    let others: Vec<String> = (0..=DOMAIN_CROSSINGS).map(|number| format!("d{number}.example")).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    does(&mut world, cross("a.example", &others[1..])).expect("as many as may be");
    assert_eq!(does(&mut world, cross("a.example", &others[..1])).expect_err("one more").0, Reason::Full);
    does(&mut world, cross("a.example", &others[1..2])).expect("is there already");
    let mut rows = 1;
    while (rows + 1) * DOMAIN_CROSSINGS <= CROSSINGS {
        does(&mut world, cross(&format!("e{rows}.example"), &others[1..])).expect("as many as may be");
        rows += 1;
    }
    let (reason, why) = does(&mut world, cross("f.example", &others[1..])).expect_err("too many in all");
    assert!(reason == Reason::Full && why.contains("in all"), "{why}");
    does(&mut world, part("a.example", &others[1..])).expect("ended");
    does(&mut world, cross("f.example", &others[1..])).expect("there is room");
}
