//! The client's task: connects, signs in, serves the session, and starts over.

use std::{
    collections::VecDeque,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{
    pb::client::{self, Code, SignedIn},
    tasks::Tasks,
};
use rand::RngExt as _;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};

use crate::{
    Address, ClientConfig, Connection, ConnectionError, Credential, Ending, Event, FetchError, RenewError, SendError,
    SignInError, State,
    acks::Acks,
    attempts::Attempts,
    backoff::Backoff,
    command::{Command, ReplyTo},
    contacts::Known,
    fetches::{Fetches, Found},
    outbox::Outbox,
    positions::{Positions, Rest},
    privacy,
    sign_in::{SignInCache, sign_in_cached},
    ticket::Ticket,
};

pub(crate) struct Driver {
    pub(crate) config: ClientConfig,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) acks: Arc<Acks>,
    pub(crate) outbox: Outbox<ReplyTo>,
    pub(crate) fetches: Fetches<oneshot::Sender<Result<Found, FetchError>>>,
    /// New tokens that wait for the gateway's answer, the oldest first. Bounded by the callers, each of which waits for
    /// its answer.
    pub(crate) renewals: VecDeque<Renewal>,
    pub(crate) contacts: Known,
    pub(crate) privacy: privacy::Known,
    /// Time of the next attempt of the client's own requests (presence, lists), which were refused for now.
    pub(crate) own_again: Option<Instant>,
    pub(crate) positions: Positions,
    pub(crate) events: EventQueue,
    pub(crate) attempts: Attempts,
    state: watch::Sender<State>,
    backoff: Backoff,
    paths: Paths,
    sign_in_cache: Arc<SignInCache>,
    closing: Vec<oneshot::Sender<()>>,
}

/// Events on their way to the application. Bounded, because the connection is not read while the queue is long.
pub(crate) struct EventQueue {
    pub(crate) waiting: VecDeque<Event>,
    sender: mpsc::Sender<Event>,
}

/// A token on its way to the gateway.
pub(crate) struct Renewal {
    pub(crate) token: String,
    pub(crate) sent: bool,
    pub(crate) answer: oneshot::Sender<Result<(), RenewError>>,
}

/// Why a session is over.
pub(crate) enum End {
    /// The application closed the client.
    Closed,
    /// Reconnect, not before the time that the gateway asked for.
    Lost { why: String, after: Option<Duration> },
    /// Reconnecting is of no use.
    Final { ending: Ending, why: String },
}

/// Whether the paths of the addresses are wrong.
#[derive(Default)]
struct Paths {
    was_signed_in: bool,
    /// Last attempts in a row that found no WebSocket.
    missed: usize,
}

impl Paths {
    /// True if the failure shows that no address has a WebSocket. While a service that was there is rolled out, a proxy before it may answer as if
    /// it were not.
    fn are_wrong(&mut self, error: &SignInError, addresses: usize) -> bool {
        let is_miss = matches!(error, SignInError::Connection(ConnectionError::NoWebSocket { .. }));
        self.missed = if is_miss { self.missed + 1 } else { 0 };
        !self.was_signed_in && self.missed >= addresses
    }
}

/// How often deadlines are checked.
pub(crate) const TICK: Duration = Duration::from_millis(250);

impl Driver {
    pub(crate) fn new(
        config: ClientConfig,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
        state: watch::Sender<State>,
        acks: Arc<Acks>,
    ) -> Self {
        let first = rand::rng().random_range(0..config.addresses.len());
        Self {
            backoff: Backoff::new(config.addresses.len(), first, config.backoff),
            positions: Positions::new(config.positions.iter().cloned()),
            contacts: Known::default(),
            privacy: privacy::Known::default(),
            own_again: None,
            config,
            commands,
            acks,
            outbox: Outbox::new(),
            fetches: Fetches::new(),
            renewals: VecDeque::new(),
            events: EventQueue { waiting: VecDeque::new(), sender: events },
            attempts: Attempts::new(rand::rng().random()),
            state,
            paths: Paths::default(),
            sign_in_cache: Arc::default(),
            closing: Vec::new(),
        }
    }

