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
    let head = Head { epoch: 7, first: 1, last: 3, cursor: 2, has_cursor: true, ..Head::default() };
    let effects = play.answer(*token, StoreAnswer::Head(head));
    let [Did::Answer(1, Answer::SessionOpened(opened))] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(opened.heads[0].head, Some(head));
    assert!(!opened.replaced);

    let token = play.appends(send("bob", "1")).token;
    let effects = play.answer(token, appended(4, &Bytes::new()));
    assert!(effects.contains(&Did::Push(20, 4)), "{effects:?}");
    assert!(!effects.iter().any(|did| matches!(did, Did::Push(10, ..))), "{effects:?}");
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
    let token = play.appends(send("bob", "1")).token;
    assert!(matches!(play.answer(token, appended(1, &Bytes::new()))[..], [Did::Append(..)]));
}

/// Bob's device acknowledges in this user's inbox, with the incarnation of the account.
fn acknowledge(owner: &str, device: &str, seq: u64) -> Acknowledge {
    Acknowledge {
        user: "bob".into(),
        device: device.into(),
        timeline: Some(TimelineId::Inbox(UserId::new(owner).expect("valid")).to_client()),
        position: Some(client::Position { epoch: 7, seq }),
        incarnation: Some(64),
        beyond: false,
    }
}

