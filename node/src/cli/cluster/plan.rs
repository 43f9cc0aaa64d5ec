//! The nodes of the local cluster and their addresses, kept in cluster.json.

use std::{
    collections::BTreeMap,
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::{Config, Role, Secrets};

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) nodes: Vec<Planned>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Planned {
    /// A name such as storage-1.
    pub(super) name: String,
    role: String,
    pub(super) pid: u32,
    /// The addresses by purpose: rpc, tcp, ws, grpc, admin.
    pub(super) addresses: BTreeMap<String, String>,
    pub(super) config: PathBuf,
    pub(super) log: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) storage: usize,
    pub(super) routers: usize,
    pub(super) gateways: usize,
}

impl Plan {
    pub(super) fn new(dir: &Path, counts: Counts, base_port: u16) -> anyhow::Result<Self> {
        let mut ports = Ports { next: base_port, taken: Vec::new() };
        let mut nodes = Vec::new();
        for (role, count, listeners) in [
            (Role::Storage, counts.storage, &["rpc", "admin"][..]),
            (Role::Router, counts.routers, &["rpc", "admin"][..]),
            (Role::Gateway, counts.gateways, &["tcp", "ws", "grpc", "admin"][..]),
        ] {
            if count == 0 || count > 99 {
                bail!("{count} nodes of role {role}: there must be 1 to 99");
            }
            for number in 1..=count {
                let name = format!("{role}-{number}");
                let mut addresses = BTreeMap::new();
                for listener in listeners {
                    addresses.insert((*listener).to_owned(), format!("127.0.0.1:{}", ports.next()?));
                }
                nodes.push(Planned {
                    role: role.to_string(),
                    pid: 0,
                    addresses,
                    config: dir.join(format!("{name}.toml")),
                    log: dir.join(format!("{name}.log")),
                    name,
                });
            }
        }
        Ok(Self { nodes })
    }

    /// The plan of the cluster that exists in this folder; `None` if there is none.
    pub(super) fn read(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = path(dir);
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).with_context(|| format!("{} is not valid", path.display()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let count = |role: Role| self.nodes.iter().filter(|node| node.role() == role).count();
        Counts { storage: count(Role::Storage), routers: count(Role::Router), gateways: count(Role::Gateway) }
    }

    /// The configuration file of a node. Commands can use the file, too: it names the routers, a gateway and the
    /// secrets.
    pub(super) fn config_of(&self, node: &Planned, dir: &Path) -> String {
        let secrets = Secrets::of(&Config { data_dir: dir.to_owned(), ..Config::default() });
        let addresses = |role: Role, listener: &str| -> Vec<&str> {
            let nodes = self.nodes.iter().filter(|node| node.role() == role);
            nodes.filter_map(|node| node.addresses.get(listener).map(String::as_str)).collect()
        };
        let members = addresses(Role::Storage, "rpc");
        let own = |listener: &str| node.addresses.get(listener).map_or("", String::as_str);
        let mut text = format!(
            "data_dir = {:?}\n[cluster]\nsecret_file = {:?}\n[admin]\nlisten = {:?}\n[storage]\nmembers = {members:?}\n",
            dir.join(&node.name),
            secrets.cluster_path(),
            own("admin"),
        );
        if node.role() == Role::Storage {
            text.push_str(&format!("listen = {:?}\n", own("rpc")));
        }
        text.push_str(&format!("[router]\nstorage = {members:?}\n"));
        if node.role() == Role::Router {
            text.push_str(&format!("listen = {:?}\n", own("rpc")));
        }
        text.push_str(&format!("[gateway]\nrouters = {:?}\n", addresses(Role::Router, "rpc")));
        for listener in ["tcp", "ws", "grpc"] {
            let gateways = addresses(Role::Gateway, listener);
            let listen = node.addresses.get(listener).map(String::as_str).or(gateways.first().copied());
            text.push_str(&format!("{listener}.listen = {:?}\n", listen.unwrap_or_default()));
        }
        text.push_str(&format!(
            "[[gateway.jwt.keys]]\nalgorithm = \"HS256\"\nsecret_file = {:?}\n",
            secrets.token_path()
        ));
        text
    }
}

impl Planned {
    pub(super) fn role(&self) -> Role {
        let known = Role::ALL.iter().find(|role| role.as_str() == self.role);
        known.copied().unwrap_or(Role::Storage)
    }
}

/// Puts these nodes into cluster.json, and leaves the others in it as they are.
pub(super) fn write<'a>(dir: &Path, nodes: impl Iterator<Item = &'a Planned>) -> anyhow::Result<()> {
    let mut plan = Plan::read(dir)?.unwrap_or(Plan { nodes: Vec::new() });
    for node in nodes {
        match plan.nodes.iter_mut().find(|known| known.name == node.name) {
            Some(known) => known.clone_from(node),
            None => plan.nodes.push(node.clone()),
        }
    }
    let text = serde_json::to_string_pretty(&plan).context("cluster.json")?;
    replace(&path(dir), &(text + "\n"))
}

/// Replaces the file in one step, so that nobody reads half of it.
pub(super) fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    written.with_context(|| format!("can't write {}", path.display()))
}

fn path(dir: &Path) -> PathBuf {
    dir.join("cluster.json")
}

struct Ports {
    /// The next port; 0 for any free one.
    next: u16,
    /// Listeners on the chosen ports, held until all are chosen, so that none is chosen twice.
    taken: Vec<TcpListener>,
}

impl Ports {
    fn next(&mut self) -> anyhow::Result<u16> {
        let listener = TcpListener::bind(("127.0.0.1", self.next))
            .with_context(|| format!("port {} is taken: give another --base-port", self.next))?;
        let port = listener.local_addr()?.port();
        self.taken.push(listener);
        if self.next != 0 {
            self.next = self.next.checked_add(1).context("--base-port is too high")?;
        }
        Ok(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layers;

    #[test]
    fn the_files_of_all_nodes_are_valid_and_name_each_other() {
        let dir = tempfile::tempdir().expect("folder");
        let counts = Counts { storage: 3, routers: 2, gateways: 2 };
        let plan = Plan::new(dir.path(), counts, 0).expect("ports");
        assert_eq!(plan.counts(), counts);
        let storage = &plan.nodes[0].addresses["rpc"];
        for node in &plan.nodes {
            let config = Layers::default().text(&plan.config_of(node, dir.path()), &node.name).load().expect("valid");
            config.validate(&[node.role()]).expect("valid");
            assert_eq!(config.storage.members.len(), 3);
            assert_eq!(&config.router.storage[0], storage);
            assert_eq!(config.gateway.routers.len(), 2);
            assert_eq!(config.gateway.jwt.keys.len(), 1);
            assert_eq!(config.admin.listen.to_string(), node.addresses["admin"]);
            if node.role() == Role::Gateway {
                assert_eq!(config.gateway.ws.listen, node.addresses["ws"]);
            }
        }
    }

    #[test]
    fn the_plan_is_kept_and_updated_by_name() {
        let dir = tempfile::tempdir().expect("folder");
        assert!(Plan::read(dir.path()).expect("nothing there").is_none());
        let counts = Counts { storage: 1, routers: 1, gateways: 1 };
        let mut plan = Plan::new(dir.path(), counts, 0).expect("ports");
        write(dir.path(), plan.nodes.iter()).expect("written");
        plan.nodes[1].pid = 77;
        write(dir.path(), [&plan.nodes[1]].into_iter()).expect("written");
        assert_eq!(Plan::read(dir.path()).expect("readable").expect("there").nodes, plan.nodes);
    }
}
