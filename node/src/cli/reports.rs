//! Commands of moderators about what users have reported. See docs/adr/0035-reports.md.

use std::str::FromStr;

use anyhow::{Context as _, anyhow};
use carillon_proto::{
    MediaId, MediaReference, ShardId, ShardKind,
    pb::{
        admin::{
            ListReportsRequest, ReadReportFileReply, ReadReportFileRequest, ReadReportReply, ReadReportRequest,
            ReportId, ResolveReportRequest, list_reports_reply::Row,
        },
        client::{Content, Envelope, MessageState, content::Body},
        store::{ReportPlace, ReportRow, TimelineKey, report_evidence::Message, timeline_key::Kind},
    },
};
use clap::Subcommand;
use prost::Message as _;
use serde_json::{Value, json};

use super::{
    admin_client::{Routers, with_deadline},
    chat::{line, printable},
    out,
    said::said,
    table::{OfDomain, Output, PAGE, Page, Table, time},
};
use crate::Config;

#[derive(Subcommand)]
pub(super) enum Reports {
    /// Lists reports in the order in which they came: those that are open.
    List {
        #[command(flatten)]
        page: Page,
        /// Those that are resolved.
        #[arg(long)]
        resolved: bool,
        #[command(flatten)]
        of: OfDomain,
        /// Only those after this one.
        #[arg(long, value_name = "ID")]
        after: Option<Id>,
    },
    /// Shows a report: what is reported as it was then, and what stands around it.
    Show {
        /// As `reports list` shows it, for example timeline-3/1795383845999/17.
        id: Id,
        #[command(flatten)]
        output: Output,
    },
    /// Prints an address at which a file of a report can be downloaded for some minutes. The service logs who has asked.
    File {
        id: Id,
        /// As `reports show` names it, in hexadecimal digits.
        #[arg(value_parser = file_id)]
        file: MediaId,
        #[command(flatten)]
        output: Output,
    },
    /// Notes what was decided. The report is kept as resolved for as long as reports are kept.
    Resolve {
        id: Id,
        /// What was decided, for other moderators: at most 1,000 bytes.
        #[arg(long, default_value = "")]
        note: String,
        /// Removes the report with all that it holds at once, also one that is resolved.
        #[arg(long)]
        remove: bool,
        /// host:port of a router; otherwise from the configuration.
        #[arg(long)]
        router: Option<String>,
    },
}

/// Names a report: its shard, its time and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id {
    shard: ShardId,
    place: ReportPlace,
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || {
            let mut parts = text.split('/');
            let index = parts.next()?.strip_prefix("timeline-")?.parse().ok()?;
            let (time_ms, id) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let shard = ShardId { kind: ShardKind::Timeline, index };
            parts.next().is_none().then_some(Self { shard, place: ReportPlace { time_ms, id } })
        };
        parsed().ok_or_else(|| format!("{text:?} must look like timeline-3/1795383845999/17"))
    }
}

impl From<Id> for ReportId {
    fn from(Id { shard, place }: Id) -> Self {
        Self { shard: Some(shard.to_pb()), place: Some(place) }
    }
}

fn text_of(id: &ReportId) -> String {
    let shard = id.shard.as_ref().and_then(ShardId::from_pb).map(|shard| shard.to_string()).unwrap_or_default();
    let ReportPlace { time_ms, id } = id.place.unwrap_or_default();
    format!("{shard}/{time_ms}/{id}")
}

impl Reports {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        match self {
            Self::List { page, resolved, of, after } => list(config, &page, resolved, of.domain(), after).await,
            Self::Show { id, output } => show(config, id, &output).await,
            Self::File { id, file, output } => tell_file(config, id, file, &output).await,
            Self::Resolve { id, note, remove, router } => {
                let request = ResolveReportRequest { id: Some(id.into()), note, remove };
                let reply = Routers::of(config, router.as_deref())?
                    .ask(async |mut admin, deadline| {
                        admin.resolve_report(with_deadline(request.clone(), deadline)).await
                    })
                    .await?;
                reply.map_err(|status| anyhow!("{}", status.message()))?;
                let what = if remove { "was removed" } else { "is resolved" };
                out::line(format_args!("report {} {what}", text_of(&id.into())))
            }
        }
    }
}

