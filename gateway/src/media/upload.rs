//! Uploads: the bytes go to the place for files in chunks, one after another.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use carillon_media::{CHUNK_BYTES, Files, FilesError, Kept, Version};
use carillon_proto::MediaId;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, StatusCode,
    body::{Body as _, Incoming},
    header,
};

use super::{
    direct::{Piece, SocketBody},
    range::{Sent, sent},
    transfer::Transfer,
};
use crate::metrics;

/// Bytes of a socket that are written at once.
const WRITTEN: usize = 512 * 1024;

/// Why an upload stops. What came before stays: the client can go on there.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error("{0}")]
    Wrong(String),
    /// Bytes that would leave a gap, or a part of a chunk.
    #[error(
        "the next byte must be that at {stored}, or at a multiple of {CHUNK_BYTES} before it, and the last one before such a multiple, or the \
         last one of the file"
    )]
    NotHere { stored: u64 },
    #[error(
        "bytes came that are not the kept ones, which do not change any more: if all are kept, PUT with Content-Range: bytes */SIZE"
    )]
    Different { stored: u64 },
    #[error("more bytes came than the {expected} that were told")]
    TooLarge { expected: u64 },
    #[error("the upload ended before all {expected} bytes had come: go on behind those that are kept")]
    Short { expected: u64 },
    #[error("less than 1 KiB a second came")]
    Slow,
    #[error("the time in which the file could be uploaded is over")]
    Expired,
    #[error("files can't be kept now: {0}")]
    Files(#[from] FilesError),
}

impl UploadError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Wrong(_) | Self::Short { .. } => StatusCode::BAD_REQUEST,
            Self::NotHere { .. } | Self::Different { .. } => StatusCode::CONFLICT,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Expired => StatusCode::GONE,
            Self::Files(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

pub(super) struct Upload<'a> {
    pub(super) files: &'a Files,
    pub(super) id: MediaId,
    /// Of the whole file.
    pub(super) size_bytes: u64,
    /// Milliseconds since 1970.
    pub(super) expires_ms: u64,
    pub(super) transfer: &'a mut Transfer,
}

/// The origin of an upload's bytes.
pub(super) enum Source<'a, 's> {
    Http(Incoming),
    Socket(&'a mut SocketBody<'s>),
}

