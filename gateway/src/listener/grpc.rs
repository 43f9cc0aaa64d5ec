//! `ClientService.Connect`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use carillon_proto::{
    limits,
    pb::{
        client::{
            ClientFrame, ServerFrame,
            client_service_server::{ClientService, ClientServiceServer},
            server_frame::Body,
        },
        store::session::Protocol,
    },
    tasks::Tasks,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{
        Identity, Server, ServerTlsConfig,
        server::{Connected, TcpConnectInfo},
    },
};

use super::accept::{accept, overloaded};
use crate::{
    connection::{Shared, serve},
    metrics,
    transport::grpc::{AHEAD, GrpcTransport},
};

/// Streams on one HTTP/2 connection.
const MAX_STREAMS: u32 = 1_024;
/// Windows bound what a client that does not read can make the gateway hold.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

#[derive(Clone)]
pub(super) struct Service {
    shared: Arc<Shared>,
    slots: Arc<Semaphore>,
    tasks: Tasks,
}

impl Service {
    pub(super) fn new(shared: Arc<Shared>, slots: Arc<Semaphore>, tasks: Tasks) -> Self {
        Self { shared, slots, tasks }
    }
}

pub(super) async fn run(
    listener: TcpListener,
    identity: Option<Identity>,
    service: Service,
    max_frame: usize,
    accepting: Tasks,
) {
    let mut server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)));
    if let Some(identity) = identity {
        server = match server.tls_config(ServerTlsConfig::new().identity(identity)) {
            Ok(server) => server,
            Err(error) => return tracing::error!(%error, "gRPC listener can't use the certificate"),
        };
    }
    let slots = Arc::clone(&service.slots);
    let incoming = futures_util::stream::unfold((listener, slots), async |(listener, slots)| {
        loop {
            let (stream, _) = accept(&listener).await;
            // A connection takes a slot as its streams do, so that those without streams are bounded, too.
            if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
                return Some((Ok::<_, io::Error>(Slotted { stream, _slot: slot }), (listener, slots)));
            }
            ::metrics::counter!(metrics::CONNECTIONS_REFUSED).increment(1);
        }
    });
    let service = ClientServiceServer::new(service)
        .max_decoding_message_size(max_frame.max(limits::MAX_FRAME_BYTES_BEFORE_SIGN_IN));
    let serving = server.add_service(service).serve_with_incoming_shutdown(incoming, accepting.stopping());
    if let Err(error) = serving.await {
        tracing::error!(%error, "gRPC listener ended");
    }
}

#[tonic::async_trait]
impl ClientService for Service {
    type ConnectStream = ReceiverStream<Result<ServerFrame, Status>>;

    async fn connect(&self, request: Request<Streaming<ClientFrame>>) -> Result<Response<Self::ConnectStream>, Status> {
        let address = request.remote_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
        let (outbound, stream) = mpsc::channel(AHEAD);
        match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(slot) => {
                let max = limits::MAX_FRAME_BYTES_BEFORE_SIGN_IN;
                let transport = GrpcTransport::new(request.into_inner(), outbound, max);
                let shared = Arc::clone(&self.shared);
                self.tasks.spawn("client-connection", async move {
                    serve(shared, transport, Protocol::Grpc, address).await;
                    drop(slot);
                });
            }
            Err(_) => {
                ::metrics::counter!(metrics::CONNECTIONS_REFUSED).increment(1);
                // The channel is new: there is room.
                let _ = outbound.try_send(Ok(ServerFrame { body: Some(Body::Bye(overloaded())) }));
            }
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// A socket that gives its slot back when it is closed.
struct Slotted {
    stream: TcpStream,
    _slot: OwnedSemaphorePermit,
}

impl Connected for Slotted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Slotted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Slotted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
