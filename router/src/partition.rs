//! The task around an [`Owner`]. Each partition has its part of the users.

use std::{future::poll_fn, sync::Arc};

use carillon_proto::{
    LeaseId, TimelineId, UserId, Woken, clock, now_ms,
    pb::{
        admin::{WatchEvent, watch_event::Kind},
        client::Presence,
        link::{Done, Marked, Presences, Push, Signal, signaled::Notice},
    },
};
use futures_util::StreamExt as _;
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
    time::{Duration, Instant},
};
use tokio_stream::wrappers::WatchStream;

use crate::{
    census::Census,
    delivery::Delivery,
    due::Due,
    gateway_links::GatewayLinks,
    metrics,
    missed::{Missed, Taken},
    owner::{Effect, Owner},
    part::part_of,
    peers::Peers,
    presence::audience::{Audience, AudiencePart, Destination, PresenceUpdate},
    reply::{Answer, Request},
    said::Said,
    store::{AnswerTo, Store, StoreOp, StoreResult},
    teller::Telling,
    topology::Topology,
    watches::Watcher,
};

/// A few, so that the work of one link is spread over the cores.
pub(crate) const PARTITIONS: usize = 4;
/// Requests and deliveries that wait for a partition. When the queue is full, links are not read and hints are dropped.
pub(crate) const INPUTS: usize = 4096;
/// Answers of the store. When the queue is full the store client waits; the partition never waits for anything.
pub(crate) const ANSWERS: usize = 4096;
/// Between two looks at how much there is.
const GAUGE: Duration = Duration::from_secs(5);
/// Inputs taken at once.
const TURN: usize = 256;

#[expect(clippy::large_enum_variant, reason = "nearly all are requests")]
pub(crate) enum Input {
    Request(Request),
    Deliver(Delivery),
    /// The account or sessions of this user have changed.
    Changed(UserId),
    Signal(Signal),
    Marked(Marked),
    Said(Said),
    /// A word that could not be said just now.
    SayLater(Said),
    /// Deliveries to any user may have been lost.
    Doubt,
    Watch(Watcher),
    /// See [`Owner::forget`].
    Forget {
        user: UserId,
        gateway: LeaseId,
        connection: u64,
        link: u64,
    },
    /// See [`Owner::announced_all`].
    AnnouncedAll {
        gateway: LeaseId,
        link: u64,
        ring_version: u64,
    },
}

impl Input {
    pub(crate) fn carry_out(self, owner: &mut Owner, now: Instant, time_ms: u64) {
        match self {
            Self::Request(request) => owner.request(request, now, time_ms),
            Self::Deliver(delivery) => owner.deliver(delivery),
            Self::Changed(user) => owner.changed(&user, now),
            Self::Signal(signal) => owner.signal(signal),
            Self::Marked(marked) => owner.marked(&marked),
            Self::Said(said) => owner.said(said, now, time_ms),
            Self::SayLater(said) => owner.unsaid(said, now),
            Self::Doubt => {
                owner.doubt();
                owner.presences_in_doubt(now);
            }
            Self::Watch(watcher) => owner.watch(watcher),
            Self::Forget { user, gateway, connection, link } => owner.forget(&user, gateway, connection, link),
            Self::AnnouncedAll { gateway, link, ring_version } => owner.announced_all(gateway, link, ring_version),
        }
    }
}

/// The mailboxes of all partitions. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Partitions(Arc<[Mailbox]>);

pub(crate) struct Mailbox {
    pub(crate) inputs: mpsc::Sender<Input>,
    /// Deliveries for which there was no room.
    pub(crate) missed: Arc<Missed<TimelineId, Delivery>>,
}

impl Partitions {
    pub(crate) fn new(mailboxes: Vec<Mailbox>) -> Self {
        Self(mailboxes.into())
    }

    /// Waits while the user's partition is full; false if it has stopped.
    pub(crate) async fn request(&self, request: Request) -> bool {
        self.0[part_of(request.of.owner(), self.0.len())].inputs.send(Input::Request(request)).await.is_ok()
    }

