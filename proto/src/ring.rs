//! Which router owns a user or a group: consistent hashing over the routers that the registry lists. The only module
//! that names hashring.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::Arc,
};

use hashring::HashRing;

use crate::{
    LeaseId,
    pb::store::{Node, NodeKind, RegistryView},
};

/// Virtual points of each router on the ring.
const POINTS: u16 = 128;

/// A registered router, whether it owns users or waits for a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterNode {
    pub lease: LeaseId,
    /// host:port of its internal listener.
    pub address: String,
    /// From which its points on the ring are derived, so that a router which takes over another one's slot owns the same
    /// keys. Where routers have no slots yet (below level 6), points are derived from the address.
    pub slot: Option<u32>,
}

/// Ownership at one version of the registry. Immutable: each change makes a new ring.
pub struct Ring {
    version: u64,
    routers: Vec<RouterNode>,
    points: HashRing<Point>,
}

/// The hashed bytes are spelled out here, because `derive(Hash)` is not stable across releases.
#[derive(Clone)]
struct Point {
    /// The router's address, or its slot.
    place: Arc<[u8]>,
    number: u16,
    router: usize,
}

impl Hash for Point {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.place);
        state.write(&self.number.to_be_bytes());
    }
}

struct Key<'a>(&'a str);

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.0.as_bytes());
    }
}

impl Ring {
    pub fn empty() -> Self {
        Self::new(0, Vec::new())
    }

    /// The ring of a registry view. If two leases have the same address, the newer one counts. A router that waits for a
    /// slot is listed, and owns nothing.
    pub fn from_view(view: &RegistryView) -> Self {
        let mut newest: HashMap<&str, &Node> = HashMap::new();
        for node in view.nodes.iter().filter(|node| node.kind() == NodeKind::Router) {
            let known = newest.entry(&node.address).or_insert(node);
            if known.lease < node.lease {
                *known = node;
            }
        }
        let router =
            |node: &Node| RouterNode { lease: LeaseId(node.lease), address: node.address.clone(), slot: node.slot };
        let mut routers: Vec<_> = newest.into_values().map(router).collect();
        routers.sort_by(|a, b| a.address.cmp(&b.address));
        Self::new(view.ring_version, routers)
    }

    fn new(version: u64, routers: Vec<RouterNode>) -> Self {
        let have_slots = routers.iter().any(|router| router.slot.is_some());
        let place = |router: &RouterNode| -> Option<Arc<[u8]>> {
            match router.slot {
                Some(slot) => Some(slot.to_be_bytes().as_slice().into()),
                None if have_slots => None,
                None => Some(router.address.as_bytes().into()),
            }
        };
        let mut points = HashRing::new();
        points.batch_add(
            routers
                .iter()
                .enumerate()
                .filter_map(|(router, node)| Some((router, place(node)?)))
                .flat_map(|(router, place)| {
                    (0..POINTS).map(move |number| Point { place: place.clone(), number, router })
                })
                .collect(),
        );
        Self { version, routers, points }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn routers(&self) -> &[RouterNode] {
        &self.routers
    }

    /// The owner of a user or group id; `None` while no router is registered.
    pub fn owner(&self, id: &str) -> Option<&RouterNode> {
        self.points.get(&Key(id)).map(|point| &self.routers[point.router])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::store::Node;

    fn ring(addresses: &[&str]) -> Ring {
        let nodes = addresses.iter().enumerate().map(|(i, address)| Node {
            lease: i as u64 + 1,
            kind: NodeKind::Router.into(),
            address: (*address).to_owned(),
            slot: None,
        });
        Ring::from_view(&RegistryView { ring_version: 7, nodes: nodes.collect(), ..Default::default() })
    }

    fn ring_of_slots(routers: &[(&str, Option<u32>)]) -> Ring {
        let nodes = routers.iter().enumerate().map(|(i, (address, slot))| Node {
            lease: i as u64 + 1,
            kind: NodeKind::Router.into(),
            address: (*address).to_owned(),
            slot: *slot,
        });
        Ring::from_view(&RegistryView { ring_version: 7, nodes: nodes.collect(), ..Default::default() })
    }

    fn owners(ring: &Ring) -> Vec<&str> {
        ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"]
            .map(|id| &*ring.owner(id).expect("not empty").address)
            .to_vec()
    }

    /// Gateways and routers of two releases run side by side during an upgrade: they must agree.
    #[test]
    fn owners_never_change_between_releases() {
        let ring = ring(&["router-0:7402", "router-1:7402", "router-2:7402"]);
        let owners: Vec<_> = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"]
            .map(|id| ring.owner(id).expect("not empty").address.chars().nth(7).expect("a digit"))
            .into_iter()
            .collect();
        assert_eq!(owners.iter().collect::<String>(), "21012221");
    }

    #[test]
    fn owners_by_slots_never_change_between_releases() {
        let ring = ring_of_slots(&[("a", Some(2)), ("b", Some(0)), ("c", Some(1))]);
        assert_eq!(owners(&ring).concat(), "aacaabbb");
    }

    #[test]
    fn who_takes_over_a_slot_owns_the_same_and_who_waits_for_one_owns_nothing() {
        let before = ring_of_slots(&[("a:1", Some(0)), ("b:1", Some(1))]);
        let waits = ring_of_slots(&[("a:1", Some(0)), ("b:1", Some(1)), ("c:1", None)]);
        assert_eq!((owners(&waits), waits.routers().len()), (owners(&before), 3));
        let after = ring_of_slots(&[("b:1", Some(1)), ("c:1", Some(0))]);
        let takes_over = |owner| if owner == "a:1" { "c:1" } else { owner };
        assert_eq!(owners(&after), owners(&before).into_iter().map(takes_over).collect::<Vec<_>>());
    }

    #[test]
    fn a_new_router_takes_only_its_share() {
        let (two, three) = (ring(&["a:1", "b:1"]), ring(&["a:1", "b:1", "c:1"]));
        let moved = (0..3000)
            .map(|i| format!("user{i}"))
            .filter(|id| {
                let (before, after) =
                    (&two.owner(id).expect("owner").address, &three.owner(id).expect("owner").address);
                assert!(before == after || after == "c:1", "{id} moved between old routers");
                before != after
            })
            .count();
        assert!((600..1400).contains(&moved), "{moved} of 3000 moved");
    }

    #[test]
    fn the_newer_lease_of_an_address_wins() {
        let mut view = RegistryView::default();
        for lease in [9, 4] {
            view.nodes.push(Node { lease, kind: NodeKind::Router.into(), address: "a:1".into(), slot: None });
        }
        assert_eq!(Ring::from_view(&view).owner("x").expect("owner").lease, LeaseId(9));
    }
}
