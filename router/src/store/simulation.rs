//! The client of the store without its task.

use carillon_proto::pb::store::{StoreReply, StoreRequest};
use tokio::{sync::mpsc, time::Instant};

use super::{
    AnswerTo, Store, StoreOp, StoreResult,
    engine::{Engine, Nodes},
};

/// Operations that wait for their turn.
const OPS: usize = 8192;

pub(crate) struct StoreSide {
    engine: Engine<AnswerTo>,
    ops: mpsc::Receiver<Box<StoreOp>>,
}

pub(crate) enum Event {
    Members(Vec<String>),
    Up { address: String, stream: u64 },
    Down { stream: u64 },
    Reply(Box<StoreReply>),
    Tick,
}

pub(crate) struct Done {
    /// On which stream.
    pub(crate) sends: Vec<(u64, StoreRequest)>,
    /// To which partition.
    pub(crate) answers: Vec<(usize, StoreResult)>,
}

impl StoreSide {
    /// Of every other seed, a lane is full with a few writes.
    pub(crate) fn new(writes_bound: usize, seed: u64) -> (Store, Self) {
        let writes_bound = if seed.is_multiple_of(2) { writes_bound } else { 2 + (seed as usize / 2) % 6 };
        let (to_ops, ops) = mpsc::channel(OPS);
        (Store { ops: to_ops }, Self { engine: Engine::new(writes_bound, seed), ops })
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.engine.is_idle()
    }

    /// Somebody asks for something.
    pub(crate) fn is_asked(&self) -> bool {
        !self.ops.is_empty()
    }

    pub(crate) fn take(&mut self, event: Event, now: Instant) {
        match event {
            Event::Members(members) => {
                self.engine.set_nodes(Nodes { members, ..Nodes::default() });
            }
            Event::Up { address, stream } => self.engine.stream_up(&address, stream),
            Event::Down { stream } => self.engine.stream_down(stream, now),
            Event::Reply(reply) => self.engine.reply(*reply, now),
            Event::Tick => self.engine.tick(now),
        }
    }

    pub(crate) fn take_asked(&mut self, now: Instant) {
        while let Ok(op) = self.ops.try_recv() {
            self.engine.submit(op, now);
        }
    }

    pub(crate) fn perform(&mut self, now: Instant) -> Done {
        self.engine.flush(now);
        let effects = &mut self.engine.effects;
        let answers = effects.answers.drain(..).filter_map(|(to, answer)| match to {
            AnswerTo::Partition(partition, token) => Some((partition, (token, answer))),
            // Only the admin service asks so.
            AnswerTo::Once(_) => None,
        });
        Done { answers: answers.collect(), sends: std::mem::take(&mut effects.sends) }
    }
}
