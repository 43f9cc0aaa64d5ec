//! Links to the other routers, which own the users that messages here concern.

use std::{
    collections::{BTreeMap, HashMap},
    future::poll_fn,
    sync::Arc,
    time::Duration,
};

use carillon_proto::{
    Batches, TimelineId, UserId, clock,
    lease::HeldLease,
    limits, pause,
    pb::{
        link::{FromRouter, Hello, Marked, ToRouter, router_client::RouterClient},
        store::NodeKind,
    },
    peer::{AddToken, OpenError, PeerSecurity},
    queues,
    stream::Incoming,
    tasks::Tasks,
    waiting::Waiting,
};
use futures_util::StreamExt as _;
use parking_lot::RwLock;
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    watch,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{service::interceptor::InterceptedService, transport::Channel};

use crate::{
    delivery::Delivery,
    metrics,
    missed::{Missed, Taken},
    said::Said,
    topology::Topology,
};

/// Most messages that wait for one router. A hint beyond it keeps only its position, which is sent later.
pub(crate) const HINTS: usize = 16_384;
/// Hints without envelopes in one message.
const MISSED: usize = 256;
/// Batches that wait for the connection. When the queue is full, messages wait in the queue before it.
const BATCHES: usize = 2;
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Peers {
    queues: Arc<RwLock<HashMap<String, Peer>>>,
    /// The most messages that wait for one router.
    room: usize,
}

/// The queue to one router.
#[derive(Clone)]
struct Peer {
    words: mpsc::Sender<Word>,
    /// Hints for which there was no room.
    missed: Arc<Missed<TimelineId, Delivery>>,
}

/// The words that wait for one router, until its link takes them.
struct Queue {
    words: mpsc::Receiver<Word>,
    missed: Arc<Missed<TimelineId, Delivery>>,
}

type Client = RouterClient<InterceptedService<Channel, AddToken>>;

/// A word from one router to another. It may be lost without harm.
enum Word {
    Hint(Delivery),
    Changed(UserId),
    Marked(Marked),
    Said(Said),
}

impl Peers {
    /// `room`: the most messages that wait for one router.
    pub(crate) fn new(room: usize) -> Self {
        Self { queues: Arc::default(), room }
    }

    /// If there is no room, only the position is sent, later.
    pub(crate) fn hint(&self, address: &str, delivery: Delivery) {
        let peers = self.queues.read();
        // A router that is not in the ring owns nothing.
        let Some(peer) = peers.get(address) else { return metrics::hint(false) };
        let given = peer.words.try_send(Word::Hint(delivery));
        metrics::hint(given.is_ok());
        if let Err(TrySendError::Full(Word::Hint(delivery))) = given {
            peer.missed.note(delivery.timeline.clone(), delivery.without_envelope());
        }
    }

    pub(crate) fn changed(&self, address: &str, user: UserId) {
        let given =
            self.queues.read().get(address).is_some_and(|peer| peer.words.try_send(Word::Changed(user)).is_ok());
        metrics::hint(given);
    }

    pub(crate) fn marked(&self, address: &str, marked: Marked) {
        let given =
            self.queues.read().get(address).is_some_and(|peer| peer.words.try_send(Word::Marked(marked)).is_ok());
        metrics::signal(given);
    }

    /// What could not be said, because too much waits for the router.
    #[must_use]
    pub(crate) fn say(&self, address: &str, said: Said) -> Option<Said> {
        let peers = self.queues.read();
        // A router that is not in the ring (yet).
        let Some(peer) = peers.get(address) else { return Some(said) };
        match peer.words.try_send(Word::Said(said)) {
            Err(TrySendError::Full(Word::Said(said))) => Some(said),
            _ => None,
        }
    }

    /// Keeps queues for exactly these routers and returns the new ones.
    fn change(&self, wanted: Vec<String>) -> Vec<(String, Queue)> {
        let mut queues = self.queues.write();
        queues.retain(|address, _| wanted.contains(address));
        let mut new = Vec::new();
        for address in wanted {
            if queues.contains_key(&address) {
                continue;
            }
            let (to_words, words) = mpsc::channel(self.room);
            queues::watch("router_hints", &to_words);
            let missed: Arc<Missed<TimelineId, Delivery>> = Arc::default();
            queues.insert(address.clone(), Peer { words: to_words, missed: Arc::clone(&missed) });
            new.push((address, Queue { words, missed }));
        }
        new
    }

