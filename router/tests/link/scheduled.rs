//! Scheduled messages whose time has come, over real routers, with a store in memory.

use bytes::Bytes;
use carillon_proto::pb::{
    client::Code,
    link::{self, ScheduledNews, router_reply::Result as Reply, router_request::Op, signaled::Notice},
    store::{
        CancelScheduled, ChangeScheduled, OutboxRow, Person, ReadScheduled, Schedule, ScheduledRow, SendScheduled,
        TimelineKey, change_scheduled::Change, outbox_read, outbox_row, scheduled_row::State, timeline_key::Kind,
    },
};

use crate::support::{Cluster, Gateway, session};

/// Of the store, each with an outbox.
const SHARDS: u32 = 4;

fn inbox(user: &str) -> TimelineKey {
    TimelineKey { kind: Kind::Inbox.into(), owner: user.to_owned().into() }
}

/// The message with this id, of alice, is to be sent now.
fn due(id: u64, to: &str) -> outbox_read::Row {
    let sender = Some(Person { user: "alice".into(), incarnation: 0 });
    let task = SendScheduled { sender: sender.clone(), number: 1, id };
    let scheduled = ScheduledRow {
        sender,
        device: "phone".into(),
        client_id: id.to_string(),
        to: Some(inbox(to)),
        content: Bytes::from_static(b"content"),
        at_ms: 7,
        state: State::Sending.into(),
        time_ms: 8,
        ..ScheduledRow::default()
    };
    let row = OutboxRow { task: Some(outbox_row::Task::SendScheduled(task)), ..OutboxRow::default() };
    outbox_read::Row { index: id, row: Some(row), scheduled: Some(scheduled), ..outbox_read::Row::default() }
}

/// Signs in alice and bob at the routers that own them. Returns where.
async fn sign_in(cluster: &Cluster, links: &mut [Gateway]) -> [usize; 2] {
    let at = ["alice", "bob"].map(|user| {
        let owner = cluster.ring().owner(user).expect("has an owner").address.to_string();
        (0..links.len()).find(|router| cluster.address(*router) == owner).expect("is a router")
    });
    for (user, at) in ["alice", "bob"].into_iter().zip(at) {
        let opened = session(user, "laptop", &links[at], if user == "alice" { 1 } else { 2 });
        let opened = links[at].ask(Op::OpenSession(link::OpenSession { session: Some(opened) })).await;
        assert!(matches!(opened, Reply::SessionOpened(_)));
    }
    at
}

async fn news(link: &mut Gateway) -> ScheduledNews {
    let news = link.until(|message| {
        let is_news = |notice: &Option<Notice>| matches!(notice, Some(Notice::ScheduledNews(_)));
        let at = message.signals.iter().position(|signal| is_news(&signal.notice))?;
        message.signals.remove(at).notice
    });
    let Notice::ScheduledNews(news) = news.await else { panic!("something else") };
    news
}

#[tokio::test]
async fn a_message_whose_time_has_come_is_in_both_inboxes_once_and_its_users_devices_are_told() {
    let cluster = Cluster::start(2, &["alice", "bob"]).await;
    let mut links = cluster.one_gateway_at_each().await;
    let [alices, bobs] = sign_in(&cluster, &mut links).await;
    cluster.store.has_groups();
    for id in [5, 6] {
        cluster.store.has_row("alice", due(id, "bob"), false);
    }
    cluster.wait_until("nothing is left to be sent", || cluster.store.outboxes_are_empty()).await;
    for user in ["alice", "bob"] {
        assert_eq!(cluster.store.client_ids(user), ["5", "6"], "{user}");
    }
    assert_eq!(cluster.store.settled(), [(5, String::new()), (6, String::new())]);
    let pushed = links[bobs].push().await.envelope;
    let envelope: link::RawEnvelope = prost::Message::decode(pushed).expect("an envelope");
    assert_eq!((&*envelope.sender_device, envelope.time_ms), ("phone", 8), "from the device that has scheduled it");
    let told = news(&mut links[alices]).await;
    assert_eq!((told.id, told.failed), (5, false));
    cluster.stop().await;
}

/// The worker that has sent it has died before it could note that; or its answers were lost.
#[tokio::test]
async fn what_was_sent_and_not_noted_is_not_sent_again() {
    let cluster = Cluster::start(1, &["alice", "bob"]).await;
    let mut link = cluster.gateway().await;
    link.ask_until_accepted(crate::send("bob", 5)).await;
    cluster.store.has_groups();
    cluster.store.lose_answers(2);
    cluster.store.has_row("alice", due(5, "bob"), false);
    cluster.wait_until("nothing is left to be sent", || cluster.store.outboxes_are_empty()).await;
    for user in ["alice", "bob"] {
        assert_eq!(cluster.store.client_ids(user), ["5"], "{user}");
    }
    assert!(cluster.store.settled().iter().all(|settled| *settled == (5, String::new())));
    cluster.stop().await;
}

#[tokio::test]
async fn what_is_refused_when_its_time_comes_is_noted_with_the_reason_and_told() {
    let cluster = Cluster::start(2, &["alice", "bob"]).await;
    let mut links = cluster.one_gateway_at_each().await;
    let [alices, _] = sign_in(&cluster, &mut links).await;
    cluster.store.has_groups();
    cluster.store.has_row("alice", due(5, "nobody"), false);
    let told = news(&mut links[alices]).await;
    assert_eq!((told.id, told.failed), (5, true));
    assert_eq!(cluster.store.settled(), [(5, "there is no user \"nobody\"".to_owned())]);
    cluster.wait_until("nothing is left to be sent", || cluster.store.outboxes_are_empty()).await;
    cluster.stop().await;
}

#[tokio::test]
async fn nothing_of_an_account_that_has_ended_is_sent() {
    let cluster = Cluster::start(1, &["alice", "bob"]).await;
    cluster.store.is_deleted("alice");
    cluster.store.has_groups();
    cluster.store.has_row("alice", due(5, "bob"), false);
    // The worker has seen the row, and again after it was put off.
    cluster.wait_until("the outboxes are read again", || cluster.store.outbox_reads() > SHARDS + 2).await;
    assert_eq!(cluster.store.client_ids("bob"), [""; 0]);
    assert_eq!(cluster.store.settled(), []);
    cluster.stop().await;
}

#[tokio::test]
async fn below_level_7_nothing_is_scheduled() {
    let cluster = Cluster::start(1, &["alice", "bob"]).await;
    let mut link = cluster.gateway().await;
    let (device, client_id, to) = ("phone".to_owned(), "c".to_owned(), Some(inbox("bob")));
    let content = Bytes::from_static(b"content");
    let schedule = Some(Schedule { device, client_id, to, content, at_ms: 7, ..Schedule::default() });
    let change = Some(Change::Cancel(CancelScheduled {}));
    let change = Some(ChangeScheduled { id: 5, change, ..ChangeScheduled::default() });
    for op in [
        Op::Schedule(Box::new(link::Schedule { user: "alice".into(), schedule })),
        Op::ChangeScheduled(link::ChangeScheduled { user: "alice".into(), change }),
        Op::ReadScheduled(link::ReadScheduled { user: "alice".into(), read: Some(ReadScheduled::default()) }),
    ] {
        let Reply::Refusal(refusal) = link.ask(op).await else { panic!("not refused") };
        assert_eq!(refusal.code(), Code::Unsupported);
    }
    cluster.stop().await;
}
