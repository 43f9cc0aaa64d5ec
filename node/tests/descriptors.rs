//! The process runs out of file descriptors: clients wait, the store and the operator do not.

mod support;

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use carillon_client::{Client, ClientConfig, Credential};
use carillon_proto::tasks::Tasks;
use support::{
    node::until,
    service::{Carrier, Service},
};

const SILENT: usize = 1100;

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn silent_clients_leave_the_store_its_files_and_the_operator_an_answer() {
    let service =
        Service::start_with_open_files("storage.log_bytes = 65536\ngateway.sign_in_timeout_ms = 600000", Some(1024));
    let snapshots = service.data().join("storage/snapshots");
    service.block_on(async {
        let tasks = Tasks::new();
        let token = Credential::Token(service.token("writer"));
        let config = ClientConfig::new(vec![service.address(Carrier::Tcp)], "writer", "d", token);
        let (writer, _events) = Client::open(config, &tasks).expect("opens");
        writer.connected(Duration::from_secs(60)).await.expect("signs in");

        // Some of the connections are refused; this test is about other things.
        let targets = [service.tcp(), service.ws(), service.grpc(), service.storage(), service.router()];
        let silent: Vec<_> = targets.iter().cycle().take(SILENT).filter_map(|to| TcpStream::connect(to).ok()).collect();
        let before = files(&snapshots);
        // Each message is an entry of its own, because each waits for the one before.
        let end = Instant::now() + Duration::from_secs(120);
        while files(&snapshots).iter().all(|file| before.contains(file)) {
            assert!(Instant::now() < end, "no snapshot was written");
            writer.send(Client::user("writer"), Client::text("note")).await.expect("accepted");
        }
        assert!(service.node.is_ready(), "the operator has no answer");
        assert!(silent.len() > 1000, "{} connections were there", silent.len());
        tasks.finish(Duration::from_secs(5)).await;
    });
    let log = service.node.log();
    assert!(log.contains("gateway.max_connections is lowered"), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}

/// The table of the whole process is full, for any reason: here because the limit was lowered while the process ran.
#[test]
fn a_full_table_is_waited_out_without_a_flood_in_the_log() {
    let service = Service::start("gateway.sign_in_timeout_ms = 600000");
    let pid = service.node.pid().to_string();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count();
    let prlimit = |limit: &str| {
        let done = std::process::Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={limit}")]).status();
        assert!(done.expect("prlimit runs").success());
    };
    prlimit(&format!("{}:", open + 2));
    let held: Vec<_> = [service.tcp(), service.ws(), service.grpc(), service.storage(), service.router()]
        .iter()
        .flat_map(|to| (0..5).filter_map(move |_| TcpStream::connect(to).ok()))
        .collect();
    until("the log says it", Duration::from_secs(30), || service.node.log().contains("can't accept connections"));
    // Each listener retries ten times a second meanwhile.
    std::thread::sleep(Duration::from_secs(3));
    let lines = service.node.log().lines().filter(|line| line.contains("can't accept connections")).count();
    assert!(lines <= 6, "{lines} lines");
    drop(held);
    prlimit("4096:");
    until("it goes on", Duration::from_secs(30), || service.node.is_ready());
    service.block_on(async {
        let tasks = Tasks::new();
        let token = Credential::Token(service.token("later"));
        let config = ClientConfig::new(vec![service.address(Carrier::Tcp)], "later", "d", token);
        let (later, _events) = Client::open(config, &tasks).expect("opens");
        later.connected(Duration::from_secs(60)).await.expect("signs in");
        tasks.finish(Duration::from_secs(5)).await;
    });
}
