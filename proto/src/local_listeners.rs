//! gRPC connections in memory between the nodes of one process, in place of sockets.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tonic::transport::server::Connected;

use crate::{
    accepting::Accepting,
    probation::{OnProbation, Probation},
    seldom::Seldom,
};

/// Connections that wait to be accepted. When this many wait, the caller opens a socket instead.
const BACKLOG: usize = 64;
/// Buffer of each direction, in bytes. A writer waits when the buffer is full.
const BUFFER_BYTES: usize = 256 * 1024;
/// Deadline from the first byte to the first authenticated call; the TLS handshake is included.
const PROVE_IN: Duration = Duration::from_secs(10);
/// Most unauthenticated connections to one internal listener. Further ones are closed at once: a node needs only
/// milliseconds to authenticate, and tries again.
pub const MAX_UNPROVEN_PEERS: usize = 128;
/// Most connections to one internal listener. Further ones are closed at once.
const MAX_PEERS: usize = 4096;
/// Least time between two log lines about connections that were closed at once.
const TELL: Duration = Duration::from_secs(30);

/// The internal listeners of this process, by address.
#[derive(Clone, Default)]
pub(crate) struct LocalListeners {
    listeners: Arc<Mutex<HashMap<String, mpsc::Sender<DuplexStream>>>>,
}

/// A connection between two nodes.
pub enum PeerStream {
    /// Opened to another node.
    Tcp(TcpStream),
    /// Accepted from a peer that has yet to authenticate.
    Accepted(OnProbation<TcpStream, OwnedSemaphorePermit>),
    Memory(DuplexStream),
}

/// The connection of a call. Both are `None` for connections within this process.
#[derive(Clone)]
pub struct PeerConnection {
    /// An authenticated call ends it.
    pub(crate) probation: Option<Probation>,
    pub(crate) address: Option<IpAddr>,
}

/// Connections to an internal listener, from this process and from others.
pub(crate) struct PeerIncoming {
    tcp: BoxStream<'static, PeerStream>,
    nearby: Option<Listening>,
}

/// Registered for the other nodes of the process until it is dropped.
struct Listening {
    addresses: Vec<String>,
    nearby: LocalListeners,
    sender: mpsc::Sender<DuplexStream>,
    queue: mpsc::Receiver<DuplexStream>,
}

impl LocalListeners {
    /// `None` if no listener of this process has this address.
    fn connect(&self, address: &str) -> Option<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(BUFFER_BYTES);
        self.listeners.lock().get(address)?.try_send(theirs).ok().map(|()| ours)
    }

    fn listen(&self, addresses: Vec<String>) -> Listening {
        let (sender, queue) = mpsc::channel(BACKLOG);
        self.listeners.lock().extend(addresses.iter().map(|address| (address.clone(), sender.clone())));
        Listening { addresses, nearby: self.clone(), sender, queue }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut listeners = self.nearby.listeners.lock();
        for address in &self.addresses {
            // Another listener may have taken over the address meanwhile; it stays.
            if listeners.get(address).is_some_and(|known| known.same_channel(&self.sender)) {
                listeners.remove(address);
            }
        }
    }
}

