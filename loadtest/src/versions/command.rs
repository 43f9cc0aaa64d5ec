//! The command line of `carillon-versions`.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context as _;

use super::roll::{Options, run};
use crate::{
    cluster::{Cluster, ClusterConfig, Counts, Keeping, Layout},
    faults::{Outcome, RunOptions},
};

/// Starts a cluster of 3 storage nodes, 2 routers and 2 gateways of an old release, and puts a load on it. Replaces its processes one
/// after the other by those of this release, then back, then for good; raises the level, and checks that nothing that was accepted is
/// lost, doubled, reordered or corrupted, and that the old release is refused from then on.
///
/// Exit code 0: all well; 1: the service did not come back by itself, or another check failed; 2: a promise was broken; 3: the run could
/// not be carried out.
#[derive(Debug, clap::Parser)]
#[command(name = "carillon-versions", version)]
pub struct VersionsCommand {
    /// The program `carillon` of the old release.
    #[arg(long)]
    old: PathBuf,
    /// The program `carillon-loadtest` of the old release: its clients are there all the time, too.
    #[arg(long)]
    old_clients: Option<PathBuf>,
    /// The program `carillon` of this release; by default the one beside this program.
    #[arg(long)]
    new: Option<PathBuf>,
    /// The folder for configuration, logs and, during a run, data.
    #[arg(long, default_value = "versions-run")]
    folder: PathBuf,
    /// Users, who write to each other in pairs.
    #[arg(long, default_value_t = 8)]
    users: usize,
    /// Connections of each user.
    #[arg(long, default_value_t = 2)]
    devices: usize,
    /// Sends a second over all users.
    #[arg(long, default_value_t = 300.0)]
    rate: f64,
    /// Seconds of load between two replacements.
    #[arg(long, default_value_t = 2, value_name = "SECONDS")]
    settle: u64,
    /// How long a process may take to end and to be ready, the load to go on, and deliveries to be complete.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    patience: u64,
    /// The longest that an acceptance may take, in milliseconds.
    #[arg(long, default_value_t = 3000)]
    max_acceptance_ms: u64,
}

impl VersionsCommand {
    /// An error means that nothing was found out.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let program =
            |path: PathBuf| fs::canonicalize(&path).with_context(|| format!("there is no {}", path.display()));
        let new = match self.new {
            Some(new) => new,
            None => std::env::current_exe().context("can't find this program")?.with_file_name("carillon"),
        };
        let patience = Duration::from_secs(self.patience);
        let options = Options {
            old: program(self.old)?,
            new: program(new)?,
            old_clients: self.old_clients.map(program).transpose()?,
            settle: Duration::from_secs(self.settle),
            max_acceptance: Duration::from_millis(self.max_acceptance_ms),
            load: RunOptions {
                users: self.users.max(2).next_multiple_of(2),
                devices: self.devices.max(1),
                rate: self.rate,
                send_timeout: patience,
                warm_up: Duration::from_secs(self.settle),
                patience,
                // Nothing but programs changes.
                change_patience: patience,
            },
        };
        let config = ClusterConfig {
            program: options.old.clone(),
            folder: self.folder,
            layout: Layout::Loopback,
            subnet: [127, 33, (std::process::id() % 250) as u8 + 1],
            disk_mib: None,
            clocks: false,
            counts: Counts::FULL,
            keeping: Keeping::HalfAnHour,
        };
        let mut cluster = Cluster::start(&config).await.context("the old release does not start")?;
        let report = run(&mut cluster, &options).await?;
        println!("\n{report}");
        Ok(report.outcome())
    }
}
