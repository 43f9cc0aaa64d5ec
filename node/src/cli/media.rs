//! Files of messages.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use carillon_client::{Client, NewFile};
use carillon_pictures::{
    Format,
    preview::child::{self, Bounds},
};
use carillon_proto::{
    GroupId, TimelineId, UserId,
    pb::client::{Content, Direction, Media, content::Body},
};
use clap::{Args, Subcommand};
use tokio::{fs::File, io::AsyncWriteExt as _};

use super::{connect::Connect, out, user_data::FileList};
use crate::Config;

#[derive(Subcommand)]
pub(super) enum MediaCommand {
    /// Downloads the file of a message.
    Get(Get),
    /// Lists the files of a user, and whether something refers to each. For the operator.
    List(FileList),
}

#[derive(Args)]
pub(super) struct Get {
    /// Who reads the message.
    #[arg(long = "as", value_name = "USER")]
    user: UserId,
    /// The group with the message; otherwise it is in the user's inbox.
    #[arg(long)]
    group: Option<GroupId>,
    /// The position of the message.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    position: u64,
    /// Where it is written, which must not be there; otherwise under the file's own name in this folder.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Names this device among the user's.
    #[arg(long, default_value = "terminal-media")]
    device: String,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Args)]
pub(super) struct Inspect {
    #[arg(value_parser = |name: &str| Format::named(name).ok_or("jpeg, png, webp or gif"))]
    format: Format,
    memory_bytes: u64,
    cpu_s: u64,
}

impl Inspect {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { format, memory_bytes, cpu_s } = self;
        Ok(child::run(format, Bounds { memory_bytes, cpu_s })?)
    }
}

impl MediaCommand {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        match self {
            Self::Get(get) => get.run(config).await,
            Self::List(list) => list.run(config).await,
        }
    }
}

impl Get {
    async fn run(self, config: &Config) -> anyhow::Result<()> {
        self.connect.ask(config, &self.user, &self.device, async |client| self.download(client).await).await
    }

    async fn download(&self, client: &Client) -> anyhow::Result<()> {
        let timeline = match &self.group {
            Some(group) => TimelineId::Group(group.clone()),
            None => TimelineId::Inbox(self.user.clone()),
        };
        let page = client.fetch(&timeline, Direction::Forward, self.position, 1).await?;
        let entry = page.entries.into_iter().find(|entry| entry.seq == self.position);
        let media = entry.and_then(|entry| media_of(entry.envelope?.content?));
        let Some(media) = media.filter(|media| !media.id.is_empty()) else {
            bail!("message {} of {timeline} has no file that this service keeps", self.position);
        };
        let of = Some((&timeline, self.position));
        let told = client.media_url(&media.id, of).await?;
        let path = match &self.output {
            Some(path) => path.clone(),
            None => PathBuf::from(own_name(&told.name).unwrap_or("file")),
        };
        // Nothing of somebody else's choice replaces a file.
        let made = File::create_new(&path).await.with_context(|| format!("can't make {}", path.display()));
        let written = write(client, &media.id, of, made?).await;
        if written.is_err() {
            // Half a file is none.
            let _ = tokio::fs::remove_file(&path).await;
        }
        written?;
        out::line(format_args!("{}: {} bytes of {}", path.display(), told.size_bytes, told.media_type))
    }
}

async fn write(client: &Client, id: &Bytes, of: Option<(&TimelineId, u64)>, mut file: File) -> anyhow::Result<()> {
    client.download(id, of, 0, &mut file).await?;
    Ok(file.shutdown().await?)
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

/// Uploads a file for a message, with this caption.
pub(super) async fn uploaded(client: &Client, path: &Path, caption: String) -> anyhow::Result<Content> {
    let opened = async {
        let file = File::open(path).await?;
        let size = file.metadata().await?.len();
        std::io::Result::Ok((file, size))
    };
    let (mut file, size_bytes) = opened.await.with_context(|| format!("can't read {}", path.display()))?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let media_type = claimed_type(path).to_owned();
    let media = client.upload(NewFile { size_bytes, media_type, name }, &mut file).await;
    let media = Media { caption, ..media.with_context(|| format!("{} was not uploaded", path.display()))? };
    let body = match media.media_type.split('/').next() {
        Some("image") => Body::Image(media),
        Some("audio") => Body::Audio(media),
        Some("video") => Body::Video(media),
        _ => Body::File(media),
    };
    Ok(Content { body: Some(body), ..Default::default() })
}

/// What the sender takes it for. The service finds out itself.
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
