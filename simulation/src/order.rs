//! What keeps the order of messages, and what happens when some of it is left out: see docs/adr/0018-order.md.

use carillon_proto::pb::{
    client::{ClientFrame, client_frame::Body},
    link::{ToRouter, router_request::Op},
};

use crate::{Plant, world::World};

/// One of the places where the order of one device's messages to one user is seen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Guard {
    /// Clients name the message before (`Send.after`).
    Names,
    /// Gateways hand the requests of a lane to their link in the order in which they came.
    Gateway,
    /// Routers take nothing behind what they have not taken (`RouterRequest.era`).
    Eras,
    /// Routers hand the writes of a shard to their stream in the order of its lane.
    Router,
    /// The store takes nothing behind what it has refused (`StoreRequest.lane`).
    Lanes,
    /// The state machine refuses what comes before the message that it names (`Append.after_key`).
    Key,
}

/// Some of them.
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

    /// A frame on its way to a gateway.
    pub(crate) fn frame_goes(&self, frame: &mut ClientFrame) {
        if self.is_without(Guard::Names)
            && let Some(Body::Send(send)) = &mut frame.body
        {
            send.after.clear();
        }
    }

    /// Words on their way to a router, all that a gateway says on one link at once.
    pub(crate) fn words_go(&mut self, words: &mut [ToRouter]) {
        let is_send =
            |said: &ToRouter| matches!(&said.requests[..], [request] if matches!(request.op, Some(Op::Send(_))));
        if self.is_without(Guard::Gateway) {
            // Sends change places with each other, and with nothing else.
            let places: Vec<usize> = (0..words.len()).filter(|place| is_send(&words[*place])).collect();
            for (first, last) in places.iter().zip(places.iter().rev()).take(places.len() / 2) {
                words.swap(*first, *last);
            }
        }
        if self.is_without(Guard::Eras) {
            for request in words.iter_mut().flat_map(|said| &mut said.requests) {
                // Each is of an era of its own: what is not taken closes nothing behind it.
                self.last_era += 1;
                request.era = self.last_era;
            }
        }
    }
}
