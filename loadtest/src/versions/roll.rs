//! The replacements, and what they did to the load.

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use carillon_proto::tasks::Tasks;
use parking_lot::Mutex;
use tokio::time::sleep;

use super::clients::{OldClients, Results};
use crate::{
    cluster::{Cluster, Node, Role},
    faults::{
        Outcome, RunOptions,
        load::{Load, Verdict},
        probe::Probe,
        pulse::{self, Pulses},
    },
};

pub(super) struct Options {
    pub(super) old: PathBuf,
    pub(super) new: PathBuf,
    /// The load generator of the old release.
    pub(super) old_clients: Option<PathBuf>,
    /// Load between two replacements.
    pub(super) settle: Duration,
    pub(super) max_acceptance: Duration,
    pub(super) load: RunOptions,
}

/// The load of a pair goes on when this many more messages were accepted and delivered.
const PROGRESS: u64 = 20;
/// The order of an upgrade: a called role is replaced before its callers.
const FORWARD: [Role; 3] = [Role::Storage, Role::Router, Role::Gateway];
/// The other way round.
const BACK: [Role; 3] = [Role::Gateway, Role::Router, Role::Storage];

pub(super) struct Report {
    phases: Vec<String>,
    verdict: Verdict,
    /// The longest time that a small flush to the same disk took meanwhile.
    slowest_probe: Duration,
    /// `None` if there were none.
    old_clients: Option<Results>,
    problems: Vec<String>,
}

pub(super) async fn run(cluster: &mut Cluster, options: &Options) -> anyhow::Result<Report> {
    let tasks = Tasks::new();
    let name = format!("versions-{:x}", carillon_proto::now_ms());
    let load = Load::start(cluster, &name, &options.load, &tasks).await.context("the load does not start")?;
    let load = Arc::new(load);
    let began = Instant::now();
    let probe = Probe::start(cluster.folder())?;
    let pulses = pulse::watch(&load, began, &tasks);
    let old_clients = match &options.old_clients {
        Some(generator) => Some(OldClients::start(generator.clone(), cluster, &tasks)?),
        None => None,
    };
    let mut roll = Roll { cluster, options, load: Arc::clone(&load), pulses, began, phases: Vec::new() };
    let rolled = roll.carry_out().await;
    let phases = roll.phases;
    let mut problems: Vec<String> = rolled.err().map(|error| format!("{error:#}")).into_iter().collect();
    let old_clients = match old_clients {
        Some(clients) => Some(clients.finish().await),
        None => None,
    };
    let verdict = load.finish(options.load.patience).await.unwrap_or_else(|| {
        problems.push("deliveries were not complete, or timelines not read back, in time".to_owned());
        Verdict::default()
    });
    tasks.finish(Duration::from_secs(5)).await;
    problems.extend(verdict.unread.iter().map(ToString::to_string));
    if verdict.slowest > options.max_acceptance {
        problems.push(format!("the slowest acceptance took {:?}", verdict.slowest));
    }
    Ok(Report { phases, verdict, slowest_probe: probe.slowest(), old_clients, problems })
}

struct Roll<'a> {
    cluster: &'a mut Cluster,
    options: &'a Options,
    load: Arc<Load>,
    pulses: Arc<Mutex<Pulses>>,
    began: Instant,
    phases: Vec<String>,
}

impl Roll<'_> {
    async fn carry_out(&mut self) -> anyhow::Result<()> {
        self.goes_on().await?;
        sleep(self.options.settle).await;
        let before = self.level()?;
        self.say(format!("old release, level {before}"));
        let (old, new) = (self.options.old.clone(), self.options.new.clone());
        for (what, program, order) in
            [("forward", &new, FORWARD), ("back", &old, BACK), ("forward for good", &new, FORWARD)]
        {
            self.replace_all(what, program, order).await?;
            let level = self.level()?;
            anyhow::ensure!(level == before, "{what}: the level has risen by itself, from {before} to {level}");
        }
        let from = self.began.elapsed();
        let said = self.raise_level().await?;
        self.goes_on().await?;
        sleep(self.options.settle).await;
        self.away("level raised", from, &said);
        let level = self.level()?;
        if level > before {
            self.old_is_refused(&old, &new).await?;
        } else {
            self.say("both releases read the same level".to_owned());
        }
        sleep(self.options.settle).await;
        self.goes_on().await
    }

    /// Gateways that have just come tell what they run when they renew their leases.
    async fn raise_level(&self) -> anyhow::Result<String> {
        let end = Instant::now() + self.options.load.patience;
        loop {
            match self.cluster.nodes[0].command(&["cluster", "raise-level"]) {
                Err(why) if why.to_string().contains("has not told what it runs") && Instant::now() < end => {
                    sleep(Duration::from_secs(1)).await;
                }
                raised => return Ok(raised?),
            }
        }
    }

    async fn replace_all(&mut self, what: &str, program: &PathBuf, order: [Role; 3]) -> anyhow::Result<()> {
        let from = self.began.elapsed();
        let mut times = Vec::new();
        let nodes: Vec<usize> = order.into_iter().flat_map(|role| self.cluster.of(role)).collect();
        for at in nodes {
            let took = replace(&mut self.cluster.nodes[at], program, self.options.load.patience).await;
            let took = took.with_context(|| what.to_owned())?;
            times.push(format!("{} {:.1} s", self.cluster.nodes[at].name(), took.as_secs_f64()));
            self.goes_on().await.with_context(|| format!("{what}, {}", self.cluster.nodes[at].name()))?;
            sleep(self.options.settle).await;
        }
        self.away(what, from, &times.join(", "));
        Ok(())
    }

    /// A storage node of the old release refuses the data, and says what to do. The others go on meanwhile.
    async fn old_is_refused(&mut self, old: &PathBuf, new: &PathBuf) -> anyhow::Result<()> {
        let (patience, from) = (self.options.load.patience, self.began.elapsed());
        let last = self.cluster.of(Role::Storage).pop().context("no storage node")?;
        let node = &mut self.cluster.nodes[last];
        node.signal("TERM")?;
        node.wait_end(patience).await?;
        let size = std::fs::metadata(&node.log)?.len() as usize;
        node.program.clone_from(old);
        node.start()?;
        let status = node.wait_end(patience).await.context("the old release starts on data that it can't read")?;
        let said = std::fs::read_to_string(&node.log)?.split_off(size);
        let why = said.lines().last().unwrap_or_default().to_owned();
        anyhow::ensure!(
            !status.success() && why.contains("run the release"),
            "the old release ended with {status} and said {why:?}"
        );
        node.program.clone_from(new);
        node.start()?;
        node.wait_ready(patience).await?;
        self.goes_on().await?;
        self.away("the old release is refused", from, &why);
        Ok(())
    }

    /// The level of the cluster, as routers tell it.
    fn level(&self) -> anyhow::Result<u32> {
        let router = self.cluster.of(Role::Router)[0];
        let node = &self.cluster.nodes[router];
        let (program, config) = (self.options.new.to_string_lossy(), node.config.to_string_lossy());
        let said = crate::cluster::tool::run(&program, &["status", "--config", &config])?;
        level_of(&said).with_context(|| format!("no level in {said:?}"))
    }

    async fn goes_on(&self) -> anyhow::Result<()> {
        self.load.goes_on(PROGRESS, self.options.load.patience).await.map_err(anyhow::Error::msg)
    }

    fn away(&mut self, what: &str, from: Duration, more: &str) {
        let (sends, deliveries) = self.pulses.lock().away(from, self.began.elapsed());
        self.say(format!(
            "{what}: longest without an acceptance {} ms, without a delivery {} ms, slowest acceptance so far {} ms; {more}",
            sends.as_millis(),
            deliveries.as_millis(),
            self.load.slowest().as_millis()
        ));
    }

    fn say(&mut self, what: String) {
        println!("{:>6.1} s  {what}", self.began.elapsed().as_secs_f64());
        self.phases.push(what);
    }
}

