//! The unanswered sends of a lane are chained: each names the one before it (`Send.after`), unless its client names
//! one. The state machine of the recipient's timeline takes a message only if the one that it names is there, so no
//! message overtakes the one before it, whatever fails on the way. See docs/adr/0018-order.md.
//!
//! | the send before | the one that names it |
//! | --- | --- |
//! | waits for its answer | is repeated after it, should the store have refused it as out of order |
//! | was accepted | is repeated without a name |
//! | was refused for good | is repeated with the name of the one before that, or without a name |
//! | was refused for now | names it for good, and is refused as out of order until it has come again |
//!
//! A client that names a send itself knows of chains: if that one is refused, for good or not, its own is refused. Its sends without
//! a name follow nothing: the one that begins its chain may come again behind the others of the chain, and if it named one of
//! them, none of them could ever be taken. A client that names none may have given up what was refused: some time after the first send of
//! a chain could have come again, a refusal for now counts as one for good, if its client has sent others since.

use std::time::{Duration, Instant};

use carillon_proto::pb::{
    client::Code,
    link::{Refusal, Send, router_request::Op},
};

use super::{Dispatch, Effect, PUMP, Pending, lanes::SendOrder};

/// Distance between the retry times of a send and of the one that follows it.
const BEHIND: Duration = Duration::from_millis(1);
/// For how long after its retry time a refused send may come again before those behind it.
const GIVEN_UP: Duration = Duration::from_secs(1);
/// Most refused sends that are remembered for one lane. One beyond it, should it come again, comes behind the others.
const MAX_REFUSED: usize = 256;

/// The place of a send among the unanswered ones of its lane.
#[derive(Default)]
pub(super) struct Chained {
    before: Option<u64>,
    behind: Option<u64>,
    /// The last attempt named the send before it.
    names_it: bool,
    /// Set while this send names one that was refused for now: when its client, if it still sends, has certainly given that one up.
    doomed_until: Option<Instant>,
    /// The store has refused the send as out of order, and it waits for the answer of the send before it.
    waits: bool,
    /// The send before was refused until this time.
    not_before: Option<Instant>,
}

impl Chained {
    fn is_doomed(&self) -> bool {
        self.doomed_until.is_some()
    }

    pub(super) fn before(&self) -> Option<u64> {
        self.before
    }

    pub(super) fn begins_attempt(&mut self) {
        (self.names_it, self.waits) = (false, false);
    }

    /// The refusal of a send, which comes again after the one before it.
    pub(super) fn postponed(&self, now: Instant, why: Refusal) -> Refusal {
        let Some(not_before) = self.not_before.filter(|_| why.retry) else { return why };
        let wait = (not_before + BEHIND).saturating_duration_since(now).as_millis();
        Refusal { retry_after_ms: why.retry_after_ms.max(u32::try_from(wait).unwrap_or(u32::MAX)), ..why }
    }
}

impl<C> Pending<C> {
    /// The send before this one was refused. `doomed_until`: of that one.
    fn is_behind_refused(
        &mut self,
        now: Instant,
        refused: &Send,
        doomed_until: Option<Instant>,
        why: &Refusal,
        lane: &mut SendOrder,
    ) {
        let Op::Send(send) = &mut self.op else { return };
        let retry_at = now + Duration::from_millis(why.retry_after_ms.into());
        let fills = send.after.is_empty() && !lane.client_names;
        let until = doomed_until.unwrap_or(retry_at + GIVEN_UP);
        // A client that has sent nothing since then may never have heard of the refusal, and sends all of it again elsewhere.
        let is_given_up = lane.came_at.is_some_and(|at| at >= until);
        let for_now = why.retry && !is_given_up;
        if for_now {
            // When the connection of a client breaks, the client may or may not have heard the refusal.
            if fills {
                send.after.clone_from(&refused.client_id);
            }
            self.chained.not_before = Some(retry_at);
            if lane.refused.len() == MAX_REFUSED {
                lane.refused.remove(0);
            }
            lane.refused.push(refused.client_id.clone());
        }
        if send.after == refused.client_id {
            self.chained.names_it = false;
            if for_now && self.chained.doomed_until.replace(until).is_none() {
                lane.doomed += 1;
            }
        }
    }
}

