//! Links to the other routers, which own the users that messages here concern.

use std::{collections::HashMap, future::poll_fn, sync::Arc, time::Duration};

use carillon_proto::{
    Batches, UserId,
    lease::HeldLease,
    limits, pause,
    pb::{
        link::{Hello, ToRouter, router_client::RouterClient},
        store::NodeKind,
    },
    peer::{PeerSecurity, cause},
    tasks::Tasks,
    waiting::Waiting,
};
use futures_util::StreamExt as _;
use parking_lot::RwLock;
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;

use crate::{
    delivery::Delivery,
    metrics,
    missed::{Missed, Taken},
    topology::Topology,
};

/// Most messages that wait for one router. A hint beyond it keeps only its position, which is sent later.
const HINTS: usize = 16_384;
/// Hints without envelopes in one message.
const MISSED: usize = 256;
/// Batches that wait for the connection. When the queue is full, messages wait in the queue before it.
const BATCHES: usize = 2;
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Peers {
    queues: Arc<RwLock<HashMap<String, Peer>>>,
}

/// The queue to one router.
#[derive(Clone)]
struct Peer {
    words: mpsc::Sender<Word>,
    /// Hints for which there was no room.
    missed: Arc<Missed<UserId, Delivery>>,
}

/// The words that wait for one router, until its link takes them.
pub(crate) struct Queue {
    words: mpsc::Receiver<Word>,
    missed: Arc<Missed<UserId, Delivery>>,
}

/// A word from one router to another. It may be lost without harm.
enum Word {
    Hint(Delivery),
    Changed(UserId),
}

impl Peers {
    /// If there is no room, only the position is sent, later.
    pub(crate) fn hint(&self, address: &str, delivery: Delivery) {
        let peers = self.queues.read();
        // A router that is not in the ring owns nothing.
        let Some(peer) = peers.get(address) else { return metrics::hint(false) };
        let given = peer.words.try_send(Word::Hint(delivery));
        metrics::hint(given.is_ok());
        if let Err(TrySendError::Full(Word::Hint(delivery))) = given {
            peer.missed.note(delivery.user.clone(), delivery.without_envelope());
        }
    }

    pub(crate) fn changed(&self, address: &str, user: UserId) {
        let given =
            self.queues.read().get(address).is_some_and(|peer| peer.words.try_send(Word::Changed(user)).is_ok());
        metrics::hint(given);
    }

    /// Keeps queues for exactly these routers and returns the new ones.
    pub(crate) fn change(&self, wanted: Vec<String>) -> Vec<(String, Queue)> {
        let mut queues = self.queues.write();
        queues.retain(|address, _| wanted.contains(address));
        let mut new = Vec::new();
        for address in wanted {
            if queues.contains_key(&address) {
                continue;
            }
            let (to_words, words) = mpsc::channel(HINTS);
            let missed: Arc<Missed<UserId, Delivery>> = Arc::default();
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
        let mut groups: HashMap<String, Tasks> = HashMap::new();
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

impl Queue {
    /// Takes everything that waits now.
    pub(crate) fn take(&mut self) -> ToRouter {
        message_of(std::iter::from_fn(|| self.words.try_recv().ok()))
    }
}

fn message_of(words: impl IntoIterator<Item = Word>) -> ToRouter {
    let mut message = ToRouter::default();
    for word in words {
        match word {
            Word::Hint(delivery) => message.hints.push(delivery.into_hint()),
            Word::Changed(user) => message.changed_users.push(user.as_str().to_owned()),
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
    let channel = match security.channel(&address) {
        Ok(channel) => channel,
        Err(error) => {
            tracing::error!(%address, %error, "router can't be reached by its address");
            return;
        }
    };
    let token = security.token();
    let mut client = RouterClient::new(InterceptedService::new(channel, token))
        .max_decoding_message_size(limits::MAX_NODE_MESSAGE_BYTES)
        .max_encoding_message_size(limits::MAX_NODE_MESSAGE_BYTES);
    let mut words = Batches::new(words, |word| match word {
        Word::Hint(delivery) => delivery.envelope.len() + 256,
        Word::Changed(_) => 256,
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
        match time::timeout(OPEN_TIMEOUT, client.link(ReceiverStream::new(queue))).await {
            Ok(Ok(response)) => {
                failures = 0;
                waiting.over();
                let mut said = response.into_inner();
                loop {
                    // Both are cancel-safe; what is taken is passed on before the next turn.
                    let message = tokio::select! {
                        message = said.message() => match message {
                            // Routers tell each other nothing but the registry, which this one watches itself.
                            Ok(Some(_)) => continue,
                            Ok(None) | Err(_) => break,
                        },
                        next = words.next() => {
                            let Some(words) = next else { return };
                            message_of(words)
                        }
                        taken = poll_fn(|context| missed.poll_take(context, MISSED)) => {
                            // A new link also says that any user may have missed something.
                            let Taken::Some(deliveries) = taken else { break };
                            let hints = deliveries.into_iter().map(Delivery::into_hint).collect();
                            ToRouter { hints, ..ToRouter::default() }
                        }
                    };
                    // If this is lost, the other side reads it from the store when the link is open again.
                    let given = time::timeout(OPEN_TIMEOUT, batches.send(message)).await;
                    if !matches!(given, Ok(Ok(()))) {
                        break;
                    }
                }
            }
            Ok(Err(status)) => waiting.still(&address, cause(&status)),
            Err(_) => waiting.still(&address, "no answer in time"),
        }
        let pause = pause::growing(failures, BACKOFF_MIN, BACKOFF_MAX);
        failures = failures.saturating_add(1);
        time::sleep(pause).await;
    }
}
