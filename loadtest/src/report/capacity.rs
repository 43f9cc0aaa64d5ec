//! The search for the highest rate, as the report has it.

use serde::{Deserialize, Serialize};

use super::sample::Quantiles;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    pub acceptance_p99_ms: f64,
    pub delivery_p99_ms: Option<f64>,
    pub outcome: CapacityOutcome,
    /// Messages a second, the highest rate that held the level; absent if none did.
    pub rate: Option<f64>,
    /// What the outcome means, for people.
    pub why: String,
    /// In the order of their times.
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapacityOutcome {
    /// The service holds the rate, and misses the level a little above it.
    Found,
    /// The service holds the rate. What is above it was not found out: the generator or the scenario was the limit.
    AtLeast,
    /// The service misses the level at the lowest rate.
    None,
    /// No rate held the level whenever it was tried.
    NotConfirmed,
}

/// Why a rate was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    Double,
    Halve,
    Bisect,
    Confirm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    Holds,
    Misses,
    /// The generator was the limit, so the service was not tried at this rate.
    Generator,
}

/// A rate that was tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Milliseconds after the beginning of the run.
    pub at_ms: u64,
    pub purpose: Purpose,
    /// Messages a second.
    pub rate: f64,
    pub judgement: Judgement,
    pub why: String,
    pub windows: Vec<StepWindow>,
}

/// A part of a step, judged by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepWindow {
    pub seconds: f64,
    pub accepted_per_s: f64,
    pub acceptance: Option<Quantiles>,
    pub delivery: Option<Quantiles>,
    /// 99th percentile of acceptances without the time by which the generator itself was late.
    pub acceptance_once_sent_p99_us: u64,
    /// Sends that were refused, also those that the client repeated, if gateways were asked; and those without an answer.
    pub not_accepted: u64,
    pub late: u64,
    pub generator_cores: f64,
    pub judgement: Judgement,
    pub why: String,
}

impl Purpose {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Double => "double",
            Self::Halve => "halve",
            Self::Bisect => "bisect",
            Self::Confirm => "confirm",
        }
    }
}

impl Judgement {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Misses => "MISSES",
            Self::Generator => "generator",
        }
    }
}

impl Step {
    /// The worst p99 of the windows that say what the step says, in milliseconds; of all if none does.
    pub fn p99_ms(&self, which: fn(&StepWindow) -> Option<Quantiles>) -> Option<f64> {
        let agrees = |window: &&StepWindow| window.judgement == self.judgement;
        let any = self.windows.iter().any(|window| agrees(&window));
        let windows = self.windows.iter().filter(|window| !any || agrees(window));
        windows.filter_map(which).map(|quantiles| quantiles.p99_us as f64 / 1000.0).reduce(f64::max)
    }

    /// Messages a second over all its windows.
    pub fn accepted_per_s(&self) -> f64 {
        let seconds: f64 = self.windows.iter().map(|window| window.seconds).sum();
        let accepted: f64 = self.windows.iter().map(|window| window.accepted_per_s * window.seconds).sum();
        accepted / seconds.max(1e-9)
    }
}
