//! The storage nodes, the placement of the shards and the cluster's level, rows of directory shard 0. They are few, and
//! held in memory.

mod growth;

use std::{collections::BTreeMap, io, sync::Arc};

use carillon_proto::{
    Level, ShardId, ShardMap,
    pb::{
        raft::Member,
        store::{FoundCluster, Placed, Placement, Replica, StorageNode, storage_node::State},
    },
};
use prost::Message as _;

use super::{broken, keys};
use crate::engine::{Changes, sled::DirectoryShard};

/// Replica ids below this are node numbers, from the making of the cluster. Later ids are names of log commands, and
/// this is the first of those.
pub(crate) const FOUNDERS: u64 = carillon_proto::limits::ENTRY_COMMANDS as u64;

/// Replicas of each shard, and votes in the registry, as soon as there are so many active nodes.
pub(crate) const REPLICAS: usize = 3;

/// The content of the rows. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ClusterRows {
    pub(crate) level: Level,
    /// Shards and leads are being spread evenly over the active nodes.
    pub(crate) rebalancing: bool,
    /// The id that the next node gets, if that is not one more than the highest.
    next_node: u64,
    /// Empty until the cluster is founded.
    nodes: Arc<BTreeMap<u64, StorageNode>>,
    placement: Arc<BTreeMap<ShardId, Placement>>,
}

/// Why a change is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoChange {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Refused(String),
}

impl ClusterRows {
    /// Rows for a cluster that has none: these members, with a replica of each shard on each member.
    pub(crate) fn founded(members: Vec<StorageNode>, map: ShardMap) -> Self {
        let nodes: BTreeMap<u64, StorageNode> = members.into_iter().map(|member| (member.node, member)).collect();
        let replicas = nodes.keys().map(|node| Replica { id: *node, node: *node, ..Replica::default() });
        let replicas: Vec<Replica> = replicas.collect();
        let placement = map.all().enumerate().map(|(number, shard)| {
            // Spreads the leaders over the nodes.
            let preferred = replicas.get(number % replicas.len().max(1)).map_or(0, |replica| replica.id);
            (shard, Placement { replicas: replicas.clone(), preferred })
        });
        Self { placement: Arc::new(placement.collect()), nodes: Arc::new(nodes), ..Self::default() }
    }

    pub(super) fn load(shard: &DirectoryShard) -> io::Result<Self> {
        let mut nodes = BTreeMap::new();
        for record in shard.with_prefix(&keys::storage_nodes()) {
            let (key, value) = record?;
            let node = StorageNode::decode(&*value).map_err(|_| broken("storage node"))?;
            nodes.insert(keys::storage_node_of(&key)?, node);
        }
        let mut placement = BTreeMap::new();
        for record in shard.with_prefix(&keys::placements()) {
            let (key, value) = record?;
            let placed = Placement::decode(&*value).map_err(|_| broken("placement"))?;
            placement.insert(keys::placement_of(&key)?, placed);
        }
        let level = shard.get(keys::CLUSTER_LEVEL)?.map_or(Ok(Level::BEFORE), |value| keys::level_of(&value))?;
        let [next_node, rebalancing] =
            shard.get(keys::CLUSTER_GROWTH)?.map_or(Ok([0; 2]), |value| keys::numbers_of(&value))?;
        Ok(Self {
            level,
            rebalancing: rebalancing != 0,
            next_node,
            nodes: Arc::new(nodes),
            placement: Arc::new(placement),
        })
    }

