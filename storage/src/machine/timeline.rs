//! The state machine of a timeline shard. This file trims and ends timelines; its modules:
//! - `append.rs` assigns positions and recognises repeated sends, and `annotations.rs` keeps what messages make of others;
//! - `conversations.rs` keeps how far users have read, `emptied.rs` which messages are not unread any more, and `cursors.rs` how far devices are;
//! - `expiring.rs` removes contents of messages whose time is over;
//! - `groups.rs` keeps the members of groups, and `heirs.rs` gives a group another owner;
//! - `media.rs` keeps files, and `media_holds.rs` the references to them;
//! - `outbox.rs` keeps the tasks of workers, `reports.rs` the reports of users, and `scheduled.rs` messages that are to be sent later;
//! - `senders.rs` ends and erases senders.

mod annotations;
mod append;
mod conversations;
pub(super) mod cursors;
mod emptied;
mod expiring;
mod garbage;
mod groups;
mod heirs;
mod media;
pub(super) mod media_holds;
mod mentions;
pub(super) mod outbox;
#[cfg(feature = "planted-bugs")]
pub(super) mod planted;
mod privacy;
pub(super) mod reports;
pub(super) mod scheduled;
mod senders;
mod state;

use std::io;

use carillon_proto::{
    KeyedMap, Level,
    pb::store::{
        AdvanceClock, Append, Conversation, Done, EndTimeline, Rejected, RenewEpoch, StoreError, TimelineCommand,
        TimelineKey, Trim, rejected::Reason, store_error::Why, timeline_command::Op, timeline_key::Kind,
    },
};

pub(crate) use self::state::TimelineState;
use self::{outbox::OutboxCounts, state::CachedTimeline};
use super::{
    EntryCommands, Machine, Outcome, Record, TimelineReader, broken,
    keys::{self, RowBytes, Stored},
    level::{Reading, ShardLevel},
    recent::RecentMap,
    senders::EndedSenders,
    timeline_level,
};
use crate::engine::{Changes, fjall::TimelineShard};

/// Most timelines whose state is cached in memory, per shard: some 400 bytes each.
const STATES: usize = 16 * 1024;

pub(crate) struct TimelineMachine {
    shard: TimelineShard,
    /// By the key of the timeline. States that are not here are read from the engine.
    states: RecentMap<RowBytes, CachedTimeline>,
    /// By the key of the row.
    conversations: RecentMap<RowBytes, Conversation>,
    /// The shard's clock, see `AdvanceClock`; `None`: not read from the engine yet.
    clock_ms: Option<u64>,
    /// `None`: not read from the engine yet.
    senders: Option<EndedSenders>,
    /// `None`: not counted yet.
    outbox: Option<OutboxCounts>,
    reading: Reading,
    level: ShardLevel,
}

impl TimelineMachine {
    /// `known`: the highest level that this program reads.
    pub(crate) fn open(shard: TimelineShard, known: Level) -> io::Result<(Self, TimelineReader)> {
        let reading = Reading::load(shard.get(keys::LEVEL)?.as_deref(), known)?;
        let level = ShardLevel::default();
        level.set(reading.level);
        let reader = TimelineReader::new(shard.clone(), level.clone());
        Ok((
            Self {
                shard,
                states: RecentMap::new(STATES),
                conversations: RecentMap::new(STATES),
                clock_ms: None,
                senders: None,
                outbox: None,
                reading,
                level,
            },
            reader,
        ))
    }

    /// Drops everything cached from the engine.
    fn forget(&mut self) {
        self.states.clear();
        self.conversations.clear();
        self.clock_ms = None;
        self.senders = None;
        self.outbox = None;
    }

