//! Input that is wrong, too long, half-sent or unauthenticated: each kind gets its error, and another client notices
//! nothing.

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use carillon_client::{Client, ClientConfig, ConnectOptions, Connection, Credential, Event};
use carillon_proto::{
    pb::client::{
        ClientFrame, Code, Content, Send, ServerFrame, SignIn, Text, client_frame::Body, content, server_frame, sign_in,
    },
    tasks::Tasks,
};
use prost::Message as _;
use support::service::{Carrier, Service};

fn open(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
    stream
}

/// The frames until the gateway closes the connection.
fn frames(stream: &mut TcpStream) -> Vec<server_frame::Body> {
    let mut bytes = Vec::new();
    // A reset counts as the end, too.
    let _ = stream.read_to_end(&mut bytes);
    let mut rest = &*bytes;
    let mut frames = Vec::new();
    while !rest.is_empty() {
        frames.push(ServerFrame::decode_length_delimited(&mut rest).expect("a whole frame").body.expect("a body"));
    }
    frames
}

fn bye(frames: &[server_frame::Body]) -> Code {
    match frames {
        [server_frame::Body::Bye(bye)] => {
            assert!(!bye.reason.is_empty());
            bye.code()
        }
        other => panic!("expected one Bye, got {other:?}"),
    }
}

/// Runs `test` while another client is signed in, whose connection must still work afterwards.
fn with_bystander(service: &Service, user: &str, test: impl FnOnce()) {
    let mut connection = service.block_on(signed_in(service, user));
    test();
    service.block_on(async {
        connection.send_frame(Body::Ping(carillon_proto::pb::client::Ping { nonce: 1 })).await.expect("sent");
        let frame = connection.next_frame().await.expect("frame").expect("open");
        assert!(matches!(frame.body, Some(server_frame::Body::Pong(_))), "{frame:?}");
    });
}

async fn signed_in(service: &Service, user: &str) -> Connection {
    let mut connection =
        Connection::connect(&service.address(Carrier::Tcp), &ConnectOptions::default()).await.expect("connects");
    let request = SignIn {
        device: "d".into(),
        credential: Some(sign_in::Credential::Token(service.token(user))),
        ..SignIn::default()
    };
    connection.send_frame(Body::SignIn(request)).await.expect("sent");
    let frame = connection.next_frame().await.expect("frame").expect("open");
    assert!(matches!(frame.body, Some(server_frame::Body::SignedIn(_))), "{frame:?}");
    connection
}

fn frame_with_token(user: &str, token: &str) -> Vec<u8> {
    let request = SignIn {
        user: user.to_owned(),
        device: "d".into(),
        credential: Some(sign_in::Credential::Token(token.to_owned())),
        ..SignIn::default()
    };
    ClientFrame { body: Some(Body::SignIn(request)) }.encode_length_delimited_to_vec()
}

#[test]
fn bytes_that_are_no_frame_end_the_connection_with_a_reason() {
    let service = Service::shared();
    with_bystander(service, "bystander-rubbish", || {
        for rubbish in [&[0xff; 32][..], b"\x05hello", b"\x00", &[b'G'; 72]] {
            let mut stream = open(service.tcp());
            stream.write_all(rubbish).expect("written");
            assert_eq!(bye(&frames(&mut stream)), Code::Invalid, "{rubbish:?}");
        }
    });
}

#[test]
fn a_frame_over_the_limit_is_refused_before_it_is_read() {
    let service = Service::shared();
    with_bystander(service, "bystander-large", || {
        // Only the length is sent: the answer must not wait for the rest.
        let mut stream = open(service.tcp());
        let mut length = Vec::new();
        prost::encoding::encode_varint(9000, &mut length);
        stream.write_all(&length).expect("written");
        assert_eq!(bye(&frames(&mut stream)), Code::TooLarge);

        let mut stream = open(service.tcp());
        stream.write_all(&frame_with_token("", &service.token("large"))).expect("written");
        // SignedIn is longer than a length prefix. One byte shows that it has come; the rest is not needed.
        stream.read_exact(&mut [0]).expect("signed in");
        let mut length = Vec::new();
        prost::encoding::encode_varint(1 << 30, &mut length);
        stream.write_all(&length).expect("written");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        let rest = String::from_utf8_lossy(&rest).into_owned();
        assert!(rest.contains("frame"), "the reason stands in the Bye: {rest}");
    });
}

