//! Messages that refer to messages, over real sockets.

use carillon_proto::pb::{
    client::{
        ClientFrame, Code, Content, CreateGroup, Direction, Edit, Entry, Fetch, GroupRequest, Mentions, MessageRef,
        Pin, Poll, Reaction, Recall, Recipient, Send, Text, Timeline, Vote, client_frame::Body, content::Body as Of,
        group_request::Change, recipient::To, server_frame, timeline::Owner,
    },
    store::{Header, header::Kind},
};
use serde_json::json;

use crate::{
    client::{JsonClient, StreamClient, send, sign_in},
    plays::world,
};

/// Ids of clients: the small router makes them the ids of messages, too.
const FIRST: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
const UNKNOWN: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAW";

fn of(id: &str, sender: &str) -> Option<MessageRef> {
    let (id, sender) = (id.to_owned(), sender.to_owned());
    Some(MessageRef { client_id: id.clone(), id, sender, sender_device: "phone".to_owned(), ..MessageRef::default() })
}

fn text(body: &str) -> Content {
    Content { body: Some(Of::Text(Text { body: body.to_owned() })), ..Content::default() }
}

fn edit(target: Option<MessageRef>, body: &str) -> Of {
    Of::Edit(Box::new(Edit { target, content: Some(Box::new(text(body))) }))
}

fn reaction(target: Option<MessageRef>, emojis: &[&str]) -> Of {
    Of::Reaction(Reaction { target, emojis: emojis.iter().map(|emoji| (*emoji).to_owned()).collect() })
}

fn poll(options: usize) -> Of {
    Of::Poll(Poll { question: "when?".to_owned(), options: vec!["noon".to_owned(); options], ..Poll::default() })
}

fn content(body: Of) -> Content {
    Content { body: Some(body), ..Content::default() }
}

fn says(client_id: &str, to: To, body: Of) -> Body {
    says_content(client_id, to, content(body))
}

fn says_content(client_id: &str, to: To, content: Content) -> Body {
    let to = Some(Recipient { to: Some(to) });
    Body::Send(Send {
        client_id: client_id.to_owned(),
        to,
        content: Some(content),
        after: String::new(),
        expires_after_ms: 0,
    })
}

fn user(name: &str) -> To {
    To::User(name.to_owned())
}

fn fetch(edits_of: u64) -> Body {
    let timeline = Some(Timeline { owner: Some(Owner::Inbox("bob".to_owned())) });
    Body::Fetch(Fetch { request: 9, timeline, direction: Direction::Forward.into(), edits_of, ..Fetch::default() })
}

/// The client's next frame, in short: `delivered` with the message's content, `accepted`, or the reason of a refusal.
async fn hears(client: &mut StreamClient) -> String {
    match client.hears().await {
        server_frame::Body::Deliver(deliver) => {
            format!("delivered {}", said(deliver.envelope.expect("an envelope").content.as_ref()))
        }
        server_frame::Body::Accepted(accepted) => format!("accepted {}", accepted.client_id),
        server_frame::Body::Refused(refused) => format!("{:?}: {}", refused.code(), refused.reason),
        server_frame::Body::Timelines(_) => "timelines".to_owned(),
        other => panic!("{other:?}"),
    }
}

fn said(content: Option<&Content>) -> String {
    match content.and_then(|content| content.body.as_ref()) {
        Some(Of::Text(text)) => text.body.clone(),
        Some(Of::Edit(edit)) => format!("edit: {}", said(edit.content.as_deref())),
        Some(Of::Recall(_)) => "recall".to_owned(),
        Some(Of::Reaction(reaction)) => format!("reaction: {}", reaction.emojis.join(" ")),
        // A change of a group.
        None => "change".to_owned(),
        other => panic!("{other:?}"),
    }
}

