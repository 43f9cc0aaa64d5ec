//! Looks at a file whose bytes are all there: finds its type, removes from a picture what it tells of its place, and has a preview made.

use std::{ops::Range, time::Duration};

use bytes::{Bytes, BytesMut};
use carillon_media::{CHUNK_BYTES, Files, FilesError, Kept, Media, ToldPlace, Version};
use carillon_pictures::{Damaged, Format, film, preview::child::Seen, strip, tells_place};
use carillon_proto::{MediaId, pb::client};
use hyper::StatusCode;
use sha2::{Digest as _, Sha256};
use tokio::{sync::Semaphore, time::timeout};

use super::{previewer::Previewer, types};

/// How long a picture waits until others are stripped.
const TURN: Duration = Duration::from_secs(20);
/// At the beginning and at the end of a file that is too large to be looked through.
const LOOKED_THROUGH: u64 = 1 << 20;

/// Boxes of a film that are passed: real ones have some dozens, but for those that are made of pieces.
const FILM_BOXES: usize = 512;

/// Why a file can't be made whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum WholeError {
    #[error("files can't be kept now: {0}")]
    Files(#[from] FilesError),
    #[error("too many pictures are looked at now")]
    Busy,
    #[error(
        "the picture or film says where it was made, and this service can't remove that from it: it is too large, damaged, or of a kind that \
         the service does not know. Remove it, or send a copy without it"
    )]
    TellsPlace,
    #[error("the picture could not be looked at")]
    Broken,
}

impl WholeError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Files(_) | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::TellsPlace => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Broken => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A file as others will get it.
#[derive(Debug, Default)]
pub(super) struct Whole {
    pub(super) media_type: &'static str,
    pub(super) size_bytes: u64,
    /// Of a picture that was stripped.
    pub(super) sha256: Bytes,
    /// The picture is other bytes than those that were uploaded.
    pub(super) is_other: bool,
    pub(super) seen: Seen,
}

impl Whole {
    /// For the message that will refer to it.
    pub(super) fn for_message(self) -> client::Media {
        let Self { media_type, size_bytes, sha256, seen: Seen { width, height, preview }, .. } = self;
        let (media_type, preview) = (media_type.to_owned(), preview.into());
        client::Media { media_type, size_bytes, sha256, width, height, preview, ..client::Media::default() }
    }
}

pub(super) struct Inspector {
    files: Files,
    max_picture_bytes: u64,
    told_place: ToldPlace,
    /// Each has a picture in memory.
    turns: Semaphore,
    previewer: Previewer,
}

/// Where the bytes of a file are.
#[derive(Clone, Copy)]
struct Source {
    id: MediaId,
    version: Version,
    size_bytes: u64,
}

impl Inspector {
    pub(super) fn new(media: &Media) -> Self {
        Self {
            files: media.files.clone(),
            max_picture_bytes: media.config.max_picture_bytes,
            told_place: media.config.told_place,
            turns: Semaphore::new(media.config.max_pictures),
            previewer: Previewer::new(media),
        }
    }

    /// `kept`: all bytes that were uploaded, or what was made of them.
    pub(super) async fn look(&self, id: MediaId, uploaded_bytes: u64, kept: Kept) -> Result<Whole, WholeError> {
        let source = match kept.other {
            Some((hash, size_bytes)) if kept.uploaded_bytes < uploaded_bytes => {
                Source { id, version: Version::Other(hash), size_bytes }
            }
            _ => Source { id, version: Version::Uploaded, size_bytes: uploaded_bytes },
        };
        let first = self.read(source, 0..source.size_bytes.min(types::LOOKED_AT as u64)).await?;
        let media_type = types::of_content(&first);
        let whole = Whole { media_type, size_bytes: source.size_bytes, ..Whole::default() };
        match Format::of(media_type) {
            Some(format) if source.size_bytes <= self.max_picture_bytes => self.picture(source, format, whole).await,
            _ if media_type.starts_with("image/") => self.large_or_unknown(source, whole, tells_place).await,
            _ if film::is_in_boxes(&first) => self.film(source, whole).await,
            _ => Ok(whole),
        }
    }

    async fn picture(&self, source: Source, format: Format, whole: Whole) -> Result<Whole, WholeError> {
        let Ok(Ok(_turn)) = timeout(TURN, self.turns.acquire()).await else { return Err(WholeError::Busy) };
        let picture = self.read(source, 0..source.size_bytes).await?;
        let work = tokio::task::spawn_blocking(move || stripped(format, &picture));
        let stripped = match work.await.map_err(|_| WholeError::Broken)? {
            Ok(stripped) => stripped,
            Err(NotStripped { tells_place: true }) if self.told_place == ToldPlace::Refuse => {
                return Err(WholeError::TellsPlace);
            }
            Err(_) => return Ok(whole),
        };
        let Stripped { picture, sha256, is_other } = stripped;
        if is_other {
            self.keep(source.id, &sha256, &picture).await?;
        }
        Ok(Whole {
            size_bytes: picture.len() as u64,
            sha256,
            is_other: is_other || source.version != Version::Uploaded,
            seen: self.previewer.look(format, picture).await,
            ..whole
        })
    }

