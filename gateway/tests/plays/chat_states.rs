//! Typing and recording in conversations, over real sockets.

use carillon_proto::pb::{
    client::{
        ChatState, Code, CreateGroup, GroupRequest, Ping, ReadConversations, SetChatState, client_frame::Body,
        group_request::Change, server_frame,
    },
    link::{ChatStateTold, FromRouter, Signaled, signaled::Notice},
    store::{Conversation, ConversationRow, ConversationsMoved, MessageRequest, TimelineKey, timeline_key::Kind},
};

use crate::{
    client::{StreamClient, send},
    plays::world,
};

fn set(request: u32, to: &str, state: ChatState) -> Body {
    Body::SetChatState(SetChatState { request, to: to.to_owned(), state: state.into(), ..SetChatState::default() })
}

fn set_in(request: u32, group: &str, state: ChatState) -> Body {
    let group = group.to_owned();
    Body::SetChatState(SetChatState { request, group, state: state.into(), ..SetChatState::default() })
}

async fn hears(client: &mut StreamClient) -> String {
    match client.hears().await {
        server_frame::Body::Pong(pong) => format!("pong {}", pong.nonce),
        server_frame::Body::Done(done) => format!("done {}", done.request),
        server_frame::Body::Refused(refused) => format!("refused {:?}", refused.code()),
        server_frame::Body::Conversations(_) => "conversations".to_owned(),
        server_frame::Body::ChatState(told) if told.group.is_empty() => format!("{} {:?}", told.from, told.state()),
        server_frame::Body::ChatState(told) => format!("{} {:?} in {}", told.from, told.state(), told.group),
        server_frame::Body::Deliver(_) => "a message".to_owned(),
        server_frame::Body::Accepted(_) => "accepted".to_owned(),
        server_frame::Body::Timelines(_) => "followed".to_owned(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_sender_of_a_chat_state_is_who_was_authenticated_and_a_repeat_is_told_once() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    let states = [
        ("bob", ChatState::Composing),
        ("bob", ChatState::Composing),
        ("carol", ChatState::Composing),
        ("bob", ChatState::Paused),
    ];
    for (request, (to, state)) in (1..).zip(states) {
        alice.says(set(request, to, state)).await;
        assert_eq!(hears(&mut alice).await, format!("done {request}"));
    }
    let told = world.store().lock().chat_states.clone();
    let told: Vec<_> =
        told.iter().map(|told| (&*told.user, &*told.from.as_ref().expect("named").user, told.state())).collect();
    let expected = [("bob", ChatState::Composing), ("carol", ChatState::Composing), ("bob", ChatState::Paused)];
    assert_eq!(told, expected.map(|(to, state)| (to, "alice", state)));
    world.end().await;
}

#[tokio::test]
async fn a_chat_state_that_can_t_be_is_refused() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    let unknown =
        Body::SetChatState(SetChatState { request: 1, to: "bob".into(), state: 9, ..SetChatState::default() });
    let (to, group, state) = ("bob".into(), "club".into(), ChatState::Composing.into());
    let both = Body::SetChatState(SetChatState { request: 1, to, group, state });
    for wrong in [
        set(1, "alice", ChatState::Composing),
        set(1, "", ChatState::Composing),
        set(1, "bob", ChatState::Unspecified),
        set_in(1, "\u{7}", ChatState::Composing),
        both,
        unknown,
    ] {
        alice.says(wrong.clone()).await;
        assert_eq!(hears(&mut alice).await, format!("refused {:?}", Code::Invalid), "{wrong:?}");
    }
    assert!(world.store().lock().chat_states.is_empty());
    world.end().await;
}

#[tokio::test]
async fn a_connection_is_told_what_others_do_when_it_has_asked_for_conversations() {
    let world = world(|_| {}).await;
    let (mut phone, mut tablet) = (world.client("alice", "phone").await, world.client("alice", "tablet").await);
    phone.says(Body::ReadConversations(ReadConversations { request: 1, ..ReadConversations::default() })).await;
    assert_eq!(hears(&mut phone).await, "conversations");
    let told = ChatStateTold { from: "bob".into(), state: ChatState::Recording.into(), group: String::new() };
    world.signals("alice", Notice::ChatState(told)).await;
    assert_eq!(hears(&mut phone).await, "bob Recording");
    tablet.says(Body::Ping(Ping { nonce: 3 })).await;
    assert_eq!(hears(&mut tablet).await, "pong 3", "nothing before it");
    world.end().await;
}

/// Until `count` of these have come.
async fn hear(client: &mut StreamClient, what: &str, count: usize) {
    let mut left = count;
    while left > 0 {
        left -= usize::from(hears(client).await == what);
    }
}

#[tokio::test]
async fn in_a_group_one_state_a_second_is_passed_on_and_a_group_that_is_too_large_is_asked_once() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    world.store().lock().large_groups.insert("crowd".to_owned());
    let states = [("club", ChatState::Composing), ("club", ChatState::Paused), ("other", ChatState::Composing)];
    for (request, (group, state)) in (1..).zip(states) {
        alice.says(set_in(request, group, state)).await;
        assert_eq!(hears(&mut alice).await, format!("done {request}"));
    }
    alice.says(set_in(4, "crowd", ChatState::Composing)).await;
    assert_eq!(hears(&mut alice).await, format!("refused {:?}", Code::Unsupported));
    alice.says(set_in(5, "crowd", ChatState::Recording)).await;
    assert_eq!(hears(&mut alice).await, "done 5");
    let told = world.store().lock().chat_states.clone();
    let told: Vec<_> = told.iter().map(|told| (&*told.user, &*told.group, told.state())).collect();
    let expected = [("club", ChatState::Composing), ("other", ChatState::Composing), ("crowd", ChatState::Composing)];
    assert_eq!(told, expected.map(|(group, state)| ("", group, state)));
    world.end().await;
}

