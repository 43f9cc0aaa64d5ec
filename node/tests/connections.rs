//! Connections of strangers: those that send nothing, or not enough, are closed by a time limit on every listener, and
//! those of one listener take no place from the others.

mod support;

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use carillon_client::{ConnectOptions, Connection, Trust};
use carillon_proto::pb::client::{Ping, SignIn, client_frame::Body, server_frame, sign_in::Credential};
use support::{
    certificates::{Files, NAME},
    service::{Carrier, Service},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// HTTP/2's connection preface and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
/// The first bytes of a TLS record that announces a ClientHello of 512 bytes.
const HALF_A_CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

fn open(address: SocketAddr, first: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    // The connection may be refused already.
    let _ = stream.write_all(first);
    stream
}

/// Waits until the other side has closed the connection.
fn closes(what: &str, stream: &mut TcpStream) {
    let end = Instant::now() + PATIENCE;
    let mut bytes = [0; 1024];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(_) => assert!(Instant::now() < end, "{what} is talked to and stays open"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("{what} stays open")
            }
            // A reset ends the connection, too.
            Err(_) => return,
        }
    }
}

async fn signed_in(service: &Service, carrier: Carrier, user: &str) -> Connection {
    let connection =
        Connection::connect(&service.address(carrier), &ConnectOptions::default()).await.expect("connects");
    sign_in(service, connection, user).await
}

async fn sign_in(service: &Service, mut connection: Connection, user: &str) -> Connection {
    let credential = Some(Credential::Token(service.token(user)));
    let request = SignIn { device: "d".into(), credential, ..SignIn::default() };
    connection.send_frame(Body::SignIn(request)).await.expect("sent");
    let frame = connection.next_frame().await.expect("frame").expect("open");
    assert!(matches!(frame.body, Some(server_frame::Body::SignedIn(_))), "{frame:?}");
    connection
}

async fn pongs(connection: &mut Connection) {
    connection.send_frame(Body::Ping(Ping { nonce: 1 })).await.expect("sent");
    let frame = connection.next_frame().await.expect("frame").expect("open");
    assert!(matches!(frame.body, Some(server_frame::Body::Pong(_))), "{frame:?}");
}

fn status_of_a_websocket_handshake(service: &Service) -> String {
    let request = "GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   sec-websocket-protocol: carillon.v1.json\r\n\r\n";
    let mut stream = open(service.ws(), request.as_bytes());
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn silent_connections_to_one_listener_take_nothing_from_the_others() {
    let service = Service::start("gateway.max_connections = 50");
    let _silent: Vec<_> = (0..60).map(|_| open(service.grpc(), b"")).collect();
    let _shaking: Vec<_> = (0..60).map(|_| open(service.grpc(), PREFACE)).collect();
    assert_eq!(status_of_a_websocket_handshake(&service), "HTTP/1.1 101");
    let mut tcp = open(service.tcp(), b"\x05hello");
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).expect("a Bye");
    assert!(!String::from_utf8_lossy(&answer).contains("as many connections"), "refused: {answer:?}");
}

#[test]
fn whoever_does_not_sign_in_is_let_go_in_time_on_every_listener() {
    let service = Service::start("gateway.sign_in_timeout_ms = 500");
    let mut held = Vec::new();
    for (name, address) in [("tcp", service.tcp()), ("ws", service.ws()), ("grpc", service.grpc())] {
        for (what, bytes) in [("silence", &b""[..]), ("half a request", b"GET / H"), ("a preface", PREFACE)] {
            held.push((format!("{name}: {what}"), open(address, bytes)));
        }
    }
    for (what, stream) in &mut held {
        closes(what, stream);
    }
}

#[test]
fn a_handshake_that_is_not_finished_ends_in_time_on_every_listener() {
    let folder = tempfile::tempdir().expect("folder");
    let made = rcgen::generate_simple_self_signed(vec!["carillon.test".to_owned()]).expect("certificate");
    let (certificate, key) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
    fs::write(&certificate, made.cert.pem()).expect("written");
    fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let service = Service::start(&format!(
        "gateway.tls = {{ certificate = {certificate:?}, key = {key:?} }}\ngateway.sign_in_timeout_ms = 500"
    ));
    let mut held = Vec::new();
    for (name, address) in [("tcp", service.tcp()), ("ws", service.ws()), ("grpc", service.grpc())] {
        for (what, bytes) in [("silence", &b""[..]), ("half a hello", HALF_A_CLIENT_HELLO)] {
            held.push((format!("{name}: {what}"), open(address, bytes)));
        }
    }
    for (what, stream) in &mut held {
        closes(what, stream);
    }
}

