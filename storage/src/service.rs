//! Requests of routers: through the gRPC service `Store`, in batches in both directions, or as calls from a router in this process.

mod find;

use std::sync::Arc;

use carillon_proto::{
    Batches, MediaId, ShardId, ShardKind, TimelineId, UserId, limits,
    pb::store::{
        FindMessageReply, FindMessageRequest, FromStore, NotHere, NotLeader, Rejected, StoreReply, StoreRequest,
        TimelineKey, ToStore, rejected::Reason, store_error::Why, store_request::Op, store_server, timeline_command,
    },
    peer::cause,
    stream::{Calls, Incoming, Tell},
    tasks::Tasks,
    trace,
};
use futures_util::{StreamExt as _, stream::Map};
use parking_lot::Mutex;
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};
use tracing::Span;

use crate::{
    cluster::{Cluster, Serving, started},
    machine::{admit_directory, admit_timeline, is_the_leaders, is_the_nodes},
    metrics as names,
    shard::{Lanes, NearCaller, ReadOp, Replies, Reply, Responder, Shard},
};

pub(crate) type ReplyStream = Map<Batches<Reply>, fn(Vec<Reply>) -> Result<FromStore, Status>>;

/// Unanswered requests of one stream. At this number the stream is no longer read: the router waits.
const IN_FLIGHT: usize = 8192;
/// Unanswered calls of a router in this process: as many as can be in flight on a stream of gRPC and wait for it. At this number no
/// call is taken.
const CALLS: usize = 3 * IN_FLIGHT;

#[derive(Clone)]
pub(crate) struct StoreService {
    serving: Arc<Serving>,
    tasks: Tasks,
}

impl StoreService {
    pub(crate) fn new(serving: Arc<Serving>, tasks: Tasks) -> Self {
        Self { serving, tasks }
    }
}

#[tonic::async_trait]
impl store_server::Store for StoreService {
    type StreamStream = ReplyStream;

    async fn stream(&self, request: Request<Streaming<ToStore>>) -> Result<Response<Self::StreamStream>, Status> {
        self.open(request.into_inner().into()).map(Response::new)
    }

    async fn find_message(&self, request: Request<FindMessageRequest>) -> Result<Response<FindMessageReply>, Status> {
        find::message(started(&self.serving)?, request.into_inner()).await.map(Response::new)
    }
}

impl StoreService {
    /// Answers the requests of a router in another process.
    fn open(&self, incoming: Incoming<ToStore>) -> Result<ReplyStream, Status> {
        started(&self.serving)?;
        let (replies, queue) = Replies::new(IN_FLIGHT);
        let serving = Arc::clone(&self.serving);
        self.tasks.spawn("store requests", async move {
            metrics::gauge!(names::STREAMS).increment(1);
            if let Some(cluster) = serving.get() {
                take_requests(cluster, incoming, &replies).await;
            }
            metrics::gauge!(names::STREAMS).decrement(1);
        });
        // While the stream is not read, replies wait and stay in flight.
        let batches = Batches::new(queue, |reply| reply.reply.encoded_len());
        Ok(batches.map(message as fn(_) -> _))
    }

    /// Answers the requests of a router in this process.
    pub(crate) fn open_calls(&self, tell: Tell<StoreReply>) -> Result<Calls<StoreRequest>, Status> {
        started(&self.serving)?;
        let desk = Arc::new(Desk {
            serving: Arc::clone(&self.serving),
            lanes: Mutex::default(),
            caller: NearCaller::new(CALLS, tell),
        });
        // Only the task owns the desk: when the tasks of this node have ended, the router holds nothing of the node.
        let weak = Arc::downgrade(&desk);
        let (calls, mut end) = Calls::new(move |request| weak.upgrade().is_some_and(|desk| desk.take(request)));
        self.tasks.spawn("store calls", async move {
            let _desk = desk;
            metrics::gauge!(names::STREAMS).increment(1);
            end.left().await;
            metrics::gauge!(names::STREAMS).decrement(1);
        });
        Ok(calls)
    }
}

/// Takes the requests of a router in this process.
struct Desk {
    serving: Arc<Serving>,
    lanes: Mutex<Lanes>,
    caller: Arc<NearCaller>,
}

