//! The level by which a shard reads its commands. See docs/adr/0012-levels.md.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use carillon_proto::{
    Level,
    pb::store::{Append, Session, SetLevel, directory_command::Op as DirectoryOp, timeline_command::Op as TimelineOp},
};
use prost::Message;

use super::keys;
use crate::engine::Changes;

/// The level that a shard has applied, for whoever proposes commands.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShardLevel(Arc<AtomicU32>);

impl ShardLevel {
    pub(crate) fn get(&self) -> Level {
        Level(self.0.load(Ordering::Acquire))
    }

    pub(super) fn set(&self, level: Level) {
        self.0.store(level.0, Ordering::Release);
    }
}

/// The shard's level at the command's place in the log, and the highest level that the program knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) level: Level,
    /// The highest level that this program knows.
    pub(super) known: Level,
}

impl Reading {
    /// Reads the value of `LEVEL`.
    pub(super) fn load(value: Option<&[u8]>, known: Level) -> io::Result<Self> {
        let level = value.map_or(Ok(Level::BEFORE), keys::level_of)?;
        if level > known {
            return Err(too_new(level, known));
        }
        Ok(Self { level, known })
    }

    /// Decodes a command. Fails if it has a field that this program does not know.
    pub(super) fn decode<M: Message + Default>(self, bytes: Bytes) -> io::Result<M> {
        let length = bytes.len();
        let command = M::decode(bytes).map_err(|error| unreadable(&format!("a command is damaged: {error}")))?;
        // Unknown fields are lost when the command is encoded again. A test program that stands for a later one knows
        // all fields.
        if command.encoded_len() != length && self.known <= Level::OF_PROGRAM {
            return Err(unreadable("a command has a field that this program does not know"));
        }
        Ok(command)
    }

    /// Fails if a command that needs this level must not occur here.
    pub(super) fn check(self, needs: Level) -> io::Result<()> {
        if needs <= self.level {
            return Ok(());
        }
        Err(unreadable(&format!("a command of level {needs} stands where the shard is at level {}", self.level)))
    }

    /// Sets the level. True if it changed.
    pub(super) fn set(&mut self, op: &SetLevel, changes: &mut Changes) -> io::Result<bool> {
        let level = Level(op.level);
        if level > self.known {
            return Err(too_new(level, self.known));
        }
        if level <= self.level {
            return Ok(false);
        }
        self.level = level;
        changes.put(keys::LEVEL, keys::level_value(level));
        Ok(true)
    }
}

/// The lowest level at which a shard takes this command.
pub(crate) fn directory_level(op: &DirectoryOp) -> Level {
    match op {
        DirectoryOp::PutSession(op) if op.session.as_ref().is_some_and(is_numbered) => Level::ATTEMPTS,
        DirectoryOp::PutAccount(op) if op.most_accounts.is_some() => Level::GROUPS,
        DirectoryOp::DeleteSession(op) if op.time_ms != 0 || op.generation != 0 => Level::GROUPS,
        DirectoryOp::PutAccount(_)
        | DirectoryOp::DeleteAccount(_)
        | DirectoryOp::PutSession(_)
        | DirectoryOp::DeleteSession(_)
        | DirectoryOp::RegisterNode(_)
        | DirectoryOp::RenewLease(_)
        | DirectoryOp::DeregisterNode(_)
        | DirectoryOp::AdvanceLeaseClock(_)
        | DirectoryOp::RevokeTokens(_)
        | DirectoryOp::EndSessions(_)
        | DirectoryOp::InboxEnded(_)
        // The command that raises the level.
        | DirectoryOp::SetLevel(_) => Level::BEFORE,
        DirectoryOp::SetStorageNode(op) if op.node.as_ref().is_some_and(|node| !node.zone.is_empty()) => Level::GROWTH,
        DirectoryOp::AddStorageNode(_)
        | DirectoryOp::SetStorageNodeState(_)
        | DirectoryOp::MoveReplica(_)
        | DirectoryOp::ReplicaJoined(_)
        | DirectoryOp::SetReplicaVotes(_)
        | DirectoryOp::DropStorageNode(_)
        | DirectoryOp::Rebalance(_)
        | DirectoryOp::PreferReplica(_) => Level::GROWTH,
        DirectoryOp::EraseAccount(_) | DirectoryOp::AccountErased(_) => Level::ERASURE,
        DirectoryOp::ChangeContact(_) | DirectoryOp::ChangePrivacy(_) | DirectoryOp::SetDomain(_) => Level::GROUPS,
        DirectoryOp::AddRingSlot(_) | DirectoryOp::DropRingSlot(_) => Level::RING_SLOTS,
        DirectoryOp::FoundCluster(_)
        | DirectoryOp::SetStorageNode(_)
        | DirectoryOp::RaiseLevel(_)
        | DirectoryOp::PlaceReplica(_)
        | DirectoryOp::RemoveReplica(_)
        | DirectoryOp::ForgetReplica(_) => Level::CLUSTER,
    }
}

