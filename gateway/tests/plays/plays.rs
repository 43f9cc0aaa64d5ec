//! The plays.

use std::{fs, future::Future, sync::Arc, time::Duration};

use carillon_gateway::{
    Gateway, GatewayConfig, JwtAlgorithm, JwtConfig, JwtKeyConfig, ListenConfig, Secret, TlsConfig,
};
use carillon_media::Media;
use carillon_proto::{
    Readiness,
    pb::{
        client::{
            Ack, ClientFrame, Code, Position, Timeline, client_frame::Body, client_service_client::ClientServiceClient,
            server_frame, timeline::Owner,
        },
        link::{ConnectionProgress, DirectAnswer, Directed, FromRouter, direct_answer},
    },
    peer::PeerSecurity,
    tasks::Tasks,
};
use parking_lot::Mutex;
use prost::Message as _;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::tungstenite;

use crate::{
    client::{JsonClient, SECRET, StreamClient, send, sign_in},
    router::{EPOCH, MiniRouter, Store, security},
};

pub(crate) struct World {
    pub(crate) router: MiniRouter,
    pub(crate) gateway: Gateway,
    tasks: Tasks,
}

pub(crate) async fn world(change: impl FnOnce(&mut GatewayConfig)) -> World {
    let router = MiniRouter::start(Arc::default(), None).await;
    let mut config = config(&router);
    change(&mut config);
    let tasks = Tasks::new();
    let gateway = start(config, security(), &tasks).await;
    World { router, gateway, tasks }
}

pub(crate) async fn world_with_media(media: Media) -> World {
    let router = MiniRouter::start(Arc::default(), None).await;
    let tasks = Tasks::new();
    // The small router's messages are of 1970.
    let config = GatewayConfig { edit_window_s: 0, ..config(&router) };
    let gateway = Gateway::open_with_media(config, security(), Some(media)).await.expect("opens");
    run(&gateway, &tasks).await;
    World { router, gateway, tasks }
}

pub(crate) fn config(router: &MiniRouter) -> GatewayConfig {
    let listen = ListenConfig::anywhere;
    let key = JwtKeyConfig { secret: Some(Secret(SECRET.to_owned())), ..JwtKeyConfig::new(JwtAlgorithm::HS256) };
    GatewayConfig {
        tcp: listen(),
        ws: listen(),
        grpc: listen(),
        routers: vec![router.address.to_string()],
        jwt: JwtConfig { keys: vec![key], ..Default::default() },
        drain_spread_ms: 100,
        ..Default::default()
    }
}

/// Opens a gateway, and waits until it is ready.
pub(crate) async fn start(config: GatewayConfig, security: PeerSecurity, tasks: &Tasks) -> Gateway {
    let gateway = Gateway::open(config, security).await.expect("opens");
    run(&gateway, tasks).await;
    gateway
}

async fn run(gateway: &Gateway, tasks: &Tasks) {
    gateway.run(tasks);
    let mut ready = gateway.ready();
    let is_ready = ready.wait_for(Readiness::is_ready);
    timeout(Duration::from_secs(20), is_ready).await.expect("ready in time").expect("watched");
}

impl World {
    pub(crate) async fn client(&self, user: &str, device: &str) -> StreamClient {
        StreamClient::signed_in(self.gateway.tcp_address().expect("on"), user, device).await
    }

    pub(crate) fn store(&self) -> Arc<Mutex<Store>> {
        Arc::clone(&self.router.store)
    }

    /// The router is killed, and one that knows nothing comes under its address.
    pub(crate) async fn with_another_router(self) -> Self {
        let Self { router, gateway, tasks } = self;
        let (store, address) = router.stop().await;
        store.lock().followed.clear();
        let router = MiniRouter::start(store, Some(address)).await;
        Self { router, gateway, tasks }
    }

    pub(crate) async fn end(self) {
        assert!(self.tasks.finish(Duration::from_secs(10)).await, "all tasks end");
        assert_eq!(self.tasks.failure(), None);
    }
}

pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("{what}"));
}

pub(crate) async fn in_time<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), what).await.expect("in time")
}

fn delivered(body: server_frame::Body) -> (u64, String) {
    match body {
        server_frame::Body::Deliver(deliver) => {
            (deliver.position.expect("a position").seq, deliver.envelope.expect("an envelope").client_id)
        }
        other => panic!("not a delivery: {other:?}"),
    }
}

fn bye(body: server_frame::Body) -> (Code, bool) {
    match body {
        server_frame::Body::Bye(bye) => (bye.code(), bye.reconnect),
        other => panic!("not a Bye: {other:?}"),
    }
}

