//! The link of a gateway or of another router: requests in, answers and pushes out.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use carillon_proto::{
    Batches, LeaseId, UserId,
    pb::{
        link::{Evict, FromRouter, Hello, Hint, Push, RouterReply, RouterRequest, ToRouter, evict, router_reply},
        store::NodeKind,
    },
    peer::Tier,
    stream::Incoming,
    trace,
};
use futures_util::Stream;
use parking_lot::RwLock;
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use crate::{
    gate::{Asked, Gate, Verdict},
    lease::Held,
    metrics,
    owner::Delivery,
    partition::Partitions,
    reply::{Answer, Failure, InFlight, ReplySlot, Request, deadline, op_name, routed_by},
    topology::Topology,
};

/// Evictions that wait for a gateway. When it is full the link is cut: the gateway opens it again, announces its
/// sessions, and hears which of them were replaced.
const EVICTIONS: usize = 1024;
/// How long a caller may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// The gateways' links, by lease. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Links {
    gateways: Arc<RwLock<HashMap<LeaseId, Way>>>,
    numbers: Arc<AtomicU64>,
}

/// The way down one link.
#[derive(Clone)]
struct Way {
    number: u64,
    pushes: mpsc::Sender<Push>,
    evictions: mpsc::Sender<Evict>,
    cut: CancellationToken,
}

impl Links {
    /// False if it was dropped.
    pub(crate) fn push(&self, gateway: LeaseId, push: Push) -> bool {
        self.gateways.read().get(&gateway).is_some_and(|way| way.pushes.try_send(push).is_ok())
    }

    pub(crate) fn evict(&self, gateway: LeaseId, connection: u64, why: evict::Why) {
        // A gateway without a link announces its sessions when it has one.
        if let Some(way) = self.gateways.read().get(&gateway)
            && way.evictions.try_send(Evict { connection, why: why.into() }).is_err()
        {
            way.cut.cancel();
        }
    }

    fn enter(&self, hello: &Hello, way: &Way) {
        if hello.kind() == NodeKind::Gateway {
            self.gateways.write().insert(LeaseId(hello.lease), way.clone());
        }
    }

    /// A newer link of the same gateway stays.
    fn leave(&self, hello: &Hello, way: &Way) {
        let mut gateways = self.gateways.write();
        if gateways.get(&LeaseId(hello.lease)).is_some_and(|known| known.number == way.number) {
            gateways.remove(&LeaseId(hello.lease));
        }
    }
}

/// What every link needs.
#[derive(Clone)]
pub(crate) struct LinkContext {
    pub(crate) links: Links,
    pub(crate) partitions: Partitions,
    pub(crate) topology: watch::Receiver<Arc<Topology>>,
    pub(crate) lease: watch::Receiver<Option<Held>>,
    pub(crate) in_flight: InFlight,
    pub(crate) longest: Duration,
    pub(crate) requests_bound: usize,
    pub(crate) pushes_bound: usize,
}

/// Reads the link. Made together with what goes out.
pub(crate) struct Reader {
    context: LinkContext,
    /// Whose token opened it.
    tier: Tier,
    replies: mpsc::Sender<RouterReply>,
    way: Way,
    hello: Hello,
    gate: Gate,
}

/// A link's two halves.
pub(crate) fn open(context: LinkContext, tier: Tier, closing: &CancellationToken) -> (Reader, Outgoing) {
    let (to_replies, replies) = mpsc::channel(context.requests_bound);
    let (to_pushes, pushes) = mpsc::channel(context.pushes_bound);
    let (to_evictions, evictions) = mpsc::channel(EVICTIONS);
    let cut = CancellationToken::new();
    let number = context.links.numbers.fetch_add(1, Ordering::Relaxed);
    let way = Way { number, pushes: to_pushes, evictions: to_evictions, cut: cut.clone() };
    let outgoing = Outgoing {
        views: WatchStream::new(context.topology.clone()),
        replies: Batches::new(replies, weigh),
        pushes: Batches::new(pushes, |push| push.envelope.len() + 256),
        evictions: Batches::new(evictions, |_| 16),
        cut: Box::pin(cut.clone().cancelled_owned()),
        closing: Box::pin(closing.clone().cancelled_owned()),
    };
    let (hello, gate) = (Hello::default(), Gate::new(Instant::now()));
    let reader = Reader { context, tier, replies: to_replies, way, hello, gate };
    (reader, outgoing)
}

