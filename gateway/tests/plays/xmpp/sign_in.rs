//! From the first byte to the resource, and how streams end.

use std::time::Duration;

use carillon_proto::pb::{
    client::server_frame,
    link::{Evict, FromRouter, evict::Why},
    store::session::Protocol,
};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::*;
use crate::{client::StreamClient, plays::in_time};

fn failure(cause: &str) -> String {
    format!("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><{cause}/></failure>")
}

const SUCCESS: &str = "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'";

#[tokio::test]
async fn by_starttls_a_client_signs_in_in_each_way() {
    let stage = Stage::new(XmppTls::Required).await;
    let mut client = stage.starttls().await;
    let features = client.opens().await;
    assert!(
        !features.contains("starttls") && features.contains("<mechanism>SCRAM-SHA-256-PLUS</mechanism>"),
        "{features}"
    );
    assert!(client.signs_in_by_plain("pencil").await.starts_with(SUCCESS));
    assert_eq!(client.binds("balcony").await, "juliet@im.example.com/balcony");
    client.pings().await;
    {
        let store = stage.world.store();
        let store = store.lock();
        let session = &store.sessions[&("juliet".to_owned(), "balcony".to_owned())];
        assert_eq!((session.protocol(), session.generation), (Protocol::Xmpp, 3));
    }

    let mut client = stage.starttls().await;
    client.opens().await;
    assert!(client.signs_in_by_scram("n,,", &[], "pencil").await.starts_with(SUCCESS));
    assert_eq!(client.binds("").await.len(), "juliet@im.example.com/12345678".len());
    client.pings().await;

    let mut client = stage.starttls().await;
    client.opens().await;
    let exporter = client.exporter().expect("TLS 1.3");
    assert!(client.signs_in_by_scram("p=tls-exporter,,", &exporter, "pencil").await.starts_with(SUCCESS));
    client.binds("orchard").await;
    stage.end().await;
}

#[tokio::test]
async fn inside_tls_a_client_signs_in_with_alpn_and_without() {
    let stage = Stage::new(XmppTls::Required).await;
    for alpn in [&["xmpp-client"][..], &[]] {
        let mut client = stage.direct(alpn).await;
        assert_eq!(client.alpn().as_deref(), alpn.first().map(|name| name.as_bytes()));
        client.opens().await;
        // The hash of the certificate, which is signed with SHA-256.
        let end_point = Sha256::digest(&stage.certificate);
        let told = client.signs_in_by_scram("p=tls-server-end-point,,", &end_point, "pencil").await;
        assert!(told.starts_with(SUCCESS), "{told}");
        client.binds("balcony").await;
        client.pings().await;
    }
    // With TLS 1.2 only the certificate binds.
    let client = XmppClient::connect(stage.world.gateway.xmpp_tls_address().expect("on")).await;
    let mut client = client.shakes(&stage.connector(&[], false)).await;
    let features = client.opens().await;
    assert!(features.contains("tls-server-end-point") && !features.contains("tls-exporter"), "{features}");
    // Somebody between has another connection.
    let mut client = stage.direct(&[]).await;
    client.opens().await;
    assert_eq!(client.signs_in_by_scram("p=tls-exporter,,", &[7; 32], "pencil").await, failure("not-authorized"));
    stage.end().await;
}

