//! The state of a timeline, as its rows have it.

use std::io;

use carillon_proto::pb::store::RecordHeader;

use crate::{
    engine::fjall::TimelineView,
    machine::keys::{self, RowBytes, Stored},
};

/// Duplicate keys of the last appends that are cached for each of them: the next append mostly refers to one of these.
const TAIL: usize = 8;

/// The state of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimelineState {
    /// Its number in the keys of this shard. 0: the timeline has ended, and nothing was appended since.
    pub(crate) number: u64,
    pub(crate) epoch: u64,
    /// The first position kept; `last + 1` if there is none.
    pub(crate) first: u64,
    /// The last position assigned.
    pub(crate) last: u64,
    /// The incarnation of the account that owns the inbox.
    pub(crate) incarnation: u64,
    /// Of a group: how many messages it has had.
    pub(crate) counted: u64,
}

/// The cached state of a timeline.
#[derive(Clone, Copy)]
pub(super) struct CachedTimeline {
    pub(super) state: TimelineState,
    /// Duplicate keys and positions of the last appends; position 0 for unused places. Says nothing about other
    /// messages.
    tail: [([u8; 16], u64); TAIL],
}

impl TimelineState {
    pub(crate) fn load(view: &TimelineView<'_>, key: &[u8]) -> io::Result<Option<Self>> {
        view.get(key)?.map(|value| Self::of_value(view, &value, keys::is_group(key))).transpose()
    }

    /// From the value of its key, which is written only when the timeline is made or trimmed, and from its last record.
    pub(crate) fn of_value(view: &TimelineView<'_>, value: &[u8], is_group: bool) -> io::Result<Self> {
        let ([number, epoch, first, last], [incarnation, counted]) = keys::timeline_numbers(value)?;
        let records = keys::record(number, first)..=keys::record(number, u64::MAX);
        let (last, counted) = match view.range(records).next_back() {
            Some(record) => {
                let (key, value) = record?;
                let counted = if is_group { Stored::decode(&value)?.header.counted } else { 0 };
                (keys::seq_of(&key)?, counted)
            }
            None => (last, counted),
        };
        Ok(Self { number, epoch, first, last, incarnation, counted })
    }

    pub(super) fn to_value(self) -> RowBytes {
        keys::timeline_value([self.number, self.epoch, self.first, self.last], self.incarnation, self.counted)
    }
}

impl CachedTimeline {
    pub(super) fn new(state: TimelineState) -> Self {
        Self { state, tail: [([0; 16], 0); TAIL] }
    }

    pub(super) fn append(&mut self, duplicate: [u8; 16]) -> u64 {
        self.state.last += 1;
        self.tail[(self.state.last % TAIL as u64) as usize] = (duplicate, self.state.last);
        self.state.last
    }

    /// One more message of a group.
    pub(super) fn count(&mut self) -> RecordHeader {
        self.state.counted += 1;
        self.header(false)
    }

    /// Of the next record of a group.
    pub(super) fn header(&self, uncounted: bool) -> RecordHeader {
        RecordHeader { counted: self.state.counted, uncounted, ..RecordHeader::default() }
    }

    /// False: not known. Trimmed messages no longer belong to the timeline.
    pub(super) fn tail_contains(&self, duplicate: &[u8; 16]) -> bool {
        self.tail.iter().any(|(key, seq)| key == duplicate && *seq >= self.state.first.max(1))
    }
}
