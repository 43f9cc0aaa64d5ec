//! Which request goes to which router, when it goes again, and which sessions are announced where.
//!
//! Requests of one connection with the same key (a recipient, or the user itself) form a **lane**: they reach the
//! owner in the order in which they were made, also when links break and owners change. All that a lane has in flight
//! is at one router; what could overtake is parked until nothing is in flight.

mod announce;
mod lanes;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{
    Ring, Room,
    pb::{
        client::Code,
        link::{Done, Refusal, RouterReply, RouterRequest, TimelineHead, evict::Why, router_reply, router_request::Op},
        store::{RegistryView, Session},
    },
};

use lanes::{Lane, LaneKey, lane_of};

/// How often what is parked is tried again although nothing has changed.
const PUMP: Duration = Duration::from_millis(200);
/// While the service takes longer than this for a send, fewer may wait. Longer than the routers' own for the store, so
/// that a shard that is slow alone does not hold up the others.
const IN_TIME: Duration = Duration::from_millis(500);

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
    /// The router knows the session now.
    Announced {
        connection: u64,
        heads: Vec<TimelineHead>,
    },
    /// The router has a newer one in its place, or it was ended.
    Over {
        connection: u64,
        why: Why,
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
    /// See `RouterRequest.era`.
    eras: HashMap<Arc<str>, u64>,
    pending: HashMap<u64, Pending<C>>,
    next_id: u64,
    max_pending: usize,
    /// For sends.
    room: Room,
    deadline: Duration,
    /// Ids in the order of their deadlines; what is not pending any more is skipped.
    deadlines: VecDeque<(Instant, u64)>,
    lanes: HashMap<LaneKey, Lane>,
    /// Lanes with something parked, in the order in which they get their turns.
    parked: BTreeSet<LaneKey>,
    sessions: HashMap<u64, Live>,
    to_announce: VecDeque<u64>,
    announce_again: VecDeque<(Instant, u64)>,
    announcing: usize,
    /// Sessions that could not be closed, and when that is tried again.
    unclosed: VecDeque<(Instant, u64)>,
    repeated: u64,
    next_pump: Option<Instant>,
}

struct Pending<C> {
    connection: u64,
    asker: Asker<C>,
    lane: LaneKey,
    op: Op,
    traceparent: String,
    deadline: Instant,
    /// The router that has it, and the era in which it was sent.
    at: Option<(Arc<str>, u64)>,
    /// An earlier try may have been carried out: its answer did not come, or was that it is not known.
    may_be_done: bool,
}

enum Asker<C> {
    Client(C),
    Nobody,
    Announcer,
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
            eras: HashMap::new(),
            pending: HashMap::new(),
            next_id: 1,
            max_pending,
            room: Room::new(max_pending, IN_TIME),
            deadline,
            deadlines: VecDeque::new(),
            lanes: HashMap::new(),
            parked: BTreeSet::new(),
            sessions: HashMap::new(),
            to_announce: VecDeque::new(),
            announce_again: VecDeque::new(),
            announcing: 0,
            unclosed: VecDeque::new(),
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
            // It is open already: it goes on with another token.
            Op::OpenSession(_) if self.sessions.get(&connection).is_some_and(|live| live.open) => {}
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
            op if self.pending.len() >= self.bound(op) => {
                let why = "too many requests are waiting for routers";
                let after = self.room.come_back().as_millis() as u32;
                return answer(asker, Err(refusal(Code::Overloaded, why, after)), 0, out);
            }
            _ => {}
        }
        self.begin(now, connection, asker, op, traceparent, out);
    }

    /// How many may be pending when this one comes.
    fn bound(&self, op: &Op) -> usize {
        match op {
            Op::Send(_) => self.room.limit(),
            _ => self.max_pending,
        }
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
        let lane_key = lane_of(connection, &op);
        let deadline = now + self.deadline;
        let target = self.target(&op);
        let pending =
            Pending { connection, asker, lane: lane_key, op, traceparent, deadline, at: None, may_be_done: false };
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

    fn reply(&mut self, now: Instant, from: &Arc<str>, reply: RouterReply, out: &mut Vec<Effect<C>>) {
        // Not pending, or at another router: an answer that came too late.
        let at = self.pending.get(&reply.id).and_then(|pending| pending.at.as_ref());
        let Some((_, era)) = at.filter(|(router, _)| router == from) else { return };
        let era = *era;
        let result = match reply.result {
            Some(router_reply::Result::NotOwner(_)) => {
                let current = self.eras.entry(Arc::clone(from)).or_default();
                *current = (*current).max(era + 1);
                return self.park(reply.id);
            }
            Some(router_reply::Result::Refusal(why)) if self.goes_again(now, reply.id, &why) => {
                return self.park_unknown(reply.id);
            }
            Some(router_reply::Result::Refusal(refusal)) => Err(self.of_all_tries(reply.id, refusal)),
            Some(result) => Ok(result),
            None => Err(refusal(Code::Internal, "the router's answer is of an unknown kind", 0)),
        };
        self.finish(now, reply.id, result, out);
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
            Op::Send(_) if result.is_ok() => {
                let waited = (now + self.deadline).saturating_duration_since(pending.deadline);
                self.room.answered(waited, self.pending.len(), now);
                0
            }
            Op::OpenSession(open) => {
                let lease = open.session.as_ref().map_or(0, |session| session.lease);
                match self.sessions.get_mut(&connection).filter(|live| live.open) {
                    Some(live) => announce::renewed(live, open, &result),
                    None => self.opened(now, connection, &result, pending.may_be_done, out),
                }
                lease
            }
            Op::CloseSession(_) => {
                self.closed(now, connection, &result);
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

    fn link_up(&mut self, now: Instant, address: Arc<str>, out: &mut Vec<Effect<C>>) {
        self.up.insert(Arc::clone(&address));
        // The router may be a new one under the old address, or may have forgotten.
        self.queue_owned_by(&address);
        self.pump_all(now, out);
        self.announce(now, out);
    }

    fn link_down(&mut self, now: Instant, address: &Arc<str>, out: &mut Vec<Effect<C>>) {
        self.up.remove(address);
        let lost = |(id, pending): (&u64, &Pending<C>)| {
            pending.at.as_ref().is_some_and(|(router, _)| router == address).then_some(*id)
        };
        let lost: Vec<u64> = self.pending.iter().filter_map(lost).collect();
        for id in lost {
            self.park_unknown(id);
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
        self.queue_moved();
        self.pump_all(now, out);
        self.announce(now, out);
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
        self.queue_again(now);
        self.close_again(now, out);
        if self.next_pump.is_none_or(|due| due <= now) {
            self.next_pump = Some(now + PUMP);
            self.pump_all(now, out);
        }
        self.announce(now, out);
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
