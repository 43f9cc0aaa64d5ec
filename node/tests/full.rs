//! More connections than a limit allows: each further client is refused in the form of its carrier, and health checks
//! are still answered, because a load balancer that takes a full gateway for a dead one moves all its clients to the
//! next gateway.

mod support;

use std::{net::TcpStream, time::Duration};

use carillon_client::{Address, ConnectOptions, Connection, ConnectionError, Trust};
use carillon_proto::pb::client::{Bye, Code, SignIn, client_frame::Body, server_frame, sign_in::Credential};
use support::{
    certificates::{Files, NAME},
    node::until,
    service::{Carrier, Service},
    websocket::{answer, exchange, handshake},
};
use tonic::{client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;

const PATIENCE: Duration = Duration::from_secs(30);

async fn sign_in(service: &Service, address: &Address, options: &ConnectOptions) -> Result<Connection, Bye> {
    let mut connection = Connection::connect(address, options).await.expect("connects");
    let credential = Some(Credential::Token(service.token("alice")));
    let request = SignIn { device: "d".into(), credential, ..SignIn::default() };
    // A refused connection may be closed already; its last frame can be read all the same.
    let _ = connection.send_frame(Body::SignIn(request)).await;
    let frame = tokio::time::timeout(PATIENCE, connection.next_frame()).await.expect("in time");
    match frame.expect("a frame").expect("open").body {
        Some(server_frame::Body::SignedIn(_)) => Ok(connection),
        Some(server_frame::Body::Bye(bye)) => Err(bye),
        other => panic!("{other:?}"),
    }
}

async fn holds(service: &Service, carrier: Carrier) -> Connection {
    sign_in(service, &service.address(carrier), &ConnectOptions::default()).await.expect("signed in")
}

fn is_overloaded(refused: Result<Connection, Bye>, word: &str) {
    let bye = refused.map(|_| ()).expect_err("refused");
    assert_eq!((bye.code(), bye.reconnect), (Code::Overloaded, true), "{bye:?}");
    assert!(bye.reason.contains(word) && bye.reconnect_after_ms > 0, "{bye:?}");
}

/// The status of the whole server by `grpc.health.v1`: 1 is SERVING.
async fn grpc_health(service: &Service) -> Result<i32, tonic::Status> {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Asked {}
    #[derive(Clone, PartialEq, prost::Message)]
    struct Told {
        #[prost(int32, tag = "1")]
        status: i32,
    }

    let endpoint = Endpoint::from_shared(format!("http://{}", service.grpc())).expect("address");
    let channel = endpoint.connect().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let told = grpc.unary(tonic::Request::new(Asked {}), path, ProstCodec::<Asked, Told>::default()).await?;
    Ok(told.into_inner().status)
}

/// Asks for a path as proxies do it, on a connection that is kept open.
fn health(service: &Service, path: &str) -> String {
    exchange(service.ws(), format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes(), false).to_ascii_lowercase()
}

#[test]
fn a_full_websocket_port_passes_its_health_checks_and_says_when_to_come_again() {
    let service = Service::start("gateway.ws.max_connections = 1");
    let held = service.block_on(holds(&service, Carrier::WebSocketJson));
    for path in ["/healthz", "/readyz"] {
        let answer = health(&service, path);
        assert!(answer.starts_with("http/1.1 200"), "{path}: {answer}");
        // Nobody keeps a connection open while others are refused.
        assert!(answer.contains("\r\nconnection: close\r\n"), "{path}: {answer}");
    }
    let refused = exchange(service.ws(), handshake("carillon.v1.json", "").as_bytes(), false).to_ascii_lowercase();
    assert!(refused.starts_with("http/1.1 503"), "{refused}");
    assert!(
        refused.contains("\r\nretry-after: 5\r\n") && refused.ends_with("as many connections as it may\n"),
        "{refused}"
    );
    // A health check by HTTP/1.0, and a path that does not exist.
    assert!(answer(service.ws(), "GET /healthz HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200"));
    assert!(health(&service, "/").starts_with("http/1.1 404"));
    drop(held);
    until("there is room again", PATIENCE, || {
        exchange(service.ws(), handshake("carillon.v1.json", "").as_bytes(), true).starts_with("HTTP/1.1 101")
    });
}

#[test]
fn a_full_grpc_port_passes_its_health_checks_and_says_bye() {
    // A connection takes a slot, and so does its stream.
    let service = Service::start("gateway.grpc.max_connections = 2");
    service.block_on(async {
        let held = holds(&service, Carrier::Grpc).await;
        assert_eq!(grpc_health(&service).await.expect("answered"), 1);
        let address = service.address(Carrier::Grpc);
        is_overloaded(sign_in(&service, &address, &ConnectOptions::default()).await, "this gateway");
        drop(held);
    });
}

#[test]
fn an_address_with_too_many_connections_is_told_so_on_every_carrier() {
    let service = Service::start("gateway.max_connections_per_address = 1");
    service.block_on(async {
        let held = holds(&service, Carrier::Tcp).await;
        for carrier in [Carrier::Tcp, Carrier::Grpc] {
            let address = service.address(carrier);
            is_overloaded(sign_in(&service, &address, &ConnectOptions::default()).await, "this address");
        }
        let shaken = handshake("carillon.v1.json", "");
        let refused = exchange(service.ws(), shaken.as_bytes(), false).to_ascii_lowercase();
        assert!(refused.starts_with("http/1.1 429") && refused.contains("\r\nretry-after: 5\r\n"), "{refused}");
        // The address may be a load balancer's.
        assert!(health(&service, "/healthz").starts_with("http/1.1 200"));
        assert_eq!(grpc_health(&service).await.expect("answered"), 1);
        drop(held);
    });
}

#[test]
fn silent_connections_count_for_their_address_on_every_listener() {
    let service = Service::start("gateway.max_connections_per_address = 8");
    let is_refused = || exchange(service.tcp(), b"\x05hello", false).contains("this address has as many connections");
    for (name, address) in [("tcp", service.tcp()), ("ws", service.ws()), ("grpc", service.grpc())] {
        // The connections are opened again for each try: one of them is refused if it was slower than the one that
        // asks.
        until(name, PATIENCE, || {
            let _silent: Vec<_> = (0..8).map(|_| TcpStream::connect(address).expect("connects")).collect();
            is_refused()
        });
        until("there is room again", PATIENCE, || !is_refused());
    }
}

#[test]
fn over_tls_a_full_gateway_says_the_same() {
    let files = Files::new();
    let folder = tempfile::tempdir().expect("folder");
    files.write(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let service = Service::start(&format!(
        "gateway.tls = {{ certificate = {:?}, key = {:?} }}\ngateway.tcp.max_connections = 1\n\
         gateway.ws.max_connections = 1\ngateway.grpc.max_connections = 2",
        file("certificate.pem"),
        file("key.pem"),
    ));
    let options =
        ConnectOptions { trust: Trust::ca(files.ca), server_name: Some(NAME.to_owned()), ..ConnectOptions::default() };
    service.block_on(async {
        for carrier in [Carrier::Tcp, Carrier::Grpc, Carrier::WebSocketProto] {
            let address = service.secure_address(carrier);
            let held = sign_in(&service, &address, &options).await.expect("signed in");
            if carrier == Carrier::WebSocketProto {
                let refused = Connection::connect(&address, &options).await.map(|_| ()).expect_err("refused");
                let ConnectionError::WebSocket(why) = &refused else { panic!("{refused}") };
                assert!(why.to_string().contains("503"), "{why}");
            } else {
                is_overloaded(sign_in(&service, &address, &options).await, "this gateway");
            }
            drop(held);
        }
    });
}
