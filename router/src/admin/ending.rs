//! Ends the inboxes of deleted users, whatever happens between the deletion and the end of the inbox.

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

use super::Admin;
use crate::store::{StoreAnswer, StoreFailure};

/// How often each router looks for inboxes that have not ended: only a router that stopped half-way leaves any.
const LOOK: Duration = Duration::from_secs(60);
/// Pause between tries of a command that a shard can't read yet.
const LEVEL_PAUSE: Duration = Duration::from_millis(100);
/// Most inboxes that one look finds in a shard.
const FOUND: u32 = 64;

impl Admin {
    /// Ends the inbox of a deleted account. Idempotent.
    pub(super) async fn end_inbox(&self, account: &Account) -> Result<(), StoreFailure> {
        let Ok(user) = UserId::new(&account.user) else { return Ok(()) };
        let Ok(shards) = self.shards() else { return Err(StoreFailure::Stopping) };
        let timeline = TimelineId::Inbox(user.clone());
        let end = EndTimeline { timeline: Some(timeline.to_key()), incarnation: account.incarnation };
        let op = Op::Timeline(TimelineCommand { op: Some(timeline_command::Op::EndTimeline(end)) });
        self.call(shards.timeline_of(&timeline), op).await?;
        // The shard has written down which groups the user leaves.
        self.nudges.nudge(shards.timeline_of(&timeline));
        self.end_sender(account).await?;
        // Both are done in all shards.
        let ended = InboxEnded { user: user.as_str().to_owned(), incarnation: account.incarnation };
        let op = Op::Directory(DirectoryCommand { op: Some(directory_command::Op::InboxEnded(ended)) });
        // If this fails, the inbox is ended once more, which does nothing.
        let _ = self.call(shards.directory_of(&user), op).await;
        Ok(())
    }

    /// Like `end_sender`, for commands that nothing depends on later. While some storage nodes can't read it, the
    /// command is answered without it, as older releases do.
    pub(super) async fn end_sender_if_read(&self, account: &Account) -> Result<(), Status> {
        // The account was just made, and the name had no previous owner.
        if account.generation == account.incarnation && !account.remade {
            return Ok(());
        }
        if !self.ends_senders() {
            tracing::warn!(
                user = account.user,
                "what the user's sessions have sent may still be accepted: the cluster's level was not raised so far"
            );
            return Ok(());
        }
        self.end_sender(account).await.map_err(|failure| half_done(&failure))
    }

    /// Storage nodes of older releases would stop at an `EndSender`.
    fn ends_senders(&self) -> bool {
        Level(self.topology.borrow().view.level) >= Level::CLUSTER
    }

    /// After the answer, no inbox takes anything that older sessions have sent, not even from a gateway or router that
    /// was paused and continues. Idempotent.
    async fn end_sender(&self, account: &Account) -> Result<(), StoreFailure> {
        if !self.ends_senders() {
            let detail = "the cluster's level is too low to say that a sender's sessions are over".to_owned();
            return Err(StoreFailure::Level { detail });
        }
        let Ok(shards) = self.shards() else { return Err(StoreFailure::Stopping) };
        let timelines = shards.all().filter(|shard| shard.kind == ShardKind::Timeline);
        let end = EndSender { sender: account.user.clone(), generation: account.generation };
        let calls = timelines.map(|shard| {
            let end = TimelineCommand { op: Some(timeline_command::Op::EndSender(end.clone())) };
            self.when_the_level_is_there(shard, Op::Timeline(end))
        });
        // Concurrency is bounded by the number of shards.
        try_join_all(calls).await.map(|_| ())
    }

    /// The shards follow the cluster's level one by one: right after a first start, or after the start of a new
    /// release, a shard may still be below it.
    pub(super) async fn when_the_level_is_there(&self, shard: ShardId, op: Op) -> Result<StoreAnswer, StoreFailure> {
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
                    Ok(()) => tracing::debug!(user = account.user, "the inbox of a deleted user has ended"),
                    Err(error) => tracing::debug!(user = account.user, %error, "an inbox could not be ended"),
                }
                if let Err(error) = self.erase_if_ordered(&account).await {
                    tracing::debug!(user = account.user, %error, "an erasure could not go on");
                }
            }
        }
    }
}

/// Runs until it is cancelled.
pub(crate) async fn end_inboxes(admin: Admin) {
    loop {
        time::sleep(LOOK).await;
        admin.end_what_is_left().await;
    }
}

/// The account is changed, but messages of its older sessions may still be accepted.
fn half_done(failure: &StoreFailure) -> Status {
    Status::unavailable(format!(
        "the account was changed, but not every shard of the store knows it: {failure}; do it again"
    ))
}
