//! Everything that the gateway tells the routers and hears from them.

mod directed;
mod dispatch;
mod follows;
mod link;
mod parts;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use carillon_proto::{
    Level, Ring, clock, limits,
    pb::{
        link::{DirectAnswer, GatewayDescription, RouterReply, RouterRequest},
        store::RegistryView,
    },
    peer::PeerSecurity,
    queues,
    tasks::Tasks,
};
use tokio::sync::{mpsc, watch};

pub(crate) use directed::DirectedRequest;
pub(crate) use dispatch::Submit;
use dispatch::{Load, Word};
use follows::GroupFollows;
use link::RouterLink;
use parts::{LinkHandle, Partitions};

use crate::{
    census::Census, cluster_domains::ClusterDomains, cluster_level::ClusterLevel, connections::Connections,
    conversation::Tag, feeding::Feeding, mailbox::Mailbox, metrics, presences::Presences, status::Status,
};

const TICK: Duration = Duration::from_millis(50);
/// Changes of links and of the registry that wait for their task. When the queue is full, links wait.
const EVENTS: usize = 256;

/// The mailbox that asked, and the purpose.
pub(crate) type Asker = (Arc<Mailbox>, Tag);

/// Events of a link.
pub(crate) enum Event {
    Up(Arc<str>, LinkHandle),
    Down(Arc<str>),
    Registry(RegistryView),
    /// An answer to what this router was told of groups.
    Followed(Arc<str>, RouterReply),
}

/// Messages for a link.
#[expect(clippy::large_enum_variant, reason = "nearly all are requests")]
pub(crate) enum ToLink {
    Request(RouterRequest),
    Word(Word),
    Answer(DirectAnswer),
    /// Large, and rare.
    Description(Box<GatewayDescription>),
    /// Tells the router that this gateway is stopping.
    Draining,
}

/// Takes requests for the routers.
#[derive(Clone)]
pub(crate) struct RouterLinks {
    parts: Arc<Partitions>,
    pending: watch::Receiver<usize>,
    up: watch::Receiver<usize>,
}

/// The task behind [`RouterLinks`]: it opens and ends links as the ring changes. Requests and answers do not pass
/// through it.
pub(crate) struct LinksTask {
    inbox: mpsc::Receiver<Event>,
    events: mpsc::Sender<Event>,
    parts: Arc<Partitions>,
    ring: Arc<Ring>,
    registry_version: u64,
    /// Routers with an open link.
    open: BTreeMap<Arc<str>, LinkHandle>,
    follows: GroupFollows,
    /// Running links, by address.
    links: BTreeMap<Arc<str>, Tasks>,
    seeds: Vec<Arc<str>>,
    addresses: watch::Sender<Vec<String>>,
    /// Published by the holder of the lease; a sender here, so that the last value stays when the holder ends.
    lease: watch::Sender<Option<u64>>,
    /// The number of waiting requests, as of the last tick.
    pending: watch::Sender<usize>,
    /// The number of open links.
    up: watch::Sender<usize>,
    /// True if it has had a lease, and now has neither a lease nor a link.
    cut_off: watch::Sender<bool>,
    had_lease: bool,
    security: PeerSecurity,
    hearing: Hearing,
    status: Arc<Status>,
    max_pending: usize,
    level: ClusterLevel,
    domains: ClusterDomains,
}

/// Receives what routers send on their own.
#[derive(Clone)]
pub(crate) struct Hearing {
    pub(crate) connections: Arc<Connections>,
    pub(crate) feeding: Arc<Feeding>,
    pub(crate) presences: Arc<Presences>,
    pub(crate) census: Arc<Census>,
}

pub(crate) struct LinksConfig {
    pub(crate) seeds: Vec<String>,
    pub(crate) max_pending: usize,
    pub(crate) deadline: Duration,
    pub(crate) level: ClusterLevel,
    pub(crate) domains: ClusterDomains,
}

