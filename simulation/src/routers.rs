//! The routers as processes: their pace, their ends. What they decide is real, as are their tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use carillon_proto::{
    UserId,
    pb::{
        client::Code,
        link::{FromRouter, ToRouter, router_reply},
        store::{DeregisterNode, RegistryView, StoreReply, directory_command, store_request},
    },
    peer::Tier,
};
use carillon_router::simulation::{Output, Part, Router, Settings};

use crate::{
    Guard, Plant,
    lease::Keeper,
    schedule::{MS, SECOND, Time},
    store::{NODES, node_name, node_of},
    wires::{Ends, Side, WireId, number_of},
    world::{Event, Message, Node, World},
};

/// Longest time that a request may take.
const LONGEST: Duration = Duration::from_secs(10);
/// Between two checks of what nobody has told.
const HEAD_CHECK: Duration = Duration::from_secs(20);

#[derive(Default)]
pub(crate) struct RouterNode {
    /// Grows with each start and each end.
    pub(crate) life: u64,
    pub(crate) up: Option<Router>,
    pub(crate) paused_until: Time,
    pub(crate) keeper: Keeper,
    links: BTreeSet<WireId>,
    /// By the router's numbers of them.
    streams: BTreeMap<u64, WireId>,
    /// To other routers, by the router's numbers of them.
    peers: BTreeMap<u64, WireId>,
    will_run: BTreeSet<Part>,
}

