//! The session's side of a feed: how far the session has a timeline, and how it gets the rest.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{Epoch, Position, TimelineId};

use super::{Came, Ending, Entry, FeedId, Follower, Join, Joined, JoinedFeed, RETRY, ReadPage, TimelineName};

/// Most entries held back for the answer to a send. Beyond it, the session joins anew and delivers them without
/// waiting.
const MAX_HELD: usize = 32;
/// How long the session waits for the answer to a send.
const HOLD: Duration = Duration::from_millis(50);

/// A timeline as one session follows it.
pub(crate) struct Followed {
    pub(crate) timeline: Arc<TimelineName>,
    feed: FeedId,
    /// 0: the timeline did not exist when the session last heard of it.
    epoch: Epoch,
    /// The next position for the client.
    next: u64,
    /// The highest known position.
    head: u64,
    /// The client learned this position of its own message from `Accepted`, ahead of its turn: its entry is not held.
    answered: u64,
    stage: Stage,
    /// The client does not read.
    paused: bool,
    /// When `step` has something to do.
    due: Option<Instant>,
    /// Entries held back, in order. The first is this client's own message, whose `Accepted` is on its way.
    #[expect(clippy::box_collection, reason = "nearly always none: 8 bytes instead of 32")]
    held: Option<Box<VecDeque<Arc<Entry>>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The feed delivers new entries.
    Live,
    /// The session joins the feed at `due`.
    Behind,
    /// A page from this position on is being read.
    Reading(u64),
}

/// Items for the client, in this order.
#[derive(Debug)]
pub(crate) enum Next {
    Entry(Arc<Entry>),
    /// Entries before this position are no longer kept.
    Trimmed(Arc<TimelineName>, Position),
}

/// The position belongs to another epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OtherEpoch;

impl Followed {
    /// The client has everything up to `from`; the timeline reaches to `head`. The first step is due at once.
    pub(crate) fn new(timeline: TimelineId, epoch: Epoch, from: u64, head: u64, now: Instant) -> Self {
        Self {
            timeline: Arc::new(TimelineName::new(timeline)),
            feed: FeedId(0),
            epoch,
            next: from + 1,
            head,
            answered: 0,
            stage: Stage::Behind,
            paused: false,
            due: Some(now),
            held: None,
        }
    }

    /// The session is live in this life of the timeline's feed, and its client has everything up to `given`.
    pub(crate) fn live(timeline: Arc<TimelineName>, given: u64) -> Self {
        let (feed, epoch) = timeline.life().unwrap_or((FeedId(0), Epoch(0)));
        Self {
            feed,
            epoch,
            timeline,
            next: given + 1,
            head: given,
            answered: 0,
            stage: Stage::Live,
            paused: false,
            due: None,
            held: None,
        }
    }

    /// True if nothing is lost when only the timeline's name and [`given`](Self::given) are kept.
    pub(crate) fn is_quiet(&self) -> bool {
        let is_of_its_life = self.timeline.life() == Some((self.feed, self.epoch));
        let waits = self.paused || self.due.is_some() || self.held.is_some() || self.lacks();
        self.stage == Stage::Live && is_of_its_life && !waits && self.answered <= self.given()
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The highest known position.
    pub(crate) fn head(&self) -> u64 {
        self.head.max(self.given())
    }

    /// The last position that the client was given, or has had before.
    pub(crate) fn given(&self) -> u64 {
        self.next - 1
    }

    /// True if the client lacks entries.
    pub(crate) fn lacks(&self) -> bool {
        self.next <= self.head
    }

    pub(crate) fn is_of(&self, feed: FeedId) -> bool {
        self.feed == feed
    }

    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.due.filter(|_| !self.paused)
    }

    /// Does what is due. True: the session joins the feed now, and `joined` follows.
    pub(crate) fn step(&mut self, me: Follower, now: Instant, out: &mut impl FnMut(Next)) -> bool {
        if self.paused || self.due.is_none_or(|due| due > now) {
            return false;
        }
        self.due = None;
        match self.stage {
            Stage::Behind => return true,
            Stage::Live => {
                // The answer to the send has not arrived.
                if let Some(entry) = self.held.as_mut().and_then(|held| held.pop_front()) {
                    self.deliver(entry, out);
                }
                self.release(me, now, out);
            }
            Stage::Reading(_) => {}
        }
        false
    }

    pub(crate) fn ask(&self, incarnation: u64) -> Join {
        Join { incarnation, epoch: self.epoch, next: self.next, head: self.head() }
    }

    /// `Some`: a page from this position on has to be read from the store; `read` follows.
    pub(crate) fn joined(&mut self, joined: JoinedFeed, out: &mut impl FnMut(Next)) -> Result<Option<u64>, Ending> {
        (self.feed, self.timeline) = (joined.feed, joined.timeline);
        match joined.how {
            Joined::Live => self.stage = Stage::Live,
            Joined::Replay(entries) => {
                self.stage = Stage::Live;
                for entry in entries {
                    self.deliver(entry, out);
                }
            }
            Joined::Read => {
                self.stage = Stage::Reading(self.next);
                return Ok(Some(self.next));
            }
            Joined::Ended(why) => return Err(why),
        }
        Ok(None)
    }

