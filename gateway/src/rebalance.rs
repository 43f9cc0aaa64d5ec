//! A gateway that has many more clients than the others asks some of them to move: after all gateways were replaced one after the
//! other, the last one has few, and nobody else moves them.
//!
//! A run starts when the gateway has been above both bounds for a while in which nothing has changed, and ends halfway between the bound and
//! the mean, so that some clients more do not make it start again. A run asks no more clients than were too many when it began: if they
//! reach no other gateway, the mean falls with them. Only clients that have been here for as long as the rest between two runs are asked:
//! one that has come back, or that another gateway has sent here, is left alone.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{Readiness, Ready, clock, pause};

use crate::{
    census::{Census, Seen},
    connections::Connections,
    metrics,
};

/// The time between two looks at the numbers of clients.
const LOOK: Duration = Duration::from_secs(1);
/// Longest delay before a client that was asked connects elsewhere.
const COME_BACK: Duration = Duration::from_secs(1);
/// The numbers that routers tell are at most so old: they count every five seconds, and tell every five seconds.
const TOLD_WITHIN: Duration = Duration::from_secs(15);
/// How exactly the age of connections is known, as a part of the rest.
const AGES: u32 = 60;

/// When clients are asked to move.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Above the mean of all gateways times this; 0: never.
    pub(crate) factor: f64,
    /// The number of clients above the mean that is also needed.
    pub(crate) margin: u32,
    /// For how long it must have been so, without a change of routers and gateways.
    pub(crate) settled: Duration,
    /// Between two runs.
    pub(crate) rest: Duration,
    /// Clients asked each second.
    pub(crate) per_second: u32,
}

/// Decides how many clients are asked, and when.
struct Rebalance {
    bounds: Bounds,
    phase: Phase,
    /// The gateways and routers at the last look: a change of them interrupts a run.
    last: Option<Seen>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Within,
    /// Above the bounds since then.
    Above(Instant),
    /// A run: `left` more clients may be asked.
    Moving {
        left: usize,
    },
    Resting {
        until: Instant,
    },
}

/// Looks, and asks, until it is cancelled. `ready`: that of this gateway.
pub(crate) async fn run(bounds: Bounds, census: Arc<Census>, connections: Arc<Connections>, ready: Ready) {
    let mut rebalance = Rebalance::new(bounds);
    let mut ages = Ages::new(bounds.rest);
    let mut recent = Recent::new(bounds.settled.min(TOLD_WITHIN));
    // Up to this connection all have been asked in this run.
    let mut asked = 0;
    loop {
        clock::sleep(LOOK).await;
        let now = clock::now().into_std();
        ages.look(connections.last_number(), now);
        let seen = census.seen().filter(|_| *ready.borrow() == Readiness::Ready);
        let wanted = rebalance.look(recent.lowest(connections.sessions()), seen, now);
        if wanted == 0 {
            asked = if rebalance.is_moving() { asked } else { 0 };
            continue;
        }
        let old = connections.between(asked, ages.old());
        for (number, client) in old.into_iter().take(wanted) {
            client.go_elsewhere(pause::below(COME_BACK));
            asked = number;
            rebalance.asked();
            ::metrics::counter!(metrics::REBALANCED).increment(1);
        }
    }
}

impl Rebalance {
    fn new(bounds: Bounds) -> Self {
        Self { bounds, phase: Phase::Within, last: None }
    }

    /// The most clients that may be asked now. `seen`: `None` while it is not known what all gateways have, or this one is stopping.
    fn look(&mut self, own: usize, seen: Option<Seen>, now: Instant) -> usize {
        let is_calm = match (&self.last, &seen) {
            (Some(last), Some(seen)) => seen.draining == 0 && last.cluster == seen.cluster,
            _ => false,
        };
        self.last.clone_from(&seen);
        if matches!(self.phase, Phase::Resting { until } if now < until) {
            return 0;
        }
        let Some(seen) = seen.filter(|_| is_calm) else {
            // Clients that were asked may be back soon.
            self.phase = if self.is_moving() { self.resting(now) } else { Phase::Within };
            return 0;
        };
        let excess = self.bounds.excess(own, &seen);
        self.phase = match self.phase {
            Phase::Moving { left } if left == 0 || excess.over_end == 0 => self.resting(now),
            Phase::Moving { left } => Phase::Moving { left },
            _ if excess.over_bound == 0 => Phase::Within,
            Phase::Above(since) if now >= since + self.bounds.settled => Phase::Moving { left: excess.over_end },
            Phase::Above(since) => Phase::Above(since),
            Phase::Within | Phase::Resting { .. } => Phase::Above(now),
        };
        match self.phase {
            Phase::Moving { left } => left.min(excess.over_end).min(self.bounds.per_second as usize),
            _ => 0,
        }
    }

    /// Counts a client that was asked.
    fn asked(&mut self) {
        if let Phase::Moving { left } = &mut self.phase {
            *left = left.saturating_sub(1);
        }
    }