#[tokio::test]
async fn who_follows_a_group_hears_what_others_do_there_and_nobody_else_does() {
    let world = world(|_| {}).await;
    let (mut alice, mut bob) = (world.client("alice", "phone").await, world.client("bob", "phone").await);
    let mut carol = world.client("carol", "phone").await;
    let create = CreateGroup { settings: None, members: vec!["bob".into()] };
    let change = Some(Change::Create(create));
    alice.says(Body::Group(GroupRequest { client_id: "c1".into(), group: "club".into(), change })).await;
    hear(&mut alice, "a message", 2).await;
    hear(&mut bob, "a message", 2).await;
    for client in [&mut alice, &mut bob, &mut carol] {
        client.says(Body::ReadConversations(ReadConversations { request: 1, ..ReadConversations::default() })).await;
        hear(client, "conversations", 1).await;
    }
    // Of alice, to all who follow it: her own devices are left out.
    let (from, state, group) = ("alice".into(), ChatState::Composing.into(), "club".into());
    let notice = Some(Notice::ChatState(ChatStateTold { from, state, group }));
    let signals = vec![Signaled { notice, ..Signaled::default() }];
    // A client that has not caught up yet may miss the notice.
    loop {
        world.router.says(FromRouter { signals: signals.clone(), ..FromRouter::default() }).await;
        bob.says(Body::Ping(Ping { nonce: 2 })).await;
        if hears(&mut bob).await == "alice Composing in club" {
            break;
        }
    }
    for client in [&mut alice, &mut carol] {
        client.says(Body::Ping(Ping { nonce: 3 })).await;
        assert_eq!(hears(client).await, "pong 3", "nothing before it");
    }
    world.end().await;
}

#[tokio::test]
async fn strangers_hear_no_chat_states_until_they_are_accepted_or_written_to() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    alice.says(Body::ReadConversations(ReadConversations { request: 1, ..ReadConversations::default() })).await;
    hear(&mut alice, "conversations", 1).await;
    let row = |user: &str, request: MessageRequest| {
        let conversation = Some(TimelineKey { kind: Kind::Inbox.into(), owner: user.to_owned().into() });
        let row = Some(Conversation { request: request.into(), ..Conversation::default() });
        ConversationRow { conversation, row, ..ConversationRow::default() }
    };
    let moved = |rows| Notice::Conversations(ConversationsMoved { rows, ..ConversationsMoved::default() });
    let strangers = ["bob", "carol", "dave"].map(|user| row(user, MessageRequest::Open)).to_vec();
    world.signals("alice", moved(strangers)).await;
    hear(&mut alice, "conversations", 1).await;
    world.signals("alice", moved(vec![row("bob", MessageRequest::Unspecified)])).await;
    hear(&mut alice, "conversations", 1).await;
    alice.says(send("m1", "carol")).await;
    hear(&mut alice, "accepted", 1).await;
    for (request, to) in (2..).zip(["bob", "carol", "dave"]) {
        alice.says(set(request, to, ChatState::Composing)).await;
        assert_eq!(hears(&mut alice).await, format!("done {request}"));
    }
    let told: Vec<_> = world.store().lock().chat_states.iter().map(|told| told.user.clone()).collect();
    assert_eq!(told, ["bob", "carol"]);
    world.end().await;
}
