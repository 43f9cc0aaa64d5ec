//! The link from a gateway or another router: requests in, answers and pushes out.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use carillon_proto::{
    Batches, GroupId, LeaseId, TimelineId, UserId, Woken, clock,
    lease::HeldLease,
    limits,
    pb::{
        link::{
            Behind, Directed, Evict, Follow, Forget, FromRouter, GatewaysLoad, Hello, Hint, NotOwner, Push,
            RouterReply, RouterRequest, Signaled, ToRouter, router_reply, router_request::Op, signaled,
        },
        store::NodeKind,
    },
    peer::Tier,
    queues,
    stream::Incoming,
    trace,
};
use futures_util::Stream;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use crate::{
    delivery::Delivery,
    followers::Followers,
    gate::{Gate, GateRequest, Verdict},
    gateway_links::{GatewayLink, GatewayLinks},
    metrics,
    missed::{Missed, Taken},
    partition::Partitions,
    peers::Peers,
    reply::{Answer, Failure, InFlight, ReplySlot, Request, deadline, op_name, routed_by},
    said::Said,
    topology::Topology,
};

/// Most `Behind`s in one message.
const MISSED: usize = 256;
/// Deadline for the caller's hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// What every link needs.
#[derive(Clone)]
pub(crate) struct LinkContext {
    pub(crate) links: GatewayLinks,
    pub(crate) partitions: Partitions,
    pub(crate) peers: Peers,
    pub(crate) topology: watch::Receiver<Arc<Topology>>,
    pub(crate) lease: watch::Receiver<Option<HeldLease>>,
    pub(crate) load: watch::Receiver<Option<GatewaysLoad>>,
    pub(crate) followers: Followers,
    pub(crate) in_flight: InFlight,
    pub(crate) longest: Duration,
    pub(crate) requests_bound: usize,
    pub(crate) pushes_bound: usize,
}

/// Reads the link. Made together with its outgoing half.
pub(crate) struct Reader {
    context: LinkContext,
    /// The tier of the caller's token.
    tier: Tier,
    replies: mpsc::Sender<RouterReply>,
    queues: GatewayLink,
    hello: Hello,
    gate: Gate,
}

/// Opens the two halves of a link.
pub(crate) fn open(context: LinkContext, tier: Tier, closing: &CancellationToken) -> (Reader, Outgoing) {
    let (to_replies, replies) = mpsc::channel(context.requests_bound);
    queues::watch("router_replies", &to_replies);
    let (link, queues) = context.links.new_link(context.pushes_bound);
    let outgoing = Outgoing {
        views: Woken::new(WatchStream::new(context.topology.clone())),
        loads: Woken::new(WatchStream::new(context.load.clone())),
        replies: Woken::new(Batches::new(replies, weigh)),
        pushes: Woken::new(Batches::new(queues.pushes, |push| push.envelope.len() + 256)),
        missed: Woken::new(queues.missed),
        signals: Woken::new(Batches::new(queues.signals, signal_size)),
        directed: Woken::new(Batches::new(queues.directed, |directed| directed.body.len() + 64)),
        evictions: Woken::new(Batches::new(queues.evictions, |_| 16)),
        describe: Woken::new(Batches::new(queues.describe, |_| 16)),
        cut: Woken::new(Box::pin(link.cut.clone().cancelled_owned())),
        closing: Woken::new(Box::pin(closing.clone().cancelled_owned())),
    };
    let (hello, gate) = (Hello::default(), Gate::new(clock::now()));
    let reader = Reader { context, tier, replies: to_replies, queues: link, hello, gate };
    (reader, outgoing)
}

