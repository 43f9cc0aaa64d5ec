//! The client of the store: one stream to each storage node. The writes of a shard stay in order across failures.

mod actor;
mod dispatch;
mod lane;
mod stream;
mod told;

use carillon_proto::{
    ShardId,
    pb::store::{StoreRequest, store_request::Op},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

pub(crate) use actor::{StoreActor, StoreResult};
pub(crate) use dispatch::StoreAnswer;

/// One write or read, tried until its deadline. It goes from queue to queue, and is large: in a box.
pub(crate) struct StoreOp<A = AnswerTo> {
    pub(crate) shard: ShardId,
    pub(crate) op: Op,
    /// Empty if not traced.
    pub(crate) traceparent: String,
    pub(crate) deadline: Instant,
    pub(crate) place: Place,
    /// The number of times it was sent; at first 0.
    pub(crate) tries: u32,
    pub(crate) to: A,
}

/// The room that a write needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// For itself.
    Own,
    /// For itself and, in the lane of this shard, for the write that will follow from it: for both or for neither.
    AndFor(ShardId),
    /// The operation follows from a write that was carried out, and is never refused for a full lane. A lane can exceed its
    /// bound by the number of messages between the first answer and the second write.
    Follows,
}

/// Who waits for the answer.
pub(crate) enum AnswerTo {
    /// A partition of the router, by its index, and its token.
    Partition(usize, u64),
    Once(oneshot::Sender<Result<StoreAnswer, StoreFailure>>),
}

/// Why the store did not carry it out, or why that is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreFailure {
    #[error("{shard} has too many requests waiting")]
    Overloaded { shard: ShardId, retry_after_ms: u32 },
    #[error("the disk of {shard} is full")]
    Full { shard: ShardId, retry_after_ms: u32 },
    #[error("no answer from {shard} in time")]
    Expired { shard: ShardId },
    #[error("{detail}")]
    Exists { detail: String },
    #[error("{detail}")]
    NotFound { detail: String },
    #[error("{detail}")]
    OutOfOrder { detail: String },
    /// The user was deleted, the session was ended, or the inbox has another owner by now.
    #[error("{detail}")]
    Gone { detail: String },
    /// The sender's session is over: its user was deleted, or has other credentials now.
    #[error("{detail}")]
    SenderGone { detail: String },
    #[error("{detail}")]
    NoRoom { detail: String },
    /// The user may not do that in the group.
    #[error("{detail}")]
    Forbidden { detail: String },
    /// The message can't be edited any more, or the poll is over.
    #[error("{detail}")]
    TooLate { detail: String },
    #[error("{detail}")]
    TooEarly { detail: String, retry_after_ms: u32 },
    /// Some storage nodes can't read it yet.
    #[error("{detail}")]
    Level { detail: String },
    #[error("rejected by the store: {detail}")]
    Rejected { detail: String },
    #[error("unexpected answer from the store")]
    Unexpected,
    #[error("the router is stopping")]
    Stopping,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    ops: mpsc::Sender<Box<StoreOp>>,
}

impl Store {
    /// Never waits: a partition that waits for the store while the store waits for the partition would be a deadlock.
    pub(crate) fn submit(&self, op: Box<StoreOp>) -> Result<(), StoreFailure> {
        self.ops.try_send(op).map_err(|error| match error {
            mpsc::error::TrySendError::Full(op) => StoreFailure::Overloaded { shard: op.shard, retry_after_ms: 200 },
            mpsc::error::TrySendError::Closed(_) => StoreFailure::Stopping,
        })
    }

    pub(crate) async fn call(&self, shard: ShardId, op: Op, deadline: Instant) -> Result<StoreAnswer, StoreFailure> {
        let (to, answer) = oneshot::channel();
        let to = AnswerTo::Once(to);
        let op = StoreOp { shard, op, traceparent: String::new(), deadline, place: Place::Own, tries: 0, to };
        self.submit(Box::new(op))?;
        answer.await.unwrap_or(Err(StoreFailure::Stopping))
    }
}

impl<A> StoreOp<A> {
    fn to_request(&self, id: u64, lane: u64) -> StoreRequest {
        StoreRequest {
            id,
            shard: Some(self.shard.to_pb()),
            traceparent: self.traceparent.clone(),
            lane,
            follows: self.place == Place::Follows,
            op: Some(self.op.clone()),
        }
    }
}
