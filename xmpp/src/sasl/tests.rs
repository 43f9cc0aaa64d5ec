use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use proptest::prelude::*;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use super::*;
use crate::{Framing, error::StreamCondition};

const NONCE: &str = "3rfcNHYJY1ZVvWVs7j";

fn offer() -> Offer {
    Offer {
        host: "example.com".to_owned(),
        is_encrypted: true,
        bindings: ChannelBindings { exporter: Some(vec![7; 32]), server_end_point: Some(vec![8; 32]) },
        allowed: Mechanism::ALL.to_vec(),
    }
}

/// Without TLS, and so without data of channel binding.
fn plain_offer() -> Offer {
    Offer { is_encrypted: false, bindings: ChannelBindings::default(), ..offer() }
}

fn negotiation() -> Negotiation {
    Negotiation::new(offer())
}

fn keys(hash: Hash) -> Keys {
    Keys::derive(hash, "pencil", b"salt", 4096).expect("valid")
}

fn jid(text: &str) -> Jid {
    Jid::new(text).expect(text)
}

fn juliet() -> Jid {
    jid("juliet@example.com")
}

fn challenge(step: Step) -> String {
    match step {
        Step::Challenge(data) => String::from_utf8(data).expect("text"),
        other => panic!("{other:?}"),
    }
}

/// A client of SCRAM.
struct Client {
    hash: Hash,
    gs2: &'static str,
    name: &'static str,
    password: &'static str,
    binding: Vec<u8>,
}

impl Client {
    fn new(hash: Hash, gs2: &'static str) -> Self {
        Self { hash, gs2, name: "juliet", password: "pencil", binding: Vec::new() }
    }

    fn first(&self) -> String {
        format!("{}n={},r=fyko+d2lbbFgONRv9qkxdawL", self.gs2, self.name)
    }

    /// client-final-message, and the verdict that it expects.
    fn last(&self, server_first: &str) -> (String, String) {
        let mut fields = server_first.split(',');
        let mut field = |name: &str| fields.next().and_then(|field| field.strip_prefix(name)).expect(name).to_owned();
        let (nonce, salt, iterations) = (field("r="), field("s="), field("i=").parse().expect("a number"));
        let salt = BASE64_STANDARD.decode(salt).expect("base64");
        let hmac = |key: &[u8], message: &[u8]| match self.hash {
            Hash::Sha1 => {
                Hmac::<Sha1>::new_from_slice(key).expect("a key").chain_update(message).finalize().into_bytes().to_vec()
            }
            Hash::Sha256 => Hmac::<Sha256>::new_from_slice(key)
                .expect("a key")
                .chain_update(message)
                .finalize()
                .into_bytes()
                .to_vec(),
        };
        let mut salted = vec![0; self.hash.bytes()];
        match self.hash {
            Hash::Sha1 => pbkdf2::pbkdf2_hmac::<Sha1>(self.password.as_bytes(), &salt, iterations, &mut salted),
            Hash::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>(self.password.as_bytes(), &salt, iterations, &mut salted),
        }
        let client_key = hmac(&salted, b"Client Key");
        let stored_key = match self.hash {
            Hash::Sha1 => Sha1::digest(&client_key).to_vec(),
            Hash::Sha256 => Sha256::digest(&client_key).to_vec(),
        };
        let binding = BASE64_STANDARD.encode([self.gs2.as_bytes(), &self.binding].concat());
        let without_proof = format!("c={binding},r={nonce}");
        let first = self.first();
        let message = format!("{},{server_first},{without_proof}", &first[self.gs2.len()..]);
        let signature = hmac(&stored_key, message.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, signature)| key ^ signature).collect();
        let verdict = hmac(&hmac(&salted, b"Server Key"), message.as_bytes());
        (
            format!("{without_proof},p={}", BASE64_STANDARD.encode(proof)),
            format!("v={}", BASE64_STANDARD.encode(verdict)),
        )
    }

    fn sign_in(&self, negotiation: &mut Negotiation, mechanism: &str, keys: Keys) -> Step {
        match negotiation.start(mechanism, Some(self.first().as_bytes()), NONCE) {
            Step::Keys { user, hash } => assert_eq!((user, hash), (juliet(), self.hash)),
            other => return other,
        }
        let (last, verdict) = self.last(&challenge(negotiation.keys(&juliet(), keys)));
        let step = negotiation.respond(last.as_bytes());
        if let Step::Success { data, .. } = &step {
            assert_eq!(data.as_deref(), Some(verdict.as_bytes()), "the server has proved itself");
        }
        step
    }
}

