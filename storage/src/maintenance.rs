//! What is done now and then: snapshots, giving disk back, retention.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use carillon_proto::{
    ShardId,
    pb::store::{StoreError, SweepCursors, TimelineCommand, timeline_command::Op},
};
use prost::Message as _;
use tokio::time::sleep;

use crate::{
    cluster::Serving,
    config::StorageConfig,
    log::Log,
    machine::{Outcome, Retention, SWEEP_CURSORS, TimelineReader},
    metrics as names,
    shard::{Reader, Shard},
};

const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);
const PURGE_INTERVAL: Duration = Duration::from_secs(10);
const RETENTION_INTERVAL: Duration = Duration::from_secs(5);
/// Trims that one look finds.
const TRIMS: usize = 16;
/// Looks at one shard before the next one has its turn.
const LOOKS: usize = 32;

/// Asks for a snapshot of each shard whose log has grown enough. The entries count, so that the log is bounded; the
/// bytes count, so that no more than twice what was written to the log is written to snapshots.
pub(crate) async fn make_snapshots(serving: Arc<Serving>, config: StorageConfig) {
    let Some(cluster) = serving.get() else { return };
    let mut marks: HashMap<ShardId, Mark> = HashMap::new();
    loop {
        sleep(SNAPSHOT_INTERVAL).await;
        for shard in cluster.shards.values() {
            let status = shard.group().status();
            let appended = shard.group().log().appended_bytes();
            let mark = marks.entry(shard.id()).or_insert(Mark { snapshot: status.snapshot, appended: 0, bytes: None });
            if mark.snapshot != status.snapshot {
                *mark = Mark { snapshot: status.snapshot, appended, bytes: None };
            }
            let grown = status.applied.map_or(0, |applied| applied.saturating_sub(status.snapshot.unwrap_or(0)));
            if grown < config.snapshot_entries {
                continue;
            }
            if mark.bytes.is_none() {
                mark.bytes = Some(snapshot_bytes(shard).await);
            }
            if appended.saturating_sub(mark.appended) >= mark.bytes.unwrap_or(0) / 2 {
                shard.group().make_snapshot().await;
            }
        }
    }
}

/// Of the last snapshot: the entry it reaches to, what had been appended when it was seen, and its size.
struct Mark {
    snapshot: Option<u64>,
    appended: u64,
    bytes: Option<u64>,
}

async fn snapshot_bytes(shard: &Shard) -> u64 {
    let snapshots = Arc::clone(shard.group().snapshots());
    let current = tokio::task::spawn_blocking(move || snapshots.current()).await;
    match current {
        Ok(Ok(Some((_, file)))) => file.len(),
        _ => 0,
    }
}

/// Gives files of the log that hold nothing of use back to the disk.
pub(crate) async fn purge_log(serving: Arc<Serving>, log: Arc<Log>) {
    loop {
        sleep(PURGE_INTERVAL).await;
        let purging = Arc::clone(&log);
        let purged = tokio::task::spawn_blocking(move || purging.purge_files()).await;
        match purged {
            Ok(Ok(groups)) => {
                for group in groups {
                    let shard = ShardId::from_group(group);
                    let shard = serving.get().and_then(|cluster| cluster.shards.get(&shard?));
                    if let Some(shard) = shard {
                        shard.group().make_snapshot().await;
                    }
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "files of the raft log can't be given back"),
            Err(error) => tracing::error!(%error, "giving back files of the raft log panicked"),
        }
        metrics::gauge!(names::LOG_BYTES).set(log.used_bytes() as f64);
    }
}

/// Proposes the trims and sweeps that are due in the timeline shards that this node leads.
pub(crate) async fn retain(serving: Arc<Serving>, retention: Retention) {
    let Some(cluster) = serving.get() else { return };
    if !retention.needs_clock() {
        return;
    }
    loop {
        sleep(RETENTION_INTERVAL).await;
        for shard in cluster.shards.values() {
            if let Reader::Timeline(reader) = shard.reader() {
                trim(shard, reader, retention).await;
                sweep(shard, reader, retention).await;
            }
        }
    }
}

async fn trim(shard: &Shard, reader: &TimelineReader, retention: Retention) {
    for _ in 0..LOOKS {
        let look = move |reader: &TimelineReader| reader.due_trims(&retention, TRIMS);
        let Some(due) = look_for(shard, reader, look).await.filter(|due| !due.is_empty()) else { return };
        for trim in due {
            if !carry_out(shard, Op::Trim(trim)).await {
                return;
            }
        }
    }
}

/// One look each time: there is no hurry.
async fn sweep(shard: &Shard, reader: &TimelineReader, retention: Retention) {
    let look = move |reader: &TimelineReader| reader.gone_cursors(&retention, SWEEP_CURSORS);
    let Some(cursors) = look_for(shard, reader, look).await.filter(|gone| !gone.is_empty()) else { return };
    let count = cursors.len() as u64;
    if carry_out(shard, Op::SweepCursors(SweepCursors { cursors })).await {
        metrics::counter!(names::CURSORS_SWEPT).increment(count);
    }
}

/// None if this node does not lead, or can't read.
async fn look_for<T: Send + 'static>(
    shard: &Shard,
    reader: &TimelineReader,
    look: impl FnOnce(&TimelineReader) -> io::Result<T> + Send + 'static,
) -> Option<T> {
    if !shard.group().leads() {
        return None;
    }
    let reader = reader.clone();
    match tokio::task::spawn_blocking(move || look(&reader)).await {
        Ok(Ok(found)) => Some(found),
        Ok(Err(error)) => {
            tracing::error!(shard = %shard.id(), %error, "timelines can't be read");
            None
        }
        Err(error) => {
            tracing::error!(shard = %shard.id(), %error, "retention panicked");
            None
        }
    }
}

async fn carry_out(shard: &Shard, op: Op) -> bool {
    let command = TimelineCommand { op: Some(op) }.encode_to_vec();
    match shard.write(command.into()).await {
        Outcome::Error(StoreError { why }) => {
            tracing::debug!(shard = %shard.id(), ?why, "nothing was removed");
            false
        }
        _ => true,
    }
}
