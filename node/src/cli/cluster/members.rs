//! The members of a cluster, and where its replicas are.

use std::time::Duration;

use anyhow::bail;
use carillon_proto::{
    ShardId,
    pb::{
        raft::{MembersReply, MembersRequest, cluster_admin_client::ClusterAdminClient},
        store::{Placed, Replica, StorageNode, storage_node::State},
    },
    peer::AddToken,
};
use clap::Args;
use tonic::{Code, Request, Status as Refusal, service::interceptor::InterceptedService, transport::Channel};

use super::{
    super::{
        callees::{Callees, with_deadline},
        out,
    },
    init::members_of,
    leads::{Leader, Leads},
    level::{outlook, program},
};
use crate::Config;

pub(super) type Client = ClusterAdminClient<InterceptedService<Channel, AddToken>>;

/// Longer than a storage node waits for the registry and for another node.
const DEADLINE: Duration = Duration::from_secs(20);

/// The storage nodes to ask.
pub(in super::super) struct Nodes(Callees);

#[derive(Args)]
pub(super) struct Asked {
    /// host:port of a storage node of the cluster; otherwise storage.members, or this node.
    #[arg(long, value_name = "HOST:PORT")]
    node: Option<String>,
}

impl Nodes {
    pub(super) fn of(config: &Config, asked: Asked) -> anyhow::Result<Self> {
        let addresses = asked.node.map_or_else(|| members_of(config), |node| vec![node]);
        Self::among(config, addresses)
    }

    /// The storage node at this address, and no other.
    pub(super) fn at(config: &Config, address: &str) -> anyhow::Result<Self> {
        Self::among(config, vec![address.to_owned()])
    }

    pub(in super::super) fn among(config: &Config, addresses: Vec<String>) -> anyhow::Result<Self> {
        Ok(Self(Callees::new(config, "storage node", "storage.members", addresses)?))
    }

    /// Asks one storage node after the other until one answers. `call` must be idempotent.
    pub(super) async fn ask<T>(&self, call: impl AsyncFn(Client) -> Result<T, Refusal>) -> anyhow::Result<T> {
        let asking = async |channel, token| call(ClusterAdminClient::with_interceptor(channel, token)).await;
        match self.0.ask(asking).await? {
            Ok(answer) => Ok(answer),
            Err(status) if status.code() == Code::Unimplemented => {
                bail!("the storage nodes run a release that does not know this command")
            }
            Err(status) => bail!("{}", status.message()),
        }
    }

    pub(in super::super) async fn members(&self) -> anyhow::Result<MembersReply> {
        self.ask(async |mut client| Ok(client.members(timed(MembersRequest {})).await?.into_inner())).await
    }
}

pub(super) fn timed<T>(message: T) -> Request<T> {
    with_deadline(message, DEADLINE)
}

/// Shows the storage nodes of the cluster, what is on each, and what is moving.
#[derive(Args)]
pub(super) struct Status {
    #[command(flatten)]
    asked: Asked,
    /// Also lists each shard with its replicas.
    #[arg(long)]
    shards: bool,
    /// Prints all of it, the shards too, as one JSON object.
    #[arg(long, conflicts_with = "shards")]
    json: bool,
}

impl Status {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let members = Nodes::of(config, self.asked)?.members().await?;
        if self.json { out::line(json(&members)) } else { out::print(show(&members, self.shards)) }
    }
}

/// Replicas that join or leave their shards.
pub(super) fn moving(members: &MembersReply) -> usize {
    let replicas = members.placement.iter().flat_map(|placed| &placed.replicas);
    replicas.filter(|replica| replica.joining || replica.leaving).count()
}

/// What the cluster is still doing, if anything: spreading shards, moving replicas, emptying nodes.
pub(super) fn unfinished(members: &MembersReply) -> Option<String> {
    let leaving = members.nodes.iter().find(|node| node.state() != State::Active);
    if members.rebalancing {
        return Some(format!("shards are being spread, {} replicas move", moving(members)));
    }
    if moving(members) > 0 {
        return Some(format!("{} replicas move", moving(members)));
    }
    leaving.map(|node| format!("storage node {} has {} replicas", node.node, replicas_on(members, node.node).count()))
}

