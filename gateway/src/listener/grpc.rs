//! `ClientService.Connect`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use carillon_proto::{
    accepting::Accepting,
    limits,
    pb::{
        client::{ServerFrame, server_frame::Body},
        store::session::Protocol,
    },
    tasks::Tasks,
    tls::MaybeTls,
};
use futures_util::StreamExt as _;
use prost::Message as _;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::{
    accept::Entry,
    grpc_connect::ClientService,
    grpc_connection::{ClientConnection, GrpcConnection},
    grpc_services::{self, Health, HealthServer},
    tls::Tls,
};
use crate::{
    connection::{Arrival, Shared, serve},
    transport::grpc::{AHEAD, Bounded, GrpcTransport, MessageLimit},
};

/// Streams on one HTTP/2 connection.
const MAX_STREAMS: u32 = 1_024;
/// Windows bound the memory that a client that does not read can make the gateway hold.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

#[derive(Clone)]
pub(super) struct Service {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    tasks: Tasks,
}

impl Service {
    pub(super) fn new(shared: Arc<Shared>, entry: Arc<Entry>, tasks: Tasks) -> Self {
        Self { shared, entry, tasks }
    }
}

pub(super) async fn run(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    service: Service,
    health: HealthServer<impl Health>,
    max_frame: usize,
    accepting: Tasks,
) {
    let mut server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .http2_max_header_list_size(limits::MAX_FRAME_BYTES_BEFORE_SIGN_IN as u32);
    let state = (Accepting::new(listener, "gRPC listener"), Arc::clone(&service.entry));
    let incoming = futures_util::stream::unfold(state, async |(mut accepting, entry)| {
        loop {
            let (stream, peer) = accepting.next().await;
            // A connection takes a slot as its streams do, which bounds connections without streams.
            if let Some(place) = entry.place()
                && let Some(connection) = GrpcConnection::new(stream, peer, place, &entry)
            {
                return Some((Ok::<_, io::Error>(connection), (accepting, entry)));
            }
        }
    });
    let incoming = incoming.map(move |stream| {
        Ok::<_, io::Error>(match &tls {
            None => MaybeTls::plain(stream?),
            Some(tls) => MaybeTls::accept(stream?, tls.grpc()),
        })
    });
    let service = ClientService::new(service, max_frame.max(limits::MAX_FRAME_BYTES_BEFORE_SIGN_IN));
    let bounded = Bounded::new(service, limits::MAX_FRAME_BYTES_BEFORE_SIGN_IN);
    let server = server.add_service(bounded).add_service(health);
    let server = match grpc_services::reflection() {
        Ok((current, older)) => server.add_service(current).add_service(older),
        Err(error) => return tracing::error!(%error, "gRPC reflection can't be set up"),
    };
    let serving = server.serve_with_incoming_shutdown(incoming, accepting.stopping());
    if let Err(error) = serving.await {
        tracing::error!(%error, "gRPC listener ended");
    }
}

impl Service {
    pub(super) fn connect(
        &self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<ReceiverStream<Result<Bytes, Status>>>, Status> {
        // Each connection has one: `GrpcConnection` says so.
        let known = request.extensions().get::<ClientConnection>().cloned();
        let peer = known.as_ref().and_then(ClientConnection::address).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let address = self.entry.proxies.client(peer, request.metadata().as_ref());
        // `Bounded` gives one to each request.
        let limit = request.extensions().get::<MessageLimit>().cloned();
        let limit = limit.ok_or_else(|| Status::internal("a request without a bound"))?;
        let (outbound, stream) = mpsc::channel(AHEAD);
        let refusal = known.as_ref().and_then(ClientConnection::refusal);
        match refusal.map_or_else(|| self.entry.slot(address), Err) {
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
                let bye = ServerFrame { body: Some(Body::Bye(refusal.bye())) };
                let _ = outbound.try_send(Ok(bye.encode_to_vec().into()));
            }
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    /// The first stream has the rest of the connection's time, so that it learns why the connection ends. Later ones
    /// have their own time.
    fn deadline(&self, known: Option<&ClientConnection>) -> Instant {
        let now = Instant::now();
        let own = now + self.entry.sign_in_timeout;
        known.map(|known| known.deadline).filter(|first| *first > now).map_or(own, |first| own.min(first))
    }
}
