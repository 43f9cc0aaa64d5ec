//! Which request goes to which router, when it goes again, and which sessions are announced where.
//!
//! Requests of one connection with the same key (a recipient, or the user itself) form a **lane**: they reach the
//! owner in the order in which they were made, also when links break and owners change. All that a lane has in flight
//! is at one router; what could overtake is parked until nothing is in flight.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{
    Ring,
    pb::{
        client::{Code, recipient},
        link::{Announce, Done, Refusal, RouterReply, RouterRequest, TimelineHead, router_reply, router_request::Op},
        store::{RegistryView, Session},
    },
};

/// Announcements without an answer. More wait their turn, so that a restarted router is not flooded.
const MAX_ANNOUNCING: usize = 512;
/// How often what is parked is tried again although nothing has changed.
const PUMP: Duration = Duration::from_millis(200);
/// Before an announcement that failed is repeated.
const ANNOUNCE_AGAIN: Duration = Duration::from_millis(500);

pub(crate) enum Input<C> {
    Submit(Submit<C>),
    /// A link is open.
    Up(Arc<str>),
    Down(Arc<str>),
    Replies(Arc<str>, Vec<RouterReply>),
    Registry(RegistryView),
    /// The lease that runs now, if one does.
    Lease(Option<u64>),
    Tick,
}

