//! One accepted envelope on this gateway, with what dialects have made of it.

use std::sync::OnceLock;

use bytes::Bytes;
use carillon_proto::{Position, TimelineId};
use std::sync::Arc;

use super::{FeedId, Follower};

/// The next envelope of a timeline, shared by all who follow it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) feed: FeedId,
    pub(crate) timeline: Arc<TimelineName>,
    pub(crate) position: Position,
    /// As the store keeps it.
    pub(crate) envelope: Bytes,
    pub(crate) origin: Origin,
    /// The connection that sent it, whose answer to that says as much.
    pub(crate) sender: Option<Follower>,
    /// Of the push; empty if it is not traced.
    pub(crate) traceparent: String,
    /// The whole of it in each form, from the first follower that needed it.
    rendered: [OnceLock<Bytes>; Form::ALL],
}

/// How an entry came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Push,
    Read,
}

/// What an entry is rendered as, once for all followers that speak it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Protobuf,
    Json,
}

impl Form {
    const ALL: usize = 2;
}

/// A timeline and its name as protobuf, which stands before each of its entries.
#[derive(Debug)]
pub(crate) struct TimelineName {
    pub(crate) id: TimelineId,
    encoded: OnceLock<Bytes>,
}

impl Entry {
    pub(crate) fn new(
        feed: FeedId,
        timeline: Arc<TimelineName>,
        position: Position,
        envelope: Bytes,
        origin: Origin,
    ) -> Self {
        let (sender, traceparent) = (None, String::new());
        Self { feed, timeline, position, envelope, origin, sender, traceparent, rendered: Default::default() }
    }

    /// As it was pushed: by whom it was sent, and its trace.
    pub(crate) fn pushed(self, sender: Option<Follower>, traceparent: String) -> Self {
        Self { sender, traceparent, ..self }
    }

    /// The same at another place.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn moved_to(&self, position: Position) -> Self {
        Self::new(self.feed, Arc::clone(&self.timeline), position, self.envelope.clone(), self.origin)
    }

    /// About as many bytes as it takes on the wire.
    pub(crate) fn size(&self) -> usize {
        self.envelope.len() + self.timeline.id.owner().len() + 40
    }

    /// In this form, if somebody has asked for it before.
    pub(crate) fn as_rendered(&self, form: Form) -> Option<&Bytes> {
        self.rendered[form as usize].get()
    }

    /// In this form; made by `render` for the first who asks.
    pub(crate) fn rendered<E>(&self, form: Form, render: impl FnOnce() -> Result<Bytes, E>) -> Result<&Bytes, E> {
        if let Some(rendered) = self.as_rendered(form) {
            return Ok(rendered);
        }
        let rendered = render()?;
        Ok(self.rendered[form as usize].get_or_init(|| rendered))
    }
}

impl TimelineName {
    pub(crate) fn new(id: TimelineId) -> Self {
        Self { id, encoded: OnceLock::new() }
    }

    /// The name as a dialect writes it; made by `encode` for the first who asks.
    pub(crate) fn encoded(&self, encode: impl FnOnce(&TimelineId) -> Bytes) -> &Bytes {
        self.encoded.get_or_init(|| encode(&self.id))
    }
}
