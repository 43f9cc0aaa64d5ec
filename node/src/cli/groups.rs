//! Groups, for the operator and the administrators of a domain. See docs/adr/0025-groups.md.

use anyhow::anyhow;
use carillon_proto::{
    GroupId, UserId,
    pb::{
        admin::{
            DeleteGroupRequest, ListGroupsRequest, ListMembersRequest, RemoveMemberRequest, SetMemberRoleRequest,
            ShowGroupReply, ShowGroupRequest,
        },
        store::{Group, GroupSettings, Role, group_list, member::Standing, members_read},
    },
};
use clap::Subcommand;
use prost::bytes::Bytes;
use serde_json::{Value, json};

use super::{
    admin_client::{Routers, with_deadline},
    chat::printable,
    group::{RoleName, expiry, slow_mode},
    out,
    table::{OfDomain, Output, PAGE, Page, Table, time},
};
use crate::Config;

#[derive(Subcommand)]
pub(super) enum Groups {
    /// Lists groups in the order of their domains and names.
    List {
        #[command(flatten)]
        page: Page,
        #[command(flatten)]
        of: OfDomain,
        /// Only those after this one.
        #[arg(long, value_name = "GROUP")]
        after: Option<GroupId>,
    },
    /// Shows a group: its settings, and how many members and owners it has.
    Show {
        group: GroupId,
        #[command(flatten)]
        output: Output,
    },
    /// Lists the members of a group.
    Members {
        group: GroupId,
        #[command(flatten)]
        page: Page,
        /// Also who is invited, banned, or has left while muted.
        #[arg(long)]
        others: bool,
        /// Only those after this user.
        #[arg(long, value_name = "USER")]
        after: Option<UserId>,
    },
    /// Gives a member a role: for example makes an owner where there is none.
    Role {
        group: GroupId,
        role: RoleName,
        user: UserId,
        /// host:port of a router; otherwise from the configuration.
        #[arg(long)]
        router: Option<String>,
    },
    /// Removes a member from a group, or takes an invitation back.
    Remove {
        group: GroupId,
        user: UserId,
        /// host:port of a router; otherwise from the configuration.
        #[arg(long)]
        router: Option<String>,
    },
    /// Deletes a group: nobody reads or writes it any more, and its members are told.
    Delete {
        group: GroupId,
        /// host:port of a router; otherwise from the configuration.
        #[arg(long)]
        router: Option<String>,
    },
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

impl Groups {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        match self {
            Self::List { page, of, after } => list(config, &page, of.domain(), after).await,
            Self::Show { group, output } => show(config, &group, &output).await,
            Self::Members { group, page, others, after } => members(config, &group, &page, others, after).await,
            Self::Role { group, role, user, router } => {
                let request = SetMemberRoleRequest {
                    group: group.to_string(),
                    user: user.to_string(),
                    role: Role::from(role).into(),
                    key: key(),
                };
                let reply = Routers::of(config, router.as_deref())?
                    .ask(async |mut admin, deadline| {
                        admin.set_member_role(with_deadline(request.clone(), deadline)).await
                    })
                    .await?;
                reply.map_err(|status| anyhow!("{}", status.message()))?;
                out::line(format_args!("{user} is {} of {group}", name_of(role.into())))
            }
            Self::Remove { group, user, router } => {
                let request = RemoveMemberRequest { group: group.to_string(), user: user.to_string(), key: key() };
                let reply = Routers::of(config, router.as_deref())?
                    .ask(async |mut admin, deadline| {
                        admin.remove_member(with_deadline(request.clone(), deadline)).await
                    })
                    .await?;
                reply.map_err(|status| anyhow!("{}", status.message()))?;
                out::line(format_args!("{user} is no longer in {group}"))
            }
            Self::Delete { group, router } => {
                let request = DeleteGroupRequest { group: group.to_string(), key: key() };
                let reply = Routers::of(config, router.as_deref())?
                    .ask(async |mut admin, deadline| admin.delete_group(with_deadline(request.clone(), deadline)).await)
                    .await?;
                reply.map_err(|status| anyhow!("{}", status.message()))?;
                out::line(format_args!("group {group} is deleted"))
            }
        }
    }
}

/// The key of one request, by which a repeat to another router is known.
fn key() -> Bytes {
    Bytes::copy_from_slice(&rand::random::<[u8; 16]>())
}

async fn list(config: &Config, page: &Page, domain: Option<String>, after: Option<GroupId>) -> anyhow::Result<()> {
    let routers = Routers::of(config, page.output.router.as_deref())?;
    let mut after = after.map(|group| group.to_string()).unwrap_or_default();
    let mut table = Table::new(page.output.json, &["GROUP", "MEMBERS", "OWNERS", "MADE", "NAME"]);
    let mut left = page.limit;
    loop {
        let request = ListGroupsRequest { domain: domain.clone(), after, limit: left.min(PAGE) };
        let reply = routers
            .ask(async |mut admin, deadline| admin.list_groups(with_deadline(request.clone(), deadline)).await)
            .await?;
        let reply = reply.map_err(|status| anyhow!("{}", status.message()))?.into_inner();
        left = left.saturating_sub(reply.groups.len() as u32);
        for group_list::Row { group, row } in &reply.groups {
            let row = row.clone().unwrap_or_default();
            table.row(&columns(group, &row), &object(group, &row))?;
        }
        after = reply.next;
        if after.is_empty() {
            return table.end();
        }
        if left == 0 {
            out::tell(format_args!("there are more: --after {after}"));
            return Ok(());
        }
    }
}