pub(crate) struct Submit<C> {
    pub(crate) connection: u64,
    /// Who hears the answer; None: nobody.
    pub(crate) client: Option<C>,
    pub(crate) op: Op,
    pub(crate) traceparent: String,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Effect<C> {
    Transmit {
        to: Arc<str>,
        request: RouterRequest,
    },
    Answer {
        client: C,
        answered: Answered,
    },
    /// The router knows the session now, or has a newer one in its place.
    Announced {
        connection: u64,
        heads: Vec<TimelineHead>,
        replaced: bool,
    },
}

/// What came of a request.
#[derive(Debug, PartialEq)]
pub(crate) struct Answered {
    pub(crate) result: Result<router_reply::Result, Refusal>,
    /// OpenSession: the lease under which the session was opened.
    pub(crate) lease: u64,
}

pub(crate) struct Dispatch<C> {
    ring: Ring,
    registry_version: u64,
    lease: Option<u64>,
    up: HashSet<Arc<str>>,
    pending: HashMap<u64, Pending<C>>,
    next_id: u64,
    max_pending: usize,
    deadline: Duration,
    /// Ids in the order of their deadlines; what is not pending any more is skipped.
    deadlines: VecDeque<(Instant, u64)>,
    lanes: HashMap<LaneKey, Lane>,
    /// Lanes with something parked.
    parked: HashSet<LaneKey>,
    sessions: HashMap<u64, Live>,
    to_announce: VecDeque<u64>,
    announce_again: VecDeque<(Instant, u64)>,
    announcing: usize,
    repeated: u64,
    next_pump: Option<Instant>,
}

type LaneKey = (u64, u64);

struct Pending<C> {
    connection: u64,
    asker: Asker<C>,
    lane: LaneKey,
    op: Op,
    traceparent: String,
    deadline: Instant,
    /// The router that has it.
    at: Option<Arc<str>>,
}

enum Asker<C> {
    Client(C),
    Nobody,
    Announcer,
}

#[derive(Default)]
struct Lane {
    /// Where everything is that is in flight.
    router: Option<Arc<str>>,
    in_flight: u32,
    /// In order of ids.
    parked: VecDeque<u64>,
}

/// A session of this gateway, from the moment when it is first asked for.
struct Live {
    session: Session,
    open: bool,
    closing: bool,
    queued: bool,
    /// The router that was told of it last.
    known_at: Option<Arc<str>>,
}

impl<C> Dispatch<C> {
    pub(crate) fn new(max_pending: usize, deadline: Duration) -> Self {
        Self {
            ring: Ring::empty(),
            registry_version: 0,
            lease: None,
            up: HashSet::new(),
            pending: HashMap::new(),
            next_id: 1,
            max_pending,
            deadline,
            deadlines: VecDeque::new(),
            lanes: HashMap::new(),
            parked: HashSet::new(),
            sessions: HashMap::new(),
            to_announce: VecDeque::new(),
            announce_again: VecDeque::new(),
            announcing: 0,
            repeated: 0,
            next_pump: None,
        }
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    pub(crate) fn links_up(&self) -> usize {
        self.up.len()
    }

    pub(crate) fn is_up(&self, address: &str) -> bool {
        self.up.contains(address)
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// How many requests were sent again, since this was asked last.
    pub(crate) fn take_repeated(&mut self) -> u64 {
        std::mem::take(&mut self.repeated)
    }

    pub(crate) fn handle(&mut self, now: Instant, input: Input<C>, out: &mut Vec<Effect<C>>) {
        match input {
            Input::Submit(submit) => self.submit(now, submit, out),
            Input::Up(address) => self.link_up(now, address, out),
            Input::Down(address) => self.link_down(now, &address, out),
            Input::Replies(from, replies) => {
                for reply in replies {
                    self.reply(now, &from, reply, out);
                }
                self.announce(now, out);
            }
            Input::Registry(view) => self.registry(now, &view, out),
            Input::Lease(lease) => self.new_lease(now, lease, out),
            Input::Tick => self.tick(now, out),
        }
    }

    fn submit(&mut self, now: Instant, submit: Submit<C>, out: &mut Vec<Effect<C>>) {
        let Submit { connection, client, op, traceparent } = submit;
        let asker = client.map_or(Asker::Nobody, Asker::Client);
        match &op {
            Op::OpenSession(open) => {
                if let Some(session) = open.session.clone() {
                    let live = Live { session, open: false, closing: false, queued: false, known_at: None };
                    self.sessions.insert(connection, live);
                }
            }
            Op::CloseSession(_) => match self.sessions.get_mut(&connection) {
                Some(live) if !live.closing => live.closing = true,
                _ => return answer(asker, Ok(router_reply::Result::Done(Done {})), 0, out),
            },
            _ if self.pending.len() >= self.max_pending => {
                let why = "too many requests are waiting for routers";
                return answer(asker, Err(refusal(Code::Overloaded, why, 200)), 0, out);
            }
            _ => {}
        }
        self.begin(now, connection, asker, op, traceparent, out);
    }

    fn begin(
        &mut self,
        now: Instant,
        connection: u64,
        asker: Asker<C>,
        op: Op,
        traceparent: String,
        out: &mut Vec<Effect<C>>,
    ) {
        let id = self.next_id;
        self.next_id += 1;
        let lane_key = (connection, hash(key_of(&op)));
        let deadline = now + self.deadline;
        let target = self.target(&op);
        let pending = Pending { connection, asker, lane: lane_key, op, traceparent, deadline, at: None };
        self.pending.insert(id, pending);
        self.deadlines.push_back((deadline, id));
        let lane = self.lanes.entry(lane_key).or_default();
        match target {
            Some(to) if lane.parked.is_empty() && (lane.in_flight == 0 || lane.router.as_ref() == Some(&to)) => {
                self.transmit(now, id, to, out);
            }
            _ => {
                lane.parked.push_back(id);
                self.parked.insert(lane_key);
            }
        }
    }

    /// The router that can take this now.
    fn target(&self, op: &Op) -> Option<Arc<str>> {
        let needs_lease = matches!(op, Op::OpenSession(_) | Op::Announce(_));
        if needs_lease && self.lease.is_none() {
            return None;
        }
        self.up.get(self.ring.owner(key_of(op))?.address.as_str()).cloned()
    }

    fn transmit(&mut self, now: Instant, id: u64, to: Arc<str>, out: &mut Vec<Effect<C>>) {
        // Ids in lanes are pending: they leave both together.
        let Some(pending) = self.pending.get_mut(&id) else { return };
        let live = self.sessions.get_mut(&pending.connection);
        match (&mut pending.op, live) {
            (
                Op::OpenSession(carillon_proto::pb::link::OpenSession { session: Some(session) })
                | Op::Announce(Announce { session: Some(session) }),
                Some(live),
            ) => {
                live.session.lease = self.lease.unwrap_or_default();
                live.known_at = Some(Arc::clone(&to));
                session.lease = live.session.lease;
            }
            (Op::CloseSession(close), Some(live)) => close.session = Some(live.session.clone()),
            _ => {}
        }
        pending.at = Some(Arc::clone(&to));
        let left = pending.deadline.saturating_duration_since(now).as_millis();
        let request = RouterRequest {
            id,
            ring_version: self.ring.version(),
            traceparent: pending.traceparent.clone(),
            deadline_ms: u32::try_from(left).unwrap_or(u32::MAX).max(1),
            op: Some(pending.op.clone()),
        };
        let lane = self.lanes.entry(pending.lane).or_default();
        lane.in_flight += 1;
        lane.router = Some(Arc::clone(&to));
        out.push(Effect::Transmit { to, request });
    }

    fn reply(&mut self, now: Instant, from: &Arc<str>, reply: RouterReply, out: &mut Vec<Effect<C>>) {
        // Not pending, or at another router: an answer that came too late.
        if self.pending.get(&reply.id).is_none_or(|pending| pending.at.as_ref() != Some(from)) {
            return;
        }
        let result = match reply.result {
            Some(router_reply::Result::NotOwner(_)) => return self.park(reply.id),
            Some(router_reply::Result::Refusal(why)) if self.goes_again(now, reply.id, &why) => {
                return self.park(reply.id);
            }
            Some(router_reply::Result::Refusal(refusal)) => Err(refusal),
            Some(result) => Ok(result),
            None => Err(refusal(Code::Internal, "the router's answer is of an unknown kind", 0)),
        };
        self.finish(now, reply.id, result, out);
    }

    /// A router that can't just now may soon, or another one takes its place. Not for a send that a later one of its
    /// lane may have overtaken: the client is told that this one was refused.
    fn goes_again(&self, now: Instant, id: u64, why: &Refusal) -> bool {
        let Some(pending) = self.pending.get(&id) else { return false };
        let alone = self.lanes.get(&pending.lane).is_some_and(|lane| lane.in_flight == 1);
        let may = why.retry && why.code() == Code::Unavailable && pending.deadline > now + PUMP;
        may && (alone || !matches!(pending.op, Op::Send(_)))
    }

    /// Back to wait for another chance: a new ring, a new link, or the next tick.
    fn park(&mut self, id: u64) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        let lane = self.lanes.entry(pending.lane).or_default();
        if pending.at.take().is_some() {
            lane.in_flight = lane.in_flight.saturating_sub(1);
        }
        let place = lane.parked.partition_point(|other| *other < id);
        lane.parked.insert(place, id);
        self.parked.insert(pending.lane);
        self.repeated += 1;
    }

    fn finish(
        &mut self,
        now: Instant,
        id: u64,
        result: Result<router_reply::Result, Refusal>,
        out: &mut Vec<Effect<C>>,
    ) {
        let Some(pending) = self.pending.remove(&id) else { return };
        if let Some(lane) = self.lanes.get_mut(&pending.lane) {
            match &pending.at {
                Some(_) => lane.in_flight = lane.in_flight.saturating_sub(1),
                None => lane.parked.retain(|other| *other != id),
            }
        }
        let connection = pending.connection;
        let lease = match &pending.op {
            Op::OpenSession(open) => {
                self.opened(connection, result.is_ok());
                open.session.as_ref().map_or(0, |session| session.lease)
            }
            Op::CloseSession(_) => {
                self.sessions.remove(&connection);
                0
            }
            _ => 0,
        };
        match pending.asker {
            Asker::Announcer => self.announced(now, connection, result, out),
            asker => answer(asker, result, lease, out),
        }
        self.pump(now, pending.lane, out);
    }

    /// Sends what the lane has parked, if nothing can be overtaken.
    fn pump(&mut self, now: Instant, key: LaneKey, out: &mut Vec<Effect<C>>) {
        let Some(lane) = self.lanes.get(&key) else { return };
        if lane.in_flight > 0 {
            return;
        }
        let Some(first) = lane.parked.front() else {
            self.lanes.remove(&key);
            self.parked.remove(&key);
            return;
        };
        // One owner for all: they have one key.
        let Some(to) = self.pending.get(first).and_then(|pending| self.target(&pending.op)) else { return };
        while let Some(lane) = self.lanes.get(&key) {
            let Some(id) = lane.parked.front().copied() else { break };
            // A session needs a lease, too.
            if self.pending.get(&id).is_none_or(|pending| self.target(&pending.op).is_none()) {
                return;
            }
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.parked.pop_front();
            }
            self.transmit(now, id, Arc::clone(&to), out);
        }
        self.parked.remove(&key);
    }

