//! A cluster under a steady load while its nodes are killed with SIGKILL and started again: every accepted message
//! comes to each device once and in order, and the load continues.

mod support;

use std::time::{Duration, Instant};

use carillon_loadtest::{
    direct::{Direct, DirectConfig, SlowReaders},
    payload::Filling,
};
use carillon_proto::tasks::Tasks;
use support::cluster::Cluster;

/// Messages that must be accepted between two events.
const PROGRESS: u64 = 200;

struct Load {
    tasks: Tasks,
    run: Direct,
}

impl Load {
    async fn start(cluster: &Cluster, name: &str) -> Self {
        let tasks = Tasks::new();
        let config = DirectConfig {
            run: name.to_owned(),
            addresses: cluster.addresses.clone(),
            users: 8,
            devices: 2,
            rate: Some(20.0),
            window: 64,
            bytes: 256,
            filling: Filling::Repeated,
            send_timeout: Duration::from_secs(60),
            slow_readers: SlowReaders::default(),
        };
        let run = Direct::start(config, |user| cluster.token(user), &tasks).await.expect("load starts");
        let load = Self { tasks, run };
        load.goes_on("at the start").await;
        load
    }

    /// Waits until more messages have been accepted and delivered.
    async fn goes_on(&self, when: &str) {
        let (accepted, delivered) = (self.run.accepted(), self.run.delivered());
        let began = Instant::now();
        while self.run.accepted() < accepted + PROGRESS || self.run.delivered() < delivered + PROGRESS {
            assert!(began.elapsed() < Duration::from_secs(60), "the load stands still {when}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn finish(self) {
        let report = self.run.finish(Duration::from_secs(60)).await;
        self.tasks.finish(Duration::from_secs(10)).await;
        println!("{:?}, longest acceptance {} ms", report.summary, report.latencies.max() / 1000);
        assert!(report.summary.accepted >= PROGRESS);
        let wrong = report.wrong();
        assert!(
            wrong.is_empty(),
            "{} are wrong, among them {:#?}",
            wrong.len(),
            wrong.iter().take(10).collect::<Vec<_>>()
        );
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime").block_on(test);
}

#[test]
fn nothing_is_lost_when_a_storage_leader_is_killed() {
    run(async {
        let mut cluster = Cluster::start();
        let load = Load::start(&cluster, "leader").await;
        for _ in 0..3 {
            let leader = cluster.leader();
            cluster.storage[leader].kill();
            load.goes_on("without the leader").await;
            cluster.storage[leader].start_again();
            cluster.storage[leader].wait_ready();
            load.goes_on("after the leader came back").await;
        }
        load.finish().await;
    });
}

#[test]
fn nothing_is_lost_when_a_storage_follower_is_killed() {
    run(async {
        let mut cluster = Cluster::start();
        let load = Load::start(&cluster, "follower").await;
        for _ in 0..2 {
            let follower = (cluster.leader() + 1) % cluster.storage.len();
            cluster.storage[follower].kill();
            load.goes_on("without the follower").await;
            cluster.storage[follower].start_again();
            cluster.storage[follower].wait_ready();
            load.goes_on("after the follower came back").await;
        }
        load.finish().await;
    });
}

#[test]
fn nothing_is_lost_when_a_router_is_killed() {
    run(async {
        let mut cluster = Cluster::start();
        let load = Load::start(&cluster, "router").await;
        for round in 0..4 {
            let router = &mut cluster.routers[round % 2];
            router.kill();
            load.goes_on("without the router").await;
            router.start_again();
            router.wait_ready();
            load.goes_on("after the router came back").await;
        }
        load.finish().await;
    });
}

#[test]
fn nothing_is_lost_when_a_gateway_is_killed() {
    run(async {
        let mut cluster = Cluster::start();
        let load = Load::start(&cluster, "gateway").await;
        for round in 0..4 {
            let gateway = &mut cluster.gateways[round % 2];
            gateway.kill();
            load.goes_on("without the gateway").await;
            gateway.start_again();
            gateway.wait_ready();
            load.goes_on("after the gateway came back").await;
        }
        load.finish().await;
    });
}

#[test]
fn nothing_is_lost_when_all_nodes_are_killed_at_once() {
    run(async {
        let mut cluster = Cluster::start();
        let load = Load::start(&cluster, "everything").await;
        for _ in 0..2 {
            cluster.nodes().for_each(|node| node.kill());
            cluster.nodes().for_each(|node| node.start_again());
            cluster.wait_ready();
            load.goes_on("after everything came back").await;
        }
        load.finish().await;
    });
}

#[test]
fn a_rolling_restart_in_order_loses_nothing() {
    run(async {
        let mut cluster = Cluster::start();
        let load = Load::start(&cluster, "rolling").await;
        for node in cluster.nodes() {
            node.terminate();
            node.start_again();
            node.wait_ready();
            load.goes_on(&format!("after {} was restarted", node.name)).await;
        }
        load.finish().await;
    });
}
