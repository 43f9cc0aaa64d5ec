//! In which order a timeline reaches one device: each position once, without gaps, whatever pushes do.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use carillon_proto::pb::client::Position;

/// Pushes kept because they came before their turn. More are dropped, and read from the store in their turn.
const MAX_EARLY: usize = 64;
const MAX_EARLY_BYTES: usize = 64 * 1024;
/// Before a read is repeated that failed or brought nothing.
const RETRY: Duration = Duration::from_millis(500);

/// How far one connection has one timeline. `P` is a pushed envelope.
pub(crate) struct Delivery<P> {
    /// 0: the timeline did not exist when the device signed in.
    epoch: u64,
    next: u64,
    /// The last position heard of.
    head: u64,
    reading: bool,
    paused: bool,
    /// When what lies between `next` and `head` is to be read. Some only while there is such a gap.
    due: Option<Instant>,
    early: BTreeMap<u64, (P, usize)>,
    early_bytes: usize,
    grace: Duration,
}

/// What to do with a position that was heard of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It is the next one: it counts as delivered now.
    Next,
    /// It is kept, or will be read in its turn.
    Later,
    /// The device has it.
    Old,
    /// It is of another life of the timeline.
    OtherEpoch,
}

impl<P> Delivery<P> {
    /// Delivery begins after `from`; the timeline reaches to `head`.
    pub(crate) fn new(epoch: u64, from: u64, head: u64, grace: Duration, now: Instant) -> Self {
        let mut this = Self {
            epoch,
            next: from + 1,
            head,
            reading: false,
            paused: false,
            due: None,
            early: BTreeMap::new(),
            early_bytes: 0,
            grace,
        };
        this.look(now);
        this
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    /// An envelope was pushed. After `Next`, `take_early` may have more.
    pub(crate) fn pushed(&mut self, position: Position, envelope: P, size: usize, now: Instant) -> (Heard, Option<P>) {
        let heard = self.heard(position, self.paused, now);
        match heard {
            Heard::Next => return (heard, Some(envelope)),
            Heard::Later if self.early.len() < MAX_EARLY && self.early_bytes + size <= MAX_EARLY_BYTES => {
                if self.early.insert(position.seq, (envelope, size)).is_none() {
                    self.early_bytes += size;
                }
            }
            Heard::Later | Heard::Old | Heard::OtherEpoch => {}
        }
        (heard, None)
    }

    /// The device's own message was accepted. `Next`: the device takes Accepted for the delivery.
    pub(crate) fn accepted(&mut self, position: Position, now: Instant) -> Heard {
        // Also while paused: Accepted is written all the same, and the device counts by it.
        self.heard(position, false, now)
    }

    /// The timeline reaches at least this far.
    pub(crate) fn reaches(&mut self, position: Position, now: Instant) -> Heard {
        if !self.adopt(position.epoch) {
            return Heard::OtherEpoch;
        }
        if position.seq < self.next {
            return Heard::Old;
        }
        self.head = self.head.max(position.seq);
        self.look(now);
        Heard::Later
    }

    /// The next envelope, if it was pushed before its turn.
    pub(crate) fn take_early(&mut self, now: Instant) -> Option<(u64, P)> {
        if self.paused {
            return None;
        }
        while let Some(entry) = self.early.first_entry() {
            let seq = *entry.key();
            if seq > self.next {
                return None;
            }
            let (envelope, size) = entry.remove();
            self.early_bytes -= size;
            if seq == self.next {
                self.advance(now);
                return Some((seq, envelope));
            }
        }
        None
    }

    /// Nothing more is delivered until `resume`: the device does not read.
    pub(crate) fn pause(&mut self) {
        self.paused = true;
    }

    pub(crate) fn resume(&mut self, now: Instant) {
        self.paused = false;
        self.look(now);
    }

    /// Where to read from, if there is something to read now. `read_done` must follow.
    pub(crate) fn begin_read(&mut self, now: Instant) -> Option<u64> {
        if self.paused || self.reading || self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.reading = true;
        Some(self.next)
    }

    /// The store keeps nothing before `first`: is that news? Then delivery goes on from there.
    pub(crate) fn trimmed(&mut self, first: u64, now: Instant) -> bool {
        if first <= self.next {
            return false;
        }
        self.next = first;
        self.head = self.head.max(first - 1);
        self.drop_old();
        self.look(now);
        true
    }

    /// An envelope that was read: deliver it?
    pub(crate) fn read(&mut self, seq: u64, now: Instant) -> bool {
        if seq != self.next {
            return false;
        }
        self.advance(now);
        true
    }

    /// The read that began came back; `last` is the head as the store told it, None if it failed.
    pub(crate) fn read_done(&mut self, last: Option<u64>, progress: bool, now: Instant) {
        self.reading = false;
        self.drop_old();
        match last {
            // The store's word is linearizable: what was heard of beyond it was wrong.
            Some(last) if !progress && last < self.next => self.head = self.next - 1,
            Some(last) => self.head = self.head.max(last),
            None => {}
        }
        self.due = match self.next <= self.head {
            true if progress => Some(now),
            true => Some(now + RETRY),
            false => None,
        };
    }

    /// When `begin_read` has something to say.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        if self.paused || self.reading { None } else { self.due }
    }

