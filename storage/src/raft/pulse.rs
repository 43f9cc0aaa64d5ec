//! The pulse of a node: one task that sends the heartbeats of all shards which the node leads, and sees to it that those
//! which it follows are watched.
//!
//! Left to itself, each group of openraft wakes some 33 times a second, to see whether it is time for a heartbeat or for an
//! election. Here the groups of a node are looked at together, once in each heartbeat interval: those that are led here send
//! their heartbeats at the same time, so that they travel to each other node in one message; one whose leader was heard
//! lately sleeps. A group looks at its own clock only from when its leader has been silent for a while. Elections begin when
//! they always did: the silence that wakes a group is shorter than the one after which it asks for votes.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::{
    task::coop::unconstrained,
    time::{MissedTickBehavior, interval},
};

use crate::{cluster::Serving, shard::Shard};

/// What a group is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Its only member.
    Alone,
    Leads,
    /// Has a leader, which was heard so long ago.
    Follows {
        silence: Duration,
    },
    /// Looks for a leader.
    Seeks,
}

/// The need of a group at this beat.
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
    // With one interval more it is less than what an election waits for, which is four at least.
    let patience = every * 5 / 2;
    let mut pulse = interval(every);
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pulse.tick().await;
        for group in cluster.shards().values().map(Shard::group) {
            let need = need(group.role(), patience);
            group.raft().runtime_config().tick(need == Need::Ticks);
            // When the group has no room for the word now, others are not to wait: it is busy, and what it sends to its
            // followers counts as heartbeats. Should it have stopped, this is told elsewhere.
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