    fn pump_all(&mut self, now: Instant, out: &mut Vec<Effect<C>>) {
        for key in self.parked.iter().copied().collect::<Vec<_>>() {
            self.pump(now, key, out);
        }
    }

    fn link_up(&mut self, now: Instant, address: Arc<str>, out: &mut Vec<Effect<C>>) {
        self.up.insert(Arc::clone(&address));
        // The router may be a new one under the old address, or may have forgotten.
        let (ring, sessions) = (&self.ring, &mut self.sessions);
        for (connection, live) in sessions.iter_mut() {
            if ring.owner(&live.session.user).is_some_and(|owner| owner.address == *address) {
                queue(&mut self.to_announce, *connection, live);
            }
        }
        self.pump_all(now, out);
        self.announce(now, out);
    }

    fn link_down(&mut self, now: Instant, address: &Arc<str>, out: &mut Vec<Effect<C>>) {
        self.up.remove(address);
        let lost = |(id, pending): (&u64, &Pending<C>)| (pending.at.as_ref() == Some(address)).then_some(*id);
        let lost: Vec<u64> = self.pending.iter().filter_map(lost).collect();
        for id in lost {
            self.park(id);
        }
        self.pump_all(now, out);
    }

    fn registry(&mut self, now: Instant, view: &RegistryView, out: &mut Vec<Effect<C>>) {
        if view.version <= self.registry_version {
            return;
        }
        self.registry_version = view.version;
        if view.ring_version == self.ring.version() {
            return;
        }
        self.ring = Ring::from_view(view);
        let (ring, sessions) = (&self.ring, &mut self.sessions);
        for (connection, live) in sessions.iter_mut() {
            let owner = ring.owner(&live.session.user).map(|owner| owner.address.as_str());
            if owner.is_some() && owner != live.known_at.as_deref() {
                queue(&mut self.to_announce, *connection, live);
            }
        }
        self.pump_all(now, out);
        self.announce(now, out);
    }

