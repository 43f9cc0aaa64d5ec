//! The identity of this node: the file `identity` beside its data.
//!
//! Layout: the line `carillon storage identity`, then length (u32 little endian), CRC-32 (u32 little endian) and bytes
//! of an encoded `carillon.raft.v1.Identity`. Its format is the oldest format whose releases understand the file: 3
//! once the cluster has a level, 2 while `put_back` is set, otherwise 1.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use carillon_proto::pb::raft::Identity;
use prost::Message as _;
use rand::RngExt as _;

use crate::damage::damaged;

const FORMAT: u32 = 3;
pub(crate) const IDENTITY: &str = "identity";
/// The file that says what was found to be damaged.
pub(crate) const DAMAGED: &str = "damaged";
const FIRST_LINE: &[u8] = b"carillon storage identity\n";

/// The content of the lock file while a node runs, and after it was killed.
const RUNS: &[u8] = b"runs";

/// The data folder. While this exists, it belongs to this process alone.
pub(crate) struct DataDir {
    path: PathBuf,
    /// The lock ends with the open file, however the process ends.
    lock: File,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("data folder {path} can't be used: {source}")]
    Folder { path: PathBuf, source: io::Error },
    #[error("data folder {0} is in use by another process: stop that one, or give this one a folder of its own")]
    InUse(PathBuf),
    #[error("file {path} can't be read or written: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Damaged(#[source] io::Error),
    #[error(
        "file {path} has format {found}, but this release knows {FORMAT}: run the release that wrote it or a newer one"
    )]
    Newer { path: PathBuf, found: u32 },
    #[error(
        "data folder {path} has data but no file identity: restore that file from a copy, or put the data aside with \
         `carillon repair`"
    )]
    Orphan { path: PathBuf },
    #[error(
        "data folder {path} lacks the log of a node that has its place in a cluster: its votes are gone, so it can't \
         come back as this node; `carillon repair` puts the rest aside, and it comes back as a new one"
    )]
    NoLog { path: PathBuf },
    #[error("data folder {path} is not that of a node of a cluster: there is nothing to put back")]
    NoNode { path: PathBuf },
    #[error(
        "data folder {path} is that of one of {members} nodes: a copy of it must not come back. The others may have counted on \
         votes and messages that it no longer has, so that accepted messages would be lost; they have all the data. Only a \
         node that is alone can be put back from a copy"
    )]
    NotAlone { path: PathBuf, members: usize },
}

/// Marks the data folder: no node starts on it before it was made whole. A disk that can't be written may be damaged
/// nowhere, so errors are ignored.
pub(crate) fn mark_damage(folder: &Path, found: &str) {
    let write = || {
        let mut file = File::create(folder.join(DAMAGED))?;
        writeln!(file, "{found}")?;
        file.sync_all()?;
        File::open(folder)?.sync_all()
    };
    if let Err(error) = write() {
        tracing::warn!(%error, "the data folder can't be marked as damaged");
    }
}

