//! A client and a server that talk to each other, text by text.

use proptest::prelude::*;

use super::*;
use crate::{
    Element, Framing, Jid,
    error::{StreamCondition, StreamError},
    ns,
    sasl::{
        Authenticate, ChannelBindings, Features, Hash, Keys, Negotiation, Offer, Request, Request2, Step, TokenIssuer,
        Upgrade, bound, continued, success,
    },
    stream::{Event, IqType, Limits, Opening, Stanza, TcpParser, WebSocketParser, closing},
};

const NONCE: &str = "3rfcNHYJY1ZVvWVs7j";
const AGENT: &str = "d4565fa7-4d72-4749-b3d3-740edbf87770";
const NOW_MS: u64 = 1_700_000_000_000;
const ISSUER: TokenIssuer<'static> = TokenIssuer { key: &[7; 32], user: "juliet", agent: AGENT, generation: 1 };

fn juliet() -> Jid {
    Jid::new("juliet@example.com").expect("an address")
}

fn bindings() -> ChannelBindings {
    ChannelBindings { exporter: Some(vec![7; 32]), server_end_point: Some(vec![8; 32]) }
}

enum Parser {
    Tcp(TcpParser),
    WebSocket(WebSocketParser),
}

impl Parser {
    fn new(framing: Framing) -> Self {
        match framing {
            Framing::Tcp => Self::Tcp(TcpParser::new(Limits::BEFORE_AUTHENTICATION)),
            Framing::WebSocket => Self::WebSocket(WebSocketParser::new(Limits::BEFORE_AUTHENTICATION)),
        }
    }

    /// The events of a text, which comes in pieces of so many bytes over TCP.
    fn events(&mut self, text: &str, pieces: usize) -> Vec<Event> {
        match self {
            Self::WebSocket(parser) => parser.message(text.as_bytes()).into_iter().collect(),
            Self::Tcp(parser) => {
                let mut events = Vec::new();
                for mut piece in text.as_bytes().chunks(pieces) {
                    while let Some(event) = parser.feed(&mut piece) {
                        events.push(event);
                    }
                }
                events
            }
        }
    }
}

/// A server that knows one user.
struct Server {
    framing: Framing,
    offer: Offer,
    /// The channel bindings after STARTTLS. `None`: the server does not offer it.
    after_tls: Option<ChannelBindings>,
    has_sasl2: bool,
    upgrades: Vec<Hash>,
    /// The server says that it knows everybody, without a proof.
    is_impostor: bool,
    negotiation: Negotiation,
    parser: Parser,
    request: Option<Authenticate>,
    user: Option<Jid>,
    /// Keys that the client has set.
    set: Vec<Keys>,
    mechanisms: Vec<String>,
}

impl Server {
    fn new(framing: Framing, has_sasl2: bool, is_encrypted: bool) -> Self {
        let offer = Offer {
            host: "example.com".to_owned(),
            is_encrypted,
            bindings: if is_encrypted { bindings() } else { ChannelBindings::default() },
            allowed: Mechanism::ALL.to_vec(),
        };
        Self {
            framing,
            negotiation: Negotiation::new(offer.clone()).with_from(Some(&juliet())).protected(),
            offer,
            after_tls: None,
            has_sasl2,
            upgrades: Vec::new(),
            is_impostor: false,
            parser: Parser::new(framing),
            request: None,
            user: None,
            set: Vec::new(),
            mechanisms: Vec::new(),
        }
    }

    fn text(&self, element: &Element) -> String {
        element.text_for(self.framing)
    }

    fn hear(&mut self, text: &str, pieces: usize) -> Vec<String> {
        let events = self.parser.events(text, pieces);
        assert!(!events.is_empty(), "{text}");
        events.into_iter().flat_map(|event| self.event(event)).collect()
    }

    fn event(&mut self, event: Event) -> Vec<String> {
        match event {
            Event::Opened(header) => {
                assert_eq!(header.from.is_some(), self.offer.is_encrypted, "the user is named inside TLS only");
                let opening = Opening { from: "example.com", id: "1", lang: "en" };
                vec![opening.text(Some(&header), self.framing), self.text(&self.features())]
            }
            Event::Stanza(stanza) => self.stanza(&stanza),
            other => panic!("{other:?}"),
        }
    }

