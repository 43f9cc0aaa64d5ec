//! Leadership of shards: leaders are spread over the nodes, and handed over before a node stops and when it can't keep up.

mod relief;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use carillon_proto::ShardId;
use tokio::time::{Instant, sleep, timeout};

use self::relief::Relief;
use crate::{
    cluster::{Cluster, Serving},
    metrics as names,
    node_load::NodeLoad,
    raft::GroupStatus,
    shard::Shard,
};

const INTERVAL: Duration = Duration::from_secs(1);
/// A leader is moved only after it has led for this long: otherwise a stopping node that hands its shards over would
/// get them back.
const SETTLED: Duration = Duration::from_secs(15);
/// Pause between two attempts of a node with a nearly full disk to give a lead away; without it, leads would go to and
/// fro if no node has space.
const RELIEF: Duration = Duration::from_secs(60);
/// The same of a node that can't keep up, which gives leads only to nodes that do.
const AGAIN: Duration = Duration::from_secs(10);
/// A node that has not taken over the lead within this time will not.
const TAKEN: Duration = Duration::from_secs(5);
/// How long a stopping node waits for the others to take over.
const HAND_OVER: Duration = Duration::from_secs(5);

/// Slowly moves leaders to their preferred nodes, and away from this one while it can't do a leader's work.
pub(crate) async fn spread(serving: Arc<Serving>, draining: Arc<AtomicBool>) {
    let Some(cluster) = serving.get() else { return };
    let mut spread =
        Spread { cluster, draining, since: HashMap::new(), moving: HashMap::new(), relieved: HashMap::new() };
    loop {
        sleep(INTERVAL).await;
        spread.look().await;
    }
}

struct Spread<'a> {
    cluster: &'a Cluster,
    draining: Arc<AtomicBool>,
    /// Since when each shard is led here, or since the last attempt to hand it to its preferred node.
    since: HashMap<ShardId, Instant>,
    moving: HashMap<ShardId, Moving>,
    /// When each shard was last handed over because this node can't do a leader's work.
    relieved: HashMap<ShardId, Instant>,
}

impl Spread<'_> {
    async fn look(&mut self) {
        let mut leading = 0;
        let mut relief = Relief::for_leader(self.cluster, &self.draining).await;
        for shard in self.cluster.shards().values() {
            self.count_taken(shard);
            if !shard.group().leads() {
                self.since.remove(&shard.id());
                continue;
            }
            leading += 1;
            let settled = self.cluster.load.health.wait(SETTLED);
            let settled = self.since.entry(shard.id()).or_insert_with(Instant::now).elapsed() >= settled;
            if !self.draining.load(Ordering::Relaxed) && !self.relieve(shard, relief.as_mut()).await && settled {
                self.prefer(shard).await;
            }
        }
        metrics::gauge!(names::LEADING).set(f64::from(leading));
    }

    fn count_taken(&mut self, shard: &Shard) {
        let (id, leader) = (shard.id(), shard.group().leader_id());
        if let Some(taken) = self.moving.get(&id).and_then(|moving| moving.taken(leader, Instant::now())) {
            self.moving.remove(&id);
            count(id, taken);
        }
    }

    /// Hands the lead to a node that can do its work, if this one can't. True if it did.
    async fn relieve(&mut self, shard: &Shard, relief: Option<&mut Relief>) -> bool {
        let (id, group) = (shard.id(), shard.group());
        let waits = |pause| self.relieved.get(&id).is_some_and(|at| at.elapsed() < pause);
        if let Some(relief) = relief {
            if waits(AGAIN) {
                return false;
            }
            let Some(to) = relief.target(self.cluster, id, &group.status(), group.replica()) else { return false };
            tracing::info!(shard = %id, to, "handing the lead over, as this node can't keep up");
            group.transfer_leader(to).await;
            self.moving.insert(id, Moving { to, until: Instant::now() + TAKEN });
        } else {
            if !self.cluster.space.is_low() || waits(RELIEF) {
                return false;
            }
            let status = group.status();
            let to = most_up_to_date(&status, group.replica()).filter(|to| is_up_to_date(&status, *to));
            let Some(to) = to else { return false };
            tracing::info!(shard = %id, to, "handing the lead over, as the disk of this node is nearly full");
            group.transfer_leader(to).await;
        }
        self.relieved.insert(id, Instant::now());
        true
    }

    /// Hands the lead to the preferred node, if that can take it now.
    async fn prefer(&mut self, shard: &Shard) {
        let (id, group) = (shard.id(), shard.group());
        let Some(to) = self.cluster.preferred_leader(id).filter(|to| *to != group.replica()) else { return };
        let Some(node) = self.cluster.node_of(id, to).filter(|_| is_up_to_date(&group.status(), to)) else { return };
        let takes = NodeLoad::ask(self.cluster, node).await.takes_leads();
        // It has been some time.
        if takes && is_up_to_date(&group.status(), to) {
            tracing::info!(shard = %id, to, "handing the lead over to the preferred node");
            group.transfer_leader(to).await;
            self.moving.insert(id, Moving { to, until: Instant::now() + TAKEN });
        }
        if !takes || self.moving.contains_key(&id) {
            // Not retried before another such time has passed.
            self.since.insert(id, Instant::now());
        }
    }
}

