//! Network namespaces on a bridge, with packet filters and slow cables.
//!
//! Each node's `eth0` is one end of a veth pair; the other end is a port of the bridge. This process has the bridge's
//! own address. Packets are dropped where they arrive: a filter on the sending side would be reported to the sender,
//! which no real network does.

use std::{fmt::Write as _, fs, net::Ipv4Addr, path::Path};

use carillon_proto::tasks::Tasks;

use super::{ClusterError, plan::Plan, tool, wire::Wire};

/// Drops packets from one node to another. Nodes are named by their places in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    pub from: usize,
    pub to: usize,
    /// How many of a hundred packets are dropped; 100 cuts the connection.
    pub percent: u8,
}

pub struct Network {
    /// Prefix of the names of everything that this process makes: `cf` and the process id.
    id: String,
    ports: Vec<Port>,
    filters: Vec<Filter>,
}

struct Port {
    namespace: String,
    /// The end of the cable at the bridge.
    link: String,
    ip: Ipv4Addr,
    /// Set while the cable is slow.
    wire: Option<Wire>,
}

impl Network {
    pub(crate) fn create(plan: &Plan) -> Result<Self, ClusterError> {
        tool::require_root()?;
        tool::require(&[("ip", "iproute2"), ("nft", "nftables"), ("nsenter", "util-linux")])?;
        sweep();
        let pid = std::process::id();
        let ports = plan.places().enumerate().map(|(at, node)| Port {
            namespace: format!("cf-{pid}-{}", node.name),
            link: format!("cf{pid}p{at}"),
            ip: node.ip,
            wire: None,
        });
        // From here on, dropping the network cleans up whatever was made.
        let network = Self { id: format!("cf{pid}"), ports: ports.collect(), filters: Vec::new() };
        let id = &network.id;
        tool::line(&format!("ip link add {id} type bridge"))?;
        let [a, b, c, _] = plan.nodes[0].ip.octets();
        tool::line(&format!("ip address add {a}.{b}.{c}.1/24 dev {id}"))?;
        tool::line(&format!("ip link set {id} up"))?;
        for Port { namespace, link, ip, .. } in &network.ports {
            tool::line(&format!("ip netns add {namespace}"))?;
            tool::line(&format!("ip link add {link} type veth peer name eth0 netns {namespace}"))?;
            tool::line(&format!("ip link set {link} master {id} up"))?;
            tool::line(&format!("ip -n {namespace} address add {ip}/24 dev eth0"))?;
            tool::line(&format!("ip -n {namespace} link set eth0 up"))?;
            tool::line(&format!("ip -n {namespace} link set lo up"))?;
        }
        Ok(network)
    }

    pub(crate) fn namespace(&self, node: usize) -> &str {
        &self.ports[node].namespace
    }

    pub fn add(&mut self, filters: &[Filter]) -> Result<(), ClusterError> {
        self.filters.extend(filters);
        self.load(filters)
    }

    pub fn remove(&mut self, filters: &[Filter]) -> Result<(), ClusterError> {
        for filter in filters {
            if let Some(at) = self.filters.iter().position(|other| other == filter) {
                self.filters.remove(at);
            }
        }
        self.load(filters)
    }

    /// Loads the rules of the namespaces that these filters touch.
    fn load(&self, touched: &[Filter]) -> Result<(), ClusterError> {
        for (at, port) in self.ports.iter().enumerate() {
            if touched.iter().any(|filter| filter.to == at) {
                let ips: Vec<_> = self.ports.iter().map(|port| port.ip).collect();
                let net = format!("--net=/run/netns/{}", port.namespace);
                tool::run("nsenter", &[&net, "nft", &rules(at, &ips, &self.filters)])?;
            }
        }
        Ok(())
    }

    /// Disconnects the cable, for peers, clients and this process alike.
    pub fn unplug(&self, node: usize) -> Result<(), ClusterError> {
        tool::line(&format!("ip link set {} down", self.ports[node].link)).map(drop)
    }

    pub fn plug(&self, node: usize) -> Result<(), ClusterError> {
        tool::line(&format!("ip link set {} up", self.ports[node].link)).map(drop)
    }

    /// Delays everything from and to this node by this many milliseconds, each way.
    pub fn slow(&mut self, node: usize, delay_ms: u64, tasks: &Tasks) -> Result<(), ClusterError> {
        let link = self.ports[node].link.clone();
        self.ports[node].wire = Some(Wire::insert(&self.id, &link, delay_ms, tasks)?);
        Ok(())
    }

    pub fn fast(&mut self, node: usize) {
        self.ports[node].wire = None;
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for port in &mut self.ports {
            port.wire = None;
            // A device that was never made can't be removed.
            let _ = tool::line(&format!("ip link del {}", port.link));
            let _ = tool::line(&format!("ip netns del {}", port.namespace));
        }
        let _ = tool::line(&format!("ip link del {}", self.id));
    }
}

/// Removes the devices of processes that were killed.
fn sweep() {
    let gone = |pid: &str| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists();
    let names = |folder: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    for name in names("/run/netns") {
        if name.strip_prefix("cf-").and_then(|rest| rest.split('-').next()).is_some_and(gone) {
            let _ = tool::line(&format!("ip netns del {name}"));
        }
    }
    for name in names("/sys/class/net") {
        let pid = name.strip_prefix("cf").map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
        if pid.flatten().is_some_and(gone) {
            let _ = tool::line(&format!("ip link del {name}"));
        }
    }
}

/// The nftables rules of the node at `to`; they replace the previous rules in one step.
fn rules(to: usize, ips: &[Ipv4Addr], filters: &[Filter]) -> String {
    let mut rules = "add table inet faults\ndelete table inet faults\ntable inet faults {\nchain arriving {\n\
                     type filter hook input priority 0; policy accept;\n"
        .to_owned();
    for filter in filters.iter().filter(|filter| filter.to == to) {
        let some = match filter.percent {
            100.. => String::new(),
            percent => format!("numgen random mod 100 < {percent} "),
        };
        let _ = writeln!(rules, "ip saddr {} {some}drop", ips[filter.from]);
    }
    rules + "}\n}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_drops_only_what_is_meant_for_it() {
        let ips = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)];
        let filters = [
            Filter { from: 0, to: 1, percent: 100 },
            Filter { from: 2, to: 1, percent: 20 },
            Filter { from: 1, to: 2, percent: 100 },
        ];
        let rules = rules(1, &ips, &filters);
        assert!(rules.contains("ip saddr 10.0.0.1 drop\n"), "{rules}");
        assert!(rules.contains("ip saddr 10.0.0.3 numgen random mod 100 < 20 drop\n"), "{rules}");
        assert_eq!(rules.matches("saddr").count(), 2, "{rules}");
    }
}
