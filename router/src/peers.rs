//! Links to the other routers, for what they must hear of the users that they own.

use std::{collections::HashMap, sync::Arc, time::Duration};

use carillon_proto::{
    Batches, TimelineId, UserId, limits,
    pb::{
        link::{Hello, Hint, ToRouter, router_client::RouterClient},
        store::NodeKind,
    },
    peer::{PeerSecurity, cause},
    tasks::Tasks,
    waiting::Waiting,
};
use futures_util::StreamExt as _;
use parking_lot::RwLock;
use tokio::{
    sync::{mpsc, watch},
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;

use crate::{backoff, lease::Held, metrics, owner::Delivery, topology::Topology};

/// Words that wait for one router; above it they are dropped.
const HINTS: usize = 16_384;
/// Batches that wait for the connection. When it is full, words wait above.
const BATCHES: usize = 2;
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Peers {
    here: Arc<str>,
    queues: Arc<RwLock<HashMap<String, mpsc::Sender<Word>>>>,
}

/// What a router tells another one. Lost without harm.
enum Word {
    Hint(Hint),
    Changed(UserId),
}

impl Peers {
    pub(crate) fn new(here: Arc<str>) -> Self {
        Self { here, queues: Arc::default() }
    }

    pub(crate) fn is_here(&self, address: &str) -> bool {
        *self.here == *address
    }

    pub(crate) fn hint(&self, address: &str, delivery: Delivery) {
        let hint = Hint {
            timeline: Some(TimelineId::Inbox(delivery.user.clone()).to_client()),
            user: delivery.user.as_str().to_owned(),
            incarnation: delivery.incarnation,
            position: Some(delivery.position),
            envelope: delivery.envelope,
            traceparent: delivery.traceparent,
            except_lease: delivery.except.0,
            except_connection: delivery.except.1,
        };
        let given = self.queues.read().get(address).is_some_and(|queue| queue.try_send(Word::Hint(hint)).is_ok());
        metrics::hint(given);
    }

    pub(crate) fn changed(&self, address: &str, user: UserId) {
        let given = self.queues.read().get(address).is_some_and(|queue| queue.try_send(Word::Changed(user)).is_ok());
        metrics::hint(given);
    }

    /// Keeps a link to each other router of the ring.
    pub(crate) async fn follow(
        self,
        mut topology: watch::Receiver<Arc<Topology>>,
        lease: watch::Receiver<Option<Held>>,
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
                    self.queues.write().remove(address);
                }
                stays
            });
            for address in wanted {
                if groups.contains_key(&address) {
                    continue;
                }
                let (queue, words) = mpsc::channel(HINTS);
                self.queues.write().insert(address.clone(), queue);
                let group = tasks.child();
                group.spawn("router_peer_link", keep(address.clone(), security.clone(), lease.clone(), words));
                groups.insert(address, group);
            }
        }
    }
}

async fn keep(
    address: String,
    security: PeerSecurity,
    mut lease: watch::Receiver<Option<Held>>,
    words: mpsc::Receiver<Word>,
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
        Word::Hint(hint) => hint.envelope.len() + 256,
        Word::Changed(_) => 256,
    });
    let mut failures = 0u32;
    let mut waiting = Waiting::new("another router's link");
    loop {
        // The other side wants to know who calls.
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
                    // Both are cancel-safe; what is taken is given on before the next turn.
                    tokio::select! {
                        message = said.message() => match message {
                            // Routers have nothing to say to routers but the registry, which we watch ourselves.
                            Ok(Some(_)) => {}
                            Ok(None) | Err(_) => break,
                        },
                        next = words.next() => {
                            let Some(words) = next else { return };
                            let mut message = ToRouter::default();
                            for word in words {
                                match word {
                                    Word::Hint(hint) => message.hints.push(hint),
                                    Word::Changed(user) => message.changed_users.push(user.as_str().to_owned()),
                                }
                            }
                            let given = time::timeout(OPEN_TIMEOUT, batches.send(message)).await;
                            if !matches!(given, Ok(Ok(()))) {
                                break;
                            }
                        }
                    }
                }
            }
            Ok(Err(status)) => waiting.still(&address, cause(&status)),
            Err(_) => waiting.still(&address, "no answer in time"),
        }
        let pause = backoff::pause(failures, BACKOFF_MIN, BACKOFF_MAX);
        failures = failures.saturating_add(1);
        time::sleep(pause).await;
    }
}