impl Reader {
    /// Runs until the other side ends the link or breaks the rules. Requests in flight continue.
    pub(crate) async fn run(mut self, mut incoming: Incoming<ToRouter>) {
        let cut = self.queues.cut.clone();
        let first = clock::timeout(HELLO_TIMEOUT, incoming.message()).await;
        let Some(Ok(Some(mut said @ ToRouter { hello: Some(_), .. }))) = first else {
            tracing::debug!("a link without a greeting was closed");
            cut.cancel();
            return;
        };
        let hello = said.hello.take().unwrap_or_default();
        if !self.may_say(&hello, &said) {
            cut.cancel();
            return;
        }
        let kind = if hello.kind() == NodeKind::Gateway { "gateway" } else { "router" };
        self.hello = hello;
        let of_gateway = (self.hello.kind() == NodeKind::Gateway).then_some(LeaseId(self.hello.lease));
        if let Some(gateway) = of_gateway {
            self.context.links.enter(gateway, &self.queues);
        }
        metrics::link(kind, 1.0);
        // Hints that the other router sent on an earlier link may have been lost.
        let mut goes_on = self.hello.kind() == NodeKind::Gateway || self.context.partitions.doubt().await;
        goes_on = goes_on && self.take(said).await;
        let cancelled = pin!(cut.cancelled());
        let mut is_cut = Woken::new(cancelled);
        while goes_on {
            // Both are cancel-safe.
            let message = tokio::select! {
                biased;
                () = &mut is_cut => break,
                message = incoming.message() => message,
            };
            let Ok(Some(said)) = message else { break };
            // A gateway with a new lease opens a new link.
            if said.hello.is_some() || !self.may_say(&self.hello, &said) {
                cut.cancel();
                break;
            }
            goes_on = self.take(said).await;
        }
        if let Some(gateway) = of_gateway {
            self.context.links.leave(gateway, &self.queues);
            self.context.followers.left(self.queues.number);
        }
        metrics::link(kind, -1.0);
    }

    /// A gateway's token may speak for gateways only, and only routers may send hints.
    fn may_say(&self, hello: &Hello, said: &ToRouter) -> bool {
        let may = match (self.tier, hello.kind()) {
            (Tier::Gateway, NodeKind::Gateway) => {
                let of_contacts =
                    said.presences.len() + said.probes.len() + said.contact_news.len() + said.scheduled_news.len();
                said.hints.is_empty() && said.changed_users.is_empty() && said.marked.is_empty() && of_contacts == 0
            }
            (Tier::Router, NodeKind::Router) => {
                let answers = said.direct_answers.len() + said.descriptions.len();
                let lists = said.forgets.len() + said.signals.len() + answers;
                lists == 0 && said.announced_all == 0 && !said.draining
            }
            _ => false,
        };
        if !may {
            tracing::warn!(tier = %self.tier, "a link was cut: it said what the token of its tier does not allow");
        }
        may
    }

    /// False if nobody wants answers any more.
    async fn take(&mut self, said: ToRouter) -> bool {
        let ToRouter { hello: _, requests, hints, changed_users, forgets, announced_all, signals, .. } = said;
        if said.draining {
            self.queues.drains();
        }
        self.take_changed(changed_users);
        let presences = said.presences.into_iter().map(Said::Presences);
        let probes = said.probes.into_iter().map(Said::Probe);
        let news = said.contact_news.into_iter().map(|news| Said::News(Box::new(news)));
        let scheduled = said.scheduled_news.into_iter().map(Said::Scheduled);
        for said in presences.chain(probes).chain(news).chain(scheduled) {
            // A full partition's users ask again.
            drop(self.context.partitions.say(said));
        }
        for hint in hints {
            self.take_hint(hint);
        }
        for marked in said.marked {
            self.context.partitions.marked(marked);
        }
        for signal in signals {
            self.context.partitions.signal(signal);
        }
        for answer in said.direct_answers {
            self.queues.answered(answer);
        }
        for description in said.descriptions {
            self.queues.descriptions.answered(description);
        }
        let (gateway, link) = (LeaseId(self.hello.lease), self.queues.number);
        for Forget { user, connection } in forgets {
            if let Ok(user) = UserId::new(&user)
                && !self.context.partitions.forget(user, gateway, connection, link).await
            {
                return false;
            }
        }
        for request in requests {
            // Waits while too many answers are outstanding or unread: this slows down the caller.
            let Ok(place) = self.replies.clone().reserve_owned().await else { return false };
            let since = clock::now();
            let RouterRequest { id, ring_version, traceparent, deadline_ms, era, op } = request;
            let counted = self.context.in_flight.enter();
            let name = op.as_ref().map_or("none", op_name);
            let slot = ReplySlot { id, place, op: name, since, _counted: counted };
            let Some(op) = op else {
                slot.answer(Failure::Invalid("operation is missing").into());
                continue;
            };
            let of = match routed_by(&op) {
                Ok(of) => of,
                Err(failure) => {
                    slot.answer(failure.into());
                    continue;
                }
            };
            if let Err(answer) = self.pass(&GateRequest::new(&op, of.owner(), ring_version, era)).await {
                slot.answer(answer);
                continue;
            }
            if let Op::Follow(follow) = &op
                && let Err(answer) = self.follow(follow)
            {
                slot.answer(*answer);
                continue;
            }
            let span = (!traceparent.is_empty()).then(|| {
                let span = tracing::info_span!("route_message", op = name);
                trace::continue_from(&span, &traceparent);
                span
            });
            let deadline = deadline(since, deadline_ms, self.context.longest);
            let request = Request { of, op, lease: gateway, link, deadline, span, slot };
            if !self.context.partitions.request(request).await {
                return false;
            }
        }
        announced_all == 0 || self.context.partitions.announced_all(gateway, link, announced_all).await
    }

