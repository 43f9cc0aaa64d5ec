//! One Raft group: the replica of a shard on this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use carillon_proto::ShardId;
use openraft::{
    ChangeMembers, Config, LinearizerOption, Raft, ServerState, SnapshotPolicy,
    async_runtime::watch::WatchReceiver as _,
    errors::{ClientWriteError, ForwardReason, ForwardToLeader, InitializeError, LinearizableReadError, RaftError},
    raft::ClientWriteResult,
};
use tokio::sync::watch;

use super::{
    NodeShare,
    link::RaftLinks,
    machine::ShardMachine,
    network::Network,
    pulse::{Progress, Role},
    status::GroupStatus,
    store::LogStore,
    types::{Commands, Host, LeaderId, LogId, Outlet, Types},
};
use crate::{
    addresses::AddressBook,
    config::StorageConfig,
    log::ShardLog,
    machine::{Machine, Outcome},
    snapshot::SnapshotDir,
};

/// The parts of a group.
pub(crate) struct GroupOptions<'a> {
    pub(crate) shard: ShardId,
    /// The id of the replica on this node.
    pub(crate) replica: u64,
    pub(crate) config: &'a StorageConfig,
    pub(crate) links: RaftLinks,
    pub(crate) log: ShardLog,
    pub(crate) machine: Box<dyn Machine>,
    pub(crate) snapshots: Arc<SnapshotDir>,
    pub(crate) node: NodeShare,
}

pub(crate) struct Group {
    shard: ShardId,
    replica: u64,
    book: AddressBook,
    raft: Raft<Types, ShardMachine>,
    log: ShardLog,
    snapshots: Arc<SnapshotDir>,
    /// How old the last answer of a majority may be for the leader to answer reads.
    lease: Duration,
    /// A member that has not answered for so long is silent.
    patience: Duration,
    machine_alive: watch::Receiver<()>,
    began: Instant,
    /// When the leader was last heard, in milliseconds after `began`.
    heard_ms: AtomicU64,
    closed: AtomicBool,
}

/// Why a group did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("shard {shard} can't be read: {source}")]
    Machine { shard: ShardId, source: io::Error },
    #[error("shard {shard} can't start: {why}")]
    Raft { shard: ShardId, why: String },
}

/// Why commands were not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProposeError {
    #[error("this node does not lead the shard")]
    NotLeader { leader: Option<String> },
    #[error("the leader has not heard from a majority yet")]
    NotYet,
    #[error("it is not known whether it was done: {0}")]
    Unknown(String),
}

/// Why a read can't be answered here and now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("this node does not lead the shard")]
    NotLeader { leader: Option<String> },
    #[error("the leader has not heard from a majority in time")]
    NoMajority,
    #[error("the shard stopped: {0}")]
    Stopped(String),
}

/// One term of a leader. Commands that are proposed in it are taken in order, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaderTerm(LeaderId);

impl Group {
    pub(crate) async fn start(options: GroupOptions<'_>) -> Result<Self, StartError> {
        let GroupOptions { shard, replica, config, links, log, machine, snapshots, node } = options;
        let failed = |why: String| StartError::Raft { shard, why };
        let raft_config = raft_config(shard, config).map_err(failed)?;
        let unreadable = |source| StartError::Machine { shard, source };
        let mut machine =
            ShardMachine::open(shard, machine, Arc::clone(&snapshots), node.clone()).map_err(unreadable)?;
        machine.cover_gap(log.bounds()).await.map_err(unreadable)?;
        let machine_alive = machine.alive();
        let book = links.book().clone();
        let network = Network::new(links, shard.group(), replica, node);
        let raft = Raft::new(replica, Arc::new(raft_config), network, LogStore::new(log.clone()), machine)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let lease = lease(config);
        let (began, heard_ms) = (Instant::now(), AtomicU64::new(0));
        Ok(Self {
            shard,
            replica,
            book,
            raft,
            log,
            snapshots,
            lease,
            patience: Duration::from_millis(config.election_max_ms) * 2,
            machine_alive,
            began,
            heard_ms,
            closed: AtomicBool::new(false),
        })
    }

    pub(super) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(super) fn raft(&self) -> &Raft<Types, ShardMachine> {
        &self.raft
    }

    pub(crate) fn snapshots(&self) -> &Arc<SnapshotDir> {
        &self.snapshots
    }

    pub(crate) fn log(&self) -> &ShardLog {
        &self.log
    }

    /// The id of the replica on this node.
    pub(crate) fn replica(&self) -> u64 {
        self.replica
    }

