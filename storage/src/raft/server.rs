//! The gRPC service `Raft`: calls of other nodes to the groups of this one.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use carillon_proto::{
    ShardId,
    limits::BATCH_ITEMS,
    pb::raft::{
        self as pb, RaftFrame, RaftFrames, SnapshotHeader, SnapshotPiece, SnapshotProgress, SnapshotProgressRequest,
        SnapshotReply, append_reply, raft_frame::Body, raft_server, snapshot_piece::Piece,
    },
    peer::cause,
    tasks::Tasks,
};
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use openraft::raft::{AppendEntriesResponse, TransferLeaderRequest};
use tokio::{
    sync::mpsc,
    task::coop::{Unconstrained, unconstrained},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    convert::{
        Missing, append_from_pb, log_id_from_pb, log_id_to_pb, meta_from_pb, vote_from_pb, vote_reply_to_pb,
        vote_request_from_pb, vote_to_pb,
    },
    group::Group,
    link::{CLUSTER_KEY, next_message},
    network::SNAPSHOT_DEADLINE,
    types::{LogId, Snapshot},
};
use crate::{cluster::Hosted, node_load::NodeLoad, snapshot::Offer};

/// Frames of one stream that are being answered. At this number the stream is no longer read: the other side waits.
const IN_FLIGHT: usize = 4096;

/// What every release answers to a frame that it does not know.
pub(crate) const UNKNOWN_FRAME: &str = "this release does not know the frame";

/// Serves the groups once they are started.
#[derive(Clone, Default)]
pub(crate) struct RaftService {
    serving: Arc<OnceLock<Serving>>,
}

struct Serving {
    cluster: String,
    hosted: Arc<Hosted>,
    load: Arc<NodeLoad>,
    tasks: Tasks,
}

impl RaftService {
    /// Starts to answer. Later calls change nothing.
    pub(crate) fn serve(&self, cluster: String, hosted: Arc<Hosted>, load: Arc<NodeLoad>, tasks: Tasks) {
        // There is one set of groups, which changes while the process runs.
        let _ = self.serving.set(Serving { cluster, hosted, load, tasks });
    }

    fn check<T>(&self, request: &Request<T>) -> Result<&Serving, Status> {
        let serving = self.serving.get().ok_or_else(|| Status::unavailable("its shards are not started yet"))?;
        let cluster = request.metadata().get(CLUSTER_KEY).map(|value| value.as_bytes()).unwrap_or_default();
        if cluster == serving.cluster.as_bytes() {
            Ok(serving)
        } else {
            Err(Status::failed_precondition("this node is of another cluster"))
        }
    }
}

impl Serving {
    /// The group's replica with this id. An earlier replica of this node has another id, and its votes are lost.
    fn group(&self, group: u64, to: u64) -> Result<Arc<Group>, String> {
        let shard = ShardId::from_group(group).and_then(|shard| self.hosted.get(shard));
        let shard = shard.ok_or_else(|| format!("this node has no replica of group {group}"))?;
        match shard.group().replica() {
            here if here == to => Ok(Arc::clone(shard.group())),
            here => Err(format!("meant for replica {to} of group {group}, reached replica {here}")),
        }
    }
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    type StreamStream = ReceiverStream<Result<RaftFrames, Status>>;

