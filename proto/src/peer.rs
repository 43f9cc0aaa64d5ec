//! Mutual authentication of nodes: each call carries a token of the caller's tier in its metadata, and connections use
//! mutual TLS if it is configured. Both can be replaced while connections stay open.

mod tokens;

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures_util::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpListener;
use tonic::{
    Request, Status,
    service::{Routes, interceptor::InterceptedService},
    transport::{self, Channel, Endpoint, Server},
};

use crate::{
    diagnostics::{Diagnostics, WallClock},
    limits::MAX_NODE_MESSAGE_BYTES,
    local_listeners::{LocalListeners, PeerConnection, PeerIncoming, PeerStream},
    pb::diagnostics::{clock_server::ClockServer, diagnostics_server::DiagnosticsServer},
    stream::{Calls, Incoming, Messages, Near, NearCalls, Services, Serving, Tell},
    tls::{Authorities, HTTP2, Identity, MaybeTls, TlsError},
};

pub use crate::{local_listeners::MAX_UNPROVEN_PEERS, tier::Tier};
pub use tokens::{AddToken, CheckToken, TierTokens, derive, lines};

/// The credentials by which a node takes part in the cluster. Clones share updates.
#[derive(Clone)]
pub struct PeerSecurity {
    tier: Tier,
    tokens: Arc<ArcSwap<TierTokens>>,
    tls: Option<Arc<ArcSwap<TlsSides>>>,
    nearby: Option<LocalListeners>,
    /// Services in this process whose streams need no connection.
    services: Option<Services>,
    /// What the operator may ask of this process.
    diagnostics: Option<Diagnostics>,
}

/// PEM texts. Both sides of a connection present a certificate signed by `ca` and verify the other's.
#[derive(Clone)]
pub struct PeerTls {
    pub ca: String,
    pub certificate: String,
    pub key: String,
    /// The name that every node's certificate carries. Without it, the host of the node's address is verified.
    pub server_name: Option<String>,
}

/// Built from a [`PeerTls`]. A connection uses the version that is current when it is opened.
pub(crate) struct TlsSides {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    server_name: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("must have 16 to 512 visible ASCII characters on a line, but has {bytes} bytes or others")]
    Secret { bytes: usize },
    #[error("has {lines} lines, but at most two are taken: the one in use, and the one before or after it")]
    TooMany { lines: usize },
    #[error("there is no token for the {tier} tier: set cluster.tokens.{tier}_file, or cluster.secret_file")]
    NoToken { tier: Tier },
    #[error("node address {0:?} is not host:port")]
    Address(String),
    #[error("cluster.tls.{setting} {why}")]
    Tls { setting: &'static str, why: TlsError },
    #[error("cluster.tls was switched on or off: that needs a restart")]
    TlsSwitched,
}

/// Why a stream to another node can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("{}", cause(.0))]
    Status(#[from] tonic::Status),
}

impl PeerSecurity {
    /// For a node of this tier, or for the operator.
    pub fn new(tier: Tier, tokens: TierTokens, tls: Option<PeerTls>) -> Result<Self, PeerError> {
        tokens.presented(tier)?;
        let tls = tls.as_ref().map(TlsSides::new).transpose()?;
        Ok(Self {
            tier,
            tokens: Arc::new(ArcSwap::from_pointee(tokens)),
            tls: tls.map(|tls| Arc::new(ArcSwap::from_pointee(tls))),
            nearby: None,
            services: None,
            diagnostics: None,
        })
    }

    /// Derives the tokens of all tiers from the cluster's secret.
    pub fn from_secret(tier: Tier, secret: &str, tls: Option<PeerTls>) -> Result<Self, PeerError> {
        Self::new(tier, TierTokens::derived(secret)?, tls)
    }

    /// For another tier of this process.
    pub fn of_tier(&self, tier: Tier) -> Result<Self, PeerError> {
        self.tokens.load().presented(tier)?;
        Ok(Self { tier, ..self.clone() })
    }

    /// Makes this value and its clones, which serve all nodes of one process, reach each other without sockets.
    #[must_use]
    pub fn within_process(self) -> Self {
        Self { nearby: Some(LocalListeners::default()), services: Some(Services::default()), ..self }
    }

    /// Lets this process tell of itself, at each of its internal listeners.
    #[must_use]
    pub fn with_diagnostics(self, diagnostics: Diagnostics) -> Self {
        Self { diagnostics: Some(diagnostics), ..self }
    }

    pub fn diagnostics(&self) -> Option<&Diagnostics> {
        self.diagnostics.as_ref()
    }

    /// True if a token identifies callers of this tier.
    pub fn knows(&self, tier: Tier) -> bool {
        self.tokens.load().has(tier)
    }

