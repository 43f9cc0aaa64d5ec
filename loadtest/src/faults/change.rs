//! Changes of the cluster's storage nodes by the operator's commands, while messages are sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use carillon_proto::Level;
use tokio::time::sleep;

use crate::cluster::{Cluster, ClusterError, Members, Role};

/// A change of the storage nodes, as an operator asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// A fourth node comes and takes its share of the replicas.
    Add,
    /// The fourth node is there, and gets its share now.
    Rebalance,
    /// The fourth node is there and has its share; another one leaves.
    Remove,
    /// The node is killed and its disk lost; one with an empty disk takes its place, at the same address.
    Replace,
    /// The same, but the new node has another address.
    ReplaceElsewhere,
    /// The node is stopped and comes back at another address.
    Readdress,
    /// The fourth node is there, and one of the replicas moves to it.
    Move,
}

const CHANGES: [(Change, &str); 7] = [
    (Change::Add, "add"),
    (Change::Rebalance, "rebalance"),
    (Change::Remove, "remove"),
    (Change::Replace, "replace"),
    (Change::ReplaceElsewhere, "replace-elsewhere"),
    (Change::Readdress, "readdress"),
    (Change::Move, "move"),
];

impl Change {
    pub(super) fn named(text: &str) -> Option<Self> {
        CHANGES.iter().find(|(_, name)| *name == text).map(|(change, _)| *change)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = CHANGES.iter().find(|(change, _)| change == self).expect("CHANGES names all");
        f.write_str(name)
    }
}

/// The members and replicas that a change must lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The node has its share of the replicas and of the leads.
    Share {
        node: u64,
    },
    /// The node is none of the cluster, and each shard has its replicas nevertheless.
    Gone {
        node: u64,
    },
    /// The node `by` has taken the place of the node `lost`, with a replica of each of its shards, or with as many as others have.
    Replaced {
        lost: u64,
        by: u64,
        shards: BTreeSet<String>,
    },
    At {
        node: u64,
        address: String,
    },
    Moved {
        shard: String,
        from: u64,
        to: u64,
    },
}

/// Replicas of each shard.
const REPLICAS: usize = 3;

impl Wanted {
    /// Says in words what is not yet as wanted; `None` when everything is.
    pub(super) fn missing(&self, members: &Members) -> Option<String> {
        if let Some(left) = &members.left {
            return Some(left.clone());
        }
        let has = |node: u64| members.nodes.iter().any(|member| member.node == node);
        let few = members
            .shards
            .iter()
            .find(|shard| shard.replicas.iter().filter(|replica| replica.state == "votes").count() < REPLICAS);
        if let Some(few) = few {
            return Some(format!("{} has fewer than {REPLICAS} replicas", few.shard));
        }
        match self {
            Self::Share { node } => {
                let (own, most) = own_and_most(members, *node);
                let leads = members.on(*node).flat_map(|shard| &shard.replicas);
                let leads = leads.filter(|replica| replica.node == *node && replica.should_lead).count();
                match (own + 1 < most, leads) {
                    (true, _) => Some(format!("storage node {node} has {own} replicas, another one {most}")),
                    (false, 0) => Some(format!("storage node {node} is to lead no shard")),
                    (false, _) => None,
                }
            }
            Self::Gone { node } => has(*node).then(|| format!("storage node {node} is still of the cluster")),
            Self::Replaced { lost, by, shards } => {
                if has(*lost) || !has(*by) {
                    return Some(format!("storage node {by} does not have the place of {lost}"));
                }
                let own: BTreeSet<_> = members.on(*by).map(|shard| shard.shard.clone()).collect();
                let missing = shards.difference(&own).next()?;
                let (own, most) = own_and_most(members, *by);
                if own > 0 && own + 1 >= most {
                    // With more nodes than replicas, the shard may have gone to another one.
                    return None;
                }
                Some(format!("storage node {by} has no replica of {missing}, as {lost} had"))
            }
            Self::At { node, address } => {
                let is_there = members.nodes.iter().any(|member| member.node == *node && member.address == *address);
                (!is_there).then(|| format!("storage node {node} is not at {address}"))
            }
            Self::Moved { shard, from, to } => {
                let on = |node: u64| members.on(node).any(|on| on.shard == *shard);
                (on(*from) || !on(*to)).then(|| format!("{shard} has not moved from storage node {from} to {to}"))
            }
        }
    }
}

