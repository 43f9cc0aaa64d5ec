//! The end of a connection.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// Most bytes of input that are read and dropped at the end of a connection.
const MOST: usize = 256 * 1024;

/// Shuts a stream down, and then reads and drops input, so that closing does not reset the connection before the last words arrive.
#[derive(Default)]
pub(crate) struct Linger {
    shut_down: bool,
    dropped: usize,
}

impl Linger {
    /// Counts dropped bytes. True if enough were dropped.
    pub(crate) fn drops(&mut self, bytes: usize) -> bool {
        self.dropped += bytes;
        self.dropped >= MOST
    }

    /// Ready when the other end has closed, too, or enough input was dropped. Everything must be written before.
    pub(crate) fn poll(
        &mut self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if !self.shut_down {
            if ready!(Pin::new(&mut *stream).poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            self.shut_down = true;
        }
        let mut space = [MaybeUninit::uninit(); 1024];
        loop {
            let mut got = ReadBuf::uninit(&mut space);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut got));
            if read.is_err() || got.filled().is_empty() || self.drops(got.filled().len()) {
                return Poll::Ready(());
            }
        }
    }
}

/// Writes the last words, and closes the stream so that its other end can read them.
pub(crate) async fn end_with(words: &[u8], mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.write_all(words).await?;
    let mut linger = Linger::default();
    poll_fn(|cx| linger.poll(&mut stream, cx)).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, duplex},
        time::timeout,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn the_last_words_are_read_by_a_client_that_is_still_sending() {
        let (mut client, server) = duplex(1024);
        let client = async move {
            client.write_all(&[1; 5_000]).await.expect("somebody reads");
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.expect("the server has closed");
            rest
        };
        let both = async { tokio::join!(end_with(b"bye", server), client) };
        let (ended, rest) = timeout(PATIENCE, both).await.expect("in time");
        ended.expect("writes");
        assert_eq!(rest, b"bye");
    }

    #[tokio::test]
    async fn a_client_that_does_not_stop_is_not_read_for_ever() {
        let (mut client, server) = duplex(1024);
        let flood = async move { while client.write_all(&[1; 1000]).await.is_ok() {} };
        let both = async { tokio::join!(end_with(b"bye", server), flood) };
        let (ended, ()) = timeout(PATIENCE, both).await.expect("in time");
        ended.expect("writes");
    }
}
