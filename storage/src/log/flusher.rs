//! The one thread that writes the log: it takes the waiting writes of all shards, writes and syncs them once, and
//! answers all.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use carillon_proto::{
    pb::raft::{Entry, LogId, Vote},
    queues,
};
use parking_lot::Mutex;
use prost::Message as _;
use raft_engine::{Command, LogBatch};
use tokio::sync::{mpsc, watch};

use super::{
    COMMITTED, CUT, FLUSHES, NODE, PURGED, REPLICA, VOTE,
    disk_entry::{DiskEntry, Entries},
    files::Engine,
    high_water::HighWater,
};
use crate::{health::Health, metrics};

/// Writes that wait. When the queue is full, shards wait to write; their own queues fill and refuse.
const QUEUE: usize = 4096;
/// How often other tasks get a turn before a write begins, and the number of turns after which it begins anyway.
const TURNS: usize = 4;
const LONGEST: Duration = Duration::from_micros(200);
/// Bytes after which a write is closed.
const WRITE_BYTES: usize = 8 << 20;

/// Called once with the result of the write.
pub(super) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// One write. Writes of one shard are carried out in order.
pub(super) struct Op {
    pub(super) group: u64,
    pub(super) write: Write,
}

pub(super) enum Write {
    Append {
        entries: Vec<Entry>,
        /// Entries before this index are no longer needed.
        compact_to: Option<u64>,
        /// The log was cut before; the append overwrites the entries behind the cut.
        clear_cut: bool,
        committed: Option<LogId>,
        done: Done,
    },
    Vote(Vote, Done),
    /// Index after the last valid entry.
    Cut(u64),
    Purge(LogId),
    /// Writes the values of all shards again. The engine has moved old ones to files of which it tolerates a torn end:
    /// `high_water` tells only of damage to newer ones.
    KeepValues,
    /// Moves what lives in these files to new ones, and deletes them.
    Rewrite(Files, Done),
    /// The value of `REPLICA`; with `clean`, everything else of the shard is deleted.
    Replica {
        value: Vec<u8>,
        clean: bool,
        done: Done,
    },
}

/// Files of the log.
#[derive(Debug, Clone, Copy)]
pub(super) enum Files {
    /// Those to which the engine has moved something before.
    Moved,
    /// Those that were written up to this number.
    WrittenUpto(u64),
    Written,
}

pub(super) struct Flusher {
    pub(super) ops: mpsc::Sender<Op>,
    pub(super) ended: watch::Receiver<bool>,
}

impl Flusher {
    /// `flushes`: the number of synced writes that the log holds already.
    pub(super) fn start(
        engine: Arc<Engine>,
        purging: Arc<Mutex<()>>,
        mark: HighWater,
        flushes: u64,
        health: Arc<Health>,
    ) -> io::Result<Self> {
        let (ops, queue) = mpsc::channel(QUEUE);
        queues::watch("storage_log", &ops);
        let (tell, ended) = watch::channel(false);
        thread::Builder::new().name("raft-log".into()).spawn(move || {
            let disk = Disk { engine, purging, mark, health };
            run(&disk, flushes, queue);
            // Whoever waits for the end may open the folder again.
            drop(disk);
            // The receiver may be gone.
            let _ = tell.send(true);
        })?;
        Ok(Self { ops, ended })
    }
}

struct Disk {
    engine: Arc<Engine>,
    /// Held by whoever has the engine delete files.
    purging: Arc<Mutex<()>>,
    mark: HighWater,
    health: Arc<Health>,
}

fn run(disk: &Disk, mut flushes: u64, mut queue: mpsc::Receiver<Op>) {
    let mut waiting = Vec::with_capacity(QUEUE);
    let mut batch = Batch::default();
    while queue.blocking_recv_many(&mut waiting, QUEUE) > 0 {
        gather(&mut queue, &mut waiting);
        let mut ops = waiting.drain(..).peekable();
        while ops.peek().is_some() {
            while batch.bytes < WRITE_BYTES {
                let keeps = ops.peek().is_some_and(|op| matches!(op.write, Write::KeepValues | Write::Rewrite(..)));
                if keeps && !batch.log.is_empty() {
                    // What this batch writes is newer than what the engine has.
                    break;
                }
                let Some(op) = ops.next() else { break };
                if let Err(error) = batch.add(disk, op) {
                    tracing::error!(%error, "raft log write refused by the engine");
                    return;
                }
            }
            if let Err(error) = batch.write(disk, &mut flushes) {
                tracing::error!(%error, "raft log write failed");
                return;
            }
        }
    }
}

