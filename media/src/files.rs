//! The bytes of files, in chunks of one size: objects `SHARD/ID/NUMBER`. A chunk is written once and never again, so that a file does not
//! change after it is whole, and an upload goes on at whichever gateway behind the last whole chunk. Bytes that a file is instead of those that
//! were uploaded are `SHARD/ID/HASH-NUMBER`.

use std::{
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use carillon_proto::MediaId;
use object_store::Error;

use crate::{ConnectorError, Folder, bucket::Bucket};

/// Of each chunk but the last one. What is kept depends on it, so it never changes.
pub const CHUNK_BYTES: u64 = 4 << 20;
/// Deadline of one operation with its repetitions.
pub(crate) const OPERATION: Duration = Duration::from_secs(60);

/// Selects one of the two forms in which a file may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Uploaded,
    /// The bytes whose SHA-256 begins like this.
    Other([u8; 8]),
}

impl Version {
    /// As the row of a file says in `sha256`; `None` if that is no hash.
    pub fn of_row(sha256: &[u8]) -> Option<Self> {
        match sha256.first_chunk() {
            _ if sha256.is_empty() => Some(Self::Uploaded),
            Some(first) if sha256.len() == 32 => Some(Self::Other(*first)),
            _ => None,
        }
    }
}

/// How many bytes of a file are in whole chunks from the beginning on.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    pub uploaded_bytes: u64,
    /// The stripped picture, if one was made: the beginning of its SHA-256, and its size.
    pub other: Option<([u8; 8], u64)>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Files(Place);

#[derive(Clone)]
enum Place {
    Folder(Folder),
    Bucket(Bucket),
}

/// Why bytes of a file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("the folder {folder} can't be used: {1}", folder = .0.display())]
    Folder(PathBuf, String),
    #[error("{file} can't be used: {1}", file = .0.display())]
    Credentials(PathBuf, String),
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    #[error(
        "an endpoint with http:// would show to others what is kept: let it be https://, or set AWS_ALLOW_HTTP=true"
    )]
    Plain,
    /// The place holds another chunk.
    #[error("other bytes are kept there already, and do not change any more")]
    Other,
    #[error("it is not there")]
    NotFound,
    #[error("it took longer than {} s", OPERATION.as_secs())]
    Late,
    /// Nothing is removed from it and nothing is put there.
    #[error("the folder for them is away")]
    Away,
    #[error(transparent)]
    Store(Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Error> for FilesError {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound { .. } => Self::NotFound,
            error => Self::Store(error),
        }
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Folder(folder) => write!(f, "Files in {folder:?}"),
            Place::Bucket(bucket) => write!(f, "Files in {bucket:?}"),
        }
    }
}

impl Files {
    /// A missing folder is made, for its owner alone.
    pub fn in_folder(folder: &Path) -> Result<Self, FilesError> {
        let opened = Folder::new(folder);
        opened
            .map(|folder| Self(Place::Folder(folder)))
            .map_err(|error| FilesError::Folder(folder.to_owned(), error.to_string()))
    }

    /// `place`: s3://BUCKET/PREFIX. What is empty or `None` is taken from the environment. `credentials`: id and secret of the key.
    pub(crate) fn in_bucket(
        place: &str,
        endpoint: &str,
        region: &str,
        credentials: Option<(String, String)>,
    ) -> Result<Self, FilesError> {
        Bucket::new(place, endpoint, region, credentials).map(|bucket| Self(Place::Bucket(bucket)))
    }

    /// `None`: they are kept elsewhere.
    pub fn folder(&self) -> Option<&Folder> {
        match &self.0 {
            Place::Folder(folder) => Some(folder),
            Place::Bucket(_) => None,
        }
    }

    /// How many bytes of a file are kept.
    pub async fn kept(&self, id: &MediaId) -> Result<Kept, FilesError> {
        let listed = match &self.0 {
            Place::Folder(folder) => folder.list(*id).await?,
            Place::Bucket(bucket) => bucket.list(id).await?,
        };
        let mut chunks: Vec<_> = listed.iter().filter_map(|(name, size)| Some((parsed(name)?, size))).collect();
        chunks.sort_unstable();
        let mut kept = Kept::default();
        for of in chunks.chunk_by(|((one, _), _), ((other, _), _)| one == other) {
            let whole = of.iter().zip(0..).take_while(|(((_, number), _), expected)| number == expected);
            let bytes = whole.map(|((_, size), _)| *size).sum();
            match of[0].0.0 {
                None => kept.uploaded_bytes = bytes,
                Some(hash) => kept.other = Some((hash, bytes)),
            }
        }
        Ok(kept)
    }

