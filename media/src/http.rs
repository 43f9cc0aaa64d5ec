//! HTTP for storage that is compatible with S3, with the TLS that the rest of the program has.

use std::{
    fmt, fs, io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use hyper::{Response, Uri};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo},
};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
        HttpResponseBody, HttpService,
    },
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

const CONNECT: Duration = Duration::from_secs(10);
/// Until the head of the answer is there.
const ANSWER: Duration = Duration::from_secs(60);
/// Allows `http://` in AWS_ENDPOINT_URL.
const ALLOW_HTTP: &str = "AWS_ALLOW_HTTP";
/// A file of certificate authorities to trust instead of the public ones.
const CA_BUNDLE: &str = "AWS_CA_BUNDLE";

/// Makes clients for `object_store`.
#[derive(Clone)]
pub struct Connector {
    tls: Arc<ClientConfig>,
    pub(crate) allows_http: bool,
}

impl Connector {
    /// By the environment: see AWS_CA_BUNDLE and AWS_ALLOW_HTTP.
    pub fn new() -> Result<Self, ConnectorError> {
        let mut roots = RootCertStore::empty();
        match std::env::var_os(CA_BUNDLE).filter(|file| !file.is_empty()) {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(file) => {
                let pem = fs::read(&file).map_err(|error| ConnectorError::Read(file.into(), error))?;
                for certificate in CertificateDer::pem_slice_iter(&pem) {
                    roots.add(certificate.map_err(ConnectorError::Pem)?).map_err(ConnectorError::Tls)?;
                }
            }
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(ConnectorError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let allows_http = std::env::var(ALLOW_HTTP).is_ok_and(|allowed| matches!(&*allowed, "true" | "1"));
        Ok(Self { tls: Arc::new(tls), allows_http })
    }
}

/// The certificates of the environment can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    #[error("{CA_BUNDLE} {file} can't be read: {1}", file = .0.display())]
    Read(PathBuf, io::Error),
    #[error("{CA_BUNDLE} is not PEM: {0}")]
    Pem(rustls_pki_types::pem::Error),
    #[error("{CA_BUNDLE} can't be used: {0}")]
    Tls(rustls::Error),
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service(Client::builder(TokioExecutor::new()).build(self.clone()))))
    }
}

#[derive(Debug)]
struct Service(Client<Connector, HttpRequestBody>);

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = timeout(ANSWER, self.0.request(request)).await;
        let answer = answer.map_err(|late| HttpError::new(HttpErrorKind::Timeout, late))?;
        let answer = answer.map_err(|error| {
            let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
            HttpError::new(kind, error)
        })?;
        let (parts, body) = answer.into_parts();
        let body = http_body_util::BodyExt::map_err(body, |error| HttpError::new(HttpErrorKind::Interrupted, error));
        Ok(Response::from_parts(parts, HttpResponseBody::new(body)))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Stream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let connecting = timeout(CONNECT, this.dial(&uri)).await;
            connecting.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut))).map(TokioIo::new)
        })
    }
}

impl Connector {
    async fn dial(&self, uri: &Uri) -> io::Result<Stream> {
        let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
        let host = uri.host().ok_or_else(|| wrong("an address without a host"))?.trim_matches(['[', ']']);
        let is_tls = uri.scheme_str() == Some("https");
        // Machines in a cloud are given their credentials there.
        if !is_tls && !self.allows_http && !host.starts_with("169.254.") {
            return Err(wrong("http:// would show to others what is kept: use https://, or set AWS_ALLOW_HTTP=true"));
        }
        let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }))).await?;
        stream.set_nodelay(true)?;
        if !is_tls {
            return Ok(Stream(Box::new(stream)));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Stream(Box::new(TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?)))
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection, with or without TLS.
pub struct Stream(Box<dyn Io>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(context, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(context)
    }
}
