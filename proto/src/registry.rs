//! A client of the gRPC service `Registry`, which tries one node after the other until one answers.

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

/// A gRPC client for one node.
pub type RegistryNode = registry_client::RegistryClient<InterceptedService<Channel, AddToken>>;

/// Cheap to clone.
#[derive(Clone)]
pub struct RegistryClient {
    /// The addresses of the nodes to try, read anew for each call.
    nodes: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    security: PeerSecurity,
    /// Timeout for one node.
    each: Duration,
    clients: Arc<Mutex<HashMap<String, RegistryNode>>>,
    /// Index of the node that answered last, which is tried first.
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

    /// Registering again with the same nonce returns the same lease.
    pub async fn register(&self, request: RegisterRequest, deadline: Instant) -> Result<LeaseId, Status> {
        let call = |mut node: RegistryNode| {
            let request = request.clone();
            async move { node.register(request).await }
        };
        self.in_turn(deadline, call).await.map(|reply| LeaseId(reply.lease))
    }

    /// Fails with FAILED_PRECONDITION if the lease has ended.
    pub async fn renew(&self, request: RenewRequest, deadline: Instant) -> Result<(), Status> {
        let call = |mut node: RegistryNode| {
            let request = request.clone();
            async move { node.renew(request).await }
        };
        self.in_turn(deadline, call).await.map(drop)
    }

    pub async fn deregister(&self, lease: LeaseId, deadline: Instant) -> Result<(), Status> {
        let request = DeregisterRequest { lease: lease.0 };
        self.in_turn(deadline, |mut node| async move { node.deregister(request).await }).await.map(drop)
    }

    /// The addresses of the nodes, for people.
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

/// True if every node would give the same answer.
fn is_final(code: Code) -> bool {
    matches!(code, Code::FailedPrecondition | Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied)
}
