//! How a cluster is made, once and by an explicit word, and how a node finds out where it belongs. See
//! docs/architecture.md, "The cluster".

use std::{collections::HashSet, sync::Arc, time::Duration};

use carillon_proto::{
    Level, ShardId,
    pb::{
        raft::{
            AnnounceRequest, AssignRequest, CarryReply, CarryRequest, Cluster, DescribeRequest, FoundReply,
            FoundRequest, Identity, Member, bootstrap_client::BootstrapClient, bootstrap_server, founding_server,
        },
        store::{DirectoryCommand, StorageNode, StoreReply},
    },
    peer::{AddToken, PeerSecurity, cause},
    waiting::Waiting,
};
use parking_lot::Mutex;
use prost::Message as _;
use rand::RngExt as _;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::{Code, Request, Response, Status, service::interceptor::InterceptedService, transport::Channel};

use crate::{
    addresses::AddressBook,
    cluster::{Serving, started},
    identity::{DataDir, IdentityError},
    machine::{ClusterRows, FOUNDERS, check_directory, directory_level, is_the_nodes},
};

const CALL_DEADLINE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(300);

/// This node's identity, and what changes it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Bootstrap {
    inner: Arc<Inner>,
}

struct Inner {
    dir: DataDir,
    /// Held while the file is written: one assignment at a time.
    identity: Mutex<Identity>,
    assigned: watch::Sender<Option<Identity>>,
    /// Held while a cluster is made here.
    founding: tokio::sync::Mutex<()>,
    security: PeerSecurity,
    /// host:port of this node.
    own: String,
    /// Some nodes to ask and to tell.
    seeds: Vec<String>,
    directory_shards: u16,
    timeline_shards: u16,
    known: Level,
    book: AddressBook,
    serving: Arc<Serving>,
    /// Nodes that know since the start of this process where this one is.
    met: Mutex<HashSet<u64>>,
}

/// What makes a node refuse to start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootstrapError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(
        "this node's disk is empty, but the cluster at {other} knows {own} with another disk: its data is gone, so it \
         can't come back under this address; give it its old data folder, or a new address"
    )]
    OtherDisk { own: String, other: String },
    #[error("the identity names no member with its own node number: the file is not this node's")]
    NoOwnMember,
    #[error(
        "the cluster of this data folder is at level {level}, but this program reads levels up to {known}: run the release \
         that wrote it, or a newer one"
    )]
    TooOld { level: Level, known: Level },
}

/// Why a cluster is not made.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    #[error("{0}")]
    Members(String),
    #[error("the cluster {0} has been made already: a second one would not know what is in it")]
    Exists(String),
    #[error("{0}; all members have to be there: do it again")]
    NotAll(String),
    #[error(transparent)]
    Disk(Box<dyn std::error::Error + Send + Sync>),
}

/// What one round of asking the others came to.
#[derive(Debug, PartialEq)]
enum Step {
    /// Nobody's cluster knows this disk. With the address of a node that belongs to one.
    Wait(Option<String>),
    /// The cluster knows this disk: its making was interrupted.
    Join(Cluster, u64),
}

pub(crate) struct Settings {
    pub(crate) security: PeerSecurity,
    pub(crate) own: String,
    pub(crate) members: Vec<String>,
    pub(crate) directory_shards: u16,
    pub(crate) timeline_shards: u16,
    pub(crate) known: Level,
    pub(crate) book: AddressBook,
    pub(crate) serving: Arc<Serving>,
}

type Client = BootstrapClient<InterceptedService<Channel, AddToken>>;

