//! What a machine reads by its shard's level, and that it stops at what it can't read.

mod cluster;

use bytes::{BufMut as _, Bytes, BytesMut};
use carillon_proto::{
    Level, ShardId, ShardKind, ShardMap,
    pb::store::{
        Account, AccountErased, AddRingSlot, AddStorageNode, Append, ChangeGroup, ChangeScheduled, CheckMedia,
        CollectMedia, CompleteMedia, CreateGroup, CreateMedia, DeleteAccount, DeleteSession, DirectoryCommand,
        DropRingSlot, DropStorageNode, EndSender, EraseAccount, EraseSender, ExpireMessages, ForgetReleasedMedia,
        ForgetReplica, FoundCluster, GroupSettings, Membership, MoveCursors, MoveMarks, MoveReplica, NoteReleasedMedia,
        PlaceReplica, PreferReplica, PutAccount, PutSession, RaiseLevel, Rebalance, Redact, ReleaseScheduled,
        RemoveMedia, RemoveReplica, RemoveReports, ReplicaJoined, Schedule, SenderErased, Session, SetConversation,
        SetLevel, SetMembership, SetReplicaVotes, SetStorageNode, SetStorageNodeState, SettleOutbox, SettleReport,
        SettleScheduled, StorageNode, StoreError, SweepConversations, SweepCursors, SweepMemberships, TimelineCommand,
        TimelineKey, change_group::Change, directory_command::Op, move_cursors::Moved, put_account::Mode, redact,
        rejected, store_error::Why, sweep_cursors::Seen, timeline_command, timeline_key::Kind,
    },
};
use proptest::prelude::*;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::*;
use crate::machine::{DirectoryMachine, Outcome, TimelineMachine, admit_directory, admit_timeline};

const TIMELINE: ShardId = ShardId { kind: ShardKind::Timeline, index: 0 };

fn directory(engines: &Engines) -> DirectoryMachine {
    engines.directory(ShardId::REGISTRY).expect("shard").0
}

fn timeline(engines: &Engines) -> TimelineMachine {
    engines.timeline(TIMELINE).expect("shard").0
}

fn command(op: Op) -> DirectoryCommand {
    DirectoryCommand { op: Some(op) }
}

fn set_level(level: Level) -> DirectoryCommand {
    command(Op::SetLevel(SetLevel { level: level.0 }))
}

fn found() -> DirectoryCommand {
    let node = |node: u64| StorageNode {
        node,
        disk: vec![node as u8; 16].into(),
        address: format!("node-{node}:1"),
        level: 1,
        ..StorageNode::default()
    };
    let members = (1..=3).map(node).collect();
    command(Op::FoundCluster(FoundCluster { members, directory_shards: 2, timeline_shards: 2 }))
}

fn append(key: u8) -> TimelineCommand {
    TimelineCommand {
        op: Some(timeline_command::Op::Append(Append {
            timeline: Some(TimelineKey { kind: Kind::Inbox.into(), owner: "alice".into() }),
            duplicate_key: vec![key; 16].into(),
            envelope: Bytes::from_static(b"envelope"),
            new_epoch: 7,
            ..Append::default()
        })),
    }
}

/// With a field that no program of today knows.
fn with_a_new_field(command: &impl Message) -> Bytes {
    let mut bytes = BytesMut::from(&*command.encode_to_vec());
    encode_key(2000, WireType::Varint, &mut bytes);
    encode_varint(1, &mut bytes);
    bytes.freeze()
}

/// Adds the field within the command's operation.
fn with_a_new_field_inside(op: &[u8], number: u32) -> Bytes {
    let mut inner = BytesMut::from(op);
    encode_key(2000, WireType::LengthDelimited, &mut inner);
    encode_varint(3, &mut inner);
    inner.put(&b"new"[..]);
    let mut bytes = BytesMut::new();
    encode_key(number, WireType::LengthDelimited, &mut bytes);
    encode_varint(inner.len() as u64, &mut bytes);
    bytes.put(inner);
    bytes.freeze()
}

