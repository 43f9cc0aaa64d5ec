//! Makes the data folder of a cluster of one node out of what stopped nodes have left: for a cluster that has lost a
//! majority of its nodes for good.
//!
//! Of each shard the replica is taken whose log reaches furthest. Whatever was acknowledged by nodes that are lost alone is
//! lost. The folders of the stopped nodes are left as they are, but for what a start would do to them, too.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

use carillon_proto::{Level, ShardId, ShardMap, pb::raft::LogId};
use tokio::runtime::Handle;

use super::restore::{Restore, RestoreError, Restored};
use crate::{
    config::StorageConfig,
    damage::Alarm,
    engine::Engines,
    hosting,
    identity::{DataDir, IDENTITY},
    log::{Log, LogOptions, ShardLog},
    raft,
    shard::Reader,
    snapshot::SnapshotDir,
};

/// A data folder was made out of those of stopped nodes.
#[derive(Debug, Clone)]
pub struct Recovered {
    pub restored: Restored,
    pub taken: Vec<Taken>,
}

/// Where a shard was taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub shard: ShardId,
    pub folder: PathBuf,
    /// The last entry of its log there.
    pub index: u64,
}

/// The data folder of a stopped node.
struct Remains {
    dir: DataDir,
    cluster: String,
    map: ShardMap,
    level: Level,
    log: Log,
    replicas: BTreeMap<ShardId, Replica>,
}

struct Replica {
    log: ShardLog,
    reach: Reach,
}

/// Term, node and index of the last entry. Of two logs, the one with the greater value has everything that was committed in
/// the other one.
type Reach = (u64, u64, u64);

/// A replica that has applied everything in its log.
struct Copy {
    reader: Reader,
    folder: PathBuf,
    index: u64,
}

