//! Faults: what is done, to which nodes, for how long, and how this is written.

use std::{fmt, str::FromStr, time::Duration};

use super::Change;

/// A fault of a node. Its end heals the node: a paused process continues, an ended one is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGTERM; the fault waits for the orderly end.
    Restart,
    /// SIGTERM, one node after the other: each is started again, and the next one waits until it is ready.
    Roll,
    /// SIGSTOP.
    Pause,
    /// The node is cut off from the other nodes, both ways; clients still reach it.
    Partition,
    /// Packets from the other nodes do not arrive.
    Deaf,
    /// The node's packets do not arrive at the other nodes.
    Mute,
    /// The node's cable is disconnected: neither nodes nor clients reach it.
    Unplug,
    /// Packets are delayed by this many milliseconds, each way.
    Delay(u64),
    /// This percentage of the packets to and from other nodes is lost.
    Loss(u8),
    /// The disk is limited to this many kilobits a second.
    SlowDisk(u64),
    FullDisk,
    /// Writes fail. At the end the node gets its disk back with the content that it had, and is started again.
    DiskErrors,
    /// Reads of these files fail. At the end the node is killed if it still runs, must not start, and is started again with the
    /// disk that it had.
    ReadErrors(Files),
    /// SIGKILL, and unflushed writes are lost.
    PowerCut,
    /// The wall clock jumps by this many seconds; at the end it jumps back.
    Clock(i64),
    /// Bytes in these files of a running storage node are changed. At the end it is killed if it has not noticed, must not
    /// serve when it is started, is repaired, and started again.
    Damage(Files),
    /// The same, but the node is killed first.
    DamageAtRest(Files),
    /// No fault: an operator's command. Its end is when the cluster has done it.
    Change(Change),
}

/// A kind of files of a storage node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Files {
    Directory,
    Timeline,
    Log,
    /// Damaged at rest only: while the node runs, it replaces them.
    Snapshots,
    Identity,
}

const FILES: [(Files, &str); 5] = [
    (Files::Directory, "directory"),
    (Files::Timeline, "timeline"),
    (Files::Log, "log"),
    (Files::Snapshots, "snapshots"),
    (Files::Identity, "identity"),
];

impl Files {
    /// The folder or file in the node's data folder.
    pub(crate) fn path(self) -> &'static str {
        let (_, name) = FILES.iter().find(|(files, _)| *files == self).expect("FILES names all");
        name
    }

    fn named(text: &str) -> Option<Self> {
        FILES.iter().find(|(_, name)| *name == text).map(|(files, _)| *files)
    }
}

/// A part of the cluster that a fault needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    Nothing,
    Namespaces,
    Disks,
    Clocks,
}

impl Fault {
    pub fn needs(self) -> Needs {
        match self {
            Self::Kill
            | Self::Restart
            | Self::Roll
            | Self::Pause
            | Self::Damage(_)
            | Self::DamageAtRest(_)
            | Self::Change(_) => Needs::Nothing,
            Self::Partition | Self::Deaf | Self::Mute | Self::Unplug | Self::Delay(_) | Self::Loss(_) => {
                Needs::Namespaces
            }
            Self::SlowDisk(_) | Self::FullDisk | Self::DiskErrors | Self::ReadErrors(_) | Self::PowerCut => {
                Needs::Disks
            }
            Self::Clock(_) => Needs::Clocks,
        }
    }

    /// True if it concerns a storage node's disk.
    fn is_of_a_disk(self) -> bool {
        self.needs() == Needs::Disks || matches!(self, Self::Damage(_) | Self::DamageAtRest(_))
    }

    /// True if there have to be snapshots.
    pub(super) fn needs_snapshots(self) -> bool {
        matches!(self, Self::DamageAtRest(Files::Snapshots) | Self::ReadErrors(Files::Snapshots))
    }

    pub(crate) fn change(self) -> Option<Change> {
        match self {
            Self::Change(change) => Some(change),
            _ => None,
        }
    }
}

/// The nodes that a fault hits. Nodes of one role take turns, run by run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// The storage node that leads the most shards.
    StorageLeader,
    /// The storage node that leads the fewest shards, of those that the cluster was made of.
    StorageFollower,
    /// The storage node that leads the registry, and so controls the placement.
    Controller,
    /// The storage node that has come last, or has come to another address.
    New,
    /// All storage nodes at once.
    Storage,
    Router,
    /// All routers at once.
    Routers,
    Gateway,
    /// All gateways at once.
    Gateways,
    /// Every node at once.
    All,
}

const TARGETS: [(Target, &str); 10] = [
    (Target::StorageLeader, "storage-leader"),
    (Target::StorageFollower, "storage-follower"),
    (Target::Controller, "controller"),
    (Target::New, "new"),
    (Target::Storage, "storage"),
    (Target::Router, "router"),
    (Target::Routers, "routers"),
    (Target::Gateway, "gateway"),
    (Target::Gateways, "gateways"),
    (Target::All, "all"),
];

impl Target {
    pub fn is_storage(self) -> bool {
        self.is_one_of_the_first() || matches!(self, Self::New | Self::Storage)
    }

