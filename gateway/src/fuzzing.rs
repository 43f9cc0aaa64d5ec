//! Entry points of the fuzz targets: each parser of bytes from clients, with the properties that must hold for
//! everything it accepts.

mod xmpp;

use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use carillon_proto::{
    Epoch, GroupId, Position, TimelineId, UserId,
    credentials::decoy,
    pb::{
        client::{Bye, ClientFrame, ServerFrame, Timeline, client_frame::Body, server_frame, timeline::Owner},
        link::{self, RawEnvelope, RouterReply, router_reply::Result as Reply},
        store::session::Protocol,
    },
};
use prost::Message as _;

use crate::{
    config::{GatewayConfig, JwtAlgorithm, JwtConfig, JwtKeyConfig, Secret},
    conversation::{Effect, Input, Now, Rules, Session, Tag, content, scram::ClientFirst},
    dialect::native::{self, Outgoing, RawPage, Said, raw::RawEntry, varint},
    feeds::{Came, Entry, FeedId, Feeds, Follower, Follows, Hand, Left, ReadPage, TimelineName},
    listener::proxy_protocol,
    outcome::{RequestOutcome, refusal},
};

pub use xmpp::xmpp_dialog;

const MAX_FRAME: usize = 4096;
const NOW_MS: u64 = 1_800_000_000_000;

/// A byte stream of a client.
pub fn frames(mut bytes: &[u8]) {
    while let Ok(Some(at)) = varint::next_frame(bytes, MAX_FRAME) {
        assert!(at.start <= at.end && at.end - at.start <= MAX_FRAME && at.start > 0);
        frame(&bytes[at.clone()]);
        bytes = &bytes[at.end..];
    }
}

/// Decodes a binary frame.
pub fn frame(bytes: &[u8]) {
    let Ok(frame) = native::decode(bytes) else { return };
    let encoded = frame.encode_to_vec();
    // Compares bytes, because a NaN is not equal to itself.
    assert_eq!(native::decode(&*encoded).expect("decodes").encode_to_vec(), encoded);
    if let Some(Said::Send(send)) = &frame.body
        && let Some(content) = &send.content
        && content::check(content, 1000).is_ok()
    {
        passes_on(content);
    }
}

/// Accepted content can be read in each frame that brings it to its recipients.
fn passes_on(content: &Bytes) {
    let envelope = RawEnvelope { id: "1".to_owned(), content: content.clone(), ..Default::default() };
    for outgoing in outgoing(envelope.encode_to_vec().into()) {
        ServerFrame::decode(outgoing.to_protobuf()).expect("a frame");
        outgoing.into_json().expect("a frame");
    }
}

/// The first bytes of a connection through a proxy: nothing is read that may not belong to the header.
pub fn proxy_header(bytes: &[u8]) {
    let mut end = 12;
    while end <= bytes.len() {
        match proxy_protocol::parse(&bytes[..end]) {
            Ok(proxy_protocol::Progress::Needs(more)) => {
                assert!(more > 0);
                end += more;
            }
            // A longer one is refused.
            Ok(proxy_protocol::Progress::Done(_)) => return assert!(end <= 4 * 1024),
            Err(_) => return,
        }
    }
}

/// Decodes a text frame.
pub fn json(text: &str) {
    if let (Ok(one), Ok(other)) = (serde_json::from_str::<ClientFrame>(text), native::decode_json_by_schema(text)) {
        let shown = |frame: &ClientFrame| serde_json::to_string(frame).expect("encodes");
        assert_eq!(shown(&one), shown(&other), "{text}");
    }
    let Ok(frame) = native::decode_json(text) else { return };
    let typed = ClientFrame::decode(&*frame.encode_to_vec()).expect("what was typed");
    let again = serde_json::to_string(&typed).expect("encodes");
    let decoded = native::decode_json(&again).unwrap_or_else(|error| panic!("{error}: {again}"));
    assert_eq!(decoded.encode_to_vec(), frame.encode_to_vec(), "{again}");
}

