//! A new token for a signed-in connection: the session continues until that one expires. The directory is told as at a
//! sign-in, so that a revoked token is refused, and the session ends when the new token is revoked.

use bytes::Bytes;
use carillon_proto::pb::{
    client::Code,
    link::{OpenSession, Refusal, router_reply::Result as Reply, router_request::Op},
};

use super::{
    AskId, Effect, Now, Proof, Rules, Session, State, Tag, Tell,
    live::{CloseReason, ENDED, Live},
    sending::refused,
    sign_in::instant_of,
    token::Token,
};
use crate::outcome::refusal;

/// A new token that the directory is checking.
#[derive(Debug)]
pub(crate) struct Renewal {
    request: u32,
    expires_ms: u64,
    /// A ticket that stands for the new token, as it was sealed; nobody has it yet.
    ticket: Bytes,
}

impl Session {
    pub(super) fn renew(&mut self, now: Now, request: u32, token: &str, out: &mut Vec<Effect>) {
        let State::Live(live) = &mut self.state else { return };
        let token = match live.check_renewal(&self.rules, now, token) {
            Ok(token) => token,
            Err(why) => return out.push(refused(AskId::Request(request), why)),
        };
        live.renewing = true;
        let who = live.who.clone();
        let mut session = self.stored(&who);
        let proof = Proof::of_token(&token);
        proof.write(&mut session);
        let ticket = self.rules.new_ticket(now, (&who.user, &who.device), proof, Some(token.expires_ms));
        let tag = Tag::Renew(Renewal { request, expires_ms: token.expires_ms, ticket });
        let op = Op::OpenSession(OpenSession { session: Some(session) });
        out.push(Effect::Request { tag, op, traceparent: String::new() });
    }
}

impl Live {
    pub(super) fn renewed(
        &mut self,
        now: Now,
        renewal: Renewal,
        result: Result<Reply, Refusal>,
        out: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let Renewal { request, expires_ms, ticket } = renewal;
        self.renewing = false;
        let why = match result {
            // The name has another owner.
            Ok(Reply::SessionOpened(opened)) if opened.incarnation != self.incarnation => return Err(ENDED),
            Ok(Reply::SessionOpened(opened)) if !opened.replaced => {
                self.generation = opened.generation;
                self.expires = Some(instant_of(expires_ms, now));
                out.push(Effect::Tell(Tell::Renewed { request, expires_ms, ticket }));
                return Ok(());
            }
            Ok(_) => refusal(Code::Replaced, "this device has signed in elsewhere", 0),
            Err(why) => why,
        };
        out.push(refused(AskId::Request(request), why));
        Ok(())
    }

    fn check_renewal(&mut self, rules: &Rules, now: Now, token: &str) -> Result<Token, Refusal> {
        if self.expires.is_none() {
            return Err(refusal(Code::Invalid, "this session does not expire: it was not signed in by a token", 0));
        }
        if self.renewing {
            return Err(refusal(Code::Overloaded, "another new token is being looked at", 100));
        }
        // Checking a signature costs about as much as a page of history.
        self.history.take(rules, now)?;
        let wrong = |error: &dyn ToString| refusal(Code::Unauthenticated, &error.to_string(), 0);
        rules.tokens.load().check(token, self.who.user.as_str(), now.unix_ms).map_err(|error| wrong(&error))
    }
}
