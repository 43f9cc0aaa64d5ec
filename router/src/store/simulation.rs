//! The client of the store without its task.

use carillon_proto::{
    ShardId,
    pb::store::{StoreReply, StoreRequest, store_request::Op},
};
use tokio::time::Instant;

use super::{
    Place, StoreOp, StoreResult,
    engine::{Engine, Nodes},
};

/// Partition and token.
type To = (usize, u64);

pub(crate) struct StoreSide {
    engine: Engine<To>,
}

pub(crate) enum Event {
    Op { shard: ShardId, op: Op, deadline: Instant, place: Place, to: To },
    Members(Vec<String>),
    Up { address: String, stream: u64 },
    Down { stream: u64 },
    Reply(StoreReply),
    Tick,
}

pub(crate) struct Done {
    /// With the stream of each.
    pub(crate) sends: Vec<(u64, StoreRequest)>,
    /// With the partition of each.
    pub(crate) answers: Vec<(usize, StoreResult)>,
}

impl StoreSide {
    /// With every other seed, a lane is full after a few writes.
    pub(crate) fn new(writes_bound: usize, seed: u64) -> Self {
        let writes_bound = if seed.is_multiple_of(2) { writes_bound } else { 2 + (seed as usize / 2) % 6 };
        Self { engine: Engine::new(writes_bound, seed) }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.engine.is_idle()
    }

    pub(crate) fn take(&mut self, event: Event, now: Instant) {
        match event {
            Event::Op { shard, op, deadline, place, to } => {
                let op = StoreOp { shard, op, traceparent: String::new(), deadline, place, tries: 0, to };
                self.engine.submit(Box::new(op), now);
            }
            Event::Members(members) => {
                self.engine.set_nodes(Nodes { members, ..Nodes::default() });
            }
            Event::Up { address, stream } => self.engine.stream_up(&address, stream),
            Event::Down { stream } => self.engine.stream_down(stream, now),
            Event::Reply(reply) => self.engine.reply(reply, now),
            Event::Tick => self.engine.tick(now),
        }
    }

    pub(crate) fn perform(&mut self, now: Instant) -> Done {
        self.engine.flush(now);
        let effects = &mut self.engine.effects;
        let answers = effects.answers.drain(..).map(|((partition, token), answer)| (partition, (token, answer)));
        Done { answers: answers.collect(), sends: std::mem::take(&mut effects.sends) }
    }
}
