//! A gateway without a lease and without a router sends its clients to other gateways.

use std::{sync::Arc, time::Duration};

use carillon_proto::{clock, pause};
use tokio::sync::watch;

use crate::connections::Connections;

/// Longest delay before a client reconnects elsewhere.
const COME_BACK: Duration = Duration::from_secs(1);
/// How often clients that have arrived meanwhile are sent away.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs until it is cancelled.
pub(crate) async fn watch(mut cut_off: watch::Receiver<bool>, connections: Arc<Connections>) {
    while cut_off.wait_for(|cut_off| *cut_off).await.is_ok() {
        tracing::warn!(clients = connections.len(), "no router can be reached and the lease has run out: clients go");
        while *cut_off.borrow() {
            for client in connections.all() {
                client.cut_off(pause::below(COME_BACK));
            }
            clock::sleep(AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::tasks::Tasks;
    use tokio::time::timeout;

    use super::*;
    use crate::mailbox::Mailbox;

    /// Waits for mail, which must say to go.
    async fn goes(mailbox: &Mailbox) {
        timeout(Duration::from_secs(10), mailbox.arrived()).await.expect("mail within 10 s");
        assert!(mailbox.take().cut_off.is_some());
    }

    #[tokio::test]
    async fn clients_go_while_it_is_cut_off() {
        let connections = Arc::new(Connections::new());
        let (first, later) = (Arc::<Mailbox>::default(), Arc::<Mailbox>::default());
        connections.insert(1, Arc::clone(&first));
        let (cut_off, seen) = watch::channel(false);
        let tasks = Tasks::new();
        tasks.spawn("cut off", watch(seen, Arc::clone(&connections)));
        cut_off.send_replace(true);
        goes(&first).await;
        connections.insert(2, Arc::clone(&later));
        goes(&later).await;
        tasks.finish(Duration::from_secs(1)).await;
    }
}
