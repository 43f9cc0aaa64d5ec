//! Where clients come in.

mod accept;
mod grpc;
mod tls;
mod ws;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use carillon_proto::{limits, pb::store::session::Protocol, tasks::Tasks};
use tokio::{
    net::{TcpListener, TcpSocket, lookup_host},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

pub use tls::TlsError;

use crate::{
    config::{GatewayConfig, ListenConfig},
    connection::{Shared, serve},
    transport::stream::StreamTransport,
};
use accept::Accepted;

/// Connections that wait to be accepted; the system has a bound of its own (Linux: net.core.somaxconn). All clients of a
/// gateway that has ended come at once, and whoever finds no place is tried again by its system a whole second later.
const BACKLOG: u32 = 16 * 1024;

/// A listener can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{key} {address:?} can't be listened on: {why}")]
    Listen { key: &'static str, address: String, why: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Bound, but not accepting yet.
pub(crate) struct Listeners {
    tcp: Option<TcpListener>,
    ws: Option<TcpListener>,
    grpc: Option<TcpListener>,
    tls: Option<tls::Tls>,
    slots: Arc<Semaphore>,
    handshake: Duration,
    max_frame_bytes: usize,
}

/// Where the listeners are; None if off.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Addresses {
    pub(crate) tcp: Option<SocketAddr>,
    pub(crate) ws: Option<SocketAddr>,
    pub(crate) grpc: Option<SocketAddr>,
}

impl Listeners {
    pub(crate) async fn bind(config: &GatewayConfig) -> Result<(Self, Addresses), BindError> {
        let tls = config.tls.as_ref().map(tls::Tls::load).transpose()?;
        let (tcp, tcp_at) = bind("tcp.listen", &config.tcp).await?;
        let (ws, ws_at) = bind("ws.listen", &config.ws).await?;
        let (grpc, grpc_at) = bind("grpc.listen", &config.grpc).await?;
        let slots = Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS)));
        let handshake = Duration::from_millis(config.sign_in_timeout_ms);
        let max_frame_bytes = config.max_frame_bytes;
        let addresses = Addresses { tcp: tcp_at, ws: ws_at, grpc: grpc_at };
        Ok((Self { tcp, ws, grpc, tls, slots, handshake, max_frame_bytes }, addresses))
    }

    /// Accepts until `accepting` is stopped; connections run in `tasks`.
    pub(crate) fn run(self, shared: &Arc<Shared>, tasks: &Tasks, accepting: &Tasks) {
        let acceptor = self.tls.as_ref().map(|tls| tls.acceptor.clone());
        if let Some(listener) = self.tcp {
            let (shared, acceptor, handshake) = (Arc::clone(shared), acceptor.clone(), self.handshake);
            let refusal = acceptor.is_none().then(accept::bye_overloaded);
            let handle = move |accepted| tcp(Arc::clone(&shared), acceptor.clone(), handshake, accepted);
            let accept = accept::run(listener, Arc::clone(&self.slots), tasks.clone(), refusal, handle);
            accepting.spawn("tcp-listener", accept);
        }
        if let Some(listener) = self.ws {
            let (shared, handshake, max_frame) = (Arc::clone(shared), self.handshake, self.max_frame_bytes);
            let refusal = acceptor.is_none().then(accept::http_503);
            let handle =
                move |accepted| ws::serve(Arc::clone(&shared), acceptor.clone(), handshake, max_frame, accepted);
            let accept = accept::run(listener, Arc::clone(&self.slots), tasks.clone(), refusal, handle);
            accepting.spawn("ws-listener", accept);
        }
        if let Some(listener) = self.grpc {
            let service = grpc::Service::new(Arc::clone(shared), Arc::clone(&self.slots), tasks.clone());
            let identity = self.tls.map(|tls| tls.identity);
            tasks.spawn(
                "grpc-listener",
                grpc::run(listener, identity, service, self.max_frame_bytes, accepting.clone()),
            );
        }
    }
}

async fn bind(
    key: &'static str,
    config: &ListenConfig,
) -> Result<(Option<TcpListener>, Option<SocketAddr>), BindError> {
    if !config.enabled {
        return Ok((None, None));
    }
    let failed = |why| BindError::Listen { key, address: config.listen.clone(), why };
    let listener = listen(&config.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((Some(listener), Some(address)))
}

/// On the first of its addresses that can be had.
async fn listen(address: &str) -> io::Result<TcpListener> {
    let mut failed = None;
    for address in lookup_host(address).await? {
        match listen_on(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the name has no address")))
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn tcp(shared: Arc<Shared>, acceptor: Option<TlsAcceptor>, handshake: Duration, accepted: Accepted) {
    let Accepted { stream, peer, slot } = accepted;
    let max = limits::MAX_FRAME_BYTES_BEFORE_SIGN_IN;
    // Each is boxed, so that a connection holds only what it is at.
    match acceptor {
        None => Box::pin(serve(shared, StreamTransport::new(stream, max), Protocol::Tcp, peer.ip())).await,
        Some(acceptor) => {
            // Whoever does not finish the handshake in time is let go without a word.
            if let Ok(Ok(stream)) = Box::pin(timeout(handshake, acceptor.accept(stream))).await {
                Box::pin(serve(shared, StreamTransport::new(stream, max), Protocol::Tcp, peer.ip())).await;
            }
        }
    }
    drop(slot);
}
