//! Requests whose bytes the kernel moves between a socket without TLS and the files of a folder. HTTP is read by the library up to the end of
//! the request's head; the answer is written here.

use std::{io, sync::Arc, time::SystemTime};

use bytes::{Buf as _, Bytes, BytesMut};
use carillon_media::{
    FilesError, Version as FileVersion,
    pass::{Pass, Purpose},
};
use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    body::{Body as _, Incoming},
    header::{self, HeaderValue},
    http::request::Parts,
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::{
    download::DownloadError,
    pipe::{Filled, Pipe},
    sending::Sending,
    service::{MediaService, full, put_common, unreadable},
    transfer::Transfer,
    upload::Source,
};
use crate::metrics;

/// A request that is carried out on the socket.
pub(crate) struct Direct {
    media: Arc<MediaService>,
    parts: Parts,
    body: Incoming,
    pass: Pass,
    transfer: Transfer,
}

/// A request for the library.
pub(crate) type Other = Box<(Arc<MediaService>, Request<Incoming>, Pass, Transfer)>;

impl Direct {
    /// The request and the rest again if it is not one whose bytes the kernel can move.
    pub(crate) fn new(
        media: Arc<MediaService>,
        request: Request<Incoming>,
        pass: Pass,
        transfer: Transfer,
    ) -> Result<Self, Other> {
        let length = request.body().size_hint().exact();
        let moves = match (&pass.to, request.method()) {
            (Purpose::Download { .. }, &Method::GET) => length == Some(0),
            (Purpose::Upload { .. }, &Method::PUT) => length.is_some_and(|length| length > 0),
            _ => false,
        };
        if !moves || request.version() != Version::HTTP_11 || media.folder().is_none() {
            return Err(Box::new((media, request, pass, transfer)));
        }
        let (parts, body) = request.into_parts();
        Ok(Self { media, parts, body, pass, transfer })
    }

    /// `early`: what the library has read behind the request's head, and has not taken for its body. Returns what came behind the request, if
    /// another one may follow.
    pub(crate) async fn serve(self, socket: &mut TcpStream, early: Bytes) -> Option<Bytes> {
        let Self { media, parts, body, pass, transfer } = self;
        let keeps = keeps(&parts.headers);
        let rest = match &pass.to {
            Purpose::Download { version, .. } => {
                media.send(socket, &parts, (&pass, *version), transfer, keeps).await.ok()?;
                early
            }
            Purpose::Upload { .. } => {
                media.receive(socket, parts, body, early, &pass, transfer, keeps).await.ok()??
            }
        };
        keeps.then_some(rest)
    }
}

impl MediaService {
    async fn send(
        &self,
        socket: &mut TcpStream,
        parts: &Parts,
        (pass, version): (&Pass, FileVersion),
        mut transfer: Transfer,
        keeps: bool,
    ) -> Result<(), DownloadError> {
        let (answer, range) = self.found(&parts.method, &parts.headers, pass);
        if range.is_empty() {
            return Ok(socket.write_all(&written(answer, keeps)).await?);
        }
        let _turn = match self.turn(pass) {
            Ok(turn) => turn,
            Err(none) => return Ok(socket.write_all(&written(full("download", none), keeps)).await?),
        };
        let folder = self.folder().ok_or(FilesError::NotFound)?;
        let head = written(answer, keeps);
        match Sending::begin(folder, (pass.id, version), range, head, socket, &mut transfer).await {
            Ok(begun) => {
                let sent = begun.finish(folder, socket, &mut transfer).await;
                match &sent {
                    Ok(()) => metrics::media_transfer("download", "ok"),
                    // A client that goes away has had enough.
                    Err(DownloadError::Gone(_)) => {}
                    Err(error) => error.tell(&pass.id),
                }
                sent
            }
            Err(error) => Ok(socket.write_all(&written(unreadable(error, &pass.id), keeps)).await?),
        }
    }

