//! What follows from entries of the store and was not done yet: workers read the outboxes of timeline shards and do it. See
//! docs/adr/0026-workers.md.

mod collection;
mod later;
mod outbox;
mod removals;
mod rows;
mod run;
mod scheduled;
mod steps;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use carillon_media::Files;
use carillon_proto::{Level, MediaId, ShardId, ShardKind, clock, now_ms, pb::store::store_request::Op};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use self::{
    collection::Collector,
    outbox::{Asked, Effect, OutboxWorker, RowPlace},
    removals::Removed,
    scheduled::Sender,
};
use crate::{
    delivery::Delivery,
    metrics,
    partition::Partitions,
    peers::Peers,
    store::{Store, StoreAnswer, StoreFailure},
    topology::Topology,
};

/// A wake-up while there is nothing to do.
const SELDOM: Duration = Duration::from_secs(3600);

/// Shards in whose outboxes this router has just had rows written. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Nudges(Arc<Nudged>);

#[derive(Default)]
struct Nudged {
    /// Bounded by the number of shards.
    shards: Mutex<BTreeSet<ShardId>>,
    wakes: Notify,
}

impl Nudges {
    /// The shard's worker, if it is here, does not wait any longer.
    pub(crate) fn nudge(&self, shard: ShardId) {
        if self.0.shards.lock().insert(shard) {
            self.0.wakes.notify_one();
        }
    }

    fn take(&self) -> BTreeSet<ShardId> {
        std::mem::take(&mut *self.0.shards.lock())
    }
}

/// The workers of the shards for which this router owns `worker/SHARD` on the ring.
pub(crate) struct Workers {
    pub(crate) topology: watch::Receiver<Arc<Topology>>,
    pub(crate) store: Store,
    pub(crate) peers: Peers,
    pub(crate) partitions: Partitions,
    pub(crate) nudges: Nudges,
    /// Of each call of the store.
    pub(crate) deadline: Duration,
    /// Where files are kept; `None`: nowhere that this router knows of.
    pub(crate) files: Option<Files>,
}

/// A worker, and a number that no other one has: answers to an earlier worker of the shard are not for it.
struct Employed {
    number: u64,
    worker: OutboxWorker,
}

impl Workers {
    /// Runs as long as the router.
    pub(crate) async fn run(mut self) {
        let sender = self.sender();
        let mut employed: BTreeMap<ShardId, Employed> = BTreeMap::new();
        let mut last = 0;
        // The topology by which they are employed.
        let mut followed: Option<Arc<Topology>> = None;
        // Bounded by what each worker asks at once.
        let (mut calls, mut removals) = (FuturesUnordered::new(), FuturesUnordered::new());
        let collector = self.collector();
        let (mut sendings, mut collections) = (FuturesUnordered::new(), FuturesUnordered::new());
        loop {
            let topology = Arc::clone(&self.topology.borrow_and_update());
            if followed.as_ref().is_none_or(|followed| !Arc::ptr_eq(followed, &topology)) {
                employ(&mut employed, &topology, &mut last);
                followed = Some(Arc::clone(&topology));
            }
            for shard in self.nudges.take() {
                if let Some(employed) = employed.get_mut(&shard) {
                    employed.worker.nudge(clock::now());
                }
            }
            let now = clock::now();
            for (shard, Employed { number, worker }) in &mut employed {
                worker.go_on(now);
                for effect in worker.take_effects() {
                    match effect {
                        Effect::Ask(asked, of, op) => {
                            calls.push(call(self.store.clone(), (*shard, *number, asked), of, op, now + self.deadline));
                        }
                        Effect::Deliver(delivery) => self.deliver(&topology, delivery),
                        Effect::Remove(place, ids, which) => {
                            removals.push(remove(self.files.clone(), (*shard, *number, place), ids, which));
                        }
                        Effect::Collect(place, about) => {
                            let (collector, caller) = (collector.clone(), (*shard, *number, place));
                            collections.push(async move { (caller, collector.carry_out(caller.0, about).await) });
                        }
                        Effect::Send(place, message) => {
                            let (sender, caller) = (sender.clone(), (*shard, *number, place));
                            sendings.push(async move { (caller, sender.send(caller.0, message.0, message.1).await) });
                        }
                    }
                }
            }
            let workers = || employed.values().map(|employed| &employed.worker);
            metrics::outboxes(
                workers().map(|worker| worker.lag_ms).max().unwrap_or_default(),
                workers().map(|worker| u64::from(worker.dead_letters)).sum(),
            );
            metrics::open_reports(
                workers().map(|worker| worker.open_reports).sum(),
                workers().map(|worker| worker.oldest_report_ms).max().unwrap_or_default(),
            );
            let due = workers().filter_map(OutboxWorker::due).min().unwrap_or(now + SELDOM);
            // All branches are cancel-safe.
            tokio::select! {
                biased;
                changed = self.topology.changed() => if changed.is_err() {
                    return;
                },
                Some(((shard, number, asked), answer)) = calls.next() => {
                    if let Some(employed) = employed.get_mut(&shard).filter(|employed| employed.number == number) {
                        employed.worker.answer(asked, answer, clock::now(), now_ms());
                    }
                }
                Some(((shard, number, place), removed)) = removals.next() => {
                    if let Some(employed) = employed.get_mut(&shard).filter(|employed| employed.number == number) {
                        employed.worker.removed(place, removed, clock::now());
                    }
                }
                Some(((shard, number, place), collected)) = collections.next() => {
                    if let Some(employed) = employed.get_mut(&shard).filter(|employed| employed.number == number) {
                        employed.worker.collected(place, collected, clock::now());
                    }
                }
                Some(((shard, number, place), sent)) = sendings.next() => {
                    if let Some(employed) = employed.get_mut(&shard).filter(|employed| employed.number == number) {
                        employed.worker.sent(place, sent, clock::now());
                    }
                }
                () = self.nudges.0.wakes.notified() => {}
                () = clock::sleep_until(due) => {}
            }
        }
    }

