//! A user with a device that shows something, and sees what its contacts show.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use carillon_client::{Client, Event, Events, FetchError};
use carillon_proto::{pb::client::Presence, tasks::Tasks};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::board::{Board, Picture, Said};
use crate::{
    checker::{Outcome, View, Violation, Watcher},
    credentials::Credentials,
    measure::latencies::Latencies,
    scenario::{DEVICE, Load, RunError, pacer::Schedule, signed_in},
};

/// The kind of the users' names.
pub(super) const KIND: &str = "p";
/// Before a refused change is tried again, at least.
const AGAIN: Duration = Duration::from_millis(100);

/// State that all users share.
pub(super) struct Scene {
    pub(super) load: Arc<Load>,
    pub(super) credentials: Credentials,
    pub(super) board: Board,
    /// From going until each contact sees that, while it is measured.
    pub(super) gone: Latencies,
    /// Changes that are not stored by now are given up.
    pub(super) given_up: AtomicBool,
}

/// A user over all lives of its device.
pub(super) struct Person {
    pub(super) number: usize,
    pub(super) name: String,
    scene: Arc<Scene>,
    pub(super) picture: Arc<Picture>,
    life: Mutex<Option<Life>>,
    /// Held by whoever changes what the user shows.
    turn: tokio::sync::Mutex<()>,
    shard: usize,
}

/// The device between its start and its end.
struct Life {
    client: Client,
    tasks: Tasks,
    /// Resolves when the device looks at nothing any more.
    over: oneshot::Receiver<()>,
}

/// How a device goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    SignsOut,
    /// Without a goodbye.
    Breaks,
}

impl Person {
    pub(super) fn new(scene: &Arc<Scene>, number: usize) -> Self {
        Self {
            number,
            name: scene.load.user(KIND, number),
            picture: Arc::new(Picture::new(scene.board.ring.contacts)),
            life: Mutex::new(None),
            turn: tokio::sync::Mutex::new(()),
            shard: scene.load.recorder.shard(),
            scene: Arc::clone(scene),
        }
    }

    pub(super) fn client(&self) -> Option<Client> {
        self.life.lock().as_ref().map(|life| life.client.clone())
    }

    /// Starts the device, and waits until it is signed in. It shows nothing yet.
    pub(super) async fn start(&self, tasks: &Tasks) -> Result<(), RunError> {
        let Scene { load, credentials, .. } = &*self.scene;
        let life = tasks.child();
        let (client, events) = load.open((&self.name, DEVICE), credentials, Vec::new(), &life)?;
        let (done, over) = oneshot::channel();
        let watching = Watching::new(self);
        life.spawn("watch", async move {
            watching.follow(events).await;
            // Nobody waits for it at the end of the run.
            let _ = done.send(());
        });
        *self.life.lock() = Some(Life { client: client.clone(), tasks: life, over });
        signed_in(&client, &self.name).await
    }

    /// Changes what the user shows, at the times of the schedule; nothing while it is away.
    pub(super) async fn keep_changing(self: Arc<Self>, schedule: Schedule, mut stopped: watch::Receiver<bool>) {
        let recorder = Arc::clone(&self.scene.load.recorder);
        // When the last change was answered: those that were due before wait for the service.
        let mut answered_us = 0;
        for next in 0.. {
            let intended_us = schedule.intended_us(next);
            while recorder.us(Instant::now()) < intended_us && !*stopped.borrow() {
                tokio::select! {
                    biased;
                    _ = stopped.changed() => {}
                    () = schedule.due.notified() => {}
                }
            }
            if *stopped.borrow() {
                return;
            }
            let _turn = self.turn.lock().await;
            if self.client().is_none() {
                continue;
            }
            let now_us = recorder.us(Instant::now());
            let mut due_us = intended_us;
            if intended_us > answered_us {
                recorder.sent_on_schedule(intended_us, now_us);
                due_us = now_us;
            }
            self.change((intended_us, due_us)).await;
            answered_us = recorder.us(Instant::now());
        }
    }

    /// Shows the first state.
    pub(super) async fn appear(&self) {
        let _turn = self.turn.lock().await;
        self.change_now().await;
    }

    /// The device goes. False if it is gone, or busy.
    pub(super) async fn leave(&self, way: Way) -> bool {
        let Ok(_turn) = self.turn.try_lock() else { return false };
        let Some(life) = self.life.lock().take() else { return false };
        self.scene.board.leaves(self.number, self.scene.load.recorder.us(Instant::now()));
        if way == Way::SignsOut {
            life.client.close().await;
        }
        life.tasks.stop();
        drop(life.client);
        // The sender is dropped with the task, if that has ended otherwise.
        let _ = life.over.await;
        true
    }

    /// The device comes back, and shows something new.
    pub(super) async fn come_back(&self, tasks: &Tasks) -> Result<(), RunError> {
        let _turn = self.turn.lock().await;
        self.start(tasks).await?;
        self.change_now().await;
        Ok(())
    }

