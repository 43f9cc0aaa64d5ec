//! Messages that are to be sent later, as their user.

use std::time::Duration;

use carillon_client::{Client, ScheduledChange};
use carillon_proto::{
    UserId, now_ms,
    pb::client::{Recipient, recipient::To, scheduled_message::State},
};
use clap::{Args, Subcommand};

use super::{
    chat::printable,
    connect::Actor,
    credential::parse_seconds,
    date, out,
    refused::{Failed, not_answered},
    said::said,
    saying::{Saying, Whom},
    table::{Table, time},
};
use crate::Config;

#[derive(Args)]
pub(super) struct Scheduled {
    #[command(flatten)]
    actor: Actor,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Lists messages that are to be sent, and those that could not be sent.
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Has a message sent later, and prints the id by which it can be changed.
    Add {
        #[command(flatten)]
        to: Whom,
        #[command(flatten)]
        saying: Saying,
        #[command(flatten)]
        when: When,
        /// Prints a JSON object, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Changes what a message says, or when it is sent.
    Set {
        id: u64,
        #[arg(long)]
        text: Option<String>,
        #[command(flatten)]
        when: When,
    },
    /// Takes a message back.
    Cancel { id: u64 },
    /// Sends a message at once.
    Send { id: u64 },
}

#[derive(Args)]
#[group(multiple = false)]
struct When {
    /// For example 2026-12-24T18:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<u64>,
    /// After so many seconds, or a time like 15m, 24h or 7d.
    #[arg(long = "in", value_name = "TIME", value_parser = parse_seconds)]
    after: Option<Duration>,
}

impl When {
    fn at_ms(&self) -> Option<u64> {
        let after_ms = |after: Duration| u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.at.or(self.after.map(|after| now_ms().saturating_add(after_ms(after))))
    }
}

fn parse_time(text: &str) -> Result<u64, String> {
    date::parse(text).ok_or_else(|| format!("{text:?} is no time such as 2026-12-24T18:00:00Z"))
}

impl Scheduled {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let Self { actor, what } = self;
        what.check()?;
        let user = actor.user()?.clone();
        actor.ask(config, "terminal-scheduled", async |client| what.run(client, &user).await).await
    }
}

impl What {
    /// Checks what the options can't say of each other.
    fn check(&self) -> Result<(), Failed> {
        match self {
            Self::Add { when, .. } if when.at_ms().is_none() => {
                Err(Failed::arguments("when it is to be sent must be given by --at or --in"))
            }
            Self::Set { text: None, when, .. } if when.at_ms().is_none() => {
                Err(Failed::arguments("nothing is given that is to be changed: --text, --at or --in"))
            }
            _ => Ok(()),
        }
    }

    async fn run(self, client: &Client, user: &UserId) -> anyhow::Result<()> {
        match self {
            Self::List { json } => list(client, json).await,
            Self::Add { to, saying, when, json } => {
                let at_ms = when.at_ms().unwrap_or_default();
                let content = saying.content(client, &to.timeline(user), json).await?;
                let id = client
                    .schedule_expiring(to.recipient()?, content, at_ms, saying.expires())
                    .await
                    .map_err(not_answered)?;
                match json {
                    true => out::line(serde_json::json!({ "id": id, "at_ms": at_ms })),
                    false => out::line(format_args!("scheduled message {id} for {}", time(at_ms))),
                }
            }
            Self::Set { id, text, when } => {
                let change = ScheduledChange::Set { content: text.as_deref().map(Client::text), at_ms: when.at_ms() };
                changed(client, id, change, "was changed").await
            }
            Self::Cancel { id } => changed(client, id, ScheduledChange::Cancel, "was cancelled").await,
            Self::Send { id } => changed(client, id, ScheduledChange::SendNow, "is being sent").await,
        }
    }
}

async fn changed(client: &Client, id: u64, change: ScheduledChange, done: &str) -> anyhow::Result<()> {
    client.change_scheduled(id, change).await.map_err(not_answered)?;
    out::line(format_args!("scheduled message {id} {done}"))
}

async fn list(client: &Client, json: bool) -> anyhow::Result<()> {
    let mut table = Table::new(json, &["ID", "TO", "AT", "STATE", "TEXT"]);
    for message in client.scheduled().await.map_err(not_answered)?.messages {
        let state = match message.state() {
            State::Failed => format!("failed: {}", printable(&message.why)),
            State::Sending => "being sent".to_owned(),
            State::Waiting | State::Unspecified => "waiting".to_owned(),
        };
        let (to, text) = (named(message.to.as_ref()), said(message.content.as_ref()));
        let columns = [message.id.to_string(), to.clone(), time(message.at_ms), state, printable(&text)];
        let object = serde_json::json!({
            "id": message.id,
            "to": to,
            "at_ms": message.at_ms,
            "state": message.state().as_str_name(),
            "why": message.why,
            "client_id": message.client_id,
            "expires_after_ms": message.expires_after_ms,
            "text": text,
        });
        table.row(&columns, &object)?;
    }
    table.end()
}

fn named(to: Option<&Recipient>) -> String {
    match to.and_then(|to| to.to.as_ref()) {
        Some(To::User(user)) => user.clone(),
        Some(To::Group(group)) => format!("group {group}"),
        None => String::new(),
    }
}
