//! The nodes of the cluster, and what each tells of itself.

use std::{net::IpAddr, time::Duration};

use carillon_gateway::GatewayConfig;
use carillon_proto::{
    limits::MAX_NODE_MESSAGE_BYTES,
    now_ms,
    pb::{
        admin::{DescribeGatewayRequest, StatusReply, admin_client::AdminClient},
        diagnostics::{DescribeRequest, Description, diagnostics_client::DiagnosticsClient},
        raft::MembersReply,
        store::{NodeKind, RegistryView, WatchRequest, registry_client::RegistryClient, storage_node::State},
    },
    peer::{PeerSecurity, Tier, cause},
};
use carillon_router::RouterConfig;
use tonic::{Code, Status};

use super::super::{admin_client::Routers, callees::with_deadline, cluster::Nodes, status};
use crate::{Config, Secrets, machine};

/// Deadline of each call.
const DEADLINE: Duration = Duration::from_secs(10);
/// Of a longer name the rest is left out: it is that of a folder in an archive, whose paths have a limit.
const LONGEST_NAME: usize = 100;
const LONGEST_FOLDER: usize = 110;

/// A node to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// For files and people: `storage-2`, `gateway-711`.
    pub(super) name: String,
    /// host:port; empty for a gateway, which is asked over its links to routers.
    pub(super) address: String,
    /// True if only the configuration names it.
    pub(super) is_guess: bool,
    /// As others have told it; empty: not known.
    pub(super) release: String,
    /// Host or pod, as others have told it; empty: not known.
    host: String,
    lease: u64,
}

impl Node {
    /// The host or the pod, by which an operator knows the node; empty: not known.
    pub(super) fn host<'a>(&'a self, description: &'a Description) -> &'a str {
        let own = description.machine.iter().find(|fact| fact.name == machine::HOST);
        own.map_or(&self.host, |fact| &fact.value)
    }