async fn page(client: &mut StreamClient, edits_of: u64) -> Vec<Entry> {
    client.says(fetch(edits_of)).await;
    match client.hears().await {
        server_frame::Body::Page(page) => page.entries,
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
async fn an_edit_a_reaction_and_a_recall_come_live_and_stand_in_pages() {
    let world = world(|config| (config.edit_window_s, config.edit_history) = (0, true)).await;
    let (mut alice, mut web) = (world.client("alice", "phone").await, world.client("alice", "web").await);
    let mut bob = world.client("bob", "phone").await;
    alice.says(send(FIRST, "bob")).await;
    assert_eq!(hears(&mut alice).await, format!("accepted {FIRST}"));
    assert_eq!(hears(&mut bob).await, format!("delivered {FIRST}"));
    assert_eq!(hears(&mut web).await, format!("delivered {FIRST}"));
    bob.says(says("b1", user("alice"), reaction(of(FIRST, "alice"), &["👍"]))).await;
    assert_eq!(hears(&mut bob).await, "accepted b1");
    assert_eq!(hears(&mut alice).await, "delivered reaction: 👍");
    assert_eq!(hears(&mut web).await, "delivered reaction: 👍");
    alice.says(says("a2", user("bob"), edit(of(FIRST, "alice"), "otherwise"))).await;
    assert_eq!(hears(&mut alice).await, "accepted a2");
    assert_eq!(hears(&mut bob).await, "delivered edit: otherwise");
    assert_eq!(hears(&mut web).await, "delivered edit: otherwise");

    let entries = page(&mut bob, 0).await;
    assert_eq!(said(entries[0].envelope.as_ref().and_then(|envelope| envelope.content.as_ref())), FIRST);
    let state = entries[0].state.clone().expect("something refers to it");
    assert_eq!((state.edits, state.reactions[0].emoji.as_str()), (1, "👍"));
    assert_eq!(said(state.edit.expect("the last one").content.as_ref()), "edit: otherwise");
    assert_eq!(entries[1].state, None, "nothing refers to the reaction");
    let edits = page(&mut bob, entries[0].seq).await;
    let edits = edits.iter().map(|edit| said(edit.envelope.as_ref().and_then(|envelope| envelope.content.as_ref())));
    assert_eq!(edits.collect::<Vec<_>>(), [FIRST, "edit: otherwise"]);

    let recall = Of::Recall(Recall { target: of(FIRST, "alice"), erase: false });
    alice.says(says("a3", user("bob"), recall)).await;
    assert_eq!(hears(&mut alice).await, "accepted a3");
    assert_eq!(hears(&mut bob).await, "delivered recall");
    let state = page(&mut bob, 0).await[0].state.clone().expect("something refers to it");
    assert_eq!(
        (state.recall.expect("is recalled").client_id, state.edit, state.reactions),
        ("a3".into(), None, vec![])
    );
    world.end().await;
}

#[tokio::test]
async fn what_the_store_refuses_is_refused_with_its_reason_and_nobody_hears_of_it() {
    let world = world(|_| {}).await;
    let (mut alice, mut bob) = (world.client("alice", "phone").await, world.client("bob", "phone").await);
    alice.says(send(FIRST, "bob")).await;
    assert_eq!(hears(&mut alice).await, format!("accepted {FIRST}"));
    assert_eq!(hears(&mut bob).await, format!("delivered {FIRST}"));
    let recall = |sender| Of::Recall(Recall { target: of(FIRST, sender), erase: false });
    for (who, to, body, expected) in [
        ("alice", "bob", edit(of(FIRST, "alice"), "later"), Code::TooLate),
        ("alice", "bob", edit(of(UNKNOWN, "alice"), "?"), Code::NotFound),
        ("bob", "alice", reaction(of(UNKNOWN, "alice"), &["x"]), Code::NotFound),
        ("bob", "alice", edit(of(FIRST, "alice"), "mine"), Code::Forbidden),
        ("bob", "alice", recall("alice"), Code::Forbidden),
    ] {
        let client = if who == "alice" { &mut alice } else { &mut bob };
        client.says(says("again", user(to), body)).await;
        assert_eq!(hears(client).await, format!("{expected:?}: refused"));
    }
    // The next thing that anybody hears is this.
    bob.says(send("b2", "alice")).await;
    assert_eq!(hears(&mut bob).await, "accepted b2");
    assert_eq!(hears(&mut alice).await, "delivered b2");
    world.end().await;
}

#[tokio::test]
async fn content_that_is_wrong_about_another_message_never_reaches_a_router() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    let to_all = Some(Box::new(Mentions { all: true, ..Mentions::default() }));
    let edit_of_poll = Edit { target: of(FIRST, "alice"), content: Some(Box::new(content(poll(2)))) };
    let users = (0..65).map(|user| format!("user{user}")).collect();
    for (to, content, says) in [
        (user("bob"), content(edit(None, "x")), "target is missing"),
        (user("bob"), content(edit(of("no id", "alice"), "x")), "target"),
        (user("bob"), content(edit(of(FIRST, "carol"), "x")), "another conversation"),
        (user("bob"), content(edit(of(FIRST, "alice"), "")), "text.body"),
        (user("bob"), content(Of::Edit(Box::new(edit_of_poll))), "edit.content"),
        (user("bob"), content(reaction(of(FIRST, "bob"), &["x", "x"])), "reaction.emojis has one twice"),
        (user("bob"), content(reaction(of(FIRST, "bob"), &[&"x".repeat(65)])), "reaction.emojis"),
        (user("bob"), content(poll(1)), "poll.options"),
        (user("bob"), content(poll(33)), "poll.options"),
        (user("bob"), content(Of::Vote(Vote { target: of(FIRST, "bob"), options: vec![1, 1] })), "vote.options"),
        (user("bob"), Content { mentions: to_all, ..content(reaction(of(FIRST, "bob"), &["x"])) }, "mentions nothing"),
        (
            user("bob"),
            Content { mentions: Some(Box::new(Mentions { users, ..Mentions::default() })), ..text("x") },
            "64",
        ),
        (To::Group("club".to_owned()), content(reaction(of(FIRST, "bob"), &["x"])), "target.seq"),
    ] {
        alice.says(says_content("c", to, content)).await;
        let heard = hears(&mut alice).await;
        assert!(heard.starts_with("Invalid: ") && heard.contains(says), "{heard} does not say {says}");
    }
    let mut bob = world.client("bob", "phone").await;
    bob.says(fetch(1)).await;
    assert_eq!(hears(&mut bob).await, "Forbidden: this service shows only the last edit of a message");
    assert!(world.store().lock().headers.is_empty());
    assert!(world.store().lock().inboxes.is_empty());
    world.end().await;
}

#[tokio::test]
async fn what_the_store_has_to_know_of_messages_in_a_group_reaches_it() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    let change = Some(Change::Create(CreateGroup { settings: None, members: vec!["bob".to_owned()] }));
    alice.says(Body::Group(GroupRequest { client_id: "g".into(), group: "club".into(), change })).await;
    hear(&mut alice, 4).await;
    let mentions = Mentions { users: vec!["bob".to_owned()], all: true, here: false };
    let at = |target: Option<MessageRef>| target.map(|target| MessageRef { seq: 2, ..target });
    let asks = Content { mentions: Some(Box::new(mentions)), body: Some(poll(2)), ..Content::default() };
    let pin = Of::Pin(Pin { target: at(of(FIRST, "alice")), unpin: false });
    let vote = Of::Vote(Vote { target: at(of(FIRST, "alice")), options: vec![1] });
    let club = || To::Group("club".to_owned());
    for (id, content) in [(FIRST, asks), ("pins", content(pin)), ("votes", content(vote)), ("plain", text("hello"))] {
        alice.says(says_content(id, club(), content)).await;
        assert_eq!(hears(&mut alice).await, format!("accepted {id}"));
    }
    let headers = std::mem::take(&mut world.store().lock().headers);
    let [asks, pin, vote] = &headers[..] else { panic!("{headers:?}") };
    let told = asks.mentions.as_ref().map(|mentions| (mentions.users.join(","), mentions.all, mentions.here));
    assert_eq!((asks.kind(), asks.countable, told), (Kind::Message, true, Some(("bob".to_owned(), true, false))));
    assert_eq!(asks.poll.map(|poll| poll.options), Some(2));
    let target = |header: &Header| header.refers_to.as_ref().map(|target| (target.id.clone(), target.seq));
    assert_eq!((pin.kind(), pin.countable, target(pin)), (Kind::Pin, false, Some((FIRST.to_owned(), 2))));
    assert_eq!((vote.kind(), &vote.votes[..], target(vote)), (Kind::Vote, &[1][..], Some((FIRST.to_owned(), 2))));
    world.end().await;
}

