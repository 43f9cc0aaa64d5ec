//! `carillon debug bundle`: whole, also when a node is dead, and without secrets and messages.

mod support;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use support::{
    cluster::Cluster,
    command::text,
    node::{Node, get},
    service::{CLUSTER_SECRET, Service, TOKEN_SECRET},
};

/// The text of a user's message.
const WORDS: &str = "marker-of-a-private-message";
const PASSWORD: &str = "marker-of-a-password";

/// An unpacked bundle.
struct Unpacked {
    code: Option<i32>,
    told: String,
    folder: PathBuf,
    /// Dropped last.
    _above: tempfile::TempDir,
}

impl Unpacked {
    fn make(node: &Node) -> Self {
        Self::make_with(node, &[])
    }

    fn make_with(node: &Node, arguments: &[&str]) -> Self {
        let above = tempfile::tempdir().expect("folder");
        let file = above.path().join("bundle.tar.gz");
        let command = ["debug", "bundle", "--out", file.to_str().expect("a name")];
        let output = node.output(&[&command, arguments].concat());
        let told = said(&output);
        assert!(file.exists(), "{told}");
        let done = Command::new("tar").arg("xzf").arg(&file).current_dir(above.path()).status().expect("tar runs");
        assert!(done.success());
        let mut folders = fs::read_dir(above.path()).expect("folder").map(|entry| entry.expect("entry").path());
        let folder = folders.find(|path| path.is_dir()).expect("one folder");
        Self { code: output.status.code(), told, folder, _above: above }
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}; {}", self.told))
    }

    fn bundle(&self) -> Value {
        serde_json::from_str(&self.text("bundle.json")).expect("JSON")
    }

    /// The files of all nodes that have told something, by kind.
    fn nodes(&self, kind: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.join("nodes")).expect("folder");
        let mut nodes: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
        nodes.retain(|path| path.file_name().expect("a name").to_str().expect("a name").starts_with(kind));
        nodes.sort();
        nodes
    }

    /// All files with their names.
    fn all(&self) -> Vec<(PathBuf, String)> {
        let mut all = Vec::new();
        collect(&self.folder, &mut all);
        all
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

fn collect(folder: &Path, all: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        match path.is_dir() {
            true => collect(&path, all),
            false => all.push((path.clone(), fs::read_to_string(&path).expect("a text"))),
        }
    }
}

#[test]
fn a_bundle_is_made_with_a_dead_node_and_has_neither_secrets_nor_messages() {
    let mut cluster = Cluster::start();
    let gateway = &cluster.gateways[0];
    add_user("walburga", &cluster.config("router-0"));
    let token = cluster.token("walburga");
    let sent = gateway.output(&["send", "walburga", "walburga", WORDS, "--token", &token]);
    assert!(sent.status.success(), "{}", said(&sent));
    // Warnings about users: a sign-in that fails.
    let refused = gateway.output(&["send", "walburga", "walburga", "x", "--token", &format!("{token}x")]);
    assert!(!refused.status.success(), "{}", said(&refused));

    let whole = Unpacked::make(&cluster.routers[0]);
    assert_eq!(whole.code, Some(0), "{}", whole.told);
    for (kind, count) in [("storage", 3), ("router", 2), ("gateway", 2)] {
        assert_eq!(whole.nodes(kind).len(), count, "{kind} in {}", whole.bundle());
    }
    let told: Vec<_> =
        whole.nodes("").iter().map(|node| fs::read_to_string(node.join("metrics.txt")).expect("there")).collect();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("a host");
    let nodes = whole.bundle()["nodes"].as_array().expect("a list").clone();
    for node in &nodes {
        let (name, folder) = (node["node"].as_str().expect("a name"), node["folder"].as_str().expect("a folder"));
        assert_eq!((node["host"].as_str(), folder), (Some(host.trim()), &*format!("nodes/{name}-{}", host.trim())));
        assert!(whole.folder.join(folder).join("metrics.txt").exists(), "{folder}");
    }
    assert!(told.iter().all(|metrics| metrics.contains("carillon_node_build_info")));
    assert!(whole.text("shards.txt").lines().filter(|line| line.starts_with("timeline-0 ")).count() == 3);
    assert!(whole.text("status.txt").contains("gateway") && whole.text("cluster-status.txt").contains("settled"));
    assert!(whole.text("doctor.txt").contains("ports") && whole.text("README.txt").contains("Not in it:"));
    let logs: String =
        whole.nodes("gateway").iter().map(|node| fs::read_to_string(node.join("log.txt")).expect("there")).collect();
    assert!(logs.contains("sign-in failed") && logs.contains("user=#"), "{logs}");
    let config = fs::read_to_string(whole.nodes("gateway")[0].join("configuration.toml")).expect("there");
    assert!(config.contains("routers = ") && config.contains("[secret]"), "{config}");
    nothing_private(&whole, &token);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(whole.folder.join("bundle.json")).expect("there").permissions(),
    );
    assert_eq!(mode & 0o077, 0, "others can read it");

    // A canary tells whether it is well, also before it is.
    let mut canary = cluster.canary("canary.interval_ms = 250\n");
    canary.wait_ready();
    let at = canary.admin.to_string();
    let gateway = cluster.gateways[1].admin.to_string();
    let with = Unpacked::make_with(&cluster.routers[0], &["--canary", &at, "--canary", &gateway]);
    assert_eq!(with.code, Some(3), "a gateway is no canary: {}", with.told);
    let canaries = &with.bundle()["canaries"];
    assert_eq!((&canaries[0]["address"], &canaries[0]["ready"]), (&at.clone().into(), &true.into()), "{canaries}");
    assert!(canaries[1]["error"].as_str().is_some_and(|why| why.contains("no canary")), "{canaries}");
    let folder = format!("canaries/{}", at.replace(':', "_"));
    assert!(with.text(&format!("{folder}/metrics.txt")).contains("carillon_canary_rounds_total"));
    assert_eq!(with.text(&format!("{folder}/readyz.txt")).trim(), "ready");
    nothing_private(&with, &token);
    // Beside a canary, it need not be named.
    let beside = Unpacked::make(&canary);
    assert_eq!(beside.bundle()["canaries"][0]["address"], *at, "{}", beside.told);
    canary.terminate();

    cluster.storage[2].kill();
    cluster.routers[1].kill();
    let without = Unpacked::make(&cluster.gateways[0]);
    assert_eq!(without.code, Some(3), "{}", without.told);
    let dead = &cluster.storage_addresses()[2];
    let nodes = without.bundle()["nodes"].as_array().expect("a list").clone();
    let error =
        nodes.iter().find(|node| node["address"] == **dead).map(|node| node["error"].to_string()).expect("is named");
    assert!(error.contains("refused"), "{error}");
    assert!(without.text("README.txt").contains(dead) && without.told.contains(dead), "{}", without.told);
    assert_eq!((without.nodes("storage").len(), without.nodes("gateway").len()), (2, 2), "{nodes:?}");
    nothing_private(&without, &token);
}

