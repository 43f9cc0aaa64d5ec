//! The writes of one shard, kept in order across failures. See `StoreRequest.lane`.

use std::{collections::VecDeque, time::Duration};

use carillon_proto::AdmissionLimit;
use tokio::time::Instant;

/// Writes in flight; the others wait here. Fewer than a shard of the store queues.
const WINDOW: usize = 512;
/// While the store takes longer than this for a write, fewer writes may wait.
const IN_TIME: Duration = Duration::from_millis(250);
/// How long answers of a closed lane are awaited before the next one opens without them.
const GIVE_UP: Duration = Duration::from_millis(250);
/// A write without an answer for this long closes the lane: the leader may be gone without notice.
const TRY: Duration = Duration::from_secs(2);

/// A FIFO of writes `T` with answers `R`. A refusal closes the lane: nothing more is sent until the next lane opens,
/// and then everything unanswered is sent again from the front. Answers are released in the order of the writes, so
/// that later steps keep it, too.
pub(super) struct Lane<T, R> {
    number: u64,
    state: State,
    entries: VecDeque<Entry<T, R>>,
    /// Sequence number of the front entry.
    base: u64,
    /// Sequence number of the first entry that was not sent on this lane.
    next: u64,
    /// Sent on this lane and not answered.
    in_flight: usize,
    admission: AdmissionLimit,
    /// Places kept for writes that follow from writes in other lanes.
    kept: usize,
    /// Not later than any deadline in `entries`.
    earliest_deadline: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open,
    Closed { reopen_at: Instant, give_up_at: Instant },
}

enum Entry<T, R> {
    Pending { write: T, deadline: Instant, since: Instant, sent: Option<Instant> },
    Answered { write: T, deadline: Instant, answer: R },
    Gone,
}

