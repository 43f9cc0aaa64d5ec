//! Accounts.

use anyhow::{anyhow, bail};
use carillon_proto::{
    UserId, credentials, now_ms,
    pb::admin::{DeleteUserRequest, ListUsersRequest, PutUserRequest, SessionInfo, ShowUserRequest, UserInfo},
};
use clap::Subcommand;
use tonic::Code;

use super::{
    admin_client::{Routers, with_deadline},
    credential::new_password,
    ended::ended,
    out, session,
    table::{Output, PAGE, Page, Table, time},
    user_data::{Erase, Export},
};
use crate::Config;

#[derive(Subcommand)]
pub(super) enum User {
    /// Makes an account.
    Add {
        name: UserId,
        /// Read the password from standard input, its first line.
        #[arg(long, conflicts_with = "no_password")]
        password_stdin: bool,
        /// Sign-in by token only.
        #[arg(long)]
        no_password: bool,
        /// Replace the credentials of an account that exists.
        #[arg(long)]
        replace: bool,
        /// host:port of a router; otherwise from the configuration.
        #[arg(long)]
        router: Option<String>,
    },
    /// Removes an account: its sessions end, its messages are removed, its tokens no longer count.
    Delete {
        name: UserId,
        /// host:port of a router; otherwise from the configuration.
        #[arg(long)]
        router: Option<String>,
    },
    /// Lists accounts in the order of their names.
    List {
        #[command(flatten)]
        page: Page,
        /// Only those after this name.
        #[arg(long, value_name = "NAME")]
        after: Option<UserId>,
        /// Also those that were deleted.
        #[arg(long)]
        deleted: bool,
    },
    /// Writes all that is kept of a user: account, sessions, devices, and every message of the user's inbox. Exits with 0 when
    /// it is whole, 1 if it failed and may be tried again, 2 for wrong arguments, 4 if it was refused.
    Export(Export),
    /// Deletes a user, and replaces what the user has said in the inboxes of others. Exits with 0 when that is done, 1 if it
    /// failed and may be tried again, 2 for wrong arguments, 4 if it was refused, 5 if it has begun and is not done yet.
    Erase(Erase),
    /// Shows an account: when it was made, how it can sign in, its sessions.
    Show {
        name: UserId,
        #[command(flatten)]
        output: Output,
    },
}

impl User {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        match self {
            Self::Add { name, password_stdin, no_password, replace, router } => {
                let routers = Routers::of(config, router.as_deref())?;
                let scram = if no_password {
                    None
                } else {
                    Some(credentials::new_credentials(&new_password(&name, password_stdin)?)?)
                };
                let request = PutUserRequest { user: name.as_str().to_owned(), scram, replace };
                let put = routers
                    .ask(async |mut admin, deadline| admin.put_user(with_deadline(request.clone(), deadline)).await)
                    .await?;
                match put {
                    Ok(reply) => out::line(format_args!("user {name} is there{}", ended(reply.into_inner().ended)))?,
                    Err(status) if status.code() == Code::AlreadyExists => {
                        bail!("there is a user {name} already; use --replace to change the credentials")
                    }
                    Err(status) => bail!("user {name} was not made: {}", status.message()),
                }
            }
            Self::Delete { name, router } => {
                // Each router is asked with the same time, so that a repeated deletion is recognised.
                let request = DeleteUserRequest { user: name.as_str().to_owned(), time_ms: now_ms() };
                let deleted = Routers::of(config, router.as_deref())?
                    .ask(async |mut admin, deadline| admin.delete_user(with_deadline(request.clone(), deadline)).await)
                    .await?;
                match deleted {
                    Ok(reply) => {
                        let reply = reply.into_inner();
                        out::line(format_args!("user {name} is gone{}", ended(reply.ended)))?;
                        if !reply.inbox_ended {
                            out::line(format_args!(
                                "its messages are not removed yet, and what its sessions have sent may still be accepted: the routers see to it"
                            ))?;
                        }
                    }
                    Err(status) if status.code() == Code::NotFound => bail!("{}", status.message()),
                    Err(status) => bail!("user {name} was not removed: {}", status.message()),
                }
            }
            Self::List { page, after, deleted } => {
                let routers = Routers::of(config, page.output.router.as_deref())?;
                let mut table = Table::new(page.output.json, &["USER", "MADE", "SIGNS IN BY", "STATE"]);
                let mut after = after.map(|name| name.as_str().to_owned()).unwrap_or_default();
                let mut left = page.limit;
                loop {
                    let request = ListUsersRequest { after, limit: left.min(PAGE), deleted };
                    let reply = routers
                        .ask(async |mut admin, deadline| {
                            admin.list_users(with_deadline(request.clone(), deadline)).await
                        })
                        .await?;
                    let reply = reply.map_err(|status| anyhow!("users: {}", status.message()))?.into_inner();
                    left = left.saturating_sub(reply.users.len() as u32);
                    reply.users.iter().try_for_each(|user| table.row(&columns(user), &json(user)))?;
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
            Self::Erase(erase) => erase.run(config).await?,
            Self::Export(export) => export.run(config).await?,
            Self::Show { name, output } => {
                let request = ShowUserRequest { user: name.as_str().to_owned() };
                let shown = Routers::of(config, output.router.as_deref())?
                    .ask(async |mut admin, deadline| admin.show_user(with_deadline(request.clone(), deadline)).await)
                    .await?;
                let shown = shown.map_err(|status| anyhow!("{}", status.message()))?.into_inner();
                let user = shown.user.unwrap_or_default();
                if output.json {
                    let sessions: Vec<_> = shown.sessions.iter().map(session::json).collect();
                    let mut shown = json(&user);
                    shown["sessions"] = sessions.into();
                    out::line(format_args!("{shown}"))?;
                } else {
                    out::print(show(&user, &shown.sessions))?;
                }
            }
        }
        Ok(())
    }
}

fn state(user: &UserInfo) -> String {
    if user.deleted {
        format!("deleted {}", time(user.deleted_ms))
    } else if user.reserved {
        "not used yet".to_owned()
    } else {
        String::new()
    }
}

fn ways(user: &UserInfo) -> &'static str {
    match (user.deleted, user.password) {
        (true, _) => "-",
        (false, true) => "password, token",
        (false, false) => "token",
    }
}

