//! Frames as messages of a gRPC stream.

mod bounded;
mod messages;

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use carillon_proto::{
    pb::client::Code,
    probation::{Probation, Voucher},
};
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;
use tonic::Status;

use super::{Event, Transport};
use crate::{
    conversation::{Now, Tell},
    dialect::native::{self, Outgoing},
};
pub(crate) use bounded::{Bounded, MessageLimit};
pub(crate) use messages::WholeMessages;

/// Frames handed to the HTTP/2 connection ahead of its flow control. When this is full, further ones wait in the queue.
pub(crate) const AHEAD: usize = 16;

pub(crate) struct GrpcTransport<R> {
    inbound: R,
    outbound: PollSender<Result<Bytes, Status>>,
    queue: VecDeque<Outgoing>,
    queued: usize,
    limit: MessageLimit,
    written: u64,
    read: u64,
    /// The probation of the stream's connection.
    probation: Option<Probation>,
    /// Held as long as the stream.
    voucher: Option<Voucher>,
}

impl<R> GrpcTransport<R> {
    pub(crate) fn new(inbound: R, outbound: mpsc::Sender<Result<Bytes, Status>>, limit: MessageLimit) -> Self {
        let outbound = PollSender::new(outbound);
        Self {
            inbound,
            outbound,
            queue: VecDeque::new(),
            queued: 0,
            limit,
            written: 0,
            read: 0,
            probation: None,
            voucher: None,
        }
    }

    /// The connection may stay while someone is signed in on this stream.
    pub(crate) fn on_probation(self, probation: Option<Probation>) -> Self {
        Self { probation, ..self }
    }

    /// Ready when everything is handed over; an error when the client is gone.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        while !self.queue.is_empty() {
            ready!(self.outbound.poll_reserve(cx)).map_err(|_| ())?;
            let Some(frame) = self.queue.pop_front() else { break };
            let size = frame.size();
            self.queued -= size;
            self.written += size as u64;
            self.outbound.send_item(Ok(frame.to_protobuf())).map_err(|_| ())?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<R: Stream<Item = Result<Bytes, Status>> + Unpin + Send> Transport for GrpcTransport<R> {
    fn tell(&mut self, tell: Tell, _now: Now) {
        let frame = Outgoing::from(tell);
        self.queued += frame.size();
        self.queue.push_back(frame);
    }

    fn queued_bytes(&self) -> usize {
        self.queued
    }

    fn written_bytes(&self) -> u64 {
        self.written
    }

    fn read_bytes(&self) -> u64 {
        self.read
    }

    fn set_max_frame(&mut self, bytes: usize) {
        self.limit.set(bytes);
    }

    fn signed_in(&mut self) {
        self.voucher = self.probation.take().map(|probation| probation.vouch());
    }

    fn poll(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Event> {
        let wrote = !self.queue.is_empty();
        match self.poll_write(cx) {
            Poll::Ready(Ok(())) if wrote => return Poll::Ready(Event::Flushed),
            Poll::Ready(Ok(())) | Poll::Pending => {}
            Poll::Ready(Err(())) => return Poll::Ready(Event::Ended),
        }
        if !read {
            return Poll::Pending;
        }
        Poll::Ready(match ready!(Pin::new(&mut self.inbound).poll_next(cx)) {
            Some(Ok(message)) => {
                self.read += message.len() as u64;
                match native::decode(message) {
                    Ok(frame) => Event::Ask(frame.into()),
                    Err(error) => Event::Malformed(Code::Invalid, error.to_string()),
                }
            }
            // Larger than the current frame limit.
            Some(Err(status)) if status.code() == tonic::Code::OutOfRange => {
                Event::Malformed(Code::TooLarge, status.message().to_owned())
            }
            // The input is no gzip. (If something else broke, nobody gets this.)
            Some(Err(status)) if matches!(status.code(), tonic::Code::Internal | tonic::Code::InvalidArgument) => {
                Event::Malformed(Code::Invalid, format!("message is no ClientFrame: {}", status.message()))
            }
            Some(Err(_)) => Event::Ended,
            None => Event::HalfClosed,
        })
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The stream ends when the sender is dropped.
        let _ = ready!(self.poll_write(cx));
        self.outbound.close();
        Poll::Ready(())
    }
}
