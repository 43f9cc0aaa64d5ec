//! The cluster is data: it is made once, its nodes move, its replicas come and go.

use std::net::SocketAddr;

use crate::{
    quick,
    support::{Cluster, MAP, append, eventually, free_addresses, timeline_shard},
};
use carillon_proto::{
    Level, Readiness, ShardId,
    pb::{
        raft::{
            self as pb, AnnounceRequest, AssignRequest, CarryRequest, DescribeRequest, Member,
            bootstrap_client::BootstrapClient,
        },
        store::{
            DirectoryCommand, FoundCluster, RemoveReplica, SetLevel, StorageNode, StoreError, directory_command,
            store_error::Why, store_reply::Result as Outcome, store_request::Op,
        },
    },
    peer::{AddToken, PeerSecurity, Tier},
};
use carillon_storage::FoundError;
use prost::Message as _;
use tonic::{Code, service::interceptor::InterceptedService, transport::Channel};

/// Gives the node this address for its next start.
fn move_to(cluster: &mut Cluster, node: usize, address: SocketAddr) {
    let config = &mut cluster.nodes[node].config;
    let before = config.listen.to_string();
    config.listen = address;
    config.members.iter_mut().filter(|member| **member == before).for_each(|member| *member = address.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_disks_wait_until_a_cluster_is_made_and_it_is_made_once() {
    let mut cluster = Cluster::new(3, quick);
    for node in 0..2 {
        cluster.nodes[node].start().await;
    }
    for node in &cluster.nodes[..2] {
        let told = eventually("it says what it waits for", || async {
            match node.storage().ready().borrow().clone() {
                Readiness::NotReady(why) if why.contains("carillon cluster init") => Ok(why),
                other => Err(other),
            }
        })
        .await;
        assert!(told.contains("disk is empty"), "{told}");
    }
    let incomplete = cluster.nodes[0].storage().found().await.expect_err("one is not there");
    assert!(matches!(incomplete, FoundError::NotAll(_)), "{incomplete}");
    cluster.nodes[2].start().await;
    cluster.nodes[0].found().await;
    for node in &cluster.nodes {
        node.ready().await;
    }
    assert_eq!(cluster.append("alice", 1).await.seq, 1);
    for node in &cluster.nodes {
        let again = node.storage().found().await.expect_err("it is made");
        assert!(matches!(again, FoundError::Exists(_)), "{again}");
    }
}

/// A client with the token of the storage nodes.
fn bootstrap(address: SocketAddr) -> BootstrapClient<InterceptedService<Channel, AddToken>> {
    let security = PeerSecurity::from_secret(Tier::Storage, "a-secret-of-sixteen-or-more", None).expect("valid");
    let channel = security.channel(&address.to_string()).expect("an address");
    BootstrapClient::with_interceptor(channel, security.token())
}

/// Starts the nodes. Returns the cluster that the first one is making of them.
async fn begun(cluster: &mut Cluster) -> pb::Cluster {
    let mut members = Vec::new();
    for (node, number) in cluster.nodes.iter_mut().zip(1..) {
        node.start().await;
        let address = node.address();
        let disk = bootstrap(address).describe(DescribeRequest {}).await.expect("answers").into_inner().disk;
        members.push(Member { node: number, address: address.to_string(), disk, ..Member::default() });
    }
    pb::Cluster {
        id: "0123456789abcdef".into(),
        directory_shards: MAP.directory.into(),
        timeline_shards: MAP.timeline.into(),
        members,
        level: Level::OF_PROGRAM.0,
    }
}

/// Sends this node its place in the cluster.
async fn assign(cluster: &Cluster, made: &pb::Cluster, node: usize) {
    let Member { disk, node: number, .. } = made.members[node].clone();
    let assign = AssignRequest { disk, cluster: Some(made.clone()), node: number, level: 0 };
    bootstrap(cluster.nodes[node].address()).assign(assign).await.expect("takes its place");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_maker_that_was_stopped_before_it_took_its_own_place_takes_it_when_it_is_back() {
    let mut cluster = Cluster::new(3, quick);
    let made = begun(&mut cluster).await;
    cluster.nodes[0].stop().await;
    for node in [1, 2] {
        assign(&cluster, &made, node).await;
    }
    cluster.nodes[0].start().await;
    for node in &cluster.nodes {
        node.ready().await;
    }
    assert_eq!(cluster.append("alice", 1).await.seq, 1);
    let again = cluster.nodes[0].storage().found().await.expect_err("it is made");
    assert!(matches!(again, FoundError::Exists(_)), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_making_that_was_interrupted_goes_on_when_it_is_done_again() {
    let mut cluster = Cluster::new(3, quick);
    let made = begun(&mut cluster).await;
    // Without the list, these nodes find no other node.
    for node in &mut cluster.nodes[1..] {
        node.stop().await;
        node.config.members.clear();
    }
    // The first node has written the cluster down, but was stopped before it told the others.
    assign(&cluster, &made, 0).await;
    cluster.nodes[0].stop().await;
    cluster.nodes[0].start().await;
    let incomplete = cluster.nodes[0].storage().found().await.expect_err("two are not there");
    assert!(matches!(incomplete, FoundError::NotAll(_)), "{incomplete}");
    for node in &mut cluster.nodes[1..] {
        node.start().await;
    }
    // The first node also sends the places by itself, and may have been faster.
    let again = cluster.nodes[0].storage().found().await;
    assert!(matches!(again, Ok(()) | Err(FoundError::Exists(_))), "{again:?}");
    for node in &cluster.nodes {
        node.ready().await;
    }
    cluster.nodes[1].stop().await;
    assert_eq!(cluster.append("alice", 1).await.seq, 1, "two of three");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_clusters_that_are_made_at_once_there_is_one_in_the_end() {
    let mut cluster = Cluster::new(3, quick);
    for node in &mut cluster.nodes {
        node.start().await;
    }
    let [one, other] = [0, 1].map(|node| cluster.nodes[node].storage());
    // Both may be refused, because a node that makes a cluster takes no place in another one.
    let _ = tokio::join!(one.found(), other.found());
    eventually("the cluster is made", || async {
        match one.found().await {
            Ok(()) | Err(FoundError::Exists(_)) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
    let mut places = Vec::new();
    for node in &cluster.nodes {
        node.ready().await;
        let identity = bootstrap(node.address()).describe(DescribeRequest {}).await.expect("answers").into_inner();
        places.push((identity.cluster.expect("belongs to one").id, identity.node));
    }
    places.sort();
    assert!(places.windows(2).all(|two| two[0].0 == two[1].0 && two[0].1 < two[1].1), "{places:?}");
    assert_eq!(cluster.append("alice", 1).await.seq, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_under_two_names_is_refused() {
    let mut cluster = Cluster::new(1, quick);
    let port = cluster.nodes[0].config.listen.port();
    cluster.nodes[0].config.members.push(format!("localhost:{port}"));
    cluster.nodes[0].start().await;
    let refused = cluster.nodes[0].storage().found().await.expect_err("it is one node").to_string();
    assert!(refused.contains("are the same storage node"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_waited_for_its_place_stops_in_order() {
    let mut cluster = Cluster::new(1, quick);
    cluster.nodes[0].start().await;
    let lock = cluster.nodes[0].config.data_dir.join("lock");
    assert_ne!(std::fs::read(&lock).expect("reads"), b"", "it runs");
    cluster.nodes[0].drain_and_stop().await;
    assert_eq!(std::fs::read(&lock).expect("reads"), b"", "the next start does not take it for killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_disk_at_an_old_address_waits() {
    let mut cluster = Cluster::started(3, quick).await;
    cluster.nodes[2].stop().await;
    let old = cluster.nodes[2].config.data_dir.clone();
    cluster.nodes[2].config.data_dir = cluster.path("empty");
    cluster.nodes[2].start().await;
    let why = eventually("the node waits", || async {
        match cluster.nodes[2].storage().ready().borrow().clone() {
            Readiness::NotReady(why) if why.contains("another disk") => Ok(why),
            other => Err(other),
        }
    })
    .await;
    assert!(why.contains("its old data folder") && why.contains("cluster replace"), "{why}");
    cluster.nodes[2].stop().await;
    cluster.nodes[2].config.data_dir = old;
    cluster.nodes[2].start().await;
    cluster.nodes[2].ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_at_another_address_is_found_and_counts() {
    let mut cluster = Cluster::started(3, quick).await;
    for key in 0..10 {
        cluster.append("alice", key).await;
    }
    let leader = cluster.leader_of("alice").await;
    cluster.nodes[leader].stop().await;
    let address = free_addresses(1)[0];
    move_to(&mut cluster, leader, address);
    cluster.nodes[leader].start().await;
    cluster.nodes[leader].ready().await;
    for node in &cluster.nodes {
        node.view("the new address", |view| view.storage.iter().any(|node| node.address == address.to_string())).await;
    }
    // Without one of the unmoved nodes, the moved one is half of the majority.
    cluster.nodes[(leader + 1) % 3].stop().await;
    assert_eq!(cluster.append("alice", 10).await.seq, 11);
    assert_eq!(cluster.read("alice").await.entries.len(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_may_move_at_once() {
    let mut cluster = Cluster::started(3, quick).await;
    assert_eq!(cluster.append("alice", 0).await.seq, 1);
    // So that each node knows the others' addresses only from the rows.
    for node in &cluster.nodes {
        node.view("the rows", |view| view.level > 0).await;
    }
    for node in &mut cluster.nodes {
        node.stop().await;
    }
    let addresses = free_addresses(3);
    let members: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    for (node, address) in cluster.nodes.iter_mut().zip(addresses) {
        node.config.listen = address;
        node.config.members = members.clone();
        node.start().await;
    }
    for node in &cluster.nodes {
        node.ready().await;
    }
    assert_eq!(cluster.append("alice", 1).await.seq, 2);
    for node in &cluster.nodes {
        node.view("the new addresses", |view| view.storage.iter().all(|node| members.contains(&node.address))).await;
    }
}

/// Sends the command as one storage node does to the others, until one carries it out.
async fn carry(cluster: &Cluster, op: directory_command::Op) -> Outcome {
    let command = DirectoryCommand { op: Some(op) }.encode_to_vec();
    eventually("the command is carried out", || async {
        let mut last = None;
        for node in cluster.nodes.iter().filter(|node| node.is_running()) {
            match bootstrap(node.address()).carry(CarryRequest { command: command.clone().into() }).await {
                Ok(reply) => return Ok(reply.into_inner().reply.and_then(|reply| reply.result).expect("an outcome")),
                Err(status) => last = Some(status),
            }
        }
        Err(last)
    })
    .await
}

async fn replicas(cluster: &Cluster, shard: ShardId, what: &str, wanted: impl Fn(&[u64]) -> bool) -> Vec<u64> {
    let of = |view: &carillon_proto::pb::store::RegistryView| -> Vec<u64> {
        let placed = view.placement.iter().find(|placed| placed.shard == Some(shard.to_pb())).expect("is placed");
        placed.replicas.iter().map(|replica| replica.id).collect()
    };
    of(&cluster.nodes[0].view(what, |view| !view.placement.is_empty() && wanted(&of(view))).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_leaves_and_comes_back_as_another_one_while_the_shard_goes_on() {
    let mut cluster = Cluster::started(3, quick).await;
    let shard = timeline_shard("alice");
    for key in 0..20 {
        cluster.append("alice", key).await;
    }
    // The replica of the leader is removed.
    let node = cluster.leader_of("alice").await;
    let id = cluster.nodes[node].view("itself", |view| !view.storage.is_empty()).await;
    let id = id
        .storage
        .iter()
        .find(|other| other.address == cluster.nodes[node].address().to_string())
        .expect("is one")
        .lease;
    cluster.nodes[0].view("the rows", |view| view.level > 0).await;
    let remove = RemoveReplica { group: shard.group(), replica: id };
    let outcome = carry(&cluster, directory_command::Op::RemoveReplica(remove)).await;
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    for key in 20..40 {
        assert_eq!(cluster.append("alice", key).await.seq, key + 1);
    }
    // The shard lacks a replica, and only this node has none of it. The new one has an id that no node has.
    let is_another = |replicas: &[u64]| !replicas.contains(&id) && replicas.iter().any(|replica| *replica > 63);
    let replicas = replicas(&cluster, shard, "the new one", is_another).await;
    let placed = replicas.into_iter().max().expect("has some");
    // The new replica votes as soon as it has caught up; then it and one of the others are a majority.
    let other = (node + 1) % 3;
    eventually("the new replica is a member", || async {
        match cluster.nodes[node].ask(shard, Op::Timeline(append("alice", 0))).await {
            Some(Outcome::Error(StoreError { why: Some(Why::NotLeader(not)) })) if !not.leader.is_empty() => Ok(()),
            Some(Outcome::Appended(_)) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    cluster.nodes[node].ready().await;
    for key in 40..60 {
        assert_eq!(cluster.append("alice", key).await.seq, key + 1);
    }
    eventually("it has a vote", || async {
        let led = cluster.leads(shard).await;
        if led.iter().any(|led| led.voters.contains(&placed)) { Ok(()) } else { Err(led) }
    })
    .await;
    cluster.nodes[other].stop().await;
    assert_eq!(cluster.append("alice", 60).await.seq, 61);
    assert_eq!(cluster.read("alice").await.entries.len(), 61);
    // The node has the same after a restart from its own disk.
    cluster.nodes[node].stop().await;
    cluster.nodes[node].start().await;
    cluster.nodes[node].ready().await;
    assert_eq!(cluster.append("alice", 61).await.seq, 62);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_neither_sets_a_level_nor_makes_the_rows_nor_tells_an_address_that_is_none() {
    let cluster = Cluster::alone(quick).await;
    cluster.nodes[0].view("the rows", |view| view.level > 0).await;
    let mut node = bootstrap(cluster.nodes[0].address());
    let identity = node.describe(DescribeRequest {}).await.expect("answers").into_inner();
    for op in [
        directory_command::Op::SetLevel(SetLevel { level: 1 }),
        directory_command::Op::FoundCluster(FoundCluster {
            members: vec![StorageNode {
                node: 1,
                disk: identity.disk.clone(),
                address: "x:1".into(),
                level: 1,
                ..StorageNode::default()
            }],
            directory_shards: MAP.directory.into(),
            timeline_shards: MAP.timeline.into(),
        }),
    ] {
        let command = DirectoryCommand { op: Some(op) }.encode_to_vec().into();
        let refused = node.carry(CarryRequest { command }).await.expect_err("the leader's own");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let announced = AnnounceRequest {
        cluster: identity.cluster.expect("belongs to one").id,
        node: identity.node,
        disk: identity.disk,
        address: "nowhere".into(),
    };
    let refused = node.announce(announced).await.expect_err("no address");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_does_not_change_the_cluster() {
    let cluster = Cluster::alone(quick).await;
    let remove =
        directory_command::Op::RemoveReplica(RemoveReplica { group: timeline_shard("alice").group(), replica: 1 });
    let asked = Op::Directory(DirectoryCommand { op: Some(remove) });
    let outcome = cluster.nodes[0].ask(ShardId::REGISTRY, asked).await;
    assert!(matches!(outcome, Some(Outcome::Error(StoreError { why: Some(Why::Rejected(_)) }))), "{outcome:?}");
}
