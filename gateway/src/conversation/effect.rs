//! What comes out of a session.

use carillon_proto::{Position, TimelineId, pb::link::router_request::Op};

use super::{Tell, renewal::Renewal, sending::Sent};
use crate::feeds::{FeedId, Join};

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "each is performed at once")]
pub(crate) enum Effect {
    Tell(Tell),
    /// The answer comes back with the tag.
    Request {
        tag: Tag,
        op: Op,
        traceparent: String,
    },
    Feed(FeedAsk),
    /// Ask the client for a sign of life.
    Ping,
    /// Signed in: more may be said at once.
    SignedIn,
    /// Write what waits, then close.
    Close,
}

/// What a session says to the feeds of this gateway.
#[derive(Debug)]
pub(crate) enum FeedAsk {
    /// It is about to follow the timeline: nothing may be lost from now on. The first of all.
    Expect(TimelineId),
    /// It wants to be live.
    Join(TimelineId, Join),
    /// It is not live any more.
    Fall(TimelineId),
    /// Its client's own message stands there. `counted`: the client has been told so in place of the entry.
    Own { timeline: TimelineId, incarnation: u64, position: Position, counted: bool },
    /// The store says that the timeline reaches at least this far.
    Reaches { timeline: TimelineId, incarnation: u64, position: Position },
}

/// What a request to the routers was made for.
#[derive(Debug)]
pub(crate) enum Tag {
    Account,
    Ensure,
    Open,
    Send(Sent),
    /// A page that the session itself lacks.
    Gap(TimelineId),
    /// A page that a feed lacks: no session hears the answer.
    Feed(TimelineId, FeedId),
    Fetch(u32, TimelineId),
    Renew(Renewal),
    Ack(TimelineId),
    Close,
}
