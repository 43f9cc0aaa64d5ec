//! The real service with a bug planted in it, and the load generator's verdict on it. See docs/testing.md.

mod load;
mod service;

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
    let is_missing = |found: &Integrity| found.read_back < 2 * found.accepted;
    is_found(PlantedBug::AckBeforeCommit, "lost", a_kill_and_the_cure, is_missing);
}

#[test]
fn forgotten_duplicates_are_found_as_doubles() {
    is_found(PlantedBug::ForgetDuplicates, "doubled", kills, |_| true);
}

#[test]
fn a_dropped_push_is_found_as_a_loss() {
    let is_in_the_inboxes = |found: &Integrity| found.read_back >= 2 * found.accepted;
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
    assert!(report.integrity.violations.is_empty() && report.integrity.accepted > 0, "{:?}", report.integrity);
    // On a busy machine the generator may have been the limit, which makes the figures meaningless.
    assert!(matches!((code, report.verdict), (Some(0), Verdict::Pass) | (Some(4), Verdict::Invalid)), "{code:?}");
}

#[test]
fn an_unknown_bug_is_refused() {
    let mut service = Service::new(Some("drop-pushes"));
    service.start();
    assert!(!service.wait_end());
    assert!(service.words().contains("CARILLON_PLANTED_BUG is \"drop-pushes\""), "{}", service.words());
}
