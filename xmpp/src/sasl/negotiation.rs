//! The attempts of a connection to sign in.

use super::{
    Hash, Keys, Mechanism, Offer, Secret, TokenMechanism, check_authzid,
    ht::{self, Claim},
    oauth::{self, Bearer},
    plain,
    scram::{Exchange, First},
};
use crate::{
    Jid,
    error::{SaslFailure, StreamCondition, StreamError},
};

/// Failures after which the stream ends.
///
/// RFC 6120, section 6.4.5: "the receiving entity SHOULD allow a configurable but reasonable number of retries (at least 2 and no more than
/// 5)".
const FAILURES: u32 = 5;

/// The attempts of one connection to sign in, one after the other.
pub struct Negotiation {
    offer: Offer,
    /// The user whom the header of a stream with XEP-0388 names.
    from: Option<Jid>,
    /// The client is told a hash of the offer (XEP-0474).
    is_protected: bool,
    state: State,
    failures: u32,
}

/// The next step of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Data for the client. Its answer goes to [`Negotiation::respond`].
    Challenge(Vec<u8>),
    /// The keys of `user` for `hash` are needed: [`Negotiation::keys`].
    Keys { user: Jid, hash: Hash },
    /// The password is to be compared with the user's keys, or with [`Keys::decoy`], by [`Keys::accepts`]: [`Negotiation::checked`].
    Password { user: Jid, password: Secret },
    /// The token is to be checked: [`Negotiation::token`]. `user`: the client says that the token is for this user.
    Token { user: Option<Jid>, token: Secret },
    /// The client is this user. `data` goes to the client.
    Success { user: Jid, data: Option<Vec<u8>> },
    /// The client may try again, unless [`Negotiation::refusal`] says otherwise.
    Failure(SaslFailure),
}

enum State {
    /// No attempt is under way.
    Idle,
    /// The client has to begin, because its request had no data.
    Chosen {
        mechanism: Mechanism,
        nonce: String,
    },
    /// The keys are being looked up.
    First {
        first: First,
        hash: Hash,
        nonce: String,
    },
    Scram(Exchange),
    Password(Jid),
    Token {
        named: Option<Jid>,
    },
    /// The tokens are being looked up.
    Claim(Claim),
    /// The client was told why its token is not valid.
    TokenRefused,
    /// The client is signed in, and stays so.
    Done,
}

impl Negotiation {
    pub fn new(offer: Offer) -> Self {
        Self { offer, from: None, is_protected: false, state: State::Idle, failures: 0 }
    }

    /// The user whom the client names in the header of its stream, for XEP-0388. The client may sign in as nobody else, if it says as whom.
    ///
    /// XEP-0388, section 2.3: "If the stream's from attribute (if present) does not match the non-empty authorization string, the server MUST
    /// fail the authentication".
    #[must_use]
    pub fn with_from(self, from: Option<&Jid>) -> Self {
        Self { from: from.map(Jid::to_bare), ..self }
    }

    /// SCRAM tells the client a hash of the mechanisms and the channel bindings that were offered (XEP-0474), so that it notices whether the
    /// lists were changed on their way.
    #[must_use]
    pub fn protected(self) -> Self {
        Self { is_protected: true, ..self }
    }

    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// The client asks for a mechanism. `nonce`: random printable ASCII without commas, another one each time, of 18 characters or more.
    ///
    /// RFC 6120, section 6.4.2: "If the initiating entity subsequently sends another \<auth/\> element and the ongoing authentication
    /// handshake has not yet completed, the receiving entity MUST discard the ongoing handshake and MUST process a new handshake for the
    /// subsequently requested SASL mechanism." Section 6.3.10: "clients and servers MUST support the less efficient modes as well".
    pub fn start(&mut self, mechanism: &str, initial: Option<&[u8]>, nonce: &str) -> Step {
        if matches!(self.take(), State::Done) {
            return self.fail(SaslFailure::MalformedRequest);
        }
        let mechanism = match self.offer.choose(mechanism) {
            Ok(mechanism) => mechanism,
            Err(failure) => return self.fail(failure),
        };
        match initial {
            Some(initial) => self.first(mechanism, initial, nonce.to_owned()),
            None => {
                self.state = State::Chosen { mechanism, nonce: nonce.to_owned() };
                Step::Challenge(Vec::new())
            }
        }
    }

