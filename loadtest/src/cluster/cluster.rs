//! The local cluster.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use carillon_client::Address;

use super::{
    ClusterError, Counts, Disk, Keeping, Layout, Network, Node, Role,
    clock::Clock,
    plan::{Plan, PlannedNode, Secrets},
    tool,
};
use crate::token;

#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// The program `carillon`.
    pub program: PathBuf,
    /// Holds configuration, logs and data; the data is removed at the end.
    pub folder: PathBuf,
    pub layout: Layout,
    /// The first three numbers of the nodes' addresses.
    pub subnet: [u8; 3],
    /// The size of the disk that each storage node gets for itself, for the faults of disks. Needs root.
    pub disk_mib: Option<u64>,
    /// True if each node gets a clock that can jump.
    pub clocks: bool,
    pub counts: Counts,
    pub keeping: Keeping,
}

/// Storage nodes, routers and gateways, each a process; another storage node may come. Dropping it removes everything that it made on the
/// machine, except for configuration and logs.
pub struct Cluster {
    // Processes end before the disks and the network that they use.
    pub nodes: Vec<Node>,
    disks: Vec<Disk>,
    pub(super) network: Option<Network>,
    addresses: Vec<Address>,
    pub(super) secrets: Secrets,
    pub(super) data: PathBuf,
    folder: PathBuf,
    pub(super) plan: Plan,
    pub(super) program: PathBuf,
    clocks: bool,
    /// The index of the storage node that has come last, or has come to another address.
    pub(super) newest: Option<usize>,
    /// How many of the plan's spare places are in use.
    pub(super) spares_taken: usize,
}

/// The time within which a cluster must be ready after its start.
const START: Duration = Duration::from_secs(60);

impl Cluster {
    pub async fn start(config: &ClusterConfig) -> Result<Self, ClusterError> {
        let mut cluster = Self::lay_out(config)?;
        cluster.start_processes()?;
        cluster.nodes[0].make_cluster()?;
        cluster.all_ready().await?;
        Ok(cluster)
    }

    /// Starts the nodes of a cluster whose storage nodes have data already, and waits until all are ready.
    pub(crate) async fn start_with_data(&mut self) -> Result<(), ClusterError> {
        self.start_processes()?;
        self.all_ready().await
    }

    /// A cluster whose nodes have configurations and empty folders, and do not run.
    pub(crate) fn lay_out(config: &ClusterConfig) -> Result<Self, ClusterError> {
        tool::require(&[("timeout", "coreutils"), ("kill", "procps")])?;
        let (plan, folder) = (Plan::new(config.subnet, config.counts, config.keeping), &config.folder);
        fs::create_dir_all(folder).map_err(ClusterError::io(folder))?;
        let folder = &fs::canonicalize(folder).map_err(ClusterError::io(folder))?;
        let random = |purpose: &str| format!("{purpose}-{}-{:x}", std::process::id(), carillon_proto::now_ms());
        let mut cluster = Self {
            nodes: Vec::new(),
            disks: Vec::new(),
            network: match config.layout {
                Layout::Loopback => None,
                Layout::Namespaces => Some(Network::create(&plan)?),
            },
            addresses: plan.addresses(),
            secrets: Secrets { cluster: random("cluster-secret"), token: random("token-secret-of-a-cluster") },
            data: folder.join("data"),
            folder: folder.clone(),
            plan: plan.clone(),
            program: config.program.clone(),
            clocks: config.clocks,
            newest: None,
            spares_taken: 0,
        };
        let operators = cluster.operators();
        fs::write(&operators, plan.operators(&cluster.secrets)).map_err(ClusterError::io(&operators))?;
        for (at, planned) in plan.nodes.iter().enumerate() {
            let data = cluster.data.join(&planned.name);
            fs::create_dir_all(&data).map_err(ClusterError::io(&data))?;
            if let (Some(mib), Role::Storage) = (config.disk_mib, planned.role) {
                let disk = Disk::create(cluster.data.join(format!("{}.disk", planned.name)), data.clone(), mib)?;
                cluster.disks.push(disk);
            }
            let node = cluster.node(planned.clone(), at)?;
            cluster.nodes.push(node);
        }
        Ok(cluster)
    }

    fn start_processes(&mut self) -> Result<(), ClusterError> {
        self.nodes.iter_mut().try_for_each(Node::start)
    }

    async fn all_ready(&mut self) -> Result<(), ClusterError> {
        for node in &mut self.nodes {
            node.wait_ready(START).await?;
        }
        Ok(())
    }

    /// Fails if a node has ended by itself.
    pub(crate) fn all_run(&mut self) -> Result<(), ClusterError> {
        for node in &mut self.nodes {
            if let Some(status) = node.ended() {
                return Err(ClusterError::Ended { node: node.name().to_owned(), status, log: node.log.clone() });
            }
        }
        Ok(())
    }

    /// Stops all nodes in order, whoever calls before who is called.
    pub(crate) async fn stop(&mut self, patience: Duration) -> Result<(), ClusterError> {
        for role in [Role::Gateway, Role::Router, Role::Storage] {
            let nodes = self.of(role);
            for at in nodes.iter().copied() {
                self.nodes[at].signal("TERM")?;
            }
            for at in nodes {
                self.nodes[at].wait_end(patience).await?;
            }
        }
        Ok(())
    }