    pub(crate) async fn run(mut self, tasks: Tasks) {
        let (ending, why) = tokio::select! {
            ended = self.stay_signed_in() => ended,
            () = tasks.stopping() => (Ending::Stopped, "stopped".to_owned()),
        };
        for answer in self.outbox.drain() {
            answer.give(Err(SendError::Ended(why.clone())));
        }
        for answer in self.fetches.drain() {
            let _ = answer.send(Err(FetchError::Ended(why.clone())));
        }
        for renewal in self.renewals.drain(..) {
            let _ = renewal.answer.send(Err(RenewError::Ended(why.clone())));
        }
        self.set_state(State::Ended { ending, why });
        self.events.give_what_fits();
        for closed in self.closing.drain(..) {
            let _ = closed.send(());
        }
    }

    /// Returns the reason when it ends.
    async fn stay_signed_in(&mut self) -> (Ending, String) {
        let closed = || (Ending::Closed, "closed".to_owned());
        let addresses = self.config.addresses.len();
        loop {
            let address = self.config.addresses[self.backoff.address()].clone();
            self.answer_renewals();
            self.set_state(State::Connecting);
            let resumes = self.sign_in_cache.ticket.lock().is_some();
            let attempt = self.attempt(address.clone());
            let (why, after) = match self.serve_until(attempt).await {
                None => return closed(),
                // The ticket was refused, and with it the connection. There is none any more, so this is no loop.
                Some(Err(SignInError::Bye(bye))) if resumes && bye.code() == Code::Unauthenticated => {
                    tracing::debug!(%address, why = bye.reason, "the resume ticket was not taken");
                    continue;
                }
                Some(Err(error)) if error.is_final() || self.paths.are_wrong(&error, addresses) => {
                    return (Ending::of_sign_in(&error), error.to_string());
                }
                Some(Err(SignInError::Bye(bye))) => (bye.reason.clone(), bye_pause(&bye)),
                Some(Err(SignInError::Refused(refusal))) => (refusal.to_string(), Some(refusal.retry_after)),
                Some(Err(error)) => (error.to_string(), None),
                Some(Ok((connection, signed_in, rest))) => {
                    let since = Instant::now();
                    self.paths.was_signed_in = true;
                    let signed_in = Arc::new(signed_in);
                    let state = State::Connected { address: address.to_string(), signed_in: Arc::clone(&signed_in) };
                    self.set_state(state);
                    let end = self.session(connection, &signed_in, rest).await;
                    self.answer_renewals();
                    self.outbox.disconnected();
                    self.fetches.disconnected();
                    // A connection that ends at once counts as a failed attempt.
                    if since.elapsed() > Duration::from_secs(2) {
                        self.backoff.succeeded();
                    }
                    match end {
                        End::Closed => return closed(),
                        End::Final { ending, why } => return (ending, why),
                        End::Lost { why, after } => (why, after),
                    }
                }
            };
            tracing::debug!(%address, %why, "not connected");
            let pause = self.backoff.failed(rand::rng().random(), after);
            self.set_state(State::Disconnected { why });
            if self.serve_until(sleep(pause)).await.is_none() {
                return closed();
            }
        }
    }

    /// Without a connection there is nobody to ask: the next sign-in uses the newest token, and shows whether it is
    /// valid.
    pub(crate) fn answer_renewals(&mut self) {
        for renewal in self.renewals.drain(..) {
            self.config.credential = Credential::Token(renewal.token);
            *self.sign_in_cache.ticket.lock() = None;
            let _ = renewal.answer.send(Ok(()));
        }
    }

    /// The service has taken this token; the ticket stands for it.
    pub(crate) fn use_token(&mut self, token: String, ticket: Option<Ticket>) {
        self.config.credential = Credential::Token(token);
        *self.sign_in_cache.ticket.lock() = ticket;
    }

    /// The next sign-in: all but the credential, and the positions that it has no room for.
    pub(crate) fn sign_in(&mut self) -> (client::SignIn, Rest) {
        let (instance, attempt) = self.attempts.begin();
        let mut request = client::SignIn {
            user: self.config.user.clone(),
            device: self.config.device.clone(),
            start: self.config.start.into(),
            client: self.config.program.clone(),
            instance,
            attempt,
            ..client::SignIn::default()
        };
        let credential = match &self.config.credential {
            Credential::Token(token) => token.len(),
            // The user's name, in which SCRAM writes some characters as three, and a nonce.
            Credential::Password(_) => 3 * self.config.user.len() + 64,
        };
        let ticket = self.sign_in_cache.ticket.lock().as_ref().map_or(0, |ticket| ticket.bytes().len());
        let rest = Rest::of(self.positions.to_sign_in(), &mut request, credential.max(ticket));
        (request, rest)
    }

