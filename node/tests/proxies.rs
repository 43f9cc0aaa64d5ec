//! Proxies in front of the listeners: the gateway sees the client's address through any chain of proxies, and no client
//! can pretend to have another one.

mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use carillon_proto::{
    pb::client::{
        ClientFrame, Code, ServerFrame, SignIn, client_frame::Body, client_service_client::ClientServiceClient,
        server_frame, sign_in::Credential,
    },
    tls::{Authorities, Identity, MaybeTls},
};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use support::{
    certificates::{Files, NAME},
    node::until,
    service::Service,
    websocket::{WebSocket, handshake},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::Endpoint;

const PROXY: &str = "gateway.proxies.trusted = [\"127.0.0.0/8\"]\n";
const SPEAKS: &str = "gateway.tcp.proxy_protocol = true\ngateway.ws.proxy_protocol = true\n\
                      gateway.grpc.proxy_protocol = true\n";

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 192.0.2.200 40000 7410\r\n").into_bytes()
}

fn v2(client: [u8; 4]) -> Vec<u8> {
    let addresses = [client, [192, 0, 2, 200]].concat();
    [b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c", &addresses[..], &[156, 64, 28, 242]].concat()
}

fn open(address: SocketAddr, first: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
    stream.write_all(first).expect("written");
    stream
}

fn sign_in(token: &str) -> ClientFrame {
    let credential = Some(Credential::Token(token.to_owned()));
    ClientFrame { body: Some(Body::SignIn(SignIn { device: "d".into(), credential, ..SignIn::default() })) }
}

/// The first frame that a client over TCP receives.
fn hears(stream: &mut TcpStream) -> server_frame::Body {
    let mut bytes = Vec::new();
    loop {
        let mut more = [0; 4096];
        let got = stream.read(&mut more).expect("reads");
        assert!(got > 0, "closed without a word");
        bytes.extend_from_slice(&more[..got]);
        if let Ok(frame) = ServerFrame::decode_length_delimited(&*bytes) {
            return frame.body.expect("a body");
        }
    }
}

/// Signs in over WebSocket through a proxy that sends this header. Returns the code of the Bye, or "signedIn".
fn over_websocket(service: &Service, header: &str, token: &str, before: &[u8]) -> String {
    let request = format!(
        "GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: carillon.v1.json\r\n{header}\r\n"
    );
    let mut stream = open(service.ws(), &[before, request.as_bytes()].concat());
    let frame = format!(r#"{{"signIn": {{"device": "d", "token": "{token}"}}}}"#);
    let bytes = WebSocket::frame(0x81, frame.as_bytes());
    let (mut heard, mut more, mut shaken) = (Vec::new(), [0; 4096], false);
    loop {
        let got = stream.read(&mut more).expect("reads");
        heard.extend_from_slice(&more[..got]);
        let text = String::from_utf8_lossy(&heard).into_owned();
        if !shaken && text.starts_with("HTTP/1.1 101") && text.contains("\r\n\r\n") {
            stream.write_all(&bytes).expect("written");
            shaken = true;
            continue;
        }
        for word in ["signedIn", "CODE_UNAUTHENTICATED", "CODE_RATE_LIMITED", "CODE_OVERLOADED", " 429 "] {
            if text.contains(word) {
                return word.to_owned();
            }
        }
        assert!(got > 0, "closed: {text}");
    }
}

#[test]
fn one_bad_client_behind_a_proxy_does_not_lock_out_the_others() {
    let few = "gateway.failed_sign_ins_burst = 3\ngateway.failed_sign_ins_per_minute = 1";
    let service = Service::start(&format!("{PROXY}{few}"));
    let from = |client: &str, token: &str| {
        over_websocket(&service, &format!("X-Forwarded-For: 198.51.100.9, {client}\r\n"), token, b"")
    };
    let heard: Vec<_> = (0..5).map(|_| from("203.0.113.1", "x.y.z")).collect();
    assert_eq!(heard.last().map(String::as_str), Some("CODE_RATE_LIMITED"), "{heard:?}");
    assert_eq!(from("203.0.113.2", "x.y.z"), "CODE_UNAUTHENTICATED");
    assert_eq!(from("203.0.113.2", &service.token("alice")), "signedIn");
    // The log has the client's address, so that an operator can ban it.
    for address in ["address=203.0.113.1 way=\"token\"", "address=203.0.113.2"] {
        let of = |line: &str| line.contains("sign-in failed") && line.contains(address);
        until(address, Duration::from_secs(20), || service.node.log().lines().any(of));
    }
}

#[test]
fn a_flood_of_failed_sign_ins_is_told_with_a_bound_and_a_count() {
    let service = Service::start("");
    let wrong = sign_in("x.y.z").encode_length_delimited_to_vec();
    for _ in 0..80 {
        let mut stream = open(service.tcp(), &wrong);
        assert!(matches!(hears(&mut stream), server_frame::Body::Bye(_)));
    }
    until("the rest is told", Duration::from_secs(60), || service.node.log().contains("left_out="));
    let lines = service.node.log().lines().filter(|line| line.contains("sign-in failed")).count();
    // Twenty lines at once, and then one a second.
    assert!((20..70).contains(&lines), "{lines} lines for 80 failures");
}

#[test]
fn a_stranger_is_not_believed() {
    let few = "gateway.failed_sign_ins_burst = 3\ngateway.failed_sign_ins_per_minute = 1";
    let service = Service::start(&format!("gateway.proxies.trusted = [\"192.0.2.1\"]\n{few}"));
    let from = |client: &str| over_websocket(&service, &format!("X-Forwarded-For: {client}\r\n"), "x.y.z", b"");
    let heard: Vec<_> = (0..5).map(|i| from(&format!("203.0.113.{i}"))).collect();
    assert_eq!(heard.last().map(String::as_str), Some("CODE_RATE_LIMITED"), "{heard:?}");
}

/// The limit of one address shows which address the gateway sees.
#[test]
fn the_proxy_protocol_names_the_client_on_every_listener() {
    let service = Service::start(&format!("{PROXY}{SPEAKS}gateway.max_connections_per_address = 2"));
    let token = service.token("alice");
    let frame = sign_in(&token).encode_length_delimited_to_vec();
    let mut held = Vec::new();
    for header in [v1("203.0.113.1"), v2([203, 0, 113, 1])] {
        let mut stream = open(service.tcp(), &[&header[..], &frame].concat());
        assert!(matches!(hears(&mut stream), server_frame::Body::SignedIn(_)));
        held.push(stream);
    }
    let mut third = open(service.tcp(), &v2([203, 0, 113, 1]));
    match hears(&mut third) {
        server_frame::Body::Bye(bye) => assert_eq!((bye.code(), bye.reconnect), (Code::Overloaded, true)),
        other => panic!("{other:?}"),
    }
    assert_eq!(over_websocket(&service, "", &token, &v1("203.0.113.1")), " 429 ");
    assert_eq!(over_websocket(&service, "", &token, &v1("203.0.113.2")), "signedIn");
    service.block_on(async {
        assert_eq!(over_grpc(&service, v2([203, 0, 113, 1]), &token).await, Some("crowded"), "one too many");
        assert_eq!(over_grpc(&service, v2([203, 0, 113, 3]), &token).await, Some("signed in"));
    });
}

/// `None` if there was no connection.
async fn over_grpc(service: &Service, header: Vec<u8>, token: &str) -> Option<&'static str> {
    grpc_on(service.grpc(), header, token, None).await
}

async fn grpc_on(address: SocketAddr, header: Vec<u8>, token: &str, files: Option<Arc<Files>>) -> Option<&'static str> {
    let connector = tower::service_fn(move |_| {
        let (header, files) = (header.clone(), files.clone());
        async move {
            let stream = match files {
                Some(files) => through_tls(address, &files, &header).await,
                None => {
                    let mut stream = tokio::net::TcpStream::connect(address).await?;
                    stream.write_all(&header).await?;
                    MaybeTls::plain(stream)
                }
            };
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let channel = Endpoint::from_static("http://gateway").connect_with_connector(connector).await.ok()?;
    let mut client = ClientServiceClient::new(channel);
    let frames = tokio_stream::once(sign_in(token));
    let mut answers = client.connect(frames).await.ok()?.into_inner();
    match answers.message().await.ok()?.expect("open").body {
        Some(server_frame::Body::SignedIn(_)) => Some("signed in"),
        Some(server_frame::Body::Bye(bye)) if bye.code() == Code::Overloaded => Some("crowded"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_listener_that_needs_the_proxy_protocol_takes_nothing_else() {
    let service = Service::start(&format!("{PROXY}{SPEAKS}"));
    let frame = sign_in(&service.token("alice")).encode_length_delimited_to_vec();
    let request = b"GET /ws HTTP/1.1\r\nhost: x\r\n\r\n";
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    for (address, bytes) in [(service.tcp(), &frame[..]), (service.ws(), request), (service.grpc(), preface)] {
        let mut answer = Vec::new();
        // A reset ends the connection, too.
        let _ = open(address, bytes).read_to_end(&mut answer);
        assert!(answer.is_empty(), "{answer:?}");
    }
    let told =
        |service: &Service, words: &str| until(words, Duration::from_secs(20), || service.node.log().contains(words));
    told(&service, "this listener needs the PROXY protocol");

    let strangers = Service::start(&format!("gateway.proxies.trusted = [\"192.0.2.1\"]\n{SPEAKS}"));
    let frame = sign_in(&strangers.token("alice")).encode_length_delimited_to_vec();
    let mut answer = Vec::new();
    let _ = open(strangers.tcp(), &[v1("203.0.113.1"), frame].concat()).read_to_end(&mut answer);
    assert!(answer.is_empty(), "a header of a stranger: {answer:?}");
    told(&strangers, "not one of gateway.proxies.trusted");
}

#[test]
fn tls_begins_behind_the_header() {
    let folder = tempfile::tempdir().expect("folder");
    let made = rcgen::generate_simple_self_signed(vec!["carillon.test".to_owned()]).expect("certificate");
    let (certificate, key) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
    fs::write(&certificate, made.cert.pem()).expect("written");
    fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let service =
        Service::start(&format!("{PROXY}{SPEAKS}gateway.tls = {{ certificate = {certificate:?}, key = {key:?} }}"));
    for address in [service.tcp(), service.ws(), service.grpc()] {
        // Bytes that are not a handshake are answered with an alert (RFC 8446 section 6), which only TLS writes.
        let mut stream = open(address, &[&v2([203, 0, 113, 1])[..], b"GET / HTTP/1.1\r\n\r\n"].concat());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer.first(), Some(&21), "{address}: {answer:?}");
    }
}

/// Opens TLS after a PROXY header in plain text.
async fn through_tls(address: SocketAddr, files: &Files, header: &[u8]) -> MaybeTls<tokio::net::TcpStream> {
    let identity = Identity::from_pem(files.certificate.as_bytes(), files.key.as_bytes()).expect("an identity");
    let authorities = Authorities::from_pem(files.ca.as_bytes()).expect("an authority");
    let config = Arc::new(identity.client(&authorities).expect("a configuration"));
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
    stream.write_all(header).await.expect("written");
    MaybeTls::connect(stream, config, NAME.to_owned()).await.expect("a handshake")
}

/// Reads until one of the words has come; returns all that was read.
async fn until_word(stream: &mut MaybeTls<tokio::net::TcpStream>, words: &[&str]) -> String {
    let (mut heard, mut more) = (Vec::new(), [0; 4096]);
    loop {
        let got = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut more)).await.expect("in time");
        heard.extend_from_slice(&more[..got.expect("reads")]);
        let text = String::from_utf8_lossy(&heard).into_owned();
        if words.iter().any(|word| text.contains(word)) {
            return text;
        }
    }
}

/// The limit of one address shows that the gateway sees the client behind the proxy.
#[test]
fn clients_sign_in_over_tls_behind_the_header_on_every_listener() {
    let files = Arc::new(Files::new());
    let folder = tempfile::tempdir().expect("folder");
    files.write(folder.path());
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| folder.path().join(name));
    let service = Service::start(&format!(
        "{PROXY}{SPEAKS}gateway.tls = {{ certificate = {certificate:?}, key = {key:?} }}\n\
         gateway.max_connections_per_address = 2"
    ));
    let token = service.token("alice");
    service.block_on(async {
        let frame = sign_in(&token).encode_length_delimited_to_vec();
        let mut held = Vec::new();
        for header in [v1("203.0.113.1"), v2([203, 0, 113, 1])] {
            let mut stream = through_tls(service.tcp(), &files, &header).await;
            stream.write_all(&frame).await.expect("written");
            let heard = until_word(&mut stream, &["alice", "as many"]).await;
            assert!(heard.contains("alice"), "signed in: {heard}");
            held.push(stream);
        }
        let mut third = through_tls(service.tcp(), &files, &v2([203, 0, 113, 1])).await;
        until_word(&mut third, &["this address has as many connections as it may"]).await;
        let mut crowded = through_tls(service.ws(), &files, &v2([203, 0, 113, 1])).await;
        crowded.write_all(handshake("carillon.v1.json", "").as_bytes()).await.expect("written");
        assert!(until_word(&mut crowded, &["as it may\n"]).await.starts_with("HTTP/1.1 429"));
        let other = v2([203, 0, 113, 2]);
        let mut other_ws = through_tls(service.ws(), &files, &other).await;
        other_ws.write_all(handshake("carillon.v1.json", "").as_bytes()).await.expect("written");
        assert!(until_word(&mut other_ws, &["\r\n\r\n"]).await.starts_with("HTTP/1.1 101"));

        let over_grpc = async |header| grpc_on(service.grpc(), header, &token, Some(Arc::clone(&files))).await;
        assert_eq!(over_grpc(v2([203, 0, 113, 1])).await, Some("crowded"));
        assert_eq!(over_grpc(v2([203, 0, 113, 3])).await, Some("signed in"));
    });
}
