//! A socket in the form that the library reads and writes: an operation that would block is `WouldBlock` and wakes the
//! task later. Input that the library would wrongly accept is a read error.

use std::{
    io::{self, Read, Write},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::headers::{Headers, Why, Wrong};

pub(super) struct Polled<S> {
    stream: S,
    /// Bytes that came with the handshake; they are read first.
    early: Bytes,
    headers: Headers,
    /// Set when the next frame is invalid: every further read returns this error.
    wrong: Option<Why>,
    waker: Waker,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Polled<S> {
    pub(super) fn new(stream: S, early: Bytes) -> Self {
        Self { stream, early, headers: Headers::default(), wrong: None, waker: Waker::noop().clone() }
    }

    /// Called before each use: one task reads and writes.
    pub(super) fn woken_by(&mut self, cx: &Context<'_>) {
        if !self.waker.will_wake(cx.waker()) {
            self.waker = cx.waker().clone();
        }
    }

    pub(super) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Read for Polled<S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Some(why) = self.wrong {
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let got = if self.early.is_empty() {
            let mut into = ReadBuf::new(into);
            let polled = Pin::new(&mut self.stream).poll_read(&mut Context::from_waker(&self.waker), &mut into);
            blocking(polled).map(|()| into.filled().len())?
        } else {
            let got = self.early.len().min(into.len());
            self.early.copy_to_slice(&mut into[..got]);
            if self.early.is_empty() {
                // The bytes may be the rest of a large buffer.
                self.early = Bytes::new();
            }
            got
        };
        match self.headers.pass(&into[..got]) {
            Ok(()) => Ok(got),
            Err(Wrong { at, why }) => {
                self.wrong = Some(why);
                // Zero would mean the end.
                if at == 0 { self.read(into) } else { Ok(at) }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Write for Polled<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        blocking(Pin::new(&mut self.stream).poll_write(&mut Context::from_waker(&self.waker), bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        blocking(Pin::new(&mut self.stream).poll_flush(&mut Context::from_waker(&self.waker)))
    }
}

fn blocking<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
