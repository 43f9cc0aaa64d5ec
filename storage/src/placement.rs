//! Who leads which shard: leaders are spread over the nodes, and handed over before a node stops.

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
/// A leader is moved only after it has led for so long: a node that hands its shards over, because it stops, does not
/// get them back before it has gone.
const SETTLED: Duration = Duration::from_secs(15);
/// A node that is so many entries behind takes no lead over.
const BEHIND: u64 = 64;
/// How long a node that stops waits for the others to take over.
const HAND_OVER: Duration = Duration::from_secs(5);

/// Moves leaders to where they are preferred, slowly.
pub(crate) async fn spread(serving: Arc<Serving>, draining: Arc<AtomicBool>) {
    let Some(cluster) = serving.get() else { return };
    let mut since: HashMap<ShardId, Instant> = HashMap::new();
    loop {
        sleep(INTERVAL).await;
        let mut leading = 0;
        for shard in cluster.shards.values() {
            let (id, status) = (shard.id(), shard.group().status());
            if !status.leads {
                since.remove(&id);
                continue;
            }
            leading += 1;
            let settled = since.entry(id).or_insert_with(Instant::now).elapsed() >= SETTLED;
            if let Some(to) = cluster.preferred_leader(id)
                && to != cluster.own
                && settled
                && is_up_to_date(&status, to)
                && !draining.load(Ordering::Relaxed)
            {
                tracing::info!(shard = %id, to, "handing the lead over to the preferred node");
                shard.group().transfer_leader(to).await;
                // Not tried again before another while.
                since.insert(id, Instant::now());
            }
        }
        metrics::gauge!(names::LEADING).set(f64::from(leading));
    }
}

/// Hands over all shards that this node leads, if there is another that can take them.
pub(crate) async fn hand_over(cluster: &Cluster) {
    let handing = async {
        loop {
            let mut left = 0;
            for shard in cluster.shards.values() {
                let status = shard.group().status();
                if !status.leads {
                    continue;
                }
                if let Some(to) = most_up_to_date(&status, cluster.own) {
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
        tracing::warn!("no other node took over all shards in time; they are elected anew");
    }
}

fn is_up_to_date(status: &GroupStatus, node: u64) -> bool {
    let matched = status.matched.get(&node).copied().flatten();
    status.voters.contains(&node) && matched.is_some_and(|matched| matched + BEHIND >= status.last_log.unwrap_or(0))
}

fn most_up_to_date(status: &GroupStatus, own: u64) -> Option<u64> {
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
            leader: None,
            last_log: Some(1000),
            applied: None,
            snapshot: None,
            matched: [(1, Some(1000)), (2, Some(10)), (3, Some(990)), (9, Some(1000))].into(),
            voters: vec![1, 2, 3],
        };
        assert!(is_up_to_date(&status, 3) && !is_up_to_date(&status, 2));
        assert!(!is_up_to_date(&status, 9), "not a voter");
        assert_eq!(most_up_to_date(&status, 1), Some(3));
        assert_eq!(most_up_to_date(&GroupStatus { voters: vec![1], ..status }, 1), None);
    }
}
