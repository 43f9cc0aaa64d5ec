//! The steps from the header to the resource.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use subtle::ConstantTimeEq as _;

use super::{
    Account, Credentials, Preferences, ServerFeatures, SignInError,
    exchange::{self, Binding, Exchange},
};
use crate::{
    Element, Framing, Jid, ns,
    sasl::{ChannelBindings, Hash, Mechanism, TokenMechanism, Upgrade},
    stream::Event,
};

const HASHES: [Hash; 2] = [Hash::Sha1, Hash::Sha256];

/// The next thing for the caller to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Wait for the next event.
    Wait,
    Send(String),
    /// Begin ns::TLS, then call [`SignIn::secured`]. The server's stream is a new one.
    StartTls,
    /// Send this to a new stream of the server, for a new parser.
    Restart(String),
    /// The client is in.
    Done(Box<SignedIn>),
}

/// The result of signing in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignedIn {
    /// The address with its resource.
    pub jid: Option<Jid>,
    /// The token and its end, as text (XEP-0484).
    pub token: Option<(String, String)>,
    /// The features of the stream.
    pub features: ServerFeatures,
}

enum State {
    Header,
    Features,
    Proceed,
    Sasl { exchange: Exchange, is_sasl2: bool },
    Bind,
    Session,
    Done,
}

/// A client on its way in.
pub struct SignIn {
    account: Account,
    preferences: Preferences,
    framing: Framing,
    nonce: String,
    /// The channel bindings of the connection. `None`: there is no TLS.
    bindings: Option<ChannelBindings>,
    is_authenticated: bool,
    state: State,
    signed_in: SignedIn,
}

impl SignIn {
    /// `nonce`: random printable ASCII without commas. `bindings`: the channel bindings of the TLS connection. `None`: there is no such connection yet.
    pub fn new(
        account: Account,
        preferences: Preferences,
        framing: Framing,
        nonce: &str,
        bindings: Option<ChannelBindings>,
    ) -> Self {
        let nonce = nonce.to_owned();
        let (state, signed_in) = (State::Header, SignedIn::default());
        Self { account, preferences, framing, nonce, bindings, is_authenticated: false, state, signed_in }
    }

    /// The client's header.
    ///
    /// The user is named inside TLS only (RFC 6120, section 4.7.1).
    pub fn header(&self) -> String {
        let (name, namespace) = match self.framing {
            Framing::Tcp => ("stream", ns::STREAMS),
            Framing::WebSocket => ("open", ns::FRAMING),
        };
        let mut header = Element::new(name, namespace).with("to", self.account.jid.domain().to_owned());
        if self.bindings.is_some() {
            header = header.with("from", self.account.jid.bare().to_owned());
        }
        header = header.with("version", "1.0").with_lang("en");
        match self.framing {
            Framing::Tcp => header.open_stream(),
            Framing::WebSocket => header.text_for(Framing::WebSocket),
        }
    }

    /// TLS has begun. Returns the header of the new stream.
    pub fn secured(&mut self, bindings: ChannelBindings) -> String {
        self.bindings = Some(bindings);
        self.state = State::Header;
        self.header()
    }

    /// The next event of the server's stream.
    pub fn hear(&mut self, event: &Event) -> Result<Act, SignInError> {
        match event {
            Event::Opened(_) if matches!(self.state, State::Header) => {
                self.state = State::Features;
                Ok(Act::Wait)
            }
            Event::Opened(_) => Err(SignInError::Unexpected("stream".to_owned())),
            Event::Stanza(stanza) => self.take(&stanza.element()),
            Event::Closed => Err(SignInError::Ended("closed".to_owned())),
            Event::Error(error) => Err(SignInError::Invalid(error.to_string())),
        }
    }