#[test]
fn acknowledgements_are_stored_once_and_answered_together() {
    let mut play = Play::new();
    let acknowledge = |user: &str, seq| Op::Acknowledge(acknowledge(user, "a", seq));
    assert_eq!(play.request(acknowledge("bob", 3)), []);
    assert_eq!(play.request(acknowledge("bob", 8)), []);
    let effects = play.request(acknowledge("carol", 1));
    assert_eq!(refusal(&effects[0]).code(), client::Code::Forbidden);
    assert_eq!(play.owner.cursors_due(), Some(play.now + Duration::from_millis(100)));
    play.owner.flush_cursors(play.now);
    let effects = play.effects();
    let [Did::SetCursor(token, device, 8)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(device, "a");
    let effects = play.answer(*token, StoreAnswer::Done(Done {}));
    let done = || Answer::Done(link::Done {});
    assert_eq!(effects, [Did::Answer(1, done()), Did::Answer(2, done())]);
}

#[test]
fn from_level_2_on_one_command_moves_all_cursors_of_a_device() {
    let mut play = Play::new();
    play.level_rises(Level::CURSORS);
    for (device, seq) in [("a", 3), ("b", 4), ("a", 8)] {
        assert_eq!(play.request(Op::Acknowledge(acknowledge("bob", device, seq))), []);
    }
    let newer = Acknowledge { position: Some(client::Position { epoch: 9, seq: 1 }), ..acknowledge("bob", "a", 0) };
    assert_eq!(play.request(Op::Acknowledge(newer)), []);
    play.owner.flush_cursors(play.now);
    let effects = play.effects();
    let [Did::MoveCursors(of_a, user, a, 64, moved), Did::MoveCursors(of_b, _, b, 64, _)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((user.as_str(), a.as_str(), b.as_str()), ("bob", "a", "b"));
    assert_eq!(*moved, [("bob".into(), 7, 8), ("bob".into(), 9, 1)]);
    let done = || Answer::Done(link::Done {});
    let effects = play.answer(*of_a, StoreAnswer::Done(Done {}));
    assert_eq!(effects, [Did::Answer(1, done()), Did::Answer(3, done()), Did::Answer(4, done())]);
    let effects = gone(&mut play, *of_b);
    assert_eq!(refusal(&effects[0]).code(), client::Code::Unauthenticated, "its account has ended");
}

#[test]
fn a_shard_that_is_below_the_clusters_level_gets_one_command_for_each_cursor() {
    let mut play = Play::new();
    play.level_rises(Level::CURSORS);
    play.request(Op::Acknowledge(acknowledge("bob", "a", 3)));
    play.owner.flush_cursors(play.now);
    let effects = play.effects();
    let [Did::MoveCursors(token, ..)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.fails(token, StoreFailure::Level { detail: String::new() });
    let [Did::SetCursor(token, _, 3)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(token, StoreAnswer::Done(Done {}));
    assert_eq!(effects, [Did::Answer(1, Answer::Done(link::Done {}))]);
}

#[test]
fn what_a_gateway_of_the_release_before_acknowledges_is_stored_as_before() {
    let mut play = Play::new();
    play.level_rises(Level::CURSORS);
    play.request(Op::Acknowledge(Acknowledge { incarnation: None, ..acknowledge("bob", "a", 3) }));
    play.owner.flush_cursors(play.now);
    let effects = play.effects();
    assert!(matches!(effects[..], [Did::SetCursor(_, _, 3)]), "{effects:?}");
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
    let mut play = Play::knowing(&["bob"]);
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
            incarnation: Some(64),
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
fn an_announced_session_that_is_known_is_not_asked_about_again() {
    let mut play = Play::new();
    let known = session("bob", "a", 10, 1);
    play.knows("bob", std::slice::from_ref(&known));
    let effects = play.request(Op::Announce(Announce { session: Some(known), presence: None }));
    assert!(matches!(effects[..], [Did::ReadHead(..)]), "{effects:?}");
}

#[test]
fn an_announcement_is_compared_with_what_is_stored_then() {
    let mut play = Play::knowing(&["bob"]);
    let (stored, other) = (session("bob", "a", 10, 1), session("bob", "b", 10, 2));
    let effects = play.request(Op::Announce(Announce { session: Some(stored.clone()), presence: None }));
    let [Did::ReadUser(token, _)] = &effects[..] else { panic!("an old reading tells nothing: {effects:?}") };
    assert!(play.request(Op::Announce(Announce { session: Some(other.clone()), presence: None })).is_empty());
    let effects = play.answer(*token, found("bob", &[stored]));
    let [Did::ReadHead(..), Did::PutSession(token, put)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(*put, other);
    assert_eq!(play.connections("bob"), [(10, vec![1])]);
    let put = SessionPut { kept: Some(session("bob", "b", 20, 9)), ..SessionPut::default() };
    let effects = play.answer(*token, StoreAnswer::SessionPut(put));
    let [Did::Answer(2, Answer::SessionOpened(opened))] = &effects[..] else { panic!("{effects:?}") };
    assert!(opened.replaced);
}

#[test]
fn an_announcement_that_was_overtaken_by_a_sign_in_is_left_to_the_store() {
    let mut play = Play::new();
    let (old, new) = (session("bob", "a", 10, 1), session("bob", "a", 20, 5));
    let effects = play.request(Op::Announce(Announce { session: Some(old.clone()), presence: None }));
    let [Did::ReadUser(read, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.request(Op::OpenSession(OpenSession { session: Some(new) }));
    let [Did::PutSession(put, _)] = &effects[..] else { panic!("{effects:?}") };
    let replaced = SessionPut { replaced: Some(old.clone()), ..SessionPut::default() };
    play.answer(*put, StoreAnswer::SessionPut(replaced));
    // The reading was of before.
    let effects = play.answer(*read, found("bob", &[old]));
    assert!(matches!(effects[..], [Did::PutSession(..)]), "{effects:?}");
    assert_eq!(play.connections("bob"), [(20, vec![5])]);
}

#[test]
fn sessions_of_a_gateway_that_is_gone_get_nothing() {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "a", 10, 1), session("bob", "b", 20, 2)]);
    assert_eq!(play.pushes("bob").len(), 2);
    play.owner.follow(Arc::new(topology(1, "here:1", &["here:1"], &[20])), play.now);
    assert_eq!(play.owner.sizes().1, 1, "it goes from memory at once");
    assert_eq!(play.connections("bob"), [(20, vec![2])]);
}

#[test]
fn what_a_gateway_has_not_announced_on_its_link_is_gone_when_it_says_that_was_all() {
    let mut play = Play::new();
    let (stays, gone) = (session("bob", "a", 10, 1), session("carol", "a", 10, 2));
    let elsewhere = session("dave", "a", 20, 3);
    for session in [&stays, &gone, &elsewhere] {
        play.knows(&session.user, std::slice::from_ref(session));
    }
    assert_eq!(play.owner.sizes().2, GATEWAYS.len(), "nobody has said anything");
    play.next_id += 1;
    let slot = play.replies.slot(play.next_id);
    let op = Op::Announce(Announce { session: Some(stays), presence: None });
    let user = UserId::new("bob").expect("valid");
    let request = Request {
        of: carillon_proto::TimelineId::Inbox(user),
        op,
        lease: LeaseId(10),
        link: 2,
        deadline: play.now,
        span: None,
        slot,
    };
    play.owner.request(request, play.now, 1_000);
    play.effects();
    play.owner.announced_all(LeaseId(10), 2, 1);
    assert_eq!(play.owner.sizes().2, GATEWAYS.len() - 1);
    let pushed = ["bob", "carol", "dave"].map(|user| play.pushes(user).len());
    assert_eq!(pushed, [1, 0, 1]);
    play.owner.follow(Arc::new(topology(2, "here:1", &["here:1"], &GATEWAYS)), play.now);
    assert_eq!(play.owner.sizes().2, GATEWAYS.len(), "by the new ring there may be others");
}

#[test]
fn a_session_that_moved_to_another_owner_is_forgotten() {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "a", 10, 1)]);
    let bob = UserId::new("bob").expect("valid");
    play.owner.forget(&bob, LeaseId(20), 1, 1);
    assert_eq!(play.connections("bob"), [(10, vec![1])], "that is another session");
    play.owner.forget(&bob, LeaseId(10), 1, 0);
    assert_eq!(play.connections("bob"), [(10, vec![1])], "since then it was announced on another link");
    play.owner.forget(&bob, LeaseId(10), 1, 1);
    assert_eq!(play.connections("bob"), []);
}

#[test]
fn accounts_that_another_router_owned_meanwhile_are_read_again() {
    let mut play = Play::new();
    let users: Vec<String> = (0..20).map(|i| format!("user{i}")).collect();
    users.iter().for_each(|user| play.knows(user, &[]));
    let two = topology(2, "here:1", &["here:1", "there:1"], &GATEWAYS);
    let stayed: Vec<bool> = users.iter().map(|user| two.owns(user)).collect();
    assert!(stayed.contains(&true) && stayed.contains(&false));
    play.owner.follow(Arc::new(two), play.now);
    play.owner.follow(Arc::new(topology(3, "here:1", &["here:1"], &GATEWAYS)), play.now);
    for (user, stayed) in users.iter().zip(stayed) {
        let effects = play.request(send(user, "1"));
        assert_eq!(matches!(effects[..], [Did::Append(..)]), stayed, "{user}: {effects:?}");
    }
}

#[test]
fn sessions_that_are_over_are_put_out_by_whoever_reads_them_and_get_nothing() {
    let mut play = Play::new();
    let bob = UserId::new("bob").expect("valid");
    let sessions = [session("bob", "a", 10, 1), Session { generation: 9, ..session("bob", "b", 20, 2) }];
    for session in &sessions {
        play.owner.register.put(&bob, 7, session::Session { generation: 7, ..session::Session::new(session, 1) });
    }
    play.owner.changed(&bob, play.now);
    let effects = play.effects();
    let [Did::ReadUser(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let sessions = [Session { generation: 7, ..sessions[0].clone() }, sessions[1].clone()];
    let StoreAnswer::User(found) = found_as(7, Account::default(), &sessions) else { unreachable!("a user") };
    // All tokens of before were revoked.
    let account = found.account.map(|account| Account { generation: 9, ..account });
    let effects = play.answer(*token, StoreAnswer::User(User { account, ..found }));
    assert_eq!(effects, [Did::Evict(10, 1)]);
    assert_eq!(play.connections("bob"), [(20, vec![2])]);
}

#[test]
fn an_announced_session_that_is_known_hears_its_head_without_the_store() {
    let mut play = Play::new();
    let known = session("bob", "a", 10, 1);
    play.knows("bob", std::slice::from_ref(&known));
    assert_eq!(play.pushes("bob"), [10]);
    let effects = play.request(Op::Announce(Announce { session: Some(known), presence: None }));
    let [Did::Answer(2, Answer::SessionOpened(opened))] = &effects[..] else { panic!("{effects:?}") };
    let head = opened.heads[0].head.expect("set");
    assert_eq!((head.epoch, head.last), (7, 1));
}

#[test]
fn the_sessions_of_the_owner_before_end_when_the_next_one_signs_in() {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "a", 10, 1)]);
    let effects = play.request(Op::OpenSession(OpenSession { session: Some(session("bob", "b", 20, 2)) }));
    let [Did::PutSession(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let put = SessionPut { incarnation: 7, generation: 7, ..SessionPut::default() };
    let effects = play.answer(*token, StoreAnswer::SessionPut(put));
    assert!(effects.contains(&Did::Evict(10, 1)), "{effects:?}");
}

#[test]
fn a_session_that_is_closed_while_it_is_opened_is_not_there_afterwards() {
    let done = |play: &mut Play, token| play.answer(token, StoreAnswer::Done(Done {}));
    let expired = |play: &mut Play, token| play.fails(token, StoreFailure::Expired { shard: ShardId::REGISTRY });
    for deleted in [done, expired] {
        let mut play = Play::knowing(&["bob"]);
        let bobs = session("bob", "a", 10, 1);
        let effects = play.request(Op::OpenSession(OpenSession { session: Some(bobs.clone()) }));
        let [Did::PutSession(put, _)] = effects[..] else { panic!("{effects:?}") };
        let effects = play.request(Op::CloseSession(link::CloseSession { session: Some(bobs) }));
        let [Did::DeleteSession(delete, 1)] = effects[..] else { panic!("{effects:?}") };
        play.answer(put, StoreAnswer::SessionPut(SessionPut::default()));
        let effects = deleted(&mut play, delete);
        assert!(matches!(effects[..], [Did::Answer(2, _)]), "{effects:?}");
        assert_eq!(play.connections("bob"), []);
    }
}

#[test]
fn a_session_that_is_closed_while_its_announcement_waits_is_not_there_afterwards() {
    let mut play = Play::knowing(&["bob"]);
    let (closed, other) = (session("bob", "a", 10, 1), session("bob", "b", 10, 2));
    let effects = play.request(Op::Announce(Announce { session: Some(closed.clone()), presence: None }));
    let [Did::ReadUser(read, _)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(play.request(Op::Announce(Announce { session: Some(other.clone()), presence: None })), []);
    let effects = play.request(Op::CloseSession(link::CloseSession { session: Some(closed.clone()) }));
    let [Did::Answer(1, Answer::SessionOpened(opened)), Did::DeleteSession(..)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert!(opened.replaced);
    play.answer(read, found("bob", &[closed, other]));
    assert_eq!(play.connections("bob"), [(10, vec![2])]);
}
