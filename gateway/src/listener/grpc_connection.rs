//! A socket of the gRPC listener, on probation until someone signs in on it, and the context of its streams.

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
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;

use super::{
    accept::{Entrance, Place},
    proxy_protocol::Reader,
    refusal::{REFUSAL, Refusal},
};

/// Time after the sign-in deadline in which the stream may still say why it ends.
const LAST_WORDS: Duration = Duration::from_millis(500);

pub(super) struct GrpcConnection {
    io: OnProbation<TcpStream>,
    known: ClientConnection,
    /// The PROXY header, until it has been read; `None` if none is expected.
    header: Option<Box<Header>>,
    /// `None`: the slot was given back, and no place for refused connections was free.
    place: Option<Place>,
    /// When a refused connection is closed.
    refused_until: Option<Pin<Box<Sleep>>>,
}

/// The context of a connection's streams.
#[derive(Clone)]
pub(super) struct ClientConnection {
    pub(super) probation: Probation,
    client: Arc<OnceLock<Client>>,
    /// The deadline by which someone must have signed in on the connection.
    pub(super) deadline: Instant,
}

/// Set before the first stream.
#[derive(Clone, Copy)]
struct Client {
    /// The peer, or the client named by the PROXY protocol.
    address: IpAddr,
    /// Why nobody can sign in on the connection.
    refusal: Option<Refusal>,
}

struct Header {
    reader: Reader,
    entrance: Arc<Entrance>,
    peer: IpAddr,
}

impl GrpcConnection {
    /// `None`: the peer is no trusted proxy, or there is no place even for a refusal.
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, place: Place, entrance: &Arc<Entrance>) -> Option<Self> {
        let probation = Probation::default();
        let time = entrance.time(&place);
        let deadline = Instant::now() + time;
        let known = ClientConnection { probation: probation.clone(), client: Arc::default(), deadline };
        let io = OnProbation::new(stream, probation, time + LAST_WORDS, ());
        let peer = peer.ip().to_canonical();
        let mut connection = Self { io, known, header: None, place: Some(place), refused_until: None };
        if entrance.proxy_protocol {
            if let Err(error) = entrance.check_proxy(peer) {
                let _ = entrance.client_of(peer, Err(error));
                return None;
            }
            connection.header =
                Some(Box::new(Header { reader: Reader::default(), entrance: Arc::clone(entrance), peer }));
        } else {
            connection.belongs_to(peer, entrance).ok()?;
        }
        Some(connection)
    }

    /// A refused connection stays for a moment, so that its streams can say why. An error if there is no place even for
    /// that.
    fn belongs_to(&mut self, client: IpAddr, entrance: &Entrance) -> io::Result<()> {
        // A proxy's connection carries streams of many clients: those are counted.
        let counted = !entrance.proxies.trust(client);
        let refusal = self.place.as_mut().and_then(|place| place.belongs_to(counted.then_some(client)).err());
        if let Some(refusal) = refusal {
            self.place = self.place.take().and_then(|place| entrance.give_back(place, refusal));
            if self.place.is_none() {
                return Err(io::Error::other(refusal.text()));
            }
            self.refused_until = Some(Box::pin(sleep(REFUSAL)));
        }
        self.known.client.get_or_init(|| Client { address: client, refusal });
        Ok(())
    }

    /// Reads the PROXY header; until then nothing else is read or written.
    fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(header) = &mut self.header else { return Poll::Ready(Ok(())) };
        let source = ready!(header.reader.poll(&mut self.io, cx));
        let client = header.entrance.client_of(header.peer, source)?;
        let entrance = Arc::clone(&header.entrance);
        self.header = None;
        Poll::Ready(self.belongs_to(client, &entrance))
    }

    fn check_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.refused_until.as_mut().map(|until| until.as_mut().poll(cx)) {
            Some(Poll::Ready(())) => Err(io::Error::new(io::ErrorKind::TimedOut, "a refused connection is closed")),
            Some(Poll::Pending) | None => Ok(()),
        }
    }
}

impl ClientConnection {
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.client.get().map(|client| client.address)
    }

    /// Why nobody can sign in on the connection.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.client.get().and_then(|client| client.refusal)
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
        this.check_time(cx)?;
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
