//! Decides which request goes to which router, when it is repeated, and which sessions are announced where.
//!
//! Requests of one connection with the same key (a recipient, or the user itself) form a **lane**: they are sent to the
//! owner in the order in which they were made, even when links break and owners change. All requests of a lane in
//! flight are at one router; a request for another one is parked until nothing is in flight. Each send names the
//! unanswered one before it (`chain.rs`), and so can't be accepted before it, whatever fails on the way.
//!
//! A gateway has several of these, each with its part of the connections.

mod announce;
mod chain;
mod lanes;
mod shared;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{
    KeyedMap, KeyedSet, Ring,
    pb::{
        client::Code,
        link::{
            Done, Forget, Refusal, RouterReply, RouterRequest, SessionPresence, TimelineHead, evict::Why, router_reply,
            router_request::Op,
        },
        store::Session,
    },
};

use chain::Chained;
use lanes::{LaneKey, SendOrder, lane_of};
pub(crate) use shared::{Eras, Load};

use crate::outcome::{RequestOutcome, refusal};

/// Parts of a gateway's dispatch; connections and ids of requests are spread over them.
pub(crate) const PARTS: usize = 8;

/// How often parked requests are tried again although nothing has changed.
const PUMP: Duration = Duration::from_millis(200);
/// While the service takes longer than this for a send, fewer may wait. Longer than the routers' own for the store, so
/// that a shard that is slow alone does not hold up the others.
const IN_TIME: Duration = Duration::from_millis(500);

#[expect(clippy::large_enum_variant, reason = "nearly all are requests")]
pub(crate) enum Input<C> {
    Submit(Submit<C>),
    /// A link is open.
    Up(Arc<str>),
    Down(Arc<str>),
    Replies(Arc<str>, Vec<RouterReply>),
    Ring(Arc<Ring>),
    /// The lease that runs now, if one does.
    Lease(Option<u64>),
    Tick,
}

pub(crate) struct Submit<C> {
    pub(crate) connection: u64,
    /// The client that hears the answer. `None`: nobody hears it.
    pub(crate) client: Option<C>,
    pub(crate) op: Op,
    pub(crate) traceparent: String,
    /// When the last bytes of a send were read; `None` for what is not measured.
    pub(crate) read_at: Option<Instant>,
}

impl<C> Submit<C> {
    /// Of the gateway itself: nobody hears the answer.
    pub(crate) fn unasked(connection: u64, op: Op) -> Self {
        Self { connection, client: None, op, traceparent: String::new(), read_at: None }
    }
}

