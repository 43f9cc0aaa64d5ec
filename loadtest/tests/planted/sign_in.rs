//! The ways in which users of a load sign in, at the real service.

use std::fs;

use carillon_loadtest::report::{Report, Verdict};

use super::{
    load::{Ended, run_scenario},
    service::{CLUSTER_SECRET, KEYS, Service},
};

fn service() -> Service {
    let mut service = Service::new(None);
    fs::write(service.folder.path().join("cluster"), CLUSTER_SECRET).expect("written");
    service.start();
    service.wait_ready();
    service
}

/// All parts of a scenario, so that every kind of user signs in.
fn scenario(seconds: u32, sign_in: &str) -> String {
    format!(
        r#"
        name = "ways"
        [target]
        token_secret_file = "token"
        sends_per_user = 1000
        [sign_in]
        {sign_in}
        [time]
        warm_up = "100ms"
        measured = "{seconds}s"
        [direct]
        users = 4
        devices = 2
        rate = 20
        [idle]
        connections = 5
        [offline]
        absent = 4
        senders = 2
        messages = 10
        [reconnect]
        connections = 4
        senders = 2
        "#
    )
}

/// Nobody was refused or cut off: whatever else a busy machine does to the figures.
fn all_were_let_in(report: &Report) {
    let integrity = &report.integrity;
    assert!(matches!(report.verdict, Verdict::Pass | Verdict::Invalid), "{:?}", report.verdict);
    let why = report.generator.invalid.as_deref().unwrap_or("the generator was the limit");
    assert!(why.contains("the generator was the limit"), "{why}");
    assert!(integrity.violations.is_empty() && integrity.summary.accepted > 20, "{integrity:?}");
    assert_eq!((integrity.summary.refused, integrity.summary.unknown), (0, 0));
    assert_eq!(report.figure("idle: connections lost").map(|figure| figure.value), Some(0.0));
    assert!(report.figure("devices that came back").is_none(), "{:?}", report.figures);
}

#[test]
fn users_sign_in_by_each_kind_of_token_and_by_password() {
    let mut service = service();
    let router = service.router();
    let ways = [
        "by = \"token\"".to_owned(),
        format!("token_key_file = \"{KEYS}/es256.pem\"\ntoken_key_id = \"es\""),
        format!("by = \"password\"\nrouters = [\"127.0.0.1:1\", \"{router}\"]\ncluster_secret_file = \"cluster\""),
    ];
    for way in ways {
        all_were_let_in(&run_scenario(&service, &scenario(2, &way)).report);
    }
    let metrics = service.get("/metrics").expect("metrics");
    let passwords = metrics.lines().filter(|line| line.contains("sign_ins_total") && line.contains("way=\"password\""));
    let of = |result: &str| passwords.clone().any(|line| line.contains(result) && !line.ends_with(" 0"));
    assert!(of("result=\"ok\"") && !of("result=\"unauthenticated\""), "{metrics}");
    // A key that the service does not know, and routers that do not know the operator.
    fs::write(service.folder.path().join("cluster"), "another-secret-of-a-cluster").expect("written");
    let others = [
        (format!("token_key_file = \"{KEYS}/es256.pem\"\ntoken_key_id = \"other\""), "can't sign in"),
        (format!("by = \"password\"\nrouters = [\"{router}\"]\ncluster_secret_file = \"cluster\""), "can't be made"),
    ];
    for (way, why) in others {
        let Ended { code, report } = run_scenario(&service, &scenario(2, &way));
        assert_eq!((code, report.verdict), (Some(4), Verdict::Invalid), "{way}");
        assert!(report.generator.invalid.as_deref().is_some_and(|said| said.contains(why)), "{:?}", report.generator);
    }
    service.kill();
}

#[test]
fn tokens_are_renewed_before_they_end() {
    let mut service = service();
    let Ended { report, .. } = run_scenario(&service, &scenario(25, "token_lifetime = \"10s\""));
    all_were_let_in(&report);
    service.kill();
}
