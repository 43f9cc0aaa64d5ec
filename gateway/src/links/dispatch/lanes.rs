//! Requests in flight and parked requests: where a request goes, and when a parked one may follow.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use carillon_proto::pb::{
    client::{Code, timeline},
    link::{Announce, Forget, OpenSession, Refusal, RouterRequest, router_request::Op, send_to},
};

use super::{Dispatch, Effect, PUMP, Word};

/// The connection, and the hash of the key.
pub(super) type LaneKey = (u64, u64);

#[derive(Default)]
pub(super) struct SendOrder {
    /// The router of all requests in flight.
    pub(super) router: Option<Arc<str>>,
    pub(super) in_flight: u32,
    /// Ordered by id.
    pub(super) parked: VecDeque<u64>,
    /// The last of the unanswered sends, see `chain.rs`.
    pub(super) last_send: Option<u64>,
    /// When a send came last.
    pub(super) came_at: Option<Instant>,
    /// The client names messages itself, and knows of those that are not here: nothing is named for it.
    pub(super) client_names: bool,
    /// Unanswered sends that name one that was refused for now.
    pub(super) doomed: u32,
    /// The client ids of sends that were refused for now, as long as there are doomed ones behind them.
    pub(super) refused: Vec<Bytes>,
}

impl SendOrder {
    /// True if a request may go to this router now. False while another router has requests of the lane.
    pub(super) fn takes(&self, to: &Arc<str>) -> bool {
        self.in_flight == 0 || self.router.as_ref() == Some(to)
    }
}

impl<C> Dispatch<C> {
    /// The router that can take this request now.
    pub(super) fn target(&self, op: &Op) -> Option<Arc<str>> {
        let needs_lease = matches!(op, Op::OpenSession(_) | Op::Announce(_));
        if needs_lease && self.lease.is_none() {
            return None;
        }
        self.up.get(self.ring.owner(key_of(op))?.address.as_str()).cloned()
    }

    pub(super) fn transmit(&mut self, now: Instant, id: u64, to: Arc<str>, out: &mut Vec<Effect<C>>) {
        // Ids in lanes are pending: both are removed together.
        let Some(pending) = self.pending.get_mut(&id) else { return };
        let live = self.sessions.get_mut(&pending.connection);
        let mut known_at = None;
        if let (Op::Announce(announce), Some(live)) = (&mut pending.op, &live) {
            announce.presence = live.presence.as_deref().cloned();
        }
        match (&mut pending.op, live) {
            (
                Op::OpenSession(OpenSession { session: Some(session) })
                | Op::Announce(Announce { session: Some(session), .. }),
                Some(live),
            ) => {
                live.session.lease = self.lease.unwrap_or_default();
                known_at = live.known_at.replace(Arc::clone(&to)).map(|known_at| (known_at, live.session.user.clone()));
                session.lease = live.session.lease;
            }
            (Op::CloseSession(close), Some(live)) => {
                close.session = Some(live.session.clone());
                known_at = live.known_at.clone().map(|known_at| (known_at, live.session.user.clone()));
            }
            _ => {}
        }
        // A router without an open link learns on the next one which sessions are left.
        if let Some((known_at, user)) = known_at.filter(|(known_at, _)| *known_at != to && self.up.contains(known_at)) {
            let word = Word::Forget(Forget { user, connection: pending.connection });
            out.push(Effect::Tell { to: known_at, word });
        }
        let since_read = pending.read_at.take().map(|read_at| now.saturating_duration_since(read_at));
        pending.at = Some(Arc::clone(&to));
        pending.chained.begins_attempt();
        let before = pending.chained.before();
        let left = pending.deadline.saturating_duration_since(now).as_millis();
        let mut request = RouterRequest {
            id,
            ring_version: self.ring.version(),
            traceparent: pending.traceparent.clone(),
            deadline_ms: u32::try_from(left).unwrap_or(u32::MAX).max(1),
            era: 0,
            op: Some(pending.op.clone()),
        };
        let lane = self.lanes.entry(pending.lane).or_default();
        lane.in_flight += 1;
        lane.router = Some(Arc::clone(&to));
        if let Some(Op::Send(send)) = &mut request.op {
            request.era = self.eras.next();
            if let Some(before) = before {
                self.name_the_one_before(id, before, send);
            }
        }
        out.push(Effect::Transmit { to, request, since_read });
    }

    /// True if the request is retried: the router may take it soon, or another one may replace it. A send may be
    /// repeated behind later ones of its lane: those name it.
    pub(super) fn goes_again(&self, now: Instant, id: u64, why: &Refusal) -> bool {
        let Some(pending) = self.pending.get(&id) else { return false };
        let may = why.retry && why.code() == Code::Unavailable && pending.deadline > now + PUMP;
        may && !matches!(pending.op, Op::Direct(_))
    }

