//! HTTP/1.1 on the WebSocket port: serves requests until one of them makes the connection a WebSocket, and answers
//! bytes that are no request.

use std::{
    convert::Infallible,
    future::{pending, poll_fn, ready},
    pin::pin,
    time::Duration,
};

use bytes::Bytes;
use carillon_proto::limits;
use futures_util::{FutureExt as _, future::Either};
use hyper::{Request, body::Incoming, header::HeaderMap, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, sleep_until, timeout},
};

use super::{muffled::Muffled, refusal::Refusal, site::Site};
use crate::{
    media::{MediaBody, Transfers},
    transport::{LINGER, ws::Format},
};

/// Lines of a request head.
const MAX_HEADERS: usize = 100;
/// Time for the last bytes, and for reading what the client still sends.
const CLOSING: Duration = Duration::from_secs(1);
/// The connection preface of HTTP/2 (RFC 9113, section 3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// A connection that has become a WebSocket.
pub(super) struct Upgraded<S> {
    pub(super) stream: S,
    /// Bytes that came behind the request.
    pub(super) early: Bytes,
    pub(super) format: Format,
}

/// Answers requests until one of them makes the connection a WebSocket, or until the deadline. `None` if none did.
/// `admit` checks each request's headers before it is answered.
pub(super) async fn serve_until_upgrade<S>(
    stream: S,
    site: &Site,
    deadline: Instant,
    admit: impl FnMut(&HeaderMap) -> Result<(), Refusal> + Send,
) -> Option<Upgraded<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let state = Mutex::new((admit, Outcome::default()));
    let stream = Muffled::new(stream);
    let answers = stream.answers();
    let idle = site.media.as_ref().map_or(Duration::ZERO, |media| media.idle);
    let transfers = Transfers::new(deadline.saturating_duration_since(Instant::now()), idle, answers.clone());
    let service = service_fn(|request: Request<Incoming>| {
        let (admit, outcome) = &mut *state.lock();
        let place = admit(request.headers());
        outcome.answered = true;
        if let Some(media) = site.media_of(&request).filter(|_| place.is_ok()) {
            let answer = media.answer(request, transfers.begin());
            return Either::Left(async move { Ok::<_, Infallible>(answer.await) }.boxed());
        }
        let (response, format) = site.answer(&request, place);
        answers.expect();
        outcome.format = format;
        Either::Right(ready(Ok(response.map(MediaBody::Left))))
    });
    let mut connection = http1::Builder::new()
        .half_close(true)
        .max_headers(MAX_HEADERS)
        .max_buf_size(limits::MAX_FRAME_BYTES_BEFORE_SIGN_IN)
        // The deadline covers everything.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    let ended = in_time(&transfers, poll_fn(|cx| connection.poll_without_shutdown(cx))).await;
    let parts = connection.into_parts();
    let (mut stream, early) = (parts.io.into_inner().into_inner(), parts.read_buf);
    let Outcome { answered, format } = state.lock().1;
    let last_words = match (ended, format) {
        (Some(Ok(())), Some(format)) => return Some(Upgraded { stream, early, format }),
        (Some(Err(error)), _) => no_request(&error, &early),
        // Half a request. A connection without a request, or with all requests answered, is closed without a message.
        (None, _) if !answered && !early.is_empty() => {
            Some(plain("408 Request Timeout", "the request did not come to its end"))
        }
        _ => None,
    };
    let close = async {
        if let Some(words) = last_words {
            stream.write_all(&words).await?;
        }
        let_go(stream).await
    };
    // A client that does not read the last bytes goes without them.
    let _ = timeout(CLOSING, close).await;
    None
}

/// `None`: nothing has happened for too long.
async fn in_time<T>(transfers: &Transfers, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    loop {
        let deadline = transfers.deadline();
        let late = async {
            match deadline {
                Some(deadline) => sleep_until(deadline.into()).await,
                None => pending().await,
            }
        };
        // All are cancel-safe.
        tokio::select! {
            biased;
            ended = &mut work => return Some(ended),
            () = transfers.sooner() => {}
            // It may have moved meanwhile.
            () = late => if transfers.deadline().is_some_and(|deadline| deadline <= std::time::Instant::now()) {
                return None;
            },
        }
    }
}

#[derive(Default, Clone, Copy)]
struct Outcome {
    answered: bool,
    format: Option<Format>,
}

/// The answer to bytes that are no request; `None` if the connection broke.
fn no_request(error: &hyper::Error, came: &[u8]) -> Option<Vec<u8>> {
    if came.starts_with(HTTP2) {
        Some(http_1_1_required())
    } else if error.is_parse_too_large() {
        Some(plain("431 Request Header Fields Too Large", "a request head has at most 8 KiB and 100 lines"))
    } else if error.is_parse() {
        Some(plain("400 Bad Request", &format!("this is no request of HTTP/1.1: {error}")))
    } else {
        None
    }
}

fn plain(status: &str, why: &str) -> Vec<u8> {
    let length = why.len() + 1;
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{why}\n"
    )
    .into_bytes()
}

/// Tells a client of HTTP/2 to use HTTP/1.1: an empty SETTINGS frame, with which a server begins (RFC 9113, section 3.4),
/// and GOAWAY with HTTP_1_1_REQUIRED (sections 6.8 and 7).
fn http_1_1_required() -> Vec<u8> {
    const WHY: &[u8] = b"WebSocket is spoken here, over HTTP/1.1";
    const HTTP_1_1_REQUIRED: u32 = 0xd;
    let mut frames = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    // 8 bytes and a text that is shorter than 248.
    frames.extend([0, 0, 8 + WHY.len() as u8, 7, 0, 0, 0, 0, 0]);
    // The last stream that was looked at: none.
    frames.extend(0_u32.to_be_bytes());
    frames.extend(HTTP_1_1_REQUIRED.to_be_bytes());
    frames.extend(WHY);
    frames
}

/// Closes so that the client can read the last answer: remaining input is read, because closing with unread input would
/// reset the connection.
async fn let_go<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> std::io::Result<()> {
    stream.shutdown().await?;
    let (mut dropped, mut space) = (0, [0; 1024]);
    while dropped < LINGER {
        match stream.read(&mut space).await? {
            0 => break,
            more => dropped += more,
        }
    }
    Ok(())
}
