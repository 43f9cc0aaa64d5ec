//! How many requests may wait for their answers.

use std::time::{Duration, Instant};

/// So many may always wait: batches need them, however slow the answers are.
const LEAST: usize = 256;
/// So many may wait at first.
const START: usize = 4096;
/// Answers in time, while half of the room is in use, for each one that may wait more.
const FOR_ONE_MORE: u32 = 8;
/// When what is refused may come back, at the earliest and, but for being spread, at the latest.
const COME_BACK: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// A bound that grows by addition and shrinks by multiplication (AIMD), so that what is let in is answered in time while
/// more comes than can be answered. It does not shrink while nothing at all is answered, because a leader is elected.
#[derive(Debug)]
pub struct AdmissionLimit {
    limit: usize,
    most: usize,
    in_time: Duration,
    answers_in_time: u32,
    /// Until then answers are of what was let in before it shrank.
    shrunk_until: Option<Instant>,
    /// By the request that was answered last.
    waited: Duration,
    /// From 0 to 1.
    spread: f64,
}

impl AdmissionLimit {
    /// For at most so many, which are to be answered within `in_time`.
    pub fn new(most: usize, in_time: Duration) -> Self {
        let waited = Duration::ZERO;
        Self { limit: most.min(START), most, in_time, answers_in_time: 0, shrunk_until: None, waited, spread: 0.0 }
    }

    /// How many may wait now.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// After how long there may be room for a request that is refused now: others are told other times.
    pub fn come_back(&mut self) -> Duration {
        // Multiples of the golden ratio fall evenly.
        self.spread = (self.spread + 0.618_033_988_75).fract();
        self.waited.clamp(COME_BACK.0, COME_BACK.1).mul_f64(1.0 + self.spread)
    }

    /// A request was answered; `waiting` have no answer yet.
    pub fn answered(&mut self, waited: Duration, waiting: usize, now: Instant) {
        self.waited = waited;
        if waited <= self.in_time {
            // Room that nobody needs would only let in too many at once.
            self.answers_in_time += u32::from(waiting >= self.limit / 2);
            if self.answers_in_time >= FOR_ONE_MORE {
                self.answers_in_time = 0;
                self.limit = (self.limit + 1).min(self.most);
            }
        } else if self.shrunk_until.is_none_or(|until| now >= until) {
            self.limit = (self.limit.min(waiting) * 3 / 4).max(LEAST).min(self.most);
            self.shrunk_until = Some(now + waited);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const IN_TIME: Duration = Duration::from_millis(250);

    /// Offers three times what is answered; returns how long those answered in the last half waited at most.
    fn overloaded(answers_per_ms: usize) -> Duration {
        let (start, mut admission, mut waiting) = (Instant::now(), AdmissionLimit::new(8192, IN_TIME), VecDeque::new());
        let mut longest = Duration::ZERO;
        for ms in 0..20_000 {
            let now = start + MS * ms;
            for _ in 0..answers_per_ms * 3 {
                if waiting.len() < admission.limit() {
                    waiting.push_back(now);
                }
            }
            for _ in 0..answers_per_ms {
                let waited = now - waiting.pop_front().expect("never empty while more is offered");
                admission.answered(waited, waiting.len(), now);
                if ms > 10_000 {
                    longest = longest.max(waited);
                }
            }
        }
        longest
    }

    #[test]
    fn what_is_let_in_is_answered_in_time_however_much_is_offered() {
        for answers_per_ms in [2, 5, 20] {
            let longest = overloaded(answers_per_ms);
            assert!(longest < IN_TIME * 2, "{answers_per_ms} a millisecond: {longest:?}");
        }
    }

    #[test]
    fn batches_have_room_however_slow_the_store_is() {
        let (mut now, mut admission) = (Instant::now(), AdmissionLimit::new(8192, IN_TIME));
        for _ in 0..1000 {
            now += IN_TIME * 4;
            admission.answered(IN_TIME * 4, 1, now);
        }
        assert_eq!(admission.limit(), LEAST);
        assert_eq!(AdmissionLimit::new(16, IN_TIME).limit(), 16);
    }

    #[test]
    fn what_is_refused_together_comes_back_spread() {
        let mut admission = AdmissionLimit::new(8192, IN_TIME);
        admission.answered(IN_TIME * 2, 1, Instant::now());
        let mut times: Vec<_> = (0..100).map(|_| admission.come_back()).collect();
        times.sort();
        assert!(times[0] >= IN_TIME * 2 && times[99] < IN_TIME * 4);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] < IN_TIME / 10), "{times:?}");
    }

    #[test]
    fn room_comes_back() {
        let (now, mut admission) = (Instant::now(), AdmissionLimit::new(512, IN_TIME));
        admission.answered(IN_TIME * 2, 512, now);
        assert_eq!(admission.limit(), 384);
        admission.answered(IN_TIME * 2, 512, now + IN_TIME);
        assert_eq!(admission.limit(), 384, "it was let in before");
        for _ in 0..128 * FOR_ONE_MORE {
            admission.answered(MS, 300, now + IN_TIME);
        }
        assert_eq!(admission.limit(), 512);
    }

    #[test]
    fn room_that_nobody_needs_does_not_grow() {
        let mut admission = AdmissionLimit::new(65536, IN_TIME);
        for _ in 0..100_000 {
            admission.answered(MS, 100, Instant::now());
        }
        assert_eq!(admission.limit(), START);
    }
}
