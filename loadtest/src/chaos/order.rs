//! The order of the faults. Pure: the same seed, the same order.

use crate::faults::{Change, Schedule};

/// Rounds without an end. In each one every fault comes once, in another order, but no node is removed before one was added.
pub(super) struct Rounds {
    schedules: Vec<Schedule>,
    state: u64,
    round: usize,
    left: std::vec::IntoIter<Schedule>,
}

impl Rounds {
    pub(super) fn new(schedules: &[Schedule], seed: u64) -> Self {
        Self { schedules: schedules.to_vec(), state: seed, round: 0, left: Vec::new().into_iter() }
    }

    /// SplitMix64, which is the same everywhere and for ever.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn shuffled(&mut self) -> Vec<Schedule> {
        let mut schedules = self.schedules.clone();
        for at in (1..schedules.len()).rev() {
            let other = (self.random() % (at as u64 + 1)) as usize;
            schedules.swap(at, other);
        }
        adds_first(&mut schedules);
        schedules
    }
}

/// Gives the places of nodes that come and of nodes that go to those that come first.
fn adds_first(schedules: &mut [Schedule]) {
    let is = |schedule: &Schedule, change| schedule.change() == Some(change);
    let comes_or_goes = |schedule: &Schedule| is(schedule, Change::Add) || is(schedule, Change::Remove);
    let places: Vec<usize> = (0..schedules.len()).filter(|at| comes_or_goes(&schedules[*at])).collect();
    let mut changes: Vec<Schedule> = places.iter().map(|at| schedules[*at].clone()).collect();
    changes.sort_by_key(|schedule| is(schedule, Change::Remove));
    for (at, schedule) in places.into_iter().zip(changes) {
        schedules[at] = schedule;
    }
}

impl Iterator for Rounds {
    /// The number of earlier rounds, and a fault.
    type Item = (usize, Schedule);

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(schedule) = self.left.next() {
            return Some((self.round - 1, schedule));
        }
        self.left = self.shuffled().into_iter();
        self.round += 1;
        self.left.next().map(|schedule| (self.round - 1, schedule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedules() -> Vec<Schedule> {
        let lines = [
            "kill router for 3s and kill gateway for 3s",
            "remove storage-follower",
            "roll gateways",
            "add new with kill controller for 3s",
            "kill gateway for 3s",
        ];
        lines.map(|line| Schedule::of_line(line).expect("valid")).to_vec()
    }

    fn order(seed: u64, count: usize) -> Vec<(usize, String)> {
        Rounds::new(&schedules(), seed).take(count).map(|(round, schedule)| (round, schedule.to_string())).collect()
    }

    #[test]
    fn each_round_has_every_fault_once_and_the_seed_decides_the_order() {
        let all = order(7, 50);
        assert_eq!(all, order(7, 50));
        assert_ne!(all, order(8, 50));
        let mut wanted: Vec<_> = schedules().iter().map(ToString::to_string).collect();
        wanted.sort();
        for (number, round) in all.chunks(5).enumerate() {
            let mut names: Vec<_> = round.iter().map(|(_, name)| name.clone()).collect();
            names.sort();
            assert_eq!(names, wanted);
            assert!(round.iter().all(|(round, _)| *round == number));
        }
        assert!(all.chunks(5).any(|round| round[0].1 != all[0].1), "rounds differ");
    }

    #[test]
    fn nobody_leaves_before_someone_has_come() {
        for seed in 0..50 {
            for round in order(seed, 25).chunks(5) {
                let at = |name: &str| round.iter().position(|(_, step)| step == name).expect("in each round");
                assert!(
                    at("add new with kill controller for 3s") < at("remove storage-follower"),
                    "seed {seed}: {round:?}"
                );
            }
        }
    }

    #[test]
    fn without_faults_there_is_no_round() {
        assert!(Rounds::new(&[], 1).next().is_none());
    }
}
