//! Timeline shards on fjall 3. The only module that names it.

mod forgotten;
mod opening;
mod rewrite;

use std::{io, mem, ops::RangeInclusive, path::PathBuf, sync::Arc};

use ::fjall::{
    AbstractTree, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable as _, Snapshot,
};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::{Changes, coming::Coming, mark::EngineMark};
use crate::{
    damage::damaged,
    machine::{
        Record,
        keys::{self, RowBytes},
    },
};

const ENGINE: &str = "timeline engine";
/// Records in one batch of a restore.
const BULK: usize = 512;

/// All timeline shards of a node.
pub(crate) struct TimelineStore {
    dir: PathBuf,
    engine: Arc<Engine>,
    memtable_bytes: u64,
}

/// Closed when the last shard drops its handle.
struct Engine {
    db: Database,
    mark: EngineMark,
    /// Each view has one of these: see `readers_of_before`.
    readers: Mutex<Arc<()>>,
}

/// One timeline shard: a keyspace. Clones only read; the state machine writes.
#[derive(Clone)]
pub(crate) struct TimelineShard {
    engine: Arc<Engine>,
    keyspace: Keyspace,
    /// Size from which on a memtable is flushed.
    memtable_bytes: u64,
    /// Write-locked while all content is replaced.
    whole: Arc<RwLock<()>>,
    coming: Arc<Coming>,
}

/// A consistent view of a shard. A restore waits for it, so it must not be held for long.
pub(crate) struct TimelineView<'a> {
    snapshot: Snapshot,
    keyspace: &'a Keyspace,
    reader: Arc<()>,
    _whole: RwLockReadGuard<'a, ()>,
}

pub(crate) type Value = ::fjall::Slice;

impl TimelineShard {
    pub(crate) fn get(&self, key: &[u8]) -> io::Result<Option<Value>> {
        self.keyspace.get(key).map_err(to_io)
    }

    pub(crate) fn view(&self) -> TimelineView<'_> {
        let whole = self.whole.read();
        let reader = self.engine.reader();
        let snapshot = self.engine.db.snapshot();
        // Each table that the engine registers, of any keyspace, makes visible what is inserted of a batch so far. So a snapshot is
        // whole only when no batch is being inserted any more; the engine may hold the writer up after that.
        self.coming.wait(|coming| {
            // `APPLIED` is inserted last. An error is reported by the next read.
            self.get(keys::APPLIED).is_ok_and(|applied| applied.as_deref() != Some(coming))
        });
        TimelineView { snapshot, keyspace: &self.keyspace, reader, _whole: whole }
    }

    pub(crate) fn applied(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.get(keys::APPLIED)?.map(|value| value.to_vec()))
    }

    /// Writes all changes or none, without waiting for the disk.
    pub(crate) fn commit(&self, changes: Changes, applied: &[u8]) -> io::Result<()> {
        let mut batch = self.batch(changes.len() + 1);
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&self.keyspace, key, value),
                None => batch.remove(&self.keyspace, key),
            }
        }
        batch.insert(&self.keyspace, keys::APPLIED, applied);
        let _coming = self.coming.begin(applied);
        self.write(batch)
    }

    /// On disk when it returns.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.engine.sync()
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = Record> + Send + use<> {
        let reader = self.engine.reader();
        all(&self.engine.db.snapshot(), &self.keyspace, reader)
    }

    /// The value of `APPLIED`, and the records that belong to it. Other than a view, it may be read for a long time.
    pub(crate) fn applied_records(&self) -> io::Result<(Option<Vec<u8>>, impl Iterator<Item = Record> + Send + use<>)> {
        let view = self.view();
        let applied = view.get(keys::APPLIED)?.map(|value| value.to_vec());
        Ok((applied, all(&view.snapshot, &self.keyspace, Arc::clone(&view.reader))))
    }

    /// Replaces all content. If it fails or is interrupted, the shard is empty.
    pub(crate) fn restore(&self, records: &mut dyn Iterator<Item = Record>, applied: &[u8]) -> io::Result<()> {
        let _whole = self.whole.write();
        self.replace(records, applied).or_else(|error| self.clear().and(Err(error)))
    }

    /// Removes everything. If it is interrupted, the next start does it.
    fn clear(&self) -> io::Result<()> {
        self.keyspace.remove(keys::APPLIED).map_err(to_io)?;
        self.sync()?;
        // The engine's `clear` alone would leave the files of the tables on the disk until the next start.
        self.keyspace.tree.drop_range::<&[u8], _>(..).map_err(|error| to_io(error.into()))?;
        self.keyspace.clear().map_err(to_io)
    }

    fn replace(&self, records: &mut dyn Iterator<Item = Record>, applied: &[u8]) -> io::Result<()> {
        self.clear()?;
        loop {
            let mut batch = self.batch(BULK);
            for record in (&mut *records).take(BULK) {
                let (key, value) = record?;
                match keys::upgraded(&key) {
                    Some(now) => batch.insert(&self.keyspace, now, value),
                    None => batch.insert(&self.keyspace, key, value),
                }
            }
            let count = batch.len();
            self.write(batch)?;
            if count < BULK {
                break;
            }
        }
        self.sync()?;
        self.keyspace.insert(keys::APPLIED, applied).map_err(to_io)?;
        self.sync()
    }

    /// Also rotates the memtable when it is full. Otherwise the engine would ask its threads to do so with each write
    /// until one of them gets to it. When they are busy for a thousand writes, their queue is full, and they may wait
    /// for each other to empty it for ever.
    fn write(&self, batch: OwnedWriteBatch) -> io::Result<()> {
        batch.commit().map_err(to_io)?;
        if self.keyspace.tree.active_memtable().size() >= self.memtable_bytes {
            self.keyspace.rotate_memtable().map_err(to_io)?;
        }
        Ok(())
    }

    /// A commit hands its writes to the operating system: they survive a killed process, but not a power failure.
    fn batch(&self, capacity: usize) -> OwnedWriteBatch {
        OwnedWriteBatch::with_capacity(self.engine.db.clone(), capacity).durability(Some(PersistMode::Buffer))
    }
}