    /// `None`: the request was not taken to its end.
    #[expect(clippy::too_many_arguments, reason = "what a request is made of")]
    async fn receive(
        &self,
        socket: &mut TcpStream,
        parts: Parts,
        mut body: Incoming,
        early: Bytes,
        pass: &Pass,
        mut transfer: Transfer,
        keeps: bool,
    ) -> io::Result<Option<Bytes>> {
        let missing = body.size_hint().exact().unwrap_or(0);
        let mut taken = BytesMut::new();
        // The library is gone, so that this has an end.
        while let Some(Ok(frame)) = body.frame().await {
            taken.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
        let early = if taken.is_empty() { early } else { [&*taken, &early].concat().into() };
        let asks = parts
            .headers
            .get(header::EXPECT)
            .is_some_and(|expects| expects.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let mut body = SocketBody { socket, early, missing, asks };
        let answer = self.upload(&parts.headers, Source::Socket(&mut body), pass, &mut transfer).await;
        let SocketBody { socket, early, missing, .. } = body;
        let keeps = keeps && missing == 0;
        transfer.waits_for_client();
        socket.write_all(&written(answer, keeps)).await?;
        Ok(keeps.then_some(early))
    }
}

/// The body of an upload that is not chunked.
pub(super) struct SocketBody<'a> {
    socket: &'a mut TcpStream,
    /// Bytes that were read already; perhaps also some behind the body.
    early: Bytes,
    missing: u64,
    /// The client waits until it is asked for the body (RFC 9110, section 10.1.1).
    asks: bool,
}

/// The next bytes of an upload.
pub(super) enum Piece {
    Early(Bytes),
    /// The pipe has got so many bytes more.
    Piped(usize),
    /// The pipe has to be emptied.
    Full,
    End,
}

impl SocketBody<'_> {
    pub(super) fn missing_bytes(&self) -> u64 {
        self.missing
    }

    /// Asks for the body, and makes the pipe for it.
    pub(super) async fn open(&mut self) -> io::Result<Pipe> {
        let pipe = Pipe::new()?;
        if self.asks && self.early.is_empty() {
            self.socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        Ok(pipe)
    }

    pub(super) async fn next(&mut self, pipe: &mut Pipe, most: u64) -> Piece {
        let most = most.min(self.missing);
        if most == 0 {
            return Piece::End;
        }
        if self.early.has_remaining() {
            let bytes = self.early.split_to(self.early.len().min(usize::try_from(most).unwrap_or(usize::MAX)));
            self.missing -= bytes.len() as u64;
            return Piece::Early(bytes);
        }
        match pipe.fill(self.socket, usize::try_from(most).unwrap_or(usize::MAX)).await {
            Ok(Filled::Bytes(count)) => {
                self.missing -= count as u64;
                Piece::Piped(count)
            }
            Ok(Filled::Full) => Piece::Full,
            // The client is gone.
            Ok(Filled::End) | Err(_) => Piece::End,
        }
    }
}

/// Whether the client of HTTP/1.1 lets other requests follow (RFC 9112, section 9.3).
fn keeps(headers: &HeaderMap) -> bool {
    let options = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    !options.flat_map(|value| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case("close"))
}

/// The answer as it is sent; without its body if that follows. `keeps`: another request may follow.
fn written(mut answer: Response<Bytes>, keeps: bool) -> Vec<u8> {
    let (status, body) = (answer.status(), std::mem::take(answer.body_mut()));
    let headers = answer.headers_mut();
    put_common(headers);
    if !headers.contains_key(header::CONTENT_LENGTH) && status != StatusCode::NOT_MODIFIED {
        headers.insert(header::CONTENT_LENGTH, body.len().into());
    }
    if !keeps {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Ok(date) = httpdate::fmt_http_date(SystemTime::now()).parse() {
        headers.insert(header::DATE, date);
    }
    let mut bytes =
        format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or("")).into_bytes();
    for (name, value) in &*headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_closes_says_so_among_other_things() {
        for (values, expected) in [
            (&[][..], true),
            (&["keep-alive"], true),
            (&["Close"], false),
            (&["TE, close"], false),
            (&["TE", "close"], false),
            (&["closed"], true),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONNECTION, value.parse().expect("valid"));
            }
            assert_eq!(keeps(&headers), expected, "{values:?}");
        }
    }

    #[test]
    fn an_answer_says_its_length_and_whether_others_may_follow() {
        let mut answer = Response::new(Bytes::from_static(b"no\n"));
        *answer.status_mut() = StatusCode::CONFLICT;
        let text = String::from_utf8(written(answer, false)).expect("text");
        assert!(text.starts_with("HTTP/1.1 409 Conflict\r\n"), "{text}");
        assert!(text.contains("\r\ncontent-length: 3\r\nconnection: close\r\ndate: "), "{text}");
        assert!(text.ends_with(" GMT\r\n\r\nno\n"), "{text}");
        let mut known = Response::new(Bytes::new());
        *known.status_mut() = StatusCode::NOT_MODIFIED;
        let text = String::from_utf8(written(known, true)).expect("text");
        assert!(!text.contains("content-length") && !text.contains("connection"), "{text}");
    }
}
