//! A data folder that was restored from a copy: its timelines reach less far than before. Each gets a new epoch before
//! anyone is served, so that no device mistakes new envelopes for ones that it has.

use std::{collections::HashMap, path::Path, time::Duration};

use carillon_proto::{
    Epoch, ShardId,
    pb::store::{RenewEpoch, StoreError, TimelineCommand, TimelineKey, timeline_command::Op},
};
use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use tokio::time::sleep;

use crate::{
    OpenError,
    identity::DataDir,
    machine::{Outcome, TimelineReader},
    shard::{Reader, Shard},
};

/// Timelines that are read at once, and most commands in flight.
const PAGE: usize = 1000;
const IN_FLIGHT: usize = 64;
const PAUSE: Duration = Duration::from_millis(50);

/// Call it while the node is stopped, after its folder was restored. The node must be alone in its cluster.
pub fn mark_put_back(data_dir: &Path) -> Result<(), OpenError> {
    let folder = |error: &dyn std::fmt::Display| OpenError::Disk(error.to_string());
    if !data_dir.exists() {
        return Err(folder(&format!("there is no data folder {}", data_dir.display())));
    }
    DataDir::open(data_dir).and_then(|dir| dir.put_back()).map_err(|error| folder(&error))
}

/// Returns the number of timelines. After an interruption it starts again at the next start: one more epoch does no
/// harm.
pub(crate) async fn renew_epochs(shards: &HashMap<ShardId, Shard>) -> Result<u64, String> {
    let mut count = 0;
    for shard in shards.values() {
        let Reader::Timeline(reader) = shard.reader() else { continue };
        while !shard.group().leads() {
            sleep(PAUSE).await;
        }
        // Entries that are in the log but not in the engine are visible only after this is applied.
        shard.group().linearize(Duration::from_secs(60)).await.map_err(|error| error.to_string())?;
        let mut after = None;
        loop {
            let page = page(reader, after.take()).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            count += page.len() as u64;
            let renewed = stream::iter(page).map(|(timeline, epoch)| renew(shard, timeline, epoch));
            let mut renewed = std::pin::pin!(renewed.buffer_unordered(IN_FLIGHT));
            while let Some(done) = renewed.next().await {
                done?;
            }
        }
    }
    Ok(count)
}

async fn page(reader: &TimelineReader, after: Option<TimelineKey>) -> Result<Vec<(TimelineKey, u64)>, String> {
    let reader = reader.clone();
    let reading = tokio::task::spawn_blocking(move || reader.epochs(after.as_ref(), PAGE));
    reading.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

async fn renew(shard: &Shard, timeline: TimelineKey, epoch: u64) -> Result<(), String> {
    let renew = RenewEpoch { timeline: Some(timeline), epoch, seq: u64::MAX, new_epoch: Epoch::random().0 };
    let command = TimelineCommand { op: Some(Op::RenewEpoch(renew)) }.encode_to_vec();
    match shard.write(command.into()).await {
        Outcome::Error(StoreError { why }) => Err(format!("a timeline can't get a new epoch: {why:?}")),
        _ => Ok(()),
    }
}
