//! Commands that list and end sessions.

use anyhow::{anyhow, bail};
use carillon_proto::{
    ConnectionHandle, UserId,
    pb::admin::{EndSessionsRequest, ListSessionsRequest, SessionInfo, end_sessions_request::Which},
};
use clap::Subcommand;
use tonic::Code;

use super::{
    admin_client::{Routers, with_deadline},
    ended::ended,
    out,
    table::{PAGE, Page, Table, time},
};
use crate::Config;

#[derive(Subcommand)]
pub(super) enum Session {
    /// Lists sessions in the order of users and devices.
    List {
        #[command(flatten)]
        page: Page,
        /// Only those of this user.
        #[arg(long, value_name = "NAME")]
        user: Option<UserId>,
        /// Only those after this user and device, as USER/DEVICE.
        #[arg(long, value_name = "USER/DEVICE", conflicts_with = "user")]
        after: Option<String>,
    },
    /// Ends a session, or all of a user. Who has credentials that hold may sign in again.
    #[command(
        override_usage = "carillon session end [OPTIONS] <HANDLE>\n       carillon session end [OPTIONS] --user <NAME>"
    )]
    End {
        /// Handle of the session, for example 64-1: `session list` shows it, and `SignedIn` tells the client.
        #[arg(required_unless_present = "user")]
        handle: Option<ConnectionHandle>,
        /// All sessions of this user.
        #[arg(long, value_name = "NAME", conflicts_with = "handle")]
        user: Option<UserId>,
        /// host:port of a router; otherwise from the configuration.
        #[arg(long)]
        router: Option<String>,
    },
}

impl Session {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        match self {
            Self::List { page, user, after } => list(config, &page, user, after).await,
            Self::End { handle, user, router } => {
                let which = match (handle, user) {
                    (Some(handle), _) => Which::Handle(handle.to_string()),
                    (None, Some(user)) => Which::User(user.as_str().to_owned()),
                    (None, None) => bail!("give a handle or --user"),
                };
                let request = EndSessionsRequest { which: Some(which) };
                let reply = Routers::of(config, router.as_deref())?
                    .ask(async |mut admin, deadline| admin.end_sessions(with_deadline(request.clone(), deadline)).await)
                    .await?;
                match reply {
                    Ok(reply) => {
                        let reply = reply.into_inner();
                        let user = &reply.user;
                        match ended(reply.ended).as_str() {
                            "" => out::line(format_args!("user {user} had no open session"))?,
                            told => out::line(format_args!("user {user}{told}"))?,
                        }
                    }
                    Err(status) if status.code() == Code::NotFound => bail!("{}", status.message()),
                    Err(status) => bail!("no session was ended: {}", status.message()),
                }
                Ok(())
            }
        }
    }
}

async fn list(config: &Config, page: &Page, user: Option<UserId>, after: Option<String>) -> anyhow::Result<()> {
    let routers = Routers::of(config, page.output.router.as_deref())?;
    let after = after.unwrap_or_default();
    let (mut after_user, mut after_device) = match after.split_once('/') {
        Some((user, device)) => (user.to_owned(), device.to_owned()),
        None => (after, String::new()),
    };
    let user = user.map(|user| user.as_str().to_owned()).unwrap_or_default();
    let mut table = Table::new(page.output.json, &["USER", "DEVICE", "HANDLE", "SINCE", "BY", "STATE"]);
    let mut left = page.limit;
    loop {
        let request = ListSessionsRequest { user: user.clone(), after_user, after_device, limit: left.min(PAGE) };
        let reply = routers
            .ask(async |mut admin, deadline| admin.list_sessions(with_deadline(request.clone(), deadline)).await)
            .await?;
        let reply = reply.map_err(|status| anyhow!("{}", status.message()))?.into_inner();
        left = left.saturating_sub(reply.sessions.len() as u32);
        for session in &reply.sessions {
            table.row(&columns(session), &json(session))?;
        }
        (after_user, after_device) = (reply.next_user, reply.next_device);
        if after_user.is_empty() {
            return table.end();
        }
        if left == 0 {
            out::tell(format_args!("there are more: --after {after_user}/{after_device}"));
            return Ok(());
        }
    }
}

pub(super) fn columns(session: &SessionInfo) -> [String; 6] {
    let way = if session.by_token { "token" } else { "password" };
    [
        session.user.clone(),
        session.device.clone(),
        session.handle.clone(),
        time(session.since_ms),
        format!("{}, {way}", session.protocol),
        session.over.clone(),
    ]
}

pub(super) fn json(session: &SessionInfo) -> serde_json::Value {
    serde_json::json!({
        "user": session.user,
        "device": session.device,
        "handle": session.handle,
        "protocol": session.protocol,
        "since_ms": session.since_ms,
        "by": if session.by_token { "token" } else { "password" },
        "token_id": (!session.token_id.is_empty()).then_some(&session.token_id),
        "over": (!session.over.is_empty()).then_some(&session.over),
    })
}
