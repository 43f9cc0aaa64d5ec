//! Scheduled messages against a model that keeps them in memory.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use carillon_proto::{
    Level, ShardId, ShardKind,
    pb::store::{
        Append, CancelScheduled, ChangeScheduled, EndSender, EndTimeline, Header, Mentions, Person, ReadOutbox,
        ReadScheduled, ReleaseScheduled, Schedule, ScheduledChanged, ScheduledRow, SendScheduled, SendScheduledNow,
        SetLevel, SetScheduled, SettleScheduled, StoreError, TimelineCommand, TimelineKey, change_scheduled::Change,
        outbox_row::Task, rejected::Reason, scheduled_row::State, store_error::Why, timeline_command::Op,
        timeline_key::Kind,
    },
};
use proptest::prelude::*;

use super::{media_collection::check_holds, *};
use crate::machine::{
    Outcome, TimelineMachine, TimelineReader, keys,
    timeline::scheduled::{CONTENT_BYTES, GONE, MESSAGES, RELEASED},
};

const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 1 };
const USERS: [&str; 2] = ["a", "ab"];
/// Two of the long one are most of what a user may have.
const SIZES: [usize; 3] = [1, 7, 200 * 1024];

fn key(kind: Kind, owner: &str) -> TimelineKey {
    TimelineKey { kind: kind.into(), owner: owner.to_owned().into() }
}

fn command(op: Op) -> TimelineCommand {
    TimelineCommand { op: Some(op) }
}

fn set_level() -> TimelineCommand {
    command(Op::SetLevel(SetLevel { level: Level::OF_PROGRAM.0 }))
}

fn content(size: usize) -> Bytes {
    vec![7; size].into()
}

/// What the service knows of this content: the small ones mention somebody, and refer to a file.
fn header(size: usize) -> Option<Box<Header>> {
    let mentions = Some(Mentions { users: vec![format!("user{size}")], ..Mentions::default() });
    let media = vec![vec![size as u8; 16].into()];
    (size < 100).then(|| Box::new(Header { countable: true, mentions, media, ..Header::default() }))
}

#[derive(Debug, Clone)]
enum Act {
    Schedule {
        user: usize,
        incarnation: u64,
        generation: u64,
        key: u8,
        to: bool,
        size: usize,
        at_ms: u64,
    },
    Change {
        user: usize,
        incarnation: u64,
        id: u64,
        change: Change,
    },
    /// The copy of the message with this key comes into its user's own inbox.
    Sent(usize, u8),
    /// At this time.
    Release(u64),
    /// Of the inbox with this number.
    Settle {
        number: u64,
        id: u64,
        fails: bool,
    },
    /// An attempt to send one of the messages that are being sent: its answer says that it has failed, though it may have reached the inbox.
    Fails {
        which: usize,
        reaches: bool,
    },
    End(usize, u64),
    EndSender(usize, u64),
    Collect,
}

fn act() -> impl Strategy<Value = Act> {
    let user = || 0..USERS.len();
    let incarnation = || prop_oneof![9 => Just(1u64), 1 => 0..4u64];
    let size = || (0..SIZES.len()).prop_map(|size| SIZES[size]);
    let set = (proptest::option::of(size()), proptest::option::of(1..50u64))
        .prop_filter("sets something", |set| *set != (None, None))
        .prop_map(|(size, at_ms)| {
            Change::Set(SetScheduled { content: size.map(content), at_ms, header: size.and_then(header) })
        });
    let now = (1..50u64).prop_map(|time_ms| Change::Now(SendScheduledNow { time_ms }));
    let change = prop_oneof![3 => set, 2 => Just(Change::Cancel(CancelScheduled {})), 2 => now];
    prop_oneof![
        8 => (user(), incarnation(), 1..4u64, 0..12u8, any::<bool>(), size(), 1..50u64).prop_map(
            |(user, incarnation, generation, key, to, size, at_ms)| {
                Act::Schedule { user, incarnation, generation, key, to, size, at_ms }
            }
        ),
        5 => (user(), incarnation(), 1..20u64, change)
            .prop_map(|(user, incarnation, id, change)| Act::Change { user, incarnation, id, change }),
        2 => (user(), 0..12u8).prop_map(|(user, key)| Act::Sent(user, key)),
        3 => (1..50u64).prop_map(Act::Release),
        4 => (1..5u64, 1..20u64, any::<bool>()).prop_map(|(number, id, fails)| Act::Settle { number, id, fails }),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(which, reaches)| Act::Fails { which, reaches }),
        1 => (user(), 1..4u64).prop_map(|(user, incarnation)| Act::End(user, incarnation)),
        1 => (user(), 1..4u64).prop_map(|(user, generation)| Act::EndSender(user, generation)),
        1 => Just(Act::Collect),
    ]
}

