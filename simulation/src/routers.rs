//! The routers as processes: their streams to the store, their pace, their ends. What they decide is real.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use carillon_proto::pb::{
    link::{Behind, FromRouter, Hint, Push, RouterReply, ToRouter, router_reply},
    store::{DeregisterNode, RegistryView, StoreReply, directory_command},
};
use carillon_router::simulation::{Output, Part, Router};

use crate::{
    lease::Keeper,
    schedule::{MS, SECOND, Time},
    store::{NODES, node_name},
    wires::{Ends, Side, WireId},
    world::{Event, Message, Node, World},
};

/// Longest time that a request may take.
const LONGEST: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(crate) struct RouterNode {
    /// Grows with each start and each end.
    pub(crate) life: u64,
    pub(crate) up: Option<Router>,
    pub(crate) paused_until: Time,
    pub(crate) keeper: Keeper,
    knows: bool,
    links: BTreeSet<WireId>,
    will_run: BTreeSet<Part>,
    will_wake: Option<Time>,
}

#[derive(Debug)]
pub(crate) enum RouterEvent {
    Starts,
    /// After it has left the ring.
    Stops,
    Runs(Part),
    Wakes,
    Sees(RegistryView),
    Hears(Hint),
    /// The account or sessions of this user have changed.
    Changed(String),
    /// Another router's link is open again.
    Doubts,
    /// A stream to this storage node.
    Opens(usize),
}

pub(crate) fn router_name(router: usize) -> String {
    format!("r{router}:1")
}

pub(crate) fn router_of(address: &str) -> usize {
    address[1..2].parse().expect("a name of a router")
}

