//! Changes of the members: storage nodes come, leave and are replaced, and replicas move between them.

use std::{collections::BTreeSet, sync::Arc};

use super::{ClusterRows, NoChange, REPLICAS, keys, push};
use crate::engine::Changes;
use carillon_proto::{
    ShardId,
    pb::store::{NodeAdded, Placement, Replica, StorageNode, storage_node::State},
};

impl ClusterRows {
    /// Nodes that are to hold replicas.
    pub(crate) fn active(&self) -> impl Iterator<Item = &StorageNode> {
        self.nodes().filter(|node| node.state() == State::Active)
    }

    pub(crate) fn is_active(&self, node: u64) -> bool {
        self.node(node).is_some_and(|node| node.state() == State::Active)
    }

    /// The shards with a replica on this node, except for the registry's.
    pub(crate) fn shards_on(&self, node: u64) -> impl Iterator<Item = (ShardId, &Replica)> {
        self.shards().filter_map(move |(shard, placement)| {
            placement.replicas.iter().find(|replica| replica.node == node).map(|replica| (shard, replica))
        })
    }

    /// The new node and its replica of the registry, which is `at`.
    pub(in crate::machine) fn add_node(
        &mut self,
        at: u64,
        new: &StorageNode,
        changes: &mut Changes,
    ) -> Result<NodeAdded, NoChange> {
        if let Some(known) = self.nodes().find(|node| node.disk == new.disk) {
            let node = known.node;
            let replica = self.replica_on(ShardId::REGISTRY, node).unwrap_or_default();
            return match known.state() {
                State::Active => Ok(NodeAdded { node, replica }),
                _ => Err(NoChange::Refused(format!("this disk is storage node {node}, which leaves the cluster"))),
            };
        }
        self.check_reads(new)?;
        let same_address = |node: &&StorageNode| node.address == new.address && node.state() != State::Lost;
        if let Some(other) = self.nodes().find(same_address) {
            return Err(NoChange::Refused(format!(
                "{} is the address of storage node {}; if its disk is gone, replace that node",
                new.address, other.node
            )));
        }
        let node = self.next_node();
        self.put_node(StorageNode { node, state: State::Active.into(), ..new.clone() }, changes);
        self.next_node = node + 1;
        self.save_growth(changes);
        let learner = Replica { id: at, node, joining: true, learner: true, ..Replica::default() };
        let replica =
            self.change(ShardId::REGISTRY, changes, |placement| push(placement, ShardId::REGISTRY, learner))?;
        Ok(NodeAdded { node, replica })
    }

    fn next_node(&self) -> u64 {
        let highest = self.nodes.keys().next_back().copied().unwrap_or_default();
        self.next_node.max(highest + 1)
    }

    fn save_growth(&self, changes: &mut Changes) {
        changes.put(keys::CLUSTER_GROWTH, keys::numbers_value([self.next_node, self.rebalancing.into()]));
    }

    /// Returns false if nothing changes.
    pub(in crate::machine) fn set_state(
        &mut self,
        node: u64,
        state: State,
        changes: &mut Changes,
    ) -> Result<bool, NoChange> {
        let row = self.known(node)?;
        if row.state() == state {
            return Ok(false);
        }
        if row.state() == State::Lost {
            return Err(NoChange::Refused(format!("storage node {node} is lost, and stays so")));
        }
        // One that does not come back to hear that it has left may still be declared lost.
        if self.has_dropped(node) && state != State::Lost {
            return Err(NoChange::Refused(format!("storage node {node} has left the cluster already")));
        }
        let stay = self.active().filter(|active| active.node != node).count();
        let most = self.shards().map(|(_, placement)| placement.replicas.iter().filter(|it| !it.leaving).count()).max();
        let needed = most.unwrap_or(1).min(REPLICAS);
        match state {
            State::Leaving if stay < needed => {
                return Err(NoChange::Refused(format!(
                    "{stay} storage nodes would stay, which are too few for {needed} replicas of each shard: add one first"
                )));
            }
            State::Lost if stay == 0 => {
                return Err(NoChange::Refused("no other storage node is active".to_owned()));
            }
            State::Lost => {
                let holds = |replica: &Replica| {
                    let counts = !replica.joining || replica.learner;
                    counts && self.node(replica.node).is_some_and(|it| it.node != node && it.state() != State::Lost)
                };
                let only = self.placement.iter().find(|(_, placement)| !placement.replicas.iter().any(holds));
                if let Some((shard, _)) = only {
                    return Err(NoChange::Refused(format!("storage node {node} has the only replica of {shard}")));
                }
            }
            _ => {}
        }
        let row = StorageNode { state: state.into(), ..row.clone() };
        self.put_node(row, changes);
        Ok(true)
    }

