//! A cluster of processes on this machine.

use std::time::Duration;

use carillon_proto::tasks::Tasks;

use super::{Strike, Struck};
use crate::{
    cluster::Cluster,
    faults::{Needs, Schedule, strike},
};

pub(crate) struct LocalFaults {
    pub(crate) cluster: Cluster,
    /// How long nodes may take to be ready, and a change to be done.
    pub(crate) patience: Duration,
    pub(crate) tasks: Tasks,
}

impl LocalFaults {
    /// Fails if a fault needs network namespaces, disks or clocks, which this cluster does not have.
    pub(crate) fn knows(schedule: &Schedule) -> Result<(), String> {
        if schedule.steps.iter().all(|(_, step)| step.fault.needs() == Needs::Nothing) {
            Ok(())
        } else {
            let why = "needs networks, disks or clocks of its own, which --local-cluster does not make";
            Err(format!("{schedule} {why}: carillon-faults does"))
        }
    }
}

impl Strike for LocalFaults {
    async fn strike(&mut self, schedule: &Schedule, round: usize) -> Struck {
        match strike(&mut self.cluster, schedule, round, self.patience, &self.tasks).await {
            Ok((hit, problems)) => Struck { hit, failed: (!problems.is_empty()).then(|| problems.join("; ")) },
            Err(why) => Struck { hit: Vec::new(), failed: Some(why) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_more_than_processes_is_refused_before_there_are_any() {
        let knows = |text: &str| LocalFaults::knows(&Schedule::of_line(text).expect("valid"));
        for text in [
            "kill gateway for 3s",
            "roll all",
            "pause router for 3s",
            "damage=log storage-leader for 5s",
            "add new",
            "add new with kill controller for 3s",
            "kill gateway for 3s and kill router for 3s",
        ] {
            assert_eq!(knows(text), Ok(()));
        }
        for text in [
            "partition router for 3s",
            "full-disk storage for 3s",
            "clock=+60s gateway for 3s",
            "kill router for 3s and mute gateway for 3s",
        ] {
            assert!(knows(text).is_err_and(|why| why.contains("carillon-faults does")), "{text}");
        }
    }
}
