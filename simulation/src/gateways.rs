//! The gateways as processes: their pace, their ends. What they decide is real, as are their tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use carillon_gateway::simulation::{Gateway, Output, Part, Settings};
use carillon_proto::pb::{
    client::ClientFrame,
    link::{FromRouter, ToRouter},
};

use crate::{
    clients::TOKEN_SECRET,
    lease::Keeper,
    routers::{router_name, router_of},
    schedule::{MS, Time},
    wires::{Ends, Side, WireId, number_of},
    world::{Event, Message, Node, World},
};

#[derive(Default)]
pub(crate) struct GatewayNode {
    /// Grows with each start and each end.
    pub(crate) life: u64,
    pub(crate) up: Option<Gateway>,
    pub(crate) paused_until: Time,
    pub(crate) keeper: Keeper,
    /// By the gateway's numbers of them.
    links: BTreeMap<u64, WireId>,
    connections: BTreeMap<u64, WireId>,
    will_run: BTreeSet<Part>,
}

#[derive(Debug)]
pub(crate) enum GatewayEvent {
    Starts,
    Runs(Part),
    /// The client reads again.
    Drained(u64),
}

impl World<'_> {
    pub(crate) fn at_gateway(&mut self, gateway: usize, after: Time, what: GatewayEvent) {
        let life = self.gateways[gateway].life;
        self.schedule.after(after, Event::Gateway { gateway, life, what });
    }

    pub(crate) fn gateway_event(&mut self, gateway: usize, what: GatewayEvent) {
        match what {
            GatewayEvent::Starts => self.gateway_starts(gateway),
            GatewayEvent::Runs(part) => {
                let node = &mut self.gateways[gateway];
                node.will_run.remove(&part);
                if let Some(up) = &mut node.up {
                    up.run(part);
                }
            }
            GatewayEvent::Drained(connection) => {
                if let Some(up) = &mut self.gateways[gateway].up {
                    up.client_blocks(connection, false);
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
            routers: (0..self.routers.len()).map(router_name).collect(),
        };
        let up = Gateway::new(settings).expect("its secrets are long enough");
        let life = self.gateways[gateway].life + 1;
        self.gateways[gateway] = GatewayNode { life, up: Some(up), ..GatewayNode::default() };
        self.begin_lease(Node::Gateway(gateway));
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
        let node = &mut self.gateways[gateway];
        let connection = node.up.as_mut()?.connected();
        let wire = self.wires.open(Ends::Client { client, gateway, connection });
        node.connections.insert(connection, wire);
        self.after_gateway(gateway);
        Some(wire)
    }

    pub(crate) fn gateway_hears(&mut self, gateway: usize, connection: u64, frame: ClientFrame) {
        if let Some(up) = &mut self.gateways[gateway].up {
            up.client_says(connection, frame);
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
        let node = &mut self.gateways[gateway];
        if let (Some(link), Some(up)) = (number_of(&node.links, wire), &mut node.up) {
            up.router_says(link, said);
        }
        self.after_gateway(gateway);
    }

    pub(crate) fn gateway_lost_router(&mut self, gateway: usize, wire: WireId) {
        let node = &mut self.gateways[gateway];
        if let (Some(link), Some(up)) = (number_of(&node.links, wire), &mut node.up) {
            up.router_gone(link);
            node.links.remove(&link);
        }
        self.after_gateway(gateway);
    }

    pub(crate) fn gateway_has_lease(&mut self, gateway: usize, lease: Option<u64>) {
        if let Some(up) = &mut self.gateways[gateway].up {
            up.has_lease(lease);
        }
        self.after_gateway(gateway);
    }

    fn open_link(&mut self, gateway: usize, link: u64, address: &str) {
        let router = router_of(address);
        if self.routers[router].up.is_some() {
            let wire = self.wires.open(Ends::Link { gateway, router });
            self.gateways[gateway].links.insert(link, wire);
        } else if let Some(up) = &mut self.gateways[gateway].up {
            up.router_gone(link);
        }
    }

    /// Performs what it said, and sees to what it has to do next.
    pub(crate) fn after_gateway(&mut self, gateway: usize) {
        let Some(up) = &mut self.gateways[gateway].up else { return };
        let mut said_to: BTreeMap<WireId, Vec<ToRouter>> = BTreeMap::new();
        for output in up.take_outputs() {
            let node = &mut self.gateways[gateway];
            match output {
                Output::Opens { link, address } => self.open_link(gateway, link, &address),
                Output::Link { link, said } => {
                    if let Some(wire) = node.links.get(&link) {
                        said_to.entry(*wire).or_default().push(said);
                    }
                }
                Output::Leaves { link } => {
                    if let Some(wire) = node.links.remove(&link) {
                        self.close_wire(wire, Side::First);
                    }
                }
                Output::Client { connection, frame, told_ms } => {
                    if let Some(body) = &frame.body {
                        self.model.gives_out(body, told_ms);
                    }
                    if let Some(wire) = node.connections.get(&connection).copied() {
                        self.send(wire, Side::First, Message::ToClient(frame));
                    }
                }
                Output::Close { connection } => {
                    if let Some(wire) = node.connections.remove(&connection) {
                        self.close_wire(wire, Side::Second);
                    }
                }
            }
        }
        for (wire, mut said) in said_to {
            self.words_go(&mut said);
            said.into_iter().for_each(|said| self.send(wire, Side::Second, Message::ToRouter(said)));
        }
        self.schedule_gateway(gateway);
    }

    fn schedule_gateway(&mut self, gateway: usize) {
        let node = &mut self.gateways[gateway];
        let Some(up) = &mut node.up else { return };
        let new: Vec<Part> = up.runnable().filter(|part| !node.will_run.contains(part)).collect();
        node.will_run.extend(new.iter().copied());
        for part in new {
            let after = self.pace();
            self.at_gateway(gateway, after, GatewayEvent::Runs(part));
        }
    }

    /// The time for which a task waits for its turn.
    pub(crate) fn pace(&mut self) -> Time {
        if self.random.in_thousand(20) { self.random.below(10 * MS) } else { self.random.below(300) }
    }
}
