//! Acts of users, with measurements.

mod accounts;
mod device;
pub mod direct;
mod ending;
mod gate;
pub mod groups;
pub mod herd;
pub mod idle;
mod light;
pub(crate) mod marks;
pub(crate) mod mix;
pub mod offline;
pub mod pacer;
pub(crate) mod presence;
pub(crate) mod read_back;
mod sender;
pub(crate) mod share;
pub mod sign_in;
mod witness;

use std::{sync::Arc, time::Duration};

use carillon_client::{Acknowledge, Address, Client, ClientConfig, ConnectOptions, Credential, Events};
use carillon_proto::{Position, TimelineId, pb::client::Start, tasks::Tasks};

use self::device::Device;
pub(crate) use self::witness::Witness;
pub use self::{ending::Ending, gate::Gate};
use crate::{
    checker::{Checker, FlowCheck},
    credentials::Credentials,
    measure::{
        gateways::Gateways,
        generator::Generator,
        servers::Servers,
        window::{Reading, Window},
    },
    payload::Filling,
    report::{Integrity, figure::Figure, recorder::Recorder, times::Times},
};

/// The service under load.
#[derive(Clone)]
pub struct Target {
    /// Gateways over which the connections are spread.
    pub addresses: Vec<Address>,
    pub connect: ConnectOptions,
}

impl Target {
    /// For a device that signs in with this credential.
    pub(crate) fn config(&self, (user, device): (&str, &str), credential: Credential) -> ClientConfig {
        let mut config = ClientConfig::new(self.addresses.clone(), user, device, credential);
        config.connect = self.connect.clone();
        config
    }

    /// A client that is signed in, and is delivered nothing but what is new: it fetches.
    pub(crate) async fn open_reader(
        &self,
        (user, device): (&str, &str),
        token: &str,
        tasks: &Tasks,
    ) -> Result<Client, RunError> {
        let credential = Credential::Token(token.to_owned());
        let config = ClientConfig { start: Start::Head, ..self.config((user, device), credential) };
        let (client, _) = Client::open(config, tasks)?;
        signed_in(&client, user).await?;
        Ok(client)
    }
}

/// The environment of every scenario.
#[derive(Clone)]
pub struct Environment {
    /// Names the run; user ids begin with it, so that runs do not mix.
    pub run: String,
    pub target: Target,
    pub credentials: Credentials,
    pub recorder: Arc<Recorder>,
    pub servers: Arc<Servers>,
    /// Gateways that are asked how many sends they refused; empty if no address was given.
    pub gateways: Arc<Gateways>,
    /// Threads of this process that make the load.
    pub workers: usize,
    pub tasks: Tasks,
    /// Where the run waits, after its sign-ins, for others that are to begin at the same time.
    pub gate: Gate,
    /// By which it is told to end before its time.
    pub ending: Ending,
}

/// The result of a scenario.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Found {
    pub integrity: Integrity,
    pub times: Vec<Times>,
    pub figures: Vec<Figure>,
    /// The measured part.
    pub window: Window,
    /// Why the figures mean nothing; `None` if they are good.
    pub invalid: Option<String>,
}

impl Found {
    /// Nothing was measured.
    pub(crate) async fn nothing(environment: &Environment, invalid: Option<String>) -> Self {
        let now = Reading::now(&environment.recorder, &environment.servers).await;
        let window = now.until(&now);
        Self { integrity: Integrity::default(), times: Vec::new(), figures: Vec::new(), window, invalid }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Open(#[from] carillon_client::OpenError),
    #[error("user {user} can't sign in: {why}")]
    SignIn { user: String, why: String },
    #[error("the account of user {user} can't be made: {why}")]
    Account { user: String, why: String },
    #[error("the contacts of user {user} can't be made: {why}")]
    Contacts { user: String, why: String },
    #[error("group {group} can't be made: {why}")]
    Group { group: String, why: String },
    #[error(
        "{wanted} connections need {wanted} open files and some {SPARE_FILES} more, and this process may have {limit}: \
         raise ulimit -n or spread the connections over several processes"
    )]
    OpenFiles { wanted: u64, limit: u64 },
    #[error("command {command:?} {why}")]
    Trigger { command: String, why: String },
}

impl RunError {
    /// True if the run failed, and not the operator's request.
    pub fn makes_the_run_invalid(&self) -> bool {
        matches!(self, Self::SignIn { .. } | Self::Account { .. } | Self::Contacts { .. } | Self::Group { .. })
    }
}

/// The name of the only device of users who have one.
pub(crate) const DEVICE: &str = "device-0";

/// Why a run in which no message was accepted is invalid: nothing could be lost.
pub(crate) const NOTHING_ACCEPTED: &str = "nothing was accepted";

/// Files that the generator needs for itself.
const SPARE_FILES: u64 = 64;

