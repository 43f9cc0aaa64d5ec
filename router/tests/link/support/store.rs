//! One storage node that keeps everything in memory, keeps the contract of `Store` and `Registry`, and fails on
//! command.

use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::Arc,
};

use bytes::Bytes;
use carillon_proto::{
    Level, ShardMap, UserId,
    pb::{
        link::RawEnvelope,
        store::{
            Account, AccountChanged, Append, Appended, Contact, Conversation, ConversationRow, ConversationsMoved,
            DeregisterReply, DeregisterRequest, Done, FindMessageReply, FindMessageRequest, FromStore, Head, HeadRead,
            Header, HeadsRead, LaneClosed, LeadsReply, LeadsRequest, Node, NodeKind, NotLeader, OutboxRead, ReadHead,
            RegisterReply, RegisterRequest, RegistryView, Rejected, Release, RenewReply, RenewRequest,
            ScheduledChanged, Session, SessionPut, SettleScheduled, StoreError, StoreReply, StoreRequest, TimelineKey,
            ToStore, User, WatchRequest,
            directory_command::Op as Directory,
            header,
            move_marks::Mark,
            outbox_read,
            outbox_row::Task,
            put_account::Mode,
            registry_server::{Registry, RegistryServer},
            rejected,
            settle_outbox::Verdict,
            store_error::Why,
            store_reply::Result as Reply,
            store_request::Op,
            store_server::{Store, StoreServer},
            timeline_command::Op as Timeline,
        },
    },
    peer::{PeerSecurity, Tier},
    sessions,
    tasks::Tasks,
};
use futures_util::{Stream, StreamExt as _};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, service::interceptor::InterceptedService};

use super::contacts::Contacts;

pub(crate) struct MemoryStore {
    address: String,
    view: watch::Sender<RegistryView>,
    state: Arc<Mutex<State>>,
    tasks: Tasks,
}

