//! The bytes of files, in chunks of one size: objects `SHARD/ID/NUMBER`. A chunk is written once and never again, so that a file does not
//! change after it is whole, and an upload goes on at whichever gateway behind the last whole chunk.

use std::{
    fmt,
    fs::DirBuilder,
    ops::Range,
    os::unix::fs::DirBuilderExt as _,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use carillon_proto::MediaId;
use futures_util::TryStreamExt as _;
use object_store::{
    Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, aws::AmazonS3Builder,
    local::LocalFileSystem, path::Path,
};
use tokio::time::timeout;

use crate::{Connector, ConnectorError};

/// Of each chunk but the last one. What is kept depends on it, so it never changes.
pub const CHUNK_BYTES: u64 = 4 << 20;
/// Deadline of one operation with its repetitions.
const OPERATION: Duration = Duration::from_secs(60);

/// Cheap to clone.
#[derive(Clone)]
pub struct Files {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
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
    /// There is another chunk at this place.
    #[error("other bytes are there already")]
    Other,
    #[error("it is not there")]
    NotFound,
    #[error("it took longer than {} s", OPERATION.as_secs())]
    Late,
    #[error(transparent)]
    Store(Error),
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
        write!(f, "Files in {}", self.store)
    }
}

impl Files {
    /// A missing folder is made, for its owner alone.
    pub fn in_folder(folder: &FilePath) -> Result<Self, FilesError> {
        let wrong = |why: &dyn ToString| FilesError::Folder(folder.to_owned(), why.to_string());
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| wrong(&error))?;
        let store = LocalFileSystem::new_with_prefix(folder).map_err(|error| wrong(&error))?;
        let store = store.with_fsync(true).with_automatic_cleanup(true);
        Ok(Self { store: Arc::new(store), prefix: Path::default() })
    }

    /// `place`: s3://BUCKET/PREFIX. What is empty or `None` is taken from the environment. `credentials`: id and secret of the key.
    pub(crate) fn in_bucket(
        place: &str,
        endpoint: &str,
        region: &str,
        credentials: Option<(String, String)>,
    ) -> Result<Self, FilesError> {
        let rest = place.strip_prefix("s3://").unwrap_or(place);
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_http_connector(Connector::new()?);
        if !endpoint.is_empty() {
            builder = builder.with_endpoint(endpoint);
        }
        if !region.is_empty() {
            builder = builder.with_region(region);
        }
        if let Some((id, secret)) = credentials {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        }
        let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|error| FilesError::Store(error.into()))?;
        Ok(Self { store: Arc::new(builder.build()?), prefix })
    }

    /// Bytes of the whole chunks from the beginning on: where an upload goes on.
    pub async fn stored_bytes(&self, id: &MediaId) -> Result<u64, FilesError> {
        let list = self.store.list(Some(&self.folder(id)));
        let mut chunks: Vec<(u64, u64)> = in_time(list.try_collect::<Vec<_>>())
            .await?
            .iter()
            .filter_map(|object| Some((object.location.filename()?.parse().ok()?, object.size)))
            .collect();
        chunks.sort_unstable();
        let whole = chunks.iter().zip(0..).take_while(|((number, _), expected)| number == expected);
        Ok(whole.map(|((_, size), _)| size).sum())
    }

    /// Writes a chunk, unless it is there. When this returns, it is where nothing is lost.
    pub async fn put_chunk(&self, id: &MediaId, number: u64, bytes: Bytes) -> Result<(), FilesError> {
        let (path, size) = (self.chunk(id, number), bytes.len() as u64);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match in_time(self.store.put_opts(&path, PutPayload::from_bytes(bytes.clone()), options)).await {
            // An earlier attempt of the same upload.
            Err(FilesError::Store(Error::AlreadyExists { .. } | Error::Precondition { .. })) => {
                self.is_as_large(&path, size).await
            }
            // The storage knows no condition.
            Err(FilesError::Store(Error::NotImplemented { .. })) => match self.is_as_large(&path, size).await {
                Err(FilesError::NotFound) => {
                    in_time(self.store.put(&path, PutPayload::from_bytes(bytes))).await.map(drop)
                }
                there => there,
            },
            put => put.map(drop),
        }
    }

    async fn is_as_large(&self, path: &Path, size: u64) -> Result<(), FilesError> {
        let there = in_time(self.store.head(path)).await?;
        if there.size == size { Ok(()) } else { Err(FilesError::Other) }
    }

    /// Reads from this position on: the whole range, or up to the end of the position's chunk.
    pub async fn read(&self, id: &MediaId, range: Range<u64>) -> Result<Bytes, FilesError> {
        let number = range.start / CHUNK_BYTES;
        let begin = number * CHUNK_BYTES;
        let within = range.start - begin..(range.end - begin).min(CHUNK_BYTES);
        in_time(self.store.get_range(&self.chunk(id, number), within)).await
    }

    /// Removes all of it. What is not there is removed, too.
    pub async fn remove(&self, id: &MediaId) -> Result<(), FilesError> {
        let chunks: Vec<_> = in_time(self.store.list(Some(&self.folder(id))).try_collect()).await?;
        for chunk in chunks {
            match in_time(self.store.delete(&chunk.location)).await {
                Ok(()) | Err(FilesError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn folder(&self, id: &MediaId) -> Path {
        let name = id.to_string();
        let (shard, _) = name.split_at(4);
        self.prefix.clone().join(shard).join(&*name)
    }

    fn chunk(&self, id: &MediaId, number: u64) -> Path {
        self.folder(id).join(format!("{number:06}"))
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, FilesError> {
    match timeout(OPERATION, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(FilesError::Late),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(files.stored_bytes(&id(1)).await.expect("lists"), 0);
        files.put_chunk(&id(1), 0, bytes(1, CHUNK_BYTES)).await.expect("writes");
        files.put_chunk(&id(1), 2, bytes(3, 5)).await.expect("writes");
        assert_eq!(files.stored_bytes(&id(1)).await.expect("lists"), CHUNK_BYTES, "a gap is not skipped");
        files.put_chunk(&id(1), 1, bytes(2, CHUNK_BYTES)).await.expect("writes");
        assert_eq!(files.stored_bytes(&id(1)).await.expect("lists"), 2 * CHUNK_BYTES + 5);
        assert_eq!(files.stored_bytes(&id(2)).await.expect("lists"), 0, "another file");
    }

    #[tokio::test]
    async fn what_is_written_does_not_change() {
        let folder = tempfile::tempdir().expect("folder");
        let files = Files::in_folder(folder.path()).expect("opens");
        files.put_chunk(&id(1), 0, bytes(1, 4)).await.expect("writes");
        files.put_chunk(&id(1), 0, bytes(2, 4)).await.expect("a repeat");
        assert!(matches!(files.put_chunk(&id(1), 0, bytes(2, 5)).await, Err(FilesError::Other)));
        assert_eq!(files.read(&id(1), 0..4).await.expect("reads"), bytes(1, 4));
    }

    #[tokio::test]
    async fn a_read_ends_with_its_chunk() {
        let folder = tempfile::tempdir().expect("folder");
        let files = Files::in_folder(folder.path()).expect("opens");
        files.put_chunk(&id(1), 0, bytes(1, CHUNK_BYTES)).await.expect("writes");
        files.put_chunk(&id(1), 1, bytes(2, 10)).await.expect("writes");
        let end = CHUNK_BYTES - 2;
        assert_eq!(files.read(&id(1), end..CHUNK_BYTES + 5).await.expect("reads"), bytes(1, 2));
        assert_eq!(files.read(&id(1), CHUNK_BYTES + 3..CHUNK_BYTES + 5).await.expect("reads"), bytes(2, 2));
        assert!(matches!(files.read(&id(2), 0..1).await, Err(FilesError::NotFound)));
    }

    #[tokio::test]
    async fn nothing_is_left_of_what_is_removed() {
        let folder = tempfile::tempdir().expect("folder");
        let files = Files::in_folder(folder.path()).expect("opens");
        files.put_chunk(&id(1), 0, bytes(1, 4)).await.expect("writes");
        files.put_chunk(&id(2), 0, bytes(2, 4)).await.expect("writes");
        files.remove(&id(1)).await.expect("removes");
        files.remove(&id(1)).await.expect("again");
        assert!(matches!(files.read(&id(1), 0..4).await, Err(FilesError::NotFound)));
        assert_eq!(files.read(&id(2), 0..4).await.expect("reads"), bytes(2, 4));
    }
}