/// Yields to tasks that are about to write, so that the writes of one request to several shards share a flush. Costs no
/// time when no other task is ready, and one turn when many are. Votes do not wait.
fn gather(queue: &mut mpsc::Receiver<Op>, waiting: &mut Vec<Op>) {
    let start = Instant::now();
    for _ in 0..TURNS {
        if start.elapsed() > LONGEST || waiting.iter().any(|op| matches!(op.write, Write::Vote(..))) {
            return;
        }
        thread::yield_now();
        while waiting.len() < QUEUE
            && let Ok(op) = queue.try_recv()
        {
            waiting.push(op);
        }
    }
}

/// Only the thread that writes may do this: the engine would delete a file that an entry is just being written to.
fn rewrite(engine: &Engine, files: Files) -> raft_engine::Result<()> {
    let manager = engine.purge_manager();
    let rewriting = catch_unwind(AssertUnwindSafe(|| match files {
        Files::Moved => manager.must_rewrite_rewrite_queue(),
        Files::WrittenUpto(number) => manager.must_rewrite_append_queue(Some(number), None),
        Files::Written => manager.must_rewrite_append_queue(None, None),
    }));
    // It panics when the disk fails it.
    rewriting.map_err(|_| raft_engine::Error::Other("the raft log can't be rewritten".into()))
}

/// Reused: the engine empties its batch when it writes, and keeps the memory.
#[derive(Default)]
struct Batch {
    log: LogBatch,
    bytes: usize,
    entries: usize,
    sync: bool,
    done: Vec<Done>,
}

impl Batch {
    /// After an error no callback reports success: the callbacks are dropped, and the whole log ends.
    fn add(&mut self, disk: &Disk, Op { group, write }: Op) -> raft_engine::Result<()> {
        match write {
            Write::Append { entries, compact_to, clear_cut, committed, done } => {
                if let Some(index) = compact_to {
                    self.log.add_command(group, Command::Compact { index });
                }
                let entries: Vec<_> = entries.iter().map(DiskEntry::new).collect();
                self.bytes += entries.iter().map(DiskEntry::len).sum::<usize>();
                self.entries += entries.len();
                self.log.add_entries::<Entries>(group, &entries)?;
                if clear_cut {
                    self.log.delete(group, CUT.to_vec());
                }
                if let Some(committed) = committed {
                    self.log.put(group, COMMITTED.to_vec(), committed.encode_to_vec())?;
                }
                self.sync = true;
                self.done.push(done);
            }
            Write::Vote(vote, done) => {
                self.log.put(group, VOTE.to_vec(), vote.encode_to_vec())?;
                self.sync = true;
                self.done.push(done);
            }
            Write::Replica { value, clean, done } => {
                if clean {
                    self.log.add_command(group, Command::Clean);
                }
                self.log.put(group, REPLICA.to_vec(), value)?;
                self.sync = true;
                self.done.push(done);
            }
            Write::Rewrite(files, done) => {
                let Some(_purging) = disk.purging.try_lock() else {
                    done(Err(io::Error::new(
                        io::ErrorKind::ResourceBusy,
                        "files of the raft log are just being deleted",
                    )));
                    return Ok(());
                };
                rewrite(&disk.engine, files)?;
                self.keep_values(disk)?;
                self.done.push(done);
            }
            Write::KeepValues => self.keep_values(disk)?,
            Write::Cut(next) => self.log.put(group, CUT.to_vec(), next.to_be_bytes().to_vec())?,
            Write::Purge(log_id) => {
                self.log.put(group, PURGED.to_vec(), log_id.encode_to_vec())?;
                self.log.add_command(group, Command::Compact { index: log_id.index + 1 });
            }
        }
        Ok(())
    }

    fn keep_values(&mut self, disk: &Disk) -> raft_engine::Result<()> {
        for group in disk.engine.raft_groups() {
            for key in [VOTE, COMMITTED, PURGED, REPLICA, CUT] {
                if let Some(value) = disk.engine.get(group, key) {
                    self.log.put(group, key.to_vec(), value)?;
                }
            }
        }
        self.sync = true;
        Ok(())
    }

    fn write(&mut self, disk: &Disk, flushes: &mut u64) -> raft_engine::Result<()> {
        let start = Instant::now();
        if self.sync {
            *flushes += 1;
            self.log.put(NODE, FLUSHES.to_vec(), flushes.to_be_bytes().to_vec())?;
            disk.health.write_begins(start);
        }
        let result = disk.engine.write(&mut self.log, self.sync);
        let result = match result {
            Ok(_) if self.sync => disk.mark.set(*flushes).map_err(raft_engine::Error::from),
            other => other.map(drop),
        };
        if self.sync {
            let took = start.elapsed();
            disk.health.write_ended(took);
            metrics::flushed(self.entries, took);
        }
        (self.bytes, self.entries, self.sync) = (0, 0, false);
        match result {
            Ok(()) => {
                self.done.drain(..).for_each(|done| done(Ok(())));
                Ok(())
            }
            Err(error) => {
                let text = error.to_string();
                self.done.drain(..).for_each(|done| done(Err(io::Error::other(text.clone()))));
                Err(error)
            }
        }
    }
}
