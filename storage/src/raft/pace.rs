//! Whether the engines of this node are as quick as they should be.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// An engine that took longer has stopped its writers, or its disk is slow.
const SLOW: Duration = Duration::from_millis(20);
/// For so long after that it is not trusted.
const DOUBT: Duration = Duration::from_secs(1);

/// Shared by the shards of a node, whose engines have one disk. While they are quick, entries are applied where they
/// are; while they are not, on threads that may wait: a slow engine holds up what else a thread does once, not again
/// and again.
pub(crate) struct ApplyPace {
    began: Instant,
    /// Milliseconds since `began`.
    slow_until: AtomicU64,
}

impl ApplyPace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { began: now, slow_until: AtomicU64::new(0) }
    }

    pub(super) fn is_quick(&self, now: Instant) -> bool {
        self.millis(now) >= self.slow_until.load(Ordering::Relaxed)
    }

    pub(super) fn took(&self, start: Instant, end: Instant) {
        if end.saturating_duration_since(start) >= SLOW {
            self.slow_until.fetch_max(self.millis(end + DOUBT), Ordering::Relaxed);
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_batch_is_doubted_for_a_while() {
        let began = Instant::now();
        let pace = ApplyPace::new(began);
        assert!(pace.is_quick(began));
        pace.took(began, began + SLOW / 2);
        assert!(pace.is_quick(began + SLOW / 2));
        let end = began + SLOW;
        pace.took(began, end);
        assert!(!pace.is_quick(end) && !pace.is_quick(end + DOUBT / 2));
        assert!(pace.is_quick(end + DOUBT));
    }
}
