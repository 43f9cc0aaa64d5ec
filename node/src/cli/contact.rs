//! Contacts and presence, as one of their users.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::anyhow;
use carillon_client::{Client, ContactChange, Event, Events, State};
use carillon_proto::{
    UserId,
    pb::client::{self, ContactSettings, Presence},
    tasks::Tasks,
};
use clap::{Args, Subcommand, ValueEnum};
use tokio::time::timeout;

use super::{
    chat::printable,
    connect::{Actor, SIGN_IN, reads_nothing},
    out,
    refused::{Failed, not_answered},
    table::{Table, time},
};
use crate::{Config, shutdown::Signals};

/// How long a list waits for what contacts show.
const TOLD_WITHIN: Duration = Duration::from_secs(3);

#[derive(Args)]
pub(super) struct Contact {
    #[command(flatten)]
    actor: Actor,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Lists the contacts, what they show or when they were last there, and who asks.
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Puts a contact on the list, and asks to see its presence.
    Add {
        contact: UserId,
        #[command(flatten)]
        settings: Settings,
        /// For the contact to read.
        #[arg(long, default_value = "")]
        text: String,
    },
    /// Changes the name or the labels of a contact, for this user alone. Settings that are not given stay as they are.
    Set {
        contact: UserId,
        #[command(flatten)]
        settings: Settings,
    },
    /// Lets a contact see the user's presence: accepts its request, or the one to come.
    Accept { contact: UserId },
    /// Refuses a request, or lets the contact see the user's presence no longer.
    Refuse { contact: UserId },
    /// Wants to see the contact's presence no longer.
    Unsubscribe { contact: UserId },
    /// Takes a contact off the list; neither sees the other's presence then.
    Remove { contact: UserId },
}

#[derive(Args)]
struct Settings {
    /// The user's own name of the contact, at most 256 bytes; empty: none.
    #[arg(long)]
    name: Option<String>,
    /// A word under which the user sorts contacts, for example family; may be repeated. Replaces the labels of before.
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// Takes all labels away.
    #[arg(long, conflicts_with = "labels")]
    no_label: bool,
}

impl Settings {
    fn is_empty(&self) -> bool {
        self.name.is_none() && self.labels.is_empty() && !self.no_label
    }

    /// With what the list has of this contact.
    async fn complete(self, client: &Client, contact: &UserId) -> anyhow::Result<ContactSettings> {
        let known = client.contacts().await.map_err(not_answered)?;
        let known = known.into_iter().find(|known| known.user == contact.as_str()).unwrap_or_default();
        let labels = if self.labels.is_empty() && !self.no_label { known.labels } else { self.labels };
        Ok(ContactSettings { name: self.name.unwrap_or(known.name), labels })
    }
}

/// Shows something until it is interrupted, and prints what the contacts show.
#[derive(Args)]
pub(super) struct PresenceCommand {
    #[command(flatten)]
    actor: Actor,
    /// One JSON object a line, for programs.
    #[arg(long)]
    json: bool,
    #[arg(long, default_value = "online")]
    show: ShowName,
    /// For the contacts to read.
    #[arg(long, default_value = "")]
    status: String,
    /// Of several devices the one with the highest priority counts.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
}

#[derive(Clone, Copy, ValueEnum)]
enum ShowName {
    Online,
    Away,
    DoNotDisturb,
    ExtendedAway,
}

impl Contact {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let Self { actor, what } = self;
        if matches!(&what, What::Set { settings, .. } if settings.is_empty()) {
            let why = "nothing is given that is to be changed: --name, --label or --no-label";
            return Err(Failed::arguments(why).into());
        }
        actor.ask_and_hear(config, "terminal-contact", async |client, events| what.run(client, events).await).await
    }
}

impl What {
    async fn run(self, client: &Client, events: &mut Events) -> anyhow::Result<()> {
        match self {
            Self::List { json } => list(client, events, json).await,
            Self::Add { contact, settings, text } => {
                if !settings.is_empty() {
                    let settings = settings.complete(client, &contact).await?;
                    client.change_contact(&contact, ContactChange::Set(settings)).await.map_err(not_answered)?;
                }
                change(client, &contact, ContactChange::Subscribe(text), "was asked").await
            }
            Self::Set { contact, settings } => {
                let settings = settings.complete(client, &contact).await?;
                change(client, &contact, ContactChange::Set(settings), "was changed").await
            }
            Self::Accept { contact } => change(client, &contact, ContactChange::Accept, "was accepted").await,
            Self::Refuse { contact } => change(client, &contact, ContactChange::Refuse, "was refused").await,
            Self::Unsubscribe { contact } => {
                change(client, &contact, ContactChange::Unsubscribe, "is not seen any more").await
            }
            Self::Remove { contact } => change(client, &contact, ContactChange::Remove, "was removed").await,
        }
    }
}

async fn change(client: &Client, contact: &UserId, change: ContactChange, done: &str) -> anyhow::Result<()> {
    client.change_contact(contact, change).await.map_err(not_answered)?;
    out::line(format_args!("contact {contact} {done}"))
}