/// Envelopes from a router, in each frame that carries them.
pub fn envelopes(bytes: &[u8]) {
    // An envelope has an id, so it is never empty: only one of the two forms would omit an empty one.
    if bytes.is_empty() {
        return;
    }
    for outgoing in outgoing(Bytes::copy_from_slice(bytes)) {
        let mut encoded = BytesMut::new();
        varint::put_frame(&outgoing, &mut encoded);
        let at = varint::next_frame(&encoded, usize::MAX).expect("framed").expect("whole");
        assert_eq!(at.end, encoded.len());
        let typed = outgoing.clone().into_frame();
        // A frame that can be read as a whole can be read in parts, with the same result. In a frame, unknown groups
        // may be nested less deeply; content with groups is refused.
        let read = ServerFrame::decode(&encoded[at]);
        assert!(typed.is_ok() || read.is_err());
        if let (Ok(typed), Ok(read)) = (typed, read) {
            assert_eq!(typed.encode_to_vec(), read.encode_to_vec());
            let json = outgoing.into_json().expect("encodes");
            let read: ServerFrame = serde_json::from_slice(&json).unwrap_or_else(|error| panic!("{error}: {json:?}"));
            assert_eq!(read.encode_to_vec(), typed.encode_to_vec(), "{json:?}");
        }
    }
}

/// The envelope in each frame that brings it to a client.
fn outgoing(envelope: Bytes) -> [Outgoing; 2] {
    let timeline = Timeline { owner: Some(Owner::Inbox("alice".to_owned())) };
    let entries = vec![RawEntry { seq: 9, envelope: envelope.clone(), state: None }];
    let (request, epoch, first, last, complete) = (1, 2, 3, 4, true);
    let page = RawPage { request, timeline: Some(timeline.clone()), epoch, entries, first, last, complete };
    let position = Position { epoch: Epoch(7), seq: 9 };
    let alice = TimelineId::Inbox(UserId::new("alice").expect("valid"));
    let name = Arc::new(TimelineName::new(alice));
    let deliver = Outgoing::Entry(Arc::new(Entry::new(FeedId(1), name, position, envelope, Came::Push)));
    [deliver, Outgoing::Page(page)]
}

/// Both messages of a client that signs in by password, separated by a line feed.
pub fn scram(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (first, last) = bytes.split_at(at);
    if let Ok(first) = ClientFirst::parse(first) {
        let (challenge, exchange) = first.challenge(decoy(&[1; 32], "alice"), "server");
        assert!(challenge.starts_with("r="));
        exchange.finish(last.get(1..).unwrap_or_default()).expect_err("nobody has this password");
    }
}

/// A token, which nobody can sign without the key.
pub fn token(text: &str) {
    RULES.tokens.load().check(text, "", NOW_MS).expect_err("nobody has the key");
}

/// Paths, headers and beginnings of files.
pub fn media(text: &str, first: &[u8], size: u64) {
    crate::media::fuzzing::requests(text, first, size);
}

/// A session, signed in or not, with arbitrary messages of its client and answers of the routers. Two bytes before each
/// message give its source and its length.
pub fn session(mut bytes: &[u8]) {
    let mut driven = Driven::new();
    if bytes.first().is_some_and(|byte| byte & 1 == 0) {
        driven.input(Input::Ask(native::ClientFrame::from(ClientFrame { body: Some(signed_in()) }).into()));
        if let Some(tag) = driven.asked.pop() {
            let result = Ok(Reply::SessionOpened(link::SessionOpened::default()));
            driven.input(Input::Answer(tag, RequestOutcome { result, lease: 5 }));
        }
    }
    while let Some((head, rest)) = bytes.split_first_chunk::<2>() {
        let len = usize::from(head[1]).min(rest.len());
        let (message, rest) = rest.split_at(len);
        bytes = rest;
        driven.hears(*head, message);
    }
    driven.session.leave();
}

/// A session with its feeds and its unanswered requests.
struct Driven {
    session: Session,
    feeds: Feeds,
    follows: Follows,
    handed: Handed,
    asked: Vec<Tag>,
    now: Now,
    closed: bool,
}

