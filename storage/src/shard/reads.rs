//! Answers reads in batches: one question to the group for all waiting reads.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{
    Level, ShardId,
    pb::store::{
        CountAccounts, ListAccounts, ListGroups, ListSessions, ReadAllowed, ReadContacts, ReadConversations, ReadGroup,
        ReadHead, ReadHeads, ReadHeldMedia, ReadMarks, ReadMedia, ReadMembers, ReadMemberships, ReadOutbox,
        ReadPrivacy, ReadReport, ReadReports, ReadScheduled, ReadTimeline, ReadUntold, ReadUser, Rejected, StoreError,
        rejected::Reason, store_error::Why,
    },
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::mpsc;

use super::{Responder, Work, busy, not_read, stopping};
use crate::{
    damage::{Alarm, is_shortage},
    machine::{DirectoryReader, Outcome, TimelineReader, Unread},
    metrics,
    raft::Group,
};

/// Reads in one batch.
const BATCH: usize = 64;
/// Batches at a time. More reads wait in the queue.
const CONCURRENT: usize = 8;
/// How long a read waits for the leader to hear from a majority and to apply what was committed.
const WAIT: Duration = Duration::from_millis(1500);

/// The reader of a shard.
#[derive(Clone)]
pub(crate) enum Reader {
    Directory(DirectoryReader),
    Timeline(TimelineReader),
}

/// The operation of a read.
#[derive(Debug, Clone)]
pub(crate) enum ReadOp {
    Timeline(ReadTimeline),
    Head(ReadHead),
    Heads(ReadHeads),
    User(ReadUser),
    Accounts(ListAccounts),
    Sessions(ListSessions),
    CountAccounts(CountAccounts),
    Group(ReadGroup),
    Members(ReadMembers),
    Memberships(ReadMemberships),
    Outbox(ReadOutbox),
    Conversations(ReadConversations),
    Marks(ReadMarks),
    Contacts(ReadContacts),
    Untold(ReadUntold),
    Media(ReadMedia),
    HeldMedia(ReadHeldMedia),
    Privacy(ReadPrivacy),
    Allowed(ReadAllowed),
    Scheduled(ReadScheduled),
    Reports(ReadReports),
    Report(ReadReport),
    Groups(ListGroups),
}

pub(super) struct Read {
    pub(super) op: ReadOp,
    pub(super) answer: Responder,
}

pub(super) struct Reads {
    id: ShardId,
    group: Arc<Group>,
    reader: Reader,
    queue: mpsc::Receiver<Read>,
    alarm: Alarm,
    work: Work,
}

impl Reads {
    pub(super) fn new(
        id: ShardId,
        group: Arc<Group>,
        reader: Reader,
        queue: mpsc::Receiver<Read>,
        alarm: Alarm,
        work: Work,
    ) -> Self {
        Self { id, group, reader, queue, alarm, work }
    }

    pub(super) async fn run(mut self) {
        let mut working = FuturesUnordered::new();
        let mut taken = Vec::with_capacity(BATCH);
        loop {
            // Every branch is cancel-safe.
            tokio::select! {
                Some(()) = working.next() => {}
                count = self.queue.recv_many(&mut taken, BATCH), if working.len() < CONCURRENT => {
                    if count == 0 {
                        return;
                    }
                    let batch = std::mem::replace(&mut taken, Vec::with_capacity(BATCH));
                    self.work.read(batch.len());
                    working.push(answer(self.id, Arc::clone(&self.group), self.reader.clone(), self.alarm.clone(), batch));
                }
            }
        }
    }
}

async fn answer(shard: ShardId, group: Arc<Group>, reader: Reader, alarm: Alarm, batch: Vec<Read>) {
    let start = Instant::now();
    if let Err(error) = group.linearize(WAIT).await {
        for read in batch {
            read.answer.refuse(not_read(error.clone()));
        }
        return;
    }
    metrics::reads_begun(shard.kind, batch.len());
    let failing = alarm.clone();
    // The read may block on the disk. If it panics, the dropped responders say that nothing is known.
    let work = tokio::task::spawn_blocking(move || {
        for Read { op, answer } in batch {
            let read = reader.read(&op);
            // What the disk gives is not to be trusted any more.
            if group.is_closed() || alarm.is_raised() {
                answer.refuse(stopping());
                continue;
            }
            match read {
                Ok(Some(outcome)) => answer.give(outcome),
                Ok(None) => answer.refuse(wrong_kind()),
                Err(error) if is_shortage(&error) => {
                    tracing::warn!(%shard, %error, "a read of the store failed");
                    answer.refuse(busy());
                }
                Err(error) => {
                    alarm.raise(format_args!("shard {shard}"), &error);
                    answer.refuse(stopping());
                }
            }
        }
    });
    if let Err(error) = work.await
        && error.is_panic()
    {
        failing.raise(format_args!("shard {shard}"), &error);
    }
    metrics::reads_done(shard.kind, start.elapsed());
}

