//! Looks for damage in the data folder of a stopped storage node, and makes the data whole.

use carillon_storage::{Remedy, Repair, repair};
use clap::Args;

use super::out;
use crate::Config;

#[derive(Args)]
pub(super) struct RepairCommand {
    /// Look at everything, and change nothing. Exit code 65 if something is damaged.
    #[arg(long)]
    check: bool,
}

/// Data on the disk is damaged, and has not been made whole.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct StillDamaged(String);

impl RepairCommand {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<()> {
        let folder = &config.storage.data_dir;
        let Repair { found, remedy } = repair(folder, self.check)?;
        let done = told(&remedy, self.check);
        for found in &found {
            out::tell(format_args!("carillon: {found}"));
        }
        if self.check && !found.is_empty() {
            return Err(StillDamaged(format!("{}: {done}", folder.display())).into());
        }
        out::line(format_args!("{}: {done}", folder.display()))
    }
}

fn told(remedy: &Remedy, check: bool) -> String {
    match (remedy, check) {
        (Remedy::Nothing, _) => "nothing is damaged; the node may start".to_owned(),
        (Remedy::Rebuild, true) => {
            "`carillon repair` puts this aside, and the next start makes it anew from the node's own snapshots and log".to_owned()
        }
        (Remedy::Rebuild, false) => {
            "what was damaged is in the newest folder aside-N; start the node: it makes that anew from its own snapshots and log"
                .to_owned()
        }
        (Remedy::Replace { .. }, true) => {
            "the votes of this node can't be trusted any more. `carillon repair` puts everything aside, so that the node can \
             come back as a new one"
                .to_owned()
        }
        (Remedy::Replace { node }, false) => {
            let node = node.map_or_else(|| "NUMBER".to_owned(), |node| node.to_string());
            format!(
                "everything is in the newest folder aside-N, because the votes of this node can't be trusted any more. The others \
                 have the data: start the node, which waits as a new one, and run `carillon cluster replace {node} HOST:PORT` with \
                 its address"
            )
        }
    }
}
