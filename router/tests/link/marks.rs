//! Marks over the links between routers and gateways.

use std::time::Duration;

use carillon_proto::pb::{
    client::Code,
    link::{self, router_reply::Result as Reply, router_request::Op, signaled::Notice},
    store::{TimelineKey, move_marks::Mark, timeline_key::Kind},
};
use tokio::time::timeout;

use crate::support::{Cluster, session};

#[tokio::test]
async fn who_has_written_hears_through_another_router_up_to_where_it_was_read() {
    let users: Vec<String> = (0..40).map(|n| format!("user{n}")).collect();
    let cluster = Cluster::start(2, &users.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut gateways = cluster.one_gateway_at_each().await;
    let ring = cluster.ring();
    let owner = |user: &str| usize::from(ring.owner(user).expect("owner").address != cluster.address(0));
    let writer = users.iter().find(|user| owner(user) == 0).expect("one of forty");
    let reader = users.iter().find(|user| owner(user) == 1).expect("one of forty");
    for (place, user, connection) in [(0, writer, 7), (1, reader, 8)] {
        let session = Some(session(user, "phone", &gateways[place], connection));
        gateways[place].ask(Op::OpenSession(link::OpenSession { session })).await;
    }
    let conversation = Some(TimelineKey { kind: Kind::Inbox.into(), owner: writer.clone().into() });
    let marks = vec![Mark { conversation, epoch: 1, seq: 5 }];
    let moves = link::MoveMarks { user: reader.clone(), incarnation: 0, marks };
    cluster.store.has_groups();
    let moved = async {
        loop {
            match gateways[1].ask(Op::MoveMarks(moves.clone())).await {
                Reply::ConversationsMoved(moved) => return moved,
                // The router has not heard of the level yet.
                Reply::Refusal(refusal) => assert_eq!(refusal.code(), Code::Unsupported, "{refusal:?}"),
                other => panic!("{other:?}"),
            }
        }
    };
    let moved = timeout(Duration::from_secs(20), moved).await.expect("the router hears of the level");
    assert_eq!((moved.before, moved.version, moved.rows.len()), (0, 1, 1));
    let told = gateways[0].until(|message| message.signals.pop()).await;
    let marked =
        link::Marked { user: writer.clone(), by: reader.clone(), read_id: "m5".into(), ..link::Marked::default() };
    assert_eq!((told.connections, told.notice), (vec![7], Some(Notice::Marked(marked))));
    let own = gateways[1].until(|message| message.signals.pop()).await;
    assert_eq!((own.connections, own.notice), (vec![8], Some(Notice::Conversations(moved))));
    cluster.stop().await;
}