    /// Waits while the user's partition is full; false if it has stopped.
    pub(crate) async fn forget(&self, user: UserId, gateway: LeaseId, connection: u64, link: u64) -> bool {
        self.0[self.index(&user)].inputs.send(Input::Forget { user, gateway, connection, link }).await.is_ok()
    }

    /// Told to all partitions, after everything they were told before; false if they have stopped.
    pub(crate) async fn announced_all(&self, gateway: LeaseId, link: u64, ring_version: u64) -> bool {
        for mailbox in self.0.iter() {
            if mailbox.inputs.send(Input::AnnouncedAll { gateway, link, ring_version }).await.is_err() {
                return false;
            }
        }
        true
    }

    /// If the partition is full, only the position is kept, and reported later.
    pub(crate) fn deliver(&self, delivery: Delivery) {
        let mailbox = &self.0[part_of(delivery.timeline.owner(), self.0.len())];
        if let Err(TrySendError::Full(Input::Deliver(delivery))) = mailbox.inputs.try_send(Input::Deliver(delivery)) {
            metrics::hint(false);
            mailbox.missed.note(delivery.timeline.clone(), delivery.without_envelope());
        }
    }

    /// Dropped if the user's partition is full.
    pub(crate) fn signal(&self, signal: Signal) {
        let Ok(user) = UserId::new(&signal.user) else { return };
        if self.0[self.index(&user)].inputs.try_send(Input::Signal(signal)).is_err() {
            metrics::signal(false);
        }
    }

    /// Dropped if the user's partition is full.
    pub(crate) fn marked(&self, marked: Marked) {
        let mailbox = &self.0[part_of(&marked.user, self.0.len())];
        if mailbox.inputs.try_send(Input::Marked(marked)).is_err() {
            metrics::signal(false);
        }
    }

    /// Says it again in a while, to whoever owns the users then.
    pub(crate) async fn say_later(&self, said: Said) {
        if let Some(mailbox) = self.0.first() {
            // A router that stops says nothing more.
            let _ = mailbox.inputs.send(Input::SayLater(said)).await;
        }
    }

    /// What could not be said, because the partition is full.
    #[must_use]
    pub(crate) fn say(&self, said: Said) -> Vec<Said> {
        let parts = said.split(|user| part_of(user, self.0.len()));
        parts.into_iter().filter_map(|(part, said)| self.say_to(part, said)).collect()
    }

    /// Words that could not be said, because this partition is full.
    #[must_use]
    pub(crate) fn say_to(&self, partition: usize, said: Said) -> Option<Said> {
        match self.0.get(partition)?.inputs.try_send(Input::Said(said)) {
            Err(TrySendError::Full(Input::Said(said))) => Some(said),
            _ => None,
        }
    }

