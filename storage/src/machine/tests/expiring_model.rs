//! Expiring messages against a model that says which texts the engine may still have.

mod commands;
mod model;

use std::collections::{BTreeMap, BTreeSet};

use carillon_proto::{
    ShardId, ShardKind,
    pb::{
        client::Envelope,
        store::{
            Append, ChangeGroup, ConversationRow, CreateGroup, EndTimeline, ExpireMessages, GroupSettings, Header,
            Mentions, MoveMarks, Person, ReadConversations, ReadHead, ReadTimeline, Reference, StoreError, TimelineKey,
            UnreadOf, change_group::Change, header, move_marks, rejected::Reason, store_error::Why,
            timeline_command::Op, timeline_key::Kind,
        },
    },
};
use proptest::prelude::*;

use self::{
    commands::{Act, BEGAN_MS, OWNERS, SENDER, Teller, act, command, id, key, set_level},
    model::Model,
};
use super::*;
use crate::machine::{Outcome, Retention, TimelineMachine, TimelineReader, expiring_reader::EXPIRED, keys};

const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 1 };

type Shard = OpenShard<TimelineMachine, TimelineReader>;

struct World {
    shard: Shard,
    index: u64,
    teller: Teller,
    model: Model,
    /// Positions of messages, by inbox and number.
    seqs: BTreeMap<(u64, u8), u64>,
}

impl World {
    fn new() -> Self {
        let shard = OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
        Self { shard, index: 0, teller: Teller::default(), model: Model::default(), seqs: BTreeMap::new() }
    }

    fn apply(&mut self, op: Op) -> Outcome {
        self.index += 1;
        let entries = [entry(self.index, &[command(op)])];
        self.shard.machine.apply(&entries, &self.index.to_be_bytes()).expect("applies").remove(0).remove(0)
    }

    fn act(&mut self, act: &Act) {
        if matches!(act, Act::Collect) {
            while let Some(garbage) = self.shard.reader.garbage(1).expect("reads").pop() {
                self.apply(Op::CollectGarbage(garbage));
            }
            let ended: Vec<_> =
                self.model.alive.keys().copied().filter(|(number, _)| !self.model.is_living(*number)).collect();
            ended.into_iter().for_each(|(number, seq)| self.model.forget(number, seq));
            return;
        }
        for op in self.teller.commands(act) {
            let outcome = self.apply(op.clone());
            self.follow(&op, &outcome);
        }
    }

    fn follow(&mut self, op: &Op, outcome: &Outcome) {
        let owner_of = |timeline: &Option<TimelineKey>| {
            OWNERS.iter().position(|owner| *timeline == key(Kind::Inbox, owner)).expect("known")
        };
        match op {
            Op::Append(op) => self.follow_append(owner_of(&op.timeline), op, outcome),
            Op::ExpireMessages(op) => {
                let until_ms = op.until_ms.min(self.teller.clock_ms);
                let due: Vec<_> = self.model.rows.iter().copied().filter(|(due_ms, ..)| *due_ms <= until_ms).collect();
                for (due_ms, number, seq) in due {
                    self.model.rows.remove(&(due_ms, number, seq));
                    if self.model.is_living(number) {
                        self.model.alive.remove(&(number, seq));
                        self.model.expired.insert((number, seq));
                    } else if let Some(alive) = self.model.alive.get_mut(&(number, seq)) {
                        // The text goes with the remains of its inbox.
                        alive.due_ms = None;
                    }
                }
            }
            Op::Trim(op) => {
                let Some(living) = self.model.living.get_mut(&owner_of(&op.timeline)) else { return };
                let (number, first) = (living.number, living.first);
                living.first = op.before_seq.min(living.last + 1).max(first);
                let until = living.first;
                (first..until).for_each(|seq| self.model.forget(number, seq));
            }
            Op::EndTimeline(op) => {
                let owner = owner_of(&op.timeline);
                let least = self.model.least.entry(owner).or_default();
                *least = op.incarnation.max(*least);
                if self.model.living.get(&owner).is_some_and(|living| living.incarnation < op.incarnation) {
                    self.model.living.remove(&owner);
                }
            }
            Op::Redact(op) => {
                for message in &op.messages {
                    self.model.forget(message.number, message.seq);
                }
            }
            Op::AdvanceClock(_) | Op::EraseSender(_) => {}
            other => panic!("not among the commands: {other:?}"),
        }
    }

