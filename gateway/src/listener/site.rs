//! The answers of the WebSocket port to requests of HTTP/1.1.

use std::sync::Arc;

use bytes::Bytes;
use carillon_proto::Ready;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, Version,
    header::{self, HeaderMap, HeaderValue},
    http::uri::Authority,
};
use tokio_tungstenite::tungstenite::{self, error::ProtocolError, handshake::server::create_response};

use super::{
    origin::Origins,
    refusal::{AGAIN_S, Refusal},
};
use crate::{
    media::{MediaService, PATH},
    transport::ws::Format,
};

const WS: &str = "/ws";

pub(super) type HttpResponse = Response<Full<Bytes>>;

/// Shared by all connections of the port.
pub(super) struct Site {
    pub(super) origins: Origins,
    pub(super) ready: Ready,
    /// `None`: this gateway has no place for files.
    pub(super) media: Option<Arc<MediaService>>,
}

/// The kinds of requests that get more than an error.
enum About {
    Health(HttpResponse),
    WebSocket,
}

impl Site {
    /// The service that answers the request, if it is about a file.
    pub(super) fn media_of<B>(&self, request: &Request<B>) -> Option<Arc<MediaService>> {
        self.media.clone().filter(|_| request.uri().path().starts_with(PATH) && names_its_host(request))
    }

    /// The response, and the format if it makes the connection a WebSocket. Health checks are answered without a place,
    /// too: a gateway at its limit is healthy.
    pub(super) fn answer<B>(&self, request: &Request<B>, place: Result<(), Refusal>) -> (HttpResponse, Option<Format>) {
        let (answer, format) = match (self.about(request), place) {
            (Err(answer), _) => (*answer, None),
            (Ok(About::Health(answer)), _) => (answer, None),
            (Ok(About::WebSocket), Err(refusal)) => (no_place(refusal), None),
            (Ok(About::WebSocket), Ok(())) => match self.upgrade(request) {
                Ok((answer, format)) => (answer, Some(format)),
                Err(answer) => (*answer, None),
            },
        };
        (if place.is_err() { closing(answer) } else { answer }, format)
    }

    fn about<B>(&self, request: &Request<B>) -> Result<About, Box<HttpResponse>> {
        if !names_its_host(request) {
            let why = "the request must have one Host, with a name or an address and perhaps a port\n";
            return Err(Box::new(closing(refuse(StatusCode::BAD_REQUEST, why))));
        }
        let path = request.uri().path();
        if !matches!(path, WS | "/healthz" | "/readyz") {
            let why = "nothing is here: WebSocket is at /ws, health at /healthz\n";
            return Err(Box::new(refuse(StatusCode::NOT_FOUND, why)));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are possible here\n");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            // The request may have a body, which nobody reads.
            return Err(Box::new(closing(answer)));
        }
        Ok(match path {
            "/healthz" => About::Health(text(StatusCode::OK, "ok\n".to_owned())),
            "/readyz" => About::Health(self.ready()),
            _ => About::WebSocket,
        })
    }

    fn ready(&self) -> HttpResponse {
        match self.ready.borrow().why() {
            None => text(StatusCode::OK, "ready\n".to_owned()),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        }
    }

    fn upgrade<B>(&self, request: &Request<B>) -> Result<(HttpResponse, Format), Box<HttpResponse>> {
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

/// The library's response to the handshake, or a refusal.
fn shake<B>(request: &Request<B>) -> Result<Response<()>, Box<HttpResponse>> {
    let mut plain = Request::new(());
    *plain.method_mut() = request.method().clone();
    *plain.version_mut() = request.version();
    *plain.headers_mut() = request.headers().clone();
    create_response(&plain).map_err(|error| Box::new(refusal(error)))
}

fn refusal(error: tungstenite::Error) -> HttpResponse {
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
fn upgrade_required(why: &str) -> HttpResponse {
    let mut answer = refuse(StatusCode::UPGRADE_REQUIRED, why);
    let headers = answer.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade, close"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    answer
}

/// RFC 9110, section 10.2.3: Retry-After with 503; RFC 6585, section 4: with 429.
fn no_place(refusal: Refusal) -> HttpResponse {
    let mut answer = text(refusal.status(), format!("{}\n", refusal.text()));
    answer.headers_mut().insert(header::RETRY_AFTER, AGAIN_S.into());
    answer
}

fn closing(mut answer: HttpResponse) -> HttpResponse {
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// RFC 9112, section 3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message
/// that lacks a Host header field and to any request message that contains more than one Host header field line or a Host
/// header field with an invalid field value."
fn names_its_host<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => request.version() < Version::HTTP_11,
        (Some(_), Some(_)) => false,
        // Empty if the target has no authority.
        (Some(host), None) if host.is_empty() => true,
        (Some(host), None) => Authority::try_from(host.as_bytes()).is_ok_and(|named| {
            let port = &named.as_str()[named.host().len()..];
            let is_port = port.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
            !named.as_str().contains('@') && (port.is_empty() || is_port)
        }),
    }
}

fn refuse(status: StatusCode, why: &str) -> HttpResponse {
    text(status, why.to_owned())
}

fn text(status: StatusCode, body: String) -> HttpResponse {
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
    fn a_host_is_there_once_and_is_one() {
        let named = |version, hosts: &[&str]| {
            let mut request = Request::builder().version(version);
            for host in hosts {
                request = request.header(header::HOST, *host);
            }
            names_its_host(&request.body(()).expect("a request"))
        };
        for right in [&["x"][..], &["chat.example.org:443"], &["[::1]:7411"], &["192.0.2.1"], &[""]] {
            assert!(named(Version::HTTP_11, right), "{right:?}");
        }
        for wrong in [&[][..], &["x", "x"], &["x", "y"], &["a b"], &["x/y"], &["me@x"], &["x:port"], &["x, y"]] {
            assert!(!named(Version::HTTP_11, wrong), "{wrong:?}");
        }
        assert!(named(Version::HTTP_10, &[]), "HTTP/1.0 knew no Host");
        assert!(!named(Version::HTTP_10, &["x", "y"]));
    }
}
