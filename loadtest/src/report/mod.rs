//! The report of a run: one JSON file, documented in docs/loadtest.md, and a page with plots.

pub mod capacity;
pub mod compare;
pub mod figure;
pub mod html;
pub mod junit;
pub mod levels;
pub mod recorded;
pub mod recorder;
pub mod sample;
pub(crate) mod svg;
pub mod text;
pub mod times;

use std::{collections::BTreeMap, fs, io, path::Path};

use serde::{Deserialize, Serialize};

pub use self::{capacity::Capacity, recorder::PlotMark};
use self::{
    figure::Figure,
    levels::Level,
    sample::{Distribution, Sample},
};
use crate::{
    checker::{Findings, Summary},
    flush_probe::FlushReport,
    measure::window::Window,
    relay::RelayReport,
};

/// Examples of each class of violations.
const EXAMPLES: usize = 10;

/// Grows when a field gets another meaning or is removed.
pub const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub format: u32,
    /// The version of the program that wrote the report.
    pub version: String,
    pub scenario: String,
    pub note: String,
    pub run: String,
    pub began_unix_ms: u64,
    /// The options as given on the command line.
    pub options: Vec<String>,
    pub machine: Machine,
    pub verdict: Verdict,
    /// When the run was told to end before its time, in milliseconds after its beginning; absent if it was not.
    #[serde(default)]
    pub interrupted_ms: Option<u64>,
    /// Length of the measured part: without warm-up and reading back.
    pub measured_s: f64,
    /// Beginning of the measured part, in milliseconds after the beginning of the run; absent if the run never reached
    /// it.
    pub measured_from_ms: Option<u64>,
    pub figures: Vec<Figure>,
    pub distributions: Vec<Distribution>,
    pub integrity: Integrity,
    pub levels: Vec<Level>,
    /// Empty if neither process ids nor admin addresses were given.
    pub servers: Vec<ServerReport>,
    pub generator: GeneratorReport,
    /// Absent unless the options ask for it.
    pub limits: Option<Limits>,
    /// Absent unless the run looked for the highest rate.
    #[serde(default)]
    pub capacity: Option<Capacity>,
    /// The processes that made the load, if they were others than this one.
    #[serde(default)]
    pub workers: Vec<WorkerReport>,
    /// Faults that the run has caused, in the order of their times.
    #[serde(default)]
    pub faults: Vec<FaultReport>,
    pub marks: Vec<PlotMark>,
    /// One sample a second.
    pub samples: Vec<Sample>,
}

/// A run has the first of these verdicts that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    IntegrityBroken,
    /// Somebody has ended the run before its time: nothing was found to be wrong until then.
    Interrupted,
    /// The figures mean nothing: the generator was the limit, connections were lost, ...
    Invalid,
    LevelMissed,
    Pass,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cores: usize,
    pub os: String,
    pub architecture: String,
}

/// Counts of the whole run, warm-up included.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Integrity {
    #[serde(flatten)]
    pub summary: Summary,
    /// Inboxes that could not be read back: what they have is not known.
    #[serde(default)]
    pub unread: u64,
    /// Violations by class: lost, doubled, reordered, invented, corrupted, gap.
    pub violations: BTreeMap<String, u64>,
    /// The first violations of each class, and the first inboxes that could not be read back.
    pub examples: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerReport {
    pub name: String,
    /// CPU time in the measured part, in microseconds.
    pub cpu_us: u64,
    pub rss_before_bytes: u64,
    pub rss_after_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GeneratorReport {
    pub workers: usize,
    /// CPU time in the measured part, in microseconds.
    pub cpu_us: u64,
    pub cores: f64,
    /// Used part of all cores' time, by any process: 0 to 1.
    pub machine_busy: f64,
    pub scheduled: u64,
    pub late: u64,
    /// Why the run is invalid.
    pub invalid: Option<String>,
}

/// What the machine can do at most, measured right before the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    pub relay: RelayReport,
    pub flush: FlushReport,
}

