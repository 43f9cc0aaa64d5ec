//! A device of a member, which watches all groups of its user.

use std::{collections::HashMap, sync::Arc, time::Instant};

use carillon_client::{Client, Event, Events, State};
use carillon_proto::{Position, TimelineId, pb::client::Envelope, tasks::Tasks};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    checker::{GroupCheck, GroupWatcher, WatcherCheck},
    credentials::Credentials,
    payload::Payload,
    scenario::{Load, RunError, signed_in},
};

/// A device over all its connections.
pub(super) struct Member {
    pub(super) user: String,
    device: String,
    load: Arc<Load>,
    credentials: Credentials,
    watched: Arc<Watched>,
    life: Mutex<Option<Life>>,
}

/// The device between its start and its end.
struct Life {
    client: Client,
    tasks: Tasks,
    /// Resolves when the device has taken everything that its client had for it.
    over: oneshot::Receiver<()>,
}

/// Entries that the device was shown.
struct Watched {
    user: String,
    inbox: Arc<WatcherCheck>,
    groups: HashMap<TimelineId, (Arc<GroupCheck>, Arc<GroupWatcher>)>,
    /// Positions of the timelines, for a later start.
    places: Mutex<HashMap<TimelineId, Position>>,
}

impl Member {
    pub(super) fn new(
        load: &Arc<Load>,
        credentials: &Credentials,
        (user, device): (&str, &str),
        groups: impl Iterator<Item = (TimelineId, Arc<GroupCheck>)>,
    ) -> Self {
        let watch = |(timeline, group): (TimelineId, Arc<GroupCheck>)| {
            let watcher = group.watch(user, device);
            (timeline, (group, watcher))
        };
        let inbox = load.checker.watcher(user, device);
        let (groups, places) = (groups.map(watch).collect(), Mutex::default());
        Self {
            user: user.to_owned(),
            device: device.to_owned(),
            load: Arc::clone(load),
            credentials: credentials.clone(),
            watched: Arc::new(Watched { user: user.to_owned(), inbox, groups, places }),
            life: Mutex::new(None),
        }
    }

    /// Starts the device where it has ended, or for the first time.
    pub(super) fn start(&self, tasks: &Tasks) -> Result<(), RunError> {
        let positions = self.watched.places.lock().iter().map(|(timeline, at)| (timeline.clone(), *at)).collect();
        let life = tasks.child();
        let (client, events) = self.load.open((&self.user, &self.device), &self.credentials, positions, &life)?;
        let (done, over) = oneshot::channel();
        let showing = Showing::new(&self.load, &self.watched);
        tasks.spawn("watch", async move {
            showing.follow(events).await;
            // Nobody waits for it at the end of the run.
            let _ = done.send(());
        });
        *self.life.lock() = Some(Life { client, tasks: life, over });
        Ok(())
    }

    pub(super) fn client(&self) -> Option<Client> {
        self.life.lock().as_ref().map(|life| life.client.clone())
    }

    pub(super) async fn signed_in(&self) -> Result<(), RunError> {
        match self.client() {
            Some(client) => signed_in(&client, &self.user).await,
            None => Ok(()),
        }
    }

    /// Ends the device as a crash does, without a goodbye, and starts it again.
    pub(super) async fn restart(&self, tasks: &Tasks) -> Result<(), RunError> {
        let life = self.life.lock().take();
        if let Some(life) = life {
            life.tasks.stop();
            drop(life.client);
            // The sender is dropped with the task, if that has ended otherwise.
            let _ = life.over.await;
        }
        self.start(tasks)
    }

    pub(super) async fn close(&self) {
        if let Some(client) = self.client() {
            client.close().await;
        }
    }
}

/// Reports to checker and recorder what a device is shown during one life.
struct Showing {
    load: Arc<Load>,
    watched: Arc<Watched>,
    shard: usize,
    connected: bool,
    /// When the device has lost its connection, until it is signed in again.
    left: Option<Instant>,
}

impl Showing {
    fn new(load: &Arc<Load>, watched: &Arc<Watched>) -> Self {
        let shard = load.recorder.shard();
        Self { load: Arc::clone(load), watched: Arc::clone(watched), shard, connected: false, left: None }
    }

    async fn follow(mut self, mut events: Events) {
        while let Some(event) = events.next().await {
            match event {
                Event::Delivered { timeline, position, envelope } => {
                    self.shown(&timeline, position, &envelope);
                    self.watched.places.lock().insert(timeline, position);
                }
                Event::Sent { timeline, position, message_id, .. } => {
                    if let Some((group, watcher)) = self.watched.groups.get(&timeline) {
                        group.shown(watcher, position.seq, &message_id);
                    }
                    self.watched.places.lock().insert(timeline, position);
                }
                Event::Trimmed { timeline, first } => match self.watched.groups.get(&timeline) {
                    Some((_, watcher)) => watcher.trimmed(first.seq),
                    None => self.watched.inbox.trimmed(first.seq),
                },
                Event::State(state) => self.set_connected(&state),
                Event::Conversations(_)
                | Event::Marks(_)
                | Event::Contact(_)
                | Event::ContactsMissed
                | Event::Presence(_)
                | Event::Privacy(_)
                | Event::PrivacyMissed
                | Event::ChatState(_)
                | Event::Scheduled(_) => {}
            }
        }
    }

    fn shown(&self, timeline: &TimelineId, position: Position, envelope: &Envelope) {
        let Watched { user, inbox, groups, .. } = &*self.watched;
        let Some((group, watcher)) = groups.get(timeline) else {
            if matches!(timeline, TimelineId::Group(_)) {
                return inbox.corrupted(format!("message {} of {timeline} is not for this user", envelope.id));
            }
            inbox.position(position.seq);
            if envelope.change.is_none() {
                inbox.corrupted(format!("message {} in the inbox is no news of a group", envelope.id));
            }
            return;
        };
        group.shown(watcher, position.seq, &envelope.id);
        if envelope.change.is_some() {
            return;
        }
        match said_in(&self.load, group, envelope) {
            Ok(payload) if payload.sender == user => {}
            Ok(payload) => {
                watcher.heard();
                self.load.recorder.delivered(self.shard, payload.intended_us, true);
            }
            Err(why) => inbox.corrupted(why),
        }
    }

    fn set_connected(&mut self, state: &State) {
        match (self.connected, state.is_connected()) {
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
        self.connected = state.is_connected();
    }
}

impl Drop for Showing {
    fn drop(&mut self) {
        if self.connected {
            self.load.recorder.signed_out();
        }
    }
}

/// The payload of a message in the group; an error if it is not as it was sent.
pub(crate) fn said_in<'a>(load: &Load, group: &GroupCheck, envelope: &'a Envelope) -> Result<Payload<'a>, String> {
    let wrong = |what: &str| Err(format!("message {} of group {}: {what}", envelope.id, group.name));
    match envelope.content.as_ref().map(Payload::from_content) {
        Some(Ok(payload)) if payload.run != load.run || payload.sender != envelope.sender => {
            wrong("it is not of this run and sender")
        }
        Some(Ok(payload)) if payload.recipient != group.name => wrong("it was sent to somebody else"),
        Some(Ok(payload)) => Ok(payload),
        Some(Err(corrupt)) => wrong(&corrupt.to_string()),
        None => wrong("it has no content"),
    }
}
