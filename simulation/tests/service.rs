//! Bugs that are planted in the service itself, which the runs find. Each has a process of its own, as a process has at most one.

use std::process::Command;

use carillon_proto::planted::{PlantedBug, VARIABLE};

/// Runs within which each planted bug is found.
const SEEDS: u64 = 500;

/// `how`: what a run with this bug may end in.
fn is_found(bug: PlantedBug, how: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon-simulation"));
    command.args(["--seeds", &SEEDS.to_string()]).env(VARIABLE, bug.name());
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{} was not found: {said}", bug.name());
    let found = said.lines().find(|line| line.starts_with("seed "));
    let found = found.unwrap_or_else(|| panic!("{}: {said}", String::from_utf8_lossy(&output.stderr)));
    println!("{}: {found}", bug.name());
    assert!(how.iter().any(|how| found.contains(how)), "{} was found for another reason: {found}", bug.name());
}

#[test]
fn a_user_of_whose_end_nobody_is_told_is_found() {
    is_found(PlantedBug::UntoldOffline, &["not (Unspecified"]);
}

#[test]
fn a_presence_that_is_told_to_former_contacts_is_found() {
    is_found(PlantedBug::PresenceToAll, &["which it may not see"]);
}

#[test]
fn a_mark_that_goes_back_is_found() {
    is_found(PlantedBug::MarksGoBack, &["and marked"]);
}

#[test]
fn a_mark_that_overwrites_that_of_another_user_is_found() {
    is_found(PlantedBug::MarksOfOthers, &["and marked", "the conversation of", "has no conversation with"]);
}

#[test]
fn a_report_of_what_its_reporter_can_not_read_is_found() {
    is_found(PlantedBug::ReportsOfOthers, &["has reported what it can't read"]);
}

#[test]
fn evidence_that_its_author_takes_back_is_found() {
    is_found(PlantedBug::RecallsTakeEvidence, &["the evidence of report"]);
}

#[test]
fn a_file_that_is_removed_while_another_shard_refers_to_it_is_found() {
    is_found(PlantedBug::AsksOwnShardAlone, &["refer to it"]);
}

#[test]
fn a_file_that_is_held_for_ever_is_found() {
    is_found(PlantedBug::ExpiredHold, &["references to", "it stays"]);
}

#[test]
fn a_member_who_was_banned_and_goes_on_writing_is_found() {
    is_found(PlantedBug::AnybodyWrites, &["who is no member"]);
}
