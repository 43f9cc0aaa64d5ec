//! The Raft log and votes of all shards of this node, in one raft-engine on disk. Only this folder names raft-engine.
//!
//! What is on disk, for each region (the Raft group's number, `ShardId::group`):
//!
//! | what | layout |
//! | --- | --- |
//! | entries | encoded `carillon.raft.v1.Entry`, by index |
//! | key `vote` | encoded `carillon.raft.v1.Vote`; synced before it is answered |
//! | key `committed` | encoded `carillon.raft.v1.LogId`; may lag behind, it is never synced for its own sake |
//! | key `purged` | encoded `carillon.raft.v1.LogId` of the last entry that was purged |
//! | key `replica` | id of the replica that is here, 0 if there is none, and the highest id of those that were deleted here, each 8 bytes big endian; synced |
//! | region 0, key `flushes` | how many synced writes came before and with this one, 8 bytes big endian; see `high_water` |
//! | key `cut` | index of the last entry that counts, 8 bytes big endian, +1: what lies behind was truncated. Removed by the append that overwrites it |

mod disk_entry;
mod files;
mod flusher;
mod growth;
mod high_water;
mod shard_log;
mod state;

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use carillon_proto::ShardId;
use parking_lot::Mutex;
use raft_engine::{Config, ReadableSize, RecoveryMode};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep},
};

pub(crate) use self::shard_log::ShardLog;
use self::{
    files::{Engine, LogFiles},
    flusher::{Done, Files, Flusher, Op, Write},
    high_water::HighWater,
};
use crate::{
    damage::{Alarm, damaged, is_damage},
    health::Health,
};

/// How long it may take until nobody else deletes files.
const PURGES: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Log levels for raft-engine. At each start it warns about a log that has spare space, which every log has after its
/// process was killed. `DataDir::runs` reports that, and the log's high water reports damage.
pub(crate) const LOG_LEVELS: &str = "raft_engine::file_pipe_log::pipe_builder=error";

/// Reads an entry, with its index, from the bytes that raft-engine keeps.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_entry(bytes: &[u8]) -> Option<(u64, carillon_proto::pb::raft::Entry)> {
    use {protobuf::Message as _, raft_engine::MessageExt as _};
    let entry = disk_entry::DiskEntry::parse_from_bytes(bytes).ok()?;
    let index = disk_entry::Entries::index(&entry);
    Some((index, entry.decode().expect("was decoded to find its index")))
}

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";
const CUT: &[u8] = b"cut";
const REPLICA: &[u8] = b"replica";
/// The region that belongs to no shard.
const NODE: u64 = 0;
const FLUSHES: &[u8] = b"flushes";

const NAME: &str = "raft log";

/// How the log uses disk and memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogOptions {
    pub(crate) file_bytes: u64,
    pub(crate) purge_bytes: u64,
    /// Memory for the newest entries of all shards together.
    pub(crate) cache_bytes: usize,
}

impl LogOptions {
    /// For the log of a stopped node, of which nothing is written or given back.
    pub(crate) const TO_BE_READ: Self = Self { file_bytes: 64 << 20, purge_bytes: 1 << 30, cache_bytes: 0 };
}

/// Memory for the newest entries, of which each shard's log that is open has an equal part.
struct CacheParts {
    bytes: usize,
}

impl CacheParts {
    /// The part of one log. Counted by references: each open log has one, and the node's log another.
    fn one(self: &Arc<Self>) -> usize {
        self.bytes / (Arc::strong_count(self) - 1).max(1)
    }
}

/// The replica of a shard on this node's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Here {
    /// Id of the replica; 0 if there is none, or if it is being deleted.
    pub(crate) replica: u64,
    /// The highest id of the replicas deleted here. None up to it may come back, because its votes are lost.
    pub(crate) gone: u64,
}

/// The log of this node.
pub(crate) struct Log {
    engine: Arc<Engine>,
    /// Held by whoever has the engine delete files.
    purging: Arc<Mutex<()>>,
    cache: Arc<CacheParts>,
    /// `None` once closed. The flusher ends when no shard holds a handle either.
    ops: Mutex<Option<mpsc::Sender<Op>>>,
    ended: watch::Receiver<bool>,
    alarm: Alarm,
    health: Arc<Health>,
}