impl RouterLinks {
    /// Also returns the known addresses of routers, for registry calls.
    pub(crate) fn new(
        config: LinksConfig,
        security: PeerSecurity,
        lease: watch::Sender<Option<u64>>,
        hearing: Hearing,
        status: Arc<Status>,
    ) -> (Self, LinksTask, watch::Receiver<Vec<String>>) {
        let (events, inbox) = mpsc::channel(EVENTS);
        queues::watch("gateway_links", &events);
        let (addresses, known) = watch::channel(config.seeds.clone());
        let (pending, pending_seen) = watch::channel(0);
        let (up, up_seen) = watch::channel(0);
        let load = Arc::new(Load::new(config.max_pending));
        let parts = Arc::new(Partitions::new(load, config.deadline, Arc::clone(&hearing.connections)));
        let task = LinksTask {
            inbox,
            events,
            parts: Arc::clone(&parts),
            ring: Arc::new(Ring::empty()),
            registry_version: 0,
            open: BTreeMap::new(),
            follows: GroupFollows::new(),
            links: BTreeMap::new(),
            seeds: config.seeds.iter().map(|seed| Arc::from(seed.as_str())).collect(),
            addresses,
            lease,
            pending,
            up,
            cut_off: watch::Sender::new(false),
            had_lease: false,
            security,
            hearing,
            status,
            max_pending: config.max_pending,
            level: config.level,
            domains: config.domains,
        };
        (Self { parts, pending: pending_seen, up: up_seen }, task, known)
    }

    /// Sends a request. The asker's mailbox always gets exactly one answer.
    pub(crate) fn submit(&self, submit: Submit<Asker>) {
        self.parts.submit(submit);
    }

    /// Requests without an answer.
    pub(crate) fn pending(&self) -> usize {
        self.parts.pending()
    }

    /// Resolves when no request was waiting for its answer at two consecutive ticks.
    pub(crate) async fn idle(&self) {
        let mut pending = self.pending.clone();
        let mut quiet = 0;
        while quiet < 2 && pending.changed().await.is_ok() {
            quiet = if *pending.borrow_and_update() == 0 { quiet + 1 } else { 0 };
        }
    }

    /// Resolves when no link has been open for this long.
    pub(crate) async fn without_routers(&self, patience: Duration) {
        let mut up = self.up.clone();
        loop {
            // An error: the task has ended, and all links with it.
            if up.wait_for(|up| *up == 0).await.is_err()
                || tokio::time::timeout(patience, up.wait_for(|up| *up > 0)).await.is_err()
            {
                return;
            }
        }
    }
}

