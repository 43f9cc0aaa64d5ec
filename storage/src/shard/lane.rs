//! Lanes keep the order of writes across refusals, see `StoreRequest.lane`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use carillon_proto::ShardId;

/// The lanes of one stream.
#[derive(Default)]
pub(crate) struct Lanes {
    /// For each shard: one more than the highest closed lane.
    closed: BTreeMap<ShardId, Arc<AtomicU64>>,
}

/// The lane of one write.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    number: u64,
    closed: Arc<AtomicU64>,
}

impl Lanes {
    pub(crate) fn lane(&mut self, shard: ShardId, number: u64) -> Lane {
        Lane { number, closed: Arc::clone(self.closed.entry(shard).or_default()) }
    }
}

impl Lane {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire) > self.number
    }

    /// Closes this lane and all lanes with lower numbers.
    pub(crate) fn close(&self) {
        self.closed.fetch_max(self.number.saturating_add(1), Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_lane_opens_only_with_a_higher_number() {
        let (mut lanes, shard) = (Lanes::default(), ShardId::REGISTRY);
        let (first, queued) = (lanes.lane(shard, 0), lanes.lane(shard, 0));
        assert!(!queued.is_closed());
        first.close();
        assert!(queued.is_closed() && lanes.lane(shard, 0).is_closed());
        let next = lanes.lane(shard, 1);
        assert!(!next.is_closed());
        // What was late in the old one does not close the new one.
        queued.close();
        assert!(!next.is_closed());
        let other = ShardId { index: 1, ..shard };
        assert!(!lanes.lane(other, 0).is_closed());
    }
}
