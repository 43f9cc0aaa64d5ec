//! Writes all that is kept of a user, page by page from the leaders of the user's shards.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use carillon_proto::{
    UserId, now_ms,
    pb::{
        store::{ContactsRead, ConversationsRead, Head, ReportsRead, ScheduledRead, TimelineRead, User},
        userdata::{
            AccountRequest, ContactsRequest, ConversationsRequest, CursorPage, CursorsRequest, InboxRequest,
            ReportsRequest, ScheduledRequest, account_reply, contacts_reply, conversations_reply, cursors_reply,
            inbox_reply, reports_reply, scheduled_reply,
        },
    },
};
use clap::Args;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tonic::Status;

use super::{Answer, CALL, Leader, UserDataError, files, lines};
use crate::{
    Config,
    cli::{callees::with_deadline, date, out, storage_nodes::StorageNodes},
};

#[derive(Args)]
pub(in crate::cli) struct Export {
    pub(super) name: UserId,
    /// Where to: a folder, which is made and must be empty, or - for standard output.
    #[arg(long, value_name = "FOLDER|-")]
    to: PathBuf,
    /// Also the bytes of the user's files, from the place that [media] of the configuration names.
    #[arg(long)]
    files: bool,
    /// host:port of a storage node; may be repeated. Otherwise storage.members or router.storage.
    #[arg(long = "node", value_name = "HOST:PORT")]
    nodes: Vec<String>,
    /// Seconds after which it is given up.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

/// The file of an export that holds the lines, and the one that is written last and says that they are whole.
const LINES: &str = "export.jsonl";
const MANIFEST: &str = "manifest.json";

/// What the store has of the account and its sessions.
pub(super) async fn account(user: &UserId, nodes: &mut StorageNodes, deadline: Instant) -> anyhow::Result<User> {
    let request = AccountRequest { cluster: nodes.cluster.cluster.clone(), user: user.as_str().to_owned() };
    let mut leader = Leader::default();
    let asked = leader.ask(nodes, deadline, async |mut node| {
        match node.account(with_deadline(request.clone(), CALL)).await?.into_inner().answer {
            Some(account_reply::Answer::NotLeader(other)) => Ok(Answer::NotLeader(other)),
            Some(account_reply::Answer::User(user)) => Ok(Answer::Found(user)),
            None => Err(not_understood()),
        }
    });
    asked.await
}

impl Export {
    pub(in crate::cli) async fn run(self, config: &Config) -> anyhow::Result<()> {
        // An export is for the user alone.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        let place = if self.files { Some(files::Place::open(config, &self.to)?) } else { None };
        let mut nodes = StorageNodes::find(config, &self.nodes, deadline).await?;
        let User { account, sessions, erasure, privacy, .. } = account(&self.name, &mut nodes, deadline).await?;
        let Some(account) = account else {
            return Err(UserDataError::Refused(format!("there never was a user {}", self.name)).into());
        };
        let mut writer = Writer::open(&self.to)?;
        let (cluster, began_ms) = (nodes.cluster.cluster.clone(), now_ms());
        writer.line(&json!({
            "kind": "export", "format": 1, "user": self.name.as_str(), "cluster": cluster, "time_ms": began_ms,
            "time": date::format(began_ms), "release": env!("CARGO_PKG_VERSION"),
        }))?;
        writer.line(&lines::account(&account, erasure.as_ref()))?;
        if let Some(privacy) = &privacy {
            writer.line(&lines::privacy(privacy))?;
        }
        sessions.iter().try_for_each(|session| writer.line(&lines::session(session)))?;
        if !account.deleted && !account.reserved {
            self.contacts(account.incarnation, &mut nodes, deadline, &mut writer).await?;
        }
        let mut leader = Leader::default();
        self.devices(account.incarnation, &mut leader, &mut nodes, deadline, &mut writer).await?;
        self.conversations(account.incarnation, &mut leader, &mut nodes, deadline, &mut writer).await?;
        self.scheduled(account.incarnation, &mut leader, &mut nodes, deadline, &mut writer).await?;
        self.reports(account.incarnation, &mut leader, &mut nodes, deadline, &mut writer).await?;
        let head = self.messages(account.incarnation, &mut leader, &mut nodes, deadline, &mut writer).await?;
        self.list_files(account.incarnation, &mut leader, (&mut nodes, deadline), place.as_ref(), &mut writer).await?;
        let Counts { sessions, contacts, devices, conversations, scheduled, reports, messages, files } = writer.counts;
        let end = json!({
            "kind": "end", "sessions": sessions, "contacts": contacts, "devices": devices, "conversations": conversations, "scheduled": scheduled,
            "reports": reports, "messages": messages, "files": files, "first": head.first, "last": head.last,
        });
        writer.finish(&end)?;
        out::tell(format_args!(
            "user {}: the account, {sessions} sessions, {contacts} contacts, {devices} positions of devices, {conversations} conversations, {scheduled} scheduled messages, {reports} reports, {messages} messages and {files} files",
            self.name
        ));
        Ok(())
    }

