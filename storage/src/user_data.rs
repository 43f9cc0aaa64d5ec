//! The gRPC service `UserData`: what the operator reads of a user. See docs/adr/0023-user-data.md.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use carillon_proto::{
    ShardId, ShardKind, ShardMap, TimelineId, UserId,
    pb::{
        store::{
            Person, ReadContacts, ReadConversations, ReadHead, ReadScheduled, ReadTimeline, Rejected, TimelineKey,
            rejected::Reason,
        },
        userdata::{
            AccountReply, AccountRequest, ContactsReply, ContactsRequest, ConversationsReply, ConversationsRequest,
            CursorPage, CursorsReply, CursorsRequest, DeviceCursor, File, FilePage, FilesReply, FilesRequest,
            InboxReply, InboxRequest, LeftReply, LeftRequest, NotLeader, ReportsReply, ReportsRequest, ScheduledReply,
            ScheduledRequest, account_reply, contacts_reply, conversations_reply, cursors_reply, files_reply,
            inbox_reply, reports_reply, scheduled_reply, user_data_server,
        },
    },
};
use tonic::{Request, Response, Status};

use crate::{
    cleansing::{Clean, erased_upto},
    cluster::{Cluster, Serving, started},
    machine::{CursorRow, FoundFile, Unread},
    raft::ReadError,
    shard::{Reader, Shard},
};

/// How long a shard may take to hear from a majority, and to apply what was accepted before the call.
const WAIT: Duration = Duration::from_secs(5);
/// Bytes of envelopes in one page.
const PAGE_BYTES: u32 = 1 << 20;
/// Cursors in one page.
const CURSORS: usize = 1000;

#[derive(Clone)]
pub(crate) struct UserDataService {
    serving: Arc<Serving>,
    clean: Arc<Clean>,
    /// The data folder.
    dir: PathBuf,
}

/// What a leader has read, or who leads instead.
enum Asked<T> {
    NotLeader(NotLeader),
    Found(T),
}

impl UserDataService {
    pub(crate) fn new(serving: Arc<Serving>, clean: Arc<Clean>, dir: &Path) -> Self {
        Self { serving, clean, dir: dir.to_owned() }
    }

    /// The cluster, if it is the one that is meant, and the user.
    fn cluster(&self, meant: &str, user: &str) -> Result<(&Cluster, UserId), Status> {
        let cluster = started(&self.serving)?;
        if meant != cluster.id {
            return Err(Status::failed_precondition(format!("this node is of the cluster {}", cluster.id)));
        }
        let user = UserId::new(user).map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok((cluster, user))
    }
}

#[tonic::async_trait]
impl user_data_server::UserData for UserDataService {
    async fn account(&self, request: Request<AccountRequest>) -> Result<Response<AccountReply>, Status> {
        use account_reply::Answer;
        let AccountRequest { cluster, user } = request.into_inner();
        let (cluster, user) = self.cluster(&cluster, &user)?;
        let shard = cluster.hosted.get(cluster.map.directory_of(&user));
        let found = ask(shard, move |reader| match reader {
            Reader::Directory(reader) => Ok(reader.user_without_keys(user.as_str())?),
            Reader::Timeline(_) => Err(wrong_kind()),
        });
        let answer = match found.await? {
            Asked::NotLeader(other) => Answer::NotLeader(other),
            Asked::Found(user) => Answer::User(user),
        };
        Ok(Response::new(AccountReply { answer: Some(answer) }))
    }

    async fn inbox(&self, request: Request<InboxRequest>) -> Result<Response<InboxReply>, Status> {
        use inbox_reply::Answer;
        let InboxRequest { cluster, user, incarnation, from_seq } = request.into_inner();
        let (cluster, user) = self.cluster(&cluster, &user)?;
        let (shard, timeline) = inbox_of(cluster.map, user);
        let timeline = Some(timeline);
        let read = ReadTimeline { timeline, from_seq, incarnation, max_bytes: PAGE_BYTES, ..ReadTimeline::default() };
        let found = ask(cluster.hosted.get(shard), move |reader| match reader {
            Reader::Timeline(reader) => reader.read(&read),
            Reader::Directory(_) => Err(wrong_kind()),
        });
        let answer = match found.await? {
            Asked::NotLeader(other) => Answer::NotLeader(other),
            Asked::Found(page) => Answer::Page(page),
        };
        Ok(Response::new(InboxReply { answer: Some(answer) }))
    }

