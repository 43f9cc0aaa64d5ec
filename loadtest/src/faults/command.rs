//! The command line of `carillon-faults`.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{Outcome, Report, RunOptions, Schedule, fault::parse_length, page::page, suite::Suite};
use crate::cluster::Layout;

/// Starts a cluster of 3 storage nodes, 2 routers and 2 gateways on this machine, puts a load on it, makes its nodes,
/// network, disks and clocks fail, damages files, adds, removes and replaces storage nodes, and checks that nothing that was accepted is
/// lost, doubled, reordered or corrupted.
///
/// Exit code 0: all well; 1: the service did not come back by itself; 2: a promise was broken; 3: a run could not be
/// carried out.
#[derive(Debug, clap::Parser)]
#[command(name = "carillon-faults", version)]
pub struct FaultsCommand {
    /// The program `carillon`; by default the one beside this program.
    #[arg(long)]
    carillon: Option<PathBuf>,
    /// A fault such as "kill storage-leader for 3s"; may be given several times. Without any, and without a timeline: all
    /// faults against all kinds of nodes. A change of the storage nodes may have a fault in the middle of it, such as
    /// "add new with kill controller for 3s".
    #[arg(long = "fault", value_name = "FAULT TARGET [for LENGTH]", value_parser = Schedule::of_line)]
    faults: Vec<Schedule>,
    /// Runs only faults whose text contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// A file with one `TIME FAULT TARGET [for LENGTH]` a line: all in one run. May be given several times.
    #[arg(long, value_name = "FILE")]
    timeline: Vec<PathBuf>,
    /// How often each schedule is run.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// The folder for configuration, logs and, during a run, data.
    #[arg(long, default_value = "faults-run")]
    folder: PathBuf,
    /// Where to write the results as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where to write a page with the table and a chart of each run.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Run nothing: the results are those of such a JSON file. May be given several times; runs of the same fault are put
    /// together.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["faults", "only", "timeline", "runs"])]
    from: Vec<PathBuf>,
    /// Puts each node into a network namespace, also for faults that don't need one.
    #[arg(long)]
    namespaces: bool,
    /// Size in MiB of the disk of each storage node, for the faults of disks.
    #[arg(long, default_value_t = 1536)]
    disk_mib: u64,
    /// Users, who write to each other in pairs.
    #[arg(long, default_value_t = 8)]
    users: usize,
    /// Connections of each user.
    #[arg(long, default_value_t = 2)]
    devices: usize,
    /// Sends a second over all users.
    #[arg(long, default_value_t = 160.0)]
    rate: f64,
    /// Load before the first fault.
    #[arg(long, default_value = "2s", value_parser = parse_length)]
    warm_up: Duration,
    /// How long nodes may take to come back, the load to go on, and deliveries to be complete.
    #[arg(long, default_value = "60s", value_parser = parse_length)]
    patience: Duration,
    /// How long a change of the storage nodes may take after everything else was healed.
    #[arg(long, default_value = "5m", value_parser = parse_length)]
    change_patience: Duration,
}