    fn is_moving(&self) -> bool {
        matches!(self.phase, Phase::Moving { .. })
    }

    fn resting(&self, now: Instant) -> Phase {
        Phase::Resting { until: now + self.bounds.rest }
    }
}

/// The number of clients that are too many here.
struct Excess {
    /// Over the bound at which it starts.
    over_bound: usize,
    /// Over the place at which it ends.
    over_end: usize,
}

impl Bounds {
    fn excess(&self, own: usize, seen: &Seen) -> Excess {
        if self.factor == 0.0 || seen.gateways() < 2 {
            return Excess { over_bound: 0, over_end: 0 };
        }
        let mean = seen.all as f64 / seen.gateways() as f64;
        let bound = (mean * self.factor).max(mean + f64::from(self.margin));
        let over = |place: f64| (own as f64 - place).max(0.0).ceil() as usize;
        Excess { over_bound: over(bound), over_end: over(f64::midpoint(mean, bound)) }
    }
}

/// The numbers of clients here in the time that those of the routers may be old: while clients arrive everywhere, the mean is of a time
/// before, and a gateway that has its share would seem to have too many.
struct Recent {
    looks: usize,
    numbers: VecDeque<usize>,
}

impl Recent {
    fn new(time: Duration) -> Self {
        Self { looks: 1 + time.as_secs() as usize / LOOK.as_secs() as usize, numbers: VecDeque::new() }
    }

    /// The lowest one, with that of now.
    fn lowest(&mut self, number: usize) -> usize {
        self.numbers.push_back(number);
        if self.numbers.len() > self.looks {
            self.numbers.pop_front();
        }
        self.numbers.iter().copied().min().unwrap_or(number)
    }
}

/// The ages of connections, which are numbered in the order in which they came.
struct Ages {
    least: Duration,
    /// The last number at some times, the oldest first.
    seen: VecDeque<(Instant, u64)>,
    old: u64,
}

impl Ages {
    fn new(least: Duration) -> Self {
        Self { least, seen: VecDeque::new(), old: 0 }
    }

    fn look(&mut self, last_number: u64, now: Instant) {
        if self.seen.back().is_none_or(|(at, _)| now >= *at + self.least / AGES) {
            self.seen.push_back((now, last_number));
        }
        while let Some((at, number)) = self.seen.front().copied()
            && now >= at + self.least
        {
            self.old = number;
            self.seen.pop_front();
        }
    }

