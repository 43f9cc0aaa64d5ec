//! The load generator's scenarios against the built program: each ends, and each finds nothing wrong with a sound
//! service.

mod support;

use std::{future::ready, sync::Arc, time::Duration};

use carillon_client::ConnectOptions;
use carillon_loadtest::{
    credentials::Credentials,
    measure::{gateways::Gateways, servers::Servers},
    payload::Filling,
    report::figure::SERVER_CPU,
    scenario::{
        Ending, Environment, Found, Gate, Target,
        direct::{self, DirectConfig, SlowReaders},
        herd::{self, HerdConfig},
        idle::{self, IdleConfig},
        offline::{self, OfflineConfig},
        sign_in::{self, SignInConfig},
    },
};
use carillon_proto::tasks::Tasks;
use support::service::{Carrier, Service, TOKEN_SECRET};

const DAY: Duration = Duration::from_secs(24 * 3600);
const PATIENCE: Duration = Duration::from_secs(60);

fn environment(service: &Service, run: &str, carriers: &[Carrier]) -> Environment {
    let addresses = carriers.iter().map(|carrier| service.address(*carrier)).collect();
    let servers = Servers::default();
    servers.add_pid("service", service.node.pid());
    Environment {
        run: run.to_owned(),
        target: Target { addresses, connect: ConnectOptions::default() },
        credentials: Credentials::of_secret(TOKEN_SECRET, DAY),
        recorder: Arc::default(),
        servers: Arc::new(servers),
        gateways: Arc::new(Gateways::new(&[format!("http://{}", service.node.admin)]).expect("an address")),
        workers: 2,
        tasks: Tasks::new(),
        gate: Gate::open(),
        ending: Ending::default(),
    }
}

fn value(found: &Found, name: &str) -> f64 {
    let figure = found.figures.iter().find(|figure| figure.name == name);
    figure.unwrap_or_else(|| panic!("no figure {name} in {:?}", found.figures)).value
}

fn count(found: &Found, distribution: &str) -> u64 {
    found.times.iter().find(|times| times.name == distribution).map_or(0, |times| times.histogram.len())
}

#[test]
fn direct_chat_at_a_rate_is_whole_and_timed() {
    let service = Service::shared();
    service.block_on(async {
        let environment = environment(service, "rate", &Carrier::ALL);
        let config = DirectConfig {
            run: "rate".into(),
            addresses: environment.target.addresses.clone(),
            users: 4,
            devices: 2,
            rate: Some(25.0),
            window: 32,
            bytes: 256,
            filling: Filling::Repeated,
            send_timeout: PATIENCE,
            slow_readers: SlowReaders { count: 1, pause: Duration::from_millis(20) },
        };
        let recorder = Arc::clone(&environment.recorder);
        let measured = wait(|| recorder.acceptance.total().len() >= 100);
        let found = direct::run(&environment, config, (Duration::ZERO, PATIENCE), measured).await.expect("it runs");
        let summary = &found.integrity.summary;
        assert!(found.integrity.violations.is_empty(), "{:?}", found.integrity.examples);
        // Each message is delivered to both devices of the recipient, to the other device of the sender and, for a
        // quarter of the users, twice to the slow device; and it stands in both inboxes.
        let slow = summary.delivered - 3 * summary.accepted;
        assert!(slow > 0 && slow < summary.accepted, "{summary:?}");
        assert_eq!(summary.read_back, 2 * summary.accepted);
        assert!(value(&found, "sends read by gateways") > 0.0);
        assert!(value(&found, "let in: answered, p99") > 0.0);
        assert!(count(&found, "acceptance") >= 100 && count(&found, "delivery") >= 100);
        assert!(value(&found, SERVER_CPU) > 0.0);
        environment.tasks.finish(Duration::from_secs(5)).await;
    });
}

#[test]
fn idle_connections_are_held() {
    let service = Service::shared();
    service.block_on(async {
        let environment = environment(service, "idle", &Carrier::ALL);
        let config = IdleConfig { connections: 40, concurrency: 8, groups: None };
        let held = async { assert_eq!(environment.recorder.counts().signed_in, 40) };
        let found = idle::run(&environment, config, Duration::ZERO, held).await.expect("it runs");
        assert_eq!(found.invalid, None);
        assert!(found.figures.iter().any(|figure| figure.name == "server memory"));
        environment.tasks.finish(Duration::from_secs(5)).await;
    });
}

