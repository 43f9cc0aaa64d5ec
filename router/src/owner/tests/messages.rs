//! Messages, to whomever.

use super::play::*;

#[test]
fn a_message_is_accepted_after_both_appends_and_pushed_after_the_first() {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "a", 10, 1), session("bob", "b", 10, 2), session("bob", "c", 20, 3)]);
    play.knows("alice", &[session("alice", "phone", 10, 1), session("alice", "laptop", 10, 2)]);
    let Appending { token: first, owner, envelope } = play.appends(send("bob", "1"));
    assert_eq!(owner, "bob");
    let effects = play.answer(first, appended(5, &Bytes::new()));
    let [Did::Append(second, owner, copy), Did::Push(10, 5), Did::Push(20, 5)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((owner.as_str(), copy), ("alice", &envelope));
    let effects = play.answer(*second, appended(9, &Bytes::new()));
    let [Did::Deliver(delivery), Did::Answer(1, Answer::Accepted(accepted))] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((delivery.timeline.owner(), delivery.position.seq), ("alice", 9));
    assert_eq!(delivery.except, Some((LeaseId(10), 1)));
    let envelope = RawEnvelope::decode(envelope.clone()).expect("encoded");
    assert_eq!(accepted.message_id, envelope.id);
    assert_eq!(accepted.time_ms, 1_000);
    assert_eq!(accepted.position, Some(client::Position { epoch: 7, seq: 9 }));
    assert_eq!(accepted.timeline, Some(TimelineId::Inbox(UserId::new("alice").expect("valid")).to_client()));
}

#[test]
fn a_repetition_is_answered_with_the_first_envelope() {
    let mut play = Play::knowing(&["bob"]);
    let Appending { token: first, envelope: original, .. } = play.appends(send("bob", "1"));
    play.answer(first, appended(5, &Bytes::new()));

    let again = play.appends(send("bob", "1")).envelope;
    assert_eq!(again, original, "repeated by the gateway, with its time");
    let Op::Send(repeated) = send("bob", "1") else { unreachable!("a send") };
    let Appending { token: first, envelope: again, .. } = play.appends(Op::Send(Send { time_ms: 2_000, ..repeated }));
    assert_ne!(again, original, "repeated by the client it has an id of its own until the store says otherwise");
    let Appending { token: second, envelope: copy, .. } = one_append(play.answer(first, appended(5, &original)));
    assert_eq!(copy, original);
    let effects = play.answer(second, appended(6, &Bytes::new()));
    let [Did::Answer(3, Answer::Accepted(accepted))] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(accepted.message_id, RawEnvelope::decode(original.clone()).expect("encoded").id);
}

#[test]
fn another_content_under_the_same_id_is_refused_and_changes_nothing() {
    let mut play = Play::knowing(&["bob"]);
    let original = play.appends(send("bob", "1")).envelope;
    let Op::Send(other) = send("bob", "1") else { unreachable!("a send") };
    let first = play.appends(Op::Send(Send { content: Bytes::from_static(b"other content"), ..other })).token;
    let effects = play.answer(first, appended(5, &original));
    let [did] = &effects[..] else { panic!("nothing else is done: {effects:?}") };
    let refusal = refusal(did);
    assert_eq!((refusal.code(), refusal.retry), (client::Code::Invalid, false));
    assert!(refusal.reason.contains("another message"), "{}", refusal.reason);
}

