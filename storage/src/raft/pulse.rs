//! The pulse of a node: one task that sends the heartbeats of all shards that the node leads, and makes sure that the
//! leaders of the others are watched.
//!
//! By default each openraft group wakes some 33 times a second to check whether a heartbeat or an election is due. Here
//! all groups of a node are checked together, once each heartbeat interval: the groups led here send their heartbeats
//! at the same time, so that they travel to each other node in one message; a group whose leader was heard lately
//! sleeps. A group checks its own clock only after its leader has been silent for a while. Elections begin at the same
//! time as by default: the silence that wakes a group is shorter than the one after which it asks for votes.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::{
    task::coop::unconstrained,
    time::{MissedTickBehavior, interval},
};

use crate::{cluster::Serving, shard::Shard};

/// The present role of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Its only member.
    Alone,
    Leads,
    /// Has a leader, last heard this long ago.
    Follows {
        silence: Duration,
    },
    /// Looks for a leader.
    Seeks,
}

/// What a group needs at this beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Rest,
    Heartbeat,
    /// The group has to check its own election timer.
    Ticks,
}

fn need(role: Role, patience: Duration) -> Need {
    match role {
        Role::Alone => Need::Rest,
        Role::Leads => Need::Heartbeat,
        Role::Follows { silence } if silence < patience => Need::Rest,
        Role::Follows { .. } | Role::Seeks => Need::Ticks,
    }
}

/// Runs as long as the node. `every`: the heartbeat interval.
pub(crate) async fn beat(serving: Arc<Serving>, every: Duration) {
    let Some(cluster) = serving.get() else { return };
    // With one interval more this is less than the election timeout, which is at least four.
    let patience = every * 5 / 2;
    let mut pulse = interval(every);
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pulse.tick().await;
        for group in cluster.shards().values().map(Shard::group) {
            let need = need(group.role(), patience);
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

    #[test]
    fn a_group_watches_its_clock_only_while_its_leader_is_silent() {
        let patience = Duration::from_millis(375);
        let follows = |ms| need(Role::Follows { silence: Duration::from_millis(ms) }, patience);
        assert_eq!([follows(0), follows(374), follows(375)], [Need::Rest, Need::Rest, Need::Ticks]);
        assert_eq!(need(Role::Seeks, patience), Need::Ticks);
        assert_eq!(need(Role::Alone, patience), Need::Rest);
        assert_eq!(need(Role::Leads, patience), Need::Heartbeat);
    }
}
