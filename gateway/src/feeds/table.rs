//! All feeds of this gateway, by timeline.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use carillon_proto::{
    Epoch, GroupId, KeyedMap, Position, TimelineId, UserId,
    pb::{
        client::{self, timeline::Owner},
        link::{self, TimelineHead},
        store::Head,
    },
};
use parking_lot::Mutex;

use super::{
    entry::TimelineName,
    feed::{Feed, FeedId, Join, Joined, JoinedFeed, Own, Push},
    follower::{Follower, Hand, NOBODY},
    follows::{Beginning, FoundGroups, LiveGroup},
    read_page::{ReadFailed, ReadPage},
};

const SHARDS: usize = 32;

/// A feed for each timeline that a session follows: bounded by connections, because each `expect` without a `leave`
/// belongs to one. Sharded, so that pushes and joins seldom contend. A shard's lock protects the order in which
/// followers get entries, and is held while a piece of them does.
pub(crate) struct Feeds {
    shards: [Mutex<Shard>; SHARDS],
    grace: Duration,
    last_id: AtomicU64,
    /// Set when something became due sooner than before.
    moved: AtomicBool,
    /// Groups whose first session has come or whose last one has gone; bounded by the groups that sessions follow, and emptied soon.
    changed: Mutex<BTreeSet<GroupId>>,
}

#[derive(Default)]
struct Shard {
    /// Boxed, to keep the map's spare capacity small.
    inboxes: KeyedMap<UserId, Box<Feed>>,
    groups: KeyedMap<GroupId, Box<GroupFeed>>,
    /// When feeds are visited; at most one entry for each.
    timers: BTreeSet<(Instant, TimelineId)>,
}

/// The feed of a group, and what this gateway has heard of the group.
struct GroupFeed {
    feed: Feed,
    /// The head that the routers told last.
    head: Option<Head>,
    /// Sessions that have asked for it before it was known.
    waiting: Vec<Follower>,
}

/// The earlier and the present time of a feed's next visit.
struct Rescheduled {
    before: Option<Instant>,
    wake_at: Option<Instant>,
    /// No session needs the feed any more.
    is_over: bool,
}

/// A timeline's name as received, not validated. It is only looked up, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimelineRef<'a> {
    Inbox(&'a str),
    Group(&'a str),
}

/// Something that a feed needs from the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FeedRead {
    pub(crate) timeline: TimelineId,
    pub(crate) feed: FeedId,
    pub(crate) incarnation: u64,
    pub(crate) from: u64,
}

impl Feeds {
    /// `grace`: how long a missing push may be on its way before it is read.
    pub(crate) fn new(grace: Duration) -> Self {
        let (shards, last_id, moved) = (Default::default(), AtomicU64::new(0), AtomicBool::new(false));
        Self { shards, grace, last_id, moved, changed: Mutex::default() }
    }

    /// A session is about to follow the timeline. Pushes from now on are not lost for it. `leave` must follow. Returns the group's name,
    /// which all who follow it share.
    pub(super) fn expect(&self, timeline: &TimelineId) -> Option<Arc<TimelineName>> {
        let mut shard = self.shard(timeline.into()).lock();
        match timeline {
            TimelineId::Inbox(user) => {
                let new = || Box::new(Feed::new(self.new_id(), TimelineName::new(timeline.clone())));
                shard.inboxes.entry(user.clone()).or_insert_with(new).attached += 1;
                None
            }
            TimelineId::Group(group) => {
                let new = || Box::new(GroupFeed::new(self.new_id(), group));
                let known = shard.groups.entry(group.clone()).or_insert_with(new);
                known.feed.attached += 1;
                let (name, is_first) = (Arc::clone(known.feed.name()), known.feed.attached == 1);
                drop(shard);
                if is_first {
                    self.changed.lock().insert(group.clone());
                }
                Some(name)
            }
        }
    }

