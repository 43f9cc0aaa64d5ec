//! The end of a session: by its client, by the gateway, or by somebody else.

use std::time::Duration;

use carillon_proto::pb::{
    client::Code,
    link::{CloseSession, evict::Why, router_request::Op},
};

use super::{
    Effect, Identity, Now, Session, State, Tag, Tell,
    live::{CloseReason, Going, LastWord},
};
use crate::metrics;

pub(super) const SIGNED_OUT: &str = "signed out";
const STOPPING: &str = "this gateway is stopping; another one will take the connection";
const CROWDED: &str = "this gateway has more clients than others; another one will take the connection";
pub(super) const CUT_OFF: &str = "this gateway reaches no router now";

impl Session {
    /// Ends the session without a word to its client: the last words to the routers, whose answers do not matter.
    pub(crate) fn leave(&mut self) -> Vec<Op> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::SigningIn(sign_in) => sign_in.opening().map(|who| self.close(who)).into_iter().collect(),
            State::Live(live) => {
                let acks = live.last_acks().map(|(_, ack)| Op::Acknowledge(ack));
                acks.chain([self.close(&live.who)]).collect()
            }
            State::SigningOut { .. } | State::Ended => Vec::new(),
        }
    }

    pub(super) fn half_closed(&mut self, out: &mut Vec<Effect>) {
        match &mut self.state {
            State::Live(live) => live.finish(LastWord::HalfClosed),
            // The client will say no more, and is owed no answer.
            State::SigningIn(_) => out.push(Effect::Close),
            State::SigningOut { .. } | State::Ended => {}
        }
    }

    pub(super) fn gone(&mut self, CloseReason(code, why): &CloseReason, out: &mut Vec<Effect>) {
        let again = (*code != Code::Unauthenticated).then_some(0);
        self.bye(*code, why, again, out);
    }

    pub(super) fn drain(&mut self, reconnect_after: Duration, out: &mut Vec<Effect>) {
        match &mut self.state {
            // Goes when its pending sends are answered, each of which has a deadline: see `flow`.
            State::Live(live) => live.go(Going { reconnect_after, why: STOPPING }),
            _ => self.bye(Code::ShuttingDown, STOPPING, Some(millis(reconnect_after)), out),
        }
    }

    /// A session that has not signed in yet stays: the load balancer has just sent it here.
    pub(super) fn go_elsewhere(&mut self, reconnect_after: Duration) {
        if let State::Live(live) = &mut self.state
            && live.going().is_none()
        {
            live.go(Going { reconnect_after, why: CROWDED });
        }
    }

    pub(super) fn sign_out(&mut self, now: Now, out: &mut Vec<Effect>) {
        let State::Live(live) = std::mem::replace(&mut self.state, State::Ended) else { return };
        let mut waiting = 1 + live.acks_on_their_way();
        for (timeline, ack) in live.last_acks() {
            let tag = Tag::Ack(timeline);
            out.push(Effect::Request { tag, op: Op::Acknowledge(ack), traceparent: String::new() });
            waiting += 1;
        }
        out.push(Effect::Request { tag: Tag::Close, op: self.close(&live.who), traceparent: String::new() });
        self.patience = now.instant + self.rules.sign_in_timeout;
        self.state = State::SigningOut { waiting };
    }

    /// Says the last word. `reconnect_after_ms`: `None` if it is of no use to connect again.
    pub(super) fn bye(&mut self, code: Code, reason: &str, reconnect_after_ms: Option<u32>, out: &mut Vec<Effect>) {
        self.end(code, reason, reconnect_after_ms, None, out);
    }

    /// Says the last word. `ended`: the cause, if the session was ended by somebody else than its client.
    pub(super) fn end(
        &mut self,
        code: Code,
        reason: &str,
        again_ms: Option<u32>,
        ended: Option<Why>,
        out: &mut Vec<Effect>,
    ) {
        metrics::bye(code);
        out.push(Effect::Tell(Tell::Bye { code, reason: reason.to_owned(), again_ms, ended }));
        for op in self.leave() {
            // Nobody waits for any of the answers.
            let tag = Tag::Close;
            out.push(Effect::Request { tag, op, traceparent: String::new() });
        }
        out.push(Effect::Close);
    }

    fn close(&self, who: &Identity) -> Op {
        Op::CloseSession(CloseSession { session: Some(self.stored(who)) })
    }
}

pub(super) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
