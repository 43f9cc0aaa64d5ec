//! Decides what is sent to which storage node, without waiting and without a clock: this file takes inputs,
//! `attempts.rs` sends them and handles the results.

mod attempts;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use carillon_proto::{
    KeyedMap, ShardId, pause,
    pb::store::{StoreRequest, store_reply, store_request::Op},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

use super::{Place, StoreFailure, StoreOp, lane::Lane};

/// Reads of one shard in flight: each answer may be large.
const READ_WINDOW: usize = 64;
/// Reads of one shard that wait; further ones are refused.
const READS: usize = 4096;
/// Retry delay for a shard whose disk is full, in milliseconds: as storage nodes give it.
const FULL_AGAIN_MS: std::ops::Range<u32> = 5_000..15_000;
const READ_TRY: Duration = Duration::from_secs(2);
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// The store's answer to an operation that it carried out.
pub(crate) type StoreAnswer = store_reply::Result;

/// Names one stream to one node; a new stream has a new one.
pub(super) type StreamId = u64;

/// All shards: lanes, reads, leaders.
pub(super) struct StoreDispatch<A> {
    shards: BTreeMap<ShardId, Shard<A>>,
    /// Shards that may have something to send; `flush` has sent everything possible of all others.
    news: Vec<ShardId>,
    nodes: Nodes,
    streams: KeyedMap<String, StreamId>,
    attempts: KeyedMap<u64, Attempt>,
    next_id: u64,
    writes_bound: usize,
    /// Seeds the generators of the shards.
    random: StdRng,
    /// Operations without an answer.
    outstanding: usize,
    pub(super) effects: Effects<A>,
}

/// The nodes that may be asked.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// All storage nodes.
    pub(super) members: Vec<String>,
    /// The nodes that have a replica of a shard, in the order in which they are tried. For a shard that is not here:
    /// all members.
    pub(super) replicas: BTreeMap<ShardId, Vec<String>>,
}

impl Nodes {
    fn of(&self, shard: ShardId) -> &[String] {
        self.replicas.get(&shard).filter(|replicas| !replicas.is_empty()).unwrap_or(&self.members)
    }

    /// The node to ask first: the preferred replica, or without a placement a node by the shard's number.
    fn first(&self, shard: ShardId) -> Option<&String> {
        match self.replicas.get(&shard).and_then(|replicas| replicas.first()) {
            Some(first) => Some(first),
            None => self.members.get(usize::from(shard.index) % self.members.len().max(1)),
        }
    }
}

/// To be performed in order.
pub(super) struct Effects<A> {
    pub(super) sends: Vec<(StreamId, StoreRequest)>,
    pub(super) answers: Vec<(A, Result<StoreAnswer, StoreFailure>)>,
    pub(super) lanes_reopened: u64,
}

struct Shard<A> {
    lane: Lane<Box<StoreOp<A>>, StoreAnswer>,
    /// To which the last write was sent.
    lane_stream: Option<StreamId>,
    reads: KeyedMap<u64, Read<A>>,
    reads_waiting: VecDeque<u64>,
    reads_in_flight: usize,
    next_read: u64,
    /// Believed to lead.
    leader: Option<String>,
    /// Confirmed by an answer.
    known: bool,
    failures: u32,
    /// The leader has said that its disk is full: until then no write starts that would end with an append there.
    full_until: Option<Instant>,
    /// A hint was followed since the last pause.
    followed: bool,
    random: StdRng,
}

struct Read<A> {
    op: Box<StoreOp<A>>,
    retry_at: Instant,
    attempt: Option<(u64, Instant)>,
}

struct Attempt {
    shard: ShardId,
    stream: StreamId,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Write { lane: u64, seq: u64 },
    Read { read: u64 },
}

