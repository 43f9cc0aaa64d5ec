//! A coordinator and workers, each a process, against the same gateway.

use std::fs;

use carillon_loadtest::report::{Report, Verdict};
use carillon_proto::tasks::Tasks;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{
    gateway::{Gateway, Lie},
    process::Process,
};

const SECRET: &str = "a secret of the workers";

const SCENARIO: &str = r#"
name = "shared"
[target]
token_secret_file = "token"
[time]
warm_up = "100ms"
measured = "MEASURED"
patience = "5s"
[direct]
users = 5
window = 8
rate = 100
"#;

const SEARCH: &str = "[level]\nacceptance_p99_ms = 5000\n[capacity]\nfrom = 100\nsettle = \"100ms\"\nwindow = \"1s\"\n";

struct World {
    folder: TempDir,
    coordinator: Process,
    address: String,
    // Keeps the gateway alive.
    _runtime: Runtime,
}

impl World {
    fn new(lie: Lie, measured: &str, more: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let (folder, tasks) = (tempfile::tempdir().expect("folder"), Tasks::new());
        let url = format!("tcp://{}", runtime.block_on(Gateway::start(lie, &tasks)));
        let at = |name: &str| folder.path().join(name);
        fs::write(at("token"), "a secret").expect("written");
        fs::write(at("secret"), SECRET).expect("written");
        fs::write(at("other"), "another secret of workers").expect("written");
        let scenario = SCENARIO.replace("MEASURED", measured);
        let scenario = if more.contains("[capacity]") { scenario.replace("rate = 100\n", "") } else { scenario };
        fs::write(at("shared.toml"), format!("{scenario}{more}")).expect("written");
        let words = ["coordinate", "shared.toml", "--url", &url, "--workers", "2", "--listen", "127.0.0.1:0"];
        let files = ["--secret-file", "secret", "--json", "run.json", "--junit", "run.xml"];
        let mut coordinator = Process::start(folder.path(), &[&words[..], &files].concat());
        let line = coordinator.until("waiting for 2 workers at ");
        let address = line.rsplit(' ').next().expect("an address").trim().to_owned();
        Self { folder, coordinator, address, _runtime: runtime }
    }

    fn worker(&self, secret: &str) -> Process {
        let words = ["work", "--coordinator", &self.address, "--secret-file", secret, "--threads", "1"];
        Process::start(self.folder.path(), &words)
    }

    fn end(self) -> (Option<i32>, Report, String) {
        let (code, said) = self.coordinator.end();
        let report = Report::read(&self.folder.path().join("run.json"));
        (code, report.unwrap_or_else(|error| panic!("{error}: {said}")), said)
    }
}

#[test]
fn two_workers_share_the_users_and_their_findings_add_up() {
    let world = World::new(Lie::None, "1500ms", "");
    let workers = [world.worker("secret"), world.worker("secret")];
    for worker in workers {
        let (code, said) = worker.end();
        assert_eq!(code, Some(0), "{said}");
    }
    let (code, report, said) = world.end();
    let integrity = &report.integrity;
    assert!(matches!((code, report.verdict), (Some(0), Verdict::Pass) | (Some(4), Verdict::Invalid)), "{said}");
    let mut users: Vec<_> = report.workers.iter().map(|worker| worker.users).collect();
    users.sort_unstable();
    assert_eq!((users, report.generator.workers), (vec![2, 3], 2));
    assert!(report.workers.iter().all(|worker| worker.lost.is_none()));
    assert!(integrity.violations.is_empty() && integrity.summary.accepted > 20, "{integrity:?}");
    assert_eq!(
        (integrity.summary.delivered, integrity.summary.read_back),
        (integrity.summary.accepted, 2 * integrity.summary.accepted)
    );
    let wanted = report.figure("wanted").map(|figure| figure.value);
    assert!(wanted.is_some_and(|wanted| (wanted - 100.0).abs() < 1e-6), "{wanted:?}");
    let told: u64 = report.distributions.iter().map(|one| one.quantiles.count).sum();
    assert!(told > 20, "{:?}", report.distributions);
}

#[test]
fn what_a_worker_finds_is_in_the_verdict() {
    let world = World::new(Lie::Double, "1s", "");
    let workers = [world.worker("secret"), world.worker("secret")];
    workers.into_iter().for_each(|worker| _ = worker.end());
    let (code, report, said) = world.end();
    assert_eq!((code, report.verdict), (Some(2), Verdict::IntegrityBroken), "{said}");
    // Each of the five users writes to one other, whose device and whose inbox have one message twice.
    assert_eq!(report.integrity.violations.get("doubled"), Some(&10), "{:?}", report.integrity);
}

