//! Entry points of the fuzz targets: each parser of bytes from other nodes and from the disk, with the properties that
//! must hold for everything it accepts.

use std::{
    env, fs,
    path::PathBuf,
    process,
    sync::{LazyLock, Mutex, PoisonError},
};

use bytes::Bytes;
use carillon_proto::{
    Level, ShardId, ShardKind, ShardMap,
    pb::{
        raft::{AppendRequest, Entry, LogId, SnapshotHeader, SnapshotMeta, VoteReply, VoteRequest},
        store::{CommandBatch, DirectoryCommand, SetLevel, TimelineCommand, directory_command, timeline_command},
    },
};
use prost::Message;

use crate::{
    engine::{Caches, Engines},
    log,
    machine::{EntryCommands, Machine, check_directory, check_timeline, keys},
    raft::convert,
    snapshot::SnapshotDir,
};

/// All owners are in the first shard of each kind.
const MAP: ShardMap = ShardMap { directory: 1, timeline: 1 };
const TIMELINE: ShardId = ShardId { kind: ShardKind::Timeline, index: 0 };

/// Commands from routers. Whatever may enter the log can be applied. The applied state stays from call to call, as in a
/// store.
pub fn commands(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let Ok(batch) = CommandBatch::decode(bytes) else { return };
    let mut machines = MACHINES.lock().unwrap_or_else(PoisonError::into_inner);
    if kind & 1 == 0 {
        // The machines raise levels by commands of their own.
        let sets_level = |command: &TimelineCommand| matches!(command.op, Some(timeline_command::Op::SetLevel(_)));
        let checked = |command: &_| check_timeline(TIMELINE, MAP, command).is_ok() && !sets_level(command);
        machines.timeline.apply(&batch, checked);
    } else {
        let sets_level = |command: &DirectoryCommand| matches!(command.op, Some(directory_command::Op::SetLevel(_)));
        let checked = |command: &_| check_directory(ShardId::REGISTRY, MAP, command).is_ok() && !sets_level(command);
        machines.directory.apply(&batch, checked);
    }
}

/// A snapshot from another node: as raw bytes and, because no fuzzer guesses checksums, as the content of a valid one.
pub fn snapshot(bytes: &[u8]) {
    let snapshots = &*SNAPSHOTS;
    let version = 1 + u8::from(bytes.first().is_some_and(|first| first & 2 == 0));
    let mut whole = [b"CRLNSNP".as_slice(), &[version]].concat();
    let meta = SnapshotMeta { last_log_id: Some(LogId { term: 1, node: 1, index: 7 }), ..SnapshotMeta::default() };
    let header = SnapshotHeader { group: 7, meta: Some(meta), ..SnapshotHeader::default() }.encode_to_vec();
    put_checked(&mut whole, &[], &header);
    // The first byte chooses: packed by us, or taken as already packed.
    let packed = bytes.first().is_some_and(|first| first & 1 == 0);
    let block = if packed { lz4_flex::block::compress(bytes) } else { bytes.to_vec() };
    put_checked(&mut whole, &(bytes.len() as u32).to_le_bytes(), &block);
    whole.extend([0; 8]);
    let count = 1u64.to_le_bytes();
    whole.extend(crc32fast::hash(&count).to_le_bytes());
    whole.extend(count);
    for file in [bytes, &whole] {
        let mut receiving = snapshots.receive().expect("a new file");
        receiving.write(file).expect("writes");
        if let Ok((_, file)) = receiving.finish(7) {
            for record in file.records().expect("was verified") {
                record.expect("was verified");
            }
            snapshots.discard(file.path());
        }
    }
}

fn put_checked(out: &mut Vec<u8>, between: &[u8], bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_le_bytes());
    out.extend(between);
    out.extend(crc32fast::hash(bytes).to_le_bytes());
    out.extend(bytes);
}

/// An entry as raft-engine returns it.
pub fn log_entry(bytes: &[u8]) {
    let Some((index, entry)) = log::read_entry(bytes) else { return };
    assert_eq!(index, entry.log_id.map_or(0, |id| id.index));
    round_trip(entry, |entry| convert::entry_from_pb(entry).ok(), convert::entry_to_pb);
}

