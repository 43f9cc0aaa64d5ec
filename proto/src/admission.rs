//! How many requests may await their answers at the same time.

use std::time::{Duration, Instant};

/// The limit never falls below this: batches need as many, however slow the answers are.
const LEAST: usize = 256;
/// The initial limit.
const START: usize = 4096;
/// The limit grows by one for each of these answers that came in time while at least half of the limit was in use.
const FOR_ONE_MORE: u32 = 8;
/// The shortest and the longest retry delay that a refused request is told, before the delays are spread.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// An admission limit with additive increase and multiplicative decrease (AIMD): under overload, the admitted requests
/// are still answered in time. The limit does not shrink while nothing at all is answered, as during an election.
#[derive(Debug)]
pub struct AdmissionLimit {
    limit: usize,
    most: usize,
    in_time: Duration,
    answers_in_time: u32,
    /// Until then, answers belong to requests admitted before the last decrease, and cause no further one.
    shrunk_until: Option<Instant>,
    /// How long the request answered last had waited.
    waited: Duration,
    /// Spreads the retry delays, from 0 to 1.
    spread: f64,
}

impl AdmissionLimit {
    /// `most`: the highest limit. `in_time`: how soon a request should be answered.
    pub fn new(most: usize, in_time: Duration) -> Self {
        let waited = Duration::ZERO;
        Self { limit: most.min(START), most, in_time, answers_in_time: 0, shrunk_until: None, waited, spread: 0.0 }
    }

    /// The number of requests that may wait now.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The retry delay for a request that is refused now. Successive calls give different delays.
    pub fn retry_after(&mut self) -> Duration {
        // Multiples of the golden ratio are evenly distributed modulo 1.
        self.spread = (self.spread + 0.618_033_988_75).fract();
        self.waited.clamp(RETRY_AFTER.0, RETRY_AFTER.1).mul_f64(1.0 + self.spread)
    }

    /// Records that a request was answered after `waited`. `waiting`: the number of requests still unanswered.
    pub fn answered(&mut self, waited: Duration, waiting: usize, now: Instant) {
        self.waited = waited;
        if waited <= self.in_time {
            // A limit that is not needed does not grow: it would admit too many at once later.
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
        let mut times: Vec<_> = (0..100).map(|_| admission.retry_after()).collect();
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
