//! `carillon repair`: looks for damage in the data folder of a stopped node, and puts aside what can be had again: the
//! engines from the node's own snapshots and log, everything else from the other nodes.

use std::{
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use carillon_proto::{ShardId, ShardKind, ShardMap, pb::raft::LogId};

use crate::{
    OpenError,
    damage::{Alarm, is_damage},
    engine::{Caches, DIRECTORY, Engines, TIMELINE},
    identity::{DAMAGED, DataDir, IdentityError},
    log::{Log, LogOptions},
    snapshot::{self, SnapshotDir},
};

/// Where in the data folder damaged parts are put, each time with the next number.
const ASIDE: &str = "aside-";
/// Kept back for a start on a full disk.
const BALLAST: &str = "ballast";
const LOCK: &str = "lock";

/// What was found in a data folder.
#[derive(Debug, PartialEq, Eq)]
pub struct Repair {
    /// What is damaged, each in a sentence.
    pub found: Vec<String>,
    pub remedy: Remedy,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing is damaged: the node may start.
    Nothing,
    /// The next start makes what was damaged from the node's own snapshots and log.
    Rebuild,
    /// The votes of this node can't be trusted any more: the folder has to begin empty, as that of a new node. The number
    /// of the node whose place it takes is `None` if it can't be read.
    Replace { node: Option<u64> },
}

/// Parts of a data folder that are damaged, or made anew, by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Votes and acknowledged entries.
    Whole,
    Engine(ShardKind),
    Snapshot(ShardId),
}

/// A replica on this disk, as far as its log tells.
struct Replica {
    shard: ShardId,
    /// The last entry that the log no longer has.
    purged: Option<LogId>,
}

/// Looks at everything in the data folder of a stopped node, and puts what is damaged aside unless `look_only`. Blocking.
pub fn repair(data_dir: &Path, look_only: bool) -> Result<Repair, OpenError> {
    let failed = |error: &dyn fmt::Display| OpenError::Disk(error.to_string());
    if !data_dir.exists() {
        return Err(failed(&format!("there is no data folder {}", data_dir.display())));
    }
    let dir = DataDir::open(data_dir).map_err(|error| failed(&error))?;
    let Examined { node, alone, replicas, damage, snapshots } = examine(&dir).map_err(|error| failed(&error))?;
    let parts: Vec<_> = damage.iter().map(|(part, _)| *part).collect();
    let remedy = match remedy(&parts, &replicas, &snapshots) {
        Way::Nothing => Remedy::Nothing,
        Way::Rebuild => Remedy::Rebuild,
        Way::Replace => Remedy::Replace { node },
    };
    let found: Vec<_> = damage.into_iter().map(|(_, why)| why).collect();
    if matches!(remedy, Remedy::Replace { .. }) && alone {
        let why = found.join("; ");
        return Err(failed(&format!("{why}. No other node has this data: restore it from a backup")));
    }
    if !look_only {
        put_aside(data_dir, &remedy, &parts).map_err(|error| failed(&error))?;
    }
    Ok(Repair { found, remedy })
}

struct Examined {
    node: Option<u64>,
    /// True if no other node has a copy.
    alone: bool,
    replicas: Vec<Replica>,
    damage: Vec<(Part, String)>,
    /// How far the sound snapshots reach.
    snapshots: Vec<(ShardId, Option<LogId>)>,
}