pub(super) fn replicas_on(members: &MembersReply, node: u64) -> impl Iterator<Item = (&Placed, &Replica)> {
    members.placement.iter().flat_map(move |placed| {
        placed.replicas.iter().filter(move |replica| replica.node == node).map(move |replica| (placed, replica))
    })
}

/// Faults of the cluster at this moment: nodes that do not answer or can't keep up, shards that nobody leads.
fn troubles(members: &MembersReply, leads: &Leads) -> Vec<String> {
    let of = |what: &str, nodes: Vec<u64>| {
        let numbers: Vec<String> = nodes.iter().map(u64::to_string).collect();
        let kind = match numbers.len() {
            0 => return None,
            1 => "storage node",
            _ => "storage nodes",
        };
        Some(format!("{kind} {} {what}", numbers.join(", ")))
    };
    let lost = |node: u64| members.nodes.iter().any(|row| row.node == node && row.state() == State::Lost);
    let silent: Vec<u64> = members.silent.iter().copied().filter(|node| !lost(*node)).collect();
    let silence = if silent.len() == 1 { "does not answer" } else { "do not answer" };
    let nobody = leads.without_leader();
    let nobody = (!nobody.is_empty()).then(|| format!("nobody who answers leads {}", shortened(&nobody)));
    [of(silence, silent), of("can't keep up", members.slow.clone()), nobody].into_iter().flatten().collect()
}

/// The first of these names, and how many follow.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len() - names.len().min(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

pub(super) fn show(members: &MembersReply, shards: bool) -> String {
    let leads = Leads::of(members);
    let mut state: Vec<String> = unfinished(members).into_iter().chain(troubles(members, &leads)).collect();
    if state.is_empty() {
        state.push("settled".to_owned());
    }
    let mut text = format!(
        "cluster {}, level {}, registry version {}; {}\n{}\n{:>4}  {:<9}  {:<12}  {:<9}  {:>5}  {:>8}  {:>5}  {:>7}  {:>7}  {:>7}  ADDRESS\n",
        members.cluster,
        members.level,
        members.version,
        state.join("; "),
        match outlook(members) {
            said if said.is_empty() => said,
            said => format!("{said}\n"),
        },
        "NODE",
        "STATE",
        "ZONE",
        "RELEASE",
        "READS",
        "REPLICAS",
        "LEADS",
        "TO LEAD",
        "JOINING",
        "LEAVING"
    );
    for node in &members.nodes {
        let on = |of: fn(&Replica) -> bool| replicas_on(members, node.node).filter(|(_, replica)| of(replica)).count();
        let to_lead =
            replicas_on(members, node.node).filter(|(placed, replica)| placed.preferred == replica.id).count();
        let remark = match node.node {
            silent if members.silent.contains(&silent) => "  does not answer",
            slow if members.slow.contains(&slow) => "  can't keep up",
            _ => "",
        };
        text.push_str(&format!(
            "{:>4}  {:<9}  {:<12}  {:<9}  {:>5}  {:>8}  {:>5}  {:>7}  {:>7}  {:>7}  {}{}\n",
            node.node,
            state_of(node),
            or_dash(&node.zone),
            program(members, node.node).map_or("-", |program| or_dash(&program.release)),
            program(members, node.node).map_or("-".to_owned(), |program| program.reads_level.to_string()),
            on(|_| true),
            leads.shown(node.node),
            to_lead,
            on(|replica| replica.joining),
            on(|replica| replica.leaving),
            node.address,
            remark
        ));
    }
    if shards {
        text.push_str(&format!("\n{:<14}  {:<6}  REPLICAS (node; * should lead)\n", "SHARD", "LEADER"));
        for placed in &members.placement {
            let replicas: Vec<String> = placed.replicas.iter().map(|replica| shown(placed, replica)).collect();
            let leader = leads.leader_of(placed).to_string();
            text.push_str(&format!("{:<14}  {leader:<6}  {}\n", name_of(placed), replicas.join(", ")));
        }
    }
    text
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

pub(super) fn name_of(placed: &Placed) -> String {
    placed.shard.as_ref().and_then(ShardId::from_pb).map_or("?".to_owned(), |shard| shard.to_string())
}

fn shown(placed: &Placed, replica: &Replica) -> String {
    let star = if placed.preferred == replica.id { "*" } else { "" };
    let what = match what_of(replica) {
        "votes" => String::new(),
        what => format!(" {what}"),
    };
    format!("{}{star}{what}", replica.node)
}

/// What a replica does, or is about to do.
fn what_of(replica: &Replica) -> &'static str {
    match replica {
        Replica { leaving: true, .. } => "leaving",
        Replica { joining: true, .. } => "joining",
        Replica { learner: true, .. } => "learns",
        _ => "votes",
    }
}

