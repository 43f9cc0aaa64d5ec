use std::{ops::Range, path::PathBuf};

use bytes::Bytes;
use carillon_proto::{
    ShardKind,
    pb::raft::{Entry, LogId, Vote, entry::Payload},
};
use tokio::sync::oneshot;

use super::*;

const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 3 };

fn open(dir: &Path, cache_bytes: usize) -> (Log, ShardLog) {
    let log = Log::open(dir, LogOptions { file_bytes: 1 << 20, purge_bytes: 1 << 20, cache_bytes }, Alarm::default())
        .expect("opens");
    let shard = log.shard(SHARD).expect("opens");
    (log, shard)
}

async fn close(log: Log, shard: ShardLog) {
    drop(shard);
    log.close();
    log.ended().await;
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term, node: 1, index }
}

fn entry(term: u64, index: u64) -> Entry {
    let commands = Bytes::from(format!("{term}/{index}").repeat(10));
    Entry { log_id: Some(id(term, index)), payload: Some(Payload::Commands(commands)) }
}

async fn append(shard: &ShardLog, term: u64, range: Range<u64>) {
    let (tell, done) = oneshot::channel();
    let entries = range.map(|index| entry(term, index)).collect();
    shard.append(entries, move |result| tell.send(result).expect("waits")).await.expect("queued");
    done.await.expect("answered").expect("written");
}

async fn ids(shard: &ShardLog) -> Vec<(u64, u64)> {
    let entries = shard.read(0..u64::MAX, usize::MAX).await.expect("reads");
    entries.iter().map(|entry| entry.log_id.expect("has one")).map(|id| (id.term, id.index)).collect()
}

#[tokio::test]
async fn the_logs_that_are_open_share_the_memory_for_newest_entries() {
    let dir = tempfile::tempdir().expect("a folder");
    let (log, shard) = open(dir.path(), 3000);
    let other = |index| log.shard(ShardId { index, ..SHARD }).expect("opens");
    assert_eq!(log.cache.one(), 3000);
    let others = [other(4), other(5)];
    assert_eq!(log.cache.one(), 1000);
    drop(others);
    assert_eq!(log.cache.one(), 3000);
    close(log, shard).await;
}

#[tokio::test]
async fn a_shard_that_is_forgotten_leaves_nothing_but_the_id_that_never_comes_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let (log, shard) = open(dir.path(), 0);
    assert_eq!(log.replica(SHARD).expect("reads"), None);
    log.set_replica(SHARD, Here { replica: 2, gone: 0 }).await.expect("written");
    append(&shard, 1, 0..50).await;
    shard.save_vote(Vote { term: 4, node: 2, committed: true }).await.expect("saved");
    shard.purge(id(1, 20)).await.expect("queued");
    drop(shard);
    let gone = Here { replica: 0, gone: 2 };
    log.forget_shard(SHARD, gone).await.expect("written");
    for _ in 0..2 {
        let shard = log.shard(SHARD).expect("opens");
        assert_eq!((shard.vote(), shard.committed(), shard.bounds()), (None, None, (None, None)));
        assert_eq!(log.replica(SHARD).expect("reads"), Some(gone));
    }
    // The next one begins again, and is there after a restart, alone.
    let shard = log.shard(SHARD).expect("opens");
    log.set_replica(SHARD, Here { replica: 640, gone: 2 }).await.expect("written");
    append(&shard, 2, 0..5).await;
    close(log, shard).await;
    let (log, shard) = open(dir.path(), 0);
    assert_eq!(log.replica(SHARD).expect("reads"), Some(Here { replica: 640, gone: 2 }));
    assert_eq!((shard.vote(), shard.bounds()), (None, (None, Some(id(2, 4)))));
    assert_eq!(ids(&shard).await, (0..5).map(|index| (2, index)).collect::<Vec<_>>());
}

#[tokio::test]
async fn entries_and_votes_are_there_after_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let (log, shard) = open(dir.path(), 0);
    let vote = Vote { term: 4, node: 2, committed: true };
    append(&shard, 1, 0..50).await;
    shard.save_vote(vote).await.expect("saved");
    append(&shard, 1, 50..60).await;
    close(log, shard).await;

    let (_log, shard) = open(dir.path(), 0);
    assert_eq!(shard.vote(), Some(vote));
    assert_eq!(shard.bounds(), (None, Some(id(1, 59))));
    assert_eq!(shard.read(57..70, usize::MAX).await.expect("reads"), [entry(1, 57), entry(1, 58), entry(1, 59)]);
    assert_eq!(shard.read(57..70, 1).await.expect("reads"), [entry(1, 57)]);
}

