//! Uploads: the bytes go to the place for files in chunks, one after another.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use carillon_media::{CHUNK_BYTES, Files, FilesError, Kept, Version};
use carillon_proto::MediaId;
use http_body_util::BodyExt as _;
use hyper::{
    Request, StatusCode,
    body::{Body as _, Incoming},
    header,
};

use super::{
    range::{Sent, sent},
    transfer::Transfer,
};
use crate::metrics;

/// Why an upload stops. What came before stays: the client can go on there.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error("{0}")]
    Wrong(String),
    /// Bytes that would leave a gap.
    #[error("the next byte must be that at {stored}, or at a multiple of {CHUNK_BYTES} before it")]
    NotHere { stored: u64 },
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
            Self::NotHere { .. } | Self::Files(FilesError::Other) => StatusCode::CONFLICT,
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

impl Upload<'_> {
    /// Takes the body. Returns how many bytes from the beginning on are kept now.
    pub(super) async fn take(mut self, request: Request<Incoming>) -> Result<u64, UploadError> {
        let range = self.range_of(&request)?;
        self.transfer.waits_for_place();
        let kept = self.files.kept(&self.id).await?;
        let stored = stored_bytes(kept, self.size_bytes);
        if range.is_empty() || kept.uploaded_bytes < stored {
            return Ok(stored);
        }
        if range.start > stored || !range.start.is_multiple_of(CHUNK_BYTES) {
            return Err(UploadError::NotHere { stored });
        }
        let mut body = request.into_body();
        let expected = range.end - range.start;
        if body.size_hint().lower() > expected {
            return Err(UploadError::TooLarge { expected });
        }
        let (mut at, mut came, mut chunk) = (range.start, 0, BytesMut::new());
        self.transfer.waits_for_client();
        while let Some(frame) = body.frame().await {
            self.transfer.waits_for_client();
            let Ok(mut data) = frame.map_err(drop).and_then(|frame| frame.into_data().map_err(drop)) else { break };
            came += data.len() as u64;
            metrics::media_bytes("upload", data.len() as u64);
            if came > expected {
                return Err(UploadError::TooLarge { expected });
            }
            if self.transfer.is_too_slow(came) {
                return Err(UploadError::Slow);
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
        // Bytes behind the last whole chunk are not kept: the client sends them again.
        if came < expected { Err(UploadError::Short { expected }) } else { Ok(at) }
    }

    /// The bytes that the request brings; empty: none.
    fn range_of(&self, request: &Request<Incoming>) -> Result<Range<u64>, UploadError> {
        let size = self.size_bytes;
        let header = request.headers().get(header::CONTENT_RANGE);
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

/// How far an upload of this size is. Of a file that is other bytes by now, which were made of all of them, nothing else may be left.
pub(super) fn stored_bytes(kept: Kept, size_bytes: u64) -> u64 {
    if kept.other.is_some() { size_bytes } else { kept.uploaded_bytes }
}
