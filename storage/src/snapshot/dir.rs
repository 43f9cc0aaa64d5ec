//! Where the last snapshot of a shard is kept.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use carillon_proto::pb::raft::{LogId, SnapshotMeta};
use parking_lot::Mutex;

use super::{SnapshotFile, damaged, writer};
use crate::machine::Record;

/// The snapshots of one shard: the last one, and those being made. All methods block.
pub(crate) struct SnapshotDir {
    dir: PathBuf,
    name: String,
    group: u64,
    /// The log id that the last snapshot reaches to. Held while a file takes its place.
    last: Mutex<Option<LogId>>,
    temporary: AtomicU64,
}

/// A snapshot arriving from another node. Removed if it is not finished.
pub(crate) struct Receiving {
    file: File,
    path: PathBuf,
    finished: bool,
}

impl SnapshotDir {
    /// Removes unfinished files of an earlier process.
    pub(crate) fn open(dir: &Path, name: String, group: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let prefix = format!("{name}.tmp-");
        for found in fs::read_dir(dir)? {
            let found = found?;
            if found.file_name().to_str().is_some_and(|found| found.starts_with(&prefix)) {
                fs::remove_file(found.path())?;
            }
        }
        let this = Self { dir: dir.to_owned(), name, group, last: Mutex::new(None), temporary: AtomicU64::new(0) };
        let last = this.current()?.and_then(|(meta, _)| meta.last_log_id);
        *this.last.lock() = last;
        Ok(this)
    }

