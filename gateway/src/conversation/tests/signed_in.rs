//! Sends, deliveries, history and acknowledgements of a session that is signed in.

use super::*;

#[test]
fn a_send_is_passed_on_with_the_sessions_sender_and_accepted() {
    let mut play = Play::live(3);
    play.says(send("m1", "hi"));
    let Op::Send(sent) = play.op() else { panic!("no Send") };
    assert_eq!((&sent.sender[..], &sent.sender_device[..], sent.connection), (&b"alice"[..], &b"phone"[..], 42));
    assert_eq!(sent.to, Some(link::SendTo { to: Some(link::send_to::To::User("bob".into())) }));
    assert!(Content::decode(sent.content.clone()).is_ok());
    play.hears_answer(Ok(accepted(4)));
    let server_frame::Body::Accepted(accepted) = play.wrote() else { panic!("not accepted") };
    assert_eq!((accepted.client_id.as_str(), accepted.position), ("m1", Some(at(4))));
    play.pushed(4);
    play.pushed(5);
    assert_eq!(play.delivered(), [5], "Accepted has delivered 4");
}

#[test]
fn an_own_message_whose_answer_came_before_its_turn_is_not_held() {
    let mut play = Play::live(3);
    play.says(send("m1", "hi"));
    play.hears_answer(Ok(accepted(5)));
    assert!(matches!(play.wrote(), server_frame::Body::Accepted(_)));
    let own = |seq| Push { sender_connection: ME.0, ..push(seq) };
    play.pushed(4);
    play.hears_push(own(5));
    play.pushed(6);
    assert_eq!(play.delivered(), [4, 5, 6]);
    play.says(send("m2", "hi"));
    play.hears_push(own(7));
    play.quiet_but_for_requests();
    play.hears_answer(Ok(accepted(7)));
    assert!(matches!(play.wrote(), server_frame::Body::Accepted(_)), "counts for the entry");
    play.quiet();
}

#[test]
fn a_head_that_was_read_before_the_timeline_came_to_be_ends_no_session() {
    let mut play = Play::live(3);
    play.input(Input::Heads(heads(0, 0, None)));
    play.quiet();
    play.pushed(4);
    assert_eq!(play.delivered(), [4]);
}

#[test]
fn content_in_groups_is_refused() {
    let mut content = Content { body: Some(content::Body::Text(Text { body: "hi".to_owned() })), ..Default::default() }
        .encode_to_vec();
    content.extend([[0x9b, 0x06].repeat(100), [0x9c, 0x06].repeat(100)].concat());
    let to = Some(Recipient { to: Some(To::User("bob".to_owned())) });
    let send = SendAsk {
        client_id: "m1".to_owned(),
        to,
        content: Some(content.into()),
        after: String::new(),
        expires_after_ms: 0,
    };
    let mut play = Play::live(0);
    play.input(Input::Ask(Ask::Send(send)));
    assert_eq!(play.refused(), (Some(What::ClientId("m1".to_owned())), Code::Invalid));
    play.quiet();
}

#[test]
fn content_is_passed_on_as_it_came() {
    let mut content = Content { body: Some(content::Body::Text(Text { body: "hi".to_owned() })), ..Default::default() }
        .encode_to_vec();
    // Field 99, the text "new": of a later release.
    content.extend([0x9a, 0x06, 3, b'n', b'e', b'w']);
    let Body::Send(send) = send("m1", "") else { panic!("no Send") };
    let send = SendAsk {
        client_id: send.client_id,
        to: send.to,
        content: Some(content.clone().into()),
        after: String::new(),
        expires_after_ms: 0,
    };
    let mut play = Play::live(0);
    play.input(Input::Ask(Ask::Send(send)));
    let Op::Send(sent) = play.op() else { panic!("no Send") };
    assert_eq!((&sent.content[..], sent.time_ms), (&content[..], START_MS), "with the time that each repeat has");
}

