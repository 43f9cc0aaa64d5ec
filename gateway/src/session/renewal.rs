//! A new token on a connection that is signed in: the session goes on until that one expires.

use carillon_proto::pb::{
    client::{self, Code, Renewed, refused::What, server_frame},
    link::Refusal,
};

use super::{Effect, Now, Rules, live::Live, sending::refused, sign_in::instant_of, token::Token};
use crate::links::refusal;

impl Live {
    pub(super) fn renew(&mut self, rules: &Rules, now: Now, renew: client::Renew, out: &mut Vec<Effect>) {
        let client::Renew { request, token } = renew;
        match self.check_renewal(rules, now, &token) {
            Ok(token) => {
                self.expires = Some(instant_of(token.expires_ms, now));
                let renewed = Renewed { request, expires_ms: token.expires_ms };
                out.push(Effect::Write(server_frame::Body::Renewed(renewed).into()));
            }
            Err(why) => out.push(refused(What::Request(request), why)),
        }
    }

    fn check_renewal(&mut self, rules: &Rules, now: Now, token: &str) -> Result<Token, Refusal> {
        if self.expires.is_none() {
            return Err(refusal(Code::Invalid, "this session does not expire: it was not signed in by a token", 0));
        }
        // Checking a signature costs about what a page of history does.
        self.history.take(rules, now)?;
        let wrong = |error: &dyn ToString| refusal(Code::Unauthenticated, &error.to_string(), 0);
        rules.tokens.load().check(token, self.who.user.as_str(), now.unix_ms).map_err(|error| wrong(&error))
    }
}