    pub(crate) fn has_rows(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Ordered by id.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &StorageNode> {
        self.nodes.values()
    }

    pub(crate) fn node(&self, node: u64) -> Option<&StorageNode> {
        self.nodes.get(&node)
    }

    fn known(&self, node: u64) -> Result<&StorageNode, NoChange> {
        self.node(node).ok_or_else(|| NoChange::NotFound(format!("the cluster has no storage node {node}")))
    }

    fn put_node(&mut self, node: StorageNode, changes: &mut Changes) {
        changes.put(keys::storage_node(node.node), node.encode_to_vec());
        Arc::make_mut(&mut self.nodes).insert(node.node, node);
    }

    /// A program has to read what may stand in the registry's log.
    fn check_reads(&self, node: &StorageNode) -> Result<(), NoChange> {
        if Level(node.level) >= self.level {
            return Ok(());
        }
        let why = format!("the cluster is at level {}, which a program of level {} can't read", self.level, node.level);
        Err(NoChange::Refused(why))
    }

    pub(crate) fn placement(&self) -> &BTreeMap<ShardId, Placement> {
        &self.placement
    }

    /// The placement without the registry's shard, which is on all nodes.
    pub(crate) fn shards(&self) -> impl Iterator<Item = (ShardId, &Placement)> {
        self.placement.iter().filter(|(shard, _)| **shard != ShardId::REGISTRY).map(|(shard, it)| (*shard, it))
    }

    /// The replicas of the registry.
    pub(crate) fn registry(&self) -> &[Replica] {
        self.placement.get(&ShardId::REGISTRY).map_or(&[], |placement| &placement.replicas)
    }

    /// The placement as others are told.
    pub(crate) fn placed(&self) -> Vec<Placed> {
        let placed = |(shard, placement): (&ShardId, &Placement)| Placed {
            shard: Some(shard.to_pb()),
            replicas: placement.replicas.clone(),
            preferred: placement.preferred,
        };
        self.placement.iter().map(placed).collect()
    }

    /// The replica of this shard on this node.
    pub(crate) fn replica_on(&self, shard: ShardId, node: u64) -> Option<u64> {
        let mut replicas = self.placement.get(&shard)?.replicas.iter();
        replicas.find(|replica| replica.node == node).map(|replica| replica.id)
    }

    /// The node of this replica.
    pub(crate) fn node_of(&self, shard: ShardId, replica: u64) -> Option<u64> {
        let mut replicas = self.placement.get(&shard)?.replicas.iter();
        replicas.find(|known| known.id == replica).map(|replica| replica.node)
    }

    pub(crate) fn members(&self) -> Vec<Member> {
        let member = |node: &StorageNode| Member {
            node: node.node,
            address: node.address.clone(),
            disk: node.disk.clone(),
            registry_replica: self.replica_on(ShardId::REGISTRY, node.node).unwrap_or_default(),
        };
        self.nodes().map(member).collect()
    }

    pub(super) fn found(&mut self, op: &FoundCluster, changes: &mut Changes) -> io::Result<bool> {
        if self.has_rows() {
            return Ok(false);
        }
        let shards = |count: u32| u16::try_from(count).map_err(|_| broken("number of shards"));
        let map = ShardMap { directory: shards(op.directory_shards)?, timeline: shards(op.timeline_shards)? };
        *self = Self { level: self.level, ..Self::founded(op.members.clone(), map) };
        for node in self.nodes.values() {
            changes.put(keys::storage_node(node.node), node.encode_to_vec());
        }
        for (shard, placement) in self.placement.iter() {
            changes.put(keys::placement(*shard), placement.encode_to_vec());
        }
        Ok(true)
    }

    /// Returns false if nothing changes.
    pub(super) fn set_node(&mut self, node: &StorageNode, changes: &mut Changes) -> Result<bool, NoChange> {
        let known = self.nodes.get(&node.node).filter(|known| known.disk == node.disk);
        let known = known.ok_or_else(|| {
            NoChange::NotFound(format!("the cluster has no storage node {} with this disk", node.node))
        })?;
        let node = StorageNode { state: known.state, ..node.clone() };
        if *known == node {
            return Ok(false);
        }
        self.check_reads(&node)?;
        self.put_node(node, changes);
        Ok(true)
    }

    pub(super) fn raise(&mut self, level: Level, changes: &mut Changes) -> Result<bool, NoChange> {
        if level <= self.level {
            return Ok(false);
        }
        // One that is lost reads nothing any more.
        let reading = |node: &&StorageNode| node.state() != State::Lost;
        if let Some(behind) = self.nodes().filter(reading).find(|node| Level(node.level) < level) {
            let why = format!("storage node {} reads levels up to {}, not {level}", behind.node, behind.level);
            return Err(NoChange::Refused(why));
        }
        changes.put(keys::CLUSTER_LEVEL, keys::level_value(level));
        self.level = level;
        Ok(true)
    }

    /// Returns the id of the new replica, which is `at`.
    pub(super) fn place(&mut self, at: u64, shard: ShardId, node: u64, changes: &mut Changes) -> Result<u64, NoChange> {
        self.known(node)?;
        self.change(shard, changes, |placement| push(placement, shard, Replica { id: at, node, ..Replica::default() }))
    }

    /// Returns false if the replica is leaving or gone already.
    pub(super) fn remove(&mut self, shard: ShardId, id: u64, changes: &mut Changes) -> Result<bool, NoChange> {
        if shard == ShardId::REGISTRY {
            return Err(NoChange::Refused(format!("{shard} holds the registry and stays on all nodes")));
        }
        self.change(shard, changes, |placement| {
            let stays = |replica: &&Replica| replica.id != id && !replica.leaving;
            let next = placement.replicas.iter().find(stays).map(|replica| replica.id);
            let Some(leaver) = placement.replicas.iter_mut().find(|replica| replica.id == id && !replica.leaving)
            else {
                return Ok(false);
            };
            let next = next.ok_or_else(|| NoChange::Refused(format!("replica {id} is the last one of {shard}")))?;
            leaver.leaving = true;
            if placement.preferred == id {
                placement.preferred = next;
            }
            Ok(true)
        })
    }

    /// Returns false if the replica is gone already.
    pub(super) fn forget(&mut self, shard: ShardId, id: u64, changes: &mut Changes) -> Result<bool, NoChange> {
        let node = self.node_of(shard, id);
        let forgotten = self.change(shard, changes, |placement| {
            let before = placement.replicas.len();
            placement.replicas.retain(|replica| replica.id != id || !replica.leaving);
            match placement.replicas.iter().any(|replica| replica.id == id) {
                true => Err(NoChange::Refused(format!("replica {id} of {shard} is not to leave"))),
                false => Ok(placement.replicas.len() < before),
            }
        })?;
        if let (ShardId::REGISTRY, Some(node)) = (shard, node) {
            self.end_node(node, changes);
        }
        Ok(forgotten)
    }

    fn change<T>(
        &mut self,
        shard: ShardId,
        changes: &mut Changes,
        change: impl FnOnce(&mut Placement) -> Result<T, NoChange>,
    ) -> Result<T, NoChange> {
        let placement = self.placement.get(&shard);
        let placement = placement.ok_or_else(|| NoChange::NotFound(format!("the cluster has no shard {shard}")))?;
        let mut changed = placement.clone();
        let done = change(&mut changed)?;
        if changed != *placement {
            changes.put(keys::placement(shard), changed.encode_to_vec());
            Arc::make_mut(&mut self.placement).insert(shard, changed);
        }
        Ok(done)
    }
}

/// Returns the id of the new replica.
fn push(placement: &mut Placement, shard: ShardId, new: Replica) -> Result<u64, NoChange> {
    if let Some(there) = placement.replicas.iter().find(|replica| replica.node == new.node) {
        return Err(NoChange::Refused(format!("node {} has replica {} of {shard} already", new.node, there.id)));
    }
    // The names of commands grow, so the order stays.
    placement.replicas.push(new);
    Ok(new.id)
}

#[cfg(test)]
mod tests {
    use carillon_proto::ShardKind;

