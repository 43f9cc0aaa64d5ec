//! The transport of a simulated client: frames without bytes.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use carillon_proto::pb::client::{ClientFrame, ServerFrame};
use parking_lot::Mutex;

use crate::{
    conversation::{Now, Tell},
    dialect::native::{self, Outgoing},
    transport::{Event, Transport},
};

/// The client's end of a connection.
pub(super) struct ClientEnd(Arc<Mutex<Frames>>);

/// The gateway's end. Dropping it ends the connection.
pub(super) struct FrameTransport(Arc<Mutex<Frames>>);

#[derive(Default)]
struct Frames {
    /// From the client, not read by the gateway.
    said: VecDeque<ClientFrame>,
    /// To the client, not taken by the network; each with the time at which it was queued.
    queued: Vec<(u64, ServerFrame)>,
    queued_bytes: usize,
    /// Taken by the network.
    written: Vec<(u64, ServerFrame)>,
    written_bytes: u64,
    /// The client does not read: the network takes nothing.
    is_blocked: bool,
    /// How the gateway finds that the client has gone, if it has.
    gone: Option<Gone>,
    /// The gateway has ended the connection.
    is_over: bool,
    /// Of the gateway's task.
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Gone {
    /// The client has closed its half.
    Closed,
    /// The connection was reset.
    Reset,
}

pub(super) fn connection() -> (ClientEnd, FrameTransport) {
    let frames: Arc<Mutex<Frames>> = Arc::default();
    (ClientEnd(Arc::clone(&frames)), FrameTransport(frames))
}

impl ClientEnd {
    pub(super) fn says(&self, frame: ClientFrame) {
        self.change(|frames| frames.said.push_back(frame));
    }

    pub(super) fn blocks(&self, is_blocked: bool) {
        self.change(|frames| frames.is_blocked = is_blocked);
    }

    /// The client closes its half. The gateway still reads what it said before.
    pub(super) fn goes(&self, how: Gone) {
        self.change(|frames| (frames.gone, frames.is_blocked) = (Some(how), false));
    }

    pub(super) fn take_heard(&self) -> Vec<(u64, ServerFrame)> {
        std::mem::take(&mut self.0.lock().written)
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.lock().is_over
    }

    fn change(&self, change: impl FnOnce(&mut Frames)) {
        let mut frames = self.0.lock();
        change(&mut frames);
        if let Some(waker) = frames.waker.take() {
            waker.wake();
        }
    }
}

impl Frames {
    /// True if there was something to write, and the network has taken it.
    fn write(&mut self) -> bool {
        if self.is_blocked || self.queued.is_empty() {
            return false;
        }
        self.written.append(&mut self.queued);
        self.written_bytes += std::mem::take(&mut self.queued_bytes) as u64;
        true
    }
}

impl Transport for FrameTransport {
    fn tell(&mut self, tell: Tell, now: Now) {
        let frame = Outgoing::from(tell);
        let size = frame.size();
        // The envelopes are what the router made of what this gateway had checked.
        let frame = frame.into_frame().expect("an envelope of the store can be decoded");
        let mut frames = self.0.lock();
        frames.queued_bytes += size;
        frames.queued.push((now.unix_ms, frame));
    }

    fn queued_bytes(&self) -> usize {
        self.0.lock().queued_bytes
    }

    fn written_bytes(&self) -> u64 {
        self.0.lock().written_bytes
    }

    /// Only counted by metrics, which a simulation has not.
    fn read_bytes(&self) -> u64 {
        0
    }

    /// Simulated clients stay below every limit.
    fn set_max_frame(&mut self, _: usize) {}

    fn poll(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Event> {
        let mut frames = self.0.lock();
        if read && let Some(frame) = frames.said.pop_front() {
            return Poll::Ready(Event::Ask(native::ClientFrame::from(frame).into()));
        }
        if frames.write() {
            return Poll::Ready(Event::Flushed);
        }
        match frames.gone.filter(|_| read) {
            Some(Gone::Closed) => Poll::Ready(Event::HalfClosed),
            Some(Gone::Reset) => Poll::Ready(Event::Ended),
            None => {
                frames.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut frames = self.0.lock();
        frames.write();
        if frames.queued.is_empty() {
            return Poll::Ready(());
        }
        frames.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for FrameTransport {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
    }
}