#[tokio::test]
async fn a_disk_that_fails_for_a_moment_costs_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let (log, shard) = open(dir.path(), 0);
    for first in (0..2000).step_by(100) {
        append(&shard, 1, first..first + 100).await;
    }
    close(log, shard).await;
    let options = || LogOptions { file_bytes: 1 << 20, purge_bytes: 1 << 20, cache_bytes: 0 };
    let mut reads = 0;
    // Each read of the opening fails once.
    loop {
        let files = LogFiles::default();
        *files.reads_left.lock() = Some(reads);
        match Log::open_files(dir.path(), files.clone(), options(), Alarm::default()) {
            Ok(log) => {
                *files.reads_left.lock() = None;
                let shard = log.shard(SHARD).expect("opens");
                assert_eq!(shard.bounds(), (None, Some(id(1, 1999))));
                close(log, shard).await;
                break;
            }
            Err(error) => {
                assert!(!is_damage(&error) && error.to_string().contains("can't be read"), "{error}");
                reads += 1;
            }
        }
    }
    assert!(reads > 3, "{reads}");
}

#[tokio::test]
async fn the_committed_id_is_on_disk_with_the_next_append() {
    let dir = tempfile::tempdir().expect("a folder");
    let (log, shard) = open(dir.path(), 0);
    append(&shard, 1, 0..5).await;
    shard.save_committed(id(1, 2));
    append(&shard, 1, 5..6).await;
    shard.save_committed(id(1, 5));
    assert_eq!(shard.committed(), Some(id(1, 5)));
    close(log, shard).await;
    let (_log, shard) = open(dir.path(), 0);
    assert_eq!(shard.committed(), Some(id(1, 2)), "the leader tells the rest");
}

#[tokio::test]
async fn what_was_truncated_does_not_come_back() {
    for overwrite in [false, true] {
        let dir = tempfile::tempdir().expect("a folder");
        let (log, shard) = open(dir.path(), 0);
        append(&shard, 1, 1..10).await;
        shard.truncate_after(Some(id(1, 4))).await.expect("truncates");
        if overwrite {
            append(&shard, 2, 5..7).await;
        } else {
            shard.save_vote(Vote::default()).await.expect("flushes");
        }
        let expected = ids(&shard).await;
        assert_eq!(expected.last(), Some(&if overwrite { (2, 6) } else { (1, 4) }));
        close(log, shard).await;
        let (_log, shard) = open(dir.path(), 0);
        assert_eq!(ids(&shard).await, expected);
        append(&shard, 3, expected.len() as u64 + 1..expected.len() as u64 + 2).await;
    }
}

#[tokio::test]
async fn the_log_goes_on_behind_an_installed_snapshot() {
    let dir = tempfile::tempdir().expect("a folder");
    let (log, shard) = open(dir.path(), 0);
    append(&shard, 1, 1..30).await;
    shard.truncate_after(Some(id(1, 4))).await.expect("truncates");
    shard.purge(id(5, 20)).await.expect("purges");
    assert_eq!(shard.bounds(), (Some(id(5, 20)), Some(id(5, 20))));
    shard.save_vote(Vote::default()).await.expect("flushes");
    close(log, shard).await;

    let (log, shard) = open(dir.path(), 0);
    assert_eq!(shard.bounds(), (Some(id(5, 20)), Some(id(5, 20))));
    assert_eq!(ids(&shard).await, []);
    append(&shard, 5, 21..23).await;
    close(log, shard).await;

    let (_log, shard) = open(dir.path(), 0);
    assert_eq!(ids(&shard).await, [(5, 21), (5, 22)]);
}

/// Random, because the engine compresses.
async fn append_noise(shard: &ShardLog, range: Range<u64>, bytes: usize) {
    for index in range {
        let noise: Vec<u8> = (0..bytes).map(|_| rand::random()).collect();
        let entry = Entry { log_id: Some(id(1, index)), payload: Some(Payload::Commands(noise.into())) };
        let (tell, done) = oneshot::channel();
        shard.append(vec![entry], move |result| tell.send(result).expect("waits")).await.expect("queued");
        done.await.expect("answered").expect("written");
    }
}

fn files(dir: &Path, kind: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).expect("lists").map(|entry| entry.expect("lists").path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|found| found == kind)).collect();
    files.sort();
    files
}