    /// The client answers a challenge.
    pub fn respond(&mut self, response: &[u8]) -> Step {
        match self.take() {
            State::Chosen { mechanism, nonce } => self.first(mechanism, response, nonce),
            State::Scram(exchange) => match exchange.finish(response) {
                Ok(verdict) => {
                    self.state = State::Done;
                    Step::Success { user: exchange.user, data: Some(verdict.into_bytes()) }
                }
                Err(failure) => self.fail(failure),
            },
            State::TokenRefused if response == oauth::END => self.fail(SaslFailure::NotAuthorized),
            // Nothing was asked.
            _ => self.fail(SaslFailure::MalformedRequest),
        }
    }

    /// The client gives up this attempt.
    ///
    /// RFC 6120, section 6.4.4: "Upon receiving an \<abort/\> element, the receiving entity MUST return a \<failure/\> element [...]
    /// containing an \<aborted/\> child element."
    pub fn abort(&mut self) -> Step {
        self.give_up(SaslFailure::Aborted)
    }

    /// The keys of [`Step::Keys`]: [`Keys::decoy`], if there is no such user, or none that may sign in so.
    ///
    /// An answer for another user or another hash function than the last [`Step::Keys`] has asked for ends the attempt: the client may have
    /// begun another one meanwhile.
    pub fn keys(&mut self, user: &Jid, keys: Keys) -> Step {
        match self.take() {
            State::First { first, hash, nonce } if first.user == *user && keys.hash() == hash => {
                let protection = self.is_protected.then(|| self.offer.protection(hash));
                let (challenge, exchange) = first.challenge(keys, &nonce, protection.as_deref());
                self.state = State::Scram(exchange);
                Step::Challenge(challenge.into_bytes())
            }
            _ => self.fail(SaslFailure::TemporaryAuthFailure),
        }
    }

    /// Whether the password of [`Step::Password`] is that of `user`. An answer for another user than the last [`Step::Password`] names ends
    /// the attempt, as in [`Self::keys`].
    pub fn checked(&mut self, user: &Jid, is_right: bool) -> Step {
        match self.take() {
            State::Password(asked) if asked != *user => self.fail(SaslFailure::TemporaryAuthFailure),
            State::Password(user) if is_right => {
                self.state = State::Done;
                Step::Success { user, data: None }
            }
            State::Password(_) => self.fail(SaslFailure::NotAuthorized),
            _ => self.fail(SaslFailure::TemporaryAuthFailure),
        }
    }

    /// The user of the token of [`Step::Token`], a bare address. `None`: the token is not valid.
    pub fn token(&mut self, user: Option<Jid>) -> Step {
        match (self.take(), user) {
            (State::Token { named }, Some(user)) => {
                match check_authzid(named.as_ref().map(Jid::as_str), &user, self.from.as_ref()) {
                    Ok(()) => {
                        self.state = State::Done;
                        Step::Success { user, data: None }
                    }
                    Err(failure) => self.fail(failure),
                }
            }
            (State::Token { .. }, None) => {
                self.state = State::TokenRefused;
                Step::Challenge(oauth::INVALID_TOKEN.to_vec())
            }
            _ => self.fail(SaslFailure::TemporaryAuthFailure),
        }
    }

    /// The client shows that it has a token of XEP-0484. Returns the user and the mechanism whose tokens are needed: [`Negotiation::tokens`]. A
    /// failure counts as [`Step::Failure`] does.
    ///
    /// XEP-0484, section 3.4: "Servers MUST bind tokens to the mechanism selected by the client in its original request, and reject attempts
    /// to use them with other mechanisms": the caller looks up those of the mechanism.
    pub fn start_with_token(
        &mut self,
        mechanism: &str,
        initial: Option<&[u8]>,
    ) -> Result<(Jid, TokenMechanism), SaslFailure> {
        let claim = match self.take() {
            State::Done => Err(SaslFailure::MalformedRequest),
            _ => self.claim(mechanism, initial),
        };
        match claim {
            Ok(claim) => {
                let asked = (claim.user.clone(), claim.mechanism);
                self.state = State::Claim(claim);
                Ok(asked)
            }
            Err(failure) => {
                self.fail(failure);
                Err(failure)
            }
        }
    }

