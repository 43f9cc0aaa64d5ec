mod commands;

use std::{cmp::Ordering, collections::BTreeMap};

use carillon_proto::{
    ShardId,
    pb::store::{
        Account, AccountChanged, AdvanceLeaseClock, DirectoryCommand, Done, Erasure, ListAccounts, ListSessions, Node,
        NodeKind, PutAccount, PutSession, RegisterNode, Registered, RenewLease, RevokeTokens, RevokedToken, Session,
        SessionPut, User, directory_command::Op, put_account::Mode, rejected::Reason, store_error::Why,
    },
    sessions::over,
};
use proptest::prelude::*;

use self::commands::*;
use super::*;
use crate::machine::{DirectoryMachine, DirectoryReader, Outcome};

const SHARD: ShardId = ShardId::REGISTRY;
const MINUTE_MS: u64 = 60_000;
const USERS: [&str; 3] = ["a", "ab", "b"];
const TOKENS: [&str; 3] = ["", "t1", "t2"];

#[derive(Default)]
struct Model {
    users: BTreeMap<String, (Account, BTreeMap<String, Session>)>,
    endings: BTreeMap<String, u64>,
    erasures: BTreeMap<String, Erasure>,
    /// Registration, lease, when it ends.
    nodes: Vec<(RegisterNode, u64, u64)>,
    /// Of the ring, by number.
    slots: Vec<Slot>,
    clock: u64,
    version: u64,
    ring_version: u64,
}

/// Of a slot of the ring.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Slot {
    None,
    Vacant,
    Held(u64),
}

/// An outcome without its texts.
#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "few at a time")]
enum Answer {
    Rejected(Reason),
    Other(Outcome),
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Error(error) => match error.why {
                Some(Why::Rejected(rejected)) => Self::Rejected(rejected.reason()),
                other => panic!("a machine answers {other:?}"),
            },
            other => Self::Other(other),
        }
    }
}

