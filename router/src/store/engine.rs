//! Decides what is sent to which storage node, without waiting and without a clock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use carillon_proto::{
    ShardId,
    pb::store::{Rejected, StoreReply, StoreRequest, rejected, store_error::Why, store_reply, store_request::Op},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

use super::{Place, StoreFailure, StoreOp, lane::Lane};
use crate::backoff;

/// Reads of one shard that are under way at once: each answer may be large.
const READ_WINDOW: usize = 64;
/// Reads of one shard that wait; above it they are refused.
const READS: usize = 4096;
/// When to come back to a shard whose disk is full, in milliseconds: as storage nodes say it.
const FULL_AGAIN_MS: std::ops::Range<u32> = 5_000..15_000;
const READ_TRY: Duration = Duration::from_secs(2);
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// What the store says when it carried something out.
pub(crate) type StoreAnswer = store_reply::Result;

/// Names one stream to one node; a new stream has a new one.
pub(super) type StreamId = u64;

/// All shards: lanes, reads, who leads.
pub(super) struct Engine<A> {
    shards: BTreeMap<ShardId, Shard<A>>,
    /// Storage nodes, in the order in which they are tried.
    members: Vec<String>,
    streams: HashMap<String, StreamId>,
    attempts: HashMap<u64, Attempt>,
    next_id: u64,
    writes_bound: usize,
    /// Makes that of the shards.
    random: StdRng,
    /// Operations without an answer.
    outstanding: usize,
    pub(super) effects: Effects<A>,
}

/// To be performed in order.
pub(super) struct Effects<A> {
    pub(super) sends: Vec<(StreamId, StoreRequest)>,
    pub(super) answers: Vec<(A, Result<StoreAnswer, StoreFailure>)>,
    pub(super) lanes_reopened: u64,
}

struct Shard<A> {
    lane: Lane<StoreOp<A>, StoreAnswer>,
    reads: HashMap<u64, Read<A>>,
    reads_waiting: VecDeque<u64>,
    reads_in_flight: usize,
    next_read: u64,
    /// Believed to lead.
    leader: Option<String>,
    /// Confirmed by an answer.
    known: bool,
    failures: u32,
    /// Its leader has said that its disk is full: until then nothing is begun that would end with an append there.
    full_until: Option<Instant>,
    /// A hint was followed since the last pause.
    followed: bool,
    random: StdRng,
}

