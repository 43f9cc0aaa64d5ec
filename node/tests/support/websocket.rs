//! A client over HTTP and WebSocket that sends bytes, so that it can also send what no library would.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use carillon_proto::pb::client::{
    ClientFrame, Code, ServerFrame, SignIn, client_frame, server_frame::Body, sign_in::Credential,
};
use prost::Message as _;

use super::service::Service;

const PATIENCE: Duration = Duration::from_secs(30);

fn open(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream
}

/// The answer until the server closes the connection; with `only_head`, until the end of the first head.
pub fn exchange(address: SocketAddr, request: &[u8], only_head: bool) -> String {
    let mut stream = open(address);
    stream.write_all(request).expect("written");
    let mut answer = Vec::new();
    let mut byte = [0];
    // A reset counts as the end, too.
    while matches!(stream.read(&mut byte), Ok(1)) {
        answer.push(byte[0]);
        if only_head && answer.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// The whole answer to requests after which the client sends no more.
pub fn answer(address: SocketAddr, requests: &str) -> String {
    let mut stream = open(address);
    stream.write_all(requests.as_bytes()).expect("written");
    stream.shutdown(Shutdown::Write).expect("half closed");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

pub fn handshake(protocol: &str, more: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n{more}\r\n"
    )
}

#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    /// With the close code.
    Close(Option<u16>),
    End,
}

pub struct WebSocket {
    stream: TcpStream,
}

impl WebSocket {
    pub fn open(address: SocketAddr, protocol: &str) -> Self {
        Self::open_with(address, protocol, &[])
    }

    /// Opens a WebSocket and sends `first` right after the handshake, in the same segment.
    pub fn open_with(address: SocketAddr, protocol: &str, first: &[u8]) -> Self {
        let mut stream = open(address);
        stream.write_all(&[handshake(protocol, "").as_bytes(), first].concat()).expect("written");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("the answer's head");
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        Self { stream }
    }

    pub fn signed_in(service: &Service, protocol: &str, user: &str) -> Self {
        let mut ws = Self::open(service.ws(), protocol);
        let token = service.token(user);
        if protocol.ends_with("json") {
            let frame = format!(r#"{{"signIn":{{"device":"d","token":"{token}"}}}}"#);
            ws.send(&Self::frame(0x81, frame.as_bytes()));
        } else {
            let sign_in =
                SignIn { device: "d".to_owned(), credential: Some(Credential::Token(token)), ..Default::default() };
            let frame = ClientFrame { body: Some(client_frame::Body::SignIn(sign_in)) };
            ws.send(&Self::frame(0x82, &frame.encode_to_vec()));
        }
        let body = ws.next_body();
        assert!(matches!(body, Body::SignedIn(_)), "{body:?}");
        ws
    }

    /// A frame as a client sends it; `first` is the first byte with flags and opcode.
    pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            small @ ..126 => frame.push(0x80 | small as u8),
            middle @ ..65_536 => {
                frame.push(0x80 | 126);
                frame.extend((middle as u16).to_be_bytes());
            }
            large => {
                frame.push(0x80 | 127);
                frame.extend((large as u64).to_be_bytes());
            }
        }
        let mask = [0x12, 0x34, 0x56, 0x78];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    pub fn send(&mut self, bytes: &[u8]) {
        // The gateway may have closed the connection already; what it has written can be read all the same.
        let _ = self.stream.write_all(bytes);
    }

    /// The next message; panics if none comes in time.
    pub fn next(&mut self) -> Heard {
        let mut head = [0; 2];
        if self.stream.read_exact(&mut head).map_err(|error| assert!(!is_timeout(&error), "nothing comes")).is_err() {
            return Heard::End;
        }
        assert_eq!(head[1] & 0x80, 0, "a server sends without a mask");
        let length = match head[1] {
            126 => u16::from_be_bytes(self.exactly()).into(),
            127 => u64::from_be_bytes(self.exactly()) as usize,
            small => small.into(),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).expect("the payload");
        match head[0] {
            0x81 => Heard::Text(String::from_utf8(payload).expect("UTF-8")),
            0x82 => Heard::Binary(payload),
            0x88 => Heard::Close(payload.first_chunk().map(|code| u16::from_be_bytes(*code))),
            0x89 => Heard::Ping(payload),
            other => panic!("a frame that begins with {other:#x}"),
        }
    }

    /// The next frame of the protocol, in either form.
    pub fn next_body(&mut self) -> Body {
        let frame = match self.next() {
            Heard::Text(text) => serde_json::from_str(&text).expect("a frame"),
            Heard::Binary(bytes) => ServerFrame::decode(&bytes[..]).expect("a frame"),
            other => panic!("expected a frame, got {other:?}"),
        };
        frame.body.expect("a body")
    }

    pub fn bye(&mut self) -> (Code, String) {
        match self.next_body() {
            Body::Bye(bye) => (bye.code(), bye.reason),
            other => panic!("expected Bye, got {other:?}"),
        }
    }

    pub fn close_code(&mut self) -> Option<u16> {
        match self.next() {
            Heard::Close(code) => code,
            other => panic!("expected a close, got {other:?}"),
        }
    }

    fn exactly<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).expect("the length");
        bytes
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}
