//! The rule of a group by which its messages expire, against a model; the domain's limit of members, and members from beyond its border.

use std::collections::BTreeMap;

use carillon_proto::{
    Level, ShardId, ShardKind,
    pb::{
        client::{Content, Envelope, Recipient, Text, content, recipient::To},
        store::{
            AdvanceClock, Append, Appended, ChangeGroup, ChangeMembers, CreateGroup, DeleteGroup, EndTimeline,
            ExpireMessages, GroupSettings, Header, ListGroups, Person, ReadOutbox, ReadTimeline, Reference, Role,
            SetGroup, SetLevel, SettleOutbox, StoreError, TimelineCommand, TimelineKey, append::Admission,
            change_group::Change, change_members::Change as OfMembers, header, outbox_read, rejected::Reason,
            settle_outbox, store_error::Why, timeline_command::Op, timeline_key::Kind,
        },
    },
};
use proptest::prelude::*;

use super::*;
use crate::machine::{Ages, Outcome, Retention, TimelineMachine, TimelineReader};

const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 1 };
const OWNER: &str = "a";
const WRITERS: [&str; 2] = ["a", "b"];
/// Milliseconds since 1970 when the shard's clock begins; here both go at the same pace.
const BEGAN_MS: u64 = 1_700_000_000_000;

fn group() -> Option<TimelineKey> {
    Some(TimelineKey { kind: Kind::Group.into(), owner: "g".into() })
}

fn command(op: Op) -> TimelineCommand {
    TimelineCommand { op: Some(op) }
}

fn set_level() -> TimelineCommand {
    command(Op::SetLevel(SetLevel { level: Level::OF_PROGRAM.0 }))
}

fn id(number: u8) -> String {
    format!("{number:026}")
}

fn person(user: &str) -> Person {
    Person { user: user.to_owned(), incarnation: 1 }
}

#[derive(Debug, Clone)]
enum Act {
    /// By an owner or by somebody else; 0: none.
    Rule(usize, u64),
    Say {
        writer: usize,
        number: u8,
        after_ms: Option<u64>,
        poll: bool,
    },
    Edit(u8, u8),
    Tick(u32),
    Expire,
}

fn act() -> impl Strategy<Value = Act> {
    let after_ms = || proptest::option::of(1..30u64);
    prop_oneof![
        2 => (0..2usize, prop_oneof![1 => Just(0), 3 => 1..20u64]).prop_map(|(by, after_ms)| Act::Rule(by, after_ms)),
        8 => (0..2usize, 0..30u8, after_ms(), any::<bool>())
            .prop_map(|(writer, number, after_ms, poll)| Act::Say { writer, number, after_ms, poll }),
        3 => (0..30u8, 30..60u8).prop_map(|(target, number)| Act::Edit(target, number)),
        3 => (1..8u32).prop_map(Act::Tick),
        2 => Just(Act::Expire),
    ]
}

fn append(by: &str, number: u8, time_ms: u64, header: Option<Header>) -> Append {
    let text = Text { body: format!("secret {number}.") };
    let envelope = Envelope {
        id: id(number),
        sender: by.to_owned(),
        to: Some(Recipient { to: Some(To::Group("g".to_owned())) }),
        time_ms,
        content: Some(Content { body: Some(content::Body::Text(text)), ..Content::default() }),
        expires_at_ms: header.as_ref().map_or(0, |header| header.expires_at_ms),
        ..Envelope::default()
    };
    Append {
        timeline: group(),
        duplicate_key: vec![number; 16].into(),
        time_ms,
        envelope: envelope.encode_to_vec().into(),
        new_epoch: 5,
        sender: by.to_owned().into(),
        sender_generation: 1 << 40,
        sender_incarnation: 1,
        header: header.map(Box::new),
        ..Append::default()
    }
}

/// The fate of a message.
#[derive(Debug, Clone, Copy)]
struct Said {
    seq: u64,
    /// By the times of envelopes; 0: without end.
    expires_at_ms: u64,
    by_rule: bool,
    writer: usize,
    gone: bool,
    is_edit: bool,
}

struct World {
    shard: OpenShard<TimelineMachine, TimelineReader>,
    index: u64,
    clock_ms: u64,
    rule_ms: u64,
    changes: u8,
    /// By number.
    said: BTreeMap<u8, Said>,
}