/// All records but `APPLIED`.
fn all(snapshot: &Snapshot, keyspace: &Keyspace, reader: Arc<()>) -> impl Iterator<Item = Record> + Send + use<> {
    snapshot.iter(keyspace).filter_map(move |record| {
        let _reading = &reader;
        match record.into_inner() {
            Ok((key, _)) if *key == *keys::APPLIED => None,
            Ok((key, value)) => Some(Ok((key.to_vec(), value.to_vec()))),
            Err(error) => Some(Err(to_io(error))),
        }
    })
}

impl TimelineView<'_> {
    pub(crate) fn get(&self, key: &[u8]) -> io::Result<Option<Value>> {
        self.snapshot.get(self.keyspace, key).map_err(to_io)
    }

    pub(crate) fn range(
        &self,
        range: RangeInclusive<RowBytes>,
    ) -> impl DoubleEndedIterator<Item = io::Result<(Value, Value)>> {
        self.snapshot.range(self.keyspace, range).map(|record| record.into_inner().map_err(to_io))
    }
}

impl Engine {
    fn reader(&self) -> Arc<()> {
        Arc::clone(&self.readers.lock())
    }

    /// Whether all views that there are now have ended.
    fn readers_of_before(&self) -> impl Fn() -> bool + use<> {
        let before = Arc::downgrade(&mem::take(&mut *self.readers.lock()));
        move || before.strong_count() == 0
    }

    fn sync(&self) -> io::Result<()> {
        self.db.persist(PersistMode::SyncAll).map_err(to_io)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(error) = self.sync().and_then(|()| self.mark.closed()) {
            tracing::warn!(%error, "timeline engine was not closed in order");
        }
    }
}