    fn features(&self) -> Element {
        let features = Element::new("features", ns::STREAMS);
        if self.user.is_some() {
            return features.with_child(Element::new("bind", ns::BIND));
        }
        let sasl2 = Features {
            offer: &self.offer,
            bind: Some(&["urn:xmpp:carbons:2"]),
            resumes: true,
            fast: true,
            upgrades: &self.upgrades,
        };
        features
            .with_children(self.after_tls.is_some().then(|| Element::new("starttls", ns::TLS)))
            .with_child(self.offer.element())
            .with_children(self.offer.bindings_element())
            .with_children(if self.has_sasl2 { sasl2.element() } else { None })
    }

    fn stanza(&mut self, stanza: &Stanza) -> Vec<String> {
        let element = stanza.element();
        if element.is("starttls", ns::TLS) {
            self.offer.bindings = self.after_tls.take().expect("offered");
            self.offer.is_encrypted = true;
            self.negotiation = Negotiation::new(self.offer.clone()).with_from(Some(&juliet())).protected();
            self.parser = Parser::new(self.framing);
            return vec![self.text(&Element::new("proceed", ns::TLS))];
        }
        if let Some(request) = Request::read(&element) {
            let step = match request.expect("valid") {
                Request::Auth { mechanism, data } => {
                    self.mechanisms.push(mechanism.clone());
                    self.negotiation.start(&mechanism, data.as_ref().map(|data| &***data), NONCE)
                }
                Request::Response(data) => self.negotiation.respond(&data),
                Request::Abort => self.negotiation.abort(),
            };
            let step = self.resolve(step);
            if let Step::Success { user, .. } = &step {
                self.user = Some(user.clone());
                self.parser = Parser::new(self.framing);
            }
            return vec![self.text(&step.element().expect("for the client"))];
        }
        if let Some(request) = Request2::read(&element) {
            return self.sasl2(request.expect("valid"));
        }
        assert_eq!(stanza.iq_type(), Ok(IqType::Set));
        let resource =
            element.child("bind", ns::BIND).and_then(|bind| bind.child("resource", ns::BIND)).map(Element::text);
        let user = self.user.clone().expect("signed in");
        let jid = user.with_resource(resource.as_deref().unwrap_or("server's")).expect("an address");
        let bind = Element::new("bind", ns::BIND).with_child(Element::new("jid", ns::BIND).with_text(jid.to_string()));
        let id = stanza.id().expect("an id").to_owned();
        vec![self.text(&Element::new("iq", ns::CLIENT).with("type", "result").with("id", id).with_child(bind))]
    }

    fn sasl2(&mut self, request: Request2) -> Vec<String> {
        let step = match request {
            Request2::Authenticate(request) => {
                self.mechanisms.push(request.mechanism.clone());
                let data = request.data.as_ref().map(|data| &***data);
                let step = match request.fast {
                    Some(_) => self.with_token(&request.mechanism, data),
                    None => self.negotiation.start(&request.mechanism, data, NONCE),
                };
                self.request = Some(*request);
                step
            }
            Request2::Response(data) => self.negotiation.respond(&data),
            Request2::Abort => self.negotiation.abort(),
            Request2::Next(task) => {
                let hash = self.upgrades.iter().copied().find(|hash| Upgrade::task(*hash) == task).expect("offered");
                return vec![self.text(&Upgrade::new(hash, vec![9; 16]).question())];
            }
            Request2::TaskData(data) => {
                let request = self.request.as_mut().expect("asked");
                let keys = Upgrade::new(request.upgrades.remove(0), vec![9; 16]).keys(&data);
                self.set.push(keys.expect("keys"));
                return self.succeed(None);
            }
        };
        match self.resolve(step) {
            Step::Success { user, data } => {
                self.user = Some(user);
                self.succeed(data.as_deref())
            }
            step => vec![self.text(&step.element2().expect("for the client"))],
        }
    }

    fn with_token(&mut self, mechanism: &str, data: Option<&[u8]>) -> Step {
        match self.negotiation.start_with_token(mechanism, data) {
            Ok((user, mechanism)) => {
                let tokens = if self.is_impostor { vec![] } else { ISSUER.valid(mechanism, NOW_MS) };
                self.negotiation.tokens(&user, mechanism, &tokens).0
            }
            Err(failure) => Step::Failure(failure),
        }
    }

