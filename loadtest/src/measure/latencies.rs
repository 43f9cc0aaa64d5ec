//! Latencies by the second and over the whole run.

use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// Locks among which recorders are spread.
const SHARDS: usize = 8;

/// Latencies in microseconds, with three digits, up to an hour.
pub struct Latencies {
    shards: Vec<Mutex<Histogram<u64>>>,
    total: Mutex<Histogram<u64>>,
}

/// An empty histogram: three digits from one microsecond to an hour.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("constants that are valid")
}

impl Default for Latencies {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::new(histogram())).collect(), total: Mutex::new(histogram()) }
    }
}

impl Latencies {
    /// Records a latency. `shard` is any number that belongs to the recording task.
    pub fn record(&self, shard: usize, us: u64) {
        self.shards[shard % SHARDS].lock().saturating_record(us);
    }

    /// The latencies since the last call.
    pub fn take_interval(&self) -> Histogram<u64> {
        let mut interval = histogram();
        for shard in &self.shards {
            let mut shard = shard.lock();
            if !shard.is_empty() {
                interval.add(&*shard).expect("same bounds");
                shard.reset();
            }
        }
        self.total.lock().add(&interval).expect("same bounds");
        interval
    }

    /// All latencies.
    pub fn total(&self) -> Histogram<u64> {
        self.take_interval();
        self.total.lock().clone()
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
}
