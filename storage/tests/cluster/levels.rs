//! Programs of two levels in one cluster. Needs the feature `planted-bugs`: the delivered program reads one level alone.
use crate::{
    growth::{done, members, operator},
    quick,
    support::{Cluster, MAP, append, eventually, inbox, security, timeline_shard},
};
use carillon_proto::{
    Level, ShardId, ShardKind,
    pb::{
        raft::{RaiseLevelReply, RaiseLevelRequest},
        store::{
            EndSender, MoveCursors, NodeKind, ReadHead, RegisterRequest, Release, RenewRequest, SetCursor, StoreError,
            TimelineCommand, TimelineKey, move_cursors::Moved, rejected::Reason, store_error::Why,
            store_reply::Result as Outcome, store_request::Op, timeline_command, timeline_key::Kind,
        },
    },
};
use carillon_storage::Storage;

const NEXT: Level = Level(Level::OF_PROGRAM.0 + 1);

async fn all_see(cluster: &Cluster, level: Level) {
    for node in &cluster.nodes {
        node.view("the level", |view| view.level == level.0).await;
    }
}

/// The operator lets the level rise to the highest one that all can read.
async fn raise(cluster: &Cluster) -> RaiseLevelReply {
    let request = RaiseLevelRequest { level: 0 };
    done(cluster, async |mut client| Ok(client.raise_level(request).await?.into_inner())).await
}

