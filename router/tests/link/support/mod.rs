//! A cluster of routers over a store in memory, and a gateway's end of a link.

mod contacts;
mod state;
mod store;

use std::{sync::Arc, time::Duration};

use carillon_proto::{
    Ring,
    pb::{
        admin::admin_client::AdminClient,
        link::{
            DirectAnswer, FromRouter, Hello, Push, RouterRequest, Signal, ToRouter, router_client::RouterClient,
            router_reply::Result as Reply, router_request::Op,
        },
        store::{NodeKind, Session},
    },
    peer::{AddToken, PeerSecurity, Tier},
    tasks::Tasks,
};
use carillon_router::{Router, RouterConfig};
use tokio::{
    sync::{mpsc, oneshot},
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, service::interceptor::InterceptedService, transport::Channel};

pub(crate) use state::AboutFiles;
pub(crate) use store::MemoryStore;

const SECRET: &str = "0123456789abcdef";
/// Far longer than any step of these tests.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Cluster {
    pub(crate) store: Arc<MemoryStore>,
    routers: Vec<Arc<Router>>,
    tasks: Tasks,
}

pub(crate) type Administrator = AdminClient<InterceptedService<Channel, AddToken>>;

impl Cluster {
    pub(crate) async fn start(routers: usize, users: &[&str]) -> Self {
        Self::start_with(routers, users, |_| {}).await
    }

    pub(crate) async fn start_with(routers: usize, users: &[&str], set: impl Fn(&mut RouterConfig)) -> Self {
        let tasks = Tasks::new();
        let security = security(SECRET);
        let store = MemoryStore::start(users, &security, &tasks).await;
        let mut started = Vec::new();
        for _ in 0..routers {
            let mut config = RouterConfig {
                listen: ([127, 0, 0, 1], 0).into(),
                storage: vec![store.address()],
                lease_ms: 900,
                ..RouterConfig::default()
            };
            set(&mut config);
            let router = Router::open(config, security.clone()).await.expect("opens");
            router.run(&tasks);
            started.push(Arc::new(router));
        }
        let cluster = Self { store, routers: started, tasks };
        cluster.wait_ready().await;
        cluster.wait_until("all routers are in the ring", || cluster.ring().routers().len() == routers).await;
        cluster
    }

    pub(crate) async fn wait_ready(&self) {
        for router in &self.routers {
            let mut ready = router.ready();
            let ready = time::timeout(PATIENCE, ready.wait_for(|ready| ready.is_ready())).await;
            ready.expect("ready in time").expect("runs");
        }
    }

