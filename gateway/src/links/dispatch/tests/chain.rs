//! The sends that sends name, and the fate of sends behind a refused one.

use super::world::*;

/// The sends that were sent, each with the send that it names.
fn names<'a>(effects: &'a [Effect<&'static str>]) -> Vec<(&'a str, &'a str)> {
    let mut names = Vec::new();
    for effect in effects {
        if let Effect::Transmit { request, .. } = effect
            && let Some(Op::Send(send)) = &request.op
        {
            names.push((text(&send.client_id), text(&send.after)));
        }
    }
    names
}

fn text(id: &[u8]) -> &str {
    std::str::from_utf8(id).expect("UTF-8")
}

/// A world in which these were sent to bob, one after the other, and their ids.
fn in_flight<const N: usize>(sends: [&'static str; N]) -> (World, [u64; N]) {
    let mut world = World::with(&["a"]);
    let ids = sends.map(|send| sent(&world.send(send))[0].2);
    (world, ids)
}

fn refusal_of(effects: &[Effect<&'static str>]) -> Refusal {
    match effects {
        [Effect::Answer { answered: RequestOutcome { result: Err(why), .. }, .. }, ..] => why.clone(),
        other => panic!("not refused: {other:?}"),
    }
}

fn for_now(code: Code) -> router_reply::Result {
    router_reply::Result::Refusal(refusal(code, "", 500))
}

/// The refusal of a router.
fn out_of_order() -> router_reply::Result {
    router_reply::Result::Refusal(Refusal { retry: true, ..refusal(Code::OutOfOrder, "", 0) })
}

#[test]
fn each_names_the_unanswered_one_before_it_to_the_same_user() {
    let mut world = World::with(&["a"]);
    let first = world.send("m1");
    assert_eq!(names(&first), [("m1", "")]);
    let second = world.send("m2");
    assert_eq!(names(&second), [("m2", "m1")]);
    assert_eq!(names(&world.submit("other", Op::Send(send_to("carol", "other")))), [("other", "")]);
    world.reply("a", sent(&first)[0].2, accepted());
    assert_eq!(names(&world.send("m3")), [("m3", "m2")]);
    assert!(world.input(Input::Down(Arc::from("a"))).is_empty());
    let again = world.input(Input::Up(Arc::from("a")));
    let mut again = names(&again);
    again.sort_unstable();
    assert_eq!(again, [("m2", ""), ("m3", "m2"), ("other", "")], "m1 is there");
}

#[test]
fn one_that_overtook_is_repeated_after_the_one_before() {
    let (mut world, [one, two, three]) = in_flight(["m1", "m2", "m3"]);
    assert!(world.reply("a", one, for_now(Code::Unavailable)).is_empty());
    assert!(world.reply("a", two, out_of_order()).is_empty());
    assert!(world.reply("a", three, out_of_order()).is_empty(), "m1 and m2 wait");
    let again = world.wait(PUMP);
    assert_eq!(names(&again), [("m1", ""), ("m2", "m1"), ("m3", "m2")]);
    // The store has refused m2 before the repeat of m1 was there.
    assert!(world.reply("a", two, out_of_order()).is_empty());
    assert!(world.reply("a", three, out_of_order()).is_empty());
    let next = world.reply("a", one, accepted());
    assert_eq!((answers(&next), names(&next)), (vec![("m1", Ok(()))], vec![("m2", ""), ("m3", "m2")]));
}

#[test]
fn one_that_overtook_and_hears_of_it_late_goes_at_once() {
    let (mut world, [one, two]) = in_flight(["m1", "m2"]);
    world.reply("a", one, accepted());
    assert_eq!(names(&world.reply("a", two, out_of_order())), [("m2", "")]);
    assert_eq!(answers(&world.reply("a", two, accepted())), [("m2", Ok(()))]);
    assert!(world.dispatch.lanes.is_empty());
}

#[test]
fn behind_one_that_is_refused_for_good_the_others_go_on() {
    let (mut world, [zero, one, two, three]) = in_flight(["m0", "m1", "m2", "m3"]);
    assert_eq!(answers(&world.reply("a", one, refused(Code::Invalid))), [("m1", Err(Code::Invalid))]);
    assert!(world.reply("a", two, out_of_order()).is_empty());
    assert!(world.reply("a", three, out_of_order()).is_empty());
    let next = world.reply("a", zero, accepted());
    assert_eq!(names(&next), [("m2", ""), ("m3", "m2")]);
}

#[test]
fn behind_one_that_is_refused_for_now_the_others_are_too_and_later() {
    let (mut world, [one, two, three]) = in_flight(["m1", "m2", "m3"]);
    assert_eq!(answers(&world.reply("a", one, for_now(Code::Overloaded))), [("m1", Err(Code::Overloaded))]);
    let second = refusal_of(&world.reply("a", two, out_of_order()));
    assert!(second.code() == Code::OutOfOrder && second.retry && second.retry_after_ms > 500, "{second:?}");
    let third = refusal_of(&world.reply("a", three, out_of_order()));
    assert!(third.retry_after_ms > second.retry_after_ms, "{third:?}");
    assert!(world.dispatch.lanes.is_empty());
    assert_eq!(names(&world.send("m4")), [("m4", "")], "its client has heard of it, or does not care");
}

/// A client that never repeats what was refused, and always has something on its way.
#[test]
fn behind_one_that_never_comes_again_the_others_go_on_after_a_while() {
    let (mut world, [mut last, mut next]) = in_flight(["m1", "m2"]);
    world.reply("a", last, for_now(Code::Overloaded));
    let mut refused = 0;
    loop {
        last = next;
        next = sent(&world.send(format!("{refused}").leak()))[0].2;
        let effects = world.reply("a", last, out_of_order());
        if effects.is_empty() {
            let effects = world.reply("a", next, out_of_order());
            let [(first, ""), (_, named)] = names(&effects)[..] else { panic!("{:?}", names(&effects)) };
            assert_eq!(named, first, "the store takes both now");
            break;
        }
        assert_eq!(refusal_of(&effects).code(), Code::OutOfOrder);
        refused += 1;
        assert!(refused < 3000, "refused for ever");
        world.now += Duration::from_millis(1);
        let remembered: usize = world.dispatch.lanes.values().map(|lane| lane.refused.len()).sum();
        assert!(remembered <= 256, "{remembered}");
    }
    assert!(refused > 256, "{refused}");
}

/// The client's connection may be dead, and then all sends come again at another gateway.
#[test]
fn behind_a_refusal_that_its_client_may_not_have_heard_none_goes_on() {
    let (mut world, [one, two, three, four]) = in_flight(["m1", "m2", "m3", "m4"]);
    world.reply("a", one, for_now(Code::Overloaded));
    world.now += Duration::from_secs(3);
    for id in [two, three, four] {
        assert_eq!(refusal_of(&world.reply("a", id, out_of_order())).code(), Code::OutOfOrder);
    }
    assert!(world.dispatch.lanes.is_empty());
}

#[test]
fn one_that_comes_again_goes_before_those_that_wait_for_it() {
    let (mut world, [zero, one, two]) = in_flight(["m0", "m1", "m2"]);
    world.reply("a", one, for_now(Code::Overloaded));
    let again = world.send("m1");
    assert_eq!(names(&again), [("m1", "m0")], "not behind m2, which names it");
    assert_eq!(names(&world.send("m3")), [("m3", "m2")]);
    assert!(world.reply("a", two, out_of_order()).is_empty(), "m1 is on its way");
    world.reply("a", zero, accepted());
    world.reply("a", sent(&again)[0].2, accepted());
    let third = world.reply("a", two + 2 * PARTS as u64, out_of_order());
    assert_eq!(names(&third), [("m2", "m1"), ("m3", "m2")]);
}

#[test]
fn those_that_come_again_go_in_order_before_a_later_one_that_waits_for_them() {
    let (mut world, [one, two, three, four]) = in_flight(["m1", "m2", "m3", "m4"]);
    world.reply("a", one, for_now(Code::Overloaded));
    for id in [two, three] {
        assert_eq!(refusal_of(&world.reply("a", id, out_of_order())).code(), Code::OutOfOrder);
    }
    let again = ["m1", "m2", "m3", "m5"].map(|name| world.send(name));
    let names_of: Vec<_> = again.iter().flat_map(|effects| names(effects)).collect();
    assert_eq!(names_of, [("m1", ""), ("m2", "m1"), ("m3", "m2"), ("m5", "m4")]);
    assert!(world.reply("a", four, out_of_order()).is_empty(), "m3 is on its way");
    let [.., five] = again.each_ref().map(|effects| sent(effects)[0].2);
    assert!(world.reply("a", five, out_of_order()).is_empty());
    let answered: Vec<_> =
        again[..3].iter().flat_map(|effects| world.reply("a", sent(effects)[0].2, accepted())).collect();
    assert_eq!(names(&answered), [("m4", "m3"), ("m5", "m4")]);
}

#[test]
fn what_was_sent_behind_one_that_was_given_up_does_not_pass_it() {
    let (mut world, [_, two]) = in_flight(["m1", "m2"]);
    world.now += DEADLINE / 2;
    world.send("m3");
    world.input(Input::Down(Arc::from("a")));
    world.wait(DEADLINE / 2);
    let (id, again) = (two + PARTS as u64, world.input(Input::Up(Arc::from("a"))));
    assert_eq!(names(&again), [("m3", "m2")], "nobody knows whether m2 is there");
    let why = refusal_of(&world.reply("a", id, out_of_order()));
    assert_eq!((why.code(), why.retry), (Code::Unavailable, true), "its first try may have been carried out");
}

#[test]
fn a_name_that_the_client_gives_stays() {
    let mut world = World::with(&["a"]);
    let one = sent(&world.send("m1"))[0].2;
    let second = world.send_after("m2", "m1");
    assert_eq!(names(&second), [("m2", "m1")]);
    let third = world.send_after("m3", "m1");
    assert_eq!(names(&third), [("m3", "m1")]);
    let fourth = world.send_after("m4", "long ago");
    assert_eq!(names(&fourth), [("m4", "long ago")]);
    let [two, three, four] = [second, third, fourth].map(|effects| sent(&effects)[0].2);
    assert_eq!(answers(&world.reply("a", four, out_of_order())), [("m4", Err(Code::OutOfOrder))]);
    assert!(world.reply("a", two, out_of_order()).is_empty(), "m1 is on its way");
    assert_eq!(answers(&world.reply("a", one, refused(Code::Invalid)))[0], ("m1", Err(Code::Invalid)));
    let last = world.reply("a", three, out_of_order());
    assert_eq!(answers(&last), [("m3", Err(Code::OutOfOrder))]);
    assert_eq!(names(&last), [("m2", "m1")]);
    assert_eq!(answers(&world.reply("a", two, out_of_order())), [("m2", Err(Code::OutOfOrder))]);
}

/// The others wait for m1. If m1 named one of them, all would wait for ever.
#[test]
fn one_that_comes_again_late_names_nothing_if_its_client_names_the_others() {
    let mut world = World::with(&["a"]);
    let one = sent(&world.send("m1"))[0].2;
    let others = [("m2", "m1"), ("m3", "m2"), ("m4", "m3"), ("m5", "m4")];
    let [two, three, ..] = others.map(|(name, after)| sent(&world.send_after(name, after))[0].2);
    assert_eq!(answers(&world.reply("a", one, for_now(Code::Overloaded))), [("m1", Err(Code::Overloaded))]);
    assert_eq!(answers(&world.reply("a", two, out_of_order())), [("m2", Err(Code::OutOfOrder))]);
    world.now += Duration::from_secs(3);
    assert_eq!(answers(&world.reply("a", three, out_of_order())), [("m3", Err(Code::OutOfOrder))]);
    assert_eq!(names(&world.send("m1")), [("m1", "")]);
}