fn why(machine: &mut impl Machine, index: u64, command: Bytes) -> String {
    let entry = EntryCommands { index, commands: vec![command] };
    machine.apply(&[entry], &index.to_be_bytes()).expect_err("it can't be read").to_string()
}

#[test]
fn a_field_that_is_not_known_stops_a_machine_wherever_it_stands() {
    let folder = tempfile::tempdir().expect("folder");
    let engines = open(folder.path());
    let (mut directory, mut timeline) = (directory(&engines), timeline(&engines));
    let TimelineCommand { op: Some(timeline_command::Op::Append(op)) } = append(1) else { unreachable!("an append") };
    for bytes in [with_a_new_field(&append(1)), with_a_new_field_inside(&op.encode_to_vec(), 1)] {
        let why = why(&mut timeline, 1, bytes);
        assert!(why.contains("field that this program does not know") && why.contains("run the release"), "{why}");
    }
    let put = command(Op::PutAccount(PutAccount::default()));
    let why = why(&mut directory, 1, with_a_new_field(&put));
    assert!(why.contains("field that this program does not know"), "{why}");
    // Nothing of it is kept, and what is known goes on.
    assert_eq!((applied(&timeline), applied(&directory)), (0, 0));
    timeline.apply(&[entry(1, &[append(1)])], &1u64.to_be_bytes()).expect("applies");
}

#[test]
fn a_command_above_the_level_of_the_shard_stops_a_machine() {
    let folder = tempfile::tempdir().expect("folder");
    let engines = open(folder.path());
    let mut machine = directory(&engines);
    let why = why(&mut machine, 1, found().encode_to_vec().into());
    assert!(why.contains("a command of level 1 stands where the shard is at level 0"), "{why}");
    // The level counts from its place in the log on, also within one entry.
    let both = entry(1, &[set_level(Level::CLUSTER), found()]);
    machine.apply(&[both], &1u64.to_be_bytes()).expect("applies");
}

#[test]
fn a_timeline_shard_below_level_1_stops_at_what_names_a_sender() {
    let folder = tempfile::tempdir().expect("folder");
    let engines = open(folder.path());
    let mut machine = timeline(&engines);
    let changed = |change: fn(&mut Append)| {
        let mut command = append(1);
        if let Some(timeline_command::Op::Append(op)) = &mut command.op {
            change(op);
        }
        command
    };
    let end = EndSender { sender: "alice".into(), generation: 5 };
    let new = [
        changed(|op| op.sender = "alice".into()),
        changed(|op| op.sender_generation = 4),
        changed(|op| op.only_repeat = true),
        TimelineCommand { op: Some(timeline_command::Op::EndSender(end)) },
    ];
    for command in &new {
        let why = why(&mut machine, 1, command.encode_to_vec().into());
        assert!(why.contains("a command of level 1 stands where the shard is at level 0"), "{why}");
    }
    let level = SetLevel { level: Level::CLUSTER.0 };
    let set_level = TimelineCommand { op: Some(timeline_command::Op::SetLevel(level)) };
    let commands: Vec<_> = [set_level].into_iter().chain(new).collect();
    machine.apply(&[entry(1, &commands)], &1u64.to_be_bytes()).expect("applies");
}

