//! Scheduled messages against a model that keeps them in memory.

mod commands;
mod model;

use carillon_proto::{
    ShardId, ShardKind,
    pb::store::{
        CancelScheduled, ChangeScheduled, EndSender, EndTimeline, ReadOutbox, ReadScheduled, ReleaseScheduled,
        Schedule, SettleScheduled, StoreError, change_scheduled::Change, outbox_row::Task, rejected::Reason,
        store_error::Why, timeline_command::Op, timeline_key::Kind,
    },
};
use proptest::prelude::*;

use self::{
    commands::{Act, USERS, act, as_command, command, content, header, key, own_copy, schedule, set_level},
    model::{Answer, Inbox, Model},
};
use super::{media_collection::check_holds, *};
use crate::machine::{
    Outcome, TimelineMachine, TimelineReader, keys,
    timeline::scheduled::{GONE, MESSAGES, RELEASED},
};

const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 1 };

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
        // The time of an inbox that has ended may still be there.
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
        let entries = acts.iter().map(|acts| acts.iter().filter_map(as_command).collect());
        check_batches(|engines| engines.timeline(SHARD).expect("shard").0, &set_level(), entries);
    }
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
