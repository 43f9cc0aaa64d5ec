//! The task around the dispatch: takes inputs, performs effects.

use std::{
    collections::{BTreeMap, HashSet},
    future::poll_fn,
    sync::Arc,
    time::Duration,
};

use carillon_proto::{Woken, clock, pb::store::StoreReply, peer::PeerSecurity, queues, tasks::Tasks};
use futures_util::StreamExt as _;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::wrappers::WatchStream;

use super::{
    AnswerTo, Store, StoreAnswer, StoreFailure, StoreOp,
    dispatch::{Nodes, StoreDispatch, StreamId},
    stream::{self, Event, Requests},
    told::Told,
};
use crate::{due::Due, metrics, topology::Topology};

/// Operations on their way to the dispatch, which takes them faster than they come. When the queue is full, further ones
/// are refused.
const OPS: usize = 8192;
/// Batches of answers and events of streams. When the queue is full, the streams are not read.
const EVENTS: usize = 64;
/// How late a retry or the end of a deadline may be.
const TICK: Duration = Duration::from_millis(10);

/// Answers to one partition: token and result.
pub(crate) type StoreResult = (u64, Result<StoreAnswer, StoreFailure>);

pub(crate) struct StoreActor {
    dispatch: StoreDispatch<AnswerTo>,
    ops: Woken<mpsc::Receiver<Box<StoreOp>>>,
    events: Woken<mpsc::Receiver<Event>>,
    to_events: mpsc::Sender<Event>,
    /// Replies of the nodes of this process.
    told: Arc<Told>,
    /// The first one at once.
    topology: Woken<WatchStream<Arc<Topology>>>,
    /// By partition. The partitions never wait for the store, so waiting for them ends.
    partitions: Vec<mpsc::Sender<StoreResult>>,
    security: PeerSecurity,
    streams: BTreeMap<StreamId, (String, Requests)>,
    members: BTreeMap<String, Tasks>,
    nodes_seen: StreamId,
}

impl StoreActor {
    /// `seed`: the source of randomness of the pauses between attempts.
    pub(crate) fn new(
        topology: watch::Receiver<Arc<Topology>>,
        partitions: Vec<mpsc::Sender<StoreResult>>,
        security: PeerSecurity,
        shard_writes: usize,
        seed: u64,
    ) -> (Store, Self) {
        let (to_ops, ops) = mpsc::channel(OPS);
        let (to_events, events) = mpsc::channel(EVENTS);
        queues::watch("router_store_asks", &to_ops);
        queues::watch("router_store_events", &to_events);
        let actor = Self {
            dispatch: StoreDispatch::new(shard_writes, seed),
            ops: Woken::new(ops),
            events: Woken::new(events),
            to_events,
            told: Arc::default(),
            topology: Woken::new(WatchStream::new(topology)),
            partitions,
            security,
            streams: BTreeMap::new(),
            members: BTreeMap::new(),
            nodes_seen: 0,
        };
        (Store { ops: to_ops }, actor)
    }

    /// Runs until nobody can ask any more.
    pub(crate) async fn run(mut self, tasks: Tasks) {
        let mut tick = Due::new();
        // `None` while nothing can be late.
        let mut tick_at: Option<Instant> = None;
        let mut ops = Vec::with_capacity(512);
        let mut replies: Vec<StoreReply> = Vec::new();
        loop {
            if self.dispatch.is_idle() {
                tick_at = None;
            } else {
                tick_at.get_or_insert_with(|| clock::now() + TICK);
            }
            let (queue, events, told) = (&mut self.ops, &mut self.events, &self.told);
            // All branches are cancel-safe: receiving, ticking, watching. Rare branches come first, so that they are
            // not starved.
            tokio::select! {
                biased;
                () = poll_fn(|context| tick.poll(context, tick_at)) => {
                    tick_at = None;
                    self.dispatch.tick(clock::now());
                }
                event = poll_fn(|context| events.poll_by(context, mpsc::Receiver::poll_recv)) => {
                    // `to_events` is ours, so it never closes.
                    if let Some(event) = event {
                        self.take_event(event);
                        while let Ok(event) = self.events.get_mut().try_recv() {
                            self.take_event(event);
                        }
                    }
                }
                topology = self.topology.next() => {
                    let Some(topology) = topology else { return };
                    self.follow_members(&topology, &tasks);
                }
                () = poll_fn(|context| told.poll_take(context, &mut replies)) => {
                    let now = clock::now();
                    replies.drain(..).for_each(|reply| self.dispatch.reply(reply, now));
                }
                taken = poll_fn(|context| {
                    queue.poll_by(context, |queue, context| queue.poll_recv_many(context, &mut ops, 512))
                }) => {
                    if taken == 0 {
                        return;
                    }
                    let now = clock::now();
                    ops.drain(..).for_each(|op| self.dispatch.submit(op, now));
                }
            }
            self.perform().await;
        }
    }

    fn take_event(&mut self, event: Event) {
        let now = clock::now();
        match event {
            Event::Up { address, stream, requests } => {
                // The node may have left meanwhile.
                if self.members.contains_key(&address) {
                    self.dispatch.stream_up(&address, stream);
                    self.streams.insert(stream, (address, requests));
                }
            }
            Event::Replies(replies) => replies.into_iter().for_each(|reply| self.dispatch.reply(reply, now)),
            Event::Down { stream } => {
                self.streams.remove(&stream);
                self.dispatch.stream_down(stream, now);
            }
        }
    }

    fn follow_members(&mut self, topology: &Topology, tasks: &Tasks) {
        let (members, replicas) = (topology.storage(), topology.replicas());
        let wanted: HashSet<&String> = members.iter().collect();
        self.members.retain(|address, stream| {
            let stays = wanted.contains(address);
            if !stays {
                stream.stop();
            }
            stays
        });
        let now = clock::now();
        self.streams.retain(|stream, (address, _)| {
            let stays = wanted.contains(address);
            if !stays {
                self.dispatch.stream_down(*stream, now);
            }
            stays
        });
        for address in &members {
            if self.members.contains_key(address) {
                continue;
            }
            let group = tasks.child();
            self.nodes_seen += 1;
            let keep = stream::keep(
                address.clone(),
                self.security.clone(),
                self.to_events.clone(),
                Arc::clone(&self.told),
                self.nodes_seen,
            );
            group.spawn("router_store_stream", keep);
            self.members.insert(address.clone(), group);
        }
        self.dispatch.set_nodes(Nodes { members, replicas });
    }

    async fn perform(&mut self) {
        let now = clock::now();
        self.dispatch.flush(now);
        // Taken out and put back, to keep its memory.
        let mut sends = std::mem::take(&mut self.dispatch.effects.sends);
        for (stream, request) in sends.drain(..) {
            let id = request.id;
            if self.streams.get(&stream).is_none_or(|(_, requests)| !requests.send(request)) {
                self.dispatch.not_sent(id, now);
            }
        }
        self.dispatch.effects.sends = sends;
        let reopened = std::mem::take(&mut self.dispatch.effects.lanes_reopened);
        if reopened > 0 {
            metrics::lanes_reopened(reopened);
        }
        let mut answers = std::mem::take(&mut self.dispatch.effects.answers);
        for (to, answer) in answers.drain(..) {
            match to {
                // A partition or a caller that is gone needs no answer.
                AnswerTo::Partition(index, token) => {
                    let _ = self.partitions[index].send((token, answer)).await;
                }
                AnswerTo::Once(caller) => {
                    let _ = caller.send(answer);
                }
            }
        }
        self.dispatch.effects.answers = answers;
    }
}
