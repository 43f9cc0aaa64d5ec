//! Programs of two levels in one cluster. Needs the feature `planted-bugs`: the delivered program reads one level alone.
use crate::{
    quick,
    support::{Cluster, MAP, append, eventually, security, timeline_shard},
};
use carillon_proto::{
    Level, ShardKind,
    pb::store::{
        EndSender, StoreError, TimelineCommand, rejected::Reason, store_error::Why, store_reply::Result as Outcome,
        store_request::Op, timeline_command,
    },
};
use carillon_storage::Storage;

const NEXT: Level = Level(Level::OF_PROGRAM.0 + 1);

async fn all_see(cluster: &Cluster, level: Level) {
    for node in &cluster.nodes {
        node.view("the level", |view| view.level == level.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_rises_when_the_last_node_can_read_it_and_no_sooner() {
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
        assert_eq!(told, [Level::OF_PROGRAM.0, NEXT.0, NEXT.0], "each says what it can");
    }
    for key in 0..20 {
        assert_eq!(cluster.append("alice", key).await.seq, key + 1);
    }
    assert!(
        cluster.nodes.iter().all(|node| node.tasks().failure().is_none()),
        "the older one reads all that is written"
    );

    // The last one is replaced by the newer release.
    cluster.nodes[2].stop().await;
    cluster.nodes[2].knows(NEXT);
    cluster.nodes[2].start().await;
    cluster.nodes[2].ready().await;
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

    // From now on there is no way back.
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
    let refused = eventually("the leader refuses it", || async {
        for node in &cluster.nodes {
            match node.ask(shard, end()).await {
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

    cluster.nodes[2].stop().await;
    cluster.nodes[2].knows(Level::OF_PROGRAM);
    cluster.nodes[2].start().await;
    cluster.nodes[2].ready().await;
    all_see(&cluster, Level::CLUSTER).await;
    for shard in MAP.all().filter(|shard| shard.kind == ShardKind::Timeline) {
        eventually("the shard's own level rises", || async {
            let led = cluster.leads(shard).await;
            if led.iter().any(|led| led.level == Level::CLUSTER.0) { Ok(()) } else { Err(led) }
        })
        .await;
    }
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
