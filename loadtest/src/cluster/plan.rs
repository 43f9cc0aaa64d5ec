//! The nodes of a cluster, their addresses and their configuration files.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use carillon_client::Address;

/// How the nodes are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Each on a loopback address of its own.
    Loopback,
    /// Each in a network namespace of its own, joined by a bridge that this process can reach. Needs root.
    Namespaces,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Storage,
    Router,
    Gateway,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Router => "router",
            Self::Gateway => "gateway",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct PlannedNode {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) ip: Ipv4Addr,
}

const INTERNAL: u16 = 7500;
const ADMIN: u16 = 7700;
const TCP: u16 = 7800;
const WS: u16 = 7810;
const GRPC: u16 = 7820;

impl PlannedNode {
    pub(crate) fn admin(&self) -> SocketAddr {
        self.at(ADMIN)
    }

    /// The address for other nodes.
    pub(crate) fn internal(&self) -> String {
        self.at(INTERNAL).to_string()
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.ip), port)
    }
}

pub(crate) struct Secrets {
    pub(crate) cluster: String,
    pub(crate) token: String,
}

/// How many nodes of each role a cluster has at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub storage: usize,
    pub routers: usize,
    pub gateways: usize,
}

impl Counts {
    /// As many as are needed so that any one may fail.
    pub const FULL: Self = Self { storage: 3, routers: 2, gateways: 2 };
    pub const ONE_OF_EACH: Self = Self { storage: 1, routers: 1, gateways: 1 };
}

/// How storage nodes keep what they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// Everything, as by default.
    Everything,
    /// Messages for half an hour: longer than a run, but shorter than the jumps of clocks. If clocks decided what is removed, messages
    /// would be missing.
    HalfAnHour,
    /// The same, and the log is so small that snapshots are made all the time.
    HalfAnHourWithSnapshots,
}

const HALF_AN_HOUR: &str = "storage.retention.max_age_ms = 1800000\nstorage.retention.duplicate_window_ms = 1200000\n";

impl Keeping {
    fn settings(self) -> String {
        match self {
            Self::Everything => String::new(),
            Self::HalfAnHour => HALF_AN_HOUR.to_owned(),
            Self::HalfAnHourWithSnapshots => format!("{HALF_AN_HOUR}storage.log_bytes = 1048576\n"),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) nodes: Vec<PlannedNode>,
    /// Storage nodes that come later, or later addresses of others.
    pub(crate) spares: Vec<PlannedNode>,
    keeping: Keeping,
}

/// A new storage node, and another address for one that is there.
const SPARES: usize = 2;

impl Plan {
    /// Nodes at `subnet`.11 and above.
    pub(crate) fn new(subnet: [u8; 3], counts: Counts, keeping: Keeping) -> Self {
        let roles = [(Role::Storage, counts.storage), (Role::Router, counts.routers), (Role::Gateway, counts.gateways)];
        let numbered = roles.into_iter().flat_map(|(role, count)| (0..count).map(move |number| (role, number)));
        let [a, b, c] = subnet;
        let planned = |role: Role, number: usize, host| PlannedNode {
            name: format!("{}-{number}", role.as_str()),
            role,
            ip: Ipv4Addr::new(a, b, c, host),
        };
        let nodes: Vec<_> = numbered.zip(11..).map(|((role, number), host)| planned(role, number, host)).collect();
        let spare = |number: usize| planned(Role::Storage, counts.storage + number, (11 + nodes.len() + number) as u8);
        Self { spares: (0..SPARES).map(spare).collect(), nodes, keeping }
    }

    /// Everything that has an address, the spare ones last.
    pub(crate) fn places(&self) -> impl Iterator<Item = &PlannedNode> {
        self.nodes.iter().chain(&self.spares)
    }

