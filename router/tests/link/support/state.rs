//! Content of the store in memory, with its commands and reads.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use carillon_proto::{
    ShardMap, UserId,
    pb::store::{
        Account, AccountChanged, Append, Appended, CollectMedia, Conversation, ConversationRow, ConversationsMoved,
        Done, Head, HeadRead, Header, HeadsRead, HeldMediaRead, LaneClosed, NotLeader, NoteReleasedMedia, OutboxRead,
        ReadHead, Rejected, ScheduledChanged, Session, SessionPut, SettleScheduled, StoreError, StoreRequest,
        TimelineKey, User, directory_command::Op as Directory, header, move_marks::Mark, outbox_read, outbox_row::Task,
        put_account::Mode, rejected, settle_outbox::Verdict, store_error::Why, store_reply::Result as Reply,
        store_request::Op, timeline_command::Op as Timeline,
    },
    sessions,
};
use tokio_util::sync::CancellationToken;

use super::contacts::Contacts;

#[derive(Default)]
pub(super) struct State {
    pub(super) last_lease: u64,
    pub(super) nonces: HashMap<Bytes, u64>,
    pub(super) accounts: BTreeMap<String, Account>,
    pub(super) sessions: BTreeMap<String, Vec<Session>>,
    pub(super) inboxes: HashMap<String, Vec<(Bytes, Bytes)>>,
    /// By the index of the shard.
    pub(super) outboxes: BTreeMap<u32, Vec<outbox_read::Row>>,
    pub(super) dead_letters: BTreeMap<u32, Vec<outbox_read::Row>>,
    pub(super) cut: CancellationToken,
    pub(super) level: u32,
    pub(super) refuse: u32,
    pub(super) lose: u32,
    pub(super) keeps_senders: bool,
    /// Commands that are refused because their shard's level is below the cluster's.
    pub(super) below_level: u32,
    pub(super) contacts: Contacts,
    /// Of all appends, in order, with whose inbox it was.
    pub(super) headers: Vec<(String, Option<Box<Header>>)>,
    /// Scheduled messages that are no longer being sent, and why not if they were not sent.
    pub(super) settled: Vec<(u64, String)>,
    pub(super) outbox_reads: u32,
    /// Files that shards hold, by the index of the shard.
    pub(super) held: BTreeMap<u32, Vec<Bytes>>,
    /// Questions and news about files, in order, with the index of the shard that heard them.
    pub(super) about_files: Vec<(u32, AboutFiles)>,
}

/// A command about files that something referred to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AboutFiles {
    Released(NoteReleasedMedia),
    Collected(CollectMedia),
}