#[tokio::test]
async fn any_flipped_bit_is_found_or_does_no_harm() {
    let dir = tempfile::tempdir().expect("a folder");
    let (log, shard) = open(dir.path(), 0);
    let vote = Vote { term: 4, node: 2, committed: true };
    shard.save_vote(vote).await.expect("saved");
    append_noise(&shard, 1..40, 60_000).await;
    close(log, shard).await;
    let sound: Vec<_> =
        files(dir.path(), "raftlog").into_iter().map(|path| (fs::read(&path).expect("reads"), path)).collect();
    assert!(sound.len() > 2);
    let options = LogOptions { file_bytes: 1 << 20, purge_bytes: 1 << 20, cache_bytes: 0 };
    let mut found = 0;
    let mut spoil = async |file: usize, at: usize, bit: u8| {
        let mut bytes = sound[file].0.clone();
        bytes[at] ^= 1 << bit;
        fs::write(&sound[file].1, bytes).expect("writes");
        let opened = Log::open(dir.path(), options, Alarm::default()).and_then(|log| match log.shard(SHARD) {
            Ok(shard) => Ok((log, shard)),
            Err(error) => {
                log.end();
                Err(error)
            }
        });
        match opened {
            Ok((log, shard)) => {
                assert_eq!(ids(&shard).await, (1..40).map(|index| (1, index)).collect::<Vec<_>>(), "byte {at}");
                assert_eq!(shard.vote(), Some(vote), "byte {at}");
                close(log, shard).await;
            }
            Err(error) => {
                assert!(crate::damage::is_damage(&error), "{error}");
                found += 1;
            }
        }
        for (bytes, path) in &sound {
            fs::write(path, bytes).expect("writes");
        }
    };
    for round in 0..20 {
        let file = rand::random_range(0..sound.len());
        spoil(file, rand::random_range(0..sound[file].0.len()), round % 8).await;
    }
    // The last record of a file that is not the last one, which the engine cuts off without a word.
    for back in [10, 70, 1000, 30_000] {
        spoil(0, sound[0].0.len() - back, 3).await;
    }
    assert!(found >= 20, "{found}");
}

#[tokio::test]
async fn values_are_not_in_files_whose_end_may_be_torn() {
    let dir = tempfile::tempdir().expect("a folder");
    let (log, shard) = open(dir.path(), 0);
    let (vote, here) = (Vote { term: 4, node: 2, committed: true }, Here { replica: 640, gone: 2 });
    shard.save_vote(vote).await.expect("saved");
    log.set_replica(SHARD, here).await.expect("written");
    append_noise(&shard, 1..100, 100_000).await;
    shard.purge(id(1, 98)).await.expect("purges");
    append_noise(&shard, 100..101, 10).await;
    log.purge_files().expect("purges");
    append_noise(&shard, 101..102, 10).await;
    close(log, shard).await;
    let moved = files(dir.path(), "rewrite");
    let bytes = fs::read(moved.last().expect("values were moved")).expect("reads");
    assert!(bytes.windows(4).any(|window| window == VOTE), "the vote is in a file that was written anew");
    for path in moved {
        fs::write(&path, &fs::read(&path).expect("reads")[..40]).expect("writes");
    }
    let (log, shard) = open(dir.path(), 0);
    assert_eq!((shard.vote(), log.replica(SHARD).expect("reads")), (Some(vote), Some(here)));
    assert_eq!(ids(&shard).await.last(), Some(&(1, 101)));
}

#[tokio::test]
async fn entries_that_are_missing_at_the_beginning_are_noticed() {
    let dir = tempfile::tempdir().expect("a folder");
    let (log, shard) = open(dir.path(), 0);
    append(&shard, 1, 1..20).await;
    shard.purge(id(1, 5)).await.expect("purges");
    append(&shard, 1, 20..21).await;
    close(log, shard).await;
    let (log, shard) = open(dir.path(), 0);
    assert_eq!(ids(&shard).await.first(), Some(&(1, 6)));
    drop(shard);
    // What the engine does when it has lost the file with the first ones.
    log.engine.compact_to(SHARD.group(), 9);
    let error = log.shard(SHARD).err().expect("refused");
    assert!(error.to_string().contains("lacks the entries from 6 to 8"), "{error}");
}

#[tokio::test]
async fn purged_files_are_given_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let (log, shard) = open(dir.path(), 1 << 20);
    append_noise(&shard, 0..100, 100_000).await;
    let before = log.used_bytes();
    shard.purge(id(1, 98)).await.expect("purges");
    shard.save_vote(Vote::default()).await.expect("flushes");
    log.purge_files().expect("purges");
    let after = log.used_bytes();
    assert!(before > 9_000_000 && after < 4_000_000, "{before} bytes before, {after} after");
    assert_eq!(ids(&shard).await, [(1, 99)]);
}

#[tokio::test]
async fn what_was_purged_is_gone_when_the_log_is_rewritten_while_others_write() {
    let dir = tempfile::tempdir().expect("a folder");
    let (log, shard) = open(dir.path(), 0);
    append_noise(&shard, 1..60, 100_000).await;
    log.purge_files().expect("purges");
    append_noise(&shard, 60..120, 100_000).await;
    shard.purge(id(1, 90)).await.expect("purges");
    let before = [files(dir.path(), "raftlog"), files(dir.path(), "rewrite")].concat();
    assert!(before.len() > 8, "{before:?}");
    let writes = async {
        for index in 120..150 {
            append_noise(&shard, index..index + 1, 1000).await;
        }
    };
    let (rewritten, ()) = tokio::join!(log.rewrite(), writes);
    rewritten.expect("rewritten");
    let left: Vec<_> = before.iter().filter(|path| path.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
    close(log, shard).await;
    let (_log, shard) = open(dir.path(), 0);
    assert_eq!(ids(&shard).await, (91..150).map(|index| (1, index)).collect::<Vec<_>>());
}
