//! Sessions as plays: what goes in, what comes out.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use carillon_proto::{
    credentials::{ClientKeys, new_credentials},
    pb::{
        client::{
            self, Ack, Bye, ClientFrame, Code, Content, Envelope, Fetch, Ping, Position, Recipient, ServerFrame,
            SignOut, Text, Timeline, TimelinePosition, client_frame::Body, content, recipient::To, refused::What,
            server_frame, sign_in::Credential, timeline::Owner,
        },
        link::{self, Accepted, Done, Heads, Push, SessionOpened, TimelineHead, router_reply::Result as Reply},
        store::{Account, Head, ScramCredentials, StoredEntry, TimelineRead},
    },
};
use jsonwebtoken::{EncodingKey, Header, encode};
use prost::Message as _;

use super::{token::TokenKeys, *};
use crate::{
    config::{JwtAlgorithm, JwtConfig, JwtKeyConfig, Secret},
    links::{Answered, refusal},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const START_MS: u64 = 1_800_000_000_000;
const EPOCH: u64 = 7;

struct Play {
    session: Session,
    now: Now,
    /// Not looked at yet.
    wrote: Vec<ServerFrame>,
    asked: Vec<(Tag, Op)>,
    closed: bool,
}

fn rules() -> Rules {
    let key = JwtKeyConfig {
        algorithm: JwtAlgorithm::HS256,
        secret: Some(Secret(SECRET.to_owned())),
        secret_file: None,
        public_key_file: None,
        kid: None,
    };
    let jwt = JwtConfig { keys: vec![key], leeway_s: 0, ..Default::default() };
    Rules {
        heartbeat_ms: 30_000,
        sign_in_timeout: Duration::from_secs(10),
        max_frame_bytes: 65_536,
        max_content_bytes: 1_000,
        sends_per_second: 10,
        send_burst: 5,
        max_pending_sends: 3,
        max_page: 100,
        max_page_bytes: 65_536,
        gap_grace: Duration::from_millis(20),
        ack_interval: Duration::from_millis(100),
        password_sign_in: true,
        tokens: TokenKeys::load(&jwt).expect("loads"),
        decoy_key: [1; 32],
        throttle: Throttle::new(2, 60),
    }
}

impl Play {
    fn new() -> Self {
        Self::with(Arc::new(rules()))
    }

    fn with(rules: Arc<Rules>) -> Self {
        let now = Now { instant: Instant::now(), unix_ms: START_MS };
        let session = Session::new(rules, 42, Protocol::Tcp, Ipv4Addr::LOCALHOST.into(), now);
        Self { session, now, wrote: vec![], asked: vec![], closed: false }
    }

    /// Signed in by token, with the inbox up to `last`.
    fn live(last: u64) -> Self {
        let mut play = Self::new();
        play.says(token_sign_in("alice", 3600));
        play.hears_answer(Ok(Reply::Account(Account::default())));
        play.hears_answer(Ok(opened(last, Some(last))));
        assert!(matches!(play.wrote(), server_frame::Body::SignedIn(_)));
        play.quiet();
        play
    }

    fn input(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.session.handle(self.now, input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Write(frame) => self.wrote.push(frame.into_frame().expect("decodes")),
                Effect::Request { tag, op, .. } => self.asked.push((tag, op)),
                Effect::SignedIn => {}
                Effect::Close => self.closed = true,
            }
        }
    }

    fn says(&mut self, body: Body) {
        self.input(Input::Frame(ClientFrame { body: Some(body) }));
    }

    fn wait(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.unix_ms += time.as_millis() as u64;
        if self.session.wake_at().is_some_and(|at| at <= self.now.instant) {
            self.input(Input::Wake);
        }
    }

    /// The oldest question is answered.
    fn hears_answer(&mut self, result: Result<Reply, link::Refusal>) {
        let (tag, _) = self.asked.remove(0);
        self.input(Input::Answer(tag, Answered { result, lease: 5 }));
    }

    fn pushed(&mut self, seq: u64) {
        self.input(Input::Push(Arc::new(push(seq))));
    }

    fn wrote(&mut self) -> server_frame::Body {
        assert!(!self.wrote.is_empty(), "nothing was written");
        self.wrote.remove(0).body.expect("a body")
    }

    /// The positions that were delivered; nothing else was written.
    fn delivered(&mut self) -> Vec<u64> {
        let position = |frame: ServerFrame| match frame.body {
            Some(server_frame::Body::Deliver(deliver)) => deliver.position.expect("a position").seq,
            other => panic!("not a delivery: {other:?}"),
        };
        self.wrote.drain(..).map(position).collect()
    }

    fn bye(&mut self) -> Bye {
        match self.wrote() {
            server_frame::Body::Bye(bye) => {
                assert!(self.closed && self.wrote.is_empty(), "Bye is the last");
                assert_eq!(self.session.wake_at(), None);
                bye
            }
            other => panic!("not a Bye: {other:?}"),
        }
    }

    fn refused(&mut self) -> (Option<What>, Code) {
        match self.wrote() {
            server_frame::Body::Refused(refused) => {
                let code = refused.code();
                (refused.what, code)
            }
            other => panic!("not a Refused: {other:?}"),
        }
    }

    fn op(&self) -> &Op {
        assert_eq!(self.asked.len(), 1, "{:?}", self.asked);
        &self.asked[0].1
    }

    fn quiet(&self) {
        assert!(self.wrote.is_empty() && self.asked.is_empty(), "{:?} {:?}", self.wrote, self.asked);
    }
}

