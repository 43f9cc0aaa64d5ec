//! One request at a time, each on a connection of its own.

use std::{future::Future, io, pin::pin, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Either, Empty, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::{Frame, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    Address, ConnectOptions, Transport,
    connection::{ByteStream, open_stream},
};

/// Bytes that are read from the local file at once.
const PIECE: usize = 256 * 1024;
/// How long nothing may move.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a reason that are shown.
const WHY: usize = 512;
/// Of what the service says of a file: a preview of 16 KiB in base64, and some words.
const TOLD: usize = 64 * 1024;

pub(super) struct Http {
    address: Address,
    options: ConnectOptions,
    uri: Uri,
}

/// The outcome of one attempt.
pub(super) enum Transfer {
    /// And what the service says of it.
    Done(String),
    /// Another attempt would be answered in the same way.
    Refused {
        status: u16,
        why: String,
    },
    Local(io::Error),
    Broken(Broken),
}

/// Another attempt may come further.
pub(super) struct Broken {
    pub(super) why: String,
    /// The service said when.
    pub(super) after: Duration,
}

impl From<String> for Broken {
    fn from(why: String) -> Self {
        Self { why, after: Duration::ZERO }
    }
}

type Body = Either<Empty<Bytes>, UnsyncBoxBody<Bytes, io::Error>>;

impl Http {
    /// `None` if the URL can't be used.
    pub(super) fn new(url: &str, options: ConnectOptions) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Some(Self { address: Address { transport: Transport::Tcp, tls, host, port }, options, uri })
    }

    /// How much the service has of an upload.
    pub(super) async fn stored(&self) -> Option<u64> {
        let asking = async {
            let (answer, _) = self.ask(self.request(Method::HEAD, Either::Left(Empty::new()), &[])).await.ok()?;
            answer.headers().get("upload-offset")?.to_str().ok()?.parse().ok()
        };
        timeout(PATIENCE, asking).await.ok()?
    }

    /// Sends the bytes from this one on; `from` is there already.
    pub(super) async fn put(&self, at: u64, size: u64, from: &mut (impl AsyncRead + Unpin)) -> Transfer {
        let (to, pieces) = mpsc::channel(1);
        let body = StreamBody::new(ReceiverStream::new(pieces)).boxed_unsync();
        let mut headers = vec![(header::CONTENT_LENGTH, (size - at).to_string())];
        if at > 0 {
            headers.push((header::CONTENT_RANGE, format!("bytes {at}-{}/{size}", size - 1)));
        }
        let mut local = None;
        let feeding = async {
            local = feed(from, size - at, to).await.err();
            // The answer is awaited.
            std::future::pending::<()>().await;
        };
        let asking = self.ask(self.request(Method::PUT, Either::Right(body), &headers));
        let answer = tokio::select! {
            answer = asking => answer,
            () = feeding => return Transfer::Broken("never".to_owned().into()),
        };
        match (local, answer) {
            (Some(error), _) => Transfer::Local(error),
            (None, Ok((answer, told))) if answer.status() == StatusCode::CREATED => Transfer::Done(told),
            (None, Ok((answer, why))) => failed(answer.status(), answer.headers(), why),
            (None, Err(error)) => Transfer::Broken(error.into()),
        }
    }

    /// Writes the bytes from `at` on, which grows.
    pub(super) async fn get(&self, at: &mut u64, into: &mut (impl AsyncWrite + Unpin)) -> Transfer {
        let range = (*at > 0).then(|| (header::RANGE, format!("bytes={at}-")));
        let request = self.request(Method::GET, Either::Left(Empty::new()), range.as_slice());
        let expected = if *at > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let taking = async |answer: Response<Incoming>| {
            if answer.status() != expected {
                let (status, headers) = (answer.status(), answer.headers().clone());
                return failed(status, &headers, reason(answer).await);
            }
            let mut body = answer.into_body();
            loop {
                let data = match timeout(PATIENCE, body.frame()).await {
                    Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                    Ok(Some(Err(error))) => return Transfer::Broken(error.to_string().into()),
                    Ok(None) => {
                        return into.flush().await.map_or_else(Transfer::Local, |()| Transfer::Done(String::new()));
                    }
                    Err(late) => return Transfer::Broken(late.to_string().into()),
                };
                if let Err(error) = into.write_all(&data).await {
                    return Transfer::Local(error);
                }
                *at += data.len() as u64;
            }
        };
        match self.connected(request, taking).await {
            Ok(transfer) => transfer,
            Err(why) => Transfer::Broken(why.into()),
        }
    }

    fn request(&self, method: Method, body: Body, headers: &[(header::HeaderName, String)]) -> Request<Body> {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(header::HOST, self.uri.authority().map_or("", |authority| authority.as_str()));
        request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        // Path and values are visible ASCII: the URL was parsed.
        request.body(body).expect("a request of parts that were parsed")
    }

    /// The answer, and its text.
    async fn ask(&self, request: Request<Body>) -> Result<(Response<()>, String), String> {
        let taking = async |answer: Response<Incoming>| {
            let (parts, body) = answer.into_parts();
            (Response::from_parts(parts.clone(), ()), reason(Response::from_parts(parts, body)).await)
        };
        self.connected(request, taking).await
    }

    /// Drives the connection while the answer is taken.
    async fn connected<T>(
        &self,
        request: Request<Body>,
        take: impl AsyncFnOnce(Response<Incoming>) -> T,
    ) -> Result<T, String> {
        let opening = timeout(self.options.timeout, open_stream(&self.address, &self.options));
        let stream = opening.await.map_err(|late| late.to_string())?.map_err(|error| error.to_string())?;
        let (mut sender, connection) = http1::handshake::<TokioIo<ByteStream>, Body>(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let work = async {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            Ok(take(answer).await)
        };
        while_driven(work, connection).await
    }
}

/// The connection ends before the work only if the work has everything it needs from it.
async fn while_driven<T>(work: impl Future<Output = T>, connection: impl Future) -> T {
    let (mut work, mut connection) = (pin!(work), pin!(connection));
    let mut drives = true;
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = &mut connection, if drives => drives = false,
        }
    }
}

async fn feed(
    from: &mut (impl AsyncRead + Unpin),
    size: u64,
    to: mpsc::Sender<io::Result<Frame<Bytes>>>,
) -> io::Result<()> {
    let mut from = from.take(size);
    let mut left = size;
    while left > 0 {
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = from.read_buf(&mut piece).await?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is shorter than it was"));
        }
        left -= read as u64;
        // The connection has ended: its end says why.
        if to.send(Ok(Frame::data(piece.freeze()))).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn reason(answer: Response<Incoming>) -> String {
    let most = if answer.status().is_success() { TOLD } else { WHY };
    let body = timeout(PATIENCE, http_body_util::Limited::new(answer.into_body(), most).collect()).await;
    let bytes = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn failed(status: StatusCode, headers: &HeaderMap, why: String) -> Transfer {
    // An upload whose place is another one than the client believed asks again.
    let again = status.is_server_error()
        || matches!(
            status,
            StatusCode::CONFLICT | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::ACCEPTED
        );
    match again {
        true => {
            let after = headers.get(header::RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
            let after = after.map_or(Duration::ZERO, Duration::from_secs).min(PATIENCE);
            Transfer::Broken(Broken { why: format!("{status}: {why}"), after })
        }
        false => Transfer::Refused { status: status.as_u16(), why },
    }
}