/// How many replicas the node has, and how many the one with the most.
fn own_and_most(members: &Members, node: u64) -> (usize, usize) {
    let counts: BTreeMap<u64, usize> =
        members.nodes.iter().map(|member| (member.node, members.on(member.node).count())).collect();
    (counts.get(&node).copied().unwrap_or(0), counts.values().copied().max().unwrap_or(0))
}

/// A change that has been asked for.
pub(crate) struct Underway {
    change: Change,
    /// The index of the node that comes, goes or is replaced.
    node: usize,
    wanted: Wanted,
    asked: Instant,
}

/// Pause between two looks at what the cluster is doing.
const LOOK: Duration = Duration::from_millis(100);

/// Brings the cluster, before there is any load, to the state in which the change can be asked for.
pub(crate) async fn prepare(cluster: &mut Cluster, change: Change, patience: Duration) -> Result<(), ClusterError> {
    let give_up = Instant::now() + patience;
    while cluster.members().await?.level < Level::GROWTH.0 {
        if Instant::now() > give_up {
            return Err(ClusterError::Without("a level at which its members change"));
        }
        sleep(LOOK).await;
    }
    // Its refusals are of no interest before the run.
    let mut notes = Vec::new();
    match change {
        Change::Rebalance | Change::Move => add_without_share(cluster, patience, &mut notes).await.map(drop),
        Change::Remove => {
            add(cluster, &[], patience, &mut notes).await?;
            let wait = patience.as_secs().to_string();
            cluster.insist(&["rebalance", "--wait", &wait], &mut notes).await.map(drop)
        }
        Change::Add | Change::Replace | Change::ReplaceElsewhere | Change::Readdress => Ok(()),
    }
}

/// A new storage node becomes one of the cluster, and gets no replicas yet. Returns how long that took from the command on.
pub(crate) async fn add_without_share(
    cluster: &mut Cluster,
    patience: Duration,
    notes: &mut Vec<String>,
) -> Result<Duration, ClusterError> {
    let asked = add(cluster, &["--no-rebalance"], patience, notes).await?;
    settled(cluster, patience).await?;
    Ok(asked.elapsed())
}

async fn add(
    cluster: &mut Cluster,
    share: &[&str],
    patience: Duration,
    notes: &mut Vec<String>,
) -> Result<Instant, ClusterError> {
    let new = cluster.newcomer().await?;
    let (address, asked) = (cluster.nodes[new].address(), Instant::now());
    cluster.insist(&[&["add", &address], share].concat(), notes).await?;
    cluster.nodes[new].wait_ready(patience).await?;
    Ok(asked)
}