impl World {
    fn new() -> Self {
        let shard = OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
        let mut world = Self { shard, index: 0, clock_ms: 0, rule_ms: 0, changes: 60, said: BTreeMap::new() };
        let members = vec![person("b")];
        let create = CreateGroup { settings: Some(GroupSettings::default()), members, owner: None };
        assert!(matches!(world.change(OWNER, Change::Create(create), 0), Outcome::Appended(_)));
        world
    }

    fn apply(&mut self, op: Op) -> Outcome {
        self.index += 1;
        let entries = [entry(self.index, &[command(op)])];
        self.shard.machine.apply(&entries, &self.index.to_be_bytes()).expect("applies").remove(0).remove(0)
    }

    fn now_ms(&self) -> u64 {
        BEGAN_MS + self.clock_ms
    }

    fn change(&mut self, by: &str, change: Change, most_members: u32) -> Outcome {
        self.changes += 1;
        let append = append(by, self.changes, self.now_ms(), None);
        self.apply(Op::ChangeGroup(ChangeGroup {
            append: Some(append),
            by_operator: false,
            change: Some(change),
            most_members,
        }))
    }

    fn untold(&self) -> Vec<outbox_read::Row> {
        self.shard.reader.outbox(&ReadOutbox::default()).expect("reads").rows
    }

    fn settle(&mut self, rows: Vec<outbox_read::Row>) {
        let verdict = settle_outbox::Verdict::Done.into();
        let settled = |row: outbox_read::Row| settle_outbox::Settled {
            index: row.index,
            number: row.number,
            verdict,
            ..settle_outbox::Settled::default()
        };
        self.apply(Op::SettleOutbox(SettleOutbox { rows: rows.into_iter().map(settled).collect() }));
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Rule(by, after_ms) => {
                // More than a byte names.
                if self.changes == u8::MAX {
                    return;
                }
                let set = SetGroup { expire_after_ms: Some(after_ms), ..SetGroup::default() };
                let outcome = self.change(WRITERS[by], Change::Set(set), 0);
                if WRITERS[by] == OWNER {
                    assert!(matches!(outcome, Outcome::Appended(_)), "{outcome:?}");
                    self.rule_ms = after_ms;
                } else {
                    assert_eq!(reason(&outcome), Some(Reason::Forbidden), "a member sets no rule");
                }
            }
            Act::Say { writer, number, after_ms, poll } => self.say(writer, number, after_ms, poll),
            Act::Edit(target, number) => self.edit(target, number),
            Act::Tick(elapsed_ms) => {
                self.clock_ms += u64::from(elapsed_ms);
                self.apply(Op::AdvanceClock(AdvanceClock { elapsed_ms }));
            }
            Act::Expire => {
                self.apply(Op::ExpireMessages(ExpireMessages { until_ms: u64::MAX }));
                let now_ms = self.now_ms();
                for said in self.said.values_mut().filter(|said| said.expires_at_ms != 0) {
                    said.gone |= said.expires_at_ms <= now_ms;
                }
            }
        }
    }

    fn say(&mut self, writer: usize, number: u8, after_ms: Option<u64>, poll: bool) {
        let own_ms = after_ms.map_or(0, |after_ms| self.now_ms() + after_ms);
        let header = Header { countable: true, expires_at_ms: own_ms, ..Header::default() };
        // With a header of its own, and without one.
        let header = (own_ms != 0 || poll).then_some(header);
        let outcome = self.apply(Op::Append(append(WRITERS[writer], number, self.now_ms(), header)));
        let Outcome::Appended(Appended { seq, first_envelope, expires_at_ms, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        if let Some(known) = self.said.get(&number) {
            // A repeat gets its first answer, whatever the rule is by now.
            let by_rule_ms = if known.by_rule { known.expires_at_ms } else { 0 };
            assert!((seq, expires_at_ms) == (known.seq, by_rule_ms) || known.gone || known.is_edit, "{known:?}");
            let first = Envelope::decode(first_envelope).expect("decodes");
            assert_eq!(first.expires_at_ms, known.expires_at_ms);
            return;
        }
        let by_rule_ms = if self.rule_ms == 0 { u64::MAX } else { self.now_ms() + self.rule_ms };
        let ends_ms = if own_ms == 0 { by_rule_ms } else { own_ms.min(by_rule_ms) };
        let ends_ms = if ends_ms == u64::MAX { 0 } else { ends_ms };
        assert_eq!(expires_at_ms, if ends_ms == own_ms { 0 } else { ends_ms }, "{own_ms} by {}", self.rule_ms);
        let by_rule = ends_ms != own_ms;
        let said = Said { seq, expires_at_ms: ends_ms, by_rule, writer, gone: false, is_edit: false };
        self.said.insert(number, said);
    }

    /// As a client makes it: it says the end of its message, as the envelope has it.
    fn edit(&mut self, target: u8, number: u8) {
        let Some(of) = self.said.get(&target).copied().filter(|_| !self.said.contains_key(&number)) else { return };
        let key = vec![target; 16].into();
        let reference = Reference { id: id(target), key, by_sender: true, seq: of.seq };
        let edit = |expires_at_ms| Header {
            kind: header::Kind::Edit.into(),
            refers_to: Some(reference.clone()),
            expires_at_ms,
            ..Header::default()
        };
        let writer = WRITERS[of.writer];
        let is_over = of.expires_at_ms != 0 && of.expires_at_ms <= self.now_ms();
        let longer = self.apply(Op::Append(append(writer, number, self.now_ms(), Some(edit(of.expires_at_ms + 1)))));
        assert!(reason(&longer).is_some(), "an edit does not prolong its message");
        let outcome = self.apply(Op::Append(append(writer, number, self.now_ms(), Some(edit(of.expires_at_ms)))));
        match outcome {
            Outcome::Appended(Appended { seq, expires_at_ms: 0, .. }) => {
                assert!(!is_over, "of what is over nothing is said");
                self.said.insert(number, Said { seq, is_edit: true, ..of });
            }
            other => assert!(is_over && reason(&other) == Some(Reason::NotFound), "{other:?}"),
        }
    }

    fn check(&self) {
        let read = ReadTimeline { timeline: group(), reader: Some(person(OWNER)), ..ReadTimeline::default() };
        let page = self.shard.reader.read(&read).expect("reads");
        for (number, said) in &self.said {
            let entry = page.entries.iter().find(|entry| entry.seq == said.seq).expect("is there");
            let envelope = Envelope::decode(entry.envelope.clone()).expect("decodes");
            assert_eq!((&envelope.id, envelope.expires_at_ms), (&id(*number), said.expires_at_ms), "{said:?}");
            assert_eq!(envelope.erased, said.gone, "{number}: {said:?}");
        }
    }
}

fn reason(outcome: &Outcome) -> Option<Reason> {
    match outcome {
        Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) }) => Some(rejected.reason()),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_message_of_a_group_expires_by_itself_or_by_the_rule_whichever_is_earlier(
        steps in proptest::collection::vec(step(proptest::collection::vec(proptest::collection::vec(act(), 0..6), 1..4)), 1..16),
    ) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Apply(acts) => acts.iter().flatten().for_each(|act| world.act(act)),
                Step::Reopen => world.shard = world.shard.reopened(),
                Step::SnapshotAndRestore => world.shard = world.shard.restored_from_its_snapshot(),
            }
            world.check();
        }
    }
}

