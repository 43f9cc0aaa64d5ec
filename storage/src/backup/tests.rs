//! Shards as a backup has them, and the folder that is made of them.

use std::{fs, io::Read, path::Path};

use bytes::Bytes;
use carillon_proto::{
    ClientId, DeviceId, DuplicateKey, Level, ShardId, ShardKind, ShardMap, TimelineId, UserId,
    pb::{
        client::{Recipient, recipient::To},
        link::RawEnvelope,
        raft::{LogId, SnapshotMeta},
        store::{
            Account, AdvanceClock, Append, CountAccounts, DeleteAccount, DirectoryCommand, DomainKey, Header,
            PutAccount, PutSession, ReadHeldMedia, RegisterNode, Session, SetDomain, SetLevel, TimelineCommand, Trim,
            directory_command::Op as DirectoryOp, timeline_command::Op as TimelineOp,
        },
    },
};
use prost::Message;
use tempfile::TempDir;
use tokio::runtime::{Handle, Runtime};

use super::*;
use crate::{
    config::StorageConfig,
    engine::{Caches, Engines},
    identity::DataDir,
    machine::{DirectoryReader, EntryCommands, Machine, Outcome, TimelineReader},
    snapshot::SnapshotDir,
};

/// With these numbers, alice's inbox is in another shard than bob's and carol's.
const MAP: ShardMap = ShardMap { directory: 1, timeline: 2 };
const INDEX: u64 = 700;
/// A quarter of an hour, and what happened since the backup began.
const QUARTER_MS: u32 = 15 * 60 * 1000;

fn directory() -> ShardId {
    ShardId::REGISTRY
}

fn inboxes_of(user: &str) -> ShardId {
    MAP.timeline_of_owner(user)
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("valid")
}

/// A cluster that is copied: its machines without their Raft groups.
struct Copied {
    _folder: TempDir,
    _engines: Engines,
    /// Of the last command.
    index: u64,
    directory: (Box<dyn Machine>, DirectoryReader),
    timelines: Vec<(Box<dyn Machine>, TimelineReader)>,
}

fn meta() -> SnapshotMeta {
    let last_log_id = Some(LogId { term: 4, node: 2, index: INDEX });
    SnapshotMeta { last_log_id, ..SnapshotMeta::default() }
}

fn open(folder: &Path) -> Engines {
    Engines::open(folder, MAP, Caches::default()).expect("opens")
}

impl Copied {
    /// A cluster with these users, at a level with rows.
    fn with(users: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let engines = open(folder.path());
        let (machine, reader) = engines.directory(directory()).expect("opens");
        let timelines = (0..MAP.timeline).map(|index| {
            let (machine, reader) = engines.timeline(ShardId { kind: ShardKind::Timeline, index }).expect("opens");
            (Box::new(machine) as Box<dyn Machine>, reader)
        });
        let timelines = timelines.collect();
        let mut this =
            Self { _folder: folder, _engines: engines, index: 0, directory: (Box::new(machine), reader), timelines };
        this.pass(1);
        this.in_directory(DirectoryOp::SetLevel(SetLevel { level: Level::OF_PROGRAM.0 }));
        for name in users {
            this.make(name);
        }
        this
    }

    fn make(&mut self, name: &str) {
        let account = Account { user: name.to_owned(), created_ms: 10, ..Account::default() };
        self.in_directory(DirectoryOp::PutAccount(PutAccount {
            account: Some(account),
            numbered: true,
            ..PutAccount::default()
        }));
    }

    fn in_directory(&mut self, op: DirectoryOp) -> Outcome {
        let command = DirectoryCommand { op: Some(op) }.encode_to_vec();
        self.index += 1;
        apply(&mut *self.directory.0, self.index, command)
    }

    fn in_timelines(&mut self, shard: ShardId, op: TimelineOp) -> Outcome {
        let command = TimelineCommand { op: Some(op) }.encode_to_vec();
        self.index += 1;
        apply(&mut *self.timelines[usize::from(shard.index)].0, self.index, command)
    }

