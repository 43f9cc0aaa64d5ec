//! Delivery to many followers, a piece at a time, so that other feeds need not wait for long.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Entry, Hand,
    follower::{Follower, Followers, Leaving},
};

/// Entries that wait. When there are so many, what is pushed beyond is read from the store in its turn.
const MAX_ENTRIES: usize = 64;

/// Least time from one round through many followers to the next. Entries that come meanwhile are handed out together: each follower is
/// woken, and its connection written to, once for all of them.
const ROUND: Duration = Duration::from_millis(20);
/// Entries of a round, and what they may come to beside other things in a mailbox. When so many wait, the next round begins at once.
const ROUND_ENTRIES: usize = 16;
const ROUND_BYTES: usize = 32 * 1024;

/// Entries on their way to followers, in their order. Those of a round are handed to all before the next ones are.
pub(super) struct Walk {
    /// When `step` has something to do.
    pub(super) due: Instant,
    began: Instant,
    /// Entries of this round; none between two rounds.
    round: Vec<Arc<Entry>>,
    /// The last follower that has the entries of this round. The followers after it are next.
    after: Option<Follower>,
    /// Entries of the next rounds.
    waiting: VecDeque<Arc<Entry>>,
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
        let after = live.hand(std::slice::from_ref(entry), None, hand)?;
        let round = vec![Arc::clone(entry)];
        Some(Box::new(Self { due: now, began: now, round, after: Some(after), waiting: VecDeque::new() }))
    }

    pub(super) fn is_full(&self) -> bool {
        self.round.len() + self.waiting.len() >= MAX_ENTRIES
    }

    /// A page, and what was pushed before its turn, go beyond the bound: neither comes again before the walk is over.
    pub(super) fn push(&mut self, entry: Arc<Entry>) {
        self.waiting.push_back(entry);
        if self.round.is_empty() && self.fills_a_round() {
            self.due = self.began;
        }
    }

    /// Hands out a piece if it is time. True until a round has passed in which nothing came.
    pub(super) fn step(&mut self, live: &mut Followers, now: Instant, hand: &mut impl Hand) -> bool {
        if live.is_empty() {
            return false;
        }
        if self.due > now {
            return true;
        }
        if self.round.is_empty() {
            let next = self.next_round();
            (self.round, self.began) = (self.waiting.drain(..next).collect(), now);
        }
        if self.round.is_empty() {
            return false;
        }
        self.after = live.hand(&self.round, self.after, hand);
        if self.after.is_none() {
            self.round.clear();
            self.due = if self.fills_a_round() { now } else { self.began + ROUND };
        }
        true
    }

    /// How many of those that wait are the next round.
    fn next_round(&self) -> usize {
        let mut bytes = 0;
        let fits = |entry: &&Arc<Entry>| {
            bytes += entry.size();
            bytes <= ROUND_BYTES
        };
        let fitting = self.waiting.iter().take(ROUND_ENTRIES).take_while(fits).count();
        fitting.max(usize::from(!self.waiting.is_empty()))
    }

    fn fills_a_round(&self) -> bool {
        self.waiting.len() >= ROUND_ENTRIES || self.next_round() < self.waiting.len()
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
