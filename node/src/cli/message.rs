//! Edits, recalls, reactions, pins, polls: messages about messages.

use anyhow::{anyhow, bail};
use carillon_client::{Client, SendError, Target};
use carillon_proto::{
    GroupId, MessageId, TimelineId, UserId,
    pb::client::{Accepted, Direction, Entry, Envelope, MessageState, Poll, Recipient, ReportReason},
};
use clap::{Args, Subcommand, ValueEnum};

use super::{
    chat::{accepted, line, printable},
    connect::{Connect, not_answered},
    group::refused,
    out,
    said::said,
    saying::Whom,
};
use crate::Config;

/// Messages of a page, and most pages in which a message is looked for.
const PAGE: u32 = 100;
const PAGES: usize = 100;
/// Clocks of gateways differ by less: an older message than this before the wanted one ends the search.
const CLOCKS_DIFFER_MS: u64 = 3_600_000;

#[derive(Args)]
pub(super) struct Message {
    /// Who does it.
    #[arg(long = "as", value_name = "USER")]
    user: UserId,
    /// The group of the message; otherwise it is in the user's inbox.
    #[arg(long)]
    group: Option<GroupId>,
    /// Names this device among the user's.
    #[arg(long, default_value = "terminal-message")]
    device: String,
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    what: What,
}

/// Messages are named by the ids that the service gave them.
#[derive(Subcommand)]
enum What {
    /// Shows a message as it is now.
    Show { message: MessageId },
    /// Says an own message otherwise.
    Edit { message: MessageId, text: String },
    /// Takes a message back: an own one, or in a group, as an admin, one of a member of a lower role.
    Recall {
        message: MessageId,
        /// Also removes what it said from the service, for good.
        #[arg(long)]
        erase: bool,
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
        let timeline = match &self.group {
            Some(group) => TimelineId::Group(group.clone()),
            None => TimelineId::Inbox(self.user.clone()),
        };
        let Self { user, device, connect, what, .. } = self;
        connect.ask(config, &user, &device, async |client| what.run(client, &timeline, user.as_str()).await).await
    }
}

impl What {
    async fn run(self, client: &Client, timeline: &TimelineId, user: &str) -> anyhow::Result<()> {
        match self {
            Self::Show { message } => show(&find(client, timeline, message).await?.entry, user),
            Self::Edit { message, text } => {
                let target = find_alive(client, timeline, message).await?;
                done(client.edit(&target, Client::text(&text)).await)
            }
            Self::Recall { message, erase } => {
                let target = find_alive(client, timeline, message).await?;
                done(client.recall(&target, erase).await)
            }
            Self::React { message, emojis } => {
                let target = find_alive(client, timeline, message).await?;
                let emojis: Vec<&str> = emojis.iter().map(String::as_str).collect();
                done(client.react(&target, &emojis).await)
            }
            Self::Forward { message, to } => {
                let entry = find(client, timeline, message).await?.entry;
                let said = entry.envelope.as_ref().and_then(|said| Client::forwarded(said, entry.state.as_deref()));
                let Some(content) = said else {
                    bail!(
                        "message {message} can't be forwarded: it says nothing of its own, is a poll, is gone or expires"
                    );
                };
                done(client.send(to.recipient()?, content).await)
            }
            Self::Pin { message } => done(client.pin(&find_alive(client, timeline, message).await?).await),
            Self::Unpin { message } => done(client.unpin(&find_alive(client, timeline, message).await?).await),
            Self::Pinned { with } => pinned(client, timeline, conversation(timeline, with.as_ref())?, user).await,
            Self::Poll { question, options, with, multiple } => {
                let to = conversation(timeline, with.as_ref())?;
                done(client.send(to, Client::poll(Poll { question, options, multiple, until_ms: 0 })).await)
            }
            Self::Vote { message, options } => {
                let target = find_alive(client, timeline, message).await?;
                done(client.vote(&target, &options).await)
            }
            Self::Report { messages, reason, text, block } => {
                report(client, timeline, messages, reason.into(), &text, block).await
            }
            Self::History { message } => history(client, timeline, message, user).await,
        }
    }
}

fn conversation(timeline: &TimelineId, with: Option<&UserId>) -> anyhow::Result<Recipient> {
    match (timeline, with) {
        (TimelineId::Group(group), None) => Ok(Client::group(group.as_str())),
        (TimelineId::Inbox(_), Some(with)) => Ok(Client::user(with.as_str())),
        _ => bail!("name either a group (--group) or a user (--with)"),
    }
}

fn done(result: Result<Accepted, SendError>) -> anyhow::Result<()> {
    out::line(accepted(&result.map_err(refused)?))
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
                let target = target.ok_or_else(|| anyhow!("{id} is not a message of a user"))?;
                return Ok(FoundMessage { target, entry });
            }
            is_too_old |= envelope.time_ms + CLOCKS_DIFFER_MS < id.time_ms();
            from_seq = entry.seq - 1;
        }
        if page.complete || is_too_old || from_seq == 0 {
            break;
        }
    }
    bail!("message {id} is not among the last {} messages", PAGES * PAGE as usize)
}

/// Looks for a message that is neither erased nor expired. It may have been recalled: its author can still recall it for good.
pub(super) async fn find_alive(client: &Client, timeline: &TimelineId, id: MessageId) -> anyhow::Result<Target> {
    let FoundMessage { target, entry } = find(client, timeline, id).await?;
    if entry.envelope.is_some_and(|envelope| envelope.erased && envelope.client_id.is_empty()) {
        bail!("message {id} is gone: it was erased or has expired");
    }
    Ok(target)
}

fn show(entry: &Entry, user: &str) -> anyhow::Result<()> {
    let Some(envelope) = &entry.envelope else { bail!("the service sent no message") };
    if let Some(recall) = entry.state.as_ref().and_then(|state| state.recall.as_ref()) {
        // Nobody is shown what was taken back.
        let shown = Envelope { content: None, ..envelope.clone() };
        return out::line(format_args!("{} recalled by {}", line(&shown, user), printable(&recall.sender)));
    }
    out::line(line(envelope, user))?;
    let Some(MessageState { edit, edits, reactions, pinned, poll, .. }) = entry.state.as_deref() else {
        return Ok(());
    };
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
            bail!("the messages are not of one conversation");
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

async fn history(client: &Client, timeline: &TimelineId, id: MessageId, user: &str) -> anyhow::Result<()> {
    let seq = find(client, timeline, id).await?.entry.seq;
    let mut from_seq = 0;
    loop {
        let page = client.edits(timeline, seq, from_seq).await.map_err(not_answered)?;
        for entry in &page.entries {
            if let Some(envelope) = &entry.envelope {
                out::line(line(envelope, user))?;
            }
            from_seq = entry.seq + 1;
        }
        if page.complete || page.entries.is_empty() {
            return Ok(());
        }
    }
}

async fn pinned(client: &Client, timeline: &TimelineId, with: Recipient, user: &str) -> anyhow::Result<()> {
    let mut from_seq = 0;
    loop {
        let page = client.pinned(timeline, with.clone(), from_seq).await.map_err(not_answered)?;
        for entry in &page.entries {
            if let Some(envelope) = &entry.envelope {
                out::line(line(envelope, user))?;
            }
            from_seq = entry.seq + 1;
        }
        if page.complete || page.entries.is_empty() {
            return Ok(());
        }
    }
}
