//! A rate limit.

use std::time::{Duration, Instant};

/// A token bucket: a burst of `burst`, and `per_second` sustained.
pub(crate) struct Bucket {
    tokens: f64,
    burst: f64,
    per_second: f64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn new(per_second: f64, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst);
        Self { tokens: burst, burst, per_second, at: now }
    }

    /// Takes one token, or returns the time until there is one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.check(now)?;
        self.tokens -= 1.0;
        Ok(())
    }

    /// Ok if there is a token.
    pub(crate) fn check(&mut self, now: Instant) -> Result<(), Duration> {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = self.burst.min(self.tokens + elapsed * self.per_second);
        if self.tokens >= 1.0 { Ok(()) } else { Err(Duration::from_secs_f64((1.0 - self.tokens) / self.per_second)) }
    }

    /// Takes a token in advance, and returns the time until it is there.
    pub(crate) fn owe(&mut self, now: Instant) -> Duration {
        let _ = self.check(now);
        self.tokens -= 1.0;
        Duration::from_secs_f64((-self.tokens / self.per_second).max(0.0))
    }

    /// The time until so many tokens are there.
    pub(crate) fn wait_for(&mut self, tokens: u32, now: Instant) -> Duration {
        let _ = self.check(now);
        Duration::from_secs_f64(((f64::from(tokens) - self.tokens) / self.per_second).max(0.0))
    }

    /// Takes tokens, also those that are not there yet.
    pub(crate) fn pay(&mut self, tokens: u32) {
        self.tokens -= f64::from(tokens);
    }

    /// The time until there is a token, as of the last call.
    pub(crate) fn wait_for_one(&self) -> Duration {
        Duration::from_secs_f64(((1.0 - self.tokens) / self.per_second).max(0.0))
    }

    /// Returns an unused token.
    pub(crate) fn give_back(&mut self) {
        self.tokens = self.burst.min(self.tokens + 1.0);
    }

    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        let _ = self.check(now);
        self.tokens >= self.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10.0, 3, start);
        for _ in 0..3 {
            bucket.take(start).expect("within the burst");
        }
        let wait = bucket.take(start).expect_err("over the burst");
        assert!((Duration::from_millis(99)..=Duration::from_millis(101)).contains(&wait), "{wait:?}");
        bucket.take(start + wait + Duration::from_millis(1)).expect("one came back");
        bucket.take(start + wait + Duration::from_millis(2)).expect_err("only one");
        let later = start + Duration::from_secs(60);
        let taken = (0..100).take_while(|_| bucket.take(later).is_ok()).count();
        assert_eq!(taken, 3, "never more than the burst");
    }
}
