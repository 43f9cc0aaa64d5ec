//! A device of a user who talks to others: what it is shown of messages, marks and chat states.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use carillon_client::{Client, Event, Events, FetchError};
use carillon_proto::{
    Position, TimelineId, UserId,
    pb::client::{ChatState, Conversations, Envelope, Marks, Recipient},
};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::reading::{Message, Reading, row_of};
use crate::{
    checker::{FlowCheck, GroupCheck, GroupWatcher, View, Violation, WatcherCheck},
    measure::latencies::Latencies,
    scenario::{Load, device::check, groups::said_in},
};

/// The parts of the run that all users share.
pub(super) struct Scene {
    pub(super) load: Arc<Load>,
    /// From the first unread message until the mark is moved.
    pub(super) read_after: Duration,
    pub(super) counts: Counts,
    /// From the moving of a mark until it is stored, until the writer sees it, and until the reader's other device does.
    pub(super) stored: Latencies,
    pub(super) seen_by_writer: Latencies,
    pub(super) seen_by_own: Latencies,
}

#[derive(Default)]
pub(super) struct Counts {
    /// Marks that were moved and stored.
    pub(super) marks: AtomicU64,
    /// Chat states that a device was told.
    pub(super) chat_states: AtomicU64,
}

/// A user.
pub(super) struct Person {
    pub(super) number: usize,
    pub(super) name: String,
    pub(super) reads: bool,
    pub(super) talk: Talk,
    /// The last marks that it has moved, and when, in microseconds.
    moved: Mutex<VecDeque<(Message, u64)>>,
    /// The message up to which the other one of a pair has read, as this device was told last.
    pub(super) seen: Mutex<String>,
}

/// The conversation of a user.
pub(super) enum Talk {
    /// With this user.
    Pair(String),
    Group(TimelineId, Arc<GroupCheck>),
}

/// Most marks of a device that are remembered until they are seen.
const REMEMBERED: usize = 32;
/// The service passes the same state on once a second.
const TYPING_PAUSE: Duration = Duration::from_secs(1);
/// Before something refused is tried again, at least.
const AGAIN: Duration = Duration::from_millis(100);

impl Talk {
    pub(super) fn recipient(&self) -> Recipient {
        match self {
            Self::Pair(peer) => Client::user(peer),
            Self::Group(_, group) => Client::group(&group.name),
        }
    }
}

impl Person {
    pub(super) fn new(number: usize, name: String, talk: Talk, reads: bool) -> Self {
        Self { number, name, reads, talk, moved: Mutex::default(), seen: Mutex::default() }
    }

    fn moves(&self, message: &Message, now_us: u64) {
        let mut moved = self.moved.lock();
        if moved.len() == REMEMBERED {
            moved.pop_front();
        }
        moved.push_back((message.clone(), now_us));
    }

    /// When the mark was moved to such a message.
    fn moved_us(&self, is_it: impl Fn(&Message) -> bool) -> Option<u64> {
        self.moved.lock().iter().find(|(message, _)| is_it(message)).map(|(_, us)| *us)
    }
}

/// A connected device of a user, with its picture of the conversation.
pub(super) struct Device {
    pub(super) scene: Arc<Scene>,
    pub(super) person: Arc<Person>,
    /// The other side, if it is a pair.
    pub(super) peer: Option<Arc<Person>>,
    pub(super) client: Client,
    pub(super) inbox: Arc<WatcherCheck>,
    pub(super) in_group: Option<Arc<GroupWatcher>>,
    /// The flows of a pair that the device is to be shown, and its own.
    pub(super) flows: Vec<Arc<FlowCheck>>,
    /// The first device of its user, which sends and reads.
    pub(super) is_first: bool,
    pub(super) reading: Mutex<Reading>,
    /// There is something to read.
    pub(super) news: Notify,
    /// The list has to be read.
    pub(super) stale: Notify,
    pub(super) shard: usize,
}

