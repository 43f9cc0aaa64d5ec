//! The log of one shard.

use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use carillon_proto::{
    ShardId,
    pb::raft::{Entry, LogId, Vote},
};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use super::{
    COMMITTED, CUT, CacheParts, NAME, PURGED, VOTE, closed,
    disk_entry::{DiskEntry, Entries, index},
    files::Engine,
    flusher::{Op, Write},
    growth::Growth,
    state::{Appended, Plan, State, size},
    to_io,
};
use crate::damage::{Alarm, damaged};

/// Bytes of entries read at once while the log is checked at its opening.
const VERIFY_BYTES: usize = 4 << 20;

/// A handle to one shard's log. Clones share it. One owner writes; anyone reads.
#[derive(Clone)]
pub(crate) struct ShardLog {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Arc<Engine>,
    ops: mpsc::Sender<Op>,
    shard: ShardId,
    group: u64,
    cache: Arc<CacheParts>,
    alarm: Alarm,
    state: Mutex<State>,
    /// The number of the last write that is on disk.
    written: AtomicU64,
}

impl ShardLog {
    pub(super) fn open(
        engine: Arc<Engine>,
        ops: mpsc::Sender<Op>,
        shard: ShardId,
        cache: Arc<CacheParts>,
        alarm: Alarm,
    ) -> io::Result<Self> {
        let group = shard.group();
        let first = engine.first_index(group).unwrap_or(0);
        let end = engine.last_index(group).map_or(first, |last| last + 1);
        let cut = match engine.get(group, CUT) {
            None => None,
            Some(next) => Some(u64::from_be_bytes(next.try_into().map_err(|_| invalid("cut"))?)),
        };
        let end = cut.map_or(end, |next| next.clamp(first, end));
        let growth = verify(&engine, shard, first..end)?;
        let last = if end > first { read_disk(&engine, group, end - 1..end, usize::MAX)?.pop() } else { None };
        let purged: Option<LogId> = get(&engine, group, PURGED)?;
        let next = purged.map_or(0, |id| id.index + 1);
        if end > first && (if purged.is_some() { first > next } else { first > 1 }) {
            return Err(damaged(NAME, format!("of shard {shard} it lacks the entries from {next} to {}", first - 1)));
        }
        let present = if end > first { first..end } else { purged.map_or(0..0, |id| id.index + 1..id.index + 1) };
        let state = State::new(
            get(&engine, group, VOTE)?,
            get(&engine, group, COMMITTED)?,
            purged,
            last.and_then(|entry| entry.log_id),
            present,
            cut.is_some(),
            growth,
        );
        let inner =
            Inner { engine, ops, shard, group, cache, alarm, state: Mutex::new(state), written: AtomicU64::new(0) };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn vote(&self) -> Option<Vote> {
        self.inner.state.lock().vote
    }

    pub(crate) fn committed(&self) -> Option<LogId> {
        self.inner.state.lock().committed
    }

    /// The last purged log id and the last log id.
    pub(crate) fn bounds(&self) -> (Option<LogId>, Option<LogId>) {
        let state = self.inner.state.lock();
        (state.purged, state.last)
    }

    /// Approximate bytes of all entries.
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.inner.state.lock().growth.kept()
    }

    /// Approximate bytes of the entries behind this one.
    pub(crate) fn bytes_since(&self, index: u64) -> u64 {
        self.inner.state.lock().growth.since(index)
    }

    /// The last entry that may be purged if `keep` bytes up to the entry `end` are to stay; `None` if that would free
    /// little.
    pub(crate) fn may_go(&self, end: u64, keep: u64) -> Option<u64> {
        self.inner.state.lock().growth.may_go(end, keep)
    }

    /// On disk when it returns.
    pub(crate) async fn save_vote(&self, vote: Vote) -> io::Result<()> {
        let (tell, done) = oneshot::channel();
        self.inner.state.lock().vote = Some(vote);
        let done_call = Box::new(move |result| {
            // The caller may have gone.
            let _ = tell.send(result);
        });
        self.submit(Write::Vote(vote, done_call)).await?;
        done.await.map_err(|_| closed())?
    }

    /// On disk with the next append: after a restart, the leader tells the node again.
    pub(crate) fn save_committed(&self, committed: LogId) {
        self.inner.state.lock().set_committed(committed);
    }

