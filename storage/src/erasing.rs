//! Erases what users have sent: in each timeline shard that this node leads it looks for messages of the users that are being
//! erased, and has them replaced. See docs/adr/0023-user-data.md.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
    time::Duration,
};

use carillon_proto::{
    ShardId,
    pb::store::{Redact, SenderErased, StoreError, TimelineCommand, redact::Message, timeline_command::Op},
};
use prost::Message as _;
use tokio::time::{Instant, sleep};

use crate::{
    cluster::Serving,
    machine::{Erasing, Outcome, REDACTED, TimelineReader},
    metrics as names,
    shard::{Reader, Shard},
};

/// Time between two rounds; a long round is followed by a pause as long as itself, so that a store that is read through is there
/// for others at least as long.
const INTERVAL: Duration = Duration::from_secs(1);
/// Looks at one shard before the next shard has its turn.
const LOOKS: usize = 64;

/// Runs as long as the node.
pub(crate) async fn run(serving: Arc<Serving>) {
    let Some(cluster) = serving.get() else { return };
    let mut passes: HashMap<ShardId, Pass> = HashMap::new();
    loop {
        let start = Instant::now();
        for shard in cluster.shards().values() {
            let Reader::Timeline(reader) = shard.reader() else { continue };
            let pass = passes.entry(shard.id()).or_default();
            if !shard.group().leads() {
                // The other leader has a pass of its own.
                *pass = Pass::default();
                continue;
            }
            if let Err(error) = pass.go_on(shard, reader).await {
                tracing::error!(shard = %shard.id(), %error, "messages of erased users can't be read");
                shard.alarm().note(format_args!("shard {}", shard.id()), &error);
            }
        }
        sleep(start.elapsed().max(INTERVAL)).await;
    }
}

/// A pass through the records of a shard.
#[derive(Default)]
struct Pass {
    /// Whom it is for. Nothing that they send gets into the shard any more.
    users: Vec<Erasing>,
    /// Where it goes on.
    after: Vec<u8>,
    /// Everything has been looked at.
    is_through: bool,
    /// What was applied when there was nobody to be erased.
    nobody_at: Option<u64>,
}

impl Pass {
    async fn go_on(&mut self, shard: &Shard, reader: &TimelineReader) -> io::Result<()> {
        if self.users.is_empty() {
            let applied = shard.group().applied();
            if applied == self.nobody_at {
                return Ok(());
            }
            let reader = reader.clone();
            self.users = blocking(move || reader.erasing()).await?;
            if self.users.is_empty() {
                self.nobody_at = applied;
                return Ok(());
            }
        }
        for _ in 0..LOOKS {
            if self.is_through {
                break;
            }
            if !self.look(shard, reader).await? {
                // Another round begins anew.
                *self = Self::default();
                return Ok(());
            }
        }
        if !self.is_through {
            return Ok(());
        }
        let ended = reader.clone();
        if !blocking(move || ended.garbage(1)).await?.is_empty() {
            // Remains of timelines that have ended, among them those of these users, are still being removed.
            return Ok(());
        }
        for Erasing { user, generation } in std::mem::take(&mut self.users) {
            let erased = SenderErased { sender: user, generation };
            carry_out(shard, Op::SenderErased(erased)).await;
        }
        *self = Self::default();
        Ok(())
    }

    /// False if something that was found is not replaced.
    async fn look(&mut self, shard: &Shard, reader: &TimelineReader) -> io::Result<bool> {
        let users: HashSet<String> = self.users.iter().map(|erasing| erasing.user.clone()).collect();
        let (reader, after) = (reader.clone(), self.after.clone());
        let (found, next) = blocking(move || reader.sent_by(&users, &after)).await?;
        let mut of_sender: HashMap<String, Vec<Message>> = HashMap::new();
        for (sender, message) in found {
            of_sender.entry(sender).or_default().push(message);
        }
        for Erasing { user, generation } in &self.users {
            for messages in of_sender.get(user).map_or(&[][..], Vec::as_slice).chunks(REDACTED) {
                let redact = Redact { sender: user.clone(), generation: *generation, messages: messages.to_vec() };
                if !carry_out(shard, Op::Redact(redact)).await {
                    return Ok(false);
                }
                metrics::counter!(names::REDACTED).increment(messages.len() as u64);
            }
        }
        self.is_through = next.is_empty();
        self.after = next;
        Ok(true)
    }
}

async fn blocking<T: Send + 'static>(read: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

async fn carry_out(shard: &Shard, op: Op) -> bool {
    let command = TimelineCommand { op: Some(op) }.encode_to_vec();
    match shard.write(command.into()).await {
        Outcome::Error(StoreError { why }) => {
            tracing::debug!(shard = %shard.id(), ?why, "nothing was erased");
            false
        }
        _ => true,
    }
}
