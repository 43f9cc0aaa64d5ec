//! Erases a user, and tells how far that is.

use std::time::{Duration, Instant};

use anyhow::bail;
use carillon_proto::{
    UserId, now_ms,
    pb::{
        admin::{EraseUserReply, EraseUserRequest},
        userdata::{LeftReply, LeftRequest},
    },
    peer::cause,
};
use clap::Args;
use tokio::time::sleep;
use tonic::{Code, Status};

use super::{CALL, UserDataError};
use crate::{
    Config,
    cli::{admin_client::Routers, callees::with_deadline, date, ended::ended, out, storage_nodes::StorageNodes},
};

#[derive(Args)]
pub(in crate::cli) struct Erase {
    name: UserId,
    /// Order it and return: the service goes on by itself.
    #[arg(long)]
    no_wait: bool,
    /// Only tell how far it is.
    #[arg(long, conflicts_with = "no_wait")]
    status: bool,
    /// host:port of a router; otherwise from the configuration.
    #[arg(long)]
    router: Option<String>,
    /// host:port of a storage node; may be repeated. Otherwise storage.members or router.storage.
    #[arg(long = "node", value_name = "HOST:PORT")]
    nodes: Vec<String>,
    /// Seconds after which nobody waits any more: the service goes on by itself.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

const PAUSE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Left {
    /// Why something is left, if it is.
    why: Vec<String>,
    /// Only because nodes have not been started again.
    needs_operator: bool,
    aside: Vec<String>,
}

impl Erase {
    pub(in crate::cli) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        let routers = Routers::of(config, self.router.as_deref())?;
        let mut told = String::new();
        loop {
            let returns = self.no_wait || self.status || Instant::now() + PAUSE >= deadline;
            let reply = match self.ask(&routers).await? {
                Ok(reply) => reply,
                // It may be ordered again and again.
                Err(status) if !returns && is_for_now(&status) => {
                    self.say(format!("user {} may not be erased yet: {}", self.name, status.message()), &mut told)
                        .await;
                    continue;
                }
                Err(status) => bail!("user {} is not erased: {}", self.name, status.message()),
            };
            let Some(erasure) = reply.erasure else {
                return Err(UserDataError::Refused(format!("nobody has ordered to erase user {}", self.name)).into());
            };
            let since = date::format(erasure.ordered_ms);
            let EraseUserReply { shards_done, shards, sessions, .. } = reply;
            let now = if erasure.done {
                let left = self.left(config, deadline).await?;
                if left.why.is_empty() {
                    return out::line(format_args!(
                        "user {} is erased, and off all disks (ordered {since})",
                        self.name
                    ));
                }
                let now = format!("user {} is erased since {since}, but {}", self.name, left.why.join("; "));
                if left.needs_operator {
                    return Err(UserDataError::UnderWay(now).into());
                }
                now
            } else if self.status {
                format!("user {} is being erased since {since}", self.name)
            } else {
                format!(
                    "user {} is being erased since {since}{}: {shards_done} of {shards} timeline shards are done, {sessions} sessions are open",
                    self.name,
                    ended(reply.ended)
                )
            };
            if returns {
                return Err(UserDataError::UnderWay(now).into());
            }
            self.say(now, &mut told).await;
        }
    }

    /// Tells what is new, and gives the service some time.
    async fn say(&self, now: String, told: &mut String) {
        if now != *told {
            out::tell(&now);
            *told = now;
        }
        sleep(PAUSE).await;
    }

    /// What the disks of the storage nodes still have.
    async fn left(&self, config: &Config, deadline: Instant) -> anyhow::Result<Left> {
        let mut nodes = StorageNodes::find(config, &self.nodes, deadline).await?;
        let request = LeftRequest { cluster: nodes.cluster.cluster.clone(), user: self.name.as_str().to_owned() };
        let mut left = Left::default();
        let mut restart = Vec::new();
        for address in nodes.nodes.clone() {
            let asked = nodes.user_data(&address)?.left(with_deadline(request.clone(), CALL)).await;
            match asked.map(tonic::Response::into_inner) {
                Ok(LeftReply { behind: 0, timelines: 0, directories: 0, until_restart, aside }) => {
                    if until_restart {
                        restart.push(address.clone());
                    }
                    left.aside.extend(aside.into_iter().map(|folder| format!("{folder} of storage node {address}")));
                }
                Ok(LeftReply { behind, timelines, directories, .. }) => left
                    .why
                    .push(format!("storage node {address} is at it: {} replicas", behind.max(timelines + directories))),
                Err(status) => left.why.push(format!("storage node {address} does not say so: {}", cause(&status))),
            }
        }
        if left.why.is_empty() && !restart.is_empty() {
            left.needs_operator = true;
            left.why.push(format!(
                "the key of the password and the names of devices are in the directory files of the storage nodes {} until they are \
                 started again: do so, one after the other, and ask again",
                restart.join(", ")
            ));
        }
        if (left.why.is_empty() || left.needs_operator) && !left.aside.is_empty() {
            left.needs_operator = true;
            let aside = left.aside.join(", ");
            left.why.push(format!(
                "{aside} may have everything, and were put aside because they were damaged: delete them"
            ));
        }
        Ok(left)
    }

    /// The inner error is the router's.
    async fn ask(&self, routers: &Routers) -> anyhow::Result<Result<EraseUserReply, Status>> {
        let request = EraseUserRequest { user: self.name.as_str().to_owned(), time_ms: now_ms(), look: self.status };
        let asked = routers
            .ask(async |mut admin, deadline| admin.erase_user(with_deadline(request.clone(), deadline)).await)
            .await?;
        match asked {
            Err(status) if status.code() == Code::NotFound => {
                Err(UserDataError::Refused(status.message().to_owned()).into())
            }
            asked => Ok(asked.map(tonic::Response::into_inner)),
        }
    }
}

/// True if the same request may be answered a moment later.
fn is_for_now(status: &Status) -> bool {
    // tonic says the last one of a deadline that has passed here.
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}
