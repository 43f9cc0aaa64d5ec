//! Edits, recalls, reactions, pins, polls: messages about messages.

use std::collections::VecDeque;

use anyhow::{anyhow, bail};
use carillon_client::{Client, SendError, Target};
use carillon_proto::{
    ClientId, DeviceId, GroupId, MessageId, TimelineId, UserId,
    pb::client::{
        Accepted, Content, Direction, Entry, Envelope, MessageRef, MessageState, Poll, Recipient, ReportReason,
        content::Body, recipient::To,
    },
};
use clap::{Args, Subcommand, ValueEnum};

use super::{
    chat::printable,
    connect::Actor,
    out,
    printer::{Format, Printer},
    refused::{Failed, not_answered, not_done},
    said::said,
    saying::{Mentioned, Whom},
};
use crate::Config;

/// Messages of a page, and most pages in which a message is looked for.
const PAGE: u32 = 100;
const PAGES: usize = 100;
/// Clocks of gateways differ by less: an older message than this before the wanted one ends the search.
const CLOCKS_DIFFER_MS: u64 = 3_600_000;

#[derive(Args)]
pub(super) struct Message {
    #[command(flatten)]
    actor: Actor,
    /// The group of the message; otherwise it is in the user's inbox.
    #[arg(long, global = true)]
    group: Option<GroupId>,
    #[command(flatten)]
    format: Format,
    #[command(subcommand)]
    what: What,
}

/// Messages are named by the ids that the service gave them.
#[derive(Subcommand)]
enum What {
    /// Lists the last messages of the user, of the conversation with a user, or of a group, as they are now.
    List {
        /// The other user, without --group.
        #[arg(long, value_name = "USER")]
        with: Option<UserId>,
        /// How many at most.
        #[arg(long, value_name = "MESSAGES", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Only those before this position.
        #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(u64).range(1..))]
        before: Option<u64>,
    },
    /// Shows a message as it is now.
    Show { message: MessageId },
    /// Says an own message otherwise.
    Edit {
        message: MessageId,
        text: String,
        #[command(flatten)]
        mentioned: Mentioned,
        /// Mentions nobody any more. Without this and the options of mentions, those of the message stay.
        #[arg(long, conflicts_with = "Mentioned")]
        no_mentions: bool,
    },
    /// Takes a message back: an own one, or in a group, as an admin, one of a member of a lower role.
    Recall {
        message: MessageId,
        /// Also removes what it said from the service, for good.
        #[arg(long)]
        erase: bool,
        #[command(flatten)]
        sent: Sent,
    },
    /// Sets all of the user's reactions to a message; without any they are taken back.
    React { message: MessageId, emojis: Vec<String> },
    /// Sends what a message says on to a user or a group, with the name of who wrote it first.
    Forward {
        message: MessageId,
        #[command(flatten)]
        to: Whom,
    },
    /// Keeps a message in sight for all.
    Pin { message: MessageId },
    /// No longer keeps it in sight.
    Unpin { message: MessageId },
    /// Shows the pinned messages of the group, or of the conversation with a user.
    Pinned {
        /// The other user, without --group.
        #[arg(long, value_name = "USER")]
        with: Option<UserId>,
    },
    /// Asks the group, or a user, to choose.
    Poll {
        question: String,
        /// 2 to 32.
        #[arg(required = true, num_args = 2..=32)]
        options: Vec<String>,
        /// The user who is asked, without --group.
        #[arg(long, value_name = "USER")]
        with: Option<UserId>,
        /// Several options may be chosen.
        #[arg(long)]
        multiple: bool,
    },
    /// Sets all of the user's votes in a poll, by the numbers of its options from 0 on; without any they are taken back.
    Vote { message: MessageId, options: Vec<u32> },
    /// Reports messages of others to the moderators, who see them as they are now. Nobody else is told.
    Report {
        /// 1 to 10, of one conversation.
        #[arg(required = true, num_args = 1..=10)]
        messages: Vec<MessageId>,
        #[arg(long, value_enum)]
        reason: Reason,
        /// What moderators should know: at most 1,000 bytes.
        #[arg(long, default_value = "")]
        text: String,
        /// Also blocks who has written them.
        #[arg(long)]
        block: bool,
    },
    /// Shows what a message said before it was edited, if the service allows it.
    History { message: MessageId },
}