    /// Replaces tokens and certificates: calls present and accept the new tokens from now on, and new connections use
    /// the new certificates. Open connections stay. After an error nothing has changed.
    pub fn replace(&self, tokens: TierTokens, tls: Option<&PeerTls>) -> Result<(), PeerError> {
        let before = self.tokens.load();
        if let Some(tier) = Tier::ALL.into_iter().find(|tier| before.has(*tier) && !tokens.has(*tier)) {
            return Err(PeerError::NoToken { tier });
        }
        match (&self.tls, tls.map(TlsSides::new).transpose()?) {
            (None, None) => {}
            (Some(current), Some(new)) => current.store(Arc::new(new)),
            (None, Some(_)) | (Some(_), None) => return Err(PeerError::TlsSwitched),
        }
        self.tokens.store(Arc::new(tokens));
        Ok(())
    }

    /// The connections of an internal listener, for [`PeerSecurity::server`]. `advertised`: the address by which others
    /// know the listener, if it is not the bound one.
    pub fn incoming(
        &self,
        listener: TcpListener,
        advertised: Option<&str>,
    ) -> impl Stream<Item = io::Result<MaybeTls<PeerStream>>> + use<> {
        let tls = self.tls.clone();
        PeerIncoming::new(listener, advertised, self.nearby.as_ref()).map(move |stream| {
            Ok(match (stream?, &tls) {
                // Connections within the process need no TLS.
                (stream @ PeerStream::Memory(_), _) | (stream, None) => MaybeTls::plain(stream),
                (stream, Some(tls)) => MaybeTls::accept(stream, Arc::clone(&tls.load().server)),
            })
        })
    }

    /// Lets nodes of this process open streams without a connection. `addresses` are all by which others know the node (see
    /// [`addresses_of`]); `open` does what the corresponding gRPC method does. `None` if this process has no other node.
    pub fn serve_near<A: 'static, B: 'static>(
        &self,
        addresses: impl IntoIterator<Item = String>,
        allowed: &'static [Tier],
        open: impl Fn(Tier, Incoming<A>) -> Result<Messages<B>, Status> + Send + Sync + 'static,
    ) -> Option<Serving> {
        Some(self.services.as_ref()?.serve(addresses, allowed, open))
    }

    /// Like `serve_near`, for streams of calls.
    pub fn serve_calls<A: 'static, B: 'static>(
        &self,
        addresses: impl IntoIterator<Item = String>,
        allowed: &'static [Tier],
        open: impl Fn(Tier, Tell<B>) -> Result<Calls<A>, Status> + Send + Sync + 'static,
    ) -> Option<Serving> {
        Some(self.services.as_ref()?.serve_calls(addresses, allowed, open))
    }

    /// The node of this process that listens at this address; `None` if it has to be called over the network.
    pub fn near<A: 'static, B: 'static>(&self, address: &str) -> Option<Near<A, B>> {
        self.services.as_ref()?.near(address, self.tier)
    }

    /// Like `near`, for streams of calls.
    pub fn near_calls<A: 'static, B: 'static>(&self, address: &str) -> Option<NearCalls<A, B>> {
        self.services.as_ref()?.near_calls(address, self.tier)
    }

    /// A secret key for this `purpose`, derived from the tier's token. Outsiders can't guess it.
    pub fn derive_key(&self, purpose: &str) -> [u8; 32] {
        use sha2::Digest as _;
        let mut hash = sha2::Sha256::new();
        hash.update(purpose.as_bytes());
        hash.update([0]);
        // A node has its own tier's token throughout its life.
        hash.update(self.tokens.load().presented(self.tier).expect("its own").as_encoded_bytes());
        hash.finalize().into()
    }

    /// Secret keys for this `purpose`, one for each token of the tier that is valid now, that of the active one first. All nodes of the
    /// tier have the same ones.
    pub fn derive_keys(&self, purpose: &str) -> Vec<[u8; 32]> {
        self.tokens.load().keys(self.tier, purpose)
    }

    /// The same keys as the nodes of another tier have. None if this node does not know the tokens of that tier.
    pub fn derive_keys_of(&self, tier: Tier, purpose: &str) -> Vec<[u8; 32]> {
        self.tokens.load().keys(tier, purpose)
    }

    /// A server builder for connections from [`PeerSecurity::incoming`]. Wrap each of its services with
    /// [`PeerSecurity::check`].
    pub fn server(&self) -> Server {
        Server::builder()
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(16 * 1024 * 1024)
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .http2_keepalive_timeout(Some(Duration::from_secs(5)))
    }