fn success() -> impl Fn(&Step) -> bool {
    |step| matches!(step, Step::Success { user, .. } if *user == jid("juliet@example.com"))
}

/// RFC 5802, section 5, and RFC 7677, section 3.
#[test]
fn the_exchanges_are_those_of_the_rfcs() {
    for (mechanism, salt, nonces, proof, verdict) in [
        (
            "SCRAM-SHA-1",
            "QSXCR+Q6sek8bf92",
            ("fyko+d2lbbFgONRv9qkxdawL", "3rfcNHYJY1ZVvWVs7j"),
            "v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            "rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        ),
        (
            "SCRAM-SHA-256",
            "W22ZaJ0SNY7soEsUEjb6gQ==",
            ("rOprNGfwEbeRWgbNEkqO", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"),
            "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        ),
    ] {
        let mut negotiation = negotiation();
        let first = format!("n,,n=user,r={}", nonces.0);
        let Step::Keys { user, hash } = negotiation.start(mechanism, Some(first.as_bytes()), nonces.1) else {
            panic!("keys")
        };
        assert_eq!(user, jid("user@example.com"));
        let keys = Keys::derive(hash, "pencil", &BASE64_STANDARD.decode(salt).expect("base64"), 4096).expect("valid");
        // As they come from the store.
        let keys = Keys::stored(hash, &keys.to_stored()).expect("sound");
        let challenge = challenge(negotiation.keys(&user, keys));
        assert_eq!(challenge, format!("r={}{},s={salt},i=4096", nonces.0, nonces.1));
        let last = format!("c=biws,r={}{},p={proof}", nonces.0, nonces.1);
        let step = negotiation.respond(last.as_bytes());
        assert_eq!(step, Step::Success { user, data: Some(format!("v={verdict}").into_bytes()) });
    }
}

#[test]
fn every_mechanism_of_scram_signs_in_and_refuses() {
    for (mechanism, gs2, binding) in [
        ("SCRAM-SHA-1", "n,,", &b""[..]),
        ("SCRAM-SHA-256", "n,,", b""),
        ("SCRAM-SHA-256", "n,a=juliet@example.com,", b""),
        ("SCRAM-SHA-1-PLUS", "p=tls-exporter,,", &[7; 32]),
        ("SCRAM-SHA-256-PLUS", "p=tls-exporter,,", &[7; 32]),
        ("SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,", &[8; 32]),
    ] {
        let hash = if mechanism.starts_with("SCRAM-SHA-256") { Hash::Sha256 } else { Hash::Sha1 };
        let client = Client { binding: binding.to_vec(), ..Client::new(hash, gs2) };
        let step = client.sign_in(&mut negotiation(), mechanism, keys(hash));
        assert!(success()(&step), "{mechanism} {gs2}: {step:?}");
        let wrong = Client { password: "Pencil", binding: binding.to_vec(), ..Client::new(hash, gs2) };
        let mut negotiation = negotiation();
        for keys in [keys(hash), Keys::decoy(hash, &[1; 32], "juliet")] {
            let step = wrong.sign_in(&mut negotiation, mechanism, keys);
            assert_eq!(step, Step::Failure(SaslFailure::NotAuthorized), "{mechanism} {gs2}");
        }
        // The client may try again, with the same mechanism or another one.
        let step = client.sign_in(&mut negotiation, mechanism, keys(hash));
        assert!(success()(&step), "{mechanism} {gs2}: {step:?}");
        // Who is signed in does not sign in again.
        let step = negotiation.start(mechanism, Some(client.first().as_bytes()), NONCE);
        assert_eq!(step, Step::Failure(SaslFailure::MalformedRequest));
        for step in [negotiation.respond(b"x"), negotiation.abort(), negotiation.token(Some(juliet()))] {
            assert!(matches!(step, Step::Failure(_)), "{step:?}");
            let step = negotiation.start(mechanism, Some(client.first().as_bytes()), NONCE);
            assert_eq!(step, Step::Failure(SaslFailure::MalformedRequest), "whatever comes between");
        }
    }
}

/// RFC 6120, section 6.4.2: "the receiving entity MUST discard the ongoing handshake and MUST process a new handshake".
#[test]
fn an_answer_that_comes_late_signs_nobody_else_in() {
    let late = Step::Failure(SaslFailure::TemporaryAuthFailure);
    let mut negotiation = negotiation();
    // Eve's password is right, and romeo's is asked for when that is known.
    negotiation.start("PLAIN", Some(b"\0eve\0pencil"), NONCE);
    negotiation.start("PLAIN", Some(b"\0romeo\0guess"), NONCE);
    assert_eq!(negotiation.checked(&jid("eve@example.com"), true), late);
    assert_eq!(negotiation.checked(&jid("romeo@example.com"), true), late, "that attempt is over");
    let client = Client::new(Hash::Sha256, "n,,");
    negotiation.start("SCRAM-SHA-256", Some(b"n,,n=eve,r=0123456789"), NONCE);
    negotiation.start("SCRAM-SHA-256", Some(client.first().as_bytes()), NONCE);
    assert_eq!(negotiation.keys(&jid("eve@example.com"), keys(Hash::Sha256)), late);
    negotiation.start("SCRAM-SHA-256", Some(client.first().as_bytes()), NONCE);
    assert_eq!(negotiation.keys(&juliet(), keys(Hash::Sha1)), late, "keys of another hash function");
}

#[test]
fn an_attempt_that_the_service_cannot_finish_fails() {
    let mut negotiation = negotiation();
    negotiation.start("PLAIN", Some(b"\0juliet\0pencil"), NONCE);
    let failure = SaslFailure::TemporaryAuthFailure;
    assert_eq!(negotiation.give_up(failure), Step::Failure(failure));
    assert_eq!(negotiation.checked(&juliet(), true), Step::Failure(failure), "that attempt is over");
    assert!(matches!(negotiation.start("PLAIN", Some(b"\0juliet\0pencil"), NONCE), Step::Password { .. }));
}

/// RFC 5802, section 6: "If the flag is set to "y" and the server supports channel binding, the server MUST fail authentication." "The server MUST
/// always validate the client's "c=" field."
#[test]
fn whoever_comes_between_is_noticed() {
    let fails = |offer: Offer, mechanism: &str, gs2: &'static str, binding: &[u8]| {
        let client = Client { binding: binding.to_vec(), ..Client::new(Hash::Sha256, gs2) };
        match client.sign_in(&mut Negotiation::new(offer), mechanism, keys(Hash::Sha256)) {
            Step::Failure(failure) => Some(failure),
            _ => None,
        }
    };
    let refused = Some(SaslFailure::NotAuthorized);
    // The list of mechanisms was changed on its way.
    assert_eq!(fails(offer(), "SCRAM-SHA-256", "y,,", b""), refused);
    // Without data of channel binding there is nothing to hide; the client may only think that there is none.
    assert_eq!(fails(plain_offer(), "SCRAM-SHA-256", "y,,", b""), None);
    let unbound = Offer { allowed: vec![Mechanism::ScramSha256], ..offer() };
    assert_eq!(fails(unbound, "SCRAM-SHA-256", "y,,", b""), None);
    // The connection is another one.
    assert_eq!(fails(offer(), "SCRAM-SHA-256-PLUS", "p=tls-exporter,,", &[9; 32]), refused);
    assert_eq!(fails(offer(), "SCRAM-SHA-256-PLUS", "p=tls-exporter,,", b""), refused);
    // The type is not there.
    assert_eq!(fails(offer(), "SCRAM-SHA-256-PLUS", "p=tls-unique,,", &[7; 32]), refused);
    let end_point = Offer { bindings: ChannelBindings { exporter: None, ..offer().bindings }, ..offer() };
    assert_eq!(fails(end_point, "SCRAM-SHA-256-PLUS", "p=tls-exporter,,", &[7; 32]), refused);
    // The mechanism and the flag do not fit.
    for (mechanism, gs2) in
        [("SCRAM-SHA-256-PLUS", "n,,"), ("SCRAM-SHA-256", "p=tls-exporter,,"), ("SCRAM-SHA-256", "x,,")]
    {
        assert_eq!(fails(offer(), mechanism, gs2, &[7; 32]), Some(SaslFailure::MalformedRequest), "{mechanism} {gs2}");
    }
    // Another header or nonce than at first.
    let mut negotiation = negotiation();
    let client = Client::new(Hash::Sha256, "n,,");
    negotiation.start("SCRAM-SHA-256", Some(client.first().as_bytes()), NONCE);
    let first = challenge(negotiation.keys(&juliet(), keys(Hash::Sha256)));
    let (last, _) = Client::new(Hash::Sha256, "y,,").last(&first);
    assert_eq!(negotiation.respond(last.as_bytes()), Step::Failure(SaslFailure::NotAuthorized));
    negotiation.start("SCRAM-SHA-256", Some(client.first().as_bytes()), NONCE);
    let first = challenge(negotiation.keys(&juliet(), keys(Hash::Sha256)));
    let (last, _) = client.last(&first.replace(NONCE, "another"));
    assert_eq!(negotiation.respond(last.as_bytes()), Step::Failure(SaslFailure::NotAuthorized));
}

/// RFC 6120, section 6.3.8: "if not, the receiving entity MUST return an \<invalid-authzid/\> SASL error".
#[test]
fn nobody_signs_in_as_somebody_else() {
    for authzid in [
        "romeo@example.com",
        "juliet@example.net",
        "juliet@example.com/balcony",
        "example.com",
        "juliet",
        "a b@example.com",
    ] {
        let mut negotiation = negotiation();
        let plain = format!("{authzid}\0juliet\0pencil");
        let refused = Step::Failure(SaslFailure::InvalidAuthzid);
        assert_eq!(negotiation.start("PLAIN", Some(plain.as_bytes()), NONCE), refused, "{authzid}");
        let scram = format!("n,a={authzid},n=juliet,r=0123456789");
        assert_eq!(negotiation.start("SCRAM-SHA-1", Some(scram.as_bytes()), NONCE), refused, "{authzid}");
        let bearer = format!("n,a={authzid},\x01auth=Bearer token\x01\x01");
        let step = match negotiation.start("OAUTHBEARER", Some(bearer.as_bytes()), NONCE) {
            Step::Token { user, .. } => {
                assert_eq!(user, Some(jid(authzid)));
                negotiation.token(Some(jid("juliet@example.com")))
            }
            step => step,
        };
        assert_eq!(step, refused, "{authzid}");
    }
    let own = b"Juliet@EXAMPLE.com\0Juliet\0pencil";
    assert!(
        matches!(negotiation().start("PLAIN", Some(own), NONCE), Step::Password { user, .. } if user == jid("juliet@example.com"))
    );
    for name in ["juliet@example.net", "a b", "a/b", "\u{7}"] {
        let plain = format!("\0{name}\0pencil");
        assert_eq!(
            negotiation().start("PLAIN", Some(plain.as_bytes()), NONCE),
            Step::Failure(SaslFailure::NotAuthorized),
            "{name}"
        );
    }
}

#[test]
fn plain_compares_a_password_with_the_keys() {
    let keys = keys(Hash::Sha256);
    for (password, is_right) in
        [("pencil", true), ("pencil\u{ad}", true), ("Pencil", false), ("\u{7}", false), (&*"x".repeat(1025), false)]
    {
        let mut negotiation = negotiation();
        let message = format!("\0juliet\0{password}");
        let Step::Password { user, password } = negotiation.start("PLAIN", Some(message.as_bytes()), NONCE) else {
            panic!("{message}")
        };
        assert!(!format!("{password:?}").contains("encil"));
        assert_eq!(keys.accepts(password.as_str()), is_right, "{message}");
        let expected =
            if is_right { Step::Success { user, data: None } } else { Step::Failure(SaslFailure::NotAuthorized) };
        assert_eq!(negotiation.checked(&juliet(), is_right), expected);
    }
    assert!(!Keys::decoy(Hash::Sha256, &[1; 32], "juliet").accepts("wrong"));
    for malformed in
        [&b""[..], b"juliet", b"\0juliet", b"\0juliet\0", b"\0\0pencil", b"\0juliet\0pencil\0", b"\0juliet\0\xff"]
    {
        let step = negotiation().start("PLAIN", Some(malformed), NONCE);
        assert_eq!(step, Step::Failure(SaslFailure::MalformedRequest), "{malformed:?}");
    }
}

/// RFC 7628, section 4.
#[test]
fn tokens_are_those_of_rfc_7628() {
    let message = b"n,a=juliet@example.com,\x01host=server.example.com\x01port=143\x01auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01";
    let mut negotiation = negotiation();
    for is_valid in [false, true] {
        let Step::Token { user, token } = negotiation.start("OAUTHBEARER", Some(message), NONCE) else {
            panic!("a token")
        };
        assert_eq!(
            (user, token.as_str()),
            (Some(jid("juliet@example.com")), "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==")
        );
        if is_valid {
            let success = Step::Success { user: jid("juliet@example.com"), data: None };
            assert_eq!(negotiation.token(Some(jid("juliet@example.com"))), success);
        } else {
            assert_eq!(challenge(negotiation.token(None)), "{\"status\":\"invalid_token\"}");
            assert_eq!(negotiation.respond(b"\x01"), Step::Failure(SaslFailure::NotAuthorized));
        }
    }
    let mut negotiation = super::tests::negotiation();
    let without = b"n,,\x01auth=bearer  abc\x01\x01";
    assert!(
        matches!(negotiation.start("OAUTHBEARER", Some(without), NONCE), Step::Token { user: None, token } if token.as_str() == "abc")
    );
    assert!(
        matches!(negotiation.token(Some(jid("romeo@example.com"))), Step::Success { user, .. } if user == jid("romeo@example.com"))
    );
    for malformed in [
        &b"\x01"[..],
        b"",
        b"n,,",
        b"n,,\x01\x01",
        b"n,,\x01auth=Bearer\x01\x01",
        b"n,,\x01auth=Basic abc\x01\x01",
        b"n,,\x01auth=Bearer abc\x01",
        b"n,,\x01auth=Bearer a b\x01\x01",
        b"n,,\x01auth=Bearer a\x01auth=Bearer b\x01\x01",
        b"n,,auth=Bearer abc\x01\x01",
        b"p=tls-exporter,,\x01auth=Bearer abc\x01\x01",
        b"n,,\x01host\x01auth=Bearer abc\x01\x01",
    ] {
        let step = super::tests::negotiation().start("OAUTHBEARER", Some(malformed), NONCE);
        assert_eq!(step, Step::Failure(SaslFailure::MalformedRequest), "{}", String::from_utf8_lossy(malformed));
    }
}

/// RFC 6120, section 6.3.4: the server "MUST NOT advertise that mechanism in its list of available SASL mechanisms before TLS negotiation has been
/// completed".
#[test]
fn secrets_are_only_for_encrypted_streams() {
    let names = |offer: &Offer| offer.mechanisms().map(Mechanism::name).collect::<Vec<_>>();
    let all = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-1", "OAUTHBEARER", "PLAIN"];
    assert_eq!(names(&offer()), all);
    assert_eq!(names(&plain_offer()), ["SCRAM-SHA-256", "SCRAM-SHA-1"]);
    assert_eq!(
        plain_offer().element().text_for(Framing::Tcp),
        "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-256</mechanism><mechanism>SCRAM-SHA-1</mechanism></mechanisms>"
    );
    assert_eq!(
        offer().bindings_element().map(|element| element.text_for(Framing::Tcp)).as_deref(),
        Some(
            "<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'><channel-binding type='tls-exporter'/>\
             <channel-binding type='tls-server-end-point'/></sasl-channel-binding>"
        )
    );
    assert_eq!(plain_offer().bindings_element(), None);
    let start =
        |offer: Offer, mechanism: &str| Negotiation::new(offer).start(mechanism, Some(b"\0juliet\0pencil"), NONCE);
    for mechanism in ["PLAIN", "OAUTHBEARER"] {
        assert_eq!(start(plain_offer(), mechanism), Step::Failure(SaslFailure::EncryptionRequired));
    }
    for mechanism in ["SCRAM-SHA-256-PLUS", "CRAM-MD5", "plain", ""] {
        assert_eq!(start(plain_offer(), mechanism), Step::Failure(SaslFailure::InvalidMechanism), "{mechanism}");
    }
}

/// RFC 6120, section 6.3.10: "clients and servers MUST support the less efficient modes as well". Section 6.4.2: "the receiving entity MUST discard
/// the ongoing handshake and MUST process a new handshake". Section 6.4.4: "Upon receiving an \<abort/\> element, the receiving entity MUST return a
/// \<failure/\> element".
#[test]
fn a_client_may_begin_later_begin_anew_and_give_up() {
    let mut negotiation = negotiation();
    let client = Client::new(Hash::Sha256, "n,,");
    assert_eq!(challenge(negotiation.start("SCRAM-SHA-256", None, NONCE)), "");
    assert!(matches!(negotiation.respond(client.first().as_bytes()), Step::Keys { .. }));
    assert_eq!(negotiation.abort(), Step::Failure(SaslFailure::Aborted));
    // What was given up is over.
    assert_eq!(negotiation.respond(b"c=biws"), Step::Failure(SaslFailure::MalformedRequest));
    assert!(matches!(negotiation.start("PLAIN", Some(b"\0juliet\0pencil"), NONCE), Step::Password { .. }));
    assert!(success()(&client.sign_in(&mut negotiation, "SCRAM-SHA-256", keys(Hash::Sha256))));
    // Answers to what was not asked are refused.
    let mut negotiation = super::tests::negotiation();
    for step in [
        negotiation.checked(&juliet(), true),
        negotiation.token(Some(jid("a@b"))),
        negotiation.keys(&juliet(), keys(Hash::Sha1)),
    ] {
        assert_eq!(step, Step::Failure(SaslFailure::TemporaryAuthFailure));
    }
}

/// RFC 6120, section 6.4.5: "If the initiating entity exceeds the number of retries, the receiving entity MUST close the stream with a stream
/// error, which SHOULD be \<policy-violation/\>".
#[test]
fn too_many_failures_end_the_stream() {
    let mut negotiation = negotiation();
    for _ in 0..5 {
        assert_eq!(negotiation.refusal(), None);
        negotiation.start("PLAIN", Some(b"x"), NONCE);
    }
    assert_eq!(negotiation.refusal().map(|error| error.condition), Some(StreamCondition::PolicyViolation));
}

/// RFC 5802, section 5.1: "its presence in a client or a server message MUST cause authentication failure"; "Unknown optional extensions MUST be
/// ignored upon receipt"; "the server MUST fail the authentication".
#[test]
fn messages_of_scram_have_their_form() {
    for malformed in [
        "n,,m=x,n=juliet,r=0123456789",
        "n,,n=juliet,r=0123456789,m=x",
        "n,,n=al=ice,r=0123456789",
        "n,,n=juliet",
        "n,,n=juliet,r=short",
        "n,juliet@example.com,n=juliet,r=0123456789",
        "p=,,n=juliet,r=0123456789",
        "n=juliet,r=0123456789",
        "",
    ] {
        let step = negotiation().start("SCRAM-SHA-1", Some(malformed.as_bytes()), NONCE);
        assert_eq!(step, Step::Failure(SaslFailure::MalformedRequest), "{malformed}");
    }
    let mut negotiation = negotiation();
    let step = negotiation.start("SCRAM-SHA-1", Some(b"n,,n=juliet,r=0123456789,x=unknown"), NONCE);
    assert!(matches!(step, Step::Keys { .. }), "{step:?}");
    negotiation.keys(&juliet(), keys(Hash::Sha1));
    let step = negotiation.respond(format!("c=biws,r=0123456789{NONCE},m=x,p=AAAA").as_bytes());
    assert_eq!(step, Step::Failure(SaslFailure::MalformedRequest));
    for malformed in ["", "c=biws", "c=biws,p=AAAA", "c=!,r=x,p=AAAA", "c=biws,r=x,p=A"] {
        negotiation.start("SCRAM-SHA-1", Some(b"n,,n=juliet,r=0123456789"), NONCE);
        negotiation.keys(&juliet(), keys(Hash::Sha1));
        assert_eq!(
            negotiation.respond(malformed.as_bytes()),
            Step::Failure(SaslFailure::MalformedRequest),
            "{malformed}"
        );
    }
}

proptest! {
    #[test]
    fn no_message_signs_in_without_the_password(
        bytes: Vec<u8>,
        text in "(n|y|p=tls-exporter)?,?(a=)?,?n=[a=2C,]{0,8},?(r=[!-~]{0,20})?(,p=[A-Za-z=]{0,8})?",
        mechanism in 0..6usize,
    ) {
        for message in [&*bytes, text.as_bytes()] {
            let mut negotiation = negotiation();
            let mechanism = Mechanism::ALL[mechanism];
            let mut step = negotiation.start(mechanism.name(), Some(message), NONCE);
            for _ in 0..3 {
                step = match step {
                    Step::Keys { user, hash } => negotiation.keys(&user, Keys::decoy(hash, &[1; 32], "a")),
                    Step::Password { user, .. } => negotiation.checked(&user, false),
                    Step::Token { .. } => negotiation.token(None),
                    Step::Challenge(_) => negotiation.respond(message),
                    step => step,
                };
            }
            prop_assert!(matches!(step, Step::Failure(_)), "{:?}", step);
        }
    }
}
