//! The real service with a bug planted in it, and the load generator's verdict on it. See docs/testing.md.

mod canary;
mod groups;
mod load;
mod presence;
mod service;
mod sign_in;

use std::time::Instant;

use carillon_loadtest::report::{Integrity, Verdict};
use carillon_proto::planted::PlantedBug;
use load::{Ended, Load};
use service::Service;

/// Messages that a process has accepted before something happens to it.
const ENOUGH: f64 = 100.0;
const KILLS: u32 = 3;
/// The effect of a kill depends on which messages are on their way: in this many runs every bug shows.
const RUNS: u32 = 5;

/// A run during which something happens to the service. `patience` is the time for the last messages, in seconds.
fn run(bug: Option<PlantedBug>, happens: fn(&mut Service), patience: &str) -> Ended {
    let mut service = Service::new(bug.map(PlantedBug::name));
    service.start();
    service.wait_ready();
    let load = Load::start(&service, patience);
    service.wait_accepted(ENOUGH);
    happens(&mut service);
    load.finish()
}

fn nothing(_: &mut Service) {}

fn kills(service: &mut Service) {
    for _ in 0..KILLS {
        service.kill();
        service.start();
        service.wait_accepted(ENOUGH);
    }
}

/// Messages that are missing afterwards can only have been lost by the process that was killed.
fn a_kill_and_the_cure(service: &mut Service) {
    service.kill();
    service.cure();
    service.start();
    service.wait_accepted(ENOUGH);
}

fn is_found(bug: PlantedBug, class: &str, happens: fn(&mut Service), so: fn(&Integrity) -> bool) {
    let began = Instant::now();
    for run_number in 1..=RUNS {
        let Ended { code, report } = run(Some(bug), happens, "3");
        let integrity = &report.integrity;
        println!("{bug:?}, run {run_number}: {:?} after {:?}", integrity.violations, began.elapsed());
        if integrity.violations.contains_key(class) && so(integrity) {
            assert_eq!((code, report.verdict), (Some(2), Verdict::IntegrityBroken));
            assert!(integrity.examples.iter().any(|example| example.starts_with(class)), "{:?}", integrity.examples);
            return;
        }
    }
    panic!("{bug:?} was not found to be {class} in {RUNS} runs");
}

#[test]
fn an_answer_before_the_commit_is_found_as_a_loss() {
    // Each message stands in two inboxes.
    let is_missing = |found: &Integrity| found.summary.read_back < 2 * found.summary.accepted;
    is_found(PlantedBug::AckBeforeCommit, "lost", a_kill_and_the_cure, is_missing);
}

#[test]
fn forgotten_duplicates_are_found_as_doubles() {
    is_found(PlantedBug::ForgetDuplicates, "doubled", kills, |_| true);
}

#[test]
fn a_dropped_push_is_found_as_a_loss() {
    let is_in_the_inboxes = |found: &Integrity| found.summary.read_back >= 2 * found.summary.accepted;
    is_found(PlantedBug::DropPush, "lost", nothing, is_in_the_inboxes);
}

#[test]
fn a_reordered_batch_is_found_as_a_reordering() {
    is_found(PlantedBug::ReorderBatch, "reordered", nothing, |_| true);
}

#[test]
fn without_a_bug_the_same_service_passes_whatever_is_killed() {
    let Ended { code, report } = run(None, kills, "60");
    println!("no bug: {:?}, {:?}", report.verdict, report.integrity);
    assert!(report.integrity.violations.is_empty() && report.integrity.summary.accepted > 0, "{:?}", report.integrity);
    assert_eq!((code, report.verdict), (Some(5), Verdict::Interrupted));
}

/// All parts of a scenario at the same time.
const MIX: &str = r#"
name = "mix"
[target]
token_secret_file = "token"
sends_per_user = 1000
[time]
warm_up = "500ms"
measured = "3s"
[direct]
users = 4
devices = 2
rate = 40
slow_readers = 1
[idle]
connections = 5
[offline]
absent = 6
senders = 2
messages = 30
every = "1s"
[reconnect]
connections = 6
senders = 2
after = "500ms"
"#;

#[test]
fn all_parts_of_a_scenario_run_beside_each_other_and_are_checked() {
    let mut service = Service::new(None);
    service.start();
    service.wait_ready();
    let Ended { code, report } = load::run_scenario(&service, MIX);
    let integrity = &report.integrity;
    println!("{:?}, {integrity:?}", report.verdict);
    assert!(integrity.violations.is_empty(), "{:?}", integrity.examples);
    assert!(matches!((code, report.verdict), (Some(0), Verdict::Pass) | (Some(4), Verdict::Invalid)), "{code:?}");
    // Each message stands in two inboxes, that of a herd's second one, too.
    assert!(integrity.summary.read_back >= 2 * integrity.summary.accepted, "{integrity:?}");
    let figure = |name: &str| report.figure(name).map(|figure| figure.value);
    assert_eq!((figure("idle: connections"), figure("idle: connections lost")), (Some(5.0), Some(0.0)));
    assert_eq!(figure("reconnect: not back"), Some(0.0));
    assert!(figure("offline: catch-up").is_some() && figure("accepted").is_some());
    let names: Vec<_> = report.distributions.iter().map(|one| one.name.as_str()).collect();
    for name in ["acceptance", "delivery", "offline: acceptance", "reconnect: back"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    assert!(report.marks.iter().any(|mark| mark.label.starts_with("offline: ")), "{:?}", report.marks);
}

#[test]
fn an_unknown_bug_is_refused() {
    let mut service = Service::new(Some("drop-pushes"));
    service.start();
    assert!(!service.wait_end());
    assert!(service.words().contains("CARILLON_PLANTED_BUG is \"drop-pushes\""), "{}", service.words());
}
