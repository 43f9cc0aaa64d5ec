//! Mechanisms whose messages show a secret: PLAIN and OAUTHBEARER.

use super::*;
use crate::Framing;

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
    let mut negotiation = super::negotiation();
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
        let step = super::negotiation().start("OAUTHBEARER", Some(malformed), NONCE);
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
