//! Files of messages.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use carillon_client::{Client, MediaError};
use carillon_pictures::{
    Format,
    preview::child::{self, Bounds},
};
use carillon_proto::{GroupId, TimelineId};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    connect::Actor,
    out,
    progress::Progress,
    refused::{Failed, not_answered},
    user_data::FileList,
};
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
    #[command(flatten)]
    actor: Actor,
    /// The group with the message; otherwise it is in the user's inbox.
    #[arg(long)]
    group: Option<GroupId>,
    /// The position of the message.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    position: u64,
    /// Where it is written, which must not be there; otherwise under the file's own name in this folder.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Prints a JSON object, for programs.
    #[arg(long)]
    json: bool,
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

/// With the option that helps.
pub(super) fn failed(error: MediaError) -> anyhow::Error {
    match error {
        MediaError::NoAddress => {
            anyhow!("the service names no host for files: --media-url https://HOST says where they are")
        }
        MediaError::Asked(error) => not_answered(error),
        MediaError::NoMessage | MediaError::NoFile => Failed::Impossible(error.to_string()).into(),
        error => error.into(),
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
        self.actor.ask(config, "terminal-media", async |client| self.download(client).await).await
    }

    async fn download(&self, client: &Client) -> anyhow::Result<()> {
        let timeline = match &self.group {
            Some(group) => TimelineId::Group(group.clone()),
            None => TimelineId::Inbox(self.actor.user()?.clone()),
        };
        let progress = Progress::new("received", self.json);
        let (output, moved) = (self.output.as_deref(), |moved| progress.tell(moved));
        let saved = client.save_file_watched(&timeline, self.position, output, &moved).await;
        drop(progress);
        let (path, told) = saved.map_err(failed).with_context(|| format!("message {} of {timeline}", self.position))?;
        if self.json {
            let (path, bytes) = (path.display().to_string(), told.size_bytes);
            return out::line(json!({ "path": path, "size_bytes": bytes, "media_type": told.media_type }));
        }
        out::line(format_args!("{}: {} bytes of {}", path.display(), told.size_bytes, told.media_type))
    }
}