/// Messages between nodes of a Raft group; the first byte chooses which.
pub fn raft(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    fn decoded<M: Message + Default>(bytes: &[u8]) -> M {
        M::decode(bytes).unwrap_or_default()
    }
    match kind % 5 {
        0 => round_trip(decoded::<Entry>(bytes), |it| convert::entry_from_pb(it).ok(), convert::entry_to_pb),
        1 => round_trip(decoded::<AppendRequest>(bytes), |it| convert::append_from_pb(it).ok(), convert::append_to_pb),
        2 => round_trip(
            decoded::<VoteRequest>(bytes),
            |it| convert::vote_request_from_pb(it).ok(),
            |it| convert::vote_request_to_pb(&it),
        ),
        3 => round_trip(
            decoded::<VoteReply>(bytes),
            |it| convert::vote_reply_from_pb(it).ok(),
            |it| convert::vote_reply_to_pb(&it),
        ),
        _ => round_trip(
            decoded::<SnapshotMeta>(bytes),
            |it| convert::meta_from_pb(it).ok(),
            |it| convert::meta_to_pb(&it),
        ),
    }
}

/// Decoding, encoding and decoding again gives the same message.
fn round_trip<M: Message + Default + PartialEq + Clone + std::fmt::Debug, T>(
    message: M,
    from: impl Fn(M) -> Option<T>,
    to: impl Fn(T) -> M,
) {
    if let Some(understood) = from(message) {
        let said = to(understood);
        let again = to(from(said.clone()).expect("was understood once"));
        assert_eq!(said, again);
    }
}

/// Keys and values of the engines.
pub fn keys(bytes: &[u8]) {
    if let Ok(timeline) = keys::timeline_of(bytes) {
        assert_eq!(*keys::timeline(&timeline), *bytes);
    }
    if let Ok((number, device, group)) = keys::group_cursor_of(bytes) {
        assert_eq!(*keys::group_cursor(number, device, &group), *bytes);
    }
    if let Ok(lease) = keys::lease_of(bytes) {
        assert_eq!(*keys::lease(lease), *bytes);
    }
    if let Ok(seq) = keys::seq_of(bytes) {
        assert!(bytes.ends_with(&seq.to_be_bytes()));
    }
    if let Some(now) = keys::upgraded(bytes) {
        assert_eq!(keys::upgraded(&now), None);
    }
    if let Ok(number) = keys::number_of(bytes) {
        assert_eq!(*keys::number_value(number), *bytes);
    }
    if let Ok(numbers) = keys::numbers_of::<4>(bytes) {
        assert_eq!(*keys::numbers_value(numbers), *bytes);
    }
    if let Ok(lease) = keys::Lease::decode(bytes) {
        assert_eq!(lease.encode(), bytes);
    }
    if let Ok(stored) = keys::Stored::decode(bytes) {
        // An older version's record gets a clock, which stays.
        let encoded = stored.encode();
        assert_eq!(encoded[8..], bytes[8..]);
        assert_eq!(keys::Stored::decode(&encoded).map(|again| again.clock_ms).ok(), Some(stored.clock_ms));
    }
}

struct Machines {
    directory: Applied<crate::machine::DirectoryMachine>,
    timeline: Applied<crate::machine::TimelineMachine>,
    _engines: Engines,
}

struct Applied<M> {
    machine: M,
    index: u64,
}

impl<M: Machine> Applied<M> {
    fn apply<C: Message + Default>(&mut self, batch: &CommandBatch, is_checked: impl Fn(&C) -> bool) {
        // As the service does: checked, then encoded again.
        let commands: Vec<Bytes> = batch
            .commands
            .iter()
            .filter_map(|command| C::decode(command.clone()).ok())
            .filter(is_checked)
            .map(|command| command.encode_to_vec().into())
            .collect();
        self.index += 1;
        let entry = EntryCommands { index: self.index, commands };
        let count = entry.commands.len();
        let outcomes = self.machine.apply(&[entry], &self.index.to_be_bytes()).expect("what was checked is applied");
        assert_eq!(outcomes.iter().map(Vec::len).collect::<Vec<_>>(), [count]);
    }
}

