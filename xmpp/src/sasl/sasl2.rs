//! The elements of SASL with other requests inline (XEP-0388). The steps are those of [`Negotiation`](super::Negotiation).

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use super::{
    Bind, Fast, Hash, Mechanism, Offer, Step, TokenMechanism, Upgrade, bind,
    fast::{self, requested},
};
use crate::{Element, Jid, error::SaslFailure, ns};

/// Longest text about a client that is kept, in characters.
const AGENT_CHARS: usize = 128;
/// Longest name of a task that is kept, in characters.
const TASK_CHARS: usize = 64;

/// An element that a client sends. Data of mechanisms is overwritten when it is dropped; neither this nor the data of tasks is shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Request2 {
    Authenticate(Box<Authenticate>),
    Response(Zeroizing<Vec<u8>>),
    Abort,
    /// The client begins this task.
    Next(String),
    /// The client's part of a task, which may be secret.
    TaskData(Box<Element>),
}

/// A client signs in, and asks for more at once.
#[derive(Clone, PartialEq, Eq)]
pub struct Authenticate {
    pub mechanism: String,
    /// `None`: the client waits for a challenge.
    pub data: Option<Zeroizing<Vec<u8>>>,
    pub agent: Option<UserAgent>,
    pub bind: Option<Bind>,
    /// The mechanism is one of tokens: [`Negotiation::start_with_token`](super::Negotiation::start_with_token).
    pub fast: Option<Fast>,
    /// The client wants a token for this mechanism.
    pub wants_token: Option<TokenMechanism>,
    pub upgrades: Vec<Hash>,
    /// Other requests: resumption (XEP-0198) and the like.
    pub others: Vec<Element>,
}

/// The client's installation. Other users do not see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserAgent {
    /// The same with each sign-in of the installation: a UUID of version 4 in lower case. `None` if it is none.
    pub id: Option<String>,
    pub software: Option<String>,
    pub device: Option<String>,
}

impl fmt::Debug for Request2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authenticate(authenticate) => authenticate.fmt(f),
            Self::Response(_) => f.write_str("Response"),
            Self::Abort => f.write_str("Abort"),
            Self::Next(task) => f.debug_tuple("Next").field(task).finish(),
            Self::TaskData(_) => f.write_str("TaskData"),
        }
    }
}

impl fmt::Debug for Authenticate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticate")
            .field("mechanism", &self.mechanism)
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}

impl Request2 {
    /// `None`: the element is not one of XEP-0388.
    ///
    /// XEP-0388, section 2.2: "To indicate the absence of an initial response, or the absence of success data, the element is simply not
    /// included." White space around the data, as in its examples, is taken.
    pub fn read(element: &Element) -> Option<Result<Self, SaslFailure>> {
        if element.namespace() != ns::SASL2 {
            return None;
        }
        let request = match element.name() {
            "authenticate" => Authenticate::read(element).map(|request| Self::Authenticate(Box::new(request))),
            "response" => data(element).map(Self::Response),
            "abort" => Ok(Self::Abort),
            "next" => Ok(Self::Next(element.attribute("task").unwrap_or_default().chars().take(TASK_CHARS).collect())),
            "task-data" => Ok(Self::TaskData(Box::new(element.clone()))),
            _ => return None,
        };
        Some(request)
    }
}

impl Authenticate {
    fn read(element: &Element) -> Result<Self, SaslFailure> {
        let mut request = Self {
            mechanism: element.attribute("mechanism").unwrap_or_default().to_owned(),
            data: element.child("initial-response", ns::SASL2).map(data).transpose()?,
            agent: element.child("user-agent", ns::SASL2).map(UserAgent::read),
            bind: None,
            fast: None,
            wants_token: None,
            upgrades: Vec::new(),
            others: Vec::new(),
        };
        for child in element.children().filter(|child| child.namespace() != ns::SASL2) {
            if let Some(bind) = Bind::read(child) {
                request.bind = Some(bind);
            } else if let Some(fast) = Fast::read(child) {
                request.fast = Some(fast);
            } else if let Some(mechanism) = requested(child) {
                request.wants_token = Some(mechanism);
            } else if let Some(hash) = Upgrade::requested(child) {
                if !request.upgrades.contains(&hash) {
                    request.upgrades.push(hash);
                }
            } else {
                request.others.push(child.clone());
            }
        }
        Ok(request)
    }

    /// A request of another extension.
    pub fn other(&self, name: &str, namespace: &str) -> Option<&Element> {
        self.others.iter().find(|other| other.is(name, namespace))
    }
}

impl UserAgent {
    fn read(element: &Element) -> Self {
        let text = |name| {
            let text = element.child(name, ns::SASL2)?.text();
            let text: String = text.trim().chars().filter(|c| !c.is_control()).take(AGENT_CHARS).collect();
            Some(text).filter(|text| !text.is_empty())
        };
        let id = element.attribute("id").filter(|id| is_uuid(id)).map(str::to_ascii_lowercase);
        Self { id, software: text("software"), device: text("device") }
    }
}

