//! Sessions: opened, announced, moved and closed.

use super::world::*;

#[test]
fn sessions_are_announced_to_a_restarted_router_and_to_a_new_owner() {
    let mut world = World::with(&["a:1"]);
    assert_eq!(world.open().len(), 1);
    assert_eq!(answers(&world.reply("a:1", FIRST, opened(false))), [("open", Ok(()))]);
    world.input(Input::Down(Arc::from("a:1")));
    let again = announced(&world.input(Input::Up(Arc::from("a:1"))));
    assert_eq!(again.len(), 1);
    world.reply("a:1", again[0].2, opened(false));
    assert_eq!(announced(&world.ring(&["b:1"])), [], "no link to it yet");
    let moved = announced(&world.input(Input::Up(Arc::from("b:1"))));
    assert_eq!(moved[0].0, "b:1");
    let heard = world.reply("b:1", moved[0].2, opened(true));
    assert_eq!(heard, [Effect::Over { connection: 1, why: Why::Replaced }]);
}

#[test]
fn a_session_that_was_opened_at_an_old_owner_is_announced_to_the_new_one() {
    let (mut world, old, new, id) = two_owners();
    assert_eq!(announced(&world.ring(&[new])), [], "not open yet");
    let told = announced(&world.reply(&old, id, opened(false)));
    assert_eq!(told[0].0, new);
}

#[test]
fn a_new_lease_brings_all_sessions_under_it() {
    let mut world = World::with(&["a:1"]);
    world.open();
    world.reply("a:1", FIRST, opened(false));
    assert!(world.input(Input::Lease(None)).is_empty());
    let told = announced(&world.input(Input::Lease(Some(9))));
    assert_eq!((told[0].0.as_str(), told[0].1), ("a:1", 9));
}

#[test]
fn an_announcement_that_failed_is_repeated() {
    let mut world = World::with(&["a:1"]);
    world.open();
    world.reply("a:1", FIRST, opened(false));
    let told = announced(&world.input(Input::Up(Arc::from("a:1"))));
    let busy = router_reply::Result::Refusal(refusal(Code::Overloaded, "", 1));
    assert_eq!(world.reply("a:1", told[0].2, busy), []);
    assert_eq!(announced(&world.wait(ANNOUNCE_AGAIN)).len(), 1);
}

#[test]
fn a_closed_session_is_closed_under_its_lease_and_announced_no_more() {
    let mut world = World::with(&["a:1"]);
    world.open();
    world.reply("a:1", FIRST, opened(false));
    let op = Op::CloseSession(CloseSession { session: session() });
    let effects = world.submit("close", op.clone());
    let Effect::Transmit { request, .. } = &effects[0] else { panic!("not sent") };
    let Some(Op::CloseSession(CloseSession { session: Some(closed) })) = &request.op else { panic!("not a close") };
    assert_eq!(closed.lease, 5);
    assert_eq!(announced(&world.input(Input::Up(Arc::from("a:1")))), []);
    let done = router_reply::Result::Done(Done {});
    assert_eq!(answers(&world.reply("a:1", request.id, done)), [("close", Ok(()))]);
    assert_eq!(answers(&world.submit("close", op)), [("close", Ok(()))], "nothing is left to close");
}

#[test]
fn sessions_wait_for_a_lease() {
    let mut world = World::with(&["a:1"]);
    world.input(Input::Lease(None));
    assert!(world.open().is_empty());
    assert_eq!(world.input(Input::Lease(Some(8))).len(), 1);
}

#[test]
fn a_sign_in_that_was_refused_leaves_nothing_behind() {
    for code in [Code::Overloaded, Code::NotFound, Code::Unauthenticated, Code::Invalid] {
        let mut world = World::with(&["a:1"]);
        world.open();
        assert_eq!(answers(&world.reply("a:1", FIRST, refused(code))), [("open", Err(code))]);
        assert!(world.dispatch.sessions.is_empty(), "{code:?}");
        assert_eq!(world.dispatch.load.pending(), 0);
    }
    // A session that never reached a router.
    let mut world = World::with(&["a:1"]);
    world.input(Input::Down(Arc::from("a:1")));
    assert!(world.open().is_empty());
    assert_eq!(answers(&world.wait(DEADLINE)), [("open", Err(Code::Unavailable))]);
    assert!(world.dispatch.sessions.is_empty());
}

#[test]
fn a_sign_in_of_which_nobody_knows_what_came_is_closed_until_that_is_certain() {
    let mut world = World::with(&["a:1"]);
    world.open();
    let effects = world.wait(DEADLINE);
    assert_eq!(answers(&effects), [("open", Err(Code::Unavailable))]);
    let [(5, id)] = closes(&effects)[..] else { panic!("{effects:?}") };
    // The router does not answer that in time either.
    assert_eq!(closes(&world.reply("a:1", id, refused(Code::Unavailable))), []);
    let again = closes(&world.wait(announce::CLOSE_AGAIN));
    let [(5, id)] = again[..] else { panic!("{again:?}") };
    assert_eq!(announced(&world.input(Input::Up(Arc::from("a:1")))), [], "there is no connection");
    world.reply("a:1", id, router_reply::Result::Done(Done {}));
    assert!(world.dispatch.sessions.is_empty());
    assert_eq!(closes(&world.wait(announce::CLOSE_AGAIN)), []);
}