#[tokio::test]
async fn without_tls_a_client_signs_in_where_the_operator_allows_it() {
    let stage = Stage::new(XmppTls::Optional).await;
    let mut client = stage.plain().await;
    let features = client.opens().await;
    assert!(features.contains("<starttls ") && !features.contains("<required/>"), "{features}");
    assert_eq!(client.signs_in_by_plain("pencil").await, failure("encryption-required"));
    assert!(client.signs_in_by_scram("n,,", &[], "pencil").await.starts_with(SUCCESS));
    client.binds("balcony").await;
    client.pings().await;
    stage.end().await;

    // A proxy in front ends TLS.
    let stage = Stage::with(XmppTls::Outside, |config| config.tls = None).await;
    assert_eq!(stage.world.gateway.xmpp_tls_address(), None);
    let mut client = stage.plain().await;
    assert!(!client.opens().await.contains("starttls"));
    assert!(client.signs_in_by_plain("pencil").await.starts_with(SUCCESS));
    client.binds("balcony").await;
    client.pings().await;
    stage.end().await;
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_the_right_one_may_follow() {
    let stage = Stage::new(XmppTls::Required).await;
    let mut client = stage.starttls().await;
    client.opens().await;
    assert_eq!(client.signs_in_by_plain("wrong").await, failure("not-authorized"));
    assert_eq!(client.signs_in_by_scram("n,,", &[], "wrong").await, failure("not-authorized"));
    assert!(client.signs_in_by_scram("n,,", &[], "pencil").await.starts_with(SUCCESS));
    client.binds("balcony").await;
    let mut client = stage.starttls().await;
    client.opens().await;
    for _ in 0..5 {
        assert_eq!(client.signs_in_by_plain("wrong").await, failure("not-authorized"));
    }
    client.ends_by("policy-violation").await;
    stage.end().await;
}

#[tokio::test]
async fn too_many_wrong_passwords_of_an_address_are_not_looked_at() {
    let few = |config: &mut GatewayConfig| config.user_failed_sign_ins_burst = 2;
    let stage = Stage::with(XmppTls::Outside, few).await;
    let mut client = stage.plain().await;
    client.opens().await;
    for _ in 0..2 {
        assert_eq!(client.signs_in_by_plain("wrong").await, failure("not-authorized"));
    }
    assert_eq!(client.signs_in_by_plain("wrong").await, failure("temporary-auth-failure"));
    client.ends_by("policy-violation").await;
    stage.end().await;
}

#[tokio::test]
async fn a_newer_session_of_a_resource_ends_the_older_one() {
    let stage = Stage::with(XmppTls::Outside, |config| config.tls = None).await;
    let mut older = signed_in(&stage, "balcony").await;
    let mut other = signed_in(&stage, "orchard").await;
    let mut newer = signed_in(&stage, "balcony").await;
    older.ends_by("conflict").await;
    newer.pings().await;
    other.pings().await;
    // Natively the resource is a device as any other.
    let address = stage.world.gateway.tcp_address().expect("on");
    let mut native = StreamClient::connect(address).await;
    native.says(crate::client::sign_in("juliet", "balcony")).await;
    assert!(matches!(native.hears().await, server_frame::Body::SignedIn(_)));
    newer.ends_by("conflict").await;
    // An operator ends the session.
    let connection = stage.world.store().lock().sessions[&("juliet".to_owned(), "orchard".to_owned())].connection;
    let evictions = vec![Evict { connection, why: Why::Operator.into() }];
    stage.world.router.says(FromRouter { evictions, ..FromRouter::default() }).await;
    other.ends_by("not-authorized").await;
    stage.end().await;
}

#[tokio::test]
async fn a_stream_is_closed_by_its_closing_tag_from_either_side() {
    let stage = Stage::new(XmppTls::Required).await;
    let mut client = stage.direct(&[]).await;
    client.opens().await;
    client.signs_in_by_plain("pencil").await;
    client.binds("balcony").await;
    client.says("</stream:stream>").await;
    client.is_closed().await;
    let store = stage.world.store();
    crate::plays::eventually("the session is closed", || store.lock().sessions.is_empty()).await;
    // The same before the sign-in.
    let mut client = stage.plain().await;
    client.opens().await;
    client.says("</stream:stream>").await;
    client.is_closed().await;

    let mut client = stage.direct(&[]).await;
    client.opens().await;
    client.signs_in_by_plain("pencil").await;
    client.binds("balcony").await;
    let mut beginner = stage.plain().await;
    beginner.opens().await;
    let drain = in_time(stage.world.gateway.drain(Instant::now() + Duration::from_secs(60)));
    tokio::join!(drain, client.ends_by("system-shutdown"), beginner.ends_by("system-shutdown"));
    stage.end().await;
}

#[tokio::test]
async fn what_is_wrong_ends_the_stream_by_its_name() {
    let stage = Stage::new(XmppTls::Outside).await;
    for (text, condition) in [
        ("<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>", "not-authorized"),
        ("<x xmlns='urn:x'/>", "unsupported-stanza-type"),
        ("<!-- -->", "restricted-xml"),
        ("<a></b>", "not-well-formed"),
        ("text", "bad-format"),
    ] {
        let mut client = stage.plain().await;
        client.opens().await;
        client.says(text).await;
        client.ends_by(condition).await;
    }
    let mut client = stage.plain().await;
    client.says("GET / HTTP/1.1\r\n\r\n").await;
    client.ends_by("not-well-formed").await;
    // The session of a signed-in client ends, too.
    let mut client = signed_in(&stage, "balcony").await;
    client.says("<message from='romeo@im.example.com'/>").await;
    client.ends_by("invalid-from").await;
    let store = stage.world.store();
    crate::plays::eventually("the session is closed", || store.lock().sessions.is_empty()).await;
    stage.end().await;
}

#[tokio::test]
async fn nothing_that_follows_starttls_in_plain_text_counts_within_tls() {
    let stage = Stage::new(XmppTls::Required).await;
    let mut client = stage.plain().await;
    client.opens().await;
    client.says("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><iq id='1' type='get'><ping xmlns='urn:xmpp:ping'/></iq>").await;
    assert_eq!(client.hears().await, "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    client.is_closed().await;
    stage.end().await;
}

#[tokio::test]
async fn where_there_is_no_place_the_client_is_told_so() {
    let one = |config: &mut GatewayConfig| config.xmpp.max_connections = 1;
    let stage = Stage::with(XmppTls::Required, one).await;
    let mut first = stage.plain().await;
    first.opens().await;
    let mut second = stage.plain().await;
    second.ends_by("resource-constraint").await;
    let mut first_direct = stage.direct(&[]).await;
    first_direct.opens().await;
    let mut second_direct = stage.direct(&[]).await;
    second_direct.ends_by("resource-constraint").await;
    stage.end().await;
}

async fn signed_in(stage: &Stage, resource: &str) -> XmppClient {
    let mut client = stage.plain().await;
    client.opens().await;
    assert!(client.signs_in_by_plain("pencil").await.starts_with(SUCCESS));
    client.binds(resource).await;
    client
}