#[test]
fn what_is_no_send_is_refused_by_its_id() {
    let mut play = Play::live(0);
    let group = Some(Recipient { to: Some(To::Group("g".to_owned())) });
    for (change, code) in [
        (send("m", ""), Code::Invalid),
        (send("m", &"x".repeat(1001)), Code::TooLarge),
        (
            Body::Send(client::Send { client_id: "m".to_owned(), to: group, content: None, ..Default::default() }),
            Code::Unsupported,
        ),
        (Body::Send(client::Send { client_id: "m".to_owned(), ..Default::default() }), Code::Invalid),
    ] {
        play.says(change);
        assert_eq!(play.refused(), (Some(What::ClientId("m".to_owned())), code));
        play.quiet();
    }
}

#[test]
fn sends_are_bounded_by_pending_and_by_rate() {
    let mut play = Play::live(0);
    for id in ["m1", "m2", "m3"] {
        play.says(send(id, "hi"));
    }
    play.says(send("m4", "hi"));
    assert_eq!(play.refused().1, Code::Overloaded);
    for seq in 1..=3 {
        play.hears_answer(Ok(accepted(seq)));
    }
    play.wrote.clear();
    play.says(send("m4", "hi"));
    assert_eq!(play.refused().1, Code::RateLimited, "before the time that it was told");
    play.wait(Duration::from_millis(100));
    for id in ["m4", "m5", "m6"] {
        play.says(send(id, "hi"));
    }
    for seq in 4..=6 {
        play.hears_answer(Ok(accepted(seq)));
    }
    play.wrote.clear();
    play.says(send("m7", "hi"));
    assert_eq!(play.refused().1, Code::RateLimited, "the burst is 5, and one came back");
    play.wait(Duration::from_millis(100));
    play.says(send("m7", "hi"));
    assert!(play.wrote.is_empty());
}

#[test]
fn what_follows_a_refused_send_is_refused_without_asking_and_not_before_it() {
    let mut play = Play::live(0);
    let after = |id: &str, after: &str| match send(id, "hi") {
        Body::Send(send) => Body::Send(client::Send { after: after.to_owned(), ..send }),
        other => other,
    };
    play.says(send("m1", "hi"));
    play.says(after("m2", "m1"));
    play.hears_answer(Err(refusal(Code::Unavailable, "no answer in time", 500)));
    play.hears_answer(Err(link::Refusal { code: Code::OutOfOrder.into(), retry: true, ..Default::default() }));
    let told = |play: &mut Play| match play.wrote() {
        server_frame::Body::Refused(refused) => {
            assert!(refused.retry);
            (refused.code(), refused.retry_after_ms)
        }
        other => panic!("not refused: {other:?}"),
    };
    let (first, second) = (told(&mut play), told(&mut play));
    assert_eq!(first, (Code::Unavailable, 500));
    assert!(second.0 == Code::OutOfOrder && second.1 > 500, "{second:?}");
    for n in 3..8 {
        play.says(after(&format!("m{n}"), &format!("m{}", n - 1)));
        let (code, wait) = told(&mut play);
        assert!(code == Code::OutOfOrder && wait > second.1, "{code:?} {wait}");
    }
    play.quiet();
    play.wait(Duration::from_millis(500));
    play.says(send("m1", "hi"));
    play.wait(Duration::from_millis(u64::from(second.1) - 500));
    play.says(after("m2", "m1"));
    assert!(play.wrote.is_empty(), "both go, and in order: {:?}", play.wrote);
    assert_eq!(play.asked.len(), 2);
}

#[test]
fn a_frame_that_cannot_be_read_is_refused_by_name_and_costs_like_another() {
    let mut play = Play::live(0);
    let bad = |what: What| Input::Unreadable { what: what.into(), reason: "send.to must be an object".to_owned() };
    for _ in 0..5 {
        play.input(bad(What::ClientId("m1".to_owned())));
        assert_eq!(play.refused(), (Some(What::ClientId("m1".to_owned())), Code::Invalid));
    }
    play.input(bad(What::ClientId("m1".to_owned())));
    assert_eq!(play.refused().1, Code::RateLimited);
    play.input(bad(What::Request(3)));
    assert_eq!(play.refused(), (Some(What::Request(3)), Code::Invalid));
    assert!(!play.closed);
    let mut stranger = Play::new();
    stranger.input(bad(What::ClientId("m1".to_owned())));
    assert_eq!(stranger.bye().code(), Code::Invalid);
}

