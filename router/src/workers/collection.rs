//! Files to which nothing may refer any more: the shard of a file is told when another shard has let go of it, and asks all shards before it removes the
//! file. See docs/adr/0030-media.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use carillon_proto::{
    MediaId, ShardId, ShardKind, clock,
    pb::store::{
        CollectMedia, FindMediaHolders, MediaReleased, NoteReleasedMedia, ReadHeldMedia, TimelineCommand,
        store_request::Op, timeline_command,
    },
};
use tokio::{sync::watch, time::Instant};

use super::{
    later::put_off,
    outbox::{Effect, OutboxWorker, RowPlace},
    removals::Removal,
};
use crate::{
    metrics,
    store::{Store, StoreAnswer, StoreFailure},
    topology::Topology,
};

/// What a row of the outbox asks for about files that something referred to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum AboutHolders {
    /// The shards of the files are told.
    Released(MediaReleased),
    /// All shards are asked.
    Find(FindMediaHolders),
}

impl OutboxWorker {
    /// Whether this is done. Otherwise it begins as soon as there is room.
    pub(super) fn is_collected(&mut self, place: RowPlace, about: impl FnOnce() -> AboutHolders) -> bool {
        self.is_done_aside(place, || Effect::Collect(place, about()))
    }

    /// Takes the outcome of `Effect::Collect`. While a shard does not answer, it is tried again.
    pub(super) fn collected(&mut self, place: RowPlace, outcome: Result<(), StoreFailure>, now: Instant) {
        match outcome {
            Ok(()) => {
                self.removals.note(place, Removal::Done);
                self.nudge(now);
            }
            Err(failure) => {
                tracing::debug!(shard = %self.shard, %failure, "who refers to files can't be found out now");
                self.removals.settled(place);
                put_off(&mut self.later, place, now);
            }
        }
    }
}

/// Asks and tells shards for the workers of all shards. Cheap to clone.
#[derive(Clone)]
pub(super) struct Collector {
    pub(super) topology: watch::Receiver<Arc<Topology>>,
    pub(super) store: Store,
    /// Of each call of the store.
    pub(super) deadline: Duration,
}

impl Collector {
    pub(super) async fn carry_out(&self, shard: ShardId, about: AboutHolders) -> Result<(), StoreFailure> {
        match about {
            AboutHolders::Released(released) => self.tell(&released).await,
            AboutHolders::Find(find) => self.find(shard, &find).await,
        }
    }

    /// Tells the shards of these files. A repeat only has the files looked at once more.
    async fn tell(&self, released: &MediaReleased) -> Result<(), StoreFailure> {
        let map = self.topology.borrow().shards;
        let mut of_shard: BTreeMap<ShardId, Vec<Bytes>> = BTreeMap::new();
        for id in &released.ids {
            // A message can refer to a file of a shard that there is not.
            if let Some(shard) = MediaId::from_bytes(id).and_then(|id| id.shard(map)) {
                of_shard.entry(shard).or_default().push(id.clone());
            }
        }
        for (shard, ids) in of_shard {
            self.command(shard, timeline_command::Op::NoteReleasedMedia(NoteReleasedMedia { ids })).await?;
        }
        Ok(())
    }

    /// Asks which shards hold these files of this shard, and says so to it. The own shard is asked first: it has the owner's copies of messages, so
    /// most files need no other question.
    async fn find(&self, own: ShardId, find: &FindMediaHolders) -> Result<(), StoreFailure> {
        let map = self.topology.borrow().shards;
        let others = map.all().filter(|shard| shard.kind == ShardKind::Timeline && *shard != own);
        #[cfg(feature = "planted-bugs")]
        let others = others.filter(|_| !crate::planted::asks_own_shard_alone());
        let mut unheld: BTreeSet<Bytes> = find.ids.iter().cloned().collect();
        let mut held = Vec::new();
        for shard in std::iter::once(own).chain(others) {
            if unheld.is_empty() {
                break;
            }
            let op = Op::ReadHeldMedia(ReadHeldMedia { ids: unheld.iter().cloned().collect() });
            let StoreAnswer::HeldMediaRead(read) = self.call(shard, op).await? else {
                return Err(StoreFailure::Unexpected);
            };
            held.extend(read.ids.into_iter().filter(|id| unheld.remove(id)));
        }
        let (kept, collected) = (held.len(), unheld.len());
        let collect = CollectMedia { check: find.check, held, unheld: unheld.into_iter().collect() };
        self.command(own, timeline_command::Op::CollectMedia(collect)).await?;
        metrics::media_checked(kept, collected);
        Ok(())
    }

    async fn command(&self, shard: ShardId, op: timeline_command::Op) -> Result<(), StoreFailure> {
        match self.call(shard, Op::Timeline(TimelineCommand { op: Some(op) })).await? {
            StoreAnswer::Done(_) => Ok(()),
            _ => Err(StoreFailure::Unexpected),
        }
    }

    async fn call(&self, shard: ShardId, op: Op) -> Result<StoreAnswer, StoreFailure> {
        self.store.call(shard, op, clock::now() + self.deadline).await
    }
}
