//! A storage node as a whole.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    net::SocketAddr,
    ops::RangeInclusive,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use carillon_proto::{
    Readiness, Ready, ShardId, ShardKind, ShardMap,
    limits::MAX_NODE_MESSAGE_BYTES,
    pb::{
        raft::{Identity, bootstrap_server::BootstrapServer, raft_server::RaftServer},
        store::{registry_server::RegistryServer, store_server::StoreServer},
    },
    peer::{PeerError, PeerSecurity, Tier},
    tasks::Tasks,
};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tonic::{service::interceptor::InterceptedService, transport::server::Router};

use crate::{
    bootstrap::{Bootstrap, BootstrapError, Settings},
    cluster::{Cluster, Serving},
    config::{InvalidConfig, StorageConfig},
    engine::{Caches, Engines},
    identity::DataDir,
    lease_clock::{self, Leases},
    log::{Log, LogOptions, ShardLog},
    log_upkeep,
    machine::Machine,
    maintenance, placement, put_back,
    raft::{self, Group, GroupOptions, Links, NodeShare, Pace, RaftService, StartError},
    registry::RegistryService,
    service::StoreService,
    shard::{Reader, Shard},
    shard_clock,
    snapshot::SnapshotDir,
    space::{self, Space},
    sweep::sweep,
};

/// Bounds each step of an orderly stop.
const STOP: Duration = Duration::from_secs(5);

/// Size at which a file of the log is closed.
const LOG_FILE_BYTES: RangeInclusive<u64> = 1 << 20..=64 << 20;
/// Who may open the service `Store`.
const ROUTERS: &[Tier] = &[Tier::Router];

/// A storage node: opened, then run, then drained.
pub struct Storage {
    address: SocketAddr,
    ready: watch::Receiver<Readiness>,
    node: Arc<Node>,
    /// Taken by `run`.
    listener: Mutex<Option<TcpListener>>,
}

struct Node {
    config: StorageConfig,
    space: Space,
    security: PeerSecurity,
    bootstrap: Bootstrap,
    log: Arc<Log>,
    /// Opened as soon as the cluster's shards are known.
    engines: OnceLock<Engines>,
    raft: RaftService,
    serving: Arc<Serving>,
    leases: Arc<Leases>,
    draining: Arc<AtomicBool>,
    tell: watch::Sender<Readiness>,
}

/// Why a storage node can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    #[error("storage can't listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    /// What is on disk can't be used; the text says why and what to do.
    #[error("{0}")]
    Disk(String),
    #[error(transparent)]
    Peer(#[from] PeerError),
}

impl Storage {
    /// Opens the disk and binds the listener. No traffic yet.
    pub async fn open(config: StorageConfig, security: PeerSecurity) -> Result<Self, OpenError> {
        config.validate()?;
        let security = security.of_tier(Tier::Storage)?;
        let listener = TcpListener::bind(config.listen).await;
        let listener = listener.map_err(|source| OpenError::Listen { address: config.listen, source })?;
        let address = listener.local_addr().map_err(|source| OpenError::Listen { address: config.listen, source })?;
        let opening = tokio::task::spawn_blocking(move || Node::open(config, security, address));
        let node = opening.await.map_err(|error| OpenError::Disk(error.to_string()))??;
        let ready = node.tell.subscribe();
        Ok(Self { address, ready, node: Arc::new(node), listener: Mutex::new(Some(listener)) })
    }

    /// Starts everything. Later calls do nothing.
    pub fn run(&self, tasks: &Tasks) {
        let Some(listener) = self.listener.lock().take() else { return };
        let node = Arc::clone(&self.node);
        let service = StoreService::new(Arc::clone(&node.serving), tasks.clone());
        let advertised = node.config.advertised_or(self.address);
        let near = {
            let service = service.clone();
            let open = move |_, incoming| Ok(service.open(incoming)?.boxed());
            node.security.serve_near(&listener, &advertised, ROUTERS, open)
        };
        let server = node.server(service, tasks);
        let (stopping, failing) = (tasks.clone(), tasks.clone());
        let incoming = self.node.security.incoming(listener, Some(&advertised));
        tasks.spawn_graceful("storage server", async move {
            let served = server.serve_with_incoming_shutdown(incoming, async move { stopping.stopping().await }).await;
            drop(near);
            if let Err(error) = served {
                failing.fail(format!("storage server failed: {error}"));
            }
        });
        let own = tasks.clone();
        tasks.spawn("storage", async move {
            if let Err(why) = node.start(&own).await {
                own.fail(why);
            }
        });
        let (node, failing) = (Arc::clone(&self.node), tasks.clone());
        tasks.spawn("storage log", async move {
            node.log.ended().await;
            if !node.draining.load(Ordering::Relaxed) {
                failing.fail("the raft log can't be written any more: see the error before this one; if the disk is full, make space and start again".to_owned());
            }
        });
    }