impl Model {
    fn apply(&mut self, at: u64, command: &DirectoryCommand) -> Answer {
        match command.op.as_ref().expect("an operation") {
            Op::PutAccount(op) => return self.put_account(at, op),
            Op::DeleteAccount(op) => {
                let Some((account, _)) = self.users.get_mut(&op.user) else {
                    return if op.time_ms == 0 { done() } else { Answer::Rejected(Reason::NotFound) };
                };
                match (op.time_ms, account.deleted) {
                    (0, _) => {
                        self.users.remove(&op.user);
                        return done();
                    }
                    (time_ms, true) if time_ms != account.deleted_ms => return Answer::Rejected(Reason::Gone),
                    (_, true) => {}
                    (deleted_ms, false) => {
                        account.scram = None;
                        account.last_seen_ms = 0;
                        account.remade = false;
                        account.reserved = false;
                        (account.incarnation, account.generation) = (at, at);
                        (account.deleted, account.deleted_ms) = (true, deleted_ms);
                        self.endings.insert(op.user.clone(), at);
                    }
                }
                return self.account_changed(&op.user);
            }
            Op::EraseAccount(op) => {
                let Some((account, _)) = self.users.get_mut(&op.user) else {
                    return Answer::Rejected(Reason::NotFound);
                };
                let is_new = self.erasures.get(&op.user).is_none_or(|of| of.incarnation != account.incarnation);
                if is_new {
                    if !account.deleted {
                        account.scram = None;
                        account.last_seen_ms = 0;
                        account.remade = false;
                        account.reserved = false;
                        (account.incarnation, account.generation) = (at, at);
                        (account.deleted, account.deleted_ms) = (true, op.time_ms);
                    }
                    let (user, incarnation) = (op.user.clone(), account.incarnation);
                    self.endings.insert(user.clone(), incarnation);
                    let erasure = Erasure { user: user.clone(), incarnation, ordered_ms: op.time_ms, done: false };
                    self.erasures.insert(user, erasure);
                }
                return self.account_changed(&op.user);
            }
            Op::AccountErased(op) => {
                if let Some(erasure) = self.erasures.get_mut(&op.user)
                    && (erasure.incarnation, erasure.done) == (op.incarnation, false)
                {
                    erasure.done = true;
                    self.endings.remove(&op.user);
                }
            }
            Op::RevokeTokens(op) => {
                let account = match self.account(&op.user) {
                    Ok(account) => account,
                    Err(reason) => return Answer::Rejected(reason),
                };
                account.tokens_from_ms = account.tokens_from_ms.max(op.before_ms);
                account.revoked.retain(|token| token.expires_ms > op.time_ms && token.id != op.id);
                if !op.id.is_empty() {
                    account.revoked.push(RevokedToken { id: op.id.clone(), expires_ms: op.expires_ms });
                }
                return self.account_changed(&op.user);
            }
            Op::EndSessions(op) => {
                let account = match self.account(&op.user) {
                    Ok(account) => account,
                    Err(reason) => return Answer::Rejected(reason),
                };
                if op.lease == 0 {
                    account.generation = at;
                    return self.account_changed(&op.user);
                }
                let sessions = self.users.get_mut(&op.user).map(|(_, sessions)| sessions).expect("seen above");
                let found = sessions.values_mut().find(|s| (s.lease, s.connection) == (op.lease, op.connection));
                let Some(session) = found else { return Answer::Rejected(Reason::NotFound) };
                session.ended = true;
                return self.account_changed(&op.user);
            }
            Op::InboxEnded(op) => {
                let is_erasing = self.is_erasing(&op.user);
                if !is_erasing && self.endings.get(&op.user).is_some_and(|ending| *ending <= op.incarnation) {
                    self.endings.remove(&op.user);
                }
            }
            Op::PutSession(op) => {
                let mut session = op.session.clone().expect("a session");
                let Some((account, sessions)) = self.users.get_mut(&session.user) else {
                    return Answer::Rejected(Reason::NotFound);
                };
                if account.reserved {
                    return Answer::Rejected(Reason::NotFound);
                }
                if session.by_token && !op.announced {
                    session.generation = account.generation;
                }
                let age = |session: &Session| (session.since_ms, session.lease, session.connection);
                let is_known = |session: &Session| session.instance != 0;
                let handle = |session: &Session| (session.lease, session.connection);
                let existing = sessions.get(&session.device).cloned();
                if over(account, &session).is_some() {
                    return Answer::Rejected(Reason::Gone);
                }
                let newer = existing.as_ref().is_none_or(|existing| {
                    let by_time = age(existing) <= age(&session)
                        || !op.announced && existing.since_ms > session.since_ms + MINUTE_MS;
                    let by_client = is_known(existing) && existing.instance == session.instance;
                    over(account, existing).is_some()
                        || match existing.attempt.cmp(&session.attempt) {
                            Ordering::Less if by_client => true,
                            Ordering::Greater if by_client => false,
                            _ => by_time,
                        }
                });
                let same = existing.as_ref().is_some_and(|existing| handle(existing) == handle(&session));
                if newer && same && existing.as_ref().is_some_and(|existing| existing.ended) {
                    return Answer::Rejected(Reason::Gone);
                }
                let bound = op.max_sessions as usize;
                if existing.is_none() && !op.announced && bound != 0 && sessions.len() >= bound {
                    return Answer::Rejected(Reason::Full);
                }
                if newer {
                    sessions.insert(session.device.clone(), session.clone());
                }
                let other = existing.filter(|_| !same);
                let (replaced, kept) = if newer { (other, None) } else { (None, other) };
                let (incarnation, generation) = (account.incarnation, session.generation);
                return Answer::Other(Outcome::SessionPut(SessionPut { replaced, kept, incarnation, generation }));
            }
            Op::DeleteSession(op) => {
                if let Some((account, sessions)) = self.users.get_mut(&op.user) {
                    let is_it = |s: &&Session| (s.lease, s.connection) == (op.lease, op.connection);
                    let ended = sessions.get(&op.device).filter(is_it).cloned();
                    if ended.is_some() {
                        sessions.remove(&op.device);
                    }
                    let minute = |ms: u64| ms / MINUTE_MS * MINUTE_MS;
                    let of_it = |generation: u64| !account.deleted && generation >= account.incarnation;
                    match ended {
                        _ if op.time_ms >= MINUTE_MS && of_it(op.generation) => account.last_seen_ms = minute(op.time_ms),
                        Some(ended) if op.time_ms == 0 && of_it(ended.generation) => {
                            account.last_seen_ms = account.last_seen_ms.max(minute(ended.since_ms));
                        }
                        _ => {}
                    }
                }
            }
            Op::RegisterNode(op) => {
                let mut same =
                    self.nodes.iter().filter(|(node, _, _)| (node.kind, &node.nonce) == (op.kind, &op.nonce));
                if let Some((_, lease, _)) = same.find(|(node, _, _)| node.address == op.address) {
                    return Answer::Other(Outcome::Registered(Registered { lease: *lease }));
                }
                self.remove(at, |(node, _, _)| {
                    !op.address.is_empty() && (node.kind, &node.address) == (op.kind, &op.address)
                });
                self.nodes.push((op.clone(), at, self.clock + u64::from(op.ttl_ms)));
                self.changed(at, op.kind());
                if op.kind() == NodeKind::Router {
                    let first = self.slots.iter().all(|slot| *slot == Slot::None);
                    if let Some(vacant) = self.slots.iter().position(|slot| *slot == Slot::Vacant) {
                        self.slots[vacant] = Slot::Held(at);
                    } else if first {
                        self.add_slot(at);
                    }
                }
                return Answer::Other(Outcome::Registered(Registered { lease: at }));
            }
            Op::RenewLease(op) => {
                let clock = self.clock;
                let Some((node, _, ends)) = self.nodes.iter_mut().find(|(_, lease, _)| *lease == op.lease) else {
                    return Answer::Rejected(Reason::NotFound);
                };
                *ends = clock + u64::from(node.ttl_ms);
            }
            Op::AddRingSlot(op) => {
                if self.waiting().contains(&op.lease) {
                    self.add_slot(op.lease);
                    self.changed(at, NodeKind::Router);
                }
            }
            Op::DropRingSlot(op) => {
                if let Some(slot @ Slot::Vacant) = self.slots.get_mut(op.slot as usize) {
                    *slot = Slot::None;
                    self.version = at;
                }
            }
            Op::DeregisterNode(op) => self.remove(at, |(_, lease, _)| *lease == op.lease),
            Op::AdvanceLeaseClock(op) => {
                self.clock += u64::from(op.elapsed_ms);
                let clock = self.clock;
                self.remove(at, |(_, _, ends)| *ends <= clock);
            }
            // See the tests of levels and of the cluster's rows.
            Op::SetLevel(_)
            | Op::FoundCluster(_)
            | Op::SetStorageNode(_)
            | Op::RaiseLevel(_)
            | Op::PlaceReplica(_)
            | Op::RemoveReplica(_)
            | Op::ForgetReplica(_)
            | Op::AddStorageNode(_)
            | Op::SetStorageNodeState(_)
            | Op::MoveReplica(_)
            | Op::ReplicaJoined(_)
            | Op::SetReplicaVotes(_)
            | Op::DropStorageNode(_)
            | Op::Rebalance(_)
            | Op::PreferReplica(_)
            // And those of contacts and privacy.
            | Op::ChangeContact(_)
            | Op::SetDomain(_)
            | Op::ChangePrivacy(_) => unreachable!("not generated"),
        }
        done()
    }

