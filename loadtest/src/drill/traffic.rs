//! A steady load, and what a stretch of it was like.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use carillon_proto::tasks::Tasks;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::sleep;

use crate::{
    cluster::Cluster,
    faults::{
        RunOptions,
        load::{Load, Verdict},
        probe::Probe,
        pulse::{self, Pulses},
    },
    report::sample::Quantiles,
    scenario::Witness,
};

/// The load of a pair goes on when this many more messages were accepted and delivered.
const PROGRESS: u64 = 20;

pub(super) struct Traffic {
    load: Arc<Load>,
    pulses: Arc<Mutex<Pulses>>,
    probe: Probe,
    began: Instant,
    tasks: Tasks,
}

/// Effects on users in a stretch of time.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Stretch {
    pub(super) seconds: f64,
    pub(super) accepted: u64,
    /// From the time at which a message was due; `None` if nothing was accepted.
    pub(super) acceptance: Option<Quantiles>,
    pub(super) delivery: Option<Quantiles>,
    /// The longest time without an acceptance, of the pair of users for which it was longest.
    pub(super) sends_away_ms: u64,
    pub(super) deliveries_away_ms: u64,
    /// Of a small flush to the same disk in this program.
    pub(super) slowest_flush_ms: u64,
}

/// Where a stretch begins.
pub(super) struct Beginning {
    from: Duration,
    accepted: u64,
}

impl Traffic {
    /// Returns when all pairs write to each other, and have done so for the time of the warm-up.
    pub(super) async fn start(cluster: &Cluster, name: &str, options: &RunOptions) -> anyhow::Result<Self> {
        let tasks = Tasks::new();
        let load = Load::start(cluster, name, options, &tasks).await.context("the load does not start")?;
        let (load, began) = (Arc::new(load), Instant::now());
        let pulses = pulse::watch(&load, began, &tasks);
        let probe = Probe::start(cluster.folder())?;
        let traffic = Self { load, pulses, probe, began, tasks };
        traffic.goes_on(options.patience).await?;
        sleep(options.warm_up).await;
        Ok(traffic)
    }

    pub(super) async fn goes_on(&self, patience: Duration) -> anyhow::Result<()> {
        self.load.goes_on(PROGRESS, patience).await.map_err(anyhow::Error::msg)
    }

    fn accepted(&self) -> u64 {
        self.load.counts().iter().map(|(accepted, _)| accepted).sum()
    }

    pub(super) fn begin(&self) -> Beginning {
        self.load.take_latencies();
        self.probe.take_slowest();
        Beginning { from: self.began.elapsed(), accepted: self.accepted() }
    }

    /// Waits until all pairs go on, so that what has waited counts, too.
    pub(super) async fn end(&self, beginning: Beginning, patience: Duration) -> anyhow::Result<Stretch> {
        self.goes_on(patience).await?;
        let until = self.began.elapsed();
        let (sends_away, deliveries_away) = self.pulses.lock().away(beginning.from, until);
        let (acceptance, delivery) = self.load.take_latencies();
        Ok(Stretch {
            seconds: (until - beginning.from).as_secs_f64(),
            accepted: self.accepted() - beginning.accepted,
            acceptance: Quantiles::of(&acceptance),
            delivery: Quantiles::of(&delivery),
            sends_away_ms: sends_away.as_millis() as u64,
            deliveries_away_ms: deliveries_away.as_millis() as u64,
            slowest_flush_ms: self.probe.take_slowest().as_millis() as u64,
        })
    }

    /// Measures a stretch in which nothing happens.
    pub(super) async fn quiet(&self, length: Duration, patience: Duration) -> anyhow::Result<Stretch> {
        let beginning = self.begin();
        sleep(length).await;
        self.end(beginning, patience).await
    }

    pub(super) fn witnesses(&self) -> Vec<Witness> {
        self.load.witnesses()
    }

    /// Ends the load and reads its timelines back.
    pub(super) async fn finish(self, patience: Duration) -> anyhow::Result<Verdict> {
        let verdict = self.load.finish(patience).await;
        self.tasks.finish(Duration::from_secs(5)).await;
        verdict.context("deliveries were not complete, or timelines not read back, in time")
    }
}
