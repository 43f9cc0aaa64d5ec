//! A cache of account rows of the directory shards. Entries need no expiry: the store refuses a request for an
//! incarnation that has ended, and then the account is read again.

use std::{collections::VecDeque, sync::Arc};

use carillon_proto::{KeyedMap, UserId};

use crate::privacy::Privacy;

/// Most requests that wait for one user's account. Further ones are refused.
const WAITERS: usize = 4096;

/// The accounts of one partition. `W` is a request that waits while its account is read from the store.
pub(crate) struct Accounts<W> {
    entries: KeyedMap<UserId, Entry<W>>,
    /// Second-chance eviction: an entry that was used since it was last at the front moves to the back.
    clock: VecDeque<UserId>,
    max: usize,
}

enum Entry<W> {
    Loading {
        waiters: Vec<W>,
        /// The account was written after the read began, so the result may be outdated.
        outdated: bool,
    },
    Loaded {
        account: CachedAccount,
        used: bool,
    },
}

/// The cached fields of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CachedAccount {
    /// The incarnation of the account that owns the inbox.
    pub(crate) incarnation: u64,
    /// The name had a previous owner.
    pub(crate) remade: bool,
    /// `None`, for most users: everything is open to everybody.
    pub(crate) privacy: Option<Arc<Privacy>>,
}

/// The result of reading an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Read {
    Account(CachedAccount),
    NoUser,
    Failed,
}

/// What to do after [`Accounts::wait`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wait<W> {
    /// Read the user from the store, then call [`Accounts::loaded`].
    Read,
    /// The account is being read; the waiter is queued.
    Queued,
    Full(W),
}

/// What to do after [`Accounts::loaded`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Loaded<W> {
    /// In the order in which they came.
    Serve(Vec<W>),
    ReadAgain,
}