#[derive(Debug)]
pub(crate) enum RouterEvent {
    Starts,
    /// After it has left the ring.
    Stops,
    Runs(Part),
    Sees(RegistryView),
    /// Another router has carried out the operator's command for this user.
    Changed(UserId),
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
        match what {
            RouterEvent::Starts => self.router_starts(router),
            RouterEvent::Stops => self.router_crashes(router),
            RouterEvent::Runs(part) => {
                self.routers[router].will_run.remove(&part);
                if let Some(up) = &mut self.routers[router].up {
                    up.run(part);
                }
            }
            RouterEvent::Sees(view) => {
                if let Some(up) = &mut self.routers[router].up {
                    up.sees(view);
                }
            }
            RouterEvent::Changed(user) => {
                if let Some(up) = &mut self.routers[router].up {
                    up.changed(user);
                }
            }
        }
        self.after_router(router);
    }

    fn router_starts(&mut self, router: usize) {
        // What two ends at once have left untold is found before the run is given up, but what is planted is not.
        let is_planted = self.plant == Some(Plant::DropsUntold);
        let head_check = if is_planted { Duration::from_secs(3600) } else { HEAD_CHECK };
        let (seed, pushes) = (self.random.next(), self.scenario.pushes);
        let storage = (0..NODES).map(|node| (node_name(node), self.cluster.node_is_up(node))).collect();
        let routers = (0..self.routers.len()).filter(|other| *other != router).map(router_name).collect();
        let hints = self.scenario.hints;
        let settings = Settings { seed, storage, routers, longest: LONGEST, pushes, hints, head_check };
        let up = Router::new(&router_name(router), &settings).expect("its secret is long enough");
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
                Ends::Link { router: its, .. } | Ends::Talker { router: its, .. } if its == router => {
                    self.abandon_wire(wire, Side::Second);
                }
                Ends::Peer { to, .. } if to == router => self.abandon_wire(wire, Side::Second),
                Ends::Stream { router: its, .. } | Ends::Peer { from: its, .. } if its == router => {
                    self.abandon_wire(wire, Side::First);
                }
                _ => {}
            }
        }
        let after = self.random.between(10 * MS, 1000 * MS);
        self.at_router(router, after, RouterEvent::Starts);
    }

    /// Ends a router in order: out of the ring first, and gone when others have had time to hear of it.
    pub(crate) fn router_leaves(&mut self, router: usize) {
        let keeper = &mut self.routers[router].keeper;
        let Some(lease) = keeper.lease().filter(|_| !keeper.is_over) else { return };
        keeper.is_over = true;
        self.registry_write(directory_command::Op::DeregisterNode(DeregisterNode { lease }));
        let after = self.random.between(50 * MS, SECOND);
        self.at_router(router, after, RouterEvent::Stops);
    }

    pub(crate) fn router_has_lease(&mut self, router: usize, held: Option<(u64, Time)>) {
        let held = held.map(|(lease, until)| (lease, self.schedule.instant_at(until)));
        if let Some(up) = &mut self.routers[router].up {
            up.holds_lease(held);
        }
        self.after_router(router);
    }

    pub(crate) fn router_hears(&mut self, router: usize, wire: WireId, caller: Tier, said: ToRouter) {
        let node = &mut self.routers[router];
        let Some(up) = &mut node.up else { return };
        if node.links.insert(wire) {
            up.link_up(wire, caller);
        }
        up.link_says(wire, said);
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

    pub(crate) fn router_hears_peer(&mut self, router: usize, wire: WireId, said: FromRouter) {
        let node = &mut self.routers[router];
        if let (Some(link), Some(up)) = (number_of(&node.peers, wire), &mut node.up) {
            up.peer_says(link, said);
        }
        self.after_router(router);
    }

    pub(crate) fn router_lost_peer(&mut self, router: usize, wire: WireId) {
        let node = &mut self.routers[router];
        if let (Some(link), Some(up)) = (number_of(&node.peers, wire), &mut node.up) {
            up.peer_down(link);
            node.peers.remove(&link);
        }
        self.after_router(router);
    }

    fn open_peer(&mut self, router: usize, link: u64, address: &str) {
        let to = router_of(address);
        if self.routers[to].up.is_some() {
            let wire = self.wires.open(Ends::Peer { from: router, to });
            self.routers[router].peers.insert(link, wire);
        } else if let Some(up) = &mut self.routers[router].up {
            up.peer_down(link);
        }
    }

    pub(crate) fn router_hears_store(&mut self, router: usize, wire: WireId, reply: StoreReply) {
        self.model.presence.router_hears(wire, reply.id, self.schedule.now());
        let node = &mut self.routers[router];
        if let (Some(stream), Some(up)) = (number_of(&node.streams, wire), &mut node.up) {
            up.store_says(stream, reply);
        }
        self.after_router(router);
    }

    pub(crate) fn router_lost_store(&mut self, router: usize, wire: WireId) {
        let node = &mut self.routers[router];
        if let (Some(stream), Some(up)) = (number_of(&node.streams, wire), &mut node.up) {
            up.stream_down(stream);
            node.streams.remove(&stream);
        }
        self.after_router(router);
    }

    /// Performs what it said, and sees to what it has to do next.
    pub(crate) fn after_router(&mut self, router: usize) {
        let Some(up) = &mut self.routers[router].up else { return };
        let mut outputs = up.take_outputs();
        if self.is_without(Guard::Router) {
            let of_timelines = |output: &Output| match output {
                Output::Store { request, .. } => matches!(request.op, Some(store_request::Op::Timeline(_))),
                _ => false,
            };
            let (mut writes, rest): (Vec<_>, Vec<_>) = outputs.into_iter().partition(of_timelines);
            writes.reverse();
            outputs = writes.into_iter().chain(rest).collect();
        }
        for output in outputs {
            match output {
                Output::Opens { stream, address } => {
                    let wire = self.wires.open(Ends::Stream { router, node: node_of(&address) });
                    self.routers[router].streams.insert(stream, wire);
                }
                Output::Store { stream, request } => {
                    if let Some(wire) = self.routers[router].streams.get(&stream).copied() {
                        self.send(wire, Side::Second, Message::ToStore(request));
                    }
                }
                Output::Link { link, said } => self.router_says(link, said),
                Output::Ended { link } => self.close_wire(link, Side::Second),
                Output::OpensPeer { link, address } => self.open_peer(router, link, &address),
                Output::Peer { link, said } => {
                    if let Some(wire) = self.routers[router].peers.get(&link).copied() {
                        let breaks = !self.healed && self.random.in_thousand(self.scenario.peers_break);
                        self.send(wire, Side::Second, Message::ToRouter(said));
                        if breaks {
                            self.break_wire(wire);
                        }
                    }
                }
                Output::LeavesPeer { link } => {
                    if let Some(wire) = self.routers[router].peers.remove(&link) {
                        self.close_wire(wire, Side::First);
                    }
                }
            }
        }
        self.schedule_router(router);
    }

    /// Pushes are only hints: they may be doubled, late or before their turn.
    fn router_says(&mut self, link: WireId, mut said: FromRouter) {
        for reply in &said.replies {
            match &reply.result {
                Some(router_reply::Result::Accepted(accepted)) => self.model.accepted_by_router(accepted),
                Some(router_reply::Result::Refusal(why)) if why.code() == Code::OutOfOrder => {
                    self.report.out_of_order += 1;
                }
                _ => {}
            }
        }
        self.report.behind += said.behind.len() as u64;
        if self.plant == Some(Plant::DropsUntold) {
            said.behind.clear();
        }
        for push in std::mem::take(&mut said.pushes) {
            let faulty = !self.healed;
            let late = faulty && self.random.in_thousand(self.scenario.pushes_late);
            if !late {
                said.pushes.push(push.clone());
            }
            if late || faulty && self.random.in_thousand(self.scenario.pushes_doubled) {
                let after = self.random.below(400 * MS);
                let message = Message::FromRouter(FromRouter { pushes: vec![push], ..FromRouter::default() });
                self.schedule.after(after, Event::Arrives { wire: link, to: Side::First, message });
            }
        }
        if said != FromRouter::default() {
            self.send(link, Side::First, Message::FromRouter(said));
        }
    }

    fn schedule_router(&mut self, router: usize) {
        let node = &mut self.routers[router];
        let Some(up) = &mut node.up else { return };
        let new: Vec<Part> = up.runnable().filter(|part| !node.will_run.contains(part)).collect();
        node.will_run.extend(new.iter().copied());
        for part in new {
            let after = self.pace();
            self.at_router(router, after, RouterEvent::Runs(part));
        }
    }
}
