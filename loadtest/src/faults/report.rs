//! The results of a suite, as text and as JSON.

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use super::{FaultMark, outage::middle_and_largest};

/// One run. Times are in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RunRecord {
    pub began_unix_ms: u64,
    /// The faults: their times and the nodes that they hit.
    pub marks: Vec<FaultMark>,
    /// The longest time without an acceptance from the first fault on, of the pair of users for which it was longest.
    pub sends_away_ms: u64,
    /// The longest time without a delivery, measured the same way.
    pub deliveries_away_ms: u64,
    /// The longest time from the moment at which a send was due to its acceptance.
    pub slowest_acceptance_ms: u64,
    /// How long a change of the storage nodes took, from the command until the cluster was settled; `None` if there was none, or
    /// if it was not done.
    #[serde(default)]
    pub change_ms: Option<u64>,
    /// The longest time that a small flush to the same disk took in this program.
    pub slowest_probe_ms: u64,
    pub sent: u64,
    pub accepted: u64,
    pub refused: u64,
    /// Sends without an answer in time: each may have been carried out, once.
    pub unknown: u64,
    pub delivered: u64,
    /// Broken promises.
    pub violations: Vec<String>,
    /// Why the service is not back: a node is not ready, or the load stands still.
    pub problems: Vec<String>,
    /// Remarks for the operator, such as nodes that ended by themselves.
    pub notes: Vec<String>,
    /// Messages accepted and delivered so far, at the end of each tenth of a second since the beginning of the run.
    pub tenths: Vec<(u64, u64)>,
}

/// All runs of one schedule.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// The text of the step, or the name of the schedule's file.
    pub name: String,
    pub runs: Vec<RunRecord>,
    /// Why some runs could not be carried out.
    pub failed: Vec<String>,
}

#[derive(Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
    /// The worst outcome of all runs.
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

    /// Joins several reports into one. Rows of the same name become one row, at the place of the first one.
    pub fn join(reports: impl IntoIterator<Item = Self>) -> Self {
        let mut rows: Vec<Row> = Vec::new();
        for row in reports.into_iter().flat_map(|report| report.rows) {
            match rows.iter_mut().find(|known| known.name == row.name) {
                Some(known) => {
                    known.runs.extend(row.runs);
                    known.failed.extend(row.failed);
                }
                None => rows.push(row),
            }
        }
        Self { rows }
    }

    /// One line for each schedule, in Markdown.
    pub fn table(&self) -> String {
        let mut table = String::new();
        let mut line = |cells: &[String]| {
            let _ = writeln!(table, "| {} |", cells.join(" | "));
        };
        line(&COLUMNS.map(str::to_owned));
        line(&COLUMNS.map(|_| "---".to_owned()));
        self.rows.iter().for_each(|row| line(&row.cells()));
        table
    }
}

/// The columns of the table.
pub(super) const COLUMNS: [&str; 11] = [
    "fault",
    "runs",
    "broken promises",
    "not back",
    "sends away p50 / max",
    "deliveries away p50 / max",
    "slowest acceptance",
    "change took p50 / max",
    "slowest flush beside it",
    "unknown",
    "refused",
];

impl Row {
    /// The cells of the row, one for each column.
    pub(super) fn cells(&self) -> [String; COLUMNS.len()] {
        let Self { name, runs, failed } = self;
        let sum = |count: fn(&RunRecord) -> u64| runs.iter().map(count).sum::<u64>().to_string();
        let away = |ms: fn(&RunRecord) -> Option<u64>| {
            let times = runs.iter().filter_map(ms).map(Duration::from_millis);
            middle_and_largest(times).map_or_else(
                || "-".to_owned(),
                |(middle, largest)| format!("{:.2} / {:.2} s", middle.as_secs_f64(), largest.as_secs_f64()),
            )
        };
        let largest =
            |ms: fn(&RunRecord) -> u64| format!("{:.2} s", runs.iter().map(ms).max().unwrap_or(0) as f64 / 1000.0);
        let not_carried_out = if failed.is_empty() { String::new() } else { format!(" (+{} failed)", failed.len()) };
        [
            name.clone(),
            format!("{}{not_carried_out}", runs.len()),
            sum(|run| run.violations.len() as u64),
            sum(|run| u64::from(!run.problems.is_empty())),
            away(|run| Some(run.sends_away_ms)),
            away(|run| Some(run.deliveries_away_ms)),
            largest(|run| run.slowest_acceptance_ms),
            away(|run| run.change_ms),
            largest(|run| run.slowest_probe_ms),
            sum(|run| run.unknown),
            sum(|run| run.refused),
        ]
    }
}

impl RunRecord {
    /// One line for the row, and one more for each thing that was wrong.
    pub fn lines(&self) -> String {
        let mut lines = format!(
            "{}: sends away {} ms, deliveries {} ms, slowest acceptance {} ms, slowest flush beside it {} ms; sent {}, accepted {}, refused {}, \
             unknown {}, delivered {}; {}",
            self.nodes(),
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
        if let Some(took) = self.change_ms {
            let _ = write!(lines, "; the change took {took} ms");
        }
        for finding in self.findings() {
            let _ = write!(lines, "\n    {finding}");
        }
        lines
    }

    /// A line for each thing that was wrong.
    pub(super) fn findings(&self) -> Vec<String> {
        let broken = self.violations.len();
        let violations = self.violations.iter().take(10).map(|it| format!("VIOLATION ({broken} in all): {it}"));
        let problems = self.problems.iter().map(|it| format!("NOT BACK: {it}"));
        violations.chain(problems).chain(self.notes.iter().map(|it| format!("note: {it}"))).collect()
    }

    /// The nodes that the first fault hit.
    pub(super) fn nodes(&self) -> String {
        match self.marks.first().map_or(&[][..], |mark| &mark.nodes) {
            many if many.len() > 3 => format!("{} nodes", many.len()),
            few => few.join(", "),
        }
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
        assert_eq!(row, "| kill router | 3 | 0 | 0 | 0.20 / 3.00 s | 0.40 / 6.00 s | 0.00 s | - | 0.00 s | 3 | 0 |");
    }

    #[test]
    fn joining_puts_runs_of_the_same_name_together_in_the_order_of_first_appearance() {
        let run = |began_unix_ms| RunRecord { began_unix_ms, ..RunRecord::default() };
        let row = |name: &str, began: &[u64], failed: &[&str]| Row {
            name: name.into(),
            runs: began.iter().map(|ms| run(*ms)).collect(),
            failed: failed.iter().map(|&why| why.to_owned()).collect(),
        };
        let first = Report { rows: vec![row("b", &[1, 2], &[]), row("a", &[3], &["f"])] };
        let second = Report { rows: vec![row("c", &[4], &[]), row("a", &[5], &["g"]), row("b", &[6], &[])] };
        let joined = Report::join([first, second]);
        let expected = vec![row("b", &[1, 2, 6], &[]), row("a", &[3, 5], &["f", "g"]), row("c", &[4], &[])];
        assert_eq!(joined.rows, expected);
        assert_eq!(joined.outcome(), Outcome::Invalid, "that of the worst of all files");
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let mark = FaultMark { at_ms: 7, what: "healed".into(), nodes: vec!["router-1".into()] };
        let run = RunRecord {
            marks: vec![mark],
            tenths: vec![(1, 2), (3, 4)],
            notes: vec!["n".into()],
            ..RunRecord::default()
        };
        let written = report(vec![run], &["f"]);
        let json = serde_json::to_string(&written).expect("written");
        assert_eq!(serde_json::from_str::<Report>(&json).expect("read"), written);
    }
}
