//! All that the gateway says to routers and hears from them.

pub(crate) mod dispatch;
mod link;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{
    limits,
    pb::{
        client::Code,
        link::{RouterReply, RouterRequest, router_reply},
    },
    peer::PeerSecurity,
    tasks::Tasks,
};
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};

pub(crate) use dispatch::{Answered, Submit, refusal};
use dispatch::{Dispatch, Effect, Input};
use link::Link;

use crate::{connections::Connections, feeding::Feeding, mailbox::Mailbox, metrics, session::Tag, status::Status};

const TICK: Duration = Duration::from_millis(50);
/// Events that wait for the one task that deals with all: requests beyond are refused as overload, links wait.
const EVENTS: usize = 16_384;

/// Who asked, and what for.
pub(crate) type Asker = (Arc<Mailbox>, Tag);

#[expect(clippy::large_enum_variant, reason = "nearly all are of the large kind")]
pub(crate) enum Event {
    Dispatch(Input<Asker>),
    /// A link is open; requests go in here.
    Up(Arc<str>, mpsc::Sender<RouterRequest>),
}

/// Where requests go in.
#[derive(Clone)]
pub(crate) struct Links {
    events: mpsc::Sender<Event>,
    pending: watch::Receiver<usize>,
    up: watch::Receiver<usize>,
}

/// What runs behind [`Links`].
pub(crate) struct LinksTask {
    inbox: mpsc::Receiver<Event>,
    events: mpsc::Sender<Event>,
    dispatch: Dispatch<Asker>,
    /// Links that run, by address.
    links: HashMap<Arc<str>, Tasks>,
    senders: HashMap<Arc<str>, mpsc::Sender<RouterRequest>>,
    seeds: Vec<Arc<str>>,
    addresses: watch::Sender<Vec<String>>,
    /// Published by whoever holds the lease; a sender here, so that the last word stays when that one ends.
    lease: watch::Sender<Option<u64>>,
    /// How many requests wait, as of the last tick.
    pending: watch::Sender<usize>,
    /// How many links are open.
    up: watch::Sender<usize>,
    /// It had a lease, and has neither that nor a link.
    cut_off: watch::Sender<bool>,
    had_lease: bool,
    security: PeerSecurity,
    hearing: Hearing,
    status: Arc<Status>,
    max_pending: usize,
}

/// Who hears what routers say of their own accord.
#[derive(Clone)]
pub(crate) struct Hearing {
    pub(crate) connections: Arc<Connections>,
    pub(crate) feeding: Arc<Feeding>,
}

pub(crate) struct LinksConfig {
    pub(crate) seeds: Vec<String>,
    pub(crate) max_pending: usize,
    pub(crate) deadline: Duration,
}

impl Links {
    /// Also gives the addresses of routers as they are known, for the registry's calls.
    pub(crate) fn new(
        config: LinksConfig,
        security: PeerSecurity,
        lease: watch::Sender<Option<u64>>,
        hearing: Hearing,
        status: Arc<Status>,
    ) -> (Self, LinksTask, watch::Receiver<Vec<String>>) {
        let (events, inbox) = mpsc::channel(EVENTS);
        let (addresses, known) = watch::channel(config.seeds.clone());
        let (pending, pending_seen) = watch::channel(0);
        let (up, up_seen) = watch::channel(0);
        let task = LinksTask {
            inbox,
            events: events.clone(),
            dispatch: Dispatch::new(config.max_pending, config.deadline),
            links: HashMap::new(),
            senders: HashMap::new(),
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
        };
        (Self { events, pending: pending_seen, up: up_seen }, task, known)
    }

    /// The answer comes to the asker's mailbox, always. Gives the request back if there is no room for it.
    #[expect(clippy::result_large_err, reason = "the request comes back whole")]
    pub(crate) fn submit(&self, submit: Submit<Asker>) -> Result<(), Submit<Asker>> {
        self.events.try_send(Event::Dispatch(Input::Submit(submit))).map_err(|error| match error.into_inner() {
            Event::Dispatch(Input::Submit(submit)) => submit,
            // It is what was put in.
            _ => unreachable!("a submit comes back as a submit"),
        })
    }

    /// Resolves when, at two ticks in a row, no request waited for its answer.
    pub(crate) async fn idle(&self) {
        let mut pending = self.pending.clone();
        let mut quiet = 0;
        while quiet < 2 && pending.changed().await.is_ok() {
            quiet = if *pending.borrow_and_update() == 0 { quiet + 1 } else { 0 };
        }
    }

    /// Resolves when no link has been open for so long.
    pub(crate) async fn without_routers(&self, patience: Duration) {
        let mut up = self.up.clone();
        loop {
            // An error: the task has ended, and with it all links.
            if up.wait_for(|up| *up == 0).await.is_err()
                || tokio::time::timeout(patience, up.wait_for(|up| *up > 0)).await.is_err()
            {
                return;
            }
        }
    }

    /// Like `submit`, but waits for room.
    pub(crate) async fn submit_waiting(&self, submit: Submit<Asker>) {
        // Fails only when the task has ended, and then nobody waits for an answer.
        let _ = self.events.send(Event::Dispatch(Input::Submit(submit))).await;
    }
}

