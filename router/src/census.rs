//! How many sessions this router has, for the gateways: each compares itself with the others by what all routers have together.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use carillon_proto::{clock, pb::link::GatewaysLoad};
use tokio::sync::watch;

use crate::{gateway_links::GatewayLinks, partition::PARTITIONS};

/// Gateways are told at most once in this time.
const TELL: Duration = Duration::from_secs(5);

/// Counts of all partitions. Clones share them.
#[derive(Clone)]
pub(crate) struct Census {
    sessions: Arc<[AtomicUsize; PARTITIONS]>,
    /// `None` until the first count.
    told: watch::Sender<Option<GatewaysLoad>>,
}

impl Census {
    pub(crate) fn new() -> Self {
        Self { sessions: Arc::default(), told: watch::Sender::new(None) }
    }

    /// A partition has so many sessions.
    pub(crate) fn counted(&self, partition: usize, sessions: usize) {
        self.sessions[partition].store(sessions, Ordering::Relaxed);
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<GatewaysLoad>> {
        self.told.subscribe()
    }

    /// Tells what has changed, until it is cancelled.
    pub(crate) async fn tell(self, links: GatewayLinks) {
        loop {
            clock::sleep(TELL).await;
            let sessions = self.sessions.iter().map(|sessions| sessions.load(Ordering::Relaxed) as u64).sum();
            let load = Some(GatewaysLoad { sessions, draining_gateways: links.draining() });
            self.told.send_if_modified(|told| {
                let changed = *told != load;
                *told = load;
                changed
            });
        }
    }
}