impl Desk {
    fn take(&self, request: StoreRequest) -> bool {
        let Some(cluster) = self.serving.get() else { return false };
        let Some(answer) = self.caller.answer(request.id, span_of(&request)) else { return false };
        take_request(cluster, &mut self.lanes.lock(), request, answer);
        true
    }
}

async fn take_requests(cluster: &Cluster, mut incoming: Incoming<ToStore>, replies: &Replies) {
    let mut lanes = Lanes::default();
    loop {
        match incoming.message().await {
            Ok(Some(ToStore { requests })) => {
                for request in requests {
                    let Some(answer) = replies.answer(request.id, span_of(&request)).await else { return };
                    take_request(cluster, &mut lanes, request, answer);
                }
            }
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(cause = cause(&status), "a router's stream broke");
                return;
            }
        }
    }
}

fn take_request(cluster: &Cluster, lanes: &mut Lanes, request: StoreRequest, answer: Responder) {
    let StoreRequest { shard, lane, follows, op, .. } = request;
    let Some(id) = shard.as_ref().and_then(ShardId::from_pb).filter(|shard| cluster.map.has(*shard)) else {
        return answer.refuse(rejected(Reason::WrongShard, "the cluster has no such shard"));
    };
    let hosted = cluster.hosted.now();
    let Some(shard) = hosted.get(&id) else {
        // Should the shard be opened here meanwhile, what comes next in its lane must not overtake this.
        lanes.lane(id, lane).close();
        return answer.refuse(Why::NotHere(NotHere { view_version: cluster.view_version() }));
    };
    // Of a cluster that has just been made: what is written now would lack what belongs to its level.
    if cluster.is_below_its_beginning(shard.reader().level()) {
        lanes.lane(id, lane).close();
        let leader = if shard.group().leads() { None } else { shard.group().leader() };
        return answer.refuse(Why::NotLeader(NotLeader { leader: leader.unwrap_or_default() }));
    }
    // What is not led here is passed on to who leads, whose disk counts.
    if is_append(op.as_ref())
        && shard.group().leads()
        && let Some(full) = cluster.space.refusal(follows)
    {
        return answer.refuse(full);
    }
    match check(cluster, shard, op) {
        Ok(Checked::Write(command)) => shard.submit(command, Some(lanes.lane(shard.id(), lane)), answer),
        Ok(Checked::Read(op)) => shard.read(op, answer),
        // This node may have applied less than the leader, whose level counts.
        Err(rejected) if rejected.reason() == Reason::Level && !shard.group().leads() => {
            lanes.lane(shard.id(), lane).close();
            answer.refuse(Why::NotLeader(NotLeader { leader: shard.group().leader().unwrap_or_default() }));
        }
        // Not tried again in this lane: what follows may pass.
        Err(rejected) => answer.refuse(Why::Rejected(rejected)),
    }
}

fn is_append(op: Option<&Op>) -> bool {
    let command = match op {
        Some(Op::Timeline(command)) => command.op.as_ref(),
        _ => None,
    };
    matches!(command, Some(timeline_command::Op::Append(_)))
}

enum Checked {
    Write(bytes::Bytes),
    Read(ReadOp),
}

