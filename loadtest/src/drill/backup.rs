//! Backups while users write: a quiet one, and one while a storage node and a router are killed in its middle.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::Deserialize;
use tokio::time::sleep;

use super::{
    report::BackedUp,
    run::{Drill, Phase},
    size::{Size, on_disk},
    traffic::Traffic,
};
use crate::{
    cluster::{Cluster, ClusterError, Role},
    scenario::Witness,
};

/// The folder of the backups, and the one that is restored.
const FOLDER: &str = "backups";
pub(super) const RESTORED: &str = "while-nodes-die";
const QUIET: &str = "quiet";

/// The least time that a backup takes while nodes are killed: it is slowed down if it would be faster, so that the kills come in its
/// middle.
const LONG_ENOUGH: Duration = Duration::from_secs(20);
/// How long a killed node is away.
const AWAY: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);

/// The JSON of `carillon backup create --json`.
#[derive(Deserialize)]
struct Made {
    bytes: u64,
    records: u64,
}

pub(super) fn place(drill: &Drill<'_>) -> PathBuf {
    drill.options.folder.join(FOLDER)
}

pub(super) async fn run(drill: &mut Drill<'_>) -> anyhow::Result<()> {
    let (options, patience) = (drill.options, drill.options.load.patience);
    let earlier = place(drill);
    if earlier.exists() {
        std::fs::remove_dir_all(&earlier).with_context(|| format!("can't remove {}", earlier.display()))?;
    }
    let traffic = Traffic::start(&drill.cluster, &drill.load_of(Phase::Backup), &options.load).await?;
    drill.witnesses.extend(traffic.witnesses());
    let made = both(drill, &traffic).await;
    let verdict = traffic.finish(patience).await?;
    drill.report.take("backup", &verdict);
    made
}

async fn both(drill: &mut Drill<'_>, traffic: &Traffic) -> anyhow::Result<()> {
    make(drill, QUIET, None, traffic).await?;
    let quiet = &drill.report.backups[0];
    let slowed = quiet.create_seconds < LONG_ENOUGH.as_secs_f64();
    let rate = slowed.then(|| (quiet.bytes.0 as f64 / LONG_ENOUGH.as_secs_f64()).ceil() as u64);
    make(drill, RESTORED, Some(Kills { bytes: quiet.bytes.0, rate_bytes: rate }), traffic).await
}

/// How nodes are killed in the middle of a backup.
struct Kills {
    /// How large the backup will be, about.
    bytes: u64,
    rate_bytes: Option<u64>,
}

async fn make(drill: &mut Drill<'_>, name: &str, kills: Option<Kills>, traffic: &Traffic) -> anyhow::Result<()> {
    let (operator, patience) = (drill.cluster.operator(), drill.options.load.change_patience);
    let to = place(drill).to_string_lossy().into_owned();
    let rate_bytes = kills.as_ref().and_then(|kills| kills.rate_bytes);
    let rate = rate_bytes.map(|rate| rate.to_string());
    let mut arguments = vec!["backup", "create", "--to", &to, "--name", name, "--json"];
    arguments.extend(rate.iter().flat_map(|rate| ["--rate-bytes", rate]));
    let beginning = traffic.begin();
    drill.witnesses.iter_mut().for_each(Witness::note);
    drill.backed_up = drill.witnesses.len();
    let (began, ended) = (Instant::now(), AtomicBool::new(false));
    let creating = async {
        let told = operator.run(&arguments, patience).await;
        ended.store(true, Ordering::Relaxed);
        (told, began.elapsed())
    };
    let struck = async {
        match &kills {
            Some(kills) => kills.strike(&mut drill.cluster, &Path::new(&to).join(name), &ended).await,
            None => Ok(Vec::new()),
        }
    };
    let ((told, took), struck) = tokio::join!(creating, struck);
    let made: Made = serde_json::from_str(&told?.done()?).context("what the backup says is not understood")?;
    let faults = struck?;
    if kills.is_some() && faults.len() < KILLED.len() {
        drill.report.missed.push(format!("backup {name} was made before nodes could be killed in its middle"));
    }
    for at in 0..drill.cluster.nodes.len() {
        if !drill.cluster.nodes[at].retired {
            drill.cluster.nodes[at].wait_ready(drill.options.load.patience).await?;
        }
    }
    let during = traffic.end(beginning, drill.options.load.patience).await?;
    let verifying = Instant::now();
    operator.run(&["backup", "verify", "--from", &to, "--name", name], patience).await?.done()?;
    let (create_seconds, bytes) = (took.as_secs_f64(), Size(made.bytes));
    drill.say(&format!("backup {name}: {create_seconds:.1} s, {bytes}, {} records", made.records));
    let backup = BackedUp {
        name: name.to_owned(),
        faults,
        create_seconds,
        bytes,
        records: made.records,
        rate_bytes,
        verify_seconds: verifying.elapsed().as_secs_f64(),
        during,
    };
    drill.report.backups.push(backup);
    Ok(())
}

/// The nodes to be killed, each at so many hundredths of the backup.
const KILLED: [(Role, u64); 2] = [(Role::Storage, 25), (Role::Router, 55)];

impl Kills {
    /// Returns what was done before the backup ended.
    async fn strike(
        &self,
        cluster: &mut Cluster,
        made: &Path,
        ended: &AtomicBool,
    ) -> Result<Vec<String>, ClusterError> {
        let mut faults = Vec::new();
        for (role, hundredths) in KILLED {
            while Size(self.bytes * hundredths / 100) > on_disk(made).map_err(ClusterError::io(made))? {
                if ended.load(Ordering::Relaxed) {
                    return Ok(faults);
                }
                sleep(LOOK).await;
            }
            let at = match role {
                Role::Storage => cluster.storage_by_leadership().await?[0],
                other => cluster.of(other)[0],
            };
            cluster.nodes[at].kill();
            // A fault that strikes when all is done proves nothing.
            let in_time = !ended.load(Ordering::Relaxed);
            sleep(AWAY).await;
            cluster.nodes[at].start()?;
            if in_time {
                faults.push(format!("{} killed at {hundredths} % for {} s", cluster.nodes[at].name(), AWAY.as_secs()));
            }
        }
        Ok(faults)
    }
}
