//! Scenario files against the same gateway.

use std::{fs, path::Path};

use carillon_loadtest::report::{
    Report, Verdict,
    capacity::{CapacityOutcome, Judgement},
};
use carillon_proto::tasks::Tasks;

use super::{
    gateway::{Gateway, Lie},
    loadtest,
};

const SCENARIO: &str = r#"
name = "short"
[target]
token_secret_file = "token"
[time]
warm_up = "100ms"
measured = "400ms"
patience = "2s"
[direct]
users = 4
window = 8
"#;

/// Writes the scenario, with more lines and with this gateway, and runs it by these words.
pub(super) fn run(folder: &Path, url: &str, (more, words): (&str, &[&str])) -> (Option<i32>, Report, String) {
    let scenario = SCENARIO.replace("[target]\n", &format!("[target]\naddresses = [{url:?}]\n"));
    fs::write(folder.join("short.toml"), format!("{scenario}{more}")).expect("written");
    let files = ["--json", "run.json", "--html", "run.html", "--junit", "run.xml"];
    let output = loadtest(folder, &[words, &files].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = Report::read(&folder.join("run.json")).unwrap_or_else(|error| panic!("{error}: {said}"));
    let xml = fs::read_to_string(folder.join("run.xml")).expect("test cases");
    assert!(fs::read_to_string(folder.join("run.html")).expect("page").contains("<svg"));
    (output.status.code(), report, xml)
}

fn against(lie: Lie, more: &str) -> (Option<i32>, Report, String) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
    let (folder, tasks) = (tempfile::tempdir().expect("folder"), Tasks::new());
    let url = format!("tcp://{}", runtime.block_on(Gateway::start(lie, &tasks)));
    run(folder.path(), &url, (more, &["run", "short.toml"]))
}

#[test]
fn a_lie_makes_a_test_case_fail() {
    let (code, report, xml) = against(Lie::Lose, "rate = 150\n[level]\nlost = 0\n");
    assert_eq!((code, report.verdict, report.scenario.as_str()), (Some(2), Verdict::IntegrityBroken, "short"));
    let (_, lost) = xml.split_once(r#"name="nothing is lost">"#).expect("a test case with a failure");
    assert!(lost.trim_start().starts_with("<failure message=\""), "{xml}");
    assert!(xml.contains(r#"name="nothing is doubled"/>"#), "{xml}");
}

#[test]
fn without_a_lie_the_levels_decide() {
    let (code, report, xml) = against(Lie::None, "rate = 150\n[level]\nacceptance_p99_ms = 60000\nrate = 140\n");
    assert!(report.integrity.violations.is_empty(), "{:?}", report.integrity);
    assert!(
        report.integrity.summary.accepted > 20 && report.levels[0].met,
        "{:?} {:?}",
        report.integrity,
        report.levels
    );
    assert!(xml.contains(r#"name="acceptance p99 ms"/>"#), "{xml}");
    assert!(matches!((code, report.verdict), (Some(0), Verdict::Pass) | (Some(3 | 4), _)), "{:?}", report.generator);
}

#[test]
fn a_ramp_sends_more_and_more() {
    let (_, report, _) = against(Lie::None, "ramp = { from = 10, to = 190 }\n");
    assert!(report.integrity.violations.is_empty() && report.integrity.summary.accepted > 10, "{:?}", report.integrity);
    assert!(!report.figures.iter().any(|figure| figure.name == "wanted"));
}

const SEARCH: &str = r#"
[level]
acceptance_p99_ms = 5000
[capacity]
from = 100
settle = "100ms"
window = "1s"
"#;

#[test]
fn a_search_ends_where_the_scenario_ends_and_does_not_call_that_a_capacity() {
    let (code, report, xml) = against(Lie::None, SEARCH);
    let capacity = report.capacity.expect("a search");
    let purposes: Vec<_> = capacity.steps.iter().map(|step| (step.rate, step.purpose.as_str())).collect();
    assert_eq!((code, report.verdict), (Some(4), Verdict::Invalid), "{purposes:?}");
    assert!(capacity.steps.iter().all(|step| step.windows.len() >= 2));
    // On a machine that has no time for it, not even that is held.
    if capacity.steps.iter().all(|step| step.judgement == Judgement::Holds) {
        assert_eq!((capacity.outcome, capacity.rate), (CapacityOutcome::AtLeast, Some(200.0)));
        assert_eq!(purposes, [(100.0, "double"), (200.0, "double"), (200.0, "confirm")]);
        assert!(capacity.why.contains("tries no higher rate"), "{}", capacity.why);
        assert!(xml.contains("<error message=\"the scenario tries no higher rate"), "{xml}");
    }
    assert!(
        report.integrity.violations.is_empty() && report.integrity.summary.accepted > 100,
        "{:?}",
        report.integrity
    );
}

#[test]
fn a_search_that_finds_a_lie_ends_at_once() {
    let (code, report, _) = against(Lie::Double, SEARCH);
    let capacity = report.capacity.expect("a search");
    assert_eq!((code, report.verdict), (Some(2), Verdict::IntegrityBroken));
    assert!(capacity.steps.is_empty() && capacity.why.contains("integrity is broken"), "{capacity:?}");
}

#[test]
fn what_would_be_run_is_printed_without_a_connection() {
    let folder = tempfile::tempdir().expect("folder");
    fs::write(folder.path().join("short.toml"), SCENARIO).expect("written");
    let words = ["run", "short.toml", "--check", "--set", "direct.users=6", "--url", "tcp://127.0.0.1:1"];
    let output = loadtest(folder.path(), &words);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("users = 6") && said.contains("tcp://127.0.0.1:1"), "{said}");
}

#[test]
fn a_wrong_scenario_is_refused_before_anything_is_read_or_connected() {
    let folder = tempfile::tempdir().expect("folder");
    for (more, says) in [
        ("rate = 201\n", "more than gateways let them send"),
        ("speed = 3\n", "unknown field `speed`"),
        ("[targett]\n", "unknown field `targett`"),
    ] {
        fs::write(folder.path().join("short.toml"), format!("{SCENARIO}{more}")).expect("written");
        let output = loadtest(folder.path(), &["run", "short.toml", "--url", "tcp://127.0.0.1:1"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(says), "{said}");
    }
    let output = loadtest(folder.path(), &["presets", "show", "capacity"]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("[capacity]"));
    assert_eq!(loadtest(folder.path(), &["presets", "show", "none"]).status.code(), Some(1));
}