    fn new_lease(&mut self, now: Instant, lease: Option<u64>, out: &mut Vec<Effect<C>>) {
        self.lease = lease;
        let Some(lease) = lease else { return };
        for (connection, live) in &mut self.sessions {
            if live.session.lease != lease {
                queue(&mut self.to_announce, *connection, live);
            }
        }
        self.pump_all(now, out);
        self.announce(now, out);
    }

    fn opened(&mut self, connection: u64, ok: bool) {
        let Some(live) = self.sessions.get_mut(&connection) else { return };
        live.open = ok;
        let owner = self.ring.owner(&live.session.user).map(|owner| owner.address.as_str());
        if ok && (owner != live.known_at.as_deref() || self.lease != Some(live.session.lease)) {
            queue(&mut self.to_announce, connection, live);
        }
    }

    fn announce(&mut self, now: Instant, out: &mut Vec<Effect<C>>) {
        while self.announcing < MAX_ANNOUNCING {
            let Some(connection) = self.to_announce.pop_front() else { return };
            let Some(live) = self.sessions.get_mut(&connection) else { continue };
            live.queued = false;
            if live.closing {
                continue;
            }
            let op = Op::Announce(Announce { session: Some(live.session.clone()) });
            // Without a link or a lease: whatever brings it queues all sessions again.
            if self.target(&op).is_some() {
                self.announcing += 1;
                self.begin(now, connection, Asker::Announcer, op, String::new(), out);
            }
        }
    }

