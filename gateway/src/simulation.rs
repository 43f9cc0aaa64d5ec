//! For the simulation only: a gateway without tasks, sockets and clock. What its tasks do between the parts that decide
//! (`Session`, `Feeds`, `Mailbox`, `Dispatch`) is done here in the same order: see `Connection`, `Feeding` and `LinksTask`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::pb::{
    client::{ClientFrame, ServerFrame},
    link::{FromRouter, ToRouter, router_request::Op},
    store::session::Protocol,
};

use crate::{
    InvalidTokenKey, JwtAlgorithm, JwtConfig, JwtKeyConfig, Secret,
    config::TokenAccounts,
    conversation::{self, Now, Rules, Session, Tag, TokenKeys},
    dialect::native::{self, Outgoing},
    feeding::read_op_of,
    feeds::{Entry, FeedAsk, FeedId, Feeds, Follower, Follows, Hand, Left, NOBODY, ReadPage},
    links::{
        ToLink,
        dispatch::{self, Dispatch, Eras, Load, Submit},
        messages,
    },
    mailbox::Mailbox,
    throttle::Throttle,
};

/// What leaves the gateway.
pub enum Output {
    Router { address: Arc<str>, said: ToRouter },
    Client { connection: u64, frame: ServerFrame },
    Close { connection: u64 },
}

/// The part of a gateway that is to run next. Parts run at their own pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Links,
    Connection(u64),
}

pub struct Settings {
    /// Of the tokens that it takes, HS256; at least 32 bytes.
    pub secret: String,
    pub heartbeat_ms: u32,
    pub max_pending_sends: u32,
    /// How long a request to a router is tried.
    pub deadline: Duration,
    pub gap_grace: Duration,
}

pub struct Gateway {
    rules: Arc<Rules>,
    load: Arc<Load>,
    dispatch: Dispatch<Asker>,
    events: VecDeque<dispatch::Input<Asker>>,
    connections: BTreeMap<u64, Connection>,
    /// The timelines that each connection follows, by its number.
    follows: BTreeMap<u64, Follows>,
    feeds: Feeds,
    /// Answers for the task that reads for feeds.
    reading: Arc<Mailbox>,
    with_mail: BTreeSet<u64>,
    last_number: u64,
    outputs: Vec<Output>,
}

/// The connection that asks, its mailbox (which may outlive it), and the purpose.
type Asker = (u64, Arc<Mailbox>, Tag);

struct Connection {
    session: Session,
    mailbox: Arc<Mailbox>,
}

/// The mailboxes of connections, and which have mail.
struct Mailboxes<'a> {
    connections: &'a BTreeMap<u64, Connection>,
    with_mail: &'a mut BTreeSet<u64>,
}

impl Mailboxes<'_> {
    fn of(&mut self, to: Follower) -> Option<&Mailbox> {
        let open = self.connections.get(&to.0)?;
        self.with_mail.insert(to.0);
        Some(&open.mailbox)
    }
}

impl Hand for Mailboxes<'_> {
    fn entry(&mut self, to: Follower, entry: &Arc<Entry>) -> bool {
        self.of(to).is_some_and(|mailbox| mailbox.entry(entry))
    }

    fn left(&mut self, to: Follower, feed: FeedId, why: Left) {
        if let Some(mailbox) = self.of(to) {
            mailbox.left(feed, why);
        }
    }
}

impl Gateway {
    pub fn new(settings: Settings) -> Result<Self, InvalidTokenKey> {
        let key = JwtKeyConfig {
            algorithm: JwtAlgorithm::HS256,
            secret: Some(Secret(settings.secret)),
            secret_file: None,
            public_key_file: None,
            kid: None,
            issuer: None,
            realm: None,
        };
        let rules = Rules {
            heartbeat_ms: settings.heartbeat_ms,
            silence: Duration::from_millis(u64::from(settings.heartbeat_ms) * 2),
            sign_in_timeout: Duration::from_secs(10),
            max_frame_bytes: 65_536,
            max_content_bytes: 1_000,
            sends_per_second: 10_000,
            send_burst: 10_000,
            max_pending_sends: settings.max_pending_sends,
            fetches_per_second: 20,
            fetch_burst: 100,
            max_page: 8,
            max_page_bytes: 65_536,
            gap_grace: settings.gap_grace,
            ack_interval: Duration::from_millis(100),
            password_sign_in: false,
            tokens: arc_swap::ArcSwap::from_pointee(TokenKeys::load(&JwtConfig {
                keys: vec![key],
                leeway_s: 0,
                ..JwtConfig::default()
            })?),
            token_accounts: TokenAccounts::NewNames,
            decoy_key: [1; 32],
            throttle: Throttle::new(crate::config::GatewayConfig::default().tries()),
            users: crate::config::GatewayConfig::default().users(),
        };
        let load = Arc::new(Load::new(4096));
        Ok(Self {
            rules: Arc::new(rules),
            load: Arc::clone(&load),
            dispatch: Dispatch::new(0, load, Eras::default(), settings.deadline),
            events: VecDeque::new(),
            connections: BTreeMap::new(),
            follows: BTreeMap::new(),
            feeds: Feeds::new(settings.gap_grace),
            reading: Arc::default(),
            with_mail: BTreeSet::new(),
            last_number: 0,
            outputs: Vec::new(),
        })
    }

    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// The parts that have something to do.
    pub fn runnable(&self) -> impl Iterator<Item = Part> {
        let links = (!self.events.is_empty()).then_some(Part::Links);
        links.into_iter().chain(self.with_mail.iter().map(|connection| Part::Connection(*connection)))
    }