    pub fn ready(&self) -> Ready {
        self.ready.clone()
    }

    /// Where the internal gRPC listener is bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the shards without handing anything over, once the tasks have ended: for whoever goes on in the same
    /// process, and needs the disk again.
    pub async fn abort(&self) {
        self.node.draining.store(true, Ordering::Relaxed);
        self.node.stop_shards().await;
    }

    /// Hands the lead of all shards over and stops them. Takes some 10 seconds at most; the listener ends with the
    /// tasks.
    pub async fn drain(&self) {
        self.node.draining.store(true, Ordering::Relaxed);
        self.node.tell.send_replace(Readiness::NotReady("draining".to_owned()));
        let Some(cluster) = self.node.serving.get() else { return };
        placement::hand_over(cluster).await;
        self.node.stop_shards().await;
        self.node.bootstrap.dir().stopped();
    }
}

impl Node {
    /// Blocking.
    fn open(config: StorageConfig, security: PeerSecurity, address: SocketAddr) -> Result<Self, OpenError> {
        let disk = |error: &dyn std::fmt::Display| OpenError::Disk(error.to_string());
        space::make_room(&config.data_dir);
        let dir = DataDir::open(&config.data_dir).map_err(|error| disk(&error))?;
        if dir.runs() {
            tracing::info!("the node was killed the last time: writes that were not finished then are dropped");
        }
        let space = Space::open(dir.path(), config.disk_reserve_bytes);
        let identity = dir.identity().map_err(|error| disk(&error))?;
        let settings = Settings {
            security: security.clone(),
            own: config.advertised_or(address),
            members: config.members.clone(),
            directory_shards: config.directory_shards,
            timeline_shards: config.timeline_shards,
        };
        let file_bytes = (config.log_bytes / 16).clamp(*LOG_FILE_BYTES.start(), *LOG_FILE_BYTES.end());
        let options = LogOptions {
            file_bytes,
            // Whether it is time is seen where it is known what is kept.
            purge_bytes: file_bytes.max(config.log_bytes / 2),
            cache_bytes: usize::try_from(config.log_cache_bytes).unwrap_or(usize::MAX),
        };
        let path = dir.path().join("log");
        let bootstrap = Bootstrap::new(dir, identity, settings).map_err(|error| disk(&error))?;
        let log = Log::open(&path, options).map_err(|error| disk(&error))?;
        let node = Self {
            config,
            space,
            security,
            bootstrap,
            log: Arc::new(log),
            engines: OnceLock::new(),
            raft: RaftService::default(),
            serving: Arc::default(),
            leases: Arc::default(),
            draining: Arc::default(),
            tell: watch::Sender::new(Readiness::NotReady("starting".to_owned())),
        };
        if let Some(identity) = node.bootstrap.assigned() {
            node.open_engines(shard_map(&identity).map_err(|error| disk(&error))?).map_err(|error| disk(&error))?;
        }
        Ok(node)
    }

    async fn stop_shards(&self) {
        let shards = self.serving.get().into_iter().flat_map(|cluster| cluster.shards.values());
        let stopping = shards.map(|shard| shard.group().shutdown());
        if timeout(STOP, futures_util::future::join_all(stopping)).await.is_err() {
            tracing::warn!("shards did not stop in time");
        }
        self.log.close();
    }

    fn server(&self, store: StoreService, tasks: &Tasks) -> Router {
        let store = StoreServer::new(store)
            .max_decoding_message_size(MAX_NODE_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_NODE_MESSAGE_BYTES);
        let registry = RegistryServer::new(RegistryService::new(
            Arc::clone(&self.serving),
            tasks.clone(),
            self.security.clone(),
            Arc::clone(&self.leases),
        ))
        .max_encoding_message_size(MAX_NODE_MESSAGE_BYTES);
        let raft = RaftServer::new(self.raft.clone())
            .max_decoding_message_size(MAX_NODE_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_NODE_MESSAGE_BYTES);
        let bootstrap = BootstrapServer::new(self.bootstrap.clone());
        let check = |allowed| self.security.check(allowed);
        self.security
            .server()
            .add_service(InterceptedService::new(store, check(ROUTERS)))
            .add_service(InterceptedService::new(registry, check(&[Tier::Router, Tier::Storage])))
            .add_service(InterceptedService::new(raft, check(&[Tier::Storage])))
            .add_service(InterceptedService::new(bootstrap, check(&[Tier::Storage])))
    }