impl State {
    pub(super) fn carry_out(&mut self, request: &StoreRequest, closed: &mut HashMap<(i32, u32), u64>) -> Reply {
        let refused = |why| Reply::Error(StoreError { why: Some(why) });
        let shard = request.shard.expect("set");
        let shard = (shard.kind, shard.index);
        let is_write = matches!(request.op, Some(Op::Timeline(_) | Op::Directory(_)));
        if is_write {
            let closed = closed.entry(shard).or_default();
            if request.lane <= *closed {
                return refused(Why::LaneClosed(LaneClosed {}));
            }
            if self.refuse > 0 {
                self.refuse -= 1;
                *closed = request.lane;
                return refused(Why::NotLeader(NotLeader { leader: String::new() }));
            }
        }
        match request.op.as_ref().expect("set") {
            Op::Timeline(command) => self.timeline(shard.1, command.op.as_ref().expect("set")),
            Op::Directory(command) => self.directory(command.op.as_ref().expect("set")),
            Op::ReadHead(read) => {
                let last = self.inboxes.get(owner(&read.timeline)).map_or(0, Vec::len) as u64;
                Reply::Head(Head { epoch: 1, first: 1, last, ..Head::default() })
            }
            Op::ReadHeads(read) => {
                let head = |read: &ReadHead| {
                    let last = self.inboxes.get(owner(&read.timeline)).map_or(0, Vec::len) as u64;
                    HeadRead { head: Some(Head { epoch: 1, first: 1, last, ..Head::default() }) }
                };
                Reply::HeadsRead(HeadsRead { heads: read.reads.iter().map(head).collect() })
            }
            Op::ReadContacts(read) => self.contacts.read(read),
            Op::ReadUntold(_) => {
                let map = ShardMap { directory: 4, timeline: 4 };
                let of = |user: &str| {
                    UserId::new(user).is_ok_and(|user| u32::from(map.directory_of(&user).index) == shard.1)
                };
                self.contacts.untold(of)
            }
            Op::ReadUser(read) => Reply::User(User {
                account: self.accounts.get(&read.user).cloned(),
                sessions: self.sessions.get(&read.user).cloned().unwrap_or_default(),
                ..User::default()
            }),
            Op::ReadOutbox(read) => {
                self.outbox_reads += 1;
                let rows = if read.dead { &self.dead_letters } else { &self.outboxes };
                let rows = rows.get(&shard.1).into_iter().flatten();
                let mut rows: Vec<_> = rows
                    .filter(|row| (row.index, row.number) > (read.after_index, read.after_number))
                    .cloned()
                    .collect();
                let limit = if read.limit == 0 { rows.len() } else { rows.len().min(read.limit as usize) };
                let complete = limit == rows.len();
                rows.truncate(limit);
                Reply::OutboxRead(OutboxRead { rows, complete, ..OutboxRead::default() })
            }
            Op::ReadHeldMedia(read) => {
                let held = self.held.get(&shard.1);
                let is_held = |id: &&Bytes| held.is_some_and(|held| held.contains(id));
                Reply::HeldMediaRead(HeldMediaRead { ids: read.ids.iter().filter(is_held).cloned().collect() })
            }
            other @ (Op::ReadTimeline(_)
            | Op::CountAccounts(_)
            | Op::ListAccounts(_)
            | Op::ListSessions(_)
            | Op::ReadGroup(_)
            | Op::ReadMembers(_)
            | Op::ReadMemberships(_)
            | Op::ReadConversations(_)
            | Op::ReadMarks(_)
            | Op::ReadMedia(_)
            | Op::ReadPrivacy(_)
            | Op::ReadAllowed(_)
            | Op::ReadScheduled(_)
            | Op::ReadReports(_)
            | Op::ListGroups(_)
            | Op::ReadReport(_)) => panic!("not asked here: {other:?}"),
        }
    }

    fn append(&mut self, append: &Append) -> Reply {
        if let Some(header) = append.header.as_deref().filter(|header| header.kind() == header::Kind::Edit) {
            let detail = format!("a message can be edited for {} ms", header.edit_window_ms);
            let rejected = Rejected { reason: rejected::Reason::TooLate.into(), detail, ..Rejected::default() };
            return Reply::Error(StoreError { why: Some(Why::Rejected(rejected)) });
        }
        self.headers.push((owner(&append.timeline).to_owned(), append.header.clone()));
        let inbox = self.inboxes.entry(owner(&append.timeline).to_owned()).or_default();
        let found = inbox.iter().position(|(key, _)| *key == append.duplicate_key);
        let first_envelope = found.map_or_else(Bytes::new, |at| inbox[at].1.clone());
        if found.is_none() {
            inbox.push((append.duplicate_key.clone(), append.envelope.clone()));
        }
        let seq = found.map_or(inbox.len(), |at| at + 1) as u64;
        Reply::Appended(Appended { epoch: 1, seq, first_envelope, ..Appended::default() })
    }

