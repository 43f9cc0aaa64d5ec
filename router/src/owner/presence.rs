//! What sessions show, and what contacts are told of it.

use std::collections::BTreeMap;

use carillon_proto::{
    LeaseId, Level, UserId,
    pb::{
        client::{Presence, Show},
        link::{self, ContactNews, Presences, Probe, SessionPresence, SetPresence, Signaled, signaled::Notice},
        store::{Person, ReadContacts, store_request},
    },
};
use tokio::time::Instant;

use super::{Answer, Continuation, Effect, Owner, READ_USER};
use crate::{
    presence::{Current, Shown, shown},
    reply::Failure,
    said::Said,
    send::RequestContext,
    store::{StoreAnswer, StoreFailure},
};

/// Presences in one message, and bytes of them.
const PRESENCES: usize = 128;
const PRESENCE_BYTES: usize = 16 * 1024;
const MAX_STATUS_BYTES: usize = 1024;

impl Owner {
    pub(super) fn set_presence(&mut self, set: SetPresence, parts: RequestContext, now: Instant) {
        if Level(self.topology.view.level) < Level::GROUPS {
            return self.refuse(parts.slot, &Failure::Contacts);
        }
        let SetPresence { connection, presence, again, .. } = set;
        if presence.as_ref().is_some_and(|presence| presence.status.len() > MAX_STATUS_BYTES) {
            return self.refuse(parts.slot, &Failure::Invalid("status is longer than 1024 bytes"));
        }
        let RequestContext { user, lease, slot, .. } = parts;
        let is_first = self.register.show(&user, lease, connection, shows(presence));
        self.presence_settles(now);
        if again || is_first {
            self.presences.asks_again(&user, now);
        }
        // A session that is not known here brings its presence when it is announced.
        self.end(slot, Ok(Answer::Done(link::Done {})));
    }

    /// Notes whose sessions have changed.
    pub(crate) fn presence_settles(&mut self, now: Instant) {
        for (user, moved) in self.register.take_touched() {
            let incarnation = self.register.incarnation(&user);
            let shown = shown(self.register.all_sessions(&user));
            match incarnation {
                Some(incarnation) => self.presences.touch(&user, incarnation, shown.as_ref(), moved, now),
                None => self.presences.gone(&user, now),
            }
        }
    }

    /// When `look_at_presences` is due.
    pub(crate) fn presences_due(&self) -> Option<Instant> {
        self.presences.due()
    }

    pub(crate) fn look_at_presences(&mut self, now: Instant) {
        let (users, again) = self.presences.take_due(now);
        self.effects.extend(again.into_iter().map(Effect::Say));
        for user in users {
            let current = self.current(&user);
            if self.presences.look(&user, &current, now)
                && let Some(incarnation) = self.presences.incarnation(&user)
            {
                let read = ReadContacts {
                    user: user.as_str().to_owned(),
                    incarnation,
                    subscribed: true,
                    ..ReadContacts::default()
                };
                let shard = self.topology.shards.directory_of(&user);
                let op = store_request::Op::ReadContacts(read);
                self.ask(shard, op, String::new(), now + READ_USER, Continuation::Watchers(user, incarnation));
            }
        }
    }

    fn current(&self, user: &UserId) -> Current {
        let sessions = self.register.all_sessions(user);
        Current { shown: shown(sessions), has_sessions: !sessions.is_empty(), all_announced: self.missing() == 0 }
    }

    pub(super) fn watchers_read(
        &mut self,
        user: &UserId,
        incarnation: u64,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
        time_ms: u64,
    ) {
        let read = match answer {
            Ok(StoreAnswer::ContactsRead(read)) => Some(read),
            // The account has ended: the store has told its contacts.
            Err(StoreFailure::Gone { .. }) => return self.presences.forget(user),
            _ => None,
        };
        let current = self.current(user);
        let Some(telling) = self.presences.read(user, incarnation, read.as_ref(), &current, now) else { return };
        let read = read.unwrap_or_default();
        let people = |which: fn(&carillon_proto::pb::store::Contact) -> bool| -> Vec<Person> {
            let rows = read.contacts.iter().filter_map(|row| Some((&row.contact, row.row.as_ref()?)));
            let which = rows.filter(|(_, row)| which(row));
            which.map(|(user, row)| Person { user: user.clone(), incarnation: row.peer }).collect()
        };
        if telling.tells {
            let shown = current.shown.as_ref().filter(|_| !read.hidden);
            self.tell_presence(user, shown, people(|row| row.from), time_ms);
        }
        if telling.probes {
            let from = Some(Person { user: user.as_str().to_owned(), incarnation });
            let of = people(|row| row.to);
            if !of.is_empty() {
                self.effects.push(Effect::Say(Said::Probe(Probe { from, of })));
            }
            // Whatever was missed of the list shows by its version.
            let version = ContactNews { before: read.version, version: read.version, ..ContactNews::default() };
            self.signal_to(user, incarnation, Notice::ContactNews(Box::new(version)));
        }
        for from in telling.asking {
            let of = vec![Person { user: user.as_str().to_owned(), incarnation }];
            self.probed(Probe { from: Some(from), of }, now, time_ms);
        }
    }

    pub(super) fn tell_presence(&mut self, user: &UserId, shown: Option<&Shown>, to: Vec<Person>, time_ms: u64) {
        if !to.is_empty() {
            let presences = vec![self.presence(user.as_str(), shown, time_ms)];
            self.effects.push(Effect::Say(Said::Presences(Presences { presences, to })));
        }
    }

