//! The stream of a client: its events and the tells of the conversation go in, asks and bytes come out.

use std::{sync::Arc, time::Instant};

use carillon_proto::pb::client::Code;
use carillon_xmpp::{
    Element, Framing, Jid,
    error::{StreamCondition, StreamError},
    ns,
    sasl::ChannelBindings,
    stream::{Event, Header, Opening, Stanza, closing},
};

use super::{
    Check, Seed, Service,
    ends::{end_of, refusal_of},
    sign_in::SigningIn,
};
use crate::{
    config::XmppTls,
    conversation::{Ask, Now, Tell, rate::Bucket},
};

pub(crate) struct Dialog {
    pub(super) service: Arc<Service>,
    pub(super) framing: Framing,
    pub(super) seed: Seed,
    pub(super) protection: Protection,
    pub(super) stage: Stage,
    own: Own,
    /// Text for the client that the network has not taken.
    out: String,
    /// First-level elements that may still come before the client has a resource.
    elements_left: u32,
    pace: Bucket,
    /// The number of the last ping.
    pings: u32,
    end: Option<End>,
}

/// The protection of the stream's bytes.
#[derive(Debug)]
pub(super) enum Protection {
    None,
    Tls(ChannelBindings),
    /// A proxy in front of the gateway ends TLS.
    Outside,
}

/// The steps of a client.
pub(super) enum Stage {
    /// The client has not proven who it is. `None` until the header of its stream has named a host.
    SigningIn(Option<Box<SigningIn>>),
    /// The client is this user, and has no resource.
    Proven(Jid),
    /// The session of this address is being opened. `id`: that of the client's request.
    Binding { jid: Jid, id: String },
    /// The client has a session.
    Bound(Jid),
}

/// The server's own stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    Unopened,
    Open,
    Closed,
}

/// Work for the conversation or the transport.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    Ask(Ask),
    /// An ask, behind which the client begins a new stream.
    Restart(Ask),
    /// The client wants TLS. [`Dialog::proceed`] or [`Dialog::refuse_tls`] follows.
    StartTls,
}

/// The end of the client's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The client has violated a rule, and was told so.
    Fault(Code, String),
    /// The client has closed its stream.
    Closed,
}

/// Elements that a client needs until it has a resource: STARTTLS, two of SASL, and the request for the resource.
const FLOW: u32 = 4;
/// Further elements until then, for clients that try again or ask something before.
const BEYOND_FLOW: u32 = 8;
/// Stanzas that a client may send in a second, and at once. A client that sends more is read later.
const STANZAS_PER_SECOND: u32 = 100;
const STANZAS_AT_ONCE: u32 = 500;

impl Dialog {
    pub(crate) fn new(service: Arc<Service>, framing: Framing, seed: Seed, now: Now) -> Self {
        let protection = if service.tls == XmppTls::Outside { Protection::Outside } else { Protection::None };
        Self {
            service,
            framing,
            seed,
            protection,
            stage: Stage::SigningIn(None),
            own: Own::Unopened,
            out: String::new(),
            elements_left: FLOW + BEYOND_FLOW,
            pace: Bucket::new(f64::from(STANZAS_PER_SECOND), STANZAS_AT_ONCE, now.instant),
            pings: 0,
            end: None,
        }
    }

    /// Takes the next event of the client's stream.
    pub(crate) fn hear(&mut self, event: Event, now: Now) -> Option<Step> {
        if self.is_over() {
            return None;
        }
        match event {
            Event::Opened(header) => self.opened(&header),
            Event::Stanza(stanza) => return self.element(&stanza, now),
            Event::Closed => {
                // RFC 6120, section 4.4: the client waits for "a reciprocal closing stream tag". A client with a session gets it when the
                // session has ended.
                if !matches!(self.stage, Stage::Bound(_)) {
                    self.close();
                }
                self.end = Some(End::Closed);
            }
            Event::Error(error) => self.fail(&error),
        }
        None
    }

