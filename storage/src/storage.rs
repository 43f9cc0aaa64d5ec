//! A storage node as a whole.

mod opening;
mod readiness;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use carillon_proto::{
    Level, Readiness, Ready, ShardId, ShardMap,
    limits::MAX_NODE_MESSAGE_BYTES,
    pb::{
        backup::backup_server::BackupServer,
        raft::{
            self as pb, bootstrap_server::BootstrapServer, cluster_admin_server::ClusterAdminServer,
            founding_server::FoundingServer, raft_server::RaftServer,
        },
        store::{StorageNode, registry_server::RegistryServer, store_server::StoreServer},
        userdata::user_data_server::UserDataServer,
    },
    peer::{PeerError, PeerSecurity, Tier, addresses_of},
    tasks::Tasks,
};
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{sleep, timeout},
};
use tonic::service::{Routes, interceptor::InterceptedService};

use self::opening::shard_map;
use crate::{
    addresses::AddressBook,
    backup::BackupService,
    bootstrap::{Bootstrap, FOUNDER, FoundError},
    carrier::Carrier,
    cleansing::{self, Clean},
    cluster::{Cluster, Hosted, Serving, rows},
    cluster_admin::ClusterAdminService,
    config::{InvalidConfig, StorageConfig},
    damage::{Alarm, Found, REMEDY, is_damage},
    engine::Engines,
    erasing, health,
    hosting::{self, Hosting, Opened},
    identity,
    leads::{self, LeadsKnown},
    lease_clock::{self, Leases},
    log::Log,
    log_upkeep,
    machine::ClusterRows,
    maintenance, members,
    node_load::{self, NodeLoad},
    placement, put_back,
    raft::{self, Host, RaftLinks, RaftService, StartError},
    reconcile,
    registry::RegistryService,
    ring_slots,
    service::StoreService,
    shard_clock,
    space::Space,
    sweep::sweep,
    user_data::UserDataService,
    watched,
};

/// How long a node whose disk fails it tries to give its leads away. Elections take some two seconds.
const LEAVE: Duration = Duration::from_secs(1);
/// Deadline of each step of an orderly stop.
const STOP: Duration = Duration::from_secs(5);

/// Tiers that may open the service `Store`.
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
    engines: OnceLock<Arc<Engines>>,
    clean: Arc<Clean>,
    book: AddressBook,
    /// The highest level that this program reads; tests change it.
    #[cfg(feature = "planted-bugs")]
    known: Level,
    raft: RaftService,
    serving: Arc<Serving>,
    leases: Arc<Leases>,
    draining: Arc<AtomicBool>,
    alarm: Alarm,
    tell: watch::Sender<Readiness>,
}

/// Why a storage node can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    #[error("storage can't listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    /// The data on disk can't be used; the text says why and what to do.
    #[error("{0}")]
    Disk(String),
    /// The data on disk is not what was written; the text says what is damaged.
    #[error("{0}: {REMEDY}")]
    Damaged(String),
    #[error(transparent)]
    Peer(#[from] PeerError),
}

impl Storage {
    /// Starts everything. Later calls do nothing.
    pub fn run(&self, tasks: &Tasks) {
        let Some(listener) = self.listener.lock().take() else { return };
        let node = Arc::clone(&self.node);
        let service = StoreService::new(Arc::clone(&node.serving), tasks.clone());
        let advertised = node.config.advertised_or(self.address);
        let near = {
            let service = service.clone();
            let open = move |_, tell| service.open_calls(tell);
            node.security.serve_calls(addresses_of(&listener, &advertised), ROUTERS, open)
        };
        let (stopping, failing) = (tasks.clone(), tasks.clone());
        let stop = async move { stopping.stopping().await }.boxed();
        let serving = node.security.serve(node.services(service, tasks), listener, Some(&advertised), stop);
        tasks.spawn_graceful("storage server", async move {
            let served = serving.await;
            drop(near);
            if let Err(error) = served {
                failing.fail(format!("storage server failed: {error}"));
            }
        });
        let own = tasks.clone();
        tasks.spawn("storage", async move {
            let alarm = node.alarm.clone();
            if let Err(why) = node.start(&own).await
                && !alarm.is_raised()
            {
                own.fail(why);
            }
        });
        let (node, failing) = (Arc::clone(&self.node), tasks.clone());
        tasks.spawn("storage damage", async move {
            let found = node.alarm.raised().await;
            failing.fail(node.leave(found).await);
        });
        let (node, failing) = (Arc::clone(&self.node), tasks.clone());
        tasks.spawn("storage log", async move {
            node.log.ended().await;
            if !node.draining.load(Ordering::Relaxed) && !node.alarm.is_raised() {
                failing.fail("the raft log can't be written any more: see the error before this one; if the disk is full, make space and start again".to_owned());
            }
        });
    }

