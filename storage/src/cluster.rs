//! The state of a node that has its place in a cluster: its replicas, and the registry's view.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use arc_swap::{ArcSwap, Guard};
use carillon_proto::{
    Level, ShardId, ShardMap,
    pb::store::{StorageNode, storage_node::State},
};
use tonic::Status;

use crate::{
    addresses::AddressBook,
    leads::LeadsKnown,
    lease_clock::Leases,
    machine::{ClusterRows, DomainAges, RegistryState},
    node_load::NodeLoad,
    raft::RaftLinks,
    shard::Shard,
    space::Space,
};

/// Set once, when the shards are started.
pub(crate) type Serving = OnceLock<Cluster>;

type Shards = HashMap<ShardId, Shard>;

/// The shards with a replica on this node; they change while it runs.
#[derive(Default)]
pub(crate) struct Hosted(ArcSwap<Shards>);

pub(crate) struct Cluster {
    pub(crate) id: String,
    /// The id of this node.
    pub(crate) own: u64,
    pub(crate) map: ShardMap,
    pub(crate) hosted: Arc<Hosted>,
    pub(crate) book: AddressBook,
    pub(crate) registry: tokio::sync::watch::Receiver<RegistryState>,
    /// Used in place of the rows until the registry has rows.
    pub(crate) implied: ClusterRows,
    /// True if the identity file says that the cluster has rows, even if this node has not read them yet.
    pub(crate) is_founded: bool,
    /// The level of a cluster that has just been made (`raft::Cluster.level`). Its rows may not be there yet.
    pub(crate) begins_at: Level,
    pub(crate) space: Space,
    pub(crate) leases: Arc<Leases>,
    pub(crate) links: RaftLinks,
    pub(crate) load: Arc<NodeLoad>,
    pub(crate) leads: LeadsKnown,
}

impl Hosted {
    pub(crate) fn get(&self, shard: ShardId) -> Option<Shard> {
        self.0.load().get(&shard).cloned()
    }

    /// The current shards.
    pub(crate) fn all(&self) -> Arc<Shards> {
        self.0.load_full()
    }

    /// The current shards, borrowed for a short time without counting a reference.
    pub(crate) fn now(&self) -> Guard<Arc<Shards>> {
        self.0.load()
    }

    pub(crate) fn put(&self, shard: Shard) {
        self.0.rcu(|shards| {
            let mut shards = Shards::clone(shards);
            shards.insert(shard.id(), shard.clone());
            shards
        });
    }

    pub(crate) fn remove(&self, shard: ShardId) {
        self.0.rcu(|shards| {
            let mut shards = Shards::clone(shards);
            shards.remove(&shard);
            shards
        });
    }
}

impl Cluster {
    pub(crate) fn registry(&self) -> Option<Shard> {
        self.hosted.get(ShardId::REGISTRY)
    }

    pub(crate) fn shards(&self) -> Arc<Shards> {
        self.hosted.all()
    }

    /// Retention of messages by domain, as far as this node has applied it.
    pub(crate) fn domain_ages(&self) -> DomainAges {
        self.registry.borrow().domains.ages()
    }

    /// True for a level that the cluster had only while it was being made.
    pub(crate) fn is_below_its_beginning(&self, level: Level) -> bool {
        level < self.begins_at
    }

    /// Members, placement and level, as far as this node has applied them.
    pub(crate) fn rows(&self) -> ClusterRows {
        rows(&self.registry.borrow(), &self.implied)
    }

    /// Why this node is not to serve any more, if it is so.
    pub(crate) fn has_no_place(&self) -> Option<&'static str> {
        let state = self.registry.borrow();
        let rows = &state.cluster;
        if !rows.has_rows() {
            return None;
        }
        match rows.node(self.own).map(StorageNode::state) {
            Some(State::Lost) => Some("it was declared lost, and other nodes have taken its place: stop it"),
            _ if rows.has_dropped(self.own) => Some("it has left the cluster and holds nothing any more: stop it"),
            _ => None,
        }
    }

    /// The registry version that this node has applied.
    pub(crate) fn view_version(&self) -> u64 {
        self.registry.borrow().version
    }

    /// The node of this replica.
    pub(crate) fn node_of(&self, shard: ShardId, replica: u64) -> Option<u64> {
        self.rows().node_of(shard, replica)
    }

    /// The replica that should lead this shard, to spread the leaders over the nodes.
    pub(crate) fn preferred_leader(&self, shard: ShardId) -> Option<u64> {
        let rows = self.rows();
        rows.placement().get(&shard).map(|placement| placement.preferred).filter(|replica| *replica != 0)
    }
}

pub(crate) fn rows(registry: &RegistryState, implied: &ClusterRows) -> ClusterRows {
    let rows = &registry.cluster;
    if rows.has_rows() { rows.clone() } else { implied.clone() }
}

/// Refuses calls that arrive before the shards are started.
pub(crate) fn started(serving: &Serving) -> Result<&Cluster, Status> {
    serving.get().ok_or_else(|| Status::unavailable("this storage node has not started its shards yet"))
}
