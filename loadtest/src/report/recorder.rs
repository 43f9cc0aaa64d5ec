//! Records the events of a run while it is running.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::sample::Sample;
use crate::{checker::Outcome, measure::latencies::Latencies};

/// A send is late if it goes out more than this after its time, although only the generator could delay it.
pub const LATE_US: u64 = 5_000;

/// An event in the service, for the plots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlotMark {
    /// Milliseconds after the beginning of the run.
    pub at_ms: u64,
    pub label: String,
}

/// Counters of the whole run, the warm-up included.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub accepted: u64,
    pub refused: u64,
    pub unknown: u64,
    /// Deliveries to devices, each device counted.
    pub delivered: u64,
    /// Connections that are signed in now.
    pub signed_in: u64,
    /// Sends with a time of their own that only the generator could delay, and how many of them went out late.
    pub scheduled: u64,
    pub late: u64,
}

/// Shared by all tasks of a run. Latencies of the warm-up are left out.
pub struct Recorder {
    began: Instant,
    began_unix_ms: u64,
    /// Microseconds after the beginning of the run; `u64::MAX` during the warm-up.
    measures_from_us: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    delivered: AtomicU64,
    signed_in: AtomicU64,
    scheduled: AtomicU64,
    late: AtomicU64,
    not_sent: AtomicU64,
    next_shard: AtomicUsize,
    /// Latency from the time at which a message should have been sent to its acceptance.
    pub acceptance: Latencies,
    /// Latency from the same time to each device of the recipient.
    pub delivery: Latencies,
    /// How long devices were away that had been signed in and came back.
    pub away: Latencies,
    marks: Mutex<Vec<PlotMark>>,
    samples: Mutex<Vec<Sample>>,
    phase: Mutex<Phase>,
}

/// The current activity of the run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Phase {
    pub name: String,
    /// Milliseconds after the beginning of the run.
    pub began_ms: u64,
    /// Absent if the length is not known.
    pub lasts: Option<Duration>,
}

/// Most marks and samples that are kept; enough for a day of samples.
const KEPT: usize = 100_000;

impl Default for Recorder {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            began_unix_ms: carillon_proto::now_ms(),
            measures_from_us: AtomicU64::new(u64::MAX),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            signed_in: AtomicU64::new(0),
            scheduled: AtomicU64::new(0),
            late: AtomicU64::new(0),
            not_sent: AtomicU64::new(0),
            next_shard: AtomicUsize::new(0),
            acceptance: Latencies::default(),
            delivery: Latencies::default(),
            away: Latencies::default(),
            marks: Mutex::default(),
            samples: Mutex::default(),
            phase: Mutex::default(),
        }
    }
}

