//! Work of shard leaders that brings the cluster to the state described by its rows: a new cluster is founded, the levels of the
//! shards follow that of the cluster, replicas become members and leave. Each step is idempotent, and any later leader may repeat it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{
    Level, ShardId,
    pb::store::{
        ForgetReplica, Placement, Replica, ReplicaJoined, StorageNode, directory_command::Op as DirectoryOp,
        storage_node::State,
    },
};
use tokio::time::{sleep, timeout};

use crate::{
    bootstrap::Bootstrap,
    carrier::Carrier,
    cluster::{Cluster, Serving},
    levels::{self, directory, done},
    machine::ClusterRows,
    placement::most_up_to_date,
    planner,
    raft::{Group, GroupStatus, Host, LogId},
    shard::Shard,
};

/// Pause between two looks, with work left and without. A registry change is seen at once, and a new leader after this
/// time.
const BUSY: Duration = Duration::from_millis(200);
const QUIET: Duration = Duration::from_secs(2);
/// A change in one shard that takes longer is continued at the next look: the other shards have their turn.
const CHANGE: Duration = Duration::from_secs(10);
/// Entries that a new replica may lack when it becomes a voter.
const BEHIND: u64 = 1000;

pub(crate) async fn run(serving: Arc<Serving>, bootstrap: Bootstrap, carrier: Carrier) {
    let Some(cluster) = serving.get() else { return };
    let mut registry = cluster.registry.clone();
    let mut as_placed: HashMap<ShardId, Compared> = HashMap::new();
    let mut planned: Option<Planned> = None;
    let mut farewells = Farewells::default();
    loop {
        registry.borrow_and_update();
        let mut busy = false;
        for shard in cluster.shards().values().filter(|shard| shard.group().leads()) {
            let work = async {
                let changed =
                    shard.id() == ShardId::REGISTRY && lead_registry(cluster, shard, &bootstrap, &mut planned).await?;
                levels::raise_shard(shard, cluster.rows().level).await?;
                let compared = Compared::now(cluster, shard.group());
                if as_placed.get(&shard.id()) == Some(&compared) {
                    return Ok(changed);
                }
                let more = follow_placement(cluster, shard, &carrier, &mut farewells).await?;
                if !more {
                    as_placed.insert(shard.id(), compared);
                }
                Ok(more || changed)
            };
            match timeout(CHANGE, work).await.unwrap_or_else(|_| Err("it takes long".to_owned())) {
                Ok(more) => busy |= more,
                Err(why) => {
                    tracing::debug!(shard = %shard.id(), why, "a step towards what the registry says failed");
                    busy = true;
                }
            }
        }
        let pause = if busy { BUSY } else { QUIET };
        // An error means that the registry's shard has ended, and the process with it.
        let _ = timeout(pause, registry.changed()).await;
        // The rows of leases change often.
        sleep(BUSY / 4).await;
    }
}

/// The versions of the rows, and of what is known of leads, that leave nothing to be changed.
type Planned = (u64, u64);

/// The versions of rows and members between which `follow_placement` found no difference. It is not asked again before one of
/// them changes: with many shards, the comparison would be most of the work of an idle process.
#[derive(PartialEq, Eq)]
struct Compared {
    rows: u64,
    members: Option<LogId>,
}

impl Compared {
    fn now(cluster: &Cluster, group: &Group) -> Self {
        Self { rows: cluster.view_version(), members: group.members_from() }
    }
}

/// Founds a cluster that has just been made, and changes the placement. True if it did either. `planned`: what
/// left nothing to be changed.
async fn lead_registry(
    cluster: &Cluster,
    shard: &Shard,
    bootstrap: &Bootstrap,
    planned: &mut Option<Planned>,
) -> Result<bool, String> {
    let (version, rows) = (cluster.view_version(), cluster.rows());
    if rows.level < cluster.begins_at {
        levels::raise(cluster, shard, bootstrap, cluster.begins_at, Vec::new()).await?;
        return Ok(true);
    }
    let (leads, known) = cluster.leads.now(&rows, |usual| cluster.load.health.wait(usual));
    if rows.level < Level::GROWTH || shard.reader().level() < Level::GROWTH || *planned == Some((version, known)) {
        return Ok(false);
    }
    let Some(change) = planner::next(&rows, &leads) else {
        *planned = Some((version, known));
        return Ok(false);
    };
    tracing::info!(?change, "the placement changes");
    if matches!(change, DirectoryOp::PreferReplica(_)) {
        cluster.leads.moves();
    }
    directory(shard, change).await?;
    Ok(true)
}

