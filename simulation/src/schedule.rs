//! Virtual time and the scheduled events.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Microseconds since the run began.
pub(crate) type Time = u64;

pub(crate) const MS: Time = 1000;
pub(crate) const SECOND: Time = 1000 * MS;

/// The time at which all runs begin, in milliseconds since 1970.
const START_MS: u64 = 1_800_000_000_000;

pub(crate) struct Schedule<E> {
    start: Instant,
    now: Time,
    next: u64,
    /// Events of the same time happen in the order in which they were scheduled.
    events: BTreeMap<(Time, u64), E>,
}

impl<E> Schedule<E> {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), now: 0, next: 0, events: BTreeMap::new() }
    }

    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// The present time for the product's logic, which uses only differences.
    pub(crate) fn instant(&self) -> Instant {
        self.start + Duration::from_micros(self.now)
    }

    pub(crate) fn unix_ms(&self) -> u64 {
        START_MS + self.now / MS
    }

    pub(crate) fn instant_at(&self, at: Time) -> Instant {
        self.start + Duration::from_micros(at)
    }

    /// The virtual time of an instant, rounded up.
    pub(crate) fn time_of(&self, instant: Instant) -> Time {
        instant.saturating_duration_since(self.start).as_nanos().div_ceil(1000) as Time
    }

    pub(crate) fn at(&mut self, at: Time, event: E) {
        self.events.insert((at.max(self.now), self.next), event);
        self.next += 1;
    }

    pub(crate) fn after(&mut self, wait: Time, event: E) {
        self.at(self.now + wait, event);
    }

    /// The time of the next event.
    pub(crate) fn next_at(&self) -> Option<Time> {
        self.events.keys().next().map(|(at, _)| *at)
    }

    /// Lets time pass without an event.
    pub(crate) fn pass_until(&mut self, at: Time) {
        self.now = self.now.max(at);
    }

    pub(crate) fn pop(&mut self) -> Option<E> {
        let ((at, _), event) = self.events.pop_first()?;
        self.now = at;
        Some(event)
    }
}
