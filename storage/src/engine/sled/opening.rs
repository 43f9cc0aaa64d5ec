//! Opening the folder: what a crash, a power failure or damage has left in it is noticed and mended here.

use std::{
    fs::{self, File, TryLockError},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{DirectoryShard, DirectoryStore, ENGINE, Engine, TREE, Value, to_io};
use crate::{
    damage::{damaged, is_damage},
    engine::{
        OpenError,
        digest::{Digest, Sealed},
        mark::{Before, EngineMark},
    },
    machine::keys,
};

const FLUSH_EVERY_MS: u64 = 500;
/// How long sled's threads may take to release a folder that this process had open before.
const RELEASE: Duration = Duration::from_secs(5);

impl DirectoryStore {
    /// Opens the folder. If it is or may be damaged, a new one is started: its shards are empty then, and are rebuilt
    /// from snapshot and log.
    pub(crate) fn open(dir: &Path, cache_bytes: u64) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Directory { path: dir.to_owned(), source };
        let (mark, before) = EngineMark::open(dir)?;
        if before == Before::PowerLost && dir.try_exists().map_err(failed)? {
            // sled overwrites old places as soon as the operating system has the new ones. After a power failure even
            // data synced long ago may be lost, and sled's checks would not notice all of it.
            tracing::warn!(path = %dir.display(), "directory engine begins anew after a power failure, from snapshot and log");
            fs::remove_dir_all(dir).map_err(failed)?;
        }
        mark.opened()?;
        fs::create_dir_all(dir).map_err(failed)?;
        remove_leftovers(dir).map_err(failed)?;
        let db = match open(dir, cache_bytes) {
            Ok(db) => db,
            Err(Failure::Other(source)) => return Err(failed(source)),
            Err(Failure::Corrupt(why)) => {
                tracing::error!(path = %dir.display(), why, "directory engine is damaged: it begins anew, from snapshot and log, which are checked. Look at the disk");
                // The handle of a database that was opened may still have threads.
                wait_for_release(dir).map_err(failed)?;
                put_aside(dir).map_err(failed)?;
                open(dir, cache_bytes).map_err(|failure| failed(failure.into()))?
            }
        };
        let file = File::open(dir.join("db")).map_err(failed)?;
        Ok(Self { engine: Arc::new(Engine { db, file, mark }) })
    }

    /// Reads everything in the folder; an error if it is damaged. What a power failure has left is not looked at, because
    /// the next start begins anew.
    pub(crate) fn check(dir: &Path, cache_bytes: u64) -> Result<(), OpenError> {
        let failed = |source| OpenError::Directory { path: dir.to_owned(), source };
        let (_mark, before) = EngineMark::open(dir)?;
        if before == Before::PowerLost || !dir.try_exists().map_err(failed)? {
            return Ok(());
        }
        remove_leftovers(dir).map_err(failed)?;
        let checked = open(dir, cache_bytes).map(drop).map_err(|failure| {
            failed(match failure {
                Failure::Corrupt(why) => damaged(ENGINE, why),
                Failure::Other(error) => error,
            })
        });
        wait_for_release(dir).map_err(failed)?;
        checked
    }

    /// Call it once for each shard: its views see only writes through this handle and its clones.
    pub(crate) fn shard(&self, index: u16) -> io::Result<DirectoryShard> {
        let tree = self.engine.db.open_tree(format!("{TREE}{index}")).map_err(to_io)?;
        let shard = DirectoryShard { engine: Arc::clone(&self.engine), tree, inside: Arc::default() };
        let sealed = shard.get(keys::APPLIED)?;
        let digest = match sealed.as_ref().map(|value| Sealed::read(value)) {
            // The digest was compared with the records when the folder was opened.
            Some(Sealed::With(_, digest)) => digest,
            Some(Sealed::Without(_) | Sealed::Broken) => digest_of(&shard.tree)?.0,
            None => {
                // Every batch writes `APPLIED`, so these can only be remains of an interrupted restore.
                shard.clear()?;
                Digest::default()
            }
        };
        shard.inside.write().digest = digest;
        Ok(shard)
    }
}

enum Failure {
    /// The data on disk can't be read.
    Corrupt(String),
    /// Another error: locked by another process, no permission, disk full.
    Other(io::Error),
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Corrupt(why) => Self::new(io::ErrorKind::InvalidData, why),
            Failure::Other(error) => error,
        }
    }
}