/// The next step of a shard's leader to make the members of its group the replicas of the placement.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Nothing,
    /// A replica has to catch up first.
    Wait,
    AddLearner(u64),
    RemoveLearners(BTreeSet<u64>),
    /// These replicas are to be the voters.
    SetVoters(BTreeSet<u64>),
    /// The leader itself is to leave: it hands over first.
    HandOver(u64),
    /// Replicas that have become what they are to be.
    Joined(Vec<u64>),
    /// Replicas that are no longer members.
    Forget(Vec<u64>),
}

/// Replicas of the registry whose nodes have left: the node learns it from its replica, which must not be removed before. Of each, the
/// entry up to which the leader had applied the registry when this was seen, and the time.
#[derive(Default)]
pub(crate) struct Farewells(HashMap<u64, (u64, Instant)>);

impl Farewells {
    /// True if the replica has the entries, and has answered since they were committed, which each call to it says.
    fn knows(&mut self, replica: u64, status: &GroupStatus, now: Instant) -> bool {
        let Some(applied) = status.applied else { return false };
        let (upto, since) = *self.0.entry(replica).or_insert((applied, now));
        let matched = status.matched.get(&replica).copied().flatten();
        let knows = matched >= Some(upto) && status.heard.get(&replica).is_some_and(|heard| *heard > since);
        if knows {
            self.0.remove(&replica);
        }
        knows
    }
}

/// `knows`: whether a replica of the registry that leaves knows it, or needn't.
fn next(
    shard: ShardId,
    placement: &Placement,
    status: &GroupStatus,
    own: u64,
    mut knows: impl FnMut(u64) -> bool,
) -> Next {
    let ids = |of: fn(&Replica) -> bool| -> BTreeSet<u64> {
        placement.replicas.iter().filter(|replica| of(replica)).map(|replica| replica.id).collect()
    };
    let wanted = ids(|replica| !replica.leaving && !replica.learner);
    let learners = ids(|replica| !replica.leaving && replica.learner);
    let voters: BTreeSet<u64> = status.voters.iter().copied().collect();
    let members: BTreeSet<u64> = status.replicas.iter().copied().collect();
    if wanted.is_empty() {
        return Next::Nothing;
    }
    if let Some(new) = wanted.union(&learners).find(|id| !members.contains(id)) {
        return Next::AddLearner(*new);
    }
    let matched = |id: u64| status.matched.get(&id).copied().flatten();
    // A change of the voters leaves learners as they are.
    let gone: BTreeSet<u64> = &(&(&members - &wanted) - &learners) - &voters;
    if !status.in_change && !gone.is_empty() {
        let all_know = gone.iter().filter(|id| shard == ShardId::REGISTRY && !knows(**id)).count() == 0;
        return if all_know { Next::RemoveLearners(gone) } else { Next::Wait };
    }
    let behind = |id: u64| match (matched(id), status.last_log) {
        (Some(matched), Some(last)) => matched + BEHIND < last,
        (None, Some(_)) => true,
        (_, None) => false,
    };
    if voters != wanted || status.in_change {
        if wanted.difference(&voters).any(|id| behind(*id)) {
            return Next::Wait;
        }
        // With another voter missing, the change could leave the shard without a majority.
        if !status.in_change && voters.intersection(&wanted).any(|id| status.silent.contains(id)) {
            return Next::Wait;
        }
        if !wanted.contains(&own) && voters.contains(&own) {
            let stay = voters.intersection(&wanted).copied().collect();
            let others = GroupStatus { voters: stay, ..status.clone() };
            return most_up_to_date(&others, own).map_or_else(|| Next::SetVoters(wanted), Next::HandOver);
        }
        return Next::SetVoters(wanted);
    }
    let joining = ids(|replica| replica.joining && !replica.leaving);
    let has_joining = !joining.is_empty();
    let joined: Vec<u64> = joining.into_iter().filter(|id| wanted.contains(id) || !behind(*id)).collect();
    if !joined.is_empty() {
        return Next::Joined(joined);
    }
    if has_joining {
        return Next::Wait;
    }
    match ids(|replica| replica.leaving).into_iter().filter(|id| !members.contains(id)).collect::<Vec<_>>() {
        gone if gone.is_empty() => Next::Nothing,
        gone => Next::Forget(gone),
    }
}

