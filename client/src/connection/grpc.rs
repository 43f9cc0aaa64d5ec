//! Frames as messages of the gRPC method ClientService.Connect.

use std::time::Duration;

use carillon_proto::pb::client::client_service_client::ClientServiceClient;
use futures_util::{SinkExt as _, TryFutureExt as _, TryStreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::PollSender;
use tonic::transport::Endpoint;

use super::{ConnectOptions, Connection, ConnectionError, MAX_SERVER_FRAME_BYTES};
use crate::Address;

pub(super) async fn open(address: &Address, options: &ConnectOptions) -> Result<Connection, ConnectionError> {
    let failed = |source| ConnectionError::GrpcConnect { address: address.to_string(), source };
    let scheme = if address.tls { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", address.authority()))
        .map_err(failed)?
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    if address.tls {
        let name = options.server_name.as_deref().unwrap_or(&address.host);
        endpoint = endpoint.tls_config(options.trust.tonic(name)).map_err(failed)?;
    }
    let channel = endpoint.connect().await.map_err(failed)?;
    let mut client = ClientServiceClient::new(channel).max_decoding_message_size(MAX_SERVER_FRAME_BYTES);
    // When it is full, the sender waits until HTTP/2 has taken a frame.
    let (frames, receiver) = mpsc::channel(64);
    // The call is made with the first read: its answer may wait for the first frame, which is sent before that.
    let incoming = async move { client.connect(ReceiverStream::new(receiver)).await.map(tonic::Response::into_inner) }
        .try_flatten_stream()
        .map_err(|status| ConnectionError::Grpc(Box::new(status)));
    let outgoing = PollSender::new(frames).sink_map_err(|_| ConnectionError::Closed);
    Ok(Connection::new(outgoing, incoming))
}