/// Nothing malformed, and nothing that belongs elsewhere, reaches a shard.
fn check(cluster: &Cluster, shard: &Shard, op: Option<Op>) -> Result<Checked, Rejected> {
    let (level, shard) = (shard.reader().level(), shard.id());
    let wrong = |reason: Reason, detail: &str| Rejected {
        reason: reason.into(),
        detail: detail.to_owned(),
        ..Rejected::default()
    };
    let timeline = |key: &Option<TimelineKey>| {
        let key = key.as_ref().map(TimelineId::from_key).transpose();
        let key = key.map_err(|error| wrong(Reason::Invalid, &error.to_string()))?.flatten();
        let key = key.ok_or_else(|| wrong(Reason::Invalid, "the timeline is not named"))?;
        if cluster.map.timeline_of(&key) == shard {
            Ok(())
        } else {
            Err(wrong(Reason::WrongShard, "the timeline is in another shard"))
        }
    };
    let user = |user: &str| {
        let user = UserId::new(user).map_err(|error| wrong(Reason::Invalid, &error.to_string()))?;
        if cluster.map.directory_of(&user) == shard {
            Ok(())
        } else {
            Err(wrong(Reason::WrongShard, "the user is in another shard"))
        }
    };
    match (shard.kind, op) {
        (ShardKind::Timeline, Some(Op::Timeline(command))) if is_the_leaders(&command) => {
            Err(wrong(Reason::Invalid, "only the shard's leader says what is removed"))
        }
        (ShardKind::Directory, Some(Op::Directory(command))) if is_the_nodes(&command) => {
            Err(wrong(Reason::Invalid, "only storage nodes change the cluster, and say what is removed"))
        }
        (ShardKind::Timeline, Some(Op::Timeline(command))) => {
            admit_timeline(shard, cluster.map, level, command).map(Checked::Write)
        }
        (ShardKind::Directory, Some(Op::Directory(command))) => {
            admit_directory(shard, cluster.map, level, command).map(Checked::Write)
        }
        (ShardKind::Timeline, Some(Op::ReadTimeline(read))) => {
            timeline(&read.timeline)?;
            Ok(Checked::Read(ReadOp::Timeline(read)))
        }
        (ShardKind::Timeline, Some(Op::ReadHead(read))) => {
            timeline(&read.timeline)?;
            Ok(Checked::Read(ReadOp::Head(read)))
        }
        (ShardKind::Timeline, Some(Op::ReadHeads(read))) => {
            if read.reads.len() > limits::HEADS {
                return Err(wrong(Reason::Invalid, "too many heads are asked for at once"));
            }
            read.reads.iter().try_for_each(|read| timeline(&read.timeline))?;
            Ok(Checked::Read(ReadOp::Heads(read)))
        }
        (ShardKind::Timeline, Some(Op::ReadGroup(read))) => {
            timeline(&read.timeline)?;
            Ok(Checked::Read(ReadOp::Group(read)))
        }
        (ShardKind::Timeline, Some(Op::ReadMembers(read))) => {
            timeline(&read.timeline)?;
            if read.only.len() > limits::HEADS {
                return Err(wrong(Reason::Invalid, "too many members are asked for at once"));
            }
            Ok(Checked::Read(ReadOp::Members(read)))
        }
        (ShardKind::Timeline, Some(Op::ReadMemberships(read))) => {
            timeline(&read.timeline)?;
            Ok(Checked::Read(ReadOp::Memberships(read)))
        }
        (ShardKind::Timeline, Some(Op::ReadConversations(read))) => {
            timeline(&read.timeline)?;
            Ok(Checked::Read(ReadOp::Conversations(read)))
        }
        (ShardKind::Timeline, Some(Op::ReadMarks(read))) => {
            if read.reads.len() > limits::MARKS {
                return Err(wrong(Reason::Invalid, "too many marks are asked for at once"));
            }
            read.reads.iter().try_for_each(|read| timeline(&read.timeline))?;
            Ok(Checked::Read(ReadOp::Marks(read)))
        }
        (ShardKind::Timeline, Some(Op::ReadMedia(read))) => {
            let id = MediaId::from_bytes(&read.id).and_then(|id| id.shard(cluster.map));
            let id = id.ok_or_else(|| wrong(Reason::Invalid, "the file is not named"))?;
            if id != shard {
                return Err(wrong(Reason::WrongShard, "the file is in another shard"));
            }
            Ok(Checked::Read(ReadOp::Media(read)))
        }
        (ShardKind::Timeline, Some(Op::ReadHeldMedia(read))) => {
            if read.ids.len() > limits::MEDIA_AT_ONCE || read.ids.iter().any(|id| MediaId::from_bytes(id).is_none()) {
                return Err(wrong(Reason::Invalid, "too many files are asked for at once, or one is not named"));
            }
            Ok(Checked::Read(ReadOp::HeldMedia(read)))
        }
        (ShardKind::Timeline, Some(Op::ReadScheduled(read))) => {
            timeline(&read.timeline)?;
            Ok(Checked::Read(ReadOp::Scheduled(read)))
        }
        (ShardKind::Timeline, Some(Op::ReadReports(read))) => Ok(Checked::Read(ReadOp::Reports(read))),
        (ShardKind::Timeline, Some(Op::ReadReport(read))) => Ok(Checked::Read(ReadOp::Report(read))),
        (ShardKind::Timeline, Some(Op::ListGroups(list))) => Ok(Checked::Read(ReadOp::Groups(list))),
        (ShardKind::Timeline, Some(Op::ReadOutbox(read))) => Ok(Checked::Read(ReadOp::Outbox(read))),
        (ShardKind::Directory, Some(Op::CountAccounts(count))) => Ok(Checked::Read(ReadOp::CountAccounts(count))),
        (ShardKind::Directory, Some(Op::ReadUser(read))) => {
            user(&read.user)?;
            Ok(Checked::Read(ReadOp::User(read)))
        }
        (ShardKind::Directory, Some(Op::ReadContacts(read))) => {
            user(&read.user)?;
            Ok(Checked::Read(ReadOp::Contacts(read)))
        }
        (ShardKind::Directory, Some(Op::ReadPrivacy(read))) => {
            user(&read.user)?;
            Ok(Checked::Read(ReadOp::Privacy(read)))
        }
        (ShardKind::Directory, Some(Op::ReadAllowed(read))) => {
            if read.users.len() > limits::MARKS {
                return Err(wrong(Reason::Invalid, "too many users are asked for at once"));
            }
            read.users.iter().try_for_each(|name| user(name))?;
            Ok(Checked::Read(ReadOp::Allowed(read)))
        }
        (ShardKind::Directory, Some(Op::ReadUntold(read))) => Ok(Checked::Read(ReadOp::Untold(read))),
        (ShardKind::Directory, Some(Op::ListAccounts(list))) => Ok(Checked::Read(ReadOp::Accounts(list))),
        (ShardKind::Directory, Some(Op::ListSessions(list))) => Ok(Checked::Read(ReadOp::Sessions(list))),
        (_, Some(_)) => Err(wrong(Reason::WrongShard, "the shard is of the other kind")),
        (_, None) => Err(wrong(Reason::Invalid, "this release does not know the request")),
    }
}

