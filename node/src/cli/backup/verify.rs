//! Reads backups back.

use std::io;

use anyhow::{Context as _, anyhow, bail};
use carillon_storage::backup::check_shard;
use clap::Args;
use tokio::runtime::Handle;

use super::{
    BackupError, Place, check_name,
    manifest::Manifest,
    shard_reader::{ShardReader, shards},
    size,
    target::{Found, Target},
};
use crate::cli::out;

#[derive(Args)]
pub(in crate::cli) struct Verify {
    #[command(flatten)]
    from: Place,
    /// The backup; otherwise the newest one that is whole.
    #[arg(long, value_parser = check_name, conflicts_with = "all")]
    name: Option<String>,
    /// All backups that have a manifest.
    #[arg(long)]
    all: bool,
    /// One JSON object a line, for programs.
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let target = self.from.open()?;
        let mut first = None;
        for name in self.names(&target).await? {
            let verified = verify(&target, &name).await;
            let shown = match &verified {
                Ok(manifest) if self.json => serde_json::json!({
                    "name": name, "sound": true, "cluster": manifest.cluster, "bytes": manifest.bytes(),
                    "records": manifest.records(),
                })
                .to_string(),
                Err(error) if self.json => {
                    serde_json::json!({ "name": name, "sound": false, "why": format!("{error:#}") }).to_string()
                }
                Ok(manifest) => {
                    format!("backup {name} is sound: {} records, {}", manifest.records(), size(manifest.bytes()))
                }
                Err(error) => format!("backup {name}: {}", crate::causes::told(error)),
            };
            out::line(shown)?;
            first = first.or(verified.err());
        }
        first.map_or(Ok(()), |error| Err(error.context("a backup can't be restored")))
    }

    async fn names(&self, target: &Target) -> anyhow::Result<Vec<String>> {
        if let Some(name) = &self.name {
            return Ok(vec![name.clone()]);
        }
        let mut found = Vec::new();
        for name in target.names().await? {
            match target.find(&name).await? {
                Found::Whole(manifest) => found.push((manifest.began_ms, name)),
                Found::Unusable(_) if self.all => found.push((0, name)),
                Found::Unusable(_) | Found::Unfinished => {}
            }
        }
        found.sort();
        if !self.all {
            found = found.split_off(found.len().saturating_sub(1));
        }
        if found.is_empty() {
            return Err(BackupError::Damaged("there is no backup".to_owned()).into());
        }
        Ok(found.into_iter().map(|(_, name)| name).collect())
    }
}

async fn verify(target: &Target, name: &str) -> anyhow::Result<Manifest> {
    let manifest = target.whole(name).await?;
    for (shard, file) in shards(&manifest)? {
        let (records, index) = (file.records, file.index);
        let reader = ShardReader::new(Handle::current(), target.clone(), &manifest, file);
        let checked = tokio::task::spawn_blocking(move || check_shard(shard, reader)).await.context("verifying")?;
        let checked = checked.map_err(|error| {
            let text = format!("{shard}: {error}");
            match error.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => BackupError::Damaged(text).into(),
                io::ErrorKind::Unsupported => BackupError::Refused(text).into(),
                _ => anyhow!(text),
            }
        });
        let checked = checked?;
        if (checked.records, checked.index) != (records, index) {
            let why = format!("{shard} has {} records, not {records}", checked.records);
            bail!(BackupError::Damaged(why));
        }
    }
    Ok(manifest)
}