    /// Makes a cluster of the storage nodes in the configuration, or of this one alone. Fails if there is one already.
    /// Requires `run`.
    pub async fn found(&self) -> Result<(), FoundError> {
        self.node.bootstrap.found(Vec::new()).await.map(drop)
    }

    /// Makes a cluster of this node alone, if its disk is empty: for a process that is a service by itself.
    pub fn found_alone(&self, tasks: &Tasks) {
        let (bootstrap, failing) = (self.node.bootstrap.clone(), tasks.clone());
        if bootstrap.assigned().is_none() {
            tasks.spawn("founding", async move {
                if let Err(error) = bootstrap.found(vec![bootstrap.own().to_owned()]).await {
                    failing.fail(format!("this process can't make its cluster: {error}"));
                }
            });
        }
    }

    /// Delays each write of the log by so much.
    #[cfg(feature = "planted-bugs")]
    pub fn plant_delay(&self, delay: Duration) {
        self.node.log.health().plant_delay(delay);
    }

    /// Makes so many times shorter what this node waits for before leads move or come back.
    #[cfg(feature = "planted-bugs")]
    pub fn plant_haste(&self, haste: u32) {
        self.node.log.health().plant_haste(haste);
    }

    pub fn ready(&self) -> Ready {
        self.ready.clone()
    }

    /// True if this node has left because its disk does not hold what was written to it.
    pub fn is_damaged(&self) -> bool {
        self.node.alarm.found().is_some_and(|found| found.is_damage)
    }

    /// Address of the internal gRPC listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the shards without handing them over, once the tasks have ended: for callers that stay in the same process
    /// and need the disk again.
    pub async fn abort(&self) {
        self.node.draining.store(true, Ordering::Relaxed);
        self.node.stop_shards().await;
    }

    /// Hands over the lead of all shards, then stops them. Takes some 10 seconds at most; the listener ends with the
    /// tasks.
    pub async fn drain(&self) {
        self.node.draining.store(true, Ordering::Relaxed);
        self.node.tell.send_replace(Readiness::Draining);
        if let Some(cluster) = self.node.serving.get() {
            placement::hand_over(cluster).await;
            self.node.stop_shards().await;
        }
        self.node.bootstrap.dir().stopped();
    }
}

