//! The listeners for clients.

mod accept;
mod grpc;
mod grpc_connect;
mod grpc_connection;
mod grpc_services;
mod http;
mod muffled;
pub(crate) use muffled::Answers;
pub(crate) mod origin;
pub(crate) mod proxies;
pub(crate) mod proxy_protocol;
mod refusal;
mod site;
mod slots;
mod tls;
mod ws;
mod xmpp;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{InvalidId, Ready, limits, pb::store::session::Protocol, tasks::Tasks};
use tokio::{
    net::{TcpListener, TcpSocket, lookup_host},
    time::timeout_at,
};
use tokio_rustls::TlsAcceptor;

pub(crate) use accept::REFUSING;
pub use tls::TlsError;
pub(crate) use tls::{Tls, XmppTlsSide};

use crate::{
    config::{GatewayConfig, InvalidConfig, ListenConfig},
    connection::{Arrival, Shared, serve},
    conversation::Rules,
    dialect::xmpp::Service,
    transport::stream::StreamTransport,
};
use accept::{Accepted, Entrance};
use grpc_connect::Clients;
use origin::Origins;
use slots::{Common, Slots};

/// Accept backlog; the system has a bound of its own (Linux: net.core.somaxconn). After a gateway has failed, all its
/// clients arrive at once, and the system of a client that finds no place retries only after a second.
const BACKLOG: u32 = 16 * 1024;

/// A listener can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{key} {address:?} can't be listened on: {why}")]
    Listen { key: &'static str, address: String, why: io::Error },
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("xmpp.domain is no domain: {0}")]
    Domain(#[from] InvalidId),
}

/// Bound, but not accepting yet.
pub(crate) struct Listeners {
    tcp: Option<TcpListener>,
    ws: Option<TcpListener>,
    grpc: Option<TcpListener>,
    xmpp: Option<TcpListener>,
    xmpp_tls: Option<TcpListener>,
    /// `None`: XMPP is off.
    xmpp_service: Option<Arc<Service>>,
    tls: Option<Arc<Tls>>,
    entrances: Entrances,
    max_frame_bytes: usize,
    origins: Origins,
}

/// The entrance of each listener.
struct Entrances {
    tcp: Arc<Entrance>,
    ws: Arc<Entrance>,
    grpc: Arc<Entrance>,
    xmpp: Arc<Entrance>,
    xmpp_tls: Arc<Entrance>,
}

/// The bound addresses; `None` if a listener is off.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Addresses {
    pub(crate) tcp: Option<SocketAddr>,
    pub(crate) ws: Option<SocketAddr>,
    pub(crate) grpc: Option<SocketAddr>,
    pub(crate) xmpp: Option<SocketAddr>,
    pub(crate) xmpp_tls: Option<SocketAddr>,
}

impl Listeners {
    pub(crate) async fn bind(config: &GatewayConfig, rules: &Arc<Rules>) -> Result<(Self, Addresses), BindError> {
        let service = config.xmpp.enabled.then(|| Service::new(&config.xmpp, Arc::clone(rules)));
        let xmpp_service = service.transpose()?.map(Arc::new);
        let tls = config.tls.as_ref().map(Tls::load).transpose()?.map(Arc::new);
        let (tcp, tcp_at) = bind("tcp.listen", &config.tcp).await?;
        let (ws, ws_at) = bind("ws.listen", &config.ws).await?;
        let (grpc, grpc_at) = bind("grpc.listen", &config.grpc).await?;
        let (xmpp, xmpp_at) = bind("xmpp.listen", &config.xmpp.plain_listener()).await?;
        let (xmpp_tls, xmpp_tls_at) = bind("xmpp.tls_listen", &config.xmpp.tls_listener()).await?;
        let addresses = Addresses { tcp: tcp_at, ws: ws_at, grpc: grpc_at, xmpp: xmpp_at, xmpp_tls: xmpp_tls_at };
        let listeners = Self {
            tcp,
            ws,
            grpc,
            xmpp,
            xmpp_tls,
            xmpp_service,
            tls,
            entrances: Entrances::new(config),
            max_frame_bytes: config.max_frame_bytes,
            origins: config.origins()?,
        };
        Ok((listeners, addresses))
    }

