//! The levels that an operator demands of a run.

use serde::{Deserialize, Serialize};

use super::{
    Integrity,
    figure::{CHANGES, Figure, RATE, SERVER_CPU},
    sample::Distribution,
};

/// The demanded levels.
#[derive(Debug, Clone, Default)]
pub struct Levels {
    /// Bounds the 99th percentile of every kind of latency that the run has, in milliseconds.
    pub max_p99_ms: Option<f64>,
    /// Bounds the 99th percentile of acceptances alone, of each part that has some, in milliseconds.
    pub max_acceptance_p99_ms: Option<f64>,
    /// The same of deliveries.
    pub max_delivery_p99_ms: Option<f64>,
    /// Messages that were refused for good, or whose sends ended without an answer.
    pub max_not_accepted: Option<u64>,
    /// Accepted messages (or sign-ins) a second.
    pub min_rate: Option<f64>,
    /// Server CPU for each message (or sign-in), in microseconds.
    pub max_cpu_us: Option<f64>,
}

/// A demanded level and the value that the run reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Level {
    pub name: String,
    pub wanted: f64,
    /// Absent if the run has no such figure, which counts as missed.
    pub got: Option<f64>,
    pub met: bool,
}

impl Levels {
    pub fn judge(&self, figures: &[Figure], distributions: &[Distribution], integrity: &Integrity) -> Vec<Level> {
        let p99_ms = |distribution: &Distribution| distribution.quantiles.p99_us as f64 / 1000.0;
        let figure = |names: &[&str]| figures.iter().find(|f| names.contains(&f.name.as_str())).map(|f| f.value);
        let mut levels = Vec::new();
        for (kind, wanted) in [
            (None, self.max_p99_ms),
            (Some("acceptance"), self.max_acceptance_p99_ms),
            (Some("delivery"), self.max_delivery_p99_ms),
        ] {
            let Some(wanted) = wanted else { continue };
            // `offline: acceptance` is of the kind `acceptance`.
            let is_of_kind = |d: &&Distribution| kind.is_none() || d.name.rsplit(": ").next() == kind;
            let mut all: Vec<_> =
                distributions.iter().filter(is_of_kind).map(|d| (d.name.as_str(), Some(p99_ms(d)))).collect();
            if all.is_empty() {
                all.push((kind.unwrap_or_default(), None));
            }
            let level = |(name, got): (&str, Option<f64>)| {
                Level::at_most(format!("{name} p99 ms").trim_start().to_owned(), wanted, got)
            };
            levels.extend(all.into_iter().map(level));
        }
        if let Some(wanted) = self.max_not_accepted {
            let got = integrity.summary.refused + integrity.summary.unknown;
            levels.push(Level::at_most("not accepted messages".to_owned(), wanted as f64, Some(got as f64)));
        }
        if let Some(wanted) = self.min_rate {
            let got = figure(&[RATE, CHANGES, "sign-ins"]);
            levels.push(Level { name: "rate 1/s".to_owned(), wanted, got, met: got.is_some_and(|got| got >= wanted) });
        }
        if let Some(wanted) = self.max_cpu_us {
            levels.push(Level::at_most("server CPU us".to_owned(), wanted, figure(&[SERVER_CPU])));
        }
        levels
    }
}

impl Level {
    fn at_most(name: String, wanted: f64, got: Option<f64>) -> Self {
        Self { name, wanted, got, met: got.is_some_and(|got| got <= wanted) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checker::Summary, measure::latencies::histogram};

    #[test]
    fn a_level_without_its_figure_is_missed() {
        let asked = Levels {
            max_p99_ms: Some(1.0),
            max_acceptance_p99_ms: Some(1.0),
            max_delivery_p99_ms: Some(1.0),
            min_rate: Some(10.0),
            max_cpu_us: Some(5.0),
            max_not_accepted: None,
        };
        let none = Integrity::default();
        assert!(asked.judge(&[], &[], &none).iter().all(|level| !level.met));
        let figures = [Figure::higher(RATE, "1/s", 10.0), Figure::lower(SERVER_CPU, "us/message", 5.1)];
        let met: Vec<bool> = asked.judge(&figures, &[], &none).iter().map(|level| level.met).collect();
        assert_eq!(met, [false, false, false, true, false]);
        assert!(Levels::default().judge(&[], &[], &none).is_empty());
    }

    #[test]
    fn each_part_has_to_hold_the_level_of_its_kind() {
        let levels = Levels { max_acceptance_p99_ms: Some(50.0), ..Levels::default() };
        let distribution = |name: &str, ms: u64| {
            let mut times = histogram();
            times.saturating_record(ms * 1000);
            Distribution::of(name, &times).expect("it has one")
        };
        let judged = |distributions: &[Distribution]| {
            let levels = levels.judge(&[], distributions, &Integrity::default());
            levels.into_iter().map(|level| (level.name, level.met)).collect::<Vec<_>>()
        };
        let parts = [
            distribution("acceptance", 10),
            distribution("offline: acceptance", 900),
            distribution("delivery", 900),
            distribution("reconnect: back", 900),
        ];
        let wanted = [("acceptance p99 ms".to_owned(), true), ("offline: acceptance p99 ms".to_owned(), false)];
        assert_eq!(judged(&parts), wanted);
        assert_eq!(judged(&parts[1..2]), wanted[1..], "rounds of a part that is alone have its name, too");
        assert_eq!(judged(&parts[2..]), [("acceptance p99 ms".to_owned(), false)]);
    }

    #[test]
    fn a_send_without_an_answer_is_not_accepted() {
        let levels = Levels { max_not_accepted: Some(0), ..Levels::default() };
        let of = |refused, unknown| {
            let summary = Summary { refused, unknown, ..Summary::default() };
            Integrity { summary, ..Integrity::default() }
        };
        let met = |refused, unknown| levels.judge(&[], &[], &of(refused, unknown))[0].met;
        assert!(met(0, 0) && !met(1, 0) && !met(0, 1));
    }
}
