//! What users are doing in conversations, over real sockets.

use carillon_proto::pb::{
    client::{ChatState, Code, Ping, ReadConversations, SetChatState, client_frame::Body, server_frame},
    link::{ChatStateTold, signaled::Notice},
};

use crate::{client::StreamClient, plays::world};

fn set(request: u32, to: &str, state: ChatState) -> Body {
    Body::SetChatState(SetChatState { request, to: to.to_owned(), state: state.into() })
}

async fn hears(client: &mut StreamClient) -> String {
    match client.hears().await {
        server_frame::Body::Pong(pong) => format!("pong {}", pong.nonce),
        server_frame::Body::Done(done) => format!("done {}", done.request),
        server_frame::Body::Refused(refused) => format!("refused {:?}", refused.code()),
        server_frame::Body::Conversations(_) => "conversations".to_owned(),
        server_frame::Body::ChatState(told) => format!("{} {:?}", told.from, told.state()),
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
    let unknown = Body::SetChatState(SetChatState { request: 1, to: "bob".into(), state: 9 });
    for wrong in [
        set(1, "alice", ChatState::Composing),
        set(1, "", ChatState::Composing),
        set(1, "bob", ChatState::Unspecified),
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
    let told = ChatStateTold { from: "bob".into(), state: ChatState::Recording.into() };
    world.signals("alice", Notice::ChatState(told)).await;
    assert_eq!(hears(&mut phone).await, "bob Recording");
    tablet.says(Body::Ping(Ping { nonce: 3 })).await;
    assert_eq!(hears(&mut tablet).await, "pong 3", "nothing before it");
    world.end().await;
}
