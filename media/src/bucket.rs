//! The bytes of files as objects in storage that speaks S3.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use carillon_proto::MediaId;
use futures_util::TryStreamExt as _;
use object_store::{
    Error, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, RetryConfig,
    aws::AmazonS3Builder, path::Path,
};
use tokio::time::timeout;

use crate::{
    Connector,
    files::{CHUNK_BYTES, FilesError, OPERATION, Version, chunk_name, folder_names},
};

/// After this time storage that answers with errors, or not at all, is not asked once more: whoever waits is told so.
const REPETITIONS: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.store, f)
    }
}

impl Bucket {
    /// Parameters as in `Files::in_bucket`.
    pub(crate) fn new(
        place: &str,
        endpoint: &str,
        region: &str,
        credentials: Option<(String, String)>,
    ) -> Result<Self, FilesError> {
        let rest = place.strip_prefix("s3://").unwrap_or(place);
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let connector = Connector::new()?;
        if endpoint.starts_with("http://") && !connector.allows_http {
            return Err(FilesError::Plain);
        }
        let retry = RetryConfig { retry_timeout: REPETITIONS, ..RetryConfig::default() };
        let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
        let mut builder = builder.with_http_connector(connector);
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

    /// Names and sizes of a file's chunks.
    pub(crate) async fn list(&self, id: &MediaId) -> Result<Vec<(String, u64)>, FilesError> {
        let objects = self.objects(id).await?.into_iter();
        Ok(objects.filter_map(|object| Some((object.location.filename()?.to_owned(), object.size))).collect())
    }

    pub(crate) async fn put_chunk(
        &self,
        id: &MediaId,
        version: Version,
        number: u64,
        bytes: Bytes,
    ) -> Result<(), FilesError> {
        let path = self.chunk(id, version, number);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match in_time(self.store.put_opts(&path, PutPayload::from_bytes(bytes.clone()), options)).await {
            // An earlier attempt of the same upload.
            Err(FilesError::Store(Error::AlreadyExists { .. } | Error::Precondition { .. })) => {
                self.has_same(&path, &bytes).await
            }
            // The storage knows no condition.
            Err(FilesError::Store(Error::NotImplemented { .. })) => match self.has_same(&path, &bytes).await {
                Err(FilesError::NotFound) => {
                    in_time(self.store.put(&path, PutPayload::from_bytes(bytes))).await.map(drop)
                }
                there => there,
            },
            put => put.map(drop),
        }
    }

    pub(crate) async fn replace_chunk(&self, id: &MediaId, number: u64, bytes: Bytes) -> Result<(), FilesError> {
        let path = self.chunk(id, Version::Uploaded, number);
        self.is_as_large(&path, bytes.len() as u64).await?;
        in_time(self.store.put(&path, PutPayload::from_bytes(bytes))).await.map(drop)
    }

    pub(crate) async fn read(&self, id: &MediaId, version: Version, range: Range<u64>) -> Result<Bytes, FilesError> {
        let number = range.start / CHUNK_BYTES;
        let begin = number * CHUNK_BYTES;
        let within = range.start - begin..(range.end - begin).min(CHUNK_BYTES);
        in_time(self.store.get_range(&self.chunk(id, version, number), within)).await
    }

    /// Removes the chunks with such names.
    pub(crate) async fn remove(&self, id: &MediaId, which: fn(&str) -> bool) -> Result<(), FilesError> {
        let chunks = self.objects(id).await?.into_iter();
        for chunk in chunks.filter(|chunk| chunk.location.filename().is_some_and(which)) {
            match in_time(self.store.delete(&chunk.location)).await {
                Ok(()) | Err(FilesError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn objects(&self, id: &MediaId) -> Result<Vec<ObjectMeta>, FilesError> {
        in_time(self.store.list(Some(&self.of_file(id))).try_collect()).await
    }

    async fn has_same(&self, path: &Path, bytes: &Bytes) -> Result<(), FilesError> {
        self.is_as_large(path, bytes.len() as u64).await?;
        let there = in_time(async { self.store.get(path).await?.bytes().await }).await?;
        if there == *bytes { Ok(()) } else { Err(FilesError::Other) }
    }

    async fn is_as_large(&self, path: &Path, size: u64) -> Result<(), FilesError> {
        let there = in_time(self.store.head(path)).await?;
        if there.size == size { Ok(()) } else { Err(FilesError::Other) }
    }

    fn of_file(&self, id: &MediaId) -> Path {
        folder_names(id).into_iter().fold(self.prefix.clone(), |path, name| path.join(name))
    }

    fn chunk(&self, id: &MediaId, version: Version, number: u64) -> Path {
        self.of_file(id).join(chunk_name(version, number))
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, FilesError> {
    match timeout(OPERATION, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(FilesError::Late),
    }
}