    async fn stream(&self, request: Request<Streaming<RaftFrames>>) -> Result<Response<Self::StreamStream>, Status> {
        let tasks = self.check(&request)?.tasks.clone();
        // When it is full, answers wait, and so does the reading of the stream.
        let (out, answers) = mpsc::channel(16);
        let serving = Arc::clone(&self.serving);
        let incoming = request.into_inner();
        tasks.spawn("raft stream", async move {
            if let Some(serving) = serving.get() {
                answer_frames(serving, incoming, out).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotPiece>>,
    ) -> Result<Response<SnapshotReply>, Status> {
        let serving = self.check(&request)?;
        let work = install_snapshot(serving, request.into_inner());
        let vote = tokio::time::timeout(SNAPSHOT_DEADLINE, work)
            .await
            .map_err(|_| Status::deadline_exceeded("the snapshot took too long"))??;
        Ok(Response::new(SnapshotReply { vote: Some(vote) }))
    }

    async fn progress_of_snapshot(
        &self,
        request: Request<SnapshotProgressRequest>,
    ) -> Result<Response<SnapshotProgress>, Status> {
        let serving = self.check(&request)?;
        let header = request.into_inner().header.unwrap_or_default();
        let group = serving.group(header.group, header.to).map_err(Status::failed_precondition)?;
        let (snapshots, offer) = (Arc::clone(group.snapshots()), offer_of(&header));
        let bytes = blocking(move || snapshots.has(&offer)).await?;
        Ok(Response::new(SnapshotProgress { bytes }))
    }
}

fn offer_of(header: &SnapshotHeader) -> Offer {
    let last = header.meta.as_ref().and_then(|meta| meta.last_log_id);
    Offer { last, bytes: header.bytes, crc32: header.crc32 }
}

async fn answer_frames(
    serving: &Serving,
    mut incoming: Streaming<RaftFrames>,
    out: mpsc::Sender<Result<RaftFrames, Status>>,
) {
    let mut working = Working::default();
    let mut waiting: VecDeque<RaftFrame> = VecDeque::new();
    loop {
        // Every branch is cancel-safe.
        tokio::select! {
            biased;
            permit = out.reserve(), if !waiting.is_empty() => match permit {
                Ok(permit) => permit.send(Ok(RaftFrames { frames: next_message(&mut waiting) })),
                Err(_) => return,
            },
            Some(answer) = working.next(), if waiting.len() < BATCH_ITEMS => {
                waiting.push_back(answer);
                while waiting.len() < BATCH_ITEMS && let Some(Some(answer)) = working.next().now_or_never() {
                    waiting.push_back(answer);
                }
            }
            message = incoming.message(), if working.len() < IN_FLIGHT => match message {
                Ok(Some(RaftFrames { frames })) => {
                    for frame in frames {
                        working.push(answer_frame(serving, frame));
                    }
                }
                Ok(None) => return,
                Err(status) => {
                    tracing::debug!(cause = cause(&status), "a storage node's stream broke");
                    return;
                }
            },
        }
    }
}

/// Work of one stream. It is first polled in the order in which it came, so appends reach their group's core in the order of the
/// stream: one that is overtaken would be refused as a conflict with what the follower has acknowledged.
struct Working<F>(FuturesUnordered<Unconstrained<F>>);

impl<F: Future> Default for Working<F> {
    fn default() -> Self {
        Self(FuturesUnordered::new())
    }
}

impl<F: Future> Working<F> {
    fn push(&self, work: F) {
        // Whoever used up the task's budget would be polled again in the reverse order.
        self.0.push(unconstrained(work));
    }

    async fn next(&mut self) -> Option<F::Output> {
        self.0.next().await
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

async fn answer_frame(serving: &Serving, frame: RaftFrame) -> RaftFrame {
    let RaftFrame { id, group, from, to, body } = frame;
    let body = match (serving.group(group, to), body) {
        (Ok(_), Some(Body::LoadRequest(_))) => Body::LoadReply(serving.load.reply()),
        (Ok(group), Some(body)) => answer(&group, body).await.unwrap_or_else(Body::Error),
        (Err(why), _) => Body::Error(why),
        (_, None) => Body::Error(UNKNOWN_FRAME.to_owned()),
    };
    RaftFrame { id, group, from: to, to: from, body: Some(body) }
}

async fn answer(group: &Group, body: Body) -> Result<Body, String> {
    let raft = group.raft();
    let missing = |missing: Missing| missing.to_string();
    Ok(match body {
        Body::Append(request) => {
            let request = append_from_pb(request).map_err(missing)?;
            let response = raft.append_entries(request).await.map_err(|error| error.to_string())?;
            if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
                group.heard();
            }
            Body::AppendReply(append_reply(response)?)
        }
        Body::Vote(request) => {
            let request = vote_request_from_pb(request).map_err(missing)?;
            let response = raft.vote(request).await.map_err(|error| error.to_string())?;
            Body::VoteReply(vote_reply_to_pb(&response))
        }
        Body::PreVote(request) => {
            let request = vote_request_from_pb(request).map_err(missing)?;
            let response = raft.pre_vote(request).await.map_err(|error| error.to_string())?;
            Body::VoteReply(vote_reply_to_pb(&response))
        }
        Body::TransferLeader(request) => {
            let from = request.from_leader.ok_or("leadership transfer without a vote")?;
            let last: Option<LogId> = request.last_log_id.map(log_id_from_pb);
            let request = TransferLeaderRequest::new(vote_from_pb(from), request.to, last);
            let response = raft.handle_transfer_leader(request).await.map_err(|error| error.to_string())?;
            response.map_err(|error| error.to_string())?;
            Body::Ok(pb::Ok {})
        }
        Body::LoadRequest(_) => return Err("it is for the node, not for a group".to_owned()),
        Body::AppendReply(_) | Body::VoteReply(_) | Body::Ok(_) | Body::Error(_) | Body::LoadReply(_) => {
            return Err("an answer was sent as a call".to_owned());
        }
    })
}

fn append_reply(response: AppendEntriesResponse<super::types::Types>) -> Result<pb::AppendReply, String> {
    let result = match response {
        AppendEntriesResponse::Success => append_reply::Result::Success(pb::Ok {}),
        AppendEntriesResponse::PartialSuccess(upto) => {
            append_reply::Result::PartialSuccess(log_id_to_pb(upto.ok_or("nothing of the append was taken")?))
        }
        AppendEntriesResponse::Conflict => append_reply::Result::Conflict(pb::Ok {}),
        AppendEntriesResponse::HigherVote(vote) => append_reply::Result::HigherVote(vote_to_pb(vote)),
    };
    Ok(pb::AppendReply { result: Some(result) })
}

async fn install_snapshot(serving: &Serving, mut pieces: Streaming<SnapshotPiece>) -> Result<pb::Vote, Status> {
    let header = match pieces.message().await? {
        Some(SnapshotPiece { piece: Some(Piece::Header(header)) }) => header,
        _ => return Err(Status::invalid_argument("a snapshot begins with its header")),
    };
    let group = serving.group(header.group, header.to).map_err(Status::failed_precondition)?;
    let missing = |missing: Missing| Status::invalid_argument(missing.to_string());
    let offer = offer_of(&header);
    let vote = vote_from_pb(header.vote.ok_or(Missing("the vote of a snapshot")).map_err(missing)?);
    let meta = header.meta.ok_or(Missing("the meta of a snapshot")).map_err(missing)?;
    tracing::info!(group = header.group, from = header.from, offset = header.offset, "receiving a snapshot");

    let (snapshots, offset) = (Arc::clone(group.snapshots()), header.offset);
    let mut receiving = match offer {
        Offer { bytes: 0, .. } => blocking(move || snapshots.receive()).await?,
        offer => blocking(move || snapshots.receive_rest(&offer, offset)).await?,
    };
    loop {
        // Every branch is cancel-safe. What is here stays, and the rest comes when the node is back.
        let next = tokio::select! {
            next = pieces.message() => next?,
            () = serving.tasks.stopping() => return Err(Status::unavailable("this node stops")),
        };
        let Some(SnapshotPiece { piece }) = next else { break };
        let Some(Piece::Data(data)) = piece else {
            return Err(Status::invalid_argument("a snapshot goes on with data"));
        };
        receiving = blocking(move || receiving.write(&data).map(|()| receiving)).await?;
    }
    let number = header.group;
    let (found, file) = blocking(move || receiving.finish(number)).await?;
    if found != meta {
        return Err(Status::invalid_argument("the snapshot is not the one that its header names"));
    }
    let path = file.path().to_owned();
    let snapshot = Snapshot { meta: meta_from_pb(meta).map_err(missing)?, snapshot: file };
    let response = group.raft().install_full_snapshot(vote, snapshot).await;
    let snapshots = Arc::clone(group.snapshots());
    blocking(move || {
        snapshots.discard(&path);
        Ok(())
    })
    .await?;
    Ok(vote_to_pb(response.map_err(|error| Status::internal(error.to_string()))?.vote))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, Status> {
    let result = tokio::task::spawn_blocking(work).await;
    result.map_err(|error| Status::internal(error.to_string()))?.map_err(|error| Status::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than the budget of a task at once.
    #[tokio::test]
    async fn work_begins_in_the_order_in_which_it_came() {
        let (tasks, (sender, mut begun)) = (Tasks::new(), mpsc::channel(4096));
        tasks.spawn("working", async move {
            let mut working = Working::default();
            for number in 0..1000 {
                let sender = sender.clone();
                working.push(async move { sender.send(number).await });
            }
            while working.len() > 0 {
                working.next().await.expect("works").expect("is received");
            }
        });
        for number in 0..1000 {
            assert_eq!(begun.recv().await, Some(number));
        }
    }
}
