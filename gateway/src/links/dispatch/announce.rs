//! Announcements of sessions to their routers.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::pb::{
    client::Code,
    link::{Announce, CloseSession, OpenSession, Refusal, evict::Why, router_reply, router_request::Op},
    store::Session,
};

use super::{Asker, Dispatch, Effect, Live, PARTS, Submit, Word};

/// Most unanswered announcements of one partition. Further ones wait, so that a restarted router is not flooded.
const MAX_ANNOUNCING: usize = 512 / PARTS;
/// Most sessions of one partition whose closing failed and is retried. The rows of further ones stay until the lease
/// ends, or until the device's next sign-in.
const MAX_UNCLOSED: usize = 16_384 / PARTS;
pub(super) const CLOSE_AGAIN: Duration = Duration::from_secs(1);
/// Pause before a failed announcement is repeated.
pub(super) const ANNOUNCE_AGAIN: Duration = Duration::from_millis(500);

/// An open session was asked to continue with another token. From now on it is announced as stored.
pub(super) fn renewed(live: &mut Live, open: &OpenSession, result: &Result<router_reply::Result, Refusal>) {
    if let (Ok(router_reply::Result::SessionOpened(opened)), Some(session)) = (result, &open.session)
        && !opened.replaced
    {
        let (lease, generation) = (live.session.lease, opened.generation);
        live.session = Session { lease, generation, ..session.clone() };
    }
}

impl<C> Dispatch<C> {
    pub(super) fn new_lease(&mut self, now: Instant, lease: Option<u64>, out: &mut Vec<Effect<C>>) {
        self.lease = lease;
        let Some(lease) = lease else { return };
        self.untold = true;
        self.queue_where(|live, _| live.session.lease != lease);
        self.pump_all(now, out);
        self.announce(now, out);
    }

    pub(super) fn opened(
        &mut self,
        now: Instant,
        connection: u64,
        result: &Result<router_reply::Result, Refusal>,
        an_earlier_try_may_be_done: bool,
        out: &mut Vec<Effect<C>>,
    ) {
        self.opening.remove(&connection);
        let Some(live) = self.sessions.get_mut(&connection) else { return };
        match result {
            Ok(router_reply::Result::SessionOpened(opened)) => live.session.generation = opened.generation,
            // The closing of the session follows, or is in flight, and removes the session.
            Ok(_) => return,
            Err(_) if live.closing => return,
            // No router knows it.
            Err(_) if live.known_at.is_none() => return drop(self.sessions.remove(&connection)),
            // The session may be stored: routers would push to a session without a connection.
            Err(why) if an_earlier_try_may_be_done || may_be_stored(why) => {
                live.closing = true;
                return self.close(now, connection, out);
            }
            Err(_) => return drop(self.sessions.remove(&connection)),
        }
        live.open = true;
        let owner = self.ring.owner(&live.session.user).map(|owner| owner.address.as_str());
        if owner != live.known_at.as_deref() || self.lease != Some(live.session.lease) {
            queue(&mut self.to_announce, connection, live);
        }
    }

    pub(super) fn announce(&mut self, now: Instant, out: &mut Vec<Effect<C>>) {
        while self.announcing < MAX_ANNOUNCING {
            let Some(connection) = self.to_announce.pop_front() else { return };
            let Some(live) = self.sessions.get_mut(&connection) else { continue };
            live.queued = false;
            if live.closing {
                continue;
            }
            // The presence of the session is added when the announcement goes out.
            let op = Op::Announce(Announce { session: Some(live.session.clone()), presence: None });
            // Without a link or a lease: whatever restores them queues all sessions again.
            if self.target(&op).is_some() {
                self.announcing += 1;
                self.begin(now, Asker::Announcer, Submit::unasked(connection, op), out);
            }
        }
    }

    pub(super) fn announced(
        &mut self,
        now: Instant,
        connection: u64,
        result: Result<router_reply::Result, Refusal>,
        out: &mut Vec<Effect<C>>,
    ) {
        self.announcing = self.announcing.saturating_sub(1);
        match result {
            Ok(router_reply::Result::SessionOpened(opened)) if opened.replaced => {
                out.push(Effect::Over { connection, why: Why::Replaced });
            }
            Ok(router_reply::Result::SessionOpened(opened)) => {
                out.push(Effect::Announced { connection, heads: opened.heads });
            }
            // If asked again, the router would say the same.
            Err(why) if why.code() == Code::Unauthenticated => {
                out.push(Effect::Over { connection, why: Why::Credentials });
            }
            Err(why) if why.code() == Code::NotFound => out.push(Effect::Over { connection, why: Why::Deleted }),
            _ => self.announce_again.push_back((now + ANNOUNCE_AGAIN, connection)),
        }
    }