#[test]
fn a_message_that_can_t_be_emptied_is_not_taken_where_messages_expire() {
    let mut world = World::new();
    let broken = |number: u8| {
        let append = append(OWNER, number, BEGAN_MS, None);
        Op::Append(Append { envelope: vec![0x3a, 9, 1].into(), ..append })
    };
    assert!(matches!(world.apply(broken(1)), Outcome::Appended(_)), "nothing looks into it");
    world.act(&Act::Rule(0, 10));
    assert_eq!(reason(&world.apply(broken(2))), Some(Reason::Invalid));
    // The first one is a message like any other.
    assert!(matches!(world.apply(broken(1)), Outcome::Appended(Appended { seq: 2, .. })));
}

#[test]
fn a_change_that_makes_a_group_larger_than_its_domain_allows_is_refused_and_no_other() {
    let mut world = World::new();
    let members = |kind: OfMembers, users: &[&str]| {
        let users = users.iter().map(|user| person(user)).collect();
        Change::Members(ChangeMembers { change: kind.into(), users, ..ChangeMembers::default() })
    };
    let full = world.change(OWNER, members(OfMembers::Add, &["c", "d"]), 3);
    let Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) }) = &full else { panic!("{full:?}") };
    assert_eq!(rejected.reason(), Reason::Full);
    assert!(rejected.detail.contains("3 members"), "{}", rejected.detail);
    let is_done = |outcome: Outcome| matches!(outcome, Outcome::Appended(_));
    assert!(is_done(world.change(OWNER, members(OfMembers::Add, &["c"]), 3)));
    assert!(is_done(world.change(OWNER, members(OfMembers::Add, &["d", "e"]), 0)), "without a limit");
    // The limit has come down since.
    let role = |role: Role, user: &str| {
        let users = vec![person(user)];
        let change = OfMembers::Role.into();
        Change::Members(ChangeMembers { change, users, role: role.into(), ..ChangeMembers::default() })
    };
    assert!(is_done(world.change(OWNER, role(Role::Admin, "b"), 2)));
    assert!(is_done(world.change(OWNER, members(OfMembers::Remove, &["e"]), 2)));
    assert!(is_done(world.change(OWNER, members(OfMembers::Invite, &["f"]), 2)));
    assert_eq!(reason(&world.change(OWNER, members(OfMembers::Add, &["e"]), 2)), Some(Reason::Full));
    assert_eq!(reason(&world.change("f", members(OfMembers::Join, &["f"]), 2)), Some(Reason::Full));
    let large =
        CreateGroup { settings: Some(GroupSettings::default()), members: vec![person("b"), person("c")], owner: None };
    let op = |most_members| {
        let append = Append {
            timeline: Some(TimelineKey { owner: "h".into(), ..group().expect("some") }),
            ..append(OWNER, 200, BEGAN_MS, None)
        };
        let change = Some(Change::Create(large.clone()));
        Op::ChangeGroup(ChangeGroup { append: Some(append), by_operator: false, change, most_members })
    };
    assert_eq!(reason(&world.apply(op(2))), Some(Reason::Full));
    assert!(is_done(world.apply(op(3))));
    // A repeat gets its first answer, whatever the limit is by now.
    assert!(is_done(world.apply(op(1))));
}