    /// Makes these replicas the group's first members. A group that has members already is left as it is.
    pub(crate) async fn initialize(&self, members: BTreeMap<u64, Host>) -> Result<(), StartError> {
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(StartError::Raft { shard: self.shard, why: error.to_string() }),
        }
    }

    pub(crate) fn status(&self) -> GroupStatus {
        let receiver = self.raft.metrics();
        GroupStatus::of(&receiver.borrow_watched(), self.replica, &self.book, self.patience)
    }

    /// Records that the leader was heard.
    pub(super) fn heard(&self) {
        self.heard_ms.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    pub(super) fn role(&self) -> Role {
        let receiver = self.raft.metrics();
        let metrics = receiver.borrow_watched();
        if metrics.state == ServerState::Leader {
            // A learner, too, has to learn what is committed.
            let alone = metrics.membership_config.membership().nodes().nth(1).is_none();
            let progress = || Progress {
                last_log: metrics.last_log_index,
                applied: metrics.last_applied.as_ref().map(|id| id.index),
            };
            return if alone { Role::Alone } else { Role::Leads { progress: progress() } };
        }
        if metrics.current_leader.is_none() {
            return Role::Seeks;
        }
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        Role::Follows { silence: self.began.elapsed().saturating_sub(heard) }
    }

    /// Adds a replica that does not vote yet. Idempotent.
    pub(crate) async fn add_learner(&self, replica: u64, host: Host) -> Result<(), String> {
        self.raft.add_learner(replica, host, false).await.map(drop).map_err(|error| error.to_string())
    }

    /// Makes these replicas the voters. Others that had a vote stop being members, or go on learning. Returns when the change is
    /// committed.
    pub(crate) async fn set_voters(&self, voters: BTreeSet<u64>, go_on_learning: bool) -> Result<(), String> {
        self.raft.change_membership(voters, go_on_learning).await.map(drop).map_err(|error| error.to_string())
    }

    /// Removes these members, none of which votes.
    pub(crate) async fn remove_learners(&self, replicas: BTreeSet<u64>) -> Result<(), String> {
        let remove = ChangeMembers::RemoveNodes(replicas);
        self.raft.change_membership(remove, false).await.map(drop).map_err(|error| error.to_string())
    }

    pub(crate) fn leads(&self) -> bool {
        self.raft.is_leader()
    }

    /// The last entry that is known to be applied here; the machine may be some entries further.
    pub(crate) fn applied(&self) -> Option<u64> {
        self.raft.metrics().borrow_watched().last_applied.as_ref().map(|id| id.index)
    }

    /// The entry that made the members what they are.
    pub(crate) fn members_from(&self) -> Option<LogId> {
        self.raft.metrics().borrow_watched().membership_config.log_id().as_ref().copied()
    }

    /// The last entry covered by the last snapshot.
    pub(crate) fn snapshot_upto(&self) -> Option<u64> {
        self.raft.metrics().borrow_watched().snapshot.as_ref().map(|id| id.index)
    }

    /// The replica that leads, if it is known.
    pub(crate) fn leader_id(&self) -> Option<u64> {
        self.raft.metrics().borrow_watched().current_leader
    }

    /// The address of the leader, if it is known.
    pub(crate) fn leader(&self) -> Option<String> {
        self.status().leader.map(|(_, address)| address)
    }

    /// The current term of this leader, or who leads instead.
    pub(crate) fn era(&self) -> Result<LeaderTerm, ProposeError> {
        match self.raft.as_leader() {
            Ok(leader) => Ok(LeaderTerm(leader.to_committed_leader_id())),
            Err(forward) => Err(ProposeError::NotLeader { leader: leader_of(&forward, &self.book) }),
        }
    }

    /// Hands an encoded CommandBatch to the group. `accepted` is called when the entry has its place in the leader's
    /// log; `done` with one outcome for each command when the entry is applied, or with the reason of a refusal. Both
    /// are dropped if the group stops before.
    pub(crate) async fn propose(
        &self,
        era: LeaderTerm,
        encoded: Bytes,
        accepted: impl FnOnce() + Send + Sync + 'static,
        done: impl FnOnce(Result<Vec<Outcome>, ProposeError>) + Send + 'static,
    ) {
        let book = self.book.clone();
        let outlet = Outlet(Box::new(move |result| done(outcomes(result, &book))));
        let commands = Commands { encoded, accepted: Some(Box::new(accepted)) };
        if let Err(fatal) = self.raft.write(commands).with_leader(era.0).responder(outlet).await {
            tracing::debug!(shard = %self.shard, %fatal, "nothing can be proposed");
        }
    }

    /// Resolves when a read made now sees everything that was answered before the call.
    pub(crate) async fn linearize(&self, wait: Duration) -> Result<(), ReadError> {
        let option = LinearizerOption::new(Some(self.lease), true).with_wait_timeout(wait);
        let linearizer = self.raft.get_read_linearizer(option).await.map_err(|error| match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
                ReadError::NotLeader { leader: leader_of(&forward, &self.book) }
            }
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => ReadError::NoMajority,
            RaftError::Fatal(fatal) => ReadError::Stopped(fatal.to_string()),
        })?;
        match linearizer.try_await_ready(&self.raft, Some(wait)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::NoMajority),
            Err(fatal) => Err(ReadError::Stopped(fatal.to_string())),
        }
    }

    /// Asks that node to take over the lead, if it is up to date. The status shows whether it did.
    pub(crate) async fn transfer_leader(&self, to: u64) {
        if let Err(fatal) = self.raft.trigger().transfer_leader(to).await {
            tracing::debug!(shard = %self.shard, %fatal, "leadership can't be handed over");
        }
    }

    /// Requests a snapshot, which is made when its turn comes.
    pub(crate) async fn make_snapshot(&self) {
        if let Err(fatal) = self.raft.trigger().snapshot().await {
            tracing::debug!(shard = %self.shard, %fatal, "no snapshot can be made");
        }
    }

    /// Drops the log up to this entry, which a snapshot covers, unless a follower is just being sent it.
    pub(crate) async fn purge(&self, upto: u64) {
        if let Err(fatal) = self.raft.trigger().purge_log(upto).await {
            tracing::debug!(shard = %self.shard, %fatal, "the log can't be purged");
        }
    }

    /// Resolves with the reason when the group has stopped.
    pub(crate) async fn stopped(&self) -> String {
        // Changes seldom. It is closed together with the other channels, which change with each command.
        let mut server = self.raft.server_metrics();
        let mut machine_alive = self.machine_alive.clone();
        loop {
            tokio::select! {
                changed = server.changed() => if changed.is_err() {
                    return match &self.raft.metrics().borrow_watched().running_state {
                        Err(fatal) => fatal.to_string(),
                        Ok(()) => "it has ended".to_owned(),
                    };
                },
                // Nothing is ever sent; the channel is only closed.
                _ = machine_alive.changed() => return "its machine has ended".to_owned(),
            }
        }
    }

    /// Stops the group and waits until its machine is dropped. False if that takes longer than `longest`.
    pub(crate) async fn close(&self, longest: Duration) -> bool {
        self.closed.store(true, Ordering::SeqCst);
        let mut machine_alive = self.machine_alive.clone();
        let ended = async {
            self.shutdown().await;
            // Nothing is ever sent; the channel is only closed.
            while machine_alive.changed().await.is_ok() {}
        };
        tokio::time::timeout(longest, ended).await.is_ok()
    }

    /// True after `close`: reads may then see a half deleted replica.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(crate) async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(shard = %self.shard, %error, "shard did not stop in order");
        }
    }
}