/// The next step of the leader of a shard, whose replica is `own`, by the rows of this version.
pub(crate) fn step(
    shard: ShardId,
    rows: &ClusterRows,
    version: u64,
    status: &GroupStatus,
    own: u64,
    mut knows: impl FnMut(u64) -> bool,
) -> Next {
    let Some(placement) = rows.placement().get(&shard) else { return Next::Nothing };
    if status.replicas.iter().any(|replica| *replica > version) {
        // The rows are older than a member, and so say nothing about it.
        return Next::Wait;
    }
    if status.members_may_change_back {
        // What the rows would be told of these members could turn out wrong.
        return Next::Wait;
    }
    let is_lost = |replica| {
        let node = rows.node_of(shard, replica).and_then(|node| rows.node(node));
        node.is_none_or(|node| node.state() == State::Lost)
    };
    next(shard, placement, status, own, |replica| is_lost(replica) || knows(replica))
}

/// Does one step. True if there may be another.
async fn follow_placement(
    cluster: &Cluster,
    shard: &Shard,
    carrier: &Carrier,
    farewells: &mut Farewells,
) -> Result<bool, String> {
    if !cluster.registry.borrow().cluster.has_rows() {
        return Ok(false);
    }
    let (version, rows, group) = (cluster.view_version(), cluster.rows(), shard.group());
    let (status, now) = (group.status(), Instant::now());
    let knows = |replica| farewells.knows(replica, &status, now);
    match step(shard.id(), &rows, version, &status, group.replica(), knows) {
        Next::Nothing => return Ok(false),
        Next::Wait => {}
        Next::AddLearner(id) => {
            tracing::info!(shard = %shard.id(), replica = id, "a replica comes to the shard");
            group.add_learner(id, host(&rows, shard.id(), id)?).await?;
        }
        Next::RemoveLearners(ids) => {
            tracing::info!(shard = %shard.id(), ?ids, "replicas that never voted leave the shard");
            group.remove_learners(ids).await?;
        }
        Next::SetVoters(voters) => {
            tracing::info!(shard = %shard.id(), ?voters, "the shard's members change");
            // The registry's replicas go on without a vote.
            group.set_voters(voters, shard.id() == ShardId::REGISTRY).await?;
        }
        Next::HandOver(to) => group.transfer_leader(to).await,
        Next::Joined(replicas) => {
            for replica in replicas {
                let joined = ReplicaJoined { group: shard.id().group(), replica };
                done(carrier.carry(DirectoryOp::ReplicaJoined(joined)).await?)?;
                tracing::info!(shard = %shard.id(), replica, "a replica has joined the shard");
            }
        }
        Next::Forget(replicas) => {
            for replica in replicas {
                let forget = ForgetReplica { group: shard.id().group(), replica };
                done(carrier.carry(DirectoryOp::ForgetReplica(forget)).await?)?;
                tracing::info!(shard = %shard.id(), replica, "a replica has left the shard");
            }
        }
    }
    Ok(true)
}

