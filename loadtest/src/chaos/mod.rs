//! Faults, one after the other, while the load of a scenario goes on.

mod kubectl;
mod kubernetes;
mod local;
mod order;

use std::time::{Duration, Instant};

use self::order::Rounds;
pub(crate) use self::{
    kubectl::Kubectl,
    kubernetes::{Consent, KubernetesFaults},
    local::LocalFaults,
};
use crate::{
    faults::Schedule,
    report::{FaultReport, recorder::Recorder},
    scenario::Ending,
    scenario_file::ChaosPart,
};

/// The targets of a fault, and the reason if it failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Struck {
    pub(crate) hit: Vec<String>,
    /// Why it could not be carried out, or was not healed.
    pub(crate) failed: Option<String>,
}

/// A cluster whose parts can be made to fail.
pub(crate) trait Strike {
    /// Carries the fault out, and waits until everything is ready again. `round` is the number of earlier rounds, by which nodes take
    /// turns.
    async fn strike(&mut self, schedule: &Schedule, round: usize) -> Struck;
}

/// Looks this often whether messages are measured.
const LOOK: Duration = Duration::from_millis(50);

/// One fault after the other, from the beginning of the measured time until it is over or the run ends.
pub(crate) async fn run(
    cluster: &mut impl Strike,
    part: &ChaosPart,
    measured: Duration,
    recorder: &Recorder,
    ending: &Ending,
) -> Vec<FaultReport> {
    while recorder.measures_from_ms().is_none() {
        if !ending.within(LOOK).await {
            return Vec::new();
        }
    }
    let (end, mut done) = (Instant::now() + measured, Vec::new());
    for (round, schedule) in Rounds::new(&part.schedules(), part.seed) {
        // No fault begins that would hardly strike before the end.
        if Instant::now() + part.pause.0 * 2 > end || !ending.within(part.pause.0).await {
            break;
        }
        let (at_ms, began) = (recorder.elapsed_ms(), Instant::now());
        recorder.mark(format!("{schedule} begins"));
        let Struck { hit, failed } = cluster.strike(&schedule, round).await;
        recorder.mark(format!("{schedule} {}", if failed.is_some() { "FAILED" } else { "ends" }));
        let took_ms = began.elapsed().as_millis() as u64;
        eprintln!("{schedule}: {} after {took_ms} ms", failed.as_deref().unwrap_or("healed"));
        done.push(FaultReport { at_ms, took_ms, what: schedule.to_string(), hit, failed });
    }
    done
}

/// The first round, without a load, for a rehearsal.
pub(crate) async fn rehearse(cluster: &mut impl Strike, part: &ChaosPart) -> Result<(), String> {
    let schedules = part.schedules();
    for (round, schedule) in Rounds::new(&schedules, part.seed).take(schedules.len()) {
        println!("{schedule}:");
        if let Some(failed) = cluster.strike(&schedule, round).await.failed {
            return Err(format!("{schedule}: {failed}"));
        }
    }
    Ok(())
}