/// How old the last answer of a majority may be for a leader to answer reads.
pub(crate) fn lease(config: &StorageConfig) -> Duration {
    // One fifth is left as a margin for clock drift.
    Duration::from_millis(config.election_max_ms) * 4 / 5
}

fn outcomes(result: ClientWriteResult<Types>, book: &AddressBook) -> Result<Vec<Outcome>, ProposeError> {
    match result {
        Ok(response) => Ok(response.data.0),
        Err(ClientWriteError::ForwardToLeader(forward)) => Err(refused(forward, book)),
        Err(error) => Err(ProposeError::Unknown(error.to_string())),
    }
}

/// openraft refused before it wrote anything.
fn refused(forward: ForwardToLeader<Types>, book: &AddressBook) -> ProposeError {
    match forward.reason {
        ForwardReason::LeaseExpired => ProposeError::NotYet,
        ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => {
            ProposeError::NotLeader { leader: leader_of(&forward, book) }
        }
    }
}

fn leader_of(forward: &ForwardToLeader<Types>, book: &AddressBook) -> Option<String> {
    Some(address_of(book, forward.leader_id?, forward.leader_node.as_ref()?))
}

pub(super) fn address_of(book: &AddressBook, replica: u64, host: &Host) -> String {
    book.of(host.of(replica)).map_or_else(|| host.address.clone(), |address| address.to_string())
}

fn raft_config(shard: ShardId, config: &StorageConfig) -> Result<Config, String> {
    // Less than the interval of the pulse, so that a follower that has heard nothing else hears each pulse.
    let redundant = config.heartbeat_ms * 3 / 4;
    // openraft rounds heartbeats up to a tick of a fifth of their interval.
    let room = config.election_min_ms.saturating_sub(config.heartbeat_ms * 5 / 4 + 1);
    let config = Config {
        cluster_name: shard.to_string(),
        heartbeat_interval: config.heartbeat_ms,
        heartbeat_min_interval: Some(if room > redundant { redundant } else { 0 }),
        election_timeout_min: config.election_min_ms,
        election_timeout_max: config.election_max_ms,
        max_payload_entries: 1024,
        // `crate::log_upkeep` requests snapshots, because it also looks at their size.
        snapshot_policy: SnapshotPolicy::Never,
        // `crate::log_upkeep` requests purges, too, because it also looks at the bytes of the log.
        max_in_snapshot_log_to_keep: u64::MAX,
        // When it is full, senders wait, back to the shard's own queue, which refuses.
        api_channel_size: Some(4096),
        // Both queues must never be full at once: then the core would wait for its machine to take a command, and the
        // machine for the core to take a notification. While the disk holds up the machine, ticks and flushes go on to
        // fill the notification queue; the machine's queue takes one command for each batch of committed entries.
        notification_channel_size: Some(65_536),
        state_machine_channel_size: Some(65_536),
        backoff: "50ms 100ms ...500ms".to_owned(),
        // A node that was cut off does not disturb the others when it returns.
        enable_pre_vote: Some(true),
        // The machine's applied state may not all be on disk: a restarted leader has to be elected again.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map_err(|error| error.to_string())
}