    /// Writes a chunk, unless it is there. When this returns, it is where nothing is lost.
    pub async fn put_chunk(&self, id: &MediaId, version: Version, number: u64, bytes: Bytes) -> Result<(), FilesError> {
        match &self.0 {
            Place::Folder(folder) => folder.put_chunk(*id, version, number, bytes).await,
            Place::Bucket(bucket) => bucket.put_chunk(id, version, number, bytes).await,
        }
    }

    /// Puts other bytes of the same length there instead of a chunk, of a file that is not whole for anybody yet.
    pub async fn replace_chunk(&self, id: &MediaId, number: u64, bytes: Bytes) -> Result<(), FilesError> {
        match &self.0 {
            Place::Folder(folder) => folder.replace_chunk(*id, number, bytes).await,
            Place::Bucket(bucket) => bucket.replace_chunk(id, number, bytes).await,
        }
    }

    /// Reads from this position on: the whole range, or up to the end of the position's chunk.
    pub async fn read(&self, id: &MediaId, version: Version, range: Range<u64>) -> Result<Bytes, FilesError> {
        match &self.0 {
            Place::Folder(folder) => folder.read(*id, version, range).await,
            Place::Bucket(bucket) => bucket.read(id, version, range).await,
        }
    }

    /// Removes all of it. What is not there is removed, too.
    pub async fn remove(&self, id: &MediaId) -> Result<(), FilesError> {
        self.remove_chunks(id, |_| true).await
    }

    /// Removes what was uploaded of a file that is other bytes by now.
    pub async fn remove_uploaded(&self, id: &MediaId) -> Result<(), FilesError> {
        self.remove_chunks(id, |name| matches!(parsed(name), Some((None, _)))).await
    }

    async fn remove_chunks(&self, id: &MediaId, which: fn(&str) -> bool) -> Result<(), FilesError> {
        match &self.0 {
            Place::Folder(folder) => folder.remove(*id, which).await,
            Place::Bucket(bucket) => bucket.remove(id, which).await,
        }
    }
}

/// The folders, one within the other, in which a file's chunks are.
pub(crate) fn folder_names(id: &MediaId) -> [String; 2] {
    let name = id.to_string();
    let (shard, _) = name.split_at(4);
    [shard.to_owned(), name]
}

pub(crate) fn chunk_name(version: Version, number: u64) -> String {
    match version {
        Version::Uploaded => format!("{number:06}"),
        Version::Other(hash) => format!("{:016x}-{number:06}", u64::from_be_bytes(hash)),
    }
}

