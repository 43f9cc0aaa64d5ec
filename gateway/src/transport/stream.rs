//! Frames on a byte stream: TCP or TLS.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use carillon_proto::pb::client::Code;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Event, Transport, linger::Linger};
use crate::{
    conversation::{Now, Tell},
    dialect::native::{
        self,
        varint::{FramingError, next_frame, put_frame},
    },
};

/// Bytes read at once. On the stack, so that an idle connection holds no buffer.
const READ: usize = 8 * 1024;

pub(crate) struct StreamTransport<S> {
    io: S,
    input: BytesMut,
    output: BytesMut,
    max_frame: usize,
    written: u64,
    read: u64,
    unflushed: bool,
    linger: Linger,
}

impl<S: AsyncRead + AsyncWrite + Unpin> StreamTransport<S> {
    pub(crate) fn new(io: S, max_frame: usize) -> Self {
        Self {
            io,
            input: BytesMut::new(),
            output: BytesMut::new(),
            max_frame,
            written: 0,
            read: 0,
            unflushed: false,
            linger: Linger::default(),
        }
    }

    fn next_frame(&mut self) -> Option<Event> {
        let at = match next_frame(&self.input, self.max_frame) {
            Ok(None) => return None,
            Ok(Some(at)) => at,
            Err(error @ FramingError::TooLarge { .. }) => {
                return Some(Event::Malformed(Code::TooLarge, error.to_string()));
            }
            Err(error @ FramingError::BadLength) => return Some(Event::Malformed(Code::Invalid, error.to_string())),
        };
        let end = at.end;
        let decoded = native::decode(&self.input[at]);
        self.input.advance(end);
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        Some(match decoded {
            Ok(frame) => Event::Ask(frame.into()),
            Err(error) => Event::Malformed(Code::Invalid, error.to_string()),
        })
    }

    /// Ready when everything is written and flushed.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let taken = ready!(Pin::new(&mut self.io).poll_write(cx, &self.output))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(taken);
            self.written += taken as u64;
            self.unflushed = true;
        }
        if self.output.capacity() > 0 {
            self.output = BytesMut::new();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// The number of bytes read; 0 at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [MaybeUninit::uninit(); READ];
        let mut got = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut got))?;
        self.input.extend_from_slice(got.filled());
        self.read += got.filled().len() as u64;
        Poll::Ready(Ok(got.filled().len()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Transport for StreamTransport<S> {
    fn tell(&mut self, tell: Tell, _now: Now) {
        put_frame(&tell.into(), &mut self.output);
    }

    fn queued_bytes(&self) -> usize {
        self.output.len()
    }

    fn written_bytes(&self) -> u64 {
        self.written
    }

    fn read_bytes(&self) -> u64 {
        self.read
    }

    fn set_max_frame(&mut self, bytes: usize) {
        self.max_frame = bytes;
    }

    fn poll(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Event> {
        loop {
            // Whole frames first, so that their answers are written together.
            if read && let Some(event) = self.next_frame() {
                return Poll::Ready(event);
            }
            let wrote = !self.output.is_empty() || self.unflushed;
            match self.poll_write(cx) {
                Poll::Ready(Ok(())) if wrote => return Poll::Ready(Event::Flushed),
                Poll::Ready(Ok(())) | Poll::Pending => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Event::Ended),
            }
            if !read {
                return Poll::Pending;
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Event::HalfClosed),
                Err(_) => return Poll::Ready(Event::Ended),
                Ok(_) => {}
            }
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_write(cx)).is_err() {
            return Poll::Ready(());
        }
        self.linger.poll(&mut self.io, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::Ask;
    use carillon_proto::{
        clock, now_ms,
        pb::client::{ClientFrame, Ping, Pong, ServerFrame, client_frame, server_frame},
    };
    use prost::Message as _;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    fn ping(nonce: u64) -> ClientFrame {
        ClientFrame { body: Some(client_frame::Body::Ping(Ping { nonce })) }
    }

    #[tokio::test]
    async fn frames_go_both_ways_and_idle_holds_no_buffers() {
        let (mut client, server) = duplex(64 * 1024);
        let mut transport = StreamTransport::new(server, 1024);
        let mut bytes = ping(1).encode_length_delimited_to_vec();
        bytes.extend(ping(2).encode_length_delimited_to_vec());
        client.write_all(&bytes).await.expect("writes");
        for nonce in [1, 2] {
            match poll_fn(|cx| transport.poll(cx, true)).await {
                Event::Ask(ask) => assert_eq!(ask, Ask::Heads { nonce }),
                other => panic!("{other:?}"),
            }
        }
        let pong = server_frame::Body::Pong(Pong { nonce: 2, heads: vec![] });
        let now = Now { instant: clock::now().into_std(), unix_ms: now_ms() };
        transport.tell(Tell::Heads { nonce: 2, heads: vec![] }, now);
        assert!(matches!(poll_fn(|cx| transport.poll(cx, true)).await, Event::Flushed));
        let mut got = vec![0; 64];
        let size = client.read(&mut got).await.expect("reads");
        let frame = ServerFrame::decode_length_delimited(&got[..size]).expect("decodes");
        assert_eq!(frame.body, Some(pong));
        assert_eq!(transport.input.capacity(), 0);
        assert_eq!(transport.output.capacity(), 0);
        drop(client);
        assert!(matches!(poll_fn(|cx| transport.poll(cx, true)).await, Event::HalfClosed));
    }

    #[tokio::test]
    async fn a_frame_over_the_limit_is_refused_at_its_length() {
        let (mut client, server) = duplex(1024);
        let mut transport = StreamTransport::new(server, 100);
        client.write_all(&[101]).await.expect("writes");
        let event = poll_fn(|cx| transport.poll(cx, true)).await;
        assert!(matches!(event, Event::Malformed(Code::TooLarge, _)), "{event:?}");
    }
}