fn inbox(user: &str) -> Timeline {
    Timeline { owner: Some(Owner::Inbox(user.to_owned())) }
}

fn at(seq: u64) -> Position {
    Position { epoch: EPOCH, seq }
}

fn envelope(seq: u64) -> Vec<u8> {
    Envelope { id: seq.to_string(), ..Default::default() }.encode_to_vec()
}

fn push(seq: u64) -> Push {
    let envelope = envelope(seq).into();
    Push { timeline: Some(inbox("alice")), position: Some(at(seq)), envelope, ..Default::default() }
}

fn head(first: u64, last: u64, cursor: Option<u64>) -> Head {
    let epoch = if last == 0 { 0 } else { EPOCH };
    Head { epoch, first, last, cursor: cursor.unwrap_or(0), has_cursor: cursor.is_some() }
}

fn heads(first: u64, last: u64, cursor: Option<u64>) -> Vec<TimelineHead> {
    vec![TimelineHead { timeline: Some(inbox("alice")), head: Some(head(first, last, cursor)) }]
}

fn opened(last: u64, cursor: Option<u64>) -> Reply {
    Reply::SessionOpened(SessionOpened { heads: heads(1, last, cursor), replaced: false })
}

fn read(first: u64, last: u64, seqs: std::ops::RangeInclusive<u64>) -> Reply {
    let entry = |seq| StoredEntry { seq, envelope: envelope(seq).into() };
    Reply::TimelineRead(TimelineRead {
        head: Some(head(first, last, None)),
        entries: seqs.map(entry).collect(),
        complete: true,
    })
}

fn sign_in(user: &str, credential: Credential) -> Body {
    let (user, device) = (user.to_owned(), "phone".to_owned());
    Body::SignIn(client::SignIn { user, device, credential: Some(credential), ..Default::default() })
}

fn token_sign_in(user: &str, seconds: u64) -> Body {
    let claims = serde_json::json!({"sub": user, "exp": START_MS / 1000 + seconds});
    let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("signs");
    sign_in("", Credential::Token(token))
}

fn send(client_id: &str, body: &str) -> Body {
    Body::Send(client::Send {
        client_id: client_id.to_owned(),
        to: Some(Recipient { to: Some(To::User("Bob".to_owned())) }),
        content: Some(Content { body: Some(content::Body::Text(Text { body: body.to_owned() })) }),
        after: String::new(),
    })
}

fn accepted(seq: u64) -> Reply {
    let (timeline, position) = (Some(inbox("alice")), Some(at(seq)));
    Reply::Accepted(Accepted { message_id: "id".to_owned(), timeline, position, time_ms: 1 })
}

