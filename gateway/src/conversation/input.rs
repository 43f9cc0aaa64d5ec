//! The inputs of a session.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::pb::{
    client::Code,
    link::{Signaled, TimelineHead, evict::Why},
};

use super::{Ask, AskId, Tag};
use crate::{
    feeds::{Begun, Entry, FeedAnswer, FeedId, FoundGroups, JoinedFeed, Left, TimelineName},
    outcome::RequestOutcome,
    presences::PresenceNews,
};

/// The time of an input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    /// Milliseconds since 1970.
    pub(crate) unix_ms: u64,
}

pub(crate) enum Input {
    Ask(Ask),
    /// A sign of life without content.
    Alive,
    /// The client sent bytes that can't be read.
    Malformed {
        code: Code,
        reason: String,
    },
    /// The client sent a frame that can't be read, except for the id of its send or request.
    Unreadable {
        what: AskId,
        reason: String,
    },
    /// The client has closed its half of the connection.
    HalfClosed,
    Answer(Tag, RequestOutcome),
    /// A feed that the session follows delivers this entry.
    Entry(Arc<Entry>),
    /// A feed that the session follows delivers no more.
    Left(FeedId, Arc<TimelineName>, Left),
    /// The immediate answer to `FeedAsk::Join`.
    Joined(JoinedFeed),
    /// The immediate answer to `FeedAsk::Begin`.
    Found(FoundGroups),
    /// Heads of groups, of which they were not known at once.
    Begun(Vec<Begun>),
    /// The router has something to tell that not every session wants to know.
    Signal(Arc<Signaled>),
    /// Presence of contacts.
    Presences(Vec<Arc<PresenceNews>>),
    /// Signals were dropped, since there was no room.
    SignalsMissed,
    /// The router reported the heads of the timelines that the user follows.
    Heads(Vec<TimelineHead>),
    /// The session was replaced or ended.
    Evicted(Why),
    /// More output is pending than allowed, or no longer.
    Backlog {
        full: bool,
    },
    /// The pending output has made no progress for too long.
    TooSlow,
    /// The gateway is stopping.
    Drain {
        reconnect_after: Duration,
    },
    /// The gateway has more clients than the others.
    GoElsewhere {
        reconnect_after: Duration,
    },
    /// The gateway reaches no router.
    CutOff {
        reconnect_after: Duration,
    },
    /// `wake_at` has come.
    Wake,
}

impl From<FeedAnswer> for Input {
    fn from(answer: FeedAnswer) -> Self {
        match answer {
            FeedAnswer::Joined(joined) => Self::Joined(joined),
            FeedAnswer::Found(found) => Self::Found(found),
        }
    }
}
