//! The disk of a node: kept, copied and restored, full, and freed.

use std::{fs, path::PathBuf};

use crate::{
    forgetful, quick,
    support::{Cluster, MAP, append, eventually, security, timeline_shard},
};
use carillon_proto::pb::store::{
    StoreError, store_error::Why, store_reply::Result as Outcome, store_request::Op, timeline_command,
};
use carillon_storage::{Storage, mark_put_back};

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

/// A later release may have other defaults than the one that made the folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_keeps_the_number_of_shards_that_it_was_made_with() {
    let mut cluster = Cluster::alone(quick).await;
    for user in ["alice", "bob", "carol"] {
        cluster.append(user, 0).await;
    }
    cluster.nodes[0].stop().await;
    let config = &mut cluster.nodes[0].config;
    (config.directory_shards, config.timeline_shards) = (MAP.directory + 3, MAP.timeline + 5);
    cluster.nodes[0].start().await;
    cluster.nodes[0].ready().await;
    let view = cluster.nodes[0].view("the cluster", |view| view.directory_shards > 0).await;
    assert_eq!((view.directory_shards, view.timeline_shards), (MAP.directory.into(), MAP.timeline.into()));
    for user in ["alice", "bob", "carol"] {
        assert_eq!(cluster.read(user).await.entries.len(), 1);
    }
    cluster.nodes[0].stop().await;
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

/// Copies a folder as an operator does while the node is stopped.
pub(crate) fn copy(from: &std::path::Path, to: &std::path::Path) {
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

/// A small file system in memory; `None` if this process may not mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, mib: u32) -> Option<Self> {
        fs::create_dir_all(&path).expect("a folder");
        let size = format!("size={mib}m");
        let mounted =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&path).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(path))
    }

    /// Fills the file system except for this much.
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
        // If the file system is still in use, the system unmounts it later.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Repeats writes that the store has already, so that nothing changes.
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
    // A file that is just being deleted has no length.
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