    fn follow_append(&mut self, owner: usize, op: &Append, outcome: &Outcome) {
        let Outcome::Appended(appended) = outcome else {
            assert!(matches!(outcome, Outcome::Error(_)), "{outcome:?}");
            return;
        };
        if !appended.first_envelope.is_empty() {
            return;
        }
        let header = op.header.clone().unwrap_or_default();
        let target = header.refers_to.as_ref().map(|reference| reference.key[0]);
        let number = self.model.living.get(&owner).map_or(0, |living| living.number);
        let target = target.map(|target| self.seqs[&(number, target)]);
        let due_ms = match header.kind() {
            header::Kind::Message if header.expires_at_ms != 0 => {
                Some(self.teller.clock_ms + header.expires_at_ms - op.time_ms)
            }
            header::Kind::Edit => self.model.alive[&(number, target.expect("it edits something"))].due_ms,
            _ => None,
        };
        let edits = target.filter(|_| header.kind() == header::Kind::Edit);
        self.model.appended(owner, op, appended.seq, due_ms, edits);
        let number = self.model.living[&owner].number;
        self.seqs.insert((number, op.duplicate_key[0]), appended.seq);
        if header.kind() == header::Kind::Recall {
            let target = target.expect("it takes something back");
            let edits = self.model.alive.iter().filter(|((of, _), alive)| *of == number && alive.edits == Some(target));
            let edits: Vec<u64> = edits.map(|((_, seq), _)| *seq).collect();
            for seq in edits.into_iter().chain([target]) {
                self.model.recalled.insert((number, seq));
                if header.erase {
                    self.model.forget(number, seq);
                }
            }
        }
    }

    fn check(&mut self) {
        let rows = records(&mut self.shard.machine);
        let expiring: BTreeSet<_> = rows.iter().filter_map(|(key, _)| keys::expiring_of(key).ok()).collect();
        assert_eq!(expiring, self.model.rows);
        assert_eq!(self.shard.reader.has_expiring().expect("reads"), !expiring.is_empty());
        // Whatever row it stands in.
        let texts: BTreeSet<String> = rows.iter().flat_map(|(_, value)| texts_in(value)).collect();
        let alive: BTreeSet<String> = self.model.alive.values().map(|alive| alive.text.clone()).collect();
        assert_eq!(texts, alive);
        for (owner, living) in &self.model.living {
            let read = ReadTimeline {
                timeline: key(Kind::Inbox, OWNERS[*owner]),
                incarnation: living.incarnation,
                states: true,
                ..ReadTimeline::default()
            };
            let page = self.shard.reader.read(&read).expect("reads");
            let seqs: Vec<u64> = page.entries.iter().map(|entry| entry.seq).collect();
            assert_eq!(seqs, (living.first..=living.last).collect::<Vec<_>>());
            for entry in &page.entries {
                let left = Envelope::decode(entry.envelope.clone()).expect("decodes");
                let place = (living.number, entry.seq);
                let is_shown = self.model.alive.contains_key(&place) && !self.model.recalled.contains(&place);
                assert_eq!(left.erased, !is_shown, "{place:?}");
                if self.model.expired.contains(&place) {
                    assert!(left.expires_at_ms != 0 && entry.state.is_empty(), "{place:?}: {entry:?}");
                }
            }
            let pinned = ReadTimeline { pinned_with: Some(SENDER.to_owned()), ..read };
            for entry in self.shard.reader.read(&pinned).expect("reads").entries {
                assert!(!self.model.expired.contains(&(living.number, entry.seq)), "{entry:?}");
            }
        }
    }
}