    fn is_erasing(&self, user: &str) -> bool {
        self.erasures.get(user).is_some_and(|erasure| !erasure.done)
    }

    fn put_account(&mut self, at: u64, op: &PutAccount) -> Answer {
        let given = op.account.clone().expect("an account");
        if self.is_erasing(&given.user) {
            return Answer::Rejected(Reason::Gone);
        }
        let at = if op.numbered { at } else { 0 };
        let remade = self.users.get(&given.user).is_some_and(|(account, _)| account.deleted);
        let fresh = |tokens_from_ms, revoked| Account {
            user: given.user.clone(),
            scram: given.scram.clone(),
            created_ms: given.created_ms,
            reserved: given.reserved,
            incarnation: at,
            generation: at,
            tokens_from_ms,
            revoked,
            remade,
            ..Account::default()
        };
        let mode = op.mode();
        match self.users.get_mut(&given.user).map(|(account, _)| account) {
            None => {
                self.users.insert(given.user.clone(), (fresh(0, Vec::new()), BTreeMap::new()));
            }
            Some(account) if account.deleted => match mode {
                Mode::Ensure if !op.revive => return Answer::Rejected(Reason::Gone),
                Mode::Ensure => *account = fresh(account.tokens_from_ms, account.revoked.clone()),
                Mode::Create | Mode::Replace => {
                    let from = account.tokens_from_ms.max((given.created_ms / 1000 + 1) * 1000);
                    *account = fresh(from, account.revoked.clone());
                }
            },
            Some(account) => match mode {
                Mode::Ensure => account.reserved &= given.reserved,
                Mode::Create if account.reserved => {
                    account.reserved = false;
                    (account.scram, account.created_ms) = (given.scram.clone(), given.created_ms);
                }
                Mode::Create if (&account.scram, account.created_ms) != (&given.scram, given.created_ms) => {
                    return Answer::Rejected(Reason::Exists);
                }
                Mode::Create => {}
                Mode::Replace => {
                    account.reserved = false;
                    if account.scram != given.scram || given.scram.is_none() {
                        account.scram = given.scram.clone();
                        account.generation = if op.numbered { at } else { account.generation };
                    }
                }
            },
        }
        if mode == Mode::Ensure { done() } else { self.account_changed(&given.user) }
    }

