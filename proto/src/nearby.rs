//! Nodes that run in one process reach each other without a socket: the same gRPC over memory.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::Stream;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tonic::transport::server::{Connected, TcpIncoming};

/// Connections that wait to be accepted. When it is full, the caller takes a socket.
const BACKLOG: usize = 64;
/// Each way. A writer waits when it is full.
const BUFFER_BYTES: usize = 256 * 1024;

/// The internal listeners of this process, by address.
#[derive(Clone, Default)]
pub(crate) struct Nearby {
    listeners: Arc<Mutex<HashMap<String, mpsc::Sender<DuplexStream>>>>,
}

/// A connection between two nodes.
pub enum PeerStream {
    Tcp(TcpStream),
    Memory(DuplexStream),
}

/// Connections to an internal listener, from this process and from others.
pub struct PeerIncoming {
    tcp: TcpIncoming,
    nearby: Option<Listening>,
}

/// Known to the others of the process until it is dropped.
struct Listening {
    address: String,
    nearby: Nearby,
    queue: mpsc::Receiver<DuplexStream>,
}

impl Nearby {
    /// None: nobody in this process listens there.
    fn connect(&self, address: &str) -> Option<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(BUFFER_BYTES);
        self.listeners.lock().get(address)?.try_send(theirs).ok().map(|()| ours)
    }

    fn listen(&self, address: String) -> Listening {
        let (sender, queue) = mpsc::channel(BACKLOG);
        self.listeners.lock().insert(address.clone(), sender);
        Listening { address, nearby: self.clone(), queue }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.nearby.listeners.lock().remove(&self.address);
    }
}

impl PeerStream {
    pub(crate) async fn connect(nearby: &Nearby, address: &str) -> io::Result<Self> {
        if let Some(stream) = nearby.connect(address) {
            return Ok(Self::Memory(stream));
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }
}

impl PeerIncoming {
    pub(crate) fn new(listener: TcpListener, nearby: Option<&Nearby>) -> Self {
        // Without an address of its own nobody could name it.
        let address = listener.local_addr().ok().map(|address| address.to_string());
        let nearby = nearby.zip(address).map(|(nearby, address)| nearby.listen(address));
        Self { tcp: TcpIncoming::from(listener).with_nodelay(Some(true)), nearby }
    }
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
        Pin::new(&mut this.tcp).poll_next(context).map_ok(PeerStream::Tcp)
    }
}

impl Connected for PeerStream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            PeerStream::Tcp(stream) => {
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
    async fn a_node_of_this_process_is_reached_without_a_socket_and_one_that_has_gone_is_not() {
        let nearby = Nearby::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let address = listener.local_addr().expect("address").to_string();
        let mut incoming = PeerIncoming::new(listener, Some(&nearby));
        let mut ours = PeerStream::connect(&nearby, &address).await.expect("connects");
        let mut theirs = incoming.next().await.expect("open").expect("accepted");
        assert!(matches!((&ours, &theirs), (PeerStream::Memory(_), PeerStream::Memory(_))));
        ours.write_all(b"hello").await.expect("written");
        let mut heard = [0; 5];
        theirs.read_exact(&mut heard).await.expect("read");
        assert_eq!(&heard, b"hello");
        // From another process.
        PeerStream::connect(&Nearby::default(), &address).await.expect("connects");
        assert!(matches!(incoming.next().await.expect("open").expect("accepted"), PeerStream::Tcp(_)));
        drop(incoming);
        assert!(PeerStream::connect(&nearby, &address).await.is_err());
    }
}
