//! Which sessions are announced to which router, and when.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use carillon_proto::pb::link::{Announce, Refusal, router_reply, router_request::Op};

use super::{Asker, Dispatch, Effect, Live};

/// Announcements without an answer. More wait their turn, so that a restarted router is not flooded.
const MAX_ANNOUNCING: usize = 512;
/// Before an announcement that failed is repeated.
pub(super) const ANNOUNCE_AGAIN: Duration = Duration::from_millis(500);

impl<C> Dispatch<C> {
    pub(super) fn new_lease(&mut self, now: Instant, lease: Option<u64>, out: &mut Vec<Effect<C>>) {
        self.lease = lease;
        let Some(lease) = lease else { return };
        self.queue_where(|live, _| live.session.lease != lease);
        self.pump_all(now, out);
        self.announce(now, out);
    }

    pub(super) fn opened(&mut self, connection: u64, ok: bool) {
        let Some(live) = self.sessions.get_mut(&connection) else { return };
        live.open = ok;
        let owner = self.ring.owner(&live.session.user).map(|owner| owner.address.as_str());
        if ok && (owner != live.known_at.as_deref() || self.lease != Some(live.session.lease)) {
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
            let op = Op::Announce(Announce { session: Some(live.session.clone()) });
            // Without a link or a lease: whatever brings it queues all sessions again.
            if self.target(&op).is_some() {
                self.announcing += 1;
                self.begin(now, connection, Asker::Announcer, op, String::new(), out);
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
            Ok(router_reply::Result::SessionOpened(opened)) => {
                let effect = Effect::Announced { connection, heads: opened.heads, replaced: opened.replaced };
                out.push(effect);
            }
            _ => self.announce_again.push_back((now + ANNOUNCE_AGAIN, connection)),
        }
    }

    /// Those that failed a while ago.
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

    /// Those whose owner does not know them.
    pub(super) fn queue_moved(&mut self) {
        self.queue_where(|live, owner| owner.is_some() && owner != live.known_at.as_deref());
    }

    /// In the order of connections. `which` is given the session and the address of its owner.
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

fn queue(to_announce: &mut VecDeque<u64>, connection: u64, live: &mut Live) {
    // One that is still being opened is looked at again when it is.
    if live.open && !live.closing && !live.queued {
        live.queued = true;
        to_announce.push_back(connection);
    }
}
