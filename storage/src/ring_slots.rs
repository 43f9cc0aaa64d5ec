//! The registry's leader gives slots of the ring to routers that wait for one, and drops slots that nobody takes. See
//! docs/adr/0024-ring-slots.md.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use carillon_proto::pb::store::{
    AddRingSlot, DirectoryCommand, DropRingSlot, NodeKind, StoreError, directory_command::Op,
};
use prost::Message as _;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    cluster::{Cluster, Serving},
    machine::{Outcome, RegistryState},
    shard::Reader,
};

const INTERVAL: Duration = Duration::from_secs(1);
/// How long a router waits for a slot that another one leaves. In a rolling replacement the old router stops soon after
/// the new one is ready, and the new one takes its slot.
const WAITS: Duration = Duration::from_secs(15);
/// Routers that come within this time after the first one get slots at once: those of a new cluster are started together.
const BEGINS: Duration = Duration::from_secs(15);
/// How long a slot is kept for a router that comes back.
const KEPT: Duration = Duration::from_secs(600);

pub(crate) async fn run(serving: Arc<Serving>) {
    let Some(shard) = serving.get().and_then(Cluster::registry) else { return };
    let Reader::Directory(reader) = shard.reader() else { return };
    let registry = reader.registry();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::default();
    loop {
        let now = ticks.tick().await;
        let op = watch.tick(now, shard.group().leads(), &registry.borrow());
        let Some(op) = op else { continue };
        let command = DirectoryCommand { op: Some(op) }.encode_to_vec().into();
        // Repeated at the next look, if it was not carried out.
        if let Outcome::Error(StoreError { why: Some(why) }) = shard.write(command).await {
            tracing::debug!(?why, "a slot of the ring stays as it is");
        }
    }
}

/// Routers without a slot and slots without a router, as the registry's leader has seen them since it leads.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// When a router was first seen without a slot, by lease.
    waiting: BTreeMap<u64, Instant>,
    /// When a slot was first seen without a router.
    vacant: BTreeMap<u32, Instant>,
    /// When the ring was last seen without a slot.
    empty: Option<Instant>,
}

impl Watch {
    /// The next change, if one is due.
    pub(crate) fn tick(&mut self, now: Instant, leads: bool, registry: &RegistryState) -> Option<Op> {
        if !leads {
            *self = Self::default();
            return None;
        }
        let routers = || registry.nodes.iter().filter(|node| node.kind() == NodeKind::Router);
        if !routers().any(|router| router.slot.is_some()) {
            // Either nobody is there, or the level does not have slots: then nobody waits.
            self.empty = Some(now);
            self.waiting.clear();
        } else {
            let waits = |lease| routers().any(|router| router.lease == lease && router.slot.is_none());
            self.waiting.retain(|lease, _| waits(*lease));
            for router in routers().filter(|router| router.slot.is_none()) {
                self.waiting.entry(router.lease).or_insert(now);
            }
        }
        self.vacant.retain(|slot, _| registry.vacant_slots.contains(slot));
        for slot in &registry.vacant_slots {
            self.vacant.entry(*slot).or_insert(now);
        }
        let begins = self.empty.is_some_and(|empty| now - empty < BEGINS);
        let due = |since: &Instant, after: Duration| now.saturating_duration_since(*since) >= after;
        let waited = self.waiting.iter().find(|(_, since)| begins || due(since, WAITS));
        let add = waited.map(|(lease, _)| Op::AddRingSlot(AddRingSlot { lease: *lease }));
        let left = || self.vacant.iter().find(|(_, since)| due(since, KEPT));
        add.or_else(|| left().map(|(slot, _)| Op::DropRingSlot(DropRingSlot { slot: *slot })))
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::store::Node;

    use super::*;

    /// Routers by lease, each with its slot.
    fn state(routers: &[(u64, Option<u32>)], vacant: &[u32]) -> RegistryState {
        let kind = NodeKind::Router.into();
        let node =
            |(lease, slot): &(u64, Option<u32>)| Node { lease: *lease, kind, address: String::new(), slot: *slot };
        let nodes = routers.iter().map(node).collect();
        RegistryState { nodes, vacant_slots: vacant.to_vec(), ..RegistryState::default() }
    }

    fn add(lease: u64) -> Option<Op> {
        Some(Op::AddRingSlot(AddRingSlot { lease }))
    }

    #[test]
    fn a_router_waits_for_the_slot_of_another_one_and_then_gets_a_new_one() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        let (one, two) = (state(&[(1, Some(0))], &[]), state(&[(1, Some(0)), (2, None)], &[]));
        assert_eq!(watch.tick(now, true, &one), None);
        for at in [Duration::ZERO, WAITS / 2, WAITS - Duration::from_millis(1)] {
            assert_eq!(watch.tick(now + at, true, &two), None);
        }
        assert_eq!(watch.tick(now + WAITS, true, &two), add(2));
        assert_eq!(watch.tick(now + WAITS, true, &two), add(2), "until it is done");
        assert_eq!(watch.tick(now + WAITS, false, &two), None);
        assert_eq!(watch.tick(now + WAITS, true, &two), None, "a new leader waits anew");
    }

    #[test]
    fn routers_that_come_soon_after_the_first_one_do_not_wait() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        let below = state(&[(1, None), (2, None)], &[]);
        assert_eq!(watch.tick(now, true, &below), None, "the level does not have slots");
        assert_eq!(watch.tick(now, true, &state(&[], &[])), None);
        let two = state(&[(1, Some(0)), (2, None)], &[]);
        assert_eq!(watch.tick(now + BEGINS / 2, true, &two), add(2));
        let three = state(&[(1, Some(0)), (2, Some(1)), (3, None)], &[]);
        assert_eq!(watch.tick(now + BEGINS, true, &three), None);
    }

    #[test]
    fn a_slot_is_dropped_when_nobody_has_taken_it_for_long() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        let vacant = state(&[(1, Some(0))], &[1]);
        assert_eq!(watch.tick(now, true, &vacant), None);
        assert_eq!(watch.tick(now + KEPT / 2, true, &state(&[(1, Some(0)), (2, Some(1))], &[])), None);
        assert_eq!(watch.tick(now + KEPT / 2, true, &vacant), None);
        assert_eq!(watch.tick(now + KEPT, true, &vacant), None, "it was taken in between");
        let dropped = watch.tick(now + KEPT / 2 + KEPT, true, &vacant);
        assert_eq!(dropped, Some(Op::DropRingSlot(DropRingSlot { slot: 1 })));
    }
}
