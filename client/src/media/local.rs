//! Files of this machine, as contents of messages.

use std::{
    io,
    path::{Path, PathBuf},
};

use carillon_proto::{
    TimelineId,
    pb::client::{Content, Direction, Media, MediaUrl, content::Body},
};
use tokio::{fs::File, io::AsyncWriteExt as _};

use super::{MediaError, Moved, NewFile, progress::Counted};
use crate::Client;

impl Client {
    /// Uploads the file at this path. Returns what a message says with it: an image, audio, video, or another file, as the service has found out.
    pub async fn upload_path(&self, path: &Path, caption: &str) -> Result<Content, MediaError> {
        self.upload_path_watched(path, caption, &|_| {}).await
    }

    /// The same; `told` is called whenever some of the file has been read.
    pub async fn upload_path_watched(
        &self,
        path: &Path,
        caption: &str,
        told: &(dyn Fn(Moved) + Send + Sync),
    ) -> Result<Content, MediaError> {
        let opened = async {
            let file = File::open(path).await?;
            let found = file.metadata().await?;
            if found.is_dir() { Err(io::Error::from(io::ErrorKind::IsADirectory)) } else { Ok((file, found.len())) }
        };
        let (file, size_bytes) = opened.await.map_err(|error| MediaError::Path(path.to_owned(), error))?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let new = NewFile { size_bytes, media_type: claimed_type(path).to_owned(), name };
        let media =
            Media { caption: caption.to_owned(), ..self.upload(new, &mut Counted::new(file, size_bytes, told)).await? };
        let body = match media.media_type.split('/').next() {
            Some("image") => Body::Image(media),
            Some("audio") => Body::Audio(media),
            Some("video") => Body::Video(media),
            _ => Body::File(media),
        };
        Ok(Content { body: Some(body), ..Content::default() })
    }

    /// Downloads the file of the message at this position to `path`, or else under the file's own name into this folder. Nothing that is there is
    /// replaced. Returns where it is.
    pub async fn save_file(
        &self,
        timeline: &TimelineId,
        seq: u64,
        path: Option<&Path>,
    ) -> Result<(PathBuf, MediaUrl), MediaError> {
        self.save_file_watched(timeline, seq, path, &|_| {}).await
    }

    /// The same; `moved` is called whenever some of the file has been written.
    pub async fn save_file_watched(
        &self,
        timeline: &TimelineId,
        seq: u64,
        path: Option<&Path>,
        moved: &(dyn Fn(Moved) + Send + Sync),
    ) -> Result<(PathBuf, MediaUrl), MediaError> {
        let page = self.fetch(timeline, Direction::Forward, seq, 1).await?;
        let entry = page.entries.into_iter().find(|entry| entry.seq == seq).ok_or(MediaError::NoMessage)?;
        let media =
            entry.envelope.and_then(|envelope| media_of(envelope.content?)).filter(|media| !media.id.is_empty());
        let Media { id, .. } = media.ok_or(MediaError::NoFile)?;
        let of = Some((timeline, seq));
        let told = self.media_url(&id, of).await?;
        let path = path.map_or_else(|| PathBuf::from(own_name(&told.name).unwrap_or("file")), Path::to_owned);
        let failed = |error| MediaError::Path(path.clone(), error);
        let file = File::create_new(&path).await.map_err(failed)?;
        let mut file = Counted::new(file, told.size_bytes, moved);
        let written = async {
            self.download(&id, of, 0, &mut file).await?;
            file.shutdown().await.map_err(failed)
        };
        let written = written.await;
        if written.is_err() {
            // Half a file is none.
            let _ = tokio::fs::remove_file(&path).await;
        }
        written.map(|()| (path, told))
    }
}

fn media_of(content: Content) -> Option<Media> {
    match content.body? {
        Body::Image(media) | Body::Audio(media) | Body::Video(media) | Body::File(media) => Some(media),
        Body::Edit(edit) => media_of(*edit.content?),
        _ => None,
    }
}

/// The name of a file, if it is one in this folder.
fn own_name(name: &str) -> Option<&str> {
    let name = Path::new(name).file_name().and_then(|name| name.to_str()).filter(|own| *own == name)?;
    (!name.starts_with('.')).then_some(name)
}

/// The media type by the ending of the name. The service looks into the file itself.
fn claimed_type(path: &Path) -> &'static str {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    match ending.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "mp3" => "audio/mpeg",
        "ogg" | "opus" => "audio/ogg",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_elsewhere_is_not_used() {
        assert_eq!(own_name("cat.png"), Some("cat.png"));
        for name in ["", ".", "..", "../cat.png", "/etc/passwd", "a/b", ".bashrc", "a/"] {
            assert_eq!(own_name(name), None, "{name}");
        }
    }
}
