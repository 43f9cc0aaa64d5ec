//! Data on the disk that is not what was written: at rest and while the node runs, in each kind of file.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use carillon_proto::{
    ShardId, UserId,
    pb::store::{
        Account, DirectoryCommand, PutAccount, ReadTimeline, ReadUser, directory_command, put_account::Mode,
        store_reply::Result as Outcome, store_request::Op,
    },
};
use carillon_storage::{OpenError, Remedy, Repair, StorageConfig, repair};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep};

use crate::{
    disk::copy,
    forgetful, quick,
    support::{Cluster, MAP, Node, eventually, inbox, snapshot_of, timeline_shard},
};

const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];
const PATIENCE: Duration = Duration::from_secs(60);

/// The content of a store: the envelopes of each user, and the time of creation of each account.
#[derive(Debug, Default, PartialEq, Eq)]
struct Content {
    timelines: BTreeMap<String, Vec<(u64, Vec<u8>)>>,
    accounts: BTreeMap<String, u64>,
}

/// Why a node gave no content.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    Refused,
    /// The node left while it was read.
    Gone,
}

async fn fill(cluster: &Cluster, messages: u64, bytes: usize) {
    for key in 0..messages {
        for user in USERS {
            cluster.append_noise(user, key, bytes).await;
        }
        let user = format!("user-{key}");
        let account = Account { user: user.clone(), created_ms: key, ..Account::default() };
        let put = PutAccount { account: Some(account), mode: Mode::Create.into(), ..PutAccount::default() };
        let command = DirectoryCommand { op: Some(directory_command::Op::PutAccount(put)) };
        cluster.ask(directory_shard(&user), Op::Directory(command)).await;
    }
}

fn directory_shard(user: &str) -> ShardId {
    MAP.directory_of(&UserId::new(user).expect("valid"))
}

/// Everything that the node has, or that it left. A wrong answer is the test's own failure, where the content is compared.
async fn content(node: &Node, users: impl Iterator<Item = u64>) -> Result<Content, Left> {
    let mut content = Content::default();
    for user in USERS {
        let entries = content.timelines.entry(user.to_owned()).or_default();
        loop {
            let from_seq = entries.last().map_or(1, |(seq, _)| seq + 1);
            let timeline = Some(inbox(user).to_key());
            let read = ReadTimeline { timeline, from_seq, limit: 1000, max_bytes: 1 << 20, ..ReadTimeline::default() };
            let Outcome::TimelineRead(read) = ask(node, timeline_shard(user), Op::ReadTimeline(read)).await? else {
                panic!("no timeline");
            };
            entries.extend(read.entries.into_iter().map(|entry| (entry.seq, entry.envelope.to_vec())));
            if read.complete {
                break;
            }
        }
    }
    for number in users {
        let user = format!("user-{number}");
        let read = Op::ReadUser(ReadUser { user: user.clone(), by: None });
        let Outcome::User(found) = ask(node, directory_shard(&user), read).await? else { panic!("no user") };
        if let Some(account) = found.account {
            content.accounts.insert(account.user, account.created_ms);
        }
    }
    Ok(content)
}

/// Asks until there is an answer, or the node has left.
async fn ask(node: &Node, shard: ShardId, op: Op) -> Result<Outcome, Left> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match node.ask(shard, op.clone()).await {
            None | Some(Outcome::Error(_)) if node.tasks().is_stopping() => return Err(Left::Gone),
            None | Some(Outcome::Error(_)) => sleep(Duration::from_millis(20)).await,
            Some(outcome) => return Ok(outcome),
        }
    }
    panic!("neither an answer nor an end: {:?}", node.storage().ready().borrow().clone());
}

