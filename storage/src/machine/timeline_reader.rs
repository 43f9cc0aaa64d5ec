//! Reads of a timeline shard.

use std::io;

use bytes::Bytes;
use carillon_proto::{
    Level,
    limits::{BATCH_BYTES, MAX_NODE_MESSAGE_BYTES},
    pb::store::{
        CollectGarbage, Head, HeadRead, HeadsRead, Person, ReadHead, ReadHeads, ReadTimeline, Rejected, StoredEntry,
        TimelineKey, TimelineRead, Trim, rejected::Reason, sweep_conversations::Seen as SeenConversation,
        sweep_cursors::Seen, sweep_memberships::Seen as SeenMembership, timeline_key::Kind,
    },
};

use super::{
    Ages, ShardLevel, Unread,
    annotations::{self, ReadBy},
    conversations::unread_in_group,
    groups::Readable,
    keys::{self, Cursor, Stored},
    outbox_reader::first_untold,
    retention::{self, Retention},
    timeline::TimelineState,
};
use crate::engine::fjall::{TimelineShard, TimelineView, Value};

/// Most entries that one read returns, whatever it asks for.
const MAX_ENTRIES: usize = 1024;
/// Most bytes of envelopes that one read returns, so that the answer fits in a message between nodes.
const MAX_BYTES: usize = MAX_NODE_MESSAGE_BYTES / 2;

/// Most records of ended timelines that one command removes: it bounds the time of one command.
pub(crate) const COLLECTED_KEYS: u32 = 512;

/// Reads the applied state, from any thread; each read sees one state.
#[derive(Clone)]
pub(crate) struct TimelineReader {
    pub(super) shard: TimelineShard,
    level: ShardLevel,
}

impl TimelineReader {
    pub(crate) fn new(shard: TimelineShard, level: ShardLevel) -> Self {
        Self { shard, level }
    }

    pub(crate) fn level(&self) -> Level {
        self.level.get()
    }

    /// With a limit of 0 the store chooses.
    pub(crate) fn read(&self, op: &ReadTimeline) -> Result<TimelineRead, Unread> {
        let view = self.shard.view();
        let state = match op.timeline.as_ref().is_some_and(is_group) {
            true => Some(Readable::load(&view, op.timeline.as_ref(), op.reader.as_ref(), None)?.seen()?),
            false => load(&view, op.timeline.as_ref(), op.incarnation)?,
        };
        let Some(state) = state else {
            return Ok(TimelineRead { head: Some(head(None)), entries: Vec::new(), complete: true });
        };
        let (first, last) = (state.first, state.last);
        let (from, to) = match (op.backward, op.from_seq) {
            (false, from) => (from.max(first), last),
            (true, 0) => (first, last),
            (true, from) => (first, from.min(last)),
        };
        let mut read = TimelineRead { head: Some(head(Some(&state))), entries: Vec::new(), complete: true };
        if from > to {
            return Ok(read);
        }
        let owner = op.timeline.as_ref().and_then(|timeline| str::from_utf8(&timeline.owner).ok()).unwrap_or_default();
        let read_by = match &op.reader {
            Some(Person { user, incarnation }) => Some(ReadBy { user, incarnation: *incarnation }),
            None if op.timeline.as_ref().is_some_and(is_group) => None,
            None => Some(ReadBy { user: owner, incarnation: 0 }),
        };
        let states = |seq| match op.states {
            true => annotations::state(&view, state.number, seq, read_by),
            false => Ok(Bytes::new()),
        };
        if let Some(seqs) = chosen(&view, &state, op)? {
            return Ok(entries_at(&view, &state, seqs, op, read, states)?);
        }
        let records = view.range(keys::record(state.number, from)..=keys::record(state.number, to));
        if op.backward {
            collect(records.rev(), op, &mut read, states)?;
        } else {
            collect(records, op, &mut read, states)?;
        }
        let end = if op.backward { from } else { to };
        read.complete = read.entries.last().is_none_or(|entry| entry.seq == end);
        Ok(read)
    }

    pub(crate) fn head(&self, op: &ReadHead) -> Result<Head, Unread> {
        let view = self.shard.view();
        let Some(state) = load(&view, op.timeline.as_ref(), op.incarnation)? else { return Ok(head(None)) };
        let mut head = head(Some(&state));
        if !op.device.is_empty()
            && let Some(value) = view.get(&keys::cursor(state.number, &op.device))?
        {
            head.cursor = Cursor::decode(&value)?.seq;
            head.has_cursor = true;
        }
        if let Some((of, group)) = op.unread_of.as_ref().zip(op.timeline.as_ref())
            && is_group(group)
        {
            (head.unread, head.mentions) = unread_in_group(&view, group, of)?;
        }
        Ok(head)
    }

