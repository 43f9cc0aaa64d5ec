//! What a group knows about itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use openraft::{RaftMetrics, ServerState, async_runtime::Instant as _};

use super::{group::address_of, types::Types};
use crate::addresses::AddressBook;

/// The role, the members and the progress of a group, as its replica on this node knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GroupStatus {
    pub(crate) leads: bool,
    pub(crate) term: u64,
    /// The replica that leads, and the address of its node.
    pub(crate) leader: Option<(u64, String)>,
    pub(crate) last_log: Option<u64>,
    pub(crate) applied: Option<u64>,
    /// The index committed by a majority, as last reported by a leader since this node started; `None`: not reported
    /// yet.
    pub(crate) committed: Option<u64>,
    pub(crate) snapshot: Option<u64>,
    /// On the leader: how far the log of each replica is known to match.
    pub(crate) matched: BTreeMap<u64, Option<u64>>,
    pub(crate) voters: Vec<u64>,
    /// All replicas, including learners.
    pub(crate) replicas: Vec<u64>,
    /// A change of the members is half done.
    pub(crate) in_change: bool,
    /// The entry that made the members what they are may not be committed: another leader may undo it.
    pub(crate) members_may_change_back: bool,
    /// On the leader: members that have not answered for longer than an election takes.
    pub(crate) silent: BTreeSet<u64>,
    /// On the leader: when it sent what each other member has answered last.
    pub(crate) heard: BTreeMap<u64, Instant>,
}

impl GroupStatus {
    /// `patience`: members that have not answered for so long are silent.
    pub(super) fn of(metrics: &RaftMetrics<Types>, own: u64, book: &AddressBook, patience: Duration) -> Self {
        let membership = metrics.membership_config.membership();
        let leader = metrics.current_leader.and_then(|id| Some((id, address_of(book, id, membership.get_node(&id)?))));
        let matched = metrics
            .replication
            .as_ref()
            .map(|nodes| nodes.iter().map(|(node, matched)| (*node, matched.as_ref().map(|id| id.index))).collect());
        let now = Instant::now();
        let heard = metrics.heartbeat.iter().flatten().filter(|(id, _)| **id != own);
        let silent = heard.clone().filter(|(_, at)| at.as_ref().is_none_or(|at| at.elapsed() > patience));
        Self {
            leads: metrics.state == ServerState::Leader,
            term: metrics.current_term,
            leader,
            last_log: metrics.last_log_index,
            applied: metrics.last_applied.as_ref().map(|id| id.index),
            committed: metrics.cluster_committed.as_ref().map(|id| id.index),
            snapshot: metrics.snapshot.as_ref().map(|id| id.index),
            matched: matched.unwrap_or_default(),
            voters: membership.voter_ids().collect(),
            replicas: membership.nodes().map(|(id, _)| *id).collect(),
            in_change: membership.get_joint_config().len() > 1,
            members_may_change_back: metrics.membership_config.log_id().map(|id| id.index)
                > metrics.last_applied.as_ref().map(|id| id.index),
            silent: silent.map(|(id, _)| *id).collect(),
            heard: heard.filter_map(|(id, at)| Some((*id, now.checked_sub(at.as_ref()?.elapsed())?))).collect(),
        }
    }

    /// Ok if this node has everything that a majority has. Otherwise the number of entries that it lacks, if known.
    pub(crate) fn caught_up(&self) -> Result<(), Option<u64>> {
        let committed = self.committed.ok_or(None)?;
        match committed.saturating_sub(self.applied.unwrap_or(0)) {
            0 if self.applied.is_some() => Ok(()),
            behind => Err(Some(behind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_caught_up_when_it_has_applied_what_a_majority_has() {
        let status = |applied, committed| GroupStatus {
            leads: false,
            term: 1,
            leader: Some((1, "a:1".to_owned())),
            last_log: Some(1000),
            applied,
            committed,
            voters: vec![1, 2, 3],
            replicas: vec![1, 2, 3],
            ..GroupStatus::default()
        };
        assert_eq!(status(Some(900), None).caught_up(), Err(None), "it has heard nothing since it started");
        assert_eq!(status(Some(900), Some(1000)).caught_up(), Err(Some(100)));
        assert_eq!(status(None, Some(0)).caught_up(), Err(Some(0)));
        assert_eq!(status(Some(1000), Some(1000)).caught_up(), Ok(()));
        assert_eq!(status(Some(1001), Some(1000)).caught_up(), Ok(()));
    }
}
