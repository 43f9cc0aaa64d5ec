//! Messages on their way into both inboxes. See docs/architecture.md, steps 2 to 5.

use carillon_proto::{
    TimelineId,
    pb::{client, link},
};
use tokio::time::Instant;

use super::{Answer, Continuation, Effect, Owner, Waiter, appended, taking_back::is_for_own_inbox_alone};
use crate::{
    accounts::CachedAccount,
    delivery::Delivery,
    marks::Reader,
    metrics,
    reply::Failure,
    send::{RequestContext, Sending},
    store::{Place, StoreAnswer, StoreFailure},
    undelivered::Undelivering,
};

impl Owner {
    pub(super) fn send(&mut self, send: link::Send, parts: RequestContext, now: Instant, time_ms: u64) {
        let watched = self.watches.is_some().then(|| send.clone());
        let sending = match Sending::new(send, parts, &mut self.keys, now, time_ms) {
            Ok(sending) => Box::new(sending),
            Err((slot, failure)) => {
                if let Some(send) = watched {
                    self.watch_unreadable(&send, &failure);
                }
                return self.refuse(slot, &failure);
            }
        };
        if !self.topology.domains.allow(sending.sender.domain(), sending.recipient.domain()) {
            if sending.takes_back() {
                return self.take_back_beyond(sending);
            }
            return self.refuse(sending.slot, &Failure::OtherDomain(sending.recipient.to_string()));
        }
        self.watch_send(&sending);
        if let Some(account) = self.accounts.get(&sending.recipient) {
            metrics::account_lookup(true);
            return self.begin(sending, account, now);
        }
        metrics::account_lookup(false);
        let recipient = sending.recipient.clone();
        self.wait(&recipient, Waiter::Send(sending), now);
    }

    /// The recipient is known.
    pub(super) fn begin(&mut self, mut sending: Box<Sending>, account: CachedAccount, now: Instant) {
        let CachedAccount { incarnation, remade, privacy } = account;
        match sending.wanted_incarnation {
            Some(wanted) if wanted < incarnation => {
                let failure = Failure::RecipientEnded(sending.recipient.to_string());
                return self.refuse_send(*sending, &failure);
            }
            // The account that this router knows is an old one.
            Some(wanted) if wanted > incarnation => return self.send_again(sending, now),
            Some(_) | None => {}
        }
        // A user who writes to itself means its own account, not the name's next owner.
        sending.recipient_incarnation = if sending.is_to_oneself() { sending.incarnation } else { incarnation };
        sending.is_remade = remade && !sending.is_to_oneself();
        match privacy.filter(|_| !sending.is_to_oneself()) {
            None => self.admitted(sending, now),
            Some(privacy) => self.admit(sending, &privacy, now),
        }
    }

    /// Goes on with a send, when it is known what the recipient allows to the sender.
    pub(super) fn admitted(&mut self, sending: Box<Sending>, now: Instant) {
        if sending.is_remade {
            self.look_for_first(sending, now);
        } else {
            self.append_first(sending, now);
        }
    }

