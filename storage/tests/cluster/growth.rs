//! The members of a running cluster change, while it takes writes.

use std::{cell::Cell, collections::BTreeSet, fs};

use carillon_proto::{
    Readiness, ShardId,
    pb::{
        raft::{
            AddNodeRequest, MembersReply, MembersRequest, MoveShardRequest, RebalanceRequest, SetNodeStateRequest,
            cluster_admin_client::ClusterAdminClient,
        },
        store::storage_node::State,
    },
    peer::{AddToken, PeerSecurity, Tier},
};
use tonic::{Code, Status, service::interceptor::InterceptedService, transport::Channel};

use crate::{
    forgetful, quick,
    support::{Cluster, Node, eventually, free_addresses, snapshot_of, timeline_shard},
};

const USERS: [&str; 6] = ["alice", "bob", "carol", "dave", "erin", "frank"];

pub(crate) fn operator(cluster: &Cluster, node: usize) -> ClusterAdminClient<InterceptedService<Channel, AddToken>> {
    let security = PeerSecurity::from_secret(Tier::Operator, "a-secret-of-sixteen-or-more", None).expect("valid");
    let channel = security.channel(&cluster.nodes[node].address().to_string()).expect("an address");
    ClusterAdminClient::with_interceptor(channel, security.token())
}

/// Asks the running nodes, one after the other, until one does it.
pub(crate) async fn done<T>(
    cluster: &Cluster,
    call: impl AsyncFn(ClusterAdminClient<InterceptedService<Channel, AddToken>>) -> Result<T, Status>,
) -> T {
    eventually("it is done", || async {
        let mut last = None;
        for (number, _) in cluster.nodes.iter().enumerate().filter(|(_, node)| node.is_running()) {
            match call(operator(cluster, number)).await {
                Ok(answer) => return Ok(answer),
                Err(status) if status.code() == Code::Unavailable => last = Some(status),
                Err(status) if status.message().contains("the cluster is at level") => last = Some(status),
                Err(status) => panic!("{status}"),
            }
        }
        Err(last)
    })
    .await
}

async fn add(cluster: &Cluster, place: usize, replaces: u64) -> u64 {
    let address = cluster.nodes[place].address().to_string();
    let request = AddNodeRequest { address, replaces };
    done(cluster, async |mut client| Ok(client.add_node(request.clone()).await?.into_inner().node)).await
}

async fn set(cluster: &Cluster, node: u64, state: State) {
    let request = SetNodeStateRequest { node, state: state.into() };
    done(cluster, async |mut client| client.set_node_state(request).await.map(drop)).await;
}

pub(super) async fn rebalance(cluster: &Cluster) {
    done(cluster, async |mut client| client.rebalance(RebalanceRequest { on: true }).await.map(drop)).await;
}

pub(crate) async fn members(cluster: &Cluster) -> MembersReply {
    done(cluster, async |mut client| Ok(client.members(MembersRequest {}).await?.into_inner())).await
}

fn is_settled(members: &MembersReply) -> bool {
    let moves = members.placement.iter().flat_map(|placed| &placed.replicas).any(|it| it.joining || it.leaving);
    !moves && !members.rebalancing && members.nodes.iter().all(|node| node.state() == State::Active)
}

/// Writes of all users, one after the other, numbered without a gap.
#[derive(Default)]
struct Writing {
    written: Cell<u64>,
}

impl Writing {
    async fn write(&self, cluster: &Cluster) {
        let key = self.written.get();
        for user in USERS {
            assert_eq!(cluster.append(user, key).await.seq, key + 1);
        }
        self.written.set(key + 1);
    }

    /// Writes until the cluster is as it is to be.
    async fn until_settled(&self, cluster: &Cluster, wanted: impl Fn(&MembersReply) -> bool) -> MembersReply {
        eventually("the members are as they are to be", || async {
            self.write(cluster).await;
            let members = members(cluster).await;
            if is_settled(&members) && wanted(&members) { Ok(members) } else { Err(members) }
        })
        .await
    }

