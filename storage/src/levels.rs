//! The level of the cluster rises when the operator says so, and never by itself: until then the release of before can come back. See
//! docs/adr/0022-way-back.md. The levels of the shards follow.

use carillon_proto::{
    Level,
    pb::{
        raft::Identity,
        store::{
            DirectoryCommand, FoundCluster, NodeKind, RaiseLevel, Release, SetLevel, SetStorageNode, StorageNode,
            StoreError, TimelineCommand, directory_command::Op as DirectoryOp, storage_node::State,
            timeline_command::Op as TimelineOp,
        },
    },
};
use prost::Message as _;

use crate::{
    bootstrap::Bootstrap,
    cluster::Cluster,
    machine::Outcome,
    shard::{Reader, Shard},
};

/// The rows of the storage nodes, each with the answer of its node or why there is none.
pub(crate) type Answers = Vec<(StorageNode, Result<Identity, String>)>;

/// Why the level can't be raised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotReadable {
    #[error(
        "storage node {node} at {address} does not answer ({why}): nobody knows what its program can read, so the level stays"
    )]
    Silent { node: u64, address: String, why: String },
    #[error("storage node {node} at {address} reads levels up to {reads}, not {wanted}: let it run this release first")]
    Older { node: u64, address: String, reads: Level, wanted: Level },
    #[error(
        "{holder} knows levels up to {knows}, not {wanted}: let it run this release first, so that clients find everywhere what \
         one of them was told"
    )]
    OlderHolder { holder: String, knows: Level, wanted: Level },
    #[error(
        "{holder} has not told what it runs: a release before 0.2.0, which `carillon status` shows as \"-\"; or it was killed, and its \
         lease has not run out; or it tells it within seconds"
    )]
    Untold { holder: String },
}

/// The highest level that the programs of all nodes can read. One that is lost reads nothing any more.
pub(crate) fn readable(answers: &Answers) -> Result<Level, NotReadable> {
    let mut lowest = None;
    for (row, answer) in answers.iter().filter(|(row, _)| row.state() != State::Lost) {
        let silent =
            |why: &String| NotReadable::Silent { node: row.node, address: row.address.clone(), why: why.clone() };
        let reads = Level(answer.as_ref().map_err(silent)?.reads_level);
        lowest = Some(lowest.map_or(reads, |lowest: Level| lowest.min(reads)));
    }
    Ok(lowest.unwrap_or_default())
}

/// Fails if not all programs can read this level.
pub(crate) fn check_readable(answers: &Answers, wanted: Level) -> Result<(), NotReadable> {
    if readable(answers)? >= wanted {
        return Ok(());
    }
    let older = answers.iter().filter(|(row, _)| row.state() != State::Lost).find_map(|(row, answer)| {
        let reads = Level(answer.as_ref().map_or(0, |answer| answer.reads_level));
        let (node, address) = (row.node, row.address.clone());
        (reads < wanted).then_some(NotReadable::Older { node, address, reads, wanted })
    });
    older.map_or(Ok(()), Err)
}

/// Fails if not all gateways and routers know this level, as far as this node, which leads the registry, has heard.
pub(crate) fn check_holders(cluster: &Cluster, wanted: Level) -> Result<(), NotReadable> {
    for node in &cluster.registry.borrow().nodes {
        let kind = if node.kind() == NodeKind::Router { "router" } else { "gateway" };
        let holder = || {
            format!(
                "the {kind} with lease {}{}{}",
                node.lease,
                if node.address.is_empty() { "" } else { " at " },
                node.address
            )
        };
        let release = cluster.leases.release(node.lease).ok_or_else(|| NotReadable::Untold { holder: holder() })?;
        let knows = Level(release.level);
        if knows < wanted {
            return Err(NotReadable::OlderHolder { holder: holder(), knows, wanted });
        }
    }
    Ok(())
}

/// Fails if the program of a gateway or router that registers does not know the level of the cluster: it would be given users, and
/// work by other rules than the others.
pub(crate) fn check_newcomer(level: Level, kind: NodeKind, release: Option<&Release>) -> Result<(), String> {
    let knows = Level(release.map_or(0, |release| release.level));
    if knows >= level {
        return Ok(());
    }
    let kind = if kind == NodeKind::Router { "router" } else { "gateway" };
    let of = release.map_or("a release before 0.2.0".to_owned(), |release| format!("release {}", release.version));
    Err(format!(
        "the cluster is at level {level}, and this {kind} runs {of}, which knows levels up to {knows}: let it run the release of the \
         storage nodes"
    ))
}

