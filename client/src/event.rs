//! What a client tells the application.

use std::sync::Arc;

use carillon_proto::{
    Position, TimelineId,
    pb::client::{Envelope, SignedIn},
};
use tokio::sync::mpsc;

use crate::acks::Acks;

/// Of one timeline, `Delivered` and `Sent` come in the order of their positions, each once, without gaps but those
/// that `Trimmed` tells.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are deliveries")]
pub enum Event {
    State(State),
    Delivered {
        timeline: TimelineId,
        position: Position,
        envelope: Envelope,
    },
    /// A message of this very device, accepted; it is at this place and is not delivered again.
    Sent {
        timeline: TimelineId,
        position: Position,
        client_id: String,
        message_id: String,
        time_ms: u64,
    },
    /// What the device did not have before `first` is no longer kept. With another epoch than before, the timeline
    /// began anew, and what the device has of it is of another one.
    Trimmed {
        timeline: TimelineId,
        first: Position,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum State {
    Connecting,
    Connected {
        address: String,
        signed_in: Arc<SignedIn>,
    },
    /// The client tries again by itself.
    Disconnected {
        why: String,
    },
    /// The client has ended: closed, or there is no use in trying again.
    Ended {
        why: String,
    },
}

impl State {
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}

/// The events of a client. Must be read, or dropped: while this is full, the client does not read its connection.
/// Dropping it discards all further events and ends automatic acknowledgement.
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

    /// The next event; None after the end. Asking says that the application is done with the one before. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.done();
        let event = self.receiver.recv().await;
        if self.acks.is_some() {
            self.given = event.as_ref().and_then(place);
        }
        event
    }

    /// Says that the application is done with the event before without asking for another one.
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
        Event::State(_) | Event::Trimmed { .. } => None,
    }
}