/// The folder is ours already (see `EngineMark`), but sled releases its own lock only when its last background task has
/// ended, which may be after the handle was dropped.
fn wait_for_release(dir: &Path) -> io::Result<()> {
    let path = dir.join("db");
    if !path.try_exists()? {
        return Ok(());
    }
    let file = File::open(path)?;
    let give_up = Instant::now() + RELEASE;
    // sled itself reports any problem after this.
    while matches!(file.try_lock(), Err(TryLockError::WouldBlock)) && Instant::now() < give_up {
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Opens the folder and reads all that is in it.
fn open(dir: &Path, cache_bytes: u64) -> Result<::sled::Db, Failure> {
    wait_for_release(dir).map_err(Failure::Other)?;
    let config = ::sled::Config::new().path(dir).cache_capacity(cache_bytes).flush_every_ms(Some(FLUSH_EVERY_MS));
    // Some kinds of damage make sled panic.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let db = config.open().map_err(to_io)?;
        check(&db)?;
        Ok(db)
    }));
    let panicked = |_| Failure::Corrupt("it panicked while it read its files".into());
    opened.map_err(panicked)?.map_err(|error: io::Error| match is_damage(&error) {
        true => Failure::Corrupt(error.to_string()),
        false => Failure::Other(error),
    })
}

/// Compares all records of each shard with the digest that was written with the last of them.
fn check(db: &::sled::Db) -> io::Result<()> {
    let ours = |name: &::sled::IVec| name.starts_with(TREE.as_bytes());
    for name in db.tree_names().into_iter().filter(ours) {
        let tree = db.open_tree(&name).map_err(to_io)?;
        let name = String::from_utf8_lossy(&name).into_owned();
        let (found, applied) = digest_of(&tree)?;
        let Some(applied) = applied else {
            // A shard that is being restored, or was never written.
            continue;
        };
        match Sealed::read(&applied) {
            Sealed::With(_, expected) if expected == found => {}
            Sealed::With(_, expected) => {
                return Err(damaged(ENGINE, format!("{name} should have {expected}, and has {found}")));
            }
            // The next batch seals what is there.
            Sealed::Without(_) => tracing::info!(shard = name, "directory gets a digest of its records"),
            Sealed::Broken => return Err(damaged(ENGINE, format!("{name}: the record of what is applied"))),
        }
    }
    Ok(())
}

/// The digest of the records of a shard, and the value of `APPLIED`.
fn digest_of(tree: &::sled::Tree) -> io::Result<(Digest, Option<Value>)> {
    let (mut digest, mut applied) = (Digest::default(), None);
    for record in tree.iter() {
        let (key, value) = record.map_err(to_io)?;
        if *key == *keys::APPLIED {
            applied = Some(value);
        } else {
            digest.add(&key, &value);
        }
    }
    Ok((digest, applied))
}

/// A kill during an open leaves half a snapshot of the page table, which the next open takes for a whole one.
fn remove_leftovers(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = %entry.path().display(), "removes the remains of an interrupted start");
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Moves the folder aside for an investigation. Only the last one is kept.
fn put_aside(dir: &Path) -> io::Result<()> {
    let aside = aside(dir);
    if aside.try_exists()? {
        fs::remove_dir_all(&aside)?;
    }
    fs::rename(dir, &aside)?;
    fs::create_dir_all(dir)
}

