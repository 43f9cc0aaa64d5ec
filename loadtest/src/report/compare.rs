//! Compares two runs.

use std::fmt::Write as _;

use super::{
    Report,
    figure::Better,
    sample::Distribution,
    text::{number, verdict},
};

struct Row {
    name: String,
    a: Option<f64>,
    b: Option<f64>,
    better: Better,
}

/// A table with the ratio of each figure that both runs have.
pub fn table(a: &Report, b: &Report) -> String {
    let rows = rows(a, b);
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(8);
    let mut table = String::new();
    // Writing to a string does not fail.
    let mut line = |name: &str, a: &str, b: &str, ratio: &str, what: &str| {
        let _ = writeln!(table, "{}", format!("{name:<width$}  {a:>12}  {b:>12}  {ratio:>7}  {what}").trim_end());
    };
    line("", "A", "B", "B/A", "");
    line("verdict", verdict(a.verdict), verdict(b.verdict), "", "");
    for row in &rows {
        let shown = |value: Option<f64>| value.map_or("-".to_owned(), number);
        let ratio = row.ratio().map_or(String::new(), |ratio| format!("{ratio:.2}"));
        line(&row.name, &shown(row.a), &shown(row.b), &ratio, row.judgement());
    }
    table
}

fn rows(a: &Report, b: &Report) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (report, is_a) in [(a, true), (b, false)] {
        let figures = report.figures.iter().map(|figure| {
            (format!("{} {}", figure.name, figure.unit).trim_end().to_owned(), figure.value, figure.better)
        });
        for (name, value, better) in figures.chain(report.distributions.iter().flat_map(latencies)) {
            let at = rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
                rows.push(Row { name, a: None, b: None, better });
                rows.len() - 1
            });
            let place = if is_a { &mut rows[at].a } else { &mut rows[at].b };
            *place = Some(value);
        }
    }
    rows
}

fn latencies(distribution: &Distribution) -> Vec<(String, f64, Better)> {
    let q = &distribution.quantiles;
    [("p50", q.p50_us), ("p90", q.p90_us), ("p99", q.p99_us), ("p99.9", q.p999_us), ("max", q.max_us)]
        .map(|(name, us)| (format!("{} {name} ms", distribution.name), us as f64 / 1000.0, Better::Lower))
        .to_vec()
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        let (a, b) = (self.a?, self.b?);
        (a != 0.0).then(|| b / a)
    }

    /// On most machines a difference below a tenth is noise.
    fn judgement(&self) -> &'static str {
        let Some(ratio) = self.ratio() else { return "" };
        match (self.better, ratio) {
            (Better::Neutral, _) | (_, 0.9..=1.1) => "",
            (Better::Higher, ratio) if ratio > 1.0 => "better",
            (Better::Lower, ratio) if ratio < 1.0 => "better",
            _ => "worse",
        }
    }
}
