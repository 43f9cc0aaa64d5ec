//! For the simulation only: a router without sockets. The simulation polls its tasks: each `Partition`, and the `Reader` and
//! `Outgoing` of each link. Of the store's client there is the `Engine` without the `StoreActor`; messages for other routers
//! are taken from the queues of `Peers`.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use carillon_proto::{
    LeaseId, Wakes, Woken, clock,
    lease::HeldLease,
    pb::{
        link::{FromRouter, Hello, ToRouter},
        store::{NodeKind, RegistryView, StoreReply, StoreRequest},
    },
    peer::Tier,
    stream::Incoming,
};
use futures_util::{FutureExt as _, Stream as _, StreamExt as _, future::BoxFuture};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::{
    companions::Companions,
    config::UnknownRecipient,
    gateway_links::GatewayLinks,
    link::{self, LinkContext, Outgoing},
    owner::{Owner, OwnerConfig},
    partition::{ANSWERS, INPUTS, Mailbox, PARTITIONS, Partition, Partitions},
    peers::{Peers, Queue},
    reply::InFlight,
    store::{
        StoreResult,
        simulation::{Done, Event, StoreSide},
    },
    topology::Topology,
};

/// How late a retry or the end of a deadline in the store's client may be.
const TICK: Duration = Duration::from_millis(10);
/// Answers of a link that are outstanding or unread; at this number the link is no longer read.
const REPLIES: usize = 64;
/// A user has fewer devices in the simulation.
const DEVICES: u32 = 256;

/// What leaves the router.
pub enum Output {
    Store {
        stream: u64,
        request: StoreRequest,
    },
    Link {
        link: u64,
        said: FromRouter,
    },
    /// The router ends the link.
    Ended {
        link: u64,
    },
    Peer {
        address: String,
        said: ToRouter,
    },
}

pub struct Settings {
    pub seed: u64,
    /// The most that a request may take.
    pub longest: Duration,
    /// Pushes that wait for a link; more are dropped and told later.
    pub pushes: usize,
    /// Between two checks of the inboxes of those who are connected.
    pub head_check: Duration,
}

pub struct Router {
    topology: watch::Sender<Arc<Topology>>,
    lease: watch::Sender<Option<HeldLease>>,
    partitions: Vec<Task>,
    answers: Vec<mpsc::Sender<StoreResult>>,
    store: StoreSide,
    store_events: VecDeque<Event>,
    next_tick: Instant,
    context: LinkContext,
    /// The gateways' links, by the number that the simulation gives each.
    links: BTreeMap<u64, Link>,
    /// Links that other routers have opened, by their names.
    from_peers: BTreeMap<String, Link>,
    to_peers: BTreeMap<String, Queue>,
    outputs: Vec<Output>,
}

/// One of the router's tasks.
struct Task {
    /// `None`: it has ended.
    work: Option<BoxFuture<'static, ()>>,
    calls: Wakes,
}

struct Link {
    /// `None`: the other side has ended the link.
    says: Option<mpsc::UnboundedSender<ToRouter>>,
    reader: Task,
    /// `None`: this side has ended the link.
    outgoing: Option<Outgoing>,
    calls: Wakes,
}

/// The part of a router that runs next. Parts run at their own pace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Partition(usize),
    Store,
    /// Reads what a gateway has sent on a link.
    Reads(u64),
    /// Sends what waits for a link.
    Sends(u64),
    /// Reads what another router has sent.
    ReadsPeer(String),
}