async fn restart(cluster: &mut Cluster, node: usize, knows: Level) {
    cluster.nodes[node].stop().await;
    cluster.nodes[node].knows(knows);
    cluster.nodes[node].start().await;
    cluster.nodes[node].ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_go_forward_and_back_and_the_level_rises_when_the_operator_says_so() {
    let mut cluster = Cluster::started(3, quick).await;
    all_see(&cluster, Level::OF_PROGRAM).await;
    let mut key = 0;
    for knows in [NEXT, Level::OF_PROGRAM, NEXT] {
        for node in 0..3 {
            restart(&mut cluster, node, knows).await;
            for _ in 0..5 {
                key += 1;
                assert_eq!(cluster.append("alice", key).await.seq, key);
            }
        }
        // Whoever leads looks at the rows at least this often, and has had three nodes' starts for it.
        for node in &cluster.nodes {
            let view = node.view("the rows", |view| view.storage_levels.len() == 3).await;
            assert_eq!((view.level, &view.storage_levels[..]), (Level::OF_PROGRAM.0, &[Level::OF_PROGRAM.0; 3][..]));
        }
        let told = members(&cluster).await;
        let reads: Vec<u32> = told.programs.iter().map(|program| program.reads_level).collect();
        assert_eq!(reads, [knows.0; 3], "what they could read is told nevertheless");
    }
    assert_eq!(raise(&cluster).await, RaiseLevelReply { level: NEXT.0, before: Level::OF_PROGRAM.0 });
    all_see(&cluster, NEXT).await;
    assert_eq!(raise(&cluster).await, RaiseLevelReply { level: NEXT.0, before: NEXT.0 }, "a repeat");
    assert_eq!(cluster.read("alice").await.entries.len(), key as usize);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_level_that_one_node_can_not_read_or_that_is_not_known_of_one_is_refused() {
    let mut cluster = Cluster::started(3, quick).await;
    all_see(&cluster, Level::OF_PROGRAM).await;
    restart(&mut cluster, 0, NEXT).await;
    restart(&mut cluster, 1, NEXT).await;
    let mut client = operator(&cluster, 0);
    let refused = client.raise_level(RaiseLevelRequest { level: NEXT.0 }).await.expect_err("one can't read it");
    assert!(refused.message().contains(&format!("storage node 3 at {}", cluster.nodes[2].address())), "{refused}");
    assert_eq!(raise(&cluster).await, RaiseLevelReply { level: Level::OF_PROGRAM.0, before: Level::OF_PROGRAM.0 });
    cluster.nodes[2].stop().await;
    let silent = client.raise_level(RaiseLevelRequest { level: 0 }).await.expect_err("one is away");
    assert!(silent.message().contains("does not answer"), "{silent}");
    cluster.nodes[2].knows(NEXT);
    cluster.nodes[2].start().await;
    cluster.nodes[2].ready().await;
    raise(&cluster).await;
    all_see(&cluster, NEXT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_of_an_older_release_holds_the_level() {
    let mut cluster = Cluster::started(3, quick).await;
    all_see(&cluster, Level::OF_PROGRAM).await;
    for node in 0..3 {
        restart(&mut cluster, node, NEXT).await;
    }
    let register = RegisterRequest {
        kind: NodeKind::Gateway.into(),
        ttl_ms: 60_000,
        nonce: vec![7; 16].into(),
        release: Some(Release::own()),
        ..RegisterRequest::default()
    };
    let lease = cluster.nodes[0].registry().register(register).await.expect("registers").into_inner().lease;
    let who = format!("the gateway web-1 with lease {lease}");
    let of = |level: Level| RenewRequest {
        lease,
        release: Some(Release { version: "0.2.0".into(), level: level.0 }),
        name: "web-1".into(),
    };
    // Whoever has come to lead the registry meanwhile has to be told again.
    let told = async |cluster: &Cluster, level: Level| {
        done(cluster, async |mut client| {
            cluster.nodes[0].registry().renew(of(level)).await?;
            match client.raise_level(RaiseLevelRequest { level: 0 }).await {
                Err(status) if status.message().contains("has not told") => {
                    Err(tonic::Status::unavailable(status.message()))
                }
                answered => Ok(answered),
            }
        })
        .await
    };
    let refused = told(&cluster, Level::OF_PROGRAM).await.expect_err("it is older");
    let why = format!("{who} runs release 0.2.0, which knows levels up to {}", Level::OF_PROGRAM);
    assert!(refused.message().contains(&why), "{refused}");
    // Whatever node is asked, it names storage nodes, too.
    restart(&mut cluster, 2, Level::OF_PROGRAM).await;
    let request = RaiseLevelRequest { level: NEXT.0 };
    for asked in 0..3 {
        let both = eventually("the registry's leader has been told", || async {
            // Whoever has come to lead the registry meanwhile has to be told again.
            let _ = cluster.nodes[0].registry().renew(of(Level::OF_PROGRAM)).await;
            let refused = operator(&cluster, asked).raise_level(request).await.expect_err("two are older");
            if refused.message().contains(&why) { Ok(refused) } else { Err(refused) }
        })
        .await;
        assert!(both.message().contains("storage node 3 at"), "{both}");
    }
    restart(&mut cluster, 2, NEXT).await;
    told(&cluster, NEXT).await.expect("rises");
    all_see(&cluster, NEXT).await;
}

/// Such a process would get users, and work by other rules than the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_router_or_gateway_that_does_not_know_the_level_gets_no_lease() {
    let mut cluster = Cluster::new(3, quick);
    for node in &mut cluster.nodes {
        node.knows(NEXT);
        node.start().await;
    }
    cluster.nodes[0].found().await;
    for node in &cluster.nodes {
        node.ready().await;
    }
    all_see(&cluster, NEXT).await;
    let register = async |node: usize, kind: NodeKind, release: Option<Release>| {
        let register = RegisterRequest {
            kind: kind.into(),
            address: "r:1".into(),
            ttl_ms: 60_000,
            nonce: vec![7; 16].into(),
            release,
            name: String::new(),
        };
        cluster.nodes[node].registry().register(register).await
    };
    for (node, kind) in [(0, NodeKind::Router), (1, NodeKind::Gateway), (2, NodeKind::Router)] {
        for (release, runs) in [(None, "a release before 0.2.0"), (Some(Release::own()), env!("CARGO_PKG_VERSION"))] {
            let refused = register(node, kind, release).await.expect_err("refused");
            let said = refused.message();
            assert!(said.contains(&format!("level {NEXT}")) && said.contains(runs), "{refused}");
            assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        }
    }
    let newer = Release { version: "later".into(), level: NEXT.0 };
    register(0, NodeKind::Router, Some(newer)).await.expect("knows the level");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_begins_at_the_level_that_all_can_read() {
    let mut cluster = Cluster::new(3, quick);
    for (node, level) in cluster.nodes.iter_mut().zip([NEXT, NEXT, Level::OF_PROGRAM]) {
        node.knows(level);
        node.start().await;
    }
    cluster.nodes[0].found().await;
    for node in &cluster.nodes {
        node.ready().await;
    }
    all_see(&cluster, Level::OF_PROGRAM).await;
    for node in &cluster.nodes {
        let levels = |view: &carillon_proto::pb::store::RegistryView| view.storage_levels.clone();
        let mut told = levels(&node.view("all levels", |view| view.storage_levels.len() == 3).await);
        told.sort_unstable();
        assert_eq!(told, [Level::OF_PROGRAM.0; 3]);
    }
    for key in 0..20 {
        assert_eq!(cluster.append("alice", key).await.seq, key + 1);
    }
    assert!(
        cluster.nodes.iter().all(|node| node.tasks().failure().is_none()),
        "the older one reads all that is written"
    );

    // The last node is replaced by the newer release.
    restart(&mut cluster, 2, NEXT).await;
    raise(&cluster).await;
    all_see(&cluster, NEXT).await;
    let shard = timeline_shard("alice");
    eventually("the shard's own level rises", || async {
        let led = cluster.leads(shard).await;
        if led.iter().any(|led| led.level == NEXT.0) { Ok(()) } else { Err(led) }
    })
    .await;
    for key in 20..40 {
        assert_eq!(cluster.append("alice", key).await.seq, key + 1);
    }

    // From now on a return is impossible.
    cluster.nodes[1].stop().await;
    let older = cluster.nodes[1].config.clone();
    let why = eventually("the older release is refused", || async {
        match Storage::open(older.clone(), security()).await {
            Ok(_) => Err("it opens".to_owned()),
            Err(error) if error.to_string().contains("in use") => Err(error.to_string()),
            Err(error) => Ok(error.to_string()),
        }
    })
    .await;
    assert!(why.contains(&format!("level {NEXT}")) && why.contains("run the release"), "{why}");
    assert_eq!(cluster.append("alice", 40).await.seq, 41, "the other two go on");
}

/// The leader refuses the command, because not all nodes can read it yet; no node stops at it.
async fn refused_for_its_level(cluster: &Cluster, shard: ShardId, op: Op) {
    let refused = eventually("the leader refuses it", || async {
        for node in &cluster.nodes {
            match node.ask(shard, op.clone()).await {
                Some(Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) })) => return Ok(rejected),
                Some(Outcome::Error(_)) | None => {}
                Some(other) => panic!("not refused: {other:?}"),
            }
        }
        Err("nobody leads")
    })
    .await;
    assert_eq!(refused.reason(), Reason::Level, "{refused:?}");
    assert!(
        cluster.nodes.iter().all(|node| node.tasks().failure().is_none()),
        "the older one reads all that is written"
    );
}

/// Replaces the last node by this release and raises the level of the cluster; those of the timeline shards follow.
async fn last_one_is_replaced(cluster: &mut Cluster) {
    restart(cluster, 2, Level::OF_PROGRAM).await;
    raise(cluster).await;
    all_see(cluster, Level::OF_PROGRAM).await;
    for shard in MAP.all().filter(|shard| shard.kind == ShardKind::Timeline) {
        eventually("the shard's own level rises", || async {
            let led = cluster.leads(shard).await;
            if led.iter().any(|led| led.level == Level::OF_PROGRAM.0) { Ok(()) } else { Err(led) }
        })
        .await;
    }
}

async fn phones_cursor(cluster: &Cluster) -> u64 {
    let read =
        ReadHead { timeline: Some(inbox("alice").to_key()), device: "phone".into(), incarnation: 0, unread_of: None };
    match cluster.ask(timeline_shard("alice"), Op::ReadHead(read)).await {
        Outcome::Head(head) => head.cursor,
        other => panic!("no head: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_are_moved_together_as_soon_as_the_last_node_can_read_that() {
    let mut cluster = Cluster::new(3, quick);
    cluster.nodes[2].knows(Level::CLUSTER);
    for node in &mut cluster.nodes {
        node.start().await;
    }
    cluster.nodes[0].found().await;
    for node in &cluster.nodes {
        node.ready().await;
    }
    all_see(&cluster, Level::CLUSTER).await;
    let (shard, inbox) = (timeline_shard("alice"), inbox("alice").to_key());
    for key in 0..3 {
        cluster.append("alice", key).await;
    }
    let epoch = cluster.read("alice").await.head.expect("a head").epoch;
    let op = |op| Op::Timeline(TimelineCommand { op: Some(op) });
    let group = TimelineKey { kind: Kind::Group.into(), owner: "group".into() };
    let moved = |timeline: &TimelineKey, seq| Moved { timeline: Some(timeline.clone()), epoch, seq };
    let moves = || {
        let moved = vec![moved(&inbox, 2), moved(&group, 70)];
        let (timeline, device) = (Some(inbox.clone()), "phone".to_owned());
        op(timeline_command::Op::MoveCursors(MoveCursors { timeline, device, moved, incarnation: 0 }))
    };
    refused_for_its_level(&cluster, shard, moves()).await;
    let set = SetCursor { timeline: Some(inbox.clone()), device: "phone".into(), epoch, seq: 1 };
    assert!(matches!(cluster.ask(shard, op(timeline_command::Op::SetCursor(set))).await, Outcome::Done(_)));
    assert_eq!(phones_cursor(&cluster).await, 1, "as in the release before");

    last_one_is_replaced(&mut cluster).await;
    assert!(matches!(cluster.ask(shard, moves()).await, Outcome::Done(_)));
    assert_eq!(phones_cursor(&cluster).await, 2);
    assert!(cluster.nodes.iter().all(|node| node.tasks().failure().is_none()));
}

/// Sent by a session of this generation.
fn sent_by_bob(key: u64, generation: u64) -> Op {
    let mut command = append("alice", key);
    if let Some(timeline_command::Op::Append(append)) = &mut command.op {
        (append.sender, append.sender_generation) = ("bob".into(), generation);
    }
    Op::Timeline(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_are_ended_as_soon_as_the_last_node_can_read_that_and_appends_are_taken_all_the_time() {
    let mut cluster = Cluster::new(3, quick);
    cluster.nodes[2].knows(Level::BEFORE);
    for node in &mut cluster.nodes {
        node.start().await;
    }
    cluster.nodes[0].found().await;
    for node in &cluster.nodes {
        node.ready().await;
    }
    all_see(&cluster, Level::BEFORE).await;
    let shard = timeline_shard("alice");
    let Outcome::Appended(_) = cluster.ask(shard, sent_by_bob(1, 4)).await else { panic!("not appended") };
    let end = EndSender { sender: "bob".into(), generation: 5 };
    let end = || Op::Timeline(TimelineCommand { op: Some(timeline_command::Op::EndSender(end.clone())) });
    refused_for_its_level(&cluster, shard, end()).await;
    last_one_is_replaced(&mut cluster).await;
    assert!(matches!(cluster.ask(shard, end()).await, Outcome::Done(_)));
    let refused = eventually("what the ended sessions send is refused", || async {
        for node in &cluster.nodes {
            if let Some(Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) })) =
                node.ask(shard, sent_by_bob(2, 4)).await
            {
                return Ok(rejected);
            }
        }
        Err("nobody leads")
    })
    .await;
    assert_eq!(refused.reason(), Reason::SenderGone, "{refused:?}");
    assert!(matches!(cluster.ask(shard, sent_by_bob(3, 5)).await, Outcome::Appended(_)), "a session that came later");
}
