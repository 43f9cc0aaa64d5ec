//! One watcher: the positions that it was shown, and what was wrong with what it was shown.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use super::{Violation, Watcher, violation::Violations};

/// A device under watch. Its locks are its own; only the task that follows the device takes them.
pub struct WatcherCheck {
    pub name: Watcher,
    /// Does it read a timeline back, rather than being shown it?
    pub reads_back: bool,
    position: Mutex<Option<u64>>,
    shown: AtomicU64,
    violations: Arc<Violations>,
}

impl WatcherCheck {
    pub(super) fn new(name: Watcher, reads_back: bool, violations: Arc<Violations>) -> Self {
        Self { name, reads_back, position: Mutex::new(None), shown: AtomicU64::new(0), violations }
    }

    /// It was shown position `seq` of its timeline (delivered, or its own by `Accepted`). The first one may be any.
    pub fn position(&self, seq: u64) {
        let before = self.position.lock().replace(seq);
        if let Some(before) = before
            && seq != before + 1
        {
            let watcher = self.name.clone();
            self.violations.add(Violation::Gap { watcher, expected: before + 1, got: seq });
        }
    }

    /// It was told that its timeline now begins at `first`.
    pub fn trimmed(&self, first: u64) {
        *self.position.lock() = first.checked_sub(1);
    }

    /// The last position that it was shown.
    pub fn last_position(&self) -> Option<u64> {
        *self.position.lock()
    }

    pub fn corrupted(&self, why: String) {
        self.violations.add(Violation::Corrupted { watcher: self.name.clone(), why });
    }

    /// Messages that it expects and was shown, each counted once.
    pub fn shown(&self) -> u64 {
        self.shown.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self) {
        self.shown.fetch_add(1, Ordering::Relaxed);
    }
}
