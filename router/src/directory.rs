//! Where the users that this router owns are signed in: a cache of the rows in the directory shards.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use carillon_proto::{UserId, pb::store::Session};
use tokio::time::Instant;

/// Those who wait for one user to be read; above it they are refused.
const WAITERS: usize = 4096;

/// Of one partition. `W` waits while an entry is read from the store.
pub(crate) struct Directory<W> {
    entries: HashMap<UserId, Entry<W>>,
    /// Second chance: an entry that was used since it was last at the front goes to the back.
    clock: VecDeque<UserId>,
    max: usize,
    ttl: Duration,
}

enum Entry<W> {
    Loading {
        waiters: Vec<W>,
        /// A session was written after the read began: what it says may be old.
        outdated: bool,
    },
    Loaded {
        user: Known,
        at: Instant,
        used: bool,
    },
}

/// What the store says of a user.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Known {
    /// Of the account: whose inbox it is.
    pub(crate) incarnation: u64,
    /// The name had another owner before.
    pub(crate) remade: bool,
    /// Those that go on.
    pub(crate) sessions: Vec<Session>,
}

/// What to do after [`Directory::wait`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wait<W> {
    /// Read the user from the store, then call [`Directory::loaded`].
    Read,
    /// That is under way.
    Queued,
    Full(W),
}

/// What to do after [`Directory::loaded`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Loaded<W> {
    /// In the order in which they came.
    Serve(Vec<W>),
    ReadAgain,
}

impl<W> Directory<W> {
    pub(crate) fn new(max: usize, ttl: Duration) -> Self {
        Self { entries: HashMap::new(), clock: VecDeque::new(), max, ttl }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// None: not known, or known for too long.
    pub(crate) fn user(&mut self, user: &UserId, now: Instant) -> Option<&Known> {
        match self.entries.get_mut(user)? {
            Entry::Loaded { user, at, used } if now < *at + self.ttl => {
                *used = true;
                Some(user)
            }
            Entry::Loaded { .. } | Entry::Loading { .. } => None,
        }
    }

    /// After `user` gave None.
    pub(crate) fn wait(&mut self, user: &UserId, waiter: W) -> Wait<W> {
        match self.entries.get_mut(user) {
            Some(Entry::Loading { waiters, .. }) => {
                if waiters.len() >= WAITERS {
                    return Wait::Full(waiter);
                }
                waiters.push(waiter);
                Wait::Queued
            }
            Some(entry) => {
                *entry = Entry::Loading { waiters: vec![waiter], outdated: false };
                Wait::Read
            }
            None => {
                self.make_room();
                self.entries.insert(user.clone(), Entry::Loading { waiters: vec![waiter], outdated: false });
                self.clock.push_back(user.clone());
                Wait::Read
            }
        }
    }

    /// The store's answer; None: it gave none, or there is no such user, so that the next one asks again.
    pub(crate) fn loaded(&mut self, user: &UserId, known: Option<Known>, now: Instant) -> Loaded<W> {
        let Some(entry) = self.entries.get_mut(user) else { return Loaded::Serve(Vec::new()) };
        let Entry::Loading { waiters, outdated } = entry else { return Loaded::Serve(Vec::new()) };
        if *outdated && known.is_some() {
            *outdated = false;
            return Loaded::ReadAgain;
        }
        let waiters = std::mem::take(waiters);
        match known {
            Some(user) => *entry = Entry::Loaded { user, at: now, used: false },
            // Its place in the clock is dropped when it comes to the front.
            None => drop(self.entries.remove(user)),
        }
        Loaded::Serve(waiters)
    }

    /// The store has this session of the account with this incarnation now.
    pub(crate) fn put(&mut self, user: &UserId, incarnation: u64, session: Session) {
        match self.entries.get_mut(user) {
            // Another owner of the name.
            Some(Entry::Loaded { user: known, .. }) if known.incarnation != incarnation => {
                self.entries.remove(user);
            }
            Some(Entry::Loaded { user: known, .. }) => {
                known.sessions.retain(|other| other.device != session.device);
                known.sessions.push(session);
            }
            Some(Entry::Loading { outdated, .. }) => *outdated = true,
            None => {}
        }
    }

    /// The store does not have this session any more.
    pub(crate) fn remove(&mut self, user: &UserId, session: &Session) {
        match self.entries.get_mut(user) {
            Some(Entry::Loaded { user, .. }) => user.sessions.retain(|other| !is_same(other, session)),
            Some(Entry::Loading { outdated, .. }) => *outdated = true,
            None => {}
        }
    }

    /// What the store says of this user does not agree with what is here.
    pub(crate) fn forget(&mut self, user: &UserId) {
        match self.entries.get_mut(user) {
            Some(Entry::Loading { outdated, .. }) => *outdated = true,
            Some(Entry::Loaded { .. }) => drop(self.entries.remove(user)),
            None => {}
        }
    }

    /// Drops the users for whom `stays` says no. Those who wait still get their answer.
    pub(crate) fn retain(&mut self, stays: impl Fn(&UserId) -> bool) {
        self.entries.retain(|user, entry| matches!(entry, Entry::Loading { .. }) || stays(user));
        self.clock.retain(|user| self.entries.contains_key(user));
    }

    fn make_room(&mut self) {
        // Each turn ends an entry, ends a use, or skips one that is being read; after two rounds all are being read,
        // and those are bounded by the requests that wait for them.
        for _ in 0..self.clock.len() * 2 {
            if self.entries.len() < self.max && self.clock.len() < self.max * 2 {
                return;
            }
            let Some(user) = self.clock.pop_front() else { return };
            match self.entries.get_mut(&user) {
                None => {}
                Some(Entry::Loading { .. }) => self.clock.push_back(user),
                Some(Entry::Loaded { used, .. }) if *used => {
                    *used = false;
                    self.clock.push_back(user);
                }
                Some(Entry::Loaded { .. }) => drop(self.entries.remove(&user)),
            }
        }
    }
}

/// The same incarnation of a device's session.
pub(crate) fn is_same(a: &Session, b: &Session) -> bool {
    a.device == b.device && a.lease == b.lease && a.connection == b.connection
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("valid")
    }

