//! Refusals for clients for which there is no place.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use carillon_proto::pb::client::{Bye, Code, server_frame::Body};
use hyper::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout_at,
};
use tokio_rustls::TlsAcceptor;

use crate::dialect::native::varint::put_frame;

/// Deadline of the whole refusal: handshakes, message and close.
pub(super) const REFUSAL: Duration = Duration::from_secs(2);
/// Retry delay for the client, in seconds.
pub(super) const AGAIN_S: u32 = 5;

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The listener or the gateway is at its limit.
    Full,
    /// The client's address is at its limit.
    Crowded,
}

impl Refusal {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Full => "this gateway has as many connections as it may",
            Self::Crowded => "this address has as many connections as it may",
        }
    }

    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Full => StatusCode::SERVICE_UNAVAILABLE,
            Self::Crowded => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    pub(super) fn bye(self) -> Bye {
        Bye {
            code: Code::Overloaded.into(),
            reason: self.text().to_owned(),
            reconnect: true,
            reconnect_after_ms: AGAIN_S * 1000,
            ..Bye::default()
        }
    }

    /// Tells a client over TCP or TLS, and closes. A client that does not read by the deadline goes without the
    /// message.
    pub(super) async fn tell(self, stream: TcpStream, acceptor: Option<TlsAcceptor>, deadline: Instant) {
        let mut words = BytesMut::new();
        put_frame(&Body::Bye(self.bye()).into(), &mut words);
        self.tell_in(&words, stream, acceptor, deadline).await;
    }

    /// The same in words of another dialect.
    pub(super) async fn tell_in(
        self,
        words: &[u8],
        stream: TcpStream,
        acceptor: Option<TlsAcceptor>,
        deadline: Instant,
    ) {
        let tell = async {
            match acceptor {
                None => say(words, stream).await,
                Some(acceptor) => say(words, acceptor.accept(stream).await?).await,
            }
        };
        let _ = timeout_at(deadline.into(), tell).await;
    }
}

async fn say<S: AsyncRead + AsyncWrite + Unpin>(words: &[u8], mut stream: S) -> io::Result<()> {
    stream.write_all(words).await?;
    stream.shutdown().await?;
    // Input of the client is read, so that closing does not reset the connection before the message arrives.
    let mut dropped = [0; 1024];
    while stream.read(&mut dropped).await? > 0 {}
    Ok(())
}