fn host(rows: &ClusterRows, shard: ShardId, replica: u64) -> Result<Host, String> {
    let node = rows.node_of(shard, replica).and_then(|node| rows.node(node));
    let StorageNode { node, address, .. } = node.ok_or("the replica is on a node that is none")?;
    Ok(Host { node: *node, address: address.clone() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use carillon_proto::ShardKind;

    use super::*;

    fn placement(replicas: &[(u64, bool)]) -> Placement {
        let replica =
            |(id, leaving): &(u64, bool)| Replica { id: *id, node: *id, leaving: *leaving, ..Replica::default() };
        Placement { replicas: replicas.iter().map(replica).collect(), preferred: 0 }
    }

    fn status(voters: &[u64], replicas: &[u64], matched: &[(u64, u64)]) -> GroupStatus {
        GroupStatus {
            leads: true,
            term: 1,
            last_log: Some(5000),
            applied: Some(5000),
            committed: Some(5000),
            matched: matched.iter().map(|(id, index)| (*id, Some(*index))).collect(),
            voters: voters.to_vec(),
            replicas: replicas.to_vec(),
            ..GroupStatus::default()
        }
    }

    fn next(placement: &Placement, status: &GroupStatus, own: u64) -> Next {
        super::next(ShardId { kind: ShardKind::Timeline, index: 0 }, placement, status, own, |_| true)
    }

    #[test]
    fn members_become_those_of_the_placement_step_by_step() {
        let full = [(1, 5000), (2, 5000), (3, 5000)];
        let three = status(&[1, 2, 3], &[1, 2, 3], &full);
        assert_eq!(next(&placement(&[(1, false), (2, false), (3, false)]), &three, 1), Next::Nothing);
        let leaves = placement(&[(1, false), (2, true), (3, false)]);
        assert_eq!(next(&leaves, &three, 1), Next::SetVoters([1, 3].into()));
        let half = GroupStatus { in_change: true, ..status(&[1, 2, 3], &[1, 2, 3], &full) };
        assert_eq!(next(&leaves, &half, 1), Next::SetVoters([1, 3].into()), "another leader had begun");
        assert_eq!(next(&leaves, &status(&[1, 3], &[1, 3], &full), 1), Next::Forget(vec![2]));

        let back = placement(&[(1, false), (3, false), (640, false)]);
        assert_eq!(next(&back, &status(&[1, 3], &[1, 3], &full), 1), Next::AddLearner(640));
        let learns = |upto| status(&[1, 3], &[1, 3, 640], &[(1, 5000), (3, 5000), (640, upto)]);
        assert_eq!(next(&back, &learns(100), 1), Next::Wait);
        assert_eq!(next(&back, &learns(4500), 1), Next::SetVoters([1, 3, 640].into()));
    }

    #[test]
    fn a_replica_that_never_voted_leaves() {
        let full = [(1, 5000), (3, 5000)];
        let leaves = placement(&[(1, false), (3, false), (640, true)]);
        let learns = status(&[1, 3], &[1, 3, 640], &full);
        assert_eq!(next(&leaves, &learns, 1), Next::RemoveLearners([640].into()));
        let half = GroupStatus { in_change: true, ..learns };
        assert_eq!(next(&leaves, &half, 1), Next::SetVoters([1, 3].into()), "what was begun is ended first");
        assert_eq!(next(&leaves, &status(&[1, 3], &[1, 3], &full), 1), Next::Forget(vec![640]));
    }

    #[test]
    fn a_replica_of_the_registry_leaves_when_it_knows_so() {
        let leaves = placement(&[(1, false), (2, true), (3, false)]);
        let registry = status(&[1, 3], &[1, 2, 3], &[(1, 5000), (2, 5000), (3, 5000)]);
        let next = |knows: bool| super::next(ShardId::REGISTRY, &leaves, &registry, 1, |_| knows);
        assert_eq!(next(false), Next::Wait, "though no other replica is without a vote");
        assert_eq!(next(true), Next::RemoveLearners([2].into()));
    }

    #[test]
    fn a_replica_knows_what_was_committed_when_it_has_answered_since() {
        let (mut farewells, start) = (Farewells::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let mut knows = |matched, heard, now| {
            let mut status = status(&[1, 3], &[1, 2, 3], &[(2, matched)]);
            status.applied = Some(5000 + now);
            status.heard = BTreeMap::from([(2, at(heard))]);
            farewells.knows(2, &status, at(now))
        };
        assert!(!knows(5010, 5, 10), "the answer is older than the commit");
        assert!(!knows(5009, 15, 20), "it lacks the last entry");
        assert!(!knows(5010, 10, 30));
        assert!(knows(5010, 11, 30), "though more has come");
    }

    #[test]
    fn a_leader_that_is_to_leave_hands_over_to_one_that_stays() {
        let three = status(&[1, 2, 3], &[1, 2, 3], &[(1, 5000), (2, 5000), (3, 4000)]);
        let leaves = placement(&[(1, true), (2, true), (3, false)]);
        assert_eq!(next(&leaves, &three, 1), Next::HandOver(3));
    }

    #[test]
    fn a_shard_without_a_replica_is_left_as_it_is() {
        let three = status(&[1], &[1], &[]);
        assert_eq!(next(&placement(&[(1, true)]), &three, 1), Next::Nothing);
    }
}
