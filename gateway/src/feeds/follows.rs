//! The timelines that one connection follows, and its requests to their feeds.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use carillon_proto::{
    GroupId, Position, TimelineId,
    pb::{
        client::{self, Start},
        store::Head,
    },
};

use super::{
    entry::TimelineName,
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
    /// The session is about to follow these groups, which it does not follow yet, and asks how far they reach. Names as the store tells
    /// them. Answered at once by `Input::Found`, and later by `Input::Begun` for groups of which nothing is known yet.
    Begin(Vec<(Bytes, Beginning)>),
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
    Found(FoundGroups),
}

/// The beginning of delivery in a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beginning {
    /// The position of the change by which the user is a member.
    pub(crate) since: u64,
    /// The device's position in the group, if it says so.
    pub(crate) given: Option<client::Position>,
    pub(crate) cursor: Option<client::Position>,
    pub(crate) start: Start,
}

/// The immediate answer about groups that a session begins to follow.
#[derive(Debug, Default)]
pub(crate) struct FoundGroups {
    /// The device has all of these, and the session gets what comes.
    pub(crate) live: Vec<LiveGroup>,
    /// The others, and how far they reach. `None`: that is told later.
    pub(crate) others: Vec<(GroupId, Beginning, Option<Head>)>,
}

/// A group of which the device has everything up to this position.
#[derive(Debug)]
pub(crate) struct LiveGroup {
    pub(crate) timeline: Arc<TimelineName>,
    pub(crate) given: u64,
}

/// A group, and how far it reaches. `None`: there is no such group.
pub(crate) type Begun = (GroupId, Option<Head>);

/// The timelines that one connection follows. `leave` ends it, once.
pub(crate) struct Follows {
    who: Follower,
    timelines: Vec<TimelineId>,
    groups: Vec<Arc<TimelineName>>,
}

impl Beginning {
    /// True if the device says that it has all there is, the change by which the user is a member included.
    pub(super) fn has_all(&self, head: &Head) -> bool {
        let all = client::Position { epoch: head.epoch, seq: head.last };
        all.epoch != 0 && self.given == Some(all) && self.since <= head.last
    }
}

impl Follows {
    pub(crate) fn new(who: Follower) -> Self {
        Self { who, timelines: Vec::new(), groups: Vec::new() }
    }

    /// `Some` in answer to `Join` and `Begin`.
    pub(crate) fn ask(
        &mut self,
        feeds: &Feeds,
        ask: FeedAsk,
        now: Instant,
        hand: &mut impl Hand,
    ) -> Option<FeedAnswer> {
        let who = self.who;
        match ask {
            FeedAsk::Expect(timeline) => self.expect(feeds, &timeline),
            FeedAsk::Begin(groups) => {
                self.groups.reserve_exact(groups.len());
                return Some(FeedAnswer::Found(feeds.begin(groups, who, &mut self.groups, now, hand)));
            }
            FeedAsk::Leave(timeline) => self.leave_one(feeds, &timeline),
            FeedAsk::Join(timeline, join) => {
                return feeds.join(&timeline, who, &join, now, hand).map(FeedAnswer::Joined);
            }
            FeedAsk::Fall(timeline) => feeds.fall(&timeline, who),
            FeedAsk::Own(timeline, own) => feeds.own(&timeline, who, &own, now, hand),
            FeedAsk::Reaches { timeline, incarnation, position } => {
                feeds.reaches((&timeline).into(), incarnation, position, now);
            }
        }
        None
    }

    pub(crate) fn leave(&mut self, feeds: &Feeds) {
        for timeline in self.timelines.drain(..) {
            feeds.leave(&timeline, self.who);
        }
        for group in std::mem::take(&mut self.groups) {
            feeds.leave(&group.id, self.who);
        }
    }

    fn leave_one(&mut self, feeds: &Feeds, timeline: &TimelineId) {
        let followed = match timeline {
            TimelineId::Group(_) => {
                let place = self.groups.iter().position(|known| known.id == *timeline);
                place.map(|place| self.groups.swap_remove(place)).is_some()
            }
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
        if let TimelineId::Group(_) = timeline {
            if !self.groups.iter().any(|known| known.id == *timeline) {
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
    fn all_who_follow_a_group_share_its_name() {
        let feeds = Feeds::new(Duration::ZERO);
        let ids = [1, 2].map(|number| {
            let mut follows = Follows::new(Follower(number));
            follows.expect(&feeds, &TimelineId::Group(GroupId::new("club").expect("valid")));
            follows.groups.pop().expect("followed")
        });
        assert!(Arc::ptr_eq(&ids[0], &ids[1]));
    }
}
