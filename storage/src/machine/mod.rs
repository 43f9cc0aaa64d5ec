//! The state machines: they apply the committed entries of a shard to its records. They are deterministic, so that all
//! replicas get the same records: time, ids and epochs come with the command.

mod accounts;
mod admission;
mod annotations;
mod check;
mod cluster;
mod contacts;
mod conversations;
mod copied;
mod directory;
mod directory_reader;
mod domains;
mod emptied;
mod erasure;
mod expiring_reader;
mod groups;
pub(crate) mod keys;
mod level;
mod media_reader;
mod message_reader;
mod outbox_reader;
mod privacy;
mod recent;
mod registry;
mod report_reader;
mod retention;
mod ring_slots;
mod scheduled_reader;
mod senders;
#[cfg(test)]
mod tests;
mod timeline;
mod timeline_reader;
mod user_data;

use std::io;

use bytes::Bytes;
use carillon_proto::pb::store::Rejected;

pub(crate) use self::{
    admission::{admit_directory, admit_timeline},
    check::{MAX_ZONE_BYTES, check_directory, check_timeline, is_the_leaders, is_the_nodes},
    cluster::{ClusterRows, FOUNDERS, REPLICAS},
    copied::Kept,
    directory::DirectoryMachine,
    directory_reader::DirectoryReader,
    domains::{Ages, DomainAges},
    erasure::{Erasing, REDACTED},
    level::{ShardLevel, directory_level, timeline_level},
    media_reader::{DueMedia, FoundFile, REMOVED_MEDIA},
    message_reader::KEYS as FOUND_BY_KEYS,
    registry::RegistryState,
    report_reader::REMOVED_REPORTS,
    retention::{Retention, SWEEP_CONVERSATIONS, SWEEP_CURSORS, SWEEP_MEMBERSHIPS},
    timeline::{TimelineMachine, TimelineState},
    timeline_reader::TimelineReader,
    user_data::CursorRow,
};

#[cfg(test)]
pub(crate) use self::registry::Registry;

/// What one Raft entry asks for.
pub(crate) struct EntryCommands {
    pub(crate) index: u64,
    /// Encoded DirectoryCommand or TimelineCommand; empty for blank and membership entries.
    pub(crate) commands: Vec<Bytes>,
}

/// What a command came to.
pub(crate) type Outcome = carillon_proto::pb::store::store_reply::Result;

/// Why something was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    #[error(transparent)]
    Engine(#[from] io::Error),
    #[error("{}", .0.detail)]
    Rejected(Rejected),
}

/// One record of a machine, or why it could not be read.
pub(crate) type Record = io::Result<(Vec<u8>, Vec<u8>)>;

/// The state of one shard, kept by an engine.
pub(crate) trait Machine: Send + 'static {
    /// The bytes given with the last `apply` or `restore` (the Raft core keeps applied log id and membership in it);
    /// None when empty.
    fn applied(&self) -> io::Result<Option<Vec<u8>>>;

    /// Applies entries in order; effects and `applied` become visible and (later) durable in ONE atomic batch. One
    /// `Vec<Outcome>` for each entry, one outcome for each command. Buffered: no fsync.
    fn apply(&mut self, entries: &[EntryCommands], applied: &[u8]) -> io::Result<Vec<Vec<Outcome>>>;

    /// Makes all applied effects durable (fsync). Called off the async threads, before the log is purged.
    fn syncer(&self) -> Box<dyn Fn() -> io::Result<()> + Send + Sync>;

    /// A consistent view of the records at this moment; iterated on another thread while `apply` goes on.
    fn snapshot(&mut self) -> io::Result<Box<dyn Iterator<Item = Record> + Send>>;

    /// Replaces everything by these records and `applied`. A crash in the midst is recognised at the next open: the
    /// machine is empty then (`applied()` is None) and is rebuilt from snapshot and log.
    fn restore(&mut self, records: &mut dyn Iterator<Item = Record>, applied: &[u8]) -> io::Result<()>;
}

/// Something that can't be, unless a record or a command was damaged or a newer version wrote it. Whoever gets it from
/// a machine stops the process: going on would make this replica another one than the others.
fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} in the store is not what this version writes"))
}
