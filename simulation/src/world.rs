//! The world: who is in it, what may happen, and the loop that makes it happen.

use carillon_proto::{
    clock::VirtualTime,
    pb::{
        client::{ClientFrame, ServerFrame},
        link::{FromRouter, ToRouter},
        store::{StoreReply, StoreRequest},
    },
    peer::Tier,
};
use carillon_storage::simulation::Machines;

use crate::{
    Failure, Plant, Report,
    accounts::AccountEvent,
    clients::{ClientEvent, ClientNode},
    gateways::{GatewayEvent, GatewayNode},
    groups::{GroupEvent, Talker},
    lease::Call,
    model::Model,
    order::Named,
    random::Random,
    routers::{RouterEvent, RouterNode},
    scenario::Scenario,
    schedule::{MS, SECOND, Schedule, Time},
    store::{Cluster, StoreEvent},
    wires::{Ends, Side, WireId, Wires},
};

/// After the last fault, all must be quiet within this time.
const PATIENCE: Time = 60 * SECOND;

pub(crate) struct World<'m> {
    pub(crate) schedule: Schedule<Event>,
    pub(crate) random: Random,
    /// By what devices choose what they say, so that the rest of a run stays what it was.
    pub(crate) words: Random,
    pub(crate) scenario: Scenario,
    pub(crate) plant: Option<Plant>,
    pub(crate) wires: Wires,
    pub(crate) cluster: Cluster<'m>,
    pub(crate) gateways: Vec<GatewayNode>,
    pub(crate) routers: Vec<RouterNode>,
    pub(crate) clients: Vec<ClientNode>,
    /// By user.
    pub(crate) talkers: Vec<Talker>,
    pub(crate) model: Model,
    pub(crate) healed: bool,
    pub(crate) named: Named,
    pub(crate) report: Report,
    verbose: bool,
    /// The clock of the product's tasks: the time of the present event. The last field: tasks read it while they are dropped.
    time: VirtualTime,
}

/// A process with a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Gateway(usize),
    Router(usize),
}

#[derive(Debug)]
pub(crate) enum Event {
    Arrives {
        wire: WireId,
        to: Side,
        message: Message,
    },
    /// This side learns of the end.
    Ends {
        wire: WireId,
        at: Side,
    },
    Gateway {
        gateway: usize,
        life: u64,
        what: GatewayEvent,
    },
    Router {
        router: usize,
        life: u64,
        what: RouterEvent,
    },
    Client {
        client: usize,
        what: ClientEvent,
    },
    Group {
        user: usize,
        what: GroupEvent,
    },
    Store(StoreEvent),
    Account(AccountEvent),
    Lease {
        node: Node,
        life: u64,
        call: Call,
    },
    Fault(usize),
    Heals,
    Looks,
}

#[derive(Debug)]
pub(crate) enum Message {
    ToGateway(ClientFrame),
    ToClient(ServerFrame),
    ToRouter(ToRouter),
    FromRouter(FromRouter),
    ToStore(StoreRequest),
    FromStore(StoreReply),
}

impl<'m> World<'m> {
    pub(crate) fn new(seed: u64, plant: Option<Plant>, machines: &'m mut Machines, verbose: bool) -> Self {
        let (mut random, schedule) = (Random::new(seed), Schedule::new());
        let time = VirtualTime::begin(schedule.instant(), schedule.unix_ms(), seed);
        let mut scenario = Scenario::new(seed, &mut random);
        if plant.is_some_and(Plant::lets_gateways_stand) {
            scenario.let_gateways_stand();
        }
        if plant == Some(Plant::Hostile) {
            scenario.become_hostile(seed);
        }
        if plant == Some(Plant::InboxGoesOn) {
            // Memberships would end the inboxes that are to go on.
            scenario.groups.clear();
        }
        let mut model = Model::new(&scenario.devices);
        model.marks.are_partial = scenario.level_rises.is_some();
        let clients = scenario.devices.iter().enumerate().map(|(i, user)| ClientNode::new(i, *user)).collect();
        Self {
            schedule,
            wires: Wires::default(),
            cluster: Cluster::new(machines),
            gateways: (0..scenario.gateways).map(|_| GatewayNode::default()).collect(),
            routers: (0..scenario.routers).map(|_| RouterNode::default()).collect(),
            talkers: (0..scenario.users).map(|_| Talker::default()).collect(),
            model,
            clients,
            random,
            words: Random::new(seed ^ 0x0077_6f72_6473),
            scenario,
            plant,
            healed: false,
            named: Named::new(),
            report: Report::default(),
            verbose,
            time,
        }
    }