    pub fn run(&mut self, part: Part, now: Instant, unix_ms: u64) {
        match part {
            Part::Links => self.run_links(now),
            Part::Connection(NOBODY) => self.run_reads(now),
            Part::Connection(connection) => self.run_mail(connection, Now { instant: now, unix_ms }),
        }
    }

    /// A client has come.
    pub fn connected(&mut self, now: Instant, unix_ms: u64) -> u64 {
        self.last_number += 1;
        let number = self.last_number;
        let now = Now { instant: now, unix_ms };
        let session = Session::new(Arc::clone(&self.rules), number, Protocol::Tcp, Ipv4Addr::LOCALHOST.into(), now);
        self.connections.insert(number, Connection { session, mailbox: Arc::default() });
        self.follows.insert(number, Follows::new(Follower(number)));
        number
    }

    pub fn client_says(&mut self, connection: u64, frame: ClientFrame, now: Instant, unix_ms: u64) {
        self.input(
            connection,
            conversation::Input::Ask(native::ClientFrame::from(frame).into()),
            Now { instant: now, unix_ms },
        );
    }

    /// What waits to be written is more than its bound, or no more.
    pub fn backlog(&mut self, connection: u64, full: bool, now: Instant, unix_ms: u64) {
        self.input(connection, conversation::Input::Backlog { full }, Now { instant: now, unix_ms });
    }

    /// The connection is over, with or without a word.
    pub fn disconnected(&mut self, connection: u64) {
        self.with_mail.remove(&connection);
        let Some(mut gone) = self.connections.remove(&connection) else { return };
        for op in gone.session.leave() {
            self.submit(connection, None, op);
        }
        if let Some(mut follows) = self.follows.remove(&connection) {
            follows.leave(&self.feeds);
        }
    }

    /// When `wake` of a connection is due; 0 stands for the feeds.
    pub fn wake_at(&self, connection: u64) -> Option<Instant> {
        if connection == NOBODY {
            return self.feeds.wake_at();
        }
        self.connections.get(&connection)?.session.wake_at()
    }

    pub fn wake(&mut self, connection: u64, now: Instant, unix_ms: u64) {
        if connection == NOBODY {
            self.read_due(now);
        } else if self.wake_at(connection).is_some_and(|at| at <= now) {
            self.input(connection, conversation::Input::Wake, Now { instant: now, unix_ms });
        }
    }

    /// Requests without an answer.
    pub fn pending(&self) -> usize {
        self.load.pending()
    }

    /// The routers of the ring, and which of all links are up.
    pub fn routers(&self) -> impl Iterator<Item = &str> {
        self.dispatch.ring().routers().iter().map(|router| router.address.as_str())
    }

    pub fn is_up(&self, address: &str) -> bool {
        self.dispatch.is_up(address)
    }

    pub fn router_up(&mut self, address: &str) {
        self.events.push_back(dispatch::Input::Up(address.into()));
    }

    pub fn router_down(&mut self, address: &str) {
        self.events.push_back(dispatch::Input::Down(address.into()));
    }

    pub fn has_lease(&mut self, lease: Option<u64>) {
        self.events.push_back(dispatch::Input::Lease(lease));
    }

    /// Every 50 ms.
    pub fn tick(&mut self) {
        self.events.push_back(dispatch::Input::Tick);
    }

    pub fn router_says(&mut self, address: &str, said: FromRouter, now: Instant) {
        let FromRouter { registry, replies, pushes, evictions, behind, .. } = said;
        for push in pushes {
            let mut hand = Mailboxes { connections: &self.connections, with_mail: &mut self.with_mail };
            self.feeds.pushed(push, now, &mut hand);
        }
        for behind in &behind {
            self.feeds.behind(behind, now);
        }
        for evict in evictions {
            if let Some(open) = self.connections.get(&evict.connection) {
                open.mailbox.over(evict.why());
                self.with_mail.insert(evict.connection);
            }
        }
        if !replies.is_empty() {
            self.events.push_back(dispatch::Input::Replies(address.into(), replies));
        }
        self.events.extend(registry.map(|view| dispatch::Input::Registry(Arc::new(view))));
    }

