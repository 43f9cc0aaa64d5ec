//! Makes the files anew, so that the disk holds nothing that was overwritten or removed.
//!
//! The engine leaves old versions in tables until it merges them, and in the journal until that is full, which may be never. So
//! the journal is filled up, everything in memory is written to tables, and the tables are merged; then the files of before must
//! be gone.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rand::Rng as _;

use super::{Engine, Keyspace, KeyspaceCreateOptions, TimelineStore, to_io};

/// A keyspace that belongs to no shard.
const FILLER: &str = "filler";
/// The engine begins a new journal behind 64 MB.
const JOURNAL_BYTES: usize = 68_000_000;
const PIECE_BYTES: usize = 4_000_000;
/// How long it may take until nobody reads what was there before, until a table is written, and until old files are gone.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 60 } else { 600 });
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl TimelineStore {
    /// Blocking, and as long as it takes to write everything. Fails if somebody reads for too long.
    pub(crate) fn rewrite(&self) -> io::Result<()> {
        let engine = &*self.engine;
        let shards = shards(engine)?;
        let before = files(&self.dir, &shards)?;
        wait("readers to end", engine.readers_of_before())?;
        let options = || KeyspaceCreateOptions::default();
        let filler = engine.db.keyspace(FILLER, options).map_err(to_io)?;
        write_anew(&filler, &shards, &self.dir, &before)
    }
}

pub(super) fn shards(engine: &Engine) -> io::Result<Vec<Keyspace>> {
    let names = engine.db.list_keyspace_names();
    let shards = names.iter().filter(|name| &***name != FILLER);
    shards.map(|name| engine.db.keyspace(name, KeyspaceCreateOptions::default).map_err(to_io)).collect()
}