/// Makes the folder `config.data_dir` out of those in `from`. `runtime` runs elsewhere. Blocking.
pub fn recover(from: &[PathBuf], config: &StorageConfig, runtime: &Handle) -> Result<Recovered, RestoreError> {
    let mut remains = from.iter().map(|path| Remains::open(path)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = remains.first() else {
        return Err(RestoreError::Refused("no data folder is named".to_owned()));
    };
    let (map, cluster) = (first.map, first.cluster.clone());
    if let Some(other) = remains.iter().find(|other| (other.map, &other.cluster) != (map, &cluster)) {
        let (first, other) = (first.dir.path().display(), other.dir.path().display());
        return Err(RestoreError::Refused(format!("{first} and {other} are not of one cluster")));
    }
    let mut furthest: BTreeMap<ShardId, (Reach, usize)> = BTreeMap::new();
    for (number, remains) in remains.iter().enumerate() {
        for (shard, replica) in &remains.replicas {
            let known = furthest.entry(*shard).or_insert((replica.reach, number));
            *known = (*known).max((replica.reach, number));
        }
    }
    let missing = map.all().filter(|shard| !furthest.contains_key(shard)).map(|shard| shard.to_string());
    let missing: Vec<String> = missing.collect();
    if !missing.is_empty() {
        return Err(RestoreError::Refused(format!(
            "these folders have no replica of {}: name those of more nodes, or restore a backup",
            missing.join(", ")
        )));
    }
    let mut copies = BTreeMap::new();
    let mut level = Level::default();
    for (number, remains) in remains.iter_mut().enumerate() {
        level = level.max(remains.level);
        let wanted: Vec<ShardId> =
            furthest.iter().filter(|(_, (_, of))| *of == number).map(|(shard, _)| *shard).collect();
        if !wanted.is_empty() {
            copies.extend(remains.copies(wanted, config, runtime)?);
        }
    }
    let level = copies.values().map(|copy| copy.reader.level()).fold(level, Level::max);
    // Nobody knows for how long a replica was behind the others.
    let mut restore = Restore::begin_with(config, level, map, u64::MAX)?;
    let mut taken = Vec::new();
    for (shard, Copy { reader, folder, index }) in copies {
        let records = match &reader {
            Reader::Directory(reader) => reader.copy(),
            Reader::Timeline(reader) => reader.copy(),
        };
        let (_, mut records) = records.map_err(|error| unread(&folder, &error))?;
        restore.records(shard, index, 0, &mut records)?;
        taken.push(Taken { shard, folder, index });
    }
    let restored = restore.finish(runtime)?;
    // The folders stay locked until here.
    for Remains { log, replicas, .. } in remains {
        drop(replicas);
        log.end();
    }
    Ok(Recovered { restored, taken })
}

impl Remains {
    fn open(path: &Path) -> Result<Self, RestoreError> {
        let refused = |why: &dyn fmt::Display| RestoreError::Refused(format!("{}: {why}", path.display()));
        // Nothing is written to a folder that is named by mistake.
        if !path.join(IDENTITY).exists() {
            return Err(refused(&"there is no data folder of a storage node"));
        }
        let dir = DataDir::open(path).map_err(|error| refused(&error))?;
        if let Some(found) = dir.damage() {
            return Err(refused(&format!("{found}. Run `carillon repair` first")));
        }
        let identity = dir.identity().map_err(|error| refused(&error))?;
        let cluster = identity.cluster.ok_or_else(|| refused(&"it is of no cluster"))?;
        let shards = |count: u32| u16::try_from(count).map_err(|_| refused(&"it makes no sense"));
        let map = ShardMap { directory: shards(cluster.directory_shards)?, timeline: shards(cluster.timeline_shards)? };
        let log = Log::open(&path.join("log"), LogOptions::TO_BE_READ, Alarm::default())
            .map_err(|error| unread(path, &error))?;
        let mut replicas = BTreeMap::new();
        for shard in map.all() {
            let here = log.replica(shard).map_err(|error| unread(path, &error))?;
            // Folders from before replicas had ids do not name them.
            if here.is_some_and(|here| here.replica == 0) {
                continue;
            }
            let shard_log = log.shard(shard).map_err(|error| unread(path, &error))?;
            let (purged, last) = shard_log.bounds();
            // A replica that has nothing was to be filled by the others.
            if let Some(LogId { term, node, index }) = last.or(purged) {
                replicas.insert(shard, Replica { log: shard_log, reach: (term, node, index) });
            }
        }
        Ok(Self { dir, cluster: cluster.id, map, level: Level(identity.level), log, replicas })
    }

    /// Opens these replicas, and applies what is in their logs.
    fn copies(
        &mut self,
        wanted: Vec<ShardId>,
        config: &StorageConfig,
        runtime: &Handle,
    ) -> Result<BTreeMap<ShardId, Copy>, RestoreError> {
        let path = self.dir.path();
        let engines = Engines::open(path, self.map, config.caches())
            .map_err(|error| RestoreError::Failed(format!("{}: {error}", path.display())))?;
        let mut copies = BTreeMap::new();
        for shard in wanted {
            let Some(Replica { log, .. }) = self.replicas.remove(&shard) else { continue };
            let copy = || -> io::Result<Option<Copy>> {
                let (machine, reader) = hosting::machine(&engines, shard)?;
                let snapshots = SnapshotDir::of(path, shard)?;
                let last = runtime.block_on(raft::catch_up(shard, machine, snapshots, log))?;
                Ok(last.map(|last| Copy { reader, folder: path.to_owned(), index: last.index }))
            };
            let copy = copy().map_err(|error| unread(path, &error))?;
            let copy = copy
                .ok_or_else(|| RestoreError::Refused(format!("{}: the replica of {shard} is empty", path.display())))?;
            copies.insert(shard, copy);
        }
        Ok(copies)
    }
}

fn unread(folder: &Path, error: &io::Error) -> RestoreError {
    RestoreError::Failed(format!("{}: {error}", folder.display()))
}
