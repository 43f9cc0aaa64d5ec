//! How a session ends.

use super::*;

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
    assert!(matches!(play.asked[..], [(Tag::Ack, _), (Tag::Ack, _), (Tag::Close, _)]), "{:?}", play.asked);
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
    play.input(Input::Replaced);
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect), (Code::Replaced, false));
}

#[test]
fn a_drain_waits_for_pending_sends() {
    let mut play = Play::live(0);
    play.says(send("m1", "hi"));
    play.input(Input::Drain { come_back: Duration::from_millis(300) });
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
    play.input(Input::CutOff { come_back: Duration::from_millis(300) });
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect, bye.reconnect_after_ms), (Code::Unavailable, true, 300));
}
