//! Accepts, as many as there are slots.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use carillon_proto::{
    pb::client::{Bye, Code, server_frame::Body},
    tasks::Tasks,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

use crate::{codec::varint::put_frame, metrics};

pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    /// Given back when the connection ends.
    pub(super) slot: OwnedSemaphorePermit,
}

/// Connections being refused at the same time; more are closed without a word.
const REFUSING: usize = 64;
const REFUSAL: Duration = Duration::from_secs(1);
const OVERLOADED_AGAIN_MS: u32 = 5_000;

/// For ever. `refusal` is written to those for whom there is no slot.
pub(super) async fn run<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    slots: Arc<Semaphore>,
    tasks: Tasks,
    refusal: Option<Vec<u8>>,
    handle: impl Fn(Accepted) -> F,
) {
    let refusing = Arc::new(Semaphore::new(REFUSING));
    loop {
        let (stream, peer) = accept(&listener).await;
        match Arc::clone(&slots).try_acquire_owned() {
            Ok(slot) => tasks.spawn("client-connection", handle(Accepted { stream, peer, slot })),
            Err(_) => {
                ::metrics::counter!(metrics::CONNECTIONS_REFUSED).increment(1);
                if let (Some(words), Ok(turn)) = (refusal.clone(), Arc::clone(&refusing).try_acquire_owned()) {
                    tasks.spawn("client-refusal", async move {
                        let _ = timeout(REFUSAL, refuse(stream, &words)).await;
                        drop(turn);
                    });
                }
            }
        }
    }
}

pub(super) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Frames are batched here; the kernel need not wait for more. A socket that can't has broken already.
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
            Err(error) => {
                // Out of file descriptors, mostly: at once it would fail again.
                tracing::warn!(%error, "can't accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn refuse(mut stream: TcpStream, words: &[u8]) {
    if stream.write_all(words).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    // What the client has sent is read, so that closing does not reset the connection under the words.
    let mut dropped = [0; 1024];
    while matches!(stream.read(&mut dropped).await, Ok(1..)) {}
}

/// What a client over TCP hears.
pub(super) fn bye_overloaded() -> Vec<u8> {
    let mut out = BytesMut::new();
    put_frame(&Body::Bye(overloaded()).into(), &mut out);
    out.to_vec()
}

pub(super) fn overloaded() -> Bye {
    Bye {
        code: Code::Overloaded.into(),
        reason: "this gateway has as many connections as it may".to_owned(),
        reconnect: true,
        reconnect_after_ms: OVERLOADED_AGAIN_MS,
    }
}

/// What a client over WebSocket hears before its handshake.
pub(super) fn http_503() -> Vec<u8> {
    let body = "this gateway has as many connections as it may\n";
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        OVERLOADED_AGAIN_MS / 1000,
        body.len()
    )
    .into_bytes()
}
