//! A router that keeps everything in memory: enough of one to play with a gateway.

mod contacts;
mod conversations;
mod groups;
mod media;
mod references;
pub(crate) mod reports;
mod scheduled;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use carillon_proto::{
    Level, MediaId,
    pb::{
        client::{Code, Position, Recipient, Timeline, recipient::To, timeline::Owner},
        link::{
            Accepted, ChangeContact, ChangePrivacy, DirectAnswer, Done, Evict, FromRouter, Push, RawEnvelope, Refusal,
            RouterReply, RouterRequest, Send, SendTo, SessionOpened, SessionPresence, TellChatState, TimelineHead,
            ToRouter,
            router_reply::Result as Reply,
            router_request::Op,
            router_server::{Router, RouterServer},
            send_to,
        },
        store::{
            self, ConversationRow, DeregisterReply, DeregisterRequest, Head, Header, LeadsReply, LeadsRequest,
            MediaRow, Node, NodeKind, RegisterReply, RegisterRequest, RegistryView, RenewReply, RenewRequest, Session,
            StoredEntry, TimelineRead, WatchRequest, contacts_read,
            registry_server::{Registry, RegistryServer},
        },
    },
    peer::{PeerSecurity, Tier},
    tasks::Tasks,
};
use futures_util::Stream;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

pub(crate) const EPOCH: u64 = 7;

/// The store, which outlives the router.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) inboxes: HashMap<String, Vec<Bytes>>,
    pub(crate) sessions: HashMap<(String, String), Session>,
    pub(crate) announced: usize,
    pub(crate) left: HashSet<u64>,
    pub(crate) cursors: HashMap<(String, String), u64>,
    pub(crate) group_cursors: HashMap<(String, String, String), u64>,
    pub(crate) direct_answers: Vec<DirectAnswer>,
    pub(crate) groups: HashMap<String, groups::Group>,
    pub(crate) files: HashMap<MediaId, MediaRow>,
    /// Those that are not empty.
    pub(crate) accounts: HashMap<String, store::Account>,
    /// The groups that each gateway follows, by lease.
    pub(crate) followed: HashMap<u64, HashSet<String>>,
    /// By user, and kind and owner of the conversation.
    conversations: BTreeMap<(String, (i32, Vec<u8>)), ConversationRow>,
    versions: HashMap<String, u64>,
    /// Sends of sessions that want to hear what becomes of them.
    pub(crate) want_marks: usize,
    pub(crate) contact_changes: Vec<ChangeContact>,
    pub(crate) reports: Vec<carillon_proto::pb::link::Report>,
    pub(crate) scheduled: Vec<carillon_proto::pb::store::Schedule>,
    pub(crate) scheduled_changes: Vec<Option<carillon_proto::pb::store::change_scheduled::Change>>,
    /// The version of each user's list, and its rows.
    pub(crate) contacts: HashMap<String, (u64, Vec<contacts_read::Row>)>,
    pub(crate) chat_states: Vec<TellChatState>,
    /// Groups in which no chat states are told.
    pub(crate) large_groups: HashSet<String>,
    pub(crate) privacy_changes: Vec<ChangePrivacy>,
    pub(crate) privacy: HashMap<String, store::Privacy>,
    /// The presences that sessions have set, each with the user.
    pub(crate) presences: Vec<(String, Option<SessionPresence>)>,
    pub(crate) announced_presences: Vec<SessionPresence>,
    /// Of the sends that had one.
    pub(crate) headers: Vec<Header>,
    /// Of each send to a user.
    pub(crate) expires_after_ms: Vec<u64>,
    leases: u64,
    seen: HashMap<(String, String, String), Accepted>,
}

pub(crate) struct MiniRouter {
    pub(crate) address: SocketAddr,
    pub(crate) store: Arc<Mutex<Store>>,
    links: Arc<Mutex<HashMap<u64, ToGateway>>>,
    /// Its own, so that all its connections end with it. None once stopped.
    runtime: Option<Runtime>,
}

pub(crate) const CLUSTER_SECRET: &str = "0123456789abcdef";
/// The router takes its tokens, too.
pub(crate) const OTHER_SECRET: &str = "fedcba9876543210";

pub(crate) fn security() -> PeerSecurity {
    with_secrets(&format!("{CLUSTER_SECRET}\n{OTHER_SECRET}"))
}

