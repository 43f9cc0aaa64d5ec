//! Keys of files to which something in the shard refers, or did until not long ago.

use std::{io, ops::RangeInclusive};

use carillon_proto::MediaId;

use super::{MEDIA_HOLD, MEDIA_RELEASED, RowBytes, broken, key, number_of};

pub(crate) fn media_hold(id: &MediaId) -> RowBytes {
    key(MEDIA_HOLD, &[id.as_bytes()])
}

pub(crate) fn media_hold_of(key: &[u8]) -> io::Result<MediaId> {
    let [MEDIA_HOLD, id @ ..] = key else { return Err(broken("key of a hold on a file")) };
    MediaId::from_bytes(id).ok_or_else(|| broken("key of a hold on a file"))
}

pub(crate) fn media_released(at_ms: u64, id: &MediaId) -> RowBytes {
    key(MEDIA_RELEASED, &[&at_ms.to_be_bytes(), id.as_bytes()])
}

/// The range of all files to which nothing in the shard refers any more, in the order in which they were released.
pub(crate) fn all_released_media() -> RangeInclusive<RowBytes> {
    key(MEDIA_RELEASED, &[])..=key(MEDIA_RELEASED + 1, &[])
}

/// Time and file.
pub(crate) fn media_released_of(key: &[u8]) -> io::Result<(u64, MediaId)> {
    let parse = || {
        let [MEDIA_RELEASED, rest @ ..] = key else { return None };
        let (at_ms, id) = rest.split_at_checked(8)?;
        Some((number_of(at_ms).ok()?, MediaId::from_bytes(id)?))
    };
    parse().ok_or_else(|| broken("key of a released file"))
}
