//! Messages on their way into both inboxes. See docs/architecture.md, steps 2 to 5.

use carillon_proto::{
    TimelineId,
    pb::{client, link},
};
use tokio::time::Instant;

use super::{Answer, Continuation, Effect, Owner, Waiter, appended};
use crate::{
    accounts::Whose,
    delivery::Delivery,
    metrics,
    reply::Failure,
    send::{RequestContext, Sending},
    store::{Place, StoreAnswer, StoreFailure},
};

impl Owner {
    pub(super) fn send(&mut self, send: link::Send, parts: RequestContext, now: Instant, time_ms: u64) {
        let sending = match Sending::new(send, parts, &mut self.keys, now, time_ms) {
            Ok(sending) => Box::new(sending),
            Err((slot, failure)) => return self.refuse(slot, &failure),
        };
        if let Some(whose) = self.accounts.get(&sending.recipient) {
            metrics::account_lookup(true);
            return self.begin(sending, whose, now);
        }
        metrics::account_lookup(false);
        let recipient = sending.recipient.clone();
        self.wait(&recipient, Waiter::Send(sending), now);
    }

    /// The recipient is known.
    pub(super) fn begin(&mut self, mut sending: Box<Sending>, whose: Whose, now: Instant) {
        let Whose { incarnation, remade } = whose;
        // Who writes to itself means itself, and not the name's next owner.
        sending.recipient_incarnation = if sending.is_to_oneself() { sending.incarnation } else { incarnation };
        if remade && !sending.is_to_oneself() {
            self.look_for_first(sending, now);
        } else {
            self.append_first(sending, now);
        }
    }

    /// A message that the owner before has got must not be shown to this one because it comes again. The sender's own inbox
    /// tells. Only for names that were made again: it costs a write of the log.
    fn look_for_first(&mut self, mut sending: Box<Sending>, now: Instant) {
        let (shard, op) = sending.look_for_first(self.topology.shards);
        sending.since = now;
        let (traceparent, deadline) = (sending.traceparent.clone(), sending.deadline);
        let token = self.token(Continuation::Repeated(sending));
        self.effects.push(Effect::Store { token, shard, op, traceparent, deadline, place: Place::Own });
    }

    pub(super) fn looked_for_first(
        &mut self,
        sending: Box<Sending>,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
    ) {
        if matches!(answer, Err(StoreFailure::NotFound { .. })) {
            return self.append_first(sending, now);
        }
        match placed(sending, answer, now) {
            // It stands in both inboxes, whoever has the name now.
            Ok((sending, position)) => {
                let accepted = sending.accepted(position);
                self.effects.push(Effect::Answer(sending.slot, Answer::Accepted(accepted)));
            }
            Err((mut sending, Failure::ReusedElsewhere)) if !sending.key_names_recipient => {
                sending.key_names_recipient = true;
                self.look_for_first(sending, now);
            }
            Err((sending, failure)) => self.refuse(sending.slot, &failure),
        }
    }

    fn append_first(&mut self, mut sending: Box<Sending>, now: Instant) {
        let shards = self.topology.shards;
        let (shard, op) = sending.append_first(shards);
        // What could not get into the sender's inbox must not get into the recipient's: refused means nothing was done.
        let place = match sending.is_to_oneself() {
            true => Place::Own,
            false => Place::AndFor(shards.timeline_of(&TimelineId::Inbox(sending.sender.clone()))),
        };
        sending.since = now;
        let (traceparent, deadline) = (sending.traceparent.clone(), sending.deadline);
        let token = self.token(Continuation::FirstAppend(sending));
        self.effects.push(Effect::Store { token, shard, op, traceparent, deadline, place });
    }

    fn append_second(&mut self, mut sending: Box<Sending>, now: Instant) {
        let (shard, op) = sending.append_second(self.topology.shards);
        sending.since = now;
        let (traceparent, deadline) = (sending.traceparent.clone(), sending.deadline);
        let token = self.token(Continuation::SecondAppend(sending));
        self.effects.push(Effect::Store { token, shard, op, traceparent, deadline, place: Place::Follows });
    }

