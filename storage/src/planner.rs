//! Where replicas should be: the next change of the placement, by the registry's leader.
//!
//! A pure function of the cluster's rows, so any later leader goes on where an earlier one stopped, and for leads of what the nodes
//! tell of their work (`leads`). The leader of each shard carries the change out (`reconcile`).

mod leads;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use carillon_proto::{
    ShardId,
    pb::store::{
        DropStorageNode, MoveReplica, Placement, Rebalance, RemoveReplica, Replica, SetReplicaVotes,
        directory_command::Op, storage_node::State,
    },
};

pub(crate) use self::leads::Leads;
use crate::machine::{ClusterRows, REPLICAS};

/// Shards whose replicas move at once.
const MOVES: usize = 2;

/// The next change; `None` if all is as it should be, or if changes have to be finished first.
pub(crate) fn next(rows: &ClusterRows, leads: &Leads) -> Option<Op> {
    let planner = Planner::of(rows, leads);
    let first = planner.vote().or_else(|| planner.farewell()).or_else(|| planner.evacuate(State::Lost));
    if first.is_some() || planner.moving >= MOVES {
        return first;
    }
    planner.evacuate(State::Leaving).or_else(|| planner.replicate()).or_else(|| planner.spread())
}

struct Planner<'a> {
    rows: &'a ClusterRows,
    leads: &'a Leads,
    /// Replicas on each active node that stay, except for the registry's.
    load: BTreeMap<u64, usize>,
    /// Shards whose replicas are just changing.
    moving: usize,
    /// Replicas that each shard should have.
    replicas: usize,
}

impl<'a> Planner<'a> {
    fn of(rows: &'a ClusterRows, leads: &'a Leads) -> Self {
        let mut load: BTreeMap<u64, usize> = rows.active().map(|node| (node.node, 0)).collect();
        let mut moving = 0;
        for (_, placement) in rows.shards() {
            moving += usize::from(is_moving(placement));
            for replica in staying(placement) {
                if let Some(load) = load.get_mut(&replica.node) {
                    *load += 1;
                }
            }
        }
        let replicas = if load.len() >= REPLICAS { REPLICAS } else { 1 };
        Self { rows, leads, load, moving, replicas }
    }

    /// Votes of the registry go to replicas on active nodes, one after the other.
    fn vote(&self) -> Option<Op> {
        let placement = self.rows.placement().get(&ShardId::REGISTRY)?;
        let voters: Vec<&Replica> = staying(placement).filter(|replica| !replica.learner).collect();
        let (active, others): (Vec<&Replica>, Vec<&Replica>) =
            voters.into_iter().partition(|replica| self.rows.is_active(replica.node));
        // A lost one counts against the majority, and can't help it. While its vote stays, no other one comes.
        if let Some(lost) = others.iter().find(|replica| self.is_lost(replica.node) && !active.is_empty()) {
            return Some(votes(lost.id, false));
        }
        let comes = |replica: &Replica| replica.joining && !replica.learner && !self.is_lost(replica.node);
        if staying(placement).any(comes) {
            return None;
        }
        if active.len() < self.replicas {
            let ready = staying(placement).filter(|replica| replica.learner && !replica.joining);
            let ready = ready.filter(|replica| self.rows.is_active(replica.node));
            let zones = self.rows.zones(active.iter().map(|replica| replica.node));
            let next = ready.min_by_key(|replica| (self.conflicts(&zones, replica.node), replica.node));
            if let Some(next) = next {
                return Some(votes(next.id, true));
            }
        }
        let spare = others.first().filter(|_| active.len() >= self.replicas)?;
        Some(votes(spare.id, false))
    }

    /// Nodes that hold nothing any more leave.
    fn farewell(&self) -> Option<Op> {
        let leaving = self.rows.nodes().filter(|node| node.state() != State::Active);
        let mut done = leaving.map(|node| node.node).filter(|node| {
            let mut registry = self.rows.registry().iter().filter(|replica| replica.node == *node);
            self.rows.shards_on(*node).next().is_none()
                && registry
                    .all(|replica| replica.learner && !replica.leaving && (!replica.joining || self.is_lost(*node)))
        });
        done.next().map(|node| Op::DropStorageNode(DropStorageNode { node }))
    }

    /// Replicas on nodes that leave or are lost go elsewhere. A shard whose replicas are just changing may wait for one that is lost.
    fn evacuate(&self, state: State) -> Option<Op> {
        let may = |placement: &Placement| match is_moving(placement) {
            true => state == State::Lost,
            false => self.moving < MOVES,
        };
        self.rows.shards().filter(|(_, placement)| may(placement)).find_map(|(shard, placement)| {
            let on = |replica: &&Replica| self.rows.node(replica.node).is_some_and(|node| node.state() == state);
            let replica = staying(placement).find(on)?;
            let rest: Vec<u64> =
                staying(placement).filter(|other| other.id != replica.id).map(|other| other.node).collect();
            match self.target(placement, &rest) {
                Some(node) => Some(moved(shard, replica.id, node)),
                None if rest.len() >= REPLICAS => Some(removed(shard, replica.id)),
                // As long as a lost one is to stay, nobody else leaves; then there is a place for another one.
                None if state == State::Lost && !rest.is_empty() && self.will_have_place(placement) => {
                    Some(removed(shard, replica.id))
                }
                // It never was one of the shard's voters, and nobody stays in its place who would leave with it.
                None if self.never_comes(placement, replica) => Some(removed(shard, replica.id)),
                None => None,
            }
        })
    }

