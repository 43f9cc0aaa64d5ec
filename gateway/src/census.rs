//! The number of clients that all gateways have together, as the routers tell.

use std::{collections::BTreeMap, sync::Arc};

use carillon_proto::pb::{
    link::GatewaysLoad,
    store::{NodeKind, RegistryView},
};
use parking_lot::Mutex;

/// The numbers of clients of all gateways, as the routers tell them. The links to the routers write it, `rebalance` reads it.
#[derive(Default)]
pub(crate) struct Census(Mutex<Known>);

#[derive(Default)]
struct Known {
    ring_version: u64,
    /// The routers of the ring.
    routers: Vec<Arc<str>>,
    /// The leases of gateways.
    gateways: Vec<u64>,
    /// Of each router with an open link, the numbers that it has told last.
    told: BTreeMap<Arc<str>, GatewaysLoad>,
}

/// All gateways at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Sessions of all gateways.
    pub(crate) all: u64,
    /// Gateways that are stopping, in the eyes of the router that knows the most of them.
    pub(crate) draining: u32,
    /// The ring's version and the leases of all gateways: another one means that something has changed.
    pub(crate) cluster: (u64, Vec<u64>),
}

impl Seen {
    pub(crate) fn gateways(&self) -> usize {
        self.cluster.1.len()
    }
}

impl Census {
    pub(crate) fn registry(&self, view: &RegistryView, routers: Vec<Arc<str>>) {
        let gateways = view.nodes.iter().filter(|node| node.kind() == NodeKind::Gateway).map(|node| node.lease);
        let mut known = self.0.lock();
        known.ring_version = view.ring_version;
        known.gateways = gateways.collect();
        known.routers = routers;
    }

    pub(crate) fn told(&self, router: &Arc<str>, load: GatewaysLoad) {
        self.0.lock().told.insert(Arc::clone(router), load);
    }

    /// The link has ended.
    pub(crate) fn down(&self, router: &Arc<str>) {
        self.0.lock().told.remove(router);
    }

    /// `None` unless every router of the ring has told, as those of releases before do not.
    pub(crate) fn seen(&self) -> Option<Seen> {
        let known = self.0.lock();
        let told = known.routers.iter().map(|router| known.told.get(router)).collect::<Option<Vec<_>>>()?;
        let cluster = (known.ring_version, known.gateways.clone());
        let all = told.iter().map(|load| load.sessions).sum();
        let draining = told.iter().map(|load| load.draining_gateways).max()?;
        Some(Seen { all, draining, cluster })
    }
}
