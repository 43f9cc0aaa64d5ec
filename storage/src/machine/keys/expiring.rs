//! Keys of expiring messages in timeline shards.

use std::{io, ops::RangeInclusive};

use carillon_proto::pb::store::TimelineKey;

use super::{EXPIRING, RowBytes, broken, key, number_of, timeline::named};

/// `at_ms`: when the content of the message is to be removed, by the shard's clock.
pub(crate) fn expiring(at_ms: u64, number: u64, seq: u64) -> RowBytes {
    key(EXPIRING, &[&at_ms.to_be_bytes(), &number.to_be_bytes(), &seq.to_be_bytes()])
}

/// The range of the messages whose contents are to be removed by then, in the order of their times.
pub(crate) fn expiring_until(at_ms: u64) -> RangeInclusive<RowBytes> {
    key(EXPIRING, &[])..=expiring(at_ms, u64::MAX, u64::MAX)
}

/// Time, number of the timeline, and position.
pub(crate) fn expiring_of(key: &[u8]) -> io::Result<(u64, u64, u64)> {
    match key {
        [EXPIRING, rest @ ..] if rest.len() == 24 => {
            Ok((number_of(&rest[..8])?, number_of(&rest[8..16])?, number_of(&rest[16..])?))
        }
        _ => Err(broken("key of an expiring message")),
    }
}

/// The value of `EXPIRING`, for the timeline with this key.
pub(crate) fn expiring_in(timeline: &[u8]) -> RowBytes {
    timeline.get(1..).unwrap_or_default().into()
}

pub(crate) fn expiring_in_of(value: &[u8]) -> io::Result<TimelineKey> {
    named(value)
}
