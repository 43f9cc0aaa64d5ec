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
            let begins = match shard.reader() {
                Reader::Directory(_) => search.begins(registry.version, Instant::now()),
                Reader::Timeline(_) => search.has_news(shard.group().applied()),
            };
            if !begins {
                continue;
            }
            if let Err(error) = sweep_shard(shard, &registry, search).await {
                tracing::error!(shard = %shard.id(), %error, "rows to be removed can't be read");
            }
        }
    }
}

/// The search through one shard. Leases end only with a new version of the registry, and timelines only with a command of
/// their shard, so without one there is no search: the rows of signed-in users cost nothing.
#[derive(Default)]
struct Search {
    /// The key at which the search continues; empty at its begin and end.
    after: Vec<u8>,
    /// The version of the registry at which the search began.
    version: u64,
    /// When the last search finished.
    done: Option<Instant>,
    /// The last entry that was known to be applied at the last look, if that found nothing.
    nothing_at: Option<u64>,
}

impl Search {
    /// Starts or continues the search. False if there is nothing to find.
    fn begins(&mut self, version: u64, now: Instant) -> bool {
        if self.after.is_empty() {
            if self.version == version && self.done.is_some_and(|done| now < done + LOOK_AGAIN) {
                return false;
            }
            (self.version, self.done) = (version, None);
        }
        true
    }

    /// True if something has been applied since nothing was found.
    fn has_news(&self, applied: Option<u64>) -> bool {
        self.nothing_at != applied
    }
}

async fn sweep_shard(shard: &Shard, registry: &RegistryState, search: &mut Search) -> io::Result<()> {
    for _ in 0..LOOKS {
        if !shard.group().leads() {
            // The other leader has a search of its own; this node starts anew when it leads again.
            *search = Search::default();
            return Ok(());
        }
        let applied = shard.group().applied();
        let (reader, registry, begin) = (shard.reader().clone(), registry.clone(), search.after.clone());
        let looked = tokio::task::spawn_blocking(move || look(&reader, &registry, &begin)).await;
        let (commands, next) = looked.map_err(io::Error::other)??;
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
        search.after = next;
        if search.after.is_empty() {
            (search.done, search.nothing_at) = (Some(Instant::now()), applied);
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
            let command = |delete| DirectoryCommand { op: Some(DirectoryOp::DeleteSession(delete)) }.encode_to_vec();
            Ok((found.into_iter().map(|found| (command(found).into(), "sessions")).collect(), next))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_timelines_are_searched_when_something_was_applied_since_none_was_found() {
        let mut search = Search::default();
        assert!(!search.has_news(None), "the shard is empty");
        assert!(search.has_news(Some(7)));
        search.nothing_at = Some(7);
        assert!(!search.has_news(Some(7)) && search.has_news(Some(8)));
    }

    #[test]
    fn sessions_are_searched_after_a_change_of_the_registry_and_seldom_without() {
        let now = Instant::now();
        let mut search = Search::default();
        assert!(search.begins(7, now));
        search.after = vec![1];
        assert!(search.begins(8, now), "it goes on by what it began with");
        search.after = Vec::new();
        search.done = Some(now);
        assert!(search.begins(8, now), "a lease may have ended behind it");
        search.done = Some(now);
        assert!(!search.begins(8, now));
        assert!(search.begins(8, now + LOOK_AGAIN));
        search.done = Some(now);
        assert!(search.begins(9, now));
    }
}
