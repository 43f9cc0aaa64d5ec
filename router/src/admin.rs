//! What the command line asks.

use std::{collections::HashMap, sync::Arc, time::Duration};

use carillon_proto::{
    ShardId, ShardMap, UserId, now_ms,
    pb::{
        admin::{
            DeleteUserReply, DeleteUserRequest, PutUserReply, PutUserRequest, ShardStatus, StatusReply, StatusRequest,
            admin_server,
        },
        store::{
            Account, DeleteAccount, DirectoryCommand, LeadsReply, PutAccount, ReadUser, directory_command,
            leads_reply::Led, put_account, store_request::Op,
        },
    },
};
use tokio::{sync::watch, time::Instant};
use tonic::{Request, Response, Status};

use crate::{
    registry::Registry,
    store::{Store, StoreAnswer, StoreFailure},
    topology::Topology,
};

/// How often, and after which pause, it is asked again for a shard that nobody leads: its lead may just be on its way to
/// another node.
const ASK_AGAIN: (usize, Duration) = (3, Duration::from_millis(500));

pub(crate) struct Admin {
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    pub(crate) topology: watch::Receiver<Arc<Topology>>,
    pub(crate) deadline: Duration,
}

#[tonic::async_trait]
impl admin_server::Admin for Admin {
    async fn put_user(&self, request: Request<PutUserRequest>) -> Result<Response<PutUserReply>, Status> {
        let PutUserRequest { user, scram, replace } = request.into_inner();
        let user = user_id(&user)?;
        let account = Account { user: user.as_str().to_owned(), scram, created_ms: now_ms() };
        let mode = if replace { put_account::Mode::Replace } else { put_account::Mode::Create };
        let put = PutAccount { account: Some(account.clone()), mode: mode.into() };
        match self.write(&user, directory_command::Op::PutAccount(put)).await {
            Ok(()) => {}
            // It may be our own: the answer to the first try was lost.
            Err(StoreFailure::Exists { repeated: true }) if self.read(&user).await?.as_ref() == Some(&account) => {}
            Err(failure) => return Err(to_status(&failure, &user)),
        }
        Ok(Response::new(PutUserReply {}))
    }

    async fn delete_user(&self, request: Request<DeleteUserRequest>) -> Result<Response<DeleteUserReply>, Status> {
        let user = user_id(&request.into_inner().user)?;
        let delete = DeleteAccount { user: user.as_str().to_owned() };
        self.write(&user, directory_command::Op::DeleteAccount(delete))
            .await
            .map_err(|failure| to_status(&failure, &user))?;
        Ok(Response::new(DeleteUserReply {}))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
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
        Ok(Response::new(StatusReply { registry: Some((*topology.view).clone()), shards, silent }))
    }
}

impl Admin {
    async fn write(&self, user: &UserId, op: directory_command::Op) -> Result<(), StoreFailure> {
        let Some(shards) = self.shards() else { return Err(StoreFailure::Stopping) };
        let op = Op::Directory(DirectoryCommand { op: Some(op) });
        match self.store.call(shards.directory_of(user), op, Instant::now() + self.deadline).await? {
            StoreAnswer::Done(_) => Ok(()),
            _ => Err(StoreFailure::Unexpected),
        }
    }

    async fn read(&self, user: &UserId) -> Result<Option<Account>, Status> {
        let shard = self.shards().unwrap_or(ShardMap { directory: 1, timeline: 1 }).directory_of(user);
        let op = Op::ReadUser(ReadUser { user: user.as_str().to_owned() });
        match self.store.call(shard, op, Instant::now() + self.deadline).await {
            Ok(StoreAnswer::User(found)) => Ok(found.account),
            Ok(_) => Err(to_status(&StoreFailure::Unexpected, user)),
            Err(failure) => Err(to_status(&failure, user)),
        }
    }

    fn shards(&self) -> Option<ShardMap> {
        let topology = self.topology.borrow();
        topology.is_known().then_some(topology.shards)
    }
}

/// Term and address of who leads each shard. A node that has just lost one may not know that yet: the higher term counts.
fn leaders(answers: &[(String, Option<LeadsReply>)]) -> HashMap<ShardId, (u64, &str)> {
    let mut leaders: HashMap<ShardId, (u64, &str)> = HashMap::new();
    for (address, reply) in answers {
        for Led { shard, term } in reply.iter().flat_map(|reply| &reply.led) {
            let Some(shard) = shard.as_ref().and_then(ShardId::from_pb) else { continue };
            let leader = leaders.entry(shard).or_insert((*term, address));
            if leader.0 < *term {
                *leader = (*term, address);
            }
        }
    }
    leaders
}

fn user_id(user: &str) -> Result<UserId, Status> {
    UserId::new(user).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn to_status(failure: &StoreFailure, user: &UserId) -> Status {
    match failure {
        StoreFailure::Exists { .. } => Status::already_exists(format!("there is a user {user:?} already")),
        StoreFailure::NotFound { .. } => Status::not_found(format!("there is no user {user:?}")),
        StoreFailure::OutOfOrder { .. } | StoreFailure::Rejected { .. } => {
            Status::invalid_argument(failure.to_string())
        }
        StoreFailure::Overloaded { .. } | StoreFailure::Full { .. } => Status::resource_exhausted(failure.to_string()),
        StoreFailure::Expired { .. } | StoreFailure::Stopping => Status::unavailable(failure.to_string()),
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
            let led = led.iter().map(|(index, term)| Led { shard: Some(shard(*index).to_pb()), term: *term });
            Some(LeadsReply { led: led.collect() })
        };
        let answers =
            [("a:1".into(), reply(&[(0, 7), (1, 2)])), ("b:1".into(), None), ("c:1".into(), reply(&[(0, 8), (1, 1)]))];
        assert_eq!(leaders(&answers), [(shard(0), (8, "c:1")), (shard(1), (2, "a:1"))].into());
    }
}
