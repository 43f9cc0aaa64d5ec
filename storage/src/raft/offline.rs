//! A replica of a stopped node, without its group.

use std::{io, sync::Arc, time::Instant};

use carillon_proto::ShardId;
use futures_util::stream;
use openraft::storage::RaftStateMachine as _;
use tokio::sync::Semaphore;

use super::{
    ApplyPace, NodeShare, Throttle,
    convert::entry_from_pb,
    machine::ShardMachine,
    store::begin_at,
    types::{Entry, LogId},
};
use crate::{damage::Alarm, log::ShardLog, machine::Machine, snapshot::SnapshotDir};

/// Bytes of entries that are read and applied at once.
const PIECE_BYTES: usize = 4 << 20;

/// Applies to the machine everything that the replica's snapshot and log have, also entries of which nobody knows whether
/// they were committed. Returns the id of the last one; `None` if the replica has nothing.
pub(crate) async fn catch_up(
    shard: ShardId,
    machine: Box<dyn Machine>,
    snapshots: SnapshotDir,
    log: ShardLog,
) -> io::Result<Option<LogId>> {
    let share = NodeShare {
        building: Arc::new(Semaphore::new(1)),
        pace: Arc::new(ApplyPace::new(Instant::now())),
        sending: Arc::new(Throttle::new(0)),
        alarm: Alarm::default(),
        health: Arc::default(),
    };
    let mut machine = ShardMachine::open(shard, machine, Arc::new(snapshots), share)?;
    let (mut last, _) = machine.applied_state().await?;
    if let Some(newest) = machine.get_current_snapshot().await?
        && newest.meta.last_log_id > last
    {
        machine.install_snapshot(&newest.meta, newest.snapshot).await?;
        last = newest.meta.last_log_id;
    }
    loop {
        let next = last.map_or(0, |last| last.index + 1);
        let entries = log.read(next..u64::MAX, PIECE_BYTES).await?;
        let entries = entries.into_iter().map(entry_from_pb).collect::<Result<Vec<Entry>, _>>();
        let entries = begin_at(next, entries.map_err(io::Error::other)?)?;
        let Some(newest) = entries.last() else { return Ok(last) };
        last = Some(newest.log_id);
        machine.apply(stream::iter(entries.into_iter().map(|entry| Ok((entry, None))))).await?;
    }
}
