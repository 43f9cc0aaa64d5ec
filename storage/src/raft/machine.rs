//! openraft's state machine on top of a shard's machine, with its snapshots.

use std::{io, sync::Arc, time::Instant};

use carillon_proto::{
    ShardId, ShardKind,
    pb::{self, store::CommandBatch},
};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use openraft::{
    OptionalSend,
    storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine},
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{
    ApplyPace, Throttle,
    applied::{self, Applied, Members},
    convert::{log_id_to_pb, meta_from_pb, meta_to_pb},
    types::{Entry, LogId, Outcomes, Payload, Snapshot, SnapshotMeta, StoredMembership, Types},
};
use crate::{
    damage::Alarm,
    health::Health,
    machine::{EntryCommands, Machine, Record},
    metrics as names,
    snapshot::{SnapshotDir, SnapshotFile},
};

/// Entries and bytes after which a batch is applied.
const APPLY_ENTRIES: usize = 256;
const APPLY_BYTES: usize = 1 << 20;

type Sync = Arc<dyn Fn() -> io::Result<()> + Send + std::marker::Sync>;

/// Shared by the shards of a node.
#[derive(Clone)]
pub(crate) struct NodeShare {
    /// Limits the number of snapshots that this node makes at a time.
    pub(crate) building: Arc<Semaphore>,
    pub(crate) pace: Arc<ApplyPace>,
    pub(crate) sending: Arc<Throttle>,
    pub(crate) alarm: Alarm,
    pub(crate) health: Arc<Health>,
}

/// One shard's machine and its snapshots.
pub(crate) struct ShardMachine {
    shard: ShardId,
    /// The lock is never contended: openraft calls one method at a time.
    machine: Arc<Mutex<Box<dyn Machine>>>,
    sync: Sync,
    snapshots: Arc<SnapshotDir>,
    /// What the machine has applied, as it stores it.
    applied: Applied,
    node: NodeShare,
    /// Closed when the machine is dropped: openraft's core does not notice that its worker panicked.
    alive: watch::Sender<()>,
}

impl ShardMachine {
    pub(crate) fn open(
        shard: ShardId,
        machine: Box<dyn Machine>,
        snapshots: Arc<SnapshotDir>,
        node: NodeShare,
    ) -> io::Result<Self> {
        let applied = Applied::load(machine.applied()?.as_deref())?;
        let sync = Arc::from(machine.syncer());
        Ok(Self {
            shard,
            machine: Arc::new(Mutex::new(machine)),
            sync,
            snapshots,
            applied,
            node,
            alive: watch::Sender::new(()),
        })
    }

    /// Closed when the machine has ended, for whatever reason.
    pub(crate) fn alive(&self) -> watch::Receiver<()> {
        self.alive.subscribe()
    }

    fn hear<T>(&self, result: io::Result<T>) -> io::Result<T> {
        self.node.alarm.hear(format_args!("shard {}", self.shard), result)
    }

    async fn apply_batch(&mut self, batch: Batch) -> io::Result<()> {
        let start = Instant::now();
        let last = batch.last.or(self.applied.last);
        let members = batch.membership.map(Members::new);
        let encoded = applied::encode(last, members.as_ref().unwrap_or(&self.applied.members));
        let machine = Arc::clone(&self.machine);
        let entries = batch.entries;
        let count = entries.len();
        // sled sometimes waits for its disk, and directory commands are few.
        let outcomes = if self.shard.kind == ShardKind::Timeline && self.node.pace.is_quick(start) {
            machine.lock().apply(&entries, &encoded)?
        } else {
            blocking(move || machine.lock().apply(&entries, &encoded)).await?
        };
        let end = Instant::now();
        self.node.pace.took(start, end);
        self.node.health.took(end - start);
        if outcomes.len() != count {
            return Err(io::Error::other("the machine gave another number of outcomes than it was given entries"));
        }
        self.applied.last = last;
        if let Some(members) = members {
            self.applied.members = members;
        }
        names::applied(self.shard.kind, count, start.elapsed());
        for (responder, outcomes) in batch.responders.into_iter().zip(outcomes) {
            if let Some(responder) = responder {
                responder.send(Outcomes(outcomes));
            }
        }
        Ok(())
    }
}

/// Entries that are applied at once.
#[derive(Default)]
struct Batch {
    entries: Vec<EntryCommands>,
    responders: Vec<Option<ApplyResponder<Types>>>,
    bytes: usize,
    last: Option<LogId>,
    membership: Option<StoredMembership>,
}

impl Batch {
    fn push(&mut self, (entry, responder): EntryResponder<Types>) -> io::Result<()> {
        let Entry { log_id, payload } = entry;
        let commands = match payload {
            Payload::Blank => Vec::new(),
            Payload::Normal(commands) => {
                self.bytes += commands.encoded.len();
                CommandBatch::decode(commands.encoded).map_err(io::Error::other)?.commands
            }
            Payload::Membership(membership) => {
                self.membership = Some(StoredMembership::new(Some(log_id), membership));
                Vec::new()
            }
        };
        self.entries.push(EntryCommands { index: log_id.index, commands });
        self.responders.push(responder);
        self.last = Some(log_id);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= APPLY_ENTRIES || self.bytes >= APPLY_BYTES
    }
}

