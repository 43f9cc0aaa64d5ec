//! What sessions are told that they may have missed.

use super::play::*;

fn heads(last: &[Option<u64>]) -> StoreAnswer {
    let head =
        |last: &Option<u64>| store::HeadRead { head: last.map(|last| Head { epoch: 7, last, ..Head::default() }) };
    StoreAnswer::HeadsRead(store::HeadsRead { heads: last.iter().map(head).collect() })
}

#[test]
fn what_nobody_has_told_is_found_by_comparing_heads_and_told_once() {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "a", 10, 1), session("bob", "b", 20, 2)]);
    play.knows("carol", &[session("carol", "a", 10, 3)]);
    let look = |play: &mut Play, last: u64| {
        let mut told = Vec::new();
        for _ in 0..60 {
            play.now = play.owner.check_due().expect("somebody is signed in");
            play.owner.check(play.now);
            for asked in play.effects() {
                let Did::ReadHeads(token, users) = asked else { panic!("{asked:?}") };
                let last: Vec<_> = users.iter().map(|user| Some(if user == "bob" { last } else { 4 })).collect();
                told.extend(play.answer(token, heads(&last)));
            }
        }
        told
    };
    look(&mut play, 3);
    assert_eq!(look(&mut play, 3), []);
    let told = look(&mut play, 5);
    assert_eq!(told, [Did::Behind(10, 5), Did::Behind(20, 5)]);
}

#[test]
fn a_check_of_an_account_that_has_ended_puts_its_sessions_out() {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "a", 10, 1)]);
    play.owner.check(play.now);
    let effects = play.effects();
    let [Did::ReadHeads(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, heads(&[None]));
    let [Did::ReadUser(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, found_as(7, Account::default(), &[session("bob", "a", 10, 1)]));
    assert_eq!(effects, [Did::Evict(10, 1)]);
    assert_eq!(play.connections("bob"), []);
}

#[test]
fn after_an_append_of_which_nobody_knows_what_came_the_recipient_is_looked_after_soon() {
    let failures = [StoreFailure::Expired { shard: ShardId::REGISTRY }, StoreFailure::Unexpected];
    failures.into_iter().for_each(is_looked_after_soon);
}

fn is_looked_after_soon(failure: StoreFailure) {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "a", 10, 1)]);
    (0..60).for_each(|user| play.knows(&format!("user{user}"), &[session(&format!("user{user}"), "a", 10, user + 2)]));
    play.owner.check(play.now);
    for asked in play.effects() {
        let Did::ReadHeads(token, users) = asked else { panic!("{asked:?}") };
        play.answer(token, heads(&vec![Some(1); users.len()]));
    }
    let token = play.appends(send("bob", "1")).token;
    play.fails(token, failure);
    play.owner.check(play.now);
    let asked = play.effects();
    let asks = |did: &Did| matches!(did, Did::ReadHeads(_, users) if users.contains(&"bob".to_owned()));
    assert!(asked.iter().any(asks), "{asked:?}");
}

/// Alice sends to bob on connection 1 of gateway 10.
fn sends(play: &mut Play) -> Vec<Did> {
    let first = play.appends(send("bob", "1")).token;
    let second = one_append(play.answer(first, appended(1, &Bytes::new()))).token;
    play.answer(second, appended(9, &Bytes::new()))
}

/// The answers from which sessions hear of their own messages may be lost.
#[test]
fn how_far_ones_own_messages_reach_is_told_once_when_heads_are_compared() {
    let phone = || session("alice", "phone", 10, 1);
    for sessions in [vec![phone()], vec![phone(), session("alice", "laptop", 20, 2)]] {
        let mut play = Play::knowing(&["bob"]);
        play.knows("alice", &sessions);
        let effects = sends(&mut play);
        let copies = effects.iter().filter(|effect| matches!(effect, Did::Deliver(_))).count();
        assert_eq!(copies, sessions.len() - 1, "{effects:?}");
        let told = [Did::Behind(10, 9), Did::Behind(20, 9)];
        for expected in [&told[..sessions.len()], &[]] {
            let token = loop {
                play.now = play.owner.check_due().expect("somebody is signed in");
                play.owner.check(play.now);
                if let [Did::ReadHeads(token, _)] = play.effects()[..] {
                    break token;
                }
            };
            assert_eq!(play.answer(token, heads(&[Some(9)])), expected);
        }
    }
}

#[test]
fn a_copy_is_told_to_ones_only_session_if_another_one_has_sent_it() {
    let mut play = Play::knowing(&["bob"]);
    play.knows("alice", &[session("alice", "laptop", 10, 2)]);
    let effects = sends(&mut play);
    assert!(matches!(effects[..], [Did::Deliver(_), Did::Answer(..)]), "{effects:?}");
}

#[test]
fn a_delivery_whose_envelope_was_dropped_tells_how_far_the_inbox_reaches() {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "a", 10, 1), session("bob", "b", 10, 2)]);
    play.owner.deliver(Delivery {
        timeline: TimelineId::Inbox(UserId::new("bob").expect("valid")),
        incarnation: 0,
        position: client::Position { epoch: 7, seq: 9 },
        envelope: Bytes::new(),
        traceparent: String::new(),
        except: Some((LeaseId(10), 1)),
        passed_on: false,
    });
    assert_eq!(play.effects(), [Did::Behind(10, 9)]);
}

#[test]
fn a_head_that_a_new_session_brings_is_told_to_the_others() {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "a", 10, 1)]);
    let effects = play.request(Op::OpenSession(OpenSession { session: Some(session("bob", "b", 20, 2)) }));
    let [Did::PutSession(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, StoreAnswer::SessionPut(SessionPut::default()));
    let [Did::ReadHead(token, ..)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, StoreAnswer::Head(Head { epoch: 7, first: 1, last: 5, ..Head::default() }));
    assert!(effects.contains(&Did::Behind(10, 5)), "{effects:?}");
}
