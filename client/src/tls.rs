//! The certificate authorities that the client trusts.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tonic::transport::{Certificate, ClientTlsConfig};

/// The trusted authorities. Clones share session tickets, which make reconnecting cheaper for both sides.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    authorities: Authorities,
    rustls: Arc<OnceLock<Arc<ClientConfig>>>,
}

#[derive(Debug, Clone, Default)]
enum Authorities {
    #[default]
    Public,
    /// As PEM.
    Own(String),
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("certificate authority is not valid PEM: {0}")]
    Pem(String),
    #[error("certificate authority can't be used: {0}")]
    Certificate(#[source] rustls::Error),
    #[error("certificate authority file has no certificate")]
    Empty,
    #[error("server name {0:?} is not a host name or an IP address")]
    ServerName(String),
}

impl Trust {
    /// Mozilla's list of public authorities.
    pub fn public() -> Self {
        Self::default()
    }

    /// Only these authorities.
    pub fn ca(pem: impl Into<String>) -> Self {
        Self { authorities: Authorities::Own(pem.into()), ..Self::default() }
    }

    /// For TCP and WebSocket.
    pub(crate) fn rustls(&self) -> Result<Arc<ClientConfig>, TlsError> {
        if let Some(config) = self.rustls.get() {
            return Ok(Arc::clone(config));
        }
        let config = self.make()?;
        Ok(Arc::clone(self.rustls.get_or_init(|| config)))
    }

    fn make(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut roots = RootCertStore::empty();
        match &self.authorities {
            Authorities::Public => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Authorities::Own(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    let certificate = certificate.map_err(|error| TlsError::Pem(error.to_string()))?;
                    roots.add(certificate).map_err(TlsError::Certificate)?;
                }
                if roots.is_empty() {
                    return Err(TlsError::Empty);
                }
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Certificate)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }

    /// For gRPC.
    pub(crate) fn tonic(&self, server_name: &str) -> ClientTlsConfig {
        let config = ClientTlsConfig::new().domain_name(server_name);
        match &self.authorities {
            Authorities::Public => config.trust_anchors(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Authorities::Own(pem) => config.ca_certificate(Certificate::from_pem(pem)),
        }
    }
}