impl LinksTask {
    /// For ever.
    pub(crate) async fn run(mut self, tasks: Tasks) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lease = self.lease.subscribe();
        lease.mark_changed();
        let mut events = Vec::with_capacity(limits::BATCH_ITEMS);
        let mut effects = Vec::new();
        self.arrange(&tasks);
        loop {
            tokio::select! {
                got = self.inbox.recv_many(&mut events, limits::BATCH_ITEMS) => if got == 0 { return },
                changed = lease.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    events.push(Event::Dispatch(Input::Lease(*lease.borrow_and_update())));
                }
                _ = tick.tick() => {
                    events.push(Event::Dispatch(Input::Tick));
                    self.measure();
                }
            }
            let now = Instant::now();
            let (before, ups) = (self.dispatch.ring().version(), self.dispatch.links_up());
            for event in events.drain(..) {
                self.event(now, event, &mut effects);
            }
            if before != self.dispatch.ring().version() || ups != self.dispatch.links_up() {
                for gone in self.arrange(&tasks) {
                    self.event(now, Event::Dispatch(Input::Down(gone)), &mut effects);
                }
            }
            self.report();
        }
    }

    fn event(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect<Asker>>) {
        let input = match event {
            // From a link that was stopped meanwhile.
            Event::Up(address, _) if !self.links.contains_key(&address) => return,
            Event::Up(address, sender) => {
                self.senders.insert(Arc::clone(&address), sender);
                Input::Up(address)
            }
            Event::Dispatch(Input::Down(address)) => {
                self.senders.remove(&address);
                Input::Down(address)
            }
            Event::Dispatch(input) => input,
        };
        self.dispatch.handle(now, input, effects);
        // A full link refuses, a broken one is down: both come back as inputs, and shrink what is under way.
        while !effects.is_empty() {
            let mut back = Vec::new();
            for effect in effects.drain(..) {
                self.perform(effect, &mut back);
            }
            for input in back {
                self.dispatch.handle(now, input, effects);
            }
        }
    }

    fn perform(&mut self, effect: Effect<Asker>, back: &mut Vec<Input<Asker>>) {
        match effect {
            Effect::Transmit { to, request } => {
                let Some(sender) = self.senders.get(&to) else { return };
                match sender.try_send(request) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(request)) => {
                        let why = refusal(Code::Overloaded, "too many requests are waiting for a router", 200);
                        let result = Some(router_reply::Result::Refusal(why));
                        back.push(Input::Replies(to, vec![RouterReply { id: request.id, result }]));
                    }
                    Err(mpsc::error::TrySendError::Closed(_)) => {
                        self.senders.remove(&to);
                        back.push(Input::Down(to));
                    }
                }
            }
            Effect::Answer { client: (mailbox, tag), answered } => mailbox.answer(tag, answered),
            Effect::Announced { connection, heads } => {
                ::metrics::counter!(metrics::ANNOUNCEMENTS).increment(1);
                if let Some(mailbox) = self.hearing.connections.get(connection) {
                    mailbox.announced(heads);
                }
            }
            Effect::Over { connection, why } => {
                if let Some(mailbox) = self.hearing.connections.get(connection) {
                    mailbox.over(why);
                }
            }
        }
    }

    /// A link to each router of the ring; to the seeds as well while none of those is open. Says which were stopped.
    fn arrange(&mut self, tasks: &Tasks) -> Vec<Arc<str>> {
        let routers = self.dispatch.ring().routers();
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
        if !wanted.iter().any(|address| self.dispatch.is_up(address)) {
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
                let link = Link {
                    address: Arc::clone(&address),
                    security: self.security.clone(),
                    lease: self.lease.subscribe(),
                    events: self.events.clone(),
                    hearing: self.hearing.clone(),
                    max_pending: self.max_pending,
                };
                group.spawn("router-link", link.run());
                self.links.insert(address, group);
            }
        }
        gone
    }

    /// True while this gateway is of no use to anybody.
    pub(crate) fn cut_off(&self) -> watch::Receiver<bool> {
        self.cut_off.subscribe()
    }

    fn report(&mut self) {
        let (lease, up) = (self.lease.borrow().is_some(), self.dispatch.links_up());
        self.up.send_if_modified(|before| std::mem::replace(before, up) != up);
        self.had_lease |= lease;
        let cut_off = self.had_lease && !lease && up == 0;
        self.cut_off.send_if_modified(|before| std::mem::replace(before, cut_off) != cut_off);
        let routers = self.dispatch.ring().routers();
        let missing = if !lease {
            Some("waiting for a lease")
        } else if routers.is_empty() {
            Some("waiting for the ring of routers")
        } else if !routers.iter().any(|router| self.dispatch.is_up(&router.address)) {
            Some("waiting for a link to a router")
        } else {
            None
        };
        self.status.linked(missing);
    }

    fn measure(&mut self) {
        self.pending.send_replace(self.dispatch.pending());
        ::metrics::gauge!(metrics::LINKS_UP).set(self.dispatch.links_up() as f64);
        ::metrics::gauge!(metrics::REQUESTS_PENDING).set(self.dispatch.pending() as f64);
        ::metrics::counter!(metrics::REQUESTS_REPEATED).increment(self.dispatch.take_repeated());
    }
}
