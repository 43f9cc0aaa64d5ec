//! What a node tells others: the work that it does as the leader of shards, and whether it keeps up.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{
    ShardId,
    pb::raft::{LoadReply, LoadRequest, ShardRate, raft_frame::Body},
};
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::{
    cluster::{Cluster, Serving},
    health::{self, Health},
    raft::{LinkError, Route, UNKNOWN_FRAME},
};

const INTERVAL: Duration = Duration::from_secs(5);
/// A rate is the mean of the work a second, of which the last such time counts for the most.
const MEMORY: Duration = Duration::from_secs(60);
/// Rates of shards that are led for a shorter time are not told.
const KNOWN: Duration = Duration::from_secs(30);
/// Another node answers a question within this time, or has trouble of its own.
const DEADLINE: Duration = Duration::from_millis(500);

/// Shared by the parts of a node.
pub(crate) struct NodeLoad {
    pub(crate) health: Arc<Health>,
    /// Work a second of each shard that is led here long enough.
    rates: Mutex<BTreeMap<ShardId, u64>>,
}

/// What another node tells.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Told {
    Load(LoadReply),
    /// It runs a release that does not know the question.
    Nothing,
    /// There was no answer.
    Silent,
}

impl NodeLoad {
    pub(crate) fn new(health: Arc<Health>) -> Self {
        Self { health, rates: Mutex::default() }
    }

    /// What this node tells.
    pub(crate) fn reply(&self) -> LoadReply {
        let rates = self.rates.lock();
        let rates = rates.iter().map(|(shard, rate)| ShardRate { group: shard.group(), rate: *rate });
        LoadReply { rates: rates.collect(), slow: self.health.is_slow(), delay_ms: self.health.delay_ms() }
    }

    /// Asks another storage node of the cluster.
    pub(crate) async fn ask(cluster: &Cluster, node: u64) -> Told {
        if node == cluster.own {
            return Told::Load(cluster.load.reply());
        }
        // Each node has a replica of the registry.
        let replicas = cluster.registry().zip(cluster.rows().replica_on(ShardId::REGISTRY, node));
        let Some((registry, to)) = replicas else { return Told::Silent };
        let route = Route { group: ShardId::REGISTRY.group(), from: registry.group().replica(), to };
        match cluster.links.to(node).call(route, Body::LoadRequest(LoadRequest {}), DEADLINE).await {
            Ok(Body::LoadReply(load)) => Told::Load(load),
            Err(LinkError::Refused { why, .. }) if why == UNKNOWN_FRAME => Told::Nothing,
            _ => Told::Silent,
        }
    }

    /// The same of several nodes at once.
    pub(crate) async fn ask_all(cluster: &Cluster, nodes: impl IntoIterator<Item = u64>) -> BTreeMap<u64, Told> {
        let asked = nodes.into_iter().map(|node| async move { (node, Self::ask(cluster, node).await) });
        futures_util::future::join_all(asked).await.into_iter().collect()
    }
}

impl Told {
    /// True if the node may get a lead to spread leads. A node of an older release may.
    pub(crate) fn takes_leads(&self) -> bool {
        match self {
            Self::Load(load) => !load.slow,
            Self::Nothing => true,
            Self::Silent => false,
        }
    }

    /// True if the node takes leads of one that is slow, with this delay.
    pub(crate) fn relieves(&self, delay_ms: u64) -> bool {
        matches!(self, Self::Load(load) if !load.slow && health::is_better(load.delay_ms, delay_ms))
    }
}

/// Measures the work of the shards that this node leads, as long as it runs.
pub(crate) async fn measure(serving: Arc<Serving>) {
    let Some(cluster) = serving.get() else { return };
    let mut measured: HashMap<ShardId, Rate> = HashMap::new();
    loop {
        let wait = |usual| cluster.load.health.wait(usual);
        sleep(wait(INTERVAL)).await;
        let now = Instant::now();
        let shards = cluster.shards();
        let led: HashMap<ShardId, u64> = shards
            .values()
            .filter(|shard| shard.group().leads())
            .map(|shard| (shard.id(), shard.work().points()))
            .collect();
        measured.retain(|shard, _| led.contains_key(shard));
        for (shard, points) in led {
            measured.entry(shard).or_insert_with(|| Rate::begin(points, now)).measure(points, now, wait(MEMORY));
        }
        let known = measured.iter().filter(|(_, rate)| now - rate.since >= wait(KNOWN));
        *cluster.load.rates.lock() = known.map(|(shard, rate)| (*shard, rate.per_second as u64)).collect();
    }
}

/// The work a second of one shard.
struct Rate {
    since: Instant,
    last: (u64, Instant),
    per_second: f64,
}

impl Rate {
    fn begin(points: u64, now: Instant) -> Self {
        Self { since: now, last: (points, now), per_second: 0.0 }
    }

    fn measure(&mut self, points: u64, now: Instant, memory: Duration) {
        let (before, at) = self.last;
        let passed = now.saturating_duration_since(at);
        if passed.is_zero() {
            return;
        }
        let rate = points.saturating_sub(before) as f64 / passed.as_secs_f64();
        let all = now.saturating_duration_since(self.since);
        // At first the plain mean.
        let weight = (1.0 - (-passed.as_secs_f64() / memory.as_secs_f64()).exp()).max(passed.div_duration_f64(all));
        self.per_second += weight * (rate - self.per_second);
        self.last = (points, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_mean_at_first_and_follows_changes_within_some_minutes() {
        let start = Instant::now();
        let mut rate = Rate::begin(1000, start);
        let (mut points, mut at) = (1000, 0);
        let mut pass = |seconds: u64, per_second: u64| {
            for _ in 0..seconds / 5 {
                (points, at) = (points + 5 * per_second, at + 5);
                rate.measure(points, start + Duration::from_secs(at), MEMORY);
            }
            rate.per_second as u64
        };
        assert_eq!(pass(5, 100), 100);
        assert_eq!(pass(5, 200), 150);
        let soon = pass(10, 1000);
        assert!((500..700).contains(&soon), "{soon}");
        let later = pass(300, 1000);
        assert!((980..=1000).contains(&later), "{later}");
        let burst = pass(5, 5000);
        assert!(burst < 1400, "a burst counts for little: {burst}");
        assert!(pass(600, 0) < 2);
    }

    #[test]
    fn a_slow_node_takes_no_leads_and_one_that_tells_nothing_none_of_a_slow_one() {
        let load = |slow, delay_ms| Told::Load(LoadReply { rates: Vec::new(), slow, delay_ms });
        assert!(load(false, 5).takes_leads() && load(false, 5).relieves(1000));
        assert!(!load(true, 5).takes_leads() && !load(true, 5).relieves(1000));
        assert!(load(false, 900).takes_leads() && !load(false, 900).relieves(1000));
        assert!(Told::Nothing.takes_leads() && !Told::Nothing.relieves(1000));
        assert!(!Told::Silent.takes_leads() && !Told::Silent.relieves(1000));
    }
}