    /// From the first word with the other members to serving. What it returns stops the process.
    async fn start(self: Arc<Self>, tasks: &Tasks) -> Result<(), String> {
        self.not_ready("waiting for the other members of the cluster");
        let identity = self.bootstrap.settle().await.map_err(|error| error.to_string())?;
        let cluster = identity.cluster.clone().unwrap_or_default();
        let map = shard_map(&identity).map_err(|error| error.to_string())?;
        self.not_ready("opening the shards");
        let this = Arc::clone(&self);
        let opening = tokio::task::spawn_blocking(move || this.open_engines(map));
        opening.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;

        let links = Links::new(identity.node, &cluster.id, self.security.clone(), tasks.clone());
        let links = links.ok_or("the cluster's name is not valid")?;
        let replicas = self.open_replicas(map).await.map_err(|error| error.to_string())?;
        if cluster.members.len() > 1 && replicas.iter().any(|replica| replica.log.vote().is_some()) {
            // This node may have answered a leader just before it stopped, and that leader may still count on it for
            // its lease: it must not vote for another one before that has run out.
            self.not_ready("waiting until leases from before the start have run out");
            sleep(Duration::from_millis(self.config.election_max_ms)).await;
        }
        let groups = self.start_groups(replicas, &links).await.map_err(|error| error.to_string())?;
        let by_number = groups.iter().map(|(shard, group, _)| (shard.group(), Arc::clone(group))).collect();
        self.raft.serve(identity.node, cluster.id.clone(), by_number, tasks.clone());

        let first = cluster.members.first().is_some_and(|member| member.node == identity.node);
        if first {
            let members: BTreeMap<_, _> =
                cluster.members.iter().map(|member| (member.node, member.address.clone())).collect();
            let (bootstrap, told) = (self.bootstrap.clone(), cluster.clone());
            tasks.spawn("storage bootstrap", async move { bootstrap.tell_others(told).await });
            for (_, group, _) in &groups {
                group.initialize(&members).await.map_err(|error| error.to_string())?;
            }
        }
        let shards: HashMap<_, _> = groups
            .into_iter()
            .map(|(shard, group, reader)| (shard, Shard::start(shard, group, reader, tasks)))
            .collect();
        if identity.put_back {
            self.not_ready("giving the timelines new epochs, as the data was put back from a copy");
            let timelines = put_back::renew_epochs(&shards).await?;
            self.bootstrap.dir().epochs_are_new().map_err(|error| error.to_string())?;
            tracing::info!(timelines, "the data was put back from a copy: its timelines have new epochs");
        }
        let Self { space, .. } = &*self;
        let (members, space) = (cluster.members, space.clone());
        self.serve(Cluster { id: cluster.id, own: identity.node, map, members, shards, space }, tasks);
        Ok(())
    }

    fn serve(self: Arc<Self>, cluster: Cluster, tasks: &Tasks) {
        for shard in cluster.shards.values() {
            let (id, group, failing) = (shard.id(), Arc::clone(shard.group()), tasks.clone());
            let draining = Arc::clone(&self.draining);
            tasks.spawn("shard watch", async move {
                let why = group.stopped().await;
                if !draining.load(Ordering::Relaxed) {
                    failing.fail(format!("shard {id} stopped: {why}"));
                }
            });
        }
        tracing::info!(cluster = %cluster.id, node = cluster.own, shards = cluster.shards.len(), "storage serves");
        // The shards are started once.
        let _ = self.serving.set(cluster);
        let serving = || Arc::clone(&self.serving);
        let retention = &self.config.retention;
        let retention = shard_clock::retention(retention);
        tasks.spawn("raft pulse", raft::beat(serving(), Duration::from_millis(self.config.heartbeat_ms)));
        tasks.spawn("disk space", self.space.clone().watch());
        tasks.spawn("leader spread", placement::spread(serving(), Arc::clone(&self.draining)));
        tasks.spawn("lease clock", lease_clock::run(serving(), Arc::clone(&self.leases)));
        tasks.spawn("log upkeep", log_upkeep::run(serving(), Arc::clone(&self.log), self.config.log_bytes));
        tasks.spawn("shard clocks", shard_clock::run(serving(), retention));
        tasks.spawn("retention", maintenance::retain(serving(), retention));
        tasks.spawn("sweep", sweep(serving()));
        tasks.spawn("storage readiness", self.watch_readiness());
    }

