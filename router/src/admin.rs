//! What the command line asks.

use std::{sync::Arc, time::Duration};

use carillon_proto::{
    ShardMap, UserId, now_ms,
    pb::{
        admin::{
            DeleteUserReply, DeleteUserRequest, PutUserReply, PutUserRequest, ShardStatus, StatusReply, StatusRequest,
            admin_server,
        },
        store::{
            Account, DeleteAccount, DirectoryCommand, PutAccount, ReadUser, directory_command, put_account,
            store_request::Op,
        },
    },
};
use tokio::{sync::watch, time::Instant};
use tonic::{Request, Response, Status};

use crate::{
    store::{Leaders, Store, StoreAnswer, StoreFailure},
    topology::Topology,
};

pub(crate) struct Admin {
    pub(crate) store: Store,
    pub(crate) leaders: Leaders,
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
        let leaders = self.leaders.read();
        let shards = topology
            .shards
            .all()
            .map(|shard| ShardStatus {
                shard: Some(shard.to_pb()),
                leader: leaders.get(&shard).cloned().unwrap_or_default(),
            })
            .collect();
        Ok(Response::new(StatusReply { registry: Some((*topology.view).clone()), shards }))
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
        StoreFailure::Overloaded { .. } => Status::resource_exhausted(failure.to_string()),
        StoreFailure::Expired { .. } | StoreFailure::Stopping => Status::unavailable(failure.to_string()),
        StoreFailure::Unexpected => Status::internal(failure.to_string()),
    }
}
