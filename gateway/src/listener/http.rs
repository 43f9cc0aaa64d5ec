//! HTTP/1.1 on the WebSocket port: serves requests until one of them makes the connection a WebSocket, and answers
//! bytes that are no request.

use std::{
    convert::Infallible,
    future::{pending, poll_fn, ready},
    pin::pin,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use carillon_proto::limits;
use futures_util::{FutureExt as _, future::Either};
use hyper::{Request, body::Incoming, header::HeaderMap, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::server::TlsStream;

use super::{
    muffled::{Answers, Muffled},
    refusal::Refusal,
    site::Site,
};
use crate::{
    media::{Direct, MediaBody, Transfers},
    transport::{linger::end_with, ws::Format},
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

/// A stream that may be nothing but a socket.
pub(super) trait Socket {
    /// `None` with TLS.
    fn socket(&mut self) -> Option<&mut TcpStream>;
}

impl Socket for TcpStream {
    fn socket(&mut self) -> Option<&mut TcpStream> {
        Some(self)
    }
}

impl Socket for TlsStream<TcpStream> {
    fn socket(&mut self) -> Option<&mut TcpStream> {
        None
    }
}

/// Answers requests until one of them makes the connection a WebSocket, or until the deadline. `None` if none did.
/// `admit` checks each request's headers before it is answered.
pub(super) async fn serve_until_upgrade<S>(
    mut stream: S,
    site: &Site,
    deadline: Instant,
    admit: impl FnMut(&HeaderMap) -> Result<(), Refusal> + Send,
) -> Option<Upgraded<S>>
where
    S: AsyncRead + AsyncWrite + Socket + Unpin + Send,
{
    let answers = Answers::default();
    let idle = site.media.as_ref().map_or(Duration::ZERO, |media| media.idle);
    let transfers = Transfers::new(deadline.saturating_duration_since(Instant::now()), idle, answers.clone());
    let state = Mutex::new(State { admit, answered: false, format: None, direct: None });
    let mut early = Bytes::new();
    loop {
        let is_socket = stream.socket().is_some();
        let ended = serve_by_library(Muffled::new(stream, early, answers.clone()), site, &transfers, &state, is_socket);
        (stream, early) = match ended.await {
            (stream, early, Ended::Upgraded(format)) => return Some(Upgraded { stream, early, format }),
            (mut stream, early, Ended::Direct(direct)) => {
                let socket = stream.socket()?;
                let served = in_time(&transfers, Box::pin(direct.serve(socket, early))).await.flatten();
                answers.end();
                match served {
                    Some(early) => (stream, early),
                    None => return close(stream, None).await,
                }
            }
            (stream, _, Ended::Closed(last_words)) => return close(stream, last_words).await,
        };
    }
}

/// Facts about a connection.
struct State<A> {
    admit: A,
    answered: bool,
    format: Option<Format>,
    direct: Option<Box<Direct>>,
}

/// The further use of a connection that the HTTP library is done with.
enum Ended {
    Upgraded(Format),
    /// A request was read that is carried out on the socket.
    Direct(Box<Direct>),
    Closed(Option<Vec<u8>>),
}

/// Returns the stream as well, and what was read from it and not used.
async fn serve_by_library<S, A>(
    stream: Muffled<S>,
    site: &Site,
    transfers: &Transfers,
    state: &Mutex<State<A>>,
    is_socket: bool,
) -> (S, Bytes, Ended)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    A: FnMut(&HeaderMap) -> Result<(), Refusal> + Send,
{
    let answers = transfers.answers();
    let service = service_fn(|request: Request<Incoming>| {
        let State { admit, answered, format, direct } = &mut *state.lock();
        let place = admit(request.headers());
        *answered = true;
        if let Some(media) = site.media_of(&request).filter(|_| place.is_ok()) {
            let (transfer, pass) = (transfers.begin(), media.open(&request));
            let answer = match pass {
                Ok(pass) if is_socket => match Direct::new(media, request, pass, transfer) {
                    Ok(new) => {
                        *direct = Some(Box::new(new));
                        // Answers to the requests before.
                        answers.await_flush();
                        return Either::Left(pending().boxed());
                    }
                    Err(other) => {
                        let (media, request, pass, transfer) = *other;
                        media.answer(request, Ok(pass), transfer)
                    }
                },
                pass => media.answer(request, pass, transfer),
            };
            return Either::Left(async move { Ok::<_, Infallible>(answer.await) }.boxed());
        }
        let response = site.answer(&request, place);
        answers.expect();
        *format = response.1;
        Either::Right(ready(Ok(response.0.map(MediaBody::Left))))
    });
    let mut connection = http1::Builder::new()
        .half_close(true)
        .max_headers(MAX_HEADERS)
        .max_buf_size(limits::MAX_FRAME_BYTES_BEFORE_SIGN_IN)
        // The deadline covers everything.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    let ended = poll_fn(|cx| match connection.poll_without_shutdown(cx) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending if answers.is_flushed() && state.lock().direct.is_some() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    let ended = in_time(transfers, ended).await;
    let parts = connection.into_parts();
    let (stream, unread) = parts.io.into_inner().into_inner();
    let early = if unread.is_empty() { parts.read_buf } else { [&*parts.read_buf, &unread].concat().into() };
    let (answered, format, direct) = {
        let mut state = state.lock();
        (state.answered, state.format, state.direct.take())
    };
    let ended = match (ended, format, direct) {
        (Some(Some(Ok(()))), Some(format), _) => Ended::Upgraded(format),
        (Some(None), _, Some(direct)) => Ended::Direct(direct),
        (Some(Some(Err(error))), ..) => Ended::Closed(no_request(&error, &early)),
        // Half a request. A connection without a request, or with all requests answered, is closed without a message.
        (None, ..) if !answered && !early.is_empty() => {
            Ended::Closed(Some(plain("408 Request Timeout", "the request did not come to its end")))
        }
        _ => Ended::Closed(None),
    };
    (stream, early, ended)
}

async fn close<S: AsyncRead + AsyncWrite + Unpin, T>(stream: S, last_words: Option<Vec<u8>>) -> Option<T> {
    // A client that does not read the last bytes goes without them.
    let _ = timeout(CLOSING, end_with(&last_words.unwrap_or_default(), stream)).await;
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
            // The deadline may have moved meanwhile.
            () = late => if transfers.deadline().is_some_and(|deadline| deadline <= std::time::Instant::now()) {
                return None;
            },
        }
    }
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
