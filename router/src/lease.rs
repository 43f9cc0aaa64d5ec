//! This router's own lease.

use std::time::Duration;

use bytes::Bytes;
use carillon_proto::{
    LeaseId,
    pb::store::{DeregisterRequest, NodeKind, RegisterRequest, RenewRequest},
    peer::cause,
    waiting::Waiting,
};
use rand::RngExt as _;
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tonic::Code;

use crate::{backoff, metrics, registry::Registry};

const PAUSE: Duration = Duration::from_millis(100);
const WAITING: &str = "a storage node that registers this router";

/// The lease, and until when this router may act by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) lease: LeaseId,
    /// By our own clock, counted from before the store was asked: it never ends here later than there.
    pub(crate) until: Instant,
}

/// Registers and renews for as long as it runs.
pub(crate) struct LeaseKeeper {
    pub(crate) registry: Registry,
    /// host:port of this router.
    pub(crate) address: String,
    pub(crate) length: Duration,
    pub(crate) held: watch::Sender<Option<Held>>,
}

impl LeaseKeeper {
    pub(crate) async fn run(self) {
        loop {
            let (lease, asked) = self.register().await;
            tracing::info!(lease = lease.0, "this router is registered");
            self.renew(lease, asked).await;
            self.publish(None);
            tracing::warn!(lease = lease.0, "this router's lease has ended; it registers anew");
        }
    }

    /// The lease, and when it was first asked for.
    async fn register(&self) -> (LeaseId, Instant) {
        let nonce: [u8; 16] = rand::rng().random();
        let request = RegisterRequest {
            kind: NodeKind::Router.into(),
            address: self.address.clone(),
            ttl_ms: self.length.as_millis() as u32,
            nonce: Bytes::copy_from_slice(&nonce),
        };
        let mut waiting = Waiting::new(WAITING);
        // The first try may be the one that counts in the store.
        let asked = Instant::now();
        loop {
            match self.registry.register(request.clone(), Instant::now() + self.length).await {
                Ok(reply) => {
                    waiting.over();
                    return (LeaseId(reply.lease), asked);
                }
                Err(status) => {
                    waiting.still(self.registry.addresses(), cause(&status));
                    time::sleep(backoff::pause(1, PAUSE, PAUSE * 2)).await;
                }
            }
        }
    }

    /// Returns when the store says that the lease has ended.
    async fn renew(&self, lease: LeaseId, mut asked: Instant) {
        let third = self.length / 3;
        let mut waiting = Waiting::new(WAITING);
        loop {
            let held = Held { lease, until: asked + self.length };
            self.publish((held.until > Instant::now()).then_some(held));
            time::sleep_until(asked + third).await;
            loop {
                let now = Instant::now();
                match self.registry.renew(RenewRequest { lease: lease.0 }, now + third).await {
                    Ok(()) => {
                        waiting.over();
                        asked = now;
                        break;
                    }
                    Err(status) if status.code() == Code::FailedPrecondition => return,
                    Err(status) => {
                        // The store's lease clock stands still while nobody leads: the lease may well go on.
                        waiting.still(self.registry.addresses(), cause(&status));
                        if held.until <= Instant::now() {
                            self.publish(None);
                        }
                        time::sleep(backoff::pause(0, PAUSE, PAUSE)).await;
                    }
                }
            }
        }
    }

    fn publish(&self, held: Option<Held>) {
        metrics::lease_held(held.is_some());
        self.held.send_replace(held);
    }
}

/// Ends the lease now instead of letting it run out.
pub(crate) async fn give_up(registry: &Registry, lease: LeaseId, within: Duration) {
    let request = DeregisterRequest { lease: lease.0 };
    if let Err(status) = registry.deregister(request, Instant::now() + within).await {
        let cause = cause(&status);
        tracing::info!(%cause, "this router could not deregister; its lease runs out by itself");
    }
}
