//! The rules that a client keeps in every scene. Pure; time is a parameter.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use carillon_gateway::reading;
use carillon_proto::{
    ClientId, DeviceId, TimelineId, features, limits,
    pb::client::{
        ClientFrame, Content, Limits, Position, Recipient, Send, ServerFrame, SignIn, Timeline, TimelineState,
        client_frame::Body, content, recipient::To, refused::What, server_frame::Body as Told, sign_in::Credential,
    },
};

/// Timers may fire so much early.
const EARLY: Duration = Duration::from_millis(2);
/// Fetches without an answer.
const FETCHES: usize = 4;

/// A violation of a rule of docs/protocol.md.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why} (docs/protocol.md, {section:?})")]
pub(crate) struct Broken {
    pub(crate) section: &'static str,
    pub(crate) why: String,
}

fn broken<T>(section: &'static str, why: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { section, why: why.into() })
}

/// Whether the client may connect again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    AtOnce,
    From(Instant),
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing was heard on this connection.
    New,
    /// A SignIn waits for its answer.
    SigningIn {
        with_ticket: bool,
    },
    TicketRefused,
    SignedIn,
    SignedOut,
}

/// The record of a client's frames and of those that it got.
#[derive(Debug)]
pub(crate) struct Rules {
    stage: Stage,
    again: Again,
    /// Instance and attempt of the last sign-in.
    number: Option<(u64, u32)>,
    limits: Limits,
    features: Vec<String>,
    more_positions: bool,
    unanswered: BTreeSet<String>,
    fetches: BTreeSet<u32>,
    /// Each message that was sent: to whom it was, and what it said.
    messages: HashMap<String, Send>,
    /// The earliest time of the next attempt of messages that were refused for now.
    not_before: HashMap<String, Instant>,
    /// Refused for good.
    refused: BTreeSet<String>,
    /// The last position delivered in each timeline, over all connections.
    delivered: HashMap<TimelineId, (u64, u64)>,
}

impl Rules {
    pub(crate) fn new() -> Self {
        Self {
            stage: Stage::New,
            again: Again::AtOnce,
            number: None,
            limits: Limits::default(),
            features: Vec::new(),
            more_positions: false,
            unanswered: BTreeSet::new(),
            fetches: BTreeSet::new(),
            messages: HashMap::new(),
            not_before: HashMap::new(),
            refused: BTreeSet::new(),
            delivered: HashMap::new(),
        }
    }

    /// The client was started again by its user: whatever it was told about connecting, it may do so.
    pub(crate) fn started(&mut self) {
        self.again = Again::AtOnce;
        self.refused.clear();
    }

    /// The client has opened a connection.
    pub(crate) fn connected(&mut self, now: Instant) -> Result<(), Broken> {
        match self.again {
            Again::Never => {
                return broken("Keeping and ending", "the client connects again after a Bye without `reconnect`");
            }
            Again::From(time) if now + EARLY < time => {
                let early = (time - now).as_millis();
                return broken("Keeping and ending", format!("the client connects again {early} ms too early"));
            }
            Again::From(_) | Again::AtOnce => {}
        }
        self.again = Again::AtOnce;
        self.stage = Stage::New;
        self.features.clear();
        self.more_positions = false;
        self.unanswered.clear();
        self.fetches.clear();
        // A place in the rate is one connection's.
        self.not_before.clear();
        Ok(())
    }

