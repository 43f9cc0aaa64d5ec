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
    assert_eq!(told, [Did::Behind(10, vec![1], 5), Did::Behind(20, vec![2], 5)]);
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
    assert_eq!(play.pushes("bob"), []);
}

#[test]
fn after_an_append_of_which_nobody_knows_what_came_the_recipient_is_looked_after_soon() {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "a", 10, 1)]);
    (0..60).for_each(|user| play.knows(&format!("user{user}"), &[session(&format!("user{user}"), "a", 10, user + 2)]));
    play.owner.check(play.now);
    for asked in play.effects() {
        let Did::ReadHeads(token, users) = asked else { panic!("{asked:?}") };
        play.answer(token, heads(&vec![Some(1); users.len()]));
    }
    let effects = play.request(send("bob", "1"));
    let [Did::Append(token, _, _)] = &effects[..] else { panic!("{effects:?}") };
    play.owner.answer(*token, Err(StoreFailure::Expired { shard: ShardId::REGISTRY }), play.now, 1_000);
    play.effects();
    play.owner.check(play.now);
    let asked = play.effects();
    let asks = |did: &Did| matches!(did, Did::ReadHeads(_, users) if users.contains(&"bob".to_owned()));
    assert!(asked.iter().any(asks), "{asked:?}");
}

#[test]
fn a_delivery_whose_envelope_was_dropped_tells_how_far_the_inbox_reaches() {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "a", 10, 1), session("bob", "b", 10, 2)]);
    play.owner.deliver(Delivery {
        user: UserId::new("bob").expect("valid"),
        incarnation: 0,
        position: client::Position { epoch: 7, seq: 9 },
        envelope: Bytes::new(),
        traceparent: String::new(),
        except: Some((LeaseId(10), 1)),
    });
    assert_eq!(play.effects(), [Did::Behind(10, vec![2], 9)]);
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
    assert!(effects.contains(&Did::Behind(10, vec![1], 5)), "{effects:?}");
}
