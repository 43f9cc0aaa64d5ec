//! A cluster that has lost the majority of its nodes goes on with what is left.

use std::path::{Path, PathBuf};

use carillon_proto::pb::store::TimelineRead;
use carillon_storage::{
    StorageConfig,
    backup::{Recovered, RestoreError, recover},
};
use tokio::runtime::Handle;

use super::{
    growth::rebalance,
    quick,
    support::{Cluster, eventually},
};

const USERS: [&str; 3] = ["alice", "bob", "carol"];

async fn write(cluster: &Cluster, keys: std::ops::Range<u64>) {
    for key in keys {
        for user in USERS {
            cluster.append(user, key).await;
        }
    }
}

/// When the logs of the stopped nodes have let go of their folders.
async fn recovered(from: &[&Path], into: &Path) -> Result<Recovered, RestoreError> {
    let config = StorageConfig { data_dir: into.to_owned(), ..StorageConfig::default() };
    eventually("the folders can be opened", || async {
        let (from, config) = (from.iter().map(PathBuf::from).collect::<Vec<_>>(), config.clone());
        let runtime = Handle::current();
        let recovering = tokio::task::spawn_blocking(move || recover(&from, &config, &runtime));
        match recovering.await.expect("does not panic") {
            Err(RestoreError::Failed(why)) if why.contains("lock file") => Err(why),
            done => Ok(done),
        }
    })
    .await
}

/// A node on this folder, which is a cluster.
async fn alone(folder: &Path) -> Cluster {
    let mut cluster = Cluster::new(1, |config| {
        quick(config);
        config.data_dir = folder.to_owned();
        config.members.clear();
    });
    cluster.nodes[0].start().await;
    cluster.nodes[0].ready().await;
    cluster
}

fn of(read: &TimelineRead) -> (u64, u64, Vec<u64>) {
    let head = read.head.expect("has one");
    (head.last, head.epoch, read.entries.iter().map(|entry| entry.seq).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_of_three_goes_on_with_what_it_has() {
    let mut cluster = Cluster::started(3, quick).await;
    // The command ends at once, as all is spread. Before it is taken, the cluster may have no rows.
    rebalance(&cluster).await;
    write(&cluster, 0..20).await;
    cluster.nodes[2].stop().await;
    write(&cluster, 20..30).await;
    let mut before = Vec::new();
    for user in USERS {
        before.push(of(&cluster.read(user).await));
    }
    let folders: Vec<PathBuf> = cluster.nodes.iter().map(|node| node.config.data_dir.clone()).collect();
    let running = recovered(&[&folders[0]], &cluster.path("new")).await.expect_err("it runs");
    assert!(matches!(&running, RestoreError::Refused(why) if why.contains("in use")), "{running}");
    cluster.nodes[0].stop().await;
    cluster.nodes[1].stop().await;

    // A folder of a node that was not behind.
    let full = cluster.path("full");
    let taken = recovered(&[&folders[0]], &full).await.expect("recovers").taken;
    assert!(taken.iter().all(|taken| taken.folder == folders[0]), "{taken:?}");
    let now = alone(&full).await;
    for (user, (last, epoch, seqs)) in USERS.iter().zip(&before) {
        let read = now.read(user).await;
        let (now_last, now_epoch, now_seqs) = of(&read);
        assert_eq!((now_last, &now_seqs), (*last, seqs), "{user}");
        assert_ne!(now_epoch, *epoch, "devices have to notice");
        assert_eq!(now.append(user, 100).await.seq, last + 1);
        // Earlier messages are known: a repeat is not appended again.
        assert_eq!(now.append(user, 29).await.seq, *last);
    }
    drop(now);

    // A node that was behind has less; with the other one, nothing is missing.
    let less = cluster.path("less");
    recovered(&[&folders[2]], &less).await.expect("recovers");
    let now = alone(&less).await;
    for user in USERS {
        let (last, _, seqs) = of(&now.read(user).await);
        assert_eq!((last, seqs), (20, (1..=20).collect()), "{user}");
    }
    drop(now);
    let both = cluster.path("both");
    let taken = recovered(&[&folders[2], &folders[1]], &both).await.expect("recovers").taken;
    assert!(taken.iter().any(|taken| taken.folder == folders[1]), "{taken:?}");
    let now = alone(&both).await;
    for (user, (last, ..)) in USERS.iter().zip(&before) {
        assert_eq!(of(&now.read(user).await).0, *last, "{user}");
    }
    // The folders are as they were: their cluster comes back.
    for node in &mut cluster.nodes {
        node.start().await;
    }
    write(&cluster, 30..31).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_recovered_is_refused() {
    let mut cluster = Cluster::started(3, quick).await;
    rebalance(&cluster).await;
    let mut other = Cluster::alone(quick).await;
    rebalance(&other).await;
    for node in cluster.nodes.iter_mut().chain(&mut other.nodes) {
        node.stop().await;
    }
    let (own, others) = (&cluster.nodes[0].config.data_dir, &other.nodes[0].config.data_dir);
    let refused = |from: &[&Path], into: &Path| {
        let (from, into) = (from.iter().map(PathBuf::from).collect::<Vec<_>>(), into.to_owned());
        async move {
            let from: Vec<&Path> = from.iter().map(PathBuf::as_path).collect();
            recovered(&from, &into).await.expect_err("refused").to_string()
        }
    };
    let into = cluster.path("into");
    let why = refused(&[own, others], &into).await;
    assert!(why.contains("not of one cluster"), "{why}");
    let empty = cluster.path("empty");
    std::fs::create_dir(&empty).expect("makes it");
    for from in [&cluster.path("nowhere"), &empty] {
        let why = refused(&[from], &into).await;
        assert!(why.contains("no data folder of a storage node"), "{why}");
    }
    assert_eq!(std::fs::read_dir(&empty).expect("lists").count(), 0, "nothing is written there");
    let why = refused(&[own], others).await;
    assert!(why.contains("is not empty"), "{why}");
    std::fs::write(own.join("damaged"), "it is").expect("writes");
    let why = refused(&[own], &into).await;
    assert!(why.contains("carillon repair"), "{why}");
}
