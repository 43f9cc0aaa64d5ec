//! The content of a registry view: the ring, the shards, the running leases.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use carillon_proto::{
    Domains, LeaseId, Ring, RouterNode, ShardId, ShardMap,
    pb::store::{NodeKind, Placed, RegistryView, Replica},
};

/// One version of the cluster. Immutable.
pub(crate) struct Topology {
    pub(crate) view: Arc<RegistryView>,
    pub(crate) ring: Arc<Ring>,
    pub(crate) shards: ShardMap,
    pub(crate) domains: Domains,
    gateways: HashSet<LeaseId>,
    /// host:port of this router.
    here: Arc<str>,
}

impl Topology {
    /// Before the first view: nobody owns anything.
    pub(crate) fn unknown(here: &str) -> Self {
        Self::new(RegistryView::default(), here.into())
    }

    pub(crate) fn new(view: RegistryView, here: Arc<str>) -> Self {
        let ring = Arc::new(Ring::from_view(&view));
        Self::with_ring(view, ring, here)
    }

    fn with_ring(view: RegistryView, ring: Arc<Ring>, here: Arc<str>) -> Self {
        let of_kind = |kind| view.nodes.iter().filter(move |node| node.kind() == kind).map(|node| LeaseId(node.lease));
        let shards = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
        Self {
            ring,
            shards: ShardMap { directory: shards(view.directory_shards), timeline: shards(view.timeline_shards) },
            gateways: of_kind(NodeKind::Gateway).collect(),
            domains: Domains::of(&view.domains),
            here,
            view: Arc::new(view),
        }
    }

    pub(crate) fn is_known(&self) -> bool {
        self.shards.directory > 0
    }

    /// The next topology, unless `view` is no newer than this one.
    pub(crate) fn followed_by(&self, view: RegistryView) -> Option<Self> {
        let newer = !self.is_known() || view.version > self.view.version;
        newer.then(|| {
            let here = Arc::clone(&self.here);
            match view.ring_version == self.ring.version() {
                true => Self::with_ring(view, Arc::clone(&self.ring), here),
                false => Self::new(view, here),
            }
        })
    }

    /// True if this router is the owner. Compares addresses: a router that comes back under a new lease owns what it
    /// owned.
    pub(crate) fn owns(&self, id: &str) -> bool {
        self.ring.owner(id).is_some_and(|owner| *owner.address == *self.here)
    }

    /// The address of the owner of the user or group of this name; `None` if that is this router, or if there is none.
    pub(crate) fn elsewhere(&self, name: &str) -> Option<&str> {
        let owner = &*self.ring.owner(name)?.address;
        (*owner != *self.here).then_some(owner)
    }

    pub(crate) fn others(&self) -> impl Iterator<Item = &RouterNode> {
        self.ring.routers().iter().filter(|router| *router.address != *self.here)
    }

    /// The gateways whose leases run.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = LeaseId> {
        self.gateways.iter().copied()
    }

    /// True if the lease of a session's gateway has certainly ended. A lease newer than this view may run. Leases and
    /// versions come from one counter: a lease is the version of the first view that contains it.
    pub(crate) fn has_ended(&self, gateway: LeaseId) -> bool {
        !self.gateways.contains(&gateway) && gateway.0 <= self.view.version
    }

    /// host:port of all storage nodes.
    pub(crate) fn storage(&self) -> Vec<String> {
        self.view.storage.iter().map(|node| node.address.clone()).collect()
    }

    /// host:port of the nodes that have a replica of each shard, the preferred leader first.
    pub(crate) fn replicas(&self) -> BTreeMap<ShardId, Vec<String>> {
        let address = |id| self.view.storage.iter().find(|node| node.lease == id).map(|node| node.address.clone());
        let of = |placed: &Placed| {
            let mut replicas: Vec<&Replica> = placed.replicas.iter().collect();
            replicas.sort_by_key(|replica| (replica.id != placed.preferred, replica.leaving));
            let addresses = replicas.into_iter().filter_map(|replica| address(replica.node)).collect();
            Some((placed.shard.as_ref().and_then(ShardId::from_pb)?, addresses))
        };
        self.view.placement.iter().filter_map(of).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use carillon_proto::pb::store::Node;

    /// Routers by address with leases from 1, gateways by lease.
    pub(crate) fn topology(version: u64, here: &str, routers: &[&str], gateways: &[u64]) -> Topology {
        let routers = routers.iter().enumerate().map(|(i, address)| Node {
            lease: i as u64 + 1,
            kind: NodeKind::Router.into(),
            address: (*address).to_owned(),
            slot: None,
        });
        // No view is older than its leases.
        let newest = gateways.iter().copied().fold(version, u64::max);
        let gateways =
            gateways.iter().map(|lease| Node { lease: *lease, kind: NodeKind::Gateway.into(), ..Node::default() });
        let view = RegistryView {
            version: newest,
            ring_version: version,
            nodes: routers.chain(gateways).collect(),
            directory_shards: 4,
            timeline_shards: 4,
            ..RegistryView::default()
        };
        Topology::new(view, here.into())
    }

    #[test]
    fn the_preferred_replica_is_asked_first_and_who_leaves_last() {
        let storage = [(1, "a:1"), (2, "b:1"), (3, "c:1"), (4, "d:1")].map(|(lease, address)| Node {
            lease,
            kind: NodeKind::Storage.into(),
            address: address.to_owned(),
            slot: None,
        });
        let replica = |(id, node, leaving)| Replica { id, node, leaving, ..Replica::default() };
        let placed = Placed {
            shard: Some(ShardId::REGISTRY.to_pb()),
            replicas: [(1, 1, true), (3, 3, false), (640, 4, false), (704, 9, false)].map(replica).to_vec(),
            preferred: 640,
        };
        let view = RegistryView { storage: storage.to_vec(), placement: vec![placed], ..RegistryView::default() };
        let replicas = Topology::new(view, "r:1".into()).replicas();
        assert_eq!(replicas[&ShardId::REGISTRY], ["d:1", "c:1", "a:1"], "node 9 is nowhere");
    }

    #[test]
    fn an_older_view_is_ignored() {
        let now = topology(5, "a:1", &["a:1"], &[]);
        let view = |version| RegistryView { version, directory_shards: 1, ..RegistryView::default() };
        assert!(now.followed_by(view(5)).is_none());
        assert!(now.followed_by(view(4)).is_none());
        assert_eq!(now.followed_by(view(6)).expect("newer").view.version, 6);
        assert!(Topology::unknown("a:1").followed_by(view(0)).is_some(), "the first view counts, whatever its version");
    }

    #[test]
    fn a_lease_that_is_newer_than_the_view_has_not_ended() {
        let now = topology(5, "a:1", &["a:1"], &[10, 20]);
        assert!(!now.has_ended(LeaseId(10)));
        assert!(now.has_ended(LeaseId(15)));
        assert!(!now.has_ended(LeaseId(21)));
        let next = topology(30, "a:1", &["a:1"], &[10]);
        assert!(next.has_ended(LeaseId(20)), "also the newest one, when it has gone");
        assert!(!next.has_ended(LeaseId(31)));
    }

    #[test]
    fn ownership_follows_the_address() {
        let now = topology(5, "a:1", &["a:1", "b:1"], &[]);
        let mine = (0..100).filter(|i| now.owns(&format!("user{i}"))).count();
        assert!((20..80).contains(&mine), "{mine}");
        assert_eq!(now.others().count(), 1);
        assert!(!Topology::unknown("a:1").owns("user"));
    }
}