/// Security of a gateway with these secrets: one a line, the active one first.
pub(crate) fn with_secrets(secrets: &str) -> PeerSecurity {
    PeerSecurity::from_secret(Tier::Gateway, secrets, None).expect("valid")
}

impl MiniRouter {
    pub(crate) async fn start(store: Arc<Mutex<Store>>, address: Option<SocketAddr>) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let bound = runtime.spawn(TcpListener::bind(address.unwrap_or(any))).await;
        let listener = bound.expect("ends").expect("binds");
        let address = listener.local_addr().expect("bound");
        let state = State { store: Arc::clone(&store), links: Arc::default(), tasks: Tasks::new(), address };
        let links = Arc::clone(&state.links);
        let check = security().check(&[Tier::Gateway]);
        let server = security()
            .server()
            .add_service(RouterServer::with_interceptor(state.clone(), check.clone()))
            .add_service(RegistryServer::with_interceptor(state, check))
            .serve_with_incoming(TcpListenerStream::new(listener));
        runtime.spawn(async move {
            let _ = server.await;
        });
        Self { address, store, links, runtime: Some(runtime) }
    }

    /// To all gateways.
    pub(crate) async fn says(&self, message: FromRouter) {
        let links: Vec<ToGateway> = self.links.lock().values().cloned().collect();
        for link in links {
            link.send(Ok(message.clone())).await.expect("open");
        }
    }

    /// As if it had been killed.
    pub(crate) async fn stop(mut self) -> (Arc<Mutex<Store>>, SocketAddr) {
        let runtime = self.runtime.take().expect("not stopped before");
        let end = move || runtime.shutdown_timeout(Duration::from_secs(10));
        tokio::task::spawn_blocking(end).await.expect("ends");
        (Arc::clone(&self.store), self.address)
    }
}

impl Drop for MiniRouter {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

type ToGateway = mpsc::Sender<Result<FromRouter, Status>>;

#[derive(Clone)]
struct State {
    store: Arc<Mutex<Store>>,
    /// By lease.
    links: Arc<Mutex<HashMap<u64, ToGateway>>>,
    tasks: Tasks,
    address: SocketAddr,
}

fn inbox(user: &str) -> Timeline {
    Timeline { owner: Some(Owner::Inbox(user.to_owned())) }
}

fn at(seq: usize) -> Position {
    Position { epoch: EPOCH, seq: seq as u64 }
}

impl State {
    fn head(&self, user: &str, device: &str) -> Head {
        let store = self.store.lock();
        let last = store.inboxes.get(user).map_or(0, Vec::len) as u64;
        let cursor = store.cursors.get(&(user.to_owned(), device.to_owned())).copied();
        let epoch = if last == 0 { 0 } else { EPOCH };
        Head { epoch, first: 1, last, cursor: cursor.unwrap_or(0), has_cursor: cursor.is_some(), ..Head::default() }
    }

    fn heads(&self, user: &str, device: &str) -> Vec<TimelineHead> {
        vec![TimelineHead { timeline: Some(inbox(user)), head: Some(self.head(user, device)) }]
    }

    fn open(&self, session: Session) -> Reply {
        let key = (session.user.clone(), session.device.clone());
        let old = self.store.lock().sessions.insert(key, session.clone());
        if let Some(old) = old.filter(|old| old.connection != session.connection) {
            let evictions = vec![Evict { connection: old.connection, ..Evict::default() }];
            self.tell(old.lease, FromRouter { evictions, ..Default::default() });
        }
        let heads = self.heads(&session.user, &session.device);
        Reply::SessionOpened(SessionOpened { heads, ..SessionOpened::default() })
    }

    fn append(&self, owner: &str, envelope: &Bytes, except: u64) -> usize {
        let mut store = self.store.lock();
        let inbox_of = store.inboxes.entry(owner.to_owned()).or_default();
        inbox_of.push(envelope.clone());
        let seq = inbox_of.len();
        let sessions: Vec<Session> =
            store.sessions.values().filter(|s| s.user == owner && s.connection != except).cloned().collect();
        drop(store);
        for session in sessions {
            let push = Push {
                sender_connection: except,
                timeline: Some(inbox(owner)),
                position: Some(at(seq)),
                envelope: envelope.clone(),
                ..Push::default()
            };
            self.tell(session.lease, FromRouter { pushes: vec![push], ..Default::default() });
        }
        seq
    }