#[test]
fn shards_below_level_5_stop_at_erasures() {
    let folder = tempfile::tempdir().expect("folder");
    let engines = open(folder.path());
    let (mut directory, mut timeline) = (directory(&engines), timeline(&engines));
    let user = || "alice".to_owned();
    let in_directory = [
        command(Op::EraseAccount(EraseAccount { user: user(), time_ms: 1 })),
        command(Op::AccountErased(AccountErased { user: user(), incarnation: 1 })),
    ];
    let message = redact::Message { number: 1, seq: 1 };
    let in_timeline = [
        timeline_command::Op::EraseSender(EraseSender { sender: user(), generation: 5 }),
        timeline_command::Op::Redact(Redact { sender: user(), generation: 5, messages: vec![message] }),
        timeline_command::Op::SenderErased(SenderErased { sender: user(), generation: 5 }),
    ];
    let in_timeline = in_timeline.map(|op| TimelineCommand { op: Some(op) });
    let level = SetLevel { level: Level::ERASURE.0 };
    let before = SetLevel { level: Level::GROWTH.0 };
    let of_timeline = |level| TimelineCommand { op: Some(timeline_command::Op::SetLevel(level)) };
    directory.apply(&[entry(1, &[command(Op::SetLevel(before))])], &1u64.to_be_bytes()).expect("applies");
    timeline.apply(&[entry(1, &[of_timeline(before)])], &1u64.to_be_bytes()).expect("applies");
    for command in &in_directory {
        let why = why(&mut directory, 2, command.encode_to_vec().into());
        assert!(why.contains("a command of level 5 stands where the shard is at level 4"), "{why}");
    }
    for command in &in_timeline {
        let why = why(&mut timeline, 2, command.encode_to_vec().into());
        assert!(why.contains("a command of level 5 stands where the shard is at level 4"), "{why}");
    }
    let all: Vec<_> = [command(Op::SetLevel(level))].into_iter().chain(in_directory).collect();
    directory.apply(&[entry(2, &all)], &2u64.to_be_bytes()).expect("applies");
    let all: Vec<_> = [of_timeline(level)].into_iter().chain(in_timeline).collect();
    timeline.apply(&[entry(2, &all)], &2u64.to_be_bytes()).expect("applies");
}

#[test]
fn a_directory_shard_below_level_6_stops_at_slots_of_the_ring() {
    let folder = tempfile::tempdir().expect("folder");
    let engines = open(folder.path());
    let mut machine = at_level(directory(&engines), &set_level(Level::ERASURE));
    let new =
        [command(Op::AddRingSlot(AddRingSlot { lease: 64 })), command(Op::DropRingSlot(DropRingSlot { slot: 0 }))];
    for command in &new {
        let why = why(&mut machine, 2, command.encode_to_vec().into());
        assert!(why.contains("a command of level 6 stands where the shard is at level 5"), "{why}");
    }
    let all: Vec<_> = [set_level(Level::RING_SLOTS)].into_iter().chain(new).collect();
    machine.apply(&[entry(2, &all)], &2u64.to_be_bytes()).expect("applies");
}

#[test]
fn a_timeline_shard_below_level_2_stops_at_cursors_in_groups() {
    let folder = tempfile::tempdir().expect("folder");
    let engines = open(folder.path());
    let command = |op| TimelineCommand { op: Some(op) };
    let set_level = |level: Level| command(timeline_command::Op::SetLevel(SetLevel { level: level.0 }));
    let mut machine = at_level(timeline(&engines), &set_level(Level::CLUSTER));
    let key = |kind: Kind| Some(TimelineKey { kind: kind.into(), owner: "alice".into() });
    let moved = vec![Moved { timeline: key(Kind::Group), epoch: 1, seq: 1 }];
    let moves = MoveCursors { timeline: key(Kind::Inbox), device: "phone".into(), moved, incarnation: 0 };
    let in_inbox = Seen { number: 1, device: "phone".into(), seq: 1, ..Seen::default() };
    let sweep =
        |seen| command(timeline_command::Op::SweepCursors(SweepCursors { cursors: vec![in_inbox.clone(), seen] }));
    let new = [
        command(timeline_command::Op::MoveCursors(moves)),
        sweep(Seen { group: key(Kind::Group), ..in_inbox.clone() }),
        sweep(Seen { epoch: 1, ..in_inbox.clone() }),
    ];
    for command in &new {
        let why = why(&mut machine, 1, command.encode_to_vec().into());
        assert!(why.contains("a command of level 2 stands where the shard is at level 1"), "{why}");
    }
    machine.apply(&[entry(1, &[sweep(in_inbox.clone())])], &1u64.to_be_bytes()).expect("as in the release before");
    let commands: Vec<_> = [set_level(Level::CURSORS)].into_iter().chain(new).collect();
    machine.apply(&[entry(2, &commands)], &2u64.to_be_bytes()).expect("applies");
}