#[test]
fn a_content_over_the_limit_is_refused_and_the_connection_goes_on() {
    let service = Service::shared();
    service.block_on(async {
        let mut connection = signed_in(service, "much-to-say").await;
        for (bytes, fits) in [(65 * 1024, false), (1024, true)] {
            let body = "x".repeat(bytes);
            let send = Send {
                client_id: format!("{bytes}"),
                to: Some(Client::user("much-to-say")),
                content: Some(Content { body: Some(content::Body::Text(Text { body })), ..Default::default() }),
                ..Send::default()
            };
            connection.send_frame(Body::Send(send)).await.expect("sent");
            match connection.next_frame().await.expect("frame").expect("open").body {
                Some(server_frame::Body::Refused(refused)) if !fits => {
                    assert_eq!(refused.code(), Code::TooLarge);
                    assert!(!refused.retry);
                }
                Some(server_frame::Body::Accepted(_)) if fits => {}
                other => panic!("{bytes} bytes: {other:?}"),
            }
        }
    });
}

#[test]
fn half_a_frame_and_silence_end_by_time() {
    let service = Service::start("gateway.sign_in_timeout_ms = 500");
    with_bystander(&service, "bystander-half", || {
        for half in [&b""[..], b"\x7f", b"\x7f\x0a\x05"] {
            let mut stream = open(service.tcp());
            stream.write_all(half).expect("written");
            assert_eq!(bye(&frames(&mut stream)), Code::TimedOut, "{half:?}");
        }
    });
}

#[test]
fn whoever_is_not_signed_in_can_do_nothing() {
    let service = Service::shared();
    let ping = ClientFrame { body: Some(Body::Ping(Default::default())) };
    let send = ClientFrame { body: Some(Body::Send(Send::default())) };
    for frame in [ping, send] {
        let mut stream = open(service.tcp());
        stream.write_all(&frame.encode_length_delimited_to_vec()).expect("written");
        assert_eq!(bye(&frames(&mut stream)), Code::Invalid);
    }
    for token in ["", "x.y.z", &carillon_loadtest::token::sign("another secret, not the service's", "mallory")] {
        let mut stream = open(service.tcp());
        stream.write_all(&frame_with_token("", token)).expect("written");
        assert_eq!(bye(&frames(&mut stream)), Code::Unauthenticated, "{token:?}");
    }
}

#[test]
fn a_token_signs_in_only_its_own_user() {
    let service = Service::shared();
    let mut stream = open(service.tcp());
    stream.write_all(&frame_with_token("somebody-else", &service.token("me"))).expect("written");
    assert_eq!(bye(&frames(&mut stream)), Code::Unauthenticated);
}

#[test]
fn a_websocket_without_our_subprotocol_is_refused_in_http() {
    let service = Service::shared();
    let handshake = |protocol: &str| {
        format!(
            "GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
        )
    };
    for protocol in ["", "sec-websocket-protocol: chat\r\n"] {
        let mut stream = open(service.ws());
        stream.write_all(handshake(protocol).as_bytes()).expect("written");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.contains("carillon.v1.json"), "{answer}");
    }
    let mut stream = open(service.ws());
    stream.write_all(b"not http at all\r\n\r\n").expect("written");
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn who_does_not_read_is_cut_off_and_loses_nothing() {
    let service = Service::start("gateway.write_timeout_ms = 1000\ngateway.max_outgoing_bytes = 65536");
    service.block_on(async {
        // This client signs in, so that messages can be sent to it, and then reads nothing.
        let deaf = signed_in(&service, "deaf").await;
        let tasks = Tasks::new();
        let token = Credential::Token(service.token("speaker"));
        let config = ClientConfig::new(vec![service.address(Carrier::Tcp)], "speaker", "d", token);
        let (speaker, _events) = Client::open(config, &tasks).expect("opens");
        let mut sent = 0;
        // More than all socket buffers on the way can hold.
        let body = "x".repeat(60_000);
        while service.node.metric("carillon_gateway_slow_consumers_total") < 1.0 {
            assert!(sent < 2000, "nobody cut it off");
            speaker.send(Client::user("deaf"), Client::text(&body)).await.expect("accepted");
            sent += 1;
        }
        drop(deaf);
        let token = Credential::Token(service.token("deaf"));
        let config = ClientConfig::new(vec![service.address(Carrier::Tcp)], "deaf", "d", token);
        let (_client, mut events) = Client::open(config, &tasks).expect("opens");
        let mut next = 1;
        while next <= sent {
            let event = tokio::time::timeout(Duration::from_secs(30), events.next()).await;
            if let Event::Delivered { position, .. } = event.expect("in time").expect("open") {
                assert_eq!(position.seq, next);
                next += 1;
            }
        }
        tasks.finish(Duration::from_secs(5)).await;
    });
}
