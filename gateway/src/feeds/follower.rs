//! The followers of a feed, and how they get its entries.

use std::sync::Arc;

use carillon_proto::{GroupId, pb::store::Head};

use super::{Entry, FeedId, TimelineName};

/// A connection that follows feeds, by its number. A process never reuses numbers, so they need no generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Follower(pub(crate) u64);

/// Stands for no connection; the numbers of connections start at 1.
pub(crate) const NOBODY: u64 = 0;

/// Why a feed has ended for its followers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The timeline has another epoch now.
    Restored,
    /// The account that owns the inbox has ended.
    AccountEnded,
    /// The group is deleted.
    GroupEnded,
}

/// Why a feed delivers no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// The session catches up by itself: it had no room, or the feed had to continue without it.
    Fallen,
    Ended(Ending),
}

/// Receives a feed's entries for its followers.
pub(crate) trait Hand {
    /// False if there is no room for all of them: the follower is told that it has fallen behind, and is no longer live.
    fn entries(&mut self, to: Follower, entries: &[Arc<Entry>]) -> bool;

    /// The follower is no longer live.
    fn left(&mut self, to: Follower, feed: FeedId, timeline: &Arc<TimelineName>, why: Left);

    /// The follower has asked how far this group reaches. `None`: there is no such group.
    fn begun(&mut self, to: Follower, group: &GroupId, head: Option<Head>);
}

/// Most followers that get an entry at once, under one lock. Small in tests, where few sessions follow a feed.
const PIECE: usize = if cfg!(test) { 2 } else { 256 };

/// The followers that have everything the feed has delivered, or will get it in their turn, ordered by number: new ones
/// have the highest.
#[derive(Debug, Default)]
pub(super) struct Followers(Vec<Follower>);

impl Followers {
    pub(super) fn add(&mut self, who: Follower) {
        // Nearly always a new connection, which has the highest number: a search would touch many lines of a long list.
        let place = match self.0.last() {
            Some(last) if *last >= who => self.0.binary_search(&who),
            _ => Err(self.0.len()),
        };
        if let Err(place) = place {
            // Most feeds have one follower, and many followers are more than a connection needs: room for some more, not twice as many.
            if self.0.len() == self.0.capacity() {
                self.0.reserve_exact(1 + self.0.len() / 4);
            }
            self.0.insert(place, who);
        }
    }

    pub(super) fn remove(&mut self, who: Follower) {
        if let Ok(place) = self.0.binary_search(&who) {
            self.0.remove(place);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn all(&self) -> Vec<Follower> {
        self.0.clone()
    }

    /// True if no other follower is live.
    pub(super) fn at_most(&self, who: Follower) -> bool {
        self.0.is_empty() || self.0 == [who]
    }

    /// Hands the entries to the next followers after `after`, at most `PIECE`. Returns the last of them if more remain.
    pub(super) fn hand(
        &mut self,
        entries: &[Arc<Entry>],
        after: Option<Follower>,
        hand: &mut impl Hand,
    ) -> Option<Follower> {
        let begin = after.map_or(0, |after| self.0.partition_point(|follower| *follower <= after));
        let end = self.0.len().min(begin + PIECE);
        let last = (end < self.0.len()).then(|| self.0[end - 1]);
        let mut kept = begin;
        for place in begin..end {
            let follower = self.0[place];
            if hand.entries(follower, entries) {
                self.0[kept] = follower;
                kept += 1;
            }
        }
        self.0.drain(kept..end);
        last
    }

    /// No follower is live any more; the result tells them why.
    pub(super) fn leave(&mut self, feed: FeedId, timeline: &Arc<TimelineName>, why: Left) -> Leaving {
        Leaving { followers: std::mem::take(&mut self.0), feed, timeline: Arc::clone(timeline), why }
    }
}

/// Followers that have to be told that the feed delivers nothing more to them.
pub(super) struct Leaving {
    followers: Vec<Follower>,
    feed: FeedId,
    timeline: Arc<TimelineName>,
    why: Left,
}

impl Leaving {
    /// Tells at most `PIECE` of them. True if more remain.
    pub(super) fn tell(&mut self, hand: &mut impl Hand) -> bool {
        let rest = self.followers.len().saturating_sub(PIECE);
        for follower in self.followers.drain(rest..) {
            hand.left(follower, self.feed, &self.timeline, self.why);
        }
        rest > 0
    }
}
