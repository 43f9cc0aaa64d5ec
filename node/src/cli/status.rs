//! Nodes, shards and leaders as a router sees them.

use std::collections::BTreeMap;

use anyhow::bail;
use carillon_proto::{
    Level, ShardId,
    pb::{
        admin::{NodeRelease, StatusReply, StatusRequest},
        store::{Node, NodeKind, RegistryView, Release},
    },
};
use clap::Args;

use super::{
    admin_client::{Routers, with_deadline},
    out,
};
use crate::Config;

#[derive(Args)]
pub(super) struct Status {
    /// host:port of a router; otherwise from the configuration.
    #[arg(long)]
    router: Option<String>,
}

impl Status {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        out::print(show(&fetch(&Routers::of(config, self.router.as_deref())?).await?))
    }
}

pub(super) async fn fetch(routers: &Routers) -> anyhow::Result<StatusReply> {
    let asked =
        routers.ask(async |mut admin, deadline| admin.status(with_deadline(StatusRequest {}, deadline)).await).await?;
    match asked {
        Ok(reply) => Ok(reply.into_inner()),
        Err(status) => bail!("status: {}", status.message()),
    }
}

/// The number of shards that each storage node leads; shards without a leader are counted under the empty name.
pub(super) fn leaders(status: &StatusReply) -> BTreeMap<&str, usize> {
    let mut leaders = BTreeMap::new();
    for shard in &status.shards {
        *leaders.entry(shard.leader.as_str()).or_default() += 1;
    }
    leaders
}

pub(super) fn show(status: &StatusReply) -> String {
    let empty = RegistryView::default();
    let view = status.registry.as_ref().unwrap_or(&empty);
    let led = leaders(status);
    let mut text = format!(
        "cluster {}, level {}, registry version {}, ring version {}\n\n{:<8}  {:>12}  {:<24}  {:<9}  {:>5}  LEADS OR SLOT\n",
        view.cluster, view.level, view.version, view.ring_version, "NODE", "ID OR LEASE", "ADDRESS", "RELEASE", "KNOWS"
    );
    for node in view.storage.iter().chain(&view.nodes) {
        let (kind, leads) = match node.kind() {
            NodeKind::Storage if status.silent.contains(&node.address) => ("storage", "does not answer".to_owned()),
            NodeKind::Storage => ("storage", led.get(node.address.as_str()).copied().unwrap_or(0).to_string()),
            NodeKind::Router => ("router", slot(view, node)),
            NodeKind::Gateway => ("gateway", String::new()),
            NodeKind::Unspecified => ("?", String::new()),
        };
        let (release, level) = release_of(status, node);
        let address = if node.address.is_empty() { name_of(status, node) } else { &node.address };
        let line = format!("{kind:<8}  {:>12}  {address:<24}  {release:<9}  {level:>5}  {leads}", node.lease);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push_str(&format!("\n{:<14}  LEADER\n", "SHARD"));
    for shard in &status.shards {
        let name = shard.shard.as_ref().and_then(ShardId::from_pb).map_or("?".to_owned(), |shard| shard.to_string());
        let leader = if shard.leader.is_empty() { "none known" } else { &shard.leader };
        text.push_str(&format!("{name:<14}  {leader}\n"));
    }
    text
}

/// The router's place on the ring; nothing below the level that has slots.
fn slot(view: &RegistryView, node: &Node) -> String {
    match node.slot {
        Some(slot) => format!("slot {slot}"),
        // Right after the level has risen nobody has one.
        None if view.level >= Level::RING_SLOTS.0 && view.nodes.iter().any(|other| other.slot.is_some()) => {
            "waits for a slot".to_owned()
        }
        None => String::new(),
    }
}

/// What the node has told of itself.
fn told<'a>(status: &'a StatusReply, node: &Node) -> Option<&'a NodeRelease> {
    status.releases.iter().find(|told| (told.kind, told.lease) == (node.kind, node.lease))
}

/// By which an operator knows a gateway; empty if it has not told it.
fn name_of<'a>(status: &'a StatusReply, node: &Node) -> &'a str {
    told(status, node).map_or("", |told| &told.name)
}

/// The release and its level; `-` if the node has not told it.
fn release_of(status: &StatusReply, node: &Node) -> (String, String) {
    match told(status, node).and_then(|told| told.release.clone()) {
        Some(Release { version, level }) => (version, level.to_string()),
        None => ("-".to_owned(), "-".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::{ShardKind, pb::admin::ShardStatus};

    #[test]
    fn the_table_shows_nodes_and_who_leads() {
        let shard = |index, leader: &str| ShardStatus {
            shard: Some(ShardId { kind: ShardKind::Timeline, index }.to_pb()),
            leader: leader.to_owned(),
        };
        let storage =
            |lease, address: &str| Node { lease, kind: NodeKind::Storage.into(), address: address.into(), slot: None };
        let router = Node { lease: 7, kind: NodeKind::Router.into(), address: "b:2".into(), slot: Some(1) };
        let gateway = |lease| Node { lease, kind: NodeKind::Gateway.into(), ..Node::default() };
        let registry = RegistryView {
            storage: vec![storage(1, "a:1"), storage(2, "c:1")],
            nodes: vec![router, gateway(8), gateway(9)],
            level: 1,
            ..Default::default()
        };
        let shards = vec![shard(0, "a:1"), shard(1, "a:1"), shard(2, "")];
        let release = Some(Release { version: "0.2.0".into(), level: 4 });
        let releases = vec![
            NodeRelease { kind: NodeKind::Router.into(), lease: 7, release: release.clone(), ..NodeRelease::default() },
            NodeRelease { kind: NodeKind::Gateway.into(), lease: 8, release, name: "web-1".into() },
            NodeRelease { kind: NodeKind::Gateway.into(), lease: 9, release: None, name: "10.0.3.7".into() },
        ];
        let status = StatusReply { registry: Some(registry), shards, silent: vec!["c:1".into()], releases };
        let lines: Vec<String> =
            show(&status).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert!(lines[0].contains("level 1"), "{lines:#?}");
        for line in [
            "storage 1 a:1 - - 2",
            "storage 2 c:1 - - does not answer",
            "router 7 b:2 0.2.0 4 slot 1",
            "gateway 8 web-1 0.2.0 4",
            "gateway 9 10.0.3.7 - -",
            "timeline-1 a:1",
            "timeline-2 none known",
        ] {
            assert!(lines.iter().any(|shown| shown == line), "{line} is not in {lines:#?}");
        }
    }
}
