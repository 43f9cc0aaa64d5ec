//! The registry, in directory shard 0: gateways and routers with their leases, and the rows of the cluster. It is
//! small, and held in memory.

use std::{collections::BTreeMap, io, time::Duration};

use carillon_proto::{
    Level,
    pb::store::{FoundCluster, Node, NodeKind, RegisterNode, SetDomain, rejected::Reason},
};

use super::{
    broken,
    cluster::{ClusterRows, NoChange},
    domains::DomainRows,
    keys::{self, Lease},
    ring_slots::RingSlots,
};
use crate::engine::{Changes, sled::DirectoryShard};

/// The registry as others see it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RegistryState {
    /// Grows with each change of `nodes`, `cluster` and `domains`.
    pub(crate) version: u64,
    /// The version at which the routers last changed.
    pub(crate) ring_version: u64,
    /// Ordered by lease.
    pub(crate) nodes: Vec<Node>,
    /// The lengths of the leases of `nodes`, in the same order.
    pub(crate) ttls_ms: Vec<u32>,
    /// The slots of the ring that no router holds.
    pub(crate) vacant_slots: Vec<u32>,
    pub(crate) cluster: ClusterRows,
    pub(crate) domains: DomainRows,
}

impl RegistryState {
    pub(crate) fn has(&self, lease: u64) -> bool {
        self.nodes.binary_search_by_key(&lease, |node| node.lease).is_ok()
    }

    /// Each lease and its length.
    pub(crate) fn ttls(&self) -> impl Iterator<Item = (u64, Duration)> {
        self.nodes.iter().zip(&self.ttls_ms).map(|(node, ttl_ms)| (node.lease, Duration::from_millis((*ttl_ms).into())))
    }

    /// True if this lease has certainly ended. A lease newer than this state may run.
    pub(crate) fn has_ended(&self, lease: u64) -> bool {
        lease <= self.version && !self.has(lease)
    }
}

/// The argument `at` of its methods is the name of the log command. It grows from command to command, and serves as
/// lease id and version.
#[derive(Debug, Default, Clone)]
pub(crate) struct Registry {
    clock_ms: u64,
    version: u64,
    ring_version: u64,
    leases: BTreeMap<u64, Lease>,
    slots: RingSlots,
    /// Routers get slots of the ring.
    has_slots: bool,
    cluster: ClusterRows,
    domains: DomainRows,
}