/// A process that made a part of the load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerReport {
    pub name: String,
    pub address: String,
    pub users: usize,
    pub threads: usize,
    /// CPU time in the measured part, in microseconds.
    pub cpu_us: u64,
    pub late: u64,
    /// Why nothing can be said of its part; absent if it came to its end.
    pub lost: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FaultReport {
    /// Milliseconds after the beginning of the run.
    pub at_ms: u64,
    /// Until everything was ready again.
    pub took_ms: u64,
    pub what: String,
    /// The nodes or pods that it hit.
    pub hit: Vec<String>,
    /// Why it could not be carried out, or was not healed.
    pub failed: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("can't read report {path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("{path} is not a report: {source}")]
    Json { path: String, source: serde_json::Error },
    #[error("report {path} has format {found}, this program reads {FORMAT}")]
    Format { path: String, found: u64 },
}

impl Report {
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        fs::write(path, json)
    }

    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let shown = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|source| ReadError::Io { path: shown.clone(), source })?;
        let json = |source| ReadError::Json { path: shown.clone(), source };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(json)?;
        match value["format"].as_u64() {
            Some(found) if found != u64::from(FORMAT) => Err(ReadError::Format { path: shown, found }),
            _ => serde_json::from_value(value).map_err(json),
        }
    }

    /// A fault after which the service did not come back is a missed level; one that could not be carried out, too: the run was to show
    /// what comes of it.
    pub(crate) fn judge_faults(&mut self) {
        let failed = self.faults.iter().filter(|fault| fault.failed.is_some()).count() as f64;
        let level = Level { name: "faults not healed".to_owned(), wanted: 0.0, got: Some(failed), met: failed == 0.0 };
        if !level.met && self.verdict == Verdict::Pass {
            self.verdict = Verdict::LevelMissed;
        }
        self.levels.push(level);
        if self.faults.is_empty() {
            self.invalidate("no fault has struck in the measured time".to_owned());
        }
    }

    /// The figures mean nothing. What is broken is broken nevertheless.
    pub(crate) fn invalidate(&mut self, why: String) {
        if !matches!(self.verdict, Verdict::IntegrityBroken | Verdict::Interrupted) {
            self.verdict = Verdict::Invalid;
        }
        self.generator.invalid = Some(why);
    }

    pub fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }
}

impl Machine {
    pub fn this() -> Self {
        Self {
            cores: crate::measure::proc::cores(),
            os: std::env::consts::OS.to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
        }
    }
}

impl Integrity {
    /// Why it can't be said whether everything accepted is there; `None` if it can.
    pub(crate) fn not_provable(&self) -> Option<String> {
        let inboxes = match self.unread {
            0 => return None,
            1 => "1 inbox".to_owned(),
            many => format!("{many} inboxes"),
        };
        Some(format!(
            "{inboxes} could not be read back, or what users see of others: whether everything is there is not proven"
        ))
    }

    /// Adds what was found elsewhere.
    pub fn add(&mut self, other: &Self) {
        let Self { summary, unread, violations, examples } = other;
        self.summary += *summary;
        self.unread += unread;
        for (class, count) in violations {
            *self.violations.entry(class.clone()).or_default() += count;
        }
        // Enough of each class, as in a single run.
        self.examples.extend(examples.iter().cloned());
        let mut kept: BTreeMap<String, usize> = BTreeMap::new();
        self.examples.retain(|example| {
            let class = example.split(':').next().unwrap_or_default();
            let count = kept.entry(class.to_owned()).or_default();
            *count += 1;
            *count <= EXAMPLES
        });
    }
}

impl From<&Findings> for Integrity {
    fn from(findings: &Findings) -> Self {
        let first = |kind| findings.violations.iter().filter(move |violation| violation.kind() == kind).take(EXAMPLES);
        let violations = findings.counts.keys().flat_map(|kind| first(*kind));
        let unread = findings.unread.iter().take(EXAMPLES);
        Self {
            summary: findings.summary,
            unread: findings.unread.len() as u64,
            violations: findings.counts.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
            examples: violations.map(ToString::to_string).chain(unread.map(ToString::to_string)).collect(),
        }
    }
}

impl GeneratorReport {
    pub fn new(window: &Window, workers: usize, invalid: Option<String>) -> Self {
        Self {
            workers,
            cpu_us: window.own_cpu_us,
            cores: window.own_cores(),
            machine_busy: window.machine_busy,
            scheduled: window.counts.scheduled,
            late: window.counts.late,
            invalid,
        }
    }
}

impl ServerReport {
    pub fn all(window: &Window) -> Vec<Self> {
        let report = |server: &crate::measure::window::ServerWindow| Self {
            name: server.name.clone(),
            cpu_us: server.cpu_us,
            rss_before_bytes: server.rss_before_bytes,
            rss_after_bytes: server.rss_after_bytes,
        };
        window.servers.iter().map(report).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests;