#[tokio::test]
async fn pinned_messages_are_read_by_conversation() {
    let world = world(|config| config.edit_history = true).await;
    let mut bob = world.client("bob", "phone").await;
    for (id, to) in [(FIRST, "alice"), (UNKNOWN, "carol")] {
        bob.says(send(id, to)).await;
        assert_eq!(hears(&mut bob).await, format!("accepted {id}"));
    }
    bob.says(says("p", user("alice"), Of::Pin(Pin { target: of(FIRST, "bob"), unpin: false }))).await;
    assert_eq!(hears(&mut bob).await, "accepted p");
    let Body::Fetch(fetch) = fetch(0) else { unreachable!("a fetch") };
    let pinned = |to, edits_of| {
        let pinned_in = Some(Recipient { to: Some(to) });
        Body::Fetch(Fetch { pinned_in, edits_of, ..fetch.clone() })
    };
    bob.says(pinned(user("alice"), 0)).await;
    let server_frame::Body::Page(page) = bob.hears().await else { panic!("a page") };
    assert_eq!(page.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1]);
    for (to, edits_of, says) in [
        (To::Group("club".to_owned()), 0, "a user in the inbox"),
        (user("no user"), 0, "pinned_in"),
        (user("alice"), 1, "either edits or pinned messages"),
    ] {
        bob.says(pinned(to, edits_of)).await;
        let heard = hears(&mut bob).await;
        assert!(heard.contains(says), "{heard} does not say {says}");
    }
    world.end().await;
}

