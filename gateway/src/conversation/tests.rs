//! Sessions as plays: what goes in, what comes out.

mod answers;
mod ending;
mod groups;
mod herd;
mod positions;
mod proving;
mod references;
mod resuming;
mod signed_in;
mod signing_in;

use std::{collections::VecDeque, net::Ipv4Addr, sync::Arc, time::Duration};

use carillon_proto::{
    GroupId, Level,
    credentials::{ClientKeys, new_credentials},
    pb::{
        client::{
            self, Ack, Bye, ClientFrame, Code, Content, Envelope, Fetch, Ping, Position, Recipient, ServerFrame,
            SignOut, Text, Timeline, TimelinePosition, client_frame::Body, content, recipient::To, refused::What,
            server_frame, sign_in::Credential, timeline::Owner,
        },
        link::{
            self, Accepted, Done, Push, SessionOpened, TimelineHead, evict::Why, router_reply::Result as Reply,
            router_request::Op,
        },
        store::{Account, Head, ScramCredentials, StoredEntry, TimelineRead},
    },
};
use jsonwebtoken::{EncodingKey, Header, encode};
use prost::Message as _;

use super::*;
use crate::{
    cluster_level::ClusterLevel,
    config::{GatewayConfig, JwtAlgorithm, JwtConfig, JwtKeyConfig, Secret, TokenAccounts},
    dialect::native::{self, Outgoing},
    feeding::read_op_of,
    feeds::{Entry, FeedId, Feeds, Follower, Follows, Hand, Left, ReadPage, TimelineName},
    outcome::{RequestOutcome, refusal},
    throttle::{Throttle, Tries},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const START_MS: u64 = 1_800_000_000_000;
const EPOCH: u64 = 7;

struct Play {
    session: Session,
    feeds: Feeds,
    follows: Follows,
    mail: Mailboxes,
    now: Now,
    /// Not looked at yet.
    wrote: Vec<ServerFrame>,
    asked: Vec<(Tag, Op)>,
    closed: bool,
    pings: u32,
    /// Keys that the dialect was told.
    keys: Vec<ScramCredentials>,
}

fn rules() -> Rules {
    rules_of(config())
}

fn config() -> GatewayConfig {
    let key = JwtKeyConfig { secret: Some(Secret(SECRET.to_owned())), ..JwtKeyConfig::new(JwtAlgorithm::HS256) };
    GatewayConfig {
        heartbeat_ms: 30_000,
        max_content_bytes: 1_000,
        sends_per_second: 10,
        send_burst: 5,
        max_connections_per_user: 2,
        user_sends_per_second: 20,
        user_send_burst: 7,
        max_pending_sends: 3,
        max_page_bytes: 65_536,
        jwt: JwtConfig { keys: vec![key], leeway_s: 0, ..JwtConfig::default() },
        ..GatewayConfig::default()
    }
}

fn rules_of(config: GatewayConfig) -> Rules {
    let rules = Rules::new(&config, [1; 32]).expect("loads");
    // Without groups, of which `groups` tells.
    rules.level.heard(Level::RING_SLOTS);
    rules.tickets.store(Arc::new(TicketKeys::new([[1; 32]])));
    Rules { throttle: Throttle::new(Tries::few()), ..rules }
}

impl Play {
    fn new() -> Self {
        Self::with(Arc::new(rules()))
    }

    fn with(rules: Arc<Rules>) -> Self {
        let now = Now { instant: Instant::now(), unix_ms: START_MS };
        let session = Session::new(rules, 42, Protocol::Tcp, Ipv4Addr::LOCALHOST.into(), now);
        let (feeds, follows, mail) = (Feeds::new(session.rules.gap_grace), Follows::new(ME), Mailboxes::default());
        Self { session, feeds, follows, mail, now, wrote: vec![], asked: vec![], closed: false, pings: 0, keys: vec![] }
    }

    /// Signed in by token, with the inbox up to `last`.
    fn live(last: u64) -> Self {
        let mut play = Self::new();
        play.says(token_sign_in("alice", 3600));
        play.hears_answer(Ok(opened(last, Some(last))));
        assert!(matches!(play.wrote(), server_frame::Body::SignedIn(_)));
        play.quiet();
        play
    }

    fn input(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut effects = Vec::new();
            self.session.handle(self.now, input, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Tell(Tell::Keys(keys)) => self.keys.push(*keys),
                    Effect::Tell(tell) => self.wrote.push(Outgoing::from(tell).into_frame().expect("decodes")),
                    Effect::Request { tag, op, .. } => self.asked.push((tag, op)),
                    Effect::Feed(ask) => {
                        let joined = self.follows.ask(&self.feeds, ask, self.now.instant, &mut self.mail);
                        inputs.extend(joined.map(Input::from));
                    }
                    Effect::SignedIn => {}
                    Effect::Ping => self.pings += 1,
                    Effect::Close => self.closed = true,
                }
            }
        }
        self.feeds_run();
    }

    /// Asks for entries that feeds lack, and takes the entries that they have handed over.
    fn feeds_run(&mut self) {
        for read in self.feeds.due(self.now.instant, &mut self.mail) {
            let op = read_op_of(&read, &self.session.rules);
            self.asked.push((Tag::Feed(read.timeline, read.feed), op));
        }
        while let Some(input) = self.mail.0.pop_front() {
            self.input(input);
        }
    }

    fn says(&mut self, body: Body) {
        self.input(Input::Ask(native::ClientFrame::from(ClientFrame { body: Some(body) }).into()));
    }

    fn wait(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.unix_ms += time.as_millis() as u64;
        if self.session.wake_at().is_some_and(|at| at <= self.now.instant) {
            self.input(Input::Wake);
        }
        self.feeds_run();
    }

    /// The oldest question is answered.
    fn hears_answer(&mut self, result: Result<Reply, link::Refusal>) {
        match self.asked.remove(0) {
            (Tag::Feed(timeline, feed), _) => {
                self.feeds.read(&timeline, feed, ReadPage::of(result), self.now.instant, &mut self.mail);
                self.feeds_run();
            }
            (tag, _) => self.input(Input::Answer(tag, RequestOutcome { result, lease: 5 })),
        }
    }

    fn pushed(&mut self, seq: u64) {
        self.hears_push(push(seq));
    }

    fn hears_push(&mut self, push: Push) {
        self.feeds.pushed(push, self.now.instant, &mut self.mail);
        self.feeds_run();
    }

    /// A push of this position was lost.
    fn behind(&mut self, seq: u64) {
        let (timeline, position) = (Some(inbox("alice")), Some(at(seq)));
        self.feeds.behind(&link::Behind { timeline, position, ..Default::default() }, self.now.instant);
        self.feeds_run();
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

    fn quiet_but_for_requests(&self) {
        assert!(self.wrote.is_empty(), "{:?}", self.wrote);
    }

    fn quiet(&self) {
        assert!(self.wrote.is_empty() && self.asked.is_empty(), "{:?} {:?}", self.wrote, self.asked);
    }
}

