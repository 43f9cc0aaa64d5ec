//! The gRPC services of the internal listener.

use std::{net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use carillon_proto::{
    LeaseId, limits,
    pb::{
        admin::admin_server::AdminServer,
        link::{
            ToRouter,
            router_server::{Router as RouterService, RouterServer},
        },
        store::{
            DeregisterReply, DeregisterRequest, LeadsReply, LeadsRequest, NodeKind, RegisterReply, RegisterRequest,
            RegistryView, RenewReply, RenewRequest, WatchRequest,
            registry_server::{Registry as RegistryService, RegistryServer},
        },
    },
    peer::{PeerSecurity, Tier, addresses_of, caller_address},
    registry::RegistryClient,
    stream::Incoming,
    tasks::Tasks,
};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio::{net::TcpListener, sync::watch, time::Instant};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    service::{Routes, interceptor::InterceptedService},
};

use crate::{
    admin::{Admin, CheckScope},
    link::{self, LinkContext, Outgoing},
    topology::Topology,
};

/// How long a gateway's call to the registry is retried.
const REGISTRY_DEADLINE: Duration = Duration::from_secs(3);

/// All services; `closing` ends their streams.
pub(crate) struct Services {
    pub(crate) context: LinkContext,
    pub(crate) registry: RegistryClient,
    pub(crate) topology: watch::Receiver<Arc<Topology>>,
    pub(crate) admin: Admin,
    pub(crate) security: PeerSecurity,
    /// host:port by which others know this router.
    pub(crate) here: Arc<str>,
    pub(crate) closing: CancellationToken,
}

impl Services {
    /// Serves until `closing`, and then until the streams have ended.
    pub(crate) async fn serve(self, listener: TcpListener, tasks: Tasks) {
        let links = LinkService { context: self.context, tasks, closing: self.closing.clone() };
        let open = links.clone();
        let open = move |tier, incoming| Ok(open.open(tier, incoming).boxed());
        let _near = self.security.serve_near(addresses_of(&listener, &self.here), CALLERS, open);
        let links = RouterServer::new(links)
            .max_decoding_message_size(limits::MAX_NODE_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_NODE_MESSAGE_BYTES);
        let passed = RegistryProxy { registry: self.registry, topology: self.topology, closing: self.closing.clone() };
        let check = |allowed| self.security.check(allowed);
        let scopes = CheckScope { operator: check(&[Tier::Operator]), topology: self.admin.topology.clone() };
        let services = Routes::new(InterceptedService::new(links, check(CALLERS)))
            .add_service(InterceptedService::new(RegistryServer::new(passed), check(&[Tier::Gateway])))
            .add_service(InterceptedService::new(AdminServer::new(self.admin), scopes));
        let closing = self.closing.clone().cancelled_owned().boxed();
        if let Err(error) = self.security.serve(services, listener, Some(&self.here), closing).await {
            tracing::error!(%error, "the internal listener of the router has failed");
        }
    }
}

/// Tiers that may open a link.
const CALLERS: &[Tier] = &[Tier::Gateway, Tier::Router];

#[derive(Clone)]
struct LinkService {
    context: LinkContext,
    tasks: Tasks,
    closing: CancellationToken,
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RouterService for LinkService {
    type LinkStream = Outgoing;

    async fn link(&self, request: Request<Streaming<ToRouter>>) -> Result<Response<Self::LinkStream>, Status> {
        let tier = caller(&request)?;
        Ok(Response::new(self.open(tier, request.into_inner().into())))
    }
}

impl LinkService {
    fn open(&self, tier: Tier, incoming: Incoming<ToRouter>) -> Outgoing {
        let (reader, outgoing) = link::open(self.context.clone(), tier, &self.closing);
        self.tasks.spawn("router_link", reader.run(incoming));
        outgoing
    }
}

/// The registry, for gateways, which don't know the storage nodes.
struct RegistryProxy {
    registry: RegistryClient,
    topology: watch::Receiver<Arc<Topology>>,
    closing: CancellationToken,
}

impl RegistryProxy {
    /// A lease that this router does not know yet is left to the store: it is new, or it has ended.
    fn only_of_gateways(&self, lease: u64) -> Result<(), Status> {
        let topology = self.topology.borrow();
        let other = topology.view.nodes.iter().any(|node| node.lease == lease && node.kind() != NodeKind::Gateway);
        if other { Err(Status::permission_denied("the lease is not a gateway's")) } else { Ok(()) }
    }
}

/// A gateway of a release before 0.3.0 does not say how the operator knows it.
fn name_after(name: &mut String, from: Option<IpAddr>) {
    if let Some(from) = from.filter(|_| name.is_empty()) {
        *name = from.to_string();
    }
}

/// The tier of the caller's token.
fn caller<T>(request: &Request<T>) -> Result<Tier, Status> {
    request.extensions().get().copied().ok_or_else(|| Status::internal("nobody has looked at the token"))
}

#[tonic::async_trait]
impl RegistryService for RegistryProxy {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterReply>, Status> {
        let from = caller_address(&request);
        let mut request = request.into_inner();
        name_after(&mut request.name, from);
        // As a router it would be given the messages of others.
        if request.kind() != NodeKind::Gateway {
            return Err(Status::permission_denied("a gateway's token registers gateways alone"));
        }
        let deadline = Instant::now() + REGISTRY_DEADLINE;
        let lease = self.registry.register(request, deadline).await?;
        Ok(Response::new(RegisterReply { lease: lease.0 }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        let from = caller_address(&request);
        let mut request = request.into_inner();
        name_after(&mut request.name, from);
        self.only_of_gateways(request.lease)?;
        let deadline = Instant::now() + REGISTRY_DEADLINE;
        self.registry.renew(request, deadline).await.map(|()| Response::new(RenewReply {}))
    }

    async fn deregister(&self, request: Request<DeregisterRequest>) -> Result<Response<DeregisterReply>, Status> {
        let DeregisterRequest { lease } = request.into_inner();
        self.only_of_gateways(lease)?;
        let deadline = Instant::now() + REGISTRY_DEADLINE;
        self.registry.deregister(LeaseId(lease), deadline).await.map(|()| Response::new(DeregisterReply {}))
    }

    async fn leads(&self, _: Request<LeadsRequest>) -> Result<Response<LeadsReply>, Status> {
        Err(Status::unimplemented("a router leads no shards: ask the storage nodes"))
    }

    type WatchStream = Out<RegistryView>;

    /// Served from this router's own watch, which may lag like a storage node's replica.
    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let views = WatchStream::new(self.topology.clone())
            .filter(|topology| std::future::ready(topology.is_known()))
            .map(|topology| Ok((*topology.view).clone()));
        Ok(Response::new(views.take_until(self.closing.clone().cancelled_owned()).boxed()))
    }
}
