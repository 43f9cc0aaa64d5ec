//! The leader of a timeline shard advances the shard's clock, by which retention counts. See
//! docs/adr/0008-retention-clock.md.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use carillon_proto::{
    ShardId,
    pb::store::{AdvanceClock, StoreError, TimelineCommand, timeline_command::Op},
};
use prost::Message as _;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    cluster::Serving,
    config::RetentionConfig,
    machine::{Outcome, Retention, TimelineReader},
    shard::{Reader, Shard},
};

/// The shortest and the longest interval between two advances: an eighth of the shortest time that depends on the
/// clock, within these bounds.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The retention settings for the state machine.
pub(crate) fn retention(config: &RetentionConfig) -> Retention {
    let RetentionConfig {
        max_age_ms,
        max_count,
        duplicate_window_ms,
        cursor_age_ms,
        report_age_ms,
        unreferenced_media_ms,
    } = *config;
    let told = Retention {
        max_age_ms,
        max_count,
        duplicate_window_ms,
        cursor_age_ms,
        report_age_ms,
        unreferenced_media_ms,
        slack_ms: 0,
    };
    Retention { slack_ms: most(told).as_millis() as u64, ..told }
}

pub(crate) async fn run(serving: Arc<Serving>, retention: Retention) {
    let Some(cluster) = serving.get() else { return };
    let mut clocks: HashMap<ShardId, LeaderClock> = HashMap::new();
    let mut ticks = interval(every(retention));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = ticks.tick().await;
        let of_domains = !cluster.domain_ages().is_empty();
        for shard in cluster.shards().values() {
            let (Reader::Timeline(reader), leads) = (shard.reader(), shard.group().leads()) else { continue };
            let clock = clocks.entry(shard.id()).or_insert_with(|| LeaderClock::new(most(retention)));
            if let Some(elapsed_ms) = clock.tick(now, leads)
                && (retention.needs_clock() || of_domains || has_expiring(shard, reader).await)
            {
                advance(shard, elapsed_ms).await;
            }
        }
    }
}

/// True if the clock is needed for messages of the shard that expire.
async fn has_expiring(shard: &Shard, reader: &TimelineReader) -> bool {
    let reader = reader.clone();
    let error = match tokio::task::spawn_blocking(move || reader.has_expiring()).await {
        Ok(Ok(has_expiring)) => return has_expiring,
        Ok(Err(error)) => error,
        Err(error) => io::Error::other(error),
    };
    tracing::error!(shard = %shard.id(), %error, "expiring messages can't be read");
    shard.alarm().note(format_args!("shard {}", shard.id()), &error);
    false
}

fn every(retention: Retention) -> Duration {
    let envelopes =
        [retention.max_age_ms, retention.duplicate_window_ms].map(|ms| if retention.trims() { ms } else { 0 });
    let others = [retention.cursor_age_ms, retention.report_age_ms, retention.unreferenced_media_ms];
    let times = envelopes.into_iter().chain(others).filter(|ms| *ms > 0);
    times.min().map_or(INTERVAL.1, |ms| Duration::from_millis(ms / 8).clamp(INTERVAL.0, INTERVAL.1))
}

/// The most that is counted between two ticks: a process that was held up has not watched meanwhile.
fn most(retention: Retention) -> Duration {
    every(retention) * 2
}

async fn advance(shard: &Shard, elapsed_ms: u32) {
    let command = TimelineCommand { op: Some(Op::AdvanceClock(AdvanceClock { elapsed_ms })) }.encode_to_vec();
    // Not retried: the command may have been carried out. Uncounted time keeps data longer, which is safe.
    if let Outcome::Error(StoreError { why: Some(why) }) = shard.write(command.into()).await {
        tracing::debug!(shard = %shard.id(), ?why, "the shard's clock stood still");
    }
}

/// Counts only the time in which this node led without interruption.
struct LeaderClock {
    last: Option<Instant>,
    /// The most that counts between two ticks.
    most: Duration,
}

impl LeaderClock {
    fn new(most: Duration) -> Self {
        Self { last: None, most }
    }

    /// Milliseconds since the last tick.
    fn tick(&mut self, now: Instant, counts: bool) -> Option<u32> {
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

    /// Everything is kept for ever.
    fn nothing() -> RetentionConfig {
        RetentionConfig { cursor_age_ms: 0, report_age_ms: 0, unreferenced_media_ms: 0, ..RetentionConfig::default() }
    }

    #[test]
    fn the_time_is_told_often_enough_for_the_shortest_age_and_seldom_for_long_ones() {
        let config = |max_age_ms, max_count, duplicate_window_ms, cursor_age_ms| {
            let times = RetentionConfig { max_age_ms, max_count, duplicate_window_ms, cursor_age_ms, ..nothing() };
            every(retention(&times))
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
        assert!(!retention(&nothing()).needs_clock());
        assert!(retention(&RetentionConfig { report_age_ms: day, ..nothing() }).needs_clock());
        let reports = RetentionConfig { report_age_ms: 8000, ..nothing() };
        assert_eq!(every(retention(&reports)), Duration::from_secs(1));
        let files = RetentionConfig { unreferenced_media_ms: 16_000, ..nothing() };
        assert_eq!(every(retention(&files)), Duration::from_secs(2));
    }

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
        let mut clock = LeaderClock::new(Duration::from_secs(120));
        assert_eq!(clock.tick(start, true), None);
        assert_eq!(clock.tick(start + Duration::from_secs(3600), true), Some(120_000));
    }
}
