mod attempts;
mod scram;
mod secrets;

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::*;

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

fn success() -> impl Fn(&Step) -> bool {
    |step| matches!(step, Step::Success { user, .. } if *user == jid("juliet@example.com"))
}