    /// Before the heads are read, so that nothing falls between.
    fn follow(&self, follow: &Follow) -> Result<(), Box<Answer>> {
        if follow.groups.len().max(follow.unfollow.len()) > limits::HEADS {
            return Err(Box::new(Failure::Invalid("too many groups at once").into()));
        }
        let gateway = LeaseId(self.hello.lease);
        for group in &follow.unfollow {
            if let Ok(group) = GroupId::new(group) {
                self.context.followers.unfollow(gateway, &group);
            }
        }
        let topology = self.context.topology.borrow();
        if follow.groups.iter().any(|group| !topology.owns(group)) {
            return Err(Box::new(Answer::NotOwner(NotOwner { ring_version: topology.ring.version() })));
        }
        for group in &follow.groups {
            if let Ok(group) = GroupId::new(group) {
                self.context.followers.follow(gateway, self.queues.number, &group);
            }
        }
        Ok(())
    }

    /// Passes the request through the gate, or returns the answer that it gets instead.
    async fn pass(&mut self, asked: &GateRequest<'_>) -> Result<(), Answer> {
        loop {
            let until = {
                let now = clock::now();
                let held = self.context.lease.borrow().as_ref().is_some_and(|held| held.until > now);
                match self.gate.pass(asked, &self.context.topology.borrow(), held, now) {
                    Verdict::Pass => return Ok(()),
                    Verdict::NotOwner(not) => return Err(router_reply::Result::NotOwner(not)),
                    Verdict::Wait(until) => until,
                }
            };
            let newer = self.context.topology.wait_for(|topology| topology.ring.version() >= asked.routed_by);
            // The check above shows whether it came in time.
            let stopping = matches!(clock::timeout_at(until, newer).await, Some(Err(_)));
            if stopping {
                clock::sleep_until(until).await;
            }
        }
    }

    fn take_changed(&self, users: Vec<String>) {
        for user in users {
            // A word of another router about users that this router does not own costs nothing.
            if let Ok(user) = UserId::new(&user)
                && self.context.topology.borrow().owns(user.as_str())
            {
                self.context.partitions.changed(user);
            }
        }
    }

    fn take_hint(&self, hint: Hint) {
        let Some(delivery) = Delivery::of_hint(hint) else {
            tracing::debug!("a hint without a timeline or a position was dropped");
            return;
        };
        // The new owner may have read the head before this append. Sessions that it does not know yet are here.
        if !delivery.passed_on
            && let Some(owner) = self.context.topology.borrow().elsewhere(delivery.timeline.owner())
        {
            self.context.peers.hint(owner, Delivery { passed_on: true, ..delivery.clone() });
        }
        self.context.partitions.deliver(delivery);
    }
}

