//! One run: a load, a schedule of faults, and the result.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::tasks::Tasks;
use tokio::time::sleep_until;

use super::{
    Edge, Schedule, inject,
    inject::Active,
    load::{Load, Verdict},
    probe::Probe,
    pulse,
    report::RunRecord,
};
use crate::{
    cluster::{Cluster, ClusterError},
    scenario::RunError,
};

#[derive(Debug, Clone)]
pub struct RunOptions {
    pub users: usize,
    /// Connections of each user.
    pub devices: usize,
    /// Sends a second over all users.
    pub rate: f64,
    pub send_timeout: Duration,
    /// Load before the first fault.
    pub warm_up: Duration,
    /// How long nodes may take to become ready, the load to continue, and deliveries to be complete.
    pub patience: Duration,
    /// How long a change of the storage nodes may take after everything else was healed.
    pub change_patience: Duration,
}

/// An event of a run.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FaultMark {
    /// Milliseconds since the beginning of the run.
    pub at_ms: u64,
    pub what: String,
    /// The nodes that the event concerns.
    pub nodes: Vec<String>,
}

/// A run that could not be carried out says nothing about the service.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunFailed {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("the load does not start: {0}")]
    Load(#[from] RunError),
    #[error("before any fault {0}")]
    StandsStill(String),
    #[error("the change was over before the fault could strike in the middle of it")]
    Missed,
}

/// The load of a pair has continued when this many more messages were accepted and delivered.
const PROGRESS: u64 = 20;

/// `round` is the number of earlier runs on this cluster, by which nodes take turns.
pub(crate) async fn run(
    cluster: &mut Cluster,
    schedule: &Schedule,
    round: usize,
    options: &RunOptions,
) -> Result<RunRecord, RunFailed> {
    let began_unix_ms = carillon_proto::now_ms();
    let tasks = Tasks::new();
    let load = Load::start(cluster, &format!("faults-{began_unix_ms:x}"), options, &tasks).await;
    let record = match load {
        Ok(load) => under_load(cluster, schedule, round, options, Arc::new(load), &tasks).await,
        Err(error) => Err(error.into()),
    };
    tasks.finish(Duration::from_secs(5)).await;
    Ok(RunRecord { began_unix_ms, ..record? })
}

async fn under_load(
    cluster: &mut Cluster,
    schedule: &Schedule,
    round: usize,
    options: &RunOptions,
    load: Arc<Load>,
    tasks: &Tasks,
) -> Result<RunRecord, RunFailed> {
    let began = Instant::now();
    let folder = cluster.folder();
    let probe = Probe::start(folder).map_err(ClusterError::io(folder))?;
    let pulses = pulse::watch(&load, began, tasks);
    load.goes_on(PROGRESS, options.patience).await.map_err(RunFailed::StandsStill)?;
    tokio::time::sleep(options.warm_up).await;

    let mut story = Story {
        cluster,
        began,
        marks: Vec::new(),
        hit: Vec::new(),
        notes: Vec::new(),
        problems: Vec::new(),
        change: None,
        patience: options.change_patience,
    };
    let from = began.elapsed();
    story.carry_out(schedule, round, tasks).await?;
    story.mark("healed", Vec::new());
    story.all_ready(options.patience).await;
    match load.goes_on(PROGRESS, options.patience).await {
        Ok(()) => story.mark("goes on", Vec::new()),
        Err(stands_still) => {
            story.mark("still away", Vec::new());
            story.problems.push(format!("{stands_still} {:?} after everything was healed", options.patience));
        }
    }
    // A failure that comes a little later is seen, too.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (sends_away, deliveries_away) = pulses.lock().away(from, began.elapsed());

    let Story { marks, notes, mut problems, change, .. } = story;
    let verdict = load.finish(options.patience).await.unwrap_or_else(|| {
        problems.push("deliveries were not complete, or timelines not read back, in time".to_owned());
        Verdict::default()
    });
    problems.extend(verdict.unread.iter().map(ToString::to_string));
    let tenths = std::mem::take(&mut *pulses.lock()).into_tenths();
    Ok(RunRecord {
        began_unix_ms: 0,
        marks,
        sends_away_ms: sends_away.as_millis() as u64,
        deliveries_away_ms: deliveries_away.as_millis() as u64,
        change_ms: change.map(|took| took.as_millis() as u64),
        slowest_probe_ms: probe.slowest().as_millis() as u64,
        slowest_acceptance_ms: verdict.slowest.as_millis() as u64,
        sent: verdict.summary.sent,
        accepted: verdict.summary.accepted,
        refused: verdict.summary.refused,
        unknown: verdict.summary.unknown,
        delivered: verdict.summary.delivered,
        violations: verdict.violations.iter().map(ToString::to_string).collect(),
        problems,
        notes,
        tenths,
    })
}

