//! Makes a cluster of storage nodes that wait for it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use carillon_proto::{
    pb::raft::{FoundReply, FoundRequest, founding_client::FoundingClient},
    peer::{Tier, cause},
};
use clap::Args;
use tokio::time::sleep;
use tonic::{Code, Request};

use super::super::out;
use crate::{Config, Secrets};

/// Makes the cluster, once: a storage node whose disk is empty waits for it. Done again after an interruption, it goes on
/// where it was; a second cluster is refused.
#[derive(Args)]
pub(super) struct Init {
    /// host:port of a storage node of the new cluster, one for each; otherwise storage.members, or this node alone.
    #[arg(long = "member", value_name = "HOST:PORT")]
    members: Vec<String>,
    /// Seconds until all storage nodes have to be there.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
}

const CALL: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(300);

/// What came of it.
pub(super) enum Made {
    Now(FoundReply),
    /// It was made before, as the text says.
    Before(String),
}

impl Init {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let members = if self.members.is_empty() { members_of(config) } else { self.members };
        match make(config, &members, Duration::from_secs(self.timeout), true).await? {
            Made::Now(FoundReply { cluster, members }) => {
                out::line(format_args!("cluster {cluster} is made:"))?;
                for member in members {
                    out::line(format_args!("  storage node {} at {}", member.node, member.address))?;
                }
                Ok(())
            }
            Made::Before(why) => bail!("{why}"),
        }
    }
}

fn members_of(config: &Config) -> Vec<String> {
    let storage = &config.storage;
    if !storage.members.is_empty() {
        return storage.members.clone();
    }
    vec![if storage.advertise.is_empty() { storage.listen.to_string() } else { storage.advertise.clone() }]
}

/// Asks the first of them until all are there. `tells`: says what it waits for.
pub(super) async fn make(config: &Config, members: &[String], patience: Duration, tells: bool) -> anyhow::Result<Made> {
    let security = Secrets::of(config).peer_security(config, &[Tier::Operator])?;
    let first = members.first().context("a cluster has at least one storage node")?;
    let channel = security.channel(first)?;
    let mut client = FoundingClient::with_interceptor(channel, security.token());
    let deadline = Instant::now() + patience;
    let mut told = BTreeSet::new();
    loop {
        let mut request = Request::new(FoundRequest { members: members.to_vec() });
        request.set_timeout(CALL);
        let why = match client.found(request).await {
            Ok(reply) => return Ok(Made::Now(reply.into_inner())),
            Err(status) if status.code() == Code::AlreadyExists => {
                return Ok(Made::Before(status.message().to_owned()));
            }
            Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled) => {
                cause(&status)
            }
            Err(status) if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) => bail!(
                "storage node {first}: {}; it has to know the operator's token (cluster.tokens.operator_file or the \
                 cluster's secret), and so has this command",
                status.message()
            ),
            Err(status) => bail!("storage node {first}: {}", status.message()),
        };
        if Instant::now() > deadline {
            bail!("storage node {first}: {why}");
        }
        if tells && told.insert(why.clone()) {
            out::note(format_args!("waiting: {why}"));
        }
        sleep(PAUSE).await;
    }
}