    fn settle_scheduled(&mut self, shard: u32, op: &SettleScheduled) -> Reply {
        let rows = self.outboxes.entry(shard).or_default().iter_mut();
        let is_meant = |row: &&mut outbox_read::Row| match row.row.as_ref().and_then(|row| row.task.as_ref()) {
            Some(Task::SendScheduled(send)) => send.id == op.id && row.scheduled.is_some(),
            _ => false,
        };
        let found = rows.filter(is_meant).map(|row| row.scheduled = None).count();
        if found > 0 {
            self.settled.push((op.id, op.failed.clone()));
        }
        Reply::ScheduledChanged(ScheduledChanged {
            version: 9,
            id: op.id,
            changed: found > 0,
            failed: !op.failed.is_empty(),
        })
    }

    fn timeline(&mut self, shard: u32, op: &Timeline) -> Reply {
        match op {
            Timeline::Append(append) => self.append(append),
            Timeline::SetMembership(set) => self.append(set.append.as_ref().expect("set")),
            Timeline::SettleOutbox(settle) => {
                let verdict =
                    |row: &outbox_read::Row| settle.rows.iter().find(|of| of.index == row.index).map(|of| of.verdict());
                let waiting = self.outboxes.entry(shard).or_default();
                waiting.retain(|row| verdict(row) != Some(Verdict::Done));
                let letters = self.dead_letters.entry(shard).or_default();
                waiting.extend(letters.iter().filter(|row| verdict(row) == Some(Verdict::Replay)).cloned());
                letters.retain(|row| !matches!(verdict(row), Some(Verdict::Replay | Verdict::Discard)));
                Reply::Done(Done {})
            }
            Timeline::EndSender(_) if self.keeps_senders => {
                let rejected =
                    Rejected { reason: rejected::Reason::Invalid.into(), detail: "kept".into(), ..Rejected::default() };
                Reply::Error(StoreError { why: Some(Why::Rejected(rejected)) })
            }
            Timeline::EndSender(_) if self.below_level > 0 => {
                self.below_level -= 1;
                let rejected = Rejected {
                    reason: rejected::Reason::Level.into(),
                    detail: "not yet".into(),
                    ..Rejected::default()
                };
                Reply::Error(StoreError { why: Some(Why::Rejected(rejected)) })
            }
            Timeline::SetCursor(_)
            | Timeline::Trim(_)
            | Timeline::AdvanceClock(_)
            | Timeline::SweepCursors(_)
            | Timeline::SweepMemberships(_)
            | Timeline::RenewEpoch(_)
            | Timeline::CreateMedia(_)
            | Timeline::CompleteMedia(_)
            | Timeline::RemoveMedia(_)
            | Timeline::ExpireMessages(_)
            | Timeline::EndTimeline(_) => Reply::Done(Done {}),
            Timeline::NoteReleasedMedia(op) => {
                self.about_files.push((shard, AboutFiles::Released(op.clone())));
                Reply::Done(Done {})
            }
            Timeline::CollectMedia(op) => {
                self.about_files.push((shard, AboutFiles::Collected(op.clone())));
                Reply::Done(Done {})
            }
            Timeline::EndSender(_) => {
                assert!(self.level >= 1, "a storage node of the release before stops at it");
                Reply::Done(Done {})
            }
            Timeline::MoveCursors(_) => {
                assert!(self.level >= 2, "a storage node of the release before stops at it");
                Reply::Done(Done {})
            }
            Timeline::MoveMarks(moves) => {
                let row = |mark: &Mark| ConversationRow {
                    conversation: mark.conversation.clone(),
                    row: Some(Conversation { read_seq: mark.seq, ..Conversation::default() }),
                    read_id: format!("m{}", mark.seq),
                    ..ConversationRow::default()
                };
                let rows = moves.marks.iter().map(row).collect();
                Reply::ConversationsMoved(ConversationsMoved { epoch: 1, before: 0, version: 1, rows })
            }
            Timeline::SetConversation(_) => panic!("nobody wants anything here"),
            Timeline::SettleScheduled(settle) => self.settle_scheduled(shard, settle),
            Timeline::Schedule(_) | Timeline::ChangeScheduled(_) | Timeline::ReleaseScheduled(_) => {
                panic!("nothing is scheduled here")
            }
            Timeline::PutReport(_) | Timeline::SettleReport(_) => panic!("nothing is reported here"),
            Timeline::EraseSender(_) => panic!("nobody is erased here"),
            Timeline::ChangeGroup(_) => {
                panic!("there are no groups here")
            }
            Timeline::CollectGarbage(_)
            | Timeline::Redact(_)
            | Timeline::SenderErased(_)
            | Timeline::ForgetReleasedMedia(_)
            | Timeline::CheckMedia(_)
            | Timeline::SweepConversations(_)
            | Timeline::RemoveReports(_)
            | Timeline::SetLevel(_) => {
                panic!("only a storage node asks for it")
            }
        }
    }

