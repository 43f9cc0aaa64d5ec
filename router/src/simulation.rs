//! For the simulation only: a router without sockets. The simulation polls its tasks: each `Partition`, the `StoreActor`, the stream to
//! each storage node, the link to each other router, and the `Reader` and `Outgoing` of each link that others have opened.

mod storage;

use std::{
    collections::BTreeMap,
    pin::{Pin, pin},
    sync::{Arc, atomic::AtomicBool},
    task::Poll,
    time::Duration,
};

use carillon_proto::{
    LeaseId, Turns, UserId, Wakes, Woken, clock,
    lease::HeldLease,
    pb::{
        link::{FromRouter, ToRouter},
        store::{RegistryView, StoreReply, StoreRequest},
    },
    peer::{PeerError, PeerSecurity, Tier},
    stream::{Incoming, Serving},
    tasks::Tasks,
};
use futures_util::{Stream as _, StreamExt as _};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use self::storage::{Opened, Stream};
use crate::{
    census::Census,
    companions::Companions,
    config::UnknownRecipient,
    followers::Followers,
    gateway_links::GatewayLinks,
    link::{self, LinkContext, Outgoing},
    owner::{Owner, OwnerConfig},
    partition::{ANSWERS, INPUTS, Mailbox, PARTITIONS, Partition, Partitions},
    peers::Peers,
    reply::InFlight,
    store::StoreActor,
    teller::{TELLINGS, Teller, TellingContext},
    topology::Topology,
    workers::{Nudges, Workers},
};

/// Answers of a link that are outstanding or unread; at this number the link is no longer read.
const REPLIES: usize = 64;
/// A user has fewer devices in the simulation.
const DEVICES: u32 = 256;
/// Writes of one shard that wait, where they are not to be refused.
const WRITES: usize = 8192;

/// What leaves the router.
pub enum Output {
    /// The router opens a stream, of this number, to this storage node.
    Opens {
        stream: u64,
        address: String,
    },
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
    /// The router opens a link, of this number, to another router.
    OpensPeer {
        link: u64,
        address: String,
    },
    Peer {
        link: u64,
        said: ToRouter,
    },
    /// The router ends the link to another router.
    LeavesPeer {
        link: u64,
    },
}

pub struct Settings {
    pub seed: u64,
    /// The storage nodes, and whether each can be reached.
    pub storage: Vec<(String, Arc<AtomicBool>)>,
    /// The addresses of all other routers that there may be.
    pub routers: Vec<String>,
    /// The most that a request may take.
    pub longest: Duration,
    /// Pushes that wait for a link; more are dropped and told later.
    pub pushes: usize,
    /// Messages that wait for another router; of more only the positions are told, later.
    pub hints: usize,
    /// Between two checks of the inboxes of those who are connected.
    pub head_check: Duration,
}

pub struct Router {
    topology: watch::Sender<Arc<Topology>>,
    lease: watch::Sender<Option<HeldLease>>,
    tasks: Tasks,
    turns: Turns,
    /// Streams that were opened and have no number yet.
    opened: Opened,
    streams: BTreeMap<u64, Stream>,
    last_stream: u64,
    context: LinkContext,
    /// Links of gateways and other routers, by the number that the simulation gives each.
    links: BTreeMap<u64, Link>,
    /// Links to other routers that were opened and have no number yet.
    opened_peers: Arc<Mutex<Vec<(String, ToPeer)>>>,
    to_peers: BTreeMap<u64, ToPeer>,
    last_peer: u64,
    outputs: Vec<Output>,
    /// The storage nodes and other routers, by which the router's streams and links are opened.
    _serving: Vec<Serving>,
}

struct Link {
    says: mpsc::UnboundedSender<ToRouter>,
    outgoing: Outgoing,
    wakes: Wakes,
}

/// The other router's end of a link.
struct ToPeer {
    said: Incoming<ToRouter>,
    says: mpsc::UnboundedSender<FromRouter>,
    wakes: Wakes,
}

/// The part of a router that runs next. Parts run at their own pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Task(u64),
    /// The network takes what waits for a stream to a storage node.
    Stream(u64),
    /// The network takes what waits for a link.
    Link(u64),
    /// The network takes what waits for another router.
    Peer(u64),
}