/// Stops the process in order and starts this program in its place. Returns how long the node was not ready.
async fn replace(node: &mut Node, program: &PathBuf, patience: Duration) -> anyhow::Result<Duration> {
    let from = Instant::now();
    node.signal("TERM")?;
    let status = node.wait_end(patience).await?;
    anyhow::ensure!(status.success(), "{} ended with {status}", node.name());
    node.program.clone_from(program);
    node.start()?;
    node.wait_ready(patience).await?;
    Ok(from.elapsed())
}

/// From the first line of `carillon status`.
fn level_of(said: &str) -> Option<u32> {
    let (_, rest) = said.lines().next()?.split_once(", level ")?;
    rest.split(',').next()?.parse().ok()
}

impl Report {
    pub(super) fn outcome(&self) -> Outcome {
        let old = self.old_clients.as_ref();
        if !self.verdict.violations.is_empty() || old.is_some_and(|old| !old.violations.is_empty()) {
            return Outcome::Broken;
        }
        if !self.problems.is_empty() || old.is_some_and(|old| !old.problems.is_empty()) {
            return Outcome::NotBack;
        }
        Outcome::Passed
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for phase in &self.phases {
            writeln!(f, "{phase}")?;
        }
        let summary = &self.verdict.summary;
        writeln!(
            f,
            "sent {}, accepted {}, refused {}, unknown {}, deliveries {}; slowest acceptance {} ms, slowest flush of the disk {} ms",
            summary.sent,
            summary.accepted,
            summary.refused,
            summary.unknown,
            summary.delivered,
            self.verdict.slowest.as_millis(),
            self.slowest_probe.as_millis()
        )?;
        if let Some(old) = &self.old_clients {
            writeln!(f, "clients of the old release: {} runs", old.runs)?;
        }
        let old = |of: fn(&Results) -> &Vec<String>| self.old_clients.iter().flat_map(of);
        for violation in &self.verdict.violations {
            writeln!(f, "BROKEN: {violation}")?;
        }
        for violation in old(|old| &old.violations) {
            writeln!(f, "BROKEN: {violation}")?;
        }
        for problem in self.problems.iter().chain(old(|old| &old.problems)) {
            writeln!(f, "PROBLEM: {problem}")?;
        }
        match self.outcome() {
            Outcome::Passed => write!(f, "nothing lost, doubled, reordered, invented or corrupted"),
            outcome => write!(f, "{outcome:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_read_from_what_the_status_says() {
        let said = "cluster 41fef57e, level 3, registry version 18752, ring version 16192\n\nNODE";
        assert_eq!(level_of(said), Some(3));
        assert_eq!(level_of("no router answers"), None);
    }

    #[test]
    fn the_worst_finding_decides() {
        let report = |problems: &[&str], old: Option<Results>| Report {
            phases: Vec::new(),
            verdict: Verdict::default(),
            slowest_probe: Duration::ZERO,
            old_clients: old,
            problems: problems.iter().map(|&problem| problem.to_owned()).collect(),
        };
        assert_eq!(report(&[], None).outcome(), Outcome::Passed);
        assert_eq!(report(&["router-1 is not ready"], None).outcome(), Outcome::NotBack);
        let old = Results { runs: 1, violations: vec!["lost".to_owned()], problems: Vec::new() };
        let both = report(&["router-1 is not ready"], Some(old));
        assert_eq!(both.outcome(), Outcome::Broken);
        assert!(both.to_string().contains("BROKEN: lost") && both.to_string().contains("PROBLEM: router-1"), "{both}");
    }
}
