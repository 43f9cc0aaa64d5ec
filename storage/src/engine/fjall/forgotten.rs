//! Tables that the engine forgets at its opening.
//!
//! When a keyspace was cleared, and the engine is opened before the journal that says so is gone, it clears the keyspace again, writes anew
//! what came after, and leaves the files of the tables that it had until the next opening.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use super::{AbstractTree as _, Engine, rewrite::shards};

/// The tables that there are on the disk, by the folder of their keyspace.
pub(super) struct TablesBefore(Vec<(OsString, PathBuf)>);

impl TablesBefore {
    /// Call it before the engine is opened.
    pub(super) fn list(dir: &Path) -> io::Result<Self> {
        let mut found = Vec::new();
        let keyspaces = match fs::read_dir(dir.join("keyspaces")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self(found)),
            keyspaces => keyspaces?,
        };
        for keyspace in keyspaces {
            let keyspace = keyspace?;
            let tables = match fs::read_dir(keyspace.path().join("tables")) {
                // The process ended while it made the keyspace. What that means is the engine's to say.
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    continue;
                }
                tables => tables?,
            };
            for table in tables {
                found.push((keyspace.file_name(), table?.path()));
            }
        }
        Ok(Self(found))
    }

    /// Deletes those that the engine has forgotten. Call it before anything is read.
    pub(super) fn remove_forgotten(self, engine: &Engine) -> io::Result<()> {
        let mut live: HashMap<OsString, HashSet<OsString>> = HashMap::new();
        for shard in shards(engine)? {
            let tables =
                shard.tree.current_version().iter_tables().map(|table| table.id().to_string().into()).collect();
            live.insert(shard.path().file_name().unwrap_or_default().to_owned(), tables);
        }
        let mut forgotten = 0;
        for (keyspace, path) in self.0 {
            let name = path.file_name().unwrap_or_default();
            if live.get(&keyspace).is_some_and(|tables| !tables.contains(name)) {
                match fs::remove_file(&path) {
                    // The engine has deleted it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    removed => {
                        removed?;
                        forgotten += 1;
                    }
                }
            }
        }
        if forgotten > 0 {
            tracing::info!(forgotten, "tables that the timeline engine does not need any more are deleted");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            TimelineStore,
            rewrite::{flush, wait},
        },
        *,
    };
    use crate::engine::Caches;

    #[test]
    fn what_the_engine_forgets_when_it_is_opened_takes_no_space() {
        let dir = tempfile::tempdir().expect("folder");
        let dir = dir.path().join("timeline");
        let open = || TimelineStore::open(&dir, &Caches::default(), 1).expect("opens");
        let store = open();
        let shard = store.shard(0).expect("shard");
        let mut records = (0..2000u32).map(|number| Ok((number.to_be_bytes().to_vec(), vec![7; 100])));
        shard.restore(&mut records, b"1").expect("replaces");
        flush(&shard.keyspace).expect("writes a table");
        drop((shard, store));
        for _ in 0..2 {
            let store = open();
            let shard = store.shard(0).expect("shard");
            assert_eq!((shard.records().count(), shard.applied().expect("reads")), (2000, Some(b"1".to_vec())));
            flush(&shard.keyspace).expect("writes a table");
            let live = shard.keyspace.table_count();
            let folder = shard.keyspace.path().join("tables");
            wait("old tables to go", || fs::read_dir(&folder).expect("lists").count() == live).expect("in time");
        }
    }

    #[test]
    fn a_keyspace_that_was_just_being_made_has_no_tables() {
        let dir = tempfile::tempdir().expect("folder");
        fs::create_dir_all(dir.path().join("keyspaces/7")).expect("makes");
        fs::write(dir.path().join("keyspaces/8"), b"no folder").expect("writes");
        assert!(TablesBefore::list(dir.path()).expect("lists").0.is_empty());
    }
}
