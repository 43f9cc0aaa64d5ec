//! Several domains on one service: each with keys of its own, and nothing crosses between them unless it is allowed.

mod support;

use std::{
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use support::service::{Carrier, Service};

const ACME: &str = "the-secret-of-acme-of-at-least-32-bytes";
const PARTNER: &str = "the-secret-of-partner-of-at-least-32-bytes";

fn token(secret: &str, sub: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = serde_json::json!({"sub": sub, "iat": now, "exp": now + 3600});
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).expect("signs")
}

/// Runs `carillon` with this token. Ok: what it printed; an error: what it complained of.
fn carillon(service: &Service, carrier: Carrier, token: &str, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.args(args).env("CARILLON_URL", service.address(carrier).to_string()).env("CARILLON_TOKEN", token);
    let output = command.output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[test]
fn users_of_a_domain_reach_each_other_and_nobody_else_unless_it_is_allowed() {
    let domain = |name: &str, secret: &str| {
        format!("gateway.domains.{name:?}.jwt.keys = [{{ algorithm = \"HS256\", secret = {secret:?} }}]\n")
    };
    let service = Service::start(&format!(
        "{}{}router.crossings = [[\"\", \"partner.example\"]]\n",
        domain("acme.example", ACME),
        domain("partner.example", PARTNER)
    ));
    let send =
        |carrier, token: &str, from: &str, to: &str| carillon(&service, carrier, token, &["send", from, to, "hello"]);
    let (ann, bob) = ("ann@acme.example", "bob@acme.example");
    let (anns, bobs) = (token(ACME, "ann"), token(ACME, bob));
    // A local part names somebody else in each domain.
    let (default_ann, partner_ann) = (service.token("ann"), token(PARTNER, "ann"));
    for (carrier, own, name) in [
        (Carrier::Tcp, &anns, ann),
        (Carrier::WebSocketProto, &bobs, bob),
        (Carrier::Grpc, &default_ann, "ann"),
        (Carrier::Tcp, &partner_ann, "ann@partner.example"),
    ] {
        send(carrier, own, name, name).expect("signs in, and writes to itself");
    }
    send(Carrier::WebSocketProto, &anns, ann, bob).expect("both are of acme.example");

    let other_domain = |refused: Result<String, String>| {
        let why = refused.expect_err("refused");
        assert!(why.contains("is of a domain that this one does not talk to"), "{why}");
    };
    other_domain(send(Carrier::Tcp, &anns, ann, "ann"));
    other_domain(send(Carrier::WebSocketProto, &default_ann, "ann", bob));
    other_domain(send(Carrier::Grpc, &anns, ann, "ann@partner.example"));
    other_domain(send(Carrier::Tcp, &anns, ann, "somebody@nowhere.example"));
    send(Carrier::Tcp, &default_ann, "ann", "ann@partner.example").expect("allowed");
    send(Carrier::Tcp, &partner_ann, "ann@partner.example", "ann").expect("allowed");

    // Nobody gets into another domain by a token of the own one.
    for (token, name) in [(&anns, "ann"), (&anns, "ann@partner.example"), (&default_ann, ann), (&partner_ann, ann)] {
        let why = send(Carrier::Tcp, token, name, name).expect_err("refused");
        assert!(why.contains("CODE_UNAUTHENTICATED") || why.contains("token"), "{why}");
    }
    let foreign = token(ACME, "eve@partner.example");
    assert!(send(Carrier::Tcp, &foreign, "", "eve@partner.example").is_err());

    let group = |token: &str, user: &str, args: &[&str]| {
        carillon(&service, Carrier::Tcp, token, &[&["group", "--as", user], args].concat())
    };
    group(&anns, ann, &["create", "club@acme.example", "--open", "true", "--member", bob]).expect("made");
    group(&bobs, bob, &["send", "club@acme.example", "hello"]).expect("a member");
    other_domain(group(&default_ann, "ann", &["join", "club@acme.example"]));
    other_domain(group(&default_ann, "ann", &["show", "club@acme.example"]));
    other_domain(group(&anns, ann, &["add", "club@acme.example", "ann"]));
    other_domain(group(&anns, ann, &["create", "club"]));
    let made = group(&anns, ann, &["create"]).expect("made");
    assert!(made.trim().ends_with("@acme.example was made"), "{made}");

    let contact = |token: &str, user: &str, args: &[&str]| {
        carillon(&service, Carrier::Tcp, token, &[&["contact", "--as", user], args].concat())
    };
    contact(&anns, ann, &["add", bob]).expect("both are of acme.example");
    other_domain(contact(&anns, ann, &["add", "ann"]));
    other_domain(contact(&anns, ann, &["accept", "ann@partner.example"]));
    contact(&default_ann, "ann", &["add", "ann@partner.example"]).expect("allowed");
}