impl Device {
    /// Takes what the device is shown.
    pub(super) async fn follow(self: Arc<Self>, mut events: Events) {
        let mut connection = Connection { device: &self, connected: false, left: None };
        while let Some(event) = events.next().await {
            match event {
                Event::Delivered { timeline, position, envelope } => self.delivered(&timeline, position, &envelope),
                Event::Sent { timeline, position, message_id, .. } => {
                    match (&self.person.talk, &self.in_group) {
                        (Talk::Group(of, group), Some(watcher)) if *of == timeline => {
                            group.shown(watcher, position.seq, &message_id);
                        }
                        _ => self.inbox.position(position.seq),
                    }
                    self.reading.lock().said(position.seq);
                }
                Event::Trimmed { timeline, first } => match (&timeline, &self.in_group) {
                    (TimelineId::Group(_), Some(watcher)) => watcher.trimmed(first.seq),
                    _ => self.inbox.trimmed(first.seq),
                },
                Event::State(state) => connection.set(state.is_connected()),
                Event::Conversations(news) => self.told(&news),
                Event::Marks(marks) => self.marked(&marks),
                Event::ChatState(notice) => self.typed(&notice.from),
                _ => {}
            }
        }
    }

    fn delivered(&self, timeline: &TimelineId, position: Position, envelope: &Envelope) {
        let load = &self.scene.load;
        let payload = match (&self.person.talk, &self.in_group) {
            (Talk::Group(of, group), Some(watcher)) if of == timeline => {
                group.shown(watcher, position.seq, &envelope.id);
                if envelope.change.is_some() {
                    return;
                }
                match said_in(load, group, envelope) {
                    Ok(payload) => {
                        if payload.sender != self.person.name {
                            watcher.heard();
                        }
                        payload
                    }
                    Err(why) => return self.inbox.corrupted(why),
                }
            }
            (Talk::Group(..), _) => {
                // The news of the group.
                self.inbox.position(position.seq);
                return;
            }
            (Talk::Pair(_), _) => {
                self.inbox.position(position.seq);
                match check(load, &self.inbox, &self.flows, envelope) {
                    Some(payload) => payload,
                    None => return,
                }
            }
        };
        if payload.sender == self.person.name {
            self.reading.lock().said(position.seq);
            load.recorder.delivered(self.shard, payload.intended_us, false);
        } else {
            load.recorder.delivered(self.shard, payload.intended_us, true);
            self.reading.lock().heard(Message { position, id: envelope.id.clone() });
            self.news.notify_one();
        }
    }

    /// News of the list.
    fn told(&self, news: &Conversations) {
        if !self.reading.lock().told(news) {
            self.stale.notify_one();
        }
        let row = row_of(&news.conversations, &self.person.talk.recipient());
        if let (false, Some(read)) = (self.is_first, row.and_then(|row| row.read)) {
            let moved_us = self.person.moved_us(|message| message.position.seq == read.seq);
            self.record(&self.scene.seen_by_own, moved_us);
        }
    }

    /// The other side has read, or received.
    fn marked(&self, marks: &Marks) {
        for mark in &marks.marks {
            let Some(peer) = self.peer.as_ref().filter(|peer| peer.name == mark.user) else {
                self.found(View::Mark, format!("{} is told to have read, and is not the other side of it", mark.user));
                continue;
            };
            if mark.read_id.is_empty() {
                continue;
            }
            if self.is_first {
                mark.read_id.clone_into(&mut self.person.seen.lock());
                let moved_us = peer.moved_us(|message| message.id == mark.read_id);
                self.record(&self.scene.seen_by_writer, moved_us);
            }
        }
    }

    fn typed(&self, from: &str) {
        self.scene.counts.chat_states.fetch_add(1, Ordering::Relaxed);
        if self.peer.as_ref().is_none_or(|peer| peer.name != from) {
            self.found(View::ChatState, format!("{from} is told to be writing, and is not in the conversation"));
        }
    }

