//! The gRPC service `ClientService`, written by hand: its messages stay bytes, because generated code would drop
//! unknown fields.

use std::{
    convert::Infallible,
    future::{Future, ready},
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use carillon_proto::{
    pb::{
        client::{ServerFrame, client_service_server::SERVICE_NAME, server_frame},
        store::session::Protocol,
    },
    tasks::Tasks,
};
use hyper::http;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{CompressionEncoding, EnabledCompressionEncodings},
    codegen::Service,
    server::{Grpc, NamedService, StreamingService},
};

use super::{accept::Entrance, grpc_connection::ClientConnection};
use crate::{
    connection::{Arrival, Shared, serve},
    transport::grpc::{AHEAD, GrpcTransport, MessageLimit, WholeMessages},
};

const CONNECT: &str = "/carillon.client.v1.ClientService/Connect";

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

#[derive(Clone)]
pub(super) struct ClientService {
    clients: Arc<Clients>,
    max_frame: usize,
}

/// Starts a connection for each stream.
pub(super) struct Clients {
    pub(super) shared: Arc<Shared>,
    pub(super) entrance: Arc<Entrance>,
    pub(super) tasks: Tasks,
}

impl ClientService {
    pub(super) fn new(clients: Clients, max_frame: usize) -> Self {
        Self { clients: Arc::new(clients), max_frame }
    }
}

impl NamedService for ClientService {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for ClientService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Boxed<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != CONNECT {
            return Box::pin(ready(Ok(Status::unimplemented("the only method is Connect").into_http())));
        }
        let mut gzip = EnabledCompressionEncodings::default();
        gzip.enable(CompressionEncoding::Gzip);
        let grpc = Grpc::new(WholeMessages).apply_compression_config(gzip, gzip);
        let mut grpc = grpc.apply_max_message_size_config(Some(self.max_frame), None);
        let connect = Connect(Arc::clone(&self.clients));
        Box::pin(async move { Ok(grpc.streaming(connect, request).await) })
    }
}

struct Connect(Arc<Clients>);

impl StreamingService<Bytes> for Connect {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = Boxed<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        Box::pin(ready(self.0.connect(request)))
    }
}

impl Clients {
    fn connect(
        &self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<ReceiverStream<Result<Bytes, Status>>>, Status> {
        // Each connection has one: `GrpcConnection` says so.
        let known = request.extensions().get::<ClientConnection>().cloned();
        let peer = known.as_ref().and_then(ClientConnection::address).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let address = self.entrance.proxies.client(peer, request.metadata().as_ref());
        // `Bounded` gives one to each request.
        let limit = request.extensions().get::<MessageLimit>().cloned();
        let limit = limit.ok_or_else(|| Status::internal("a request without a bound"))?;
        let (outbound, stream) = mpsc::channel(AHEAD);
        let refusal = known.as_ref().and_then(ClientConnection::refusal);
        match refusal.map_or_else(|| self.entrance.slot(address), Err) {
            Ok(slot) => {
                let probation = known.as_ref().map(|known| known.probation.clone());
                let deadline = self.deadline(known.as_ref());
                let transport = GrpcTransport::new(request.into_inner(), outbound, limit).on_probation(probation);
                let arrival = Arrival { protocol: Protocol::Grpc, address, deadline };
                let shared = Arc::clone(&self.shared);
                self.tasks.spawn("client-connection", async move {
                    serve(shared, transport, arrival).await;
                    drop(slot);
                });
            }
            Err(refusal) => {
                // The channel is new: there is room.
                let bye = ServerFrame { body: Some(server_frame::Body::Bye(refusal.bye())) };
                let _ = outbound.try_send(Ok(bye.encode_to_vec().into()));
            }
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    /// The first stream has the rest of the connection's time, so that it learns why the connection ends. Later ones
    /// have their own time.
    fn deadline(&self, known: Option<&ClientConnection>) -> Instant {
        let now = Instant::now();
        let own = now + self.entrance.sign_in_timeout;
        known.map(|known| known.deadline).filter(|first| *first > now).map_or(own, |first| own.min(first))
    }
}
