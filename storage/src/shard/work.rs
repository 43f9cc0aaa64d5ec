//! The work of a shard's leader.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Points for one write, for one read, and for each so many bytes written. A write costs its leader more than a read, as it
/// goes to the followers and to the disk.
const WRITE: u64 = 4;
const READ: u64 = 1;
const BYTES: u64 = 1024;

/// Counts the work of one shard on this node, in points. Clones count together.
#[derive(Clone, Default)]
pub(crate) struct Work(Arc<AtomicU64>);

impl Work {
    pub(super) fn wrote(&self, commands: usize, bytes: usize) {
        self.add(commands as u64 * WRITE + bytes as u64 / BYTES);
    }

    pub(super) fn read(&self, reads: usize) {
        self.add(reads as u64 * READ);
    }

    /// All points so far.
    pub(crate) fn points(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, points: u64) {
        self.0.fetch_add(points, Ordering::Relaxed);
    }
}
