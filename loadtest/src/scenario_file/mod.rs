//! Scenario files: what is run, against what, for how long, and what is demanded of it. docs/loadtest.md describes them.

mod check;
mod groups;
pub(crate) mod length;
mod marks;
mod presence;
mod presets;
mod setting;
mod share;

use std::{fs, path::PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use self::presets::PRESETS;
use self::{groups::GroupsPart, length::Length, marks::MarksPart, presence::PresencePart};
use crate::{credentials::SignInPart, faults::Schedule};

/// A whole scenario. Unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScenarioFile {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) about: String,
    #[serde(default)]
    pub(crate) target: TargetPart,
    /// How users sign in.
    #[serde(default)]
    pub(crate) sign_in: SignInPart,
    #[serde(default)]
    pub(crate) time: TimePart,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) direct: Option<DirectPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) groups: Option<GroupsPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) presence: Option<PresencePart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) marks: Option<MarksPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) idle: Option<IdlePart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offline: Option<OfflinePart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reconnect: Option<ReconnectPart>,
    #[serde(default)]
    pub(crate) level: LevelPart,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) capacity: Option<CapacityPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) chaos: Option<ChaosPart>,
}

/// The service under load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TargetPart {
    pub(crate) addresses: Vec<String>,
    pub(crate) token_secret_file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_name: Option<String>,
    /// Sends a second that the gateways let each user have.
    pub(crate) sends_per_user: f64,
    /// Servers whose CPU and memory are measured.
    pub(crate) server_pids: Vec<u32>,
    pub(crate) admin: Vec<String>,
    pub(crate) gateway_admin: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TimePart {
    pub(crate) warm_up: Length,
    pub(crate) measured: Length,
    /// How long the last messages may take.
    pub(crate) patience: Length,
}

/// Users who write to each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DirectPart {
    pub(crate) users: usize,
    #[serde(default = "one")]
    pub(crate) devices: usize,
    /// Messages a second over all users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ramp: Option<RampPart>,
    /// Sends of each user without an answer.
    #[serde(default = "window")]
    pub(crate) window: usize,
    #[serde(default = "bytes")]
    pub(crate) bytes: usize,
    #[serde(default)]
    pub(crate) slow_readers: usize,
    #[serde(default = "slow_pause")]
    pub(crate) slow_pause: Length,
}

/// The rate changes evenly from the beginning of the warm-up to the end of the measured time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RampPart {
    pub(crate) from: f64,
    pub(crate) to: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdlePart {
    pub(crate) connections: usize,
    #[serde(default = "sign_ins_at_once")]
    pub(crate) concurrency: usize,
}

/// Messages to users who are away, and their catch-up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfflinePart {
    pub(crate) absent: usize,
    #[serde(default = "senders")]
    pub(crate) senders: usize,
    /// In each round.
    pub(crate) messages: u64,
    /// Messages a second over all senders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<f64>,
    #[serde(default = "window")]
    pub(crate) window: usize,
    #[serde(default = "bytes")]
    pub(crate) bytes: usize,
    #[serde(default)]
    pub(crate) after: Length,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) every: Option<Length>,
}

/// Connections that break at once and come back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReconnectPart {
    pub(crate) connections: usize,
    #[serde(default = "senders")]
    pub(crate) senders: usize,
    #[serde(default = "bytes")]
    pub(crate) bytes: usize,
    #[serde(default)]
    pub(crate) after: Length,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) every: Option<Length>,
}

/// When something begins, counted from the beginning of the measured time, and how often it is repeated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rounds {
    pub(crate) after: Length,
    /// From the beginning of a round to that of the next one; without it there is one.
    pub(crate) every: Option<Length>,
}

impl OfflinePart {
    pub(crate) fn rounds(&self) -> Rounds {
        Rounds { after: self.after, every: self.every }
    }
}

impl ReconnectPart {
    pub(crate) fn rounds(&self) -> Rounds {
        Rounds { after: self.after, every: self.every }
    }
}

/// What is demanded. Nothing that was accepted may be lost, whatever stands here.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LevelPart {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) acceptance_p99_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delivery_p99_ms: Option<f64>,
    /// Zero, if it is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lost: Option<u64>,
    /// Sends that were refused for good or had no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) not_accepted: Option<u64>,
    /// Accepted messages a second, at least; the capacity, if the run looks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<f64>,
    /// For each message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_cpu_us: Option<f64>,
}

/// The highest rate that holds the level is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CapacityPart {
    /// The first rate.
    pub(crate) from: f64,
    /// No higher rate is tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) most: Option<f64>,
    /// How close the found rate is to one that does not hold: 0.05 is 5 %.
    pub(crate) precision: f64,
    pub(crate) settle: Length,
    pub(crate) window: Length,
}

/// Faults, one after the other, while users do something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ChaosPart {
    /// As `carillon-faults` writes them.
    pub(crate) faults: Vec<String>,
    /// From the end of a fault to the beginning of the next one.
    pub(crate) pause: Length,
    /// The order of the faults in each round; the same number, the same order.
    pub(crate) seed: u64,
    /// How long the service may take to be ready again.
    pub(crate) patience: Length,
}