    /// The time since then, if it is measured.
    fn record(&self, latencies: &Latencies, since_us: Option<u64>) {
        let recorder = &self.scene.load.recorder;
        let is_measured = |us: &u64| recorder.measures_from_ms().is_some_and(|from_ms| *us >= from_ms * 1000);
        if let Some(us) = since_us.filter(is_measured) {
            latencies.record(self.shard, recorder.us(Instant::now()).saturating_sub(us));
        }
    }

    pub(super) fn found(&self, view: View, why: String) {
        let watcher = self.inbox.name.clone();
        self.scene.load.checker.found(Violation::Untrue { view, watcher, why });
    }

    /// Reads the list whenever the device may lack something of it. From then on it is told of changes.
    pub(super) async fn keep_list(self: Arc<Self>) {
        loop {
            self.stale.notified().await;
            while let Err(error) = self.read_list().await {
                if matches!(error, FetchError::Ended(_)) {
                    return;
                }
                tokio::time::sleep(pause_after(&error)).await;
            }
        }
    }

    /// Reads what has changed in the list.
    pub(super) async fn read_list(&self) -> Result<(), FetchError> {
        let since = self.reading.lock().version();
        let list = self.client.read_conversations(since).await?;
        self.reading.lock().listed(&list);
        Ok(())
    }

    /// Reads what comes, and shows that an answer is being written.
    pub(super) async fn keep_reading(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        let mut typed: Option<Instant> = None;
        while !*stopped.borrow() {
            tokio::select! {
                biased;
                _ = stopped.changed() => continue,
                () = self.news.notified() => {}
            }
            if !self.scene.read_after.is_zero() {
                // Messages that come meanwhile are read, too.
                tokio::select! {
                    _ = stopped.changed() => {}
                    () = tokio::time::sleep(self.scene.read_after) => {}
                }
            }
            if self.person.reads && self.mark().await.is_err_and(|error| matches!(error, FetchError::Ended(_))) {
                return;
            }
            let is_due = typed.is_none_or(|at| at.elapsed() >= TYPING_PAUSE);
            if let (Talk::Pair(peer), true) = (&self.person.talk, is_due) {
                typed = Some(Instant::now());
                let peer = UserId::new(peer).expect("a name that this program has made");
                // A chat state is worth nothing later: nobody tries again.
                let _ = self.client.set_chat_state(&peer, ChatState::Composing).await;
            }
        }
    }

    /// Moves the mark to the last message. After an error that passes, the device looks at it again.
    pub(super) async fn mark(&self) -> Result<(), FetchError> {
        let Some(message) = self.reading.lock().to_read() else { return Ok(()) };
        let now_us = self.scene.load.recorder.us(Instant::now());
        self.person.moves(&message, now_us);
        let mark = (self.person.talk.recipient(), message.position);
        if let Err(error) = self.client.move_marks(vec![mark]).await {
            tokio::time::sleep(pause_after(&error)).await;
            self.news.notify_one();
            return Err(error);
        }
        self.reading.lock().read_up_to(message.position.seq);
        self.scene.counts.marks.fetch_add(1, Ordering::Relaxed);
        self.record(&self.scene.stored, Some(now_us));
        Ok(())
    }
}

pub(super) fn pause_after(error: &FetchError) -> Duration {
    match error {
        FetchError::Refused(refusal) => refusal.retry_after.max(AGAIN),
        _ => AGAIN,
    }
}

/// Counts the connections of a device.
struct Connection<'a> {
    device: &'a Device,
    connected: bool,
    left: Option<Instant>,
}

impl Connection<'_> {
    fn set(&mut self, connected: bool) {
        let recorder = &self.device.scene.load.recorder;
        match (self.connected, connected) {
            (false, true) => {
                recorder.signed_in();
                if let Some(left) = self.left.take() {
                    recorder.back(self.device.shard, left);
                }
            }
            (true, false) => {
                recorder.signed_out();
                self.left = Some(Instant::now());
            }
            _ => {}
        }
        self.connected = connected;
        if connected {
            self.device.stale.notify_one();
        }
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        if self.connected {
            self.device.scene.load.recorder.signed_out();
        }
    }
}
