//! A client that stays signed in.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use carillon_proto::{
    ClientId, Position, TimelineId, duration,
    pb::client::{self, Accepted, Content, Direction, Fetch, Page, Recipient, SignedIn, recipient::To},
    tasks::Tasks,
};
use rand::RngExt as _;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::{
    Acknowledge, ClientConfig, ConnectOptions, Ending, Event, Events, FetchError, OpenError, RenewError, SendError,
    State,
    acks::Acks,
    command::{Command, ReplyTo},
    driver::Driver,
    fetches::{Found, Query},
    outbox::Request,
};

/// A handle to a client. Clones share it; it signs out when the last one is dropped, or when it is closed.
///
/// A client keeps a connection to one of the gateways, and repeats unanswered requests after a reconnect.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    commands: mpsc::Sender<Command>,
    permits: Arc<Semaphore>,
    acks: Arc<Acks>,
    state: watch::Receiver<State>,
    send_timeout: Duration,
    /// Prefix of this client's message ids, different for each start of a device.
    prefix: String,
    media_base: Option<String>,
    connect: ConnectOptions,
    counter: AtomicU64,
}

/// A sent message that waits for its answer. It is ready before any event that the service told after the answer, see [`Event`].
#[must_use = "a message counts only when it was accepted"]
pub struct Pending {
    pub client_id: String,
    answer: oneshot::Receiver<Result<Accepted, SendError>>,
}

impl Client {
    /// Starts the client's task, which connects in the background, see [`Client::connected`].
    pub fn open(config: ClientConfig, tasks: &Tasks) -> Result<(Self, Events), OpenError> {
        if config.addresses.is_empty() {
            return Err(OpenError::NoAddress);
        }
        if config.addresses.iter().any(|address| address.tls) {
            config.connect.trust.rustls()?;
        }
        // When it is full, senders wait; permits bound the sends behind it.
        let (commands, receiver) = mpsc::channel(64);
        // When it is full, the client stops reading its connection until the application has taken some events.
        let (events, taken) = mpsc::channel::<Event>(256);
        let (state, watch) = watch::channel(State::Connecting);
        let acks = Arc::new(Acks::default());
        let automatic = matches!(config.acknowledge, Acknowledge::Taken(_)).then(|| Arc::clone(&acks));
        let noise: u64 = rand::rng().random();
        let (media_base, connect) = (config.media_base(), config.connect.clone());
        let inner = Inner {
            commands,
            permits: Arc::new(Semaphore::new(config.max_pending.max(1))),
            acks: Arc::clone(&acks),
            state: watch,
            send_timeout: config.send_timeout,
            prefix: format!("{noise:016x}"),
            media_base,
            connect,
            counter: AtomicU64::new(0),
        };
        let driver = Driver::new(config, receiver, events, state, acks);
        tasks.spawn_graceful("client", driver.run(tasks.clone()));
        Ok((Self { inner: Arc::new(inner) }, Events::new(taken, automatic)))
    }

    /// Sends and waits for the answer.
    pub async fn send(&self, to: Recipient, content: Content) -> Result<Accepted, SendError> {
        self.submit(to, content).await?.await
    }

    /// Returns when the message has its place in the order of sends. Waits while too many sends are unanswered.
    pub async fn submit(&self, to: Recipient, content: Content) -> Result<Pending, SendError> {
        self.submit_as(self.next_id(), to, content).await
    }

    /// Sends with an id chosen by the application, which may have used it before for the same message.
    pub async fn submit_as(&self, client_id: String, to: Recipient, content: Content) -> Result<Pending, SendError> {
        self.submit_expiring_as(client_id, to, content, Duration::ZERO).await
    }

