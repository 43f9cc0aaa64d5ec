//! The types with which openraft is parametrised.

use std::fmt;

use bytes::Bytes;
use openraft::{
    impls::{BoxedErrorSource, InlineBatch, leader_id_adv},
    raft::responder::Responder,
};

use super::runtime::Runtime;
use crate::machine::Outcome;

/// The place of a replica. An openraft node is a replica here; its node id is the replica's id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// The storage node. 0: the node with the replica's number, as before replicas had ids.
    pub(crate) node: u64,
    /// Address of that node when the replica was placed; used while no newer one is known.
    pub(crate) address: String,
}

impl Host {
    /// The storage node that has this replica.
    pub(super) fn of(&self, replica: u64) -> u64 {
        if self.node == 0 { replica } else { self.node }
    }
}

/// openraft's types for a shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl openraft::RaftTypeConfig for Types {
    type D = Commands;
    type R = Outcomes;
    type NodeId = u64;
    type Node = Host;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Outlet<T>
    where
        T: Send + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = BoxedErrorSource;
}

pub(crate) type LeaderId = leader_id_adv::LeaderId<u64, u64>;
pub(crate) type Vote = openraft::impls::Vote<LeaderId>;
pub(crate) type LogId = openraft::impls::LogId<LeaderId>;
pub(crate) type Payload = openraft::impls::EntryPayload<Commands, u64, Host>;
pub(crate) type Entry = openraft::impls::Entry<LeaderId, Payload>;
pub(crate) type Membership = openraft::Membership<u64, Host>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, u64, Host>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, Host>;
pub(crate) type Snapshot = openraft::Snapshot<LeaderId, u64, Host, crate::snapshot::SnapshotFile>;

/// What a Raft entry carries: an encoded `carillon.store.v1.CommandBatch`.
#[derive(Default)]
pub(crate) struct Commands {
    pub(crate) encoded: Bytes,
    /// Called when the leader's core has taken the entry into its log, which fixes its place.
    pub(crate) accepted: Option<Box<dyn FnOnce() + Send + Sync>>,
}

/// Called with the result of a write as soon as it is known. Dropped if the group stops before.
pub(crate) struct Outlet<T>(pub(super) Box<dyn FnOnce(T) + Send>);

impl<T: Send + 'static> Responder<Types, T> for Outlet<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commands").field("encoded", &self.encoded).finish_non_exhaustive()
    }
}

impl fmt::Display for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "commands of {} bytes", self.encoded.len())
    }
}

/// One outcome for each command of the entry.
#[derive(Debug)]
pub(crate) struct Outcomes(pub(crate) Vec<Outcome>);