/// An own message of a group that the user can no longer read, as the command that has sent it printed it with --json.
#[derive(Args)]
struct Sent {
    /// Its position, to recall an own message in a group that the user can no longer read.
    #[arg(long, value_name = "POSITION", requires = "client_id", value_parser = clap::value_parser!(u64).range(1..))]
    position: Option<u64>,
    /// Its client id, with --position.
    #[arg(long, value_name = "ID", requires = "position")]
    client_id: Option<ClientId>,
    /// The device that has sent it, with --position.
    #[arg(long, value_name = "DEVICE", default_value = "terminal-group", requires = "position")]
    sent_from: DeviceId,
}

impl Sent {
    /// `None`: the message has to be looked for.
    fn target(&self, timeline: &TimelineId, id: MessageId, sender: &str) -> anyhow::Result<Option<Target>> {
        let (Some(seq), Some(client_id)) = (self.position, &self.client_id) else { return Ok(None) };
        let TimelineId::Group(group) = timeline else { bail!("--position names a message of a group (--group)") };
        let message = MessageRef {
            id: id.to_string(),
            sender: sender.to_owned(),
            sender_device: self.sent_from.to_string(),
            client_id: client_id.to_string(),
            seq,
            expires_at_ms: 0,
        };
        Ok(Some(Target { to: Client::group(group.as_str()), message }))
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Reason {
    Spam,
    Abuse,
    Illegal,
    Other,
}

impl From<Reason> for ReportReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Spam => Self::Spam,
            Reason::Abuse => Self::Abuse,
            Reason::Illegal => Self::Illegal,
            Reason::Other => Self::Other,
        }
    }
}

/// A message that was found.
pub(super) struct FoundMessage {
    pub(super) target: Target,
    entry: Entry,
}

impl Message {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let user = self.actor.user()?.clone();
        let timeline = match &self.group {
            Some(group) => TimelineId::Group(group.clone()),
            None => TimelineId::Inbox(user.clone()),
        };
        let Self { actor, what, format, .. } = self;
        what.check(&timeline)?;
        let printer = Printer { reader: user.as_str(), format };
        actor.ask(config, "terminal-message", async |client| what.run(client, &timeline, &printer).await).await
    }
}

impl What {
    /// Checks what the options can't say of each other.
    fn check(&self, timeline: &TimelineId) -> Result<(), Failed> {
        match self {
            Self::List { with: Some(_), .. } if matches!(timeline, TimelineId::Group(_)) => {
                Err(Failed::arguments(EITHER))
            }
            Self::Pinned { with } | Self::Poll { with, .. } => conversation(timeline, with.as_ref()).map(drop),
            _ => Ok(()),
        }
    }

    async fn run(self, client: &Client, timeline: &TimelineId, printer: &Printer<'_>) -> anyhow::Result<()> {
        let done = |result: Result<Accepted, SendError>| printer.accepted(&result.map_err(not_done)?);
        match self {
            Self::List { with, limit, before } => {
                list(client, timeline, with.as_ref(), limit, before.unwrap_or(0), printer).await
            }
            Self::Show { message } => show(&find(client, timeline, message).await?.entry, timeline, printer),
            Self::Edit { message, text, mentioned, no_mentions } => {
                let FoundMessage { target, entry } = find_alive(client, timeline, message).await?;
                let before = entry.envelope.as_ref().and_then(|said| Client::content_now(said, entry.state.as_deref()));
                let kept = before.and_then(|content| content.mentions.clone()).filter(|_| !no_mentions);
                let content = Content { mentions: mentioned.mentions().or(kept), ..Client::text(&text) };
                done(client.edit(&target, content).await)
            }
            Self::Recall { message, erase, sent } => {
                let target = match sent.target(timeline, message, printer.reader)? {
                    Some(target) => target,
                    None => find_alive(client, timeline, message).await?.target,
                };
                done(client.recall(&target, erase).await)
            }
            Self::React { message, emojis } => {
                let target = find_alive(client, timeline, message).await?.target;
                let emojis: Vec<&str> = emojis.iter().map(String::as_str).collect();
                done(client.react(&target, &emojis).await)
            }
            Self::Forward { message, to } => {
                let entry = find(client, timeline, message).await?.entry;
                let said = entry.envelope.as_ref().and_then(|said| Client::forwarded(said, entry.state.as_deref()));
                let Some(content) = said else {
                    let why = "it says nothing of its own, is a poll, is gone or expires";
                    return Err(Failed::Impossible(format!("message {message} can't be forwarded: {why}")).into());
                };
                done(client.send(to.recipient()?, content).await)
            }
            Self::Pin { message } => done(client.pin(&find_alive(client, timeline, message).await?.target).await),
            Self::Unpin { message } => done(client.unpin(&find_alive(client, timeline, message).await?.target).await),
            Self::Pinned { with } => pinned(client, timeline, conversation(timeline, with.as_ref())?, printer).await,
            Self::Poll { question, options, with, multiple } => {
                let to = conversation(timeline, with.as_ref())?;
                done(client.send(to, Client::poll(Poll { question, options, multiple, until_ms: 0 })).await)
            }
            Self::Vote { message, options } => {
                let target = find_alive(client, timeline, message).await?.target;
                done(client.vote(&target, &options).await)
            }
            Self::Report { messages, reason, text, block } => {
                report(client, timeline, messages, reason.into(), &text, block).await
            }
            Self::History { message } => history(client, timeline, message, printer).await,
        }
    }
}

