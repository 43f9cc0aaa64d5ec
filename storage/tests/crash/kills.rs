//! One node, killed again and again: while it writes, while it opens, while it makes a snapshot, while it purges its log.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use carillon_storage::StorageConfig;
use tokio::runtime::Runtime;

use crate::{
    Folder, Moments,
    ledger::Ledger,
    load::{Extent, Load, check},
    node::Node,
    rounds,
};

/// After this many rounds everything is read, and not only the new writes.
const WHOLE_EVERY: u64 = 20;
/// Rounds on one folder; a round takes longer, the more data there is.
const LIFE: u64 = 25;

/// A small log, so that it is purged behind snapshots all the time.
pub(crate) fn forgetful(config: &mut StorageConfig) {
    config.log_bytes = 1 << 16;
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime")
}

/// An address for this test alone.
pub(crate) fn address(host: u8) -> SocketAddr {
    let ip = IpAddr::V4(Ipv4Addr::new(127, 33, 1, host));
    TcpListener::bind((ip, 0)).and_then(|listener| listener.local_addr()).expect("binds")
}

#[test]
fn kills_while_writing_lose_nothing() {
    let (folder, runtime, mut moments) = (Folder::new("kills"), runtime(), Moments::new());
    let mut node = Node::new(folder.0.join("node"), address(1), forgetful);
    let mut ledger = Ledger::new(6, moments.next(), 600);
    for round in 1..=rounds(5) {
        node.start();
        node.wait_ready();
        verify(&runtime, &node, &ledger, round);
        let load = Load::start(&runtime, node.address(), ledger);
        load.wait_for(50);
        thread::sleep(moments.below(Duration::from_millis(300)));
        node.kill();
        ledger = load.stop(&runtime);
    }
    finish(&runtime, node, &ledger);
}

#[test]
fn kills_while_opening_lose_nothing() {
    let (folder, runtime, mut moments) = (Folder::new("opening"), runtime(), Moments::new());
    let mut node = Node::new(folder.0.join("node"), address(2), forgetful);
    let mut ledger = Ledger::new(6, moments.next(), 600);
    let mut before_ready = 0;
    for round in 1..=rounds(4) {
        node.start();
        let opening = node.wait_ready();
        verify(&runtime, &node, &ledger, round);
        let load = Load::start(&runtime, node.address(), ledger);
        load.wait_for(200);
        node.kill();
        ledger = load.stop(&runtime);
        // Each start finds the incomplete work of the one before.
        for _ in 0..3 {
            node.start();
            thread::sleep(moments.below(opening));
            before_ready += u64::from(!node.kill());
        }
    }
    println!("{before_ready} kills before the node was ready");
    assert!(before_ready > 0, "no kill struck while it opened");
    finish(&runtime, node, &ledger);
}

#[test]
fn kills_during_a_snapshot_lose_nothing() {
    let (runtime, mut moments, mut left) = (runtime(), Moments::new(), rounds(4));
    // The longer a node has lived, the more has to be written until its next snapshot, and to be read at the end.
    while left > 0 {
        let rounds = left.min(LIFE);
        kill_during_snapshots(&runtime, &mut moments, rounds);
        left -= rounds;
    }
}

fn kill_during_snapshots(runtime: &Runtime, moments: &mut Moments, rounds: u64) {
    let folder = Folder::new("snapshot");
    let mut node = Node::new(folder.0.join("node"), address(3), forgetful);
    let snapshots = node.config.data_dir.join("snapshots");
    let mut ledger = Ledger::new(6, moments.next(), 4000);
    let (mut half_done, mut round) = (0, 0);
    while round < rounds || half_done == 0 {
        round += 1;
        assert!(round <= rounds + 20, "no kill struck within the making of a snapshot");
        node.start();
        node.wait_ready();
        verify(runtime, &node, &ledger, round);
        let load = Load::start(runtime, node.address(), ledger);
        // The snapshot is noticed when its file appears; then the file grows, is synced and renamed, and the log is
        // purged.
        watch("a snapshot", || names(&snapshots).iter().any(is_temporary));
        thread::sleep(moments.below(Duration::from_millis(10)));
        node.kill();
        half_done += u64::from(names(&snapshots).iter().any(is_temporary));
        ledger = load.stop(runtime);
    }
    println!("{half_done} of {round} kills left a half-made snapshot");
    finish(runtime, node, &ledger);
}

#[test]
#[ignore = "it takes a while until the first file goes: run .ci/crash purge"]
fn kills_while_log_files_are_given_back_lose_nothing() {
    let (folder, runtime, mut moments) = (Folder::new("purge"), runtime(), Moments::new());
    let mut node = Node::new(folder.0.join("node"), address(4), forgetful);
    let log = node.config.data_dir.join("log");
    let mut ledger = Ledger::new(6, moments.next(), 6000);
    for round in 1..=rounds(2) {
        node.start();
        node.wait_ready();
        verify(&runtime, &node, &ledger, round);
        let load = Load::start(&runtime, node.address(), ledger);
        // The files are deleted one by one; the first deletion is the moment.
        let mut known = BTreeSet::new();
        watch("a file of the log to go", || {
            let now = names(&log);
            let gone = known.difference(&now).next().is_some();
            known = now;
            gone
        });
        thread::sleep(moments.below(Duration::from_millis(2)));
        node.kill();
        ledger = load.stop(&runtime);
    }
    finish(&runtime, node, &ledger);
}

fn verify(runtime: &Runtime, node: &Node, ledger: &Ledger, round: u64) {
    let extent = if round.is_multiple_of(WHOLE_EVERY) { Extent::Whole } else { Extent::Recent };
    runtime.block_on(check(&[node.address()], ledger, extent));
}

fn finish(runtime: &Runtime, mut node: Node, ledger: &Ledger) {
    node.start();
    node.wait_ready();
    runtime.block_on(check(&[node.address()], ledger, Extent::Whole));
    node.stop_in_order();
    println!("{} writes acknowledged, all there", ledger.acknowledged());
    assert!(ledger.acknowledged() > 0, "nothing was written");
}

/// Looks as often as possible, because the event is short.
pub(crate) fn watch(what: &str, mut seen: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !seen() {
        assert!(begun.elapsed() < Duration::from_secs(60), "never: {what}");
        thread::sleep(Duration::from_micros(200));
    }
}

/// `None` if the folder does not exist yet.
pub(crate) fn names(folder: &Path) -> BTreeSet<OsString> {
    let Ok(found) = fs::read_dir(folder) else { return BTreeSet::new() };
    found.filter_map(|found| found.ok().map(|found| found.file_name())).collect()
}

pub(crate) fn is_temporary(name: &OsString) -> bool {
    name.to_str().is_some_and(|name| [".tmp-", ".part-"].iter().any(|mark| name.contains(mark)))
}
