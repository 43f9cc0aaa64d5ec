//! One connection to a gateway, frame by frame.

mod codec;
mod grpc;
mod json;
mod stream;
mod websocket;

use std::{io, pin::Pin, time::Duration};

use carillon_proto::{
    duration, limits,
    pb::client::{ClientFrame, ServerFrame, client_frame},
};
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};

#[cfg(any(test, fuzzing))]
pub(crate) use codec::take_frames;
pub(crate) use stream::{ByteStream, open as open_stream};

use crate::{Address, TlsError, Transport, Trust};

/// Longest frame that the client reads, in bytes: the longest message and its envelope.
const MAX_SERVER_FRAME_BYTES: usize = 4 * limits::MAX_FRAME_BYTES;

pub(crate) type Outgoing = Pin<Box<dyn Sink<ClientFrame, Error = ConnectionError> + Send>>;
pub(crate) type Incoming = Pin<Box<dyn Stream<Item = Result<ServerFrame, ConnectionError>> + Send>>;

/// An open connection. The frames on it tell whether it is signed in.
pub struct Connection {
    outgoing: Outgoing,
    incoming: Incoming,
}

#[derive(Debug, Clone)]
pub struct ConnectOptions {
    pub trust: Trust,
    /// The name that the certificate must carry, if it differs from the host of the address.
    pub server_name: Option<String>,
    /// Deadline for reaching the gateway and for the handshakes of TLS and WebSocket.
    pub timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { trust: Trust::default(), server_name: None, timeout: Duration::from_secs(10) }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("can't connect to {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("no connection to {address} within {}", duration::in_words(*after))]
    Timeout { address: String, after: Duration },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("WebSocket: {0}")]
    WebSocket(#[source] Box<tokio_tungstenite::tungstenite::Error>),
    /// The service has answered, but has nothing at the path of the address.
    #[error("there is no WebSocket at {address}: the answer is HTTP 404, not found")]
    NoWebSocket { address: String },
    #[error("WebSocket: the gateway did not choose subprotocol {0}")]
    Subprotocol(&'static str),
    #[error("gRPC: {0}")]
    Grpc(#[source] Box<tonic::Status>),
    #[error("gRPC: can't connect to {address}: {source}")]
    GrpcConnect { address: String, source: tonic::transport::Error },
    #[error("frame of {bytes} bytes is longer than {max}")]
    TooLong { bytes: u64, max: usize },
    #[error("frame is not what the protocol says: {0}")]
    Frame(String),
    #[error("connection is closed")]
    Closed,
}

impl Connection {
    /// Opens a connection. Nothing has been sent on it yet: the first frame must be SignIn.
    pub async fn connect(address: &Address, options: &ConnectOptions) -> Result<Self, ConnectionError> {
        let connecting = async {
            match &address.transport {
                Transport::Tcp => Ok(codec::frames(stream::open(address, options).await?)),
                Transport::WebSocket { path, format } => {
                    let stream = stream::open(address, options).await?;
                    websocket::handshake(stream, address, path, *format).await
                }
                Transport::Grpc => grpc::open(address, options).await,
            }
        };
        match tokio::time::timeout(options.timeout, connecting).await {
            Ok(opened) => opened,
            Err(_) => Err(ConnectionError::Timeout { address: address.to_string(), after: options.timeout }),
        }
    }

    /// Returns when the frame has been given to the operating system.
    pub async fn send_frame(&mut self, body: client_frame::Body) -> Result<(), ConnectionError> {
        self.outgoing.send(ClientFrame { body: Some(body) }).await
    }

    /// Sends several frames, which may travel in one segment.
    pub async fn send_frames(&mut self, bodies: Vec<client_frame::Body>) -> Result<(), ConnectionError> {
        for body in bodies {
            self.outgoing.feed(ClientFrame { body: Some(body) }).await?;
        }
        self.outgoing.flush().await
    }

    /// Closes the sending half of the connection; it can still receive. Over WebSocket, which has no halves, this
    /// starts the closing handshake.
    pub async fn close_half(&mut self) -> Result<(), ConnectionError> {
        self.outgoing.close().await
    }

    /// Sends a frame without a body, which every gateway refuses: for tests of gateways.
    pub async fn send_empty(&mut self) -> Result<(), ConnectionError> {
        self.outgoing.send(ClientFrame { body: None }).await
    }

    /// The next frame; `None` when the gateway has closed the connection. Cancel-safe.
    pub async fn next_frame(&mut self) -> Result<Option<ServerFrame>, ConnectionError> {
        self.incoming.next().await.transpose()
    }

    pub(crate) fn new(
        outgoing: impl Sink<ClientFrame, Error = ConnectionError> + Send + 'static,
        incoming: impl Stream<Item = Result<ServerFrame, ConnectionError>> + Send + 'static,
    ) -> Self {
        Self { outgoing: Box::pin(outgoing), incoming: Box::pin(incoming) }
    }

    pub(crate) fn split(self) -> (Outgoing, Incoming) {
        (self.outgoing, self.incoming)
    }
}