/// The complaint where both a user and a group are named, or neither.
const EITHER: &str = "name either a group (--group) or a user (--with)";

fn conversation(timeline: &TimelineId, with: Option<&UserId>) -> Result<Recipient, Failed> {
    match (timeline, with) {
        (TimelineId::Group(group), None) => Ok(Client::group(group.as_str())),
        (TimelineId::Inbox(_), Some(with)) => Ok(Client::user(with.as_str())),
        _ => Err(Failed::arguments(EITHER)),
    }
}

/// The last messages before this position (0: the newest), the oldest first. Edits, recalls, reactions, pins and votes are not among them, but in
/// the state of the messages that they are about.
async fn list(
    client: &Client,
    timeline: &TimelineId,
    with: Option<&UserId>,
    limit: u32,
    before: u64,
    printer: &Printer<'_>,
) -> anyhow::Result<()> {
    let (mut found, mut from_seq) = (VecDeque::new(), before.saturating_sub(1));
    for _ in 0..if before == 1 { 0 } else { PAGES } {
        let page = client.fetch(timeline, Direction::Backward, from_seq, PAGE).await.map_err(not_answered)?;
        let oldest = page.entries.iter().map(|entry| entry.seq).min();
        for entry in page.entries {
            let Some(envelope) = &entry.envelope else { continue };
            let is_wanted = with.is_none_or(|with| is_with(envelope, with, printer.reader));
            if is_wanted && !is_about_another(envelope) && found.len() < limit as usize {
                found.push_front(entry);
            }
        }
        from_seq = oldest.map_or(0, |oldest| oldest.saturating_sub(1));
        if page.complete || from_seq == 0 || found.len() >= limit as usize {
            break;
        }
    }
    for entry in found {
        if let Some(envelope) = &entry.envelope {
            printer.message_now(timeline, entry.seq, envelope, entry.state.as_deref())?;
        }
    }
    Ok(())
}

/// True for a message of the direct conversation of the two.
fn is_with(envelope: &Envelope, with: &UserId, reader: &str) -> bool {
    match envelope.to.as_ref().and_then(|to| to.to.as_ref()) {
        Some(To::User(to)) if envelope.sender == reader => to == with.as_str(),
        Some(To::User(_)) => envelope.sender == with.as_str(),
        Some(To::Group(_)) | None => false,
    }
}

fn is_about_another(envelope: &Envelope) -> bool {
    let body = envelope.content.as_ref().and_then(|content| content.body.as_ref());
    matches!(body, Some(Body::Edit(_) | Body::Recall(_) | Body::Reaction(_) | Body::Pin(_) | Body::Vote(_)))
}

/// Looks for the message among the last ones of the timeline.
pub(super) async fn find(client: &Client, timeline: &TimelineId, id: MessageId) -> anyhow::Result<FoundMessage> {
    let wanted = id.to_string();
    let mut from_seq = 0;
    for _ in 0..PAGES {
        let page = client.fetch(timeline, Direction::Backward, from_seq, PAGE).await.map_err(not_answered)?;
        let mut is_too_old = false;
        for entry in page.entries {
            let Some(envelope) = &entry.envelope else { continue };
            if envelope.id == wanted {
                let target = Target::of(timeline, entry.seq, envelope);
                let target = target.ok_or_else(|| Failed::Impossible(format!("{id} is not a message of a user")))?;
                return Ok(FoundMessage { target, entry });
            }
            is_too_old |= envelope.time_ms + CLOCKS_DIFFER_MS < id.time_ms();
            from_seq = entry.seq - 1;
        }
        if page.complete || is_too_old || from_seq == 0 {
            break;
        }
    }
    Err(Failed::Impossible(format!("message {id} is not among the last {} messages", PAGES * PAGE as usize)).into())
}