fn columns(group: &str, row: &Group) -> [String; 5] {
    let name = row.settings.as_ref().map(|settings| printable(&settings.name)).unwrap_or_default();
    [group.to_owned(), row.members.to_string(), row.owners.to_string(), time(row.created_ms), name]
}

fn object(group: &str, row: &Group) -> Value {
    let name = row.settings.as_ref().map(|settings| settings.name.clone()).unwrap_or_default();
    json!({
        "group": group,
        "name": name,
        "members": row.members,
        "owners": row.owners,
        "others": row.others,
        "created_ms": row.created_ms,
    })
}

async fn show(config: &Config, group: &GroupId, output: &Output) -> anyhow::Result<()> {
    let request = ShowGroupRequest { group: group.to_string() };
    let reply = Routers::of(config, output.router.as_deref())?
        .ask(async |mut admin, deadline| admin.show_group(with_deadline(request.clone(), deadline)).await)
        .await?;
    let ShowGroupReply { group: row, has_link, head } =
        reply.map_err(|status| anyhow!("{}", status.message()))?.into_inner();
    let (row, head) = (row.unwrap_or_default(), head.unwrap_or_default());
    let settings = row.settings.clone().unwrap_or_default();
    if output.json {
        let mut object = object(group.as_str(), &row);
        object["settings"] = settings_of(&settings, has_link);
        (object["first"], object["last"]) = (head.first.into(), head.last.into());
        return out::line(format_args!("{object}"));
    }
    let yes = |set: bool| if set { "yes" } else { "no" };
    let lines = [
        ("group", group.to_string()),
        ("name", printable(&settings.name)),
        ("description", printable(&settings.description)),
        ("made", time(row.created_ms)),
        ("members", row.members.to_string()),
        ("owners", row.owners.to_string()),
        ("others", row.others.to_string()),
        ("last position", head.last.to_string()),
        ("open", yes(settings.open).to_owned()),
        ("link", yes(has_link).to_owned()),
        ("earlier history", yes(settings.earlier_history).to_owned()),
        ("announcements", yes(settings.announcements).to_owned()),
        ("members add", yes(settings.members_add).to_owned()),
        ("slow mode", slow_mode(settings.slow_mode_ms)),
        ("messages expire", expiry(settings.expire_after_ms)),
    ];
    lines.iter().try_for_each(|(name, value)| out::line(format_args!("{}", format!("{name:<16} {value}").trim_end())))
}

fn settings_of(settings: &GroupSettings, has_link: bool) -> Value {
    json!({
        "name": settings.name,
        "description": settings.description,
        "picture": settings.picture,
        "open": settings.open,
        "link": has_link,
        "earlier_history": settings.earlier_history,
        "announcements": settings.announcements,
        "members_add": settings.members_add,
        "slow_mode_ms": settings.slow_mode_ms,
        "expire_after_ms": settings.expire_after_ms,
    })
}

async fn members(
    config: &Config,
    group: &GroupId,
    page: &Page,
    others: bool,
    after: Option<UserId>,
) -> anyhow::Result<()> {
    let routers = Routers::of(config, page.output.router.as_deref())?;
    let mut after = after.map(|user| user.to_string()).unwrap_or_default();
    let mut table = Table::new(page.output.json, &["USER", "STANDING", "ROLE", "MUTED UNTIL"]);
    let mut left = page.limit;
    loop {
        let request = ListMembersRequest { group: group.to_string(), others, after, limit: left.min(PAGE) };
        let reply = routers
            .ask(async |mut admin, deadline| admin.list_members(with_deadline(request.clone(), deadline)).await)
            .await?;
        let reply = reply.map_err(|status| anyhow!("{}", status.message()))?.into_inner();
        left = left.saturating_sub(reply.members.len() as u32);
        reply.members.iter().try_for_each(|row| {
            let (columns, object) = member(row);
            table.row(&columns, &object)
        })?;
        after = reply.next;
        if after.is_empty() {
            return table.end();
        }
        if left == 0 {
            out::tell(format_args!("there are more: --after {after}"));
            return Ok(());
        }
    }
}

fn member(row: &members_read::Row) -> ([String; 4], Value) {
    let member = row.member.unwrap_or_default();
    let standing = match member.standing() {
        Standing::Unspecified => "",
        Standing::Member => "member",
        Standing::Invited => "invited",
        Standing::Banned => "banned",
        Standing::Left => "left",
    };
    let role = name_of(member.role());
    let muted = if member.muted_until_ms == 0 { String::new() } else { time(member.muted_until_ms) };
    let object = json!({
        "user": row.user,
        "standing": standing,
        "role": role,
        "since_seq": member.since_seq,
        "muted_until_ms": member.muted_until_ms,
    });
    ([row.user.clone(), standing.to_owned(), role.to_owned(), muted], object)
}

fn name_of(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "",
        Role::Reader => "reader",
        Role::Member => "member",
        Role::Admin => "admin",
        Role::Owner => "owner",
    }
}
