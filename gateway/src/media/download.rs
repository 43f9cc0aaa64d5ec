//! The body of a download: read piece by piece as the client takes it.

use std::{
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use carillon_media::{Files, FilesError, Version};
use carillon_proto::MediaId;
use futures_util::future::BoxFuture;
use hyper::body::{Body, Frame, SizeHint};

use super::{transfer::Transfer, turns::Turn};
use crate::metrics;

/// Bytes that are read at once.
const READ: u64 = 512 * 1024;
/// Bytes that are given to the connection at once: a slow client makes progress by so much.
const GIVEN: usize = 64 * 1024;

pub(crate) struct Download {
    files: Files,
    id: MediaId,
    version: Version,
    /// The part of the range that was not read yet.
    rest: Range<u64>,
    /// Read, and not given yet.
    read: Bytes,
    given: u64,
    reading: Option<BoxFuture<'static, Result<Bytes, FilesError>>>,
    transfer: Transfer,
    _turn: Turn,
}

/// The connection ends: the head of the answer has been sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DownloadError {
    #[error("the file can't be read: {0}")]
    Files(#[from] FilesError),
    #[error("the file is shorter than it should be")]
    Short,
    #[error("the client takes less than 1 KiB a second")]
    Slow,
    #[error("the client is gone: {0}")]
    Gone(#[from] std::io::Error),
}

impl DownloadError {
    pub(super) fn tell(&self, file: &MediaId) {
        metrics::media_transfer("download", "failed");
        tracing::warn!(%file, error = %self, "a download ended before its end");
    }
}

impl Download {
    /// Reads the first bytes.
    pub(super) async fn begin(
        files: Files,
        (id, version): (MediaId, Version),
        range: Range<u64>,
        mut transfer: Transfer,
        turn: Turn,
    ) -> Result<Self, FilesError> {
        transfer.waits_for_place();
        let read = files.read(&id, version, first_of(&range)).await?;
        let rest = range.start + read.len() as u64..range.end;
        Ok(Self { files, id, version, rest, read, given: 0, reading: None, transfer, _turn: turn })
    }

    fn fail(&self, error: DownloadError) -> DownloadError {
        error.tell(&self.id);
        error
    }
}

fn first_of(range: &Range<u64>) -> Range<u64> {
    range.start..range.end.min(range.start + READ)
}

impl Body for Download {
    type Data = Bytes;
    type Error = DownloadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DownloadError>>> {
        let this = self.get_mut();
        if this.read.is_empty() {
            if this.rest.is_empty() {
                return Poll::Ready(None);
            }
            let reading = this.reading.get_or_insert_with(|| {
                let (files, id, version) = (this.files.clone(), this.id, this.version);
                let range = first_of(&this.rest);
                this.transfer.waits_for_place();
                Box::pin(async move { files.read(&id, version, range).await })
            });
            let read = ready!(reading.as_mut().poll(context));
            this.reading = None;
            this.read = match read {
                Ok(read) if !read.is_empty() => read,
                Ok(_) => return Poll::Ready(Some(Err(this.fail(DownloadError::Short)))),
                Err(error) => return Poll::Ready(Some(Err(this.fail(error.into())))),
            };
            this.rest.start += this.read.len() as u64;
        }
        this.transfer.waits_for_client();
        if this.transfer.is_too_slow(this.given) {
            return Poll::Ready(Some(Err(this.fail(DownloadError::Slow))));
        }
        let piece = this.read.split_to(this.read.len().min(GIVEN));
        this.given += piece.len() as u64;
        metrics::media_bytes("download", piece.len() as u64);
        if this.is_end_stream() {
            metrics::media_transfer("download", "ok");
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.end - self.rest.start + self.read.len() as u64)
    }
}
