//! What goes in, what comes out.

use super::{announce::ANNOUNCE_AGAIN, *};
use carillon_proto::pb::{
    client::{Recipient, recipient},
    link::{self, Accepted, Announce, CloseSession, NotOwner, OpenSession, Send, SessionOpened, evict::Why},
    store::{Node, NodeKind},
};

/// The first request's id.
const FIRST: u64 = PARTS as u64;
const DEADLINE: Duration = Duration::from_secs(10);

struct World {
    dispatch: Dispatch<&'static str>,
    now: Instant,
    version: u64,
    told: Vec<(String, Word)>,
}

impl World {
    /// With links to all of these routers.
    fn with(routers: &[&str]) -> Self {
        let dispatch = Dispatch::new(0, Arc::new(Load::new(100)), Eras::default(), DEADLINE);
        let mut world = Self { dispatch, now: Instant::now(), version: 0, told: Vec::new() };
        assert!(world.ring(routers).is_empty());
        for router in routers {
            assert!(world.input(Input::Up(Arc::from(*router))).is_empty());
        }
        assert!(world.input(Input::Lease(Some(5))).is_empty());
        world
    }

    fn input(&mut self, input: Input<&'static str>) -> Vec<Effect<&'static str>> {
        let mut out = Vec::new();
        self.dispatch.handle(self.now, input, &mut out);
        let (told, rest) = out.into_iter().partition(|effect| matches!(effect, Effect::Tell { .. }));
        self.told.extend(Vec::into_iter(told).filter_map(|effect| match effect {
            Effect::Tell { to, word } => Some((to.to_string(), word)),
            _ => None,
        }));
        rest
    }

    fn told(&mut self) -> Vec<(String, Word)> {
        std::mem::take(&mut self.told)
    }

    fn ring(&mut self, routers: &[&str]) -> Vec<Effect<&'static str>> {
        self.version += 1;
        let node = |(i, address): (usize, &&str)| Node {
            lease: i as u64 + 1,
            kind: NodeKind::Router.into(),
            address: (*address).to_owned(),
        };
        self.input(Input::Registry(Arc::new(RegistryView {
            version: self.version,
            ring_version: self.version,
            nodes: routers.iter().enumerate().map(node).collect(),
            ..Default::default()
        })))
    }

    fn send(&mut self, client: &'static str) -> Vec<Effect<&'static str>> {
        let to = Some(Recipient { to: Some(recipient::To::User("bob".to_owned())) });
        let op = Op::Send(Send { client_id: client.to_owned(), to, ..Default::default() });
        self.input(Input::Submit(Submit { connection: 1, client: Some(client), op, traceparent: String::new() }))
    }

    fn open(&mut self) -> Vec<Effect<&'static str>> {
        let session = Some(Session { user: "bob".to_owned(), connection: 1, ..Default::default() });
        let op = Op::OpenSession(OpenSession { session });
        self.input(Input::Submit(Submit { connection: 1, client: Some("open"), op, traceparent: String::new() }))
    }

    /// Which router is asked to open the session, and the request's id.
    fn opened_at(&mut self) -> (String, u64) {
        match &self.open()[..] {
            [Effect::Transmit { to, request }] => (to.to_string(), request.id),
            other => panic!("{other:?}"),
        }
    }

    fn reply(&mut self, from: &str, id: u64, result: router_reply::Result) -> Vec<Effect<&'static str>> {
        self.input(Input::Replies(Arc::from(from), vec![RouterReply { id, result: Some(result) }]))
    }

    fn wait(&mut self, time: Duration) -> Vec<Effect<&'static str>> {
        self.now += time;
        self.input(Input::Tick)
    }
}

fn accepted() -> router_reply::Result {
    router_reply::Result::Accepted(Accepted::default())
}

fn not_owner() -> router_reply::Result {
    router_reply::Result::NotOwner(NotOwner { ring_version: 2 })
}

fn opened(replaced: bool) -> router_reply::Result {
    router_reply::Result::SessionOpened(SessionOpened { replaced, ..SessionOpened::default() })
}