    /// The client has sent a frame of so many bytes.
    pub(crate) fn heard(&mut self, frame: &ClientFrame, bytes: usize, now: Instant) -> Result<(), Broken> {
        let Some(body) = &frame.body else {
            return broken("What ends in what", "a frame has no body that the protocol knows");
        };
        let max = match self.stage {
            Stage::SignedIn | Stage::SignedOut => self.limits.max_frame_bytes as usize,
            _ => limits::MAX_FRAME_BYTES_BEFORE_SIGN_IN,
        };
        if bytes > max {
            return broken("Signing in", format!("a frame has {bytes} bytes, but at most {max} are allowed here"));
        }
        if let Body::SignIn(sign_in) = body {
            return self.signs_in(sign_in);
        }
        match self.stage {
            Stage::New => return broken("What ends in what", "the first frame of a connection is no SignIn"),
            Stage::SigningIn { with_ticket: true } => {
                return broken("Signing in", "a frame follows a SignIn with a ticket before its answer");
            }
            Stage::SignedOut => return broken("Keeping and ending", "a frame follows SignOut"),
            Stage::SigningIn { with_ticket: false } | Stage::TicketRefused | Stage::SignedIn => {}
        }
        if self.more_positions && !matches!(body, Body::Positions(_) | Body::Ping(_) | Body::SignOut(_)) {
            return broken("Timelines and positions", "a frame comes before the last Positions");
        }
        self.has_feature(body)?;
        match body {
            Body::SignOut(_) => self.stage = Stage::SignedOut,
            Body::Positions(positions) => self.more_positions = positions.more,
            Body::Send(send) => self.sends(send, now)?,
            Body::Ack(ack) => {
                let timeline = ack.timeline.as_ref().and_then(|given| TimelineId::from_client(given).ok().flatten());
                let (Some(timeline), Some(position)) = (timeline, ack.position) else {
                    return broken("Timelines and positions", "an Ack has no valid timeline or no position");
                };
                let (epoch, seq) = self.delivered.get(&timeline).copied().unwrap_or_default();
                if position.epoch != epoch || position.seq > seq {
                    let acknowledged = format!("{} of epoch {}", position.seq, position.epoch);
                    let why =
                        format!("an Ack of {acknowledged} in {timeline}, which has delivered {seq} of epoch {epoch}");
                    return broken("Timelines and positions", why);
                }
            }
            Body::Fetch(fetch) => {
                if !self.fetches.insert(fetch.request) {
                    let why =
                        format!("request {} is used while another one of that number has no answer", fetch.request);
                    return broken("Timelines and positions", why);
                }
                if self.fetches.len() > FETCHES {
                    return broken("Timelines and positions", "more than four fetches have no answer");
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn signs_in(&mut self, sign_in: &SignIn) -> Result<(), Broken> {
        const SECTION: &str = "Signing in";
        if !matches!(self.stage, Stage::New | Stage::TicketRefused) {
            return broken("What ends in what", "a second SignIn on one connection");
        }
        if let Err(why) = DeviceId::new(&sign_in.device) {
            return broken("Names", format!("SignIn.device: {why}"));
        }
        let with_ticket = match sign_in.credential {
            None => return broken(SECTION, "a SignIn without a credential"),
            Some(Credential::Ticket(_)) if self.stage == Stage::TicketRefused => {
                return broken(SECTION, "a second ticket on one connection, after one that was refused");
            }
            Some(Credential::Ticket(_)) => true,
            Some(Credential::Token(_) | Credential::ScramFirst(_)) => false,
        };
        if sign_in.positions.len() > limits::POSITIONS_IN_SIGN_IN {
            return broken("Timelines and positions", "more than 256 positions in SignIn");
        }
        match (sign_in.instance, sign_in.attempt, self.number) {
            (0, 0, _) => {}
            (0, ..) | (_, 0, _) => return broken(SECTION, "a SignIn with only one of `instance` and `attempt`"),
            (instance, attempt, Some((before, last))) if instance == before => {
                let again = self.stage == Stage::TicketRefused && attempt == last;
                if attempt <= last && !again {
                    return broken(
                        SECTION,
                        format!("attempt {attempt} comes after attempt {last} of the same instance"),
                    );
                }
            }
            (_, attempt, _) if attempt != 1 => {
                return broken(SECTION, format!("the first attempt of an instance has the number {attempt}, not 1"));
            }
            _ => {}
        }
        if sign_in.instance != 0 {
            self.number = Some((sign_in.instance, sign_in.attempt));
        }
        self.more_positions = sign_in.more_positions;
        self.stage = Stage::SigningIn { with_ticket };
        Ok(())
    }

    fn sends(&mut self, send: &Send, now: Instant) -> Result<(), Broken> {
        let id = &send.client_id;
        if let Err(why) = ClientId::new(id) {
            return broken("Names", format!("Send.client_id: {why}"));
        }
        let to = match send.to.as_ref().and_then(|to| to.to.as_ref()) {
            Some(_) => send.to.clone(),
            None => return broken("Sending", format!("message {id} is for nobody")),
        };
        let max = if self.limits.max_content_bytes == 0 { usize::MAX } else { self.limits.max_content_bytes as usize };
        let Some(content) = &send.content else {
            return broken("Contents", format!("message {id} has no content"));
        };
        if let Err(why) = reading::check_content(content, max) {
            return broken("Contents", format!("message {id}: {why}"));
        }
        if let Some(before) = self.messages.get(id) {
            // `after` of a repeat may differ.
            let same =
                before.to == to && before.content == send.content && before.expires_after_ms == send.expires_after_ms;
            if !same {
                return broken("Sending", format!("the client id {id} stood for another message before"));
            }
            if self.refused.contains(id) {
                return broken("Sending again", format!("message {id} is sent again after it was refused for good"));
            }
        }
        if let Some(time) = self.not_before.remove(id)
            && now + EARLY < time
        {
            let early = (time - now).as_millis();
            return broken("Sending again", format!("message {id} is sent again {early} ms before its time"));
        }
        if !send.after.is_empty() {
            self.follows(send, &to)?;
        }
        self.messages.insert(id.clone(), send.clone());
        if !self.unanswered.insert(id.clone()) {
            return broken("Sending again", format!("message {id} is sent again while it waits for its answer"));
        }
        let max = self.limits.max_pending_sends as usize;
        if self.stage == Stage::SignedIn && self.unanswered.len() > max {
            let why = format!("{} messages wait for their answers, but at most {max} may", self.unanswered.len());
            return broken("Sending again", why);
        }
        Ok(())
    }

    fn follows(&self, send: &Send, to: &Option<Recipient>) -> Result<(), Broken> {
        let (id, after) = (&send.client_id, &send.after);
        match self.messages.get(after) {
            None => broken("Sending", format!("message {id} names {after:?} in `after`, which was never sent")),
            Some(before) if before.to != *to => {
                broken("Sending", format!("message {id} names {after:?} in `after`, which is to another recipient"))
            }
            Some(_) if self.refused.contains(after) => {
                broken("Sending again", format!("message {id} names {after:?} in `after`, which was refused for good"))
            }
            Some(_) => Ok(()),
        }
    }

    /// A frame is for services that name its feature.
    fn has_feature(&self, body: &Body) -> Result<(), Broken> {
        let group = |to: &Option<Recipient>| matches!(to.as_ref().and_then(|to| to.to.as_ref()), Some(To::Group(_)));
        let needed: &[&str] = match body {
            Body::SignIn(_) | Body::ScramFinal(_) | Body::SignOut(_) | Body::Ack(_) | Body::Ping(_) => &[],
            Body::Fetch(_) | Body::Renew(_) => &[],
            Body::Send(send) => {
                let about = send.content.as_ref().is_some_and(is_about_another);
                if send.expires_after_ms != 0 {
                    &[features::EXPIRING]
                } else if about {
                    &[features::REFERENCES]
                } else if group(&send.to) {
                    &[features::GROUPS]
                } else {
                    &[]
                }
            }
            Body::Positions(_) => &[features::MORE_POSITIONS],
            Body::Group(_) | Body::ReadGroup(_) | Body::ReadMembers(_) | Body::ReadGroups(_) => &[features::GROUPS],
            Body::ReadConversations(_) | Body::MoveMarks(_) | Body::SetConversation(_) | Body::ReadMarks(_) => {
                &[features::CONVERSATIONS]
            }
            Body::Contact(_) | Body::ReadContacts(_) | Body::SetPresence(_) => &[features::CONTACTS],
            Body::RequestMediaSlot(_) | Body::RequestMediaUrl(_) => &[features::MEDIA],
            Body::Privacy(_) | Body::ReadPrivacy(_) => &[features::PRIVACY],
            Body::SetChatState(_) => &[features::CHAT_STATES],
            Body::Schedule(_) | Body::ChangeScheduled(_) | Body::ReadScheduled(_) => &[features::SCHEDULED],
            Body::Report(_) => &[features::REPORTS],
        };
        match needed.iter().find(|needed| !self.features.iter().any(|feature| feature == **needed)) {
            Some(missing) => broken(
                "What ends in what",
                format!("a frame that needs the feature {missing}, which the service does not name"),
            ),
            None => Ok(()),
        }
    }

    /// The gateway is about to send a frame.
    pub(crate) fn told(&mut self, frame: &ServerFrame, now: Instant) {
        match &frame.body {
            Some(Told::SignedIn(signed_in)) => {
                self.stage = Stage::SignedIn;
                self.limits = signed_in.limits.unwrap_or_default();
                self.features.clone_from(&signed_in.features);
                self.begins(&signed_in.timelines);
            }
            Some(Told::Timelines(timelines)) => self.begins(&timelines.timelines),
            Some(Told::Accepted(accepted)) => {
                self.unanswered.remove(&accepted.client_id);
                self.has(&accepted.timeline, accepted.position);
            }
            Some(Told::Deliver(deliver)) => self.has(&deliver.timeline, deliver.position),
            Some(Told::Trimmed(trimmed)) => {
                if let Some(first) = trimmed.first {
                    self.skip(&trimmed.timeline, Position { seq: first.seq.saturating_sub(1), ..first });
                }
            }
            Some(Told::Page(page)) => {
                self.fetches.remove(&page.request);
            }
            Some(Told::Refused(refused)) => match &refused.what {
                Some(What::ClientId(id)) => {
                    self.unanswered.remove(id);
                    if refused.retry {
                        let after = Duration::from_millis(refused.retry_after_ms.into());
                        self.not_before.insert(id.clone(), now + after);
                    } else {
                        self.refused.insert(id.clone());
                    }
                }
                Some(What::Request(request)) => {
                    self.fetches.remove(request);
                }
                None => self.stage = Stage::TicketRefused,
            },
            Some(Told::Bye(bye)) => {
                let after = Duration::from_millis(bye.reconnect_after_ms.into());
                // The answer to SignOut is for a client that has ended by itself.
                let out = self.stage == Stage::SignedOut;
                // Not the credential was refused, which is tried at once.
                let ticket = matches!(self.stage, Stage::SigningIn { with_ticket: true });
                self.again = match (bye.reconnect || out, ticket) {
                    (true, _) => Again::From(now + after),
                    (false, true) => Again::AtOnce,
                    (false, false) => Again::Never,
                };
            }
            _ => {}
        }
    }

    fn begins(&mut self, timelines: &[TimelineState]) {
        for state in timelines {
            let timeline = state.timeline.as_ref().and_then(|given| TimelineId::from_client(given).ok().flatten());
            let Some(timeline) = timeline.filter(|_| state.epoch != 0) else { continue };
            let has = self.delivered.entry(timeline).or_default();
            let from = (state.epoch, state.delivered_from);
            *has = if has.0 == state.epoch { (*has).max(from) } else { from };
        }
    }

    fn has(&mut self, timeline: &Option<Timeline>, position: Option<Position>) {
        let timeline = timeline.as_ref().and_then(|given| TimelineId::from_client(given).ok().flatten());
        let (Some(timeline), Some(position)) = (timeline, position) else { return };
        let has = self.delivered.entry(timeline).or_default();
        // Entries behind a gap do not count. An empty timeline gets its epoch with the first position.
        if (position.epoch == has.0 || has.1 == 0) && position.seq == has.1 + 1 {
            *has = (position.epoch, position.seq);
        }
    }

    /// Positions up to this one are no longer kept, and count as delivered.
    fn skip(&mut self, timeline: &Option<Timeline>, before: Position) {
        let timeline = timeline.as_ref().and_then(|given| TimelineId::from_client(given).ok().flatten());
        let Some(timeline) = timeline else { return };
        let has = self.delivered.entry(timeline).or_default();
        if has.0 != before.epoch || has.1 < before.seq {
            *has = (before.epoch, before.seq);
        }
    }
}

fn is_about_another(content: &Content) -> bool {
    use content::Body as Said;
    let about = matches!(
        content.body,
        Some(Said::Edit(_) | Said::Recall(_) | Said::Reaction(_) | Said::Pin(_) | Said::Poll(_) | Said::Vote(_))
    );
    about
        || content.reply_to.is_some()
        || content.thread.is_some()
        || content.forwarded_from.is_some()
        || content.mentions.is_some()
}

#[cfg(test)]
mod tests;
