//! Groups of the real service, with and without a bug, and with kills.

use carillon_loadtest::report::{Report, Verdict};
use carillon_proto::planted::PlantedBug;

use crate::{
    load::{self, Ended, Load},
    service::Service,
};

/// Messages that a process has accepted before it is killed.
const ENOUGH: f64 = 60.0;
const KILLS: u32 = 3;

fn scenario(measured: &str, patience: &str, more: &str) -> String {
    format!(
        r#"
        name = "groups"
        [target]
        token_secret_file = "token"
        sends_per_user = 1000
        [time]
        warm_up = "100ms"
        measured = "{measured}"
        patience = "{patience}"
        [groups]
        users = 8
        devices = 2
        groups = 6
        members = 4
        senders = 2
        rate = 60
        {more}
        "#
    )
}

const UNREST: &str = "change_every = \"200ms\"\nrestart_every = \"300ms\"";

fn with(bug: PlantedBug, more: &str) -> Report {
    let mut service = Service::new(Some(bug.name()));
    service.start();
    service.wait_ready();
    let Ended { code, report } = load::run_scenario(&service, &scenario("4s", "3s", more));
    println!("{bug:?}: {:?}", report.integrity);
    assert_eq!((code, report.verdict), (Some(2), Verdict::IntegrityBroken));
    report
}

fn says(report: &Report, class: &str) -> bool {
    let examples = &report.integrity.examples;
    report.integrity.violations.contains_key(class) && examples.iter().any(|example| example.starts_with(class))
}

#[test]
fn a_dropped_push_of_a_group_is_found_as_a_loss() {
    let report = with(PlantedBug::DropGroupPush, "");
    let summary = report.integrity.summary;
    assert!(says(&report, "lost") && says(&report, "misplaced"), "{:?}", report.integrity.violations);
    assert_eq!(summary.read_back, summary.accepted, "all of them stand in the logs");
}

#[test]
fn a_message_of_a_banned_member_is_found_in_the_log() {
    let report = with(PlantedBug::AnybodyWrites, UNREST);
    assert!(says(&report, "intruded"), "{:?}", report.integrity.violations);
}

#[test]
fn without_a_bug_members_and_devices_go_and_come_and_nothing_is_lost() {
    let mut service = Service::new(None);
    service.start();
    service.wait_ready();
    let Ended { code, report } = load::run_scenario(&service, &scenario("8s", "60s", UNREST));
    let integrity = &report.integrity;
    println!("{:?}, {integrity:?}, {:?}", report.verdict, report.figures);
    assert!(integrity.violations.is_empty() && integrity.unread == 0, "{:?}", integrity.examples);
    assert!(matches!((code, report.verdict), (Some(0), Verdict::Pass) | (Some(4), Verdict::Invalid)), "{code:?}");
    // The guests of the groups are refused while they are out.
    assert!(integrity.summary.refused > 0 && integrity.summary.read_back >= integrity.summary.accepted);
    let figure = |name: &str| report.figure(name).map(|figure| figure.value).unwrap_or_default();
    assert!(figure("changes of members") >= 6.0 && figure("devices that started again") >= 6.0, "{:?}", report.figures);
    assert!(figure("delivered") > 3.0 * figure("accepted"), "{:?}", report.figures);
}

#[test]
fn whatever_is_killed_nothing_of_a_group_is_lost() {
    let mut service = Service::new(None);
    service.start();
    service.wait_ready();
    let load = Load::start_scenario(&service, &scenario("120s", "60s", UNREST));
    service.wait_accepted(ENOUGH);
    for _ in 0..KILLS {
        service.kill();
        service.start();
        service.wait_accepted(ENOUGH);
    }
    let Ended { code, report } = load.finish();
    let integrity = &report.integrity;
    println!("{:?}, {integrity:?}", report.verdict);
    assert!(integrity.violations.is_empty() && integrity.unread == 0, "{:?}", integrity.examples);
    assert_eq!((code, report.verdict), (Some(5), Verdict::Interrupted));
    assert!(integrity.summary.accepted > 0 && integrity.summary.read_back >= integrity.summary.accepted);
}
