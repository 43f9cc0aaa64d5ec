//! Byte streams: TCP, with TLS if the address asks for it.

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{ConnectOptions, ConnectionError};
use crate::{Address, TlsError};

/// The common interface of TCP and TLS streams.
pub(crate) trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

pub(crate) type ByteStream = Box<dyn Bytes>;

pub(crate) async fn open(address: &Address, options: &ConnectOptions) -> Result<ByteStream, ConnectionError> {
    let failed = |source| ConnectionError::Connect { address: address.to_string(), source };
    let tcp = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    if !address.tls {
        return Ok(Box::new(tcp));
    }
    let name = options.server_name.as_deref().unwrap_or(&address.host);
    let name =
        rustls_pki_types::ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))?;
    let connector = TlsConnector::from(options.trust.rustls()?);
    Ok(Box::new(connector.connect(name, tcp).await.map_err(failed)?))
}
