//! Clusters of storage nodes: made, grown and looked at; and a cluster on this machine, each node a process of this same program.

mod init;
mod leads;
mod level;
mod members;
mod membership;
mod node;
mod plan;
mod recover;

use std::{
    fs::{File, TryLockError},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use carillon_proto::pb::raft::MembersReply;
use clap::{Args, Subcommand};
use tokio::time::{MissedTickBehavior, interval, timeout};

pub(super) use self::members::{Nodes, json as members_json};
use self::{
    node::Node,
    plan::{Counts, Plan},
};
use super::{Options, admin_client::Routers, out, status};
use crate::{Config, Layers, Role, Secrets, shutdown::Signals};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Cluster {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    local: Local,
}

#[derive(Subcommand)]
enum Command {
    Init(init::Init),
    Status(members::Status),
    Add(membership::Add),
    Remove(membership::Remove),
    Keep(membership::Keep),
    Replace(membership::Replace),
    Move(membership::Move),
    Rebalance(membership::Rebalance),
    Recover(recover::Recover),
    RaiseLevel(level::RaiseLevel),
}

#[derive(Args)]
struct Local {
    /// Where configurations, data and logs go, and cluster.json, which names the processes. Started again in the same
    /// folder, it is the same cluster.
    #[arg(long, default_value = "local")]
    dir: PathBuf,
    #[arg(long, default_value_t = 3)]
    storage: usize,
    #[arg(long, default_value_t = 2)]
    routers: usize,
    #[arg(long, default_value_t = 2)]
    gateways: usize,
    /// The first of the ports that are used, one after the other; 0: free ones.
    #[arg(long, default_value_t = 7500)]
    base_port: u16,
    /// Start a node again that has died.
    #[arg(long)]
    restart: bool,
    /// Seconds until all nodes have to be ready.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    ready_timeout: u64,
}

/// The storage nodes and all replicas, for people.
pub(super) fn show_members(members: &MembersReply) -> String {
    members::show(members, true)
}

/// How often nodes are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// A node that has died is started again at most once in this time.
const RESTART: Duration = Duration::from_secs(2);
/// Added to the nodes' own deadline for an orderly stop.
const KILL_AFTER: Duration = Duration::from_secs(5);

impl Cluster {
    pub(super) async fn run(self, options: &Options) -> anyhow::Result<()> {
        match self.command {
            Some(Command::Init(init)) => init.run(&options.load()?).await,
            Some(Command::Status(status)) => status.run(&options.load()?).await,
            Some(Command::Add(add)) => add.run(&options.load()?).await,
            Some(Command::Remove(remove)) => remove.run(&options.load()?).await,
            Some(Command::Keep(keep)) => keep.run(&options.load()?).await,
            Some(Command::Replace(replace)) => replace.run(&options.load()?).await,
            Some(Command::Move(moving)) => moving.run(&options.load()?).await,
            Some(Command::Rebalance(rebalance)) => rebalance.run(&options.load()?).await,
            Some(Command::Recover(recover)) => recover.run(&options.load()?).await,
            Some(Command::RaiseLevel(raise)) => raise.run(&options.load()?).await,
            None => self.local.run(options).await,
        }
    }
}

/// Locks the folder as long as the cluster runs: two clusters in one folder would write into each other's files.
fn only_one(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join("lock");
    let lock = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = lock.with_context(|| format!("can't open {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            bail!("{} belongs to a cluster that is running; name another --dir, or stop that one", dir.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("can't lock {}", path.display())),
    }
}

impl Local {
    async fn run(self, options: &Options) -> anyhow::Result<()> {
        let mut signals = Signals::install()?;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .with_context(|| format!("can't make {}", self.dir.display()))?;
        let dir = self.dir.canonicalize().with_context(|| format!("can't find {}", self.dir.display()))?;
        let _one = only_one(&dir)?;
        let plan = self.plan(&dir)?;
        let config = configure(&plan, &dir, options)?;
        let mut nodes = Vec::new();
        for planned in plan.nodes {
            nodes.push(Node::new(planned, &dir));
        }
        let served = tokio::select! {
            served = self.serve(&dir, &mut nodes, &config) => served,
            signal = signals.next() => {
                out::note(format_args!("{signal}: stopping"));
                Ok(())
            }
        };
        let patience = Duration::from_millis(config.shutdown_deadline_ms) + KILL_AFTER;
        tokio::select! {
            () = stop(&mut nodes, patience) => {}
            // Dropping the nodes kills them.
            signal = signals.next() => bail!("a second {signal}: ended at once"),
        }
        out::note(format_args!("all nodes have stopped"));
        served
    }

    fn plan(&self, dir: &Path) -> anyhow::Result<Plan> {
        let counts = Counts { storage: self.storage, routers: self.routers, gateways: self.gateways };
        if let Some(plan) = Plan::read(dir)? {
            if plan.counts() != counts {
                bail!("{} holds a cluster of another size; name another --dir or remove it", dir.display());
            }
            return Ok(plan);
        }
        Plan::new(dir, counts, self.base_port)
    }

    /// Returns only with an error.
    async fn serve(&self, dir: &Path, nodes: &mut [Node], config: &Config) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(self.ready_timeout);
        for node in nodes.iter_mut() {
            node.start()?;
        }
        plan::write(dir, nodes.iter().map(|node| &node.planned))?;
        let routers = Routers::of(config, None)?;
        out::note(format_args!("{} nodes are starting, cluster.json and logs are in {}", nodes.len(), dir.display()));
        let storage = nodes.iter().filter(|node| node.planned.role() == Role::Storage);
        let members: Vec<String> = storage.filter_map(|node| node.planned.addresses.get("rpc").cloned()).collect();
        tokio::select! {
            // After a restart in the same folder, the cluster exists already.
            made = init::make(config, &members, deadline, false) => drop(made?),
            died = self.died(nodes) => return Err(died),
        }
        self.become_ready(nodes, deadline).await?;
        let mut leaders = leaders_of(&routers).await.unwrap_or_default();
        out::note(table(nodes, &leaders).trim_end());
        out::note(format_args!("all nodes are ready; Ctrl-C stops them"));

        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            for node in nodes.iter_mut() {
                if node.look().await {
                    out::note(format_args!("{}: {}", node.planned.name, node.state));
                }
                if self.restart && node.died_since().is_some_and(|since| since.elapsed() >= RESTART) {
                    node.start()?;
                    out::note(format_args!("{}: started again as process {}", node.planned.name, node.planned.pid));
                    plan::write(dir, [&node.planned].into_iter())?;
                }
            }
            if let Ok(now) = leaders_of(&routers).await
                && now != leaders
            {
                out::note(format_args!("leaders: {}", show(&now)));
                leaders = now;
            }
        }
    }

    /// Resolves when a node has died.
    async fn died(&self, nodes: &mut [Node]) -> anyhow::Error {
        let mut tick = interval(LOOK);
        loop {
            tick.tick().await;
            for node in nodes.iter_mut() {
                node.look().await;
                if node.died_since().is_some() {
                    return anyhow::anyhow!("{} {}:\n{}", node.planned.name, node.state, node.last_lines());
                }
            }
        }
    }

    async fn become_ready(&self, nodes: &mut [Node], deadline: Instant) -> anyhow::Result<()> {
        let mut tick = interval(Duration::from_millis(100));
        loop {
            tick.tick().await;
            let mut waiting = Vec::new();
            for node in nodes.iter_mut() {
                node.look().await;
                if node.died_since().is_some() {
                    bail!("{} {}:\n{}", node.planned.name, node.state, node.last_lines());
                }
                if !node.is_ready() {
                    waiting.push(format!("{}: {}", node.planned.name, node.state));
                }
            }
            if waiting.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("not ready within {} s:\n{}", self.ready_timeout, waiting.join("\n"));
            }
        }
    }
}

