//! Real routers and real streams, with a store in memory that keeps its contract and fails on command.

mod collection;
mod contacts;
mod marks;
mod outbox;
mod references;
mod scheduled;
mod support;

use carillon_proto::pb::{
    client,
    link::{self, FromRouter, router_reply::Result as Reply, router_request::Op},
    store::{NodeKind, Session},
};
use futures_util::future::join_all;
use support::{Cluster, Gateway, session};

fn send(to: &str, number: u32) -> Op {
    Op::Send(link::Send {
        after: bytes::Bytes::new(),
        sender: "alice".into(),
        sender_device: "phone".into(),
        to: Some(link::SendTo { to: Some(link::send_to::To::User(to.to_owned().into())) }),
        client_id: number.to_string().into(),
        content: bytes::Bytes::from_static(b"content"),
        connection: 1,
        incarnation: 0,
        generation: 0,
        time_ms: 0,
        wants_marks: false,
        header: None,
        expires_after_ms: 0,
        to_incarnation: None,
    })
}

fn open(session: Session) -> Op {
    Op::OpenSession(link::OpenSession { session: Some(session) })
}

fn inbox_of(push: link::Push) -> String {
    match push.timeline.and_then(|timeline| timeline.owner) {
        Some(client::timeline::Owner::Inbox(owner)) => owner,
        other => panic!("not an inbox: {other:?}"),
    }
}

#[tokio::test]
async fn a_message_reaches_the_recipient_and_the_senders_other_devices() {
    let cluster = Cluster::start(1, &["alice", "bob"]).await;
    let mut gateway = cluster.gateway().await;
    for session in [session("alice", "phone", &gateway, 1), session("alice", "laptop", &gateway, 2)] {
        assert!(matches!(gateway.ask(open(session)).await, Reply::SessionOpened(_)));
    }
    let bobs = session("bob", "phone", &gateway, 3);
    gateway.ask(open(bobs)).await;
    let Reply::Accepted(accepted) = gateway.ask(send("bob", 1)).await else { panic!("not accepted") };
    assert_eq!(accepted.position.expect("set").seq, 1);
    let mut pushed = vec![inbox_of(gateway.push().await), inbox_of(gateway.push().await)];
    pushed.sort();
    assert_eq!(pushed, ["alice", "bob"]);
    let Reply::Accepted(again) = gateway.ask(send("bob", 1)).await else { panic!("not accepted") };
    assert_eq!((again.message_id, again.position), (accepted.message_id, accepted.position));
    cluster.stop().await;
}

#[tokio::test]
async fn gateways_hear_how_many_sessions_there_are_and_how_many_gateways_are_stopping() {
    let cluster = Cluster::start(1, &["alice", "bob"]).await;
    let (mut stopping, mut other) = (cluster.gateway().await, cluster.gateway().await);
    for (user, connection) in [("alice", 1), ("bob", 2)] {
        let session = session(user, "phone", &stopping, connection);
        stopping.ask(open(session)).await;
    }
    let told = |sessions: u64, draining: u32| {
        move |said: &mut FromRouter| {
            said.load.take().filter(|load| (load.sessions, load.draining_gateways) == (sessions, draining))
        }
    };
    other.until(told(2, 0)).await;
    stopping.drains().await;
    other.until(told(2, 1)).await;
    drop(stopping);
    other.until(told(2, 0)).await;
    cluster.stop().await;
}

/// While a cluster is replaced process by process, routers have links with gateways of the release before.
#[tokio::test]
async fn a_gateway_without_feeds_hears_which_connections_a_push_is_for_and_may_ask_for_heads() {
    let cluster = Cluster::start(1, &["alice", "bob"]).await;
    let mut gateway = cluster.gateway().await;
    for (device, connection) in [("phone", 3), ("laptop", 4)] {
        gateway.ask(open(session("bob", device, &gateway, connection))).await;
    }
    let Reply::Accepted(_) = gateway.ask(send("bob", 1)).await else { panic!("not accepted") };
    assert_eq!(gateway.push().await.connections, [3, 4]);
    let heads = Op::ReadHeads(link::ReadHeads { user: "bob".into(), ..link::ReadHeads::default() });
    let Reply::Heads(heads) = gateway.ask(heads).await else { panic!("no heads") };
    assert_eq!(heads.heads.iter().map(|head| head.head.as_ref().expect("set").last).collect::<Vec<_>>(), [1]);
    cluster.stop().await;
}

