//! Faults in Kubernetes beside a load: with a `kubectl` on the path that answers as a small Kubernetes would.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Output},
};

use carillon_loadtest::report::{Report, Verdict};
use carillon_proto::tasks::Tasks;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::gateway::{Gateway, Lie};

const SCENARIO: &str = r#"
name = "trouble"
[target]
token_secret_file = "token"
[time]
warm_up = "100ms"
measured = "5s"
patience = "5s"
[direct]
users = 4
window = 8
rate = 40
[chaos]
faults = ["kill gateway", "roll routers"]
pause = "100ms"
"#;

struct World {
    folder: TempDir,
    url: String,
    _runtime: Runtime,
}

impl World {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let url = format!("tcp://{}", runtime.block_on(Gateway::start(Lie::None, &Tasks::new())));
        let world = Self { folder: tempfile::tempdir().expect("folder"), url, _runtime: runtime };
        fs::create_dir(world.at("bin")).expect("made");
        for (name, text) in [
            ("token", "a secret"),
            ("trouble.toml", SCENARIO),
            ("bin/replicas", "3\n"),
            ("bin/router", "router-a\n"),
            ("bin/namespace", r#"{"metadata": {"name": "chat", "labels": {"carillon-faults": "allowed"}}}"#),
        ] {
            fs::write(world.at(name), text).expect("written");
        }
        // Not a copy: a file that was just written can't be executed while a child that another test starts still has it open.
        symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kubectl"), world.at("bin/kubectl")).expect("linked");
        world
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, words: &[&str]) -> Output {
        let path = format!("{}:{}", self.at("bin").display(), env::var("PATH").unwrap_or_default());
        let all =
            [&["run", "trouble.toml", "--url", &self.url, "--json", "run.json", "--junit", "run.xml"], words].concat();
        let mut command = Command::new(env!("CARGO_BIN_EXE_carillon-loadtest"));
        command.args(all).env("PATH", path).current_dir(self.folder.path()).output().expect("runs")
    }

    /// Changes that `kubectl` was asked for.
    fn changes(&self) -> Vec<String> {
        let words = fs::read_to_string(self.at("bin/words")).unwrap_or_default();
        let changes =
            |line: &&str| ["delete ", "rollout restart ", "scale ", "exec "].iter().any(|verb| line.contains(verb));
        let reads = |line: &&str| line.ends_with("status") || line.ends_with("--json");
        words.lines().filter(changes).filter(|line| !reads(line)).map(str::to_owned).collect()
    }
}

#[test]
fn faults_strike_while_users_write_to_each_other() {
    let world = World::new();
    let output = world.run(&["--kubernetes", "chat", "--yes-i-mean", "lab/chat"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = Report::read(&world.at("run.json")).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert!(said.contains("faults in context and namespace lab/chat"), "{said}");
    assert!(
        report.faults.len() >= 2 && report.faults.iter().all(|fault| fault.failed.is_none()),
        "{:?}",
        report.faults
    );
    let both: Vec<_> = report.faults[..2].iter().map(|fault| fault.what.as_str()).collect();
    assert!(both.contains(&"kill gateway") && both.contains(&"roll routers"), "{both:?}");
    assert!(report.faults.iter().all(|fault| !fault.hit.is_empty()));
    assert!(report.marks.iter().any(|mark| mark.label == "kill gateway begins"), "{:?}", report.marks);
    assert!(report.integrity.violations.is_empty() && report.integrity.summary.accepted > 20, "{:?}", report.integrity);
    assert_eq!((output.status.code(), report.verdict), (Some(0), Verdict::Pass), "{said}");
    let xml = fs::read_to_string(world.at("run.xml")).expect("test cases");
    assert!(xml.contains(": kill gateway is healed\"/>"), "{xml}");
    let place = "--context lab --namespace chat ";
    assert!(!world.changes().is_empty() && world.changes().iter().all(|line| line.starts_with(place)));
}

#[test]
fn without_consent_nothing_is_touched_and_no_load_begins() {
    let world = World::new();
    for (words, says) in [
        (&["--kubernetes", "chat"][..], "allow it with --yes-i-mean lab/chat"),
        (&["--kubernetes", "chat", "--yes-i-mean", "lab/other"], "this is lab/chat: nothing is touched"),
        (&["--kubernetes", "-A", "--yes-i-mean", "lab/-A"], "unexpected argument '-A'"),
        (&["--kubernetes", "chat", "--yes-i-mean", "lab/chat", "--dry-run"], "cannot be used with"),
        (&[], "trouble has [chaos]: give --kubernetes NAMESPACE"),
        (&["--kubernetes", "chat", "--set", "chaos.faults=[\"pause gateway for 3s\"]"], "is not for Kubernetes"),
    ] {
        let output = world.run(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(says), "{words:?}: {said}");
    }
    assert_eq!(world.changes(), Vec::<String>::new());
    assert!(!world.at("run.json").exists());
}

#[test]
fn a_rehearsal_prints_each_command_and_runs_none() {
    let world = World::new();
    let more = "chaos.faults=[\"kill gateway\", \"add new\", \"remove controller\", \"roll storage\"]";
    let output = world.run(&["--kubernetes", "chat", "--dry-run", "--set", more]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let kubectl = "kubectl --context lab --namespace chat";
    for command in [
        "delete pod gateway-a --wait=true --grace-period=1",
        "scale statefulset/carillon-storage --current-replicas=3 --replicas=4",
        "exec deployment/carillon-router -- /usr/bin/carillon cluster remove NUMBER",
        "rollout restart statefulset/carillon-storage",
    ] {
        assert!(said.contains(&format!("{kubectl} {command}")), "{command} is not in {said}");
    }
    assert_eq!(world.changes(), Vec::<String>::new());
    assert!(!world.at("run.json").exists());
}