    fn account(&mut self, user: &str) -> Result<&mut Account, Reason> {
        match self.users.get_mut(user) {
            None => Err(Reason::NotFound),
            Some((account, _)) if account.deleted => Err(Reason::Gone),
            Some((account, _)) => Ok(account),
        }
    }

    fn account_changed(&self, user: &str) -> Answer {
        let (account, sessions) = &self.users[user];
        let over = sessions.values().filter(|session| over(account, session).is_some()).cloned().collect();
        Answer::Other(Outcome::AccountChanged(AccountChanged { account: Some(account.clone()), over }))
    }

    fn remove(&mut self, at: u64, which: impl Fn(&(RegisterNode, u64, u64)) -> bool) {
        let gone: Vec<u64> = self.nodes.iter().filter(|node| which(node)).map(|(_, lease, _)| *lease).collect();
        for lease in gone {
            let place = self.nodes.iter().position(|(_, other, _)| *other == lease).expect("found before");
            let (node, ..) = self.nodes.remove(place);
            let heir = self.waiting().first().map_or(Slot::Vacant, |lease| Slot::Held(*lease));
            if let Some(slot) = self.slots.iter_mut().find(|slot| **slot == Slot::Held(lease)) {
                *slot = heir;
            }
            self.changed(at, node.kind());
        }
    }

    /// Routers without a slot, the oldest first.
    fn waiting(&self) -> Vec<u64> {
        let routers = self.nodes.iter().filter(|(node, ..)| node.kind() == NodeKind::Router);
        routers.map(|(_, lease, _)| *lease).filter(|lease| !self.slots.contains(&Slot::Held(*lease))).collect()
    }

    fn add_slot(&mut self, lease: u64) {
        match self.slots.iter_mut().find(|slot| **slot == Slot::None) {
            Some(slot) => *slot = Slot::Held(lease),
            None => self.slots.push(Slot::Held(lease)),
        }
    }

    fn changed(&mut self, at: u64, kind: NodeKind) {
        self.version = at;
        if kind == NodeKind::Router {
            self.ring_version = at;
        }
    }
}

fn done() -> Answer {
    Answer::Other(Outcome::Done(Done {}))
}

/// All pages together.
fn list(reader: &DirectoryReader, ending: bool) -> Vec<String> {
    let (mut all, mut after_user) = (Vec::new(), String::new());
    loop {
        let page =
            reader.accounts(&ListAccounts { after_user, limit: 1, ending, domain: String::new() }).expect("reads");
        all.extend(page.accounts.into_iter().map(|account| account.user));
        if page.next_user.is_empty() {
            return all;
        }
        after_user = page.next_user;
    }
}

fn list_sessions(reader: &DirectoryReader) -> Vec<Session> {
    let (mut all, mut list) = (Vec::new(), ListSessions { limit: 2, ..ListSessions::default() });
    loop {
        let page = reader.sessions(&list).expect("reads");
        all.extend(page.sessions);
        if page.next_user.is_empty() {
            return all;
        }
        (list.after_user, list.after_device) = (page.next_user, page.next_device);
    }
}

