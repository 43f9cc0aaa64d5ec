//! Frames as WebSocket messages: binary protobuf or text JSON.

mod close;
mod headers;
mod polled;
mod socket;

use std::task::{Context, Poll};

use bytes::Bytes;
use carillon_proto::{
    limits,
    pb::client::{Code, server_frame},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::{Event, Transport};
use crate::{
    conversation::{Now, Tell},
    dialect::native::{self, Outgoing},
};
use close::CloseCode;
pub(crate) use close::close_code;
pub(crate) use socket::{MessageSocket, SocketEvent};

/// The format that the client chose by its subprotocol.
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

pub(crate) struct WsTransport<S> {
    socket: MessageSocket<S>,
    format: Format,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WsTransport<S> {
    /// `early`: bytes that came behind the handshake.
    pub(crate) fn new(stream: S, early: Bytes, format: Format) -> Self {
        Self { socket: MessageSocket::new(stream, early, limits::MAX_FRAME_BYTES_BEFORE_SIGN_IN), format }
    }

    fn message(&mut self, message: Message) -> Event {
        let decoded = match (self.format, message) {
            (Format::Protobuf, Message::Binary(bytes)) => native::decode(bytes),
            (Format::Json, Message::Text(text)) => native::decode_json(&text),
            (Format::Protobuf, Message::Text(_)) => {
                return self.malformed("carillon.v1.proto takes binary messages, not text", CloseCode::Unsupported);
            }
            (Format::Json, Message::Binary(_)) => {
                return self.malformed("carillon.v1.json takes text messages, not binary", CloseCode::Unsupported);
            }
            // The library answers a ping, at the next flush or read.
            (_, Message::Ping(_) | Message::Pong(_) | Message::Frame(_) | Message::Close(_)) => return Event::Alive,
        };
        match decoded {
            Ok(frame) => Event::Ask(frame.into()),
            Err(error) => match error.what() {
                Some(what) => Event::Unreadable(what.into(), error.to_string()),
                None => self.malformed(&error.to_string(), CloseCode::Invalid),
            },
        }
    }

    fn malformed(&mut self, reason: &str, close: CloseCode) -> Event {
        self.socket.ends_with(close, reason);
        Event::Malformed(Code::Invalid, reason.to_owned())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Transport for WsTransport<S> {
    fn tell(&mut self, tell: Tell, _now: Now) {
        let frame = Outgoing::from(tell);
        if let Outgoing::Frame(frame) = &frame
            && let Some(server_frame::Body::Bye(bye)) = &frame.body
        {
            self.socket.ends_with(close_code(bye.code()), &bye.reason);
        }
        let message = match self.format {
            Format::Protobuf => Message::Binary(frame.to_protobuf()),
            Format::Json => {
                match frame.into_json().and_then(|json| Utf8Bytes::try_from(json).map_err(|error| error.to_string())) {
                    Ok(text) => Message::Text(text),
                    Err(error) => {
                        // The store returned an invalid envelope. The client sees the gap and asks again.
                        tracing::error!(%error, "frame can't be shown as JSON");
                        return;
                    }
                }
            }
        };
        self.socket.queue(message);
    }

    fn ping(&mut self) {
        self.socket.ping();
    }

    fn queued_bytes(&self) -> usize {
        self.socket.queued_bytes()
    }

    fn written_bytes(&self) -> u64 {
        self.socket.written_bytes()
    }

    fn read_bytes(&self) -> u64 {
        self.socket.read_bytes()
    }

    fn set_max_frame(&mut self, bytes: usize) {
        self.socket.set_max_message(bytes);
    }

    fn poll(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Event> {
        self.socket.poll(cx, read).map(|heard| match heard {
            SocketEvent::Message(message) => self.message(message),
            SocketEvent::Failed(code, reason) => Event::Malformed(code, reason),
            SocketEvent::Flushed => Event::Flushed,
            SocketEvent::Ended => Event::Ended,
        })
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_close(cx)
    }
}