    fn announced(
        &mut self,
        now: Instant,
        connection: u64,
        result: Result<router_reply::Result, Refusal>,
        out: &mut Vec<Effect<C>>,
    ) {
        self.announcing = self.announcing.saturating_sub(1);
        match result {
            Ok(router_reply::Result::SessionOpened(opened)) => {
                let effect = Effect::Announced { connection, heads: opened.heads, replaced: opened.replaced };
                out.push(effect);
            }
            _ => self.announce_again.push_back((now + ANNOUNCE_AGAIN, connection)),
        }
    }

    fn tick(&mut self, now: Instant, out: &mut Vec<Effect<C>>) {
        while let Some((deadline, id)) = self.deadlines.front().copied() {
            let is_pending = self.pending.contains_key(&id);
            if is_pending && deadline > now {
                break;
            }
            self.deadlines.pop_front();
            if is_pending {
                let why = "no answer from the service in time";
                self.finish(now, id, Err(refusal(Code::Unavailable, why, 500)), out);
            }
        }
        while self.announce_again.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, connection)) = self.announce_again.pop_front() else { break };
            if let Some(live) = self.sessions.get_mut(&connection) {
                queue(&mut self.to_announce, connection, live);
            }
        }
        if self.next_pump.is_none_or(|due| due <= now) {
            self.next_pump = Some(now + PUMP);
            self.pump_all(now, out);
        }
        self.announce(now, out);
    }
}

fn queue(to_announce: &mut VecDeque<u64>, connection: u64, live: &mut Live) {
    // One that is still being opened is looked at again when it is.
    if live.open && !live.closing && !live.queued {
        live.queued = true;
        to_announce.push_back(connection);
    }
}

fn answer<C>(asker: Asker<C>, result: Result<router_reply::Result, Refusal>, lease: u64, out: &mut Vec<Effect<C>>) {
    if let Asker::Client(client) = asker {
        out.push(Effect::Answer { client, answered: Answered { result, lease } });
    }
}

/// A refusal that invites to try again, unless `retry_after_ms` is 0.
pub(crate) fn refusal(code: Code, reason: &str, retry_after_ms: u32) -> Refusal {
    Refusal { code: code.into(), reason: reason.to_owned(), retry: retry_after_ms > 0, retry_after_ms }
}

/// Whose owner takes the request: the user's, or for a Send the recipient's.
fn key_of(op: &Op) -> &str {
    match op {
        Op::LookUpAccount(op) => &op.user,
        Op::EnsureAccount(op) => &op.user,
        Op::OpenSession(op) => op.session.as_ref().map_or("", |session| &session.user),
        Op::Announce(op) => op.session.as_ref().map_or("", |session| &session.user),
        Op::CloseSession(op) => op.session.as_ref().map_or("", |session| &session.user),
        Op::Acknowledge(op) => &op.user,
        Op::Read(op) => &op.user,
        Op::ReadHeads(op) => &op.user,
        Op::Send(op) => match op.to.as_ref().and_then(|to| to.to.as_ref()) {
            Some(recipient::To::User(id) | recipient::To::Group(id)) => id,
            None => "",
        },
    }
}