fn write_anew(filler: &Keyspace, shards: &[Keyspace], dir: &Path, before: &HashSet<PathBuf>) -> io::Result<()> {
    let mut noise = vec![0; PIECE_BYTES];
    rand::rng().fill_bytes(&mut noise);
    for _ in 0..JOURNAL_BYTES.div_ceil(PIECE_BYTES) {
        fill(filler, &noise)?;
    }
    for shard in shards {
        flush(shard)?;
        if shard.table_count() > 0 {
            shard.major_compact().map_err(to_io)?;
        }
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Each new table makes the engine look for files that it does not need any more.
        fill(filler, &noise[..1])?;
        let left = files(dir, shards)?.intersection(before).next().cloned();
        let Some(left) = left else {
            // Its last value stays: a keyspace without tables would keep journals in which it has a part.
            return filler.major_compact().map_err(to_io);
        };
        if Instant::now() >= deadline {
            let why = format!("the timeline engine still needs {}", left.display());
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        shards.iter().try_for_each(flush)?;
        thread::sleep(LOOK_AGAIN);
    }
}

fn fill(filler: &Keyspace, noise: &[u8]) -> io::Result<()> {
    filler.insert(b"filler".as_slice(), noise).map_err(to_io)?;
    flush(filler)
}

/// Writes what is in memory to a table.
pub(super) fn flush(keyspace: &Keyspace) -> io::Result<()> {
    keyspace.rotate_memtable().map_err(to_io)?;
    wait("a table to be written", || keyspace.sealed_memtable_count() == 0)
}

pub(super) fn wait(what: &str, is_over: impl Fn() -> bool) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_over() {
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("the timeline engine waits for {what}")));
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// The files with content: journals, and tables of the shards.
fn files(dir: &Path, shards: &[Keyspace]) -> io::Result<HashSet<PathBuf>> {
    let mut found = HashSet::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "jnl") {
            found.insert(path);
        }
    }
    for shard in shards {
        for entry in fs::read_dir(shard.path().join("tables"))? {
            found.insert(entry?.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Caches, Changes};

    fn holds(store: &TimelineStore, text: &[u8]) -> bool {
        let has = |path: PathBuf| {
            let bytes = fs::read(path).expect("reads");
            bytes.windows(text.len()).any(|part| part == text)
        };
        let shards = shards(&store.engine).expect("lists");
        files(&store.dir, &shards).expect("lists").into_iter().any(has)
    }

    #[test]
    fn nothing_that_was_overwritten_or_removed_is_left_and_everything_else_is() {
        let dir = tempfile::tempdir().expect("folder");
        let dir = dir.path().join("timeline");
        let open = || TimelineStore::open(&dir, &Caches::default(), 2).expect("opens");
        // Nothing can compress these, so they stand as they are in every file.
        let mut secrets = [[0; 32]; 4];
        secrets.iter_mut().for_each(|secret| rand::rng().fill_bytes(secret));
        let secret = |number: u8| secrets[usize::from(number)].to_vec();
        let store = open();
        let shards = [store.shard(0).expect("shard"), store.shard(1).expect("shard")];
        let commit = |put: &dyn Fn(&mut Changes)| {
            for shard in &shards {
                let mut changes = Changes::default();
                put(&mut changes);
                shard.commit(changes, b"1").expect("commits");
            }
        };
        for number in 0..4u8 {
            commit(&|changes| changes.put(vec![0x13, number], secret(number)));
            if number == 1 {
                shards.iter().for_each(|shard| flush(&shard.keyspace).expect("writes a table"));
            }
        }
        // Overwritten and removed: in a table and in the journal.
        commit(&|changes| {
            changes.put(vec![0x13, 0], b"left".to_vec());
            changes.delete(vec![0x13, 2]);
        });
        let before =
            |shard: &super::super::TimelineShard| shard.records().collect::<io::Result<Vec<_>>>().expect("reads");
        let kept = shards.each_ref().map(before);
        assert!((0..4).all(|number| holds(&store, &secret(number))), "this test looks in the wrong place");
        store.rewrite().expect("writes everything anew");
        assert_eq!([0, 1, 2, 3].map(|number| holds(&store, &secret(number))), [false, true, false, true]);
        assert_eq!(shards.each_ref().map(before), kept);
        store.rewrite().expect("once more");
        drop((shards, store));
        let store = open();
        assert_eq!([before(&store.shard(0).expect("shard")), before(&store.shard(1).expect("shard"))], kept);
    }

    #[test]
    fn what_was_replaced_takes_no_space() {
        let dir = tempfile::tempdir().expect("folder");
        let dir = dir.path().join("timeline");
        let store = TimelineStore::open(&dir, &Caches::default(), 1).expect("opens");
        let shard = store.shard(0).expect("shard");
        let tables = || {
            let shards = shards(&store.engine).expect("lists");
            let files = files(&store.dir, &shards).expect("lists").into_iter();
            files.filter(|path| path.extension().is_none()).collect::<HashSet<_>>()
        };
        let mut changes = Changes::default();
        changes.put(vec![0x13, 1], b"first".to_vec());
        shard.commit(changes, b"1").expect("commits");
        flush(&shard.keyspace).expect("writes a table");
        let before = tables();
        assert!(!before.is_empty());
        let mut records = (0..2000u32).map(|number| Ok((number.to_be_bytes().to_vec(), vec![7; 100])));
        shard.restore(&mut records, b"2").expect("replaces");
        let deadline = Instant::now() + Duration::from_secs(60);
        while tables().intersection(&before).next().is_some() {
            assert!(Instant::now() < deadline, "the files of before are still there");
            // The engine looks for files that it does not need any more when it writes a table.
            shard.commit(Changes::default(), b"3").expect("commits");
            flush(&shard.keyspace).expect("writes a table");
        }
        assert_eq!(shard.records().count(), 2000);
        shard.restore(&mut std::iter::empty(), b"4").expect("replaces");
        drop((shard, store));
        let store = TimelineStore::open(&dir, &Caches::default(), 1).expect("opens");
        let shard = store.shard(0).expect("shard");
        assert_eq!((shard.records().count(), shard.applied().expect("reads")), (0, Some(b"4".to_vec())));
    }
}
