//! Maps keys to Raft groups. The mapping is fixed when the cluster is made, and is never a ring.

use std::{fmt, hash::Hasher as _};

use siphasher::sip::SipHasher13;

use crate::pb::store;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ShardKind {
    /// Accounts and sessions. The first directory shard also holds the registry.
    Directory,
    /// Timelines, cursors, duplicate keys.
    Timeline,
}

/// One shard. Each shard is one Raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId {
    pub kind: ShardKind,
    pub index: u16,
}

impl ShardId {
    /// The directory shard that holds the cluster's registry.
    pub const REGISTRY: Self = Self { kind: ShardKind::Directory, index: 0 };

    /// The number of the shard's Raft group, on the wire and on disk.
    pub fn group(self) -> u64 {
        let kind: u64 = match self.kind {
            ShardKind::Directory => 1,
            ShardKind::Timeline => 2,
        };
        kind << 32 | u64::from(self.index)
    }

    pub fn from_group(group: u64) -> Option<Self> {
        let kind = match group >> 32 {
            1 => ShardKind::Directory,
            2 => ShardKind::Timeline,
            _ => return None,
        };
        Some(Self { kind, index: u16::try_from(group & 0xffff_ffff).ok()? })
    }

    pub fn to_pb(self) -> store::Shard {
        let kind = match self.kind {
            ShardKind::Directory => store::ShardKind::Directory,
            ShardKind::Timeline => store::ShardKind::Timeline,
        };
        store::Shard { kind: kind.into(), index: self.index.into() }
    }

    pub fn from_pb(shard: &store::Shard) -> Option<Self> {
        let kind = match shard.kind() {
            store::ShardKind::Directory => ShardKind::Directory,
            store::ShardKind::Timeline => ShardKind::Timeline,
            store::ShardKind::Unspecified => return None,
        };
        Some(Self { kind, index: u16::try_from(shard.index).ok()? })
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ShardKind::Directory => write!(f, "directory-{}", self.index),
            ShardKind::Timeline => write!(f, "timeline-{}", self.index),
        }
    }
}

/// The number of shards of each kind, fixed when the cluster is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardMap {
    pub directory: u16,
    pub timeline: u16,
}

impl ShardMap {
    /// The shard of a user's account and sessions.
    pub fn directory_of(self, user: &crate::UserId) -> ShardId {
        ShardId { kind: ShardKind::Directory, index: slot(user.as_str(), self.directory) }
    }

    pub fn timeline_of(self, timeline: &crate::TimelineId) -> ShardId {
        self.timeline_of_owner(timeline.owner())
    }

    /// The shard of the timelines of this user or group.
    pub fn timeline_of_owner(self, owner: &str) -> ShardId {
        ShardId { kind: ShardKind::Timeline, index: slot(owner, self.timeline) }
    }

    pub fn has(self, shard: ShardId) -> bool {
        let count = match shard.kind {
            ShardKind::Directory => self.directory,
            ShardKind::Timeline => self.timeline,
        };
        shard.index < count
    }

    /// All shards, directories first.
    pub fn all(self) -> impl Iterator<Item = ShardId> {
        let directory = (0..self.directory).map(|index| ShardId { kind: ShardKind::Directory, index });
        directory.chain((0..self.timeline).map(|index| ShardId { kind: ShardKind::Timeline, index }))
    }
}

/// SipHash-1-3 with a zero key over the bytes of the owner's id, modulo the number of shards. Data on disk depends on
/// it, so it never changes.
fn slot(owner: &str, shards: u16) -> u16 {
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    hasher.write(owner.as_bytes());
    (hasher.finish() % u64::from(shards.max(1))) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UserId;

    #[test]
    fn placements_never_change() {
        let map = ShardMap { directory: 8, timeline: 16 };
        let placed = ["alice", "bob", "carol"].map(|user| {
            let user = UserId::new(user).expect("valid");
            (map.directory_of(&user).index, map.timeline_of(&crate::TimelineId::Inbox(user)).index)
        });
        assert_eq!(placed, [(1, 1), (2, 10), (2, 2)]);
    }

    #[test]
    fn groups_are_reversible() {
        let map = ShardMap { directory: 3, timeline: 5 };
        for shard in map.all() {
            assert_eq!(ShardId::from_group(shard.group()), Some(shard));
            assert_eq!(ShardId::from_pb(&shard.to_pb()), Some(shard));
            assert!(map.has(shard));
        }
        assert!(!map.has(ShardId { kind: ShardKind::Directory, index: 3 }));
    }
}
