//! To whom a node that can't keep up gives its leads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
};

use carillon_proto::ShardId;

use crate::{
    cluster::Cluster,
    node_load::{NodeLoad, Told},
    raft::GroupStatus,
};

/// Entries that the next leader may lack: it waits for them before it takes over, which it does within some milliseconds. Under load
/// some are always on their way.
const ON_THEIR_WAY: u64 = 64;

/// The nodes that take leads of this one, and how many each has got at this look.
pub(super) struct Relief(BTreeMap<u64, u32>);

impl Relief {
    /// `None` if this node keeps up.
    pub(super) async fn for_leader(cluster: &Cluster, draining: &AtomicBool) -> Option<Self> {
        if !cluster.load.health.is_slow() || draining.load(Ordering::Relaxed) {
            return None;
        }
        let shards = cluster.shards();
        let led = shards.values().filter(|shard| shard.group().leads());
        let nodes: BTreeSet<u64> = led
            .flat_map(|shard| {
                let (id, group) = (shard.id(), shard.group());
                let others = group.status().voters.into_iter().filter(|replica| *replica != group.replica());
                others.filter_map(|replica| cluster.node_of(id, replica)).collect::<Vec<_>>()
            })
            .collect();
        let told = NodeLoad::ask_all(cluster, nodes).await;
        Some(Self::by(told, cluster.load.health.delay_ms()))
    }

    fn by(told: BTreeMap<u64, Told>, delay_ms: u64) -> Self {
        let better = told.into_iter().filter(|(_, told)| told.relieves(delay_ms));
        Self(better.map(|(node, _)| (node, 0)).collect())
    }

    /// The replica that takes this shard's lead over, if one can. Nodes get as many leads as others.
    pub(super) fn target(&mut self, cluster: &Cluster, shard: ShardId, status: &GroupStatus, own: u64) -> Option<u64> {
        self.choose(status, own, |replica| cluster.node_of(shard, replica))
    }

    fn choose(&mut self, status: &GroupStatus, own: u64, node_of: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        let others = status.voters.iter().filter(|replica| **replica != own && can_follow(status, **replica));
        let able = others.filter_map(|replica| Some((*replica, node_of(*replica)?)));
        let able = able.filter_map(|(replica, node)| Some((*self.0.get(&node)?, replica, node)));
        let (_, replica, node) = able.min()?;
        *self.0.entry(node).or_default() += 1;
        Some(replica)
    }
}

/// True if the replica is about as far as the leader.
fn can_follow(status: &GroupStatus, replica: u64) -> bool {
    let matched = status.matched.get(&replica).copied().flatten();
    let is_near = matched.is_some_and(|matched| matched + ON_THEIR_WAY >= status.last_log.unwrap_or_default());
    is_near && !status.silent.contains(&replica)
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::raft::LoadReply;

    use super::*;

    fn status(matched: &[(u64, u64)]) -> GroupStatus {
        GroupStatus {
            leads: true,
            term: 1,
            last_log: Some(1000),
            matched: matched.iter().map(|(replica, index)| (*replica, Some(*index))).collect(),
            voters: vec![1, 2, 3],
            replicas: vec![1, 2, 3, 4],
            ..GroupStatus::default()
        }
    }

    fn told(delays: &[(u64, u64)]) -> BTreeMap<u64, Told> {
        let load = |delay_ms| Told::Load(LoadReply { delay_ms, ..LoadReply::default() });
        delays.iter().map(|(node, delay_ms)| (*node, load(*delay_ms))).collect()
    }

    #[test]
    fn leads_go_to_all_that_keep_up_and_have_what_the_leader_has() {
        let all = [(1, 1000), (2, 1000), (3, 990), (4, 1000)];
        let choose = |relief: &mut Relief, status: &GroupStatus| relief.choose(status, 1, Some);
        let mut both = Relief::by(told(&[(2, 5), (3, 20), (4, 5)]), 2000);
        let chosen: Vec<_> = (0..4).map(|_| choose(&mut both, &status(&all))).collect();
        assert_eq!(chosen, [Some(2), Some(3), Some(2), Some(3)], "one that does not vote gets none");
        let mut both = Relief::by(told(&[(2, 5), (3, 20)]), 2000);
        let behind = status(&[(1, 1000), (2, 900), (3, 990)]);
        assert_eq!([choose(&mut both, &behind), choose(&mut both, &behind)], [Some(3), Some(3)]);
        let silent = GroupStatus { silent: [3].into(), ..behind };
        assert_eq!(choose(&mut both, &silent), None);
    }

    #[test]
    fn when_all_are_equally_slow_leads_stay() {
        let all = status(&[(1, 1000), (2, 1000), (3, 1000)]);
        assert_eq!(Relief::by(told(&[(2, 1500), (3, 900)]), 3000).choose(&all, 1, Some), None);
        assert_eq!(Relief::by(told(&[(2, 1500), (3, 30)]), 3000).choose(&all, 1, Some), Some(3));
    }
}