    fn take(&mut self, element: &Element) -> Result<Act, SignInError> {
        if element.is("error", ns::STREAMS) {
            return Err(SignInError::Ended(condition(element)));
        }
        match std::mem::replace(&mut self.state, State::Done) {
            State::Features => match ServerFeatures::read(element) {
                Some(features) => self.go_on(features),
                None => Err(unexpected(element)),
            },
            State::Proceed if element.is("proceed", ns::TLS) => Ok(Act::StartTls),
            State::Sasl { exchange, is_sasl2 } => self.step(exchange, is_sasl2, element),
            State::Bind if element.is("iq", ns::CLIENT) => self.bound(element),
            State::Session if element.is("iq", ns::CLIENT) => Ok(self.done()),
            _ => Err(unexpected(element)),
        }
    }

    /// Takes the features of the server.
    fn go_on(&mut self, features: ServerFeatures) -> Result<Act, SignInError> {
        self.signed_in.features = features;
        let features = &self.signed_in.features;
        if self.is_authenticated {
            return if self.signed_in.jid.as_ref().is_some_and(|jid| !jid.is_bare()) {
                Ok(self.done())
            } else if features.bind {
                self.state = State::Bind;
                let resource = self.account.resource.iter();
                let resource = resource.map(|resource| Element::new("resource", ns::BIND).with_text(resource));
                Ok(self.iq("bind", Element::new("bind", ns::BIND).with_children(resource)))
            } else {
                Err(SignInError::NotBound)
            };
        }
        if self.bindings.is_none() && features.starttls {
            self.state = State::Proceed;
            return Ok(self.send(&Element::new("starttls", ns::TLS)));
        }
        self.begin()
    }

    /// Begins to sign in.
    fn begin(&mut self) -> Result<Act, SignInError> {
        let features = &self.signed_in.features;
        let is_sasl2 = self.preferences.sasl2 && !features.mechanisms2.is_empty();
        let none = ChannelBindings::default();
        let bindings = self.bindings.as_ref().unwrap_or(&none);
        let (name, first, exchange) = if let Credentials::Token(mechanism, token) = &self.account.credentials {
            if !is_sasl2 || !features.inline.tokens.iter().any(|name| name == mechanism.name()) {
                return Err(SignInError::NoMechanism);
            }
            let (first, exchange) = exchange::with_token(&self.account, *mechanism, token, bindings)?;
            (mechanism.name(), first, exchange)
        } else {
            let offered = if is_sasl2 { &features.mechanisms2 } else { &features.mechanisms };
            let mechanism = features.choose(offered, &self.usable(), bindings).ok_or(SignInError::NoMechanism)?;
            let binding = Binding {
                name: features.binding(bindings).filter(|_| mechanism.binds()),
                bindings,
                is_offered: offered.iter().any(|name| name.ends_with("-PLUS")),
            };
            let announced = features.bindings.as_ref();
            let lists = (
                offered.iter().map(String::as_str).collect(),
                announced.map(|announced| announced.iter().map(String::as_str).collect()),
            );
            let (first, exchange) = exchange::begin(&self.account, mechanism, &binding, &self.nonce, lists)?;
            (mechanism.name(), first, exchange)
        };
        let request = if is_sasl2 {
            self.authenticate(name, &first)
        } else {
            let auth = Element::new("auth", ns::SASL).with("mechanism", name);
            auth.with_text(BASE64_STANDARD.encode(first))
        };
        self.state = State::Sasl { exchange, is_sasl2 };
        Ok(self.send(&request))
    }

    /// The mechanisms that fit the credentials and the connection.
    fn usable(&self) -> Vec<Mechanism> {
        let fits = |mechanism: &&Mechanism| match (&self.account.credentials, mechanism) {
            (Credentials::Password(_), Mechanism::Plain) => self.bindings.is_some(),
            (Credentials::Password(_), mechanism) => mechanism.hash().is_some(),
            (Credentials::Bearer(_), mechanism) => **mechanism == Mechanism::OAuthBearer && self.bindings.is_some(),
            (Credentials::Token(..), _) => false,
        };
        self.preferences.mechanisms.iter().filter(fits).copied().collect()
    }

