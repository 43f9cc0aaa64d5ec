//! `carillon doctor`, with real nodes.

mod support;

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, path::Path, process::Output};

use serde_json::Value;
use support::{
    cluster::Cluster,
    command::{carillon, text},
    node::own_address,
    service::{CLUSTER_SECRET, Service},
};

/// The findings of a doctor.
struct Found {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Found {
    fn of(output: &Output) -> Self {
        let all: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {} {}", text(&output.stdout), text(&output.stderr)));
        Self { code: output.status.code(), findings: all["findings"].as_array().expect("a list").clone() }
    }

    fn shown(&self) -> String {
        let lines: Vec<String> = self.findings.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    /// The findings of this check whose text has all of these parts.
    #[track_caller]
    fn has(&self, check: &str, severity: &str, parts: &[&str]) {
        let is = |finding: &&Value| {
            let found = finding["found"].as_str().expect("a text");
            finding["check"] == check
                && finding["severity"] == severity
                && parts.iter().all(|part| found.contains(part))
        };
        assert!(
            self.findings.iter().any(|finding| is(&finding)),
            "no {severity} of {check} {parts:?} in\n{}",
            self.shown()
        );
    }

    /// The text of the first finding of this check with all of these parts.
    #[track_caller]
    fn text_of(&self, check: &str, parts: &[&str]) -> String {
        let texts = self.findings.iter().filter(|finding| finding["check"] == check);
        let mut texts = texts.map(|finding| finding["found"].as_str().expect("a text").to_owned());
        let found = texts.find(|text| parts.iter().all(|part| text.contains(part)));
        found.unwrap_or_else(|| panic!("nothing of {check} has {parts:?} in\n{}", self.shown()))
    }

    #[track_caller]
    fn has_none(&self, severities: &[&str]) {
        let severity = |finding: &Value| finding["severity"].as_str().expect("a text").to_owned();
        let wrong: Vec<_> =
            self.findings.iter().filter(|finding| severities.contains(&severity(finding).as_str())).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}

fn doctor(arguments: &[&str], folder: &Path) -> Found {
    Found::of(&carillon(&[&["doctor", "--json"], arguments].concat(), folder))
}

/// Flags that put all ports of a process on an address of its own.
fn ports() -> Vec<String> {
    let ip = own_address();
    let ports = [
        ("admin", 7400),
        ("storage", 7401),
        ("router", 7402),
        ("gateway.tcp", 7410),
        ("gateway.ws", 7411),
        ("gateway.grpc", 7412),
    ];
    ports.iter().map(|(key, port)| format!("--set={key}.listen={ip}:{port}")).collect()
}

#[test]
fn before_the_first_start_all_is_well_and_nothing_is_made() {
    let folder = tempfile::tempdir().expect("folder");
    let ports = ports();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let found = doctor(&ports, folder.path());
    assert_eq!(found.code, Some(0), "{}", found.shown());
    found.has_none(&["fault", "warning", "not checked"]);
    found.has("ports", "ok", &["storage.listen", "is free"]);
    found.has("disk", "note", &["does not exist yet"]);
    assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 0, "the doctor has made something");
    // People get the same as lines, with a summary.
    let shown = carillon(&[&["doctor"], &ports[..]].concat(), folder.path());
    let shown = text(&shown.stdout);
    assert!(shown.lines().any(|line| line.starts_with("ok ") && line.contains("is free")), "{shown}");
    assert!(shown.contains("0 faults, 0 warnings, 0 not checked"), "{shown}");
}

#[test]
fn what_is_wrong_is_told_and_what_was_not_checked_is_never_well() {
    let folder = tempfile::tempdir().expect("folder");
    let taken = TcpListener::bind((own_address(), 0)).expect("a port");
    let address = taken.local_addr().expect("bound");
    let secret = folder.path().join("secret");
    fs::write(&secret, format!("{CLUSTER_SECRET}\n")).expect("written");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).expect("changed");
    let config = folder.path().join("router.toml");
    let ip = address.ip();
    let lines = format!(
        "cluster.secret_file = {secret:?}\nadmin.listen = \"{ip}:7400\"\nrouter.listen = \"{address}\"\n\
         router.storage = [\"{ip}:9\", \"no-such-host.invalid:7401\"]\ndata_dir = {:?}\n",
        folder.path().join("data")
    );
    fs::write(&config, &lines).expect("written");
    let of_file = ["router", "--config", "router.toml"];
    let found = doctor(&of_file, folder.path());
    assert_eq!(found.code, Some(4), "{}", found.shown());
    found.has("files", "warning", &["cluster.secret_file", "every user"]);
    found.has("ports", "fault", &["router.listen", &format!("process {}", std::process::id())]);
    found.has("peers", "warning", &[":9 is not reached"]);
    found.has("peers", "warning", &["no-such-host.invalid:7401", "no address"]);
    found.has("peers", "fault", &["none of router.storage"]);
    found.has("clock", "not checked", &["no other node has answered"]);

