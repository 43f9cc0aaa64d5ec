//! An accepted envelope on its way to clients, with its encodings for each dialect.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use carillon_proto::{EnvelopeMarks, Epoch, Position, TimelineId, expired_envelope, pb::client::GroupChange};
use prost::Message as _;

use super::{FeedId, Follower};

/// The next envelope of a timeline, shared by all followers.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) feed: FeedId,
    pub(crate) timeline: Arc<TimelineName>,
    pub(crate) position: Position,
    /// The envelope as stored.
    pub(crate) envelope: Bytes,
    /// The change of a group that the message tells; nearly always none.
    pub(crate) change: Option<Box<GroupChange>>,
    /// When the service received the message, as the envelope says; 0: it does not.
    pub(crate) time_ms: u64,
    /// When the content must not be given out any more, in milliseconds since 1970; 0: never.
    expires_at_ms: u64,
    /// The entry recalls another message.
    pub(super) recalls: bool,
    pub(crate) came: Came,
    /// The connection that sent the message; its client learns the position from `Accepted`.
    pub(crate) sender: Option<Follower>,
    /// The trace context of the push; empty if it is not traced.
    pub(crate) traceparent: String,
    /// The encoded frame in each form, made for the first follower that needs it.
    rendered: [OnceLock<Bytes>; Form::ALL],
}

/// How an entry came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    Push,
    Read,
}

/// The forms in which an entry is encoded, once for all followers of that form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Protobuf,
    Json,
}

impl Form {
    pub(crate) const ALL: usize = 2;
}

/// A timeline in one life of its feed, and its name as protobuf, which precedes each of its entries.
#[derive(Debug)]
pub(crate) struct TimelineName {
    pub(crate) id: TimelineId,
    /// The life, and the epoch in which it began. Unset until somebody joins.
    life: OnceLock<(FeedId, Epoch)>,
    as_protobuf: OnceLock<Bytes>,
}

impl Entry {
    pub(crate) fn new(
        feed: FeedId,
        timeline: Arc<TimelineName>,
        position: Position,
        envelope: Bytes,
        came: Came,
    ) -> Self {
        let (sender, traceparent) = (None, String::new());
        let EnvelopeMarks { change, time_ms, expires_at_ms, recalls, .. } = EnvelopeMarks::of(&envelope);
        let change = change.and_then(|change| GroupChange::decode(change).ok()).map(Box::new);
        let rendered = Default::default();
        Self {
            feed,
            timeline,
            position,
            envelope,
            change,
            time_ms,
            expires_at_ms,
            recalls,
            came,
            sender,
            traceparent,
            rendered,
        }
    }

    /// Adds the sender and the trace context of a push.
    pub(crate) fn pushed(self, sender: Option<Follower>, traceparent: String) -> Self {
        Self { sender, traceparent, ..self }
    }

    /// A copy without its content, if the time of the message is over.
    pub(crate) fn expired(&self, now_ms: u64) -> Option<Self> {
        if self.expires_at_ms == 0 || now_ms < self.expires_at_ms {
            return None;
        }
        let left = expired_envelope(&self.envelope, now_ms)?.into();
        let copy = Self::new(self.feed, Arc::clone(&self.timeline), self.position, left, self.came);
        Some(copy.pushed(self.sender, self.traceparent.clone()))
    }

    /// A copy with another position.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn moved_to(&self, position: Position) -> Self {
        Self::new(self.feed, Arc::clone(&self.timeline), position, self.envelope.clone(), self.came)
    }

    /// Approximate size on the wire, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.envelope.len() + self.timeline.id.owner().len() + 40
    }

    /// The encoded frame in this form, if a follower has needed it before.
    pub(crate) fn as_rendered(&self, form: Form) -> Option<&Bytes> {
        self.rendered[form as usize].get()
    }

    /// The encoded frame in this form; `render` makes it for the first follower that needs it.
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
        Self { id, life: OnceLock::new(), as_protobuf: OnceLock::new() }
    }

    /// A life of the feed begins.
    pub(super) fn begin_life(this: &mut Arc<Self>, feed: FeedId, epoch: Epoch) {
        // Followers of the life before go on with the name of that life.
        if this.life.set((feed, epoch)).is_err() {
            *this = Arc::new(Self { life: OnceLock::from((feed, epoch)), ..Self::new(this.id.clone()) });
        }
    }

    /// The feed's life and its epoch; epoch 0: the timeline did not exist when the life began. `None` until somebody has joined.
    pub(crate) fn life(&self) -> Option<(FeedId, Epoch)> {
        self.life.get().copied()
    }

    /// The name as protobuf; `encode` makes it for the first follower that needs it.
    pub(crate) fn as_protobuf(&self, encode: impl FnOnce(&TimelineId) -> Bytes) -> &Bytes {
        self.as_protobuf.get_or_init(|| encode(&self.id))
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::UserId;

    use super::*;

    #[test]
    fn an_entry_is_rendered_once_in_each_form() {
        let timeline = Arc::new(TimelineName::new(TimelineId::Inbox(UserId::new("alice").expect("valid"))));
        let entry = Entry::new(FeedId(1), timeline, Position { epoch: Epoch(7), seq: 1 }, Bytes::new(), Came::Push);
        let mut times = 0;
        for form in [Form::Json, Form::Protobuf, Form::Json] {
            let rendered = entry.rendered(form, || {
                times += 1;
                Ok::<_, ()>(Bytes::from(format!("{form:?}")))
            });
            assert_eq!(rendered.expect("renders"), &format!("{form:?}"));
        }
        assert_eq!(times, 2);
        entry.rendered(Form::Json, || Err(())).expect("is there already");
    }
}