impl PeerStream {
    pub(crate) async fn connect(nearby: Option<&LocalListeners>, address: &str) -> io::Result<Self> {
        if let Some(stream) = nearby.and_then(|nearby| nearby.connect(address)) {
            return Ok(Self::Memory(stream));
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }
}

impl PeerIncoming {
    pub(crate) fn new(listener: TcpListener, advertised: Option<&str>, nearby: Option<&LocalListeners>) -> Self {
        // Other nodes may know the listener by either address. A listener without an address can't be registered.
        let bound = listener.local_addr().ok().map(|address| address.to_string());
        let addresses = bound.into_iter().chain(advertised.map(str::to_owned)).collect();
        let nearby = nearby.map(|nearby| nearby.listen(addresses));
        Self { tcp: accepted(listener).boxed(), nearby }
    }
}

/// Never fails: the gRPC server would take an error for a failure of the listener and end, and the node with it.
fn accepted(listener: TcpListener) -> impl Stream<Item = PeerStream> {
    let state = (
        Accepting::new(listener, "internal listener"),
        Arc::new(Semaphore::new(MAX_PEERS)),
        Arc::new(Semaphore::new(MAX_UNPROVEN_PEERS)),
        Seldom::new(1, TELL),
    );
    futures_util::stream::unfold(state, async |(mut accepting, all, unproven, refused)| {
        loop {
            let (stream, peer) = accepting.next().await;
            let places = (Arc::clone(&all).try_acquire_owned(), Arc::clone(&unproven).try_acquire_owned());
            if let (Ok(place), Ok(unproven_place)) = places {
                let probation = Probation::with_place(unproven_place);
                let stream = PeerStream::Accepted(OnProbation::new(stream, probation, PROVE_IN, place));
                return Some((stream, (accepting, all, unproven, refused)));
            }
            if let Some(left_out) = refused.turn(Instant::now()) {
                tracing::warn!(
                    %peer, left_out, most_unproven = MAX_UNPROVEN_PEERS, most = MAX_PEERS,
                    "connections to the internal listener are refused: too many are open that have not shown the \
                     cluster's secret, or too many at all"
                );
            }
        }
    })
}

impl Stream for PeerIncoming {
    type Item = io::Result<PeerStream>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(listening) = &mut this.nearby
            && let Poll::Ready(Some(stream)) = listening.queue.poll_recv(context)
        {
            return Poll::Ready(Some(Ok(PeerStream::Memory(stream))));
        }
        Pin::new(&mut this.tcp).poll_next(context).map(|stream| stream.map(Ok))
    }
}

impl Connected for PeerStream {
    type ConnectInfo = PeerConnection;

    fn connect_info(&self) -> PeerConnection {
        match self {
            Self::Accepted(stream) => PeerConnection {
                probation: Some(stream.probation().clone()),
                address: stream.io().peer_addr().ok().map(|address| address.ip().to_canonical()),
            },
            Self::Tcp(_) | Self::Memory(_) => PeerConnection { probation: None, address: None },
        }
    }
}

macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            PeerStream::Tcp(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            PeerStream::Accepted(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            PeerStream::Memory(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for PeerStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_listener_that_ends_leaves_its_address_to_the_one_that_has_taken_it_over() {
        let nearby = LocalListeners::default();
        let before = nearby.listen(vec!["a:1".to_owned()]);
        let after = nearby.listen(vec!["a:1".to_owned()]);
        drop(before);
        assert!(nearby.connect("a:1").is_some());
        drop(after);
        assert!(nearby.connect("a:1").is_none());
    }

    #[tokio::test]
    async fn a_node_of_this_process_is_reached_without_a_socket_and_one_that_has_gone_is_not() {
        let nearby = LocalListeners::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let address = listener.local_addr().expect("address").to_string();
        let mut incoming = PeerIncoming::new(listener, Some("carillon.example:7401"), Some(&nearby));
        let mut ours = PeerStream::connect(Some(&nearby), &address).await.expect("connects");
        let mut theirs = incoming.next().await.expect("open").expect("accepted");
        assert!(matches!((&ours, &theirs), (PeerStream::Memory(_), PeerStream::Memory(_))));
        ours.write_all(b"hello").await.expect("written");
        let mut heard = [0; 5];
        theirs.read_exact(&mut heard).await.expect("read");
        assert_eq!(&heard, b"hello");
        // From another process.
        PeerStream::connect(Some(&LocalListeners::default()), &address).await.expect("connects");
        assert!(matches!(incoming.next().await.expect("open").expect("accepted"), PeerStream::Accepted(_)));
        // By the address that others know.
        let ours = PeerStream::connect(Some(&nearby), "carillon.example:7401").await.expect("connects");
        assert!(matches!(ours, PeerStream::Memory(_)));
        drop(incoming);
        assert!(PeerStream::connect(Some(&nearby), &address).await.is_err());
    }
}