    /// Serves on an internal listener until `stop`, and then until its connections have ended. `advertised` as for
    /// [`PeerSecurity::incoming`]. Wrap each service with [`PeerSecurity::check`].
    ///
    /// Everything is boxed, so that the HTTP/2 server is compiled once, here, and not again in each crate that serves.
    pub fn serve(
        &self,
        services: Routes,
        listener: TcpListener,
        advertised: Option<&str>,
        stop: BoxFuture<'static, ()>,
    ) -> BoxFuture<'static, Result<(), transport::Error>> {
        let incoming = self.incoming(listener, advertised);
        let clock = InterceptedService::new(ClockServer::new(WallClock), self.check(&Tier::ALL));
        let services = services.add_service(clock);
        let services = match &self.diagnostics {
            Some(diagnostics) => services.add_service(InterceptedService::new(
                DiagnosticsServer::new(diagnostics.clone()).max_encoding_message_size(MAX_NODE_MESSAGE_BYTES),
                self.check(&[Tier::Operator]),
            )),
            None => services,
        };
        self.server().add_routes(services).serve_with_incoming_shutdown(incoming, stop).boxed()
    }

    /// A channel to the internal listener of another node. It connects on first use, and reconnects after failures.
    pub fn channel(&self, address: &str) -> Result<Channel, PeerError> {
        // The connector does TLS.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| PeerError::Address(address.to_owned()))?
            .connect_timeout(Duration::from_secs(2))
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(16 * 1024 * 1024)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        let (address, nearby, tls): (Arc<str>, _, _) = (address.into(), self.nearby.clone(), self.tls.clone());
        Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            let (address, nearby, tls) = (Arc::clone(&address), nearby.clone(), tls.clone());
            async move { connect(nearby.as_ref(), tls.as_deref(), &address).await.map(TokioIo::new) }
        })))
    }

    /// For clients: adds this tier's token to each call.
    pub fn token(&self) -> AddToken {
        AddToken { tokens: Arc::clone(&self.tokens), tier: self.tier }
    }

    /// For servers: refuses calls from other tiers.
    pub fn check(&self, allowed: &'static [Tier]) -> CheckToken {
        CheckToken { tokens: Arc::clone(&self.tokens), allowed }
    }
}

impl PeerTls {
    /// Checks that the certificates and keys can be used.
    pub fn check(&self) -> Result<(), PeerError> {
        TlsSides::new(self).map(drop)
    }
}

impl TlsSides {
    fn new(tls: &PeerTls) -> Result<Self, PeerError> {
        let wrong = |setting| move |why| PeerError::Tls { setting, why };
        let authorities = Authorities::from_pem(tls.ca.as_bytes()).map_err(wrong("ca"))?;
        let identity = Identity::from_pem(tls.certificate.as_bytes(), tls.key.as_bytes());
        let identity = identity.map_err(|why| {
            let setting = if why.is_of_key() { "key" } else { "certificate" };
            PeerError::Tls { setting, why }
        })?;
        let mut server = identity.server(Some(&authorities)).map_err(wrong("ca"))?;
        server.alpn_protocols = vec![HTTP2.to_vec()];
        let mut client = identity.client(&authorities).map_err(wrong("certificate"))?;
        client.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Self { server: Arc::new(server), client: Arc::new(client), server_name: tls.server_name.clone() })
    }
}

/// All addresses by which others know a listener: `advertised` and the bound one.
pub fn addresses_of(listener: &TcpListener, advertised: &str) -> impl Iterator<Item = String> + use<> {
    let bound = listener.local_addr().ok().map(|address| address.to_string());
    bound.into_iter().chain([advertised.to_owned()])
}

async fn connect(
    nearby: Option<&LocalListeners>,
    tls: Option<&ArcSwap<TlsSides>>,
    address: &str,
) -> io::Result<MaybeTls<PeerStream>> {
    match (PeerStream::connect(nearby, address).await?, tls) {
        (stream @ PeerStream::Memory(_), _) | (stream, None) => Ok(MaybeTls::plain(stream)),
        (stream, Some(tls)) => {
            let tls = tls.load_full();
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
            let name = tls.server_name.as_deref().unwrap_or(host).to_owned();
            MaybeTls::connect(stream, Arc::clone(&tls.client), name).await
        }
    }
}

/// The address from which a call has come; `None` if it is from this process.
pub fn caller_address<T>(request: &Request<T>) -> Option<IpAddr> {
    request.extensions().get::<PeerConnection>()?.address
}

/// The caller is known by something else than a tier's token: its connection needs no further proof.
pub fn vouch<T>(request: &Request<T>) {
    if let Some(PeerConnection { probation: Some(probation), .. }) = request.extensions().get() {
        probation.vouch_for_good();
    }
}

/// The innermost cause of a failed call, for people; the status's own text is meant for programs.
pub fn cause(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let inner = error.to_string();
        if !text.contains(&inner) {
            let between = if text.is_empty() { "" } else { ": " };
            text = format!("{text}{between}{inner}");
        }
        source = error.source();
    }
    if text.is_empty() { status.code().description().to_lowercase() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_cause_of_a_failed_call_is_told_in_words() {
        let security = PeerSecurity::from_secret(Tier::Router, "0123456789abcdef", None).expect("valid");
        // Nothing listens on a port that was just given back.
        let free = TcpListener::bind("127.0.0.1:0").await.expect("port").local_addr().expect("address");
        let channel = security.channel(&free.to_string()).expect("address");
        let mut client = crate::pb::admin::admin_client::AdminClient::with_interceptor(channel, security.token());
        let status = client.status(crate::pb::admin::StatusRequest {}).await.expect_err("nobody is there");
        let told = cause(&status);
        assert!(told.contains("refused"), "{told}");
        for ugly in ["Some(", "ConnectError", "{", "\""] {
            assert!(!told.contains(ugly), "{told}");
        }
        assert_eq!(cause(&Status::unavailable("")), "the service is currently unavailable");
    }
}
