//! Records the events of a run while it is running.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    recorded::{Counts, Recorded},
    sample::Sample,
};
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

/// Shared by all tasks of a run. Latencies of the warm-up are left out.
pub struct Recorder {
    /// Gets everything, too.
    whole: Option<Whole>,
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
    /// Latency from the time at which a message should have been sent to its acceptance, or to when nobody waited for that any more.
    pub acceptance: Latencies,
    /// Latency as of `acceptance`, without the time by which the generator itself was late: from when the message was sent, if nothing but the
    /// generator held it back.
    pub acceptance_once_sent: Latencies,
    /// Latency from the intended time to each device of the recipient.
    pub delivery: Latencies,
    /// How long devices were away that had been signed in and came back.
    pub away: Latencies,
    marks: Mutex<Vec<PlotMark>>,
    samples: Mutex<Vec<Sample>>,
    phase: Mutex<Phase>,
}

/// The recorder of the whole run, of which a part has one of its own.
struct Whole {
    recorder: Arc<Recorder>,
    /// Stands before the part's marks.
    part: String,
    /// True if sends and deliveries of the part count as messages of the whole.
    has_messages: bool,
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
            whole: None,
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
            acceptance_once_sent: Latencies::default(),
            delivery: Latencies::default(),
            away: Latencies::default(),
            marks: Mutex::default(),
            samples: Mutex::default(),
            phase: Mutex::default(),
        }
    }
}

impl Recorder {
    /// The recorder of a part of a run, whose recorder gets everything, too. Their times count from the same beginning.
    pub fn part_of(whole: &Arc<Self>, part: &str) -> Self {
        Self::of(whole, part, true)
    }

    /// The recorder of a part that sends no messages: its sends and deliveries are its own.
    pub fn beside(whole: &Arc<Self>, part: &str) -> Self {
        Self::of(whole, part, false)
    }

    fn of(whole: &Arc<Self>, part: &str, has_messages: bool) -> Self {
        let (began, began_unix_ms) = (whole.began, whole.began_unix_ms);
        let whole = Whole { recorder: Arc::clone(whole), part: part.to_owned(), has_messages };
        Self { whole: Some(whole), began, began_unix_ms, ..Self::default() }
    }

    fn whole(&self) -> Option<&Self> {
        self.whole.as_ref().map(|whole| &*whole.recorder)
    }

