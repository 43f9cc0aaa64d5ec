//! Snapshots that a replica is sent again although it has taken them.
//!
//! A leader sends its snapshot to a replica that is behind the beginning of the log. It has been seen (half an hour of faults on a busy
//! machine, openraft 0.10.0-alpha.37) to go on with that for ever: the replica took the same snapshot twenty times a second, and never
//! got an entry. What the leader remembers of a replica only ever moves on, so a newer snapshot ends it.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use parking_lot::Mutex;

use super::types::LogId;

/// The second time may be that of an answer that was lost.
const TOO_OFTEN: u32 = 3;
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Replicas come and go; only a few of them are sent snapshots at a time.
const MOST: usize = 1024;

/// Shared by the groups of a node.
#[derive(Default)]
pub(crate) struct Repeats {
    taken: Mutex<HashMap<Replica, Taken>>,
    /// Groups that need a newer snapshot.
    stuck: Mutex<HashSet<u64>>,
}

/// The group, and the id of the replica in it.
type Replica = (u64, u64);

#[derive(Clone, Copy)]
struct Taken {
    last: Option<LogId>,
    times: u32,
}

impl Repeats {
    /// How long to wait before this snapshot is sent to this replica.
    pub(super) fn pause(&self, replica: Replica, last: Option<LogId>) -> Duration {
        let taken = self.taken.lock().get(&replica).copied();
        let times = taken.filter(|taken| taken.last == last).map_or(0, |taken| taken.times);
        Duration::from_secs(times.saturating_sub(1).into()).min(LONGEST_PAUSE)
    }

    /// The replica has taken the snapshot. True if a newer one is needed for it.
    pub(super) fn taken(&self, replica: Replica, last: Option<LogId>) -> bool {
        let mut all = self.taken.lock();
        if all.len() >= MOST && !all.contains_key(&replica) {
            all.clear();
        }
        let taken = all.entry(replica).or_insert(Taken { last, times: 0 });
        let times = if taken.last == last { taken.times + 1 } else { 1 };
        *taken = Taken { last, times };
        let stuck = times >= TOO_OFTEN;
        if stuck {
            self.stuck.lock().insert(replica.0);
        }
        stuck
    }

    /// True once after `taken` was.
    pub(super) fn take_stuck(&self, group: u64) -> bool {
        self.stuck.lock().remove(&group)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::types::LeaderId, *};

    fn at(index: u64) -> Option<LogId> {
        Some(LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index })
    }

    #[test]
    fn a_replica_that_takes_the_same_snapshot_again_and_again_needs_a_newer_one() {
        let repeats = Repeats::default();
        assert!(!repeats.taken((7, 1), at(5)) && !repeats.taken((7, 2), at(5)) && !repeats.taken((8, 1), at(5)));
        assert!(!repeats.taken((7, 1), at(5)), "an answer may have been lost");
        assert!(!repeats.take_stuck(7));
        assert!(repeats.taken((7, 1), at(5)));
        assert!(repeats.take_stuck(7) && !repeats.take_stuck(7) && !repeats.take_stuck(8));
        assert!(!repeats.taken((7, 1), at(9)), "the newer one");
    }

    #[test]
    fn it_is_sent_less_and_less_often() {
        let repeats = Repeats::default();
        let pauses: Vec<_> = (0..20)
            .map(|_| {
                let pause = repeats.pause((7, 1), at(5));
                repeats.taken((7, 1), at(5));
                pause.as_secs()
            })
            .collect();
        assert_eq!(pauses[..5], [0, 0, 1, 2, 3]);
        assert_eq!(pauses[19], 10);
        assert_eq!([repeats.pause((7, 1), at(6)), repeats.pause((7, 2), at(5))], [Duration::ZERO; 2]);
    }

    #[test]
    fn replicas_that_have_gone_are_forgotten() {
        let repeats = Repeats::default();
        (0..5000).for_each(|replica| _ = repeats.taken((7, replica), at(5)));
        assert!(repeats.taken.lock().len() <= MOST);
    }
}