    fn send(&self, send: Send) -> Reply {
        let to = match send.to.clone().and_then(|SendTo { to }| to).expect("a recipient") {
            send_to::To::User(to) => to,
            send_to::To::Group(group) => return self.send_to_group(&group, &send),
        };
        let [sender, sender_device, to, client_id] = [&send.sender, &send.sender_device, &to, &send.client_id]
            .map(|id| String::from_utf8(id.to_vec()).expect("UTF-8"));
        let key = (sender.clone(), sender_device.clone(), client_id.clone());
        if let Some(first) = self.store.lock().seen.get(&key) {
            return Reply::Accepted(first.clone());
        }
        self.store.lock().expires_after_ms.push(send.expires_after_ms);
        let log = self.store.lock().inboxes.get(&to).cloned().unwrap_or_default();
        if let Some(refused) = self.refuses_reference(&log, &send) {
            return refused;
        }
        let envelope = RawEnvelope {
            id: client_id.clone(),
            sender: sender.clone(),
            sender_device,
            to: Some(Recipient { to: Some(To::User(to.clone())) }),
            client_id: client_id.clone(),
            time_ms: 1,
            content: send.content,
            ..RawEnvelope::default()
        };
        let envelope = Bytes::from(envelope.encode_to_vec());
        self.append(&to, &envelope, 0);
        let seq = self.append(&sender, &envelope, send.connection);
        let (timeline, position) = (Some(inbox(&sender)), Some(at(seq)));
        let accepted = Accepted { message_id: client_id, timeline, position, time_ms: 1, expires_at_ms: 0 };
        self.store.lock().seen.insert(key, accepted.clone());
        Reply::Accepted(accepted)
    }

    fn answer(&self, lease: u64, request: RouterRequest) -> RouterReply {
        let result = match request.op.expect("an op") {
            Op::LookUpAccount(look_up) => {
                Reply::Account(Box::new(self.store.lock().accounts.get(&look_up.user).cloned().unwrap_or_default()))
            }
            Op::EnsureAccount(_) => Reply::Account(Box::default()),
            Op::OpenSession(open) => self.open(open.session.expect("a session")),
            Op::Announce(announce) => {
                self.store.lock().announced += 1;
                self.store.lock().announced_presences.extend(announce.presence);
                self.open(announce.session.expect("a session"))
            }
            Op::CloseSession(close) => {
                let session = close.session.expect("a session");
                let key = (session.user, session.device);
                let mut store = self.store.lock();
                if store.sessions.get(&key).is_some_and(|stored| stored.connection == session.connection) {
                    store.sessions.remove(&key);
                }
                Reply::Done(Done {})
            }
            Op::Acknowledge(ack) => {
                let seq = ack.position.expect("a position").seq;
                let mut store = self.store.lock();
                match ack.timeline.and_then(|timeline| timeline.owner) {
                    Some(Owner::Group(group)) => {
                        store.group_cursors.insert((ack.user, ack.device, group), seq);
                    }
                    _ => drop(store.cursors.insert((ack.user, ack.device), seq)),
                }
                Reply::Done(Done {})
            }
            Op::Read(read) if groups::is_of_group(&read) => self.read_group_log(&read),
            Op::Read(read) => {
                let head = self.head(&read.user, "");
                let store = self.store.lock();
                let all = store.inboxes.get(&read.user).cloned().unwrap_or_default();
                let mut bytes = 0;
                let fits = |entry: &StoredEntry| {
                    bytes += entry.envelope.len();
                    bytes <= read.max_bytes as usize || bytes == entry.envelope.len()
                };
                let from = read.from_seq.max(1);
                let entries = references::entries(&all, &read).into_iter().filter(|entry| entry.seq >= from);
                let entries = entries.take(read.limit as usize).take_while(fits).collect();
                Reply::TimelineRead(TimelineRead { head: Some(head), entries, complete: true })
            }
            Op::Send(send) => {
                self.store.lock().want_marks += usize::from(send.wants_marks);
                self.send(send)
            }
            Op::ReadHeads(_) => panic!("routers tell gateways what is missing"),
            Op::Direct(_) => panic!("no client can say so"),
            Op::ChangeGroup(change) => self.change_group(*change),
            Op::Follow(follow) => self.follow(lease, follow),
            Op::ReadGroup(read) => self.read_group(&read),
            Op::ReadMembers(read) => self.read_members(&read),
            Op::ReadMemberships(read) => self.read_memberships(&read),
            Op::MoveMarks(moves) => self.move_marks(moves),
            Op::SetConversation(set) => self.set_conversation(set),
            Op::ReadConversations(read) => self.read_conversations(&read),
            Op::ReadMarks(read) => self.read_marks(&read),
            Op::ChangeContact(change) => {
                self.store.lock().contact_changes.push(*change);
                Reply::Done(Done {})
            }
            Op::ReadContacts(read) => self.read_contacts(&read),
            Op::SetPresence(set) => {
                self.store.lock().presences.push((set.user, set.presence));
                Reply::Done(Done {})
            }
            Op::ChangePrivacy(change) => {
                self.store.lock().privacy_changes.push(change);
                Reply::Done(Done {})
            }
            Op::TellChatState(tell) => {
                let mut store = self.store.lock();
                let is_large = store.large_groups.contains(&tell.group);
                store.chat_states.push(tell);
                match is_large {
                    true => Reply::Refusal(Refusal { code: Code::Unsupported.into(), ..Refusal::default() }),
                    false => Reply::Done(Done {}),
                }
            }
            Op::ReadPrivacy(read) => {
                Reply::Privacy(self.store.lock().privacy.get(&read.user).cloned().unwrap_or_default())
            }
            Op::CreateMedia(create) => self.create_media(*create),
            Op::CompleteMedia(complete) => self.complete_media(complete),
            Op::ReadMedia(read) => self.read_media(&read.id),
            Op::Schedule(schedule) => self.schedule(*schedule),
            Op::ChangeScheduled(change) => self.change_scheduled(change),
            Op::ReadScheduled(read) => self.read_scheduled(&read.read.unwrap_or_default()),
            Op::Report(report) => self.report(*report),
        };
        RouterReply { id: request.id, result: Some(result) }
    }