/// The version and the number of a chunk of this name; `None` as a version: it was uploaded.
fn parsed(name: &str) -> Option<(Option<[u8; 8]>, u64)> {
    match name.split_once('-') {
        None => Some((None, name.parse().ok()?)),
        Some((hash, number)) => {
            let hash = u64::from_str_radix(hash, 16).ok()?;
            Some((Some(hash.to_be_bytes()), number.parse().ok()?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn id(number: u8) -> MediaId {
        MediaId::new(3, [number; 14])
    }

    fn bytes(fill: u8, length: u64) -> Bytes {
        vec![fill; length as usize].into()
    }

    #[tokio::test]
    async fn an_upload_goes_on_behind_its_whole_chunks() {
        let folder = tempfile::tempdir().expect("folder");
        let files = Files::in_folder(folder.path()).expect("opens");
        assert_eq!(files.kept(&id(1)).await.expect("lists").uploaded_bytes, 0);
        files.put_chunk(&id(1), Version::Uploaded, 0, bytes(1, CHUNK_BYTES)).await.expect("writes");
        files.put_chunk(&id(1), Version::Uploaded, 2, bytes(3, 5)).await.expect("writes");
        assert_eq!(files.kept(&id(1)).await.expect("lists").uploaded_bytes, CHUNK_BYTES, "a gap is not skipped");
        files.put_chunk(&id(1), Version::Uploaded, 1, bytes(2, CHUNK_BYTES)).await.expect("writes");
        assert_eq!(files.kept(&id(1)).await.expect("lists").uploaded_bytes, 2 * CHUNK_BYTES + 5);
        assert_eq!(files.kept(&id(2)).await.expect("lists"), Kept::default(), "another file");
    }

    #[tokio::test]
    async fn what_is_written_does_not_change() {
        let folder = tempfile::tempdir().expect("folder");
        let files = Files::in_folder(folder.path()).expect("opens");
        files.put_chunk(&id(1), Version::Uploaded, 0, bytes(1, 4)).await.expect("writes");
        files.put_chunk(&id(1), Version::Uploaded, 0, bytes(1, 4)).await.expect("a repeat");
        for other in [bytes(2, 4), bytes(1, 5)] {
            let put = files.put_chunk(&id(1), Version::Uploaded, 0, other).await;
            assert!(matches!(put, Err(FilesError::Other)), "{put:?}");
        }
        assert_eq!(files.read(&id(1), Version::Uploaded, 0..4).await.expect("reads"), bytes(1, 4));
        files.replace_chunk(&id(1), 0, bytes(3, 5)).await.expect_err("another length");
        files.replace_chunk(&id(1), 1, bytes(3, 4)).await.expect_err("none is there");
        files.replace_chunk(&id(1), 0, bytes(3, 4)).await.expect("but by whoever may");
        assert_eq!(files.read(&id(1), Version::Uploaded, 0..4).await.expect("reads"), bytes(3, 4));
        assert_eq!(files.kept(&id(1)).await.expect("lists").uploaded_bytes, 4);
    }

    #[tokio::test]
    async fn a_chunk_that_is_not_whole_is_seen_by_nobody_and_leaves_nothing() {
        let place = tempfile::tempdir().expect("folder");
        let files = Files::in_folder(place.path()).expect("opens");
        let folder = files.folder().expect("a folder");
        let names = || {
            let shard = std::fs::read_dir(place.path().join("0003").join(id(1).to_string())).expect("reads");
            shard.map(|entry| entry.expect("reads").file_name().into_string().expect("text")).collect::<Vec<_>>()
        };
        let half = folder.new_chunk(id(1), 0, 10).await.expect("begins").write(bytes(2, 4)).await.expect("writes");
        assert_eq!((half.missing_bytes(), names()), (6, vec!["000000#1".to_owned()]));
        assert_eq!(files.kept(&id(1)).await.expect("lists"), Kept::default());
        assert!(matches!(files.read(&id(1), Version::Uploaded, 0..4).await, Err(FilesError::NotFound)));
        // Another attempt of the same upload overtakes it.
        let other = folder.new_chunk(id(1), 0, 10).await.expect("begins").write(bytes(2, 10)).await.expect("writes");
        other.finish().await.expect("is whole");
        let late = half.write(bytes(2, 6)).await.expect("writes");
        late.finish().await.expect("a repeat");
        assert_eq!(names(), ["000000"]);
        assert_eq!(files.read(&id(1), Version::Uploaded, 0..10).await.expect("reads"), bytes(2, 10));
        let half = folder.new_chunk(id(1), 1, 10).await.expect("begins");
        half.finish().await.expect_err("not whole");
        assert_eq!(names(), ["000000"]);
    }

    #[tokio::test]
    async fn what_a_process_has_left_goes_with_its_file() {
        let place = tempfile::tempdir().expect("folder");
        let files = Files::in_folder(place.path()).expect("opens");
        files.put_chunk(&id(1), Version::Uploaded, 0, bytes(1, 4)).await.expect("writes");
        let shard = place.path().join("0003");
        std::fs::write(shard.join(id(1).to_string()).join("000001#1"), b"half").expect("writes");
        files.remove(&id(1)).await.expect("removes");
        assert!(!shard.exists());
    }

    #[tokio::test]
    async fn a_pipe_fills_a_chunk() {
        let place = tempfile::tempdir().expect("folder");
        let files = Files::in_folder(place.path()).expect("opens");
        let folder = files.folder().expect("a folder");
        let (from, mut to) = std::io::pipe().expect("a pipe");
        let from = Arc::new(std::os::fd::OwnedFd::from(from));
        let chunk = folder.new_chunk(id(1), 0, 9).await.expect("begins").write(bytes(1, 2)).await.expect("writes");
        std::io::Write::write_all(&mut to, b"seven b").expect("writes");
        let chunk = chunk.write_from(from, 7).await.expect("moves");
        assert_eq!(chunk.missing_bytes(), 0);
        chunk.finish().await.expect("is whole");
        assert_eq!(files.read(&id(1), Version::Uploaded, 0..9).await.expect("reads"), &b"\x01\x01seven b"[..]);
        let open = folder.open_chunk(&id(1), Version::Uploaded, 2..100).expect("opens");
        assert_eq!(open.range, 2..9);
        assert!(matches!(folder.open_chunk(&id(1), Version::Uploaded, 9..10), Err(FilesError::NotFound)));
    }

    /// As while a share is not mounted.
    #[tokio::test]
    async fn a_folder_that_is_away_takes_nothing_and_forgets_nothing() {
        let place = tempfile::tempdir().expect("folder");
        let (mounted, away) = (place.path().join("files"), place.path().join("away"));
        let files = Files::in_folder(&mounted).expect("opens");
        files.put_chunk(&id(1), Version::Uploaded, 0, bytes(1, 4)).await.expect("writes");
        std::fs::rename(&mounted, &away).expect("renames");
        for is_there in [false, true] {
            if is_there {
                std::fs::create_dir(&mounted).expect("makes");
            }
            assert!(matches!(files.kept(&id(1)).await, Err(FilesError::Away)));
            let put = files.put_chunk(&id(1), Version::Uploaded, 1, bytes(1, 4)).await;
            assert!(matches!(put, Err(FilesError::Away)));
            assert!(matches!(files.read(&id(1), Version::Uploaded, 0..4).await, Err(FilesError::Away)));
            assert!(matches!(files.remove(&id(1)).await, Err(FilesError::Away)));
            let open = files.folder().expect("a folder").open_chunk(&id(1), Version::Uploaded, 0..4);
            assert!(matches!(open, Err(FilesError::Away)));
        }
        std::fs::remove_dir(&mounted).expect("nothing was put there");
        std::fs::rename(&away, &mounted).expect("renames");
        assert_eq!(files.read(&id(1), Version::Uploaded, 0..4).await.expect("reads"), bytes(1, 4));
    }

    #[tokio::test]
    async fn a_read_ends_with_its_chunk() {
        let folder = tempfile::tempdir().expect("folder");
        let files = Files::in_folder(folder.path()).expect("opens");
        files.put_chunk(&id(1), Version::Uploaded, 0, bytes(1, CHUNK_BYTES)).await.expect("writes");
        files.put_chunk(&id(1), Version::Uploaded, 1, bytes(2, 10)).await.expect("writes");
        let end = CHUNK_BYTES - 2;
        assert_eq!(files.read(&id(1), Version::Uploaded, end..CHUNK_BYTES + 5).await.expect("reads"), bytes(1, 2));
        assert_eq!(
            files.read(&id(1), Version::Uploaded, CHUNK_BYTES + 3..CHUNK_BYTES + 5).await.expect("reads"),
            bytes(2, 2)
        );
        assert!(matches!(files.read(&id(2), Version::Uploaded, 0..1).await, Err(FilesError::NotFound)));
    }

    #[tokio::test]
    async fn nothing_is_left_of_what_is_removed() {
        let folder = tempfile::tempdir().expect("folder");
        let files = Files::in_folder(folder.path()).expect("opens");
        files.put_chunk(&id(1), Version::Uploaded, 0, bytes(1, 4)).await.expect("writes");
        files.put_chunk(&id(2), Version::Uploaded, 0, bytes(2, 4)).await.expect("writes");
        files.remove(&id(1)).await.expect("removes");
        files.remove(&id(1)).await.expect("again");
        assert!(matches!(files.read(&id(1), Version::Uploaded, 0..4).await, Err(FilesError::NotFound)));
        assert_eq!(files.read(&id(2), Version::Uploaded, 0..4).await.expect("reads"), bytes(2, 4));
    }

    #[tokio::test]
    async fn what_was_made_of_a_file_is_beside_it_and_stays_when_the_first_goes() {
        let folder = tempfile::tempdir().expect("folder");
        let files = Files::in_folder(folder.path()).expect("opens");
        let other = Version::Other([0, 9, 9, 9, 9, 9, 9, 9]);
        for (version, fill, length) in [(Version::Uploaded, 1, 10), (other, 2, 7)] {
            files.put_chunk(&id(1), version, 0, bytes(fill, CHUNK_BYTES)).await.expect("writes");
            files.put_chunk(&id(1), version, 1, bytes(fill, length)).await.expect("writes");
        }
        let kept = files.kept(&id(1)).await.expect("lists");
        let of_other = Some(([0, 9, 9, 9, 9, 9, 9, 9], CHUNK_BYTES + 7));
        assert_eq!(kept, Kept { uploaded_bytes: CHUNK_BYTES + 10, other: of_other });
        files.remove_uploaded(&id(1)).await.expect("removes");
        assert_eq!(files.kept(&id(1)).await.expect("lists"), Kept { uploaded_bytes: 0, other: of_other });
        assert_eq!(files.read(&id(1), other, CHUNK_BYTES..CHUNK_BYTES + 7).await.expect("reads"), bytes(2, 7));
        files.remove(&id(1)).await.expect("removes");
        assert_eq!(files.kept(&id(1)).await.expect("lists"), Kept::default());
    }

    #[test]
    fn a_version_is_named_by_a_whole_hash() {
        assert_eq!(Version::of_row(b""), Some(Version::Uploaded));
        assert_eq!(Version::of_row(&[7; 32]), Some(Version::Other([7; 8])));
        assert_eq!(Version::of_row(&[7; 8]), None);
    }
}
