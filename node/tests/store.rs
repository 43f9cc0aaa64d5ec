//! The store after crashes and damage, as the built program.

mod support;

use std::{fs, time::Duration};

use carillon_client::Address;
use carillon_loadtest::{
    direct::{Direct, DirectConfig, SlowReaders},
    payload::Filling,
};
use carillon_proto::tasks::Tasks;
use support::{
    cluster::Cluster,
    node::{Node, own_address, until},
    service::{CLUSTER_SECRET, Carrier, Service, TOKEN_SECRET},
};

/// The exit code of a node whose data is damaged.
const DAMAGED: i32 = 65;

/// Users who send as fast as they get answers.
fn writers(run: &str, addresses: Vec<Address>) -> DirectConfig {
    DirectConfig {
        run: run.to_owned(),
        addresses,
        users: 4,
        devices: 1,
        rate: None,
        window: 32,
        bytes: 200,
        filling: Filling::Repeated,
        send_timeout: Duration::from_secs(60),
        slow_readers: SlowReaders::default(),
    }
}

async fn start(config: DirectConfig, tasks: &Tasks) -> Direct {
    let token = |user: &str| carillon_loadtest::token::sign(TOKEN_SECRET, user);
    Direct::start(config, token, tasks).await.expect("load starts")
}

/// Ends the load, and fails if anything was lost, doubled or reordered. Returns the number of accepted messages.
async fn finish(run: Direct, tasks: Tasks) -> u64 {
    let report = run.finish(Duration::from_secs(60)).await;
    tasks.finish(Duration::from_secs(5)).await;
    let wrong = report.wrong();
    assert!(wrong.is_empty(), "{} are wrong, among them {:#?}", wrong.len(), wrong.iter().take(10).collect::<Vec<_>>());
    report.summary.accepted
}

#[test]
fn kill_9_in_a_loop_while_writing_loses_and_doubles_nothing() {
    let mut service = Service::start("");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let tasks = Tasks::new();
        let run = start(writers("crash", vec![service.address(Carrier::Tcp)]), &tasks).await;
        for round in 0..8 {
            let before = run.accepted();
            until("the load to go on", Duration::from_secs(60), || run.accepted() > before + 300 + 37 * round);
            service.node.kill();
            service.node.start_again();
            service.node.wait_ready();
        }
        assert!(finish(run, tasks).await > 2400);
    });
}

#[test]
fn an_empty_disk_comes_back_only_as_another_node_that_replaces_the_old_one() {
    let mut cluster = Cluster::start();
    cluster.storage[2].terminate();
    fs::remove_dir_all(cluster.data("storage-2")).expect("removed");
    cluster.storage[2].start_again();
    let command = "carillon cluster replace ";
    until("it to say what it waits for", Duration::from_secs(60), || cluster.storage[2].log().contains(command));
    let again = ["cluster", "init", "--if-not-exists", "--timeout", "2"];
    let refused = cluster.storage[0].command(&again).expect_err("one of them is not of the cluster");
    assert!(refused.contains("has no place in the cluster"), "{refused}");
    let log = cluster.storage[2].log();
    let told = log.split(command).nth(1).and_then(|rest| rest.split('`').next()).expect("a command");
    let (number, address) = told.split_once(' ').expect("two words");
    let replace = ["cluster", "replace", number, address, "--wait", "60"];
    let replaced = cluster.storage[0].command(&replace).expect("it takes the place");
    assert!(replaced.contains("is storage node 4") && replaced.ends_with("done\n"), "{replaced}");
    cluster.storage[2].wait_ready();
    let status = cluster.storage[2].command(&["cluster", "status"]).expect("it knows");
    assert!(!status.contains("lost"), "{status}");
}

#[test]
fn storage_nodes_of_two_clusters_are_never_taken_for_one() {
    let folder = tempfile::tempdir().expect("folder");
    let ip = own_address();
    let nodes = [1u16, 2].map(|number| {
        let (admin, storage) = (format!("{ip}:74{number}0"), format!("{ip}:74{number}1"));
        let config = format!(
            "data_dir = \"{number}\"\nadmin.listen = {admin:?}\nstorage.listen = {storage:?}\ncluster.secret = {CLUSTER_SECRET:?}\n\
             storage.directory_shards = 1\nstorage.timeline_shards = 1\n"
        );
        let admin = admin.parse().expect("an address");
        (Node::start(folder.path(), &format!("storage-{number}"), "storage", admin, &config), storage)
    });
    for (node, _) in &nodes {
        node.command(&["cluster", "init"]).expect("a cluster of its own");
    }
    let [(first, one), (_, two)] = &nodes;
    let both = ["cluster", "init", "--if-not-exists", "--member", one, "--member", two];
    let refused = first.command(&both).expect_err("they are two clusters");
    assert!(refused.contains(two.as_str()) && refused.contains("is of cluster"), "{refused}");
    let alone = ["cluster", "init", "--if-not-exists", "--member", one];
    first.command(&alone).expect("the first cluster is as it was");
}

