//! The replicas of this node: opened, closed and deleted as the placement in the registry demands.

use std::{
    collections::HashSet,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use carillon_proto::{ShardId, ShardKind, tasks::Tasks};
use tokio::{
    sync::{Semaphore, watch},
    time::sleep,
};

use crate::{
    cleansing::Clean,
    cluster::{Hosted, Serving},
    config::StorageConfig,
    damage::Alarm,
    engine::Engines,
    log::{Here, Log},
    machine::{ClusterRows, Machine, RegistryState},
    raft::{ApplyPace, Group, GroupOptions, NodeShare, RaftLinks, StartError, Throttle},
    shard::{Reader, Shard},
    snapshot::SnapshotDir,
};

/// A group that does not stop within this time keeps its files. The shard is left as it is until the next start, which
/// deletes what has to be deleted.
const CLOSE: Duration = Duration::from_secs(30);
/// Pause before a failed step is retried.
const AGAIN: Duration = Duration::from_secs(5);

/// The node's parts that replicas are made of.
pub(crate) struct Hosting {
    config: StorageConfig,
    /// The data folder.
    dir: PathBuf,
    log: Arc<Log>,
    engines: Arc<Engines>,
    links: RaftLinks,
    share: NodeShare,
    hosted: Arc<Hosted>,
    draining: Arc<AtomicBool>,
    clean: Arc<Clean>,
    tasks: Tasks,
}

/// A replica whose files are open.
pub(crate) struct Opened {
    shard: ShardId,
    replica: u64,
    log: crate::log::ShardLog,
    machine: Box<dyn Machine>,
    reader: Reader,
    snapshots: Arc<SnapshotDir>,
}

impl Opened {
    /// The registry's state, if this replica belongs to the registry's shard.
    pub(crate) fn registry(&self) -> Option<watch::Receiver<RegistryState>> {
        match &self.reader {
            Reader::Directory(reader) if self.shard == ShardId::REGISTRY => Some(reader.registry()),
            _ => None,
        }
    }

    /// True if this replica may have voted.
    pub(crate) fn has_voted(&self) -> bool {
        self.log.vote().is_some()
    }
}

pub(crate) struct HostingContext {
    pub(crate) config: StorageConfig,
    pub(crate) dir: PathBuf,
    pub(crate) log: Arc<Log>,
    pub(crate) engines: Arc<Engines>,
    pub(crate) links: RaftLinks,
    pub(crate) hosted: Arc<Hosted>,
    pub(crate) draining: Arc<AtomicBool>,
    pub(crate) clean: Arc<Clean>,
    pub(crate) alarm: Alarm,
    pub(crate) tasks: Tasks,
}

/// What to do with one shard.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// `gone`: the highest id of the replicas that were deleted here.
    Open {
        replica: u64,
        gone: u64,
    },
    Close,
    Delete {
        replica: u64,
    },
}

/// Why a replica differs from the placement.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("the replica did not end in time")]
    StillRuns,
    #[error(transparent)]
    Failed(#[from] StartError),
}

/// Opens the machine of a replica on this disk, of which nobody has another handle.
pub(crate) fn machine(engines: &Engines, shard: ShardId) -> io::Result<(Box<dyn Machine>, Reader)> {
    Ok(match shard.kind {
        ShardKind::Directory => {
            let (machine, reader) = engines.directory(shard)?;
            (Box::new(machine), Reader::Directory(reader))
        }
        ShardKind::Timeline => {
            let (machine, reader) = engines.timeline(shard)?;
            (Box::new(machine), Reader::Timeline(reader))
        }
    })
}

impl Hosting {
    pub(crate) fn new(parts: HostingContext) -> Self {
        let HostingContext { config, dir, log, engines, links, hosted, draining, clean, alarm, tasks } = parts;
        // One snapshot at a time: it reads a whole shard.
        let (building, pace) = (Arc::new(Semaphore::new(1)), Arc::new(ApplyPace::new(Instant::now())));
        let sending = Arc::new(Throttle::new(config.snapshot_bytes_per_second));
        let share = NodeShare { building, pace, sending, alarm, health: log.health() };
        Self { config, dir, log, engines, links, share, hosted, draining, clean, tasks }
    }

