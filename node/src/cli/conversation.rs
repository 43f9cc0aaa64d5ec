//! Conversations, as one of their users.

use std::time::Duration;

use carillon_client::{Client, ConversationList};
use carillon_proto::{
    GroupId, Position, UserId, date, now_ms,
    pb::client::{
        Conversation, ConversationSettings, MessageRequest, Notify, ReadMembers, Recipient, RequestAnswer,
        recipient::To,
    },
};
use clap::{Args, Subcommand, ValueEnum};

use super::{
    chat::printable,
    connect::Actor,
    credential::duration_or_none,
    out,
    refused::{Failed, not_answered},
    table::Table,
};
use crate::Config;

/// Most marks that one request moves or reads.
const MARKS: usize = 256;

#[derive(Args)]
pub(super) struct ConversationCommand {
    #[command(flatten)]
    actor: Actor,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Lists all conversations but requests, and how much is unread in each.
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Lists the conversations that strangers have begun, and that are neither accepted nor declined.
    Requests {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Accepts what a user has begun: it is a conversation like others then. Accepts also what was declined.
    Accept { with: UserId },
    /// Declines what a user has begun: it is not listed, and further messages of the user do not come. The user is not told.
    Decline { with: UserId },
    /// Marks conversations as read, up to their last message.
    Read {
        /// All of them.
        #[arg(long, conflicts_with_all = ["with", "groups"])]
        all: bool,
        #[command(flatten)]
        with: With,
    },
    /// Changes what the user wants of a conversation.
    Set {
        #[command(flatten)]
        with: With,
        #[command(flatten)]
        settings: Settings,
    },
    /// Shows how far users have read, and their devices have received.
    Marks {
        /// In this group, instead of the conversation with each of them. Without users: all of its members.
        #[arg(long)]
        group: Option<GroupId>,
        #[arg(required_unless_present = "group")]
        users: Vec<UserId>,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct With {
    /// Those with these users.
    with: Vec<UserId>,
    /// That in this group; may be repeated.
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<GroupId>,
}

#[derive(Args)]
#[group(required = true, multiple = true)]
struct Settings {
    #[arg(long, value_name = "true|false")]
    pinned: Option<bool>,
    #[arg(long, value_name = "true|false")]
    archived: Option<bool>,
    /// No notification for so long, for example 30m, 8h or 7d, or `always`; 0: not muted.
    #[arg(long, value_name = "TIME", value_parser = parse_mute)]
    mute: Option<Duration>,
    /// The same until a time in milliseconds since 1970; 0: not muted.
    #[arg(long, value_name = "MILLISECONDS", conflicts_with = "mute")]
    muted_until_ms: Option<u64>,
    #[arg(long)]
    notify: Option<NotifyName>,
    /// At most 4,096 bytes; empty: none.
    #[arg(long, value_name = "TEXT")]
    draft: Option<String>,
    /// Shown as unread until it is read again.
    #[arg(long, value_name = "true|false")]
    unread: Option<bool>,
}

#[derive(Clone, Copy, ValueEnum)]
enum NotifyName {
    Default,
    All,
    Mentions,
    Nothing,
}

impl ConversationCommand {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let Self { actor, what } = self;
        what.check()?;
        actor.ask(config, "terminal-conversation", async |client| what.run(client).await).await
    }
}

impl What {
    /// Checks what the options can't say of each other.
    fn check(&self) -> Result<(), Failed> {
        match self {
            Self::Read { all: false, with } if with.count() == 0 => {
                Err(Failed::arguments("name users, or groups by --group, or --all"))
            }
            Self::Set { with, .. } if with.count() != 1 => {
                Err(Failed::arguments("settings are those of one conversation: name one user or one --group"))
            }
            _ => Ok(()),
        }
    }

    async fn run(self, client: &Client) -> anyhow::Result<()> {
        match self {
            Self::List { json } => {
                let mut all = client.read_conversations(None).await.map_err(not_answered)?.conversations;
                all.retain(|conversation| conversation.request() == MessageRequest::Unspecified);
                list(all, json)
            }
            Self::Requests { json } => list(client.message_requests().await.map_err(not_answered)?, json),
            Self::Accept { with } => answer(client, &with, RequestAnswer::Accept).await,
            Self::Decline { with } => answer(client, &with, RequestAnswer::Decline).await,
            Self::Read { all, with } => read(client, all, with).await,
            Self::Set { with, settings } => {
                let settings = ConversationSettings::from(settings);
                for with in with.into_recipients() {
                    for conversation in client.set_conversation(with, settings.clone()).await.map_err(not_answered)? {
                        out::line(format_args!("the conversation {} was changed", name(&conversation)))?;
                    }
                }
                Ok(())
            }
            Self::Marks { group, users, json } => marks(client, group.as_ref(), &users, json).await,
        }
    }
}

async fn answer(client: &Client, with: &UserId, answer: RequestAnswer) -> anyhow::Result<()> {
    let found = client.answer_request(with, answer).await.map_err(not_answered)?;
    match found.map(|conversation| conversation.request()) {
        Some(MessageRequest::Declined) => out::line(format_args!("what {with} has begun is declined")),
        Some(_) if answer == RequestAnswer::Decline => {
            Err(Failed::Impossible(format!("the conversation with {with} is no request")).into())
        }
        Some(_) => out::line(format_args!("the conversation with {with} is accepted")),
        None => Err(Failed::Impossible(format!("there is no conversation with {with}")).into()),
    }
}

fn list(conversations: Vec<Conversation>, json: bool) -> anyhow::Result<()> {
    let mut table = Table::new(json, &["CONVERSATION", "UNREAD", "MENTIONS", "READ UP TO", "SETTINGS"]);
    for conversation in conversations {
        let settings = conversation.settings.clone().unwrap_or_default();
        let read = conversation.read.map_or(0, |read| read.seq);
        let columns = [
            name(&conversation),
            conversation.unread.to_string(),
            conversation.mentions.to_string(),
            if read == 0 { String::new() } else { read.to_string() },
            told(&settings),
        ];
        let object = serde_json::json!({
            "conversation": name(&conversation),
            "unread": conversation.unread,
            "mentions": conversation.mentions,
            "last_seq": conversation.last_seq,
            "read_seq": read,
            "pinned": settings.pinned(),
            "archived": settings.archived(),
            "muted_until_ms": settings.muted_until_ms(),
            "notify": notify(settings.notify()),
            "draft": settings.draft(),
            "marked_unread": settings.unread(),
            "request": conversation.request() == MessageRequest::Open,
        });
        table.row(&columns, &object)?;
    }
    table.end()
}

async fn read(client: &Client, all: bool, with: With) -> anyhow::Result<()> {
    let list = client.read_conversations(None).await.map_err(not_answered)?;
    let wanted = with.into_recipients();
    let mut marks = Vec::new();
    for conversation in &list.conversations {
        let Some(with) = conversation.with.clone() else { continue };
        // Requests are read one by one.
        let has_unread = conversation.request() == MessageRequest::Unspecified && conversation.unread > 0
            || conversation.settings.as_ref().is_some_and(|set| set.unread());
        if if all { has_unread } else { wanted.contains(&with) } {
            marks.push((with, last(client, &list, conversation).await?));
        }
    }
    if let Some(missing) = wanted.iter().find(|wanted| !marks.iter().any(|(with, _)| with == *wanted)) {
        return Err(Failed::Impossible(format!("there is no conversation {}", named(Some(missing)))).into());
    }
    for marks in marks.chunks(MARKS) {
        for conversation in client.move_marks(marks.to_vec()).await.map_err(not_answered)? {
            out::line(format_args!("{}: {} unread", name(&conversation), conversation.unread))?;
        }
    }
    Ok(())
}

/// The position of the last message.
async fn last(client: &Client, list: &ConversationList, conversation: &Conversation) -> anyhow::Result<Position> {
    let (epoch, seq) = match conversation.with.as_ref().and_then(|with| with.to.as_ref()) {
        Some(To::Group(group)) => {
            let group = client.read_group(&GroupId::new(group)?).await.map_err(not_answered)?;
            (group.epoch, group.last)
        }
        Some(To::User(_)) | None => (list.version.epoch, conversation.last_seq),
    };
    Ok(Position { epoch: carillon_proto::Epoch(epoch), seq })
}

async fn marks(client: &Client, group: Option<&GroupId>, users: &[UserId], json: bool) -> anyhow::Result<()> {
    let mut table = Table::new(json, &["USER", "READ UP TO", "DELIVERED UP TO"]);
    let mut users: Vec<String> = users.iter().map(|user| user.as_str().to_owned()).collect();
    if let Some(group) = group.filter(|_| users.is_empty()) {
        users = members(client, group).await?;
    }
    let mut marks = Vec::with_capacity(users.len());
    for users in users.chunks(MARKS) {
        marks.extend(client.read_marks(group, users.to_vec()).await.map_err(not_answered)?);
    }
    for mark in marks {
        let place = |id: &str, position: Option<carillon_proto::pb::client::Position>| match position {
            Some(position) => position.seq.to_string(),
            None => id.to_owned(),
        };
        let (read, delivered) = (place(&mark.read_id, mark.read), place(&mark.delivered_id, mark.delivered));
        let object = serde_json::json!({ "user": mark.user, "read": read, "delivered": delivered });
        table.row(&[mark.user, read, delivered], &object)?;
    }
    table.end()
}

/// The names of all members of a group.
async fn members(client: &Client, group: &GroupId) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::<String>::new();
    loop {
        let after_user = names.last().cloned().unwrap_or_default();
        let read = ReadMembers { group: group.to_string(), after_user, ..ReadMembers::default() };
        let page = client.read_members(read).await.map_err(not_answered)?;
        let is_last = page.complete || page.members.is_empty();
        names.extend(page.members.into_iter().map(|member| member.user));
        if is_last {
            return Ok(names);
        }
    }
}

fn name(conversation: &Conversation) -> String {
    named(conversation.with.as_ref())
}

fn named(with: Option<&Recipient>) -> String {
    match with.and_then(|with| with.to.as_ref()) {
        Some(To::User(user)) => format!("with {user}"),
        Some(To::Group(group)) => format!("in {group}"),
        None => String::new(),
    }
}

fn told(settings: &ConversationSettings) -> String {
    let mut told = Vec::new();
    for (set, name) in [(settings.pinned(), "pinned"), (settings.archived(), "archived"), (settings.unread(), "unread")]
    {
        if set {
            told.push(name.to_owned());
        }
    }
    if settings.muted_until_ms() != 0 {
        told.push(format!("muted {}", date::until(settings.muted_until_ms())));
    }
    if settings.notify() != Notify::Unspecified {
        told.push(format!("notify {}", notify(settings.notify())));
    }
    if !settings.draft().is_empty() {
        told.push(format!("draft: {}", printable(settings.draft())));
    }
    told.join(", ")
}

fn notify(notify: Notify) -> &'static str {
    match notify {
        Notify::Unspecified => "default",
        Notify::All => "all",
        Notify::Mentions => "mentions",
        Notify::Nothing => "nothing",
    }
}