impl Reader {
    /// The level by which the shard's applied commands are read.
    pub(crate) fn level(&self) -> Level {
        match self {
            Self::Directory(reader) => reader.level(),
            Self::Timeline(reader) => reader.level(),
        }
    }

    /// `None`: this shard has nothing of the kind.
    fn read(&self, op: &ReadOp) -> io::Result<Option<Outcome>> {
        let found = || {
            Ok(Some(match (self, op) {
                (Self::Timeline(reader), ReadOp::Timeline(op)) => Outcome::TimelineRead(reader.read(op)?),
                (Self::Timeline(reader), ReadOp::Head(op)) => Outcome::Head(reader.head(op)?),
                (Self::Timeline(reader), ReadOp::Heads(op)) => Outcome::HeadsRead(reader.heads(op)?),
                (Self::Timeline(reader), ReadOp::Group(op)) => Outcome::GroupRead(reader.group(op)?),
                (Self::Timeline(reader), ReadOp::Members(op)) => Outcome::MembersRead(reader.members(op)?),
                (Self::Timeline(reader), ReadOp::Memberships(op)) => Outcome::MembershipsRead(reader.memberships(op)?),
                (Self::Timeline(reader), ReadOp::Media(op)) => Outcome::MediaRead(reader.media(op)?),
                (Self::Timeline(reader), ReadOp::HeldMedia(op)) => Outcome::HeldMediaRead(reader.held_media(op)?),
                (Self::Timeline(reader), ReadOp::Scheduled(op)) => Outcome::ScheduledRead(reader.scheduled(op)?),
                (Self::Timeline(reader), ReadOp::Reports(op)) => Outcome::ReportsRead(reader.reports(op)?),
                (Self::Timeline(reader), ReadOp::Report(op)) => Outcome::ReportRead(Box::new(reader.report(op)?)),
                (Self::Timeline(reader), ReadOp::Groups(op)) => Outcome::GroupList(reader.groups(op)?),
                (Self::Timeline(reader), ReadOp::Outbox(op)) => Outcome::OutboxRead(reader.outbox(op)?),
                (Self::Timeline(reader), ReadOp::Conversations(op)) => {
                    Outcome::ConversationsRead(reader.conversations(op)?)
                }
                (Self::Timeline(reader), ReadOp::Marks(op)) => Outcome::MarksRead(reader.marks(op)?),
                (Self::Directory(reader), ReadOp::User(op)) => {
                    Outcome::User(reader.user_for(&op.user, op.by.as_ref())?)
                }
                (Self::Directory(reader), ReadOp::Contacts(op)) => Outcome::ContactsRead(reader.contacts(op)?),
                (Self::Directory(reader), ReadOp::Privacy(op)) => Outcome::Privacy(reader.read_privacy(op)?),
                (Self::Directory(reader), ReadOp::Allowed(op)) => Outcome::AllowedRead(reader.read_allowed(op)?),
                (Self::Directory(reader), ReadOp::Untold(op)) => Outcome::UntoldRead(reader.untold(op)?),
                (Self::Directory(reader), ReadOp::Accounts(op)) => Outcome::AccountList(reader.accounts(op)?),
                (Self::Directory(reader), ReadOp::CountAccounts(op)) => {
                    Outcome::AccountCount(reader.count_accounts(op)?)
                }
                (Self::Directory(reader), ReadOp::Sessions(op)) => Outcome::SessionList(reader.sessions(op)?),
                _ => return Ok(None),
            }))
        };
        match found() {
            Err(Unread::Rejected(rejected)) => {
                Ok(Some(Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) })))
            }
            Err(Unread::Engine(error)) => Err(error),
            Ok(outcome) => Ok(outcome),
        }
    }
}

pub(super) fn wrong_kind() -> Why {
    Why::Rejected(Rejected {
        reason: Reason::WrongShard.into(),
        detail: "this kind of shard has nothing of the kind that was asked for".to_owned(),
        ..Rejected::default()
    })
}