    fn attempt(
        &mut self,
        address: Address,
    ) -> impl Future<Output = Result<(Connection, SignedIn, Rest), SignInError>> + 'static {
        let (request, rest) = self.sign_in();
        let (options, cache) = (self.config.connect.clone(), Arc::clone(&self.sign_in_cache));
        let (credential, limit) = (self.config.credential.clone(), self.config.sign_in_timeout);
        async move {
            let signing_in = async {
                let mut connection = Connection::connect(&address, &options).await?;
                let signed_in = sign_in_cached(&mut connection, request, &credential, &cache).await?;
                Ok((connection, signed_in, rest))
            };
            let late = ConnectionError::Timeout { address: address.to_string(), after: limit };
            timeout(limit, signing_in).await.unwrap_or(Err(late.into()))
        }
    }

    /// Takes commands and delivers events while there is no session. `None` when the client is closed.
    async fn serve_until<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                command = self.commands.recv() => {
                    if self.take(command).is_err() {
                        return None;
                    }
                }
                () = self.events.give(), if !self.events.is_empty() => {}
                () = sleep(TICK), if self.has_deadlines() => self.expire(Instant::now()),
            }
        }
    }

    /// An error when the client has to end.
    pub(crate) fn take(&mut self, command: Option<Command>) -> Result<(), ()> {
        match command {
            Some(Command::Send { request, deadline, answer }) => self.outbox.push(*request, deadline, answer),
            Some(Command::Fetch { query, deadline, answer }) => {
                self.contacts.asked(&query);
                self.fetches.push(*query, deadline, answer);
            }
            Some(Command::Renew { token, answer }) => {
                self.renewals.push_back(Renewal { token, sent: false, answer });
            }
            Some(Command::Close(done)) => {
                self.closing.push(done);
                return Err(());
            }
            None => return Err(()),
        }
        Ok(())
    }

    pub(crate) fn has_deadlines(&self) -> bool {
        !self.outbox.is_empty() || !self.fetches.is_empty()
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        self.outbox.expire(now, |expired| {
            expired.answer.give(Err(SendError::TimedOut { client_id: expired.client_id, last: expired.refusal }));
        });
        self.fetches.expire(now, |answer| {
            let _ = answer.send(Err(FetchError::TimedOut));
        });
    }

    fn set_state(&mut self, state: State) {
        self.events.push(Event::State(state.clone()));
        self.state.send_replace(state);
    }
}

pub(crate) fn bye_pause(bye: &client::Bye) -> Option<Duration> {
    Some(Duration::from_millis(bye.reconnect_after_ms.into()))
}

impl EventQueue {
    /// Above this many events the connection is not read.
    const AHEAD: usize = 64;

    pub(crate) fn push(&mut self, event: Event) {
        // While the service is out of reach, the client's state changes repeatedly: the last state is enough.
        if let (Event::State(_), Some(Event::State(last))) = (&event, self.waiting.back_mut())
            && let Event::State(state) = event
        {
            *last = state;
            return;
        }
        if self.sender.is_closed() {
            self.waiting.clear();
        } else {
            self.waiting.push_back(event);
        }
    }

    pub(crate) fn extend(&mut self, event: Option<Event>) {
        if let Some(event) = event {
            self.push(event);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() < Self::AHEAD
    }

    /// Waits until the application has room, then delivers what fits. Cancel-safe.
    pub(crate) async fn give(&mut self) {
        if self.sender.reserve().await.is_err() {
            self.waiting.clear();
        }
        self.give_what_fits();
    }

    pub(crate) fn give_what_fits(&mut self) {
        while !self.waiting.is_empty() {
            let Ok(permit) = self.sender.try_reserve() else { return };
            let Some(event) = self.waiting.pop_front() else { return };
            permit.send(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_paths_end_a_client_that_was_never_signed_in() {
        let missed = || SignInError::from(ConnectionError::NoWebSocket { address: "ws://localhost/".to_owned() });
        let mut paths = Paths::default();
        let closed = SignInError::from(ConnectionError::Closed);
        let failures = [missed(), closed, missed(), missed()];
        assert_eq!(failures.map(|error| paths.are_wrong(&error, 2)), [false, false, false, true]);
        let mut paths = Paths { was_signed_in: true, ..Paths::default() };
        assert_eq!([(); 3].map(|()| paths.are_wrong(&missed(), 2)), [false; 3]);
    }
}