#[test]
fn a_message_to_oneself_is_appended_once() {
    let mut play = Play::new();
    play.knows("alice", &[session("alice", "phone", 10, 1), session("alice", "laptop", 20, 2)]);
    let token = play.appends(send("alice", "1")).token;
    let effects = play.answer(token, appended(5, &Bytes::new()));
    let [Did::Answer(1, Answer::Accepted(accepted)), Did::Push(20, 5)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(accepted.position.expect("set").seq, 5);
}

#[test]
fn a_client_id_that_was_used_for_somebody_else_is_no_repetition() {
    let mut play = Play::knowing(&["bob", "carol"]);
    let to_carol = play.appends(send("carol", "1")).envelope;
    let to_carol = to_carol.clone();
    for seq in [1, 2] {
        let Appending { token: first, envelope: to_bob, .. } = play.appends(send("bob", "1"));
        let second = one_append(play.answer(first, appended(1, &Bytes::new()))).token;
        let Appending { token: third, owner, envelope: copy } = one_append(play.answer(second, appended(1, &to_carol)));
        assert_eq!((owner.as_str(), copy), ("alice", to_bob));
        let effects = play.answer(third, appended(seq + 1, &Bytes::new()));
        assert!(matches!(effects[..], [Did::Answer(_, Answer::Accepted(_))]), "{effects:?}");
    }
}

#[test]
fn a_message_of_another_owner_of_the_name_is_pushed_to_nobody() {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "phone", 10, 1)]);
    let pushes = |play: &mut Play, incarnation| {
        let delivery = Delivery {
            timeline: TimelineId::Inbox(UserId::new("bob").expect("valid")),
            incarnation,
            position: client::Position { epoch: 1, seq: 1 },
            envelope: Bytes::new(),
            traceparent: String::new(),
            except: None,
            passed_on: false,
        };
        play.owner.deliver(delivery);
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
        StoreFailure::Exists { detail: "kept".into() },
        StoreFailure::NotFound { detail: String::new() },
        StoreFailure::OutOfOrder { detail: String::new() },
        StoreFailure::Level { detail: String::new() },
        StoreFailure::Rejected { detail: String::new() },
        StoreFailure::Unexpected,
        StoreFailure::Stopping,
    ];
    for failure in failures {
        let mut play = Play::knowing(&["bob"]);
        let first = play.appends(send("bob", "1")).token;
        let second = one_append(play.answer(first, appended(5, &Bytes::new()))).token;
        let effects = play.fails(second, failure.clone());
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
    let mut play = Play::knowing(&["bob"]);
    let token = play.appends(send("bob", "1")).token;
    let effects = play.fails(token, StoreFailure::Expired { shard: ShardId::REGISTRY });
    let refusal = refusal(&effects[0]);
    assert_eq!((refusal.code(), refusal.retry), (client::Code::Unavailable, true));
    assert!(refusal.retry_after_ms > 0);
}