impl<W> Accounts<W> {
    pub(crate) fn new(max: usize) -> Self {
        Self { entries: KeyedMap::default(), clock: VecDeque::new(), max }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// `None`: the account is not in memory.
    pub(crate) fn get(&mut self, user: &UserId) -> Option<CachedAccount> {
        match self.entries.get_mut(user)? {
            Entry::Loaded { account, used } => {
                *used = true;
                Some(account.clone())
            }
            Entry::Loading { .. } => None,
        }
    }

    /// `waiter` continues when the user has been read, whatever is cached already.
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

    /// Takes the store's answer. After a failed read, or if the user does not exist, the next request reads again.
    pub(crate) fn loaded(&mut self, user: &UserId, read: Read) -> Loaded<W> {
        let Some(entry) = self.entries.get_mut(user) else { return Loaded::Serve(Vec::new()) };
        let Entry::Loading { waiters, outdated } = entry else { return Loaded::Serve(Vec::new()) };
        if *outdated && read != Read::Failed {
            *outdated = false;
            return Loaded::ReadAgain;
        }
        let waiters = std::mem::take(waiters);
        match read {
            Read::Account(account) => *entry = Entry::Loaded { account, used: false },
            // Its place in the clock is dropped when it reaches the front.
            Read::NoUser | Read::Failed => drop(self.entries.remove(user)),
        }
        Loaded::Serve(waiters)
    }

    /// Takes out the waiters that are to wait no longer.
    pub(crate) fn take_waiters(&mut self, user: &UserId, which: impl Fn(&W) -> bool) -> Vec<W> {
        match self.entries.get_mut(user) {
            Some(Entry::Loading { waiters, .. }) => waiters.extract_if(.., |waiter| which(waiter)).collect(),
            _ => Vec::new(),
        }
    }

    /// Marks the cached account as outdated, so that it is read again.
    pub(crate) fn forget(&mut self, user: &UserId) {
        match self.entries.get_mut(user) {
            Some(Entry::Loading { outdated, .. }) => *outdated = true,
            Some(Entry::Loaded { .. }) => drop(self.entries.remove(user)),
            None => {}
        }
    }

    /// Drops the users for which `stays` is false. Their waiters still get an answer.
    pub(crate) fn retain(&mut self, stays: impl Fn(&UserId) -> bool) {
        self.entries.retain(|user, entry| matches!(entry, Entry::Loading { .. }) || stays(user));
        self.clock.retain(|user| self.entries.contains_key(user));
    }

    fn make_room(&mut self) {
        // Each turn evicts an entry, clears its use bit, or skips one that is being read. After two rounds all
        // remaining entries are being read, and those are bounded by the waiting requests.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("valid")
    }

    fn of(incarnation: u64) -> Option<CachedAccount> {
        Some(CachedAccount { incarnation, remade: false, privacy: None })
    }

    fn read(incarnation: u64) -> Read {
        Read::Account(CachedAccount { incarnation, remade: false, privacy: None })
    }

    #[test]
    fn requests_wait_behind_one_read_and_are_served_in_order() {
        let alice = user("alice");
        let mut accounts = Accounts::new(10);
        assert_eq!(accounts.get(&alice), None);
        assert_eq!(accounts.wait(&alice, 1), Wait::Read);
        assert_eq!(accounts.wait(&alice, 2), Wait::Queued);
        assert_eq!(accounts.loaded(&alice, read(7)), Loaded::Serve(vec![1, 2]));
        assert_eq!(accounts.get(&alice), of(7));
        assert_eq!(accounts.wait(&alice, 3), Wait::Read, "whoever waits wants what is so now");
        assert_eq!(accounts.get(&alice), None);
    }

    #[test]
    fn an_account_that_changed_during_the_read_is_read_again() {
        let alice = user("alice");
        let mut accounts = Accounts::new(10);
        assert_eq!(accounts.wait(&alice, 1), Wait::Read);
        accounts.forget(&alice);
        assert_eq!(accounts.loaded(&alice, read(7)), Loaded::ReadAgain);
        assert_eq!(accounts.loaded(&alice, read(8)), Loaded::Serve(vec![1]));
        assert_eq!(accounts.get(&alice), of(8));
        accounts.forget(&alice);
        assert_eq!(accounts.get(&alice), None);
    }

    #[test]
    fn a_failed_read_serves_its_waiters_and_leaves_nothing() {
        let alice = user("alice");
        let mut accounts = Accounts::new(10);
        assert_eq!(accounts.wait(&alice, 1), Wait::Read);
        assert_eq!(accounts.loaded(&alice, Read::Failed), Loaded::Serve(vec![1]));
        assert_eq!(accounts.len(), 0);
        assert_eq!(accounts.wait(&alice, 2), Wait::Read);
    }

    #[test]
    fn an_account_that_was_made_during_the_read_is_found_by_whoever_waited_for_it() {
        let alice = user("alice");
        let mut accounts = Accounts::new(10);
        assert_eq!(accounts.wait(&alice, 1), Wait::Read);
        accounts.forget(&alice);
        assert_eq!(accounts.loaded(&alice, Read::NoUser), Loaded::ReadAgain);
        assert_eq!(accounts.loaded(&alice, read(7)), Loaded::Serve(vec![1]));
        // A store that does not answer is not asked for ever.
        assert_eq!(accounts.wait(&alice, 2), Wait::Read);
        accounts.forget(&alice);
        assert_eq!(accounts.loaded(&alice, Read::Failed), Loaded::Serve(vec![2]));
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let mut accounts = Accounts::new(4);
        let hot = user("hot");
        for i in 0..100 {
            if accounts.get(&hot).is_none() {
                assert!(i < 4, "the entry in use was dropped at {i}");
                accounts.wait(&hot, 0);
                accounts.loaded(&hot, read(1));
            }
            let cold = user(&format!("cold{i}"));
            accounts.wait(&cold, 0);
            accounts.loaded(&cold, read(1));
            assert!(accounts.len() <= 4);
        }
    }

    #[test]
    fn entries_that_moved_to_another_router_are_dropped() {
        let mut accounts = Accounts::new(10);
        for name in ["mine", "theirs"] {
            accounts.wait(&user(name), 0);
            accounts.loaded(&user(name), read(1));
        }
        accounts.wait(&user("loading"), 7);
        accounts.retain(|user| user.as_str() == "mine");
        assert_eq!(accounts.get(&user("mine")), of(1));
        assert_eq!(accounts.get(&user("theirs")), None);
        assert_eq!(accounts.loaded(&user("loading"), read(1)), Loaded::Serve(vec![7]));
    }
}