static MACHINES: LazyLock<Mutex<Machines>> = LazyLock::new(|| {
    let engines = Engines::open(&folder("machines"), MAP, Caches::default()).expect("opens");
    let (directory, _) = engines.directory(ShardId::REGISTRY).expect("a shard");
    let (timeline, _) = engines.timeline(TIMELINE).expect("a shard");
    let mut directory = Applied { machine: directory, index: 0 };
    let mut timeline = Applied { machine: timeline, index: 0 };
    let level = SetLevel { level: Level::OF_PROGRAM.0 };
    let op = directory_command::Op::SetLevel(level);
    let command = DirectoryCommand { op: Some(op) }.encode_to_vec().into();
    directory.apply(&CommandBatch { commands: vec![command] }, |_: &DirectoryCommand| true);
    let op = timeline_command::Op::SetLevel(level);
    let command = TimelineCommand { op: Some(op) }.encode_to_vec().into();
    timeline.apply(&CommandBatch { commands: vec![command] }, |_: &TimelineCommand| true);
    Mutex::new(Machines { directory, timeline, _engines: engines })
});

static SNAPSHOTS: LazyLock<SnapshotDir> =
    LazyLock::new(|| SnapshotDir::open(&folder("snapshots"), "fuzz".into(), 7).expect("opens"));

/// In TMPDIR, which .ci/fuzz removes.
fn folder(name: &str) -> PathBuf {
    let folder = env::temp_dir().join(format!("carillon-fuzz-{}-{name}", process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::store::{
        AdvanceClock, Append, CollectGarbage, EndSender, EndTimeline, MoveCursors, SetCursor, TimelineKey, Trim,
        move_cursors::Moved, timeline_command::Op, timeline_key::Kind,
    };
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            commands(&bytes);
            snapshot(&bytes);
            log_entry(&bytes);
            raft(&bytes);
            super::keys(&bytes);
        }

        #[test]
        fn what_passes_the_check_is_applied(
            given in prop::collection::vec((0..11u8, "[a-c]{1,2}", 0..30u64, any::<u64>()), 1..30),
        ) {
            let command = |(kind, owner, small, any): (u8, String, u64, u64)| {
                let timeline = Some(TimelineKey { kind: Kind::Inbox.into(), owner: Bytes::from(owner) });
                let op = match kind {
                    0 => Op::SetCursor(SetCursor { timeline, device: "phone".into(), epoch: small % 3, seq: any }),
                    1 => Op::Trim(Trim { timeline, before_seq: any, limit: small as u32, epoch: any % 2 }),
                    2 => Op::EndTimeline(EndTimeline { timeline, incarnation: small }),
                    8 => Op::EndSender(EndSender { sender: "a".into(), generation: small }),
                    9 => Op::AdvanceClock(AdvanceClock { elapsed_ms: any as u32 }),
                    10 => {
                        let group = TimelineKey { kind: Kind::Group.into(), owner: "a".into() };
                        let moved = |timeline| Moved { timeline, epoch: small % 3, seq: any };
                        let moved = vec![moved(timeline.clone()), moved(Some(group))];
                        Op::MoveCursors(MoveCursors { timeline, device: "phone".into(), moved, incarnation: any % 3 })
                    }
                    3 => Op::CollectGarbage(CollectGarbage { number: small % 4, limit: small as u32 }),
                    _ => Op::Append(Append {
                        timeline,
                        duplicate_key: vec![small as u8; 16].into(),
                        time_ms: any,
                        envelope: vec![0; small as usize].into(),
                        new_epoch: small,
                        after_key: if any % 2 == 0 { vec![(any >> 8) as u8; 16].into() } else { Bytes::new() },
                        incarnation: any % 3,
                        sender: "a".into(),
                        sender_generation: any % 5,
                        only_repeat: any % 7 == 0,
                        sender_incarnation: 0,
                        peer: Bytes::new(),
                        peer_incarnation: any % 2,
                        admission: (any % 11) as i32,
                        ..Default::default()
                    }),
                };
                TimelineCommand { op: Some(op) }.encode_to_vec().into()
            };
            let batch = CommandBatch { commands: given.into_iter().map(command).collect() };
            commands(&[&[0], &*batch.encode_to_vec()].concat());
        }
    }
}
