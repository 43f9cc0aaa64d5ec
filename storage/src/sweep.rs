//! Removes rows that nobody needs any more, by commands that the leader of their shard proposes: what is left of
//! timelines that have ended, and sessions of gateways that have ended without closing them.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use bytes::Bytes;
use carillon_proto::{
    ShardId,
    pb::store::{
        DirectoryCommand, StoreError, TimelineCommand, directory_command::Op as DirectoryOp,
        timeline_command::Op as TimelineOp,
    },
};
use prost::Message as _;
use tokio::time::sleep;

use crate::{
    cluster::Serving,
    machine::{Outcome, RegistryState},
    metrics as names,
    shard::{Reader, Shard},
};

const INTERVAL: Duration = Duration::from_secs(5);
/// Commands that one look finds.
const FOUND: usize = 16;
/// Looks at one shard before the next one has its turn. What is left waits for the next interval, so that a large inbox
/// that has ended does not hold up those who live.
const LOOKS: usize = 32;

/// Until it is cancelled.
pub(crate) async fn sweep(serving: Arc<Serving>) {
    let Some(cluster) = serving.get() else { return };
    // Where the next search for sessions begins.
    let mut after: HashMap<ShardId, Vec<u8>> = HashMap::new();
    loop {
        sleep(INTERVAL).await;
        for shard in cluster.shards().values() {
            let registry = cluster.registry.borrow().clone();
            if let Err(error) = sweep_shard(shard, &registry, after.entry(shard.id()).or_default()).await {
                tracing::error!(shard = %shard.id(), %error, "rows to be removed can't be read");
            }
        }
    }
}

async fn sweep_shard(shard: &Shard, registry: &RegistryState, after: &mut Vec<u8>) -> io::Result<()> {
    for _ in 0..LOOKS {
        if !shard.group().leads() {
            return Ok(());
        }
        let (reader, registry, begin) = (shard.reader().clone(), registry.clone(), after.clone());
        let looked = tokio::task::spawn_blocking(move || look(&reader, &registry, &begin)).await;
        let (commands, next) = looked.map_err(io::Error::other)??;
        *after = next;
        for (command, what) in commands {
            if let Outcome::Error(StoreError { why }) = shard.write(command).await {
                tracing::debug!(shard = %shard.id(), ?why, "nothing was removed");
                return Ok(());
            }
            metrics::counter!(names::SWEPT, "what" => what).increment(1);
        }
        if after.is_empty() {
            return Ok(());
        }
    }
    Ok(())
}

/// Commands, each with a name for metrics, and where the next look begins; empty: all has been looked at.
type Look = (Vec<(Bytes, &'static str)>, Vec<u8>);

fn look(reader: &Reader, registry: &RegistryState, after: &[u8]) -> io::Result<Look> {
    match reader {
        Reader::Timeline(reader) => {
            let found = reader.garbage(FOUND)?;
            // Each needs several commands: the same ones are found until all is gone.
            let more = if found.is_empty() { Vec::new() } else { vec![1] };
            let command = |collect| TimelineCommand { op: Some(TimelineOp::CollectGarbage(collect)) }.encode_to_vec();
            Ok((found.into_iter().map(|found| (command(found).into(), "timelines")).collect(), more))
        }
        Reader::Directory(reader) => {
            let (found, next) = reader.of_ended(after, |lease| registry.has_ended(lease), FOUND)?;
            let command = |delete| DirectoryCommand { op: Some(DirectoryOp::DeleteSession(delete)) }.encode_to_vec();
            Ok((found.into_iter().map(|found| (command(found).into(), "sessions")).collect(), next))
        }
    }
}