    /// Opens the replica of this shard, or makes a new one. Blocking.
    pub(crate) fn open(&self, shard: ShardId, replica: u64) -> Result<Opened, StartError> {
        let failed = |source| StartError::Machine { shard, source };
        let (machine, reader) = self.machine(shard).map_err(failed)?;
        let log = self.log.shard(shard).map_err(failed)?;
        let snapshots = self.snapshots(shard).map_err(failed)?;
        Ok(Opened { shard, replica, log, machine, reader, snapshots: Arc::new(snapshots) })
    }

    fn machine(&self, shard: ShardId) -> io::Result<(Box<dyn Machine>, Reader)> {
        machine(&self.engines, shard)
    }

    fn snapshots(&self, shard: ShardId) -> io::Result<SnapshotDir> {
        SnapshotDir::of(&self.dir, shard)
    }

    /// Starts the replica's Raft group: from then on it votes and answers.
    pub(crate) async fn start(&self, opened: Opened) -> Result<Shard, StartError> {
        let Opened { shard, replica, log, machine, reader, snapshots } = opened;
        let failed = |source| StartError::Machine { shard, source };
        let here = self.log.replica(shard).map_err(failed)?;
        if here.is_none_or(|here| here.replica != replica) {
            let gone = here.map_or(0, |here| here.gone);
            self.log.set_replica(shard, Here { replica, gone }).await.map_err(failed)?;
        }
        let (links, node) = (self.links.clone(), self.share.clone());
        let options = GroupOptions { shard, replica, config: &self.config, links, log, machine, snapshots, node };
        let group = Arc::new(Group::start(options).await?);
        let alarm = self.share.alarm.clone();
        let started = Shard::start(shard, Arc::clone(&group), reader, alarm.clone(), &self.tasks);
        self.hosted.put(started.clone());
        let (failing, draining) = (self.tasks.clone(), Arc::clone(&self.draining));
        self.tasks.spawn("shard watch", async move {
            let why = group.stopped().await;
            if !draining.load(Ordering::Relaxed) && !group.is_closed() && !alarm.is_raised() {
                failing.fail(format!("shard {shard} stopped: {why}"));
            }
        });
        Ok(started)
    }

    /// Follows the placement as long as the process runs.
    pub(crate) async fn follow(self: Arc<Self>, serving: Arc<Serving>) {
        let Some(cluster) = serving.get() else { return };
        let mut registry = cluster.registry.clone();
        // Shards whose replica did not stop: a second machine must not be opened beside the running one.
        let mut stuck = HashSet::new();
        loop {
            let state = registry.borrow_and_update().clone();
            let mut failed = false;
            for shard in cluster.map.all().filter(|shard| !stuck.contains(shard)).collect::<Vec<_>>() {
                match self.follow_shard(shard, cluster.own, &state).await {
                    Ok(()) => {}
                    Err(StepError::StillRuns) => {
                        tracing::error!(%shard, "this node's replica did not end in time: it is deleted at the next start");
                        stuck.insert(shard);
                    }
                    Err(StepError::Failed(error)) => {
                        tracing::error!(%shard, %error, "this node can't do with its replica what the placement says");
                        self.share.alarm.note(format_args!("shard {shard}"), &error);
                        failed = true;
                    }
                }
            }
            // The steps take long, and the placement may have changed meanwhile.
            let next = next_change(&mut registry, &state.cluster);
            if failed {
                // Every branch is cancel-safe.
                tokio::select! {
                    () = next => {}
                    () = sleep(AGAIN) => {}
                }
            } else {
                next.await;
            }
        }
    }

