//! Keys of messages that have lost what they said, in timeline shards.

use std::io;

use super::{EMPTIED, RowBytes, broken, key, number_of};

/// `peer`: the other user of a direct conversation; empty in a group.
pub(crate) fn emptied(number: u64, peer: &str) -> RowBytes {
    key(EMPTIED, &[&number.to_be_bytes(), peer.as_bytes()])
}

pub(crate) fn emptied_of(key: &[u8]) -> io::Result<(u64, &str)> {
    let broken = || broken("key of messages without content");
    let [EMPTIED, rest @ ..] = key else { return Err(broken()) };
    let (number, peer) = rest.split_at_checked(8).ok_or_else(broken)?;
    Ok((number_of(number)?, str::from_utf8(peer).map_err(|_| broken())?))
}
