//! Faults of a Carillon in Kubernetes, as deploy/kubernetes installs it, by `kubectl`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::{
    Strike, Struck,
    kubectl::{Kubectl, KubectlError, Metadata},
};
use crate::{
    cluster::Members,
    faults::{Change, Fault, Schedule, Step, Target},
};

/// The label of a namespace in which faults are allowed, and its value.
const LABEL: (&str, &str) = ("carillon-faults", "allowed");
const STORAGE: &str = "statefulset/carillon-storage";
/// Where an operator's commands are run.
const OPERATORS: [&str; 4] = ["exec", "deployment/carillon-router", "--", "/usr/bin/carillon"];
/// With fewer, the loss of one stops the service.
const LEAST_STORAGE: u64 = 3;
const LOOK: Duration = Duration::from_secs(1);

/// The operator's consent to faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Consent {
    /// To say what would be done, and to do nothing.
    Rehearsal,
    /// `CONTEXT/NAMESPACE`, as the operator has written it.
    Given(String),
}

pub(crate) struct KubernetesFaults {
    kubectl: Kubectl,
    rehearsal: bool,
    patience: Duration,
    /// In a rehearsal: the storage nodes that there would be by now.
    pretended: Option<u64>,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Default, Deserialize)]
struct PodStatus {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

#[derive(Deserialize)]
struct Labelled {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct StatefulSet {
    spec: Replicas,
}

#[derive(Deserialize)]
struct Replicas {
    replicas: u64,
}

impl Pod {
    fn is_ready(&self) -> bool {
        let ready = |condition: &Condition| condition.r#type == "Ready" && condition.status == "True";
        self.metadata.deleted.is_none() && self.status.conditions.iter().any(ready)
    }
}

impl KubernetesFaults {
    /// Fails unless the operator means this place, and the namespace allows faults.
    pub(crate) async fn new(kubectl: Kubectl, consent: &Consent, patience: Duration) -> anyhow::Result<Self> {
        let place = kubectl.place();
        let faults = Self { kubectl, rehearsal: *consent == Consent::Rehearsal, patience, pretended: None };
        match consent {
            Consent::Rehearsal => {
                println!("faults in context and namespace {place}");
                if let Err(error) = faults.allowed().await {
                    println!("without --dry-run it would end here: {error}");
                }
            }
            Consent::Given(meant) => {
                // Standard output is the report's.
                eprintln!("faults in context and namespace {place}");
                anyhow::ensure!(*meant == place, "--yes-i-mean is {meant:?}, and this is {place}: nothing is touched");
                faults.allowed().await?;
            }
        }
        Ok(faults)
    }

    /// Fails if a fault is of a kind that can't be caused by `kubectl`.
    pub(crate) fn knows(schedule: &Schedule) -> Result<(), String> {
        let fits = |step: Step| match step.fault {
            Fault::Kill | Fault::Restart => step.target != Target::New,
            Fault::Roll => true,
            Fault::Change(Change::Add | Change::Remove) => true,
            _ => false,
        };
        if schedule.midway {
            Err(format!("{schedule} is not for Kubernetes: a fault within a change is for processes"))
        } else if schedule.steps.iter().all(|(_, step)| fits(*step)) {
            Ok(())
        } else {
            Err(format!("{schedule} is not for Kubernetes: kill, restart, roll, add and remove are"))
        }
    }

    /// Asked before each fault, so that whoever takes the label away ends them.
    async fn allowed(&self) -> Result<(), KubectlError> {
        let (key, value) = LABEL;
        let namespace = self.kubectl.namespace();
        let found: Labelled = self.kubectl.ask(&["get", "namespace", namespace, "--output", "json"]).await?;
        if found.metadata.labels.get(key).is_some_and(|found| found == value) {
            return Ok(());
        }
        let why = format!(
            "it does not allow faults; if it is to: kubectl --context {} label namespace {namespace} {key}={value}",
            self.kubectl.context()
        );
        Err(self.kubectl.failed(&format!("namespace {namespace}"), why))
    }

    /// Changes something if that is still allowed, or says that it would.
    async fn change(&self, arguments: &[&str], patience: Duration) -> Result<String, KubectlError> {
        if !self.rehearsal {
            self.allowed().await?;
        }
        self.run(arguments, patience).await
    }

    async fn run(&self, arguments: &[&str], patience: Duration) -> Result<String, KubectlError> {
        let line = self.kubectl.line(arguments);
        if self.rehearsal {
            println!("    {line}");
            return Ok(String::new());
        }
        eprintln!("    {line}");
        self.kubectl.run(arguments, patience).await
    }

    /// The same, again and again until it is done or the patience ends.
    async fn insist(&self, arguments: &[&str]) -> Result<String, KubectlError> {
        let give_up = Instant::now() + self.patience;
        loop {
            if !self.rehearsal {
                self.allowed().await?;
            }
            match self.run(arguments, self.patience).await {
                Err(_) if Instant::now() < give_up => tokio::time::sleep(LOOK).await,
                done => return done,
            }
        }
    }

