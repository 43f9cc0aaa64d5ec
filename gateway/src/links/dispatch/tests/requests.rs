//! Requests on their way to a router and back: once, in order, or refused.

use super::world::*;

#[test]
fn an_answer_reaches_who_asked_once() {
    let mut world = World::with(&["a:1"]);
    let id = sent(&world.send("m1"))[0].2;
    assert_eq!(answers(&world.reply("a:1", id, accepted())), [("m1", Ok(()))]);
    assert_eq!(answers(&world.reply("a:1", id, accepted())), []);
    assert_eq!(world.dispatch.load.pending(), 0);
    assert!(world.dispatch.lanes.is_empty());
}

#[test]
fn what_a_broken_link_took_along_goes_again_in_order() {
    let mut world = World::with(&["a:1"]);
    for name in ["m1", "m2", "m3"] {
        assert_eq!(named(&sent(&world.send(name))), [name]);
    }
    assert!(world.input(Input::Down(Arc::from("a:1"))).is_empty());
    assert!(world.send("m4").is_empty());
    let again = sent(&world.input(Input::Up(Arc::from("a:1"))));
    assert_eq!(named(&again), ["m1", "m2", "m3", "m4"]);
}

#[test]
fn nothing_overtakes_what_the_old_owner_has() {
    let mut world = World::with(&["a:1"]);
    let first = sent(&world.send("m1"));
    let second = sent(&world.send("m2"));
    assert!(world.ring(&["b:1"]).is_empty());
    assert!(world.input(Input::Up(Arc::from("b:1"))).is_empty());
    assert!(world.send("m3").is_empty(), "the old owner may have m1 and m2 still");
    assert!(world.reply("a:1", first[0].2, not_owner()).is_empty(), "it may have m2 still");
    assert!(world.reply("a:1", second[0].2, not_owner()).is_empty());
    let again = sent(&world.wait(PUMP));
    assert_eq!(named(&again), ["m1", "m2", "m3"]);
    assert!(again.iter().all(|(to, ..)| to == "b:1"));
    assert_eq!(answers(&world.reply("a:1", again[0].2, accepted())), [], "the old owner's word counts no more");
    assert_eq!(answers(&world.reply("b:1", again[0].2, accepted())), [("m1", Ok(()))]);
}

#[test]
fn each_try_of_a_send_has_an_era_of_its_own() {
    let mut world = World::with(&["a:1"]);
    let era = |effect: &Effect<&'static str>| match effect {
        Effect::Transmit { request, .. } => request.era,
        other => panic!("{other:?}"),
    };
    let effects: Vec<_> = ["m1", "m2"].into_iter().flat_map(|name| world.send(name)).collect();
    for (.., id) in sent(&effects) {
        assert!(world.reply("a:1", id, not_owner()).is_empty());
    }
    let again = world.wait(PUMP);
    assert_eq!(named(&sent(&again)), ["m1", "m2"]);
    let eras: Vec<u64> = effects.iter().chain(&again).map(era).collect();
    assert!(eras.is_sorted_by(|a, b| a < b), "{eras:?}");
}

#[test]
fn without_an_answer_in_time_the_client_may_try_again() {
    let mut world = World::with(&["a:1"]);
    world.send("m1");
    assert_eq!(answers(&world.wait(DEADLINE / 2)), []);
    world.input(Input::Down(Arc::from("a:1")));
    world.send("m2");
    assert_eq!(answers(&world.wait(DEADLINE / 2)), [("m1", Err(Code::Unavailable))]);
    assert_eq!(answers(&world.wait(DEADLINE / 2)), [("m2", Err(Code::Unavailable))]);
    assert!(world.dispatch.lanes.is_empty() && world.dispatch.parked.is_empty());
}

#[test]
fn what_a_router_cannot_do_just_now_goes_again_in_order() {
    let mut world = World::with(&["a:1"]);
    let stopping = || router_reply::Result::Refusal(refusal(Code::Unavailable, "stopping", 500));
    let ids: Vec<u64> = ["m1", "m2"].map(|name| sent(&world.send(name))[0].2).into();
    assert!(world.reply("a:1", ids[0], stopping()).is_empty());
    assert!(world.reply("a:1", ids[1], stopping()).is_empty());
    assert!(world.send("m3").is_empty(), "not before m1 and m2");
    assert_eq!(named(&sent(&world.wait(PUMP))), ["m1", "m2", "m3"]);
    world.now += DEADLINE - PUMP - Duration::from_millis(1);
    assert_eq!(answers(&world.reply("a:1", ids[0], accepted())), [("m1", Ok(()))]);
    assert_eq!(answers(&world.reply("a:1", ids[1], stopping())), [("m2", Err(Code::Unavailable))], "too late");
}

#[test]
fn what_an_earlier_try_may_have_done_is_not_said_to_be_refused() {
    let mut world = World::with(&["a:1"]);
    let refused = |code| router_reply::Result::Refusal(refusal(code, "full", 700));
    for (name, code) in [("m1", Code::Overloaded), ("m2", Code::OutOfOrder)] {
        let first = sent(&world.send(name))[0].2;
        assert_eq!(answers(&world.reply("a:1", first, refused(code))), [(name, Err(code))], "nothing was done");
    }
    for (name, code) in [("m3", Code::Overloaded), ("m4", Code::OutOfOrder)] {
        world.send(name);
        world.input(Input::Down(Arc::from("a:1")));
        let again = sent(&world.input(Input::Up(Arc::from("a:1"))))[0].2;
        assert_eq!(answers(&world.reply("a:1", again, refused(code))), [(name, Err(Code::Unavailable))]);
    }
    let first = sent(&world.send("m5"))[0].2;
    assert!(world.reply("a:1", first, refused(Code::Unavailable)).is_empty());
    let again = sent(&world.wait(PUMP))[0].2;
    assert_eq!(answers(&world.reply("a:1", again, refused(Code::Overloaded))), [("m5", Err(Code::Unavailable))]);
}