    /// The addresses of each gateway over TCP and over WebSocket, in such an order that neighbours belong to different
    /// gateways.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        let gateways: Vec<_> = self.of(Role::Gateway).collect();
        let (first, last) = (gateways[0], gateways[gateways.len() - 1]);
        let tcp = |node: &PlannedNode| format!("tcp://{}", node.at(TCP));
        let ws = |node: &PlannedNode| format!("ws://{}/ws", node.at(WS));
        let urls = [tcp(first), ws(last), ws(first), tcp(last)];
        // The address is valid: it is made of an IP address and a port.
        urls.iter().map(|url| url.parse().expect("a valid address")).collect()
    }

    fn of(&self, role: Role) -> impl Iterator<Item = &PlannedNode> {
        self.nodes.iter().filter(move |node| node.role == role)
    }

    /// The TOML file of whoever runs the operator's commands.
    pub(crate) fn operators(&self, secrets: &Secrets) -> String {
        let members: Vec<_> = self.of(Role::Storage).map(PlannedNode::internal).collect();
        format!("cluster.secret = {:?}\nstorage.members = {members:?}\n", secrets.cluster)
    }

    /// The TOML file of a node whose data is in `data`.
    pub(crate) fn config(&self, node: &PlannedNode, data: &Path, secrets: &Secrets) -> String {
        let internal = |role| self.of(role).map(PlannedNode::internal).collect::<Vec<_>>();
        let listen = node.internal();
        let own = match node.role {
            Role::Storage => format!(
                "storage.listen = {listen:?}\nstorage.members = {:?}\n{}",
                internal(Role::Storage),
                self.keeping.settings(),
            ),
            Role::Router => format!("router.listen = {listen:?}\nrouter.storage = {:?}\n", internal(Role::Storage)),
            Role::Gateway => format!(
                "gateway.routers = {:?}\n\
                 gateway.tcp.listen = \"{}\"\n\
                 gateway.ws.listen = \"{}\"\n\
                 gateway.grpc.listen = \"{}\"\n\
                 gateway.jwt.keys = [{{ algorithm = \"HS256\", secret = {:?} }}]\n",
                internal(Role::Router),
                node.at(TCP),
                node.at(WS),
                node.at(GRPC),
                secrets.token,
            ),
        };
        format!(
            "{own}cluster.secret = {:?}\nadmin.listen = \"{}\"\ndata_dir = {data:?}\nstorage.data_dir = {:?}\n",
            secrets.cluster,
            node.admin(),
            data.join("storage"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_an_address_and_a_name_of_its_own() {
        let plan = Plan::new([127, 32, 7], Counts::FULL, Keeping::HalfAnHour);
        let names: Vec<_> = plan.nodes.iter().map(|node| format!("{} {}", node.name, node.ip)).collect();
        let expected = [
            "storage-0 127.32.7.11",
            "storage-1 127.32.7.12",
            "storage-2 127.32.7.13",
            "router-0 127.32.7.14",
            "router-1 127.32.7.15",
            "gateway-0 127.32.7.16",
            "gateway-1 127.32.7.17",
        ];
        assert_eq!(names, expected);
        let spares: Vec<_> = plan.spares.iter().map(|node| format!("{} {}", node.name, node.ip)).collect();
        assert_eq!(spares, ["storage-3 127.32.7.18", "storage-4 127.32.7.19"]);
        assert_eq!(plan.places().count(), expected.len() + SPARES);
    }

    #[test]
    fn storage_nodes_name_all_members_in_one_order() {
        let plan = Plan::new([127, 32, 7], Counts::FULL, Keeping::HalfAnHour);
        let secrets = Secrets { cluster: "c".into(), token: "t".into() };
        let members = |node| {
            let config = plan.config(node, Path::new("/d"), &secrets);
            config.lines().find(|line| line.starts_with("storage.members")).map(str::to_owned)
        };
        let all: Vec<_> = plan.of(Role::Storage).map(members).collect();
        assert!(all[0].as_deref().is_some_and(|line| line.matches(":7500").count() == 3));
        assert!(all.iter().all(|line| line == &all[0]));
    }
}
