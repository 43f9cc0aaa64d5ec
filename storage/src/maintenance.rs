//! Periodic removal: envelopes beyond retention, and cursors of devices that are gone.

use std::{io, sync::Arc, time::Duration};

use carillon_proto::pb::store::{StoreError, SweepCursors, TimelineCommand, timeline_command::Op};
use prost::Message as _;
use tokio::time::sleep;

use crate::{
    cluster::Serving,
    machine::{Outcome, Retention, SWEEP_CURSORS, TimelineReader},
    metrics as names,
    shard::{Reader, Shard},
};

const RETENTION_INTERVAL: Duration = Duration::from_secs(5);
/// Most trims that one look finds.
const TRIMS: usize = 16;
/// Looks at one shard before the next shard has its turn.
const LOOKS: usize = 32;

/// Proposes the due trims and sweeps in the timeline shards that this node leads.
pub(crate) async fn retain(serving: Arc<Serving>, retention: Retention) {
    let Some(cluster) = serving.get() else { return };
    if !retention.needs_clock() {
        return;
    }
    loop {
        sleep(RETENTION_INTERVAL).await;
        for shard in cluster.shards().values() {
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

/// One look each time: sweeping is not urgent.
async fn sweep(shard: &Shard, reader: &TimelineReader, retention: Retention) {
    let look = move |reader: &TimelineReader| reader.gone_cursors(&retention, SWEEP_CURSORS);
    let Some(cursors) = look_for(shard, reader, look).await.filter(|gone| !gone.is_empty()) else { return };
    let count = cursors.len() as u64;
    if carry_out(shard, Op::SweepCursors(SweepCursors { cursors })).await {
        metrics::counter!(names::CURSORS_SWEPT).increment(count);
    }
}

/// `None` if this node does not lead, or can't read.
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
