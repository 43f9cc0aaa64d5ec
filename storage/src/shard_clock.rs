//! The leader of a timeline shard tells it how time passes: what is removed, is removed by what it tells. See
//! docs/adr/0008-retention-clock.md.

use std::{collections::HashMap, sync::Arc, time::Duration};

use carillon_proto::{
    ShardId,
    pb::store::{AdvanceClock, StoreError, TimelineCommand, timeline_command::Op},
};
use prost::Message as _;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    cluster::Serving,
    config::RetentionConfig,
    lease_clock::LeaderClock,
    machine::{Outcome, Retention},
    shard::{Reader, Shard},
};

/// How often the time is told, at the most and at the least: an eighth of the shortest time that depends on it.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What the state machine goes by.
pub(crate) fn retention(config: &RetentionConfig) -> Retention {
    let RetentionConfig { max_age_ms, max_count, duplicate_window_ms, cursor_age_ms } = *config;
    let told = Retention { max_age_ms, max_count, duplicate_window_ms, cursor_age_ms, slack_ms: 0 };
    Retention { slack_ms: most(told).as_millis() as u64, ..told }
}

pub(crate) async fn run(serving: Arc<Serving>, retention: Retention) {
    let Some(cluster) = serving.get() else { return };
    if !retention.needs_clock() {
        return;
    }
    let mut clocks: HashMap<ShardId, LeaderClock> = HashMap::new();
    let mut ticks = interval(every(retention));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = ticks.tick().await;
        for shard in cluster.shards.values() {
            let (Reader::Timeline(_), leads) = (shard.reader(), shard.group().leads()) else { continue };
            let clock = clocks.entry(shard.id()).or_insert_with(|| LeaderClock::new(most(retention)));
            if let Some(elapsed_ms) = clock.tick(now, leads) {
                advance(shard, elapsed_ms).await;
            }
        }
    }
}

fn every(retention: Retention) -> Duration {
    let envelopes =
        [retention.max_age_ms, retention.duplicate_window_ms].map(|ms| if retention.trims() { ms } else { 0 });
    let times = envelopes.into_iter().chain([retention.cursor_age_ms]).filter(|ms| *ms > 0);
    times.min().map_or(INTERVAL.1, |ms| Duration::from_millis(ms / 8).clamp(INTERVAL.0, INTERVAL.1))
}

/// So much is counted between two ticks: a process that was held up has not watched meanwhile.
fn most(retention: Retention) -> Duration {
    every(retention) * 2
}

async fn advance(shard: &Shard, elapsed_ms: u32) {
    let command = TimelineCommand { op: Some(Op::AdvanceClock(AdvanceClock { elapsed_ms })) }.encode_to_vec();
    // Not repeated: it may have been carried out. Time that is lost keeps things longer, which is safe.
    if let Outcome::Error(StoreError { why: Some(why) }) = shard.write(command.into()).await {
        tracing::debug!(shard = %shard.id(), ?why, "the shard's clock stood still");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_told_often_enough_for_the_shortest_age_and_seldom_for_long_ones() {
        let config = |max_age_ms, max_count, duplicate_window_ms, cursor_age_ms| {
            every(retention(&RetentionConfig { max_age_ms, max_count, duplicate_window_ms, cursor_age_ms }))
        };
        let day = 86_400_000;
        assert_eq!(config(30 * day, 0, day, 180 * day), Duration::from_secs(60));
        assert_eq!(config(40_000, 0, 20_000, 180 * day), Duration::from_millis(2500));
        assert_eq!(config(0, 10, 1000, 0), Duration::from_secs(1));
        assert_eq!(
            config(0, 0, 1000, day),
            Duration::from_secs(60),
            "the window bounds nothing when nothing is trimmed"
        );
        assert!(!retention(&RetentionConfig { cursor_age_ms: 0, ..RetentionConfig::default() }).needs_clock());
    }
}
