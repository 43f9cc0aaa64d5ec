//! The contacts who may see the users of a partition, and those whom users have blocked.

use std::collections::BTreeSet;

use carillon_proto::{KeyedMap, UserId, pb::store::Person};
use tokio::time::Instant;

use super::{ASKING, Presences, hash};
use crate::privacy;

impl Presences {
    /// True if the contact may see the user; `None`: it is not known yet, and the contact will have its answer when it is.
    pub(crate) fn may_see(&mut self, user: &UserId, incarnation: u64, contact: &Person, now: Instant) -> Option<bool> {
        let Some(present) = self.users.get_mut(user).filter(|present| present.incarnation == incarnation) else {
            return Some(false);
        };
        if let Some(watchers) = &present.watchers {
            return Some(watchers.binary_search(&hash(&contact.user, contact.incarnation)).is_ok());
        }
        if present.asking.len() < ASKING && !present.asking.contains(contact) {
            present.asking.push(contact.clone());
        }
        self.look_at(user, now);
        None
    }

    /// True if the contact is known to see the user.
    pub(crate) fn is_watcher(&self, user: &UserId, incarnation: u64, contact: &Person) -> bool {
        let present = self.users.get(user).filter(|present| present.incarnation == incarnation);
        let watchers = present.and_then(|present| present.watchers.as_ref());
        watchers.is_some_and(|watchers| watchers.binary_search(&hash(&contact.user, contact.incarnation)).is_ok())
    }

    /// The row of a contact has changed, and the list has this version with it: the contact may see the user, or may not any more. True if the
    /// contact has to be told. A word that has been overtaken by a later one, or by an answer of the store, decides nothing: what is so is read.
    pub(crate) fn contact_changed(
        &mut self,
        user: &UserId,
        incarnation: u64,
        (contact, may): (&Person, bool),
        version: u64,
        now: Instant,
    ) -> bool {
        let present = self.users.get_mut(user).filter(|present| present.incarnation == incarnation);
        if let Some(present) = present {
            if version < present.versions.0 {
                present.probes = true;
                self.look_at(user, now);
                return false;
            }
            present.versions.0 = version;
        }
        self.set_watcher(user, incarnation, contact, may)
    }

    /// From now on the contact may see the user, or may not any more. True if that is a change.
    pub(crate) fn set_watcher(&mut self, user: &UserId, incarnation: u64, contact: &Person, may: bool) -> bool {
        let Some(present) = self.users.get_mut(user).filter(|present| present.incarnation == incarnation) else {
            return false;
        };
        let is_blocked = blocks(&self.blocked, user.as_str(), &contact.user);
        let may = may && !present.hidden && !is_blocked;
        let Some(watchers) = &mut present.watchers else { return false };
        let hash = hash(&contact.user, contact.incarnation);
        match watchers.binary_search(&hash) {
            Err(at) if may => watchers.insert(at, hash),
            Ok(at) if !may => drop(watchers.remove(at)),
            _ => return false,
        }
        true
    }

    /// From now on the user neither sees this one nor is seen, or no longer so.
    pub(crate) fn set_blocked(&mut self, user: &UserId, name: &str, is_blocked: bool) {
        if !self.users.contains_key(user) {
            return;
        }
        let name = privacy::hash(name);
        if is_blocked {
            self.blocked.entry(user.clone()).or_default().insert(name);
        } else if let Some(blocked) = self.blocked.get_mut(user) {
            blocked.remove(&name);
        }
    }

    /// From now on nobody sees the user, whose settings have this version. All are told when the contacts have been read again.
    pub(crate) fn hide(&mut self, user: &UserId, version: u64) {
        if let Some(present) = self.users.get_mut(user) {
            present.versions.1 = present.versions.1.max(version);
            present.hidden = true;
            present.watchers.iter_mut().for_each(Vec::clear);
        }
    }

    /// From now on, before the contacts have been read again.
    pub(crate) fn set_hides_last_seen(&mut self, user: &UserId, hides: bool) {
        if let Some(present) = self.users.get_mut(user) {
            present.hides_last_seen = hides;
        }
    }

    /// True if the user is not told when others were last there: who does not show it does not see it.
    pub(crate) fn hides_last_seen(&self, user: &str) -> bool {
        self.users.get(user).is_none_or(|present| present.hides_last_seen)
    }

    /// True if the user sees nothing of this one.
    pub(crate) fn blocks(&self, user: &str, name: &str) -> bool {
        blocks(&self.blocked, user, name)
    }
}

fn blocks(blocked: &KeyedMap<UserId, BTreeSet<u64>>, user: &str, name: &str) -> bool {
    // Nearly always nobody here has blocked anybody.
    !blocked.is_empty() && blocked.get(user).is_some_and(|names| names.contains(&privacy::hash(name)))
}
