//! What a data folder tells of itself, read without a lock and without writing anything: also while a node runs on it.

use std::{io, path::Path};

use carillon_proto::Level;

use crate::{
    bootstrap::BootstrapError,
    engine::{self, DIRECTORY, TIMELINE},
    identity::{damage_of, known},
    space,
};

/// What a node would find in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Folder {
    /// It does not exist, or has no identity yet.
    Empty,
    /// A node has been started on it, which has no place in a cluster yet.
    Waiting,
    Member(Membership),
}

/// The place of a folder's node in its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The cluster's id.
    pub cluster: String,
    pub node: u64,
    /// The highest level of the cluster that the node has seen.
    pub level: Level,
    /// The folder was restored from a copy, and the next start gives its timelines new epochs.
    pub put_back: bool,
}

/// In bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    pub total: u64,
    pub free: u64,
    /// With less than this free, sends are refused.
    pub needed: u64,
}

/// Reads identity and formats. The error says why a node would refuse to start on the folder, and what to do.
pub fn look(path: &Path) -> Result<Folder, String> {
    if let Some(found) = damage_of(path) {
        return Err(format!("data folder {}: {found}; run `carillon repair`", path.display()));
    }
    let Some(identity) = known(path).map_err(|error| error.to_string())? else { return Ok(Folder::Empty) };
    let (level, known) = (Level(identity.level), Level::OF_PROGRAM);
    if level > known {
        return Err(BootstrapError::TooOld { level, known }.to_string());
    }
    for folder in [DIRECTORY, TIMELINE] {
        engine::check_format(&path.join(folder)).map_err(|error| error.to_string())?;
    }
    let Some(cluster) = identity.cluster else { return Ok(Folder::Waiting) };
    let (node, put_back) = (identity.node, identity.put_back);
    Ok(Folder::Member(Membership { cluster: cluster.id, node, level, put_back }))
}

/// The space on the disk of this folder, which must exist.
pub fn disk_space(path: &Path, reserve_bytes: u64) -> io::Result<DiskSpace> {
    let measured = space::measure(path)?;
    Ok(DiskSpace { total: measured.total, free: measured.free, needed: space::mark(measured, reserve_bytes) })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use carillon_proto::pb::raft::{Cluster, Identity};

    use super::*;
    use crate::identity::{DataDir, mark_damage};

    #[test]
    fn a_folder_tells_what_it_is_while_a_node_has_it_open() {
        let above = tempfile::tempdir().expect("a folder");
        let path = above.path().join("storage");
        assert_eq!(look(&path), Ok(Folder::Empty));
        assert!(!path.exists(), "looking makes nothing");
        let open = DataDir::open(&path).expect("opens");
        assert_eq!(look(&path), Ok(Folder::Empty));
        let identity = open.identity().expect("is made");
        assert_eq!(look(&path), Ok(Folder::Waiting));
        let cluster = Some(Cluster { id: "c1".to_owned(), ..Cluster::default() });
        let member = Identity { cluster, node: 3, level: 2, ..identity };
        open.write(&member).expect("writes");
        let refused = look(&path).expect_err("the log is missing");
        assert!(refused.contains("lacks the log"), "{refused}");
        fs::create_dir(path.join("log")).expect("makes");
        let place = Membership { cluster: "c1".to_owned(), node: 3, level: Level(2), put_back: false };
        assert_eq!(look(&path), Ok(Folder::Member(place)));
    }

    #[test]
    fn what_a_node_would_refuse_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        let open = DataDir::open(path).expect("opens");
        let identity = open.identity().expect("is made");
        let refused = || look(path).expect_err("refused");
        open.write(&Identity { level: Level::OF_PROGRAM.0 + 1, ..identity.clone() }).expect("writes");
        assert!(refused().contains("is at level"), "{}", refused());
        open.write(&identity).expect("writes");
        fs::write(path.join("timeline.mark"), "format 99\nclosed\n").expect("writes");
        assert!(refused().contains("format 99"), "{}", refused());
        fs::remove_file(path.join("timeline.mark")).expect("removes");
        mark_damage(path, "raft log is damaged: entry 7");
        assert!(refused().contains("entry 7"), "{}", refused());
    }

    #[test]
    fn a_small_disk_needs_less() {
        let folder = tempfile::tempdir().expect("a folder");
        let space = disk_space(folder.path(), u64::MAX).expect("is measured");
        assert_eq!(space.needed, space.total / 5);
        assert_eq!(disk_space(folder.path(), 1).expect("is measured").needed, 1);
    }
}
