//! What is kept of a user. See docs/adr/0023-user-data.md.
//!
//! ```text
//! erase.rs    how a user is erased
//! export.rs   all of it, as lines of JSON
//! files.rs    the user's files
//! lines.rs    the shape of these lines
//! list.rs     the user's files as a table
//! ```

mod erase;
mod export;
mod files;
mod lines;
mod list;

use std::time::{Duration, Instant};

use anyhow::bail;
use carillon_proto::{pb::userdata::NotLeader, peer::cause};
use tokio::time::sleep;
use tonic::{Code, Status};

pub(super) use self::{erase::Erase, export::Export, list::FileList};
use super::storage_nodes::{StorageNodes, UserDataCaller};

/// Why a command did not do what it was asked for. Each has an exit code of its own, for programs.
#[derive(Debug, thiserror::Error)]
pub(super) enum UserDataError {
    /// Another attempt will not help.
    #[error("{0}")]
    Refused(String),
    /// It has begun, and goes on by itself.
    #[error("{0}")]
    UnderWay(String),
}

impl UserDataError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => 4,
            Self::UnderWay(_) => 5,
        }
    }
}

/// Deadline of a call. Longer than a node waits for a majority.
const CALL: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(500);

/// The answer of a node that may not lead.
enum Answer<T> {
    NotLeader(NotLeader),
    Found(T),
}

/// Who answered last: pages of one shard come from one node, mostly.
#[derive(Default)]
struct Leader(Option<String>);

impl Leader {
    /// Asks nodes until the leader answers.
    async fn ask<T>(
        &mut self,
        nodes: &mut StorageNodes,
        deadline: Instant,
        call: impl AsyncFn(UserDataCaller) -> Result<Answer<T>, Status>,
    ) -> anyhow::Result<T> {
        let mut attempt = 0;
        loop {
            let node = match self.0.take() {
                Some(node) => node,
                None => nodes.nodes[attempt % nodes.nodes.len()].clone(),
            };
            attempt += 1;
            let why = match call(nodes.user_data(&node)?).await {
                Ok(Answer::Found(found)) => {
                    self.0 = Some(node);
                    return Ok(found);
                }
                Ok(Answer::NotLeader(NotLeader { leader })) => {
                    // Told by the node itself, or it does not know better.
                    self.0 = Some(leader).filter(|leader| !leader.is_empty() && *leader != node);
                    format!("storage node {node} does not lead the user's shard")
                }
                Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::InvalidArgument) => {
                    return Err(UserDataError::Refused(status.message().to_owned()).into());
                }
                Err(status) if status.code() == Code::Unimplemented => {
                    format!("storage node {node} runs a release that does not know this command")
                }
                Err(status) => format!("storage node {node}: {}", cause(&status)),
            };
            if Instant::now() + PAUSE >= deadline {
                bail!("not answered in time: {why}");
            }
            if self.0.is_none() {
                sleep(PAUSE).await;
            }
        }
    }
}
