//! HTTP/1.1 on the WebSocket port: the upgrade, health for proxies, and an answer for everything else.

use std::{
    convert::Infallible,
    future::{poll_fn, ready},
    time::Duration,
};

use bytes::Bytes;
use carillon_proto::{Readiness, Ready, limits};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::Incoming,
    header::{self, HeaderMap, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::tungstenite::{self, error::ProtocolError, handshake::server::create_response};

use super::{accept::CROWDED_TEXT, origin::Origins, slots::Crowded};
use crate::transport::{LINGER, ws::Format};

const WS: &str = "/ws";
/// Lines of a request head.
const MAX_HEADERS: usize = 100;
/// For what a client still sends when it has been refused.
const REFUSAL: Duration = Duration::from_secs(1);
const TIMED_OUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain\r\nContent-Length: 36\r\n\
    Connection: close\r\n\r\nthe request did not come to its end\n";

/// What all connections of the port share.
pub(super) struct Site {
    pub(super) origins: Origins,
    pub(super) ready: Ready,
}

/// A connection that is a WebSocket now.
pub(super) struct Upgraded<S> {
    pub(super) stream: S,
    /// What came behind the request.
    pub(super) early: Bytes,
    pub(super) format: Format,
}

/// Answers requests until one of them makes the connection a WebSocket, or until the deadline. None if none did. `admit`
/// looks at each request's headers before it is answered.
pub(super) async fn serve_until_upgrade<S>(
    stream: S,
    site: &Site,
    deadline: Instant,
    admit: impl FnMut(&HeaderMap) -> Result<(), Crowded> + Send,
) -> Option<Upgraded<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let state = Mutex::new((admit, Outcome::default()));
    let service = service_fn(|request: Request<Incoming>| {
        let (admit, outcome) = &mut *state.lock();
        let (response, format) = match admit(request.headers()) {
            Ok(()) => site.answer(&request),
            Err(Crowded) => (crowded(), None),
        };
        outcome.answered = true;
        outcome.format = format;
        ready(Ok::<_, Infallible>(response))
    });
    let mut connection = http1::Builder::new()
        .half_close(true)
        .max_headers(MAX_HEADERS)
        .max_buf_size(limits::MAX_FRAME_BYTES_BEFORE_SIGN_IN)
        // The deadline is over all.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    let ended = timeout_at(deadline, poll_fn(|cx| connection.poll_without_shutdown(cx))).await;
    let parts = connection.into_parts();
    let (mut stream, early) = (parts.io.into_inner(), parts.read_buf);
    let Outcome { answered, format } = state.lock().1;
    match (ended, format) {
        (Ok(Ok(())), Some(format)) => return Some(Upgraded { stream, early, format }),
        // Half a request. A connection on which nothing was asked, or all was answered, is closed without a word.
        (Err(_), _) if !answered && !early.is_empty() => {
            let _ = timeout(REFUSAL, stream.write_all(TIMED_OUT)).await;
        }
        _ => {}
    }
    let _ = timeout(REFUSAL, let_go(stream)).await;
    None
}

#[derive(Default, Clone, Copy)]
struct Outcome {
    answered: bool,
    format: Option<Format>,
}

/// Closes so that the client can read the last answer: what it still sends is read, because closing over it would reset
/// the connection.
async fn let_go<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let (mut dropped, mut space) = (0, [0; 1024]);
    while dropped < LINGER {
        match stream.read(&mut space).await {
            Ok(0) | Err(_) => return,
            Ok(more) => dropped += more,
        }
    }
}

type Answer = Response<Full<Bytes>>;

impl Site {
    /// The format is that of the WebSocket, if the answer makes it one.
    fn answer<B>(&self, request: &Request<B>) -> (Answer, Option<Format>) {
        let path = request.uri().path();
        if !matches!(path, WS | "/healthz" | "/readyz") {
            return (refuse(StatusCode::NOT_FOUND, "nothing is here: WebSocket is at /ws, health at /healthz\n"), None);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are possible here\n");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            // The request may have a body, which nobody reads.
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            return (answer, None);
        }
        match path {
            "/healthz" => (text(StatusCode::OK, "ok\n".to_owned()), None),
            "/readyz" => (self.ready(), None),
            _ => match self.upgrade(request) {
                Ok((answer, format)) => (answer, Some(format)),
                Err(answer) => (*answer, None),
            },
        }
    }