    /// Tells each router, once for each ring and link, that all its sessions are announced.
    pub(super) fn tell_all(&mut self, out: &mut Vec<Effect<C>>) {
        if !self.untold {
            return;
        }
        let waits = !self.to_announce.is_empty() || self.announcing > 0 || !self.announce_again.is_empty();
        if waits || !self.opening.is_empty() || self.lease.is_none() {
            return;
        }
        // A router without a link is told on its next one.
        self.untold = false;
        let version = self.ring.version();
        for router in self.ring.routers() {
            let Some(address) = self.up.get(router.address.as_str()) else { continue };
            if self.told_all.get(address) != Some(&version) {
                self.told_all.insert(Arc::clone(address), version);
                out.push(Effect::Tell { to: Arc::clone(address), word: Word::AnnouncedAll(version) });
            }
        }
    }

    fn close(&mut self, now: Instant, connection: u64, out: &mut Vec<Effect<C>>) {
        let Some(live) = self.sessions.get(&connection) else { return };
        let op = Op::CloseSession(CloseSession { session: Some(live.session.clone()) });
        self.begin(now, Asker::Nobody, Submit::unasked(connection, op), out);
    }

    /// A session was closed, or could not be: then its row remains, and closing is retried.
    pub(super) fn closed(&mut self, now: Instant, connection: u64, result: &Result<router_reply::Result, Refusal>) {
        let again = result.as_ref().is_err_and(may_be_stored) && self.unclosed.len() < MAX_UNCLOSED;
        match self.sessions.get(&connection) {
            // Under another lease its row means nothing.
            Some(live) if again && self.lease == Some(live.session.lease) => {
                self.unclosed.push_back((now + CLOSE_AGAIN, connection));
            }
            _ => {
                self.sessions.remove(&connection);
                self.opening.remove(&connection);
            }
        }
    }

    pub(super) fn close_again(&mut self, now: Instant, out: &mut Vec<Effect<C>>) {
        while self.unclosed.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, connection)) = self.unclosed.pop_front() else { break };
            self.close(now, connection, out);
        }
    }

    /// The sessions whose announcement failed a while ago.
    pub(super) fn queue_again(&mut self, now: Instant) {
        while self.announce_again.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, connection)) = self.announce_again.pop_front() else { break };
            if let Some(live) = self.sessions.get_mut(&connection) {
                queue(&mut self.to_announce, connection, live);
            }
        }
    }

    pub(super) fn queue_owned_by(&mut self, address: &str) {
        self.queue_where(|_, owner| owner == Some(address));
    }

    /// The link ended: none of these sessions counts as known to that router.
    pub(super) fn known_nowhere(&mut self, address: &Arc<str>) {
        for live in self.sessions.values_mut() {
            // For a session that is still being opened, it must be remembered whether any router knows it.
            if live.open && live.known_at.as_ref() == Some(address) {
                live.known_at = None;
            }
        }
    }

    /// The sessions that their owner does not know.
    pub(super) fn queue_moved(&mut self) {
        // A session that is being closed was answered already, or means nothing any more.
        let being_opened =
            self.sessions.iter().filter(|(_, live)| !live.open && !live.closing && live.known_at.is_some());
        self.opening.extend(being_opened.map(|(connection, _)| *connection));
        self.queue_where(|live, owner| owner.is_some() && owner != live.known_at.as_deref());
    }

    /// In the order of connections. `which` gets the session and the address of its owner.
    fn queue_where(&mut self, which: impl Fn(&Live, Option<&str>) -> bool) {
        let before = self.to_announce.len();
        for (connection, live) in &mut self.sessions {
            let owner = self.ring.owner(&live.session.user).map(|owner| owner.address.as_str());
            if which(live, owner) {
                queue(&mut self.to_announce, *connection, live);
            }
        }
        self.to_announce.make_contiguous()[before..].sort_unstable();
    }
}

/// True if the session may have been stored although the router refused to open it.
fn may_be_stored(why: &Refusal) -> bool {
    matches!(why.code(), Code::Unavailable | Code::Internal)
}

fn queue(to_announce: &mut VecDeque<u64>, connection: u64, live: &mut Live) {
    // A session that is still being opened is checked again when it is open.
    if live.open && !live.closing && !live.queued {
        live.queued = true;
        to_announce.push_back(connection);
    }
}
