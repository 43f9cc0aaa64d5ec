//! How storage nodes exchange their identities, their addresses and their places in a cluster.

use std::{sync::Arc, time::Duration};

use carillon_proto::{
    address::check_reachable,
    pb::{
        raft::{
            AnnounceRequest, AssignRequest, CarryReply, CarryRequest, Cluster, DescribeRequest, FoundReply,
            FoundRequest, Identity, Lead, Leads, Member, bootstrap_client::BootstrapClient, bootstrap_server,
            founding_server,
        },
        store::{Release, StorageNode, StoreReply},
    },
    peer::{AddToken, cause},
};
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status, service::interceptor::InterceptedService, transport::Channel};

use super::{Bootstrap, FoundError, Inner};
use crate::{
    carrier,
    cluster::{self, started},
    levels::Answers,
    machine::ClusterRows,
};

const CALL_DEADLINE: Duration = Duration::from_secs(2);

type Client = BootstrapClient<InterceptedService<Channel, AddToken>>;

impl Bootstrap {
    /// The identity of each node by address, `None` for nodes that do not answer, and why they do not answer.
    pub(super) async fn ask_all(&self, nodes: &[String]) -> (Vec<(String, Option<Identity>)>, Vec<(String, String)>) {
        let asked = nodes.iter().map(|address| async move {
            if *address == self.inner.own {
                return (address.clone(), Ok(self.described()));
            }
            (address.clone(), self.ask(address).await)
        });
        let (mut answers, mut silent) = (Vec::new(), Vec::new());
        for (address, answer) in futures_util::future::join_all(asked).await {
            if let Err(cause) = &answer {
                silent.push((address.clone(), cause.clone()));
            }
            answers.push((address, answer.ok()));
        }
        (answers, silent)
    }

    pub(crate) async fn ask(&self, address: &str) -> Result<Identity, String> {
        let mut client = self.client(address).map_err(|status| cause(&status))?;
        match timeout(CALL_DEADLINE, client.describe(DescribeRequest {})).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(cause(&status)),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    fn client(&self, address: &str) -> Result<Client, Status> {
        let channel = self.inner.security.channel(address).map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(BootstrapClient::with_interceptor(channel, self.inner.security.token()))
    }

    pub(super) async fn tell(&self, member: &Member, cluster: &Cluster) -> Result<(), Status> {
        self.place(member, cluster, 0).await
    }

    /// Tells this member its place in a cluster of this level; 0: one that is being made.
    pub(crate) async fn place(&self, member: &Member, cluster: &Cluster, level: u32) -> Result<(), Status> {
        let request =
            AssignRequest { disk: member.disk.clone(), cluster: Some(cluster.clone()), node: member.node, level };
        let mut client = self.client(&member.address)?;
        let call = timeout(CALL_DEADLINE, client.assign(request)).await;
        call.map_err(|_| Status::deadline_exceeded("no answer in time"))??;
        Ok(())
    }

    /// This node's answer to Describe.
    fn described(&self) -> Identity {
        let mut identity = self.identity();
        identity.reads_level = self.inner.known.0;
        identity.zone.clone_from(&self.inner.zone);
        identity.release = Release::own().version;
        let serving = self.inner.serving.get();
        identity.slow = serving.is_some_and(|cluster| cluster.load.health.is_slow());
        // A node without shards leads none, which is not the same as to tell nothing.
        identity.leads = Some(serving.map(led_here).unwrap_or_default());
        if let (Some(cluster), Some(serving)) = (&mut identity.cluster, serving) {
            cluster.members = serving.rows().members();
        }
        let own = identity.node;
        let members = identity.cluster.iter_mut().flat_map(|cluster| &mut cluster.members);
        for member in members.filter(|member| member.node == own) {
            self.inner.own.clone_into(&mut member.address);
        }
        identity
    }

    /// This node's row for the registry.
    pub(crate) fn row(&self, node: u64) -> StorageNode {
        let Inner { own, known, .. } = &*self.inner;
        let zone = self.inner.zone.clone();
        StorageNode { node, disk: self.identity().disk, address: own.clone(), level: known.0, zone, state: 0 }
    }

    pub(crate) fn seeds(&self) -> impl Iterator<Item = Arc<str>> {
        self.inner.seeds.iter().filter(|seed| **seed != self.inner.own).map(|seed| Arc::from(&**seed))
    }

    /// True if that node has been told this node's address since the process started.
    pub(crate) fn has_met(&self, node: u64) -> bool {
        node == self.inner.identity.lock().node || self.inner.met.lock().contains(&node)
    }

    /// Tells the node at this address who this node is, and its address.
    pub(crate) async fn tell_of_this_node(&self, address: &str) {
        let identity = self.identity();
        let cluster = identity.cluster.map(|cluster| cluster.id).unwrap_or_default();
        let (node, disk) = (identity.node, identity.disk);
        let request = AnnounceRequest { cluster: cluster.clone(), node, disk, address: self.inner.own.clone() };
        let Ok(mut client) = self.client(address) else { return };
        let told = match timeout(CALL_DEADLINE, client.announce(request)).await {
            Ok(Ok(reply)) => Some(reply.into_inner()),
            // A node of an older release, which knows no addresses but the first ones.
            Ok(Err(status)) if status.code() == Code::Unimplemented => self.ask(address).await.ok(),
            Ok(Err(status)) => {
                tracing::debug!(address, cause = cause(&status), "a storage node was not told where this one is");
                None
            }
            Err(_) => None,
        };
        let Some(other) = told else { return };
        if other.cluster.as_ref().is_some_and(|its| its.id == cluster) && other.node != node {
            self.inner.book.learn(other.node, address);
            self.inner.met.lock().insert(other.node);
        }
    }

    /// The answers of all storage nodes, wherever they are now. That of another disk counts as none.
    pub(crate) async fn ask_members(&self, cluster: &cluster::Cluster, rows: &ClusterRows) -> Answers {
        let asked = rows.nodes().map(|row| async move { (row.clone(), self.ask_member(cluster, row).await) });
        futures_util::future::join_all(asked).await
    }

    /// The answer of one of them.
    pub(crate) async fn ask_member(&self, cluster: &cluster::Cluster, row: &StorageNode) -> Result<Identity, String> {
        if row.node == cluster.own {
            return Ok(self.described());
        }
        let address = cluster.book.of(row.node).map_or_else(|| row.address.clone(), |address| address.to_string());
        let answer = self.ask(&address).await?;
        if answer.disk == row.disk { Ok(answer) } else { Err("another disk answers there".to_owned()) }
    }
}

fn led_here(cluster: &cluster::Cluster) -> Leads {
    let shards = cluster.shards();
    let led = shards.values().filter_map(|shard| {
        let status = shard.group().status();
        status.leads.then(|| Lead { group: shard.id().group(), term: status.term })
    });
    Leads { led: led.collect() }
}

#[tonic::async_trait]
impl bootstrap_server::Bootstrap for Bootstrap {
    async fn describe(&self, _request: Request<DescribeRequest>) -> Result<Response<Identity>, Status> {
        Ok(Response::new(self.described()))
    }

