//! The gRPC listener.

use std::{io, sync::Arc, time::Duration};

use carillon_proto::{accepting::Accepting, limits, tasks::Tasks, tls::MaybeTls};
use futures_util::StreamExt as _;
use tokio::net::TcpListener;
use tonic::transport::Server;

use super::{
    grpc_connect::{ClientService, Clients},
    grpc_connection::GrpcConnection,
    grpc_services::{self, Health, HealthServer},
    tls::Tls,
};
use crate::transport::grpc::Bounded;

/// Streams on one HTTP/2 connection.
const MAX_STREAMS: u32 = 1_024;
/// Windows bound the memory that a client that does not read can make the gateway hold.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

pub(super) async fn run(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    clients: Clients,
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
    let state = (Accepting::new(listener, "gRPC listener"), Arc::clone(&clients.entrance));
    let incoming = futures_util::stream::unfold(state, async |(mut accepting, entrance)| {
        loop {
            let (stream, peer) = accepting.next().await;
            // A connection takes a slot as its streams do, which bounds connections without streams.
            if let Some(place) = entrance.place()
                && let Some(connection) = GrpcConnection::new(stream, peer, place, &entrance)
            {
                return Some((Ok::<_, io::Error>(connection), (accepting, entrance)));
            }
        }
    });
    let incoming = incoming.map(move |stream| {
        Ok::<_, io::Error>(match &tls {
            None => MaybeTls::plain(stream?),
            Some(tls) => MaybeTls::accept(stream?, tls.grpc()),
        })
    });
    let service = ClientService::new(clients, max_frame.max(limits::MAX_FRAME_BYTES_BEFORE_SIGN_IN));
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
