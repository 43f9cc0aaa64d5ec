//! Storage nodes in one process: real sockets, real disks.

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

#[cfg(feature = "planted-bugs")]
use carillon_proto::Level;
use carillon_proto::{
    Readiness, ShardId, ShardMap, TimelineId, UserId,
    pb::store::{
        Append, Appended, FromStore, LeadsRequest, ReadTimeline, RegistryView, StoreError, StoreReply, StoreRequest,
        TimelineCommand, TimelineRead, ToStore, WatchRequest, leads_reply::Led, registry_client::RegistryClient,
        store_client::StoreClient, store_error::Why, store_reply::Result as Outcome, store_request::Op,
        timeline_command,
    },
    peer::{AddToken, PeerSecurity, Tier},
    stream::{Calls, NearCalls},
    tasks::Tasks,
};
use carillon_storage::{FoundError, OpenError, Storage, StorageConfig};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tempfile::TempDir;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, service::interceptor::InterceptedService, transport::Channel};

pub(crate) const MAP: ShardMap = ShardMap { directory: 2, timeline: 3 };
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn security() -> PeerSecurity {
    PeerSecurity::from_secret(Tier::Router, "a secret of sixteen or more".replace(' ', "-").as_str(), None)
        .expect("valid")
}

/// A storage node and its configuration.
pub(crate) struct Node {
    pub(crate) config: StorageConfig,
    security: PeerSecurity,
    /// The level that the node's program reads, if it is not this program's.
    #[cfg(feature = "planted-bugs")]
    level: Option<Level>,
    running: Option<(Storage, Tasks)>,
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    dir: TempDir,
}

