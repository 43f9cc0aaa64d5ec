//! Where the last snapshot of a shard is kept.

use std::{
    fs::{self, File},
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use carillon_proto::{
    ShardId,
    pb::raft::{LogId, SnapshotMeta},
};
use parking_lot::Mutex;

use super::{FOLDER, SnapshotFile, damaged, writer};
use crate::machine::Record;

/// For how long a part of a snapshot waits for the rest.
const PART_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The snapshots of one shard: the last one, and those being made. All methods block.
pub(crate) struct SnapshotDir {
    dir: PathBuf,
    name: String,
    group: u64,
    /// The log id that the last snapshot reaches to. Held while a file takes its place.
    last: Mutex<Option<LogId>>,
    temporary: AtomicU64,
    /// True while a part is being written.
    arriving: Arc<AtomicBool>,
}

/// A snapshot file that another node has. It is known again after an interruption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) last: Option<LogId>,
    pub(crate) bytes: u64,
    /// Of the whole file.
    pub(crate) crc32: u32,
}

/// A snapshot arriving from another node.
pub(crate) struct Receiving {
    file: File,
    path: PathBuf,
    finished: bool,
    /// Of a part, which stays if the rest does not come; without it, the file is removed.
    arriving: Option<Arc<AtomicBool>>,
}

impl SnapshotDir {
    /// The snapshots of this shard in a data folder.
    pub(crate) fn of(data_dir: &Path, shard: ShardId) -> io::Result<Self> {
        Self::open(&data_dir.join(FOLDER), shard.to_string(), shard.group())
    }

    /// Removes unfinished files of an earlier process, but for a part that may be continued.
    pub(crate) fn open(dir: &Path, name: String, group: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let this = Self {
            dir: dir.to_owned(),
            name,
            group,
            last: Mutex::new(None),
            temporary: AtomicU64::new(0),
            arriving: Arc::default(),
        };
        for file in this.files("tmp-")? {
            fs::remove_file(file)?;
        }
        for part in this.files("part-")? {
            // One whose time nobody knows is young.
            let age = fs::metadata(&part)?.modified()?.elapsed().unwrap_or_default();
            if age >= PART_AGE {
                fs::remove_file(part)?;
            }
        }
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
        Ok(Receiving { file: File::create_new(&path)?, path, finished: false, arriving: None })
    }