    /// The client has proved who it is.
    fn succeed(&self, data: Option<&[u8]>) -> Vec<String> {
        let request = self.request.as_ref().expect("asked");
        if let Some(hash) = request.upgrades.first() {
            return vec![self.text(&continued(data, Upgrade::task(*hash)))];
        }
        let user = self.user.as_ref().expect("signed in");
        let mut answers = Vec::new();
        let mut jid = user.clone();
        if let Some(bind) = &request.bind {
            jid = user.with_resource(&bind.resource("4232f4d4")).expect("an address");
            answers.push(bound([]));
        }
        answers.extend(request.wants_token.map(|mechanism| ISSUER.element(mechanism, NOW_MS)));
        let features = Element::new("features", ns::STREAMS)
            .with_children(request.bind.is_none().then(|| Element::new("bind", ns::BIND)));
        vec![self.text(&success(data, &jid, answers)), self.text(&features)]
    }

    /// The step for the client.
    fn resolve(&mut self, step: Step) -> Step {
        let step = match step {
            Step::Keys { user, hash } => {
                let knows = user == juliet() && !self.is_impostor;
                let keys = Keys::derive(hash, "pencil", b"salt", 4096).expect("valid");
                self.negotiation.keys(&user, if knows { keys } else { Keys::decoy(hash, &[1; 32], "juliet") })
            }
            Step::Password { user, password } => {
                let is_right = user == juliet() && password.as_str() == "pencil";
                self.negotiation.checked(&user, is_right)
            }
            Step::Token { token, .. } => self.negotiation.token((token.as_str() == "bearer").then(juliet)),
            step => step,
        };
        match step {
            Step::Failure(_) if self.is_impostor => Step::Success { user: juliet(), data: Some(b"v=AAAA".to_vec()) },
            step => step,
        }
    }
}

fn account(credentials: Credentials) -> Account {
    Account { jid: juliet(), credentials, resource: Some("balcony".to_owned()), agent: Some(AGENT.to_owned()) }
}

fn password() -> Credentials {
    Credentials::Password("pencil".to_owned())
}

fn only(mechanism: Mechanism) -> Preferences {
    Preferences { mechanisms: vec![mechanism], ..Preferences::default() }
}

/// Lets the two talk. `between` may change what the server says.
fn play(
    server: &mut Server,
    credentials: Credentials,
    preferences: Preferences,
    pieces: usize,
    between: impl Fn(String) -> String,
) -> Result<SignedIn, SignInError> {
    let given = server.offer.is_encrypted.then(bindings);
    let mut client = SignIn::new(account(credentials), preferences, server.framing, NONCE, given);
    let mut parser = Parser::new(server.framing);
    let mut says = vec![client.header()];
    for _ in 0..32 {
        let heard: Vec<_> = says.drain(..).flat_map(|text| server.hear(&text, pieces)).map(&between).collect();
        for event in heard.iter().flat_map(|text| parser.events(text, pieces)).collect::<Vec<_>>() {
            match client.hear(&event)? {
                Act::Wait => {}
                Act::Send(text) => says.push(text),
                Act::StartTls => {
                    parser = Parser::new(server.framing);
                    says.push(client.secured(bindings()));
                }
                Act::Restart(text) => {
                    parser = Parser::new(server.framing);
                    says.push(text);
                }
                Act::Done(signed_in) => return Ok(*signed_in),
            }
        }
        assert!(!says.is_empty(), "neither says anything");
    }
    panic!("the two go on for ever")
}

#[test]
fn a_client_gets_in_by_every_mechanism_and_both_profiles() {
    for framing in [Framing::Tcp, Framing::WebSocket] {
        for has_sasl2 in [false, true] {
            for mechanism in Mechanism::ALL.iter().copied() {
                let credentials = match mechanism {
                    Mechanism::OAuthBearer => Credentials::Bearer("bearer".to_owned()),
                    _ => password(),
                };
                let mut server = Server::new(framing, has_sasl2, true);
                let signed_in = play(&mut server, credentials, only(mechanism), 7, |text| text).expect("in");
                let resource = if has_sasl2 { "balcony~4232f4d4" } else { "balcony" };
                assert_eq!(signed_in.jid, juliet().with_resource(resource).ok(), "{mechanism:?}");
                assert_eq!(server.mechanisms, [mechanism.name()]);
            }
        }
    }
}

