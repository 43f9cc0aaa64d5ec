//! Limits each message of a gRPC request while it is read and while it is decompressed, before it is decoded. Unlike
//! tonic's own limit, this one can change during a stream.

use std::{
    io::Read as _,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use flate2::read::GzDecoder;
use hyper::{
    body::{Body as HttpBody, Frame},
    header::HeaderValue,
    http,
};
use tonic::{Status, body::Body, codegen::Service, server::NamedService};

/// The compression flag of a message, and its length.
const PREFIX: usize = 5;
const GZIP: &str = "gzip";

/// The current limit on messages of a stream.
#[derive(Debug, Clone)]
pub(crate) struct MessageLimit(Arc<AtomicUsize>);

impl MessageLimit {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    pub(crate) fn set(&self, bytes: usize) {
        // Nothing else is published by it.
        self.0.store(bytes, Ordering::Relaxed);
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A service whose requests are limited; each has its `MessageLimit` in its extensions.
#[derive(Clone)]
pub(crate) struct Bounded<S> {
    service: S,
    first: usize,
}

impl<S> Bounded<S> {
    /// Messages may have `first` bytes until the limit is changed.
    pub(crate) fn new(service: S, first: usize) -> Self {
        Self { service, first }
    }
}

impl<S: NamedService> NamedService for Bounded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for Bounded<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> S::Future {
        let limit = MessageLimit::new(self.first);
        let (mut head, body) = request.into_parts();
        head.extensions.insert(limit.clone());
        let gzip = head.headers.get("grpc-encoding").is_some_and(|value| value == GZIP);
        if !gzip {
            // Nearly every client offers to accept compressed answers; clients that send compressed messages mean it.
            head.headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
        }
        self.service.call(http::Request::from_parts(head, Body::new(BoundedBody::new(body, gzip, limit))))
    }
}

struct BoundedBody<B> {
    body: B,
    gzip: bool,
    limit: MessageLimit,
    /// Part of a message, at most as large as the limit and one HTTP/2 frame.
    buffer: BytesMut,
}

impl<B> BoundedBody<B> {
    fn new(body: B, gzip: bool, limit: MessageLimit) -> Self {
        Self { body, gzip, limit, buffer: BytesMut::new() }
    }

    /// The next whole message, with its prefix and not compressed.
    fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else { return Ok(None) };
        let [flag, length @ ..] = *prefix;
        let (size, most) = (u32::from_be_bytes(length) as usize, self.limit.get());
        if size > most {
            return Err(Status::out_of_range(format!("frame is {size} bytes but at most {most} are allowed")));
        }
        if self.buffer.len() < PREFIX + size {
            return Ok(None);
        }
        let message = self.buffer.split_to(PREFIX + size).freeze();
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        if flag == 1 && self.gzip { inflate(&message[PREFIX..], most).map(Some) } else { Ok(Some(message)) }
    }
}

fn inflate(packed: &[u8], most: usize) -> Result<Bytes, Status> {
    let mut out = vec![0; PREFIX];
    // A byte more than allowed is read, to detect excess.
    GzDecoder::new(packed)
        .take(most as u64 + 1)
        .read_to_end(&mut out)
        .map_err(|error| Status::invalid_argument(format!("frame is not gzip: {error}")))?;
    let size = out.len() - PREFIX;
    if size > most {
        return Err(Status::out_of_range(format!("frame is more than {most} bytes when decompressed")));
    }
    let length = u32::try_from(size).map_err(|_| Status::internal("a limit of more than 4 GiB"))?;
    (&mut out[1..PREFIX]).put_u32(length);
    Ok(out.into())
}

impl<B> HttpBody for BoundedBody<B>
where
    B: HttpBody<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(message) = self.next().transpose() {
                return Poll::Ready(Some(message.map(Frame::data)));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                // Half a message, about which tonic tells the client.
                None if self.buffer.has_remaining() => {
                    let rest = std::mem::take(&mut self.buffer).freeze();
                    return Poll::Ready(Some(Ok(Frame::data(rest))));
                }
                end @ (None | Some(Err(_))) => return Poll::Ready(end),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use http_body_util::{BodyExt as _, StreamBody};
    use proptest::prelude::*;
    use std::io::Write as _;

    fn message(flag: u8, content: &[u8]) -> Vec<u8> {
        [&[flag][..], &(content.len() as u32).to_be_bytes(), content].concat()
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(content).expect("in memory");
        encoder.finish().expect("in memory")
    }

    /// The outcome and the end of a body that arrives in pieces of this size.
    fn through(bytes: &[u8], piece: usize, gzip: bool, limit: usize) -> (Vec<u8>, Option<Status>) {
        let pieces: Vec<_> = bytes.chunks(piece).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
        let mut body =
            BoundedBody::new(StreamBody::new(futures_util::stream::iter(pieces)), gzip, MessageLimit::new(limit));
        let mut out = Vec::new();
        let next =
            |body: &mut BoundedBody<_>| futures_util::FutureExt::now_or_never(body.frame()).expect("all is there");
        while let Some(frame) = next(&mut body) {
            match frame {
                Ok(frame) => out.extend(frame.into_data().expect("data")),
                Err(status) => return (out, Some(status)),
            }
        }
        (out, None)
    }

    /// Says what reached it.
    #[derive(Clone)]
    struct Headers;

    impl Service<http::Request<Body>> for Headers {
        type Response = http::HeaderMap;
        type Error = std::convert::Infallible;
        type Future = std::future::Ready<Result<http::HeaderMap, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            assert!(request.extensions().get::<MessageLimit>().is_some());
            std::future::ready(Ok(request.into_parts().0.headers))
        }
    }

    #[tokio::test]
    async fn only_who_sends_compressed_messages_is_answered_so() {
        for (sends, answered) in [("gzip", "identity, gzip"), ("identity", "identity")] {
            let request = http::Request::builder()
                .header("grpc-encoding", sends)
                .header("grpc-accept-encoding", "identity, gzip")
                .body(Body::empty())
                .expect("a request");
            let headers = Bounded::new(Headers, 1).call(request).await.expect("answers");
            assert_eq!(headers["grpc-accept-encoding"], answered);
        }
    }

    proptest! {
        #[test]
        fn what_is_within_the_limit_comes_out_as_it_went_in(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5),
            piece in 1_usize..300,
        ) {
            let plain: Vec<u8> = contents.iter().flat_map(|content| message(0, content)).collect();
            let packed: Vec<u8> = contents.iter().flat_map(|content| message(1, &gzip(content))).collect();
            prop_assert_eq!(&through(&plain, piece, false, 200).0, &plain);
            let (out, error) = through(&packed, piece, true, 300);
            prop_assert!(error.is_none());
            prop_assert_eq!(&out, &plain);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, piece in 1_usize..9, gzip: bool) {
            through(&bytes, piece, gzip, 64);
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_at_its_length() {
        let (out, error) = through(&message(0, &[7; 65])[..PREFIX], 5, false, 64);
        assert_eq!((out.len(), error.map(|status| status.code())), (0, Some(tonic::Code::OutOfRange)));
    }

    #[test]
    fn what_grows_beyond_the_limit_is_not_decompressed_to_its_end() {
        let bomb = gzip(&vec![0; 16 * 1024 * 1024]);
        assert!(bomb.len() < 20_000);
        let (out, error) = through(&message(1, &bomb), 4096, true, 20_000);
        assert_eq!((out.len(), error.map(|status| status.code())), (0, Some(tonic::Code::OutOfRange)));
        let (_, error) = through(&message(1, b"no gzip"), 4096, true, 20_000);
        assert_eq!(error.map(|status| status.code()), Some(tonic::Code::InvalidArgument));
    }

    #[test]
    fn half_a_message_is_passed_on_for_tonic_to_refuse() {
        let half = &message(0, &[7; 60])[..40];
        assert_eq!(through(half, 11, false, 64).0, half);
    }
}
