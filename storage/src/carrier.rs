//! Commands of storage nodes for the registry, which any node may be asked to carry out.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use carillon_proto::{
    ShardId, pause,
    pb::{
        raft::{CarryRequest, bootstrap_client::BootstrapClient},
        store::{DirectoryCommand, StoreError, directory_command::Op, store_error::Why},
    },
    peer::{PeerSecurity, cause},
};
use prost::Message as _;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use crate::{
    cluster::{Cluster, Serving},
    machine::{Outcome, check_directory, directory_level, is_the_nodes},
};

/// How long a command is tried again while the registry changes its leader.
const DEADLINE: Duration = Duration::from_secs(4);
const CALL_DEADLINE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

/// Sends this node's commands for the registry to the registry's leader. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Carrier {
    serving: Arc<Serving>,
    security: PeerSecurity,
}

impl Carrier {
    pub(crate) fn new(serving: Arc<Serving>, security: PeerSecurity) -> Self {
        Self { serving, security }
    }

    /// Tries until the deadline, so only for commands that may be repeated.
    pub(crate) async fn carry(&self, op: Op) -> Result<Outcome, String> {
        let cluster = self.serving.get().ok_or("the shards are not started")?;
        let needs = directory_level(&op);
        let command = DirectoryCommand { op: Some(op) };
        check_directory(ShardId::REGISTRY, cluster.map, &command).map_err(|rejected| rejected.detail)?;
        let command = Bytes::from(command.encode_to_vec());
        let deadline = Instant::now() + DEADLINE;
        loop {
            let Some(shard) = cluster.registry() else { return Err("there is no registry shard".to_owned()) };
            let why = if !shard.group().leads() {
                let leader = shard.group().leader().unwrap_or_default();
                match self.pass_on(&leader, command.clone()).await {
                    Ok(outcome) => return Ok(outcome),
                    Err(why) => why,
                }
            } else if needs > shard.reader().level() {
                "the registry's level is not high enough yet".to_owned()
            } else {
                match timeout(CALL_DEADLINE, shard.write(command.clone())).await {
                    Ok(Outcome::Error(StoreError { why })) if !matches!(why, Some(Why::Rejected(_))) => {
                        format!("{why:?}")
                    }
                    Ok(outcome) => return Ok(outcome),
                    Err(_) => "it was not carried out in time".to_owned(),
                }
            };
            if Instant::now() > deadline {
                return Err(why);
            }
            sleep(pause::around(PAUSE)).await;
        }
    }

    async fn pass_on(&self, leader: &str, command: Bytes) -> Result<Outcome, String> {
        if leader.is_empty() {
            return Err("the registry has no leader that this node knows".to_owned());
        }
        let channel = self.security.channel(leader).map_err(|error| error.to_string())?;
        let mut client = BootstrapClient::with_interceptor(channel, self.security.token());
        let call = timeout(CALL_DEADLINE, client.carry(CarryRequest { command })).await;
        let reply = call.map_err(|_| "no answer in time".to_owned())?.map_err(|status| cause(&status))?;
        match reply.into_inner().reply.and_then(|reply| reply.result) {
            Some(Outcome::Error(StoreError { why })) if !matches!(why, Some(Why::Rejected(_))) => {
                Err(format!("{why:?}"))
            }
            Some(outcome) => Ok(outcome),
            None => Err("an answer without an outcome".to_owned()),
        }
    }
}

/// Carries out a command that another node has sent, if this node leads the registry.
pub(crate) async fn carry_out(cluster: &Cluster, bytes: Bytes) -> Result<Outcome, Status> {
    let command = DirectoryCommand::decode(bytes.clone()).map_err(|_| Status::invalid_argument("no command"))?;
    // These two are the leader's own: it has asked all members first.
    let is_the_leaders = matches!(command.op, Some(Op::SetLevel(_) | Op::FoundCluster(_)));
    if !is_the_nodes(&command) || is_the_leaders || command.encoded_len() != bytes.len() {
        return Err(Status::invalid_argument("this release does not carry such a command"));
    }
    check_directory(ShardId::REGISTRY, cluster.map, &command)
        .map_err(|rejected| Status::invalid_argument(rejected.detail))?;
    let shard = cluster.registry().filter(|shard| shard.group().leads());
    let shard = shard.ok_or_else(|| Status::unavailable("this node does not lead the registry"))?;
    if command.op.as_ref().is_some_and(|op| directory_level(op) > shard.reader().level()) {
        return Err(Status::unavailable("the registry's level is not high enough yet"));
    }
    Ok(shard.write(bytes).await)
}
