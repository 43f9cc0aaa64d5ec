//! The router's view of the registry.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use carillon_proto::{
    pause,
    pb::store::{LeadsReply, LeadsRequest, RegistryView, WatchRequest},
    peer::{PeerSecurity, cause},
    registry::RegistryClient,
};
use rand::RngExt as _;
use tokio::{sync::watch, time};
use tonic::Status;

use crate::{metrics, topology::Topology};

/// Timeout of one storage node: at most half of the usual pause between renewals, so that a node that hangs costs no
/// lease.
const TRY: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(50);
/// A watch moves to another node after this time: its node may be cut off from the others without noticing.
const WATCH: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct RegistryReader {
    pub(crate) client: RegistryClient,
    topology: watch::Receiver<Arc<Topology>>,
    /// A storage node says what changes.
    watching: Arc<AtomicBool>,
}

impl RegistryReader {
    /// `seeds`: storage nodes that are asked in addition to those in the registry.
    pub(crate) fn new(seeds: &[String], security: PeerSecurity, topology: watch::Receiver<Arc<Topology>>) -> Self {
        let (seeds, named) = (seeds.to_vec(), topology.clone());
        let nodes = move || {
            let mut nodes = named.borrow().storage();
            for seed in &seeds {
                if !nodes.contains(seed) {
                    nodes.push(seed.clone());
                }
            }
            nodes
        };
        Self { client: RegistryClient::new(security, TRY, nodes), topology, watching: Arc::default() }
    }

    /// True while a storage node says what changes in the registry.
    pub(crate) fn is_watching(&self) -> bool {
        self.watching.load(Ordering::Relaxed)
    }

    /// What each storage node of the cluster reports to lead; `None` if it does not answer in time.
    pub(crate) async fn leads(&self) -> Vec<(String, Option<LeadsReply>)> {
        let nodes = self.topology.borrow().storage();
        let asking = nodes.into_iter().map(|address| async move {
            let asked = async { self.client.node(&address)?.leads(LeadsRequest {}).await };
            let answer = time::timeout(TRY, asked).await;
            (address, answer.ok().and_then(Result::ok).map(tonic::Response::into_inner))
        });
        futures_util::future::join_all(asking).await
    }

    /// Publishes each newer view. Runs until it is cancelled.
    pub(crate) async fn watch(self, publish: watch::Sender<Arc<Topology>>) {
        let mut turn = rand::rng().random_range(0..64usize);
        loop {
            let nodes = self.client.nodes();
            turn += 1;
            let address = &nodes[turn % nodes.len()];
            let lasts = WATCH.mul_f64(rand::rng().random_range(0.7..1.3));
            let ended = time::timeout(lasts, self.watch_one(address, &publish)).await;
            self.watching.store(false, Ordering::Relaxed);
            if let Ok(Err(status)) = ended {
                tracing::debug!(%address, cause = cause(&status), "watch of the registry has ended");
                time::sleep(pause::growing(1, PAUSE, PAUSE * 2)).await;
            }
        }
    }

    async fn watch_one(&self, address: &str, publish: &watch::Sender<Arc<Topology>>) -> Result<(), Status> {
        let mut node = self.client.node(address)?;
        let opened = time::timeout(TRY, node.watch(WatchRequest {})).await;
        let mut views =
            opened.map_err(|_| Status::deadline_exceeded("the watch was not opened in time"))??.into_inner();
        self.watching.store(true, Ordering::Relaxed);
        while let Some(view) = views.message().await? {
            take(publish, view);
        }
        Err(Status::unavailable("closed by the node"))
    }
}

fn take(publish: &watch::Sender<Arc<Topology>>, view: RegistryView) {
    publish.send_if_modified(|topology| match topology.followed_by(view) {
        Some(next) => {
            let version = next.ring.version();
            if version != topology.ring.version() {
                tracing::info!(version, routers = next.ring.routers().len(), "the ring has changed");
                metrics::ring(version, next.ring.routers().len());
            }
            *topology = Arc::new(next);
            true
        }
        None => false,
    });
}
