//! For the simulation only: a client without task, connection and clock. See `Driver::session`.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{
    Position, TimelineId,
    pb::client::{Accepted, Ack, Send, SetPresence, SignIn, SignedIn, client_frame, server_frame::Body, sign_in},
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::own_features;
use crate::{
    ClientConfig, Credential, Event, FetchError, SendError, State,
    acks::Acks,
    attempts::Attempts,
    command::{Command, ReplyTo},
    driver::{Driver, End},
    fetches::{Found, Query},
    outbox::Request,
};

/// One device.
pub struct Device {
    driver: Driver,
    acks: Arc<Acks>,
    /// Permits: each unanswered send holds one.
    permits: Arc<Semaphore>,
    answers: BTreeMap<String, oneshot::Receiver<Result<Accepted, SendError>>>,
    /// The application's `SetPresence` has no answer yet.
    shows: Option<oneshot::Receiver<Result<Found, FetchError>>>,
    /// As the service said at the sign-in.
    features: (bool, bool),
    token: String,
    _commands: mpsc::Sender<Command>,
    _events: mpsc::Receiver<Event>,
}

/// The connection is of no more use.
#[derive(Debug)]
pub struct Lost {
    pub why: String,
    /// Earliest time of a reconnect, if the gateway asked for one.
    pub after: Option<Duration>,
    /// Reconnecting is of no use.
    pub is_final: bool,
}

impl Device {
    /// `token` signs it in. It has its timelines up to `positions`. `instance`: another one for each start of the device.
    pub fn new(user: &str, device: &str, token: &str, instance: u64, positions: Vec<(TimelineId, Position)>) -> Self {
        let address = "tcp://127.0.0.1:1".parse().expect("an address");
        let credential = Credential::Token(token.to_owned());
        let config = ClientConfig { positions, ..ClientConfig::new(vec![address], user, device, credential) };
        let (to_commands, commands) = mpsc::channel(1);
        let (to_events, events) = mpsc::channel(1);
        let acks = Arc::new(Acks::default());
        let mut driver =
            Driver::new(config, commands, to_events, watch::channel(State::Connecting).0, Arc::clone(&acks));
        driver.attempts = Attempts::new(instance);
        Self {
            driver,
            acks,
            permits: Arc::new(Semaphore::new(1 << 20)),
            answers: BTreeMap::new(),
            shows: None,
            features: (false, false),
            token: token.to_owned(),
            _commands: to_commands,
            _events: events,
        }
    }

    pub fn sign_in(&mut self) -> SignIn {
        SignIn { credential: Some(sign_in::Credential::Token(self.token.clone())), ..self.driver.sign_in().0 }
    }

    pub fn signed_in(&mut self, signed_in: &SignedIn) -> Result<(), Lost> {
        self.features = own_features(signed_in);
        self.driver.begin(signed_in).map_err(Lost::from)
    }

    /// The client's own requests at the beginning of a connection.
    pub fn own(&mut self) -> Vec<client_frame::Body> {
        self.driver.own(self.features)
    }

    pub fn disconnected(&mut self) {
        self.driver.outbox.disconnected();
    }

    /// The application sends.
    pub fn send(&mut self, send: Send, deadline: Instant) {
        let (sender, answer) = oneshot::channel();
        let permit = Arc::clone(&self.permits).try_acquire_owned().expect("more permits than sends");
        self.answers.insert(send.client_id.clone(), answer);
        self.driver.outbox.push(Request::Send(send), deadline, ReplyTo::new(sender, permit));
    }

    /// The application shows this from now on, or nothing.
    pub fn show(&mut self, set: SetPresence, deadline: Instant) {
        let (sender, answer) = oneshot::channel();
        let fetch = Command::Fetch { query: Box::new(Query::Presence(set)), deadline, answer: sender };
        if self.driver.take(Some(fetch)).is_ok() {
            self.shows = Some(answer);
        }
    }

    /// `Some` when the last `show` has ended: whether it was carried out.
    pub fn take_shown(&mut self) -> Option<bool> {
        let ended = match self.shows.as_mut()?.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => return None,
            ended => matches!(ended, Ok(Ok(Found::Done))),
        };
        self.shows = None;
        Some(ended)
    }

    /// A frame after the sign-in.
    pub fn hears(&mut self, body: Body, now: Instant) -> Result<(), Lost> {
        self.driver.handle(body, now).map_err(Lost::from)
    }

    /// Requests that may go out now, in order.
    pub fn ready(&mut self, now: Instant) -> Vec<client_frame::Body> {
        let mut ready = Vec::new();
        self.driver.outbox.take_ready(now, |request| match request {
            Request::Send(send) => ready.push(client_frame::Body::Send(send)),
            Request::Group(_) => {}
        });
        self.driver.fetches.take_ready(|body| ready.push(body));
        if self.driver.own_again.is_some_and(|due| due <= now) {
            ready.extend(self.own());
        }
        ready
    }

    /// When `ready` may return more although nothing else has happened.
    pub fn next_release(&self) -> Option<Instant> {
        self.driver.outbox.next_release().into_iter().chain(self.driver.own_again).min()
    }

    /// True while something that was asked may expire.
    pub fn asks(&self) -> bool {
        self.shows.is_some()
    }

    pub fn expire(&mut self, now: Instant) {
        self.driver.expire(now);
    }

    /// The events for the application.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.driver.events.waiting.drain(..).collect()
    }

    /// The sends that have ended, each once.
    pub fn take_answers(&mut self) -> Vec<(String, Result<Accepted, SendError>)> {
        let mut ended = Vec::new();
        self.answers.retain(|client_id, answer| match answer.try_recv() {
            Ok(answer) => {
                ended.push((client_id.clone(), answer));
                false
            }
            Err(oneshot::error::TryRecvError::Empty) => true,
            Err(oneshot::error::TryRecvError::Closed) => {
                ended.push((client_id.clone(), Err(SendError::Ended("without a word".to_owned()))));
                false
            }
        });
        ended
    }

    /// The application is done with everything up to here.
    pub fn acknowledge(&mut self, timeline: &TimelineId, position: Position) {
        self.acks.note(timeline, position);
    }

    pub fn take_acks(&mut self) -> Vec<Ack> {
        let mut acks = Vec::new();
        self.acks.take(|ack| acks.push(ack));
        acks
    }
}

impl From<End> for Lost {
    fn from(end: End) -> Self {
        match end {
            End::Closed => Self { why: "closed".to_owned(), after: None, is_final: true },
            End::Lost { why, after } => Self { why, after, is_final: false },
            End::Final { why, .. } => Self { why, after: None, is_final: true },
        }
    }
}
