//! Sign-ins whose password the dialect checks.

use carillon_proto::credentials::decoy;

use super::*;

fn looks_up(play: &mut Play, account: Option<Account>) -> ScramCredentials {
    play.input(Input::Ask(Ask::LookUp(UserId::new("alice").expect("valid"))));
    assert!(!play.session.reads(), "what is sent ahead waits");
    match play.op() {
        Op::LookUpAccount(look_up) => assert_eq!(look_up.user, "alice"),
        other => panic!("not a LookUpAccount: {other:?}"),
    }
    let account = account.map(|account| Reply::Account(Box::new(account)));
    play.hears_answer(account.ok_or_else(|| refusal(Code::NotFound, "no such user", 0)));
    assert!(play.session.reads());
    play.keys.pop().expect("keys")
}

fn account() -> Account {
    let stored = ScramCredentials {
        salt: vec![1; 16].into(),
        iterations: 10_000,
        stored_key: vec![2; 32].into(),
        server_key: vec![3; 32].into(),
    };
    Account { scram: Some(stored), generation: 7, ..Account::default() }
}

fn sign_in_ask(device: &str) -> Input {
    let ask = SignInAsk {
        device: device.to_owned(),
        credential: Some(super::super::Credential::Proven),
        holds: true,
        ..SignInAsk::default()
    };
    Input::Ask(Ask::SignIn(Box::new(ask)))
}

#[test]
fn who_has_proven_a_password_signs_in_and_nothing_is_delivered() {
    let mut play = Play::new();
    assert_eq!(Some(looks_up(&mut play, Some(account()))), account().scram);
    play.input(Input::Ask(Ask::Proven));
    play.input(sign_in_ask("balcony"));
    match play.op() {
        Op::OpenSession(open) => {
            let session = open.session.as_ref().expect("a session");
            assert_eq!((session.device.as_str(), session.generation, session.by_token), ("balcony", 7, false));
        }
        other => panic!("not an OpenSession: {other:?}"),
    }
    play.hears_answer(Ok(opened(5, Some(3))));
    match play.wrote() {
        server_frame::Body::SignedIn(signed_in) => {
            assert_eq!((signed_in.user.as_str(), signed_in.device.as_str()), ("alice", "balcony"));
            assert_eq!(signed_in.timelines, []);
        }
        other => panic!("not signed in: {other:?}"),
    }
    play.quiet();
    play.pushed(6);
    play.input(Input::Heads(heads(1, 7, Some(3))));
    play.wait(Duration::from_secs(1));
    play.quiet();
}

#[test]
fn what_nobody_has_proven_opens_no_session() {
    // No user was looked up, or the dialect has not said that the password is right.
    let mut play = Play::new();
    play.input(sign_in_ask("balcony"));
    assert_eq!(play.bye().code(), Code::Unauthenticated);
    let mut play = Play::new();
    looks_up(&mut play, Some(account()));
    play.input(sign_in_ask("balcony"));
    assert_eq!(play.bye().code(), Code::Invalid);
    // No password fits made-up keys, whatever a dialect says.
    for none in [None, Some(Account::default())] {
        let mut play = Play::new();
        assert_eq!(looks_up(&mut play, none), decoy(&[1; 32], "alice"), "as in the native dialect");
        play.input(Input::Ask(Ask::Proven));
        assert_eq!(play.bye().code(), Code::Unauthenticated);
    }
    let mut play = Play::new();
    play.input(Input::Ask(Ask::Proven));
    assert_eq!(play.bye().code(), Code::Unauthenticated);
}

#[test]
fn a_user_of_a_domain_without_passwords_has_none() {
    let mut play = Play::with(Arc::new(rules_of(GatewayConfig { password_sign_in: false, ..config() })));
    assert_eq!(looks_up(&mut play, Some(account())), decoy(&[1; 32], "alice"));
}

#[test]
fn wrong_passwords_are_counted_and_slow_down_further_ones() {
    let rules = Arc::new(rules());
    let mut failed = 0;
    let bye = loop {
        let mut play = Play::with(Arc::clone(&rules));
        play.input(Input::Ask(Ask::LookUp(UserId::new("alice").expect("valid"))));
        if play.closed {
            break play.bye();
        }
        play.hears_answer(Ok(Reply::Account(Box::new(account()))));
        play.input(Input::Ask(Ask::NotProven));
        play.quiet();
        failed += 1;
        assert!(failed < 100, "nothing slows down");
    };
    assert!(failed > 0);
    assert_eq!((bye.code(), bye.reconnect), (Code::RateLimited, true));
}

#[test]
fn after_a_wrong_password_another_may_come_on_the_same_connection() {
    let mut play = Play::new();
    looks_up(&mut play, Some(account()));
    play.input(Input::Ask(Ask::NotProven));
    // An attempt that was given up is forgotten.
    looks_up(&mut play, Some(account()));
    looks_up(&mut play, Some(account()));
    play.input(Input::Ask(Ask::Proven));
    play.input(sign_in_ask("balcony"));
    assert!(matches!(play.op(), Op::OpenSession(_)));
    // A user who has signed in is not another one later.
    play.hears_answer(Ok(opened(0, None)));
    play.wrote();
    play.input(Input::Ask(Ask::LookUp(UserId::new("bob").expect("valid"))));
    assert_eq!(play.bye().code(), Code::Invalid);
}

#[test]
fn an_xmpp_client_is_asked_for_a_sign_of_life_late_and_has_a_minute() {
    let mut play = Play::new();
    play.session.protocol = carillon_proto::pb::store::session::Protocol::Xmpp;
    looks_up(&mut play, Some(account()));
    play.input(Input::Ask(Ask::Proven));
    play.input(sign_in_ask("balcony"));
    play.hears_answer(Ok(opened(0, None)));
    play.wrote();
    play.wait(Duration::from_secs(899));
    assert_eq!(play.pings, 0);
    play.wait(Duration::from_secs(1));
    assert_eq!(play.pings, 1);
    play.input(Input::Alive);
    play.wait(Duration::from_secs(900));
    play.wait(Duration::from_secs(59));
    assert_eq!(play.pings, 2);
    play.quiet();
    play.wait(Duration::from_secs(1));
    assert_eq!(play.bye().code(), Code::TimedOut);
}
