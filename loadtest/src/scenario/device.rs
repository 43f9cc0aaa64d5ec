//! A device that watches what it is shown.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_client::{Event, Events};
use carillon_proto::{Position, pb::client::Envelope};
use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};

use super::Load;
use crate::{
    checker::{FlowCheck, WatcherCheck},
    payload::Payload,
};

/// A device that pauses after each event.
pub(crate) struct Slow {
    pub(crate) pause: Duration,
    /// True as soon as the device is to stop pausing.
    pub(crate) until: watch::Receiver<bool>,
}

/// Reports to checker and recorder what a device is shown.
pub(crate) struct Device {
    load: Arc<Load>,
    watcher: Arc<WatcherCheck>,
    /// The few flows that the device is to be shown, and its own.
    flows: Vec<Arc<FlowCheck>>,
    shard: usize,
    connected: bool,
    /// When the device has lost its connection, until it is signed in again.
    left: Option<Instant>,
    slow: Option<Slow>,
    /// The device's position, for a later client of the same device.
    place: Arc<Mutex<Option<Position>>>,
}

impl Device {
    pub(crate) fn new(load: &Arc<Load>, watcher: &Arc<WatcherCheck>, flows: Vec<Arc<FlowCheck>>) -> Self {
        let (watcher, shard) = (Arc::clone(watcher), load.recorder.shard());
        Self {
            load: Arc::clone(load),
            watcher,
            flows,
            shard,
            connected: false,
            left: None,
            slow: None,
            place: Arc::default(),
        }
    }

    pub(crate) fn slowed(mut self, slow: Slow) -> Self {
        self.slow = Some(slow);
        self
    }

    /// Keeps the position of the device's inbox in `place`.
    pub(crate) fn with_place(mut self, place: &Arc<Mutex<Option<Position>>>) -> Self {
        self.place = Arc::clone(place);
        self
    }

    pub(crate) async fn follow(mut self, mut events: Events) {
        while let Some(event) = events.next().await {
            match event {
                Event::Delivered { position, envelope, .. } => {
                    self.position(position);
                    self.shown(&envelope);
                }
                Event::Sent { position, .. } => self.position(position),
                Event::Trimmed { first, .. } => self.watcher.trimmed(first.seq),
                Event::Conversations(_) | Event::Marks(_) => {}
                Event::Contact(_) | Event::ContactsMissed | Event::Presence(_) => {}
                Event::Privacy(_) | Event::PrivacyMissed | Event::ChatState(_) | Event::Scheduled(_) => {}
                Event::State(state) => self.set_connected(state.is_connected()),
            }
            if let Some(slow) = &mut self.slow {
                let hurry = slow.until.wait_for(|hurry| *hurry);
                let _ = timeout(slow.pause, hurry).await;
            }
        }
    }

    fn position(&self, position: Position) {
        self.watcher.position(position.seq);
        *self.place.lock() = Some(position);
    }

    fn shown(&self, envelope: &Envelope) {
        if let Some(payload) = check(&self.load, &self.watcher, &self.flows, envelope) {
            let timed = payload.sender != self.watcher.name.user && self.slow.is_none();
            self.load.recorder.delivered(self.shard, payload.intended_us, timed);
        }
    }

    fn set_connected(&mut self, connected: bool) {
        match (self.connected, connected) {
            (false, true) => {
                self.load.recorder.signed_in();
                if let Some(left) = self.left.take() {
                    self.load.recorder.back(self.shard, left);
                }
            }
            (true, false) => {
                self.load.recorder.signed_out();
                self.left = Some(Instant::now());
            }
            _ => {}
        }
        self.connected = connected;
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.set_connected(false);
    }
}

/// Gives the envelope to the checker. Returns the payload if the watcher expects it.
pub(crate) fn check<'a>(
    load: &Load,
    watcher: &Arc<WatcherCheck>,
    flows: &[Arc<FlowCheck>],
    envelope: &'a Envelope,
) -> Option<Payload<'a>> {
    let payload = match envelope.content.as_ref().map(Payload::from_content) {
        Some(Ok(payload)) if payload.run == load.run && payload.sender == envelope.sender => payload,
        Some(Err(corrupt)) => {
            watcher.corrupted(format!("message {}: {corrupt}", envelope.id));
            return None;
        }
        _ => {
            watcher.corrupted(format!("message {} is not of this run and sender", envelope.id));
            return None;
        }
    };
    let Payload { sender, recipient, .. } = payload;
    if ![sender, recipient].contains(&watcher.name.user.as_str()) {
        watcher.corrupted(format!("message {} from {sender} to {recipient} is not for this user", envelope.id));
        return None;
    }
    let is = |flow: &&Arc<FlowCheck>| flow.name.sender == sender && flow.name.recipient == recipient;
    let expected = match flows.iter().find(is) {
        Some(flow) => flow.delivered(watcher, payload.counter),
        // A flow of this user that the device is not to follow.
        None => load.checker.flow(payload.sender, payload.recipient).delivered(watcher, payload.counter),
    };
    expected.then_some(payload)
}

#[cfg(test)]
mod tests {
    use carillon_client::ConnectOptions;

    use super::{super::Target, *};
    use crate::{
        checker::{Checker, Outcome},
        payload::Filling,
    };

    #[test]
    fn a_message_that_is_shown_to_somebody_else_is_told() {
        let load = Load {
            run: "run".to_owned(),
            target: Target { addresses: Vec::new(), connect: ConnectOptions::default() },
            checker: Checker::default(),
            recorder: Arc::default(),
            bytes: 64,
            filling: Filling::Repeated,
            send_timeout: Duration::from_secs(1),
            window: 1,
        };
        let flow = load.checker.flow("alice", "bob");
        let counter = flow.sending();
        flow.ended(counter, Outcome::Accepted);
        let payload = Payload { run: "run", sender: "alice", recipient: "bob", counter, intended_us: 0 };
        let content = Some(payload.to_content(64, Filling::Repeated));
        let envelope = Envelope { id: "7".into(), sender: "alice".to_owned(), content, ..Envelope::default() };
        let shown = |user: &str| {
            let watcher = load.checker.watcher(user, "d");
            check(&load, &watcher, &[], &envelope);
            load.checker.finish().violations.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(shown("alice").is_empty() && shown("bob").is_empty());
        assert_eq!(shown("eve"), ["corrupted: eve/d: message 7 from alice to bob is not for this user"]);
    }
}