    /// Told to all partitions; false if they have stopped.
    pub(crate) async fn doubt(&self) -> bool {
        for mailbox in self.0.iter() {
            if mailbox.inputs.send(Input::Doubt).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Told to all partitions; false if they have stopped.
    pub(crate) async fn watch(&self, watcher: &Watcher) -> bool {
        for mailbox in self.0.iter() {
            if mailbox.inputs.send(Input::Watch(watcher.clone())).await.is_err() {
                return false;
            }
        }
        true
    }

    /// A hint: dropped if the user's partition is full.
    pub(crate) fn changed(&self, user: UserId) {
        let given = self.0[self.index(&user)].inputs.try_send(Input::Changed(user)).is_ok();
        if !given {
            metrics::hint(false);
        }
    }

    fn index(&self, user: &UserId) -> usize {
        part_of(user.as_str(), self.0.len())
    }
}

pub(crate) struct Partition {
    pub(crate) index: usize,
    pub(crate) owner: Owner,
    pub(crate) inputs: Woken<mpsc::Receiver<Input>>,
    pub(crate) missed: Woken<Arc<Missed<TimelineId, Delivery>>>,
    pub(crate) answers: Woken<mpsc::Receiver<StoreResult>>,
    pub(crate) topology: watch::Receiver<Arc<Topology>>,
    pub(crate) store: Store,
    pub(crate) links: GatewayLinks,
    pub(crate) peers: Peers,
    pub(crate) partitions: Partitions,
    pub(crate) census: Census,
    pub(crate) tellings: mpsc::Sender<Telling>,
}

impl Partition {
    /// Runs until the router is gone.
    pub(crate) async fn run(mut self) {
        let mut inputs = Vec::with_capacity(TURN);
        let mut answers = Vec::with_capacity(TURN);
        let mut topologies = Woken::new(WatchStream::from_changes(self.topology.clone()));
        let (mut gauge, mut flush_cursors, mut check, mut look) = (Due::new(), Due::new(), Due::new(), Due::new());
        let mut gauge_at = clock::now();
        loop {
            let (cursors_due, check_due) = (self.owner.cursors_due(), self.owner.check_due());
            let presences_due = self.owner.presences_due();
            let (queue, missed, stored) = (&mut self.inputs, &mut self.missed, &mut self.answers);
            // All branches are cancel-safe: receiving, watching, ticking. Rare branches come first, so that they are
            // not starved.
            tokio::select! {
                biased;
                () = poll_fn(|context| gauge.poll(context, Some(gauge_at))) => {
                    let now = clock::now();
                    gauge_at = now + GAUGE;
                    let sizes @ (_, sessions, _) = self.owner.sizes();
                    metrics::sizes(self.index, sizes);
                    self.census.counted(self.index, sessions);
                    self.links.expire(now);
                    self.owner.sweep_watches();
                }
                topology = topologies.next() => {
                    let Some(topology) = topology else { return };
                    self.owner.follow(topology, clock::now());
                }
                taken = poll_fn(|context| {
                    stored.poll_by(context, |stored, context| stored.poll_recv_many(context, &mut answers, TURN))
                }) => {
                    if taken == 0 {
                        return;
                    }
                    let now = clock::now();
                    let time_ms = now_ms();
                    answers.drain(..).for_each(|(token, answer)| self.owner.answer(token, answer, now, time_ms));
                }
                () = poll_fn(|context| flush_cursors.poll(context, cursors_due)) => self.owner.flush_cursors(clock::now()),
                () = poll_fn(|context| check.poll(context, check_due)) => self.owner.check(clock::now()),
                () = poll_fn(|context| look.poll(context, presences_due)) => self.owner.look_at_presences(clock::now(), now_ms()),
                taken = poll_fn(|context| {
                    missed.poll_by(context, |missed, context| missed.poll_take(context, TURN))
                }) => match taken {
                    Taken::Some(deliveries) => deliveries.into_iter().for_each(|missed| self.owner.deliver(missed)),
                    Taken::Anybody => Input::Doubt.carry_out(&mut self.owner, clock::now(), now_ms()),
                },
                taken = poll_fn(|context| {
                    queue.poll_by(context, |queue, context| queue.poll_recv_many(context, &mut inputs, TURN))
                }) => {
                    if taken == 0 {
                        return;
                    }
                    let (now, time_ms) = (clock::now(), now_ms());
                    for input in inputs.drain(..) {
                        input.carry_out(&mut self.owner, now, time_ms);
                    }
                }
            }
            self.owner.presence_settles(clock::now());
            self.perform();
        }
    }

    fn perform(&mut self) {
        // An operation that the store client refuses is answered at once, which may have effects again.
        while !self.owner.effects.is_empty() {
            for effect in std::mem::take(&mut self.owner.effects) {
                match effect {
                    Effect::Store { token, shard, op, traceparent, deadline, place } => {
                        let to = AnswerTo::Partition(self.index, token);
                        let op = StoreOp { shard, op, traceparent, deadline, place, tries: 0, to };
                        if let Err(failure) = self.store.submit(Box::new(op)) {
                            self.owner.answer(token, Err(failure), clock::now(), now_ms());
                        }
                    }
                    Effect::Answer(slot, answer) => slot.answer(answer),
                    Effect::Push(gateway, push) => self.push(gateway, push),
                    Effect::Behind(gateway, behind) => self.links.behind(gateway, behind),
                    Effect::Signal(gateway, signal) => {
                        let of_contacts = matches!(signal.notice, Some(Notice::Presences(_) | Notice::ContactNews(_)));
                        if !self.links.signal(gateway, signal) && of_contacts {
                            self.owner.signals_dropped(gateway, clock::now());
                        }
                    }
                    Effect::Say(said) => self.say(said),
                    Effect::Update(presence, audience) => self.update(&presence, &audience),
                    Effect::Tell(telling) => {
                        // Without room the worker of the shard does it.
                        if let Err(TrySendError::Full(Telling { slot: Some(slot), .. })) =
                            self.tellings.try_send(telling)
                        {
                            slot.answer(Answer::Done(Done {}));
                        }
                    }
                    Effect::Direct { gateway, directed, slot, deadline } => {
                        self.links.direct(gateway, directed, slot, deadline);
                    }
                    Effect::Evict { gateway, connection, why } => self.links.evict(gateway, connection, why),
                    Effect::Deliver(delivery) => self.deliver(delivery),
                    Effect::Marked(marked) => self.marked(marked),
                    Effect::Watched(user, event) => self.tell_watchers(&user, *event),
                }
            }
        }
    }

    /// To the owners of the users whom it is for.
    fn say(&mut self, said: Said) {
        let topology = Arc::clone(&self.topology.borrow());
        for (address, said) in said.split(|user| topology.elsewhere(user)) {
            let unsaid = match address {
                Some(address) => self.peers.say(address, said).into_iter().collect(),
                None => self.partitions.say(said),
            };
            for said in unsaid {
                self.owner.unsaid(said, clock::now());
            }
        }
    }

    /// To those who see the user.
    fn update(&mut self, presence: &Presence, audience: &Audience) {
        let ring_version = self.topology.borrow().ring.version();
        let Some(parts) = audience.parts(ring_version) else {
            // Others own some of them by now.
            let (presences, to) = (vec![presence.clone()], audience.persons());
            return self.say(Said::Presences(Presences { presences, to, asked: false }));
        };
        for AudiencePart { destination, people } in parts {
            let said = Said::Update(Box::new(PresenceUpdate { presence: presence.clone(), to: Arc::clone(people) }));
            let unsaid = match destination {
                Destination::Here(partition) => self.partitions.say_to(*partition, said),
                Destination::Elsewhere(address) => self.peers.say(address, said),
            };
            if let Some(said) = unsaid {
                self.owner.unsaid(said, clock::now());
            }
        }
    }

    fn push(&mut self, gateway: LeaseId, push: Push) {
        let watched = self.owner.watched_push(gateway, &push);
        #[cfg(feature = "planted-bugs")]
        if crate::planted::withholds(&push) {
            return;
        }
        let given = self.links.push(gateway, push);
        metrics::push(given);
        if let Some((user, mut event)) = watched {
            if !given {
                event.kind = Kind::PushDropped.into();
            }
            self.tell_watchers(&user, event);
        }
    }

    fn tell_watchers(&mut self, user: &UserId, event: WatchEvent) {
        self.owner.tell_watchers(user, &WatchEvent { time_ms: now_ms(), ..event });
    }

    fn marked(&mut self, marked: Marked) {
        match self.topology.borrow().elsewhere(&marked.user) {
            Some(address) => self.peers.marked(address, marked),
            None => self.partitions.marked(marked),
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        match self.topology.borrow().elsewhere(delivery.timeline.owner()) {
            Some(address) => self.peers.hint(address, delivery),
            // No owner is known, but there may still be sessions here.
            None => self.partitions.deliver(delivery),
        }
    }
}