/// Everything that waits to be sent on one link. Ends when the reader has ended and all its requests are answered.
pub(crate) struct Outgoing {
    views: Woken<WatchStream<Arc<Topology>>>,
    loads: Woken<WatchStream<Option<GatewaysLoad>>>,
    replies: Woken<Batches<RouterReply>>,
    pushes: Woken<Batches<Push>>,
    missed: Woken<Arc<Missed<TimelineId, Behind>>>,
    signals: Woken<Batches<Signaled>>,
    directed: Woken<Batches<Directed>>,
    evictions: Woken<Batches<Evict>>,
    describe: Woken<Batches<u64>>,
    /// Ends the link at once.
    cut: Woken<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Ends the link when nothing waits any more.
    closing: Woken<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Stream for Outgoing {
    type Item = Result<FromRouter, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if Pin::new(&mut this.cut).poll(context).is_ready() {
            return Poll::Ready(None);
        }
        let mut message = FromRouter::default();
        let mut something = false;
        // Before the first view there is nothing to send; of several views the newest is enough.
        while let Poll::Ready(Some(topology)) = Pin::new(&mut this.views).poll_next(context) {
            if topology.is_known() {
                message.registry = Some((*topology.view).clone());
                something = true;
            }
        }
        while let Poll::Ready(Some(load)) = Pin::new(&mut this.loads).poll_next(context) {
            something |= load.is_some();
            message.load = load;
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
        if let Poll::Ready(Some(describe)) = Pin::new(&mut this.describe).poll_next(context) {
            message.describe = describe;
            something = true;
        }
        if let Poll::Ready(Some(directed)) = Pin::new(&mut this.directed).poll_next(context) {
            message.directed = directed;
            something = true;
        }
        if let Poll::Ready(Some(signals)) = Pin::new(&mut this.signals).poll_next(context) {
            message.signals = signals;
            something = true;
        }
        if let Poll::Ready(Some(pushes)) = Pin::new(&mut this.pushes).poll_next(context) {
            message.pushes = pushes;
            something = true;
        }
        match this.missed.poll_by(context, |missed, context| missed.poll_take(context, MISSED)) {
            Poll::Ready(Taken::Some(behind)) => {
                metrics::behind();
                message.behind = behind;
                something = true;
            }
            // On its next link the gateway announces all its sessions, and learns their heads.
            Poll::Ready(Taken::Anybody) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        if something {
            return Poll::Ready(Some(Ok(message)));
        }
        Pin::new(&mut this.closing).poll(context).map(|()| None)
    }
}

/// Approximate encoded size, in bytes.
fn signal_size(signal: &Signaled) -> usize {
    let what = match &signal.notice {
        Some(signaled::Notice::Presences(presences)) => {
            presences.presences.iter().map(|presence| presence.user.len() + presence.status.len() + 32).sum()
        }
        Some(signaled::Notice::ContactNews(_)) => 4096,
        Some(signaled::Notice::Conversations(moved)) => moved.encoded_len(),
        Some(signaled::Notice::Marked(marked)) => marked.encoded_len(),
        Some(signaled::Notice::PrivacyNews(news)) => news.encoded_len(),
        Some(signaled::Notice::ChatState(told)) => told.encoded_len(),
        Some(signaled::Notice::ScheduledNews(news)) => news.encoded_len(),
        None => 0,
    };
    64 + signal.body.len() + signal.connections.len() * 4 + what
}

/// Approximate encoded size, in bytes.
fn weigh(reply: &RouterReply) -> usize {
    let content = match &reply.result {
        Some(router_reply::Result::TimelineRead(read)) => {
            read.entries.iter().map(|entry| entry.envelope.len() + 16).sum()
        }
        Some(router_reply::Result::DirectAnswered(answered)) => answered.body.len(),
        Some(router_reply::Result::ScheduledRead(read)) => read.encoded_len(),
        _ => 0,
    };
    content + 256
}
