//! The administration requests of the command line.

mod domains;
mod ending;
mod erasing;
mod groups;
mod messages;
mod outbox;
mod put_out;
mod reports;
mod scope;
mod sessions;
mod users;
mod watching;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use carillon_media::MediaConfig;
use carillon_proto::{
    LeaseId, ShardId, ShardMap, UserId,
    pb::{
        admin::{
            DeleteGroupReply, DeleteGroupRequest, DeleteUserReply, DeleteUserRequest, DescribeGatewayRequest,
            EndSessionsReply, EndSessionsRequest, EraseUserReply, EraseUserRequest, ListDomainsReply,
            ListDomainsRequest, ListGroupsReply, ListGroupsRequest, ListMembersReply, ListMembersRequest,
            ListOutboxReply, ListOutboxRequest, ListReportsReply, ListReportsRequest, ListSessionsReply,
            ListSessionsRequest, ListUsersReply, ListUsersRequest, NodeRelease, PutUserReply, PutUserRequest,
            ReadReportFileReply, ReadReportFileRequest, ReadReportReply, ReadReportRequest, RemoveMemberReply,
            RemoveMemberRequest, ResolveReportReply, ResolveReportRequest, RevokeTokensReply, RevokeTokensRequest,
            SetDomainReply, SetDomainRequest, SetMemberRoleReply, SetMemberRoleRequest, SettleDeadLettersReply,
            SettleDeadLettersRequest, ShardStatus, ShowGroupReply, ShowGroupRequest, ShowUserReply, ShowUserRequest,
            StatusReply, StatusRequest, TraceMessageReply, TraceMessageRequest, WatchRequest, admin_server,
        },
        diagnostics::Description,
        store::{
            AccountChanged, DirectoryCommand, LeadsReply, Node, ReadUser, RegistryView, Release, User,
            directory_command, leads_reply::Led, store_request::Op,
        },
    },
    peer::PeerSecurity,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tonic::{Request, Response, Status};

use self::scope::{about_group, about_user, of_operator, scoped};
use self::watching::Events;
pub(crate) use self::{ending::end_inboxes, put_out::PutOut, scope::CheckScope, watching::Watching};
use crate::{
    registry::RegistryReader,
    store::{Store, StoreAnswer, StoreFailure},
    topology::Topology,
    workers::Nudges,
};

/// How often, and after which pause, a shard without a leader is asked again: its lead may just be moving to another
/// node.
const ASK_AGAIN: (usize, Duration) = (3, Duration::from_millis(500));

/// Rows of one page.
const PAGE: u32 = 1000;

#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) store: Store,
    pub(crate) registry: RegistryReader,
    pub(crate) topology: watch::Receiver<Arc<Topology>>,
    pub(crate) deadline: Duration,
    pub(crate) put_out: PutOut,
    pub(crate) made: LastMade,
    pub(crate) nudges: Nudges,
    /// For calls to storage nodes, and for addresses of files.
    pub(crate) security: PeerSecurity,
    /// `None`: this router does not know where files are.
    pub(crate) media: Option<Arc<MediaConfig>>,
    pub(crate) watching: Watching,
}

/// When this router made its latest account. A shard tells a repeated command from another one by this time, so it is
/// given once.
#[derive(Clone, Default)]
pub(crate) struct LastMade(Arc<AtomicU64>);

impl LastMade {
    fn next(&self, now_ms: u64) -> u64 {
        let after = |last: u64| now_ms.max(last + 1);
        self.0.fetch_update(Relaxed, Relaxed, |last| Some(after(last))).map_or(now_ms, after)
    }
}

/// Each method first asks the [`Scope`] of the caller what it may do.
#[tonic::async_trait]
impl admin_server::Admin for Admin {
    async fn put_user(&self, request: Request<PutUserRequest>) -> Result<Response<PutUserReply>, Status> {
        let request = about_user(request, |request| &request.user)?;
        self.put_account(request).await.map(Response::new)
    }

    async fn delete_user(&self, request: Request<DeleteUserRequest>) -> Result<Response<DeleteUserReply>, Status> {
        let request = about_user(request, |request| &request.user)?;
        self.delete_account(request).await.map(Response::new)
    }