    /// Until all is quiet, or something is wrong.
    pub(crate) fn run(mut self) -> Result<Report, Failure> {
        if self.verbose {
            println!("{:#?}", self.scenario);
        }
        self.begin();
        while let Some(event) = self.next_event() {
            if let Some(until) = self.paused_until(&event) {
                self.schedule.at(until, event);
                continue;
            }
            self.report.note(self.schedule.now(), &event);
            if self.verbose {
                println!("{:>10} {event:?}", self.schedule.now());
            }
            let looks = matches!(event, Event::Looks);
            self.handle(event);
            if let Some(what) = self.model.broken.take() {
                return Err(self.failure(what));
            }
            if looks && self.is_quiet() {
                if self.clients_return() {
                    self.scenario.heals_at = self.schedule.now();
                    continue;
                }
                return match self.check_end() {
                    Ok(()) => Ok(self.report),
                    Err(what) => Err(self.failure(what)),
                };
            }
            if self.schedule.now() > self.scenario.heals_at + PATIENCE {
                let what = format!("not quiet {} s after the last fault: {}", PATIENCE / SECOND, self.unquiet());
                return Err(self.failure(what));
            }
        }
        Err(self.failure("nothing is left to happen".to_owned()))
    }

    fn next_event(&mut self) -> Option<Event> {
        while let Some(at) = self.time.next().map(|at| self.schedule.time_of(at))
            && self.schedule.next_at().is_none_or(|event| at <= event)
        {
            self.schedule.pass_until(at);
            self.time.set(self.schedule.instant(), self.schedule.unix_ms());
            (0..self.gateways.len()).for_each(|gateway| self.after_gateway(gateway));
            (0..self.routers.len()).for_each(|router| self.after_router(router));
        }
        let event = self.schedule.pop();
        self.time.set(self.schedule.instant(), self.schedule.unix_ms());
        event
    }

    fn failure(&self, what: String) -> Failure {
        Failure { what, at_us: self.schedule.now() }
    }

