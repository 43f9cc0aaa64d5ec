//! TLS certificates and keys, and their validity.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{Accept, TlsAcceptor, TlsConnector, TlsStream};
use tonic::transport::server::Connected;
use x509_cert::{
    Certificate,
    der::{Decode as _, SliceReader},
};

/// The ALPN name of HTTP/2 (RFC 9113 section 3.2).
pub const HTTP2: &[u8] = b"h2";

/// Why the files can't be used. Never reveals the content of a key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("has no certificate in PEM")]
    NoCertificate,
    #[error("is not PEM: {0}")]
    Pem(rustls_pki_types::pem::Error),
    #[error("is not PEM")]
    KeyPem,
    #[error("has no private key in PEM (PKCS #8, PKCS #1 or SEC 1)")]
    NoKey,
    #[error("has a certificate that can't be read: {0}")]
    Certificate(String),
    #[error("is not the key of the certificate")]
    OtherKey,
    #[error("can't be used: {0}")]
    Rustls(#[from] rustls::Error),
}

impl TlsError {
    /// True if the error concerns the key, not the certificate.
    pub fn is_of_key(&self) -> bool {
        matches!(self, Self::NoKey | Self::KeyPem | Self::OtherKey)
    }
}

/// A certificate chain and its private key, known to match.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// A validity period, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before_s: u64,
    pub not_after_s: u64,
}

impl Identity {
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let (chain, key) = (certificates(certificate)?, private_key(key)?);
        match rustls::sign::CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider()) {
            Ok(_) => Ok(Self { chain, key }),
            Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::OtherKey),
            Err(error) => Err(error.into()),
        }
    }

    /// A server configuration. With `authorities`, clients must present a certificate signed by one of them.
    pub fn server(&self, authorities: Option<&Authorities>) -> Result<ServerConfig, TlsError> {
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let builder = match authorities {
            None => builder.with_no_client_auth(),
            Some(Authorities(roots)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider()).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| TlsError::Certificate(error.to_string()))?)
            }
        };
        Ok(builder.with_single_cert(self.chain.clone(), self.key.clone_key())?)
    }

    /// The hash of the certificate that binds to connections by `tls-server-end-point` (RFC 5929, section 4.1). `None`: the certificate is signed in
    /// a way for which the RFC defines none, for example by Ed25519.
    ///
    /// "if the certificate's signatureAlgorithm uses a single hash function, and that hash function is either MD5 or SHA-1, then use SHA-256";
    /// otherwise "use the hash function associated with the certificate's signatureAlgorithm".
    pub fn end_point(&self) -> Option<Vec<u8>> {
        let certificate = self.chain.first()?;
        let signed = Certificate::decode(&mut SliceReader::new(certificate).ok()?).ok()?;
        match signed.signature_algorithm.oid.to_string().as_str() {
            // With RSA: MD5, SHA-1, SHA-256; with ECDSA: SHA-1, SHA-256.
            "1.2.840.113549.1.1.4"
            | "1.2.840.113549.1.1.5"
            | "1.2.840.113549.1.1.11"
            | "1.2.840.10045.4.1"
            | "1.2.840.10045.4.3.2" => Some(Sha256::digest(certificate).to_vec()),
            "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(Sha384::digest(certificate).to_vec()),
            "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(Sha512::digest(certificate).to_vec()),
            _ => None,
        }
    }

    /// A client configuration that presents this identity and trusts the given authorities.
    pub fn client(&self, authorities: &Authorities) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let builder = builder.with_root_certificates(Arc::clone(&authorities.0));
        Ok(builder.with_client_auth_cert(self.chain.clone(), self.key.clone_key())?)
    }
}

/// The trusted certificate authorities.
pub struct Authorities(Arc<RootCertStore>);

impl Authorities {
    /// Reads all certificates of the text: there are two while an authority is being replaced.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem)? {
            roots.add(certificate)?;
        }
        Ok(Self(Arc::new(roots)))
    }
}

impl Validity {
    /// The period in which all certificates of the text are valid.
    pub fn of_pem(pem: &[u8]) -> Result<Self, TlsError> {
        let mut common = Self { not_before_s: 0, not_after_s: u64::MAX };
        for certificate in certificates(pem)? {
            let one = Self::of(&certificate)?;
            common.not_before_s = common.not_before_s.max(one.not_before_s);
            common.not_after_s = common.not_after_s.min(one.not_after_s);
        }
        Ok(common)
    }

    fn of(certificate: &CertificateDer<'_>) -> Result<Self, TlsError> {
        let wrong = |error: x509_cert::der::Error| TlsError::Certificate(error.to_string());
        let mut reader = SliceReader::new(certificate).map_err(wrong)?;
        let validity = Certificate::decode(&mut reader).map_err(wrong)?.tbs_certificate.validity;
        let seconds = |time: x509_cert::time::Time| time.to_unix_duration().as_secs();
        Ok(Self { not_before_s: seconds(validity.not_before), not_after_s: seconds(validity.not_after) })
    }

    /// The length of the period.
    pub fn length(self) -> Duration {
        Duration::from_secs(self.not_after_s.saturating_sub(self.not_before_s))
    }
}

