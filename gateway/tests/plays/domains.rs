//! The operator's settings of domains, as a gateway hears them from its routers.

use carillon_proto::{
    Level,
    pb::{
        client::{
            Code, Content, GroupRequest, GroupSettings, Limits, Recipient, Schedule, Send, Text, client_frame::Body,
            content, group_request::Change, recipient::To, server_frame,
        },
        link::FromRouter,
        store::{Domain, Node, NodeKind, RegistryView},
    },
};

use crate::{
    client::{StreamClient, sign_in},
    plays::{World, world},
};

fn text(length: usize) -> Option<Content> {
    Some(Content { body: Some(content::Body::Text(Text { body: "x".repeat(length) })), ..Content::default() })
}

fn send(length: usize) -> Body {
    let to = Some(Recipient { to: Some(To::User("alice".to_owned())) });
    Body::Send(Send { client_id: "m".to_owned(), to, content: text(length), ..Send::default() })
}

async fn decides(world: &World, version: u64, domains: Vec<Domain>) {
    let address = world.router.address.to_string();
    let nodes = vec![Node { lease: 1, kind: NodeKind::Router.into(), address, slot: None }];
    let level = Level::OF_PROGRAM.0;
    let view = RegistryView { version, ring_version: 1, nodes, level, domains, ..RegistryView::default() };
    world.router.says(FromRouter { registry: Some(view), ..FromRouter::default() }).await;
}

/// The limits of a new connection, as soon as they are these.
async fn limits(world: &World, is_it: impl Fn(&Limits) -> bool) -> (StreamClient, Limits) {
    for number in 0..1000 {
        let mut client = StreamClient::connect(world.gateway.tcp_address().expect("on")).await;
        client.says(sign_in("alice", &format!("device-{number}"))).await;
        let server_frame::Body::SignedIn(signed_in) = client.hears().await else { panic!("not signed in") };
        let limits = signed_in.limits.expect("told");
        if is_it(&limits) {
            return (client, limits);
        }
    }
    panic!("the gateway has not heard of it");
}

async fn refused(client: &mut StreamClient, body: Body) -> (Code, String) {
    client.says(body).await;
    loop {
        match client.hears().await {
            server_frame::Body::Refused(refused) => return (refused.code(), refused.reason),
            server_frame::Body::Accepted(accepted) => panic!("accepted: {accepted:?}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_gateway_keeps_to_the_lower_of_its_own_limits_and_the_domains_as_soon_as_it_hears_of_them() {
    let world = world(|config| (config.max_content_bytes, config.sends_per_second) = (1000, 20)).await;
    let mut before = world.client("alice", "phone").await;
    let (_, told) = limits(&world, |_| true).await;
    assert_eq!((told.max_content_bytes, told.sends_per_second), (1000, 20));
    let domain = |name: &str, max_message_bytes, sends_per_second| Domain {
        name: name.to_owned(),
        max_message_bytes,
        sends_per_second,
        ..Domain::default()
    };
    // Of another domain: it is not alice's.
    decides(&world, 2, vec![domain("", 100, 5), domain("acme.example", 10, 1)]).await;
    let (mut after, told) = limits(&world, |limits| limits.max_content_bytes == 100).await;
    assert_eq!(told.sends_per_second, 5);
    // The connection that was there keeps to it, too.
    for client in [&mut before, &mut after] {
        let (code, reason) = refused(client, send(200)).await;
        assert_eq!(code, Code::TooLarge);
        assert!(reason.contains("at most 100 are allowed"), "{reason}");
    }
    let to = Some(Recipient { to: Some(To::User("alice".to_owned())) });
    let (client_id, content) = ("later".to_owned(), text(200));
    let later = Schedule {
        request: 7,
        client_id,
        to,
        content,
        at_ms: carillon_proto::now_ms() + 60_000,
        ..Schedule::default()
    };
    assert_eq!(refused(&mut after, Body::Schedule(later)).await.0, Code::TooLarge);
    // An older view changes nothing, and a limit above the gateway's own widens nothing.
    decides(&world, 1, vec![]).await;
    assert_eq!(refused(&mut after, send(200)).await.0, Code::TooLarge);
    decides(&world, 3, vec![domain("", 5000, 1000)]).await;
    let (mut wide, told) = limits(&world, |limits| limits.max_content_bytes != 100).await;
    assert_eq!((told.max_content_bytes, told.sends_per_second), (1000, 20));
    assert_eq!(refused(&mut wide, send(2000)).await.0, Code::TooLarge);
    world.end().await;
}

#[tokio::test]
async fn a_groups_rule_is_five_seconds_to_366_days_or_none() {
    let world = world(|_| {}).await;
    let mut client = world.client("alice", "phone").await;
    for wrong in [1, 4_999, 366 * 24 * 3_600_000 + 1] {
        let settings = GroupSettings { expire_after_ms: Some(wrong), ..GroupSettings::default() };
        let (client_id, group) = ("c".to_owned(), "club".to_owned());
        let change = Some(Change::Set(settings));
        let (code, reason) = refused(&mut client, Body::Group(GroupRequest { client_id, group, change })).await;
        assert_eq!(code, Code::Invalid);
        assert!(reason.contains("5 seconds to 366 days"), "{reason}");
    }
    world.end().await;
}
