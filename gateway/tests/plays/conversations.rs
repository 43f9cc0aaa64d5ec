//! Conversations over real sockets.

use carillon_proto::pb::client::{
    Code, Conversation, ConversationSettings, MoveMarks, Position, ReadConversations, ReadMark, ReadMarks, Recipient,
    SetConversation, UserMark, client_frame::Body, recipient::To, server_frame,
};

use crate::{
    client::{StreamClient, send},
    plays::world,
    router::EPOCH,
};

fn user(name: &str) -> Option<Recipient> {
    Some(Recipient { to: Some(To::User(name.to_owned())) })
}

fn group(name: &str) -> Option<Recipient> {
    Some(Recipient { to: Some(To::Group(name.to_owned())) })
}

fn read(request: u32, epoch: u64, since: u64) -> Body {
    Body::ReadConversations(ReadConversations { request, epoch, since, after: None, limit: 0 })
}

fn moves(request: u32, with: Option<Recipient>, epoch: u64, seq: u64) -> Body {
    let read = Some(Position { epoch, seq });
    Body::MoveMarks(MoveMarks { request, marks: vec![ReadMark { with, read }] })
}

fn sets(request: u32, with: Option<Recipient>, settings: ConversationSettings) -> Body {
    Body::SetConversation(SetConversation { request, with, settings: Some(settings), ..SetConversation::default() })
}

fn told(conversation: &Conversation) -> String {
    let with = match conversation.with.clone().and_then(|with| with.to).expect("named") {
        To::User(user) => user,
        To::Group(group) => format!("#{group}"),
    };
    let settings = conversation.settings.clone().unwrap_or_default();
    let pinned = if settings.pinned() { " pinned" } else { "" };
    format!("{with} {}{pinned} {}", conversation.read.map_or(0, |read| read.seq), settings.draft())
}

/// The client's next frame, in short. Conversations and marks begin with the number of the request.
async fn hears(client: &mut StreamClient) -> String {
    match client.hears().await {
        server_frame::Body::Conversations(heard) => {
            let all: Vec<_> = heard.conversations.iter().map(told).collect();
            let heard = format!("{}: {}..{} {}", heard.request, heard.before, heard.version, all.join(", "));
            heard.trim_end().to_owned()
        }
        server_frame::Body::Marks(heard) => {
            let of =
                |mark: &UserMark| format!("{} {}{}", mark.user, mark.read_id, mark.read.map_or(0, |read| read.seq));
            format!("{}: {}", heard.request, heard.marks.iter().map(of).collect::<Vec<_>>().join(", "))
        }
        server_frame::Body::Refused(refused) => {
            format!("{:?} {:?}", refused.what.clone().expect("of one"), refused.code())
        }
        server_frame::Body::Accepted(_) => "accepted".to_owned(),
        server_frame::Body::Deliver(_) => "delivered".to_owned(),
        other => panic!("{other:?}"),
    }
}

/// The next `count` frames, which come in any order.
async fn hear(client: &mut StreamClient, count: usize) -> Vec<String> {
    let mut heard = Vec::new();
    for _ in 0..count {
        heard.push(hears(client).await);
    }
    heard.sort();
    heard
}

#[tokio::test]
async fn what_one_device_reads_all_devices_of_the_user_hear_and_the_other_side() {
    let world = world(|_| {}).await;
    let (mut phone, mut web) = (world.client("alice", "phone").await, world.client("alice", "web").await);
    let mut bob = world.client("bob", "phone").await;
    for (client, request) in [(&mut phone, 1), (&mut web, 2), (&mut bob, 3)] {
        client.says(read(request, 0, 0)).await;
        assert_eq!(hears(client).await, format!("{request}: 0..0"));
    }
    phone.says(moves(4, user("bob"), EPOCH, 5)).await;
    assert_eq!(hear(&mut phone, 2).await, ["0: 0..1 bob 5", "4: 0..1 bob 5"]);
    assert_eq!(hears(&mut web).await, "0: 0..1 bob 5");
    assert_eq!(hears(&mut bob).await, "0: alice m50");
    let pinned = ConversationSettings { pinned: Some(true), draft: Some("hi".into()), ..Default::default() };
    web.says(sets(5, group("club"), pinned)).await;
    assert_eq!(hear(&mut web, 2).await, ["0: 1..2 #club 0 pinned hi", "5: 1..2 #club 0 pinned hi"]);
    assert_eq!(hears(&mut phone).await, "0: 1..2 #club 0 pinned hi");
    phone.says(read(6, EPOCH, 1)).await;
    assert_eq!(hears(&mut phone).await, "6: 0..2 #club 0 pinned hi", "only what has changed since");
    world.end().await;
}