const ME: Follower = Follower(42);

/// Entries that the feeds deliver.
#[derive(Default)]
struct Handed(VecDeque<Input>);

impl Hand for Handed {
    fn entries(&mut self, _: Follower, entries: &[Arc<Entry>]) -> bool {
        self.0.extend(entries.iter().cloned().map(Input::Entry));
        true
    }

    fn left(&mut self, _: Follower, feed: FeedId, timeline: &Arc<TimelineName>, why: Left) {
        self.0.push_back(Input::Left(feed, Arc::clone(timeline), why));
    }

    fn begun(&mut self, _: Follower, group: &GroupId, head: Option<carillon_proto::pb::store::Head>) {
        self.0.push_back(Input::Begun(vec![(group.clone(), head)]));
    }
}

impl Driven {
    fn new() -> Self {
        let now = Now { instant: *START, unix_ms: NOW_MS };
        let session = Session::new(Arc::clone(&RULES), ME.0, Protocol::Tcp, Ipv4Addr::LOCALHOST.into(), now);
        let (feeds, follows, handed) = (Feeds::new(RULES.gap_grace), Follows::new(ME), Handed::default());
        Self { session, feeds, follows, handed, asked: Vec::new(), now, closed: false }
    }

    fn hears(&mut self, head: [u8; 2], message: &[u8]) {
        let input = match head[0] >> 1 {
            0..=49 => native::decode(message).ok().map(|frame| Input::Ask(frame.into())),
            50..=99 if !self.asked.is_empty() => {
                let tag = self.asked.swap_remove(usize::from(head[0]) % self.asked.len());
                let result = match RouterReply::decode(message) {
                    Ok(RouterReply { result: Some(Reply::Refusal(refusal)), .. }) => Err(refusal),
                    Ok(RouterReply { result: Some(result), .. }) => Ok(result),
                    _ => Err(refusal(carillon_proto::pb::client::Code::Unavailable, "gone", 10)),
                };
                match tag {
                    Tag::Feed(timeline, feed) => {
                        self.feeds.read(&timeline, feed, ReadPage::of(result), self.now.instant, &mut self.handed);
                        None
                    }
                    tag => Some(Input::Answer(tag, RequestOutcome { result, lease: 5 })),
                }
            }
            50..=99 => None,
            100..=114 => {
                if let Ok(push) = link::Push::decode(message) {
                    self.feeds.pushed(push, self.now.instant, &mut self.handed);
                }
                None
            }
            115..=119 => link::SessionOpened::decode(message).ok().map(|opened| Input::Heads(opened.heads)),
            120..=125 => {
                let wait = Duration::from_millis(u64::from(head[1]) * 20);
                self.now.instant += wait;
                self.now.unix_ms += wait.as_millis() as u64;
                self.session.wake_at().filter(|at| *at <= self.now.instant).map(|_| Input::Wake)
            }
            126 => Some(Input::Backlog { full: head[1] & 1 == 0 }),
            _ => Some(Input::Drain { reconnect_after: Duration::from_secs(1) }),
        };
        if let Some(input) = input {
            self.input(input);
        }
        let reads = self.feeds.due(self.now.instant, &mut self.handed).into_iter();
        self.asked.extend(reads.map(|read| Tag::Feed(read.timeline, read.feed)));
        while let Some(input) = self.handed.0.pop_front() {
            self.input(input);
        }
    }

    fn input(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut effects = Vec::new();
            self.session.handle(self.now, input, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Tell(tell) => {
                        assert!(!self.closed, "said something after the end");
                        check_written(&tell.into());
                    }
                    Effect::Request { tag, .. } => self.asked.push(tag),
                    Effect::Feed(ask) => {
                        let joined = self.follows.ask(&self.feeds, ask, self.now.instant, &mut self.handed);
                        inputs.extend(joined.map(Input::from));
                    }
                    Effect::SignedIn | Effect::Ping => {}
                    Effect::Close => {
                        assert!(!self.closed, "closed twice");
                        self.closed = true;
                    }
                }
            }
        }
    }
}

