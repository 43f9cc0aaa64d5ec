//! The feed of a timeline on this gateway: order, followers, and recent entries.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use carillon_proto::{Epoch, Position, TimelineId, pb::store::Head};

use super::{
    delivery::{Arrival, Delivery},
    entry::{Came, Entry, TimelineName},
    follower::{Ending, Follower, Followers, Hand, Leaving, Left},
    read_page::{ReadFailed, ReadPage},
    recent::{KEEP_RECENT, RecentEntries},
    walk::{Goodbyes, Walk},
};
use crate::metrics;

/// Identifies one life of a feed. A process never reuses a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FeedId(pub(crate) u64);

/// An envelope pushed by a router.
pub(super) struct Push {
    /// The incarnation of the account that owns the inbox; 0 for a group.
    pub(super) incarnation: u64,
    pub(super) position: Position,
    pub(super) envelope: Bytes,
    pub(super) traceparent: String,
    /// The connection that sent it.
    pub(super) sender: Option<Follower>,
}

/// A session's request to receive entries, and how far it is.
#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) incarnation: u64,
    /// 0: the timeline did not exist when the session last heard of it.
    pub(crate) epoch: Epoch,
    /// The position that it needs next.
    pub(crate) next: u64,
    /// The highest position that it knows.
    pub(crate) head: u64,
}

impl Join {
    /// Of a session that has everything of a group.
    pub(super) fn with_all(head: &Head) -> Self {
        Self { incarnation: 0, epoch: Epoch(head.epoch), next: head.last + 1, head: head.last }
    }
}

/// The feed's answer to `Join`.
#[derive(Debug)]
pub(crate) enum Joined {
    /// The follower gets all later entries.
    Live,
    /// The follower is live after these entries, which it needs next.
    Replay(Vec<Arc<Entry>>),
    /// The follower is not live: the entries that it needs next have to be read from the store.
    Read,
    /// The follower can't join: its timeline or its session is outdated.
    Ended(Ending),
}

/// The answer to `Join`, with the id that the feed has from now on.
#[derive(Debug)]
pub(crate) struct JoinedFeed {
    pub(crate) feed: FeedId,
    pub(crate) timeline: Arc<TimelineName>,
    pub(crate) how: Joined,
}

/// A follower's own message was accepted.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) incarnation: u64,
    pub(crate) position: Position,
    /// The client learned the position from `Accepted` and gets no entry.
    pub(crate) counted: bool,
}

pub(super) struct Feed {
    pub(super) id: FeedId,
    timeline: Arc<TimelineName>,
    /// Sessions that are live, catching up, or about to join. A feed without any is removed at once.
    pub(super) attached: u32,
    /// When the table next visits the feed.
    pub(super) scheduled: Option<Instant>,
    goodbyes: Option<Box<Goodbyes>>,
    state: State,
}

enum State {
    /// A session is signing in, and will tell where the timeline is.
    Expected(Expected),
    Following(Following),
}

#[derive(Default)]
struct Expected {
    /// The highest position pushed meanwhile, with its incarnation.
    heard: Option<(u64, Position)>,
    /// True if an earlier push may have been for the session that joins next: then the store is asked.
    doubt: bool,
}

struct Following {
    incarnation: u64,
    order: Delivery<Arc<Entry>>,
    live: Followers,
    /// Entries that not all of them have been handed yet.
    walk: Option<Box<Walk>>,
    recent: Option<Box<RecentEntries>>,
}

impl Feed {
    pub(super) fn new(id: FeedId, timeline: TimelineName) -> Self {
        let timeline = Arc::new(timeline);
        let state = State::Expected(Expected::default());
        Self { id, timeline, attached: 0, scheduled: None, goodbyes: None, state }
    }

    pub(super) fn incarnation(&self) -> u64 {
        match &self.state {
            State::Expected(_) => 0,
            State::Following(this) => this.incarnation,
        }
    }

    pub(super) fn name(&self) -> &Arc<TimelineName> {
        &self.timeline
    }

    /// How far the feed knows its timeline to reach, if it does.
    pub(super) fn head(&self) -> Option<Position> {
        let State::Following(this) = &self.state else { return None };
        let epoch = this.order.epoch();
        (epoch.0 != 0).then_some(Position { epoch, seq: this.order.head() })
    }