    async fn read_back(&self, cluster: &Cluster) {
        for user in USERS {
            let read = cluster.read(user).await;
            let seqs: Vec<u64> = read.entries.iter().map(|entry| entry.seq).collect();
            assert_eq!(seqs, (1..=self.written.get()).collect::<Vec<_>>(), "{user}");
        }
    }
}

fn on(members: &MembersReply, node: u64) -> usize {
    members.placement.iter().filter(|placed| placed.replicas.iter().any(|replica| replica.node == node)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_node_takes_its_share_and_the_first_one_leaves() {
    let mut cluster = Cluster::started(3, quick).await;
    let writing = Writing::default();
    writing.write(&cluster).await;
    let new = cluster.newcomer(free_addresses(1)[0]).await;
    let told = eventually("it says what it waits for", || async {
        match cluster.nodes[new].storage().ready().borrow().clone() {
            Readiness::NotReady(why) if why.contains("carillon cluster add") => Ok(why),
            other => Err(other),
        }
    })
    .await;
    assert!(told.contains(&cluster.nodes[new].address().to_string()), "{told}");
    assert_eq!(add(&cluster, new, 0).await, 4);
    assert_eq!(add(&cluster, new, 0).await, 4, "a repeat changes nothing");
    cluster.nodes[new].ready().await;
    rebalance(&cluster).await;
    let spread = writing.until_settled(&cluster, |members| on(members, 4) > 1).await;
    // Four shards besides the registry's, with three replicas each.
    for node in 1..=4 {
        assert_eq!(on(&spread, node), 4, "{spread:?}");
    }

    set(&cluster, 1, State::Leaving).await;
    let gone = |members: &MembersReply| members.nodes.iter().all(|node| node.node != 1);
    let after = writing.until_settled(&cluster, gone).await;
    assert_eq!(on(&after, 1), 0, "{after:?}");
    let told = eventually("the node knows that it has left", || async {
        match cluster.nodes[0].storage().ready().borrow().clone() {
            Readiness::NotReady(why) if why.contains("has left the cluster") => Ok(why),
            other => Err(other),
        }
    })
    .await;
    assert!(told.contains("stop it"), "{told}");
    cluster.nodes[0].stop().await;
    writing.write(&cluster).await;
    // The new one is as good as the others.
    cluster.nodes[1].stop().await;
    writing.write(&cluster).await;
    writing.read_back(&cluster).await;
    cluster.nodes[new].stop().await;
    cluster.nodes[1].start().await;
    cluster.nodes[1].ready().await;
    writing.write(&cluster).await;
    cluster.nodes[new].start().await;
    cluster.nodes[new].ready().await;
    writing.write(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_lost_is_replaced_by_one_at_its_address() {
    let mut cluster = Cluster::started(3, quick).await;
    let writing = Writing::default();
    for _ in 0..20 {
        writing.write(&cluster).await;
    }
    // The command ends at once, as all is spread. From its level on, members change.
    rebalance(&cluster).await;
    let members = members(&cluster).await;
    let address = cluster.nodes[1].address();
    let lost = members.nodes.iter().find(|node| node.address == address.to_string()).expect("is one").node;
    let request = AddNodeRequest { address: address.to_string(), replaces: lost };
    let alive = operator(&cluster, 0).add_node(request).await.expect_err("it answers");
    assert!(alive.message().contains("cluster remove"), "{alive}");

    cluster.nodes[1].stop().await;
    let new = cluster.newcomer(address).await;
    let told = eventually("it says what it waits for", || async {
        match cluster.nodes[new].storage().ready().borrow().clone() {
            Readiness::NotReady(why) if why.contains("cluster replace") => Ok(why),
            other => Err(other),
        }
    })
    .await;
    assert!(told.contains(&format!("cluster replace {lost} {address}")), "{told}");
    let refused = operator(&cluster, 0).add_node(AddNodeRequest { address: address.to_string(), replaces: 0 }).await;
    assert!(refused.expect_err("not without the other's leave").message().contains("replace that node"));
    let node = add(&cluster, new, lost).await;
    assert_eq!(node, 4);
    let after = writing.until_settled(&cluster, |members| members.nodes.iter().all(|node| node.node != lost)).await;
    assert_eq!(on(&after, node), 5, "{after:?}");
    cluster.nodes[new].ready().await;
    cluster.nodes[0].stop().await;
    writing.write(&cluster).await;
    writing.read_back(&cluster).await;
    // Its former disk does not come back.
    cluster.nodes[new].stop().await;
    cluster.nodes[0].start().await;
    cluster.nodes[1].start().await;
    let was_heard = eventually("the lost node is not ready", || async {
        match cluster.nodes[1].storage().ready().borrow().clone() {
            Readiness::NotReady(why) => Ok(why),
            other => Err(other),
        }
    })
    .await;
    assert!(!was_heard.is_empty());
    writing.write(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_run_any_more_leaves_when_it_is_declared_lost() {
    let mut cluster = Cluster::started(3, quick).await;
    let writing = Writing::default();
    writing.write(&cluster).await;
    let new = cluster.newcomer(free_addresses(1)[0]).await;
    add(&cluster, new, 0).await;
    cluster.nodes[2].stop().await;
    // Its replicas move without it, but it can't hear that it has left.
    set(&cluster, 3, State::Leaving).await;
    eventually("nothing but its replica of the registry is left", || async {
        writing.write(&cluster).await;
        let members = members(&cluster).await;
        let is_member = members.nodes.iter().any(|node| node.node == 3);
        if on(&members, 3) == 1 && is_member { Ok(()) } else { Err(members) }
    })
    .await;
    set(&cluster, 3, State::Lost).await;
    let gone = |members: &MembersReply| members.nodes.iter().all(|node| node.node != 3);
    let after = writing.until_settled(&cluster, gone).await;
    assert_eq!(on(&after, 4), 5, "{after:?}");
    writing.read_back(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_becomes_three() {
    let mut cluster = Cluster::alone(quick).await;
    let writing = Writing::default();
    for _ in 0..10 {
        writing.write(&cluster).await;
    }
    for address in free_addresses(2) {
        let new = cluster.newcomer(address).await;
        add(&cluster, new, 0).await;
    }
    rebalance(&cluster).await;
    let settled = |members: &MembersReply| members.placement.iter().all(|placed| placed.replicas.len() == 3);
    let after = writing.until_settled(&cluster, settled).await;
    let learners: BTreeSet<bool> =
        after.placement.iter().flat_map(|placed| &placed.replicas).map(|replica| replica.learner).collect();
    assert_eq!(learners, [false].into(), "all vote: {after:?}");
    for node in &cluster.nodes {
        node.ready().await;
    }
    cluster.nodes[0].stop().await;
    writing.write(&cluster).await;
    writing.read_back(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_is_refused_with_a_reason() {
    let mut cluster = Cluster::started(3, quick).await;
    members(&cluster).await;
    let shard = timeline_shard("alice");
    // Until the cluster has its rows.
    rebalance(&cluster).await;
    let mut client = operator(&cluster, 0);
    let leaving = SetNodeStateRequest { node: 2, state: State::Leaving.into() };
    let few = client.set_node_state(leaving).await.expect_err("two are too few");
    assert!(few.message().contains("add one first"), "{few}");
    let none = client.set_node_state(SetNodeStateRequest { node: 9, ..leaving }).await.expect_err("there is none");
    assert!(none.message().contains("no storage node 9"), "{none}");
    let group = shard.group();
    let same = MoveShardRequest { group, from_node: 1, to_node: 2 };
    let has = client.move_shard(same).await.expect_err("it has one");
    assert!(has.message().contains("has replica"), "{has}");
    let registry = MoveShardRequest { group: ShardId::REGISTRY.group(), ..same };
    let stays = client.move_shard(registry).await.expect_err("the registry");
    assert!(stays.message().contains("stays on all nodes"), "{stays}");
    let nowhere = free_addresses(1)[0].to_string();
    let silent = client.add_node(AddNodeRequest { address: nowhere, replaces: 0 }).await.expect_err("nobody is there");
    assert!(
        silent.code() == tonic::Code::FailedPrecondition && silent.message().contains("does not answer"),
        "{silent}"
    );
    let other = Cluster::alone(quick).await;
    let address = other.nodes[0].address().to_string();
    let belongs = client.add_node(AddNodeRequest { address, replaces: 0 }).await.expect_err("it has a cluster");
    assert!(belongs.message().contains("belongs to the cluster"), "{belongs}");
    let new = cluster.newcomer(free_addresses(1)[0]).await;
    let node = add(&cluster, new, 0).await;
    let moving = MoveShardRequest { group, from_node: 1, to_node: node };
    client.move_shard(moving).await.expect("it moves");
}

/// How many bytes of snapshots that are not whole are in the data folder.
fn parts(node: &Node) -> Option<u64> {
    let files = fs::read_dir(node.config.data_dir.join("snapshots")).into_iter().flatten().flatten();
    let parts = files.filter(|file| file.file_name().to_string_lossy().contains(".part-"));
    parts.map(|file| file.metadata().map_or(0, |meta| meta.len())).reduce(|sum, bytes| sum + bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_to_a_new_node_goes_on_where_it_stopped() {
    const RATE: u64 = 1 << 20;
    let mut cluster = Cluster::started(3, |config| {
        forgetful(config);
        config.snapshot_bytes_per_second = RATE;
    })
    .await;
    rebalance(&cluster).await;
    // With a second snapshot a log ends where the first one did: a new replica gets a snapshot.
    let (mut key, mut made) = (0, [None; 3]);
    for upto in [20, 200] {
        while key < upto {
            cluster.append_noise("alice", key, 60_000).await;
            key += 1;
        }
        for (node, made) in cluster.nodes.iter().zip(&mut made) {
            *made = Some(snapshot_of(node, "alice", *made).await);
        }
    }
    let shard = timeline_shard("alice");
    let placed = async || {
        let placement = members(&cluster).await.placement;
        placement.into_iter().find(|placed| placed.shard == Some(shard.to_pb())).expect("is placed")
    };
    // From then on the lead stays where it is.
    let leader = eventually("the preferred node leads", || async {
        let (leader, placed) = (cluster.leader_of("alice").await as u64 + 1, placed().await);
        let preferred = placed.replicas.iter().find(|replica| replica.id == placed.preferred);
        if preferred.is_some_and(|replica| replica.node == leader) { Ok(leader) } else { Err(placed) }
    })
    .await;
    let new = cluster.newcomer(free_addresses(1)[0]).await;
    let node = add(&cluster, new, 0).await;
    let moving = MoveShardRequest { group: shard.group(), from_node: leader % 3 + 1, to_node: node };
    done(&cluster, async |mut client| client.move_shard(moving).await.map(drop)).await;
    eventually("some of it is there", || async {
        parts(&cluster.nodes[new]).filter(|bytes| *bytes > RATE).ok_or("not yet")
    })
    .await;
    cluster.nodes[new].stop().await;
    let before = parts(&cluster.nodes[new]).expect("it stays");
    cluster.nodes[new].start().await;
    let whole = cluster.nodes[new].config.data_dir.join(format!("snapshots/{shard}.snapshot"));
    eventually("the rest comes", || async {
        let now = parts(&cluster.nodes[new]);
        assert!(now.is_none_or(|now| now >= before), "it was begun anew: {now:?} of {before}");
        fs::metadata(&whole).map(drop).map_err(|_| now)
    })
    .await;
    eventually("it has joined", || async {
        let members = members(&cluster).await;
        if is_settled(&members) && on(&members, node) == 2 { Ok(()) } else { Err(members) }
    })
    .await;
}
