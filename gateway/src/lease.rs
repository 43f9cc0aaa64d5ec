//! The gateway's registration with the store: taken, renewed, taken anew when it was lost.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use carillon_proto::{
    pb::store::{DeregisterRequest, NodeKind, RegisterRequest, RenewRequest, registry_client::RegistryClient},
    peer::{AddToken, PeerError, PeerSecurity, cause},
    waiting::Waiting,
};
use rand::RngExt as _;
use tokio::{
    sync::watch,
    time::{sleep, sleep_until, timeout},
};
use tonic::{Code, Status, service::interceptor::InterceptedService, transport::Channel};

use crate::{jitter::jittered, metrics};

const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct Lease {
    security: PeerSecurity,
    ttl: Duration,
    /// Routers, any of which passes the call on.
    routers: watch::Receiver<Vec<String>>,
    turn: usize,
    /// Who was asked last.
    asked: String,
    waiting: Waiting,
    clients: HashMap<String, Client>,
    publish: watch::Sender<Option<u64>>,
}

type Client = RegistryClient<InterceptedService<Channel, AddToken>>;

#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("{}", cause(.0))]
    Status(#[from] Status),
    #[error("registry did not answer in time")]
    Slow,
    #[error("no router is known")]
    NoRouter,
}

impl LeaseError {
    /// The store says that the lease has ended.
    fn is_end(&self) -> bool {
        matches!(self, Self::Status(status) if status.code() == Code::FailedPrecondition)
    }
}

impl Lease {
    pub(crate) fn new(
        security: PeerSecurity,
        ttl: Duration,
        routers: watch::Receiver<Vec<String>>,
        publish: watch::Sender<Option<u64>>,
    ) -> Self {
        let waiting = Waiting::new("a router that registers this gateway");
        Self { security, ttl, routers, turn: 0, asked: String::new(), waiting, clients: HashMap::new(), publish }
    }

    /// For ever.
    pub(crate) async fn run(mut self) {
        loop {
            let (lease, counted_from) = self.register().await;
            ::metrics::counter!(metrics::LEASES).increment(1);
            tracing::info!(lease, "lease taken");
            self.publish.send_replace(Some(lease));
            self.keep(lease, counted_from).await;
            self.publish.send_replace(None);
            tracing::warn!(lease, "lease lost, registering anew");
        }
    }

    /// The new lease, and the moment from which it counts: before it was asked for.
    async fn register(&mut self) -> (u64, Instant) {
        // One nonce for all tries: the same registration asked for twice gives one lease.
        let nonce: [u8; 16] = rand::rng().random();
        let mut pause = PAUSE;
        loop {
            let before = Instant::now();
            let request = RegisterRequest {
                kind: NodeKind::Gateway.into(),
                address: String::new(),
                ttl_ms: u32::try_from(self.ttl.as_millis()).unwrap_or(u32::MAX),
                nonce: nonce.to_vec().into(),
            };
            let each = self.patience();
            let answer = match self.client() {
                Ok(mut client) => within(each, client.register(request)).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(reply) => {
                    self.waiting.over();
                    return (reply.lease, before);
                }
                Err(error) => {
                    self.waiting.still(&self.asked, error);
                    sleep(jittered(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Renews it until the store says that it has ended. While it has run out by our own count, it is not published,
    /// but it may be renewed still: the store's lease clock stands while the store has no leader.
    async fn keep(&mut self, lease: u64, mut counted_from: Instant) {
        loop {
            let renew_at = counted_from + self.ttl / 3;
            sleep_until(renew_at.into()).await;
            loop {
                let before = Instant::now();
                let answer = {
                    let left = (counted_from + self.ttl).saturating_duration_since(before);
                    // Never past the end without saying so.
                    let each = if left.is_zero() { self.patience() } else { self.patience().min(left) };
                    match self.client() {
                        Ok(mut client) => within(each, client.renew(RenewRequest { lease })).await,
                        Err(error) => Err(error),
                    }
                };
                match answer {
                    Ok(_) => {
                        counted_from = before;
                        self.waiting.over();
                        self.say(Some(lease));
                        break;
                    }
                    Err(error) if error.is_end() => return,
                    Err(error) => {
                        self.waiting.still(&self.asked, error);
                        let left = (counted_from + self.ttl).saturating_duration_since(Instant::now());
                        if left.is_zero() {
                            self.say(None);
                            sleep(PAUSE).await;
                        } else {
                            sleep(PAUSE.min(left)).await;
                        }
                    }
                }
            }
        }
    }

    fn say(&self, lease: Option<u64>) {
        self.publish.send_if_modified(|said| {
            let changed = *said != lease;
            *said = lease;
            changed
        });
    }

    fn patience(&self) -> Duration {
        (self.ttl / 6).max(Duration::from_millis(200))
    }

    /// The next router's client; each call goes to another one.
    fn client(&mut self) -> Result<Client, LeaseError> {
        let routers = self.routers.borrow_and_update().clone();
        self.clients.retain(|address, _| routers.contains(address));
        let turn = self.turn;
        self.turn = turn.wrapping_add(1);
        let address = routers.get(turn % routers.len().max(1)).ok_or(LeaseError::NoRouter)?;
        self.asked.clone_from(address);
        if let Some(client) = self.clients.get(address) {
            return Ok(client.clone());
        }
        let client = client(&self.security, address)?;
        self.clients.insert(address.clone(), client.clone());
        Ok(client)
    }
}

/// Gives the lease back: the sessions of this gateway end with it. Tries each router once.
pub(crate) async fn deregister(security: &PeerSecurity, routers: &[String], lease: u64, each: Duration) {
    for address in routers {
        let Ok(mut client) = client(security, address) else { continue };
        match within(each, client.deregister(DeregisterRequest { lease })).await {
            Ok(_) => return,
            Err(error) => tracing::debug!(%error, lease, "can't deregister"),
        }
    }
}

fn client(security: &PeerSecurity, address: &str) -> Result<Client, PeerError> {
    let channel = security.channel(address)?;
    Ok(RegistryClient::with_interceptor(channel, security.token()))
}

async fn within<T>(
    patience: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, LeaseError> {
    let response = timeout(patience, call).await.map_err(|_| LeaseError::Slow)??;
    Ok(response.into_inner())
}
