//! The stage: one worker, the answers of the store, and rows of the outbox.

use bytes::Bytes;
use carillon_proto::{
    MediaId, ShardId, ShardKind, ShardMap,
    pb::store::{
        Appended, ChangeGroup, Done, EndTimeline, OutboxRead, OutboxRow, Person, ReadMembers, ReadOutbox, Role,
        SetMembership, TellMembers, TimelineCommand, TimelineKey,
        member::Standing,
        outbox_read,
        outbox_row::Task,
        settle_outbox::{Settled, Verdict},
        store_request::Op,
        tell_members::Told,
        timeline_command, timeline_key,
    },
};
use tokio::time::{Duration, Instant};

use crate::{
    delivery::Delivery,
    store::{StoreAnswer, StoreFailure},
    workers::{
        collection::AboutHolders,
        outbox::{Asked, Effect, OutboxWorker, RowPlace},
        removals::Removed,
    },
};

pub(super) const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 3 };
pub(super) const NOW_MS: u64 = 1_000_000;

/// A question of the worker.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ask {
    Rows(ReadOutbox),
    Tell(SetMembership),
    Change(ChangeGroup),
    Members(ReadMembers),
    End(EndTimeline),
    Settle(Vec<Settled>),
    Release(u64),
}

pub(super) struct Play {
    pub(super) worker: OutboxWorker,
    pub(super) now: Instant,
    pub(super) time_ms: u64,
    pub(super) asked: Vec<(Asked, ShardId, Ask)>,
    pub(super) told: Vec<Delivery>,
    /// Scheduled messages that are being sent, by rows.
    pub(super) sendings: Vec<(RowPlace, u64)>,
    pub(super) next_scheduled_ms: u64,
    /// Files that are being removed, by rows.
    pub(super) removals: Vec<(RowPlace, Vec<MediaId>, Removed)>,
    /// Files about which shards are asked or told, by rows.
    pub(super) collections: Vec<(RowPlace, AboutHolders)>,
}

impl Play {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let worker = OutboxWorker::new(SHARD, ShardMap { directory: 4, timeline: 8 }, now);
        let (asked, told, removals) = (Vec::new(), Vec::new(), Vec::new());
        let (sendings, next_scheduled_ms, collections) = (Vec::new(), 0, Vec::new());
        let time_ms = NOW_MS;
        let mut play = Self { worker, now, time_ms, asked, told, removals, sendings, next_scheduled_ms, collections };
        play.go_on();
        play
    }

    pub(super) fn go_on(&mut self) {
        self.worker.go_on(self.now);
        self.take_effects();
    }

    fn take_effects(&mut self) {
        for effect in self.worker.take_effects() {
            match effect {
                Effect::Deliver(delivery) => self.told.push(delivery),
                Effect::Send(place, message) => self.sendings.push((place, message.0.id)),
                Effect::Remove(place, ids, which) => self.removals.push((place, ids, which)),
                Effect::Collect(place, about) => self.collections.push((place, about)),
                Effect::Ask(asked, shard, op) => {
                    let ask = match *op {
                        Op::ReadOutbox(read) => Ask::Rows(read),
                        Op::ReadMembers(read) => Ask::Members(read),
                        Op::Timeline(TimelineCommand { op: Some(op) }) => match op {
                            timeline_command::Op::SetMembership(set) => Ask::Tell(set),
                            timeline_command::Op::ChangeGroup(change) => Ask::Change(change),
                            timeline_command::Op::EndTimeline(end) => Ask::End(end),
                            timeline_command::Op::SettleOutbox(settle) => Ask::Settle(settle.rows),
                            timeline_command::Op::ReleaseScheduled(release) => Ask::Release(release.time_ms),
                            other => panic!("unexpected {other:?}"),
                        },
                        other => panic!("unexpected {other:?}"),
                    };
                    self.asked.push((asked, shard, ask));
                }
            }
        }
    }

    /// Questions that have no answer yet.
    pub(super) fn asks(&self) -> Vec<Ask> {
        self.asked.iter().map(|(.., ask)| ask.clone()).collect()
    }

    /// Answers the first question that is open. Returns it.
    pub(super) fn answer(&mut self, answer: Result<StoreAnswer, StoreFailure>) -> Ask {
        let (asked, _, ask) = self.asked.remove(0);
        self.worker.answer(asked, answer, self.now, self.time_ms);
        self.take_effects();
        ask
    }

    /// Answers the question after the rows.
    pub(super) fn rows(&mut self, rows: Vec<outbox_read::Row>) {
        let ask = self.answer(Ok(StoreAnswer::OutboxRead(OutboxRead {
            rows,
            complete: true,
            dead_letters: 2,
            next_scheduled_ms: self.next_scheduled_ms,
            open_reports: 3,
            first_report_ms: NOW_MS - 9000,
        })));
        assert!(matches!(ask, Ask::Rows(_)), "{ask:?}");
    }

    /// The rows that are settled now, and how.
    pub(super) fn settles(&mut self) -> Vec<(u64, Verdict)> {
        let Ask::Settle(rows) = self.answer(done()) else { panic!("nothing is settled") };
        rows.iter().map(|row| (row.index, row.verdict())).collect()
    }

    /// The time until the next pass.
    pub(super) fn pause(&self) -> Duration {
        self.worker.due().expect("the pass is over") - self.now
    }

    pub(super) fn next_pass(&mut self) {
        self.now = self.worker.due().expect("the pass is over");
        self.go_on();
    }
}

