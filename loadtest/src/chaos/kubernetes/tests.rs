use std::{fs, os::unix::fs::symlink, path::Path};

use tempfile::TempDir;

use super::*;

/// A `kubectl` that notes its words, and answers as a small Kubernetes would. The folder keeps the number of storage nodes.
/// The scripted kubectl as it lies here, and no copy of it: a file that was just written can't be executed while a child that another
/// test starts still has it open.
const KUBECTL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kubectl");

struct Lab {
    folder: TempDir,
}

impl Lab {
    fn new(labels: &str) -> Self {
        let lab = Self { folder: tempfile::tempdir().expect("folder") };
        symlink(KUBECTL, lab.path("kubectl")).expect("linked");
        lab.write("namespace", &format!("{{\"metadata\": {{\"name\": \"chat\", \"labels\": {{{labels}}}}}}}"));
        lab.write("replicas", "3\n");
        lab.write("router", "router-a\n");
        lab
    }

    fn allowed() -> Self {
        Self::new(r#""carillon-faults": "allowed""#)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        Path::new(self.folder.path()).join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }

    async fn faults(&self, consent: &Consent) -> anyhow::Result<KubernetesFaults> {
        let kubectl = Kubectl::of_present_context(self.path("kubectl").into_os_string(), "chat").await?;
        KubernetesFaults::new(kubectl, consent, Duration::from_secs(20)).await
    }

    async fn consented(&self) -> KubernetesFaults {
        self.faults(&Consent::Given("lab/chat".to_owned())).await.expect("allowed")
    }

    fn words(&self) -> Vec<String> {
        fs::read_to_string(self.path("words")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The commands that change something, without the place that each of them names.
    fn changes(&self) -> Vec<String> {
        let place = "--context lab --namespace chat ";
        let words = self.words();
        let others: Vec<_> = words.iter().filter(|line| *line != "config current-context").collect();
        assert!(others.iter().all(|line| line.starts_with(place)), "{others:#?}");
        let reads = |line: &&str| {
            line.starts_with("get ")
                || line.starts_with("rollout status ")
                || line.ends_with("status")
                || line.ends_with("--json")
        };
        others.iter().map(|line| &line[place.len()..]).filter(|line| !reads(line)).map(str::to_owned).collect()
    }
}

fn schedule(text: &str) -> Schedule {
    Schedule::of_line(text).expect("valid")
}

#[tokio::test]
async fn without_consent_for_this_very_place_nothing_is_touched() {
    let lab = Lab::allowed();
    for meant in ["production/chat", "lab/carillon", "lab", ""] {
        let error = lab.faults(&Consent::Given(meant.to_owned())).await.map(drop).expect_err("not meant").to_string();
        assert!(error.contains("this is lab/chat: nothing is touched"), "{error}");
    }
    assert_eq!(lab.changes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_namespace_without_the_label_is_left_alone() {
    for labels in ["", r#""carillon-faults": "no""#] {
        let lab = Lab::new(labels);
        let consent = Consent::Given("lab/chat".to_owned());
        let error = lab.faults(&consent).await.map(drop).expect_err("not allowed").to_string();
        assert!(error.contains("kubectl --context lab label namespace chat carillon-faults=allowed"), "{error}");
        assert_eq!(lab.changes(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn whoever_takes_the_label_away_ends_the_faults() {
    let lab = Lab::allowed();
    let mut faults = lab.consented().await;
    lab.write("namespace", r#"{"metadata": {"name": "chat"}}"#);
    let struck = faults.strike(&schedule("kill gateway"), 0).await;
    assert!(struck.failed.is_some_and(|why| why.contains("it does not allow faults")));
    assert_eq!(lab.changes(), Vec::<String>::new());
}

#[tokio::test]
async fn whoever_takes_the_label_away_ends_a_fault_of_several_steps_too() {
    let lab = Lab::allowed();
    let mut faults = lab.consented().await;
    faults.strike(&schedule("add new"), 0).await;
    let before = lab.changes();
    lab.write("forbidden-after-scale", r#"{"metadata": {"name": "chat"}}"#);
    let struck = faults.strike(&schedule("add new"), 0).await;
    assert!(struck.failed.is_some_and(|why| why.contains("it does not allow faults")));
    assert_eq!(lab.changes()[before.len()..], ["scale statefulset/carillon-storage --current-replicas=4 --replicas=5"]);
}

#[tokio::test]
async fn pods_that_are_ready_take_turns() {
    let lab = Lab::allowed();
    let mut faults = lab.consented().await;
    for (text, round, pod) in [
        ("kill gateway for 3s", 0, "gateway-a"),
        ("kill gateway for 3s", 1, "gateway-b"),
        ("kill gateway for 3s", 2, "gateway-a"),
        ("kill router for 3s", 5, "router-a"),
        ("kill storage-leader for 3s", 0, "carillon-storage-2"),
        ("kill storage-follower for 3s", 0, "carillon-storage-0"),
        ("kill controller for 3s", 0, "carillon-storage-1"),
    ] {
        let struck = faults.strike(&schedule(text), round).await;
        assert_eq!(struck, Struck { hit: vec![pod.to_owned()], failed: None }, "{text}");
        let last = lab.changes().pop().expect("a command");
        assert_eq!(last, format!("delete pod {pod} --wait=true --grace-period=1"));
    }
    faults.strike(&schedule("restart gateways"), 0).await;
    assert_eq!(lab.changes().pop().as_deref(), Some("delete pod gateway-a gateway-b --wait=true"));
}

#[tokio::test]
async fn faults_at_once_do_not_wait_for_each_other() {
    let lab = Lab::allowed();
    let struck = lab.consented().await.strike(&schedule("kill gateway for 3s and kill router for 3s"), 1).await;
    assert_eq!(struck, Struck { hit: vec!["gateway-b".to_owned(), "router-a".to_owned()], failed: None });
    let both =
        ["delete pod gateway-b --wait=false --grace-period=1", "delete pod router-a --wait=true --grace-period=1"];
    assert_eq!(lab.changes(), both);
}

#[tokio::test]
async fn a_workload_is_rolled_and_waited_for() {
    let lab = Lab::allowed();
    let struck = lab.consented().await.strike(&schedule("roll storage"), 0).await;
    assert_eq!(struck, Struck { hit: vec![STORAGE.to_owned()], failed: None });
    assert_eq!(lab.changes(), ["rollout restart statefulset/carillon-storage"]);
    let waited = lab.words().iter().filter(|line| line.contains("rollout status statefulset/carillon-storage")).count();
    assert_eq!(waited, 2, "after the roll, and for all to be ready");
}

#[tokio::test]
async fn a_storage_node_is_added_and_the_last_one_removed() {
    let lab = Lab::allowed();
    let mut faults = lab.consented().await;
    let last = Struck { hit: vec!["carillon-storage-3".to_owned()], failed: None };
    // The new pod is not there at the first attempt.
    lab.write("refuse", "");
    assert_eq!(faults.strike(&schedule("add new"), 0).await, last);
    assert_eq!(faults.strike(&schedule("remove storage-follower"), 0).await, last);
    let exec = "exec deployment/carillon-router -- /usr/bin/carillon cluster";
    let add = format!("{exec} add carillon-storage-3.carillon-storage:7401");
    let expected = [
        "scale statefulset/carillon-storage --current-replicas=3 --replicas=4",
        &add,
        &add,
        &format!("{exec} rebalance --wait 20"),
        &format!("{exec} remove 13"),
        "scale statefulset/carillon-storage --current-replicas=4 --replicas=3",
        "wait --for=delete pod/carillon-storage-3 --timeout=20s",
        "delete persistentvolumeclaim data-carillon-storage-3",
    ];
    assert_eq!(lab.changes(), expected);
}

#[tokio::test]
async fn three_storage_nodes_stay() {
    let lab = Lab::allowed();
    let struck = lab.consented().await.strike(&schedule("remove storage-follower"), 0).await;
    assert!(struck.failed.is_some_and(|why| why.contains("there are 3 storage nodes, and 3 must stay")));
    assert_eq!(lab.changes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_rehearsal_reads_and_changes_nothing() {
    let lab = Lab::new("");
    let mut faults = lab.faults(&Consent::Rehearsal).await.expect("it only reads");
    for text in
        ["kill gateway", "restart routers", "kill storage-leader", "roll all", "add new", "remove storage-leader"]
    {
        let struck = faults.strike(&schedule(text), 0).await;
        assert_eq!(struck.failed, None, "{text}");
    }
    assert_eq!(lab.changes(), Vec::<String>::new());
    assert!(!lab.words().iter().any(|line| line.contains("scale")));
}

#[tokio::test]
async fn names_that_kubernetes_would_not_give_are_refused() {
    let lab = Lab::allowed();
    let mut faults = lab.consented().await;
    lab.write("router", "--all\n");
    let struck = faults.strike(&schedule("kill router"), 0).await;
    assert!(struck.failed.is_some_and(|why| why.contains("is no name of an object")));
    assert_eq!(lab.changes(), Vec::<String>::new());
    for namespace in ["-A", "a b", ""] {
        let kubectl = Kubectl::of_present_context(lab.path("kubectl").into_os_string(), namespace).await;
        assert!(kubectl.is_err(), "{namespace:?}");
    }
}

#[test]
fn what_kubectl_can_not_cause_is_refused() {
    for text in [
        "kill gateway for 3s",
        "restart storage",
        "roll routers",
        "add new",
        "remove controller",
        "kill router and kill gateway",
    ] {
        assert_eq!(KubernetesFaults::knows(&schedule(text)), Ok(()), "{text}");
    }
    for text in ["pause gateway for 3s", "partition router for 3s", "kill new for 3s", "replace controller"] {
        let error = KubernetesFaults::knows(&schedule(text)).expect_err("not in Kubernetes");
        assert!(error.contains("kill, restart, roll, add and remove are"), "{error}");
    }
    let midway = KubernetesFaults::knows(&schedule("add new with kill router for 3s"));
    assert!(midway.is_err_and(|why| why.contains("a fault within a change")));
}
