//! A WebSocket as a stream of messages: framing, pings, limits, and an orderly close. It knows nothing of the service's
//! frames.

use std::{
    collections::VecDeque,
    io,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use carillon_proto::pb::client::Code;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::{
    Error, Message,
    error::{CapacityError, ProtocolError},
    protocol::{CloseFrame, Role, WebSocket, WebSocketConfig},
};

use super::{
    super::linger::Linger,
    close::{CloseCode, close_reason},
    headers::Why,
    polled::Polled,
};

/// Small buffers, because idle connections hold them.
const BUFFER: usize = 4 * 1024;

pub(crate) struct MessageSocket<S> {
    ws: WebSocket<Polled<S>>,
    /// Bounded by the session's limits and by `max_outgoing_bytes`, above which nothing more is delivered.
    queue: VecDeque<Message>,
    queued: usize,
    /// Handed to the library but not known to be flushed.
    unflushed: usize,
    /// The socket took no more: the library's buffer goes first.
    blocked: bool,
    written: u64,
    read: u64,
    /// The content of the close frame, if it is known already.
    ending: Option<CloseFrame>,
    /// The client's input can't be split into frames any more.
    broken: bool,
    closing: Closing,
    linger: Linger,
}

#[derive(Debug)]
pub(crate) enum SocketEvent {
    Message(Message),
    /// No more messages can be read; says what went wrong. The close frame says so, too.
    Failed(Code, String),
    /// All queued messages are written.
    Flushed,
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    /// Write the close frame.
    Say,
    /// Wait for the client's close frame.
    Hear,
    /// Shut down the socket, and drop remaining input.
    Linger,
}

impl<S: AsyncRead + AsyncWrite + Unpin> MessageSocket<S> {
    /// `early`: bytes that came behind the handshake.
    pub(crate) fn new(stream: S, early: Bytes, max_message: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(BUFFER)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        Self {
            ws: WebSocket::from_raw_socket(Polled::new(stream, early), Role::Server, Some(config)),
            queue: VecDeque::new(),
            queued: 0,
            unflushed: 0,
            blocked: false,
            written: 0,
            read: 0,
            ending: None,
            broken: false,
            closing: Closing::Say,
            linger: Linger::default(),
        }
    }

    pub(crate) fn queue(&mut self, message: Message) {
        self.queued += message.len();
        self.queue.push_back(message);
    }

    pub(crate) fn ping(&mut self) {
        // Not counted in the queued bytes: a pending ping is no sign of a client that does not read.
        self.queue.push_back(Message::Ping(Bytes::new()));
    }

    /// Sets the content of the close frame, unless it has been sent.
    pub(crate) fn ends_with(&mut self, code: CloseCode, reason: &str) {
        self.ending.get_or_insert_with(|| CloseFrame { code, reason: close_reason(reason) });
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued + self.unflushed
    }

    pub(crate) fn written_bytes(&self) -> u64 {
        self.written
    }

    pub(crate) fn read_bytes(&self) -> u64 {
        self.read
    }

    pub(crate) fn set_max_message(&mut self, bytes: usize) {
        self.ws.set_config(|config| {
            config.max_message_size = Some(bytes);
            config.max_frame_size = Some(bytes);
        });
    }

    /// As `Transport::poll`.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<SocketEvent> {
        let wrote = self.queued_bytes() > 0;
        match self.poll_write(cx) {
            Poll::Ready(Ok(())) if wrote => return Poll::Ready(SocketEvent::Flushed),
            Poll::Ready(Ok(())) | Poll::Pending => {}
            Poll::Ready(Err(_)) => return Poll::Ready(SocketEvent::Ended),
        }
        if !read {
            return Poll::Pending;
        }
        match self.ws.read() {
            // Answered by the library, when closing.
            Ok(Message::Close(_)) => Poll::Ready(SocketEvent::Ended),
            Ok(message) => {
                self.read += message.len() as u64;
                Poll::Ready(SocketEvent::Message(message))
            }
            Err(error) if would_block(&error) => Poll::Pending,
            Err(error) => Poll::Ready(self.failed(&error)),
        }
    }

    /// Ready when everything is written and flushed.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.ws.get_mut().woken_by(cx);
        while !self.queue.is_empty() {
            if self.blocked {
                ready!(self.poll_flush())?;
            }
            let Some(message) = self.queue.pop_front() else { break };
            let size = message.len();
            self.queued -= size;
            self.unflushed += size;
            match self.ws.write(message) {
                Ok(()) => {}
                Err(error) if would_block(&error) => self.blocked = true,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        ready!(self.poll_flush())?;
        if self.queue.capacity() > 64 {
            self.queue = VecDeque::new();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self) -> Poll<Result<(), Error>> {
        match self.ws.flush() {
            Ok(()) => {
                self.blocked = false;
                self.written += self.unflushed as u64;
                self.unflushed = 0;
                Poll::Ready(Ok(()))
            }
            Err(error) if would_block(&error) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn failed(&mut self, error: &Error) -> SocketEvent {
        let (code, close, reason) = match error {
            Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
                let reason = format!("frame is {size} bytes but at most {max_size} are allowed");
                (Code::TooLarge, CloseCode::Size, reason)
            }
            Error::Utf8(_) => (Code::Invalid, CloseCode::Invalid, error.to_string()),
            // The client is gone without a close frame.
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return SocketEvent::Ended,
            Error::Protocol(_) => (Code::Invalid, CloseCode::Protocol, error.to_string()),
            // From `Polled`. A TLS error has the same kind.
            Error::Io(why) if why.get_ref().is_some_and(|why| why.is::<Why>()) => {
                (Code::Invalid, CloseCode::Protocol, why.to_string())
            }
            _ => return SocketEvent::Ended,
        };
        self.broken = true;
        self.ends_with(close, &reason);
        SocketEvent::Failed(code, reason)
    }

    /// Writes queued messages and the close frame, waits for the client's, and closes.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ws.get_mut().woken_by(cx);
        if self.closing == Closing::Say {
            if self.ws.can_write() {
                if ready!(self.poll_write(cx)).is_err() {
                    return Poll::Ready(());
                }
                let silent = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
                let close = self.ending.take().unwrap_or(silent);
                match self.ws.write(Message::Close(Some(close))) {
                    Ok(()) => {}
                    Err(error) if would_block(&error) => {}
                    Err(_) => return Poll::Ready(()),
                }
            }
            self.closing = Closing::Hear;
        }
        if self.closing == Closing::Hear {
            match ready!(self.poll_flush()) {
                // The client has closed, and has its answer now.
                Err(Error::ConnectionClosed) => self.broken = true,
                Err(_) => return Poll::Ready(()),
                Ok(()) => {}
            }
            while !self.broken {
                match self.ws.read() {
                    Ok(message) => self.broken = self.linger.drops(message.len() + 1),
                    Err(error) if would_block(&error) => return Poll::Pending,
                    Err(_) => break,
                }
            }
            self.closing = Closing::Linger;
        }
        self.linger.poll(self.ws.get_mut().stream(), cx)
    }
}

fn would_block(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, pin::Pin};
    use tokio::io::ReadBuf;

    /// As a TLS stream after a record that is damaged.
    struct Damaged;

    impl AsyncRead for Damaged {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "cannot decrypt peer's message")))
        }
    }

    impl AsyncWrite for Damaged {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_damaged_stream_is_an_end_and_no_wrong_frame() {
        let mut socket = MessageSocket::new(Damaged, Bytes::new(), 1024);
        let heard = poll_fn(|cx| socket.poll(cx, true)).await;
        assert!(matches!(heard, SocketEvent::Ended), "{heard:?}");
    }

    #[tokio::test]
    async fn a_wrong_header_is_a_wrong_frame() {
        // A length of 1 in two bytes.
        let early = Bytes::from_static(&[0x82, 0x80 | 126, 0, 1]);
        let mut socket = MessageSocket::new(Damaged, early, 1024);
        let heard = poll_fn(|cx| socket.poll(cx, true)).await;
        assert!(matches!(heard, SocketEvent::Failed(Code::Invalid, _)), "{heard:?}");
    }
}