    fn authenticate(&self, mechanism: &'static str, first: &[u8]) -> Element {
        let features = &self.signed_in.features;
        let agent = self.account.agent.iter().map(|id| Element::new("user-agent", ns::SASL2).with("id", id.clone()));
        let bind = || {
            let tag = self.account.resource.iter().map(|tag| Element::new("tag", ns::BIND2).with_text(tag));
            Element::new("bind", ns::BIND2).with_children(tag)
        };
        let wanted = self
            .preferences
            .wants_token
            .filter(|wanted| features.inline.tokens.iter().any(|name| name == wanted.name()));
        let request = |wanted: TokenMechanism| Element::new("request-token", ns::FAST).with("mechanism", wanted.name());
        let fast = matches!(self.account.credentials, Credentials::Token(..));
        let upgrades = HASHES.into_iter().filter(|hash| {
            self.preferences.upgrades && features.inline.upgrades.iter().any(|task| task == Upgrade::task(*hash))
        });
        Element::new("authenticate", ns::SASL2)
            .with("mechanism", mechanism)
            .with_child(Element::new("initial-response", ns::SASL2).with_text(BASE64_STANDARD.encode(first)))
            .with_children(agent)
            .with_children(features.inline.bind.then(bind))
            .with_children(fast.then(|| Element::new("fast", ns::FAST)))
            .with_children(wanted.map(request))
            .with_children(upgrades.map(Upgrade::feature))
    }

    /// A step of SASL.
    fn step(&mut self, exchange: Exchange, is_sasl2: bool, element: &Element) -> Result<Act, SignInError> {
        let namespace = if is_sasl2 { ns::SASL2 } else { ns::SASL };
        if element.namespace() != namespace {
            return Err(unexpected(element));
        }
        match (element.name(), exchange) {
            ("failure", _) => Err(SignInError::Refused(condition(element))),
            ("challenge", Exchange::Scram(scram)) => {
                let (last, verdict) = scram.answer(&decode(&element.text())?)?;
                self.state = State::Sasl { exchange: Exchange::Verdict(verdict), is_sasl2 };
                let response = Element::new("response", namespace).with_text(BASE64_STANDARD.encode(last));
                Ok(self.send(&response))
            }
            // RFC 7628, section 3.2.3: the client ends an exchange that has failed.
            ("challenge", Exchange::Nothing) => {
                self.state = State::Sasl { exchange: Exchange::Nothing, is_sasl2 };
                Ok(self.send(&Element::new("response", namespace).with_text("AQ==")))
            }
            ("success", exchange) if is_sasl2 => {
                let data = element.child("additional-data", ns::SASL2).map(Element::text);
                verify(exchange, data.as_deref())?;
                self.succeed(element)
            }
            ("success", exchange) => {
                verify(exchange, Some(&*element.text()).filter(|text| !text.is_empty()))?;
                self.is_authenticated = true;
                self.state = State::Header;
                Ok(Act::Restart(self.header()))
            }
            ("continue", exchange) if is_sasl2 => {
                let data = element.child("additional-data", ns::SASL2).map(Element::text);
                verify(exchange, data.as_deref())?;
                let tasks = element.child("tasks", ns::SASL2).ok_or(SignInError::Malformed)?;
                let task = tasks.child("task", ns::SASL2).map(Element::text).unwrap_or_default();
                let hash =
                    HASHES.into_iter().find(|hash| self.preferences.upgrades && Upgrade::task(*hash) == task.trim());
                let hash = hash.ok_or_else(|| unexpected(element))?;
                self.state = State::Sasl { exchange: Exchange::Task(hash), is_sasl2 };
                Ok(self.send(&Element::new("next", ns::SASL2).with("task", Upgrade::task(hash))))
            }
            ("task-data", Exchange::Task(hash)) if is_sasl2 => self.upgrade(hash, element),
            _ => Err(unexpected(element)),
        }
    }

