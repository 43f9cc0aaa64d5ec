//! The words of XMPP, for a server: bytes go in, events come out. No sockets, no clock, no random numbers.
//!
//! - [`stream`] reads streams over TCP (RFC 6120) and over WebSocket (RFC 7395): headers, stanzas as text, refusals.
//! - [`element`] is a small tree, for what the server reads in full or writes itself.
//! - [`extension`] has payloads of stanzas by their XEPs: forms, pages, delays, ids, hints, carbons, capabilities.
//! - [`jid`] has addresses (RFC 7622), and how they map to the ids of users and groups.
//! - [`error`] has the errors of streams, of stanzas and of SASL, and the answers that carry them.
//! - [`sasl`] is the server's side of signing in.
//! - `client` is the client's side, with the feature of this name.
//!
//! See docs/adr/0037-xmpp-stream.md.

#[cfg(any(test, feature = "client"))]
pub mod client;
pub mod element;
pub mod error;
pub mod extension;
pub mod jid;
pub mod ns;
pub mod sasl;
pub mod stream;
mod xml;

pub use element::Element;
pub use jid::Jid;
pub use stream::Framing;
