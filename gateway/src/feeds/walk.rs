//! Delivery to many followers, a piece at a time, so that other feeds need not wait for long.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use super::{
    Entry, Hand,
    follower::{Follower, Followers, Leaving},
};

/// Entries that wait. When there are so many, what is pushed beyond is read from the store in its turn.
const MAX_ENTRIES: usize = 64;

/// Entries on their way to followers, in their order. Each is handed to all before the next one is.
pub(super) struct Walk {
    pub(super) since: Instant,
    entries: VecDeque<Arc<Entry>>,
    /// The last follower that has the first entry. The followers after it are next.
    after: Option<Follower>,
}

/// Followers that still have to be told that they are not live any more.
pub(super) struct Goodbyes {
    pub(super) since: Instant,
    /// More than one group only if all left again before the first was told.
    groups: Vec<Leaving>,
}

impl Walk {
    /// Hands the entry to the first piece of followers. `Some` if others are left.
    pub(super) fn begin(
        entry: &Arc<Entry>,
        live: &mut Followers,
        now: Instant,
        hand: &mut impl Hand,
    ) -> Option<Box<Self>> {
        let after = live.hand(entry, None, hand)?;
        Some(Box::new(Self { since: now, entries: VecDeque::from([Arc::clone(entry)]), after: Some(after) }))
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_ENTRIES
    }

    /// A page, and what was pushed before its turn, go beyond the bound: neither comes again before the walk is over.
    pub(super) fn push(&mut self, entry: Arc<Entry>) {
        self.entries.push_back(entry);
    }

    /// Hands out a piece. True if more is left.
    pub(super) fn step(&mut self, live: &mut Followers, hand: &mut impl Hand) -> bool {
        if live.is_empty() {
            return false;
        }
        let Some(entry) = self.entries.front() else { return false };
        self.after = live.hand(entry, self.after, hand);
        if self.after.is_none() {
            self.entries.pop_front();
        }
        !self.entries.is_empty()
    }
}

impl Goodbyes {
    /// Tells a piece. `known`: those who wait already.
    pub(super) fn add(known: &mut Option<Box<Self>>, mut leaving: Leaving, now: Instant, hand: &mut impl Hand) {
        if leaving.tell(hand) {
            let new = || Box::new(Self { since: now, groups: Vec::new() });
            known.get_or_insert_with(new).groups.push(leaving);
        }
    }

    /// Tells a piece. True if more is left.
    pub(super) fn step(&mut self, hand: &mut impl Hand) -> bool {
        if let Some(last) = self.groups.last_mut()
            && !last.tell(hand)
        {
            self.groups.pop();
        }
        !self.groups.is_empty()
    }
}
