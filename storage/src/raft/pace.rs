//! Tracks whether the engines of this node are as fast as they should be.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// An engine call that takes longer means that the engine has stalled its writers, or that its disk is slow.
const SLOW: Duration = Duration::from_millis(20);
/// How long an engine is not trusted after a slow call.
const DOUBT: Duration = Duration::from_secs(1);

/// Shared by the shards of a node, whose engines share one disk. While the engines are fast, entries are applied on the
/// async thread; otherwise on threads that may block. A slow engine so holds up the thread's other work once, not
/// repeatedly.
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
