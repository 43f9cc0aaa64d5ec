//! What the contacts of the users of this router were told of them, and when they are told the next thing. See
//! docs/adr/0027-contacts.md. Does not wait and has no clock.

pub(crate) mod audience;
mod sight;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::BuildHasher as _,
    time::Duration,
};

use carillon_proto::{
    Keyed, KeyedMap, UserId,
    pb::{
        client::{Presence, Show},
        store::{ContactsRead, Person},
    },
};
use tokio::time::Instant;

use crate::{privacy, said::Said, session::Session};

/// Between two words about a user.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a user without a session is not said to be offline: the device may come back.
const GRACE: Duration = Duration::from_secs(5);
/// How soon what could not be said is said again, and how soon something is looked at again that could not be decided.
const AGAIN: Duration = Duration::from_secs(1);
/// After a change of the ring the owners of contacts are asked again, but not before the gateways have announced.
const AFTER_A_RING: Duration = Duration::from_secs(2);
/// Between two users of whom it is said that they are offline, and between two of those that ask again.
const EACH_OFFLINE: Duration = Duration::from_millis(2);
const EACH_AGAIN: Duration = Duration::from_millis(4);
/// Most words that are kept to be said again. Further ones are lost until their users ask again.
const UNSAID: usize = 16_384;
/// Most questions that wait until it is known who may see the user.
const ASKING: usize = 256;

/// The presences of one partition's users. Bounded by the sessions in its register, and by those that have just left it.
#[derive(Default)]
pub(crate) struct Presences {
    users: BTreeMap<UserId, Present>,
    due: BTreeSet<(Instant, UserId)>,
    /// The number of the last presence that was told.
    number: u64,
    /// When the next user may be said to be offline.
    next_offline: Option<Instant>,
    unsaid: VecDeque<(Instant, Said)>,
    /// Whom users have blocked, as hashes of the names. Most have blocked nobody, and are not here.
    blocked: KeyedMap<UserId, BTreeSet<u64>>,
}

/// A user who shows something, or has done so until just now.
struct Present {
    /// Of the account.
    incarnation: u64,
    told: Option<Shown>,
    /// Some contacts may not know it.
    again: bool,
    told_at: Option<Instant>,
    /// Since when nothing is shown.
    gone_at: Option<Instant>,
    /// When this user may be said to be offline.
    turn: Option<Instant>,
    due: Option<Instant>,
    /// The contacts are being read.
    is_reading: bool,
    /// The user wants to know the presence of its contacts; and when those who are offline were last there.
    probes: bool,
    probes_last_seen: bool,
    /// Who may see the user, as hashes, in order; `None`: not known yet.
    watchers: Option<Vec<u64>>,
    /// The highest versions of the list of contacts and of the privacy settings that were heard of.
    versions: (u64, u64),
    /// Who has asked meanwhile.
    asking: Vec<Person>,
    /// The user is shown to nobody.
    hidden: bool,
    /// Nobody is told when the user was last there, nor is the user told it of others. Also as long as it is not known.
    hides_last_seen: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) show: i32,
    pub(crate) status: String,
}

/// What is so now of a user.
pub(crate) struct Current {
    pub(crate) shown: Option<Shown>,
    /// A session wants to know what others show.
    pub(crate) hears: bool,
    /// There are sessions: nothing is shown because that is wanted.
    pub(crate) has_sessions: bool,
    /// All gateways have announced their sessions.
    pub(crate) all_announced: bool,
}

/// What follows from reading the contacts of a user.
pub(crate) struct Telling {
    /// The contacts are told.
    pub(crate) tells: bool,
    /// The user is shown to nobody.
    pub(crate) hidden: bool,
    /// How long ago the user was last there, if the contacts are told that.
    pub(crate) last_seen: Option<Duration>,
    /// The contacts are asked; also when they were last there.
    pub(crate) probes: bool,
    pub(crate) probes_last_seen: bool,
    /// Who has asked for the user meanwhile.
    pub(crate) asking: Vec<Person>,
    /// Contacts that may see the user only since the last read, as hashes, in order.
    pub(crate) new: Vec<u64>,
}

