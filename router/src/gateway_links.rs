//! The queues towards gateways, with a rule for each kind of message when its queue is full: a push is dropped and
//! reported later, a signal is dropped, a directed request is refused, and for an eviction the link is cut.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use carillon_proto::{
    KeyedMap, LeaseId, TimelineId, clock, limits,
    pb::{
        diagnostics::Description,
        link::{Behind, DirectAnswer, DirectAnswered, Directed, Evict, Push, Signaled, direct_answer, evict},
    },
    queues,
};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    descriptions::Descriptions,
    metrics,
    missed::Missed,
    reply::{Answer, Failure, ReplySlot},
};

/// Evictions that wait for a gateway. When the queue is full the link is cut: the gateway opens it again, announces its
/// sessions, and learns which of them were replaced.
const EVICTIONS: usize = 1024;
/// Signals that wait for a gateway. When the queue is full, further ones are dropped.
const SIGNALS: usize = 1024;
/// Directed requests that wait for a gateway or its answer. Further ones are refused.
const DIRECTED: usize = 1024;

/// The gateways' links, by lease. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct GatewayLinks {
    gateways: Arc<RwLock<KeyedMap<LeaseId, Open>>>,
    numbers: Arc<AtomicU64>,
}

/// The open links of one gateway, in the order of their numbers; never empty. What is for the gateway goes to the last one.
/// There are several while one that the gateway has given up has not ended here. It may even be the last one, if it was
/// opened by a call that arrived late.
#[derive(Default)]
struct Open(Vec<GatewayLink>);

/// Queues towards one gateway.
#[derive(Clone)]
pub(crate) struct GatewayLink {
    pub(crate) number: u64,
    pushes: mpsc::Sender<Push>,
    /// Timelines whose pushes were dropped, and how far they reach.
    missed: Arc<Missed<TimelineId, Behind>>,
    signals: mpsc::Sender<Signaled>,
    directed: mpsc::Sender<Directed>,
    waiting: Arc<Mutex<Waiting>>,
    evictions: mpsc::Sender<Evict>,
    pub(crate) descriptions: Descriptions,
    /// The gateway is stopping.
    draining: Arc<AtomicBool>,
    pub(crate) cut: CancellationToken,
}

/// The receiving ends of a link's queues.
pub(crate) struct Queues {
    pub(crate) pushes: mpsc::Receiver<Push>,
    pub(crate) missed: Arc<Missed<TimelineId, Behind>>,
    pub(crate) signals: mpsc::Receiver<Signaled>,
    pub(crate) directed: mpsc::Receiver<Directed>,
    pub(crate) evictions: mpsc::Receiver<Evict>,
    pub(crate) describe: mpsc::Receiver<u64>,
}

/// Directed requests without an answer, by their ids on the link.
#[derive(Default)]
struct Waiting {
    last_id: u64,
    /// Where the answers go, each with its deadline.
    slots: HashMap<u64, (ReplySlot, Instant)>,
    closed: bool,
}

impl GatewayLinks {
    /// Makes a link that is not in the table yet.
    pub(crate) fn new_link(&self, pushes_bound: usize) -> (GatewayLink, Queues) {
        let (to_pushes, pushes) = mpsc::channel(pushes_bound);
        let (to_signals, signals) = mpsc::channel(SIGNALS);
        let (to_directed, directed) = mpsc::channel(DIRECTED);
        let (to_evictions, evictions) = mpsc::channel(EVICTIONS);
        let (descriptions, describe) = Descriptions::new();
        queues::watch("router_pushes", &to_pushes);
        queues::watch("router_signals", &to_signals);
        queues::watch("router_directed", &to_directed);
        queues::watch("router_evictions", &to_evictions);
        let missed: Arc<Missed<TimelineId, Behind>> = Arc::default();
        let link = GatewayLink {
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            pushes: to_pushes,
            missed: Arc::clone(&missed),
            signals: to_signals,
            directed: to_directed,
            waiting: Arc::default(),
            evictions: to_evictions,
            descriptions,
            draining: Arc::default(),
            cut: CancellationToken::new(),
        };
        (link, Queues { pushes, missed, signals, directed, evictions, describe })
    }

