//! The levels that an operator demands of a run.

use serde::{Deserialize, Serialize};

use super::{
    Integrity,
    figure::{Figure, RATE, SERVER_CPU},
    sample::Distribution,
};

/// The demanded levels.
#[derive(Debug, Clone, Default)]
pub struct Levels {
    /// Bounds the 99th percentile of every kind of latency that the run has, in milliseconds.
    pub max_p99_ms: Option<f64>,
    /// Bounds the 99th percentile of acceptances alone, in milliseconds.
    pub max_acceptance_p99_ms: Option<f64>,
    /// Bounds the 99th percentile of deliveries alone, in milliseconds.
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
        if let Some(wanted) = self.max_p99_ms {
            let mut all: Vec<_> =
                distributions.iter().map(|d| (format!("{} p99 ms", d.name), Some(p99_ms(d)))).collect();
            if all.is_empty() {
                all.push(("p99 ms".to_owned(), None));
            }
            levels.extend(all.into_iter().map(|(name, got)| Level::at_most(name, wanted, got)));
        }
        for (name, wanted) in [("acceptance", self.max_acceptance_p99_ms), ("delivery", self.max_delivery_p99_ms)] {
            let got = distributions.iter().find(|distribution| distribution.name == name).map(p99_ms);
            levels.extend(wanted.map(|wanted| Level::at_most(format!("{name} p99 ms"), wanted, got)));
        }
        if let Some(wanted) = self.max_not_accepted {
            let got = integrity.refused + integrity.unknown;
            levels.push(Level::at_most("not accepted messages".to_owned(), wanted as f64, Some(got as f64)));
        }
        if let Some(wanted) = self.min_rate {
            let got = figure(&[RATE, "sign-ins"]);
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
    fn a_send_without_an_answer_is_not_accepted() {
        let levels = Levels { max_not_accepted: Some(0), ..Levels::default() };
        let met =
            |refused, unknown| levels.judge(&[], &[], &Integrity { refused, unknown, ..Integrity::default() })[0].met;
        assert!(met(0, 0) && !met(1, 0) && !met(0, 1));
    }
}
