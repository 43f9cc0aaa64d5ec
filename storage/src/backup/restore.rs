//! Makes the data folder of a cluster of one node out of the shards of a backup, or of stopped nodes.
//!
//! It is another cluster than the one that was copied, with an id of its own: nodes of the old cluster that still run
//! never take it for theirs. Nodes, placement, leases and sessions of the old cluster are left out. The logs begin
//! behind any index that the old cluster can have reached, because leases and incarnations are named by indexes: what
//! the old cluster named after the backup must not be named again.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use carillon_proto::{
    Level, ShardId, ShardKind, ShardMap,
    limits::ENTRY_COMMANDS,
    pb::{
        raft::{Cluster, Identity, LogId, Member, MemberNode, Membership, NodeSet, SnapshotMeta, StoredMembership},
        store::StorageNode,
    },
};
use prost::Message as _;
use rand::RngExt as _;
use tokio::runtime::Handle;

use super::{
    cut::{self, Mended, TimelineCopy},
    index_of,
};
use crate::{
    config::StorageConfig,
    damage::Alarm,
    engine::Engines,
    identity::DataDir,
    log::{Here, Log, LogOptions},
    machine::{ClusterRows, DirectoryMachine, DirectoryReader, Machine, Record, keys},
    raft::convert::{meta_from_pb, meta_to_pb},
    snapshot::{self, SnapshotDir},
};

/// The number of the node, and of its replicas.
const NODE: u64 = 1;
/// Entries that no cluster writes between a backup and its end.
const GAP: u64 = 1 << 32;
/// How long before the beginning of a backup a message can have one of its copies: longer than a send is tried, and than a
/// shard's clock may stand still between two advances.
const BEFORE_MS: u64 = 10 * 60 * 1000;
/// Says that the folder is being made. As long as it is there, nothing else in the folder is needed.
const MARK: &str = "restoring";
const LOCK: &str = "lock";
const LOG: &str = "log";

/// Why no data folder was made.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{0}")]
    Refused(String),
    #[error("it is damaged: {shard}: {source}")]
    Damaged { shard: ShardId, source: io::Error },
    #[error("it can't be read: {shard}: {source}")]
    Newer { shard: ShardId, source: io::Error },
    #[error("{0}")]
    Failed(String),
}

/// A data folder was made.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The id of the new cluster.
    pub cluster: String,
    pub mended: Mended,
}

/// A data folder that is being made. What was written is removed if it is not finished. All methods block.
pub struct Restore {
    dir: DataDir,
    /// Taken when the folder is finished or given up.
    making: Option<Making>,
}

struct Making {
    config: StorageConfig,
    map: ShardMap,
    level: Level,
    /// How long before the beginning messages may have one copy.
    before_ms: u64,
    cluster: String,
    disk: Vec<u8>,
    timelines: BTreeMap<ShardId, TimelineCopy>,
    directories: BTreeMap<ShardId, DirectoryCopy>,
    engines: Engines,
}

struct DirectoryCopy {
    machine: DirectoryMachine,
    reader: DirectoryReader,
    meta: SnapshotMeta,
}

impl Restore {
    /// Begins in `config.data_dir`, which must be empty. `level` and `map` are those of the cluster that was copied.
    pub fn begin(config: &StorageConfig, level: Level, map: ShardMap) -> Result<Self, RestoreError> {
        Self::begin_with(config, level, map, BEFORE_MS)
    }

    pub(super) fn begin_with(
        config: &StorageConfig,
        level: Level,
        map: ShardMap,
        before_ms: u64,
    ) -> Result<Self, RestoreError> {
        if level > Level::OF_PROGRAM {
            return Err(RestoreError::Refused(format!(
                "it is of a cluster at level {level}, but this program reads levels up to {}: run the release \
                 of that cluster, or a newer one",
                Level::OF_PROGRAM
            )));
        }
        if level < Level::CLUSTER {
            return Err(RestoreError::Refused("it is of a cluster without rows".to_owned()));
        }
        let failed = |error: &dyn std::fmt::Display| RestoreError::Failed(error.to_string());
        let dir = DataDir::open(&config.data_dir).map_err(|error| RestoreError::Refused(error.to_string()))?;
        let found = content(dir.path()).map_err(|error| failed(&error))?;
        let is_ours = found.iter().any(|name| name.ends_with(MARK));
        if !is_ours && !found.is_empty() {
            return Err(RestoreError::Refused(format!(
                "data folder {} is not empty: name another one, or empty it if its data is not wanted",
                dir.path().display()
            )));
        }
        let begin = || {
            fs::write(dir.path().join(MARK), [])?;
            fs::File::open(dir.path())?.sync_all()?;
            clear(dir.path())?;
            // A log without an identity: no node starts here before the folder is finished.
            fs::create_dir(dir.path().join(LOG))?;
            fs::File::open(dir.path())?.sync_all()
        };
        begin().map_err(|error| failed(&error))?;
        let engines = Engines::open(dir.path(), map, config.caches()).map_err(|error| failed(&error))?;
        let [cluster, disk]: [[u8; 16]; 2] = rand::rng().random();
        let making = Making {
            config: config.clone(),
            map,
            level,
            before_ms,
            cluster: cluster.iter().map(|byte| format!("{byte:02x}")).collect(),
            disk: disk.to_vec(),
            timelines: BTreeMap::new(),
            directories: BTreeMap::new(),
            engines,
        };
        Ok(Self { dir, making: Some(making) })
    }

