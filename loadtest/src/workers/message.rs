//! Messages between a coordinator and its workers.

use serde::{Deserialize, Serialize};

use crate::{
    capacity::{Drained, Measured},
    report::recorded::Recorded,
    scenario::Found,
    scenario_file::ScenarioFile,
};

/// From the coordinator.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(super) enum Order {
    /// The worker's name, the name of its run, and its share of the scenario: it is to sign its users in.
    Work { name: String, run: String, scenario: Box<ScenarioFile> },
    /// All are signed in.
    Start,
    /// To send at this rate, in messages a second over all users of the worker.
    Begin { rate: f64 },
    /// To measure for so long.
    Measure { ms: u64 },
    /// To stop sending, and to wait at most so long for what is on its way.
    End { patience_ms: u64 },
    /// To come to the end, and tell what was found.
    Finish,
    /// The worker's results have arrived: there is nothing more to do.
    Dismissed,
}

/// From a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub(super) enum Told {
    /// All its users are signed in.
    Ready,
    /// Each second, whatever else it does.
    Recorded(Box<Recorded>),
    Begun,
    Measured(Box<Measured>),
    Drained(Drained),
    Done(Box<Found>),
    /// The worker can't do its part.
    Failed {
        why: String,
    },
}