fn texts_in(value: &[u8]) -> Vec<String> {
    let begins = value.windows(7).enumerate().filter(|(_, part)| part == b"secret ").map(|(at, _)| at);
    let text = |at: usize| {
        let end = value[at..].iter().position(|byte| *byte == b'.').expect("texts end so");
        String::from_utf8(value[at..=at + end].to_vec()).expect("a text")
    };
    begins.map(text).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_expired_messages_nothing_is_left_in_any_row_and_of_others_everything(
        steps in proptest::collection::vec(step(proptest::collection::vec(proptest::collection::vec(act(), 0..6), 1..4)), 1..20),
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

    #[test]
    fn batch_boundaries_make_no_difference_to_expiring_messages(
        acts in proptest::collection::vec(proptest::collection::vec(act(), 0..20), 1..15),
    ) {
        let mut teller = Teller::default();
        let entries = acts.iter().map(|acts| acts.iter().flat_map(|act| teller.commands(act)).map(command).collect());
        check_batches(|engines| engines.timeline(SHARD).expect("shard").0, &set_level(), entries);
    }
}

fn say(number: u8, after_ms: u64) -> Act {
    Act::Say { owner: 0, incarnation: 1, number, after_ms: Some(after_ms) }
}

fn reason(outcome: &Outcome) -> Option<Reason> {
    match outcome {
        Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) }) => Some(rejected.reason()),
        _ => None,
    }
}

#[test]
fn one_command_expires_a_bounded_number_of_messages_in_the_order_of_their_times() {
    let mut world = World::new();
    for number in 0..EXPIRED as u64 + 44 {
        let header = Header { expires_at_ms: BEGAN_MS + 1000 - number, ..Header::default() };
        let mut append = world.teller.append(0, 1, 0, Some(header));
        append.duplicate_key = [&number.to_be_bytes()[..], &[0; 8]].concat().into();
        world.apply(Op::Append(append));
    }
    world.act(&Act::Tick(1000));
    let due = |world: &World| {
        let due = world.shard.reader.due_messages(&Retention::default()).expect("reads");
        due.map(|(expire, count)| (expire.until_ms, count))
    };
    assert_eq!(due(&world), Some((1000, EXPIRED)));
    let slow = Retention { slack_ms: 1000, ..Retention::default() };
    assert!(world.shard.reader.due_messages(&slow).expect("reads").is_none(), "they may be younger than they seem");
    world.apply(Op::ExpireMessages(ExpireMessages { until_ms: 1000 }));
    let rows = records(&mut world.shard.machine);
    let left: Vec<_> = rows.iter().filter_map(|(key, _)| keys::expiring_of(key).ok()).map(|(.., seq)| seq).collect();
    assert_eq!(left, (1..=44).rev().collect::<Vec<_>>());
    world.apply(Op::ExpireMessages(ExpireMessages { until_ms: 1000 }));
    assert_eq!(due(&world), None);
}

#[test]
fn nothing_is_said_about_a_message_whose_time_is_over_and_an_edit_does_not_prolong_it() {
    let mut world = World::new();
    world.act(&say(1, 10));
    let edit = |world: &mut World, number: u8, expires_at_ms: u64| {
        let header = Header { kind: header::Kind::Edit.into(), ..Header::default() };
        let mut append = world.teller.about(0, 1, number, header);
        append.header.as_mut().expect("has one").expires_at_ms = expires_at_ms;
        reason(&world.apply(Op::Append(append)))
    };
    for wrong in [0, BEGAN_MS + 9, BEGAN_MS + 11] {
        assert_eq!(edit(&mut world, 20, wrong), Some(Reason::Invalid), "{wrong}");
    }
    assert_eq!(edit(&mut world, 21, BEGAN_MS + 10), None);
    world.act(&Act::Tick(10));
    // Its content is still there.
    for kind in [header::Kind::Edit, header::Kind::Reaction, header::Kind::Pin, header::Kind::Recall] {
        let header = Header { kind: kind.into(), ..Header::default() };
        let append = world.teller.about(0, 1, 22, header);
        assert_eq!(reason(&world.apply(Op::Append(append))), Some(Reason::NotFound), "{kind:?}");
    }
    world.apply(Op::ExpireMessages(ExpireMessages { until_ms: 10 }));
    let rows = records(&mut world.shard.machine);
    assert!(rows.iter().all(|(_, value)| texts_in(value).is_empty()), "neither of the message nor of its edit");
    assert_eq!(edit(&mut world, 23, BEGAN_MS + 10), Some(Reason::NotFound));
}

