//! The machines on their real engines, against simple models of what they should do.

mod admission_model;
mod contacts;
mod conversation_model;
mod crash;
mod directory_model;
mod domain_model;
mod erased_changes;
mod expiring_model;
mod group_model;
mod group_rules;
mod heirs;
mod levels;
mod media_collection;
mod media_model;
mod privacy;
mod reference_model;
mod report_model;
mod scheduled_model;
mod timeline_model;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use carillon_proto::ShardMap;
use proptest::prelude::*;
use prost::Message;
use tempfile::TempDir;

use super::{EntryCommands, Machine};
use crate::engine::{Caches, Engines, OpenError};

const MAP: ShardMap = ShardMap { directory: 2, timeline: 2 };

type Records = Vec<(Vec<u8>, Vec<u8>)>;

fn open(dir: &Path) -> Engines {
    let mib = 1024 * 1024;
    let caches =
        Caches { directory_bytes: 16 * mib, timeline_bytes: 16 * mib, timeline_files: 64, memtables_bytes: 8 * mib };
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match Engines::open(dir, MAP, caches) {
            // A child that another test is just starting has our files, and with them the lock, until it is its program.
            Err(OpenError::InUse { .. }) if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
            opened => return opened.expect("opens"),
        }
    }
}

fn entry<M: Message>(index: u64, commands: &[M]) -> EntryCommands {
    EntryCommands { index, commands: commands.iter().map(|command| command.encode_to_vec().into()).collect() }
}

fn records(machine: &mut impl Machine) -> Records {
    machine.snapshot().expect("snapshot").collect::<io::Result<_>>().expect("reads")
}

/// The index of the last applied entry, as these tests tell it to the machines.
fn applied(machine: &impl Machine) -> u64 {
    let applied = machine.applied().expect("reads");
    applied.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().expect("eight bytes")))
}

/// Gives the machine the command that brings its shard to a level. The index of the last applied entry stays.
fn at_level<M: Machine>(mut machine: M, set_level: &impl Message) -> M {
    let index = applied(&machine).to_be_bytes();
    let set_level = EntryCommands { index: 0, commands: vec![set_level.encode_to_vec().into()] };
    machine.apply(&[set_level], &index).expect("applies");
    machine
}

/// The machine, made anew from a snapshot of this one.
fn copy<M: Machine>(from: &mut M, mut to: M) -> M {
    let index = applied(from).to_be_bytes();
    let mut snapshot = from.snapshot().expect("snapshot");
    to.restore(&mut *snapshot, &index).expect("restores");
    to
}

/// Gives the commands of each entry to a machine one entry after the other, and to another one all at once: outcomes and records must be the same.
fn check_batches<M: Machine, C: Message>(
    machine: fn(&Engines) -> M,
    set_level: &impl Message,
    commands: impl IntoIterator<Item = Vec<C>>,
) {
    let dir = tempfile::tempdir().expect("folder");
    let engines = [open(&dir.path().join("a")), open(&dir.path().join("b"))];
    let [mut one, mut all] = engines.each_ref().map(|engines| at_level(machine(engines), set_level));
    let entries: Vec<_> = (1..).zip(commands).map(|(index, commands)| entry(index, &commands)).collect();
    let singly: Vec<_> = entries.chunks(1).flat_map(|piece| one.apply(piece, &[0; 8]).expect("applies")).collect();
    assert_eq!(singly, all.apply(&entries, &[0; 8]).expect("applies"));
    assert_eq!(records(&mut one), records(&mut all));
}

/// A step of a random test. Only the commands change what a shard answers.
#[derive(Debug, Clone)]
enum Step<C> {
    Apply(Vec<Vec<C>>),
    Reopen,
    SnapshotAndRestore,
}

fn step<C: Clone + Debug>(entries: impl Strategy<Value = Vec<Vec<C>>>) -> impl Strategy<Value = Step<C>> {
    prop_oneof![8 => entries.prop_map(Step::Apply), 1 => Just(Step::Reopen), 1 => Just(Step::SnapshotAndRestore)]
}

/// A shard on engines of its own.
struct OpenShard<M, R> {
    folder: TempDir,
    /// The number of restores: each goes into new engines.
    generation: u32,
    of: fn(&Engines) -> (M, R),
    engines: Engines,
    machine: M,
    reader: R,
}

impl<M: Machine, R> OpenShard<M, R> {
    /// An empty shard.
    fn new(of: fn(&Engines) -> (M, R), set_level: &impl Message) -> Self {
        let new = Self::open(tempfile::tempdir().expect("folder"), 0, of);
        Self { machine: at_level(new.machine, set_level), ..new }
    }

    fn open(folder: TempDir, generation: u32, of: fn(&Engines) -> (M, R)) -> Self {
        let engines = open(&folder.path().join(generation.to_string()));
        let (machine, reader) = of(&engines);
        Self { folder, generation, of, engines, machine, reader }
    }

    fn reopened(self) -> Self {
        let Self { folder, generation, of, engines, machine, reader } = self;
        drop((machine, reader, engines));
        Self::open(folder, generation, of)
    }

    fn restored_from_its_snapshot(self) -> Self {
        let Self { folder, generation, of, engines, mut machine, reader } = self;
        let new = Self::open(folder, generation + 1, of);
        let copied = copy(&mut machine, new.machine);
        drop((machine, reader, engines));
        Self { machine: copied, ..new }
    }

    /// Restored from a snapshot that has these rows, too.
    fn restored_with(self, rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Self {
        let Self { folder, generation, of, engines, mut machine, reader } = self;
        let mut new = Self::open(folder, generation + 1, of);
        let index = applied(&machine).to_be_bytes();
        let mut all: BTreeMap<_, _> = records(&mut machine).into_iter().collect();
        all.extend(rows);
        new.machine.restore(&mut all.into_iter().map(Ok), &index).expect("restores");
        drop((machine, reader, engines));
        new
    }
}
