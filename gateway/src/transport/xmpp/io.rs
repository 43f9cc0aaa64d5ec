//! A byte stream that may change to TLS.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use carillon_xmpp::sasl::ChannelBindings;
use rustls::ProtocolVersion;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{Accept, TlsAcceptor, server::TlsStream};

use crate::listener::XmppTlsSide;

pub(super) enum Io<S> {
    Plain(S),
    // Boxed: few connections are in this state at a time, and others should not have room for it.
    Shaking(Box<Accept<S>>),
    Tls(Box<TlsStream<S>>),
    /// The handshake has failed.
    Gone,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Io<S> {
    /// Begins the handshake. A stream inside TLS stays.
    pub(super) fn shake(&mut self, side: &XmppTlsSide) {
        *self = match std::mem::replace(self, Self::Gone) {
            Self::Plain(stream) => Self::Shaking(Box::new(TlsAcceptor::from(Arc::clone(&side.config)).accept(stream))),
            other => other,
        };
    }

    pub(super) fn is_shaking(&self) -> bool {
        matches!(self, Self::Shaking(_))
    }

    /// Goes on with the handshake.
    pub(super) fn poll_shake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self::Shaking(accept) = self else { return Poll::Ready(Ok(())) };
        let shaken = ready!(Pin::new(&mut **accept).poll(cx));
        match shaken {
            Ok(stream) => *self = Self::Tls(Box::new(stream)),
            Err(error) => {
                *self = Self::Gone;
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The data of this connection to which a sign-in is bound.
    pub(super) fn bindings(&self, side: &XmppTlsSide) -> ChannelBindings {
        let Self::Tls(stream) = self else { return ChannelBindings::default() };
        let (_, connection) = stream.get_ref();
        // RFC 9266, section 2: it "is defined only when the TLS handshake results in unique master secrets"; "it is always true for TLS 1.3".
        let exporter = (connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)).then(|| {
            // "Context value: Zero-length string." In TLS 1.3 no context gives the same data.
            connection.export_keying_material(vec![0; 32], b"EXPORTER-Channel-Binding", None).ok()
        });
        ChannelBindings { exporter: exporter.flatten(), server_end_point: side.end_point.clone() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Io<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, into),
            Self::Shaking(_) | Self::Gone => not_connected(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Io<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
            Self::Shaking(_) | Self::Gone => not_connected(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
            Self::Shaking(_) | Self::Gone => not_connected(),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
            Self::Shaking(_) | Self::Gone => not_connected(),
        }
    }
}

fn not_connected<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}