/// The client's side of SCRAM up to its proof.
fn prove(play: &mut Play, stored: Option<ScramCredentials>, password: &str) {
    play.says(sign_in("alice", Credential::ScramFirst(b"n,,n=alice,r=0123456789".to_vec().into())));
    assert!(matches!(play.op(), Op::LookUpAccount(_)));
    let account = match stored {
        Some(scram) => Ok(Reply::Account(Account { scram: Some(scram), ..Default::default() })),
        None => Err(refusal(Code::NotFound, "no such user", 0)),
    };
    play.hears_answer(account);
    let server_frame::Body::Challenge(challenge) = play.wrote() else { panic!("no challenge") };
    let challenge = String::from_utf8(challenge.scram_server_first.to_vec()).expect("text");
    let field = |name: &str| challenge.split(',').find_map(|field| field.strip_prefix(name)).expect("a field");
    let salt = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, field("s=")).expect("base64");
    let keys = ClientKeys::derive(password, &salt, field("i=").parse().expect("a number")).expect("derives");
    let without_proof = format!("c=biws,r={}", field("r="));
    let message = format!("n=alice,r=0123456789,{challenge},{without_proof}");
    let proof = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, keys.proof(message.as_bytes()));
    let message = format!("{without_proof},p={proof}").into_bytes().into();
    play.says(Body::ScramFinal(client::ScramFinal { message }));
}

#[test]
fn a_session_is_as_old_as_its_sign_in_however_long_that_takes() {
    let mut play = Play::new();
    play.says(token_sign_in("alice", 3600));
    // Meanwhile the device may have given up and signed in on another connection.
    play.wait(Duration::from_secs(3));
    play.hears_answer(Ok(Reply::Account(Account::default())));
    match &play.asked[..] {
        [(Tag::Open, Op::OpenSession(open))] => assert_eq!(open.session.as_ref().expect("set").since_ms, START_MS),
        other => panic!("not an OpenSession: {other:?}"),
    }
}

#[test]
fn sign_in_by_password_opens_a_session() {
    let mut play = Play::new();
    prove(&mut play, Some(new_credentials("secret").expect("valid")), "secret");
    let Op::OpenSession(open) = play.op() else { panic!("no OpenSession") };
    let session = open.session.as_ref().expect("a session");
    assert_eq!((session.user.as_str(), session.device.as_str(), session.connection), ("alice", "phone", 42));
    assert_eq!(session.since_ms, START_MS);
    play.hears_answer(Ok(opened(3, Some(3))));
    let server_frame::Body::SignedIn(signed_in) = play.wrote() else { panic!("not signed in") };
    assert_eq!(signed_in.handle, "5-42");
    assert!(signed_in.scram_server_final.starts_with(b"v="));
    let state = &signed_in.timelines[0];
    assert_eq!((state.epoch, state.first, state.last, state.delivered_from), (EPOCH, 1, 3, 3));
    play.quiet();
}

#[test]
fn wrong_passwords_and_unknown_users_hear_the_same() {
    let mut play = Play::new();
    prove(&mut play, Some(new_credentials("secret").expect("valid")), "wrong");
    let wrong = play.bye();
    let mut play = Play::new();
    prove(&mut play, None, "secret");
    let unknown = play.bye();
    assert_eq!(wrong, unknown);
    assert_eq!((wrong.code(), wrong.reconnect), (Code::Unauthenticated, false));
    assert!(play.asked.is_empty());
}

#[test]
fn failed_sign_ins_from_one_address_are_throttled() {
    let rules = Arc::new(rules());
    for expected in [Code::Unauthenticated, Code::Unauthenticated, Code::RateLimited] {
        let mut play = Play::with(Arc::clone(&rules));
        play.says(sign_in("", Credential::Token("no token".to_owned())));
        assert_eq!(play.bye().code(), expected);
    }
}

#[test]
fn a_tokens_end_is_the_sessions_end() {
    let mut play = Play::new();
    play.says(token_sign_in("alice", 20));
    assert!(matches!(play.op(), Op::EnsureAccount(_)));
    play.hears_answer(Ok(Reply::Account(Account::default())));
    play.hears_answer(Ok(opened(0, None)));
    assert!(matches!(play.wrote(), server_frame::Body::SignedIn(_)));
    play.wait(Duration::from_millis(19_999));
    play.quiet();
    play.wait(Duration::from_millis(1));
    assert_eq!(play.bye().code(), Code::Expired);
    assert!(matches!(play.op(), Op::CloseSession(_)));
}