    /// The recorder of the whole, if it counts this part's messages.
    fn messages(&self) -> Option<&Self> {
        self.whole.as_ref().filter(|whole| whole.has_messages).map(|whole| &*whole.recorder)
    }

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
        if let Some(whole) = self.messages() {
            whole.sent_on_schedule(intended_us, now_us);
        }
        if self.measures(intended_us) {
            self.scheduled.fetch_add(1, Ordering::Relaxed);
            if now_us.saturating_sub(intended_us) > LATE_US {
                self.late.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// A send has ended. One that had no answer has waited for so long, and would have waited longer; a final refusal has no latency.
    /// `due_us` is when the message should have been sent, or when it was, if nothing
    /// but the generator held it back.
    pub fn ended(&self, shard: usize, (intended_us, due_us): (u64, u64), outcome: Outcome) {
        if let Some(whole) = self.messages() {
            whole.ended(shard, (intended_us, due_us), outcome);
        }
        let counter = match outcome {
            Outcome::Accepted => &self.accepted,
            Outcome::Refused => &self.refused,
            Outcome::Unknown => &self.unknown,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if outcome != Outcome::Refused && self.measures(intended_us) {
            let now_us = self.us(Instant::now());
            self.acceptance.record(shard, now_us.saturating_sub(intended_us));
            self.acceptance_once_sent.record(shard, now_us.saturating_sub(due_us));
        }
    }

    /// A device was shown a message. `timed` is true if the delivery counts for the delivery latency.
    pub fn delivered(&self, shard: usize, intended_us: u64, timed: bool) {
        if let Some(whole) = self.messages() {
            whole.delivered(shard, intended_us, timed);
        }
        self.delivered.fetch_add(1, Ordering::Relaxed);
        if timed && self.measures(intended_us) {
            self.delivery.record(shard, self.us(Instant::now()).saturating_sub(intended_us));
        }
    }

    /// The run ended before this message was sent: it had waited this long already, and would have waited longer.
    pub fn not_sent(&self, shard: usize, intended_us: u64, now_us: u64) {
        if let Some(whole) = self.messages() {
            whole.not_sent(shard, intended_us, now_us);
        }
        if self.measures(intended_us) {
            self.not_sent.fetch_add(1, Ordering::Relaxed);
            let waited = now_us.saturating_sub(intended_us);
            self.acceptance.record(shard, waited);
            self.acceptance_once_sent.record(shard, waited);
            self.delivery.record(shard, waited);
        }
    }

    pub fn not_sent_count(&self) -> u64 {
        self.not_sent.load(Ordering::Relaxed)
    }

    pub fn signed_in(&self) {
        if let Some(whole) = self.whole() {
            whole.signed_in();
        }
        self.signed_in.fetch_add(1, Ordering::Relaxed);
    }

    pub fn signed_out(&self) {
        if let Some(whole) = self.whole() {
            whole.signed_out();
        }
        self.signed_in.fetch_sub(1, Ordering::Relaxed);
    }

    /// A device is signed in again that had lost its connection at this time.
    pub fn back(&self, shard: usize, left: Instant) {
        if let Some(whole) = self.whole() {
            whole.back(shard, left);
        }
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
        let label = label.into();
        if let Some(whole) = &self.whole {
            let part = if whole.part.is_empty() { String::new() } else { format!("{}: ", whole.part) };
            whole.recorder.mark(format!("{part}{label}"));
        }
        let mut marks = self.marks.lock();
        if marks.len() < KEPT {
            marks.push(PlotMark { at_ms: self.elapsed_ms(), label });
        }
    }

    /// Adds what another process has recorded. `before` are its counts of the time before.
    pub fn absorb(&self, recorded: &Recorded, before: &Counts) {
        let Recorded { counts, acceptance, acceptance_once_sent, delivery, away, marks } = recorded;
        let new = counts.since(before);
        for (counter, more) in [
            (&self.accepted, new.accepted),
            (&self.refused, new.refused),
            (&self.unknown, new.unknown),
            (&self.delivered, new.delivered),
            (&self.scheduled, new.scheduled),
            (&self.late, new.late),
        ] {
            counter.fetch_add(more, Ordering::Relaxed);
        }
        self.signed_in.fetch_add(counts.signed_in, Ordering::Relaxed);
        self.signed_in.fetch_sub(before.signed_in, Ordering::Relaxed);
        for (latencies, more) in [
            (&self.acceptance, acceptance),
            (&self.acceptance_once_sent, acceptance_once_sent),
            (&self.delivery, delivery),
            (&self.away, away),
        ] {
            latencies.absorb(more);
        }
        marks.iter().for_each(|label| self.mark(label.clone()));
    }

    /// Takes the figures since the last call; the counts are those of the whole run. `marks` is how many marks were told before.
    pub fn take_recorded(&self, marks: usize) -> Recorded {
        Recorded {
            counts: self.counts(),
            acceptance: self.acceptance.take_interval(),
            acceptance_once_sent: self.acceptance_once_sent.take_interval(),
            delivery: self.delivery.take_interval(),
            away: self.away.take_interval(),
            marks: self.marks().into_iter().skip(marks).map(|mark| mark.label).collect(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_of_the_warm_up_are_left_out() {
        let recorder = Recorder::default();
        recorder.ended(0, (0, 0), Outcome::Accepted);
        recorder.measure_from_now();
        let now = recorder.us(Instant::now()) + 1_000_000;
        recorder.ended(0, (0, 0), Outcome::Accepted);
        recorder.ended(0, (now, now), Outcome::Accepted);
        recorder.ended(0, (now, now), Outcome::Refused);
        recorder.delivered(0, now, true);
        recorder.delivered(0, now, false);
        assert_eq!(recorder.acceptance.total().len(), 1);
        assert_eq!(recorder.delivery.total().len(), 1);
        let counts = recorder.counts();
        assert_eq!((counts.accepted, counts.refused, counts.delivered), (3, 1, 2));
    }

    #[test]
    fn a_send_without_an_answer_counts_with_the_time_that_it_waited() {
        let recorder = Recorder::default();
        recorder.measure_from_now();
        let intended = recorder.us(Instant::now());
        std::thread::sleep(Duration::from_millis(20));
        recorder.ended(0, (intended, intended), Outcome::Unknown);
        assert_eq!((recorder.counts().unknown, recorder.acceptance.total().len()), (1, 1));
        assert!(recorder.acceptance.total().max() >= 19_000);
    }

    #[test]
    fn a_part_of_a_run_is_in_the_whole_too() {
        let whole = Arc::new(Recorder::default());
        let parts = ["idle", ""].map(|part| Recorder::part_of(&whole, part));
        whole.measure_from_now();
        for part in &parts {
            part.measure_from_now();
            let now = part.us(Instant::now()) + 1_000_000;
            part.signed_in();
            part.ended(0, (now, now), Outcome::Accepted);
            part.delivered(0, now, true);
            part.mark("ends");
            assert_eq!((part.counts().accepted, part.acceptance.total().len()), (1, 1));
        }
        let counts = whole.counts();
        assert_eq!((counts.accepted, counts.delivered, counts.signed_in), (2, 2, 2));
        assert_eq!((whole.acceptance.total().len(), whole.delivery.total().len()), (2, 2));
        let labels: Vec<_> = whole.marks().into_iter().map(|mark| mark.label).collect();
        assert_eq!(labels, ["idle: ends", "ends"]);
    }

    #[test]
    fn what_another_process_has_recorded_is_added() {
        let (here, there) = (Recorder::default(), Recorder::default());
        there.measure_from_now();
        here.measure_from_now();
        let now = there.us(Instant::now()) + 1_000_000;
        let mut before = Counts::default();
        let mut told = 0;
        for signed_in in [true, false] {
            if signed_in {
                there.signed_in()
            } else {
                there.signed_out()
            }
            there.ended(0, (now, now), Outcome::Accepted);
            there.mark("a mark");
            let recorded = there.take_recorded(told);
            let text = serde_json::to_string(&recorded).expect("written");
            let recorded: Recorded = serde_json::from_str(&text).expect("read");
            here.absorb(&recorded, &before);
            (before, told) = (recorded.counts, told + recorded.marks.len());
        }
        let counts = here.counts();
        assert_eq!((counts.accepted, counts.signed_in, here.acceptance.total().len()), (2, 0, 2));
        assert_eq!(here.marks().len(), 2);
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