    fn directory(&mut self, op: &Directory) -> Reply {
        match op {
            Directory::PutAccount(put) => {
                let account = put.account.clone().expect("set");
                let exists = self.accounts.contains_key(&account.user);
                let is_same = self.accounts.get(&account.user) == Some(&account);
                if exists && !is_same && put.mode() == Mode::Create {
                    let rejected = Rejected {
                        reason: rejected::Reason::Exists.into(),
                        detail: String::new(),
                        ..Rejected::default()
                    };
                    return Reply::Error(StoreError { why: Some(Why::Rejected(rejected)) });
                }
                if !exists || put.mode() == Mode::Replace {
                    self.accounts.insert(account.user.clone(), account.clone());
                }
                if put.mode() != Mode::Ensure {
                    return Reply::AccountChanged(AccountChanged { account: Some(account), over: Vec::new() });
                }
            }
            Directory::DeleteAccount(delete) => {
                if self.accounts.remove(&delete.user).is_none() {
                    let rejected = Rejected {
                        reason: rejected::Reason::NotFound.into(),
                        detail: "nobody".into(),
                        ..Rejected::default()
                    };
                    return Reply::Error(StoreError { why: Some(Why::Rejected(rejected)) });
                }
                let account =
                    Account { user: delete.user.clone(), incarnation: 7, deleted: true, ..Account::default() };
                return Reply::AccountChanged(AccountChanged { account: Some(account), over: Vec::new() });
            }
            Directory::EndSessions(end) => {
                let account = self.accounts.get_mut(&end.user).expect("made");
                account.generation += 1;
                let over = self.sessions.get(&end.user).cloned().unwrap_or_default();
                return Reply::AccountChanged(AccountChanged { account: Some(account.clone()), over });
            }
            Directory::InboxEnded(ended) => assert_eq!(ended.incarnation, 7),
            Directory::PutSession(put) => {
                let session = put.session.clone().expect("set");
                let sessions = self.sessions.entry(session.user.clone()).or_default();
                let old = sessions.iter().position(|old| old.device == session.device);
                if let Some(old) = old {
                    if sessions::overtook(&sessions[old], &session, put.announced) {
                        return Reply::SessionPut(SessionPut {
                            kept: Some(sessions[old].clone()),
                            ..SessionPut::default()
                        });
                    }
                    let replaced = std::mem::replace(&mut sessions[old], session.clone());
                    let replaced = Some(replaced).filter(|replaced| *replaced != session);
                    return Reply::SessionPut(SessionPut { replaced, ..SessionPut::default() });
                }
                sessions.push(session);
                return Reply::SessionPut(SessionPut::default());
            }
            Directory::DeleteSession(delete) => {
                let sessions = self.sessions.entry(delete.user.clone()).or_default();
                sessions.retain(|s| (s.lease, s.connection) != (delete.lease, delete.connection));
            }
            Directory::ChangeContact(change) => {
                return self.contacts.change(change, self.accounts.contains_key(&change.user));
            }
            other => panic!("not asked here: {other:?}"),
        }
        Reply::Done(Done {})
    }
}

fn owner(timeline: &Option<TimelineKey>) -> &str {
    timeline.as_ref().expect("set").owner_str().expect("UTF-8")
}