/// Starts the node; the error says what is damaged.
async fn started(node: &mut Node) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = node.try_start().await {
        match error {
            OpenError::Damaged(_) => return Err(error.to_string()),
            // The engines of the attempt before may still be on their way out.
            error => assert!(Instant::now() < deadline, "neither sound nor damaged: {error}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Starts the node on this folder, and reads everything. With `unread`, something is damaged of what is not read to answer:
/// then it waits until the node has found it.
async fn content_of(node: &mut Node, users: u64, unread: bool) -> Result<Content, Left> {
    if started(node).await.is_err() {
        return Err(Left::Refused);
    }
    let mut found = content(node, 0..users).await;
    if unread {
        left(node).await;
        found = Err(Left::Gone);
    }
    if found.is_ok() {
        node.drain_and_stop().await;
        return found;
    }
    assert!(node.storage().is_damaged(), "it says what is damaged: {:?}", node.tasks().failure());
    assert!(!node.storage().ready().borrow().is_ready());
    let told = node.tasks().failure().unwrap_or_default().to_owned();
    assert!(told.contains("is damaged") && told.contains("carillon repair"), "{told}");
    node.stop().await;
    found
}

/// Repairs when the engines of the last attempt to start have let go of the folder.
async fn repaired(folder: &Path) -> Result<Repair, OpenError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match repair(folder, false) {
            Err(error) if error.to_string().contains("lock") && Instant::now() < deadline => {
                sleep(Duration::from_millis(20)).await;
            }
            done => return done,
        }
    }
}

fn files(folder: &Path, is_it: impl Fn(&Path) -> bool + Copy) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("lists") {
        let path = entry.expect("lists").path();
        if path.is_dir() {
            found.extend(files(&path, is_it));
        } else if is_it(&path) && path.metadata().is_ok_and(|found| found.len() > 0) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Flips a bit of the content, of which a file may be a small part: the rest is reserved and zero.
fn flip(path: &Path, rng: &mut StdRng) -> u64 {
    let mut bytes = fs::read(path).expect("reads");
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
    let at = rng.random_range(0..end);
    bytes[at] ^= 1 << rng.random_range(0..8);
    fs::write(path, bytes).expect("writes");
    at as u64
}

/// Cuts the content off somewhere.
fn tear(path: &Path, rng: &mut StdRng) -> u64 {
    let bytes = fs::read(path).expect("reads");
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
    let at = rng.random_range(0..end) as u64;
    fs::File::options().write(true).open(path).and_then(|file| file.set_len(at)).expect("cuts");
    at
}

/// A number from the environment, for longer runs.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().expect("a number"))
}

/// A folder of a node that is alone, with snapshots, tables and journals.
async fn folder_of_a_node_alone(messages: u64) -> (Cluster, Content) {
    let mut cluster = Cluster::alone(|config| {
        forgetful(config);
        config.timeline_memtables_bytes = 3 << 20;
    })
    .await;
    fill(&cluster, messages, 12_000).await;
    let content = content(&cluster.nodes[0], 0..messages).await.expect("sound");
    assert_eq!(content.accounts.len() as u64, messages);
    let folder = cluster.nodes[0].config.data_dir.clone();
    for user in USERS {
        snapshot_of(&cluster.nodes[0], user, None).await;
    }
    cluster.nodes[0].drain_and_stop().await;
    for (what, count) in [(".raftlog", 1), (".snapshot", 1), (".jnl", 1)] {
        let found = files(&folder, |path| path.to_string_lossy().ends_with(what));
        assert!(found.len() >= count, "{what}: {found:?}");
    }
    let is_table = |path: &Path| path.components().any(|part| part.as_os_str() == "tables");
    assert!(!files(&folder, is_table).is_empty());
    (cluster, content)
}

type IsIt = fn(&Path) -> bool;

fn kinds() -> [(&'static str, IsIt); 8] {
    fn in_folder(path: &Path, folder: &str) -> bool {
        path.components().any(|part| part.as_os_str() == folder)
    }
    fn ends(path: &Path, end: &str) -> bool {
        path.to_string_lossy().ends_with(end)
    }
    [
        ("log", |path| ends(path, ".raftlog") || ends(path, ".rewrite")),
        ("high-water", |path| ends(path, "high-water")),
        ("identity", |path| ends(path, "/identity")),
        ("snapshot", |path| ends(path, ".snapshot")),
        ("directory", |path| in_folder(path, "directory")),
        ("timeline table", |path| in_folder(path, "tables")),
        ("timeline journal", |path| ends(path, ".jnl")),
        ("timeline list", |path| in_folder(path, "timeline") && !in_folder(path, "tables") && !ends(path, ".jnl")),
    ]
}

/// The seed and the number of harms to each kind of file are settings: `CARILLON_TEST_SEED`, `CARILLON_HARMS`.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_or_a_torn_file_at_rest_is_refused_or_does_no_harm_and_is_never_served() {
    let seed = setting("CARILLON_TEST_SEED", rand::random::<u32>().into());
    eprintln!("CARILLON_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut cluster, sound) = folder_of_a_node_alone(60).await;
    let (folder, saved) = (cluster.nodes[0].config.data_dir.clone(), cluster.path("saved"));
    fs::rename(&folder, &saved).expect("moves");
    let only = std::env::var("CARILLON_ONLY").unwrap_or_default();
    for (kind, is_it) in kinds().into_iter().filter(|(kind, _)| kind.contains(&only)) {
        let mut counts = [0; 3];
        for number in 0..setting("CARILLON_HARMS", 2) {
            copy(&saved, &folder);
            let files = files(&folder, is_it);
            let path = files[rng.random_range(0..files.len())].clone();
            let (harm, at) = match number % 2 {
                0 => ("a bit flipped", flip(&path, &mut rng)),
                _ => ("torn", tear(&path, &mut rng)),
            };
            let place = format!("{kind}: {harm} at {at} of {}", path.display());
            let found = content_of(&mut cluster.nodes[0], 60, kind == "snapshot").await;
            counts[match &found {
                Ok(_) => 0,
                Err(Left::Refused) => 1,
                Err(Left::Gone) => 2,
            }] += 1;
            match &found {
                Ok(content) => assert!(*content == sound, "served wrong: {place}"),
                Err(_) => {
                    // The node does not come back before it is made whole, even if the next start would not notice.
                    assert_eq!(content_of(&mut cluster.nodes[0], 60, false).await, Err(Left::Refused), "{place}");
                    match repaired(&folder).await {
                        // A node that is alone can only be put back.
                        Err(error) => assert!(error.to_string().contains("backup"), "{place}: {error}"),
                        // Nobody knows any more whether it is alone.
                        Ok(done) if kind == "identity" => assert_eq!(done.remedy, Remedy::Replace { node: None }),
                        Ok(done) => {
                            assert!(done.remedy == Remedy::Rebuild || done.found.is_empty(), "{place}: {done:?}");
                            let whole = content_of(&mut cluster.nodes[0], 60, false).await;
                            assert!(whole.as_ref() == Ok(&sound), "{place}: {done:?}: {:?}", whole.err());
                        }
                    }
                }
            }
            fs::remove_dir_all(&folder).expect("removes");
        }
        eprintln!("{kind}: {} harmless, {} refused, {} left while it was read", counts[0], counts[1], counts[2]);
    }
}

/// Changes every 500th byte of these files, under the hands of the node, which may cut them or delete them.
fn spoil(folder: &Path, is_it: impl Fn(&Path) -> bool + Copy) {
    for path in files(folder, is_it) {
        let file = match fs::File::options().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file.expect("opens"),
        };
        let mut byte = [0];
        for at in (0..).step_by(500) {
            if file.read_at(&mut byte, at).expect("reads") == 0 {
                break;
            }
            file.write_all_at(&[!byte[0]], at).expect("writes");
        }
    }
}

async fn left(node: &Node) -> String {
    let ended = tokio::time::timeout(PATIENCE, node.tasks().stopping()).await;
    assert!(ended.is_ok(), "it goes on: {:?}", node.storage().ready().borrow().clone());
    assert!(!node.storage().ready().borrow().is_ready());
    node.tasks().failure().unwrap_or_default().to_owned()
}

fn with_tables(config: &mut StorageConfig) {
    quick(config);
    (config.timeline_cache_bytes, config.timeline_memtables_bytes) = (1 << 20, 3 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_tables_are_damaged_leaves_and_is_made_whole() {
    const MESSAGES: u64 = 150;
    let mut cluster = Cluster::started(3, with_tables).await;
    fill(&cluster, MESSAGES, 10_000).await;
    let leader = cluster.leader_of("alice").await;
    let sound = cluster.read("alice").await.entries;
    let folder = cluster.nodes[leader].config.data_dir.clone();
    let is_table = |path: &Path| path.components().any(|part| part.as_os_str() == "tables");
    eventually("tables are written", || async {
        if files(&folder, is_table).is_empty() { Err("none yet") } else { Ok(()) }
    })
    .await;
    spoil(&folder, is_table);
    // Whoever answers, answers right; and the damaged one is found out and leaves.
    let deadline = Instant::now() + PATIENCE;
    while !cluster.nodes[leader].tasks().is_stopping() {
        assert!(Instant::now() < deadline, "it serves on damaged tables");
        for user in USERS {
            let mut seq = 0;
            while seq < MESSAGES {
                let entries = cluster.read_from(user, seq + 1).await.entries;
                seq = entries.last().expect("more").seq;
                if user == "alice" {
                    let from = entries.first().expect("some").seq as usize - 1;
                    let expected = sound.iter().skip(from).take(entries.len());
                    assert!(expected.zip(&entries).all(|(expected, found)| expected == found));
                }
            }
        }
    }
    let told = left(&cluster.nodes[leader]).await;
    assert!(told.contains("timeline") && told.contains("carillon repair"), "{told}");
    assert!(cluster.nodes[leader].storage().is_damaged());
    cluster.nodes[leader].stop().await;
    started(&mut cluster.nodes[leader]).await.expect_err("it must not serve");
    fill_more(&cluster, MESSAGES).await;

    let looked = repair(&folder, true).expect("looks");
    assert!(looked.remedy == Remedy::Rebuild && !looked.found.is_empty(), "{looked:?}");
    assert_eq!(repaired(&folder).await.expect("repairs"), looked);
    assert!(folder.join("aside-1/timeline").exists());
    cluster.nodes[leader].start().await;
    cluster.nodes[leader].ready().await;
    // The node that was damaged is needed by the one other that is left.
    let other = (0..3).find(|node| *node != leader).expect("there are three");
    cluster.nodes[other].stop().await;
    for user in USERS {
        let mut last = 0;
        while last < MESSAGES + 1 {
            last = cluster.read_from(user, last + 1).await.entries.last().expect("more").seq;
        }
    }
    assert_eq!(cluster.append("alice", 1_000_001).await.seq, MESSAGES + 2);
}

async fn fill_more(cluster: &Cluster, seq: u64) {
    for user in USERS {
        assert_eq!(cluster.append(user, 1_000_000).await.seq, seq + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_with_a_damaged_log_must_begin_anew() {
    let mut cluster = Cluster::started(3, quick).await;
    for key in 0..50 {
        cluster.append("alice", key).await;
    }
    let leader = cluster.leader_of("alice").await;
    let follower = (0..3).find(|node| *node != leader).expect("there are three");
    cluster.nodes[follower].stop().await;
    let folder = cluster.nodes[follower].config.data_dir.clone();
    spoil(&folder, |path| path.to_string_lossy().ends_with(".raftlog"));
    for _ in 0..2 {
        let refused = started(&mut cluster.nodes[follower]).await.expect_err("it must not serve");
        assert!(refused.contains("raft log") && refused.contains("carillon repair"), "{refused}");
    }
    assert_eq!(cluster.append("alice", 50).await.seq, 51, "the others go on");
    let done = repaired(&folder).await.expect("repairs");
    let node = follower as u64 + 1;
    assert_eq!(done.remedy, Remedy::Replace { node: Some(node) }, "{done:?}");
    for part in ["identity", "log", "directory", "timeline", "snapshots"] {
        assert!(folder.join("aside-1").join(part).exists() && !folder.join(part).exists(), "{part}");
    }
    assert!(!folder.join("damaged").exists(), "it may begin anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_damaged_is_found_before_it_is_needed() {
    let mut cluster = Cluster::started(3, forgetful).await;
    for key in 0..1500 {
        cluster.append("alice", key).await;
    }
    snapshot_of(&cluster.nodes[1], "alice", None).await;
    cluster.nodes[1].stop().await;
    let folder = cluster.nodes[1].config.data_dir.clone();
    let is_alices = format!("{}.snapshot", timeline_shard("alice"));
    // The end of the file, not the header that each start reads.
    let paths = files(&folder, |path| path.ends_with(&is_alices));
    let path = paths.first().expect("there is one");
    let mut bytes = fs::read(path).expect("reads");
    let at = bytes.len() - 30;
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("writes");
    cluster.nodes[1].start().await;
    let told = left(&cluster.nodes[1]).await;
    assert!(told.contains(&format!("snapshot of shard {}", timeline_shard("alice"))), "{told}");
    cluster.nodes[1].stop().await;
    let done = repaired(&folder).await.expect("repairs");
    assert_eq!((done.found.len(), done.remedy), (1, Remedy::Rebuild));
    cluster.nodes[1].start().await;
    cluster.nodes[1].ready().await;
    cluster.nodes[0].stop().await;
    assert_eq!(cluster.append("alice", 5000).await.seq, 1501);
}