#[test]
fn a_client_begins_tls_and_takes_the_strongest_mechanism() {
    let mut server = Server { after_tls: Some(bindings()), ..Server::new(Framing::Tcp, true, false) };
    assert!(play(&mut server, password(), Preferences::default(), 3, |text| text).is_ok());
    assert_eq!(server.mechanisms, ["SCRAM-SHA-256-PLUS"]);
    // Without TLS no secret is shown.
    let mut server = Server::new(Framing::Tcp, true, false);
    assert!(play(&mut server, password(), Preferences::default(), 3, |text| text).is_ok());
    assert_eq!(server.mechanisms, ["SCRAM-SHA-256"]);
    let refused = play(&mut Server::new(Framing::Tcp, true, false), password(), only(Mechanism::Plain), 3, |text| text);
    assert_eq!(refused, Err(SignInError::NoMechanism));
}

/// XEP-0484: a client gets a token by its password, and signs in by it.
#[test]
fn a_client_gets_a_token_and_comes_back_by_it() {
    for (at, mechanism) in TokenMechanism::ALL.iter().copied().enumerate() {
        let preferences = Preferences { wants_token: Some(mechanism), ..Preferences::default() };
        let signed_in =
            play(&mut Server::new(Framing::Tcp, true, true), password(), preferences, 9, |text| text).expect("in");
        let (token, expiry) = signed_in.token.expect("a token");
        assert!(expiry.ends_with('Z'));
        let back = |mechanism, token: &str, is_impostor| {
            let mut server = Server { is_impostor, ..Server::new(Framing::Tcp, true, true) };
            play(&mut server, Credentials::Token(mechanism, token.to_owned()), Preferences::default(), 9, |text| text)
        };
        assert!(back(mechanism, &token, false).is_ok_and(|signed_in| signed_in.jid.is_some()));
        let refused = Err(SignInError::Refused("credentials-expired".to_owned()));
        assert_eq!(back(mechanism, "other", false), refused);
        assert_eq!(back(TokenMechanism::ALL[(at + 1) % 3], &token, false), refused, "a token of another mechanism");
        assert!(back(mechanism, &token, true).is_err(), "a server that does not know it");
    }
}

/// XEP-0480: the keys that a client makes are those of its password.
#[test]
fn a_client_makes_keys_for_other_hash_functions() {
    let upgrades = vec![Hash::Sha1, Hash::Sha256];
    let mut server = Server { upgrades, ..Server::new(Framing::WebSocket, true, true) };
    let preferences = Preferences { upgrades: true, ..Preferences::default() };
    assert!(play(&mut server, password(), preferences, 9, |text| text).is_ok());
    assert_eq!(server.set.len(), 2);
    assert!(server.set.iter().all(|keys| keys.accepts("pencil") && !keys.accepts("Pencil")));
}

/// XEP-0474, section 6.2: "If the hashes do not match, the client MUST fail the authentication."
#[test]
fn a_client_notices_whoever_comes_between() {
    let between = |has_sasl2: bool, from: &'static str, to: &'static str| {
        let mut server = Server::new(Framing::Tcp, has_sasl2, true);
        play(&mut server, password(), Preferences::default(), 9, |text| text.replace(from, to))
    };
    for has_sasl2 in [false, true] {
        // The stronger mechanisms are gone, or the stronger binding.
        let sha256 =
            between(has_sasl2, "<mechanism>SCRAM-SHA-256-PLUS</mechanism><mechanism>SCRAM-SHA-256</mechanism>", "");
        assert_eq!(sha256, Err(SignInError::Downgraded));
        assert_eq!(between(has_sasl2, "<channel-binding type='tls-exporter'/>", ""), Err(SignInError::Downgraded));
        // No mechanism binds any more: the client says so, and the server refuses.
        let mut server = Server::new(Framing::Tcp, has_sasl2, true);
        let stripped = play(&mut server, password(), Preferences::default(), 9, |text| {
            text.replace("<mechanism>SCRAM-SHA-256-PLUS</mechanism>", "")
                .replace("<mechanism>SCRAM-SHA-1-PLUS</mechanism>", "")
        });
        assert_eq!(stripped, Err(SignInError::Refused("not-authorized".to_owned())));
        let wrong = Credentials::Password("Pencil".to_owned());
        let refused =
            play(&mut Server::new(Framing::Tcp, has_sasl2, true), wrong, Preferences::default(), 9, |text| text);
        assert_eq!(refused, Err(SignInError::Refused("not-authorized".to_owned())));
        let mut impostor = Server { is_impostor: true, ..Server::new(Framing::Tcp, has_sasl2, true) };
        let found = play(&mut impostor, password(), Preferences::default(), 9, |text| text);
        assert_eq!(found, Err(SignInError::Impostor));
        let bearer = Credentials::Bearer("stolen".to_owned());
        let refused =
            play(&mut Server::new(Framing::Tcp, has_sasl2, true), bearer, Preferences::default(), 9, |text| text);
        assert_eq!(refused, Err(SignInError::Refused("not-authorized".to_owned())));
    }
}

