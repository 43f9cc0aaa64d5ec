//! The slots of the ring: each is a share of all users, and is held by one router. See docs/adr/0024-ring-slots.md.

use std::{collections::BTreeMap, io};

use super::keys;
use crate::engine::{Changes, sled::DirectoryShard};

/// The holder's lease of each slot; `None`: vacant, kept for the next router.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct RingSlots(BTreeMap<u32, Option<u64>>);

impl RingSlots {
    pub(super) fn load(shard: &DirectoryShard) -> io::Result<Self> {
        let mut slots = BTreeMap::new();
        for record in shard.with_prefix(&keys::ring_slots()) {
            let (key, value) = record?;
            let lease = keys::number_of(&value)?;
            slots.insert(keys::ring_slot_of(&key)?, (lease != 0).then_some(lease));
        }
        Ok(Self(slots))
    }

    /// The slot that this lease holds.
    pub(super) fn of(&self, lease: u64) -> Option<u32> {
        self.0.iter().find(|(_, holder)| **holder == Some(lease)).map(|(slot, _)| *slot)
    }

    pub(super) fn vacant(&self) -> impl Iterator<Item = u32> {
        self.0.iter().filter(|(_, holder)| holder.is_none()).map(|(slot, _)| *slot)
    }

    /// A router has come: it takes the lowest vacant slot, or the first one of all. Otherwise it waits.
    pub(super) fn join(&mut self, lease: u64, changes: &mut Changes) {
        let first = self.0.is_empty().then_some(0);
        let slot = self.vacant().next().or(first);
        if let Some(slot) = slot {
            self.give(slot, Some(lease), changes);
        }
    }

    /// Gives the lease a slot that nobody has had.
    pub(super) fn add(&mut self, lease: u64, changes: &mut Changes) {
        let free = (0..).zip(self.0.keys()).find(|(number, slot)| number != *slot).map(|(number, _)| number);
        // There are fewer slots than leases.
        let slot = free.unwrap_or(self.0.len() as u32);
        self.give(slot, Some(lease), changes);
    }

    /// The lease has ended. Whoever has waited longest takes its slot at once, so that the slot's users move once.
    pub(super) fn leave(&mut self, lease: u64, heir: Option<u64>, changes: &mut Changes) {
        if let Some(slot) = self.of(lease) {
            self.give(slot, heir, changes);
        }
    }

    /// False if there is no such slot, or somebody holds it.
    pub(super) fn drop_vacant(&mut self, slot: u32, changes: &mut Changes) -> bool {
        if self.0.get(&slot) != Some(&None) {
            return false;
        }
        self.0.remove(&slot);
        changes.delete(keys::ring_slot(slot));
        true
    }

    fn give(&mut self, slot: u32, holder: Option<u64>, changes: &mut Changes) {
        self.0.insert(slot, holder);
        changes.put(keys::ring_slot(slot), keys::number_value(holder.unwrap_or(0)));
    }
}
