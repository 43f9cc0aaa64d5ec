//! The WebSocket handshake.

use std::{net::IpAddr, sync::Arc};

use carillon_proto::pb::store::session::Protocol;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout_at,
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    accept_hdr_async_with_config,
    tungstenite::{
        handshake::server::{ErrorResponse, Request, Response},
        http::{HeaderValue, StatusCode, header},
    },
};

use super::{
    accept::{Accepted, CROWDED_TEXT, Entry},
    slots::Slot,
};
use crate::{
    connection::{self, Arrival, Shared},
    transport::ws::{Format, WsTransport, config},
};

const PATH: &str = "/ws";

pub(super) async fn serve(
    shared: Arc<Shared>,
    acceptor: Option<TlsAcceptor>,
    entry: Entry,
    max_frame: usize,
    mut accepted: Accepted,
) {
    let Some(peer) = entry.source(&mut accepted).await else { return };
    let Accepted { stream, deadline, mut slot, .. } = accepted;
    let mut whose = Whose { entry, address: peer, slot: &mut slot };
    // Each is boxed, so that a connection holds only what it is at.
    match acceptor {
        None => {
            let shaken = Box::pin(timeout_at(deadline.into(), shake(stream, max_frame, &mut whose))).await;
            let arrival = Arrival { protocol: Protocol::Websocket, address: whose.address, deadline };
            if let Ok(Some(transport)) = shaken {
                Box::pin(connection::serve(shared, transport, arrival)).await;
            }
        }
        Some(acceptor) => {
            let both = async { shake(acceptor.accept(stream).await.ok()?, max_frame, &mut whose).await };
            let shaken = Box::pin(timeout_at(deadline.into(), both)).await;
            let arrival = Arrival { protocol: Protocol::Websocket, address: whose.address, deadline };
            if let Ok(Some(transport)) = shaken {
                Box::pin(connection::serve(shared, transport, arrival)).await;
            }
        }
    }
    drop(slot);
}

/// Whose connection it is: the other end, until the headers of a trusted proxy say more.
struct Whose<'a> {
    entry: Entry,
    address: IpAddr,
    slot: &'a mut Slot,
}

impl Whose<'_> {
    #[expect(clippy::result_large_err, reason = "the library says what a refusal is")]
    fn hear(&mut self, request: &Request) -> Result<(), ErrorResponse> {
        self.address = self.entry.proxies.client(self.address, request.headers());
        self.slot.belongs_to(self.address).map_err(|_| refuse(StatusCode::TOO_MANY_REQUESTS, CROWDED_TEXT))
    }
}

/// None if the client was refused; it has been told.
async fn shake<S: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: S,
    max_frame: usize,
    whose: &mut Whose<'_>,
) -> Option<WsTransport<S>> {
    let mut format = None;
    #[expect(clippy::result_large_err, reason = "the library says what a refusal is")]
    let choose = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        whose.hear(request)?;
        let chosen = choose(request)?;
        format = Some(chosen);
        let name = HeaderValue::from_static(chosen.subprotocol());
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, name);
        Ok(response)
    };
    let ws = accept_hdr_async_with_config(stream, choose, Some(config(max_frame))).await.ok()?;
    Some(WsTransport::new(ws, format?, max_frame))
}

#[expect(clippy::result_large_err, reason = "the library says what a refusal is")]
fn choose(request: &Request) -> Result<Format, ErrorResponse> {
    if request.uri().path() != PATH {
        return Err(refuse(StatusCode::NOT_FOUND, "the path is /ws\n"));
    }
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let offered = offered.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let known = |name: &str| Format::ALL.into_iter().find(|format| format.subprotocol() == name.trim());
    offered.filter_map(known).next().ok_or_else(|| {
        let text = "Sec-WebSocket-Protocol must be carillon.v1.proto or carillon.v1.json\n";
        refuse(StatusCode::BAD_REQUEST, text)
    })
}

fn refuse(status: StatusCode, text: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(text.to_owned()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, protocols: &[&'static str]) -> Request {
        let mut request = Request::new(());
        *request.uri_mut() = path.parse().expect("a path");
        for protocol in protocols {
            request.headers_mut().append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        request
    }

    #[test]
    fn the_subprotocol_decides_the_format() {
        let chosen = |protocols: &[&'static str]| choose(&request("/ws?x=y", protocols)).ok();
        assert_eq!(chosen(&["carillon.v1.json"]), Some(Format::Json));
        assert_eq!(chosen(&["other, carillon.v1.proto", "carillon.v1.json"]), Some(Format::Protobuf));
        for bad in [&[][..], &["other"], &["carillon.v2.proto"]] {
            let refused = choose(&request("/ws", bad)).expect_err("refused");
            assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
            assert!(refused.body().as_deref().is_some_and(|text| text.contains("carillon.v1.proto")));
        }
        let refused = choose(&request("/", &["carillon.v1.json"])).expect_err("refused");
        assert_eq!(refused.status(), StatusCode::NOT_FOUND);
    }
}
