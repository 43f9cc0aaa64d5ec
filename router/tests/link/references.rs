//! Messages about messages over the links between routers and gateways.

use carillon_proto::{
    DuplicateKey,
    pb::{
        client::Code,
        link::{self, router_reply::Result as Reply, router_request::Op},
        store::{Header, Reference, header::Kind},
    },
};

use crate::{
    send,
    support::{Cluster, session},
};

fn about(number: u32, kind: Kind) -> Op {
    let Op::Send(plain) = send("bob", number) else { unreachable!("a send") };
    let refers_to = Some(Reference { id: "id".into(), key: vec![7; 16].into(), by_sender: false, seq: 0 });
    let header = Header { kind: kind.into(), refers_to, edit_window_ms: 5, ..Header::default() };
    Op::Send(link::Send { header: Some(Box::new(header)), ..plain })
}

#[tokio::test]
async fn both_inboxes_are_told_the_same_of_a_message_and_plain_ones_say_nothing() {
    let cluster = Cluster::start(2, &["alice", "bob"]).await;
    let mut gateways = cluster.one_gateway_at_each().await;
    let router = usize::from(cluster.ring().owner("bob").expect("owner").address != cluster.address(0));
    let gateway = &mut gateways[router];
    let alice = session("alice", "phone", gateway, 1);
    gateway.ask(Op::OpenSession(link::OpenSession { session: Some(alice) })).await;
    for op in [send("bob", 1), about(2, Kind::Reaction)] {
        let answer = gateway.ask(op).await;
        assert!(matches!(answer, Reply::Accepted(_)), "{answer:?}");
    }
    let headers = cluster.store.headers();
    let owners: Vec<_> = headers.iter().map(|(owner, header)| (&**owner, header.is_some())).collect();
    assert_eq!(owners, [("bob", false), ("alice", false), ("bob", true), ("alice", true)]);
    assert_eq!(headers[2].1, headers[3].1);
    let key = |header: &Header| header.refers_to.as_ref().map(|reference| reference.key.clone());
    let of_bob = DuplicateKey([7; 16]).of_incarnation(0).0;
    assert_eq!(headers[2].1.as_deref().and_then(key), Some(of_bob.to_vec().into()));
    cluster.stop().await;
}

#[tokio::test]
async fn what_the_store_finds_too_late_is_refused_and_the_senders_inbox_hears_nothing_of_it() {
    let cluster = Cluster::start(1, &["alice", "bob"]).await;
    let mut gateway = cluster.gateway().await;
    let Reply::Refusal(refusal) = gateway.ask(about(1, Kind::Edit)).await else { panic!("not refused") };
    let told = (refusal.code(), refusal.retry, &*refusal.reason);
    assert_eq!(told, (Code::TooLate, false, "a message can be edited for 5 ms"));
    assert!(cluster.store.headers().is_empty(), "{:?}", cluster.store.headers());
    // The refusal closed the lane, and what comes next goes on.
    assert!(matches!(gateway.ask(send("bob", 2)).await, Reply::Accepted(_)));
    cluster.stop().await;
}