#[test]
fn a_silent_connection_to_a_full_grpc_port_behind_a_proxy_is_let_go_soon() {
    let service = Service::start(
        "gateway.proxies.trusted = [\"127.0.0.0/8\"]\ngateway.grpc.proxy_protocol = true\n\
         gateway.grpc.max_connections = 1\ngateway.sign_in_timeout_ms = 600000",
    );
    let _held = open(service.grpc(), b"");
    closes("one too many", &mut open(service.grpc(), b""));
}

/// A gRPC client that signed in and out again, and keeps its connection without using it.
#[test]
fn a_grpc_connection_lasts_as_long_as_somebody_is_signed_in_on_it() {
    let service = Service::start("gateway.sign_in_timeout_ms = 1000\ngateway.heartbeat_ms = 60000");
    service.block_on(async {
        let mut connection = signed_in(&service, Carrier::Grpc, "stays").await;
        // Three times as long as a stranger may stay connected.
        tokio::time::sleep(Duration::from_secs(3)).await;
        pongs(&mut connection).await;
    });
}

/// Settings with which nodes and clients use TLS. The files are removed with the folder.
fn with_tls() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("folder");
    Files::new().write(folder.path());
    let [ca, certificate, key] = ["ca.pem", "certificate.pem", "key.pem"].map(|name| folder.path().join(name));
    let settings = format!(
        "cluster.tls = {{ ca = {ca:?}, certificate = {certificate:?}, key = {key:?}, server_name = {NAME:?} }}\n\
         gateway.tls = {{ certificate = {certificate:?}, key = {key:?} }}\ngateway.sign_in_timeout_ms = 2000"
    );
    (folder, settings)
}

#[test]
fn internal_and_admin_listeners_let_strangers_go() {
    let service = Service::start("");
    let listeners = [("storage", service.storage()), ("router", service.router()), ("admin", service.node.admin)];
    strangers_are_let_go(&listeners);
}

#[test]
fn internal_and_grpc_listeners_let_strangers_go_over_tls() {
    let (_folder, settings) = with_tls();
    let service = Service::start(&settings);
    let listeners = [("storage", service.storage()), ("router", service.router()), ("grpc", service.grpc())];
    strangers_are_let_go(&listeners);
}

fn strangers_are_let_go(listeners: &[(&str, SocketAddr)]) {
    let mut held = Vec::new();
    for (name, address) in listeners.iter().copied() {
        for (what, bytes) in [
            ("silence", &b""[..]),
            ("half a request", b"GET / H"),
            ("a preface", PREFACE),
            ("half a hello", HALF_A_CLIENT_HELLO),
        ] {
            held.push((format!("{name}: {what}"), open(address, bytes)));
        }
    }
    for (what, stream) in &mut held {
        closes(what, stream);
    }
}

/// Many more connections than strangers may have at a time.
#[test]
fn silent_connections_to_the_internal_listeners_do_not_hurt_the_nodes() {
    let (folder, tls) = with_tls();
    for (settings, carrier) in [("", Carrier::Tcp), (tls.as_str(), Carrier::Grpc)] {
        let service = Service::start(settings);
        let addresses = [service.storage(), service.router()];
        for first in [&b""[..], HALF_A_CLIENT_HELLO] {
            let _held: Vec<_> = addresses.iter().flat_map(|address| (0..600).map(|_| open(*address, first))).collect();
            service.block_on(async {
                let trust = if settings.is_empty() {
                    Trust::default()
                } else {
                    Trust::ca(fs::read_to_string(folder.path().join("ca.pem")).expect("read"))
                };
                let options = ConnectOptions { trust, server_name: Some(NAME.to_owned()), ..ConnectOptions::default() };
                let address =
                    if settings.is_empty() { service.address(carrier) } else { service.secure_address(carrier) };
                let connection = Connection::connect(&address, &options).await.expect("connects");
                let mut connection = sign_in(&service, connection, "works").await;
                pongs(&mut connection).await;
            });
        }
    }
}
