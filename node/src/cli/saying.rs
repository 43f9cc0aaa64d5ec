//! Content and recipient of a new message, as options of a command.

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use carillon_client::{Client, MediaError};
use carillon_proto::{
    GroupId, MessageId, TimelineId, UserId,
    limits::EXPIRES_AFTER_MS,
    pb::client::{Content, Mentions, Recipient},
};
use clap::Args;

use super::{
    credential::parse_duration, media::failed, message::find_alive, printer::Printer, progress::Progress,
    refused::not_sent,
};

/// The recipient of a message.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct Whom {
    /// For this user.
    #[arg(long, value_name = "USER")]
    to: Option<UserId>,
    /// For this group.
    #[arg(long, value_name = "GROUP")]
    to_group: Option<GroupId>,
}

impl Whom {
    pub(super) fn recipient(&self) -> anyhow::Result<Recipient> {
        match (&self.to, &self.to_group) {
            (_, Some(group)) => Ok(Client::group(group.as_str())),
            (Some(user), None) => Ok(Client::user(user.as_str())),
            (None, None) => bail!("whom it is for must be given by --to or --to-group"),
        }
    }

    /// The timeline in which this user has the conversation.
    pub(super) fn timeline(&self, user: &UserId) -> TimelineId {
        self.to_group.clone().map_or_else(|| TimelineId::Inbox(user.clone()), TimelineId::Group)
    }
}

#[derive(Args)]
pub(super) struct Saying {
    /// What the message says; with a file: its caption.
    #[arg(required_unless_present = "file")]
    text: Option<String>,
    /// Sends this file.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The id of the message that this one answers; it must be among the last messages of the group, or of the sender's inbox.
    #[arg(long, value_name = "MESSAGE")]
    reply_to: Option<MessageId>,
    /// The id of the first message of the thread that this one belongs to.
    #[arg(long, value_name = "MESSAGE")]
    thread: Option<MessageId>,
    #[command(flatten)]
    mentioned: Mentioned,
    /// For how long the message is shown, for example 30s, 15m, 24h or 7d: 5 seconds to 366 days; then what it says is gone for everybody.
    #[arg(long, value_name = "TIME", value_parser = parse_expiry)]
    expires: Option<Duration>,
}

/// Whom a message mentions.
#[derive(Args)]
pub(super) struct Mentioned {
    /// Mentions this user; may be repeated.
    #[arg(long = "mention", value_name = "USER")]
    mentions: Vec<UserId>,
    /// Mentions everybody in the group.
    #[arg(long)]
    mention_all: bool,
    /// Mentions everybody in the group who is online.
    #[arg(long)]
    mention_here: bool,
}

impl Mentioned {
    /// `None`: nobody is mentioned.
    pub(super) fn mentions(&self) -> Option<Box<Mentions>> {
        let users: Vec<_> = self.mentions.iter().map(ToString::to_string).collect();
        let mentions = Mentions { users, all: self.mention_all, here: self.mention_here };
        (mentions != Mentions::default()).then(|| Box::new(mentions))
    }
}

/// The time for which a message is shown.
pub(super) fn parse_expiry(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    match u64::try_from(time.as_millis()).is_ok_and(|ms| EXPIRES_AFTER_MS.contains(&ms)) {
        true => Ok(time),
        false => Err(format!("{text} must be 5s to 366d")),
    }
}

/// The same, or 0: without end.
pub(super) fn parse_expiry_or_none(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { parse_expiry(text) }
}

impl Saying {
    /// Sends it to a group, and prints the answer.
    pub(super) async fn send_to_group(
        self,
        client: &Client,
        group: &GroupId,
        printer: &Printer<'_>,
    ) -> anyhow::Result<()> {
        let content = self.content(client, &TimelineId::Group(group.clone()), printer.format.json).await?;
        let sent = client.send_expiring(Client::group(group.as_str()), content, self.expires()).await;
        printer.accepted(&sent.map_err(|error| not_sent(format_args!("group {group}"), error))?)
    }

    pub(super) fn expires(&self) -> Duration {
        self.expires.unwrap_or_default()
    }

    /// `timeline`: the place of the messages that it names. `json`: programs read the output.
    pub(super) async fn content(&self, client: &Client, timeline: &TimelineId, json: bool) -> anyhow::Result<Content> {
        let text = self.text.as_deref().unwrap_or_default();
        let mut content = match &self.file {
            None => Client::text(text),
            Some(file) => {
                let progress = Progress::new("sent", json);
                let uploaded = client.upload_path_watched(file, text, &|moved| progress.tell(moved)).await;
                drop(progress);
                uploaded.map_err(|error| match error {
                    // It names the file.
                    MediaError::Path(..) => error.into(),
                    error => failed(error).context(format!("{} was not uploaded", file.display())),
                })?
            }
        };
        if let Some(id) = self.reply_to {
            content = find_alive(client, timeline, id).await?.target.answered_by(content, "");
        }
        if let Some(id) = self.thread {
            content = find_alive(client, timeline, id).await?.target.continued_by(content);
        }
        content.mentions = self.mentioned.mentions();
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_shown_for_a_bounded_time() {
        assert_eq!((parse_expiry("5s"), parse_expiry_or_none("0")), (Ok(Duration::from_secs(5)), Ok(Duration::ZERO)));
        for wrong in ["4s", "367d", "0", "1h1"] {
            parse_expiry(wrong).expect_err(wrong);
        }
    }
}