#[test]
fn groups_are_listed_by_domain_as_long_as_they_live() {
    let mut world = World::new();
    let names = ["a@acme.example", "b@acme.example", "c", "d@b.example", "e@acme.example.b"];
    let change = |world: &mut World, name: &str, change: Change| {
        world.changes += 1;
        let timeline = Some(TimelineKey { kind: Kind::Group.into(), owner: name.to_owned().into() });
        let append = Append { timeline, ..append(OWNER, world.changes, 7, None) };
        let op = ChangeGroup { append: Some(append), by_operator: false, change: Some(change), most_members: 0 };
        assert!(matches!(world.apply(Op::ChangeGroup(op)), Outcome::Appended(_)));
    };
    for name in names {
        let settings = Some(GroupSettings { name: format!("The {name}"), open: true, ..GroupSettings::default() });
        change(&mut world, name, Change::Create(CreateGroup { settings, members: Vec::new(), owner: None }));
    }
    let list = |world: &World, domain: Option<&str>, after: &str, limit: u32| {
        let op = ListGroups { domain: domain.map(str::to_owned), after: after.to_owned(), limit };
        let list = world.shard.reader.groups(&op).expect("reads");
        (list.groups.iter().map(|row| row.group.clone()).collect::<Vec<_>>(), list.complete)
    };
    // `g` is there from the beginning.
    let all = ["c", "g", "a@acme.example", "b@acme.example", "e@acme.example.b", "d@b.example"].map(str::to_owned);
    assert_eq!(list(&world, None, "", 0), (all.to_vec(), true));
    assert_eq!(list(&world, None, "g", 2), (all[2..4].to_vec(), false));
    assert_eq!(list(&world, Some("acme.example"), "", 0), (all[2..4].to_vec(), true));
    assert_eq!(list(&world, Some("acme.example"), "", 1), (all[2..3].to_vec(), false));
    assert_eq!(list(&world, Some("acme.example"), "a@acme.example", 1), (all[3..4].to_vec(), true));
    assert_eq!(list(&world, Some(""), "", 0), (all[..2].to_vec(), true));
    // A place in another domain is before or behind all.
    assert_eq!(list(&world, Some("acme.example"), "c", 0), (all[2..4].to_vec(), true));
    assert_eq!(list(&world, Some("acme.example"), "d@b.example", 0), (Vec::new(), true));
    let row =
        world.shard.reader.groups(&ListGroups { limit: 1, ..ListGroups::default() }).expect("reads").groups.remove(0);
    let row = row.row.expect("has one");
    let name = GroupSettings { name: "The c".to_owned(), ..GroupSettings::default() };
    assert_eq!((row.settings, row.members, row.owners, row.created_ms), (Some(name), 1, 1, 7));
    change(&mut world, "a@acme.example", Change::Delete(DeleteGroup {}));
    let leave = ChangeMembers { users: vec![person(OWNER)], ..ChangeMembers::default() };
    let leave = ChangeMembers { change: OfMembers::Leave.into(), ..leave };
    change(&mut world, "b@acme.example", Change::Members(leave));
    world.shard = world.shard.restored_from_its_snapshot();
    assert_eq!(list(&world, Some("acme.example"), "", 0), (Vec::new(), true));
}

