//! How a cluster is made, and how a node finds out where it belongs. See docs/architecture.md, "Bootstrap".

use std::{sync::Arc, time::Duration};

use carillon_proto::{
    pb::raft::{
        AssignRequest, Cluster, DescribeRequest, Identity, Member, bootstrap_client::BootstrapClient, bootstrap_server,
    },
    peer::{PeerSecurity, cause},
    waiting::Waiting,
};
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::{Code, Request, Response, Status};

use crate::identity::{DataDir, IdentityError};

const CALL_DEADLINE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(300);

/// This node's identity, and what changes it.
#[derive(Clone)]
pub(crate) struct Bootstrap {
    inner: Arc<Inner>,
}

struct Inner {
    dir: DataDir,
    /// Held while the file is written: one assignment at a time.
    identity: Mutex<Identity>,
    assigned: watch::Sender<Option<Identity>>,
    security: PeerSecurity,
    own: String,
    /// In the order of the configuration; the first one makes the cluster.
    members: Vec<String>,
    directory_shards: u16,
    timeline_shards: u16,
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
    #[error("the cluster at {other} has no member {own}: a node joins only while the cluster is made")]
    NotMember { own: String, other: String },
    #[error(
        "this data folder belongs to the storage node at {known}, but this node's address is {own}: set \
         storage.advertise to {known}, or use another data folder"
    )]
    OtherAddress { own: String, known: String },
    #[error("the identity names no member with its own node number: the file is not this node's")]
    NoOwnMember,
}

/// What one round of asking the others came to.
#[derive(Debug, PartialEq)]
enum Step {
    /// Ask again.
    Wait,
    /// All are there, none belongs to a cluster, and making it falls to this node.
    Make(Vec<(String, Identity)>),
    /// The cluster knows this node and its disk.
    Join(Cluster, u64),
}

pub(crate) struct Settings {
    pub(crate) security: PeerSecurity,
    pub(crate) own: String,
    pub(crate) members: Vec<String>,
    pub(crate) directory_shards: u16,
    pub(crate) timeline_shards: u16,
}

