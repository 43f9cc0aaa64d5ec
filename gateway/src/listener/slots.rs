//! Limits on connections: of one listener, of all together, and of one address.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use carillon_proto::seldom::Seldom;
use parking_lot::Mutex;

use super::refusal::Refusal;
use crate::{metrics, network::Network};

/// The part of the slots that is out of reach for each single listener, so that a full listener leaves room on the others: this number divides
/// all slots.
const FOR_OTHERS: usize = 10;
/// Least time between two log lines about a full listener.
const TELL: Duration = Duration::from_secs(30);

/// The slots of one listener.
pub(crate) struct Slots {
    name: &'static str,
    common: Arc<Common>,
    own: Pool,
    full: Seldom,
}

/// Shared by all listeners.
pub(crate) struct Common {
    pool: Pool,
    /// 0: no bound.
    most_per_address: usize,
    /// Bounded by the pool. Empty if there is no limit per address.
    addresses: Mutex<HashMap<Network, usize>>,
    crowded: Seldom,
}

struct Pool {
    taken: AtomicUsize,
    most: usize,
}

/// Released when the connection ends.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    network: Option<Network>,
}

impl Common {
    pub(crate) fn new(most: usize, most_per_address: usize) -> Arc<Self> {
        Arc::new(Self {
            pool: Pool::new(most),
            most_per_address,
            addresses: Mutex::default(),
            crowded: Seldom::new(3, TELL),
        })
    }
}

impl Slots {
    /// `own`: the slots of this listener; 0: nearly all. `alone`: there is no other listener.
    pub(crate) fn new(common: &Arc<Common>, name: &'static str, own: usize, alone: bool) -> Arc<Self> {
        let most = common.pool.most;
        let nearly_all = if alone { most } else { (most - most.div_ceil(FOR_OTHERS)).max(1) };
        let own = Pool::new(if own == 0 { nearly_all } else { own });
        Arc::new(Self { name, common: Arc::clone(common), own, full: Seldom::new(1, TELL) })
    }

    /// `None` if all slots are taken, which is counted and logged.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        if self.own.take() {
            if self.common.pool.take() {
                return Some(Slot { slots: Arc::clone(self), network: None });
            }
            self.own.give_back();
        }
        metrics::connection_refused("full");
        if let Some(left_out) = self.full.turn(Instant::now()) {
            let (listener, most, of_all) = (self.name, self.own.most, self.common.pool.most);
            tracing::warn!(
                listener,
                most,
                of_all,
                left_out,
                "connections are refused: there are as many as may be (gateway.max_connections)"
            );
        }
        None
    }
}

impl Slot {
    /// Counts the slot for this address.
    pub(super) fn belongs_to(&mut self, address: IpAddr) -> Result<(), Refusal> {
        let common = &self.slots.common;
        if common.most_per_address == 0 || self.network.is_some() {
            return Ok(());
        }
        let network = Network::of(address);
        let mut addresses = common.addresses.lock();
        let count = addresses.entry(network).or_insert(0);
        if *count >= common.most_per_address {
            drop(addresses);
            metrics::connection_refused("address");
            if let Some(left_out) = common.crowded.turn(Instant::now()) {
                let most = common.most_per_address;
                tracing::warn!(
                    %address, most, left_out,
                    "connections are refused: this address has as many as it may \
                     (gateway.max_connections_per_address; for a proxy see gateway.proxies)"
                );
            }
            return Err(Refusal::Crowded);
        }
        *count += 1;
        drop(addresses);
        self.network = Some(network);
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let common = &self.slots.common;
        if let Some(network) = self.network
            && let Entry::Occupied(mut entry) = common.addresses.lock().entry(network)
        {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
        self.slots.own.give_back();
        common.pool.give_back();
    }
}

impl Pool {
    fn new(most: usize) -> Self {
        Self { taken: AtomicUsize::new(0), most }
    }

    fn take(&self) -> bool {
        let more = |taken| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_listener_leaves_room_on_the_others() {
        let common = Common::new(10, 0);
        let (one, other) = (Slots::new(&common, "one", 0, false), Slots::new(&common, "other", 0, false));
        let held: Vec<_> = std::iter::from_fn(|| one.take()).collect();
        assert_eq!(held.len(), 9);
        let last = other.take().expect("room");
        assert!(other.take().is_none(), "all together");
        drop(last);
        drop(held);
        let again: Vec<_> = std::iter::from_fn(|| other.take()).collect();
        assert_eq!(again.len(), 9, "all came back");
    }

    #[test]
    fn a_listener_has_what_it_was_given_and_a_single_one_has_all() {
        let common = Common::new(10, 0);
        let held: Vec<_> = std::iter::from_fn(|| Slots::new(&common, "alone", 0, true).take()).collect();
        assert_eq!(held.len(), 10);
        drop(held);
        let three = Slots::new(&common, "three", 3, false);
        assert_eq!(std::iter::repeat_with(|| three.take()).take_while(Option::is_some).collect::<Vec<_>>().len(), 3);
    }

    #[test]
    fn an_address_has_a_bound_over_all_listeners() {
        let common = Common::new(10, 2);
        let (one, other) = (Slots::new(&common, "one", 0, false), Slots::new(&common, "other", 0, false));
        let at = |slots: &Arc<Slots>, address: &str| {
            let mut slot = slots.take().expect("room");
            slot.belongs_to(address.parse().expect("an address")).map(|()| slot)
        };
        let first = at(&one, "192.0.2.1").expect("room");
        let _second = at(&other, "192.0.2.1").expect("room");
        assert!(at(&other, "192.0.2.1").is_err());
        let _neighbour = at(&other, "192.0.2.2").expect("room");
        drop(first);
        at(&one, "192.0.2.1").expect("room again");
        assert_eq!(common.addresses.lock().len(), 2, "those without a connection are forgotten");
    }
}