impl Log {
    /// Opens or creates the log. Entries that can't be read later raise the alarm. Blocking.
    pub(crate) fn open(dir: &Path, options: LogOptions, alarm: Alarm) -> io::Result<Self> {
        Self::open_files(dir, LogFiles::default(), options, alarm)
    }

    fn open_files(dir: &Path, files: LogFiles, options: LogOptions, alarm: Alarm) -> io::Result<Self> {
        let path = dir;
        let dir = dir.to_str().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("log folder {} is not valid UTF-8", dir.display()))
        })?;
        let config = Config {
            dir: dir.to_owned(),
            // A torn write at the end was never acknowledged. `check_flushes` finds damage there.
            recovery_mode: RecoveryMode::TolerateTailCorruption,
            recovery_threads: 2,
            target_file_size: ReadableSize(options.file_bytes),
            purge_threshold: ReadableSize(options.purge_bytes),
            // With recycling, up to one and a half times the purge threshold stays behind as empty files.
            enable_log_recycle: false,
            // Entries are purged soon, and compressing takes as long as writing.
            batch_compression_threshold: ReadableSize(0),
            ..Config::default()
        };
        // Entries that are missing in between make it panic.
        let opened = catch_unwind(AssertUnwindSafe(|| Engine::open_with_file_system(config, Arc::new(files.clone()))));
        files
            .check()
            .map_err(|error| io::Error::new(error.kind(), format!("raft log {dir} can't be read: {error}")))?;
        let opened = opened.map_err(|_| damaged(NAME, format!("{dir} makes no sense")))?;
        let engine = opened.map_err(|error| match error {
            // It fails to cut off the unreadable end of a file that is not the last one, which it has opened for reading.
            raft_engine::Error::Io(error) if error.kind() == io::ErrorKind::InvalidInput => {
                damaged(NAME, format!("a file in {dir} has an end that can't be read"))
            }
            error => {
                let error = to_io(error);
                let what = format!("raft log {dir} can't be opened: {error}");
                if is_damage(&error) { damaged(NAME, what) } else { io::Error::new(error.kind(), what) }
            }
        })?;
        fs::create_dir_all(path)?;
        let (mark, expected) = HighWater::open(&path.join("high-water"))?;
        let flushes = check_flushes(&engine, expected)?;
        let engine = Arc::new(engine);
        let purging = Arc::default();
        let health = Arc::<Health>::default();
        let flusher = Flusher::start(Arc::clone(&engine), Arc::clone(&purging), mark, flushes, Arc::clone(&health))?;
        let cache = Arc::new(CacheParts { bytes: options.cache_bytes });
        Ok(Self { engine, purging, cache, ops: Mutex::new(Some(flusher.ops)), ended: flusher.ended, alarm, health })
    }

    /// Opens the log of one shard. Blocking. Call it once for each shard.
    pub(crate) fn shard(&self, shard: ShardId) -> io::Result<ShardLog> {
        let ops = self.ops.lock().clone().ok_or_else(closed)?;
        ShardLog::open(Arc::clone(&self.engine), ops, shard, Arc::clone(&self.cache), self.alarm.clone())
    }

    /// The replica of this shard; `None` if the disk says nothing about it. Blocking.
    pub(crate) fn replica(&self, shard: ShardId) -> io::Result<Option<Here>> {
        let Some(value) = self.engine.get(shard.group(), REPLICA) else { return Ok(None) };
        let invalid = || damaged(NAME, "the id of a replica is no number");
        let (replica, gone) = value.split_first_chunk().ok_or_else(invalid)?;
        let gone = gone.try_into().map_err(|_| invalid())?;
        Ok(Some(Here { replica: u64::from_be_bytes(*replica), gone: u64::from_be_bytes(gone) }))
    }

    /// On disk when it returns.
    pub(crate) async fn set_replica(&self, shard: ShardId, here: Here) -> io::Result<()> {
        self.write_replica(shard, here, false).await
    }

    /// Deletes everything of the shard from the log, except `here`. On disk when it returns. No handle to the shard's
    /// log may be used after it.
    pub(crate) async fn forget_shard(&self, shard: ShardId, here: Here) -> io::Result<()> {
        self.write_replica(shard, here, true).await
    }

    async fn write_replica(&self, shard: ShardId, here: Here, clean: bool) -> io::Result<()> {
        let value = [here.replica.to_be_bytes(), here.gone.to_be_bytes()].concat();
        self.write(shard.group(), |done| Write::Replica { value, clean, done }).await
    }

    /// Waits until the write is done.
    async fn write(&self, group: u64, write: impl FnOnce(Done) -> Write) -> io::Result<()> {
        let ops = self.ops.lock().clone().ok_or_else(closed)?;
        let (tell, done) = oneshot::channel();
        let write = write(Box::new(move |result| {
            // The caller may have gone.
            let _ = tell.send(result);
        }));
        ops.send(Op { group, write }).await.map_err(|_| closed())?;
        done.await.map_err(|_| closed())?
    }

    /// Deletes files without live data, and lets the engine move the little live data of other files. The engine asks
    /// groups with more data in old files to make a snapshot; if they do not, it moves that data, too, which costs less
    /// than the snapshot of a large shard. Blocking.
    pub(crate) fn purge_files(&self) -> io::Result<()> {
        let purging = self.purging.lock();
        let purged = self.engine.purge_expired_files().map(drop).map_err(to_io);
        drop(purging);
        let ops = self.ops.lock().clone();
        if let Some(ops) = ops {
            // If there is no room, the next purge does it.
            let _ = ops.try_send(Op { group: NODE, write: Write::KeepValues });
        }
        self.alarm.hear(NAME, purged)
    }

    /// Moves the entries that are kept, and all values, to new files, and deletes the others: nothing is left of what was purged.
    /// File by file, since nothing else is written to the log while one is moved.
    pub(crate) async fn rewrite(&self) -> io::Result<()> {
        // First, as the rest is moved into the same files.
        self.rewrite_files(Files::Moved).await?;
        for number in self.written()? {
            self.rewrite_files(Files::WrittenUpto(number)).await?;
        }
        self.rewrite_files(Files::Written).await
    }

    /// The numbers of the files to which entries are written, in order.
    fn written(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(self.engine.path())? {
            let path = entry?.path();
            let number = path.file_stem().and_then(|name| name.to_str()).and_then(|name| name.parse::<u64>().ok());
            numbers.extend(number.filter(|_| path.extension().is_some_and(|kind| kind == "raftlog")));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    async fn rewrite_files(&self, files: Files) -> io::Result<()> {
        let deadline = Instant::now() + PURGES;
        loop {
            match self.write(NODE, |done| Write::Rewrite(files, done)).await {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                    sleep(LOOK_AGAIN).await;
                }
                other => return other,
            }
        }
    }

    /// The health of this node, of which the writes of the log tell the most.
    pub(crate) fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.engine.get_used_size()
    }

    /// No further writes, except those of the remaining shard handles.
    pub(crate) fn close(&self) {
        self.ops.lock().take();
    }

    /// Closes the log, of which no shard has a handle any more, and waits until it may be opened again. Blocking.
    pub(crate) fn end(self) {
        self.close();
        while !*self.ended.borrow() && self.ended.has_changed().is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Resolves when there can be no more writes: all handles are gone, or the disk failed.
    pub(crate) async fn ended(&self) {
        // An error means that the thread has ended.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }
}

fn to_io(error: raft_engine::Error) -> io::Error {
    use raft_engine::Error;
    match error {
        Error::Io(error) if error.kind() != io::ErrorKind::UnexpectedEof => error,
        Error::Io(_) | Error::Corruption(_) | Error::Codec(_) | Error::Protobuf(_) => damaged(NAME, error),
        // Another process has it open, or an entry was purged meanwhile.
        other => io::Error::other(other),
    }
}

/// The number of synced writes that the log holds; an error if it has lost some.
fn check_flushes(engine: &Engine, expected: u64) -> io::Result<u64> {
    let flushes = match engine.get(NODE, FLUSHES) {
        None => 0,
        Some(number) => {
            u64::from_be_bytes(number.try_into().map_err(|_| damaged(NAME, "its number of flushes is no number"))?)
        }
    };
    if flushes < expected {
        let why = format!(
            "it is corrupt: it held {expected} synced writes and can be read up to number {flushes}. What is missing was \
             acknowledged"
        );
        return Err(damaged(NAME, why));
    }
    Ok(flushes)
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "raft log is closed or its disk failed")
}

#[cfg(test)]
mod tests;
