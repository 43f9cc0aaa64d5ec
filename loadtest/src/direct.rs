//! The scenario *direct chat*: each user sends to the next one, and every device of every user watches.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use carillon_client::{Acknowledge, Address, Client, ClientConfig, Credential, Event, Events, SendError};
use carillon_proto::{
    TimelineId, UserId,
    pb::client::{Code, Direction, Envelope},
    tasks::Tasks,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    checker::{Checker, Flow, Outcome, Summary, Violation, Watcher},
    payload::Payload,
};

#[derive(Clone)]
pub struct DirectConfig {
    /// Names the run; user ids begin with it, so that runs do not mix.
    pub run: String,
    pub addresses: Vec<Address>,
    pub users: usize,
    /// Each with a connection of its own; the first one sends.
    pub devices: usize,
    /// Sends a second of each user; None: as fast as the window allows.
    pub rate: Option<f64>,
    /// Sends of one user without an answer.
    pub window: usize,
    /// Size of a message's text.
    pub bytes: usize,
    /// A send without an answer for so long is counted as unknown.
    pub send_timeout: Duration,
}

/// A run that goes on.
pub struct Direct {
    shared: Arc<Shared>,
    clients: HashMap<Watcher, Client>,
    stop: watch::Sender<bool>,
    senders: Tasks,
}

struct Shared {
    config: DirectConfig,
    checker: Mutex<Checker>,
    latencies: Mutex<Histogram<u64>>,
    accepted: AtomicU64,
    delivered: AtomicU64,
    began: Instant,
}

/// What a run found.
pub struct Report {
    pub summary: Summary,
    pub violations: Vec<Violation>,
    /// Acceptance latency in microseconds, from the intended time of the send.
    pub latencies: Histogram<u64>,
    pub took: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Open(#[from] carillon_client::OpenError),
    #[error("user {user} can't sign in: {why}")]
    SignIn { user: String, why: String },
}

impl Direct {
    /// Signs everyone in, then begins to send. `token` makes a token for a user.
    pub async fn start(config: DirectConfig, token: impl Fn(&str) -> String, tasks: &Tasks) -> Result<Self, RunError> {
        let shared = Arc::new(Shared {
            checker: Mutex::default(),
            // Three digits from one microsecond to an hour: constants that are valid.
            latencies: Mutex::new(Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("valid bounds")),
            accepted: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            began: Instant::now(),
            config,
        });
        let (stop, stopped) = watch::channel(false);
        let mut clients = HashMap::new();
        for user in 0..shared.config.users {
            let user = shared.user(user);
            let token = token(&user);
            for device in 0..shared.config.devices {
                let watcher = Watcher { user: user.clone(), device: format!("device-{device}") };
                let (client, events) = shared.open(&watcher, &token, tasks)?;
                tasks.spawn("watch", watch_device(Arc::clone(&shared), watcher.clone(), events));
                clients.insert(watcher, client);
            }
        }
        for (watcher, client) in &clients {
            let signed_in = client.connected(Duration::from_secs(60)).await;
            signed_in.map_err(|why| RunError::SignIn { user: watcher.user.clone(), why })?;
        }
        let senders = tasks.child();
        for user in 0..shared.config.users {
            let flow = shared.flow(user);
            let watcher = Watcher { user: flow.sender.clone(), device: "device-0".to_owned() };
            let sender = Sender { shared: Arc::clone(&shared), client: clients[&watcher].clone(), flow };
            tasks.spawn("send", sender.run(stopped.clone()));
        }
        Ok(Self { shared, clients, stop, senders })
    }

    /// Messages accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Deliveries so far, over all devices.
    pub fn delivered(&self) -> u64 {
        self.shared.delivered.load(Ordering::Relaxed)
    }

    /// Stops sending, waits (at most so long for each) until every send has ended and every device has everything, then
    /// reads all timelines back.
    pub async fn finish(self, patience: Duration) -> Report {
        let took = self.shared.began.elapsed();
        let _ = self.stop.send(true);
        let give_up = Instant::now() + patience;
        while !(self.stop.is_closed() && self.complete()) && Instant::now() < give_up {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.senders.stop();
        let mut audited = Vec::new();
        for user in 0..self.shared.config.users {
            audited.extend(self.audit(user).await);
        }
        for client in self.clients.values() {
            client.close().await;
        }
        let (summary, mut violations) = self.shared.checker.lock().finish(&self.watching());
        violations.extend(audited);
        Report { summary, violations, latencies: self.shared.latencies.lock().clone(), took }
    }

    /// Who is to be shown which flow: every device of the recipient, and the sender's other devices.
    fn watching(&self) -> Vec<(Watcher, Flow)> {
        let mut watching = Vec::new();
        for user in 0..self.shared.config.users {
            let flow = self.shared.flow(user);
            let watchers = self.clients.keys().filter(|watcher| {
                watcher.user == flow.recipient || (watcher.user == flow.sender && watcher.device != "device-0")
            });
            watching.extend(watchers.map(|watcher| (watcher.clone(), flow.clone())));
        }
        watching
    }

    fn complete(&self) -> bool {
        let checker = self.shared.checker.lock();
        self.watching().iter().all(|(watcher, flow)| checker.complete(watcher, flow))
    }

    /// Reads the recipient's inbox from its beginning: what was accepted must stand in it once.
    async fn audit(&self, sender: usize) -> Vec<Violation> {
        let flow = self.shared.flow(sender);
        let reader = Watcher { user: flow.recipient.clone(), device: "device-0".to_owned() };
        let audit = Watcher { user: flow.recipient.clone(), device: "audit".to_owned() };
        let inbox = TimelineId::Inbox(UserId::new(&flow.recipient).expect("made by Shared::user"));
        let mut from = 1;
        loop {
            let page = match self.clients[&reader].fetch(&inbox, Direction::Forward, from, 0).await {
                Ok(page) => page,
                Err(error) => {
                    return vec![Violation::Corrupted { watcher: audit, why: format!("can't be read back: {error}") }];
                }
            };
            for entry in &page.entries {
                self.shared.checker.lock().position(&audit, entry.seq);
                let Some(envelope) = &entry.envelope else { continue };
                if envelope.sender == flow.sender {
                    self.shared.shown(&audit, envelope);
                }
                from = entry.seq + 1;
            }
            if page.complete || page.entries.is_empty() {
                break;
            }
        }
        let checker = self.shared.checker.lock();
        let (_, violations) = checker.finish(&[(audit.clone(), flow)]);
        violations.into_iter().filter(|v| matches!(v, Violation::Lost { watcher, .. } if *watcher == audit)).collect()
    }
}

impl Shared {
    fn user(&self, number: usize) -> String {
        format!("{}-{number}", self.config.run)
    }