#[test]
fn a_client_says_why_it_did_not_get_in() {
    let mut client = SignIn::new(account(password()), Preferences::default(), Framing::Tcp, NONCE, None);
    assert_eq!(
        client.header(),
        "<?xml version='1.0'?><stream:stream to='example.com' version='1.0' xml:lang='en' xmlns='jabber:client' \
         xmlns:stream='http://etherx.jabber.org/streams'>"
    );
    let mut parser = Parser::new(Framing::Tcp);
    let opening = Opening { from: "example.com", id: "1", lang: "en" }.text(None, Framing::Tcp);
    let error = StreamError::new(StreamCondition::HostUnknown).element().text_for(Framing::Tcp);
    let events = parser.events(&format!("{opening}{error}{}", closing(Framing::Tcp)), 100);
    assert_eq!(client.hear(&events[0]), Ok(Act::Wait));
    assert_eq!(client.hear(&events[1]), Err(SignInError::Ended("host-unknown".to_owned())));
    assert_eq!(client.hear(&events[2]), Err(SignInError::Ended("closed".to_owned())));
    // Features of a server without anything, and an answer that nobody has asked for.
    let hear = |text: &str| {
        let mut client =
            SignIn::new(account(password()), Preferences::default(), Framing::Tcp, NONCE, Some(bindings()));
        let events = Parser::new(Framing::Tcp).events(&format!("{opening}{text}"), 100);
        events.iter().map(|event| client.hear(event)).find(Result::is_err)
    };
    assert_eq!(hear("<stream:features/>"), Some(Err(SignInError::NoMechanism)));
    assert_eq!(hear("<success xmlns='urn:xmpp:sasl:2'/>"), Some(Err(SignInError::Unexpected("success".to_owned()))));
    assert!(matches!(hear("<a></b>"), Some(Err(SignInError::Invalid(_)))));
    let scram = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1</mechanism></mechanisms></stream:features>";
    // The server has not shown that it knows the password.
    assert_eq!(
        hear(&format!("{scram}<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")),
        Some(Err(SignInError::Impostor))
    );
    for challenge in [
        "r=x,s=c2FsdA==,i=4096",
        "r=3rfcNHYJY1ZVvWVs7j,s=c2FsdA==,i=4096",
        "r=3rfcNHYJY1ZVvWVs7jx,s=,i=1",
        "r=3rfcNHYJY1ZVvWVs7jx,s=c2FsdA==,i=99999999",
        "m=x,r=3rfcNHYJY1ZVvWVs7jx,s=c2FsdA==,i=4096",
        "r=3rfcNHYJY1ZVvWVs7jx,s=c2FsdA==,i=4096,m=x",
        "",
    ] {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        let text = format!(
            "{scram}<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{}</challenge>",
            BASE64_STANDARD.encode(challenge)
        );
        assert_eq!(hear(&text), Some(Err(SignInError::Malformed)), "{challenge}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// The pieces in which the bytes of both sides come do not matter.
    #[test]
    fn a_client_gets_in_however_the_bytes_come(pieces in 1..600usize, has_sasl2: bool) {
        let mut server = Server::new(Framing::Tcp, has_sasl2, true);
        prop_assert!(play(&mut server, password(), only(Mechanism::ScramSha256Plus), pieces, |text| text).is_ok());
    }
}
