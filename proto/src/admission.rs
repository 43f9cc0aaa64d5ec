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
/// are still answered in time. It shrinks when for a while even the quickest answers were late. What has waited for an election
/// is late as well, but then others were quick, or will be as soon as the backlog is answered.
#[derive(Debug)]
pub struct AdmissionLimit {
    limit: usize,
    most: usize,
    in_time: Duration,
    answers_in_time: u32,
    /// Until then, answers belong to requests admitted before the last decrease, and cause no further one.
    shrunk_until: Option<Instant>,
    /// The answers since an answer that came at this time, and the shortest that one of them had waited.
    window: Option<(Instant, Duration)>,
    /// The same of the last whole window, or less if an answer was quicker since.
    waited: Duration,
    /// Spreads the retry delays, from 0 to 1.
    spread: f64,
}

impl AdmissionLimit {
    /// `most`: the highest limit. `in_time`: how soon a request should be answered.
    pub fn new(most: usize, in_time: Duration) -> Self {
        Self {
            limit: most.min(START),
            most,
            in_time,
            answers_in_time: 0,
            shrunk_until: None,
            window: None,
            waited: Duration::ZERO,
            spread: 0.0,
        }
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
        self.waited = self.waited.min(waited);
        if waited <= self.in_time {
            // A limit that is not needed does not grow: it would admit too many at once later.
            self.answers_in_time += u32::from(waiting >= self.limit / 2);
            if self.answers_in_time >= FOR_ONE_MORE {
                self.answers_in_time = 0;
                self.limit = (self.limit + 1).min(self.most);
            }
        }
        let (begin, quickest) = self.window.unwrap_or((now, waited));
        let quickest = quickest.min(waited);
        self.window = Some((begin, quickest));
        if now.saturating_duration_since(begin) < self.in_time {
            return;
        }
        (self.window, self.waited) = (None, quickest);
        if quickest > self.in_time && self.shrunk_until.is_none_or(|until| now >= until) {
            self.limit = (self.limit.min(waiting) * 3 / 4).max(LEAST).min(self.most);
            self.shrunk_until = Some(now + quickest);
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
        let (mut admission, now) = (AdmissionLimit::new(8192, IN_TIME), Instant::now());
        admission.answered(IN_TIME * 2, 1, now);
        admission.answered(IN_TIME * 2, 1, now + IN_TIME);
        let mut times: Vec<_> = (0..100).map(|_| admission.retry_after()).collect();
        times.sort();
        assert!(times[0] >= IN_TIME * 2 && times[99] < IN_TIME * 4);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] < IN_TIME / 10), "{times:?}");
    }

    #[test]
    fn room_comes_back() {
        let (now, mut admission) = (Instant::now(), AdmissionLimit::new(512, IN_TIME));
        let late = |admission: &mut AdmissionLimit, after| admission.answered(IN_TIME * 2, 512, now + IN_TIME * after);
        late(&mut admission, 0);
        late(&mut admission, 1);
        assert_eq!(admission.limit(), 384);
        late(&mut admission, 1);
        late(&mut admission, 2);
        assert_eq!(admission.limit(), 384, "it was let in before");
        late(&mut admission, 3);
        late(&mut admission, 4);
        assert_eq!(admission.limit(), 288);
        for _ in 0..224 * FOR_ONE_MORE {
            admission.answered(MS, 300, now + IN_TIME * 5);
        }
        assert_eq!(admission.limit(), 512);
    }

    #[test]
    fn what_waits_for_an_election_takes_no_room_from_others() {
        // Of everything, and of a third: the rest is answered meanwhile.
        for away in [1, 3] {
            let (start, mut admission) = (Instant::now(), AdmissionLimit::new(8192, IN_TIME));
            let mut backlog = 0;
            for ms in 0..3000 {
                let now = start + MS * ms;
                let is_away = (500..2500).contains(&ms);
                let waits = is_away && ms % away == 0;
                backlog += usize::from(waits);
                if !waits {
                    admission.answered(MS, backlog + 1, now);
                }
                if !is_away {
                    for _ in 0..backlog.min(20) {
                        backlog -= 1;
                        admission.answered(MS * 2000, backlog, now);
                    }
                }
            }
            assert_eq!((backlog, admission.limit()), (0, START));
            assert!(admission.retry_after() < RETRY_AFTER.0 * 2);
        }
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