#[test]
fn a_send_to_a_user_who_was_deleted_meanwhile_is_refused_at_once() {
    let mut play = Play::knowing(&["bob"]);
    let token = play.appends(send("bob", "1")).token;
    let effects = gone(&mut play, token);
    let [Did::ReadUser(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let deleted = Account { deleted: true, ..Account::default() };
    let effects = play.answer(*token, found_as(7, deleted, &[]));
    assert_eq!(refusal(&effects[0]).code(), client::Code::NotFound);
}

#[test]
fn a_send_to_a_name_that_has_another_owner_by_now_goes_to_that_one() {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "old", 10, 1)]);
    let token = play.appends(send("bob", "1")).token;
    let effects = gone(&mut play, token);
    let [Did::ReadUser(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let old = session("bob", "old", 10, 1);
    let new = Session { generation: 7, ..session("bob", "new", 20, 2) };
    let effects = play.answer(*token, found_as(7, Account::default(), &[old, new]));
    let [Did::Evict(10, 1), Did::Append(token, _, _)] = &effects[..] else { panic!("{effects:?}") };
    let new = session::Session::new(&session("bob", "new", 20, 2), 1);
    let new = session::Session { generation: 7, ..new };
    play.owner.register.put(&UserId::new("bob").expect("valid"), 7, new);
    let effects = play.answer(*token, appended(1, &Bytes::new()));
    assert!(matches!(effects[..], [Did::Append(..), Did::Push(20, 1)]), "{effects:?}");
    // Should that be out of date again, the sender is not told that its own account has ended.
    let mut play = Play::knowing(&["bob"]);
    let token = play.appends(send("bob", "1")).token;
    let effects = gone(&mut play, token);
    let [Did::ReadUser(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let token = one_append(play.answer(*token, found("bob", &[]))).token;
    let effects = gone(&mut play, token);
    assert_eq!((refusal(&effects[0]).code(), refusal(&effects[0]).retry), (client::Code::Unavailable, true));
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

#[test]
fn what_a_session_that_is_over_sends_is_refused_and_reads_nobody_again() {
    let mut play = Play::knowing(&["bob"]);
    let token = play.appends(send("bob", "1")).token;
    let over = StoreFailure::SenderGone { detail: "the session that has sent it is over".into() };
    let effects = play.fails(token, over);
    let [did] = &effects[..] else { panic!("nothing else is done: {effects:?}") };
    assert_eq!((refusal(did).code(), refusal(did).retry), (client::Code::Unauthenticated, false));
}

/// Bob's name has had another owner before.
fn with_another_bob() -> Play {
    let mut play = Play::new();
    play.owner.changed(&UserId::new("bob").expect("valid"), play.now);
    let effects = play.effects();
    let [Did::ReadUser(token, _)] = &effects[..] else { panic!("{effects:?}") };
    play.answer(*token, found_as(7, Account { remade: true, ..Account::default() }, &[]));
    play
}

fn not_found(play: &mut Play, token: u64) -> Vec<Did> {
    play.owner.answer(token, Err(StoreFailure::NotFound { detail: String::new() }), play.now, 1_000);
    play.effects()
}

#[test]
fn what_the_owner_before_has_got_is_not_shown_to_the_next_one_when_it_comes_again() {
    let mut play = with_another_bob();
    let effects = play.request(send("bob", "1"));
    let [Did::LookFor(token, owner)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(owner, "alice", "in the sender's own inbox");
    let Appending { token: first, owner, envelope: original } = one_append(not_found(&mut play, *token));
    assert_eq!(owner, "bob");
    let effects = play.answer(first, appended(1, &Bytes::new()));
    assert!(matches!(effects[..], [Did::Append(..)]), "{effects:?}");

    let effects = play.request(send("bob", "1"));
    let [Did::LookFor(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, appended(9, &original));
    let [Did::Answer(2, Answer::Accepted(accepted))] = &effects[..] else { panic!("nothing is appended: {effects:?}") };
    assert_eq!(accepted.position.expect("set").seq, 9);
    assert_eq!(accepted.message_id, RawEnvelope::decode(original.clone()).expect("encoded").id);

    // Another content under the id, and an id that the client has used for somebody else.
    let Op::Send(other) = send("bob", "1") else { unreachable!("a send") };
    let effects = play.request(Op::Send(Send { content: Bytes::from_static(b"other content"), ..other }));
    let [Did::LookFor(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, appended(9, &original));
    assert_eq!(refusal(&effects[0]).code(), client::Code::Invalid);
    play.knows("carol", &[]);
    let to_carol = play.appends(send("carol", "2")).envelope;
    let effects = play.request(send("bob", "2"));
    let [Did::LookFor(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, appended(3, &to_carol));
    let [Did::LookFor(token, _)] = &effects[..] else { panic!("by the key that names bob: {effects:?}") };
    let effects = not_found(&mut play, *token);
    assert!(matches!(effects[..], [Did::Append(..)]), "{effects:?}");
}

#[test]
fn what_is_not_known_of_a_message_to_a_name_that_was_made_again_may_be_asked_once_more() {
    let mut play = with_another_bob();
    let effects = play.request(send("bob", "1"));
    let [Did::LookFor(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.fails(*token, StoreFailure::Expired { shard: ShardId::REGISTRY });
    assert_eq!((refusal(&effects[0]).code(), refusal(&effects[0]).retry), (client::Code::Unavailable, true));
}

#[test]
fn a_client_id_that_was_used_for_somebody_else_is_no_repetition_when_one_writes_to_oneself() {
    let mut play = Play::knowing(&["bob", "alice"]);
    let to_bob = play.appends(send("bob", "1")).envelope;
    let Appending { token, envelope: to_oneself, .. } = play.appends(send("alice", "1"));
    let Appending { token: again, owner, envelope: copy } = one_append(play.answer(token, appended(1, &to_bob)));
    assert_eq!((owner.as_str(), &copy), ("alice", &to_oneself));
    let effects = play.answer(again, appended(2, &Bytes::new()));
    assert!(matches!(effects[..], [Did::Answer(2, Answer::Accepted(_))]), "{effects:?}");
    // Other content to oneself is another message under the same id.
    let Op::Send(other) = send("alice", "1") else { unreachable!("a send") };
    let token = play.appends(Op::Send(Send { content: Bytes::from_static(b"other content"), ..other })).token;
    let effects = play.answer(token, appended(2, &to_oneself));
    assert_eq!(refusal(&effects[0]).code(), client::Code::Invalid);
}
