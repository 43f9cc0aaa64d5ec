//! A cluster of processes on this machine.

use std::time::Duration;

use carillon_proto::tasks::Tasks;

use super::{Strike, Struck};
use crate::{
    cluster::Cluster,
    faults::{Schedule, Step, strike},
};

pub(crate) struct LocalFaults {
    pub(crate) cluster: Cluster,
    /// How long nodes may take to be ready, and a change to be done.
    pub(crate) patience: Duration,
    pub(crate) tasks: Tasks,
}

impl Strike for LocalFaults {
    async fn strike(&mut self, step: Step, round: usize) -> Struck {
        match strike(&mut self.cluster, &Schedule::of(step), round, self.patience, &self.tasks).await {
            Ok((hit, problems)) => Struck { hit, failed: (!problems.is_empty()).then(|| problems.join("; ")) },
            Err(why) => Struck { hit: Vec::new(), failed: Some(why) },
        }
    }
}