fn rejected(reason: Reason, detail: &str) -> Why {
    Why::Rejected(Rejected { reason: reason.into(), detail: detail.to_owned(), ..Rejected::default() })
}

/// `None` if the request is not traced.
fn span_of(request: &StoreRequest) -> Option<Span> {
    let traceparent = &*request.traceparent;
    if traceparent.is_empty() {
        return None;
    }
    let name = match &request.op {
        Some(Op::Timeline(_)) => "timeline command",
        Some(Op::Directory(_)) => "directory command",
        Some(Op::ReadTimeline(_)) => "read timeline",
        Some(Op::ReadHead(_)) => "read head",
        Some(Op::ReadHeads(_)) => "read heads",
        Some(Op::ReadUser(_)) => "read user",
        Some(Op::ReadGroup(_)) => "read group",
        Some(Op::ReadMembers(_)) => "read members",
        Some(Op::ReadMemberships(_)) => "read memberships",
        Some(Op::ReadOutbox(_)) => "read outbox",
        Some(Op::ReadConversations(_)) => "read conversations",
        Some(Op::ReadMarks(_)) => "read marks",
        Some(Op::ReadContacts(_)) => "read contacts",
        Some(Op::ReadUntold(_)) => "read untold",
        Some(Op::ReadMedia(_)) => "read media",
        Some(Op::ReadHeldMedia(_)) => "read held media",
        Some(Op::ReadPrivacy(_)) => "read privacy",
        Some(Op::ReadAllowed(_)) => "read allowed",
        Some(Op::ReadScheduled(_)) => "read scheduled",
        Some(Op::ReadReports(_)) => "read reports",
        Some(Op::ReadReport(_)) => "read report",
        Some(Op::ListGroups(_)) => "list groups",
        Some(Op::CountAccounts(_)) => "count accounts",
        Some(Op::ListAccounts(_)) => "list accounts",
        Some(Op::ListSessions(_)) => "list sessions",
        None => "unknown",
    };
    let span = tracing::info_span!("store", op = name);
    trace::continue_from(&span, traceparent);
    Some(span)
}

fn message(replies: Vec<Reply>) -> Result<FromStore, Status> {
    Ok(FromStore { replies: replies.into_iter().map(|next| next.reply).collect() })
}