    /// True for one of the storage nodes that the cluster was made of.
    fn is_one_of_the_first(self) -> bool {
        matches!(self, Self::StorageLeader | Self::StorageFollower | Self::Controller)
    }
}

/// Written `kill storage-leader for 3s`, `loss=20% router for 10s`, `restart gateway`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub fault: Fault,
    pub target: Target,
    pub length: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("{0:?} is not FAULT TARGET [for LENGTH], for example: kill storage-leader for 3s")]
    Form(String),
    #[error(
        "{0:?} is no fault: kill, restart, roll, pause, partition, deaf, mute, unplug, delay=100ms, loss=20%, \
         slow-disk=512k, full-disk, disk-errors, read-errors=log, power-cut, clock=+3600s, \
         damage=timeline, damage-at-rest=directory, add, rebalance, remove, replace, replace-elsewhere, readdress, move"
    )]
    Fault(String),
    #[error(
        "{0:?} is no target: storage-leader, storage-follower, controller, new, storage, router, routers, gateway, gateways, all"
    )]
    Target(String),
    #[error("{0:?} is no length of time: 500ms, 3s or 2m")]
    Length(String),
    #[error("{0} is for storage nodes")]
    NoDisk(String),
    #[error("roll is for storage, routers, gateways or all, and has no length: it ends when all are ready again")]
    Roll,
    #[error("{0} is for {1}, and has no length: it ends when it is done")]
    Change(Change, &'static str),
    #[error(
        "{0:?} is not CHANGE TARGET with FAULT TARGET [for LENGTH], for example: add new with kill controller for 3s"
    )]
    With(String),
    #[error("{0:?} is not FAULT TARGET for LENGTH and FAULT TARGET for LENGTH: rolls and changes are not for that")]
    And(String),
    #[error("line {line}: {error}")]
    Line { line: usize, error: Box<ParseError> },
}

impl FromStr for Step {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let words: Vec<_> = text.split_whitespace().collect();
        let (fault, target, length) = match words[..] {
            [fault, target] => (fault, target, "0s"),
            [fault, target, "for", length] => (fault, target, length),
            _ => return Err(ParseError::Form(text.to_owned())),
        };
        let step = Self { fault: fault.parse()?, target: target.parse()?, length: parse_length(length)? };
        if step.fault.is_of_a_disk() && !step.target.is_storage() {
            return Err(ParseError::NoDisk(step.fault.to_string()));
        }
        let several = matches!(step.target, Target::Storage | Target::Routers | Target::Gateways | Target::All);
        if step.fault == Fault::Roll && !(several && step.length.is_zero()) {
            return Err(ParseError::Roll);
        }
        if let Some(change) = step.fault.change() {
            let (fits, who) = match change {
                Change::Add => (step.target == Target::New, "new"),
                Change::Rebalance => (step.target == Target::Storage, "storage"),
                _ => (step.target.is_one_of_the_first(), "storage-leader, storage-follower or controller"),
            };
            if !fits || !step.length.is_zero() {
                return Err(ParseError::Change(change, who));
            }
        }
        Ok(step)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.fault, self.target)?;
        match self.length.as_millis() {
            0 => Ok(()),
            ms if ms % 1000 == 0 => write!(f, " for {}s", ms / 1000),
            ms => write!(f, " for {ms}ms"),
        }
    }
}

impl FromStr for Fault {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::Fault(text.to_owned());
        let number = |value: &str, unit: &str| -> Option<u64> { value.strip_suffix(unit)?.parse().ok() };
        Ok(match text.split_once('=') {
            Some(("delay", value)) => Self::Delay(number(value, "ms").ok_or_else(wrong)?),
            Some(("loss", value)) => {
                let percent = number(value, "%").filter(|percent| (1..=99).contains(percent));
                Self::Loss(percent.ok_or_else(wrong)? as u8)
            }
            Some(("slow-disk", value)) => Self::SlowDisk(number(value, "k").filter(|k| *k > 0).ok_or_else(wrong)?),
            Some(("clock", value)) => {
                let seconds = value.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
                Self::Clock(seconds.ok_or_else(wrong)?)
            }
            Some(("damage", value)) => {
                let files = Files::named(value).filter(|files| *files != Files::Snapshots);
                Self::Damage(files.ok_or_else(wrong)?)
            }
            Some(("read-errors", value)) => Self::ReadErrors(Files::named(value).ok_or_else(wrong)?),
            Some(("damage-at-rest", value)) => Self::DamageAtRest(Files::named(value).ok_or_else(wrong)?),
            Some(_) => return Err(wrong()),
            None => match text {
                "kill" => Self::Kill,
                "restart" => Self::Restart,
                "roll" => Self::Roll,
                "pause" => Self::Pause,
                "partition" => Self::Partition,
                "deaf" => Self::Deaf,
                "mute" => Self::Mute,
                "unplug" => Self::Unplug,
                "full-disk" => Self::FullDisk,
                "disk-errors" => Self::DiskErrors,
                "power-cut" => Self::PowerCut,
                other => Self::Change(Change::named(other).ok_or_else(wrong)?),
            },
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::Roll => "roll",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::Deaf => "deaf",
            Self::Mute => "mute",
            Self::Unplug => "unplug",
            Self::FullDisk => "full-disk",
            Self::DiskErrors => "disk-errors",
            Self::PowerCut => "power-cut",
            Self::Delay(ms) => return write!(f, "delay={ms}ms"),
            Self::Loss(percent) => return write!(f, "loss={percent}%"),
            Self::SlowDisk(kbit) => return write!(f, "slow-disk={kbit}k"),
            Self::Clock(seconds) => return write!(f, "clock={seconds:+}s"),
            Self::ReadErrors(files) => return write!(f, "read-errors={}", files.path()),
            Self::Damage(files) => return write!(f, "damage={}", files.path()),
            Self::DamageAtRest(files) => return write!(f, "damage-at-rest={}", files.path()),
            Self::Change(change) => return change.fmt(f),
        })
    }
}

