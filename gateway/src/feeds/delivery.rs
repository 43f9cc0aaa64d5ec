//! The order of one timeline: each position once, without gaps, whatever order pushes come in.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use carillon_proto::{Epoch, Position};

use super::RETRY;

/// Most pushes kept because they came too early. Further ones are dropped, and read from the store in their turn.
const MAX_EARLY: usize = 64;
const MAX_EARLY_BYTES: u32 = 64 * 1024;

/// How far a feed has delivered its timeline. `P` is a pushed envelope.
pub(super) struct Delivery<P> {
    /// 0: the timeline did not exist when it was last looked at.
    epoch: Epoch,
    next: u64,
    /// The highest known position.
    head: u64,
    reading: bool,
    /// True while the store has to confirm that the timeline is still the same. Only a successful read that began after
    /// the doubt ends it.
    doubt: bool,
    /// The read in flight began in doubt.
    doubted: bool,
    /// When to ask the store. `None` when there is neither gap nor doubt.
    due: Option<Instant>,
    early: BTreeMap<u64, (P, u32)>,
    early_bytes: u32,
    grace_ms: u32,
}

/// How a position that arrived relates to the order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The next position; it counts as delivered now.
    Next,
    /// The envelope is kept, or will be read in its turn.
    Later,
    /// The position was delivered before.
    Old,
    /// The position belongs to another epoch of the timeline.
    OtherEpoch,
}