    /// Tells the client the words of the conversation. `Some`: a password is to be compared.
    pub(crate) fn tell(&mut self, tell: Tell) -> Option<Box<Check>> {
        match tell {
            Tell::Keys(stored) => return self.keys(&stored),
            Tell::SignedIn(_) => self.bound(),
            Tell::Bye { code, reason, .. } => self.bye(code, reason),
            // The dialect asks nothing yet that these could answer, and follows nothing of which they could tell.
            Tell::Challenge(_)
            | Tell::Timelines(_)
            | Tell::Accepted(_)
            | Tell::Refused { .. }
            | Tell::Entry(_)
            | Tell::Trimmed { .. }
            | Tell::Page(_)
            | Tell::Group(_)
            | Tell::Members { .. }
            | Tell::Groups { .. }
            | Tell::Conversations { .. }
            | Tell::ConversationsMoved { .. }
            | Tell::Marks { .. }
            | Tell::Marked(_)
            | Tell::Contact(_)
            | Tell::Privacy(_)
            | Tell::ChatState(_)
            | Tell::MediaSlot(_)
            | Tell::MediaUrl(_)
            | Tell::Scheduled(_)
            | Tell::Reported { .. }
            | Tell::Heads { .. }
            | Tell::Renewed { .. } => {}
        }
        None
    }

    /// Asks the client for a sign of life (XEP-0199). Every answer counts as one, also an error.
    pub(crate) fn ping(&mut self) {
        let Stage::Bound(jid) = &self.stage else { return };
        self.pings += 1;
        let ping = Element::new("iq", ns::CLIENT)
            .with("type", "get")
            .with("id", format!("ping-{}", self.pings))
            .with("from", jid.domain().to_owned())
            .with("to", jid.to_string())
            .with_child(Element::new("ping", ns::PING));
        self.write(&ping);
    }

    /// TLS may begin: what the client sends next belongs to it.
    ///
    /// RFC 6120, section 5.4.3.3: "The receiving entity MUST discard any information transmitted in layers above TCP that it obtained from the
    /// initiating entity in an insecure manner before TLS took effect".
    pub(crate) fn proceed(&mut self) {
        self.write(&Element::new("proceed", ns::TLS));
        self.stage = Stage::SigningIn(None);
        self.own = Own::Unopened;
    }

    /// RFC 6120, section 5.4.2.2: "the receiving entity MUST return a \<failure/\> element qualified by the
    /// 'urn:ietf:params:xml:ns:xmpp-tls' namespace, close the XML stream, and terminate the underlying TCP connection."
    pub(crate) fn refuse_tls(&mut self, why: &str) {
        self.write(&Element::new("failure", ns::TLS));
        self.close();
        self.end = Some(End::Fault(Code::Invalid, why.to_owned()));
    }

    /// TLS has taken effect.
    pub(crate) fn secured(&mut self, bindings: ChannelBindings) {
        self.protection = Protection::Tls(bindings);
    }

    pub(super) fn take_end(&mut self) -> Option<End> {
        self.end.take()
    }

    /// The time at which the client is read again, if it is not read now.
    pub(crate) fn paused_until(&mut self, now: Now) -> Option<Instant> {
        let wait = self.pace.check(now.instant).err()?;
        matches!(self.stage, Stage::Bound(_)).then(|| now.instant + wait)
    }

    /// True if nothing more is said on one of the two streams.
    pub(super) fn is_over(&self) -> bool {
        self.own == Own::Closed || self.end.is_some()
    }

    /// Bytes for the client that the network has not taken.
    pub(crate) fn out(&self) -> &[u8] {
        self.out.as_bytes()
    }