    /// The store knows nothing of the timeline any more: it is asked again.
    pub(super) fn is_doubtful(&mut self, now: Instant) {
        if let State::Following(this) = &mut self.state {
            this.order.doubt(now);
        }
    }

    /// When `walk`, `begin_read` or `forget_recent` has something to do.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let goodbyes = self.goodbyes.as_ref().map(|goodbyes| goodbyes.since);
        let State::Following(this) = &self.state else { return goodbyes };
        let read = this.order.wake_at().filter(|_| !this.live.is_empty() && this.walk.is_none());
        let recent = this.recent.as_ref().map(|recent| recent.look_at);
        let walk = this.walk.as_ref().map(|walk| walk.due);
        [goodbyes, walk, read, recent].into_iter().flatten().min()
    }

    /// Goes on with what not all followers have been handed or told yet.
    pub(super) fn walk(&mut self, now: Instant, hand: &mut impl Hand) {
        self.goodbyes.take_if(|goodbyes| !goodbyes.step(hand));
        if let State::Following(Following { walk, live, .. }) = &mut self.state {
            walk.take_if(|walk| !walk.step(live, now, hand));
        }
    }

    pub(super) fn pushed(&mut self, push: Push, now: Instant, hand: &mut impl Hand) {
        let shared = self.attached > 1;
        match &mut self.state {
            State::Expected(expected) => hear(&mut expected.heard, push.incarnation, push.position),
            State::Following(this) => {
                if !this.is_of_this_life(push.incarnation, push.position.epoch) {
                    return this.order.doubt(now);
                }
                let Push { position, envelope, traceparent, sender, .. } = push;
                let entry = Entry::new(self.id, Arc::clone(&self.timeline), position, envelope, Came::Push);
                this.pushed(entry.pushed(sender, traceparent), shared, now, hand);
            }
        }
    }

    /// The timeline reaches at least this far: missing entries are read now.
    pub(super) fn reaches(&mut self, incarnation: u64, position: Position, now: Instant) {
        match &mut self.state {
            State::Expected(expected) => hear(&mut expected.heard, incarnation, position),
            State::Following(this) if this.is_of_this_life(incarnation, position.epoch) => {
                this.order.reaches(position, now);
            }
            State::Following(this) => this.order.doubt(now),
        }
    }

    /// A follower's own message was accepted.
    pub(super) fn own(&mut self, who: Follower, own: &Own, now: Instant, hand: &mut impl Hand) {
        let Own { incarnation, position, counted } = *own;
        let shared = self.attached > 1;
        let State::Following(this) = &mut self.state else { return };
        if !this.is_of_this_life(incarnation, position.epoch) {
            return this.order.doubt(now);
        }
        if counted && this.live.at_most(who) && this.walk.is_none() {
            // No other session waits for the entry, and no push of it will come.
            this.order.accepted(position, now);
            this.recent = None;
            this.hand_early(shared, now, hand);
        } else {
            this.order.heard_of(position, now);
        }
    }

    pub(super) fn join(
        &mut self,
        who: Follower,
        ask: &Join,
        grace: Duration,
        now: Instant,
        new_id: impl FnOnce() -> FeedId,
        hand: &mut impl Hand,
    ) -> JoinedFeed {
        let how = self.try_join(who, ask, grace, now, new_id, hand);
        JoinedFeed { feed: self.id, timeline: Arc::clone(&self.timeline), how }
    }

    fn try_join(
        &mut self,
        who: Follower,
        ask: &Join,
        grace: Duration,
        now: Instant,
        new_id: impl FnOnce() -> FeedId,
        hand: &mut impl Hand,
    ) -> Joined {
        let shared = self.attached > 1;
        let another = match &mut self.state {
            State::Expected(_) => true,
            State::Following(this) if ask.incarnation != this.incarnation => {
                if ask.incarnation < this.incarnation {
                    return Joined::Ended(Ending::AccountEnded);
                }
                // The name has another owner.
                let leaving = this.live.leave(self.id, &self.timeline, Left::Ended(Ending::AccountEnded));
                Goodbyes::add(&mut self.goodbyes, leaving, now, hand);
                true
            }
            State::Following(this) => match this.order.epoch() {
                epoch if ask.epoch.0 == 0 || epoch.0 == 0 || epoch == ask.epoch => false,
                _ if this.live.is_empty() => true,
                _ => {
                    // The epoch of the ask or that of the feed is outdated: the store will tell.
                    this.order.doubt(now);
                    return Joined::Ended(Ending::Restored);
                }
            },
        };
        if another {
            let expected = match &mut self.state {
                State::Expected(expected) => std::mem::take(expected),
                // Pushes that arrived meanwhile were not for the previous followers, and are dropped.
                State::Following(_) => {
                    self.id = new_id();
                    Expected { heard: None, doubt: true }
                }
            };
            TimelineName::begin_life(&mut self.timeline, self.id, ask.epoch);
            self.state = State::Following(Following::new(ask, expected, grace, now));
        }
        let State::Following(this) = &mut self.state else { unreachable!("it was made above") };
        this.join(who, ask, shared, now, hand)
    }

    /// The follower stops being live, and catches up.
    pub(super) fn fall(&mut self, who: Follower) {
        if let State::Following(this) = &mut self.state {
            this.live.remove(who);
        }
    }

    /// Followers that have everything that was delivered.
    pub(super) fn live(&self) -> Vec<Follower> {
        match &self.state {
            State::Following(this) => this.live.all(),
            _ => Vec::new(),
        }
    }

    /// The position from which a missing page is to be read now; `read` follows.
    pub(super) fn begin_read(&mut self, now: Instant) -> Option<u64> {
        match &mut self.state {
            // Sessions that catch up read by themselves.
            State::Following(this) if !this.live.is_empty() && this.walk.is_none() => this.order.begin_read(now),
            State::Following(_) | State::Expected(_) => None,
        }
    }

    pub(super) fn read(
        &mut self,
        read: Result<ReadPage, ReadFailed>,
        now: Instant,
        new_id: impl FnOnce() -> FeedId,
        hand: &mut impl Hand,
    ) {
        let shared = self.attached > 1;
        let State::Following(this) = &mut self.state else { return };
        let why = match read {
            Err(ReadFailed::ForNow) => return this.order.read_done(None, false, now),
            Err(ReadFailed::AccountEnded) => Ending::AccountEnded,
            Err(ReadFailed::Gone) if matches!(self.timeline.id, TimelineId::Group(_)) => Ending::GroupEnded,
            Err(ReadFailed::Gone) => return this.order.read_done(None, false, now),
            Ok(page)
                if this.order.heard_of(Position { epoch: page.epoch, seq: page.last }, now) == Arrival::OtherEpoch =>
            {
                Ending::Restored
            }
            Ok(page) => {
                let fallen = this.read(self.id, &self.timeline, page, shared, now, hand);
                return fallen.into_iter().for_each(|fallen| Goodbyes::add(&mut self.goodbyes, fallen, now, hand));
            }
        };
        let leaving = this.live.leave(self.id, &self.timeline, Left::Ended(why));
        Goodbyes::add(&mut self.goodbyes, leaving, now, hand);
        // Entries of this life may still wait in mailboxes. The session that joins next knows the timeline better.
        self.id = new_id();
        self.state = State::Expected(Expected { heard: None, doubt: true });
    }

    /// Drops recent entries that are too old.
    pub(super) fn forget_recent(&mut self, now: Instant) {
        if let State::Following(this) = &mut self.state {
            this.recent.take_if(|recent| {
                recent.look_at = recent.since + KEEP_RECENT;
                recent.look_at <= now
            });
        }
    }

    #[cfg(test)]
    pub(super) fn recent_bytes(&self) -> usize {
        match &self.state {
            State::Following(Following { recent: Some(recent), .. }) => recent.bytes,
            State::Following(_) | State::Expected(_) => 0,
        }
    }
}

