//! How fast this node sends snapshots to others.

use std::{
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Shared by all that this node sends at once.
pub(crate) struct Throttle {
    /// 0: as fast as it goes.
    bytes_per_second: u64,
    /// When what was sent so far is paid for.
    paid: Mutex<Instant>,
}

impl Throttle {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, paid: Mutex::new(Instant::now()) }
    }

    /// Waits until so many bytes may be sent. Blocking.
    pub(super) fn wait(&self, bytes: usize) {
        let now = Instant::now();
        let due = self.due(bytes, now);
        if due > now {
            thread::sleep(due - now);
        }
    }

    fn due(&self, bytes: usize, now: Instant) -> Instant {
        if self.bytes_per_second == 0 {
            return now;
        }
        let mut paid = self.paid.lock();
        let due = (*paid).max(now);
        *paid = due + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_senders_together_keep_to_the_rate() {
        let now = Instant::now();
        let throttle = Throttle::new(1000);
        *throttle.paid.lock() = now;
        let after = |bytes, at| throttle.due(bytes, at) - now;
        let second = Duration::from_secs(1);
        assert_eq!(after(500, now), Duration::ZERO);
        assert_eq!(after(1500, now), second / 2);
        assert_eq!(after(1, now), 2 * second);
        // Time in which nothing was sent is not made up for.
        assert_eq!(after(1000, now + 10 * second), 10 * second);
        assert_eq!(after(1000, now + 10 * second), 11 * second);
        assert_eq!(Throttle::new(0).due(usize::MAX, now), now);
    }
}