fn aside(dir: &Path) -> PathBuf {
    dir.with_extension("corrupt")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sled::tests::{CACHE, all, put};

    #[test]
    fn a_corrupt_folder_begins_anew() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("directory");
        {
            let store = DirectoryStore::open(&path, CACHE).expect("opens");
            let shard = store.shard(0).expect("shard");
            for i in 0..2000u32 {
                put(&shard, format!("\x01{i}").as_bytes(), &[7; 100]);
            }
            shard.sync().expect("syncs");
        }
        // Its configuration file, whose checksum it checks.
        fs::write(path.join("conf"), b"not what sled wrote").expect("writes");
        let shard = DirectoryStore::open(&path, CACHE).expect("opens").shard(0).expect("shard");
        assert_eq!(shard.applied().expect("reads"), None);
        assert!(aside(&path).join("db").exists(), "the old files are kept aside");
    }

    #[test]
    fn a_record_that_is_lost_or_another_makes_it_begin_anew() {
        let spoilers: [fn(&::sled::Tree); 4] = [
            |tree| drop(tree.remove(b"\x01b").expect("removes")),
            |tree| drop(tree.insert(b"\x01b", b"old".as_slice()).expect("writes")),
            |tree| drop(tree.insert(b"\x01d", b"4".as_slice()).expect("writes")),
            |tree| drop(tree.insert(keys::APPLIED, Digest::default().seal(b"applied")).expect("writes")),
        ];
        for (number, spoil) in spoilers.into_iter().enumerate() {
            let dir = tempfile::tempdir().expect("folder");
            let dir = dir.path().join("directory");
            let reopened = || DirectoryStore::open(&dir, CACHE).expect("opens").shard(0).expect("shard");
            {
                let shard = reopened();
                put(&shard, b"\x01a", b"1");
                put(&shard, b"\x01b", b"2");
                put(&shard, b"\x01c", b"3");
                put(&shard, b"\x01c", b"4");
            }
            assert_eq!(all(&reopened()).len(), 3);
            DirectoryStore::check(&dir, CACHE).expect("sound");
            spoil(&reopened().tree);
            DirectoryStore::check(&dir, CACHE).expect_err("damaged");
            let shard = reopened();
            assert_eq!(shard.applied().expect("reads"), None, "spoiler {number}");
            assert!(all(&shard).is_empty() && aside(&dir).join("db").exists());
        }
    }

    #[test]
    fn what_a_program_without_digests_wrote_is_read_and_gets_one() {
        let dir = tempfile::tempdir().expect("folder");
        let dir = dir.path().join("directory");
        let reopened = || DirectoryStore::open(&dir, CACHE).expect("opens").shard(0).expect("shard");
        {
            let shard = reopened();
            put(&shard, b"\x01a", b"1");
            shard.tree.insert(b"\x01b", b"2".as_slice()).expect("writes");
            shard.tree.insert(keys::APPLIED, b"without".as_slice()).expect("writes");
        }
        let shard = reopened();
        assert_eq!(shard.applied().expect("reads").as_deref(), Some(b"without".as_slice()));
        assert_eq!(all(&shard).len(), 2);
        put(&shard, b"\x01c", b"3");
        drop(shard);
        let shard = reopened();
        assert_eq!(all(&shard).len(), 3, "the digest is that of all records");
        shard.tree.remove(b"\x01b").expect("removes");
        drop(shard);
        assert!(all(&reopened()).is_empty());
    }

    #[test]
    fn remains_of_an_interrupted_start_do_no_harm() {
        let dir = tempfile::tempdir().expect("folder");
        let dir = dir.path().join("directory");
        {
            let shard = DirectoryStore::open(&dir, CACHE).expect("opens").shard(0).expect("shard");
            put(&shard, b"\x01a", b"1");
        }
        fs::write(dir.join("snap.00000000000000FF.generating"), b"half").expect("writes");
        let shard = DirectoryStore::open(&dir, CACHE).expect("opens").shard(0).expect("shard");
        assert_eq!(shard.get(b"\x01a").expect("reads").as_deref(), Some(b"1".as_slice()));
    }

    #[test]
    fn after_a_power_failure_it_begins_anew() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("directory");
        {
            let shard = DirectoryStore::open(&path, CACHE).expect("opens").shard(0).expect("shard");
            put(&shard, b"\x01a", b"1");
        }
        let shard = DirectoryStore::open(&path, CACHE).expect("opens").shard(0).expect("shard");
        assert!(shard.applied().expect("reads").is_some(), "it was closed in order");
        drop(shard);
        fs::write(path.with_extension("mark"), "format 1\nopen in boot another\n").expect("writes");
        let shard = DirectoryStore::open(&path, CACHE).expect("opens").shard(0).expect("shard");
        assert_eq!(shard.applied().expect("reads"), None);
    }

    #[test]
    fn a_folder_in_use_is_refused_and_not_wiped() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("directory");
        let store = DirectoryStore::open(&path, CACHE).expect("opens");
        put(&store.shard(0).expect("shard"), b"\x01a", b"1");
        assert!(matches!(DirectoryStore::open(&path, CACHE), Err(OpenError::InUse { .. })));
        assert!(store.shard(0).expect("shard").applied().expect("reads").is_some());
    }
}
