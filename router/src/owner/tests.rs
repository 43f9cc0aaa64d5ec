//! One input, then the effects.

use super::*;
use carillon_proto::pb::{
    client::{Recipient, recipient::To},
    link::{Acknowledge, Announce, OpenSession, RawEnvelope, Send, router_request::Op},
    store::{Appended, Done, Head, SessionPut, User},
};
use prost::Message as _;

use crate::{reply::tests::Replies, topology::tests::topology};

const GATEWAYS: [u64; 3] = [10, 20, 30];

struct Play {
    owner: Owner,
    replies: Replies,
    now: Instant,
    next_id: u64,
}

impl Play {
    fn new() -> Self {
        Self::with(UnknownRecipient::Refuse)
    }

    fn with(unknown: UnknownRecipient) -> Self {
        let topology = Arc::new(topology(1, "here:1", &["here:1"], &GATEWAYS));
        let owner = Owner::new(topology, 100, Duration::from_secs(60), Duration::from_millis(100), unknown, 256);
        Self { owner, replies: Replies::new(), now: Instant::now(), next_id: 0 }
    }

    /// As from gateway 10; the request's id is the number of the request, from 1.
    fn request(&mut self, op: Op) -> Vec<Did> {
        self.next_id += 1;
        let slot = self.replies.slot(self.next_id);
        let user = crate::reply::routed_by(&op).expect("routed");
        let deadline = self.now + Duration::from_secs(10);
        self.owner.request(Request { user, op, lease: 10, deadline, span: None, slot }, self.now, 1_000);
        self.effects()
    }

    fn answer(&mut self, token: u64, answer: StoreAnswer) -> Vec<Did> {
        self.owner.answer(token, Ok(answer), self.now, 1_000);
        self.effects()
    }

    fn effects(&mut self) -> Vec<Did> {
        std::mem::take(&mut self.owner.effects).into_iter().map(|effect| self.perform(effect)).collect()
    }

    fn perform(&mut self, effect: Effect) -> Did {
        match effect {
            Effect::Store { token, op, .. } => match op {
                store_request::Op::ReadUser(read) => Did::ReadUser(token, read.user),
                store_request::Op::ReadHead(read) => {
                    Did::ReadHead(token, read.timeline.expect("set").owner, read.device)
                }
                store_request::Op::ReadTimeline(read) => Did::ReadTimeline(token, read.limit),
                other @ (store_request::Op::ListAccounts(_) | store_request::Op::ListSessions(_)) => {
                    panic!("unexpected {other:?}")
                }
                store_request::Op::Directory(command) => match command.op.expect("set") {
                    directory_command::Op::PutSession(put) => Did::PutSession(token, put.session.expect("set")),
                    directory_command::Op::DeleteSession(delete) => Did::DeleteSession(token, delete.connection),
                    directory_command::Op::PutAccount(put) => Did::PutAccount(token, put.mode()),
                    other => panic!("unexpected {other:?}"),
                },
                store_request::Op::Timeline(command) => match command.op.expect("set") {
                    timeline_command::Op::Append(append) => {
                        assert!((1..=i64::MAX as u64).contains(&append.new_epoch), "{}", append.new_epoch);
                        Did::Append(token, append.timeline.expect("set").owner, append.envelope)
                    }
                    timeline_command::Op::SetCursor(set) => Did::SetCursor(token, set.device, set.seq),
                    timeline_command::Op::RenewEpoch(renew) => {
                        assert!((1..=i64::MAX as u64).contains(&renew.new_epoch), "{}", renew.new_epoch);
                        Did::RenewEpoch(token, renew.epoch, renew.seq)
                    }
                    other => panic!("unexpected {other:?}"),
                },
            },
            Effect::Answer(slot, answer) => {
                slot.answer(answer);
                let (id, answer) = self.replies.next().expect("answered");
                Did::Answer(id, answer)
            }
            Effect::Push(lease, push) => Did::Push(lease.0, push.connections, push.position.expect("set").seq),
            Effect::Evict { gateway, connection, .. } => Did::Evict(gateway.0, connection),
            Effect::Deliver(delivery) => Did::Deliver(delivery),
        }
    }

