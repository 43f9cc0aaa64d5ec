//! Sessions, accounts, and what users read and acknowledge.

use super::play::*;

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