/// XEP-0388, section 2.3: "The contents of the 'id' attribute MUST be a UUID v4."
fn is_uuid(text: &str) -> bool {
    let is_right = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        14 => byte == b'4',
        19 => matches!(byte, b'8' | b'9' | b'a' | b'b' | b'A' | b'B'),
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.bytes().enumerate().all(is_right)
}

fn data(element: &Element) -> Result<Zeroizing<Vec<u8>>, SaslFailure> {
    let text = Zeroizing::new(element.text());
    let data = BASE64_STANDARD.decode(text.trim_matches([' ', '\t', '\r', '\n']));
    data.map(Zeroizing::new).map_err(|_| SaslFailure::IncorrectEncoding)
}

/// The features for signing in by XEP-0388.
#[derive(Debug, Clone, Copy)]
pub struct Features<'a> {
    pub offer: &'a Offer,
    /// The requests that `<bind/>` can take along, as features of XEP-0030. `None`: no resource is bound.
    pub bind: Option<&'a [&'static str]>,
    /// A stream can be resumed (XEP-0198).
    pub resumes: bool,
    /// Tokens are given (XEP-0484).
    pub fast: bool,
    /// Keys for these hash functions can be set (XEP-0480).
    pub upgrades: &'a [Hash],
}

impl Features<'_> {
    /// `<authentication/>`, for the stream's features. `None`: nothing is offered. [`Offer::bindings_element`] stands beside it.
    ///
    /// XEP-0388, section 2.1: it "MUST NOT be offered if not at least one mechanism can be provided". Section 3: "SASL2 MUST only be used by
    /// Clients or offered by Servers after TLS negotiation".
    pub fn element(&self) -> Option<Element> {
        let mut mechanisms = self.offer.mechanisms().map(Mechanism::name).peekable();
        if !self.offer.is_encrypted || mechanisms.peek().is_none() {
            return None;
        }
        let mechanism = |name| Element::new("mechanism", ns::SASL2).with_text(name);
        let inline = Element::new("inline", ns::SASL2)
            .with_children(self.resumes.then(|| Element::new("sm", ns::STREAM_MANAGEMENT)))
            .with_children(self.bind.map(bind::feature))
            .with_children(self.fast.then(|| fast::feature(TokenMechanism::offered(self.offer))));
        let has_inline = inline.children().next().is_some();
        let authentication = Element::new("authentication", ns::SASL2)
            .with_children(mechanisms.map(mechanism))
            .with_children(has_inline.then_some(inline))
            .with_children(self.upgrades.iter().copied().map(Upgrade::feature));
        Some(authentication)
    }
}

impl Step {
    /// The element of XEP-0388 for the client. `None`: it is not told of this step, or is told of it by [`success`] or
    /// [`continued`].
    pub fn element2(&self) -> Option<Element> {
        match self {
            Self::Challenge(data) => Some(Element::new("challenge", ns::SASL2).with_text(BASE64_STANDARD.encode(data))),
            Self::Failure(failure) => {
                Some(Element::new("failure", ns::SASL2).with_child(Element::new(failure.name(), ns::SASL)))
            }
            Self::Success { .. } | Self::Keys { .. } | Self::Password { .. } | Self::Token { .. } => None,
        }
    }
}

/// `<success/>`. `data`: that of [`Step::Success`], if the client has not had it with a task. `jid`: the user's address, with its resource
/// if one was bound. `answers`: those to the other requests. The stream's features follow it.
///
/// XEP-0388, section 2.6.1: "the Server sends a \<success/\> element, which contains an \<authorization-identifier/\> element containing the
/// negotiated identity - this is a bare JID, unless resource binding has occurred, in which case it is a full JID."
pub fn success(data: Option<&[u8]>, jid: &Jid, answers: impl IntoIterator<Item = Element>) -> Element {
    Element::new("success", ns::SASL2)
        .with_children(data.map(additional))
        .with_child(Element::new("authorization-identifier", ns::SASL2).with_text(jid.to_string()))
        .with_children(answers)
}

/// `<continue/>`: the client has proved who it is, and has to do this task.
pub fn continued(data: Option<&[u8]>, task: &str) -> Element {
    let task = Element::new("task", ns::SASL2).with_text(task);
    Element::new("continue", ns::SASL2)
        .with_children(data.map(additional))
        .with_child(Element::new("tasks", ns::SASL2).with_child(task))
}

fn additional(data: &[u8]) -> Element {
    Element::new("additional-data", ns::SASL2).with_text(BASE64_STANDARD.encode(data))
}

#[cfg(test)]
mod tests;