#[test]
fn a_worker_that_dies_is_named_and_the_run_is_not_passed() {
    let mut world = World::new(Lie::None, "10m", "");
    let (mut victim, other) = (world.worker("secret"), world.worker("secret"));
    let line = victim.until("this is worker-");
    let name = line.trim().trim_start_matches("this is ").split(':').next().expect("a name").to_owned();
    world.coordinator.until("measuring: 5 signed in");
    victim.signal("KILL");
    world.coordinator.until("measuring: ");
    world.coordinator.signal("INT");
    let (code, said) = other.end();
    assert_eq!(code, Some(0), "{said}");
    let (code, report, said) = world.end();
    assert_eq!((code, report.verdict), (Some(5), Verdict::Interrupted), "{said}");
    let why = report.generator.invalid.expect("a reason");
    assert!(why.starts_with(&name) && why.contains("is lost"), "{why}");
    let lost: Vec<_> = report.workers.iter().filter(|worker| worker.lost.is_some()).collect();
    assert_eq!((lost.len(), &lost[0].name), (1, &name));
    assert!(report.integrity.summary.accepted > 0, "the other one's share counts");
}

#[test]
fn workers_find_the_highest_rate_together() {
    let world = World::new(Lie::None, "1s", SEARCH);
    let workers = [world.worker("secret"), world.worker("secret")];
    workers.into_iter().for_each(|worker| assert_eq!(worker.end().0, Some(0)));
    let (code, report, said) = world.end();
    let capacity = report.capacity.as_ref().expect("a search");
    assert_eq!((code, report.verdict), (Some(4), Verdict::Invalid), "{said}");
    assert!(capacity.steps.len() >= 2 && capacity.steps[0].rate == 100.0, "{capacity:?}");
    assert!(capacity.steps.iter().all(|step| step.windows.len() >= 2));
    if let Some(step) = capacity.steps.iter().find(|step| step.judgement.as_str() == "holds") {
        assert!(step.accepted_per_s() >= 0.98 * step.rate, "the shares add up to the rate: {step:?}");
    }
    let integrity = &report.integrity;
    assert!(integrity.violations.is_empty() && integrity.summary.accepted > 100, "{integrity:?}");
}

#[test]
fn who_has_another_secret_gets_no_work_and_disturbs_nobody() {
    let world = World::new(Lie::None, "1s", "");
    let (code, said) = world.worker("other").end();
    assert!(code == Some(1) && said.contains("another secret"), "{said}");
    let workers = [world.worker("secret"), world.worker("secret")];
    workers.into_iter().for_each(|worker| assert_eq!(worker.end().0, Some(0)));
    let (_, report, said) = world.end();
    assert!(report.integrity.summary.accepted > 10, "{said}");
    assert!(said.contains("is not admitted: the other side has another secret"), "{said}");
}

/// Checks a report's words about a worker that could not begin, and about the other one.
fn is_named(world: World, why: &str) {
    let xml = world.folder.path().join("run.xml");
    let xml = || fs::read_to_string(&xml).expect("test cases");
    let (coordinator, folder) = (world.coordinator, world.folder);
    let (code, said) = coordinator.end();
    let report = Report::read(&folder.path().join("run.json")).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!((code, report.verdict), (Some(4), Verdict::Invalid), "{said}");
    let lost: Vec<_> = report.workers.iter().filter_map(|worker| Some((&worker.name, worker.lost.as_ref()?))).collect();
    let [(name, told)] = lost[..] else { panic!("one of two is lost: {lost:?}") };
    assert!(told.contains(why), "{told}");
    let invalid = report.generator.invalid.expect("a reason");
    assert!(invalid.starts_with(name) && invalid.contains(why), "{invalid}");
    assert!(xml().contains(&format!("name=\"{name} comes to its end\">")), "{}", xml());
}

#[test]
fn a_worker_that_is_not_let_in_is_named_in_a_report() {
    for more in ["", SEARCH] {
        let world = World::new(Lie::TurnAway, "1s", more);
        let workers = [world.worker("secret"), world.worker("secret")];
        let mut codes: Vec<_> = workers.into_iter().map(|worker| worker.end().0).collect();
        codes.sort_unstable();
        assert_eq!(codes, [Some(0), Some(4)], "the other one has done nothing wrong");
        is_named(world, "can't sign in: gateway ended the connection: Unauthenticated: not today");
    }
}

#[test]
fn a_worker_that_has_no_token_secret_is_named_in_a_report() {
    let world = World::new(Lie::None, "1s", "");
    let missing =
        ["work", "--coordinator", &world.address, "--secret-file", "secret", "--token-secret-file", "missing"];
    let workers = [Process::start(world.folder.path(), &missing), world.worker("secret")];
    let [code, other] = workers.map(|worker| worker.end().0);
    assert_eq!((code, other), (Some(1), Some(0)));
    is_named(world, "can't read the token secret missing");
}

#[test]
fn more_workers_than_can_share_the_users_are_refused() {
    let folder = tempfile::tempdir().expect("folder");
    fs::write(folder.path().join("secret"), SECRET).expect("written");
    fs::write(folder.path().join("shared.toml"), SCENARIO.replace("MEASURED", "1s")).expect("written");
    let words = ["coordinate", "shared.toml", "--workers", "3", "--secret-file", "secret", "--listen", "127.0.0.1:0"];
    let (code, said) = Process::start(folder.path(), &words).end();
    assert!(code == Some(1) && said.contains("3 workers can't share shared: from 1 to 2"), "{said}");
}
