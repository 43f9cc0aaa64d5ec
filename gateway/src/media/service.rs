//! Answers requests for files.

use std::{ops::Range, sync::Arc};

use arc_swap::ArcSwap;
use bytes::Bytes;
use carillon_media::{
    Files, FilesError, Folder, Media,
    pass::{Pass, PassError, PassKeys, Purpose},
};
use carillon_proto::{
    MediaId, now_ms,
    pb::{
        client::{self, Code},
        link::{self, Refusal, router_reply::Result as Reply, router_request::Op},
        store::media_row::State,
    },
};
use http_body_util::{Either, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
};

use super::{
    download::{Download, DownloadError},
    range::{Asked, asked},
    transfer::Transfer,
    turns::{NoTurn, Turn, Turns},
    types,
    upload::{Source, Upload, UploadError, stored_bytes},
    whole::{Inspector, Whole, WholeError},
};
use crate::{
    conversation::Tag,
    links::{RouterLinks, Submit},
    mailbox::Mailbox,
    metrics,
    outcome::refusal,
};

pub(crate) type MediaBody = Either<Full<Bytes>, Download>;
/// Without the bytes of a download.
type Answer = Response<Bytes>;

/// How many bytes of an upload are kept.
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
/// Seconds after which a client tries again when there is no room.
const AGAIN_S: u32 = 5;

pub(crate) struct MediaService {
    files: Files,
    keys: Arc<ArcSwap<PassKeys>>,
    links: RouterLinks,
    /// Further ones are refused, with a time to try again.
    uploads: Turns,
    downloads: Turns,
    inspector: Inspector,
    pub(crate) idle: std::time::Duration,
}

impl MediaService {
    pub(crate) fn new(media: Media, keys: Arc<ArcSwap<PassKeys>>, links: RouterLinks) -> Self {
        let inspector = Inspector::new(&media);
        let Media { files, config, .. } = media;
        Self {
            files,
            keys,
            links,
            uploads: Turns::new(config.max_uploads),
            downloads: Turns::new(config.max_downloads),
            inspector,
            idle: std::time::Duration::from_millis(config.idle_timeout_ms),
        }
    }

    /// The pass in the URL of the request.
    pub(crate) fn open<B>(&self, request: &Request<B>) -> Result<Pass, PassError> {
        self.keys.load().open(request.uri().path(), now_ms())
    }

