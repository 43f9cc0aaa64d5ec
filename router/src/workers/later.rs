//! Rows of the outbox that wait for another attempt.

use std::{collections::BTreeMap, time::Duration};

use carillon_proto::pause;
use tokio::time::Instant;

use super::outbox::RowPlace;

/// Before something that failed is tried again.
pub(super) const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Rows that wait for another attempt.
const LATER: usize = 4096;

/// When a row is tried again.
pub(super) struct Later {
    pub(super) at: Instant,
    pub(super) failures: u32,
}

/// The row waits for another attempt, longer each time.
pub(super) fn put_off(later: &mut BTreeMap<RowPlace, Later>, place: RowPlace, now: Instant) {
    let failures = later.get(&place).map_or(1, |later| later.failures.saturating_add(1));
    if later.len() >= LATER {
        later.clear();
    }
    later.insert(place, Later { at: now + pause::growing(failures, PAUSES.0, PAUSES.1), failures });
}