    /// A node that does not run yet, at this place of the network, with its configuration. The folder of its data exists.
    pub(super) fn node(&self, planned: PlannedNode, place: usize) -> Result<Node, ClusterError> {
        let file = |ending: &str| self.folder.join(format!("{}.{ending}", planned.name));
        let config = file("toml");
        let text = self.plan.config(&planned, &self.data.join(&planned.name), &self.secrets);
        fs::write(&config, text).map_err(ClusterError::io(&config))?;
        Ok(Node {
            program: self.program.clone(),
            config,
            log: file("log"),
            place,
            retired: false,
            namespace: self.network.as_ref().map(|network| network.namespace(place).to_owned()),
            clock: if self.clocks { Some(Clock::new(file("clock"))?) } else { None },
            process: None,
            planned,
        })
    }

    /// The configuration for the operator's commands.
    pub(super) fn operators(&self) -> PathBuf {
        self.folder.join("operator.toml")
    }

    /// Places of the network, also of nodes that have not come yet.
    pub(crate) fn places(&self) -> usize {
        self.plan.places().count()
    }

    /// The storage node that has come last, or has come to another address.
    pub fn newest(&self) -> Result<usize, ClusterError> {
        self.newest.ok_or(ClusterError::Without("a new storage node"))
    }

    /// The admin listeners of all nodes that are there or may come.
    pub(crate) fn admins(&self) -> Vec<SocketAddr> {
        self.plan.places().map(PlannedNode::admin).collect()
    }

    /// The folder with configuration, logs and data.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The gateways' addresses for clients.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// A token with which this user can sign in.
    pub fn token(&self, user: &str) -> String {
        token::sign(&self.secrets.token, user)
    }

    /// The secret that signs the tokens, in a file.
    pub(crate) fn token_secret_file(&self) -> Result<PathBuf, ClusterError> {
        let path = self.folder.join("token");
        fs::write(&path, &self.secrets.token).map_err(ClusterError::io(&path))?;
        Ok(path)
    }

    pub fn network(&mut self) -> Result<&mut Network, ClusterError> {
        self.network.as_mut().ok_or(ClusterError::Without("network namespaces"))
    }

    /// The disk of a storage node. Storage nodes come first in the list, so disk and node have the same index.
    pub fn disk(&mut self, node: usize) -> Result<&mut Disk, ClusterError> {
        self.disks.get_mut(node).ok_or(ClusterError::Without("a disk of its own for this node"))
    }

    pub fn set_clock(&self, node: usize, seconds: i64) -> Result<(), ClusterError> {
        self.nodes[node].clock.as_ref().ok_or(ClusterError::Without("clocks that can jump"))?.set(seconds)
    }

    /// The path of a file or folder, given relative to the data folder of a storage node.
    pub fn stored(&self, node: usize, path: &str) -> PathBuf {
        self.data.join(self.nodes[node].name()).join("storage").join(path)
    }

    /// Changes bytes in this file of a storage node, or in all files of this folder, wherever something is written in them.
    pub async fn spoil(&self, node: usize, path: &str) -> Result<(), ClusterError> {
        let all = self.stored(node, path);
        let spoiled = tokio::task::spawn_blocking({
            let all = all.clone();
            move || spoil_all(all)
        });
        match spoiled.await {
            Ok(Ok(0)) => Err(ClusterError::NothingToSpoil(all)),
            Ok(spoiled) => spoiled.map(drop),
            Err(panicked) => Err(ClusterError::io(&all)(panicked.into())),
        }
    }

    /// Indexes of the nodes of a role that belong to the cluster.
    pub fn of(&self, role: Role) -> Vec<usize> {
        let belongs = |at: &usize| self.nodes[*at].role() == role && !self.nodes[*at].retired;
        (0..self.nodes.len()).filter(belongs).collect()
    }

    /// Storage nodes, the one that leads the most shards first.
    pub async fn storage_by_leadership(&self) -> Result<Vec<usize>, ClusterError> {
        let mut led = Vec::new();
        for at in self.of(Role::Storage) {
            led.push((self.nodes[at].metric("carillon_storage_leading_shards").await as u64, at));
        }
        led.sort_unstable_by(|a, b| b.cmp(a));
        if led.first().is_none_or(|(shards, _)| *shards == 0) {
            return Err(ClusterError::NoLeader);
        }
        Ok(led.into_iter().map(|(_, at)| at).collect())
    }
}

/// Returns how many bytes were changed.
fn spoil_all(path: PathBuf) -> Result<usize, ClusterError> {
    let (mut paths, mut changed) = (vec![path], 0);
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path).map_err(ClusterError::io(&path))? {
                paths.push(entry.map_err(ClusterError::io(&path))?.path());
            }
            continue;
        }
        match spoil(&path) {
            // The node may be deleting it.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(ClusterError::io(&path)(error)),
            spoiled => changed += spoiled.unwrap_or(0),
        }
    }
    Ok(changed)
}

/// Changes every 499th byte, up to the last one that is not 0. Returns how many that were.
fn spoil(path: &Path) -> io::Result<usize> {
    let file = fs::File::options().read(true).write(true).open(path)?;
    let bytes = fs::read(path)?;
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let mut changed = 0;
    for (at, byte) in bytes.iter().enumerate().take(end).skip(17).step_by(499) {
        file.write_all_at(&[!byte], at as u64)?;
        changed += 1;
    }
    Ok(changed)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(Node::kill);
        self.disks.clear();
        self.network = None;
        let _ = fs::remove_dir_all(&self.data);
    }
}
