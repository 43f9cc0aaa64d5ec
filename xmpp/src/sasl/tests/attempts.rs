//! Attempts to sign in, by any mechanism: their order, their end and their user.

use proptest::prelude::*;

use super::{scram::Client, *};
use crate::error::StreamCondition;

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
    // An attempt that was given up is over.
    assert_eq!(negotiation.respond(b"c=biws"), Step::Failure(SaslFailure::MalformedRequest));
    assert!(matches!(negotiation.start("PLAIN", Some(b"\0juliet\0pencil"), NONCE), Step::Password { .. }));
    assert!(success()(&client.sign_in(&mut negotiation, "SCRAM-SHA-256", keys(Hash::Sha256))));
    // Answers to what was not asked are refused.
    let mut negotiation = super::negotiation();
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
