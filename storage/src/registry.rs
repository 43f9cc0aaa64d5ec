//! The gRPC service `Registry`: leases of gateways and routers, and the view of the cluster.

use std::{collections::HashMap, sync::Arc, time::Duration};

use carillon_proto::{
    ShardId, ShardMap,
    limits::MAX_NODE_MESSAGE_BYTES,
    pause,
    pb::store::{
        DeregisterNode, DeregisterReply, DeregisterRequest, DirectoryCommand, LeadsReply, LeadsRequest, Node, NodeKind,
        RegisterNode, RegisterReply, RegisterRequest, Registered, RegistryView, Rejected, Release, RenewLease,
        RenewReply, RenewRequest, StorageNode, StoreError, WatchRequest,
        directory_command::Op,
        leads_reply::{Holder, Led},
        registry_client::RegistryClient,
        registry_server,
        rejected::Reason,
        store_error::Why,
    },
    peer::{AddToken, PeerSecurity},
    tasks::Tasks,
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, service::interceptor::InterceptedService, transport::Channel};

use crate::{
    cluster::{Cluster, Serving, rows, started},
    lease_clock::{Introduction, Leases, Renewal},
    levels::check_newcomer,
    machine::{ClusterRows, Outcome, RegistryState, check_directory},
};

/// Marks a forwarded call, which is not forwarded again: nodes may disagree about the leader for a while.
const FORWARDED_KEY: &str = "carillon-forwarded";
/// How long a call is retried while the shard changes its leader.
const DEADLINE: Duration = Duration::from_secs(4);
const CALL_DEADLINE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);
/// A node that was refused tries again and again.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub(crate) struct RegistryService {
    serving: Arc<Serving>,
    tasks: Tasks,
    leaders: Arc<Leaders>,
    leases: Arc<Leases>,
    refused: Arc<Refused>,
}

/// Logs newcomers that were refused, not each of their tries.
#[derive(Default)]
struct Refused(Mutex<Option<Instant>>);

impl Refused {
    fn tell(&self, address: &str, why: &str) {
        let mut told = self.0.lock();
        if told.is_none_or(|told| told.elapsed() >= TOLD_AGAIN) {
            *told = Some(Instant::now());
            tracing::warn!(address, why, "a node was refused");
        }
    }
}

type Client = RegistryClient<InterceptedService<Channel, AddToken>>;

/// Clients of the nodes that led the registry's shard, by address: at most one more than there are storage nodes.
struct Leaders {
    security: PeerSecurity,
    clients: Mutex<HashMap<String, Client>>,
}

impl RegistryService {
    pub(crate) fn new(serving: Arc<Serving>, tasks: Tasks, security: PeerSecurity, leases: Arc<Leases>) -> Self {
        let leaders = Arc::new(Leaders { security, clients: Mutex::default() });
        Self { serving, tasks, leaders, leases, refused: Arc::default() }
    }

    /// Carries out a command, here or at the leader. All commands are idempotent.
    async fn write<T, F, P>(&self, forwarded: bool, op: Op, pass_on: F) -> Result<Written<T>, Status>
    where
        F: Fn(Client) -> P,
        P: Future<Output = Result<T, Status>>,
    {
        let cluster = started(&self.serving)?;
        let command = DirectoryCommand { op: Some(op) };
        check_directory(ShardId::REGISTRY, cluster.map, &command)
            .map_err(|rejected| Status::invalid_argument(rejected.detail))?;
        let command = bytes::Bytes::from(command.encode_to_vec());
        let deadline = Instant::now() + DEADLINE;
        let shard = cluster.registry().ok_or_else(|| Status::internal("there is no registry shard"))?;
        loop {
            let leader = if shard.group().leads() {
                match shard.write(command.clone()).await {
                    Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) }) => return Err(refused(rejected)),
                    Outcome::Error(StoreError { why: Some(Why::NotLeader(not)) }) => not.leader,
                    Outcome::Error(_) => String::new(),
                    outcome => return Ok(Written::Here(outcome)),
                }
            } else {
                shard.group().leader().unwrap_or_default()
            };
            if forwarded {
                return Err(Status::unavailable("this node does not lead the registry"));
            }
            if !leader.is_empty() && !cluster.is_own(&leader) {
                let client = self.leaders.client(cluster, &leader)?;
                match timeout(CALL_DEADLINE, pass_on(client)).await {
                    Ok(Ok(reply)) => return Ok(Written::There(reply)),
                    Ok(Err(status)) if is_final(status.code()) => return Err(status),
                    Ok(Err(_)) | Err(_) => {}
                }
            }
            if Instant::now() > deadline {
                return Err(Status::unavailable("the registry has no leader that answers"));
            }
            sleep(pause::around(PAUSE)).await;
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "one at a time, and at once taken apart")]
enum Written<T> {
    Here(Outcome),
    There(T),
}