/// A connection with or without TLS, on either side. An accepted connection does its handshake within its first read or
/// write, so a slow peer holds up no other connection.
pub struct MaybeTls<S: Connected> {
    side: Side<S>,
    info: S::ConnectInfo,
}

enum Side<S> {
    Plain(S),
    // Boxed: a handshake takes some hundreds of bytes, and most connections have none.
    Handshake(Box<Accept<S>>),
    Tls(Box<TlsStream<S>>),
    Failed,
}

impl<S: AsyncRead + AsyncWrite + Connected + Unpin> MaybeTls<S> {
    pub fn plain(stream: S) -> Self {
        Self { info: stream.connect_info(), side: Side::Plain(stream) }
    }

    pub fn accept(stream: S, config: Arc<ServerConfig>) -> Self {
        Self { info: stream.connect_info(), side: Side::Handshake(Box::new(TlsAcceptor::from(config).accept(stream))) }
    }

    /// `name`: the name that the peer's certificate must carry.
    pub async fn connect(stream: S, config: Arc<ClientConfig>, name: String) -> io::Result<Self> {
        let name = ServerName::try_from(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let info = stream.connect_info();
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(Self { info, side: Side::Tls(Box::new(stream.into())) })
    }

    fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Side::Handshake(accept) = &mut self.side {
            let done = ready!(Pin::new(&mut **accept).poll(context));
            // The connection can't be used after an error.
            self.side = Side::Failed;
            self.side = Side::Tls(Box::new(done?.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Connected> Connected for MaybeTls<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.info.clone()
    }
}

macro_rules! on_side {
    ($self:ident, $context:ident, $stream:ident => $call:expr) => {{
        let this = $self.get_mut();
        ready!(this.poll_handshake($context))?;
        match &mut this.side {
            Side::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Side::Tls(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
            Side::Handshake(_) | Side::Failed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }};
}

impl<S: AsyncRead + AsyncWrite + Connected<ConnectInfo: Unpin> + Unpin> AsyncRead for MaybeTls<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_side!(self, context, stream => stream.poll_read(context, buffer))
    }
}

impl<S: AsyncRead + AsyncWrite + Connected<ConnectInfo: Unpin> + Unpin> AsyncWrite for MaybeTls<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_side!(self, context, stream => stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_side!(self, context, stream => stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.side {
            Side::Plain(stream) => stream.is_write_vectored(),
            // rustls copies into its own records.
            Side::Handshake(_) | Side::Tls(_) => true,
            Side::Failed => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_side!(self, context, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A handshake that has not begun need not be finished first.
        if let Side::Handshake(accept) = &mut self.side {
            return accept.get_mut().map_or(Poll::Ready(Ok(())), |stream| Pin::new(stream).poll_shutdown(context));
        }
        on_side!(self, context, stream => stream.poll_shutdown(context))
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(TlsError::Pem)?;
    if chain.is_empty() { Err(TlsError::NoCertificate) } else { Ok(chain) }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        rustls_pki_types::pem::Error::NoItemsFound => TlsError::NoKey,
        // The error's own text may quote the file.
        _ => TlsError::KeyPem,
    })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn made() -> (String, String) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(vec!["carillon.test".to_owned()]).expect("name");
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 1, 11);
        (params.self_signed(&key).expect("signed").pem(), key.serialize_pem())
    }

    #[test]
    fn a_certificate_tells_when_it_holds() {
        let (certificate, _) = made();
        let validity = Validity::of_pem(certificate.as_bytes()).expect("readable");
        assert_eq!(validity, Validity { not_before_s: 1_767_225_600, not_after_s: 1_768_089_600 });
        assert_eq!(validity.length(), Duration::from_secs(10 * 24 * 60 * 60));
    }

    #[test]
    fn the_hash_of_the_signature_binds_to_the_certificate() {
        let end_point = |algorithm| {
            let key = KeyPair::generate_for(algorithm).expect("key");
            let params = CertificateParams::new(vec!["carillon.test".to_owned()]).expect("name");
            let certificate = params.self_signed(&key).expect("signed");
            let identity = Identity::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes());
            (identity.expect("they belong together").end_point(), certificate.der().to_vec())
        };
        let (bound, certificate) = end_point(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(bound, Some(Sha256::digest(&certificate).to_vec()));
        let (bound, certificate) = end_point(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(bound, Some(Sha384::digest(&certificate).to_vec()));
        assert_eq!(end_point(&rcgen::PKCS_ED25519).0, None, "RFC 5929 defines none");
    }

    #[test]
    fn what_can_not_be_used_is_refused_without_showing_it() {
        let ((certificate, key), (_, other)) = (made(), made());
        let why = |certificate: &str, key: &str| {
            Identity::from_pem(certificate.as_bytes(), key.as_bytes()).err().expect("refused").to_string()
        };
        Identity::from_pem(certificate.as_bytes(), key.as_bytes()).expect("they belong together");
        assert_eq!(why(&certificate, &other), "is not the key of the certificate");
        assert_eq!(why("", &key), "has no certificate in PEM");
        assert_eq!(why(&key, &key), "has no certificate in PEM");
        assert_eq!(why(&certificate, &certificate), "has no private key in PEM (PKCS #8, PKCS #1 or SEC 1)");
        let broken = key.replace("BEGIN", "BEGUN");
        assert!(!why(&certificate, &broken).contains(&key[30..60]));
    }
}
