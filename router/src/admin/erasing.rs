//! Erases users: the account and the inbox at once, and what they have said as far as the shards of the store have replaced it. See
//! docs/adr/0023-user-data.md.

use carillon_proto::{
    Level, ShardKind, UserId, now_ms,
    pb::{
        admin::{EraseUserReply, EraseUserRequest},
        store::{
            Account, AccountErased, DirectoryCommand, EraseAccount, EraseSender, Erasure, TimelineCommand, User,
            directory_command, store_request::Op, timeline_command,
        },
    },
};
use futures_util::future::try_join_all;
use tonic::Status;

use super::{Admin, failed, user_id};
use crate::store::{StoreAnswer, StoreFailure};

/// How far the erasure of a user is.
pub(super) struct Progress {
    shards_done: u32,
    shards: u32,
    sessions: u32,
    /// Contacts have still to be told that the account has ended.
    contacts_end: bool,
}

impl Progress {
    fn is_done(&self) -> bool {
        self.shards_done == self.shards && self.sessions == 0 && !self.contacts_end
    }
}

impl Admin {
    pub(super) async fn erase_account(&self, request: EraseUserRequest) -> Result<EraseUserReply, Status> {
        let EraseUserRequest { user, time_ms, look } = request;
        let user = user_id(&user)?;
        let found = self.read(&user).await?;
        if found.account.is_none() {
            return Err(Status::not_found(format!("there never was a user {user}")));
        }
        if look {
            return Ok(EraseUserReply { erasure: found.erasure, ..EraseUserReply::default() });
        }
        let level = Level(self.topology.borrow().view.level);
        if level < Level::ERASURE {
            return Err(Status::failed_precondition(format!(
                "the cluster is at level {level}, and erasing needs level {}: `carillon cluster raise-level` raises it when all nodes \
                 run this release and no return to the one of before is wanted",
                Level::ERASURE
            )));
        }
        let time_ms = if time_ms == 0 { now_ms() } else { time_ms };
        let erase = EraseAccount { user: user.as_str().to_owned(), time_ms };
        let op = Op::Directory(DirectoryCommand { op: Some(directory_command::Op::EraseAccount(erase)) });
        let changed = match self.when_the_level_is_there(self.shards()?.directory_of(&user), op).await {
            Ok(StoreAnswer::AccountChanged(changed)) => changed,
            other => return Err(failed(other)),
        };
        let account = changed.account.unwrap_or_default();
        let mut reply = EraseUserReply { erasure: self.read(&user).await?.erasure, ..EraseUserReply::default() };
        if reply.erasure.as_ref().is_some_and(|erasure| erasure.done) {
            return Ok(reply);
        }
        // Before the answer: from then on no message to this user is accepted, nor any of its sessions.
        let (inbox, ended) = tokio::join!(self.end_inbox(&account), self.put_out(&user, &account, changed.over));
        inbox.map_err(|failure| failed(Err(failure)))?;
        let progress = self.go_on_erasing(&user, &account).await.map_err(|failure| failed(Err(failure)))?;
        let Progress { shards_done, shards, sessions, .. } = progress;
        (reply.ended, reply.shards_done, reply.shards, reply.sessions) = (Some(ended), shards_done, shards, sessions);
        if let Some(erasure) = &mut reply.erasure {
            erasure.done = progress.is_done();
        }
        Ok(reply)
    }

    /// Has every shard of the timelines erase what the user has said, and says in the directory when that is done. Idempotent.
    pub(super) async fn go_on_erasing(&self, user: &UserId, account: &Account) -> Result<Progress, StoreFailure> {
        let Ok(shards) = self.shards() else { return Err(StoreFailure::Stopping) };
        let timelines = shards.all().filter(|shard| shard.kind == ShardKind::Timeline);
        let erase = EraseSender { sender: user.as_str().to_owned(), generation: account.generation };
        let calls = timelines.map(|shard| {
            let erase = TimelineCommand { op: Some(timeline_command::Op::EraseSender(erase.clone())) };
            self.when_the_level_is_there(shard, Op::Timeline(erase))
        });
        // Concurrency is bounded by the number of shards.
        let answers = try_join_all(calls).await?;
        let is_done = |answer: &&StoreAnswer| matches!(answer, StoreAnswer::SenderErasure(erasure) if erasure.done);
        let shards_done = answers.iter().filter(is_done).count() as u32;
        let read = self.read(user).await.map_err(|_| StoreFailure::Unexpected)?;
        // Also those of gateways that have ended: their rows are removed within seconds.
        let sessions = read.sessions.len() as u32;
        let contacts_end = read.contacts_end;
        let progress = Progress { shards_done, shards: answers.len() as u32, sessions, contacts_end };
        if progress.is_done() {
            let erased = AccountErased { user: user.as_str().to_owned(), incarnation: account.incarnation };
            let op = Op::Directory(DirectoryCommand { op: Some(directory_command::Op::AccountErased(erased)) });
            self.call(shards.directory_of(user), op).await?;
            tracing::info!(%user, "what the erased user had said is gone from all timelines");
        }
        Ok(progress)
    }

    /// The same for an account that was found to be deleted, if it is to be erased.
    pub(super) async fn erase_if_ordered(&self, account: &Account) -> Result<(), StoreFailure> {
        let Ok(user) = UserId::new(&account.user) else { return Ok(()) };
        match self.read(&user).await {
            Ok(User { erasure: Some(Erasure { done: false, .. }), .. }) => {
                self.go_on_erasing(&user, account).await.map(drop)
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
