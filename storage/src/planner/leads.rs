//! Who should lead each shard: leads are spread by the work that they cost, and by their number where they cost little or nothing is
//! known.

use std::collections::{BTreeMap, BTreeSet};

use carillon_proto::{
    ShardId,
    pb::store::{Placement, PreferReplica, Replica, directory_command::Op},
};

use super::{Planner, staying};

/// A lead counts as much as so much work a second, whatever the shard does: some 25 writes.
const LEAD: u64 = 100;
/// Measured work may be wrong by a tenth, each way. A lead moves only if that helps even then, so it is not moved back when the
/// measured work changes by as much: with each move the true loads get more even.
const ERROR: u64 = 10;
/// A lead moves for its work only if the node that gets it has less than the one that gives it, then, by this part of what a node has
/// on average, and by half a lead.
const MARGIN: u64 = 10;

/// What is known of the shards' leaders.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Leads {
    /// Work a second. That of other shards is unknown, and counts as none.
    pub(crate) rates: BTreeMap<ShardId, u64>,
    /// Nodes that can't keep up.
    pub(crate) slow: BTreeSet<u64>,
    /// Leads move only where their number demands it: one has just been moved for its work.
    pub(crate) rests: bool,
    /// Leads stay where they are, except while shards are being spread: the work of some is not known yet.
    pub(crate) waits: bool,
}

/// What a node leads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Load {
    leads: u64,
    rate: u64,
}

impl Load {
    fn and(self, other: Self) -> Self {
        Self { leads: self.leads + other.leads, rate: self.rate + other.rate }
    }

    fn sum(self) -> u64 {
        self.leads * LEAD + self.rate
    }

    /// True if this is less than the other one by the margin, however wrong the rates are.
    fn is_surely_less(self, other: Self, margin: u64) -> bool {
        let (more, less) = (ERROR + 1, ERROR - 1);
        let highest = more * (less * (LEAD * self.leads + margin) + ERROR * self.rate);
        let lowest = less * (more * LEAD * other.leads + ERROR * other.rate);
        highest < lowest
    }
}

/// One lead that could move.
struct Move {
    shard: ShardId,
    to: u64,
    /// How much more even the loads would be.
    gain: u128,
    by_number: bool,
}

impl Planner<'_> {
    /// The next lead to be moved.
    pub(super) fn lead(&self) -> Option<Op> {
        if self.moving > 0 || (self.leads.waits && !self.rows.rebalancing) {
            return None;
        }
        let loads = self.lead_loads();
        let mean = loads.values().map(|load| load.sum()).sum::<u64>() / loads.len().max(1) as u64;
        let margin = (LEAD / 2).max(mean / MARGIN);
        let placement = self.rows.placement().iter();
        let moves = placement.filter_map(|(shard, placement)| self.lead_of(*shard, placement, &loads, margin));
        let may_move = |it: &Move| it.by_number || !self.leads.rests || self.rows.rebalancing;
        // The first one of those that gain the most.
        let best = moves.filter(may_move).reduce(|best, next| if next.gain > best.gain { next } else { best })?;
        Some(Op::PreferReplica(PreferReplica { group: best.shard.group(), replica: best.to }))
    }

    /// What each active node should lead now.
    fn lead_loads(&self) -> BTreeMap<u64, Load> {
        let mut loads: BTreeMap<u64, Load> = self.load.keys().map(|node| (*node, Load::default())).collect();
        for (shard, placement) in self.rows.placement() {
            if let Some(load) = leader(placement).and_then(|replica| loads.get_mut(&replica.node)) {
                *load = load.and(self.lead_load(*shard));
            }
        }
        loads
    }

    fn lead_load(&self, shard: ShardId) -> Load {
        Load { leads: 1, rate: self.leads.rates.get(&shard).copied().unwrap_or_default() }
    }

    /// The move of this shard's lead that makes loads more even, if there is one.
    fn lead_of(&self, shard: ShardId, placement: &Placement, loads: &BTreeMap<u64, Load>, margin: u64) -> Option<Move> {
        let lead = self.lead_load(shard);
        let able = staying(placement).filter(|replica| !replica.learner && self.rows.is_active(replica.node));
        let load_of = |replica: &Replica| loads.get(&replica.node).copied().unwrap_or_default();
        // Without a node that keeps up there is nothing to choose.
        let keeps_up = able.filter(|replica| !self.leads.slow.contains(&replica.node));
        let to = keeps_up.min_by_key(|replica| (load_of(replica).sum(), replica.node))?;
        let with_it = load_of(to).and(lead);
        let from = leader(placement).filter(|replica| loads.contains_key(&replica.node));
        let Some(from) = from else {
            return Some(Move { shard, to: to.id, gain: u128::MAX, by_number: true });
        };
        if self.leads.slow.contains(&from.node) {
            return Some(Move { shard, to: to.id, gain: u128::MAX - 1, by_number: false });
        }
        let load = load_of(from);
        let gain = u128::from(lead.sum()) * u128::from(load.sum().saturating_sub(with_it.sum()));
        let by_number = with_it.leads < load.leads;
        let helps = with_it.is_surely_less(load, if by_number { 0 } else { margin });
        helps.then_some(Move { shard, to: to.id, gain, by_number })
    }
}

fn leader(placement: &Placement) -> Option<&Replica> {
    placement.replicas.iter().find(|replica| replica.id == placement.preferred)
}