    /// Makes a user known who is signed in with these sessions.
    fn knows(&mut self, user: &str, sessions: &[Session]) {
        let user = UserId::new(user).expect("valid");
        let delivery = Delivery {
            user: user.clone(),
            incarnation: 0,
            position: client::Position { epoch: 1, seq: 1 },
            envelope: Bytes::new(),
            traceparent: String::new(),
            except: (0, 0),
        };
        self.owner.deliver(delivery, self.now);
        let effects = self.effects();
        let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
        self.answer(token, found(user.as_str(), sessions));
    }
}

#[derive(Debug, PartialEq)]
enum Did {
    ReadUser(u64, String),
    ReadHead(u64, String, String),
    ReadTimeline(u64, u32),
    PutSession(u64, Session),
    DeleteSession(u64, u64),
    PutAccount(u64, put_account::Mode),
    Append(u64, String, Bytes),
    SetCursor(u64, String, u64),
    RenewEpoch(u64, u64, u64),
    Answer(u64, Answer),
    Push(u64, Vec<u64>, u64),
    Evict(u64, u64),
    Deliver(Delivery),
}

fn session(user: &str, device: &str, lease: u64, connection: u64) -> Session {
    Session { user: user.into(), device: device.into(), lease, connection, ..Session::default() }
}

fn found(user: &str, sessions: &[Session]) -> StoreAnswer {
    let account = Some(Account { user: user.into(), ..Account::default() });
    StoreAnswer::User(User { account, sessions: sessions.to_vec() })
}

fn send(to: &str, client_id: &str) -> Op {
    Op::Send(Send {
        incarnation: 0,
        after: String::new(),
        sender: "alice".into(),
        sender_device: "phone".into(),
        to: Some(Recipient { to: Some(To::User(to.into())) }),
        client_id: client_id.into(),
        content: Bytes::from_static(b"content"),
        connection: 1,
    })
}

fn appended(seq: u64, first: &Bytes) -> StoreAnswer {
    StoreAnswer::Appended(Appended { epoch: 7, seq, first_envelope: first.clone() })
}

fn refusal(did: &Did) -> &link::Refusal {
    match did {
        Did::Answer(_, Answer::Refusal(refusal)) => refusal,
        other => panic!("not a refusal: {other:?}"),
    }
}

