//! Presence, marks and typing of the real service, undisturbed and with a kill.

use carillon_loadtest::report::{Report, Verdict};

use crate::{
    load::{self, Ended},
    service::Service,
};

const SCENARIO: &str = r#"
name = "presence-and-marks"
[target]
token_secret_file = "token"
sends_per_user = 1000
[time]
warm_up = "500ms"
measured = "8s"
patience = "60s"
[presence]
users = 12
contacts = 6
rate = 6
restart_every = "700ms"
[marks]
pairs = 3
groups = 2
members = 3
rate = 30
not_reading = 2
"#;

fn figure(report: &Report, name: &str) -> f64 {
    report.figure(name).map(|figure| figure.value).unwrap_or_default()
}

#[test]
fn everybody_sees_what_contacts_show_and_what_was_read_while_devices_go_and_come() {
    let mut service = Service::new(None);
    service.start();
    service.wait_ready();
    let Ended { code, report } = load::run_scenario(&service, SCENARIO);
    let integrity = &report.integrity;
    println!("{:?}, {integrity:?}, {:?}", report.verdict, report.figures);
    assert!(integrity.violations.is_empty() && integrity.unread == 0, "{:?}", integrity.examples);
    assert!(matches!((code, report.verdict), (Some(0), Verdict::Pass) | (Some(4), Verdict::Invalid)), "{code:?}");
    // Of messages alone: changes of presence are none, though they are counted.
    let summary = integrity.summary;
    assert!(summary.accepted > 0 && summary.accepted == summary.sent, "{integrity:?}");
    assert!(figure(&report, "presence: told") > figure(&report, "presence: changes"), "{:?}", report.figures);
    assert_eq!(figure(&report, "presence: contacts"), 72.0);
    assert!(figure(&report, "presence: devices that went") >= 4.0 && figure(&report, "marks: marks") > 0.0);
    let names: Vec<_> = report.distributions.iter().map(|one| one.name.as_str()).collect();
    let wanted =
        ["presence: delivery", "presence: gone", "marks: mark seen by writer", "marks: mark seen by own device"];
    for name in wanted {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
}

#[test]
fn after_a_kill_nobody_stays_online_who_is_not_and_every_count_is_right() {
    let mut service = Service::new(None);
    service.start();
    service.wait_ready();
    let scenario = SCENARIO.replace("measured = \"8s\"", "measured = \"120s\"");
    let load = load::Load::start_scenario(&service, &scenario);
    service.wait_accepted(60.0);
    service.kill();
    service.start();
    service.wait_accepted(60.0);
    let Ended { code, report } = load.finish();
    let integrity = &report.integrity;
    println!("{:?}, {integrity:?}", report.verdict);
    assert!(integrity.violations.is_empty() && integrity.unread == 0, "{:?}", integrity.examples);
    assert_eq!((code, report.verdict), (Some(5), Verdict::Interrupted));
}
