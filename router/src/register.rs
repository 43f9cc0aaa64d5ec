//! All live sessions of the users that this router owns. Gateways open, announce and close them here, and tell which of
//! them another router owns by now. No entry expires by age, and nothing is concluded from a ring that a gateway may
//! have skipped.

use std::collections::HashSet;

use carillon_proto::{
    KeyedMap, LeaseId, UserId,
    pb::{client::Position, link::SessionPresence},
};

use crate::{companions::Companions, session::Session};

/// The live sessions of one partition's users. Bounded by the connections of the gateways (`max_connections` each) and
/// by the store's `max_devices_per_user`. A session takes some 300 bytes, including its user's entry in [`Companions`].
pub(crate) struct Register {
    users: KeyedMap<UserId, Online>,
    /// The number of sessions of each gateway. When a gateway ends, all sessions are scanned for its own: that is rare,
    /// and an index would take as much memory as the sessions.
    by_lease: KeyedMap<LeaseId, usize>,
    /// For each gateway that has announced all its sessions: by which link and ring.
    announced: KeyedMap<LeaseId, Announced>,
    companions: Companions,
    /// Users whose sessions show something else; whether another owner has told their contacts.
    touched: Vec<(UserId, bool)>,
}

/// A user who is signed in.
struct Online {
    /// The incarnation of the account.
    incarnation: u64,
    /// How far the inbox is known to reach.
    head: Position,
    /// A session was not told of it: it hears of its own messages by their answers, which may be lost.
    untold: bool,
    /// At least one.
    sessions: Vec<Session>,
}

/// By which link and ring a gateway has announced all.
struct Announced {
    link: u64,
    ring_version: u64,
}

impl Register {
    pub(crate) fn new(companions: Companions) -> Self {
        Self {
            users: KeyedMap::default(),
            by_lease: KeyedMap::default(),
            announced: KeyedMap::default(),
            companions,
            touched: Vec::new(),
        }
    }

    /// The number of sessions of all users.
    pub(crate) fn len(&self) -> usize {
        self.by_lease.values().sum()
    }

    /// The sessions of the account with this incarnation. Sessions of another owner of the name are not told about it.
    pub(crate) fn sessions(&self, user: &UserId, incarnation: u64) -> &[Session] {
        self.sessions_of(user.as_str(), incarnation)
    }

    /// Sessions of a name that may be no user's.
    pub(crate) fn sessions_of(&self, user: &str, incarnation: u64) -> &[Session] {
        match self.users.get(user) {
            Some(online) if online.incarnation == incarnation => &online.sessions,
            _ => &[],
        }
    }

    /// All sessions of the user, of any incarnation.
    pub(crate) fn all_sessions(&self, user: &UserId) -> &[Session] {
        self.users.get(user).map_or(&[], |online| &online.sessions)
    }

    /// The incarnation of the account to which exactly this session belongs, if it is here.
    pub(crate) fn knows(&self, user: &UserId, session: &Session) -> Option<u64> {
        let online = self.users.get(user)?;
        let is_it = |known: &Session| {
            known.has_handle(session.lease, session.connection)
                && (&known.device, known.generation) == (&session.device, session.generation)
        };
        online.sessions.iter().any(is_it).then_some(online.incarnation)
    }

    /// True if another session of this device is here.
    pub(crate) fn has_other(&self, user: &UserId, session: &Session) -> bool {
        let is_other =
            |known: &Session| known.device == session.device && !known.has_handle(session.lease, session.connection);
        self.users.get(user).is_some_and(|online| online.sessions.iter().any(is_other))
    }

    /// The store now has this session of the account with this incarnation, in place of older ones of the device.
    /// Returns the sessions of the name's previous owner, which are over.
    pub(crate) fn put(&mut self, user: &UserId, incarnation: u64, mut session: Session) -> Vec<Session> {
        let mut over = Vec::new();
        self.catch_up(user);
        match self.users.get(user) {
            // The name has a new owner by now, and this answer is late.
            Some(online) if online.incarnation > incarnation => return over,
            Some(online) if online.incarnation < incarnation => {
                over.clone_from(&online.sessions);
                self.retain(user, |_| false);
            }
            _ => {}
        }
        if let Some(known) = self.find(user, session.lease, session.connection) {
            // A message from an older link is outdated.
            session.link = session.link.max(known.link);
            // The presence that the session shows may have changed while this was on its way.
            if session.shown < known.shown {
                (session.presence, session.shown) = (known.presence.clone(), known.shown);
            } else if session.shown == known.shown {
                session.presence = session.presence.or_else(|| known.presence.clone());
            }
        }
        if session.presence.is_some() {
            self.touched.push((user.clone(), true));
        }
        self.retain(user, |known| known.device != session.device);
        *self.by_lease.entry(session.lease).or_default() += 1;
        let online = self.users.entry(user.clone()).or_insert_with(|| Online {
            incarnation,
            head: Position::default(),
            untold: false,
            sessions: Vec::with_capacity(1),
        });
        online.sessions.push(session);
        self.companions.changed(user, &online.sessions);
        over
    }