impl LinksTask {
    /// Runs until it is cancelled.
    pub(crate) async fn run(mut self, tasks: Tasks) {
        let mut tick = clock::sleep(Duration::ZERO);
        let mut lease = self.lease.subscribe();
        lease.mark_changed();
        let mut events = Vec::with_capacity(limits::BATCH_ITEMS);
        let feeding = Arc::clone(&self.hearing.feeding);
        self.arrange(&tasks);
        loop {
            // All are cancel-safe: receiving, watching, ticking. Rare branches come first, so that they are not starved.
            tokio::select! {
                biased;
                () = &mut tick => {
                    tick.reset(clock::now() + TICK);
                    self.parts.tick();
                    self.measure();
                }
                changed = lease.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let lease = *lease.borrow_and_update();
                    self.parts.lease(lease);
                }
                () = feeding.groups_changed() => {}
                got = self.inbox.recv_many(&mut events, limits::BATCH_ITEMS) => if got == 0 { return },
            }
            let (before, open) = (self.ring.version(), self.open.len());
            for event in events.drain(..) {
                self.event(event);
            }
            if before != self.ring.version() || open != self.open.len() {
                self.arrange(&tasks);
            }
            self.follow_groups();
            self.report();
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            // From a link that was stopped meanwhile.
            Event::Up(address, _) if !self.links.contains_key(&address) => {}
            Event::Up(address, way) => {
                self.parts.up(&address, &way);
                self.follows.up(&address);
                self.open.insert(address, way);
            }
            Event::Down(address) => {
                self.open.remove(&address);
                self.parts.down(&address);
                self.follows.down(&address);
            }
            Event::Followed(from, reply) => {
                if let Some(told) = self.follows.answered(&from, reply, clock::now().into_std()) {
                    self.hearing.feeding.groups_told(&told.groups, &told.heads);
                }
            }
            Event::Registry(view) => {
                self.level.heard(Level(view.level));
                if view.version > self.registry_version {
                    self.registry_version = view.version;
                    self.domains.heard(&view.domains);
                    if view.ring_version != self.ring.version() {
                        self.ring = Arc::new(Ring::from_view(&view));
                        self.parts.ring(&self.ring);
                        self.follows.ring(&self.ring);
                    }
                    let routers = self.ring.routers().iter().map(|router| Arc::from(router.address.as_str()));
                    self.hearing.census.registry(&view, routers.collect());
                }
            }
        }
    }

    /// Keeps a link to each router of the ring, and to the seeds while none of those is open.
    fn arrange(&mut self, tasks: &Tasks) {
        let routers = self.ring.routers();
        let mut wanted: Vec<Arc<str>> = routers.iter().map(|router| Arc::from(router.address.as_str())).collect();
        let mut known: Vec<String> = routers.iter().map(|router| router.address.clone()).collect();
        for seed in &self.seeds {
            if !known.iter().any(|address| **address == **seed) {
                known.push(seed.to_string());
            }
        }
        self.addresses.send_if_modified(|now| {
            let changed = *now != known;
            *now = known;
            changed
        });
        if !wanted.iter().any(|address| self.open.contains_key(address)) {
            wanted.extend(self.seeds.iter().cloned());
        }
        let mut gone = Vec::new();
        self.links.retain(|address, link| {
            let keep = wanted.contains(address);
            if !keep {
                link.stop();
                gone.push(Arc::clone(address));
            }
            keep
        });
        for address in wanted {
            if !self.links.contains_key(&address) {
                let group = tasks.child();
                let link = RouterLink {
                    address: Arc::clone(&address),
                    security: self.security.clone(),
                    lease: self.lease.subscribe(),
                    events: self.events.clone(),
                    parts: Arc::clone(&self.parts),
                    hearing: self.hearing.clone(),
                    max_pending: self.max_pending,
                    ready: self.status.subscribe(),
                    tasks: group.clone(),
                };
                group.spawn("router-link", link.run());
                self.links.insert(address, group);
            }
        }
        for address in gone {
            self.open.remove(&address);
            self.parts.down(&address);
            self.follows.down(&address);
            self.hearing.census.down(&address);
        }
    }

    /// True while it has neither a lease nor a router link.
    pub(crate) fn cut_off(&self) -> watch::Receiver<bool> {
        self.cut_off.subscribe()
    }

    fn report(&mut self) {
        let (lease, up) = (self.lease.borrow().is_some(), self.open.len());
        self.up.send_if_modified(|before| std::mem::replace(before, up) != up);
        self.had_lease |= lease;
        let cut_off = self.had_lease && !lease && up == 0;
        self.cut_off.send_if_modified(|before| std::mem::replace(before, cut_off) != cut_off);
        let routers = self.ring.routers();
        let missing = if !lease {
            Some("waiting for a lease")
        } else if routers.is_empty() {
            Some("waiting for the ring of routers")
        } else if !routers.iter().any(|router| self.open.contains_key(&*router.address)) {
            Some("waiting for a link to a router")
        } else {
            None
        };
        self.status.linked(missing);
    }

    /// Tells routers which groups sessions here follow, as far as they do not know.
    fn follow_groups(&mut self) {
        for (group, is_followed) in self.hearing.feeding.take_changed_groups() {
            self.follows.changed(group, is_followed);
        }
        let now = clock::now().into_std();
        for (to, request) in self.follows.requests(now) {
            let id = request.id;
            let is_sent = self.open.get(&to).is_some_and(|way| way.queue.try_send(ToLink::Request(request)).is_ok());
            if !is_sent {
                self.follows.unsent(id, now);
            }
        }
    }

    fn measure(&mut self) {
        self.pending.send_replace(self.parts.pending());
        metrics::links(self.open.len(), self.parts.pending(), self.parts.take_repeated());
    }
}