/// Every fault against every kind of node that it can hit.
const ALL: &str = "
kill storage-leader for 3s
kill storage-follower for 3s
kill router for 3s
kill gateway for 3s
kill storage for 1s
kill routers for 1s
kill gateways for 1s
kill all for 1s
restart storage-leader
restart storage-follower
restart router
restart gateway
restart all
roll storage
roll routers
roll gateways
pause storage-leader for 5s
pause storage-follower for 5s
pause router for 5s
pause gateway for 5s
pause all for 5s
partition storage-leader for 8s
partition storage-follower for 8s
partition router for 8s
partition gateway for 8s
deaf storage-leader for 8s
deaf storage-follower for 8s
deaf router for 8s
deaf gateway for 8s
mute storage-leader for 8s
mute storage-follower for 8s
mute router for 8s
mute gateway for 8s
unplug storage-leader for 8s
unplug router for 8s
unplug gateway for 8s
delay=50ms storage-leader for 8s
delay=50ms storage-follower for 8s
delay=50ms router for 8s
delay=50ms gateway for 8s
delay=25ms all for 8s
loss=10% storage-leader for 8s
loss=10% storage-follower for 8s
loss=10% router for 8s
loss=10% gateway for 8s
loss=5% all for 8s
slow-disk=1000k storage-leader for 8s
slow-disk=1000k storage-follower for 8s
slow-disk=1000k storage for 8s
full-disk storage-leader for 8s
full-disk storage-follower for 8s
full-disk storage for 8s
disk-errors storage-leader for 5s
disk-errors storage-follower for 5s
read-errors=directory storage-leader for 5s
read-errors=directory storage-follower for 5s
read-errors=timeline storage-leader for 5s
read-errors=timeline storage-follower for 5s
read-errors=log storage-leader for 5s
read-errors=log storage-follower for 5s
read-errors=snapshots storage-leader for 5s
read-errors=snapshots storage-follower for 5s
read-errors=identity storage-leader for 5s
read-errors=identity storage-follower for 5s
power-cut storage-leader for 3s
power-cut storage-follower for 3s
power-cut storage for 3s
clock=+3600s storage-leader for 8s
clock=-3600s storage-leader for 8s
clock=+3600s storage-follower for 8s
clock=+3600s router for 8s
clock=-3600s router for 8s
clock=+3600s gateway for 8s
clock=+3600s all for 8s
clock=-3600s all for 8s
damage=directory storage-leader for 5s
damage=directory storage-follower for 5s
damage=timeline storage-leader for 5s
damage=timeline storage-follower for 5s
damage=log storage-leader for 5s
damage=log storage-follower for 5s
damage=identity storage-leader for 5s
damage=identity storage-follower for 5s
damage-at-rest=directory storage-leader for 1s
damage-at-rest=directory storage-follower for 1s
damage-at-rest=timeline storage-leader for 1s
damage-at-rest=timeline storage-follower for 1s
damage-at-rest=log storage-leader for 1s
damage-at-rest=log storage-follower for 1s
damage-at-rest=snapshots storage-leader for 1s
damage-at-rest=snapshots storage-follower for 1s
damage-at-rest=identity storage-leader for 1s
damage-at-rest=identity storage-follower for 1s
add new
add new with kill controller for 3s
add new with kill storage-follower for 3s
add new with pause controller for 5s
add new with partition new for 5s
rebalance storage
rebalance storage with kill controller for 3s
rebalance storage with kill storage-follower for 3s
rebalance storage with pause controller for 5s
rebalance storage with partition new for 5s
remove storage-leader
remove storage-leader with kill controller for 3s
remove storage-leader with kill storage-follower for 3s
remove storage-leader with pause controller for 5s
remove storage-leader with partition new for 5s
replace storage-follower
replace storage-follower with kill controller for 3s
replace storage-follower with kill storage-follower for 3s
replace storage-follower with pause controller for 5s
replace storage-follower with partition new for 5s
replace-elsewhere storage-follower
replace-elsewhere storage-follower with kill controller for 3s
replace-elsewhere storage-follower with kill storage-follower for 3s
replace-elsewhere storage-follower with pause controller for 5s
replace-elsewhere storage-follower with partition new for 5s
readdress storage-follower
readdress storage-follower with kill controller for 3s
readdress storage-follower with kill storage-follower for 3s
readdress storage-follower with pause controller for 5s
readdress storage-follower with partition new for 5s
move storage-leader
move storage-leader with kill controller for 3s
move storage-leader with kill storage-follower for 3s
move storage-leader with pause controller for 5s
move storage-leader with partition new for 5s
";