    fn run_links(&mut self, now: Instant) {
        let mut effects = Vec::new();
        for event in std::mem::take(&mut self.events) {
            self.dispatch.handle(now, event, &mut effects);
            for effect in effects.drain(..) {
                match effect {
                    dispatch::Effect::Transmit { to, request } => self.say(to, ToLink::Request(request)),
                    dispatch::Effect::Tell { to, word } => self.say(to, ToLink::Word(word)),
                    dispatch::Effect::Answer { client: (connection, mailbox, tag), answered } => {
                        mailbox.answer(tag, answered);
                        if connection == NOBODY || self.connections.contains_key(&connection) {
                            self.with_mail.insert(connection);
                        }
                    }
                    dispatch::Effect::Announced { connection, heads } => {
                        if let Some(open) = self.connections.get(&connection) {
                            open.mailbox.announced(heads);
                            self.with_mail.insert(connection);
                        }
                    }
                    dispatch::Effect::Over { connection, why } => {
                        if let Some(open) = self.connections.get(&connection) {
                            open.mailbox.over(why);
                            self.with_mail.insert(connection);
                        }
                    }
                }
            }
        }
    }

    fn say(&mut self, address: Arc<str>, item: ToLink) {
        let said = messages(vec![item]).into_iter().map(|said| Output::Router { address: Arc::clone(&address), said });
        self.outputs.extend(said);
    }

    fn run_mail(&mut self, connection: u64, now: Now) {
        self.with_mail.remove(&connection);
        let Some(open) = self.connections.get(&connection) else { return };
        for input in open.mailbox.take().into_inputs() {
            self.input(connection, input, now);
        }
    }

    /// What the task that reads for feeds does.
    fn run_reads(&mut self, now: Instant) {
        self.with_mail.remove(&NOBODY);
        for (tag, answered) in self.reading.take().answers {
            let Tag::Feed(timeline, feed) = tag else { continue };
            let mut hand = Mailboxes { connections: &self.connections, with_mail: &mut self.with_mail };
            self.feeds.read(&timeline, feed, ReadPage::of(answered.result), now, &mut hand);
        }
        self.read_due(now);
    }

    fn read_due(&mut self, now: Instant) {
        let mut hand = Mailboxes { connections: &self.connections, with_mail: &mut self.with_mail };
        for read in self.feeds.due(now, &mut hand) {
            let op = read_op_of(&read, &self.rules);
            let asker = (NOBODY, Arc::clone(&self.reading), Tag::Feed(read.timeline, read.feed));
            self.submit(NOBODY, Some(asker), op);
        }
    }

    fn ask_feeds(&mut self, connection: u64, ask: &FeedAsk, now: Now) {
        let Some(follows) = self.follows.get_mut(&connection) else { return };
        let mut hand = Mailboxes { connections: &self.connections, with_mail: &mut self.with_mail };
        if let Some(joined) = follows.ask(&self.feeds, ask, now.instant, &mut hand) {
            self.input(connection, conversation::Input::Joined(joined), now);
        }
    }

    fn input(&mut self, connection: u64, input: conversation::Input, now: Now) {
        let Some(open) = self.connections.get_mut(&connection) else { return };
        let mut effects = Vec::new();
        open.session.handle(now, input, &mut effects);
        let mailbox = Arc::clone(&open.mailbox);
        for effect in effects {
            match effect {
                conversation::Effect::Tell(tell) => {
                    // The envelopes are what the router made of what this gateway had checked.
                    let frame = Outgoing::from(tell).into_frame().expect("an envelope of the store can be decoded");
                    self.outputs.push(Output::Client { connection, frame });
                }
                conversation::Effect::Request { tag, op, .. } => {
                    self.submit(connection, Some((connection, Arc::clone(&mailbox), tag)), op);
                }
                conversation::Effect::Feed(ask) => self.ask_feeds(connection, &ask, now),
                // Simulated clients have no frame limit, and use TCP, which has no pings.
                conversation::Effect::SignedIn | conversation::Effect::Ping => {}
                conversation::Effect::Close => {
                    self.outputs.push(Output::Close { connection });
                    self.disconnected(connection);
                }
            }
        }
    }

    fn submit(&mut self, connection: u64, client: Option<Asker>, op: Op) {
        let submit = Submit { connection, client, op, traceparent: String::new() };
        self.events.push_back(dispatch::Input::Submit(submit));
    }
}
