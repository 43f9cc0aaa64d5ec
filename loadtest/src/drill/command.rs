//! The command line of `carillon-drill`.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::ValueEnum as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    run::{Options, Phase, run},
    size::Size,
};
use crate::{
    cluster::tool,
    faults::{Outcome, RunOptions, parse_length},
};

/// Starts a cluster of 3 storage nodes, 2 routers and 2 gateways on this machine and fills its store with messages. Then, under load,
/// storage nodes come, move, are replaced and go, backups are made, also while nodes are killed, and a user is exported and erased; at
/// last a backup is restored, and everything is read back. Says how long each step takes, how many bytes it moves, and what users notice.
///
/// Exit code 0: all well; 1: a step was not done, or the service did not come back; 2: a promise was broken; 3: a step could not be carried
/// out.
#[derive(Debug, clap::Parser)]
#[command(name = "carillon-drill", version)]
pub struct DrillCommand {
    /// The program `carillon`; by default the one beside this program.
    #[arg(long)]
    carillon: Option<PathBuf>,
    /// The size of the store, such as 200m or 5g: bytes on the disk of the first storage node, in the folder of its timelines. All three
    /// nodes have the same, so the disk needs some fifteen times as much.
    #[arg(long, default_value = "200m")]
    fill: Size,
    /// Users who fill the store. A connection may send 50 messages a second.
    #[arg(long, default_value_t = 400)]
    fill_users: usize,
    /// Bytes of each message that fills the store.
    #[arg(long, default_value_t = 1024)]
    fill_bytes: usize,
    /// Sends a second under load, over all users.
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// Users under load, who write to each other in pairs.
    #[arg(long, default_value_t = 40)]
    users: usize,
    /// Connections of each of them.
    #[arg(long, default_value_t = 2)]
    devices: usize,
    /// The load with nothing else going on, to which the rest is compared.
    #[arg(long, default_value = "30s", value_parser = parse_length)]
    steady: Duration,
    /// Only these phases; may be given several times. A restore needs a backup.
    #[arg(long, value_enum)]
    only: Vec<Phase>,
    /// Leaves out these phases; may be given several times.
    #[arg(long, value_enum)]
    skip: Vec<Phase>,
    /// The folder for configuration, logs, backups and, during a run, data.
    #[arg(long, default_value = "drill-run")]
    folder: PathBuf,
    /// Where to write the results as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// How long nodes may take to be ready, the load to go on, and deliveries to be complete.
    #[arg(long, default_value = "2m", value_parser = parse_length)]
    patience: Duration,
    /// How long each change of the storage nodes, backup, erasure and restore may take.
    #[arg(long, default_value = "60m", value_parser = parse_length)]
    change_patience: Duration,
}

impl DrillCommand {
    /// An error means that nothing was found out.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let options = self.options()?;
        let (mut interrupted, mut told) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Everything but configuration, logs and backups is removed when the future is dropped.
        let report = tokio::select! {
            report = run(&options) => report?,
            _ = interrupted.recv() => anyhow::bail!("interrupted"),
            _ = told.recv() => anyhow::bail!("told to end"),
        };
        println!("\n{}", report.text());
        if let Some(path) = &self.json {
            let file = fs::File::create(path).with_context(|| format!("can't write {}", path.display()))?;
            serde_json::to_writer_pretty(file, &report).context("can't write the results")?;
        }
        Ok(report.outcome())
    }

    fn options(&self) -> anyhow::Result<Options> {
        let program = match &self.carillon {
            Some(program) => program.clone(),
            None => std::env::current_exe().context("can't find this program")?.with_file_name("carillon"),
        };
        let program = fs::canonicalize(&program).with_context(|| format!("there is no {}", program.display()))?;
        let phases = self.phases()?;
        fs::create_dir_all(&self.folder).with_context(|| format!("can't make {}", self.folder.display()))?;
        let folder = fs::canonicalize(&self.folder)?;
        let fill = if phases.contains(&Phase::Fill) { self.fill } else { Size(0) };
        check_space(&folder, fill)?;
        Ok(Options {
            program,
            folder,
            fill,
            fill_users: self.fill_users.max(2),
            fill_bytes: self.fill_bytes,
            steady: self.steady,
            phases,
            load: RunOptions {
                users: self.users.max(2).next_multiple_of(2),
                devices: self.devices.max(1),
                rate: self.rate,
                send_timeout: self.patience,
                warm_up: Duration::from_secs(2),
                patience: self.patience,
                change_patience: self.change_patience,
            },
        })
    }

    fn phases(&self) -> anyhow::Result<BTreeSet<Phase>> {
        let wanted = |phase: &&Phase| (self.only.is_empty() || self.only.contains(phase)) && !self.skip.contains(phase);
        let phases: BTreeSet<Phase> = Phase::value_variants().iter().filter(wanted).copied().collect();
        anyhow::ensure!(!phases.is_empty(), "no phase is left");
        anyhow::ensure!(
            !phases.contains(&Phase::Restore) || phases.contains(&Phase::Backup),
            "a restore needs a backup: give --only backup, too, or --skip restore"
        );
        Ok(phases)
    }
}

/// How much space a drill needs for each byte of the store: three or four nodes with timelines and snapshots, which an erasure makes anew,
/// and two backups.
const TIMES: u64 = 15;
/// The logs of the nodes, and the rest.
const BESIDES: u64 = 5_000_000_000;

fn check_space(folder: &std::path::Path, fill: Size) -> anyhow::Result<()> {
    let said = tool::run("df", &["--block-size=1", "--output=avail", &folder.to_string_lossy()])?;
    let free = said.lines().last().and_then(|line| line.trim().parse().ok()).context("df does not say what is free")?;
    let needed = fill.0.saturating_mul(TIMES).saturating_add(BESIDES);
    anyhow::ensure!(
        free >= needed,
        "{} has {} free, and a store of {fill} needs {}: take another --folder or a smaller --fill",
        folder.display(),
        Size(free),
        Size(needed)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn phases(arguments: &str) -> anyhow::Result<Vec<Phase>> {
        let arguments = ["carillon-drill"].into_iter().chain(arguments.split_whitespace());
        Ok(DrillCommand::try_parse_from(arguments)?.phases()?.into_iter().collect())
    }

    #[test]
    fn phases_are_chosen_and_left_out() {
        assert_eq!(phases("").expect("all").len(), Phase::value_variants().len());
        assert_eq!(phases("--only changes --only fill").expect("two"), [Phase::Fill, Phase::Changes]);
        assert_eq!(phases("--skip changes --skip restore").expect("three"), [Phase::Fill, Phase::Backup, Phase::Erase]);
        let needs = phases("--only restore").expect_err("without a backup");
        assert!(needs.to_string().contains("needs a backup"), "{needs}");
        assert!(phases("--only fill --skip fill").is_err());
        assert!(phases("--only backups").is_err());
    }

    #[test]
    fn a_store_that_does_not_fit_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        check_space(folder.path(), Size(u64::MAX)).expect_err("no disk is that large");
    }
}
