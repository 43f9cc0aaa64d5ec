//! Runs that are told to end before their time.

use std::fs;

use carillon_loadtest::report::{Report, Verdict};
use carillon_proto::tasks::Tasks;

use super::{
    gateway::{Gateway, Lie},
    process::Process,
};

const SCENARIO: &str = r#"
name = "long"
[target]
token_secret_file = "token"
[time]
measured = "60m"
[direct]
users = 4
rate = 100
"#;

/// Starts it by these words, sends this signal when it has said this, and returns exit code, report and test cases.
fn interrupted(lie: Lie, words: &[&str], (said, signal): (&str, &str)) -> (Option<i32>, Report, String) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
    let (folder, tasks) = (tempfile::tempdir().expect("folder"), Tasks::new());
    let url = format!("tcp://{}", runtime.block_on(Gateway::start(lie, &tasks)));
    let at = |name: &str| folder.path().join(name);
    fs::write(at("token"), "a secret of the workers").expect("written");
    fs::write(at("long.toml"), SCENARIO).expect("written");
    let more = ["--url", &url, "--token-secret-file", "token", "--json", "run.json", "--junit", "run.xml"];
    let mut process = Process::start(folder.path(), &[words, &more].concat());
    process.until(said);
    process.signal(signal);
    let (code, said) = process.end();
    let report = Report::read(&at("run.json")).unwrap_or_else(|error| panic!("{error}: {said}"));
    (code, report, fs::read_to_string(at("run.xml")).expect("test cases"))
}

#[test]
fn a_run_that_is_interrupted_is_not_passed_and_tells_what_it_has_seen() {
    for signal in ["INT", "TERM"] {
        let measuring = ("measuring: 4 signed in", signal);
        let (code, report, xml) = interrupted(Lie::None, &["run", "long.toml"], measuring);
        assert_eq!((code, report.verdict), (Some(5), Verdict::Interrupted), "{:?}", report.generator);
        let integrity = &report.integrity;
        assert!(integrity.summary.accepted > 0 && integrity.violations.is_empty(), "{integrity:?}");
        assert!(report.interrupted_ms.is_some_and(|ms| ms > 0) && report.measured_s < 3600.0);
        assert!(xml.contains("<error message=\"it was interrupted after "), "{xml}");
    }
}

#[test]
fn every_single_command_ends_in_order_when_it_is_interrupted() {
    for (words, said) in [
        (&["direct", "--rate", "50", "--warm-up", "3600"][..], "warming up: "),
        (&["idle", "--connections", "5", "--warm-up", "3600"], "settling: "),
        (&["idle", "--connections", "5", "--seconds", "3600"], "holding: "),
        (&["sign-in", "--count", "1000000", "--users", "2", "--rate", "20", "--sign-out"], "signing in: "),
    ] {
        let (code, report, _) = interrupted(Lie::None, words, (said, "INT"));
        assert_eq!((code, report.verdict), (Some(5), Verdict::Interrupted), "{words:?}: {:?}", report.generator);
        assert!(report.integrity.violations.is_empty(), "{words:?}: {:?}", report.integrity);
    }
}

#[test]
fn what_is_broken_is_broken_also_in_a_run_that_was_interrupted() {
    let words = ["direct", "--users", "2", "--rate", "50", "--seconds", "3600"];
    let (code, report, _) = interrupted(Lie::Double, &words, ("2 signed in, ", "INT"));
    assert_eq!((code, report.verdict), (Some(2), Verdict::IntegrityBroken), "{:?}", report.integrity);
    assert!(report.interrupted_ms.is_some());
}

#[test]
fn a_coordinator_that_is_interrupted_before_its_workers_come_says_so() {
    let words = ["coordinate", "long.toml", "--workers", "2", "--listen", "127.0.0.1:0", "--secret-file", "token"];
    let (code, report, _) = interrupted(Lie::None, &words, ("waiting for 2 workers", "TERM"));
    assert_eq!((code, report.verdict), (Some(5), Verdict::Interrupted), "{:?}", report.generator);
}