#[test]
fn a_message_is_accepted_after_both_appends_and_pushed_after_the_first() {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "a", 10, 1), session("bob", "b", 10, 2), session("bob", "c", 20, 3)]);
    let effects = play.request(send("bob", "1"));
    let [Did::Append(first, owner, envelope)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(owner, "bob");
    let effects = play.answer(*first, appended(5, &Bytes::new()));
    let [Did::Append(second, owner, copy), Did::Push(10, ten, 5), Did::Push(20, twenty, 5)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((owner.as_str(), copy), ("alice", envelope));
    assert_eq!((&ten[..], &twenty[..]), (&[1, 2][..], &[3][..]));
    let effects = play.answer(*second, appended(9, &Bytes::new()));
    let [Did::Deliver(delivery), Did::Answer(1, Answer::Accepted(accepted))] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((delivery.user.as_str(), delivery.position.seq, delivery.except), ("alice", 9, (10, 1)));
    let envelope = RawEnvelope::decode(envelope.clone()).expect("encoded");
    assert_eq!(accepted.message_id, envelope.id);
    assert_eq!(accepted.time_ms, 1_000);
    assert_eq!(accepted.position, Some(client::Position { epoch: 7, seq: 9 }));
    assert_eq!(accepted.timeline, Some(TimelineId::Inbox(UserId::new("alice").expect("valid")).to_client()));
}

#[test]
fn a_repetition_is_answered_with_the_first_envelope() {
    let mut play = Play::new();
    play.knows("bob", &[]);
    let effects = play.request(send("bob", "1"));
    let [Did::Append(first, _, original)] = &effects[..] else { panic!("{effects:?}") };
    play.answer(*first, appended(5, &Bytes::new()));

    let effects = play.request(send("bob", "1"));
    let [Did::Append(first, _, again)] = &effects[..] else { panic!("{effects:?}") };
    assert_ne!(again, original, "it has an id of its own until the store says otherwise");
    let effects = play.answer(*first, appended(5, original));
    let [Did::Append(second, _, copy)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(copy, original);
    let effects = play.answer(*second, appended(6, &Bytes::new()));
    let [_, Did::Answer(2, Answer::Accepted(accepted))] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(accepted.message_id, RawEnvelope::decode(original.clone()).expect("encoded").id);
}

#[test]
fn another_content_under_the_same_id_is_refused_and_changes_nothing() {
    let mut play = Play::new();
    play.knows("bob", &[]);
    let effects = play.request(send("bob", "1"));
    let [Did::Append(_, _, original)] = &effects[..] else { panic!("{effects:?}") };
    let Op::Send(other) = send("bob", "1") else { unreachable!("a send") };
    let effects = play.request(Op::Send(Send { content: Bytes::from_static(b"other content"), ..other }));
    let [Did::Append(first, _, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*first, appended(5, original));
    let [did] = &effects[..] else { panic!("nothing else is done: {effects:?}") };
    let refusal = refusal(did);
    assert_eq!((refusal.code(), refusal.retry), (client::Code::Invalid, false));
    assert!(refusal.reason.contains("another message"), "{}", refusal.reason);
}

#[test]
fn a_message_to_oneself_is_appended_once() {
    let mut play = Play::new();
    play.knows("alice", &[session("alice", "phone", 10, 1), session("alice", "laptop", 20, 2)]);
    let effects = play.request(send("alice", "1"));
    let [Did::Append(token, _, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, appended(5, &Bytes::new()));
    let [Did::Answer(1, Answer::Accepted(accepted)), Did::Push(20, connections, 5)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(accepted.position.expect("set").seq, 5);
    assert_eq!(connections, &[2]);
}

#[test]
fn a_client_id_that_was_used_for_somebody_else_is_no_repetition() {
    let mut play = Play::new();
    play.knows("bob", &[]);
    play.knows("carol", &[]);
    let effects = play.request(send("carol", "1"));
    let [Did::Append(_, _, to_carol)] = &effects[..] else { panic!("{effects:?}") };
    let to_carol = to_carol.clone();
    for seq in [1, 2] {
        let effects = play.request(send("bob", "1"));
        let [Did::Append(first, _, to_bob)] = &effects[..] else { panic!("{effects:?}") };
        let effects = play.answer(*first, appended(1, &Bytes::new()));
        let [Did::Append(second, _, _)] = &effects[..] else { panic!("{effects:?}") };
        let effects = play.answer(*second, appended(1, &to_carol));
        let [Did::Append(third, owner, copy)] = &effects[..] else { panic!("bob has it: {effects:?}") };
        assert_eq!((owner.as_str(), copy), ("alice", to_bob));
        let effects = play.answer(*third, appended(seq + 1, &Bytes::new()));
        assert!(matches!(effects[..], [Did::Deliver(_), Did::Answer(_, Answer::Accepted(_))]), "{effects:?}");
    }
}

#[test]
fn a_message_of_another_owner_of_the_name_is_pushed_to_nobody() {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "phone", 10, 1)]);
    let pushes = |play: &mut Play, incarnation| {
        let delivery = Delivery {
            user: UserId::new("bob").expect("valid"),
            incarnation,
            position: client::Position { epoch: 1, seq: 1 },
            envelope: Bytes::new(),
            traceparent: String::new(),
            except: (0, 0),
        };
        play.owner.deliver(delivery, play.now);
        play.effects().len()
    };
    assert_eq!((pushes(&mut play, 0), pushes(&mut play, 7)), (1, 0));
}

#[test]
fn what_fails_after_the_first_append_is_unknown_and_never_refused() {
    let failures = [
        StoreFailure::Overloaded { shard: ShardId::REGISTRY, retry_after_ms: 70 },
        StoreFailure::Full { shard: ShardId::REGISTRY, retry_after_ms: 70 },
        StoreFailure::Expired { shard: ShardId::REGISTRY },
        StoreFailure::Exists { repeated: false },
        StoreFailure::NotFound { detail: String::new() },
        StoreFailure::OutOfOrder { detail: String::new() },
        StoreFailure::Rejected { detail: String::new() },
        StoreFailure::Unexpected,
        StoreFailure::Stopping,
    ];
    for failure in failures {
        let mut play = Play::new();
        play.knows("bob", &[]);
        let effects = play.request(send("bob", "1"));
        let [Did::Append(first, _, _)] = &effects[..] else { panic!("{effects:?}") };
        let effects = play.answer(*first, appended(5, &Bytes::new()));
        let [Did::Append(second, _, _)] = &effects[..] else { panic!("{effects:?}") };
        play.owner.answer(*second, Err(failure.clone()), play.now, 1_000);
        let effects = play.effects();
        let refusal = refusal(&effects[0]);
        assert_eq!((refusal.code(), refusal.retry), (client::Code::Unavailable, true), "{failure:?}");
        assert!(refusal.retry_after_ms > 0, "{failure:?}");
    }
}

#[test]
fn messages_wait_for_the_recipient_to_be_read_and_keep_their_order() {
    let mut play = Play::new();
    let effects = play.request(send("bob", "1"));
    let [Did::ReadUser(token, _)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(play.request(send("bob", "2")), []);
    let effects = play.answer(*token, found("bob", &[]));
    let ids: Vec<String> = effects
        .iter()
        .map(|did| match did {
            Did::Append(_, _, envelope) => RawEnvelope::decode(envelope.clone()).expect("encoded").client_id,
            other => panic!("unexpected {other:?}"),
        })
        .collect();
    assert_eq!(ids, ["1", "2"]);
}

#[test]
fn a_message_to_nobody_is_refused_unless_configured_otherwise() {
    let mut play = Play::new();
    let effects = play.request(send("nobody", "1"));
    let [Did::ReadUser(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, StoreAnswer::User(User::default()));
    assert_eq!(refusal(&effects[0]).code(), client::Code::NotFound);
    assert!(matches!(play.request(send("nobody", "2"))[..], [Did::ReadUser(..)]), "the account may have been made");

    let mut play = Play::with(UnknownRecipient::Accept);
    let effects = play.request(send("nobody", "1"));
    let [Did::ReadUser(token, _)] = &effects[..] else { panic!("{effects:?}") };
    // The name gets an inbox that its first owner will find: see below.
    assert!(matches!(play.answer(*token, StoreAnswer::User(User::default()))[..], [Did::PutAccount(..)]));
}

#[test]
fn a_failed_append_is_told_with_when_to_retry() {
    let mut play = Play::new();
    play.knows("bob", &[]);
    let effects = play.request(send("bob", "1"));
    let [Did::Append(token, _, _)] = &effects[..] else { panic!("{effects:?}") };
    play.owner.answer(*token, Err(StoreFailure::Expired { shard: ShardId::REGISTRY }), play.now, 1_000);
    let effects = play.effects();
    let refusal = refusal(&effects[0]);
    assert_eq!((refusal.code(), refusal.retry), (client::Code::Unavailable, true));
    assert!(refusal.retry_after_ms > 0);
}

#[test]
fn opening_a_session_stores_it_evicts_the_older_and_then_reads_the_head() {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "a", 10, 1)]);
    let new = session("bob", "a", 20, 5);
    let effects = play.request(Op::OpenSession(OpenSession { session: Some(new.clone()) }));
    let [Did::PutSession(token, stored)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(*stored, new);
    let put = SessionPut { replaced: Some(session("bob", "a", 10, 1)), ..SessionPut::default() };
    let effects = play.answer(*token, StoreAnswer::SessionPut(put));
    let [Did::Evict(10, 1), Did::ReadHead(token, user, device)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((user.as_str(), device.as_str()), ("bob", "a"));
    let head = Head { epoch: 7, first: 1, last: 3, cursor: 2, has_cursor: true };
    let effects = play.answer(*token, StoreAnswer::Head(head));
    let [Did::Answer(1, Answer::SessionOpened(opened))] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(opened.heads[0].head, Some(head));
    assert!(!opened.replaced);

    let effects = play.request(send("bob", "1"));
    let [Did::Append(token, _, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, appended(4, &Bytes::new()));
    assert!(effects.contains(&Did::Push(20, vec![5], 4)), "{effects:?}");
    assert!(!effects.iter().any(|did| matches!(did, Did::Push(10, ..))), "{effects:?}");
}

#[test]
fn an_announced_session_that_is_known_is_not_written_again() {
    let mut play = Play::new();
    let known = session("bob", "a", 10, 1);
    play.knows("bob", std::slice::from_ref(&known));
    let effects = play.request(Op::Announce(Announce { session: Some(known) }));
    assert!(matches!(effects[..], [Did::ReadHead(..)]), "{effects:?}");

    let effects = play.request(Op::Announce(Announce { session: Some(session("bob", "b", 10, 2)) }));
    let [Did::PutSession(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let put = SessionPut { kept: Some(session("bob", "b", 20, 9)), ..SessionPut::default() };
    let effects = play.answer(*token, StoreAnswer::SessionPut(put));
    let [Did::Answer(2, Answer::SessionOpened(opened))] = &effects[..] else { panic!("{effects:?}") };
    assert!(opened.replaced);
}

#[test]
fn an_announcement_waits_for_the_user_to_be_read() {
    let mut play = Play::new();
    let known = session("bob", "a", 10, 1);
    let effects = play.request(Op::Announce(Announce { session: Some(known.clone()) }));
    let [Did::ReadUser(token, _)] = &effects[..] else { panic!("{effects:?}") };
    assert!(matches!(play.answer(*token, found("bob", &[known]))[..], [Did::ReadHead(..)]));
}

#[test]
fn sessions_of_a_gateway_that_is_gone_get_nothing_and_are_deleted() {
    let mut play = Play::new();
    let effects = play.request(send("bob", "1"));
    let [Did::ReadUser(token, _)] = &effects[..] else { panic!("{effects:?}") };
    // 15 is not among the gateways, though newer ones are; 40 may be newer than our view.
    let sessions = [session("bob", "a", 15, 1), session("bob", "b", 40, 2)];
    let effects = play.answer(*token, found("bob", &sessions));
    let [Did::DeleteSession(_, 1), Did::Append(token, _, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, appended(1, &Bytes::new()));
    assert!(matches!(effects[..], [Did::Append(..), Did::Push(40, ..)]), "{effects:?}");

    // A gateway that ends while its sessions are in memory.
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "a", 10, 1)]);
    play.owner.follow(Arc::new(topology(1, "here:1", &["here:1"], &[20])));
    let effects = play.request(send("bob", "1"));
    let [Did::Append(token, _, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, appended(1, &Bytes::new()));
    assert!(matches!(effects[..], [Did::Append(..)]), "{effects:?}");
}

#[test]
fn a_closed_session_gets_nothing_more() {
    let mut play = Play::new();
    let closed = session("bob", "a", 10, 1);
    play.knows("bob", std::slice::from_ref(&closed));
    let effects = play.request(Op::CloseSession(link::CloseSession { session: Some(closed) }));
    let [Did::DeleteSession(token, 1)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, StoreAnswer::Done(Done {}));
    assert_eq!(effects, [Did::Answer(1, Answer::Done(link::Done {}))]);
    let effects = play.request(send("bob", "1"));
    let [Did::Append(token, _, _)] = &effects[..] else { panic!("{effects:?}") };
    assert!(matches!(play.answer(*token, appended(1, &Bytes::new()))[..], [Did::Append(..)]));
}

#[test]
fn users_that_another_router_owned_meanwhile_are_read_again() {
    let mut play = Play::new();
    let users: Vec<String> = (0..20).map(|i| format!("user{i}")).collect();
    users.iter().for_each(|user| play.knows(user, &[]));
    let two = topology(2, "here:1", &["here:1", "there:1"], &GATEWAYS);
    let stayed: Vec<bool> = users.iter().map(|user| two.owns(user)).collect();
    assert!(stayed.contains(&true) && stayed.contains(&false));
    play.owner.follow(Arc::new(two));
    play.owner.follow(Arc::new(topology(3, "here:1", &["here:1"], &GATEWAYS)));
    for (user, stayed) in users.iter().zip(stayed) {
        let effects = play.request(send(user, "1"));
        assert_eq!(matches!(effects[..], [Did::Append(..)]), stayed, "{user}: {effects:?}");
    }
}

#[test]
fn acknowledgements_are_stored_once_and_answered_together() {
    let mut play = Play::new();
    let acknowledge = |user: &str, seq| {
        Op::Acknowledge(Acknowledge {
            beyond: false,
            user: "bob".into(),
            device: "a".into(),
            timeline: Some(TimelineId::Inbox(UserId::new(user).expect("valid")).to_client()),
            position: Some(client::Position { epoch: 7, seq }),
        })
    };
    assert_eq!(play.request(acknowledge("bob", 3)), []);
    assert_eq!(play.request(acknowledge("bob", 8)), []);
    let effects = play.request(acknowledge("carol", 1));
    assert_eq!(refusal(&effects[0]).code(), client::Code::Forbidden);
    assert_eq!(play.owner.cursors_due(), Some(play.now + Duration::from_millis(100)));
    play.owner.flush_cursors();
    let effects = play.effects();
    let [Did::SetCursor(token, device, 8)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(device, "a");
    let effects = play.answer(*token, StoreAnswer::Done(Done {}));
    let done = || Answer::Done(link::Done {});
    assert_eq!(effects, [Did::Answer(1, done()), Did::Answer(2, done())]);
}

#[test]
fn a_user_reads_only_their_own_timeline_in_bounded_pages() {
    let mut play = Play::new();
    let read = |owner: &str, limit| {
        Op::Read(link::ReadTimeline {
            user: "bob".into(),
            timeline: Some(TimelineId::Inbox(UserId::new(owner).expect("valid")).to_client()),
            limit,
            ..link::ReadTimeline::default()
        })
    };
    let effects = play.request(read("alice", 1));
    assert_eq!(refusal(&effects[0]).code(), client::Code::Forbidden);
    let effects = play.request(read("bob", 5_000));
    let [Did::ReadTimeline(token, MAX_PAGE)] = effects[..] else { panic!("{effects:?}") };
    let page = store::TimelineRead { complete: true, ..store::TimelineRead::default() };
    let effects = play.answer(token, StoreAnswer::TimelineRead(page.clone()));
    assert_eq!(effects, [Did::Answer(2, Answer::TimelineRead(page))]);
}

#[test]
fn accounts_are_looked_up_in_the_store_each_time() {
    let mut play = Play::new();
    play.knows("bob", &[]);
    let look_up = || Op::LookUpAccount(link::LookUpAccount { user: "bob".into() });
    let effects = play.request(look_up());
    let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(token, found("bob", &[]));
    assert!(matches!(effects[..], [Did::Answer(1, Answer::Account(_))]), "{effects:?}");
    let effects = play.request(look_up());
    let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(token, StoreAnswer::User(User::default()));
    assert_eq!(refusal(&effects[0]).code(), client::Code::NotFound);

    let effects = play.request(Op::EnsureAccount(link::EnsureAccount { user: "bob".into(), revive: false }));
    let [Did::PutAccount(token, put_account::Mode::Ensure)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(token, StoreAnswer::Done(Done {}));
    assert_eq!(effects, [Did::Answer(3, Answer::Done(link::Done {}))]);
}

#[test]
fn a_position_beyond_the_end_begins_a_new_epoch_of_ones_own_inbox_only() {
    let mut play = Play::new();
    let beyond = |owner: &str| {
        Op::Acknowledge(Acknowledge {
            user: "bob".into(),
            device: "a".into(),
            timeline: Some(TimelineId::Inbox(UserId::new(owner).expect("valid")).to_client()),
            position: Some(client::Position { epoch: 7, seq: 10 }),
            beyond: true,
        })
    };
    let effects = play.request(beyond("carol"));
    assert_eq!(refusal(&effects[0]).code(), client::Code::Forbidden);
    let effects = play.request(beyond("bob"));
    let [Did::RenewEpoch(token, 7, 10)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(play.owner.cursors_due(), None, "it is no acknowledgement");
    let effects = play.answer(token, StoreAnswer::Done(Done {}));
    assert_eq!(effects, [Did::Answer(2, Answer::Done(link::Done {}))]);
}

/// As `found`, of an account with this incarnation.
fn found_as(incarnation: u64, account: Account, sessions: &[Session]) -> StoreAnswer {
    let account = Some(Account { user: "bob".into(), incarnation, generation: incarnation, ..account });
    StoreAnswer::User(User { account, sessions: sessions.to_vec() })
}

fn gone(play: &mut Play, token: u64) -> Vec<Did> {
    let gone = StoreFailure::Gone { detail: "the inbox of this user has ended".into() };
    play.owner.answer(token, Err(gone), play.now, 1_000);
    play.effects()
}

#[test]
fn a_send_to_a_user_who_was_deleted_meanwhile_is_refused_at_once() {
    let mut play = Play::new();
    play.knows("bob", &[]);
    let effects = play.request(send("bob", "1"));
    let [Did::Append(token, _, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = gone(&mut play, *token);
    let [Did::ReadUser(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let deleted = Account { deleted: true, ..Account::default() };
    let effects = play.answer(*token, found_as(7, deleted, &[]));
    assert_eq!(refusal(&effects[0]).code(), client::Code::NotFound);
}

#[test]
fn a_send_to_a_name_that_has_another_owner_by_now_goes_to_that_one() {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "old", 10, 1)]);
    let effects = play.request(send("bob", "1"));
    let [Did::Append(token, _, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = gone(&mut play, *token);
    let [Did::ReadUser(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let old = session("bob", "old", 10, 1);
    let new = Session { generation: 7, ..session("bob", "new", 20, 2) };
    let effects = play.answer(*token, found_as(7, Account::default(), &[old, new]));
    let [Did::Evict(10, 1), Did::Append(token, _, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, appended(1, &Bytes::new()));
    assert!(matches!(effects[..], [Did::Append(..), Did::Push(20, _, 1)]), "{effects:?}");
    // Should that be out of date again, the sender is not told that its own account has ended.
    let mut play = Play::new();
    play.knows("bob", &[]);
    let effects = play.request(send("bob", "1"));
    let [Did::Append(token, _, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = gone(&mut play, *token);
    let [Did::ReadUser(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, found("bob", &[]));
    let [Did::Append(token, _, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = gone(&mut play, *token);
    assert_eq!((refusal(&effects[0]).code(), refusal(&effects[0]).retry), (client::Code::Unavailable, true));
}

#[test]
fn sessions_that_are_over_are_put_out_by_whoever_reads_them_and_get_nothing() {
    let mut play = Play::new();
    play.owner.changed(&UserId::new("bob").expect("valid"), play.now);
    let effects = play.effects();
    let [Did::ReadUser(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let sessions = [session("bob", "a", 10, 1), Session { generation: 7, ..session("bob", "b", 20, 2) }];
    let effects = play.answer(*token, found_as(7, Account::default(), &sessions));
    assert_eq!(effects, [Did::Evict(10, 1)]);
    let effects = play.request(send("bob", "1"));
    let [Did::Append(token, _, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, appended(1, &Bytes::new()));
    assert!(matches!(effects[..], [Did::Append(..), Did::Push(20, _, 1)]), "{effects:?}");
}

#[test]
fn a_message_for_a_name_that_nobody_has_had_reserves_it_if_that_is_wanted() {
    let mut play = Play::with(UnknownRecipient::Accept);
    let effects = play.request(send("bob", "1"));
    let [Did::ReadUser(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, StoreAnswer::User(User::default()));
    let [Did::PutAccount(token, put_account::Mode::Ensure)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, StoreAnswer::Done(Done {}));
    let [Did::ReadUser(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let reserved = Account { reserved: true, ..Account::default() };
    let effects = play.answer(*token, found_as(7, reserved, &[]));
    assert!(matches!(effects[..], [Did::Append(..)]), "{effects:?}");
}
