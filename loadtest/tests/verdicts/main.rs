//! The program's verdicts and exit codes, against a gateway that lies in one way at a time.

mod chaos;
mod gateway;
mod interrupted;
mod process;
mod scenarios;
mod workers;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use carillon_loadtest::report::{Report, Verdict};
use carillon_proto::tasks::Tasks;
use gateway::{Gateway, Lie};

fn loadtest(folder: &Path, arguments: &[&str]) -> Output {
    fs::write(folder.join("token"), "a secret").expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon-loadtest"));
    command.args(arguments).current_dir(folder).output().expect("it runs")
}

/// A short run against a gateway with this lie: the exit code and the report.
fn run(lie: Lie, more: &[&str]) -> (Option<i32>, Report) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
    let (folder, tasks) = (tempfile::tempdir().expect("folder"), Tasks::new());
    let url = format!("tcp://{}", runtime.block_on(Gateway::start(lie, &tasks)));
    let options = ["--url", &url, "--token-secret-file", "token", "--json", "run.json", "--html", "run.html"];
    let load = ["--users", "3", "--window", "4", "--rate", "300", "--seconds", "0.4", "--patience", "2"];
    let output = loadtest(folder.path(), &[&options[..], &load[..], more].concat());
    let report = Report::read(&folder.path().join("run.json"))
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    assert!(fs::read_to_string(folder.path().join("run.html")).expect("page").contains("<svg"));
    (output.status.code(), report)
}

#[test]
fn a_service_that_lies_is_found_out_whatever_it_does() {
    for (lie, kind) in [
        (Lie::Lose, "lost"),
        (Lie::LoseCopy, "lost"),
        (Lie::Double, "doubled"),
        (Lie::Reorder, "reordered"),
        (Lie::Invent, "invented"),
        (Lie::Corrupt, "corrupted"),
    ] {
        let (code, report) = run(lie, &[]);
        assert_eq!((code, report.verdict), (Some(2), Verdict::IntegrityBroken), "{lie:?}");
        assert!(report.integrity.violations.contains_key(kind), "{lie:?} is {:?}", report.integrity.violations);
        assert!(report.integrity.examples.iter().any(|example| example.starts_with(kind)), "{lie:?}");
    }
}

#[test]
fn a_service_that_does_not_lie_passes_or_the_machine_was_too_slow() {
    let (code, report) = run(Lie::None, &[]);
    assert!(report.integrity.violations.is_empty(), "{:?}", report.integrity.examples);
    let integrity = &report.integrity;
    assert!(integrity.summary.accepted > 20, "{integrity:?}");
    assert_eq!(
        (integrity.summary.delivered, integrity.summary.read_back),
        (integrity.summary.accepted, 2 * integrity.summary.accepted)
    );
    match report.verdict {
        Verdict::Pass => assert_eq!(code, Some(0)),
        verdict => assert_eq!((code, verdict), (Some(4), Verdict::Invalid), "{:?}", report.generator),
    }
}

#[test]
fn an_inbox_that_can_not_be_read_back_is_neither_broken_nor_passed() {
    let (code, report) = run(Lie::Unread, &[]);
    assert_eq!((code, report.verdict), (Some(4), Verdict::Invalid), "{:?}", report.integrity);
    let integrity = &report.integrity;
    assert!(integrity.violations.is_empty() && integrity.summary.accepted > 20, "{integrity:?}");
    assert_eq!((integrity.unread, integrity.summary.read_back, integrity.examples.len()), (3, 0, 3));
    assert!(integrity.examples.iter().all(|example| example.starts_with("unread: ")), "{:?}", integrity.examples);
    let why = report.generator.invalid.expect("a reason");
    assert!(why.starts_with("3 inboxes could not be read back"), "{why}");
}

#[test]
fn a_missed_level_is_told_unless_the_run_is_invalid_anyway() {
    let (code, report) = run(Lie::None, &["--min-rate", "1000000", "--max-p99-ms", "1000000"]);
    let met: Vec<bool> = report.levels.iter().map(|level| level.met).collect();
    assert_eq!(met, [true, true, false]);
    assert!(matches!((code, report.verdict), (Some(3), Verdict::LevelMissed) | (Some(4), Verdict::Invalid)));
}

#[test]
fn a_gateway_that_is_not_there_makes_the_run_invalid() {
    let folder = tempfile::tempdir().expect("folder");
    // Nobody listens on port 1.
    let output = loadtest(folder.path(), &["idle", "--url", "tcp://127.0.0.1:1", "--token-secret-file", "token"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("can't sign in"));
}

#[test]
fn what_is_wrong_on_the_command_line_is_told() {
    let folder = tempfile::tempdir().expect("folder");
    for (arguments, says) in [
        (&["--token-secret-file", "missing"][..], "token secret"),
        (&["--token-secret-file", "token", "--url", "http://a"], "unknown scheme"),
        (&["--token-secret-file", "token", "--server-pid", "4194305"], "no process"),
        (&["--token-secret-file", "token", "--admin", "127.0.0.1:1"], "http://host:port"),
        (&["compare", "a.json", "b.json"], "a.json"),
        (&["flush-probe", "missing"], "missing"),
        (&["--no-such-option"], "unexpected argument"),
    ] {
        let output = loadtest(folder.path(), arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(says), "{arguments:?}: {said}");
    }
}

#[test]
fn two_reports_are_compared() {
    let (folder, (_, report)) = (tempfile::tempdir().expect("folder"), run(Lie::None, &[]));
    report.write(&folder.path().join("a.json")).expect("written");
    let output = loadtest(folder.path(), &["compare", "a.json", "a.json", "--html", "both.html"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("acceptance p99 ms"));
    assert!(fs::read_to_string(folder.path().join("both.html")).expect("page").contains("B acceptance"));
}