#[derive(Default, Clone)]
struct Inbox {
    /// 0: there is none.
    number: u64,
    incarnation: u64,
    version: u64,
    messages: BTreeMap<u64, ScheduledRow>,
    gone: Vec<(Bytes, u64)>,
    /// Keys of the messages that are in the inbox itself.
    sent: BTreeSet<Bytes>,
}

#[derive(Default)]
struct Model {
    inboxes: BTreeMap<&'static str, Inbox>,
    numbers: u64,
    generations: BTreeMap<&'static str, u64>,
    /// Those that were told to workers.
    sent: Vec<SendScheduled>,
}

type Answer = Result<ScheduledChanged, Reason>;

impl Model {
    fn changed(inbox: &Inbox, id: u64, changed: bool) -> Answer {
        Ok(ScheduledChanged { version: inbox.version, id, changed, failed: false })
    }

    fn schedule(&mut self, op: &Schedule) -> Answer {
        let user = USERS.into_iter().find(|user| op.timeline == Some(key(Kind::Inbox, user))).expect("known");
        if op.sender_generation < self.generations.get(user).copied().unwrap_or(0) {
            return Err(Reason::SenderGone);
        }
        let inbox = self.inboxes.entry(user).or_default();
        if op.incarnation < inbox.incarnation {
            return Err(Reason::Gone);
        }
        if inbox.number == 0 || op.incarnation > inbox.incarnation {
            self.numbers += 1;
            *inbox = Inbox { number: self.numbers, incarnation: op.incarnation, ..Inbox::default() };
        }
        if let Some((_, id)) = inbox.gone.iter().find(|(key, _)| *key == op.duplicate_key) {
            return Self::changed(inbox, *id, false);
        }
        if let Some((id, row)) = inbox.messages.iter().find(|(_, row)| row.duplicate_key == op.duplicate_key) {
            return if row.to == op.to { Self::changed(inbox, *id, false) } else { Err(Reason::Exists) };
        }
        let bytes: usize = inbox.messages.values().map(|row| row.content.len()).sum();
        if bytes + op.content.len() > CONTENT_BYTES as usize || inbox.messages.len() == MESSAGES as usize {
            return Err(Reason::Full);
        }
        inbox.version += 1;
        let row = ScheduledRow {
            sender: Some(Person { user: user.to_owned(), incarnation: op.incarnation }),
            duplicate_key: op.duplicate_key.clone(),
            device: op.device.clone(),
            client_id: op.client_id.clone(),
            to: op.to.clone(),
            content: op.content.clone(),
            header: op.header.clone(),
            at_ms: op.at_ms,
            expires_after_ms: op.expires_after_ms,
            to_incarnation: op.to_incarnation,
            state: State::Waiting.into(),
            ..ScheduledRow::default()
        };
        inbox.messages.insert(inbox.version, row);
        Self::changed(inbox, inbox.version, true)
    }