    fn session(device: &str, connection: u64) -> Session {
        Session { user: "alice".into(), device: device.into(), lease: 1, connection, ..Session::default() }
    }

    fn known(sessions: Vec<Session>) -> Option<Known> {
        Some(Known { incarnation: 7, remade: false, sessions })
    }

    #[test]
    fn a_session_of_another_owner_of_the_name_is_not_put_beside_those_before() {
        let (now, alice) = (Instant::now(), user("alice"));
        let mut directory = Directory::new(10, TTL);
        assert_eq!(directory.wait(&alice, 1), Wait::Read);
        directory.loaded(&alice, known(vec![session("a", 1)]), now);
        directory.put(&alice, 8, session("b", 2));
        assert_eq!(directory.user(&alice, now), None, "read again");
    }

    #[test]
    fn requests_wait_behind_one_read_and_are_served_in_order() {
        let (now, alice) = (Instant::now(), user("alice"));
        let mut directory = Directory::new(10, TTL);
        assert_eq!(directory.user(&alice, now), None);
        assert_eq!(directory.wait(&alice, 1), Wait::Read);
        assert_eq!(directory.wait(&alice, 2), Wait::Queued);
        assert_eq!(directory.loaded(&alice, known(vec![session("a", 1)]), now), Loaded::Serve(vec![1, 2]));
        assert_eq!(directory.user(&alice, now), known(vec![session("a", 1)]).as_ref());
        assert_eq!(directory.user(&alice, now + TTL), None, "read again after a while");
        assert_eq!(directory.wait(&alice, 3), Wait::Read);
    }

    #[test]
    fn a_session_stored_during_the_read_is_not_lost() {
        let (now, alice) = (Instant::now(), user("alice"));
        let mut directory = Directory::new(10, TTL);
        assert_eq!(directory.wait(&alice, 1), Wait::Read);
        directory.put(&alice, 7, session("a", 1));
        assert_eq!(directory.loaded(&alice, known(vec![]), now), Loaded::ReadAgain);
        assert_eq!(directory.loaded(&alice, known(vec![session("a", 1)]), now), Loaded::Serve(vec![1]));
    }

    #[test]
    fn a_newer_session_of_a_device_takes_the_place_of_the_older() {
        let (now, alice) = (Instant::now(), user("alice"));
        let mut directory = Directory::new(10, TTL);
        assert_eq!(directory.wait(&alice, 1), Wait::Read);
        directory.loaded(&alice, known(vec![session("a", 1), session("b", 2)]), now);
        directory.put(&alice, 7, session("a", 3));
        directory.remove(&alice, &session("a", 1));
        assert_eq!(directory.user(&alice, now), known(vec![session("b", 2), session("a", 3)]).as_ref());
        directory.remove(&alice, &session("a", 3));
        assert_eq!(directory.user(&alice, now), known(vec![session("b", 2)]).as_ref());
    }

    #[test]
    fn a_failed_read_serves_its_waiters_and_leaves_nothing() {
        let (now, alice) = (Instant::now(), user("alice"));
        let mut directory = Directory::new(10, TTL);
        assert_eq!(directory.wait(&alice, 1), Wait::Read);
        assert_eq!(directory.loaded(&alice, None, now), Loaded::Serve(vec![1]));
        assert_eq!(directory.len(), 0);
        assert_eq!(directory.wait(&alice, 2), Wait::Read);
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let now = Instant::now();
        let mut directory = Directory::new(4, TTL);
        let hot = user("hot");
        for i in 0..100 {
            if directory.user(&hot, now).is_none() {
                assert!(i < 4, "the entry in use was dropped at {i}");
                directory.wait(&hot, 0);
                directory.loaded(&hot, known(vec![]), now);
            }
            let cold = user(&format!("cold{i}"));
            directory.wait(&cold, 0);
            directory.loaded(&cold, known(vec![]), now);
            assert!(directory.len() <= 4);
        }
    }

    #[test]
    fn entries_that_moved_to_another_router_are_dropped() {
        let now = Instant::now();
        let mut directory = Directory::new(10, TTL);
        for name in ["mine", "theirs"] {
            directory.wait(&user(name), 0);
            directory.loaded(&user(name), known(vec![]), now);
        }
        directory.wait(&user("loading"), 7);
        directory.retain(|user| user.as_str() == "mine");
        assert!(directory.user(&user("mine"), now).is_some());
        assert!(directory.user(&user("theirs"), now).is_none());
        assert_eq!(directory.loaded(&user("loading"), known(vec![]), now), Loaded::Serve(vec![7]));
    }
}