    /// The TLS setup of the listeners; `None` for plain text.
    pub(crate) fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.clone()
    }

    /// Accepts until `accepting` is stopped; connections run in `tasks`.
    pub(crate) fn run(self, shared: &Arc<Shared>, ready: &Ready, tasks: &Tasks, accepting: &Tasks) {
        let tls = self.tls;
        let Entrances { tcp: for_tcp, ws: for_ws, grpc: for_grpc, xmpp: for_xmpp, xmpp_tls: for_xmpp_tls } =
            self.entrances;
        if let Some(service) = self.xmpp_service {
            let tls = tls.clone().filter(|_| service.has_tls());
            let streams = |is_direct, entrance: &Arc<Entrance>| {
                let (shared, service) = (Arc::clone(shared), Arc::clone(&service));
                xmpp::Streams { shared, service, tls: tls.clone(), is_direct, entrance: Arc::clone(entrance) }
            };
            for (listener, name, is_direct, entrance) in [
                (self.xmpp, "XMPP listener", false, for_xmpp),
                (self.xmpp_tls, "XMPP listener with TLS", true, for_xmpp_tls),
            ] {
                let Some(listener) = listener else { continue };
                let streams = streams(is_direct, &entrance);
                let handle = move |accepted| xmpp::serve(streams.clone(), accepted);
                accepting.spawn("xmpp-listener", accept::run(listener, name, entrance, tasks.clone(), handle));
            }
        }
        if let Some(listener) = self.tcp {
            let (shared, tls, entrance) = (Arc::clone(shared), tls.clone(), Arc::clone(&for_tcp));
            let handle = move |accepted| tcp(Arc::clone(&shared), acceptor(&tls), Arc::clone(&entrance), accepted);
            let accept = accept::run(listener, "TCP listener", for_tcp, tasks.clone(), handle);
            accepting.spawn("tcp-listener", accept);
        }
        if let Some(listener) = self.ws {
            let (shared, tls, entrance) = (Arc::clone(shared), tls.clone(), Arc::clone(&for_ws));
            let media = shared.media.clone();
            let site = Arc::new(site::Site { origins: self.origins, ready: ready.clone(), media });
            let handle = move |accepted| {
                ws::serve(Arc::clone(&shared), Arc::clone(&site), acceptor(&tls), Arc::clone(&entrance), accepted)
            };
            let accept = accept::run(listener, "WebSocket listener", for_ws, tasks.clone(), handle);
            accepting.spawn("ws-listener", accept);
        }
        if let Some(listener) = self.grpc {
            let clients = Clients { shared: Arc::clone(shared), entrance: for_grpc, tasks: tasks.clone() };
            let (health, reporter) = grpc_services::health();
            tasks.spawn("grpc-health", grpc_services::report(reporter, ready.clone()));
            let max_frame = self.max_frame_bytes;
            tasks.spawn("grpc-listener", grpc::run(listener, tls, clients, health, max_frame, accepting.clone()));
        }
    }
}

impl Entrances {
    fn new(config: &GatewayConfig) -> Self {
        let common = Common::new(config.max_connections, config.max_connections_per_address);
        let proxies = Arc::new(config.proxies.to_proxies());
        let (xmpp, xmpp_tls) = (config.xmpp.plain_listener(), config.xmpp.tls_listener());
        let all = [&config.tcp, &config.ws, &config.grpc, &xmpp, &xmpp_tls];
        let alone = all.iter().filter(|listener| listener.enabled).count() < 2;
        let entrance = |name: &'static str, listener: &ListenConfig| {
            let slots = Slots::new(&common, name, listener.max_connections, alone);
            let sign_in_timeout = Duration::from_millis(config.sign_in_timeout_ms);
            Arc::new(Entrance::new(slots, Arc::clone(&proxies), listener.proxy_protocol, sign_in_timeout))
        };
        Self {
            tcp: entrance("tcp", &config.tcp),
            ws: entrance("ws", &config.ws),
            grpc: entrance("grpc", &config.grpc),
            xmpp: entrance("xmpp", &xmpp),
            xmpp_tls: entrance("xmpp_tls", &xmpp_tls),
        }
    }
}

/// Uses the current certificate.
fn acceptor(tls: &Option<Arc<Tls>>) -> Option<TlsAcceptor> {
    tls.as_ref().map(|tls| tls.acceptor())
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

/// Binds to the first of its addresses that is available.
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

async fn tcp(shared: Arc<Shared>, acceptor: Option<TlsAcceptor>, entrance: Arc<Entrance>, mut accepted: Accepted) {
    let Some(address) = entrance.source(&mut accepted).await else { return };
    let Accepted { stream, deadline, mut place, .. } = accepted;
    if let Err(refusal) = place.belongs_to(Some(address)) {
        // Gives the slot to others.
        let Some(place) = entrance.give_back(place, refusal) else { return };
        let deadline = deadline.min(Instant::now() + entrance.time(&place));
        return Box::pin(refusal.tell(stream, acceptor, deadline)).await;
    }
    let arrival = Arrival { protocol: Protocol::Tcp, address, deadline };
    let max = limits::MAX_FRAME_BYTES_BEFORE_SIGN_IN;
    // Each stage is boxed, so that a connection holds only its current one. The matches are on boxes, too: what is
    // matched on keeps its room until the end of the match.
    match acceptor {
        None => Box::pin(serve(shared, StreamTransport::new(stream, max), arrival)).await,
        Some(acceptor) => {
            let shaken = Box::pin(timeout_at(deadline.into(), acceptor.accept(stream))).await;
            let serve = |stream| Box::pin(serve(shared, StreamTransport::new(stream, max), arrival));
            // A client that does not finish the handshake in time is closed without a message.
            if let Some(served) = shaken.ok().and_then(Result::ok).map(serve) {
                served.await;
            }
        }
    }
    drop(place);
}