async fn settled(cluster: &Cluster, patience: Duration) -> Result<(), ClusterError> {
    let give_up = Instant::now() + patience;
    while let Some(left) = cluster.members().await?.left {
        if Instant::now() > give_up {
            return Err(ClusterError::Tool { command: "carillon cluster status".to_owned(), why: left });
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// Asks for a change of the node with this index, if the change is one of a node that is there. Tells in `notes` how it was
/// refused before it was taken.
pub(crate) async fn begin(
    cluster: &mut Cluster,
    change: Change,
    node: Option<usize>,
    notes: &mut Vec<String>,
) -> Result<Underway, ClusterError> {
    let node = match change {
        Change::Add => cluster.newcomer().await?,
        Change::Rebalance => cluster.newest()?,
        _ => node.ok_or(ClusterError::NoLeader)?,
    };
    let (asked, node, wanted) = match change {
        Change::Add => {
            let (asked, address) = (Instant::now(), cluster.nodes[node].address());
            let said = cluster.insist(&["add", &address], notes).await?;
            (asked, node, Wanted::Share { node: number_in(&said)? })
        }
        Change::Rebalance => {
            let wanted = Wanted::Share { node: cluster.number_of(node).await? };
            let asked = Instant::now();
            cluster.insist(&["rebalance"], notes).await?;
            (asked, node, wanted)
        }
        Change::Remove => {
            let number = cluster.number_of(node).await?;
            let asked = Instant::now();
            cluster.insist(&["remove", &number.to_string()], notes).await?;
            (asked, node, Wanted::Gone { node: number })
        }
        Change::Replace | Change::ReplaceElsewhere => {
            let (lost, members) = (cluster.number_of(node).await?, cluster.members().await?);
            let shards = shards_on(&members, lost);
            let new = if change == Change::Replace {
                cluster.lose_disk(node).await?;
                node
            } else {
                cluster.nodes[node].kill();
                cluster.nodes[node].retired = true;
                cluster.newcomer().await?
            };
            return replace(cluster, (lost, shards), new, notes).await;
        }
        Change::Readdress => {
            let (number, asked) = (cluster.number_of(node).await?, Instant::now());
            cluster.readdress(node).await?;
            (asked, node, Wanted::At { node: number, address: cluster.nodes[node].address() })
        }
        Change::Move => {
            let (from, to) = (cluster.number_of(node).await?, cluster.number_of(cluster.newest()?).await?);
            let members = cluster.members().await?;
            let shard = members.on(from).next().ok_or(ClusterError::Without("a replica to be moved"))?.shard.clone();
            let asked = Instant::now();
            let (from_node, to_node) = (from.to_string(), to.to_string());
            cluster.insist(&["move", &shard, "--from", &from_node, "--to", &to_node], notes).await?;
            (asked, node, Wanted::Moved { shard, from, to })
        }
    };
    Ok(Underway { change, node, wanted, asked })
}

/// Gives the place of a storage node, named by its number and the shards that it had, to the new one with this index.
pub(super) async fn replace(
    cluster: &Cluster,
    (lost, shards): (u64, BTreeSet<String>),
    new: usize,
    notes: &mut Vec<String>,
) -> Result<Underway, ClusterError> {
    let (asked, address) = (Instant::now(), cluster.nodes[new].address());
    let said = cluster.insist(&["replace", &lost.to_string(), &address], notes).await?;
    let wanted = Wanted::Replaced { lost, by: number_in(&said)?, shards };
    Ok(Underway { change: Change::Replace, node: new, wanted, asked })
}

/// The shards that a storage node has replicas of.
pub(super) fn shards_on(members: &Members, node: u64) -> BTreeSet<String> {
    members.on(node).map(|shard| shard.shard.clone()).collect()
}

/// The number in `HOST:PORT is storage node 4 …`.
fn number_in(said: &str) -> Result<u64, ClusterError> {
    let number = said.split("is storage node ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let number = number.and_then(|number| number.parse().ok());
    number.ok_or_else(|| ClusterError::Tool { command: "carillon cluster".to_owned(), why: said.to_owned() })
}

impl Underway {
    /// Waits until the first replica moves. False if none was seen before the change was done.
    pub(crate) async fn wait_for_the_middle(
        &self,
        cluster: &Cluster,
        patience: Duration,
    ) -> Result<bool, ClusterError> {
        let give_up = Instant::now() + patience;
        loop {
            let members = cluster.members().await?;
            // A node that has another address has no replicas that move.
            if members.are_moving() || self.change == Change::Readdress {
                return Ok(true);
            }
            let Some(missing) = self.wanted.missing(&members) else { return Ok(false) };
            if Instant::now() > give_up {
                let command = format!("carillon cluster {}", self.change);
                let why = format!("no replica has moved within {patience:?}: {missing}");
                return Err(ClusterError::Tool { command, why });
            }
            sleep(LOOK).await;
        }
    }

    /// True if many replicas move, so that there is more than one moment in the middle.
    pub(crate) fn takes_long(&self) -> bool {
        !matches!(self.change, Change::Move | Change::Readdress)
    }

    pub(crate) async fn is_done(&self, cluster: &Cluster) -> Result<bool, ClusterError> {
        Ok(self.wanted.missing(&cluster.members().await?).is_none())
    }

    /// Waits until the cluster is settled, and all is as it has to be. How long that took from the command on.
    pub(crate) async fn finish(&self, cluster: &mut Cluster, patience: Duration) -> Result<Duration, String> {
        let give_up = Instant::now() + patience;
        loop {
            let missing = match cluster.members().await {
                Ok(members) => self.wanted.missing(&members),
                Err(error) => Some(error.to_string()),
            };
            let Some(missing) = missing else { break };
            if Instant::now() > give_up {
                return Err(format!("{} is not done {patience:?} after everything was healed: {missing}", self.change));
            }
            sleep(LOOK).await;
        }
        let took = self.asked.elapsed();
        if self.change == Change::Remove {
            cluster.retire(self.node).await.map_err(|error| error.to_string())?;
        }
        Ok(took)
    }

    /// The index of the node that comes, goes or is replaced.
    pub(crate) fn nodes(&self, cluster: &Cluster) -> Vec<usize> {
        match self.change {
            Change::Rebalance => cluster.of(Role::Storage),
            _ => vec![self.node],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Member, PlacedReplica, PlacedShard};

    /// Nodes 1 to 4, and these shards, each with nodes that vote; the first of them is to lead.
    fn members(shards: &[&[u64]]) -> Members {
        let nodes: BTreeSet<u64> = shards.iter().copied().flatten().copied().collect();
        let placed = |(number, on): (usize, &&[u64])| PlacedShard {
            shard: if number == 0 { "directory-0".to_owned() } else { format!("timeline-{number}") },
            replicas: on
                .iter()
                .map(|node| PlacedReplica { node: *node, state: "votes".into(), should_lead: *node == on[0] })
                .collect(),
        };
        Members {
            level: 4,
            left: None,
            nodes: nodes.into_iter().map(|node| Member { node, address: format!("s{node}:1") }).collect(),
            shards: shards.iter().enumerate().map(placed).collect(),
        }
    }

    #[test]
    fn a_cluster_that_is_not_settled_is_not_done_whatever_it_looks_like() {
        let wanted = Wanted::At { node: 1, address: "s1:1".into() };
        let mut members = members(&[&[1, 2, 3]]);
        assert_eq!(wanted.missing(&members), None);
        members.left = Some("2 replicas move".into());
        assert_eq!(wanted.missing(&members).as_deref(), Some("2 replicas move"));
    }

    #[test]
    fn a_shard_with_too_few_voters_is_missed() {
        let wanted = Wanted::Gone { node: 4 };
        assert_eq!(wanted.missing(&members(&[&[1, 2, 3], &[1, 2, 3]])), None);
        let few = wanted.missing(&members(&[&[1, 2, 3], &[1, 2]]));
        assert_eq!(few.as_deref(), Some("timeline-1 has fewer than 3 replicas"));
        let mut learning = members(&[&[1, 2, 3]]);
        learning.shards[0].replicas[2].state = "learns".into();
        assert!(wanted.missing(&learning).is_some());
    }

    #[test]
    fn a_share_is_as_many_replicas_as_the_others_and_a_lead() {
        let wanted = Wanted::Share { node: 4 };
        let spread: [&[u64]; 5] = [&[1, 2, 3], &[4, 2, 3], &[1, 4, 3], &[1, 2, 4], &[1, 2, 3]];
        assert_eq!(wanted.missing(&members(&spread)), None);
        let unled: [&[u64]; 5] = [&[1, 2, 3], &[2, 4, 3], &[1, 4, 3], &[1, 2, 4], &[1, 2, 3]];
        assert!(wanted.missing(&members(&unled)).is_some_and(|why| why.contains("lead no shard")));
        let idle: [&[u64]; 4] = [&[4, 1, 2, 3], &[1, 2, 3], &[1, 2, 3], &[1, 2, 3]];
        assert!(wanted.missing(&members(&idle)).is_some_and(|why| why.contains("has 0 replicas")));
    }

    #[test]
    fn a_replacement_has_what_the_lost_one_had() {
        let shards = BTreeSet::from(["timeline-1".to_owned()]);
        let wanted = Wanted::Replaced { lost: 3, by: 4, shards };
        assert_eq!(wanted.missing(&members(&[&[1, 2, 4], &[1, 2, 4]])), None);
        assert!(wanted.missing(&members(&[&[1, 2, 3], &[1, 2, 3]])).is_some());
        let elsewhere = wanted.missing(&members(&[&[1, 2, 4], &[1, 2, 5]]));
        assert!(elsewhere.is_some_and(|why| why.contains("no replica of timeline-1")));
        let spread = [&[1, 2, 4], &[1, 2, 5], &[4, 2, 1], &[4, 2, 5]];
        let spread = members(&spread.map(|on| &on[..]));
        assert_eq!(wanted.missing(&spread), None, "with four nodes it need not be the same shards");
    }

    #[test]
    fn a_move_is_seen_on_both_nodes() {
        let wanted = Wanted::Moved { shard: "timeline-1".into(), from: 3, to: 4 };
        assert_eq!(wanted.missing(&members(&[&[1, 2, 3], &[1, 2, 4]])), None);
        assert!(wanted.missing(&members(&[&[1, 2, 3], &[1, 2, 3]])).is_some());
        assert!(wanted.missing(&members(&[&[1, 2, 3], &[1, 2, 3, 4]])).is_some());
    }

    #[test]
    fn the_number_of_a_node_is_read_from_what_the_command_says() {
        assert_eq!(number_in("a:1 is storage node 4\nmore").ok(), Some(4));
        assert_eq!(number_in("a:1 is storage node 12 and takes the place of 3").ok(), Some(12));
        assert!(number_in("done").is_err());
    }
}
