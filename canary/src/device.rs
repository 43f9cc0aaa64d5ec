//! A client of one of the accounts, which stays signed in, and is opened again if it has ended.

use std::{fs, sync::Arc, time::Duration};

use carillon_client::{Acknowledge, Client, ClientConfig, ConnectOptions, Credential, Event, Events, State, Trust};
use carillon_proto::{
    DeviceId, Position, TimelineId,
    pb::client::{Envelope, Start, content},
    tasks::Tasks,
};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::Instant};

use crate::{accounts::Accounts, config::CanaryConfig, metrics};

/// Messages that wait for the end of the pause between two rounds. When it is full, the client reads no more.
const ARRIVED: usize = 256;
/// How often the acknowledgement of what has arrived is sent.
const ACKNOWLEDGE: Duration = Duration::from_millis(200);

pub(crate) struct Device {
    pub(crate) user: String,
    settings: ClientConfig,
    /// `None` before the first sign-in.
    open: Option<Open>,
}

struct Open {
    client: Client,
    arrived: mpsc::Receiver<String>,
    seen: Arc<Seen>,
    /// The device was signed in before: the next sign-in is a reconnection.
    was_in: bool,
    tasks: Tasks,
}

/// How far the device has its inbox, for its next client.
#[derive(Default)]
struct Seen(Mutex<Option<(TimelineId, Position)>>);

impl Device {
    pub(crate) fn new(user: &str, number: usize, device: &str, config: &CanaryConfig) -> Result<Self, String> {
        let addresses = config.addresses()?[number].clone();
        let mut settings = ClientConfig::new(addresses, user, device, Credential::Password(String::new()));
        settings.start = Start::Head;
        settings.acknowledge = Acknowledge::Taken(ACKNOWLEDGE);
        settings.send_timeout = config.deadline();
        settings.sign_in_timeout = config.deadline();
        // A gateway that has gone without a word is given up within a round.
        settings.answer_patience = config.deadline() / 2;
        settings.backoff = (Duration::from_millis(100), Duration::from_secs(2));
        settings.program = concat!("carillon-canary/", env!("CARGO_PKG_VERSION")).to_owned();
        if !config.ca_file.as_os_str().is_empty() {
            let pem = fs::read_to_string(&config.ca_file);
            let pem =
                pem.map_err(|error| format!("canary.ca_file {} can't be read: {error}", config.ca_file.display()))?;
            settings.connect = ConnectOptions { trust: Trust::ca(pem), ..ConnectOptions::default() };
        }
        Ok(Self { user: user.to_owned(), settings, open: None })
    }

    /// Waits until it is signed in. A client that has ended is opened again; if it never was signed in, its account gets its
    /// password anew.
    pub(crate) async fn signed_in(
        &mut self,
        accounts: &Accounts,
        deadline: Instant,
        tasks: &Tasks,
    ) -> Result<(), String> {
        if self.open.as_ref().is_some_and(|open| matches!(*open.client.state().borrow(), State::Ended { .. })) {
            let was_in = self.open.as_ref().is_some_and(|open| open.was_in);
            self.close().await;
            if !was_in {
                accounts.make(std::slice::from_ref(&self.user), true).await.map_err(|error| error.to_string())?;
            }
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let password = accounts.password().map_err(|error| error.to_string())?;
                self.settings.credential = Credential::Password(password);
                self.open.insert(open(&self.settings, tasks)?)
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let signed_in = open.client.connected(left).await;
        open.was_in |= signed_in.is_ok();
        signed_in.map(drop).map_err(|why| format!("{} is not signed in: {why}", self.user))
    }

    pub(crate) fn client(&self) -> Option<&Client> {
        self.open.as_ref().map(|open| &open.client)
    }

    /// The next text that was delivered. Cancel-safe; never returns if the client has ended.
    pub(crate) async fn arrived(&mut self) -> String {
        if let Some(open) = &mut self.open
            && let Some(text) = open.arrived.recv().await
        {
            return text;
        }
        std::future::pending().await
    }

    /// The last position of the inbox that the device has.
    pub(crate) fn position(&self) -> u64 {
        let seen = self.open.as_ref().and_then(|open| open.seen.0.lock().as_ref().map(|(_, position)| position.seq));
        seen.unwrap_or_else(|| self.settings.positions.first().map_or(0, |(_, position)| position.seq))
    }

    /// Signs out, and remembers how far the device is.
    pub(crate) async fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        open.client.close().await;
        open.tasks.stop();
        if let Some(place) = open.seen.0.lock().take() {
            self.settings.positions = vec![place];
        }
    }

    /// The account is another one now.
    pub(crate) async fn forget(&mut self) {
        self.close().await;
        self.settings.positions.clear();
    }
}

fn open(settings: &ClientConfig, tasks: &Tasks) -> Result<Open, String> {
    let tasks = tasks.child();
    let (client, events) = Client::open(settings.clone(), &tasks).map_err(|error| error.to_string())?;
    let (tell, arrived) = mpsc::channel(ARRIVED);
    let seen = Arc::<Seen>::default();
    tasks.spawn("canary events", read(events, tell, Arc::clone(&seen), settings.user.clone()));
    Ok(Open { client, arrived, seen, was_in: false, tasks })
}

/// Runs until the client has ended.
async fn read(mut events: Events, tell: mpsc::Sender<String>, seen: Arc<Seen>, user: String) {
    let mut connections = 0u64;
    while let Some(event) = events.next().await {
        match event {
            Event::Delivered { timeline, position, envelope } => {
                *seen.0.lock() = Some((timeline, position));
                // What is no text is not the canary's.
                if let Some(text) = text_of(envelope)
                    && tell.send(text).await.is_err()
                {
                    return;
                }
            }
            Event::Sent { timeline, position, .. } => *seen.0.lock() = Some((timeline, position)),
            Event::Trimmed { .. }
            | Event::Conversations(_)
            | Event::Marks(_)
            | Event::Contact(_)
            | Event::ContactsMissed
            | Event::Presence(_)
            | Event::Privacy(_)
            | Event::PrivacyMissed
            | Event::ChatState(_)
            | Event::Scheduled(_) => {}
            Event::State(State::Connected { address, .. }) => {
                connections += 1;
                tracing::info!(user, address, "the canary is signed in");
            }
            Event::State(State::Disconnected { why }) if connections > 0 => {
                metrics::reconnected();
                tracing::info!(user, why, "the canary has lost its connection");
            }
            Event::State(_) => {}
        }
    }
}

fn text_of(envelope: Envelope) -> Option<String> {
    match envelope.content?.body? {
        content::Body::Text(text) => Some(text.body),
        _ => None,
    }
}

/// The name of the device: the host's, so that two canaries do not put each other out.
pub(crate) fn name_of_device(config: &CanaryConfig) -> String {
    if !config.device.is_empty() {
        return config.device.clone();
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if DeviceId::new(&host).is_ok() { host } else { "canary".to_owned() }
}
