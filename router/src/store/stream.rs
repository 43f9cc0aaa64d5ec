//! The stream to one storage node, reopened whenever it breaks.

use std::{sync::Arc, time::Duration};

use carillon_proto::{
    Batches, clock, limits, pause,
    pb::store::{
        FromStore, StoreReply, StoreRequest, ToStore, directory_command, store_client::StoreClient, store_request::Op,
        timeline_command,
    },
    peer::{AddToken, OpenError, PeerSecurity, cause},
    queues,
    stream::{Calls, Incoming},
    waiting::Waiting,
};
use futures_util::{StreamExt as _, future::BoxFuture};
use tokio::sync::mpsc;
use tonic::{service::interceptor::InterceptedService, transport::Channel};

use super::{dispatch::StreamId, told::Told};

/// Requests that wait for the stream. Lanes and reads are bounded, so the queue is full only when the node does not
/// read: further requests are then handled as refused, and retried.
const QUEUE: usize = 16_384;
/// Ids of one node's streams differ by this, so that nodes number their streams independently.
const STREAM_STEP: StreamId = 1 << 16;
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Why a stream is down.
const BY_NODE: &str = "closed by the node";

pub(super) enum Event {
    Up { address: String, stream: StreamId, requests: Requests },
    Replies(Vec<StoreReply>),
    Down { stream: StreamId },
}

/// Where the requests of one stream go.
pub(super) enum Requests {
    Queue(mpsc::Sender<StoreRequest>),
    /// The function of a node in this process.
    Calls(Box<dyn Fn(StoreRequest) -> bool + Send + Sync>),
}

impl Requests {
    /// False if there is no room for the request, or the stream has ended.
    pub(super) fn send(&self, request: StoreRequest) -> bool {
        match self {
            Self::Queue(queue) => queue.try_send(request).is_ok(),
            Self::Calls(call) => call(request),
        }
    }
}

type Client = StoreClient<InterceptedService<Channel, AddToken>>;

/// How the replies of one stream arrive.
enum ReplyWay {
    Incoming(Incoming<FromStore>),
    /// In `Told`. The future resolves when the stream has ended.
    Told(BoxFuture<'static, ()>),
}

/// Runs until the receiver of `events` is gone. Stream ids are `first`, `first + STREAM_STEP`, ... Replies come as events, those of
/// a node of this process to `told`.
pub(super) async fn keep(
    address: String,
    security: PeerSecurity,
    events: mpsc::Sender<Event>,
    told: Arc<Told>,
    first: StreamId,
) {
    // Made when the node is first called over the network.
    let mut client = None;
    let mut stream = first;
    let mut failures = 0u32;
    let mut waiting = Waiting::new("a storage node's stream");
    while !events.is_closed() {
        let open = open(&address, &security, &mut client, &told);
        let opened = clock::timeout(OPEN_TIMEOUT, open).await;
        let why = match opened {
            None => "no answer in time".to_owned(),
            Some(Err(error)) => error.to_string(),
            Some(Ok((requests, answers))) => {
                failures = 0;
                waiting.over();
                tracing::debug!(%address, "stream to storage node is open");
                if events.send(Event::Up { address: address.clone(), stream, requests }).await.is_err() {
                    return;
                }
                let why = match answers {
                    ReplyWay::Told(ended) => {
                        ended.await;
                        BY_NODE.to_owned()
                    }
                    ReplyWay::Incoming(mut replies) => loop {
                        match replies.message().await {
                            Ok(Some(batch)) => {
                                if events.send(Event::Replies(batch.replies)).await.is_err() {
                                    return;
                                }
                            }
                            Ok(None) => break BY_NODE.to_owned(),
                            Err(status) => break cause(&status),
                        }
                    },
                };
                if events.send(Event::Down { stream }).await.is_err() {
                    return;
                }
                stream += STREAM_STEP;
                why
            }
        };
        let pause = pause::growing(failures, BACKOFF_MIN, BACKOFF_MAX);
        failures = failures.saturating_add(1);
        tracing::debug!(%address, %why, "stream to storage node is down");
        waiting.still(&address, why);
        clock::sleep(pause).await;
    }
}

/// A stream to the node: within this process, of calls or of messages, or over the network.
async fn open(
    address: &str,
    security: &PeerSecurity,
    client: &mut Option<Client>,
    told: &Arc<Told>,
) -> Result<(Requests, ReplyWay), OpenError> {
    if let Some(node) = security.near_calls(address) {
        let told = Arc::clone(told);
        let Calls { say, ended } = node.open(Arc::new(move |reply| told.tell(reply)))?;
        return Ok((Requests::Calls(say), ReplyWay::Told(ended)));
    }
    let (requests, queue) = mpsc::channel(QUEUE);
    queues::watch("router_store_requests", &requests);
    let batches = Batches::new(queue, weigh).map(|requests| ToStore { requests });
    if let Some(node) = security.near(address) {
        return Ok((Requests::Queue(requests), ReplyWay::Incoming(node.open(batches)?)));
    }
    let client = match client {
        Some(client) => client,
        None => client.insert(
            StoreClient::new(InterceptedService::new(security.channel(address)?, security.token()))
                .max_decoding_message_size(limits::MAX_NODE_MESSAGE_BYTES)
                .max_encoding_message_size(limits::MAX_NODE_MESSAGE_BYTES),
        ),
    };
    let replies = client.stream(batches).await?.into_inner().into();
    Ok((Requests::Queue(requests), ReplyWay::Incoming(replies)))
}

/// Approximate encoded size, in bytes: the fields that are not counted are small and bounded.
fn weigh(request: &StoreRequest) -> usize {
    const REST: usize = 256;
    let content = match &request.op {
        Some(Op::Timeline(command)) => match &command.op {
            Some(timeline_command::Op::Append(append)) => append.envelope.len(),
            Some(_) | None => 0,
        },
        Some(Op::Directory(command)) => match &command.op {
            Some(directory_command::Op::PutAccount(_)) => 512,
            _ => 0,
        },
        Some(_) | None => 0,
    };
    REST + content
}