/// Writes the secrets and a file for each node. Returns the configuration with which this process asks the cluster.
fn configure(plan: &Plan, dir: &Path, options: &Options) -> anyhow::Result<Config> {
    Secrets::of(&Config { data_dir: dir.to_owned(), ..Config::default() }).generate()?;
    let mut first = None;
    for node in &plan.nodes {
        let text = plan.config_of(node, dir);
        let layers = options.layers(Layers::default())?.text(&text, &node.name);
        let table = layers.into_table()?;
        let text = toml::to_string(&table).context("configuration")?;
        let config = Layers::default().text(&text, &node.name).load()?;
        config.validate(&[node.role()])?;
        plan::replace(&node.config, &text)?;
        first.get_or_insert(config);
    }
    first.context("a cluster has at least one node")
}

async fn leaders_of(routers: &Routers) -> anyhow::Result<Vec<(String, usize)>> {
    let status = timeout(Duration::from_secs(2), status::fetch(routers)).await??;
    Ok(status::leaders(&status).into_iter().map(|(node, count)| (node.to_owned(), count)).collect())
}

fn table(nodes: &[Node], leaders: &[(String, usize)]) -> String {
    let mut text = format!("{:<10}  {:>7}  {:<9}  {:>5}  ADDRESSES\n", "NODE", "PID", "STATE", "LEADS");
    for Node { planned, state, .. } in nodes {
        let leads = leaders.iter().find(|(node, _)| planned.addresses.get("rpc") == Some(node));
        let leads = leads.map_or(String::new(), |(_, count)| count.to_string());
        let addresses: Vec<String> = planned.addresses.iter().map(|(what, at)| format!("{what} {at}")).collect();
        let line =
            format!("{:<10}  {:>7}  {state:<9}  {leads:>5}  {}", planned.name, planned.pid, addresses.join("  "));
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn show(leaders: &[(String, usize)]) -> String {
    let one = |(node, count): &(String, usize)| match node.as_str() {
        "" => format!("none known of {count}"),
        node => format!("{node} of {count}"),
    };
    leaders.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Stops gateways, then routers, then storage nodes. Each role has stopped before the next one is told to stop.
async fn stop(nodes: &mut [Node], patience: Duration) {
    for role in Role::ALL.iter().rev() {
        for node in nodes.iter_mut().filter(|node| node.planned.role() == *role) {
            node.tell_to_stop();
        }
        for node in nodes.iter_mut().filter(|node| node.planned.role() == *role) {
            node.stopped(patience).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_running_cluster() {
        let folder = tempfile::tempdir().expect("folder");
        let first = only_one(folder.path()).expect("the first one");
        let refused = only_one(folder.path()).expect_err("the folder is taken");
        assert!(refused.to_string().contains("a cluster that is running"), "{refused}");
        drop(first);
        only_one(folder.path()).expect("the first one has ended");
    }
}