/// True if the client has numbered its sign-in.
fn is_numbered(session: &Session) -> bool {
    session.instance != 0 || session.attempt != 0
}

/// The lowest level at which a timeline shard takes this command.
pub(crate) fn timeline_level(op: &TimelineOp) -> Level {
    match op {
        TimelineOp::Append(op) if is_of_groups(op) => {
            Level::GROUPS
        }
        TimelineOp::ChangeGroup(_)
        | TimelineOp::SetMembership(_)
        | TimelineOp::SettleOutbox(_)
        | TimelineOp::SweepMemberships(_)
        | TimelineOp::MoveMarks(_)
        | TimelineOp::SetConversation(_)
        | TimelineOp::SweepConversations(_) => Level::GROUPS,
        | TimelineOp::Schedule(_)
        | TimelineOp::ChangeScheduled(_)
        | TimelineOp::ReleaseScheduled(_)
        | TimelineOp::SettleScheduled(_)
        | TimelineOp::PutReport(_)
        | TimelineOp::SettleReport(_)
        | TimelineOp::RemoveReports(_)
        | TimelineOp::ExpireMessages(_)
        | TimelineOp::CreateMedia(_)
        | TimelineOp::CompleteMedia(_)
        | TimelineOp::RemoveMedia(_)
        | TimelineOp::ForgetReleasedMedia(_)
        | TimelineOp::NoteReleasedMedia(_)
        | TimelineOp::CheckMedia(_)
        | TimelineOp::CollectMedia(_) => Level::GROUPS,
        // Programs from before levels ignore these fields.
        TimelineOp::Append(op) if !op.sender.is_empty() || op.sender_generation != 0 || op.only_repeat => Level::CLUSTER,
        TimelineOp::EndSender(_) => Level::CLUSTER,
        TimelineOp::MoveCursors(_) => Level::CURSORS,
        TimelineOp::EraseSender(_) | TimelineOp::Redact(_) | TimelineOp::SenderErased(_) => Level::ERASURE,
        TimelineOp::SweepCursors(op) if op.cursors.iter().any(|seen| seen.group.is_some() || seen.epoch != 0) => {
            Level::CURSORS
        }
        TimelineOp::Append(_)
        | TimelineOp::SetCursor(_)
        | TimelineOp::Trim(_)
        | TimelineOp::AdvanceClock(_)
        | TimelineOp::SweepCursors(_)
        | TimelineOp::RenewEpoch(_)
        | TimelineOp::EndTimeline(_)
        | TimelineOp::CollectGarbage(_)
        // The command that raises the level.
        | TimelineOp::SetLevel(_) => Level::BEFORE,
    }
}

/// True if it has fields that have come with groups and conversations.
fn is_of_groups(op: &Append) -> bool {
    op.sender_incarnation != 0
        || op.peer_incarnation != 0
        || !op.peer.is_empty()
        || op.header.is_some()
        || op.admission != 0
}

fn too_new(level: Level, known: Level) -> io::Error {
    let why = format!(
        "this shard is at level {level}, but this program reads levels up to {known}: run the release that wrote it, or a \
         newer one"
    );
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// An error that stops the process: a replica that continued would diverge.
fn unreadable(what: &str) -> io::Error {
    let why = format!(
        "{what}: run the release that wrote it, or a newer one. This replica stops before it differs from the others"
    );
    io::Error::new(io::ErrorKind::InvalidData, why)
}