#[tokio::test]
async fn a_message_goes_from_tcp_to_json_and_grpc() {
    let world = world(|_| {}).await;
    let mut json = JsonClient::connect(world.gateway.ws_address().expect("on"), Some("carillon.v1.json")).await;
    let json = json.as_mut().expect("connects");
    let Body::SignIn(sign) = sign_in("bob", "browser") else { unreachable!("a sign-in") };
    let frame = serde_json::to_string(&ClientFrame { body: Some(Body::SignIn(sign)) }).expect("encodes");
    json.says(&frame).await;
    assert_eq!(json.hears().await["signedIn"]["user"], "bob");

    let address = world.gateway.grpc_address().expect("on");
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let mut grpc = ClientServiceClient::new(endpoint.connect().await.expect("connects"));
    let (say, frames) = mpsc::channel(4);
    say.send(ClientFrame { body: Some(sign_in("bob", "bot")) }).await.expect("open");
    let mut hear = in_time(grpc.connect(ReceiverStream::new(frames))).await.expect("answers").into_inner();
    let first = in_time(hear.message()).await.expect("answers").expect("a frame");
    assert!(matches!(first.body, Some(server_frame::Body::SignedIn(_))), "{first:?}");

    let mut alice = world.client("alice", "phone").await;
    alice.says(send("m1", "bob")).await;
    let server_frame::Body::Accepted(accepted) = alice.hears().await else { panic!("not accepted") };
    assert_eq!(accepted.position, Some(Position { epoch: EPOCH, seq: 1 }));
    let deliver = &json.hears().await["deliver"];
    assert_eq!(deliver["envelope"]["sender"], "alice");
    assert_eq!(deliver["envelope"]["content"]["text"]["body"], "m1");
    let second = in_time(hear.message()).await.expect("answers").expect("a frame");
    assert_eq!(delivered(second.body.expect("a body")), (1, "m1".to_owned()));
    json.says(r#"{"signOut":{}}"#).await;
    assert_eq!(json.hears().await["bye"]["code"], "CODE_SIGNED_OUT");
    world.end().await;
}

#[tokio::test]
async fn a_websocket_without_a_known_subprotocol_is_refused_with_400() {
    let world = world(|_| {}).await;
    for subprotocol in [None, Some("soap")] {
        match JsonClient::connect(world.gateway.ws_address().expect("on"), subprotocol).await {
            Err(tungstenite::Error::Http(response)) => {
                assert_eq!(response.status().as_u16(), 400);
                let text = String::from_utf8(response.body().clone().unwrap_or_default()).expect("text");
                assert!(text.contains("carillon.v1.json"), "{text}");
            }
            other => panic!("not refused: {:?}", other.err()),
        }
    }
    world.end().await;
}

#[tokio::test]
async fn a_router_that_restarts_loses_nothing() {
    let mut world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    let mut bob = world.client("bob", "phone").await;
    alice.says(send("m1", "bob")).await;
    assert!(matches!(alice.hears().await, server_frame::Body::Accepted(_)));
    assert_eq!(delivered(bob.hears().await), (1, "m1".to_owned()));
    let (store, address) = world.router.stop().await;
    for name in ["m2", "m3", "m4"] {
        alice.says(send(name, "bob")).await;
    }
    world.router = MiniRouter::start(store, Some(address)).await;
    for name in ["m2", "m3", "m4"] {
        let server_frame::Body::Accepted(accepted) = alice.hears().await else { panic!("not accepted") };
        assert_eq!(accepted.client_id, name);
    }
    for (seq, name) in [(2, "m2"), (3, "m3"), (4, "m4")] {
        assert_eq!(delivered(bob.hears().await), (seq, name.to_owned()));
    }
    eventually("both sessions are announced", || world.router.store.lock().announced >= 2).await;
    world.end().await;
}

#[tokio::test]
async fn a_second_sign_in_of_a_device_replaces_the_first() {
    let world = world(|_| {}).await;
    let mut first = world.client("alice", "phone").await;
    let mut second = world.client("alice", "phone").await;
    assert_eq!(bye(first.hears().await), (Code::Replaced, false));
    assert!(first.hears_or_end().await.is_none());
    second.says(send("m1", "alice")).await;
    assert!(matches!(second.hears().await, server_frame::Body::Accepted(_) | server_frame::Body::Deliver(_)));
    world.end().await;
}

#[tokio::test]
async fn a_device_that_was_away_goes_on_where_it_acknowledged() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    let mut bob = world.client("bob", "phone").await;
    for name in ["m1", "m2", "m3"] {
        alice.says(send(name, "bob")).await;
        bob.hears().await;
    }
    let timeline = Some(Timeline { owner: Some(Owner::Inbox("bob".to_owned())) });
    bob.says(Body::Ack(Ack { timeline, position: Some(Position { epoch: EPOCH, seq: 2 }) })).await;
    drop(bob);
    let store = Arc::clone(&world.router.store);
    let device = ("bob".to_owned(), "phone".to_owned());
    eventually("the session is closed", || !store.lock().sessions.contains_key(&device)).await;
    assert_eq!(store.lock().cursors.get(&device), Some(&2));
    let mut bob = world.client("bob", "phone").await;
    assert_eq!(delivered(bob.hears().await), (3, "m3".to_owned()));
    world.end().await;
}