    pub(super) fn first_appended(
        &mut self,
        sending: Box<Sending>,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
    ) {
        if matches!(answer, Err(StoreFailure::Gone { .. })) && !sending.is_to_oneself() {
            return self.send_again(sending, now);
        }
        let (sending, position) = match placed(sending, answer, now) {
            Ok(placed) => placed,
            // The own inbox also holds messages to others, which may have the same client id.
            Err((mut sending, Failure::ReusedElsewhere)) if sending.is_to_oneself() && !sending.key_names_recipient => {
                sending.key_names_recipient = true;
                return self.append_first(sending, now);
            }
            Err((sending, failure)) => {
                if matches!(failure, Failure::Store(StoreFailure::Expired { .. }) | Failure::Halfway { .. }) {
                    self.may_have_missed(&sending.recipient);
                }
                return self.refuse(sending.slot, &failure);
            }
        };
        let to_oneself = sending.is_to_oneself();
        let delivery = Delivery {
            user: sending.recipient.clone(),
            incarnation: sending.recipient_incarnation,
            position,
            envelope: sending.envelope.clone(),
            traceparent: sending.traceparent.clone(),
            except: to_oneself.then_some((sending.lease, sending.connection)),
            passed_on: false,
        };
        if to_oneself {
            let accepted = sending.accepted(position);
            self.effects.push(Effect::Answer(sending.slot, Answer::Accepted(accepted)));
        } else {
            self.append_second(sending, now);
        }
        // The recipient need not wait for the sender's copy. The owner of now may have read the head before this append.
        if !self.topology.owns(delivery.user.as_str()) {
            self.effects.push(Effect::Deliver(delivery.clone()));
        }
        self.deliver(delivery);
    }

    /// The account that was known here has ended: there is none now, or the name has another owner.
    fn send_again(&mut self, mut sending: Box<Sending>, now: Instant) {
        if std::mem::replace(&mut sending.read_again, true) {
            return self.refuse(sending.slot, &Failure::Changing);
        }
        let recipient = sending.recipient.clone();
        self.accounts.forget(&recipient);
        self.wait(&recipient, Waiter::Send(sending), now);
    }

    pub(super) fn second_appended(
        &mut self,
        sending: Box<Sending>,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
    ) {
        let (sending, position) = match placed(sending, answer, now) {
            Ok(placed) => placed,
            // The recipient has it, so it is a message of its own, whatever else the client has called so.
            Err((mut sending, Failure::Reused | Failure::ReusedElsewhere)) if !sending.key_names_recipient => {
                sending.key_names_recipient = true;
                return self.append_second(sending, now);
            }
            // The sender was deleted meanwhile: its gateway ends the session, and what came of the message is not known.
            Err((sending, failure @ Failure::Store(StoreFailure::Gone { .. }))) => {
                return self.refuse(sending.slot, &failure);
            }
            Err((sending, failure)) => {
                tracing::debug!(%failure, "a message stands in one of its two inboxes");
                return self.refuse(sending.slot, &failure.halfway());
            }
        };
        let accepted = sending.accepted(position);
        // The session that sent it knows it by the answer.
        let from = (sending.lease, sending.connection);
        if !self.topology.owns(sending.sender.as_str()) || self.companions.hear(&sending.sender, from, position) {
            self.effects.push(Effect::Deliver(Delivery {
                user: sending.sender,
                incarnation: sending.incarnation,
                position,
                envelope: sending.envelope,
                traceparent: sending.traceparent,
                except: Some(from),
                passed_on: false,
            }));
        }
        self.effects.push(Effect::Answer(sending.slot, Answer::Accepted(accepted)));
    }
}

/// The message with the place that the store has given it.
fn placed(
    mut sending: Box<Sending>,
    answer: Result<StoreAnswer, StoreFailure>,
    now: Instant,
) -> Result<(Box<Sending>, client::Position), (Box<Sending>, Failure)> {
    match appended(answer).and_then(|appended| sending.adopt(&appended).map(|()| appended)) {
        Ok(appended) => {
            metrics::append(now - sending.since);
            Ok((sending, client::Position { epoch: appended.epoch, seq: appended.seq }))
        }
        // The store has said something that is no answer to an append: it may have been done.
        Err(failure @ Failure::Store(StoreFailure::Unexpected)) => Err((sending, failure.halfway())),
        Err(failure) => Err((sending, failure)),
    }
}
