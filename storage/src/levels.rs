//! The level of the cluster rises when the operator says so, and never by itself: until then the release of before can come back. See
//! docs/adr/0022-way-back.md. The levels of the shards follow.

use std::fmt;

use carillon_proto::{
    Level,
    pb::{
        raft::Identity,
        store::{
            DirectoryCommand, FoundCluster, Node, NodeKind, RaiseLevel, Release, SetLevel, SetStorageNode, StorageNode,
            StoreError, TimelineCommand, directory_command::Op as DirectoryOp, leads_reply::Holder,
            storage_node::State, timeline_command::Op as TimelineOp,
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

/// A process that is in the way of a level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Obstacle {
    #[error("storage node {node} at {address} does not answer ({why}): nobody knows what its program can read")]
    Silent { node: u64, address: String, why: String },
    #[error("storage node {node} at {address} runs {release}, which reads levels up to {reads}")]
    Older { node: u64, address: String, release: String, reads: Level },
    #[error("{holder} runs {release}, which knows levels up to {knows}")]
    OlderHolder { holder: String, release: String, knows: Level },
    #[error(
        "{holder} has not told what it runs: a release before 0.2.0; or it was killed, and its lease has not run out; or it tells it \
         within seconds"
    )]
    Untold { holder: String },
    #[error("what gateways and routers run is not known: {why}")]
    Unasked { why: String },
}

/// All that is in the way of a level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Obstacles {
    wanted: Level,
    by: Vec<Obstacle>,
}

/// Room for their names; further ones are only counted. The answer travels in a header, which has 16 KiB at most.
const NAMED_BYTES: usize = 6 * 1024;

impl Obstacles {
    /// Fails if there are any.
    pub(crate) fn check(wanted: Level, by: Vec<Obstacle>) -> Result<(), Self> {
        if by.is_empty() { Ok(()) } else { Err(Self { wanted, by }) }
    }
}

impl std::error::Error for Obstacles {}

impl fmt::Display for Obstacles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, by } = self;
        write!(f, "these are in the way of level {wanted}:")?;
        let mut room = NAMED_BYTES;
        for (index, obstacle) in by.iter().enumerate() {
            let line = obstacle.to_string();
            if line.len() > room {
                write!(f, "\n  and {} more", by.len() - index)?;
                break;
            }
            room -= line.len();
            write!(f, "\n  {line}")?;
        }
        write!(
            f,
            "\nAll have to run a release that knows the level first, so that each can read what is written, and clients find \
             everywhere what one of them was told"
        )
    }
}

/// The answers of the nodes that are not lost. One that is lost reads nothing any more.
fn of_members(answers: &Answers) -> impl Iterator<Item = &(StorageNode, Result<Identity, String>)> {
    answers.iter().filter(|(row, _)| row.state() != State::Lost)
}

/// The level to which the cluster would rise by itself, if it did: the highest one that the programs of all nodes that answer can read.
pub(crate) fn wished(answers: &Answers) -> Level {
    let reads = of_members(answers).filter_map(|(_, answer)| Some(Level(answer.as_ref().ok()?.reads_level)));
    reads.min().unwrap_or_default()
}

/// The storage nodes whose programs can't read this level, or of which nobody knows it.
pub(crate) fn nodes_in_the_way(answers: &Answers, wanted: Level) -> Vec<Obstacle> {
    let obstacle = |(row, answer): &(StorageNode, Result<Identity, String>)| {
        let (node, address) = (row.node, row.address.clone());
        match answer {
            Err(why) => Some(Obstacle::Silent { node, address, why: why.clone() }),
            Ok(identity) if Level(identity.reads_level) < wanted => {
                let (release, reads) = (release_named(&identity.release), Level(identity.reads_level));
                Some(Obstacle::Older { node, address, release, reads })
            }
            Ok(_) => None,
        }
    };
    of_members(answers).filter_map(obstacle).collect()
}

/// Of these gateways and routers, those that do not know this level, or have not told it. `told`: by the leader of the registry.
pub(crate) fn holders_in_the_way(nodes: &[Node], told: &[Holder], wanted: Level) -> Vec<Obstacle> {
    let obstacle = |node: &Node| {
        let told = told.iter().find(|told| told.lease == node.lease);
        let holder = holder_named(node, told.map_or("", |told| &told.name));
        let Some(release) = told.and_then(|told| told.release.as_ref()) else {
            return Some(Obstacle::Untold { holder });
        };
        let (knows, release) = (Level(release.level), release_named(&release.version));
        (knows < wanted).then_some(Obstacle::OlderHolder { holder, release, knows })
    };
    nodes.iter().filter_map(obstacle).collect()
}

/// As an operator knows it: by its address or its name.
fn holder_named(node: &Node, name: &str) -> String {
    let kind = if node.kind() == NodeKind::Router { "router" } else { "gateway" };
    let known_by = if node.address.is_empty() { name } else { &node.address };
    match known_by {
        "" => format!("the {kind} with lease {}", node.lease),
        known_by => format!("the {kind} {known_by} with lease {}", node.lease),
    }
}