#[test]
fn a_timeline_shard_below_level_7_stops_at_groups_and_its_node_refuses_messages_to_them() {
    let folder = tempfile::tempdir().expect("folder");
    let engines = open(folder.path());
    let command = |op| TimelineCommand { op: Some(op) };
    let set_level = |level: Level| command(timeline_command::Op::SetLevel(SetLevel { level: level.0 }));
    let mut machine = at_level(timeline(&engines), &set_level(Level::RING_SLOTS));
    let key = |kind: Kind| Some(TimelineKey { kind: kind.into(), owner: "alice".into() });
    let append = |kind, duplicate: u8| Append {
        timeline: key(kind),
        duplicate_key: vec![duplicate; 16].into(),
        envelope: "e".into(),
        new_epoch: 1,
        ..Append::default()
    };
    let settings = Some(GroupSettings { open: true, ..GroupSettings::default() });
    let create = Change::Create(CreateGroup { settings, ..CreateGroup::default() });
    let by_alice = Append { sender: "alice".into(), sender_incarnation: 1, ..append(Kind::Group, 1) };
    let create =
        ChangeGroup { append: Some(by_alice.clone()), change: Some(create), by_operator: false, most_members: 0 };
    let membership = Some(Membership { seq: 1, ..Membership::default() });
    let joins = SetMembership { append: Some(append(Kind::Inbox, 2)), group: key(Kind::Group), membership };
    let message = Append { duplicate_key: vec![3; 16].into(), ..by_alice };
    let id = bytes::Bytes::from_static(&[0; 16]);
    let new = [
        command(timeline_command::Op::ChangeGroup(create)),
        command(timeline_command::Op::SetMembership(joins)),
        command(timeline_command::Op::Append(message.clone())),
        command(timeline_command::Op::Append(Append { header: Some(Box::default()), ..append(Kind::Inbox, 4) })),
        command(timeline_command::Op::SettleOutbox(SettleOutbox::default())),
        command(timeline_command::Op::SweepMemberships(SweepMemberships::default())),
        command(timeline_command::Op::CreateMedia(CreateMedia {
            timeline: key(Kind::Inbox),
            id: id.clone(),
            ..CreateMedia::default()
        })),
        command(timeline_command::Op::CompleteMedia(CompleteMedia { id, ..CompleteMedia::default() })),
        command(timeline_command::Op::RemoveMedia(RemoveMedia::default())),
    ];
    let of_peer = Append { peer: "bob".into(), peer_incarnation: 3, ..append(Kind::Inbox, 4) };
    let others = [
        command(timeline_command::Op::MoveMarks(MoveMarks::default())),
        command(timeline_command::Op::SetConversation(SetConversation::default())),
        command(timeline_command::Op::SweepConversations(SweepConversations::default())),
        command(timeline_command::Op::Schedule(Schedule::default())),
        command(timeline_command::Op::ChangeScheduled(ChangeScheduled::default())),
        command(timeline_command::Op::ReleaseScheduled(ReleaseScheduled::default())),
        command(timeline_command::Op::SettleScheduled(SettleScheduled::default())),
        command(timeline_command::Op::PutReport(Box::default())),
        command(timeline_command::Op::SettleReport(SettleReport::default())),
        command(timeline_command::Op::RemoveReports(RemoveReports::default())),
        command(timeline_command::Op::ForgetReleasedMedia(ForgetReleasedMedia::default())),
        command(timeline_command::Op::NoteReleasedMedia(NoteReleasedMedia::default())),
        command(timeline_command::Op::CheckMedia(CheckMedia::default())),
        command(timeline_command::Op::CollectMedia(CollectMedia::default())),
        command(timeline_command::Op::ExpireMessages(ExpireMessages::default())),
        command(timeline_command::Op::Append(Append { peer_incarnation: 0, ..of_peer.clone() })),
        command(timeline_command::Op::Append(Append { peer: Bytes::new(), ..of_peer.clone() })),
    ];
    for command in new.iter().chain(&others) {
        let why = why(&mut machine, 1, command.encode_to_vec().into());
        assert!(why.contains("a command of level 7 stands where the shard is at level 6"), "{why}");
    }
    // Also without the field that is new: below that level nobody is a member.
    let message = command(timeline_command::Op::Append(Append { sender_incarnation: 0, ..message }));
    let map = ShardMap { directory: 1, timeline: 1 };
    let shard = ShardId { kind: ShardKind::Timeline, index: 0 };
    let refused = admit_timeline(shard, map, Level::RING_SLOTS, message.clone()).expect_err("below level 7");
    assert_eq!(refused.reason(), rejected::Reason::Level);
    admit_timeline(shard, map, Level::GROUPS, message).expect("at level 7");
    // Fields that a level below does not have and does not need are left out.
    let admitted = |level| {
        let append = command(timeline_command::Op::Append(of_peer.clone()));
        admit_timeline(shard, map, level, append).expect("admitted")
    };
    let without = command(timeline_command::Op::Append(append(Kind::Inbox, 4)));
    assert_eq!(admitted(Level::RING_SLOTS), without.encode_to_vec());
    assert_eq!(admitted(Level::GROUPS), command(timeline_command::Op::Append(of_peer.clone())).encode_to_vec());
    let commands: Vec<_> = [set_level(Level::GROUPS)].into_iter().chain(new).collect();
    let outcomes = machine.apply(&[entry(2, &commands)], &2u64.to_be_bytes()).expect("applies").remove(0);
    let appended = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Appended(_))).count();
    assert_eq!(appended, 4, "{outcomes:?}");
}