impl Registry {
    pub(crate) fn load(shard: &DirectoryShard) -> io::Result<Self> {
        let [clock_ms, version, ring_version] = match shard.get(keys::REGISTRY)? {
            Some(value) => keys::numbers_of(&value)?,
            None => [0; 3],
        };
        let mut leases = BTreeMap::new();
        for record in shard.with_prefix(&keys::leases()) {
            let (key, value) = record?;
            leases.insert(keys::lease_of(&key)?, Lease::decode(&value)?);
        }
        let (slots, cluster) = (RingSlots::load(shard)?, ClusterRows::load(shard)?);
        let level = shard.get(keys::LEVEL)?.map_or(Ok(Level::BEFORE), |level| keys::level_of(&level))?;
        let has_slots = level >= Level::RING_SLOTS;
        let domains = DomainRows::load(shard)?;
        Ok(Self { clock_ms, version, ring_version, leases, slots, has_slots, cluster, domains })
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn state(&self) -> RegistryState {
        let node = |(lease, node): (&u64, &Lease)| Node {
            lease: *lease,
            kind: node.kind.into(),
            address: node.address.clone(),
            slot: self.slots.of(*lease),
        };
        RegistryState {
            version: self.version,
            ring_version: self.ring_version,
            nodes: self.leases.iter().map(node).collect(),
            ttls_ms: self.leases.values().map(|lease| lease.ttl_ms).collect(),
            vacant_slots: self.slots.vacant().collect(),
            cluster: self.cluster.clone(),
            domains: self.domains.clone(),
        }
    }

    /// The shard reads its commands by this level from now on.
    pub(crate) fn level_rises(&mut self, at: u64, level: Level, changes: &mut Changes) {
        if self.has_slots || level < Level::RING_SLOTS {
            return;
        }
        self.has_slots = true;
        let routers: Vec<u64> = self.waiting().collect();
        for router in &routers {
            self.slots.add(*router, changes);
        }
        if !routers.is_empty() {
            self.ring_changed(at, changes);
        }
    }

    /// The routers without a slot, the oldest first.
    fn waiting(&self) -> impl Iterator<Item = u64> {
        let routers = self.leases.iter().filter(|(_, lease)| is_router(lease.kind));
        routers.map(|(lease, _)| *lease).filter(|lease| self.slots.of(*lease).is_none())
    }

    pub(crate) fn add_slot(&mut self, at: u64, lease: u64, changes: &mut Changes) {
        if self.waiting().any(|waiting| waiting == lease) {
            self.slots.add(lease, changes);
            self.ring_changed(at, changes);
        }
    }

    pub(crate) fn drop_slot(&mut self, at: u64, slot: u32, changes: &mut Changes) {
        if self.slots.drop_vacant(slot, changes) {
            // The ring stays as it is.
            self.version = at;
            self.save(changes);
        }
    }

    pub(crate) fn found(&mut self, at: u64, op: &FoundCluster, changes: &mut Changes) -> io::Result<()> {
        if self.cluster.found(op, changes)? {
            self.cluster_changed(at, changes);
        }
        Ok(())
    }

    /// Changes the rows of the cluster, by the command named `at`.
    pub(crate) fn change_cluster<T>(
        &mut self,
        at: u64,
        changes: &mut Changes,
        change: impl FnOnce(&mut ClusterRows, &mut Changes) -> Result<T, NoChange>,
    ) -> Result<T, NoChange> {
        let before = self.cluster.clone();
        let done = change(&mut self.cluster, changes)?;
        if self.cluster != before {
            self.cluster_changed(at, changes);
        }
        Ok(done)
    }

    pub(crate) fn set_domain(
        &mut self,
        at: u64,
        op: &SetDomain,
        changes: &mut Changes,
    ) -> Result<(), (Reason, String)> {
        let before = self.domains.clone();
        self.domains.set(op, changes)?;
        if self.domains != before {
            self.cluster_changed(at, changes);
        }
        Ok(())
    }

    fn cluster_changed(&mut self, at: u64, changes: &mut Changes) {
        self.version = at;
        self.save(changes);
    }

    /// Gives a lease. The same registration again gets the same lease, as long as that has not ended.
    pub(crate) fn register(&mut self, at: u64, node: &RegisterNode, changes: &mut Changes) -> io::Result<u64> {
        let kind = match node.kind() {
            NodeKind::Gateway | NodeKind::Router => node.kind,
            NodeKind::Unspecified | NodeKind::Storage => return Err(broken("kind of a node")),
        };
        let kind = u8::try_from(kind).map_err(|_| broken("kind of a node"))?;
        let nonce: [u8; 16] = node.nonce.as_ref().try_into().map_err(|_| broken("nonce of a node"))?;
        let same = |lease: &Lease| lease.kind == kind && lease.nonce == nonce && lease.address == node.address;
        if let Some((&lease, _)) = self.leases.iter().find(|(_, lease)| same(lease)) {
            return Ok(lease);
        }
        if !node.address.is_empty() {
            // The node has restarted: two nodes can't listen on one address.
            self.end(at, changes, |lease| lease.kind == kind && lease.address == node.address);
        }
        let ends = self.clock_ms.saturating_add(node.ttl_ms.into());
        let lease = Lease { kind, ttl_ms: node.ttl_ms, ends, nonce, address: node.address.clone() };
        changes.put(keys::lease(at), lease.encode());
        self.changed(at, kind, changes);
        self.leases.insert(at, lease);
        if self.has_slots && is_router(kind) {
            self.slots.join(at, changes);
        }
        Ok(at)
    }

    /// False if it has ended.
    pub(crate) fn renew(&mut self, lease: u64, changes: &mut Changes) -> bool {
        let Some(held) = self.leases.get_mut(&lease) else { return false };
        held.ends = self.clock_ms.saturating_add(held.ttl_ms.into());
        changes.put(keys::lease(lease), held.encode());
        true
    }

    pub(crate) fn deregister(&mut self, at: u64, lease: u64, changes: &mut Changes) {
        if let Some(held) = self.leases.remove(&lease) {
            changes.delete(keys::lease(lease));
            let heir = self.waiting().next();
            self.slots.leave(lease, heir, changes);
            self.changed(at, held.kind, changes);
        }
    }

    pub(crate) fn advance(&mut self, at: u64, elapsed_ms: u32, changes: &mut Changes) {
        self.clock_ms = self.clock_ms.saturating_add(elapsed_ms.into());
        self.save(changes);
        let clock_ms = self.clock_ms;
        self.end(at, changes, |lease| lease.ends <= clock_ms);
    }

    fn end(&mut self, at: u64, changes: &mut Changes, over: impl Fn(&Lease) -> bool) {
        let ended: Vec<u64> = self.leases.iter().filter(|(_, lease)| over(lease)).map(|(id, _)| *id).collect();
        for id in ended {
            self.deregister(at, id, changes);
        }
    }

    fn changed(&mut self, at: u64, kind: u8, changes: &mut Changes) {
        if is_router(kind) {
            self.ring_changed(at, changes);
        } else {
            self.version = at;
            self.save(changes);
        }
    }

    fn ring_changed(&mut self, at: u64, changes: &mut Changes) {
        (self.version, self.ring_version) = (at, at);
        self.save(changes);
    }

    fn save(&self, changes: &mut Changes) {
        let value = keys::numbers_value([self.clock_ms, self.version, self.ring_version]);
        changes.put(keys::REGISTRY, value);
    }
}

fn is_router(kind: u8) -> bool {
    i32::from(kind) == i32::from(NodeKind::Router)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(kind: NodeKind, address: &str, nonce: u8) -> RegisterNode {
        RegisterNode { kind: kind.into(), address: address.into(), ttl_ms: 1000, nonce: vec![nonce; 16].into() }
    }

    fn leases(registry: &Registry) -> Vec<u64> {
        registry.state().nodes.iter().map(|node| node.lease).collect()
    }

    #[test]
    fn a_lease_ends_when_the_clock_passes_it_and_not_before() {
        let (mut registry, mut changes) = (Registry::default(), Changes::default());
        let lease = registry.register(64, &node(NodeKind::Gateway, "", 1), &mut changes).expect("well-formed");
        registry.advance(128, 999, &mut changes);
        assert!(registry.renew(lease, &mut changes));
        registry.advance(192, 999, &mut changes);
        assert_eq!((leases(&registry), registry.version), (vec![64], 64));
        registry.advance(256, 1, &mut changes);
        assert_eq!((leases(&registry), registry.version), (vec![], 256));
        assert!(!registry.renew(lease, &mut changes));
    }

    #[test]
    fn a_lease_that_is_newer_than_the_state_has_not_ended() {
        let (mut registry, mut changes) = (Registry::default(), Changes::default());
        for lease in [64, 128] {
            registry.register(lease, &node(NodeKind::Gateway, "", lease as u8), &mut changes).expect("well-formed");
        }
        registry.deregister(192, 128, &mut changes);
        let state = registry.state();
        assert_eq!([64, 100, 128, 192, 193].map(|lease| state.has_ended(lease)), [false, true, true, true, false]);
        assert!(!RegistryState::default().has_ended(64), "nothing is known");
    }

    #[test]
    fn the_same_registration_twice_gives_one_lease() {
        let (mut registry, mut changes) = (Registry::default(), Changes::default());
        let first = registry.register(64, &node(NodeKind::Gateway, "", 1), &mut changes).expect("well-formed");
        let again = registry.register(65, &node(NodeKind::Gateway, "", 1), &mut changes).expect("well-formed");
        let other = registry.register(66, &node(NodeKind::Gateway, "", 2), &mut changes).expect("well-formed");
        assert_eq!((first, again, other, registry.version), (64, 64, 66, 66));
    }

    #[test]
    fn a_router_that_comes_back_at_its_address_ends_its_old_lease() {
        let (mut registry, mut changes) = (Registry::default(), Changes::default());
        registry.register(64, &node(NodeKind::Router, "a:1", 1), &mut changes).expect("well-formed");
        registry.register(65, &node(NodeKind::Gateway, "a:1", 2), &mut changes).expect("well-formed");
        assert_eq!((registry.version, registry.ring_version), (65, 64));
        registry.register(66, &node(NodeKind::Router, "a:1", 3), &mut changes).expect("well-formed");
        assert_eq!(leases(&registry), [65, 66]);
        assert_eq!((registry.version, registry.ring_version), (66, 66));
        registry.deregister(67, 65, &mut changes);
        registry.deregister(68, 65, &mut changes);
        assert_eq!((registry.version, registry.ring_version), (67, 66));
    }

    fn slots(registry: &Registry) -> Vec<(u64, Option<u32>)> {
        registry.state().nodes.iter().map(|node| (node.lease, node.slot)).collect()
    }

    fn router(registry: &mut Registry, at: u64, changes: &mut Changes) {
        let address = format!("router-{at}:1");
        registry.register(at, &node(NodeKind::Router, &address, at as u8), changes).expect("well-formed");
    }

    /// With slots from the beginning.
    fn with_slots(changes: &mut Changes) -> Registry {
        let mut registry = Registry::default();
        registry.level_rises(1, Level::RING_SLOTS, changes);
        registry
    }

    #[test]
    fn a_router_that_comes_before_another_one_goes_takes_its_slot_in_the_same_moment() {
        let mut changes = Changes::default();
        let mut registry = with_slots(&mut changes);
        router(&mut registry, 64, &mut changes);
        router(&mut registry, 65, &mut changes);
        registry.add_slot(66, 65, &mut changes);
        registry.add_slot(67, 65, &mut changes);
        assert_eq!(slots(&registry), [(64, Some(0)), (65, Some(1))]);
        assert_eq!(registry.ring_version, 66, "it has one already");
        for new in [70, 80] {
            router(&mut registry, new, &mut changes);
            registry.deregister(new + 1, new / 10 + 57, &mut changes);
        }
        assert_eq!(slots(&registry), [(70, Some(0)), (80, Some(1))]);
        assert!(registry.state().vacant_slots.is_empty());
    }

    #[test]
    fn a_router_that_comes_after_another_one_has_gone_takes_its_slot() {
        let mut changes = Changes::default();
        let mut registry = with_slots(&mut changes);
        for at in [64, 65, 66] {
            router(&mut registry, at, &mut changes);
            registry.add_slot(at, at, &mut changes);
        }
        registry.deregister(70, 65, &mut changes);
        assert_eq!(slots(&registry), [(64, Some(0)), (66, Some(2))]);
        assert_eq!(registry.state().vacant_slots, [1]);
        router(&mut registry, 71, &mut changes);
        router(&mut registry, 72, &mut changes);
        assert_eq!(slots(&registry), [(64, Some(0)), (66, Some(2)), (71, Some(1)), (72, None)]);
    }

    #[test]
    fn a_vacant_slot_is_dropped_and_one_that_is_held_is_not() {
        let mut changes = Changes::default();
        let mut registry = with_slots(&mut changes);
        for at in [64, 65] {
            router(&mut registry, at, &mut changes);
            registry.add_slot(at, at, &mut changes);
        }
        registry.deregister(70, 64, &mut changes);
        registry.drop_slot(71, 1, &mut changes);
        registry.drop_slot(72, 7, &mut changes);
        assert_eq!((registry.state().vacant_slots, registry.version), (vec![0], 70));
        registry.drop_slot(73, 0, &mut changes);
        assert_eq!((registry.state().vacant_slots, registry.version, registry.ring_version), (vec![], 73, 70));
        router(&mut registry, 80, &mut changes);
        registry.add_slot(81, 80, &mut changes);
        assert_eq!(slots(&registry), [(65, Some(1)), (80, Some(0))], "the lowest number that is free");
    }

    #[test]
    fn routers_that_are_there_when_the_level_rises_get_slots() {
        let (mut registry, mut changes) = (Registry::default(), Changes::default());
        router(&mut registry, 64, &mut changes);
        router(&mut registry, 65, &mut changes);
        registry.register(66, &node(NodeKind::Gateway, "", 1), &mut changes).expect("well-formed");
        registry.level_rises(70, Level::ERASURE, &mut changes);
        assert_eq!(slots(&registry), [(64, None), (65, None), (66, None)]);
        registry.level_rises(71, Level::RING_SLOTS, &mut changes);
        registry.level_rises(72, Level::RING_SLOTS, &mut changes);
        assert_eq!(slots(&registry), [(64, Some(0)), (65, Some(1)), (66, None)]);
        assert_eq!(registry.ring_version, 71);
    }
}
