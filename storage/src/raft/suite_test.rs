//! openraft's own tests of a store, on the log and the machines that the service runs with.

use std::{path::Path, sync::Arc, time::Instant};

use carillon_proto::{ShardId, ShardKind, ShardMap};
use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use tempfile::TempDir;
use tokio::sync::Semaphore;

use super::{ApplyPace, NodeShare, Throttle, machine::ShardMachine, store::LogStore, types::Types};
use crate::{
    damage::Alarm,
    engine::Engines,
    log::{Log, LogOptions},
    machine::Machine,
    snapshot::SnapshotDir,
};

const MAP: ShardMap = ShardMap { directory: 1, timeline: 1 };

struct Stores(ShardKind);

/// Dropped last, in this order.
struct Guard {
    _log: Log,
    _engines: Engines,
    _dir: TempDir,
}

impl StoreBuilder<Types, LogStore, ShardMachine, Guard> for Stores {
    async fn build(&self) -> Result<(Guard, LogStore, ShardMachine), StorageError<Types>> {
        let dir = tempfile::tempdir().expect("a folder");
        let shard = ShardId { kind: self.0, index: 0 };
        let engines = open_engines(dir.path());
        let machine: Box<dyn Machine> = match self.0 {
            ShardKind::Directory => Box::new(engines.directory(shard).expect("opens").0),
            ShardKind::Timeline => Box::new(engines.timeline(shard).expect("opens").0),
        };
        // No cache: everything that can be read from disk is.
        let options = LogOptions { file_bytes: 1 << 20, purge_bytes: 4 << 20, cache_bytes: 0 };
        let log = Log::open(&dir.path().join("log"), options, Alarm::default()).expect("opens");
        let store = LogStore::new(log.shard(shard).expect("opens"));
        let snapshots = SnapshotDir::open(&dir.path().join("snapshots"), shard.to_string(), shard.group());
        let snapshots = Arc::new(snapshots.expect("opens"));
        let node = NodeShare {
            building: Arc::new(Semaphore::new(1)),
            pace: Arc::new(ApplyPace::new(Instant::now())),
            sending: Arc::new(Throttle::new(0)),
            alarm: Alarm::default(),
            health: Arc::default(),
        };
        let machine = ShardMachine::open(shard, machine, snapshots, node).expect("opens");
        Ok((Guard { _log: log, _engines: engines, _dir: dir }, store, machine))
    }
}

fn open_engines(dir: &Path) -> Engines {
    Engines::open(dir, MAP, crate::engine::Caches::default()).expect("opens")
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_suite_passes_with_a_directory_machine() {
    Suite::test_all(Stores(ShardKind::Directory)).await.expect("passes");
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_suite_passes_with_a_timeline_machine() {
    Suite::test_all(Stores(ShardKind::Timeline)).await.expect("passes");
}