async fn list(client: &Client, events: &mut Events, json: bool) -> anyhow::Result<()> {
    let contacts = client.contacts().await.map_err(not_answered)?;
    let seen = contacts.iter().filter(|contact| contact.to).map(|contact| contact.user.clone()).collect();
    let presences = presences(client, events, seen).await?;
    let mut table = Table::new(json, &["CONTACT", "NAME", "SUBSCRIPTION", "PRESENCE", "LABELS"]);
    for contact in contacts {
        let subscription = subscription(&contact);
        let labels = contact.labels.join(", ");
        let presence = presences.get(&contact.user);
        let shown = presence.map_or_else(|| "-".to_owned(), shown);
        let name = printable(&contact.name);
        let columns = [contact.user.clone(), name, subscription.clone(), shown, printable(&labels)];
        let object = serde_json::json!({
            "contact": contact.user,
            "name": contact.name,
            "subscription": subscription,
            "presence": presence.map(|presence| show_name(presence.show())),
            "status": presence.map(|presence| &presence.status),
            "last_seen": presence.and_then(last_seen),
            "labels": contact.labels,
            "listed": contact.listed,
            "text": contact.text,
        });
        table.row(&columns, &object)?;
    }
    table.end()
}

/// What these contacts show, as far as it is told in time.
async fn presences(
    client: &Client,
    events: &mut Events,
    mut asked: BTreeSet<String>,
) -> anyhow::Result<BTreeMap<String, Presence>> {
    let mut told = BTreeMap::new();
    if asked.is_empty() {
        return Ok(told);
    }
    client.hear_presence().await.map_err(not_answered)?;
    let hearing = async {
        while !asked.is_empty() {
            match events.next().await {
                Some(Event::Presence(presence)) => {
                    asked.remove(&presence.user);
                    told.insert(presence.user.clone(), presence);
                }
                Some(_) => {}
                None => return,
            }
        }
    };
    // Without an answer nothing is said of the contact.
    let _ = timeout(TOLD_WITHIN, hearing).await;
    Ok(told)
}

/// In the words of RFC 6121.
fn subscription(contact: &client::Contact) -> String {
    let subscription = match (contact.to, contact.from) {
        (false, false) => "none",
        (true, false) => "to",
        (false, true) => "from",
        (true, true) => "both",
    };
    let more = [(contact.asked, ", asked"), (contact.asks, ", asks"), (contact.approved, ", approved")];
    let more: String = more.into_iter().filter(|(is_so, _)| *is_so).map(|(_, what)| what).collect();
    format!("{subscription}{more}")
}

impl PresenceCommand {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let mut signals = Signals::install()?;
        let settings = reads_nothing(self.actor.settings(config, "terminal-presence")?);
        let tasks = Tasks::new();
        let (client, mut events) = Client::open(settings, &tasks)?;
        let showing = async {
            client.connected(SIGN_IN).await.map_err(|why| Failed::ended(&client, why))?;
            client.show(self.show.into(), &self.status, self.priority).await.map_err(not_answered)?;
            std::future::pending().await
        };
        let ended = tokio::select! {
            ended = print_presences(&client, &mut events, self.json) => Err(ended),
            failed = showing => failed,
            _ = signals.next() => Ok(()),
        };
        client.close().await;
        ended
    }
}

/// Returns the reason when there are no more events.
async fn print_presences(client: &Client, events: &mut Events, json: bool) -> anyhow::Error {
    while let Some(event) = events.next().await {
        match event {
            Event::Presence(presence) => {
                let printed = match json {
                    true => out::line(presence_object(&presence)),
                    false => out::line(presence_line(&presence)),
                };
                if let Err(error) = printed {
                    return error;
                }
            }
            Event::State(State::Disconnected { why }) => {
                out::tell(format_args!("(not connected: {why}; trying again)"));
            }
            Event::State(State::Ended { why, .. }) => return Failed::ended(client, why).into(),
            _ => {}
        }
    }
    anyhow!("the client has ended")
}

fn presence_object(presence: &Presence) -> serde_json::Value {
    serde_json::json!({
        "user": presence.user,
        "presence": show_name(presence.show()),
        "status": presence.status,
        "last_seen": last_seen(presence),
    })
}

fn presence_line(presence: &Presence) -> String {
    let show = shown(presence);
    match printable(&presence.status) {
        status if status.is_empty() => format!("{} {show}", presence.user),
        status => format!("{} {show}: {status}", presence.user),
    }
}

fn shown(presence: &Presence) -> String {
    match last_seen(presence) {
        Some(time) => format!("last seen {time}"),
        None => show_name(presence.show()).to_owned(),
    }
}

fn show_name(show: client::Show) -> &'static str {
    match show {
        client::Show::Unspecified => "offline",
        client::Show::Online => "online",
        client::Show::Away => "away",
        client::Show::DoNotDisturb => "do not disturb",
        client::Show::ExtendedAway => "away for longer",
    }
}

/// Of a contact that is offline, if it is known.
fn last_seen(presence: &Presence) -> Option<String> {
    let is_known = presence.show() == client::Show::Unspecified && presence.last_seen_ms != 0;
    is_known.then(|| time(presence.last_seen_ms))
}

impl From<ShowName> for client::Show {
    fn from(show: ShowName) -> Self {
        match show {
            ShowName::Online => Self::Online,
            ShowName::Away => Self::Away,
            ShowName::DoNotDisturb => Self::DoNotDisturb,
            ShowName::ExtendedAway => Self::ExtendedAway,
        }
    }
}
