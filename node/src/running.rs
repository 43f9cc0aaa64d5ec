//! One process: its roles are opened, then started, watched, and stopped in order.

use std::{
    ffi::OsString,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use carillon_canary::Canary;
use carillon_gateway::{Gateway, GatewayConfig};
use carillon_media::PlaceError;
use carillon_proto::{
    peer::{PeerSecurity, Tier},
    tasks::Tasks,
};
use carillon_router::{Router, RouterConfig};
use carillon_storage::Storage;
use tokio::time::{Instant, timeout_at};

use crate::{
    Config, ConfigError, Role, SecretError, Secrets,
    admin::{Admin, Health},
    certificates::{self, Certificates},
    config::peer_tls,
    descriptors, diagnosis, memory, metrics,
};

/// A running process.
pub struct Running {
    storage: Option<Storage>,
    router: Option<Router>,
    gateway: Option<Gateway>,
    canary: Option<Canary>,
    roles: Vec<Role>,
    /// True for a process with all roles, which makes its own cluster if its disk is empty.
    makes_cluster: bool,
    secrets: Secrets,
    /// `None`: this process calls no node, and nobody calls it.
    security: Option<PeerSecurity>,
    certificates: Certificates,
    health: Health,
    addresses: Addresses,
    tasks: Tasks,
    shutdown_deadline: Duration,
}

/// The bound addresses.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    pub admin: Option<SocketAddr>,
    /// For calls of other nodes.
    pub storage: Option<SocketAddr>,
    /// For calls of other nodes.
    pub router: Option<SocketAddr>,
    /// For clients.
    pub tcp: Option<SocketAddr>,
    pub ws: Option<SocketAddr>,
    pub grpc: Option<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("can't listen on {listen}: {source}; set admin.listen to a free address")]
    Admin { listen: SocketAddr, source: io::Error },
    #[error("metrics: {0}")]
    Metrics(String),
    #[error("{0}{hint}", hint = storage_hint(.0))]
    Storage(#[from] carillon_storage::OpenError),
    #[error("{0}{hint}", hint = router_hint(.0))]
    Router(#[from] carillon_router::OpenError),
    #[error("{hint}{0}", hint = gateway_hint(.0))]
    Gateway(#[from] carillon_gateway::OpenError),
    #[error(transparent)]
    Media(#[from] PlaceError),
    #[error(transparent)]
    Canary(#[from] carillon_canary::OpenError),
    #[cfg(feature = "planted-bugs")]
    #[error(transparent)]
    PlantedBug(#[from] carillon_proto::planted::UnknownBug),
}

/// Opens and binds all roles, then starts them. A process with all roles is a cluster of its own unless the
/// configuration says otherwise: it makes its secrets, and its roles find each other at the bound addresses.
pub async fn start(mut config: Config, roles: &[Role]) -> Result<Running, StartError> {
    config.validate(roles)?;
    descriptors::arrange(&mut config, roles);
    memory::arrange(&mut config, roles);
    #[cfg(feature = "planted-bugs")]
    carillon_proto::planted::PlantedBug::announce()?;
    let secrets = Secrets::of(&config);
    if is_whole(roles) {
        secrets.generate()?;
    }
    let tiers = tiers(roles, &config);
    let mut security = if tiers.is_empty() { None } else { Some(secrets.peer_security(&config, &tiers)?) };
    if let Some(why) = security.as_ref().and_then(|security| no_operator(roles, security)) {
        tracing::warn!("{why}");
    }
    if roles.len() > 1 {
        security = security.map(PeerSecurity::within_process);
    }
    let recorder = metrics::install().map_err(StartError::Metrics)?;
    let tasks = Tasks::new();
    let health = Health::new(roles);
    let diagnostics = diagnosis::of_process(&config, roles, health.clone(), recorder.clone());
    security = security.map(|security| security.with_diagnostics(diagnostics));

    let listen = config.admin.listen;
    let admin = Admin::bind(listen).await.map_err(|source| StartError::Admin { listen, source })?;
    let mut addresses = Addresses { admin: Some(admin.address()), ..Addresses::default() };
    // The admin listener answers while the roles are being opened, which may take long.
    metrics::run(recorder.clone(), roles, &health, &tasks);
    admin.run(health.clone(), recorder, &tasks);
    let certificates = Certificates::default();
    certificates.use_files(certificates::files_of(&config, roles));
    certificates.run(&tasks);
    let shutdown_deadline = Duration::from_millis(config.shutdown_deadline_ms);
    let makes_cluster = is_alone(roles, &config);
    let opened = open(config, roles, &secrets, security.as_ref(), &health, &mut addresses).await?;
    let Opened { storage, router, gateway, canary } = opened;
    let running = Running {
        storage,
        router,
        gateway,
        canary,
        roles: roles.to_vec(),
        makes_cluster,
        secrets,
        security,
        certificates,
        health,
        addresses,
        tasks,
        shutdown_deadline,
    };
    running.run();
    Ok(running)
}

#[derive(Default)]
struct Opened {
    storage: Option<Storage>,
    router: Option<Router>,
    gateway: Option<Gateway>,
    canary: Option<Canary>,
}

async fn open(
    config: Config,
    roles: &[Role],
    secrets: &Secrets,
    security: Option<&PeerSecurity>,
    health: &Health,
    addresses: &mut Addresses,
) -> Result<Opened, StartError> {
    let mut gateway_config = gateway_config(&config, roles, secrets);
    let alone = is_alone(roles, &config);
    let mut router_config = config.router;
    let serves_files = roles.iter().any(|role| matches!(role, Role::Router | Role::Gateway));
    let mut media = if serves_files { config.media.open(alone.then_some(&config.data_dir))? } else { None };
    if let Some(media) = &mut media {
        // The program of this process, also when its file has been replaced.
        media.previewer = ["/proc/self/exe", "media-inspect"].map(OsString::from).to_vec();
    }
    let mut all = Opened::default();
    if roles.contains(&Role::Canary) {
        let opened = Canary::open(config.canary, gateway_config.routers.clone(), security.cloned())?;
        health.opened(Role::Canary, opened.ready());
        all.canary = Some(opened);
    }
    // Only a canary can do without.
    let Some(security) = security else { return Ok(all) };
    if roles.contains(&Role::Storage) {
        let opened = Storage::open(config.storage, security.clone()).await?;
        addresses.storage = Some(opened.address());
        health.opened(Role::Storage, opened.ready());
        all.storage = Some(opened);
    }
    if roles.contains(&Role::Router) {
        if let Some(address) = addresses.storage.filter(|_| router_config.storage == RouterConfig::default().storage) {
            router_config.storage = vec![from_here(address).to_string()];
        }
        let opened = Router::open_with_media(router_config, security.clone(), media.clone()).await?;
        addresses.router = Some(opened.address());
        health.opened(Role::Router, opened.ready());
        all.router = Some(opened);
    }
    if roles.contains(&Role::Gateway) {
        if let Some(address) = addresses.router.filter(|_| gateway_config.routers == GatewayConfig::default().routers) {
            gateway_config.routers = vec![from_here(address).to_string()];
        }
        let opened = Gateway::open_with_media(gateway_config, security.clone(), media).await?;
        (addresses.tcp, addresses.ws, addresses.grpc) =
            (opened.tcp_address(), opened.ws_address(), opened.grpc_address());
        health.opened(Role::Gateway, opened.ready());
        all.gateway = Some(opened);
    }
    Ok(all)
}

/// The gateway's configuration. A process that is a cluster of its own makes the key for its tokens, unless keys are
/// configured.
pub(crate) fn gateway_config(config: &Config, roles: &[Role], secrets: &Secrets) -> GatewayConfig {
    let mut gateway = config.gateway.clone();
    if gateway.jwt.keys.is_empty() && is_whole(roles) {
        gateway.jwt.keys.extend(secrets.token_key());
    }
    gateway
}

/// The address at which this machine reaches a listener of its own.
pub(crate) fn from_here(bound: SocketAddr) -> SocketAddr {
    let loopback: IpAddr = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(loopback, bound.port())
}

fn storage_hint(error: &carillon_storage::OpenError) -> &'static str {
    match error {
        carillon_storage::OpenError::Listen { .. } => "; set storage.listen to a free address",
        _ => "",
    }
}

/// Completes the setting with which the text of some errors begins.
fn gateway_hint(error: &carillon_gateway::OpenError) -> &'static str {
    match error {
        carillon_gateway::OpenError::Listen(_)
        | carillon_gateway::OpenError::Config(_)
        | carillon_gateway::OpenError::TokenKey(_) => "gateway.",
        _ => "gateway: ",
    }
}

fn router_hint(error: &carillon_router::OpenError) -> &'static str {
    match error {
        carillon_router::OpenError::Listen { .. } => "; set router.listen to a free address",
        _ => "",
    }
}

/// The tiers of these roles; calls are made as the first tier.
pub(crate) fn tiers(roles: &[Role], config: &Config) -> Vec<Tier> {
    let tier = |role: &Role| match role {
        Role::Storage => Some(Tier::Storage),
        Role::Router => Some(Tier::Router),
        Role::Gateway => Some(Tier::Gateway),
        Role::Canary => config.canary.makes_accounts().then_some(Tier::Operator),
    };
    roles.iter().filter_map(tier).collect()
}

/// A warning if a router here does not know the operator's token.
pub(crate) fn no_operator(roles: &[Role], security: &PeerSecurity) -> Option<&'static str> {
    (roles.contains(&Role::Router) && !security.knows(Tier::Operator)).then_some(
        "cluster.tokens.operator_file is not set: this router refuses the command line (users, sessions, tokens, status)",
    )
}

pub(crate) fn is_whole(roles: &[Role]) -> bool {
    Role::ALL.iter().all(|role| roles.contains(role))
}

/// True if this process is the whole cluster.
fn is_alone(roles: &[Role], config: &Config) -> bool {
    is_whole(roles) && config.storage.members.len() <= 1
}

impl Running {
    fn run(&self) {
        if let Some(storage) = &self.storage {
            storage.run(&self.tasks);
            if self.makes_cluster {
                storage.found_alone(&self.tasks);
            }
        }
        if let Some(router) = &self.router {
            router.run(&self.tasks);
        }
        if let Some(gateway) = &self.gateway {
            gateway.run(&self.tasks);
        }
        if let Some(canary) = &self.canary {
            canary.run(&self.tasks);
        }
    }

    /// Reads the files of this configuration again: certificates, keys and tokens. Returns the errors; a file with an
    /// error keeps its old content in use. Connections continue.
    pub(crate) fn reload(&self, config: &Config) -> Vec<String> {
        let mut failures = Vec::new();
        let peers = || {
            let Some(security) = &self.security else { return Ok(()) };
            let (tokens, tls) = (self.secrets.tokens(config)?, peer_tls(config)?);
            security.replace(tokens, tls.as_ref()).map_err(SecretError::from)
        };
        failures.extend(peers().err().map(|error| error.to_string()));
        if let Some(gateway) = &self.gateway {
            let config = gateway_config(config, &self.roles, &self.secrets);
            failures.extend(gateway.reload(&config).err().map(|error| format!("{}{error}", gateway_hint(&error))));
        }
        if failures.is_empty() {
            self.certificates.use_files(certificates::files_of(config, &self.roles));
        }
        failures
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Reasons why the process is not ready; empty if it is.
    pub fn not_ready(&self) -> Vec<String> {
        self.health.reasons()
    }

    /// Resolves when all roles are ready.
    pub async fn ready(&self) {
        self.health.ready().await;
    }

    /// Resolves with the reason when a failure has stopped everything.
    pub async fn failed(&self) -> String {
        self.tasks.stopping().await;
        self.tasks.failure().unwrap_or("stopped").to_owned()
    }

    /// True if a failure has stopped everything because data on the disk is damaged.
    pub(crate) fn is_damaged(&self) -> bool {
        self.storage.as_ref().is_some_and(Storage::is_damaged)
    }

    /// Stops in order: not ready any more, then gateways, which tell their clients to go, then routers, then storage
    /// nodes, each of which hands over its work. False if this took longer than the deadline.
    pub async fn stop(self) -> bool {
        let deadline = Instant::now() + self.shutdown_deadline;
        self.health.set_draining();
        let in_order = async {
            if let Some(canary) = &self.canary {
                canary.drain().await;
            }
            if let Some(gateway) = &self.gateway {
                gateway.drain(deadline).await;
            }
            if let Some(router) = &self.router {
                router.drain().await;
            }
            if let Some(storage) = &self.storage {
                storage.drain().await;
            }
        };
        let in_time = timeout_at(deadline, in_order).await.is_ok();
        // The rest of the time, but at least a little.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(500));
        self.tasks.finish(left).await && in_time
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, address) in [
            ("clients, TCP       tcp://", self.tcp),
            ("clients, WebSocket ws://", self.ws),
            ("clients, gRPC      grpc://", self.grpc),
            ("router             ", self.router),
            ("storage            ", self.storage),
            ("admin              http://", self.admin),
        ] {
            if let Some(address) = address {
                let path = if what.ends_with("ws://") { "/ws" } else { "" };
                writeln!(f, "  {what}{address}{path}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layers;
    use carillon_client::{Client, ClientConfig, Credential, Event};
    use carillon_proto::UserId;
    use std::path::Path;

    fn anywhere(folder: &Path) -> Config {
        let zero = "127.0.0.1:0";
        let mut sets = vec![format!("data_dir={}", folder.join("data").display())];
        for key in ["admin", "storage", "router", "gateway.tcp", "gateway.ws", "gateway.grpc"] {
            sets.push(format!("{key}.listen={zero}"));
        }
        Layers::default().sets(&sets).expect("valid").load().expect("valid")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn all_roles_in_one_process_find_each_other_wherever_they_are_bound() {
        let folder = tempfile::tempdir().expect("folder");
        let config = anywhere(folder.path());
        let running = start(config.clone(), Role::ALL).await.expect("started");
        tokio::time::timeout(Duration::from_secs(60), running.ready()).await.expect("ready");
        assert!(running.not_ready().is_empty());

        let tcp = running.addresses().tcp.expect("bound");
        let tasks = Tasks::new();
        let open = |user: &str| {
            let user = UserId::new(user).expect("valid");
            let token = crate::cli::make_token(&config, &user, Duration::from_secs(60)).expect("readable");
            let url = format!("tcp://{tcp}").parse().expect("address");
            let credential = Credential::Token(token.expect("generated"));
            Client::open(ClientConfig::new(vec![url], user.as_str(), "test", credential), &tasks).expect("opened")
        };
        let (bob, mut bobs) = open("bob");
        bob.connected(Duration::from_secs(60)).await.expect("signed in");
        let (alice, _) = open("alice");
        let accepted = alice.send(Client::user("bob"), Client::text("hello")).await.expect("accepted");
        let delivered = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                match bobs.next().await.expect("not ended") {
                    Event::Delivered { envelope, .. } => return envelope.id,
                    _ => continue,
                }
            }
        });
        assert_eq!(delivered.await.expect("in time"), accepted.message_id);
        alice.close().await;
        bob.close().await;
        assert!(running.stop().await, "stopped in time");
    }

    #[test]
    fn roles_behind_a_wildcard_address_are_reached_by_loopback() {
        for (bound, reached) in [
            ("0.0.0.0:7401", "127.0.0.1:7401"),
            ("[::]:7401", "[::1]:7401"),
            ("10.0.0.1:7401", "10.0.0.1:7401"),
            ("[2001:db8::1]:7401", "[2001:db8::1]:7401"),
        ] {
            assert_eq!(from_here(bound.parse().expect("an address")).to_string(), reached);
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named_with_its_setting() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("address");
        for key in ["admin.listen", "storage.listen", "router.listen", "gateway.tcp.listen", "gateway.grpc.listen"] {
            let folder = tempfile::tempdir().expect("folder");
            let mut config = anywhere(folder.path());
            match key {
                "admin.listen" => config.admin.listen = address,
                "storage.listen" => config.storage.listen = address,
                "router.listen" => config.router.listen = address,
                "gateway.tcp.listen" => config.gateway.tcp.listen = address.to_string(),
                _ => config.gateway.grpc.listen = address.to_string(),
            }
            let error = start(config, Role::ALL).await.err().expect("refused").to_string();
            assert!(error.contains(key) && error.contains(&address.to_string()), "{error}");
        }
    }
}