    /// False if the push was dropped. The gateway is told when there is room again. A gateway without a link announces
    /// its sessions when it has one, and learns their heads.
    pub(crate) fn push(&self, gateway: LeaseId, push: Push) -> bool {
        let gateways = self.gateways.read();
        let Some(link) = gateways.get(&gateway).and_then(Open::last) else { return false };
        match link.pushes.try_send(push) {
            Ok(()) => true,
            Err(TrySendError::Full(Push { timeline, position, incarnation, .. })) => {
                link.missed(Behind { timeline, position, incarnation });
                false
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }

    pub(crate) fn behind(&self, gateway: LeaseId, behind: Behind) {
        if let Some(link) = self.gateways.read().get(&gateway).and_then(Open::last) {
            link.missed(behind);
        }
    }

    /// False if it was dropped.
    pub(crate) fn signal(&self, gateway: LeaseId, signal: Signaled) -> bool {
        let gateways = self.gateways.read();
        let link = gateways.get(&gateway).and_then(Open::last);
        let given = link.is_some_and(|link| link.signals.try_send(signal).is_ok());
        metrics::signal(given);
        given
    }

    /// The answer comes by `answered`; `Unreached` if none can come.
    pub(crate) fn direct(&self, gateway: LeaseId, directed: Directed, slot: ReplySlot, deadline: Instant) {
        match self.gateways.read().get(&gateway).and_then(Open::last) {
            Some(link) => link.direct(directed, slot, deadline),
            None => slot.answer(Failure::Unreached.into()),
        }
    }

    pub(crate) fn evict(&self, gateway: LeaseId, connection: u64, why: evict::Why) {
        // A gateway without a link announces its sessions when it has one.
        if let Some(link) = self.gateways.read().get(&gateway).and_then(Open::last)
            && link.evictions.try_send(Evict { connection, why: why.into() }).is_err()
        {
            link.cut.cancel();
        }
    }

    /// Asks the gateway for what it tells of itself. `None` if it has no link here, or too many ask.
    pub(crate) fn describe(&self, gateway: LeaseId) -> Option<oneshot::Receiver<Description>> {
        self.gateways.read().get(&gateway).and_then(Open::last)?.descriptions.ask()
    }

    /// The number of gateways that are stopping.
    pub(crate) fn draining(&self) -> u32 {
        let gateways = self.gateways.read();
        let draining = gateways.values().filter_map(Open::last).filter(|link| link.draining.load(Ordering::Relaxed));
        u32::try_from(draining.count()).unwrap_or(u32::MAX)
    }

    /// Ends directed requests whose deadline has passed. To be called periodically: each request holds a place for its
    /// answer.
    pub(crate) fn expire(&self, now: Instant) {
        for link in self.gateways.read().values().flat_map(|open| &open.0) {
            link.waiting.lock().expire(now);
        }
    }

    pub(crate) fn enter(&self, gateway: LeaseId, link: &GatewayLink) {
        let mut gateways = self.gateways.write();
        let Open(open) = gateways.entry(gateway).or_default();
        // A newer one may have said its hello first.
        let place = open.partition_point(|known| known.number < link.number);
        open.insert(place, link.clone());
    }

    /// If others of this gateway are open, and what was for it went to this one, the others are cut: on its next link the
    /// gateway announces all its sessions, and learns what they missed.
    pub(crate) fn leave(&self, gateway: LeaseId, link: &GatewayLink) {
        for other in self.remove(gateway, link) {
            other.cut.cancel();
        }
        link.waiting.lock().close();
    }

    /// Returns the links that are to be cut.
    fn remove(&self, gateway: LeaseId, link: &GatewayLink) -> Vec<GatewayLink> {
        let mut gateways = self.gateways.write();
        let Some(Open(open)) = gateways.get_mut(&gateway) else { return Vec::new() };
        let was_last = open.last().is_some_and(|last| last.number == link.number);
        open.retain(|known| known.number != link.number);
        let others = if was_last { open.clone() } else { Vec::new() };
        if open.is_empty() {
            gateways.remove(&gateway);
        }
        others
    }
}

impl Open {
    fn last(&self) -> Option<&GatewayLink> {
        self.0.last()
    }
}

impl GatewayLink {
    pub(crate) fn drains(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn missed(&self, behind: Behind) {
        let timeline = behind.timeline.as_ref().map(TimelineId::from_client);
        if let Some(Ok(Some(timeline))) = timeline {
            self.missed.note(timeline, behind);
        }
    }

    fn direct(&self, mut directed: Directed, slot: ReplySlot, deadline: Instant) {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return slot.answer(Failure::Unreached.into());
        }
        if waiting.slots.len() >= DIRECTED {
            waiting.expire(clock::now());
            if waiting.slots.len() >= DIRECTED {
                return slot.answer(Failure::GatewayCrowded.into());
            }
        }
        waiting.last_id += 1;
        let id = waiting.last_id;
        directed.id = id;
        match self.directed.try_send(directed) {
            Ok(()) => drop(waiting.slots.insert(id, (slot, deadline))),
            Err(TrySendError::Full(_)) => slot.answer(Failure::GatewayCrowded.into()),
            Err(TrySendError::Closed(_)) => slot.answer(Failure::Unreached.into()),
        }
    }

    /// Takes the gateway's answer to a directed request. A second answer is ignored.
    pub(crate) fn answered(&self, answer: DirectAnswer) {
        let Some((slot, _)) = self.waiting.lock().slots.remove(&answer.id) else { return };
        slot.answer(match answer.result {
            Some(direct_answer::Result::Body(body)) if body.len() > limits::MAX_SIGNAL_BYTES => {
                Failure::LargeAnswer { bytes: body.len(), max: limits::MAX_SIGNAL_BYTES }.into()
            }
            Some(direct_answer::Result::Body(body)) => Answer::DirectAnswered(DirectAnswered { body }),
            Some(direct_answer::Result::Refusal(refusal)) => Answer::Refusal(refusal),
            // A kind that this router does not know.
            None => Failure::Unreached.into(),
        });
    }
}

impl Waiting {
    /// Ends requests whose deadline has passed.
    fn expire(&mut self, now: Instant) {
        for (_, (slot, _)) in self.slots.extract_if(|_, (_, deadline)| *deadline <= now) {
            slot.answer(Failure::Unreached.into());
        }
    }

    fn close(&mut self) {
        self.closed = true;
        for (slot, _) in std::mem::take(&mut self.slots).into_values() {
            slot.answer(Failure::Unreached.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use carillon_proto::pb::client::Code;

    use super::*;
    use crate::reply::tests::Replies;

    const GATEWAY: LeaseId = LeaseId(10);

    fn body(bytes: usize) -> Option<direct_answer::Result> {
        Some(direct_answer::Result::Body(Bytes::from(vec![0; bytes])))
    }

    fn code(answer: Option<(u64, Answer)>) -> Option<(u64, Code)> {
        answer.map(|(id, answer)| match answer {
            Answer::Refusal(refusal) => (id, refusal.code()),
            other => panic!("not refused: {other:?}"),
        })
    }

    #[test]
    fn a_greeting_that_is_read_late_does_not_put_an_older_link_in_the_place_of_a_newer_one() {
        let links = GatewayLinks::default();
        let ((older, _older), (newer, mut queues)) = (links.new_link(1), links.new_link(1));
        links.enter(GATEWAY, &newer);
        links.enter(GATEWAY, &older);
        assert!(links.push(GATEWAY, Push::default()));
        assert!(queues.pushes.try_recv().is_ok());
        links.leave(GATEWAY, &older);
        assert!(links.push(GATEWAY, Push::default()));
    }

    #[test]
    fn a_link_whose_call_came_late_costs_a_gateway_the_one_that_it_has_and_no_pushes() {
        let links = GatewayLinks::default();
        let ((gateways, _queues), (given_up, _others)) = (links.new_link(1), links.new_link(1));
        links.enter(GATEWAY, &gateways);
        links.enter(GATEWAY, &given_up);
        assert!(links.push(GATEWAY, Push::default()), "to nobody");
        links.leave(GATEWAY, &given_up);
        assert!(gateways.cut.is_cancelled(), "the gateway announces its sessions again");
        links.leave(GATEWAY, &gateways);
        assert!(!links.push(GATEWAY, Push::default()));
    }

    #[test]
    fn directed_requests_end_when_their_time_is_over_in_whichever_order_they_came() {
        let (links, mut replies, now) = (GatewayLinks::default(), Replies::new(), Instant::now());
        let (link, _queues) = links.new_link(1);
        links.enter(GATEWAY, &link);
        for (id, seconds) in [(1, 10), (2, 1)] {
            links.direct(GATEWAY, Directed::default(), replies.slot(id), now + Duration::from_secs(seconds));
        }
        links.expire(now + Duration::from_secs(2));
        assert_eq!(code(replies.next()), Some((2, Code::Unavailable)));
        assert_eq!(replies.next(), None);
    }

    #[test]
    fn a_directed_request_is_refused_by_what_is_in_its_way() {
        let (links, mut replies) = (GatewayLinks::default(), Replies::new());
        let deadline = Instant::now() + Duration::from_secs(10);
        let (link, queues) = links.new_link(1);
        links.enter(GATEWAY, &link);
        let ask = |id: usize| links.direct(GATEWAY, Directed::default(), replies.slot(id as u64), deadline);
        (0..DIRECTED).for_each(ask);
        ask(DIRECTED);
        let (_, refused) = replies.next().expect("answered");
        let Answer::Refusal(refusal) = refused else { panic!("not refused: {refused:?}") };
        assert_eq!((refusal.code(), refusal.retry), (Code::Overloaded, true));
        assert!(refusal.reason.contains("gateway"), "{}", refusal.reason);
        link.answered(DirectAnswer { id: 1, result: body(limits::MAX_SIGNAL_BYTES) });
        assert!(matches!(replies.next(), Some((0, Answer::DirectAnswered(_)))));
        link.answered(DirectAnswer { id: 2, result: body(limits::MAX_SIGNAL_BYTES + 1) });
        assert_eq!(code(replies.next()), Some((1, Code::Internal)));
        link.answered(DirectAnswer { id: 3, result: None });
        assert_eq!(code(replies.next()), Some((2, Code::Unavailable)), "of a kind that is not known");
        drop(queues);
        links.direct(GATEWAY, Directed::default(), replies.slot(5_000), deadline);
        assert_eq!(code(replies.next()), Some((5_000, Code::Unavailable)), "the link has ended");
    }
}