impl Cluster {
    /// A cluster of nodes that are not started yet.
    pub(crate) fn new(count: usize, change: impl Fn(&mut StorageConfig)) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let addresses = free_addresses(count);
        let members: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let nodes = addresses.into_iter().enumerate().map(|(number, listen)| {
            let mut config = StorageConfig {
                listen,
                data_dir: dir.path().join(format!("node-{number}")),
                members: members.clone(),
                directory_shards: MAP.directory,
                timeline_shards: MAP.timeline,
                directory_cache_bytes: 4 << 20,
                timeline_cache_bytes: 4 << 20,
                ..StorageConfig::default()
            };
            change(&mut config);
            Node {
                config,
                security: security(),
                #[cfg(feature = "planted-bugs")]
                level: None,
                running: None,
            }
        });
        Self { nodes: nodes.collect(), dir }
    }

    pub(crate) async fn started(count: usize, change: impl Fn(&mut StorageConfig)) -> Self {
        Self::new(count, change).start().await
    }

    /// A cluster of started nodes. `way` tells how routers reach them.
    pub(crate) async fn reached_by(way: Way, count: usize, change: impl Fn(&mut StorageConfig)) -> Self {
        let mut cluster = Self::new(count, change);
        if way == Way::Calls {
            let process = security().within_process();
            cluster.nodes.iter_mut().for_each(|node| node.security = process.clone());
        }
        cluster.start().await
    }

    async fn start(self) -> Self {
        let mut cluster = self;
        for node in &mut cluster.nodes {
            node.start().await;
        }
        cluster.nodes[0].found().await;
        for node in &cluster.nodes {
            node.ready().await;
        }
        cluster
    }

    /// One node, which is a cluster of its own.
    pub(crate) async fn alone(change: impl Fn(&mut StorageConfig)) -> Self {
        Self::started(1, |config| {
            change(config);
            config.members.clear();
        })
        .await
    }

    /// Starts one more node, with an empty disk at this address. Returns its place in `nodes`.
    pub(crate) async fn newcomer(&mut self, listen: SocketAddr) -> usize {
        let place = self.nodes.len();
        let first = &self.nodes[0];
        let mut config = StorageConfig {
            listen,
            data_dir: self.dir.path().join(format!("node-{place}")),
            // A new node is told the cluster's numbers of shards, whatever its configuration says.
            directory_shards: MAP.directory + 1,
            ..first.config.clone()
        };
        if config.members.is_empty() {
            config.members.push(first.address().to_string());
        }
        let node = Node {
            config,
            security: first.security.clone(),
            #[cfg(feature = "planted-bugs")]
            level: None,
            running: None,
        };
        self.nodes.push(node);
        self.nodes[place].start().await;
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Sends the write to the leader as a router does: the same command until it is answered.
    pub(crate) async fn append(&self, user: &str, key: u64) -> Appended {
        let command = append(user, key);
        match self.ask(timeline_shard(user), Op::Timeline(command)).await {
            Outcome::Appended(appended) => appended,
            other => panic!("not appended but {other:?}"),
        }
    }

    /// Appends so many bytes that can't be compressed.
    pub(crate) async fn append_noise(&self, user: &str, key: u64, bytes: usize) {
        let mut command = append(user, key);
        if let Some(timeline_command::Op::Append(append)) = &mut command.op {
            let mut rng = StdRng::seed_from_u64(key);
            append.envelope = (0..bytes).map(|_| rng.random()).collect::<Vec<u8>>().into();
        }
        let outcome = self.ask(timeline_shard(user), Op::Timeline(command)).await;
        assert!(matches!(outcome, Outcome::Appended(_)), "{outcome:?}");
    }

    pub(crate) async fn read(&self, user: &str) -> TimelineRead {
        self.read_from(user, 1).await
    }

    pub(crate) async fn read_from(&self, user: &str, from_seq: u64) -> TimelineRead {
        let timeline = Some(inbox(user).to_key());
        let read = ReadTimeline { timeline, from_seq, limit: 1000, max_bytes: 1 << 20, ..ReadTimeline::default() };
        match self.ask(timeline_shard(user), Op::ReadTimeline(read)).await {
            Outcome::TimelineRead(read) => read,
            other => panic!("not read but {other:?}"),
        }
    }

    pub(crate) async fn ask(&self, shard: ShardId, op: Op) -> Outcome {
        let deadline = Instant::now() + DEADLINE;
        let mut last = None;
        while Instant::now() < deadline {
            for node in self.nodes.iter().filter(|node| node.is_running()) {
                match node.ask(shard, op.clone()).await {
                    Some(Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) })) => {
                        panic!("rejected: {rejected:?}")
                    }
                    Some(Outcome::Error(error)) => last = Some(error),
                    Some(outcome) => return outcome,
                    None => {}
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("nobody answers for {shard}: {last:?}");
    }

    /// The answers of all nodes that say they lead this shard.
    pub(crate) async fn leads(&self, shard: ShardId) -> Vec<Led> {
        let mut found = Vec::new();
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            if let Ok(reply) = node.registry().leads(LeadsRequest {}).await {
                found.extend(reply.into_inner().led.into_iter().filter(|led| led.shard == Some(shard.to_pb())));
            }
        }
        found
    }

    /// The running node that leads the shard of this user's inbox.
    pub(crate) async fn leader_of(&self, user: &str) -> usize {
        let read =
            ReadTimeline { timeline: Some(inbox(user).to_key()), limit: 1, max_bytes: 1, ..ReadTimeline::default() };
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            for (number, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_running()) {
                let answer = node.ask(timeline_shard(user), Op::ReadTimeline(read.clone())).await;
                if matches!(answer, Some(Outcome::TimelineRead(_))) {
                    return number;
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("nobody leads the shard of {user}");
    }
}

impl Node {
    pub(crate) async fn start(&mut self) {
        let storage = eventually("the node's folder and address are free", || async {
            self.open().await.map_err(|error| error.to_string())
        })
        .await;
        let tasks = Tasks::new();
        storage.run(&tasks);
        self.running = Some((storage, tasks));
    }

    /// One attempt to start.
    pub(crate) async fn try_start(&mut self) -> Result<(), OpenError> {
        let storage = self.open().await?;
        let tasks = Tasks::new();
        storage.run(&tasks);
        self.running = Some((storage, tasks));
        Ok(())
    }

    async fn open(&self) -> Result<Storage, OpenError> {
        #[cfg(feature = "planted-bugs")]
        if let Some(level) = self.level {
            return Storage::open_at_level(self.config.clone(), self.security.clone(), level).await;
        }
        Storage::open(self.config.clone(), self.security.clone()).await
    }

    /// Sets the level that the node's program reads from its next start on.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn knows(&mut self, level: Level) {
        self.level = Some(level);
    }

    /// Makes the cluster of all nodes in this node's configuration.
    pub(crate) async fn found(&self) {
        let (storage, _) = self.running.as_ref().expect("runs");
        eventually("the cluster is made", || async {
            match storage.found().await {
                Err(FoundError::NotAll(why)) => Err(why),
                Err(error) => panic!("not made: {error}"),
                Ok(()) => Ok(()),
            }
        })
        .await;
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.running.as_ref().expect("runs").0
    }

    pub(crate) async fn ready(&self) {
        let (storage, tasks) = self.running.as_ref().expect("runs");
        let mut ready = storage.ready();
        let waited = timeout(DEADLINE, ready.wait_for(Readiness::is_ready)).await;
        assert!(waited.is_ok(), "not ready: {:?}, {:?}", storage.ready().borrow().clone(), tasks.failure());
    }

    /// Stops at once, like a process whose time for an orderly stop is over.
    pub(crate) async fn stop(&mut self) {
        let (storage, tasks) = self.running.take().expect("runs");
        storage.drain_nothing(&tasks).await;
    }

    pub(crate) async fn drain_and_stop(&mut self) {
        let (storage, tasks) = self.running.take().expect("runs");
        storage.drain().await;
        assert!(tasks.finish(DEADLINE).await, "tasks ended");
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    #[cfg(feature = "planted-bugs")]
    pub(crate) fn tasks(&self) -> &Tasks {
        &self.running.as_ref().expect("runs").1
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.config.listen
    }

    /// The service as a router of the same process reaches it.
    pub(crate) fn near(&self) -> Option<NearCalls<StoreRequest, StoreReply>> {
        self.security.near_calls(&self.address().to_string())
    }

    /// `None` if there was no answer.
    pub(crate) async fn ask(&self, shard: ShardId, op: Op) -> Option<Outcome> {
        let request = StoreRequest { id: 1, shard: Some(shard.to_pb()), op: Some(op), ..StoreRequest::default() };
        let call = async {
            let mut stream = Stream::open(self.address()).await?;
            stream.send(vec![request]).await;
            stream.reply().await
        };
        timeout(Duration::from_secs(5), call).await.ok()??.result
    }

    pub(crate) fn registry(&self) -> RegistryClient<InterceptedService<Channel, AddToken>> {
        let channel = security().channel(&self.address().to_string()).expect("an address");
        RegistryClient::with_interceptor(channel, security().token())
    }

    /// The node's view, once `wanted` accepts it.
    pub(crate) async fn view(&self, what: &str, wanted: impl Fn(&RegistryView) -> bool) -> RegistryView {
        let mut views = self.registry().watch(WatchRequest {}).await.expect("watches").into_inner();
        let looking = async {
            while let Some(view) = views.message().await.expect("goes on") {
                if wanted(&view) {
                    return view;
                }
            }
            panic!("the watch ended before {what}");
        };
        timeout(DEADLINE, looking).await.unwrap_or_else(|_| panic!("never seen: {what}"))
    }
}

/// Ends a node as a crash does, as far as one process can: nothing is handed over.
trait DrainNothing {
    async fn drain_nothing(self, tasks: &Tasks);
}

impl DrainNothing for Storage {
    async fn drain_nothing(self, tasks: &Tasks) {
        assert!(tasks.finish(DEADLINE).await, "tasks ended");
        self.abort().await;
    }
}

/// How a router reaches a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Wire,
    /// The caller is in the same process.
    Calls,
}