    fn change(&mut self, user: usize, incarnation: u64, id: u64, change: &Change) -> Answer {
        let inbox = self.inboxes.entry(USERS[user]).or_default();
        if incarnation < inbox.incarnation {
            return Err(Reason::Gone);
        }
        let others: usize =
            inbox.messages.iter().filter(|(other, _)| **other != id).map(|(_, row)| row.content.len()).sum();
        let is_own = inbox.number != 0 && incarnation == inbox.incarnation;
        let row = inbox.messages.get_mut(&id).filter(|row| is_own && row.state() != State::Sending);
        let Some(row) = row else { return Err(Reason::NotFound) };
        match change {
            Change::Set(SetScheduled { content, at_ms, header }) => {
                let mut after = row.clone();
                if let Some(content) = content {
                    (after.content, after.header) = (content.clone(), header.clone());
                }
                if let Some(at_ms) = at_ms {
                    (after.at_ms, after.state, after.why) = (*at_ms, State::Waiting.into(), String::new());
                }
                if after == *row {
                    return Self::changed(inbox, id, false);
                }
                if others + after.content.len() > CONTENT_BYTES as usize {
                    return Err(Reason::Full);
                }
                *row = after;
            }
            Change::Cancel(_) => {
                let key = row.duplicate_key.clone();
                inbox.gone.push((key, id));
                inbox.messages.remove(&id);
            }
            Change::Now(now) => {
                (row.state, row.time_ms, row.why) = (State::Sending.into(), now.time_ms, String::new());
                self.sent.push(SendScheduled { sender: row.sender.clone(), number: inbox.number, id });
            }
        }
        inbox.version += 1;
        Self::changed(inbox, id, true)
    }

    fn release(&mut self, time_ms: u64) {
        for (at_ms, number, id) in self.waiting() {
            let inbox = self.inboxes.values_mut().find(|inbox| inbox.number == number).expect("it waits in one");
            if at_ms <= time_ms {
                let row = inbox.messages.get_mut(&id).expect("it waits");
                (row.state, row.time_ms) = (State::Sending.into(), time_ms);
                inbox.version += 1;
                self.sent.push(SendScheduled { sender: row.sender.clone(), number, id });
            }
        }
    }

    /// `None`: the inbox has ended, so that nobody sees what becomes of it.
    fn settle(&mut self, op: &SettleScheduled) -> Option<Answer> {
        let inbox = self.inboxes.values_mut().find(|inbox| inbox.number == op.number)?;
        let row = inbox.messages.get_mut(&op.id).filter(|row| row.state() == State::Sending);
        let Some(row) = row else { return Some(Self::changed(inbox, op.id, false)) };
        let failed = !op.failed.is_empty() && !inbox.sent.contains(&row.duplicate_key);
        if failed {
            (row.state, row.why) = (State::Failed.into(), op.failed.clone());
        } else {
            let key = row.duplicate_key.clone();
            inbox.gone.push((key, op.id));
            inbox.messages.remove(&op.id);
        }
        inbox.version += 1;
        Some(Ok(ScheduledChanged { version: inbox.version, id: op.id, changed: true, failed }))
    }

    /// The messages that are being sent: user and id.
    fn sending(&self) -> Vec<(&'static str, u64)> {
        let of = |(user, inbox): (&&'static str, &Inbox)| {
            let rows = inbox.messages.iter().filter(|(_, row)| row.state() == State::Sending);
            rows.map(|(id, _)| (*user, *id)).collect::<Vec<_>>()
        };
        self.inboxes.iter().flat_map(of).collect()
    }

    fn end(&mut self, user: &'static str, incarnation: u64) {
        let inbox = self.inboxes.entry(user).or_default();
        if inbox.incarnation < incarnation {
            *inbox = Inbox { incarnation, ..Inbox::default() };
        }
    }

    /// Times, numbers of inboxes and ids.
    fn waiting(&self) -> Vec<(u64, u64, u64)> {
        let mut all = Vec::new();
        for inbox in self.inboxes.values() {
            let waits = inbox.messages.iter().filter(|(_, row)| row.state() == State::Waiting);
            all.extend(waits.map(|(id, row)| (row.at_ms, inbox.number, *id)));
        }
        all.sort_unstable();
        all
    }
}

fn schedule(user: &str, incarnation: u64, sender_generation: u64, number: u8) -> Schedule {
    Schedule {
        timeline: Some(key(Kind::Inbox, user)),
        incarnation,
        sender_generation,
        new_epoch: 5,
        duplicate_key: vec![number; 16].into(),
        device: "phone".to_owned(),
        client_id: number.to_string(),
        to: Some(key(Kind::Inbox, "bob")),
        content: content(1),
        header: header(1),
        at_ms: 10,
        expires_after_ms: u64::from(number % 3) * 5_000,
        to_incarnation: (number % 2 == 1).then_some(number.into()),
    }
}

