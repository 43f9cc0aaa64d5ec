//! One process grows to three storage nodes, as docs/operations.md says it, while messages are sent and checked.

mod support;

use std::{fs, path::Path, time::Duration};

use carillon_loadtest::{
    direct::{Direct, DirectConfig, SlowReaders},
    payload::Filling,
    token,
};
use carillon_proto::tasks::Tasks;
use serde_json::Value;
use support::node::{Node, own_address, until};

/// Messages that must be accepted, and delivered, between two events.
const PROGRESS: u64 = 150;
const PATIENCE: Duration = Duration::from_secs(120);

fn goes_on(load: &Direct, when: &str) {
    let (accepted, delivered) = (load.accepted(), load.delivered());
    until(&format!("the load goes on {when}"), PATIENCE, || {
        load.accepted() >= accepted + PROGRESS && load.delivered() >= delivered + PROGRESS
    });
}

/// Storage nodes, and the number of shards that each has a replica of.
fn replicas(status: &Value) -> Vec<(u64, usize)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let on = |node: &Value| {
        let has =
            |shard: &&Value| list(&shard["replicas"]).iter().any(|it| it["node"] == *node && it["state"] == "votes");
        list(&status["shards"]).iter().filter(has).count()
    };
    list(&status["nodes"]).iter().map(|node| (node["node"].as_u64().expect("a number"), on(&node["node"]))).collect()
}

/// A process of one role, with the secrets that the first one has made.
fn node(folder: &Path, name: &str, role: &'static str, port: u16, more: &str) -> Node {
    let admin = format!("{}:{port}", own_address());
    let config = format!(
        "{more}\ndata_dir = {name:?}\ncluster.secret_file = \"data/secrets/cluster\"\nadmin.listen = {admin:?}\n"
    );
    Node::start(folder, name, role, admin.parse().expect("an address"), &config)
}

#[test]
fn one_process_becomes_three_storage_nodes_while_messages_are_sent() {
    let folder = tempfile::tempdir().expect("folder");
    let folder = folder.path();
    let ip = own_address();
    let at = |port: u16| format!("{ip}:{port}");
    // As the README starts it: it makes its secrets and its cluster itself. Addresses are of this test, and there are few shards, so
    // that it is short.
    let config = format!(
        "admin.listen = {:?}\nstorage.listen = {:?}\nrouter.listen = {:?}\nrouter.storage = [{:?}]\ngateway.routers = [{:?}]\n\
         gateway.tcp.listen = {:?}\ngateway.ws.listen = {:?}\ngateway.grpc.listen = {:?}\nstorage.timeline_shards = 4\n",
        at(7400),
        at(7401),
        at(7402),
        at(7401),
        at(7402),
        at(7410),
        at(7411),
        at(7412),
    );
    let mut first = Node::start(folder, "first", "all", at(7400).parse().expect("an address"), &config);
    first.wait_ready();

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    let tasks = runtime.block_on(async { Tasks::new() });
    let secret = fs::read_to_string(folder.join("data/secrets/token")).expect("the secret of tokens");
    let addresses = [format!("tcp://{}", at(7410)), format!("ws://{}/ws", at(7511))];
    let load = DirectConfig {
        run: "growth".to_owned(),
        addresses: addresses.iter().map(|url| url.parse().expect("an address")).collect(),
        users: 8,
        devices: 2,
        rate: Some(10.0),
        window: 64,
        bytes: 256,
        filling: Filling::Repeated,
        send_timeout: Duration::from_secs(60),
        slow_readers: SlowReaders::default(),
    };
    let load = runtime.block_on(Direct::start(load, |user| token::sign(secret.trim(), user), &tasks)).expect("starts");
    goes_on(&load, "in one process");

    // Two storage nodes with empty folders become two of the cluster.
    let mut others: Vec<Node> = [7501, 7601]
        .map(|port| {
            let more = format!("storage.listen = {:?}\nstorage.members = [{:?}]\n", at(port), at(7401));
            node(folder, &format!("storage-{port}"), "storage", port + 100, &more)
        })
        .into();
    for (other, port) in others.iter().zip([7501, 7601]) {
        until("the new node says what it waits for", PATIENCE, || {
            support::node::get(other.admin, "/readyz").is_some_and(|said| said.contains("carillon cluster add"))
        });
        let said = first.command(&["cluster", "add", &at(port)]).expect("is added");
        assert!(said.contains("is storage node"), "{said}");
    }
    goes_on(&load, "while replicas move");
    first.command(&["cluster", "rebalance", "--wait", "120"]).expect("three nodes have three replicas of each shard");
    let status = first.command(&["cluster", "status", "--json"]).expect("a status");
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["left"], Value::Null, "{status}");
    let shards = status["shards"].as_array().map_or(0, Vec::len);
    assert_eq!(replicas(&status), [(1, shards), (2, shards), (3, shards)], "{status}");
    others.iter_mut().for_each(Node::wait_ready);

    // A router and a gateway outside the first process, and the new storage nodes in its configuration for the next start.
    let storage = format!("[{:?}, {:?}, {:?}]", at(7401), at(7501), at(7601));
    let more = format!("router.listen = {:?}\nrouter.storage = {storage}\n", at(7502));
    let mut router = node(folder, "router", "router", 7602, &more);
    router.wait_ready();
    let more = format!(
        "gateway.routers = [{:?}, {:?}]\ngateway.tcp.listen = {:?}\ngateway.ws.listen = {:?}\ngateway.grpc.listen = {:?}\n\
         gateway.jwt.keys = [{{ algorithm = \"HS256\", secret_file = \"data/secrets/token\" }}]\n",
        at(7502),
        at(7402),
        at(7510),
        at(7511),
        at(7512),
    );
    let mut gateway = node(folder, "gateway", "gateway", 7603, &more);
    gateway.wait_ready();
    first.change_config(|config| {
        config.replace(&format!("router.storage = [{:?}]", at(7401)), &format!("router.storage = {storage}"))
            + &format!("storage.members = {storage}\n")
    });
    goes_on(&load, "with another gateway");

    first.terminate();
    goes_on(&load, "without the first process");
    first.start_again();
    first.wait_ready();
    goes_on(&load, "after the first process came back");
    others[0].kill();
    goes_on(&load, "with the first node and the third");
    others[0].start_again();
    others[0].wait_ready();

    let report = runtime.block_on(load.finish(PATIENCE));
    runtime.block_on(tasks.finish(Duration::from_secs(10)));
    println!("{:?}, slowest acceptance {} ms", report.summary, report.latencies.max() / 1000);
    assert!(report.summary.accepted >= 6 * PROGRESS, "{:?}", report.summary);
    let wrong = report.wrong();
    assert!(wrong.is_empty(), "{} are wrong, among them {:#?}", wrong.len(), wrong.iter().take(10).collect::<Vec<_>>());
}
