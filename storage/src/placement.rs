//! Leadership of shards: leaders are spread over the nodes, and handed over before a node stops.

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

use crate::{
    cluster::{Cluster, Serving},
    metrics as names,
    raft::GroupStatus,
};

const INTERVAL: Duration = Duration::from_secs(1);
/// A leader is moved only after it has led for this long: otherwise a stopping node that hands its shards over would
/// get them back.
const SETTLED: Duration = Duration::from_secs(15);
/// Pause between two attempts of a node with a nearly full disk to give a lead away; without it, leads would go to and
/// fro if no node has space.
const RELIEF: Duration = Duration::from_secs(60);
/// A node that has not taken over the lead within this time will not.
const TAKEN: Duration = Duration::from_secs(5);
/// How long a stopping node waits for the others to take over.
const HAND_OVER: Duration = Duration::from_secs(5);

/// Slowly moves leaders to their preferred nodes.
pub(crate) async fn spread(serving: Arc<Serving>, draining: Arc<AtomicBool>) {
    let Some(cluster) = serving.get() else { return };
    let mut since: HashMap<ShardId, Instant> = HashMap::new();
    let mut moving: HashMap<ShardId, Moving> = HashMap::new();
    let mut relieved: HashMap<ShardId, Instant> = HashMap::new();
    loop {
        sleep(INTERVAL).await;
        let mut leading = 0;
        for shard in cluster.shards().values() {
            let id = shard.id();
            if let Some(taken) =
                moving.get(&id).and_then(|moving| moving.taken(shard.group().leader_id(), Instant::now()))
            {
                moving.remove(&id);
                count(id, taken);
            }
            if !shard.group().leads() {
                since.remove(&id);
                continue;
            }
            leading += 1;
            let settled = since.entry(id).or_insert_with(Instant::now).elapsed() >= SETTLED;
            let preferred = cluster.preferred_leader(id).filter(|to| *to != shard.group().replica() && settled);
            if preferred.is_none() && !cluster.space.is_low() {
                continue;
            }
            let status = shard.group().status();
            if cluster.space.is_low()
                && relieved.get(&id).is_none_or(|at| at.elapsed() >= RELIEF)
                && let Some(to) =
                    most_up_to_date(&status, shard.group().replica()).filter(|to| is_up_to_date(&status, *to))
                && !draining.load(Ordering::Relaxed)
            {
                tracing::info!(shard = %id, to, "handing the lead over, as the disk of this node is nearly full");
                shard.group().transfer_leader(to).await;
                relieved.insert(id, Instant::now());
                continue;
            }
            if let Some(to) = preferred
                && is_up_to_date(&status, to)
                && !draining.load(Ordering::Relaxed)
            {
                tracing::info!(shard = %id, to, "handing the lead over to the preferred node");
                shard.group().transfer_leader(to).await;
                moving.insert(id, Moving { to, until: Instant::now() + TAKEN });
                // Not retried before another such time has passed.
                since.insert(id, Instant::now());
            }
        }
        metrics::gauge!(names::LEADING).set(f64::from(leading));
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
        tracing::info!(%shard, "the preferred node did not take the lead over");
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
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn only_a_node_that_is_up_to_date_takes_the_lead_over() {
        let status = GroupStatus {
            leads: true,
            term: 1,
            leader: None,
            last_log: Some(1000),
            applied: None,
            committed: None,
            snapshot: None,
            matched: [(1, Some(1000)), (2, Some(999)), (3, Some(1000)), (4, None), (9, Some(1000))].into(),
            voters: vec![1, 2, 3, 4],
            replicas: vec![1, 2, 3, 4],
            in_change: false,
            members_may_change_back: false,
            silent: BTreeSet::new(),
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