impl Bootstrap {
    pub(crate) fn new(dir: DataDir, identity: Identity, settings: Settings) -> Result<Self, BootstrapError> {
        let Settings { security, own, members, directory_shards, timeline_shards, known, book, serving } = settings;
        if Level(identity.level) > known {
            return Err(BootstrapError::TooOld { level: Level(identity.level), known });
        }
        if identity.cluster.is_some() {
            check_own(&identity)?;
        }
        let assigned = watch::Sender::new(identity.cluster.is_some().then(|| identity.clone()));
        let inner = Inner {
            dir,
            identity: Mutex::new(identity),
            assigned,
            founding: tokio::sync::Mutex::default(),
            security,
            own,
            seeds: members,
            directory_shards,
            timeline_shards,
            known,
            book,
            serving,
            met: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn dir(&self) -> &DataDir {
        &self.inner.dir
    }

    /// host:port of this node.
    pub(crate) fn own(&self) -> &str {
        &self.inner.own
    }

    /// The identity, once this node belongs to a cluster.
    pub(crate) fn assigned(&self) -> Option<Identity> {
        self.inner.assigned.borrow().clone()
    }

    /// Waits until this node has its place in a cluster. `tell` is told what it waits for.
    pub(crate) async fn settle(&self, tell: impl Fn(&str)) -> Result<Identity, BootstrapError> {
        let mut assigned = self.inner.assigned.subscribe();
        let mut waiting = Waiting::new("a place in a cluster, as the disk of this storage node is empty");
        loop {
            if let Some(identity) = assigned.borrow_and_update().clone() {
                waiting.over();
                return Ok(identity);
            }
            let (own, disk) = (&self.inner.own, self.inner.identity.lock().disk.clone());
            let (answers, silent) = self.ask_all(&self.inner.seeds).await;
            match decide(own, &disk, answers)? {
                Step::Join(cluster, node) => {
                    self.assign(cluster, node)?;
                }
                Step::Wait(other) => {
                    let mut cause = match other {
                        Some(other) => format!("the cluster of {other} does not know this disk"),
                        None => {
                            "no cluster is made yet: `carillon cluster init` makes one of all its storage nodes, once"
                                .to_owned()
                        }
                    };
                    for (address, why) in silent {
                        cause.push_str(&format!("; no answer from {address}: {why}"));
                    }
                    tell(&format!("the disk is empty and belongs to no cluster: {cause}"));
                    waiting.still(own, cause);
                    let pause = PAUSE.mul_f64(rand::rng().random_range(0.75..1.25));
                    // Ends early when the node that makes the cluster has called.
                    let _ = timeout(pause, assigned.changed()).await;
                }
            }
        }
    }

    /// Makes a cluster of these nodes, this one among them; empty: of those that the configuration names, or of this one
    /// alone. What was interrupted goes on; what was done is refused.
    pub(crate) async fn found(&self, members: Vec<String>) -> Result<Cluster, FoundError> {
        let _one = self.inner.founding.lock().await;
        let own = &self.inner.own;
        let mut members = if members.is_empty() { self.inner.seeds.clone() } else { members };
        if members.is_empty() {
            members.push(own.clone());
        }
        let Some(place) = members.iter().position(|member| member == own) else {
            return Err(FoundError::Members(format!(
                "{own}, which is asked to make the cluster, is not one of its members"
            )));
        };
        // It becomes node 1, which makes the first members of the Raft groups.
        members[..=place].rotate_right(1);
        if members.len() >= FOUNDERS as usize || members.iter().collect::<HashSet<_>>().len() < members.len() {
            return Err(FoundError::Members(format!("a cluster has 1 to {} members, each once", FOUNDERS - 1)));
        }
        let (answers, silent) = self.ask_all(&members).await;
        if let Some((address, why)) = silent.first() {
            return Err(FoundError::NotAll(format!("storage node {address} does not answer: {why}")));
        }
        let of = |identity: &Identity| identity.cluster.as_ref().map(|cluster| cluster.id.clone());
        let made = match self.assigned().and_then(|identity| identity.cluster) {
            // It stands in the disks of all, or of some.
            Some(cluster)
                if answers.iter().all(|(_, answer)| answer.as_ref().is_some_and(|it| it.cluster.is_some())) =>
            {
                return Err(FoundError::Exists(cluster.id));
            }
            Some(cluster) => {
                // The disks count: where they are reached may have changed.
                let at = |(address, answer): &(String, Option<Identity>)| {
                    let disk = answer.as_ref().map(|identity| &identity.disk)?;
                    let member = cluster.members.iter().find(|member| member.disk == *disk)?;
                    Some(Member { address: address.clone(), ..member.clone() })
                };
                let members: Option<Vec<Member>> = answers.iter().map(at).collect();
                let Some(members) = members else { return Err(FoundError::Exists(cluster.id)) };
                Cluster { members, ..cluster }
            }
            None => {
                if let Some(other) = answers.iter().find_map(|(_, answer)| answer.as_ref().and_then(of)) {
                    return Err(FoundError::Exists(other));
                }
                let cluster = self.make(answers);
                let (this, assigned) = (self.clone(), cluster.clone());
                let assigning = tokio::task::spawn_blocking(move || this.assign(assigned, 1)).await;
                assigning
                    .map_err(|error| FoundError::Disk(Box::new(error)))?
                    .map_err(|error| FoundError::Disk(Box::new(error)))?;
                cluster
            }
        };
        for member in made.members.iter().filter(|member| member.address != *own) {
            if let Err(status) = self.tell(member, &made).await {
                let why = cause(&status);
                return Err(FoundError::NotAll(format!(
                    "storage node {} did not take its place: {why}",
                    member.address
                )));
            }
        }
        Ok(made)
    }

    /// Tells all other members their places, until each has taken it or refused it.
    pub(crate) async fn tell_others(&self, cluster: Cluster) {
        let mut left: Vec<Member> =
            cluster.members.iter().filter(|member| member.address != self.inner.own).cloned().collect();
        while !left.is_empty() {
            let mut again = Vec::new();
            for member in left {
                if let Err(status) = self.tell(&member, &cluster).await {
                    if status.code() == Code::FailedPrecondition {
                        tracing::error!(address = %member.address, cause = cause(&status), "a storage node refuses its place");
                    } else {
                        again.push(member);
                    }
                }
            }
            left = again;
            sleep(PAUSE).await;
        }
    }

    async fn tell(&self, member: &Member, cluster: &Cluster) -> Result<(), Status> {
        let request = AssignRequest { disk: member.disk.clone(), cluster: Some(cluster.clone()), node: member.node };
        let mut client = self.client(&member.address)?;
        let call = timeout(CALL_DEADLINE, client.assign(request)).await;
        call.map_err(|_| Status::deadline_exceeded("no answer in time"))??;
        Ok(())
    }

    /// The identity of each node by address, None of those that do not answer; and why those don't.
    async fn ask_all(&self, nodes: &[String]) -> (Vec<(String, Option<Identity>)>, Vec<(String, String)>) {
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

    async fn ask(&self, address: &str) -> Result<Identity, String> {
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

    fn make(&self, answers: Vec<(String, Option<Identity>)>) -> Cluster {
        let id: [u8; 16] = rand::rng().random();
        let members = answers.into_iter().zip(1..).map(|((address, identity), node)| Member {
            node,
            address,
            disk: identity.unwrap_or_default().disk,
        });
        Cluster {
            id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
            directory_shards: self.inner.directory_shards.into(),
            timeline_shards: self.inner.timeline_shards.into(),
            members: members.collect(),
        }
    }

    /// Blocking.
    fn assign(&self, cluster: Cluster, node: u64) -> Result<Identity, BootstrapError> {
        let mut identity = self.inner.identity.lock();
        let assigned = Identity { cluster: Some(cluster), node, ..identity.clone() };
        check_own(&assigned)?;
        if identity.cluster.is_none() {
            *identity = self.inner.dir.write(&assigned)?;
            tracing::info!(node, "this node has its place in the cluster");
            self.inner.assigned.send_replace(Some(identity.clone()));
        }
        Ok(identity.clone())
    }

    /// Writes down what a start needs to know before the rows are read. It holds no addresses: those are data, as soon as
    /// the level says so, without which a start would not wait for the rows.
    pub(crate) async fn remember(&self, rows: ClusterRows) -> Result<(), IdentityError> {
        if rows.level < Level::CLUSTER {
            return Ok(());
        }
        let this = self.clone();
        let remembering = tokio::task::spawn_blocking(move || {
            let mut identity = this.inner.identity.lock();
            let mut now = identity.clone();
            let members = rows.members().into_iter().map(|member| Member { address: String::new(), ..member });
            now.cluster = now.cluster.map(|cluster| Cluster { members: members.collect(), ..cluster });
            now.level = now.level.max(rows.level.0);
            if now != *identity {
                *identity = this.inner.dir.write(&now)?;
            }
            Ok(())
        });
        remembering.await.unwrap_or(Ok(()))
    }

    /// The timelines have the new epochs that a put-back folder needs. Blocking.
    pub(crate) fn epochs_are_new(&self) -> Result<(), IdentityError> {
        let mut identity = self.inner.identity.lock();
        *identity = self.inner.dir.write(&Identity { put_back: false, ..identity.clone() })?;
        Ok(())
    }

    /// What this node answers when it is asked who it is.
    fn described(&self) -> Identity {
        let mut identity = self.inner.identity.lock().clone();
        identity.reads_level = self.inner.known.0;
        if let (Some(cluster), Some(serving)) = (&mut identity.cluster, self.inner.serving.get()) {
            cluster.members = serving.rows().members();
        }
        let own = identity.node;
        let members = identity.cluster.iter_mut().flat_map(|cluster| &mut cluster.members);
        for member in members.filter(|member| member.node == own) {
            self.inner.own.clone_into(&mut member.address);
        }
        identity
    }

    /// As it should stand in the registry.
    pub(crate) fn row(&self, node: u64) -> StorageNode {
        let Inner { own, known, identity, .. } = &*self.inner;
        StorageNode { node, disk: identity.lock().disk.clone(), address: own.clone(), level: known.0 }
    }

    pub(crate) fn seeds(&self) -> impl Iterator<Item = Arc<str>> {
        self.inner.seeds.iter().filter(|seed| **seed != self.inner.own).map(|seed| Arc::from(&**seed))
    }

    /// Does this node know since the start of this process where this one is?
    pub(crate) fn has_met(&self, node: u64) -> bool {
        node == self.inner.identity.lock().node || self.inner.met.lock().contains(&node)
    }

    /// Tells whoever is at this address who and where this node is.
    pub(crate) async fn tell_of_this_node(&self, address: &str) {
        let identity = self.inner.identity.lock().clone();
        let cluster = identity.cluster.map(|cluster| cluster.id).unwrap_or_default();
        let (node, disk) = (identity.node, identity.disk);
        let request = AnnounceRequest { cluster: cluster.clone(), node, disk, address: self.inner.own.clone() };
        let Ok(mut client) = self.client(address) else { return };
        let told = match timeout(CALL_DEADLINE, client.announce(request)).await {
            Ok(Ok(reply)) => Some(reply.into_inner()),
            // A release before this one: it knows no other addresses than the first ones.
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

    /// The members as they are to stand in the registry, with the level that each can read; None if one does not answer.
    pub(crate) async fn levels_of(
        &self,
        cluster: &crate::cluster::Cluster,
        rows: &ClusterRows,
    ) -> Option<Vec<StorageNode>> {
        let asked = rows.nodes().map(|member| async move {
            if member.node == cluster.own {
                return Some(self.row(member.node));
            }
            let address = cluster.book.of(member.node)?;
            let other = self.ask(&address).await.ok()?;
            let is_it = other.node == member.node && other.disk == member.disk;
            let level = other.reads_level;
            is_it.then(|| StorageNode { address: address.to_string(), level, ..member.clone() })
        });
        futures_util::future::join_all(asked).await.into_iter().collect()
    }
}

#[tonic::async_trait]
impl bootstrap_server::Bootstrap for Bootstrap {
    async fn describe(&self, _request: Request<DescribeRequest>) -> Result<Response<Identity>, Status> {
        Ok(Response::new(self.described()))
    }

    async fn assign(&self, request: Request<AssignRequest>) -> Result<Response<Identity>, Status> {
        let AssignRequest { disk, cluster, node } = request.into_inner();
        let cluster = cluster.ok_or_else(|| Status::invalid_argument("an assignment without a cluster"))?;
        let current = self.inner.identity.lock().clone();
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
        let this = self.clone();
        let assign = tokio::task::spawn_blocking(move || Bootstrap::assign(&this, cluster, node)).await;
        let assigned = assign.map_err(|error| Status::internal(error.to_string()))?;
        assigned.map(Response::new).map_err(|error| Status::failed_precondition(error.to_string()))
    }

    async fn announce(&self, request: Request<AnnounceRequest>) -> Result<Response<Identity>, Status> {
        let AnnounceRequest { cluster, node, disk, address } = request.into_inner();
        let own = self.described();
        let members = own.cluster.iter().filter(|own| own.id == cluster).flat_map(|own| &own.members);
        if !members.filter(|member| member.node == node).any(|member| member.disk == disk) {
            return Err(Status::failed_precondition("this node's cluster has no such member"));
        }
        if node != own.node {
            self.inner.book.learn(node, &address);
            self.inner.met.lock().insert(node);
        }
        Ok(Response::new(own))
    }

    async fn carry(&self, request: Request<CarryRequest>) -> Result<Response<CarryReply>, Status> {
        let cluster = started(&self.inner.serving)?;
        let bytes = request.into_inner().command;
        let command = DirectoryCommand::decode(bytes.clone()).map_err(|_| Status::invalid_argument("no command"))?;
        if !is_the_nodes(&command) || command.encoded_len() != bytes.len() {
            return Err(Status::invalid_argument("this release does not carry such a command"));
        }
        check_directory(ShardId::REGISTRY, cluster.map, &command)
            .map_err(|rejected| Status::invalid_argument(rejected.detail))?;
        let shard = cluster.registry().filter(|shard| shard.group().leads());
        let shard = shard.ok_or_else(|| Status::unavailable("this node does not lead the registry"))?;
        if command.op.as_ref().is_some_and(|op| directory_level(op) > shard.reader().level()) {
            return Err(Status::unavailable("the registry's level is not high enough yet"));
        }
        let reply = StoreReply { id: 0, result: Some(shard.write(bytes).await) };
        Ok(Response::new(CarryReply { reply: Some(reply) }))
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

fn check_own(identity: &Identity) -> Result<(), BootstrapError> {
    let mut members = identity.cluster.iter().flat_map(|cluster| &cluster.members);
    match members.any(|member| (member.node, &member.disk) == (identity.node, &identity.disk)) {
        true => Ok(()),
        false => Err(BootstrapError::NoOwnMember),
    }
}

/// What a node without a cluster does, having asked others.
fn decide(own: &str, disk: &[u8], answers: Vec<(String, Option<Identity>)>) -> Result<Step, BootstrapError> {
    let mut of_a_cluster = None;
    for (other, answer) in answers {
        let Some(cluster) = answer.and_then(|identity| identity.cluster) else { continue };
        if let Some(member) = cluster.members.iter().find(|member| member.disk == disk) {
            let node = member.node;
            return Ok(Step::Join(cluster, node));
        }
        if cluster.members.iter().any(|member| member.address == own) {
            return Err(BootstrapError::OtherDisk { own: own.to_owned(), other });
        }
        of_a_cluster = Some(other);
    }
    Ok(Step::Wait(of_a_cluster))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(disk: u8, cluster: Option<Cluster>) -> Option<Identity> {
        Some(Identity { format: 1, disk: vec![disk].into(), cluster, ..Identity::default() })
    }

    fn cluster(disks: &[(&str, u8)]) -> Option<Cluster> {
        let members = disks.iter().zip(1..).map(|((address, disk), node)| Member {
            node,
            address: (*address).to_owned(),
            disk: vec![*disk].into(),
        });
        Some(Cluster { id: "c".into(), directory_shards: 1, timeline_shards: 1, members: members.collect() })
    }

    fn step(own: &str, disk: u8, answers: &[(&str, Option<Identity>)]) -> Result<Step, BootstrapError> {
        decide(own, &[disk], answers.iter().map(|(address, answer)| ((*address).to_owned(), answer.clone())).collect())
    }

    #[test]
    fn empty_disks_wait_whoever_is_there() {
        let all = [("a", identity(1, None)), ("b", identity(2, None)), ("c", identity(3, None))];
        for (own, disk) in [("a", 1), ("b", 2)] {
            assert_eq!(step(own, disk, &all).expect("waits"), Step::Wait(None));
        }
        let strangers = [("x", identity(1, cluster(&[("x", 1)]))), ("b", None)];
        assert_eq!(step("b", 2, &strangers).expect("waits"), Step::Wait(Some("x".into())));
    }

    #[test]
    fn a_node_whose_disk_the_cluster_knows_takes_its_place_wherever_it_is() {
        let known = cluster(&[("a", 1), ("b", 2), ("c", 3)]);
        let all = [("a", identity(1, known)), ("b", identity(2, None)), ("c", None)];
        for own in ["b", "elsewhere"] {
            assert!(matches!(step(own, 2, &all), Ok(Step::Join(_, 2))));
        }
    }

    #[test]
    fn an_empty_disk_does_not_come_back_under_an_old_address() {
        let known = cluster(&[("a", 1), ("b", 2), ("c", 3)]);
        for own in ["a", "b"] {
            let all = [("a", identity(9, None)), ("b", identity(9, None)), ("c", identity(3, known.clone()))];
            let error = step(own, 9, &all).expect_err("refused").to_string();
            assert!(error.contains("another disk"), "{error}");
        }
    }

    #[test]
    fn an_identity_without_its_own_member_is_refused() {
        let of = |node| Identity { node, ..identity(7, cluster(&[("a", 7), ("b", 8)])).expect("made") };
        check_own(&of(1)).expect("its own");
        check_own(&of(2)).expect_err("another disk's");
    }
}