impl ShardMachine {
    /// Makes a snapshot if the last one does not reach to the beginning of the log, which has these bounds: its last purged entry, and
    /// its last one.
    ///
    /// After a kill the machine may have applied entries that others have on disk, and this node does not. openraft then begins a new
    /// log behind them, and asserts that a snapshot reaches there. Without one, it would send a new replica the old snapshot for ever.
    pub(super) async fn cover_gap(
        &mut self,
        (purged, last): (Option<pb::raft::LogId>, Option<pb::raft::LogId>),
    ) -> io::Result<()> {
        let snapshot = self.get_current_snapshot().await?.and_then(|snapshot| snapshot.meta.last_log_id);
        let index = |id: Option<pb::raft::LogId>| id.map(|id| id.index);
        let applied = self.applied.last.map(|id| id.index);
        let begins = if applied > index(last) { applied } else { index(purged) };
        if begins > snapshot.map(|id| id.index) {
            tracing::info!(shard = %self.shard, "the log begins behind the last snapshot: a new one is made");
            self.get_snapshot_builder().await.build_snapshot().await?;
        }
        Ok(())
    }
}

impl RaftStateMachine<Types> for ShardMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied.last, self.applied.members.stored().clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut entries = entries.fuse();
        while let Some(first) = entries.next().await {
            let mut batch = Batch::default();
            batch.push(self.hear(first)?)?;
            while !batch.is_full()
                && let Some(Some(next)) = entries.next().now_or_never()
            {
                batch.push(self.hear(next)?)?;
            }
            let done = self.apply_batch(batch).await;
            self.hear(done)?;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        let building = Arc::clone(&self.node.building);
        // Not forced: another shard is building one, and there will be another attempt.
        let permit = if force { building.acquire_owned().await.ok()? } else { building.try_acquire_owned().ok()? };
        let machine = Arc::clone(&self.machine);
        let view = blocking(move || machine.lock().snapshot().map(Mutex::new)).await;
        Some(Builder {
            shard: self.shard,
            view: Some(view),
            meta: self.applied.meta(),
            snapshots: Arc::clone(&self.snapshots),
            sync: Arc::clone(&self.sync),
            alarm: self.node.alarm.clone(),
            _permit: permit,
        })
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        // The semaphore is never closed.
        self.try_create_snapshot_builder(true).await.expect("the semaphore of builders is open")
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let start = Instant::now();
        let (machine, snapshots, sync) =
            (Arc::clone(&self.machine), Arc::clone(&self.snapshots), Arc::clone(&self.sync));
        let (last, encoded) = (meta.last_log_id.map(log_id_to_pb), meta_to_pb(meta).encode_to_vec());
        let installed = blocking(move || {
            snapshot.verify()?;
            // The file comes first: if the machine is left half restored, the next start restores it again from the
            // file.
            let snapshot = snapshots.adopt(&snapshot, last)?;
            machine.lock().restore(&mut snapshot.records()?, &encoded)?;
            sync()
        });
        let installed = installed.await;
        self.hear(installed)?;
        self.applied = Applied::new(meta.clone());
        metrics::counter!(names::SNAPSHOTS, "what" => "installed").increment(1);
        metrics::histogram!(names::SNAPSHOT_SECONDS, "what" => "installed").record(start.elapsed());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let snapshots = Arc::clone(&self.snapshots);
        let current = blocking(move || snapshots.current()).await;
        match self.hear(current)? {
            None => Ok(None),
            Some((meta, snapshot)) => {
                Ok(Some(Snapshot { meta: meta_from_pb(meta).map_err(io::Error::other)?, snapshot }))
            }
        }
    }
}

/// Writes a view of the machine to a file while the machine continues.
pub(crate) struct Builder {
    shard: ShardId,
    view: Option<io::Result<View>>,
    meta: SnapshotMeta,
    snapshots: Arc<SnapshotDir>,
    sync: Sync,
    alarm: Alarm,
    _permit: OwnedSemaphorePermit,
}

/// The lock is there only because openraft requires its contents to be `Sync`.
type View = Mutex<Box<dyn Iterator<Item = Record> + Send>>;

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let start = Instant::now();
        let view = self.view.take().ok_or_else(|| io::Error::other("a snapshot builder builds once"))??;
        let (meta, snapshots, sync) = (meta_to_pb(&self.meta), Arc::clone(&self.snapshots), Arc::clone(&self.sync));
        let built = blocking(move || {
            let written = snapshots.write(meta, &mut view.into_inner())?;
            // openraft then purges the log up to the snapshot: the applied entries must be on disk by then.
            sync()?;
            Ok(written)
        });
        let built = built.await;
        let (meta, snapshot) = self.alarm.hear(format_args!("snapshot of shard {}", self.shard), built)?;
        metrics::counter!(names::SNAPSHOTS, "what" => "built").increment(1);
        metrics::histogram!(names::SNAPSHOT_SECONDS, "what" => "built").record(start.elapsed());
        metrics::histogram!(names::SNAPSHOT_BYTES).record(snapshot.len() as f64);
        Ok(Snapshot { meta: meta_from_pb(meta).map_err(io::Error::other)?, snapshot })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    // An error is a panic: the machine is no longer trusted, and openraft stops the shard.
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
