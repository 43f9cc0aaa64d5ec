//! A stream between two nodes is the same over gRPC and within a process.

use std::{sync::Arc, time::Duration};

use carillon_proto::{
    pb::link::{
        Evict, FromRouter, Hint, ToRouter,
        router_client::RouterClient,
        router_server::{Router, RouterServer},
    },
    peer::{PeerSecurity, Tier, addresses_of},
    stream::{Calls, Incoming, Messages, Serving},
    tasks::Tasks,
};
use futures_util::StreamExt as _;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming, service::interceptor::InterceptedService};

const SECRET: &str = "0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(20);
const CALLERS: &[Tier] = &[Tier::Gateway];

/// Answers each message with as many evictions as it has hints, and ends after one without any.
#[derive(Clone)]
struct Node {
    tasks: Tasks,
    /// How many of its streams have ended.
    ended: Arc<watch::Sender<usize>>,
}

impl Node {
    fn open(&self, mut incoming: Incoming<ToRouter>) -> Messages<FromRouter> {
        let (out, answers) = mpsc::channel(1);
        let ended = Arc::clone(&self.ended);
        self.tasks.spawn("stream", async move {
            while let Ok(Some(message)) = incoming.message().await {
                let evictions: Vec<_> = message.hints.iter().map(|_| Evict::default()).collect();
                let last = evictions.is_empty();
                if out.send(Ok(FromRouter { evictions, ..FromRouter::default() })).await.is_err() || last {
                    break;
                }
            }
            ended.send_modify(|ended| *ended += 1);
        });
        ReceiverStream::new(answers).boxed()
    }
}

#[tonic::async_trait]
impl Router for Node {
    type LinkStream = Messages<FromRouter>;

    async fn link(&self, request: Request<Streaming<ToRouter>>) -> Result<Response<Self::LinkStream>, Status> {
        Ok(Response::new(self.open(request.into_inner().into())))
    }
}

struct Running {
    node: Node,
    address: String,
    security: PeerSecurity,
    _near: Option<Serving>,
}

async fn start(within_process: bool) -> Running {
    let security = PeerSecurity::from_secret(Tier::Router, SECRET, None).expect("valid");
    let security = if within_process { security.within_process() } else { security };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let tasks = Tasks::new();
    let node = Node { tasks: tasks.clone(), ended: Arc::new(watch::Sender::new(0)) };
    let near = node.clone();
    let near = security.serve_near(addresses_of(&listener, "router.example:7402"), CALLERS, move |_, incoming| {
        Ok(near.open(incoming))
    });
    let service = InterceptedService::new(RouterServer::new(node.clone()), security.check(CALLERS));
    let served = security.server().add_service(service).serve_with_incoming(security.incoming(listener, None));
    tasks.spawn("server", async move { served.await.expect("serves") });
    Running { node, address, security, _near: near }
}

/// A caller: its queue of two messages, and the answers.
async fn call(running: &Running, tier: Tier) -> Result<(mpsc::Sender<ToRouter>, Incoming<FromRouter>), Status> {
    let security = running.security.of_tier(tier).expect("all tiers have tokens");
    let (says, queue) = mpsc::channel(2);
    let queue = ReceiverStream::new(queue);
    let incoming = match security.near(&running.address) {
        Some(node) => node.open(queue)?,
        None => {
            let channel = security.channel(&running.address).expect("an address");
            let mut client = RouterClient::new(InterceptedService::new(channel, security.token()));
            client.link(queue).await?.into_inner().into()
        }
    };
    Ok((says, incoming))
}

fn hints(count: usize) -> ToRouter {
    ToRouter { hints: vec![Hint::default(); count], ..ToRouter::default() }
}

async fn evictions(incoming: &mut Incoming<FromRouter>) -> Option<usize> {
    let message = timeout(PATIENCE, incoming.message()).await.expect("an answer in time").expect("an open stream");
    message.map(|message| message.evictions.len())
}

