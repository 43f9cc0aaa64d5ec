//! A whole service in one process, as `carillon` starts it, for tests that need only one node.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::OnceLock,
};

use carillon_client::Address;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::node::{Node, own_address};

/// The secret that signs the tokens of the tests.
pub const TOKEN_SECRET: &str = "a secret that only the tests have";
pub const CLUSTER_SECRET: &str = "cluster-secret-of-the-tests";

/// The transport and form by which a client reaches the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    Tcp,
    WebSocketProto,
    WebSocketJson,
    Grpc,
}

impl Carrier {
    pub const ALL: [Self; 4] = [Self::Tcp, Self::WebSocketProto, Self::WebSocketJson, Self::Grpc];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::WebSocketProto => "ws-proto",
            Self::WebSocketJson => "ws-json",
            Self::Grpc => "grpc",
        }
    }
}

pub struct Service {
    runtime: Runtime,
    tcp: SocketAddr,
    ws: SocketAddr,
    grpc: SocketAddr,
    pub node: Node,
    folder: TempDir,
}

impl Service {
    /// A service that all tests of this program share; it ends with the program.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Service> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(""))
    }

    /// A service with more lines of configuration (dotted TOML keys).
    pub fn start(more: &str) -> Self {
        Self::start_with_open_files(more, None)
    }

    /// Like `start`, with a limit of open files.
    pub fn start_with_open_files(more: &str, open_files: Option<u32>) -> Self {
        Self::start_as(&format!("cluster.secret = {CLUSTER_SECRET:?}\n{more}"), open_files)
    }

    /// Like `start`, for lines that also say how nodes authenticate to each other.
    pub fn start_with_secret(more: &str) -> Self {
        Self::start_as(more, None)
    }

    fn start_as(more: &str, open_files: Option<u32>) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let ip = own_address();
        let mut node = Self::node(&folder, "all", ip, more, open_files);
        node.wait_ready();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
        let [tcp, ws, grpc] = [7410, 7411, 7412].map(|port| SocketAddr::new(ip, port));
        Self { runtime, tcp, ws, grpc, node, folder }
    }

    /// Another process with the same data folder and addresses of its own.
    pub fn twin(&self) -> Node {
        let secret = format!("cluster.secret = {CLUSTER_SECRET:?}");
        Self::node(&self.folder, "twin", own_address(), &secret, None)
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn node(folder: &TempDir, name: &str, ip: IpAddr, more: &str, open_files: Option<u32>) -> Node {
        let [admin, tcp, ws, grpc] = [7400, 7410, 7411, 7412].map(|port| SocketAddr::new(ip, port));
        let config = format!(
            r#"
            {more}
            data_dir = "{data}"
            admin.listen = "{admin}"
            storage.listen = "{ip}:7401"
            storage.data_dir = "{data}/storage"
            router.listen = "{ip}:7402"
            router.storage = ["{ip}:7401"]
            gateway.routers = ["{ip}:7402"]
            gateway.tcp.listen = "{tcp}"
            gateway.ws.listen = "{ws}"
            gateway.grpc.listen = "{grpc}"
            gateway.jwt.keys = [{{ algorithm = "HS256", secret = "{TOKEN_SECRET}" }}]
            {patience}
            "#,
            patience = if more.contains("failed_sign_ins") { "" } else { "gateway.failed_sign_ins_burst = 1000" },
            data = folder.path().join("data").display(),
        );
        Node::start_with_open_files(folder.path(), name, "all", admin, &config, open_files)
    }

    /// Like `address`, with TLS.
    pub fn secure_address(&self, carrier: Carrier) -> Address {
        let plain = self.address(carrier).to_string();
        let secure =
            plain.replacen("tcp://", "tls://", 1).replacen("ws://", "wss://", 1).replacen("grpc://", "grpcs://", 1);
        secure.parse().expect("address")
    }

    pub fn storage(&self) -> SocketAddr {
        SocketAddr::new(self.tcp.ip(), 7401)
    }

    pub fn router(&self) -> SocketAddr {
        SocketAddr::new(self.tcp.ip(), 7402)
    }

    pub fn address(&self, carrier: Carrier) -> Address {
        let text = match carrier {
            Carrier::Tcp => format!("tcp://{}", self.tcp),
            Carrier::WebSocketProto => format!("ws://{}/ws", self.ws),
            Carrier::WebSocketJson => format!("ws://{}/ws?format=json", self.ws),
            Carrier::Grpc => format!("grpc://{}", self.grpc),
        };
        text.parse().expect("address")
    }

    pub fn tcp(&self) -> SocketAddr {
        self.tcp
    }

    pub fn ws(&self) -> SocketAddr {
        self.ws
    }

    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    pub fn token(&self, user: &str) -> String {
        carillon_loadtest::token::sign(TOKEN_SECRET, user)
    }

    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}
