//! Spreads users and groups over parts, each of which has a task or a lock of its own.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// The index of the part that has the user or group of this name.
pub(crate) fn part_of(name: &str, parts: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    (hasher.finish() % parts as u64) as usize
}