    fn claim(&self, mechanism: &str, initial: Option<&[u8]>) -> Result<Claim, SaslFailure> {
        let mechanism = TokenMechanism::offered(&self.offer).find(|offered| offered.name() == mechanism);
        let mechanism = mechanism.ok_or(SaslFailure::InvalidMechanism)?;
        let binding = mechanism.binding(&self.offer.bindings).ok_or(SaslFailure::InvalidMechanism)?;
        let message = initial.ok_or(SaslFailure::MalformedRequest)?;
        ht::read(message, mechanism, binding, &self.offer.host)
    }

    /// The tokens that [`Self::start_with_token`] has asked for: all that are valid, in any order; none, if there is no such user. Also returns the
    /// place of the one that the client has, so that an old one can be replaced. Tokens of another user or another mechanism
    /// than the last attempt names end it, as in [`Self::keys`].
    ///
    /// XEP-0484, section 4.2: "If the server no longer trusts a token, it MUST instead fail the authentication (returning the SASL
    /// 'credentials-expired' error condition)". It is told the same for a user who does not exist.
    pub fn tokens(&mut self, user: &Jid, mechanism: TokenMechanism, tokens: &[Secret]) -> (Step, Option<usize>) {
        match self.take() {
            State::Claim(claim) if claim.user == *user && claim.mechanism == mechanism => match claim.check(tokens) {
                Some((at, answer)) => {
                    self.state = State::Done;
                    (Step::Success { user: claim.user, data: Some(answer) }, Some(at))
                }
                None => (self.fail(SaslFailure::CredentialsExpired), None),
            },
            _ => (self.fail(SaslFailure::TemporaryAuthFailure), None),
        }
    }

    /// The attempt cannot be finished, for a reason of the service.
    pub fn give_up(&mut self, failure: SaslFailure) -> Step {
        self.take();
        self.fail(failure)
    }

    /// How the stream ends after too many failures.
    ///
    /// RFC 6120, section 6.4.5: "If the initiating entity exceeds the number of retries, the receiving entity MUST close the stream with a
    /// stream error, which SHOULD be \<policy-violation/\>".
    pub fn refusal(&self) -> Option<StreamError> {
        let refusal = || StreamError::new(StreamCondition::PolicyViolation).with_text("too many attempts to sign in");
        (self.failures >= FAILURES).then(refusal)
    }

    fn first(&mut self, mechanism: Mechanism, message: &[u8], nonce: String) -> Step {
        match self.read(mechanism, message, nonce) {
            Ok((state, step)) => {
                self.state = state;
                step
            }
            Err(failure) => self.fail(failure),
        }
    }

    fn read(&self, mechanism: Mechanism, message: &[u8], nonce: String) -> Result<(State, Step), SaslFailure> {
        let Offer { host, bindings, .. } = &self.offer;
        match mechanism.hash() {
            Some(hash) => {
                let first = First::read(message, host, mechanism.binds(), self.offer.offers_binding(), bindings)?;
                let user = first.user.clone();
                check_authzid(first.authzid.as_deref(), &user, self.from.as_ref())?;
                Ok((State::First { first, hash, nonce }, Step::Keys { user, hash }))
            }
            None if mechanism == Mechanism::Plain => {
                let (user, password) = plain::read(message, host, self.from.as_ref())?;
                Ok((State::Password(user.clone()), Step::Password { user, password }))
            }
            None => {
                let Bearer { authzid, token } = oauth::read(message)?;
                let named = authzid.map(|authzid| Jid::bare_of(&authzid)).transpose();
                let named = named.map_err(|_| SaslFailure::InvalidAuthzid)?;
                Ok((State::Token { named: named.clone() }, Step::Token { user: named, token }))
            }
        }
    }

    /// Takes the state of the attempt, which is over unless it is set anew. A client that is signed in stays so.
    fn take(&mut self) -> State {
        let next = if matches!(self.state, State::Done) { State::Done } else { State::Idle };
        std::mem::replace(&mut self.state, next)
    }

    fn fail(&mut self, failure: SaslFailure) -> Step {
        self.failures = self.failures.saturating_add(1);
        Step::Failure(failure)
    }
}
