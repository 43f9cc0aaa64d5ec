//! For the simulation only: the state machines on their real engines, without Raft around them.

use std::{io, path::Path};

use bytes::Bytes;
use carillon_proto::{
    ShardId, ShardKind, ShardMap,
    pb::store::{
        DirectoryCommand, RegistryView, Rejected, StoreError, SweepCursors, TimelineCommand, directory_command,
        store_error::Why, store_reply::Result as Outcome, store_request::Op, timeline_command,
    },
};
use prost::Message as _;

use crate::{
    engine::{Caches, Engines},
    machine::{
        DirectoryMachine, DirectoryReader, EntryCommands, Machine as _, Retention, SWEEP_CURSORS, TimelineMachine,
        TimelineReader, Unread, admit_directory, admit_timeline,
    },
    shard,
};

/// All shards of a cluster, once: the content that every replica would hold.
pub struct Machines {
    map: ShardMap,
    directories: Vec<(DirectoryMachine, DirectoryReader)>,
    timelines: Vec<(TimelineMachine, TimelineReader)>,
}

impl Machines {
    /// Opens or creates the engines in this folder. Blocking.
    pub fn open(dir: &Path, map: ShardMap) -> io::Result<Self> {
        let mib = 1024 * 1024;
        let caches =
            Caches { directory_bytes: 8 * mib, timeline_bytes: 8 * mib, timeline_files: 64, memtables_bytes: 8 * mib };
        let engines = Engines::open(dir, map, caches).map_err(io::Error::other)?;
        let shards = |kind| map.all().filter(move |shard| shard.kind == kind);
        Ok(Self {
            map,
            directories: shards(ShardKind::Directory)
                .map(|shard| engines.directory(shard))
                .collect::<Result<_, _>>()?,
            timelines: shards(ShardKind::Timeline).map(|shard| engines.timeline(shard)).collect::<Result<_, _>>()?,
        })
    }

    /// Drops all content.
    pub fn clear(&mut self) -> io::Result<()> {
        let nothing = &mut std::iter::empty();
        self.directories.iter_mut().try_for_each(|(machine, _)| machine.restore(nothing, b""))?;
        self.timelines.iter_mut().try_for_each(|(machine, _)| machine.restore(nothing, b""))
    }

    /// The command for the log, or why it must not enter. `None`: a read.
    pub fn check(&self, shard: ShardId, op: &Op) -> Result<Option<Bytes>, Rejected> {
        let place = usize::from(shard.index);
        Ok(match op {
            Op::Timeline(command) => {
                let level = self.timelines[place].1.level();
                Some(admit_timeline(shard, self.map, level, TimelineCommand::clone(command))?)
            }
            Op::Directory(command) => {
                let level = self.directories[place].1.level();
                Some(admit_directory(shard, self.map, level, DirectoryCommand::clone(command))?)
            }
            Op::ReadTimeline(_)
            | Op::ReadHead(_)
            | Op::ReadHeads(_)
            | Op::ReadUser(_)
            | Op::ListAccounts(_)
            | Op::ListSessions(_) => None,
        })
    }

    /// Applies one committed entry. `index` grows from entry to entry of a shard.
    pub fn apply(&mut self, shard: ShardId, index: u64, commands: Vec<Bytes>) -> io::Result<Vec<Outcome>> {
        let entry = [EntryCommands { index, commands }];
        let applied = index.to_be_bytes();
        let machine = usize::from(shard.index);
        let outcomes = match shard.kind {
            ShardKind::Directory => self.directories[machine].0.apply(&entry, &applied)?,
            ShardKind::Timeline => self.timelines[machine].0.apply(&entry, &applied)?,
        };
        Ok(outcomes.into_iter().flatten().collect())
    }

    pub fn read(&self, shard: ShardId, op: &Op) -> io::Result<Outcome> {
        let place = usize::from(shard.index);
        let found = || {
            Ok(match (shard.kind, op) {
                (ShardKind::Timeline, Op::ReadTimeline(op)) => Outcome::TimelineRead(self.timelines[place].1.read(op)?),
                (ShardKind::Timeline, Op::ReadHead(op)) => Outcome::Head(self.timelines[place].1.head(op)?),
                (ShardKind::Timeline, Op::ReadHeads(op)) => Outcome::HeadsRead(self.timelines[place].1.heads(op)?),
                (ShardKind::Directory, Op::ReadUser(op)) => Outcome::User(self.directories[place].1.user(&op.user)?),
                (ShardKind::Directory, Op::ListAccounts(op)) => {
                    Outcome::AccountList(self.directories[place].1.accounts(op)?)
                }
                (ShardKind::Directory, Op::ListSessions(op)) => {
                    Outcome::SessionList(self.directories[place].1.sessions(op)?)
                }
                _ => return Err(io::Error::other("the shard has nothing of the kind that was asked for").into()),
            })
        };
        match found() {
            Err(Unread::Rejected(rejected)) => Ok(Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) })),
            Err(Unread::Engine(error)) => Err(error),
            Ok(outcome) => Ok(outcome),
        }
    }

    /// Commands by which the leader of this shard sweeps: cursors of devices that have been gone for this long by the
    /// shard's clock, and rows of sessions whose gateways have ended.
    pub fn due_sweeps(&self, shard: ShardId, cursor_age_ms: u64) -> io::Result<Vec<Bytes>> {
        let place = usize::from(shard.index);
        match shard.kind {
            ShardKind::Timeline => {
                let ages = Retention { cursor_age_ms, ..Retention::default() };
                let (cursors, _) = self.timelines[place].1.gone_cursors(&[], &ages, SWEEP_CURSORS)?;
                let sweep = timeline_command::Op::SweepCursors(SweepCursors { cursors });
                let command = TimelineCommand { op: Some(sweep) };
                Ok(vec![command.encode_to_vec().into()])
            }
            ShardKind::Directory => {
                let registry = self.directories[usize::from(ShardId::REGISTRY.index)].1.registry().borrow().clone();
                let has_ended = |lease| registry.has_ended(lease);
                let (rows, _) = self.directories[place].1.of_ended(b"", has_ended, SWEEP_CURSORS)?;
                let command = |row| DirectoryCommand { op: Some(directory_command::Op::DeleteSession(row)) };
                Ok(rows.into_iter().map(|row| command(row).encode_to_vec().into()).collect())
            }
        }
    }

    /// The current registry, without the storage nodes.
    pub fn registry(&self) -> RegistryView {
        let reader = &self.directories[usize::from(ShardId::REGISTRY.index)].1;
        let state = reader.registry().borrow().clone();
        RegistryView {
            version: state.version,
            ring_version: state.ring_version,
            nodes: state.nodes,
            directory_shards: self.map.directory.into(),
            timeline_shards: self.map.timeline.into(),
            level: state.cluster.level.0,
            ..RegistryView::default()
        }
    }
}

/// The lanes of one stream: see `StoreRequest.lane`.
#[derive(Default)]
pub struct Lanes(shard::Lanes);

/// The lane of one write.
#[derive(Debug, Clone)]
pub struct Lane(shard::Lane);

impl Lanes {
    pub fn lane(&mut self, shard: ShardId, number: u64) -> Lane {
        Lane(self.0.lane(shard, number))
    }
}

impl Lane {
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    pub fn close(&self) {
        self.0.close();
    }
}