const ME: Follower = Follower(42);

/// Inputs that the feeds hand to the session.
#[derive(Default)]
struct Mailboxes(VecDeque<Input>);

impl Hand for Mailboxes {
    fn entries(&mut self, to: Follower, entries: &[Arc<Entry>]) -> bool {
        assert_eq!(to, ME);
        self.0.extend(entries.iter().cloned().map(Input::Entry));
        true
    }

    fn left(&mut self, _: Follower, feed: FeedId, timeline: &Arc<TimelineName>, why: Left) {
        self.0.push_back(Input::Left(feed, Arc::clone(timeline), why));
    }

    fn begun(&mut self, _: Follower, group: &GroupId, head: Option<Head>) {
        self.0.push_back(Input::Begun(vec![(group.clone(), head)]));
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
    Head { epoch, first, last, cursor: cursor.unwrap_or(0), has_cursor: cursor.is_some(), ..Head::default() }
}

fn heads(first: u64, last: u64, cursor: Option<u64>) -> Vec<TimelineHead> {
    vec![TimelineHead { timeline: Some(inbox("alice")), head: Some(head(first, last, cursor)) }]
}

fn opened(last: u64, cursor: Option<u64>) -> Reply {
    Reply::SessionOpened(SessionOpened { heads: heads(1, last, cursor), ..SessionOpened::default() })
}

fn read(first: u64, last: u64, seqs: std::ops::RangeInclusive<u64>) -> Reply {
    let entry = |seq| StoredEntry { seq, envelope: envelope(seq).into(), ..Default::default() };
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
        to: Some(Recipient { to: Some(To::User("bob".to_owned())) }),
        content: Some(Content {
            body: Some(content::Body::Text(Text { body: body.to_owned() })),
            ..Default::default()
        }),
        after: String::new(),
        expires_after_ms: 0,
    })
}

fn accepted(seq: u64) -> Reply {
    let (timeline, position) = (Some(inbox("alice")), Some(at(seq)));
    Reply::Accepted(Accepted { message_id: "id".to_owned(), timeline, position, time_ms: 1, expires_at_ms: 0 })
}

/// The client's side of SCRAM up to its proof.
fn prove(play: &mut Play, stored: Option<ScramCredentials>, password: &str) {
    prove_as(play, stored.map(|scram| (scram, 0)), password);
}

/// Signs in by password; the stored credentials come with their generation.
fn prove_as(play: &mut Play, stored: Option<(ScramCredentials, u64)>, password: &str) {
    play.says(sign_in("alice", Credential::ScramFirst(b"n,,n=alice,r=0123456789".to_vec().into())));
    assert!(matches!(play.op(), Op::LookUpAccount(_)));
    let account = match stored {
        Some((scram, generation)) => {
            Ok(Reply::Account(Box::new(Account { scram: Some(scram), generation, ..Default::default() })))
        }
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
