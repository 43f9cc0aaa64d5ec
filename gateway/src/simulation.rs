//! For the simulation only: a gateway without sockets. The simulation polls its tasks: the one that opens and ends links, each link,
//! the one that reads for feeds, the one that sends clients away while no router is reached, and each connection.

mod client;

use std::{collections::BTreeMap, net::Ipv4Addr, pin::pin, sync::Arc, task::Poll, time::Duration};

use carillon_proto::{
    Turns, Wakes, clock,
    pb::{
        client::{ClientFrame, ServerFrame},
        link::{FromRouter, ToRouter},
        store::session::Protocol,
    },
    peer::{PeerError, PeerSecurity, Tier},
    stream::{Incoming, Serving},
    tasks::Tasks,
};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;

use self::client::{ClientEnd, Gone};
use crate::{
    InvalidTokenKey, JwtAlgorithm, JwtConfig, JwtKeyConfig, Secret,
    config::{GatewayConfig, TokenAccounts},
    connection::{self, Arrival, Shared},
    connections::Connections,
    conversation::Rules,
    cut_off,
    feeding::Feeding,
    links::{Hearing, LinksConfig, RouterLinks},
    presences::Presences,
    status::Status,
};

const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests to routers without an answer.
const MAX_PENDING: usize = 4096;
const PRESENCE_INTERVAL: Duration = Duration::from_secs(1);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that does not read is behind after some messages.
const MAX_OUTGOING_BYTES: usize = 1024;

/// An effect of the gateway on the world around it.
pub enum Output {
    /// The gateway opens a link, of this number, to this router.
    Opens {
        link: u64,
        address: String,
    },
    Link {
        link: u64,
        said: ToRouter,
    },
    /// The gateway ends the link.
    Leaves {
        link: u64,
    },
    Client {
        connection: u64,
        frame: ServerFrame,
        /// When it was queued, in milliseconds since 1970.
        told_ms: u64,
    },
    /// The gateway ends the connection.
    Close {
        connection: u64,
    },
}

/// The part of a gateway that runs next. Parts run at their own pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Task(u64),
    /// The network takes what waits for a link.
    Link(u64),
}

pub struct Settings {
    /// The secret of the tokens that the gateway takes, HS256; at least 32 bytes.
    pub secret: String,
    pub heartbeat_ms: u32,
    pub max_pending_sends: u32,
    /// How long a request to a router is tried.
    pub deadline: Duration,
    pub gap_grace: Duration,
    /// The addresses of all routers that there may be. The gateway knows them from the start.
    pub routers: Vec<String>,
}

/// A gateway can't be made.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    TokenKey(#[from] InvalidTokenKey),
    #[error(transparent)]
    Peer(#[from] PeerError),
}

pub struct Gateway {
    shared: Arc<Shared>,
    lease: watch::Sender<Option<u64>>,
    tasks: Tasks,
    turns: Turns,
    /// Links that were opened and have no number yet.
    opened: Arc<Mutex<Vec<Opened>>>,
    links: BTreeMap<u64, Link>,
    last_link: u64,
    clients: BTreeMap<u64, ClientEnd>,
    last_client: u64,
    outputs: Vec<Output>,
    /// The routers, by which the gateway's links are opened.
    _serving: Vec<Serving>,
}

struct Opened {
    address: String,
    link: Link,
}

/// The router's end of a link.
struct Link {
    said: Incoming<ToRouter>,
    says: mpsc::UnboundedSender<FromRouter>,
    wakes: Wakes,
}

impl Gateway {
    pub fn new(settings: Settings) -> Result<Self, OpenError> {
        let security = PeerSecurity::from_secret(Tier::Gateway, "secret-of-the-simulation", None)?.within_process();
        let opened: Arc<Mutex<Vec<Opened>>> = Arc::default();
        let serving = settings.routers.iter().filter_map(|address| {
            let (address, opened) = (address.clone(), Arc::clone(&opened));
            security.serve_near([address.clone()], &[Tier::Gateway], move |_, said| {
                let (says, heard) = mpsc::unbounded_channel();
                let link = Link { said, says, wakes: Wakes::default() };
                opened.lock().push(Opened { address: address.clone(), link });
                Ok(UnboundedReceiverStream::new(heard).map(Ok).boxed())
            })
        });
        let serving = serving.collect();
        let rules = Arc::new(rules(&settings)?);
        let (connections, lease) = (Arc::new(Connections::new()), watch::Sender::new(None));
        let feeding = Arc::new(Feeding::new(settings.gap_grace, Arc::clone(&connections)));
        let begun = clock::now().into_std();
        let presences = Arc::new(Presences::new(PRESENCE_INTERVAL, Arc::clone(&connections), begun));
        let hearing = Hearing {
            connections: Arc::clone(&connections),
            feeding: Arc::clone(&feeding),
            presences: Arc::clone(&presences),
            census: Arc::default(),
        };
        let config = LinksConfig {
            seeds: settings.routers,
            max_pending: MAX_PENDING,
            deadline: settings.deadline,
            level: rules.level.clone(),
            domains: rules.domains.clone(),
        };
        let (links, task, _) = RouterLinks::new(config, security, lease.clone(), hearing, Arc::new(Status::new()));
        let (tasks, turns) = Tasks::by_turns();
        tasks.spawn("cut-off", cut_off::watch(task.cut_off(), Arc::clone(&connections)));
        tasks.spawn_critical("router-links", task.run(tasks.clone()));
        tasks.spawn_critical("presences", presences.run());
        tasks.spawn_critical("feeds", Arc::clone(&feeding).read_missing(links.clone(), Arc::clone(&rules)));
        let shared = Shared {
            rules,
            links,
            connections,
            feeding,
            write_timeout: WRITE_TIMEOUT,
            max_outgoing_bytes: MAX_OUTGOING_BYTES,
            media: None,
        };
        Ok(Self {
            shared: Arc::new(shared),
            lease,
            tasks,
            turns,
            opened,
            links: BTreeMap::new(),
            last_link: 0,
            clients: BTreeMap::new(),
            last_client: 0,
            outputs: Vec::new(),
            _serving: serving,
        })
    }