/// A router's stream to a node.
pub(crate) struct Stream {
    ends: Ends,
    taken: std::collections::VecDeque<StoreReply>,
}

enum Ends {
    Wire { out: mpsc::Sender<ToStore>, incoming: Streaming<FromStore> },
    Calls { calls: Calls<StoreRequest>, told: mpsc::UnboundedReceiver<StoreReply> },
}

impl Stream {
    pub(crate) async fn open(address: SocketAddr) -> Option<Self> {
        let channel = security().channel(&address.to_string()).expect("an address");
        let mut client = StoreClient::with_interceptor(channel, security().token());
        let (out, outgoing) = mpsc::channel(64);
        let incoming = client.stream(ReceiverStream::new(outgoing)).await.ok()?.into_inner();
        Some(Self { ends: Ends::Wire { out, incoming }, taken: Default::default() })
    }

    pub(crate) async fn open_by(way: Way, node: &Node) -> Option<Self> {
        match way {
            Way::Wire => Self::open(node.address()).await,
            Way::Calls => {
                let (tell, told) = mpsc::unbounded_channel();
                // The test may have ended.
                let tell = move |reply| drop(tell.send(reply));
                let calls = node.near()?.open(Arc::new(tell)).ok()?;
                Some(Self { ends: Ends::Calls { calls, told }, taken: Default::default() })
            }
        }
    }