impl Bootstrap {
    pub(crate) fn new(dir: DataDir, identity: Identity, settings: Settings) -> Result<Self, BootstrapError> {
        let Settings { security, own, mut members, directory_shards, timeline_shards } = settings;
        if members.is_empty() {
            members.push(own.clone());
        }
        let identity = match alone_elsewhere(&identity, &own) {
            Some(moved) if members == [own.clone()] => {
                tracing::info!(address = %own, "this node, which is alone, has another address than before");
                dir.write(&moved)?;
                moved
            }
            _ => identity,
        };
        if identity.cluster.is_some() {
            check_address(&identity, &own)?;
        }
        let assigned = watch::Sender::new(identity.cluster.is_some().then(|| identity.clone()));
        let identity = Mutex::new(identity);
        let inner = Inner { dir, identity, assigned, security, own, members, directory_shards, timeline_shards };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn dir(&self) -> &DataDir {
        &self.inner.dir
    }

    /// The identity, once this node belongs to a cluster.
    pub(crate) fn assigned(&self) -> Option<Identity> {
        self.inner.assigned.borrow().clone()
    }

    /// Makes the cluster or waits until this node has its place in it.
    pub(crate) async fn settle(&self) -> Result<Identity, BootstrapError> {
        let mut assigned = self.inner.assigned.subscribe();
        let mut waiting = Waiting::new("the other storage nodes of the new cluster");
        loop {
            if let Some(identity) = assigned.borrow_and_update().clone() {
                waiting.over();
                return Ok(identity);
            }
            let (own, disk) = (&self.inner.own, self.inner.identity.lock().disk.clone());
            let (answers, silent) = self.ask_all().await;
            match decide(own, &disk, &self.inner.members, answers)? {
                Step::Make(answers) => {
                    let cluster = self.make(answers);
                    self.assign(cluster, 1)?;
                }
                Step::Join(cluster, node) => {
                    self.assign(cluster, node)?;
                }
                Step::Wait => {
                    if silent.is_empty() {
                        let first = self.inner.members.first().map_or("", String::as_str);
                        waiting.still(first, "it has not made the cluster yet");
                    } else {
                        let addresses: Vec<&str> = silent.iter().map(|(address, _)| &**address).collect();
                        let causes: Vec<&str> = silent.iter().map(|(_, cause)| &**cause).collect();
                        waiting.still(addresses.join(", "), causes.join(", "));
                    }
                    let pause = PAUSE.mul_f64(rand::rng().random_range(0.75..1.25));
                    // Ends early when the node that makes the cluster has called.
                    let _ = timeout(pause, assigned.changed()).await;
                }
            }
        }
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
        let channel = self.inner.security.channel(&member.address).map_err(|_| Status::unavailable("address"))?;
        let mut client = BootstrapClient::with_interceptor(channel, self.inner.security.token());
        let call = timeout(CALL_DEADLINE, client.assign(request)).await;
        call.map_err(|_| Status::deadline_exceeded("no answer in time"))??;
        Ok(())
    }

    /// The identity of each member by address, None of those that do not answer; and why those don't.
    async fn ask_all(&self) -> (Vec<(String, Option<Identity>)>, Vec<(String, String)>) {
        let asked = self.inner.members.iter().map(|address| async move {
            if *address == self.inner.own {
                return (address.clone(), Ok(self.inner.identity.lock().clone()));
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
        let channel = self.inner.security.channel(address).map_err(|error| error.to_string())?;
        let mut client = BootstrapClient::with_interceptor(channel, self.inner.security.token());
        match timeout(CALL_DEADLINE, client.describe(DescribeRequest {})).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(cause(&status)),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    fn make(&self, answers: Vec<(String, Identity)>) -> Cluster {
        let id: [u8; 16] = rand::rng().random();
        let members = answers.into_iter().zip(1..).map(|((address, identity), node)| Member {
            node,
            address,
            disk: identity.disk,
        });
        Cluster {
            id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
            directory_shards: self.inner.directory_shards.into(),
            timeline_shards: self.inner.timeline_shards.into(),
            members: members.collect(),
        }
    }

    fn assign(&self, cluster: Cluster, node: u64) -> Result<Identity, BootstrapError> {
        let mut identity = self.inner.identity.lock();
        let assigned = Identity { cluster: Some(cluster), node, ..identity.clone() };
        check_address(&assigned, &self.inner.own)?;
        if identity.cluster.is_none() {
            self.inner.dir.write(&assigned)?;
            tracing::info!(node, "this node has its place in the cluster");
            *identity = assigned;
            self.inner.assigned.send_replace(Some(identity.clone()));
        }
        Ok(identity.clone())
    }
}

#[tonic::async_trait]
impl bootstrap_server::Bootstrap for Bootstrap {
    async fn describe(&self, _request: Request<DescribeRequest>) -> Result<Response<Identity>, Status> {
        Ok(Response::new(self.inner.identity.lock().clone()))
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
}

/// The identity with this address, if it had another one and nobody else is in the cluster who knows it. Before 0.2.0 a
/// node could have 0.0.0.0, or a port that was free by chance.
fn alone_elsewhere(identity: &Identity, own: &str) -> Option<Identity> {
    let mut moved = identity.clone();
    match moved.cluster.as_mut()?.members.as_mut_slice() {
        [member] if member.node == identity.node && member.disk == identity.disk && member.address != own => {
            own.clone_into(&mut member.address);
            Some(moved)
        }
        _ => None,
    }
}

fn check_address(identity: &Identity, own: &str) -> Result<(), BootstrapError> {
    let members = identity.cluster.iter().flat_map(|cluster| &cluster.members);
    let member = members.filter(|member| member.node == identity.node).find(|member| member.disk == identity.disk);
    match member {
        None => Err(BootstrapError::NoOwnMember),
        Some(member) if member.address != own => {
            Err(BootstrapError::OtherAddress { own: own.to_owned(), known: member.address.clone() })
        }
        Some(_) => Ok(()),
    }
}

/// What a node without a cluster does, having asked the members.
fn decide(
    own: &str,
    disk: &[u8],
    members: &[String],
    answers: Vec<(String, Option<Identity>)>,
) -> Result<Step, BootstrapError> {
    for (other, answer) in &answers {
        let Some(cluster) = answer.as_ref().and_then(|identity| identity.cluster.as_ref()) else { continue };
        return match cluster.members.iter().find(|member| member.address == own) {
            None => Err(BootstrapError::NotMember { own: own.to_owned(), other: other.clone() }),
            Some(member) if member.disk != disk => {
                Err(BootstrapError::OtherDisk { own: own.to_owned(), other: other.clone() })
            }
            Some(member) => Ok(Step::Join(cluster.clone(), member.node)),
        };
    }
    if members.first().is_none_or(|first| first != own) {
        return Ok(Step::Wait);
    }
    let there: Option<Vec<_>> = answers.into_iter().map(|(address, answer)| Some((address, answer?))).collect();
    Ok(there.map_or(Step::Wait, Step::Make))
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
        let members: Vec<_> = ["a", "b", "c"].map(str::to_owned).into();
        let answers = answers.iter().map(|(address, answer)| ((*address).to_owned(), answer.clone())).collect();
        decide(own, &[disk], &members, answers)
    }

    #[test]
    fn the_first_member_makes_the_cluster_when_all_are_there() {
        let all = [("a", identity(1, None)), ("b", identity(2, None)), ("c", identity(3, None))];
        assert!(matches!(step("a", 1, &all), Ok(Step::Make(made)) if made.len() == 3));
        assert!(matches!(step("b", 2, &all), Ok(Step::Wait)));
        let some = [("a", identity(1, None)), ("b", None), ("c", identity(3, None))];
        assert!(matches!(step("a", 1, &some), Ok(Step::Wait)));
    }

    #[test]
    fn a_node_that_is_alone_takes_another_address_and_one_with_others_does_not() {
        let alone = Identity { node: 1, ..identity(7, cluster(&[("0.0.0.0:7401", 7)])).expect("made") };
        let moved = alone_elsewhere(&alone, "host:7401").expect("moves");
        check_address(&moved, "host:7401").expect("its own");
        assert!(alone_elsewhere(&moved, "host:7401").is_none(), "nothing to do");
        let others = Identity { node: 1, ..identity(7, cluster(&[("a", 7), ("b", 8)])).expect("made") };
        assert!(alone_elsewhere(&others, "host:7401").is_none());
        let empty = Identity { disk: vec![9].into(), ..alone };
        assert!(alone_elsewhere(&empty, "host:7401").is_none(), "another disk");
    }

    #[test]
    fn a_node_that_the_cluster_knows_takes_its_place() {
        let known = cluster(&[("a", 1), ("b", 2), ("c", 3)]);
        let all = [("a", identity(1, known)), ("b", identity(2, None)), ("c", None)];
        assert!(matches!(step("b", 2, &all), Ok(Step::Join(_, 2))));
    }

    #[test]
    fn an_empty_disk_does_not_come_back_under_an_old_address() {
        let known = cluster(&[("a", 1), ("b", 2), ("c", 3)]);
        for own in ["a", "b"] {
            let all = [("a", identity(9, None)), ("b", identity(9, None)), ("c", identity(3, known.clone()))];
            let error = step(own, 9, &all).expect_err("refused").to_string();
            assert!(error.contains("another disk"), "{error}");
        }
        let other = cluster(&[("x", 1)]);
        let all = [("a", identity(1, other)), ("b", None), ("c", None)];
        assert!(matches!(step("b", 2, &all), Err(BootstrapError::NotMember { .. })));
    }
}