    /// Expects each of these groups, as `expect` does, and puts their names into `names`. A group of which the session's device has everything is
    /// joined at once. The heads of the others are told in the answer, or later if nobody knows them yet.
    pub(super) fn begin(
        &self,
        groups: Vec<(Bytes, Beginning)>,
        who: Follower,
        names: &mut Vec<Arc<TimelineName>>,
        now: Instant,
        hand: &mut impl Hand,
    ) -> FoundGroups {
        let mut found = FoundGroups { live: Vec::with_capacity(groups.len()), others: Vec::new() };
        for (name, beginning) in groups {
            let Ok(name) = std::str::from_utf8(&name) else { continue };
            let mut shard = self.shard(TimelineRef::Group(name)).lock();
            let mut begin = |known: &mut GroupFeed| {
                known.feed.attached += 1;
                names.push(Arc::clone(known.feed.name()));
                let head = known.known();
                if let Some(head) = head.filter(|head| beginning.has_all(head)) {
                    let ask = Join::with_all(&head);
                    let joined = known.feed.join(who, &ask, self.grace, now, || self.new_id(), hand);
                    if let Joined::Live = joined.how {
                        return found.live.push(LiveGroup { timeline: joined.timeline, given: head.last });
                    }
                }
                if head.is_none() {
                    known.waiting.push(who);
                }
                found.others.extend(known.group().map(|group| (group, beginning, head)));
            };
            let mut begun = shard.with_group(name, &mut begin);
            if begun.is_none() {
                let Ok(group) = GroupId::new(name) else { continue };
                shard.groups.insert(group.clone(), Box::new(GroupFeed::new(self.new_id(), &group)));
                self.changed.lock().insert(group);
                begun = shard.with_group(name, begin);
            }
            drop(shard);
            if let Some(((), true)) = begun {
                self.moved.store(true, Ordering::Release);
            }
        }
        found
    }

    /// The routers have told how far these groups reach; those that `heads` does not name do not exist.
    pub(crate) fn told(&self, groups: &[GroupId], heads: &[TimelineHead], now: Instant, hand: &mut impl Hand) {
        let heads: KeyedMap<&str, Head> = heads.iter().filter_map(head_of_group).collect();
        for group in groups {
            let timeline = TimelineRef::Group(group.as_str());
            let head = heads.get(group.as_str()).copied();
            let mut shard = self.shard(timeline).lock();
            let Some(known) = shard.groups.get_mut(group) else { continue };
            known.head = head;
            for follower in std::mem::take(&mut known.waiting) {
                hand.begun(follower, group, head);
            }
            drop(shard);
            match head {
                Some(Head { epoch, last, .. }) => {
                    self.reaches(timeline, 0, Position { epoch: Epoch(epoch), seq: last }, now);
                }
                None => drop(self.with(timeline, |feed| feed.is_doubtful(now))),
            }
        }
    }

    /// Groups that sessions have begun or ceased to follow since the last call, and whether any does now.
    pub(crate) fn take_changed(&self) -> Vec<(GroupId, bool)> {
        let changed = std::mem::take(&mut *self.changed.lock());
        let is_followed = |group: &GroupId| {
            let shard = self.shard(TimelineRef::Group(group.as_str())).lock();
            shard.groups.contains_key(group)
        };
        let followed = changed.into_iter().map(|group| {
            let is_followed = is_followed(&group);
            (group, is_followed)
        });
        followed.collect()
    }

    pub(crate) fn has_changed(&self) -> bool {
        !self.changed.lock().is_empty()
    }

    /// `None`: there was no `expect`.
    pub(super) fn join(
        &self,
        timeline: &TimelineId,
        who: Follower,
        ask: &Join,
        now: Instant,
        hand: &mut impl Hand,
    ) -> Option<JoinedFeed> {
        self.with(timeline.into(), |feed| feed.join(who, ask, self.grace, now, || self.new_id(), hand))
    }

    /// The follower stops being live, and catches up.
    pub(super) fn fall(&self, timeline: &TimelineId, who: Follower) {
        self.with(timeline.into(), |feed| feed.fall(who));
    }

    pub(super) fn leave(&self, timeline: &TimelineId, who: Follower) {
        let leave = |feed: &mut Feed| {
            feed.fall(who);
            feed.attached -= 1;
            feed.attached == 0
        };
        let TimelineId::Group(group) = timeline else {
            self.with(timeline.into(), leave);
            return;
        };
        let left = self.shard(timeline.into()).lock().with_group(group.as_str(), |known| {
            known.waiting.retain(|waiting| *waiting != who);
            leave(&mut known.feed)
        });
        if left.is_some_and(|(is_last, _)| is_last) {
            self.changed.lock().insert(group.clone());
        }
    }

    /// A router pushed an envelope. A push is only a hint.
    pub(crate) fn pushed(&self, push: link::Push, now: Instant, hand: &mut impl Hand) {
        let link::Push { timeline, position, envelope, traceparent, incarnation, sender_connection, .. } = push;
        let (Some(timeline), Some(position)) = (timeline.as_ref().and_then(TimelineRef::of), position) else { return };
        let sender = (sender_connection != NOBODY).then_some(Follower(sender_connection));
        let push = Push { incarnation, position: position.into(), envelope, traceparent, sender };
        self.with(timeline, |feed| feed.pushed(push, now, hand));
    }