#[derive(Default)]
struct State {
    last_lease: u64,
    nonces: HashMap<Bytes, u64>,
    accounts: BTreeMap<String, Account>,
    sessions: BTreeMap<String, Vec<Session>>,
    inboxes: HashMap<String, Vec<(Bytes, Bytes)>>,
    /// By the index of the shard.
    outboxes: BTreeMap<u32, Vec<outbox_read::Row>>,
    dead_letters: BTreeMap<u32, Vec<outbox_read::Row>>,
    cut: CancellationToken,
    level: u32,
    refuse: u32,
    lose: u32,
    keeps_senders: bool,
    /// Commands that are refused because their shard's level is below the cluster's.
    below_level: u32,
    contacts: Contacts,
    /// Of all appends, in order, with whose inbox it was.
    headers: Vec<(String, Option<Box<Header>>)>,
    /// Scheduled messages that are no longer being sent, and why not if they were not sent.
    settled: Vec<(u64, String)>,
    outbox_reads: u32,
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl MemoryStore {
    pub(crate) async fn start(users: &[&str], security: &PeerSecurity, tasks: &Tasks) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound").to_string();
        let storage = Node { lease: 1, kind: NodeKind::Storage.into(), address: address.clone(), slot: None };
        let view = RegistryView {
            version: 1,
            directory_shards: 4,
            timeline_shards: 4,
            storage: vec![storage],
            level: 1,
            ..RegistryView::default()
        };
        let account = |user: &&str| ((*user).to_owned(), Account { user: (*user).to_owned(), ..Account::default() });
        let state = State { accounts: users.iter().map(account).collect(), level: 1, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let store = Arc::new(Self { address, view: watch::channel(view).0, state, tasks: tasks.clone() });
        let check = security.check(&[Tier::Router]);
        let serve = security
            .server()
            .add_service(InterceptedService::new(StoreServer::from_arc(Arc::clone(&store)), check.clone()))
            .add_service(InterceptedService::new(RegistryServer::from_arc(Arc::clone(&store)), check))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
        tasks.spawn("memory_store", async move {
            serve.await.expect("serves");
        });
        store
    }

    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    pub(crate) fn view(&self) -> RegistryView {
        self.view.borrow().clone()
    }

    pub(crate) fn register(&self, kind: NodeKind) -> u64 {
        let lease = {
            let mut state = self.state.lock();
            state.last_lease += 1;
            state.last_lease
        };
        self.change(|view| view.nodes.push(Node { lease, kind: kind.into(), ..Node::default() }));
        lease
    }

    /// As long as one storage node runs the release before.
    pub(crate) fn is_below_level_1(&self) {
        self.state.lock().level = 0;
        self.change(|view| view.level = 0);
    }

    pub(crate) fn has_groups(&self) {
        self.state.lock().level = Level::GROUPS.0;
        self.change(|view| view.level = Level::GROUPS.0);
    }

    pub(crate) fn has_contact(&self, user: &str, contact: &str, row: Contact) {
        self.state.lock().contacts.put(user, contact, row);
    }

    pub(crate) fn contact(&self, user: &str, contact: &str) -> Option<Contact> {
        self.state.lock().contacts.row(user, contact)
    }

    /// The row stands in the outbox of the group's shard, or among its dead letters.
    pub(crate) fn has_row(&self, group: &str, row: outbox_read::Row, dead: bool) {
        let shard = ShardMap { directory: 4, timeline: 4 }.timeline_of_owner(group).index.into();
        let mut state = self.state.lock();
        let rows = if dead { &mut state.dead_letters } else { &mut state.outboxes };
        rows.entry(shard).or_default().push(row);
    }

    /// The account has ended.
    pub(crate) fn is_deleted(&self, user: &str) {
        self.state.lock().accounts.get_mut(user).expect("there").deleted = true;
    }

    /// What has become of scheduled messages: their ids, and why they were not sent.
    pub(crate) fn settled(&self) -> Vec<(u64, String)> {
        self.state.lock().settled.clone()
    }

    /// How often outboxes were read.
    pub(crate) fn outbox_reads(&self) -> u32 {
        self.state.lock().outbox_reads
    }

    /// Everything that follows is done.
    pub(crate) fn outboxes_are_empty(&self) -> bool {
        self.state.lock().outboxes.values().all(Vec::is_empty)
    }

    /// The next write is refused, and so are those after it in its lane; `times` over.
    pub(crate) fn refuse_next(&self, times: u32) {
        self.state.lock().refuse = times;
    }

    /// The next answers of writes are lost, and then the stream breaks.
    pub(crate) fn lose_answers(&self, count: u32) {
        self.state.lock().lose = count;
    }

    /// No shard ends what a user's sessions of before may still send.
    pub(crate) fn keep_senders(&self) {
        self.state.lock().keeps_senders = true;
    }

    /// The shards follow the cluster's level: this many commands that need it are refused before.
    pub(crate) fn follow_the_level(&self, refused: u32) {
        self.state.lock().below_level = refused;
    }

    /// All of them have been refused.
    pub(crate) fn has_the_level(&self) -> bool {
        self.state.lock().below_level == 0
    }

    pub(crate) fn cut_streams(&self) {
        std::mem::take(&mut self.state.lock().cut).cancel();
    }

    pub(crate) fn end_leases(&self, kind: NodeKind) {
        self.change(|view| view.nodes.retain(|node| node.kind() != kind));
    }

    /// A new version without a change of the routers.
    pub(crate) fn change_ring(&self) {
        self.view.send_modify(|view| {
            view.version += 1;
            view.ring_version = view.version;
        });
    }

    /// What appends have said so far of their messages, each with whose inbox it was.
    pub(crate) fn headers(&self) -> Vec<(String, Option<Box<Header>>)> {
        self.state.lock().headers.clone()
    }

    /// What stands in an inbox, by the clients' ids.
    pub(crate) fn client_ids(&self, user: &str) -> Vec<String> {
        let state = self.state.lock();
        let envelopes = state.inboxes.get(user).into_iter().flatten();
        envelopes.map(|(_, bytes)| RawEnvelope::decode(bytes.clone()).expect("encoded").client_id).collect()
    }

    fn change(&self, change: impl FnOnce(&mut RegistryView)) {
        self.view.send_modify(|view| {
            let routers = |view: &RegistryView| view.nodes.iter().filter(|n| n.kind() == NodeKind::Router).count();
            let before = routers(view);
            change(view);
            view.version += 1;
            if routers(view) != before {
                view.ring_version = view.version;
            }
        });
    }
}

impl State {
    fn carry_out(&mut self, request: &StoreRequest, closed: &mut HashMap<(i32, u32), u64>) -> Reply {
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
            other @ (Op::ReadTimeline(_)
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
            | Op::ReadScheduled(_)) => panic!("not asked here: {other:?}"),
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
        Reply::ScheduledChanged(ScheduledChanged { version: 9, id: op.id, changed: found > 0 })
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
            | Timeline::EndTimeline(_) => Reply::Done(Done {}),
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
            Timeline::EraseSender(_) => panic!("nobody is erased here"),
            Timeline::ChangeGroup(_) => {
                panic!("there are no groups here")
            }
            Timeline::CollectGarbage(_)
            | Timeline::Redact(_)
            | Timeline::SenderErased(_)
            | Timeline::SweepConversations(_)
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

#[tonic::async_trait]
impl Store for MemoryStore {
    type StreamStream = Out<FromStore>;

    async fn find_message(&self, _: Request<FindMessageRequest>) -> Result<Response<FindMessageReply>, Status> {
        Err(Status::unimplemented("release 0.1.0 does not have it"))
    }

    async fn stream(&self, request: Request<Streaming<ToStore>>) -> Result<Response<Self::StreamStream>, Status> {
        let mut requests = request.into_inner();
        let (answers, queue) = mpsc::channel(1000);
        let cut = self.state.lock().cut.clone();
        let this = Arc::clone(&self.state);
        let ends = cut.clone();
        self.tasks.spawn("memory_store_stream", async move {
            let mut closed = HashMap::new();
            while let Ok(Some(batch)) = requests.message().await {
                let mut replies = Vec::new();
                for request in batch.requests {
                    let mut state = this.lock();
                    if ends.is_cancelled() {
                        return;
                    }
                    let result = state.carry_out(&request, &mut closed);
                    if state.lose > 0 && matches!(result, Reply::Appended(_) | Reply::Done(_)) {
                        state.lose -= 1;
                        if state.lose == 0 {
                            std::mem::take(&mut state.cut).cancel();
                        }
                        continue;
                    }
                    replies.push(StoreReply { id: request.id, result: Some(result) });
                }
                if answers.send(Ok(FromStore { replies })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(queue).take_until(cut.cancelled_owned()).boxed()))
    }
}

#[tonic::async_trait]
impl Registry for MemoryStore {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterReply>, Status> {
        let RegisterRequest { kind, address, nonce, .. } = request.into_inner();
        let (lease, new) = {
            let mut state = self.state.lock();
            match state.nonces.get(&nonce) {
                Some(lease) => (*lease, false),
                None => {
                    state.last_lease += 1;
                    let lease = state.last_lease;
                    state.nonces.insert(nonce, lease);
                    (lease, true)
                }
            }
        };
        if new {
            self.change(|view| view.nodes.push(Node { lease, kind, address, slot: None }));
        }
        Ok(Response::new(RegisterReply { lease }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        let lease = request.into_inner().lease;
        if self.view().nodes.iter().any(|node| node.lease == lease) {
            Ok(Response::new(RenewReply {}))
        } else {
            Err(Status::failed_precondition("the lease has ended"))
        }
    }

    async fn leads(&self, _: Request<LeadsRequest>) -> Result<Response<LeadsReply>, Status> {
        let release = Some(Release { version: "0.1.0".to_owned(), level: 1 });
        Ok(Response::new(LeadsReply { release, ..LeadsReply::default() }))
    }

    async fn deregister(&self, request: Request<DeregisterRequest>) -> Result<Response<DeregisterReply>, Status> {
        let lease = request.into_inner().lease;
        self.change(|view| view.nodes.retain(|node| node.lease != lease));
        Ok(Response::new(DeregisterReply {}))
    }

    type WatchStream = Out<RegistryView>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let tasks = self.tasks.clone();
        let ends = Box::pin(async move { tasks.stopping().await });
        Ok(Response::new(WatchStream::new(self.view.subscribe()).map(Ok).take_until(ends).boxed()))
    }
}

fn owner(timeline: &Option<TimelineKey>) -> &str {
    timeline.as_ref().expect("set").owner_str().expect("UTF-8")
}