impl Reader {
    /// Until the other side ends the link or breaks the rules. Requests that are in flight go on.
    pub(crate) async fn run(mut self, mut incoming: Incoming<ToRouter>) {
        let cut = self.way.cut.clone();
        let first = time::timeout(HELLO_TIMEOUT, incoming.message()).await;
        let Ok(Ok(Some(ToRouter { hello: Some(hello), requests, hints, changed_users }))) = first else {
            tracing::debug!("a link without a greeting was closed");
            cut.cancel();
            return;
        };
        if !self.may_say(&hello, &hints, &changed_users) {
            cut.cancel();
            return;
        }
        let kind = if hello.kind() == NodeKind::Gateway { "gateway" } else { "router" };
        self.hello = hello;
        self.context.links.enter(&self.hello, &self.way);
        metrics::link(kind, 1.0);
        self.take_changed(changed_users);
        let mut goes_on = self.take(requests, hints).await;
        while goes_on {
            let message = tokio::select! {
                () = cut.cancelled() => break,
                message = incoming.message() => message,
            };
            let Ok(Some(ToRouter { hello, requests, hints, changed_users })) = message else { break };
            if !self.may_say(hello.as_ref().unwrap_or(&self.hello), &hints, &changed_users) {
                cut.cancel();
                break;
            }
            if let Some(hello) = hello {
                // A gateway that had to register anew.
                self.context.links.leave(&self.hello, &self.way);
                self.hello = hello;
                self.context.links.enter(&self.hello, &self.way);
            }
            self.take_changed(changed_users);
            goes_on = self.take(requests, hints).await;
        }
        self.context.links.leave(&self.hello, &self.way);
        metrics::link(kind, -1.0);
    }

    /// A gateway's token speaks for gateways, and hints are for routers alone.
    fn may_say(&self, hello: &Hello, hints: &[Hint], changed_users: &[String]) -> bool {
        let may = match (self.tier, hello.kind()) {
            (Tier::Gateway, NodeKind::Gateway) => hints.is_empty() && changed_users.is_empty(),
            (Tier::Router, NodeKind::Router) => true,
            _ => false,
        };
        if !may {
            tracing::warn!(tier = %self.tier, "a link was cut: it said what the token of its tier does not allow");
        }
        may
    }

    /// False if nobody wants answers any more.
    async fn take(&mut self, requests: Vec<RouterRequest>, hints: Vec<Hint>) -> bool {
        for hint in hints {
            self.take_hint(hint);
        }
        for request in requests {
            // Waits while too many answers are outstanding or unread: this is how the caller is slowed down.
            let Ok(place) = self.replies.clone().reserve_owned().await else { return false };
            let since = Instant::now();
            let RouterRequest { id, ring_version, traceparent, deadline_ms, era, op } = request;
            let counted = self.context.in_flight.enter();
            let name = op.as_ref().map_or("none", op_name);
            let slot = ReplySlot { id, place, op: name, since, _counted: counted };
            let Some(op) = op else {
                slot.answer(Failure::Invalid("operation is missing").into());
                continue;
            };
            let user = match routed_by(&op) {
                Ok(user) => user,
                Err(failure) => {
                    slot.answer(failure.into());
                    continue;
                }
            };
            if let Err(answer) = self.pass(&Asked::new(&op, &user, ring_version, era)).await {
                slot.answer(answer);
                continue;
            }
            let span = (!traceparent.is_empty()).then(|| {
                let span = tracing::info_span!("route_message", op = name);
                trace::continue_from(&span, &traceparent);
                span
            });
            let deadline = deadline(since, deadline_ms, self.context.longest);
            let request = Request { user, op, lease: self.hello.lease, deadline, span, slot };
            if !self.context.partitions.request(request).await {
                return false;
            }
        }
        true
    }

