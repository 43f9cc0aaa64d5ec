//! Which rate is tried next. Pure: a judgement of each tried rate goes in.
//!
//! The rate is doubled until one does not hold, or halved until one does. What lies between the highest rate that held and
//! the lowest one that did not is cut in half until the two are close. Then the found rate is tried once more, for longer. If it does not
//! hold this time, it counts as too high, and the search goes on below it.

use crate::report::capacity::{CapacityOutcome, Judgement, Purpose};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bounds {
    /// The first rate, in messages a second.
    pub(crate) from: f64,
    /// The lowest and the highest one that are tried.
    pub(crate) least: f64,
    pub(crate) most: f64,
    /// The search ends when the lowest rate that did not hold is at most this part above the highest one that did.
    pub(crate) precision: f64,
}

/// How many found rates may fail their confirmation.
const FAILURES: usize = 4;

pub(crate) struct Search {
    bounds: Bounds,
    /// Rates that held, in ascending order.
    held: Vec<f64>,
    /// The lowest rate that did not hold, and whether the generator was the limit.
    above: Option<(f64, Judgement)>,
    confirmed: bool,
    failures: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Next {
    Try { rate: f64, purpose: Purpose },
    Done { outcome: CapacityOutcome, rate: Option<f64>, limit: Limit },
}

/// The reason why no higher rate was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Limit {
    /// The service, which misses the level at this rate.
    Service {
        at: f64,
    },
    Generator {
        at: f64,
    },
    /// Nothing: the scenario tries no more.
    Scenario,
}

