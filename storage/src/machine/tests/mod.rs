//! The machines on their real engines, against simple models of what they should do.

mod crash;
mod directory_model;
mod timeline_model;

use std::{io, path::Path};

use carillon_proto::ShardMap;
use prost::Message;

use super::{EntryCommands, Machine};
use crate::engine::{Caches, Engines};

const MAP: ShardMap = ShardMap { directory: 2, timeline: 2 };

type Records = Vec<(Vec<u8>, Vec<u8>)>;

fn open(dir: &Path) -> Engines {
    let mib = 1024 * 1024;
    let caches =
        Caches { directory_bytes: 16 * mib, timeline_bytes: 16 * mib, timeline_files: 64, memtables_bytes: 8 * mib };
    Engines::open(dir, MAP, caches).expect("opens")
}

fn entry<M: Message>(index: u64, commands: &[M]) -> EntryCommands {
    EntryCommands { index, commands: commands.iter().map(|command| command.encode_to_vec().into()).collect() }
}

fn records(machine: &mut impl Machine) -> Records {
    machine.snapshot().expect("snapshot").collect::<io::Result<_>>().expect("reads")
}

/// How far it is applied, as these tests tell it to the machines.
fn applied(machine: &impl Machine) -> u64 {
    let applied = machine.applied().expect("reads");
    applied.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().expect("eight bytes")))
}

/// The machine, made anew from a snapshot of this one.
fn copy<M: Machine>(from: &mut M, mut to: M) -> M {
    let index = applied(from).to_be_bytes();
    let mut snapshot = from.snapshot().expect("snapshot");
    to.restore(&mut *snapshot, &index).expect("restores");
    to
}