fn release_named(version: &str) -> String {
    if version.is_empty() { "a release that it does not tell".to_owned() } else { format!("release {version}") }
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

/// Raises the cluster to this level, where its registry is led. Makes its rows, if it has none. May be repeated. `holders`: gateways and
/// routers that are in the way.
pub(crate) async fn raise(
    cluster: &Cluster,
    shard: &Shard,
    bootstrap: &Bootstrap,
    wanted: Level,
    holders: Vec<Obstacle>,
) -> Result<(), String> {
    let rows = cluster.rows();
    if wanted <= rows.level {
        return Ok(());
    }
    let answers = bootstrap.ask_members(cluster, &rows).await;
    // Of the level at which the cluster was made all its nodes have said that they can read it: who is away now holds nobody up.
    let nodes = if cluster.is_below_its_beginning(rows.level) && wanted <= cluster.begins_at {
        Vec::new()
    } else {
        nodes_in_the_way(&answers, wanted)
    };
    let by = nodes.into_iter().chain(holders).collect();
    Obstacles::check(wanted, by).map_err(|why| why.to_string())?;
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
        let answer = reads.map(|reads_level| Identity { reads_level, release: "0.2.0".into(), ..Identity::default() });
        (row, answer.ok_or_else(|| "connection refused".to_owned()))
    }

    fn refused(wanted: Level, by: Vec<Obstacle>) -> String {
        Obstacles::check(wanted, by).expect_err("something is in the way").to_string()
    }

    #[test]
    fn the_oldest_program_decides_and_a_silent_node_leaves_it_open() {
        let mixed = vec![node(1, State::Active, Some(5)), node(2, State::Leaving, Some(3)), node(3, State::Lost, None)];
        assert_eq!(wished(&mixed), Level(3), "one that leaves still reads, one that is lost does not");
        assert_eq!(nodes_in_the_way(&mixed, Level(3)), []);
        let said = refused(Level(4), nodes_in_the_way(&mixed, Level(4)));
        assert!(said.contains("storage node 2 at s2:1 runs release 0.2.0, which reads levels up to 3"), "{said}");
        let silent = vec![node(1, State::Active, Some(5)), node(2, State::Active, None)];
        assert_eq!(wished(&silent), Level(5));
        let said = refused(Level(5), nodes_in_the_way(&silent, Level(5)));
        assert!(said.contains("storage node 2 at s2:1 does not answer (connection refused)"), "{said}");
    }

    #[test]
    fn all_that_are_in_the_way_are_named_by_what_an_operator_knows() {
        let row = |lease, kind: NodeKind, address: &str| Node {
            lease,
            kind: kind.into(),
            address: address.to_owned(),
            ..Node::default()
        };
        let release = |version: &str, level| Some(Release { version: version.to_owned(), level });
        let holder = |lease, release, name: &str| Holder { lease, release, name: name.to_owned() };
        let nodes = [
            row(7, NodeKind::Router, "r1:7402"),
            row(8, NodeKind::Router, "r2:7402"),
            row(9, NodeKind::Gateway, ""),
            row(10, NodeKind::Gateway, ""),
            row(11, NodeKind::Gateway, ""),
        ];
        let told = [
            holder(7, release("0.2.0", 6), ""),
            holder(8, release("0.3.0", 7), ""),
            holder(9, release("0.2.0", 6), "web-1 (tcp 0.0.0.0:7403)"),
            holder(10, None, "10.0.3.7"),
        ];
        let storage =
            vec![node(1, State::Active, Some(7)), node(2, State::Active, Some(6)), node(3, State::Active, None)];
        let mut by = nodes_in_the_way(&storage, Level(7));
        by.extend(holders_in_the_way(&nodes, &told, Level(7)));
        let said = refused(Level(7), by);
        let lines: Vec<&str> = said.lines().map(str::trim).collect();
        assert_eq!(lines[0], "these are in the way of level 7:");
        for (line, begins) in lines[1..].iter().zip([
            "storage node 2 at s2:1 runs release 0.2.0, which reads levels up to 6",
            "storage node 3 at s3:1 does not answer",
            "the router r1:7402 with lease 7 runs release 0.2.0, which knows levels up to 6",
            "the gateway web-1 (tcp 0.0.0.0:7403) with lease 9 runs release 0.2.0",
            "the gateway 10.0.3.7 with lease 10 has not told what it runs",
            "the gateway with lease 11 has not told what it runs",
            "All have to run a release that knows the level",
        ]) {
            assert!(line.starts_with(begins), "{line} is not: {begins}");
        }
        assert_eq!(lines.len(), 8, "{said}");
    }

    /// The answer travels in a header.
    #[test]
    fn many_that_are_in_the_way_are_counted() {
        let nodes: Vec<Node> = (0..1000).map(|lease| Node { lease, ..Node::default() }).collect();
        let name = "n".repeat(128);
        let told: Vec<Holder> =
            nodes.iter().map(|node| Holder { lease: node.lease, release: None, name: name.clone() }).collect();
        let said = refused(Level(7), holders_in_the_way(&nodes, &told, Level(7)));
        let named = said.lines().filter(|line| line.contains("has not told")).count();
        assert!(named > 10 && said.contains(&format!("and {} more", 1000 - named)), "{said}");
        assert!(said.len() < 8 * 1024, "{} bytes", said.len());
    }
}