fn examine(dir: &DataDir) -> Result<Examined, Box<dyn std::error::Error>> {
    let mut examined =
        Examined { node: None, alone: false, replicas: Vec::new(), damage: Vec::new(), snapshots: Vec::new() };
    let identity = match dir.identity() {
        Ok(identity) => identity,
        Err(error @ (IdentityError::Damaged(_) | IdentityError::NoLog { .. } | IdentityError::Orphan { .. })) => {
            examined.damage.push((Part::Whole, error.to_string()));
            return Ok(examined);
        }
        Err(error) => return Err(error.into()),
    };
    let Some(cluster) = identity.cluster else { return Ok(examined) };
    examined.node = Some(identity.node);
    examined.alone = cluster.members.len() < 2;
    let map = ShardMap {
        directory: u16::try_from(cluster.directory_shards)?,
        timeline: u16::try_from(cluster.timeline_shards)?,
    };
    let folder = dir.path();
    match replicas(&folder.join("log"), map) {
        Ok(replicas) => examined.replicas = replicas,
        Err(error) if is_damage(&error) => {
            examined.damage.push((Part::Whole, error.to_string()));
            return Ok(examined);
        }
        Err(error) => return Err(error.into()),
    }
    for Replica { shard, .. } in &examined.replicas {
        match snapshot(folder, *shard) {
            Ok(None) => {}
            Ok(Some(upto)) => examined.snapshots.push((*shard, upto)),
            Err(error) if is_damage(&error) => {
                examined.damage.push((Part::Snapshot(*shard), format!("snapshot of shard {shard}: {error}")));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mib = 1 << 20;
    let caches =
        Caches { directory_bytes: 64 * mib, timeline_bytes: 64 * mib, timeline_files: 256, memtables_bytes: 64 * mib };
    for (kind, error) in Engines::check(folder, map, caches)? {
        examined.damage.push((Part::Engine(kind), error.to_string()));
    }
    Ok(examined)
}

/// Reads the whole log.
fn replicas(path: &Path, map: ShardMap) -> io::Result<Vec<Replica>> {
    let log = Log::open(path, LogOptions::TO_BE_READ, Alarm::default())?;
    let read = || {
        let mut replicas = Vec::new();
        for shard in map.all() {
            // Folders from before replicas had ids do not name them.
            if log.replica(shard)?.is_none_or(|here| here.replica != 0) {
                let (purged, _) = log.shard(shard)?.bounds();
                replicas.push(Replica { shard, purged });
            }
        }
        Ok(replicas)
    };
    let replicas = read();
    log.end();
    replicas
}

/// How far the snapshot of a shard reaches; `None` if there is none. Reads all of it.
fn snapshot(folder: &Path, shard: ShardId) -> io::Result<Option<Option<LogId>>> {
    let Some((meta, file)) = SnapshotDir::of(folder, shard)?.current()? else {
        return Ok(None);
    };
    file.verify()?;
    Ok(Some(meta.last_log_id))
}

#[derive(Debug, PartialEq, Eq)]
enum Way {
    Nothing,
    Rebuild,
    Replace,
}

fn remedy(damaged: &[Part], replicas: &[Replica], snapshots: &[(ShardId, Option<LogId>)]) -> Way {
    // The log begins where the snapshot ends, or before.
    let is_covered = |replica: &Replica| {
        let reach = snapshots.iter().find(|(shard, _)| *shard == replica.shard).and_then(|(_, upto)| *upto);
        replica.purged.map(|id| id.index) <= reach.map(|id| id.index)
    };
    let is_had_again = |part: &Part| match part {
        Part::Whole => false,
        Part::Engine(kind) => replicas.iter().filter(|replica| replica.shard.kind == *kind).all(is_covered),
        // The engine has everything that is in it.
        Part::Snapshot(shard) => !damaged.contains(&Part::Engine(shard.kind)),
    };
    match damaged {
        [] => Way::Nothing,
        parts if parts.iter().all(is_had_again) => Way::Rebuild,
        _ => Way::Replace,
    }
}

/// An interruption leaves the mark, so that it is done again.
fn put_aside(data_dir: &Path, remedy: &Remedy, damaged: &[Part]) -> io::Result<()> {
    let mut names: Vec<PathBuf> = Vec::new();
    match remedy {
        Remedy::Nothing => {}
        Remedy::Rebuild => {
            for part in damaged {
                match part {
                    Part::Whole => {}
                    Part::Engine(kind) => {
                        let name = if *kind == ShardKind::Directory { DIRECTORY } else { TIMELINE };
                        names.extend([name.into(), Path::new(name).with_extension("mark")]);
                    }
                    Part::Snapshot(shard) => names.push(Path::new(snapshot::FOLDER).join(format!("{shard}.snapshot"))),
                }
            }
        }
        Remedy::Replace { .. } => {
            for entry in fs::read_dir(data_dir)? {
                let name = entry?.file_name();
                let keeps = [LOCK, DAMAGED].iter().any(|kept| name == *kept);
                if name == BALLAST {
                    fs::remove_file(data_dir.join(name))?;
                } else if !keeps && !name.to_string_lossy().starts_with(ASIDE) {
                    names.push(name.into());
                }
            }
        }
    }
    if !names.is_empty() {
        let aside = (1u32..).map(|number| data_dir.join(format!("{ASIDE}{number}"))).find(|path| !path.exists());
        let aside = aside.ok_or_else(|| io::Error::other("there is no number for another folder"))?;
        for name in names {
            let to = aside.join(&name);
            fs::create_dir_all(to.parent().unwrap_or(&aside))?;
            match fs::rename(data_dir.join(&name), to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        File::open(&aside)?.sync_all()?;
    }
    match fs::remove_file(data_dir.join(DAMAGED)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => File::open(data_dir)?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_had_again_from_sound_snapshots_and_everything_else_from_the_others() {
        let id = |index| Some(LogId { term: 1, node: 1, index });
        let (directory, timeline) = (ShardId::REGISTRY, ShardId { kind: ShardKind::Timeline, index: 0 });
        let replicas = [Replica { shard: directory, purged: id(10) }, Replica { shard: timeline, purged: None }];
        let way = |damaged: &[Part], snapshots: &[(ShardId, Option<LogId>)]| remedy(damaged, &replicas, snapshots);
        let (of_directories, of_timelines) = (Part::Engine(ShardKind::Directory), Part::Engine(ShardKind::Timeline));
        assert_eq!(way(&[], &[]), Way::Nothing);
        assert_eq!(way(&[Part::Whole], &[(directory, id(10))]), Way::Replace);
        assert_eq!(way(&[of_directories], &[(directory, id(10))]), Way::Rebuild);
        assert_eq!(way(&[of_directories], &[(directory, id(9))]), Way::Replace, "entries are missing in between");
        assert_eq!(way(&[of_directories], &[]), Way::Replace);
        assert_eq!(way(&[of_timelines], &[]), Way::Rebuild, "the log has everything");
        assert_eq!(way(&[Part::Snapshot(directory)], &[]), Way::Rebuild, "the engine has everything");
        assert_eq!(way(&[Part::Snapshot(directory), of_timelines], &[]), Way::Rebuild);
        assert_eq!(way(&[Part::Snapshot(directory), of_directories], &[]), Way::Replace);
    }
}
