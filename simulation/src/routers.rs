//! The routers as processes: their streams to the store, their pace, their ends. What they decide is real, as are their tasks.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use carillon_proto::pb::{
    client::Code,
    link::{FromRouter, Hint, ToRouter, router_reply},
    store::{DeregisterNode, RegistryView, StoreReply, directory_command},
};
use carillon_router::simulation::{Output, Part, Router, Settings};

use crate::{
    Guard, Plant,
    lease::Keeper,
    schedule::{MS, SECOND, Time},
    store::{NODES, node_name},
    wires::{Ends, Side, WireId},
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
    /// Another router says it.
    Hears {
        from: String,
        said: ToRouter,
    },
    /// Another router's link is open again; what it said before may be lost.
    Links {
        from: String,
    },
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
        match what {
            RouterEvent::Starts => self.router_starts(router),
            RouterEvent::Stops => self.router_crashes(router),
            RouterEvent::Opens(node) => self.open_stream(router, node),
            RouterEvent::Runs(part) => {
                self.routers[router].will_run.remove(&part);
                if let Some(up) = &mut self.routers[router].up {
                    up.run(&part);
                }
            }
            RouterEvent::Wakes => {
                self.routers[router].will_wake = None;
                if let Some(up) = &mut self.routers[router].up {
                    up.wake();
                }
            }
            RouterEvent::Sees(view) => {
                let node = &mut self.routers[router];
                let Some(up) = &mut node.up else { return };
                up.sees(view);
                // The storage nodes are known from now on.
                if !std::mem::replace(&mut node.knows, true) {
                    (0..NODES).for_each(|storage| self.at_router(router, 0, RouterEvent::Opens(storage)));
                }
            }
            RouterEvent::Links { from } => {
                if let Some(up) = &mut self.routers[router].up {
                    up.peer_links(&from);
                }
            }
            RouterEvent::Hears { from, said } => {
                if let Some(up) = &mut self.routers[router].up {
                    up.peer_says(&from, said);
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
        let settings = Settings { seed, longest: LONGEST, pushes, head_check };
        let up = Router::new(&router_name(router), &settings);
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

    pub(crate) fn router_has_lease(&mut self, router: usize, held: Option<(u64, Time)>) {
        let held = held.map(|(lease, until)| (lease, self.schedule.instant_at(until)));
        if let Some(up) = &mut self.routers[router].up {
            up.holds_lease(held);
        }
        self.after_router(router);
    }

    pub(crate) fn router_hears(&mut self, router: usize, wire: WireId, said: ToRouter) {
        let node = &mut self.routers[router];
        let Some(up) = &mut node.up else { return };
        if node.links.insert(wire) {
            up.link_up(wire);
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
    pub(crate) fn after_router(&mut self, router: usize) {
        let Some(up) = &mut self.routers[router].up else { return };
        let mut outputs = up.take_outputs();
        if self.is_without(Guard::Router) {
            let (mut writes, rest): (Vec<_>, Vec<_>) =
                outputs.into_iter().partition(|output| matches!(output, Output::Store { .. }));
            writes.reverse();
            outputs = writes.into_iter().chain(rest).collect();
        }
        for output in outputs {
            match output {
                Output::Store { stream, request } => self.send(stream, Side::Second, Message::ToStore(request)),
                Output::Link { link, said } => self.router_says(link, said),
                Output::Ended { link } => self.close_wire(link, Side::Second),
                Output::Peer { address, said } => {
                    for hint in said.hints {
                        self.hint(router, &address, hint);
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

    fn hint(&mut self, from: usize, address: &str, hint: Hint) {
        let (from, mut after) = (router_name(from), self.latency());
        let mut hint = Some(hint);
        if !self.healed && self.random.in_thousand(self.scenario.hints_lost) {
            after += self.random.below(400 * MS);
            // For lack of room, or with the link.
            let for_lack_of_room = self.random.in_thousand(500);
            hint = hint.filter(|_| for_lack_of_room).map(|hint| Hint { envelope: Bytes::new(), ..hint });
        }
        let what = match hint {
            Some(hint) => {
                let said = ToRouter { hints: vec![hint], ..ToRouter::default() };
                RouterEvent::Hears { from, said }
            }
            None => RouterEvent::Links { from },
        };
        self.at_router(router_of(address), after, what);
    }

    fn schedule_router(&mut self, router: usize) {
        let now = self.schedule.now();
        let node = &mut self.routers[router];
        let Some(up) = &mut node.up else { return };
        let new: Vec<Part> = up.runnable().filter(|part| !node.will_run.contains(part)).collect();
        node.will_run.extend(new.iter().cloned());
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