    fn flow(&self, sender: usize) -> Flow {
        Flow { sender: self.user(sender), recipient: self.user((sender + 1) % self.config.users) }
    }

    fn open(&self, watcher: &Watcher, token: &str, tasks: &Tasks) -> Result<(Client, Events), RunError> {
        let credential = Credential::Token(token.to_owned());
        let mut config = ClientConfig::new(self.config.addresses.clone(), &watcher.user, &watcher.device, credential);
        config.max_pending = self.config.window;
        config.send_timeout = self.config.send_timeout;
        config.acknowledge = Acknowledge::Taken(Duration::from_millis(500));
        config.backoff = (Duration::from_millis(50), Duration::from_secs(1));
        Ok(Client::open(config, tasks)?)
    }

    /// A device was shown this envelope.
    fn shown(&self, watcher: &Watcher, envelope: &Envelope) {
        let payload = envelope.content.as_ref().map(Payload::from_content);
        let mut checker = self.checker.lock();
        match payload {
            Some(Ok(payload)) if payload.run == self.config.run && payload.sender == envelope.sender => {
                let flow = Flow { sender: payload.sender, recipient: payload.recipient };
                checker.delivered(watcher, &flow, payload.counter);
            }
            Some(Err(corrupt)) => checker.corrupted(watcher, corrupt.to_string()),
            _ => checker.corrupted(watcher, format!("message {} is not of this run", envelope.id)),
        }
    }
}

async fn run_stopped(stopped: &mut watch::Receiver<bool>) {
    // An error means that the run itself is gone.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn watch_device(shared: Arc<Shared>, watcher: Watcher, mut events: Events) {
    while let Some(event) = events.next().await {
        match event {
            Event::Delivered { position, envelope, .. } => {
                shared.checker.lock().position(&watcher, position.seq);
                shared.shown(&watcher, &envelope);
                shared.delivered.fetch_add(1, Ordering::Relaxed);
            }
            Event::Sent { position, .. } => shared.checker.lock().position(&watcher, position.seq),
            Event::Trimmed { .. } | Event::State(_) => {}
        }
    }
}

struct Sender {
    shared: Arc<Shared>,
    client: Client,
    flow: Flow,
}

impl Sender {
    /// Sends in order until told to stop, then waits for the answers.
    async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut answers = FuturesUnordered::new();
        let mut pace = self.shared.config.rate.map(|rate| tokio::time::interval(Duration::from_secs_f64(1.0 / rate)));
        loop {
            let intended = async {
                match &mut pace {
                    Some(pace) => pace.tick().await.into_std(),
                    None => Instant::now(),
                }
            };
            tokio::select! {
                biased;
                () = run_stopped(&mut stopped) => break,
                Some(()) = answers.next(), if !answers.is_empty() => {}
                intended = intended, if answers.len() < self.shared.config.window => {
                    let counter = self.shared.checker.lock().sending(&self.flow);
                    let payload = Payload {
                        run: self.shared.config.run.clone(),
                        sender: self.flow.sender.clone(),
                        recipient: self.flow.recipient.clone(),
                        counter,
                    };
                    let content = payload.to_content(self.shared.config.bytes);
                    match self.client.submit(Client::user(&self.flow.recipient), content).await {
                        Ok(pending) => answers.push(self.answer(counter, intended, pending)),
                        Err(error) => self.ended(counter, &error),
                    }
                }
            }
        }
        while let Some(()) = answers.next().await {}
    }

    async fn answer(&self, counter: u64, intended: Instant, pending: carillon_client::Pending) {
        match pending.await {
            Ok(_) => {
                let micros = intended.elapsed().as_micros() as u64;
                self.shared.latencies.lock().saturating_record(micros);
                self.shared.accepted.fetch_add(1, Ordering::Relaxed);
                self.shared.checker.lock().ended(&self.flow, counter, Outcome::Accepted);
            }
            Err(error) => self.ended(counter, &error),
        }
    }

    fn ended(&self, counter: u64, error: &SendError) {
        let outcome = match error {
            // It may have been carried out.
            SendError::Refused(refusal) if refusal.code == Code::Unavailable => Outcome::Unknown,
            SendError::Refused(_) | SendError::InvalidId(_) => Outcome::Refused,
            SendError::TimedOut { .. } | SendError::Ended(_) => Outcome::Unknown,
        };
        self.shared.checker.lock().ended(&self.flow, counter, outcome);
    }
}