fn columns(user: &UserInfo) -> [String; 4] {
    [user.user.clone(), time(user.created_ms), ways(user).to_owned(), state(user)]
}

fn json(user: &UserInfo) -> serde_json::Value {
    let revoked: Vec<_> =
        user.revoked.iter().map(|token| serde_json::json!({"id": token.id, "expires_ms": token.expires_ms})).collect();
    serde_json::json!({
        "user": user.user,
        "created_ms": user.created_ms,
        "password": user.password,
        "deleted_ms": user.deleted.then_some(user.deleted_ms),
        "reserved": user.reserved,
        "tokens_from_ms": (user.tokens_from_ms > 0).then_some(user.tokens_from_ms),
        "revoked_tokens": revoked,
    })
}

fn show(user: &UserInfo, sessions: &[SessionInfo]) -> String {
    let mut text = format!("user         {}\nmade         {}\n", user.user, time(user.created_ms));
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("{name:<12} {value}\n"));
        }
    };
    line("state", state(user));
    line("signs in by", ways(user).to_owned());
    if user.tokens_from_ms > 0 {
        line("tokens", format!("refused if issued before {}", time(user.tokens_from_ms)));
    }
    for token in &user.revoked {
        line("revoked", format!("token {} until {}", token.id, time(token.expires_ms)));
    }
    line("sessions", sessions.len().to_string());
    for session in sessions {
        text.push_str(&format!("  {}\n", session::columns(session).join("  ").trim_end()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::pb::store::RevokedToken;

    #[test]
    fn an_account_is_shown_with_its_sessions() {
        let revoked = vec![RevokedToken { id: "t1".into(), expires_ms: 1_700_000_000_000 }];
        let user = UserInfo { user: "bob".into(), password: true, tokens_from_ms: 1, revoked, ..UserInfo::default() };
        let session =
            SessionInfo { user: "bob".into(), device: "phone".into(), handle: "64-1".into(), ..SessionInfo::default() };
        let shown = show(&user, &[session]);
        for part in ["bob", "password, token", "token t1 until 2023-11-14T22:13:20Z", "sessions     1", "phone", "64-1"]
        {
            assert!(shown.contains(part), "{part} is not in {shown}");
        }
        let deleted = UserInfo { deleted: true, deleted_ms: 1_700_000_000_000, ..user };
        assert!(show(&deleted, &[]).contains("deleted 2023-11-14T22:13:20Z"));
        assert_eq!(json(&deleted)["deleted_ms"], 1_700_000_000_000u64);
    }
}