    /// How many bytes of this file are here.
    pub(crate) fn has(&self, offer: &Offer) -> io::Result<u64> {
        match fs::metadata(self.part(offer)) {
            Ok(found) => Ok(found.len().min(offer.bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The part of this file that is here, to be continued from `offset` on. Parts of other files are removed.
    pub(crate) fn receive_rest(&self, offer: &Offer, offset: u64) -> io::Result<Receiving> {
        if self.arriving.swap(true, Ordering::AcqRel) {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "another snapshot of the shard is arriving"));
        }
        let path = self.part(offer);
        let open = || {
            for part in self.files("part-")?.into_iter().filter(|part| *part != path) {
                fs::remove_file(part)?;
            }
            let mut file = File::options().create(true).truncate(false).write(true).open(&path)?;
            if file.metadata()?.len() < offset {
                let why = "the beginning of the snapshot is not here any more";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            file.set_len(offset)?;
            file.seek(SeekFrom::Start(offset))?;
            Ok(file)
        };
        match open() {
            Ok(file) => Ok(Receiving { file, path, finished: false, arriving: Some(Arc::clone(&self.arriving)) }),
            Err(error) => {
                self.arriving.store(false, Ordering::Release);
                Err(error)
            }
        }
    }

    /// Files of this shard whose name goes on like this.
    fn files(&self, rest: &str) -> io::Result<Vec<PathBuf>> {
        let prefix = format!("{}.{rest}", self.name);
        let mut files = Vec::new();
        for found in fs::read_dir(&self.dir)? {
            let found = found?;
            if found.file_name().to_str().is_some_and(|found| found.starts_with(&prefix)) {
                files.push(found.path());
            }
        }
        Ok(files)
    }

    fn part(&self, offer: &Offer) -> PathBuf {
        let LogId { term, node, index } = offer.last.unwrap_or_default();
        let Offer { bytes, crc32, .. } = offer;
        self.dir.join(format!("{}.part-{term}-{node}-{index}-{bytes}-{crc32:08x}", self.name))
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
        for part in self.files("part-")? {
            fs::remove_file(part)?;
        }
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
        // What was erased since would stay in it.
        if !self.arriving.load(Ordering::Acquire) {
            for part in self.files("part-")? {
                fs::remove_file(part)?;
            }
        }
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

    /// Syncs and checks it. One that is not sound is removed.
    pub(crate) fn finish(mut self, group: u64) -> io::Result<(SnapshotMeta, SnapshotFile)> {
        match self.check(group) {
            Ok(found) => {
                self.finished = true;
                Ok(found)
            }
            Err(error) => {
                self.remove();
                Err(error)
            }
        }
    }

    fn check(&self, group: u64) -> io::Result<(SnapshotMeta, SnapshotFile)> {
        self.file.sync_all()?;
        let file = SnapshotFile::open(&self.path)?;
        let found = file.verify()?;
        if found.group != group {
            return Err(damaged("it is of another shard"));
        }
        Ok((found.meta, file))
    }

    fn remove(&self) {
        // If it stays, the next start removes it, or it is found to be unsound once more.
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        match &self.arriving {
            Some(arriving) => arriving.store(false, Ordering::Release),
            None if !self.finished => self.remove(),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::reader::Verified;

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
            let sound = file.verify().expect("sound");
            let whole = file.piece(0, usize::MAX).expect("reads");
            let crc32 = crc32fast::hash(&whole);
            prop_assert_eq!(sound, Verified { group: 7, meta: meta(5), crc32 });
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

    #[test]
    fn a_snapshot_goes_on_where_it_stopped() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || SnapshotDir::open(folder.path(), "timeline-0".into(), 7).expect("opens");
        let from = tempfile::tempdir().expect("a folder");
        let (_, file) =
            write(&SnapshotDir::open(from.path(), "timeline-0".into(), 7).expect("opens"), 5, &records(400));
        let bytes = file.piece(0, usize::MAX).expect("reads");
        let offer = |index| Offer { last: meta(index).last_log_id, bytes: file.len(), crc32: crc32fast::hash(&bytes) };
        let (dir, half) = (open(), bytes.len() / 2);
        assert_eq!(dir.has(&offer(5)).expect("looks"), 0);
        let mut first = dir.receive_rest(&offer(5), 0).expect("a file");
        first.write(&bytes[..half]).expect("writes");
        let busy = dir.receive_rest(&offer(5), half as u64).err().expect("one at a time");
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        drop(first);

        // Also after a restart.
        let dir = open();
        assert_eq!(dir.has(&offer(5)).expect("looks"), half as u64);
        assert_eq!(dir.has(&offer(6)).expect("looks"), 0, "another snapshot");
        assert!(dir.receive_rest(&offer(5), half as u64 + 1).is_err(), "a gap");
        let mut rest = dir.receive_rest(&offer(5), half as u64 - 10).expect("the file");
        rest.write(&bytes[half - 10..]).expect("writes");
        let (found, whole) = rest.finish(7).expect("sound");
        assert_eq!(found, meta(5));
        dir.adopt(&whole, found.last_log_id).expect("takes it");
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1, "nothing is left of the part");

        // What is not sound is not continued, and what nobody asks for any more goes.
        let mut spoilt = dir.receive_rest(&offer(5), 0).expect("a file");
        spoilt.write(&bytes[..half]).expect("writes");
        drop(spoilt);
        let mut spoilt = dir.receive_rest(&offer(5), half as u64).expect("the file");
        spoilt.write(&bytes[..bytes.len() - half]).expect("writes");
        assert!(spoilt.finish(7).is_err());
        assert_eq!(dir.has(&offer(5)).expect("looks"), 0);
        drop(dir.receive_rest(&offer(5), 0).expect("a file"));
        drop(dir.receive_rest(&offer(6), 0).expect("a file"));
        assert_eq!(dir.files("part-").expect("lists").len(), 1);
        write(&dir, 7, &records(1));
        assert_eq!(dir.files("part-").expect("lists").len(), 0, "a snapshot of this node's own is newer");
        drop(dir.receive_rest(&offer(8), 0).expect("a file"));
        dir.clear().expect("clears");
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 0);
    }
}