    fn collector(&self) -> Collector {
        Collector { topology: self.topology.clone(), store: self.store.clone(), deadline: self.deadline }
    }

    fn sender(&self) -> Sender {
        Sender {
            topology: self.topology.clone(),
            store: self.store.clone(),
            peers: self.peers.clone(),
            partitions: self.partitions.clone(),
            deadline: self.deadline,
        }
    }

    fn deliver(&self, topology: &Topology, delivery: Delivery) {
        match topology.elsewhere(delivery.timeline.owner()) {
            Some(address) => self.peers.hint(address, delivery),
            None => self.partitions.deliver(delivery),
        }
    }
}

type Caller = (ShardId, u64, Asked);

async fn call(
    store: Store,
    caller: Caller,
    shard: ShardId,
    op: Box<Op>,
    deadline: Instant,
) -> (Caller, Result<StoreAnswer, StoreFailure>) {
    (caller, store.call(shard, *op, deadline).await)
}

async fn remove(
    files: Option<Files>,
    caller: (ShardId, u64, RowPlace),
    ids: Vec<MediaId>,
    which: Removed,
) -> ((ShardId, u64, RowPlace), Result<(), String>) {
    let Some(files) = files else { return (caller, Err("this router has no media.place".to_owned())) };
    for id in &ids {
        let removed = match which {
            Removed::All => files.remove(id).await,
            Removed::Uploaded => files.remove_uploaded(id).await,
        };
        if let Err(error) = removed {
            return (caller, Err(error.to_string()));
        }
    }
    (caller, Ok(()))
}

/// Makes and drops workers as the ring says. What a dropped one had begun, its successor does once more.
fn employ(employed: &mut BTreeMap<ShardId, Employed>, topology: &Topology, last: &mut u64) {
    let has_groups = topology.is_known() && Level(topology.view.level) >= Level::GROUPS;
    let is_own = |shard: ShardId| has_groups && topology.owns(&format!("worker/{shard}"));
    employed.retain(|shard, _| is_own(*shard));
    for shard in topology.shards.all().filter(|shard| shard.kind == ShardKind::Timeline && is_own(*shard)) {
        employed.entry(shard).or_insert_with(|| {
            *last += 1;
            Employed { number: *last, worker: OutboxWorker::new(shard, topology.shards, clock::now()) }
        });
    }
}
