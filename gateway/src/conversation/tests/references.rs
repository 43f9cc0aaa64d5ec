//! Messages that refer to messages: what is checked, and what the service is told of them.

use carillon_proto::{
    ClientId, DeviceId, DuplicateKey, MediaSecret, UserId,
    pb::{
        client::{
            Edit, ForwardedFrom, Media, Mentions, MessageRef, MessageState, Pin, Poll, Reaction, Recall, ReplyTo, Vote,
            content::Body as Of,
        },
        store::{self, PollRules, Reference, header::Kind},
    },
};

use super::*;

const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

fn by(sender: &str) -> MessageRef {
    MessageRef {
        id: ID.to_owned(),
        sender: sender.to_owned(),
        sender_device: "laptop".to_owned(),
        client_id: "7".to_owned(),
        seq: 0,
        expires_at_ms: 0,
    }
}

fn in_group(sender: &str) -> MessageRef {
    MessageRef { seq: 3, ..by(sender) }
}

fn text(body: &str) -> Content {
    Content { body: Some(Of::Text(Text { body: body.to_owned() })), ..Content::default() }
}

fn says(body: Of) -> Content {
    Content { body: Some(body), ..Content::default() }
}

fn edit(target: MessageRef, content: Content) -> Content {
    says(Of::Edit(Box::new(Edit { target: Some(target), content: Some(Box::new(content)) })))
}

fn reaction(target: MessageRef, emojis: &[&str]) -> Content {
    let emojis = emojis.iter().map(|emoji| (*emoji).to_owned()).collect();
    says(Of::Reaction(Reaction { target: Some(target), emojis }))
}

fn vote(options: &[u32]) -> Content {
    says(Of::Vote(Vote { target: Some(by("bob")), options: options.to_vec() }))
}

fn poll(question: &str, options: &[&str]) -> Content {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    says(Of::Poll(Poll { question: question.to_owned(), options, multiple: true, until_ms: 9 }))
}

/// Alice, while the service knows references.
fn live() -> Play {
    let rules = rules();
    rules.level.heard(Level::OF_PROGRAM);
    let rules = Rules { edit_history: true, max_content_bytes: 65_536, ..rules };
    let mut play = Play::with(Arc::new(rules));
    play.says(token_sign_in("alice", 3600));
    play.hears_answer(Ok(opened(3, Some(3))));
    assert!(matches!(play.wrote(), server_frame::Body::SignedIn(_)));
    play.asked.clear();
    play
}

fn sends(play: &mut Play, to: To, content: Content) {
    let to = Some(Recipient { to: Some(to) });
    play.says(Body::Send(client::Send {
        client_id: "c".to_owned(),
        to,
        content: Some(content),
        after: String::new(),
        expires_after_ms: 0,
    }));
}

/// The header of a message with this content.
fn header_of(to: To, content: Content) -> Option<store::Header> {
    let mut play = live();
    sends(&mut play, to, content);
    let Op::Send(send) = play.op() else { panic!("{:?}", play.asked) };
    send.header.as_deref().cloned()
}

fn bob() -> To {
    To::User("bob".to_owned())
}

fn key_of(sender: &str) -> bytes::Bytes {
    let ids = (UserId::new(sender), DeviceId::new("laptop"), ClientId::new("7"));
    let (Ok(user), Ok(device), Ok(client_id)) = ids else { panic!("valid") };
    DuplicateKey::new(&user, &device, &client_id).0.to_vec().into()
}