impl World<'_> {
    pub(crate) fn at_router(&mut self, router: usize, after: Time, what: RouterEvent) {
        let life = self.routers[router].life;
        self.schedule.after(after, Event::Router { router, life, what });
    }

    pub(crate) fn router_event(&mut self, router: usize, what: RouterEvent) {
        let (now, unix_ms) = (self.schedule.instant(), self.schedule.unix_ms());
        match what {
            RouterEvent::Starts => self.router_starts(router),
            RouterEvent::Stops => self.router_crashes(router),
            RouterEvent::Opens(node) => self.open_stream(router, node),
            RouterEvent::Runs(part) => {
                self.routers[router].will_run.remove(&part);
                if let Some(up) = &mut self.routers[router].up {
                    up.run(part, now, unix_ms);
                }
            }
            RouterEvent::Wakes => {
                self.routers[router].will_wake = None;
                if let Some(up) = &mut self.routers[router].up {
                    up.wake(now);
                }
            }
            RouterEvent::Sees(view) => {
                let node = &mut self.routers[router];
                let Some(up) = &mut node.up else { return };
                up.sees(view, now);
                // The storage nodes are known from now on.
                if !std::mem::replace(&mut node.knows, true) {
                    (0..NODES).for_each(|storage| self.at_router(router, 0, RouterEvent::Opens(storage)));
                }
            }
            RouterEvent::Changed(user) => {
                if let Some(up) = &mut self.routers[router].up {
                    up.link_says(0, ToRouter { changed_users: vec![user], ..ToRouter::default() }, now);
                }
            }
            RouterEvent::Doubts => {
                if let Some(up) = &mut self.routers[router].up {
                    up.doubts();
                }
            }
            RouterEvent::Hears(hint) => {
                if let Some(up) = &mut self.routers[router].up {
                    up.link_says(0, ToRouter { hints: vec![hint], ..ToRouter::default() }, now);
                }
            }
        }
        self.after_router(router);
    }

    fn router_starts(&mut self, router: usize) {
        let seed = self.random.next();
        let up = Router::new(&router_name(router), seed, LONGEST, self.schedule.instant());
        let life = self.routers[router].life + 1;
        self.routers[router] = RouterNode { life, up: Some(up), ..RouterNode::default() };
        self.begin_lease(Node::Router(router));
        let (view, after) = (self.view(), self.latency());
        self.at_router(router, after, RouterEvent::Sees(view));
    }

    pub(crate) fn router_crashes(&mut self, router: usize) {
        if self.routers[router].up.is_none() {
            return;
        }
        let life = self.routers[router].life + 1;
        self.routers[router] = RouterNode { life, ..RouterNode::default() };
        for (wire, ends) in self.wires.all().collect::<Vec<_>>() {
            match ends {
                Ends::Link { router: its, .. } if its == router => self.abandon_wire(wire, Side::Second),
                Ends::Stream { router: its, .. } if its == router => self.abandon_wire(wire, Side::First),
                _ => {}
            }
        }
        let after = self.random.between(10 * MS, 1000 * MS);
        self.at_router(router, after, RouterEvent::Starts);
    }

    /// In order: out of the ring first, and gone when others have had time to hear of it.
    pub(crate) fn router_leaves(&mut self, router: usize) {
        let keeper = &mut self.routers[router].keeper;
        let Some(lease) = keeper.lease().filter(|_| !keeper.is_over) else { return };
        keeper.is_over = true;
        self.registry_write(directory_command::Op::DeregisterNode(DeregisterNode { lease }));
        let after = self.random.between(50 * MS, SECOND);
        self.at_router(router, after, RouterEvent::Stops);
    }

    pub(crate) fn router_has_lease(&mut self, router: usize, until: Option<Time>) {
        let until = until.map(|until| self.schedule.instant_at(until));
        if let Some(up) = &mut self.routers[router].up {
            up.holds_lease(until);
        }
    }

    pub(crate) fn router_hears(&mut self, router: usize, wire: WireId, said: ToRouter) {
        let now = self.schedule.instant();
        let node = &mut self.routers[router];
        let Some(up) = &mut node.up else { return };
        if node.links.insert(wire) {
            up.link_up(wire, now);
        }
        up.link_says(wire, said, now);
        self.after_router(router);
    }

    pub(crate) fn router_lost_link(&mut self, router: usize, wire: WireId) {
        let node = &mut self.routers[router];
        node.links.remove(&wire);
        if let Some(up) = &mut node.up {
            up.link_down(wire);
        }
        self.after_router(router);
    }

    fn open_stream(&mut self, router: usize, node: usize) {
        if !self.cluster.node_is_up(node) {
            let pause = self.random.between(20 * MS, 100 * MS);
            return self.at_router(router, pause, RouterEvent::Opens(node));
        }
        let wire = self.wires.open(Ends::Stream { router, node });
        if let Some(up) = &mut self.routers[router].up {
            up.stream_up(&node_name(node), wire);
        }
    }

    pub(crate) fn router_hears_store(&mut self, router: usize, reply: StoreReply) {
        if let Some(up) = &mut self.routers[router].up {
            up.store_says(reply);
        }
        self.after_router(router);
    }

    pub(crate) fn router_lost_store(&mut self, router: usize, node: usize, wire: WireId) {
        if let Some(up) = &mut self.routers[router].up {
            up.stream_down(wire);
        }
        let pause = self.random.between(20 * MS, 60 * MS);
        self.at_router(router, pause, RouterEvent::Opens(node));
        self.after_router(router);
    }

    /// Performs what it said, and sees to what it has to do next.
    fn after_router(&mut self, router: usize) {
        let Some(up) = &mut self.routers[router].up else { return };
        let outputs = up.take_outputs();
        let mut replies: BTreeMap<WireId, Vec<RouterReply>> = BTreeMap::new();
        for output in outputs {
            match output {
                Output::Store { stream, request } => self.send(stream, Side::Second, Message::ToStore(request)),
                Output::Reply { link, reply } => {
                    if let Some(router_reply::Result::Accepted(accepted)) = &reply.result {
                        self.model.accepted_by_router(accepted);
                    }
                    replies.entry(link).or_default().push(reply);
                }
                Output::Push { link, push } => self.push(link, push),
                Output::Behind { link, behind } => self.say(link, FromRouter { behind, ..FromRouter::default() }),
                Output::Evict { link, evict } => {
                    self.say(link, FromRouter { evictions: vec![evict], ..FromRouter::default() })
                }
                Output::View { link, view } => {
                    self.say(link, FromRouter { registry: Some(view), ..FromRouter::default() })
                }
                Output::Hint { address, hint } => self.hint(&address, hint),
            }
        }
        for (link, replies) in replies {
            self.say(link, FromRouter { replies, ..FromRouter::default() });
        }
        self.schedule_router(router);
    }

    fn say(&mut self, link: WireId, said: FromRouter) {
        self.send(link, Side::First, Message::FromRouter(said));
    }

    /// It is only a hint: it may be doubled, late or before its turn; and dropped, which is told when there is room again.
    fn push(&mut self, link: WireId, push: Push) {
        let faulty = !self.healed;
        if faulty && self.random.in_thousand(self.scenario.pushes_lost) {
            let Push { timeline, position, incarnation, .. } = push;
            let behind = vec![Behind { timeline, position, incarnation }];
            let message = Message::FromRouter(FromRouter { behind, ..FromRouter::default() });
            let after = self.random.below(400 * MS);
            return self.schedule.after(after, Event::Arrives { wire: link, to: Side::First, message });
        }
        let doubled = faulty && self.random.in_thousand(self.scenario.pushes_doubled);
        for _ in 0..1 + usize::from(doubled) {
            let said = FromRouter { pushes: vec![push.clone()], ..FromRouter::default() };
            if faulty && self.random.in_thousand(self.scenario.pushes_late) {
                let after = self.random.below(400 * MS);
                let message = Message::FromRouter(said);
                self.schedule.after(after, Event::Arrives { wire: link, to: Side::First, message });
            } else {
                self.say(link, said);
            }
        }
    }

    fn hint(&mut self, address: &str, hint: Hint) {
        let mut after = self.latency();
        let mut what = RouterEvent::Hears(hint);
        if !self.healed && self.random.in_thousand(self.scenario.hints_lost) {
            after += self.random.below(400 * MS);
            what = match what {
                // For lack of room, or with the link.
                RouterEvent::Hears(hint) if self.random.in_thousand(500) => {
                    RouterEvent::Hears(Hint { envelope: Bytes::new(), ..hint })
                }
                _ => RouterEvent::Doubts,
            };
        }
        self.at_router(router_of(address), after, what);
    }

    fn schedule_router(&mut self, router: usize) {
        let now = self.schedule.now();
        let node = &mut self.routers[router];
        let Some(up) = &mut node.up else { return };
        let new: Vec<Part> = up.runnable().filter(|part| !node.will_run.contains(part)).collect();
        node.will_run.extend(new.iter().copied());
        let wake = up.wake_at().map(|at| self.schedule.time_of(at).max(now));
        let wake = wake.filter(|at| node.will_wake.is_none_or(|planned| *at < planned));
        node.will_wake = wake.or(node.will_wake);
        for part in new {
            let after = self.pace();
            self.at_router(router, after, RouterEvent::Runs(part));
        }
        if let Some(at) = wake {
            self.at_router(router, at - now, RouterEvent::Wakes);
        }
    }
}