    fn begin(&mut self) {
        self.found_cluster();
        for gateway in 0..self.gateways.len() {
            let after = self.random.below(50 * MS);
            self.at_gateway(gateway, after, GatewayEvent::Starts);
        }
        for router in 0..self.routers.len() {
            let after = self.random.below(50 * MS);
            self.at_router(router, after, RouterEvent::Starts);
        }
        for client in 0..self.clients.len() {
            let after = self.random.below(400 * MS);
            self.at_client(client, after, ClientEvent::Connects);
        }
        for (client, at, to, count) in self.scenario.bursts.clone() {
            self.at_client(client, at, ClientEvent::Sends { to, count });
        }
        for (user, at, want) in self.scenario.groups.clone() {
            self.schedule.at(at, Event::Group { user, what: GroupEvent::Wants(want) });
        }
        let people = self.scenario.people.clone();
        for (user, at, want) in people.wants {
            self.schedule.at(at, Event::Group { user, what: GroupEvent::Wants(want) });
        }
        for (client, at, show, hears) in people.shows {
            self.schedule.at(at, Event::Client { client, what: ClientEvent::Shows { show, hears } });
        }
        for (client, at, with_gateway) in people.leaves {
            self.schedule.at(at, Event::Client { client, what: ClientEvent::Leaves { with_gateway } });
        }
        for (user, at) in self.scenario.deletions.clone() {
            self.schedule.at(at, Event::Account(AccountEvent::Deletes(user)));
        }
        for fault in 0..self.scenario.faults.len() {
            self.next_fault(fault);
        }
        self.schedule.at(self.scenario.heals_at, Event::Heals);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrives { wire, to, message } => self.arrives(wire, to, message),
            Event::Ends { wire, at } => self.ends(wire, at),
            Event::Gateway { gateway, life, what } if self.gateways[gateway].life == life => {
                self.gateway_event(gateway, what);
            }
            Event::Router { router, life, what } if self.routers[router].life == life => {
                self.router_event(router, what);
            }
            // An event of a process that is no more.
            Event::Gateway { .. } | Event::Router { .. } => {}
            Event::Client { client, what } => self.client_event(client, what),
            Event::Group { user, what } => self.group_event(user, what),
            Event::Store(what) => self.store_event(what),
            Event::Account(what) => self.account_event(what),
            Event::Lease { node, life, call } => self.lease_call(node, life, call),
            Event::Fault(fault) => self.fault(fault),
            Event::Heals => {
                self.healed = true;
                self.schedule.after(100 * MS, Event::Looks);
            }
            Event::Looks => self.schedule.after(100 * MS, Event::Looks),
        }
    }

    fn arrives(&mut self, wire: WireId, to: Side, message: Message) {
        let Some(ends) = self.wires.arrives(wire, to, self.schedule.now()) else { return };
        match (ends, message) {
            (Ends::Client { gateway, connection, .. }, Message::ToGateway(frame)) => {
                self.gateway_hears(gateway, connection, frame);
            }
            (Ends::Client { client, .. }, Message::ToClient(frame)) => self.client_hears(client, wire, frame),
            (Ends::Talker { user, .. }, Message::FromRouter(said)) => self.talker_hears(user, wire, &said),
            (Ends::Link { router, .. } | Ends::Talker { router, .. }, Message::ToRouter(said)) => {
                self.router_hears(router, wire, Tier::Gateway, said);
            }
            (Ends::Peer { to: router, .. }, Message::ToRouter(said)) => {
                self.router_hears(router, wire, Tier::Router, said);
            }
            (Ends::Peer { from, .. }, Message::FromRouter(said)) => self.router_hears_peer(from, wire, said),
            (Ends::Link { gateway, .. }, Message::FromRouter(said)) => self.gateway_hears_router(gateway, wire, said),
            (Ends::Stream { node, .. }, Message::ToStore(request)) => self.store_request(node, wire, request),
            (Ends::Stream { router, .. }, Message::FromStore(reply)) => self.router_hears_store(router, wire, reply),
            (ends, message) => unreachable!("{message:?} on {ends:?}"),
        }
    }

    fn ends(&mut self, wire: WireId, at: Side) {
        match (self.wires.learnt(wire, at), at) {
            (None, _) => {}
            (Some(Ends::Client { client, .. }), Side::First) => self.client_lost(client, wire),
            (Some(Ends::Client { gateway, connection, .. }), Side::Second) => {
                self.gateway_lost_client(gateway, connection);
            }
            (Some(Ends::Link { gateway, .. }), Side::First) => self.gateway_lost_router(gateway, wire),
            (Some(Ends::Talker { user, .. }), Side::First) => self.talker_lost(user, wire),
            (
                Some(Ends::Link { router, .. } | Ends::Talker { router, .. } | Ends::Peer { to: router, .. }),
                Side::Second,
            ) => {
                self.router_lost_link(router, wire);
            }
            (Some(Ends::Peer { from, .. }), Side::First) => self.router_lost_peer(from, wire),
            (Some(Ends::Stream { router, .. }), Side::First) => self.router_lost_store(router, wire),
            (Some(Ends::Stream { .. }), Side::Second) => self.cluster.forget(wire),
        }
    }

    pub(crate) fn send(&mut self, wire: WireId, to: Side, message: Message) {
        let latency = self.latency();
        if let Some(at) = self.wires.send(wire, to, self.schedule.now(), latency) {
            self.schedule.at(at, Event::Arrives { wire, to, message });
        }
    }

    pub(crate) fn latency(&mut self) -> Time {
        let (least, most) = self.scenario.latency;
        let usual = self.random.between(least, most);
        let slow = !self.healed && self.random.in_thousand(self.scenario.slow);
        if slow { usual + self.random.between(5 * MS, 300 * MS) } else { usual }
    }

    /// Something between the two breaks: each learns of it in its own time.
    pub(crate) fn break_wire(&mut self, wire: WireId) {
        let now = self.schedule.now();
        let most = if self.random.in_thousand(200) { 400 * MS } else { 5 * MS };
        let at = [now + self.random.below(most), now + self.random.below(most)];
        for (at, time) in self.wires.cut(wire, at) {
            self.schedule.at(time, Event::Ends { wire, at });
        }
    }

    /// The process at this side is no more.
    pub(crate) fn abandon_wire(&mut self, wire: WireId, side: Side) {
        self.break_wire(wire);
        self.wires.learnt(wire, side);
    }

    pub(crate) fn close_wire(&mut self, wire: WireId, by: Side) {
        let at = self.schedule.now() + self.latency();
        if let Some(at) = self.wires.close(wire, by, at) {
            self.schedule.at(at, Event::Ends { wire, at: by.other() });
        }
    }

    fn paused_until(&self, event: &Event) -> Option<Time> {
        let node = match event {
            Event::Gateway { gateway, .. } | Event::Lease { node: Node::Gateway(gateway), .. } => {
                Node::Gateway(*gateway)
            }
            Event::Router { router, .. } | Event::Lease { node: Node::Router(router), .. } => Node::Router(*router),
            Event::Arrives { wire, to: side, .. } | Event::Ends { wire, at: side } => {
                match (self.wires.ends(*wire, *side)?, side) {
                    (Ends::Client { gateway, .. }, Side::Second) | (Ends::Link { gateway, .. }, Side::First) => {
                        Node::Gateway(gateway)
                    }
                    (
                        Ends::Link { router, .. } | Ends::Talker { router, .. } | Ends::Peer { to: router, .. },
                        Side::Second,
                    )
                    | (Ends::Stream { router, .. } | Ends::Peer { from: router, .. }, Side::First) => {
                        Node::Router(router)
                    }
                    _ => return None,
                }
            }
            _ => return None,
        };
        let until = match node {
            Node::Gateway(gateway) => self.gateways[gateway].paused_until,
            Node::Router(router) => self.routers[router].paused_until,
        };
        (until > self.schedule.now()).then_some(until)
    }
}
