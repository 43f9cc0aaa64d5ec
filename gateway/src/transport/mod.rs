//! Transports: one trait for TCP, WebSocket and gRPC. Each speaks asks and tells, in its own dialect.

pub(crate) mod grpc;
pub(crate) mod linger;
pub(crate) mod stream;
pub(crate) mod ws;
pub(crate) mod xmpp;

use std::task::{Context, Poll};

use carillon_proto::pb::client::Code;

use crate::conversation::{Ask, AskId, Now, Tell};

pub(crate) trait Transport: Send {
    /// Queues what the client is told; never waits. `poll` writes what is queued.
    fn tell(&mut self, tell: Tell, now: Now);

    /// Asks the client for a sign of life; does nothing where client programs have to send it by themselves.
    fn ping(&mut self) {}

    /// Bytes queued and not yet taken by the network.
    fn queued_bytes(&self) -> usize;

    /// Grows with each byte that the network takes.
    fn written_bytes(&self) -> u64;

    /// Bytes of frames read so far.
    fn read_bytes(&self) -> u64;

    /// Sets the frame limit.
    fn set_max_frame(&mut self, bytes: usize);

    /// The client has signed in: it may stay.
    fn signed_in(&mut self) {}

    /// Returns frames that were read, and writes queued ones; with `read` false it reads no more. Cancel-safe.
    fn poll(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Event>;

    /// Writes queued frames and closes in order.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

#[derive(Debug)]
pub(crate) enum Event {
    Ask(Ask),
    /// A sign of life without a frame.
    Alive,
    /// Bytes that are no frame: they are refused and the connection ends.
    Malformed(Code, String),
    /// A frame that can't be read except for the id of its send or request: that one is refused.
    Unreadable(AskId, String),
    /// All queued frames are written.
    Flushed,
    /// The client has closed its half: there is no more input, and `poll` is not called with `read` again.
    HalfClosed,
    /// The client is gone.
    Ended,
}
