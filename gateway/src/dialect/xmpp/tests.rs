//! Dialogs as plays: words of a client, words for it, and asks of the conversation.

mod ends;
mod pieces;
mod requests;
mod signing_in;
mod streams;

use std::{sync::LazyLock, time::Instant};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use carillon_proto::{
    credentials::{ClientKeys, decoy, new_credentials},
    pb::{client::Code, store::ScramCredentials},
};

use super::*;
use crate::{
    config::{GatewayConfig, XmppConfig, XmppTls},
    conversation::{Ask, Credential, Now, Rules, SignInAsk, Tell, Welcome},
};

/// The keys of the password `pencil`.
static KEYS: LazyLock<ScramCredentials> = LazyLock::new(|| new_credentials("pencil").expect("valid"));

pub(super) const HEADER: &str = "<?xml version='1.0'?><stream:stream to='im.example.com' version='1.0' xmlns='jabber:client' \
                                 xmlns:stream='http://etherx.jabber.org/streams'>";
const SASL: &str = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'";
const START_MS: u64 = 1_800_000_000_000;

pub(super) fn service(tls: XmppTls) -> std::sync::Arc<Service> {
    let xmpp = XmppConfig { enabled: true, domain: "im.example.com".to_owned(), tls, ..XmppConfig::default() };
    let config = GatewayConfig { xmpp, ..GatewayConfig::default() };
    let rules = std::sync::Arc::new(Rules::new(&config, [1; 32]).expect("loads"));
    std::sync::Arc::new(Service::new(&config.xmpp, rules).expect("a domain"))
}

/// A client, and a conversation in which `juliet` has the password `pencil`.
struct Play {
    dialog: TcpDialog,
    now: Now,
    /// Bytes that were sent and not heard yet.
    unheard: Vec<u8>,
    /// Events that were heard, except for signs of life.
    heard: Vec<Heard>,
}

impl Play {
    fn new(tls: XmppTls) -> Self {
        let now = Now { instant: Instant::now(), unix_ms: START_MS };
        let dialog = TcpDialog::new(service(tls), Seed::new([7; 32]), now);
        Self { dialog, now, unheard: Vec::new(), heard: Vec::new() }
    }

    /// A client with a resource.
    fn bound() -> Self {
        let mut play = Self::new(XmppTls::Outside);
        play.signs_in("pencil");
        let bound = play.says(
            "<iq id='b' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>x</resource></bind></iq>",
        );
        assert!(bound.contains("<jid>juliet@im.example.com/x</jid>"), "{bound}");
        play.heard.clear();
        play
    }

    fn signs_in(&mut self, password: &str) {
        self.says(HEADER);
        let success = self.says(&plain(password));
        assert_eq!(success, format!("<success {SASL}/>"));
        let features = self.says(HEADER);
        assert!(features.contains("<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>"), "{features}");
    }

    /// Sends bytes, and returns what the client is told.
    fn says(&mut self, text: &str) -> String {
        self.bytes(text.as_bytes());
        self.told()
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.unheard.extend_from_slice(bytes);
        loop {
            let mut rest = &self.unheard[..];
            let heard = self.dialog.hear(&mut rest, self.now);
            let taken = self.unheard.len() - rest.len();
            self.unheard.drain(..taken);
            match heard {
                Some(heard) => self.performs(heard),
                None => break,
            }
        }
    }

    fn performs(&mut self, heard: Heard) {
        let check = match &heard {
            Heard::Ask(Ask::LookUp(user)) => {
                let keys = if user.as_str() == "juliet" { KEYS.clone() } else { decoy(&[1; 32], user.as_str()) };
                self.dialog.tell(Tell::Keys(Box::new(keys)))
            }
            Heard::Ask(Ask::SignIn(ask)) => {
                self.dialog.signed_in();
                self.dialog.tell(Tell::SignedIn(Box::new(Welcome::simple("juliet", &ask.device))))
            }
            _ => None,
        };
        if heard != Heard::Alive {
            self.heard.push(heard);
        }
        if let Some(heard) = check.and_then(|check| self.dialog.checked(check.run())) {
            self.performs(heard);
        }
    }

    fn told(&mut self) -> String {
        let told = String::from_utf8(self.dialog.out().to_vec()).expect("text");
        self.dialog.sent(told.len());
        told
    }

    fn bye(&mut self, code: Code) -> String {
        self.dialog.tell(Tell::Bye { code, reason: "why".to_owned(), again_ms: None, ended: None });
        self.told()
    }

    fn heard(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.heard)
    }
}

fn plain(password: &str) -> String {
    plain_as("juliet", password)
}

fn plain_as(user: &str, password: &str) -> String {
    let data = BASE64_STANDARD.encode(format!("\0{user}\0{password}"));
    format!("<auth {SASL} mechanism='PLAIN'>{data}</auth>")
}

/// The client's side of SCRAM-SHA-256 with this header of GS2, and the data of the channel binding.
struct Scram {
    gs2: &'static str,
    binding: Vec<u8>,
    user: &'static str,
}

impl Scram {
    fn begins(&self, mechanism: &str) -> String {
        let first = format!("{}n={},r=0123456789", self.gs2, self.user);
        format!("<auth {SASL} mechanism='{mechanism}'>{}</auth>", BASE64_STANDARD.encode(first))
    }

    fn proves(&self, challenge: &str, password: &str) -> String {
        let (_, data) = challenge.split_once('>').expect("a challenge");
        let (data, _) = data.split_once('<').expect("data");
        let challenge = String::from_utf8(BASE64_STANDARD.decode(data).expect("base64")).expect("text");
        let field = |name: &str| challenge.split(',').find_map(|field| field.strip_prefix(name)).expect("a field");
        let salt = BASE64_STANDARD.decode(field("s=")).expect("base64");
        let keys = ClientKeys::derive(password, &salt, field("i=").parse().expect("a number")).expect("derives");
        let bound = BASE64_STANDARD.encode([self.gs2.as_bytes(), &self.binding].concat());
        let without_proof = format!("c={bound},r={}", field("r="));
        let message = format!("n={},r=0123456789,{challenge},{without_proof}", self.user);
        let proof = BASE64_STANDARD.encode(keys.proof(message.as_bytes()));
        let response = BASE64_STANDARD.encode(format!("{without_proof},p={proof}"));
        format!("<response {SASL}>{response}</response>")
    }
}

fn failure(cause: &str) -> String {
    format!("<failure {SASL}><{cause}/></failure>")
}

/// Checks that the stream ends by this error.
fn ends_with(told: &str, condition: &str) {
    let error = format!("<stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>");
    assert!(told.contains(&error) && told.ends_with("</stream:stream>"), "not {condition}: {told}");
    assert!(told.contains("<stream:stream ") || !told.starts_with("<?xml"), "{told}");
}
