//! The timelines that one connection follows, and its requests to their feeds.

use std::{collections::BTreeSet, time::Instant};

use carillon_proto::{GroupId, Position, TimelineId, pb::store::Head};

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
    /// The session asks how far these groups reach. Those that are known are answered at once by `Input::Begun`, the others later.
    Begin(Vec<GroupId>),
    /// The session no longer follows the timeline.
    Leave(TimelineId),
    /// The session asks for entries. Answered at once by `Input::Joined`.
    Join(TimelineId, Join),
    /// The session takes no more entries until it joins again.
    Fall(TimelineId),
    /// The client's own message has a position.
    Own(TimelineId, Own),
    /// The store reports that the timeline reaches at least this far.
    Reaches { timeline: TimelineId, incarnation: u64, position: Position },
}

/// The answer of feeds to a session, which is there at once.
#[derive(Debug)]
pub(crate) enum FeedAnswer {
    Joined(JoinedFeed),
    Begun(Vec<Begun>),
}

/// A group, and how far it reaches. `None`: there is no such group.
pub(crate) type Begun = (GroupId, Option<Head>);

/// The timelines that one connection follows. `leave` ends it, once.
pub(crate) struct Follows {
    who: Follower,
    timelines: Vec<TimelineId>,
    groups: BTreeSet<GroupId>,
}

impl Follows {
    pub(crate) fn new(who: Follower) -> Self {
        Self { who, timelines: Vec::new(), groups: BTreeSet::new() }
    }

    /// `Some` in answer to `Join` and `Begin`.
    pub(crate) fn ask(
        &mut self,
        feeds: &Feeds,
        ask: &FeedAsk,
        now: Instant,
        hand: &mut impl Hand,
    ) -> Option<FeedAnswer> {
        let who = self.who;
        match ask {
            FeedAsk::Expect(timeline) => self.expect(feeds, timeline),
            FeedAsk::Begin(groups) => {
                let known = feeds.begin(groups, who);
                return (!known.is_empty()).then_some(FeedAnswer::Begun(known));
            }
            FeedAsk::Leave(timeline) => self.leave_one(feeds, timeline),
            FeedAsk::Join(timeline, join) => {
                return feeds.join(timeline, who, join, now, hand).map(FeedAnswer::Joined);
            }
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
        for group in std::mem::take(&mut self.groups) {
            feeds.leave(&TimelineId::Group(group), self.who);
        }
    }

    fn leave_one(&mut self, feeds: &Feeds, timeline: &TimelineId) {
        let followed = match timeline {
            TimelineId::Group(group) => self.groups.remove(group),
            TimelineId::Inbox(_) => {
                let place = self.timelines.iter().position(|known| known == timeline);
                place.map(|place| self.timelines.swap_remove(place)).is_some()
            }
        };
        if followed {
            feeds.leave(timeline, self.who);
        }
    }

    fn expect(&mut self, feeds: &Feeds, timeline: &TimelineId) {
        if let TimelineId::Group(group) = timeline {
            if !self.groups.contains(group) {
                self.groups.extend(feeds.expect(timeline));
            }
            return;
        }
        if !self.timelines.contains(timeline) {
            // Nearly all follow one timeline, for which the default capacity of four is too much.
            self.timelines.reserve_exact(1);
            self.timelines.push(timeline.clone());
            feeds.expect(timeline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn all_who_follow_a_group_share_its_id() {
        let feeds = Feeds::new(Duration::ZERO);
        let ids = [1, 2].map(|number| {
            let mut follows = Follows::new(Follower(number));
            follows.expect(&feeds, &TimelineId::Group(GroupId::new("club").expect("valid")));
            follows.groups.pop_first().expect("followed")
        });
        assert!(std::ptr::eq(ids[0].as_str(), ids[1].as_str()));
    }
}
