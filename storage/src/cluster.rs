//! What this node serves once the cluster is made: its shards and who else is there.

use std::{collections::HashMap, sync::OnceLock};

use carillon_proto::{ShardId, ShardMap, pb::raft};
use tonic::Status;

use crate::{
    shard::{Reader, Shard},
    space::Space,
};

/// Set once, when the shards are started.
pub(crate) type Serving = OnceLock<Cluster>;

pub(crate) struct Cluster {
    pub(crate) id: String,
    pub(crate) own: u64,
    pub(crate) map: ShardMap,
    /// Ordered by node id. For now every storage node of the initial cluster replicates all shards.
    pub(crate) members: Vec<raft::Member>,
    pub(crate) shards: HashMap<ShardId, Shard>,
    pub(crate) space: Space,
}

impl Cluster {
    pub(crate) fn registry(&self) -> Option<&Shard> {
        self.shards.get(&ShardId::REGISTRY)
    }

    /// Of the registry, as far as this node has it.
    pub(crate) fn view_version(&self) -> u64 {
        match self.registry().map(Shard::reader) {
            Some(Reader::Directory(reader)) => reader.registry().borrow().version,
            _ => 0,
        }
    }

    /// The node that should lead this shard, so that the leaders are spread.
    pub(crate) fn preferred_leader(&self, shard: ShardId) -> Option<u64> {
        let number = self.map.all().position(|other| other == shard)?;
        Some(self.members.get(number % self.members.len().max(1))?.node)
    }
}

/// For calls that come before the shards are started.
pub(crate) fn started(serving: &Serving) -> Result<&Cluster, Status> {
    serving.get().ok_or_else(|| Status::unavailable("this storage node has not started its shards yet"))
}