    async fn contacts(
        &self,
        incarnation: u64,
        nodes: &mut StorageNodes,
        deadline: Instant,
        writer: &mut Writer,
    ) -> anyhow::Result<()> {
        let (cluster, user) = (nodes.cluster.cluster.clone(), self.name.as_str().to_owned());
        let mut request = ContactsRequest { cluster, user, incarnation, ..ContactsRequest::default() };
        let mut leader = Leader::default();
        loop {
            let asked = leader.ask(nodes, deadline, async |mut node| {
                match node.contacts(with_deadline(request.clone(), CALL)).await?.into_inner().answer {
                    Some(contacts_reply::Answer::NotLeader(other)) => Ok(Answer::NotLeader(other)),
                    Some(contacts_reply::Answer::Page(page)) => Ok(Answer::Found(page)),
                    None => Err(not_understood()),
                }
            });
            let ContactsRead { contacts, complete, .. } = asked.await?;
            contacts.iter().try_for_each(|row| writer.line(&lines::contact(row)))?;
            match contacts.into_iter().last() {
                Some(last) if !complete => request.after = last.contact,
                _ => return Ok(()),
            }
        }
    }

    async fn devices(
        &self,
        incarnation: u64,
        leader: &mut Leader,
        nodes: &mut StorageNodes,
        deadline: Instant,
        writer: &mut Writer,
    ) -> anyhow::Result<()> {
        let (cluster, user) = (nodes.cluster.cluster.clone(), self.name.as_str().to_owned());
        let mut request = CursorsRequest { cluster, user, incarnation, ..CursorsRequest::default() };
        loop {
            let asked = leader.ask(nodes, deadline, async |mut node| {
                match node.cursors(with_deadline(request.clone(), CALL)).await?.into_inner().answer {
                    Some(cursors_reply::Answer::NotLeader(other)) => Ok(Answer::NotLeader(other)),
                    Some(cursors_reply::Answer::Page(page)) => Ok(Answer::Found(page)),
                    None => Err(not_understood()),
                }
            });
            let CursorPage { cursors, next } = asked.await?;
            cursors.iter().try_for_each(|cursor| writer.line(&lines::device(&self.name, cursor)?))?;
            if next.is_empty() {
                return Ok(());
            }
            request.after = next;
        }
    }

    async fn conversations(
        &self,
        incarnation: u64,
        leader: &mut Leader,
        nodes: &mut StorageNodes,
        deadline: Instant,
        writer: &mut Writer,
    ) -> anyhow::Result<()> {
        let (cluster, user) = (nodes.cluster.cluster.clone(), self.name.as_str().to_owned());
        let mut request = ConversationsRequest { cluster, user, incarnation, after: None };
        loop {
            let asked = leader.ask(nodes, deadline, async |mut node| {
                match node.conversations(with_deadline(request.clone(), CALL)).await?.into_inner().answer {
                    Some(conversations_reply::Answer::NotLeader(other)) => Ok(Answer::NotLeader(other)),
                    Some(conversations_reply::Answer::Page(page)) => Ok(Answer::Found(page)),
                    None => Err(not_understood()),
                }
            });
            let ConversationsRead { rows, complete, .. } = asked.await?;
            rows.iter().try_for_each(|row| writer.line(&lines::conversation(row)?))?;
            request.after = rows.last().and_then(|row| row.conversation.clone());
            if complete || request.after.is_none() {
                return Ok(());
            }
        }
    }

    async fn scheduled(
        &self,
        incarnation: u64,
        leader: &mut Leader,
        nodes: &mut StorageNodes,
        deadline: Instant,
        writer: &mut Writer,
    ) -> anyhow::Result<()> {
        let (cluster, user) = (nodes.cluster.cluster.clone(), self.name.as_str().to_owned());
        let mut request = ScheduledRequest { cluster, user, incarnation, after: 0 };
        loop {
            let asked = leader.ask(nodes, deadline, async |mut node| {
                match node.scheduled(with_deadline(request.clone(), CALL)).await?.into_inner().answer {
                    Some(scheduled_reply::Answer::NotLeader(other)) => Ok(Answer::NotLeader(other)),
                    Some(scheduled_reply::Answer::Page(page)) => Ok(Answer::Found(page)),
                    None => Err(not_understood()),
                }
            });
            let ScheduledRead { messages, complete, .. } = asked.await?;
            for message in &messages {
                writer.line(&lines::scheduled(message)?)?;
                request.after = message.id;
            }
            if complete || messages.is_empty() {
                return Ok(());
            }
        }
    }

