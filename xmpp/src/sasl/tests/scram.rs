//! SCRAM: its exchanges, the form of its messages, and attacks on the way.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use super::*;

/// A client of SCRAM.
pub(super) struct Client {
    hash: Hash,
    gs2: &'static str,
    name: &'static str,
    password: &'static str,
    binding: Vec<u8>,
}

impl Client {
    pub(super) fn new(hash: Hash, gs2: &'static str) -> Self {
        Self { hash, gs2, name: "juliet", password: "pencil", binding: Vec::new() }
    }

    pub(super) fn first(&self) -> String {
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

    pub(super) fn sign_in(&self, negotiation: &mut Negotiation, mechanism: &str, keys: Keys) -> Step {
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
        // A client that is signed in does not sign in again.
        let step = negotiation.start(mechanism, Some(client.first().as_bytes()), NONCE);
        assert_eq!(step, Step::Failure(SaslFailure::MalformedRequest));
        for step in [negotiation.respond(b"x"), negotiation.abort(), negotiation.token(Some(juliet()))] {
            assert!(matches!(step, Step::Failure(_)), "{step:?}");
            let step = negotiation.start(mechanism, Some(client.first().as_bytes()), NONCE);
            assert_eq!(step, Step::Failure(SaslFailure::MalformedRequest), "whatever comes between");
        }
    }
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
    // The header or the nonce is another one than at first.
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