    /// Keeps a link to each other router of the ring.
    pub(crate) async fn follow(
        self,
        mut topology: watch::Receiver<Arc<Topology>>,
        lease: watch::Receiver<Option<HeldLease>>,
        security: PeerSecurity,
        tasks: Tasks,
    ) {
        let mut groups: BTreeMap<String, Tasks> = BTreeMap::new();
        topology.mark_changed();
        while topology.changed().await.is_ok() {
            let wanted: Vec<String> =
                topology.borrow_and_update().others().map(|router| router.address.clone()).collect();
            groups.retain(|address, group| {
                let stays = wanted.contains(address);
                if !stays {
                    group.stop();
                }
                stays
            });
            for (address, queue) in self.change(wanted) {
                let group = tasks.child();
                group.spawn("router_peer_link", keep(address.clone(), security.clone(), lease.clone(), queue));
                groups.insert(address, group);
            }
        }
    }
}

fn message_of(words: impl IntoIterator<Item = Word>) -> ToRouter {
    let mut message = ToRouter::default();
    for word in words {
        match word {
            Word::Hint(delivery) => message.hints.push(delivery.into_hint()),
            Word::Changed(user) => message.changed_users.push(user.as_str().to_owned()),
            Word::Marked(marked) => message.marked.push(marked),
            Word::Said(Said::Presences(presences)) => message.presences.push(presences),
            Word::Said(Said::Update(update)) => message.presences.push((*update).into()),
            Word::Said(Said::Probe(probe)) => message.probes.push(probe),
            Word::Said(Said::News(news)) => message.contact_news.push(*news),
            Word::Said(Said::Scheduled(news)) => message.scheduled_news.push(news),
        }
    }
    message
}

async fn keep(
    address: String,
    security: PeerSecurity,
    mut lease: watch::Receiver<Option<HeldLease>>,
    Queue { words, missed }: Queue,
) {
    // Made when the router is first called over the network.
    let mut client = None;
    let mut words = Batches::new(words, |word| match word {
        Word::Hint(delivery) => delivery.envelope.len() + 256,
        Word::Changed(_) | Word::Marked(_) => 256,
        Word::Said(said) => said.size(),
    });
    let mut failures = 0u32;
    let mut waiting = Waiting::new("another router's link");
    loop {
        // The other side requires the caller's lease.
        let Ok(held) = lease.wait_for(Option::is_some).await.map(|held| held.as_ref().map(|held| held.lease.0)) else {
            return;
        };
        let hello = Hello { lease: held.unwrap_or(0), kind: NodeKind::Router.into() };
        let (batches, queue) = mpsc::channel(BATCHES);
        // The queue is new and has room for it.
        let _ = batches.try_send(ToRouter { hello: Some(hello), ..ToRouter::default() });
        let open = open(&address, &security, &mut client, ReceiverStream::new(queue));
        match clock::timeout(OPEN_TIMEOUT, open).await {
            Some(Ok(mut said)) => {
                failures = 0;
                waiting.over();
                loop {
                    // All are cancel-safe; what is taken is passed on before the next turn. Rare branches come first, so that they
                    // are not starved.
                    let message = tokio::select! {
                        biased;
                        message = said.message() => match message {
                            // Routers tell each other nothing but the registry, which this one watches itself.
                            Ok(Some(_)) => continue,
                            Ok(None) | Err(_) => break,
                        },
                        taken = poll_fn(|context| missed.poll_take(context, MISSED)) => {
                            // A new link also says that any user may have missed something.
                            let Taken::Some(deliveries) = taken else { break };
                            let hints = deliveries.into_iter().map(Delivery::into_hint).collect();
                            ToRouter { hints, ..ToRouter::default() }
                        }
                        next = words.next() => {
                            let Some(words) = next else { return };
                            message_of(words)
                        }
                    };
                    // If this is lost, the other side reads it from the store when the link is open again.
                    let given = clock::timeout(OPEN_TIMEOUT, batches.send(message)).await;
                    if !matches!(given, Some(Ok(()))) {
                        break;
                    }
                }
            }
            Some(Err(error)) => waiting.still(&address, error),
            None => waiting.still(&address, "no answer in time"),
        }
        let pause = pause::growing(failures, BACKOFF_MIN, BACKOFF_MAX);
        failures = failures.saturating_add(1);
        clock::sleep(pause).await;
    }
}

/// A link to the router: within this process or over the network.
async fn open(
    address: &str,
    security: &PeerSecurity,
    client: &mut Option<Client>,
    says: ReceiverStream<ToRouter>,
) -> Result<Incoming<FromRouter>, OpenError> {
    if let Some(router) = security.near(address) {
        return Ok(router.open(says)?);
    }
    let client = match client {
        Some(client) => client,
        None => client.insert(
            RouterClient::new(InterceptedService::new(security.channel(address)?, security.token()))
                .max_decoding_message_size(limits::MAX_NODE_MESSAGE_BYTES)
                .max_encoding_message_size(limits::MAX_NODE_MESSAGE_BYTES),
        ),
    };
    Ok(client.link(says).await?.into_inner().into())
}
