//! The stream to one other node: frames of all groups, in batches in both directions.

use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use carillon_proto::{
    limits::{BATCH_BYTES, BATCH_ITEMS},
    pause,
    pb::raft::{RaftFrame, RaftFrames, raft_client::RaftClient, raft_frame::Body},
    peer::{AddToken, PeerSecurity, cause},
    queues,
    tasks::Tasks,
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    service::interceptor::InterceptedService,
    transport::Channel,
};

use crate::{addresses::AddressBook, metrics as names};

/// The metadata key for the cluster's name: a node of another cluster that took over an address is refused.
pub(crate) const CLUSTER_KEY: &str = "carillon-cluster";

/// Calls that wait for the stream. When the queue is full, the calling group waits, up to its deadline.
const QUEUE: usize = 1024;
const OPEN_DEADLINE: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const NO_ADDRESS: &str = "nobody has told its address";

/// Why a call to another node has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("node {node} can't be reached: {why}")]
    Unreachable { node: u64, why: String },
    #[error("node {node} did not answer in {deadline:?}")]
    TimedOut { node: u64, deadline: Duration },
    #[error("node {node} refused: {why}")]
    Refused { node: u64, why: String },
}

/// The links to all other nodes, each made on first use.
#[derive(Clone)]
pub(crate) struct RaftLinks {
    inner: Arc<Inner>,
}

struct Inner {
    book: AddressBook,
    cluster: MetadataValue<Ascii>,
    security: PeerSecurity,
    tasks: Tasks,
    links: Mutex<HashMap<u64, RaftLink>>,
}

/// A handle to the link to one node.
#[derive(Clone)]
pub(crate) struct RaftLink {
    node: u64,
    book: AddressBook,
    calls: mpsc::Sender<Call>,
}

/// The group, the sending replica and the receiving replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) group: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

pub(crate) type Reply = oneshot::Receiver<Result<Body, LinkError>>;

struct Call {
    route: Route,
    body: Body,
    reply: oneshot::Sender<Result<Body, LinkError>>,
}

pub(crate) type Client = RaftClient<InterceptedService<Channel, AddToken>>;

impl RaftLinks {
    /// `None` if the cluster's name can't be a metadata value; a valid name can.
    pub(crate) fn new(book: AddressBook, cluster: &str, security: PeerSecurity, tasks: Tasks) -> Option<Self> {
        let cluster = cluster.parse().ok()?;
        let inner = Inner { book, cluster, security, tasks, links: Mutex::new(HashMap::new()) };
        Some(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn book(&self) -> &AddressBook {
        &self.inner.book
    }

    /// The link to this node, whatever its address is.
    pub(crate) fn to(&self, node: u64) -> RaftLink {
        self.inner.links.lock().entry(node).or_insert_with(|| self.start(node)).clone()
    }

    /// A client with a connection of its own.
    pub(crate) fn client(&self, address: &str) -> Result<Client, String> {
        let channel = self.inner.security.channel(address).map_err(|error| error.to_string())?;
        let limit = carillon_proto::limits::MAX_NODE_MESSAGE_BYTES;
        Ok(RaftClient::with_interceptor(channel, self.inner.security.token())
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit))
    }

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(CLUSTER_KEY, self.inner.cluster.clone());
        request
    }

    fn start(&self, node: u64) -> RaftLink {
        let (calls, queue) = mpsc::channel(QUEUE);
        queues::watch("storage_peer_calls", &calls);
        let runner = Runner { links: self.clone(), node, queue };
        self.inner.tasks.spawn("raft link", runner.run());
        RaftLink { node, book: self.inner.book.clone(), calls }
    }
}

impl RaftLink {
    /// Calls and waits for the answer.
    pub(crate) async fn call(&self, route: Route, body: Body, deadline: Duration) -> Result<Body, LinkError> {
        let answer = async { self.answer(self.send(route, body).await?).await };
        timeout(deadline, answer).await.unwrap_or(Err(LinkError::TimedOut { node: self.node, deadline }))
    }

