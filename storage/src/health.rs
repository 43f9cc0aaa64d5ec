//! Whether this node keeps up: how long the disk takes for a write, and how late tasks run.
//!
//! A write of the log, the applying of entries, or a wake-up that is late by `SLOW` makes a second bad. After `BAD` bad seconds, each
//! good one in between counting against one, the node is slow: it gives its leads away (`placement`), and gets them back when it has
//! been well for a while. A node says so of itself, whatever the others do; whether they do better is asked before a lead moves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::metrics as names;

const INTERVAL: Duration = Duration::from_secs(1);
/// A disk that does its work takes some hundredths of a second, and a tenth beside other work.
const SLOW: Duration = Duration::from_millis(400);
const BAD: u32 = 3;
/// How long a node has to be well before it is given leads again. Doubled each time that it is slow again soon after.
const WELL: Duration = Duration::from_secs(60);
const LONGEST_WELL: Duration = Duration::from_secs(16 * 60);
/// A node that is slow again within so many times the time that it had to be well has not recovered.
const RELAPSE: u32 = 10;
/// A node takes leads of one that is slow if it is delayed by this fraction at most, and by less than half of `SLOW`.
const BETTER: u64 = 4;

/// Counted by the parts of a node, looked at once a second.
pub(crate) struct Health {
    began: Instant,
    /// When the write of the log that is under way began, in milliseconds after `began`, and one more; 0: there is none.
    writing_since: AtomicU64,
    /// The longest delay since the last look.
    longest_ms: AtomicU64,
    /// The longest delay of the last seconds: half of it is forgotten each second.
    delay_ms: AtomicU64,
    slow: AtomicBool,
    #[cfg(feature = "planted-bugs")]
    planted: Planted,
}

#[cfg(feature = "planted-bugs")]
struct Planted {
    /// What each write of the log takes longer.
    delay_ms: AtomicU64,
    /// Waits are so many times shorter.
    haste: AtomicU64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            writing_since: AtomicU64::new(0),
            longest_ms: AtomicU64::new(0),
            delay_ms: AtomicU64::new(0),
            slow: AtomicBool::new(false),
            #[cfg(feature = "planted-bugs")]
            planted: Planted { delay_ms: AtomicU64::new(0), haste: AtomicU64::new(1) },
        }
    }
}

impl Health {
    /// A write of the log begins. Only one is under way at a time.
    pub(crate) fn write_begins(&self, now: Instant) {
        self.writing_since.store(self.millis(now) + 1, Ordering::Relaxed);
        #[cfg(feature = "planted-bugs")]
        std::thread::sleep(Duration::from_millis(self.planted.delay_ms.load(Ordering::Relaxed)));
    }

    pub(crate) fn write_ended(&self, took: Duration) {
        self.took(took);
        self.writing_since.store(0, Ordering::Relaxed);
    }

    /// Work that waits for the disk took this long.
    pub(crate) fn took(&self, took: Duration) {
        self.longest_ms.fetch_max(took.as_millis() as u64, Ordering::Relaxed);
    }

    /// True if the node can't keep up.
    pub(crate) fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    pub(crate) fn delay_ms(&self) -> u64 {
        self.delay_ms.load(Ordering::Relaxed)
    }

    /// The longest delay since the last look. A write that is under way counts.
    fn look(&self, now: Instant) -> Duration {
        let longest = self.longest_ms.swap(0, Ordering::Relaxed);
        let writing = match self.writing_since.load(Ordering::Relaxed) {
            0 => 0,
            since => (self.millis(now) + 1).saturating_sub(since),
        };
        Duration::from_millis(longest.max(writing))
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_millis() as u64
    }

    /// The length of a wait. Tests shorten it.
    pub(crate) fn wait(&self, usual: Duration) -> Duration {
        #[cfg(feature = "planted-bugs")]
        return usual / self.planted.haste.load(Ordering::Relaxed) as u32;
        #[cfg(not(feature = "planted-bugs"))]
        usual
    }

