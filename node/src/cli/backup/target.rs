//! Where backups are kept: below a folder, or below a prefix in a bucket.
//!
//! | path | what |
//! | --- | --- |
//! | `NAME/manifest` | see `manifest.rs`; written last, once |
//! | `NAME/ATTEMPT/begun` | the cluster's id, as long as the attempt has no manifest |
//! | `NAME/ATTEMPT/SHARD.TRY/NUMBER` | pieces of a shard |

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use axum::body::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{
    Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, aws::AmazonS3Builder,
    local::LocalFileSystem, path::Path,
};
use tokio::time::timeout;

use carillon_media::Connector;

use super::{BackupError, manifest::Manifest};

/// Deadline of one operation with its repetitions.
const OPERATION: Duration = Duration::from_secs(300);
/// Objects that are deleted at a time.
const DELETES: usize = 16;
const MANIFEST: &str = "manifest";
const BEGUN: &str = "begun";

#[derive(Clone)]
pub(super) struct Target {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// If the target is one.
    folder: Option<PathBuf>,
}

/// What is stored under a name.
pub(super) enum Found {
    /// Nothing, or attempts without a manifest.
    Unfinished,
    Whole(Box<Manifest>),
    /// There is a manifest, but it can't be used.
    Unusable(BackupError),
}

/// Objects of one attempt to make a backup.
pub(super) struct Attempt {
    pub(super) id: String,
    pub(super) paths: Vec<Path>,
    /// When the last of them was written, in milliseconds since 1970 by the clock of the storage.
    pub(super) last_ms: i64,
}

