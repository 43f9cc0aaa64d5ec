//! A cluster of processes: 3 storage nodes, 2 routers, 2 gateways.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use carillon_client::Address;
use tempfile::TempDir;

use super::{
    node::{Node, own_address},
    service::{CLUSTER_SECRET, TOKEN_SECRET},
};

/// One cluster at a time: seven processes are enough for a machine that runs tests.
static ONE: Mutex<()> = Mutex::new(());

pub struct Cluster {
    pub storage: Vec<Node>,
    pub routers: Vec<Node>,
    pub gateways: Vec<Node>,
    pub addresses: Vec<Address>,
    folder: TempDir,
    ip: IpAddr,
    /// Dropped last.
    _one: MutexGuard<'static, ()>,
}

impl Cluster {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// `of_storage`: further settings of the storage nodes, as lines.
    pub fn start_with(of_storage: &str) -> Self {
        Self::start_as(of_storage, "")
    }

    /// The same, with further settings of the gateways.
    pub fn start_as(of_storage: &str, of_gateways: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let mut cluster = Self {
            storage: Vec::new(),
            routers: Vec::new(),
            gateways: Vec::new(),
            addresses: Vec::new(),
            folder,
            ip: own_address(),
            // A failed test leaves nothing behind that matters here.
            _one: ONE.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let storage = cluster.addresses_of(7500, 3);
        let routers = cluster.addresses_of(7600, 2);
        for (number, address) in storage.iter().enumerate() {
            let name = format!("storage-{number}");
            let more = format!("storage.listen = {address:?}\nstorage.members = {storage:?}\n{of_storage}");
            let node = cluster.node(&name, "storage", 7700 + number as u16, &more);
            cluster.storage.push(node);
        }
        for (number, address) in routers.iter().enumerate() {
            let name = format!("router-{number}");
            let more = format!("router.listen = {address:?}\nrouter.storage = {storage:?}\n{}", cluster.files(""));
            let node = cluster.node(&name, "router", 7710 + number as u16, &more);
            cluster.routers.push(node);
        }
        for number in 0..2u16 {
            let name = format!("gateway-{number}");
            let ip = cluster.ip;
            let more = format!(
                "gateway.routers = {routers:?}\n\
                 gateway.tcp.listen = \"{ip}:{}\"\n\
                 gateway.ws.listen = \"{ip}:{}\"\n\
                 gateway.grpc.listen = \"{ip}:{}\"\n\
                 gateway.jwt.keys = [{{ algorithm = \"HS256\", secret = \"{TOKEN_SECRET}\" }}]\n{of_gateways}{}",
                7800 + number,
                7810 + number,
                7820 + number,
                // Each gateway sends its clients to the other one.
                cluster.files(&format!("http://{ip}:{}", 7811 - number)),
            );
            let node = cluster.node(&name, "gateway", 7720 + number, &more);
            cluster.gateways.push(node);
            // One gateway over TCP, the other over WebSocket.
            let url = if number == 0 { format!("tcp://{ip}:7800") } else { format!("ws://{ip}:7811/ws") };
            cluster.addresses.push(url.parse().expect("address"));
        }
        cluster.storage[0].command(&["cluster", "init"]).expect("the cluster is made");
        cluster.wait_ready();
        cluster
    }

    /// One folder for all.
    fn files(&self, url: &str) -> String {
        format!("media.place = {:?}\nmedia.shared = true\nmedia.url = {url:?}\n", self.data("files"))
    }

    pub fn nodes(&mut self) -> impl Iterator<Item = &mut Node> {
        self.storage.iter_mut().chain(&mut self.routers).chain(&mut self.gateways)
    }

    pub fn wait_ready(&mut self) {
        for node in self.nodes() {
            node.wait_ready();
        }
    }

    /// The number of the storage node that leads the most timeline shards.
    pub fn leader(&self) -> usize {
        let led = |node: &Node| node.metric("carillon_storage_leading_shards") as u64;
        let leader = (0..self.storage.len()).max_by_key(|number| led(&self.storage[*number])).expect("three nodes");
        assert!(led(&self.storage[leader]) > 0, "nobody leads");
        leader
    }

    pub fn storage_addresses(&self) -> Vec<String> {
        self.addresses_of(7500, 3)
    }

    pub fn router_addresses(&self) -> Vec<String> {
        self.addresses_of(7600, 2)
    }

    pub fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The configuration file of a node.
    pub fn config(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.toml"))
    }

    pub fn token(&self, user: &str) -> String {
        carillon_loadtest::token::sign(TOKEN_SECRET, user)
    }

    /// Runs the command `name` of the program as this user at this gateway. Ok: its output; an error: its complaint.
    pub fn as_user(&self, gateway: usize, user: &str, name: &str, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
        command.args([name, "--as", user, "--url", &self.addresses[gateway].to_string()]).args(args);
        let output = command.env("CARILLON_TOKEN", self.token(user)).output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// A canary that signs in at both gateways, and makes its accounts at the routers.
    pub fn canary(&self, settings: &str) -> Node {
        self.canary_without_token(&format!(
            "{settings}gateway.routers = {:?}\ncluster.secret = {CLUSTER_SECRET:?}\n",
            self.router_addresses()
        ))
    }

    pub fn canary_without_token(&self, settings: &str) -> Node {
        let admin = SocketAddr::new(self.ip, 7730);
        let data = self.data("canary");
        // Each account knows both gateways.
        let ip = self.ip;
        let config = format!(
            "{settings}admin.listen = \"{admin}\"\ndata_dir = {data:?}\n\
             canary.gateways = [\"tcp://{ip}:7800\", \"tcp://{ip}:7801\", \"ws://{ip}:7811/ws\", \"ws://{ip}:7810/ws\"]\n"
        );
        Node::start(self.folder.path(), "canary", "canary", admin, &config)
    }

    fn addresses_of(&self, port: u16, count: u16) -> Vec<String> {
        (0..count).map(|number| SocketAddr::new(self.ip, port + number).to_string()).collect()
    }

    fn node(&self, name: &str, role: &'static str, admin: u16, more: &str) -> Node {
        let admin = SocketAddr::new(self.ip, admin);
        let data = self.data(name);
        let config = format!(
            "{more}\ncluster.secret = {CLUSTER_SECRET:?}\nadmin.listen = \"{admin}\"\ndata_dir = {data:?}\nstorage.data_dir = {:?}\n",
            data.join("storage"),
        );
        Node::start(self.folder.path(), name, role, admin, &config)
    }
}
