//! Which address to try next, and when.

use std::time::Duration;

/// Rotates over the addresses, with a longer pause after each failed attempt.
pub(crate) struct Backoff {
    addresses: usize,
    next: usize,
    failures: u32,
    min: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(addresses: usize, first: usize, (min, max): (Duration, Duration)) -> Self {
        Self { addresses, next: first % addresses.max(1), failures: 0, min, max }
    }

    /// The index of the address to try.
    pub(crate) fn address(&self) -> usize {
        self.next
    }

    /// A sign-in succeeded.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// The attempt failed, or the connection ended: moves on to the next address, and returns the pause before it.
    /// `jitter`: random in 0..1; `asked`: the pause that the gateway asked for.
    pub(crate) fn failed(&mut self, jitter: f64, asked: Option<Duration>) -> Duration {
        self.next = (self.next + 1) % self.addresses.max(1);
        let pause = self.min.saturating_mul(1 << self.failures.min(16)).min(self.max);
        self.failures += 1;
        // Half of it is random, so that clients that lost the same gateway do not reconnect together.
        let pause = pause.mul_f64(0.5 + jitter / 2.0);
        asked.map_or(pause, |asked| asked.mul_f64(1.0 + jitter / 4.0).max(pause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_double_up_to_the_maximum_and_start_again_after_success() {
        let mut backoff = Backoff::new(3, 1, (100 * MS, 1000 * MS));
        let pauses: Vec<_> = (0..6).map(|_| backoff.failed(1.0, None).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        backoff.succeeded();
        assert_eq!(backoff.failed(0.0, None), 50 * MS);
    }

    #[test]
    fn addresses_take_turns() {
        let mut backoff = Backoff::new(3, 1, (MS, MS));
        let order: Vec<_> = (0..5)
            .map(|_| {
                let address = backoff.address();
                backoff.failed(0.5, None);
                address
            })
            .collect();
        assert_eq!(order, [1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_gateway_that_asks_for_a_pause_gets_at_least_that() {
        let mut backoff = Backoff::new(1, 0, (100 * MS, 100 * MS));
        assert_eq!(backoff.failed(0.0, Some(2000 * MS)), 2000 * MS);
        assert_eq!(backoff.failed(1.0, Some(2000 * MS)), 2500 * MS);
        assert_eq!(backoff.failed(1.0, Some(10 * MS)), 100 * MS);
    }
}
