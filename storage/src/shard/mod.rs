//! One shard as the services see it: a queue of writes, a queue of reads, and the leader.

mod answer;
mod lane;
#[cfg(feature = "planted-bugs")]
mod planted;
mod proposer;
mod reads;
mod work;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use carillon_proto::{
    ShardId,
    pb::store::{Busy, LaneClosed, NotLeader, StoreError, Unknown, store_error::Why},
    queues::{self, Fill},
    tasks::Tasks,
};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::{
    answer::{NearCaller, Replies, Reply, Responder},
    lane::{Lane, Lanes},
    reads::{ReadOp, Reader},
    work::Work,
};
use self::{proposer::Proposer, reads::Reads};
use crate::{
    damage::Alarm,
    machine::Outcome,
    metrics as names,
    raft::{Group, ProposeError, ReadError},
};

/// Commands and bytes that wait to be proposed, and reads that wait. More are refused with `Busy`.
const QUEUE_COMMANDS: usize = 2000;
const QUEUE_BYTES: usize = 4 << 20;
const QUEUE_READS: usize = 2000;
/// Refused requests should not return at once.
const RETRY_AFTER_MS: u32 = 50;

/// A handle to a shard of this node.
#[derive(Clone)]
pub(crate) struct Shard {
    inner: Arc<Inner>,
}

struct Inner {
    id: ShardId,
    group: Arc<Group>,
    reader: Reader,
    alarm: Alarm,
    work: Work,
    writes: mpsc::Sender<Write>,
    waiting_bytes: Arc<AtomicUsize>,
    reads: mpsc::Sender<reads::Read>,
}

/// A checked command on its way into the log.
struct Write {
    command: Bytes,
    lane: Option<Lane>,
    answer: Responder,
    /// Until the command has its place in the log.
    waiting: Waiting,
}

/// Counts the waiting bytes.
struct Waiting {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Shard {
    pub(crate) fn start(id: ShardId, group: Arc<Group>, reader: Reader, alarm: Alarm, tasks: &Tasks) -> Self {
        let (writes, write_queue) = mpsc::channel(QUEUE_COMMANDS);
        let (reads, read_queue) = mpsc::channel(QUEUE_READS);
        let work = Work::default();
        let proposer = Proposer::new(
            id,
            Arc::clone(&group),
            write_queue,
            work.clone(),
            #[cfg(feature = "planted-bugs")]
            reader.clone(),
        );
        tasks.spawn("proposer", proposer.run());
        let reads_of = Reads::new(id, Arc::clone(&group), reader.clone(), read_queue, alarm.clone(), work.clone());
        tasks.spawn("reads", reads_of.run());
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        queues::watch("storage_writes", &writes);
        queues::watch("storage_reads", &reads);
        let waiting = Arc::downgrade(&waiting_bytes);
        queues::measure("storage_write_bytes", move || {
            let length = waiting.upgrade()?.load(Ordering::Relaxed);
            Some(Fill { length, capacity: QUEUE_BYTES })
        });
        Self { inner: Arc::new(Inner { id, group, reader, alarm, work, writes, waiting_bytes, reads }) }
    }

    pub(crate) fn id(&self) -> ShardId {
        self.inner.id
    }

    pub(crate) fn group(&self) -> &Arc<Group> {
        &self.inner.group
    }

    pub(crate) fn reader(&self) -> &Reader {
        &self.inner.reader
    }

    /// What has been done here so far.
    pub(crate) fn work(&self) -> &Work {
        &self.inner.work
    }

    /// Told when the disk fails this node.
    pub(crate) fn alarm(&self) -> &Alarm {
        &self.inner.alarm
    }

    /// Queues a checked command. It is answered when it is applied, thus on disk on a majority, or refused.
    pub(crate) fn submit(&self, command: Bytes, lane: Option<Lane>, answer: Responder) {
        if lane.as_ref().is_some_and(Lane::is_closed) {
            return answer.refuse(Why::LaneClosed(LaneClosed {}));
        }
        if self.inner.alarm.is_raised() {
            if let Some(lane) = &lane {
                lane.close();
            }
            return answer.refuse(stopping());
        }
        #[cfg(feature = "planted-bugs")]
        let command = planted::as_a_later_program(command, self.inner.reader.level());
        let bytes = command.len();
        let waiting = self.inner.waiting_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let write =
            Write { command, lane, answer, waiting: Waiting { bytes, all: Arc::clone(&self.inner.waiting_bytes) } };
        if waiting > QUEUE_BYTES {
            return write.refuse(busy());
        }
        match self.inner.writes.try_send(write) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(write)) => write.refuse(busy()),
            Err(mpsc::error::TrySendError::Closed(write)) => write.refuse(stopping()),
        }
    }

    /// Writes and waits.
    pub(crate) async fn write(&self, command: Bytes) -> Outcome {
        let (answer, outcome) = Responder::once();
        self.submit(command, None, answer);
        wait(outcome).await
    }

    /// Queues a read. The leader answers it; it sees everything that was answered before it.
    pub(crate) fn read(&self, op: ReadOp, answer: Responder) {
        if self.inner.alarm.is_raised() {
            return answer.refuse(stopping());
        }
        match self.inner.reads.try_send(reads::Read { op, answer }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(read)) => read.answer.refuse(busy()),
            Err(mpsc::error::TrySendError::Closed(read)) => read.answer.refuse(stopping()),
        }
    }
}

impl Write {
    /// Also refuses the following writes of its lane, so that a repeat comes before them.
    fn refuse(self, why: Why) {
        if let Some(lane) = &self.lane {
            lane.close();
        }
        self.answer.refuse(why);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

async fn wait(outcome: oneshot::Receiver<Outcome>) -> Outcome {
    outcome.await.unwrap_or_else(|_| Outcome::Error(StoreError { why: Some(stopping()) }))
}

fn busy() -> Why {
    Why::Busy(Busy { retry_after_ms: RETRY_AFTER_MS })
}

fn stopping() -> Why {
    Why::NotLeader(NotLeader { leader: String::new() })
}

fn not_proposed(error: ProposeError) -> Why {
    match error {
        ProposeError::NotLeader { leader } => Why::NotLeader(NotLeader { leader: leader.unwrap_or_default() }),
        // It has led for a while without hearing from a majority: another node may lead by now.
        ProposeError::NotYet => Why::NotLeader(NotLeader { leader: String::new() }),
        ProposeError::Unknown(why) => Why::Unknown(Unknown { why }),
    }
}

fn not_read(error: ReadError) -> Why {
    match error {
        ReadError::NotLeader { leader } => Why::NotLeader(NotLeader { leader: leader.unwrap_or_default() }),
        ReadError::NoMajority | ReadError::Stopped(_) => Why::Unknown(Unknown { why: error.to_string() }),
    }
}

/// A short name, for metrics.
fn name_of(why: &Why) -> &'static str {
    match why {
        Why::NotLeader(_) => "not_leader",
        Why::Busy(_) => "busy",
        Why::Full(_) => "full",
        Why::Unknown(_) => "unknown",
        Why::LaneClosed(_) => "lane_closed",
        Why::Rejected(_) => "rejected",
        Why::NotHere(_) => "not_here",
    }
}

fn count_refusal(why: &Why) {
    metrics::counter!(names::REFUSALS, "why" => name_of(why)).increment(1);
}