impl DataDir {
    pub(crate) fn open(path: &Path) -> Result<Self, IdentityError> {
        let folder = |source| IdentityError::Folder { path: path.to_owned(), source };
        make_private(path).map_err(folder)?;
        let lock = File::options().create(true).truncate(false).write(true).open(path.join("lock")).map_err(folder)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), lock }),
            Err(fs::TryLockError::WouldBlock) => Err(IdentityError::InUse(path.to_owned())),
            Err(fs::TryLockError::Error(source)) => Err(folder(source)),
        }
    }

    /// Marks that a node runs. True if the previous one was killed or lost power.
    pub(crate) fn runs(&self) -> bool {
        let killed = self.lock.metadata().is_ok_and(|meta| meta.len() > 0);
        // Errors are ignored: the disk may be full, and only a line of the log depends on this.
        let _ = self.lock.write_all_at(RUNS, 0);
        killed
    }

    /// Marks that the node has stopped in order.
    pub(crate) fn stopped(&self) {
        // Ignored for the same reason.
        let _ = self.lock.set_len(0);
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// See [`damage_of`].
    pub(crate) fn damage(&self) -> Option<String> {
        damage_of(&self.path)
    }

    /// The identity of this disk; a new one if the folder is empty.
    pub(crate) fn identity(&self) -> Result<Identity, IdentityError> {
        if let Some(identity) = known(&self.path)? {
            return Ok(identity);
        }
        let disk: [u8; 16] = rand::rng().random();
        self.write(&Identity { disk: disk.to_vec().into(), ..Identity::default() })
    }

    /// Marks that the data was restored from a copy: the next start gives its timelines new epochs.
    pub(crate) fn put_back(&self) -> Result<(), IdentityError> {
        let path = || self.path.clone();
        let identity = read(&self.path)?.ok_or_else(|| IdentityError::NoNode { path: path() })?;
        match identity.cluster.as_ref().map(|cluster| cluster.members.len()) {
            None => Err(IdentityError::NoNode { path: path() }),
            Some(1) => self.write(&Identity { put_back: true, ..identity }).map(drop),
            Some(members) => Err(IdentityError::NotAlone { path: path(), members }),
        }
    }

    /// Writes the file atomically; on disk when it returns. Returns the identity as written, with its format.
    pub(crate) fn write(&self, identity: &Identity) -> Result<Identity, IdentityError> {
        let identity = Identity { format: format_of(identity), reads_level: 0, ..identity.clone() };
        let encoded = identity.encode_to_vec();
        let write = |temporary: &Path| -> io::Result<()> {
            let mut file = File::create(temporary)?;
            file.write_all(FIRST_LINE)?;
            file.write_all(&(encoded.len() as u32).to_le_bytes())?;
            file.write_all(&crc32fast::hash(&encoded).to_le_bytes())?;
            file.write_all(&encoded)?;
            file.sync_all()?;
            fs::rename(temporary, self.file())?;
            File::open(&self.path)?.sync_all()
        };
        write(&self.path.join("identity.tmp")).map_err(|source| IdentityError::File { path: self.file(), source })?;
        Ok(identity)
    }

    fn file(&self) -> PathBuf {
        self.path.join(IDENTITY)
    }
}

/// What was found to be damaged in the folder, if the data was not made whole since.
pub(crate) fn damage_of(folder: &Path) -> Option<String> {
    match fs::read_to_string(folder.join(DAMAGED)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Ok(found) if !found.trim().is_empty() => Some(found.trim().to_owned()),
        _ => Some("something in it was found to be damaged".to_owned()),
    }
}

/// The identity of the folder's disk; `None` if it has none yet, and no data.
pub(crate) fn known(folder: &Path) -> Result<Option<Identity>, IdentityError> {
    let (has_log, path) = (folder.join("log").exists(), folder.to_owned());
    match read(folder)? {
        // The log is created before a node gets its place.
        Some(identity) if identity.cluster.is_some() && !has_log => Err(IdentityError::NoLog { path }),
        None if has_log => Err(IdentityError::Orphan { path }),
        identity => Ok(identity),
    }
}

fn read(folder: &Path) -> Result<Option<Identity>, IdentityError> {
    let path = folder.join(IDENTITY);
    let mut bytes = Vec::new();
    match File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IdentityError::File { path, source }),
    }
    let Some(identity) = decode(&bytes) else {
        let why = "its checksum is wrong, so nobody knows whose data this is";
        return Err(IdentityError::Damaged(damaged(format!("file {}", path.display()), why)));
    };
    if identity.format > FORMAT {
        return Err(IdentityError::Newer { path, found: identity.format });
    }
    Ok(Some(identity))
}

fn format_of(identity: &Identity) -> u32 {
    match (identity.level, identity.put_back) {
        (1.., _) => 3,
        (0, true) => 2,
        (0, false) => 1,
    }
}

/// Readable by this user only, whoever made the folder: it holds the messages of all users. A folder that belongs to
/// another user of the machine is left as it is.
fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0
        && let Err(error) = fs::set_permissions(path, Permissions::from_mode(mode & 0o700))
    {
        tracing::warn!(path = %path.display(), %error, "others can read the data folder, and this process can't change that");
    }
    Ok(())
}