    use super::*;

    const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 1 };

    fn node(node: u64, level: u32) -> StorageNode {
        StorageNode {
            node,
            disk: vec![node as u8].into(),
            address: format!("node-{node}:1"),
            level,
            ..StorageNode::default()
        }
    }

    fn three() -> (ClusterRows, Changes) {
        let (mut rows, mut changes) = (ClusterRows::default(), Changes::default());
        let members = vec![node(1, 1), node(2, 1), node(3, 1)];
        let found = FoundCluster { members, directory_shards: 1, timeline_shards: 2 };
        assert!(rows.found(&found, &mut changes).expect("well-formed"));
        assert!(!rows.found(&FoundCluster::default(), &mut changes).expect("well-formed"), "once");
        (rows, changes)
    }

    #[test]
    fn a_cluster_begins_with_all_shards_on_all_nodes_and_spread_leaders() {
        let (rows, _) = three();
        assert_eq!(rows.placement().len(), 3);
        let preferred: Vec<u64> = rows.placement().values().map(|placement| placement.preferred).collect();
        assert_eq!(preferred, [1, 2, 3]);
        assert_eq!(rows.replica_on(SHARD, 2), Some(2));
        assert_eq!(rows.members().len(), 3);
    }

    #[test]
    fn a_replica_that_comes_back_has_another_id() {
        let (mut rows, mut changes) = three();
        let refused = rows.place(640, SHARD, 2, &mut changes).expect_err("it has one");
        assert!(refused.to_string().contains("has replica 2"), "{refused}");
        rows.forget(SHARD, 2, &mut changes).expect_err("it is not to leave");
        assert_eq!(rows.remove(SHARD, 2, &mut changes), Ok(true));
        assert_eq!(rows.remove(SHARD, 2, &mut changes), Ok(false), "a repeat changes nothing");
        rows.place(640, SHARD, 2, &mut changes).expect_err("the old one is still there");
        assert_eq!(rows.forget(SHARD, 2, &mut changes), Ok(true));
        assert_eq!(rows.forget(SHARD, 2, &mut changes), Ok(false));
        assert_eq!(rows.replica_on(SHARD, 2), None);
        assert_eq!(rows.place(704, SHARD, 2, &mut changes), Ok(704));
        assert_eq!(rows.replica_on(SHARD, 2), Some(704));
        rows.place(768, SHARD, 9, &mut changes).expect_err("no such node");
    }

