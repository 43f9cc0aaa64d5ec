//! Requests on their way to links and back, partitioned by connection: no task and no lock is shared by all
//! connections, except for a short one that measures accepted sends (`Load`).

use std::{sync::Arc, time::Instant};

use carillon_proto::{
    KeyedMap, Ring, clock,
    pb::{
        client::Code,
        link::{RouterReply, router_reply},
    },
};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Asker, ToLink,
    dispatch::{Dispatch, Effect, Input, Load, PARTS, Submit, Word},
};
use crate::{connections::Connections, metrics, outcome::refusal};

/// The handle to an open link.
#[derive(Clone)]
pub(crate) struct LinkHandle {
    pub(crate) queue: mpsc::Sender<ToLink>,
    /// Ends the link.
    pub(crate) cut: CancellationToken,
}

/// All partitions. A request is routed and queued on its link under its partition's lock, which keeps the order of its
/// lane.
pub(crate) struct Partitions {
    parts: Vec<Mutex<Part>>,
    load: Arc<Load>,
    /// For each router and partition, the ring by which the partition has announced all.
    told_all: Mutex<KeyedMap<Arc<str>, [u64; PARTS]>>,
    connections: Arc<Connections>,
}

struct Part {
    dispatch: Dispatch<Asker>,
    ways: KeyedMap<Arc<str>, LinkHandle>,
    /// Reused.
    effects: Vec<Effect<Asker>>,
}

impl Partitions {
    pub(crate) fn new(load: Arc<Load>, deadline: std::time::Duration, connections: Arc<Connections>) -> Self {
        let eras = super::dispatch::Eras::default();
        let part = |index| {
            let dispatch = Dispatch::new(index, Arc::clone(&load), eras.clone(), deadline);
            Mutex::new(Part { dispatch, ways: KeyedMap::default(), effects: Vec::new() })
        };
        let parts = (0..PARTS as u64).map(part).collect();
        Self { parts, load, told_all: Mutex::default(), connections }
    }

    pub(crate) fn submit(&self, submit: Submit<Asker>) {
        let part = (submit.connection % PARTS as u64) as usize;
        self.input(part, Input::Submit(submit), now());
    }

    pub(crate) fn replies(&self, from: &Arc<str>, replies: Vec<RouterReply>) {
        let now = now();
        let part_of = |reply: &RouterReply| (reply.id % PARTS as u64) as usize;
        if let [reply] = &*replies {
            return self.input(part_of(reply), Input::Replies(Arc::clone(from), replies), now);
        }
        let mut counts = [0; PARTS];
        replies.iter().for_each(|reply| counts[part_of(reply)] += 1);
        let mut by_part = counts.map(Vec::with_capacity);
        for reply in replies {
            by_part[part_of(&reply)].push(reply);
        }
        for (part, replies) in by_part.into_iter().enumerate().filter(|(_, replies)| !replies.is_empty()) {
            self.input(part, Input::Replies(Arc::clone(from), replies), now);
        }
    }

    pub(crate) fn up(&self, address: &Arc<str>, way: &LinkHandle) {
        self.told_all.lock().remove(address);
        let now = now();
        for (index, part) in self.parts.iter().enumerate() {
            part.lock().ways.insert(Arc::clone(address), way.clone());
            self.input(index, Input::Up(Arc::clone(address)), now);
        }
    }

    pub(crate) fn down(&self, address: &Arc<str>) {
        self.told_all.lock().remove(address);
        let now = now();
        for (index, part) in self.parts.iter().enumerate() {
            part.lock().ways.remove(address);
            self.input(index, Input::Down(Arc::clone(address)), now);
        }
    }

    pub(crate) fn ring(&self, ring: &Arc<Ring>) {
        self.all(|| Input::Ring(Arc::clone(ring)));
    }

    pub(crate) fn lease(&self, lease: Option<u64>) {
        self.all(|| Input::Lease(lease));
    }

    pub(crate) fn tick(&self) {
        let now = now();
        for index in 0..self.parts.len() {
            let rests = self.parts[index].lock().dispatch.rests(now);
            if !rests {
                self.input(index, Input::Tick, now);
            }
        }
    }

    /// Requests without an answer.
    pub(crate) fn pending(&self) -> usize {
        self.load.pending()
    }

    /// The number of requests that were repeated since the last call.
    pub(crate) fn take_repeated(&self) -> u64 {
        self.parts.iter().map(|part| part.lock().dispatch.take_repeated()).sum()
    }

    fn all(&self, input: impl Fn() -> Input<Asker>) {
        let now = now();
        for part in 0..self.parts.len() {
            self.input(part, input(), now);
        }
    }

    fn input(&self, index: usize, input: Input<Asker>, now: Instant) {
        let mut part = self.parts[index].lock();
        let Part { dispatch, ways, effects } = &mut *part;
        dispatch.handle(now, input, effects);
        // A full link refuses, and a broken one is down: both come back as inputs, with fewer requests in flight each
        // time.
        while !effects.is_empty() {
            let mut back = Vec::new();
            for effect in effects.drain(..) {
                self.perform(index, ways, effect, &mut back);
            }
            for input in back {
                dispatch.handle(now, input, effects);
            }
        }
    }

    fn perform(
        &self,
        index: usize,
        ways: &mut KeyedMap<Arc<str>, LinkHandle>,
        effect: Effect<Asker>,
        back: &mut Vec<Input<Asker>>,
    ) {
        match effect {
            Effect::Transmit { to, request, since_read } => {
                let Some(way) = ways.get(&to) else { return };
                let id = request.id;
                match way.queue.try_send(ToLink::Request(request)) {
                    Ok(()) => since_read.into_iter().for_each(metrics::received),
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        let why = refusal(Code::Overloaded, "too many requests are waiting for a router", 200);
                        let result = Some(router_reply::Result::Refusal(why));
                        back.push(Input::Replies(to, vec![RouterReply { id, result }]));
                    }
                    Err(mpsc::error::TrySendError::Closed(_)) => {
                        ways.remove(&to);
                        back.push(Input::Down(to));
                    }
                }
            }
            Effect::Tell { to, word } => {
                let word = match word {
                    Word::AnnouncedAll(version) => match self.told_by_all(&to, index, version) {
                        true => Word::AnnouncedAll(version),
                        false => return,
                    },
                    Word::Forget(_) => word,
                };
                // Without room the link is closed: everything is announced anew on the next one.
                if let Some(way) = ways.get(&to)
                    && way.queue.try_send(ToLink::Word(word)).is_err()
                {
                    way.cut.cancel();
                }
            }
            Effect::Answer { client: (mailbox, tag), answered } => mailbox.answer(tag, answered),
            Effect::Announced { connection, heads } => {
                ::metrics::counter!(metrics::ANNOUNCEMENTS).increment(1);
                if let Some(mailbox) = self.connections.get(connection) {
                    mailbox.announced(heads);
                }
            }
            Effect::Over { connection, why } => {
                if let Some(mailbox) = self.connections.get(connection) {
                    mailbox.over(why);
                }
            }
        }
    }

    /// Records the partition's report; true if all partitions have now reported this ring.
    fn told_by_all(&self, to: &Arc<str>, part: usize, version: u64) -> bool {
        let mut told_all = self.told_all.lock();
        let told = told_all.entry(Arc::clone(to)).or_default();
        told[part] = version;
        told.iter().all(|told| *told == version)
    }
}

fn now() -> Instant {
    clock::now().into_std()
}
