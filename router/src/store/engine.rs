//! Decides what is sent to which storage node, without waiting and without a clock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use carillon_proto::{
    ShardId,
    pb::store::{Rejected, StoreReply, StoreRequest, rejected, store_error::Why, store_reply, store_request::Op},
};
use tokio::time::Instant;

use super::{StoreFailure, StoreOp, lane::Lane};
use crate::backoff;

/// Reads of one shard that are under way at once: each answer may be large.
const READ_WINDOW: usize = 64;
/// Reads of one shard that wait; above it they are refused.
const READS: usize = 4096;
const READ_TRY: Duration = Duration::from_secs(2);
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

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
    pub(super) fn new(writes_bound: usize) -> Self {
        Self {
            shards: BTreeMap::new(),
            members: Vec::new(),
            streams: HashMap::new(),
            attempts: HashMap::new(),
            next_id: 1,
            writes_bound,
            outstanding: 0,
            effects: Effects { sends: Vec::new(), answers: Vec::new(), lanes_reopened: 0 },
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.outstanding == 0
    }

    /// Who leads each shard, as far as it is known.
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
        let bound = self.writes_bound;
        let shard = self.shards.entry(id).or_insert_with(|| Shard::new(bound));
        let refused = if is_write(&op.op) {
            let deadline = op.deadline;
            shard.lane.push(op, deadline).err()
        } else if shard.reads.len() >= READS {
            Some(op)
        } else {
            let read = shard.next_read;
            shard.next_read += 1;
            shard.reads.insert(read, Read { op, retry_at: now, attempt: None });
            shard.reads_waiting.push_back(read);
            None
        };
        match refused {
            Some(op) => {
                self.effects.answers.push((op.to, Err(StoreFailure::Overloaded { shard: id, retry_after_ms: 200 })));
            }
            None => self.outstanding += 1,
        }
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
                shard.known = true;
                match what {
                    What::Write { lane, seq } => shard.lane.answered(lane, seq, answer),
                    What::Read { read } => {
                        if let Some(read) = shard.end_read(read) {
                            self.outstanding -= 1;
                            self.effects.answers.push((read.op.to, Ok(answer)));
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
                    self.outstanding -= 1;
                    let failure = failure_of(rejected, op.tries > 1);
                    self.effects.answers.push((op.to, Err(failure)));
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
            Some(Why::Unknown(_)) | None => shard.failed(&self.members, &self.streams),
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
            let (outstanding, answers) = (&mut self.outstanding, &mut self.effects.answers);
            let mut expire = |op: StoreOp<A>| {
                *outstanding -= 1;
                answers.push((op.to, Err(StoreFailure::Expired { shard: id })));
            };
            shard.lane.expire(now, &mut expire);
            let over: Vec<u64> =
                shard.reads.iter().filter(|(_, read)| read.op.deadline <= now).map(|(number, _)| *number).collect();
            for number in over {
                if let Some(read) = shard.end_read(number) {
                    if let Some((attempt, _)) = read.attempt {
                        self.attempts.remove(&attempt);
                    }
                    expire(read.op);
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
        let Some(shard) = self.shards.get_mut(&id) else { return };
        while let Some((op, answer)) = shard.lane.release() {
            self.outstanding -= 1;
            self.effects.answers.push((op.to, Ok(answer)));
        }
    }
}

impl<A> Shard<A> {
    fn new(writes_bound: usize) -> Self {
        Self {
            lane: Lane::new(writes_bound),
            reads: HashMap::new(),
            reads_waiting: VecDeque::new(),
            reads_in_flight: 0,
            next_read: 0,
            leader: None,
            known: false,
            failures: 0,
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
        // The first hint is followed at once; hints that lead in a circle are not.
        if self.failures == 0 {
            self.failures = 1;
            return Duration::ZERO;
        }
        self.backoff()
    }

    fn backoff(&mut self) -> Duration {
        let pause = backoff::pause(self.failures, BACKOFF_MIN, BACKOFF_MAX);
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
        Op::ReadTimeline(_) | Op::ReadHead(_) | Op::ReadUser(_) => false,
    }
}

fn failure_of(rejected: Rejected, repeated: bool) -> StoreFailure {
    match rejected.reason() {
        rejected::Reason::Exists => StoreFailure::Exists { repeated },
        rejected::Reason::NotFound => StoreFailure::NotFound { detail: rejected.detail },
        rejected::Reason::Unspecified | rejected::Reason::Invalid | rejected::Reason::WrongShard => {
            StoreFailure::Rejected { detail: rejected.detail }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::{
        ShardKind,
        pb::store::{
            Appended, Busy, Done, Head, LaneClosed, NotLeader, ReadHead, StoreError, TimelineCommand, Unknown,
        },
    };

    const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 0 };
    const SOON: Duration = Duration::from_secs(1);

    struct Play {
        engine: Engine<u32>,
        now: Instant,
    }

    impl Play {
        /// Nodes a, b and c with streams 1, 2 and 3.
        fn new() -> Self {
            let mut engine = Engine::new(100);
            engine.set_members(["a", "b", "c"].map(str::to_owned).to_vec());
            for (address, stream) in [("a", 1), ("b", 2), ("c", 3)] {
                engine.stream_up(address, stream);
            }
            Self { engine, now: Instant::now() }
        }

        fn submit(&mut self, name: u32, op: Op) {
            let deadline = self.now + SOON * 10;
            let op = StoreOp { shard: SHARD, op, traceparent: String::new(), deadline, tries: 0, to: name };
            self.engine.submit(op, self.now);
        }

        fn write(&mut self, name: u32) {
            self.submit(name, Op::Timeline(TimelineCommand::default()));
        }

        fn read(&mut self, name: u32) {
            self.submit(name, Op::ReadHead(ReadHead::default()));
        }

        /// What was sent: stream, id, lane.
        fn sent(&mut self) -> Vec<(StreamId, u64, u64)> {
            self.engine.flush(self.now);
            std::mem::take(&mut self.engine.effects.sends).into_iter().map(|(s, r)| (s, r.id, r.lane)).collect()
        }

        fn says(&mut self, id: u64, result: StoreAnswer) {
            self.engine.reply(StoreReply { id, result: Some(result) }, self.now);
        }

        fn refuses(&mut self, id: u64, why: Why) {
            self.says(id, StoreAnswer::Error(StoreError { why: Some(why) }));
        }

        fn answered(&mut self) -> Vec<(u32, bool)> {
            std::mem::take(&mut self.engine.effects.answers).into_iter().map(|(who, r)| (who, r.is_ok())).collect()
        }

        fn wait(&mut self, time: Duration) {
            self.now += time;
            self.engine.tick(self.now);
        }
    }

    fn appended() -> StoreAnswer {
        StoreAnswer::Appended(Appended { epoch: 1, seq: 1, first_envelope: bytes::Bytes::new() })
    }

    fn not_leader(leader: &str) -> Why {
        Why::NotLeader(NotLeader { leader: leader.to_owned() })
    }

    #[test]
    fn a_hint_is_followed_at_once_with_the_next_lane_and_remembered() {
        let mut play = Play::new();
        play.write(1);
        play.write(2);
        assert_eq!(play.sent(), [(1, 1, 1), (1, 2, 1)]);
        play.refuses(1, not_leader("c"));
        assert_eq!(play.sent(), [], "an answer is outstanding");
        play.refuses(2, Why::LaneClosed(LaneClosed {}));
        assert_eq!(play.sent(), [(3, 3, 2), (3, 4, 2)]);
        play.says(3, appended());
        play.says(4, appended());
        assert_eq!(play.answered(), [(1, true), (2, true)]);
        assert!(play.engine.is_idle());
        assert_eq!(play.engine.leaders()[&SHARD], "c");
        play.write(3);
        assert_eq!(play.sent(), [(3, 5, 2)]);
    }

    #[test]
    fn hints_in_a_circle_do_not_spin() {
        let mut play = Play::new();
        play.write(1);
        assert_eq!(play.sent(), [(1, 1, 1)]);
        play.refuses(1, not_leader("b"));
        assert_eq!(play.sent(), [(2, 2, 2)]);
        play.refuses(2, not_leader("a"));
        assert_eq!(play.sent(), [], "only after a pause");
        play.wait(SOON);
        assert_eq!(play.sent(), [(1, 3, 3)]);
        // It says of itself that it leads, but does not yet.
        play.refuses(3, not_leader("a"));
        assert_eq!(play.sent(), []);
        play.wait(SOON);
        assert_eq!(play.sent(), [(1, 4, 4)]);
    }

    #[test]
    fn a_node_that_is_lost_is_replaced_by_one_that_is_connected() {
        let mut play = Play::new();
        play.write(1);
        play.read(2);
        assert_eq!(play.sent(), [(1, 1, 1), (1, 2, 0)]);
        play.engine.stream_down(2, play.now);
        play.engine.stream_down(1, play.now);
        assert_eq!(play.sent(), []);
        play.wait(SOON);
        assert_eq!(play.sent(), [(3, 3, 2), (3, 4, 0)]);
        play.says(1, appended());
        assert_eq!(play.answered(), [], "the answer of a stream that is down is nobody's");
        play.says(3, appended());
        play.says(4, StoreAnswer::Head(Head::default()));
        assert_eq!(play.answered(), [(1, true), (2, true)]);
    }

    #[test]
    fn with_no_node_connected_everything_waits_for_one() {
        let mut play = Play::new();
        for stream in 1..=3 {
            play.engine.stream_down(stream, play.now);
        }
        play.write(1);
        play.read(2);
        assert_eq!(play.sent(), []);
        play.wait(SOON);
        assert_eq!(play.sent(), []);
        play.engine.stream_up("b", 9);
        play.wait(SOON);
        assert_eq!(play.sent(), [], "the next one that is connected is chosen");
        play.wait(SOON);
        let sent: Vec<_> = play.sent().iter().map(|(stream, _, lane)| (*stream, *lane > 0)).collect();
        assert_eq!(sent, [(9, true), (9, false)]);
    }

    #[test]
    fn a_busy_shard_is_asked_again_when_it_says() {
        let mut play = Play::new();
        play.write(1);
        play.sent();
        play.refuses(1, Why::Busy(Busy { retry_after_ms: 400 }));
        play.wait(Duration::from_millis(399));
        assert_eq!(play.sent(), []);
        play.wait(Duration::from_millis(1));
        assert_eq!(play.sent(), [(1, 2, 2)]);
    }

    #[test]
    fn what_is_rejected_goes_straight_back_and_the_rest_goes_on() {
        let mut play = Play::new();
        play.write(1);
        play.write(2);
        play.sent();
        let rejected = Rejected { reason: rejected::Reason::Exists.into(), detail: String::new() };
        play.refuses(1, Why::Rejected(rejected));
        play.says(2, StoreAnswer::Done(Done {}));
        assert_eq!(play.answered(), [(1, false), (2, true)]);
        assert_eq!(play.sent(), []);
    }

    #[test]
    fn deadlines_end_writes_and_reads_once() {
        let mut play = Play::new();
        play.write(1);
        play.read(2);
        play.sent();
        play.wait(SOON * 10);
        let mut answered = play.answered();
        answered.sort_unstable();
        assert_eq!(answered, [(1, false), (2, false)]);
        assert!(play.engine.is_idle());
        play.says(1, appended());
        play.says(2, StoreAnswer::Head(Head::default()));
        assert_eq!(play.answered(), []);
    }

    #[test]
    fn an_unknown_outcome_is_asked_again_elsewhere() {
        let mut play = Play::new();
        play.write(1);
        play.read(2);
        play.sent();
        play.refuses(1, Why::Unknown(Unknown { why: "leader lost".into() }));
        play.refuses(2, Why::Unknown(Unknown { why: "leader lost".into() }));
        play.wait(SOON);
        let streams: Vec<_> = play.sent().iter().map(|sent| sent.0).collect();
        assert_eq!(streams.len(), 2);
        assert!(streams.iter().all(|stream| *stream != 1), "{streams:?}");
    }

    #[test]
    fn a_node_without_a_word_is_left() {
        let mut play = Play::new();
        play.write(1);
        play.read(2);
        assert_eq!(play.sent(), [(1, 1, 1), (1, 2, 0)]);
        play.wait(READ_TRY);
        play.wait(SOON);
        let sent = play.sent();
        assert_eq!(sent.len(), 2, "{sent:?}");
        assert!(sent.iter().all(|(stream, _, _)| *stream != 1), "{sent:?}");
    }

    #[test]
    fn a_full_stream_delays_and_a_full_shard_refuses() {
        let mut play = Play::new();
        play.write(1);
        let sent = play.sent();
        play.engine.not_sent(sent[0].1, play.now);
        assert_eq!(play.sent(), []);
        play.wait(SOON);
        assert_eq!(play.sent(), [(1, 2, 2)]);
        (2..=100).for_each(|name| play.write(name));
        assert_eq!(play.answered(), []);
        play.write(101);
        assert_eq!(play.answered(), [(101, false)]);
    }
}