#[test]
fn a_directory_shard_below_level_3_stops_at_numbered_sign_ins_and_its_node_takes_the_numbers_out() {
    let folder = tempfile::tempdir().expect("folder");
    let engines = open(folder.path());
    let mut machine = at_level(directory(&engines), &set_level(Level::CURSORS));
    let put = |instance, attempt| {
        let (user, device) = ("alice".to_owned(), "phone".to_owned());
        let session = Session { user, device, lease: 1, instance, attempt, ..Session::default() };
        command(Op::PutSession(PutSession { session: Some(session), ..PutSession::default() }))
    };
    for numbered in [put(7, 1), put(7, 0), put(0, 1)] {
        let why = why(&mut machine, 2, numbered.encode_to_vec().into());
        assert!(why.contains("a command of level 3 stands where the shard is at level 2"), "{why}");
    }
    let admitted = |level| {
        let map = ShardMap { directory: 1, timeline: 1 };
        admit_directory(ShardId::REGISTRY, map, level, put(7, 1)).expect("admitted")
    };
    let (below, from) = (admitted(Level::CURSORS), admitted(Level::ATTEMPTS));
    assert_eq!((&*below, &*from), (&*put(0, 0).encode_to_vec(), &*put(7, 1).encode_to_vec()));
    for (index, commands) in [(2, vec![below]), (3, vec![set_level(Level::ATTEMPTS).encode_to_vec().into(), from])] {
        let entry = EntryCommands { index, commands };
        machine.apply(&[entry], &index.to_be_bytes()).expect("applies");
    }
}

#[test]
fn a_directory_shard_below_level_7_stops_at_times_of_ended_sessions_and_its_node_takes_them_out() {
    let folder = tempfile::tempdir().expect("folder");
    let engines = open(folder.path());
    let mut machine = at_level(directory(&engines), &set_level(Level::RING_SLOTS));
    let delete = |time_ms| {
        let (user, device) = ("alice".to_owned(), "phone".to_owned());
        command(Op::DeleteSession(DeleteSession {
            user,
            device,
            lease: 1,
            connection: 1,
            time_ms,
            generation: time_ms,
        }))
    };
    let why = why(&mut machine, 2, delete(60_000).encode_to_vec().into());
    assert!(why.contains("a command of level 7 stands where the shard is at level 6"), "{why}");
    let admitted = |level| {
        let map = ShardMap { directory: 1, timeline: 1 };
        admit_directory(ShardId::REGISTRY, map, level, delete(60_000)).expect("admitted")
    };
    let (below, from) = (admitted(Level::RING_SLOTS), admitted(Level::GROUPS));
    assert_eq!((&*below, &*from), (&*delete(0).encode_to_vec(), &*delete(60_000).encode_to_vec()));
    for (index, commands) in [(2, vec![below]), (3, vec![set_level(Level::GROUPS).encode_to_vec().into(), from])] {
        let entry = EntryCommands { index, commands };
        machine.apply(&[entry], &index.to_be_bytes()).expect("applies");
    }
}

