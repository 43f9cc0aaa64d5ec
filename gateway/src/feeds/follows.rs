//! The timelines that one connection follows, and its requests to their feeds.

use std::time::Instant;

use carillon_proto::{Position, TimelineId};

use super::{
    feed::{Join, JoinedFeed, Own},
    follower::{Follower, Hand},
    table::Feeds,
};

/// A session's request to a feed of this gateway.
#[derive(Debug)]
pub(crate) enum FeedAsk {
    /// The session is about to follow the timeline: pushes are remembered from now on. Precedes every other request for
    /// it.
    Expect(TimelineId),
    /// The session asks for entries. Answered at once by `Input::Joined`.
    Join(TimelineId, Join),
    /// The session takes no more entries until it joins again.
    Fall(TimelineId),
    /// The client's own message has a position.
    Own(TimelineId, Own),
    /// The store reports that the timeline reaches at least this far.
    Reaches { timeline: TimelineId, incarnation: u64, position: Position },
}

/// The timelines that one connection follows. `leave` ends it, once.
pub(crate) struct Follows {
    who: Follower,
    timelines: Vec<TimelineId>,
}

impl Follows {
    pub(crate) fn new(who: Follower) -> Self {
        Self { who, timelines: Vec::new() }
    }

    /// `Some` in answer to `Join`.
    pub(crate) fn ask(
        &mut self,
        feeds: &Feeds,
        ask: &FeedAsk,
        now: Instant,
        hand: &mut impl Hand,
    ) -> Option<JoinedFeed> {
        let who = self.who;
        match ask {
            FeedAsk::Expect(timeline) => self.expect(feeds, timeline),
            FeedAsk::Join(timeline, join) => return feeds.join(timeline, who, join, now, hand),
            FeedAsk::Fall(timeline) => feeds.fall(timeline, who),
            FeedAsk::Own(timeline, own) => feeds.own(timeline, who, own, now, hand),
            FeedAsk::Reaches { timeline, incarnation, position } => {
                feeds.reaches(timeline.into(), *incarnation, *position, now);
            }
        }
        None
    }

    pub(crate) fn leave(&mut self, feeds: &Feeds) {
        for timeline in self.timelines.drain(..) {
            feeds.leave(&timeline, self.who);
        }
    }

    fn expect(&mut self, feeds: &Feeds, timeline: &TimelineId) {
        if !self.timelines.contains(timeline) {
            // Nearly all follow one timeline, for which the default capacity of four is too much.
            self.timelines.reserve_exact(1);
            self.timelines.push(timeline.clone());
            feeds.expect(timeline);
        }
    }
}
