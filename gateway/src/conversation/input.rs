//! What goes into a session.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::pb::{
    client::Code,
    link::{TimelineHead, evict::Why},
};

use super::{Ask, Asked, Tag};
use crate::{
    feeds::{Entry, FeedId, JoinedFeed},
    links::Answered,
    mailbox::Left,
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
    /// It can't be read, but says which send or request it is.
    Unreadable {
        what: Asked,
        reason: String,
    },
    /// The client has closed its half of the connection.
    HalfClosed,
    Answer(Tag, Answered),
    /// A feed that is followed hands this over.
    Entry(Arc<Entry>),
    /// A feed that is followed hands over no more.
    Left(FeedId, Left),
    /// The answer to `FeedAsk::Join`, at once.
    Joined(JoinedFeed),
    /// The router told the heads of what the user follows.
    Heads(Vec<TimelineHead>),
    /// The session was replaced or ended.
    Over(Why),
    /// What waits to be written is more than its bound, or no more.
    Backlog(bool),
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