    fn apply_all(&mut self, entries: &[EntryCommands], applied: &[u8]) -> io::Result<Vec<Vec<Outcome>>> {
        let clock_ms = match self.clock_ms {
            Some(clock_ms) => clock_ms,
            None => self.shard.get(keys::CLOCK)?.map_or(Ok(0), |value| keys::number_of(&value))?,
        };
        // If this batch fails, they are read again.
        let senders = match self.senders.take() {
            Some(senders) => senders,
            None => EndedSenders::load(&self.shard)?,
        };
        let outbox = match self.outbox.take() {
            Some(outbox) => outbox,
            None => OutboxCounts::load(&self.shard)?,
        };
        let mut batch = Batch {
            clock_ms,
            senders,
            outbox,
            outbox_number: 0,
            reading: self.reading,
            shard: &self.shard,
            states: &mut self.states,
            touched: KeyedMap::default(),
            conversations: &mut self.conversations,
            touched_conversations: KeyedMap::default(),
            changes: Changes::default(),
            index: 0,
        };
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries {
            (batch.index, batch.outbox_number) = (entry.index, 0);
            outcomes
                .push(entry.commands.iter().map(|command| batch.command(command.clone())).collect::<Result<_, _>>()?);
        }
        let Batch { touched, touched_conversations, changes, clock_ms, senders, outbox, reading, .. } = batch;
        self.shard.commit(changes, applied)?;
        self.clock_ms = Some(clock_ms);
        self.reading = reading;
        self.level.set(reading.level);
        self.senders = Some(senders);
        self.outbox = Some(outbox);
        for (key, held) in touched {
            if let Some(held) = held {
                self.states.put(key, held);
            }
        }
        self.keep_conversations(touched_conversations);
        Ok(outcomes)
    }
}

impl Machine for TimelineMachine {
    fn applied(&self) -> io::Result<Option<Vec<u8>>> {
        self.shard.applied()
    }

    fn apply(&mut self, entries: &[EntryCommands], applied: &[u8]) -> io::Result<Vec<Vec<Outcome>>> {
        self.apply_all(entries, applied).inspect_err(|_| self.forget())
    }

    fn syncer(&self) -> Box<dyn Fn() -> io::Result<()> + Send + Sync> {
        let shard = self.shard.clone();
        Box::new(move || shard.sync())
    }

    fn snapshot(&mut self) -> io::Result<Box<dyn Iterator<Item = Record> + Send>> {
        Ok(Box::new(self.shard.records()))
    }

    fn restore(&mut self, records: &mut dyn Iterator<Item = Record>, applied: &[u8]) -> io::Result<()> {
        self.forget();
        self.shard.restore(records, applied)?;
        self.reading = Reading::load(self.shard.get(keys::LEVEL)?.as_deref(), self.reading.known)?;
        self.level.set(self.reading.level);
        Ok(())
    }
}

/// The result of the entries of one batch.
struct Batch<'a> {
    shard: &'a TimelineShard,
    states: &'a mut RecentMap<RowBytes, CachedTimeline>,
    /// Timelines touched by this batch; `None` if the timeline does not exist.
    touched: KeyedMap<RowBytes, Option<CachedTimeline>>,
    conversations: &'a mut RecentMap<RowBytes, Conversation>,
    /// Those of this batch; `None` if there is no such row.
    touched_conversations: KeyedMap<RowBytes, Option<Conversation>>,
    clock_ms: u64,
    senders: EndedSenders,
    outbox: OutboxCounts,
    /// Of the entry's next row of the outbox.
    outbox_number: u32,
    reading: Reading,
    changes: Changes,
    /// Of the entry that is being applied.
    index: u64,
}