impl Router {
    pub fn new(here: &str, settings: &Settings) -> Self {
        let (topology, follows) = watch::channel(Arc::new(Topology::unknown(here)));
        let (lease, held) = watch::channel(None);
        let (store, store_side) = StoreSide::new(8192, settings.seed);
        let (answers, from_store): (Vec<_>, Vec<_>) = (0..PARTITIONS).map(|_| mpsc::channel(ANSWERS)).unzip();
        let (to_inputs, inputs): (Vec<_>, Vec<_>) = (0..PARTITIONS).map(|_| mpsc::channel(INPUTS)).unzip();
        let to_mailbox = |inputs| Mailbox { inputs, missed: Arc::default() };
        let mailboxes: Vec<Mailbox> = to_inputs.into_iter().map(to_mailbox).collect();
        let missed: Vec<_> = mailboxes.iter().map(|mailbox| Arc::clone(&mailbox.missed)).collect();
        let (mailboxes, links, peers) = (Partitions::new(mailboxes), GatewayLinks::default(), Peers::default());
        let owner = OwnerConfig {
            accounts: 64,
            cursor_pause: Duration::from_millis(100),
            unknown_recipient: UnknownRecipient::Refuse,
            max_devices_per_user: DEVICES,
            companions: Companions::default(),
            head_check: settings.head_check,
        };
        let queues = from_store.into_iter().zip(inputs).zip(missed).enumerate();
        let partitions = queues.map(|(index, ((answers, inputs), missed))| {
            let partition = Partition {
                index,
                owner: Owner::new(Arc::clone(&follows.borrow()), owner.clone(), clock::now()),
                inputs: Woken::new(inputs),
                missed: Woken::new(missed),
                answers: Woken::new(answers),
                topology: follows.clone(),
                store: store.clone(),
                links: links.clone(),
                peers: peers.clone(),
                partitions: mailboxes.clone(),
            };
            Task::new(partition.run())
        });
        let partitions = partitions.collect();
        let context = LinkContext {
            links,
            partitions: mailboxes,
            peers,
            topology: follows,
            lease: held,
            in_flight: InFlight::default(),
            longest: settings.longest,
            requests_bound: REPLIES,
            pushes_bound: settings.pushes,
        };
        Self {
            topology,
            lease,
            partitions,
            answers,
            store: store_side,
            store_events: VecDeque::new(),
            next_tick: clock::now(),
            context,
            links: BTreeMap::new(),
            from_peers: BTreeMap::new(),
            to_peers: BTreeMap::new(),
            outputs: Vec::new(),
        }
    }

    pub fn take_outputs(&mut self) -> Vec<Output> {
        for (address, queue) in &mut self.to_peers {
            let said = queue.take();
            if said != ToRouter::default() {
                self.outputs.push(Output::Peer { address: address.clone(), said });
            }
        }
        std::mem::take(&mut self.outputs)
    }

    /// The parts that have something to do.
    pub fn runnable(&self) -> impl Iterator<Item = Part> {
        let partitions = self.partitions.iter().enumerate();
        let partitions = partitions.filter(|(_, task)| task.called()).map(|(index, _)| Part::Partition(index));
        let store = (!self.store_events.is_empty() || self.store.is_asked()).then_some(Part::Store);
        let links = self.links.iter().flat_map(|(number, link)| {
            let reads = link.reader.called().then_some(Part::Reads(*number));
            let sends = (link.outgoing.is_some() && link.calls.called()).then_some(Part::Sends(*number));
            reads.into_iter().chain(sends)
        });
        let peers = self.from_peers.iter().filter(|(_, link)| link.reader.called());
        let peers = peers.map(|(peer, _)| Part::ReadsPeer(peer.clone()));
        partitions.chain(store).chain(links).chain(peers)
    }

    /// When `wake` is due. The tasks wait for their own times by `clock`.
    pub fn wake_at(&self) -> Option<std::time::Instant> {
        (!self.store.is_idle()).then(|| self.next_tick.into_std())
    }

    pub fn wake(&mut self) {
        let now = clock::now();
        if !self.store.is_idle() && self.next_tick <= now {
            self.next_tick = now + TICK;
            self.store_events.push_back(Event::Tick);
        }
    }

    /// The lease, and until when it runs.
    pub fn holds_lease(&mut self, held: Option<(u64, std::time::Instant)>) {
        let held = held.map(|(lease, until)| HeldLease { lease: LeaseId(lease), until: Instant::from_std(until) });
        self.lease.send_replace(held);
    }

    pub fn sees(&mut self, view: RegistryView) {
        let Some(next) = self.topology.borrow().followed_by(view) else { return };
        let peers: Vec<String> = next.others().map(|router| router.address.clone()).collect();
        self.to_peers.retain(|address, _| peers.contains(address));
        self.to_peers.extend(self.context.peers.change(peers));
        self.store_events.push_back(Event::Members(next.storage()));
        self.topology.send_replace(Arc::new(next));
    }

    /// A gateway has opened a link.
    pub fn link_up(&mut self, link: u64) {
        self.links.insert(link, Link::open(&self.context, Tier::Gateway));
    }

    pub fn link_says(&mut self, link: u64, said: ToRouter) {
        if let Some(link) = self.links.get_mut(&link) {
            link.say(said);
        }
    }