    /// Forgets as many bytes of [`Self::out`] as the network has taken. Those of a character that it has taken in part stay until it has the rest:
    /// returns their number.
    pub(crate) fn sent(&mut self, bytes: usize) -> usize {
        if bytes == self.out.len() {
            self.out = String::new();
            return 0;
        }
        let whole = (0..=bytes).rev().find(|at| self.out.is_char_boundary(*at)).unwrap_or(0);
        self.out.drain(..whole);
        bytes - whole
    }

    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.out.capacity()
    }

    pub(super) fn is_encrypted(&self) -> bool {
        !matches!(self.protection, Protection::None)
    }

    /// True if the client may begin TLS by STARTTLS.
    pub(super) fn offers_tls(&self) -> bool {
        !self.is_encrypted()
    }

    pub(super) fn element(&mut self, stanza: &Stanza, now: Now) -> Option<Step> {
        if let Stage::Bound(_) = self.stage {
            // There was room before the stanza was read.
            let _ = self.pace.take(now.instant);
        } else {
            match self.elements_left.checked_sub(1) {
                Some(left) => self.elements_left = left,
                None => {
                    let error = StreamError::new(StreamCondition::PolicyViolation);
                    self.fail(&error.with_text("too much was sent before the client has signed in"));
                    return None;
                }
            }
        }
        match (stanza.kind(), &self.stage, stanza.namespace()) {
            // RFC 6120, section 4.9.3.12: "The entity has attempted to send XML stanzas or other outbound data before the stream has been
            // authenticated [...]; the receiving entity MUST NOT process the offending data before sending the stream error."
            (Some(_), Stage::SigningIn(_), _) => {
                self.fail(&StreamError::new(StreamCondition::NotAuthorized).with_text("the client has not signed in"));
                None
            }
            (Some(kind), ..) => self.stanza(kind, stanza, now),
            (None, Stage::SigningIn(_), ns::TLS) if stanza.name() == "starttls" => {
                if self.offers_tls() {
                    return Some(Step::StartTls);
                }
                self.refuse_tls("the stream is encrypted already");
                None
            }
            (None, Stage::SigningIn(_), ns::SASL) => self.sasl(&stanza.element()),
            // The client ends the stream by an error, which is not answered by one.
            (None, _, ns::STREAMS) if stanza.name() == "error" => {
                self.close();
                self.end = Some(End::Closed);
                None
            }
            // RFC 6120, section 4.9.3.24: "The initiating entity has sent a first-level child of the stream that is not supported by the
            // server".
            (None, ..) => {
                self.fail(&StreamCondition::UnsupportedStanzaType.into());
                None
            }
        }
    }

    /// Opens the server's own stream. `header`: that of the client, if it could be read. `from`: its host, if it is known.
    pub(super) fn open(&mut self, header: Option<&Header>, from: Option<&str>) {
        let id = self.seed.name();
        let from = from.unwrap_or(self.service.domain.as_str());
        let opening = Opening { from, id: &id, lang: "en" };
        self.out.push_str(&opening.text(header, self.framing));
        self.own = Own::Open;
    }

    /// The client has to open its stream anew.
    pub(super) fn restart(&mut self) {
        self.own = Own::Unopened;
    }

    /// Ends the stream by an error.
    ///
    /// RFC 6120, section 4.9.1.1: "the entity that detects the error MUST send an \<error/\> element [...] and then immediately close the
    /// stream". Section 4.9.1.2: "If the error is triggered by the initial stream header, the receiving entity MUST still send the opening
    /// \<stream\> tag".
    pub(super) fn fail(&mut self, error: &StreamError) {
        self.end_by(error);
        self.end = Some(End::Fault(Code::Invalid, error.to_string()));
    }

    pub(super) fn write(&mut self, element: &Element) {
        element.write(self.framing, &mut self.out);
    }

    fn bye(&mut self, code: Code, reason: String) {
        if self.own == Own::Closed {
            return;
        }
        // A request that is not answered yet gets its answer before.
        match &self.stage {
            Stage::Binding { jid, id } => {
                let refusal = refusal_of(code).with_text(reason.clone());
                let refused = Element::new("iq", ns::CLIENT)
                    .with("type", "error")
                    .with("id", id.clone())
                    .with("to", jid.bare().to_owned())
                    .with_child(refusal.element());
                self.write(&refused);
            }
            Stage::SigningIn(_) => self.give_up_sign_in(),
            Stage::Proven(_) | Stage::Bound(_) => {}
        }
        match end_of(code) {
            Some(condition) => self.end_by(&StreamError::new(condition).with_text(reason)),
            None => self.close(),
        }
    }

    fn end_by(&mut self, error: &StreamError) {
        if self.own == Own::Unopened {
            self.open(None, None);
        }
        self.write(&error.element());
        self.close();
    }

    fn close(&mut self) {
        if self.own == Own::Open {
            self.out.push_str(closing(self.framing));
        }
        self.own = Own::Closed;
    }
}