fn check_written(frame: &Outgoing) {
    let mut encoded = BytesMut::new();
    varint::put_frame(frame, &mut encoded);
    if let Outgoing::Frame(frame) = frame
        && let Some(server_frame::Body::Bye(Bye { reason, .. })) = &frame.body
    {
        assert!(!reason.is_empty(), "a bye without a reason");
    }
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| {
    let key = JwtKeyConfig { secret: Some(Secret(SECRET.to_owned())), ..JwtKeyConfig::new(JwtAlgorithm::HS256) };
    let config = GatewayConfig {
        max_content_bytes: 1_000,
        sends_per_second: 10,
        send_burst: 5,
        max_pending_sends: 3,
        jwt: JwtConfig { keys: vec![key], leeway_s: 0, ..JwtConfig::default() },
        ..GatewayConfig::default()
    };
    Arc::new(Rules::new(&config, [1; 32]).expect("loads"))
});

fn signed_in() -> Body {
    use carillon_proto::pb::client::{SignIn, sign_in::Credential};
    use jsonwebtoken::{EncodingKey, Header, encode};
    static TOKEN: LazyLock<String> = LazyLock::new(|| {
        let claims = serde_json::json!({"sub": "alice", "exp": NOW_MS / 1000 + 3600});
        encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("signs")
    });
    let credential = Some(Credential::Token(TOKEN.clone()));
    Body::SignIn(SignIn { device: "phone".to_owned(), credential, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Field 99, a hundred groups one in the other: more than a page may have below its envelopes.
    #[test]
    fn content_in_groups_gets_to_no_recipient() {
        let groups = [[0x9b, 0x06].repeat(100), [0x9c, 0x06].repeat(100)].concat();
        let content = [b"\x0a\x04\x0a\x02hi", &groups[..]].concat();
        let send =
            native::Send { client_id: "1".to_owned(), content: Some(content.clone().into()), ..Default::default() };
        frame(&native::ClientFrame { body: Some(Said::Send(send)) }.encode_to_vec());
        let envelope = RawEnvelope { id: "1".to_owned(), content: content.into(), ..Default::default() };
        envelopes(&envelope.encode_to_vec());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text: String, number: u64) {
            frames(&bytes);
            frame(&bytes);
            envelopes(&bytes);
            scram(&bytes);
            session(&bytes);
            json(&text);
            token(&text);
            media(&text, &bytes, number);
        }

        /// Headers that are nearly right.
        #[test]
        fn no_range_panics(first in "[0-9]{0,20}", last in "[0-9]{0,20}", size in "[0-9]{0,20}", number: u64) {
            media(&format!("bytes={first}-{last}"), &[], number);
            media(&format!("bytes {first}-{last}/{size}"), &[], number);
        }

        /// Well-formed frames, so that the session gets further than refusing nonsense.
        #[test]
        fn no_frames_panic_a_session(
            said in prop::collection::vec((0..125u8, 0..4u8, 0..20u64, "[a-c/]{0,3}"), 0..40),
        ) {
            use carillon_proto::pb::client::{Ack, Fetch, Ping, Position, Recipient, Send, recipient::To};
            let mut bytes = Vec::new();
            for (from, kind, number, text) in said {
                let timeline = Some(Timeline { owner: Some(Owner::Inbox("alice".to_owned())) });
                let body = match kind {
                    0 => Body::Ping(Ping { nonce: number }),
                    1 => Body::Ack(Ack { timeline, position: Some(Position { epoch: 7, seq: number }) }),
                    2 => Body::Fetch(Fetch { request: number as u32, timeline, limit: 5, ..Default::default() }),
                    _ => Body::Send(Send {
                        client_id: text.clone(),
                        to: Some(Recipient { to: Some(To::User(text)) }),
                        ..Default::default()
                    }),
                };
                let frame = ClientFrame { body: Some(body) }.encode_to_vec();
                bytes.extend([from << 1, frame.len() as u8]);
                bytes.extend(frame);
            }
            session(&bytes);
        }
    }
}
