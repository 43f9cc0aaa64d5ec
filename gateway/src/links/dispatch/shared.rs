//! Shared by the partitions of a gateway's dispatch: the pending requests, and the era of each router.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use carillon_proto::{AdmissionLimit, KeyedMap};
use parking_lot::{Mutex, RwLock};

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

/// See `RouterRequest.era`. Shared, because all partitions use the links. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Eras(Arc<RwLock<KeyedMap<Arc<str>, AtomicU64>>>);

impl Eras {
    pub(super) fn of(&self, router: &str) -> u64 {
        self.0.read().get(router).map_or(0, |era| era.load(Ordering::Relaxed))
    }

    /// A request of this era was refused.
    pub(super) fn end(&self, router: &Arc<str>, era: u64) {
        if let Some(known) = self.0.read().get(router) {
            known.fetch_max(era + 1, Ordering::Relaxed);
            return;
        }
        self.0.write().entry(Arc::clone(router)).or_default().fetch_max(era + 1, Ordering::Relaxed);
    }
}
