//! The writes of one shard, in order, whatever fails. See `StoreRequest.lane`.

use std::{collections::VecDeque, time::Duration};

use carillon_proto::Room;
use tokio::time::Instant;

/// Writes that may be under way at once; the rest wait here. Less than a shard of the store queues.
const WINDOW: usize = 512;
/// While the store takes longer than this for a write, fewer may wait.
const IN_TIME: Duration = Duration::from_millis(250);
/// How long answers of a closed lane are waited for before the next one opens without them.
const GIVE_UP: Duration = Duration::from_millis(250);
/// A write that has no answer for so long closes the lane: the leader may be gone without a word.
const TRY: Duration = Duration::from_secs(2);

/// FIFO of writes `T` with answers `R`. A refusal closes the lane: nothing more is sent, until the next lane opens and
/// everything unanswered is sent again from the front. Answers are released in the order of the writes, so that
/// whatever follows from them keeps it, too.
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
    room: Room,
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
            room: Room::new(bound, IN_TIME),
            earliest_deadline: None,
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn is_idle(&self) -> bool {
        self.entries.is_empty()
    }

    /// Gives the write back if the lane is full, or has as many as are answered in good time.
    pub(super) fn push(&mut self, write: T, deadline: Instant, now: Instant) -> Result<(), T> {
        if self.entries.len() >= self.room.limit() {
            return Err(write);
        }
        self.entries.push_back(Entry::Pending { write, deadline, since: now, sent: None });
        self.earliest_deadline = Some(self.earliest_deadline.map_or(deadline, |earliest| earliest.min(deadline)));
        Ok(())
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

    /// After how long there may be room for what is refused now.
    pub(super) fn come_back(&mut self) -> Duration {
        self.room.come_back()
    }

    /// The store carried it out.
    pub(super) fn answered(&mut self, lane: u64, seq: u64, answer: R, now: Instant) {
        if let Some((write, deadline, since)) = self.take(lane, seq) {
            self.room.answered(now - since, self.entries.len(), now.into_std());
            let index = (seq - self.base) as usize;
            self.entries[index] = Entry::Answered { write, deadline, answer };
        }
    }

    /// The store will never carry it out. Gives the write back; what came after it is not touched.
    pub(super) fn rejected(&mut self, lane: u64, seq: u64) -> Option<T> {
        let (write, ..) = self.take(lane, seq)?;
        self.trim();
        Some(write)
    }

    /// The store did not carry it out, or it is not known whether. The next lane opens after `wait`.
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

    /// No more answers will come.
    pub(super) fn broken(&mut self, now: Instant, wait: Duration) {
        self.forget_sent();
        self.close(now, wait);
    }

    /// Has the oldest write waited too long for its answer?
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

    /// Takes out the writes whose time is over. They may or may not be carried out.
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

    /// Takes a pending write that was sent on this lane, with its deadline and since when it waits; its place is Gone.
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

    /// Drops what is gone from the front.
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SOON: Duration = Duration::from_millis(10);

    fn sent(lane: &mut Lane<u32, u32>, now: Instant) -> Vec<(u64, u64, u32)> {
        let number = lane.number();
        std::iter::from_fn(|| lane.send(now).map(|(seq, write)| (number, seq, *write))).collect()
    }

    fn lane(writes: u32, deadline: Instant) -> Lane<u32, u32> {
        let mut lane = Lane::new(1000);
        for write in 0..writes {
            lane.push(write, deadline, Instant::now()).expect("room");
        }
        lane
    }

    #[test]
    fn after_a_refusal_everything_unanswered_goes_again_in_order() {
        let now = Instant::now();
        let mut lane = lane(4, now + TRY);
        assert_eq!(sent(&mut lane, now), [(1, 0, 0), (1, 1, 1), (1, 2, 2), (1, 3, 3)]);
        lane.answered(1, 0, 100, now);
        lane.refused(1, 1, now, SOON);
        assert_eq!(lane.release(), Some((0, 100)));
        lane.push(4, now + TRY, now).expect("room");
        assert_eq!(sent(&mut lane, now), [], "closed");
        assert!(!lane.reopen(now + SOON), "two answers are outstanding");
        lane.refused(1, 2, now, SOON);
        lane.refused(1, 3, now, SOON);
        assert!(lane.reopen(now + SOON));
        assert_eq!(sent(&mut lane, now), [(2, 1, 1), (2, 2, 2), (2, 3, 3), (2, 4, 4)]);
    }

    #[test]
    fn answers_are_released_in_the_order_of_the_writes() {
        let now = Instant::now();
        let mut lane = lane(3, now + TRY);
        sent(&mut lane, now);
        lane.answered(1, 2, 2, now);
        lane.answered(1, 1, 1, now);
        assert_eq!(lane.release(), None);
        assert_eq!(lane.rejected(1, 0), Some(0));
        assert_eq!(lane.release(), Some((1, 1)));
        assert_eq!(lane.release(), Some((2, 2)));
        assert!(lane.is_idle());
    }

    #[test]
    fn answers_of_an_older_lane_are_ignored() {
        let now = Instant::now();
        let mut lane = lane(1, now + TRY);
        sent(&mut lane, now);
        lane.broken(now, SOON);
        assert!(lane.reopen(now + SOON));
        sent(&mut lane, now);
        lane.answered(1, 0, 7, now);
        assert_eq!(lane.release(), None);
        lane.answered(2, 0, 8, now);
        assert_eq!(lane.release(), Some((0, 8)));
    }

    #[test]
    fn a_full_lane_gives_the_write_back() {
        let now = Instant::now();
        let mut lane: Lane<u32, u32> = Lane::new(1);
        lane.push(1, now, now).expect("room");
        assert_eq!(lane.push(2, now, now), Err(2));
    }

    #[test]
    fn a_write_without_an_answer_makes_the_lane_stuck() {
        let now = Instant::now();
        let mut lane = lane(1, now + TRY * 5);
        sent(&mut lane, now);
        assert!(!lane.is_stuck(now));
        assert!(lane.is_stuck(now + TRY));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push,
        Send,
        /// The store takes the next `n` that it was sent.
        Take(usize),
        /// ... but refuses the first of them, and thereby all of the lane.
        Refuse,
        /// ... it is wrong in itself.
        Reject,
        /// An answer arrives: any of those that are under way.
        Answer(usize),
        /// The stream breaks: what was sent, but not taken, and what was answered, but has not arrived, is lost.
        Break,
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Push),
            3 => Just(Step::Send),
            3 => (1usize..5).prop_map(Step::Take),
            1 => Just(Step::Refuse),
            1 => Just(Step::Reject),
            4 => (0usize..8).prop_map(Step::Answer),
            1 => Just(Step::Break),
            2 => (1u64..400).prop_map(Step::Wait),
        ]
    }

    #[derive(Debug, Clone, Copy)]
    enum Said {
        Done,
        Refused,
        Rejected,
    }

    /// A shard of the store as the contract has it.
    #[derive(Default)]
    struct Shard {
        applied: Vec<u32>,
        wrong: Vec<u32>,
        closed: u64,
        wire: VecDeque<(u64, u64, u32)>,
        answers: Vec<(u64, u64, u32, Said)>,
    }

    impl Shard {
        fn take(&mut self, verdict: Said) {
            let Some((lane, seq, write)) = self.wire.pop_front() else { return };
            let verdict = match verdict {
                _ if lane <= self.closed => Said::Refused,
                Said::Refused => Said::Refused,
                // What is wrong once is wrong for ever, and what is right stays right.
                _ if self.applied.contains(&write) => Said::Done,
                _ if self.wrong.contains(&write) => Said::Rejected,
                other => other,
            };
            match verdict {
                Said::Done if !self.applied.contains(&write) => self.applied.push(write),
                Said::Done => {}
                Said::Rejected => self.wrong.push(write),
                Said::Refused => self.closed = self.closed.max(lane),
            }
            self.answers.push((lane, seq, write, verdict));
        }
    }

    proptest! {
        /// Whatever fails: the store applies in order, each write is answered at most once and in order, what is
        /// answered has been applied, and once nothing fails any more all are answered.
        #[test]
        fn any_sequence_of_failures_keeps_order_and_drops_nothing(steps in prop::collection::vec(step(), 0..120)) {
            let mut now = Instant::now();
            let far = now + Duration::from_secs(1_000_000);
            let mut lane: Lane<u32, u32> = Lane::new(1000);
            let mut shard = Shard::default();
            let (mut pushed, mut rejected, mut released) = (0, Vec::new(), Vec::new());
            let calm = std::iter::repeat_n([Step::Wait(400), Step::Send, Step::Take(1000), Step::Answer(0)], 3)
                .flatten()
                .chain((0..300).map(|_| Step::Answer(0)));
            let calm: Vec<_> = calm.collect();
            for step in steps.into_iter().chain([Step::Break]).chain(calm) {
                match step {
                    Step::Push => {
                        lane.push(pushed, far, now).expect("room");
                        pushed += 1;
                    }
                    Step::Send => shard.wire.extend(sent(&mut lane, now)),
                    Step::Take(n) => (0..n).for_each(|_| shard.take(Said::Done)),
                    Step::Refuse => shard.take(Said::Refused),
                    Step::Reject => shard.take(Said::Rejected),
                    Step::Answer(which) => {
                        if !shard.answers.is_empty() {
                            let (number, seq, write, said) = shard.answers.remove(which % shard.answers.len());
                            match said {
                                Said::Done => lane.answered(number, seq, write, now),
                                Said::Refused => lane.refused(number, seq, now, SOON),
                                Said::Rejected => rejected.extend(lane.rejected(number, seq)),
                            }
                        }
                    }
                    Step::Break => {
                        shard.wire.clear();
                        shard.answers.clear();
                        lane.broken(now, SOON);
                    }
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                }
                lane.reopen(now);
                while let Some((write, answer)) = lane.release() {
                    prop_assert_eq!(write, answer);
                    prop_assert!(shard.applied.contains(&write));
                    released.push(write);
                }
            }
            prop_assert!(shard.applied.is_sorted(), "applied out of order: {:?}", shard.applied);
            prop_assert!(released.is_sorted(), "answered out of order: {:?}", released);
            let mut all = released;
            all.extend(&rejected);
            all.sort_unstable();
            prop_assert_eq!(all, (0..pushed).collect::<Vec<_>>());
        }

        #[test]
        fn what_is_over_its_deadline_leaves_once(deadlines in prop::collection::vec(0u64..100, 1..50), at in 0u64..100) {
            let start = Instant::now();
            let mut lane: Lane<u32, u32> = Lane::new(1000);
            for (write, ms) in deadlines.iter().enumerate() {
                lane.push(write as u32, start + Duration::from_millis(*ms), start).expect("room");
            }
            sent(&mut lane, start);
            let now = start + Duration::from_millis(at);
            let mut expired = Vec::new();
            lane.expire(now, |write| expired.push(write));
            lane.expire(now, |write| expired.push(write));
            for seq in 0..deadlines.len() as u64 {
                lane.answered(1, seq, seq as u32, now);
            }
            while let Some((write, _)) = lane.release() {
                prop_assert!(deadlines[write as usize] > at);
                expired.push(write);
            }
            expired.sort_unstable();
            prop_assert_eq!(expired, (0..deadlines.len() as u32).collect::<Vec<_>>());
        }
    }
}
