//! Timeline shards on fjall 3. The only module that names it.

use std::{io, ops::RangeInclusive, path::Path};

use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable as _, Snapshot};

use super::{Changes, OpenError};
use crate::machine::{Record, keys};

const FORMAT: &str = "format";
/// Records that one batch of a restore holds.
const BULK: usize = 512;
/// Journals kept before memtables are written out for the sake of their removal. Also what a start reads at most.
const MAX_JOURNAL_BYTES: u64 = 256 * 1024 * 1024;
const MIN_MEMTABLE_BYTES: u64 = 1024 * 1024;
const MAX_MEMTABLE_BYTES: u64 = 64 * 1024 * 1024;

/// All timeline shards of a node.
pub(crate) struct TimelineStore {
    db: Database,
    memtable_bytes: u64,
}

/// One timeline shard: a keyspace. Clones read; only the machine writes.
#[derive(Clone)]
pub(crate) struct TimelineShard {
    db: Database,
    keyspace: Keyspace,
}

/// One state of a shard, as long as it is held.
pub(crate) struct TimelineView {
    snapshot: Snapshot,
    keyspace: Keyspace,
}

pub(crate) type Value = ::fjall::Slice;

impl TimelineStore {
    /// `memtables_bytes` is shared by `shards` shards.
    pub(crate) fn open(dir: &Path, cache_bytes: u64, memtables_bytes: u64, shards: u16) -> Result<Self, OpenError> {
        let failed = |error: ::fjall::Error| OpenError::Timeline { path: dir.to_owned(), source: to_io(error) };
        let builder = Database::builder(dir).cache_size(cache_bytes).max_journaling_size(MAX_JOURNAL_BYTES);
        let db = builder.open().map_err(failed)?;
        let share = memtables_bytes / u64::from(shards.max(1));
        let store = Self { db, memtable_bytes: share.clamp(MIN_MEMTABLE_BYTES, MAX_MEMTABLE_BYTES) };
        store.check_format(dir)?;
        Ok(store)
    }

    fn check_format(&self, dir: &Path) -> Result<(), OpenError> {
        let failed = |error: ::fjall::Error| OpenError::Timeline { path: dir.to_owned(), source: to_io(error) };
        let keyspace = self.db.keyspace(FORMAT, KeyspaceCreateOptions::default).map_err(failed)?;
        match keyspace.get(FORMAT).map_err(failed)? {
            Some(found) if *found == keys::FORMAT.to_be_bytes() => Ok(()),
            None if self.db.list_keyspace_names().iter().all(|name| !name.starts_with("shard-")) => {
                keyspace.insert(FORMAT, keys::FORMAT.to_be_bytes()).map_err(failed)?;
                self.db.persist(PersistMode::SyncAll).map_err(failed)
            }
            found => Err(OpenError::format(dir, found.as_deref())),
        }
    }

    pub(crate) fn shard(&self, index: u16) -> io::Result<TimelineShard> {
        let options = || KeyspaceCreateOptions::default().max_memtable_size(self.memtable_bytes);
        let keyspace = self.db.keyspace(&format!("shard-{index}"), options).map_err(to_io)?;
        let shard = TimelineShard { db: self.db.clone(), keyspace };
        if shard.applied()?.is_none() && !shard.keyspace.is_empty().map_err(to_io)? {
            // Every batch brings `APPLIED` along, so these can only be remains of a restore that was interrupted.
            shard.keyspace.clear().map_err(to_io)?;
        }
        Ok(shard)
    }
}

impl TimelineShard {
    pub(crate) fn get(&self, key: &[u8]) -> io::Result<Option<Value>> {
        self.keyspace.get(key).map_err(to_io)
    }

    pub(crate) fn view(&self) -> TimelineView {
        TimelineView { snapshot: self.db.snapshot(), keyspace: self.keyspace.clone() }
    }

    pub(crate) fn applied(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.get(keys::APPLIED)?.map(|value| value.to_vec()))
    }

    /// Writes all or nothing, without waiting for the disk.
    pub(crate) fn commit(&self, changes: Changes, applied: &[u8]) -> io::Result<()> {
        let mut batch = self.batch(changes.len() + 1);
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&self.keyspace, key, value),
                None => batch.remove(&self.keyspace, key),
            }
        }
        batch.insert(&self.keyspace, keys::APPLIED, applied);
        batch.commit().map_err(to_io)
    }

    /// On disk when it returns.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.db.persist(PersistMode::SyncAll).map_err(to_io)
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = Record> + Send + use<> {
        let view = self.view();
        let records = view.snapshot.iter(&view.keyspace);
        records.filter_map(|record| match record.into_inner() {
            Ok((key, _)) if *key == *keys::APPLIED => None,
            Ok((key, value)) => Some(Ok((key.to_vec(), value.to_vec()))),
            Err(error) => Some(Err(to_io(error))),
        })
    }

    pub(crate) fn restore(&self, records: &mut dyn Iterator<Item = Record>, applied: &[u8]) -> io::Result<()> {
        self.keyspace.remove(keys::APPLIED).map_err(to_io)?;
        self.sync()?;
        self.keyspace.clear().map_err(to_io)?;
        loop {
            let mut batch = self.batch(BULK);
            for record in (&mut *records).take(BULK) {
                let (key, value) = record?;
                batch.insert(&self.keyspace, key, value);
            }
            let count = batch.len();
            batch.commit().map_err(to_io)?;
            if count < BULK {
                break;
            }
        }
        self.sync()?;
        self.keyspace.insert(keys::APPLIED, applied).map_err(to_io)?;
        self.sync()
    }

    /// Handed to the operating system when committed: what is applied outlives a killed process, not a power failure.
    fn batch(&self, capacity: usize) -> OwnedWriteBatch {
        OwnedWriteBatch::with_capacity(self.db.clone(), capacity).durability(Some(PersistMode::Buffer))
    }
}

