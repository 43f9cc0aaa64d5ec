//! Latencies by the second and over the whole run.

use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// Locks among which recorders are spread.
const SHARDS: usize = 8;

/// Latencies in microseconds, with three digits, up to an hour.
pub struct Latencies {
    shards: Vec<Mutex<Histogram<u64>>>,
    sums: Mutex<Sums>,
}

struct Sums {
    interval: Histogram<u64>,
    /// `None` until a window is asked for.
    window: Option<Histogram<u64>>,
    total: Histogram<u64>,
}

/// An empty histogram: three digits from one microsecond to an hour.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("constants that are valid")
}

impl Default for Latencies {
    fn default() -> Self {
        let sums = Sums { interval: histogram(), window: None, total: histogram() };
        Self { shards: (0..SHARDS).map(|_| Mutex::new(histogram())).collect(), sums: Mutex::new(sums) }
    }
}

impl Latencies {
    /// Records a latency. `shard` is any number that belongs to the recording task.
    pub fn record(&self, shard: usize, us: u64) {
        self.shards[shard % SHARDS].lock().saturating_record(us);
    }

    /// Adds what another process has recorded.
    pub fn absorb(&self, more: &Histogram<u64>) {
        self.sums.lock().add(more);
    }

    /// The latencies since the last call.
    pub fn take_interval(&self) -> Histogram<u64> {
        std::mem::replace(&mut self.sum().interval, histogram())
    }

    /// The latencies since the last call of this function; at the first call, none.
    pub fn take_window(&self) -> Histogram<u64> {
        self.sum().window.replace(histogram()).unwrap_or_else(histogram)
    }

    /// All latencies.
    pub fn total(&self) -> Histogram<u64> {
        self.sum().total.clone()
    }

    fn sum(&self) -> parking_lot::MutexGuard<'_, Sums> {
        let mut sums = self.sums.lock();
        for shard in &self.shards {
            let mut shard = shard.lock();
            if !shard.is_empty() {
                sums.add(&shard);
                shard.reset();
            }
        }
        sums
    }
}

impl Sums {
    fn add(&mut self, more: &Histogram<u64>) {
        for sum in [&mut self.interval, &mut self.total].into_iter().chain(&mut self.window) {
            sum.add(more).expect("same bounds");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_add_up_to_the_total() {
        let latencies = Latencies::default();
        latencies.record(0, 10);
        latencies.record(9, 20);
        assert_eq!(latencies.take_interval().len(), 2);
        latencies.record(1, 30);
        assert_eq!(latencies.take_interval().max(), 30);
        assert!(latencies.take_interval().is_empty());
        assert_eq!(latencies.total().len(), 3);
    }

    #[test]
    fn windows_and_intervals_do_not_disturb_each_other() {
        let latencies = Latencies::default();
        latencies.record(0, 10);
        assert!(latencies.take_window().is_empty(), "it begins now");
        latencies.record(1, 20);
        assert_eq!(latencies.take_interval().len(), 2);
        let mut elsewhere = histogram();
        elsewhere.saturating_record(30);
        latencies.absorb(&elsewhere);
        let window = latencies.take_window();
        assert_eq!((window.len(), window.max()), (2, 30));
        assert_eq!((latencies.take_interval().len(), latencies.total().len()), (1, 3));
    }
}