    /// The gateway has ended the link, or the link broke.
    pub fn link_down(&mut self, link: u64) {
        if let Some(link) = self.links.get_mut(&link) {
            (link.says, link.outgoing) = (None, None);
        }
    }

    /// Another router sends this on its link.
    pub fn peer_says(&mut self, peer: &str, said: ToRouter) {
        if !self.from_peers.contains_key(peer) {
            self.peer_links(peer);
        }
        if let Some(link) = self.from_peers.get_mut(peer) {
            link.say(said);
        }
    }

    /// Another router opens its link. A link that it had before is gone.
    pub fn peer_links(&mut self, peer: &str) {
        let mut link = Link::open(&self.context, Tier::Router);
        let hello = Hello { kind: NodeKind::Router.into(), ..Hello::default() };
        link.say(ToRouter { hello: Some(hello), ..ToRouter::default() });
        // Nothing is sent to a router on the link that it has opened.
        link.outgoing = None;
        self.from_peers.insert(peer.to_owned(), link);
    }

    pub fn stream_up(&mut self, address: &str, stream: u64) {
        self.store_events.push_back(Event::Up { address: address.to_owned(), stream });
    }

    pub fn stream_down(&mut self, stream: u64) {
        self.store_events.push_back(Event::Down { stream });
    }

    pub fn store_says(&mut self, reply: StoreReply) {
        self.store_events.push_back(Event::Reply(Box::new(reply)));
    }

    pub fn run(&mut self, part: &Part) {
        match part {
            Part::Store => self.run_store(),
            Part::Partition(index) => self.partitions[*index].run(),
            Part::ReadsPeer(peer) => {
                if let Some(link) = self.from_peers.get_mut(peer) {
                    link.reader.run();
                }
            }
            Part::Reads(number) => {
                let Some(link) = self.links.get_mut(number) else { return };
                link.reader.run();
                if link.reader.work.is_none() && link.outgoing.is_none() {
                    self.links.remove(number);
                }
            }
            Part::Sends(number) => self.send(*number),
        }
    }

    fn run_store(&mut self) {
        let now = clock::now();
        for event in std::mem::take(&mut self.store_events) {
            self.store.take(event, now);
        }
        self.store.take_asked(now);
        let Done { sends, answers } = self.store.perform(now);
        self.outputs.extend(sends.into_iter().map(|(stream, request)| Output::Store { stream, request }));
        for (partition, answer) in answers {
            self.answers[partition].try_send(answer).expect("fewer answers wait than there is room for");
        }
    }

    /// Sends all that waits for this link.
    fn send(&mut self, number: u64) {
        let Some(Link { outgoing: place, calls, reader, .. }) = self.links.get_mut(&number) else { return };
        while let Some(outgoing) = place {
            match calls.poll(|context| Pin::new(outgoing).poll_next(context)) {
                std::task::Poll::Ready(Some(said)) => {
                    let said = said.expect("no message of a router is an error");
                    self.outputs.push(Output::Link { link: number, said });
                }
                std::task::Poll::Ready(None) => {
                    *place = None;
                    self.outputs.push(Output::Ended { link: number });
                }
                std::task::Poll::Pending => return,
            }
        }
        if reader.work.is_none() {
            self.links.remove(&number);
        }
    }
}

impl Task {
    fn new(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { work: Some(work.boxed()), calls: Wakes::default() }
    }

    fn called(&self) -> bool {
        self.work.is_some() && self.calls.called()
    }

    fn run(&mut self) {
        if let Some(work) = &mut self.work
            && self.calls.poll(|context| work.as_mut().poll(context)).is_ready()
        {
            self.work = None;
        }
    }
}

impl Link {
    fn open(context: &LinkContext, tier: Tier) -> Self {
        let (says, said) = mpsc::unbounded_channel();
        let (reader, outgoing) = link::open(context.clone(), tier, &CancellationToken::new());
        let said = UnboundedReceiverStream::new(said).map(Ok).boxed();
        let reader = Task::new(reader.run(Incoming::from(said)));
        Self { says: Some(says), reader, outgoing: Some(outgoing), calls: Wakes::default() }
    }

    fn say(&mut self, said: ToRouter) {
        if let Some(says) = &self.says {
            // A reader that has ended hears nothing more.
            let _ = says.send(said);
        }
    }
}