#[test]
fn the_service_is_told_what_it_has_to_know() {
    let reference =
        |sender: &str, seq, key| Some(Reference { id: ID.to_owned(), key, by_sender: sender == "alice", seq });
    let about = |kind: Kind, refers_to| store::Header { kind: kind.into(), refers_to, ..store::Header::default() };
    let of_alice = || reference("alice", 0, key_of("alice"));
    let of_bob = || reference("bob", 0, key_of("bob"));
    let recall = says(Of::Recall(Recall { target: Some(by("alice")), erase: true }));
    let pin = |unpin| says(Of::Pin(Pin { target: Some(by("bob")), unpin }));
    for (content, expected) in [
        (edit(by("alice"), text("hi")), store::Header { edit_window_ms: 172_800_000, ..about(Kind::Edit, of_alice()) }),
        (recall, store::Header { erase: true, ..about(Kind::Recall, of_alice()) }),
        (
            reaction(by("bob"), &["👍", "x"]),
            store::Header { reactions: vec!["👍".into(), "x".into()], ..about(Kind::Reaction, of_bob()) },
        ),
        (pin(false), about(Kind::Pin, of_bob())),
        (pin(true), about(Kind::Unpin, of_bob())),
        (vote(&[2, 0]), store::Header { votes: vec![0, 2], ..about(Kind::Vote, of_bob()) }),
    ] {
        assert_eq!(header_of(bob(), content), Some(expected));
    }
    let rules = Some(PollRules { options: 2, multiple: true, until_ms: 9 });
    let mentions = Mentions { users: vec!["bob".into()], all: true, here: false };
    let told = Some(store::Mentions { users: vec!["bob".into()], all: true, here: false });
    let message = store::Header { countable: true, ..store::Header::default() };
    assert_eq!(
        header_of(bob(), poll("Where?", &["here", "there"])),
        Some(store::Header { poll: rules, ..message.clone() })
    );
    let mentioning = Content { mentions: Some(Box::new(mentions)), ..text("you there") };
    let edit_window_ms = 172_800_000;
    let edited = store::Header { mentions: told.clone(), edit_window_ms, ..about(Kind::Edit, of_alice()) };
    assert_eq!(
        header_of(bob(), edit(by("alice"), mentioning.clone())),
        Some(edited),
        "an edit mentions for its message"
    );
    assert_eq!(header_of(bob(), mentioning), Some(store::Header { mentions: told, ..message }));
    // Files are kept as long as what refers to them.
    let uploaded = MediaSecret::random().in_shard(3);
    let image = |id: Vec<u8>, url: &str| {
        let media = Media { id: id.into(), url: url.to_owned(), ..Media::default() };
        Content { body: Some(Of::Image(media)), ..Default::default() }
    };
    let media = vec![bytes::Bytes::copy_from_slice(uploaded.id().as_bytes())];
    let file = image(uploaded.to_bytes().to_vec(), "");
    let held = store::Header { media: media.clone(), countable: true, ..store::Header::default() };
    assert_eq!(header_of(bob(), file.clone()), Some(held));
    let held = store::Header { edit_window_ms: 172_800_000, media, ..about(Kind::Edit, of_alice()) };
    assert_eq!(header_of(bob(), edit(by("alice"), file)), Some(held));
    assert_eq!(header_of(bob(), image(Vec::new(), "https://example.org/a.png")), None, "it is kept elsewhere");
    // A reply in a thread has no header.
    let reply_to = ReplyTo { message: Some(by("bob")), quote: "what you said".into() };
    let answer = Content { reply_to: Some(Box::new(reply_to)), thread: Some(Box::new(by("bob"))), ..text("yes") };
    assert_eq!(header_of(bob(), answer), None);
    assert_eq!(header_of(bob(), text("plain")), None);
    // In a group the position names it, and only the own messages are proven by their keys.
    let club = || To::Group("club".to_owned());
    let own = header_of(club(), reaction(in_group("alice"), &["x"])).expect("one").refers_to;
    assert_eq!(own, reference("alice", 3, key_of("alice")));
    let others = header_of(club(), reaction(in_group("bob"), &["x"])).expect("one").refers_to;
    assert_eq!(others, reference("bob", 3, bytes::Bytes::new()));
}