#[test]
fn frames_out_of_place_end_the_connection() {
    let mut play = Play::new();
    play.says(Body::Ping(Ping { nonce: 1 }));
    assert_eq!(play.bye().code(), Code::Invalid);
    let mut play = Play::live(0);
    play.says(token_sign_in("alice", 20));
    assert_eq!(play.bye().code(), Code::Invalid);
    let mut play = Play::live(0);
    play.input(Input::Frame(ClientFrame { body: None }));
    assert_eq!(play.bye().code(), Code::Invalid);
    let mut play = Play::new();
    play.wait(Duration::from_secs(10));
    assert_eq!(play.bye().code(), Code::TimedOut);
}

#[test]
fn a_service_that_is_down_invites_to_come_back() {
    let mut play = Play::new();
    play.says(token_sign_in("alice", 20));
    play.hears_answer(Err(refusal(Code::Unavailable, "no answer", 500)));
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect), (Code::Unavailable, true));
}

#[test]
fn a_send_is_passed_on_with_the_sessions_sender_and_accepted() {
    let mut play = Play::live(3);
    play.says(send("m1", "hi"));
    let Op::Send(sent) = play.op() else { panic!("no Send") };
    assert_eq!((sent.sender.as_str(), sent.sender_device.as_str(), sent.connection), ("alice", "phone", 42));
    assert_eq!(sent.to, Some(Recipient { to: Some(To::User("bob".to_owned())) }));
    assert!(Content::decode(sent.content.clone()).is_ok());
    play.hears_answer(Ok(accepted(4)));
    let server_frame::Body::Accepted(accepted) = play.wrote() else { panic!("not accepted") };
    assert_eq!((accepted.client_id.as_str(), accepted.position), ("m1", Some(at(4))));
    play.pushed(4);
    play.pushed(5);
    assert_eq!(play.delivered(), [5], "Accepted has delivered 4");
}

#[test]
fn what_is_no_send_is_refused_by_its_id() {
    let mut play = Play::live(0);
    let group = Some(Recipient { to: Some(To::Group("g".to_owned())) });
    for (change, code) in [
        (send("m", ""), Code::Invalid),
        (send("m", &"x".repeat(1001)), Code::TooLarge),
        (
            Body::Send(client::Send { client_id: "m".to_owned(), to: group, content: None, ..Default::default() }),
            Code::Unsupported,
        ),
        (Body::Send(client::Send { client_id: "m".to_owned(), ..Default::default() }), Code::Invalid),
    ] {
        play.says(change);
        assert_eq!(play.refused(), (Some(What::ClientId("m".to_owned())), code));
        play.quiet();
    }
}

#[test]
fn sends_are_bounded_by_pending_and_by_rate() {
    let mut play = Play::live(0);
    for id in ["m1", "m2", "m3"] {
        play.says(send(id, "hi"));
    }
    play.says(send("m4", "hi"));
    assert_eq!(play.refused().1, Code::Overloaded);
    for seq in 1..=3 {
        play.hears_answer(Ok(accepted(seq)));
    }
    play.wrote.clear();
    for id in ["m4", "m5"] {
        play.says(send(id, "hi"));
    }
    play.says(send("m6", "hi"));
    assert_eq!(play.refused().1, Code::RateLimited, "the burst is 5");
    play.wait(Duration::from_millis(100));
    play.says(send("m6", "hi"));
    assert!(play.wrote.is_empty());
}

