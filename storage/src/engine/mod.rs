//! The storage engines under the state machines. Each is named by one module only.

mod changes;
mod coming;
mod digest;
mod files;
pub(crate) mod fjall;
mod mark;
pub(crate) mod sled;
mod views;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use carillon_proto::{Level, ShardId, ShardKind, ShardMap};

pub(crate) use self::{changes::Changes, mark::check_format};
use self::{fjall::TimelineStore, sled::DirectoryStore};
use crate::{
    damage::is_damage,
    machine::{DirectoryMachine, DirectoryReader, TimelineMachine, TimelineReader, keys},
};

/// The engines' folders in the data folder.
pub(crate) const DIRECTORY: &str = "directory";
pub(crate) const TIMELINE: &str = "timeline";

/// The engines of one node, for all its shards.
pub(crate) struct Engines {
    map: ShardMap,
    /// The highest level that this program reads.
    known: Level,
    directory: DirectoryStore,
    timeline: TimelineStore,
}

/// Memory limits of the engines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caches {
    /// Page cache of the directory engine.
    pub(crate) directory_bytes: u64,
    /// Block cache of the timeline engine.
    pub(crate) timeline_bytes: u64,
    /// Files of the timelines' tables that are kept open.
    pub(crate) timeline_files: usize,
    /// Memtables of all timeline shards together; at least 1 MiB for each shard.
    pub(crate) memtables_bytes: u64,
}

#[cfg(any(test, fuzzing))]
impl Default for Caches {
    fn default() -> Self {
        Self { directory_bytes: 16 << 20, timeline_bytes: 16 << 20, timeline_files: 64, memtables_bytes: 64 << 20 }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("directory engine in {path} can't be opened: {source}")]
    Directory { path: PathBuf, source: io::Error },
    #[error(
        "timeline engine in {path} can't be opened: {source}; if its files are damaged, `carillon repair` makes it anew \
         from snapshots and log"
    )]
    Timeline { path: PathBuf, source: io::Error },
    #[error("{path} has format {found}, but this version reads formats up to {known}: run the version that wrote it")]
    Format { path: PathBuf, found: String, known: u32 },
    #[error("{path} can't be read or written: {source}")]
    Mark { path: PathBuf, source: io::Error },
    #[error("{path} is in use by another process: stop it first")]
    InUse { path: PathBuf },
}

impl OpenError {
    fn format(path: &Path, found: String) -> Self {
        Self::Format { path: path.to_owned(), found, known: keys::FORMAT }
    }
}

impl Engines {
    /// Opens or creates `directory` and `timeline` in this folder. A shard may come back empty, or behind what it had
    /// applied; it continues from the newer of that state and the last snapshot. Blocking.
    pub(crate) fn open(dir: &Path, map: ShardMap, caches: Caches) -> Result<Self, OpenError> {
        fs::create_dir_all(dir).map_err(|source| OpenError::Mark { path: dir.to_owned(), source })?;
        let directory = DirectoryStore::open(&dir.join(DIRECTORY), caches.directory_bytes)?;
        let path = dir.join(TIMELINE);
        let timeline = TimelineStore::open(&path, &caches, map.timeline)?;
        Ok(Self { map, known: Level::OF_PROGRAM, directory, timeline })
    }

    /// Reads all that the engines of a stopped node hold, and says which kinds of shards are damaged. Errors are others.
    pub(crate) fn check(dir: &Path, map: ShardMap, caches: Caches) -> Result<Vec<(ShardKind, OpenError)>, OpenError> {
        let directory = DirectoryStore::check(&dir.join(DIRECTORY), caches.directory_bytes);
        let timeline = TimelineStore::check(&dir.join(TIMELINE), &caches, map.timeline);
        let mut damaged = Vec::new();
        for (kind, checked) in [(ShardKind::Directory, directory), (ShardKind::Timeline, timeline)] {
            match checked {
                Ok(()) => {}
                Err(error) if is_damage(&error) => damaged.push((kind, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(damaged)
    }

    /// Makes the files of the timelines anew, so that nothing is left of what was overwritten or removed before. Blocking, and as
    /// long as it takes to write everything.
    pub(crate) fn rewrite_timelines(&self) -> io::Result<()> {
        self.timeline.rewrite()
    }

    /// Limits the level that the program reads.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn knowing(self, known: Level) -> Self {
        Self { known, ..self }
    }

    /// Call it again only when nothing is left of the previous machine: there is one writer.
    pub(crate) fn directory(&self, shard: ShardId) -> io::Result<(DirectoryMachine, DirectoryReader)> {
        self.has(shard, ShardKind::Directory, self.map.directory)?;
        DirectoryMachine::open(self.directory.shard(shard.index)?, self.known)
    }

    /// Call it again only when nothing is left of the previous machine: there is one writer.
    pub(crate) fn timeline(&self, shard: ShardId) -> io::Result<(TimelineMachine, TimelineReader)> {
        self.has(shard, ShardKind::Timeline, self.map.timeline)?;
        TimelineMachine::open(self.timeline.shard(shard.index)?, self.known)
    }

    fn has(&self, shard: ShardId, kind: ShardKind, shards: u16) -> io::Result<()> {
        if shard.kind == kind && shard.index < shards {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("shard {shard} is not one of the {shards} {kind:?} shards of this cluster"),
        ))
    }
}
