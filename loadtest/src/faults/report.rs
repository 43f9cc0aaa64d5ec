//! What a suite found, as text and as JSON.

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use super::{Mark, outage::middle_and_largest};

/// One run. Times are in milliseconds.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct RunRecord {
    pub began_unix_ms: u64,
    /// When what was done to which nodes.
    pub marks: Vec<Mark>,
    /// The longest time without an acceptance from the first fault on, of the pair of users for which it was longest.
    pub sends_away_ms: u64,
    /// The same, without a delivery.
    pub deliveries_away_ms: u64,
    /// The longest that one send waited, from when it was due.
    pub slowest_acceptance_ms: u64,
    /// The longest that a small flush of this program's own to the same disk took.
    pub slowest_probe_ms: u64,
    pub sent: u64,
    pub accepted: u64,
    pub refused: u64,
    /// Sends that had no answer in time: each may have been carried out, once.
    pub unknown: u64,
    pub delivered: u64,
    /// Broken promises.
    pub violations: Vec<String>,
    /// The service did not come back by itself: a node is not ready, or the load stands still.
    pub problems: Vec<String>,
    /// What an operator would want to know, such as nodes that ended by themselves.
    pub notes: Vec<String>,
    /// Accepted and delivered so far, at the end of each tenth of a second since the run's begin.
    pub tenths: Vec<(u64, u64)>,
}

/// All runs of one schedule.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Row {
    /// The step, or the file of the schedule.
    pub name: String,
    pub runs: Vec<RunRecord>,
    /// Why runs could not be carried out.
    pub failed: Vec<String>,
}

#[derive(Debug, Default, serde::Serialize)]
pub struct Report {
    pub rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Passed,
    /// The service did not come back.
    NotBack,
    /// A run could not be carried out.
    Invalid,
    Broken,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome.number())
    }
}

impl Outcome {
    fn number(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::NotBack => 1,
            Self::Broken => 2,
            Self::Invalid => 3,
        }
    }
}

impl Report {
    /// The worst of all.
    pub fn outcome(&self) -> Outcome {
        let of_run = |run: &RunRecord| match (run.violations.is_empty(), run.problems.is_empty()) {
            (false, _) => Outcome::Broken,
            (true, false) => Outcome::NotBack,
            (true, true) => Outcome::Passed,
        };
        let of_row = |row: &Row| {
            let failed = if row.failed.is_empty() { Outcome::Passed } else { Outcome::Invalid };
            row.runs.iter().map(of_run).max().unwrap_or(Outcome::Passed).max(failed)
        };
        self.rows.iter().map(of_row).max().unwrap_or(Outcome::Passed)
    }

    /// One line for each schedule.
    pub fn table(&self) -> String {
        let mut table = "| fault | runs | broken promises | not back | sends away p50 / max | deliveries away p50 / max | \
                         slowest acceptance | slowest flush beside it | unknown | refused |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
        for Row { name, runs, failed } in &self.rows {
            let sum = |count: fn(&RunRecord) -> u64| runs.iter().map(count).sum::<u64>();
            let away = |ms: fn(&RunRecord) -> u64| {
                let times = runs.iter().map(|run| Duration::from_millis(ms(run)));
                middle_and_largest(times).map_or_else(
                    || "-".to_owned(),
                    |(middle, largest)| format!("{:.2} / {:.2} s", middle.as_secs_f64(), largest.as_secs_f64()),
                )
            };
            let largest = |ms: fn(&RunRecord) -> u64| runs.iter().map(ms).max().unwrap_or(0) as f64 / 1000.0;
            let (slowest, flush) = (largest(|run| run.slowest_acceptance_ms), largest(|run| run.slowest_probe_ms));
            let not_carried_out =
                if failed.is_empty() { String::new() } else { format!(" (+{} failed)", failed.len()) };
            let _ = writeln!(
                table,
                "| {name} | {}{not_carried_out} | {} | {} | {} | {} | {slowest:.2} s | {flush:.2} s | {} | {} |",
                runs.len(),
                sum(|run| run.violations.len() as u64),
                runs.iter().filter(|run| !run.problems.is_empty()).count(),
                away(|run| run.sends_away_ms),
                away(|run| run.deliveries_away_ms),
                sum(|run| run.unknown),
                sum(|run| run.refused),
            );
        }
        table
    }
}

impl RunRecord {
    /// One line, and one more for each thing that was not as it should be.
    pub fn lines(&self) -> String {
        let nodes: Vec<_> = self.marks.first().map(|mark| mark.nodes.clone()).unwrap_or_default();
        let nodes = if nodes.len() > 3 { format!("{} nodes", nodes.len()) } else { nodes.join(", ") };
        let mut lines = format!(
            "{nodes}: sends away {} ms, deliveries {} ms, slowest acceptance {} ms, slowest flush beside it {} ms; sent {}, accepted {}, refused {}, \
             unknown {}, delivered {}; {}",
            self.sends_away_ms,
            self.deliveries_away_ms,
            self.slowest_acceptance_ms,
            self.slowest_probe_ms,
            self.sent,
            self.accepted,
            self.refused,
            self.unknown,
            self.delivered,
            if self.violations.is_empty() { "integrity kept" } else { "integrity BROKEN" },
        );
        for violation in self.violations.iter().take(10) {
            let _ = write!(lines, "\n    VIOLATION ({} in all): {violation}", self.violations.len());
        }
        for problem in &self.problems {
            let _ = write!(lines, "\n    NOT BACK: {problem}");
        }
        for note in &self.notes {
            let _ = write!(lines, "\n    note: {note}");
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(runs: Vec<RunRecord>, failed: &[&str]) -> Report {
        let failed = failed.iter().map(|&why| why.to_owned()).collect();
        Report { rows: vec![Row { name: "kill router".into(), runs, failed }] }
    }

    #[test]
    fn the_worst_run_decides() {
        let good = RunRecord::default();
        let hung = RunRecord { problems: vec!["p".into()], ..good.clone() };
        let broken = RunRecord { violations: vec!["lost".into()], ..hung.clone() };
        let outcome = |runs: &[&RunRecord], failed: &[&str]| {
            report(runs.iter().map(|&run| run.clone()).collect(), failed).outcome().number()
        };
        assert_eq!(outcome(&[&good, &good], &[]), 0);
        assert_eq!(outcome(&[&good, &hung], &[]), 1);
        assert_eq!(outcome(&[&broken, &good, &hung], &["f"]), 2);
        assert_eq!(outcome(&[&good], &["f"]), 3);
    }

    #[test]
    fn the_table_has_middle_and_largest_outage() {
        let run = |ms| RunRecord { sends_away_ms: ms, deliveries_away_ms: 2 * ms, unknown: 1, ..RunRecord::default() };
        let table = report(vec![run(100), run(3000), run(200)], &[]).table();
        let row = table.lines().nth(2).expect("a row");
        assert_eq!(row, "| kill router | 3 | 0 | 0 | 0.20 / 3.00 s | 0.40 / 6.00 s | 0.00 s | 0.00 s | 3 | 0 |");
    }
}