impl Recorder {
    pub fn began_unix_ms(&self) -> u64 {
        self.began_unix_ms
    }

    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub fn elapsed_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// The time `at` in microseconds after the beginning of the run.
    pub fn us(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began).as_micros() as u64
    }

    /// Ends the warm-up: latencies count from now on.
    pub fn measure_from_now(&self) {
        self.measures_from_us.store(self.us(Instant::now()), Ordering::Relaxed);
    }

    /// Milliseconds after the beginning; `None` during the warm-up.
    pub fn measures_from_ms(&self) -> Option<u64> {
        let us = self.measures_from_us.load(Ordering::Relaxed);
        (us != u64::MAX).then_some(us / 1000)
    }

    /// A number for [`Latencies::record`].
    pub fn shard(&self) -> usize {
        self.next_shard.fetch_add(1, Ordering::Relaxed)
    }

    fn measures(&self, intended_us: u64) -> bool {
        intended_us >= self.measures_from_us.load(Ordering::Relaxed)
    }

    /// A send that only the generator could delay goes out now.
    pub fn sent_on_schedule(&self, intended_us: u64, now_us: u64) {
        if self.measures(intended_us) {
            self.scheduled.fetch_add(1, Ordering::Relaxed);
            if now_us.saturating_sub(intended_us) > LATE_US {
                self.late.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// A send has ended. Only an acceptance has a latency.
    pub fn ended(&self, shard: usize, intended_us: u64, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Accepted => &self.accepted,
            Outcome::Refused => &self.refused,
            Outcome::Unknown => &self.unknown,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if outcome == Outcome::Accepted && self.measures(intended_us) {
            self.acceptance.record(shard, self.us(Instant::now()).saturating_sub(intended_us));
        }
    }

    /// A device was shown a message. `timed` is true if the delivery counts for the delivery latency.
    pub fn delivered(&self, shard: usize, intended_us: u64, timed: bool) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        if timed && self.measures(intended_us) {
            self.delivery.record(shard, self.us(Instant::now()).saturating_sub(intended_us));
        }
    }

    /// The run ended before this message was sent: it had waited this long already, and would have waited longer.
    pub fn not_sent(&self, shard: usize, intended_us: u64, now_us: u64) {
        if self.measures(intended_us) {
            self.not_sent.fetch_add(1, Ordering::Relaxed);
            let waited = now_us.saturating_sub(intended_us);
            self.acceptance.record(shard, waited);
            self.delivery.record(shard, waited);
        }
    }

    pub fn not_sent_count(&self) -> u64 {
        self.not_sent.load(Ordering::Relaxed)
    }

    pub fn signed_in(&self) {
        self.signed_in.fetch_add(1, Ordering::Relaxed);
    }

    pub fn signed_out(&self) {
        self.signed_in.fetch_sub(1, Ordering::Relaxed);
    }

    /// A device is signed in again that had lost its connection at this time.
    pub fn back(&self, shard: usize, left: Instant) {
        self.away.record(shard, left.elapsed().as_micros() as u64);
    }

    pub fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            accepted: of(&self.accepted),
            refused: of(&self.refused),
            unknown: of(&self.unknown),
            delivered: of(&self.delivered),
            signed_in: of(&self.signed_in),
            scheduled: of(&self.scheduled),
            late: of(&self.late),
        }
    }

    /// Marks an event that happens now.
    pub fn mark(&self, label: impl Into<String>) {
        let mut marks = self.marks.lock();
        if marks.len() < KEPT {
            marks.push(PlotMark { at_ms: self.elapsed_ms(), label: label.into() });
        }
    }

    pub fn marks(&self) -> Vec<PlotMark> {
        self.marks.lock().clone()
    }

    pub(crate) fn sampled(&self, sample: Sample) {
        let mut samples = self.samples.lock();
        if samples.len() < KEPT {
            samples.push(sample);
        }
    }

    pub fn samples(&self) -> Vec<Sample> {
        self.samples.lock().clone()
    }

    /// Sets the phase of the run, which progress bars show.
    pub fn set_phase(&self, name: impl Into<String>) {
        *self.phase.lock() = Phase { name: name.into(), began_ms: self.elapsed_ms(), lasts: None };
    }

    /// The phase will take this long from now on.
    pub fn phase_lasts(&self, lasts: Duration) {
        let mut phase = self.phase.lock();
        phase.began_ms = self.elapsed_ms();
        phase.lasts = Some(lasts);
    }

    pub fn phase(&self) -> Phase {
        self.phase.lock().clone()
    }
}

impl Counts {
    /// The counts since `before`; `signed_in` is the current number.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            accepted: self.accepted - before.accepted,
            refused: self.refused - before.refused,
            unknown: self.unknown - before.unknown,
            delivered: self.delivered - before.delivered,
            signed_in: self.signed_in,
            scheduled: self.scheduled - before.scheduled,
            late: self.late - before.late,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_of_the_warm_up_are_left_out() {
        let recorder = Recorder::default();
        recorder.ended(0, 0, Outcome::Accepted);
        recorder.measure_from_now();
        let now = recorder.us(Instant::now()) + 1_000_000;
        recorder.ended(0, 0, Outcome::Accepted);
        recorder.ended(0, now, Outcome::Accepted);
        recorder.ended(0, now, Outcome::Unknown);
        recorder.delivered(0, now, true);
        recorder.delivered(0, now, false);
        assert_eq!(recorder.acceptance.total().len(), 1);
        assert_eq!(recorder.delivery.total().len(), 1);
        let counts = recorder.counts();
        assert_eq!((counts.accepted, counts.unknown, counts.delivered), (3, 1, 2));
    }

    #[test]
    fn what_was_not_sent_in_time_is_counted_with_the_time_that_it_waited() {
        let recorder = Recorder::default();
        recorder.measure_from_now();
        let from = recorder.us(Instant::now());
        recorder.not_sent(0, from, from + 3_000_000);
        assert_eq!(recorder.not_sent_count(), 1);
        assert!(recorder.acceptance.total().max() >= 2_990_000);
    }
}