    pub(crate) async fn send(&mut self, requests: Vec<StoreRequest>) {
        // A broken stream shows when replies are taken.
        match &self.ends {
            Ends::Wire { out, .. } => drop(out.send(ToStore { requests }).await),
            Ends::Calls { calls, .. } => {
                for request in requests {
                    (calls.say)(request);
                }
            }
        }
    }

    pub(crate) async fn reply(&mut self) -> Option<StoreReply> {
        while self.taken.is_empty() {
            match &mut self.ends {
                Ends::Wire { incoming, .. } => self.taken.extend(incoming.message().await.ok()??.replies),
                Ends::Calls { told, .. } => self.taken.push_back(told.recv().await?),
            }
        }
        self.taken.pop_front()
    }
}

pub(crate) async fn eventually<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "never: {what}: {error:?}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the node has a snapshot of the shard that holds the inbox of `user`. The node looks only from time to time
/// whether a log has grown: a fast disk takes all that a test writes between two looks. Returns when it was made.
pub(crate) async fn snapshot_of(node: &Node, user: &str, after: Option<SystemTime>) -> SystemTime {
    let path = node.config.data_dir.join(format!("snapshots/{}.snapshot", timeline_shard(user)));
    eventually("a snapshot is made", || async {
        let made = std::fs::metadata(&path).and_then(|found| found.modified()).ok();
        made.filter(|made| Some(*made) > after).ok_or(made)
    })
    .await
}

pub(crate) fn inbox(user: &str) -> TimelineId {
    TimelineId::Inbox(UserId::new(user).expect("valid"))
}

pub(crate) fn timeline_shard(user: &str) -> ShardId {
    MAP.timeline_of(&inbox(user))
}

pub(crate) fn append(user: &str, key: u64) -> TimelineCommand {
    let mut duplicate_key = [0; 16];
    duplicate_key[..8].copy_from_slice(&key.to_be_bytes());
    TimelineCommand {
        op: Some(timeline_command::Op::Append(Append {
            after_key: Default::default(),
            timeline: Some(inbox(user).to_key()),
            duplicate_key: duplicate_key.to_vec().into(),
            time_ms: 1_700_000_000_000 + key,
            envelope: format!("envelope {key}").into_bytes().into(),
            new_epoch: 7,
            incarnation: 0,
            ..Append::default()
        })),
    }
}

pub(crate) fn request(id: u64, user: &str, key: u64, lane: u64) -> StoreRequest {
    let op = Some(Op::Timeline(append(user, key)));
    StoreRequest { id, shard: Some(timeline_shard(user).to_pb()), lane, op, ..StoreRequest::default() }
}

pub(crate) fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("binds")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("is bound")).collect()
}