    fn presence(&mut self, user: &str, shown: Option<&Shown>, time_ms: u64) -> Presence {
        self.presences.presence(user, shown, self.topology.ring.version(), time_ms)
    }

    /// An owner of other users, perhaps this router, has said this about users of this partition.
    pub(crate) fn said(&mut self, said: Said, now: Instant, time_ms: u64) {
        match said {
            Said::Presences(presences) => self.presences_told(presences),
            Said::Probe(probe) => self.probed(probe, now, time_ms),
            Said::News(news) => self.contact_news(*news, time_ms),
            Said::Scheduled(news) => self.scheduled_news(news),
        }
    }

    /// It could not be passed on just now.
    pub(crate) fn unsaid(&mut self, said: Said, now: Instant) {
        self.presences.unsaid(said, now);
    }

    /// The gateway had no room for what its sessions are to know: they ask again.
    pub(crate) fn signals_dropped(&mut self, gateway: LeaseId, now: Instant) {
        let register = &self.register;
        let is_there = |user: &UserId| register.all_sessions(user).iter().any(|session| session.lease == gateway);
        self.presences.all_ask_again(is_there, now);
    }

    /// What was said to any user may have been lost.
    pub(crate) fn presences_in_doubt(&mut self, now: Instant) {
        self.presences.all_ask_again(|_| true, now);
    }

    pub(super) fn presences_told(&mut self, Presences { presences, to }: Presences) {
        let mut gateways: BTreeMap<LeaseId, Vec<u64>> = BTreeMap::new();
        for Person { user, incarnation } in &to {
            let Ok(user) = UserId::new(user) else { continue };
            let hears = |presence: &&Presence| !self.presences.blocks(&user, &presence.user);
            let heard = presences.iter().filter(hears).count();
            if heard < presences.len() {
                let presences: Vec<_> = presences.iter().filter(hears).cloned().collect();
                if !presences.is_empty() {
                    let to = vec![Person { user: user.as_str().to_owned(), incarnation: *incarnation }];
                    self.presences_told(Presences { presences, to });
                }
                continue;
            }
            let sessions = self.register.sessions(&user, *incarnation).iter();
            for session in sessions.filter(|session| session.presence.is_some()) {
                gateways.entry(session.lease).or_default().push(session.connection);
            }
        }
        for (gateway, connections) in gateways {
            let what = Notice::Presences(Presences { presences: presences.clone(), to: Vec::new() });
            let signal = Signaled { connections, notice: Some(what), ..Signaled::default() };
            self.effects.push(Effect::Signal(gateway, signal));
        }
    }

    fn probed(&mut self, Probe { from, of }: Probe, now: Instant, time_ms: u64) {
        let Some(from) = from else { return };
        let is_known = self.missing() == 0;
        let (mut presences, mut bytes, mut unknown) = (Vec::new(), 0, Vec::new());
        for contact in of {
            let Ok(user) = UserId::new(&contact.user) else { continue };
            let shown = match self.presences.may_see(&user, contact.incarnation, &from, now) {
                Some(true) => shown(self.register.sessions(&user, contact.incarnation)),
                Some(false) => None,
                // Answered when that is known.
                None => continue,
            };
            if shown.is_none() && !is_known {
                unknown.push(contact);
                continue;
            }
            let presence = self.presence(&contact.user, shown.as_ref(), time_ms);
            bytes += presence.status.len() + presence.user.len() + 32;
            presences.push(presence);
            if presences.len() >= PRESENCES || bytes >= PRESENCE_BYTES {
                let (presences, to) = (std::mem::take(&mut presences), vec![from.clone()]);
                self.effects.push(Effect::Say(Said::Presences(Presences { presences, to })));
                bytes = 0;
            }
        }
        if !presences.is_empty() {
            self.effects.push(Effect::Say(Said::Presences(Presences { presences, to: vec![from.clone()] })));
        }
        if !unknown.is_empty() {
            self.presences.unsaid(Said::Probe(Probe { from: Some(from), of: unknown }), now);
        }
    }

    /// A row of the user's list has changed: the user's sessions are told, and the contact, if it sees the user from now on or no
    /// longer.
    pub(super) fn contact_news(&mut self, news: ContactNews, time_ms: u64) {
        let Some(Person { user, incarnation }) = news.user.clone() else { return };
        let Ok(user) = UserId::new(&user) else { return };
        if let Some(row) = &news.row {
            let contact = Person { user: news.contact.clone(), incarnation: row.peer };
            if self.presences.set_watcher(&user, incarnation, &contact, row.from) {
                let shown = shown(self.register.sessions(&user, incarnation)).filter(|_| row.from);
                self.tell_presence(&user, shown.as_ref(), vec![contact], time_ms);
            }
        }
        self.signal_to(&user, incarnation, Notice::ContactNews(Box::new(news)));
    }

    /// To all sessions of the user; each gateway knows which of them want to know.
    pub(super) fn signal_to(&mut self, user: &UserId, incarnation: u64, what: Notice) {
        let mut gateways: BTreeMap<LeaseId, Vec<u64>> = BTreeMap::new();
        for session in self.register.sessions(user, incarnation) {
            gateways.entry(session.lease).or_default().push(session.connection);
        }
        for (gateway, connections) in gateways {
            let signal = Signaled { connections, notice: Some(what.clone()), ..Signaled::default() };
            self.effects.push(Effect::Signal(gateway, signal));
        }
    }
}

/// `None`: nothing.
pub(super) fn shows(presence: Option<SessionPresence>) -> Option<Box<SessionPresence>> {
    presence.filter(|presence| !matches!(presence.show(), Show::Unspecified)).map(Box::new)
}
