//! Refusals for clients for which there is no place.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use carillon_proto::pb::client::{Bye, Code, server_frame::Body};
use hyper::StatusCode;
use tokio::{net::TcpStream, time::timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::{dialect::native::varint::put_frame, transport::linger::end_with};

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
        refuse_with(&words, stream, acceptor, deadline).await;
    }
}

/// Tells a client over TCP or TLS these words of its dialect, and closes, as [`Refusal::tell`] does.
pub(super) async fn refuse_with(words: &[u8], stream: TcpStream, acceptor: Option<TlsAcceptor>, deadline: Instant) {
    let tell = async {
        match acceptor {
            None => end_with(words, stream).await,
            Some(acceptor) => end_with(words, acceptor.accept(stream).await?).await,
        }
    };
    let _ = timeout_at(deadline.into(), tell).await;
}
