//! Sends commands of storage nodes to the registry, by way of any node.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use carillon_proto::{
    Level, ShardId,
    limits::MAX_NODE_MESSAGE_BYTES,
    pause,
    pb::{
        raft::{CarryReply, CarryRequest, bootstrap_client::BootstrapClient},
        store::{
            DirectoryCommand, Done, LeadsRequest, StoreError, directory_command::Op, leads_reply::Holder,
            registry_client::RegistryClient, rejected::Reason, store_error::Why,
        },
    },
    peer::{PeerSecurity, cause},
};
use prost::Message as _;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use crate::{
    bootstrap::Bootstrap,
    cluster::{Cluster, Serving},
    levels,
    machine::{Outcome, admit_directory, is_the_nodes},
};

/// How long a command is retried while the registry changes its leader.
const DEADLINE: Duration = Duration::from_secs(4);
const CALL_DEADLINE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

/// Sends this node's commands for the registry to the registry's leader. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Carrier {
    serving: Arc<Serving>,
    security: PeerSecurity,
    bootstrap: Bootstrap,
}

impl Carrier {
    pub(crate) fn new(serving: Arc<Serving>, security: PeerSecurity, bootstrap: Bootstrap) -> Self {
        Self { serving, security, bootstrap }
    }

    /// Retries until the deadline, so the command must be idempotent.
    pub(crate) async fn carry(&self, op: Op) -> Result<Outcome, String> {
        self.carry_out(op).await.map(|(outcome, _)| outcome)
    }

    /// The same, and waits until this node's rows have what the command changed.
    pub(crate) async fn carry_and_see(&self, op: Op) -> Result<Outcome, String> {
        let (outcome, version) = self.carry_out(op).await?;
        if let Some(cluster) = self.serving.get() {
            let mut registry = cluster.registry.clone();
            let seen = registry.wait_for(|state| state.version >= version);
            if timeout(CALL_DEADLINE, seen).await.is_err() {
                return Err("it is done, but this node has not heard of it".to_owned());
            }
        }
        Ok(outcome)
    }

    /// The outcome, and a version of the registry that has what the command changed.
    async fn carry_out(&self, op: Op) -> Result<(Outcome, u64), String> {
        let cluster = self.serving.get().ok_or("the shards are not started")?;
        let command = DirectoryCommand { op: Some(op) }.encode_to_vec();
        let command = Bytes::from(command);
        let deadline = Instant::now() + DEADLINE;
        loop {
            let Some(shard) = cluster.registry() else { return Err("there is no registry shard".to_owned()) };
            let carrying = async {
                if shard.group().leads() {
                    carry_out(cluster, &self.bootstrap, command.clone())
                        .await
                        .map(|outcome| (outcome, cluster.view_version()))
                } else {
                    self.pass_on(&shard.group().leader().unwrap_or_default(), command.clone()).await
                }
            };
            let why = match timeout(CALL_DEADLINE, carrying).await {
                Ok(Ok((Outcome::Error(StoreError { why }), _))) if !matches!(why, Some(Why::Rejected(_))) => {
                    format!("{why:?}")
                }
                Ok(Ok(carried)) => return Ok(carried),
                Ok(Err(status)) => cause(&status),
                Err(_) => "it was not carried out in time".to_owned(),
            };
            if Instant::now() > deadline {
                return Err(why);
            }
            sleep(pause::around(PAUSE)).await;
        }
    }

    /// What gateways and routers have told the registry's leader of themselves.
    pub(crate) async fn holders(&self, cluster: &Cluster) -> Result<Vec<Holder>, String> {
        let leader = match cluster.registry() {
            Some(shard) if shard.group().leads() => return Ok(cluster.holders()),
            Some(shard) => shard.group().leader().unwrap_or_default(),
            None => String::new(),
        };
        if leader.is_empty() {
            return Err("the registry has no leader that this node knows".to_owned());
        }
        let channel = self.security.channel(&leader).map_err(|error| error.to_string())?;
        let mut client = RegistryClient::with_interceptor(channel, self.security.token())
            .max_decoding_message_size(MAX_NODE_MESSAGE_BYTES);
        match timeout(CALL_DEADLINE, client.leads(LeadsRequest {})).await {
            Ok(Ok(reply)) => Ok(reply.into_inner().holders),
            Ok(Err(status)) => Err(cause(&status)),
            Err(_) => Err("the registry's leader does not answer in time".to_owned()),
        }
    }

    async fn pass_on(&self, leader: &str, command: Bytes) -> Result<(Outcome, u64), Status> {
        if leader.is_empty() {
            return Err(Status::unavailable("the registry has no leader that this node knows"));
        }
        let channel = self.security.channel(leader).map_err(|error| Status::internal(error.to_string()))?;
        let mut client = BootstrapClient::with_interceptor(channel, self.security.token());
        let CarryReply { reply, version } = client.carry(CarryRequest { command }).await?.into_inner();
        let outcome = reply.and_then(|reply| reply.result);
        Ok((outcome.ok_or_else(|| Status::internal("an answer without an outcome"))?, version))
    }
}

/// Carries out a command of a storage node, if this node leads the registry.
pub(crate) async fn carry_out(cluster: &Cluster, bootstrap: &Bootstrap, bytes: Bytes) -> Result<Outcome, Status> {
    let command = DirectoryCommand::decode(bytes.clone()).map_err(|_| Status::invalid_argument("no command"))?;
    // Only the leader itself issues these two: it has asked all members first.
    let is_the_leaders = matches!(command.op, Some(Op::SetLevel(_) | Op::FoundCluster(_)));
    if !is_the_nodes(&command) || is_the_leaders || command.encoded_len() != bytes.len() {
        return Err(Status::invalid_argument("this release does not carry such a command"));
    }
    let shard = cluster.registry().filter(|shard| shard.group().leads());
    let shard = shard.ok_or_else(|| Status::unavailable("this node does not lead the registry"))?;
    if let Some(Op::RaiseLevel(op)) = &command.op {
        // The leader asks all members first.
        let wanted = Level(op.level);
        let nodes = cluster.registry.borrow().nodes.clone();
        let holders = levels::holders_in_the_way(&nodes, &cluster.holders(), wanted);
        let raised = levels::raise(cluster, &shard, bootstrap, wanted, holders).await;
        return raised.map(|()| Outcome::Done(Done {})).map_err(Status::failed_precondition);
    }
    let admitted = admit_directory(ShardId::REGISTRY, cluster.map, shard.reader().level(), command);
    let command = admitted.map_err(|rejected| match rejected.reason() {
        Reason::Level => Status::unavailable(rejected.detail),
        _ => Status::invalid_argument(rejected.detail),
    })?;
    Ok(shard.write(command).await)
}