    fs::write(&config, format!("{lines}gateway.lisen = 3\n")).expect("written");
    let found = doctor(&of_file, folder.path());
    assert_eq!(found.code, Some(4), "{}", found.shown());
    found.has("configuration", "fault", &["gateway.lisen"]);
    for check in ["files", "ports", "limits", "disk", "peers", "clock"] {
        found.has(check, "not checked", &["configuration can't be used"]);
    }
}

#[test]
fn a_canary_needs_a_password_and_no_token() {
    let folder = tempfile::tempdir().expect("folder");
    let password = folder.path().join("password");
    fs::write(&password, "of-both-accounts").expect("written");
    fs::set_permissions(&password, fs::Permissions::from_mode(0o604)).expect("changed");
    let set = |key: &str, value: &str| format!("--set={key}={value}");
    let admin = set("admin.listen", &format!("{}:7400", own_address()));
    let found =
        doctor(&["canary", &admin, &set("canary.password_file", password.to_str().expect("a name"))], folder.path());
    found.has("files", "ok", &["needs no token"]);
    found.has("files", "warning", &["canary.password_file", "every user"]);
    found.has("ports", "ok", &["admin.listen", "is free"]);
    assert!(!found.shown().contains("storage.listen"), "{}", found.shown());
}

#[test]
fn a_running_node_has_its_own_ports_and_folder() {
    let service = Service::shared();
    let found = |arguments: &[&str]| Found::of(&service.node.output(&[&["doctor", "--json"], arguments].concat()));
    let all = found(&[]);
    let pid = service.node.pid().to_string();
    all.has("configuration", "ok", &["the node runs", &pid, "storage+router+gateway"]);
    for key in ["admin", "storage", "router", "gateway.tcp", "gateway.ws", "gateway.grpc"] {
        all.has("ports", "ok", &[&format!("{key}.listen"), "is that of this node", &pid]);
    }
    all.has("disk", "ok", &["is that of storage node 1 of cluster", "level"]);
    all.has("disk", "ok", &["in use by this node", &pid]);
    all.has_none(&["fault", "not checked"]);
    // Another program at a port of the configuration.
    let other = TcpListener::bind((own_address(), 0)).expect("a port");
    let set = format!("router.listen={}", other.local_addr().expect("bound"));
    let wrong = found(&["--set", &set]);
    wrong.has("ports", "fault", &["router.listen", &format!("process {}", std::process::id())]);
    assert_eq!(wrong.code, Some(4));
}

#[test]
fn nodes_of_a_cluster_are_asked_with_the_token_of_the_tier() {
    let mut cluster = Cluster::start();
    let storage = cluster.storage_addresses();
    {
        let found = |node: &support::node::Node| Found::of(&node.output(&["doctor", "--json"]));
        let first = found(&cluster.storage[0]);
        first.has("peers", "ok", &[&storage[1], "takes the token", "of release"]);
        first.has("peers", "ok", &["3 nodes are of the same cluster"]);
        // On one machine, and over a connection that is open.
        let agrees = |found: &Found, peer: &str| {
            let within = found.text_of("clock", &[peer, "agrees with this one within"]);
            let seconds = within.rsplit("within ").next().and_then(|rest| rest.strip_suffix(" s")?.parse::<f64>().ok());
            assert!(seconds.is_some_and(|seconds| seconds < 0.25), "{within}");
        };
        agrees(&first, &storage[2]);
        assert!(!first.text_of("clock", &["time service"]).is_empty());
        first.has_none(&["fault", "not checked"]);
        let router = found(&cluster.routers[0]);
        router.has("peers", "ok", &["router.storage", &storage[0], "of release"]);
        router.has_none(&["fault", "not checked"]);
        let gateway = found(&cluster.gateways[0]);
        gateway.has("peers", "ok", &["gateway.routers", "takes the token"]);
        agrees(&gateway, &cluster.router_addresses()[0]);
        gateway.has_none(&["fault", "not checked"]);
        let operator = Found::of(&cluster.gateways[0].output(&["doctor", "operator", "--json"]));
        operator.has("peers", "ok", &["gateway.routers", "of release"]);
        assert!(!operator.shown().contains("ports"), "{}", operator.shown());
        let other = ["doctor", "--json", "--set", "cluster.secret=another-cluster-1"];
        let other = Found::of(&cluster.routers[0].output(&other));
        other.has("peers", "fault", &["router.storage", "refuses the router token"]);
        assert_eq!(other.code, Some(4));
    }
    cluster.storage[2].kill();
    let found = Found::of(&cluster.routers[0].output(&["doctor", "--json"]));
    found.has("peers", "warning", &[&storage[2], "is not reached"]);
    found.has("clock", "ok", &[&storage[1]]);
    assert_eq!(found.code, Some(3), "{}", found.shown());
    // The dead node's own doctor finds a folder that nobody has open.
    let dead = Found::of(&cluster.storage[2].output(&["doctor", "storage", "--json"]));
    dead.has("disk", "ok", &["is that of storage node 3"]);
    dead.has("disk", "ok", &["not in use"]);
    dead.has("ports", "ok", &["storage.listen", "is free"]);
}
