//! What goes wrong, and when.

use crate::{
    gateways::GatewayEvent,
    scenario::{BEGINS, Fault},
    schedule::{MS, Time},
    store::MAP,
    wires::{Ends, WireId},
    world::{Event, World},
};

impl World<'_> {
    /// Schedules the next fault of this kind.
    pub(crate) fn next_fault(&mut self, fault: usize) {
        let (_, mean) = self.scenario.faults[fault];
        let after = self.random.between(mean / 20, mean * 2);
        let after = after.max(BEGINS.saturating_sub(self.schedule.now()));
        if self.schedule.now() + after < self.scenario.heals_at {
            self.schedule.after(after, Event::Fault(fault));
        }
    }

    pub(crate) fn fault(&mut self, fault: usize) {
        let kind = self.scenario.faults[fault].0;
        let (gateway, router) = (self.random.index(self.gateways.len()), self.random.index(self.routers.len()));
        let client = self.random.index(self.clients.len());
        match kind {
            Fault::ClientWire => self.break_one(|ends| matches!(ends, Ends::Client { .. })),
            Fault::LinkWire => {
                self.break_one(|ends| matches!(ends, Ends::Link { .. } | Ends::Talker { .. } | Ends::Peer { .. }))
            }
            Fault::StreamWire => self.break_one(|ends| matches!(ends, Ends::Stream { .. })),
            Fault::ClientRestarts => self.client_restarts(client),
            Fault::ClientDoesNotRead => self.client_does_not_read(client),
            Fault::GatewayCrashes => self.gateway_crashes(gateway),
            Fault::GatewayPauses => {
                self.gateways[gateway].paused_until =
                    self.pause(self.gateways[gateway].paused_until, self.scenario.gateways_stand);
            }
            Fault::RouterCrashes => self.router_crashes(router),
            Fault::RouterLeaves => self.router_leaves(router),
            Fault::RouterPauses => {
                self.routers[router].paused_until = self.pause(self.routers[router].paused_until, None);
            }
            Fault::LeaderChanges => {
                let shards: Vec<_> = MAP.all().collect();
                let shard = shards[self.random.index(shards.len())];
                self.leader_changes(shard);
            }
            Fault::NodeCrashes => self.node_crashes(),
        }
        self.next_fault(fault);
    }

    /// Mostly short, sometimes longer than a lease. A pause that goes on is not made longer: what waits for its end would
    /// come behind what arrives later.
    fn pause(&mut self, until: Time, longer: Option<(Time, Time)>) -> Time {
        let most = if self.random.in_thousand(150) { 4000 * MS } else { 300 * MS };
        let (least, most) = longer.unwrap_or((0, most));
        let next = self.schedule.now() + self.random.between(least, most);
        if until > self.schedule.now() { until } else { next }
    }

    fn break_one(&mut self, which: impl Fn(Ends) -> bool) {
        let wires: Vec<WireId> = self.wires.all().filter(|(_, ends)| which(*ends)).map(|(wire, _)| wire).collect();
        if !wires.is_empty() {
            let wire = wires[self.random.index(wires.len())];
            self.break_wire(wire);
        }
    }

    fn client_does_not_read(&mut self, client: usize) {
        let wire = self.clients[client].wire;
        let ends = wire.and_then(|wire| self.wires.ends(wire, crate::wires::Side::Second));
        let Some(Ends::Client { gateway, connection, .. }) = ends else { return };
        if let Some(up) = &mut self.gateways[gateway].up {
            up.client_blocks(connection, true);
        }
        self.after_gateway(gateway);
        let after = self.random.below(500 * MS);
        self.at_gateway(gateway, after, GatewayEvent::Drained(connection));
    }
}
