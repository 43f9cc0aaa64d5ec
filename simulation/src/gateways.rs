//! The gateways as processes: their links, their pace, their ends. What they decide is real.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use carillon_gateway::simulation::{Gateway, Output, Part, Settings};
use carillon_proto::pb::{
    client::ClientFrame,
    link::{FromRouter, Hello, ToRouter},
    store::NodeKind,
};

use crate::{
    clients::TOKEN_SECRET,
    lease::Keeper,
    routers::{router_name, router_of},
    schedule::{MS, SECOND, Time},
    wires::{Ends, Side, WireId},
    world::{Event, Message, Node, World},
};

const TICK: Time = 50 * MS;
const OPEN_TIMEOUT: Time = 5 * SECOND;

#[derive(Default)]
pub(crate) struct GatewayNode {
    /// Grows with each start and each end.
    pub(crate) life: u64,
    pub(crate) up: Option<Gateway>,
    pub(crate) paused_until: Time,
    pub(crate) keeper: Keeper,
    said_lease: Option<u64>,
    links: BTreeMap<String, Link>,
    connections: BTreeMap<u64, WireId>,
    will_run: BTreeSet<Part>,
    will_wake: BTreeMap<u64, Time>,
}

enum Link {
    Waits,
    Opens(WireId),
    Up(WireId),
}

#[derive(Debug)]
pub(crate) enum GatewayEvent {
    Starts,
    Runs(Part),
    Wakes(u64),
    Ticks,
    Opens(String),
    GivesUp(String, WireId),
    /// The client reads again.
    Drained(u64),
}

impl Link {
    fn wire(&self) -> Option<WireId> {
        match self {
            Self::Waits => None,
            Self::Opens(wire) | Self::Up(wire) => Some(*wire),
        }
    }
}