#[tokio::test]
async fn a_client_that_did_not_ask_for_conversations_hears_nothing_of_them() {
    let world = world(|_| {}).await;
    let (mut old, mut new) = (world.client("alice", "old").await, world.client("alice", "new").await);
    old.says(send("m1", "bob")).await;
    assert_eq!(hears(&mut old).await, "accepted");
    assert_eq!(hears(&mut new).await, "delivered");
    assert_eq!(world.store().lock().want_marks, 0);
    new.says(read(1, 0, 0)).await;
    assert_eq!(hears(&mut new).await, "1: 0..0");
    new.says(moves(2, user("bob"), EPOCH, 1)).await;
    assert_eq!(hear(&mut new, 2).await, ["0: 0..1 bob 1", "2: 0..1 bob 1"]);
    new.says(send("m2", "bob")).await;
    assert_eq!(hears(&mut new).await, "accepted");
    // Nothing came in between.
    assert_eq!(hears(&mut old).await, "delivered");
    assert_eq!(world.store().lock().want_marks, 1);
    world.end().await;
}

#[tokio::test]
async fn marks_of_others_come_in_the_order_of_the_question() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    let ask = |request, group: &str, users: &[&str]| {
        let users = users.iter().map(|user| (*user).to_owned()).collect();
        Body::ReadMarks(ReadMarks { request, group: group.to_owned(), users })
    };
    alice.says(ask(1, "", &["carol", "bob"])).await;
    assert_eq!(hears(&mut alice).await, "1: carol of carol0, bob of bob0");
    alice.says(ask(2, "club", &["bob"])).await;
    assert_eq!(hears(&mut alice).await, "2: bob 4");
    alice.says(ask(3, "hidden", &["bob"])).await;
    assert_eq!(hears(&mut alice).await, format!("Request(3) {:?}", Code::NotFound));
    world.end().await;
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_by_their_numbers() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    let long = ConversationSettings { draft: Some("x".repeat(4097)), ..Default::default() };
    let unknown = ConversationSettings { notify: Some(99), ..Default::default() };
    let many =
        (0..257).map(|_| ReadMark { with: user("bob"), read: Some(Position { epoch: EPOCH, seq: 1 }) }).collect();
    let wrong = [
        (moves(1, user("b b"), EPOCH, 1), Code::Invalid),
        (moves(2, None, EPOCH, 1), Code::Invalid),
        (moves(3, user("bob"), 0, 1), Code::Invalid),
        (Body::MoveMarks(MoveMarks { request: 4, marks: many }), Code::Invalid),
        (sets(5, user("bob"), ConversationSettings::default()), Code::Invalid),
        (sets(6, user("bob"), long), Code::TooLarge),
        (sets(7, user("bob"), unknown), Code::Invalid),
        (Body::ReadMarks(ReadMarks { request: 8, group: String::new(), users: Vec::new() }), Code::Invalid),
    ];
    for ((frame, code), request) in wrong.into_iter().zip(1..) {
        alice.says(frame).await;
        assert_eq!(hears(&mut alice).await, format!("Request({request}) {code:?}"));
    }
    // The connection goes on.
    alice.says(read(9, 0, 0)).await;
    assert_eq!(hears(&mut alice).await, "9: 0..0");
    world.end().await;
}
