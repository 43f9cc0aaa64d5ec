//! The pulse of a node: one task that sends the heartbeats of all shards that the node leads, and makes sure that the
//! leaders of the others are watched.
//!
//! By default each openraft group wakes some 33 times a second to check whether a heartbeat or an election is due. Here
//! all groups of a node are checked together, once each heartbeat interval: the groups led here send their heartbeats
//! at the same time, so that they travel to each other node in one message; a group whose leader was heard lately
//! sleeps. A group in which nothing has happened since its last heartbeat has one at every other beat, so that half of
//! the beats of a quiet node do nothing; the lease of a leader is longer than that. A group checks its own clock only
//! after its leader has been silent for a while. Elections begin at the same time as by default: the silence that wakes
//! a group is shorter than the one after which it asks for votes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use carillon_proto::ShardId;
use futures_util::FutureExt as _;
use tokio::{
    task::coop::unconstrained,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{cluster::Serving, shard::Shard};

/// The present role of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Its only member.
    Alone,
    Leads {
        progress: Progress,
    },
    /// Has a leader, last heard this long ago.
    Follows {
        silence: Duration,
    },
    /// Looks for a leader.
    Seeks,
}

/// The last entries that the leader of a group has in its log, and has applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) last_log: Option<u64>,
    pub(super) applied: Option<u64>,
}

/// What a group needs at this beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Rest,
    Heartbeat,
    /// The group has to check its own election timer.
    Ticks,
}

/// The beats of a node.
struct Beats {
    every: Duration,
    /// The lease of a leader is long enough for the group to miss a beat, and for the next one to come late.
    may_miss: bool,
    last: Option<Instant>,
    /// Groups in which nothing happens have their heartbeats at this beat, too.
    for_all: bool,
    /// The progress of the groups that are led here, at their last heartbeat.
    progress: HashMap<ShardId, Progress>,
}

impl Beats {
    fn new(every: Duration, lease: Duration) -> Self {
        Self { every, may_miss: lease >= every * 3, last: None, for_all: false, progress: HashMap::new() }
    }

    fn begin(&mut self, now: Instant) {
        let late = self.last.is_none_or(|last| now.saturating_duration_since(last) > self.every * 3 / 2);
        self.last = Some(now);
        self.for_all = late || !self.may_miss || !self.for_all;
    }

    fn need(&mut self, shard: ShardId, role: Role) -> Need {
        // With one interval more this is less than the election timeout, which is at least four.
        let patience = self.every * 5 / 2;
        let Role::Leads { progress } = role else {
            self.progress.remove(&shard);
            return match role {
                Role::Follows { silence } if silence >= patience => Need::Ticks,
                Role::Seeks => Need::Ticks,
                _ => Need::Rest,
            };
        };
        if self.progress.insert(shard, progress) == Some(progress) && !self.for_all {
            return Need::Rest;
        }
        Need::Heartbeat
    }
}

/// Runs as long as the node. `every`: the heartbeat interval. `lease`: how long a leader answers reads after a majority has
/// heard it.
pub(crate) async fn beat(serving: Arc<Serving>, every: Duration, lease: Duration) {
    let Some(cluster) = serving.get() else { return };
    let mut beats = Beats::new(every, lease);
    let mut pulse = interval(every);
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.begin(pulse.tick().await);
        for group in cluster.shards().values().map(Shard::group) {
            let need = beats.need(group.shard(), group.role());
            group.raft().runtime_config().tick(need == Need::Ticks);
            // If the group's queue is full, the others must not wait for it: the group is busy, and its appends count
            // as heartbeats. A stopped group is reported elsewhere.
            if need == Need::Heartbeat && unconstrained(group.raft().trigger().heartbeat()).now_or_never().is_none() {
                tracing::debug!(shard = %group.shard(), "no room for a heartbeat");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId::REGISTRY;
    const EVERY: Duration = Duration::from_millis(250);

    #[test]
    fn a_group_watches_its_clock_only_while_its_leader_is_silent() {
        let mut beats = Beats::new(EVERY, EVERY * 3);
        let mut follows = |ms| beats.need(SHARD, Role::Follows { silence: Duration::from_millis(ms) });
        assert_eq!([follows(0), follows(624), follows(625)], [Need::Rest, Need::Rest, Need::Ticks]);
        assert_eq!(beats.need(SHARD, Role::Seeks), Need::Ticks);
        assert_eq!(beats.need(SHARD, Role::Alone), Need::Rest);
    }

    #[test]
    fn a_quiet_group_has_a_heartbeat_at_every_other_beat_and_one_with_news_at_each() {
        let mut beats = Beats::new(EVERY, EVERY * 3);
        let mut now = Instant::now();
        let mut beat = |beats: &mut Beats, after: Duration, last_log, applied| {
            now += after;
            beats.begin(now);
            beats.need(SHARD, Role::Leads { progress: Progress { last_log: Some(last_log), applied: Some(applied) } })
        };
        let needs: Vec<_> = (0..4).map(|_| beat(&mut beats, EVERY, 7, 7)).collect();
        assert_eq!(needs, [Need::Heartbeat, Need::Rest, Need::Heartbeat, Need::Rest]);
        assert_eq!(beat(&mut beats, EVERY, 7, 7), Need::Heartbeat);
        assert_eq!(beat(&mut beats, EVERY, 8, 7), Need::Heartbeat, "an entry");
        assert_eq!(beat(&mut beats, EVERY, 8, 7), Need::Heartbeat);
        assert_eq!(beat(&mut beats, EVERY, 8, 8), Need::Heartbeat, "it is committed, which the others may not know");
        assert_eq!(beat(&mut beats, EVERY, 8, 8), Need::Heartbeat);
        assert_eq!(beat(&mut beats, EVERY * 2, 8, 8), Need::Heartbeat, "the beat comes late");
        beats.need(SHARD, Role::Seeks);
        assert_eq!(beat(&mut beats, EVERY, 8, 8), Need::Heartbeat, "it leads anew");
        let mut beats = Beats::new(EVERY, EVERY * 2);
        let needs: Vec<_> = (0..3).map(|_| beat(&mut beats, EVERY, 8, 8)).collect();
        assert_eq!(needs, [Need::Heartbeat; 3], "with a lease so short");
    }
}