#[tokio::test]
async fn messages_arrive_in_order_both_ways_and_the_node_ends_the_stream() {
    for within_process in [false, true] {
        let running = start(within_process).await;
        let near = running.security.near::<ToRouter, FromRouter>(&running.address);
        assert_eq!(near.is_some(), within_process, "the way that is meant");
        let (says, mut incoming) = call(&running, Tier::Gateway).await.expect("opens");
        for count in [3, 1, 2, 0] {
            timeout(PATIENCE, says.send(hints(count))).await.expect("room in time").expect("open");
        }
        for count in [3, 1, 2, 0] {
            assert_eq!(evictions(&mut incoming).await, Some(count));
        }
        assert_eq!(evictions(&mut incoming).await, None, "it has said all");
        timeout(PATIENCE, says.closed()).await.expect("nobody takes what is said any more");
    }
}

#[tokio::test]
async fn a_caller_that_drops_its_end_ends_the_stream() {
    for within_process in [false, true] {
        let running = start(within_process).await;
        let mut ended = running.node.ended.subscribe();
        let (says, mut incoming) = call(&running, Tier::Gateway).await.expect("opens");
        says.send(hints(1)).await.expect("open");
        assert_eq!(evictions(&mut incoming).await, Some(1));
        drop((says, incoming));
        timeout(PATIENCE, ended.wait_for(|ended| *ended == 1)).await.expect("in time").expect("runs");
    }
}

#[tokio::test]
async fn a_tier_that_is_not_let_in_is_told_so() {
    for within_process in [false, true] {
        let running = start(within_process).await;
        let refused = call(&running, Tier::Storage).await.err().expect("refused");
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert_eq!(refused.message(), "the storage token does not open this");
    }
}

#[tokio::test]
async fn a_node_that_does_not_read_holds_its_caller_up() {
    let running = start(true).await;
    let (says, mut incoming) = call(&running, Tier::Gateway).await.expect("opens");
    // The server takes the next message when the one before is answered, and there is room for one answer: two are taken, and one is held.
    let mut said = 0;
    while timeout(Duration::from_millis(200), says.send(hints(1))).await.is_ok() {
        said += 1;
        assert!(said < 10, "the caller is never held up");
    }
    for _ in 0..said {
        assert_eq!(evictions(&mut incoming).await, Some(1), "nothing is lost");
    }
    timeout(PATIENCE, says.send(hints(0))).await.expect("room again").expect("open");
    assert_eq!(evictions(&mut incoming).await, Some(0));
}

#[tokio::test]
async fn a_node_that_has_gone_is_not_near_any_more() {
    let Running { security, address, _near: near, .. } = start(true).await;
    for known in [&address, "router.example:7402"] {
        assert!(security.near::<ToRouter, FromRouter>(known).is_some());
    }
    assert!(security.near::<FromRouter, ToRouter>(&address).is_none(), "a stream of something else");
    drop(near);
    assert!(security.near::<ToRouter, FromRouter>(&address).is_none());
}

#[tokio::test]
async fn calls_go_to_a_node_of_the_process_that_lets_the_tier_in() {
    let security = PeerSecurity::from_secret(Tier::Router, SECRET, None).expect("valid").within_process();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let (keep, mut kept) = mpsc::unbounded_channel();
    let serving = security.serve_calls(addresses_of(&listener, "router.example:7402"), CALLERS, move |_, tell| {
        let (calls, end) = Calls::new(move |number: u32| {
            tell(number + 1);
            number != 0
        });
        keep.send(end).expect("kept");
        Ok(calls)
    });
    let near = |tier| security.of_tier(tier).expect("all tiers have tokens").near_calls::<u32, u32>(&address);
    let (tell, mut told) = mpsc::unbounded_channel();
    let tell = Arc::new(move |number| tell.send(number).expect("open"));
    let refused = near(Tier::Storage).expect("found").open(tell.clone()).err().expect("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);

    let Calls { say, ended } = near(Tier::Gateway).expect("found").open(tell.clone()).expect("opens");
    let mut end = kept.recv().await.expect("opened");
    assert!(say(4) && !say(0));
    assert_eq!((told.recv().await, told.recv().await), (Some(5), Some(1)));
    drop(ended);
    timeout(PATIENCE, end.left()).await.expect("the caller has left");

    let Calls { ended, .. } = near(Tier::Gateway).expect("found").open(tell).expect("opens");
    drop(kept.recv().await.expect("opened"));
    timeout(PATIENCE, ended).await.expect("the node has ended it");
    assert!(security.near::<u32, u32>(&address).is_none(), "it takes calls alone");
    drop(serving);
    assert!(near(Tier::Gateway).is_none());
}
