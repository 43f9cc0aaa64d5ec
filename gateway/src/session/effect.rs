//! What comes out of a session.

use carillon_proto::pb::link::router_request::Op;

use super::{renewal::Renewal, sending::Sent};
use crate::codec::Outgoing;

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "each is performed at once")]
pub(crate) enum Effect {
    Write(Outgoing),
    /// The answer comes back with the tag.
    Request {
        tag: Tag,
        op: Op,
        traceparent: String,
    },
    /// Ask the client for a sign of life.
    Ping,
    /// Signed in: larger frames are allowed.
    SignedIn,
    /// Write what waits, then close.
    Close,
}

/// What a request to the routers was made for.
#[derive(Debug)]
pub(crate) enum Tag {
    Account,
    Ensure,
    Open,
    Send(Sent),
    Gap,
    Fetch(u32),
    Renew(Renewal),
    Heads,
    Ack,
    Close,
}
