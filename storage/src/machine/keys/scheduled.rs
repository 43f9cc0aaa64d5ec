//! Keys of scheduled messages in timeline shards.

use std::{io, ops::RangeInclusive};

use super::{DUE, RowBytes, SCHEDULED, broken, key, number_of};

/// The key of what an inbox's scheduled messages come to.
pub(crate) fn scheduled_list(number: u64) -> RowBytes {
    key(SCHEDULED, &[&number.to_be_bytes()])
}

pub(crate) fn scheduled(number: u64, id: u64) -> RowBytes {
    key(SCHEDULED, &[&number.to_be_bytes(), &id.to_be_bytes()])
}

/// The range of an inbox's scheduled messages after this one.
pub(crate) fn scheduled_after(number: u64, id: u64) -> RangeInclusive<RowBytes> {
    scheduled(number, id.saturating_add(1))..=scheduled(number, u64::MAX)
}

/// Number of the inbox, and the id of the message; `None` for the key of the list.
pub(crate) fn scheduled_of(key: &[u8]) -> io::Result<(u64, Option<u64>)> {
    match key {
        [SCHEDULED, number @ ..] if number.len() == 8 => Ok((number_of(number)?, None)),
        [SCHEDULED, rest @ ..] if rest.len() == 16 => Ok((number_of(&rest[..8])?, Some(number_of(&rest[8..])?))),
        _ => Err(broken("key of a scheduled message")),
    }
}

/// True for the key of a scheduled message, or of a list of them.
pub(crate) fn is_scheduled(key: &[u8]) -> bool {
    key.first() == Some(&SCHEDULED)
}

pub(crate) fn due(at_ms: u64, number: u64, id: u64) -> RowBytes {
    key(DUE, &[&at_ms.to_be_bytes(), &number.to_be_bytes(), &id.to_be_bytes()])
}

/// The range of all scheduled messages that wait, in the order of their times.
pub(crate) fn all_due() -> RangeInclusive<RowBytes> {
    key(DUE, &[])..=key(DUE + 1, &[])
}

/// Time, number of the inbox, and id.
pub(crate) fn due_of(key: &[u8]) -> io::Result<(u64, u64, u64)> {
    match key {
        [DUE, rest @ ..] if rest.len() == 24 => {
            Ok((number_of(&rest[..8])?, number_of(&rest[8..16])?, number_of(&rest[16..])?))
        }
        _ => Err(broken("key of a time of a scheduled message")),
    }
}