    pub(super) fn folder(&self) -> Option<&Folder> {
        self.files.folder()
    }

    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        pass: Result<Pass, PassError>,
        transfer: Transfer,
    ) -> Response<MediaBody> {
        let mut answer = match pass {
            _ if request.method() == Method::OPTIONS => whole(text(StatusCode::NO_CONTENT, "")),
            Err(error) => whole(text(StatusCode::FORBIDDEN, &error.to_string())),
            Ok(pass) => match &pass.to {
                Purpose::Upload { .. } => whole(self.uploaded(request, &pass, transfer).await),
                Purpose::Download { .. } => self.downloaded(request.method(), request.headers(), &pass, transfer).await,
            },
        };
        put_common(answer.headers_mut());
        answer
    }

    async fn uploaded(&self, request: Request<Incoming>, pass: &Pass, mut transfer: Transfer) -> Answer {
        match *request.method() {
            Method::HEAD => {
                transfer.waits_for_place();
                match self.files.kept(&pass.id).await {
                    Ok(kept) => {
                        let stored = stored_bytes(kept, pass.size_bytes);
                        of_upload(text(StatusCode::OK, ""), stored, pass.size_bytes)
                    }
                    Err(error) => {
                        tracing::warn!(file = %pass.id, %error, "nobody can say how much of a file is kept");
                        again(text(StatusCode::SERVICE_UNAVAILABLE, &format!("files can't be kept now: {error}")))
                    }
                }
            }
            Method::PUT => {
                let (parts, body) = request.into_parts();
                self.upload(&parts.headers, Source::Http(body), pass, &mut transfer).await
            }
            _ => not_allowed("PUT, HEAD, OPTIONS"),
        }
    }

    pub(super) async fn upload(
        &self,
        headers: &HeaderMap,
        from: Source<'_, '_>,
        pass: &Pass,
        transfer: &mut Transfer,
    ) -> Answer {
        let _turn = match self.turn(pass) {
            Ok(turn) => turn,
            Err(none) => return full("upload", none),
        };
        let mut taken = self.take(headers, from, pass, transfer).await;
        if !matches!(taken, Ok(Taken::Whole(_))) {
            transfer.waits_for_place();
            if self.removes_late_bytes(pass).await {
                taken = Err(Box::new(stopped(UploadError::Different { stored: pass.size_bytes }, pass)));
            }
        }
        metrics::media_transfer("upload", if taken.is_ok() { "ok" } else { "failed" });
        match taken {
            Ok(Taken::Whole(whole)) => of_upload(created(&whole.for_message()), pass.size_bytes, pass.size_bytes),
            Ok(Taken::Part(stored)) => of_upload(text(StatusCode::ACCEPTED, ""), stored, pass.size_bytes),
            Err(answer) => *answer,
        }
    }

    /// Takes what the request brings, and tells the routers when the file is whole.
    async fn take(
        &self,
        headers: &HeaderMap,
        from: Source<'_, '_>,
        pass: &Pass,
        transfer: &mut Transfer,
    ) -> Result<Taken, Box<Answer>> {
        let Pass { id, size_bytes, expires_ms, .. } = *pass;
        let upload = Upload { files: &self.files, id, size_bytes, expires_ms, transfer };
        let stored = match upload.take(headers, from).await {
            Ok(stored) => stored,
            Err(error) => return Err(Box::new(stopped(error, pass))),
        };
        if stored < size_bytes {
            return Ok(Taken::Part(stored));
        }
        transfer.waits_for_place();
        let (whole, was_stripped) = self.look(pass).await.map_err(|error| {
            let answer = of_upload(text(error.status(), &error.to_string()), stored, size_bytes);
            Box::new(if error.status() == StatusCode::SERVICE_UNAVAILABLE { again(answer) } else { answer })
        })?;
        self.complete(pass, &whole).await.map_err(|why| Box::new(refused(&why)))?;
        if was_stripped {
            self.removes_late_bytes(pass).await;
        }
        Ok(Taken::Whole(whole))
    }

    /// Looks at the file. `true`: its stripped bytes were there before.
    async fn look(&self, pass: &Pass) -> Result<(Whole, bool), WholeError> {
        let kept = self.files.kept(&pass.id).await?;
        Ok((self.inspector.look(pass.id, pass.size_bytes, kept).await?, kept.other.is_some()))
    }

    /// Removes the uploaded bytes of a picture if its row names the stripped ones; false if the row does not, or can't be read. The routers
    /// remove them once, and another upload of the same bytes may go on then.
    async fn removes_late_bytes(&self, pass: &Pass) -> bool {
        let is_stripped = match self.files.kept(&pass.id).await {
            Ok(kept) => kept.other.is_some() && self.names_stripped_bytes(pass).await,
            Err(_) => false,
        };
        if is_stripped && let Err(error) = self.files.remove_uploaded(&pass.id).await {
            tracing::warn!(file = %pass.id, %error, "the uploaded bytes of a stripped picture stay until the picture is removed");
        }
        is_stripped
    }

    async fn names_stripped_bytes(&self, pass: &Pass) -> bool {
        let Purpose::Upload { user, .. } = &pass.to else { return false };
        let id = Bytes::copy_from_slice(pass.id.as_bytes());
        let op = Op::ReadMedia(link::ReadMedia { user: user.as_str().to_owned(), id });
        let Ok(Reply::MediaRead(read)) = self.ask(pass, op).await else { return false };
        read.row.is_some_and(|row| row.state() == State::Complete && !row.sha256.is_empty())
    }

    async fn complete(&self, pass: &Pass, whole: &Whole) -> Result<(), Refusal> {
        let Purpose::Upload { user, incarnation } = &pass.to else { return Ok(()) };
        let (sha256, size_bytes) =
            if whole.is_other { (whole.sha256.clone(), whole.size_bytes) } else { (Bytes::new(), 0) };
        let op = Op::CompleteMedia(link::CompleteMedia {
            user: user.as_str().to_owned(),
            incarnation: *incarnation,
            id: Bytes::copy_from_slice(pass.id.as_bytes()),
            media_type: whole.media_type.to_owned(),
            sha256,
            size_bytes,
        });
        match self.ask(pass, op).await? {
            Reply::Done(_) => Ok(()),
            _ => Err(refusal(Code::Internal, "the service gave an answer of the wrong kind", 100)),
        }
    }

    /// The answer comes by the deadline of all requests to routers.
    async fn ask(&self, pass: &Pass, op: Op) -> Result<Reply, Refusal> {
        let mailbox = Arc::new(Mailbox::default());
        // The request belongs to no connection: the number only spreads such requests over the partitions.
        let [.., number] = *pass.id.as_bytes();
        let client = Some((Arc::clone(&mailbox), Tag::MediaComplete));
        self.links.submit(Submit { client, ..Submit::unasked(number.into(), op) });
        loop {
            mailbox.arrived().await;
            if let Some((_, answered)) = mailbox.take().answers.pop() {
                return answered.result;
            }
        }
    }

    async fn downloaded(
        &self,
        method: &Method,
        headers: &HeaderMap,
        pass: &Pass,
        transfer: Transfer,
    ) -> Response<MediaBody> {
        let (answer, range) = self.found(method, headers, pass);
        let Purpose::Download { version, .. } = &pass.to else { return whole(answer) };
        if range.is_empty() {
            return whole(answer);
        }
        let turn = match self.turn(pass) {
            Ok(turn) => turn,
            Err(none) => return whole(full("download", none)),
        };
        match Download::begin(self.files.clone(), (pass.id, *version), range, transfer, turn).await {
            Ok(download) => answer.map(|_| Either::Right(download)),
            Err(error) => whole(unreadable(error, &pass.id)),
        }
    }

    /// An error if as many transfers as may be are on their way.
    pub(super) fn turn(&self, pass: &Pass) -> Result<Turn, NoTurn> {
        match &pass.to {
            Purpose::Upload { user, .. } => self.uploads.take(self.keys.load().whose(user)),
            Purpose::Download { whose, .. } => self.downloads.take(*whose),
        }
    }

    /// The answer, and which bytes of the file follow it.
    pub(super) fn found(&self, method: &Method, headers: &HeaderMap, pass: &Pass) -> (Answer, Range<u64>) {
        let Purpose::Download { media_type, name, .. } = &pass.to else {
            return (not_allowed("PUT, HEAD, OPTIONS"), 0..0);
        };
        if !matches!(*method, Method::GET | Method::HEAD) {
            return (not_allowed("GET, HEAD, OPTIONS"), 0..0);
        }
        // A file never changes.
        let tag = format!("\"{}\"", pass.id);
        let says = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let is_known = says(header::IF_NONE_MATCH).is_some_and(|tags| tags.trim() == "*" || tags.contains(&tag));
        // RFC 9110, section 13.1.5: with another tag the range is not of this file.
        let is_same = says(header::IF_RANGE).is_none_or(|of| of.trim() == tag);
        let size = pass.size_bytes;
        let (status, range) = match asked(says(header::RANGE).filter(|_| is_same), size) {
            _ if is_known => (StatusCode::NOT_MODIFIED, 0..0),
            Asked::Whole => (StatusCode::OK, 0..size),
            Asked::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            Asked::Outside => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0),
        };
        let (served, is_shown) = types::served(media_type);
        let mut answer = text(status, "");
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(served));
        headers.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        put(headers, header::ETAG, &tag);
        put(headers, header::CONTENT_DISPOSITION, &types::disposition(is_shown, name));
        // Caches know it by its address alone, which expires.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=3600, immutable"));
        match status {
            StatusCode::PARTIAL_CONTENT => {
                let told = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                put(headers, header::CONTENT_RANGE, &told);
            }
            StatusCode::RANGE_NOT_SATISFIABLE => put(headers, header::CONTENT_RANGE, &format!("bytes */{size}")),
            StatusCode::NOT_MODIFIED => {
                headers.remove(header::CONTENT_LENGTH);
            }
            _ => {}
        }
        if *method == Method::HEAD { (answer, 0..0) } else { (answer, range) }
    }
}

