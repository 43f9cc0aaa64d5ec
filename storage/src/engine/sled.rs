//! Directory shards on sled 0.34.7. The only module that names it.
//!
//! The module makes up for what sled lacks: `flush` is no fsync on Linux, so the file is synced after it; sled has no
//! consistent views, so [`Views`] makes them; a kill during an open can leave a file on which the next open fails; and what
//! damage has taken from the file is missing without a word, so a [`Digest`] of all records is kept.

mod opening;

use std::{fs::File, io, ops::Bound, sync::Arc};

use parking_lot::{RwLock, RwLockReadGuard};

use super::{
    Changes,
    digest::{Digest, Sealed},
    mark::EngineMark,
    views::{Piece, ViewId, Views},
};
use crate::{
    damage::damaged,
    machine::{Record, keys},
};

/// Records in one batch of a restore or removal.
const BULK: usize = 512;
/// The name of a shard's tree, before its number.
const TREE: &str = "shard-";
const ENGINE: &str = "directory engine";

/// All directory shards of a node.
pub(crate) struct DirectoryStore {
    engine: Arc<Engine>,
}

/// Closed when the last shard drops its handle.
struct Engine {
    db: ::sled::Db,
    file: File,
    mark: EngineMark,
}

/// One directory shard: a tree. Clones only read; the state machine writes.
#[derive(Clone)]
pub(crate) struct DirectoryShard {
    engine: Arc<Engine>,
    tree: ::sled::Tree,
    /// Write-locked while a batch is applied, while a view reads a piece, and while all content is replaced.
    inside: Arc<RwLock<Inside>>,
}

#[derive(Default)]
struct Inside {
    views: Views,
    /// Of all records.
    digest: Digest,
}

pub(crate) type Value = ::sled::IVec;

impl DirectoryShard {
    pub(crate) fn get(&self, key: &[u8]) -> io::Result<Option<Value>> {
        self.tree.get(key).map_err(to_io)
    }

    /// The records with this key prefix, in order.
    pub(crate) fn with_prefix(&self, prefix: &[u8]) -> impl Iterator<Item = io::Result<(Value, Value)>> + use<> {
        self.tree.scan_prefix(prefix).map(|record| record.map_err(to_io))
    }