impl<C> Dispatch<C> {
    /// Chains a send that has just come: behind all others, or, if it was refused before, before those that were behind it
    /// then and are doomed.
    pub(super) fn chain(&mut self, now: Instant, id: u64) {
        let Some(pending) = self.pending.get(&id) else { return };
        let Op::Send(send) = &pending.op else { return };
        let lane = self.lanes.entry(pending.lane).or_default();
        lane.client_names |= !send.after.is_empty();
        lane.came_at = Some(now);
        let (mut before, mut behind) = (lane.last_send, None);
        let mut at = None;
        if let Some(place) = lane.refused.iter().position(|refused| *refused == send.client_id) {
            lane.refused.swap_remove(place);
            at = lane.last_send;
        }
        while let Some((other, known)) = at.and_then(|other| Some((other, self.pending.get(&other)?))) {
            at = known.chained.before;
            if known.chained.is_doomed() {
                (before, behind) = (known.chained.before, Some(other));
                if names(known, &send.client_id) {
                    break;
                }
            }
        }
        // All behind which it can come are doomed.
        let waited = behind.filter(|next| self.pending.get(next).is_some_and(|next| names(next, &send.client_id)));
        lane.doomed -= u32::from(waited.is_some());
        if behind.is_none() {
            lane.last_send = Some(id);
        }
        self.link_sends(before, Some(id));
        self.link_sends(Some(id), behind);
        if let Some(next) = waited.and_then(|next| self.pending.get_mut(&next)) {
            (next.chained.doomed_until, next.chained.names_it) = (None, true);
        }
    }

    fn link_sends(&mut self, before: Option<u64>, behind: Option<u64>) {
        if let Some(pending) = before.and_then(|id| self.pending.get_mut(&id)) {
            pending.chained.behind = behind;
        }
        if let Some(pending) = behind.and_then(|id| self.pending.get_mut(&id)) {
            pending.chained.before = before;
        }
    }

    /// Takes an answered send out of its chain. `refused`: why, if it was.
    pub(super) fn unchain(&mut self, now: Instant, pending: &Pending<C>, refused: Option<&Refusal>) {
        let Op::Send(send) = &pending.op else { return };
        let Chained { before, behind, doomed_until, .. } = pending.chained;
        self.link_sends(before, behind);
        let Some(lane) = self.lanes.get_mut(&pending.lane) else { return };
        lane.doomed -= u32::from(doomed_until.is_some());
        match behind.and_then(|id| self.pending.get_mut(&id)) {
            Some(next) => {
                if let Some(why) = refused {
                    next.is_behind_refused(now, send, doomed_until, why, lane);
                }
            }
            None => lane.last_send = before,
        }
        if lane.doomed == 0 {
            lane.refused.clear();
        }
    }

    /// Names the send before in an attempt, unless the client names messages.
    pub(super) fn name_the_one_before(&mut self, id: u64, before: u64, send: &mut Send) {
        let Some(Pending { op: Op::Send(before), lane, .. }) = self.pending.get(&before) else { return };
        let client_names = self.lanes.get(lane).is_some_and(|lane| lane.client_names);
        if send.after.is_empty() && !client_names {
            send.after.clone_from(&before.client_id);
        }
        let names_it = send.after == before.client_id;
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.chained.names_it = names_it;
        }
    }

    /// True if the store has refused the send because the one before it, for which its client still hopes, was not there
    /// yet.
    pub(super) fn has_overtaken(&self, now: Instant, id: u64, why: &Refusal) -> bool {
        let may = why.code() == Code::OutOfOrder;
        may && self.pending.get(&id).is_some_and(|pending| pending.chained.names_it && pending.deadline > now + PUMP)
    }

    /// Parks a send that has overtaken the one before it. What waits for nothing else goes at once.
    pub(super) fn park_behind(&mut self, now: Instant, id: u64, out: &mut Vec<Effect<C>>) {
        self.park(id);
        let Some(pending) = self.pending.get_mut(&id) else { return };
        pending.chained.waits = true;
        let lane = pending.lane;
        let first = self.lanes.get(&lane).and_then(|lane| self.pending.get(lane.parked.front()?));
        if first.is_some_and(|first| first.chained.waits && first.chained.before.is_none()) {
            self.pump(now, lane, out);
        }
    }
}

fn names<C>(pending: &Pending<C>, client_id: &[u8]) -> bool {
    matches!(&pending.op, Op::Send(send) if send.after == client_id)
}