/// The outcome of an upload.
enum Taken {
    Whole(Whole),
    /// The number of bytes that are there.
    Part(u64),
}

/// The answer to an upload that has stopped.
fn stopped(error: UploadError, pass: &Pass) -> Answer {
    let answer = text(error.status(), &error.to_string());
    match error {
        UploadError::NotHere { stored } | UploadError::Different { stored } => {
            of_upload(answer, stored, pass.size_bytes)
        }
        UploadError::Files(error) => {
            tracing::warn!(file = %pass.id, %error, "an upload has stopped: its bytes can't be kept");
            again(answer)
        }
        error => {
            tracing::debug!(file = %pass.id, %error, "an upload has stopped");
            answer
        }
    }
}

/// For the client that will send a message with the file.
fn created(media: &client::Media) -> Answer {
    // Numbers, text and bytes always have a form in JSON.
    let body = serde_json::to_vec(media).unwrap_or_default();
    let mut answer = text(StatusCode::CREATED, "");
    *answer.body_mut() = body.into();
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn whole(answer: Answer) -> Response<MediaBody> {
    answer.map(|body| Either::Left(Full::new(body)))
}

/// For people, and without a body for machines if there is nothing to say.
fn text(status: StatusCode, why: &str) -> Answer {
    let body = if why.is_empty() { Bytes::new() } else { Bytes::from(format!("{why}\n")) };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Nothing that is kept here runs as a page of the service, and pages of other origins may fetch what they have the address of.
pub(super) fn put_common(headers: &mut HeaderMap) {
    let all = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "cross-origin"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, PUT"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Content-Type, Content-Range, Range"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Content-Range, Upload-Offset, Upload-Length"),
        (header::ACCESS_CONTROL_MAX_AGE, "3600"),
    ];
    for (name, value) in all {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // All are made here of visible ASCII.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn of_upload(mut answer: Answer, stored: u64, size: u64) -> Answer {
    let headers = answer.headers_mut();
    headers.insert(UPLOAD_OFFSET, stored.into());
    headers.insert(UPLOAD_LENGTH, size.into());
    answer
}

fn not_allowed(methods: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "the address of this file is for something else");
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    answer
}

pub(super) fn full(direction: &'static str, why: NoTurn) -> Answer {
    metrics::media_transfer(direction, "refused");
    let why = match why {
        NoTurn::All => "this gateway transfers as many files as it may",
        NoTurn::OfUser => "this gateway transfers as many files of the user as it may",
    };
    again(text(StatusCode::SERVICE_UNAVAILABLE, why))
}

/// A download whose first bytes can't be read.
pub(super) fn unreadable(error: FilesError, file: &MediaId) -> Answer {
    let answer = match &error {
        FilesError::NotFound => text(StatusCode::GONE, "the file is not there any more"),
        error => again(text(StatusCode::SERVICE_UNAVAILABLE, &format!("files can't be read now: {error}"))),
    };
    DownloadError::from(error).tell(file);
    answer
}

fn again(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(header::RETRY_AFTER, AGAIN_S.into());
    answer
}

/// The answer to a request that the routers have refused.
fn refused(why: &Refusal) -> Answer {
    let status = match why.code() {
        Code::NotFound => StatusCode::GONE,
        Code::Unauthenticated => StatusCode::FORBIDDEN,
        _ if why.retry => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let answer = text(status, &why.reason);
    if why.retry { again(answer) } else { answer }
}
