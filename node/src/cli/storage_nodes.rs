//! The storage nodes of a cluster, for commands that ask the leaders of its shards.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use carillon_proto::{
    ShardMap,
    pb::{
        backup::{ClusterDescription, DescribeRequest, backup_client::BackupClient},
        userdata::user_data_client::UserDataClient,
    },
    peer::{AddToken, PeerSecurity, Tier, cause},
};
use tokio::time::sleep;
use tonic::{Code, Request, service::interceptor::InterceptedService, transport::Channel};

use crate::{Config, Secrets};

/// The cluster can't do it as it is: another attempt will not help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct CanNot(String);

impl CanNot {
    pub(super) fn exit_code(&self) -> u8 {
        4
    }
}

/// Deadline of a short call.
const CALL: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(500);

type Called = InterceptedService<Channel, AddToken>;
pub(super) type UserDataCaller = UserDataClient<Called>;

pub(super) struct StorageNodes {
    security: PeerSecurity,
    pub(super) cluster: ClusterDescription,
    /// host:port of each.
    pub(super) nodes: Vec<String>,
    channels: BTreeMap<String, Channel>,
}

impl StorageNodes {
    /// Asks the nodes until one answers: `given`, or those of the configuration.
    pub(super) async fn find(config: &Config, given: &[String], deadline: Instant) -> anyhow::Result<Self> {
        let security = Secrets::of(config).peer_security(config, &[Tier::Operator])?;
        let nodes = if given.is_empty() { nodes_of(config) } else { given.to_vec() };
        // A cluster without any answer is not waited for as long as a backup may take.
        let deadline = deadline.min(Instant::now() + Duration::from_secs(60));
        let mut this = Self { security, cluster: ClusterDescription::default(), nodes, channels: BTreeMap::new() };
        loop {
            let mut why = "no storage node is given".to_owned();
            for node in this.nodes.clone() {
                let mut request = Request::new(DescribeRequest {});
                request.set_timeout(CALL);
                match this.backup(&node)?.describe(request).await {
                    Ok(reply) => {
                        this.cluster = reply.into_inner();
                        this.nodes = this.cluster.storage_nodes.clone();
                        if !this.nodes.contains(&node) {
                            this.nodes.push(node);
                        }
                        return Ok(this);
                    }
                    Err(status) if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) => bail!(
                        "storage node {node}: {}; it has to know the operator's token (cluster.tokens.operator_file or \
                         the cluster's secret), and so has this command",
                        status.message()
                    ),
                    Err(status) if status.code() == Code::FailedPrecondition => {
                        return Err(CanNot(format!("storage node {node}: {}", status.message())).into());
                    }
                    Err(status) if status.code() == Code::Unimplemented => {
                        why = format!("storage node {node} runs a release that knows no backups");
                    }
                    Err(status) => why = format!("storage node {node}: {}", cause(&status)),
                }
            }
            if Instant::now() + PAUSE >= deadline {
                bail!("{why}");
            }
            sleep(PAUSE).await;
        }
    }

    pub(super) fn map(&self) -> anyhow::Result<ShardMap> {
        let count = |shards: u32| u16::try_from(shards).ok().filter(|shards| *shards > 0).context("number of shards");
        Ok(ShardMap {
            directory: count(self.cluster.directory_shards)?,
            timeline: count(self.cluster.timeline_shards)?,
        })
    }

    pub(super) fn backup(&mut self, node: &str) -> anyhow::Result<BackupClient<Called>> {
        Ok(BackupClient::with_interceptor(self.channel(node)?, self.security.token()))
    }

    pub(super) fn user_data(&mut self, node: &str) -> anyhow::Result<UserDataCaller> {
        Ok(UserDataClient::with_interceptor(self.channel(node)?, self.security.token()))
    }

    fn channel(&mut self, node: &str) -> anyhow::Result<Channel> {
        if let Some(channel) = self.channels.get(node) {
            return Ok(channel.clone());
        }
        let channel = self.security.channel(node)?;
        self.channels.insert(node.to_owned(), channel.clone());
        Ok(channel)
    }
}

fn nodes_of(config: &Config) -> Vec<String> {
    let storage = &config.storage;
    if !storage.members.is_empty() {
        return storage.members.clone();
    }
    let own = if storage.advertise.is_empty() { storage.listen.to_string() } else { storage.advertise.clone() };
    let mut nodes = config.router.storage.clone();
    if !nodes.contains(&own) {
        nodes.push(own);
    }
    nodes
}