impl<A> StoreDispatch<A> {
    /// `seed`: the only source of randomness of its pauses.
    pub(super) fn new(writes_bound: usize, seed: u64) -> Self {
        Self {
            shards: BTreeMap::new(),
            news: Vec::new(),
            nodes: Nodes::default(),
            streams: KeyedMap::default(),
            attempts: KeyedMap::default(),
            next_id: 1,
            writes_bound,
            random: StdRng::seed_from_u64(seed),
            outstanding: 0,
            effects: Effects { sends: Vec::new(), answers: Vec::new(), lanes_reopened: 0 },
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.outstanding == 0
    }

    /// The leader of each shard, as far as it is known.
    #[cfg(test)]
    pub(super) fn leaders(&self) -> BTreeMap<ShardId, String> {
        self.shards.iter().filter(|(_, s)| s.known).filter_map(|(id, s)| Some((*id, s.leader.clone()?))).collect()
    }

    pub(super) fn set_nodes(&mut self, nodes: Nodes) {
        self.nodes = nodes;
    }

    pub(super) fn submit(&mut self, op: Box<StoreOp<A>>, now: Instant) {
        if op.deadline <= now {
            self.effects.answers.push((op.to, Err(StoreFailure::Expired { shard: op.shard })));
            return;
        }
        let id = op.shard;
        if let Place::AndFor(other) = op.place
            && let Some(until) = self.shard(other).full_until.filter(|until| *until > now)
        {
            // Not before the shard is asked again, and not all at the same time.
            let retry_after_ms = ((until - now).as_millis() as u32).max(self.random.random_range(FULL_AGAIN_MS));
            self.effects.answers.push((op.to, Err(StoreFailure::Full { shard: other, retry_after_ms })));
            return;
        }
        if let Some(full) = self.full(&op) {
            let retry_after_ms = self.shard(full).lane.retry_after().as_millis() as u32;
            self.effects.answers.push((op.to, Err(StoreFailure::Overloaded { shard: full, retry_after_ms })));
            return;
        }
        self.outstanding += 1;
        if let Place::AndFor(other) = op.place {
            self.shard(other).lane.keep_place();
        }
        self.has_news(id);
        let shard = self.shard(id);
        if is_write(&op.op) {
            let deadline = op.deadline;
            shard.lane.push(op, deadline, now);
        } else {
            let read = shard.next_read;
            shard.next_read += 1;
            shard.reads.insert(read, Read { op, retry_at: now, attempt: None });
            shard.reads_waiting.push_back(read);
        }
    }

    /// The shard that has no room for it, if any.
    fn full(&mut self, op: &StoreOp<A>) -> Option<ShardId> {
        let id = op.shard;
        if !is_write(&op.op) {
            return (self.shard(id).reads.len() >= READS).then_some(id);
        }
        match op.place {
            Place::Own => (!self.shard(id).lane.has_room(1)).then_some(id),
            Place::AndFor(other) if other == id => (!self.shard(id).lane.has_room(2)).then_some(id),
            Place::AndFor(other) => [id, other].into_iter().find(|shard| !self.shard(*shard).lane.has_room(1)),
            Place::Follows => None,
        }
    }

    /// Makes `flush` look at this shard.
    fn has_news(&mut self, id: ShardId) {
        if self.news.last() != Some(&id) {
            self.news.push(id);
        }
    }

    fn shard(&mut self, id: ShardId) -> &mut Shard<A> {
        let (bound, random) = (self.writes_bound, &mut self.random);
        self.shards.entry(id).or_insert_with(|| Shard::new(bound, StdRng::from_rng(random)))
    }

    /// Answers an operation, which is nowhere else any more.
    fn end(&mut self, op: StoreOp<A>, result: Result<StoreAnswer, StoreFailure>) {
        self.outstanding -= 1;
        if let Place::AndFor(other) = op.place {
            self.shard(other).lane.let_place_go();
        }
        self.effects.answers.push((op.to, result));
    }
}

impl<A> Shard<A> {
    fn new(writes_bound: usize, random: StdRng) -> Self {
        Self {
            lane: Lane::new(writes_bound),
            lane_stream: None,
            reads: KeyedMap::default(),
            reads_waiting: VecDeque::new(),
            reads_in_flight: 0,
            next_read: 0,
            leader: None,
            known: false,
            full_until: None,
            failures: 0,
            followed: false,
            random,
        }
    }

    /// The node to ask.
    fn target(&mut self, id: ShardId, nodes: &Nodes) -> Option<&str> {
        if self.leader.as_ref().is_none_or(|leader| !nodes.members.contains(leader)) {
            self.known = false;
            self.leader = nodes.first(id).cloned();
        }
        self.leader.as_deref()
    }