/// The same as the table, as JSON. `left` is what the cluster is still doing, `null` when nothing is left; `troubles` is what is
/// wrong beside that. `leads` of a node and `leader` of a shard are `null` if there is none or nobody knows; `has_leader` tells the two apart.
pub(in super::super) fn json(members: &MembersReply) -> serde_json::Value {
    let leads = Leads::of(members);
    let node = |node: &StorageNode| {
        serde_json::json!({
            "node": node.node,
            "state": state_of(node),
            "zone": node.zone,
            "address": node.address,
            "answers": !members.silent.contains(&node.node),
            "slow": members.slow.contains(&node.node),
            "leads": leads.count(node.node),
        })
    };
    let shard = |placed: &Placed| {
        let replica = |replica: &Replica| {
            let should_lead = placed.preferred == replica.id;
            serde_json::json!({ "node": replica.node, "state": what_of(replica), "should_lead": should_lead })
        };
        let replicas: Vec<_> = placed.replicas.iter().map(replica).collect();
        let (leader, has_leader) = match leads.leader_of(placed) {
            Leader::Node(node) => (Some(node), Some(true)),
            Leader::Nobody => (None, Some(false)),
            Leader::Untold => (None, None),
        };
        serde_json::json!({ "shard": name_of(placed), "leader": leader, "has_leader": has_leader, "replicas": replicas })
    };
    serde_json::json!({
        "cluster": members.cluster,
        "level": members.level,
        "version": members.version,
        "left": unfinished(members),
        "troubles": troubles(members, &leads),
        "nodes": members.nodes.iter().map(node).collect::<Vec<_>>(),
        "shards": members.placement.iter().map(shard).collect::<Vec<_>>(),
    })
}

