//! A dispatch with links to some routers, as one connection and they see it.

pub(super) use super::super::{announce::ANNOUNCE_AGAIN, *};
pub(super) use carillon_proto::pb::{
    link::{self, Accepted, Announce, CloseSession, NotOwner, OpenSession, Send, SendTo, SessionOpened, evict::Why},
    store::{Node, NodeKind, RegistryView},
};

/// The first request's id.
pub(super) const FIRST: u64 = PARTS as u64;
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

pub(super) struct World {
    pub(super) dispatch: Dispatch<&'static str>,
    pub(super) now: Instant,
    version: u64,
    pub(super) told: Vec<(String, Word)>,
}

impl World {
    /// With links to all of these routers.
    pub(super) fn with(routers: &[&str]) -> Self {
        let dispatch = Dispatch::new(0, Arc::new(Load::new(100)), Eras::default(), DEADLINE);
        let mut world = Self { dispatch, now: Instant::now(), version: 0, told: Vec::new() };
        assert!(world.ring(routers).is_empty());
        for router in routers {
            assert!(world.input(Input::Up(Arc::from(*router))).is_empty());
        }
        assert!(world.input(Input::Lease(Some(5))).is_empty());
        world
    }

    pub(super) fn input(&mut self, input: Input<&'static str>) -> Vec<Effect<&'static str>> {
        let mut out = Vec::new();
        self.dispatch.handle(self.now, input, &mut out);
        let (told, rest) = out.into_iter().partition(|effect| matches!(effect, Effect::Tell { .. }));
        self.told.extend(Vec::into_iter(told).filter_map(|effect| match effect {
            Effect::Tell { to, word } => Some((to.to_string(), word)),
            _ => None,
        }));
        rest
    }

    pub(super) fn told(&mut self) -> Vec<(String, Word)> {
        std::mem::take(&mut self.told)
    }

    pub(super) fn ring(&mut self, routers: &[&str]) -> Vec<Effect<&'static str>> {
        self.version += 1;
        let node = |(i, address): (usize, &&str)| Node {
            lease: i as u64 + 1,
            kind: NodeKind::Router.into(),
            address: (*address).to_owned(),
            slot: None,
        };
        let nodes = routers.iter().enumerate().map(node).collect();
        let view = RegistryView { ring_version: self.version, nodes, ..RegistryView::default() };
        self.input(Input::Ring(Arc::new(Ring::from_view(&view))))
    }

    pub(super) fn send(&mut self, client: &'static str) -> Vec<Effect<&'static str>> {
        self.send_after(client, "")
    }

    /// To bob. The client names this message, or none.
    pub(super) fn send_after(&mut self, client: &'static str, after: &'static str) -> Vec<Effect<&'static str>> {
        self.submit(client, Op::Send(Send { after: after.into(), ..send_to("bob", client) }))
    }

    pub(super) fn submit(&mut self, client: &'static str, op: Op) -> Vec<Effect<&'static str>> {
        let read_at = matches!(op, Op::Send(_)).then_some(self.now);
        self.input(Input::Submit(Submit { client: Some(client), read_at, ..Submit::unasked(1, op) }))
    }

    pub(super) fn open(&mut self) -> Vec<Effect<&'static str>> {
        self.submit("open", Op::OpenSession(OpenSession { session: session() }))
    }

    pub(super) fn reply(&mut self, from: &str, id: u64, result: router_reply::Result) -> Vec<Effect<&'static str>> {
        self.input(Input::Replies(Arc::from(from), vec![RouterReply { id, result: Some(result) }]))
    }

    pub(super) fn wait(&mut self, time: Duration) -> Vec<Effect<&'static str>> {
        self.now += time;
        self.input(Input::Tick)
    }
}

/// A world with two routers, of which one is asked to open the session; that one, the other one, and the request's id.
pub(super) fn two_owners() -> (World, String, &'static str, u64) {
    let mut world = World::with(&["a:1", "b:1"]);
    let (old, id) = match &world.open()[..] {
        [Effect::Transmit { to, request, .. }] => (to.to_string(), request.id),
        other => panic!("{other:?}"),
    };
    let new = if old == "a:1" { "b:1" } else { "a:1" };
    world.told();
    (world, old, new, id)
}

/// The session of the one connection.
pub(super) fn session() -> Option<Session> {
    Some(Session { user: "bob".to_owned(), connection: 1, ..Default::default() })
}

pub(super) fn accepted() -> router_reply::Result {
    router_reply::Result::Accepted(Accepted::default())
}

pub(super) fn not_owner() -> router_reply::Result {
    router_reply::Result::NotOwner(NotOwner { ring_version: 2 })
}

pub(super) fn send_to(user: &'static str, client_id: &'static str) -> Send {
    let to = Some(SendTo { to: Some(link::send_to::To::User(user.into())) });
    Send { client_id: client_id.into(), to, ..Default::default() }
}

pub(super) fn opened(replaced: bool) -> router_reply::Result {
    router_reply::Result::SessionOpened(SessionOpened { replaced, ..SessionOpened::default() })
}

/// The sends that were sent, with their routers and ids.
pub(super) fn sent(effects: &[Effect<&'static str>]) -> Vec<(String, String, u64)> {
    let sent = |effect: &Effect<_>| match effect {
        Effect::Transmit { to, request, .. } => match &request.op {
            Some(Op::Send(send)) => {
                Some((to.to_string(), String::from_utf8(send.client_id.to_vec()).expect("UTF-8"), request.id))
            }
            _ => None,
        },
        _ => None,
    };
    effects.iter().filter_map(sent).collect()
}

pub(super) fn announced(effects: &[Effect<&'static str>]) -> Vec<(String, u64, u64)> {
    let announced = |effect: &Effect<_>| match effect {
        Effect::Transmit { to, request, .. } => match &request.op {
            Some(Op::Announce(Announce { session: Some(session), .. })) => {
                Some((to.to_string(), session.lease, request.id))
            }
            _ => None,
        },
        _ => None,
    };
    effects.iter().filter_map(announced).collect()
}

pub(super) fn answers(effects: &[Effect<&'static str>]) -> Vec<(&'static str, Result<(), Code>)> {
    let answer = |effect: &Effect<&'static str>| match effect {
        Effect::Answer { client, answered } => {
            Some((*client, answered.result.as_ref().map(|_| ()).map_err(|why| why.code())))
        }
        _ => None,
    };
    effects.iter().filter_map(answer).collect()
}

pub(super) fn named(sent: &[(String, String, u64)]) -> Vec<&str> {
    sent.iter().map(|(_, name, _)| name.as_str()).collect()
}

pub(super) fn refused(code: Code) -> router_reply::Result {
    router_reply::Result::Refusal(refusal(code, "", 0))
}

pub(super) fn closes(effects: &[Effect<&'static str>]) -> Vec<(u64, u64)> {
    let close = |effect: &Effect<_>| match effect {
        Effect::Transmit { request, .. } => match &request.op {
            Some(Op::CloseSession(CloseSession { session: Some(session) })) => Some((session.lease, request.id)),
            _ => None,
        },
        _ => None,
    };
    effects.iter().filter_map(close).collect()
}

pub(super) fn all(router: &str, version: u64) -> (String, Word) {
    (router.to_owned(), Word::AnnouncedAll(version))
}