    /// Shards with too few replicas get more.
    fn replicate(&self) -> Option<Op> {
        self.rows.shards().find_map(|(shard, placement)| {
            let rest: Vec<u64> = staying(placement).map(|replica| replica.node).collect();
            let node = self.target(placement, &rest).filter(|_| rest.len() < self.replicas)?;
            Some(moved(shard, 0, node))
        })
    }

    /// Leads are spread evenly, and replicas while that is asked for.
    fn spread(&self) -> Option<Op> {
        if !self.rows.rebalancing {
            return self.lead();
        }
        let next = self.shrink().or_else(|| self.even()).or_else(|| self.lead());
        match next {
            None if self.moving == 0 => Some(Op::Rebalance(Rebalance { on: false })),
            next => next,
        }
    }

    /// Clusters that were made of more nodes have a replica of each shard on each.
    fn shrink(&self) -> Option<Op> {
        let mut large = self.rows.shards().filter(|(_, placement)| !is_moving(placement));
        let (shard, placement) = large.find(|(_, placement)| staying(placement).count() > self.replicas)?;
        let crowded = staying(placement).max_by_key(|replica| (self.load.get(&replica.node), replica.id))?;
        Some(removed(shard, crowded.id))
    }

    /// From the fullest node to the emptiest one, if that makes no zone worse.
    fn even(&self) -> Option<Op> {
        let mut fullest: Vec<(u64, usize)> = self.load.iter().map(|(node, load)| (*node, *load)).collect();
        fullest.sort_by_key(|(node, load)| (Reverse(*load), *node));
        for (from, full) in &fullest {
            for (to, _) in fullest.iter().rev().filter(|(_, empty)| empty + 2 <= *full) {
                let still = self.rows.shards().filter(|(_, placement)| !is_moving(placement));
                for (shard, placement) in still {
                    let Some(replica) = staying(placement).find(|replica| replica.node == *from) else { continue };
                    if placement.replicas.iter().any(|replica| replica.node == *to) {
                        continue;
                    }
                    let rest = || staying(placement).map(|other| other.node).filter(|node| node != from);
                    let zones = self.rows.zones(rest());
                    if self.conflicts(&zones, *to) <= self.conflicts(&zones, *from) {
                        return Some(moved(shard, replica.id, *to));
                    }
                }
            }
        }
        None
    }

    /// The active node that should get a replica of this shard beside those on `rest`.
    fn target(&self, placement: &Placement, rest: &[u64]) -> Option<u64> {
        let zones = self.rows.zones(rest.iter().copied());
        let free = self.load.iter().filter(|(node, _)| placement.replicas.iter().all(|there| there.node != **node));
        free.min_by_key(|(node, load)| (self.conflicts(&zones, **node), **load, **node)).map(|(node, _)| *node)
    }

    /// True if an active node has a replica that leaves.
    fn will_have_place(&self, placement: &Placement) -> bool {
        placement.replicas.iter().any(|replica| replica.leaving && self.rows.is_active(replica.node))
    }

    /// True for one that is lost before it has joined, if others stay, and no replica that runs is kept until then.
    fn never_comes(&self, placement: &Placement, replica: &Replica) -> bool {
        let is_kept = placement.replicas.iter().any(|other| other.leaving && !self.is_lost(other.node));
        let stays = |other: &Replica| other.id != replica.id && !other.joining && !self.is_lost(other.node);
        replica.joining && self.is_lost(replica.node) && !is_kept && staying(placement).any(stays)
    }

    fn is_lost(&self, node: u64) -> bool {
        self.rows.node(node).is_some_and(|node| node.state() == State::Lost)
    }

    /// True if the node's zone is one of these.
    fn conflicts(&self, zones: &BTreeSet<&str>, node: u64) -> bool {
        self.rows.node(node).is_some_and(|node| zones.contains(&*node.zone))
    }
}

fn is_moving(placement: &Placement) -> bool {
    placement.replicas.iter().any(|replica| replica.joining || replica.leaving)
}

fn staying(placement: &Placement) -> impl Iterator<Item = &Replica> {
    placement.replicas.iter().filter(|replica| !replica.leaving)
}

fn moved(shard: ShardId, replica: u64, node: u64) -> Op {
    Op::MoveReplica(MoveReplica { group: shard.group(), replica, node })
}

fn removed(shard: ShardId, replica: u64) -> Op {
    Op::RemoveReplica(RemoveReplica { group: shard.group(), replica })
}

fn votes(replica: u64, votes: bool) -> Op {
    Op::SetReplicaVotes(SetReplicaVotes { replica, votes })
}

#[cfg(test)]
mod tests;