fn to_io(error: ::fjall::Error) -> io::Error {
    use ::fjall::{Error, LsmError};
    match error {
        Error::Io(error) | Error::Storage(LsmError::Io(error)) => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => damaged(ENGINE, error),
            _ => error,
        },
        // The engine has logged why: the disk may be full.
        Error::Poisoned | Error::KeyspaceDeleted | Error::Locked => io::Error::other(error),
        other => damaged(ENGINE, other),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        path::Path,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::{super::Caches, opening::MIN_MEMTABLE_BYTES, *};

    pub(super) fn caches(memtables_bytes: u64) -> Caches {
        Caches { timeline_bytes: 8 << 20, memtables_bytes, ..Caches::default() }
    }

    pub(super) fn open(dir: &Path) -> TimelineStore {
        TimelineStore::open(dir, &caches(16 << 20), 2).expect("opens")
    }

    pub(super) fn all(shard: &TimelineShard) -> Vec<(Vec<u8>, Vec<u8>)> {
        shard.records().collect::<io::Result<_>>().expect("reads")
    }

    #[test]
    fn a_view_stays_the_same_while_batches_go_on() {
        let dir = tempfile::tempdir().expect("folder");
        let dir = dir.path().join("timeline");
        let shard = open(&dir).shard(0).expect("shard");
        for round in 0..100u8 {
            let mut changes = Changes::default();
            changes.put(vec![0x13, round], vec![0]);
            shard.commit(changes, &[round]).expect("commits");
        }
        let before = all(&shard);
        let mut view = shard.records();
        let first = view.next().expect("not empty").expect("reads");
        let writer = thread::spawn({
            let shard = shard.clone();
            move || {
                for round in 0..100u8 {
                    let mut changes = Changes::default();
                    changes.put(vec![0x13, round], vec![1]);
                    changes.delete(vec![0x13, round / 2]);
                    shard.commit(changes, &[round]).expect("commits");
                }
            }
        });
        writer.join().expect("writer");
        let seen: Vec<_> = [first].into_iter().chain(view.map(|record| record.expect("reads"))).collect();
        assert_eq!(seen, before);
    }

    #[test]
    fn a_view_that_begins_while_a_table_is_registered_has_no_part_of_a_batch() {
        let dir = tempfile::tempdir().expect("folder");
        let dir = dir.path().join("timeline");
        let store = open(&dir);
        let (shard, other) = (store.shard(0).expect("shard"), store.shard(1).expect("shard"));
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0u64.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let mut changes = Changes::default();
                    (0..=255u8).for_each(|key| changes.put(vec![0x13, key], round.to_be_bytes().to_vec()));
                    shard.commit(changes, &round.to_be_bytes()).expect("commits");
                }
            });
            for _ in 0..200 {
                let mut changes = Changes::default();
                changes.put(vec![0x13], vec![0]);
                other.commit(changes, b"1").expect("commits");
                other.keyspace.rotate_memtable().expect("begins a new one");
                let mut registered = false;
                while !registered {
                    registered = other.keyspace.sealed_memtable_count() == 0;
                    let view = shard.view();
                    let [first, last] = [0, 255].map(|key| view.get(&[0x13, key]).expect("reads"));
                    assert_eq!(first, last);
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_full_table_in_memory_is_followed_by_an_empty_one_at_once() {
        let dir = tempfile::tempdir().expect("folder");
        let dir = dir.path().join("timeline");
        // Settings from the making of a shard do not count.
        (0..2).for_each(|index| drop(open(&dir).shard(index).expect("shard")));
        let store = TimelineStore::open(&dir, &caches(2 * MIN_MEMTABLE_BYTES), 2).expect("opens");
        let shards = [store.shard(0).expect("shard"), store.shard(1).expect("shard")];
        let value = vec![7; 1024];
        // More writes than the engine's threads have room for requests, while they are busy.
        let count = 5 * MIN_MEMTABLE_BYTES / value.len() as u64;
        for number in 0..count {
            for shard in &shards {
                let mut changes = Changes::default();
                changes.put(number.to_be_bytes().to_vec(), value.clone());
                shard.commit(changes, b"1").expect("commits");
                assert!(shard.keyspace.tree.active_memtable().size() < MIN_MEMTABLE_BYTES);
            }
        }
        for shard in &shards {
            assert_eq!(all(shard).len() as u64, count);
        }
    }

    #[test]
    fn an_interrupted_restore_leaves_an_empty_shard_and_the_others_whole() {
        let dir = tempfile::tempdir().expect("folder");
        let dir = dir.path().join("timeline");
        {
            let store = open(&dir);
            let (shard, other) = (store.shard(0).expect("shard"), store.shard(1).expect("shard"));
            for shard in [&shard, &other] {
                let mut changes = Changes::default();
                changes.put(b"\x13old".to_vec(), b"old".to_vec());
                shard.commit(changes, b"1").expect("commits");
            }
            let new = || (0..2000u32).map(|i| Ok((format!("\x13{i}").into_bytes(), vec![1])));
            let mut broken = new().chain([Err(io::Error::other("damaged"))]);
            shard.restore(&mut broken, b"new").expect_err("damaged");
            assert!(all(&shard).is_empty(), "nothing is left of a restore that failed");
            // A panic takes the place of a kill: nothing is tidied up.
            let mut killed = new().chain([()].iter().map(|()| panic!("killed")));
            catch_unwind(AssertUnwindSafe(|| shard.restore(&mut killed, b"new"))).expect_err("killed");
            assert!(!all(&shard).is_empty(), "something is left of a restore that was killed");
        }
        let store = open(&dir);
        let (shard, other) = (store.shard(0).expect("shard"), store.shard(1).expect("shard"));
        assert_eq!(shard.applied().expect("reads"), None);
        assert!(all(&shard).is_empty());
        assert_eq!(all(&other), [(b"\x13old".to_vec(), b"old".to_vec())]);
        shard.restore(&mut [Ok((b"\x13a".to_vec(), b"b".to_vec()))].into_iter(), b"new").expect("restores");
        drop((shard, other, store));
        let shard = open(&dir).shard(0).expect("shard");
        assert_eq!(shard.applied().expect("reads").as_deref(), Some(b"new".as_slice()));
        assert_eq!(all(&shard), [(b"\x13a".to_vec(), b"b".to_vec())]);
    }
}