#[test]
fn history_has_a_rate() {
    let mut play = Play::live(9);
    let fetch = |request: u32| {
        Body::Fetch(Fetch {
            request,
            timeline: Some(inbox("alice")),
            direction: 1,
            from_seq: 0,
            limit: 1,
            ..Default::default()
        })
    };
    for request in 0..100 {
        play.says(fetch(request));
        play.hears_answer(Ok(read(1, 9, 9..=9)));
        assert!(matches!(play.wrote(), server_frame::Body::Page(_)), "within the burst");
    }
    play.says(fetch(100));
    let server_frame::Body::Refused(refused) = play.wrote() else { panic!("not refused") };
    assert_eq!((refused.code(), refused.retry, refused.what), (Code::RateLimited, true, Some(What::Request(100))));
    assert!((1..=50).contains(&refused.retry_after_ms), "{}", refused.retry_after_ms);
    play.quiet();
    play.wait(Duration::from_millis(refused.retry_after_ms.into()));
    play.says(fetch(100));
    assert!(matches!(play.op(), Op::Read(_)));
}

#[test]
fn what_was_missed_is_read_and_delivered_in_order() {
    let mut play = Play::new();
    play.says(token_sign_in("alice", 3600));
    // Of after the heads were read, but before they came.
    play.pushed(6);
    play.hears_answer(Ok(opened(5, Some(2))));
    let server_frame::Body::SignedIn(_) = play.wrote() else { panic!("not signed in") };
    let Op::Read(asked) = play.op() else { panic!("no read") };
    assert_eq!((asked.from_seq, asked.backward), (3, false));
    play.pushed(7);
    play.hears_answer(Ok(read(1, 6, 3..=6)));
    assert_eq!(play.delivered(), [3, 4, 5, 6, 7]);
    play.quiet();
}

#[test]
fn what_is_no_longer_kept_is_said_to_be_trimmed() {
    let mut play = Play::new();
    play.says(token_sign_in("alice", 3600));
    let heads = heads(4, 5, Some(1));
    play.hears_answer(Ok(Reply::SessionOpened(SessionOpened { heads, ..SessionOpened::default() })));
    play.wrote();
    play.hears_answer(Ok(read(4, 5, 4..=5)));
    let server_frame::Body::Trimmed(trimmed) = play.wrote() else { panic!("not trimmed") };
    assert_eq!(trimmed.first, Some(at(4)));
    assert_eq!(play.delivered(), [4, 5]);
}

#[test]
fn a_slow_reader_gets_nothing_until_it_has_read() {
    let mut play = Play::live(0);
    play.input(Input::Backlog { full: true });
    for seq in 1..=3 {
        play.pushed(seq);
    }
    play.wait(Duration::from_secs(1));
    play.quiet();
    play.input(Input::Backlog { full: false });
    assert_eq!(play.delivered(), [1, 2, 3], "those that were kept");
    play.input(Input::Backlog { full: true });
    play.behind(9);
    play.quiet();
    play.input(Input::Backlog { full: false });
    assert!(matches!(play.op(), Op::Read(read) if read.from_seq == 4));
}

#[test]
fn a_timeline_of_another_epoch_needs_a_new_sign_in() {
    let mut play = Play::live(3);
    let position = Some(Position { epoch: 8, seq: 1 });
    play.hears_push(Push { position, ..push(1) });
    assert!(matches!(play.op(), Op::Read(_)), "a push is a hint: ask");
    let head = Some(Head { epoch: 8, first: 1, last: 1, ..Default::default() });
    play.hears_answer(Ok(Reply::TimelineRead(TimelineRead { head, ..TimelineRead::default() })));
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect), (Code::Unavailable, true));
}

#[test]
fn a_ping_is_answered_with_what_is_known_and_asks_the_routers_nothing() {
    let mut play = Play::live(3);
    play.says(Body::Ping(Ping { nonce: 1 }));
    let server_frame::Body::Pong(pong) = play.wrote() else { panic!("no pong") };
    let head = TimelinePosition { timeline: Some(inbox("alice")), position: Some(at(3)) };
    assert_eq!((pong.nonce, pong.heads), (1, vec![head]));
    play.quiet();
}