#[tokio::test]
async fn refusals_and_broken_streams_keep_each_message_once_and_in_order() {
    const MESSAGES: u32 = 400;
    let cluster = Cluster::start(1, &["alice", "bob"]).await;
    let mut gateway = cluster.gateway().await;
    let mut accepted = 0;
    for number in 0..MESSAGES {
        gateway.request(send("bob", number)).await;
        match number % 100 {
            20 => cluster.store.refuse_next(3),
            60 => cluster.store.cut_streams(),
            80 => cluster.store.lose_answers(5),
            _ => {}
        }
        if number % 10 == 9 {
            while accepted <= number {
                match gateway.reply().await.1 {
                    Reply::Accepted(_) => accepted += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    let wanted: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
    assert_eq!(cluster.store.client_ids("bob"), wanted);
    assert_eq!(cluster.store.client_ids("alice"), wanted);
    cluster.stop().await;
}

#[tokio::test]
async fn the_senders_copy_is_pushed_by_the_senders_owner() {
    // Enough users that some pair has two owners.
    let users: Vec<String> = (0..40).map(|i| format!("user{i}")).collect();
    let cluster = Cluster::start(2, &users.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut gateways = cluster.one_gateway_at_each().await;
    let ring = cluster.ring();
    let owner = |user: &str| usize::from(ring.owner(user).expect("owner").address != cluster.address(0));
    let sender = users.iter().find(|user| owner(user) == 0).expect("one of forty");
    let recipient = users.iter().find(|user| owner(user) == 1).expect("one of forty");
    // Both links are of one gateway.
    let other_device = session(sender, "laptop", &gateways[0], 7);
    gateways[0].ask(open(other_device)).await;
    let Op::Send(mut message) = send(recipient, 1) else { unreachable!() };
    message.sender = sender.clone().into();
    assert!(matches!(gateways[1].ask(Op::Send(message)).await, Reply::Accepted(_)));
    let push = gateways[0].push().await;
    assert_eq!(inbox_of(push), *sender);

    // The wrong router says so, with its ring.
    let Op::Send(mut message) = send(recipient, 2) else { unreachable!() };
    message.sender = sender.clone().into();
    let Reply::NotOwner(not) = gateways[0].ask(Op::Send(message)).await else { panic!("not refused") };
    assert_eq!(not.ring_version, ring.version());
    cluster.stop().await;
}

#[tokio::test]
async fn pushes_for_which_there_was_no_room_are_told_when_there_is() {
    const MESSAGES: u32 = 1500;
    let cluster = Cluster::start_with(1, &["alice", "bob"], |config| config.link_pushes = 16).await;
    let mut stuck = cluster.gateway().await;
    let bobs = session("bob", "phone", &stuck, 1);
    stuck.ask(open(bobs)).await;
    let mut sends = cluster.gateway().await;
    for number in 0..MESSAGES {
        let Op::Send(message) = send("bob", number) else { unreachable!() };
        sends.request(Op::Send(link::Send { content: vec![0; 8192].into(), ..message })).await;
        if number % 50 == 49 {
            for _ in 0..50 {
                assert!(matches!(sends.reply().await.1, Reply::Accepted(_)));
            }
        }
    }
    // Only now it reads what the router has for it.
    let (mut pushed, mut told) = (0, 0);
    while told < u64::from(MESSAGES) {
        let FromRouter { pushes, behind, .. } = stuck.next().await;
        pushed += pushes.len() as u32;
        let positions = pushes.iter().map(|push| push.position).chain(behind.iter().map(|behind| behind.position));
        told = positions.fold(told, |told, position| told.max(position.expect("set").seq));
    }
    assert!(pushed < MESSAGES, "all had room");
    cluster.stop().await;
}

#[tokio::test]
async fn what_a_gateway_does_not_announce_on_a_new_link_gets_nothing_more() {
    let cluster = Cluster::start(1, &["alice", "bob"]).await;
    let mut first = cluster.gateway().await;
    let (stays, gone) = (session("bob", "phone", &first, 1), session("bob", "laptop", &first, 2));
    for session in [&stays, &gone] {
        first.ask(open(session.clone())).await;
    }
    let mut second = first.opens_again(&cluster.address(0)).await;
    let announce = Op::Announce(link::Announce { session: Some(stays), presence: None });
    assert!(matches!(second.ask(announce).await, Reply::SessionOpened(_)));
    second.announced_all().await;
    second.ask_until_accepted(send("bob", 1)).await;
    let to_bob = link::Signal { user: "bob".into(), ..Default::default() };
    second.signal(to_bob).await;
    let signaled = second.until(|message| message.signals.pop()).await;
    assert_eq!(signaled.connections, [1]);
    cluster.stop().await;
}

#[tokio::test]
async fn a_request_by_a_newer_ring_waits_for_it() {
    let cluster = Cluster::start(1, &["alice", "bob"]).await;
    let mut gateway = cluster.gateway().await;
    let newer = gateway.ring_version + 1;
    gateway.ring_version = newer;
    gateway.request(send("bob", 1)).await;
    cluster.store.change_ring();
    assert!(matches!(gateway.reply().await.1, Reply::Accepted(_)));

    gateway.ring_version += 1_000_000;
    let Reply::NotOwner(not) = gateway.ask(send("bob", 2)).await else { panic!("not refused") };
    assert!(not.ring_version >= newer && not.ring_version < gateway.ring_version);
    cluster.stop().await;
}

#[tokio::test]
async fn nothing_overtakes_a_send_that_was_not_taken() {
    let cluster = Cluster::start(1, &["alice", "bob"]).await;
    let mut gateway = cluster.gateway().await;
    let ring = gateway.ring_version;
    gateway.ring_version = ring + 1_000_000;
    assert!(matches!(gateway.ask(send("bob", 1)).await, Reply::NotOwner(_)));
    gateway.ring_version = ring;
    assert!(matches!(gateway.ask(send("bob", 2)).await, Reply::NotOwner(_)), "it was sent behind the first");
    gateway.era += 1;
    for number in [1, 2] {
        assert!(matches!(gateway.ask(send("bob", number)).await, Reply::Accepted(_)));
    }
    assert_eq!(cluster.store.client_ids("bob"), ["1", "2"]);
    cluster.stop().await;
}

#[tokio::test]
async fn a_second_session_of_a_device_evicts_the_first() {
    let cluster = Cluster::start(1, &["alice"]).await;
    let mut gateway = cluster.gateway().await;
    let first = session("alice", "phone", &gateway, 1);
    let second = session("alice", "phone", &gateway, 2);
    gateway.ask(open(first.clone())).await;
    gateway.ask(open(second)).await;
    let evicted = gateway.until(|message: &mut FromRouter| message.evictions.pop()).await;
    assert_eq!(evicted.connection, 1);
    let announced = gateway.ask(Op::Announce(link::Announce { session: Some(first), presence: None })).await;
    assert!(matches!(announced, Reply::SessionOpened(opened) if opened.replaced));
    cluster.stop().await;
}

#[tokio::test]
async fn a_sign_in_that_its_client_has_given_up_takes_nothing_from_the_later_one() {
    let cluster = Cluster::start(1, &["alice"]).await;
    let mut gateway = cluster.gateway().await;
    let of_attempt =
        |attempt, connection| Session { instance: 7, attempt, ..session("alice", "phone", &gateway, connection) };
    let (later, given_up) = (of_attempt(2, 1), of_attempt(1, 2));
    assert!(later.since_ms < given_up.since_ms);
    let announce = |session: &Session| Op::Announce(link::Announce { session: Some(session.clone()), presence: None });
    for (op, replaced) in [
        (open(later.clone()), false),
        (open(given_up.clone()), true),
        (announce(&given_up), true),
        (announce(&later), false),
    ] {
        let answer = gateway.ask(op).await;
        assert!(matches!(&answer, Reply::SessionOpened(opened) if opened.replaced == replaced), "{answer:?}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_lost_lease_stops_the_router_until_it_has_a_new_one() {
    let cluster = Cluster::start(1, &["alice", "bob"]).await;
    let mut gateway = cluster.gateway().await;
    let before = cluster.ring().owner("bob").expect("owner").lease;
    cluster.store.end_leases(NodeKind::Router);
    cluster
        .wait_until("the router has a new lease", || {
            cluster.ring().owner("bob").is_some_and(|owner| owner.lease > before)
        })
        .await;
    cluster.wait_ready().await;
    gateway.ring_version = 0;
    gateway.ask_until_accepted(send("bob", 1)).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_draining_router_leaves_the_ring_and_answers_what_is_in_flight() {
    let cluster = Cluster::start(1, &["alice", "bob"]).await;
    let mut gateway = cluster.gateway().await;
    cluster.store.refuse_next(2);
    gateway.request(send("bob", 1)).await;
    let drained = cluster.drain(0);
    assert!(matches!(gateway.reply().await.1, Reply::Accepted(_)));
    drained.await;
    assert!(cluster.ring().routers().is_empty());
    assert!(gateway.is_closed().await);
    cluster.stop().await;
}

#[tokio::test]
async fn a_link_without_the_secret_is_refused() {
    let cluster = Cluster::start(1, &[]).await;
    let status = Gateway::connect_with("another-secret-of-16", &cluster.address(0)).await.err().expect("refused");
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
    cluster.stop().await;
}

#[tokio::test]
async fn users_are_made_and_replaced_by_the_administrator() {
    use carillon_proto::pb::admin::{DeleteUserRequest, PutUserRequest, StatusRequest};
    let cluster = Cluster::start(1, &[]).await;
    let mut admin = cluster.admin();
    let put = |replace| PutUserRequest { user: "dave".into(), scram: None, replace };
    let other = admin.put_user(PutUserRequest { user: "Dave".into(), ..put(false) }).await.expect_err("not a name");
    assert!(other.code() == tonic::Code::InvalidArgument && other.message().contains("\"dave\""), "{other:?}");
    admin.put_user(put(false)).await.expect("made");
    let status = admin.put_user(put(false)).await.expect_err("exists");
    assert_eq!(status.code(), tonic::Code::AlreadyExists);
    admin.put_user(put(true)).await.expect("replaced");
    let at_once = (0..20).map(|_| {
        let mut admin = cluster.admin();
        async move { admin.put_user(PutUserRequest { user: "frank".into(), scram: None, replace: false }).await }
    });
    let made = join_all(at_once).await;
    assert_eq!(made.iter().filter(|answer| answer.is_ok()).count(), 1, "{made:?}");
    // The answer is lost, and the repetition finds what the first try made.
    cluster.store.lose_answers(1);
    let erin = PutUserRequest { user: "erin".into(), scram: None, replace: false };
    admin.put_user(erin).await.expect("made");
    let mut gateway = cluster.gateway().await;
    gateway.ask_until_accepted(send("dave", 1)).await;
    let status = admin.status(StatusRequest {}).await.expect("answers").into_inner();
    assert_eq!(status.shards.len(), 8);
    let delete = || DeleteUserRequest { user: "dave".into(), time_ms: 0 };
    let deleted = admin.delete_user(delete()).await.expect("deleted").into_inner();
    assert!(deleted.inbox_ended);
    let status = admin.delete_user(delete()).await.expect_err("there is nobody");
    assert_eq!(status.code(), tonic::Code::NotFound);
    cluster.stop().await;
}

#[tokio::test]
async fn below_level_1_accounts_change_and_no_sender_is_ended() {
    use carillon_proto::pb::admin::{DeleteUserRequest, PutUserRequest};
    let cluster = Cluster::start(1, &["dave"]).await;
    cluster.store.is_below_level_1();
    // The router has seen that view before it has a link with a gateway that came later.
    let _gateway = cluster.gateway().await;
    let mut admin = cluster.admin();
    let replace = PutUserRequest { user: "dave".into(), scram: None, replace: true };
    admin.put_user(replace).await.expect("replaced");
    let delete = DeleteUserRequest { user: "dave".into(), time_ms: 0 };
    let deleted = admin.delete_user(delete).await.expect("deleted").into_inner();
    assert!(!deleted.inbox_ended, "the routers go on when the level is there");
    cluster.stop().await;
}

#[tokio::test]
async fn what_needs_the_level_waits_for_shards_that_follow_the_cluster() {
    use carillon_proto::pb::admin::{EndSessionsRequest, end_sessions_request::Which};
    let cluster = Cluster::start(1, &["dave"]).await;
    let _gateway = cluster.gateway().await;
    cluster.store.follow_the_level(3);
    let end = EndSessionsRequest { which: Some(Which::User("dave".into())) };
    cluster.admin().end_sessions(end).await.expect("is not refused");
    assert!(cluster.store.has_the_level(), "it was tried again");
    cluster.stop().await;
}

#[tokio::test]
async fn connections_of_ended_sessions_are_closed_also_if_a_shard_does_not_answer() {
    use carillon_proto::pb::admin::{EndSessionsRequest, end_sessions_request::Which};
    let cluster = Cluster::start(1, &["bob"]).await;
    let mut gateway = cluster.gateway().await;
    let bobs = session("bob", "phone", &gateway, 5);
    gateway.ask(open(bobs.clone())).await;
    cluster.store.keep_senders();
    let mut admin = cluster.admin();
    let end = admin.end_sessions(EndSessionsRequest { which: Some(Which::User("bob".into())) });
    let close = async {
        let evicted = gateway.until(|message| message.evictions.pop()).await;
        assert_eq!(evicted.connection, 5);
        gateway.ask(Op::CloseSession(link::CloseSession { session: Some(bobs) })).await;
    };
    let (ended, ()) = tokio::join!(end, close);
    assert_eq!(ended.expect_err("not all is done").code(), tonic::Code::Unavailable);
    cluster.stop().await;
}

fn direct(user: &str, device: &str, body: &'static [u8]) -> Op {
    let from = Some(link::Origin { user: "alice".into(), device: "phone".into() });
    Op::Direct(link::Direct { from, user: user.into(), device: device.into(), body: body.into() })
}

#[tokio::test]
async fn a_signal_reaches_the_sessions_of_a_user_on_another_gateway() {
    let cluster = Cluster::start(1, &["alice", "bob"]).await;
    let (mut alices, mut bobs) = (cluster.gateway().await, cluster.gateway().await);
    let session = session("bob", "phone", &bobs, 7);
    bobs.ask(open(session)).await;
    let from = Some(link::Origin { user: "alice".into(), device: "phone".into() });
    let body = bytes::Bytes::from_static(b"writing");
    let (user, device) = ("bob".to_owned(), String::new());
    alices.signal(link::Signal { from: from.clone(), user, device, body: body.clone() }).await;
    let heard = bobs.until(|message| message.signals.pop()).await;
    assert_eq!(heard, link::Signaled { connections: vec![7], from, body, notice: None });
    cluster.stop().await;
}

#[tokio::test]
async fn a_directed_request_gets_exactly_one_answer_whatever_becomes_of_the_other_gateway() {
    let cluster = Cluster::start(1, &["alice", "bob"]).await;
    let (mut alices, mut bobs) = (cluster.gateway().await, cluster.gateway().await);
    bobs.ask(open(session("bob", "phone", &bobs, 7))).await;
    let asked = alices.request(direct("bob", "phone", b"who")).await;
    let heard = bobs.until(|message| message.directed.pop()).await;
    assert_eq!((heard.connection, &heard.body[..]), (7, &b"who"[..]));
    for body in [&b"bob"[..], b"twice"] {
        let result = Some(link::direct_answer::Result::Body(body.into()));
        bobs.answers(link::DirectAnswer { id: heard.id, result }).await;
    }
    let (id, answer) = alices.reply().await;
    assert_eq!((id, answer), (asked, Reply::DirectAnswered(link::DirectAnswered { body: b"bob"[..].into() })));
    // The other gateway's link ends before it has answered.
    let asked = alices.request(direct("bob", "phone", b"who")).await;
    bobs.until(|message| message.directed.pop()).await;
    drop(bobs);
    let (id, answer) = alices.reply().await;
    let Reply::Refusal(refusal) = answer else { panic!("{answer:?}") };
    assert_eq!((id, refusal.code(), refusal.retry), (asked, client::Code::Unavailable, true));
    let Reply::Refusal(refusal) = alices.ask(direct("bob", "phone", b"who")).await else { panic!("nobody is there") };
    assert_eq!(refusal.code(), client::Code::Unavailable, "its gateway has not ended");
    cluster.stop().await;
}

#[tokio::test]
async fn what_nodes_of_an_earlier_release_do_not_know_is_told_and_fails_nothing() {
    use carillon_proto::pb::admin::{
        KeptMessage, TraceMessageRequest, kept_message::Which, trace_message_request::Message,
    };
    let cluster = Cluster::start(1, &["alice", "bob"]).await;
    let mut bobs = cluster.gateway().await;
    bobs.ask(open(session("bob", "phone", &bobs, 7))).await;
    let mut admin = cluster.admin();
    let kept = KeptMessage { user: "bob".into(), which: Some(Which::Seq(1)) };
    let answered = async {
        let asked = bobs.until(|message| message.directed.pop()).await;
        assert!((asked.connection, asked.progress) == (7, true));
        let refusal = link::Refusal { code: client::Code::Unsupported.into(), ..link::Refusal::default() };
        let result = Some(link::direct_answer::Result::Refusal(refusal));
        bobs.answers(link::DirectAnswer { id: asked.id, result }).await;
    };
    let request = TraceMessageRequest { message: Some(Message::Kept(kept)) };
    let (told, ()) = tokio::join!(admin.trace_message(request), answered);
    let told = told.expect("answered").into_inner();
    let [inbox] = &told.inboxes[..] else { panic!("{told:?}") };
    assert_eq!((told.message.is_some(), inbox.seq), (false, 0));
    assert_eq!(inbox.replicas[0].not_told, "release 0.1.0 does not know the question");
    assert_eq!(
        (&*inbox.devices[0].device, &*inbox.devices[0].not_told),
        ("phone", "its release does not know the question")
    );
    cluster.stop().await;
}