impl With {
    fn count(&self) -> usize {
        self.with.len() + self.groups.len()
    }

    fn into_recipients(self) -> Vec<Recipient> {
        let users = self.with.iter().map(|user| Client::user(user.as_str()));
        users.chain(self.groups.iter().map(|group| Client::group(group.as_str()))).collect()
    }
}

/// As long as times can be told: for ever.
fn parse_mute(text: &str) -> Result<Duration, String> {
    if text == "always" { Ok(Duration::MAX) } else { duration_or_none(text).map_err(|why| format!("{why}, or always")) }
}

fn muted_until(time: Duration) -> u64 {
    match time.is_zero() {
        true => 0,
        false => now_ms().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
    }
}

impl From<Settings> for ConversationSettings {
    fn from(given: Settings) -> Self {
        let Settings { pinned, archived, mute, muted_until_ms, notify, draft, unread } = given;
        let muted_until_ms = mute.map(muted_until).or(muted_until_ms);
        let notify = notify.map(|notify| match notify {
            NotifyName::Default => Notify::Unspecified.into(),
            NotifyName::All => Notify::All.into(),
            NotifyName::Mentions => Notify::Mentions.into(),
            NotifyName::Nothing => Notify::Nothing.into(),
        });
        Self { pinned, archived, muted_until_ms, notify, draft, unread }
    }
}