impl Search {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, held: Vec::new(), above: None, confirmed: false, failures: 0 }
    }

    pub(crate) fn next(&self) -> Next {
        let attempt = |rate, purpose| Next::Try { rate, purpose };
        let Bounds { from, least, most, precision } = self.bounds;
        let held = self.held.last().copied();
        match (held, self.above) {
            (None, None) => attempt(from.min(most), Purpose::Double),
            (Some(held), None) if held < most => attempt((held * 2.0).min(most), Purpose::Double),
            (None, Some((above, _))) if self.failures > FAILURES || above <= least => self.done(None),
            (None, Some((above, _))) => attempt((above / 2.0).max(least), Purpose::Halve),
            (Some(held), Some((above, _))) if above > held * (1.0 + precision) => {
                attempt((held + above) / 2.0, Purpose::Bisect)
            }
            (Some(_), _) if self.failures > FAILURES => self.done(held),
            (Some(held), _) if !self.confirmed => attempt(held, Purpose::Confirm),
            (Some(_), _) => self.done(held),
        }
    }

    pub(crate) fn tried(&mut self, rate: f64, purpose: Purpose, judgement: Judgement) {
        match (purpose, judgement) {
            (Purpose::Confirm, Judgement::Holds) => self.confirmed = true,
            (_, Judgement::Holds) => {
                self.held.push(rate);
                self.held.sort_by(f64::total_cmp);
            }
            (_, judgement) => {
                self.failures += usize::from(purpose == Purpose::Confirm);
                self.held.retain(|held| *held < rate);
                self.above = Some((rate, judgement));
            }
        }
    }

    fn done(&self, rate: Option<f64>) -> Next {
        let limit = match self.above {
            None => Limit::Scenario,
            Some((at, Judgement::Generator)) => Limit::Generator { at },
            Some((at, _)) => Limit::Service { at },
        };
        let outcome = match limit {
            _ if self.failures > FAILURES || (rate.is_none() && self.failures > 0) => CapacityOutcome::NotConfirmed,
            Limit::Service { .. } if rate.is_none() => CapacityOutcome::None,
            Limit::Service { .. } => CapacityOutcome::Found,
            // Without a rate: not even the lowest one could be tried.
            Limit::Generator { .. } | Limit::Scenario => CapacityOutcome::AtLeast,
        };
        Next::Done { outcome, rate: rate.filter(|_| outcome != CapacityOutcome::NotConfirmed), limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { from: 100.0, least: 1.0, most: 20_000.0, precision: 0.05 };

    /// The rates that are tried if each is judged so, and the end.
    fn search(bounds: Bounds, mut judge: impl FnMut(f64, Purpose) -> Judgement) -> (Vec<(f64, Purpose)>, Next) {
        let (mut search, mut tried) = (Search::new(bounds), Vec::new());
        loop {
            match search.next() {
                Next::Try { rate, purpose } => {
                    tried.push((rate, purpose));
                    assert!(tried.len() < 100, "it has no end: {tried:?}");
                    search.tried(rate, purpose, judge(rate, purpose));
                }
                done => return (tried, done),
            }
        }
    }

    fn up_to(capacity: f64) -> impl FnMut(f64, Purpose) -> Judgement {
        move |rate, _| if rate <= capacity { Judgement::Holds } else { Judgement::Misses }
    }

    #[test]
    fn any_capacity_is_found_within_the_precision_and_confirmed() {
        for capacity in [1.5, 12.0, 100.0, 101.0, 137.0, 799.0, 800.0, 5_432.0, 19_000.0] {
            let (tried, done) = search(BOUNDS, up_to(capacity));
            let Next::Done { outcome, rate: Some(rate), limit: Limit::Service { at } } = done else {
                panic!("{capacity}: {done:?}")
            };
            assert_eq!(outcome, CapacityOutcome::Found);
            assert!(rate <= capacity && capacity < at && at <= rate * 1.05, "{capacity}: {done:?}");
            assert_eq!(tried.last(), Some(&(rate, Purpose::Confirm)));
            assert!(tried.len() < 20, "{tried:?}");
        }
    }

    #[test]
    fn rates_are_doubled_and_then_bisected() {
        let (tried, _) = search(Bounds { precision: 0.3, ..BOUNDS }, up_to(600.0));
        let expected = [
            (100.0, Purpose::Double),
            (200.0, Purpose::Double),
            (400.0, Purpose::Double),
            (800.0, Purpose::Double),
            (600.0, Purpose::Bisect),
            (700.0, Purpose::Bisect),
            (600.0, Purpose::Confirm),
        ];
        assert_eq!(tried, expected);
    }

    #[test]
    fn a_rate_that_the_generator_can_not_make_is_no_capacity() {
        let judge = |rate: f64, _| if rate <= 900.0 { Judgement::Holds } else { Judgement::Generator };
        let (_, done) = search(BOUNDS, judge);
        let Next::Done { outcome: CapacityOutcome::AtLeast, rate: Some(rate), limit: Limit::Generator { .. } } = done
        else {
            panic!("{done:?}")
        };
        assert!((850.0..=900.0).contains(&rate));
        let (_, done) = search(BOUNDS, |_, _| Judgement::Generator);
        assert!(matches!(done, Next::Done { outcome: CapacityOutcome::AtLeast, rate: None, .. }), "{done:?}");
    }

    #[test]
    fn what_the_service_misses_below_the_limit_of_the_generator_is_its_capacity() {
        let judge = |rate: f64, _| match rate {
            rate if rate <= 900.0 => Judgement::Holds,
            rate if rate < 1500.0 => Judgement::Misses,
            _ => Judgement::Generator,
        };
        assert!(matches!(search(BOUNDS, judge).1, Next::Done { outcome: CapacityOutcome::Found, .. }));
    }

    #[test]
    fn nothing_above_what_the_scenario_allows_is_tried() {
        let (tried, done) = search(Bounds { most: 1000.0, ..BOUNDS }, up_to(1e9));
        let rate = Some(1000.0);
        assert_eq!(done, Next::Done { outcome: CapacityOutcome::AtLeast, rate, limit: Limit::Scenario });
        assert_eq!(tried.last(), Some(&(1000.0, Purpose::Confirm)));
        assert!(tried.iter().all(|(rate, _)| *rate <= 1000.0));
    }

    #[test]
    fn a_service_that_holds_no_rate_is_told_from_one_that_is_not_stable() {
        let (tried, done) = search(Bounds { least: 10.0, ..BOUNDS }, up_to(0.0));
        assert_eq!(tried.last(), Some(&(10.0, Purpose::Halve)));
        assert!(matches!(done, Next::Done { outcome: CapacityOutcome::None, rate: None, .. }), "{done:?}");
        let unstable = |_, purpose| if purpose == Purpose::Confirm { Judgement::Misses } else { Judgement::Holds };
        let (_, done) = search(BOUNDS, unstable);
        assert!(matches!(done, Next::Done { outcome: CapacityOutcome::NotConfirmed, rate: None, .. }), "{done:?}");
    }

    #[test]
    fn a_service_that_gets_worse_and_worse_is_not_one_that_never_held_a_rate() {
        let mut good = 2;
        let judge = |_, _| {
            good -= 1;
            if good >= 0 { Judgement::Holds } else { Judgement::Misses }
        };
        let (_, done) = search(BOUNDS, judge);
        assert!(matches!(done, Next::Done { outcome: CapacityOutcome::NotConfirmed, rate: None, .. }), "{done:?}");
    }

    #[test]
    fn a_found_rate_that_fails_once_more_is_too_high() {
        let mut first = true;
        let judge = |rate: f64, purpose| match purpose {
            Purpose::Confirm if std::mem::take(&mut first) => Judgement::Misses,
            _ if rate <= 800.0 => Judgement::Holds,
            _ => Judgement::Misses,
        };
        let (tried, done) = search(BOUNDS, judge);
        let confirmed: Vec<_> = tried.iter().filter(|(_, purpose)| *purpose == Purpose::Confirm).collect();
        assert_eq!(confirmed.len(), 2);
        assert!(confirmed[1].0 < confirmed[0].0);
        assert!(matches!(done, Next::Done { outcome: CapacityOutcome::Found, .. }));
    }
}