/// Carries a schedule out without a load of its own. Returns the nodes that were hit, and what is not as it should be; an error means that
/// it could not be carried out.
pub(crate) async fn strike(
    cluster: &mut Cluster,
    schedule: &Schedule,
    round: usize,
    patience: Duration,
    tasks: &Tasks,
) -> Result<(Vec<String>, Vec<String>), String> {
    let mut story = Story {
        cluster,
        began: Instant::now(),
        marks: Vec::new(),
        hit: Vec::new(),
        notes: Vec::new(),
        problems: Vec::new(),
        change: None,
        patience,
    };
    story.carry_out(schedule, round, tasks).await.map_err(|failed| failed.to_string())?;
    story.all_ready(patience).await;
    Ok((story.hit, story.problems))
}

struct Story<'a> {
    cluster: &'a mut Cluster,
    began: Instant,
    marks: Vec<FaultMark>,
    /// The nodes that steps have begun with.
    hit: Vec<String>,
    notes: Vec<String>,
    problems: Vec<String>,
    /// How long the change took from the command on.
    change: Option<Duration>,
    /// For a change.
    patience: Duration,
}

/// How much later than the first replica a fault in the middle of a change strikes; rounds take turns.
const MIDDLES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(700), Duration::from_millis(1500)];

impl Story<'_> {
    async fn carry_out(&mut self, schedule: &Schedule, round: usize, tasks: &Tasks) -> Result<(), RunFailed> {
        let mut start = Instant::now();
        let mut active: Vec<Option<Active>> = schedule.steps.iter().map(|_| None).collect();
        for (when, edge) in schedule.edges() {
            sleep_until((start + when).into()).await;
            match edge {
                Edge::Begin(at) => {
                    let step = schedule.steps[at].1;
                    let midway = active.iter().flatten().find_map(|active| active.change.as_ref());
                    let midway = midway.filter(|_| schedule.midway);
                    let begun = inject::begin(self.cluster, step, round, midway, tasks, &mut self.notes).await?;
                    let begun = begun.ok_or(RunFailed::Missed)?;
                    // The injection itself takes time; the fault counts from its beginning.
                    let at_ms = begun.struck.duration_since(self.began).as_millis() as u64;
                    let nodes = begun.names(self.cluster);
                    self.hit.extend_from_slice(&nodes);
                    self.marks.push(FaultMark { at_ms, what: format!("{step} begins"), nodes });
                    if let Some(change) = begun.change.as_ref().filter(|_| schedule.midway) {
                        if !change.wait_for_the_middle(self.cluster, self.patience).await? {
                            return Err(RunFailed::Missed);
                        }
                        if change.takes_long() {
                            tokio::time::sleep(MIDDLES[round % MIDDLES.len()]).await;
                        }
                        start = Instant::now() - when;
                    }
                    active[at] = Some(begun);
                }
                Edge::End(at) => {
                    let Some(ending) = active[at].take() else { continue };
                    match &ending.change {
                        Some(change) => match change.finish(self.cluster, self.patience).await {
                            Ok(took) => self.change = Some(took),
                            Err(why) => self.problems.push(why),
                        },
                        None => {
                            inject::end(self.cluster, &ending, self.patience, &mut self.notes, &mut self.problems)
                                .await?
                        }
                    }
                    let nodes = ending.names(self.cluster);
                    self.mark(&format!("{} ends", schedule.steps[at].1), nodes);
                }
            }
        }
        Ok(())
    }

    async fn all_ready(&mut self, patience: Duration) {
        for node in self.cluster.nodes.iter_mut().filter(|node| !node.retired) {
            if let Err(error) = node.wait_ready(patience).await {
                self.problems.push(error.to_string());
            }
        }
    }

    fn mark(&mut self, what: &str, nodes: Vec<String>) {
        let at_ms = self.began.elapsed().as_millis() as u64;
        self.marks.push(FaultMark { at_ms, what: what.to_owned(), nodes });
    }
}
