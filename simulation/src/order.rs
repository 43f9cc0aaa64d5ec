//! The guards of message order, each of which can be left out of a run: see docs/adr/0018-order.md.

use carillon_proto::pb::{
    client::{ClientFrame, client_frame::Body},
    link::{ToRouter, router_request::Op},
};

use crate::{Plant, world::World};

/// A mechanism that keeps the order of one device's messages to one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Guard {
    /// Clients name the message before (`Send.after`).
    Names,
    /// Gateways send the requests of a lane in order.
    Gateway,
    /// Routers refuse everything after a refused send (`RouterRequest.era`).
    Eras,
    /// Routers send the writes of a shard in order.
    Router,
    /// The store refuses everything after a refused write (`StoreRequest.lane`).
    Lanes,
    /// The state machine refuses a message if the message that it names is not there (`Append.after_key`).
    Key,
}

/// A set of guards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Guards(u8);

impl FromIterator<Guard> for Guards {
    fn from_iter<I: IntoIterator<Item = Guard>>(guards: I) -> Self {
        Self(guards.into_iter().fold(0, |all, guard| all | 1 << guard as u8))
    }
}

impl World<'_> {
    pub(crate) fn is_without(&self, guard: Guard) -> bool {
        matches!(self.plant, Some(Plant::Without(Guards(left_out))) if left_out & 1 << guard as u8 != 0)
    }

    /// Changes a frame on its way to a gateway.
    pub(crate) fn frame_goes(&self, frame: &mut ClientFrame) {
        if self.is_without(Guard::Names)
            && let Some(Body::Send(send)) = &mut frame.body
        {
            send.after.clear();
        }
    }

    /// Changes what a gateway sends on one link at once.
    pub(crate) fn words_go(&mut self, words: &mut [ToRouter]) {
        if self.is_without(Guard::Gateway) {
            // Sends change places with other sends only.
            let requests = words.iter_mut().flat_map(|said| &mut said.requests);
            let mut sends: Vec<_> = requests.filter(|request| matches!(request.op, Some(Op::Send(_)))).collect();
            while sends.len() > 1 {
                let first = sends.remove(0);
                sends.pop().into_iter().for_each(|last| std::mem::swap(first, last));
            }
        }
        if self.is_without(Guard::Eras) {
            for request in words.iter_mut().flat_map(|said| &mut said.requests) {
                // Each request has an era of its own, so a refusal closes nothing after it.
                self.last_era += 1;
                request.era = self.last_era;
            }
        }
    }
}
