use super::{figure::SERVER_CPU, sample::Quantiles, *};

/// A report with something in every field.
pub(crate) fn report(scenario: &str, rate: f64, p99_us: u64) -> Report {
    let quantiles =
        Quantiles { count: 9, mean_us: 1.5, p50_us: 1000, p90_us: 1500, p99_us, p999_us: p99_us, max_us: p99_us };
    let sample = |at_ms| Sample {
        at_ms,
        accepted_per_s: rate,
        delivered_per_s: rate,
        signed_in: 2,
        acceptance: Some(quantiles),
        delivery: None,
        servers: vec![sample::ServerSample { cores: 0.5, rss_bytes: 1 << 20 }],
        generator_cores: 0.2,
        machine_busy: 0.7,
    };
    Report {
        format: FORMAT,
        version: "0.0.0".to_owned(),
        scenario: scenario.to_owned(),
        note: "a <note>".to_owned(),
        run: "run-1".to_owned(),
        began_unix_ms: 1,
        options: vec!["--users".to_owned(), "2".to_owned()],
        machine: Machine::this(),
        verdict: Verdict::IntegrityBroken,
        interrupted_ms: None,
        measured_s: 2.0,
        measured_from_ms: Some(500),
        figures: vec![Figure::higher("accepted", "1/s", rate), Figure::lower(SERVER_CPU, "us/message", 40.0)],
        distributions: vec![Distribution {
            name: "acceptance".to_owned(),
            quantiles,
            curve: vec![(50.0, 1000), (100.0, p99_us)],
        }],
        integrity: Integrity {
            summary: Summary { sent: 10, accepted: 9, refused: 1, unknown: 0, delivered: 8, read_back: 9 },
            unread: 0,
            violations: BTreeMap::from([("lost".to_owned(), 1)]),
            examples: vec!["lost: bob/d: alice -> bob #2".to_owned()],
        },
        levels: vec![Level { name: "rate 1/s".to_owned(), wanted: 1.0, got: None, met: false }],
        servers: vec![ServerReport { name: "all".to_owned(), cpu_us: 1, rss_before_bytes: 1, rss_after_bytes: 2 }],
        generator: GeneratorReport {
            workers: 2,
            cpu_us: 1,
            cores: 0.1,
            machine_busy: 0.5,
            scheduled: 10,
            late: 1,
            invalid: Some("it <was>".to_owned()),
        },
        limits: None,
        capacity: None,
        workers: Vec::new(),
        faults: Vec::new(),
        marks: vec![PlotMark { at_ms: 1000, label: "kill storage-1".to_owned() }],
        samples: vec![sample(1000), sample(2000)],
    }
}

#[test]
fn a_report_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.json");
    let written = report("direct", 100.0, 2000);
    written.write(&path).expect("written");
    assert_eq!(Report::read(&path).expect("read"), written);
}

#[test]
fn another_format_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.json");
    fs::write(&path, r#"{"format": 2}"#).expect("written");
    assert!(matches!(Report::read(&path), Err(ReadError::Format { found: 2, .. })));
    fs::write(&path, "{}").expect("written");
    assert!(matches!(Report::read(&path), Err(ReadError::Json { .. })));
}

#[test]
fn the_page_has_plots_and_marks_and_nothing_from_outside() {
    let page = html::page(&report("direct", 100.0, 2000));
    for expected in
        ["<svg", "kill storage-1", "a &lt;note&gt;", "it &lt;was&gt;", "Percentiles", "Memory of the servers"]
    {
        assert!(page.contains(expected), "{expected}");
    }
    for outside in ["<script", "src=", "href=", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn a_comparison_tells_ratios_and_which_way_is_better() {
    let (a, b) = (report("direct", 100.0, 2000), report("direct", 50.0, 1000));
    let table = compare::table(&a, &b);
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).expect("a line").to_owned();
    assert!(line("accepted 1/s").ends_with("0.50  worse"), "{table}");
    assert!(line("acceptance p99 ms").ends_with("0.50  better"), "{table}");
    assert!(line("server CPU").ends_with("1.00"), "{table}");
    assert!(html::overlay(&a, &b, &table).contains("A accepted"));
}

#[test]
fn the_text_says_what_was_broken() {
    let text = text::text(&report("direct", 100.0, 2000));
    for expected in
        ["integrity BROKEN: 1 lost", "lost: bob/d", "INVALID", "MISSED", "p99 2.00", "verdict: integrity broken"]
    {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
}