    fn tell(&self, lease: u64, message: FromRouter) {
        if let Some(link) = self.links.lock().get(&lease) {
            // A push is a hint.
            let _ = link.try_send(Ok(message));
        }
    }

    fn view(&self) -> RegistryView {
        let node = Node { lease: 1, kind: NodeKind::Router.into(), address: self.address.to_string(), slot: None };
        let level = Level::OF_PROGRAM.0;
        RegistryView { version: 1, ring_version: 1, nodes: vec![node], level, ..Default::default() }
    }
}

#[tonic::async_trait]
impl Router for State {
    type LinkStream = ReceiverStream<Result<FromRouter, Status>>;

    async fn link(&self, request: Request<Streaming<ToRouter>>) -> Result<Response<Self::LinkStream>, Status> {
        let mut inbound = request.into_inner();
        let (out, stream) = mpsc::channel(1024);
        let state = self.clone();
        self.tasks.spawn("link", async move {
            let _ = out.send(Ok(FromRouter { registry: Some(state.view()), ..Default::default() })).await;
            let mut lease = 0;
            while let Ok(Some(message)) = inbound.message().await {
                if let Some(hello) = message.hello {
                    lease = hello.lease;
                    // A new link: it knows of no group.
                    state.store.lock().followed.remove(&lease);
                    state.links.lock().insert(lease, out.clone());
                }
                state.store.lock().direct_answers.extend(message.direct_answers);
                let replies: Vec<_> =
                    message.requests.into_iter().map(|request| state.answer(lease, request)).collect();
                if !replies.is_empty() {
                    let _ = out.send(Ok(FromRouter { replies, ..Default::default() })).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[tonic::async_trait]
impl Registry for State {
    async fn register(&self, _: Request<RegisterRequest>) -> Result<Response<RegisterReply>, Status> {
        let mut store = self.store.lock();
        store.leases += 1;
        Ok(Response::new(RegisterReply { lease: 100 + store.leases }))
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        Ok(Response::new(RenewReply {}))
    }

    async fn leads(&self, _: Request<LeadsRequest>) -> Result<Response<LeadsReply>, Status> {
        Ok(Response::new(LeadsReply::default()))
    }

    async fn deregister(&self, request: Request<DeregisterRequest>) -> Result<Response<DeregisterReply>, Status> {
        self.store.lock().left.insert(request.into_inner().lease);
        Ok(Response::new(DeregisterReply {}))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<RegistryView, Status>> + std::marker::Send>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(self.view())))))
    }
}
