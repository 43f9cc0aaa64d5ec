//! The events that a client delivers to the application.

use std::sync::Arc;

use carillon_proto::{
    Position, TimelineId,
    pb::client::{
        ChatStateNotice, Contact, Conversations, Envelope, Marks, Presence, ScheduledChanged, SignedIn, privacy_news,
    },
};
use tokio::sync::mpsc;

use crate::{Ending, acks::Acks};

/// # Order
///
/// For one timeline, `Delivered` and `Sent` come in the order of their positions, each once, without gaps other than
/// those reported by `Trimmed`. All events come in the order in which the service told the client.
///
/// An answer is there before every event that the service told after it: when [`Events::next`] gives a message that came
/// after the answer to a send, the [`Pending`](crate::Pending) of this send is ready, and so is any other answer. The opposite does not hold: answers
/// do not wait in the queue of events, so that an answer may be seen before events that the service told earlier. Who needs the place of an own
/// message among the others takes it from `Sent`, or compares positions.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are deliveries")]
pub enum Event {
    State(State),
    Delivered {
        timeline: TimelineId,
        position: Position,
        envelope: Envelope,
    },
    /// A message of this device was accepted at this position, and is not delivered again.
    Sent {
        timeline: TimelineId,
        position: Position,
        client_id: String,
        message_id: String,
        time_ms: u64,
        /// Expiry of the message, in milliseconds since 1970; 0: it does not. In a group this may be earlier than was asked for.
        expires_at_ms: u64,
    },
    /// Entries before `first` that the device did not have are no longer kept. With a new epoch, the timeline started
    /// anew, and what the device has belongs to another one.
    Trimmed {
        timeline: TimelineId,
        first: Position,
    },
    /// Conversations have changed on another device, or on this one; see [`Client::read_conversations`](crate::Client::read_conversations).
    Conversations(Conversations),
    /// Another user has read or received what this user has sent. Which of two marks is the later one, the place of its message in the
    /// inbox says.
    Marks(Marks),
    /// Scheduled messages have changed, on this device or another one, or because one was sent, or could not be sent; after
    /// [`crate::Client::scheduled`].
    Scheduled(ScheduledChanged),
    /// A row of the list of contacts, after [`crate::Client::contacts`]: neither listed nor asking, it is gone.
    Contact(Contact),
    /// Changes of the list did not come: it has to be read again.
    ContactsMissed,
    /// The presence of a contact, after [`crate::Client::show`].
    Presence(Presence),
    /// The user's privacy settings or blocked users have changed, on any device. Told after [`crate::Client::privacy`] was called.
    Privacy(privacy_news::What),
    /// Changes of privacy settings or blocked users were lost on the way: call [`crate::Client::privacy`] again.
    PrivacyMissed,
    /// A chat state: another user is writing to this one, is recording, or has stopped. Told after [`crate::Client::read_conversations`] was
    /// called.
    ChatState(ChatStateNotice),
}

#[derive(Debug, Clone, PartialEq)]
pub enum State {
    Connecting,
    Connected {
        address: String,
        signed_in: Arc<SignedIn>,
    },
    /// The client reconnects by itself: the gateway stops, the connection broke, or the service has no room at present.
    Disconnected {
        why: String,
    },
    /// The client has ended: it was closed, or retrying is of no use. This is the last event.
    Ended {
        ending: Ending,
        /// For people.
        why: String,
    },
}

impl State {
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}

/// The events of a client. They must be read, or dropped: while the queue is full, the client does not read its
/// connection. Dropping it discards all further events and ends automatic acknowledgement.
pub struct Events {
    receiver: mpsc::Receiver<Event>,
    /// Where automatic acknowledgements go.
    acks: Option<Arc<Acks>>,
    given: Option<(TimelineId, Position)>,
}

impl Events {
    pub(crate) fn new(receiver: mpsc::Receiver<Event>, acks: Option<Arc<Acks>>) -> Self {
        Self { receiver, acks, given: None }
    }

    /// The next event; `None` after the end. The call says that the application is done with the previous one.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.done();
        let event = self.receiver.recv().await;
        if self.acks.is_some() {
            self.given = event.as_ref().and_then(place);
        }
        event
    }

    /// Says that the application is done with the previous event, without asking for the next one.
    pub fn done(&mut self) {
        if let (Some(acks), Some((timeline, position))) = (&self.acks, self.given.take()) {
            acks.note(&timeline, position);
        }
    }
}

fn place(event: &Event) -> Option<(TimelineId, Position)> {
    match event {
        Event::Delivered { timeline, position, .. } | Event::Sent { timeline, position, .. } => {
            Some((timeline.clone(), *position))
        }
        Event::State(_)
        | Event::Trimmed { .. }
        | Event::Conversations(_)
        | Event::Marks(_)
        | Event::Contact(_)
        | Event::ContactsMissed
        | Event::Presence(_)
        | Event::Privacy(_)
        | Event::PrivacyMissed
        | Event::ChatState(_)
        | Event::Scheduled(_) => None,
    }
}