impl Node {
    /// An error of the start, in words. Raises the alarm if the disk is damaged.
    fn told(&self, error: &(dyn std::error::Error + 'static)) -> String {
        if is_damage(error) {
            self.alarm.raise("start", error);
        }
        error.to_string()
    }

    /// Leaves service: from now on nothing is answered from this disk. Returns why, and what to do.
    async fn leave(&self, found: Found) -> String {
        self.draining.store(true, Ordering::Relaxed);
        self.not_ready(&found.text);
        let (path, text) = (self.bootstrap.dir().path().to_owned(), found.text.clone());
        let ending = async {
            if found.is_damage {
                // A panic changes nothing.
                let _ = tokio::task::spawn_blocking(move || identity::mark_damage(&path, &text)).await;
            }
            if let Some(cluster) = self.serving.get() {
                placement::hand_over(cluster).await;
            }
        };
        // The others elect leaders anyway; and the disk may hang.
        let _ = timeout(LEAVE, ending).await;
        if found.is_damage { format!("{}: {REMEDY}", found.text) } else { found.text }
    }

    async fn stop_shards(&self) {
        let shards = self.serving.get().map(|cluster| cluster.shards()).unwrap_or_default();
        let stopping = shards.values().map(|shard| shard.group().shutdown());
        if timeout(STOP, futures_util::future::join_all(stopping)).await.is_err() {
            tracing::warn!("shards did not stop in time");
        }
        self.log.close();
    }

    fn services(&self, store: StoreService, tasks: &Tasks) -> Routes {
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
        let founding = FoundingServer::new(self.bootstrap.clone());
        let carrier = Carrier::new(Arc::clone(&self.serving), self.security.clone(), self.bootstrap.clone());
        let admin = ClusterAdminService::new(Arc::clone(&self.serving), self.bootstrap.clone(), carrier);
        let admin = ClusterAdminServer::new(admin).max_encoding_message_size(MAX_NODE_MESSAGE_BYTES);
        let backup = BackupServer::new(BackupService::new(Arc::clone(&self.serving), tasks.clone()));
        let user_data =
            UserDataService::new(Arc::clone(&self.serving), Arc::clone(&self.clean), self.bootstrap.dir().path());
        let user_data = UserDataServer::new(user_data).max_encoding_message_size(MAX_NODE_MESSAGE_BYTES);
        let check = |allowed| self.security.check(allowed);
        Routes::new(InterceptedService::new(store, check(ROUTERS)))
            .add_service(InterceptedService::new(registry, check(&[Tier::Router, Tier::Storage])))
            .add_service(InterceptedService::new(raft, check(&[Tier::Storage])))
            .add_service(InterceptedService::new(bootstrap, check(&[Tier::Storage])))
            .add_service(InterceptedService::new(founding, check(&[Tier::Operator])))
            .add_service(InterceptedService::new(admin, check(&[Tier::Operator])))
            .add_service(InterceptedService::new(backup, check(&[Tier::Operator])))
            .add_service(InterceptedService::new(user_data, check(&[Tier::Operator])))
    }

    /// From waiting for a place in a cluster to serving. An error stops the process.
    async fn start(self: Arc<Self>, tasks: &Tasks) -> Result<(), String> {
        let identity = self.bootstrap.settle(|why| self.not_ready(why)).await.map_err(|error| error.to_string())?;
        let cluster = identity.cluster.clone().unwrap_or_default();
        let map = shard_map(&identity).map_err(|error| error.to_string())?;
        self.not_ready("opening the shards");
        let this = Arc::clone(&self);
        let opening = tokio::task::spawn_blocking(move || this.open_engines(map));
        let engines = opening.await.map_err(|error| error.to_string())?.map_err(|error| self.told(&error))?;

        let links = RaftLinks::new(self.book.clone(), &cluster.id, self.security.clone(), tasks.clone());
        let links = links.ok_or("the cluster's name is not valid")?;
        let hosted = Arc::new(Hosted::default());
        let hosting = Arc::new(Hosting::new(hosting::HostingContext {
            config: self.config.clone(),
            dir: self.bootstrap.dir().path().to_owned(),
            log: Arc::clone(&self.log),
            engines,
            links: links.clone(),
            hosted: Arc::clone(&hosted),
            draining: Arc::clone(&self.draining),
            clean: Arc::clone(&self.clean),
            alarm: self.alarm.clone(),
            tasks: tasks.clone(),
        }));
        let (is_founded, begins_at) = (Level(identity.level) >= Level::CLUSTER, Level(cluster.level));
        let founder = if is_founded { 0 } else { identity.node };
        // The first start of a node that was added to a cluster.
        let own = cluster.members.iter().find(|member| member.node == identity.node);
        let added = own.filter(|_| is_founded).map_or(0, |member| member.registry_replica);
        let opened = self.open_replicas(Arc::clone(&hosting), founder, added, map).await?;
        let registry = opened.iter().find_map(Opened::registry).ok_or("this node has no replica of the registry")?;
        let implied = implied(&cluster, map, identity.node, self.bootstrap.own());
        let rows = rows(&registry.borrow(), &implied);
        self.book.follow(&rows);
        self.book.learn(identity.node, self.bootstrap.own());
        if rows.nodes().nth(1).is_some() && opened.iter().any(Opened::has_voted) {
            // This node may have answered a leader just before it stopped, and that leader may still rely on the answer
            // for the length of its lease: this node must not vote for another leader before that has passed.
            self.not_ready("waiting until leases from before the start have run out");
            sleep(Duration::from_millis(self.config.election_max_ms)).await;
        }
        let mut shards = Vec::with_capacity(opened.len());
        for replica in opened {
            shards.push(hosting.start(replica).await.map_err(|error| self.told(&error))?);
        }
        let load = Arc::new(NodeLoad::new(self.log.health()));
        self.raft.serve(cluster.id.clone(), Arc::clone(&hosted), Arc::clone(&load), tasks.clone());
        if identity.node == FOUNDER && !is_founded && !registry.borrow().cluster.has_rows() {
            let (bootstrap, told) = (self.bootstrap.clone(), cluster.clone());
            tasks.spawn("storage bootstrap", async move { bootstrap.tell_others(told).await });
            let hosts: BTreeMap<u64, Host> =
                rows.nodes().map(|node| (node.node, Host { node: node.node, address: node.address.clone() })).collect();
            for shard in &shards {
                shard.group().initialize(hosts.clone()).await.map_err(|error| error.to_string())?;
            }
        }
        if identity.put_back {
            self.not_ready("giving the timelines new epochs, as the data was put back from a copy");
            let timelines = put_back::renew_epochs(&hosted.all()).await?;
            self.bootstrap.epochs_are_new().await.map_err(|error| error.to_string())?;
            tracing::info!(timelines, "the data was put back from a copy: its timelines have new epochs");
        }
        let (id, own, space) = (cluster.id, identity.node, self.space.clone());
        let book = self.book.clone();
        let (leases, leads) = (Arc::clone(&self.leases), LeadsKnown::default());
        let cluster = Cluster {
            id,
            own,
            map,
            hosted,
            book,
            registry,
            implied,
            is_founded,
            begins_at,
            space,
            leases,
            links,
            load,
            leads,
        };
        self.serve(cluster, hosting, tasks);
        Ok(())
    }

    fn serve(self: Arc<Self>, cluster: Cluster, hosting: Arc<Hosting>, tasks: &Tasks) {
        tracing::info!(cluster = %cluster.id, node = cluster.own, shards = cluster.shards().len(), "storage serves");
        // The cluster is set once.
        let _ = self.serving.set(cluster);
        let serving = || Arc::clone(&self.serving);
        let retention = &self.config.retention;
        let retention = shard_clock::retention(retention);
        let (bootstrap, carrier) =
            (|| self.bootstrap.clone(), Carrier::new(serving(), self.security.clone(), self.bootstrap.clone()));
        tasks.spawn("replicas", hosting.follow(serving()));
        tasks.spawn("announcement", members::announce(serving(), bootstrap()));
        tasks.spawn("storage row", members::follow_rows(serving(), bootstrap(), carrier.clone()));
        tasks.spawn("reconcile", reconcile::run(serving(), bootstrap(), carrier));
        let (heartbeat, lease) = (Duration::from_millis(self.config.heartbeat_ms), raft::lease(&self.config));
        tasks.spawn("raft pulse", raft::beat(serving(), heartbeat, lease));
        tasks.spawn("disk space", self.space.clone().watch());
        watched::watch(&self.serving);
        tasks.spawn("sizes", watched::measure(self.bootstrap.dir().path().to_owned()));
        tasks.spawn("health", health::watch(self.log.health()));
        tasks.spawn("work of leaders", node_load::measure(serving()));
        tasks.spawn("loads of nodes", leads::follow(serving()));
        tasks.spawn("leader spread", placement::spread(serving(), Arc::clone(&self.draining)));
        tasks.spawn("lease clock", lease_clock::run(serving(), Arc::clone(&self.leases)));
        tasks.spawn("ring slots", ring_slots::run(serving()));
        tasks.spawn("log upkeep", log_upkeep::run(serving(), Arc::clone(&self.log), self.config.log_bytes));
        tasks.spawn("snapshot check", log_upkeep::check_snapshots(serving()));
        tasks.spawn("shard clocks", shard_clock::run(serving(), retention));
        tasks.spawn("retention", maintenance::retain(serving(), retention));
        tasks.spawn("sweep", sweep(serving()));
        tasks.spawn("erasing", erasing::run(serving()));
        if let Some(engines) = self.engines.get() {
            let (engines, log) = (Arc::clone(engines), Arc::clone(&self.log));
            tasks.spawn("cleansing", cleansing::run(serving(), engines, log, Arc::clone(&self.clean)));
        }
        tasks.spawn("storage readiness", self.watch_readiness());
    }

    async fn open_replicas(
        &self,
        hosting: Arc<Hosting>,
        founder: u64,
        added: u64,
        map: ShardMap,
    ) -> Result<Vec<Opened>, String> {
        let log = Arc::clone(&self.log);
        let opening = tokio::task::spawn_blocking(move || {
            let replicas = hosting::at_start(&log, founder, added, map.all())
                .map_err(|source| StartError::Machine { shard: ShardId::REGISTRY, source })?;
            replicas.into_iter().map(|(shard, replica)| hosting.open(shard, replica)).collect::<Result<_, StartError>>()
        });
        opening.await.map_err(|error| error.to_string())?.map_err(|error| self.told(&error))
    }
}

/// Stands in for the rows of the cluster until the registry has them: `own` is this node, which may have moved to `address`.
fn implied(cluster: &pb::Cluster, map: ShardMap, own: u64, address: &str) -> ClusterRows {
    let member = |member: &pb::Member| StorageNode {
        node: member.node,
        disk: member.disk.clone(),
        address: if member.node == own { address.to_owned() } else { member.address.clone() },
        level: Level::BEFORE.0,
        ..StorageNode::default()
    };
    ClusterRows::founded(cluster.members.iter().map(member).collect(), map)
}
