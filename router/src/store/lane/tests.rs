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
        lane.push(write, deadline, Instant::now());
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
    lane.push(4, now + TRY, now);
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
    lane.push(1, now, now);
    assert!(!lane.has_room(1));
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
                    lane.push(pushed, far, now);
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
            lane.push(write as u32, start + Duration::from_millis(*ms), start);
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