#[test]
fn what_refers_wrongly_is_refused() {
    let long = "x".repeat(1025);
    let with_reply = |reply_to| Content { reply_to: Some(Box::new(reply_to)), ..text("yes") };
    let mentioning = |users: Vec<String>| {
        let mentions = Mentions { users, ..Mentions::default() };
        Content { mentions: Some(Box::new(mentions)), ..text("you") }
    };
    let forwarded = |sender: &str, id: &str| {
        let from = ForwardedFrom { sender: sender.into(), id: id.into(), time_ms: 7 };
        Content { forwarded_from: Some(Box::new(from)), ..text("look") }
    };
    let many: Vec<String> = (0..21).map(|at| format!("r{at}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let numbers: Vec<u32> = (0..33).collect();
    let wrong = [
        ("target is missing", says(Of::Pin(Pin::default()))),
        ("26 digits", reaction(MessageRef { id: "x".into(), ..by("bob") }, &["x"])),
        ("another conversation", reaction(by("carol"), &["x"])),
        ("target", reaction(MessageRef { client_id: String::new(), ..by("bob") }, &["x"])),
        ("edit.content is missing", says(Of::Edit(Box::new(Edit { target: Some(by("alice")), content: None })))),
        ("one of text to custom", edit(by("alice"), edit(by("alice"), text("hi")))),
        ("one of text to custom", edit(by("alice"), poll("Where?", &["here", "there"]))),
        ("text.body", edit(by("alice"), text(""))),
        ("are 21", reaction(by("bob"), &many)),
        ("one twice", reaction(by("bob"), &["x", "x"])),
        ("1 to 64 bytes", reaction(by("bob"), &[""])),
        ("65 bytes", reaction(by("bob"), &["x".repeat(65).as_str()])),
        ("each once", vote(&[1, 1])),
        ("each once", vote(&numbers)),
        ("poll.question", poll("", &["here", "there"])),
        ("poll.options are 1", poll("Where?", &["here"])),
        ("empty one", poll("Where?", &["here", ""])),
        ("reply_to.message is missing", with_reply(ReplyTo::default())),
        ("reply_to.quote", with_reply(ReplyTo { message: Some(by("bob")), quote: long })),
        ("mentions.users", mentioning(vec!["b b".into()])),
        ("are 65", mentioning(vec!["bob".into(); 65])),
        ("forwarded_from.sender", forwarded("b b", ID)),
        ("forwarded_from.id", forwarded("bob", "x")),
        ("says nothing itself", Content { thread: Some(Box::new(by("bob"))), ..vote(&[1]) }),
    ];
    for (why, content) in wrong {
        let mut play = live();
        sends(&mut play, bob(), content);
        let server_frame::Body::Refused(refused) = play.wrote() else { panic!("not refused: {why}") };
        assert!(refused.code() == Code::Invalid && refused.reason.contains(why), "{why}: {}", refused.reason);
        play.quiet();
    }
    let mut play = live();
    sends(&mut play, To::Group("club".into()), reaction(by("bob"), &["x"]));
    let server_frame::Body::Refused(refused) = play.wrote() else { panic!("not refused") };
    assert!(refused.reason.contains("target.seq is missing"), "{}", refused.reason);
    // A reference to an erased or expired message has only its id and its sender.
    let gone = MessageRef { sender_device: String::new(), client_id: String::new(), ..by("bob") };
    let mut play = live();
    sends(&mut play, bob(), reaction(gone, &["x"]));
    let server_frame::Body::Refused(refused) = play.wrote() else { panic!("not refused") };
    assert!(refused.code() == Code::NotFound && refused.reason.contains("is gone"), "{}", refused.reason);
}

#[test]
fn a_service_that_does_not_know_references_takes_messages_alone() {
    let mut play = Play::live(3);
    sends(&mut play, bob(), reaction(by("bob"), &["x"]));
    assert_eq!(play.refused().1, Code::Unsupported);
    let answer = Content { thread: Some(Box::new(by("bob"))), ..text("yes") };
    sends(&mut play, bob(), answer);
    assert!(matches!(play.op(), Op::Send(send) if send.header.is_none()), "{:?}", play.asked);
}

#[test]
fn a_page_brings_what_has_become_of_messages() {
    let mut play = live();
    let fetch = |edits_of| {
        let timeline = Some(inbox("alice"));
        Body::Fetch(client::Fetch { request: 7, timeline, edits_of, ..client::Fetch::default() })
    };
    play.says(fetch(0));
    assert!(matches!(play.op(), Op::Read(read) if read.states && read.edits_of == 0), "{:?}", play.asked);
    let state = MessageState { pinned: true, edits: 2, ..MessageState::default() };
    let Reply::TimelineRead(mut page) = read(1, 3, 2..=3) else { panic!("no page") };
    page.entries[1].state = state.encode_to_vec().into();
    play.hears_answer(Ok(Reply::TimelineRead(page)));
    let server_frame::Body::Page(page) = play.wrote() else { panic!("no page") };
    let states: Vec<_> = page.entries.into_iter().map(|entry| entry.state).collect();
    assert_eq!(states, [None, Some(Box::new(state))]);
    play.says(fetch(2));
    assert!(matches!(play.op(), Op::Read(read) if read.edits_of == 2), "{:?}", play.asked);
}

#[test]
fn what_messages_said_before_is_shown_only_if_the_operator_wants_it() {
    let rules = rules();
    rules.level.heard(Level::OF_PROGRAM);
    let mut play = Play::with(Arc::new(rules));
    play.says(token_sign_in("alice", 3600));
    play.hears_answer(Ok(opened(3, Some(3))));
    play.wrote();
    let timeline = Some(inbox("alice"));
    play.says(Body::Fetch(client::Fetch { request: 7, timeline, edits_of: 2, ..client::Fetch::default() }));
    assert_eq!(play.refused(), (Some(What::Request(7)), Code::Forbidden));
}
