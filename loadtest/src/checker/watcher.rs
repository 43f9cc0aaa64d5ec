//! Checks what one watcher, a device that reads a timeline, was shown: the positions, and the violations in them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use super::{Unread, Violation, Watcher, violation::Violations};

/// The checks of one device. The locks belong to this watcher; only the task that follows the device takes them.
pub struct WatcherCheck {
    pub name: Watcher,
    /// True if the watcher reads a timeline back, and is not a device that is shown messages.
    pub reads_back: bool,
    position: Mutex<Option<u64>>,
    shown: AtomicU64,
    /// Why the timeline was not read to its end.
    unread: Mutex<Option<String>>,
    violations: Arc<Violations>,
}

impl WatcherCheck {
    pub(super) fn new(name: Watcher, reads_back: bool, violations: Arc<Violations>) -> Self {
        let (position, shown, unread) = (Mutex::new(None), AtomicU64::new(0), Mutex::new(None));
        Self { name, reads_back, position, shown, unread, violations }
    }

    /// The watcher was shown position `seq` of its timeline, by a delivery or by the `Accepted` of a message of its
    /// own. The first position may be any.
    pub fn position(&self, seq: u64) {
        let before = self.position.lock().replace(seq);
        if let Some(before) = before
            && seq != before + 1
        {
            let watcher = self.name.clone();
            self.violations.add(Violation::Gap { watcher, expected: before + 1, got: seq });
        }
    }

    /// The watcher was told that its timeline now begins at `first`.
    pub fn trimmed(&self, first: u64) {
        *self.position.lock() = first.checked_sub(1);
    }

    /// The last position that the watcher was shown.
    pub fn last_position(&self) -> Option<u64> {
        *self.position.lock()
    }

    pub fn corrupted(&self, why: String) {
        self.violations.add(Violation::Corrupted { watcher: self.name.clone(), why });
    }

    /// The timeline could not be read to its end: what is missing in it says nothing.
    pub(crate) fn unread(&self, why: String) {
        *self.unread.lock() = Some(why);
    }

    pub(super) fn is_unread(&self) -> bool {
        self.unread.lock().is_some()
    }

    pub(super) fn as_unread(&self) -> Option<Unread> {
        let why = self.unread.lock().clone()?;
        Some(Unread { watcher: self.name.clone(), why })
    }

    /// The number of expected messages that the watcher was shown, each counted once.
    pub fn shown(&self) -> u64 {
        self.shown.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self) {
        self.shown.fetch_add(1, Ordering::Relaxed);
    }
}