impl Cluster {
    /// What gateways and routers have told of themselves, if this node leads the registry.
    pub(crate) fn holders(&self) -> Vec<Holder> {
        let leads = self.registry().is_some_and(|shard| shard.group().leads());
        let nodes = if leads { self.registry.borrow().nodes.clone() } else { Vec::new() };
        let holder = |node: &Node| {
            let Introduction { release, name } = self.leases.told(node.lease);
            Holder { lease: node.lease, release, name }
        };
        nodes.iter().map(holder).collect()
    }

    fn is_own(&self, address: &str) -> bool {
        self.book.of(self.own).is_some_and(|own| *own == *address)
    }
}

impl Leaders {
    fn client(&self, cluster: &Cluster, address: &str) -> Result<Client, Status> {
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(address) {
            return Ok(client.clone());
        }
        let channel = self.security.channel(address).map_err(|error| Status::internal(error.to_string()))?;
        let client = RegistryClient::with_interceptor(channel, self.security.token())
            .max_decoding_message_size(MAX_NODE_MESSAGE_BYTES);
        // Nodes move.
        clients.retain(|address, _| cluster.book.has(address));
        clients.insert(address.to_owned(), client.clone());
        Ok(client)
    }
}

#[tonic::async_trait]
impl registry_server::Registry for RegistryService {
    type WatchStream = ReceiverStream<Result<RegistryView, Status>>;

    async fn leads(&self, _: Request<LeadsRequest>) -> Result<Response<LeadsReply>, Status> {
        let cluster = started(&self.serving)?;
        let shards = cluster.shards();
        let led = shards.values().filter_map(|shard| {
            let status = shard.group().status();
            status.leads.then(|| Led {
                shard: Some(shard.id().to_pb()),
                term: status.term,
                voters: status.voters,
                level: shard.reader().level().0,
            })
        });
        Ok(Response::new(LeadsReply { led: led.collect(), release: Some(Release::own()), holders: cluster.holders() }))
    }

    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterReply>, Status> {
        let (forwarded, message) = open(request);
        let RegisterRequest { kind, address, ttl_ms, nonce, release, name } = message.clone();
        let cluster = started(&self.serving)?;
        let level = cluster.rows().level;
        if cluster.is_below_its_beginning(level) {
            return Err(Status::unavailable("the cluster is being made"));
        }
        if let Err(why) = check_newcomer(level, message.kind(), release.as_ref()) {
            self.refused.tell(if address.is_empty() { &name } else { &address }, &why);
            return Err(Status::failed_precondition(why));
        }
        let op = Op::RegisterNode(RegisterNode { kind, address, ttl_ms, nonce });
        let pass_on = |mut client: Client| {
            let message = message.clone();
            async move { client.register(forward(message)).await }
        };
        match self.write(forwarded, op, pass_on).await? {
            Written::There(reply) => Ok(reply),
            Written::Here(Outcome::Registered(Registered { lease })) => {
                if let Some(shard) = started(&self.serving)?.registry() {
                    self.leases.note(&shard, lease, Introduction::new(release, &name));
                }
                Ok(Response::new(RegisterReply { lease }))
            }
            Written::Here(_) => Err(unexpected()),
        }
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        let (forwarded, message) = open(request);
        let shard = started(&self.serving)?.registry().ok_or_else(|| Status::internal("there is no registry shard"))?;
        self.leases.note(&shard, message.lease, Introduction::new(message.release.clone(), &message.name));
        match self.leases.renew(&shard, message.lease).await {
            Renewal::Done => return Ok(Response::new(RenewReply {})),
            Renewal::Ended => return Err(has_ended()),
            Renewal::NotHere => {}
        }
        let op = Op::RenewLease(RenewLease { lease: message.lease });
        let pass_on = |mut client: Client| {
            let message = message.clone();
            async move { client.renew(forward(message)).await }
        };
        match self.write(forwarded, op, pass_on).await? {
            Written::There(reply) => Ok(reply),
            Written::Here(Outcome::Done(_)) => Ok(Response::new(RenewReply {})),
            Written::Here(_) => Err(unexpected()),
        }
    }