#[test]
fn a_client_that_left_while_its_session_was_opened_leaves_nothing_behind() {
    let close = || Op::CloseSession(CloseSession { session: session() });
    for answer in [opened(false), opened(true), refused(Code::Unavailable), refused(Code::Overloaded)] {
        let mut world = World::with(&["a:1"]);
        world.open();
        let left = Submit::unasked(1, close());
        let [(5, id)] = closes(&world.input(Input::Submit(left)))[..] else { panic!("not closed") };
        assert_eq!(closes(&world.reply("a:1", FIRST, answer)), [], "once is enough");
        world.reply("a:1", id, router_reply::Result::Done(Done {}));
        assert!(world.dispatch.sessions.is_empty());
    }
}

#[test]
fn a_session_that_its_account_has_ended_is_not_announced_for_ever() {
    for (code, why) in [(Code::Unauthenticated, Why::Credentials), (Code::NotFound, Why::Deleted)] {
        let mut world = World::with(&["a:1"]);
        world.open();
        world.reply("a:1", FIRST, opened(false));
        let told = announced(&world.input(Input::Up(Arc::from("a:1"))));
        let heard = world.reply("a:1", told[0].2, refused(code));
        assert_eq!(heard, [Effect::Over { connection: 1, why }]);
        assert_eq!(announced(&world.wait(ANNOUNCE_AGAIN)), []);
    }
}

#[test]
fn a_session_that_goes_on_with_another_token_is_announced_with_it_and_stays_if_that_is_refused() {
    let mut world = World::with(&["a"]);
    let id = |effects: &[Effect<&'static str>]| match effects {
        [Effect::Transmit { request, .. }] => request.id,
        other => panic!("{other:?}"),
    };
    let opened = || router_reply::Result::SessionOpened(SessionOpened::default());
    let first = id(&world.open());
    world.reply("a", first, opened());
    let renew = |world: &mut World, token: &str| {
        let token_id = token.to_owned();
        let session = session().map(|session| Session { token_id, ..session });
        id(&world.submit("renew", Op::OpenSession(OpenSession { session })))
    };
    let second = renew(&mut world, "second");
    world.reply("a", second, opened());
    let third = renew(&mut world, "third");
    let effects = world.reply("a", third, router_reply::Result::Refusal(refusal(Code::Unauthenticated, "revoked", 0)));
    assert!(matches!(&effects[..], [Effect::Answer { client: "renew", .. }]), "nothing is closed: {effects:?}");
    // A new lease: everything is announced anew.
    match &world.input(Input::Lease(Some(6)))[..] {
        [Effect::Transmit { request, .. }] => match &request.op {
            Some(Op::Announce(Announce { session: Some(session), .. })) => {
                assert_eq!((&*session.token_id, session.lease), ("second", 6));
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_router_hears_that_all_is_announced_when_it_has_answered_all() {
    let mut world = World::with(&["a:1"]);
    assert_eq!(world.told(), [all("a:1", 1)], "there is no session yet");
    world.open();
    world.reply("a:1", FIRST, opened(false));
    assert_eq!(world.told(), [], "once for each link and each ring");
    world.input(Input::Down(Arc::from("a:1")));
    let again = announced(&world.input(Input::Up(Arc::from("a:1"))));
    assert_eq!(world.told(), [], "not before it has answered");
    let busy = router_reply::Result::Refusal(refusal(Code::Overloaded, "", 1));
    world.reply("a:1", again[0].2, busy);
    assert_eq!(world.told(), [], "that was not heard");
    let again = announced(&world.wait(ANNOUNCE_AGAIN));
    world.reply("a:1", again[0].2, opened(false));
    assert_eq!(world.told(), [all("a:1", 1)]);
}

#[test]
fn a_session_that_moves_is_forgotten_where_it_was_before_the_new_owner_hears_of_all() {
    let (mut world, old, new, id) = two_owners();
    world.reply(&old, id, opened(false));
    world.told();
    let moved = announced(&world.ring(&[new]));
    assert_eq!(moved[0].0, new);
    let forget = Word::Forget(Forget { user: "bob".to_owned(), connection: 1 });
    assert_eq!(world.told(), [(old, forget)]);
    world.reply(new, moved[0].2, opened(false));
    assert_eq!(world.told(), [all(new, 2)]);
}

#[test]
fn a_session_that_comes_back_to_a_router_whose_link_broke_meanwhile_is_announced_to_it() {
    let (mut world, old, new, id) = two_owners();
    world.reply(&old, id, opened(false));
    world.input(Input::Down(Arc::from(new)));
    assert_eq!(announced(&world.ring(&[new])), [], "no link to it");
    world.input(Input::Down(Arc::from(&*old)));
    assert_eq!(announced(&world.input(Input::Up(Arc::from(&*old)))), [], "it is not the owner, and forgets it");
    let again = announced(&world.ring(&[&old]));
    assert_eq!(again.iter().map(|(to, ..)| to.clone()).collect::<Vec<_>>(), [old]);
}

#[test]
fn while_an_old_owner_opens_a_session_not_all_is_announced() {
    let (mut world, old, new, id) = two_owners();
    world.ring(&[new]);
    assert_eq!(world.told(), [], "the old owner may have it soon");
    let moved = announced(&world.reply(&old, id, opened(false)));
    world.told();
    world.reply(new, moved[0].2, opened(false));
    assert_eq!(world.told(), [all(new, 2)]);
}