#[test]
fn more_connections_than_the_process_may_have_are_refused_at_once() {
    let service = Service::shared();
    service.block_on(async {
        let environment = environment(service, "many", &[Carrier::Tcp]);
        let config = IdleConfig { connections: 1 << 40, concurrency: 8, groups: None };
        let refused = idle::run(&environment, config, Duration::ZERO, ready(())).await.expect_err("refused");
        assert!(refused.to_string().contains("open files"), "{refused}");
    });
}

#[test]
fn sign_ins_are_counted_and_timed() {
    let service = Service::shared();
    service.block_on(async {
        for (run, rate, sign_out, resume) in
            [("ramp", None, false, false), ("ramp-rate", Some(200.0), true, false), ("ramp-resume", None, false, true)]
        {
            let environment = environment(service, run, &[Carrier::Tcp, Carrier::WebSocketProto]);
            let config = SignInConfig {
                count: 40,
                users: 20,
                concurrency: 8,
                rate,
                sign_out,
                new_users: false,
                resume,
                groups: None,
                up_to_date: false,
            };
            let found = sign_in::run(&environment, config).await.expect("it runs");
            assert_eq!(count(&found, "sign_in"), 40);
            assert_eq!(environment.recorder.counts().signed_in, if sign_out { 0 } else { 40 });
            environment.tasks.finish(Duration::from_secs(5)).await;
        }
    });
}

#[test]
fn users_who_were_away_catch_up() {
    let service = Service::shared();
    service.block_on(async {
        let environment = environment(service, "offline", &[Carrier::Tcp]);
        let config = OfflineConfig {
            absent: 7,
            senders: 3,
            messages: 301,
            rate: None,
            window: 16,
            bytes: 256,
            patience: PATIENCE,
        };
        let found = offline::run(&environment, config).await.expect("it runs");
        let summary = &found.integrity.summary;
        assert!(found.integrity.violations.is_empty(), "{:?}", found.integrity.examples);
        assert_eq!((summary.sent, summary.accepted, summary.delivered, summary.read_back), (301, 301, 301, 602));
        assert!(value(&found, "catch-up rate") > 0.0);
        environment.tasks.finish(Duration::from_secs(5)).await;
    });
}

#[test]
fn a_herd_whose_connections_drop_comes_back_and_has_everything() {
    let service = Service::shared();
    service.block_on(async {
        let environment = environment(service, "herd", &[Carrier::Tcp]);
        let found = herd::run(&environment, herd(None)).await.expect("it runs");
        whole_herd(&found);
        environment.tasks.finish(Duration::from_secs(5)).await;
    });
}

#[test]
fn a_herd_whose_gateway_is_killed_comes_back_and_has_everything() {
    let mut service = Service::start("");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    let environment = environment(&service, "killed", &[Carrier::Tcp]);
    let trigger = format!("kill -9 {}", service.node.pid());
    let tasks = environment.tasks.clone();
    let run = runtime.spawn(async move { herd::run(&environment, herd(Some(trigger))).await });
    service.node.wait_end();
    service.node.start_again();
    let found = runtime.block_on(run).expect("no panic").expect("it runs");
    whole_herd(&found);
    runtime.block_on(tasks.finish(Duration::from_secs(5)));
}

fn herd(trigger: Option<String>) -> HerdConfig {
    HerdConfig { connections: 30, senders: 2, window: 16, bytes: 256, trigger, patience: PATIENCE }
}

fn whole_herd(found: &Found) {
    assert!(found.integrity.violations.is_empty(), "{:?}", found.integrity.examples);
    assert_eq!(found.invalid, None);
    assert_eq!((value(found, "connections broken"), value(found, "not back")), (30.0, 0.0));
    assert_eq!((count(found, "back"), count(found, "resumed")), (30, 30));
    assert_eq!(found.integrity.summary.delivered, 60);
}

async fn wait(so: impl Fn() -> bool) {
    let waiting = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("in time");
}