    async fn deregister(&self, request: Request<DeregisterRequest>) -> Result<Response<DeregisterReply>, Status> {
        let (forwarded, message) = open(request);
        let op = Op::DeregisterNode(DeregisterNode { lease: message.lease });
        let pass_on = |mut client: Client| async move { client.deregister(forward(message)).await };
        match self.write(forwarded, op, pass_on).await? {
            Written::There(reply) => Ok(reply),
            Written::Here(Outcome::Done(_)) => Ok(Response::new(DeregisterReply {})),
            Written::Here(_) => Err(unexpected()),
        }
    }

    async fn watch(&self, _request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let cluster = started(&self.serving)?;
        let mut states = cluster.registry.clone();
        let (id, map, implied) = (cluster.id.clone(), cluster.map, cluster.implied.clone());
        let is_founded = cluster.is_founded;
        // When it is full, views are skipped: only the newest one counts.
        let (out, views) = mpsc::channel(1);
        self.tasks.spawn("registry watch", async move {
            // Once the cluster has rows, their substitute lacks the addresses of the nodes.
            let there = states.wait_for(|state| !is_founded || state.cluster.has_rows());
            // Every branch is cancel-safe.
            tokio::select! {
                there = there => if there.is_err() { return },
                () = out.closed() => return,
            }
            loop {
                let Ok(permit) = out.reserve().await else { return };
                let view = view(id.clone(), map, &states.borrow_and_update(), &implied);
                permit.send(Ok(view));
                tokio::select! {
                    changed = states.changed() => if changed.is_err() { return },
                    () = out.closed() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(views)))
    }
}

fn view(cluster: String, map: ShardMap, state: &RegistryState, implied: &ClusterRows) -> RegistryView {
    let rows = rows(state, implied);
    let storage = |node: &StorageNode| {
        let kind = NodeKind::Storage.into();
        Node { lease: node.node, kind, address: node.address.clone(), slot: None }
    };
    RegistryView {
        version: state.version,
        ring_version: state.ring_version,
        nodes: state.nodes.clone(),
        directory_shards: map.directory.into(),
        timeline_shards: map.timeline.into(),
        storage: rows.nodes().map(storage).collect(),
        cluster,
        placement: rows.placed(),
        level: rows.level.0,
        storage_levels: rows.nodes().map(|node| node.level).collect(),
        domains: state.domains.all(),
    }
}

fn open<T>(request: Request<T>) -> (bool, T) {
    (request.metadata().contains_key(FORWARDED_KEY), request.into_inner())
}

fn forward<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(FORWARDED_KEY, tonic::metadata::MetadataValue::from_static("1"));
    request
}

fn is_final(code: Code) -> bool {
    matches!(code, Code::FailedPrecondition | Code::InvalidArgument | Code::Unauthenticated | Code::NotFound)
}

fn refused(rejected: Rejected) -> Status {
    match rejected.reason() {
        Reason::NotFound => has_ended(),
        _ => Status::invalid_argument(rejected.detail),
    }
}

fn has_ended() -> Status {
    Status::failed_precondition("the lease has ended: register anew")
}

fn unexpected() -> Status {
    Status::internal("the registry answered with something else")
}
