//! Privacy settings and blocked users, as one of the users.

use carillon_client::Client;
use carillon_proto::{
    UserId,
    pb::client::{Audience, Privacy, SetPrivacy},
};
use clap::{Args, Subcommand, ValueEnum};

use super::{connect::Actor, out, refused::not_answered};
use crate::Config;

#[derive(Args)]
pub(super) struct PrivacyCommand {
    #[command(flatten)]
    actor: Actor,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Prints the settings, and who is blocked.
    Show {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Changes settings; those that are not named stay as they are.
    Set(Set),
    /// Blocks a user: what it sends is accepted as before and never delivered. It is not told.
    Block { blocked: UserId },
    /// Ends that a user is blocked. What was withheld meanwhile does not come any more.
    Unblock { blocked: UserId },
}

#[derive(Args)]
#[group(required = true, multiple = true)]
struct Set {
    /// Who may write to the user; with `contacts` also those to whom the user has written; with `requests` what others write is a request.
    #[arg(long)]
    write: Option<Who>,
    /// Who may add the user to groups, and whose invitations reach the user.
    #[arg(long)]
    groups: Option<Who>,
    /// Who may know how far the user has read.
    #[arg(long)]
    read_marks: Option<Who>,
    /// Who sees whether the user is online: contacts whose requests the user has accepted, or nobody.
    #[arg(long)]
    presence: Option<Who>,
    /// Who knows when the user was last there: contacts who see its presence, or nobody; then the user does not know it of others.
    #[arg(long)]
    last_seen: Option<Who>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Who {
    Everyone,
    /// For `--write` alone.
    Requests,
    Contacts,
    Nobody,
}

impl PrivacyCommand {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let Self { actor, what } = self;
        actor.ask(config, "terminal-privacy", async |client| what.run(client).await).await
    }
}

impl What {
    async fn run(self, client: &Client) -> anyhow::Result<()> {
        match self {
            Self::Show { json } => show(&client.privacy().await.map_err(not_answered)?, json),
            Self::Set(Set { write, groups, read_marks, presence, last_seen }) => {
                let number = |who: Option<Who>| who.map(|who| Audience::from(who).into());
                let set = SetPrivacy {
                    write: number(write),
                    groups: number(groups),
                    read_marks: number(read_marks),
                    presence: number(presence),
                    last_seen: number(last_seen),
                };
                client.set_privacy(set).await.map_err(not_answered)?;
                out::line("privacy was changed")
            }
            Self::Block { blocked } => {
                client.block(&blocked).await.map_err(not_answered)?;
                out::line(format_args!("{blocked} is blocked"))
            }
            Self::Unblock { blocked } => {
                client.unblock(&blocked).await.map_err(not_answered)?;
                out::line(format_args!("{blocked} is not blocked"))
            }
        }
    }
}

fn show(privacy: &Privacy, json: bool) -> anyhow::Result<()> {
    let settings = privacy.settings.unwrap_or_default();
    let all = [
        ("write", settings.write(), "everyone"),
        ("groups", settings.groups(), "everyone"),
        ("read_marks", settings.read_marks(), "everyone"),
        ("presence", settings.presence(), "contacts"),
        ("last_seen", settings.last_seen(), "contacts"),
    ];
    let named = all.map(|(name, audience, default)| (name, audience_name(audience, default)));
    if json {
        let settings: serde_json::Map<_, _> =
            named.iter().map(|(name, audience)| ((*name).to_owned(), (*audience).into())).collect();
        return out::line(serde_json::json!({ "settings": settings, "blocked": privacy.blocked }));
    }
    for (name, audience) in named {
        out::line(format_args!("{:<12}{audience}", name.replace('_', " ")))?;
    }
    let blocked = match &privacy.blocked[..] {
        [] => "nobody".to_owned(),
        blocked => blocked.join(", "),
    };
    out::line(format_args!("{:<12}{blocked}", "blocked"))
}

/// In words that `set` takes.
fn audience_name(audience: Audience, default: &'static str) -> &'static str {
    match audience {
        Audience::Unspecified => default,
        Audience::Everyone => "everyone",
        Audience::Contacts => "contacts",
        Audience::Nobody => "nobody",
        Audience::Requests => "requests",
    }
}

impl From<Who> for Audience {
    fn from(who: Who) -> Self {
        match who {
            Who::Everyone => Self::Everyone,
            Who::Contacts => Self::Contacts,
            Who::Nobody => Self::Nobody,
            Who::Requests => Self::Requests,
        }
    }
}