fn check_reads(reader: &DirectoryReader, model: &Model) {
    assert_eq!(list(reader, false), model.users.keys().cloned().collect::<Vec<_>>());
    let left = |user: &&String| model.users.contains_key(*user);
    assert_eq!(list(reader, true), model.endings.keys().filter(left).cloned().collect::<Vec<_>>());
    let sessions: Vec<_> = model.users.values().flat_map(|(_, sessions)| sessions.values().cloned()).collect();
    assert_eq!(list_sessions(reader), sessions);
    for user in USERS {
        let read = reader.user(user).expect("reads");
        let expected = model.users.get(user).map_or_else(User::default, |(account, sessions)| User {
            account: Some(account.clone()),
            sessions: sessions.values().cloned().collect(),
            ..User::default()
        });
        assert_eq!(read, User { erasure: model.erasures.get(user).cloned(), ..expected });
    }
    let registry = reader.registry();
    let registry = registry.borrow();
    assert_eq!((registry.version, registry.ring_version), (model.version, model.ring_version));
    let node = |(node, lease, _): &(RegisterNode, u64, u64)| Node {
        lease: *lease,
        kind: node.kind,
        address: node.address.clone(),
        slot: model.slots.iter().position(|slot| *slot == Slot::Held(*lease)).map(|slot| slot as u32),
    };
    assert_eq!(registry.nodes, model.nodes.iter().map(node).collect::<Vec<_>>());
    let vacant = model.slots.iter().enumerate().filter(|(_, slot)| **slot == Slot::Vacant);
    assert_eq!(registry.vacant_slots, vacant.map(|(number, _)| number as u32).collect::<Vec<_>>());
}

