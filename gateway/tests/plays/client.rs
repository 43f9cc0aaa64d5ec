//! Clients, one frame at a time.

use std::{net::SocketAddr, time::Duration};

use bytes::{Buf as _, BytesMut};
use carillon_proto::pb::client::{
    ClientFrame, Content, Recipient, Send, ServerFrame, SignIn, Text, client_frame::Body, content, recipient::To,
    server_frame, sign_in::Credential,
};
use futures_util::{SinkExt as _, StreamExt as _};
use jsonwebtoken::{EncodingKey, Header, encode};
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, client::IntoClientRequest as _},
};

pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn sign_in(user: &str, device: &str) -> Body {
    let claims = serde_json::json!({"sub": user, "exp": 4_000_000_000_u64});
    let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("signs");
    let credential = Some(Credential::Token(token));
    Body::SignIn(SignIn { device: device.to_owned(), credential, ..Default::default() })
}

pub(crate) fn send(client_id: &str, to: &str) -> Body {
    Body::Send(Send {
        client_id: client_id.to_owned(),
        to: Some(Recipient { to: Some(To::User(to.to_owned())) }),
        content: Some(Content {
            body: Some(content::Body::Text(Text { body: client_id.to_owned() })),
            ..Default::default()
        }),
        after: String::new(),
        expires_after_ms: 0,
    })
}

/// A client over any byte stream.
pub(crate) struct StreamClient<S = TcpStream> {
    io: S,
    got: BytesMut,
}

impl StreamClient {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.expect("connects"))
    }

    pub(crate) async fn signed_in(address: SocketAddr, user: &str, device: &str) -> Self {
        let mut client = Self::connect(address).await;
        client.says(sign_in(user, device)).await;
        let hears = client.hears().await;
        assert!(matches!(hears, server_frame::Body::SignedIn(_)), "{hears:?}");
        client
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> StreamClient<S> {
    pub(crate) fn over(io: S) -> Self {
        Self { io, got: BytesMut::new() }
    }

    pub(crate) async fn says(&mut self, body: Body) {
        let frame = ClientFrame { body: Some(body) };
        self.raw(&frame.encode_length_delimited_to_vec()).await;
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.expect("writes");
        self.io.flush().await.expect("writes");
    }

    pub(crate) async fn hears(&mut self) -> server_frame::Body {
        self.hears_or_end().await.expect("a frame before the end")
    }

    /// The next message; `None` at the end of the connection.
    pub(crate) async fn hears_or_end(&mut self) -> Option<server_frame::Body> {
        let frame = self.frame().await?;
        Some(ServerFrame::decode(&*frame).expect("decodes").body.expect("a body"))
    }

    /// The next frame as bytes; `None` at the end of the connection.
    pub(crate) async fn frame(&mut self) -> Option<Vec<u8>> {
        loop {
            let mut ahead = &self.got[..];
            if let Ok(length) = prost::decode_length_delimiter(&mut ahead)
                && ahead.len() >= length
            {
                let frame = ahead[..length].to_vec();
                let used = self.got.len() - ahead.len() + length;
                self.got.advance(used);
                return Some(frame);
            }
            let more = timeout(PATIENCE, self.io.read_buf(&mut self.got)).await.expect("something in time");
            if more.expect("reads") == 0 {
                return None;
            }
        }
    }
}

/// A client over WebSocket with JSON.
pub(crate) struct JsonClient {
    ws: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl JsonClient {
    pub(crate) async fn connect(address: SocketAddr, subprotocol: Option<&str>) -> Result<Self, tungstenite::Error> {
        let mut request = format!("ws://{address}/ws").into_client_request().expect("a request");
        if let Some(name) = subprotocol {
            request.headers_mut().insert("Sec-WebSocket-Protocol", name.parse().expect("a header"));
        }
        let (ws, _) = connect_async(request).await?;
        Ok(Self { ws })
    }

    pub(crate) async fn says(&mut self, text: &str) {
        self.ws.send(Message::text(text)).await.expect("sends");
    }

    pub(crate) async fn hears(&mut self) -> serde_json::Value {
        loop {
            let message = timeout(PATIENCE, self.ws.next()).await.expect("something in time");
            if let Message::Text(text) = message.expect("not the end").expect("reads") {
                return serde_json::from_str(&text).expect("JSON");
            }
        }
    }
}
