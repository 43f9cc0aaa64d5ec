//! From SignIn to SignedIn.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use carillon_proto::{
    ConnectionHandle, DeviceId, LeaseId, TimelineId, UserId,
    credentials::{ITERATIONS, MAX_ITERATIONS, decoy},
    limits, narrowed,
    pb::{
        client::{Code, Limits, Start, TimelinePosition},
        link::{EnsureAccount, LookUpAccount, OpenSession, Refusal, router_reply::Result as Reply, router_request::Op},
        store::ScramCredentials,
    },
};
use rand::{RngExt as _, distr::Alphanumeric};

use super::{
    Attempt, Credential, Effect, Identity, Live, Now, Proof, Session, SignInAsk, State, Tag, Tell, Welcome,
    live::{LiveStart, RESTORED},
    patience::patience,
    positions::{Awaited, DeliveryStart, given, head_of},
    proving::{LookedUp, Proven},
    resuming::TICKET,
    scram::{ClientFirst, Exchange, ScramError},
    ticket::Ticket,
};
use crate::{config::TokenAccounts, feeds::FeedAsk, metrics, outcome::RequestOutcome, users::Share};

/// The state of a sign-in.
pub(super) enum SignIn {
    Start,
    /// A resume ticket was refused: the client may give another credential.
    Again,
    /// The account is being read.
    Asked {
        applicant: Applicant,
        first: ClientFirst,
    },
    Challenged {
        applicant: Applicant,
        exchange: Exchange,
    },
    /// The token is valid, and the account is being created.
    Ensuring {
        applicant: Applicant,
    },
    /// The account is being read for a dialect that checks the password itself.
    LookingUp(UserId),
    /// The dialect has the keys.
    LookedUp(LookedUp),
    /// The client knows the password, and names its device next.
    Proven(Proven),
    /// The session is being stored.
    Opening {
        applicant: Applicant,
        who: Identity,
    },
    /// Only while a step is being processed.
    Between,
}

impl SignIn {
    /// True while the client has to send the next message.
    pub(super) fn awaits_client(&self) -> bool {
        match self {
            Self::Start | Self::Again | Self::Challenged { .. } | Self::LookedUp(_) | Self::Proven(_) => true,
            Self::Asked { .. } | Self::LookingUp(_) | Self::Ensuring { .. } | Self::Opening { .. } | Self::Between => {
                false
            }
        }
    }

    /// The user whose session may be stored by now.
    pub(super) fn opening(&self) -> Option<&Identity> {
        match self {
            Self::Opening { who, .. } => Some(who),
            _ => None,
        }
    }
}

/// The client that wants to sign in.
pub(super) struct Applicant {
    user: UserId,
    device: DeviceId,
    positions: Vec<TimelinePosition>,
    more_positions: bool,
    /// Nothing is delivered until the client wants it.
    holds: bool,
    /// When the client's wish to sign in was read. Of sign-ins that no client has numbered, the one that was read later wins,
    /// however long the earlier one takes.
    since_ms: u64,
    attempt: Attempt,
    start: Start,
    way: &'static str,
    proof: Proof,
    /// Creates the account if there is none. Used only once it is known to be missing, because it nearly always exists.
    make_account: bool,
    expires_ms: Option<u64>,
    ticket_expires_ms: u64,
    scram_server_final: Bytes,
    /// The connection's share in its user's limits; `None` until the user is known.
    share: Option<Share>,
}

/// Retry delay for a client whose sign-in could not be carried out.
pub(super) const AGAIN_MS: u32 = 1_000;
/// Retry delay for a user with too many connections, some of which may be dead.
const CROWDED_AGAIN_MS: u32 = 30_000;
/// Most characters of a claimed user name in the log.
const MAX_TOLD_CHARS: usize = 64;
/// Longest name and version of a client program.
const MAX_CLIENT_BYTES: usize = 64;