#[test]
fn what_is_left_of_a_group_stays_until_its_changes_are_told() {
    let mut world = World::new();
    world.apply(Op::EndTimeline(EndTimeline { timeline: group(), incarnation: 1 << 40 }));
    let rows = world.untold();
    assert!(!rows.is_empty() && rows.iter().all(|row| !row.envelope.is_empty()), "{rows:?}");
    assert_eq!(world.shard.reader.garbage(9).expect("reads"), []);
    world.settle(rows);
    assert_eq!(world.shard.reader.garbage(9).expect("reads").len(), 1);
}

#[test]
fn retention_leaves_a_change_in_the_log_until_it_is_told() {
    let mut world = World::new();
    let says = |world: &mut World, numbers: std::ops::Range<u8>| {
        numbers.for_each(|number| world.say(0, number, None, false));
        world.act(&Act::Tick(1));
    };
    let retention = Retention { max_count: 1, ..Retention::default() };
    let due = |world: &World| -> Vec<u64> {
        let (trims, _) = world.shard.reader.due_trims(&[], &retention, &Ages::default(), 9).expect("reads");
        trims.iter().map(|trim| trim.before_seq).collect()
    };
    says(&mut world, 0..3);
    assert_eq!(due(&world), [0; 0], "members are not told that the group was made");
    let made = world.untold();
    world.settle(made);
    assert_eq!(due(&world), [4]);
    let add = ChangeMembers { change: OfMembers::Add.into(), users: vec![person("c")], ..ChangeMembers::default() };
    assert!(matches!(world.change(OWNER, Change::Members(add), 0), Outcome::Appended(Appended { seq: 5, .. })));
    says(&mut world, 3..6);
    assert_eq!(due(&world), [5]);
    let added = world.untold();
    assert!(matches!(&added[..], [row] if !row.envelope.is_empty()), "{added:?}");
    world.settle(added);
    assert_eq!(due(&world), [8]);
}

#[test]
fn an_owner_from_beyond_the_border_takes_back_own_messages_alone() {
    let mut world = World::new();
    world.say(0, 0, None, false);
    world.say(1, 1, None, false);
    let refused = |append: Append| Append { admission: Admission::Refused.into(), ..append };
    let recall = |number: u8, (target, seq): (u8, u64), key: &[u8]| {
        let refers_to = Some(Reference { id: id(target), key: key.to_vec().into(), by_sender: false, seq });
        let header = Header { kind: header::Kind::Recall.into(), refers_to, ..Header::default() };
        append(OWNER, number, BEGAN_MS, Some(header))
    };
    let [own, of_other] = [0, 1].map(|number| (number, world.said[&number].seq));
    let mut tries = |append: Append| reason(&world.apply(Op::Append(append)));
    for key in [&[][..], &[9; 16]] {
        assert_eq!(tries(refused(recall(2, of_other, key))), Some(Reason::Forbidden), "{key:?}");
    }
    assert_eq!(tries(refused(append(OWNER, 3, BEGAN_MS, None))), Some(Reason::Forbidden));
    assert_eq!(tries(refused(recall(4, own, &[0; 16]))), None);
    assert_eq!(tries(recall(5, of_other, &[])), None, "the domains talk to each other");
    // The answer is the same whether there is such a group or not.
    let elsewhere = |append: Append| {
        let timeline = Some(TimelineKey { owner: "h".into(), ..group().expect("some") });
        Append { timeline, ..append }
    };
    let of_stranger = |append: Append| Append { sender: "z".into(), ..append };
    for append in [elsewhere(recall(6, own, &[])), of_stranger(recall(7, own, &[]))] {
        assert_eq!(tries(refused(append)), Some(Reason::NotFound));
    }
    let mut changes = |by: &str, number: u8, change: Change| {
        let append = Some(refused(append(by, number, BEGAN_MS, None)));
        let op = ChangeGroup { append, by_operator: false, change: Some(change), most_members: 0 };
        reason(&world.apply(Op::ChangeGroup(op)))
    };
    let set = SetGroup { name: Some("n".into()), ..SetGroup::default() };
    assert_eq!(changes(OWNER, 8, Change::Set(set)), Some(Reason::Forbidden));
    let leave = ChangeMembers { change: OfMembers::Leave.into(), users: vec![person("b")], ..ChangeMembers::default() };
    assert_eq!(changes("b", 9, Change::Members(leave)), None);
}