#[test]
fn a_storage_node_at_another_port_is_part_of_the_cluster_again() {
    let mut cluster = Cluster::start();
    let again = cluster.storage[1].command(&["cluster", "init"]).expect_err("it is made once");
    assert!(again.contains("made already"), "{again}");
    let again = cluster.storage[1].command(&["cluster", "init", "--if-not-exists"]).expect("it is there");
    assert!(again.contains("nothing is changed"), "{again}");

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let tasks = Tasks::new();
        let config = DirectConfig { rate: Some(200.0), ..writers("moved", cluster.addresses.clone()) };
        let run = start(config, &tasks).await;
        let more = |what: &str| {
            let before = run.accepted();
            until(what, Duration::from_secs(60), || run.accepted() > before + 300);
        };
        more("the load to begin");
        cluster.storage[2].terminate();
        more("the load to go on without the node");
        // The first address in the file is the listener's; the list of members keeps the old address.
        cluster.storage[2].change_config(|text| text.replacen(":7502\"", ":7509\"", 1));
        cluster.storage[2].start_again();
        cluster.storage[2].wait_ready();
        until("the registry to know where it is", Duration::from_secs(60), || {
            let status = cluster.routers[0].command(&["status"]).expect("the cluster answers");
            status.contains(":7509") && !status.contains(":7502")
        });
        // Now the moved node is needed: with the remaining one, it is the majority.
        cluster.storage[0].kill();
        more("the load to go on with the node that has moved");
        cluster.storage[0].start_again();
        cluster.storage[0].wait_ready();
        finish(run, tasks).await;
    });
}

#[test]
fn a_damaged_identity_is_refused_with_what_to_do() {
    let mut service = Service::start("");
    service.node.terminate();
    let identity = service.data().join("storage/identity");
    let mut bytes = fs::read(&identity).expect("identity");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&identity, bytes).expect("written");
    service.node.start_again();
    assert_eq!(service.node.wait_code(), Some(DAMAGED), "it must refuse to start");
    let log = service.node.log();
    assert!(log.contains("storage/identity is damaged") && log.contains("carillon repair"), "{log}");
}

#[test]
fn a_damaged_log_is_refused_and_never_served() {
    let mut service = Service::start("");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let tasks = Tasks::new();
        let run = start(writers("damage", vec![service.address(Carrier::Tcp)]), &tasks).await;
        until("some messages", Duration::from_secs(60), || run.accepted() > 500);
        finish(run, tasks).await;
    });
    service.node.kill();
    let log = service.data().join("storage/log");
    let file = fs::read_dir(&log)
        .expect("log folder")
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "raftlog"))
        .max_by_key(|path| path.metadata().map_or(0, |meta| meta.len()))
        .expect("a log file");
    let sound = fs::read(&file).expect("log");
    // Bytes in the middle of the log, far from its end: headers, indexes and entries.
    for offset in [300, 4096, 20_011, 60_002] {
        let mut damaged = sound.clone();
        damaged[offset] ^= 0x10;
        fs::write(&file, damaged).expect("written");
        service.node.start_again();
        assert_eq!(service.node.wait_code(), Some(DAMAGED), "it must refuse to start: byte {offset}");
        assert!(service.node.log().contains("raft log is damaged"), "{}", service.node.log());
        let told = service.node.command(&["repair"]).expect_err("no other node has the data");
        assert!(told.contains("raft log is damaged") && told.contains("backup"), "{told}");
        // Opening may have truncated the file.
        fs::write(&file, &sound).expect("written");
        service.node.start_again();
        assert_eq!(service.node.wait_code(), Some(DAMAGED), "nobody has looked whether it is whole now");
        let told = service.node.command(&["repair"]).expect("it is whole");
        assert!(told.contains("nothing is damaged"), "{told}");
    }
    service.node.start_again();
    service.node.wait_ready();
}

#[test]
fn two_processes_never_share_a_data_folder() {
    let service = Service::start("");
    let mut second = service.twin();
    assert!(!second.wait_end(), "it must refuse to start");
    assert!(second.log().contains("in use") || second.log().contains("lock"), "{}", second.log());
    assert!(service.node.is_ready());
}