impl Following {
    fn new(ask: &Join, expected: Expected, grace: Duration, now: Instant) -> Self {
        let mut this = Self {
            incarnation: ask.incarnation,
            order: Delivery::new(ask.epoch, ask.head, grace),
            live: Followers::default(),
            walk: None,
            recent: None,
        };
        if expected.doubt {
            this.order.doubt(now);
        }
        match expected.heard {
            Some((incarnation, position)) if this.is_of_this_life(incarnation, position.epoch) => {
                this.order.reaches(position, now);
            }
            Some(_) => this.order.doubt(now),
            None => {}
        }
        this
    }

    /// Epochs are never reused. A timeline comes into being with its first envelope: until then its incarnation
    /// identifies it.
    fn is_of_this_life(&self, incarnation: u64, epoch: Epoch) -> bool {
        match self.order.epoch() {
            Epoch(0) => incarnation == self.incarnation,
            own => own == epoch,
        }
    }

    fn pushed(&mut self, entry: Entry, shared: bool, now: Instant, hand: &mut impl Hand) {
        if self.live.is_empty() {
            // No session waits for missing entries before this one.
            self.skip_to(entry.position.seq);
        }
        // The entry is read in its turn.
        if self.walk.as_ref().is_some_and(|walk| walk.is_full()) {
            self.order.heard_of(entry.position, now);
            return;
        }
        // A frame's size fits.
        let (position, size) = (entry.position, entry.size() as u32);
        match self.order.pushed(position, Arc::new(entry), size, now) {
            (Arrival::Next, Some(entry)) => {
                self.hand(entry, shared, now, hand);
                self.hand_early(shared, now, hand);
            }
            (Arrival::Old, _) => metrics::out_of_turn("stale"),
            (Arrival::Later, _) => metrics::out_of_turn("early"),
            (Arrival::Next | Arrival::OtherEpoch, _) => {}
        }
    }

