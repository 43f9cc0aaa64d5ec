//! The client when connections break, messages are refused, and gateways come and go.

use std::time::Duration;

use crate::gateway::{Gateway, accepted, at, config, delivered, ended, inbox, next, open, within};
use carillon_client::{Acknowledge, Address, Client, ClientConfig, Ending, Event, SendError};
use carillon_proto::{
    GroupId, TimelineId,
    pb::client::{
        Bye, Code, Direction, Done, Limits, Page, Pong, Refused, Show, SignedIn, TimelinePosition, TimelineState,
        Timelines, client_frame, refused::What, server_frame,
    },
};
use futures_util::FutureExt as _;

async fn submit(client: &Client, text: &str) -> carillon_client::Pending {
    client.submit(Client::user("bob"), Client::text(text)).await.expect("taken")
}

#[tokio::test]
async fn unanswered_sends_go_out_again_first_in_order_and_under_the_same_ids() {
    let gateway = Gateway::start().await;
    let (client, _events) = open(config(&[&gateway]));
    let pending = [submit(&client, "a").await, submit(&client, "b").await, submit(&client, "c").await];
    let (mut peer, _) = gateway.accept_signed_in(0).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(peer.receive_send().await);
    }
    peer.accept(&ids[1], 1).await;
    let [a, b, c] = pending;
    assert_eq!(within("the answer", b).await.expect("accepted").message_id, "message-1");
    drop(peer);
    let d = submit(&client, "d").await;

    let (mut peer, _) = gateway.accept_signed_in(0).await;
    assert_eq!(peer.receive_send().await, ids[0]);
    assert_eq!(peer.receive_send().await, ids[2]);
    let newer = peer.receive_send().await;
    assert_eq!(newer, d.client_id);
    for (number, id) in [&ids[0], &ids[2], &newer].into_iter().enumerate() {
        peer.accept(id, 2 + number as u64).await;
    }
    for pending in [a, c, d] {
        within("the answer", pending).await.expect("accepted");
    }
}

#[tokio::test]
async fn an_answer_is_there_before_what_the_service_has_told_after_it() {
    let gateway = Gateway::start().await;
    let (client, mut events) = open(config(&[&gateway]));
    let (mut peer, _) = gateway.accept_signed_in(1).await;
    for round in 0..50 {
        let (accepted, refused) = (submit(&client, "a").await, submit(&client, "b").await);
        peer.receive_send().await;
        peer.receive_send().await;
        let no = Refused { what: Some(What::ClientId(refused.client_id.clone())), ..Refused::default() };
        peer.accept(&accepted.client_id, 2 + 2 * round).await;
        peer.send(server_frame::Body::Refused(no)).await;
        peer.deliver(3 + 2 * round).await;
        assert!(matches!(next(&mut events).await, Event::Sent { .. }));
        assert_eq!(delivered(&next(&mut events).await), 3 + 2 * round);
        accepted.now_or_never().expect("it is there").expect("accepted");
        refused.now_or_never().expect("it is there").expect_err("refused");
    }
}

#[tokio::test]
async fn every_sign_in_of_a_running_client_has_the_next_number() {
    let gateway = Gateway::start().await;
    let (client, _events) = open(config(&[&gateway]));
    let (peer, first) = gateway.accept_signed_in(0).await;
    drop(peer);
    // The second one gets no answer.
    let mut peer = gateway.accept().await;
    let client_frame::Body::SignIn(second) = peer.receive().await else { panic!("no SignIn") };
    drop(peer);
    let (_peer, third) = gateway.accept_signed_in(0).await;
    let numbers = [&first, &second, &third].map(|sign_in| (sign_in.instance, sign_in.attempt));
    assert_eq!(numbers, [1, 2, 3].map(|attempt| (first.instance, attempt)));
    assert_ne!(first.instance, 0);
    client.close().await;

    let (_client, _events) = open(config(&[&gateway]));
    let (_peer, anew) = gateway.accept_signed_in(0).await;
    assert!(anew.instance != first.instance && anew.attempt == 1, "{anew:?}");
}

#[tokio::test]
async fn of_many_frames_that_come_at_once_none_is_dropped() {
    const SENDS: usize = 99;
    let gateway = Gateway::start().await;
    let (client, _events) = open(config(&[&gateway]));
    let (mut peer, _) = gateway.accept_signed_in(3).await;
    let mut pending = Vec::new();
    let mut answers = Vec::new();
    for _ in 0..SENDS {
        pending.push(submit(&client, "a").await);
        // All answers have the same position, so that they cause no events.
        answers.push(accepted(&peer.receive_send().await, 3));
    }
    peer.send_together(answers).await;
    for pending in pending {
        within("the answer", pending).await.expect("accepted");
    }
}