    /// Sends a message that is shown for so long, 5 seconds to 366 days from `Accepted.time_ms` on, and waits for the answer. Then its content
    /// is gone, for everybody: who shows or keeps messages does so until `Envelope.expires_at_ms`. Needs the feature `expiring`.
    ///
    /// ```no_run
    /// # async fn example(client: carillon_client::Client) -> Result<(), carillon_client::SendError> {
    /// use std::time::Duration;
    ///
    /// use carillon_client::Client;
    ///
    /// client.send_expiring(Client::user("bob"), Client::text("the code is 4711"), Duration::from_secs(60)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_expiring(&self, to: Recipient, content: Content, after: Duration) -> Result<Accepted, SendError> {
        self.submit_expiring_as(self.next_id(), to, content, after).await?.await
    }

    /// Like [`Client::submit_as`], for a message that is shown for so long; zero: without end.
    pub async fn submit_expiring_as(
        &self,
        client_id: String,
        to: Recipient,
        content: Content,
        after: Duration,
    ) -> Result<Pending, SendError> {
        let send = client::Send {
            client_id: client_id.clone(),
            to: Some(to),
            content: Some(content),
            after: String::new(),
            expires_after_ms: whole_ms(after),
        };
        self.request(client_id, Request::Send(send)).await
    }

    pub(crate) async fn request(&self, client_id: String, request: Request) -> Result<Pending, SendError> {
        ClientId::new(&client_id)?;
        let deadline = Instant::now() + self.inner.send_timeout;
        let ended = |_| SendError::Ended(self.why_ended());
        // Never closed while `self` exists.
        let permit = Arc::clone(&self.inner.permits).acquire_owned().await.map_err(|_| ended(()))?;
        let (sender, answer) = oneshot::channel();
        let command = Command::Send { request: Box::new(request), deadline, answer: ReplyTo::new(sender, permit) };
        self.inner.commands.send(command).await.map_err(|_| ended(()))?;
        Ok(Pending { client_id, answer })
    }

    /// A client id that this client has not used.
    pub(crate) fn next_id(&self) -> String {
        let number = self.inner.counter.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number}", self.inner.prefix)
    }

    /// Sets a new token of the same user: the session continues until that one expires, and later sign-ins use it.
    /// Answered when the gateway has accepted it, or at once while there is no connection.
    pub async fn renew(&self, token: &str) -> Result<(), RenewError> {
        let (answer, renewed) = oneshot::channel();
        let ended = || RenewError::Ended("closed".to_owned());
        let command = Command::Renew { token: token.to_owned(), answer };
        self.inner.commands.send(command).await.map_err(|_| ended())?;
        renewed.await.map_err(|_| ended())?
    }

    /// A page of history. With `from_seq` 0 it starts at the end from which the direction goes.
    pub async fn fetch(
        &self,
        timeline: &TimelineId,
        direction: Direction,
        from_seq: u64,
        limit: u32,
    ) -> Result<Page, FetchError> {
        let timeline = Some(timeline.to_client());
        let fetch = Fetch { request: 0, timeline, direction: direction.into(), from_seq, limit, ..Default::default() };
        match self.find(Query::Page(fetch)).await? {
            Found::Page(page) => Ok(page),
            _ => Err(FetchError::OtherAnswer),
        }
    }

    pub(crate) async fn find(&self, query: Query) -> Result<Found, FetchError> {
        let (answer, found) = oneshot::channel();
        let command =
            Command::Fetch { query: Box::new(query), deadline: Instant::now() + self.inner.send_timeout, answer };
        let ended = || FetchError::Ended(self.why_ended());
        self.inner.commands.send(command).await.map_err(|_| ended())?;
        found.await.map_err(|_| ended())?
    }

    /// Scheme and host of files for which the service names none, and how to connect.
    pub(crate) fn media_base(&self) -> (Option<String>, ConnectOptions) {
        (self.inner.media_base.clone(), self.inner.connect.clone())
    }

    /// Reports that this device has everything up to this position; see [`Acknowledge::Explicit`].
    pub fn acknowledge(&self, timeline: &TimelineId, position: Position) {
        self.inner.acks.note(timeline, position);
    }

    /// Why the client has ended; `None`: it has not.
    pub fn ending(&self) -> Option<Ending> {
        match &*self.inner.state.borrow() {
            State::Ended { ending, .. } => Some(*ending),
            State::Connecting | State::Connected { .. } | State::Disconnected { .. } => None,
        }
    }

    pub fn state(&self) -> watch::Receiver<State> {
        self.inner.state.clone()
    }

    /// Waits until the client is signed in. An error says why it never will be, or why it was not in time; [`Client::ending`] tells them apart.
    pub async fn connected(&self, deadline: Duration) -> Result<Arc<SignedIn>, String> {
        let mut state = self.inner.state.clone();
        let mut last = "still connecting".to_owned();
        let signed_in = async {
            loop {
                match &*state.borrow_and_update() {
                    State::Connected { signed_in, .. } => return Ok(Arc::clone(signed_in)),
                    State::Ended { why, .. } => return Err(why.clone()),
                    State::Disconnected { why } => last.clone_from(why),
                    State::Connecting => {}
                }
                if state.changed().await.is_err() {
                    return Err("client's task is gone".to_owned());
                }
            }
        };
        match tokio::time::timeout(deadline, signed_in).await {
            Ok(result) => result,
            Err(_) => Err(format!("not signed in within {}: {last}", duration::in_words(deadline))),
        }
    }

    /// Signs out and ends the client. Unanswered requests get no answer.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.inner.commands.send(Command::Close(done)).await.is_ok() {
            // A task that is gone has ended, too.
            let _ = closed.await;
        }
    }

    fn why_ended(&self) -> String {
        match &*self.inner.state.borrow() {
            State::Ended { why, .. } => why.clone(),
            _ => "closed".to_owned(),
        }
    }
}

pub(crate) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Future for Pending {
    type Output = Result<Accepted, SendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer)
            .poll(context)
            .map(|answer| answer.unwrap_or_else(|_| Err(SendError::Ended("closed".to_owned()))))
    }
}

/// Messages to users and groups.
impl Client {
    pub fn group(name: &str) -> Recipient {
        Recipient { to: Some(To::Group(name.to_owned())) }
    }

    pub fn user(name: &str) -> Recipient {
        Recipient { to: Some(To::User(name.to_owned())) }
    }

    pub fn text(body: &str) -> Content {
        Content {
            body: Some(client::content::Body::Text(client::Text { body: body.to_owned() })),
            ..Default::default()
        }
    }
}