/// Which sends went where, and their ids.
fn sent(effects: &[Effect<&'static str>]) -> Vec<(String, String, u64)> {
    let sent = |effect: &Effect<_>| match effect {
        Effect::Transmit { to, request } => match &request.op {
            Some(Op::Send(send)) => Some((to.to_string(), send.client_id.clone(), request.id)),
            _ => None,
        },
        _ => None,
    };
    effects.iter().filter_map(sent).collect()
}

fn announced(effects: &[Effect<&'static str>]) -> Vec<(String, u64, u64)> {
    let announced = |effect: &Effect<_>| match effect {
        Effect::Transmit { to, request } => match &request.op {
            Some(Op::Announce(Announce { session: Some(session) })) => {
                Some((to.to_string(), session.lease, request.id))
            }
            _ => None,
        },
        _ => None,
    };
    effects.iter().filter_map(announced).collect()
}

fn answers(effects: &[Effect<&'static str>]) -> Vec<(&'static str, Result<(), Code>)> {
    let answer = |effect: &Effect<&'static str>| match effect {
        Effect::Answer { client, answered } => {
            Some((*client, answered.result.as_ref().map(|_| ()).map_err(|why| why.code())))
        }
        _ => None,
    };
    effects.iter().filter_map(answer).collect()
}

fn named(sent: &[(String, String, u64)]) -> Vec<&str> {
    sent.iter().map(|(_, name, _)| name.as_str()).collect()
}

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
fn a_router_that_did_not_take_a_send_is_sent_the_next_era() {
    let mut world = World::with(&["a:1"]);
    let era = |effects: &[Effect<&'static str>]| match &effects[0] {
        Effect::Transmit { request, .. } => request.era,
        other => panic!("{other:?}"),
    };
    let first = world.send("m1");
    let second = world.send("m2");
    assert_eq!((era(&first), era(&second)), (0, 0));
    for effects in [&first, &second] {
        assert!(world.reply("a:1", sent(effects)[0].2, not_owner()).is_empty());
    }
    let again = world.wait(PUMP);
    assert_eq!(named(&sent(&again)), ["m1", "m2"]);
    assert_eq!(era(&again), 1);
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
fn what_a_router_cannot_do_just_now_goes_again_unless_it_was_overtaken() {
    let mut world = World::with(&["a:1"]);
    let stopping = || router_reply::Result::Refusal(refusal(Code::Unavailable, "stopping", 500));
    let ids: Vec<u64> = ["m1", "m2"].map(|name| sent(&world.send(name))[0].2).into();
    assert_eq!(answers(&world.reply("a:1", ids[0], stopping())), [("m1", Err(Code::Unavailable))]);
    assert!(world.reply("a:1", ids[1], stopping()).is_empty());
    assert!(world.send("m3").is_empty(), "not before m2");
    assert_eq!(named(&sent(&world.wait(PUMP))), ["m2", "m3"]);
    world.now += DEADLINE - PUMP - Duration::from_millis(1);
    assert_eq!(answers(&world.reply("a:1", ids[1], accepted())), [("m2", Ok(()))]);
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
    let mut world = World::with(&["a:1", "b:1"]);
    let (old, id) = world.opened_at();
    let new = if old == "a:1" { "b:1" } else { "a:1" };
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
    let session = Some(Session { user: "bob".to_owned(), connection: 1, ..Default::default() });
    let op = Op::CloseSession(CloseSession { session });
    let submit = |op| Input::Submit(Submit { connection: 1, client: Some("close"), op, traceparent: String::new() });
    let effects = world.input(submit(op.clone()));
    let Effect::Transmit { request, .. } = &effects[0] else { panic!("not sent") };
    let Some(Op::CloseSession(CloseSession { session: Some(closed) })) = &request.op else { panic!("not a close") };
    assert_eq!(closed.lease, 5);
    assert_eq!(announced(&world.input(Input::Up(Arc::from("a:1")))), []);
    let done = router_reply::Result::Done(Done {});
    assert_eq!(answers(&world.reply("a:1", request.id, done)), [("close", Ok(()))]);
    assert_eq!(answers(&world.input(submit(op))), [("close", Ok(()))], "nothing is left to close");
}

#[test]
fn sessions_wait_for_a_lease() {
    let mut world = World::with(&["a:1"]);
    world.input(Input::Lease(None));
    assert!(world.open().is_empty());
    assert_eq!(world.input(Input::Lease(Some(8))).len(), 1);
}

#[test]
fn while_sends_take_long_fewer_may_wait_and_other_requests_go_on() {
    let mut world = World::with(&["a"]);
    world.dispatch.load = Arc::new(Load::new(1000));
    for _ in 0..600 {
        assert!(matches!(world.send("send")[..], [Effect::Transmit { .. }]));
    }
    world.wait(IN_TIME * 2);
    assert!(matches!(world.reply("a", FIRST, accepted())[..], [Effect::Answer { .. }]));
    let refused = world.send("one more");
    let [Effect::Answer { answered: Answered { result: Err(refusal), .. }, .. }] = &refused[..] else {
        panic!("not refused: {refused:?}")
    };
    assert_eq!((refusal.code(), refusal.retry), (Code::Overloaded, true));
    assert!(u128::from(refusal.retry_after_ms) >= (IN_TIME * 2).as_millis(), "{refusal:?}");
    assert!(matches!(world.open()[..], [Effect::Transmit { .. }]));
}

fn refused(code: Code) -> router_reply::Result {
    router_reply::Result::Refusal(refusal(code, "", 0))
}

fn closes(effects: &[Effect<&'static str>]) -> Vec<(u64, u64)> {
    let close = |effect: &Effect<_>| match effect {
        Effect::Transmit { request, .. } => match &request.op {
            Some(Op::CloseSession(CloseSession { session: Some(session) })) => Some((session.lease, request.id)),
            _ => None,
        },
        _ => None,
    };
    effects.iter().filter_map(close).collect()
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
    // One that never reached a router.
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
    // That is not answered in time either.
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
    let session = || Some(Session { user: "bob".to_owned(), connection: 1, ..Default::default() });
    let close = || Op::CloseSession(CloseSession { session: session() });
    for answer in [opened(false), opened(true), refused(Code::Unavailable), refused(Code::Overloaded)] {
        let mut world = World::with(&["a:1"]);
        world.open();
        let left = Submit { connection: 1, client: None, op: close(), traceparent: String::new() };
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
        let session = Some(Session { user: "bob".to_owned(), connection: 1, token_id, ..Default::default() });
        let op = Op::OpenSession(OpenSession { session });
        id(&world.input(Input::Submit(Submit { connection: 1, client: Some("renew"), op, traceparent: String::new() })))
    };
    let second = renew(&mut world, "second");
    world.reply("a", second, opened());
    let third = renew(&mut world, "third");
    let effects = world.reply("a", third, router_reply::Result::Refusal(refusal(Code::Unauthenticated, "revoked", 0)));
    assert!(matches!(&effects[..], [Effect::Answer { client: "renew", .. }]), "nothing is closed: {effects:?}");
    // A new lease: everything is announced anew.
    match &world.input(Input::Lease(Some(6)))[..] {
        [Effect::Transmit { request, .. }] => match &request.op {
            Some(Op::Announce(Announce { session: Some(session) })) => {
                assert_eq!((&*session.token_id, session.lease), ("second", 6));
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn all(router: &str, version: u64) -> (String, Word) {
    (router.to_owned(), Word::AnnouncedAll(version))
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
    let mut world = World::with(&["a:1", "b:1"]);
    let (old, id) = world.opened_at();
    let new = if old == "a:1" { "b:1" } else { "a:1" };
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
    let mut world = World::with(&["a:1", "b:1"]);
    let (old, id) = world.opened_at();
    let new = if old == "a:1" { "b:1" } else { "a:1" };
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
    let mut world = World::with(&["a:1", "b:1"]);
    let (old, id) = world.opened_at();
    let new = if old == "a:1" { "b:1" } else { "a:1" };
    world.told();
    world.ring(&[new]);
    assert_eq!(world.told(), [], "the old owner may have it soon");
    let moved = announced(&world.reply(&old, id, opened(false)));
    world.told();
    world.reply(new, moved[0].2, opened(false));
    assert_eq!(world.told(), [all(new, 2)]);
}

#[test]
fn nothing_of_a_later_era_overtakes_what_is_in_flight() {
    let mut world = World::with(&["a:1"]);
    let to_carol = Some(Recipient { to: Some(recipient::To::User("carol".to_owned())) });
    let op = Op::Send(Send { client_id: "other".to_owned(), to: to_carol, ..Default::default() });
    let submit = Submit { connection: 1, client: Some("other"), op, traceparent: String::new() };
    let other = sent(&world.input(Input::Submit(submit)))[0].2;
    let first = sent(&world.send("m1"))[0].2;
    assert!(world.reply("a:1", other, not_owner()).is_empty());
    // The router takes nothing of the first era any more, but would take what is of the next.
    assert!(world.send("m2").is_empty(), "m1 is still on its way");
    assert!(world.reply("a:1", first, not_owner()).is_empty());
    assert_eq!(named(&sent(&world.wait(PUMP))), ["m1", "m2", "other"]);
}

#[test]
fn a_directed_request_is_carried_out_at_most_once() {
    let mut world = World::with(&["a:1"]);
    let ask = |world: &mut World| {
        let op = Op::Direct(link::Direct { user: "bob".to_owned(), ..Default::default() });
        let submit = Submit { connection: 1, client: Some("ask"), op, traceparent: String::new() };
        match &world.input(Input::Submit(submit))[..] {
            [Effect::Transmit { request, .. }] => request.id,
            other => panic!("{other:?}"),
        }
    };
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
