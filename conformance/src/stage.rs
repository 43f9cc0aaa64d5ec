//! The listeners of a scene, where the client comes in.

use std::{io, net::SocketAddr, pin::Pin, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        handshake::server::{ErrorResponse, Request, Response},
        http::{HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL},
    },
};

use crate::carrier::Carrier;

/// Deadline of a client for the head of an HTTP request.
const HEAD: Duration = Duration::from_secs(5);
const MAX_HEAD: usize = 8 * 1024;

/// A client has come in.
pub(crate) enum Arrival {
    Connection(Carrier),
    /// A plain HTTP request for this path.
    Http(HttpAsk),
    /// The peer was no client of this protocol: the reason in words.
    Wrong(String),
}

pub(crate) struct HttpAsk {
    /// As in "GET /media/1".
    pub(crate) what: String,
    stream: TcpStream,
}

pub(crate) struct Stage {
    tcp: TcpListener,
    ws: TcpListener,
    /// A connection in its handshake.
    arriving: Option<Pin<Box<dyn Future<Output = Arrival> + Send>>>,
}

impl Stage {
    pub(crate) async fn open() -> io::Result<Self> {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (tcp, ws) = (TcpListener::bind(anywhere).await?, TcpListener::bind(anywhere).await?);
        Ok(Self { tcp, ws, arriving: None })
    }

    /// Host and port of TCP, and the URL of the WebSocket.
    pub(crate) fn addresses(&self) -> io::Result<(String, String)> {
        let ws = format!("ws://{}/ws", self.ws.local_addr()?);
        Ok((self.tcp.local_addr()?.to_string(), ws))
    }

    /// Waits for a connection, and for the start of what comes on it. Cancel-safe.
    pub(crate) async fn next(&mut self) -> io::Result<Arrival> {
        loop {
            if let Some(arriving) = &mut self.arriving {
                let arrival = arriving.await;
                self.arriving = None;
                return Ok(arrival);
            }
            tokio::select! {
                accepted = self.tcp.accept() => {
                    let stream = accepted?.0;
                    stream.set_nodelay(true)?;
                    return Ok(Arrival::Connection(Carrier::tcp(stream)));
                }
                accepted = self.ws.accept() => {
                    let stream = accepted?.0;
                    stream.set_nodelay(true)?;
                    self.arriving = Some(Box::pin(async {
                        let arrival = timeout(HEAD, http(stream)).await;
                        arrival.unwrap_or_else(|_| Arrival::Wrong(format!("no whole HTTP request within {HEAD:?}")))
                    }));
                }
            }
        }
    }
}

async fn http(mut stream: TcpStream) -> Arrival {
    let mut head = vec![0; MAX_HEAD];
    // Left in the socket, for the handshake.
    let size = loop {
        match stream.peek(&mut head).await {
            Ok(0) | Err(_) => return Arrival::Wrong("a connection ended before its HTTP request".to_owned()),
            Ok(size) if size == MAX_HEAD || head[..size].windows(4).any(|end| end == b"\r\n\r\n") => break size,
            // The rest is on its way.
            Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    let text = String::from_utf8_lossy(&head[..size]).into_owned();
    if text.to_ascii_lowercase().contains("upgrade: websocket") {
        return web_socket(stream).await;
    }
    let length = text.find("\r\n\r\n").map_or(size, |end| end + 4);
    if let Err(error) = stream.read_exact(&mut head[..length]).await {
        return Arrival::Wrong(format!("an HTTP request broke: {error}"));
    }
    let line = text.lines().next().unwrap_or_default();
    let what = line.rsplit_once(' ').map_or(line, |(what, _)| what).to_owned();
    Arrival::Http(HttpAsk { what, stream })
}

async fn web_socket(stream: TcpStream) -> Arrival {
    let mut json = false;
    #[expect(clippy::result_large_err, reason = "the type is that of the callback")]
    let choose = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
        let offered = offered.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        let chosen = offered.map(str::trim).find_map(|name| match name {
            "carillon.v1.json" => Some((true, "carillon.v1.json")),
            "carillon.v1.proto" => Some((false, "carillon.v1.proto")),
            _ => None,
        });
        let Some((is_json, name)) = chosen.filter(|_| request.uri().path() == "/ws") else {
            let why = "the path is /ws, the subprotocol carillon.v1.proto or carillon.v1.json";
            let mut refusal = ErrorResponse::new(Some(why.to_owned()));
            *refusal.status_mut() = StatusCode::BAD_REQUEST;
            return Err(refusal);
        };
        json = is_json;
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
        Ok(response)
    };
    match accept_hdr_async(stream, choose).await {
        Ok(socket) => Arrival::Connection(Carrier::WebSocket { socket: Box::new(socket), json }),
        Err(error) => Arrival::Wrong(format!("a WebSocket handshake failed: {error}")),
    }
}

impl HttpAsk {
    pub(crate) async fn answer(mut self, status: u16, body: &str) -> io::Result<()> {
        let length = body.len();
        let etag = "Content-Type: application/octet-stream\r\nETag: \"scene\"\r\n";
        let head = format!("HTTP/1.1 {status} Scene\r\nContent-Length: {length}\r\n{etag}Connection: close\r\n\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        self.stream.write_all(body.as_bytes()).await?;
        self.stream.shutdown().await
    }
}
