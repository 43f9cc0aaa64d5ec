//! The session of one client: its requests and what it is told, in order. It does not wait, and knows neither clock nor
//! protocol: inputs come with the time, effects come out.

mod acks;
mod ask;
mod chat_states;
mod contacts;
pub(crate) mod content;
mod conversations;
mod delivery;
mod effect;
mod ending;
mod expiring;
mod following;
mod groups;
mod history;
mod input;
mod live;
mod media;
mod membership;
mod pace;
mod patience;
#[cfg(feature = "planted-bugs")]
mod planted;
mod positions;
mod privacy;
mod proving;
mod quiet;
pub(crate) mod rate;
mod references;
mod renewal;
mod reports;
mod resuming;
mod rules;
mod scheduled;
pub(crate) mod scram;
mod sending;
mod sign_in;
mod tell;
#[cfg(test)]
mod tests;
mod ticket;
pub(crate) mod token;

use std::{net::IpAddr, sync::Arc, time::Instant};

use carillon_proto::{
    DeviceId, Position, TimelineId, UserId,
    pb::{
        client::Code,
        link::{Acknowledge, TimelineProgress, evict::Why},
        store::{Session as StoredSession, session::Protocol},
    },
    sessions,
};

pub(crate) use ask::{
    Ask, AskId, ConversationAsk, ConversationQuery, Credential, GroupAsk, GroupChangeAsk, GroupQuery, GroupReadAsk,
    MembersAsk, PageAsk, SendAsk, SignInAsk,
};
pub(crate) use chat_states::{ChatStateAsk, ChatStateTell};
pub(crate) use contacts::{ContactAsk, ContactChange, ContactQuery, ContactTag, ContactTell};
pub(crate) use effect::{Effect, Tag};
pub(crate) use input::{Input, Now};
pub(crate) use media::{SlotAsk, SlotTell, UrlAsk, UrlTell};
pub(crate) use privacy::{PrivacyAsk, PrivacyChange, PrivacyQuery, PrivacyTag, PrivacyTell};
pub(crate) use reports::ReportAsk;
pub(crate) use rules::{MediaRules, Rules};
pub(crate) use scheduled::{ScheduledAsk, ScheduledChange, ScheduledQuery, ScheduledTell};
pub(crate) use tell::{GroupTell, Page, Placed, Tell, Welcome};
pub(crate) use ticket::TicketKeys;
pub(crate) use token::TokenDomains;
pub use token::{InvalidTokenKey, TokenKeyError, read_token_secret};

use crate::{feeds::Left, metrics, outcome::RequestOutcome};
use ending::{CUT_OFF, SIGNED_OUT, millis};
use live::{CloseReason, Going, LastWord, Live};
use patience::{patience, pings};
use sign_in::SignIn;
use token::{KeyId, Token};

pub(crate) struct Session {
    rules: Arc<Rules>,
    connection: u64,
    protocol: Protocol,
    address: IpAddr,
    state: State,
    /// The connection is closed at this time unless it signs in, or after that says something, before.
    patience: Instant,
    /// When the client is asked for a sign of life unless it gives one before.
    ping_at: Instant,
}

enum State {
    SigningIn(Box<SignIn>),
    Live(Box<Live>),
    SigningOut {
        /// Counts the requests that must be answered before the client hears that it is signed out: acknowledgements on
        /// their way, which the next sign-in builds on, and the release of the handle.
        waiting: usize,
    },
    Ended,
}

/// The user, device and sign-in of a session.
#[derive(Debug, Clone)]
struct Identity {
    user: UserId,
    device: DeviceId,
    since_ms: u64,
    attempt: Attempt,
}

/// A sign-in of a running client, as the client numbers them; all 0 if it does not.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    instance: u64,
    number: u32,
}

/// The credential by which a session was opened.
#[derive(Debug, Clone)]
enum Proof {
    /// Credentials of this generation of the account.
    Password {
        generation: u64,
    },
    Token {
        id: Option<String>,
        issued_ms: u64,
        key: KeyId,
    },
}

impl Proof {
    fn of_token(token: &Token) -> Self {
        Self::Token { id: token.id.clone(), issued_ms: token.issued_ms.unwrap_or(0), key: token.key }
    }

