//! The log of what goes well: a healthy start and an orderly stop write no warning.

mod support;

use support::{cluster::Cluster, node::Node};

/// The lines that want somebody.
fn warnings(node: &Node) -> Vec<String> {
    let log = node.log();
    let is_bad = |line: &&str| [" WARN ", " ERROR "].iter().any(|level| line.contains(level));
    log.lines().filter(is_bad).map(str::to_owned).collect()
}

fn assert_quiet(cluster: &mut Cluster, when: &str) {
    for node in cluster.nodes() {
        let warnings = warnings(node);
        let first = &warnings[..warnings.len().min(5)];
        assert!(warnings.is_empty(), "{when}, {} warnings, the first are {first:#?}", warnings.len());
    }
}

#[test]
fn a_start_and_a_stop_in_order_write_no_warning() {
    let mut cluster = Cluster::start();
    assert_quiet(&mut cluster, "after the start");
    for node in cluster.gateways.iter_mut().chain(&mut cluster.routers).chain(&mut cluster.storage) {
        node.terminate();
    }
    assert_quiet(&mut cluster, "after the stop of one process after the other");
}

#[test]
fn a_restart_of_each_process_writes_no_warning_anywhere() {
    let mut cluster = Cluster::start();
    let count = cluster.nodes().count();
    for at in 0..count {
        let node = cluster.nodes().nth(at).expect("is there");
        node.terminate();
        node.start_again();
        node.wait_ready();
    }
    assert_quiet(&mut cluster, "after restarts");
}

#[test]
fn a_stop_of_all_at_once_writes_no_warning() {
    let mut cluster = Cluster::start();
    cluster.nodes().for_each(|node| node.signal("TERM"));
    for node in cluster.nodes() {
        assert!(node.wait_end(), "it stops in order");
    }
    assert_quiet(&mut cluster, "after the stop of all at once");
}