fn entries() -> impl Strategy<Value = Vec<Vec<DirectoryCommand>>> {
    proptest::collection::vec(proptest::collection::vec(command(), 0..8), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_directory_shard_does_what_its_model_does(steps in proptest::collection::vec(step(entries()), 1..25)) {
        let mut shard = OpenShard::new(|engines| engines.directory(SHARD).expect("shard"), &set_level());
        let (mut model, mut index) = (Model::default(), 0);
        for step in steps {
            match step {
                Step::Apply(commands) => {
                    let first = index + 1;
                    let entries: Vec<_> =
                        commands.iter().map(|commands| { index += 1; entry(index, commands) }).collect();
                    let outcomes = shard.machine.apply(&entries, &index.to_be_bytes()).expect("applies");
                    for ((outcomes, commands), index) in outcomes.into_iter().zip(&commands).zip(first..) {
                        prop_assert_eq!(outcomes.len(), commands.len());
                        for ((outcome, command), place) in outcomes.into_iter().zip(commands).zip(0..) {
                            prop_assert_eq!(Answer::from(outcome), model.apply(index * 64 + place, command));
                        }
                    }
                }
                Step::Reopen => shard = shard.reopened(),
                Step::SnapshotAndRestore => shard = shard.restored_from_its_snapshot(),
            }
            prop_assert_eq!(applied(&shard.machine), index);
            check_reads(&shard.reader, &model);
        }
    }

    #[test]
    fn batch_boundaries_make_no_difference(
        commands in proptest::collection::vec(proptest::collection::vec(command(), 0..8), 1..30),
    ) {
        let dir = tempfile::tempdir().expect("folder");
        let engines = [open(&dir.path().join("a")), open(&dir.path().join("b"))];
        let mut machines =
            engines.each_ref().map(|engines| at_level(engines.directory(SHARD).expect("shard").0, &set_level()));
        let entries: Vec<_> = commands.iter().zip(1..).map(|(commands, index)| entry(index, commands)).collect();
        let one_by_one: Vec<_> =
            entries.chunks(1).flat_map(|entry| machines[0].apply(entry, &[0; 8]).expect("applies")).collect();
        let by_seven: Vec<_> =
            entries.chunks(7).flat_map(|entry| machines[1].apply(entry, &[0; 8]).expect("applies")).collect();
        prop_assert_eq!(one_by_one, by_seven);
        let [a, b] = &mut machines;
        prop_assert_eq!(records(a), records(b));
    }
}

fn machine(dir: &Path) -> (DirectoryMachine, DirectoryReader) {
    let (machine, reader) = open(dir).directory(SHARD).expect("shard");
    (at_level(machine, &set_level()), reader)
}

#[test]
fn a_watcher_hears_of_a_change_and_not_of_a_renewal() {
    let dir = tempfile::tempdir().expect("folder");
    let (mut machine, reader) = machine(dir.path());
    let mut watching = reader.registry();
    watching.mark_unchanged();
    let node =
        RegisterNode { kind: NodeKind::Gateway.into(), ttl_ms: 10, nonce: vec![1; 16].into(), ..Default::default() };
    let mut apply = |index, op| {
        machine
            .apply(&[entry(index, &[DirectoryCommand { op: Some(op) }])], &[0; 8])
            .expect("applies")
            .remove(0)
            .remove(0)
    };
    assert_eq!(apply(1, Op::RegisterNode(node)), Outcome::Registered(Registered { lease: 64 }));
    assert!(watching.has_changed().expect("open"));
    assert_eq!(watching.borrow_and_update().nodes[0].lease, 64);
    apply(2, Op::RenewLease(RenewLease { lease: 64 }));
    apply(3, Op::AdvanceLeaseClock(AdvanceLeaseClock { elapsed_ms: 9 }));
    assert!(!watching.has_changed().expect("open"));
    apply(4, Op::AdvanceLeaseClock(AdvanceLeaseClock { elapsed_ms: 1 }));
    assert!(watching.borrow_and_update().nodes.is_empty());
}

#[test]
fn of_many_revoked_tokens_only_so_many_are_kept_and_those_that_expired_make_room() {
    let dir = tempfile::tempdir().expect("folder");
    let (mut machine, _reader) = machine(dir.path());
    let mut index = 0;
    let mut apply = |op| {
        index += 1;
        let command = DirectoryCommand { op: Some(op) };
        Answer::from(machine.apply(&[entry(index, &[command])], &[0; 8]).expect("applies").remove(0).remove(0))
    };
    let account = Some(Account { user: "a".into(), ..Account::default() });
    apply(Op::PutAccount(PutAccount { account, numbered: true, ..PutAccount::default() }));
    let revoke = |id: u32, time_ms| {
        let (user, id) = ("a".into(), format!("token{id}"));
        Op::RevokeTokens(RevokeTokens { user, id, expires_ms: 10, time_ms, ..RevokeTokens::default() })
    };
    for id in 0..64 {
        assert!(matches!(apply(revoke(id, 1)), Answer::Other(Outcome::AccountChanged(_))), "{id}");
    }
    assert_eq!(apply(revoke(64, 1)), Answer::Rejected(Reason::Full));
    assert!(matches!(apply(revoke(7, 1)), Answer::Other(_)), "it is revoked already");
    let Answer::Other(Outcome::AccountChanged(changed)) = apply(revoke(64, 10)) else { panic!("refused") };
    assert_eq!(changed.account.expect("an account").revoked.len(), 1);
}

#[test]
fn rows_of_sessions_whose_gateways_have_ended_are_found_in_bounded_looks() {
    let dir = tempfile::tempdir().expect("folder");
    let (mut machine, reader) = machine(dir.path());
    let account = Some(Account { user: "a".into(), ..Account::default() });
    let put = |device: u32| {
        let session = Session {
            user: "a".into(),
            device: format!("d{device}"),
            lease: 1 + u64::from(device % 2),
            ..Session::default()
        };
        Op::PutSession(PutSession { session: Some(session), ..PutSession::default() })
    };
    let account = Op::PutAccount(PutAccount { account, ..PutAccount::default() });
    let commands: Vec<_> =
        [account].into_iter().chain((0..20).map(put)).map(|op| DirectoryCommand { op: Some(op) }).collect();
    machine.apply(&[entry(1, &commands)], &[0; 8]).expect("applies");
    let (mut found, mut after) = (Vec::new(), Vec::new());
    loop {
        let (some, next) = reader.of_ended(&after, |lease| lease == 1, 3).expect("reads");
        assert!(some.len() <= 3);
        found.extend(some);
        after = next;
        if after.is_empty() {
            break;
        }
    }
    assert_eq!(found.len(), 10);
    assert!(found.iter().all(|session| session.lease == 1));
}