    /// Returns the id of the new replica, which is `at`.
    pub(in crate::machine) fn move_replica(
        &mut self,
        at: u64,
        shard: ShardId,
        replica: u64,
        node: u64,
        changes: &mut Changes,
    ) -> Result<u64, NoChange> {
        if !self.is_active(node) {
            return Err(NoChange::NotFound(format!("the cluster has no active storage node {node}")));
        }
        self.change(shard, changes, |placement| {
            push(placement, shard, Replica { id: at, node, joining: true, ..Replica::default() })?;
            if replica != 0 {
                let mut there = placement.replicas.iter_mut();
                let leaver = there.find(|known| known.id == replica && !known.leaving);
                let leaver =
                    leaver.ok_or_else(|| NoChange::NotFound(format!("{shard} has no replica {replica} that stays")))?;
                leaver.leaving = true;
                leaver.joining = false;
            }
            if placement.preferred == replica {
                placement.preferred = at;
            }
            Ok(at)
        })
    }

    /// Returns false if it is known, or if the replica has left.
    pub(in crate::machine) fn joined(
        &mut self,
        shard: ShardId,
        replica: u64,
        changes: &mut Changes,
    ) -> Result<bool, NoChange> {
        self.change(shard, changes, |placement| {
            let mut replicas = placement.replicas.iter_mut();
            let joined = replicas.find(|known| known.id == replica && known.joining);
            Ok(joined.map(|known| known.joining = false).is_some())
        })
    }

    /// Returns false if nothing changes.
    pub(in crate::machine) fn set_votes(
        &mut self,
        replica: u64,
        votes: bool,
        changes: &mut Changes,
    ) -> Result<bool, NoChange> {
        self.change(ShardId::REGISTRY, changes, |placement| {
            let others = placement.replicas.iter().filter(|other| other.id != replica);
            let voter = others.filter(|other| !other.learner && !other.leaving).map(|other| other.id).next();
            let mut replicas = placement.replicas.iter_mut();
            let known = replicas.find(|known| known.id == replica && !known.leaving);
            let known = known.ok_or_else(|| NoChange::NotFound(format!("the registry has no replica {replica}")))?;
            if known.learner != votes {
                return Ok(false);
            }
            let Some(voter) = voter.or(votes.then_some(replica)) else {
                return Err(NoChange::Refused(format!("replica {replica} has the registry's only vote")));
            };
            known.learner = !votes;
            known.joining = true;
            if !votes && placement.preferred == replica {
                placement.preferred = voter;
            }
            Ok(true)
        })
    }

    /// Returns false if it has been done.
    pub(in crate::machine) fn drop_node(&mut self, node: u64, changes: &mut Changes) -> Result<bool, NoChange> {
        if self.known(node)?.state() == State::Active {
            return Err(NoChange::Refused(format!("storage node {node} is active")));
        }
        if let Some((shard, replica)) = self.shards_on(node).next() {
            return Err(NoChange::Refused(format!("storage node {node} has replica {} of {shard}", replica.id)));
        }
        let gone = self.change(ShardId::REGISTRY, changes, |placement| {
            let Some(replica) = placement.replicas.iter_mut().find(|replica| replica.node == node) else {
                return Ok(None);
            };
            if !replica.learner {
                return Err(NoChange::Refused(format!("storage node {node} has a vote in the registry")));
            }
            let news = !replica.leaving;
            (replica.leaving, replica.joining) = (true, false);
            Ok(Some(news))
        })?;
        Ok(gone.unwrap_or_else(|| {
            self.end_node(node, changes);
            true
        }))
    }

    /// True if nothing but the goodbye of its replica of the registry is left of this node.
    pub(crate) fn has_dropped(&self, node: u64) -> bool {
        !self.nodes.contains_key(&node) || self.registry().iter().any(|replica| replica.node == node && replica.leaving)
    }

    /// Removes the row of a node that has no replica any more and is not to get one.
    pub(super) fn end_node(&mut self, node: u64, changes: &mut Changes) {
        if self.is_active(node) || self.replica_on(ShardId::REGISTRY, node).is_some() {
            return;
        }
        self.next_node = self.next_node();
        if Arc::make_mut(&mut self.nodes).remove(&node).is_some() {
            changes.delete(keys::storage_node(node));
            self.save_growth(changes);
        }
    }

    /// Returns false if nothing changes.
    pub(in crate::machine) fn rebalance(&mut self, on: bool, changes: &mut Changes) -> Result<bool, NoChange> {
        if self.rebalancing == on {
            return Ok(false);
        }
        self.rebalancing = on;
        self.save_growth(changes);
        Ok(true)
    }

    /// Returns false if nothing changes.
    pub(in crate::machine) fn prefer(
        &mut self,
        shard: ShardId,
        replica: u64,
        changes: &mut Changes,
    ) -> Result<bool, NoChange> {
        self.change(shard, changes, |placement: &mut Placement| {
            let stays = placement.replicas.iter().any(|known| known.id == replica && !known.leaving && !known.learner);
            if !stays {
                return Err(NoChange::NotFound(format!("{shard} has no replica {replica} that could lead")));
            }
            let news = placement.preferred != replica;
            placement.preferred = replica;
            Ok(news)
        })
    }

    /// The zones of these nodes, of those that have one.
    pub(crate) fn zones<'a>(&'a self, nodes: impl Iterator<Item = u64> + 'a) -> BTreeSet<&'a str> {
        nodes.filter_map(|node| self.node(node)).map(|node| &*node.zone).filter(|zone| !zone.is_empty()).collect()
    }
}
