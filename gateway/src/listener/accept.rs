//! Accepts, as many as there are slots, and learns whose connections they are.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use carillon_proto::{
    accepting::Accepting,
    pb::client::{Bye, Code, server_frame::Body},
    seldom::Seldom,
    tasks::Tasks,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{timeout, timeout_at},
};

use super::{
    proxies::Proxies,
    proxy_protocol::{Reader, Source},
    slots::{Slot, Slots},
};
use crate::codec::varint::put_frame;

/// The bounds and rules of one listener.
pub(super) struct Entry {
    pub(super) slots: Arc<Slots>,
    pub(super) proxies: Arc<Proxies>,
    /// Each connection begins with the PROXY protocol, and comes from a trusted proxy.
    pub(super) proxy_protocol: bool,
    /// From the first byte to the end of the sign-in.
    pub(super) sign_in_timeout: Duration,
}

pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    /// The other end of the socket.
    pub(super) peer: SocketAddr,
    /// By then it is signed in, or closed.
    pub(super) deadline: Instant,
    /// Given back when the connection ends.
    pub(super) slot: Slot,
}

/// Connections being refused at the same time; more are closed without a word.
const REFUSING: usize = 64;
const REFUSAL: Duration = Duration::from_secs(1);
const OVERLOADED_AGAIN_MS: u32 = 5_000;
const FULL: &str = "this gateway has as many connections as it may";
const CROWDED: &str = "this address has as many connections as it may";

/// For ever. `refusal` is written to those for whom there is no slot.
pub(super) async fn run<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    name: &'static str,
    entry: Arc<Entry>,
    tasks: Tasks,
    refusal: Option<Vec<u8>>,
    handle: impl Fn(Accepted) -> F,
) {
    let refusing = Arc::new(Semaphore::new(REFUSING));
    let mut accepting = Accepting::new(listener, name);
    loop {
        let (stream, peer) = accepting.next().await;
        match entry.slots.take() {
            Some(slot) => tasks.spawn("client-connection", handle(entry.accepted(stream, peer, slot))),
            None => {
                if let (Some(words), Ok(turn)) = (refusal.clone(), Arc::clone(&refusing).try_acquire_owned()) {
                    tasks.spawn("client-refusal", async move {
                        refuse(stream, &words).await;
                        drop(turn);
                    });
                }
            }
        }
    }
}

impl Entry {
    pub(super) fn accepted(&self, stream: TcpStream, peer: SocketAddr, slot: Slot) -> Accepted {
        Accepted { stream, peer, deadline: Instant::now() + self.sign_in_timeout, slot }
    }

    /// Whose connection it is, as far as the socket and the PROXY protocol tell. None: it is to be closed.
    pub(super) async fn source(&self, accepted: &mut Accepted) -> Option<IpAddr> {
        let peer = accepted.peer.ip().to_canonical();
        if !self.proxy_protocol {
            return Some(peer);
        }
        // Boxed: most listeners have no proxy that speaks it.
        let read = Box::pin(async {
            self.check_proxy(peer)?;
            let mut reader = Reader::default();
            poll_fn(|cx| reader.poll(&mut accepted.stream, cx)).await
        });
        let source = timeout_at(accepted.deadline.into(), read).await.ok()?;
        self.client_of(peer, source).ok()
    }

    /// Only of trusted proxies is a header taken.
    pub(super) fn check_proxy(&self, peer: IpAddr) -> io::Result<()> {
        if self.proxies.trust(peer) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "not one of gateway.proxies.trusted"))
    }

    /// The client that the PROXY header names. A missing header is an error, and is logged.
    pub(super) fn client_of(&self, peer: IpAddr, source: io::Result<Source>) -> io::Result<IpAddr> {
        match source {
            Ok(Source::Client(client)) => Ok(client.to_canonical()),
            Ok(Source::Proxy) => Ok(peer),
            Err(error) => {
                /// Limits the log lines: a stranger can send any number of wrong headers.
                static TOLD: LazyLock<Seldom> = LazyLock::new(|| Seldom::new(3, Duration::from_secs(30)));
                // A proxy that looks whether somebody listens says nothing.
                if error.kind() != io::ErrorKind::UnexpectedEof
                    && let Some(left_out) = TOLD.turn(Instant::now())
                {
                    tracing::warn!(%peer, %error, left_out, "connection refused: this listener needs the PROXY protocol");
                }
                Err(error)
            }
        }
    }
}

/// Says why, and closes in order.
pub(super) async fn refuse(mut stream: TcpStream, words: &[u8]) {
    let refuse = async {
        if stream.write_all(words).await.is_err() || stream.shutdown().await.is_err() {
            return;
        }
        // What the client has sent is read, so that closing does not reset the connection under the words.
        let mut dropped = [0; 1024];
        while matches!(stream.read(&mut dropped).await, Ok(1..)) {}
    };
    // A client that does not take the words does without them.
    let _ = timeout(REFUSAL, refuse).await;
}

/// What a client over TCP hears when there is no slot.
pub(super) fn bye_full() -> Vec<u8> {
    framed(overloaded(FULL))
}

/// What a client over TCP hears when its address has too many connections.
pub(super) fn bye_crowded() -> Vec<u8> {
    framed(overloaded(CROWDED))
}

pub(super) fn full() -> Bye {
    overloaded(FULL)
}

pub(super) fn crowded() -> Bye {
    overloaded(CROWDED)
}

fn framed(bye: Bye) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_frame(&Body::Bye(bye).into(), &mut out);
    out.to_vec()
}

fn overloaded(reason: &str) -> Bye {
    Bye {
        code: Code::Overloaded.into(),
        reason: reason.to_owned(),
        reconnect: true,
        reconnect_after_ms: OVERLOADED_AGAIN_MS,
    }
}

/// What a client over WebSocket hears before its handshake.
pub(super) fn http_503() -> Vec<u8> {
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{FULL}\n",
        OVERLOADED_AGAIN_MS / 1000,
        FULL.len() + 1
    )
    .into_bytes()
}

/// What a client over WebSocket hears in its handshake.
pub(super) const CROWDED_TEXT: &str = "this address has as many connections as it may\n";