    /// Records that the inbox of this incarnation reaches at least this far. True if that is news.
    pub(crate) fn heard(&mut self, user: &UserId, incarnation: u64, position: Position) -> bool {
        let Some(online) = self.users.get_mut(user).filter(|online| online.incarnation == incarnation) else {
            return false;
        };
        // There is no inbox yet.
        if position.epoch == 0 {
            return false;
        }
        let is_news = online.head.epoch != position.epoch || online.head.seq < position.seq;
        if is_news {
            online.head = position;
        }
        is_news
    }

    /// Takes over how far the inbox reaches by the messages of the user's only session.
    pub(crate) fn catch_up(&mut self, user: &UserId) {
        let Some(sent) = self.companions.sent(user) else { return };
        let Some(online) = self.users.get_mut(user) else { return };
        // Which of two epochs is the later one is not known here; the next comparison with the store tells.
        if online.head.epoch == 0 || online.head.epoch == sent.epoch && online.head.seq < sent.seq {
            online.head = sent;
        }
        online.untold = true;
    }

    /// A session of the user was left out when the others were told of its message.
    pub(crate) fn left_out(&mut self, user: &UserId) {
        if let Some(online) = self.users.get_mut(user) {
            online.untold = true;
        }
    }

    /// True if, since the last call, a session was told of its own messages by nothing but their answers.
    pub(crate) fn take_untold(&mut self, user: &UserId) -> bool {
        self.users.get_mut(user).is_some_and(|online| std::mem::take(&mut online.untold))
    }

    /// How far the inbox of this user is known to reach, and the account's incarnation; `None` if unknown.
    pub(crate) fn head(&self, user: &UserId) -> Option<(u64, Position)> {
        let online = self.users.get(user)?;
        (online.head.epoch != 0).then_some((online.incarnation, online.head))
    }

    /// The incarnation of the account that is signed in.
    pub(crate) fn incarnation(&self, user: &UserId) -> Option<u64> {
        self.users.get(user).map(|online| online.incarnation)
    }

    /// The session was announced again on this link.
    pub(crate) fn told_again(&mut self, user: &UserId, session: &Session) {
        if let Some(known) = self.find(user, session.lease, session.connection) {
            known.link = known.link.max(session.link);
            let is_later = session.shown > known.shown || session.shown == known.shown && session.presence.is_some();
            if is_later {
                known.shown = session.shown;
            }
            if is_later && known.presence != session.presence {
                known.presence.clone_from(&session.presence);
                self.touched.push((user.clone(), true));
            }
        }
    }

    /// The session shows this from now on, which has this number. True if it showed nothing before, and shows something now; `None`: it is not
    /// here.
    pub(crate) fn show(
        &mut self,
        user: &UserId,
        lease: LeaseId,
        connection: u64,
        (presence, number): (Option<Box<SessionPresence>>, u64),
    ) -> Option<bool> {
        let known = self.find(user, lease, connection)?;
        if number < known.shown {
            return Some(false);
        }
        known.shown = number;
        if known.presence == presence {
            return Some(false);
        }
        let is_first = known.presence.is_none();
        known.presence = presence;
        self.touched.push((user.clone(), false));
        Some(is_first)
    }

    /// Users whose sessions have changed what they show, since the last call.
    pub(crate) fn take_touched(&mut self) -> Vec<(UserId, bool)> {
        std::mem::take(&mut self.touched)
    }