    pub(super) async fn close(&self) {
        if let Some(client) = self.client() {
            client.close().await;
        }
    }

    async fn change_now(&self) {
        let now_us = self.scene.load.recorder.us(Instant::now());
        self.change((now_us, now_us)).await;
    }

    /// Shows something else, and tries until it is stored. `times`: when it was to change, and when without what the generator was late by.
    async fn change(&self, times: (u64, u64)) {
        let said = self.scene.board.changes(self.number, times.0);
        let outcome = self.show(said).await;
        if outcome == Outcome::Accepted {
            self.scene.board.stored(self.number);
        }
        self.scene.load.recorder.ended(self.shard, times, outcome);
    }

    async fn show(&self, said: Said) -> Outcome {
        loop {
            let Some(client) = self.client() else { return Outcome::Unknown };
            match client.show(said.show(), &said.status(), 0).await {
                Ok(()) => return Outcome::Accepted,
                Err(FetchError::Refused(refusal)) if !refusal.retry => return Outcome::Refused,
                Err(FetchError::Refused(refusal)) => tokio::time::sleep(refusal.retry_after.max(AGAIN)).await,
                Err(FetchError::TimedOut | FetchError::OtherAnswer | FetchError::Unsteady) => {}
                Err(FetchError::Ended(_)) => return Outcome::Unknown,
            }
            if self.scene.given_up.load(Ordering::SeqCst) {
                return Outcome::Unknown;
            }
        }
    }
}

/// Looks at what a device is told during one life.
struct Watching {
    scene: Arc<Scene>,
    picture: Arc<Picture>,
    number: usize,
    name: Watcher,
    shard: usize,
    connected: bool,
    /// When the present connection was signed in: what was shown before is told as it is, and says nothing of how long a change takes.
    since_us: u64,
    /// When the device has lost its connection, until it is signed in again.
    left: Option<Instant>,
}

impl Watching {
    fn new(person: &Person) -> Self {
        Self {
            scene: Arc::clone(&person.scene),
            picture: Arc::clone(&person.picture),
            number: person.number,
            name: Watcher { user: person.name.clone(), device: DEVICE.to_owned() },
            shard: person.shard,
            connected: false,
            since_us: 0,
            left: None,
        }
    }

    async fn follow(mut self, mut events: Events) {
        self.picture.begins_anew();
        while let Some(event) = events.next().await {
            match event {
                Event::Presence(presence) => {
                    if let Err(why) = self.told(&presence) {
                        let watcher = self.name.clone();
                        self.scene.load.checker.found(Violation::Untrue { view: View::Presence, watcher, why });
                    }
                }
                Event::State(state) => {
                    self.picture.begins_anew();
                    self.set_connected(state.is_connected());
                }
                _ => {}
            }
        }
    }

    fn told(&self, presence: &Presence) -> Result<(), String> {
        let Scene { load, board, gone, .. } = &*self.scene;
        let prefix = format!("{}-{KIND}", load.run);
        let number = presence.user.strip_prefix(&prefix).and_then(|number| number.parse::<usize>().ok());
        let number = number.filter(|number| *number < board.ring.users);
        let slot = number.and_then(|contact| board.ring.slot(self.number, contact));
        let Some((contact, slot)) = number.zip(slot) else {
            return Err(format!("{} is no contact, and is shown", presence.user));
        };
        let said = Said::told(presence).map_err(|why| format!("{}: {why}", presence.user))?;
        let is_new = self.picture.told(slot, said);
        let now_us = load.recorder.us(Instant::now());
        match said {
            Some(said) if !board.has_said(contact, said) => {
                return Err(format!(
                    "{} is shown with its change {}, and has made none of this number",
                    presence.user, said.number
                ));
            }
            Some(said) => {
                load.recorder.delivered(self.shard, said.intended_us, is_new && said.intended_us >= self.since_us);
            }
            None => {
                load.recorder.delivered(self.shard, now_us, false);
                let left_us = board.left_us(contact).filter(|_| is_new && load.recorder.measures_from_ms().is_some());
                if let Some(left_us) = left_us {
                    gone.record(self.shard, now_us.saturating_sub(left_us));
                }
            }
        }
        Ok(())
    }

    fn set_connected(&mut self, connected: bool) {
        let recorder = &self.scene.load.recorder;
        match (self.connected, connected) {
            (false, true) => {
                recorder.signed_in();
                self.since_us = recorder.us(Instant::now());
                if let Some(left) = self.left.take() {
                    recorder.back(self.shard, left);
                }
            }
            (true, false) => {
                recorder.signed_out();
                self.left = Some(Instant::now());
            }
            _ => {}
        }
        self.connected = connected;
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        if self.connected {
            self.scene.load.recorder.signed_out();
        }
    }
}
