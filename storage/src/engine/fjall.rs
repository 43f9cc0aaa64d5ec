//! Timeline shards on fjall 3. The only module that names it.

mod forgotten;
mod rewrite;

use std::{
    fs, io, mem,
    ops::RangeInclusive,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use ::fjall::{
    AbstractTree, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable as _, Snapshot,
};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use self::forgotten::TablesBefore;
use super::{
    Caches, Changes, OpenError,
    coming::Coming,
    files,
    mark::{Before, EngineMark},
};
use crate::{
    damage::{damaged, is_damage},
    machine::{
        Record,
        keys::{self, RowBytes},
    },
};

const ENGINE: &str = "timeline engine";
/// Records in one batch of a restore.
const BULK: usize = 512;
/// Bound on the journals, as many bytes as memtables may have, but within this range. Beyond it, memtables are flushed
/// to free journals. It is also the most that a start replays.
const JOURNAL_BYTES: RangeInclusive<u64> = 64 * 1024 * 1024..=256 * 1024 * 1024;
const MIN_MEMTABLE_BYTES: u64 = 1024 * 1024;
const MAX_MEMTABLE_BYTES: u64 = 64 * 1024 * 1024;
/// The engine's own bound, which is never reached.
const ENGINE_MEMTABLE_BYTES: u64 = 1024 * 1024 * 1024;
/// With fewer cores the engine has one thread to write tables. With several threads, the first one leaves compaction to
/// the others, and spins as long as they have some to do.
const CORES_TO_SPARE: usize = 4;

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

impl TimelineStore {
    /// `caches` are shared by `shards` shards.
    pub(crate) fn open(dir: &Path, caches: &Caches, shards: u16) -> Result<Self, OpenError> {
        let memtables_bytes = caches.memtables_bytes;
        let failed = |error: ::fjall::Error| OpenError::Timeline { path: dir.to_owned(), source: to_io(error) };
        let (mark, before) = EngineMark::open(dir)?;
        let journal_bytes = memtables_bytes.clamp(*JOURNAL_BYTES.start(), *JOURNAL_BYTES.end());
        let one_thread = thread::available_parallelism().is_ok_and(|cores| cores.get() < CORES_TO_SPARE);
        let open = || {
            let database = Database::builder(dir).cache_size(caches.timeline_bytes).max_journaling_size(journal_bytes);
            let database = database.max_cached_files(Some(caches.timeline_files));
            if one_thread { database.worker_threads(1) } else { database }.open()
        };
        match files::check(dir) {
            Ok(()) => {}
            Err(error) if before == Before::PowerLost && is_damage(&error) => {
                // The unsynced part of its journal has holes, and the engine does not cut it off there.
                tracing::warn!(path = %dir.display(), %error, "timeline engine begins anew after a power failure, from snapshot and log");
                fs::remove_dir_all(dir).map_err(|error| failed(error.into()))?;
            }
            Err(source) => return Err(OpenError::Timeline { path: dir.to_owned(), source }),
        }
        let tables = TablesBefore::list(dir).map_err(|error| failed(error.into()))?;
        let db = if before == Before::PowerLost {
            let db = open().map_err(failed)?;
            mark.opened()?;
            db
        } else {
            mark.opened()?;
            open().map_err(failed)?
        };
        let share = memtables_bytes / u64::from(shards.max(1));
        let memtable_bytes = share.clamp(MIN_MEMTABLE_BYTES, MAX_MEMTABLE_BYTES);
        let engine = Engine { db, mark, readers: Mutex::default() };
        tables.remove_forgotten(&engine).map_err(|error| failed(error.into()))?;
        Ok(Self { dir: dir.to_owned(), engine: Arc::new(engine), memtable_bytes })
    }

    /// Reads everything in the folder; an error if it is damaged.
    pub(crate) fn check(dir: &Path, caches: &Caches, shards: u16) -> Result<(), OpenError> {
        let failed = |source| OpenError::Timeline { path: dir.to_owned(), source };
        let store = Self::open(dir, caches, shards)?;
        for index in 0..shards {
            let read = || -> io::Result<()> { store.shard(index)?.records().try_for_each(|record| record.map(drop)) };
            // Some kinds of damage make the engine panic.
            let panicked = |_| Err(damaged(ENGINE, "it panicked while it read its files"));
            let read = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(panicked);
            read.map_err(|error| match is_damage(&error) {
                true => failed(damaged(format!("shard timeline-{index}"), error)),
                false => failed(error),
            })?;
        }
        Ok(())
    }

    pub(crate) fn shard(&self, index: u16) -> io::Result<TimelineShard> {
        let options = || KeyspaceCreateOptions::default().max_memtable_size(ENGINE_MEMTABLE_BYTES);
        let keyspace = self.engine.db.keyspace(&format!("shard-{index}"), options).map_err(to_io)?;
        let (engine, memtable_bytes) = (Arc::clone(&self.engine), self.memtable_bytes);
        let shard = TimelineShard { engine, keyspace, memtable_bytes, whole: Arc::default(), coming: Arc::default() };
        if shard.applied()?.is_none() && !shard.keyspace.is_empty().map_err(to_io)? {
            // Every batch writes `APPLIED`, so these can only be remains of an interrupted restore.
            shard.clear()?;
        }
        shard.upgrade()?;
        Ok(shard)
    }
}

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

    /// Rewrites the keys of an older version in today's form. An interruption leaves some of each for the next start.
    fn upgrade(&self) -> io::Result<()> {
        let (mut from, end) = keys::outdated().into_inner();
        let mut count = 0;
        loop {
            let outdated = self.engine.db.snapshot().range(&self.keyspace, from.clone()..=end.clone()).take(BULK);
            let mut batch = self.batch(2 * BULK);
            for record in outdated {
                let (key, value) = record.into_inner().map_err(to_io)?;
                let now = keys::upgraded(&key).ok_or_else(|| io::Error::other("a key of format 1 is broken"))?;
                batch.insert(&self.keyspace, now, value);
                // Skips the tombstones of keys removed before.
                from = keys::after(&key);
                batch.remove(&self.keyspace, key);
            }
            if batch.is_empty() {
                break;
            }
            count += batch.len() / 2;
            self.write(batch)?;
        }
        if count > 0 {
            tracing::info!(keyspace = &**self.keyspace.name(), count, "timelines have the keys of this version now");
        }
        Ok(())
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
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    fn caches(memtables_bytes: u64) -> Caches {
        Caches { timeline_bytes: 8 << 20, memtables_bytes, ..Caches::default() }
    }

    fn open(dir: &Path) -> TimelineStore {
        TimelineStore::open(dir, &caches(16 << 20), 2).expect("opens")
    }

    fn all(shard: &TimelineShard) -> Vec<(Vec<u8>, Vec<u8>)> {
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
        // What a shard was made with does not count.
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

    #[test]
    fn what_an_older_version_wrote_gets_the_keys_of_this_one() {
        let old = |number: u64, seq: u64| [&[0x11], number.to_be_bytes().as_slice(), &seq.to_be_bytes()].concat();
        let count = 2 * BULK as u64 + 10;
        let dir = tempfile::tempdir().expect("folder");
        let dir = dir.path().join("timeline");
        {
            let shard = open(&dir).shard(0).expect("shard");
            let mut changes = Changes::default();
            (1..=count).for_each(|seq| changes.put(old(3, seq), seq.to_be_bytes().to_vec()));
            changes.put(keys::cursor(3, "d"), vec![1]);
            // As an interrupted upgrade leaves it.
            changes.delete(old(3, 1));
            changes.put(keys::record(3, 1), 1u64.to_be_bytes().to_vec());
            shard.commit(changes, b"1").expect("commits");
        }
        let store = open(&dir);
        let shard = store.shard(0).expect("shard");
        let mut expected = vec![(keys::cursor(3, "d").to_vec(), vec![1])];
        expected.extend((1..=count).map(|seq| (keys::record(3, seq).to_vec(), seq.to_be_bytes().to_vec())));
        assert_eq!(all(&shard), expected);
        assert_eq!(shard.applied().expect("reads").as_deref(), Some(b"1".as_slice()));
        let other = store.shard(1).expect("shard");
        other
            .restore(&mut (1..=count).map(|seq| Ok((old(3, seq), seq.to_be_bytes().to_vec()))), b"1")
            .expect("restores");
        assert_eq!(all(&other), expected[1..]);
    }

    #[test]
    fn after_a_power_failure_that_tore_the_journal_it_begins_anew() {
        let dir = tempfile::tempdir().expect("folder");
        let dir = dir.path().join("timeline");
        let tear = || {
            let shard = open(&dir).shard(0).expect("shard");
            let mut changes = Changes::default();
            changes.put(b"\x13torn".to_vec(), vec![0xab; 4000]);
            shard.commit(changes, b"1").expect("commits");
            drop(shard);
            let journals = fs::read_dir(&dir).expect("lists").map(|entry| entry.expect("lists").path());
            let mut journals: Vec<_> = journals.filter(|path| path.extension().is_some_and(|e| e == "jnl")).collect();
            let journal = journals.pop().expect("a journal");
            let mut bytes = fs::read(&journal).expect("reads");
            let at = bytes.windows(200).position(|bytes| bytes == [0xab; 200]).expect("the value is in the journal");
            bytes[at + 100..at + 200].fill(0);
            fs::write(journal, bytes).expect("writes");
        };
        tear();
        let error = TimelineStore::open(&dir, &caches(16 << 20), 2).err().expect("no power failure").to_string();
        assert!(error.contains("if its files are damaged"), "{error}");
        fs::write(dir.with_extension("mark"), "format 1\nopen in boot another\n").expect("writes");
        assert_eq!(open(&dir).shard(0).expect("shard").applied().expect("reads"), None);
    }

    #[test]
    fn a_corrupt_folder_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().expect("folder");
        let dir = dir.path().join("timeline");
        drop(open(&dir).shard(0).expect("shard"));
        fs::write(dir.join("version"), b"not what fjall wrote").expect("writes");
        let error = TimelineStore::open(&dir, &caches(16 << 20), 2).err().expect("refused").to_string();
        assert!(error.contains("if its files are damaged"), "{error}");
    }
}