    async fn pods(&self, component: &str) -> Result<Vec<Pod>, KubectlError> {
        let labels = format!("app.kubernetes.io/name=carillon,app.kubernetes.io/component={component}");
        let mut pods: Vec<Pod> = self.kubectl.list("pods", &labels).await?;
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Ok(pods)
    }

    async fn ready(&self, component: &str) -> Result<Vec<String>, KubectlError> {
        let pods = self.pods(component).await?;
        let names: Result<Vec<_>, _> =
            pods.into_iter().filter(Pod::is_ready).map(|pod| self.kubectl.name(pod.metadata.name)).collect();
        let names = names?;
        if names.is_empty() {
            return Err(self.kubectl.failed(component, "no pod of it is ready"));
        }
        Ok(names)
    }

    /// The pods that a target means in this round.
    async fn resolve(&self, target: Target, round: usize) -> Result<Vec<String>, KubectlError> {
        let turn = |names: Vec<String>| vec![names[round % names.len()].clone()];
        Ok(match target {
            Target::Gateway => turn(self.ready("gateway").await?),
            Target::Router => turn(self.ready("router").await?),
            Target::Gateways => self.ready("gateway").await?,
            Target::Routers => self.ready("router").await?,
            Target::Storage => self.ready("storage").await?,
            Target::All => {
                [self.ready("storage").await?, self.ready("router").await?, self.ready("gateway").await?].concat()
            }
            Target::StorageLeader | Target::StorageFollower | Target::Controller | Target::New => {
                vec![self.by_leadership(target).await?]
            }
        })
    }

    async fn by_leadership(&self, target: Target) -> Result<String, KubectlError> {
        let status = self.kubectl.run(&[&OPERATORS[..], &["status"]].concat(), self.patience).await?;
        let leaders = leaders(&status);
        if target == Target::Controller {
            let led = leaders.iter().find(|(shard, _)| *shard == "directory-0");
            let pod = led.map(|(_, pod)| (*pod).to_owned());
            return pod.ok_or_else(|| self.kubectl.failed("directory-0", "no leader is known"));
        }
        let mut counts: BTreeMap<String, usize> =
            self.ready("storage").await?.into_iter().map(|name| (name, 0)).collect();
        for (_, pod) in leaders {
            if let Some(count) = counts.get_mut(pod) {
                *count += 1;
            }
        }
        let mut by_count: Vec<_> = counts.into_iter().map(|(pod, count)| (count, pod)).collect();
        by_count.sort();
        let chosen = match target {
            Target::StorageLeader => by_count.pop().filter(|(count, _)| *count > 0),
            _ => by_count.into_iter().next(),
        };
        chosen.map(|(_, pod)| pod).ok_or_else(|| self.kubectl.failed("storage", "no pod that is ready leads a shard"))
    }

    async fn carry_out(&mut self, schedule: &Schedule, round: usize) -> Result<Vec<String>, KubectlError> {
        let (mut hit, last) = (Vec::new(), schedule.steps.len() - 1);
        for (number, (_, step)) in schedule.steps.iter().enumerate() {
            // The next one strikes at once.
            let wait = if number == last { "--wait=true" } else { "--wait=false" };
            hit.extend(match step.fault {
                Fault::Kill => self.delete(step.target, round, &[wait, "--grace-period=1"]).await?,
                Fault::Restart => self.delete(step.target, round, &[wait]).await?,
                Fault::Roll => self.roll(step.target).await?,
                Fault::Change(Change::Add) => vec![self.add().await?],
                Fault::Change(Change::Remove) => vec![self.remove().await?],
                _ => return Err(self.kubectl.failed(&step.to_string(), "it is not for Kubernetes")),
            });
        }
        self.all_ready().await?;
        Ok(hit)
    }

    async fn delete(&self, target: Target, round: usize, how: &[&str]) -> Result<Vec<String>, KubectlError> {
        let pods = self.resolve(target, round).await?;
        let names: Vec<_> = pods.iter().map(String::as_str).collect();
        self.change(&[&["delete", "pod"], names.as_slice(), how].concat(), self.patience).await?;
        Ok(pods)
    }

    async fn roll(&self, target: Target) -> Result<Vec<String>, KubectlError> {
        let mut hit = Vec::new();
        for (of, workload) in [
            (Target::Storage, STORAGE),
            (Target::Routers, "deployment/carillon-router"),
            (Target::Gateways, "deployment/carillon-gateway"),
        ] {
            if target == of || target == Target::All {
                self.change(&["rollout", "restart", workload], self.patience).await?;
                self.rolled_out(workload).await?;
                hit.push(workload.to_owned());
            }
        }
        Ok(hit)
    }

    async fn rolled_out(&self, workload: &str) -> Result<(), KubectlError> {
        if self.rehearsal {
            return Ok(());
        }
        let timeout = format!("--timeout={}s", self.patience.as_secs());
        let patience = self.patience + Duration::from_secs(10);
        self.kubectl.run(&["rollout", "status", workload, &timeout], patience).await.map(drop)
    }