    async fn erase_user(&self, request: Request<EraseUserRequest>) -> Result<Response<EraseUserReply>, Status> {
        let request = about_user(request, |request| &request.user)?;
        self.erase_account(request).await.map(Response::new)
    }

    async fn list_users(&self, request: Request<ListUsersRequest>) -> Result<Response<ListUsersReply>, Status> {
        let (scope, request) = scoped(request)?;
        self.list_accounts(&scope, request).await.map(Response::new)
    }

    async fn show_user(&self, request: Request<ShowUserRequest>) -> Result<Response<ShowUserReply>, Status> {
        let request = about_user(request, |request| &request.user)?;
        self.show_account(request).await.map(Response::new)
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsReply>, Status> {
        let (scope, request) = scoped(request)?;
        self.sessions(&scope, request).await.map(Response::new)
    }

    async fn end_sessions(&self, request: Request<EndSessionsRequest>) -> Result<Response<EndSessionsReply>, Status> {
        let (scope, request) = scoped(request)?;
        self.end(&scope, request).await.map(Response::new)
    }

    async fn revoke_tokens(
        &self,
        request: Request<RevokeTokensRequest>,
    ) -> Result<Response<RevokeTokensReply>, Status> {
        let request = about_user(request, |request| &request.user)?;
        self.revoke(request).await.map(Response::new)
    }

    async fn describe_gateway(
        &self,
        request: Request<DescribeGatewayRequest>,
    ) -> Result<Response<Description>, Status> {
        let gateway = LeaseId(of_operator(request)?.lease);
        let answer = self.put_out.links.describe(gateway);
        let answer =
            answer.ok_or_else(|| Status::not_found("the gateway has no link to this router, or too many ask"))?;
        match timeout(DESCRIBED_IN, answer).await {
            Ok(Ok(description)) => Ok(Response::new(description)),
            Ok(Err(_)) => Err(Status::unavailable("the link of the gateway has ended")),
            Err(_) => Err(Status::unavailable("the gateway has not answered; its release may not know the question")),
        }
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        of_operator(request)?;
        let topology = Arc::clone(&self.topology.borrow());
        let mut answers = self.registry.leads().await;
        for _ in 0..ASK_AGAIN.0 {
            let known = leaders(&answers);
            if topology.shards.all().all(|shard| known.contains_key(&shard)) {
                break;
            }
            tokio::time::sleep(ASK_AGAIN.1).await;
            answers = self.registry.leads().await;
        }
        let leaders = leaders(&answers);
        let shards = topology
            .shards
            .all()
            .map(|shard| ShardStatus {
                shard: Some(shard.to_pb()),
                leader: leaders.get(&shard).map(|(_, address)| (*address).to_owned()).unwrap_or_default(),
            })
            .collect();
        let silent = answers.iter().filter(|(_, led)| led.is_none()).map(|(address, _)| address.clone()).collect();
        let releases = releases(&topology.view, &answers);
        Ok(Response::new(StatusReply { registry: Some((*topology.view).clone()), shards, silent, releases }))
    }

    async fn trace_message(
        &self,
        request: Request<TraceMessageRequest>,
    ) -> Result<Response<TraceMessageReply>, Status> {
        self.message(of_operator(request)?).await.map(Response::new)
    }

    async fn list_outbox(&self, request: Request<ListOutboxRequest>) -> Result<Response<ListOutboxReply>, Status> {
        self.outbox(of_operator(request)?).await.map(Response::new)
    }

    async fn settle_dead_letters(
        &self,
        request: Request<SettleDeadLettersRequest>,
    ) -> Result<Response<SettleDeadLettersReply>, Status> {
        self.settle_letters(of_operator(request)?).await.map(Response::new)
    }

    async fn list_reports(&self, request: Request<ListReportsRequest>) -> Result<Response<ListReportsReply>, Status> {
        let (scope, request) = scoped(request)?;
        self.reports(&scope, request).await.map(Response::new)
    }

    async fn read_report(&self, request: Request<ReadReportRequest>) -> Result<Response<ReadReportReply>, Status> {
        let (scope, request) = scoped(request)?;
        self.report(&scope, request).await.map(Response::new)
    }

    async fn read_report_file(
        &self,
        request: Request<ReadReportFileRequest>,
    ) -> Result<Response<ReadReportFileReply>, Status> {
        let (scope, request) = scoped(request)?;
        self.reported_file(&scope, &request).await.map(Response::new)
    }

    async fn resolve_report(
        &self,
        request: Request<ResolveReportRequest>,
    ) -> Result<Response<ResolveReportReply>, Status> {
        let (scope, request) = scoped(request)?;
        self.resolve(&scope, request).await.map(Response::new)
    }

    async fn set_domain(&self, request: Request<SetDomainRequest>) -> Result<Response<SetDomainReply>, Status> {
        self.decide_for_domain(of_operator(request)?).await.map(Response::new)
    }

    async fn list_domains(&self, request: Request<ListDomainsRequest>) -> Result<Response<ListDomainsReply>, Status> {
        let (scope, ListDomainsRequest {}) = scoped(request)?;
        self.domains(&scope).await.map(Response::new)
    }

    async fn list_groups(&self, request: Request<ListGroupsRequest>) -> Result<Response<ListGroupsReply>, Status> {
        let (scope, request) = scoped(request)?;
        self.groups(&scope, request).await.map(Response::new)
    }

    async fn show_group(&self, request: Request<ShowGroupRequest>) -> Result<Response<ShowGroupReply>, Status> {
        let (_, request) = about_group(request, |request| &request.group)?;
        self.group(&request.group).await.map(Response::new)
    }

    async fn list_members(&self, request: Request<ListMembersRequest>) -> Result<Response<ListMembersReply>, Status> {
        let (_, request) = about_group(request, |request| &request.group)?;
        self.members(request).await.map(Response::new)
    }

    async fn set_member_role(
        &self,
        request: Request<SetMemberRoleRequest>,
    ) -> Result<Response<SetMemberRoleReply>, Status> {
        let (scope, request) = about_group(request, |request| &request.group)?;
        self.give_role(&scope, request).await.map(Response::new)
    }

    async fn remove_member(
        &self,
        request: Request<RemoveMemberRequest>,
    ) -> Result<Response<RemoveMemberReply>, Status> {
        let (scope, request) = about_group(request, |request| &request.group)?;
        self.put_out_of_group(&scope, request).await.map(Response::new)
    }

    async fn delete_group(&self, request: Request<DeleteGroupRequest>) -> Result<Response<DeleteGroupReply>, Status> {
        let (scope, request) = about_group(request, |request| &request.group)?;
        self.end_group(&scope, request).await.map(Response::new)
    }

    type WatchStream = Events;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.events(&of_operator(request)?.user).await.map(Response::new)
    }
}