fn own_copy(user: &str, incarnation: u64, number: u8) -> Append {
    Append {
        timeline: Some(key(Kind::Inbox, user)),
        duplicate_key: vec![number; 16].into(),
        time_ms: 1,
        envelope: vec![number].into(),
        new_epoch: 5,
        incarnation,
        peer: "bob".into(),
        ..Append::default()
    }
}

fn answer(outcome: &Outcome) -> Answer {
    match outcome {
        Outcome::ScheduledChanged(changed) => Ok(*changed),
        Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) }) => Err(rejected.reason()),
        other => panic!("unexpected: {other:?}"),
    }
}

type Shard = OpenShard<TimelineMachine, TimelineReader>;

struct World {
    shard: Shard,
    index: u64,
    model: Model,
}

impl World {
    fn new() -> Self {
        let shard = OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
        Self { shard, index: 0, model: Model::default() }
    }

    fn apply(&mut self, op: Op) -> Outcome {
        self.index += 1;
        let entries = [entry(self.index, &[command(op)])];
        self.shard.machine.apply(&entries, &self.index.to_be_bytes()).expect("applies").remove(0).remove(0)
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Schedule { user, incarnation, generation, key: number, to, size, at_ms } => {
                let kind = if to { Kind::Inbox } else { Kind::Group };
                let (to, content, header) = (Some(key(kind, "bob")), content(size), header(size));
                let op =
                    Schedule { to, content, header, at_ms, ..schedule(USERS[user], incarnation, generation, number) };
                let expected = self.model.schedule(&op);
                assert_eq!(answer(&self.apply(Op::Schedule(op))), expected);
            }
            Act::Change { user, incarnation, id, change } => {
                let expected = self.model.change(user, incarnation, id, &change);
                let (timeline, change) = (Some(key(Kind::Inbox, USERS[user])), Some(change));
                let op = ChangeScheduled { timeline, incarnation, id, change };
                assert_eq!(answer(&self.apply(Op::ChangeScheduled(op))), expected);
            }
            Act::Sent(user, number) => {
                let inbox = self.model.inboxes.entry(USERS[user]).or_default();
                if inbox.number != 0 {
                    let op = own_copy(USERS[user], inbox.incarnation, number);
                    inbox.sent.insert(op.duplicate_key.clone());
                    self.apply(Op::Append(op));
                }
            }
            Act::Release(time_ms) => {
                self.model.release(time_ms);
                self.apply(Op::ReleaseScheduled(ReleaseScheduled { time_ms }));
            }
            Act::Settle { number, id, fails } => {
                let failed = if fails { "nobody is there".to_owned() } else { String::new() };
                let op = SettleScheduled { number, id, failed };
                let expected = self.model.settle(&op);
                let answered = answer(&self.apply(Op::SettleScheduled(op)));
                if let Some(expected) = expected {
                    assert_eq!(answered, expected);
                }
            }
            Act::Fails { which, reaches } => {
                let sending = self.model.sending();
                let Some((user, id)) = sending.get(which % sending.len().max(1)).copied() else { return };
                let Inbox { number, messages, .. } = &self.model.inboxes[user];
                let (number, key) = (*number, messages[&id].duplicate_key[0]);
                if reaches {
                    let user = USERS.iter().position(|other| *other == user).expect("a user");
                    self.act(Act::Sent(user, key));
                }
                self.act(Act::Settle { number, id, fails: true });
            }
            Act::End(user, incarnation) => {
                self.model.end(USERS[user], incarnation);
                let timeline = Some(key(Kind::Inbox, USERS[user]));
                self.apply(Op::EndTimeline(EndTimeline { timeline, incarnation }));
            }
            Act::EndSender(user, generation) => {
                let ended = self.model.generations.entry(USERS[user]).or_default();
                *ended = generation.max(*ended);
                self.apply(Op::EndSender(EndSender { sender: USERS[user].to_owned(), generation }));
            }
            Act::Collect => {
                while let Some(garbage) = self.shard.reader.garbage(1).expect("reads").pop() {
                    self.apply(Op::CollectGarbage(garbage));
                }
                let rows = records(&mut self.shard.machine);
                let left: Vec<_> = rows.iter().filter_map(|(key, _)| keys::due_of(key).ok()).collect();
                assert_eq!(left, self.model.waiting(), "nothing waits for an inbox that has ended");
                check_holds(&rows);
            }
        }
    }

    fn check(&self) {
        for user in USERS {
            let inbox = self.model.inboxes.get(user).cloned().unwrap_or_default();
            let timeline = Some(key(Kind::Inbox, user));
            let read = ReadScheduled { timeline, incarnation: inbox.incarnation, after: 0 };
            let (mut all, mut read) = (Vec::new(), read);
            loop {
                let page = self.shard.reader.scheduled(&read).expect("reads");
                assert_eq!(page.version, inbox.version, "{user}");
                all.extend(page.messages.into_iter().map(|row| (row.id, row.row.expect("has one"))));
                if page.complete {
                    break;
                }
                read.after = all.last().expect("a page has something").0;
            }
            assert!(all.iter().map(|(id, row)| (id, row)).eq(&inbox.messages), "{user}: {all:?}");
        }
        let outbox = self.shard.reader.outbox(&ReadOutbox::default()).expect("reads");
        let rows: Vec<_> = outbox
            .rows
            .iter()
            .map(|row| {
                let Some(Task::SendScheduled(send)) = row.row.as_ref().and_then(|row| row.task.clone()) else {
                    panic!("something else: {row:?}")
                };
                (send, row.scheduled.clone())
            })
            .collect();
        let expected: Vec<_> = self
            .model
            .sent
            .iter()
            .map(|send| {
                let inbox = self.model.inboxes.values().find(|inbox| inbox.number == send.number);
                (send.clone(), inbox.and_then(|inbox| inbox.messages.get(&send.id).cloned()))
            })
            .collect();
        let next = self.model.waiting().first().map_or(0, |(at_ms, ..)| *at_ms);
        // That of an inbox that has ended may still be there.
        assert!(outbox.next_scheduled_ms == next || (1..next).contains(&outbox.next_scheduled_ms) || next == 0);
        // One read has no more.
        assert_eq!(rows[..], expected[..rows.len()]);
        assert!(!outbox.complete || rows.len() == expected.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn scheduled_messages_are_what_their_model_says(
        steps in proptest::collection::vec(step(proptest::collection::vec(proptest::collection::vec(act(), 0..6), 1..4)), 1..20),
    ) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Apply(acts) => acts.into_iter().flatten().for_each(|act| world.act(act)),
                Step::Reopen => world.shard = world.shard.reopened(),
                Step::SnapshotAndRestore => world.shard = world.shard.restored_from_its_snapshot(),
            }
            world.check();
        }
    }

    #[test]
    fn batch_boundaries_make_no_difference_to_scheduled_messages(
        acts in proptest::collection::vec(proptest::collection::vec(act(), 0..20), 1..15),
    ) {
        let dir = tempfile::tempdir().expect("folder");
        let engines = [open(&dir.path().join("a")), open(&dir.path().join("b"))];
        let [mut one, mut all] =
            engines.each_ref().map(|engines| at_level(engines.timeline(SHARD).expect("shard").0, &set_level()));
        let commands = acts.iter().map(|acts| acts.iter().filter_map(as_command).collect::<Vec<_>>());
        let entries: Vec<_> = commands.zip(1..).map(|(commands, index)| entry(index, &commands)).collect();
        let singly: Vec<_> =
            entries.chunks(1).flat_map(|piece| one.apply(piece, &[0; 8]).expect("applies")).collect();
        prop_assert_eq!(singly, all.apply(&entries, &[0; 8]).expect("applies"));
        prop_assert_eq!(records(&mut one), records(&mut all));
    }
}