    async fn cursors(&self, request: Request<CursorsRequest>) -> Result<Response<CursorsReply>, Status> {
        use cursors_reply::Answer;
        let CursorsRequest { cluster, user, incarnation, after } = request.into_inner();
        let (cluster, user) = self.cluster(&cluster, &user)?;
        let (shard, timeline) = inbox_of(cluster.map, user);
        let inbox = ReadHead { timeline: Some(timeline), incarnation, ..ReadHead::default() };
        let found = ask(cluster.hosted.get(shard), move |reader| match reader {
            Reader::Timeline(reader) => reader.cursors(&inbox, &after, CURSORS),
            Reader::Directory(_) => Err(wrong_kind()),
        });
        let answer = match found.await? {
            Asked::NotLeader(other) => Answer::NotLeader(other),
            Asked::Found((cursors, next)) => {
                let cursors = cursors
                    .into_iter()
                    .map(|CursorRow { device, group, epoch, seq }| DeviceCursor { device, group, epoch, seq })
                    .collect();
                Answer::Page(CursorPage { cursors, next: next.into() })
            }
        };
        Ok(Response::new(CursorsReply { answer: Some(answer) }))
    }

    async fn conversations(
        &self,
        request: Request<ConversationsRequest>,
    ) -> Result<Response<ConversationsReply>, Status> {
        use conversations_reply::Answer;
        let ConversationsRequest { cluster, user, incarnation, after } = request.into_inner();
        let (cluster, user) = self.cluster(&cluster, &user)?;
        let (shard, timeline) = inbox_of(cluster.map, user);
        let read = ReadConversations {
            timeline: Some(timeline),
            incarnation,
            after,
            declined: true,
            ..ReadConversations::default()
        };
        let found = ask(cluster.hosted.get(shard), move |reader| match reader {
            Reader::Timeline(reader) => reader.conversations(&read),
            Reader::Directory(_) => Err(wrong_kind()),
        });
        let answer = match found.await? {
            Asked::NotLeader(other) => Answer::NotLeader(other),
            Asked::Found(page) => Answer::Page(page),
        };
        Ok(Response::new(ConversationsReply { answer: Some(answer) }))
    }

    async fn scheduled(&self, request: Request<ScheduledRequest>) -> Result<Response<ScheduledReply>, Status> {
        use scheduled_reply::Answer;
        let ScheduledRequest { cluster, user, incarnation, after } = request.into_inner();
        let (cluster, user) = self.cluster(&cluster, &user)?;
        let (shard, timeline) = inbox_of(cluster.map, user);
        let read = ReadScheduled { timeline: Some(timeline), incarnation, after };
        let found = ask(cluster.hosted.get(shard), move |reader| match reader {
            Reader::Timeline(reader) => reader.scheduled(&read),
            Reader::Directory(_) => Err(wrong_kind()),
        });
        let answer = match found.await? {
            Asked::NotLeader(other) => Answer::NotLeader(other),
            Asked::Found(page) => Answer::Page(page),
        };
        Ok(Response::new(ScheduledReply { answer: Some(answer) }))
    }

    async fn reports(&self, request: Request<ReportsRequest>) -> Result<Response<ReportsReply>, Status> {
        use reports_reply::Answer;
        let ReportsRequest { cluster, user, incarnation } = request.into_inner();
        let (cluster, user) = self.cluster(&cluster, &user)?;
        let (shard, _) = inbox_of(cluster.map, user.clone());
        let reporter = Person { user: user.as_str().to_owned(), incarnation };
        let found = ask(cluster.hosted.get(shard), move |reader| match reader {
            Reader::Timeline(reader) => reader.reports_by(&reporter),
            Reader::Directory(_) => Err(wrong_kind()),
        });
        let answer = match found.await? {
            Asked::NotLeader(other) => Answer::NotLeader(other),
            Asked::Found(reports) => Answer::Reports(reports),
        };
        Ok(Response::new(ReportsReply { answer: Some(answer) }))
    }

    async fn contacts(&self, request: Request<ContactsRequest>) -> Result<Response<ContactsReply>, Status> {
        use contacts_reply::Answer;
        let ContactsRequest { cluster, user, incarnation, after } = request.into_inner();
        let (cluster, user) = self.cluster(&cluster, &user)?;
        let shard = cluster.hosted.get(cluster.map.directory_of(&user));
        let user = user.as_str().to_owned();
        let read = ReadContacts { user, incarnation, after, ..ReadContacts::default() };
        let found = ask(shard, move |reader| match reader {
            Reader::Directory(reader) => reader.contacts(&read),
            Reader::Timeline(_) => Err(wrong_kind()),
        });
        let answer = match found.await? {
            Asked::NotLeader(other) => Answer::NotLeader(other),
            Asked::Found(page) => Answer::Page(page),
        };
        Ok(Response::new(ContactsReply { answer: Some(answer) }))
    }

