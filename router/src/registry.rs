//! The client of the registry: asks the storage nodes in turn, and watches the view.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use carillon_proto::{
    limits,
    pb::store::{
        DeregisterRequest, LeadsReply, LeadsRequest, RegisterReply, RegisterRequest, RegistryView, RenewRequest,
        WatchRequest, registry_client::RegistryClient,
    },
    peer::{AddToken, PeerSecurity, cause},
};
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tonic::{Code, Status, service::interceptor::InterceptedService, transport::Channel};

use crate::{backoff, metrics, topology::Topology};

/// How long one storage node may take: at most half of the usual pause between renewals, so that one that hangs costs no
/// lease.
const TRY: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(50);
/// A watch moves to another node after this long: the one it had may be cut off from the rest and not know.
const WATCH: Duration = Duration::from_secs(10);

type Client = RegistryClient<InterceptedService<Channel, AddToken>>;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Registry {
    seeds: Arc<[String]>,
    security: PeerSecurity,
    topology: watch::Receiver<Arc<Topology>>,
    clients: Arc<Mutex<HashMap<String, Client>>>,
    /// Which node is asked first: the one that answered last.
    preferred: Arc<AtomicUsize>,
}

impl Registry {
    pub(crate) fn new(seeds: &[String], security: PeerSecurity, topology: watch::Receiver<Arc<Topology>>) -> Self {
        Self { seeds: seeds.into(), security, topology, clients: Arc::default(), preferred: Arc::default() }
    }

    /// Asking again with the same nonce gives the same lease.
    pub(crate) async fn register(&self, request: RegisterRequest, deadline: Instant) -> Result<RegisterReply, Status> {
        self.in_turn(deadline, |mut client| {
            let request = request.clone();
            async move { client.register(request).await.map(tonic::Response::into_inner) }
        })
        .await
    }

    /// FAILED_PRECONDITION: the lease has ended.
    pub(crate) async fn renew(&self, request: RenewRequest, deadline: Instant) -> Result<(), Status> {
        self.in_turn(deadline, |mut client| async move { client.renew(request).await.map(drop) }).await
    }

    pub(crate) async fn deregister(&self, request: DeregisterRequest, deadline: Instant) -> Result<(), Status> {
        self.in_turn(deadline, |mut client| async move { client.deregister(request).await.map(drop) }).await
    }

    /// What each storage node of the cluster says that it leads; None if it does not answer in time.
    pub(crate) async fn leads(&self) -> Vec<(String, Option<LeadsReply>)> {
        let nodes = self.topology.borrow().storage();
        let asking = nodes.into_iter().map(|address| async move {
            let asked = async { self.client(&address)?.leads(LeadsRequest {}).await };
            let answer = time::timeout(TRY, asked).await;
            (address, answer.ok().and_then(Result::ok).map(tonic::Response::into_inner))
        });
        futures_util::future::join_all(asking).await
    }

    /// Publishes each newer view.
    pub(crate) async fn watch(self, publish: watch::Sender<Arc<Topology>>) {
        let mut turn = rand::rng().random_range(0..64usize);
        loop {
            let nodes = self.nodes();
            turn += 1;
            let address = &nodes[turn % nodes.len()];
            let lasts = WATCH.mul_f64(rand::rng().random_range(0.7..1.3));
            let ended = time::timeout(lasts, self.watch_one(address, &publish)).await;
            if let Ok(Err(status)) = ended {
                tracing::debug!(%address, cause = cause(&status), "watch of the registry has ended");
                time::sleep(backoff::pause(1, PAUSE, PAUSE * 2)).await;
            }
        }
    }

    async fn watch_one(&self, address: &str, publish: &watch::Sender<Arc<Topology>>) -> Result<(), Status> {
        let mut client = self.client(address)?;
        let opened = time::timeout(TRY, client.watch(WatchRequest {})).await;
        let mut views =
            opened.map_err(|_| Status::deadline_exceeded("the watch was not opened in time"))??.into_inner();
        while let Some(view) = views.message().await? {
            take(publish, view);
        }
        Err(Status::unavailable("closed by the node"))
    }

    async fn in_turn<R, F>(&self, deadline: Instant, call: impl Fn(Client) -> F) -> Result<R, Status>
    where
        F: Future<Output = Result<R, Status>>,
    {
        let mut last = Status::unavailable("no storage node answered");
        loop {
            let nodes = self.nodes();
            let preferred = self.preferred.load(Ordering::Relaxed);
            for step in 0..nodes.len() {
                let index = (preferred + step) % nodes.len();
                let client = match self.client(&nodes[index]) {
                    Ok(client) => client,
                    Err(status) => {
                        last = status;
                        continue;
                    }
                };
                let until = deadline.min(Instant::now() + TRY);
                match time::timeout_at(until, call(client)).await {
                    Ok(Ok(reply)) => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return Ok(reply);
                    }
                    Ok(Err(status)) if is_final(status.code()) => return Err(status),
                    Ok(Err(status)) => last = status,
                    Err(_) => last = Status::unavailable(format!("no answer from {} in time", nodes[index])),
                }
                self.preferred.store((index + 1) % nodes.len(), Ordering::Relaxed);
                if Instant::now() >= deadline {
                    return Err(last);
                }
            }
            let pause = backoff::pause(0, PAUSE, PAUSE);
            if Instant::now() + pause >= deadline {
                return Err(last);
            }
            time::sleep(pause).await;
        }
    }

    /// Whom it asks, for people.
    pub(crate) fn addresses(&self) -> String {
        self.nodes().join(", ")
    }

    /// Those that the view names, then the seeds.
    fn nodes(&self) -> Vec<String> {
        let mut nodes = self.topology.borrow().storage();
        for seed in self.seeds.iter() {
            if !nodes.contains(seed) {
                nodes.push(seed.clone());
            }
        }
        nodes
    }

    fn client(&self, address: &str) -> Result<Client, Status> {
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(address) {
            return Ok(client.clone());
        }
        let channel = self.security.channel(address).map_err(|error| Status::unavailable(error.to_string()))?;
        let client = RegistryClient::new(InterceptedService::new(channel, self.security.token()))
            .max_decoding_message_size(limits::MAX_NODE_MESSAGE_BYTES);
        clients.insert(address.to_owned(), client.clone());
        Ok(client)
    }
}

fn take(publish: &watch::Sender<Arc<Topology>>, view: RegistryView) {
    publish.send_if_modified(|topology| match topology.followed_by(view) {
        Some(next) => {
            let version = next.ring.version();
            if version != topology.ring.version() {
                tracing::info!(version, routers = next.ring.routers().len(), "the ring has changed");
                metrics::ring_version(version);
            }
            *topology = Arc::new(next);
            true
        }
        None => false,
    });
}

/// No other node will say otherwise.
fn is_final(code: Code) -> bool {
    matches!(code, Code::FailedPrecondition | Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied)
}
