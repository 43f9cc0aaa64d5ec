//! The canary against a cluster whose gateways and routers are replaced.

mod support;

use std::time::Duration;

use support::{
    cluster::Cluster,
    node::{Node, until},
};

const PATIENCE: Duration = Duration::from_secs(150);

fn rounds(canary: &Node, result: &str) -> u64 {
    let name = format!("carillon_canary_rounds_total{{result=\"{result}\"}} ");
    let text = canary.metrics();
    let found = text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok());
    found.unwrap_or(0.0) as u64
}

fn go_on(canary: &Node) {
    let before = rounds(canary, "ok");
    until("rounds to go on", PATIENCE, || rounds(canary, "ok") >= before + 4);
}

#[test]
fn a_roll_of_gateways_and_routers_fails_no_round_and_its_inboxes_stay_short() {
    let mut cluster = Cluster::start();
    // A machine that runs tests may stand still for seconds.
    let settings =
        "canary.interval_ms = 250\ncanary.deadline_ms = 60000\ncanary.ready_ms = 120000\ncanary.history = 40\n";
    let mut canary = cluster.canary(settings);
    canary.wait_ready();
    // One over TCP at the first gateway, the other over WebSocket at the second.
    go_on(&canary);
    for gateway in 0..2 {
        cluster.gateways[gateway].terminate();
        cluster.gateways[gateway].start_again();
        cluster.gateways[gateway].wait_ready();
        go_on(&canary);
    }
    for router in 0..2 {
        cluster.routers[router].terminate();
        cluster.routers[router].start_again();
        cluster.routers[router].wait_ready();
        go_on(&canary);
    }
    let made = || canary.metric("carillon_canary_accounts_made_total");
    until("the accounts to be made anew", PATIENCE, || made() >= 2.0);
    go_on(&canary);
    for result in ["not_signed_in", "not_accepted", "not_delivered", "wrong"] {
        assert_eq!(rounds(&canary, result), 0, "{result}: {}", canary.log());
    }
    assert!(canary.metric("carillon_canary_reconnects_total") >= 2.0, "each has lost its gateway once");
    canary.terminate();
    // Its sessions went with it.
    let sessions = cluster.gateways[0].command(&["session", "list", "--user", "carillon-canary-1", "--json"]);
    assert_eq!(sessions.expect("listed"), "");
}

#[test]
fn a_canary_with_a_password_needs_no_token_and_says_why_it_is_not_well() {
    let cluster = Cluster::start();
    let password = cluster.data("password");
    std::fs::write(&password, "the canary has its own\n").expect("written");
    let mut canary =
        cluster.canary_without_token(&format!("canary.interval_ms = 250\ncanary.password_file = {password:?}\n"));
    until("it to say what is missing", PATIENCE, || {
        support::node::get(canary.admin, "/readyz")
            .is_some_and(|answer| answer.contains("carillon-canary-1 is not signed in"))
    });
    for user in ["carillon-canary-1", "carillon-canary-2"] {
        let made =
            cluster.gateways[0].command_with(&["user", "add", user, "--password-stdin"], "the canary has its own\n");
        made.expect("made");
    }
    canary.wait_ready();
    assert_eq!(rounds(&canary, "wrong"), 0);
    canary.terminate();
}
