//! Beginnings of sessions, and their refusals.

use super::*;

#[test]
fn a_session_is_as_old_as_its_sign_in_however_long_that_takes() {
    let mut play = Play::new();
    play.says(token_sign_in("alice", 3600));
    // Meanwhile the device may have given up and signed in on another connection.
    play.wait(Duration::from_secs(3));
    match &play.asked[..] {
        [(Tag::Open, Op::OpenSession(open))] => assert_eq!(open.session.as_ref().expect("set").since_ms, START_MS),
        other => panic!("not an OpenSession: {other:?}"),
    }
}

#[test]
fn a_session_is_numbered_by_its_client_however_often_it_is_stored() {
    let numbered = |instance, attempt| {
        let Body::SignIn(frame) = token_sign_in("alice", 3600) else { panic!("no sign-in") };
        Body::SignIn(client::SignIn { instance, attempt, ..frame })
    };
    for (instance, attempt) in [(7, 0), (0, 1)] {
        let mut play = Play::new();
        play.says(numbered(instance, attempt));
        let bye = play.bye();
        assert_eq!((bye.code(), bye.reconnect), (Code::Invalid, false));
    }
    for number in [(0, 0), (u64::MAX, 3)] {
        let mut play = Play::new();
        play.says(numbered(number.0, number.1));
        let Op::OpenSession(open) = play.op() else { panic!("no OpenSession") };
        let session = open.session.as_ref().expect("a session");
        assert_eq!((session.instance, session.attempt), number);
        play.hears_answer(Ok(opened(3, Some(3))));
        assert!(matches!(play.wrote(), server_frame::Body::SignedIn(_)));
        // A new token opens the same session again.
        let Body::SignIn(client::SignIn { credential: Some(Credential::Token(token)), .. }) =
            token_sign_in("alice", 7200)
        else {
            panic!("no token")
        };
        play.says(Body::Renew(client::Renew { request: 1, token }));
        let Op::OpenSession(open) = play.op() else { panic!("no OpenSession") };
        let session = open.session.as_ref().expect("a session");
        assert_eq!((session.instance, session.attempt), number);
    }
}

#[test]
fn a_token_makes_an_account_if_there_is_none() {
    let nobody = || Err(refusal(Code::NotFound, "no such user", 0));
    let mut play = Play::new();
    play.says(token_sign_in("alice", 3600));
    play.hears_answer(nobody());
    let Op::EnsureAccount(ensure) = play.op() else { panic!("no EnsureAccount") };
    assert_eq!(ensure.user, "alice");
    play.hears_answer(Ok(Reply::Account(Box::default())));
    play.hears_answer(Ok(opened(0, None)));
    assert!(matches!(play.wrote(), server_frame::Body::SignedIn(_)));

    // Deleted again meanwhile: once is enough.
    let mut play = Play::new();
    play.says(token_sign_in("alice", 3600));
    play.hears_answer(nobody());
    play.hears_answer(Ok(Reply::Account(Box::default())));
    play.hears_answer(nobody());
    assert_eq!(play.bye().code(), Code::Unauthenticated);
}

#[test]
fn a_token_makes_an_account_for_whom_the_operator_wants() {
    let nobody = || Err(refusal(Code::NotFound, "no such user", 0));
    let gone = || Err(refusal(Code::Unauthenticated, "user \"alice\" was deleted", 0));
    for (accounts, refused, makes) in [
        (TokenAccounts::NewNames, nobody(), Some(false)),
        (TokenAccounts::NewNames, gone(), None),
        (TokenAccounts::Always, nobody(), Some(true)),
        (TokenAccounts::Always, gone(), Some(true)),
        (TokenAccounts::Never, nobody(), None),
        (TokenAccounts::Never, gone(), None),
    ] {
        let config = config();
        let jwt = JwtConfig { accounts, ..config.jwt.clone() };
        let mut play = Play::with(Arc::new(rules_of(GatewayConfig { jwt, ..config })));
        play.says(token_sign_in("alice", 3600));
        play.hears_answer(refused);
        match makes {
            Some(revives) => {
                let Op::EnsureAccount(ensure) = play.op() else { panic!("{accounts:?}: no account is made") };
                assert_eq!(ensure.revive, revives, "{accounts:?}");
            }
            None => assert_eq!(play.bye().code(), Code::Unauthenticated, "{accounts:?}"),
        }
    }
}