#[tokio::test]
async fn who_does_not_read_is_let_go_and_who_reads_gets_all() {
    let world = world(|config| {
        config.write_timeout_ms = 300;
        config.max_outgoing_bytes = 64 * 1024;
    })
    .await;
    let store = Arc::clone(&world.router.store);
    // More than the kernel buffers of both ends can hold.
    let big = carillon_proto::pb::client::Envelope { id: "x".repeat(60_000), ..Default::default() };
    let big = bytes::Bytes::from(prost::Message::encode_to_vec(&big));
    store.lock().inboxes.insert("bob".to_owned(), vec![big; 600]);
    let mut reads = world.client("bob", "reads").await;
    for seq in 1..=600 {
        assert_eq!(delivered(reads.hears().await).0, seq);
    }
    let mut sleeps = world.client("bob", "sleeps").await;
    let device = ("bob".to_owned(), "sleeps".to_owned());
    eventually("the session is closed", || !store.lock().sessions.contains_key(&device)).await;
    // The frames that were written before arrive in order, but not all of them.
    let mut last = 0;
    while let Ok(Some(server_frame::Body::Deliver(deliver))) =
        timeout(Duration::from_secs(5), async { sleeps.hears_or_end().await }).await
    {
        assert_eq!(deliver.position.expect("a position").seq, last + 1);
        last += 1;
    }
    assert!(last < 600);
    world.end().await;
}

#[tokio::test]
async fn frames_above_the_limit_and_connections_above_the_limit_are_refused() {
    let world = world(|config| {
        config.max_connections = 2;
        config.tcp.max_connections = 2;
    })
    .await;
    let address = world.gateway.tcp_address().expect("on");
    let mut first = StreamClient::connect(address).await;
    let mut second = world.client("alice", "phone").await;
    let mut third = StreamClient::connect(address).await;
    assert_eq!(bye(third.hears().await), (Code::Overloaded, true));
    assert!(third.hears_or_end().await.is_none());
    // One byte more than 8 KiB before the sign-in; after it, one byte more than 256 KiB.
    first.raw(&[0x81, 0x40]).await;
    assert_eq!(bye(first.hears().await), (Code::TooLarge, false));
    second.raw(&[0x81, 0x80, 0x10]).await;
    assert_eq!(bye(second.hears().await), (Code::TooLarge, false));
    world.end().await;
}

/// The end of a drain that has time enough.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[tokio::test]
async fn a_drain_says_bye_closes_the_sessions_and_gives_the_lease_back() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    let store = Arc::clone(&world.router.store);
    let drain = async {
        in_time(world.gateway.drain(soon())).await;
    };
    let client = async {
        assert_eq!(bye(alice.hears().await), (Code::ShuttingDown, true));
        assert!(alice.hears_or_end().await.is_none());
    };
    tokio::join!(drain, client);
    assert!(!world.gateway.ready().borrow().is_ready());
    assert!(store.lock().sessions.is_empty());
    assert_eq!(store.lock().left.len(), 1);
    let refused = TcpStream::connect(world.gateway.tcp_address().expect("on")).await;
    assert!(refused.is_err(), "nothing is accepted any more");
    world.end().await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_answers_when_no_router_is_left() {
    let World { router, gateway, tasks } = world(|config| config.send_deadline_ms = 600_000).await;
    let mut alice = StreamClient::signed_in(gateway.tcp_address().expect("on"), "alice", "phone").await;
    router.stop().await;
    alice.says(send("m1", "bob")).await;
    in_time(gateway.drain(soon())).await;
    assert!(tasks.finish(Duration::from_secs(10)).await, "all tasks end");
    drop(alice);
}

