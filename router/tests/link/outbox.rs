//! Rows that workers carry out, and the operator's part in those that they could not carry out. Real routers, with a store in memory.

use carillon_proto::pb::{
    admin::{ListOutboxRequest, OutboxPlace, SettleDeadLettersRequest},
    link::{self, router_reply::Result as Reply, router_request::Op},
    store::{
        OutboxRow, Person, Role, TellMembers, TimelineKey, member, outbox_read, outbox_row, tell_members, timeline_key,
    },
};
use tonic::Code;

use crate::support::{Administrator, Cluster, session};

/// The row of a change by which bob is in the group `friends`.
fn bob_is_in(index: u64, client_id: &str) -> outbox_read::Row {
    let told = tell_members::Told {
        person: Some(Person { user: "bob".into(), incarnation: 0 }),
        standing: member::Standing::Member.into(),
        role: Role::Member.into(),
    };
    let group = TimelineKey { kind: timeline_key::Kind::Group.into(), owner: "friends".into() };
    let tell = TellMembers { group: Some(group), number: 1, seq: 4, told: vec![told], ..TellMembers::default() };
    let row = OutboxRow { task: Some(outbox_row::Task::Tell(tell)), ..OutboxRow::default() };
    let envelope = link::RawEnvelope { client_id: client_id.to_owned(), ..link::RawEnvelope::default() };
    let envelope = prost::Message::encode_to_vec(&envelope).into();
    outbox_read::Row { index, row: Some(row), envelope, ..outbox_read::Row::default() }
}

/// A router has appended that bob was added to a group, and has died.
#[tokio::test]
async fn what_a_router_left_undone_is_done_by_the_worker_of_the_shard_and_pushed() {
    let cluster = Cluster::start(2, &["alice", "bob"]).await;
    let mut links = cluster.one_gateway_at_each().await;
    let owner = cluster.ring().owner("bob").expect("has an owner").address.to_string();
    let at = (0..2).find(|router| cluster.address(*router) == owner).expect("is a router");
    let bobs = session("bob", "phone", &links[at], 1);
    let opened = links[at].ask(Op::OpenSession(link::OpenSession { session: Some(bobs) })).await;
    assert!(matches!(opened, Reply::SessionOpened(_)));
    cluster.store.has_groups();
    cluster.store.has_row("friends", bob_is_in(9, "added"), false);
    let timeline = links[at].push().await.timeline.and_then(|timeline| timeline.owner);
    assert_eq!(timeline, Some(carillon_proto::pb::client::timeline::Owner::Inbox("bob".into())));
    cluster.wait_until("the row is settled", || cluster.store.outboxes_are_empty()).await;
    assert_eq!(cluster.store.client_ids("bob"), ["added"]);
    cluster.stop().await;
}

#[tokio::test]
async fn dead_letters_are_shown_replayed_and_discarded() {
    let cluster = Cluster::start(1, &["alice", "bob"]).await;
    let mut admin = cluster.admin();
    let list = |dead| ListOutboxRequest { dead, ..ListOutboxRequest::default() };
    let below = admin.list_outbox(list(true)).await.expect_err("there are no groups yet");
    assert_eq!(below.code(), Code::FailedPrecondition);
    cluster.store.has_groups();
    for (index, client_id) in [(9, "first"), (12, "second"), (15, "third")] {
        cluster.store.has_row("friends", bob_is_in(index, client_id), true);
    }
    cluster.wait_until("the router knows of groups", || cluster.store.outboxes_are_empty()).await;
    let shown = async |admin: &mut Administrator, request| {
        let reply = admin.list_outbox(request).await.expect("answers").into_inner();
        let places = reply.rows.into_iter().map(|row| row.place.expect("set"));
        (places.collect::<Vec<OutboxPlace>>(), reply.complete)
    };
    let (letters, complete) = loop {
        // Until it has heard of the new level.
        if admin.list_outbox(list(true)).await.is_ok() {
            break shown(&mut admin, list(true)).await;
        }
        tokio::task::yield_now().await;
    };
    assert!(complete && letters.iter().map(|letter| letter.index).eq([9, 12, 15]), "{letters:?}");
    let page = ListOutboxRequest { after: Some(letters[0]), limit: 1, dead: true };
    assert_eq!(shown(&mut admin, page).await, (vec![letters[1]], false));

    let settle = |letters: &[OutboxPlace], discard| SettleDeadLettersRequest { letters: letters.to_vec(), discard };
    let unknown = OutboxPlace { index: 10, ..letters[0] };
    let status = admin.settle_dead_letters(settle(&[letters[0], unknown], true)).await.expect_err("not there");
    assert!(status.code() == Code::NotFound && status.message().ends_with("/10/0"), "{status:?}");
    let status = admin.settle_dead_letters(settle(&[], true)).await.expect_err("none");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(shown(&mut admin, list(true)).await.0.len(), 3, "all or none");

    admin.settle_dead_letters(settle(&letters[..1], true)).await.expect("discarded");
    admin.settle_dead_letters(settle(&letters[1..2], false)).await.expect("replayed");
    cluster.wait_until("what was replayed is done", || cluster.store.client_ids("bob") == ["second"]).await;
    cluster.wait_until("its row is settled", || cluster.store.outboxes_are_empty()).await;
    assert_eq!(shown(&mut admin, list(true)).await.0, letters[2..]);
    cluster.stop().await;
}
