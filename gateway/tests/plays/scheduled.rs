//! Scheduled messages over real sockets.

use std::time::{SystemTime, UNIX_EPOCH};

use carillon_proto::pb::{
    client::{
        CancelScheduled, ChangeScheduled, Code, Content, ReadScheduled, Recipient, Schedule, ScheduledChanged,
        SendScheduledNow, SetScheduled, Text, change_scheduled::Change, client_frame::Body, content, recipient::To,
        server_frame,
    },
    link::{FromRouter, ScheduledNews, Signaled, signaled::Notice},
    store::change_scheduled::Change as Of,
};

use crate::{
    client::StreamClient,
    plays::{World, world},
};

const YEAR_MS: u64 = 366 * 24 * 3_600_000;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

fn text(body: &str) -> Content {
    Content { body: Some(content::Body::Text(Text { body: body.to_owned() })), ..Content::default() }
}

fn schedule(request: u32, at_ms: u64) -> Schedule {
    let to = Some(Recipient { to: Some(To::User("bob".to_owned())) });
    Schedule { request, client_id: format!("c{request}"), to, content: Some(text("later")), at_ms, expires_after_ms: 0 }
}

fn change(request: u32, change: Change) -> Body {
    Body::ChangeScheduled(ChangeScheduled { request, id: 1, change: Some(change) })
}

async fn hears(client: &mut StreamClient) -> String {
    match client.hears().await {
        server_frame::Body::ScheduledChanged(ScheduledChanged { request, version, id, failed }) => {
            format!("changed {request} {version} {id} {failed}")
        }
        server_frame::Body::ScheduledMessages(list) => {
            let ids: Vec<_> = list.messages.iter().map(|message| message.client_id.as_str()).collect();
            format!("messages {} {} {}", list.request, list.version, ids.join(","))
        }
        server_frame::Body::Refused(refused) => format!("refused {:?}", refused.code()),
        server_frame::Body::Pong(pong) => format!("pong {}", pong.nonce),
        other => panic!("{other:?}"),
    }
}

impl World {
    async fn tells_of_scheduled(&self, user: &str, version: u64, failed: bool) {
        let sessions: Vec<_> =
            self.store().lock().sessions.values().filter(|session| session.user == user).cloned().collect();
        let connections = sessions.iter().map(|session| session.connection).collect();
        let notice = Some(Notice::ScheduledNews(ScheduledNews { version, id: 1, failed, ..ScheduledNews::default() }));
        let signals = vec![Signaled { connections, notice, ..Signaled::default() }];
        self.router.says(FromRouter { signals, ..FromRouter::default() }).await;
    }
}

#[tokio::test]
async fn what_is_to_be_sent_later_reaches_the_router_as_the_session_has_asked_and_is_listed() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    let at_ms = now_ms() + 3_600_000;
    alice.says(Body::Schedule(schedule(1, at_ms))).await;
    assert_eq!(hears(&mut alice).await, "changed 1 1 1 false");
    // A little late: it is to be sent at once.
    alice.says(Body::Schedule(schedule(2, now_ms() - 30_000))).await;
    assert_eq!(hears(&mut alice).await, "changed 2 2 2 false");
    alice.says(Body::ReadScheduled(ReadScheduled { request: 3, after: 0 })).await;
    assert_eq!(hears(&mut alice).await, "messages 3 2 c1,c2");
    alice.says(Body::ReadScheduled(ReadScheduled { request: 4, after: 1 })).await;
    assert_eq!(hears(&mut alice).await, "messages 4 2 c2");
    let set = SetScheduled { content: Some(text("other")), at_ms: Some(at_ms + 1) };
    for (request, what) in
        [(5, Change::Set(set)), (6, Change::Now(SendScheduledNow {})), (7, Change::Cancel(CancelScheduled {}))]
    {
        alice.says(change(request, what)).await;
        assert_eq!(hears(&mut alice).await, format!("changed {request} 2 1 false"));
    }
    let store = world.store();
    let asked = store.lock().scheduled.clone();
    let (sent, as_written) = (&asked[0], prost::Message::encode_to_vec(&text("later")));
    assert_eq!((&*sent.device, &*sent.client_id, sent.at_ms), ("phone", "c1", at_ms));
    assert_eq!((&sent.content[..], sent.to.as_ref().map(|to| &to.owner[..])), (&as_written[..], Some(&b"bob"[..])));
    let changes = store.lock().scheduled_changes.clone();
    let [Some(Of::Set(set)), Some(Of::Now(now)), Some(Of::Cancel(_))] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(set.at_ms, Some(at_ms + 1));
    assert!(now.time_ms.abs_diff(now_ms()) < 60_000, "by the gateway's clock");
    world.end().await;
}

#[tokio::test]
async fn what_can_not_be_sent_later_is_refused_here() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    let good = schedule(1, now_ms() + 1000);
    let set = |content: Option<Content>, at_ms| change(1, Change::Set(SetScheduled { content, at_ms }));
    for wrong in [
        Body::Schedule(Schedule { at_ms: now_ms() - 120_000, ..good.clone() }),
        Body::Schedule(Schedule { at_ms: now_ms() + YEAR_MS + 120_000, ..good.clone() }),
        Body::Schedule(Schedule { at_ms: u64::MAX, ..good.clone() }),
        Body::Schedule(Schedule { at_ms: 0, ..good.clone() }),
        Body::Schedule(Schedule { to: None, ..good.clone() }),
        Body::Schedule(Schedule { client_id: String::new(), ..good.clone() }),
        Body::Schedule(Schedule { content: None, ..good.clone() }),
        Body::Schedule(Schedule { content: Some(text("")), ..good.clone() }),
        set(None, None),
        set(Some(text("")), None),
        set(None, Some(1)),
        Body::ChangeScheduled(ChangeScheduled { request: 1, id: 1, change: None }),
    ] {
        alice.says(wrong.clone()).await;
        assert_eq!(hears(&mut alice).await, format!("refused {:?}", Code::Invalid), "{wrong:?}");
    }
    alice.says(Body::Schedule(Schedule { content: Some(text(&"x".repeat(70_000))), ..good })).await;
    assert_eq!(hears(&mut alice).await, format!("refused {:?}", Code::TooLarge));
    assert!(world.store().lock().scheduled.is_empty());
    world.end().await;
}

#[tokio::test]
async fn a_connection_is_told_of_changes_when_it_has_read_the_list() {
    let world = world(|_| {}).await;
    let (mut phone, mut tablet) = (world.client("alice", "phone").await, world.client("alice", "tablet").await);
    phone.says(Body::ReadScheduled(ReadScheduled { request: 1, after: 0 })).await;
    assert_eq!(hears(&mut phone).await, "messages 1 0 ");
    world.tells_of_scheduled("alice", 4, true).await;
    assert_eq!(hears(&mut phone).await, "changed 0 4 1 true");
    // The answer comes first: the tablet was not told of the change.
    tablet.says(Body::ReadScheduled(ReadScheduled { request: 1, after: 0 })).await;
    assert_eq!(hears(&mut tablet).await, "messages 1 0 ");
    world.tells_of_scheduled("alice", 5, false).await;
    assert_eq!(hears(&mut tablet).await, "changed 0 5 1 false");
    world.end().await;
}
