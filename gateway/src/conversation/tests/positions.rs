//! Positions that come after the sign-in.

use super::*;

/// Signs in with more positions to come. The inbox has 9 entries, of which the device has acknowledged 6.
fn with_more(positions: Vec<TimelinePosition>) -> Play {
    let mut play = Play::new();
    let Body::SignIn(frame) = token_sign_in("alice", 3600) else { panic!("no sign-in") };
    play.says(Body::SignIn(client::SignIn { positions, more_positions: true, ..frame }));
    play.hears_answer(Ok(opened(9, Some(6))));
    play
}

fn has(user: &str, seq: u64) -> TimelinePosition {
    TimelinePosition { timeline: Some(inbox(user)), position: Some(at(seq)) }
}

fn positions(positions: Vec<TimelinePosition>, more: bool) -> Body {
    Body::Positions(client::Positions { positions, more })
}

/// The inbox's state that was told: the last position, and after which delivery begins.
fn told(timelines: &[client::TimelineState]) -> (u64, u64) {
    let [state] = timelines else { panic!("{timelines:?}") };
    assert_eq!((&state.timeline, state.epoch), (&Some(inbox("alice")), EPOCH));
    (state.last, state.delivered_from)
}

#[test]
fn a_timeline_begins_with_the_frame_that_names_it() {
    let mut play = with_more(vec![has("bob", 1)]);
    let server_frame::Body::SignedIn(signed_in) = play.wrote() else { panic!("not signed in") };
    assert_eq!(signed_in.timelines, []);
    assert!(signed_in.features.iter().any(|feature| feature == carillon_proto::features::MORE_POSITIONS));
    play.pushed(10);
    play.says(positions(vec![has("carol", 7); 1024], true));
    play.says(Body::Ping(Ping { nonce: 3 }));
    assert!(matches!(play.wrote(), server_frame::Body::Pong(pong) if pong.nonce == 3 && pong.heads.is_empty()));
    play.quiet();

    play.says(positions(vec![has("carol", 8), has("alice", 8)], true));
    let server_frame::Body::Timelines(begun) = play.wrote() else { panic!("nothing begins") };
    assert_eq!(told(&begun.timelines), (9, 8));
    play.hears_answer(Ok(read(1, 10, 9..=10)));
    assert_eq!(play.delivered(), [9, 10]);

    // The frame is passed over now.
    play.says(positions(vec![has("alice", 1)], false));
    play.quiet();
    play.says(send("1", "all positions are there"));
    assert!(matches!(play.op(), Op::Send(_)));
}

#[test]
fn a_timeline_that_no_frame_names_begins_with_the_last_one_where_the_start_says() {
    let mut play = with_more(vec![]);
    assert!(matches!(play.wrote(), server_frame::Body::SignedIn(_)));
    play.says(positions(vec![], false));
    let server_frame::Body::Timelines(begun) = play.wrote() else { panic!("nothing begins") };
    assert_eq!(told(&begun.timelines), (9, 6));
    play.hears_answer(Ok(read(1, 9, 7..=9)));
    assert_eq!(play.delivered(), [7, 8, 9]);
}

#[test]
fn a_timeline_named_at_the_sign_in_does_not_wait_for_the_others() {
    let mut play = with_more(vec![has("alice", 9)]);
    let server_frame::Body::SignedIn(signed_in) = play.wrote() else { panic!("not signed in") };
    assert_eq!(told(&signed_in.timelines), (9, 9));
    play.pushed(10);
    assert_eq!(play.delivered(), [10]);
    play.says(positions(vec![], false));
    play.quiet();
}

#[test]
fn of_a_timeline_without_news_nothing_is_told() {
    let mut play = with_more(vec![]);
    assert!(matches!(play.wrote(), server_frame::Body::SignedIn(_)));
    play.says(positions(vec![has("alice", 9)], false));
    play.quiet();
    play.pushed(10);
    assert_eq!(play.delivered(), [10], "it is delivered all the same");
}

