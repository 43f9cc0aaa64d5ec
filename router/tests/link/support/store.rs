//! One storage node that keeps everything in memory, keeps the contract of `Store` and `Registry`, and fails on
//! command.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use bytes::Bytes;
use carillon_proto::{
    Level, ShardMap,
    pb::{
        link::RawEnvelope,
        store::{
            Account, Contact, DeregisterReply, DeregisterRequest, FindMessageReply, FindMessageRequest, FromStore,
            Header, LeadsReply, LeadsRequest, Node, NodeKind, RegisterReply, RegisterRequest, RegistryView, Release,
            RenewReply, RenewRequest, StoreReply, ToStore, WatchRequest, outbox_read,
            registry_server::{Registry, RegistryServer},
            store_reply::Result as Reply,
            store_server::{Store, StoreServer},
        },
    },
    peer::{PeerSecurity, Tier},
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
use tonic::{Request, Response, Status, Streaming, service::interceptor::InterceptedService};

use super::state::{AboutFiles, State};

pub(crate) struct MemoryStore {
    address: String,
    view: watch::Sender<RegistryView>,
    state: Arc<Mutex<State>>,
    tasks: Tasks,
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

    /// This row stands in the outbox of this shard.
    pub(crate) fn has_row_in(&self, shard: u32, row: outbox_read::Row) {
        self.state.lock().outboxes.entry(shard).or_default().push(row);
    }

    /// The shard holds this file.
    pub(crate) fn holds(&self, shard: u32, id: Bytes) {
        self.state.lock().held.entry(shard).or_default().push(id);
    }

    /// Questions and news that shards have heard about files.
    pub(crate) fn about_files(&self) -> Vec<(u32, AboutFiles)> {
        self.state.lock().about_files.clone()
    }

    /// The account has ended.
    pub(crate) fn is_deleted(&self, user: &str) {
        self.state.lock().accounts.get_mut(user).expect("there").deleted = true;
    }

    /// Ids of settled scheduled messages, with the reasons why they were not sent.
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

    /// The headers of appended messages so far, each with the owner of the inbox.
    pub(crate) fn headers(&self) -> Vec<(String, Option<Box<Header>>)> {
        self.state.lock().headers.clone()
    }

    /// Client ids of the messages in an inbox.
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