    /// A message that the previous owner of the name received must not be delivered to the new one when it is repeated.
    /// The sender's own inbox shows whether it is a repeat. Done only for names with a previous owner, because it costs
    /// a write to the log.
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
            // The message is in both inboxes, whoever owns the name now.
            Ok((mut sending, position)) => {
                self.watch_accepted(&sending, position.seq);
                let accepted = sending.accepted(position);
                self.effects.push(Effect::Answer(sending.slot, Answer::Accepted(accepted)));
            }
            Err((mut sending, Failure::ReusedElsewhere)) if !sending.key_names_recipient => {
                sending.key_names_recipient = true;
                self.look_for_first(sending, now);
            }
            Err((sending, failure)) => self.refuse_send(*sending, &failure),
        }
    }

    pub(super) fn append_first(&mut self, mut sending: Box<Sending>, now: Instant) {
        let shards = self.topology.shards;
        let (shard, op) = sending.append_first(shards);
        // A message that the sender's inbox can't take must not enter the recipient's: a refusal means that nothing was
        // done.
        let place = match sending.is_to_oneself() {
            true => Place::Own,
            false => Place::AndFor(shards.timeline_of(&TimelineId::Inbox(sending.sender.clone()))),
        };
        sending.since = now;
        let (traceparent, deadline) = (sending.traceparent.clone(), sending.deadline);
        let token = self.token(Continuation::FirstAppend(sending));
        self.effects.push(Effect::Store { token, shard, op, traceparent, deadline, place });
    }

    pub(super) fn append_second(&mut self, mut sending: Box<Sending>, now: Instant) {
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
        let (mut sending, position) = match placed(sending, answer, now) {
            Ok(placed) => placed,
            // The sender's inbox also holds messages to other users, which may have the same client id.
            Err((mut sending, Failure::ReusedElsewhere)) if sending.is_to_oneself() && !sending.key_names_recipient => {
                sending.key_names_recipient = true;
                return self.append_first(sending, now);
            }
            Err((sending, failure)) if is_for_own_inbox_alone(&sending, &failure) => {
                return self.take_back_own(sending, now);
            }
            Err((sending, failure)) => {
                if matches!(failure, Failure::Store(StoreFailure::Expired { .. }) | Failure::Halfway { .. }) {
                    self.may_have_missed(&sending.recipient);
                }
                return self.refuse_send(*sending, &failure);
            }
        };
        if sending.withheld {
            return self.append_second(sending, now);
        }
        self.watch_stored(&sending, position.seq);
        let to_oneself = sending.is_to_oneself();
        if let Some(moved) = sending.moved.take() {
            let (user, incarnation) = (sending.recipient.clone(), sending.recipient_incarnation);
            self.tell_moved(&Reader { user, incarnation }, &moved);
        }
        if sending.wants_marks && !to_oneself && !sending.in_request {
            let (sender, message_id) = (sending.sender.clone(), sending.id.clone());
            let incarnation = sending.incarnation;
            self.undelivered.add(&sending.recipient, Undelivering { position, sender, incarnation, message_id });
        }
        let delivery = Delivery {
            timeline: TimelineId::Inbox(sending.recipient.clone()),
            incarnation: sending.recipient_incarnation,
            position,
            envelope: sending.envelope.clone(),
            traceparent: sending.traceparent.clone(),
            except: to_oneself.then_some((sending.lease, sending.connection)),
            passed_on: false,
        };
        if to_oneself {
            self.watch_accepted(&sending, position.seq);
            let accepted = sending.accepted(position);
            self.effects.push(Effect::Answer(sending.slot, Answer::Accepted(accepted)));
        } else {
            self.append_second(sending, now);
        }
        // The recipient does not wait for the sender's copy. The new owner may have read the head before this append.
        if !self.topology.owns(delivery.timeline.owner()) {
            self.effects.push(Effect::Deliver(delivery.clone()));
        }
        self.deliver(delivery);
    }

    /// The cached account has ended: the name has no owner now, or a new one.
    fn send_again(&mut self, mut sending: Box<Sending>, now: Instant) {
        if std::mem::replace(&mut sending.read_again, true) {
            return self.refuse_send(*sending, &Failure::Changing);
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
        let (mut sending, position) = match placed(sending, answer, now) {
            Ok(placed) => placed,
            // The recipient has it, so it is a separate message, whatever other message has the same client id.
            Err((mut sending, Failure::Reused | Failure::ReusedElsewhere)) if !sending.key_names_recipient => {
                sending.key_names_recipient = true;
                return self.append_second(sending, now);
            }
            // The sender was deleted meanwhile: its gateway ends the session, and the outcome of the message is
            // unknown.
            Err((sending, failure @ Failure::Store(StoreFailure::Gone { .. }))) => {
                return self.refuse_send(*sending, &failure);
            }
            // Nothing was done.
            Err((sending, failure)) if sending.withheld => return self.refuse_send(*sending, &failure),
            Err((sending, failure)) => {
                tracing::debug!(%failure, "a message stands in one of its two inboxes");
                return self.refuse_send(*sending, &failure.halfway());
            }
        };
        // Another owner of the sender is not told: its devices see the message, and read what has changed.
        if let Some(moved) = sending.moved.take() {
            let (user, incarnation) = (sending.sender.clone(), sending.incarnation);
            self.tell_moved(&Reader { user, incarnation }, &moved);
        }
        self.watch_accepted(&sending, position.seq);
        let accepted = sending.accepted(position);
        // The session that sent it learns the position from the answer.
        let from = (sending.lease, sending.connection);
        if !self.topology.owns(sending.sender.as_str()) || self.companions.hear(&sending.sender, from, position) {
            self.effects.push(Effect::Deliver(Delivery {
                timeline: TimelineId::Inbox(sending.sender),
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

/// The message with the position that the store has assigned.
fn placed(
    mut sending: Box<Sending>,
    answer: Result<StoreAnswer, StoreFailure>,
    now: Instant,
) -> Result<(Box<Sending>, client::Position), (Box<Sending>, Failure)> {
    match appended(answer).and_then(|appended| sending.adopt(&appended).map(|()| appended)) {
        Ok(appended) => {
            metrics::append(now - sending.since);
            if !appended.first_envelope.is_empty() {
                metrics::repeat();
            }
            sending.withheld |= appended.withheld;
            sending.in_request |= appended.request;
            sending.moved = appended.moved;
            Ok((sending, client::Position { epoch: appended.epoch, seq: appended.seq }))
        }
        // The answer does not fit an append, which may have been carried out.
        Err(failure @ Failure::Store(StoreFailure::Unexpected)) => Err((sending, failure.halfway())),
        Err(failure) => Err((sending, failure)),
    }
}