async fn list(
    config: &Config,
    page: &Page,
    resolved: bool,
    domain: Option<String>,
    after: Option<Id>,
) -> anyhow::Result<()> {
    let routers = Routers::of(config, page.output.router.as_deref())?;
    let mut after = after.map(ReportId::from);
    let mut table = Table::new(page.output.json, &["ID", "TIME", "BY", "IN", "OF", "REASON", "MESSAGES", "TEXT"]);
    let mut left = page.limit;
    loop {
        let request = ListReportsRequest { after, limit: left.min(PAGE), resolved, domain: domain.clone() };
        let reply = routers
            .ask(async |mut admin, deadline| admin.list_reports(with_deadline(request.clone(), deadline)).await)
            .await?;
        let reply = reply.map_err(|status| anyhow!("{}", status.message()))?.into_inner();
        left = left.saturating_sub(reply.reports.len() as u32);
        for Row { id, row } in &reply.reports {
            let (id, row) = (id.as_ref().map(text_of).unwrap_or_default(), row.clone().unwrap_or_default());
            table.row(&columns(&id, &row), &object(&id, &row))?;
        }
        after = reply.next;
        let Some(next) = &after else { return table.end() };
        if left == 0 {
            table.end()?;
            out::tell(format_args!("there may be more: --after {}", text_of(next)));
            return Ok(());
        }
    }
}

async fn show(config: &Config, id: Id, output: &Output) -> anyhow::Result<()> {
    let request = ReadReportRequest { id: Some(id.into()) };
    let reply = Routers::of(config, output.router.as_deref())?
        .ask(async |mut admin, deadline| admin.read_report(with_deadline(request, deadline)).await)
        .await?;
    let ReadReportReply { row, evidence } = reply.map_err(|status| anyhow!("{}", status.message()))?.into_inner();
    let (id, row, messages) = (text_of(&id.into()), row.unwrap_or_default(), evidence.unwrap_or_default().messages);
    if output.json {
        let mut object = object(&id, &row);
        object["evidence"] = messages.iter().map(evidence_of).collect::<anyhow::Result<Vec<_>>>()?.into();
        return out::line(format_args!("{object}"));
    }
    out::line(format_args!("report {id} of {}", time(row_time(&id))))?;
    out::line(format_args!("by {} in {}: {}", by(&row), conversation(&row), reason(&row)))?;
    if !row.text.is_empty() {
        out::line(format_args!("says: {}", printable(&row.text)))?;
    }
    match &row.resolution {
        Some(resolution) => {
            out::line(format_args!("resolved {}: {}", time(resolution.time_ms), printable(&resolution.note)))?;
        }
        None => out::line("open")?,
    }
    for message in &messages {
        show_message(message, &by(&row))?;
    }
    Ok(())
}

async fn tell_file(config: &Config, id: Id, file: MediaId, output: &Output) -> anyhow::Result<()> {
    let request = ReadReportFileRequest { id: Some(id.into()), file: file.as_bytes().to_vec().into() };
    let reply = Routers::of(config, output.router.as_deref())?
        .ask(async |mut admin, deadline| admin.read_report_file(with_deadline(request.clone(), deadline)).await)
        .await?;
    let ReadReportFileReply { url, expires_ms, size_bytes, media_type, name } =
        reply.map_err(|status| anyhow!("{}", status.message()))?.into_inner();
    if output.json {
        let object = json!({
            "url": url,
            "expires_ms": expires_ms,
            "size_bytes": size_bytes,
            "media_type": media_type,
            "name": name,
        });
        return out::line(format_args!("{object}"));
    }
    out::line(&url)?;
    let what = printable(&format!("{name:?}, {size_bytes} bytes of {media_type:?}"));
    out::tell(format_args!("{what}, until {}", time(expires_ms)));
    if url.starts_with('/') {
        out::tell(
            "http:// or https:// and the address of a gateway's WebSocket port come before it: media.url is not set",
        );
    }
    Ok(())
}