    /// A router dropped pushes: the timeline reaches at least this far.
    pub(crate) fn behind(&self, behind: &link::Behind, now: Instant) {
        let link::Behind { timeline, position, incarnation, .. } = behind;
        let (Some(timeline), Some(position)) = (timeline.as_ref().and_then(TimelineRef::of), position) else { return };
        self.reaches(timeline, *incarnation, (*position).into(), now);
    }

    /// The timeline reaches at least this far: missing entries are read now.
    pub(super) fn reaches(&self, timeline: TimelineRef<'_>, incarnation: u64, position: Position, now: Instant) {
        self.with(timeline, |feed| feed.reaches(incarnation, position, now));
    }

    /// A follower's own message was accepted.
    pub(super) fn own(&self, timeline: &TimelineId, who: Follower, own: &Own, now: Instant, hand: &mut impl Hand) {
        self.with(timeline.into(), |feed| feed.own(who, own, now, hand));
    }

    /// Followers that have all entries that the group's feed has delivered. Others catch up, and miss what is worth nothing later.
    pub(crate) fn live_in_group(&self, group: &str) -> Vec<Follower> {
        let timeline = TimelineRef::Group(group);
        let shard = self.shard(timeline).lock();
        shard.groups.get(group).map_or_else(Vec::new, |known| known.feed.live())
    }

    /// True if something has become due since the last call; `wake_at` tells when.
    pub(crate) fn take_moved(&self) -> bool {
        self.moved.load(Ordering::Relaxed) && self.moved.swap(false, Ordering::AcqRel)
    }

    /// When `due` has something to do.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.shards.iter().filter_map(|shard| shard.lock().timers.first().map(|(at, _)| *at)).min()
    }

    /// The reads that are due. Each is answered by `read`. Also continues deliveries to many followers by one piece each.
    pub(crate) fn due(&self, now: Instant, hand: &mut impl Hand) -> Vec<FeedRead> {
        let mut reads = Vec::new();
        for shard in &self.shards {
            // Not locked for all of them: other callers get their turns in between.
            let due = shard.lock().due(now);
            for timeline in due {
                shard.lock().with((&timeline).into(), |feed| {
                    feed.walk(now, hand);
                    feed.forget_recent(now);
                    let (incarnation, feed_id) = (feed.incarnation(), feed.id);
                    if let Some(from) = feed.begin_read(now) {
                        reads.push(FeedRead { timeline: timeline.clone(), feed: feed_id, incarnation, from });
                    }
                });
            }
        }
        reads
    }

    pub(crate) fn read(
        &self,
        timeline: &TimelineId,
        feed_id: FeedId,
        read: Result<ReadPage, ReadFailed>,
        now: Instant,
        hand: &mut impl Hand,
    ) {
        self.with(timeline.into(), |feed| {
            // Another id means that all sessions for which the page was read are gone.
            if feed.id == feed_id {
                feed.read(read, now, || self.new_id(), hand);
            }
        });
    }

    #[cfg(test)]
    pub(crate) fn is_followed(&self, group: &GroupId) -> bool {
        self.shard(TimelineRef::Group(group.as_str())).lock().groups.contains_key(group)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| {
            let shard = shard.lock();
            shard.inboxes.is_empty() && shard.groups.is_empty() && shard.timers.is_empty()
        })
    }

    #[cfg(test)]
    pub(super) fn recent_bytes(&self) -> usize {
        let of_all =
            |shard: &Mutex<Shard>| shard.lock().inboxes.values().map(|feed| feed.recent_bytes()).sum::<usize>();
        self.shards.iter().map(of_all).sum()
    }

    fn new_id(&self) -> FeedId {
        FeedId(self.last_id.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn shard(&self, timeline: TimelineRef<'_>) -> &Mutex<Shard> {
        let (TimelineRef::Inbox(owner) | TimelineRef::Group(owner)) = timeline;
        let mut hasher = DefaultHasher::new();
        owner.hash(&mut hasher);
        &self.shards[(hasher.finish() % SHARDS as u64) as usize]
    }

    fn with<T>(&self, timeline: TimelineRef<'_>, work: impl FnOnce(&mut Feed) -> T) -> Option<T> {
        let (result, moved) = self.shard(timeline).lock().with(timeline, work)?;
        if moved {
            self.moved.store(true, Ordering::Release);
        }
        Some(result)
    }
}

impl Shard {
    /// The timelines whose visit is due.
    fn due(&self, now: Instant) -> Vec<TimelineId> {
        let due = self.timers.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, timeline)| timeline.clone()).collect()
    }

    /// Applies `work` to the feed, then schedules its next visit, or removes it if nobody needs it. Also returns
    /// whether the visit is sooner than before.
    fn with<T>(&mut self, timeline: TimelineRef<'_>, work: impl FnOnce(&mut Feed) -> T) -> Option<(T, bool)> {
        match timeline {
            TimelineRef::Inbox(user) => {
                let feed = self.inboxes.get_mut(user)?;
                let result = work(feed);
                let times = feed.reschedule();
                Some((result, self.settle(timeline, times)))
            }
            TimelineRef::Group(group) => self.with_group(group, |known| work(&mut known.feed)),
        }
    }

    /// As `with`.
    fn with_group<T>(&mut self, group: &str, work: impl FnOnce(&mut GroupFeed) -> T) -> Option<(T, bool)> {
        let known = self.groups.get_mut(group)?;
        let result = work(known);
        let times = known.feed.reschedule();
        Some((result, self.settle(TimelineRef::Group(group), times)))
    }

    /// Whether the next visit is sooner than before.
    fn settle(&mut self, timeline: TimelineRef<'_>, Rescheduled { before, wake_at, is_over }: Rescheduled) -> bool {
        if before != wake_at || is_over {
            self.schedule(timeline, before, wake_at, is_over);
        }
        wake_at.is_some_and(|at| before.is_none_or(|before| at < before))
    }

    fn schedule(
        &mut self,
        timeline: TimelineRef<'_>,
        before: Option<Instant>,
        wake_at: Option<Instant>,
        is_over: bool,
    ) {
        let id = match timeline {
            TimelineRef::Inbox(user) => {
                self.inboxes.get_key_value(user).map(|(user, _)| TimelineId::Inbox(user.clone()))
            }
            TimelineRef::Group(group) => {
                self.groups.get_key_value(group).map(|(group, _)| TimelineId::Group(group.clone()))
            }
        };
        // The caller has just found the feed under this lock.
        let Some(id) = id else { return };
        if let Some(before) = before {
            self.timers.remove(&(before, id.clone()));
        }
        match (wake_at, timeline) {
            (Some(at), _) => drop(self.timers.insert((at, id))),
            (None, TimelineRef::Inbox(user)) if is_over => drop(self.inboxes.remove(user)),
            (None, TimelineRef::Group(group)) if is_over => drop(self.groups.remove(group)),
            (None, _) => {}
        }
    }
}

