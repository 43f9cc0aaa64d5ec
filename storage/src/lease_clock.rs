//! The registry's leader tells its shard how time passes: leases end by what it tells.

use std::{sync::Arc, time::Duration};

use carillon_proto::pb::store::{AdvanceLeaseClock, DirectoryCommand, StoreError, directory_command::Op};
use prost::Message as _;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    cluster::Cluster,
    machine::Outcome,
    shard::{Reader, Shard},
};

const INTERVAL: Duration = Duration::from_millis(300);
/// A longer time between two looks is not counted as a whole: this process, or its machine, was held up, and what others
/// said meanwhile has not been read. Time that is lost makes leases longer, which is safe.
const MOST: Duration = INTERVAL.saturating_mul(3);

pub(crate) async fn run(cluster: Arc<crate::cluster::Serving>) {
    let Some(shard) = cluster.get().and_then(Cluster::registry) else { return };
    let Reader::Directory(reader) = shard.reader() else { return };
    let nodes = reader.registry();
    let mut clock = LeaderClock::new(MOST);
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = ticks.tick().await;
        let counts = shard.group().leads() && !nodes.borrow().nodes.is_empty();
        if let Some(elapsed_ms) = clock.tick(now, counts) {
            advance(shard, elapsed_ms).await;
        }
    }
}

async fn advance(shard: &Shard, elapsed_ms: u32) {
    let op = Op::AdvanceLeaseClock(AdvanceLeaseClock { elapsed_ms });
    let command = DirectoryCommand { op: Some(op) }.encode_to_vec();
    // Not repeated: it may have been carried out. Time that is lost makes leases longer, which is safe.
    if let Outcome::Error(StoreError { why: Some(why) }) = shard.write(command.into()).await {
        tracing::debug!(?why, "lease clock stood still");
    }
}

/// Counts only the time in which this node led, without a gap.
pub(crate) struct LeaderClock {
    last: Option<Instant>,
    /// So much counts between two ticks.
    most: Duration,
}

impl LeaderClock {
    pub(crate) fn new(most: Duration) -> Self {
        Self { last: None, most }
    }

    /// Milliseconds since the last tick.
    pub(crate) fn tick(&mut self, now: Instant, counts: bool) -> Option<u32> {
        if !counts {
            self.last = None;
            return None;
        }
        let elapsed = now.duration_since(self.last.replace(now)?).min(self.most);
        u32::try_from(elapsed.as_millis()).ok().filter(|elapsed| *elapsed > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_of_leading_counts() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut clock = LeaderClock::new(Duration::from_millis(900));
        assert_eq!(clock.tick(at(0), true), None);
        assert_eq!(clock.tick(at(300), true), Some(300));
        assert_eq!(clock.tick(at(900), true), Some(600));
        assert_eq!(clock.tick(at(1200), false), None);
        assert_eq!(clock.tick(at(9000), true), None);
        assert_eq!(clock.tick(at(9100), true), Some(100));
    }

    #[test]
    fn a_process_that_was_paused_has_not_watched_meanwhile() {
        let start = Instant::now();
        let mut clock = LeaderClock::new(MOST);
        assert_eq!(clock.tick(start, true), None);
        assert_eq!(clock.tick(start + Duration::from_secs(3600), true), Some(900));
    }
}