#[test]
fn a_session_says_by_what_it_was_opened() {
    let mut play = Play::new();
    let claims = serde_json::json!({"sub": "alice", "exp": START_MS / 1000 + 60, "iat": 1_700_000_000, "jti": "t1"});
    let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("signs");
    play.says(sign_in("", Credential::Token(token)));
    let Op::OpenSession(open) = play.op() else { panic!("no OpenSession") };
    let session = open.session.as_ref().expect("a session");
    assert_eq!((session.by_token, session.token_id.as_str()), (true, "t1"));
    assert_eq!(session.token_issued_ms, 1_700_000_000_000);

    let mut play = Play::new();
    prove_as(&mut play, Some((new_credentials("secret").expect("valid"), 7)), "secret");
    let Op::OpenSession(open) = play.op() else { panic!("no OpenSession") };
    let session = open.session.as_ref().expect("a session");
    assert_eq!((session.by_token, session.generation), (false, 7), "of the credentials that were proven");
}

#[test]
fn a_password_makes_no_account() {
    let mut play = Play::new();
    prove(&mut play, Some(new_credentials("secret").expect("valid")), "secret");
    play.hears_answer(Err(refusal(Code::NotFound, "no such user", 0)));
    assert_eq!(play.bye().code(), Code::Unauthenticated);
}

#[test]
fn a_sign_in_that_a_later_one_overtook_may_be_tried_again() {
    let mut play = Play::new();
    play.says(token_sign_in("alice", 3600));
    play.hears_answer(Ok(Reply::SessionOpened(SessionOpened { replaced: true, ..SessionOpened::default() })));
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect), (Code::Unavailable, true));
}

#[test]
fn a_device_that_has_more_than_the_timeline_makes_it_begin_a_new_epoch() {
    let mut play = Play::new();
    let Body::SignIn(mut frame) = token_sign_in("alice", 3600) else { panic!("no sign-in") };
    frame.positions = vec![TimelinePosition { timeline: Some(inbox("alice")), position: Some(at(10)) }];
    play.says(Body::SignIn(frame.clone()));
    play.hears_answer(Ok(opened(5, None)));
    assert!(matches!(play.wrote(), server_frame::Body::SignedIn(_)));
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect), (Code::Unavailable, true));
    let told = play.asked.iter().find_map(|(_, op)| match op {
        Op::Acknowledge(told) => Some(told),
        _ => None,
    });
    assert!(told.is_some_and(|told| told.beyond && told.position == Some(at(10))), "{:?}", play.asked);

    let mut play = Play::new();
    play.says(Body::SignIn(frame));
    play.hears_answer(Ok(opened(10, None)));
    assert!(matches!(play.wrote(), server_frame::Body::SignedIn(_)));
    assert!(!play.asked.iter().any(|(_, op)| matches!(op, Op::Acknowledge(_))), "{:?}", play.asked);
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
    let wrong = || sign_in("", Credential::Token("no token".to_owned()));
    for expected in [Code::Unauthenticated; 4].into_iter().chain([Code::RateLimited]) {
        let mut play = Play::with(Arc::clone(&rules));
        play.says(wrong());
        assert_eq!(play.bye().code(), expected);
    }
    // A token that is right can't be guessed: its holder is not kept out by those who guess.
    let mut play = Play::with(Arc::clone(&rules));
    play.says(token_sign_in("alice", 3600));
    assert!(matches!(play.op(), Op::OpenSession(_)));
}

#[test]
fn what_was_rightly_signed_is_no_failure_of_guessing() {
    let rules = Arc::new(rules());
    let sign = |claims: serde_json::Value| {
        let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("signs");
        sign_in("", Credential::Token(token))
    };
    let (past, future) = (START_MS / 1000 - 60, START_MS / 1000 + 60);
    let bad = [
        serde_json::json!({"sub": "alice", "exp": past}),
        serde_json::json!({"sub": "alice", "exp": future, "nbf": future}),
        serde_json::json!({"sub": "alice", "exp": future, "aud": "another service"}),
        serde_json::json!({"sub": "alice"}),
        serde_json::json!({"sub": "", "exp": future}),
    ];
    for claims in bad.iter().cycle().take(20) {
        let mut play = Play::with(Arc::clone(&rules));
        play.says(sign(claims.clone()));
        assert_eq!(play.bye().code(), Code::Unauthenticated, "{claims}");
    }
    let mut play = Play::with(Arc::clone(&rules));
    play.says(sign_in("", Credential::Token("no token".to_owned())));
    assert_eq!(play.bye().code(), Code::Unauthenticated, "nothing was counted");
}