#[test]
fn what_was_missed_is_read_and_delivered_in_order() {
    let mut play = Play::new();
    play.says(token_sign_in("alice", 3600));
    play.hears_answer(Ok(Reply::Account(Account::default())));
    // Of after the heads were read, but before they came.
    play.pushed(6);
    play.hears_answer(Ok(opened(5, Some(2))));
    let server_frame::Body::SignedIn(_) = play.wrote() else { panic!("not signed in") };
    let Op::Read(asked) = play.op() else { panic!("no read") };
    assert_eq!((asked.from_seq, asked.backward), (3, false));
    play.pushed(7);
    play.hears_answer(Ok(read(1, 6, 3..=6)));
    assert_eq!(play.delivered(), [3, 4, 5, 6, 7]);
    play.quiet();
}

#[test]
fn what_is_no_longer_kept_is_said_to_be_trimmed() {
    let mut play = Play::new();
    play.says(token_sign_in("alice", 3600));
    play.hears_answer(Ok(Reply::Account(Account::default())));
    let heads = heads(4, 5, Some(1));
    play.hears_answer(Ok(Reply::SessionOpened(SessionOpened { heads, replaced: false })));
    play.wrote();
    play.hears_answer(Ok(read(4, 5, 4..=5)));
    let server_frame::Body::Trimmed(trimmed) = play.wrote() else { panic!("not trimmed") };
    assert_eq!(trimmed.first, Some(at(4)));
    assert_eq!(play.delivered(), [4, 5]);
}

#[test]
fn a_slow_reader_gets_nothing_until_it_has_read() {
    let mut play = Play::live(0);
    play.input(Input::Backlog(true));
    for seq in 1..=3 {
        play.pushed(seq);
    }
    play.wait(Duration::from_secs(1));
    play.quiet();
    play.input(Input::Backlog(false));
    assert_eq!(play.delivered(), [1, 2, 3], "those that were kept");
    play.input(Input::Backlog(true));
    play.input(Input::Behind(at(9)));
    play.quiet();
    play.input(Input::Backlog(false));
    assert!(matches!(play.op(), Op::Read(read) if read.from_seq == 4));
}

#[test]
fn a_timeline_of_another_epoch_needs_a_new_sign_in() {
    let mut play = Play::live(3);
    let position = Some(Position { epoch: 8, seq: 1 });
    play.input(Input::Push(Arc::new(Push { position, ..push(1) })));
    assert!(matches!(play.op(), Op::ReadHeads(_)), "a push is a hint: ask");
    let head = Some(Head { epoch: 8, first: 1, last: 1, ..Default::default() });
    let heads = vec![TimelineHead { timeline: Some(inbox("alice")), head }];
    play.hears_answer(Ok(Reply::Heads(Heads { heads })));
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect), (Code::Unavailable, true));
}

#[test]
fn a_ping_brings_the_head_and_what_was_missed() {
    let mut play = Play::live(3);
    play.says(Body::Ping(Ping { nonce: 1 }));
    play.says(Body::Ping(Ping { nonce: 2 }));
    assert!(matches!(play.op(), Op::ReadHeads(_)), "one for both");
    play.hears_answer(Ok(Reply::Heads(Heads { heads: heads(1, 4, None) })));
    for nonce in [1, 2] {
        let server_frame::Body::Pong(pong) = play.wrote() else { panic!("no pong") };
        let head = TimelinePosition { timeline: Some(inbox("alice")), position: Some(at(4)) };
        assert_eq!((pong.nonce, pong.heads), (nonce, vec![head]));
    }
    play.hears_answer(Ok(read(1, 4, 4..=4)));
    assert_eq!(play.delivered(), [4]);
}

#[test]
fn silence_for_twice_the_heartbeat_ends_the_connection() {
    let mut play = Play::live(0);
    play.wait(Duration::from_secs(59));
    play.says(Body::Ack(Ack::default()));
    play.wait(Duration::from_secs(59));
    play.quiet();
    play.wait(Duration::from_secs(1));
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect), (Code::TimedOut, true));
}

