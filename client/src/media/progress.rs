//! How far a transfer is.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};

/// How far an upload or a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Bytes that were read from the local file for an upload, or written to it by a download. After an interruption of an upload they may become fewer.
    pub bytes: u64,
    /// Size of the file.
    pub of: u64,
}

/// A local file whose bytes are counted.
pub(super) struct Counted<'a, F> {
    file: F,
    at: u64,
    of: u64,
    told: &'a (dyn Fn(Moved) + Send + Sync),
}

impl<'a, F> Counted<'a, F> {
    pub(super) fn new(file: F, of: u64, told: &'a (dyn Fn(Moved) + Send + Sync)) -> Self {
        Self { file, at: 0, of, told }
    }

    fn moved(&mut self, bytes: usize) {
        if bytes > 0 {
            self.at += bytes as u64;
            (self.told)(Moved { bytes: self.at, of: self.of });
        }
    }
}

impl<F: AsyncRead + Unpin> AsyncRead for Counted<'_, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.file).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        self.moved(read);
        Poll::Ready(Ok(()))
    }
}

impl<F: AsyncSeek + Unpin> AsyncSeek for Counted<'_, F> {
    fn start_seek(mut self: Pin<&mut Self>, position: io::SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.file).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        let at = ready!(Pin::new(&mut self.file).poll_complete(context))?;
        self.at = at;
        Poll::Ready(Ok(at))
    }
}

impl<F: AsyncWrite + Unpin> AsyncWrite for Counted<'_, F> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.file).poll_write(context, bytes))?;
        self.moved(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_read_again_is_counted_from_there() {
        let told = Mutex::new(Vec::new());
        let tell = |moved: Moved| told.lock().expect("not poisoned").push((moved.bytes, moved.of));
        let mut file = Counted::new(io::Cursor::new(vec![7; 10]), 10, &tell);
        let mut buffer = [0; 4];
        file.read_exact(&mut buffer).await.expect("reads");
        file.read_exact(&mut buffer).await.expect("reads");
        file.seek(io::SeekFrom::Start(2)).await.expect("seeks");
        file.read_exact(&mut buffer).await.expect("reads");
        let mut file = Counted::new(Vec::new(), 10, &tell);
        file.write_all(&buffer).await.expect("writes");
        assert_eq!(*told.lock().expect("not poisoned"), [(4, 10), (8, 10), (6, 10), (4, 10)]);
    }
}
