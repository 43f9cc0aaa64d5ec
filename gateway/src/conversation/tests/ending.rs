//! Ends of sessions.

use super::*;
use carillon_proto::pb::client::SessionEnd;

#[test]
fn signing_out_waits_for_the_release_of_the_handle() {
    let mut play = Play::live(0);
    play.says(Body::SignOut(SignOut {}));
    assert!(matches!(play.op(), Op::CloseSession(_)));
    assert!(!play.closed);
    play.hears_answer(Ok(Reply::Done(Done {})));
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect), (Code::SignedOut, false));
    assert!(play.session.leave().is_empty());
}

#[test]
fn signing_out_waits_for_what_the_device_has_acknowledged() {
    let mut play = Play::live(3);
    for seq in [1, 2] {
        play.says(Body::Ack(Ack { timeline: Some(inbox("alice")), position: Some(at(seq)) }));
    }
    assert!(matches!(play.op(), Op::Acknowledge(_)), "one is on its way, the other one waits");
    play.says(Body::SignOut(SignOut {}));
    assert!(matches!(play.asked[..], [(Tag::Ack(_), _), (Tag::Ack(_), _), (Tag::Close, _)]), "{:?}", play.asked);
    for _ in 0..2 {
        play.hears_answer(Ok(Reply::Done(Done {})));
        assert!(!play.closed);
    }
    play.hears_answer(Ok(Reply::Done(Done {})));
    assert_eq!(play.bye().code(), Code::SignedOut);
}

#[test]
fn a_replaced_session_does_not_come_back() {
    let mut play = Play::live(0);
    play.input(Input::Evicted(Why::Replaced));
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect), (Code::Replaced, false));
}

#[test]
fn a_session_that_was_ended_says_why_and_does_not_come_back() {
    let all = [
        (Why::Deleted, SessionEnd::Deleted),
        (Why::Credentials, SessionEnd::Credentials),
        (Why::Token, SessionEnd::Token),
        (Why::Operator, SessionEnd::Operator),
    ];
    for (why, ended) in all {
        let mut play = Play::live(0);
        play.input(Input::Evicted(why));
        let bye = play.bye();
        assert_eq!((bye.code(), bye.reconnect), (Code::Unauthenticated, false));
        assert_eq!((bye.reason.as_str(), bye.ended()), (sessions::told(why), ended));
    }
}

#[test]
fn what_an_account_that_has_ended_asks_for_ends_the_session() {
    let gone = || Err(refusal(Code::Unauthenticated, "the inbox of this user has ended", 0));
    let mut play = Play::live(0);
    play.says(send("m1", "hi"));
    play.hears_answer(gone());
    // Nobody knows what came of the send: the recipient may have it.
    assert_eq!(play.bye().code(), Code::Unauthenticated);
}

#[test]
fn a_drain_waits_for_pending_sends() {
    let mut play = Play::live(0);
    play.says(send("m1", "hi"));
    play.input(Input::Drain { reconnect_after: Duration::from_millis(300) });
    play.says(send("m2", "hi"));
    assert_eq!(play.refused().1, Code::Unavailable);
    assert!(!play.closed);
    play.hears_answer(Ok(accepted(1)));
    assert!(matches!(play.wrote(), server_frame::Body::Accepted(_)));
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect, bye.reconnect_after_ms), (Code::ShuttingDown, true, 300));
}

#[test]
fn a_client_of_a_gateway_that_is_cut_off_goes_at_once() {
    let mut play = Play::live(0);
    play.says(send("m1", "hi"));
    play.input(Input::CutOff { reconnect_after: Duration::from_millis(300) });
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect, bye.reconnect_after_ms), (Code::Unavailable, true, 300));
}

#[test]
fn signing_out_waits_for_pending_answers_and_takes_nothing_more() {
    let mut play = Play::live(9);
    play.says(send("m1", "hi"));
    play.says(Body::Fetch(Fetch { request: 7, timeline: Some(inbox("alice")), ..Default::default() }));
    play.says(Body::SignOut(SignOut {}));
    play.says(send("m2", "behind the last word"));
    play.says(Body::Ping(Ping { nonce: 1 }));
    play.input(Input::Unreadable { what: AskId::Request(1), reason: String::new() });
    assert_eq!(play.asked.len(), 2, "{:?}", play.asked);
    play.hears_answer(Ok(accepted(10)));
    assert!(matches!(play.wrote(), server_frame::Body::Accepted(_)));
    assert!(!play.closed);
    play.hears_answer(Ok(read(1, 9, 9..=9)));
    assert!(matches!(play.wrote(), server_frame::Body::Page(_)));
    assert!(matches!(play.op(), Op::CloseSession(_)));
    play.hears_answer(Ok(Reply::Done(Done {})));
    assert_eq!(play.bye().code(), Code::SignedOut);
}

