//! How long the members took to come back.

use std::{sync::Arc, time::Instant};

use hdrhistogram::Histogram;

use super::member::{Fate, Member};
use crate::{
    measure::latencies::histogram,
    report::{figure::Figure, times::Times},
};

/// Times since the break, and since the first member was back, in microseconds.
pub(super) struct Outcome {
    broken: u64,
    missing: u64,
    pub(super) back: Histogram<u64>,
    back_after_first: Histogram<u64>,
    resumed: Histogram<u64>,
}

impl Outcome {
    pub(super) fn of(broken_at: Instant, members: &[Arc<Member>]) -> Self {
        let fates: Vec<Fate> = members.iter().map(|member| *member.fate.lock()).collect();
        let broken: Vec<&Fate> = fates.iter().filter(|fate| fate.broke.is_some()).collect();
        let first = broken.iter().filter_map(|fate| fate.back).min();
        let times = |since: Option<Instant>, until: fn(&Fate) -> Option<Instant>| {
            let mut times = histogram();
            for at in broken.iter().filter_map(|fate| until(fate)) {
                times
                    .saturating_record(since.map_or(0, |since| at.saturating_duration_since(since).as_micros() as u64));
            }
            times
        };
        Self {
            broken: broken.len() as u64,
            missing: broken.iter().filter(|fate| fate.back.is_none() || fate.resumed.is_none()).count() as u64,
            back: times(Some(broken_at), |fate| fate.back),
            back_after_first: times(first, |fate| fate.back),
            resumed: times(Some(broken_at), |fate| fate.resumed),
        }
    }

    pub(super) fn times(&self) -> Vec<Times> {
        let all = [("back", &self.back), ("back_after_first", &self.back_after_first), ("resumed", &self.resumed)];
        all.map(|(name, times)| Times::new(name, times.clone())).to_vec()
    }

    pub(super) fn figures(&self) -> Vec<Figure> {
        let mut figures = vec![
            Figure::neutral("connections broken", "", self.broken as f64),
            Figure::lower("not back", "", self.missing as f64),
        ];
        for (name, times) in
            [("back", &self.back), ("back after the first", &self.back_after_first), ("resumed", &self.resumed)]
        {
            for (part, quantile) in [("50 %", 0.5), ("90 %", 0.9), ("100 %", 1.0)] {
                let seconds = times.value_at_quantile(quantile) as f64 / 1e6;
                figures.push(Figure::lower(&format!("{part} {name}"), "s", seconds));
            }
        }
        figures
    }

    pub(super) fn invalid(&self) -> Option<String> {
        if self.broken == 0 {
            return Some("no connection broke".to_owned());
        }
        (self.missing > 0).then(|| format!("{} of {} are not back", self.missing, self.broken))
    }
}