    /// Sends a call. Calls of one caller reach the other node in order.
    pub(crate) async fn send(&self, route: Route, body: Body) -> Result<Reply, LinkError> {
        let (reply, answer) = oneshot::channel();
        self.calls.send(Call { route, body, reply }).await.map_err(|_| self.gone())?;
        Ok(answer)
    }

    pub(crate) async fn answer(&self, reply: Reply) -> Result<Body, LinkError> {
        match reply.await.map_err(|_| self.gone())?? {
            Body::Error(why) => Err(LinkError::Refused { node: self.node, why }),
            body => Ok(body),
        }
    }

    pub(crate) fn node(&self) -> u64 {
        self.node
    }

    pub(crate) fn address(&self) -> Result<Arc<str>, String> {
        self.book.of(self.node).ok_or_else(|| NO_ADDRESS.to_owned())
    }

    fn gone(&self) -> LinkError {
        LinkError::Unreachable { node: self.node, why: "this node is stopping".into() }
    }
}

/// Logs that a node can't be reached: when it is lost, again if it stays away, and when it is back. openraft logs each
/// lost heartbeat of each shard, which adds nothing.
#[derive(Default)]
struct Away {
    since: Option<Instant>,
    told: bool,
}

/// A restarted node is back within this time.
const LONG_AWAY: Duration = Duration::from_secs(60);

impl Away {
    fn connected(&mut self, node: u64, address: &str) {
        tracing::info!(node, address, "connected to storage node");
        *self = Self::default();
    }

    /// True if this was logged as a warning.
    fn failed(&mut self, node: u64, address: &str, why: &str, now: Instant) -> bool {
        let Some(since) = self.since else {
            self.since = Some(now);
            tracing::info!(node, address, why, "no connection to storage node");
            return false;
        };
        let tells = !self.told && now >= since + LONG_AWAY;
        if tells {
            self.told = true;
            let seconds = (now - since).as_secs();
            tracing::warn!(
                node,
                address,
                why,
                seconds,
                "no connection to storage node for long: the shards have a replica less"
            );
        }
        tells
    }
}

/// The task of a link.
struct Runner {
    links: RaftLinks,
    node: u64,
    queue: mpsc::Receiver<Call>,
}