/// Looks for a message that is neither erased nor expired. It may have been recalled: its author can still recall it for good.
pub(super) async fn find_alive(client: &Client, timeline: &TimelineId, id: MessageId) -> anyhow::Result<FoundMessage> {
    let found = find(client, timeline, id).await?;
    if found.entry.envelope.as_ref().is_some_and(|envelope| envelope.erased && envelope.client_id.is_empty()) {
        return Err(Failed::Impossible(format!("message {id} is gone: it was erased or has expired")).into());
    }
    Ok(found)
}

fn show(entry: &Entry, timeline: &TimelineId, printer: &Printer<'_>) -> anyhow::Result<()> {
    let Some(envelope) = &entry.envelope else { bail!("the service sent no message") };
    let state = entry.state.as_deref();
    let is_recalled = state.is_some_and(|state| state.recall.is_some());
    if printer.format.json || is_recalled {
        return printer.message_now(timeline, entry.seq, envelope, state);
    }
    printer.message(timeline, entry.seq, envelope)?;
    let Some(MessageState { edit, edits, reactions, pinned, poll, .. }) = state else { return Ok(()) };
    if let Some(edit) = edit.as_ref().and_then(|edit| edit.content.as_ref()) {
        out::line(format_args!("edited {edits} times: {}", said(Some(edit))))?;
    }
    for reaction in reactions {
        out::line(format_args!("reaction {} of {}", printable(&reaction.emoji), reaction.users))?;
    }
    if *pinned {
        out::line("pinned")?;
    }
    if let Some(poll) = poll {
        let votes: Vec<_> = poll.votes.iter().map(u32::to_string).collect();
        out::line(format_args!("votes {} of {}", votes.join(", "), poll.voters))?;
    }
    Ok(())
}

async fn report(
    client: &Client,
    timeline: &TimelineId,
    messages: Vec<MessageId>,
    reason: ReportReason,
    text: &str,
    block: bool,
) -> anyhow::Result<()> {
    let (mut conversation, mut seqs, mut authors) = (None, Vec::new(), Vec::new());
    for message in messages {
        let FoundMessage { target, entry } = find(client, timeline, message).await?;
        if *conversation.get_or_insert(target.to.clone()) != target.to {
            return Err(Failed::arguments("the messages are not of one conversation").into());
        }
        seqs.push(entry.seq);
        let author = UserId::new(&target.message.sender)?;
        if !authors.contains(&author) {
            authors.push(author);
        }
    }
    let conversation = conversation.ok_or_else(|| anyhow!("no message is named"))?;
    let count = seqs.len();
    client.report(conversation, seqs, reason, text).await.map_err(not_answered)?;
    out::line(format_args!("reported {count} message{}", if count == 1 { "" } else { "s" }))?;
    for author in authors.iter().filter(|_| block) {
        client.block(author).await.map_err(not_answered)?;
        out::line(format_args!("{author} is blocked"))?;
    }
    Ok(())
}

async fn history(client: &Client, timeline: &TimelineId, id: MessageId, printer: &Printer<'_>) -> anyhow::Result<()> {
    let seq = find(client, timeline, id).await?.entry.seq;
    let mut from_seq = 0;
    loop {
        let page = client.edits(timeline, seq, from_seq).await.map_err(not_answered)?;
        for entry in &page.entries {
            if let Some(envelope) = &entry.envelope {
                printer.message(timeline, entry.seq, envelope)?;
            }
            from_seq = entry.seq + 1;
        }
        if page.complete || page.entries.is_empty() {
            return Ok(());
        }
    }
}

async fn pinned(client: &Client, timeline: &TimelineId, with: Recipient, printer: &Printer<'_>) -> anyhow::Result<()> {
    let mut from_seq = 0;
    loop {
        let page = client.pinned(timeline, with.clone(), from_seq).await.map_err(not_answered)?;
        for entry in &page.entries {
            if let Some(envelope) = &entry.envelope {
                printer.message_now(timeline, entry.seq, envelope, entry.state.as_deref())?;
            }
            from_seq = entry.seq + 1;
        }
        if page.complete || page.entries.is_empty() {
            return Ok(());
        }
    }
}