    /// As if these users had just come from another owner, if they show or hear something.
    pub(crate) fn touch(&mut self, which: impl Fn(&UserId) -> bool) {
        let has_presence = |online: &Online| online.sessions.iter().any(|session| session.presence.is_some());
        let users = self.users.iter().filter(|(user, online)| has_presence(online) && which(user));
        let mut users: Vec<_> = users.map(|(user, _)| (user.clone(), true)).collect();
        users.sort_unstable();
        self.touched.extend(users);
    }

    pub(crate) fn remove(&mut self, user: &UserId, lease: LeaseId, connection: u64) {
        self.retain(user, |known| !known.has_handle(lease, connection));
    }

    /// Removes a session that another router owns now, unless a newer link has announced it since.
    pub(crate) fn forget(&mut self, user: &UserId, lease: LeaseId, connection: u64, link: u64) {
        self.retain(user, |known| !known.has_handle(lease, connection) || known.link > link);
    }

    /// Removes the sessions of gateways whose leases have ended. Returns the users that have none any more, each with its last one.
    pub(crate) fn end_leases(&mut self, has_ended: impl Fn(LeaseId) -> bool) -> Vec<(UserId, Session)> {
        self.announced.retain(|lease, _| !has_ended(*lease));
        let ended: HashSet<LeaseId> = self.by_lease.keys().copied().filter(|lease| has_ended(*lease)).collect();
        if ended.is_empty() {
            return Vec::new();
        }
        let all_ended = |online: &Online| online.sessions.iter().all(|known| ended.contains(&known.lease));
        let gone = self.users.iter().filter(|(_, online)| all_ended(online));
        let gone = gone.filter_map(|(user, online)| Some((user.clone(), online.sessions.last()?.clone()))).collect();
        self.retain_all(|known| !ended.contains(&known.lease));
        gone
    }

    /// The gateway has announced all of its sessions here by the ring of this version. Sessions that it announced only
    /// on an earlier link no longer exist.
    pub(crate) fn announced_all(&mut self, lease: LeaseId, link: u64, ring_version: u64) {
        let before = self.announced.insert(lease, Announced { link, ring_version });
        // Later on the same link, the gateway reports each session that moves away.
        if before.is_none_or(|before| before.link != link) {
            self.retain_all(|known| known.lease != lease || known.link >= link);
        }
    }

    /// The number of these gateways that have not announced all their sessions by this ring. While there is one, no
    /// user can be said to be offline.
    pub(crate) fn missing(&self, gateways: impl Iterator<Item = LeaseId>, ring_version: u64) -> usize {
        let has = |lease: &LeaseId| self.announced.get(lease).is_some_and(|said| said.ring_version >= ring_version);
        gateways.filter(|lease| !has(lease)).count()
    }

    fn find(&mut self, user: &UserId, lease: LeaseId, connection: u64) -> Option<&mut Session> {
        self.users.get_mut(user)?.sessions.iter_mut().find(|known| known.has_handle(lease, connection))
    }

    fn retain(&mut self, user: &UserId, stays: impl Fn(&Session) -> bool) {
        let Some(online) = self.users.get_mut(user) else { return };
        let before = online.sessions.len();
        if take_out(online, &mut self.by_lease, stays) {
            self.touched.push((user.clone(), false));
        }
        if online.sessions.len() != before {
            self.companions.changed(user, &online.sessions);
            if online.sessions.is_empty() {
                self.users.remove(user);
            }
        }
    }

    fn retain_all(&mut self, stays: impl Fn(&Session) -> bool) {
        let (by_lease, companions, touched) = (&mut self.by_lease, &self.companions, &mut self.touched);
        self.users.retain(|user, online| {
            let before = online.sessions.len();
            if take_out(online, by_lease, &stays) {
                touched.push((user.clone(), false));
            }
            if online.sessions.len() != before {
                companions.changed(user, &online.sessions);
            }
            !online.sessions.is_empty()
        });
    }
}

/// True if one of them showed something.
fn take_out(online: &mut Online, by_lease: &mut KeyedMap<LeaseId, usize>, stays: impl Fn(&Session) -> bool) -> bool {
    let mut showed = false;
    online.sessions.retain(|known| {
        let stays = stays(known);
        showed |= !stays && known.presence.is_some();
        if !stays && let Some(count) = by_lease.get_mut(&known.lease) {
            *count -= 1;
            if *count == 0 {
                by_lease.remove(&known.lease);
            }
        }
        stays
    });
    showed
}

#[cfg(test)]
mod tests;