    pub(crate) fn current(&self) -> io::Result<Option<(SnapshotMeta, SnapshotFile)>> {
        let file = match SnapshotFile::open(&self.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (group, meta) = file.header()?;
        if group != self.group {
            return Err(damaged("it is of another shard"));
        }
        Ok(Some((meta, file)))
    }

    /// Makes a new snapshot and returns the last one: this one, unless a newer one arrived meanwhile.
    pub(crate) fn write(
        &self,
        meta: SnapshotMeta,
        records: &mut dyn Iterator<Item = Record>,
    ) -> io::Result<(SnapshotMeta, SnapshotFile)> {
        let mut temporary = self.receive()?;
        writer::write(temporary.file.try_clone()?, self.group, meta.clone(), records)?;
        self.publish(&temporary.path, meta.last_log_id)?;
        temporary.finished = true;
        self.current()?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// A new file for a snapshot sent by another node.
    pub(crate) fn receive(&self) -> io::Result<Receiving> {
        let path = self.temporary();
        Ok(Receiving { file: File::create_new(&path)?, path, finished: false })
    }

    /// Makes this checked file the last snapshot.
    pub(crate) fn adopt(&self, file: &SnapshotFile, last: Option<LogId>) -> io::Result<SnapshotFile> {
        if file.path() == self.path() {
            return Ok(file.clone());
        }
        if file.path().starts_with(&self.dir) {
            self.publish(file.path(), last)?;
        } else {
            let path = self.temporary();
            fs::copy(file.path(), &path)?;
            File::open(&path)?.sync_all()?;
            self.publish(&path, last)?;
        }
        SnapshotFile::open(&self.path())
    }

    /// Removes the snapshot file of a deleted replica. On disk when it returns.
    pub(crate) fn clear(&self) -> io::Result<()> {
        let mut last = self.last.lock();
        match fs::remove_file(self.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => File::open(&self.dir)?.sync_all()?,
        }
        *last = None;
        Ok(())
    }

    /// Removes a file that was received and not adopted.
    pub(crate) fn discard(&self, path: &Path) {
        if path != self.path() {
            // If it stays, the next start removes it.
            let _ = fs::remove_file(path);
        }
    }

    fn publish(&self, path: &Path, last: Option<LogId>) -> io::Result<()> {
        let mut current = self.last.lock();
        let reach = |id: &Option<LogId>| id.map(|id| id.index);
        if reach(&current) > reach(&last) {
            return fs::remove_file(path);
        }
        fs::rename(path, self.path())?;
        // The name is on disk only when the folder is synced.
        File::open(&self.dir)?.sync_all()?;
        *current = last;
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.dir.join(format!("{}.snapshot", self.name))
    }

    fn temporary(&self) -> PathBuf {
        self.dir.join(format!("{}.tmp-{}", self.name, self.temporary.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Receiving {
    pub(crate) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_all(piece)
    }

    /// Syncs and checks it.
    pub(crate) fn finish(mut self, group: u64) -> io::Result<(SnapshotMeta, SnapshotFile)> {
        self.file.sync_all()?;
        let file = SnapshotFile::open(&self.path)?;
        let (found, meta) = file.verify()?;
        if found != group {
            return Err(damaged("it is of another shard"));
        }
        self.finished = true;
        Ok((meta, file))
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if !self.finished {
            // If it stays, the next start removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta { last_log_id: Some(LogId { term: 1, node: 1, index }), ..SnapshotMeta::default() }
    }

    fn records(count: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
        (0..count).map(|i| (i.to_be_bytes().to_vec(), vec![i as u8; (i % 5000) as usize])).collect()
    }

    fn write(dir: &SnapshotDir, index: u64, records: &[(Vec<u8>, Vec<u8>)]) -> (SnapshotMeta, SnapshotFile) {
        dir.write(meta(index), &mut records.iter().cloned().map(Ok)).expect("writes")
    }

    #[test]
    fn records_come_back_as_they_were_and_survive_the_next_snapshot() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = SnapshotDir::open(folder.path(), "timeline-0".into(), 7).expect("opens");
        assert!(dir.current().expect("reads").is_none());
        let many = records(3000);
        let (_, first) = write(&dir, 5, &many);
        write(&dir, 6, &[]);
        assert_eq!(dir.current().expect("reads").expect("is there").0, meta(6));
        let read: Vec<_> = first.records().expect("opens").map(|record| record.expect("whole")).collect();
        assert_eq!(read, many);
        // An older one that was slow does not replace a newer one.
        assert_eq!(write(&dir, 4, &many).0, meta(6));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_records_round_trip(
            few in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), any::<Vec<u8>>()), 0..40),
            long in 0..3_000_000usize,
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let dir = SnapshotDir::open(folder.path(), "timeline-0".into(), 7).expect("opens");
            // One that is longer than a block, among others.
            let records: Vec<_> = few.into_iter().chain([(vec![9], vec![3; long])]).collect();
            let (found, file) = write(&dir, 5, &records);
            prop_assert_eq!(found, meta(5));
            prop_assert_eq!(file.verify().expect("sound"), (7, meta(5)));
            let read: Vec<_> = file.records().expect("opens").map(|record| record.expect("whole")).collect();
            prop_assert!(read == records);
        }
    }

    #[test]
    fn any_changed_byte_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = SnapshotDir::open(folder.path(), "timeline-0".into(), 7).expect("opens");
        let (_, file) = write(&dir, 5, &records(40));
        let bytes = file.piece(0, usize::MAX).expect("reads");
        assert_eq!(bytes.len() as u64, file.len());
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            let mut receiving = dir.receive().expect("makes a file");
            receiving.write(&bytes).expect("writes");
            assert!(receiving.finish(7).is_err(), "byte {at}");
        }
        for len in 0..bytes.len() {
            let mut receiving = dir.receive().expect("makes a file");
            receiving.write(&bytes[..len]).expect("writes");
            assert!(receiving.finish(7).is_err(), "length {len}");
        }
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1, "what was refused is removed");
    }

    #[test]
    fn what_was_left_unfinished_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let left = folder.path().join("timeline-0.tmp-3");
        fs::write(&left, b"half").expect("writes");
        SnapshotDir::open(folder.path(), "timeline-0".into(), 7).expect("opens");
        assert!(!left.exists());
    }
}
