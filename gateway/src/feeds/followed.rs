//! The other half of a feed: how far one session has one timeline, and how it gets the rest.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{Epoch, Position, TimelineId};

use super::{Entry, FeedId, Follower, Join, Joined, JoinedFeed, Origin, Over, Page, TimelineName};

/// Before a read is repeated that failed or brought nothing.
const RETRY: Duration = Duration::from_millis(500);
/// Entries that wait for the answer to a send. With more, the session catches up when it has the answer.
const MAX_HELD: usize = 32;

/// How long the answer to a send may be under way.
const HOLD: Duration = Duration::from_millis(50);

/// One timeline of one session.
pub(crate) struct Followed {
    pub(crate) timeline: Arc<TimelineName>,
    feed: FeedId,
    /// 0: the timeline did not exist when the session heard of it last.
    epoch: Epoch,
    /// The next position for the client.
    next: u64,
    /// The last one heard of.
    head: u64,
    /// The client knows this position of its own message by `Accepted`, which came before its turn: its entry is not held.
    answered: u64,
    pace: Pace,
    /// The client does not read.
    paused: bool,
    /// When `step` has something to do.
    due: Option<Instant>,
    /// Begins with an entry that this session's client sent: the answer to that says as much, and is under way. Positions
    /// follow each other.
    #[expect(clippy::box_collection, reason = "nearly always none: 8 bytes instead of 32")]
    held: Option<Box<VecDeque<Arc<Entry>>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// The feed hands over what comes.
    Live,
    /// It joins when that is due.
    Behind,
    /// A page is being read, from here.
    Reading(u64),
}

/// What a session does to get on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask the feed; `joined` follows.
    Join,
    /// Tell the feed that this session is not live any more.
    Fall,
    /// Read a page from the store, from here; `read` follows.
    Read(u64),
}

/// What goes to the client, in this order.
#[derive(Debug)]
pub(crate) enum Next {
    Entry(Arc<Entry>),
    /// What lay before the position is not kept any more.
    Trimmed(Arc<TimelineName>, Position),
}

/// It is of another life of the timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OtherEpoch;

impl Followed {
    /// The client has all up to `from`; the timeline reaches to `head`. The first step is due at once.
    pub(crate) fn new(timeline: TimelineId, epoch: Epoch, from: u64, head: u64, now: Instant) -> Self {
        Self {
            timeline: Arc::new(TimelineName::new(timeline)),
            feed: FeedId(0),
            epoch,
            next: from + 1,
            head,
            answered: 0,
            pace: Pace::Behind,
            paused: false,
            due: Some(now),
            held: None,
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last position that it has heard of.
    pub(crate) fn head(&self) -> u64 {
        self.head.max(self.next - 1)
    }

    /// Something has been heard of that its client has not.
    pub(crate) fn lacks(&self) -> bool {
        self.next <= self.head
    }

    pub(crate) fn is_of(&self, feed: FeedId) -> bool {
        self.feed == feed
    }

    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.due.filter(|_| !self.paused)
    }

    /// What is to be done now.
    pub(crate) fn step(&mut self, me: Follower, now: Instant, out: &mut impl FnMut(Next)) -> Option<Step> {
        if self.paused || self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.due = None;
        match self.pace {
            Pace::Behind => return Some(Step::Join),
            Pace::Live => {
                // The answer to the send has not come.
                if let Some(entry) = self.held.as_mut().and_then(|held| held.pop_front()) {
                    self.deliver(entry, out);
                }
                self.release(me, now, out);
            }
            Pace::Reading(_) => {}
        }
        None
    }

    pub(crate) fn ask(&self, incarnation: u64) -> Join {
        Join { incarnation, epoch: self.epoch, next: self.next, head: self.head() }
    }

    pub(crate) fn joined(&mut self, joined: JoinedFeed, out: &mut impl FnMut(Next)) -> Result<Option<Step>, Over> {
        (self.feed, self.timeline) = (joined.feed, joined.timeline);
        match joined.how {
            Joined::Live => self.pace = Pace::Live,
            Joined::Replay(entries) => {
                self.pace = Pace::Live;
                for entry in entries {
                    self.deliver(entry, out);
                }
            }
            Joined::Read => {
                self.pace = Pace::Reading(self.next);
                return Ok(Some(Step::Read(self.next)));
            }
            Joined::Over(over) => return Err(over),
        }
        Ok(None)
    }

    /// The feed has handed this over.
    pub(crate) fn entry(
        &mut self,
        entry: Arc<Entry>,
        me: Follower,
        now: Instant,
        out: &mut impl FnMut(Next),
    ) -> Option<Step> {
        let seq = entry.position.seq;
        // Handed over before it fell behind; or its client counts the answer to the send.
        if self.pace != Pace::Live || seq < self.next {
            return None;
        }
        let is_own = self.waits(&entry, me);
        match &mut self.held {
            None if seq != self.next => return Some(self.fall(now)),
            None if !is_own => self.deliver(entry, out),
            Some(held) if held.len() >= MAX_HELD => return Some(self.fall(now)),
            held => {
                held.get_or_insert_default().push_back(entry);
                self.due.get_or_insert(now + HOLD);
            }
        }
        None
    }

    /// The mailbox was full, or the feed had to go on without this session.
    pub(crate) fn fallen(&mut self, now: Instant) {
        if self.pace == Pace::Live {
            self.fall(now);
        }
    }

    /// The client's own message stands here. Says whether the client counts the answer in place of the entry: that comes
    /// before what is put out here.
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

    /// Nothing more goes to the client until `resume`.
    pub(crate) fn pause(&mut self, now: Instant) -> Option<Step> {
        self.paused = true;
        (self.pace == Pace::Live).then(|| self.fall(now))
    }

    pub(crate) fn resume(&mut self) {
        self.paused = false;
    }

    /// The page that was to be read; `None` if that failed.
    pub(crate) fn read(
        &mut self,
        page: Option<Page>,
        now: Instant,
        out: &mut impl FnMut(Next),
    ) -> Result<(), OtherEpoch> {
        let Pace::Reading(from) = self.pace else { return Ok(()) };
        self.pace = Pace::Behind;
        if let Some(Page { epoch, first, last, entries }) = page {
            self.reaches(Position { epoch, seq: last })?;
            if first > self.next {
                self.next = first;
                out(Next::Trimmed(Arc::clone(&self.timeline), Position { epoch, seq: first }));
            }
            for (seq, envelope) in entries {
                // Its client may have counted some meanwhile.
                if seq == self.next {
                    let timeline = Arc::clone(&self.timeline);
                    let entry = Entry::new(self.feed, timeline, Position { epoch, seq }, envelope, Origin::Read);
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

    /// What waited for an answer that has come, up to what waits for another one.
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

    /// The client sent it, and the answer to that is under way.
    fn waits(&self, entry: &Entry, me: Follower) -> bool {
        entry.sender == Some(me) && entry.position.seq > self.answered
    }

    fn fall(&mut self, now: Instant) -> Step {
        self.pace = Pace::Behind;
        self.held = None;
        self.due = Some(now);
        Step::Fall
    }
}