    /// Up to `limit` cursors of the device in groups, after this group: group, epoch, position. For devices that sign
    /// in without memory, once there are groups; the request of the store comes then.
    #[cfg(test)]
    pub(crate) fn group_cursors(
        &self,
        inbox: &ReadHead,
        after: Option<&TimelineKey>,
        limit: usize,
    ) -> Result<Vec<(TimelineKey, u64, u64)>, Unread> {
        let view = self.shard.view();
        let Some(state) = load(&view, inbox.timeline.as_ref(), inbox.incarnation)? else { return Ok(Vec::new()) };
        let (begin, end) = keys::group_cursors_of(state.number, &inbox.device).into_inner();
        let begin = after.map_or(begin, |after| keys::after(&keys::group_cursor(state.number, &inbox.device, after)));
        let mut found = Vec::new();
        for row in view.range(begin..=end).take(limit) {
            let (key, value) = row?;
            let (_, _, group) = keys::group_cursor_of(&key)?;
            let keys::GroupCursor { epoch, seq, .. } = keys::GroupCursor::decode(&value)?;
            found.push((group, epoch, seq));
        }
        Ok(found)
    }

    pub(crate) fn heads(&self, op: &ReadHeads) -> io::Result<HeadsRead> {
        let read = |read: &ReadHead| match self.head(read) {
            Ok(head) => Ok(HeadRead { head: Some(head) }),
            Err(Unread::Rejected(_)) => Ok(HeadRead { head: None }),
            Err(Unread::Engine(error)) => Err(error),
        };
        Ok(HeadsRead { heads: op.reads.iter().map(read).collect::<io::Result<_>>()? })
    }

    /// Up to `limit` timelines of the shard after this one, each with its epoch.
    pub(crate) fn epochs(&self, after: Option<&TimelineKey>, limit: usize) -> io::Result<Vec<(TimelineKey, u64)>> {
        let view = self.shard.view();
        let begin = after.map_or_else(keys::timelines, |after| keys::after(&keys::timeline(after)));
        let rows = view.range(begin..=keys::after_timelines()).take(limit);
        rows.map(|row| {
            let (key, value) = row?;
            Ok((keys::timeline_of(&key)?, TimelineState::of_value(&view, &value, false)?.epoch))
        })
        .collect()
    }

    #[cfg(feature = "planted-bugs")]
    pub(crate) fn foresee(&self, commands: impl Iterator<Item = bytes::Bytes>) -> io::Result<Vec<super::Outcome>> {
        super::timeline::planted::foresee(&self.shard, commands)
    }

    /// Up to `limit` commands that remove the remains of ended timelines. The remains of a group stay while the outbox has changes of the group to
    /// tell: they have the envelopes.
    pub(crate) fn garbage(&self, limit: usize) -> io::Result<Vec<CollectGarbage>> {
        let view = self.shard.view();
        let mut garbage = view.range(keys::all_garbage()).map(|record| keys::garbage_of(&record?.0)).peekable();
        if garbage.peek().is_none() {
            return Ok(Vec::new());
        }
        let untold = first_untold(&view)?;
        let is_due = |number: &io::Result<u64>| !number.as_ref().is_ok_and(|number| untold.contains_key(number));
        let collect = |number| CollectGarbage { number, limit: COLLECTED_KEYS };
        garbage.filter(is_due).take(limit).map(|number| number.map(collect)).collect()
    }

    /// Up to `limit` trims that are due by the shard's clock, of timelines after the key `after`, and the key after which to
    /// continue; empty at the end. Each call looks at a bounded number of timelines. Changes of groups stay while the outbox has to tell them.
    pub(crate) fn due_trims(
        &self,
        after: &[u8],
        retention: &Retention,
        ages: &Ages,
        limit: usize,
    ) -> io::Result<(Vec<Trim>, Vec<u8>)> {
        retention::due(&self.shard.view(), after, retention, ages, limit)
    }

    /// Finds cursors of devices that have been gone for too long, in the same way.
    pub(crate) fn gone_cursors(
        &self,
        after: &[u8],
        retention: &Retention,
        limit: usize,
    ) -> io::Result<(Vec<Seen>, Vec<u8>)> {
        retention::gone(&self.shard.view(), after, retention, limit)
    }

