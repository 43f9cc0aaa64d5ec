//! The results of a suite as one HTML page that loads nothing from outside. Pure.

use std::{cmp::Reverse, fmt::Write as _};

use super::{Outcome, Report, Row, RunRecord, report::COLUMNS};
use crate::report::{
    html::{document, grid},
    svg::{Chart, Series, escape},
};

/// Charts of each row.
const CHARTS: usize = 3;
/// Tenths of a second over which a rate is taken. In shorter windows, the messages that are made up for after an outage
/// would be peaks beside which the usual rate could not be seen.
const WINDOW: usize = 5;

pub(super) fn page(report: &Report) -> String {
    let runs: usize = report.rows.iter().map(|row| row.runs.len()).sum();
    let verdict = match report.outcome() {
        Outcome::Passed => "all well",
        Outcome::NotBack => "the service did not come back by itself",
        Outcome::Invalid => "a run could not be carried out",
        Outcome::Broken => "a promise was broken",
    };
    let note = format!(
        "Faults: {}; runs: {runs}; {verdict}. Rates are over {} s. The load ends a second after \"goes on\".",
        report.rows.len(),
        WINDOW as f64 / 10.0,
    );
    let rows: String = report.rows.iter().enumerate().map(|(number, row)| section(number, row)).collect();
    document("Faults on a local cluster", &note, &format!("{}{rows}", table(report)))
}

/// The table of [`Report::table`], as HTML.
fn table(report: &Report) -> String {
    let mut html = "<table>\n<tr>".to_owned();
    for column in COLUMNS {
        let _ = write!(html, "<th>{}</th>", escape(column));
    }
    for (number, row) in report.rows.iter().enumerate() {
        let [name, figures @ ..] = row.cells();
        let _ = write!(html, "</tr>\n<tr><td><a href=\"#fault-{number}\">{}</a></td>", escape(&name));
        for figure in figures {
            let _ = write!(html, "<td>{}</td>", escape(&figure));
        }
    }
    html + "</tr>\n</table>\n"
}

fn section(number: usize, row: &Row) -> String {
    let mut html = format!("<h2 id=\"fault-{number}\">{}</h2>\n", escape(&row.name));
    let of_run = |(at, run): (usize, &RunRecord)| {
        run.findings().into_iter().map(move |finding| format!("run {}: {finding}", at + 1))
    };
    let failed = row.failed.iter().map(|why| format!("FAILED: {why}"));
    let findings: Vec<_> = row.runs.iter().enumerate().flat_map(of_run).chain(failed).collect();
    if !findings.is_empty() {
        html.push_str("<ul>\n");
        for finding in findings {
            let _ = writeln!(html, "<li>{}</li>", escape(&finding));
        }
        html.push_str("</ul>\n");
    }
    let shown = longest_away(&row.runs);
    if shown.len() < row.runs.len() {
        let (shown, all) = (shown.len(), row.runs.len());
        let _ = writeln!(html, "<p>Shown: the {shown} of {all} runs in which sends were away longest.</p>");
    }
    let charts: String = shown.into_iter().map(|at| chart(row, at)).collect();
    html + &grid(&charts) + "\n"
}

/// Indexes of the runs that get a chart, in their order.
fn longest_away(runs: &[RunRecord]) -> Vec<usize> {
    let mut numbers: Vec<_> = (0..runs.len()).collect();
    numbers.sort_by_key(|at| Reverse(runs[*at].sends_away_ms));
    numbers.truncate(CHARTS);
    numbers.sort_unstable();
    numbers
}

fn chart(row: &Row, at: usize) -> String {
    let run = &row.runs[at];
    let away = |ms: u64| ms as f64 / 1000.0;
    let title = format!(
        "Run {} ({}): sends away {:.2} s, deliveries {:.2} s",
        at + 1,
        run.nodes(),
        away(run.sends_away_ms),
        away(run.deliveries_away_ms),
    );
    let tenths = until_the_end(run);
    let series = |name: &str, dashed, count: fn(&(u64, u64)) -> u64| {
        let points = rates(tenths, count).into_iter().map(|(x, y)| (x, Some(y))).collect();
        Series { name: name.to_owned(), points, dashed }
    };
    let series = vec![series("accepted", false, |tenth| tenth.0), series("delivered", true, |tenth| tenth.1)];
    let marks = run.marks.iter().map(|mark| {
        // The heading has the row's name already.
        let label = mark.what.strip_prefix(&row.name).unwrap_or(&mark.what);
        (mark.at_ms as f64 / 1000.0, label.trim_start().to_owned())
    });
    let marks = marks.collect();
    let (x_label, y_label) = ("seconds", "messages a second");
    Chart { title: &title, x_label, y_label, series, marks, log_y: false, x_ticks: None }.to_svg()
}

/// Without the time after the load, in which only timelines are read: its zeros would look like an outage.
fn until_the_end(run: &RunRecord) -> &[(u64, u64)] {
    let tenths = &run.tenths;
    let last_change = tenths.windows(2).rposition(|two| two[0] != two[1]).map_or(0, |at| at + 2);
    let last_mark = run.marks.last().map_or(0, |mark| mark.at_ms as usize / 100 + 10);
    &tenths[..last_change.max(last_mark).min(tenths.len())]
}

