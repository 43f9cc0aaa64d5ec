//! Whole storage nodes: three on loopback, and one alone.

mod backup;
mod damage;
mod data;
mod disk;
mod growth;
#[cfg(feature = "planted-bugs")]
mod leads;
#[cfg(feature = "planted-bugs")]
mod levels;
mod recover;
#[path = "../support/mod.rs"]
mod support;

use std::{collections::BTreeSet, fs, sync::Arc, time::Duration};

use carillon_proto::pb::store::{
    NodeKind, RegisterRequest, Release, RenewRequest, StoreError, store_error::Why, store_reply::Result as Outcome,
    store_request::Op, timeline_command,
};
use carillon_storage::StorageConfig;
use futures_util::FutureExt as _;
use support::{Cluster, MAP, Stream, Way, append, eventually, request, timeline_shard};
use tonic::Code;

pub(crate) fn quick(config: &mut StorageConfig) {
    config.heartbeat_ms = 100;
    config.election_min_ms = 300;
    config.election_max_ms = 600;
}

/// A small log, so that snapshots are needed.
fn forgetful(config: &mut StorageConfig) {
    quick(config);
    config.log_bytes = 1 << 16;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_resume_after_the_leader_is_gone_and_it_catches_up_when_it_is_back() {
    let mut cluster = Cluster::started(3, quick).await;
    for key in 0..20 {
        assert_eq!(cluster.append("alice", key).await.seq, key + 1);
    }
    let leader = cluster.leader_of("alice").await;
    cluster.nodes[leader].stop().await;
    for key in 10..40 {
        assert_eq!(cluster.append("alice", key).await.seq, key + 1);
    }
    cluster.nodes[leader].start().await;
    cluster.nodes[leader].ready().await;
    // Without one of the others, the majority needs the node that was away.
    let other = (0..3).find(|node| *node != leader).expect("there are three");
    cluster.nodes[other].stop().await;
    assert_eq!(cluster.append("alice", 40).await.seq, 41);
    let read = cluster.read("alice").await;
    assert_eq!(read.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), (1..=41).collect::<Vec<_>>());
    assert_eq!(read.entries[12].envelope, "envelope 12");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_too_long_gets_a_snapshot() {
    let mut cluster = Cluster::started(3, forgetful).await;
    cluster.append("alice", 0).await;
    let away = cluster.leader_of("alice").await;
    cluster.nodes[away].stop().await;
    let others: Vec<_> = (0..3).filter(|node| *node != away).collect();
    // A snapshot that reaches further purges the entries that the absent node would need.
    let snapshot = format!("snapshots/{}.snapshot", timeline_shard("alice"));
    let snapshots: Vec<_> = others.iter().map(|node| cluster.nodes[*node].config.data_dir.join(&snapshot)).collect();
    let mut key = 1;
    while !snapshots.iter().all(|snapshot| snapshot.exists()) {
        cluster.append("alice", key).await;
        key += 1;
        assert!(key < 5000, "no snapshot after {key} entries");
    }
    for _ in 0..10 {
        cluster.append("alice", key).await;
        key += 1;
    }
    cluster.nodes[away].start().await;
    cluster.nodes[away].ready().await;
    let received = cluster.nodes[away].config.data_dir.join(&snapshot);
    eventually("the snapshot arrives", || async { fs::metadata(&received).map(drop) }).await;

    cluster.nodes[others[0]].stop().await;
    assert_eq!(cluster.append("alice", key).await.seq, key + 1);
    let read = cluster.read("alice").await;
    assert_eq!(read.head.expect("has one").last, key + 1);
    // The node has the same after a restart from its own disk.
    cluster.nodes[away].stop().await;
    cluster.nodes[away].start().await;
    cluster.nodes[away].ready().await;
    assert_eq!(cluster.read("alice").await.head.expect("has one").last, key + 1);
}

/// As after a kill: the others had entries on disk, and this node had applied them but not written them.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_applied_more_than_its_log_has_makes_a_snapshot_that_others_can_go_on_from() {
    let mut cluster = Cluster::started(3, forgetful).await;
    cluster.append("alice", 0).await;
    let leader = cluster.leader_of("alice").await;
    let node = (leader + 1) % 3;
    let folder = cluster.nodes[node].config.data_dir.clone();
    let (log, saved) = (folder.join("log"), cluster.path("saved-log"));
    let snapshot = folder.join(format!("snapshots/{}.snapshot", timeline_shard("alice")));
    let mut key = 1;
    while !snapshot.exists() {
        cluster.append("alice", key).await;
        key += 1;
        assert!(key < 5000, "no snapshot after {key} entries");
    }
    cluster.nodes[node].stop().await;
    fs::create_dir(&saved).expect("makes");
    for file in fs::read_dir(&log).expect("reads").flatten() {
        fs::copy(file.path(), saved.join(file.file_name())).expect("copies");
    }
    // Once to have the entries, and once to have applied them.
    for _ in 0..2 {
        cluster.nodes[node].start().await;
        cluster.nodes[node].ready().await;
        cluster.append("alice", key).await;
        key += 1;
        cluster.nodes[node].ready().await;
        cluster.nodes[node].stop().await;
    }
    // No leader may remember what this node has had.
    for other in [leader, (leader + 2) % 3] {
        cluster.nodes[other].stop().await;
    }
    fs::remove_dir_all(&log).expect("removes");
    fs::rename(&saved, &log).expect("renames");
    let made = || fs::metadata(&snapshot).and_then(|found| found.modified()).expect("is there");
    let before = made();
    for node in &mut cluster.nodes {
        node.start().await;
    }
    cluster.nodes[node].ready().await;
    assert!(made() > before);
    // Without one of the others, the majority needs the node.
    cluster.nodes[(leader + 2) % 3].stop().await;
    assert_eq!(cluster.append("alice", key).await.seq, key + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_drains_hands_its_shards_over() {
    let mut cluster = Cluster::started(3, quick).await;
    cluster.append("alice", 0).await;
    let leader = cluster.leader_of("alice").await;
    cluster.nodes[leader].drain_and_stop().await;
    let next = cluster.leader_of("alice").await;
    assert_ne!(next, leader);
    assert_eq!(cluster.append("alice", 1).await.seq, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_holders_of_leases_are_heard_nothing_is_written() {
    let mut cluster = Cluster::alone(quick).await;
    let mut registry = cluster.nodes[0].registry();
    let register = RegisterRequest {
        kind: NodeKind::Gateway.into(),
        address: String::new(),
        ttl_ms: 3_000,
        nonce: vec![7; 16].into(),
        release: Some(Release::own()),
        ..RegisterRequest::default()
    };
    let lease = registry.register(register).await.expect("registers").into_inner().lease;
    // The file counts the flushes of the log.
    let high_water = cluster.nodes[0].config.data_dir.join("log/high-water");
    let flushes = || fs::read(&high_water).expect("reads");
    let (mut before, mut quiet) = (flushes(), 0);
    // Twice the length of the lease without a write, counted from when the leader has noticed it.
    for _ in 0..300 {
        registry.renew(RenewRequest { lease, ..RenewRequest::default() }).await.expect("renews");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = flushes();
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
        if quiet == 60 {
            break;
        }
    }
    assert_eq!(quiet, 60, "it writes although the holder is heard");
    cluster.nodes[0].view("the lease", |view| view.nodes.iter().any(|node| node.lease == lease)).await;
    cluster.nodes[0].stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_tells_who_leads() {
    let cluster = Cluster::started(3, quick).await;
    let leader = cluster.leader_of("alice").await;
    let follower = &cluster.nodes[(leader + 1) % 3];
    let told = eventually("the follower knows the leader", || async {
        match follower.ask(timeline_shard("alice"), Op::Timeline(append("alice", 1))).await {
            Some(Outcome::Error(StoreError { why: Some(Why::NotLeader(not)) })) if !not.leader.is_empty() => {
                Ok(not.leader)
            }
            other => Err(other),
        }
    })
    .await;
    assert_eq!(told, cluster.nodes[leader].address().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_write_closes_its_lane_until_a_higher_one_opens() {
    for way in [Way::Wire, Way::Calls] {
        a_refused_write_closes_its_lane(way).await;
    }
}

async fn a_refused_write_closes_its_lane(way: Way) {
    let cluster = Cluster::reached_by(way, 3, quick).await;
    let leader = cluster.leader_of("alice").await;
    let mut to_follower = Stream::open_by(way, &cluster.nodes[(leader + 1) % 3]).await.expect("opens");
    to_follower.send((1..=5).map(|id| request(id, "alice", id, 0)).collect()).await;
    let mut refusals = Vec::new();
    for _ in 0..5 {
        let reply = to_follower.reply().await.expect("a reply");
        let Some(Outcome::Error(StoreError { why: Some(why) })) = reply.result else { panic!("{reply:?}") };
        refusals.push((reply.id, why));
    }
    assert!(refusals.iter().all(|(_, why)| matches!(why, Why::NotLeader(_) | Why::LaneClosed(_))), "{refusals:?}");
    to_follower.send(vec![request(6, "alice", 6, 0)]).await;
    let reply = to_follower.reply().await.expect("a reply").result;
    assert!(matches!(reply, Some(Outcome::Error(StoreError { why: Some(Why::LaneClosed(_)) }))), "{reply:?}");
    to_follower.send(vec![request(7, "alice", 1, 1)]).await;
    let reply = to_follower.reply().await.expect("a reply").result;
    assert!(matches!(reply, Some(Outcome::Error(StoreError { why: Some(Why::NotLeader(_)) }))), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_many_writes_keeps_its_order() {
    for way in [Way::Wire, Way::Calls] {
        many_writes_keep_their_order(way).await;
    }
}

async fn many_writes_keep_their_order(way: Way) {
    let cluster = Cluster::reached_by(way, 3, quick).await;
    let leader = cluster.leader_of("alice").await;
    let mut stream = Stream::open_by(way, &cluster.nodes[leader]).await.expect("opens");
    const WRITES: u64 = 1500;
    for first in (0..WRITES).step_by(100) {
        stream.send((first..first + 100).map(|id| request(id, "alice", id, 0)).collect()).await;
    }
    for _ in 0..WRITES {
        let reply = stream.reply().await.expect("a reply");
        let Some(Outcome::Appended(appended)) = reply.result else { panic!("{reply:?}") };
        assert_eq!(appended.seq, reply.id + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_calls_ends_with_its_node_or_its_caller() {
    let mut cluster = Cluster::reached_by(Way::Calls, 1, quick).await;
    let held = Arc::new(());
    let open = |node: &support::Node| {
        let held = Arc::clone(&held);
        let tell = Arc::new(move |_| {
            let _ = &held;
        });
        node.near().expect("in this process").open(tell).expect("has started its shards")
    };
    let (mut lasting, left) = (open(&cluster.nodes[0]), open(&cluster.nodes[0]));
    drop(left.ended);
    eventually("the node forgets who has left", || async {
        if Arc::strong_count(&held) == 2 { Ok(()) } else { Err(Arc::strong_count(&held)) }
    })
    .await;
    assert!(!(left.say)(request(1, "alice", 1, 0)), "nothing is taken on a stream that has ended");
    assert!((lasting.say)(request(2, "alice", 2, 0)));
    assert!((&mut lasting.ended).now_or_never().is_none());
    cluster.nodes[0].stop().await;
    tokio::time::timeout(Duration::from_secs(20), lasting.ended).await.expect("the node has ended it");
    assert!(!(lasting.say)(request(3, "alice", 3, 0)));
    assert!(cluster.nodes[0].near().is_none(), "nobody is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_given_by_any_node_seen_by_all_and_end() {
    let cluster = Cluster::started(3, quick).await;
    let mut leases = BTreeSet::new();
    for (number, node) in cluster.nodes.iter().enumerate() {
        let register = RegisterRequest {
            kind: NodeKind::Router.into(),
            address: format!("router-{number}:7402"),
            ttl_ms: 3_000,
            nonce: vec![number as u8; 16].into(),
            release: Some(Release::own()),
            ..RegisterRequest::default()
        };
        let lease = node.registry().register(register.clone()).await.expect("registers").into_inner().lease;
        let again = cluster.nodes[0].registry().register(register).await.expect("registers").into_inner().lease;
        assert_eq!(lease, again, "the same registration gives one lease");
        leases.insert(lease);
    }
    assert_eq!(leases.len(), 3);
    let kept = *leases.first().expect("three");
    for node in &cluster.nodes {
        let view = node.view("all routers", |view| view.nodes.len() == 3).await;
        assert_eq!(view.nodes.iter().map(|node| node.lease).collect::<BTreeSet<_>>(), leases);
        assert_eq!((view.directory_shards, view.timeline_shards), (MAP.directory.into(), MAP.timeline.into()));
        assert_eq!(view.storage.len(), 3);
        assert!(!view.cluster.is_empty());
    }
    let renewing = async {
        loop {
            cluster.nodes[1]
                .registry()
                .renew(RenewRequest { lease: kept, ..RenewRequest::default() })
                .await
                .expect("renews");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let ending = cluster.nodes[2].view("the end of two", |view| view.nodes.len() == 1);
    let view = tokio::select! {
        view = ending => view,
        () = renewing => unreachable!("renews for ever"),
    };
    assert_eq!(view.nodes[0].lease, kept);
    let ended = *leases.last().expect("three");
    let status = cluster.nodes[0]
        .registry()
        .renew(RenewRequest { lease: ended, ..RenewRequest::default() })
        .await
        .expect_err("has ended");
    assert_eq!(status.code(), Code::FailedPrecondition);
}

/// Sends as a router does: many writes in flight and, after a refusal, all unanswered ones again, in order, in a new
/// lane.
#[tokio::test(flavor = "multi_thread")]
async fn order_is_kept_over_changes_of_the_leader() {
    order_is_kept(Way::Wire).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn order_is_kept_over_changes_of_the_leader_within_a_process() {
    order_is_kept(Way::Calls).await;
}

async fn order_is_kept(way: Way) {
    const WRITES: u64 = 1200;
    const WINDOW: u64 = 200;
    let mut cluster = Cluster::reached_by(way, 3, quick).await;
    let mut first_unanswered = 0;
    let mut lane = 0;
    let mut drains = 0;
    while first_unanswered < WRITES {
        let leader = cluster.leader_of("alice").await;
        let Some(mut stream) = Stream::open_by(way, &cluster.nodes[leader]).await else { continue };
        lane += 1;
        let end = (first_unanswered + WINDOW).min(WRITES);
        let requests: Vec<_> = (first_unanswered..end).map(|key| request(key, "alice", key, lane)).collect();
        let sent = requests.len();
        stream.send(requests).await;
        // Meanwhile the leadership moves to another node.
        let mut draining =
            (drains < 3 && first_unanswered > drains * WINDOW).then(|| cluster.nodes.swap_remove(leader));
        let drain = async {
            if let Some(node) = &mut draining {
                node.drain_and_stop().await;
                node.start().await;
            }
        };
        let take_replies = async {
            let mut answered = BTreeSet::new();
            for _ in 0..sent {
                let Some(reply) = stream.reply().await else { break };
                if let Some(Outcome::Appended(_)) = reply.result {
                    answered.insert(reply.id);
                }
            }
            answered
        };
        let ((), mut answered) = tokio::join!(drain, take_replies);
        if let Some(node) = draining {
            drains += 1;
            cluster.nodes.push(node);
        }
        while answered.remove(&first_unanswered) {
            first_unanswered += 1;
        }
        assert!(answered.is_empty(), "written behind a refused one of the same lane: {answered:?}");
    }
    assert_eq!(drains, 3);
    let mut seen = Vec::new();
    while seen.len() < WRITES as usize {
        let read = cluster.read_from("alice", seen.len() as u64 + 1).await;
        seen.extend(read.entries.into_iter().map(|entry| entry.envelope));
    }
    let expected: Vec<_> = (0..WRITES).map(|key| format!("envelope {key}")).collect();
    assert_eq!(seen, expected, "each once, in the order in which they were sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_does_not_say_what_is_removed() {
    use carillon_proto::pb::store::{AdvanceClock, TimelineCommand, Trim};
    let mut cluster = Cluster::alone(quick).await;
    cluster.append("alice", 0).await;
    let timeline = Some(support::inbox("alice").to_key());
    for op in [
        timeline_command::Op::AdvanceClock(AdvanceClock { elapsed_ms: u32::MAX }),
        timeline_command::Op::Trim(Trim { timeline, before_seq: 2, limit: 1, epoch: 0 }),
    ] {
        let asked = Op::Timeline(TimelineCommand { op: Some(op) });
        let outcome = cluster.nodes[0].ask(timeline_shard("alice"), asked).await;
        assert!(matches!(outcome, Some(Outcome::Error(StoreError { why: Some(Why::Rejected(_)) }))), "{outcome:?}");
    }
    assert_eq!(cluster.read("alice").await.entries.len(), 1);
    cluster.nodes[0].stop().await;
}
