//! The leases of gateways and routers: asked for, renewed, asked for anew. The registry that gives them is real.

use carillon_proto::pb::store::{
    NodeKind, RegisterNode, RenewLease, directory_command::Op, store_reply::Result as Outcome,
};

use crate::{
    routers::router_name,
    schedule::{MS, Time},
    world::{Event, Node, World},
};

const LENGTH: Time = 2000 * MS;
const PAUSE: Time = 100 * MS;

#[derive(Default)]
pub(crate) struct Keeper {
    lease: Option<u64>,
    /// One for all tries of a registration.
    nonce: [u8; 16],
    /// From when the lease counts: before it was asked for.
    counts_from: Time,
    /// It is leaving.
    pub(crate) is_over: bool,
}

#[derive(Debug)]
pub(crate) enum Call {
    /// The process asks.
    Asks,
    /// The registry is asked.
    Reaches { asked: Time, op: Op },
    /// The process hears.
    Hears { asked: Time, answer: Option<Outcome> },
}

impl Keeper {
    pub(crate) fn lease(&self) -> Option<u64> {
        self.lease
    }
}

impl World<'_> {
    /// Of a process that has just started.
    pub(crate) fn begin_lease(&mut self, node: Node) {
        *self.keeper(node) = Keeper::default();
        self.ask_anew(node);
    }

    fn ask_anew(&mut self, node: Node) {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.random.next().to_be_bytes());
        let keeper = self.keeper(node);
        keeper.lease = None;
        keeper.nonce = nonce;
        self.lease_after(node, 0, Call::Asks);
    }

    pub(crate) fn lease_call(&mut self, node: Node, life: u64, call: Call) {
        if let Call::Reaches { asked, op } = call {
            // Also from a process that has died meanwhile.
            return self.lease_reaches(node, life, asked, op);
        }
        if self.life(node) != life || self.keeper(node).is_over {
            return;
        }
        let now = self.schedule.now();
        match call {
            Call::Asks => {
                let (lease, nonce) = (self.keeper(node).lease, self.keeper(node).nonce);
                let op = match (lease, node) {
                    (Some(lease), _) => Op::RenewLease(RenewLease { lease }),
                    (None, Node::Gateway(_)) => register(NodeKind::Gateway, String::new(), nonce),
                    (None, Node::Router(router)) => register(NodeKind::Router, router_name(router), nonce),
                };
                let after = self.latency();
                self.lease_after(node, after, Call::Reaches { asked: now, op });
            }
            Call::Hears { asked, answer: Some(Outcome::Registered(registered)) } => {
                self.keeper(node).lease = Some(registered.lease);
                self.renewed(node, asked);
            }
            Call::Hears { asked, answer: Some(Outcome::Done(_)) } => self.renewed(node, asked),
            Call::Hears { answer: Some(_), .. } => {
                self.publish_lease(node, None);
                self.ask_anew(node);
            }
            Call::Hears { answer: None, .. } => {
                let keeper = self.keeper(node);
                if keeper.lease.is_some() && keeper.counts_from + LENGTH <= now {
                    self.publish_lease(node, None);
                }
                self.lease_after(node, PAUSE, Call::Asks);
            }
            Call::Reaches { .. } => {}
        }
    }

    fn lease_reaches(&mut self, node: Node, life: u64, asked: Time, op: Op) {
        let lost = !self.healed && self.random.in_thousand(50);
        let answer = match self.cluster.registry_is_led() && !lost {
            true => Some(self.registry_write(op)),
            false => None,
        };
        let lost = !self.healed && self.random.in_thousand(50);
        let heard = answer.is_some() && !lost;
        let after = if heard { self.latency() } else { 300 * MS };
        let call = Call::Hears { asked, answer: answer.filter(|_| heard) };
        self.schedule.after(after, Event::Lease { node, life, call });
    }

    fn renewed(&mut self, node: Node, asked: Time) {
        let now = self.schedule.now();
        let keeper = self.keeper(node);
        keeper.counts_from = asked;
        let (lease, until) = (keeper.lease, asked + LENGTH);
        self.publish_lease(node, lease.filter(|_| until > now).map(|lease| (lease, until)));
        self.lease_after(node, (asked + LENGTH / 3).saturating_sub(now), Call::Asks);
    }

    fn publish_lease(&mut self, node: Node, lease: Option<(u64, Time)>) {
        match node {
            Node::Gateway(gateway) => self.gateway_has_lease(gateway, lease.map(|(lease, _)| lease)),
            Node::Router(router) => self.router_has_lease(router, lease.map(|(_, until)| until)),
        }
    }

    fn lease_after(&mut self, node: Node, after: Time, call: Call) {
        let life = self.life(node);
        self.schedule.after(after, Event::Lease { node, life, call });
    }

    fn life(&self, node: Node) -> u64 {
        match node {
            Node::Gateway(gateway) => self.gateways[gateway].life,
            Node::Router(router) => self.routers[router].life,
        }
    }

    fn keeper(&mut self, node: Node) -> &mut Keeper {
        match node {
            Node::Gateway(gateway) => &mut self.gateways[gateway].keeper,
            Node::Router(router) => &mut self.routers[router].keeper,
        }
    }
}

fn register(kind: NodeKind, address: String, nonce: [u8; 16]) -> Op {
    let ttl_ms = (LENGTH / MS) as u32;
    Op::RegisterNode(RegisterNode { kind: kind.into(), address, ttl_ms, nonce: nonce.to_vec().into() })
}
