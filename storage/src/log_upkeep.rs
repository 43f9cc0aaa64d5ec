//! Bounds the log: makes snapshots of shards whose log has grown, purges the entries that the snapshots cover, and
//! deletes files.

use std::{collections::HashMap, sync::Arc, time::Duration};

use carillon_proto::ShardId;
use tokio::time::{Instant, sleep};

use crate::{
    cluster::{Cluster, Serving},
    log::Log,
    metrics as names,
    shard::Shard,
};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time between two readings of all snapshots.
const CHECK: Duration = Duration::from_secs(24 * 60 * 60);
/// Smallest growth to act on, because growth is known only to some KiB.
const LEAST: u64 = 16 << 10;

/// Limits on the log of each shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    /// Bytes since the last snapshot after which a new one is made, if the last one is smaller.
    grown: u64,
    /// Bytes kept before the end of the last snapshot.
    kept: u64,
}

impl Limits {
    fn new(log_bytes: u64, shards: usize) -> Self {
        let part = log_bytes / shards.max(1) as u64;
        Self { grown: (part / 4).max(LEAST), kept: part / 4 }
    }

    /// True if a snapshot is due. No more bytes are written to snapshots than to the log, so the cost of a message does
    /// not grow with the amount of kept data.
    fn is_grown(&self, since: u64, snapshot: u64) -> bool {
        since >= self.grown.max(snapshot)
    }
}

/// Runs as long as the node. `log_bytes` is the size for all shards together.
pub(crate) async fn run(serving: Arc<Serving>, log: Arc<Log>, log_bytes: u64) {
    let Some(cluster) = serving.get() else { return };
    let mut snapshots: HashMap<ShardId, LastSnapshot> = HashMap::new();
    loop {
        sleep(INTERVAL).await;
        let shards = cluster.shards();
        let limits = Limits::new(log_bytes, shards.len());
        for shard in shards.values() {
            tend(shard, limits, snapshots.entry(shard.id()).or_default()).await;
        }
        give_back(cluster, &log, log_bytes).await;
    }
}

/// The entry that a shard's last snapshot reaches to, and the size of that snapshot.
#[derive(Default)]
struct LastSnapshot {
    upto: Option<u64>,
    bytes: u64,
}

async fn tend(shard: &Shard, limits: Limits, last: &mut LastSnapshot) {
    let (group, upto) = (shard.group(), shard.group().snapshot_upto());
    if last.upto != upto {
        *last = LastSnapshot { upto, bytes: snapshot_bytes(shard).await };
    }
    if limits.is_grown(group.log().bytes_since(upto.unwrap_or(0)), last.bytes) {
        group.make_snapshot().await;
    }
    if let Some(upto) = upto.and_then(|end| group.log().may_go(end, limits.kept)) {
        group.purge(upto).await;
    }
}

async fn snapshot_bytes(shard: &Shard) -> u64 {
    let snapshots = Arc::clone(shard.group().snapshots());
    let current = tokio::task::spawn_blocking(move || snapshots.current()).await;
    match current.map(|current| shard.alarm().hear(format_args!("snapshot of shard {}", shard.id()), current)) {
        Ok(Ok(Some((_, file)))) => file.len(),
        _ => 0,
    }
}

/// Reads all snapshots through, soon after the start and then each day. A damaged one is found before it is needed, which
/// is when something else is damaged. Runs as long as the node.
pub(crate) async fn check_snapshots(serving: Arc<Serving>) {
    let Some(cluster) = serving.get() else { return };
    loop {
        for shard in cluster.shards().values() {
            let (snapshots, start) = (Arc::clone(shard.group().snapshots()), Instant::now());
            let check = move || snapshots.current()?.map(|(_, file)| file.verify()).transpose();
            match tokio::task::spawn_blocking(check).await {
                Ok(checked) => {
                    // The alarm is all that comes of an error.
                    let _ = shard.alarm().hear(format_args!("snapshot of shard {}", shard.id()), checked);
                }
                Err(error) => tracing::error!(%error, "checking a snapshot panicked"),
            }
            // The disk is there for others at least as long.
            sleep(start.elapsed()).await;
        }
        sleep(CHECK).await;
    }
}

/// Deletes files when at least half of the log is dead. The engine may have to copy live data.
async fn give_back(cluster: &Cluster, log: &Arc<Log>, log_bytes: u64) {
    let used = log.used_bytes() as u64;
    metrics::gauge!(names::LOG_BYTES).set(used as f64);
    let kept: u64 = cluster.shards().values().map(|shard| shard.group().log().kept_bytes()).sum();
    if used < log_bytes.max(2 * kept) {
        return;
    }
    let log = Arc::clone(log);
    match tokio::task::spawn_blocking(move || log.purge_files()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "files of the raft log can't be given back"),
        Err(error) => tracing::error!(%error, "giving back files of the raft log panicked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_shard_is_not_written_anew_for_a_little_log() {
        let limits = Limits::new(1 << 30, 16);
        assert_eq!(limits, Limits { grown: 16 << 20, kept: 16 << 20 });
        assert!(!limits.is_grown((16 << 20) - 1, 0) && limits.is_grown(16 << 20, 1 << 20));
        assert!(!limits.is_grown(100 << 20, 200 << 20) && limits.is_grown(200 << 20, 200 << 20));
    }
}