    /// From now on asks the next of these nodes, a connected one if there is one. Returns the pause before.
    fn failed(&mut self, nodes: &[String], streams: &KeyedMap<String, StreamId>) -> Duration {
        self.known = false;
        let at = nodes.iter().position(|node| Some(node) == self.leader.as_ref());
        // If the last one is not in the list, starts with the first.
        let after = at.map_or(0, |at| at + 1);
        let next = (0..nodes.len()).map(|step| &nodes[(after + step) % nodes.len()]);
        self.leader = next.clone().find(|node| streams.contains_key(*node)).or_else(|| next.clone().next()).cloned();
        self.backoff()
    }

    fn not_leader(
        &mut self,
        id: ShardId,
        hint: String,
        from: StreamId,
        nodes: &Nodes,
        streams: &KeyedMap<String, StreamId>,
    ) -> Duration {
        // The node says that itself leads: it is about to, but can't yet.
        if streams.get(&hint) == Some(&from) {
            return self.backoff();
        }
        // The rest of a batch gives the same hint as its first reply.
        if self.leader.as_ref() == Some(&hint) {
            return Duration::ZERO;
        }
        if !streams.contains_key(&hint) || !nodes.members.contains(&hint) {
            return self.failed(nodes.of(id), streams);
        }
        self.known = false;
        self.leader = Some(hint);
        // One hint is followed at once; hints that lead in a circle are not.
        if !self.followed {
            self.followed = true;
            return Duration::ZERO;
        }
        self.backoff()
    }

    fn backoff(&mut self) -> Duration {
        self.followed = false;
        let pause = pause::growing_by(&mut self.random, self.failures, BACKOFF_MIN, BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// Takes back what the store did not carry out, and is not asked again.
    fn give_back(&mut self, what: What) -> Option<Box<StoreOp<A>>> {
        match what {
            What::Write { lane, seq } => self.lane.rejected(lane, seq),
            What::Read { read } => self.end_read(read).map(|read| read.op),
        }
    }

    fn end_read(&mut self, number: u64) -> Option<Read<A>> {
        let read = self.reads.remove(&number)?;
        if read.attempt.is_some() {
            self.reads_in_flight -= 1;
        }
        Some(read)
    }

    fn retry_read(&mut self, number: u64, at: Instant) {
        if let Some(read) = self.reads.get_mut(&number) {
            if read.attempt.take().is_some() {
                self.reads_in_flight -= 1;
            }
            read.retry_at = at;
        }
    }

    /// Queues the reads whose pause is over.
    fn wake_reads(&mut self, now: Instant) {
        if self.reads.len() == self.reads_in_flight + self.reads_waiting.len() {
            return;
        }
        self.reads_waiting.clear();
        let due = self.reads.iter().filter(|(_, read)| read.attempt.is_none() && read.retry_at <= now);
        let mut due: Vec<u64> = due.map(|(number, _)| *number).collect();
        due.sort_unstable();
        self.reads_waiting.extend(due);
    }
}

fn is_write(op: &Op) -> bool {
    match op {
        Op::Timeline(_) | Op::Directory(_) => true,
        Op::ReadTimeline(_)
        | Op::ReadHead(_)
        | Op::ReadHeads(_)
        | Op::ReadUser(_)
        | Op::ReadGroup(_)
        | Op::ReadMembers(_)
        | Op::ReadMemberships(_)
        | Op::ReadOutbox(_)
        | Op::ReadConversations(_)
        | Op::ReadMarks(_)
        | Op::ReadContacts(_)
        | Op::ReadPrivacy(_)
        | Op::ReadAllowed(_)
        | Op::ReadUntold(_)
        | Op::ReadMedia(_)
        | Op::ReadHeldMedia(_)
        | Op::ReadScheduled(_)
        | Op::ReadReports(_)
        | Op::ReadReport(_)
        | Op::ListGroups(_)
        | Op::CountAccounts(_)
        | Op::ListAccounts(_)
        | Op::ListSessions(_) => false,
    }
}

#[cfg(test)]
mod tests;