    async fn assign(&self, request: Request<AssignRequest>) -> Result<Response<Identity>, Status> {
        let AssignRequest { disk, cluster, node, level } = request.into_inner();
        let cluster = cluster.ok_or_else(|| Status::invalid_argument("an assignment without a cluster"))?;
        // While two nodes make a cluster, neither takes a place in the other's.
        let Ok(_one) = self.inner.founding.try_lock() else {
            return Err(Status::unavailable("this node is just making a cluster itself"));
        };
        let current = self.identity();
        if current.disk != disk {
            return Err(Status::failed_precondition("the disk that was meant is not this node's"));
        }
        if let Some(own) = &current.cluster {
            return if own.id == cluster.id && current.node == node {
                Ok(Response::new(current))
            } else {
                Err(Status::failed_precondition("this node holds another place"))
            };
        }
        let id = cluster.id.clone();
        let assigned = Bootstrap::assign(self, cluster, node, level).await;
        let assigned = assigned.map_err(|error| Status::failed_precondition(error.to_string()))?;
        if assigned.cluster.as_ref().is_none_or(|cluster| cluster.id != id) {
            return Err(Status::failed_precondition("this node has just got another place"));
        }
        Ok(Response::new(assigned))
    }

    async fn announce(&self, request: Request<AnnounceRequest>) -> Result<Response<Identity>, Status> {
        let AnnounceRequest { cluster, node, disk, address } = request.into_inner();
        let own = self.described();
        let members = own.cluster.iter().filter(|own| own.id == cluster).flat_map(|own| &own.members);
        if !members.filter(|member| member.node == node).any(|member| member.disk == disk) {
            return Err(Status::failed_precondition("this node's cluster has no such member"));
        }
        check_reachable(&address).map_err(|error| Status::invalid_argument(format!("the announcement {error}")))?;
        if node != own.node {
            self.inner.book.learn(node, &address);
            self.inner.met.lock().insert(node);
        }
        Ok(Response::new(own))
    }

    async fn carry(&self, request: Request<CarryRequest>) -> Result<Response<CarryReply>, Status> {
        let cluster = started(&self.inner.serving)?;
        let outcome = carrier::carry_out(cluster, self, request.into_inner().command).await?;
        let reply = StoreReply { id: 0, result: Some(outcome) };
        Ok(Response::new(CarryReply { reply: Some(reply), version: cluster.view_version() }))
    }
}

#[tonic::async_trait]
impl founding_server::Founding for Bootstrap {
    async fn found(&self, request: Request<FoundRequest>) -> Result<Response<FoundReply>, Status> {
        let made = self.found(request.into_inner().members).await.map_err(|error| match error {
            FoundError::Members(why) => Status::invalid_argument(why),
            FoundError::Exists(_) => Status::already_exists(error.to_string()),
            FoundError::NotAll(_) => Status::unavailable(error.to_string()),
            FoundError::Disk(_) => Status::internal(error.to_string()),
        })?;
        Ok(Response::new(FoundReply { cluster: made.id, members: made.members }))
    }
}