impl Router {
    pub fn new(here: &str, settings: &Settings) -> Result<Self, PeerError> {
        let Settings { seed, storage, routers, longest, pushes, hints, head_check } = settings;
        let security = PeerSecurity::from_secret(Tier::Router, "secret-of-the-simulation", None)?.within_process();
        let opened = Opened::default();
        // Of four routers two call the storage nodes, as within one process, and the others send messages.
        let calls = seed & 2 == 0;
        let serving = storage.iter().filter_map(|(address, is_up)| {
            let (opened, is_up) = (opened.clone(), Arc::clone(is_up));
            if calls {
                opened.by_calls(&security, address, is_up)
            } else {
                opened.by_messages(&security, address, is_up)
            }
        });
        let mut serving: Vec<Serving> = serving.collect();
        let opened_peers: Arc<Mutex<Vec<(String, ToPeer)>>> = Arc::default();
        for address in routers {
            let (opened, of_address) = (Arc::clone(&opened_peers), address.clone());
            serving.extend(security.serve_near([address.clone()], &[Tier::Router], move |_, said| {
                let (says, heard) = mpsc::unbounded_channel();
                opened.lock().push((of_address.clone(), ToPeer { said, says, wakes: Wakes::default() }));
                Ok(UnboundedReceiverStream::new(heard).map(Ok).boxed())
            }));
        }
        let (topology, follows) = watch::channel(Arc::new(Topology::unknown(here)));
        let (lease, held) = watch::channel(None);
        let (to_answers, answers): (Vec<_>, Vec<_>) = (0..PARTITIONS).map(|_| mpsc::channel(ANSWERS)).unzip();
        // Of every other seed, a lane is full with a few writes.
        let writes = if seed & 1 == 0 { WRITES } else { 2 + (*seed as usize / 2) % 6 };
        let (store, actor) = StoreActor::new(follows.clone(), to_answers, security.clone(), writes, *seed);
        let (tasks, turns) = Tasks::by_turns();
        tasks.spawn_critical("router_store", actor.run(tasks.clone()));
        let (to_inputs, inputs): (Vec<_>, Vec<_>) = (0..PARTITIONS).map(|_| mpsc::channel(INPUTS)).unzip();
        let to_mailbox = |inputs| Mailbox { inputs, missed: Arc::default() };
        let mailboxes: Vec<Mailbox> = to_inputs.into_iter().map(to_mailbox).collect();
        let missed: Vec<_> = mailboxes.iter().map(|mailbox| Arc::clone(&mailbox.missed)).collect();
        let (mailboxes, links, peers) = (Partitions::new(mailboxes), GatewayLinks::default(), Peers::new(*hints));
        let follow = peers.clone().follow(follows.clone(), held.clone(), security, tasks.child());
        tasks.spawn_critical("router_peers", follow);
        let (followers, nudges) = (Followers::default(), Nudges::default());
        let workers = Workers {
            topology: follows.clone(),
            store: store.clone(),
            peers: peers.clone(),
            partitions: mailboxes.clone(),
            nudges: nudges.clone(),
            deadline: *longest,
            files: None,
        };
        tasks.spawn_critical("router_workers", workers.run());
        let (to_tellings, tellings) = mpsc::channel(TELLINGS);
        let telling = TellingContext {
            topology: follows.clone(),
            store: store.clone(),
            peers: peers.clone(),
            partitions: mailboxes.clone(),
            deadline: *longest,
        };
        tasks.spawn_critical("router_teller", Teller { tellings, telling }.run());
        let owner = OwnerConfig {
            accounts: 64,
            cursor_pause: Duration::from_millis(100),
            unknown_recipient: UnknownRecipient::Refuse,
            max_devices_per_user: DEVICES,
            companions: Companions::default(),
            followers: followers.clone(),
            nudges,
            head_check: *head_check,
        };
        // Nobody counts: gateways are not told how many sessions there are.
        let census = Census::new();
        let queues = answers.into_iter().zip(inputs).zip(missed).enumerate();
        for (index, ((answers, inputs), missed)) in queues {
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
                census: census.clone(),
                tellings: to_tellings.clone(),
            };
            tasks.spawn_critical("router_partition", partition.run());
        }
        let context = LinkContext {
            links,
            partitions: mailboxes,
            peers,
            topology: follows,
            lease: held,
            load: census.subscribe(),
            followers,
            in_flight: InFlight::default(),
            longest: *longest,
            requests_bound: REPLIES,
            pushes_bound: *pushes,
        };
        Ok(Self {
            topology,
            lease,
            tasks,
            turns,
            opened,
            streams: BTreeMap::new(),
            last_stream: 0,
            context,
            links: BTreeMap::new(),
            opened_peers,
            to_peers: BTreeMap::new(),
            last_peer: 0,
            outputs: Vec::new(),
            _serving: serving,
        })
    }

    pub fn take_outputs(&mut self) -> Vec<Output> {
        for (address, stream) in self.opened.take() {
            self.last_stream += 1;
            self.streams.insert(self.last_stream, stream);
            self.outputs.push(Output::Opens { stream: self.last_stream, address });
        }
        for (address, link) in std::mem::take(&mut *self.opened_peers.lock()) {
            self.last_peer += 1;
            self.to_peers.insert(self.last_peer, link);
            self.outputs.push(Output::OpensPeer { link: self.last_peer, address });
        }
        let outputs = &mut self.outputs;
        self.to_peers.retain(|number, link| {
            let is_over = link.says.is_closed();
            outputs.extend(is_over.then_some(Output::LeavesPeer { link: *number }));
            !is_over
        });
        std::mem::take(outputs)
    }

    /// The parts that have something to do.
    pub fn runnable(&mut self) -> impl Iterator<Item = Part> + use<'_> {
        let streams = self.streams.iter().filter(|(_, stream)| stream.is_called());
        let links = self.links.iter().filter(|(_, link)| link.wakes.called());
        let peers = self.to_peers.iter().filter(|(_, link)| link.wakes.called());
        let network =
            streams.map(|(number, _)| Part::Stream(*number)).chain(links.map(|(number, _)| Part::Link(*number)));
        let peers = peers.map(|(number, _)| Part::Peer(*number));
        self.turns.due().map(Part::Task).chain(network).chain(peers)
    }

    /// The lease, and until when it runs.
    pub fn holds_lease(&mut self, held: Option<(u64, std::time::Instant)>) {
        let held = held.map(|(lease, until)| HeldLease { lease: LeaseId(lease), until: Instant::from_std(until) });
        self.lease.send_replace(held);
    }

    pub fn sees(&mut self, view: RegistryView) {
        let Some(next) = self.topology.borrow().followed_by(view) else { return };
        self.topology.send_replace(Arc::new(next));
    }

    /// A gateway or another router has opened a link.
    pub fn link_up(&mut self, link: u64, caller: Tier) {
        let (says, outgoing) = self.open(caller);
        self.links.insert(link, Link { says, outgoing, wakes: Wakes::default() });
    }

    pub fn link_says(&mut self, link: u64, said: ToRouter) {
        if let Some(link) = self.links.get_mut(&link) {
            // A reader that has ended hears nothing more.
            let _ = link.says.send(said);
        }
    }

    /// The other side has ended the link, or the link broke.
    pub fn link_down(&mut self, link: u64) {
        self.links.remove(&link);
    }

    /// The other router has ended a link of this one, or the link broke, or the other router is not there.
    pub fn peer_down(&mut self, link: u64) {
        self.to_peers.remove(&link);
    }

    pub fn peer_says(&mut self, link: u64, said: FromRouter) {
        if let Some(link) = self.to_peers.get(&link) {
            // This router may have left the link.
            let _ = link.says.send(said);
        }
    }

    /// Another router has carried out the operator's command for this user.
    pub fn changed(&mut self, user: UserId) {
        if self.topology.borrow().owns(user.as_str()) {
            self.context.partitions.changed(user);
        }
    }

    /// The stream is over.
    pub fn stream_down(&mut self, stream: u64) {
        self.streams.remove(&stream);
    }

    pub fn store_says(&mut self, stream: u64, reply: StoreReply) {
        if let Some(stream) = self.streams.get(&stream) {
            stream.says(reply);
        }
    }

    pub fn run(&mut self, part: Part) {
        match part {
            Part::Task(number) => self.turns.poll(number),
            Part::Stream(number) => {
                let Some(stream) = self.streams.get_mut(&number) else { return };
                while let Some(request) = stream.next() {
                    self.outputs.push(Output::Store { stream: number, request });
                }
            }
            Part::Link(number) => self.send(number),
            Part::Peer(number) => {
                let Some(ToPeer { said, wakes, .. }) = self.to_peers.get_mut(&number) else { return };
                while let Poll::Ready(next) = wakes.poll(|context| pin!(said.message()).poll(context)) {
                    // The router drops its half of the link with the other one.
                    let Some(said) = next.expect("no message of a router is an error") else { return };
                    self.outputs.push(Output::Peer { link: number, said });
                }
            }
        }
    }

    /// The reader of the new link is a task.
    fn open(&self, tier: Tier) -> (mpsc::UnboundedSender<ToRouter>, Outgoing) {
        let (says, said) = mpsc::unbounded_channel();
        let (reader, outgoing) = link::open(self.context.clone(), tier, &CancellationToken::new());
        let said = UnboundedReceiverStream::new(said).map(Ok).boxed();
        self.tasks.spawn("router_link", reader.run(Incoming::from(said)));
        (says, outgoing)
    }

    /// Sends all that waits for this link.
    fn send(&mut self, number: u64) {
        let Some(Link { outgoing, wakes, .. }) = self.links.get_mut(&number) else { return };
        while let Poll::Ready(said) = wakes.poll(|context| Pin::new(&mut *outgoing).poll_next(context)) {
            let Some(said) = said else {
                self.links.remove(&number);
                return self.outputs.push(Output::Ended { link: number });
            };
            let said = said.expect("no message of a router is an error");
            self.outputs.push(Output::Link { link: number, said });
        }
    }
}