#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are transmitted, and each is performed at once")]
pub(crate) enum Effect<C> {
    Transmit {
        to: Arc<str>,
        request: RouterRequest,
        /// How long ago a send was read that goes to a router for the first time.
        since_read: Option<Duration>,
    },
    /// Goes into the queue after everything sent to this router before.
    Tell {
        to: Arc<str>,
        word: Word,
    },
    Answer {
        client: C,
        answered: RequestOutcome,
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

/// A message to a router that has no answer.
#[derive(Debug, PartialEq)]
pub(crate) enum Word {
    /// The session belongs to another router now.
    Forget(Forget),
    /// All sessions that it owns by the ring of this version have been announced.
    AnnouncedAll(u64),
}

pub(crate) struct Dispatch<C> {
    ring: Arc<Ring>,
    lease: Option<u64>,
    up: KeyedSet<Arc<str>>,
    eras: Eras,
    pending: KeyedMap<u64, Pending<C>>,
    /// Grows by the number of parts, so that a reply's id names its part.
    next_id: u64,
    load: Arc<Load>,
    deadline: Duration,
    /// Ids in the order of their deadlines. Ids that are no longer pending are skipped.
    deadlines: VecDeque<(Instant, u64)>,
    lanes: KeyedMap<LaneKey, SendOrder>,
    /// Lanes with something parked, in the order in which they get their turns.
    parked: BTreeSet<LaneKey>,
    /// Boxed, so that what the map has in reserve is small.
    sessions: KeyedMap<u64, Box<Live>>,
    to_announce: VecDeque<u64>,
    announce_again: VecDeque<(Instant, u64)>,
    announcing: usize,
    /// True if a router may not have heard yet that all its sessions are announced.
    untold: bool,
    /// For each router, the ring of the last `AnnouncedAll` on the link that is open now.
    told_all: KeyedMap<Arc<str>, u64>,
    /// Sessions that were being opened when the ring changed: an old owner may still register them.
    opening: KeyedSet<u64>,
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
    /// The time of reading, as in `Submit`; `None` once the request has gone to a router.
    read_at: Option<Instant>,
    deadline: Instant,
    /// The router that has it.
    at: Option<Arc<str>>,
    /// An earlier try may have been carried out: its answer did not come, or was that it is not known.
    may_be_done: bool,
    /// The place among the sends of the lane, if the request is a send.
    chained: Chained,
}

enum Asker<C> {
    Client(C),
    Nobody,
    Announcer,
}

/// A session of this gateway, from the moment when it is first asked for.
struct Live {
    session: Session,
    /// The presence that the session shows.
    presence: Option<Box<SessionPresence>>,
    /// Counts the presences that the session has shown: the number of the latest one.
    shown: u64,
    open: bool,
    closing: bool,
    queued: bool,
    /// The router that was told of it last.
    known_at: Option<Arc<str>>,
}

impl<C> Dispatch<C> {
    /// The part with this index.
    pub(crate) fn new(index: u64, load: Arc<Load>, eras: Eras, deadline: Duration) -> Self {
        Self {
            ring: Arc::new(Ring::empty()),
            lease: None,
            up: KeyedSet::default(),
            eras,
            pending: KeyedMap::default(),
            next_id: PARTS as u64 + index,
            load,
            deadline,
            deadlines: VecDeque::new(),
            lanes: KeyedMap::default(),
            parked: BTreeSet::new(),
            sessions: KeyedMap::default(),
            to_announce: VecDeque::new(),
            announce_again: VecDeque::new(),
            announcing: 0,
            untold: false,
            told_all: KeyedMap::default(),
            opening: KeyedSet::default(),
            unclosed: VecDeque::new(),
            repeated: 0,
            next_pump: None,
        }
    }

    /// How many requests were sent again, since this was asked last.
    pub(crate) fn take_repeated(&mut self) -> u64 {
        std::mem::take(&mut self.repeated)
    }

    /// A tick would change nothing now.
    pub(crate) fn rests(&self, now: Instant) -> bool {
        let waits = !self.deadlines.is_empty() || !self.to_announce.is_empty() || self.untold;
        let again = !self.announce_again.is_empty() || !self.unclosed.is_empty();
        !waits && !again && self.next_pump.is_some_and(|due| due > now)
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
            Input::Ring(ring) => self.new_ring(now, ring, out),
            Input::Lease(lease) => self.new_lease(now, lease, out),
            Input::Tick => self.tick(now, out),
        }
        self.tell_all(out);
    }

    fn submit(&mut self, now: Instant, mut submit: Submit<C>, out: &mut Vec<Effect<C>>) {
        let connection = submit.connection;
        let asker = submit.client.take().map_or(Asker::Nobody, Asker::Client);
        match &mut submit.op {
            // The session is open already, and goes on with another token.
            Op::OpenSession(_) if self.sessions.get(&connection).is_some_and(|live| live.open) => {}
            Op::OpenSession(open) => {
                if let Some(session) = open.session.clone() {
                    let live = Live {
                        session,
                        presence: None,
                        shown: 0,
                        open: false,
                        closing: false,
                        queued: false,
                        known_at: None,
                    };
                    self.sessions.insert(connection, Box::new(live));
                }
            }
            Op::CloseSession(_) => match self.sessions.get_mut(&connection) {
                Some(live) if !live.closing => live.closing = true,
                _ => return answer(asker, Ok(router_reply::Result::Done(Done {})), 0, out),
            },
            op if self.load.is_full(matches!(op, Op::Send(_) | Op::ChangeGroup(_))) => {
                let why = "too many requests are waiting for routers";
                let after = self.load.retry_after().as_millis() as u32;
                return answer(asker, Err(refusal(Code::Overloaded, why, after)), 0, out);
            }
            Op::SetPresence(set) => {
                if let Some(live) = self.sessions.get_mut(&connection) {
                    live.shown += 1;
                    set.presence.get_or_insert_default().number = live.shown;
                    live.presence = set.presence.clone().map(Box::new);
                }
            }
            _ => {}
        }
        self.begin(now, asker, submit, out);
    }

    fn begin(&mut self, now: Instant, asker: Asker<C>, submit: Submit<C>, out: &mut Vec<Effect<C>>) {
        let Submit { connection, op, traceparent, read_at, .. } = submit;
        let id = self.next_id;
        self.next_id += PARTS as u64;
        let lane_key = lane_of(connection, &op);
        let deadline = now + self.deadline;
        let target = self.target(&op);
        let pending = Pending {
            connection,
            asker,
            lane: lane_key,
            op,
            traceparent,
            read_at,
            deadline,
            at: None,
            may_be_done: false,
            chained: Chained::default(),
        };
        self.pending.insert(id, pending);
        self.load.begin();
        self.deadlines.push_back((deadline, id));
        self.chain(now, id);
        let lane = self.lanes.entry(lane_key).or_default();
        match target {
            Some(to) if lane.parked.is_empty() && lane.takes(&to) => self.transmit(now, id, to, out),
            _ => {
                lane.parked.push_back(id);
                self.parked.insert(lane_key);
            }
        }
    }

    fn reply(&mut self, now: Instant, from: &Arc<str>, reply: RouterReply, out: &mut Vec<Effect<C>>) {
        // Not pending, or at another router: an answer that came too late.
        let at = self.pending.get(&reply.id).and_then(|pending| pending.at.as_ref());
        if at != Some(from) {
            return;
        }
        let result = match reply.result {
            Some(router_reply::Result::NotOwner(_)) => return self.park(reply.id),
            Some(router_reply::Result::Refusal(why)) if self.goes_again(now, reply.id, &why) => {
                return self.park_unknown(reply.id);
            }
            Some(router_reply::Result::Refusal(why)) if self.has_overtaken(now, reply.id, &why) => {
                return self.park_behind(now, reply.id, out);
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
        self.load.end();
        let result = result.map_err(|why| pending.chained.postponed(now, why));
        self.unchain(now, &pending, result.as_ref().err());
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
                self.load.answered(waited, now);
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
        self.told_all.remove(&address);
        self.untold = true;
        // The router may be a new one under the old address, or may have forgotten.
        self.queue_owned_by(&address);
        self.pump_all(now, out);
        self.announce(now, out);
    }

    fn link_down(&mut self, now: Instant, address: &Arc<str>, out: &mut Vec<Effect<C>>) {
        self.up.remove(address);
        self.known_nowhere(address);
        let lost = |(id, pending): (&u64, &Pending<C>)| (pending.at.as_ref() == Some(address)).then_some(*id);
        let lost: Vec<u64> = self.pending.iter().filter_map(lost).collect();
        for id in lost {
            // The request may have been heard, and must not be heard twice.
            if self.pending.get(&id).is_some_and(|pending| matches!(pending.op, Op::Direct(_))) {
                let why = "the router's link broke before the answer came";
                self.finish(now, id, Err(refusal(Code::Unavailable, why, 500)), out);
            } else {
                self.park_unknown(id);
            }
        }
        self.pump_all(now, out);
    }

    fn new_ring(&mut self, now: Instant, ring: Arc<Ring>, out: &mut Vec<Effect<C>>) {
        self.ring = ring;
        self.untold = true;
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
        out.push(Effect::Answer { client, answered: RequestOutcome { result, lease } });
    }
}
