//! The batch that is being written to a shard, for views that must not see a part of it.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Between two looks at whether a batch has been inserted: longer than that takes, unless the disk holds the journal up.
const INSERTING: Duration = Duration::from_millis(1);

/// The batch that is being written to a shard.
#[derive(Default)]
pub(super) struct Coming {
    /// Its value of `APPLIED`.
    applied: Mutex<Option<Vec<u8>>>,
    written: Condvar,
}

/// Ends with the attempt to write the batch.
pub(super) struct Writing<'a>(&'a Coming);

impl Coming {
    pub(super) fn begin(&self, applied: &[u8]) -> Writing<'_> {
        *self.applied.lock() = Some(applied.to_vec());
        Writing(self)
    }

    /// Waits while a batch is being written and `is_inserting`. Looks again now and then, because the engine may hold the
    /// writer up when everything has been inserted.
    pub(super) fn wait(&self, is_inserting: impl Fn(&[u8]) -> bool) {
        let mut applied = self.applied.lock();
        while applied.as_deref().is_some_and(&is_inserting) {
            self.written.wait_for(&mut applied, INSERTING);
        }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        *self.0.applied.lock() = None;
        self.0.written.notify_all();
    }
}