impl Session {
    pub(super) fn sign_in(&mut self, now: Now, ask: SignInAsk, out: &mut Vec<Effect>) {
        let is_again = match &self.state {
            State::SigningIn(at) if matches!(**at, SignIn::Start) => false,
            State::SigningIn(at) if matches!(**at, SignIn::Again) => true,
            State::SigningIn(at) if matches!(**at, SignIn::Proven(_)) && ask.credential == Some(Credential::Proven) => {
                false
            }
            _ => return self.bye(Code::Invalid, "sign_in was sent twice", None, out),
        };
        let device = match DeviceId::new(&ask.device) {
            Ok(device) => device,
            Err(error) => return self.bye(Code::Invalid, &error.to_string(), None, out),
        };
        if ask.client.len() > MAX_CLIENT_BYTES {
            return self.bye(Code::Invalid, "client is longer than 64 bytes", None, out);
        }
        if ask.positions.len() > limits::POSITIONS_IN_SIGN_IN {
            return self.bye(Code::Invalid, "positions names more than 256 timelines", None, out);
        }
        if (ask.instance == 0) != (ask.attempt == 0) {
            return self.bye(Code::Invalid, "sign_in must have both of instance and attempt, or neither", None, out);
        }
        let Ok(start) = Start::try_from(ask.start) else {
            return self.bye(Code::Invalid, "start is neither cursor nor head", None, out);
        };
        let proven = (ask.credential == Some(Credential::Proven)).then(|| self.step());
        let applicant = |user: UserId, way: &'static str, proof: Proof, expires_ms: Option<u64>| Applicant {
            user,
            device: device.clone(),
            positions: ask.positions,
            more_positions: ask.more_positions,
            holds: ask.holds,
            since_ms: now.unix_ms,
            attempt: Attempt { instance: ask.instance, number: ask.attempt },
            start,
            way,
            proof,
            make_account: false,
            expires_ms,
            ticket_expires_ms: self.rules.ticket_expires_ms(now, expires_ms),
            scram_server_final: Bytes::new(),
            share: None,
        };
        match ask.credential {
            Some(Credential::Scram(message)) => {
                match scram_user(&message, &ask.user) {
                    Ok((_, user)) if !self.rules.have_passwords(&user) => {
                        self.bye(Code::Unsupported, "sign-in by password is off", None, out);
                    }
                    Ok((first, user)) => {
                        if let Err(wait) = self.rules.throttle.begin(self.address, &user, now.instant) {
                            return self.throttled(now, "password", user.as_str(), wait, out);
                        }
                        let look_up = LookUpAccount { user: user.as_str().to_owned() };
                        // The generation is known once the account has been read.
                        let applicant = applicant(user, "password", Proof::Password { generation: 0 }, None);
                        self.state = State::SigningIn(Box::new(SignIn::Asked { applicant, first }));
                        out.push(request(Tag::Account, Op::LookUpAccount(look_up)));
                    }
                    Err(reason) => self.bye(Code::Invalid, &reason, None, out),
                }
            }
            Some(Credential::Token(token)) => match self.rules.tokens.load().check(&token, &ask.user, now.unix_ms) {
                Ok(token) => {
                    let proof = Proof::of_token(&token);
                    let make_account = self.rules.token_accounts(&token.user) != TokenAccounts::Never;
                    let applicant = applicant(token.user, "token", proof, Some(token.expires_ms));
                    self.open(now, Applicant { make_account, ..applicant }, out);
                }
                Err(error) => {
                    if error.is_a_guess() {
                        if let Err(wait) = self.rules.throttle.check_address(self.address, now.instant) {
                            return self.throttled(now, "token", &ask.user, wait, out);
                        }
                        self.rules.throttle.failed(self.address, None, now.instant);
                    }
                    self.unauthenticated(now, "token", &ask.user, &error.to_string(), out);
                }
            },
            Some(Credential::Ticket(_)) if is_again => {
                self.bye(Code::Unauthenticated, "another ticket was refused on this connection", None, out);
            }
            Some(Credential::Ticket(sealed)) => match self.rules.open_ticket(now, &sealed, &ask.user, &device) {
                Ok(ticket) => {
                    let applicant = applicant(ticket.user, TICKET, ticket.proof, ticket.credential_expires_ms);
                    // A ticket for a ticket does not last longer.
                    self.open(now, Applicant { ticket_expires_ms: ticket.expires_ms, ..applicant }, out);
                }
                Err(error) => self.ticket_refused(now, &ask.user, error, out),
            },
            Some(Credential::Proven) => match proven {
                Some(SignIn::Proven(Proven { user, generation })) => {
                    let applicant = applicant(user, "password", Proof::Password { generation }, None);
                    self.open(now, applicant, out);
                }
                _ => self.bye(Code::Unauthenticated, "the client has proven nothing", None, out),
            },
            None => self.bye(Code::Unauthenticated, "sign_in has no credential", None, out),
        }
    }

    /// The user's account, or none.
    pub(super) fn account(&mut self, result: Result<Reply, Refusal>, out: &mut Vec<Effect>) {
        let (mut applicant, first) = match self.step() {
            SignIn::Asked { applicant, first } => (applicant, first),
            SignIn::LookingUp(user) => return self.looked_up(user, result, out),
            _ => return,
        };
        let stored = match result {
            Ok(Reply::Account(account)) => {
                applicant.proof = Proof::Password { generation: account.generation };
                account.scram
            }
            Ok(_) => None,
            Err(refusal) if refusal.code() == Code::NotFound => None,
            Err(refusal) => return self.refuse_for_now(applicant.way, &refusal, out),
        };
        // A user without a password gets a challenge, too, and fails at the proof.
        let (known, _) = self.keys_of(&applicant.user, stored);
        let nonce: String = rand::rng().sample_iter(Alphanumeric).take(24).map(char::from).collect();
        let (challenge, exchange) = first.challenge(known, &nonce);
        self.state = State::SigningIn(Box::new(SignIn::Challenged { applicant, exchange }));
        out.push(Effect::Tell(Tell::Challenge(challenge.into_bytes().into())));
    }

    /// The keys by which the client is checked, and whether the user has them: others get made-up ones.
    pub(super) fn keys_of(&self, user: &UserId, stored: Option<ScramCredentials>) -> (ScramCredentials, bool) {
        match stored.filter(is_sound) {
            Some(stored) => (stored, true),
            None => (decoy(&self.rules.decoy_key, user.as_str()), false),
        }
    }

    pub(super) fn scram_final(&mut self, now: Now, message: &[u8], out: &mut Vec<Effect>) {
        let SignIn::Challenged { mut applicant, exchange } = self.step() else {
            return self.bye(Code::Invalid, "scram_final answers no challenge", None, out);
        };
        match exchange.finish(message) {
            Ok(verdict) => {
                applicant.scram_server_final = verdict.into_bytes().into();
                self.rules.throttle.succeeded(self.address, &applicant.user, now.instant);
                self.open(now, applicant, out);
            }
            Err(error @ ScramError::Wrong) => {
                self.rules.throttle.failed(self.address, Some(&applicant.user), now.instant);
                self.unauthenticated(now, applicant.way, applicant.user.as_str(), &error.to_string(), out);
            }
            Err(error @ ScramError::Malformed(_)) => self.bye(Code::Invalid, &error.to_string(), None, out),
        }
    }

    fn ensure(&mut self, applicant: Applicant, out: &mut Vec<Effect>) {
        let revive = self.rules.token_accounts(&applicant.user) == TokenAccounts::Always;
        let ensure = EnsureAccount { user: applicant.user.as_str().to_owned(), revive };
        let applicant = Applicant { make_account: false, ..applicant };
        self.state = State::SigningIn(Box::new(SignIn::Ensuring { applicant }));
        out.push(request(Tag::Ensure, Op::EnsureAccount(ensure)));
    }

    pub(super) fn ensured(&mut self, now: Now, result: Result<Reply, Refusal>, out: &mut Vec<Effect>) {
        let SignIn::Ensuring { applicant } = self.step() else { return };
        match result {
            Ok(_) => self.open(now, applicant, out),
            Err(refusal) => self.refuse_for_now(applicant.way, &refusal, out),
        }
    }

    fn open(&mut self, now: Now, mut applicant: Applicant, out: &mut Vec<Effect>) {
        if applicant.share.is_none() {
            let resumes = applicant.way == TICKET || !applicant.positions.is_empty();
            if let Err(wait) = self.rules.herd.admit(&applicant.user, &applicant.device, resumes, now.instant) {
                metrics::sign_in(applicant.way, "overloaded");
                let after = u32::try_from(wait.as_millis() + 1).unwrap_or(u32::MAX);
                return self.bye(
                    Code::Overloaded,
                    "many clients are signing in: come back at your time",
                    Some(after),
                    out,
                );
            }
            match self.rules.users.join(&applicant.user, now.instant) {
                Ok(share) => applicant.share = Some(share),
                Err(_) => {
                    metrics::sign_in(applicant.way, "crowded");
                    let why = "this user has as many connections as it may";
                    return self.bye(Code::Overloaded, why, Some(CROWDED_AGAIN_MS), out);
                }
            }
        }
        let Applicant { since_ms, attempt, .. } = applicant;
        let who = Identity { user: applicant.user.clone(), device: applicant.device.clone(), since_ms, attempt };
        // Pushes that arrive before the answer may be newer than the heads in it.
        let expected = (!applicant.holds).then(|| FeedAsk::Expect(TimelineId::Inbox(who.user.clone())));
        let mut session = self.stored(&who);
        applicant.proof.write(&mut session);
        let open = OpenSession { session: Some(session) };
        self.state = State::SigningIn(Box::new(SignIn::Opening { applicant, who }));
        out.extend(expected.map(Effect::Feed));
        out.push(request(Tag::Open, Op::OpenSession(open)));
    }

    pub(super) fn opened(&mut self, now: Now, answered: RequestOutcome, out: &mut Vec<Effect>) {
        let (heads, incarnation, generation) = match answered.result {
            Ok(Reply::SessionOpened(opened)) if opened.replaced => {
                // The connection that is still open wins.
                let why = "a later sign-in of this device was quicker: try again";
                return self.bye(Code::Unavailable, why, Some(AGAIN_MS), out);
            }
            Ok(Reply::SessionOpened(opened)) => (opened.heads, opened.incarnation, opened.generation),
            Ok(_) => {
                let why = "the service gave an answer of the wrong kind";
                return self.bye(Code::Internal, why, Some(AGAIN_MS), out);
            }
            Err(refusal) => {
                let rules = Arc::clone(&self.rules);
                let code = refusal.code();
                let may_be_made = |user: &UserId| match code {
                    Code::NotFound => true,
                    Code::Unauthenticated => rules.token_accounts(user) == TokenAccounts::Always,
                    _ => false,
                };
                return match self.step() {
                    SignIn::Opening { applicant, .. } if applicant.make_account && may_be_made(&applicant.user) => {
                        self.ensure(applicant, out)
                    }
                    // The credential no longer counts. Not a guessed password: it was right.
                    SignIn::Opening { applicant, .. } if code == Code::Unauthenticated || code == Code::NotFound => {
                        metrics::sign_in(applicant.way, "unauthenticated");
                        self.bye(Code::Unauthenticated, &refusal.reason, None, out)
                    }
                    _ => self.refuse_for_now("any", &refusal, out),
                };
            }
        };
        let SignIn::Opening { mut applicant, who } = self.step() else { return };
        // Set by `open`.
        let Some(share) = applicant.share.take() else { return };
        metrics::sign_in(applicant.way, "ok");
        let inbox = TimelineId::Inbox(who.user.clone());
        let timeline = inbox.to_client();
        let (head, given) = (head_of(&timeline, &heads), given(&timeline, &applicant.positions));
        let begins = !applicant.holds && (given.is_some() || !applicant.more_positions);
        let begin = begins.then(|| DeliveryStart::new(head, given, applicant.start));
        let beyond = begin.as_ref().and_then(|begin| begin.beyond(given));
        let handle = ConnectionHandle { lease: LeaseId(answered.lease), connection: self.connection };
        let of_domain = self.rules.domains.sends_per_second(who.user.domain());
        let welcome = Welcome {
            handle: handle.to_string(),
            user: who.user.as_str().to_owned(),
            device: who.device.as_str().to_owned(),
            verdict: applicant.scram_server_final,
            limits: Limits {
                max_frame_bytes: small(self.rules.max_frame_bytes),
                max_content_bytes: small(self.rules.max_content_bytes(&who.user)),
                sends_per_second: narrowed(self.rules.sends_per_second, of_domain),
                send_burst: self.rules.send_burst,
                max_pending_sends: self.rules.max_pending_sends,
                max_page: self.rules.max_page,
                fetches_per_second: self.rules.fetches_per_second,
                fetch_burst: self.rules.fetch_burst,
            },
            heartbeat_ms: self.rules.heartbeat_ms,
            expires_ms: applicant.expires_ms.unwrap_or(0),
            features: self.rules.features(),
            ticket: self.rules.seal(&Ticket {
                user: who.user.clone(),
                device: who.device.clone(),
                proof: applicant.proof,
                credential_expires_ms: applicant.expires_ms,
                expires_ms: applicant.ticket_expires_ms,
            }),
            timelines: begin.iter().map(|begin| begin.state(timeline.clone())).collect(),
        };
        out.push(Effect::SignedIn);
        out.push(Effect::Tell(Tell::SignedIn(Box::new(welcome))));
        let expires = applicant.expires_ms.map(|at| instant_of(at, now));
        (self.patience, self.ping_at) = patience(&self.rules, self.protocol, now);
        let awaited = applicant.more_positions.then(|| {
            let until = now.instant + self.rules.sign_in_timeout;
            let inbox = begin.is_none().then_some(head);
            Box::new(Awaited::new(mem::take(&mut applicant.positions), until, applicant.start, inbox))
        });
        let inbox_known = head.last;
        let start = LiveStart { who, incarnation, generation, expires, share, awaited, inbox_known };
        let mut live = Live::new(&self.rules, now, self.connection, start);
        if let Some(begin) = &begin {
            live.follow(inbox.clone(), begin, now);
        }
        if !applicant.more_positions && !applicant.holds {
            live.load_groups(&self.rules, applicant.positions.into(), applicant.start, out);
        }
        let beyond = beyond.map(|position| live.has_beyond(&inbox, position));
        self.state = State::Live(Box::new(live));
        if let Some(op) = beyond {
            // The client must drop what it has before it takes anything: it signs in to the new epoch.
            out.push(request(Tag::Ack(inbox), op));
            self.bye(RESTORED.0, RESTORED.1, Some(AGAIN_MS), out);
        }
    }

    /// The credentials are wrong.
    fn unauthenticated(&mut self, now: Now, way: &'static str, user: &str, reason: &str, out: &mut Vec<Effect>) {
        metrics::sign_in(way, "unauthenticated");
        self.tell_failed(now, way, user, reason);
        self.bye(Code::Unauthenticated, reason, None, out);
    }

    /// Too many failures before.
    pub(super) fn throttled(&mut self, now: Now, way: &'static str, user: &str, wait: Duration, out: &mut Vec<Effect>) {
        metrics::sign_in(way, "throttled");
        let after = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
        let reason = "too many failed sign-ins from this address or for this user";
        self.tell_failed(now, way, user, reason);
        self.bye(Code::RateLimited, reason, Some(after), out);
    }

    /// Logs one line, unless there are too many: for people, and for tools that ban addresses. `user`: the name that
    /// the client claims, empty if there is none.
    pub(super) fn tell_failed(&self, now: Now, way: &'static str, user: &str, reason: &str) {
        if let Some(left_out) = self.rules.throttle.tell(now.instant) {
            let address = self.address;
            let user: String = user.chars().take(MAX_TOLD_CHARS).flat_map(char::escape_debug).collect();
            if left_out == 0 {
                tracing::warn!(%address, way, user, reason, "sign-in failed");
            } else {
                tracing::warn!(%address, way, user, reason, left_out, "sign-in failed");
            }
        }
    }

    /// The service could not carry out the sign-in.
    pub(super) fn refuse_for_now(&mut self, way: &'static str, refusal: &Refusal, out: &mut Vec<Effect>) {
        metrics::sign_in(way, "failed");
        let again = refusal.retry.then_some(refusal.retry_after_ms.max(AGAIN_MS));
        self.bye(refusal.code(), &refusal.reason, again, out);
    }

    pub(super) fn step(&mut self) -> SignIn {
        match &mut self.state {
            State::SigningIn(at) => std::mem::replace(at, SignIn::Between),
            State::Live(_) | State::SigningOut { .. } | State::Ended => SignIn::Between,
        }
    }
}

/// The user of a SCRAM exchange; the sign-in frame may name it, too.
fn scram_user(message: &[u8], named: &str) -> Result<(ClientFirst, UserId), String> {
    let first = ClientFirst::parse(message).map_err(|error| error.to_string())?;
    let user = UserId::new(&first.user).map_err(|error| error.to_string())?;
    if !named.is_empty() && named != user.as_str() {
        return Err("user is another one than that of the SCRAM message".to_owned());
    }
    Ok((first, user))
}

fn is_sound(scram: &ScramCredentials) -> bool {
    (1..=MAX_ITERATIONS.max(ITERATIONS)).contains(&scram.iterations) && !scram.salt.is_empty()
}

pub(super) fn instant_of(unix_ms: u64, now: Now) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    now.instant + Duration::from_millis(unix_ms.saturating_sub(now.unix_ms)).min(YEAR)
}

fn small(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

pub(super) fn request(tag: Tag, op: Op) -> Effect {
    Effect::Request { tag, op, traceparent: String::new() }
}
