//! Backups of a storage node.

use std::collections::BTreeSet;

use carillon_proto::{
    ShardId,
    pb::backup::{
        ClusterDescription, DescribeRequest, ReadPiece, ReadRequest, ShardEnd, backup_client::BackupClient,
        read_piece::Piece,
    },
    peer::{AddToken, Tier},
};
use carillon_storage::backup::check_shard;
use tonic::{Code, Status, Streaming, service::interceptor::InterceptedService, transport::Channel};

use super::{
    quick,
    support::{Cluster, MAP, Node, eventually, security, timeline_shard},
};

type Client = BackupClient<InterceptedService<Channel, AddToken>>;

fn client(node: &Node) -> Client {
    let security = security().of_tier(Tier::Operator).expect("has its token");
    let channel = security.channel(&node.address().to_string()).expect("an address");
    BackupClient::with_interceptor(channel, security.token())
}

/// The cluster, once it has rows.
async fn described(node: &Node) -> ClusterDescription {
    eventually("the cluster has rows", || async {
        client(node)
            .describe(DescribeRequest {})
            .await
            .map(tonic::Response::into_inner)
            .map_err(|status| status.to_string())
    })
    .await
}

async fn read(node: &Node, cluster: &str, shard: ShardId) -> Result<Streaming<ReadPiece>, Status> {
    let request = ReadRequest { cluster: cluster.to_owned(), group: shard.group() };
    client(node).read(request).await.map(tonic::Response::into_inner)
}

/// All pieces of a shard; an error if they do not come to an end.
async fn pieces(mut stream: Streaming<ReadPiece>) -> Result<Vec<Piece>, Status> {
    let mut pieces = Vec::new();
    while let Some(piece) = stream.message().await? {
        pieces.push(piece.piece.expect("this release knows it"));
    }
    Ok(pieces)
}

fn bytes_of(pieces: &[Piece]) -> Vec<u8> {
    let [Piece::Head(_), data @ .., Piece::End(end)] = pieces else { panic!("{} pieces", pieces.len()) };
    let mut bytes = Vec::new();
    for piece in data {
        let Piece::Data(data) = piece else { panic!("{piece:?}") };
        bytes.extend_from_slice(data);
    }
    let crc32 = crc32fast::hash(&bytes);
    assert_eq!(*end, ShardEnd { bytes: bytes.len() as u64, crc32, records: end.records });
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_of_a_shard_gives_everything_that_was_accepted_before() {
    let cluster = Cluster::started(3, quick).await;
    for key in 0..50 {
        cluster.append("alice", key).await;
    }
    let told = described(&cluster.nodes[1]).await;
    assert_eq!((told.directory_shards, told.timeline_shards), (MAP.directory.into(), MAP.timeline.into()));
    let addresses: BTreeSet<String> = cluster.nodes.iter().map(|node| node.address().to_string()).collect();
    assert_eq!(told.storage_nodes.iter().cloned().collect::<BTreeSet<_>>(), addresses);
    let shard = timeline_shard("alice");
    let leader = cluster.leader_of("alice").await;
    for (number, node) in cluster.nodes.iter().enumerate() {
        let pieces = pieces(read(node, &told.cluster, shard).await.expect("an answer")).await.expect("an end");
        if number != leader {
            let [Piece::NotLeader(other)] = &pieces[..] else { panic!("node {number} does not lead: {pieces:?}") };
            assert_eq!(other.leader, cluster.nodes[leader].address().to_string());
            continue;
        }
        let checked = check_shard(shard, &*bytes_of(&pieces)).expect("sound");
        // Each message has a record and a duplicate key.
        assert!(checked.records >= 100, "{checked:?}");
        assert!(matches!(&pieces[0], Piece::Head(head) if head.log_id.is_some_and(|id| id.index == checked.index)));
    }
    let refused = read(&cluster.nodes[leader], "another", shard).await.expect_err("of another cluster");
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gives_one_shard_at_a_time_to_a_backup() {
    let cluster = Cluster::alone(quick).await;
    let shard = timeline_shard("alice");
    // More than the network holds for a reader that does not read.
    for key in 0..200 {
        cluster.append_noise("alice", key, 60_000).await;
    }
    let told = described(&cluster.nodes[0]).await;
    let slow = read(&cluster.nodes[0], &told.cluster, shard).await.expect("an answer");
    let refused = read(&cluster.nodes[0], &told.cluster, ShardId::REGISTRY).await.expect_err("one at a time");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    // Users do not notice.
    cluster.append("bob", 1).await;
    cluster.append("alice", 1000).await;
    let sent = pieces(slow).await.expect("an end");
    check_shard(shard, &*bytes_of(&sent)).expect("sound");
    let next = eventually("the next one has its turn", || async {
        read(&cluster.nodes[0], &told.cluster, ShardId::REGISTRY).await.map_err(|status| status.to_string())
    });
    check_shard(ShardId::REGISTRY, &*bytes_of(&pieces(next.await).await.expect("an end"))).expect("sound");
    // A reader that goes away leaves the place to others.
    drop(read(&cluster.nodes[0], &told.cluster, shard).await.expect("an answer"));
    eventually("the place is free again", || async {
        read(&cluster.nodes[0], &told.cluster, ShardId::REGISTRY).await.map(drop).map_err(|status| status.to_string())
    })
    .await;
}
