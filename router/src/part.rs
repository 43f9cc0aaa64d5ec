//! Spreads users over parts, each of which has a task or a lock of its own.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use carillon_proto::UserId;

/// The index of the part that has this user.
pub(crate) fn part_of(user: &UserId, parts: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    user.hash(&mut hasher);
    (hasher.finish() % parts as u64) as usize
}