impl FromStr for Target {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let known = TARGETS.iter().find(|(_, name)| *name == text);
        known.map(|(target, _)| *target).ok_or_else(|| ParseError::Target(text.to_owned()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = TARGETS.iter().find(|(target, _)| target == self).expect("TARGETS names all");
        f.write_str(name)
    }
}

/// `500ms`, `3s`, `2m`.
pub(crate) fn parse_length(text: &str) -> Result<Duration, ParseError> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms = match &text[digits.len()..] {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    let ms = unit_ms.and_then(|unit| digits.parse::<u64>().ok()?.checked_mul(unit));
    ms.map(Duration::from_millis).ok_or_else(|| ParseError::Length(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_and_target_is_read_as_it_is_written() {
        let faults = [
            "kill",
            "restart",
            "roll",
            "pause",
            "partition",
            "deaf",
            "mute",
            "unplug",
            "delay=80ms",
            "loss=20%",
            "slow-disk=512k",
            "full-disk",
            "disk-errors",
            "read-errors=log",
            "power-cut",
            "clock=+3600s",
            "clock=-60s",
            "damage=timeline",
            "damage-at-rest=directory",
            "damage=directory",
            "damage=log",
            "damage=identity",
            "damage-at-rest=snapshots",
            "add",
            "rebalance",
            "remove",
            "replace",
            "replace-elsewhere",
            "readdress",
            "move",
        ];
        for fault in faults {
            assert_eq!(fault.parse::<Fault>().map(|fault| fault.to_string()), Ok(fault.to_owned()));
        }
        for (target, name) in TARGETS {
            assert_eq!((name.parse(), target.to_string()), (Ok(target), name.to_owned()));
        }
    }

    #[test]
    fn a_step_is_read_with_and_without_a_length() {
        let step = |text: &str| text.parse::<Step>();
        let (fault, target) = (Fault::Kill, Target::StorageLeader);
        let length = Duration::from_millis(1500);
        assert_eq!(step("kill storage-leader for 1500ms"), Ok(Step { fault, target, length }));
        assert_eq!(step("kill  storage-leader"), Ok(Step { fault, target, length: Duration::ZERO }));
        let written = Step { fault, target, length }.to_string();
        assert_eq!(step(&written), Ok(Step { fault, target, length }));
    }

    #[test]
    fn what_is_wrong_is_refused_by_its_name() {
        let error = |text: &str| text.parse::<Step>().expect_err("wrong");
        assert_eq!(error("kill"), ParseError::Form("kill".into()));
        assert_eq!(error("kill router for"), ParseError::Form("kill router for".into()));
        assert_eq!(error("hug router"), ParseError::Fault("hug".into()));
        assert_eq!(error("loss=100% router"), ParseError::Fault("loss=100%".into()));
        assert_eq!(error("delay=fast router"), ParseError::Fault("delay=fast".into()));
        assert_eq!(error("kill me"), ParseError::Target("me".into()));
        assert_eq!(error("kill router for 3"), ParseError::Length("3".into()));
        assert_eq!(error("roll router"), ParseError::Roll);
        assert_eq!(error("roll routers for 3s"), ParseError::Roll);
        assert_eq!(error("full-disk router for 3s"), ParseError::NoDisk("full-disk".into()));
        assert_eq!(error("damage=timeline gateway"), ParseError::NoDisk("damage=timeline".into()));
        assert!(matches!(error("add storage-leader"), ParseError::Change(Change::Add, _)));
        assert!(matches!(error("remove storage"), ParseError::Change(Change::Remove, _)));
        assert!(matches!(error("move storage-leader for 3s"), ParseError::Change(Change::Move, _)));
        assert_eq!(error("damage=snapshots storage"), ParseError::Fault("damage=snapshots".into()));
        assert_eq!(error("read-errors=all storage"), ParseError::Fault("read-errors=all".into()));
        assert_eq!(error("read-errors=log router"), ParseError::NoDisk("read-errors=log".into()));
        assert_eq!(error("damage=hopes storage"), ParseError::Fault("damage=hopes".into()));
    }
}