    fn heard(&mut self, position: Position, paused: bool, now: Instant) -> Heard {
        if !self.adopt(position.epoch) {
            return Heard::OtherEpoch;
        }
        if position.seq < self.next {
            return Heard::Old;
        }
        self.head = self.head.max(position.seq);
        if position.seq == self.next && !paused {
            self.advance(now);
            return Heard::Next;
        }
        // What is missing is probably under way.
        if self.due.is_none() {
            self.due = Some(now + self.grace);
        }
        Heard::Later
    }

    /// A timeline comes to be with its first envelope.
    fn adopt(&mut self, epoch: u64) -> bool {
        if self.epoch == 0 && epoch != 0 {
            self.epoch = epoch;
            self.next = 1;
        }
        self.epoch == epoch
    }

    fn advance(&mut self, now: Instant) {
        self.next += 1;
        self.head = self.head.max(self.next - 1);
        // A gap that is left is another one than before.
        self.due = (self.next <= self.head).then_some(now + self.grace);
    }

    fn look(&mut self, now: Instant) {
        self.due = (self.next <= self.head).then_some(now);
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
    use proptest::prelude::*;

    const GRACE: Duration = Duration::from_millis(20);

    fn at(seq: u64) -> Position {
        Position { epoch: 7, seq }
    }

    #[test]
    fn a_push_of_the_next_position_is_delivered_and_an_old_one_dropped() {
        let now = Instant::now();
        let mut delivery = Delivery::new(7, 3, 3, GRACE, now);
        assert_eq!(delivery.pushed(at(4), (), 1, now).0, Heard::Next);
        assert_eq!(delivery.pushed(at(4), (), 1, now).0, Heard::Old);
        assert_eq!(delivery.begin_read(now + GRACE), None);
        assert_eq!(delivery.pushed(Position { epoch: 8, seq: 5 }, (), 1, now).0, Heard::OtherEpoch);
    }

    #[test]
    fn a_gap_that_fills_itself_is_not_read() {
        let now = Instant::now();
        let mut delivery = Delivery::new(7, 3, 3, GRACE, now);
        assert_eq!(delivery.pushed(at(5), "five", 1, now), (Heard::Later, None));
        assert_eq!(delivery.begin_read(now), None, "not yet");
        assert_eq!(delivery.pushed(at(4), "four", 1, now), (Heard::Next, Some("four")));
        assert_eq!(delivery.take_early(now), Some((5, "five")));
        assert_eq!(delivery.begin_read(now + GRACE), None);
        assert_eq!(delivery.wake_at(), None);
    }

    #[test]
    fn a_gap_that_stays_is_read_once() {
        let now = Instant::now();
        let mut delivery = Delivery::new(7, 3, 3, GRACE, now);
        delivery.pushed(at(5), (), 1, now);
        assert_eq!(delivery.begin_read(now + GRACE), Some(4));
        assert_eq!(delivery.begin_read(now + GRACE), None, "one at a time");
        delivery.read_done(None, false, now);
        assert_eq!(delivery.begin_read(now + GRACE), None, "not at once after a failure");
        assert_eq!(delivery.begin_read(now + RETRY), Some(4));
    }

    #[test]
    fn a_new_timeline_is_delivered_from_its_first_envelope() {
        let now = Instant::now();
        let mut delivery = Delivery::new(0, 0, 0, GRACE, now);
        assert_eq!(delivery.pushed(at(1), (), 1, now).0, Heard::Next);
        assert_eq!(delivery.epoch(), 7);
    }

    #[test]
    fn a_wrong_rumour_of_the_head_ends_with_the_stores_word() {
        let now = Instant::now();
        let mut delivery = Delivery::<()>::new(7, 3, 3, GRACE, now);
        delivery.reaches(at(9), now);
        assert_eq!(delivery.begin_read(now), Some(4));
        delivery.read_done(Some(3), false, now);
        assert_eq!(delivery.wake_at(), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Something is appended and pushed after so many further steps, perhaps never, perhaps twice.
        Append {
            push: bool,
            again: bool,
        },
        /// One of the pushes under way arrives.
        Arrive(usize),
        /// The device's own message.
        Own,
        /// The answer of the store to a read, or its failure.
        ReadAnswers {
            fails: bool,
            limit: usize,
        },
        Trim(u64),
        Pause,
        Resume,
        Wait,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (any::<bool>(), any::<bool>()).prop_map(|(push, again)| Step::Append { push, again }),
            4 => any::<usize>().prop_map(Step::Arrive),
            1 => Just(Step::Own),
            2 => (any::<bool>(), 1..5usize).prop_map(|(fails, limit)| Step::ReadAnswers { fails, limit }),
            1 => (0..4u64).prop_map(Step::Trim),
            1 => Just(Step::Pause),
            1 => Just(Step::Resume),
            2 => Just(Step::Wait),
        ]
    }

    struct World {
        delivery: Delivery<u64>,
        now: Instant,
        first: u64,
        last: u64,
        on_the_way: Vec<u64>,
        /// From where a read began.
        read: Option<u64>,
        /// What the device has, with what it counted as skipped.
        seen: Vec<u64>,
    }

    impl World {
        fn deliver(&mut self, seq: u64) {
            assert!(!self.delivery.paused);
            self.seen.push(seq);
        }

        fn take_early(&mut self) {
            while let Some((seq, envelope)) = self.delivery.take_early(self.now) {
                assert_eq!(seq, envelope);
                self.deliver(seq);
            }
        }

        fn arrive(&mut self, which: usize) {
            if self.on_the_way.is_empty() {
                return;
            }
            let seq = self.on_the_way.remove(which % self.on_the_way.len());
            if let (Heard::Next, Some(seq)) = self.delivery.pushed(at(seq), seq, 1, self.now) {
                self.deliver(seq);
                self.take_early();
            }
        }

        fn answer(&mut self, fails: bool, limit: usize) {
            let Some(from) = self.read.take() else { return };
            if fails {
                return self.delivery.read_done(None, false, self.now);
            }
            let before = self.delivery.next();
            if self.delivery.trimmed(self.first, self.now) {
                self.seen.extend(before..self.delivery.next());
            }
            for seq in (from.max(self.first)..=self.last).take(limit) {
                if self.delivery.read(seq, self.now) {
                    self.seen.push(seq);
                }
            }
            let progress = self.delivery.next() > before;
            self.delivery.read_done(Some(self.last), progress, self.now);
            self.take_early();
        }

        fn begin_read(&mut self) {
            if self.read.is_none() {
                self.read = self.delivery.begin_read(self.now);
            }
        }
    }

    proptest! {
        #[test]
        fn the_device_sees_each_position_once_in_order(steps in proptest::collection::vec(step(), 0..200)) {
            let now = Instant::now();
            let delivery = Delivery::new(7, 0, 0, GRACE, now);
            let mut world =
                World { delivery, now, first: 1, last: 0, on_the_way: vec![], read: None, seen: vec![] };
            for step in steps {
                match step {
                    Step::Append { push, again } => {
                        world.last += 1;
                        world.on_the_way.extend((0..usize::from(push) + usize::from(again)).map(|_| world.last));
                    }
                    Step::Arrive(which) => world.arrive(which),
                    Step::Own => {
                        world.last += 1;
                        if world.delivery.accepted(at(world.last), world.now) == Heard::Next {
                            world.seen.push(world.last);
                            world.take_early();
                        }
                    }
                    Step::ReadAnswers { fails, limit } => world.answer(fails, limit),
                    Step::Trim(more) => world.first = (world.first + more).min(world.last + 1),
                    Step::Pause => world.delivery.pause(),
                    Step::Resume => {
                        world.delivery.resume(world.now);
                        world.take_early();
                    }
                    Step::Wait => world.now += GRACE,
                }
                world.begin_read();
            }
            // In the end the device asks for the head and reads: nothing may be missing.
            world.delivery.resume(world.now);
            world.take_early();
            world.delivery.reaches(at(world.last), world.now);
            for _ in 0..500 {
                world.now += RETRY;
                world.begin_read();
                world.answer(false, 5);
            }
            let all: Vec<u64> = (1..=world.last).collect();
            prop_assert_eq!(world.seen, all);
        }
    }
}