    /// Connections up to this number are old.
    fn old(&self) -> u64 {
        self.old
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const BOUNDS: Bounds = Bounds {
        factor: 1.1,
        margin: 100,
        settled: Duration::from_secs(60),
        rest: Duration::from_secs(600),
        per_second: 10,
    };

    fn seen(all: u64, gateways: u64) -> Option<Seen> {
        Some(Seen { all, draining: 0, cluster: (7, (0..gateways).collect()) })
    }

    /// How many clients may be asked in each of the next seconds.
    fn looks(
        rebalance: &mut Rebalance,
        now: &mut Instant,
        seconds: u32,
        own: usize,
        seen: &Option<Seen>,
    ) -> Vec<usize> {
        let look = |_| {
            *now += SECOND;
            rebalance.look(own, seen.clone(), *now)
        };
        (0..seconds).map(look).collect()
    }

    #[test]
    fn it_begins_above_both_bounds_after_a_while_and_ends_halfway_to_the_mean() {
        let (mut rebalance, mut now) = (Rebalance::new(BOUNDS), Instant::now());
        for (own, all) in [(600, 1_000), (2_199, 4_000), (80, 80)] {
            assert_eq!(looks(&mut rebalance, &mut now, 100, own, &seen(all, 2)), [0; 100], "{own} of {all}");
        }
        let wanted = looks(&mut rebalance, &mut now, 100, 2_201, &seen(4_000, 2));
        assert_eq!((&wanted[..60], &wanted[61..]), (&[0; 60][..], &[10; 39][..]));
        assert_eq!(looks(&mut rebalance, &mut now, 1, 2_103, &seen(4_000, 2)), [3]);
        assert_eq!(looks(&mut rebalance, &mut now, 1, 2_100, &seen(4_000, 2)), [0]);
        assert_eq!(looks(&mut rebalance, &mut now, 599, 4_000, &seen(4_000, 2)), [0; 599], "it rests");
        assert!(looks(&mut rebalance, &mut now, 100, 4_000, &seen(4_000, 2)).contains(&10));
    }

    #[test]
    fn a_run_asks_no_more_than_were_too_many_though_the_mean_falls_with_those_that_do_not_come_back() {
        let (mut rebalance, mut now) = (Rebalance::new(BOUNDS), Instant::now());
        let (mut own, mut asked) = (4_000, 0);
        for _ in 0..600 {
            now += SECOND;
            let wanted = rebalance.look(own, seen(own as u64, 2), now);
            for _ in 0..wanted {
                rebalance.asked();
            }
            (own, asked) = (own - wanted, asked + wanted);
        }
        // The mean was 2,000 and the bound 2,200.
        assert_eq!(asked, 1_900);
    }

    #[test]
    fn it_waits_while_anything_changes_and_stops_at_a_change() {
        let another = |gateways: &[u64]| Some(Seen { all: 4_000, draining: 0, cluster: (7, gateways.to_vec()) });
        let draining = Some(Seen { all: 4_000, draining: 1, cluster: (7, vec![0, 1]) });
        for disturbance in [None, another(&[0, 2]), draining] {
            let (mut rebalance, mut now) = (Rebalance::new(BOUNDS), Instant::now());
            for _ in 0..5 {
                assert_eq!(looks(&mut rebalance, &mut now, 50, 4_000, &seen(4_000, 2)), [0; 50]);
                assert_eq!(looks(&mut rebalance, &mut now, 1, 4_000, &disturbance), [0]);
            }
            assert!(looks(&mut rebalance, &mut now, 100, 4_000, &seen(4_000, 2)).contains(&10), "it moves");
            assert_eq!(looks(&mut rebalance, &mut now, 1, 4_000, &disturbance), [0]);
            assert_eq!(looks(&mut rebalance, &mut now, 599, 4_000, &seen(4_000, 2)), [0; 599], "it rests");
        }
    }

    #[test]
    fn it_is_off_by_factor_0_and_where_there_is_no_other() {
        let off = Bounds { factor: 0.0, ..BOUNDS };
        for (bounds, gateways) in [(off, 2), (BOUNDS, 1)] {
            let (mut rebalance, mut now) = (Rebalance::new(bounds), Instant::now());
            assert_eq!(looks(&mut rebalance, &mut now, 200, 4_000, &seen(4_000, gateways)), [0; 200]);
        }
    }

    /// 250 clients come to each of four gateways each second, on top of 5,000, and routers tell what was ten seconds before.
    #[test]
    fn nobody_is_asked_while_clients_come_to_all_gateways_alike() {
        let bounds = Bounds { margin: 1_000, ..BOUNDS };
        let (mut rebalance, mut now) = (Rebalance::new(bounds), Instant::now());
        let mut recent = Recent::new(TOLD_WITHIN);
        let own = |second: u64| 5_000 + 250 * second;
        for second in 0..300 {
            now += SECOND;
            let lowest = recent.lowest(own(second) as usize);
            assert_eq!(rebalance.look(lowest, seen(4 * own(second.saturating_sub(10)), 4), now), 0, "at {second} s");
        }
    }

    #[test]
    fn a_connection_is_old_after_its_time_and_not_before() {
        let (mut ages, began) = (Ages::new(600 * SECOND), Instant::now());
        // One connection each second.
        for second in 0..2_000u32 {
            ages.look(second.into(), began + second * SECOND);
            let exactly = u64::from(second.saturating_sub(600));
            assert!((exactly.saturating_sub(11)..=exactly).contains(&ages.old()), "{} at {second}", ages.old());
        }
        assert!(ages.seen.len() <= AGES as usize + 1);
    }

    /// Three gateways of which the last one has just been replaced. Clients that were asked come back to any of them, half to the one
    /// that they had: a load balancer that likes to do that.
    #[test]
    fn gateways_even_out_and_then_nobody_is_asked_any_more() {
        let mut random = StdRng::seed_from_u64(7);
        let mut now = Instant::now();
        // By client: its gateway, and when it came there.
        let mut clients: Vec<(usize, u32)> = (0..3_000).map(|client| (client % 2, 0)).collect();
        let mut gateways: Vec<_> = (0..3).map(|_| Rebalance::new(BOUNDS)).collect();
        let (mut last_asked, mut asked_at): (u32, HashMap<usize, u32>) = (0, HashMap::new());
        for second in 0..12_000u32 {
            now += SECOND;
            for (gateway, rebalance) in gateways.iter_mut().enumerate() {
                let own = clients.iter().filter(|(at, _)| *at == gateway).count();
                let wanted = rebalance.look(own, seen(3_000, 3), now);
                let is_old = |(at, since): &(usize, u32)| *at == gateway && second >= since + 600;
                let old: Vec<_> = (0..clients.len()).filter(|client| is_old(&clients[*client])).take(wanted).collect();
                for client in old {
                    rebalance.asked();
                    let before = asked_at.insert(client, second);
                    assert!(before.is_none_or(|before| second >= before + 600), "a client was asked twice");
                    last_asked = second;
                    let back = if random.random_bool(0.25) { gateway } else { random.random_range(0..3) };
                    clients[client] = (back, second);
                }
            }
        }
        for gateway in 0..3 {
            let own = clients.iter().filter(|(at, _)| *at == gateway).count();
            assert!(own <= 1_100, "gateway {gateway} has {own}");
        }
        assert!(last_asked > 0 && last_asked < 9_000, "the last one was asked after {last_asked} s");
    }
}