#[tokio::test]
async fn a_client_with_json_reacts_and_reads_what_has_become_of_a_message() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    let address = world.gateway.ws_address().expect("on");
    let mut bob = JsonClient::connect(address, Some("carillon.v1.json")).await.expect("connects");
    let frame = ClientFrame { body: Some(sign_in("bob", "web")) };
    bob.says(&serde_json::to_string(&frame).expect("encodes")).await;
    assert_eq!(bob.hears().await["signedIn"]["user"], "bob");
    alice.says(send(FIRST, "bob")).await;
    assert_eq!(hears(&mut alice).await, format!("accepted {FIRST}"));
    assert_eq!(bob.hears().await["deliver"]["envelope"]["id"], FIRST);
    let target = json!({"id": FIRST, "sender": "alice", "senderDevice": "phone", "clientId": FIRST});
    let content = json!({"reaction": {"target": target, "emojis": ["👍"]}});
    bob.says(&json!({"send": {"clientId": "b1", "to": {"user": "alice"}, "content": content}}).to_string()).await;
    assert_eq!(bob.hears().await["accepted"]["clientId"], "b1");
    assert_eq!(hears(&mut alice).await, "delivered reaction: 👍");
    let fetch = json!({"request": 1, "timeline": {"inbox": "bob"}, "direction": "DIRECTION_FORWARD"});
    bob.says(&json!({"fetch": fetch}).to_string()).await;
    let page = bob.hears().await;
    assert_eq!(page["page"]["entries"][0]["state"], json!({"reactions": [{"emoji": "👍", "users": 1}]}), "{page}");
    world.end().await;
}