impl Batch<'_> {
    fn command(&mut self, command: bytes::Bytes) -> io::Result<Outcome> {
        // Decoded from `Bytes`, the envelope is a slice of the entry.
        let command: TimelineCommand = self.reading.decode(command)?;
        let op = command.op.ok_or_else(|| broken("command without an operation"))?;
        self.reading.check(timeline_level(&op))?;
        match op {
            Op::Append(op) => self.append(&op),
            Op::SetCursor(op) => self.set_cursor(&op),
            Op::MoveCursors(op) => self.move_cursors(&op),
            Op::Trim(op) => self.trim(&op),
            Op::AdvanceClock(op) => Ok(self.advance_clock(&op)),
            Op::SweepCursors(op) => self.sweep_cursors(&op),
            Op::RenewEpoch(op) => self.renew_epoch(&op),
            Op::EndTimeline(op) => self.end_timeline(&op),
            Op::EndSender(op) => Ok(self.end_sender(&op)),
            Op::CollectGarbage(op) => self.collect_garbage(&op),
            Op::EraseSender(op) => self.erase_sender(&op),
            Op::Redact(op) => self.redact(&op),
            Op::SenderErased(op) => self.sender_erased(&op),
            Op::ChangeGroup(op) => self.change_group(&op),
            Op::SetMembership(op) => self.set_membership(&op),
            Op::SettleOutbox(op) => self.settle_outbox(&op),
            Op::SweepMemberships(op) => self.sweep_memberships(&op),
            Op::MoveMarks(op) => self.move_marks(&op),
            Op::SetConversation(op) => self.set_conversation(&op),
            Op::SweepConversations(op) => self.sweep_conversations(&op),
            Op::CreateMedia(op) => self.create_media(&op),
            Op::CompleteMedia(op) => self.complete_media(&op),
            Op::RemoveMedia(op) => self.remove_media(&op),
            Op::ForgetReleasedMedia(op) => self.forget_released_media(&op),
            Op::NoteReleasedMedia(op) => self.note_released_media(&op),
            Op::CheckMedia(op) => self.check_media(&op),
            Op::CollectMedia(op) => self.collect_media(&op),
            Op::Schedule(op) => self.schedule(&op),
            Op::ChangeScheduled(op) => self.change_scheduled(&op),
            Op::ReleaseScheduled(op) => self.release_scheduled(&op),
            Op::SettleScheduled(op) => self.settle_scheduled(&op),
            Op::PutReport(op) => self.put_report(&op),
            Op::SettleReport(op) => self.settle_report(&op),
            Op::RemoveReports(op) => self.remove_reports(&op),
            Op::ExpireMessages(op) => self.expire_messages(&op),
            Op::SetLevel(op) => {
                self.reading.set(&op, &mut self.changes)?;
                Ok(done())
            }
        }
    }

    fn renew_epoch(&mut self, op: &RenewEpoch) -> io::Result<Outcome> {
        if op.new_epoch == 0 {
            return Err(broken("epoch 0"));
        }
        let key = timeline_key(op.timeline.as_ref())?;
        if let Some(mut held) = self.held(&key)?
            && held.state.number != 0
            && held.state.epoch == op.epoch
            && held.state.last < op.seq
        {
            held.state.epoch = op.new_epoch;
            self.changes.put(key.clone(), held.state.to_value());
            self.touched.insert(key, Some(held));
        }
        Ok(done())
    }

    fn advance_clock(&mut self, op: &AdvanceClock) -> Outcome {
        self.clock_ms = self.clock_ms.saturating_add(op.elapsed_ms.into());
        self.changes.put(keys::CLOCK, keys::number_value(self.clock_ms));
        self.senders.forget_old(self.clock_ms, &mut self.changes);
        done()
    }

    fn trim(&mut self, op: &Trim) -> io::Result<Outcome> {
        let key = timeline_key(op.timeline.as_ref())?;
        let Some(mut held) = self.held(&key)? else { return Ok(done()) };
        let state = held.state;
        if op.epoch != 0 && op.epoch != state.epoch {
            return Ok(done());
        }
        let end = op.before_seq.min(state.last + 1).min(state.first.saturating_add(op.limit.into()));
        if end <= state.first {
            return Ok(done());
        }
        let timeline = op.timeline.as_ref().ok_or_else(|| broken("timeline of a command"))?;
        let end = self.forget_annotations(timeline, state, end)?;
        if end <= state.first {
            return Ok(done());
        }
        let number = state.number;
        let mut removed = Vec::new();
        for record in self.shard.view().range(keys::record(number, state.first)..=keys::record(number, end - 1)) {
            let (key, value) = record?;
            // A record that was replaced in this batch holds no file any more, and does not expire.
            let pending = self.changes.get(&key).map(|pending| pending.ok_or_else(|| broken("gap in a timeline")));
            removed.push((keys::seq_of(&key)?, marks(pending.transpose()?.unwrap_or(&*value))?));
        }
        // The other records were appended in this batch.
        for seq in state.first + removed.len() as u64..end {
            let pending = self.changes.get(&keys::record(number, seq)).flatten();
            removed.push((seq, marks(pending.ok_or_else(|| broken("gap in a timeline"))?)?));
        }
        for ((seq, (duplicate, expires_ms, media)), expected) in removed.into_iter().zip(state.first..) {
            if seq != expected {
                return Err(broken("gap in a timeline"));
            }
            self.release_media(&media)?;
            self.changes.delete(keys::record(number, seq));
            self.changes.delete(keys::duplicate(number, &duplicate));
            self.forget_expiry(expires_ms, number, seq);
        }
        held.state.first = end;
        self.changes.put(key.clone(), held.state.to_value());
        self.touched.insert(key, Some(held));
        Ok(done())
    }

    fn end_timeline(&mut self, op: &EndTimeline) -> io::Result<Outcome> {
        let key = timeline_key(op.timeline.as_ref())?;
        let before = self.held(&key)?;
        if before.is_none_or(|before| before.state.incarnation < op.incarnation) {
            self.end(op.timeline.as_ref(), before)?;
            let state =
                TimelineState { number: 0, epoch: 0, first: 1, last: 0, incarnation: op.incarnation, counted: 0 };
            self.changes.put(key.clone(), state.to_value());
            self.touched.insert(key, Some(CachedTimeline::new(state)));
        }
        Ok(done())
    }

    /// The remains belong to no timeline any more.
    fn end(&mut self, timeline: Option<&TimelineKey>, before: Option<CachedTimeline>) -> io::Result<()> {
        let (Some(timeline), Some(state)) = (timeline, before.map(|before| before.state)) else { return Ok(()) };
        if state.number != 0 {
            self.changes.put(keys::garbage(state.number), RowBytes::default());
            if timeline.kind() == Kind::Group {
                let name = timeline.owner_str().map_err(|_| broken("name of a group"))?;
                self.changes.delete(keys::domain_group(name));
            }
            self.leave_groups(timeline, &state)?;
        }
        Ok(())
    }

    fn held(&mut self, key: &[u8]) -> io::Result<Option<CachedTimeline>> {
        if let Some(held) = self.touched.get(key) {
            return Ok(*held);
        }
        let held = match self.states.take(key) {
            Some(held) => Some(held),
            None => TimelineState::load(&self.shard.view(), key)?.map(CachedTimeline::new),
        };
        self.touched.insert(key.into(), held);
        Ok(held)
    }

    fn create(&mut self, key: RowBytes, epoch: u64, incarnation: u64) -> io::Result<TimelineState> {
        let number = self.get(keys::NEXT_NUMBER, keys::number_of)?.unwrap_or(1);
        self.changes.put(keys::NEXT_NUMBER, keys::number_value(number + 1));
        let state = TimelineState { number, epoch, first: 1, last: 0, incarnation, counted: 0 };
        self.changes.put(key, state.to_value());
        Ok(state)
    }

    fn get<T>(&self, key: &[u8], parse: impl Fn(&[u8]) -> io::Result<T>) -> io::Result<Option<T>> {
        match self.changes.get(key) {
            Some(value) => value.map(parse).transpose(),
            None => self.shard.get(key)?.map(|value| parse(&value)).transpose(),
        }
    }
}

/// The duplicate key of a record, and when its content is to be removed.
fn marks(record: &[u8]) -> io::Result<([u8; 16], u64, Vec<bytes::Bytes>)> {
    let stored = Stored::decode(record)?;
    Ok((stored.duplicate, stored.header.expires_ms, media_holds::held_by(&stored)))
}

fn duplicate_key(op: &Append) -> io::Result<[u8; 16]> {
    if op.new_epoch == 0 {
        return Err(broken("epoch 0"));
    }
    op.duplicate_key.as_ref().try_into().map_err(|_| broken("duplicate key"))
}

fn timeline_key(timeline: Option<&TimelineKey>) -> io::Result<RowBytes> {
    match timeline {
        Some(timeline) if timeline.kind() != Kind::Unspecified => Ok(keys::timeline(timeline)),
        Some(_) | None => Err(broken("timeline of a command")),
    }
}

fn done() -> Outcome {
    Outcome::Done(Done {})
}

fn rejected(reason: Reason, detail: &str) -> Outcome {
    let why = Why::Rejected(Rejected { reason: reason.into(), detail: detail.to_owned(), retry_after_ms: 0 });
    Outcome::Error(StoreError { why: Some(why) })
}