    /// The records with this key prefix and keys greater than `after`, in order.
    pub(crate) fn after(
        &self,
        prefix: &[u8],
        after: &[u8],
    ) -> impl Iterator<Item = io::Result<(Value, Value)>> + use<> {
        let prefix = prefix.to_vec();
        let records = self.tree.range::<&[u8], _>((Bound::Excluded(after), Bound::Unbounded));
        let records = records.map(|record| record.map_err(to_io));
        records.take_while(move |record| record.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix)))
    }

    /// While the guard is held no batch is applied, so several reads see one state.
    pub(crate) fn hold(&self) -> RwLockReadGuard<'_, impl Sized> {
        self.inside.read()
    }

    pub(crate) fn applied(&self) -> io::Result<Option<Vec<u8>>> {
        let Some(value) = self.get(keys::APPLIED)? else { return Ok(None) };
        match Sealed::read(&value) {
            Sealed::With(applied, _) | Sealed::Without(applied) => Ok(Some(applied.to_vec())),
            Sealed::Broken => Err(damaged(ENGINE, "the record of what is applied")),
        }
    }

    /// Writes all changes or none, without waiting for the disk.
    pub(crate) fn commit(&self, changes: Changes, applied: &[u8]) -> io::Result<()> {
        let mut inside = self.inside.write();
        let mut digest = inside.digest;
        let mut batch = ::sled::Batch::default();
        for (key, value) in changes {
            let before = self.get(&key)?;
            inside.views.before_write(&key, || Ok(before.as_ref().map(|value| value.to_vec())))?;
            if let Some(before) = before {
                digest.remove(&key, &before);
            }
            match value {
                Some(value) => {
                    digest.add(&key, &value);
                    batch.insert(&*key, &*value);
                }
                None => batch.remove(&*key),
            }
        }
        batch.insert(keys::APPLIED, digest.seal(applied));
        self.tree.apply_batch(batch).map_err(to_io)?;
        inside.digest = digest;
        Ok(())
    }

    /// On disk when it returns.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.engine.sync()
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = Record> + Send + use<> {
        let id = self.inside.write().views.open(keys::APPLIED.to_vec());
        Records { shard: self.clone(), id, piece: Vec::new().into_iter(), ended: false }
    }

    /// The value of `APPLIED`, and the records that belong to it.
    pub(crate) fn applied_records(&self) -> io::Result<(Option<Vec<u8>>, impl Iterator<Item = Record> + Send + use<>)> {
        let mut inside = self.inside.write();
        let applied = self.applied()?;
        let id = inside.views.open(keys::APPLIED.to_vec());
        Ok((applied, Records { shard: self.clone(), id, piece: Vec::new().into_iter(), ended: false }))
    }

    /// Replaces all content. If it fails or is interrupted, the shard is empty.
    pub(crate) fn restore(&self, records: &mut dyn Iterator<Item = Record>, applied: &[u8]) -> io::Result<()> {
        let mut inside = self.inside.write();
        inside.views.before_replace();
        inside.digest = Digest::default();
        match self.replace(records, applied) {
            Ok(digest) => {
                inside.digest = digest;
                Ok(())
            }
            Err(error) => self.clear().and(Err(error)),
        }
    }

    fn replace(&self, records: &mut dyn Iterator<Item = Record>, applied: &[u8]) -> io::Result<Digest> {
        let mut digest = Digest::default();
        self.tree.remove(keys::APPLIED).map_err(to_io)?;
        self.sync()?;
        self.clear()?;
        loop {
            let mut batch = ::sled::Batch::default();
            let mut count = 0;
            for record in (&mut *records).take(BULK) {
                let (key, value) = record?;
                digest.add(&key, &value);
                batch.insert(key, value);
                count += 1;
            }
            self.tree.apply_batch(batch).map_err(to_io)?;
            if count < BULK {
                break;
            }
        }
        self.sync()?;
        self.tree.insert(keys::APPLIED, digest.seal(applied)).map_err(to_io)?;
        self.sync()?;
        Ok(digest)
    }

    fn clear(&self) -> io::Result<()> {
        loop {
            let mut batch = ::sled::Batch::default();
            let mut count = 0;
            for key in self.tree.iter().keys().take(BULK) {
                batch.remove(key.map_err(to_io)?);
                count += 1;
            }
            if count == 0 {
                return Ok(());
            }
            self.tree.apply_batch(batch).map_err(to_io)?;
        }
    }

    fn first_after(&self, after: &[u8], n: usize) -> io::Result<Piece> {
        let range = (Bound::Excluded(after), Bound::Unbounded);
        let records = self.tree.range::<&[u8], _>(range).take(n);
        records.map(|record| record.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(to_io)).collect()
    }
}

impl Engine {
    fn sync(&self) -> io::Result<()> {
        self.db.flush().map_err(to_io)?;
        self.file.sync_data()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(error) = self.sync().and_then(|()| self.mark.closed()) {
            tracing::warn!(%error, "directory engine was not closed in order: it may be rebuilt at the next start");
        }
    }
}

/// The records that existed when the view was made.
struct Records {
    shard: DirectoryShard,
    id: ViewId,
    piece: std::vec::IntoIter<(Vec<u8>, Vec<u8>)>,
    ended: bool,
}