    /// Signed in by XEP-0388.
    fn succeed(&mut self, success: &Element) -> Result<Act, SignInError> {
        let jid = success.child("authorization-identifier", ns::SASL2).map(|jid| jid.text());
        let jid = jid.and_then(|jid| Jid::new(jid.trim()).ok()).ok_or(SignInError::Malformed)?;
        if jid.bare() != self.account.jid.bare() {
            return Err(SignInError::Malformed);
        }
        self.signed_in.jid = Some(jid);
        let token = success.child("token", ns::FAST);
        self.signed_in.token =
            token.and_then(|token| Some((token.attribute("token")?.to_owned(), token.attribute("expiry")?.to_owned())));
        self.is_authenticated = true;
        // The features follow, on the same stream.
        self.state = State::Features;
        Ok(Act::Wait)
    }

    /// Makes keys of the password (XEP-0480, section 3).
    fn upgrade(&mut self, hash: Hash, data: &Element) -> Result<Act, SignInError> {
        let Credentials::Password(password) = &self.account.credentials else { return Err(unexpected(data)) };
        let salt = data.child("salt", ns::SCRAM_UPGRADE).ok_or(SignInError::Malformed)?;
        let iterations = salt.attribute("iterations").unwrap_or_default();
        let salted = exchange::salted(hash, password, &salt.text(), iterations)?;
        self.state = State::Sasl { exchange: Exchange::Nothing, is_sasl2: true };
        let answer = Element::new("hash", ns::SCRAM_UPGRADE).with_text(salted);
        Ok(self.send(&Element::new("task-data", ns::SASL2).with_child(answer)))
    }

    fn bound(&mut self, iq: &Element) -> Result<Act, SignInError> {
        let bind = iq.child("bind", ns::BIND).and_then(|bind| bind.child("jid", ns::BIND));
        let jid = bind.and_then(|jid| Jid::new(jid.text().trim()).ok()).ok_or(SignInError::NotBound)?;
        self.signed_in.jid = Some(jid);
        if self.signed_in.features.session {
            self.state = State::Session;
            return Ok(self.iq("session", Element::new("session", ns::SESSION)));
        }
        Ok(self.done())
    }

    fn done(&mut self) -> Act {
        self.state = State::Done;
        Act::Done(Box::new(self.signed_in.clone()))
    }

    fn iq(&self, id: &'static str, child: Element) -> Act {
        self.send(&Element::new("iq", ns::CLIENT).with("type", "set").with("id", id).with_child(child))
    }

    fn send(&self, element: &Element) -> Act {
        Act::Send(element.text_for(self.framing))
    }
}

/// Checks that the server has shown that it knows the secret.
fn verify(exchange: Exchange, data: Option<&str>) -> Result<(), SignInError> {
    match exchange {
        // The mechanism has no proof, or the client has checked it before the task.
        Exchange::Nothing | Exchange::Task(_) => Ok(()),
        // RFC 5802, section 3: "The client authenticates the server by computing the ServerSignature and comparing it to the value sent by the
        // server. If the two are equal, it proves that the server had access to the user's ServerKey."
        Exchange::Verdict(verdict) => {
            let given = decode(data.unwrap_or_default())?;
            if bool::from(given.ct_eq(&verdict)) { Ok(()) } else { Err(SignInError::Impostor) }
        }
        Exchange::Scram(_) => Err(SignInError::Impostor),
    }
}

fn decode(text: &str) -> Result<Vec<u8>, SignInError> {
    BASE64_STANDARD.decode(text.trim()).map_err(|_| SignInError::Malformed)
}

/// The name of the condition in an error or a failure.
fn condition(element: &Element) -> String {
    let condition = element.children().find(|child| child.name() != "text");
    condition.map_or_else(|| element.name().to_owned(), |condition| condition.name().to_owned())
}

fn unexpected(element: &Element) -> SignInError {
    SignInError::Unexpected(element.name().to_owned())
}