    /// The name of the node's folder: that of the node, which is unique, and the host.
    pub(super) fn folder(&self, description: &Description) -> String {
        let host = self.host(description).replace(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-'), "_");
        let mut folder = if host.is_empty() { self.name.clone() } else { format!("{}-{host}", self.name) };
        folder.truncate(LONGEST_FOLDER);
        folder
    }
}

/// What a node has told, and how far its clock is ahead of this one.
pub(super) struct Told {
    pub(super) description: Description,
    pub(super) ahead_ms: i64,
}

/// What routers and storage nodes tell of the whole, or why they do not.
pub(super) struct Whole {
    pub(super) status: Result<StatusReply, String>,
    pub(super) members: Result<MembersReply, String>,
    pub(super) nodes: Vec<Node>,
}

/// Asks for the registry whoever may have it.
pub(super) async fn whole(config: &Config) -> Whole {
    let configured = Configured::of(config);
    let mut status = status_of(config, &configured.routers()).await;
    let mut view = status.as_ref().ok().and_then(|status| status.registry.clone());
    if view.is_none() {
        view = registry_of_storage(config, &configured.storage()).await;
        let others = view.iter().flat_map(|view| &view.nodes).filter(|node| node.kind() == NodeKind::Router);
        let others: Vec<String> = others.map(|node| node.address.clone()).collect();
        if !others.is_empty() {
            status = status_of(config, &others).await;
        }
    }
    let mut storage = configured.storage();
    storage.extend(view.iter().flat_map(|view| &view.storage).map(|node| node.address.clone()));
    let members = match Nodes::among(config, storage) {
        Ok(nodes) => nodes.members().await,
        Err(error) => Err(error),
    };
    let mut nodes = nodes(view.as_ref(), members.as_ref().ok(), &configured);
    for node in &mut nodes {
        node.release = release_of(node, status.as_ref().ok(), members.as_ref().ok());
        if node.host.is_empty() {
            node.host = told_host(node, status.as_ref().ok());
        }
    }
    Whole { status, members: members.map_err(|error| error.to_string()), nodes }
}

async fn status_of(config: &Config, routers: &[String]) -> Result<StatusReply, String> {
    let mut why = "no router is known".to_owned();
    for router in routers {
        let asked = match Routers::of(config, Some(router)) {
            Ok(routers) => status::fetch(&routers).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(status) => return Ok(status),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

/// Only nodes may ask for it: so this takes the secret, or the token of such a node.
async fn registry_of_storage(config: &Config, storage: &[String]) -> Option<RegistryView> {
    let secrets = Secrets::of(config);
    let of_tier = |tier| secrets.peer_security(config, &[tier]).ok();
    let security = of_tier(Tier::Router).or_else(|| of_tier(Tier::Storage))?;
    for address in storage {
        let Ok(channel) = security.channel(address) else { continue };
        let mut client = RegistryClient::with_interceptor(channel, security.token());
        let Ok(views) = client.watch(with_deadline(WatchRequest {}, DEADLINE)).await else { continue };
        if let Ok(Some(view)) = views.into_inner().message().await {
            return Some(view);
        }
    }
    None
}

/// The addresses in the configuration.
struct Configured {
    storage: Vec<String>,
    routers: Vec<String>,
    /// Where nodes of this machine would be, if it has some.
    own_storage: String,
    own_router: String,
}

impl Configured {
    fn of(config: &Config) -> Self {
        let (storage, router) = (&config.storage, &config.router);
        let or = |advertise: &str, listen: std::net::SocketAddr| match advertise {
            "" => listen.to_string(),
            advertise => advertise.to_owned(),
        };
        let mut addresses = storage.members.clone();
        if router.storage != RouterConfig::default().storage {
            addresses.extend(router.storage.iter().filter(|address| !storage.members.contains(address)).cloned());
        }
        let is_default = config.gateway.routers == GatewayConfig::default().routers;
        Self {
            storage: addresses,
            routers: if is_default { Vec::new() } else { config.gateway.routers.clone() },
            own_storage: or(&storage.advertise, storage.listen),
            own_router: or(&router.advertise, router.listen),
        }
    }

    /// Those that are worth a try.
    fn storage(&self) -> Vec<String> {
        if self.storage.is_empty() { vec![self.own_storage.clone()] } else { self.storage.clone() }
    }

    fn routers(&self) -> Vec<String> {
        if self.routers.is_empty() { vec![self.own_router.clone()] } else { self.routers.clone() }
    }
}

/// Nodes of the registry, or else those that the storage nodes tell; and those that only the configuration names.
fn nodes(view: Option<&RegistryView>, members: Option<&MembersReply>, configured: &Configured) -> Vec<Node> {
    let mut nodes = Vec::new();
    for node in view.iter().flat_map(|view| view.storage.iter().chain(&view.nodes)) {
        let (name, address) = (format!("{}-{}", kind_of(node.kind()), node.lease), node.address.clone());
        let host = host_of(&address);
        nodes.push(Node { name, address, is_guess: false, release: String::new(), host, lease: node.lease });
    }
    if view.is_none() {
        let storage = members.iter().flat_map(|members| &members.nodes).filter(|node| node.state() != State::Lost);
        nodes.extend(storage.map(|node| {
            let (name, address) = (format!("storage-{}", node.node), node.address.clone());
            let host = host_of(&address);
            Node { name, address, is_guess: false, release: String::new(), host, lease: node.node }
        }));
    }
    // A node of this machine is meant only if nothing else is known.
    let storage = if nodes.is_empty() { configured.storage() } else { configured.storage.clone() };
    let routers = if view.is_none() { configured.routers() } else { configured.routers.clone() };
    let guessed = storage.iter().map(|address| ("storage", address));
    for (kind, address) in guessed.chain(routers.iter().map(|address| ("router", address))) {
        if !nodes.iter().any(|node| node.address == *address) {
            let mut name = format!("{kind}-{}", address.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "_"));
            if name.len() > LONGEST_NAME {
                name.truncate(LONGEST_NAME);
                name.push_str(&format!("-{}", nodes.len() + 1));
            }
            let (address, host) = (address.clone(), String::new());
            nodes.push(Node { name, address, is_guess: true, release: String::new(), host, lease: 0 });
        }
    }
    nodes
}

/// The first part of a host's name, as in `carillon-storage-0.carillon-storage:7401`; empty if the address has none.
fn host_of(address: &str) -> String {
    let host = address.rsplit_once(':').map_or("", |(host, _)| host);
    let is_address = host.parse::<IpAddr>().is_ok() || host.starts_with('[');
    if is_address { String::new() } else { host.split('.').next().unwrap_or_default().to_owned() }
}

/// The host that a gateway has told the routers, before its listener: `web-1 (tcp 0.0.0.0:7410)`.
fn told_host(node: &Node, status: Option<&StatusReply>) -> String {
    let releases = status.iter().flat_map(|status| &status.releases);
    let mut told = releases.filter(|told| told.lease == node.lease && node.name.starts_with(kind_of(told.kind())));
    told.next().and_then(|told| told.name.split(' ').next()).unwrap_or_default().to_owned()
}

/// The release of a node as others know it: the node itself may be too old to tell it.
fn release_of(node: &Node, status: Option<&StatusReply>, members: Option<&MembersReply>) -> String {
    if node.is_guess {
        return String::new();
    }
    let releases = status.iter().flat_map(|status| &status.releases);
    let mut releases = releases.filter(|told| told.lease == node.lease && node.name.starts_with(kind_of(told.kind())));
    let told = releases.find_map(|told| Some(told.release.clone()?.version));
    let programs = members.iter().flat_map(|members| &members.programs);
    let mut programs = programs.filter(|program| node.name == format!("storage-{}", program.node));
    told.or_else(|| Some(programs.next()?.release.clone())).unwrap_or_default()
}

fn kind_of(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Router => "router",
        NodeKind::Gateway => "gateway",
        NodeKind::Storage | NodeKind::Unspecified => "storage",
    }
}

/// Asks one node. `routers`: those that may have a link to a gateway.
pub(super) async fn ask(node: &Node, routers: &[String], security: &PeerSecurity) -> Result<Told, String> {
    let asked = now_ms();
    let description = match node.address.as_str() {
        "" => ask_gateway(node.lease, routers, security).await?,
        address => describe(address, security).await.map_err(|status| told_why(&status, &node.release))?,
    };
    // The node has told its time somewhere in between.
    let middle = asked / 2 + now_ms() / 2;
    let ahead_ms = i64::try_from(description.time_ms).unwrap_or(i64::MAX).saturating_sub_unsigned(middle);
    Ok(Told { description, ahead_ms })
}

async fn describe(address: &str, security: &PeerSecurity) -> Result<Description, Status> {
    let channel = security.channel(address).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let client = DiagnosticsClient::with_interceptor(channel, security.token());
    let mut client = client.max_decoding_message_size(MAX_NODE_MESSAGE_BYTES);
    Ok(client.describe(with_deadline(DescribeRequest {}, DEADLINE)).await?.into_inner())
}

async fn ask_gateway(lease: u64, routers: &[String], security: &PeerSecurity) -> Result<Description, String> {
    let mut why = "no router is reached that could ask it".to_owned();
    for router in routers {
        let channel = security.channel(router).map_err(|error| error.to_string())?;
        let client = AdminClient::with_interceptor(channel, security.token());
        let mut client = client.max_decoding_message_size(MAX_NODE_MESSAGE_BYTES);
        match client.describe_gateway(with_deadline(DescribeGatewayRequest { lease }, DEADLINE)).await {
            Ok(described) => return Ok(described.into_inner()),
            Err(status) => why = format!("router {router}: {}", told_why(&status, "")),
        }
    }
    Err(why)
}

/// `release`: of the asked node, if it is known.
fn told_why(status: &Status, release: &str) -> String {
    match status.code() {
        Code::Unimplemented if release.is_empty() => "its release does not know the question".to_owned(),
        Code::Unimplemented => format!("its release, {release}, does not know the question"),
        Code::Unauthenticated | Code::PermissionDenied => {
            format!("{}; it has to know the operator's token, and so has this command", status.message())
        }
        _ => cause(status),
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::{
        admin::NodeRelease,
        diagnostics::Fact,
        raft::Program,
        store::{Node as Row, Release, StorageNode},
    };

    use super::*;

    #[test]
    fn registered_nodes_are_asked_and_others_that_the_configuration_names() {
        let row = |kind: NodeKind, lease, address: &str| Row {
            lease,
            kind: kind.into(),
            address: address.into(),
            slot: None,
        };
        let view = RegistryView {
            storage: vec![row(NodeKind::Storage, 1, "a:1")],
            nodes: vec![row(NodeKind::Router, 7, "r:2"), row(NodeKind::Gateway, 9, "")],
            ..RegistryView::default()
        };
        let names = |view: Option<&RegistryView>, members: Option<&MembersReply>, config: &Config| -> Vec<String> {
            nodes(view, members, &Configured::of(config)).into_iter().map(|node| node.name).collect()
        };
        let mut config = Config::default();
        assert_eq!(names(None, None, &config), ["storage-127.0.0.1_7401", "router-127.0.0.1_7402"]);
        assert_eq!(names(Some(&view), None, &config), ["storage-1", "router-7", "gateway-9"], "nobody is at home here");
        config.storage.members = vec!["a:1".into(), "b:1".into()];
        config.gateway.routers = vec!["r:2".into()];
        assert_eq!(names(Some(&view), None, &config), ["storage-1", "router-7", "gateway-9", "storage-b_1"]);
        config.gateway.routers = vec![format!("{}:1", "r".repeat(200)), format!("{}:2", "r".repeat(200))];
        let long = names(Some(&view), None, &config);
        assert!(long.iter().all(|name| name.len() < LONGEST_NAME + 5) && long[4] != long[5], "{long:?}");
        config.gateway.routers = vec!["r:2".into()];
        let member = |node, state: State| StorageNode {
            node,
            address: format!("s{node}:1"),
            state: state.into(),
            ..StorageNode::default()
        };
        let members = vec![member(1, State::Active), member(2, State::Lost)];
        let members = MembersReply { nodes: members, ..MembersReply::default() };
        assert_eq!(names(None, Some(&members), &config), ["storage-1", "storage-a_1", "storage-b_1", "router-r_2"]);
    }

    #[test]
    fn a_folder_has_the_name_by_which_an_operator_knows_the_node() {
        let mut node = Node {
            name: "gateway-711".to_owned(),
            address: String::new(),
            is_guess: false,
            release: String::new(),
            host: String::new(),
            lease: 711,
        };
        let tells = |host: &str| Description {
            machine: vec![Fact { name: machine::HOST.to_owned(), value: host.to_owned() }],
            ..Description::default()
        };
        assert_eq!(node.folder(&Description::default()), "gateway-711", "nobody tells more");
        assert_eq!(node.folder(&tells("carillon-gateway-6f7d-x2")), "gateway-711-carillon-gateway-6f7d-x2");
        let release = |kind: NodeKind, name: &str| NodeRelease {
            kind: kind.into(),
            lease: 711,
            name: name.to_owned(),
            ..NodeRelease::default()
        };
        let releases = vec![release(NodeKind::Router, ""), release(NodeKind::Gateway, "web-1 (tcp 0.0.0.0:7410)")];
        node.host = told_host(&node, Some(&StatusReply { releases, ..StatusReply::default() }));
        assert_eq!(
            node.folder(&Description::default()),
            "gateway-711-web-1",
            "a release that tells no host of its own"
        );
        assert_eq!(node.folder(&tells("../../a b/c")), "gateway-711-.._.._a_b_c", "it stays below its place");
        assert!(node.folder(&tells(&"h".repeat(300))).len() <= LONGEST_FOLDER);
        let hosts = ["carillon-storage-0.carillon-storage:7401", "10.0.0.1:7401", "[::1]:7401", "s:1", ""];
        assert_eq!(hosts.map(host_of), ["carillon-storage-0", "", "", "s", ""]);
    }

    #[test]
    fn a_node_that_is_too_old_to_tell_is_missing_with_its_release() {
        let node = |name: &str, lease| Node {
            name: name.to_owned(),
            address: String::new(),
            is_guess: false,
            release: String::new(),
            host: String::new(),
            lease,
        };
        let release = |kind: NodeKind, lease, version: &str| NodeRelease {
            kind: kind.into(),
            lease,
            release: Some(Release { version: version.to_owned(), level: 6 }),
            ..NodeRelease::default()
        };
        let releases = vec![release(NodeKind::Router, 7, "0.2.0"), release(NodeKind::Gateway, 8, "0.2.1")];
        let status = StatusReply { releases, ..StatusReply::default() };
        let programs = vec![Program { node: 7, release: "0.1.9".into(), ..Program::default() }];
        let members = MembersReply { programs, ..MembersReply::default() };
        let of = |name: &str, lease| release_of(&node(name, lease), Some(&status), Some(&members));
        assert_eq!([of("router-7", 7), of("gateway-8", 8), of("storage-7", 7)], ["0.2.0", "0.2.1", "0.1.9"]);
        assert_eq!(of("gateway-9", 9), "");
        let unknown = Status::unimplemented("no such service");
        assert_eq!(told_why(&unknown, "0.2.0"), "its release, 0.2.0, does not know the question");
        assert_eq!(told_why(&unknown, ""), "its release does not know the question");
    }
}
