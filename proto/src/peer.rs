//! How nodes authenticate to each other: a cluster secret in each call's metadata, and mutual TLS if it is configured.

use std::{sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig},
};

use crate::nearby::{Nearby, PeerConnection, PeerIncoming, PeerStream};

pub use crate::nearby::MAX_UNPROVEN_PEERS;

/// What a node needs to be one of the cluster.
#[derive(Clone)]
pub struct PeerSecurity {
    secret: Arc<str>,
    header: MetadataValue<Ascii>,
    tls: Option<Arc<PeerTls>>,
    nearby: Option<Nearby>,
}

/// PEM texts. Both sides of each connection present a certificate signed by `ca` and check the other's.
#[derive(Clone)]
pub struct PeerTls {
    pub ca: String,
    pub certificate: String,
    pub key: String,
    /// The name that the certificate of every node carries; without it, the host of its address is checked.
    pub server_name: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("cluster secret must be 16 to 512 visible ASCII characters, but has {0} bytes or others")]
    Secret(usize),
    #[error("node address {0:?} is not host:port")]
    Address(String),
    #[error("TLS between nodes can't be set up: {0}")]
    Tls(#[source] tonic::transport::Error),
}

impl PeerSecurity {
    pub fn new(secret: &str, tls: Option<PeerTls>) -> Result<Self, PeerError> {
        let secret = secret.trim();
        let visible = secret.bytes().all(|byte| byte.is_ascii_graphic());
        if !(16..=512).contains(&secret.len()) || !visible {
            return Err(PeerError::Secret(secret.len()));
        }
        let mut header =
            MetadataValue::try_from(format!("Bearer {secret}")).map_err(|_| PeerError::Secret(secret.len()))?;
        header.set_sensitive(true);
        Ok(Self { secret: Arc::from(secret), header, tls: tls.map(Arc::new), nearby: None })
    }

    /// For all nodes of this process: what is made from this and its clones reaches each other without sockets.
    #[must_use]
    pub fn within_process(self) -> Self {
        Self { nearby: Some(Nearby::default()), ..self }
    }

    /// What comes to the internal listener, for [`PeerSecurity::server`].
    pub fn incoming(&self, listener: TcpListener) -> PeerIncoming {
        PeerIncoming::new(listener, self.nearby.as_ref())
    }

    /// A key for what must not be guessable outside the cluster, derived from the secret by `purpose`.
    pub fn derive_key(&self, purpose: &str) -> [u8; 32] {
        use sha2::Digest as _;
        let mut hash = sha2::Sha256::new();
        hash.update(purpose.as_bytes());
        hash.update([0]);
        hash.update(self.secret.as_bytes());
        hash.finalize().into()
    }

    /// A server builder for the internal listener. Wrap each of its services with [`PeerSecurity::auth`].
    pub fn server(&self) -> Result<Server, PeerError> {
        let server = Server::builder()
            .tcp_nodelay(true)
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(16 * 1024 * 1024)
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .http2_keepalive_timeout(Some(Duration::from_secs(5)));
        match &self.tls {
            None => Ok(server),
            Some(tls) => server
                .tls_config(
                    ServerTlsConfig::new()
                        .identity(Identity::from_pem(&tls.certificate, &tls.key))
                        .client_ca_root(Certificate::from_pem(&tls.ca)),
                )
                .map_err(PeerError::Tls),
        }
    }

    /// A channel to the internal listener of another node, connected when it is first used and again when it broke.
    pub fn channel(&self, address: &str) -> Result<Channel, PeerError> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .map_err(|_| PeerError::Address(address.to_owned()))?
            .connect_timeout(Duration::from_secs(2))
            .tcp_nodelay(true)
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(16 * 1024 * 1024)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        let endpoint = match &self.tls {
            None => endpoint,
            Some(tls) => {
                let mut config = ClientTlsConfig::new()
                    .ca_certificate(Certificate::from_pem(&tls.ca))
                    .identity(Identity::from_pem(&tls.certificate, &tls.key));
                if let Some(name) = &tls.server_name {
                    config = config.domain_name(name);
                }
                endpoint.tls_config(config).map_err(PeerError::Tls)?
            }
        };
        let Some(nearby) = self.nearby.clone() else { return Ok(endpoint.connect_lazy()) };
        let address: Arc<str> = Arc::from(address);
        Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            let (nearby, address) = (nearby.clone(), Arc::clone(&address));
            async move { PeerStream::connect(&nearby, &address).await.map(TokioIo::new) }
        })))
    }

    /// For clients: adds the secret to each call. For servers: refuses calls without it.
    pub fn auth(&self) -> (AddSecret, CheckSecret) {
        (AddSecret(self.header.clone()), CheckSecret(self.header.clone()))
    }
}

#[derive(Clone)]
pub struct AddSecret(MetadataValue<Ascii>);

impl Interceptor for AddSecret {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

#[derive(Clone)]
pub struct CheckSecret(MetadataValue<Ascii>);

impl Interceptor for CheckSecret {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let given = request.metadata().get("authorization").map(|value| value.as_encoded_bytes()).unwrap_or_default();
        if bool::from(given.ct_eq(self.0.as_encoded_bytes())) {
            if let Some(PeerConnection(Some(probation))) = request.extensions().get() {
                probation.vouch_for_good();
            }
            Ok(request)
        } else {
            Err(Status::unauthenticated("the cluster secret is missing or is another cluster's"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_with_another_secret_is_refused() {
        let ours = PeerSecurity::new("0123456789abcdef", None).expect("valid");
        let theirs = PeerSecurity::new("0123456789abcdeX", None).expect("valid");
        let (mut add, mut check) = ours.auth();
        check.call(add.call(Request::new(())).expect("adds")).expect("our own");
        let (mut add, _) = theirs.auth();
        check.call(add.call(Request::new(())).expect("adds")).expect_err("another cluster's");
        check.call(Request::new(())).expect_err("none at all");
    }

    #[test]
    fn a_short_secret_is_refused() {
        assert!(PeerSecurity::new("short", None).is_err());
    }
}
