//! Reads of shards that are copied or were made of a copy: as a whole for a backup, and message by message where two
//! shards were copied at different moments.

use std::io;

use bytes::Bytes;
use carillon_proto::pb::store::{TimelineKey, timeline_key::Kind};

use super::{
    DirectoryReader, Record, TimelineReader,
    keys::{self, Stored},
    timeline::TimelineState,
};

/// All records of a shard at one moment.
type Records = Box<dyn Iterator<Item = Record> + Send>;

/// A message in an inbox.
pub(crate) struct Kept {
    pub(crate) seq: u64,
    /// The shard's clock at the append.
    pub(crate) clock_ms: u64,
    pub(crate) duplicate: [u8; 16],
    pub(crate) envelope: Bytes,
    /// The files that it holds.
    pub(crate) media: Vec<Bytes>,
}

impl DirectoryReader {
    /// The bytes given with the last `apply`, and the records that belong to them.
    pub(crate) fn copy(&self) -> io::Result<(Option<Vec<u8>>, Records)> {
        let (applied, records) = self.shard.applied_records()?;
        Ok((applied, Box::new(records)))
    }
}

impl TimelineReader {
    /// The bytes given with the last `apply`, and the records that belong to them.
    pub(crate) fn copy(&self) -> io::Result<(Option<Vec<u8>>, Records)> {
        let (applied, records) = self.shard.applied_records()?;
        Ok((applied, Box::new(records)))
    }

    /// The shard's clock.
    pub(crate) fn clock_ms(&self) -> io::Result<u64> {
        self.shard.get(keys::CLOCK)?.map_or(Ok(0), |value| keys::number_of(&value))
    }

    /// Up to `limit` inboxes of the shard after this one; empty at the end.
    pub(crate) fn inboxes(
        &self,
        after: Option<&TimelineKey>,
        limit: usize,
    ) -> io::Result<Vec<(TimelineKey, TimelineState)>> {
        let view = self.shard.view();
        let begin = after.map_or_else(keys::timelines, |after| keys::after(&keys::timeline(after)));
        let mut found = Vec::new();
        for row in view.range(begin..=keys::after_timelines()) {
            let (key, value) = row?;
            let key = keys::timeline_of(&key)?;
            // Groups stand behind all inboxes.
            if found.len() == limit || key.kind() != Kind::Inbox {
                break;
            }
            found.push((key, TimelineState::of_value(&view, &value, false)?));
        }
        Ok(found)
    }

    pub(crate) fn state(&self, timeline: &TimelineKey) -> io::Result<Option<TimelineState>> {
        TimelineState::load(&self.shard.view(), &keys::timeline(timeline))
    }

    /// The first position that was written when the shard's clock showed this time or a later one.
    pub(crate) fn first_since(&self, state: &TimelineState, clock_ms: u64) -> io::Result<u64> {
        let mut first = state.last + 1;
        if state.first > state.last {
            return Ok(first);
        }
        let view = self.shard.view();
        for row in view.range(keys::record(state.number, state.first)..=keys::record(state.number, state.last)).rev() {
            let (key, value) = row?;
            if Stored::decode(&value)?.clock_ms < clock_ms {
                break;
            }
            first = keys::seq_of(&key)?;
        }
        Ok(first)
    }

    /// Up to `limit` messages from this position on.
    pub(crate) fn kept(&self, state: &TimelineState, from: u64, limit: usize) -> io::Result<Vec<Kept>> {
        let view = self.shard.view();
        let rows = view.range(keys::record(state.number, from)..=keys::record(state.number, state.last)).take(limit);
        rows.map(|row| {
            let (key, value) = row?;
            let stored = Stored::decode(&value)?;
            let (clock_ms, duplicate) = (stored.clock_ms, stored.duplicate);
            let media = stored.header.message.as_ref().map(|message| message.media.clone()).unwrap_or_default();
            Ok(Kept { seq: keys::seq_of(&key)?, clock_ms, duplicate, envelope: stored.envelope(), media })
        })
        .collect()
    }

    /// The message with this duplicate key.
    pub(crate) fn envelope_of(&self, state: &TimelineState, duplicate: &[u8; 16]) -> io::Result<Option<Bytes>> {
        let view = self.shard.view();
        let Some(seq) = view.get(&keys::duplicate(state.number, duplicate))? else { return Ok(None) };
        let record = view.get(&keys::record(state.number, keys::number_of(&seq)?))?;
        record.map(|record| Ok(Stored::decode(&record)?.envelope())).transpose()
    }
}