    fn ready(&self) -> Answer {
        match &*self.ready.borrow() {
            Readiness::Ready => text(StatusCode::OK, "ready\n".to_owned()),
            Readiness::NotReady(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        }
    }

    fn upgrade<B>(&self, request: &Request<B>) -> Result<(Answer, Format), Box<Answer>> {
        let shaken = shake(request)?;
        if !self.origins.admit(request.headers()) {
            let why = "this page's origin is not in the list of this service (gateway.origins)\n";
            return Err(Box::new(refuse(StatusCode::FORBIDDEN, why)));
        }
        let format = choose(request.headers()).ok_or_else(|| {
            let why = "Sec-WebSocket-Protocol must be carillon.v1.proto or carillon.v1.json\n";
            Box::new(refuse(StatusCode::BAD_REQUEST, why))
        })?;
        let mut answer = shaken.map(|()| Full::default());
        let name = HeaderValue::from_static(format.subprotocol());
        answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, name);
        Ok((answer, format))
    }
}

/// The library's answer to the handshake, or a refusal.
fn shake<B>(request: &Request<B>) -> Result<Response<()>, Box<Answer>> {
    let mut plain = Request::new(());
    *plain.method_mut() = request.method().clone();
    *plain.version_mut() = request.version();
    *plain.headers_mut() = request.headers().clone();
    create_response(&plain).map_err(|error| Box::new(refusal(error)))
}

fn refusal(error: tungstenite::Error) -> Answer {
    match error {
        tungstenite::Error::Protocol(
            ProtocolError::WrongHttpMethod
            | ProtocolError::WrongHttpVersion
            | ProtocolError::MissingConnectionUpgradeHeader
            | ProtocolError::MissingUpgradeWebSocketHeader,
        ) => upgrade_required("this is a WebSocket: the request must ask for the upgrade, with GET and HTTP/1.1\n"),
        tungstenite::Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => {
            upgrade_required("Sec-WebSocket-Version must be 13\n")
        }
        error => refuse(StatusCode::BAD_REQUEST, &format!("the WebSocket handshake can't be taken: {error}\n")),
    }
}

fn choose(headers: &HeaderMap) -> Option<Format> {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let mut offered = offered.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    offered.find_map(|name| Format::ALL.into_iter().find(|format| format.subprotocol() == name.trim()))
}

/// RFC 9110, section 15.5.22: "The server MUST send an Upgrade header field in a 426 response". RFC 6455, section 4.4:
/// the versions that the server can speak are named.
fn upgrade_required(why: &str) -> Answer {
    let mut answer = refuse(StatusCode::UPGRADE_REQUIRED, why);
    let headers = answer.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade, close"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    answer
}

fn crowded() -> Answer {
    let mut answer = refuse(StatusCode::TOO_MANY_REQUESTS, CROWDED_TEXT);
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

fn refuse(status: StatusCode, why: &str) -> Answer {
    text(status, why.to_owned())
}

fn text(status: StatusCode, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    *answer.version_mut() = Version::HTTP_11;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subprotocol_decides_the_format() {
        let chosen = |protocols: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for protocol in protocols {
                headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
            }
            choose(&headers)
        };
        assert_eq!(chosen(&["carillon.v1.json"]), Some(Format::Json));
        assert_eq!(chosen(&["other, carillon.v1.proto", "carillon.v1.json"]), Some(Format::Protobuf));
        for bad in [&[][..], &["other"], &["carillon.v2.proto"]] {
            assert_eq!(chosen(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_text_for_half_a_request_is_as_long_as_it_says() {
        let text = std::str::from_utf8(TIMED_OUT).expect("ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
    }
}
