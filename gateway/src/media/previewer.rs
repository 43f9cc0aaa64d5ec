//! Runs the process that makes previews. Nothing that happens to it hurts anybody: then a picture has none.

use std::{ffi::OsString, io, process::Stdio, time::Duration};

use bytes::Bytes;
use carillon_media::{Media, MediaConfig};
use carillon_pictures::{
    Format,
    preview::child::{MAX_OUTPUT_BYTES, Seen},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    sync::Semaphore,
    time::timeout,
};

use crate::metrics;

/// How long a picture waits for its turn. With so many before it, it has no preview.
const TURN: Duration = Duration::from_secs(5);

pub(super) struct Previewer {
    command: Vec<OsString>,
    memory_bytes: u64,
    time: Duration,
    turns: Semaphore,
}

impl Previewer {
    pub(super) fn new(media: &Media) -> Self {
        let MediaConfig { preview_memory_bytes, preview_timeout_ms, max_previews, .. } = media.config;
        Self {
            command: media.previewer.clone(),
            memory_bytes: preview_memory_bytes,
            time: Duration::from_millis(preview_timeout_ms),
            turns: Semaphore::new(max_previews),
        }
    }

    /// Size and preview of the picture, as far as they could be found out.
    pub(super) async fn look(&self, format: Format, picture: Bytes) -> Seen {
        let (seen, outcome) = self.try_to_look(format, picture).await;
        metrics::preview(outcome);
        seen.unwrap_or_default()
    }

    async fn try_to_look(&self, format: Format, picture: Bytes) -> (Option<Seen>, &'static str) {
        let Ok(Ok(_turn)) = timeout(TURN, self.turns.acquire()).await else { return (None, "busy") };
        let mut output = Vec::new();
        let outcome = match timeout(self.time, self.ask(format, picture, &mut output)).await {
            Ok(Ok(())) => "made",
            Ok(Err(error)) => {
                tracing::debug!(%error, "no preview was made");
                "failed"
            }
            Err(_) => "late",
        };
        (Seen::parse(&output), outcome)
    }

    /// When this is dropped, the process ends.
    async fn ask(&self, format: Format, picture: Bytes, output: &mut Vec<u8>) -> io::Result<()> {
        let mut child = self.start(format)?;
        let (Some(mut input), Some(answer)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the process has no pipes"));
        };
        // If it ends before, its exit code says so.
        let _ = input.write_all(&picture).await;
        drop((input, picture));
        answer.take(MAX_OUTPUT_BYTES as u64).read_to_end(output).await?;
        match child.wait().await? {
            status if status.success() => Ok(()),
            status => Err(io::Error::other(status.to_string())),
        }
    }

    fn start(&self, format: Format) -> io::Result<Child> {
        let (program, first) =
            self.command.split_first().ok_or_else(|| io::Error::other("there is no program for it"))?;
        let mut command = Command::new(program);
        command.args(first).arg(format.name()).arg(self.memory_bytes.to_string());
        command.arg(self.time.as_secs().max(1).to_string());
        // The process that is started needs nothing of this one, and is told nothing.
        command.env_clear().current_dir("/").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
    }
}
