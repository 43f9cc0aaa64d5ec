//! Messages on their way into both inboxes. See docs/architecture.md, steps 2 to 5.

use carillon_proto::pb::{client, link};
use tokio::time::Instant;

use super::{Answer, Asked, Delivery, Effect, Owner, Waiter, appended};
use crate::{
    metrics,
    send::{Parts, Sending},
    store::{StoreAnswer, StoreFailure},
};

impl Owner {
    pub(super) fn send(&mut self, send: link::Send, parts: Parts, now: Instant, time_ms: u64) {
        let sending = match Sending::new(send, parts, now, time_ms) {
            Ok(sending) => Box::new(sending),
            Err((slot, failure)) => return self.refuse(slot, &failure),
        };
        if self.directory.sessions(&sending.recipient, now).is_some() {
            metrics::directory_lookup(true);
            return self.append_first(sending, now);
        }
        metrics::directory_lookup(false);
        let recipient = sending.recipient.clone();
        self.wait(&recipient, Waiter::Send(sending), now);
    }

    pub(super) fn append_first(&mut self, mut sending: Box<Sending>, now: Instant) {
        let (shard, op) = sending.append(&sending.recipient, self.topology.shards);
        sending.since = now;
        let (traceparent, deadline) = (sending.traceparent.clone(), sending.deadline);
        self.ask(shard, op, traceparent, deadline, Asked::FirstAppend(sending));
    }

    pub(super) fn first_appended(
        &mut self,
        sending: Box<Sending>,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
    ) {
        let Some((mut sending, position)) = self.placed(sending, answer, now) else { return };
        let to_oneself = sending.is_to_oneself();
        let delivery = Delivery {
            user: sending.recipient.clone(),
            position,
            envelope: sending.envelope.clone(),
            traceparent: sending.traceparent.clone(),
            except: if to_oneself { (sending.lease, sending.connection) } else { (0, 0) },
        };
        if to_oneself {
            let accepted = sending.accepted(position);
            self.effects.push(Effect::Answer(sending.slot, Answer::Accepted(accepted)));
        } else {
            let (shard, op) = sending.append(&sending.sender, self.topology.shards);
            sending.since = now;
            let (traceparent, deadline) = (sending.traceparent.clone(), sending.deadline);
            self.ask(shard, op, traceparent, deadline, Asked::SecondAppend(sending));
        }
        // The recipient need not wait for the sender's copy.
        self.deliver(delivery, now);
    }

    pub(super) fn second_appended(
        &mut self,
        sending: Box<Sending>,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
    ) {
        let Some((sending, position)) = self.placed(sending, answer, now) else { return };
        let accepted = sending.accepted(position);
        self.effects.push(Effect::Deliver(Delivery {
            user: sending.sender,
            position,
            envelope: sending.envelope,
            traceparent: sending.traceparent,
            except: (sending.lease, sending.connection),
        }));
        self.effects.push(Effect::Answer(sending.slot, Answer::Accepted(accepted)));
    }

    /// Where the store has put the envelope. None: it has not, and the send is refused.
    fn placed(
        &mut self,
        mut sending: Box<Sending>,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
    ) -> Option<(Box<Sending>, client::Position)> {
        match appended(answer).and_then(|appended| sending.adopt(&appended).map(|()| appended)) {
            Ok(appended) => {
                metrics::append(now - sending.since);
                Some((sending, client::Position { epoch: appended.epoch, seq: appended.seq }))
            }
            Err(failure) => {
                self.refuse(sending.slot, &failure);
                None
            }
        }
    }
}