    async fn follow_shard(self: &Arc<Self>, shard: ShardId, own: u64, state: &RegistryState) -> Result<(), StepError> {
        let failed = |source| StartError::Machine { shard, source };
        let here = self.blocking(move |this| this.log.replica(shard)).await.map_err(failed)?;
        let here = here.unwrap_or(Here { replica: 0, gone: 0 });
        let runs = self.hosted.get(shard);
        let steps = steps(here, runs.is_some(), state.cluster.replica_on(shard, own), state);
        for step in steps {
            match step {
                Step::Open { replica, gone } => {
                    tracing::info!(%shard, replica, "this node gets a replica");
                    // Remains of an earlier deletion would be taken for data of the new replica.
                    self.delete(shard, gone).await.map_err(failed)?;
                    let opened = self.blocking(move |this| Ok(this.open(shard, replica))).await.map_err(failed)??;
                    self.start(opened).await?;
                }
                Step::Close => {
                    let Some(shard) = &runs else { continue };
                    self.hosted.remove(shard.id());
                    if !shard.group().close(CLOSE).await {
                        return Err(StepError::StillRuns);
                    }
                }
                Step::Delete { replica } => {
                    tracing::info!(%shard, replica, "this node's replica has left its shard and is deleted");
                    self.blocking(move |this| this.clean.leaves(shard, replica)).await.map_err(failed)?;
                    self.delete(shard, replica).await.map_err(failed)?;
                }
            }
        }
        Ok(())
    }

    /// Deletes the files of a replica. A deletion interrupted by a crash is completed when it is repeated.
    async fn delete(self: &Arc<Self>, shard: ShardId, gone: u64) -> io::Result<()> {
        let here = Here { replica: 0, gone };
        // First the log notes that there is no replica: a half-deleted one must not vote.
        self.log.set_replica(shard, here).await?;
        self.blocking(move |this| {
            let (snapshots, (mut machine, _)) = (this.snapshots(shard)?, this.machine(shard)?);
            snapshots.clear()?;
            machine.restore(&mut std::iter::empty(), &[])?;
            machine.syncer()()
        })
        .await?;
        self.log.forget_shard(shard, here).await
    }

    /// Runs work on a thread that may wait for the disk.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&this)).await.map_err(io::Error::other)?
    }
}

/// The replicas that this node opens at its start, according to its disk. `founder`: the id for shards of which the
/// disk says nothing (0: none). `added`: the id for the registry's, if the disk says nothing of it. Blocking.
pub(crate) fn at_start(
    log: &Log,
    founder: u64,
    added: u64,
    shards: impl Iterator<Item = ShardId>,
) -> io::Result<Vec<(ShardId, u64)>> {
    let mut found = Vec::new();
    for shard in shards {
        let unknown = if shard == ShardId::REGISTRY && founder == 0 { added } else { founder };
        let replica = log.replica(shard)?.map_or(unknown, |here| here.replica);
        if replica != 0 {
            found.push((shard, replica));
        }
    }
    Ok(found)
}

/// The steps from the present replica to the wanted one.
fn steps(here: Here, runs: bool, wanted: Option<u64>, state: &RegistryState) -> Vec<Step> {
    let mut steps = Vec::new();
    if !state.cluster.has_rows() {
        return steps;
    }
    // A state older than the replica does not list it.
    let has_left = here.replica != 0 && wanted != Some(here.replica) && here.replica <= state.version;
    if has_left {
        if runs {
            steps.push(Step::Close);
        }
        steps.push(Step::Delete { replica: here.replica });
    }
    let gone = if has_left { here.replica.max(here.gone) } else { here.gone };
    // Only an old state lists a replica that was deleted.
    if let Some(replica) = wanted.filter(|replica| *replica > gone && (here.replica == 0 || has_left)) {
        steps.push(Step::Open { replica, gone });
    }
    steps
}

