//! Streams of XMPP: bytes come in as they are read, [`Event`]s come out. [`TcpParser`] reads the long document of RFC 6120,
//! [`WebSocketParser`] the messages of RFC 7395, one element each.
//!
//! A parser keeps nothing but the element that has come in part. A stream that is opened anew (RFC 6120, section 4.3.3) has a
//! new parser.

mod declaration;
mod header;
mod iq;
mod limits;
mod opening;
mod stanza;
mod tcp;
mod websocket;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use header::Header;
pub use iq::IqType;
pub use limits::Limits;
pub use opening::{Opening, closing};
pub use stanza::{Child, Forwardable, Head, InvalidPieces, Pieces, Routed, Stanza, StanzaKind, read_stanza};
pub use tcp::TcpParser;
pub use websocket::WebSocketParser;

use crate::error::StreamError;
pub use crate::xml::scope::Declaration;

/// How elements are put on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Elements are parts of one document, whose header declares namespaces for them (RFC 6120).
    Tcp,
    /// Each element is a document of its own (RFC 7395).
    WebSocket,
}

/// The next thing that the peer has sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Opened(Arc<Header>),
    /// A first-level element: a stanza, or a step of TLS, SASL, stream management and the like.
    Stanza(Stanza),
    /// The peer has closed the stream. There are no more events.
    Closed,
    /// The peer has violated a rule. There are no more events.
    ///
    /// RFC 6120, section 4.9.1.1: "if an error occurs at the level of the stream, the entity that detects the error MUST send an
    /// \<error/\> element [...] and then immediately close the stream".
    Error(StreamError),
}