impl<P> Delivery<P> {
    /// Starts after `head`.
    pub(super) fn new(epoch: Epoch, head: u64, grace: Duration) -> Self {
        Self {
            epoch,
            next: head + 1,
            head,
            reading: false,
            doubt: false,
            doubted: false,
            due: None,
            early: BTreeMap::new(),
            early_bytes: 0,
            grace_ms: u32::try_from(grace.as_millis()).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The highest known position.
    pub(super) fn head(&self) -> u64 {
        self.head.max(self.next - 1)
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// An envelope was pushed. After `Next`, `take_buffered` may return more.
    pub(super) fn pushed(&mut self, position: Position, envelope: P, size: u32, now: Instant) -> (Arrival, Option<P>) {
        let heard = self.heard(position, true, now);
        match heard {
            Arrival::Next => return (heard, Some(envelope)),
            Arrival::Later if self.early.len() < MAX_EARLY && self.early_bytes + size <= MAX_EARLY_BYTES => {
                if self.early.insert(position.seq, (envelope, size)).is_none() {
                    self.early_bytes += size;
                }
            }
            Arrival::Later | Arrival::Old | Arrival::OtherEpoch => {}
        }
        (heard, None)
    }

    /// All followers have this position and everything before it.
    pub(super) fn accepted(&mut self, position: Position, now: Instant) {
        if self.enter_epoch(position.epoch) {
            self.skip_to(position.seq);
            self.heard(position, true, now);
        }
    }

    /// The timeline has this position. Missing positions are probably on their way.
    pub(super) fn heard_of(&mut self, position: Position, now: Instant) -> Arrival {
        self.heard(position, false, now)
    }

    /// Something arrived that can't belong to this epoch: the store will tell.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.doubt = true;
        self.due = Some(now);
    }

    /// The timeline reaches at least this far.
    pub(super) fn reaches(&mut self, position: Position, now: Instant) {
        if self.enter_epoch(position.epoch) && position.seq >= self.next {
            self.head = self.head.max(position.seq);
            self.due = Some(now);
        }
    }

    /// The next envelope, if it was pushed too early.
    pub(super) fn take_buffered(&mut self, now: Instant) -> Option<P> {
        while let Some(entry) = self.early.first_entry() {
            let seq = *entry.key();
            if seq > self.next {
                return None;
            }
            let (envelope, size) = entry.remove();
            self.early_bytes -= size;
            if seq == self.next {
                self.advance(now);
                return Some(envelope);
            }
        }
        None
    }

    /// The position to read from, if a read is due. `read_done` must follow.
    pub(super) fn begin_read(&mut self, now: Instant) -> Option<u64> {
        if self.reading || self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.reading = true;
        self.doubted = std::mem::take(&mut self.doubt);
        Some(self.next)
    }

    /// Makes `next` the next position to deliver; nobody needs the ones before it.
    pub(super) fn skip_to(&mut self, next: u64) {
        if next > self.next {
            self.next = next;
            self.head = self.head.max(next - 1);
            if self.next > self.head && !self.doubt {
                self.due = None;
            }
            self.drop_old();
        }
    }

    /// True if the envelope that was read is the next one.
    pub(super) fn read(&mut self, seq: u64, now: Instant) -> bool {
        if seq != self.next {
            return false;
        }
        self.advance(now);
        true
    }

    /// The read has finished. `last`: the head according to the store, `None` if the read failed.
    pub(super) fn read_done(&mut self, last: Option<u64>, progress: bool, now: Instant) {
        self.reading = false;
        self.drop_old();
        match last {
            // The store's answer is linearizable: reports of positions beyond it were wrong.
            Some(last) if !progress && last < self.next => self.head = self.next - 1,
            Some(last) => self.head = self.head.max(last),
            None => self.doubt |= self.doubted,
        }
        self.due = match self.next <= self.head {
            _ if self.doubt && last.is_some() => Some(now),
            _ if self.doubt => Some(now + RETRY),
            true if progress => Some(now),
            true => Some(now + RETRY),
            false => None,
        };
    }

    /// When `begin_read` has something to do.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        if self.reading { None } else { self.due }
    }

    fn heard(&mut self, position: Position, is_here: bool, now: Instant) -> Arrival {
        if !self.enter_epoch(position.epoch) {
            return Arrival::OtherEpoch;
        }
        if position.seq < self.next {
            return Arrival::Old;
        }
        self.head = self.head.max(position.seq);
        if position.seq == self.next && is_here {
            self.advance(now);
            return Arrival::Next;
        }
        if self.due.is_none() {
            self.due = Some(now + self.grace());
        }
        Arrival::Later
    }

    fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms.into())
    }

    /// A timeline comes into being with its first envelope.
    fn enter_epoch(&mut self, epoch: Epoch) -> bool {
        if self.epoch.0 == 0 && epoch.0 != 0 {
            self.epoch = epoch;
            self.next = 1;
        }
        self.epoch == epoch
    }

    fn advance(&mut self, now: Instant) {
        self.next += 1;
        self.head = self.head.max(self.next - 1);
        if !self.doubt {
            // The remaining gap is a new one.
            self.due = (self.next <= self.head).then_some(now + self.grace());
        }
    }

    fn drop_old(&mut self) {
        while let Some(entry) = self.early.first_entry() {
            if *entry.key() >= self.next {
                break;
            }
            let (_, size) = entry.remove();
            self.early_bytes -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_millis(20);

    fn at(seq: u64) -> Position {
        Position { epoch: Epoch(7), seq }
    }

    #[test]
    fn a_push_of_the_next_position_is_handed_out_and_an_old_one_dropped() {
        let now = Instant::now();
        let mut delivery = Delivery::new(Epoch(7), 3, GRACE);
        assert_eq!(delivery.pushed(at(4), (), 1, now).0, Arrival::Next);
        assert_eq!(delivery.pushed(at(4), (), 1, now).0, Arrival::Old);
        assert_eq!(delivery.begin_read(now + GRACE), None);
        assert_eq!(delivery.pushed(Position { epoch: Epoch(8), seq: 5 }, (), 1, now).0, Arrival::OtherEpoch);
    }

    #[test]
    fn a_gap_that_fills_itself_is_not_read() {
        let now = Instant::now();
        let mut delivery = Delivery::new(Epoch(7), 3, GRACE);
        assert_eq!(delivery.pushed(at(5), "five", 1, now), (Arrival::Later, None));
        assert_eq!(delivery.begin_read(now), None, "not yet");
        assert_eq!(delivery.pushed(at(4), "four", 1, now), (Arrival::Next, Some("four")));
        assert_eq!(delivery.take_buffered(now), Some("five"));
        assert_eq!(delivery.begin_read(now + GRACE), None);
        assert_eq!(delivery.wake_at(), None);
    }

    #[test]
    fn a_gap_that_stays_is_read_once() {
        let now = Instant::now();
        let mut delivery = Delivery::new(Epoch(7), 3, GRACE);
        delivery.pushed(at(5), (), 1, now);
        assert_eq!(delivery.begin_read(now + GRACE), Some(4));
        assert_eq!(delivery.begin_read(now + GRACE), None, "one at a time");
        delivery.read_done(None, false, now);
        assert_eq!(delivery.begin_read(now + GRACE), None, "not at once after a failure");
        assert_eq!(delivery.begin_read(now + RETRY), Some(4));
    }

    #[test]
    fn a_doubt_lasts_until_the_store_has_answered_a_read_that_began_after_it() {
        let now = Instant::now();
        let mut delivery = Delivery::new(Epoch(7), 3, GRACE);
        delivery.doubt(now);
        assert_eq!(delivery.begin_read(now), Some(4));
        delivery.read_done(None, false, now);
        assert_eq!(delivery.begin_read(now), None, "not at once after a failure");
        let now = now + RETRY;
        assert_eq!(delivery.begin_read(now), Some(4), "the read failed");
        delivery.doubt(now);
        delivery.read_done(Some(3), false, now);
        assert_eq!(delivery.begin_read(now), Some(4), "the read began before the doubt");
        delivery.read_done(Some(3), false, now);
        assert_eq!(delivery.wake_at(), None);
        delivery.doubt(now);
        assert_eq!(delivery.pushed(at(4), (), 1, now).0, Arrival::Next);
        delivery.skip_to(9);
        assert_eq!(delivery.begin_read(now), Some(9), "what was handed out meanwhile says nothing");
    }

    #[test]
    fn a_new_timeline_is_handed_out_from_its_first_envelope() {
        let now = Instant::now();
        let mut delivery = Delivery::new(Epoch(0), 0, GRACE);
        assert_eq!(delivery.pushed(at(1), (), 1, now).0, Arrival::Next);
        assert_eq!(delivery.epoch(), Epoch(7));
    }

    #[test]
    fn a_wrong_rumour_of_the_head_ends_with_the_stores_word() {
        let now = Instant::now();
        let mut delivery = Delivery::<()>::new(Epoch(7), 3, GRACE);
        delivery.reaches(at(9), now);
        assert_eq!(delivery.begin_read(now), Some(4));
        delivery.read_done(Some(3), false, now);
        assert_eq!(delivery.wake_at(), None);
    }
}