impl World<'_> {
    pub(crate) fn at_gateway(&mut self, gateway: usize, after: Time, what: GatewayEvent) {
        let life = self.gateways[gateway].life;
        self.schedule.after(after, Event::Gateway { gateway, life, what });
    }

    pub(crate) fn gateway_event(&mut self, gateway: usize, what: GatewayEvent) {
        let (now, unix_ms) = (self.schedule.instant(), self.schedule.unix_ms());
        match what {
            GatewayEvent::Starts => self.gateway_starts(gateway),
            GatewayEvent::Runs(part) => {
                let node = &mut self.gateways[gateway];
                node.will_run.remove(&part);
                if let Some(up) = &mut node.up {
                    up.run(part, now, unix_ms);
                }
                if part == Part::Links {
                    self.arrange(gateway);
                }
            }
            GatewayEvent::Wakes(connection) => {
                let node = &mut self.gateways[gateway];
                node.will_wake.remove(&connection);
                if let Some(up) = &mut node.up {
                    up.wake(connection, now, unix_ms);
                }
            }
            GatewayEvent::Ticks => {
                if let Some(up) = &mut self.gateways[gateway].up {
                    up.tick();
                }
                self.at_gateway(gateway, TICK, GatewayEvent::Ticks);
            }
            GatewayEvent::Opens(address) => self.open_link(gateway, address),
            GatewayEvent::GivesUp(address, wire) => {
                let link = self.gateways[gateway].links.get_mut(&address);
                if let Some(link @ Link::Opens(_)) = link
                    && link.wire() == Some(wire)
                {
                    *link = Link::Waits;
                    self.close_wire(wire, Side::First);
                    self.at_gateway(gateway, 100 * MS, GatewayEvent::Opens(address));
                }
            }
            GatewayEvent::Drained(connection) => {
                if let Some(up) = &mut self.gateways[gateway].up {
                    up.backlog(connection, false, now, unix_ms);
                }
            }
        }
        self.after_gateway(gateway);
    }

    fn gateway_starts(&mut self, gateway: usize) {
        let settings = Settings {
            secret: TOKEN_SECRET.to_owned(),
            heartbeat_ms: self.scenario.heartbeat_ms,
            max_pending_sends: self.scenario.window,
            deadline: Duration::from_millis(self.scenario.gateway_deadline_ms),
            gap_grace: Duration::from_millis(20),
        };
        let up = Gateway::new(settings).expect("the secret is long enough");
        let life = self.gateways[gateway].life + 1;
        self.gateways[gateway] = GatewayNode { life, up: Some(up), ..GatewayNode::default() };
        self.begin_lease(Node::Gateway(gateway));
        self.arrange(gateway);
        self.at_gateway(gateway, TICK, GatewayEvent::Ticks);
    }

    pub(crate) fn gateway_crashes(&mut self, gateway: usize) {
        if self.gateways[gateway].up.is_none() {
            return;
        }
        let life = self.gateways[gateway].life + 1;
        self.gateways[gateway] = GatewayNode { life, ..GatewayNode::default() };
        for (wire, ends) in self.wires.all().collect::<Vec<_>>() {
            match ends {
                Ends::Client { gateway: its, .. } if its == gateway => self.abandon_wire(wire, Side::Second),
                Ends::Link { gateway: its, .. } if its == gateway => self.abandon_wire(wire, Side::First),
                _ => {}
            }
        }
        let after = self.random.between(10 * MS, 1000 * MS);
        self.at_gateway(gateway, after, GatewayEvent::Starts);
    }

    /// None: nobody is there.
    pub(crate) fn connect(&mut self, client: usize, gateway: usize) -> Option<WireId> {
        let (now, unix_ms) = (self.schedule.instant(), self.schedule.unix_ms());
        let node = &mut self.gateways[gateway];
        let connection = node.up.as_mut()?.connected(now, unix_ms);
        let wire = self.wires.open(Ends::Client { client, gateway, connection });
        node.connections.insert(connection, wire);
        self.after_gateway(gateway);
        Some(wire)
    }

    pub(crate) fn gateway_hears(&mut self, gateway: usize, connection: u64, frame: ClientFrame) {
        let (now, unix_ms) = (self.schedule.instant(), self.schedule.unix_ms());
        if let Some(up) = &mut self.gateways[gateway].up {
            up.client_says(connection, frame, now, unix_ms);
        }
        self.after_gateway(gateway);
    }

    pub(crate) fn gateway_lost_client(&mut self, gateway: usize, connection: u64) {
        let node = &mut self.gateways[gateway];
        node.connections.remove(&connection);
        if let Some(up) = &mut node.up {
            up.disconnected(connection);
        }
        self.after_gateway(gateway);
    }

    pub(crate) fn gateway_hears_router(&mut self, gateway: usize, wire: WireId, said: FromRouter) {
        let now = self.schedule.instant();
        let node = &mut self.gateways[gateway];
        let link = node.links.iter_mut().find(|(_, link)| link.wire() == Some(wire));
        let (Some((address, link)), Some(up)) = (link, &mut node.up) else { return };
        up.router_says(address, said, now);
        if matches!(link, Link::Opens(_)) {
            *link = Link::Up(wire);
            up.router_up(address);
        }
        self.after_gateway(gateway);
    }

    pub(crate) fn gateway_lost_router(&mut self, gateway: usize, wire: WireId) {
        let node = &mut self.gateways[gateway];
        let link = node.links.iter_mut().find(|(_, link)| link.wire() == Some(wire));
        let (Some((address, link)), Some(up)) = (link, &mut node.up) else { return };
        if matches!(link, Link::Up(_)) {
            up.router_down(address);
        }
        *link = Link::Waits;
        let (address, pause) = (address.clone(), self.random.between(25 * MS, 75 * MS));
        self.at_gateway(gateway, pause, GatewayEvent::Opens(address));
        self.after_gateway(gateway);
    }

    pub(crate) fn gateway_has_lease(&mut self, gateway: usize, lease: Option<u64>) {
        let node = &mut self.gateways[gateway];
        let Some(up) = &mut node.up else { return };
        if node.said_lease == lease {
            return;
        }
        node.said_lease = lease;
        up.has_lease(lease);
        if lease.is_some() {
            // Links greet with the lease: those of another one are opened again.
            for (address, wire) in self.links_of(gateway) {
                self.leave_link(gateway, &address, wire);
                self.gateways[gateway].links.insert(address.clone(), Link::Waits);
                self.at_gateway(gateway, 0, GatewayEvent::Opens(address));
            }
        }
        self.after_gateway(gateway);
    }

    fn links_of(&self, gateway: usize) -> Vec<(String, Option<WireId>)> {
        self.gateways[gateway].links.iter().map(|(address, link)| (address.clone(), link.wire())).collect()
    }

    fn leave_link(&mut self, gateway: usize, address: &str, wire: Option<WireId>) {
        let node = &mut self.gateways[gateway];
        let was_up = matches!(node.links.remove(address), Some(Link::Up(_)));
        if let (true, Some(up)) = (was_up, &mut node.up) {
            up.router_down(address);
        }
        if let Some(wire) = wire {
            self.close_wire(wire, Side::First);
        }
    }

    /// A link to each router of the ring; to all others as well while none of those is open.
    fn arrange(&mut self, gateway: usize) {
        let Some(up) = &self.gateways[gateway].up else { return };
        let mut wanted: BTreeSet<String> = up.routers().map(str::to_owned).collect();
        if !wanted.iter().any(|address| up.is_up(address)) {
            wanted.extend((0..self.routers.len()).map(router_name));
        }
        for (address, wire) in self.links_of(gateway) {
            if !wanted.contains(&address) {
                self.leave_link(gateway, &address, wire);
            }
        }
        for address in wanted {
            if !self.gateways[gateway].links.contains_key(&address) {
                self.gateways[gateway].links.insert(address.clone(), Link::Waits);
                self.at_gateway(gateway, 0, GatewayEvent::Opens(address));
            }
        }
    }

    fn open_link(&mut self, gateway: usize, address: String) {
        let node = &mut self.gateways[gateway];
        // When there is a lease, all are opened.
        let (Some(lease), Some(Link::Waits)) = (node.said_lease, node.links.get(&address)) else { return };
        let router = router_of(&address);
        if self.routers[router].up.is_none() {
            let pause = self.random.between(25 * MS, 200 * MS);
            return self.at_gateway(gateway, pause, GatewayEvent::Opens(address));
        }
        let wire = self.wires.open(Ends::Link { gateway, router });
        node.links.insert(address.clone(), Link::Opens(wire));
        let hello = Some(Hello { lease, kind: NodeKind::Gateway.into() });
        self.send(wire, Side::Second, Message::ToRouter(ToRouter { hello, ..ToRouter::default() }));
        self.at_gateway(gateway, OPEN_TIMEOUT, GatewayEvent::GivesUp(address, wire));
    }

    /// Performs what it said, and sees to what it has to do next.
    pub(crate) fn after_gateway(&mut self, gateway: usize) {
        let node = &mut self.gateways[gateway];
        let Some(up) = &mut node.up else { return };
        let mut said_to: BTreeMap<WireId, Vec<ToRouter>> = BTreeMap::new();
        let mut frames = Vec::new();
        for output in up.take_outputs() {
            match output {
                Output::Router { address, said } => {
                    if let Some(Link::Up(wire)) = node.links.get(&*address) {
                        said_to.entry(*wire).or_default().push(said);
                    }
                }
                Output::Client { connection, frame } => frames.push((connection, Some(frame))),
                Output::Close { connection } => frames.push((connection, None)),
            }
        }
        for (connection, frame) in frames {
            let wire = match &frame {
                Some(_) => self.gateways[gateway].connections.get(&connection).copied(),
                None => self.gateways[gateway].connections.remove(&connection),
            };
            match (wire, frame) {
                (Some(wire), Some(frame)) => self.send(wire, Side::First, Message::ToClient(frame)),
                (Some(wire), None) => self.close_wire(wire, Side::Second),
                (None, _) => {}
            }
        }
        for (wire, mut said) in said_to {
            self.words_go(&mut said);
            said.into_iter().for_each(|said| self.send(wire, Side::Second, Message::ToRouter(said)));
        }
        self.schedule_gateway(gateway);
    }

    fn schedule_gateway(&mut self, gateway: usize) {
        let now = self.schedule.now();
        let node = &mut self.gateways[gateway];
        let Some(up) = &mut node.up else { return };
        let new: Vec<Part> = up.runnable().filter(|part| !node.will_run.contains(part)).collect();
        node.will_run.extend(new.iter().copied());
        let mut wakes = Vec::new();
        // Connection 0 stands for the feeds.
        for connection in [0].iter().chain(node.connections.keys()) {
            let Some(at) = up.wake_at(*connection) else { continue };
            let at = self.schedule.time_of(at).max(now);
            if node.will_wake.get(connection).is_none_or(|planned| at < *planned) {
                wakes.push((*connection, at));
            }
        }
        for part in new {
            let after = self.pace();
            self.at_gateway(gateway, after, GatewayEvent::Runs(part));
        }
        for (connection, at) in wakes {
            self.gateways[gateway].will_wake.insert(connection, at);
            self.at_gateway(gateway, at - now, GatewayEvent::Wakes(connection));
        }
    }

    /// How long a task waits for its turn.
    pub(crate) fn pace(&mut self) -> Time {
        if self.random.in_thousand(20) { self.random.below(10 * MS) } else { self.random.below(300) }
    }
}