fn file_id(text: &str) -> Result<MediaId, String> {
    let digit = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(digit).collect();
    let id = bytes.filter(|_| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    id.and_then(|bytes| MediaId::from_bytes(&bytes)).ok_or_else(|| format!("{text:?} must be 32 hexadecimal digits"))
}

/// What is reported has a mark.
fn show_message(message: &Message, reporter: &str) -> anyhow::Result<()> {
    let envelope = Envelope::decode(message.envelope.clone()).context("a reported message")?;
    let mark = if message.reported { ">" } else { " " };
    let cut = if message.cut { " (left out: it was too large)" } else { "" };
    out::line(format_args!("{mark} {} {}{cut}", message.seq, line(&envelope, reporter)))?;
    let state = MessageState::decode(message.state.clone()).context("the state of a reported message")?;
    if let Some(edit) = state.edit.as_ref().and_then(|edit| edit.content.as_ref()) {
        out::line(format_args!("{mark}   edited {} times: {}", state.edits, said(edit_of(edit))))?;
    }
    for file in files(&envelope, &state) {
        out::line(format_args!("{mark}   file {file}"))?;
    }
    if let Some(recall) = &state.recall {
        out::line(format_args!("{mark}   recalled by {}", printable(&recall.sender)))?;
    }
    Ok(())
}

/// The files to which the message and its edit refer.
fn files(envelope: &Envelope, state: &MessageState) -> Vec<MediaId> {
    let contents = [envelope.content.as_ref(), state.edit.as_ref().and_then(|edit| edit.content.as_ref())];
    contents.into_iter().flatten().filter_map(MediaReference::of_content).map(MediaReference::id).collect()
}

/// What the message says since the edit.
fn edit_of(content: &Content) -> Option<&Content> {
    match &content.body {
        Some(Body::Edit(edit)) => edit.content.as_deref(),
        _ => Some(content),
    }
}

fn columns(id: &str, row: &ReportRow) -> [String; 8] {
    [
        id.to_owned(),
        time(row_time(id)),
        by(row),
        conversation(row),
        row.authors.join(","),
        reason(row),
        row.messages.to_string(),
        printable(&row.text),
    ]
}

fn object(id: &str, row: &ReportRow) -> Value {
    let resolution = row.resolution.as_ref();
    json!({
        "id": id,
        "time_ms": row_time(id),
        "by": by(row),
        "conversation": conversation(row),
        "authors": row.authors,
        "reason": reason(row),
        "messages": row.messages,
        "bytes": row.bytes,
        "text": row.text,
        "resolved_ms": resolution.map(|resolution| resolution.time_ms),
        "note": resolution.map(|resolution| resolution.note.as_str()),
    })
}

fn evidence_of(message: &Message) -> anyhow::Result<Value> {
    let envelope = Envelope::decode(message.envelope.clone()).context("a reported message")?;
    let state = MessageState::decode(message.state.clone()).context("the state of a reported message")?;
    Ok(json!({
        "position": message.seq,
        "reported": message.reported,
        "cut": message.cut,
        "from": envelope.sender,
        "time_ms": envelope.time_ms,
        "files": files(&envelope, &state).iter().map(MediaId::to_string).collect::<Vec<_>>(),
        "envelope": serde_json::to_value(&envelope)?,
        "state": serde_json::to_value(&state)?,
    }))
}

/// The time stands in the id.
fn row_time(id: &str) -> u64 {
    id.parse::<Id>().map_or(0, |id| id.place.time_ms)
}

fn by(row: &ReportRow) -> String {
    row.reporter.as_ref().map(|reporter| reporter.user.clone()).unwrap_or_default()
}

fn conversation(row: &ReportRow) -> String {
    let TimelineKey { kind, owner } = row.conversation.clone().unwrap_or_default();
    let owner = String::from_utf8_lossy(&owner).into_owned();
    if kind == i32::from(Kind::Group) { format!("group/{owner}") } else { format!("user/{owner}") }
}

fn reason(row: &ReportRow) -> String {
    row.reason().as_str_name().trim_start_matches("REPORT_REASON_").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_shown() {
        let file = MediaId::new(258, [7; 14]);
        assert_eq!(file_id(&file.to_string()), Ok(file));
        for wrong in ["", "0", "01", "+1020707070707070707070707070707", "x1020707070707070707070707070707", "é"] {
            assert!(file_id(wrong).is_err(), "{wrong:?}");
        }
        let shard = ShardId { kind: ShardKind::Timeline, index: 3 };
        let id = Id { shard, place: ReportPlace { time_ms: 1_795_383_845_999, id: 17 } };
        assert_eq!("timeline-3/1795383845999/17".parse(), Ok(id));
        assert_eq!(text_of(&id.into()), "timeline-3/1795383845999/17");
        assert_eq!(row_time("timeline-3/1795383845999/17"), 1_795_383_845_999);
        for wrong in ["", "timeline-3", "timeline-3/1", "directory-0/1/1", "timeline-x/1/1", "timeline-3/1/1/1"] {
            assert!(wrong.parse::<Id>().is_err(), "{wrong:?}");
        }
    }
}
