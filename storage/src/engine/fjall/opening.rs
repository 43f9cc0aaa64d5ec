//! Opening the folder, with what an older version or a power failure has left in it.

use std::{
    fs, io,
    ops::RangeInclusive,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    thread,
};

use ::fjall::{Database, KeyspaceCreateOptions, Readable as _};
use parking_lot::Mutex;

use super::{BULK, ENGINE, Engine, TimelineShard, TimelineStore, forgotten::TablesBefore, to_io};
use crate::{
    damage::{damaged, is_damage},
    engine::{
        Caches, OpenError, files,
        mark::{Before, EngineMark},
    },
    machine::keys,
};

/// Bound on the journals, as many bytes as memtables may have, but within this range. Beyond it, memtables are flushed
/// to free journals. It is also the most that a start replays.
const JOURNAL_BYTES: RangeInclusive<u64> = 64 * 1024 * 1024..=256 * 1024 * 1024;
pub(super) const MIN_MEMTABLE_BYTES: u64 = 1024 * 1024;
const MAX_MEMTABLE_BYTES: u64 = 64 * 1024 * 1024;
/// The engine's own bound, which is never reached.
const ENGINE_MEMTABLE_BYTES: u64 = 1024 * 1024 * 1024;
/// With fewer cores the engine has one thread to write tables. With several threads, the first one leaves compaction to
/// the others, and spins as long as they have some to do.
const CORES_TO_SPARE: usize = 4;

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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{
        Changes,
        fjall::tests::{all, caches, open},
    };

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
