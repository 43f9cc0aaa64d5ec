//! The level: the version of what may stand in the replicated logs. See docs/adr/0012-levels.md.
//!
//! | level | what it adds |
//! | --- | --- |
//! | 0 | what there was before levels |
//! | 1 | in all shards `SetLevel`; in directory shard 0 members, placement and level of the cluster as rows; `EndSender`; of `Append` the fields `sender`, `sender_generation` and `only_repeat`; `Account.remade`; what `PutAccount` does to a name that had another owner before (tokens of the second in which it is made do not count), and to an account that has no password before and after (it is new credentials) |
//! | 2 | `MoveCursors`; of `SweepCursors.Seen` the fields `group` and `epoch` |
//! | 3 | of `PutSession.session` the fields `instance` and `attempt` |
//! | 4 | in directory shard 0 `AddStorageNode`, `SetStorageNodeState`, `MoveReplica`, `ReplicaJoined`, `SetReplicaVotes`, `DropStorageNode`, `Rebalance`, `PreferReplica`; of `SetStorageNode.node` the field `zone` |
//! | 5 | in directory shards `EraseAccount` and `AccountErased`; in timeline shards `EraseSender`, `Redact` and `SenderErased` |
//! | 6 | in directory shard 0 `AddRingSlot` and `DropRingSlot`, and the slots of routers: those that are registered get one when the level rises, later ones when they register |
//! | 7 | in timeline shards `ChangeGroup`, `SetMembership`, `SettleOutbox`, `SweepMemberships`, `MoveMarks`, `SetConversation`, `SweepConversations`, `CreateMedia`, `CompleteMedia`, `RemoveMedia`, `ForgetReleasedMedia`, `NoteReleasedMedia`, `CheckMedia`, `CollectMedia`, `Schedule`, `ChangeScheduled`, `ReleaseScheduled`, `SettleScheduled`, `ExpireMessages`, `PutReport`, `SettleReport` and `RemoveReports`; what `EraseSender` does to reports of the user; of `Append` the fields `sender_incarnation`, `header`, `peer`, `peer_incarnation` and `admission`; what `Append` does to conversations, and to the row of a group's member; what `Append` does in a group's timeline: the sender must be a member who may write; what the end of an inbox does: its user leaves all groups; in directory shard 0 `SetDomain`; of `PutAccount` the field `most_accounts`, and that accounts of other domains than the default one are made, and counted; in directory shards `ChangeContact` and `ChangePrivacy`, and what the end of an account does: its contacts are told |
//!
//! A program reads all levels up to its own, and writes by the level of the shard. What a release adds to commands (a kind,
//! or a field of one) needs the next level, and a line here.

use std::fmt;

use crate::pb::store::Release;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Level(pub u32);

impl Level {
    pub const BEFORE: Self = Self(0);
    /// Adds what the table lists for level 1.
    pub const CLUSTER: Self = Self(1);
    /// Adds what the table lists for level 2.
    pub const CURSORS: Self = Self(2);
    /// Adds what the table lists for level 3.
    pub const ATTEMPTS: Self = Self(3);
    /// Adds what the table lists for level 4.
    pub const GROWTH: Self = Self(4);
    /// Adds what the table lists for level 5.
    pub const ERASURE: Self = Self(5);
    /// Adds what the table lists for level 6.
    pub const RING_SLOTS: Self = Self(6);
    /// Adds what the table lists for level 7.
    pub const GROUPS: Self = Self(7);
    /// The highest level that this program reads.
    pub const OF_PROGRAM: Self = Self::GROUPS;
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Release {
    /// That of this program.
    pub fn own() -> Self {
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), level: Level::OF_PROGRAM.0 }
    }
}