impl Feed {
    fn reschedule(&mut self) -> Rescheduled {
        let is_over = self.attached == 0;
        let wake_at = self.wake_at().filter(|_| !is_over);
        let before = std::mem::replace(&mut self.scheduled, wake_at);
        Rescheduled { before, wake_at, is_over }
    }
}

impl GroupFeed {
    fn new(id: FeedId, group: &GroupId) -> Self {
        let name = TimelineName::new(TimelineId::Group(group.clone()));
        Self { feed: Feed::new(id, name), head: None, waiting: Vec::new() }
    }

    /// The group's id, in the place where all who follow it share it.
    fn group(&self) -> Option<GroupId> {
        match &self.feed.name().id {
            TimelineId::Group(group) => Some(group.clone()),
            TimelineId::Inbox(_) => None,
        }
    }

    /// How far the group reaches, by what its feed has seen or the routers have told.
    fn known(&self) -> Option<Head> {
        match (self.feed.head(), self.head) {
            (Some(seen), Some(told)) if told.epoch == seen.epoch.0 => {
                Some(Head { last: told.last.max(seen.seq), ..told })
            }
            (Some(seen), _) => Some(Head { epoch: seen.epoch.0, first: 1, last: seen.seq, ..Head::default() }),
            (None, told) => told,
        }
    }
}

fn head_of_group(head: &TimelineHead) -> Option<(&str, Head)> {
    match TimelineRef::of(head.timeline.as_ref()?)? {
        TimelineRef::Group(group) => Some((group, head.head?)),
        TimelineRef::Inbox(_) => None,
    }
}

impl<'a> TimelineRef<'a> {
    /// `None` if no timeline is named.
    pub(crate) fn of(timeline: &'a client::Timeline) -> Option<Self> {
        Some(match timeline.owner.as_ref()? {
            Owner::Inbox(user) => Self::Inbox(user),
            Owner::Group(group) => Self::Group(group),
        })
    }
}

impl<'a> From<&'a TimelineId> for TimelineRef<'a> {
    fn from(timeline: &'a TimelineId) -> Self {
        match timeline {
            TimelineId::Inbox(user) => Self::Inbox(user.as_str()),
            TimelineId::Group(group) => Self::Group(group.as_str()),
        }
    }
}