    fn incarnation(&self, name: &str) -> u64 {
        self.directory.1.user(name).expect("reads").account.expect("is there").incarnation
    }

    /// All clocks go on.
    fn pass(&mut self, elapsed_ms: u32) {
        for index in 0..MAP.timeline {
            let shard = ShardId { kind: ShardKind::Timeline, index };
            self.in_timelines(shard, TimelineOp::AdvanceClock(AdvanceClock { elapsed_ms }));
        }
    }

    /// One copy of a message, in the inbox of `owner`. Named by its recipient, too, if its client id has been used.
    fn append(&mut self, owner: &str, from: &str, to: &str, id: &str, is_reused: bool) {
        self.append_with((owner, from, to), id, is_reused, None);
    }

    fn append_with(
        &mut self,
        (owner, from, to): (&str, &str, &str),
        id: &str,
        is_reused: bool,
        header: Option<Box<Header>>,
    ) {
        let key =
            DuplicateKey::new(&user(from), &DeviceId::new("d").expect("valid"), &ClientId::new(id).expect("valid"))
                .of_incarnation(self.incarnation(from));
        let key = if is_reused { key.to(&user(to)) } else { key };
        let append = Append {
            timeline: Some(TimelineId::Inbox(user(owner)).to_key()),
            duplicate_key: key.0.to_vec().into(),
            envelope: envelope(from, to, id).encode_to_vec().into(),
            new_epoch: 7,
            incarnation: self.incarnation(owner),
            header,
            ..Append::default()
        };
        let outcome = self.in_timelines(inboxes_of(owner), TimelineOp::Append(append));
        assert!(matches!(outcome, Outcome::Appended(_)), "{outcome:?}");
    }

    /// Both copies.
    fn send(&mut self, from: &str, to: &str, id: &str) {
        self.append(to, from, to, id, false);
        self.append(from, from, to, id, false);
    }

    /// The bytes of a shard, as the service sends them.
    fn bytes(&self, shard: ShardId) -> Vec<u8> {
        let (applied, mut records) = match shard.kind {
            ShardKind::Directory => self.directory.1.copy().expect("reads"),
            ShardKind::Timeline => self.timelines[usize::from(shard.index)].1.copy().expect("reads"),
        };
        let meta = SnapshotMeta::decode(&*applied.expect("has applied something")).expect("decodes");
        let mut bytes = Vec::new();
        crate::snapshot::encode(&mut bytes, shard.group(), meta, &mut records).expect("encodes");
        bytes
    }

    fn restored(&self, into: &Path) -> Result<Restored, RestoreError> {
        restored_of(into, |shard| self.bytes(shard))
    }
}

fn apply(machine: &mut dyn Machine, index: u64, command: Vec<u8>) -> Outcome {
    let entry = EntryCommands { index, commands: vec![command.into()] };
    let mut outcomes = machine.apply(&[entry], &meta().encode_to_vec()).expect("applies");
    outcomes.pop().and_then(|mut outcomes| outcomes.pop()).expect("an outcome")
}

fn envelope(from: &str, to: &str, id: &str) -> RawEnvelope {
    RawEnvelope {
        id: format!("{from}-{to}-{id}"),
        sender: from.to_owned(),
        sender_device: "d".to_owned(),
        to: Some(Recipient { to: Some(To::User(to.to_owned())) }),
        client_id: id.to_owned(),
        time_ms: 1000,
        ..RawEnvelope::default()
    }
}

fn runtime() -> Runtime {
    Runtime::new().expect("a runtime")
}

fn config(into: &Path) -> StorageConfig {
    StorageConfig { data_dir: into.to_owned(), ..StorageConfig::default() }
}

fn restored_of(into: &Path, bytes: impl Fn(ShardId) -> Vec<u8>) -> Result<Restored, RestoreError> {
    let runtime = runtime();
    let handle: Handle = runtime.handle().clone();
    let mut restore = Restore::begin(&config(into), Level::OF_PROGRAM, MAP)?;
    for shard in MAP.all() {
        restore.shard(shard, 0, &*bytes(shard))?;
    }
    restore.finish(&handle)
}

