//! Removes rows that nobody needs any more, by commands that the leader of their shard proposes: remains of ended
//! timelines, and sessions of gateways that ended without closing them.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use bytes::Bytes;
use carillon_proto::{
    ShardId,
    pb::store::{
        DirectoryCommand, StoreError, TimelineCommand, directory_command::Op as DirectoryOp,
        timeline_command::Op as TimelineOp,
    },
};
use futures_util::future::join_all;
use prost::Message as _;
use tokio::time::{Instant, sleep};

use crate::{
    cluster::Serving,
    machine::{Outcome, RegistryState},
    metrics as names,
    rounds::Rounds,
    shard::{Reader, Shard},
};

const INTERVAL: Duration = Duration::from_secs(5);
/// Most commands that one look finds; they are proposed together.
const FOUND: usize = 64;
/// After this time all sessions are checked although no lease has ended: a late router may have stored one under an old
/// lease.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// Looks at one shard before the next shard has its turn. The remainder waits for the next interval, so that one large
/// ended inbox does not hold up live users.
const LOOKS: usize = 32;

/// Runs until it is cancelled.
pub(crate) async fn sweep(serving: Arc<Serving>) {
    let Some(cluster) = serving.get() else { return };
    let mut searches: HashMap<ShardId, Search> = HashMap::new();
    loop {
        sleep(INTERVAL).await;
        for shard in cluster.shards().values() {
            let registry = cluster.registry.borrow().clone();
            let search = searches.entry(shard.id()).or_default();
            search.renew(Instant::now());
            if let Err(error) = end_contacts(shard).await {
                tracing::error!(shard = %shard.id(), %error, "contacts of ended accounts can't be read");
                shard.alarm().note(format_args!("shard {}", shard.id()), &error);
            }
            if let Err(error) = sweep_shard(shard, &registry, search).await {
                tracing::error!(shard = %shard.id(), %error, "rows to be removed can't be read");
                shard.alarm().note(format_args!("shard {}", shard.id()), &error);
            }
        }
    }
}

/// The search through one shard. Leases end only with a new version of the registry, and timelines only with a command of
/// their shard, so without one there is no search: the rows of signed-in users cost nothing.
#[derive(Default)]
struct Search {
    rounds: Rounds,
    /// When the last round ended.
    done: Option<Instant>,
}

impl Search {
    /// Forgets what was found long ago.
    fn renew(&mut self, now: Instant) {
        if self.done.is_some_and(|done| now >= done + LOOK_AGAIN) {
            *self = Self::default();
        }
    }
}

async fn sweep_shard(shard: &Shard, registry: &RegistryState, search: &mut Search) -> io::Result<()> {
    for _ in 0..LOOKS {
        if !shard.group().leads() {
            // The other leader has a search of its own; this node starts anew when it leads again.
            *search = Search::default();
            return Ok(());
        }
        let changed = match shard.reader() {
            Reader::Directory(_) => Some(registry.version),
            Reader::Timeline(_) => shard.group().applied(),
        };
        if !search.rounds.go_on(changed) {
            return Ok(());
        }
        let (reader, registry, begin) = (shard.reader().clone(), registry.clone(), search.rounds.after().to_vec());
        let looked = tokio::task::spawn_blocking(move || look(&reader, &registry, &begin)).await;
        let (commands, next) = looked.map_err(io::Error::other)??;
        let found = !commands.is_empty();
        let removing = commands.into_iter().map(|(command, what)| async move { (shard.write(command).await, what) });
        for (outcome, what) in join_all(removing).await {
            if let Outcome::Error(StoreError { why }) = outcome {
                tracing::debug!(shard = %shard.id(), ?why, "nothing was removed");
                // Rows that were not removed are found again.
                *search = Search::default();
                return Ok(());
            }
            metrics::counter!(names::SWEPT, "what" => what).increment(1);
        }
        search.rounds.looked(found, next);
        if search.rounds.after().is_empty() {
            search.done = Some(Instant::now());
            return Ok(());
        }
    }
    Ok(())
}

/// Prepares those whom ended accounts know to be told of the end. There are hardly ever any, so they are looked for each time.
async fn end_contacts(shard: &Shard) -> io::Result<()> {
    let Reader::Directory(reader) = shard.reader() else { return Ok(()) };
    for _ in 0..LOOKS {
        if !shard.group().leads() {
            return Ok(());
        }
        let reader = reader.clone();
        let found = tokio::task::spawn_blocking(move || reader.ended_contacts(FOUND)).await;
        let found = found.map_err(io::Error::other)??;
        if found.is_empty() {
            return Ok(());
        }
        let command = |change| DirectoryCommand { op: Some(DirectoryOp::ChangeContact(change)) }.encode_to_vec();
        let sweeping = found.into_iter().map(|change| shard.write(command(change).into()));
        if join_all(sweeping).await.iter().any(|outcome| matches!(outcome, Outcome::Error(_))) {
            return Ok(());
        }
    }
    Ok(())
}

/// Commands, each with a name for metrics, and where the next look begins; empty if everything has been looked at.
type Look = (Vec<(Bytes, &'static str)>, Vec<u8>);

fn look(reader: &Reader, registry: &RegistryState, after: &[u8]) -> io::Result<Look> {
    match reader {
        Reader::Timeline(reader) => {
            let found = reader.garbage(FOUND)?;
            // Each needs several commands: the same timelines are found until nothing is left of them.
            let more = if found.is_empty() { Vec::new() } else { vec![1] };
            let command = |collect| TimelineCommand { op: Some(TimelineOp::CollectGarbage(collect)) }.encode_to_vec();
            Ok((found.into_iter().map(|found| (command(found).into(), "timelines")).collect(), more))
        }
        Reader::Directory(reader) => {
            let (found, next) = reader.of_ended(after, |lease| registry.has_ended(lease), FOUND)?;
            let command = |op| DirectoryCommand { op: Some(op) }.encode_to_vec().into();
            let sessions = found.into_iter().map(|found| (command(DirectoryOp::DeleteSession(found)), "sessions"));
            Ok((sessions.collect(), next))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_that_found_nothing_is_forgotten_in_the_end() {
        let now = Instant::now();
        let mut search = Search::default();
        assert!(search.rounds.go_on(Some(7)));
        search.rounds.looked(false, Vec::new());
        search.done = Some(now);
        search.renew(now + LOOK_AGAIN / 2);
        assert!(!search.rounds.go_on(Some(7)));
        search.renew(now + LOOK_AGAIN);
        assert!(search.rounds.go_on(Some(7)));
    }
}