    /// The refusal for the client. "Nothing was done" is true only of the last attempt: if an earlier one may have been
    /// carried out, the client is told that the outcome is unknown.
    pub(super) fn of_all_tries(&self, id: u64, refusal: Refusal) -> Refusal {
        let pending = self.pending.get(&id);
        let writes = |op: &Op| matches!(op, Op::Send(_) | Op::ChangeGroup(_));
        let unknown = pending.is_some_and(|pending| pending.may_be_done && writes(&pending.op));
        if !unknown || !refusal.retry || refusal.code() == Code::Unavailable {
            return refusal;
        }
        let reason = format!("it is not known whether an earlier try was carried out; now: {}", refusal.reason);
        Refusal { code: Code::Unavailable.into(), reason, ..refusal }
    }

    /// Parks a request that may have been carried out.
    pub(super) fn park_unknown(&mut self, id: u64) {
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.may_be_done = true;
        }
        self.park(id);
    }

    /// Parks a request until there is a new ring, a new link, or the next tick.
    pub(super) fn park(&mut self, id: u64) {
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

    /// Sends the lane's parked requests, if they can't overtake anything.
    pub(super) fn pump(&mut self, now: Instant, key: LaneKey, out: &mut Vec<Effect<C>>) {
        let Some(lane) = self.lanes.get(&key) else { return };
        if lane.in_flight > 0 {
            return;
        }
        let Some(first) = lane.parked.front() else {
            self.lanes.remove(&key);
            self.parked.remove(&key);
            return;
        };
        // All requests of a lane have the same key, and so the same owner.
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

    pub(super) fn pump_all(&mut self, now: Instant, out: &mut Vec<Effect<C>>) {
        for key in self.parked.iter().copied().collect::<Vec<_>>() {
            self.pump(now, key, out);
        }
    }
}

/// The lane of a request.
pub(super) fn lane_of(connection: u64, op: &Op) -> LaneKey {
    let key = key_of(op);
    match op {
        // The answer to a directed request waits for another client: other requests for the same user do not wait behind it.
        Op::Direct(_) => (connection, hash(("direct", key))),
        _ => (connection, hash(key)),
    }
}

/// The user whose owner takes the request; for a Send the recipient.
fn key_of(op: &Op) -> &str {
    match op {
        Op::LookUpAccount(op) => &op.user,
        Op::EnsureAccount(op) => &op.user,
        Op::OpenSession(op) => op.session.as_ref().map_or("", |session| &session.user),
        Op::Announce(op) => op.session.as_ref().map_or("", |session| &session.user),
        Op::CloseSession(op) => op.session.as_ref().map_or("", |session| &session.user),
        Op::Acknowledge(op) => &op.user,
        Op::Read(op) => match op.timeline.as_ref().and_then(|timeline| timeline.owner.as_ref()) {
            Some(timeline::Owner::Group(group)) => group,
            Some(timeline::Owner::Inbox(_)) | None => &op.user,
        },
        Op::ReadGroup(op) => &op.group,
        Op::ReadMembers(op) => &op.group,
        Op::ReadMemberships(op) => &op.user,
        Op::MoveMarks(op) => &op.user,
        Op::SetConversation(op) => &op.user,
        Op::ReadConversations(op) => &op.user,
        Op::ReadMarks(op) => &op.user,
        Op::ChangeContact(op) => &op.user,
        Op::ReadContacts(op) => &op.user,
        Op::SetPresence(op) => &op.user,
        Op::ChangePrivacy(op) => &op.user,
        Op::ReadPrivacy(op) => &op.user,
        Op::TellChatState(op) if !op.group.is_empty() => &op.group,
        Op::TellChatState(op) => &op.user,
        Op::CreateMedia(op) => &op.user,
        Op::CompleteMedia(op) => &op.user,
        Op::ReadMedia(op) => &op.user,
        Op::Schedule(op) => &op.user,
        Op::ChangeScheduled(op) => &op.user,
        Op::ReadScheduled(op) => &op.user,
        Op::Report(op) => &op.user,
        Op::ReadHeads(op) => &op.user,
        Op::Direct(op) => &op.user,
        Op::Follow(op) => op.groups.first().map_or("", String::as_str),
        Op::ChangeGroup(op) => std::str::from_utf8(&op.group).unwrap_or_default(),
        Op::Send(op) => match op.to.as_ref().and_then(|to| to.to.as_ref()) {
            // The conversation has checked it.
            Some(send_to::To::User(id) | send_to::To::Group(id)) => std::str::from_utf8(id).unwrap_or_default(),
            None => "",
        },
    }
}

fn hash(key: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
