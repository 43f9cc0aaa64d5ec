#![no_main]
//! Two messages of a client that signs in, as bytes and in their elements. The first byte is the mechanism.

use carillon_xmpp::{
    Element, Jid,
    sasl::{ChannelBindings, Keys, Mechanism, Negotiation, Offer, Request, Request2, Step, TokenMechanism},
    stream::Limits,
};

libfuzzer_sys::fuzz_target!(|given: (u8, &[u8], &[u8])| {
    let (kind, first, second) = given;
    let offer = Offer {
        host: "example.com".to_owned(),
        is_encrypted: true,
        bindings: ChannelBindings { exporter: Some(vec![7; 32]), server_end_point: None },
        allowed: Mechanism::ALL.to_vec(),
    };
    let mut negotiation = Negotiation::new(offer).protected();
    for mechanism in TokenMechanism::ALL {
        if let Ok((user, asked)) = negotiation.start_with_token(mechanism.name(), Some(second)) {
            assert!(matches!(negotiation.tokens(&user, asked, &[]), (Step::Failure(_), None)), "nobody has a token");
        }
    }
    let mechanism = Mechanism::ALL[usize::from(kind) % Mechanism::ALL.len()];
    let mut step = negotiation.start(mechanism.name(), (kind < 128).then_some(first), "3rfcNHYJY1ZVvWVs7j");
    for message in [first, second, first, second] {
        step = match step {
            Step::Keys { user, hash } => negotiation.keys(&user, Keys::decoy(hash, &[1; 32], "a")),
            Step::Password { user, .. } => negotiation.checked(&user, false),
            Step::Token { user, .. } => {
                // A user other than the one whom the client names.
                let other = Jid::new("nobody@example.com").expect("valid");
                negotiation.token(Some(other).filter(|other| user.is_some_and(|user| user != *other)))
            }
            Step::Challenge(_) => negotiation.respond(message),
            step => step,
        };
        assert!(!matches!(step, Step::Success { .. }), "nobody has this password");
    }
    if let Ok(text) = std::str::from_utf8(second)
        && let Ok(element) = Element::parse(text, &Limits::BEFORE_AUTHENTICATION)
    {
        let _ = (Request::read(&element), Request2::read(&element));
    }
});