    /// Finds conversations of which no message is kept, in the same way.
    pub(crate) fn ended_conversations(
        &self,
        after: &[u8],
        limit: usize,
    ) -> io::Result<(Vec<SeenConversation>, Vec<u8>)> {
        retention::ended(&self.shard.view(), after, limit)
    }

    /// Finds rows of groups that users have left long ago, in the same way.
    pub(crate) fn left_groups(
        &self,
        after: &[u8],
        retention: &Retention,
        limit: usize,
    ) -> io::Result<(Vec<SeenMembership>, Vec<u8>)> {
        retention::left(&self.shard.view(), after, retention, limit)
    }
}

/// The timeline of this incarnation of its owner, or of the group that there is. A timeline of an earlier incarnation does not exist for
/// this read.
pub(super) fn load(
    view: &TimelineView<'_>,
    timeline: Option<&TimelineKey>,
    incarnation: u64,
) -> Result<Option<TimelineState>, Unread> {
    let Some(timeline) = timeline else { return Ok(None) };
    match TimelineState::load(view, &keys::timeline(timeline))? {
        state if is_group(timeline) => Ok(state.filter(|state| state.number != 0)),
        Some(state) if state.incarnation > incarnation => Err(Unread::Rejected(Rejected {
            reason: Reason::Gone.into(),
            detail: "the inbox of this user has ended".to_owned(),
            ..Rejected::default()
        })),
        state => Ok(state.filter(|state| state.incarnation == incarnation && state.number != 0)),
    }
}

pub(super) fn is_group(timeline: &TimelineKey) -> bool {
    timeline.kind() == Kind::Group
}

pub(super) fn head(state: Option<&TimelineState>) -> Head {
    match state {
        Some(state) => Head { epoch: state.epoch, first: state.first, last: state.last, ..Head::default() },
        None => Head { first: 1, ..Head::default() },
    }
}

fn collect(
    records: impl Iterator<Item = io::Result<(Value, Value)>>,
    op: &ReadTimeline,
    read: &mut TimelineRead,
    state: impl Fn(u64) -> io::Result<Bytes>,
) -> io::Result<()> {
    let max_bytes = or(op.max_bytes, BATCH_BYTES, MAX_BYTES);
    let mut bytes = 0;
    for record in records.take(or(op.limit, MAX_ENTRIES, MAX_ENTRIES)) {
        let (key, value) = record?;
        let (seq, stored) = (keys::seq_of(&key)?, Stored::decode(&value)?);
        let envelope = if op.with_recalled { stored.envelope() } else { stored.shown() };
        let state = state(seq)?;
        bytes += envelope.len() + state.len();
        if bytes > max_bytes && !read.entries.is_empty() {
            break;
        }
        read.entries.push(StoredEntry { seq, envelope, state });
    }
    Ok(())
}

fn or(given: u32, default: usize, max: usize) -> usize {
    if given == 0 { default } else { max.min(given as usize) }
}

/// The positions of the edits or of the pinned messages that are asked for.
fn chosen(view: &TimelineView<'_>, state: &TimelineState, op: &ReadTimeline) -> io::Result<Option<Vec<u64>>> {
    let seqs = match &op.pinned_with {
        Some(with) => annotations::pinned(view, state.number, with)?,
        None if op.edits_of == 0 => return Ok(None),
        // Edits stand behind what they edit.
        None if op.edits_of < state.first => Vec::new(),
        None => annotations::edits(view, state.number, op.edits_of)?,
    };
    Ok(Some(seqs.into_iter().filter(|seq| *seq >= op.from_seq.max(state.first)).collect()))
}

fn entries_at(
    view: &TimelineView<'_>,
    timeline: &TimelineState,
    seqs: Vec<u64>,
    op: &ReadTimeline,
    mut read: TimelineRead,
    state: impl Fn(u64) -> io::Result<Bytes>,
) -> io::Result<TimelineRead> {
    let (max_bytes, limit) = (or(op.max_bytes, BATCH_BYTES, MAX_BYTES), or(op.limit, MAX_ENTRIES, MAX_ENTRIES));
    let mut bytes = 0;
    for seq in seqs {
        let Some(envelope) = annotations::envelope(view, timeline.number, seq, op.with_recalled)? else { continue };
        let entry = StoredEntry { seq, envelope, state: state(seq)? };
        bytes += entry.envelope.len() + entry.state.len();
        if read.entries.len() == limit || (bytes > max_bytes && !read.entries.is_empty()) {
            read.complete = false;
            break;
        }
        read.entries.push(entry);
    }
    Ok(read)
}
