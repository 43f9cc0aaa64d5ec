//! What the registry's leader knows of the leaders of the shards: it asks the nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::ShardId;
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::{
    cluster::Serving,
    machine::ClusterRows,
    node_load::{NodeLoad, Told},
    planner::Leads,
};

const INTERVAL: Duration = Duration::from_secs(10);
/// How long a new leader of the registry waits until it knows the work of all shards. It may take a minute after the start of all
/// nodes.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause after a lead that was moved for its work. What it does elsewhere is known then.
const PAUSE: Duration = Duration::from_secs(60);

/// Shared by the task that asks, and the one that plans.
#[derive(Default)]
pub(crate) struct LeadsKnown(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Since when this node has led the registry; `None` if it does not.
    since: Option<Instant>,
    rates: BTreeMap<ShardId, u64>,
    slow: BTreeSet<u64>,
    /// An active node runs a release that tells nothing.
    older: bool,
    moved: Option<Instant>,
    /// Grows with each answer.
    version: u64,
}

impl LeadsKnown {
    /// What is known now, and its version.
    pub(crate) fn now(&self, rows: &ClusterRows, wait: impl Fn(Duration) -> Duration) -> (Leads, u64) {
        let known = self.0.lock();
        (known.leads(rows, Instant::now(), wait), known.version)
    }

    /// Notes that a lead moves now.
    pub(crate) fn moves(&self) {
        self.0.lock().moved = Some(Instant::now());
    }
}

impl Known {
    fn leads(&self, rows: &ClusterRows, now: Instant, wait: impl Fn(Duration) -> Duration) -> Leads {
        let passed = |since: Option<Instant>, length| since.is_some_and(|since| now - since >= length);
        let is_complete = rows.placement().keys().all(|shard| self.rates.contains_key(shard));
        Leads {
            rates: if self.older { BTreeMap::new() } else { self.rates.clone() },
            slow: self.slow.clone(),
            rests: self.moved.is_some() && !passed(self.moved, PAUSE),
            waits: !self.older && !is_complete && !passed(self.since, wait(PATIENCE)) && rows.active().nth(1).is_some(),
        }
    }

    /// What a node does not tell now is as it was.
    fn take(&mut self, told: BTreeMap<u64, Told>) {
        self.version += 1;
        self.older = told.values().any(|told| *told == Told::Nothing);
        self.slow.retain(|node| told.contains_key(node));
        for (node, told) in told {
            let Told::Load(load) = told else { continue };
            if load.slow {
                self.slow.insert(node);
            } else {
                self.slow.remove(&node);
            }
            let rates = load.rates.into_iter().filter_map(|rate| Some((ShardId::from_group(rate.group)?, rate.rate)));
            self.rates.extend(rates);
        }
    }
}

/// Asks as long as the node runs, while it leads the registry.
pub(crate) async fn follow(serving: Arc<Serving>) {
    let Some(cluster) = serving.get() else { return };
    loop {
        let leads = cluster.registry().is_some_and(|registry| registry.group().leads());
        let nodes: Vec<u64> = cluster.rows().active().map(|node| node.node).collect();
        if !leads {
            *cluster.leads.0.lock() = Known::default();
        } else if nodes.len() > 1 {
            cluster.leads.0.lock().since.get_or_insert_with(Instant::now);
            let told = NodeLoad::ask_all(cluster, nodes).await;
            cluster.leads.0.lock().take(told);
        }
        sleep(cluster.load.health.wait(if leads { INTERVAL } else { INTERVAL / 2 })).await;
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::{
        ShardMap,
        pb::{
            raft::{LoadReply, ShardRate},
            store::StorageNode,
        },
    };

    use super::*;

    const MAP: ShardMap = ShardMap { directory: 1, timeline: 1 };

    fn rows() -> ClusterRows {
        ClusterRows::founded((1..=3).map(|node| StorageNode { node, ..StorageNode::default() }).collect(), MAP)
    }

    fn load(rates: &[(ShardId, u64)], slow: bool) -> Told {
        let rates = rates.iter().map(|(shard, rate)| ShardRate { group: shard.group(), rate: *rate }).collect();
        Told::Load(LoadReply { rates, slow, delay_ms: 0 })
    }

    #[test]
    fn leads_are_planned_when_all_is_known_and_what_was_known_stays() {
        let start = Instant::now();
        let shards: Vec<ShardId> = MAP.all().collect();
        let mut known = Known { since: Some(start), ..Known::default() };
        let at = |known: &Known, seconds| known.leads(&rows(), start + Duration::from_secs(seconds), |wait| wait);
        known.take([(1, load(&[(shards[0], 7)], false)), (2, load(&[], true)), (3, Told::Silent)].into());
        assert!(at(&known, 1).waits && !at(&known, 120).waits, "one that is silent is not waited for for ever");
        assert_eq!(at(&known, 1).slow, [2].into());
        known.take([(1, Told::Silent), (2, load(&[(shards[1], 9)], false)), (3, load(&[], false))].into());
        let leads = at(&known, 1);
        assert_eq!(leads.rates, [(shards[0], 7), (shards[1], 9)].into());
        assert!(!leads.waits && leads.slow.is_empty());
    }

    #[test]
    fn with_an_older_release_leads_go_by_number() {
        let mut known = Known { since: Some(Instant::now()), ..Known::default() };
        known.take([(1, load(&[(ShardId::REGISTRY, 7)], false)), (2, Told::Nothing)].into());
        let leads = known.leads(&rows(), Instant::now(), |wait| wait);
        assert_eq!(leads, Leads::default());
    }

    #[test]
    fn a_lead_that_moved_is_followed_by_a_pause() {
        let start = Instant::now();
        let known = Known { since: Some(start), moved: Some(start), ..Known::default() };
        let rests = |seconds| known.leads(&rows(), start + Duration::from_secs(seconds), |wait| wait).rests;
        assert!(rests(0) && rests(59) && !rests(60));
    }
}
