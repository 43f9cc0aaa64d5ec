//! A rate limit for log lines, which counts the lines left out.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Allows a burst, then one line each `every`.
pub struct Seldom {
    at_once: u32,
    every: Duration,
    state: Mutex<State>,
}

struct State {
    /// The fill level of the bucket, in lines.
    told: u32,
    since: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    pub fn new(at_once: u32, every: Duration) -> Self {
        Self { at_once, every, state: Mutex::new(State { told: 0, since: None, left_out: 0 }) }
    }

    /// `Some` if a line may be logged now, with the number of lines left out before it.
    pub fn turn(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        let since = *state.since.get_or_insert(now);
        let back = now.saturating_duration_since(since).as_nanos() / self.every.as_nanos().max(1);
        if back > 0 {
            let back = u32::try_from(back).unwrap_or(u32::MAX);
            state.told = state.told.saturating_sub(back);
            state.since = Some(if state.told == 0 { now } else { since + self.every * back });
        }
        if state.told >= self.at_once {
            state.left_out += 1;
            return None;
        }
        state.told += 1;
        Some(std::mem::take(&mut state.left_out))
    }

    /// The number of lines left out since the last one was logged, if any; called once things are quiet.
    pub fn take_left_out(&self) -> Option<u64> {
        let mut state = self.state.lock();
        (state.left_out > 0).then(|| std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_at_once_then_one_in_a_while_with_the_count_of_the_rest() {
        let (seldom, start) = (Seldom::new(2, Duration::from_secs(10)), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!((seldom.turn(at(0)), seldom.turn(at(0))), (Some(0), Some(0)));
        for _ in 0..5 {
            assert_eq!(seldom.turn(at(9)), None);
        }
        assert_eq!(seldom.turn(at(10)), Some(5));
        assert_eq!(seldom.turn(at(11)), None);
        assert_eq!(seldom.take_left_out(), Some(1));
        assert_eq!(seldom.take_left_out(), None);
        // After a long quiet time all are free again, and no more than those.
        assert_eq!((seldom.turn(at(10_000)), seldom.turn(at(10_000))), (Some(0), Some(0)));
        assert_eq!(seldom.turn(at(10_000)), None);
    }
}
