//! The ways down to gateways, and what each kind of word does when there is no room: a push is dropped and told later, a
//! signal is dropped, a directed request is refused, and for an eviction the link is cut.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use carillon_proto::{
    LeaseId, TimelineId, UserId,
    pb::link::{Behind, DirectAnswer, DirectAnswered, Directed, Evict, Push, Signaled, direct_answer, evict},
};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics,
    missed::Missed,
    reply::{Answer, Failure, ReplySlot},
};

/// Evictions that wait for a gateway. When it is full the link is cut: the gateway opens it again, announces its
/// sessions, and hears which of them were replaced.
const EVICTIONS: usize = 1024;
/// Signals that wait for a gateway. When it is full they are dropped.
const SIGNALS: usize = 1024;
/// Directed requests that wait for a gateway or for its answer. When there are so many, more are refused.
const DIRECTED: usize = 1024;

/// The gateways' links, by lease. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Links {
    gateways: Arc<RwLock<HashMap<LeaseId, Way>>>,
    numbers: Arc<AtomicU64>,
}

/// The way down one link.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) number: u64,
    pushes: mpsc::Sender<Push>,
    /// Whose pushes were dropped.
    missed: Arc<Missed<UserId, Behind>>,
    signals: mpsc::Sender<Signaled>,
    directed: mpsc::Sender<Directed>,
    waiting: Arc<Mutex<Waiting>>,
    evictions: mpsc::Sender<Evict>,
    pub(crate) cut: CancellationToken,
}

/// The lower end of a way.
pub(crate) struct Queues {
    pub(crate) pushes: mpsc::Receiver<Push>,
    pub(crate) missed: Arc<Missed<UserId, Behind>>,
    pub(crate) signals: mpsc::Receiver<Signaled>,
    pub(crate) directed: mpsc::Receiver<Directed>,
    pub(crate) evictions: mpsc::Receiver<Evict>,
}

/// Directed requests that a gateway has been asked, by their ids on its link.
#[derive(Default)]
struct Waiting {
    last_id: u64,
    slots: BTreeMap<u64, (ReplySlot, Instant)>,
    closed: bool,
}

impl Links {
    /// A way that nobody knows yet.
    pub(crate) fn way(&self, pushes_bound: usize) -> (Way, Queues) {
        let (to_pushes, pushes) = mpsc::channel(pushes_bound);
        let (to_signals, signals) = mpsc::channel(SIGNALS);
        let (to_directed, directed) = mpsc::channel(DIRECTED);
        let (to_evictions, evictions) = mpsc::channel(EVICTIONS);
        let missed: Arc<Missed<UserId, Behind>> = Arc::default();
        let way = Way {
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            pushes: to_pushes,
            missed: Arc::clone(&missed),
            signals: to_signals,
            directed: to_directed,
            waiting: Arc::default(),
            evictions: to_evictions,
            cut: CancellationToken::new(),
        };
        (way, Queues { pushes, missed, signals, directed, evictions })
    }

    /// False if it was dropped. The gateway hears of that when there is room again; one without a link announces its
    /// sessions when it has one, and hears their heads.
    pub(crate) fn push(&self, gateway: LeaseId, push: Push) -> bool {
        let gateways = self.gateways.read();
        let Some(way) = gateways.get(&gateway) else { return false };
        match way.pushes.try_send(push) {
            Ok(()) => true,
            Err(TrySendError::Full(Push { connections, timeline, position, incarnation, .. })) => {
                way.missed(Behind { connections, timeline, position, incarnation });
                false
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }

    pub(crate) fn behind(&self, gateway: LeaseId, behind: Behind) {
        if let Some(way) = self.gateways.read().get(&gateway) {
            way.missed(behind);
        }
    }

    pub(crate) fn signal(&self, gateway: LeaseId, signal: Signaled) {
        let given = self.gateways.read().get(&gateway).is_some_and(|way| way.signals.try_send(signal).is_ok());
        metrics::signal(given);
    }

    /// The answer comes by `answered`, or it is that there is none.
    pub(crate) fn direct(&self, gateway: LeaseId, directed: Directed, slot: ReplySlot, deadline: Instant) {
        match self.gateways.read().get(&gateway) {
            Some(way) => way.direct(directed, slot, deadline),
            None => slot.answer(Failure::Unreached.into()),
        }
    }

    pub(crate) fn evict(&self, gateway: LeaseId, connection: u64, why: evict::Why) {
        // A gateway without a link announces its sessions when it has one.
        if let Some(way) = self.gateways.read().get(&gateway)
            && way.evictions.try_send(Evict { connection, why: why.into() }).is_err()
        {
            way.cut.cancel();
        }
    }

    pub(crate) fn enter(&self, gateway: LeaseId, way: &Way) {
        self.gateways.write().insert(gateway, way.clone());
    }

    /// A newer link of the same gateway stays.
    pub(crate) fn leave(&self, gateway: LeaseId, way: &Way) {
        {
            let mut gateways = self.gateways.write();
            if gateways.get(&gateway).is_some_and(|known| known.number == way.number) {
                gateways.remove(&gateway);
            }
        }
        way.waiting.lock().close();
    }
}

impl Way {
    fn missed(&self, behind: Behind) {
        let timeline = behind.timeline.as_ref().map(TimelineId::from_client);
        if let Some(Ok(Some(TimelineId::Inbox(user)))) = timeline {
            self.missed.note(user, behind);
        }
    }

    fn direct(&self, mut directed: Directed, slot: ReplySlot, deadline: Instant) {
        let mut waiting = self.waiting.lock();
        waiting.expire(Instant::now());
        if waiting.closed {
            return slot.answer(Failure::Unreached.into());
        }
        if waiting.slots.len() >= DIRECTED {
            return slot.answer(Failure::Crowded.into());
        }
        waiting.last_id += 1;
        let id = waiting.last_id;
        directed.id = id;
        match self.directed.try_send(directed) {
            Ok(()) => drop(waiting.slots.insert(id, (slot, deadline))),
            Err(_) => slot.answer(Failure::Crowded.into()),
        }
    }

    /// The gateway's word about a directed request. A second one is nothing.
    pub(crate) fn answered(&self, answer: DirectAnswer) {
        let Some((slot, _)) = self.waiting.lock().slots.remove(&answer.id) else { return };
        slot.answer(match answer.result {
            Some(direct_answer::Result::Body(body)) => Answer::DirectAnswered(DirectAnswered { body }),
            Some(direct_answer::Result::Refusal(refusal)) => Answer::Refusal(refusal),
            None => Failure::Invalid("the answer is missing").into(),
        });
    }
}

impl Waiting {
    /// Ids are in the order of the questions; a late one may wait behind one that has longer.
    fn expire(&mut self, now: Instant) {
        while let Some(first) = self.slots.first_entry()
            && first.get().1 <= now
        {
            first.remove().0.answer(Failure::Unreached.into());
        }
    }

    fn close(&mut self) {
        self.closed = true;
        for (slot, _) in std::mem::take(&mut self.slots).into_values() {
            slot.answer(Failure::Unreached.into());
        }
    }
}
