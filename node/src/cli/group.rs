//! Groups, as one of their users.

use std::time::Duration;

use carillon_client::{Change, Client, SendError};
use carillon_proto::{
    GroupId, UserId, duration, now_ms,
    pb::client::{
        ChangeMembers, CreateGroup, GroupSettings, Member, ReadMembers, Role, Standing, members_change::Kind,
    },
};
use clap::{Args, Subcommand, ValueEnum};

use super::{
    chat::printable,
    connect::Actor,
    credential::{duration_or_none, parse_seconds},
    out,
    printer::{Format, Printer},
    refused::{Failed, not_answered, not_done},
    saying::{Saying, parse_expiry_or_none},
    table::{Table, time},
};
use crate::Config;

/// Rows of a page.
const PAGE: u32 = 1024;

#[derive(Args)]
pub(super) struct Group {
    #[command(flatten)]
    actor: Actor,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Makes a group. Its owner is the user.
    Create {
        /// Its id; otherwise the service makes one up.
        group: Option<GroupId>,
        /// A member from the beginning; may be repeated.
        #[arg(long = "member", value_name = "USER")]
        members: Vec<UserId>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Lists the groups that the user is in or is invited to.
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Shows a group.
    Show {
        group: GroupId,
        /// As a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Lists the members.
    Members {
        group: GroupId,
        /// Also who is invited or banned: for admins and owners.
        #[arg(long)]
        others: bool,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Joins a group that is open, or to which the user is invited.
    Join {
        group: GroupId,
        /// The secret of the group's link.
        #[arg(long)]
        link: Option<String>,
    },
    /// Leaves a group, or refuses an invitation.
    Leave { group: GroupId },
    /// Makes users members.
    Add {
        group: GroupId,
        #[arg(required = true)]
        users: Vec<UserId>,
        /// They may only read.
        #[arg(long)]
        reader: bool,
    },
    /// Invites users.
    Invite {
        group: GroupId,
        #[arg(required = true)]
        users: Vec<UserId>,
    },
    /// Removes members, or takes invitations back.
    Remove {
        group: GroupId,
        #[arg(required = true)]
        users: Vec<UserId>,
    },
    /// Removes users for good.
    Ban {
        group: GroupId,
        #[arg(required = true)]
        users: Vec<UserId>,
    },
    /// Lets banned users join again.
    Pardon {
        group: GroupId,
        #[arg(required = true)]
        users: Vec<UserId>,
    },
    /// Gives members a role.
    Role {
        group: GroupId,
        role: RoleName,
        #[arg(required = true)]
        users: Vec<UserId>,
    },
    /// Lets members not write for some time.
    Mute {
        group: GroupId,
        /// For how long: seconds, or like 15m, 24h or 7d; 0: they may write again.
        #[arg(value_name = "TIME", value_parser = parse_seconds)]
        time: Duration,
        #[arg(required = true)]
        users: Vec<UserId>,
    },
    /// Changes settings.
    Set {
        group: GroupId,
        #[command(flatten)]
        settings: Settings,
    },
    /// Deletes a group.
    Delete { group: GroupId },
    /// Sends a message.
    Send {
        group: GroupId,
        #[command(flatten)]
        saying: Saying,
        #[command(flatten)]
        format: Format,
    },
}

#[derive(Args, Clone)]
struct Settings {
    /// At most 256 bytes.
    #[arg(long)]
    name: Option<String>,
    /// At most 4,096 bytes.
    #[arg(long)]
    description: Option<String>,
    /// An absolute URL.
    #[arg(long)]
    picture: Option<String>,
    /// Whoever knows the id may join.
    #[arg(long, value_name = "true|false")]
    open: Option<bool>,
    /// Members read what was written before they joined.
    #[arg(long, value_name = "true|false")]
    earlier_history: Option<bool>,
    /// Only admins and owners write.
    #[arg(long, value_name = "true|false")]
    announcements: Option<bool>,
    /// Shortest time between two messages of a member, for example 30s or 10m; 0: any.
    #[arg(long, value_name = "TIME", value_parser = duration_or_none)]
    slow_mode: Option<Duration>,
    /// Members may add and invite others.
    #[arg(long, value_name = "true|false")]
    members_add: Option<bool>,
    /// Each later message is shown for at most this long, for example 30s, 15m, 24h or 7d: 5 seconds to 366 days; 0: without end.
    #[arg(long, value_name = "TIME", value_parser = parse_expiry_or_none)]
    expire_after: Option<Duration>,
    /// A secret by which others may join: 16 to 64 bytes; empty: none.
    #[arg(long, value_name = "SECRET")]
    link_secret: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum RoleName {
    Reader,
    Member,
    Admin,
    Owner,
}

impl Group {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let Self { actor, what } = self;
        if matches!(&what, What::Set { settings, .. } if GroupSettings::from(settings) == GroupSettings::default()) {
            return Err(Failed::arguments("no setting is given").into());
        }
        let reader = actor.user()?.to_string();
        actor.ask(config, "terminal-group", async |client| what.run(client, &reader).await).await
    }
}

impl What {
    async fn run(self, client: &Client, reader: &str) -> anyhow::Result<()> {
        match self {
            Self::Create { group, settings, members } => {
                let members = members.iter().map(|user| user.as_str().to_owned()).collect();
                let new = CreateGroup { settings: Some((&settings).into()), members };
                let group = client.create_group(group.as_ref(), new).await.map_err(not_done)?;
                out::line(format_args!("group {group} was made"))
            }
            Self::List { json } => list(client, json).await,
            Self::Show { group, json } => show(client, &group, json).await,
            Self::Members { group, others, json } => members(client, &group, others, json).await,
            Self::Join { group, link } => {
                let link = link.unwrap_or_default().into();
                change(client, &group, Kind::Joined, &[], |change| change.link = link).await
            }
            Self::Leave { group } => change(client, &group, Kind::Left, &[], |_| {}).await,
            Self::Add { group, users, reader } => {
                let role = if reader { Role::Reader } else { Role::Unspecified };
                change(client, &group, Kind::Added, &users, |change| change.set_role(role)).await
            }
            Self::Invite { group, users } => change(client, &group, Kind::Invited, &users, |_| {}).await,
            Self::Remove { group, users } => change(client, &group, Kind::Removed, &users, |_| {}).await,
            Self::Ban { group, users } => change(client, &group, Kind::Banned, &users, |_| {}).await,
            Self::Pardon { group, users } => change(client, &group, Kind::Pardoned, &users, |_| {}).await,
            Self::Role { group, role, users } => {
                change(client, &group, Kind::Role, &users, |change| change.set_role(role.into())).await
            }
            Self::Mute { group, time, users } => {
                let until_ms = if time.is_zero() { 0 } else { now_ms().saturating_add(ms(time)) };
                change(client, &group, Kind::Muted, &users, |change| change.muted_until_ms = until_ms).await
            }
            Self::Set { group, settings } => {
                done(&group, client.change_group(&group, Change::Set((&settings).into())).await)
            }
            Self::Delete { group } => done(&group, client.change_group(&group, Change::Delete).await),
            Self::Send { group, saying, format } => {
                saying.send_to_group(client, &group, &Printer { reader, format }).await
            }
        }
    }
}

async fn change(
    client: &Client,
    group: &GroupId,
    kind: Kind,
    users: &[UserId],
    more: impl FnOnce(&mut ChangeMembers),
) -> anyhow::Result<()> {
    let users = users.iter().map(|user| user.as_str().to_owned()).collect();
    let mut change = ChangeMembers { kind: kind.into(), users, ..ChangeMembers::default() };
    more(&mut change);
    done(group, client.change_group(group, Change::Members(change)).await)
}

fn done(group: &GroupId, result: Result<(), SendError>) -> anyhow::Result<()> {
    result.map_err(not_done)?;
    out::line(format_args!("group {group} was changed"))
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

async fn list(client: &Client, json: bool) -> anyhow::Result<()> {
    let mut table = Table::new(json, &["GROUP", "STANDING", "SINCE POSITION"]);
    let mut after = None;
    loop {
        let page = client.read_groups(after.as_ref(), PAGE).await.map_err(not_answered)?;
        for group in &page.groups {
            let columns = [group.group.clone(), standing(group.standing()).to_owned(), group.since_seq.to_string()];
            let object = serde_json::json!({
                "group": group.group,
                "standing": standing(group.standing()),
                "since_seq": group.since_seq,
            });
            table.row(&columns, &object)?;
        }
        after = page.groups.last().map(|group| GroupId::new(&group.group)).transpose()?;
        if page.complete || after.is_none() {
            return table.end();
        }
    }
}

/// The pause between two messages of a member, in words.
pub(super) fn slow_mode(pause_ms: u32) -> String {
    match pause_ms {
        0 => "no".to_owned(),
        _ => format!("one message in {}", duration::ms_in_words(pause_ms.into())),
    }
}

/// How long messages of a group are shown, in words.
pub(super) fn expiry(after_ms: u64) -> String {
    match after_ms {
        0 => "never".to_owned(),
        _ => format!("after {}", duration::ms_in_words(after_ms)),
    }
}

async fn show(client: &Client, group: &GroupId, json: bool) -> anyhow::Result<()> {
    let read = client.read_group(group).await.map_err(not_answered)?;
    let settings = read.settings.unwrap_or_default();
    if json {
        return out::line(serde_json::json!({
            "group": group.as_str(),
            "name": settings.name(),
            "description": settings.description(),
            "picture": settings.picture(),
            "members": read.members,
            "open": settings.open(),
            "earlier_history": settings.earlier_history(),
            "announcements": settings.announcements(),
            "slow_mode_ms": settings.slow_mode_ms(),
            "members_add": settings.members_add(),
            "expire_after_ms": settings.expire_after_ms(),
            "link": settings.link.is_some(),
            "last_seq": read.last,
            "own": read.own.as_ref().map(object),
        }));
    }
    let text = |text: Option<String>| printable(&text.unwrap_or_default());
    let yes = |set: Option<bool>| if set.unwrap_or_default() { "yes" } else { "no" };
    out::line(format_args!("group            {group}"))?;
    out::line(format_args!("name             {}", text(settings.name)))?;
    out::line(format_args!("description      {}", text(settings.description)))?;
    out::line(format_args!("picture          {}", text(settings.picture)))?;
    out::line(format_args!("members          {}", read.members))?;
    out::line(format_args!("open             {}", yes(settings.open)))?;
    out::line(format_args!("earlier history  {}", yes(settings.earlier_history)))?;
    out::line(format_args!("announcements    {}", yes(settings.announcements)))?;
    out::line(format_args!("slow mode        {}", slow_mode(settings.slow_mode_ms.unwrap_or_default())))?;
    out::line(format_args!("members add      {}", yes(settings.members_add)))?;
    out::line(format_args!("messages expire  {}", expiry(settings.expire_after_ms.unwrap_or_default())))?;
    out::line(format_args!("link             {}", if settings.link.is_some() { "yes" } else { "no" }))?;
    match read.own {
        Some(own) => out::line(format_args!("you              {} {}", standing(own.standing()), role(own.role()))),
        None => Ok(()),
    }
}

async fn members(client: &Client, group: &GroupId, others: bool, json: bool) -> anyhow::Result<()> {
    let mut table = Table::new(json, &["USER", "STANDING", "ROLE", "MUTED UNTIL"]);
    let mut after_user = String::new();
    loop {
        let read =
            ReadMembers { group: group.as_str().to_owned(), others, after_user, limit: PAGE, ..Default::default() };
        let page = client.read_members(read).await.map_err(not_answered)?;
        for member in &page.members {
            table.row(&columns(member), &object(member))?;
        }
        after_user = page.members.last().map(|member| member.user.clone()).unwrap_or_default();
        if page.complete || after_user.is_empty() {
            return table.end();
        }
    }
}

fn columns(member: &Member) -> [String; 4] {
    let muted = if member.muted_until_ms == 0 { String::new() } else { time(member.muted_until_ms) };
    [member.user.clone(), standing(member.standing()).to_owned(), role(member.role()).to_owned(), muted]
}

fn object(member: &Member) -> serde_json::Value {
    serde_json::json!({
        "user": member.user,
        "standing": standing(member.standing()),
        "role": role(member.role()),
        "since_seq": member.since_seq,
        "muted_until_ms": member.muted_until_ms,
    })
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Unspecified => "",
        Standing::Member => "member",
        Standing::Invited => "invited",
        Standing::Banned => "banned",
        Standing::Left => "left",
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "",
        Role::Reader => "reader",
        Role::Member => "member",
        Role::Admin => "admin",
        Role::Owner => "owner",
    }
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Reader => Self::Reader,
            RoleName::Member => Self::Member,
            RoleName::Admin => Self::Admin,
            RoleName::Owner => Self::Owner,
        }
    }
}

impl From<&Settings> for GroupSettings {
    fn from(given: &Settings) -> Self {
        let Settings {
            name,
            description,
            picture,
            open,
            earlier_history,
            announcements,
            slow_mode,
            members_add,
            expire_after,
            link_secret,
        } = given.clone();
        Self {
            name,
            description,
            picture,
            open,
            earlier_history,
            announcements,
            slow_mode_ms: slow_mode.map(|pause| u32::try_from(pause.as_millis()).unwrap_or(u32::MAX)),
            members_add,
            link: link_secret.map(Into::into),
            expire_after_ms: expire_after.map(ms),
        }
    }
}