    async fn watch_readiness(self: Arc<Self>) {
        let Some(cluster) = self.serving.get() else { return };
        // Once is enough: under load a node is always some entries behind.
        let mut caught_up = HashSet::new();
        loop {
            let mut why = None;
            for shard in cluster.shards.values() {
                let id = shard.id();
                if !shard.group().knows_leader() {
                    why = Some(format!("shard {id} has no leader that this node knows"));
                    break;
                }
                if !caught_up.contains(&id) {
                    match shard.group().status().caught_up() {
                        Ok(()) => drop(caught_up.insert(id)),
                        Err(None) => why = Some(format!("shard {id} has heard nothing of its leader yet")),
                        Err(Some(behind)) => why = Some(format!("shard {id} lacks {behind} of its leader's entries")),
                    }
                }
            }
            match why {
                Some(why) => self.not_ready(&why),
                None => self.set_readiness(Readiness::Ready),
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn not_ready(&self, why: &str) {
        self.set_readiness(Readiness::NotReady(why.to_owned()));
    }

    fn set_readiness(&self, readiness: Readiness) {
        self.tell.send_if_modified(|current| {
            // A node that drains stays not ready.
            let changes = *current != readiness && !self.draining.load(Ordering::Relaxed);
            if changes {
                *current = readiness;
            }
            changes
        });
    }

    /// Blocking.
    fn open_engines(&self, map: ShardMap) -> Result<(), crate::engine::OpenError> {
        if self.engines.get().is_some() {
            return Ok(());
        }
        let caches = Caches {
            directory_bytes: self.config.directory_cache_bytes,
            timeline_bytes: self.config.timeline_cache_bytes,
            timeline_files: self.config.timeline_open_files,
            memtables_bytes: self.config.timeline_memtables_bytes,
        };
        let engines = Engines::open(self.bootstrap.dir().path(), map, caches)?;
        // Opened by one task only.
        let _ = self.engines.set(engines);
        Ok(())
    }

    async fn open_replicas(self: &Arc<Self>, map: ShardMap) -> Result<Vec<Replica>, StartError> {
        let this = Arc::clone(self);
        let opening = tokio::task::spawn_blocking(move || {
            map.all().map(|shard| this.open_replica(shard)).collect::<Result<Vec<_>, _>>()
        });
        opening.await.map_err(|error| StartError::Raft { shard: ShardId::REGISTRY, why: error.to_string() })?
    }

    fn open_replica(&self, shard: ShardId) -> Result<Replica, StartError> {
        let failed = |source| StartError::Machine { shard, source };
        let engines = self.engines.get().ok_or_else(|| failed(io::Error::other("the engines are not open")))?;
        let (machine, reader): (Box<dyn Machine>, _) = match shard.kind {
            ShardKind::Directory => {
                let (machine, reader) = engines.directory(shard).map_err(failed)?;
                (Box::new(machine), Reader::Directory(reader))
            }
            ShardKind::Timeline => {
                let (machine, reader) = engines.timeline(shard).map_err(failed)?;
                (Box::new(machine), Reader::Timeline(reader))
            }
        };
        let log = self.log.shard(shard).map_err(failed)?;
        let dir: &Path = self.bootstrap.dir().path();
        let snapshots = SnapshotDir::open(&dir.join("snapshots"), shard.to_string(), shard.group()).map_err(failed)?;
        Ok(Replica { shard, log, machine, reader, snapshots: Arc::new(snapshots) })
    }

    async fn start_groups(
        &self,
        replicas: Vec<Replica>,
        links: &Links,
    ) -> Result<Vec<(ShardId, Arc<Group>, Reader)>, StartError> {
        // One at a time: a snapshot reads a whole shard.
        let node = NodeShare { building: Arc::new(Semaphore::new(1)), pace: Arc::new(Pace::new(Instant::now())) };
        let mut groups = Vec::with_capacity(replicas.len());
        for Replica { shard, log, machine, reader, snapshots } in replicas {
            let (links, node) = (links.clone(), node.clone());
            let options = GroupOptions { shard, config: &self.config, links, log, machine, snapshots, node };
            groups.push((shard, Arc::new(Group::start(options).await?), reader));
        }
        Ok(groups)
    }
}

/// What a group is started with.
struct Replica {
    shard: ShardId,
    log: ShardLog,
    machine: Box<dyn Machine>,
    reader: Reader,
    snapshots: Arc<SnapshotDir>,
}

fn shard_map(identity: &Identity) -> Result<ShardMap, BootstrapError> {
    let cluster = identity.cluster.as_ref().ok_or(BootstrapError::NoOwnMember)?;
    let count = |shards: u32| u16::try_from(shards).map_err(|_| BootstrapError::NoOwnMember);
    Ok(ShardMap { directory: count(cluster.directory_shards)?, timeline: count(cluster.timeline_shards)? })
}