#[tokio::test]
async fn all_three_ways_work_over_tls() {
    let folder = tempfile::tempdir().expect("folder");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("certificate");
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    fs::write(&certificate, made.cert.pem()).expect("writes");
    fs::write(&key, made.signing_key.serialize_pem()).expect("writes");
    let world = world(|config| config.tls = Some(TlsConfig { certificate, key })).await;

    let pem = made.cert.pem();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")).expect("a root");
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let dial = async |address: Option<std::net::SocketAddr>| {
        let tcp = TcpStream::connect(address.expect("on")).await.expect("connects");
        connector.connect("localhost".try_into().expect("a name"), tcp).await.expect("shakes hands")
    };

    let mut alice = StreamClient::over(dial(world.gateway.tcp_address()).await);
    alice.says(sign_in("alice", "phone")).await;
    assert!(matches!(alice.hears().await, server_frame::Body::SignedIn(_)));

    let mut request =
        tungstenite::client::IntoClientRequest::into_client_request("wss://localhost/ws").expect("a request");
    request.headers_mut().insert("Sec-WebSocket-Protocol", "carillon.v1.proto".parse().expect("a header"));
    let ws = tokio_tungstenite::client_async(request, dial(world.gateway.ws_address()).await).await;
    assert_eq!(ws.expect("upgrades").1.headers()["Sec-WebSocket-Protocol"], "carillon.v1.proto");

    let tls = tonic::transport::ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(&pem))
        .domain_name("localhost");
    let address = world.gateway.grpc_address().expect("on");
    let endpoint = tonic::transport::Endpoint::from_shared(format!("https://{address}")).expect("an address");
    let channel = endpoint.tls_config(tls).expect("TLS").connect().await.expect("connects");
    let (say, frames) = mpsc::channel(4);
    say.send(ClientFrame { body: Some(Body::Ping(Default::default())) }).await.expect("open");
    let mut hear = ClientServiceClient::new(channel).connect(ReceiverStream::new(frames)).await.expect("answers");
    let first = in_time(hear.get_mut().message()).await.expect("answers").expect("a frame");
    assert_eq!(bye(first.body.expect("a body")), (Code::Invalid, false));
    world.end().await;
}

#[tokio::test]
async fn a_directed_request_is_answered_once_whether_or_not_its_connection_is_there() {
    let world = world(|_| {}).await;
    let bob = world.client("bob", "phone").await;
    let connection = world.router.store.lock().sessions[&("bob".to_owned(), "phone".to_owned())].connection;
    let directed = |id, connection| Directed { id, connection, ..Directed::default() };
    let directed = vec![directed(1, connection), directed(2, connection + 1000)];
    world.router.says(FromRouter { directed, ..Default::default() }).await;
    eventually("both are answered", || world.router.store.lock().direct_answers.len() == 2).await;
    let mut answers: Vec<_> = std::mem::take(&mut world.router.store.lock().direct_answers);
    answers.sort_by_key(|answer| answer.id);
    let code = |answer: &DirectAnswer| match &answer.result {
        Some(direct_answer::Result::Refusal(refusal)) => (answer.id, refusal.code()),
        other => panic!("{other:?}"),
    };
    let codes: Vec<_> = answers.iter().map(code).collect();
    assert_eq!(codes, [(1, Code::Unsupported), (2, Code::Unavailable)]);
    drop(bob);
    world.end().await;
}

#[tokio::test]
async fn a_gateway_tells_how_far_a_connection_is_and_a_device_is_not_asked() {
    let world = world(|_| {}).await;
    let (mut alice, mut bob) = (world.client("alice", "phone").await, world.client("bob", "phone").await);
    alice.says(send("1", "bob")).await;
    let (seq, _) = delivered(bob.hears().await);
    let connection = world.router.store.lock().sessions[&("bob".to_owned(), "phone".to_owned())].connection;
    let directed = vec![Directed { id: 1, connection, progress: true, ..Directed::default() }];
    world.router.says(FromRouter { directed, ..Default::default() }).await;
    eventually("it is answered", || world.router.store.lock().direct_answers.len() == 1).await;
    let answer = world.router.store.lock().direct_answers.remove(0);
    let progress = match answer.result {
        Some(direct_answer::Result::Body(body)) => ConnectionProgress::decode(body).expect("decodes"),
        other => panic!("{other:?}"),
    };
    let [of_inbox] = &progress.timelines[..] else { panic!("{progress:?}") };
    assert_eq!((of_inbox.pushed, of_inbox.head, of_inbox.acknowledged), (seq, seq, 0));
    assert_eq!((of_inbox.epoch, progress.queued_bytes), (EPOCH, 0));
    drop((alice, bob));
    world.end().await;
}

#[tokio::test]
async fn a_gateway_without_routers_is_not_ready() {
    let store: Arc<Mutex<Store>> = Arc::default();
    let (_, address) = MiniRouter::start(store, None).await.stop().await;
    let config = GatewayConfig {
        tcp: ListenConfig::anywhere(),
        ws: ListenConfig { enabled: false, ..ListenConfig::anywhere() },
        grpc: ListenConfig { enabled: false, ..ListenConfig::anywhere() },
        routers: vec![address.to_string()],
        ..Default::default()
    };
    let gateway = Gateway::open(config, security()).await.expect("opens");
    assert_eq!(gateway.ws_address(), None);
    let tasks = Tasks::new();
    gateway.run(&tasks);
    let mut ready = gateway.ready();
    let waits = |said: &Readiness| *said == Readiness::NotReady("waiting for a lease".to_owned());
    in_time(ready.wait_for(waits)).await.expect("watched");
    assert!(tasks.finish(Duration::from_secs(10)).await);
}