impl Upload<'_> {
    /// Takes the body. Returns how many bytes from the beginning on are kept now.
    pub(super) async fn take(mut self, headers: &HeaderMap, from: Source<'_, '_>) -> Result<u64, UploadError> {
        let range = self.range_of(headers)?;
        self.transfer.waits_for_place();
        let kept = self.files.kept(&self.id).await?;
        let stored = stored_bytes(kept, self.size_bytes);
        if range.is_empty() {
            return Ok(stored);
        }
        // The uploaded bytes of a picture are gone: nothing can be compared with them.
        if kept.uploaded_bytes < stored {
            return Err(UploadError::Different { stored });
        }
        let ends_with_chunk = range.end == self.size_bytes || range.end.is_multiple_of(CHUNK_BYTES);
        if range.start > stored || !range.start.is_multiple_of(CHUNK_BYTES) || !ends_with_chunk {
            return Err(UploadError::NotHere { stored });
        }
        let end = range.end;
        self.transfer.waits_for_client();
        let taken = match from {
            Source::Http(body) => self.take_from_http(range, body).await,
            Source::Socket(body) => self.take_from_socket(range, body).await,
        };
        match taken {
            Ok(()) => Ok(end.max(stored)),
            Err(UploadError::Files(FilesError::Other)) => Err(UploadError::Different { stored }),
            Err(error) => Err(error),
        }
    }

    async fn take_from_http(&mut self, range: Range<u64>, mut body: Incoming) -> Result<(), UploadError> {
        let expected = range.end - range.start;
        if body.size_hint().lower() > expected {
            return Err(UploadError::TooLarge { expected });
        }
        let (mut at, mut came, mut chunk) = (range.start, 0, BytesMut::new());
        while let Some(frame) = body.frame().await {
            let Ok(mut data) = frame.map_err(drop).and_then(|frame| frame.into_data().map_err(drop)) else { break };
            came += data.len() as u64;
            self.has_come(data.len(), came)?;
            if came > expected {
                return Err(UploadError::TooLarge { expected });
            }
            while !data.is_empty() {
                let end = self.chunk_end(at);
                if chunk.is_empty() {
                    chunk.reserve((end - at) as usize);
                }
                let room = (end - at) as usize - chunk.len();
                chunk.extend_from_slice(&data.split_to(room.min(data.len())));
                if chunk.len() as u64 == end - at {
                    self.put(at, chunk.split().freeze()).await?;
                    at = end;
                }
            }
        }
        if came < expected { Err(UploadError::Short { expected }) } else { Ok(()) }
    }

    /// Writes what comes as it comes.
    async fn take_from_socket(&mut self, range: Range<u64>, body: &mut SocketBody<'_>) -> Result<(), UploadError> {
        let expected = range.end - range.start;
        if body.missing_bytes() > expected {
            return Err(UploadError::TooLarge { expected });
        }
        let mut finishing = None;
        let taken = self.fill_chunks(range, body, &mut finishing).await;
        // The next request is told how much is kept of an upload that breaks.
        self.transfer.waits_for_place();
        let finished = finish(&mut finishing).await;
        self.transfer.waits_for_client();
        taken.and(finished)
    }

    /// A chunk is made safe while the next one comes.
    async fn fill_chunks(
        &mut self,
        range: Range<u64>,
        body: &mut SocketBody<'_>,
        finishing: &mut Option<Finishing>,
    ) -> Result<(), UploadError> {
        let expected = range.end - range.start;
        let folder = self.files.folder().ok_or(FilesError::NotFound)?;
        let mut pipe = body.open().await.map_err(FilesError::from)?;
        let (mut at, mut came) = (range.start, 0);
        while at < range.end {
            let end = self.chunk_end(at);
            self.transfer.waits_for_place();
            let mut chunk = folder.new_chunk(self.id, at / CHUNK_BYTES, end - at).await?;
            self.transfer.waits_for_client();
            while chunk.missing_bytes() > 0 {
                let missing = chunk.missing_bytes() - pipe.held_bytes() as u64;
                let piece = if missing == 0 { Piece::Full } else { body.next(&mut pipe, missing).await };
                let more = match &piece {
                    Piece::Early(bytes) => bytes.len(),
                    Piece::Piped(count) => *count,
                    Piece::Full => 0,
                    Piece::End => return Err(UploadError::Short { expected }),
                };
                came += more as u64;
                self.has_come(more, came)?;
                self.transfer.waits_for_place();
                chunk = match piece {
                    Piece::Early(bytes) => chunk.write(bytes).await?,
                    Piece::Piped(_) if pipe.held_bytes() < WRITTEN => chunk,
                    _ => {
                        let count = pipe.empty();
                        chunk.write_from(pipe.end(), count).await?
                    }
                };
                self.transfer.waits_for_client();
            }
            if carillon_proto::now_ms() >= self.expires_ms {
                return Err(UploadError::Expired);
            }
            self.transfer.waits_for_place();
            finish(finishing).await?;
            *finishing = Some(Box::pin(chunk.finish()));
            self.transfer.waits_for_client();
            at = end;
        }
        Ok(())
    }

    fn has_come(&mut self, more: usize, came: u64) -> Result<(), UploadError> {
        self.transfer.waits_for_client();
        metrics::media_bytes("upload", more as u64);
        if self.transfer.is_too_slow(came) { Err(UploadError::Slow) } else { Ok(()) }
    }

    /// The bytes that the request brings; empty: none.
    fn range_of(&self, headers: &HeaderMap) -> Result<Range<u64>, UploadError> {
        let size = self.size_bytes;
        let header = headers.get(header::CONTENT_RANGE);
        let told = match header.map(|header| header.to_str().ok().and_then(sent)) {
            None => Sent::Bytes { range: 0..size, size },
            Some(Some(told)) => told,
            Some(None) => return Err(UploadError::Wrong("Content-Range must be bytes FIRST-LAST/SIZE".to_owned())),
        };
        match told {
            Sent::Bytes { range, size: told } if told == size => Ok(range),
            Sent::Nothing { size: told } if told == size => Ok(0..0),
            _ => Err(UploadError::Wrong(format!("Content-Range is of another file: this one has {size} bytes"))),
        }
    }

    /// The end of the chunk that begins here.
    fn chunk_end(&self, at: u64) -> u64 {
        (at + CHUNK_BYTES).min(self.size_bytes)
    }

    async fn put(&mut self, at: u64, bytes: Bytes) -> Result<(), UploadError> {
        if carillon_proto::now_ms() >= self.expires_ms {
            return Err(UploadError::Expired);
        }
        self.transfer.waits_for_place();
        self.files.put_chunk(&self.id, Version::Uploaded, at / CHUNK_BYTES, bytes).await?;
        self.transfer.waits_for_client();
        Ok(())
    }
}

/// A chunk on its way to where nothing is lost.
type Finishing = BoxFuture<'static, Result<(), FilesError>>;

async fn finish(finishing: &mut Option<Finishing>) -> Result<(), UploadError> {
    match finishing.take() {
        Some(finishing) => Ok(finishing.await?),
        None => Ok(()),
    }
}

/// The number of bytes of an upload of this size that are kept. All of them count as kept when other bytes were made of them: nothing else may be
/// left then.
pub(super) fn stored_bytes(kept: Kept, size_bytes: u64) -> u64 {
    if kept.other.is_some() { size_bytes } else { kept.uploaded_bytes }
}
