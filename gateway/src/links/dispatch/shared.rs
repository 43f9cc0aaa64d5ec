//! Shared by the partitions of a gateway's dispatch: the pending requests, and the eras of sends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use carillon_proto::AdmissionLimit;
use parking_lot::Mutex;

use super::IN_TIME;

/// Unanswered requests of all partitions.
pub(crate) struct Load {
    pending: AtomicUsize,
    max_pending: usize,
    /// The highest number of pending requests at which a send is still taken.
    limit: AtomicUsize,
    admission: Mutex<AdmissionLimit>,
}

impl Load {
    pub(crate) fn new(max_pending: usize) -> Self {
        let admission = AdmissionLimit::new(max_pending, IN_TIME);
        Self {
            pending: AtomicUsize::new(0),
            max_pending,
            limit: AtomicUsize::new(admission.limit()),
            admission: Mutex::new(admission),
        }
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }

    /// True if there is no room for one more. Partitions that ask at the same time may each take the last place.
    pub(super) fn is_full(&self, for_a_send: bool) -> bool {
        let most = if for_a_send { self.limit.load(Ordering::Relaxed) } else { self.max_pending };
        self.pending() >= most
    }

    pub(super) fn retry_after(&self) -> Duration {
        self.admission.lock().retry_after()
    }

    /// A send was answered after this time.
    pub(super) fn answered(&self, waited: Duration, now: Instant) {
        let mut admission = self.admission.lock();
        admission.answered(waited, self.pending(), now);
        self.limit.store(admission.limit(), Ordering::Relaxed);
    }
}

/// See `RouterRequest.era`: each send has an era of its own, so that a router that refuses it refuses no other one.
/// Shared, because all partitions use the links. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Eras(Arc<AtomicU64>);

impl Eras {
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}
