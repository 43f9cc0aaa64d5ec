//! The operator of the cluster under test: runs commands of the program, and reads their output.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    Cluster, ClusterError, Role,
    tool::{self, Told},
};

/// The storage nodes of a cluster and its shards, as `carillon cluster status --json` prints them.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
pub struct Members {
    pub level: u32,
    /// The work that the cluster has not finished, in words; `None` when it is settled.
    pub left: Option<String>,
    pub nodes: Vec<Member>,
    pub shards: Vec<PlacedShard>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Member {
    pub node: u64,
    pub address: String,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct PlacedShard {
    pub shard: String,
    pub replicas: Vec<PlacedReplica>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct PlacedReplica {
    pub node: u64,
    /// `votes`, `learns`, `joining` or `leaving`.
    pub state: String,
    pub should_lead: bool,
}

/// Runs the program's commands with the operator's configuration.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    program: PathBuf,
    config: PathBuf,
}

impl Operator {
    /// Waits for the command's end for at most so long.
    pub(crate) async fn run(&self, arguments: &[&str], patience: Duration) -> Result<Told, ClusterError> {
        let config = self.config.to_string_lossy();
        tool::ask_for(&self.program, &[arguments, &["--config", &config]].concat(), patience).await
    }
}

/// How long an operator tries a command again and again.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);
/// The shard of the registry, whose leader controls the placement.
const REGISTRY: &str = "directory-0";

impl Members {
    /// True while a replica comes or goes.
    pub fn are_moving(&self) -> bool {
        let mut replicas = self.shards.iter().flat_map(|shard| &shard.replicas);
        replicas.any(|replica| replica.state == "joining" || replica.state == "leaving")
    }

    /// The shards whose replicas are placed, which are all but the registry's.
    pub fn placed(&self) -> impl Iterator<Item = &PlacedShard> {
        self.shards.iter().filter(|shard| shard.shard != REGISTRY)
    }

    /// The shards with a replica on this node, without the registry's.
    pub fn on(&self, node: u64) -> impl Iterator<Item = &PlacedShard> {
        self.placed().filter(move |shard| shard.replicas.iter().any(|replica| replica.node == node))
    }
}

impl Cluster {
    pub async fn members(&self) -> Result<Members, ClusterError> {
        let text = self.operate(&["status", "--json"]).await?;
        let unreadable = |error: serde_json::Error| ClusterError::Tool {
            command: "cluster status".to_owned(),
            why: error.to_string(),
        };
        serde_json::from_str(&text).map_err(unreadable)
    }

    /// Runs `carillon cluster` with these arguments.
    async fn operate(&self, arguments: &[&str]) -> Result<String, ClusterError> {
        self.command(&[&["cluster"], arguments].concat()).await
    }

    async fn command(&self, arguments: &[&str]) -> Result<String, ClusterError> {
        tool::ask(&self.program, &[arguments, &["--config", &self.operators().to_string_lossy()]].concat()).await
    }

    /// A handle that runs long commands of the operator, and does not borrow the cluster.
    pub(crate) fn operator(&self) -> Operator {
        Operator { program: self.program.clone(), config: self.operators() }
    }

    /// The same, again and again until it is done. Tells in `notes` how it was refused.
    pub async fn insist(&self, arguments: &[&str], notes: &mut Vec<String>) -> Result<String, ClusterError> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            match self.operate(arguments).await {
                Err(ClusterError::Tool { command, why }) if Instant::now() < give_up => {
                    let note = format!("{command}: {why}");
                    if notes.last() != Some(&note) {
                        notes.push(note);
                    }
                    sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    /// The number that the cluster has given to a storage node.
    pub async fn number_of(&self, at: usize) -> Result<u64, ClusterError> {
        let address = self.nodes[at].address();
        let members = self.members().await?;
        let member = members.nodes.iter().find(|member| member.address == address);
        member.map(|member| member.node).ok_or(ClusterError::NoMember(address))
    }

    /// The storage node that leads the registry, and so controls the placement.
    pub async fn controller(&self) -> Result<usize, ClusterError> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            for router in self.of(Role::Router) {
                let router = self.nodes[router].address();
                let Ok(status) = self.command(&["status", "--router", &router]).await else { continue };
                let led_by = status.lines().find_map(|line| line.strip_prefix(REGISTRY)).map(str::trim);
                let is_it = |at: &usize| Some(&*self.nodes[*at].address()) == led_by && self.nodes[*at].runs();
                if let Some(at) = self.of(Role::Storage).into_iter().find(is_it) {
                    return Ok(at);
                }
            }
            if Instant::now() > give_up {
                return Err(ClusterError::NoController);
            }
            sleep(PAUSE).await;
        }
    }
}