/// Raises the cluster to this level, where its registry is led. Makes its rows, if it has none. May be repeated.
pub(crate) async fn raise(
    cluster: &Cluster,
    shard: &Shard,
    bootstrap: &Bootstrap,
    wanted: Level,
) -> Result<(), String> {
    let rows = cluster.rows();
    if wanted <= rows.level {
        return Ok(());
    }
    let answers = bootstrap.ask_members(cluster, &rows).await;
    check_readable(&answers, wanted).map_err(|why| why.to_string())?;
    if cluster.registry.borrow().cluster.has_rows() {
        for (row, _) in answers {
            if Level(row.level) < wanted && row.state() != State::Lost {
                let node = Some(StorageNode { level: wanted.0, state: 0, ..row });
                directory(shard, DirectoryOp::SetStorageNode(SetStorageNode { node })).await?;
            }
        }
    } else {
        raise_shard(shard, Level::CLUSTER).await?;
        let members = answers.into_iter().map(|(row, _)| StorageNode { level: wanted.0, ..row }).collect();
        let (directory_shards, timeline_shards) = (cluster.map.directory.into(), cluster.map.timeline.into());
        directory(shard, DirectoryOp::FoundCluster(FoundCluster { members, directory_shards, timeline_shards }))
            .await?;
        tracing::info!("members and placement of the cluster are rows of the registry");
    }
    directory(shard, DirectoryOp::RaiseLevel(RaiseLevel { level: wanted.0 })).await?;
    tracing::info!(from = rows.level.0, to = wanted.0, "the cluster's level rises");
    Ok(())
}

/// The level of a shard follows the cluster's.
pub(crate) async fn raise_shard(shard: &Shard, level: Level) -> Result<(), String> {
    let before = shard.reader().level();
    if level <= before {
        return Ok(());
    }
    let op = SetLevel { level: level.0 };
    match shard.reader() {
        Reader::Directory(_) => directory(shard, DirectoryOp::SetLevel(op)).await?,
        Reader::Timeline(_) => {
            let command = TimelineCommand { op: Some(TimelineOp::SetLevel(op)) }.encode_to_vec();
            done(shard.write(command.into()).await)?;
        }
    }
    tracing::info!(shard = %shard.id(), from = before.0, to = level.0, "the shard's level rises");
    Ok(())
}

pub(crate) async fn directory(shard: &Shard, op: DirectoryOp) -> Result<(), String> {
    done(shard.write(DirectoryCommand { op: Some(op) }.encode_to_vec().into()).await)
}

pub(crate) fn done(outcome: Outcome) -> Result<(), String> {
    match outcome {
        Outcome::Error(StoreError { why }) => Err(format!("{why:?}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node: u64, state: State, reads: Option<u32>) -> (StorageNode, Result<Identity, String>) {
        let row = StorageNode { node, address: format!("s{node}:1"), state: state.into(), ..StorageNode::default() };
        let answer = reads.map(|reads_level| Identity { reads_level, ..Identity::default() });
        (row, answer.ok_or_else(|| "connection refused".to_owned()))
    }

    #[test]
    fn the_oldest_program_decides_and_a_silent_node_leaves_it_open() {
        let mixed = vec![node(1, State::Active, Some(5)), node(2, State::Leaving, Some(3)), node(3, State::Lost, None)];
        assert_eq!(readable(&mixed), Ok(Level(3)), "one that leaves still reads, one that is lost does not");
        assert_eq!(check_readable(&mixed, Level(3)), Ok(()));
        let refused = check_readable(&mixed, Level(4)).expect_err("the second can't").to_string();
        assert!(refused.contains("storage node 2 at s2:1 reads levels up to 3, not 4"), "{refused}");
        let silent = vec![node(1, State::Active, Some(5)), node(2, State::Active, None)];
        let refused = check_readable(&silent, Level(1)).expect_err("one is silent").to_string();
        assert!(refused.contains("storage node 2 at s2:1 does not answer (connection refused)"), "{refused}");
    }
}
