//! Changes of a running cluster's storage nodes. Each command writes down what is wanted; the cluster does it by itself, whatever fails
//! on the way, and `--wait` watches it.

use std::time::{Duration, Instant};

use anyhow::bail;
use carillon_proto::{
    ShardId, ShardKind,
    pb::{
        raft::{AddNodeRequest, MembersReply, MoveShardRequest, RebalanceRequest, SetNodeStateRequest},
        store::storage_node::State,
    },
};
use clap::Args;
use tokio::time::sleep;

use super::{
    super::out,
    members::{Asked, Nodes, timed, unfinished},
};
use crate::Config;

const LOOK: Duration = Duration::from_millis(500);
/// How often the command says what is left.
const TELL: Duration = Duration::from_secs(5);

#[derive(Args)]
struct Wait {
    /// Waits until nothing moves any more, at most for so many seconds; fails after that, while the cluster goes on.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    wait: Option<u64>,
}

impl Wait {
    /// Prints what is left to be done until there is nothing. `also`: whether the outcome is there.
    async fn until_done(self, nodes: &Nodes, also: impl Fn(&MembersReply) -> bool) -> anyhow::Result<()> {
        let Some(seconds) = self.wait else { return Ok(()) };
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let (mut told, mut told_at) = (String::new(), None::<Instant>);
        loop {
            let left = match nodes.members().await {
                Ok(members) => match unfinished(&members) {
                    None if also(&members) => return out::line("done"),
                    None => "it has not been noticed yet".to_owned(),
                    Some(left) => left,
                },
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                bail!("not done after {seconds} s, but it goes on: {left}");
            }
            if left != told && told_at.is_none_or(|at| at.elapsed() >= TELL) {
                out::note(&left);
                (told, told_at) = (left, Some(Instant::now()));
            }
            sleep(LOOK).await;
        }
    }
}

/// Makes a storage node with an empty disk one of the cluster. It takes its share of the replicas.
#[derive(Args)]
pub(super) struct Add {
    /// host:port of the new storage node, which runs and waits.
    address: String,
    /// Leaves the replicas where they are; `carillon cluster rebalance` spreads them later.
    #[arg(long)]
    no_rebalance: bool,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    wait: Wait,
}

impl Add {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let nodes = Nodes::of(config, self.asked)?;
        let node = add(&nodes, &self.address, 0).await?;
        out::line(format_args!("{} is storage node {node}", self.address))?;
        if !self.no_rebalance {
            rebalance(&nodes, true).await?;
        }
        self.wait.until_done(&nodes, |members| members.nodes.iter().any(|known| known.node == node)).await
    }
}

async fn add(nodes: &Nodes, address: &str, replaces: u64) -> anyhow::Result<u64> {
    let request = AddNodeRequest { address: address.to_owned(), replaces };
    nodes.ask(async |mut client| Ok(client.add_node(timed(request.clone())).await?.into_inner().node)).await
}

async fn rebalance(nodes: &Nodes, on: bool) -> anyhow::Result<()> {
    nodes.ask(async |mut client| client.rebalance(timed(RebalanceRequest { on })).await.map(drop)).await
}

async fn set_state(nodes: &Nodes, node: u64, state: State) -> anyhow::Result<()> {
    let request = SetNodeStateRequest { node, state: state.into() };
    nodes.ask(async |mut client| client.set_node_state(timed(request)).await.map(drop)).await
}

/// Moves all replicas of a storage node to others; then it is none of the cluster any more and may be stopped.
#[derive(Args)]
pub(super) struct Remove {
    /// Its number, as `carillon cluster status` shows it.
    number: u64,
    /// It does not run and will never come back. Refused if it answers.
    #[arg(long)]
    lost: bool,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    wait: Wait,
}

impl Remove {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let nodes = Nodes::of(config, self.asked)?;
        set_state(&nodes, self.number, if self.lost { State::Lost } else { State::Leaving }).await?;
        let then = if self.lost { "never start it again" } else { "keep it running until it has left" };
        out::line(format_args!("storage node {} leaves the cluster: {then}", self.number))?;
        self.wait.until_done(&nodes, |members| members.nodes.iter().all(|known| known.node != self.number)).await
    }
}

/// Ends what `remove` began: the storage node stays. What has moved stays where it is.
#[derive(Args)]
pub(super) struct Keep {
    /// Its number, as `carillon cluster status` shows it.
    number: u64,
    #[command(flatten)]
    asked: Asked,
}

impl Keep {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let nodes = Nodes::of(config, self.asked)?;
        set_state(&nodes, self.number, State::Active).await?;
        out::line(format_args!("storage node {} stays", self.number))
    }
}

/// Gives the place of a storage node that is lost for good to a new one with an empty disk. The lost one must never come back.
#[derive(Args)]
pub(super) struct Replace {
    /// The number of the lost one, as `carillon cluster status` shows it.
    number: u64,
    /// host:port of the new storage node, which runs and waits. It may be the address of the lost one.
    address: String,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    wait: Wait,
}

impl Replace {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let nodes = Nodes::of(config, self.asked)?;
        let node = add(&nodes, &self.address, self.number).await?;
        out::line(format_args!("{} is storage node {node} and takes the place of {}", self.address, self.number))?;
        self.wait.until_done(&nodes, |members| members.nodes.iter().all(|known| known.node != self.number)).await
    }
}

/// Moves the replica of a shard from one storage node to another.
#[derive(Args)]
pub(super) struct Move {
    /// Such as timeline-3 or directory-1.
    #[arg(value_parser = shard)]
    shard: ShardId,
    #[arg(long, value_name = "NODE")]
    from: u64,
    #[arg(long, value_name = "NODE")]
    to: u64,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    wait: Wait,
}

fn shard(text: &str) -> Result<ShardId, String> {
    let (kind, index) = text.rsplit_once('-').ok_or("not such as timeline-3")?;
    let kind = match kind {
        "timeline" => ShardKind::Timeline,
        "directory" => ShardKind::Directory,
        _ => return Err("neither timeline nor directory".to_owned()),
    };
    Ok(ShardId { kind, index: index.parse().map_err(|_| "no number of a shard")? })
}

impl Move {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let nodes = Nodes::of(config, self.asked)?;
        let request = MoveShardRequest { group: self.shard.group(), from_node: self.from, to_node: self.to };
        nodes.ask(async |mut client| client.move_shard(timed(request)).await.map(drop)).await?;
        out::line(format_args!("{} moves from storage node {} to {}", self.shard, self.from, self.to))?;
        self.wait.until_done(&nodes, |_| true).await
    }
}

/// Spreads replicas and leads evenly over the storage nodes. It ends by itself.
#[derive(Args)]
pub(super) struct Rebalance {
    /// Ends it. What has begun to move arrives.
    #[arg(long, conflicts_with = "wait")]
    stop: bool,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    wait: Wait,
}

impl Rebalance {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let nodes = Nodes::of(config, self.asked)?;
        rebalance(&nodes, !self.stop).await?;
        out::line(if self.stop { "nothing more is moved" } else { "replicas and leads are being spread" })?;
        self.wait.until_done(&nodes, |_| true).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_read_as_they_are_shown() {
        for shown in
            [ShardId { kind: ShardKind::Timeline, index: 31 }, ShardId { kind: ShardKind::Directory, index: 0 }]
        {
            assert_eq!(shard(&shown.to_string()), Ok(shown));
        }
        for wrong in ["timeline", "timeline-x", "group-3", "timeline-70000", ""] {
            assert!(shard(wrong).is_err(), "{wrong}");
        }
    }
}