/// The messages of an inbox in a restored folder, by their ids.
fn inbox(folder: &Path, name: &str) -> Vec<String> {
    let engines = open(folder);
    let (_, reader) = engines.timeline(inboxes_of(name)).expect("opens");
    let state = reader.state(&TimelineId::Inbox(user(name)).to_key()).expect("reads");
    let Some(state) = state.filter(|state| state.number != 0 && state.first <= state.last) else { return Vec::new() };
    let kept = reader.kept(&state, state.first, 1000).expect("reads");
    kept.into_iter().map(|kept| RawEnvelope::decode(kept.envelope).expect("an envelope").id).collect()
}

#[test]
fn the_missing_copy_of_a_message_at_the_cut_is_made() {
    assert_ne!(inboxes_of("alice"), inboxes_of("bob"), "the test needs two shards");
    let mut copied = Copied::with(&["alice", "bob", "carol"]);
    copied.send("alice", "bob", "old");
    copied.pass(QUARTER_MS);
    copied.send("alice", "bob", "both");
    // In the inbox of the recipient, or of the sender, alone.
    copied.append("bob", "alice", "bob", "received", false);
    copied.append("alice", "alice", "bob", "sent-1", false);
    copied.append("alice", "alice", "bob", "sent-2", false);
    copied.append("alice", "alice", "alice", "to-oneself", false);
    // One client id for two recipients.
    copied.append("alice", "alice", "bob", "twice", false);
    copied.append("alice", "alice", "carol", "twice", true);
    copied.append("bob", "alice", "bob", "again", false);
    copied.append("carol", "alice", "carol", "again", false);
    let folder = tempfile::tempdir().expect("a folder");
    let restored = copied.restored(folder.path()).expect("restores");
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    let of_bob = ["alice-bob-old", "alice-bob-both", "alice-bob-received", "alice-bob-again"];
    let of_bob = [&of_bob[..], &["alice-bob-sent-1", "alice-bob-sent-2", "alice-bob-twice"]].concat();
    assert_eq!(inbox(folder.path(), "bob"), ids(&of_bob), "in the order in which they were sent");
    assert_eq!(inbox(folder.path(), "carol"), ids(&["alice-carol-again", "alice-carol-twice"]));
    let mut of_alice = inbox(folder.path(), "alice");
    let new = of_alice.split_off(7);
    assert_eq!(of_alice[..3], ids(&["alice-bob-old", "alice-bob-both", "alice-bob-sent-1"]));
    assert_eq!(new, ids(&["alice-bob-received", "alice-bob-again", "alice-carol-again"]));
    assert_eq!(restored.mended, Mended { messages: 7, ended: 0 });
}

#[test]
fn the_copy_that_is_made_of_a_message_holds_its_file() {
    let mut copied = Copied::with(&["alice", "bob"]);
    for index in 0..MAP.timeline {
        let level = SetLevel { level: Level::OF_PROGRAM.0 };
        copied.in_timelines(ShardId { kind: ShardKind::Timeline, index }, TimelineOp::SetLevel(level));
    }
    copied.pass(QUARTER_MS);
    let media = vec![Bytes::from_static(&[7; 16])];
    let header = Header { countable: true, media: media.clone(), ..Header::default() };
    copied.append_with(("alice", "alice", "bob"), "sent", false, Some(Box::new(header)));
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(copied.restored(folder.path()).expect("restores").mended.messages, 1);
    assert_eq!(inbox(folder.path(), "bob"), ["alice-bob-sent"]);
    let engines = open(folder.path());
    for user in ["alice", "bob"] {
        let (_, reader) = engines.timeline(inboxes_of(user)).expect("opens");
        let held = reader.held_media(&ReadHeldMedia { ids: media.clone() }).expect("reads");
        assert_eq!(held.ids, media, "{user}");
    }
}

