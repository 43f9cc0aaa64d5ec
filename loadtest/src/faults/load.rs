//! The load of a run: pairs of users who write to each other, so that an outage of one pair is not hidden by the
//! others.

use std::time::{Duration, Instant};

use carillon_proto::tasks::Tasks;
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::RunOptions;
use crate::{
    checker::{Summary, Unread, Violation},
    cluster::Cluster,
    direct::{Direct, DirectConfig, SlowReaders},
    measure::latencies::histogram,
    payload::Filling,
    scenario::{RunError, Witness},
};

const PAIR: usize = 2;

pub(crate) struct Load {
    /// Empty after the end.
    pairs: Mutex<Vec<Direct>>,
}

#[derive(Default)]
pub(crate) struct Verdict {
    pub(crate) summary: Summary,
    pub(crate) violations: Vec<Violation>,
    /// Timelines that could not be read back. Their content is unknown.
    pub(crate) unread: Vec<Unread>,
    /// The longest time from the moment at which a send was due to its acceptance.
    pub(crate) slowest: Duration,
}

impl Load {
    pub(crate) async fn start(
        cluster: &Cluster,
        name: &str,
        options: &RunOptions,
        tasks: &Tasks,
    ) -> Result<Self, RunError> {
        let mut pairs = Vec::new();
        for pair in 0..options.users.div_ceil(PAIR) {
            let config = DirectConfig {
                run: format!("{name}-{pair}"),
                addresses: cluster.addresses().to_vec(),
                users: PAIR,
                devices: options.devices,
                rate: Some(options.rate / options.users as f64),
                window: 64,
                bytes: 256,
                filling: Filling::Repeated,
                send_timeout: options.send_timeout,
                slow_readers: SlowReaders::default(),
            };
            pairs.push(Direct::start(config, |user| cluster.token(user), tasks).await?);
        }
        Ok(Self { pairs: Mutex::new(pairs) })
    }

    /// The pairs' records of their messages, which last beyond the end.
    pub(crate) fn witnesses(&self) -> Vec<Witness> {
        self.pairs.lock().iter().map(Direct::witness).collect()
    }

    /// Latencies in microseconds of acceptance and delivery since the last call.
    pub(crate) fn take_latencies(&self) -> (Histogram<u64>, Histogram<u64>) {
        let mut all = (histogram(), histogram());
        for pair in self.pairs.lock().iter() {
            all.0 += pair.recorder().acceptance.take_interval();
            all.1 += pair.recorder().delivery.take_interval();
        }
        all
    }

    /// Messages of each pair that were accepted and delivered so far.
    pub(crate) fn counts(&self) -> Vec<(u64, u64)> {
        self.pairs.lock().iter().map(|pair| (pair.accepted(), pair.delivered())).collect()
    }

    /// The longest time so far from the moment at which a send was due to its acceptance.
    pub(crate) fn slowest(&self) -> Duration {
        let longest = |pair: &Direct| pair.recorder().acceptance.total().max();
        Duration::from_micros(self.pairs.lock().iter().map(longest).max().unwrap_or_default())
    }

    /// Waits until each pair has accepted and delivered this many more messages. The error names the pairs that stand
    /// still.
    pub(crate) async fn goes_on(&self, messages: u64, patience: Duration) -> Result<(), String> {
        let goal: Vec<_> = self.counts().iter().map(|(a, d)| (a + messages, d + messages)).collect();
        let give_up = Instant::now() + patience;
        loop {
            let mut pairs = self.counts().into_iter().zip(&goal).enumerate();
            let behind = pairs.find(|(_, (count, goal))| count.0 < goal.0 || count.1 < goal.1);
            let Some((pair, (count, goal))) = behind else { return Ok(()) };
            if Instant::now() > give_up {
                let what = if count.0 < goal.0 { "sends" } else { "deliveries" };
                return Err(format!("{what} of pair {pair} stand still"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until everything accepted is delivered, and reads the timelines back. `None` if that was not done in time.
    pub(crate) async fn finish(&self, patience: Duration) -> Option<Verdict> {
        let pairs = std::mem::take(&mut *self.pairs.lock());
        let finished = join_all(pairs.into_iter().map(|pair| pair.finish(patience)));
        let reports = tokio::time::timeout(patience * 2, finished).await;
        let mut verdict = Verdict::default();
        for report in reports.ok()? {
            verdict.summary += report.summary;
            verdict.slowest = verdict.slowest.max(Duration::from_micros(report.latencies.max()));
            verdict.violations.extend(report.violations);
            verdict.unread.extend(report.findings.unread);
        }
        Some(verdict)
    }
}