    /// The feed delivers this entry. True: this session takes no more until it joins again, and the feed has to be
    /// told.
    pub(crate) fn entry(&mut self, entry: Arc<Entry>, me: Follower, now: Instant, out: &mut impl FnMut(Next)) -> bool {
        let seq = entry.position.seq;
        // The session fell behind after this was delivered, or its client has it by `Accepted`.
        if self.stage != Stage::Live || seq < self.next {
            return false;
        }
        // A first answer has told another epoch than the entries that waited in the mailbox: the feed or the session is outdated.
        if self.epoch.0 != 0 && self.epoch != entry.position.epoch {
            return self.fall(now);
        }
        let is_own = self.waits(&entry, me);
        match &mut self.held {
            None if seq != self.next => return self.fall(now),
            None if !is_own => self.deliver(entry, out),
            Some(held) if held.len() >= MAX_HELD => return self.fall(now),
            held => {
                held.get_or_insert_default().push_back(entry);
                self.due.get_or_insert(now + HOLD);
            }
        }
        false
    }

    /// As `fallen`. True: the feed has to be told.
    pub(crate) fn fall_live(&mut self, now: Instant) -> bool {
        self.stage == Stage::Live && self.fall(now)
    }

    /// The mailbox was full, or the feed had to continue without this session.
    pub(crate) fn fallen(&mut self, now: Instant) {
        if self.stage == Stage::Live {
            self.fall(now);
        }
    }

    /// The position of the client's own message. True if the client counts its `Accepted`, which must be told before
    /// the items that `out` gets here.
    pub(crate) fn accepted(
        &mut self,
        position: Position,
        me: Follower,
        now: Instant,
        out: &mut impl FnMut(Next),
    ) -> Result<bool, OtherEpoch> {
        self.reaches(position)?;
        let counted = position.seq == self.next;
        if counted {
            self.next += 1;
            self.release(me, now, out);
        } else {
            self.answered = self.answered.max(position.seq);
        }
        Ok(counted)
    }

    /// The timeline reaches at least this far.
    pub(crate) fn reaches(&mut self, position: Position) -> Result<(), OtherEpoch> {
        if self.epoch.0 == 0 {
            self.epoch = position.epoch;
        }
        if self.epoch != position.epoch {
            return Err(OtherEpoch);
        }
        self.head = self.head.max(position.seq);
        Ok(())
    }

    /// Pauses until `resume`, except for a page that is being read. True: the feed has to be told, as after `entry`.
    pub(crate) fn pause(&mut self, now: Instant) -> bool {
        self.paused = true;
        self.stage == Stage::Live && self.fall(now)
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(crate) fn resume(&mut self) {
        self.paused = false;
    }

    /// The page that was requested; `None` if the read failed.
    pub(crate) fn read(
        &mut self,
        page: Option<ReadPage>,
        now: Instant,
        out: &mut impl FnMut(Next),
    ) -> Result<(), OtherEpoch> {
        let Stage::Reading(from) = self.stage else { return Ok(()) };
        self.stage = Stage::Behind;
        if let Some(ReadPage { epoch, first, last, entries }) = page {
            self.reaches(Position { epoch, seq: last })?;
            if first > self.next {
                self.next = first;
                out(Next::Trimmed(Arc::clone(&self.timeline), Position { epoch, seq: first }));
            }
            for (seq, envelope) in entries {
                // The client may have counted some of the entries meanwhile.
                if seq == self.next {
                    let timeline = Arc::clone(&self.timeline);
                    let entry = Entry::new(self.feed, timeline, Position { epoch, seq }, envelope, Came::Read);
                    self.deliver(Arc::new(entry), out);
                }
            }
        }
        self.due = Some(if self.next > from { now } else { now + RETRY });
        Ok(())
    }

    fn deliver(&mut self, entry: Arc<Entry>, out: &mut impl FnMut(Next)) {
        if entry.position.seq == self.next {
            self.epoch = entry.position.epoch;
            self.next += 1;
            out(Next::Entry(entry));
        }
    }

    /// Delivers held entries up to the next own message without an answer.
    fn release(&mut self, me: Follower, now: Instant, out: &mut impl FnMut(Next)) {
        let Some(mut held) = self.held.take() else { return };
        while let Some(entry) = held.front()
            && (entry.position.seq < self.next || !self.waits(entry, me))
        {
            self.deliver(Arc::clone(entry), out);
            held.pop_front();
        }
        self.due = None;
        if !held.is_empty() {
            self.held = Some(held);
            self.due = Some(now + HOLD);
        }
    }

    /// True if this client sent it, and the answer to the send is on its way.
    fn waits(&self, entry: &Entry, me: Follower) -> bool {
        entry.sender == Some(me) && entry.position.seq > self.answered
    }

    /// Returns true, because the feed has to be told.
    fn fall(&mut self, now: Instant) -> bool {
        self.stage = Stage::Behind;
        self.held = None;
        self.due = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each idle connection has one `Followed` and one `Delivery` in memory. docs/speed.md has the memory of a whole connection.
    #[test]
    fn who_follows_a_feed_is_small() {
        assert_eq!(size_of::<Follower>(), 8);
        let size = size_of::<Followed>();
        assert!(size <= 112, "{size} bytes");
    }
}
