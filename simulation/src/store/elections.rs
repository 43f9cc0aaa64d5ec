//! Changes of leaders, and crashes of storage nodes.

use std::sync::atomic::Ordering;

use carillon_proto::{
    ShardId,
    pb::store::{NotLeader, Unknown, store_error::Why},
};

use super::{NODES, StoreEvent, error};
use crate::{
    schedule::MS,
    wires::{Ends, Side, WireId},
    world::{Event, World},
};

impl World<'_> {
    /// Another node leads from now on. What is in flight is committed up to a point that nobody chooses; who asked for
    /// it hears that it is not known.
    pub(crate) fn leader_changes(&mut self, shard: ShardId) {
        let known = self.cluster.shard(shard);
        known.term += 1;
        known.elected = false;
        let in_flight = std::mem::take(&mut known.in_flight);
        let waiting = std::mem::take(&mut known.waiting);
        let survive = self.random.index(in_flight.len() + 1);
        let term = known.term;
        for (place, writes) in in_flight.into_iter().enumerate() {
            for write in &writes {
                write.lane.close();
                let why = Why::Unknown(Unknown { why: "led no more".to_owned() });
                self.reply(write.wire, write.id, error(why));
            }
            if place < survive {
                self.commits(shard, writes, false);
            }
        }
        for write in waiting {
            write.lane.close();
            self.reply(write.wire, write.id, error(Why::NotLeader(NotLeader::default())));
        }
        let up = self.cluster.nodes_up();
        let leader = up[self.random.index(up.len())];
        // Replicas move: any node but the leader may be without one.
        let without = Some(self.random.index(NODES)).filter(|node| *node != leader);
        let known = self.cluster.shard(shard);
        (known.leader, known.without) = (leader, without);
        let after = self.random.below(300 * MS);
        self.schedule.after(after, Event::Store(StoreEvent::Elected { shard, term }));
    }

    /// Ends a storage node without warning, unless another one is down: two of three are a majority.
    pub(crate) fn node_crashes(&mut self) {
        let node = self.random.index(NODES);
        if self.cluster.nodes_up().len() < NODES {
            return;
        }
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
        let after = self.random.between(50 * MS, 800 * MS);
        self.schedule.after(after, Event::Store(StoreEvent::NodeStarts(node)));
    }
}
