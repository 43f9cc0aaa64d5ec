//! Frames as WebSocket messages: binary with protobuf, or text with its canonical JSON.

use std::future::ready;

use carillon_proto::pb::client::{ClientFrame, ServerFrame};
use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use tokio_tungstenite::{
    client_async_with_config,
    tungstenite::{
        self, Message,
        client::IntoClientRequest as _,
        error::ProtocolError,
        http::{HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::WebSocketConfig,
    },
};

use super::{Connection, ConnectionError, MAX_SERVER_FRAME_BYTES, json, stream::Bytes};
use crate::{Address, Format};

pub(super) async fn handshake(
    stream: impl Bytes + 'static,
    address: &Address,
    path: &str,
    format: Format,
) -> Result<Connection, ConnectionError> {
    let subprotocol = match format {
        Format::Proto => "carillon.v1.proto",
        Format::Json => "carillon.v1.json",
    };
    let scheme = if address.tls { "wss" } else { "ws" };
    let mut request = format!("{scheme}://{}{path}", address.authority()).into_client_request().map_err(failed)?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    // The default buffers of 128 KiB would be most of the memory of an idle connection.
    let config = WebSocketConfig::default()
        .read_buffer_size(8 * 1024)
        .write_buffer_size(8 * 1024)
        .max_message_size(Some(MAX_SERVER_FRAME_BYTES))
        .max_frame_size(Some(MAX_SERVER_FRAME_BYTES));
    let (socket, response) =
        client_async_with_config(request, stream, Some(config)).await.map_err(|error| match error {
            tungstenite::Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(_)) => {
                ConnectionError::Subprotocol(subprotocol)
            }
            tungstenite::Error::Http(response) if response.status() == StatusCode::NOT_FOUND => {
                ConnectionError::NoWebSocket { address: address.to_string() }
            }
            error => failed(error),
        })?;
    if response.headers().get(SEC_WEBSOCKET_PROTOCOL).map(HeaderValue::as_bytes) != Some(subprotocol.as_bytes()) {
        return Err(ConnectionError::Subprotocol(subprotocol));
    }
    let (outgoing, incoming) = socket.split();
    let outgoing = outgoing.sink_map_err(failed).with(move |frame: ClientFrame| ready(encode(&frame, format)));
    let incoming = incoming.filter_map(|message| ready(message.map_err(failed).and_then(decode).transpose()));
    Ok(Connection::new(outgoing, incoming))
}

fn encode(frame: &ClientFrame, format: Format) -> Result<Message, ConnectionError> {
    match format {
        Format::Proto => Ok(Message::binary(frame.encode_to_vec())),
        Format::Json => {
            serde_json::to_string(frame).map(Message::text).map_err(|error| ConnectionError::Frame(error.to_string()))
        }
    }
}

/// `None` for WebSocket control messages.
fn decode(message: Message) -> Result<Option<ServerFrame>, ConnectionError> {
    match message {
        Message::Binary(bytes) => {
            ServerFrame::decode(bytes).map(Some).map_err(|error| ConnectionError::Frame(error.to_string()))
        }
        Message::Text(text) => json::read(&text).map(Some).map_err(|error| ConnectionError::Frame(error.to_string())),
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => Ok(None),
    }
}

fn failed(error: tungstenite::Error) -> ConnectionError {
    match error {
        tungstenite::Error::Io(error) => ConnectionError::Io(error),
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => ConnectionError::Closed,
        error => ConnectionError::WebSocket(Box::new(error)),
    }
}
