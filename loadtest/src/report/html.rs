//! A report as one HTML page that loads nothing from outside. Pure. Two reports can be laid over each other.

use super::{
    Report,
    capacity::Step,
    sample::{Quantiles, Sample},
    svg::{Chart, Series, escape},
    text::text,
};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1500px;padding:0 1rem;color:#222}\
    h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}\
    table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem;text-align:left;\
    border-bottom:1px solid #ddd}.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(520px,1fr));gap:1rem}\
    svg{width:100%;background:#fcfcfc;border:1px solid #e5e5e5}svg text{font:11px system-ui,sans-serif;fill:#444}\
    svg .title{font-size:14px;font-weight:600;fill:#111}svg path{stroke-width:1.6}.grid{stroke:#e3e3e3}\
    .mark{stroke:#b00;stroke-dasharray:3 3}svg .mark-label{fill:#b00;font-size:10px;paint-order:stroke;\
    stroke:#fcfcfc;stroke-width:3px}pre{background:#f6f6f6;padding:1rem;\
    overflow:auto}";

/// The page of one run.
pub fn page(report: &Report) -> String {
    let head = format!("{} {}", report.scenario, report.run);
    let body = format!("<pre>{}</pre>", escape(&text(report)));
    document(&head, &report.note, &format!("{body}\n{}", grid(&charts(&[("", report)]))))
}

/// Two runs over each other, below a table that compares them.
pub fn overlay(a: &Report, b: &Report, table: &str) -> String {
    let head = format!("{} {} and {}", a.scenario, a.run, b.run);
    let note = format!("A: {} B: {}", a.note, b.note);
    let body = format!("<pre>{}</pre>", escape(table));
    document(&head, &note, &format!("{body}\n{}", grid(&charts(&[("A ", a), ("B ", b)]))))
}

/// A whole page. `body` is HTML; the other arguments are plain text.
pub(crate) fn document(head: &str, note: &str, body: &str) -> String {
    let (head, note) = (escape(head), escape(note));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{head}</title>\
         <style>{STYLE}</style></head>\n<body>\n<h1>{head}</h1>\n<p>{note}</p>\n{body}\n</body>\n</html>\n"
    )
}

/// A grid with as many charts in a row as there is room for.
pub(crate) fn grid(charts: &str) -> String {
    format!("<div class=\"charts\">\n{charts}</div>")
}

type Named<'a> = [(&'a str, &'a Report)];

fn charts(reports: &Named<'_>) -> String {
    let ms = |us: u64| us as f64 / 1000.0;
    let latency = |which: fn(&Sample) -> Option<Quantiles>| {
        let of = |quantile: fn(&Quantiles) -> u64| move |sample: &Sample| which(sample).map(|q| ms(quantile(&q)));
        [
            over_time(reports, "p50", false, of(|q| q.p50_us)),
            over_time(reports, "p99", true, of(|q| q.p99_us)),
            over_time(reports, "max", true, of(|q| q.max_us)),
        ]
        .concat()
    };
    let rates = [
        over_time(reports, "accepted", false, |sample| Some(sample.accepted_per_s)),
        over_time(reports, "delivered", true, |sample| Some(sample.delivered_per_s)),
    ];
    let cpu = [
        servers(reports, "", |server| server.cores),
        over_time(reports, "generator", true, |sample| Some(sample.generator_cores)),
    ];
    let mut html = String::new();
    let mut add = |title, y_label, log_y, series: Vec<Series>| {
        let drawn = |series: &Series| series.points.iter().any(|(_, y)| y.is_some_and(|y| y > 0.0));
        if series.iter().any(drawn) {
            let (marks, x_ticks) = (marks(reports), None);
            html.push_str(&Chart { title, x_label: "seconds", y_label, series, marks, log_y, x_ticks }.to_svg());
        }
    };
    add("Messages a second", "1/s", false, rates.concat());
    add("Acceptance, from the intended time", "ms", true, latency(|sample| sample.acceptance));
    add("Delivery, from the intended time", "ms", true, latency(|sample| sample.delivery));
    add("CPU", "cores", false, cpu.concat());
    add("Memory of the servers", "MiB", false, servers(reports, "", |server| server.rss_bytes as f64 / 1_048_576.0));
    let signed_in = over_time(reports, "signed in", false, |sample| Some(sample.signed_in as f64));
    add("Connections", "", false, signed_in);
    html.push_str(&percentiles(reports));
    html.push_str(&tried_rates(reports));
    html
}

fn over_time(reports: &Named<'_>, name: &str, dashed: bool, y: impl Fn(&Sample) -> Option<f64>) -> Vec<Series> {
    let series = |(prefix, report): &(&str, &Report)| {
        let points = report.samples.iter().map(|sample| (seconds(sample.at_ms), y(sample))).collect();
        Series { name: format!("{prefix}{name}"), points, dashed }
    };
    reports.iter().map(series).collect()
}

fn servers(reports: &Named<'_>, name: &str, y: impl Fn(&super::sample::ServerSample) -> f64) -> Vec<Series> {
    let mut all = Vec::new();
    for (prefix, report) in reports {
        for (at, server) in report.servers.iter().enumerate() {
            let point = |sample: &Sample| (seconds(sample.at_ms), sample.servers.get(at).map(&y));
            let points = report.samples.iter().map(point).collect();
            all.push(Series { name: format!("{prefix}{name}{}", server.name), points, dashed: false });
        }
    }
    all
}

/// The marks of the first report: the times of two runs have nothing in common but the beginning.
fn marks(reports: &Named<'_>) -> Vec<(f64, String)> {
    let (_, report) = reports[0];
    let warm_up = report.measured_from_ms.map(|ms| (seconds(ms), "measured from here".to_owned()));
    let marks = report.marks.iter().map(|mark| (seconds(mark.at_ms), mark.label.clone()));
    warm_up.into_iter().chain(marks).collect()
}

/// A chart of latencies at the tried rates.
fn tried_rates(reports: &Named<'_>) -> String {
    let mut series = Vec::new();
    for (prefix, report) in reports {
        let Some(capacity) = &report.capacity else { continue };
        let mut steps: Vec<_> = capacity.steps.iter().collect();
        steps.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        let mut add = |name: &str, dashed, y: &dyn Fn(&Step) -> Option<f64>| {
            let points = steps.iter().map(|step| (step.rate, y(step))).collect();
            series.push(Series { name: format!("{prefix}{name}"), points, dashed });
        };
        add("acceptance p99", false, &|step| step.p99_ms(|window| window.acceptance));
        add("delivery p99", true, &|step| step.p99_ms(|window| window.delivery));
        add("wanted", true, &|_| Some(capacity.acceptance_p99_ms));
    }
    if series.is_empty() {
        return String::new();
    }
    let found = reports.iter().filter_map(|(_, report)| report.capacity.as_ref()?.rate);
    let marks = found.map(|rate| (rate, format!("{rate:.0}/s"))).collect();
    let (title, x_label) = ("Tried rates", "messages a second");
    Chart { title, x_label, y_label: "ms", series, marks, log_y: true, x_ticks: None }.to_svg()
}

/// On the x axis, each further nine (90, 99, 99.9) takes the same room.
fn percentiles(reports: &Named<'_>) -> String {
    let nines = |percentile: f64| -(1.0 - percentile.min(99.999) / 100.0).log10();
    let mut series = Vec::new();
    for (prefix, report) in reports {
        for distribution in &report.distributions {
            let point = |(percentile, us): &(f64, u64)| (nines(*percentile), Some(*us as f64 / 1000.0));
            let points = distribution.curve.iter().map(point).collect();
            series.push(Series { name: format!("{prefix}{}", distribution.name), points, dashed: *prefix == "B " });
        }
    }
    if series.is_empty() {
        return String::new();
    }
    let ticks = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999];
    let x_ticks = Some(ticks.map(|tick| (nines(tick), format!("{tick} %"))).to_vec());
    let (title, marks) = ("Percentiles", Vec::new());
    Chart { title, x_label: "percentile", y_label: "ms", series, marks, log_y: true, x_ticks }.to_svg()
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
