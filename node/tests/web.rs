//! The WebSocket port as browsers, proxies and their health checks meet it: plain HTTP, what ends a WebSocket, hidden
//! tabs, and how much is read of those who have not signed in.

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use carillon_proto::pb::client::Code;
use support::{
    service::Service,
    websocket::{Heard, WebSocket, answer, exchange, handshake},
};

/// The head and the body of an HTTP answer.
fn split(answer: &str) -> (&str, &str) {
    answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no whole answer: {answer:?}"))
}

fn status(answer: &str) -> u16 {
    // The version is that of the request, or lower.
    let rest = answer.strip_prefix("HTTP/1.1 ").or_else(|| answer.strip_prefix("HTTP/1.0 "));
    let number = rest.and_then(|rest| rest.get(..3)?.parse().ok());
    number.unwrap_or_else(|| panic!("no answer in HTTP/1: {answer:?}"))
}

#[test]
fn plain_http_on_the_websocket_port_is_answered_with_a_status_and_a_text() {
    let ws = Service::shared().ws();
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let json = "Sec-WebSocket-Protocol: carillon.v1.json\r\n";
    for (request, expected, word) in [
        ("GET /ws HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 426, "WebSocket"),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 404, "/ws"),
        ("GET /index.html HTTP/1.0\r\n\r\n".to_owned(), 404, "/ws"),
        ("POST /ws HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi".to_owned(), 405, "GET"),
        ("DELETE /healthz HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 405, "GET"),
        (format!("GET /ws HTTP/1.1\r\nHost: x\r\n{upgrade}{key}{json}Sec-WebSocket-Version: 8\r\n\r\n"), 426, "13"),
        (format!("GET /ws HTTP/1.1\r\nHost: x\r\n{upgrade}{json}Sec-WebSocket-Version: 13\r\n\r\n"), 400, "Key"),
        (
            format!("GET /ws HTTP/1.1\r\nHost: x\r\n{upgrade}{key}Sec-WebSocket-Version: 13\r\n\r\n"),
            400,
            "carillon.v1.json",
        ),
        ("GET /healthz HTTP/1.1\r\n\r\n".to_owned(), 400, "Host"),
        ("GET /healthz HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n".to_owned(), 400, "Host"),
        ("GET /healthz HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n".to_owned(), 400, "Host"),
        ("GET /ws HTTP/1.1\r\nHost: x/y\r\n\r\n".to_owned(), 400, "Host"),
        (format!("GET /chat HTTP/1.1\r\nHost: x\r\n{upgrade}{key}{json}Sec-WebSocket-Version: 13\r\n\r\n"), 404, "/ws"),
    ] {
        let answer = answer(ws, &request);
        assert_eq!(status(&answer), expected, "{request}{answer}");
        let (head, body) = split(&answer);
        assert!(body.contains(word), "{request}{answer}");
        let head = head.to_ascii_lowercase();
        assert!(head.contains(&format!("\r\ncontent-length: {}", body.len())), "{answer}");
        assert!(head.contains("\r\ncontent-type: text/plain"), "{answer}");
        match expected {
            426 => {
                assert!(head.contains("\r\nupgrade: websocket") && head.contains("sec-websocket-version: 13"), "{head}")
            }
            405 => assert!(head.contains("\r\nallow: get"), "{head}"),
            _ => {}
        }
    }
}

#[test]
fn the_health_of_the_websocket_port_is_asked_with_get_and_head_on_one_connection() {
    let ws = Service::shared().ws();
    let requests = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nHEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n\
                    GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answers = answer(ws, requests);
    let all: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).collect();
    assert_eq!(all.len(), 3, "{answers}");
    for (answer, body) in all.iter().zip(["ok\n", "", "ok\n"]) {
        assert!(answer.starts_with("200"), "{answer}");
        assert!(answer.to_ascii_lowercase().contains("content-length: 3"), "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
    }
    assert!(all[2].to_ascii_lowercase().contains("connection: close"), "{answers}");
    // HAProxy and nginx ask in this form by default.
    assert_eq!(status(&answer(ws, "GET /healthz HTTP/1.0\r\n\r\n")), 200);
}

#[test]
fn a_request_head_that_is_too_large_or_no_http_is_refused() {
    let ws = Service::shared().ws();
    let refused = |request: &[u8]| {
        let answer = exchange(ws, request, false);
        let (head, body) = split(&answer);
        // The answer has a text, also where the library would give none, and states its length.
        assert!(
            body.len() > 10 && head.to_ascii_lowercase().contains(&format!("content-length: {}", body.len())),
            "{answer}"
        );
        assert!(head.to_ascii_lowercase().contains("connection: close"), "{answer}");
        (status(&answer), answer.clone())
    };
    let many = "X: y\r\n".repeat(200);
    let (code, answer) = refused(format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{many}\r\n").as_bytes());
    assert!(code == 431 && answer.contains("8 KiB and 100 lines"), "{answer}");
    let large = "x".repeat(9 * 1024);
    assert_eq!(refused(format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX: {large}\r\n\r\n").as_bytes()).0, 431);
    // The head does not end: the answer must not wait for its end.
    assert_eq!(refused(format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX: {large}").as_bytes()).0, 431);
    for no_http in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"hello world\r\n\r\n", b"GET /ws\r\n\r\n"] {
        assert_eq!(refused(no_http).0, 400, "{no_http:?}");
    }
    // A second request after one that is complete.
    let both = exchange(ws, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nwhat\r\n\r\n", false);
    let (first, second) = both.split_once("ok\n").unwrap_or_else(|| panic!("two answers: {both}"));
    assert_eq!((status(first), status(second)), (200, 400), "{both}");
}

/// RFC 9113, section 7: "HTTP_1_1_REQUIRED (0x0d): The endpoint requires that HTTP/1.1 be used instead of HTTP/2."
#[test]
fn a_client_of_http_2_is_told_that_http_1_is_spoken() {
    let mut stream = TcpStream::connect(Service::shared().ws()).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").expect("written");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let (settings, goaway) = answer.split_at(9);
    assert_eq!(settings, b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", "{answer:?}");
    assert_eq!((goaway[3], &goaway[9..13], &goaway[13..17]), (7, &[0; 4][..], &[0, 0, 0, 0xd][..]), "{answer:?}");
    assert_eq!(usize::from(goaway[2]), goaway.len() - 9, "one whole frame: {answer:?}");
    assert!(goaway.ends_with(b"over HTTP/1.1"), "{answer:?}");
}

#[test]
fn half_a_request_head_is_answered_when_its_time_is_over() {
    let service = Service::start("gateway.sign_in_timeout_ms = 500");
    assert_eq!(status(&exchange(service.ws(), b"GET /healthz HTTP/1.1\r\nHo", false)), 408);
    // A connection that is kept after an answer ends without a message, because the client may be sending its next
    // request.
    let kept = exchange(service.ws(), b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", false);
    assert_eq!((status(&kept), kept.matches("HTTP/1.1").count()), (200, 1), "{kept}");
}

#[test]
fn browsers_of_other_sites_are_refused_where_the_operator_lists_origins() {
    let service = Service::start(r#"gateway.origins = ["https://chat.example.org", "https://*.example.net"]"#);
    for (origin, expected) in [
        ("", 101),
        ("Origin: https://chat.example.org\r\n", 101),
        ("Origin: https://CHAT.example.org:443\r\n", 101),
        ("Origin: https://a.b.example.net\r\n", 101),
        ("Origin: http://chat.example.org\r\n", 403),
        ("Origin: https://chat.example.org:8443\r\n", 403),
        ("Origin: https://chat.example.org.evil.example\r\n", 403),
        ("Origin: https://example.net\r\n", 403),
        ("Origin: https://evilexample.net\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Origin: https://chat.example.org\r\nOrigin: https://evil.example\r\n", 403),
    ] {
        let answer = exchange(service.ws(), handshake("carillon.v1.json", origin).as_bytes(), true);
        assert_eq!(status(&answer), expected, "{origin}{answer}");
    }
    // Without a list of origins anybody may connect; a token is needed all the same.
    let answer = exchange(
        Service::shared().ws(),
        handshake("carillon.v1.json", "Origin: https://x.example\r\n").as_bytes(),
        true,
    );
    assert_eq!(status(&answer), 101);
}

#[test]
fn a_frame_in_one_segment_with_the_handshake_is_not_lost() {
    let service = Service::shared();
    let token = service.token("hasty");
    let frame = format!(r#"{{"signIn":{{"device":"d","token":"{token}"}}}}"#);
    let first = WebSocket::frame(0x81, frame.as_bytes());
    let mut ws = WebSocket::open_with(service.ws(), "carillon.v1.json", &first);
    let Heard::Text(signed_in) = ws.next() else { panic!("signed in") };
    assert!(signed_in.contains("signedIn"), "{signed_in}");
}

/// What the client sends, and what it receives: the code of the Bye and the close code.
#[test]
fn each_ending_has_its_bye_and_its_close_code() {
    let service = Service::shared();
    let long = "x".repeat(300 * 1024);
    // The length would fit into fewer bytes.
    let long_length = [&[0x81, 0x80 | 126, 0, 2, 0, 0, 0, 0][..], b"{}"].concat();
    let longer_length = [&[0x81, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0][..], b"{}"].concat();
    let cases: [(&str, &str, Vec<u8>, Code, u16); 15] = [
        ("carillon.v1.json", "a reserved bit", WebSocket::frame(0xc1, b"{}"), Code::Invalid, 1002),
        ("carillon.v1.json", "an unknown opcode", WebSocket::frame(0x83, b""), Code::Invalid, 1002),
        ("carillon.v1.json", "a frame without a mask", vec![0x81, 2, b'{', b'}'], Code::Invalid, 1002),
        ("carillon.v1.json", "a continuation of nothing", WebSocket::frame(0x80, b"{}"), Code::Invalid, 1002),
        ("carillon.v1.json", "half a ping", WebSocket::frame(0x09, b""), Code::Invalid, 1002),
        ("carillon.v1.json", "a close code that none may send", WebSocket::frame(0x88, &[3]), Code::Invalid, 1002),
        ("carillon.v1.json", "a length in two bytes for no need", long_length, Code::Invalid, 1002),
        ("carillon.v1.proto", "a length in eight bytes for no need", longer_length, Code::Invalid, 1002),
        ("carillon.v1.json", "bytes where text must be", WebSocket::frame(0x82, b"{}"), Code::Invalid, 1003),
        ("carillon.v1.proto", "text where bytes must be", WebSocket::frame(0x81, b"{}"), Code::Invalid, 1003),
        ("carillon.v1.json", "text that is not UTF-8", WebSocket::frame(0x81, &[0xff]), Code::Invalid, 1007),
        ("carillon.v1.proto", "no protobuf", WebSocket::frame(0x82, &[0xff; 9]), Code::Invalid, 1007),
        ("carillon.v1.json", "a second sign-in", WebSocket::frame(0x81, br#"{"signIn":{}}"#), Code::Invalid, 1008),
        ("carillon.v1.json", "too long a frame", WebSocket::frame(0x81, long.as_bytes()), Code::TooLarge, 1009),
        (
            "carillon.v1.json",
            "the client signs out",
            WebSocket::frame(0x81, br#"{"signOut":{}}"#),
            Code::SignedOut,
            1000,
        ),
    ];
    for (number, (format, what, bytes, code, close)) in cases.into_iter().enumerate() {
        let user = format!("ending-{number}");
        let mut ws = WebSocket::signed_in(service, format, &user);
        ws.send(&bytes);
        let (bye, reason) = ws.bye();
        assert_eq!(bye, code, "{what}: {reason}");
        assert!(!reason.is_empty(), "{what}");
        assert_eq!(ws.close_code(), Some(close), "{what}: {reason}");
        assert_eq!(ws.next(), Heard::End, "{what}: the gateway closes");
    }
}

#[test]
fn a_clients_own_close_is_answered_with_its_code() {
    let service = Service::shared();
    for (number, code) in [1000_u16, 1001, 4000].into_iter().enumerate() {
        let mut ws = WebSocket::signed_in(service, "carillon.v1.json", &format!("closer-{number}"));
        ws.send(&WebSocket::frame(0x88, &code.to_be_bytes()));
        assert_eq!(ws.close_code(), Some(code));
        assert_eq!(ws.next(), Heard::End);
    }
}

/// RFC 6455, section 7.4: some codes are never sent, others are reserved.
#[test]
fn a_close_with_a_code_that_none_may_send_has_a_bye_and_1002() {
    let service = Service::shared();
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        for (format, reason) in [("carillon.v1.json", &b""[..]), ("carillon.v1.proto", b"gone")] {
            let mut ws = WebSocket::signed_in(service, format, &format!("closed-{code}"));
            ws.send(&WebSocket::frame(0x88, &[&code.to_be_bytes()[..], reason].concat()));
            let (bye, reason) = ws.bye();
            assert_eq!(bye, Code::Invalid, "{code}: {reason}");
            assert!(reason.contains(&code.to_string()), "{code}: {reason}");
            assert_eq!((ws.close_code(), ws.next()), (Some(1002), Heard::End), "{code}");
        }
    }
}

#[test]
fn wrong_credentials_silence_and_a_stop_have_their_close_codes() {
    let mut service = Service::start("gateway.sign_in_timeout_ms = 1000");
    let mut ws = WebSocket::open(service.ws(), "carillon.v1.json");
    ws.send(&WebSocket::frame(0x81, br#"{"signIn":{"device":"d","token":"x"}}"#));
    assert_eq!((ws.bye().0, ws.close_code()), (Code::Unauthenticated, Some(1008)));
    let mut ws = WebSocket::open(service.ws(), "carillon.v1.json");
    assert_eq!((ws.bye().0, ws.close_code()), (Code::TimedOut, Some(1008)));
    let mut ws = WebSocket::signed_in(&service, "carillon.v1.json", "stays");
    service.node.terminate();
    assert_eq!((ws.bye().0, ws.close_code()), (Code::ShuttingDown, Some(1001)));
}

#[test]
fn no_more_than_8_kib_of_a_message_is_read_before_the_sign_in() {
    let service = Service::shared();
    for format in ["carillon.v1.json", "carillon.v1.proto"] {
        let opcode = if format.ends_with("json") { 1 } else { 2 };
        // Only the length of the frame comes: the answer must not wait for the rest.
        let mut ws = WebSocket::open(service.ws(), format);
        ws.send(&[0x80 | opcode, 0x80 | 126, 0x20, 0x01, 0, 0, 0, 0]);
        assert_eq!((ws.bye().0, ws.close_code()), (Code::TooLarge, Some(1009)), "{format}: one frame");
        // A message comes in pieces, of which none is too large and the last one does not come.
        let mut ws = WebSocket::open(service.ws(), format);
        ws.send(&WebSocket::frame(opcode, &[b' '; 5000]));
        ws.send(&WebSocket::frame(0, &[b' '; 5000]));
        assert_eq!((ws.bye().0, ws.close_code()), (Code::TooLarge, Some(1009)), "{format}: pieces");
    }
    // After it, a message may be as large as the limits say.
    let mut ws = WebSocket::signed_in(service, "carillon.v1.json", "talkative");
    let text = "x".repeat(50_000);
    let send = format!(
        r#"{{"send":{{"clientId":"1","to":{{"user":"talkative"}},"content":{{"text":{{"body":"{text}"}}}}}}}}"#
    );
    ws.send(&WebSocket::frame(0x81, send.as_bytes()));
    let Heard::Text(accepted) = ws.next() else { panic!("accepted") };
    assert!(accepted.contains("accepted"), "{accepted}");
}

/// A browser runs a hidden tab's timers once a minute or less, but answers pings all the time.
#[test]
fn a_hidden_tab_stays_signed_in_by_answering_pings() {
    let service = Service::start("gateway.heartbeat_ms = 200\ngateway.silence_ms = 1000");
    let mut hidden = WebSocket::signed_in(&service, "carillon.v1.json", "hidden");
    let mut gone = WebSocket::signed_in(&service, "carillon.v1.json", "gone");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        match hidden.next() {
            Heard::Ping(payload) => hidden.send(&WebSocket::frame(0x8a, &payload)),
            other => panic!("after {:?}: {other:?}", began.elapsed()),
        }
    }
    // The other one was asked, too, and did not answer.
    let mut asked = 0;
    let bye = loop {
        match gone.next() {
            Heard::Ping(_) => asked += 1,
            Heard::Text(frame) => break frame,
            other => panic!("{other:?}"),
        }
    };
    assert!(asked > 0 && bye.contains("CODE_TIMED_OUT"), "{asked} pings, then {bye}");
}

#[test]
fn a_client_that_keeps_to_the_heartbeat_is_not_pinged() {
    let service = Service::start("gateway.heartbeat_ms = 1000\ngateway.silence_ms = 5000");
    let mut ws = WebSocket::signed_in(&service, "carillon.v1.json", "punctual");
    for nonce in 1..=4 {
        std::thread::sleep(Duration::from_millis(800));
        ws.send(&WebSocket::frame(0x81, format!(r#"{{"ping":{{"nonce":"{nonce}"}}}}"#).as_bytes()));
        let Heard::Text(pong) = ws.next() else { panic!("a pong, and no ping before it") };
        assert!(pong.contains("pong"), "{pong}");
    }
}

#[test]
fn a_connection_that_is_reset_in_the_middle_of_the_handshake_harms_nobody() {
    let ws: SocketAddr = Service::shared().ws();
    drop(TcpStream::connect(ws).expect("connects"));
    assert_eq!(status(&answer(ws, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")), 200);
}
