//! The client of the gRPC service `Registry`: asks nodes in turn until one of them answers.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{self, Instant};
use tonic::{Code, Response, Status, service::interceptor::InterceptedService, transport::Channel};

use crate::{
    LeaseId, limits, pause,
    pb::store::{DeregisterRequest, RegisterRequest, RenewRequest, registry_client},
    peer::{AddToken, PeerSecurity},
};

const PAUSE: Duration = Duration::from_millis(50);

/// The registry at one node.
pub type RegistryNode = registry_client::RegistryClient<InterceptedService<Channel, AddToken>>;

/// Cheap to clone.
#[derive(Clone)]
pub struct RegistryClient {
    /// The addresses of the nodes that can be asked now.
    nodes: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    security: PeerSecurity,
    /// How long one node may take.
    each: Duration,
    clients: Arc<Mutex<HashMap<String, RegistryNode>>>,
    /// The node that is asked first: the one that answered last.
    preferred: Arc<AtomicUsize>,
}

impl RegistryClient {
    pub fn new(
        security: PeerSecurity,
        each: Duration,
        nodes: impl Fn() -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        Self { nodes: Arc::new(nodes), security, each, clients: Arc::default(), preferred: Arc::default() }
    }

    /// Asking again with the same nonce gives the same lease.
    pub async fn register(&self, request: RegisterRequest, deadline: Instant) -> Result<LeaseId, Status> {
        let call = |mut node: RegistryNode| {
            let request = request.clone();
            async move { node.register(request).await }
        };
        self.in_turn(deadline, call).await.map(|reply| LeaseId(reply.lease))
    }

    /// FAILED_PRECONDITION: the lease has ended.
    pub async fn renew(&self, lease: LeaseId, deadline: Instant) -> Result<(), Status> {
        let request = RenewRequest { lease: lease.0 };
        self.in_turn(deadline, |mut node| async move { node.renew(request).await }).await.map(drop)
    }

    pub async fn deregister(&self, lease: LeaseId, deadline: Instant) -> Result<(), Status> {
        let request = DeregisterRequest { lease: lease.0 };
        self.in_turn(deadline, |mut node| async move { node.deregister(request).await }).await.map(drop)
    }

    /// The nodes that are asked, for people.
    pub fn addresses(&self) -> String {
        (self.nodes)().join(", ")
    }

    pub fn nodes(&self) -> Vec<String> {
        (self.nodes)()
    }

    pub fn node(&self, address: &str) -> Result<RegistryNode, Status> {
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(address) {
            return Ok(client.clone());
        }
        let channel = self.security.channel(address).map_err(|error| Status::unavailable(error.to_string()))?;
        let client = RegistryNode::new(InterceptedService::new(channel, self.security.token()))
            .max_decoding_message_size(limits::MAX_NODE_MESSAGE_BYTES);
        let nodes = (self.nodes)();
        clients.retain(|address, _| nodes.contains(address));
        clients.insert(address.to_owned(), client.clone());
        Ok(client)
    }

    async fn in_turn<R, F>(&self, deadline: Instant, call: impl Fn(RegistryNode) -> F) -> Result<R, Status>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut last = Status::unavailable("no node is known");
        loop {
            let nodes = (self.nodes)();
            let preferred = self.preferred.load(Ordering::Relaxed);
            for step in 0..nodes.len() {
                let index = preferred.wrapping_add(step) % nodes.len();
                let until = deadline.min(Instant::now() + self.each);
                let answer = match self.node(&nodes[index]) {
                    Ok(node) => time::timeout_at(until, call(node)).await,
                    Err(status) => Ok(Err(status)),
                };
                match answer {
                    Ok(Ok(reply)) => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return Ok(reply.into_inner());
                    }
                    Ok(Err(status)) if is_final(status.code()) => return Err(status),
                    Ok(Err(status)) => last = status,
                    Err(_) => last = Status::unavailable(format!("no answer from {} in time", nodes[index])),
                }
                self.preferred.store(index + 1, Ordering::Relaxed);
                if Instant::now() >= deadline {
                    return Err(last);
                }
            }
            let pause = pause::growing(0, PAUSE, PAUSE);
            if Instant::now() + pause >= deadline {
                return Err(last);
            }
            time::sleep(pause).await;
        }
    }
}

/// True if every node would say the same.
fn is_final(code: Code) -> bool {
    matches!(code, Code::FailedPrecondition | Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied)
}
