//! The leases of gateways and routers: the product's keeper, with a network between it and the registry.

use std::time::Duration;

use carillon_proto::{
    LeaseId,
    lease::{Ask, LeaseAnswer, LeaseKeeper},
    pb::store::{NodeKind, RegisterNode, RenewLease, directory_command::Op, store_reply::Result as Outcome},
};
use tokio::time::Instant;

use crate::{
    routers::router_name,
    schedule::{MS, Time},
    world::{Event, Node, World},
};

const LENGTH: Time = 2000 * MS;

/// The lease of one life of a process.
#[derive(Default)]
pub(crate) struct Keeper {
    /// `None` before the process has started.
    keeper: Option<LeaseKeeper>,
    /// The lease as the process knows it; it may have run out.
    lease: Option<u64>,
    /// True when the process gives its lease back and no longer renews it.
    pub(crate) is_over: bool,
}

#[derive(Debug)]
pub(crate) enum Call {
    /// The process sends a request.
    Asks,
    /// The request reaches the registry.
    Reaches { asked: Time, op: Op },
    /// The answer reaches the process.
    Hears { asked: Time, answer: Option<Outcome> },
}

impl Keeper {
    pub(crate) fn lease(&self) -> Option<u64> {
        self.lease
    }
}

impl World<'_> {
    /// Starts the lease of a process that has just started.
    pub(crate) fn begin_lease(&mut self, node: Node) {
        let now = Instant::from_std(self.schedule.instant());
        let keeper = LeaseKeeper::new(Duration::from_micros(LENGTH), now);
        *self.keeper(node) = Keeper { keeper: Some(keeper), ..Keeper::default() };
        self.lease_after(node, 0, Call::Asks);
    }

    pub(crate) fn lease_call(&mut self, node: Node, life: u64, call: Call) {
        if let Call::Reaches { asked, op } = call {
            // The request may come from a process that has died meanwhile.
            return self.lease_reaches(node, life, asked, op);
        }
        if self.life(node) != life || self.keeper(node).is_over {
            return;
        }
        match call {
            Call::Asks => self.ask(node),
            Call::Hears { asked, answer } => self.hear(node, asked, answer),
            Call::Reaches { .. } => {}
        }
    }

    fn ask(&mut self, node: Node) {
        let (asked, now) = (self.schedule.now(), Instant::from_std(self.schedule.instant()));
        let random = self.random.next();
        let nonce = || {
            let mut nonce = [0; 16];
            nonce[..8].copy_from_slice(&random.to_be_bytes());
            nonce
        };
        let Some(keeper) = &mut self.keeper(node).keeper else { return };
        let op = match (keeper.ask(now, nonce), node) {
            (Ask::Renew(lease), _) => Op::RenewLease(RenewLease { lease: lease.0 }),
            (Ask::Register { nonce }, Node::Gateway(_)) => register(NodeKind::Gateway, String::new(), nonce),
            (Ask::Register { nonce }, Node::Router(router)) => register(NodeKind::Router, router_name(router), nonce),
        };
        let after = self.latency();
        self.lease_after(node, after, Call::Reaches { asked, op });
    }

    fn hear(&mut self, node: Node, asked: Time, answer: Option<Outcome>) {
        let now = Instant::from_std(self.schedule.instant());
        let asked = Instant::from_std(self.schedule.instant_at(asked));
        let answer = match answer {
            Some(Outcome::Registered(registered)) => LeaseAnswer::Registered(LeaseId(registered.lease)),
            Some(Outcome::Done(_)) => LeaseAnswer::Renewed,
            Some(_) => LeaseAnswer::Ended,
            None => LeaseAnswer::Unknown,
        };
        let Keeper { keeper: Some(keeper), lease, .. } = self.keeper(node) else { return };
        keeper.answered(answer, asked, now, |pause| pause);
        match answer {
            LeaseAnswer::Registered(registered) => *lease = Some(registered.0),
            LeaseAnswer::Ended => *lease = None,
            LeaseAnswer::Renewed | LeaseAnswer::Unknown => {}
        }
        let (held, due) = (keeper.held(now), keeper.due());
        let held = held.map(|held| (held.lease.0, self.schedule.time_of(held.until.into_std())));
        self.publish_lease(node, held);
        let due = self.schedule.time_of(due.into_std());
        self.lease_after(node, due.saturating_sub(self.schedule.now()), Call::Asks);
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

    fn publish_lease(&mut self, node: Node, lease: Option<(u64, Time)>) {
        match node {
            Node::Gateway(gateway) => self.gateway_has_lease(gateway, lease.map(|(lease, _)| lease)),
            Node::Router(router) => self.router_has_lease(router, lease),
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