/// As the copy in the sender's own inbox comes.
fn copied(append: Append) -> Append {
    Append { sender: Default::default(), sender_generation: 0, peer: SENDER.into(), ..append }
}

#[test]
fn a_copy_that_comes_late_leaves_nothing_either() {
    let mut world = World::new();
    world.act(&say(1, 10));
    let (edit, reaction) = (header::Kind::Edit, header::Kind::Reaction);
    let about = |world: &mut World, target: u8, number: u8, kind: header::Kind| {
        let reactions = if kind == reaction { vec!["x".to_owned()] } else { Vec::new() };
        let append =
            world.teller.about(0, target, number, Header { kind: kind.into(), reactions, ..Header::default() });
        assert!(matches!(world.apply(Op::Append(copied(append))), Outcome::Appended(_)));
    };
    // The edited message is not in this inbox: the edit expires by itself.
    world.teller.expires.insert((0, 2), BEGAN_MS + 20);
    about(&mut world, 2, 20, edit);
    world.act(&Act::Tick(12));
    world.apply(Op::ExpireMessages(ExpireMessages { until_ms: 12 }));
    about(&mut world, 1, 21, edit);
    about(&mut world, 1, 22, reaction);
    let left = |world: &mut World| -> Vec<String> {
        let rows = records(&mut world.shard.machine);
        rows.iter().flat_map(|(_, value)| texts_in(value)).collect()
    };
    // The texts of the second edit and of the reaction.
    assert_eq!(left(&mut world), ["secret 2.", "secret 4."]);
    let page = ReadTimeline { timeline: key(Kind::Inbox, "a"), incarnation: 1, states: true, ..Default::default() };
    assert!(world.shard.reader.read(&page).expect("reads").entries[0].state.is_empty(), "nobody has reacted");
    world.act(&Act::Tick(8));
    world.apply(Op::ExpireMessages(ExpireMessages { until_ms: 20 }));
    assert_eq!(left(&mut world), ["secret 4."]);
}