#[test]
fn what_is_old_trimmed_or_of_a_former_owner_is_left_as_it_is() {
    let mut copied = Copied::with(&["alice", "bob", "carol", "dave"]);
    copied.append("bob", "alice", "bob", "long-ago", false);
    copied.pass(QUARTER_MS);
    // Carol's inbox was trimmed in between.
    copied.send("carol", "bob", "trimmed");
    copied.send("carol", "bob", "kept");
    let trim =
        Trim { timeline: Some(TimelineId::Inbox(user("carol")).to_key()), before_seq: 2, limit: 10, ..Trim::default() };
    copied.in_timelines(inboxes_of("carol"), TimelineOp::Trim(trim));
    // Dave was deleted after his inbox was read, and before alice's was.
    copied.append("dave", "dave", "alice", "of-dave", false);
    copied.append("alice", "alice", "dave", "to-dave", false);
    copied.in_directory(DirectoryOp::DeleteAccount(DeleteAccount { user: "dave".to_owned(), time_ms: 2000 }));
    let folder = tempfile::tempdir().expect("a folder");
    let restored = copied.restored(folder.path()).expect("restores");
    assert_eq!(restored.mended, Mended { messages: 0, ended: 1 });
    assert_eq!(inbox(folder.path(), "alice"), ["alice-dave-to-dave"]);
    assert_eq!(inbox(folder.path(), "carol"), ["carol-bob-kept"]);
    assert!(inbox(folder.path(), "dave").is_empty());
}

#[test]
fn the_new_cluster_has_nothing_of_the_nodes_and_connections_of_the_old_one() {
    let mut copied = Copied::with(&["alice"]);
    let lease = match copied.in_directory(DirectoryOp::RegisterNode(RegisterNode {
        kind: 1,
        ttl_ms: 1000,
        nonce: vec![1; 16].into(),
        ..RegisterNode::default()
    })) {
        Outcome::Registered(registered) => registered.lease,
        other => panic!("{other:?}"),
    };
    let session = Session {
        user: "alice".into(),
        device: "d".into(),
        lease,
        connection: 1,
        by_token: true,
        ..Session::default()
    };
    copied.in_directory(DirectoryOp::PutSession(PutSession { session: Some(session), ..PutSession::default() }));
    assert_eq!(copied.directory.1.user("alice").expect("reads").sessions.len(), 1);
    // What is decided for domains is of the users, and stays.
    copied.make("ann@acme.example");
    let key = DomainKey { sha256: vec![7; 32].into(), created_ms: 1 };
    let set = SetDomain { name: "acme.example".into(), max_users: Some(9), add_key: Some(key), ..SetDomain::default() };
    copied.in_directory(DirectoryOp::SetDomain(set));
    let domains = copied.directory.1.registry().borrow().domains.all();
    assert_eq!(domains.len(), 1);
    let folder = tempfile::tempdir().expect("a folder");
    let restored = copied.restored(folder.path()).expect("restores");

    let identity = DataDir::open(folder.path()).expect("opens").identity().expect("reads");
    assert!(identity.put_back && identity.node == 1 && identity.level == Level::OF_PROGRAM.0);
    assert_eq!(identity.cluster.expect("has its place").id, restored.cluster);
    let engines = open(folder.path());
    let (mut machine, reader) = engines.directory(directory()).expect("opens");
    let state = reader.registry().borrow().clone();
    assert!(state.nodes.is_empty() && state.has_ended(lease), "{state:?}");
    let nodes: Vec<_> = state.cluster.nodes().map(|node| (node.node, node.disk.clone())).collect();
    assert_eq!(nodes, [(1, identity.disk)]);
    assert_eq!(state.cluster.placement().len(), MAP.all().count());
    let read = reader.user("alice").expect("reads");
    assert!(read.account.is_some() && read.sessions.is_empty());
    assert_eq!(state.domains.all(), domains);
    let count = reader.count_accounts(&CountAccounts { domain: "acme.example".into() }).expect("reads");
    assert_eq!(count.accounts, 1);
    // Names of commands go on behind those of the old cluster.
    let again = EntryCommands {
        index: INDEX + (1 << 32) + 1,
        commands: vec![
            DirectoryCommand {
                op: Some(DirectoryOp::RegisterNode(RegisterNode {
                    kind: 1,
                    ttl_ms: 1000,
                    nonce: vec![2; 16].into(),
                    ..RegisterNode::default()
                })),
            }
            .encode_to_vec()
            .into(),
        ],
    };
    machine.apply(&[again], &meta().encode_to_vec()).expect("applies");
    assert_eq!(reader.registry().borrow().nodes.len(), 1);
    // The engines alone don't survive a power failure.
    for shard in MAP.all() {
        let snapshots = SnapshotDir::open(&folder.path().join("snapshots"), shard.to_string(), shard.group());
        let (meta, file) = snapshots.expect("opens").current().expect("reads").expect("is there");
        assert_eq!(file.verify().expect("sound").meta, meta);
        assert_eq!(meta.last_log_id.map(|id| (id.term, id.index)), Some((0, INDEX + (1 << 32))));
    }
}