    /// The entries can be read when this returns; `done` is called when they are on disk.
    pub(crate) async fn append(
        &self,
        entries: Vec<Entry>,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> io::Result<()> {
        let appended = {
            let mut state = self.inner.state.lock();
            state.evict(self.inner.written.load(Ordering::Acquire), self.inner.cache.one());
            state.append(&entries)
        };
        let Some(appended) = appended else {
            done(Ok(()));
            return Ok(());
        };
        let inner = Arc::clone(&self.inner);
        let done = Box::new(move |result: io::Result<()>| {
            if result.is_ok() {
                inner.written.fetch_max(appended.write, Ordering::Release);
            }
            done(result);
        });
        let Appended { compact_to, clear_cut, committed, .. } = appended;
        self.submit(Write::Append { entries, compact_to, clear_cut, committed, done }).await
    }

    /// Drops all entries behind `last`; all entries if it is `None`.
    pub(crate) async fn truncate_after(&self, last: Option<LogId>) -> io::Result<()> {
        let next = last.map_or(0, |id| id.index + 1);
        let cut = self.inner.state.lock().truncate(next, last);
        if cut { self.submit(Write::Cut(next)).await } else { Ok(()) }
    }

    /// Drops all entries up to and including this one.
    pub(crate) async fn purge(&self, upto: LogId) -> io::Result<()> {
        self.inner.state.lock().purge(upto);
        self.submit(Write::Purge(upto)).await
    }

    /// The entries of this range: about `bytes` of them, but at least one.
    pub(crate) async fn read(&self, wanted: Range<u64>, bytes: usize) -> io::Result<Vec<Entry>> {
        let Plan { disk, memory } = {
            let state = self.inner.state.lock();
            state.plan(state.clamp(wanted), bytes)
        };
        if disk.is_empty() {
            return Ok(memory);
        }
        let wanted = (disk.end - disk.start) as usize;
        let inner = Arc::clone(&self.inner);
        let read = tokio::task::spawn_blocking(move || read_disk(&inner.engine, inner.group, disk, bytes));
        let read = read.await.map_err(io::Error::other).flatten();
        let mut entries = self.inner.alarm.hear(format_args!("log of shard {}", self.inner.shard), read)?;
        let mut room = bytes.saturating_sub(entries.iter().map(size).sum());
        if entries.len() == wanted {
            entries.extend(memory.into_iter().take_while(|entry| {
                let fits = size(entry) <= room;
                room = room.saturating_sub(size(entry));
                fits
            }));
        }
        Ok(entries)
    }

    /// The last entry that was purged.
    pub(crate) fn purged_upto(&self) -> u64 {
        self.bounds().0.map_or(0, |id| id.index)
    }

    async fn submit(&self, write: Write) -> io::Result<()> {
        self.inner.ops.send(Op { group: self.inner.group, write }).await.map_err(|_| closed())
    }
}

fn read_disk(engine: &Engine, group: u64, range: Range<u64>, bytes: usize) -> io::Result<Vec<Entry>> {
    let mut found: Vec<DiskEntry> = Vec::new();
    engine.fetch_entries_to::<Entries>(group, range.start, range.end, Some(bytes), &mut found).map_err(to_io)?;
    found.into_iter().map(|entry| entry.decode().map_err(|_| invalid("an entry"))).collect()
}

/// Reads every entry once. raft-engine checks an entry's checksum only when the entry is read, which may be never for
/// applied entries, or only when a follower needs them: damage must be known before this node votes or leads.
fn verify(engine: &Engine, shard: ShardId, range: Range<u64>) -> io::Result<Growth> {
    let mut growth = Growth::default();
    let mut next = range.start;
    while next < range.end {
        let corrupt = |error: &dyn std::fmt::Display| {
            damaged(NAME, format!("it is corrupt: entries of shard {shard} from {next} can't be read: {error}"))
        };
        let entries = match read_disk(engine, shard.group(), next..range.end, VERIFY_BYTES) {
            Err(error) if error.raw_os_error().is_some() => return Err(error),
            entries => entries.map_err(|error| corrupt(&error))?,
        };
        let Some(last) = entries.last().and_then(|entry| entry.log_id) else {
            return Err(corrupt(&"nothing is there"));
        };
        next = last.index + 1;
        entries.iter().for_each(|entry| growth.append(index(entry), size(entry)));
    }
    Ok(growth)
}

fn get<M: Message + Default>(engine: &Engine, group: u64, key: &[u8]) -> io::Result<Option<M>> {
    let name = std::str::from_utf8(key).unwrap_or("key");
    engine.get(group, key).map(|value| M::decode(&*value).map_err(|_| invalid(name))).transpose()
}

fn invalid(what: &str) -> io::Error {
    damaged(NAME, format!("{what} in it is not what this release writes"))
}