/// How long a gateway may take to tell of itself.
const DESCRIBED_IN: Duration = Duration::from_secs(5);

impl Admin {
    /// The account after the change.
    async fn change(&self, user: &UserId, op: directory_command::Op) -> Result<AccountChanged, Status> {
        let op = Op::Directory(DirectoryCommand { op: Some(op) });
        match self.call(self.shards()?.directory_of(user), op).await {
            Ok(StoreAnswer::AccountChanged(changed)) => Ok(changed),
            Err(StoreFailure::Exists { .. }) => {
                Err(Status::already_exists(format!("there is a user {user:?} already")))
            }
            other => Err(failed(other)),
        }
    }

    async fn read(&self, user: &UserId) -> Result<User, Status> {
        let op = Op::ReadUser(ReadUser { user: user.as_str().to_owned(), by: None });
        match self.call(self.shards()?.directory_of(user), op).await {
            Ok(StoreAnswer::User(found)) => Ok(found),
            other => Err(failed(other)),
        }
    }

    async fn call(&self, shard: ShardId, op: Op) -> Result<StoreAnswer, StoreFailure> {
        self.store.call(shard, op, Instant::now() + self.deadline).await
    }

    fn shards(&self) -> Result<ShardMap, Status> {
        let topology = self.topology.borrow();
        let known = topology.is_known().then_some(topology.shards);
        known.ok_or_else(|| Status::unavailable("this router does not know the storage nodes yet"))
    }

