//! Certificate and key for clients.

use std::{fs, io, path::Path, sync::Arc};

use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio_rustls::TlsAcceptor;
use tonic::transport::Identity;

use crate::config::TlsConfig;

/// TLS for clients can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("tls file {path} can't be read: {why}")]
    File { path: String, why: io::Error },
    #[error("tls file {path} is not PEM: {why}")]
    Pem { path: String, why: rustls_pki_types::pem::Error },
    #[error("tls.certificate {path} has no certificate")]
    NoCertificate { path: String },
    #[error("tls certificate and key can't be used: {0}")]
    Rustls(#[from] rustls::Error),
}

pub(super) struct Tls {
    pub(super) acceptor: TlsAcceptor,
    pub(super) identity: Identity,
}

impl Tls {
    pub(super) fn load(config: &TlsConfig) -> Result<Self, TlsError> {
        let (certificate, key) = (read(&config.certificate)?, read(&config.key)?);
        let pem = |path: &Path| {
            let path = path.display().to_string();
            move |why| TlsError::Pem { path, why }
        };
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(&certificate).collect::<Result<_, _>>().map_err(pem(&config.certificate))?;
        if chain.is_empty() {
            return Err(TlsError::NoCertificate { path: config.certificate.display().to_string() });
        }
        let private = PrivateKeyDer::from_pem_slice(&key).map_err(pem(&config.key))?;
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, private)?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(server)), identity: Identity::from_pem(certificate, key) })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|why| TlsError::File { path: path.display().to_string(), why })
}
