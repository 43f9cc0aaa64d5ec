//! Opening a storage node: its disk and its listener.

use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    sync::{Arc, OnceLock},
};

use carillon_proto::{
    Level, Readiness, ShardMap,
    pb::raft::Identity,
    peer::{PeerSecurity, Tier},
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::watch};

use super::{Node, OpenError, Storage};
use crate::{
    addresses::AddressBook,
    bootstrap::{Bootstrap, BootstrapError, Settings},
    cleansing::Clean,
    cluster::Serving,
    config::StorageConfig,
    damage::{Alarm, is_damage},
    engine::Engines,
    identity::{self, DataDir},
    log::{Log, LogOptions},
    raft::RaftService,
    space::{self, Space},
};

/// Size at which a file of the log is closed.
const LOG_FILE_BYTES: RangeInclusive<u64> = 1 << 20..=64 << 20;

impl Storage {
    /// Opens the disk and binds the listener. Serves nothing yet.
    pub async fn open(config: StorageConfig, security: PeerSecurity) -> Result<Self, OpenError> {
        Self::open_knowing(config, security, Level::OF_PROGRAM).await
    }

    /// Like `open`, as a program that reads another level than this one.
    #[cfg(feature = "planted-bugs")]
    pub async fn open_at_level(config: StorageConfig, security: PeerSecurity, known: Level) -> Result<Self, OpenError> {
        Self::open_knowing(config, security, known).await
    }

    async fn open_knowing(config: StorageConfig, security: PeerSecurity, known: Level) -> Result<Self, OpenError> {
        config.validate()?;
        let security = security.of_tier(Tier::Storage)?;
        let listener = TcpListener::bind(config.listen).await;
        let listener = listener.map_err(|source| OpenError::Listen { address: config.listen, source })?;
        let address = listener.local_addr().map_err(|source| OpenError::Listen { address: config.listen, source })?;
        let opening = tokio::task::spawn_blocking(move || Node::open(config, security, address, known));
        let node = opening.await.map_err(|error| OpenError::Disk(error.to_string()))??;
        let ready = node.tell.subscribe();
        Ok(Self { address, ready, node: Arc::new(node), listener: Mutex::new(Some(listener)) })
    }
}

impl Node {
    /// Blocking.
    fn open(
        config: StorageConfig,
        security: PeerSecurity,
        address: SocketAddr,
        known: Level,
    ) -> Result<Self, OpenError> {
        space::make_room(&config.data_dir);
        let dir = DataDir::open(&config.data_dir).map_err(|error| OpenError::Disk(error.to_string()))?;
        let path = config.data_dir.clone();
        let disk = |error: &(dyn std::error::Error + 'static)| {
            if !is_damage(error) {
                return OpenError::Disk(error.to_string());
            }
            // The next start refuses, too, even if it would not notice.
            identity::mark_damage(&path, &error.to_string());
            OpenError::Damaged(error.to_string())
        };
        if let Some(found) = dir.damage() {
            return Err(OpenError::Damaged(format!("data folder {}: {found}", path.display())));
        }
        if dir.runs() {
            tracing::info!("the node was killed the last time: writes that were not finished then are dropped");
        }
        let space = Space::open(dir.path(), config.disk_reserve_bytes);
        let identity = dir.identity().map_err(|error| disk(&error))?;
        let (book, serving) = (AddressBook::new(), Arc::<Serving>::default());
        let settings = Settings {
            security: security.clone(),
            own: config.advertised_or(address),
            members: config.members.clone(),
            directory_shards: config.directory_shards,
            timeline_shards: config.timeline_shards,
            zone: config.zone.clone(),
            known,
            book: book.clone(),
            serving: Arc::clone(&serving),
        };
        let file_bytes = (config.log_bytes / 16).clamp(*LOG_FILE_BYTES.start(), *LOG_FILE_BYTES.end());
        let options = LogOptions {
            file_bytes,
            // `log_upkeep` decides when to purge, because it knows what is kept.
            purge_bytes: file_bytes.max(config.log_bytes / 2),
            cache_bytes: usize::try_from(config.log_cache_bytes).unwrap_or(usize::MAX),
        };
        let (log, alarm) = (dir.path().join("log"), Alarm::default());
        let bootstrap = Bootstrap::new(dir, identity, settings).map_err(|error| disk(&error))?;
        let log = Log::open(&log, options, alarm.clone()).map_err(|error| disk(&error))?;
        let clean = Clean::open(&path).map_err(|error| OpenError::Disk(format!("{}: {error}", path.display())))?;
        let node = Self {
            config,
            space,
            security,
            bootstrap,
            log: Arc::new(log),
            engines: OnceLock::new(),
            clean: Arc::new(clean),
            book,
            #[cfg(feature = "planted-bugs")]
            known,
            raft: RaftService::default(),
            serving,
            leases: Arc::default(),
            draining: Arc::default(),
            alarm,
            tell: watch::Sender::new(Readiness::NotReady("starting".to_owned())),
        };
        if let Some(identity) = node.bootstrap.assigned() {
            node.open_engines(shard_map(&identity).map_err(|error| disk(&error))?).map_err(|error| disk(&error))?;
        }
        Ok(node)
    }

    /// Blocking.
    pub(super) fn open_engines(&self, map: ShardMap) -> Result<Arc<Engines>, crate::engine::OpenError> {
        if let Some(engines) = self.engines.get() {
            return Ok(Arc::clone(engines));
        }
        let engines = Engines::open(self.bootstrap.dir().path(), map, self.config.caches())?;
        #[cfg(feature = "planted-bugs")]
        let engines = engines.knowing(self.known);
        // Opened by one task only.
        Ok(Arc::clone(self.engines.get_or_init(|| Arc::new(engines))))
    }
}

pub(super) fn shard_map(identity: &Identity) -> Result<ShardMap, BootstrapError> {
    let cluster = identity.cluster.as_ref().ok_or(BootstrapError::NoOwnMember)?;
    let count = |shards: u32| u16::try_from(shards).map_err(|_| BootstrapError::NoOwnMember);
    Ok(ShardMap { directory: count(cluster.directory_shards)?, timeline: count(cluster.timeline_shards)? })
}
