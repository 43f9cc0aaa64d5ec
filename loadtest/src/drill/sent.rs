//! The bytes of snapshots that storage nodes send to each other.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use carillon_proto::tasks::Tasks;
use tokio::{sync::Mutex, time::sleep};

use crate::cluster::{Cluster, admin};

const METRIC: &str = "carillon_storage_snapshot_sent_bytes_total";
/// Interval of looks. The bytes that a node has sent after the last look before its end are not known.
const LOOK: Duration = Duration::from_millis(500);

/// Counts over the ends and starts of nodes.
pub(super) struct SnapshotsSent(Mutex<Counters>);

struct Counters {
    /// Of each node the last count.
    last: Vec<(SocketAddr, f64)>,
    total: f64,
}

impl Counters {
    fn note(&mut self, at: usize, now: f64) {
        let last = &mut self.last[at].1;
        // A node that was started again counts from 0.
        self.total += if now < *last { now } else { now - *last };
        *last = now;
    }
}

impl SnapshotsSent {
    /// Looks at all nodes until the tasks are stopped.
    pub(super) fn watch(cluster: &Cluster, tasks: &Tasks) -> Arc<Self> {
        let last = cluster.admins().into_iter().map(|admin| (admin, 0.0)).collect();
        let sent = Arc::new(Self(Mutex::new(Counters { last, total: 0.0 })));
        let watched = Arc::clone(&sent);
        tasks.spawn("watch snapshots", async move {
            loop {
                watched.bytes().await;
                sleep(LOOK).await;
            }
        });
        sent
    }

    /// All bytes so far.
    pub(super) async fn bytes(&self) -> u64 {
        let mut counters = self.0.lock().await;
        for at in 0..counters.last.len() {
            let text = admin::get(counters.last[at].0, "/metrics").await;
            // Without an answer, or before the node counts.
            if let Some(text) = text.filter(|text| text.contains(METRIC)) {
                counters.note(at, admin::metric(&text, METRIC));
            }
        }
        counters.total as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_starts_again_counts_from_nothing() {
        let mut counters = Counters { last: vec![(([127, 0, 0, 1], 1).into(), 0.0)], total: 0.0 };
        for now in [10.0, 10.0, 25.0, 5.0, 7.0] {
            counters.note(0, now);
        }
        assert_eq!(counters.total, 32.0);
    }
}