#[test]
fn what_routers_tell_before_the_positions_are_there_counts() {
    let mut play = with_more(vec![]);
    assert!(matches!(play.wrote(), server_frame::Body::SignedIn(_)));
    play.input(Input::Heads(heads(1, 12, None)));
    play.says(positions(vec![has("alice", 9)], false));
    let server_frame::Body::Timelines(begun) = play.wrote() else { panic!("nothing begins") };
    assert_eq!(told(&begun.timelines), (12, 9));
    play.hears_answer(Ok(read(1, 12, 10..=12)));
    assert_eq!(play.delivered(), [10, 11, 12]);

    let mut play = with_more(vec![]);
    assert!(matches!(play.wrote(), server_frame::Body::SignedIn(_)));
    let restored =
        TimelineHead { head: Some(Head { epoch: EPOCH + 1, ..head(1, 2, None) }), ..heads(1, 2, None).remove(0) };
    play.input(Input::Heads(vec![restored]));
    assert_eq!(play.bye().code(), Code::Unavailable);
}

#[test]
fn a_position_beyond_the_timeline_that_comes_late_makes_it_begin_a_new_epoch_too() {
    let mut play = with_more(vec![]);
    assert!(matches!(play.wrote(), server_frame::Body::SignedIn(_)));
    play.says(positions(vec![has("alice", 12)], false));
    assert!(matches!(play.wrote(), server_frame::Body::Timelines(_)));
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect), (Code::Unavailable, true));
    let told = play.asked.iter().find_map(|(_, op)| match op {
        Op::Acknowledge(told) => Some(told),
        _ => None,
    });
    assert!(told.is_some_and(|told| told.beyond && told.position == Some(at(12))), "{:?}", play.asked);
}

#[test]
fn positions_at_the_wrong_time_or_too_many_end_the_connection() {
    let ends = |mut play: Play, says: Vec<Body>| {
        play.wrote.clear();
        says.into_iter().for_each(|body| play.says(body));
        play.wrote.drain(..play.wrote.len() - 1);
        let bye = play.bye();
        assert!(!bye.reconnect);
        (bye.code(), bye.reason)
    };
    let live = || with_more(vec![has("alice", 9)]);
    let full = || positions(vec![has("bob", 1); 1024], true);
    for (play, says, why) in [
        (Play::new(), vec![positions(vec![], false)], "the first frame must be sign_in"),
        (Play::live(3), vec![positions(vec![], false)], "follow a sign_in with more_positions only"),
        (live(), vec![positions(vec![], false), positions(vec![], false)], "none follow the last ones"),
        (live(), vec![positions(vec![has("bob", 1); 1025], false)], "more than 1,024"),
        (live(), vec![full(); 17], "more than 16,384"),
        (live(), vec![send("1", "too soon")], "positions must come before anything else"),
        (live(), vec![Body::Ack(Ack { timeline: Some(inbox("alice")), position: Some(at(9)) })], "must come before"),
    ] {
        let (code, reason) = ends(play, says);
        assert_eq!(code, Code::Invalid, "{reason}");
        assert!(reason.contains(why), "{reason:?} instead of {why:?}");
    }
}

#[test]
fn positions_that_do_not_come_end_the_connection_and_a_sign_out_needs_none() {
    let mut play = with_more(vec![]);
    assert!(matches!(play.wrote(), server_frame::Body::SignedIn(_)));
    play.wait(Duration::from_secs(5));
    play.says(positions(vec![], true));
    play.wait(Duration::from_secs(4));
    play.quiet();
    play.wait(Duration::from_secs(1));
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect), (Code::TimedOut, true));

    let mut play = with_more(vec![]);
    assert!(matches!(play.wrote(), server_frame::Body::SignedIn(_)));
    play.says(Body::SignOut(SignOut {}));
    play.hears_answer(Ok(Reply::Done(Done {})));
    assert_eq!(play.bye().code(), Code::SignedOut);
}
