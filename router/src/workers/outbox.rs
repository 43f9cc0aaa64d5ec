//! The worker of one outbox: goes through its rows, has each step carried out (`run.rs`), and settles the rows. Does not wait and has no clock.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    time::Duration,
};

use carillon_proto::{
    GroupId, MediaId, ShardId, ShardMap, pause,
    pb::store::{
        OutboxRead, ReadOutbox, ScheduledRow, SendScheduled, SettleOutbox, TimelineCommand,
        outbox_read::Row,
        outbox_row::Task,
        settle_outbox::{Settled, Verdict},
        store_request::Op,
        timeline_command,
    },
};
use tokio::time::Instant;

use super::{
    collection::AboutHolders,
    later::{Later, PAUSES, put_off},
    removals::{Removals, Removed},
    rows::{Begun, Next, is_end, plan_leave, plan_tell},
    run::Running,
    scheduled::Sendings,
    steps::Step,
};
use crate::{
    delivery::Delivery,
    metrics,
    store::{StoreAnswer, StoreFailure},
};

/// Rows of one read.
const PAGE: u32 = 64;
/// Reads of one pass. What comes behind them has its turn when rows before it are settled.
const PAGES: u32 = 64;
/// How long a worker that has done everything waits for a change that another router has carried out.
const IDLE: Duration = Duration::from_secs(5);
/// Bytes of a reason that the store keeps.
const WHY: usize = 512;

/// To be performed in order.
pub(super) enum Effect {
    /// Asks a shard of the store; its answer comes back with the first part.
    Ask(Asked, ShardId, Box<Op>),
    Deliver(Delivery),
    /// Removes the bytes of files; `removed` hears of it.
    Remove(RowPlace, Vec<MediaId>, Removed),
    /// Asks or tells shards about files; `collected` hears of it.
    Collect(RowPlace, AboutHolders),
    /// Sends a scheduled message; `sent` hears of it.
    Send(RowPlace, Box<(SendScheduled, ScheduledRow)>),
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    Rows,
    /// The step that is under way in this lane.
    Step(Lane),
    Members,
    Ending,
    Settled,
    Released,
}

/// Steps of one lane are carried out one after another: those of one user; and of a user who is gone, those of each group.
pub(super) type Lane = (String, Option<GroupId>);

/// The place of a row: index and number.
pub(super) type RowPlace = (u64, u32);

pub(super) struct OutboxWorker {
    pub(super) shard: ShardId,
    pub(super) shards: ShardMap,
    /// When the next pass begins; `None` during one.
    due: Option<Instant>,
    /// Something may have come behind the place where the pass is.
    nudged: bool,
    /// Passes that ended because the outbox could not be read or settled.
    failures: u32,
    pub(super) pass: Pass,
    pub(super) later: BTreeMap<RowPlace, Later>,
    pub(super) removals: Removals,
    pub(super) sendings: Sendings,
    /// The age of the oldest row.
    pub(super) lag_ms: u64,
    pub(super) dead_letters: u32,
    /// The number of open reports in the shard, and the age of the oldest one.
    pub(super) open_reports: u64,
    pub(super) oldest_report_ms: u64,
    /// When the next scheduled message is due.
    pub(super) next_scheduled: Option<Instant>,
    pub(super) effects: Vec<Effect>,
}

/// One way through the outbox.
#[derive(Default)]
pub(super) struct Pass {
    pub(super) pages: u32,
    after: RowPlace,
    /// The page is the last one.
    is_last: bool,
    /// Rows of the page that were not begun.
    rows: VecDeque<Row>,
    pub(super) begun: Vec<Begun>,
    pub(super) lanes: BTreeMap<Lane, VecDeque<Step>>,
    pub(super) running: BTreeMap<Lane, Running>,
    /// Most that may run, if the store could not take more.
    pub(super) at_once: Option<usize>,
    /// Users of rows that have to wait: what comes later for them waits, too.
    pub(super) blocked: BTreeSet<String>,
    failed: bool,
    /// Scheduled messages whose time had come were released.
    pub(super) released: bool,
}

