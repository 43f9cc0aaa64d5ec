//! Makes a cluster of storage nodes that wait for it.

use std::{
    collections::BTreeSet,
    error::Error as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use carillon_proto::{
    pb::raft::{FoundReply, FoundRequest, MembersReply, founding_client::FoundingClient},
    peer::{Tier, cause},
};
use clap::Args;
use tokio::time::sleep;
use tonic::{Code, Request, Status};

use super::{super::out, members::Nodes};
use crate::{Config, Secrets};

/// Makes a cluster of storage nodes whose disks are empty, once. After an interruption, run it again; a second cluster is
/// refused.
#[derive(Args)]
pub(super) struct Init {
    /// host:port of a storage node of the new cluster, one for each; otherwise storage.members, or this node alone.
    #[arg(long = "member", value_name = "HOST:PORT")]
    members: Vec<String>,
    /// Seconds until all storage nodes have to be there.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Succeed if all of these storage nodes are of one cluster already, to which others may have been added. It still fails
    /// if one of them is of another cluster, or of none.
    #[arg(long)]
    if_not_exists: bool,
}

const CALL: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(300);

/// The outcome of `make`.
pub(super) enum Made {
    Now(FoundReply),
    /// The cluster exists, as the text says. An earlier call of this run, whose answer was lost, may have made it.
    Unheard(String),
    /// The cluster was made before this run, as the text says.
    Before(String),
}

impl Init {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let members = if self.members.is_empty() { members_of(config) } else { self.members };
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        match make(config, &members, deadline, true).await? {
            Made::Now(FoundReply { cluster, members }) => {
                out::line(format_args!("cluster {cluster} is made:"))?;
                for member in members {
                    out::line(format_args!("  storage node {} at {}", member.node, member.address))?;
                }
                Ok(())
            }
            Made::Unheard(text) => out::line(text),
            Made::Before(_) if self.if_not_exists => {
                let cluster = their_cluster(config, &members, deadline).await?;
                out::line(format_args!(
                    "all of these storage nodes are of cluster {cluster} already: nothing is changed"
                ))
            }
            Made::Before(why) => bail!("{why}"),
        }
    }
}

/// The cluster that all of these storage nodes have a place in.
async fn their_cluster(config: &Config, members: &[String], deadline: Instant) -> anyhow::Result<String> {
    let mut theirs: Option<(String, &str)> = None;
    for member in members {
        let reply = members_at(config, member, deadline).await?;
        // Another disk at the address of a member answers for itself, and is in no list.
        if !reply.nodes.iter().any(|node| node.address == *member) {
            bail!("storage node {member} is of cluster {}, which has no node of that address", reply.cluster);
        }
        match &theirs {
            Some((cluster, first)) if *cluster != reply.cluster => {
                bail!("storage node {member} is of cluster {}, and {first} of cluster {cluster}", reply.cluster)
            }
            _ => theirs = Some((reply.cluster, member)),
        }
    }
    theirs.map(|(cluster, _)| cluster).context("a cluster has at least one storage node")
}

/// Asks this storage node until it answers: it may just be starting.
async fn members_at(config: &Config, member: &str, deadline: Instant) -> anyhow::Result<MembersReply> {
    let nodes = Nodes::at(config, member)?;
    loop {
        match nodes.members().await {
            Ok(reply) => return Ok(reply),
            Err(error) if Instant::now() + PAUSE >= deadline => {
                return Err(error.context(format!("storage node {member} has no place in the cluster")));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

pub(super) fn members_of(config: &Config) -> Vec<String> {
    let storage = &config.storage;
    if !storage.members.is_empty() {
        return storage.members.clone();
    }
    vec![if storage.advertise.is_empty() { storage.listen.to_string() } else { storage.advertise.clone() }]
}

/// Asks the first member to make the cluster until it is made. With `tells`, prints what the command waits for.
pub(super) async fn make(config: &Config, members: &[String], deadline: Instant, tells: bool) -> anyhow::Result<Made> {
    let security = Secrets::of(config).peer_security(config, &[Tier::Operator])?;
    let first = members.first().context("a cluster has at least one storage node")?;
    let channel = security.channel(first)?;
    let mut client = FoundingClient::with_interceptor(channel, security.token());
    let mut told = BTreeSet::new();
    let mut lost = false;
    loop {
        let mut request = Request::new(FoundRequest { members: members.to_vec() });
        request.set_timeout(CALL.min(deadline.saturating_duration_since(Instant::now())));
        let why = match client.found(request).await {
            Ok(reply) => return Ok(Made::Now(reply.into_inner())),
            Err(status) if status.code() == Code::AlreadyExists => {
                let text = status.message().to_owned();
                return Ok(if lost { Made::Unheard(text) } else { Made::Before(text) });
            }
            Err(status) if is_lost(&status) => {
                lost = true;
                cause(&status)
            }
            Err(status) if status.code() == Code::Unavailable => cause(&status),
            Err(status) if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) => bail!(
                "storage node {first}: {}; it has to know the operator's token (cluster.tokens.operator_file or the \
                 cluster's secret), and so has this command",
                status.message()
            ),
            Err(status) => bail!("storage node {first}: {}", status.message()),
        };
        if Instant::now() + PAUSE >= deadline {
            bail!("storage node {first}: {why}");
        }
        if tells && told.insert(why.clone()) {
            out::note(format_args!("waiting: {why}"));
        }
        sleep(PAUSE).await;
    }
}

/// True if the call may have been carried out: the answer was too late, or the connection broke.
fn is_lost(status: &Status) -> bool {
    matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
        || (status.code() == Code::Unknown && status.source().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layers;
    use carillon_proto::{
        pb::raft::founding_server::{Founding, FoundingServer},
        tasks::Tasks,
    };
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Response, transport::Server};

    /// A storage node whose first answer, that the cluster is made, comes too late.
    struct Late(AtomicUsize);

    #[tonic::async_trait]
    impl Founding for Late {
        async fn found(&self, _: Request<FoundRequest>) -> Result<Response<FoundReply>, Status> {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                0 => Err(Status::deadline_exceeded("no answer in time")),
                _ => Err(Status::already_exists("the cluster 1 has been made already")),
            }
        }
    }

    #[tokio::test]
    async fn a_cluster_that_was_made_by_a_call_without_an_answer_is_no_failure() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let member = listener.local_addr().expect("address").to_string();
        let tasks = Tasks::new();
        let service = FoundingServer::new(Late(AtomicUsize::new(0)));
        let serving = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        tasks.spawn("founding", async move {
            let _ = serving.await;
        });
        let sets = ["cluster.secret=cluster-secret-of-the-tests".to_owned()];
        let config = Layers::default().sets(&sets).expect("valid").load().expect("valid");
        let soon = || Instant::now() + Duration::from_secs(30);
        let members = [member];
        assert!(matches!(make(&config, &members, soon(), false).await, Ok(Made::Unheard(_))));
        assert!(matches!(make(&config, &members, soon(), false).await, Ok(Made::Before(_))), "it was there");
        tasks.finish(Duration::from_millis(10)).await;
    }
}
