//! The answers and news for a client, in no protocol. A dialect writes them in the order in which they are told.

use std::sync::Arc;

use bytes::Bytes;
use carillon_proto::{
    Position, TimelineId,
    pb::{
        client::{self, Code, Limits, TimelineState},
        link::Refusal,
    },
};

use super::ask::AskId;
use crate::feeds::{Entry, TimelineName};

#[derive(Debug, Clone)]
pub(crate) enum Tell {
    /// The next step of proving who it is.
    Challenge(Bytes),
    SignedIn(Box<Welcome>),
    Accepted(Placed),
    /// Something was not carried out.
    Refused {
        asked: AskId,
        why: Refusal,
    },
    Entry(Arc<Entry>),
    /// What lay before `first` is not kept any more.
    Trimmed {
        timeline: Arc<TimelineName>,
        first: Position,
    },
    Page(Box<Page>),
    /// How far the timelines reach that are followed.
    Heads {
        nonce: u64,
        heads: Vec<(TimelineId, Position)>,
    },
    Renewed {
        request: u32,
        expires_ms: u64,
    },
    /// Ends the connection; nothing is told after it.
    Bye {
        code: Code,
        reason: String,
        /// After how long it may come back; `None` if that is of no use.
        again_ms: Option<u32>,
    },
}

/// What a client learns when it is signed in. Units as in carillon.client.v1.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Welcome {
    pub(crate) handle: String,
    pub(crate) user: String,
    pub(crate) device: String,
    /// What proves to the client that the service knows its password; empty after a token.
    pub(crate) verdict: Bytes,
    pub(crate) limits: Limits,
    pub(crate) heartbeat_ms: u32,
    pub(crate) timelines: Vec<TimelineState>,
    /// When the session ends; 0 if it does not by itself.
    pub(crate) expires_ms: u64,
    pub(crate) features: Vec<String>,
}

/// Where the client's own message stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Placed {
    pub(crate) client_id: String,
    pub(crate) message_id: String,
    pub(crate) timeline: Option<client::Timeline>,
    pub(crate) position: Option<client::Position>,
    pub(crate) time_ms: u64,
}

/// A piece of a timeline's history.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Page {
    pub(crate) request: u32,
    pub(crate) timeline: TimelineId,
    pub(crate) epoch: u64,
    /// `seq` and envelope, in the direction of the request.
    pub(crate) entries: Vec<(u64, Bytes)>,
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Nothing is left in this direction.
    pub(crate) complete: bool,
}