/// State that the clients of a run with messages share.
pub(crate) struct Load {
    pub(crate) run: String,
    pub(crate) target: Target,
    pub(crate) checker: Checker,
    pub(crate) recorder: Arc<Recorder>,
    /// Size of a message's text.
    pub(crate) bytes: usize,
    pub(crate) filling: Filling,
    /// A send without an answer for this long is counted as unknown.
    pub(crate) send_timeout: Duration,
    /// Sends of one client without an answer.
    pub(crate) window: usize,
}

/// The name of a user of this run.
fn user_of(run: &str, kind: &str, number: usize) -> String {
    format!("{run}-{kind}{number}")
}

impl Load {
    pub(crate) fn user(&self, kind: &str, number: usize) -> String {
        user_of(&self.run, kind, number)
    }

    pub(crate) fn open(
        &self,
        (user, device): (&str, &str),
        credentials: &Credentials,
        positions: Vec<(TimelineId, Position)>,
        tasks: &Tasks,
    ) -> Result<(Client, Events), RunError> {
        let mut config = self.target.config((user, device), credentials.of(user));
        config.max_pending = self.window;
        config.send_timeout = self.send_timeout;
        config.acknowledge = Acknowledge::Taken(Duration::from_millis(500));
        config.backoff = (Duration::from_millis(50), Duration::from_secs(1));
        config.positions = positions;
        let (client, events) = Client::open(config, tasks)?;
        if credentials.renewed_after().is_some() {
            tasks.spawn("renew tokens", credentials.clone().keep_renewed(user.to_owned(), client.clone()));
        }
        Ok((client, events))
    }
}

impl Environment {
    pub(crate) fn load(&self, bytes: usize, window: usize) -> Load {
        Load {
            run: self.run.clone(),
            target: self.target.clone(),
            checker: Checker::default(),
            recorder: Arc::clone(&self.recorder),
            bytes,
            filling: Filling::Repeated,
            send_timeout: Duration::from_secs(30),
            window,
        }
    }

    /// Lets the time of the warm-up pass. Latencies count from then on.
    pub(crate) async fn warm_up(&self, time: Duration) {
        self.recorder.set_phase("warming up");
        self.recorder.phase_lasts(time);
        self.ending.within(time).await;
        self.recorder.set_phase("measuring");
        self.recorder.measure_from_now();
    }

    /// Why the generator was the limit in this window; `None` if it was not.
    pub(crate) fn generator_limit(&self, window: &Window, as_fast_as_possible: bool) -> Option<String> {
        let generator = Generator {
            workers: self.workers,
            cores: crate::measure::proc::cores(),
            scheduled: window.counts.scheduled,
            late: window.counts.late,
            as_fast_as_possible,
        };
        generator.was_the_limit(window).map(|why| format!("the generator was the limit: {why}"))
    }
}

/// Signs the senders in, each of which watches its own inbox. `flows_from` gives the flows that a sender writes to.
pub(crate) async fn open_senders(
    load: &Arc<Load>,
    environment: &Environment,
    senders: usize,
    flows_from: impl Fn(usize) -> Vec<Arc<FlowCheck>>,
) -> Result<Vec<Client>, RunError> {
    environment.credentials.prepare((0..senders).map(|number| load.user("sender", number))).await?;
    let mut opened = Vec::new();
    for number in 0..senders {
        let user = load.user("sender", number);
        let watcher = load.checker.watcher(&user, DEVICE);
        let (client, events) = load.open((&user, DEVICE), &environment.credentials, Vec::new(), &environment.tasks)?;
        let device = Device::new(load, &watcher, flows_from(number));
        environment.tasks.spawn("watch", device.follow(events));
        opened.push(client);
    }
    for (number, client) in opened.iter().enumerate() {
        signed_in(client, &load.user("sender", number)).await?;
    }
    Ok(opened)
}

pub(crate) async fn signed_in(client: &Client, user: &str) -> Result<(), RunError> {
    let result = client.connected(Duration::from_secs(60)).await;
    result.map(|_| ()).map_err(|why| RunError::SignIn { user: user.to_owned(), why })
}

/// Fails if more connections are wanted than this process may open.
pub(crate) fn check_open_files(wanted: usize) -> Result<(), RunError> {
    let (wanted, limit) = (wanted as u64, crate::measure::proc::open_files_limit().unwrap_or(u64::MAX));
    if wanted.saturating_add(SPARE_FILES) > limit { Err(RunError::OpenFiles { wanted, limit }) } else { Ok(()) }
}

/// Checks the condition every 20 ms. False if it did not come true in time.
pub(crate) async fn eventually(patience: Duration, mut so: impl FnMut() -> bool) -> bool {
    let give_up = tokio::time::Instant::now() + patience;
    while !so() {
        if tokio::time::Instant::now() >= give_up {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}