fn decode(bytes: &[u8]) -> Option<Identity> {
    let rest = bytes.strip_prefix(FIRST_LINE)?;
    let (len, rest) = rest.split_first_chunk()?;
    let (crc, encoded) = rest.split_first_chunk()?;
    if encoded.len() != u32::from_le_bytes(*len) as usize || crc32fast::hash(encoded) != u32::from_le_bytes(*crc) {
        return None;
    }
    let identity = Identity::decode(encoded).ok()?;
    (identity.format > 0 && !identity.disk.is_empty()).then_some(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(folder.path()).expect("opens");
        let first = dir.identity().expect("is made");
        assert_eq!(first.disk.len(), 16);
        assert_eq!(dir.identity().expect("is read"), first);
        let assigned = Identity { node: 3, ..first };
        dir.write(&assigned).expect("writes");
        assert_eq!(dir.identity().expect("is read"), assigned);
    }

    #[test]
    fn a_stop_in_order_is_told_from_a_kill() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || DataDir::open(folder.path()).expect("opens");
        assert!(!open().runs(), "there was none before");
        let dir = open();
        assert!(dir.runs());
        dir.stopped();
        drop(dir);
        assert!(!open().runs());
    }

    #[test]
    fn the_folder_is_private_whoever_has_made_it() {
        let above = tempfile::tempdir().expect("a folder");
        let path = above.path().join("of/ours");
        let mode = || fs::metadata(&path).expect("is there").permissions().mode() & 0o777;
        drop(DataDir::open(&path).expect("opens"));
        assert_eq!(mode(), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("changes");
        drop(DataDir::open(&path).expect("opens"));
        assert_eq!(mode(), 0o700);
    }

    #[test]
    fn only_the_folder_of_a_node_that_is_alone_is_put_back() {
        use carillon_proto::pb::raft::{Cluster, Member};
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(folder.path()).expect("opens");
        assert!(matches!(dir.put_back(), Err(IdentityError::NoNode { .. })));
        let identity = dir.identity().expect("is made");
        assert!(matches!(dir.put_back(), Err(IdentityError::NoNode { .. })));
        let of = |members| Identity {
            cluster: Some(Cluster { members: vec![Member::default(); members], ..Cluster::default() }),
            ..identity.clone()
        };
        dir.write(&of(3)).expect("writes");
        let refused = dir.put_back().expect_err("two others may have counted on it").to_string();
        assert!(refused.contains("one of 3 nodes"), "{refused}");
        dir.write(&of(1)).expect("writes");
        dir.put_back().expect("it is alone");
        let put_back = Identity { put_back: true, format: 2, ..of(1) };
        assert_eq!(read(folder.path()).expect("reads"), Some(put_back));
        dir.write(&of(1)).expect("writes");
        assert_eq!(read(folder.path()).expect("reads"), Some(of(1)));
        dir.write(&Identity { level: 1, ..of(1) }).expect("writes");
        dir.put_back().expect("it is alone");
        let put_back = Identity { put_back: true, format: 3, level: 1, ..of(1) };
        assert_eq!(read(folder.path()).expect("reads"), Some(put_back), "no release before levels may open it");
    }

    #[test]
    fn a_folder_that_was_found_to_be_damaged_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(folder.path()).expect("opens");
        assert_eq!(dir.damage(), None);
        mark_damage(folder.path(), "raft log is damaged: entry 7");
        assert_eq!(dir.damage().as_deref(), Some("raft log is damaged: entry 7"));
        fs::write(folder.path().join(DAMAGED), [0xff]).expect("writes");
        assert!(dir.damage().is_some(), "whatever it says");
    }

    #[test]
    fn a_folder_in_use_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = DataDir::open(folder.path()).expect("opens");
        assert!(matches!(DataDir::open(folder.path()), Err(IdentityError::InUse(_))));
        drop(first);
        DataDir::open(folder.path()).expect("opens again");
    }

    #[test]
    fn damage_a_newer_format_and_data_without_identity_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::open(folder.path()).expect("opens");
        fs::create_dir(folder.path().join("log")).expect("makes");
        assert!(matches!(dir.identity(), Err(IdentityError::Orphan { .. })));
        fs::remove_dir(folder.path().join("log")).expect("removes");

        let identity = dir.identity().expect("is made");
        dir.write(&Identity { cluster: Some(Default::default()), ..identity.clone() }).expect("writes");
        assert!(matches!(dir.identity(), Err(IdentityError::NoLog { .. })));
        let bytes = fs::read(dir.file()).expect("reads");
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            fs::write(dir.file(), bytes).expect("writes");
            assert!(matches!(dir.identity(), Err(IdentityError::Damaged(_))), "byte {at}");
        }
        let newer = Identity { format: FORMAT + 1, ..identity }.encode_to_vec();
        let (length, sum) = ((newer.len() as u32).to_le_bytes(), crc32fast::hash(&newer).to_le_bytes());
        fs::write(dir.file(), [FIRST_LINE, &length, &sum, &newer].concat()).expect("writes");
        let error = dir.identity().expect_err("refused").to_string();
        assert!(error.contains("format 4") && error.contains("run the release"), "{error}");
    }
}