impl<T, R> Lane<T, R> {
    /// Holds at most `bound` writes.
    pub(super) fn new(bound: usize) -> Self {
        Self {
            number: 1,
            state: State::Open,
            entries: VecDeque::new(),
            base: 0,
            next: 0,
            in_flight: 0,
            admission: AdmissionLimit::new(bound, IN_TIME),
            kept: 0,
            earliest_deadline: None,
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn is_idle(&self) -> bool {
        self.entries.is_empty()
    }

    /// False if the lane is full, or at its admission limit.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.entries.len() + self.kept + more <= self.admission.limit()
    }

    /// Keeps a place until it is released.
    pub(super) fn keep_place(&mut self) {
        self.kept += 1;
    }

    pub(super) fn let_place_go(&mut self) {
        self.kept -= 1;
    }

    /// The caller has checked for room, or must not be refused.
    pub(super) fn push(&mut self, write: T, deadline: Instant, now: Instant) {
        self.entries.push_back(Entry::Pending { write, deadline, since: now, sent: None });
        self.earliest_deadline = Some(self.earliest_deadline.map_or(deadline, |earliest| earliest.min(deadline)));
    }

    pub(super) fn wants_to_send(&self) -> bool {
        self.state == State::Open && self.in_flight < WINDOW && self.next < self.end()
    }

    /// The next write to send on this lane and its sequence number.
    pub(super) fn send(&mut self, now: Instant) -> Option<(u64, &mut T)> {
        if self.state != State::Open || self.in_flight >= WINDOW {
            return None;
        }
        while self.next < self.end() {
            let seq = self.next;
            self.next += 1;
            let index = (seq - self.base) as usize;
            if let Entry::Pending { sent, .. } = &mut self.entries[index] {
                *sent = Some(now);
                self.in_flight += 1;
                // Borrowed again, because the loop goes on in the other case.
                match &mut self.entries[index] {
                    Entry::Pending { write, .. } => return Some((seq, write)),
                    Entry::Answered { .. } | Entry::Gone => return None,
                }
            }
        }
        None
    }

    /// The retry delay for a write that is refused now.
    pub(super) fn retry_after(&mut self) -> Duration {
        self.admission.retry_after()
    }

    /// The store carried it out.
    pub(super) fn answered(&mut self, lane: u64, seq: u64, answer: R, now: Instant) {
        if let Some((write, deadline, since)) = self.take(lane, seq) {
            self.admission.answered(now - since, self.entries.len() + self.kept, now.into_std());
            let index = (seq - self.base) as usize;
            self.entries[index] = Entry::Answered { write, deadline, answer };
        }
    }

    /// The store will never carry it out. Returns the write; later writes are not affected.
    pub(super) fn rejected(&mut self, lane: u64, seq: u64) -> Option<T> {
        let (write, ..) = self.take(lane, seq)?;
        self.trim();
        Some(write)
    }

    /// The store did not carry it out, or may not have. The next lane opens after `wait`.
    pub(super) fn refused(&mut self, lane: u64, seq: u64, now: Instant, wait: Duration) {
        if lane != self.number || seq < self.base {
            return;
        }
        if let Some(Entry::Pending { sent, .. }) = self.entries.get_mut((seq - self.base) as usize)
            && sent.take().is_some()
        {
            self.in_flight -= 1;
        }
        self.close(now, wait);
    }

    /// The next writes go to another node. If some are on their way, the lane closes, and the next one opens when they have their answers.
    pub(super) fn turn(&mut self, now: Instant) {
        if self.state == State::Open && self.in_flight > 0 {
            self.close(now, Duration::ZERO);
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state != State::Open
    }

    /// The stream is gone; everything sent counts as unsent.
    pub(super) fn broken(&mut self, now: Instant, wait: Duration) {
        self.forget_sent();
        self.close(now, wait);
    }

    /// True if the oldest write has waited too long for its answer.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        // Writes are sent in order, so the first pending one was sent first.
        self.state == State::Open
            && self
                .entries
                .iter()
                .find_map(|entry| match entry {
                    Entry::Pending { sent, .. } => Some(*sent),
                    Entry::Answered { .. } | Entry::Gone => None,
                })
                .flatten()
                .is_some_and(|sent| now >= sent + TRY)
    }

    /// Opens the next lane if it is time; true if it did.
    pub(super) fn reopen(&mut self, now: Instant) -> bool {
        let State::Closed { reopen_at, give_up_at } = self.state else { return false };
        if now < reopen_at || (self.in_flight > 0 && now < give_up_at) {
            return false;
        }
        self.number += 1;
        self.next = self.base;
        self.state = State::Open;
        self.forget_sent();
        true
    }

    /// Takes out the writes whose deadline has passed. They may or may not be carried out.
    pub(super) fn expire(&mut self, now: Instant, mut expired: impl FnMut(T)) {
        if self.earliest_deadline.is_none_or(|earliest| now < earliest) {
            return;
        }
        self.earliest_deadline = None;
        for entry in &mut self.entries {
            let (deadline, flying) = match entry {
                Entry::Pending { deadline, sent, .. } => (*deadline, sent.is_some()),
                Entry::Answered { deadline, .. } => (*deadline, false),
                Entry::Gone => continue,
            };
            if deadline > now {
                self.earliest_deadline = Some(self.earliest_deadline.map_or(deadline, |other| other.min(deadline)));
                continue;
            }
            if flying {
                self.in_flight -= 1;
            }
            if let Entry::Pending { write, .. } | Entry::Answered { write, .. } = std::mem::replace(entry, Entry::Gone)
            {
                expired(write);
            }
        }
        self.trim();
    }

    /// The next answer, if everything before it has one.
    pub(super) fn release(&mut self) -> Option<(T, R)> {
        self.trim();
        match self.entries.front()? {
            Entry::Answered { .. } => {}
            Entry::Pending { .. } | Entry::Gone => return None,
        }
        let front = self.entries.pop_front();
        self.base += 1;
        self.next = self.next.max(self.base);
        match front {
            Some(Entry::Answered { write, answer, .. }) => Some((write, answer)),
            Some(Entry::Pending { .. } | Entry::Gone) | None => None,
        }
    }

    fn close(&mut self, now: Instant, wait: Duration) {
        let wanted = now + wait;
        self.state = match self.state {
            State::Open => State::Closed { reopen_at: wanted, give_up_at: wanted + GIVE_UP },
            State::Closed { reopen_at, give_up_at } => State::Closed { reopen_at: reopen_at.max(wanted), give_up_at },
        };
        if let State::Closed { reopen_at, give_up_at } = &mut self.state {
            *give_up_at = (*give_up_at).max(*reopen_at);
        }
    }

    fn forget_sent(&mut self) {
        self.in_flight = 0;
        for entry in &mut self.entries {
            if let Entry::Pending { sent, .. } = entry {
                *sent = None;
            }
        }
    }

    /// Takes a pending write that was sent on this lane, with its deadline and the start of its wait. Its place is
    /// `Gone`.
    fn take(&mut self, lane: u64, seq: u64) -> Option<(T, Instant, Instant)> {
        if lane != self.number || seq < self.base {
            return None;
        }
        let entry = self.entries.get_mut((seq - self.base) as usize)?;
        match std::mem::replace(entry, Entry::Gone) {
            Entry::Pending { write, deadline, since, sent: Some(_) } => {
                self.in_flight -= 1;
                Some((write, deadline, since))
            }
            other => {
                *entry = other;
                None
            }
        }
    }

    /// Drops `Gone` entries from the front.
    fn trim(&mut self) {
        while let Some(Entry::Gone) = self.entries.front() {
            self.entries.pop_front();
            self.base += 1;
        }
        self.next = self.next.max(self.base);
        if self.entries.is_empty() {
            self.earliest_deadline = None;
        }
    }

    fn end(&self) -> u64 {
        self.base + self.entries.len() as u64
    }
}

#[cfg(test)]
mod tests;
