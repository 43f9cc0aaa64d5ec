//! The certificate and key for clients, which can be replaced.

use std::{fs, io, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use carillon_proto::tls::{HTTP2, Identity};
use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

use crate::config::TlsConfig;

/// TLS for clients can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("tls.{setting} {path} can't be read: {why}")]
    File { setting: &'static str, path: String, why: io::Error },
    #[error("tls.{setting} {path} {why}")]
    Content { setting: &'static str, path: String, why: carillon_proto::tls::TlsError },
    #[error("tls was switched on or off: that needs a restart")]
    Switched,
}

/// The TLS setup of new connections. Open ones keep theirs.
pub(crate) struct Tls(ArcSwap<Sides>);

struct Sides {
    frames: Arc<ServerConfig>,
    /// An acceptor for HTTP/2.
    grpc: Arc<ServerConfig>,
    xmpp: XmppTlsSide,
}

/// For XMPP, direct and by STARTTLS.
#[derive(Clone)]
pub(crate) struct XmppTlsSide {
    /// A client without ALPN is taken.
    pub(crate) config: Arc<ServerConfig>,
    /// The hash of the certificate to which a sign-in is bound by `tls-server-end-point`; `None` if the certificate defines none.
    pub(crate) end_point: Option<Vec<u8>>,
}

/// The ALPN name of XMPP's client streams (XEP-0368).
const XMPP: &[u8] = b"xmpp-client";

impl Tls {
    pub(crate) fn load(config: &TlsConfig) -> Result<Self, TlsError> {
        Ok(Self(ArcSwap::from_pointee(Sides::load(config)?)))
    }

    /// After an error nothing has changed.
    pub(crate) fn reload(&self, config: &TlsConfig) -> Result<(), TlsError> {
        self.0.store(Arc::new(Sides::load(config)?));
        Ok(())
    }

    /// For TCP and WebSocket.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0.load().frames))
    }

    pub(super) fn xmpp(&self) -> XmppTlsSide {
        self.0.load().xmpp.clone()
    }

    pub(super) fn grpc(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.load().grpc)
    }
}

impl Sides {
    fn load(config: &TlsConfig) -> Result<Self, TlsError> {
        let certificate = read("certificate", &config.certificate)?;
        let key = read("key", &config.key)?;
        let wrong = |why: carillon_proto::tls::TlsError| {
            let (setting, path) =
                if why.is_of_key() { ("key", &config.key) } else { ("certificate", &config.certificate) };
            TlsError::Content { setting, path: path.display().to_string(), why }
        };
        let identity = Identity::from_pem(&certificate, &key).map_err(wrong)?;
        let frames = identity.server(None).map_err(wrong)?;
        let mut grpc = frames.clone();
        grpc.alpn_protocols = vec![HTTP2.to_vec()];
        let mut xmpp = frames.clone();
        xmpp.alpn_protocols = vec![XMPP.to_vec()];
        let xmpp = XmppTlsSide { config: Arc::new(xmpp), end_point: identity.end_point() };
        Ok(Self { frames: Arc::new(frames), grpc: Arc::new(grpc), xmpp })
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|why| TlsError::File { setting, path: path.display().to_string(), why })
}
