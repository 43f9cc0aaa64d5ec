//! openraft's network on top of the links between nodes.

use std::{future::Future, io, sync::Arc, time::Duration};

use carillon_proto::{
    ShardId,
    pb::raft::{self as pb, append_reply, raft_frame::Body, snapshot_piece::Piece},
    peer::cause,
};
use futures_util::{
    Stream, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use openraft::{
    OptionalSend,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
        TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::{
    NodeShare, Throttle,
    convert::{
        Missing, append_to_pb, log_id_from_pb, log_id_to_pb, meta_to_pb, vote_from_pb, vote_reply_from_pb,
        vote_request_to_pb, vote_to_pb,
    },
    link::{LinkError, RaftLink, RaftLinks, Reply, Route},
    types::{Host, LogId, Snapshot, Types, Vote},
};
use crate::{metrics as names, snapshot::SnapshotFile};

/// Appends in flight to one follower of one group. More wait until the first one is answered.
const PIPELINE: usize = 16;
/// A follower whose disk is slower than this counts as unreachable.
const APPEND_DEADLINE: Duration = Duration::from_secs(3);
/// Size of the pieces in which a snapshot is sent.
const PIECE_BYTES: usize = 1 << 20;
/// Deadline of a whole snapshot. A broken connection is noticed long before.
pub(super) const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(60 * 60);

/// Makes the clients of one replica.
pub(crate) struct Network {
    links: RaftLinks,
    group: u64,
    /// The id of the local replica.
    own: u64,
    node: NodeShare,
}

/// Client of one replica for one other replica.
#[derive(Clone)]
pub(crate) struct Peer {
    links: RaftLinks,
    link: RaftLink,
    route: Route,
    node: NodeShare,
}

type Rpc<T> = Result<T, RPCError<Types>>;

impl Network {
    pub(crate) fn new(links: RaftLinks, group: u64, own: u64, node: NodeShare) -> Self {
        Self { links, group, own, node }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, host: &Host) -> Peer {
        let route = Route { group: self.group, from: self.own, to: target };
        let to = host.of(target);
        self.links.book().suppose(to, &host.address);
        Peer { links: self.links.clone(), link: self.links.to(to), route, node: self.node.clone() }
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<Types>> {
        let body = Body::Append(append_to_pb(request));
        let reply = self.link.call(self.route, body, APPEND_DEADLINE).await;
        append_reply(reply.map_err(|error| self.error(RPCTypes::AppendEntries, error))?)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<Types>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let this = Arc::new(self.clone());
        let sender = Arc::clone(&this);
        // Routers and gateways learn of each other from whichever node they watch, so nothing of the registry waits.
        let input = if this.route.group == ShardId::REGISTRY.group() {
            input.boxed()
        } else {
            without_bare_commits(input).boxed()
        };
        // Sent in order, answered in any order, reported in order.
        let sent = input.then(move |request| send_append(Arc::clone(&sender), request));
        let answered = sent.map(move |sent| await_append(Arc::clone(&this), sent));
        let in_order = Box::pin(answered.buffered(PIPELINE));
        let until_it_stops = stream::unfold((in_order, true), |(mut answers, go_on)| async move {
            if !go_on {
                return None;
            }
            let (result, go_on) = answers.next().await?;
            Some((result, (answers, go_on)))
        });
        Box::pin(async move { Ok(until_it_stops.boxed()) })
    }

    async fn vote(&mut self, request: VoteRequest<Types>, option: RPCOption) -> Rpc<VoteResponse<Types>> {
        self.ask_vote(Body::Vote(vote_request_to_pb(&request)), option).await
    }

    async fn pre_vote(&mut self, request: VoteRequest<Types>, option: RPCOption) -> Rpc<VoteResponse<Types>> {
        self.ask_vote(Body::PreVote(vote_request_to_pb(&request)), option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sending = timeout(SNAPSHOT_DEADLINE, self.send_snapshot(vote, snapshot));
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = sending => match sent {
                Ok(Ok(vote)) => Ok(SnapshotResponse::new(vote)),
                Ok(Err(why)) => Err(Unreachable::from_string(why).into()),
                Err(_) => Err(Timeout {
                    action: RPCTypes::InstallSnapshot,
                    id: self.route.from,
                    target: self.route.to,
                    timeout: SNAPSHOT_DEADLINE,
                }.into()),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<Types>> {
        let body = Body::TransferLeader(pb::TransferLeader {
            from_leader: Some(vote_to_pb(*request.from_leader())),
            to: *request.to_node_id(),
            last_log_id: request.last_log_id().copied().map(log_id_to_pb),
        });
        match self.link.call(self.route, body, option.soft_ttl()).await {
            Ok(_) => Ok(Ok(())),
            Err(LinkError::Refused { why, .. }) => {
                tracing::debug!(node = self.link.node(), %why, "leadership was not taken over");
                let expected = request.last_log_id().copied();
                Ok(Err(TransferLeaderError::LogNotFlushed { expected, actual: None }))
            }
            Err(error) => Err(self.error(RPCTypes::TransferLeader, error)),
        }
    }
}

impl Peer {
    async fn ask_vote(&self, body: Body, option: RPCOption) -> Rpc<VoteResponse<Types>> {
        // Uses all of the time that openraft allows: on a slow disk a vote needs it.
        match self.link.call(self.route, body, option.hard_ttl()).await {
            Ok(Body::VoteReply(reply)) => vote_reply_from_pb(reply).map_err(unusable),
            Ok(_) => Err(unusable(Missing("a vote reply"))),
            Err(error) => Err(self.error(RPCTypes::Vote, error)),
        }
    }

    async fn send_snapshot(&self, vote: Vote, snapshot: Snapshot) -> Result<Vote, String> {
        let mut client = self.links.client(&self.link.address()?)?;
        let file = snapshot.snapshot;
        let (read, alarm, group) = (file.clone(), self.node.alarm.clone(), self.route.group);
        // The receiver would refuse a damaged one, and be sent it again and again.
        let verified =
            tokio::task::spawn_blocking(move || alarm.hear(format_args!("snapshot of group {group}"), read.verify()));
        let verified = verified.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let header = pb::SnapshotHeader {
            group,
            vote: Some(vote_to_pb(vote)),
            meta: Some(meta_to_pb(&snapshot.meta)),
            from: self.route.from,
            to: self.route.to,
            bytes: file.len(),
            crc32: verified.crc32,
            offset: 0,
        };
        let asked = pb::SnapshotProgressRequest { header: Some(header.clone()) };
        let offset = match client.progress_of_snapshot(self.links.request(asked)).await {
            Ok(progress) => progress.into_inner().bytes.min(file.len()),
            // A node of before.
            Err(status) if status.code() == Code::Unimplemented => 0,
            Err(status) => return Err(cause(&status)),
        };
        let header = pb::SnapshotHeader { offset, ..header };
        // When it is full, reading the file waits.
        let (pieces, outgoing) = mpsc::channel(2);
        let throttle = Arc::clone(&self.node.sending);
        let reading = tokio::task::spawn_blocking(move || read_pieces(&file, header, &throttle, &pieces));
        let reply = client.install_snapshot(self.links.request(ReceiverStream::new(outgoing))).await;
        let reply = reply.map_err(|status| cause(&status))?;
        reading.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        metrics::counter!(names::SNAPSHOTS, "what" => "sent").increment(1);
        reply.into_inner().vote.map(vote_from_pb).ok_or_else(|| Missing("the vote of a snapshot reply").to_string())
    }

    fn timed_out(&self) -> LinkError {
        LinkError::TimedOut { node: self.link.node(), deadline: APPEND_DEADLINE }
    }

    fn error(&self, action: RPCTypes, error: LinkError) -> RPCError<Types> {
        match error {
            LinkError::Unreachable { .. } => Unreachable::new(&error).into(),
            LinkError::TimedOut { deadline, .. } => {
                Timeout { action, id: self.route.from, target: self.route.to, timeout: deadline }.into()
            }
            // The node answers, but can't serve this group now: an immediate retry would not help.
            LinkError::Refused { .. } => Unreachable::new(&error).into(),
        }
    }
}

fn read_pieces(
    file: &SnapshotFile,
    header: pb::SnapshotHeader,
    throttle: &Throttle,
    pieces: &mpsc::Sender<pb::SnapshotPiece>,
) -> io::Result<()> {
    let mut offset = header.offset;
    let mut next = Some(Piece::Header(header));
    while let Some(piece) = next.take() {
        let bytes = if let Piece::Data(data) = &piece { data.len() } else { 0 };
        if pieces.blocking_send(pb::SnapshotPiece { piece: Some(piece) }).is_err() {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the receiver of the snapshot has gone"));
        }
        names::snapshot_sent(bytes as u64);
        if offset < file.len() {
            let data = file.piece(offset, PIECE_BYTES)?;
            throttle.wait(data.len());
            offset += data.len() as u64;
            next = Some(Piece::Data(data.into()));
        }
    }
    Ok(())
}

/// The same stream without the requests that only tell how far the log is committed.
///
/// Whatever comes next tells it, too: entries, or the heartbeat that a group with news has at the next beat. So a follower has half as
/// many requests when writes come one by one, and applies more entries at once. The first request asks whether the logs match.
fn without_bare_commits(
    requests: impl Stream<Item = AppendEntriesRequest<Types>> + Unpin,
) -> impl Stream<Item = AppendEntriesRequest<Types>> {
    stream::unfold((requests, None), async |(mut requests, sent)| {
        let mut bare = None;
        while let Some(request) = requests.next().await {
            if sent == Some(request.prev_log_id) && request.entries.is_empty() {
                bare = Some(request);
                continue;
            }
            let last = last_of(&request);
            return Some((request, (requests, Some(last))));
        }
        // A stream that ends with an unanswered request counts as one that got nowhere.
        bare.map(|request| (request, (requests, sent)))
    })
}

/// The id of the last entry that the follower has when it has taken the request.
fn last_of(request: &AppendEntriesRequest<Types>) -> Option<LogId> {
    request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id)
}

/// An append in flight, with the log ids before its first entry and of its last entry.
struct Sent {
    previous: Option<LogId>,
    last: Option<LogId>,
    reply: Result<Reply, LinkError>,
}

async fn send_append(peer: Arc<Peer>, request: AppendEntriesRequest<Types>) -> Sent {
    let previous = request.prev_log_id;
    let last = last_of(&request);
    let sending = peer.link.send(peer.route, Body::Append(append_to_pb(request)));
    let reply = timeout(APPEND_DEADLINE, sending).await.unwrap_or_else(|_| Err(peer.timed_out()));
    Sent { previous, last, reply }
}

/// The result for openraft, and whether appends sent behind it can succeed.
async fn await_append(peer: Arc<Peer>, sent: Sent) -> (Rpc<StreamAppendResult<Types>>, bool) {
    let answer = match sent.reply {
        Ok(reply) => timeout(APPEND_DEADLINE, peer.link.answer(reply)).await.unwrap_or_else(|_| Err(peer.timed_out())),
        Err(error) => Err(error),
    };
    match answer.map_err(|error| peer.error(RPCTypes::AppendEntries, error)).and_then(append_reply) {
        Ok(response) => stream_result(response, sent.previous, sent.last),
        Err(error) => (Err(error), false),
    }
}

fn append_reply(body: Body) -> Rpc<AppendEntriesResponse<Types>> {
    let Body::AppendReply(reply) = body else {
        return Err(unusable(Missing("an append reply")));
    };
    Ok(match reply.result.ok_or_else(|| unusable(Missing("the result of an append")))? {
        append_reply::Result::Success(pb::Ok {}) => AppendEntriesResponse::Success,
        append_reply::Result::PartialSuccess(id) => AppendEntriesResponse::PartialSuccess(Some(log_id_from_pb(id))),
        append_reply::Result::Conflict(pb::Ok {}) => AppendEntriesResponse::Conflict,
        append_reply::Result::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote_from_pb(vote)),
    })
}

fn stream_result(
    response: AppendEntriesResponse<Types>,
    previous: Option<LogId>,
    last: Option<LogId>,
) -> (Rpc<StreamAppendResult<Types>>, bool) {
    match response {
        AppendEntriesResponse::Success => (Ok(Ok(last)), true),
        AppendEntriesResponse::PartialSuccess(upto) => (Ok(Ok(upto)), upto == last),
        AppendEntriesResponse::Conflict => match previous {
            Some(previous) => (Ok(Err(StreamAppendError::Conflict(previous))), false),
            None => (Err(unusable(Missing("a previous entry that could conflict"))), false),
        },
        AppendEntriesResponse::HigherVote(vote) => (Ok(Err(StreamAppendError::HigherVote(vote))), false),
    }
}

fn unusable(missing: Missing) -> RPCError<Types> {
    NetworkError::new(&missing).into()
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::{
        super::types::{Entry, LeaderId},
        *,
    };

    fn log_id(index: u64) -> LogId {
        LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index }
    }

    fn request(previous: Option<u64>, entries: &[u64], committed: u64) -> AppendEntriesRequest<Types> {
        let entry = |index: &u64| Entry { log_id: log_id(*index), payload: EntryPayload::Blank };
        AppendEntriesRequest {
            vote: Vote { leader_id: LeaderId { term: 1, node_id: 1 }, committed: true },
            prev_log_id: previous.map(log_id),
            entries: entries.iter().map(entry).collect(),
            leader_commit: Some(log_id(committed)),
        }
    }

    /// Previous entry, number of entries, and what is committed, of each request that is sent.
    async fn sent(requests: Vec<AppendEntriesRequest<Types>>) -> Vec<(Option<u64>, usize, Option<u64>)> {
        let index = |id: Option<LogId>| id.map(|id| id.index);
        without_bare_commits(Box::pin(stream::iter(requests)))
            .map(|request| (index(request.prev_log_id), request.entries.len(), index(request.leader_commit)))
            .collect()
            .await
    }

    #[tokio::test]
    async fn what_is_committed_is_told_with_the_next_entries() {
        let requests = vec![
            request(Some(4), &[5, 6], 4),
            request(Some(6), &[], 5),
            request(Some(6), &[], 6),
            request(Some(6), &[7], 6),
            request(Some(7), &[8], 7),
        ];
        assert_eq!(sent(requests).await, [(Some(4), 2, Some(4)), (Some(6), 1, Some(6)), (Some(7), 1, Some(7))]);
    }

    #[tokio::test]
    async fn heartbeats_and_what_asks_for_the_end_of_a_log_are_sent() {
        assert_eq!(sent(vec![request(Some(4), &[], 4)]).await, [(Some(4), 0, Some(4))]);
        assert_eq!(sent(vec![request(None, &[], 4)]).await, [(None, 0, Some(4))]);
        let back = vec![request(Some(9), &[], 4), request(Some(6), &[], 4), request(Some(6), &[7], 4)];
        assert_eq!(sent(back).await, [(Some(9), 0, Some(4)), (Some(6), 0, Some(4)), (Some(6), 1, Some(4))]);
    }

    #[tokio::test]
    async fn the_last_request_of_a_stream_is_sent() {
        let requests = vec![request(Some(4), &[5], 4), request(Some(5), &[], 5), request(Some(5), &[], 5)];
        assert_eq!(sent(requests).await, [(Some(4), 1, Some(4)), (Some(5), 0, Some(5))]);
    }
}
