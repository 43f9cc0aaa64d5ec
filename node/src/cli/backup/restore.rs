//! Makes a data folder out of a backup.

use std::path::PathBuf;

use anyhow::Context as _;
use carillon_proto::Level;
use carillon_storage::{
    StorageConfig,
    backup::{self, RestoreError, Restored},
};
use clap::Args;
use tokio::runtime::Handle;

use super::{
    BackupError, Place, check_name,
    manifest::Manifest,
    shard_reader::{ShardReader, shards},
};
use crate::{
    Config,
    cli::{date, out},
};

#[derive(Args)]
pub(in crate::cli) struct Restore {
    #[command(flatten)]
    from: Place,
    #[arg(long, value_parser = check_name)]
    name: String,
    /// The data folder, which must be empty; otherwise storage.data_dir.
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
}

impl Restore {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let target = self.from.open()?;
        let manifest = target.whole(&self.name).await?;
        let files = shards(&manifest)?;
        let data_dir = self.into.unwrap_or_else(|| config.storage.data_dir.clone());
        let config = StorageConfig { data_dir: data_dir.clone(), ..config.storage.clone() };
        let (runtime, read) = (Handle::current(), manifest.clone());
        let restoring = tokio::task::spawn_blocking(move || {
            let mut restore = backup::Restore::begin(&config, Level(read.level), read.map())?;
            for (shard, file) in files {
                let after_ms = file.after_ms;
                let reader = ShardReader::new(runtime.clone(), target.clone(), &read, file);
                restore.shard(shard, after_ms, reader)?;
            }
            restore.finish(&runtime)
        });
        let restored = restoring.await.context("restoring")?.map_err(|error| match error {
            RestoreError::Refused(_) | RestoreError::Newer { .. } => BackupError::Refused(error.to_string()).into(),
            RestoreError::Damaged { .. } => BackupError::Damaged(error.to_string()).into(),
            RestoreError::Failed(_) => anyhow::Error::from(error),
        });
        let Restored { cluster, mended } =
            restored.with_context(|| format!("backup {} was not restored", manifest.name))?;
        let Manifest { name, began_ms, .. } = &manifest;
        out::line(format_args!(
            "backup {name} is restored to {}: everything that was accepted before {}",
            data_dir.display(),
            date::format(*began_ms)
        ))?;
        out::line(format_args!(
            "it is a new cluster, {cluster}, of one storage node, which begins at its first start"
        ))?;
        out::line(format_args!(
            "users who were erased after {} are back: order their erasures again (`carillon user erase`)",
            date::format(*began_ms)
        ))?;
        if mended.messages > 0 {
            out::line(format_args!(
                "{} messages of the time of the backup had one copy, and have both now",
                mended.messages
            ))?;
        }
        Ok(())
    }
}