#[test]
fn wrong_passwords_of_one_user_are_counted_for_that_user() {
    let rules = Arc::new(rules());
    let stored = || Some(new_credentials("secret").expect("valid"));
    for _ in 0..2 {
        let mut play = Play::with(Arc::clone(&rules));
        prove(&mut play, stored(), "wrong");
        assert_eq!(play.bye().code(), Code::Unauthenticated);
    }
    let mut play = Play::with(Arc::clone(&rules));
    play.says(sign_in("alice", Credential::ScramFirst(b"n,,n=alice,r=0123456789".to_vec().into())));
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect), (Code::RateLimited, true));
    assert!(play.asked.is_empty(), "the store is not asked");
    // Another user of the same address is not kept out.
    let mut play = Play::with(Arc::clone(&rules));
    play.says(sign_in("bob", Credential::ScramFirst(b"n,,n=bob,r=0123456789".to_vec().into())));
    assert!(matches!(play.op(), Op::LookUpAccount(_)));
}

#[test]
fn passwords_that_are_begun_and_left_have_a_rate_and_right_ones_do_not_count() {
    let rules = Arc::new(rules());
    for _ in 0..20 {
        let mut play = Play::with(Arc::clone(&rules));
        prove(&mut play, Some(new_credentials("secret").expect("valid")), "secret");
        assert!(matches!(play.op(), Op::OpenSession(_)));
    }
    let begin = || {
        let mut play = Play::with(Arc::clone(&rules));
        play.says(sign_in("alice", Credential::ScramFirst(b"n,,n=alice,r=0123456789".to_vec().into())));
        !play.asked.is_empty()
    };
    assert_eq!((0..20).filter(|_| begin()).count(), 8);
}

#[test]
fn a_user_has_a_bound_of_connections() {
    let rules = Arc::new(rules());
    let sign_in = || {
        let mut play = Play::with(Arc::clone(&rules));
        play.says(token_sign_in("alice", 3600));
        play
    };
    let (first, _second) = (sign_in(), sign_in());
    let bye = sign_in().bye();
    assert_eq!((bye.code(), bye.reconnect), (Code::Overloaded, true));
    drop(first);
    assert!(matches!(sign_in().op(), Op::OpenSession(_)));
}

#[test]
fn the_connections_of_a_user_share_what_it_may_send() {
    let rules = Arc::new(rules());
    let mut plays = [Play::with(Arc::clone(&rules)), Play::with(rules)];
    for play in &mut plays {
        play.says(token_sign_in("alice", 3600));
        play.hears_answer(Ok(opened(0, None)));
        assert!(matches!(play.wrote(), server_frame::Body::SignedIn(_)));
    }
    let mut sent = 0;
    for number in 0..10 {
        let play = &mut plays[number % 2];
        play.says(send(&number.to_string(), "hello"));
        if play.asked.is_empty() {
            assert_eq!(play.refused().1, Code::RateLimited);
        } else {
            play.hears_answer(Err(refusal(Code::NotFound, "no such user", 0)));
            assert_eq!(play.refused().1, Code::NotFound);
            sent += 1;
        }
    }
    assert_eq!(sent, 7, "each connection may send five at once, the user seven");
}

#[test]
fn a_tokens_end_is_the_sessions_end() {
    let mut play = Play::new();
    play.says(token_sign_in("alice", 20));
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
    play.input(Input::Ask(Ask::Unknown));
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
fn features_are_announced_when_the_level_says_that_the_whole_service_has_them() {
    let features = |level: Level| {
        let rules = Rules { level: ClusterLevel::default(), ..rules() };
        rules.level.heard(level);
        let mut play = Play::with(Arc::new(rules));
        play.says(token_sign_in("alice", 3600));
        play.hears_answer(Ok(opened(3, Some(3))));
        let server_frame::Body::SignedIn(signed_in) = play.wrote() else { panic!("not signed in") };
        signed_in.features
    };
    assert_eq!(features(Level::BEFORE), Vec::<String>::new(), "gateways of release 0.1 have none");
    for level in 1..=Level::OF_PROGRAM.0 {
        let (below, at) = (features(Level(level - 1)), features(Level(level)));
        assert!(below.iter().all(|feature| at.contains(feature)), "{below:?} at level {}, then {at:?}", level - 1);
    }
    assert!(features(Level::CLUSTER).iter().any(|feature| feature == carillon_proto::features::UNKNOWN_FIELDS));
}