    async fn replicas(&self) -> Result<u64, KubectlError> {
        if let Some(pretended) = self.pretended {
            return Ok(pretended);
        }
        Ok(self.kubectl.ask::<StatefulSet>(&["get", STORAGE, "--output", "json"]).await?.spec.replicas)
    }

    async fn scale(&mut self, from: u64, to: u64) -> Result<(), KubectlError> {
        let (from, replicas) = (format!("--current-replicas={from}"), format!("--replicas={to}"));
        self.change(&["scale", STORAGE, &from, &replicas], self.patience).await?;
        self.pretended = self.rehearsal.then_some(to);
        Ok(())
    }

    /// One more storage node, which takes its share.
    async fn add(&mut self) -> Result<String, KubectlError> {
        let replicas = self.replicas().await?;
        self.scale(replicas, replicas + 1).await?;
        let (pod, address) = storage_node(replicas);
        // The command is refused until the new node is there.
        self.insist(&[&OPERATORS[..], &["cluster", "add", &address]].concat()).await?;
        let wait = self.patience.as_secs().to_string();
        let rebalance = [&OPERATORS[..], &["cluster", "rebalance", "--wait", &wait]].concat();
        self.change(&rebalance, self.patience + Duration::from_secs(10)).await?;
        Ok(pod)
    }

    /// The storage node in the last pod leaves: a StatefulSet can do without no other one.
    async fn remove(&mut self) -> Result<String, KubectlError> {
        let replicas = self.replicas().await?;
        if replicas <= LEAST_STORAGE {
            let why = format!("there are {replicas} storage nodes, and {LEAST_STORAGE} must stay");
            return Err(self.kubectl.failed("remove", why));
        }
        let (pod, address) = storage_node(replicas - 1);
        let number = self.number_of(&address).await?;
        self.insist(&[&OPERATORS[..], &["cluster", "remove", &number]].concat()).await?;
        self.until("the node to leave", |members| members.nodes.iter().all(|member| member.address != address)).await?;
        self.scale(replicas, replicas - 1).await?;
        let timeout = format!("--timeout={}s", self.patience.as_secs());
        let gone = ["wait", "--for=delete", &format!("pod/{pod}"), &timeout];
        self.change(&gone, self.patience + Duration::from_secs(10)).await?;
        // The disk is that of a node that has left: whoever comes next in this pod begins with an empty one.
        self.change(&["delete", "persistentvolumeclaim", &format!("data-{pod}")], self.patience).await?;
        Ok(pod)
    }

    async fn members(&self) -> Result<Members, KubectlError> {
        self.kubectl.ask(&[&OPERATORS[..], &["cluster", "status", "--json"]].concat()).await
    }

    async fn number_of(&self, address: &str) -> Result<String, KubectlError> {
        if self.rehearsal {
            return Ok("NUMBER".to_owned());
        }
        let members = self.members().await?;
        let found = members.nodes.iter().find(|member| member.address == address);
        let number = found.map(|member| member.node.to_string());
        number.ok_or_else(|| self.kubectl.failed(address, "it is no storage node of the cluster"))
    }

    /// Waits until nothing moves any more and this is so.
    async fn until(&self, what: &str, so: impl Fn(&Members) -> bool) -> Result<(), KubectlError> {
        if self.rehearsal {
            return Ok(());
        }
        let give_up = Instant::now() + self.patience;
        loop {
            let why = match self.members().await {
                Ok(members) if members.left.is_none() && so(&members) => return Ok(()),
                Ok(members) => members.left.unwrap_or_else(|| "not yet".to_owned()),
                Err(error) => error.to_string(),
            };
            if Instant::now() > give_up {
                return Err(self.kubectl.failed(&format!("waited {:?} for {what}", self.patience), why));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn all_ready(&self) -> Result<(), KubectlError> {
        for workload in [STORAGE, "deployment/carillon-router", "deployment/carillon-gateway"] {
            self.rolled_out(workload).await?;
        }
        self.until("the storage nodes to be settled", |_| true).await
    }
}

impl Strike for KubernetesFaults {
    async fn strike(&mut self, schedule: &Schedule, round: usize) -> Struck {
        match self.carry_out(schedule, round).await {
            Ok(hit) => Struck { hit, failed: None },
            Err(error) => Struck { hit: Vec::new(), failed: Some(error.to_string()) },
        }
    }
}

/// The pod and the address of a storage node, as the manifests name them.
fn storage_node(number: u64) -> (String, String) {
    let pod = format!("carillon-storage-{number}");
    let address = format!("{pod}.carillon-storage:7401");
    (pod, address)
}

/// Shards and the pods that lead them, of what `carillon status` prints.
fn leaders(status: &str) -> Vec<(&str, &str)> {
    let shards = status.lines().skip_while(|line| !line.starts_with("SHARD")).skip(1);
    let led = shards.filter_map(|line| line.split_once(char::is_whitespace));
    led.map(|(shard, leader)| (shard, leader.trim().split('.').next().unwrap_or_default())).collect()
}

#[cfg(test)]
mod tests;