    async fn large_or_unknown(
        &self,
        source: Source,
        whole: Whole,
        tells: fn(&[u8]) -> bool,
    ) -> Result<Whole, WholeError> {
        let size = source.size_bytes;
        let first = self.read(source, 0..size.min(LOOKED_THROUGH)).await?;
        let last = self.read(source, size.saturating_sub(LOOKED_THROUGH)..size).await?;
        match self.told_place {
            ToldPlace::Refuse if tells(&first) || tells(&last) => Err(WholeError::TellsPlace),
            ToldPlace::Refuse | ToldPlace::Keep => Ok(whole),
        }
    }

    async fn film(&self, source: Source, whole: Whole) -> Result<Whole, WholeError> {
        if self.max_picture_bytes == 0 {
            return Ok(whole);
        }
        let mut at = 0;
        for _ in 0..FILM_BOXES {
            if at == source.size_bytes {
                return Ok(whole);
            }
            let first = self.read(source, at..source.size_bytes.min(at + film::BoxHead::MAX_BYTES as u64)).await?;
            let Ok(head) = film::BoxHead::read(&first) else { break };
            let end = head.size_bytes.map_or(Some(source.size_bytes), |size| at.checked_add(size));
            let Some(end) = end.filter(|end| *end <= source.size_bytes) else { break };
            if head.may_tell_place()
                && (end - at > self.max_picture_bytes || !self.forgets_place(source, at..end).await?)
            {
                break;
            }
            at = end;
        }
        if at == source.size_bytes {
            return Ok(whole);
        }
        self.large_or_unknown(source, whole, film::seems_to_tell_place).await
    }

    /// Overwrites what a box tells of the place; false if it is damaged.
    async fn forgets_place(&self, source: Source, range: Range<u64>) -> Result<bool, WholeError> {
        let Ok(Ok(_turn)) = timeout(TURN, self.turns.acquire()).await else { return Err(WholeError::Busy) };
        let before = self.read(source, range.clone()).await?;
        let work = tokio::task::spawn_blocking(move || {
            let mut after = BytesMut::from(&*before);
            film::forget_place(&mut after).map(|told| told.then(|| after.freeze()))
        });
        match work.await.map_err(|_| WholeError::Broken)? {
            Ok(Some(after)) => self.overwrite(source, range.start, &after).await.map(|()| true),
            Ok(None) => Ok(true),
            Err(Damaged) => Ok(false),
        }
    }

    /// Replaces the chunks in which these bytes are others than those that are kept.
    async fn overwrite(&self, source: Source, begin: u64, bytes: &[u8]) -> Result<(), WholeError> {
        let end = begin + bytes.len() as u64;
        for number in begin / CHUNK_BYTES..end.div_ceil(CHUNK_BYTES) {
            let chunk = number * CHUNK_BYTES..source.size_bytes.min((number + 1) * CHUNK_BYTES);
            let before = self.read(source, chunk.clone()).await?;
            let both = begin.max(chunk.start)..end.min(chunk.end);
            let of_chunk = (both.start - chunk.start) as usize..(both.end - chunk.start) as usize;
            let new = &bytes[(both.start - begin) as usize..(both.end - begin) as usize];
            if before[of_chunk.clone()] != *new {
                let mut after = BytesMut::from(&*before);
                after[of_chunk].copy_from_slice(new);
                self.files.replace_chunk(&source.id, number, after.freeze()).await?;
            }
        }
        Ok(())
    }

    async fn keep(&self, id: MediaId, sha256: &[u8], picture: &Bytes) -> Result<(), WholeError> {
        let version = Version::of_row(sha256).ok_or(WholeError::Broken)?;
        let chunk = CHUNK_BYTES as usize;
        for (number, begin) in (0..).zip((0..picture.len()).step_by(chunk)) {
            let bytes = picture.slice(begin..picture.len().min(begin + chunk));
            self.files.put_chunk(&id, version, number, bytes).await?;
        }
        Ok(())
    }

    async fn read(&self, source: Source, range: Range<u64>) -> Result<Bytes, FilesError> {
        let first = self.files.read(&source.id, source.version, range.clone()).await?;
        if first.len() as u64 == range.end - range.start {
            return Ok(first);
        }
        let mut all = BytesMut::with_capacity((range.end - range.start) as usize);
        all.extend_from_slice(&first);
        while (all.len() as u64) < range.end - range.start {
            let piece = self.files.read(&source.id, source.version, range.start + all.len() as u64..range.end).await?;
            if piece.is_empty() {
                return Err(FilesError::NotFound);
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }
}

struct Stripped {
    picture: Bytes,
    sha256: Bytes,
    is_other: bool,
}

struct NotStripped {
    tells_place: bool,
}

fn stripped(format: Format, before: &Bytes) -> Result<Stripped, NotStripped> {
    let after = strip(format, before).map_err(|Damaged| NotStripped { tells_place: tells_place(before) })?;
    let is_other = after != *before;
    let picture = if is_other { after.into() } else { before.clone() };
    let sha256 = Bytes::copy_from_slice(&Sha256::digest(&picture));
    Ok(Stripped { picture, sha256, is_other })
}