    /// Through the gate, or the answer that the request gets instead.
    async fn pass(&mut self, asked: &Asked<'_>) -> Result<(), Answer> {
        loop {
            let until = {
                let now = Instant::now();
                let held = self.context.lease.borrow().as_ref().is_some_and(|held| held.until > now);
                match self.gate.pass(asked, &self.context.topology.borrow(), held, now) {
                    Verdict::Pass => return Ok(()),
                    Verdict::NotOwner(not) => return Err(router_reply::Result::NotOwner(not)),
                    Verdict::Wait(until) => until,
                }
            };
            let newer = self.context.topology.wait_for(|topology| topology.ring.version() >= asked.routed_by);
            // Whether it came in time is seen above.
            let stopping = matches!(time::timeout_at(until, newer).await, Ok(Err(_)));
            if stopping {
                time::sleep_until(until).await;
            }
        }
    }

    fn take_changed(&self, users: Vec<String>) {
        for user in users {
            // Another router's word about somebody else's users costs nothing here.
            if let Ok(user) = UserId::new(&user)
                && self.context.topology.borrow().owns(user.as_str())
            {
                self.context.partitions.changed(user);
            }
        }
    }

    fn take_hint(&self, hint: Hint) {
        let (Ok(user), Some(position)) = (UserId::new(&hint.user), hint.position) else {
            tracing::debug!("a hint without user or position was dropped");
            return;
        };
        // Its owner now is another router; the heartbeat brings the head to the sessions.
        if !self.context.topology.borrow().owns(user.as_str()) {
            metrics::hint(false);
            return;
        }
        let except = (hint.except_lease, hint.except_connection);
        let (envelope, traceparent) = (hint.envelope, hint.traceparent);
        self.context.partitions.deliver(Delivery {
            user,
            incarnation: hint.incarnation,
            position,
            envelope,
            traceparent,
            except,
        });
    }
}

/// All that waits for one link. Ends when the reader has ended and all its requests are answered.
pub(crate) struct Outgoing {
    views: WatchStream<Arc<Topology>>,
    replies: Batches<RouterReply>,
    pushes: Batches<Push>,
    evictions: Batches<Evict>,
    /// Ends it at once.
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Ends it when nothing waits any more.
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Stream for Outgoing {
    type Item = Result<FromRouter, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.cut.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        let mut message = FromRouter::default();
        let mut something = false;
        // Before the first view there is nothing to say; the newest of several is enough.
        while let Poll::Ready(Some(topology)) = Pin::new(&mut this.views).poll_next(context) {
            if topology.is_known() {
                message.registry = Some((*topology.view).clone());
                something = true;
            }
        }
        match Pin::new(&mut this.replies).poll_next(context) {
            Poll::Ready(Some(replies)) => {
                message.replies = replies;
                something = true;
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        if let Poll::Ready(Some(evictions)) = Pin::new(&mut this.evictions).poll_next(context) {
            message.evictions = evictions;
            something = true;
        }
        if let Poll::Ready(Some(pushes)) = Pin::new(&mut this.pushes).poll_next(context) {
            message.pushes = pushes;
            something = true;
        }
        if something {
            return Poll::Ready(Some(Ok(message)));
        }
        this.closing.as_mut().poll(context).map(|()| None)
    }
}

/// Encoded bytes, roughly.
fn weigh(reply: &RouterReply) -> usize {
    let content = match &reply.result {
        Some(router_reply::Result::TimelineRead(read)) => {
            read.entries.iter().map(|entry| entry.envelope.len() + 16).sum()
        }
        _ => 0,
    };
    content + 256
}
