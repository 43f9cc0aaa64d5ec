//! Commands about what workers have still to do, or could not do. See docs/adr/0026-workers.md.

use std::str::FromStr;

use anyhow::anyhow;
use carillon_proto::{
    ShardId, ShardKind,
    pb::{
        admin::{ListOutboxRequest, OutboxPlace, SettleDeadLettersRequest, list_outbox_reply::Row},
        store::{OutboxRow, outbox_row::Task},
    },
};
use clap::{Args, Subcommand};

use super::{
    admin_client::{Routers, with_deadline},
    out,
    table::{PAGE, Page, Table, time},
};
use crate::Config;

#[derive(Subcommand)]
pub(super) enum Outbox {
    /// Lists what waits to be done, the oldest of each shard first.
    List {
        #[command(flatten)]
        page: Page,
        /// Dead letters instead: what the store has refused too often.
        #[arg(long)]
        dead: bool,
        /// Only those after this one.
        #[arg(long, value_name = "ID")]
        after: Option<Id>,
    },
    /// Has dead letters tried again.
    Replay(Letters),
    /// Removes dead letters: what they ask for is never done.
    Discard(Letters),
}

#[derive(Args)]
pub(super) struct Letters {
    /// As `outbox list --dead` shows them, for example timeline-3/1207/0.
    #[arg(required = true, value_name = "ID")]
    letters: Vec<Id>,
    /// host:port of a router; otherwise from the configuration.
    #[arg(long)]
    router: Option<String>,
}

/// Names a row: its shard, its entry in the shard's log, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id {
    shard: ShardId,
    index: u64,
    number: u32,
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || {
            let mut parts = text.split('/');
            let shard = parts.next()?.strip_prefix("timeline-")?.parse().ok()?;
            let (index, number) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let shard = ShardId { kind: ShardKind::Timeline, index: shard };
            parts.next().is_none().then_some(Self { shard, index, number })
        };
        parsed().ok_or_else(|| format!("{text:?} must look like timeline-3/1207/0"))
    }
}

impl From<Id> for OutboxPlace {
    fn from(Id { shard, index, number }: Id) -> Self {
        Self { shard: Some(shard.to_pb()), index, number }
    }
}

impl Outbox {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        match self {
            Self::List { page, dead, after } => list(config, &page, dead, after).await,
            Self::Replay(letters) => settle(config, letters, false).await,
            Self::Discard(letters) => settle(config, letters, true).await,
        }
    }
}

async fn settle(config: &Config, Letters { letters, router }: Letters, discard: bool) -> anyhow::Result<()> {
    let count = letters.len();
    let request = SettleDeadLettersRequest { letters: letters.into_iter().map(OutboxPlace::from).collect(), discard };
    let reply = Routers::of(config, router.as_deref())?
        .ask(async |mut admin, deadline| admin.settle_dead_letters(with_deadline(request.clone(), deadline)).await)
        .await?;
    reply.map_err(|status| anyhow!("{}", status.message()))?;
    let what = if discard { "discarded" } else { "to be tried again" };
    out::line(format_args!("{count} {what}"))
}

async fn list(config: &Config, page: &Page, dead: bool, after: Option<Id>) -> anyhow::Result<()> {
    let routers = Routers::of(config, page.output.router.as_deref())?;
    let mut after = after.map(OutboxPlace::from);
    let mut table = Table::new(page.output.json, &["ID", "SINCE", "REFUSED", "TASK", "WHY"]);
    let mut left = page.limit;
    loop {
        let request = ListOutboxRequest { dead, after, limit: left.min(PAGE) };
        let reply =
            routers.ask(async |mut admin, deadline| admin.list_outbox(with_deadline(request, deadline)).await).await?;
        let reply = reply.map_err(|status| anyhow!("{}", status.message()))?.into_inner();
        left = left.saturating_sub(reply.rows.len() as u32);
        for row in &reply.rows {
            let shown = Shown::of(row);
            table.row(&shown.columns(), &shown.json())?;
        }
        after = reply.rows.last().and_then(|row| row.place).or(after);
        if reply.complete {
            return table.end();
        }
        if left == 0 {
            let id = after.as_ref().map(id).unwrap_or_default();
            out::tell(format_args!("there are more: --after {id}"));
            return Ok(());
        }
    }
}

fn id(place: &OutboxPlace) -> String {
    let shard = place.shard.as_ref().and_then(ShardId::from_pb);
    format!("{}/{}/{}", shard.map(|shard| shard.to_string()).unwrap_or_default(), place.index, place.number)
}

struct Shown {
    id: String,
    since_ms: u64,
    refused: u32,
    task: String,
    why: String,
}

impl Shown {
    fn of(Row { place, row }: &Row) -> Self {
        let OutboxRow { time_ms, failures, why, task } = row.clone().unwrap_or_default();
        let id = place.as_ref().map(id).unwrap_or_default();
        Self { id, since_ms: time_ms, refused: failures, task: task.as_ref().map(told).unwrap_or_default(), why }
    }

    fn columns(&self) -> [String; 5] {
        let since = if self.since_ms == 0 { String::new() } else { time(self.since_ms) };
        [self.id.clone(), since, self.refused.to_string(), self.task.clone(), self.why.clone()]
    }

    fn json(&self) -> serde_json::Value {
        let Self { id, since_ms, refused, task, why } = self;
        serde_json::json!({"id": id, "since_ms": since_ms, "refused": refused, "task": task, "why": why})
    }
}

/// What is to be done, in words.
fn told(task: &Task) -> String {
    let name = |group: &[u8]| String::from_utf8_lossy(group).into_owned();
    match task {
        Task::Tell(tell) => {
            let group = tell.group.as_ref().map(|group| name(&group.owner)).unwrap_or_default();
            let users: Vec<&str> =
                tell.told.iter().filter_map(|told| Some(told.person.as_ref()?.user.as_str())).collect();
            match (tell.ends, users.as_slice()) {
                (true, _) => format!("group {group} ends"),
                (false, [user]) => format!("group {group}: tell {user}"),
                (false, users) => format!("group {group}: tell {} users", users.len()),
            }
        }
        Task::SendScheduled(send) => {
            let user = send.sender.as_ref().map_or("", |sender| &sender.user);
            format!("send the scheduled message {} of {user}", send.id)
        }
        Task::MediaReleased(released) => format!("tell that nothing refers to {} files here", released.ids.len()),
        Task::FindMediaHolders(find) => format!("find out whether anything refers to {} files", find.ids.len()),
        Task::RemoveObjects(remove) => format!("remove the bytes of {} files", remove.ids.len()),
        Task::Leave(leave) => {
            let user = leave.person.as_ref().map(|person| person.user.as_str()).unwrap_or_default();
            format!("{user} leaves {} groups", leave.groups.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_shown() {
        let shard = ShardId { kind: ShardKind::Timeline, index: 3 };
        let place = Id { shard, index: 1207, number: 1 };
        assert_eq!("timeline-3/1207/1".parse(), Ok(place));
        assert_eq!(id(&OutboxPlace::from(place)), "timeline-3/1207/1");
        for wrong in ["", "timeline-3", "timeline-3/1", "directory-0/1/1", "timeline-x/1/1", "timeline-3/1/1/1"] {
            assert!(wrong.parse::<Id>().is_err(), "{wrong:?}");
        }
    }
}
