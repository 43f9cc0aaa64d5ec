//! What sessions show, and what contacts are told of it.

use std::{collections::BTreeMap, sync::Arc};

use carillon_proto::{
    LeaseId, Level, ShardId, UserId,
    pb::{
        client::{Presence, Show},
        link::{self, ContactNews, Presences, Probe, SessionPresence, SetPresence, Signaled, signaled::Notice},
        store::{
            Allowed, BlockedUser, ContactsRead, DeleteSession, Person, ReadAllowed, ReadContacts, directory_command,
            store_request,
        },
    },
};
use tokio::time::Instant;

use super::{Answer, Continuation, Effect, Owner, READ_USER};
use crate::{
    departures::Departure,
    part::part_of,
    partition::PARTITIONS,
    presence::{Current, Shown, audience::Audience, shown},
    reply::Failure,
    said::Said,
    send::RequestContext,
    session::Session,
    store::{StoreAnswer, StoreFailure},
};

/// Presences in one message, and bytes of them.
const PRESENCES: usize = 128;
const PRESENCE_BYTES: usize = 16 * 1024;
const MAX_STATUS_BYTES: usize = 1024;
/// Most users about whom one read asks.
const ALLOWED: usize = 256;
const LAST_SEEN_MS: u64 = 60_000;

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
        // Its announcement is on its way or waits, with what it showed before perhaps.
        let Some(is_first) = self.register.show(&user, lease, connection, shows(presence)) else {
            return self.refuse(slot, &Failure::NotAnnounced);
        };
        self.presence_settles(now);
        if again || is_first {
            self.presences.asks_again(&user, now);
        }
        self.end(slot, Ok(Answer::Done(link::Done {})));
    }

    /// Notes whose sessions have changed.
    pub(crate) fn presence_settles(&mut self, now: Instant) {
        for (user, moved) in self.register.take_touched() {
            // Another router owns the user, and tells the contacts. The session came late, or is about to be forgotten.
            if !self.topology.owns(user.as_str()) {
                self.presences.forget(&user);
                continue;
            }
            let incarnation = self.register.incarnation(&user);
            let mut current = self.current(&user);
            // A gateway that has registered after the ring was made has had another lease, under which its sessions ended.
            let sessions = self.register.all_sessions(&user);
            current.all_announced |= sessions.iter().any(|session| session.lease.0 > self.topology.ring.version());
            match incarnation {
                Some(incarnation) => self.presences.touch(&user, incarnation, &current, moved, now),
                None => self.presences.gone(&user, now),
            }
        }
    }

    /// When `look_at_presences` is due.
    pub(crate) fn presences_due(&self) -> Option<Instant> {
        [self.presences.due(), self.departures.due()].into_iter().flatten().min()
    }

    pub(crate) fn look_at_presences(&mut self, now: Instant, time_ms: u64) {
        self.tell_departures(now, time_ms);
        let (users, again) = self.presences.take_due(now);
        self.effects.extend(again.into_iter().map(Effect::Say));
        for user in users {
            let current = self.current(&user);
            if self.presences.look(&user, &current, now)
                && let Some(incarnation) = self.presences.incarnation(&user)
            {
                let known = self.audiences.get(&user, incarnation).filter(|_| !self.presences.needs_contacts(&user));
                let versions = known.as_ref().map_or((0, 0), |known| (known.version, known.privacy_version));
                let read = ReadContacts {
                    user: user.as_str().to_owned(),
                    incarnation,
                    subscribed: true,
                    known: versions.0,
                    known_privacy: versions.1,
                    ..ReadContacts::default()
                };
                let shard = self.topology.shards.directory_of(&user);
                let op = store_request::Op::ReadContacts(read);
                self.ask(shard, op, String::new(), now + READ_USER, Continuation::Watchers(user, incarnation, known));
            }
        }
    }

    /// The store learns when users were last there whose gateway has ended, unless they have come back.
    fn tell_departures(&mut self, now: Instant, time_ms: u64) {
        for departure in self.departures.take_due(now) {
            if !self.register.all_sessions(&departure.user).is_empty() {
                continue;
            }
            let Session { device, lease, connection, generation, .. } = &departure.session;
            let ago = now.saturating_duration_since(departure.at).as_millis() as u64;
            let delete = DeleteSession {
                user: departure.user.as_str().to_owned(),
                device: device.to_string(),
                lease: lease.0,
                connection: *connection,
                time_ms: time_ms.saturating_sub(ago),
                generation: *generation,
            };
            let (user, op) = (departure.user.clone(), directory_command::Op::DeleteSession(delete));
            self.directory_write(&user, op, now + READ_USER, Continuation::Departed(Box::new(departure)));
        }
    }

    pub(super) fn departed(&mut self, departure: Departure, answer: &Result<StoreAnswer, StoreFailure>, now: Instant) {
        if answer.is_err() {
            self.departures.failed(departure, now);
        }
    }

    fn current(&self, user: &UserId) -> Current {
        let sessions = self.register.all_sessions(user);
        Current {
            shown: shown(sessions),
            hears: sessions.iter().any(|session| session.presence.is_some()),
            has_sessions: !sessions.is_empty(),
            all_announced: self.missing() == 0,
        }
    }

    pub(super) fn watchers_read(
        &mut self,
        user: &UserId,
        (incarnation, known): (u64, Option<Arc<Audience>>),
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
        time_ms: u64,
    ) {
        let read = match answer {
            // Without versions in the question there is no such answer.
            Ok(StoreAnswer::ContactsRead(read)) if read.unchanged && known.is_none() => None,
            Ok(StoreAnswer::ContactsRead(read)) => Some(read),
            // The account has ended: the store has told its contacts.
            Err(StoreFailure::Gone { .. }) => return self.presences.forget(user),
            _ => None,
        };
        let (read, parted) = read.map(|read| self.within_reach(user, incarnation, read)).unzip();
        self.tell_presence(user, None, parted.unwrap_or_default(), time_ms);
        let current = self.current(user);
        let Some(telling) = self.presences.read(user, incarnation, read.as_ref(), &current, now) else { return };
        let read = read.unwrap_or_default();
        let people = |which: fn(&carillon_proto::pb::store::Contact) -> bool| -> Vec<Person> {
            let rows = read.contacts.iter().filter_map(|row| Some((&row.contact, row.row.as_ref()?)));
            let which = rows.filter(|(_, row)| which(row));
            which.map(|(user, row)| Person { user: user.clone(), incarnation: row.peer }).collect()
        };
        #[cfg(feature = "planted-bugs")]
        let telling = match crate::planted::keeps_offline() && !current.has_sessions {
            true => crate::presence::Telling { tells: false, ..telling },
            false => telling,
        };
        if telling.tells {
            let shown = current.shown.as_ref().filter(|_| !telling.hidden);
            let last_seen_ms =
                telling.last_seen.map_or(0, |ago| last_seen(time_ms.saturating_sub(ago.as_millis() as u64)));
            let presence = Presence { last_seen_ms, ..self.presence(user.as_str(), shown, time_ms) };
            #[cfg(feature = "planted-bugs")]
            if crate::planted::shows_to_all() {
                self.tell(presence.clone(), people(|row| !row.from));
            }
            let audience = known.filter(|_| read.unchanged).unwrap_or_else(|| {
                let partition = |user: &str| part_of(user, PARTITIONS);
                let audience = Arc::new(Audience::new(incarnation, &read, &self.topology, partition));
                self.audiences.keep(user, &audience);
                audience
            });
            if !audience.is_empty() {
                self.effects.push(Effect::Update(presence, audience));
            }
        } else if !telling.new.is_empty()
            && let Some(shown) = self.presences.told(user, incarnation).cloned()
        {
            let new = people(|row| row.from).into_iter().filter(|contact| telling.is_new(contact)).collect();
            self.tell_presence(user, Some(&shown), new, time_ms);
        }
        if telling.probes {
            let from = Some(Person { user: user.as_str().to_owned(), incarnation });
            let of = people(|row| row.to);
            if !of.is_empty() {
                let last_seen = telling.probes_last_seen;
                self.effects.push(Effect::Say(Said::Probe(Probe { from, of, last_seen })));
            }
            // Whatever was missed of the list shows by its version.
            let version = ContactNews { before: read.version, version: read.version, ..ContactNews::default() };
            self.signal_to(user, incarnation, Notice::ContactNews(Box::new(version)));
        }
        for from in telling.asking {
            let of = vec![Person { user: user.as_str().to_owned(), incarnation }];
            self.probed(Probe { from: Some(from), of, last_seen: true }, now, time_ms);
        }
    }

    /// The contacts without those of domains that do not talk to the user's, and which of those saw the user until now.
    fn within_reach(&self, user: &UserId, incarnation: u64, mut read: ContactsRead) -> (ContactsRead, Vec<Person>) {
        let mut parted = Vec::new();
        read.contacts.retain(|row| {
            let is_within = self.topology.domains.allow_ids(user.as_str(), &row.contact);
            if !is_within && let Some(row_of) = &row.row {
                let contact = Person { user: row.contact.clone(), incarnation: row_of.peer };
                parted.extend(Some(contact).filter(|contact| self.presences.is_watcher(user, incarnation, contact)));
            }
            is_within
        });
        (read, parted)
    }

    pub(super) fn tell_presence(&mut self, user: &UserId, shown: Option<&Shown>, to: Vec<Person>, time_ms: u64) {
        let presence = self.presence(user.as_str(), shown, time_ms);
        self.tell(presence, to);
    }

    fn tell(&mut self, presence: Presence, to: Vec<Person>) {
        if !to.is_empty() {
            self.effects.push(Effect::Say(Said::Presences(Presences { presences: vec![presence], to, asked: false })));
        }
    }

    fn presence(&mut self, user: &str, shown: Option<&Shown>, time_ms: u64) -> Presence {
        self.presences.presence(user, shown, self.topology.ring.version(), time_ms)
    }

    /// An owner of other users, perhaps this router, has said this about users of this partition.
    pub(crate) fn said(&mut self, said: Said, now: Instant, time_ms: u64) {
        match said {
            Said::Presences(presences) => self.presences_told(presences),
            Said::Update(update) => self.presence_to_sessions(vec![update.presence], false, update.to.iter()),
            Said::Probe(probe) => self.probed(probe, now, time_ms),
            Said::News(news) => self.contact_news(*news, now, time_ms),
            Said::Scheduled(news) => self.scheduled_news(news),
        }
    }

    /// These words could not be passed on just now: they are said again.
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

    pub(super) fn presences_told(&mut self, Presences { presences, to, asked }: Presences) {
        self.presence_to_sessions(presences, asked, to.iter().map(|person| (&*person.user, person.incarnation)));
    }

    /// The sessions of these users are told, once for each gateway.
    fn presence_to_sessions<'a>(
        &mut self,
        presences: Vec<Presence>,
        asked: bool,
        to: impl Iterator<Item = (&'a str, u64)>,
    ) {
        let says_last_seen = presences.iter().any(|presence| presence.last_seen_ms != 0);
        let mut gateways: BTreeMap<LeaseId, Vec<u64>> = BTreeMap::new();
        let mut others = Vec::new();
        for (user, incarnation) in to {
            // Nobody sees who is beyond reach, but that it is gone.
            let is_beyond = |presence: &Presence| {
                presence.show() != Show::Unspecified && !self.topology.domains.allow_ids(user, &presence.user)
            };
            let blocks = |presence: &Presence| self.presences.blocks(user, &presence.user) || is_beyond(presence);
            let hides = says_last_seen && self.presences.hides_last_seen(user);
            if hides || presences.iter().any(blocks) {
                let heard = presences.iter().filter(|presence| !blocks(presence)).cloned();
                let heard = heard.map(|presence| match hides {
                    true => Presence { last_seen_ms: 0, ..presence },
                    false => presence,
                });
                let to = vec![Person { user: user.to_owned(), incarnation }];
                others.push(Presences { presences: heard.collect(), to, asked });
                continue;
            }
            let sessions = self.register.sessions_of(user, incarnation).iter();
            for session in sessions.filter(|session| session.presence.is_some()) {
                gateways.entry(session.lease).or_default().push(session.connection);
            }
        }
        for (gateway, connections) in gateways {
            let what = Notice::Presences(Presences { presences: presences.clone(), to: Vec::new(), asked });
            let signal = Signaled { connections, notice: Some(what), ..Signaled::default() };
            self.effects.push(Effect::Signal(gateway, signal));
        }
        // Nothing is blocked or hidden of these any more.
        others.into_iter().filter(|others| !others.presences.is_empty()).for_each(|others| self.presences_told(others));
    }

    fn probed(&mut self, Probe { from, of, last_seen }: Probe, now: Instant, time_ms: u64) {
        let Some(from) = from else { return };
        let domains = self.topology.domains.clone();
        let of = of.into_iter().filter(|contact| domains.allow_ids(&contact.user, &from.user));
        let is_known = self.missing() == 0;
        let (mut presences, mut unknown, mut offline) = (Vec::new(), Vec::new(), Vec::new());
        for contact in of {
            // The asking router may know a newer ring, by which the user has come here: nothing is known of its sessions yet.
            if !self.topology.owns(&contact.user) {
                unknown.push(contact);
                continue;
            }
            match self.shown_to(&contact, &from, now) {
                // Answered when that is known.
                None => {}
                Some(None) if !is_known => unknown.push(contact),
                Some(None) if last_seen => offline.push(contact),
                Some(shown) => presences.push(self.presence(&contact.user, shown.as_ref(), time_ms)),
            }
        }
        self.answer_probe(&from, presences);
        self.read_last_seen(&from, offline, now);
        if !unknown.is_empty() {
            self.presences.unsaid(Said::Probe(Probe { from: Some(from), of: unknown, last_seen }), now);
        }
    }

    /// What the contact shows to the user who asks; `None`: it is not known yet, or there is no such contact.
    fn shown_to(&mut self, contact: &Person, from: &Person, now: Instant) -> Option<Option<Shown>> {
        let user = UserId::new(&contact.user).ok()?;
        Some(match self.presences.may_see(&user, contact.incarnation, from, now)? {
            // As the other contacts were told: what has changed since then all are told, unless it changes back before.
            true => self.presences.told(&user, contact.incarnation).cloned(),
            false => None,
        })
    }

    fn answer_probe(&mut self, from: &Person, presences: Vec<Presence>) {
        let (mut part, mut bytes) = (Vec::new(), 0);
        for presence in presences {
            bytes += presence.status.len() + presence.user.len() + 32;
            part.push(presence);
            if part.len() >= PRESENCES || bytes >= PRESENCE_BYTES {
                let presences = std::mem::take(&mut part);
                let told = Presences { presences, to: vec![from.clone()], asked: true };
                self.effects.push(Effect::Say(Said::Presences(told)));
                bytes = 0;
            }
        }
        if !part.is_empty() {
            let told = Presences { presences: part, to: vec![from.clone()], asked: true };
            self.effects.push(Effect::Say(Said::Presences(told)));
        }
    }

    /// Contacts who are offline: the store knows when they were last there, and whether the one who asks may know it.
    fn read_last_seen(&mut self, from: &Person, offline: Vec<Person>, now: Instant) {
        let mut by_shard: BTreeMap<ShardId, Vec<Person>> = BTreeMap::new();
        for contact in offline {
            let Ok(user) = UserId::new(&contact.user) else { continue };
            by_shard.entry(self.topology.shards.directory_of(&user)).or_default().push(contact);
        }
        let by = BlockedUser { user: from.user.clone(), incarnation: from.incarnation };
        for (shard, contacts) in by_shard {
            for of in contacts.chunks(ALLOWED) {
                let users = of.iter().map(|contact| contact.user.clone()).collect();
                let op = store_request::Op::ReadAllowed(ReadAllowed {
                    by: Some(by.clone()),
                    users,
                    last_seen: true,
                    contact: false,
                });
                let asked = Continuation::LastSeen(from.clone(), of.to_vec());
                self.ask(shard, op, String::new(), now + READ_USER, asked);
            }
        }
    }

    pub(super) fn last_seen_read(
        &mut self,
        from: &Person,
        of: Vec<Person>,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
        time_ms: u64,
    ) {
        // Without an answer they are offline all the same.
        let allowed = match answer {
            Ok(StoreAnswer::AllowedRead(read)) if read.allowed.len() == of.len() => read.allowed,
            _ => vec![Allowed::default(); of.len()],
        };
        let mut presences = Vec::with_capacity(of.len());
        for (contact, Allowed { last_seen_ms, .. }) in of.into_iter().zip(allowed) {
            // The contact may have come back meanwhile.
            let Some(shown) = self.shown_to(&contact, from, now) else { continue };
            let last_seen_ms = if shown.is_none() { last_seen_ms } else { 0 };
            presences.push(Presence { last_seen_ms, ..self.presence(&contact.user, shown.as_ref(), time_ms) });
        }
        self.answer_probe(from, presences);
    }

    /// A row of the user's list has changed: the user's sessions are told, and the contact, if it sees the user from now on or no
    /// longer. Without a new version it has changed before, and this owner may not know it.
    pub(super) fn contact_news(&mut self, news: ContactNews, now: Instant, time_ms: u64) {
        let Some(Person { user, incarnation }) = news.user.clone() else { return };
        let Ok(user) = UserId::new(&user) else { return };
        if let Some(row) = &news.row {
            let contact = Person { user: news.contact.clone(), incarnation: row.peer };
            if self.presences.contact_changed(&user, incarnation, (&contact, row.from), news.version, now) {
                // As to those who ask.
                let shown = self.presences.told(&user, incarnation).cloned().filter(|_| row.from);
                self.tell_presence(&user, shown.as_ref(), vec![contact.clone()], time_ms);
            }
            // Presences of the contact from before the user saw it were not heard.
            if row.to && self.current(&user).hears && !self.presences.blocks(user.as_str(), &contact.user) {
                let from = Some(Person { user: user.as_str().to_owned(), incarnation });
                self.effects.push(Effect::Say(Said::Probe(Probe { from, of: vec![contact], last_seen: true })));
            }
        }
        if news.before != news.version {
            self.signal_to(&user, incarnation, Notice::ContactNews(Box::new(news)));
        }
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

/// The presence that a session shows, and its number. `None`: the session shows nothing, and does not want to know what others show.
pub(super) fn shows(presence: Option<SessionPresence>) -> (Option<Box<SessionPresence>>, u64) {
    let number = presence.as_ref().map_or(0, |presence| presence.number);
    let presence = presence.filter(|presence| !matches!(presence.show(), Show::Unspecified) || presence.hears);
    (presence.map(|presence| Box::new(SessionPresence { number: 0, ..presence })), number)
}

/// As it is told: no more exactly than the store keeps it.
fn last_seen(time_ms: u64) -> u64 {
    time_ms - time_ms % LAST_SEEN_MS
}