impl FaultsCommand {
    /// An error means that nothing was found out.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let report = if self.from.is_empty() { self.carry_out().await? } else { read(&self.from)? };
        println!("\n{}", report.table());
        if let Some(path) = &self.json {
            let file = fs::File::create(path).with_context(|| format!("can't write {}", path.display()))?;
            serde_json::to_writer(file, &report).context("can't write the results")?;
        }
        if let Some(path) = &self.html {
            fs::write(path, page(&report)).with_context(|| format!("can't write {}", path.display()))?;
        }
        Ok(report.outcome())
    }

    async fn carry_out(&self) -> anyhow::Result<Report> {
        let suite = self.suite()?;
        let (mut interrupted, mut told) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Everything that was made on the machine is removed when the future is dropped.
        tokio::select! {
            report = suite.run(|line| println!("{line}")) => Ok(report),
            _ = interrupted.recv() => anyhow::bail!("interrupted"),
            _ = told.recv() => anyhow::bail!("told to end"),
        }
    }

    fn suite(&self) -> anyhow::Result<Suite> {
        let program = match &self.carillon {
            Some(program) => program.clone(),
            None => std::env::current_exe().context("can't find this program")?.with_file_name("carillon"),
        };
        let program = fs::canonicalize(&program).with_context(|| format!("there is no {}", program.display()))?;
        let mut schedules = Vec::new();
        for path in &self.timeline {
            let text = fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
            let schedule = text.parse().with_context(|| format!("{} is not a timeline", path.display()))?;
            schedules.push((path.display().to_string(), schedule));
        }
        let lines = if self.faults.is_empty() && self.timeline.is_empty() { all() } else { self.faults.clone() };
        let lines = lines.into_iter().map(|schedule| (schedule.to_string(), schedule));
        schedules.extend(lines.filter(|(name, _)| name.contains(&self.only)));
        anyhow::ensure!(!schedules.is_empty(), "no fault contains {:?}", self.only);
        anyhow::ensure!(self.runs > 0, "--runs is 0: nothing would be found out");
        Ok(Suite {
            schedules,
            runs: self.runs,
            program,
            folder: self.folder.clone(),
            layout: if self.namespaces { Layout::Namespaces } else { Layout::Loopback },
            disk_mib: self.disk_mib,
            options: RunOptions {
                users: self.users.max(2).next_multiple_of(2),
                devices: self.devices.max(1),
                rate: self.rate,
                send_timeout: self.patience,
                warm_up: self.warm_up,
                patience: self.patience,
                change_patience: self.change_patience,
            },
        })
    }
}

fn read(paths: &[PathBuf]) -> anyhow::Result<Report> {
    let mut reports = Vec::new();
    for path in paths {
        let text = fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
        let report: Report = serde_json::from_str(&text)
            .with_context(|| format!("{} is not what --json of this program writes", path.display()))?;
        anyhow::ensure!(!report.rows.is_empty(), "{} has no runs", path.display());
        reports.push(report);
    }
    Ok(Report::join(reports))
}

fn all() -> Vec<Schedule> {
    // A test parses these lines.
    ALL.trim().lines().map(|line| Schedule::of_line(line).expect("ALL is valid")).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{
        super::{Row, RunRecord},
        *,
    };

    #[test]
    fn the_standard_suite_is_valid() {
        let all = all();
        assert!(all.len() > 100);
        let names: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(names.join("\n"), ALL.trim(), "each is written as it is read");
    }

    #[test]
    fn a_wrong_fault_is_refused_with_what_would_be_right() {
        let error = FaultsCommand::try_parse_from(["carillon-faults", "--fault", "kill bill"]).expect_err("wrong");
        assert!(error.to_string().contains("\"bill\" is no target: storage-leader"), "{error}");
    }

    #[tokio::test]
    async fn files_of_earlier_runs_make_a_page_and_their_worst_outcome() {
        let folder = tempfile::tempdir().expect("folder");
        let (good, bad, html) = ["good.json", "bad.json", "page.html"].map(|name| folder.path().join(name)).into();
        let file = |problems: &[&str]| {
            let problems = problems.iter().map(|&problem| problem.to_owned()).collect();
            let run = RunRecord { problems, ..RunRecord::default() };
            Report { rows: vec![Row { name: "kill router for 3s".to_owned(), runs: vec![run], failed: Vec::new() }] }
        };
        for (path, report) in [(&good, file(&[])), (&bad, file(&["router-1 is not ready"]))] {
            fs::write(path, serde_json::to_vec(&report).expect("json")).expect("written");
        }
        let from = |paths: &[&PathBuf]| {
            let mut arguments = vec!["carillon-faults".to_owned(), "--html".to_owned(), html.display().to_string()];
            arguments.extend(paths.iter().flat_map(|path| ["--from".to_owned(), path.display().to_string()]));
            FaultsCommand::try_parse_from(arguments).expect("valid")
        };
        assert_eq!(from(&[&good]).run().await.expect("read"), Outcome::Passed);
        assert_eq!(from(&[&good, &bad]).run().await.expect("read"), Outcome::NotBack);
        let page = fs::read_to_string(&html).expect("a page");
        assert!(page.contains("run 2: NOT BACK: router-1 is not ready"), "{page}");

        fs::write(&bad, "{}").expect("written");
        let error = from(&[&bad]).run().await.expect_err("no report");
        assert!(error.to_string().contains("bad.json is not what --json"), "{error}");
    }

    #[test]
    fn earlier_runs_and_new_ones_at_once_are_refused() {
        let both = ["carillon-faults", "--from", "a.json", "--fault", "kill router for 3s"];
        assert!(FaultsCommand::try_parse_from(both).is_err());
    }
}