fn add_user(name: &str, config: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.args(["user", "add", name, "--password-stdin", "--config"]).arg(config);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("the program starts");
    child.stdin.take().expect("piped").write_all(PASSWORD.as_bytes()).expect("written");
    assert!(child.wait().expect("ends").success());
}

fn nothing_private(bundle: &Unpacked, token: &str) {
    let parts: Vec<&str> = token.split('.').collect();
    for (path, text) in bundle.all() {
        for private in [WORDS, PASSWORD, CLUSTER_SECRET, TOKEN_SECRET, token, parts[2], "walburga"] {
            assert!(!text.contains(private), "{private} is in {}", path.display());
        }
    }
}

#[test]
fn nodes_of_one_process_are_told_once() {
    let service = Service::shared();
    let bundle = Unpacked::make(&service.node);
    assert_eq!(bundle.code, Some(0), "{}", bundle.told);
    assert_eq!(bundle.nodes("").len(), 1, "{}", bundle.bundle());
    let nodes = bundle.bundle()["nodes"].as_array().expect("a list").clone();
    assert_eq!(nodes.iter().filter(|node| node["same_process_as"] == "storage-1").count(), 2, "{nodes:?}");
    // Pages for the operator alone are not for everybody who reaches the admin listener.
    for path in ["/configuration", "/log", "/debug", "/describe"] {
        assert!(get(service.node.admin, path).is_some_and(|answer| answer.starts_with("HTTP/1.1 404")), "{path}");
    }
    // The file of an earlier bundle stays.
    let taken = bundle.folder.join("bundle.json");
    let refused = service.node.output(&["debug", "bundle", "--out", taken.to_str().expect("a name")]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(bundle.text("bundle.json").contains("nodes"));
}

#[test]
fn without_any_cluster_a_bundle_has_the_doctor() {
    let folder = tempfile::tempdir().expect("folder");
    let output = support::command::carillon(
        &["debug", "bundle", "--out", "x.tar.gz", "--set", "gateway.lisen=1"],
        folder.path(),
    );
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let listed = Command::new("tar").args(["tzf", "x.tar.gz"]).current_dir(folder.path()).output().expect("tar runs");
    let listed = text(&listed.stdout);
    for name in ["doctor.txt", "machine.txt", "README.txt", "bundle.json"] {
        assert!(listed.contains(name), "{listed}");
    }
    // The bundle goes to a pipe, as from a container without a place for files.
    let output =
        support::command::carillon(&["debug", "bundle", "--out", "-", "--set", "gateway.lisen=1"], folder.path());
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    fs::write(folder.path().join("piped.tar.gz"), &output.stdout).expect("written");
    let piped =
        Command::new("tar").args(["tzf", "piped.tar.gz"]).current_dir(folder.path()).output().expect("tar runs");
    assert!(piped.status.success() && text(&piped.stdout).contains("doctor.txt"), "{}", text(&piped.stderr));
}