impl LevelPart {
    /// Whether times, rates or costs are demanded.
    pub(crate) fn asks_for_figures(&self) -> bool {
        let Self { acceptance_p99_ms, delivery_p99_ms, rate, server_cpu_us, .. } = self;
        [acceptance_p99_ms, delivery_p99_ms, rate, server_cpu_us].into_iter().any(Option::is_some)
    }
}

/// A window of fewer messages has no 99th percentile.
const MESSAGES_OF_A_WINDOW: f64 = 100.0;

impl CapacityPart {
    /// The lowest rate that can be judged.
    pub(crate) fn least(&self) -> f64 {
        (MESSAGES_OF_A_WINDOW / self.window.0.as_secs_f64()).max(1.0)
    }
}

impl ChaosPart {
    /// The faults, which were checked.
    pub(crate) fn schedules(&self) -> Vec<Schedule> {
        self.faults.iter().filter_map(|fault| Schedule::of_line(fault).ok()).collect()
    }
}

fn one() -> usize {
    1
}

fn window() -> usize {
    16
}

fn bytes() -> usize {
    256
}

fn slow_pause() -> Length {
    Length::of_ms(50)
}

fn sign_ins_at_once() -> usize {
    64
}

fn senders() -> usize {
    4
}

impl Default for TargetPart {
    fn default() -> Self {
        Self {
            addresses: vec!["tcp://127.0.0.1:7410".to_owned()],
            token_secret_file: "data/secrets/token".into(),
            ca: None,
            server_name: None,
            // The default of gateway.sends_per_second.
            sends_per_user: 50.0,
            server_pids: Vec::new(),
            admin: Vec::new(),
            gateway_admin: Vec::new(),
        }
    }
}

impl Default for TimePart {
    fn default() -> Self {
        Self { warm_up: Length::of_ms(2000), measured: Length::of_ms(30_000), patience: Length::of_ms(60_000) }
    }
}

impl Default for CapacityPart {
    fn default() -> Self {
        Self { from: 100.0, most: None, precision: 0.05, settle: Length::of_ms(2000), window: Length::of_ms(5000) }
    }
}

impl Default for ChaosPart {
    fn default() -> Self {
        Self { faults: Vec::new(), pause: Length::of_ms(20_000), seed: 1, patience: Length::of_ms(120_000) }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ScenarioError {
    #[error("there is neither a file nor a preset {name:?}; the presets are {presets}", presets = presets::names())]
    Unknown { name: String },
    #[error("can't read {path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("{name}: {why}")]
    Toml { name: String, why: String },
    #[error("--set {given:?} is not KEY=VALUE with a value of TOML, for example direct.users=100: {why}")]
    Set { given: String, why: String },
    #[error("{name}: {wrong}")]
    Contradiction { name: String, wrong: String },
}

/// The text of a file or of a preset.
pub(crate) fn text_of(file_or_preset: &str) -> Result<String, ScenarioError> {
    if let Some((_, text)) = PRESETS.iter().find(|(name, _)| *name == file_or_preset) {
        return Ok((*text).to_owned());
    }
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => ScenarioError::Unknown { name: file_or_preset.to_owned() },
        _ => ScenarioError::Io { path: file_or_preset.to_owned(), source },
    };
    fs::read_to_string(file_or_preset).map_err(failed)
}

impl ScenarioFile {
    /// Reads a file or a preset, replaces what `set` names (`direct.users=100`), and checks it.
    pub(crate) fn read(file_or_preset: &str, set: &[String]) -> Result<Self, ScenarioError> {
        Self::parse(file_or_preset, &text_of(file_or_preset)?, set)
    }

    /// `name` is for errors.
    pub(crate) fn parse(name: &str, text: &str, set: &[String]) -> Result<Self, ScenarioError> {
        let wrong = |why: String| ScenarioError::Toml { name: name.to_owned(), why };
        let scenario: Self = if set.is_empty() {
            // Errors then have the line.
            toml::from_str(text).map_err(|error| wrong(error.to_string()))?
        } else {
            let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| wrong(error.to_string()))?;
            for given in set {
                replace(&mut table, given).map_err(|why| ScenarioError::Set { given: given.clone(), why })?;
            }
            table.try_into().map_err(|error: toml::de::Error| wrong(error.to_string()))?
        };
        scenario.check().map_err(|wrong| ScenarioError::Contradiction { name: name.to_owned(), wrong })?;
        Ok(scenario)
    }

    pub(crate) fn to_toml(&self) -> String {
        toml::to_string(self).expect("tables behind values, and keys that are names")
    }
}

/// Replaces the value of a key such as `direct.users`. A value that is no TOML is a text.
fn replace(table: &mut toml::Table, given: &str) -> Result<(), String> {
    let (key, value) = given.split_once('=').ok_or("it has no =")?;
    let value = match format!("value = {value}").parse::<toml::Table>() {
        Ok(mut parsed) => parsed.remove("value").ok_or("it has no value")?,
        Err(_) => toml::Value::String(value.to_owned()),
    };
    let mut inner = table;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        if part.is_empty() {
            return Err("a part of the key is empty".to_owned());
        }
        if parts.peek().is_none() {
            inner.insert(part.to_owned(), value);
            return Ok(());
        }
        let next = inner.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        inner = next.as_table_mut().ok_or_else(|| format!("{part} is no table"))?;
    }
    Err("it has no key".to_owned())
}

#[cfg(test)]
mod tests;