#[test]
fn an_expired_message_of_a_group_mentions_nobody_and_is_pinned_no_more() {
    let mut world = World::new();
    let group = || key(Kind::Group, "g");
    let person = |user: &str| Person { user: user.to_owned(), incarnation: 1 };
    let in_group = |append: Append| Append { timeline: group(), incarnation: 0, sender_incarnation: 1, ..append };
    let create = CreateGroup { settings: Some(GroupSettings::default()), members: vec![person("a")], owner: None };
    let append = Some(in_group(world.teller.append(0, 0, 1, None)));
    world.apply(Op::ChangeGroup(ChangeGroup {
        append,
        by_operator: false,
        change: Some(Change::Create(create)),
        most_members: 0,
    }));
    let mentions = Some(Mentions { users: vec!["a".to_owned()], ..Mentions::default() });
    let header = Header { countable: true, mentions, expires_at_ms: BEGAN_MS + 10, ..Header::default() };
    let append = in_group(world.teller.append(0, 0, 2, Some(header)));
    assert!(matches!(world.apply(Op::Append(append)), Outcome::Appended(_)));
    let reference = Reference { id: id(2), key: vec![2; 16].into(), by_sender: true, seq: 2 };
    let header = Header { kind: header::Kind::Pin.into(), refers_to: Some(reference), ..Header::default() };
    let append = in_group(world.teller.append(0, 0, 3, Some(header)));
    assert!(matches!(world.apply(Op::Append(append)), Outcome::Appended(_)));
    let seen = |world: &World| {
        let unread_of = Some(UnreadOf { member: Some(person("a")), ..UnreadOf::default() });
        let head = ReadHead { timeline: group(), unread_of, ..ReadHead::default() };
        let head = world.shard.reader.head(&head).expect("reads");
        let pinned_with = Some(String::new());
        let page =
            ReadTimeline { timeline: group(), reader: Some(person("a")), pinned_with, ..ReadTimeline::default() };
        (head.unread, head.mentions, world.shard.reader.read(&page).expect("reads").entries.len())
    };
    assert_eq!(seen(&world), (1, 1, 1));
    world.act(&Act::Tick(10));
    world.apply(Op::ExpireMessages(ExpireMessages { until_ms: 10 }));
    assert_eq!(seen(&world), (0, 0, 0), "its place is still there, and nothing to be read");
}

#[test]
fn an_expired_message_is_not_unread_however_far_the_user_has_read() {
    let mut world = World::new();
    // Those with even numbers expire.
    for number in 1..=8 {
        let after_ms = (number % 2 == 0).then_some(10);
        world.act(&Act::Say { owner: 0, incarnation: 1, number, after_ms });
    }
    let row = |world: &World| {
        let op = ReadConversations { timeline: key(Kind::Inbox, "a"), incarnation: 1, ..ReadConversations::default() };
        world.shard.reader.conversations(&op).expect("reads").rows.remove(0)
    };
    let read_to = |world: &mut World, seq: u64| {
        let mark = move_marks::Mark { conversation: key(Kind::Inbox, SENDER), epoch: 5, seq };
        let (timeline, marks) = (key(Kind::Inbox, "a"), vec![mark]);
        world.apply(Op::MoveMarks(MoveMarks { timeline, incarnation: 1, marks, ..MoveMarks::default() }));
    };
    let rows_left = |world: &mut World| {
        records(&mut world.shard.machine).iter().filter(|(key, _)| keys::emptied_of(key).is_ok()).count()
    };
    assert_eq!(row(&world).unread, 8);
    read_to(&mut world, 2);
    let before = row(&world);
    world.act(&Act::Tick(10));
    world.apply(Op::ExpireMessages(ExpireMessages { until_ms: 10 }));
    let after = row(&world);
    assert_eq!((before.unread, after.unread), (6, 3), "3, 5 and 7");
    let version = |row: &ConversationRow| row.row.as_ref().expect("a row").version;
    assert!(version(&after) > version(&before), "devices that ask what has changed are told");
    for (seq, unread) in [(3, 2), (4, 2), (5, 1), (6, 1), (7, 0)] {
        read_to(&mut world, seq);
        assert_eq!(row(&world).unread, unread, "read up to {seq}");
    }
    assert_eq!(rows_left(&mut world), 1);
    read_to(&mut world, 8);
    assert_eq!((row(&world).unread, rows_left(&mut world)), (0, 0));
    world.act(&Act::Say { owner: 0, incarnation: 1, number: 9, after_ms: Some(5) });
    assert_eq!(row(&world).unread, 1);
    world.act(&Act::Tick(5));
    world.apply(Op::ExpireMessages(ExpireMessages { until_ms: 15 }));
    assert_eq!((row(&world).unread, rows_left(&mut world)), (0, 1));
    // The rows go with the conversation, and with the inbox.
    let timeline = key(Kind::Inbox, "a");
    world.apply(Op::EndTimeline(EndTimeline { timeline, incarnation: 2 }));
    world.act(&Act::Collect);
    assert_eq!(rows_left(&mut world), 0);
}
