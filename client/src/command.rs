//! The commands of a [`crate::Client`] to its task.

use std::time::Instant;

use carillon_proto::pb::client::Accepted;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    FetchError, RenewError, SendError,
    fetches::{Found, Query},
    outbox::Request,
};

pub(crate) enum Command {
    Send { request: Box<Request>, deadline: Instant, answer: ReplyTo },
    Fetch { query: Box<Query>, deadline: Instant, answer: oneshot::Sender<Result<Found, FetchError>> },
    Renew { token: String, answer: oneshot::Sender<Result<(), RenewError>> },
    Close(oneshot::Sender<()>),
}

/// The receiver of the answer to a send, and the place among the pending sends that the answer frees.
pub(crate) struct ReplyTo {
    sender: oneshot::Sender<Result<Accepted, SendError>>,
    _permit: OwnedSemaphorePermit,
}

impl ReplyTo {
    pub(crate) fn new(sender: oneshot::Sender<Result<Accepted, SendError>>, permit: OwnedSemaphorePermit) -> Self {
        Self { sender, _permit: permit }
    }

    pub(crate) fn give(self, answer: Result<Accepted, SendError>) {
        // The application may have stopped waiting for the answer.
        let _ = self.sender.send(answer);
    }
}