fn state_of(node: &StorageNode) -> &'static str {
    match node.state() {
        State::Active => "active",
        State::Leaving => "leaving",
        State::Lost => "lost",
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::{
        ShardKind,
        pb::raft::{Lead, Leads as Told, Program},
    };

    use super::*;

    #[test]
    fn the_table_shows_what_moves_and_who_does_not_answer() {
        let shard = ShardId { kind: ShardKind::Timeline, index: 3 };
        let replica = |id, node| Replica { id, node, ..Replica::default() };
        let replicas = vec![
            replica(1, 1),
            Replica { leaving: true, ..replica(2, 2) },
            replica(3, 3),
            Replica { joining: true, ..replica(640, 4) },
        ];
        let node = |node, state: State| StorageNode {
            node,
            address: format!("s{node}:1"),
            state: state.into(),
            ..StorageNode::default()
        };
        let led = Told { led: vec![Lead { group: shard.group(), term: 7 }] };
        let members = MembersReply {
            nodes: vec![
                node(1, State::Active),
                node(2, State::Lost),
                StorageNode { zone: "a".into(), ..node(3, State::Active) },
                node(4, State::Active),
            ],
            placement: vec![Placed { shard: Some(shard.to_pb()), replicas, preferred: 1 }],
            silent: vec![2, 3],
            slow: vec![4],
            programs: vec![
                Program { node: 1, release: "0.3.0".into(), reads_level: 4, leads: Some(led) },
                Program { node: 4, release: "0.2.0".into(), reads_level: 4, leads: None },
            ],
            ..MembersReply::default()
        };
        let lines = |shards| -> Vec<String> {
            let text = show(&members, shards);
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
        };
        for line in [
            "the level can't rise: storage node 3 does not answer",
            "1 active - 0.3.0 4 1 1 1 0 0 s1:1",
            "2 lost - - - 1 - 0 0 1 s2:1 does not answer",
            "3 active a - - 1 - 0 0 0 s3:1 does not answer",
            "4 active - 0.2.0 4 1 ? 0 1 0 s4:1 can't keep up",
            "timeline-3 1 1*, 2 leaving, 3, 4 joining",
        ] {
            assert!(lines(true).iter().any(|shown| shown == line), "{line} is not in {:#?}", lines(true));
        }
        assert!(!lines(false).iter().any(|line| line.starts_with("timeline-3")));
        let first = &lines(false)[0];
        let said = "; 2 replicas move; storage node 3 does not answer; storage node 4 can't keep up";
        assert!(first.ends_with(said), "{first}");
        let json = json(&members);
        assert_eq!(json["left"], "2 replicas move");
        assert_eq!(json["nodes"][1]["answers"], false);
        assert_eq!([&json["nodes"][2]["slow"], &json["nodes"][3]["slow"]], [false, true]);
        assert_eq!([&json["nodes"][0]["leads"], &json["nodes"][3]["leads"]], [&1.into(), &serde_json::Value::Null]);
        assert_eq!(json["troubles"].as_array().map(Vec::len), Some(2));
        let third = &json["shards"][0];
        assert_eq!((&third["leader"], &third["has_leader"]), (&1.into(), &true.into()));
        assert_eq!((&third["shard"], &third["replicas"][3]["state"]), (&"timeline-3".into(), &"joining".into()));
        let settled = show(&MembersReply::default(), false);
        assert!(settled.lines().next().is_some_and(|line| line.ends_with("; settled")), "{settled}");
    }

    /// A cluster in which nothing moves, but which does not serve as it should, is not settled.
    #[test]
    fn a_cluster_with_a_slow_node_or_a_shard_without_leader_is_not_settled() {
        let shard = |index| ShardId { kind: ShardKind::Timeline, index };
        let placed = |index| Placed {
            shard: Some(shard(index).to_pb()),
            replicas: vec![Replica { id: 1, node: 1, ..Replica::default() }],
            preferred: 1,
        };
        let members = |slow: Vec<u64>, led: &[u16], shards: u16| {
            let led = led.iter().map(|index| Lead { group: shard(*index).group(), term: 1 }).collect();
            MembersReply {
                nodes: vec![StorageNode { node: 1, ..StorageNode::default() }],
                programs: vec![Program { node: 1, leads: Some(Told { led }), ..Program::default() }],
                placement: (0..shards).map(placed).collect(),
                slow,
                ..MembersReply::default()
            }
        };
        let first = |members| show(&members, false).lines().next().expect("a line").to_owned();
        assert!(first(members(vec![], &[0, 1], 2)).ends_with("; settled"));
        let slow = first(members(vec![1], &[0, 1], 2));
        assert!(slow.ends_with("; storage node 1 can't keep up"), "{slow}");
        let leaderless = first(members(vec![], &[0], 2));
        assert!(leaderless.ends_with("; nobody who answers leads timeline-1"), "{leaderless}");
        let many = first(members(vec![], &[], 7));
        assert!(many.ends_with("timeline-3, timeline-4 and 2 more"), "{many}");
        assert_eq!(json(&members(vec![1], &[], 1))["left"], serde_json::Value::Null, "there is nothing to wait for");
    }
}