/// Waits until the rows differ from those that were followed.
async fn next_change(registry: &mut watch::Receiver<RegistryState>, followed: &ClusterRows) {
    if registry.wait_for(|state| state.cluster != *followed).await.is_err() {
        // The registry's shard has stopped, and the process with it.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::{ShardMap, pb::store::StorageNode};

    use super::*;

    fn state(version: u64) -> RegistryState {
        let node = StorageNode { node: 2, ..StorageNode::default() };
        let cluster = ClusterRows::founded(vec![node], ShardMap { directory: 1, timeline: 1 });
        RegistryState { version, cluster, ..RegistryState::default() }
    }

    #[test]
    fn a_replica_comes_and_goes_with_the_placement_and_never_comes_back() {
        let (none, two) = (Here { replica: 0, gone: 0 }, Here { replica: 2, gone: 0 });
        assert_eq!(steps(two, true, Some(2), &state(100)), []);
        assert_eq!(steps(two, true, None, &state(100)), [Step::Close, Step::Delete { replica: 2 }]);
        assert_eq!(steps(two, false, None, &state(100)), [Step::Delete { replica: 2 }], "after a crash");
        assert_eq!(steps(none, false, Some(640), &state(700)), [Step::Open { replica: 640, gone: 0 }]);
        let gone = Here { replica: 0, gone: 640 };
        assert_eq!(steps(gone, false, Some(640), &state(700)), [], "its votes are gone");
        assert_eq!(steps(gone, false, Some(704), &state(720)), [Step::Open { replica: 704, gone: 640 }]);
    }

    #[tokio::test]
    async fn a_change_that_comes_while_another_one_is_followed_is_not_lost() {
        let (registry, mut watching) = watch::channel(state(100));
        let followed = watching.borrow_and_update().clone();
        registry.send_replace(RegistryState { version: 200, ..RegistryState::default() });
        let next = next_change(&mut watching, &followed.cluster);
        tokio::time::timeout(Duration::from_secs(10), next).await.expect("it is seen");
    }

    #[tokio::test]
    async fn a_start_opens_what_the_disk_says_and_in_a_folder_of_before_all_shards() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = crate::log::LogOptions { file_bytes: 1 << 20, purge_bytes: 1 << 20, cache_bytes: 0 };
        let log = Log::open(folder.path(), options, crate::damage::Alarm::default()).expect("opens");
        let map = ShardMap { directory: 1, timeline: 2 };
        let shards: Vec<ShardId> = map.all().collect();
        let found = |founder| at_start(&log, founder, 0, map.all()).expect("reads");
        assert_eq!(found(2), [(shards[0], 2), (shards[1], 2), (shards[2], 2)]);
        log.set_replica(shards[1], Here { replica: 640, gone: 2 }).await.expect("written");
        log.set_replica(shards[2], Here { replica: 0, gone: 2 }).await.expect("written");
        assert_eq!(found(2), [(shards[0], 2), (shards[1], 640)]);
        assert_eq!(found(0), [(shards[1], 640)], "a node that came later has no others");
        let added = at_start(&log, 0, 777, map.all()).expect("reads");
        assert_eq!(added, [(shards[0], 777), (shards[1], 640)], "but one of the registry");
    }

    #[test]
    fn a_state_that_is_older_than_a_replica_says_nothing_of_it() {
        let new = Here { replica: 704, gone: 2 };
        assert_eq!(steps(new, true, None, &state(650)), []);
        assert_eq!(steps(new, true, Some(2), &state(650)), []);
        assert_eq!(steps(new, true, None, &RegistryState::default()), [], "nothing is known");
    }

    #[test]
    fn one_that_has_left_makes_room_for_the_next_and_does_not_come_back() {
        let old = Here { replica: 2, gone: 0 };
        let expected = [Step::Close, Step::Delete { replica: 2 }, Step::Open { replica: 704, gone: 2 }];
        assert_eq!(steps(old, true, Some(704), &state(720)), expected);
    }
}