    /// Writes the proof into the session's row, by which the session is found when the proof no longer counts.
    fn write(&self, session: &mut StoredSession) {
        match self {
            Self::Password { generation } => session.generation = *generation,
            Self::Token { id, issued_ms, .. } => {
                session.by_token = true;
                session.token_id = id.clone().unwrap_or_default();
                session.token_issued_ms = *issued_ms;
            }
        }
    }
}

impl Session {
    pub(crate) fn new(rules: Arc<Rules>, connection: u64, protocol: Protocol, address: IpAddr, now: Now) -> Self {
        let patience = now.instant + rules.sign_in_timeout;
        let state = State::SigningIn(Box::new(SignIn::Start));
        Self { rules, connection, protocol, address, state, patience, ping_at: patience }
    }

    /// The client's time to sign in began before this session did.
    pub(crate) fn sign_in_by(&mut self, deadline: Instant) {
        self.patience = self.patience.min(deadline);
    }

    pub(crate) fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        match input {
            _ if matches!(self.state, State::Ended) => {}
            Input::Ask(ask) => self.ask(now, ask, out),
            // Nothing else can have become possible.
            Input::Alive => return self.alive(now),
            Input::Malformed { code, reason } => self.bye(code, &reason, None, out),
            Input::Unreadable { what, reason } => self.unreadable(now, what, &reason, out),
            Input::HalfClosed => self.half_closed(out),
            Input::Answer(tag, answered) => self.answer(now, tag, answered, out),
            Input::Entry(entry) => self.with_live(out, |live, _, out| live.entry(now, entry, out)),
            Input::Left(feed, timeline, Left::Fallen) => self.with_live(out, |live, _, out| {
                live.fallen(now, feed, &timeline, out);
                Ok(())
            }),
            Input::Left(feed, timeline, Left::Ended(why)) => {
                self.with_live(out, |live, _, out| live.left(now, feed, &timeline, why, out));
            }
            Input::Joined(joined) => self.with_live(out, |live, rules, out| live.joined(now, rules, joined, out)),
            Input::Found(found) => self.with_live(out, |live, _, out| {
                live.found(now, found, out);
                Ok(())
            }),
            Input::Begun(begun) => self.with_live(out, |live, _, out| {
                live.begun(now, begun, out);
                Ok(())
            }),
            Input::Signal(signal) => self.with_live(out, |live, _, out| {
                live.noticed(&signal, out);
                live.signaled(&signal, out);
                live.privacy_news(&signal, out);
                live.chat_state_told(&signal, out);
                live.scheduled_news(&signal, out);
                Ok(())
            }),
            Input::Presences(news) => self.with_live(out, |live, _, out| {
                live.presences(news, out);
                Ok(())
            }),
            Input::SignalsMissed => self.with_live(out, |live, _, _| {
                live.signals_missed(now);
                Ok(())
            }),
            Input::Heads(heads) => self.with_live(out, |live, _, out| live.heads(&heads, out)),
            Input::Evicted(why) => {
                ::metrics::counter!(metrics::EVICTIONS).increment(1);
                let code = if why == Why::Replaced { Code::Replaced } else { Code::Unauthenticated };
                self.end(code, sessions::told(why), None, Some(why), out);
            }
            Input::Backlog { full } => self.backlog(now, full, out),
            Input::TooSlow => {
                ::metrics::counter!(metrics::SLOW_CONSUMERS).increment(1);
                self.bye(Code::TooSlow, "what was sent to this client was not read in time", Some(0), out);
            }
            Input::Drain { reconnect_after } => self.drain(reconnect_after, out),
            Input::GoElsewhere { reconnect_after } => self.go_elsewhere(reconnect_after),
            // Pending sends would only run into their deadlines here: the client repeats them elsewhere.
            Input::CutOff { reconnect_after } => {
                self.bye(Code::Unavailable, CUT_OFF, Some(millis(reconnect_after)), out)
            }
            Input::Wake => self.wake(now, out),
        }
        self.flow(now, out);
    }

    /// When `Wake` is due.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        match &self.state {
            State::Ended => None,
            State::Live(live) => {
                let patience = if pings(self.protocol) { self.ping_at.min(self.patience) } else { self.patience };
                Some(live.wake_at().map_or(patience, |at| at.min(patience)))
            }
            State::SigningIn(_) | State::SigningOut { .. } => Some(self.patience),
        }
    }

    /// True if frames are read now. While an answer to the sign-in is on its way, frames that the client has sent ahead
    /// wait.
    pub(crate) fn reads(&self) -> bool {
        match &self.state {
            State::SigningIn(at) => at.awaits_client(),
            State::Live(_) | State::SigningOut { .. } | State::Ended => true,
        }
    }

    /// How far the client is in the timelines that it follows.
    pub(crate) fn progress(&self) -> Vec<TimelineProgress> {
        match &self.state {
            State::Live(live) => live.progress().collect(),
            State::SigningIn(_) | State::SigningOut { .. } | State::Ended => Vec::new(),
        }
    }

    fn ask(&mut self, now: Now, ask: Ask, out: &mut Vec<Effect>) {
        match (&mut self.state, ask) {
            (State::SigningIn(_), Ask::SignIn(ask)) => self.sign_in(now, *ask, out),
            (State::SigningIn(_), Ask::Prove(message)) => self.scram_final(now, &message, out),
            (State::SigningIn(_), Ask::LookUp(user)) => self.look_up(now, user, out),
            (State::SigningIn(_), Ask::Proven) => self.proven(now, out),
            (State::SigningIn(_), Ask::NotProven) => self.not_proven(now),
            (State::SigningIn(_), _) => self.bye(Code::Invalid, "the first frame must be sign_in", None, out),
            // The client has signed out.
            (State::Live(live), _) if live.is_finishing() => {}
            (State::Live(_), Ask::SignIn(_) | Ask::Prove(_) | Ask::LookUp(_) | Ask::Proven | Ask::NotProven) => {
                self.bye(Code::Invalid, "this connection is signed in already", None, out);
            }
            (State::Live(_), Ask::Unknown) => {
                self.bye(Code::Invalid, "frame has no body that this service knows", None, out);
            }
            (State::Live(live), ask) if live.awaited.is_some() && !ask.may_come_before_positions() => {
                self.bye(Code::Invalid, "positions must come before anything else", None, out);
            }
            (State::Live(live), ask) => {
                (self.patience, self.ping_at) = patience(&self.rules, self.protocol, now);
                match ask {
                    Ask::Send(send) => live.send(&self.rules, now, send, out),
                    Ask::Has { timeline, position } => live.ack(now, timeline.as_ref(), position),
                    Ask::Page(page) => live.fetch(&self.rules, now, page, out),
                    Ask::Group(ask) => live.change_group(&self.rules, now, *ask, out),
                    Ask::MediaSlot(ask) => live.request_media_slot(&self.rules, now, *ask, out),
                    Ask::MediaUrl(ask) => live.request_media_url(&self.rules, now, &ask, out),
                    Ask::GroupRead(ask) => live.read_group(&self.rules, now, *ask, out),
                    Ask::Conversation(ask) => live.ask_conversations(&self.rules, now, *ask, out),
                    Ask::Contact(ask) => live.ask_contacts(&self.rules, now, *ask, out),
                    Ask::Privacy(ask) => live.ask_privacy(&self.rules, now, *ask, out),
                    Ask::ChatState(ask) => live.set_chat_state(&self.rules, now, *ask, out),
                    Ask::Scheduled(ask) => live.ask_scheduled(&self.rules, now, *ask, out),
                    Ask::Report(ask) => live.report(&self.rules, now, *ask, out),
                    Ask::Heads { nonce } => live.pong(nonce, out),
                    Ask::Renew { request, token } => self.renew(now, request, &token, out),
                    Ask::SignOut => live.finish(LastWord::SignOut),
                    Ask::Positions { positions, more } => self.positions(now, positions, more, out),
                    Ask::SignIn(_) | Ask::Prove(_) | Ask::LookUp(_) | Ask::Proven | Ask::NotProven | Ask::Unknown => {}
                }
            }
            (State::SigningOut { .. } | State::Ended, _) => {}
        }
    }

    fn unreadable(&mut self, now: Now, what: AskId, reason: &str, out: &mut Vec<Effect>) {
        match &mut self.state {
            State::Live(live) if live.is_finishing() => {}
            State::Live(live) => {
                (self.patience, self.ping_at) = patience(&self.rules, self.protocol, now);
                live.unreadable(&self.rules, now, what, reason, out);
            }
            State::SigningIn(_) => self.bye(Code::Invalid, reason, None, out),
            State::SigningOut { .. } | State::Ended => {}
        }
    }

    fn answer(&mut self, now: Now, tag: Tag, answered: RequestOutcome, out: &mut Vec<Effect>) {
        match (&mut self.state, tag) {
            (State::SigningIn(_), Tag::Account) => self.account(answered.result, out),
            (State::SigningIn(_), Tag::Ensure) => self.ensured(now, answered.result, out),
            (State::SigningIn(_), Tag::Open) => self.opened(now, answered, out),
            (State::SigningOut { waiting }, Tag::Ack(_) | Tag::Close) => {
                *waiting -= 1;
                if *waiting == 0 {
                    self.bye(Code::SignedOut, SIGNED_OUT, None, out);
                }
            }
            (State::Live(live), tag) => {
                if let Err(gone) = live.answer(&self.rules, now, tag, answered.result, out) {
                    self.gone(&gone, out);
                }
            }
            _ => {}
        }
    }

    /// Ends the session if it can't go on.
    fn with_live(
        &mut self,
        out: &mut Vec<Effect>,
        work: impl FnOnce(&mut Live, &Rules, &mut Vec<Effect>) -> Result<(), CloseReason>,
    ) {
        if let State::Live(live) = &mut self.state
            && let Err(gone) = work(live, &self.rules, out)
        {
            self.gone(&gone, out);
        }
    }

    fn backlog(&mut self, now: Now, full: bool, out: &mut Vec<Effect>) {
        if let State::Live(live) = &mut self.state {
            live.backlog(now, full, out);
        }
    }

    fn wake(&mut self, now: Now, out: &mut Vec<Effect>) {
        if now.instant >= self.patience {
            match &self.state {
                State::SigningOut { .. } => return self.bye(Code::SignedOut, SIGNED_OUT, None, out),
                State::Live(live) if live.is_finishing() => return self.bye(Code::SignedOut, SIGNED_OUT, None, out),
                State::SigningIn(_) => metrics::sign_in("any", "timed_out"),
                State::Live(_) | State::Ended => {}
            }
            return self.bye(Code::TimedOut, "nothing was heard for too long", Some(0), out);
        }
        let State::Live(live) = &self.state else { return };
        if live.expires.is_some_and(|at| now.instant >= at) {
            return self.bye(Code::Expired, "the token has expired", None, out);
        }
        if live.awaited.as_ref().is_some_and(|awaited| now.instant >= awaited.until) {
            return self.bye(Code::TimedOut, "not all positions came in time", Some(0), out);
        }
        if pings(self.protocol) && now.instant >= self.ping_at {
            out.push(Effect::Ping);
            let (_, ping_at) = patience(&self.rules, self.protocol, now);
            self.ping_at = ping_at;
        }
    }

    fn alive(&mut self, now: Now) {
        if let State::Live(_) = self.state {
            (self.patience, self.ping_at) = patience(&self.rules, self.protocol, now);
        }
    }

    /// Does what the input has made possible.
    fn flow(&mut self, now: Now, out: &mut Vec<Effect>) {
        if let State::Live(live) = &mut self.state {
            live.flow(&self.rules, now, out);
            // Before anything that is behind the last word: an orderly end has its answers.
            match live.finished() {
                Some(LastWord::SignOut) => return self.sign_out(now, out),
                Some(LastWord::HalfClosed) => return self.bye(Code::SignedOut, SIGNED_OUT, None, out),
                None => {}
            }
            if let Some(Going { reconnect_after, why }) = live.may_go() {
                self.bye(Code::ShuttingDown, why, Some(millis(reconnect_after)), out);
            }
        }
    }

    /// Names the session. The lease is filled in by whoever sends it: it is the one that runs then.
    fn stored(&self, who: &Identity) -> StoredSession {
        StoredSession {
            user: who.user.as_str().to_owned(),
            device: who.device.as_str().to_owned(),
            lease: 0,
            connection: self.connection,
            protocol: self.protocol.into(),
            since_ms: who.since_ms,
            instance: who.attempt.instance,
            attempt: who.attempt.number,
            ..StoredSession::default()
        }
    }
}

/// Moves the device's cursor.
fn acknowledge(who: &Identity, incarnation: u64, timeline: &TimelineId, position: Position) -> Acknowledge {
    Acknowledge {
        user: who.user.as_str().to_owned(),
        device: who.device.as_str().to_owned(),
        timeline: Some(timeline.to_client()),
        position: Some(position.into()),
        incarnation: Some(incarnation),
        beyond: false,
    }
}