/// An account that was made without a password and replaced so, and the one that was made after its deletion.
fn account_made_again(machine: &mut DirectoryMachine, created_ms: u64) -> (Account, Account) {
    let put = |mode: Mode| {
        let account = Some(Account { user: "alice".into(), created_ms, ..Account::default() });
        command(Op::PutAccount(PutAccount {
            account,
            mode: mode.into(),
            numbered: true,
            revive: false,
            most_accounts: None,
        }))
    };
    let delete = command(Op::DeleteAccount(DeleteAccount { user: "alice".into(), time_ms: 7 }));
    let commands = [put(Mode::Create), put(Mode::Replace), delete, put(Mode::Create)];
    let outcomes = machine.apply(&[entry(2, &commands)], &2u64.to_be_bytes()).expect("applies").remove(0);
    let account = |outcome: &Outcome| match outcome {
        Outcome::AccountChanged(changed) => changed.account.clone().expect("an account"),
        other => panic!("not changed: {other:?}"),
    };
    (account(&outcomes[1]), account(&outcomes[3]))
}

#[test]
fn below_level_1_accounts_change_as_in_the_release_before() {
    let folder = tempfile::tempdir().expect("folder");
    let engines = open(folder.path());
    let (replaced, again) = account_made_again(&mut directory(&engines), 1_234_567);
    assert_eq!(replaced.generation, 2 * 64, "the same password, which is none, is the same command");
    assert_eq!((again.tokens_from_ms, again.remade), (1_234_000, false));
}

#[test]
fn from_level_1_on_a_replacement_without_a_password_is_new_and_a_new_owner_is_known_as_one() {
    for (created_ms, tokens_from_ms) in [(1_234_567, 1_235_000), (u64::MAX, u64::MAX)] {
        let folder = tempfile::tempdir().expect("folder");
        let engines = open(folder.path());
        let mut machine = at_level(directory(&engines), &set_level(Level::CLUSTER));
        let (replaced, again) = account_made_again(&mut machine, created_ms);
        assert_eq!(replaced.generation, 2 * 64 + 1);
        assert_eq!((again.tokens_from_ms, again.remade), (tokens_from_ms, true));
    }
}

#[test]
fn a_level_that_is_not_known_stops_a_machine_and_is_not_opened() {
    let folder = tempfile::tempdir().expect("folder");
    let engines = open(folder.path());
    let mut machine = directory(&engines);
    let newer = Level(Level::OF_PROGRAM.0 + 1);
    let why = why(&mut machine, 1, set_level(newer).encode_to_vec().into());
    assert!(why.contains(&format!("at level {newer}, but this program reads levels up to")), "{why}");
    // A snapshot of a newer program, too.
    let records = vec![Ok((vec![0x06], newer.0.to_be_bytes().to_vec()))];
    let error = machine.restore(&mut records.into_iter(), &1u64.to_be_bytes()).expect_err("it can't be read");
    assert!(error.to_string().contains("run the release"), "{error}");
    drop(machine);
    let error = engines.directory(ShardId::REGISTRY).err().expect("it can't be read").to_string();
    assert!(error.contains("run the release"), "{error}");
}

#[test]
fn the_level_stays_over_a_restart_and_a_snapshot_and_never_falls() {
    let (folder, other) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    let (engines, others) = (open(folder.path()), open(other.path()));
    let mut machine = directory(&engines);
    for (index, level) in [(1, Level::CLUSTER), (2, Level::BEFORE)] {
        machine.apply(&[entry(index, &[set_level(level)])], &index.to_be_bytes()).expect("applies");
    }
    let mut copied = copy(&mut machine, directory(&others));
    drop(machine);
    let mut machine = directory(&engines);
    for machine in [&mut machine, &mut copied] {
        machine.apply(&[entry(3, &[found()])], &3u64.to_be_bytes()).expect("level 1 still");
    }
}