impl TimelineView {
    pub(crate) fn get(&self, key: &[u8]) -> io::Result<Option<Value>> {
        self.snapshot.get(&self.keyspace, key).map_err(to_io)
    }

    pub(crate) fn range(
        &self,
        range: RangeInclusive<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = io::Result<(Value, Value)>> {
        self.snapshot.range(&self.keyspace, range).map(|record| record.into_inner().map_err(to_io))
    }
}

fn to_io(error: ::fjall::Error) -> io::Error {
    match error {
        ::fjall::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;

    fn open(dir: &Path) -> TimelineStore {
        TimelineStore::open(dir, 8 << 20, 16 << 20, 2).expect("opens")
    }

    fn all(shard: &TimelineShard) -> Vec<(Vec<u8>, Vec<u8>)> {
        shard.records().collect::<io::Result<_>>().expect("reads")
    }

    #[test]
    fn a_view_stays_the_same_while_batches_go_on() {
        let dir = tempfile::tempdir().expect("folder");
        let shard = open(dir.path()).shard(0).expect("shard");
        for round in 0..100u8 {
            let mut changes = Changes::default();
            changes.put(vec![0x11, round], vec![0]);
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
                    changes.put(vec![0x11, round], vec![1]);
                    changes.delete(vec![0x11, round / 2]);
                    shard.commit(changes, &[round]).expect("commits");
                }
            }
        });
        writer.join().expect("writer");
        let seen: Vec<_> = [first].into_iter().chain(view.map(|record| record.expect("reads"))).collect();
        assert_eq!(seen, before);
    }

    #[test]
    fn an_interrupted_restore_leaves_an_empty_shard_and_the_others_whole() {
        let dir = tempfile::tempdir().expect("folder");
        {
            let store = open(dir.path());
            let (shard, other) = (store.shard(0).expect("shard"), store.shard(1).expect("shard"));
            for shard in [&shard, &other] {
                let mut changes = Changes::default();
                changes.put(b"\x11old".to_vec(), b"old".to_vec());
                shard.commit(changes, b"1").expect("commits");
            }
            let new = (0..2000u32).map(|i| Ok((format!("\x11{i}").into_bytes(), vec![1])));
            let mut broken = new.chain([Err(io::Error::other("connection lost"))]);
            shard.restore(&mut broken, b"new").expect_err("interrupted");
            shard.sync().expect("syncs");
        }
        let store = open(dir.path());
        let (shard, other) = (store.shard(0).expect("shard"), store.shard(1).expect("shard"));
        assert_eq!(shard.applied().expect("reads"), None);
        assert!(all(&shard).is_empty());
        assert_eq!(all(&other), [(b"\x11old".to_vec(), b"old".to_vec())]);
        shard.restore(&mut [Ok((b"\x11a".to_vec(), b"b".to_vec()))].into_iter(), b"new").expect("restores");
        drop((shard, other, store));
        let shard = open(dir.path()).shard(0).expect("shard");
        assert_eq!(shard.applied().expect("reads").as_deref(), Some(b"new".as_slice()));
        assert_eq!(all(&shard), [(b"\x11a".to_vec(), b"b".to_vec())]);
    }

    #[test]
    fn another_format_is_refused() {
        let dir = tempfile::tempdir().expect("folder");
        {
            let store = open(dir.path());
            let keyspace = store.db.keyspace(FORMAT, KeyspaceCreateOptions::default).expect("keyspace");
            keyspace.insert(FORMAT, (keys::FORMAT + 1).to_be_bytes()).expect("writes");
        }
        let error = TimelineStore::open(dir.path(), 8 << 20, 16 << 20, 2).err().expect("refused").to_string();
        assert!(error.contains("format 2") && error.contains("format 1"), "{error}");
    }

    #[test]
    fn a_corrupt_folder_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().expect("folder");
        drop(open(dir.path()).shard(0).expect("shard"));
        fs::write(dir.path().join("version"), b"not what fjall wrote").expect("writes");
        let error = TimelineStore::open(dir.path(), 8 << 20, 16 << 20, 2).err().expect("refused").to_string();
        assert!(error.contains("empty disk"), "{error}");
    }
}