#[test]
fn a_damaged_or_incomplete_backup_leaves_an_empty_folder() {
    let mut copied = Copied::with(&["alice", "bob"]);
    copied.send("alice", "bob", "1");
    let folder = tempfile::tempdir().expect("a folder");
    let into = folder.path().join("data");
    for at in 0..4 {
        let flipped = |shard: ShardId| {
            let mut bytes = copied.bytes(shard);
            let at = [0, 9, bytes.len() / 2, bytes.len() - 1][at];
            if shard == inboxes_of("bob") {
                bytes[at] ^= 1;
            }
            bytes
        };
        let refused = restored_of(&into, flipped).expect_err("damaged");
        assert!(matches!(refused, RestoreError::Damaged { .. }), "{refused}");
        let left: Vec<_> = fs::read_dir(&into).expect("lists").map(|entry| entry.expect("lists").file_name()).collect();
        assert_eq!(left, ["lock"], "place {at}");
    }
    let cut = |shard: ShardId| copied.bytes(shard).split_last().map(|(_, rest)| rest.to_vec()).expect("not empty");
    assert!(matches!(restored_of(&into, cut), Err(RestoreError::Damaged { .. })));
    let runtime = runtime();
    let mut one = Restore::begin(&config(&into), Level::OF_PROGRAM, MAP).expect("begins");
    one.shard(inboxes_of("bob"), 0, &*copied.bytes(inboxes_of("bob"))).expect("sound");
    assert!(
        into.join("log").exists(),
        "a node that was started on it by mistake would refuse a log without an identity"
    );
    let why = one.finish(runtime.handle()).expect_err("the others are missing").to_string();
    assert!(why.contains("is missing"), "{why}");
    // After all this, and after an attempt that was killed, it is made.
    fs::write(into.join("restoring"), []).expect("writes");
    fs::write(into.join("half"), []).expect("writes");
    copied.restored(&into).expect("restores");
    assert!(!into.join("half").exists() && !into.join("restoring").exists());
    let refused = copied.restored(&into).expect_err("it is somebody's");
    assert!(matches!(&refused, RestoreError::Refused(why) if why.contains("not empty")), "{refused}");
}

#[test]
fn a_later_level_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = Restore::begin(&config(folder.path()), Level(Level::OF_PROGRAM.0 + 1), MAP).err().expect("refused");
    assert!(refused.to_string().contains("run the release"), "{refused}");
}

#[test]
fn a_check_counts_what_is_there_and_finds_what_is_wrong() {
    let mut copied = Copied::with(&["alice", "bob"]);
    copied.send("alice", "bob", "1");
    for shard in MAP.all() {
        let bytes = copied.bytes(shard);
        let checked = check_shard(shard, &*bytes).expect("sound");
        assert!(checked.records > 0 && checked.index == INDEX);
        assert!(check_shard(shard, bytes.chain(&[0][..])).is_err(), "it goes on");
        let other = MAP.all().find(|other| *other != shard).expect("there are several");
        assert!(check_shard(other, &*bytes).is_err());
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x20;
            assert!(check_shard(shard, &*bytes).is_err(), "{shard}, byte {at}");
        }
    }
}
