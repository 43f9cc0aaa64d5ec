//! Sign-ins whose password the dialect checks: the dialect asks for the user's keys, says whether the client has proven who it is, and names
//! the device after that. Limits of attempts, made-up keys and generations of credentials are here, the same for all dialects.

use carillon_proto::{
    UserId,
    pb::{
        client::Code,
        link::{LookUpAccount, Refusal, router_reply::Result as Reply, router_request::Op},
    },
};

use super::{
    Effect, Now, Session, State, Tag, Tell,
    sign_in::{SignIn, request},
};

/// A user whose keys were asked for.
pub(super) struct LookedUp {
    user: UserId,
    /// The generation of the credentials; `None`: the user has no password, and the keys are made up.
    generation: Option<u64>,
}

/// A user who has given the right password.
pub(super) struct Proven {
    pub(super) user: UserId,
    pub(super) generation: u64,
}

const WAY: &str = "password";

impl Session {
    /// The client wants to sign in as this user. An attempt that has no end yet is forgotten.
    pub(super) fn look_up(&mut self, now: Now, user: UserId, out: &mut Vec<Effect>) {
        let State::SigningIn(at) = &self.state else { return };
        if !matches!(**at, SignIn::Start | SignIn::LookedUp(_)) {
            return self.bye(Code::Invalid, "the client has signed in already", None, out);
        }
        if let Err(wait) = self.rules.throttle.begin(self.address, &user, now.instant) {
            return self.throttled(now, WAY, user.as_str(), wait, out);
        }
        let look_up = LookUpAccount { user: user.as_str().to_owned() };
        self.state = State::SigningIn(Box::new(SignIn::LookingUp(user)));
        out.push(request(Tag::Account, Op::LookUpAccount(look_up)));
    }

    /// The account, or none.
    pub(super) fn looked_up(&mut self, user: UserId, result: Result<Reply, Refusal>, out: &mut Vec<Effect>) {
        let account = match result {
            Ok(Reply::Account(account)) => Some(account),
            Ok(_) => None,
            Err(refusal) if refusal.code() == Code::NotFound => None,
            Err(refusal) => return self.refuse_for_now(WAY, &refusal, out),
        };
        let account = account.filter(|_| self.rules.have_passwords(&user));
        let generation = account.as_ref().map(|account| account.generation);
        let (keys, are_real) = self.keys_of(&user, account.and_then(|account| account.scram));
        let looked_up = LookedUp { user, generation: generation.filter(|_| are_real) };
        self.state = State::SigningIn(Box::new(SignIn::LookedUp(looked_up)));
        out.push(Effect::Tell(Tell::Keys(Box::new(keys))));
    }

    /// The client knows the password of the user who was looked up last.
    pub(super) fn proven(&mut self, now: Now, out: &mut Vec<Effect>) {
        match self.step() {
            SignIn::LookedUp(LookedUp { user, generation: Some(generation) }) => {
                self.rules.throttle.succeeded(self.address, &user, now.instant);
                self.state = State::SigningIn(Box::new(SignIn::Proven(Proven { user, generation })));
            }
            // No password fits made-up keys.
            _ => self.bye(Code::Unauthenticated, "user or password is wrong", None, out),
        }
    }

    /// The client does not know the password. The client may try again: the dialect bounds how often.
    pub(super) fn not_proven(&mut self, now: Now) {
        let user = match self.step() {
            SignIn::LookedUp(LookedUp { user, .. }) => Some(user),
            // No user can have the name, so that nobody was looked up.
            _ => None,
        };
        crate::metrics::sign_in(WAY, "unauthenticated");
        self.rules.throttle.failed(self.address, user.as_ref(), now.instant);
        self.tell_failed(now, WAY, user.as_ref().map_or("", UserId::as_str), "user or password is wrong");
        self.state = State::SigningIn(Box::new(SignIn::Start));
    }
}