    async fn reports(
        &self,
        incarnation: u64,
        leader: &mut Leader,
        nodes: &mut StorageNodes,
        deadline: Instant,
        writer: &mut Writer,
    ) -> anyhow::Result<()> {
        let (cluster, user) = (nodes.cluster.cluster.clone(), self.name.as_str().to_owned());
        let request = ReportsRequest { cluster, user, incarnation };
        let asked = leader.ask(nodes, deadline, async |mut node| {
            match node.reports(with_deadline(request.clone(), CALL)).await?.into_inner().answer {
                Some(reports_reply::Answer::NotLeader(other)) => Ok(Answer::NotLeader(other)),
                Some(reports_reply::Answer::Reports(reports)) => Ok(Answer::Found(reports)),
                None => Err(not_understood()),
            }
        });
        let ReportsRead { reports, .. } = asked.await?;
        reports.iter().try_for_each(|report| writer.line(&lines::report(report)?))
    }

    /// The inbox up to its end at the first page: what comes later is not waited for. Returns what it held then.
    async fn messages(
        &self,
        incarnation: u64,
        leader: &mut Leader,
        nodes: &mut StorageNodes,
        deadline: Instant,
        writer: &mut Writer,
    ) -> anyhow::Result<Head> {
        let (cluster, user) = (nodes.cluster.cluster.clone(), self.name.as_str().to_owned());
        let mut request = InboxRequest { cluster, user, incarnation, from_seq: 0 };
        let mut began: Option<Head> = None;
        loop {
            let asked = leader.ask(nodes, deadline, async |mut node| {
                match node.inbox(with_deadline(request.clone(), CALL)).await?.into_inner().answer {
                    Some(inbox_reply::Answer::NotLeader(other)) => Ok(Answer::NotLeader(other)),
                    Some(inbox_reply::Answer::Page(page)) => Ok(Answer::Found(page)),
                    None => Err(not_understood()),
                }
            });
            let TimelineRead { head, entries, complete } = asked.await?;
            let head = head.unwrap_or_default();
            let began = *began.get_or_insert(head);
            if head.epoch != began.epoch {
                bail!("the inbox of {} has begun anew meanwhile: export it again", self.name);
            }
            for entry in &entries {
                if entry.seq <= began.last {
                    writer.line(&lines::message(&self.name, entry, now_ms())?)?;
                }
                request.from_seq = entry.seq + 1;
            }
            if complete || entries.is_empty() || request.from_seq > began.last {
                return Ok(began);
            }
        }
    }
}

pub(super) fn not_understood() -> Status {
    Status::unavailable("its answer is not understood")
}

#[derive(Default)]
struct Counts {
    sessions: u64,
    contacts: u64,
    devices: u64,
    conversations: u64,
    scheduled: u64,
    reports: u64,
    messages: u64,
    files: u64,
}

/// Writes the lines of an export, counts them, and says in the end that they are whole.
pub(super) struct Writer {
    /// `None`: standard output.
    file: Option<(PathBuf, BufWriter<File>)>,
    counts: Counts,
    sha256: Sha256,
    bytes: u64,
}

impl Writer {
    fn open(to: &Path) -> anyhow::Result<Self> {
        let file = if to == Path::new("-") {
            None
        } else {
            fs::create_dir_all(to).with_context(|| format!("can't make folder {}", to.display()))?;
            if fs::read_dir(to).with_context(|| format!("can't read {}", to.display()))?.next().is_some() {
                return Err(UserDataError::Refused(format!("folder {} is not empty", to.display())).into());
            }
            let path = to.join(LINES);
            let file = File::create_new(&path).with_context(|| format!("can't write {}", path.display()))?;
            Some((to.to_owned(), BufWriter::new(file)))
        };
        Ok(Self { file, counts: Counts::default(), sha256: Sha256::new(), bytes: 0 })
    }

    pub(super) fn line(&mut self, line: &Value) -> anyhow::Result<()> {
        match line["kind"].as_str() {
            Some("session") => self.counts.sessions += 1,
            Some("conversation") => self.counts.conversations += 1,
            Some("scheduled") => self.counts.scheduled += 1,
            Some("report") => self.counts.reports += 1,
            Some("contact") => self.counts.contacts += 1,
            Some("device") => self.counts.devices += 1,
            Some("message") => self.counts.messages += 1,
            Some("file") => self.counts.files += 1,
            _ => {}
        }
        let Some((folder, file)) = &mut self.file else { return out::line(line) };
        let text = format!("{line}\n");
        self.sha256.update(&text);
        self.bytes += text.len() as u64;
        file.write_all(text.as_bytes()).with_context(|| format!("can't write to {}", folder.display()))
    }

    fn finish(mut self, end: &Value) -> anyhow::Result<()> {
        self.line(end)?;
        let Some((folder, file)) = self.file else { return Ok(()) };
        let sha256: String = self.sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut manifest = json!({"format": 1, "file": LINES, "bytes": self.bytes, "sha256": sha256});
        for name in ["sessions", "contacts", "devices", "messages", "files", "first", "last"] {
            manifest[name] = end[name].clone();
        }
        let written = || -> std::io::Result<()> {
            file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
            let mut file = File::create_new(folder.join(MANIFEST))?;
            writeln!(file, "{manifest:#}")?;
            file.sync_all()
        };
        written().with_context(|| format!("can't write to {}", folder.display()))
    }
}
