//! A gateway that follows the script of a test: the other end of real sockets.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf as _, BytesMut};
use carillon_client::{Acknowledge, Client, ClientConfig, Credential, Ending, Event, Events, State};
use carillon_proto::{
    Epoch, Position, TimelineId, UserId,
    pb::client::{
        Accepted, ClientFrame, Deliver, Envelope, Limits, ServerFrame, SignIn, SignedIn, TimelineState, client_frame,
        server_frame,
    },
    tasks::Tasks,
};
use prost::Message as _;
use rustls::HandshakeKind;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Gateway {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
    tls: Option<TlsAcceptor>,
}

pub(crate) struct Peer {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    /// True if the client has resumed the TLS session of an earlier connection.
    pub(crate) resumed: bool,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Gateway {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        Self { address: listener.local_addr().expect("address"), listener, tls: None }
    }

    pub(crate) async fn start_tls(config: rustls::ServerConfig) -> Self {
        Self { tls: Some(TlsAcceptor::from(Arc::new(config))), ..Self::start().await }
    }

    pub(crate) async fn accept(&self) -> Peer {
        let (stream, _) = within("a connection", self.listener.accept()).await.expect("accepted");
        let (stream, resumed): (Box<dyn Stream>, _) = match &self.tls {
            None => (Box::new(stream), false),
            Some(tls) => {
                let stream = tls.accept(stream).await.expect("handshake");
                let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                (Box::new(stream), resumed)
            }
        };
        Peer { stream, buffer: BytesMut::new(), resumed }
    }

    /// Accepts a connection, and answers its request as a server of HTTP that has nothing there.
    pub(crate) async fn answer_not_found(&self) {
        let (mut stream, _) = within("a connection", self.listener.accept()).await.expect("accepted");
        let mut request = BytesMut::new();
        while !request.ends_with(b"\r\n\r\n") {
            assert_ne!(within("a request", stream.read_buf(&mut request)).await.expect("read"), 0, "{request:?}");
        }
        stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await.expect("written");
    }

    /// Accepts a connection whose handshake fails.
    pub(crate) async fn refuse(&self) {
        let (stream, _) = within("a connection", self.listener.accept()).await.expect("accepted");
        let tls = self.tls.as_ref().expect("a gateway with TLS");
        tls.accept(stream).await.expect_err("the client refuses");
    }

    /// Accepts a connection and its sign-in; the delivery of the inbox starts after this position.
    pub(crate) async fn accept_signed_in(&self, delivered_from: u64) -> (Peer, SignIn) {
        let mut peer = self.accept().await;
        let client_frame::Body::SignIn(sign_in) = peer.receive().await else { panic!("no SignIn") };
        let epoch = if delivered_from == 0 { 0 } else { 7 };
        let inbox = TimelineState {
            timeline: Some(inbox().to_client()),
            epoch,
            first: 1,
            last: delivered_from,
            delivered_from,
        };
        peer.send(server_frame::Body::SignedIn(SignedIn {
            handle: "1-1".into(),
            user: "alice".into(),
            device: "test".into(),
            limits: Some(Limits { max_pending_sends: 100, ..Limits::default() }),
            heartbeat_ms: 60_000,
            timelines: vec![inbox],
            ..SignedIn::default()
        }))
        .await;
        (peer, sign_in)
    }
}

impl Peer {
    pub(crate) async fn receive(&mut self) -> client_frame::Body {
        within("a frame", async {
            loop {
                let mut ahead = &self.buffer[..];
                if let Ok(length) = prost::decode_length_delimiter(&mut ahead)
                    && ahead.len() >= length
                {
                    let prefix = self.buffer.len() - ahead.len();
                    self.buffer.advance(prefix);
                    let frame = ClientFrame::decode(self.buffer.split_to(length)).expect("a frame");
                    return frame.body.expect("a body");
                }
                assert_ne!(self.stream.read_buf(&mut self.buffer).await.expect("read"), 0, "the client is gone");
            }
        })
        .await
    }

    /// The client id of the next frame, which must be a Send.
    pub(crate) async fn receive_send(&mut self) -> String {
        match self.receive().await {
            client_frame::Body::Send(send) => send.client_id,
            other => panic!("expected Send, got {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, body: server_frame::Body) {
        self.send_together([body]).await;
    }

    /// Sends the frames in one write, so that they arrive together.
    pub(crate) async fn send_together(&mut self, bodies: impl IntoIterator<Item = server_frame::Body>) {
        let frames = bodies.into_iter().map(|body| ServerFrame { body: Some(body) });
        let bytes: Vec<u8> = frames.flat_map(|frame| frame.encode_length_delimited_to_vec()).collect();
        self.stream.write_all(&bytes).await.expect("written");
    }

    pub(crate) async fn deliver(&mut self, seq: u64) {
        let envelope = Some(Envelope { id: format!("message-{seq}"), ..Envelope::default() });
        let (timeline, position) = (Some(inbox().to_client()), Some(at(seq).into()));
        self.send(server_frame::Body::Deliver(Deliver { timeline, position, envelope })).await;
    }

    pub(crate) async fn accept(&mut self, client_id: &str, seq: u64) {
        self.send(accepted(client_id, seq)).await;
    }
}

pub(crate) fn accepted(client_id: &str, seq: u64) -> server_frame::Body {
    server_frame::Body::Accepted(Accepted {
        client_id: client_id.to_owned(),
        message_id: format!("message-{seq}"),
        timeline: Some(inbox().to_client()),
        position: Some(at(seq).into()),
        time_ms: 1,
        expires_at_ms: 0,
    })
}

pub(crate) fn config(gateways: &[&Gateway]) -> ClientConfig {
    let scheme = |gateway: &Gateway| if gateway.tls.is_some() { "tls" } else { "tcp" };
    let url = |gateway: &&Gateway| format!("{}://{}", scheme(gateway), gateway.address).parse().expect("address");
    let addresses = gateways.iter().map(url).collect();
    let mut config = ClientConfig::new(addresses, "alice", "test", Credential::Token("token".into()));
    config.backoff = (Duration::from_millis(1), Duration::from_millis(20));
    config.acknowledge = Acknowledge::Explicit(Duration::from_millis(1));
    config
}

pub(crate) fn open(config: ClientConfig) -> (Client, Events) {
    Client::open(config, &Tasks::new()).expect("valid")
}

/// The next event that is not about the connection.
pub(crate) async fn next(events: &mut Events) -> Event {
    loop {
        match within("an event", events.next()).await.expect("not ended") {
            Event::State(_) => {}
            event => return event,
        }
    }
}

pub(crate) async fn ended(events: &mut Events) -> (Ending, String) {
    loop {
        if let Event::State(State::Ended { ending, why }) = within("the end", events.next()).await.expect("told") {
            return (ending, why);
        }
    }
}

pub(crate) fn delivered(event: &Event) -> u64 {
    match event {
        Event::Delivered { position, envelope, .. } => {
            assert_eq!(envelope.id, format!("message-{}", position.seq));
            position.seq
        }
        other => panic!("expected a delivery, got {other:?}"),
    }
}

pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

pub(crate) fn inbox() -> TimelineId {
    TimelineId::Inbox(UserId::new("alice").expect("valid"))
}

pub(crate) fn at(seq: u64) -> Position {
    Position { epoch: Epoch(7), seq }
}