    /// Takes the bytes of a shard. `after_ms`: how long after the beginning of the backup the shard was read.
    pub fn shard(&mut self, shard: ShardId, after_ms: u64, bytes: impl Read) -> Result<(), RestoreError> {
        let read = snapshot::read(bytes).and_then(|(group, meta, records)| {
            let index = index_of(shard, group, meta.last_log_id)?;
            Ok((index, records))
        });
        match read {
            Ok((index, mut records)) => self.records(shard, index, after_ms, &mut records),
            Err(source) => Err(refused(shard, source)),
        }
    }

    /// Takes the records of a shard. `index`: of the last entry that is in them.
    pub(super) fn records(
        &mut self,
        shard: ShardId,
        index: u64,
        after_ms: u64,
        records: &mut dyn Iterator<Item = Record>,
    ) -> Result<(), RestoreError> {
        let making = self.making.as_mut().ok_or_else(|| RestoreError::Failed("it is over".to_owned()))?;
        making.shard(shard, index, after_ms, records).map_err(|source| refused(shard, source))
    }

    /// Ends it when all shards were taken. From then on the folder is that of a storage node. `runtime` runs elsewhere.
    pub fn finish(mut self, runtime: &Handle) -> Result<Restored, RestoreError> {
        let making = self.making.as_mut().ok_or_else(|| RestoreError::Failed("it is over".to_owned()))?;
        let mended = making.mend(self.dir.path())?;
        let Some(Making { config, map, level, cluster, disk, timelines, directories, engines, before_ms: _ }) =
            self.making.take()
        else {
            return Err(RestoreError::Failed("it is over".to_owned()));
        };
        drop((timelines, directories, engines));
        let finished = make_node(
            &self.dir,
            &config,
            map,
            runtime,
            |members| Identity {
                disk: disk.clone().into(),
                cluster: Some(Cluster {
                    id: cluster.clone(),
                    directory_shards: map.directory.into(),
                    timeline_shards: map.timeline.into(),
                    members,
                    level: level.0,
                }),
                node: NODE,
                put_back: true,
                level: level.0,
                ..Identity::default()
            },
            &disk,
        );
        finished.map_err(|error| {
            // Said with the error that matters.
            let _ = clear(self.dir.path());
            RestoreError::Failed(error.to_string())
        })?;
        Ok(Restored { cluster, mended })
    }
}

fn refused(shard: ShardId, source: io::Error) -> RestoreError {
    match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => RestoreError::Damaged { shard, source },
        io::ErrorKind::Unsupported => RestoreError::Newer { shard, source },
        _ => RestoreError::Failed(format!("{shard} can't be restored: {source}")),
    }
}

/// The log, and last of all the identity.
fn make_node(
    dir: &DataDir,
    config: &StorageConfig,
    map: ShardMap,
    runtime: &Handle,
    identity: impl FnOnce(Vec<Member>) -> Identity,
    disk: &[u8],
) -> io::Result<()> {
    let options = LogOptions {
        file_bytes: 1 << 20,
        purge_bytes: 1 << 20,
        cache_bytes: config.log_cache_bytes.min(1 << 20) as usize,
    };
    let log = Log::open(&dir.path().join(LOG), options, Alarm::default())?;
    runtime.block_on(async {
        for shard in map.all() {
            log.set_replica(shard, Here { replica: NODE, gone: 0 }).await?;
        }
        log.close();
        log.ended().await;
        Ok::<_, io::Error>(())
    })?;
    fs::remove_file(dir.path().join(MARK))?;
    fs::File::open(dir.path())?.sync_all()?;
    let own = Member { node: NODE, address: String::new(), disk: disk.to_vec().into(), registry_replica: NODE };
    dir.write(&identity(vec![own])).map(drop).map_err(io::Error::other)
}

impl Drop for Restore {
    fn drop(&mut self) {
        if let Some(making) = self.making.take() {
            drop(making);
            if let Err(error) = clear(self.dir.path()).and_then(|()| fs::remove_file(self.dir.path().join(MARK))) {
                tracing::warn!(%error, "an unfinished data folder is left: the next attempt removes it");
            }
        }
    }
}