#[test]
fn a_client_is_pinged_after_a_heartbeat_over_websocket_only_and_an_answer_is_a_sign_of_life() {
    let mut play = Play::live(0);
    for _ in 0..10 {
        play.wait(Duration::from_secs(30));
        assert_eq!(play.pings, 0, "whoever keeps to the heartbeat is not asked");
        play.says(Body::Ack(Ack::default()));
    }
    // For ten minutes no more than answers to pings.
    play.session.protocol = Protocol::Websocket;
    for pings in 1..=16 {
        play.wait(Duration::from_millis(37_500));
        assert_eq!(play.pings, pings);
        play.input(Input::Alive);
        play.quiet();
    }
    // Then not even that; it is asked again and again.
    for pings in 17..=19 {
        play.wait(Duration::from_millis(37_500));
        assert_eq!(play.pings, pings);
        play.quiet();
    }
    play.wait(Duration::from_millis(37_500));
    assert_eq!(play.bye().code(), Code::TimedOut);
}

#[test]
fn a_sign_of_life_does_not_make_the_sign_in_longer() {
    let mut play = Play::new();
    play.wait(Duration::from_secs(9));
    play.input(Input::Alive);
    play.wait(Duration::from_secs(1));
    assert_eq!(play.bye().code(), Code::TimedOut);
}

#[test]
fn silence_well_above_a_minute_ends_the_connection() {
    let mut play = Play::live(0);
    play.wait(Duration::from_secs(149));
    play.says(Body::Ack(Ack::default()));
    play.wait(Duration::from_secs(149));
    play.quiet();
    play.wait(Duration::from_secs(1));
    let bye = play.bye();
    assert_eq!((bye.code(), bye.reconnect), (Code::TimedOut, true));
}

#[test]
fn acknowledgements_are_coalesced_and_the_last_one_is_said_in_the_end() {
    let ack = |seq| Body::Ack(Ack { timeline: Some(inbox("alice")), position: Some(at(seq)) });
    let acked = |op: &Op| match op {
        Op::Acknowledge(ack) => ack.position.expect("a position").seq,
        other => panic!("no Acknowledge: {other:?}"),
    };
    let mut play = Play::live(9);
    for seq in [1, 2, 3, 2, 99] {
        play.says(ack(seq));
    }
    assert_eq!(acked(play.op()), 1);
    play.hears_answer(Ok(Reply::Done(Done {})));
    play.quiet();
    play.wait(Duration::from_millis(100));
    assert_eq!(acked(play.op()), 3);
    play.says(ack(9));
    let left = play.session.leave();
    assert_eq!(acked(&left[0]), 9);
    assert!(matches!(left[1], Op::CloseSession(_)));
}

#[test]
fn history_is_the_own_inbox_only() {
    let mut play = Play::live(9);
    let fetch = |timeline: Timeline| {
        Body::Fetch(Fetch {
            request: 7,
            timeline: Some(timeline),
            direction: 1,
            from_seq: 0,
            limit: 500,
            ..Default::default()
        })
    };
    play.says(fetch(inbox("bob")));
    assert_eq!(play.refused(), (Some(What::Request(7)), Code::Forbidden));
    play.says(fetch(Timeline { owner: Some(Owner::Group("g".to_owned())) }));
    assert_eq!(play.refused().1, Code::Unsupported);
    play.says(fetch(inbox("alice")));
    let Op::Read(asked) = play.op() else { panic!("no read") };
    assert_eq!((asked.from_seq, asked.backward, asked.limit), (0, true, 100));
    play.hears_answer(Ok(read(1, 9, 8..=9)));
    let server_frame::Body::Page(page) = play.wrote() else { panic!("no page") };
    assert_eq!((page.request, page.epoch, page.entries.len(), page.last), (7, EPOCH, 2, 9));
    for _ in 0..4 {
        play.says(fetch(inbox("alice")));
    }
    play.says(fetch(inbox("alice")));
    assert_eq!(play.refused().1, Code::Overloaded);
}