    #[test]
    fn the_last_replica_of_a_shard_and_those_of_the_registry_stay() {
        let (mut rows, mut changes) = three();
        for replica in [3, 1] {
            assert_eq!(rows.remove(SHARD, replica, &mut changes), Ok(true));
        }
        assert_eq!(rows.placement()[&SHARD].preferred, 2, "who leaves is not preferred");
        let refused = rows.remove(SHARD, 2, &mut changes).expect_err("the last one");
        assert!(refused.to_string().contains("last one"), "{refused}");
        rows.remove(ShardId::REGISTRY, 1, &mut changes).expect_err("the registry");
    }

    #[test]
    fn the_level_is_what_all_members_can_read_and_never_falls() {
        let (mut rows, mut changes) = three();
        assert_eq!(rows.set_node(&node(1, 2), &mut changes), Ok(true));
        assert_eq!(rows.set_node(&node(1, 2), &mut changes), Ok(false));
        let refused = rows.raise(Level(2), &mut changes).expect_err("two can't");
        assert!(refused.to_string().contains("storage node 2 reads levels up to 1"), "{refused}");
        assert_eq!(rows.raise(Level(1), &mut changes), Ok(true));
        assert_eq!(rows.raise(Level(0), &mut changes), Ok(false));
        assert_eq!(rows.level, Level(1));
        let refused = rows.set_node(&node(2, 0), &mut changes).expect_err("it would not read its log");
        assert!(refused.to_string().contains("level 1"), "{refused}");
    }

    #[test]
    fn only_the_disk_that_the_cluster_knows_moves_a_node() {
        let (mut rows, mut changes) = three();
        let moved = StorageNode { address: "elsewhere:1".into(), ..node(2, 1) };
        assert_eq!(rows.set_node(&moved, &mut changes), Ok(true));
        assert_eq!(rows.node(2), Some(&moved));
        let stranger = StorageNode { disk: vec![9].into(), ..moved };
        assert!(matches!(rows.set_node(&stranger, &mut changes), Err(NoChange::NotFound(_))));
    }
}
