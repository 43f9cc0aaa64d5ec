//! How frames travel: one shape for TCP, WebSocket and gRPC.

pub(crate) mod grpc;
pub(crate) mod stream;
pub(crate) mod ws;

use std::task::{Context, Poll};

use carillon_proto::pb::client::Code;

use crate::{
    conversation::{Ask, AskId},
    dialect::native::Outgoing,
};

/// After the last frame: what the client still sends is read and dropped up to this, so that closing does not reset the
/// connection under the frame.
pub(crate) const LINGER: usize = 256 * 1024;

pub(crate) trait Transport: Send {
    /// Queues a frame; never waits. What is queued is written by `poll`.
    fn queue(&mut self, frame: Outgoing);

    /// Asks the client for a sign of life; nothing where the client's programs have to give it by themselves.
    fn ping(&mut self) {}

    /// Bytes queued and not yet taken by the network.
    fn queued_bytes(&self) -> usize;

    /// Grows with each byte that the network takes.
    fn written_bytes(&self) -> u64;

    /// Bytes of frames read so far.
    fn read_bytes(&self) -> u64;

    /// Frames may be this large from now on.
    fn set_max_frame(&mut self, bytes: usize);

    /// The client has signed in: it may stay.
    fn signed_in(&mut self) {}

    /// Gives the frames that were read, and writes what is queued; with `read` false it reads no more. Cancel-safe.
    fn poll(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Event>;

    /// Writes what is queued and closes in order.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

#[derive(Debug)]
pub(crate) enum Event {
    Ask(Ask),
    /// A sign of life without a frame.
    Alive,
    /// Bytes that are no frame: they are refused and the connection ends.
    Malformed(Code, String),
    /// A frame that can't be read, but says which send or request it is: that one is refused.
    Unreadable(AskId, String),
    /// All that was queued is written.
    Flushed,
    /// The client has closed its half: nothing more will be read. `poll` is not asked to read again.
    HalfClosed,
    /// The client is gone.
    Ended,
}