/// The command without a look at what there is.
fn as_command(act: &Act) -> Option<TimelineCommand> {
    Some(command(match act {
        Act::Schedule { user, incarnation, generation, key: number, to, size, at_ms } => {
            let kind = if *to { Kind::Inbox } else { Kind::Group };
            let (to, content, header) = (Some(key(kind, "bob")), content(*size), header(*size));
            let at_ms = *at_ms;
            Op::Schedule(Schedule {
                to,
                content,
                header,
                at_ms,
                ..schedule(USERS[*user], *incarnation, *generation, *number)
            })
        }
        Act::Change { user, incarnation, id, change } => {
            let (timeline, change) = (Some(key(Kind::Inbox, USERS[*user])), Some(change.clone()));
            Op::ChangeScheduled(ChangeScheduled { timeline, incarnation: *incarnation, id: *id, change })
        }
        Act::Sent(user, number) => Op::Append(own_copy(USERS[*user], 1, *number)),
        Act::Release(time_ms) => Op::ReleaseScheduled(ReleaseScheduled { time_ms: *time_ms }),
        Act::Settle { number, id, fails } => {
            let failed = if *fails { "nobody is there".to_owned() } else { String::new() };
            Op::SettleScheduled(SettleScheduled { number: *number, id: *id, failed })
        }
        // What is being sent is not known here.
        Act::Fails { .. } => return None,
        Act::End(user, incarnation) => {
            Op::EndTimeline(EndTimeline { timeline: Some(key(Kind::Inbox, USERS[*user])), incarnation: *incarnation })
        }
        Act::EndSender(user, generation) => {
            Op::EndSender(EndSender { sender: USERS[*user].to_owned(), generation: *generation })
        }
        Act::Collect => Op::CollectGarbage(carillon_proto::pb::store::CollectGarbage { number: 1, limit: 3 }),
    }))
}

