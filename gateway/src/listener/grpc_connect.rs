//! The gRPC service `ClientService`, written by hand: its messages stay bytes, because generated code would drop
//! unknown fields.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use carillon_proto::pb::client::client_service_server::SERVICE_NAME;
use hyper::http;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{CompressionEncoding, EnabledCompressionEncodings},
    codegen::Service,
    server::{Grpc, NamedService, StreamingService},
};

use super::grpc;
use crate::transport::grpc::WholeMessages;

const CONNECT: &str = "/carillon.client.v1.ClientService/Connect";

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

#[derive(Clone)]
pub(super) struct ClientService {
    clients: Arc<grpc::Service>,
    max_frame: usize,
}

impl ClientService {
    pub(super) fn new(clients: grpc::Service, max_frame: usize) -> Self {
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

struct Connect(Arc<grpc::Service>);

impl StreamingService<Bytes> for Connect {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = Boxed<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        Box::pin(ready(self.0.connect(request)))
    }
}