    fn directory_shards(&self) -> Result<Vec<ShardId>, Status> {
        let directory = |shard: &ShardId| shard.kind == carillon_proto::ShardKind::Directory;
        Ok(self.shards()?.all().filter(directory).collect())
    }
}

/// Term and address of each shard's leader. A node that has just lost the lead may not know it yet: the higher term
/// counts.
fn leaders(answers: &[(String, Option<LeadsReply>)]) -> HashMap<ShardId, (u64, &str)> {
    let mut leaders: HashMap<ShardId, (u64, &str)> = HashMap::new();
    for (address, reply) in answers {
        for Led { shard, term, .. } in reply.iter().flat_map(|reply| &reply.led) {
            let Some(shard) = shard.as_ref().and_then(ShardId::from_pb) else { continue };
            let leader = leaders.entry(shard).or_insert((*term, address));
            if leader.0 < *term {
                *leader = (*term, address);
            }
        }
    }
    leaders
}

/// What the nodes of the registry run, as far as they have told it.
fn releases(view: &RegistryView, answers: &[(String, Option<LeadsReply>)]) -> Vec<NodeRelease> {
    let told = |node: &Node, release: Option<Release>, name: String| {
        let told = NodeRelease { kind: node.kind, lease: node.lease, release, name };
        (told.release.is_some() || !told.name.is_empty()).then_some(told)
    };
    let storage = view.storage.iter().filter_map(|node| {
        let (_, reply) = answers.iter().find(|(address, _)| *address == node.address)?;
        told(node, reply.as_ref()?.release.clone(), String::new())
    });
    let holders = || answers.iter().filter_map(|(_, reply)| reply.as_ref()).flat_map(|reply| &reply.holders);
    let others = view.nodes.iter().filter_map(|node| {
        let holder = holders().find(|holder| holder.lease == node.lease)?;
        told(node, holder.release.clone(), holder.name.clone())
    });
    storage.chain(others).collect()
}

fn user_id(user: &str) -> Result<UserId, Status> {
    UserId::new(user).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// For a failure, or an answer of another kind than the call asks for.
fn failed(answer: Result<StoreAnswer, StoreFailure>) -> Status {
    let failure = answer.err().unwrap_or(StoreFailure::Unexpected);
    match &failure {
        StoreFailure::Exists { .. } => Status::already_exists(failure.to_string()),
        StoreFailure::NotFound { detail } | StoreFailure::Gone { detail } | StoreFailure::SenderGone { detail } => {
            Status::not_found(detail)
        }
        StoreFailure::NoRoom { detail } | StoreFailure::TooEarly { detail, .. } => Status::resource_exhausted(detail),
        StoreFailure::Forbidden { detail } => Status::permission_denied(detail),
        StoreFailure::OutOfOrder { .. } | StoreFailure::TooLate { .. } | StoreFailure::Rejected { .. } => {
            Status::invalid_argument(failure.to_string())
        }
        StoreFailure::Overloaded { .. } | StoreFailure::Full { .. } => Status::resource_exhausted(failure.to_string()),
        StoreFailure::Expired { .. } | StoreFailure::Level { .. } | StoreFailure::Stopping => {
            Status::unavailable(failure.to_string())
        }
        StoreFailure::Unexpected => Status::internal(failure.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::ShardKind;

    #[test]
    fn of_two_that_say_that_they_lead_the_later_one_does() {
        let shard = |index| ShardId { kind: ShardKind::Timeline, index };
        let reply = |led: &[(u16, u64)]| {
            let led = led.iter().map(|(index, term)| Led {
                shard: Some(shard(*index).to_pb()),
                term: *term,
                ..Led::default()
            });
            Some(LeadsReply { led: led.collect(), ..LeadsReply::default() })
        };
        let answers =
            [("a:1".into(), reply(&[(0, 7), (1, 2)])), ("b:1".into(), None), ("c:1".into(), reply(&[(0, 8), (1, 1)]))];
        assert_eq!(leaders(&answers), [(shard(0), (8, "c:1")), (shard(1), (2, "a:1"))].into());
    }
}