#[tokio::test]
async fn every_position_is_given_once_over_a_reconnect() {
    let gateway = Gateway::start().await;
    let (client, mut events) = open(config(&[&gateway]));
    let (mut peer, sign_in) = gateway.accept_signed_in(3).await;
    assert!(sign_in.positions.is_empty());
    for seq in [4, 4, 2, 5] {
        peer.deliver(seq).await;
    }
    let pending = submit(&client, "own").await;
    let id = peer.receive_send().await;
    peer.accept(&id, 6).await;
    within("the answer", pending).await.expect("accepted");
    assert_eq!(delivered(&next(&mut events).await), 4);
    assert_eq!(delivered(&next(&mut events).await), 5);
    assert!(matches!(next(&mut events).await, Event::Sent { position, .. } if position == at(6)));
    // One position too far: the client reconnects and asks again from its own position.
    peer.deliver(8).await;
    let (mut peer, sign_in) = gateway.accept_signed_in(6).await;
    let known = TimelinePosition { timeline: Some(inbox().to_client()), position: Some(at(6).into()) };
    assert_eq!(sign_in.positions, [known]);
    peer.deliver(6).await;
    peer.deliver(7).await;
    peer.deliver(8).await;
    assert_eq!(delivered(&next(&mut events).await), 7);
    assert_eq!(delivered(&next(&mut events).await), 8);
}

#[tokio::test]
async fn what_the_application_has_taken_is_acknowledged_and_nothing_else() {
    let gateway = Gateway::start().await;
    let settings = carillon_client::ClientConfig {
        acknowledge: Acknowledge::Taken(Duration::from_millis(1)),
        ..config(&[&gateway])
    };
    let (_client, mut events) = open(settings);
    let (mut peer, _) = gateway.accept_signed_in(3).await;
    for seq in [4, 5, 6] {
        peer.deliver(seq).await;
    }
    for _ in 0..2 {
        next(&mut events).await;
    }
    // The application has asked for the second event, so it is done with the first.
    let acknowledged = async |peer: &mut crate::gateway::Peer| match peer.receive().await {
        client_frame::Body::Ack(ack) => ack.position.expect("set").seq,
        other => panic!("expected Ack, got {other:?}"),
    };
    assert_eq!(acknowledged(&mut peer).await, 4);
    next(&mut events).await;
    events.done();
    let mut last = 4;
    while last < 6 {
        let seq = acknowledged(&mut peer).await;
        assert!(seq > last, "acknowledged {seq} after {last}");
        last = seq;
    }
    // The acknowledgement may have been lost with the connection.
    drop(peer);
    let (mut peer, _) = gateway.accept_signed_in(6).await;
    assert_eq!(acknowledged(&mut peer).await, 6);
}

