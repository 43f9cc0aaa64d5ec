//! A fourth node comes, and then shards move among the four, one after the other: nodes are killed meanwhile.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use carillon_proto::{
    ShardId,
    pb::{
        raft::{
            AddNodeRequest, MembersReply, MembersRequest, MoveShardRequest, RebalanceRequest,
            cluster_admin_client::ClusterAdminClient,
        },
        store::Placed,
    },
    peer::{AddToken, PeerSecurity, Tier},
};
use tokio::{
    runtime::Runtime,
    time::{sleep, timeout},
};
use tonic::{Status, service::interceptor::InterceptedService, transport::Channel};

use crate::{
    Folder, Moments,
    cluster::started,
    kills::{address, runtime},
    ledger::Ledger,
    load::{Extent, check, write_more},
    node::Node,
    rounds,
};

/// The secret of the processes of these tests.
const SECRET: &str = "a-secret-of-sixteen-or-more";
/// Nodes that the cluster is made of; the last one comes later.
const FIRST: usize = 3;
/// Rounds on the same folders.
const LIFE: u64 = 10;
const DEADLINE: Duration = Duration::from_secs(60);

type Operator = ClusterAdminClient<InterceptedService<Channel, AddToken>>;

#[test]
fn kills_while_a_node_comes_and_shards_move_lose_nothing() {
    let (runtime, mut moments, mut left) = (runtime(), Moments::new(), rounds(2));
    while left > 0 {
        let rounds = left.min(LIFE);
        kill_during_moves(&runtime, &mut moments, rounds);
        left -= rounds;
    }
}

fn kill_during_moves(runtime: &Runtime, moments: &mut Moments, rounds: u64) {
    let folder = Folder::new("moves");
    let addresses: Vec<_> = (0..=FIRST).map(|host| address(40 + host as u8)).collect();
    let mut nodes = started(&folder, &addresses, FIRST);
    let mut ledger = Ledger::new(6, moments.next(), 1500);
    runtime.block_on(write_more(&addresses, &mut ledger, 20));

    // The new node is killed when it may have its place, and when it may have some replicas.
    nodes[FIRST].start();
    let new = AddNodeRequest { address: addresses[FIRST].to_string(), replaces: 0 };
    runtime.block_on(done(&addresses[..FIRST], async |mut node| node.add_node(new.clone()).await.map(drop)));
    strike(&mut nodes, FIRST, moments, Duration::from_millis(200));
    runtime.block_on(done(&addresses, async |mut node| node.rebalance(RebalanceRequest { on: true }).await.map(drop)));
    strike(&mut nodes, FIRST, moments, Duration::from_secs(1));
    runtime.block_on(write_more(&addresses, &mut ledger, 20));

    let (mut midway, mut round) = (0, 0);
    while round < rounds || midway == 0 {
        round += 1;
        assert!(round <= rounds + 10, "no kill struck while a shard moved");
        let members = runtime.block_on(settled(&addresses));
        let moved = a_move(&members, moments);
        runtime.block_on(done(&addresses, async |mut node| node.move_shard(moved).await.map(drop)));
        thread::sleep(moments.below(Duration::from_millis(600)));
        midway += u64::from(!is_settled(&runtime.block_on(members_of(&addresses))));
        let victim = moments.next() as usize % nodes.len();
        nodes[victim].kill();
        runtime.block_on(write_more(&addresses, &mut ledger, 5));
        nodes[victim].start();
        // Another time, while it opens or goes on.
        strike(&mut nodes, victim, moments, Duration::from_millis(400));
        runtime.block_on(write_more(&addresses, &mut ledger, 5));
        let after = runtime.block_on(settled(&addresses));
        let on = |node: u64| replicas(&after, moved.group).any(|other| other == node);
        assert!(on(moved.to_node) && !on(moved.from_node), "the shard has not moved: {moved:?}, {after:?}");
        runtime.block_on(check(&addresses, &ledger, if round % 5 == 0 { Extent::Whole } else { Extent::Recent }));
    }
    runtime.block_on(check(&addresses, &ledger, Extent::Whole));
    println!("{midway} of {round} kills while a shard moved; {} writes acknowledged, all there", ledger.acknowledged());
}

/// Kills a running node within this time, starts it again and waits until it is ready.
fn strike(nodes: &mut [Node], victim: usize, moments: &mut Moments, within: Duration) {
    thread::sleep(moments.below(within));
    nodes[victim].kill();
    nodes[victim].start();
    nodes[victim].wait_ready();
}

/// One of the shards goes from one of its nodes to the node that has none of it.
fn a_move(members: &MembersReply, moments: &mut Moments) -> MoveShardRequest {
    let registry = ShardId::REGISTRY.to_pb();
    let shards: Vec<&Placed> = members.placement.iter().filter(|placed| placed.shard != Some(registry)).collect();
    let shard = shards[moments.next() as usize % shards.len()];
    let group = shard.shard.as_ref().and_then(ShardId::from_pb).expect("a shard").group();
    let on: Vec<u64> = replicas(members, group).collect();
    let free =
        members.nodes.iter().map(|node| node.node).find(|node| !on.contains(node)).expect("four nodes, three replicas");
    MoveShardRequest { group, from_node: on[moments.next() as usize % on.len()], to_node: free }
}

/// The nodes with a replica of this shard.
fn replicas(members: &MembersReply, group: u64) -> impl Iterator<Item = u64> {
    let is_it = move |placed: &&Placed| {
        placed.shard.as_ref().and_then(ShardId::from_pb).is_some_and(|shard| shard.group() == group)
    };
    members.placement.iter().filter(is_it).flat_map(|placed| &placed.replicas).map(|replica| replica.node)
}

fn is_settled(members: &MembersReply) -> bool {
    let mut replicas = members.placement.iter().flat_map(|placed| &placed.replicas);
    !members.rebalancing && !replicas.any(|replica| replica.joining || replica.leaving)
}

async fn settled(nodes: &[SocketAddr]) -> MembersReply {
    let begun = Instant::now();
    loop {
        let members = members_of(nodes).await;
        if is_settled(&members) {
            return members;
        }
        assert!(begun.elapsed() < DEADLINE, "shards still move: {members:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn members_of(nodes: &[SocketAddr]) -> MembersReply {
    done(nodes, async |mut node| Ok(node.members(MembersRequest {}).await?.into_inner())).await
}

/// Asks the nodes, one after the other, until one does it.
async fn done<T>(nodes: &[SocketAddr], call: impl AsyncFn(Operator) -> Result<T, Status>) -> T {
    let security = PeerSecurity::from_secret(Tier::Operator, SECRET, None).expect("valid");
    let begun = Instant::now();
    loop {
        let mut last = None;
        for node in nodes {
            let channel = security.channel(&node.to_string()).expect("an address");
            let operator = ClusterAdminClient::with_interceptor(channel, security.token());
            match timeout(Duration::from_secs(10), call(operator)).await {
                Ok(Ok(answer)) => return answer,
                other => last = other.ok().and_then(Result::err),
            }
        }
        assert!(begun.elapsed() < DEADLINE, "nobody does it: {last:?}");
        sleep(Duration::from_millis(50)).await;
    }
}