    pub(crate) async fn wait_until(&self, what: &str, is: impl Fn() -> bool) {
        let polled = async {
            while !is() {
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        time::timeout(PATIENCE, polled).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
    }

    pub(crate) fn address(&self, router: usize) -> String {
        self.routers[router].address().to_string()
    }

    pub(crate) fn ring(&self) -> Ring {
        Ring::from_view(&self.store.view())
    }

    pub(crate) async fn gateway(&self) -> Gateway {
        self.one_gateway_at_each().await.swap_remove(0)
    }

    /// The links of one gateway, by router.
    pub(crate) async fn one_gateway_at_each(&self) -> Vec<Gateway> {
        let lease = self.store.register(NodeKind::Gateway);
        let mut links = Vec::new();
        for router in 0..self.routers.len() {
            let mut link = Gateway::connect_with(SECRET, &self.address(router)).await.expect("connects");
            link.greet(lease).await;
            links.push(link);
        }
        // Waits until all routers know the same ring and the gateway's lease.
        let version = self.store.view().version;
        for link in &mut links {
            let view = link.until(|message| message.registry.take().filter(|view| view.version >= version)).await;
            link.ring_version = view.ring_version;
        }
        links
    }

    pub(crate) fn admin(&self) -> Administrator {
        let security = security(SECRET).of_tier(Tier::Operator).expect("derived");
        let channel = security.channel(&self.address(0)).expect("an address");
        AdminClient::new(InterceptedService::new(channel, security.token()))
    }

    /// Starts at once; the future resolves when the router has drained.
    pub(crate) fn drain(&self, router: usize) -> impl Future<Output = ()> + use<> {
        let router = Arc::clone(&self.routers[router]);
        let (done, drained) = oneshot::channel();
        self.tasks.spawn("drain", async move {
            router.drain().await;
            // The test may have stopped waiting.
            let _ = done.send(());
        });
        async move {
            time::timeout(PATIENCE, drained).await.expect("drains in time").expect("does not panic");
        }
    }

    pub(crate) async fn stop(self) {
        assert_eq!(self.tasks.failure(), None);
        assert!(self.tasks.finish(PATIENCE).await, "all tasks end");
    }
}

/// A gateway's end of the link to one router.
pub(crate) struct Gateway {
    lease: u64,
    pub(crate) ring_version: u64,
    pub(crate) era: u64,
    next_id: u64,
    requests: mpsc::Sender<ToRouter>,
    messages: Streaming<FromRouter>,
    seen: Vec<FromRouter>,
}

impl Gateway {
    pub(crate) async fn connect_with(secret: &str, address: &str) -> Result<Self, Status> {
        let security = security(secret).of_tier(Tier::Gateway).expect("derived");
        let channel = security.channel(address).expect("an address");
        let mut client = RouterClient::new(InterceptedService::new(channel, security.token()));
        let (requests, queue) = mpsc::channel(1000);
        let messages = client.link(ReceiverStream::new(queue)).await?.into_inner();
        Ok(Self { lease: 0, ring_version: 0, era: 0, next_id: 1, requests, messages, seen: Vec::new() })
    }

    async fn greet(&mut self, lease: u64) {
        self.lease = lease;
        let hello = Some(Hello { lease, kind: NodeKind::Gateway.into() });
        self.requests.send(ToRouter { hello, ..ToRouter::default() }).await.expect("open");
    }

    /// Another link of the same gateway.
    pub(crate) async fn opens_again(&self, address: &str) -> Self {
        let mut link = Self::connect_with(SECRET, address).await.expect("connects");
        link.greet(self.lease).await;
        Self { ring_version: self.ring_version, ..link }
    }

    pub(crate) async fn request(&mut self, op: Op) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let request = RouterRequest {
            id,
            ring_version: self.ring_version,
            era: self.era,
            deadline_ms: 9_000,
            op: Some(op),
            ..Default::default()
        };
        self.requests.send(ToRouter { requests: vec![request], ..ToRouter::default() }).await.expect("open");
        id
    }

    pub(crate) async fn ask(&mut self, op: Op) -> Reply {
        let asked = self.request(op).await;
        let (id, reply) = self.reply().await;
        assert_eq!(id, asked);
        reply
    }

    /// Asks as a gateway does: again with the same id, as long as the request may succeed later.
    pub(crate) async fn ask_until_accepted(&mut self, op: Op) {
        let asked = async {
            loop {
                match self.ask(op.clone()).await {
                    Reply::Accepted(_) => return,
                    Reply::Refusal(refusal) if refusal.retry => {}
                    Reply::NotOwner(_) => {}
                    other => panic!("{other:?}"),
                }
                time::sleep(Duration::from_millis(10)).await;
            }
        };
        time::timeout(PATIENCE, asked).await.expect("accepted in time");
    }

    pub(crate) async fn reply(&mut self) -> (u64, Reply) {
        let take = |message: &mut FromRouter| (!message.replies.is_empty()).then(|| message.replies.remove(0));
        let reply = self.until(take).await;
        (reply.id, reply.result.expect("set"))
    }

    pub(crate) async fn push(&mut self) -> Push {
        self.until(|message| (!message.pushes.is_empty()).then(|| message.pushes.remove(0))).await
    }

    /// The first result that `take` finds in the messages of the router.
    pub(crate) async fn until<T>(&mut self, take: impl Fn(&mut FromRouter) -> Option<T>) -> T {
        loop {
            if let Some(taken) = self.seen.iter_mut().find_map(&take) {
                return taken;
            }
            let message = time::timeout(PATIENCE, self.messages.message()).await;
            let message = message.unwrap_or_else(|_| panic!("the router has said {:?}, and nothing else", self.seen));
            self.seen.push(message.expect("the link holds").expect("the link goes on"));
        }
    }

    /// The next message of the router.
    pub(crate) async fn next(&mut self) -> FromRouter {
        if !self.seen.is_empty() {
            return self.seen.remove(0);
        }
        let message = time::timeout(PATIENCE, self.messages.message()).await.expect("the router says it in time");
        message.expect("the link holds").expect("the link goes on")
    }

    /// Says that all sessions are announced, as a gateway does after it has announced them by its ring.
    pub(crate) async fn announced_all(&mut self) {
        let announced_all = self.ring_version;
        self.requests.send(ToRouter { announced_all, ..ToRouter::default() }).await.expect("open");
    }

    pub(crate) async fn signal(&mut self, signal: Signal) {
        self.requests.send(ToRouter { signals: vec![signal], ..ToRouter::default() }).await.expect("open");
    }

    pub(crate) async fn answers(&mut self, answer: DirectAnswer) {
        self.requests.send(ToRouter { direct_answers: vec![answer], ..ToRouter::default() }).await.expect("open");
    }

    /// Says that the gateway is stopping.
    pub(crate) async fn drains(&mut self) {
        self.requests.send(ToRouter { draining: true, ..ToRouter::default() }).await.expect("open");
    }

    pub(crate) async fn is_closed(&mut self) -> bool {
        let end = async { while let Ok(Some(_)) = self.messages.message().await {} };
        time::timeout(PATIENCE, end).await.is_ok()
    }
}

pub(crate) fn session(user: &str, device: &str, gateway: &Gateway, connection: u64) -> Session {
    let since_ms = connection;
    Session {
        user: user.into(),
        device: device.into(),
        lease: gateway.lease,
        connection,
        since_ms,
        ..Default::default()
    }
}

fn security(secret: &str) -> PeerSecurity {
    PeerSecurity::from_secret(Tier::Router, secret, None).expect("valid")
}
