//! Attempts: operations are sent to nodes, answered, and retried.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use carillon_proto::{
    ShardId,
    pb::store::{Rejected, StoreReply, rejected, store_error::Why, store_reply},
};
use tokio::time::Instant;

use super::{Attempt, READ_TRY, READ_WINDOW, Read, StoreDispatch, StreamId, What};
use crate::store::StoreFailure;

impl<A> StoreDispatch<A> {
    /// Sends everything that may be sent. To be called after a batch of inputs.
    pub(in crate::store) fn flush(&mut self, now: Instant) {
        // In the order of shards, each once.
        let mut news = std::mem::take(&mut self.news);
        news.sort_unstable();
        news.dedup();
        for id in news.drain(..) {
            let Some(shard) = self.shards.get_mut(&id) else { continue };
            if !shard.lane.wants_to_send() && (shard.reads_waiting.is_empty() || shard.reads_in_flight >= READ_WINDOW) {
                continue;
            }
            let target = shard.target(id, &self.nodes).map(|address| self.streams.get(address).copied());
            let Some(Some(stream)) = target else {
                let wait = shard.failed(self.nodes.of(id), &self.streams);
                shard.lane.broken(now, wait);
                for read in std::mem::take(&mut shard.reads_waiting) {
                    if let Some(read) = shard.reads.get_mut(&read) {
                        read.retry_at = now + wait;
                    }
                }
                continue;
            };
            if shard.lane_stream.is_some_and(|before| before != stream) {
                // The answer to a read has named another leader. What is on its way to the one before must not be overtaken.
                shard.lane.turn(now);
            }
            let lane = shard.lane.number();
            while let Some((seq, op)) = shard.lane.send(now) {
                shard.lane_stream = Some(stream);
                op.tries += 1;
                let attempt = Attempt { shard: id, stream, what: What::Write { lane, seq } };
                self.attempts.insert(self.next_id, attempt);
                self.effects.sends.push((stream, op.to_request(self.next_id, lane)));
                self.next_id += 1;
            }
            while shard.reads_in_flight < READ_WINDOW {
                let Some(number) = shard.reads_waiting.pop_front() else { break };
                // The read may have expired meanwhile.
                let Some(read) = shard.reads.get_mut(&number) else { continue };
                read.attempt = Some((self.next_id, now));
                shard.reads_in_flight += 1;
                let attempt = Attempt { shard: id, stream, what: What::Read { read: number } };
                self.attempts.insert(self.next_id, attempt);
                self.effects.sends.push((stream, read.op.to_request(self.next_id, 0)));
                self.next_id += 1;
            }
        }
        self.news = news;
    }

    pub(in crate::store) fn stream_up(&mut self, address: &str, stream: StreamId) {
        self.streams.insert(address.to_owned(), stream);
        // A new stream: retry without back-off.
        self.shards.values_mut().for_each(|shard| shard.failures = 0);
    }

