//! Whole storage nodes: three on loopback, and one alone.

mod data;
#[cfg(feature = "planted-bugs")]
mod levels;
#[path = "../support/mod.rs"]
mod support;

use std::{collections::BTreeSet, fs, time::Duration};

use carillon_proto::pb::store::{
    NodeKind, RegisterRequest, RenewRequest, StoreError, store_error::Why, store_reply::Result as Outcome,
    store_request::Op, timeline_command,
};
use carillon_storage::{Storage, StorageConfig, mark_put_back};
use support::{Cluster, MAP, Stream, append, eventually, request, security, timeline_shard};
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
async fn a_node_alone_keeps_what_it_was_given() {
    let mut cluster = Cluster::alone(quick).await;
    for round in 0..3u64 {
        if round > 0 {
            cluster.nodes[0].start().await;
            cluster.nodes[0].ready().await;
        }
        let appended = cluster.append("alice", round).await;
        assert_eq!(appended.seq, round + 1);
        if round > 0 {
            assert_eq!(cluster.append("alice", 0).await.seq, 1, "the first answer again");
        }
        assert_eq!(cluster.read("alice").await.entries.len() as u64, round + 1);
        match round {
            0 => cluster.nodes[0].stop().await,
            _ => cluster.nodes[0].drain_and_stop().await,
        }
    }
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
    // Without one of the others, the node that was away has to have everything.
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
    // The entries that the node away would need are purged when a snapshot reaches beyond them.
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
    // And from its own disk, after that.
    cluster.nodes[away].stop().await;
    cluster.nodes[away].start().await;
    cluster.nodes[away].ready().await;
    assert_eq!(cluster.read("alice").await.head.expect("has one").last, key + 1);
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
    };
    let lease = registry.register(register).await.expect("registers").into_inner().lease;
    // Counts the flushes of the log.
    let high_water = cluster.nodes[0].config.data_dir.join("log/high-water");
    let flushes = || fs::read(&high_water).expect("reads");
    let (mut before, mut quiet) = (flushes(), 0);
    // Twice the length of the lease without a write, once the leader has seen it.
    for _ in 0..300 {
        registry.renew(RenewRequest { lease }).await.expect("renews");
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
    let cluster = Cluster::started(3, quick).await;
    let leader = cluster.leader_of("alice").await;
    let mut to_follower = Stream::open(cluster.nodes[(leader + 1) % 3].address()).await.expect("opens");
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
    let cluster = Cluster::started(3, quick).await;
    let leader = cluster.leader_of("alice").await;
    let mut stream = Stream::open(cluster.nodes[leader].address()).await.expect("opens");
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
async fn leases_are_given_by_any_node_seen_by_all_and_end() {
    let cluster = Cluster::started(3, quick).await;
    let mut leases = BTreeSet::new();
    for (number, node) in cluster.nodes.iter().enumerate() {
        let register = RegisterRequest {
            kind: NodeKind::Router.into(),
            address: format!("router-{number}:7402"),
            ttl_ms: 3_000,
            nonce: vec![number as u8; 16].into(),
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
            cluster.nodes[1].registry().renew(RenewRequest { lease: kept }).await.expect("renews");
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
    let status = cluster.nodes[0].registry().renew(RenewRequest { lease: ended }).await.expect_err("has ended");
    assert_eq!(status.code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_disk_does_not_come_back_under_an_old_address() {
    let mut cluster = Cluster::started(3, quick).await;
    cluster.nodes[2].stop().await;
    let old = cluster.nodes[2].config.data_dir.clone();
    cluster.nodes[2].config.data_dir = cluster.path("empty");
    cluster.nodes[2].start().await;
    let tasks = cluster.nodes[2].tasks().clone();
    eventually("the node refuses", || async { tasks.failure().map(drop).ok_or("still runs") }).await;
    let why = tasks.failure().expect("failed");
    assert!(why.contains("another disk") && why.contains("new address"), "{why}");
    cluster.nodes[2].stop().await;
    cluster.nodes[2].config.data_dir = old;
    cluster.nodes[2].start().await;
    cluster.nodes[2].ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_use_is_refused() {
    let mut cluster = Cluster::alone(quick).await;
    let mut config = cluster.nodes[0].config.clone();
    config.listen.set_port(0);
    let error = Storage::open(config, security()).await.err().expect("refused").to_string();
    assert!(error.contains("in use by another process"), "{error}");
    cluster.nodes[0].drain_and_stop().await;
}

/// Sends as a router does: many in flight, and after a refusal all that is unanswered again, in order, in a new lane.
#[tokio::test(flavor = "multi_thread")]
async fn order_is_kept_over_changes_of_the_leader() {
    const WRITES: u64 = 1200;
    const WINDOW: u64 = 200;
    let mut cluster = Cluster::started(3, quick).await;
    let mut first_unanswered = 0;
    let mut lane = 0;
    let mut drains = 0;
    while first_unanswered < WRITES {
        let leader = cluster.leader_of("alice").await;
        let Some(mut stream) = Stream::open(cluster.nodes[leader].address()).await else { continue };
        lane += 1;
        let end = (first_unanswered + WINDOW).min(WRITES);
        let requests: Vec<_> = (first_unanswered..end).map(|key| request(key, "alice", key, lane)).collect();
        let sent = requests.len();
        stream.send(requests).await;
        // In the midst of it: the lead goes elsewhere.
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

/// A copy of a folder, as an operator makes it while the node is stopped.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("lists") {
        let entry = entry.expect("lists");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("has a type").is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("copies");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn timelines_of_a_folder_that_was_put_back_have_new_epochs() {
    let mut cluster = Cluster::alone(quick).await;
    let mut epochs = Vec::new();
    for user in ["alice", "bob", "carol"] {
        epochs.push(cluster.append(user, 0).await.epoch);
    }
    cluster.nodes[0].stop().await;
    let (folder, saved) = (cluster.nodes[0].config.data_dir.clone(), cluster.path("saved"));
    assert!(mark_put_back(&saved).is_err(), "there is no such folder");
    copy(&folder, &saved);
    cluster.nodes[0].start().await;
    cluster.nodes[0].ready().await;
    for user in ["alice", "bob", "carol"] {
        assert_eq!(cluster.append(user, 1).await.seq, 2);
    }
    assert!(mark_put_back(&folder).is_err(), "it is in use");
    cluster.nodes[0].stop().await;

    fs::remove_dir_all(&folder).expect("removes");
    fs::rename(&saved, &folder).expect("moves");
    mark_put_back(&folder).expect("it is alone");
    let mut now = Vec::new();
    for round in 0..2u64 {
        cluster.nodes[0].start().await;
        cluster.nodes[0].ready().await;
        for (user, before) in ["alice", "bob", "carol"].into_iter().zip(&epochs) {
            let appended = cluster.append(user, 2 + round).await;
            assert_eq!(appended.seq, 2 + round);
            assert_ne!(appended.epoch, *before, "what comes now is not what {user}'s devices have");
            now.push(appended.epoch);
        }
        cluster.nodes[0].stop().await;
    }
    assert_eq!(now[..3], now[3..], "once, not at each start");
}

/// A file system of its own in memory; None if this process may not mount one.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(path: std::path::PathBuf, mib: u32) -> Option<Self> {
        fs::create_dir_all(&path).expect("a folder");
        let size = format!("size={mib}m");
        let mounted =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&path).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(path))
    }

    /// Takes all space but so much.
    fn fill(&self, but_mib: u64) {
        use std::io::Write as _;
        let mut file = fs::File::create(self.0.join("filler")).expect("makes");
        let block = vec![7; 1 << 20];
        while file.write_all(&block).is_ok() {}
        let len = file.metadata().expect("has a length").len();
        file.set_len(len.saturating_sub(but_mib << 20)).expect("shortens");
    }

    fn make_space(&self) {
        fs::remove_file(self.0.join("filler")).expect("removes");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Left to the system if it is still in use.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Asked with what is there already, so that nothing changes.
async fn refuses_sends(cluster: &Cluster) -> bool {
    match cluster.nodes[0].ask(timeline_shard("alice"), Op::Timeline(append("alice", 19))).await {
        Some(Outcome::Error(StoreError { why: Some(Why::Full(full)) })) => full.retry_after_ms > 0,
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_sends_are_refused_history_is_read_and_nothing_is_lost() {
    let mut cluster = Cluster::new(1, |config| {
        quick(config);
        config.members.clear();
        config.log_bytes = 1 << 20;
    });
    let folder = cluster.nodes[0].config.data_dir.clone();
    let Some(disk) = SmallDisk::mount(folder, 600) else {
        eprintln!("not run: it needs the right to mount a file system");
        return;
    };
    cluster.nodes[0].start().await;
    cluster.nodes[0].found().await;
    cluster.nodes[0].ready().await;
    for key in 0..20 {
        assert_eq!(cluster.append("alice", key).await.seq, key + 1);
    }
    disk.fill(8);
    eventually("sends are refused", || async { refuses_sends(&cluster).await.then_some(()).ok_or("taken") }).await;
    assert_eq!(cluster.read("alice").await.entries.len(), 20);
    cluster.nodes[0].stop().await;

    disk.fill(0);
    cluster.nodes[0].start().await;
    cluster.nodes[0].ready().await;
    assert_eq!(cluster.read("alice").await.entries.len(), 20, "it starts, and reads");
    assert!(refuses_sends(&cluster).await);

    disk.make_space();
    eventually("sends are taken", || async { (!refuses_sends(&cluster).await).then_some(()).ok_or("refused") }).await;
    assert_eq!(cluster.append("alice", 100).await.seq, 21);
    assert_eq!(cluster.read("alice").await.entries.len(), 21);
    cluster.nodes[0].stop().await;
}

fn bytes_in(folder: &std::path::Path) -> u64 {
    let files = fs::read_dir(folder).expect("a folder").flatten();
    // One that is just given back has no length.
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_gives_its_files_back_and_nothing_is_lost() {
    const MESSAGES: u64 = 800;
    const BYTES: usize = 10_000;
    let mut cluster = Cluster::alone(forgetful).await;
    for key in 0..MESSAGES {
        let mut command = append("alice", key);
        if let Some(timeline_command::Op::Append(append)) = &mut command.op {
            append.envelope = vec![key as u8; BYTES].into();
        }
        match cluster.ask(timeline_shard("alice"), Op::Timeline(command)).await {
            Outcome::Appended(appended) => assert_eq!(appended.seq, key + 1),
            other => panic!("not appended but {other:?}"),
        }
    }
    let log = cluster.nodes[0].config.data_dir.join("log");
    let half = MESSAGES * BYTES as u64 / 2;
    eventually("the log is short", || async {
        let bytes = bytes_in(&log);
        (bytes < half).then_some(()).ok_or(bytes)
    })
    .await;
    cluster.nodes[0].stop().await;
    cluster.nodes[0].start().await;
    cluster.nodes[0].ready().await;
    assert_eq!(cluster.read("alice").await.head.expect("has one").last, MESSAGES);
    cluster.nodes[0].stop().await;
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
