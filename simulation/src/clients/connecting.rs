//! Connections of the clients: how they begin, what the gateways write, how they end.

use carillon_proto::pb::client::{
    ClientFrame, Refused, ServerFrame, SignedIn, client_frame::Body, refused::What, server_frame,
};

use super::{ClientEvent, TICK};
use crate::{
    schedule::{MS, Time},
    wires::{Side, WireId},
    world::{Message, World},
};

/// The pause after the first failure to connect, which doubles with each further one, and the longest pause.
const BACKOFF: (Time, Time) = (50 * MS, 1000 * MS);

impl World<'_> {
    pub(super) fn client_connects(&mut self, client: usize) {
        let node = &self.clients[client];
        if node.wire.is_some() || self.is_out_or_away(client) || self.schedule.now() < node.begins_at {
            return;
        }
        let gateway = self.clients[client].turn % self.gateways.len();
        let Some(wire) = self.connect(client, gateway) else { return self.client_retries(client, None) };
        let node = &mut self.clients[client];
        node.wire = Some(wire);
        let mut frame = ClientFrame { body: Some(Body::SignIn(node.device.sign_in())) };
        self.frame_goes(client, &mut frame);
        self.send(wire, Side::Second, Message::ToGateway(frame));
        self.at_client(client, self.scenario.sign_in_timeout, ClientEvent::GivesUp(wire));
    }

    pub(crate) fn client_hears(&mut self, client: usize, wire: WireId, frame: ServerFrame) {
        if self.clients[client].wire != Some(wire) {
            return;
        }
        let now = self.schedule.instant();
        let node = &mut self.clients[client];
        node.heard = self.schedule.now();
        match frame.body {
            Some(server_frame::Body::SignedIn(signed_in)) if !node.is_live => self.client_signed_in(client, &signed_in),
            Some(server_frame::Body::Bye(bye)) if !node.is_live => {
                if !bye.reconnect {
                    let what = format!("{} may never sign in again: {}", node.name, bye.reason);
                    return self.client_is_put_out(client, what);
                }
                let after = Time::from(bye.reconnect_after_ms) * MS;
                self.client_gives_up(client, Some(after));
            }
            Some(body) => {
                if let server_frame::Body::Refused(Refused { what: Some(What::ClientId(client_id)), .. }) = &body {
                    self.report.refused += 1;
                    self.model.refused(client, client_id);
                }
                if let Err(lost) = node.device.hears(body, now) {
                    let what = format!("{} was ended for ever: {}", node.name, lost.why);
                    // What it was told before counts.
                    self.client_told(client);
                    if lost.is_final {
                        return self.client_is_put_out(client, what);
                    }
                    self.client_gives_up(client, lost.after.map(|after| after.as_micros() as Time));
                }
            }
            None => {}
        }
        self.after_client(client);
    }

    fn client_signed_in(&mut self, client: usize, signed_in: &SignedIn) {
        let now = self.schedule.now();
        let heartbeat = Time::from(signed_in.heartbeat_ms) * MS * 9 / 10;
        let node = &mut self.clients[client];
        node.is_live = true;
        node.failures = 0;
        node.next_ping = now + heartbeat;
        node.next_tick = now + TICK;
        node.next_acks = Some(now);
        let began = node.device.signed_in(signed_in);
        if std::mem::replace(&mut node.is_fresh, false) {
            let after = signed_in.timelines.first().map_or(0, |state| state.delivered_from);
            self.model.begins(client, after);
        }
        if let Err(lost) = began {
            self.model.breaks(format!("the sign-in can't be read: {}", lost.why));
        }
        let own = self.clients[client].device.own();
        own.into_iter().for_each(|body| self.client_says(client, body));
    }

    /// The connection is over.
    pub(crate) fn client_lost(&mut self, client: usize, wire: WireId) {
        if self.clients[client].wire == Some(wire) {
            self.client_told(client);
            self.client_retries(client, None);
        }
    }

    pub(super) fn client_gives_up(&mut self, client: usize, after: Option<Time>) {
        if let Some(wire) = self.clients[client].wire {
            self.close_wire(wire, Side::First);
        }
        self.client_retries(client, after);
    }

    fn client_retries(&mut self, client: usize, asked: Option<Time>) {
        let jitter = self.random.between(500, 1000);
        let node = &mut self.clients[client];
        node.device.disconnected();
        node.wire = None;
        node.is_live = false;
        node.turn += 1;
        let pause = (BACKOFF.0 << node.failures.min(10)).min(BACKOFF.1) * jitter / 1000;
        node.failures += 1;
        self.at_client(client, pause.max(asked.unwrap_or(0)), ClientEvent::Connects);
    }
}
