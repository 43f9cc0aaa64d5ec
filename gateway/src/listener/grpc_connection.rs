//! A socket of the gRPC listener, on probation until somebody is signed in on it, and what its streams know of it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use carillon_proto::probation::{OnProbation, Probation};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tonic::transport::server::Connected;

use super::{accept::Entry, proxy_protocol::Reader, slots::Slot};

/// After the end of the time to sign in, for the words about it.
const LAST_WORDS: Duration = Duration::from_millis(500);

pub(super) struct GrpcConnection {
    io: OnProbation<TcpStream>,
    known: ClientConnection,
    /// What has to come before anything else, from a proxy that speaks the PROXY protocol.
    header: Option<Box<Header>>,
    slot: Slot,
}

/// What the streams of a connection know of it.
#[derive(Clone)]
pub(super) struct ClientConnection {
    pub(super) probation: Probation,
    /// The other end, or who is behind the PROXY protocol. There before the first stream is.
    address: Arc<OnceLock<IpAddr>>,
    /// By then somebody is signed in on it.
    pub(super) deadline: Instant,
}

struct Header {
    reader: Reader,
    entry: Arc<Entry>,
    peer: IpAddr,
}

impl GrpcConnection {
    /// None: the client, or the proxy, may not.
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, mut slot: Slot, entry: &Arc<Entry>) -> Option<Self> {
        let probation = Probation::default();
        let deadline = Instant::now() + entry.sign_in_timeout;
        let address = Arc::new(OnceLock::new());
        let known = ClientConnection { probation: probation.clone(), address: Arc::clone(&address), deadline };
        let io = OnProbation::new(stream, probation, entry.sign_in_timeout + LAST_WORDS, ());
        let peer = peer.ip().to_canonical();
        let header = if entry.proxy_protocol {
            if let Err(error) = entry.check_proxy(peer) {
                let _ = entry.client_of(peer, Err(error));
                return None;
            }
            Some(Box::new(Header { reader: Reader::default(), entry: Arc::clone(entry), peer }))
        } else {
            // A proxy's connections carry many clients' streams: those are counted.
            if !entry.proxies.trust(peer) {
                slot.belongs_to(peer).ok()?;
            }
            address.get_or_init(|| peer);
            None
        };
        Some(Self { io, known, header, slot })
    }

    /// Nothing is read by others, or written, before the header has been read.
    fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(header) = &mut self.header else { return Poll::Ready(Ok(())) };
        let source = ready!(header.reader.poll(&mut self.io, cx));
        let client = header.entry.client_of(header.peer, source)?;
        if !header.entry.proxies.trust(client) && self.slot.belongs_to(client).is_err() {
            return Poll::Ready(Err(io::Error::other("this address has as many connections as it may")));
        }
        self.known.address.get_or_init(|| client);
        self.header = None;
        Poll::Ready(Ok(()))
    }
}

impl ClientConnection {
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.address.get().copied()
    }
}

impl Connected for GrpcConnection {
    type ConnectInfo = ClientConnection;

    fn connect_info(&self) -> ClientConnection {
        self.known.clone()
    }
}

impl AsyncRead for GrpcConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_header(cx))?;
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for GrpcConnection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_header(cx))?;
        Pin::new(&mut this.io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_header(cx))?;
        Pin::new(&mut this.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
