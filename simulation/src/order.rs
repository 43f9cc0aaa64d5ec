//! The guards of the order of messages and sign-ins, each of which can be left out of a run: see docs/adr/0018-order.md and
//! docs/adr/0011-register.md.

use std::collections::BTreeMap;

use bytes::Bytes;
use carillon_proto::pb::{
    client::{ClientFrame, client_frame::Body},
    link::{ToRouter, router_request::Op},
};

use crate::{clients::device_name, world::World};

/// The message that the client has named last, by device and client id. Kept only if gateways are to fill in none.
pub(crate) type Named = BTreeMap<(Bytes, Bytes), Bytes>;

/// A mechanism that keeps the order of one device's messages to one user, or of its sign-ins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Guard {
    /// Clients name the message before (`Send.after`). Without it, a message that was refused may come later.
    Names,
    /// Gateways name the message before where clients do not.
    Filling,
    /// Gateways send the requests of a lane in order.
    Gateway,
    /// Routers send the writes of timelines in order.
    Router,
    /// The store refuses everything after a refused write of a timeline (`StoreRequest.lane`).
    Lanes,
    /// The same in directory shards: it keeps the order of sessions.
    SessionLanes,
    /// The state machine refuses a message if the message that it names is not there (`Append.after_key`).
    Key,
    /// Clients number their sign-ins (`SignIn.attempt`). Without it, one that was given up may replace a later one.
    Attempts,
}

/// A set of guards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Guards(u8);

impl FromIterator<Guard> for Guards {
    fn from_iter<I: IntoIterator<Item = Guard>>(guards: I) -> Self {
        Self(guards.into_iter().fold(0, |all, guard| all | 1 << guard as u8))
    }
}

impl Guards {
    pub(crate) fn has(self, guard: Guard) -> bool {
        self.0 & 1 << guard as u8 != 0
    }
}

impl World<'_> {
    pub(crate) fn is_without(&self, guard: Guard) -> bool {
        self.plant.is_some_and(|plant| plant.is_without(guard))
    }

    /// Changes a frame on its way to a gateway.
    pub(crate) fn frame_goes(&mut self, client: usize, frame: &mut ClientFrame) {
        if let Some(Body::SignIn(sign_in)) = &mut frame.body
            && self.is_without(Guard::Attempts)
        {
            (sign_in.instance, sign_in.attempt) = (0, 0);
        }
        let Some(Body::Send(send)) = &mut frame.body else { return };
        if self.is_without(Guard::Names) {
            send.after.clear();
        }
        if self.is_without(Guard::Filling) {
            let message = (device_name(client).into(), send.client_id.clone().into());
            self.named.insert(message, send.after.clone().into());
        }
    }

    /// Changes what a gateway sends on one link at once.
    pub(crate) fn words_go(&mut self, words: &mut [ToRouter]) {
        if self.is_without(Guard::Filling) {
            for request in words.iter_mut().flat_map(|said| &mut said.requests) {
                if let Some(Op::Send(send)) = &mut request.op {
                    let named = self.named.get(&(send.sender_device.clone(), send.client_id.clone()));
                    send.after = named.cloned().unwrap_or_default();
                }
            }
        }
        if self.is_without(Guard::Gateway) {
            // Sends change places with other sends only.
            let requests = words.iter_mut().flat_map(|said| &mut said.requests);
            let mut sends: Vec<_> = requests.filter(|request| matches!(request.op, Some(Op::Send(_)))).collect();
            while sends.len() > 1 {
                let first = sends.remove(0);
                sends.pop().into_iter().for_each(|last| std::mem::swap(first, last));
            }
        }
    }
}