pub(super) fn done() -> Result<StoreAnswer, StoreFailure> {
    Ok(StoreAnswer::Done(Done {}))
}

pub(super) fn appended(seq: u64) -> Result<StoreAnswer, StoreFailure> {
    Ok(StoreAnswer::Appended(Appended { epoch: 7, seq, ..Appended::default() }))
}

pub(super) fn repeated() -> Result<StoreAnswer, StoreFailure> {
    Ok(StoreAnswer::Appended(Appended {
        epoch: 7,
        seq: 1,
        first_envelope: Bytes::from_static(b"e"),
        incarnation: 0,
        ..Appended::default()
    }))
}

pub(super) fn gone() -> Result<StoreAnswer, StoreFailure> {
    Err(StoreFailure::Gone { detail: "the inbox of this user has ended".into() })
}

pub(super) fn full() -> Result<StoreAnswer, StoreFailure> {
    Err(StoreFailure::NoRoom { detail: "the user is in many groups".into() })
}

pub(super) fn late() -> Result<StoreAnswer, StoreFailure> {
    Err(StoreFailure::Expired { shard: SHARD })
}

pub(super) fn not_found() -> Result<StoreAnswer, StoreFailure> {
    Err(StoreFailure::NotFound { detail: "there is no such group".into() })
}

pub(super) fn group(name: &str) -> TimelineKey {
    TimelineKey { kind: timeline_key::Kind::Group.into(), owner: name.to_owned().into() }
}

pub(super) fn person(user: &str) -> Person {
    Person { user: user.to_owned(), incarnation: 9 }
}

/// A row of this index: what has become of these users, by a change at the position of the same number.
pub(super) fn tell(index: u64, users: &[(&str, Standing)], ends: bool) -> outbox_read::Row {
    let told = |(user, standing): &(&str, Standing)| Told {
        person: Some(person(user)),
        standing: (*standing).into(),
        role: Role::Member.into(),
    };
    let tell = TellMembers {
        group: Some(group("friends")),
        number: 1,
        incarnation: 5,
        seq: index,
        told: users.iter().map(told).collect(),
        ends,
        sender_generation: 3,
    };
    let row = OutboxRow { time_ms: NOW_MS - 700, task: Some(Task::Tell(tell)), ..OutboxRow::default() };
    outbox_read::Row { index, number: 0, row: Some(row), envelope: Bytes::from_static(b"envelope"), scheduled: None }
}

pub(super) fn joins(index: u64, user: &str) -> outbox_read::Row {
    tell(index, &[(user, Standing::Member)], false)
}

pub(super) fn user_of(ask: &Ask) -> &str {
    let Ask::Tell(set) = ask else { panic!("{ask:?}") };
    let timeline = set.append.as_ref().and_then(|append| append.timeline.as_ref()).expect("set");
    timeline.owner_str().expect("UTF-8")
}
