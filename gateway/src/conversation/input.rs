//! What goes into a session.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::pb::{
    client::Code,
    link::{TimelineHead, evict::Why},
};

use super::{Ask, AskId, Tag};
use crate::{
    feeds::{Entry, FeedId, JoinedFeed, Left},
    links::RequestOutcome,
};

/// When an input comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    /// Milliseconds since 1970.
    pub(crate) unix_ms: u64,
}

pub(crate) enum Input {
    Ask(Ask),
    /// The client is there, and said nothing else.
    Alive,
    /// The client sent what can't be read.
    Malformed {
        code: Code,
        reason: String,
    },
    /// The client sent something that can't be read except for the send or request that it names.
    Unreadable {
        what: AskId,
        reason: String,
    },
    /// The client has closed its half of the connection.
    HalfClosed,
    Answer(Tag, RequestOutcome),
    /// A feed that is followed hands this over.
    Entry(Arc<Entry>),
    /// A feed that is followed hands over no more.
    Left(FeedId, Left),
    /// The answer to `FeedAsk::Join`, at once.
    Joined(JoinedFeed),
    /// The router told the heads of what the user follows.
    Heads(Vec<TimelineHead>),
    /// The session was replaced or ended.
    Evicted(Why),
    /// More waits to be written than may, or no longer.
    Backlog {
        full: bool,
    },
    /// Nothing of what waits could be written for too long.
    TooSlow,
    /// The gateway is stopping.
    Drain {
        come_back: Duration,
    },
    /// The gateway reaches no router.
    CutOff {
        come_back: Duration,
    },
    /// `wake_at` has come.
    Wake,
}