    pub fn take_outputs(&mut self) -> Vec<Output> {
        for Opened { address, link } in std::mem::take(&mut *self.opened.lock()) {
            self.last_link += 1;
            self.links.insert(self.last_link, link);
            self.outputs.push(Output::Opens { link: self.last_link, address });
        }
        let outputs = &mut self.outputs;
        self.links.retain(|number, link| {
            let is_over = link.says.is_closed();
            outputs.extend(is_over.then_some(Output::Leaves { link: *number }));
            !is_over
        });
        self.clients.retain(|number, client| {
            let heard = client.take_heard().into_iter();
            outputs.extend(heard.map(|(told_ms, frame)| Output::Client { connection: *number, frame, told_ms }));
            let is_over = client.is_over();
            outputs.extend(is_over.then_some(Output::Close { connection: *number }));
            !is_over
        });
        std::mem::take(outputs)
    }

    /// The parts that have something to do.
    pub fn runnable(&mut self) -> impl Iterator<Item = Part> + use<'_> {
        let links = self.links.iter().filter(|(_, link)| link.wakes.called());
        self.turns.due().map(Part::Task).chain(links.map(|(number, _)| Part::Link(*number)))
    }

    pub fn run(&mut self, part: Part) {
        match part {
            Part::Task(number) => self.turns.poll(number),
            Part::Link(number) => self.send(number),
        }
    }

    /// A client has come.
    pub fn connected(&mut self) -> u64 {
        self.last_client += 1;
        let (client, transport) = client::connection();
        self.clients.insert(self.last_client, client);
        let deadline = clock::now().into_std() + SIGN_IN_TIMEOUT;
        let arrival = Arrival { protocol: Protocol::Tcp, address: Ipv4Addr::LOCALHOST.into(), deadline };
        self.tasks.spawn("connection", connection::serve(Arc::clone(&self.shared), transport, arrival));
        self.last_client
    }

    pub fn client_says(&mut self, connection: u64, frame: ClientFrame) {
        if let Some(client) = self.clients.get(&connection) {
            client.says(frame);
        }
    }

    /// The client does not read, or reads again.
    pub fn client_blocks(&mut self, connection: u64, is_blocked: bool) {
        if let Some(client) = self.clients.get(&connection) {
            client.blocks(is_blocked);
        }
    }

    /// The client has gone, with or without a word.
    pub fn disconnected(&mut self, connection: u64) {
        if let Some(client) = self.clients.get(&connection) {
            client.goes(if connection.is_multiple_of(2) { Gone::Closed } else { Gone::Reset });
        }
    }

    /// Requests without an answer.
    pub fn pending(&self) -> usize {
        self.shared.links.pending()
    }

    pub fn has_lease(&mut self, lease: Option<u64>) {
        self.lease.send_if_modified(|before| std::mem::replace(before, lease) != lease);
    }

    pub fn router_says(&mut self, link: u64, said: FromRouter) {
        if let Some(Link { says, .. }) = self.links.get(&link) {
            // A link that has ended hears nothing more.
            let _ = says.send(said);
        }
    }

    /// The link is over, or the router is not there.
    pub fn router_gone(&mut self, link: u64) {
        self.links.remove(&link);
    }

    /// Sends all that waits for this link.
    fn send(&mut self, number: u64) {
        let Some(Link { said, wakes, .. }) = self.links.get_mut(&number) else { return };
        while let Poll::Ready(next) = wakes.poll(|context| pin!(said.message()).poll(context)) {
            // The gateway drops its half of the link with the other one.
            let Some(said) = next.expect("no message of a gateway is an error") else { return };
            self.outputs.push(Output::Link { link: number, said });
        }
    }
}

fn rules(settings: &Settings) -> Result<Rules, InvalidTokenKey> {
    let secret = Some(Secret(settings.secret.clone()));
    let key = JwtKeyConfig { secret, ..JwtKeyConfig::new(JwtAlgorithm::HS256) };
    let config = GatewayConfig {
        heartbeat_ms: settings.heartbeat_ms,
        silence_ms: u64::from(settings.heartbeat_ms) * 2,
        sign_in_timeout_ms: SIGN_IN_TIMEOUT.as_millis() as u64,
        max_content_bytes: 1_000,
        sends_per_second: 10_000,
        send_burst: 10_000,
        max_pending_sends: settings.max_pending_sends,
        fetches_per_second: 20,
        fetch_burst: 100,
        max_page: 8,
        max_page_bytes: 65_536,
        gap_grace_ms: settings.gap_grace.as_millis() as u64,
        ack_interval_ms: 100,
        group_ack_interval_ms: 500,
        password_sign_in: false,
        jwt: JwtConfig { keys: vec![key], leeway_s: 0, accounts: TokenAccounts::NewNames, ..JwtConfig::default() },
        ..GatewayConfig::default()
    };
    Rules::new(&config, [1; 32])
}
