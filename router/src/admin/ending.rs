//! The inboxes of deleted users end, whatever happens between the deletion and that.

use std::time::Duration;

use carillon_proto::{
    Level, ShardId, ShardKind, TimelineId, UserId,
    pb::store::{
        Account, DirectoryCommand, EndSender, EndTimeline, InboxEnded, ListAccounts, TimelineCommand,
        directory_command, store_request::Op, timeline_command,
    },
};
use futures_util::future::try_join_all;
use tokio::time::{self, Instant};
use tonic::Status;

use super::{Admin, users::half_done};
use crate::store::{StoreAnswer, StoreFailure};

/// How often each router looks for inboxes that have not ended: only a router that stopped in the midst leaves some.
const LOOK: Duration = Duration::from_secs(60);
/// Between tries of a command that a shard does not read yet.
const LEVEL_PAUSE: Duration = Duration::from_millis(100);
/// Inboxes that one look finds in a shard.
const FOUND: u32 = 64;

impl Admin {
    /// Of the deleted account. It can be done again.
    pub(super) async fn end_inbox(&self, account: &Account) -> Result<(), StoreFailure> {
        let Ok(user) = UserId::new(&account.user) else { return Ok(()) };
        let Ok(shards) = self.shards() else { return Err(StoreFailure::Stopping) };
        let timeline = TimelineId::Inbox(user.clone());
        let end = EndTimeline { timeline: Some(timeline.to_key()), incarnation: account.incarnation };
        let op = Op::Timeline(TimelineCommand { op: Some(timeline_command::Op::EndTimeline(end)) });
        self.call(shards.timeline_of(&timeline), op).await?;
        self.end_sender(account).await?;
        // Both are done in all of them.
        let ended = InboxEnded { user: user.as_str().to_owned(), incarnation: account.incarnation };
        let op = Op::Directory(DirectoryCommand { op: Some(directory_command::Op::InboxEnded(ended)) });
        // If this is not done, the inbox ends once more, which does nothing.
        let _ = self.call(shards.directory_of(&user), op).await;
        Ok(())
    }

    /// As `end_sender`, for commands that nothing goes on with later. While not all storage nodes can read that, the command is
    /// answered without it, as the releases before do.
    pub(super) async fn end_sender_if_read(&self, account: &Account) -> Result<(), Status> {
        // The account has just been made, and nobody had the name before.
        if account.generation == account.incarnation && !account.remade {
            return Ok(());
        }
        if !self.ends_senders() {
            tracing::warn!(
                user = account.user,
                "what the user's sessions have sent may still be accepted: not all storage nodes run this release yet"
            );
            return Ok(());
        }
        self.end_sender(account).await.map_err(|failure| half_done(&failure))
    }

    /// Storage nodes of the releases before would stop at an `EndSender`.
    fn ends_senders(&self) -> bool {
        Level(self.topology.borrow().view.level) >= Level::CLUSTER
    }

    /// From the answer on, nothing that sessions of before have sent gets into any inbox: not what a gateway, or a router, that
    /// stood still sends on when it goes on. It can be done again.
    async fn end_sender(&self, account: &Account) -> Result<(), StoreFailure> {
        if !self.ends_senders() {
            let detail = "not all storage nodes can read yet that a sender's sessions are over".to_owned();
            return Err(StoreFailure::Level { detail });
        }
        let Ok(shards) = self.shards() else { return Err(StoreFailure::Stopping) };
        let timelines = shards.all().filter(|shard| shard.kind == ShardKind::Timeline);
        let end = EndSender { sender: account.user.clone(), generation: account.generation };
        let calls = timelines.map(|shard| {
            let end = TimelineCommand { op: Some(timeline_command::Op::EndSender(end.clone())) };
            self.when_the_level_is_there(shard, Op::Timeline(end))
        });
        // As many at once as there are shards.
        try_join_all(calls).await.map(|_| ())
    }

    /// The shards follow the cluster's level one by one: right after a first start, or the start of a new release, one of them
    /// may still be below it.
    async fn when_the_level_is_there(&self, shard: ShardId, op: Op) -> Result<StoreAnswer, StoreFailure> {
        let deadline = Instant::now() + self.deadline;
        loop {
            match self.call(shard, op.clone()).await {
                Err(StoreFailure::Level { .. }) if Instant::now() + LEVEL_PAUSE < deadline => {
                    time::sleep(LEVEL_PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    async fn end_what_is_left(&self) {
        for shard in self.directory_shards().unwrap_or_default() {
            let list = ListAccounts { limit: FOUND, ending: true, ..ListAccounts::default() };
            let Ok(StoreAnswer::AccountList(found)) = self.call(shard, Op::ListAccounts(list)).await else { continue };
            for account in found.accounts {
                match self.end_inbox(&account).await {
                    Ok(()) => tracing::info!(user = account.user, "the inbox of a deleted user has ended now"),
                    Err(error) => tracing::debug!(user = account.user, %error, "an inbox could not be ended"),
                }
            }
        }
    }
}

/// Until it is cancelled.
pub(crate) async fn end_inboxes(admin: Admin) {
    loop {
        time::sleep(LOOK).await;
        admin.end_what_is_left().await;
    }
}