    pub(in crate::store) fn stream_down(&mut self, stream: StreamId, now: Instant) {
        self.streams.retain(|_, known| *known != stream);
        let lost: Vec<u64> =
            self.attempts.iter().filter(|(_, attempt)| attempt.stream == stream).map(|(id, _)| *id).collect();
        let mut hit: BTreeMap<ShardId, Duration> = BTreeMap::new();
        let mut broken: BTreeSet<ShardId> = BTreeSet::new();
        for id in lost {
            let Some(Attempt { shard: id, what, .. }) = self.attempts.remove(&id) else { continue };
            self.has_news(id);
            let Some(shard) = self.shards.get_mut(&id) else { continue };
            let wait = *hit.entry(id).or_insert_with(|| shard.failed(self.nodes.of(id), &self.streams));
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

    pub(in crate::store) fn reply(&mut self, reply: StoreReply, now: Instant) {
        // The attempt was given up.
        let Some(Attempt { shard: id, what, stream }) = self.attempts.remove(&reply.id) else { return };
        self.has_news(id);
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
                            self.end(*read.op, Ok(answer));
                        }
                    }
                }
                self.release(id);
                if self.shards.get(&id).is_some_and(|shard| shard.lane.is_closed()) {
                    self.reopen(id, now);
                }
                return;
            }
            None => None,
        };
        let wait = match why {
            Some(Why::Rejected(rejected)) => {
                shard.failures = 0;
                if let Some(op) = shard.give_back(what) {
                    self.end(*op, Err(failure_of(rejected)));
                }
                self.release(id);
                return;
            }
            Some(Why::Full(full)) => {
                shard.failures = 0;
                shard.full_until = Some(now + Duration::from_millis(full.retry_after_ms.into()));
                if let Some(op) = shard.give_back(what) {
                    let failure = match op.tries {
                        0 | 1 => StoreFailure::Full { shard: id, retry_after_ms: full.retry_after_ms },
                        // An earlier attempt may have been carried out.
                        _ => StoreFailure::Expired { shard: id },
                    };
                    self.end(*op, Err(failure));
                }
                self.release(id);
                return;
            }
            Some(Why::NotLeader(not)) => shard.not_leader(id, not.leader, stream, &self.nodes, &self.streams),
            Some(Why::Busy(busy)) => {
                let wait = shard.backoff();
                wait.max(Duration::from_millis(busy.retry_after_ms.min(5000).into()))
            }
            // The refusal that closed the lane gives the wait.
            Some(Why::LaneClosed(_)) => Duration::ZERO,
            // Another node has a replica; the next view of the registry tells which.
            Some(Why::NotHere(_) | Why::Unknown(_)) | None => {
                let asked = shard.leader.as_ref().and_then(|leader| self.streams.get(leader));
                // The rest of a batch says the same as its first reply, after which the next node is asked.
                if asked.is_some_and(|asked| *asked != stream) {
                    Duration::ZERO
                } else {
                    shard.failed(self.nodes.of(id), &self.streams)
                }
            }
        };
        match what {
            What::Write { lane, seq } => shard.lane.refused(lane, seq, now, wait),
            What::Read { read } => shard.retry_read(read, now + wait),
        }
        self.reopen(id, now);
    }

    /// The stream's queue is full: handled as a refusal by the node.
    pub(in crate::store) fn not_sent(&mut self, id: u64, now: Instant) {
        let Some(Attempt { shard: shard_id, what, .. }) = self.attempts.remove(&id) else { return };
        self.has_news(shard_id);
        let Some(shard) = self.shards.get_mut(&shard_id) else { return };
        let wait = shard.backoff();
        match what {
            What::Write { lane, seq } => shard.lane.refused(lane, seq, now, wait),
            What::Read { read } => shard.retry_read(read, now + wait),
        }
    }

    /// Time has passed.
    pub(in crate::store) fn tick(&mut self, now: Instant) {
        // An end in one shard starts nothing in another.
        let busy = self.shards.iter().filter(|(_, shard)| !shard.lane.is_idle() || !shard.reads.is_empty());
        let busy: Vec<ShardId> = busy.map(|(id, _)| *id).collect();
        for id in busy {
            self.has_news(id);
            let Some(shard) = self.shards.get_mut(&id) else { continue };
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
                let wait = shard.failed(self.nodes.of(id), &self.streams);
                shard.lane.broken(now, wait);
            }
            let stuck = |read: &Read<A>| read.attempt.is_some_and(|(_, at)| now >= at + READ_TRY);
            let stuck: Vec<u64> = shard.reads.iter().filter(|(_, r)| stuck(r)).map(|(number, _)| *number).collect();
            if !stuck.is_empty() {
                let wait = shard.failed(self.nodes.of(id), &self.streams);
                for number in stuck {
                    if let Some((attempt, _)) = shard.reads.get(&number).and_then(|read| read.attempt) {
                        self.attempts.remove(&attempt);
                    }
                    shard.retry_read(number, now + wait);
                }
            }
            shard.wake_reads(now);
            for op in expired {
                self.end(*op, Err(StoreFailure::Expired { shard: id }));
            }
            self.release(id);
            self.reopen(id, now);
        }
    }

    fn reopen(&mut self, id: ShardId, now: Instant) {
        let Some(shard) = self.shards.get_mut(&id) else { return };
        if shard.lane.reopen(now) {
            self.effects.lanes_reopened += 1;
            // Answers to older lanes are no longer waited for.
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
            self.end(*op, Ok(answer));
        }
    }
}

fn failure_of(rejected: Rejected) -> StoreFailure {
    match rejected.reason() {
        rejected::Reason::Exists => StoreFailure::Exists { detail: rejected.detail },
        rejected::Reason::NotFound => StoreFailure::NotFound { detail: rejected.detail },
        rejected::Reason::OutOfOrder => StoreFailure::OutOfOrder { detail: rejected.detail },
        rejected::Reason::Gone => StoreFailure::Gone { detail: rejected.detail },
        rejected::Reason::SenderGone => StoreFailure::SenderGone { detail: rejected.detail },
        rejected::Reason::Level => StoreFailure::Level { detail: rejected.detail },
        rejected::Reason::Full => StoreFailure::NoRoom { detail: rejected.detail },
        rejected::Reason::Forbidden => StoreFailure::Forbidden { detail: rejected.detail },
        rejected::Reason::TooLate => StoreFailure::TooLate { detail: rejected.detail },
        rejected::Reason::TooEarly => {
            StoreFailure::TooEarly { detail: rejected.detail, retry_after_ms: rejected.retry_after_ms }
        }
        rejected::Reason::Unspecified | rejected::Reason::Invalid | rejected::Reason::WrongShard => {
            StoreFailure::Rejected { detail: rejected.detail }
        }
    }
}
