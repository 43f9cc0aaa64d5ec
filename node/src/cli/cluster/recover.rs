//! A cluster that has lost the majority of its storage nodes goes on with what is left.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use carillon_storage::{
    StorageConfig,
    backup::{self, Recovered},
};
use clap::Args;
use tokio::runtime::Handle;

use super::super::out;
use crate::Config;

const LOSS: &str = "Messages, accounts and changes that were acknowledged by lost nodes alone are lost. Do it only if those nodes never \
     come back and there is no newer backup";

/// Makes the data folder of a new cluster, of one storage node, out of those of stopped nodes: for a cluster that has lost the
/// majority of its storage nodes for good. UNSAFE: what was acknowledged by lost nodes alone is lost.
#[derive(Args)]
pub(super) struct Recover {
    /// The data folder of a storage node that is left, which must be stopped; may be given several times. Each shard is taken from
    /// the folder that has most of it. The folders are kept.
    #[arg(long, value_name = "FOLDER", required = true)]
    from: Vec<PathBuf>,
    /// The new data folder, which must be empty. It needs as much room as the other.
    #[arg(long, value_name = "FOLDER")]
    into: PathBuf,
    /// Says that what only the lost nodes have may be lost.
    #[arg(long)]
    accept_loss: bool,
}

impl Recover {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        if !self.accept_loss {
            bail!("nothing was done. {LOSS}. Then say so with --accept-loss");
        }
        let Self { from, into, .. } = self;
        let config = StorageConfig { data_dir: into.clone(), ..config.storage.clone() };
        let runtime = Handle::current();
        let recovering = tokio::task::spawn_blocking(move || backup::recover(&from, &config, &runtime));
        let recovered = recovering.await.context("recovering")?;
        let Recovered { restored, taken } = recovered.context("nothing was recovered")?;
        for taken in &taken {
            let folder = taken.folder.display();
            out::line(format_args!("{} is that of {folder}, up to entry {} of its log", taken.shard, taken.index))?;
        }
        if restored.mended.messages > 0 {
            out::line(format_args!("{} messages had one copy, and have both now", restored.mended.messages))?;
        }
        out::line(format_args!(
            "{} is the data folder of a new cluster, {}, of one storage node, which begins at its first start",
            into.display(),
            restored.cluster
        ))?;
        out::note(
            "whatever only the lost nodes had is lost. Never start one of them, nor one of these folders, with the new cluster",
        );
        Ok(())
    }
}