#[test]
fn a_half_closed_connection_gets_its_answers_before_it_ends() {
    let mut play = Play::live(0);
    play.says(send("m1", "hi"));
    play.input(Input::HalfClosed);
    play.pushed(1);
    assert_eq!(play.delivered(), [1], "it still hears");
    assert!(!play.closed);
    play.hears_answer(Ok(accepted(2)));
    assert!(matches!(play.wrote(), server_frame::Body::Accepted(_)));
    assert_eq!(play.bye().code(), Code::SignedOut);

    let mut idle = Play::live(0);
    idle.input(Input::HalfClosed);
    assert_eq!(idle.bye().code(), Code::SignedOut, "nothing is waited for");

    let mut stranger = Play::new();
    stranger.input(Input::HalfClosed);
    assert!(stranger.closed && stranger.wrote.is_empty());
}

#[test]
fn what_is_sent_ahead_waits_for_the_sign_in() {
    let mut play = Play::new();
    assert!(play.session.reads());
    play.says(token_sign_in("alice", 3600));
    assert!(!play.session.reads(), "the answer is on its way");
    play.hears_answer(Ok(opened(0, None)));
    assert!(play.session.reads());
    let mut play = Play::new();
    play.says(sign_in("alice", Credential::ScramFirst(b"n,,n=alice,r=0123456789".to_vec().into())));
    assert!(!play.session.reads());
    play.hears_answer(Err(refusal(Code::NotFound, "no such user", 0)));
    assert!(play.session.reads(), "the proof is waited for");
}

fn renew(request: u32, user: &str, seconds: u64) -> Body {
    match token_sign_in(user, seconds) {
        Body::SignIn(client::SignIn { credential: Some(Credential::Token(token)), .. }) => {
            Body::Renew(client::Renew { request, token })
        }
        other => panic!("no token: {other:?}"),
    }
}

#[test]
fn a_renewed_session_sends_with_its_new_generation_and_ends_with_its_account() {
    let mut play = Play::live(0);
    play.says(renew(1, "alice", 7200));
    play.hears_answer(Ok(Reply::SessionOpened(SessionOpened { generation: 9, ..SessionOpened::default() })));
    assert!(matches!(play.wrote(), server_frame::Body::Renewed(_)));
    play.says(send("m1", "hi"));
    assert!(matches!(play.op(), Op::Send(sent) if sent.generation == 9), "{:?}", play.op());
    play.hears_answer(Ok(accepted(1)));
    play.wrote();
    play.says(renew(2, "alice", 7200));
    play.hears_answer(Ok(Reply::SessionOpened(SessionOpened { incarnation: 5, ..SessionOpened::default() })));
    assert_eq!(play.bye().code(), Code::Unauthenticated, "the name has another owner");
}

#[test]
fn a_new_token_lets_the_session_go_on() {
    let mut play = Play::new();
    play.says(token_sign_in("alice", 20));
    play.hears_answer(Ok(opened(0, None)));
    let server_frame::Body::SignedIn(signed_in) = play.wrote() else { panic!("not signed in") };
    assert_eq!(signed_in.expires_ms, START_MS + 20_000);
    play.wait(Duration::from_secs(15));
    // Of another user, out of date, no token: the one in use stays.
    play.says(renew(1, "bob", 3600));
    play.says(renew(2, "alice", 10));
    play.says(Body::Renew(client::Renew { request: 3, token: "x".to_owned() }));
    for request in 1..=3 {
        assert_eq!(play.refused(), (Some(What::Request(request)), Code::Unauthenticated));
    }
    // Taken back by the operator, or the directory can't be asked: the same.
    for (request, code, retry_ms) in [(4, Code::Unauthenticated, 0), (5, Code::Unavailable, 500)] {
        play.says(renew(request, "alice", 40));
        assert!(matches!(play.op(), Op::OpenSession(_)));
        play.hears_answer(Err(refusal(code, "no", retry_ms)));
        assert_eq!(play.refused(), (Some(What::Request(request)), code));
    }
    play.says(renew(6, "alice", 40));
    play.says(renew(7, "alice", 40));
    assert_eq!(play.refused(), (Some(What::Request(7)), Code::Overloaded), "one at a time");
    let Op::OpenSession(open) = play.op() else { panic!("the directory is not asked") };
    assert!(open.session.as_ref().is_some_and(|session| session.by_token && session.since_ms == START_MS));
    play.hears_answer(Ok(opened(0, None)));
    let server_frame::Body::Renewed(renewed) = play.wrote() else { panic!("not renewed") };
    assert_eq!((renewed.request, renewed.expires_ms), (6, START_MS + 40_000));
    play.wait(Duration::from_secs(10));
    assert!(!play.closed, "the first one has expired");
    play.says(Body::Ping(Ping { nonce: 1 }));
    assert!(matches!(play.wrote(), server_frame::Body::Pong(_)));
    play.wait(Duration::from_secs(15));
    assert_eq!(play.bye().code(), Code::Expired);
}