impl Making {
    fn shard(
        &mut self,
        shard: ShardId,
        index: u64,
        after_ms: u64,
        records: &mut dyn Iterator<Item = Record>,
    ) -> io::Result<()> {
        let index = index + GAP;
        let meta = self.meta(index);
        let applied = meta.encode_to_vec();
        let checked = records.map(|record: Record| -> Record {
            let (key, value) = record?;
            keys::check(shard.kind, &key, &value)?;
            Ok((key, value))
        });
        match shard.kind {
            ShardKind::Timeline => {
                let (mut machine, reader) = self.engines.timeline(shard)?;
                let mut checked = checked;
                machine.restore(&mut checked, &applied)?;
                let began_ms = reader.clock_ms()?.saturating_sub(after_ms);
                self.timelines.insert(shard, TimelineCopy { machine, reader, began_ms, applied, meta });
            }
            ShardKind::Directory => {
                let (mut machine, reader) = self.engines.directory(shard)?;
                let own = if shard == ShardId::REGISTRY { self.rows(index) } else { Vec::new() };
                let mut records = checked.filter(|record| !matches!(record, Ok((key, _)) if keys::is_of_nodes(key)));
                machine.restore(&mut records.by_ref().chain(own.into_iter().map(Ok)), &applied)?;
                self.directories.insert(shard, DirectoryCopy { machine, reader, meta });
            }
        }
        Ok(())
    }

    /// The state of a group of one replica that has applied up to this index, in no leader's term.
    fn meta(&self, index: u64) -> SnapshotMeta {
        let log_id = Some(LogId { term: 0, node: 0, index });
        let node = MemberNode { node: NODE, address: self.address(), host: NODE };
        let membership = Membership { configs: vec![NodeSet { nodes: vec![NODE] }], nodes: vec![node] };
        let last_membership = Some(StoredMembership { log_id, membership: Some(membership) });
        let meta = SnapshotMeta { last_log_id: log_id, last_membership, ..SnapshotMeta::default() };
        // As every node writes it, with its name.
        meta_from_pb(meta.clone()).map_or(meta, |known| meta_to_pb(&known))
    }

    /// The rows of the registry.
    fn rows(&self, index: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
        let node = StorageNode {
            node: NODE,
            disk: self.disk.clone().into(),
            address: self.address(),
            level: self.level.0,
            ..StorageNode::default()
        };
        let rows = ClusterRows::founded(vec![node], self.map);
        let nodes = rows.nodes().map(|node| (keys::storage_node(node.node).to_vec(), node.encode_to_vec()));
        let placed = rows.placement().iter();
        let placed = placed.map(|(shard, placement)| (keys::placement(*shard).to_vec(), placement.encode_to_vec()));
        // A lease up to this version that is not in the registry has ended.
        let version = index * ENTRY_COMMANDS as u64;
        let registry = (keys::REGISTRY.to_vec(), keys::numbers_value([0, version, version]).to_vec());
        nodes.chain(placed).chain([registry]).collect()
    }

    /// The node tells its own address when it starts; until then it is this one.
    fn address(&self) -> String {
        self.config.advertised_or(self.config.listen)
    }

    /// Puts the two copies of messages together, and writes a snapshot of each shard: the engines alone don't survive a
    /// power failure.
    fn mend(&mut self, dir: &Path) -> Result<Mended, RestoreError> {
        let failed = |error: io::Error| RestoreError::Failed(error.to_string());
        let restored = self.timelines.keys().chain(self.directories.keys());
        if let Some(missing) = self.map.all().find(|shard| !restored.clone().any(|restored| restored == shard)) {
            return Err(RestoreError::Refused(format!("{missing} is missing")));
        }
        let readers: BTreeMap<_, _> = self.directories.iter().map(|(shard, copy)| (*shard, &copy.reader)).collect();
        let mended = cut::mend(self.map, self.before_ms, &mut self.timelines, &readers).map_err(failed)?;
        let write = |shard: ShardId, machine: &mut dyn Machine, meta: &SnapshotMeta| {
            machine.syncer()()?;
            let snapshots = SnapshotDir::of(dir, shard)?;
            snapshots.write(meta.clone(), &mut machine.snapshot()?).map(drop)
        };
        for (shard, copy) in &mut self.timelines {
            write(*shard, &mut copy.machine, &copy.meta).map_err(failed)?;
        }
        for (shard, copy) in &mut self.directories {
            write(*shard, &mut copy.machine, &copy.meta).map_err(failed)?;
        }
        Ok(mended)
    }
}

/// What is in the folder, but for its lock.
fn content(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
    paths.filter(|path| !matches!(path, Ok(path) if path.ends_with(LOCK))).collect()
}

/// Removes everything but the lock and the mark.
fn clear(dir: &Path) -> io::Result<()> {
    for path in content(dir)?.into_iter().filter(|path| !path.ends_with(MARK)) {
        if path.is_dir() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
    }
    Ok(())
}
