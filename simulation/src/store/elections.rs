//! Changes of leaders, and crashes of storage nodes.

use std::sync::atomic::Ordering;

use carillon_proto::{
    ShardId,
    pb::store::{NotLeader, Unknown, store_error::Why},
};

use super::{FOUNDERS, StoreEvent, error};
use crate::{
    schedule::MS,
    wires::{Ends, Side, WireId},
    world::{Event, World},
};

impl World<'_> {
    /// Another node leads from now on. What is in flight is committed up to a point that nobody chooses; who asked for
    /// it hears that it is not known.
    pub(crate) fn leader_changes(&mut self, shard: ShardId) {
        self.leader_changes_to(shard, None);
    }

    /// `wanted`: the replica that should lead, where members change.
    pub(super) fn leader_changes_to(&mut self, shard: ShardId, wanted: Option<u64>) {
        let known = self.cluster.shard(shard);
        known.term += 1;
        known.elected = false;
        let in_flight = std::mem::take(&mut known.in_flight);
        let waiting = std::mem::take(&mut known.waiting);
        for write in in_flight.iter().flatten() {
            write.lane.close();
            let why = Why::Unknown(Unknown { why: "led no more".to_owned() });
            self.reply(write.wire, write.id, error(why));
        }
        if self.grows() {
            self.cluster.shard(shard).left.extend(in_flight);
        } else {
            let survive = self.random.index(in_flight.len() + 1);
            for writes in in_flight.into_iter().take(survive) {
                self.commits(shard, writes, false);
            }
        }
        for write in waiting {
            write.lane.close();
            self.reply(write.wire, write.id, error(Why::NotLeader(NotLeader::default())));
        }
        if self.grows() {
            return self.elects(shard, wanted);
        }
        let up = self.cluster.nodes_up();
        let leader = up[self.random.index(up.len())];
        // Replicas move: any node but the leader may be without one.
        let without = Some(self.random.index(FOUNDERS)).filter(|node| *node != leader);
        let known = self.cluster.shard(shard);
        (known.leader, known.without) = (leader, without);
        let term = known.term;
        let after = self.random.below(300 * MS);
        self.schedule.after(after, Event::Store(StoreEvent::Elected { shard, term }));
    }

    /// Ends a storage node without warning, unless another one is down: two of three are a majority.
    pub(crate) fn node_crashes(&mut self) {
        let nodes = if self.grows() { self.members() } else { (0..FOUNDERS).collect() };
        let node = nodes[self.random.index(nodes.len())];
        if nodes.iter().any(|node| !self.cluster.up[*node].load(Ordering::Relaxed)) || nodes.len() < FOUNDERS {
            return;
        }
        self.node_ends(node);
        let after = self.random.between(50 * MS, 800 * MS);
        self.schedule.after(after, Event::Store(StoreEvent::NodeStarts(node)));
    }

    /// Its streams end, and others lead what it led.
    pub(super) fn node_ends(&mut self, node: usize) {
        self.cluster.up[node].store(false, Ordering::Relaxed);
        let is_its = |ends: Ends| matches!(ends, Ends::Stream { node: other, .. } if other == node);
        let its: Vec<WireId> = self.wires.all().filter(|(_, ends)| is_its(*ends)).map(|(wire, _)| wire).collect();
        for wire in its {
            self.abandon_wire(wire, Side::Second);
            self.cluster.forget(wire);
        }
        let led: Vec<ShardId> =
            self.cluster.shards.iter().filter(|(_, known)| known.leader == node).map(|(shard, _)| *shard).collect();
        for shard in led {
            self.leader_changes(shard);
        }
    }
}