/// Messages a second, in the middle of each window. `tenths` are total counts at the end of each tenth of a second.
fn rates(tenths: &[(u64, u64)], count: fn(&(u64, u64)) -> u64) -> Vec<(f64, f64)> {
    let mut before = 0;
    let rate = |(number, window): (usize, &[(u64, u64)])| {
        let so_far = window.last().map_or(before, count);
        let new = so_far.saturating_sub(before);
        before = so_far;
        let middle = (number * WINDOW) as f64 + WINDOW as f64 / 2.0;
        (middle / 10.0, new as f64 * 10.0 / WINDOW as f64)
    };
    tenths.chunks_exact(WINDOW).enumerate().map(rate).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::FaultMark, *};

    fn run(sends_away_ms: u64) -> RunRecord {
        let mark = |at_ms, what: &str, nodes: &[&str]| FaultMark {
            at_ms,
            what: what.to_owned(),
            nodes: nodes.iter().map(|&node| node.to_owned()).collect(),
        };
        RunRecord {
            marks: vec![
                mark(200, "kill router for 3s begins", &["router-1"]),
                mark(3200, "kill router for 3s ends", &["router-1"]),
                mark(3200, "healed", &[]),
                mark(3300, "goes on", &[]),
            ],
            sends_away_ms,
            tenths: (1..=60).map(|tenth| (tenth * 4, tenth * 8)).collect(),
            ..RunRecord::default()
        }
    }

    fn report(runs: Vec<RunRecord>) -> Report {
        Report { rows: vec![Row { name: "kill router for 3s".to_owned(), runs, failed: vec!["no <disk>".to_owned()] }] }
    }

    /// Fails unless every element is closed by its own end tag.
    fn assert_well_formed(page: &str) {
        let mut open = Vec::new();
        for tag in page.split('<').skip(1).map(|rest| rest.split('>').next().unwrap_or(rest)) {
            let name = tag.split_whitespace().next().unwrap_or(tag);
            match name.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name), "</{name}>"),
                None if tag.ends_with('/') || ["!doctype", "meta"].contains(&name) => (),
                None => open.push(name),
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn the_page_is_well_formed_whatever_is_in_it_and_has_nothing_from_outside() {
        let bad = RunRecord { violations: vec!["lost: <a> & \"b\"".to_owned()], ..run(5) };
        for report in [Report::default(), report(vec![]), report(vec![RunRecord::default()]), report(vec![bad, run(1)])]
        {
            let page = page(&report);
            assert_well_formed(&page);
            assert!(!page.contains("NaN") && !page.contains("inf\""), "{page}");
            for outside in ["<script", "src=", "@import", "url("] {
                assert!(!page.contains(outside), "{outside}");
            }
            assert_eq!(page.matches("href=").count(), page.matches("href=\"#fault-").count());
        }
    }

    #[test]
    fn the_page_has_the_table_and_what_was_not_as_it_should_be() {
        let bad = RunRecord {
            violations: vec!["lost: <a>".to_owned()],
            problems: vec!["stands still".to_owned()],
            notes: vec!["router-1 ended".to_owned()],
            ..run(2500)
        };
        let page = page(&report(vec![run(100), bad]));
        for expected in [
            "<th>sends away p50 / max</th>",
            "<td>2 (+1 failed)</td><td>1</td><td>1</td><td>2.50 / 2.50 s</td>",
            "<li>run 2: VIOLATION (1 in all): lost: &lt;a&gt;</li>",
            "<li>run 2: NOT BACK: stands still</li>",
            "<li>run 2: note: router-1 ended</li>",
            "<li>FAILED: no &lt;disk&gt;</li>",
            "Faults: 1; runs: 2; a promise was broken.",
        ] {
            assert!(page.contains(expected), "{expected} is not in {page}");
        }
        assert!(!page.contains("run 1: "), "nothing is said of a good run");
    }

    #[test]
    fn marks_are_on_the_chart_without_the_name_that_the_heading_has() {
        let page = page(&report(vec![run(100)]));
        assert_eq!(page.matches("class=\"mark\"").count(), 4);
        for label in [">begins</text>", ">ends</text>", ">healed</text>", ">goes on</text>"] {
            assert!(page.contains(label), "{label}");
        }
        assert!(page.contains("Run 1 (router-1): sends away 0.10 s"));
    }

    #[test]
    fn a_mark_of_a_timeline_says_which_fault() {
        let mut report = report(vec![run(100)]);
        report.rows[0].name = "two-at-once.txt".to_owned();
        assert!(page(&report).contains(">kill router for 3s begins</text>"));
    }

    #[test]
    fn of_many_runs_those_with_the_longest_outages_are_shown() {
        let page = page(&report([10, 50, 20, 40, 30].map(run).to_vec()));
        assert!(page.contains("Shown: the 3 of 5 runs in which sends were away longest."));
        assert_eq!(page.matches("<svg").count(), 3);
        let at = |run: &str| page.find(run).expect("shown");
        assert!(at("Run 2 (") < at("Run 4 (") && at("Run 4 (") < at("Run 5 ("));
    }

    #[test]
    fn rates_are_differences_of_counts_so_far() {
        let counts = [3, 6, 10, 10, 10, 10, 10, 10, 10, 10, 11, 12, 12, 12, 60, 61].map(|count| (count, 0));
        let rates = rates(&counts, |count| count.0);
        assert_eq!(rates, [(0.25, 20.0), (0.75, 0.0), (1.25, 100.0)], "what is no whole window is left out");
    }

    #[test]
    fn the_time_after_the_load_is_not_drawn_but_an_outage_at_the_end_is() {
        let mut run = run(100);
        run.tenths.resize(500, (240, 480));
        assert_eq!(until_the_end(&run).len(), 60);
        run.marks[3].at_ms = 30_000;
        assert_eq!(until_the_end(&run).len(), 310, "the load went on until a second after the last mark");
        assert!(until_the_end(&RunRecord::default()).is_empty());
    }
}
