//! A device that comes back to another gateway by its resume ticket.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use carillon_gateway::Gateway;
use carillon_proto::{
    pb::client::{Code, Refused, SignIn, client_frame::Body, server_frame, sign_in::Credential},
    peer::TierTokens,
    tasks::Tasks,
};

use crate::{
    client::{StreamClient, sign_in},
    plays::{config, start},
    router::{CLUSTER_SECRET, MiniRouter, OTHER_SECRET, with_secrets},
};

fn address(gateway: &Gateway) -> SocketAddr {
    gateway.tcp_address().expect("on")
}

/// Signs in by this frame, and returns the ticket for the next time.
async fn enters(client: &mut StreamClient, sign_in: Body) -> Bytes {
    client.says(sign_in).await;
    match client.hears().await {
        server_frame::Body::SignedIn(signed_in) => signed_in.ticket,
        other => panic!("not signed in: {other:?}"),
    }
}

fn by_ticket(ticket: &Bytes) -> Body {
    let credential = Some(Credential::Ticket(ticket.clone()));
    Body::SignIn(SignIn { device: "phone".to_owned(), credential, ..SignIn::default() })
}

#[tokio::test]
async fn a_ticket_of_one_gateway_counts_at_those_that_have_its_secret() {
    let router = MiniRouter::start(Arc::default(), None).await;
    let tasks = Tasks::new();
    let first = start(config(&router), with_secrets(CLUSTER_SECRET), &tasks).await;
    let second = start(config(&router), with_secrets(CLUSTER_SECRET), &tasks).await;
    let mut client = StreamClient::connect(address(&first)).await;
    let ticket = enters(&mut client, sign_in("alice", "phone")).await;
    drop(client);
    let mut client = StreamClient::connect(address(&second)).await;
    let next = enters(&mut client, by_ticket(&ticket)).await;
    assert!(!next.is_empty());

    // Its secret was replaced in one step.
    let security = with_secrets(OTHER_SECRET);
    let settings = config(&router);
    let third = start(settings.clone(), security.clone(), &tasks).await;
    let mut client = StreamClient::connect(address(&third)).await;
    client.says(by_ticket(&ticket)).await;
    match client.hears().await {
        server_frame::Body::Refused(refused @ Refused { what: None, retry: false, .. }) => {
            assert_eq!(refused.code(), Code::Unauthenticated);
        }
        other => panic!("not refused: {other:?}"),
    }
    enters(&mut client, sign_in("alice", "phone")).await;

    // The old secret is accepted again.
    let both = TierTokens::derived(&format!("{OTHER_SECRET}\n{CLUSTER_SECRET}")).expect("valid");
    security.replace(both, None).expect("replaced");
    third.reload(&settings).expect("reloaded");
    let mut client = StreamClient::connect(address(&third)).await;
    enters(&mut client, by_ticket(&ticket)).await;
    assert!(tasks.finish(Duration::from_secs(10)).await, "all tasks end");
}