#[test]
fn a_user_has_a_bounded_number_of_scheduled_messages_and_those_that_went_are_remembered_for_a_while() {
    let mut world = World::new();
    let most = u8::try_from(MESSAGES).expect("few");
    for number in 1..=most {
        let changed = answer(&world.apply(Op::Schedule(schedule("a", 1, 1, number)))).expect("has room");
        assert_eq!((changed.id, changed.version), (u64::from(number), u64::from(number)));
    }
    assert_eq!(answer(&world.apply(Op::Schedule(schedule("a", 1, 1, most + 1)))), Err(Reason::Full));
    answer(&world.apply(Op::Schedule(schedule("ab", 1, 1, 1)))).expect("another user has room");
    let cancel = |id| {
        let (timeline, change) = (Some(key(Kind::Inbox, "a")), Some(Change::Cancel(CancelScheduled {})));
        Op::ChangeScheduled(ChangeScheduled { timeline, incarnation: 1, id, change })
    };
    for id in 1..=GONE as u64 + 1 {
        answer(&world.apply(cancel(id))).expect("is there");
    }
    let again = answer(&world.apply(Op::Schedule(schedule("a", 1, 1, 2)))).expect("a repeat");
    assert_eq!((again.id, again.changed), (2, false), "it is not made again");
    let forgotten = answer(&world.apply(Op::Schedule(schedule("a", 1, 1, 1)))).expect("has room");
    assert!(forgotten.changed, "only so many are remembered");
}

#[test]
fn one_command_releases_a_bounded_number_of_messages_in_the_order_of_their_times() {
    let mut world = World::new();
    let users = RELEASED as u64 / u64::from(MESSAGES) + 2;
    for user in 0..users {
        for number in 0..100 {
            // The last ones first.
            let at_ms = 10_000 - u64::from(number) * 10 - user;
            let op = Schedule { at_ms, ..schedule(&format!("u{user}"), 1, 1, number) };
            answer(&world.apply(Op::Schedule(op))).expect("has room");
        }
    }
    let waiting = |world: &mut World| -> Vec<u64> {
        let rows = records(&mut world.shard.machine);
        rows.iter().filter_map(|(key, _)| keys::due_of(key).ok()).map(|(at_ms, ..)| at_ms).collect()
    };
    let all = waiting(&mut world);
    world.apply(Op::ReleaseScheduled(ReleaseScheduled { time_ms: 10_000 }));
    assert_eq!(waiting(&mut world), all[RELEASED..]);
    world.apply(Op::ReleaseScheduled(ReleaseScheduled { time_ms: all[RELEASED] - 1 }));
    assert_eq!(waiting(&mut world), all[RELEASED..], "the time of the next one has not come");
    world.apply(Op::ReleaseScheduled(ReleaseScheduled { time_ms: 10_000 }));
    assert!(waiting(&mut world).is_empty());
}
