//! A gateway that has many more clients than another one.

use std::{sync::Arc, time::Duration};

use carillon_proto::{
    pb::{
        client::{Bye, Code, Ping, client_frame::Body, server_frame},
        link::{FromRouter, GatewaysLoad},
        store::{Node, NodeKind, RegistryView},
    },
    tasks::Tasks,
};

use crate::{
    client::StreamClient,
    plays::{config, start},
    router::{MiniRouter, security},
};

/// Two gateways have so many clients together.
fn told(router: &MiniRouter, version: u64, sessions: u64, draining_gateways: u32) -> FromRouter {
    let node = |lease, kind: NodeKind, address: String| Node { lease, kind: kind.into(), address, slot: None };
    let gateway = |lease| node(lease, NodeKind::Gateway, String::new());
    let nodes = vec![node(1, NodeKind::Router, router.address.to_string()), gateway(101), gateway(102)];
    let registry = Some(RegistryView { version, ring_version: 1, nodes, level: 1, ..RegistryView::default() });
    FromRouter { registry, load: Some(GatewaysLoad { sessions, draining_gateways }), ..FromRouter::default() }
}

async fn goes_on(client: &mut StreamClient) {
    client.says(Body::Ping(Ping { nonce: 7 })).await;
    let hears = client.hears().await;
    assert!(matches!(hears, server_frame::Body::Pong(_)), "{hears:?}");
}

#[tokio::test]
async fn a_gateway_with_too_many_clients_asks_the_oldest_to_move_and_no_more_than_are_too_many() {
    let router = MiniRouter::start(Arc::default(), None).await;
    let tasks = Tasks::new();
    let mut settings = config(&router);
    (settings.rebalance_factor, settings.rebalance_margin) = (1.0, 1);
    (settings.rebalance_after_ms, settings.rebalance_rest_ms) = (0, 0);
    let gateway = start(settings, security(), &tasks).await;
    let address = gateway.tcp_address().expect("on");
    let mut clients = Vec::new();
    for number in 0..6 {
        clients.push(StreamClient::signed_in(address, &format!("user-{number}"), "phone").await);
    }
    // Nobody is asked while another gateway is being stopped. The mean is 3, the bound 4.
    router.says(told(&router, 2, 6, 1)).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for client in &mut clients {
            goes_on(client).await;
        }
    }
    router.says(told(&router, 3, 6, 0)).await;
    for client in clients.drain(..3) {
        let mut client = client;
        match client.hears().await {
            server_frame::Body::Bye(bye @ Bye { reconnect: true, .. }) => {
                assert_eq!(bye.code(), Code::ShuttingDown);
                assert!(bye.reason.contains("more clients than others"), "{}", bye.reason);
            }
            other => panic!("not a Bye: {other:?}"),
        }
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for client in &mut clients {
            goes_on(client).await;
        }
    }
    assert!(tasks.finish(Duration::from_secs(10)).await, "all tasks end");
}