    async fn files(&self, request: Request<FilesRequest>) -> Result<Response<FilesReply>, Status> {
        use files_reply::Answer;
        let FilesRequest { cluster, user, incarnation, after } = request.into_inner();
        let (cluster, user) = self.cluster(&cluster, &user)?;
        let owner = Person { user: user.as_str().to_owned(), incarnation };
        let (shard, _) = inbox_of(cluster.map, user);
        let found = ask(cluster.hosted.get(shard), move |reader| match reader {
            Reader::Timeline(reader) => Ok(reader.files_of(&owner, &after)?),
            Reader::Directory(_) => Err(wrong_kind()),
        });
        let answer = match found.await? {
            Asked::NotLeader(other) => Answer::NotLeader(other),
            Asked::Found((files, next)) => {
                let file = |FoundFile { id, row, held }: FoundFile| File {
                    id: id.as_bytes().to_vec().into(),
                    row: Some(row),
                    held,
                };
                Answer::Page(FilePage { files: files.into_iter().map(file).collect(), next: next.into() })
            }
        };
        Ok(Response::new(FilesReply { answer: Some(answer) }))
    }

    async fn left(&self, request: Request<LeftRequest>) -> Result<Response<LeftReply>, Status> {
        let LeftRequest { cluster, user } = request.into_inner();
        let (cluster, user) = self.cluster(&cluster, &user)?;
        let own = cluster.map.directory_of(&user);
        let shards: Vec<Shard> = cluster.shards().values().cloned().collect();
        let (clean, dir) = (Arc::clone(&self.clean), self.dir.clone());
        let looking = tokio::task::spawn_blocking(move || left(&shards, &clean, &dir, &user, own));
        let left = looking.await.map_err(|error| Status::internal(error.to_string()))?;
        left.map(Response::new).map_err(|error| Status::unavailable(error.to_string()))
    }
}

/// What this disk still has of the user. Blocking.
fn left(shards: &[Shard], clean: &Clean, dir: &Path, user: &UserId, own: ShardId) -> io::Result<LeftReply> {
    let mut left = LeftReply::default();
    for shard in shards {
        let id = shard.id();
        let has_heard = match shard.reader() {
            Reader::Directory(reader) => id != own || reader.is_erased(user.as_str())?,
            Reader::Timeline(reader) => reader.is_erased(user.as_str())?,
        };
        let upto = erased_upto(shard.reader())?;
        left.behind += u32::from(!has_heard);
        match id.kind {
            ShardKind::Timeline => left.timelines += u32::from(upto > clean.upto(id, shard.group().replica())),
            ShardKind::Directory => {
                let replica = shard.group().replica();
                let is_coming = upto <= clean.coming(id, replica);
                left.directories += u32::from(!is_coming);
                left.until_restart |= is_coming && upto > clean.upto(id, replica);
            }
        }
    }
    let hosted = shards.iter().map(|shard| (shard.id().group(), shard.group().replica())).collect();
    let (timelines, directories, until_restart) = clean.ask_for_gone(&hosted);
    left.timelines += timelines;
    left.directories += directories;
    left.until_restart |= until_restart;
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("aside-") || name.ends_with(".corrupt") {
            left.aside.push(dir.join(name).display().to_string());
        }
    }
    Ok(left)
}

fn inbox_of(map: ShardMap, user: UserId) -> (ShardId, TimelineKey) {
    let timeline = TimelineId::Inbox(user);
    (map.timeline_of(&timeline), timeline.to_key())
}

/// Reads what the shard's leader has, with everything that was accepted before the call.
async fn ask<T: Send + 'static>(
    shard: Option<Shard>,
    read: impl FnOnce(&Reader) -> Result<T, Unread> + Send + 'static,
) -> Result<Asked<T>, Status> {
    let Some(shard) = shard else { return Ok(Asked::NotLeader(NotLeader::default())) };
    if shard.alarm().is_raised() {
        return Err(Status::unavailable("the disk fails this node: it leaves service"));
    }
    match shard.group().linearize(WAIT).await {
        Ok(()) => {}
        Err(ReadError::NotLeader { leader }) => {
            return Ok(Asked::NotLeader(NotLeader { leader: leader.unwrap_or_default() }));
        }
        Err(error) => return Err(Status::unavailable(error.to_string())),
    }
    let reading = tokio::task::spawn_blocking(move || {
        let found = match read(shard.reader()) {
            Err(Unread::Engine(error)) => Err(error),
            other => Ok(other),
        };
        let found = shard.alarm().hear(format_args!("shard {}", shard.id()), found);
        (found, shard.group().is_closed() || shard.alarm().is_raised())
    });
    match reading.await.map_err(|error| Status::internal(error.to_string()))? {
        (_, true) => Err(Status::unavailable("this node's replica is leaving the shard")),
        (Err(error), _) => Err(Status::unavailable(error.to_string())),
        (Ok(Ok(found)), _) => Ok(Asked::Found(found)),
        (Ok(Err(Unread::Rejected(rejected))), _) => Err(Status::failed_precondition(rejected.detail)),
        (Ok(Err(Unread::Engine(error))), _) => Err(Status::unavailable(error.to_string())),
    }
}

fn wrong_kind() -> Unread {
    let detail = "this kind of shard has nothing of the kind that was asked for".to_owned();
    Unread::Rejected(Rejected { reason: Reason::WrongShard.into(), detail, ..Rejected::default() })
}