#[test]
fn acknowledgements_are_coalesced_and_the_last_one_is_said_in_the_end() {
    let ack = |seq| Body::Ack(Ack { timeline: Some(inbox("alice")), position: Some(at(seq)) });
    let acked = |op: &Op| match op {
        Op::Acknowledge(ack) => ack.position.expect("a position").seq,
        other => panic!("no Acknowledge: {other:?}"),
    };
    let mut play = Play::live(9);
    for seq in [1, 2, 3, 2, 99] {
        play.says(ack(seq));
    }
    assert_eq!(acked(play.op()), 1);
    play.hears_answer(Ok(Reply::Done(Done {})));
    play.quiet();
    play.wait(Duration::from_millis(100));
    assert_eq!(acked(play.op()), 3);
    play.says(ack(9));
    let left = play.session.leave();
    assert_eq!(acked(&left[0]), 9);
    assert!(matches!(left[1], Op::CloseSession(_)));
}

#[test]
fn history_is_the_own_inbox_only() {
    let mut play = Play::live(9);
    let fetch = |timeline: Timeline| {
        Body::Fetch(Fetch { request: 7, timeline: Some(timeline), direction: 1, from_seq: 0, limit: 500 })
    };
    play.says(fetch(inbox("bob")));
    assert_eq!(play.refused(), (Some(What::Request(7)), Code::Forbidden));
    play.says(fetch(Timeline { owner: Some(Owner::Group("g".to_owned())) }));
    assert_eq!(play.refused().1, Code::Unsupported);
    play.says(fetch(inbox("Alice")));
    let Op::Read(asked) = play.op() else { panic!("no read") };
    assert_eq!((asked.from_seq, asked.backward, asked.limit), (0, true, 100));
    play.hears_answer(Ok(read(1, 9, 8..=9)));
    let server_frame::Body::Page(page) = play.wrote() else { panic!("no page") };
    assert_eq!((page.request, page.epoch, page.entries.len(), page.last), (7, EPOCH, 2, 9));
    for _ in 0..4 {
        play.says(fetch(inbox("alice")));
    }
    play.says(fetch(inbox("alice")));
    assert_eq!(play.refused().1, Code::Overloaded);
}

#[test]
fn signing_out_waits_for_the_release_of_the_handle() {
    let mut play = Play::live(0);
    play.says(Body::SignOut(SignOut {}));
    assert!(matches!(play.op(), Op::CloseSession(_)));
    assert!(!play.closed);
    play.hears_answer(Ok(Reply::Done(Done {})));
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect), (Code::SignedOut, false));
    assert!(play.session.leave().is_empty());
}

#[test]
fn signing_out_waits_for_what_the_device_has_acknowledged() {
    let mut play = Play::live(3);
    for seq in [1, 2] {
        play.says(Body::Ack(Ack { timeline: Some(inbox("alice")), position: Some(at(seq)) }));
    }
    assert!(matches!(play.op(), Op::Acknowledge(_)), "one is on its way, the other one waits");
    play.says(Body::SignOut(SignOut {}));
    assert!(matches!(play.asked[..], [(Tag::Ack, _), (Tag::Ack, _), (Tag::Close, _)]), "{:?}", play.asked);
    for _ in 0..2 {
        play.hears_answer(Ok(Reply::Done(Done {})));
        assert!(!play.closed);
    }
    play.hears_answer(Ok(Reply::Done(Done {})));
    assert_eq!(play.bye().code(), Code::SignedOut);
}

#[test]
fn a_replaced_session_does_not_come_back() {
    let mut play = Play::live(0);
    play.input(Input::Replaced);
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect), (Code::Replaced, false));
}

#[test]
fn a_drain_waits_for_pending_sends() {
    let mut play = Play::live(0);
    play.says(send("m1", "hi"));
    play.input(Input::Drain { come_back: Duration::from_millis(300) });
    play.says(send("m2", "hi"));
    assert_eq!(play.refused().1, Code::Unavailable);
    assert!(!play.closed);
    play.hears_answer(Ok(accepted(1)));
    assert!(matches!(play.wrote(), server_frame::Body::Accepted(_)));
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect, bye.reconnect_after_ms), (Code::ShuttingDown, true, 300));
}

#[test]
fn a_client_of_a_gateway_that_is_cut_off_goes_at_once() {
    let mut play = Play::live(0);
    play.says(send("m1", "hi"));
    play.input(Input::CutOff { come_back: Duration::from_millis(300) });
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect, bye.reconnect_after_ms), (Code::Unavailable, true, 300));
}