impl Target {
    pub(super) fn open(url: &str) -> anyhow::Result<Self> {
        if let Some(rest) = url.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_http_connector(Connector::new()?);
            let store = builder.build().with_context(|| format!("{url} can't be used"))?;
            let prefix = Path::parse(prefix.trim_end_matches('/')).with_context(|| format!("{url} is no place"))?;
            return Ok(Self { store: Arc::new(store), prefix, folder: None });
        }
        if let Some((scheme, _)) = url.split_once("://").filter(|(scheme, _)| *scheme != "file") {
            return Err(
                BackupError::Refused(format!("{scheme}:// is unknown: give a folder or s3://BUCKET/PREFIX")).into()
            );
        }
        Self::folder(FilePath::new(url.strip_prefix("file://").unwrap_or(url)))
    }

    fn folder(folder: &FilePath) -> anyhow::Result<Self> {
        let store = LocalFileSystem::new_with_prefix(folder)
            .with_context(|| format!("folder {} can't be used", folder.display()))?;
        let store = store.with_fsync(true);
        Ok(Self { store: Arc::new(store), prefix: Path::default(), folder: Some(folder.to_owned()) })
    }

    /// Like `open`; a missing folder is made, for its owner alone.
    pub(super) fn open_or_make(url: &str) -> anyhow::Result<Self> {
        if !url.contains("://") || url.starts_with("file://") {
            let folder = FilePath::new(url.strip_prefix("file://").unwrap_or(url));
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.with_context(|| format!("folder {} can't be made", folder.display()))?;
        }
        Self::open(url)
    }

    fn path<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Path {
        parts.into_iter().fold(self.prefix.clone(), |path, part| path.join(part))
    }

    pub(super) fn piece(&self, name: &str, attempt: &str, folder: &str, number: usize) -> Path {
        self.path([name, attempt, folder, &format!("{number:06}")])
    }

    pub(super) async fn put(&self, path: &Path, bytes: Bytes) -> anyhow::Result<()> {
        let put = self.store.put(path, PutPayload::from_bytes(bytes));
        in_time(put).await.map(drop).with_context(|| format!("{path} can't be written"))
    }

    /// `None`: there is no such object.
    pub(super) async fn get(&self, path: &Path) -> anyhow::Result<Option<Bytes>> {
        let get = async { self.store.get(path).await?.bytes().await };
        match in_time(get).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if matches!(error.downcast_ref(), Some(Error::NotFound { .. })) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{path} can't be read")),
        }
    }

    /// Names of backups, whole and other ones, in order.
    pub(super) async fn names(&self) -> anyhow::Result<BTreeSet<String>> {
        let listed = in_time(self.store.list_with_delimiter(Some(&self.prefix))).await.context("can't list backups")?;
        let names = listed.common_prefixes.iter().filter_map(|path| path.filename());
        // What is not named like a backup is somebody else's.
        Ok(names.filter(|name| super::check_name(name).is_ok()).map(str::to_owned).collect())
    }

    pub(super) async fn find(&self, name: &str) -> anyhow::Result<Found> {
        let Some(bytes) = self.get(&self.path([name, MANIFEST])).await? else { return Ok(Found::Unfinished) };
        Ok(match Manifest::decode(&bytes) {
            Ok(manifest) if manifest.name == name => Found::Whole(Box::new(manifest)),
            Ok(manifest) => {
                Found::Unusable(BackupError::Damaged(format!("its manifest is that of backup {}", manifest.name)))
            }
            Err(why) => Found::Unusable(why),
        })
    }

    /// The manifest of a whole backup.
    pub(super) async fn whole(&self, name: &str) -> anyhow::Result<Manifest> {
        match self.find(name).await? {
            Found::Whole(manifest) => Ok(*manifest),
            Found::Unusable(why) => Err(anyhow::Error::from(why).context(format!("backup {name} can't be used"))),
            Found::Unfinished => {
                Err(BackupError::Damaged(format!("there is no backup {name}: nothing with this name has a manifest"))
                    .into())
            }
        }
    }

    /// Says which cluster an attempt is of.
    pub(super) async fn begin(&self, name: &str, attempt: &str, cluster: &str) -> anyhow::Result<()> {
        self.put(&self.path([name, attempt, BEGUN]), Bytes::copy_from_slice(cluster.as_bytes())).await
    }

    /// The cluster that an attempt is of; `None` if nothing says so.
    pub(super) async fn begun(&self, name: &str, attempt: &str) -> anyhow::Result<Option<String>> {
        let bytes = self.get(&self.path([name, attempt, BEGUN])).await?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Makes the backup whole. False if another attempt was first.
    pub(super) async fn publish(&self, manifest: &Manifest) -> anyhow::Result<bool> {
        let path = self.path([&*manifest.name, MANIFEST]);
        let payload = Bytes::from(manifest.encode()?);
        let options = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let created = in_time(self.store.put_opts(&path, payload.clone().into(), options())).await;
        match created.map_err(|error| error.downcast()) {
            Ok(_) => {}
            Err(Ok(Error::AlreadyExists { .. } | Error::Precondition { .. })) => return Ok(false),
            // The storage knows no condition: the last attempt wins, and is whole, too.
            Err(Ok(Error::NotImplemented { .. })) => self.put(&path, payload).await?,
            Err(Ok(error)) => return Err(error).with_context(|| format!("{path} can't be written")),
            Err(Err(error)) => return Err(error),
        }
        // If it stays, it says nothing that is wrong.
        let _ = self.store.delete(&self.path([&*manifest.name, &manifest.attempt, BEGUN])).await;
        Ok(true)
    }

    /// All attempts under a name.
    pub(super) async fn attempts(&self, name: &str) -> anyhow::Result<Vec<Attempt>> {
        let folder = self.path([name]);
        let depth = folder.parts().count();
        let mut attempts: Vec<Attempt> = Vec::new();
        let mut objects = self.store.list(Some(&folder));
        while let Some(object) = objects.try_next().await.with_context(|| format!("can't list backup {name}"))? {
            let mut parts = object.location.parts().skip(depth);
            let (Some(id), Some(_)) = (parts.next(), parts.next()) else { continue };
            let (id, last_ms) = (id.as_ref().to_owned(), object.last_modified.timestamp_millis());
            match attempts.iter_mut().find(|attempt| attempt.id == id) {
                Some(attempt) => {
                    attempt.last_ms = attempt.last_ms.max(last_ms);
                    attempt.paths.push(object.location.clone());
                }
                None => attempts.push(Attempt { id, paths: vec![object.location.clone()], last_ms }),
            }
        }
        Ok(attempts)
    }

    /// The object that says which cluster it is of goes last, so that an interrupted deletion is found again.
    pub(super) async fn delete_attempt(&self, name: &str, attempt: Attempt) -> anyhow::Result<()> {
        let (begun, pieces): (Vec<_>, Vec<_>) =
            attempt.paths.into_iter().partition(|path| path.filename() == Some(BEGUN));
        self.delete(pieces).await?;
        self.delete(begun).await?;
        if let Some(folder) = &self.folder {
            let folder = folder.join(name);
            // With files that a killed attempt had not finished, which are not listed.
            fs::remove_dir_all(folder.join(&attempt.id)).context("an empty folder can't be removed")?;
            // It stays if another attempt is in it.
            let _ = fs::remove_dir(folder);
        }
        Ok(())
    }

    /// Deletes a whole backup. It ends to be one first of all.
    pub(super) async fn delete_whole(&self, manifest: &Manifest) -> anyhow::Result<()> {
        let name = &*manifest.name;
        self.begin(name, &manifest.attempt, &manifest.cluster).await?;
        self.delete(vec![self.path([name, MANIFEST])]).await?;
        for attempt in self.attempts(name).await?.into_iter().filter(|attempt| attempt.id == manifest.attempt) {
            self.delete_attempt(name, attempt).await?;
        }
        Ok(())
    }

    async fn delete(&self, paths: Vec<Path>) -> anyhow::Result<()> {
        let deleting = stream::iter(paths).map(|path| async move {
            match in_time(self.store.delete(&path)).await {
                Err(error) if !matches!(error.downcast_ref(), Some(Error::NotFound { .. })) => {
                    Err(error).with_context(|| format!("{path} can't be deleted"))
                }
                _ => Ok(()),
            }
        });
        deleting.buffer_unordered(DELETES).try_collect().await
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, Error>>) -> anyhow::Result<T> {
    match timeout(OPERATION, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(anyhow!("it took longer than {} s", OPERATION.as_secs())),
    }
}

/// A random name that no other attempt has.
pub(super) fn attempt_id() -> String {
    let random: [u8; 8] = rand::random();
    super::manifest::hex(&random)
}
