//! Watches a load, and notes when messages were accepted and delivered.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::tasks::Tasks;
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use super::{load::Load, outage::longest_gap};

/// The resolution with which outages are measured.
const LOOK: Duration = Duration::from_millis(5);

/// One pair of users: the times at which a look found more messages than the look before it.
#[derive(Debug, Default, Clone)]
struct Pulse {
    accepted: Vec<Duration>,
    delivered: Vec<Duration>,
    before: (u64, u64),
}

/// All pairs.
#[derive(Debug, Default)]
pub(crate) struct Pulses {
    pairs: Vec<Pulse>,
    /// Messages of all pairs that were accepted and delivered so far, at the end of each tenth of a second.
    tenths: Vec<(u64, u64)>,
}

impl Pulses {
    fn look(&mut self, now: Duration, counts: &[(u64, u64)]) {
        if counts.is_empty() {
            return;
        }
        self.pairs.resize_with(counts.len(), Pulse::default);
        for (pulse, (accepted, delivered)) in self.pairs.iter_mut().zip(counts.iter().copied()) {
            if accepted > pulse.before.0 {
                pulse.accepted.push(now);
            }
            if delivered > pulse.before.1 {
                pulse.delivered.push(now);
            }
            pulse.before = (accepted, delivered);
        }
        let totals = counts.iter().fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        self.tenths.resize(now.as_millis() as usize / 100 + 1, totals);
        if let Some(last) = self.tenths.last_mut() {
            *last = totals;
        }
    }

    /// The longest time without an acceptance, and without a delivery, of the pair for which it was longest.
    pub(crate) fn away(&self, from: Duration, to: Duration) -> (Duration, Duration) {
        let longest = |times: fn(&Pulse) -> &[Duration]| {
            self.pairs.iter().map(|pulse| longest_gap(times(pulse), from, to)).max().unwrap_or_default()
        };
        (longest(|pulse| &pulse.accepted), longest(|pulse| &pulse.delivered))
    }

    pub(crate) fn into_tenths(self) -> Vec<(u64, u64)> {
        self.tenths
    }
}

/// Watches until the tasks are stopped.
pub(crate) fn watch(load: &Arc<Load>, began: Instant, tasks: &Tasks) -> Arc<Mutex<Pulses>> {
    let pulses = Arc::<Mutex<Pulses>>::default();
    let (load, noted) = (Arc::clone(load), Arc::clone(&pulses));
    tasks.spawn("watch load", async move {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            looks.tick().await;
            noted.lock().look(began.elapsed(), &load.counts());
        }
    });
    pulses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pair_that_was_away_longest_counts() {
        let mut pulses = Pulses::default();
        for ms in (0..1000).step_by(5) {
            // The second pair sends nothing from 200 to 700, and sees nothing from 200 on.
            let second = if (200..700).contains(&ms) { 200 } else { ms };
            pulses.look(Duration::from_millis(ms), &[(ms, ms), (second, ms.min(200))]);
        }
        let (sends, deliveries) = pulses.away(Duration::from_millis(100), Duration::from_millis(1000));
        assert_eq!((sends.as_millis(), deliveries.as_millis()), (500, 800));
        let tenths = pulses.into_tenths();
        assert_eq!((tenths.len(), tenths[9]), (10, (995 * 2, 995 + 200)));
    }
}
