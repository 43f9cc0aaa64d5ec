//! Frames on their way to the gateway.

use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context, Poll},
};

use carillon_proto::pb::client::{ClientFrame, client_frame::Body};

use crate::{ConnectionError, connection::Outgoing};

/// Outgoing frames. Bounded: sends by the window, the others by what caused them.
pub(super) struct Writer {
    pub(super) outgoing: Outgoing,
    pub(super) waiting: VecDeque<ClientFrame>,
    pub(super) dirty: bool,
}

impl Writer {
    pub(super) fn push(&mut self, body: Body) {
        self.waiting.push_back(ClientFrame { body: Some(body) });
    }

    pub(super) fn has_work(&self) -> bool {
        self.dirty || !self.waiting.is_empty()
    }

    /// Writes everything, then flushes once. Cancel-safe: unwritten frames stay here or in the sink.
    pub(super) async fn drive(&mut self) -> Result<(), ConnectionError> {
        poll_fn(|context| self.poll_drive(context)).await
    }

    fn poll_drive(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        while !self.waiting.is_empty() {
            std::task::ready!(self.outgoing.as_mut().poll_ready(context))?;
            if let Some(frame) = self.waiting.pop_front() {
                self.dirty = true;
                self.outgoing.as_mut().start_send(frame)?;
            }
        }
        std::task::ready!(self.outgoing.as_mut().poll_flush(context))?;
        self.dirty = false;
        Poll::Ready(Ok(()))
    }
}