impl Iterator for Records {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        loop {
            if let Some(record) = self.piece.next() {
                return Some(Ok(record));
            }
            if self.ended {
                return None;
            }
            let shard = &self.shard;
            match shard.inside.write().views.next_piece(self.id, |after, n| shard.first_after(after, n)) {
                Ok(Some(piece)) => self.piece = piece.into_iter(),
                Ok(None) => self.ended = true,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.shard.inside.write().views.close(self.id);
    }
}

fn to_io(error: ::sled::Error) -> io::Error {
    match error {
        // Its settings, which never change, are not those that it finds in its file.
        ::sled::Error::Unsupported(_) | ::sled::Error::Corruption { .. } | ::sled::Error::ReportableBug(_) => {
            damaged(ENGINE, error)
        }
        ::sled::Error::Io(source)
            if matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            damaged(ENGINE, source)
        }
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        thread,
    };

    use super::*;

    pub(super) const CACHE: u64 = 8 * 1024 * 1024;

    pub(super) fn put(shard: &DirectoryShard, key: &[u8], value: &[u8]) {
        let mut changes = Changes::default();
        changes.put(key.to_vec(), value.to_vec());
        shard.commit(changes, b"applied").expect("commits");
    }

    pub(super) fn all(shard: &DirectoryShard) -> Piece {
        shard.records().collect::<io::Result<_>>().expect("reads")
    }

    #[test]
    fn a_view_stays_the_same_while_batches_go_on() {
        let dir = tempfile::tempdir().expect("folder");
        let dir = dir.path().join("directory");
        let shard = DirectoryStore::open(&dir, CACHE).expect("opens").shard(0).expect("shard");
        let mut changes = Changes::default();
        for key in 0..20_000u32 {
            changes.put([&[1], key.to_be_bytes().as_slice()].concat(), vec![0; 200]);
        }
        shard.commit(changes, b"1").expect("commits");
        let before = all(&shard);
        let view = shard.records();
        let writer = thread::spawn({
            let shard = shard.clone();
            move || {
                for round in 1..=40u8 {
                    let mut changes = Changes::default();
                    for step in 0..200u32 {
                        let key = (u32::from(round) * 7919 + step * 31) % 25_000;
                        let key = [&[1], key.to_be_bytes().as_slice()].concat();
                        if step % 3 == 0 { changes.delete(key) } else { changes.put(key, vec![round]) }
                    }
                    shard.commit(changes, &[round]).expect("commits");
                }
            }
        });
        let seen: Piece = view.collect::<io::Result<_>>().expect("reads");
        writer.join().expect("writer");
        assert_eq!(seen.len(), 20_000);
        assert!(seen == before, "the view has changed");
        assert!(all(&shard) != before, "the writes are there");
    }

    #[test]
    fn an_interrupted_restore_leaves_an_empty_shard() {
        let dir = tempfile::tempdir().expect("folder");
        let dir = dir.path().join("directory");
        {
            let shard = DirectoryStore::open(&dir, CACHE).expect("opens").shard(3).expect("shard");
            put(&shard, b"\x01old", b"old");
            let new = || (0..2000u32).map(|i| Ok((format!("\x01{i}").into_bytes(), vec![1])));
            let mut broken = new().chain([Err(io::Error::other("damaged"))]);
            shard.restore(&mut broken, b"new").expect_err("damaged");
            assert!(all(&shard).is_empty(), "nothing is left of a restore that failed");
            // A panic takes the place of a kill: nothing is tidied up.
            let mut killed = new().chain([()].iter().map(|()| panic!("killed")));
            catch_unwind(AssertUnwindSafe(|| shard.restore(&mut killed, b"new"))).expect_err("killed");
            assert!(!all(&shard).is_empty(), "something is left of a restore that was killed");
        }
        let shard = DirectoryStore::open(&dir, CACHE).expect("opens").shard(3).expect("shard");
        assert_eq!(shard.applied().expect("reads"), None);
        assert!(all(&shard).is_empty());
        shard.restore(&mut [Ok((b"\x01a".to_vec(), b"b".to_vec()))].into_iter(), b"new").expect("restores");
        assert_eq!(shard.applied().expect("reads").as_deref(), Some(b"new".as_slice()));
        assert_eq!(all(&shard), [(b"\x01a".to_vec(), b"b".to_vec())]);
    }
}