impl OutboxWorker {
    pub(super) fn new(shard: ShardId, shards: ShardMap, now: Instant) -> Self {
        Self {
            shard,
            shards,
            due: Some(now),
            nudged: false,
            failures: 0,
            pass: Pass::default(),
            later: BTreeMap::new(),
            removals: Removals::default(),
            sendings: Sendings::default(),
            lag_ms: 0,
            dead_letters: 0,
            open_reports: 0,
            oldest_report_ms: 0,
            next_scheduled: None,
            effects: Vec::new(),
        }
    }

    /// When `go_on` has something to do; `None` while answers are awaited.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        mem::take(&mut self.effects)
    }

    /// A row was written.
    pub(super) fn nudge(&mut self, now: Instant) {
        match &mut self.due {
            Some(due) if self.failures == 0 => *due = now.min(*due),
            Some(_) => {}
            None => self.nudged = true,
        }
    }

    pub(super) fn go_on(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            (self.due, self.nudged, self.pass) = (None, false, Pass::default());
            self.read();
        }
    }

    /// `time_ms`: now, since 1970.
    pub(super) fn answer(
        &mut self,
        asked: Asked,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
        time_ms: u64,
    ) {
        match (asked, answer) {
            (Asked::Rows, Ok(StoreAnswer::OutboxRead(read))) => self.take_page(read, now, time_ms),
            (Asked::Rows, answer) => {
                self.note_failure("read", &answer);
                self.finish(now);
            }
            (Asked::Step(lane), answer) => self.step_answered(lane, answer, now, time_ms),
            (Asked::Members, answer) => self.members_read(answer, now, time_ms),
            (Asked::Ending, answer) => {
                match answer {
                    Ok(StoreAnswer::Done(_)) => self.ends(|ends| ends.next = Next::Nothing),
                    other => self.ending_failed(other),
                }
                self.go_on_with_run(now, time_ms);
            }
            (Asked::Released, answer) => {
                if !matches!(answer, Ok(StoreAnswer::Done(_))) {
                    self.note_failure("released", &answer);
                    return self.finish(now);
                }
                self.pass.released = true;
                self.read();
            }
            (Asked::Settled, answer) => {
                if !matches!(answer, Ok(StoreAnswer::Done(_))) {
                    self.note_failure("settled", &answer);
                }
                self.pass.begun.clear();
                self.next_run(now, time_ms);
            }
        }
    }

    fn note_failure(&mut self, what: &str, answer: &Result<StoreAnswer, StoreFailure>) {
        self.pass.failed = true;
        if let Err(failure) = answer {
            tracing::debug!(shard = %self.shard, %failure, "the outbox could not be {what}");
        }
    }

    pub(super) fn ask(&mut self, asked: Asked, op: Op) {
        self.effects.push(Effect::Ask(asked, self.shard, Box::new(op)));
    }

    fn read(&mut self) {
        let (after_index, after_number) = self.pass.after;
        self.pass.pages += 1;
        self.ask(Asked::Rows, Op::ReadOutbox(ReadOutbox { after_index, after_number, limit: PAGE, dead: false }));
    }

    fn take_page(&mut self, read: OutboxRead, now: Instant, time_ms: u64) {
        if self.pass.pages == 1 {
            if self.looks_at_scheduled(read.next_scheduled_ms, now, time_ms) {
                return;
            }
            let oldest = read.rows.iter().filter_map(|row| row.row.as_ref()).map(|row| row.time_ms).find(|at| *at != 0);
            self.lag_ms = oldest.map_or(0, |oldest| time_ms.saturating_sub(oldest));
            self.dead_letters = read.dead_letters;
            self.open_reports = read.open_reports;
            let first_ms = Some(read.first_report_ms).filter(|first_ms| *first_ms != 0);
            self.oldest_report_ms = first_ms.map_or(0, |first_ms| time_ms.saturating_sub(first_ms));
        }
        self.pass.is_last = read.complete || self.pass.pages == PAGES;
        if let Some(last) = read.rows.last() {
            self.pass.after = (last.index, last.number);
        }
        self.pass.rows = read.rows.into();
        self.next_run(now, time_ms);
    }

    /// Begins the next rows of the page: as many as can be carried out side by side.
    fn next_run(&mut self, now: Instant, time_ms: u64) {
        while let Some(row) = self.pass.rows.pop_front() {
            if !self.begin(row, now) {
                continue;
            }
            let ends = |begun: &Begun| begun.ends.is_some();
            let next_ends = self.pass.rows.front().is_some_and(is_end);
            if self.pass.begun.last().is_some_and(ends) || next_ends {
                break;
            }
        }
        if !self.pass.begun.is_empty() {
            return self.go_on_with_run(now, time_ms);
        }
        if self.pass.is_last { self.finish(now) } else { self.read() }
    }

    /// Plans the steps of a row. False if its time has not come.
    fn begin(&mut self, row: Row, now: Instant) -> bool {
        let Row { index, number, row, envelope, scheduled } = row;
        let (place, row) = ((index, number), row.unwrap_or_default());
        if self.later.get(&place).is_some_and(|later| later.at > now) {
            if let Some(Task::Tell(tell)) = &row.task {
                let users = tell.told.iter().filter_map(|told| told.person.as_ref()).map(|person| person.user.clone());
                self.pass.blocked.extend(users);
            }
            return false;
        }
        if let Some(Task::RemoveObjects(remove)) = &row.task
            && !self.is_removed(place, remove)
        {
            return false;
        }
        let is_collected = match &row.task {
            Some(Task::MediaReleased(released)) => {
                self.is_collected(place, || AboutHolders::Released(released.clone()))
            }
            Some(Task::FindMediaHolders(find)) => self.is_collected(place, || AboutHolders::Find(find.clone())),
            _ => true,
        };
        if !is_collected {
            return false;
        }
        if let Some(Task::SendScheduled(send)) = &row.task
            && !self.is_sent(place, send, scheduled.as_ref())
        {
            return false;
        }
        let at = self.pass.begun.len();
        let mut begun = Begun { place, refused: None, waits: false, ends: None };
        let planned = match row.task {
            Some(Task::Tell(tell)) => plan_tell(at, tell, row.time_ms, envelope, &mut begun),
            Some(Task::Leave(leave)) => plan_leave(at, &leave),
            Some(
                Task::RemoveObjects(_) | Task::SendScheduled(_) | Task::MediaReleased(_) | Task::FindMediaHolders(_),
            ) => Ok(Vec::new()),
            None => Err("this release does not know what is to be done".to_owned()),
        };
        let steps = planned.unwrap_or_else(|why| {
            begun.refused = Some(why);
            Vec::new()
        });
        self.pass.begun.push(begun);
        steps.into_iter().for_each(|(lane, step)| self.queue(lane, step));
        true
    }

    /// Tells the store what has become of the rows.
    pub(super) fn settle(&mut self, now: Instant, time_ms: u64) {
        let mut rows = Vec::with_capacity(self.pass.begun.len());
        for Begun { place, refused, waits, .. } in self.pass.begun.drain(..) {
            let (index, number) = place;
            let settled = |verdict: Verdict, why: String| Settled { index, number, verdict: verdict.into(), why };
            match refused {
                Some(why) => {
                    tracing::warn!(shard = %self.shard, index, number, why, "the store refuses what a row of the outbox asks for");
                    metrics::outbox_row("refused");
                    rows.push(settled(Verdict::Refused, cut(why)));
                }
                None if !waits => {
                    metrics::outbox_row("done");
                    self.later.remove(&place);
                    self.removals.settled(place);
                    rows.push(settled(Verdict::Done, String::new()));
                    continue;
                }
                None => {}
            }
            put_off(&mut self.later, place, now);
        }
        if rows.is_empty() {
            return self.next_run(now, time_ms);
        }
        let op = timeline_command::Op::SettleOutbox(SettleOutbox { rows });
        self.ask(Asked::Settled, Op::Timeline(TimelineCommand { op: Some(op) }));
    }

    fn finish(&mut self, now: Instant) {
        if self.pass.failed {
            self.failures = self.failures.saturating_add(1);
            self.due = Some(now + pause::growing(self.failures, PAUSES.0, PAUSES.1));
            return;
        }
        self.failures = 0;
        // Rows that have become dead letters, or that another worker has settled, are not tried again.
        self.later.retain(|_, later| later.at > now);
        let later = self.later.values().map(|later| later.at).chain(self.next_scheduled);
        let next = later.min().map_or(now + IDLE, |at| at.min(now + IDLE));
        self.due = Some(if self.nudged { now } else { next });
    }
}

pub(super) fn cut(mut why: String) -> String {
    let end = (0..=WHY.min(why.len())).rev().find(|at| why.is_char_boundary(*at));
    why.truncate(end.unwrap_or(0));
    why
}
