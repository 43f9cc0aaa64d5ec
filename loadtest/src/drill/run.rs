//! The phases of a drill, one after the other on one cluster.

use std::{
    collections::BTreeSet,
    fmt,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use carillon_client::ConnectOptions;
use carillon_proto::{Level, tasks::Tasks};
use tokio::time::sleep;

use super::{backup, changes, erase, fill, letters::Letters, report::Report, restore, size::Size};
use crate::{
    cluster::{Cluster, ClusterConfig, Counts, Keeping, Layout, tool},
    faults::RunOptions,
    scenario::{Target, Witness},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Phase {
    /// Messages until the store has its size.
    Fill,
    /// Changes of the storage nodes under load.
    Changes,
    /// Backups under load: a quiet one, and one while a storage node and a router are killed.
    Backup,
    /// A user is exported and erased, under load.
    Erase,
    /// A new cluster is made of the last backup, and everything is read back.
    Restore,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fill => "fill",
            Self::Changes => "changes",
            Self::Backup => "backup",
            Self::Erase => "erase",
            Self::Restore => "restore",
        })
    }
}

pub(super) struct Options {
    pub(super) program: PathBuf,
    /// An absolute path.
    pub(super) folder: PathBuf,
    pub(super) fill: Size,
    pub(super) fill_users: usize,
    pub(super) fill_bytes: usize,
    pub(super) steady: Duration,
    pub(super) phases: BTreeSet<Phase>,
    pub(super) load: RunOptions,
}

/// A drill under way.
pub(super) struct Drill<'a> {
    pub(super) options: &'a Options,
    pub(super) cluster: Cluster,
    /// Names the users, so that runs do not mix.
    pub(super) name: String,
    pub(super) letters: Letters,
    /// All messages that can be read again, apart from the letters.
    pub(super) witnesses: Vec<Witness>,
    /// How many of the witnesses were there when the last backup began.
    pub(super) backed_up: usize,
    pub(super) report: Report,
    pub(super) tasks: Tasks,
    pub(super) began: Instant,
}

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let tasks = Tasks::new();
    let report = on_a_cluster(options, &tasks).await;
    tasks.finish(Duration::from_secs(5)).await;
    report
}

async fn on_a_cluster(options: &Options, tasks: &Tasks) -> anyhow::Result<Report> {
    let began_unix_ms = carillon_proto::now_ms();
    let program = tool::run(&options.program.to_string_lossy(), &["--version"])?;
    let mut cluster = Cluster::start(&options.cluster("cluster", Counts::FULL)).await.context("no cluster")?;
    reaches_its_level(&mut cluster, options.load.patience).await?;
    let name = format!("drill-{began_unix_ms:x}");
    let target = target(&cluster);
    let letters = Letters::write(&name, &target, |user| cluster.token(user), tasks).await?;
    let report = Report { began_unix_ms, program, ..Report::default() };
    let (tasks, began) = (tasks.clone(), Instant::now());
    let mut drill =
        Drill { options, cluster, name, letters, witnesses: Vec::new(), backed_up: 0, report, tasks, began };
    for phase in options.phases.iter().copied() {
        drill.say(&format!("phase {phase}"));
        let done = match phase {
            Phase::Fill => fill::run(&mut drill).await,
            Phase::Changes => changes::run(&mut drill).await,
            Phase::Backup => backup::run(&mut drill).await,
            Phase::Erase => erase::run(&mut drill).await,
            Phase::Restore => return Ok(restore::run(drill).await),
        };
        // Whatever was done: nobody has told a node to end.
        let done = done.and(drill.cluster.all_run().map_err(Into::into));
        if let Err(error) = done {
            drill.report.problems.push(format!("{phase}: {error:#}"));
            break;
        }
    }
    Ok(drill.report)
}

/// Members change, and users are erased, only from some level on, which a new cluster has soon.
async fn reaches_its_level(cluster: &mut Cluster, patience: Duration) -> anyhow::Result<()> {
    let give_up = Instant::now() + patience;
    while cluster.members().await?.level < Level::ERASURE.0 {
        anyhow::ensure!(Instant::now() < give_up, "the program's new clusters have a level below {}", Level::ERASURE.0);
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

pub(super) fn target(cluster: &Cluster) -> Target {
    Target { addresses: cluster.addresses().to_vec(), connect: ConnectOptions::default() }
}

impl Options {
    pub(super) fn cluster(&self, name: &str, counts: Counts) -> ClusterConfig {
        ClusterConfig {
            program: self.program.clone(),
            folder: self.folder.join(name),
            layout: Layout::Loopback,
            subnet: [127, 34, (std::process::id() % 250) as u8 + 1],
            disk_mib: None,
            clocks: false,
            counts,
            keeping: Keeping::Everything,
        }
    }
}

impl Drill<'_> {
    pub(super) fn say(&self, what: &str) {
        println!("{:>7.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// The name of the load of a phase, and of its users.
    pub(super) fn load_of(&self, phase: Phase) -> String {
        format!("{}-{phase}", self.name)
    }
}