#[test]
fn more_than_the_bound_is_refused_at_once() {
    let mut world = World::with(&["a:1"]);
    for _ in 0..100 {
        assert_eq!(answers(&world.send("m")), []);
    }
    assert_eq!(answers(&world.send("m")), [("m", Err(Code::Overloaded))]);
}

#[test]
fn while_sends_take_long_fewer_may_wait_and_other_requests_go_on() {
    let mut world = World::with(&["a"]);
    world.dispatch.load = Arc::new(Load::new(1000));
    let sent: Vec<u64> = (0..600).map(|_| sent(&world.send("send"))[0].2).collect();
    for id in &sent[..2] {
        world.wait(IN_TIME * 2);
        assert!(matches!(world.send("not refused yet")[..], [Effect::Transmit { .. }]));
        assert!(matches!(world.reply("a", *id, accepted())[..], [Effect::Answer { .. }]));
    }
    let refused = world.send("one more");
    let [Effect::Answer { answered: RequestOutcome { result: Err(refusal), .. }, .. }] = &refused[..] else {
        panic!("not refused: {refused:?}")
    };
    assert_eq!((refusal.code(), refusal.retry), (Code::Overloaded, true));
    assert!(u128::from(refusal.retry_after_ms) >= (IN_TIME * 2).as_millis(), "{refusal:?}");
    assert!(matches!(world.open()[..], [Effect::Transmit { .. }]));
}

#[test]
fn what_one_user_is_not_sent_holds_up_no_message_to_another() {
    let mut world = World::with(&["a:1"]);
    let op = Op::Send(send_to("carol", "other"));
    let other = sent(&world.submit("other", op))[0].2;
    assert_eq!(named(&sent(&world.send("m1"))), ["m1"]);
    assert!(world.reply("a:1", other, not_owner()).is_empty());
    assert_eq!(named(&sent(&world.send("m2"))), ["m2"]);
}

/// Asks bob's session, and gives the request's id.
fn ask(world: &mut World) -> u64 {
    let op = Op::Direct(link::Direct { user: "bob".to_owned(), ..Default::default() });
    match &world.submit("ask", op)[..] {
        [Effect::Transmit { request, .. }] => request.id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_directed_request_is_carried_out_at_most_once() {
    let mut world = World::with(&["a:1"]);
    let id = ask(&mut world);
    assert!(world.reply("a:1", id, not_owner()).is_empty(), "that one did nothing");
    let again = world.wait(PUMP);
    assert!(matches!(&again[..], [Effect::Transmit { request, .. }] if request.id == id), "{again:?}");
    let lost = world.input(Input::Down(Arc::from("a:1")));
    assert_eq!(answers(&lost), [("ask", Err(Code::Unavailable))]);
    world.input(Input::Up(Arc::from("a:1")));
    let id = ask(&mut world);
    let refused = router_reply::Result::Refusal(refusal(Code::Unavailable, "", 500));
    assert_eq!(answers(&world.reply("a:1", id, refused)), [("ask", Err(Code::Unavailable))]);
    assert_eq!(world.dispatch.load.pending(), 0);
}

#[test]
fn messages_do_not_wait_for_the_answer_to_a_directed_request() {
    let mut world = World::with(&["a:1"]);
    ask(&mut world);
    world.ring(&["b:1"]);
    world.input(Input::Up(Arc::from("b:1")));
    assert_eq!(named(&sent(&world.send("m1"))), ["m1"]);
}

/// How long after they were read sends went to a router for the first time.
fn since_read(effects: &[Effect<&'static str>]) -> Vec<Option<Duration>> {
    let one = |effect: &Effect<&'static str>| match effect {
        Effect::Transmit { since_read, .. } => Some(*since_read),
        _ => None,
    };
    effects.iter().filter_map(one).collect()
}

#[test]
fn a_send_is_measured_once_when_it_first_goes_to_a_router() {
    let mut world = World::with(&["a:1"]);
    assert_eq!(since_read(&world.open()), [None], "no send");
    assert_eq!(since_read(&world.send("goes at once")), [Some(Duration::ZERO)]);
    world.input(Input::Down(Arc::from("a:1")));
    assert_eq!(since_read(&world.send("waits")), []);
    world.wait(Duration::from_millis(40));
    let again = world.input(Input::Up(Arc::from("a:1")));
    let mut sends = Vec::new();
    for effect in again {
        if let Effect::Transmit { request, since_read, .. } = effect
            && let Some(Op::Send(send)) = request.op
        {
            sends.push((String::from_utf8(send.client_id.to_vec()).expect("UTF-8"), since_read));
        }
    }
    sends.sort();
    let waited = Some(Duration::from_millis(40));
    assert_eq!(sends, [("goes at once".to_owned(), None), ("waits".to_owned(), waited)]);
}