    #[cfg(feature = "planted-bugs")]
    pub(crate) fn plant_delay(&self, delay: Duration) {
        self.planted.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    #[cfg(feature = "planted-bugs")]
    pub(crate) fn plant_haste(&self, haste: u32) {
        self.planted.haste.store(haste.into(), Ordering::Relaxed);
    }
}

/// True if a node with the one delay takes leads of a slow one with the other.
pub(crate) fn is_better(delay_ms: u64, slow_ms: u64) -> bool {
    delay_ms * 2 < SLOW.as_millis() as u64 && delay_ms * BETTER <= slow_ms
}

/// Runs as long as the node.
pub(crate) async fn watch(health: Arc<Health>) {
    let mut verdict = Verdict::default();
    loop {
        let start = Instant::now();
        sleep(INTERVAL).await;
        let now = Instant::now();
        let late = now.saturating_duration_since(start).saturating_sub(INTERVAL);
        let delay = health.look(now).max(late);
        let delay_ms = delay.as_millis() as u64;
        health.delay_ms.store(delay_ms.max(health.delay_ms() / 2), Ordering::Relaxed);
        if verdict.changes(delay, now, health.wait(WELL)) {
            health.slow.store(verdict.slow, Ordering::Relaxed);
            tell(verdict.slow, delay_ms, late);
        }
        metrics::gauge!(names::SLOW).set(if verdict.slow { 1.0 } else { 0.0 });
    }
}

fn tell(slow: bool, delay_ms: u64, late: Duration) {
    if slow {
        let late_ms = late.as_millis() as u64;
        tracing::warn!(
            delay_ms,
            late_ms,
            "this node can't keep up: its disk is slow, or its tasks are late (late_ms). Its leads go to nodes that keep up"
        );
    } else {
        tracing::info!("this node keeps up again: it takes leads");
    }
}

/// Judges the seconds of a node, one after the other.
#[derive(Default)]
struct Verdict {
    slow: bool,
    /// Bad seconds, less good ones since; `BAD` at most.
    bad: u32,
    well_since: Option<Instant>,
    /// How long it has to be well, by how often it was slow again.
    doubled: u32,
    recovered: Option<Instant>,
}

impl Verdict {
    /// Takes the delay of the last second. True if the node is slow from now on, or is so no more.
    fn changes(&mut self, delay: Duration, now: Instant, well: Duration) -> bool {
        self.bad = if delay >= SLOW { (self.bad + 1).min(BAD) } else { self.bad.saturating_sub(1) };
        // A single bad second does not end a time in which all was well.
        if self.bad >= 2 {
            self.well_since = None;
        } else {
            self.well_since.get_or_insert(now);
        }
        if !self.slow {
            self.slow = self.bad >= BAD;
            if self.slow {
                let after = self.recovered.map(|at| now.saturating_duration_since(at));
                let is_relapse = after.is_some_and(|after| after < self.has_to_be_well(well) * RELAPSE);
                self.doubled = if is_relapse { self.doubled + 1 } else { 0 };
            }
            return self.slow;
        }
        let is_well = self.well_since.is_some_and(|since| now.duration_since(since) >= self.has_to_be_well(well));
        if is_well {
            (self.slow, self.recovered) = (false, Some(now));
        }
        is_well
    }

    fn has_to_be_well(&self, well: Duration) -> Duration {
        (well * 2_u32.saturating_pow(self.doubled.min(8))).min(LONGEST_WELL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Seconds {
        verdict: Verdict,
        now: Instant,
    }

    impl Seconds {
        fn new() -> Self {
            Self { verdict: Verdict::default(), now: Instant::now() }
        }

        /// Whether the node is slow after so many seconds with this delay.
        fn pass(&mut self, seconds: u64, delay_ms: u64) -> bool {
            for _ in 0..seconds {
                self.now += Duration::from_secs(1);
                self.verdict.changes(Duration::from_millis(delay_ms), self.now, WELL);
            }
            self.verdict.slow
        }

        /// The seconds without delay after which the node is slow no more.
        fn recovers_after(&mut self) -> u64 {
            (1..10_000).find(|_| !self.pass(1, 5)).expect("it recovers")
        }
    }

    #[test]
    fn a_node_is_slow_after_some_bad_seconds_and_well_a_minute_after_the_last() {
        let mut node = Seconds::new();
        assert!(!node.pass(100, 399), "not slow enough");
        assert!(!node.pass(2, 2000));
        assert!(node.pass(1, 400));
        assert!(node.pass(30, 3000));
        assert!(node.pass(59, 5), "not well for long enough");
        assert!(!node.pass(5, 5));
    }

    #[test]
    fn single_bad_seconds_make_no_node_slow_and_do_not_keep_it_so() {
        let mut node = Seconds::new();
        for _ in 0..100 {
            assert!(!node.pass(1, 1000));
            assert!(!node.pass(1, 5));
        }
        assert!(node.pass(3, 1000));
        for _ in 0..5 {
            node.pass(10, 5);
            node.pass(1, 1000);
        }
        assert!(!node.pass(10, 5));
    }

    #[test]
    fn one_that_is_slow_again_and_again_has_to_be_well_for_longer() {
        let mut node = Seconds::new();
        let mut waits = Vec::new();
        for _ in 0..7 {
            assert!(node.pass(3, 500));
            waits.push(node.recovers_after());
            node.pass(60, 5);
        }
        assert!(waits.windows(2).all(|pair| pair[1] > pair[0] + 50 || pair[1] > 900), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= LONGEST_WELL.as_secs() + 5), "{waits:?}");
        node.pass(LONGEST_WELL.as_secs() * u64::from(RELAPSE), 5);
        node.pass(3, 500);
        assert!(node.recovers_after() < 65, "it was well for long");
    }

    #[test]
    fn a_write_that_does_not_end_is_a_delay_that_grows() {
        let health = Health::default();
        let at = |ms| health.began + Duration::from_millis(ms);
        assert_eq!(health.look(at(500)), Duration::ZERO);
        health.write_begins(at(0));
        assert_eq!(health.look(at(1000)), Duration::from_millis(1000));
        assert_eq!(health.look(at(2000)), Duration::from_millis(2000));
        health.write_ended(Duration::from_millis(2500));
        health.took(Duration::from_millis(7));
        assert_eq!(health.look(at(3000)), Duration::from_millis(2500));
        assert_eq!(health.look(at(4000)), Duration::ZERO);
    }

    #[test]
    fn leads_go_to_a_node_that_is_clearly_better() {
        assert!(is_better(5, 400) && is_better(100, 400) && is_better(0, 0));
        assert!(!is_better(150, 400), "a little better");
        assert!(!is_better(200, 4000), "it has some trouble of its own");
        assert!(!is_better(1500, 3000), "both are slow");
    }
}