impl Telling {
    /// True if the contact was told nothing when the others were.
    pub(crate) fn is_new(&self, contact: &Person) -> bool {
        self.new.binary_search(&hash(&contact.user, contact.incarnation)).is_ok()
    }
}

impl Presences {
    /// When `take_due` has something.
    pub(crate) fn due(&self) -> Option<Instant> {
        let unsaid = self.unsaid.front().map(|(at, _)| *at);
        let due = self.due.first().map(|(at, _)| *at);
        [unsaid, due].into_iter().flatten().min()
    }

    /// Users to look at, and words to be said again.
    pub(crate) fn take_due(&mut self, now: Instant) -> (Vec<UserId>, Vec<Said>) {
        let mut users = Vec::new();
        while self.due.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, user)) = self.due.pop_first() else { break };
            if let Some(present) = self.users.get_mut(&user) {
                present.due = None;
            }
            users.push(user);
        }
        let mut again = Vec::new();
        while self.unsaid.front().is_some_and(|(at, _)| *at <= now) {
            again.extend(self.unsaid.pop_front().map(|(_, said)| said));
        }
        (users, again)
    }

    pub(crate) fn unsaid(&mut self, said: Said, now: Instant) {
        if self.unsaid.len() < UNSAID {
            self.unsaid.push_back((now + AGAIN, said));
        }
    }

    /// Something about the sessions of this user has changed. `moved`: they were with another owner, who has told the contacts.
    pub(crate) fn touch(&mut self, user: &UserId, incarnation: u64, current: &Current, moved: bool, now: Instant) {
        let known = self.users.get(user).is_some_and(|present| present.incarnation == incarnation);
        if !known {
            if !current.hears {
                return;
            }
            self.forget(user);
            let told = current.shown.clone().filter(|_| moved);
            let present = Present {
                incarnation,
                // Contacts that have asked this owner before the session came were told that the user is offline.
                again: told.is_some() && current.all_announced,
                told,
                told_at: None,
                gone_at: None,
                turn: None,
                due: None,
                is_reading: false,
                probes: true,
                probes_last_seen: !moved,
                watchers: None,
                versions: (0, 0),
                asking: Vec::new(),
                hidden: false,
                hides_last_seen: true,
            };
            self.users.insert(user.clone(), present);
        }
        let is_late = moved && known && current.all_announced && current.hears;
        if let Some(present) = self.users.get_mut(user).filter(|_| is_late) {
            // The session was not here for a while, and may have missed something.
            present.probes = true;
        }
        self.look_at(user, if moved && !known { now + AFTER_A_RING } else { now });
    }

    /// The user has no session any more.
    pub(crate) fn gone(&mut self, user: &UserId, now: Instant) {
        self.look_at(user, now);
    }

    /// Of the account that shows something, or has just done so.
    pub(crate) fn incarnation(&self, user: &UserId) -> Option<u64> {
        self.users.get(user).map(|present| present.incarnation)
    }

    /// The user's sessions want to know (again) what the contacts show, and when they were last there.
    pub(crate) fn asks_again(&mut self, user: &UserId, now: Instant) {
        if let Some(present) = self.users.get_mut(user) {
            (present.probes, present.probes_last_seen) = (true, true);
            self.look_at(user, now);
        }
    }

    /// All of these users ask again, one after the other.
    pub(crate) fn all_ask_again(&mut self, which: impl Fn(&UserId) -> bool, now: Instant) {
        let users: Vec<UserId> = self.users.keys().filter(|user| which(user)).cloned().collect();
        let mut at = now + AFTER_A_RING;
        for user in users {
            if let Some(present) = self.users.get_mut(&user) {
                present.probes = true;
            }
            self.look_at(&user, at);
            at += EACH_AGAIN;
        }
    }

    /// Another router owns them: it tells their contacts.
    pub(crate) fn retain(&mut self, stays: impl Fn(&UserId) -> bool) {
        self.users.retain(|user, _| stays(user));
        let users = &self.users;
        self.due.retain(|(_, user)| users.contains_key(user));
        self.blocked.retain(|user, _| users.contains_key(user));
    }

    /// True if the user's contacts have to be read now.
    pub(crate) fn look(&mut self, user: &UserId, current: &Current, now: Instant) -> bool {
        let Some(present) = self.users.get_mut(user) else { return false };
        if present.is_reading {
            return false;
        }
        let (at, reads) = match &current.shown {
            None if present.told.is_none() && !current.hears => {
                self.forget(user);
                return false;
            }
            None if present.told.is_none() => {
                (present.gone_at, present.turn) = (None, None);
                (None, present.probes || present.watchers.is_none())
            }
            None => {
                let gone_at = *present.gone_at.get_or_insert(now);
                let grace = if current.has_sessions { gone_at } else { gone_at + GRACE };
                if now < grace {
                    (Some(grace), false)
                } else if !current.all_announced {
                    (Some(now + AGAIN), false)
                } else {
                    let turn = *present.turn.get_or_insert_with(|| {
                        let turn = self.next_offline.map_or(now, |next| next.max(now));
                        self.next_offline = Some(turn + EACH_OFFLINE);
                        turn
                    });
                    if now < turn { (Some(turn), false) } else { (None, true) }
                }
            }
            Some(shown) => {
                (present.gone_at, present.turn) = (None, None);
                let news = present.again || present.told.as_ref() != Some(shown);
                let pause = present.told_at.map_or(now, |at| at + PAUSE);
                let reads = present.probes || present.watchers.is_none();
                if news && now < pause && !reads { (Some(pause), false) } else { (None, news || reads) }
            }
        };
        present.is_reading = reads;
        if let Some(at) = at {
            self.look_at(user, at);
        }
        reads
    }

    /// True if the answer must name the contacts, whatever is known of them.
    pub(crate) fn needs_contacts(&self, user: &UserId) -> bool {
        self.users.get(user).is_none_or(|present| present.probes || present.watchers.is_none())
    }

    /// The contacts of the user have been read, or have not changed; `None`: that has failed.
    pub(crate) fn read(
        &mut self,
        user: &UserId,
        incarnation: u64,
        contacts: Option<&ContactsRead>,
        current: &Current,
        now: Instant,
    ) -> Option<Telling> {
        let present = self.users.get_mut(user).filter(|present| present.incarnation == incarnation)?;
        present.is_reading = false;
        let Some(contacts) = contacts else {
            self.look_at(user, now + AGAIN);
            return None;
        };
        let (read, known) = ((contacts.version, contacts.privacy_version), present.versions);
        present.versions = read;
        if read.0 < known.0 || read.1 < known.1 {
            // Another router's word of a change has overtaken this answer. The next one counts whatever it says.
            present.probes = true;
            self.look_at(user, now);
            return None;
        }
        let mut new = Vec::new();
        if !contacts.unchanged {
            (present.hidden, present.hides_last_seen) = (contacts.hidden, contacts.last_seen_hidden);
            let watchers = contacts.contacts.iter().filter(|row| row.row.as_ref().is_some_and(|row| row.from));
            let watchers = watchers.filter(|_| !contacts.hidden);
            let watchers = watchers.map(|row| hash(&row.contact, row.row.as_ref().map_or(0, |row| row.peer)));
            let mut watchers: Vec<u64> = watchers.collect();
            watchers.sort_unstable();
            if let Some(before) = &present.watchers {
                new = watchers.iter().filter(|watcher| before.binary_search(watcher).is_err()).copied().collect();
            }
            present.watchers = Some(watchers);
            match contacts.blocked.is_empty() {
                true => drop(self.blocked.remove(user)),
                false => {
                    let blocked = contacts.blocked.iter().map(|name| privacy::hash(name)).collect();
                    self.blocked.insert(user.clone(), blocked);
                }
            }
        }
        let (hidden, hides_last_seen) = (present.hidden, present.hides_last_seen);
        let asking = std::mem::take(&mut present.asking);
        let is_offline = current.shown.is_none();
        let shown = current.shown.as_ref().filter(|_| !hidden);
        // The user's turn may have come to an end only meanwhile.
        let waits = is_offline && present.turn.is_none();
        let pause = present.told_at.map_or(now, |at| at + PAUSE);
        let is_known = !present.again && present.told.as_ref() == shown;
        let tells = !waits && !is_known && (shown.is_none() || now >= pause);
        let hides = hidden || hides_last_seen;
        let last_seen = present.gone_at.filter(|_| tells && is_offline && !hides).map(|at| now - at);
        let (mut probes, mut probes_last_seen) = (false, false);
        // Without the contacts nobody can be asked.
        if !contacts.unchanged {
            probes_last_seen = std::mem::take(&mut present.probes_last_seen) && !hides_last_seen;
            probes = std::mem::take(&mut present.probes) && (!is_offline || current.hears);
        }
        let telling = Telling { tells, hidden, last_seen, probes, probes_last_seen, asking, new };
        if tells {
            present.told = shown.cloned();
            present.told_at = Some(now);
            present.again = false;
        }
        let still_probes = present.probes;
        let (again, differs) = (present.again, present.told.as_ref() != shown);
        if tells && is_offline && !current.hears {
            self.forget(user);
        } else if still_probes {
            self.look_at(user, now);
        } else if again || differs {
            self.look_at(user, pause.max(now));
        }
        Some(telling)
    }

    /// What the contacts of the user were told last.
    pub(crate) fn told(&self, user: &UserId, incarnation: u64) -> Option<&Shown> {
        self.users.get(user).filter(|present| present.incarnation == incarnation)?.told.as_ref()
    }

    /// The user as contacts are told. Later ones have higher numbers, also after the owner was started again.
    pub(crate) fn presence(&mut self, user: &str, shown: Option<&Shown>, era: u64, time_ms: u64) -> Presence {
        self.number = time_ms.max(self.number + 1);
        Presence {
            user: user.to_owned(),
            show: shown.map_or(Show::Unspecified.into(), |shown| shown.show),
            status: shown.map(|shown| shown.status.clone()).unwrap_or_default(),
            era,
            number: self.number,
            last_seen_ms: 0,
        }
    }

    fn look_at(&mut self, user: &UserId, at: Instant) {
        let Some(present) = self.users.get_mut(user) else { return };
        if let Some(before) = present.due {
            if before <= at {
                return;
            }
            self.due.remove(&(before, user.clone()));
        }
        present.due = Some(at);
        self.due.insert((at, user.clone()));
    }

    pub(crate) fn forget(&mut self, user: &UserId) {
        if let Some(due) = self.users.remove(user).and_then(|present| present.due) {
            self.due.remove(&(due, user.clone()));
        }
        self.blocked.remove(user);
    }
}

/// What a user shows by these sessions: that of the highest priority, and of several the one that is most there.
pub(crate) fn shown(sessions: &[Session]) -> Option<Shown> {
    let rank = |show: i32| match Show::try_from(show) {
        Ok(Show::Online) => 4,
        Ok(Show::DoNotDisturb) => 3,
        Ok(Show::Away) => 2,
        Ok(Show::ExtendedAway) => 1,
        Ok(Show::Unspecified) | Err(_) => 0,
    };
    let shown = sessions.iter().filter_map(|session| session.presence.as_deref());
    let shown = shown.filter(|presence| presence.show() != Show::Unspecified);
    let best = shown.max_by_key(|presence| (presence.priority, rank(presence.show)))?;
    Some(Shown { show: best.show, status: best.status.clone() })
}

fn hash(user: &str, incarnation: u64) -> u64 {
    Keyed::default().hash_one((user, incarnation))
}

#[cfg(test)]
mod tests;