struct Read<A> {
    op: StoreOp<A>,
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

impl<A> Engine<A> {
    /// `seed`: what is random in its pauses comes from it alone.
    pub(super) fn new(writes_bound: usize, seed: u64) -> Self {
        Self {
            shards: BTreeMap::new(),
            members: Vec::new(),
            streams: HashMap::new(),
            attempts: HashMap::new(),
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

    /// Who leads each shard, as far as it is known.
    #[cfg(test)]
    pub(super) fn leaders(&self) -> HashMap<ShardId, String> {
        self.shards.iter().filter(|(_, s)| s.known).filter_map(|(id, s)| Some((*id, s.leader.clone()?))).collect()
    }

    pub(super) fn set_members(&mut self, members: Vec<String>) {
        self.members = members;
    }

    pub(super) fn submit(&mut self, op: StoreOp<A>, now: Instant) {
        if op.deadline <= now {
            self.effects.answers.push((op.to, Err(StoreFailure::Expired { shard: op.shard })));
            return;
        }
        let id = op.shard;
        if let Place::AndFor(other) = op.place
            && let Some(until) = self.shard(other).full_until.filter(|until| *until > now)
        {
            // Not before it is asked again, and not all of them at the same time.
            let retry_after_ms = ((until - now).as_millis() as u32).max(self.random.random_range(FULL_AGAIN_MS));
            self.effects.answers.push((op.to, Err(StoreFailure::Full { shard: other, retry_after_ms })));
            return;
        }
        if let Some(full) = self.full(&op) {
            let retry_after_ms = self.shard(full).lane.come_back().as_millis() as u32;
            self.effects.answers.push((op.to, Err(StoreFailure::Overloaded { shard: full, retry_after_ms })));
            return;
        }
        self.outstanding += 1;
        if let Place::AndFor(other) = op.place {
            self.shard(other).lane.keep_place();
        }
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

    /// The shard that has no room for it, if one has none.
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

    fn shard(&mut self, id: ShardId) -> &mut Shard<A> {
        let (bound, random) = (self.writes_bound, &mut self.random);
        self.shards.entry(id).or_insert_with(|| Shard::new(bound, StdRng::from_rng(random)))
    }

    /// The answer to an operation, which is nowhere else any more.
    fn end(&mut self, op: StoreOp<A>, result: Result<StoreAnswer, StoreFailure>) {
        self.outstanding -= 1;
        if let Place::AndFor(other) = op.place {
            self.shard(other).lane.let_place_go();
        }
        self.effects.answers.push((op.to, result));
    }

    /// Sends what may be sent. Call it after a batch of inputs.
    pub(super) fn flush(&mut self, now: Instant) {
        for (&id, shard) in &mut self.shards {
            if !shard.lane.wants_to_send() && (shard.reads_waiting.is_empty() || shard.reads_in_flight >= READ_WINDOW) {
                continue;
            }
            let target = shard.target(id, &self.members).map(|address| self.streams.get(address).copied());
            let Some(Some(stream)) = target else {
                let wait = shard.failed(&self.members, &self.streams);
                shard.lane.broken(now, wait);
                for read in std::mem::take(&mut shard.reads_waiting) {
                    if let Some(read) = shard.reads.get_mut(&read) {
                        read.retry_at = now + wait;
                    }
                }
                continue;
            };
            let lane = shard.lane.number();
            while let Some((seq, op)) = shard.lane.send(now) {
                op.tries += 1;
                let attempt = Attempt { shard: id, stream, what: What::Write { lane, seq } };
                self.attempts.insert(self.next_id, attempt);
                self.effects.sends.push((stream, op.to_request(self.next_id, lane)));
                self.next_id += 1;
            }
            while shard.reads_in_flight < READ_WINDOW {
                let Some(number) = shard.reads_waiting.pop_front() else { break };
                // It may have expired meanwhile.
                let Some(read) = shard.reads.get_mut(&number) else { continue };
                read.attempt = Some((self.next_id, now));
                shard.reads_in_flight += 1;
                let attempt = Attempt { shard: id, stream, what: What::Read { read: number } };
                self.attempts.insert(self.next_id, attempt);
                self.effects.sends.push((stream, read.op.to_request(self.next_id, 0)));
                self.next_id += 1;
            }
        }
    }

    pub(super) fn stream_up(&mut self, address: &str, stream: StreamId) {
        self.streams.insert(address.to_owned(), stream);
        // There is hope again.
        self.shards.values_mut().for_each(|shard| shard.failures = 0);
    }

    pub(super) fn stream_down(&mut self, stream: StreamId, now: Instant) {
        self.streams.retain(|_, known| *known != stream);
        let lost: Vec<u64> =
            self.attempts.iter().filter(|(_, attempt)| attempt.stream == stream).map(|(id, _)| *id).collect();
        let mut hit: BTreeMap<ShardId, Duration> = BTreeMap::new();
        let mut broken: BTreeSet<ShardId> = BTreeSet::new();
        for id in lost {
            let Some(Attempt { shard: id, what, .. }) = self.attempts.remove(&id) else { continue };
            let Some(shard) = self.shards.get_mut(&id) else { continue };
            let wait = *hit.entry(id).or_insert_with(|| shard.failed(&self.members, &self.streams));
            match what {
                What::Write { lane, .. } => {
                    if lane == shard.lane.number() && broken.insert(id) {
                        shard.lane.broken(now, wait);
                    }
                }
                What::Read { read } => shard.retry_read(read, now + wait),
            }
        }
    }

    pub(super) fn reply(&mut self, reply: StoreReply, now: Instant) {
        // An attempt that was given up.
        let Some(Attempt { shard: id, what, stream }) = self.attempts.remove(&reply.id) else { return };
        let Some(shard) = self.shards.get_mut(&id) else { return };
        let why = match reply.result {
            Some(store_reply::Result::Error(error)) => error.why,
            Some(answer) => {
                shard.failures = 0;
                shard.followed = false;
                shard.known = true;
                match what {
                    What::Write { lane, seq } => shard.lane.answered(lane, seq, answer, now),
                    What::Read { read } => {
                        if let Some(read) = shard.end_read(read) {
                            self.end(read.op, Ok(answer));
                        }
                    }
                }
                self.release(id);
                return;
            }
            None => None,
        };
        let wait = match why {
            Some(Why::Rejected(rejected)) => {
                shard.failures = 0;
                let op = match what {
                    What::Write { lane, seq } => shard.lane.rejected(lane, seq),
                    What::Read { read } => shard.end_read(read).map(|read| read.op),
                };
                if let Some(op) = op {
                    let failure = failure_of(rejected, op.tries > 1);
                    self.end(op, Err(failure));
                }
                self.release(id);
                return;
            }
            Some(Why::Full(full)) => {
                shard.failures = 0;
                shard.full_until = Some(now + Duration::from_millis(full.retry_after_ms.into()));
                let op = match what {
                    What::Write { lane, seq } => shard.lane.rejected(lane, seq),
                    What::Read { read } => shard.end_read(read).map(|read| read.op),
                };
                if let Some(op) = op {
                    let failure = match op.tries {
                        0 | 1 => StoreFailure::Full { shard: id, retry_after_ms: full.retry_after_ms },
                        // An earlier try may have been carried out.
                        _ => StoreFailure::Expired { shard: id },
                    };
                    self.end(op, Err(failure));
                }
                self.release(id);
                return;
            }
            Some(Why::NotLeader(not)) => shard.not_leader(not.leader, stream, &self.members, &self.streams),
            Some(Why::Busy(busy)) => {
                let wait = shard.backoff();
                wait.max(Duration::from_millis(busy.retry_after_ms.min(5000).into()))
            }
            // The refusal that closed the lane says how long to wait.
            Some(Why::LaneClosed(_)) => Duration::ZERO,
            // Another node has a replica: who, the next view of the registry tells.
            Some(Why::NotHere(_) | Why::Unknown(_)) | None => shard.failed(&self.members, &self.streams),
        };
        match what {
            What::Write { lane, seq } => shard.lane.refused(lane, seq, now, wait),
            What::Read { read } => shard.retry_read(read, now + wait),
        }
        self.reopen(id, now);
    }

    /// The stream's queue is full: as if the node had said so.
    pub(super) fn not_sent(&mut self, id: u64, now: Instant) {
        let Some(Attempt { shard: shard_id, what, .. }) = self.attempts.remove(&id) else { return };
        let Some(shard) = self.shards.get_mut(&shard_id) else { return };
        let wait = shard.backoff();
        match what {
            What::Write { lane, seq } => shard.lane.refused(lane, seq, now, wait),
            What::Read { read } => shard.retry_read(read, now + wait),
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) {
        let ids: Vec<ShardId> = self.shards.keys().copied().collect();
        for id in ids {
            let Some(shard) = self.shards.get_mut(&id) else { continue };
            if shard.lane.is_idle() && shard.reads.is_empty() {
                continue;
            }
            let mut expired = Vec::new();
            shard.lane.expire(now, |op| expired.push(op));
            let mut over: Vec<u64> =
                shard.reads.iter().filter(|(_, read)| read.op.deadline <= now).map(|(number, _)| *number).collect();
            over.sort_unstable();
            for number in over {
                if let Some(read) = shard.end_read(number) {
                    if let Some((attempt, _)) = read.attempt {
                        self.attempts.remove(&attempt);
                    }
                    expired.push(read.op);
                }
            }
            if shard.lane.is_stuck(now) {
                let wait = shard.failed(&self.members, &self.streams);
                shard.lane.broken(now, wait);
            }
            let stuck = |read: &Read<A>| read.attempt.is_some_and(|(_, at)| now >= at + READ_TRY);
            let stuck: Vec<u64> = shard.reads.iter().filter(|(_, r)| stuck(r)).map(|(number, _)| *number).collect();
            if !stuck.is_empty() {
                let wait = shard.failed(&self.members, &self.streams);
                for number in stuck {
                    if let Some((attempt, _)) = shard.reads.get(&number).and_then(|read| read.attempt) {
                        self.attempts.remove(&attempt);
                    }
                    shard.retry_read(number, now + wait);
                }
            }
            shard.wake_reads(now);
            for op in expired {
                self.end(op, Err(StoreFailure::Expired { shard: id }));
            }
            self.release(id);
            self.reopen(id, now);
        }
    }

    fn reopen(&mut self, id: ShardId, now: Instant) {
        let Some(shard) = self.shards.get_mut(&id) else { return };
        if shard.lane.reopen(now) {
            self.effects.lanes_reopened += 1;
            // Answers to the older lanes are not waited for any more.
            let current = shard.lane.number();
            self.attempts.retain(|_, attempt| match attempt.what {
                What::Write { lane, .. } => attempt.shard != id || lane >= current,
                What::Read { .. } => true,
            });
        }
        shard.wake_reads(now);
    }

    fn release(&mut self, id: ShardId) {
        while let Some((op, answer)) = self.shards.get_mut(&id).and_then(|shard| shard.lane.release()) {
            self.end(op, Ok(answer));
        }
    }
}

impl<A> Shard<A> {
    fn new(writes_bound: usize, random: StdRng) -> Self {
        Self {
            lane: Lane::new(writes_bound),
            reads: HashMap::new(),
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

    /// The node to ask. Without knowledge, shards begin with different ones.
    fn target(&mut self, id: ShardId, members: &[String]) -> Option<&str> {
        if self.leader.as_ref().is_none_or(|leader| !members.contains(leader)) {
            self.known = false;
            self.leader = members.get(usize::from(id.index) % members.len().max(1)).cloned();
        }
        self.leader.as_deref()
    }

    /// Asks the next node from now on, one that is connected if there is one; after how long?
    fn failed(&mut self, members: &[String], streams: &HashMap<String, StreamId>) -> Duration {
        self.known = false;
        let at = members.iter().position(|member| Some(member) == self.leader.as_ref()).unwrap_or(0);
        let next = (1..=members.len()).map(|step| &members[(at + step) % members.len()]);
        self.leader =
            next.clone().find(|member| streams.contains_key(*member)).or_else(|| next.clone().next()).cloned();
        self.backoff()
    }

    fn not_leader(
        &mut self,
        hint: String,
        from: StreamId,
        members: &[String],
        streams: &HashMap<String, StreamId>,
    ) -> Duration {
        // It is about to lead, but can't yet.
        if streams.get(&hint) == Some(&from) {
            return self.backoff();
        }
        // The rest of a batch gives the same hint as its first.
        if self.leader.as_ref() == Some(&hint) {
            return Duration::ZERO;
        }
        if !streams.contains_key(&hint) || !members.contains(&hint) {
            return self.failed(members, streams);
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
        let pause = backoff::pause_by(&mut self.random, self.failures, BACKOFF_MIN, BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        pause
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

    /// Lines up the reads whose pause is over.
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
        Op::ReadTimeline(_) | Op::ReadHead(_) | Op::ReadUser(_) | Op::ListAccounts(_) | Op::ListSessions(_) => false,
    }
}

fn failure_of(rejected: Rejected, repeated: bool) -> StoreFailure {
    match rejected.reason() {
        rejected::Reason::Exists => StoreFailure::Exists { repeated },
        rejected::Reason::NotFound => StoreFailure::NotFound { detail: rejected.detail },
        rejected::Reason::OutOfOrder => StoreFailure::OutOfOrder { detail: rejected.detail },
        rejected::Reason::Gone => StoreFailure::Gone { detail: rejected.detail },
        rejected::Reason::Full => StoreFailure::NoRoom { detail: rejected.detail },
        rejected::Reason::Unspecified | rejected::Reason::Invalid | rejected::Reason::WrongShard => {
            StoreFailure::Rejected { detail: rejected.detail }
        }
    }
}

#[cfg(test)]
mod tests;