/// A lead on its way to another node. Until there is a new leader, the shard takes no writes: from the hand-over on,
/// openraft's leader takes no writes and sends no heartbeats, even if the target does not take over, so others are
/// elected.
struct Moving {
    to: u64,
    until: Instant,
}

impl Moving {
    /// `None`: not known yet.
    fn taken(&self, leader: Option<u64>, now: Instant) -> Option<bool> {
        if leader == Some(self.to) { Some(true) } else { (now >= self.until).then_some(false) }
    }
}

fn count(shard: ShardId, taken: bool) {
    metrics::counter!(names::TRANSFERS, "outcome" => if taken { "taken" } else { "failed" }).increment(1);
    if !taken {
        tracing::info!(%shard, "a node did not take the lead over");
    }
}

/// Hands over all shards that this node leads, if another node can take them.
pub(crate) async fn hand_over(cluster: &Cluster) {
    let handing = async {
        loop {
            let mut left = 0;
            for shard in cluster.shards().values() {
                let status = shard.group().status();
                if !status.leads {
                    continue;
                }
                if let Some(to) = most_up_to_date(&status, shard.group().replica()) {
                    left += 1;
                    shard.group().transfer_leader(to).await;
                }
            }
            if left == 0 {
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    if timeout(HAND_OVER, handing).await.is_err() {
        // The normal case when all nodes are stopped together.
        tracing::info!("no other node took over all shards in time; they are elected anew");
    }
}

/// True if the node has all entries. If it lacked some, or some were still on their way, the shard would wait for them;
/// quiet moments occur under load, too.
fn is_up_to_date(status: &GroupStatus, node: u64) -> bool {
    let matched = status.matched.get(&node).copied().flatten();
    status.voters.contains(&node) && matched.is_some() && matched >= status.last_log
}

pub(crate) fn most_up_to_date(status: &GroupStatus, own: u64) -> Option<u64> {
    let others = status.voters.iter().filter(|node| **node != own);
    others.max_by_key(|node| status.matched.get(node).copied().flatten()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_that_is_up_to_date_takes_the_lead_over() {
        let status = GroupStatus {
            leads: true,
            term: 1,
            last_log: Some(1000),
            matched: [(1, Some(1000)), (2, Some(999)), (3, Some(1000)), (4, None), (9, Some(1000))].into(),
            voters: vec![1, 2, 3, 4],
            replicas: vec![1, 2, 3, 4],
            ..GroupStatus::default()
        };
        assert!(is_up_to_date(&status, 3) && !is_up_to_date(&status, 2) && !is_up_to_date(&status, 4));
        assert!(!is_up_to_date(&status, 9), "not a voter");
        assert_eq!(most_up_to_date(&status, 1), Some(3));
        assert_eq!(most_up_to_date(&GroupStatus { voters: vec![1], ..status }, 1), None);
    }

    #[test]
    fn a_lead_that_is_not_taken_in_time_has_failed() {
        let now = Instant::now();
        let moving = Moving { to: 2, until: now + TAKEN };
        assert_eq!(moving.taken(Some(1), now), None);
        assert_eq!(moving.taken(None, now), None);
        assert_eq!(moving.taken(Some(2), now), Some(true));
        assert_eq!(moving.taken(Some(3), now + TAKEN), Some(false));
    }
}