#[tokio::test]
async fn a_refusal_for_now_is_tried_again_and_a_final_one_is_the_answer() {
    let gateway = Gateway::start().await;
    let (client, _events) = open(config(&[&gateway]));
    let (mut peer, _) = gateway.accept_signed_in(3).await;
    let refused = |id: &str, code: Code, retry| {
        server_frame::Body::Refused(Refused {
            what: Some(What::ClientId(id.to_owned())),
            code: code.into(),
            reason: "says the test".into(),
            retry,
            retry_after_ms: 10,
        })
    };
    let pending = submit(&client, "a").await;
    let id = peer.receive_send().await;
    peer.send(refused(&id, Code::Unavailable, true)).await;
    assert_eq!(peer.receive_send().await, id);
    peer.accept(&id, 4).await;
    within("the answer", pending).await.expect("accepted");

    let pending = submit(&client, "b").await;
    let id = peer.receive_send().await;
    peer.send(refused(&id, Code::NotFound, false)).await;
    match within("the answer", pending).await {
        Err(SendError::Refused(refusal)) => assert_eq!(refusal.code, Code::NotFound),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn a_send_that_nobody_answers_is_given_up_with_its_id() {
    let gateway = Gateway::start().await;
    let settings = carillon_client::ClientConfig { send_timeout: Duration::from_millis(50), ..config(&[&gateway]) };
    let (client, _events) = open(settings);
    let pending = submit(&client, "a").await;
    let expected = pending.client_id.clone();
    match within("the time-out", pending).await {
        Err(SendError::TimedOut { client_id, .. }) => assert_eq!(client_id, expected),
        other => panic!("expected a time-out, got {other:?}"),
    }
}

#[tokio::test]
async fn bye_says_whether_to_come_back() {
    let (first, second) = (Gateway::start().await, Gateway::start().await);
    let (client, mut events) = open(config(&[&first, &second]));
    let bye = |code: Code, reconnect| server_frame::Body::Bye(Bye { code: code.into(), reconnect, ..Bye::default() });
    // The first address is random; after a goodbye the client goes to the other one.
    let (mut peer, other) = tokio::select! {
        (peer, _) = first.accept_signed_in(3) => (peer, &second),
        (peer, _) = second.accept_signed_in(3) => (peer, &first),
    };
    peer.send(bye(Code::ShuttingDown, true)).await;
    let (mut peer, _) = other.accept_signed_in(3).await;
    let pending = submit(&client, "a").await;
    peer.receive_send().await;
    peer.send(bye(Code::Replaced, false)).await;
    let (ending, why) = ended(&mut events).await;
    assert!(ending == Ending::Replaced && why.contains("REPLACED"), "{ending:?}: {why}");
    assert_eq!(client.ending(), Some(Ending::Replaced));
    assert!(matches!(within("the answer", pending).await, Err(SendError::Ended(_))));
    assert!(matches!(client.send(Client::user("bob"), Client::text("b")).await, Err(SendError::Ended(_))));
}

#[tokio::test]
async fn wrong_credentials_end_the_client() {
    let gateway = Gateway::start().await;
    let (client, mut events) = open(config(&[&gateway]));
    let mut peer = gateway.accept().await;
    peer.receive().await;
    let refused = Refused { code: Code::Unauthenticated.into(), reason: "no".into(), ..Refused::default() };
    peer.send(server_frame::Body::Refused(refused)).await;
    let (ending, why) = ended(&mut events).await;
    assert!(ending == Ending::NotLetIn && ending.needs_credential() && why.contains("UNAUTHENTICATED"), "{why}");
    client.connected(Duration::from_secs(5)).await.expect_err("never");
}

#[tokio::test]
async fn a_wrong_path_ends_the_client_unless_another_address_is_right() {
    let (nowhere, gateway) = (Gateway::start().await, Gateway::start().await);
    let wrong: Address = format!("ws://{}/wrong", nowhere.address).parse().expect("an address");
    let mut settings = config(&[&gateway]);
    settings.addresses.push(wrong.clone());
    let (client, _events) = open(settings.clone());
    let not_found = async {
        loop {
            nowhere.answer_not_found().await;
        }
    };
    let _peer = tokio::select! {
        (peer, _) = gateway.accept_signed_in(0) => peer,
        never = not_found => never,
    };
    client.connected(Duration::from_secs(5)).await.expect("the other address is right");
    let (_client, mut events) = open(ClientConfig { addresses: vec![wrong], ..settings });
    nowhere.answer_not_found().await;
    let (ending, why) = ended(&mut events).await;
    assert!(ending == Ending::NoWebSocket && why.contains("/wrong") && why.contains("404"), "{ending:?}: {why}");
}

#[tokio::test]
async fn history_is_fetched_again_after_a_reconnect() {
    let gateway = Gateway::start().await;
    let (client, _events) = open(config(&[&gateway]));
    let timeline = inbox();
    let fetching = client.fetch(&timeline, Direction::Backward, 0, 10);
    let serving = async {
        let (mut peer, _) = gateway.accept_signed_in(3).await;
        assert!(matches!(peer.receive().await, client_frame::Body::Fetch(_)));
        drop(peer);
        let (mut peer, _) = gateway.accept_signed_in(3).await;
        let client_frame::Body::Fetch(fetch) = peer.receive().await else { panic!("no Fetch") };
        let page = Page { request: fetch.request, last: 3, ..Page::default() };
        peer.send(server_frame::Body::Page(page)).await;
        peer
    };
    let (page, _peer) = tokio::join!(fetching, serving);
    assert_eq!(page.expect("a page").last, 3);
}

#[tokio::test]
async fn a_gateway_that_does_not_deliver_what_it_has_is_left() {
    let gateway = Gateway::start().await;
    let (_client, _events) = open(config(&[&gateway]));
    let (mut peer, _) = gateway.accept_signed_in(3).await;
    let head = TimelinePosition { timeline: Some(inbox().to_client()), position: Some(at(5).into()) };
    for _ in 0..2 {
        peer.send(server_frame::Body::Pong(Pong { nonce: 0, heads: vec![head.clone()] })).await;
    }
    gateway.accept_signed_in(3).await;
}

#[tokio::test]
async fn a_gateway_that_is_silent_while_a_send_waits_is_left_and_one_that_is_idle_is_not() {
    let gateway = Gateway::start().await;
    let answer_patience = Duration::from_millis(50);
    let settings = carillon_client::ClientConfig { answer_patience, ..config(&[&gateway]) };
    let (client, _events) = open(settings);
    let (mut first, _) = gateway.accept_signed_in(3).await;
    // Longer than the timeout for answers, while no request is open.
    tokio::time::sleep(answer_patience * 4).await;
    let pending = submit(&client, "a").await;
    let id = first.receive_send().await;
    let (mut second, _) = gateway.accept_signed_in(3).await;
    assert_eq!(second.receive_send().await, id);
    second.accept(&id, 4).await;
    within("the answer", pending).await.expect("accepted");
}

#[tokio::test]
async fn positions_that_the_sign_in_has_no_room_for_follow_it_if_the_service_takes_them() {
    let group = |number: u64| TimelineId::Group(GroupId::new(&format!("group-{number:0>4}")).expect("valid"));
    let groups = (0..2000).map(|number| (group(number), at(number)));
    let positions = groups.chain([(inbox(), at(3))]).collect();
    let gateway = Gateway::start().await;
    let settings = carillon_client::ClientConfig { positions, ..config(&[&gateway]) };
    let (client, mut events) = open(settings);
    let mut peer = gateway.accept().await;
    let client_frame::Body::SignIn(sign_in) = peer.receive().await else { panic!("no SignIn") };
    assert!(sign_in.more_positions);
    let limits = Some(Limits { max_pending_sends: 100, max_frame_bytes: 65_536, ..Limits::default() });
    let features = vec!["sign-in.more-positions".to_owned()];
    peer.send(server_frame::Body::SignedIn(SignedIn { limits, features, heartbeat_ms: 60_000, ..SignedIn::default() }))
        .await;
    let pending = submit(&client, "behind them").await;
    let mut told = sign_in.positions.len();
    loop {
        let client_frame::Body::Positions(positions) = peer.receive().await else { panic!("no Positions") };
        told += positions.positions.len();
        if !positions.more {
            break;
        }
    }
    assert_eq!(told, 2001);
    // After a new epoch the device has nothing of the timeline.
    let began =
        |timeline: TimelineId| TimelineState { timeline: Some(timeline.to_client()), epoch: 8, ..Default::default() };
    peer.send(server_frame::Body::Timelines(Timelines { timelines: vec![began(group(7))] })).await;
    match next(&mut events).await {
        Event::Trimmed { timeline, first } => assert_eq!((timeline, first.seq), (group(7), 1)),
        other => panic!("{other:?}"),
    }
    let id = peer.receive_send().await;
    peer.accept(&id, 4).await;
    within("the answer", pending).await.expect("accepted");
    drop(peer);

    // A service without this feature starts the delivery of all timelines at once.
    let (mut peer, sign_in) = gateway.accept_signed_in(4).await;
    assert!(sign_in.more_positions);
    let pending = submit(&client, "no positions").await;
    let id = peer.receive_send().await;
    peer.accept(&id, 5).await;
    within("the answer", pending).await.expect("accepted");
}

#[tokio::test]
async fn closing_signs_out() {
    let gateway = Gateway::start().await;
    let (client, mut events) = open(config(&[&gateway]));
    let (mut peer, _) = gateway.accept_signed_in(3).await;
    client.connected(Duration::from_secs(20)).await.expect("signed in");
    let goodbye = async {
        assert!(matches!(peer.receive().await, client_frame::Body::SignOut(_)));
        peer.send(server_frame::Body::Bye(Bye { code: Code::SignedOut.into(), ..Bye::default() })).await;
    };
    tokio::join!(client.close(), goodbye);
    assert_eq!(ended(&mut events).await, (Ending::Closed, "closed".to_owned()));
}

/// After the death of a gateway a service may be too busy for all who come back at once.
#[tokio::test]
async fn what_the_user_shows_is_shown_again_when_that_was_refused_for_now() {
    let gateway = Gateway::start().await;
    let (client, _events) = open(config(&[&gateway]));
    let (mut peer, _) = gateway.accept_signed_in(0).await;
    let answers = async {
        let client_frame::Body::SetPresence(set) = peer.receive().await else { panic!("no show") };
        peer.send(server_frame::Body::Done(Done { request: set.request })).await;
    };
    let (shown, ()) =
        within("the answer", async { tokio::join!(client.show(Show::Away, "at lunch", 0), answers) }).await;
    shown.expect("shown");
    drop(peer);

    let mut peer = gateway.accept().await;
    let client_frame::Body::SignIn(_) = peer.receive().await else { panic!("no SignIn") };
    let limits = Some(Limits { max_pending_sends: 100, ..Limits::default() });
    let features = vec!["contacts".to_owned()];
    peer.send(server_frame::Body::SignedIn(SignedIn { limits, features, heartbeat_ms: 60_000, ..SignedIn::default() }))
        .await;
    for _ in 0..2 {
        let client_frame::Body::SetPresence(again) = peer.receive().await else { panic!("no show") };
        assert_eq!((again.show(), &*again.status), (Show::Away, "at lunch"));
        let refused = Refused {
            what: Some(What::Request(again.request)),
            code: Code::Unavailable.into(),
            retry: true,
            ..Refused::default()
        };
        peer.send(server_frame::Body::Refused(refused)).await;
    }
}
