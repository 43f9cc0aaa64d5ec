//! A member of the herd, with its connections before and after the break.

use std::{sync::Arc, time::Instant};

use carillon_client::{Client, State};
use carillon_proto::{Position, TimelineId, UserId, tasks::Tasks};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    checker::{FlowCheck, WatcherCheck},
    credentials::Credentials,
    scenario::{DEVICE, Load, RunError, device::Device},
};

/// A member of the herd.
pub(super) struct Member {
    pub(super) user: String,
    credentials: Credentials,
    pub(super) flow: Arc<FlowCheck>,
    pub(super) watcher: Arc<WatcherCheck>,
    place: Arc<Mutex<Option<Position>>>,
    pub(super) client: Mutex<Option<Client>>,
    pub(super) fate: Mutex<Fate>,
}

/// When the connection broke, when the member was signed in again, and when it was shown the message that was sent
/// after the break.
#[derive(Default, Clone, Copy)]
pub(super) struct Fate {
    pub(super) broke: Option<Instant>,
    pub(super) back: Option<Instant>,
    pub(super) resumed: Option<Instant>,
}

impl Member {
    /// Each member hears from one of the senders, in turn.
    pub(super) fn new(load: &Load, credentials: &Credentials, number: usize, senders: usize) -> Self {
        let user = load.user("herd", number);
        let flow = load.checker.flow(&load.user("sender", number % senders), &user);
        let watcher = load.checker.watcher(&user, DEVICE);
        flow.expect(&watcher);
        let (credentials, place) = (credentials.clone(), Arc::default());
        Self { user, credentials, flow, watcher, place, client: Mutex::new(None), fate: Mutex::default() }
    }

    /// Opens the member's client at its last position, and follows its states and what it is shown.
    pub(super) fn open(self: &Arc<Self>, load: &Arc<Load>, tasks: &Tasks) -> Result<(), RunError> {
        let inbox = TimelineId::Inbox(UserId::new(&self.user).expect("made by Load::user"));
        let positions = self.place.lock().map(|position| (inbox, position)).into_iter().collect();
        let (client, events) = load.open((&self.user, DEVICE), &self.credentials, positions, tasks)?;
        let device = Device::new(load, &self.watcher, vec![Arc::clone(&self.flow)]).with_place(&self.place);
        tasks.spawn("watch", device.follow(events));
        tasks.spawn("fate", follow_fate(Arc::clone(self), client.state()));
        *self.client.lock() = Some(client);
        Ok(())
    }

    pub(super) fn broke_now(&self) {
        *self.fate.lock() = Fate { broke: Some(Instant::now()), ..Fate::default() };
    }
}

async fn follow_fate(member: Arc<Member>, mut state: watch::Receiver<State>) {
    loop {
        let connected = state.borrow_and_update().is_connected();
        {
            let mut fate = member.fate.lock();
            let now = Some(Instant::now());
            match (connected, fate.broke) {
                (true, Some(_)) => fate.back = fate.back.or(now),
                (false, None) if member.watcher.last_position().is_some() => fate.broke = now,
                _ => {}
            }
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}
