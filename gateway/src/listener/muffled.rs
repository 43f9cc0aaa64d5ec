//! A stream that drops what the HTTP library writes by itself: its answers to invalid requests have no text.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Drops written bytes, unless `Answers::expect` has let one answer of the service pass, until it is flushed.
pub(super) struct Muffled<S> {
    stream: S,
    /// Read from the stream already.
    early: Bytes,
    answers: Answers,
    /// Something was written since the last flush.
    wrote: bool,
}

/// Announces an answer of the service. Clones refer to the same stream.
#[derive(Clone, Default)]
pub(crate) struct Answers(Arc<Passing>);

#[derive(Default)]
struct Passing {
    /// Until the next flush.
    once: AtomicBool,
    /// Everything, until it is false again.
    all: AtomicBool,
    /// Nothing that was written before the last call of `await_flush` is on its way.
    flushed: AtomicBool,
}

impl Answers {
    pub(super) fn expect(&self) {
        // The same task answers and writes, so that no stronger order is needed.
        self.0.once.store(true, Ordering::Relaxed);
    }

    /// An answer that takes more than one flush begins, or all of it was given to the library.
    pub(crate) fn hold(&self, holds: bool) {
        self.0.all.store(holds, Ordering::Relaxed);
        self.expect();
    }

    /// No answer is expected any more.
    pub(super) fn end(&self) {
        self.0.all.store(false, Ordering::Relaxed);
        self.0.once.store(false, Ordering::Relaxed);
    }

    pub(super) fn await_flush(&self) {
        self.0.flushed.store(false, Ordering::Relaxed);
    }

    /// True when the library has written all that it had, since it was awaited.
    pub(super) fn is_flushed(&self) -> bool {
        self.0.flushed.load(Ordering::Relaxed)
    }

    fn is_expected(&self) -> bool {
        self.0.once.load(Ordering::Relaxed) || self.0.all.load(Ordering::Relaxed)
    }
}

impl<S> Muffled<S> {
    pub(super) fn new(stream: S, early: Bytes, answers: Answers) -> Self {
        Self { stream, early, answers, wrote: false }
    }

    /// The stream, and which of the early bytes were not read.
    pub(super) fn into_inner(self) -> (S, Bytes) {
        (self.stream, self.early)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Muffled<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.early.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, into);
        }
        into.put_slice(&this.early.split_to(this.early.len().min(into.remaining())));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Muffled<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.answers.is_expected() {
            return Poll::Ready(Ok(bytes.len()));
        }
        this.wrote = true;
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.answers.is_expected() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        this.wrote = true;
        Pin::new(&mut this.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        if std::mem::take(&mut this.wrote) {
            this.answers.0.once.store(false, Ordering::Relaxed);
        }
        this.answers.0.flushed.store(true, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
