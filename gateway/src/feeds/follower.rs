//! Who follows a feed, and how entries get to them.

use std::sync::Arc;

use super::{Entry, FeedId};

/// A connection that follows feeds, by its number. Numbers are never given twice in a process: there is no need for a
/// generation beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Follower(pub(crate) u64);

/// Stands for no connection; the numbers of connections begin with 1.
pub(crate) const NOBODY: u64 = 0;

/// Why a feed is no longer there for its followers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The timeline has another epoch now.
    Restored,
    /// The account whose inbox it is has ended.
    AccountEnded,
}

/// Why a feed hands over no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// There was no room, or the feed had to go on without this session: it catches up by itself.
    Fallen,
    Ended(Ending),
}

/// Takes what a feed has for a follower.
pub(crate) trait Hand {
    /// False if there is no room for it: the follower is told that it has fallen behind, and is not live any more.
    fn entry(&mut self, to: Follower, entry: &Arc<Entry>) -> bool;

    /// The follower is not live any more.
    fn left(&mut self, to: Follower, feed: FeedId, why: Left);
}

/// The followers that have all that the feed has handed out, in the order of their numbers: new ones have the highest.
#[derive(Debug, Default)]
pub(super) struct Followers(Vec<Follower>);

impl Followers {
    pub(super) fn add(&mut self, who: Follower) {
        if let Err(place) = self.0.binary_search(&who) {
            // Most feeds have one follower, for which the usual room for four is too much.
            if self.0.capacity() == 0 {
                self.0.reserve_exact(1);
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

    /// True if nobody else is live.
    pub(super) fn at_most(&self, who: Follower) -> bool {
        self.0.is_empty() || self.0 == [who]
    }

    pub(super) fn hand(&mut self, entry: &Arc<Entry>, hand: &mut impl Hand) {
        self.0.retain(|follower| hand.entry(*follower, entry));
    }

    /// Nobody is live any more.
    pub(super) fn leave(&mut self, feed: FeedId, why: Left, hand: &mut impl Hand) {
        for follower in std::mem::take(&mut self.0) {
            hand.left(follower, feed, why);
        }
    }
}