    fn hand_early(&mut self, shared: bool, now: Instant, hand: &mut impl Hand) {
        while let Some(entry) = self.order.take_buffered(now) {
            self.hand(entry, shared, now, hand);
        }
    }

    fn hand(&mut self, entry: Arc<Entry>, shared: bool, now: Instant, hand: &mut impl Hand) {
        match &mut self.walk {
            Some(walk) => walk.push(Arc::clone(&entry)),
            walk => *walk = Walk::begin(&entry, &mut self.live, now, hand),
        }
        // A session that is alone and live has had it.
        if shared || self.live.is_empty() {
            self.recent.get_or_insert_with(|| Box::new(RecentEntries::new(now))).push(entry, now);
        } else {
            self.recent = None;
        }
    }

    fn skip_to(&mut self, next: u64) {
        if next > self.order.next() {
            self.order.skip_to(next);
            self.recent = None;
        }
    }

    fn join(&mut self, who: Follower, ask: &Join, shared: bool, now: Instant, hand: &mut impl Hand) -> Joined {
        if ask.epoch.0 != 0 {
            self.order.heard_of(Position { epoch: ask.epoch, seq: ask.head }, now);
        }
        if self.live.is_empty() {
            self.skip_to(ask.next);
        }
        let joined = if ask.next >= self.order.next() {
            Joined::Live
        } else {
            match self.recent.as_ref().and_then(|recent| recent.from(ask.next)) {
                Some(entries) => Joined::Replay(entries),
                None => return Joined::Read,
            }
        };
        self.live.add(who);
        self.hand_early(shared, now, hand);
        joined
    }

    fn read(
        &mut self,
        id: FeedId,
        timeline: &Arc<TimelineName>,
        page: ReadPage,
        shared: bool,
        now: Instant,
        hand: &mut impl Hand,
    ) -> Option<Leaving> {
        let ReadPage { epoch, first, last, entries } = page;
        let before = self.order.next();
        // Each follower tells its client which entries are no longer kept.
        let fallen = (first > before).then(|| self.live.leave(id, timeline, Left::Fallen));
        self.skip_to(first);
        for (seq, envelope) in entries {
            if self.order.read(seq, now) {
                let entry = Entry::new(id, Arc::clone(timeline), Position { epoch, seq }, envelope, Came::Read);
                self.hand(Arc::new(entry), shared, now, hand);
            }
        }
        let progress = self.order.next() > before;
        self.order.read_done(Some(last), progress, now);
        self.hand_early(shared, now, hand);
        fallen
    }
}

/// The highest position of the epoch heard of last.
fn hear(heard: &mut Option<(u64, Position)>, incarnation: u64, position: Position) {
    match heard {
        Some((_, known)) if known.epoch == position.epoch => known.seq = known.seq.max(position.seq),
        _ => *heard = Some((incarnation, position)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nearly each connection has one. The loads of docs/speed.md measure the whole.
    #[test]
    fn a_feed_is_small() {
        let size = size_of::<Feed>();
        assert!(size <= 184, "{size} bytes");
    }
}