fn hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::pb::{
        client::Recipient,
        link::{Accepted, CloseSession, NotOwner, OpenSession, Send, SessionOpened},
        store::{Node, NodeKind},
    };

    const DEADLINE: Duration = Duration::from_secs(10);

    struct World {
        dispatch: Dispatch<&'static str>,
        now: Instant,
        version: u64,
    }

    impl World {
        /// With links to all of these routers.
        fn with(routers: &[&str]) -> Self {
            let mut world = Self { dispatch: Dispatch::new(100, DEADLINE), now: Instant::now(), version: 0 };
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
            out
        }

        fn ring(&mut self, routers: &[&str]) -> Vec<Effect<&'static str>> {
            self.version += 1;
            let node = |(i, address): (usize, &&str)| Node {
                lease: i as u64 + 1,
                kind: NodeKind::Router.into(),
                address: (*address).to_owned(),
            };
            self.input(Input::Registry(RegistryView {
                version: self.version,
                ring_version: self.version,
                nodes: routers.iter().enumerate().map(node).collect(),
                ..Default::default()
            }))
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
        router_reply::Result::SessionOpened(SessionOpened { heads: vec![], replaced })
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
        assert_eq!(world.dispatch.pending(), 0);
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
        assert_eq!(answers(&world.reply("a:1", 1, opened(false))), [("open", Ok(()))]);
        world.input(Input::Down(Arc::from("a:1")));
        let again = announced(&world.input(Input::Up(Arc::from("a:1"))));
        assert_eq!(again.len(), 1);
        world.reply("a:1", again[0].2, opened(false));
        assert_eq!(announced(&world.ring(&["b:1"])), [], "no link to it yet");
        let moved = announced(&world.input(Input::Up(Arc::from("b:1"))));
        assert_eq!(moved[0].0, "b:1");
        let heard = world.reply("b:1", moved[0].2, opened(true));
        assert_eq!(heard, [Effect::Announced { connection: 1, heads: vec![], replaced: true }]);
    }

    #[test]
    fn a_session_that_was_opened_at_an_old_owner_is_announced_to_the_new_one() {
        let mut world = World::with(&["a:1", "b:1"]);
        let Effect::Transmit { to, request } = &world.open()[0] else { panic!("not sent") };
        let (old, id) = (to.to_string(), request.id);
        let new = if old == "a:1" { "b:1" } else { "a:1" };
        assert_eq!(announced(&world.ring(&[new])), [], "not open yet");
        let told = announced(&world.reply(&old, id, opened(false)));
        assert_eq!(told[0].0, new);
    }

    #[test]
    fn a_new_lease_brings_all_sessions_under_it() {
        let mut world = World::with(&["a:1"]);
        world.open();
        world.reply("a:1", 1, opened(false));
        assert!(world.input(Input::Lease(None)).is_empty());
        let told = announced(&world.input(Input::Lease(Some(9))));
        assert_eq!((told[0].0.as_str(), told[0].1), ("a:1", 9));
    }

    #[test]
    fn an_announcement_that_failed_is_repeated() {
        let mut world = World::with(&["a:1"]);
        world.open();
        world.reply("a:1", 1, opened(false));
        let told = announced(&world.input(Input::Up(Arc::from("a:1"))));
        let busy = router_reply::Result::Refusal(refusal(Code::Overloaded, "", 1));
        assert_eq!(world.reply("a:1", told[0].2, busy), []);
        assert_eq!(announced(&world.wait(ANNOUNCE_AGAIN)).len(), 1);
    }

    #[test]
    fn a_closed_session_is_closed_under_its_lease_and_announced_no_more() {
        let mut world = World::with(&["a:1"]);
        world.open();
        world.reply("a:1", 1, opened(false));
        let session = Some(Session { user: "bob".to_owned(), connection: 1, ..Default::default() });
        let op = Op::CloseSession(CloseSession { session });
        let submit =
            |op| Input::Submit(Submit { connection: 1, client: Some("close"), op, traceparent: String::new() });
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
}