impl Runner {
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut away = Away::default();
        let mut addresses = self.links.book().changes();
        loop {
            let address = addresses.borrow_and_update().get(&self.node).cloned();
            let opened = match &address {
                Some(address) => self.open(address).await,
                None => Err(NO_ADDRESS.to_owned()),
            };
            let address = address.unwrap_or_default();
            let why = match opened {
                Ok((out, incoming)) => {
                    pause = FIRST_PAUSE;
                    away.connected(self.node, &address);
                    let moved = moved(&mut addresses, self.node, &address);
                    match self.carry(out, incoming, moved).await {
                        Some(why) => why,
                        None => return,
                    }
                }
                Err(why) => why,
            };
            if !address.is_empty() {
                metrics::counter!(names::PEER_DISCONNECTS).increment(1);
                away.failed(self.node, &address, &why, Instant::now());
            }
            // Calls that wait for the stream fail at once, until the next attempt.
            let wake = Instant::now() + pause::around(pause);
            let error = LinkError::Unreachable { node: self.node, why };
            loop {
                // Every branch is cancel-safe.
                tokio::select! {
                    () = tokio::time::sleep_until(wake) => break,
                    () = moved(&mut addresses, self.node, &address) => break,
                    call = self.queue.recv() => match call {
                        // The caller may have given up.
                        Some(call) => drop(call.reply.send(Err(error.clone()))),
                        None => return,
                    },
                }
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn open(&self, address: &str) -> Result<(mpsc::Sender<RaftFrames>, Streaming<RaftFrames>), String> {
        let mut client = self.links.client(address)?;
        // When it is full, calls wait in the queue of the link.
        let (out, outgoing) = mpsc::channel(4);
        let stream = client.stream(self.links.request(ReceiverStream::new(outgoing)));
        let response = timeout(OPEN_DEADLINE, stream).await.map_err(|_| "no answer in time".to_owned())?;
        Ok((out, response.map_err(|status| describe(&status))?.into_inner()))
    }

    /// Runs until the stream breaks; returns `None` when there are no callers any more.
    async fn carry(
        &mut self,
        out: mpsc::Sender<RaftFrames>,
        mut incoming: Streaming<RaftFrames>,
        moved: impl Future<Output = ()>,
    ) -> Option<String> {
        let mut moved = pin!(moved);
        let mut calls = Vec::with_capacity(BATCH_ITEMS);
        let mut waiting: VecDeque<RaftFrame> = VecDeque::new();
        let mut pending: HashMap<u64, oneshot::Sender<Result<Body, LinkError>>> = HashMap::new();
        let mut next_id = 0;
        let mut sweep = tokio::time::interval(Duration::from_secs(1));
        let why = loop {
            // Every branch is cancel-safe.
            tokio::select! {
                message = incoming.message() => match message {
                    Ok(Some(RaftFrames { frames })) => {
                        for frame in frames {
                            if let (Some(reply), Some(body)) = (pending.remove(&frame.id), frame.body) {
                                // The caller may have given up.
                                let _ = reply.send(Ok(body));
                            }
                        }
                    }
                    Ok(None) => break "it closed the stream".to_owned(),
                    Err(status) => break describe(&status),
                },
                permit = out.reserve(), if !waiting.is_empty() => match permit {
                    Ok(permit) => {
                        let frames = next_message(&mut waiting);
                        names::frames_sent(frames.len());
                        permit.send(RaftFrames { frames });
                    }
                    Err(_) => break "the stream is closed".to_owned(),
                },
                count = self.queue.recv_many(&mut calls, BATCH_ITEMS), if waiting.is_empty() => {
                    if count == 0 {
                        return None;
                    }
                    for Call { route, body, reply } in calls.drain(..).filter(|call| !call.reply.is_closed()) {
                        next_id += 1;
                        pending.insert(next_id, reply);
                        let Route { group, from, to } = route;
                        waiting.push_back(RaftFrame { id: next_id, group, from, to, body: Some(body) });
                    }
                }
                _ = sweep.tick() => pending.retain(|_, reply| !reply.is_closed()),
                () = &mut moved => break "it has another address".to_owned(),
            }
        };
        for (_, reply) in pending {
            // The caller may have given up.
            let _ = reply.send(Err(LinkError::Unreachable { node: self.node, why: why.clone() }));
        }
        // Prevents a busy loop with a server that accepts the stream and breaks it at once.
        sleep(FIRST_PAUSE).await;
        Some(why)
    }
}

/// Resolves when the node has another address than this one; pending otherwise.
async fn moved(addresses: &mut watch::Receiver<HashMap<u64, Arc<str>>>, node: u64, from: &str) {
    let elsewhere = |known: &HashMap<u64, Arc<str>>| known.get(&node).is_some_and(|address| **address != *from);
    if addresses.wait_for(elsewhere).await.is_err() {
        // The address book belongs to the links, and so lives longer.
        std::future::pending::<()>().await;
    }
}

/// Takes as many frames as one message carries.
pub(crate) fn next_message(waiting: &mut VecDeque<RaftFrame>) -> Vec<RaftFrame> {
    let mut bytes = 0;
    let mut frames = Vec::new();
    while let Some(frame) = waiting.front() {
        bytes += frame.encoded_len();
        if !frames.is_empty() && bytes > BATCH_BYTES {
            break;
        }
        frames.extend(waiting.pop_front());
    }
    frames
}

fn describe(status: &Status) -> String {
    cause(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_stays_away_is_told_once() {
        let (mut away, start) = (Away::default(), Instant::now());
        let failed = |away: &mut Away, seconds| away.failed(2, "b:1", "refused", start + Duration::from_secs(seconds));
        assert!(!failed(&mut away, 0) && !failed(&mut away, 59));
        assert!(failed(&mut away, 60));
        assert!(!failed(&mut away, 61) && !failed(&mut away, 1000));
        away.connected(2, "b:1");
        assert!(!failed(&mut away, 1001), "it has been back");
    }
}
