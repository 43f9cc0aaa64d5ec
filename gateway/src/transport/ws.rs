//! Frames as WebSocket messages: binary protobuf or text JSON.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use carillon_proto::pb::client::Code;
use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::CapacityError,
        protocol::{WebSocketConfig, frame::CloseFrame, frame::coding::CloseCode},
    },
};

use super::{Event, Transport};
use crate::codec::{self, Outgoing};

/// What a client asked for as subprotocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Protobuf,
    Json,
}

impl Format {
    pub(crate) const ALL: [Self; 2] = [Self::Protobuf, Self::Json];

    pub(crate) fn subprotocol(self) -> &'static str {
        match self {
            Self::Protobuf => "carillon.v1.proto",
            Self::Json => "carillon.v1.json",
        }
    }
}

/// Small buffers: they are held while the connection is idle. A message above the limit after sign-in ends the
/// connection while it is read; before sign-in it is read but refused.
pub(crate) fn config(max_frame: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(4 * 1024)
        .max_message_size(Some(max_frame))
        .max_frame_size(Some(max_frame))
}

pub(crate) struct WsTransport<S> {
    ws: WebSocketStream<S>,
    format: Format,
    /// Bounded by the session's limits and by `max_outgoing_bytes`, above which nothing more is delivered.
    queue: VecDeque<Message>,
    queued: usize,
    max_frame: usize,
    /// Handed to the socket but not known to be flushed.
    unflushed: usize,
    written: u64,
    read: u64,
    closing: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WsTransport<S> {
    pub(crate) fn new(ws: WebSocketStream<S>, format: Format, max_frame: usize) -> Self {
        Self {
            ws,
            format,
            queue: VecDeque::new(),
            queued: 0,
            max_frame,
            unflushed: 0,
            written: 0,
            read: 0,
            closing: false,
        }
    }

    /// Ready when all is written and flushed.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.queue.is_empty() {
            ready!(Pin::new(&mut self.ws).poll_ready(cx))?;
            // What was before is with the network.
            self.taken();
            let Some(message) = self.queue.pop_front() else { break };
            let size = message.len();
            self.queued -= size;
            self.unflushed += size;
            Pin::new(&mut self.ws).start_send(message)?;
        }
        ready!(Pin::new(&mut self.ws).poll_flush(cx))?;
        self.taken();
        if self.queue.capacity() > 64 {
            self.queue = VecDeque::new();
        }
        Poll::Ready(Ok(()))
    }

    fn taken(&mut self) {
        self.written += self.unflushed as u64;
        self.unflushed = 0;
    }

    fn message(&mut self, message: Message) -> Option<Event> {
        let size = message.len();
        self.read += size as u64;
        let decoded = match (self.format, message) {
            (_, Message::Binary(_) | Message::Text(_)) if size > self.max_frame => {
                let reason = format!("frame is {size} bytes but at most {} are allowed", self.max_frame);
                return Some(Event::Malformed(Code::TooLarge, reason));
            }
            (Format::Protobuf, Message::Binary(bytes)) => codec::decode(bytes),
            (Format::Json, Message::Text(text)) => codec::decode_json(&text),
            (Format::Protobuf, Message::Text(_)) => {
                let reason = "carillon.v1.proto takes binary messages, not text";
                return Some(Event::Malformed(Code::Invalid, reason.to_owned()));
            }
            (Format::Json, Message::Binary(_)) => {
                let reason = "carillon.v1.json takes text messages, not binary";
                return Some(Event::Malformed(Code::Invalid, reason.to_owned()));
            }
            // Answered by the library, at the next write or flush.
            (_, Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => return None,
            (_, Message::Close(_)) => return Some(Event::Ended),
        };
        Some(match decoded {
            Ok(frame) => Event::Frame(frame),
            Err(error) => match error.what() {
                Some(what) => Event::Unreadable(what, error.to_string()),
                None => Event::Malformed(Code::Invalid, error.to_string()),
            },
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Transport for WsTransport<S> {
    fn queue(&mut self, frame: Outgoing) {
        let message = match self.format {
            Format::Protobuf => {
                let mut bytes = BytesMut::with_capacity(frame.size());
                frame.encode(&mut bytes);
                Message::Binary(bytes.freeze())
            }
            Format::Json => match frame.into_json() {
                Ok(text) => Message::Text(text.into()),
                Err(error) => {
                    // The store gave an envelope that is none. The client sees the gap and asks again.
                    tracing::error!(%error, "frame can't be shown as JSON");
                    return;
                }
            },
        };
        self.queued += message.len();
        self.queue.push_back(message);
    }

    fn queued_bytes(&self) -> usize {
        self.queued + self.unflushed
    }

    fn written_bytes(&self) -> u64 {
        self.written
    }

    fn read_bytes(&self) -> u64 {
        self.read
    }

    fn set_max_frame(&mut self, bytes: usize) {
        self.max_frame = bytes;
    }

    fn poll(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Event> {
        loop {
            let wrote = self.queued_bytes() > 0;
            match self.poll_write(cx) {
                Poll::Ready(Ok(())) if wrote => return Poll::Ready(Event::Flushed),
                Poll::Ready(Ok(())) | Poll::Pending => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Event::Ended),
            }
            if !read {
                return Poll::Pending;
            }
            match ready!(Pin::new(&mut self.ws).poll_next(cx)) {
                Some(Ok(message)) => {
                    if let Some(event) = self.message(message) {
                        return Poll::Ready(event);
                    }
                }
                Some(Err(Error::Capacity(CapacityError::MessageTooLong { size, max_size }))) => {
                    let reason = format!("frame is {size} bytes but at most {max_size} are allowed");
                    return Poll::Ready(Event::Malformed(Code::TooLarge, reason));
                }
                Some(Err(Error::Utf8(_))) => {
                    return Poll::Ready(Event::Malformed(Code::Invalid, "text is not UTF-8".to_owned()));
                }
                Some(Err(_)) | None => return Poll::Ready(Event::Ended),
            }
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.closing {
            if ready!(self.poll_write(cx)).is_err() || ready!(Pin::new(&mut self.ws).poll_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            self.closing = true;
            let close = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
            if Pin::new(&mut self.ws).start_send(Message::Close(Some(close))).is_err() {
                return Poll::Ready(());
            }
        }
        if ready!(Pin::new(&mut self.ws).poll_flush(cx)).is_err() {
            return Poll::Ready(());
        }
        // Until the client has answered the close.
        while let Some(Ok(_)) = ready!(Pin::new(&mut self.ws).poll_next(cx)) {}
        Poll::Ready(())
    }
}
