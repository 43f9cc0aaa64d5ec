//! Compares what was accepted with what each device was shown.
//!
//! A *flow* is the messages of one sender to one recipient, numbered from 1. For each flow the checker keeps how its
//! sends ended, and for each *watcher* (a device, or one who reads a timeline back) how far it is and what it has
//! skipped. All of it as runs of numbers: memory grows with the sends that are on their way and with the places at
//! which something was refused, unknown or skipped, not with the number of messages.
//!
//! The sends to a group are flows, too, which are checked when its log is read back; its devices are checked by positions, see `group`.

mod flow;
mod group;
#[cfg(test)]
mod group_tests;
mod ranges;
#[cfg(test)]
mod tests;
mod violation;
mod watcher;

use std::{collections::HashMap, fmt, ops::AddAssign, sync::Arc};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub(crate) use self::ranges::Ranges;
use self::violation::Violations;
pub use self::{
    flow::FlowCheck,
    group::{GroupCheck, GroupReader, GroupWatcher},
    violation::{View, Violation},
    watcher::WatcherCheck,
};

/// The messages of one sender to one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    pub sender: String,
    pub recipient: String,
}

/// A device that watches flows: user and device name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Watcher {
    pub user: String,
    pub device: String,
}

/// How a send ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The message must be delivered.
    Accepted,
    /// The message must not be delivered.
    Refused,
    /// The message may be delivered, once.
    Unknown,
}

/// Counts of a run.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub sent: u64,
    pub accepted: u64,
    pub refused: u64,
    /// Sends that were neither accepted nor refused for good.
    pub unknown: u64,
    /// Deliveries to devices, each device counted, without the device that sent the message.
    pub delivered: u64,
    /// Messages found in timelines at the end.
    pub read_back: u64,
}

/// The checker's findings.
#[derive(Debug, Clone)]
pub struct Findings {
    pub summary: Summary,
    /// The number of violations of each class, see [`Violation::kind`]; empty if there are none.
    pub counts: std::collections::BTreeMap<&'static str, u64>,
    /// The first 1,000 violations of each class.
    pub violations: Vec<Violation>,
    /// By their users.
    pub unread: Vec<Unread>,
}

/// A timeline that could not be read to its end. It is no violation: what it has is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    pub watcher: Watcher,
    pub why: String,
}

/// The checker, as the module describes it. Callers get handles of flows and watchers once, at the start, and report
/// events to the handles.
#[derive(Default)]
pub struct Checker {
    flows: Mutex<HashMap<Flow, Arc<FlowCheck>>>,
    watchers: Mutex<HashMap<Watcher, Arc<WatcherCheck>>>,
    groups: Mutex<HashMap<String, Arc<GroupCheck>>>,
    violations: Arc<Violations>,
}

impl Checker {
    /// The flow of this name.
    pub fn flow(&self, sender: &str, recipient: &str) -> Arc<FlowCheck> {
        self.flow_to(sender, recipient, None)
    }

    /// The flow of this user's messages to the group.
    pub fn group_flow(&self, sender: &str, group: &Arc<GroupCheck>) -> Arc<FlowCheck> {
        self.flow_to(sender, &group.name, Some(group))
    }

    fn flow_to(&self, sender: &str, recipient: &str, group: Option<&Arc<GroupCheck>>) -> Arc<FlowCheck> {
        let name = Flow { sender: sender.to_owned(), recipient: recipient.to_owned() };
        let new = || Arc::new(FlowCheck::new(name.clone(), group.cloned(), Arc::clone(&self.violations)));
        Arc::clone(self.flows.lock().entry(name.clone()).or_insert_with(new))
    }

    /// The group of this name.
    pub fn group(&self, name: &str) -> Arc<GroupCheck> {
        let new = || Arc::new(GroupCheck::new(name, Arc::clone(&self.violations)));
        Arc::clone(self.groups.lock().entry(name.to_owned()).or_insert_with(new))
    }

    /// The device of this name.
    pub fn watcher(&self, user: &str, device: &str) -> Arc<WatcherCheck> {
        self.watch(user, device, false)
    }

    /// The watcher that reads this user's timeline back.
    pub fn reader(&self, user: &str) -> Arc<WatcherCheck> {
        self.watch(user, "read back", true)
    }

    /// Somebody else has found this.
    pub(crate) fn found(&self, violation: Violation) {
        self.violations.add(violation);
    }

    /// The messages of each flow that are accepted by now.
    pub(crate) fn accepted(&self) -> HashMap<Flow, Ranges> {
        self.flows.lock().iter().map(|(name, flow)| (name.clone(), flow.accepted())).collect()
    }

    /// A checker of the same messages for another reading. With `before`, only these must be there: others that were accepted may be
    /// missing, but from both inboxes.
    pub(crate) fn anew(&self, before: Option<&HashMap<Flow, Ranges>>) -> Self {
        let (anew, none) = (Self::default(), Ranges::default());
        let again = |(name, flow): (&Flow, &Arc<FlowCheck>)| {
            let before = before.map(|before| before.get(name).unwrap_or(&none));
            (name.clone(), Arc::new(flow.anew(before, Arc::clone(&anew.violations))))
        };
        let flows = self.flows.lock().iter().map(again).collect();
        Self { flows: Mutex::new(flows), ..anew }
    }

    fn watch(&self, user: &str, device: &str, reads_back: bool) -> Arc<WatcherCheck> {
        let name = Watcher { user: user.to_owned(), device: device.to_owned() };
        let new = || Arc::new(WatcherCheck::new(name.clone(), reads_back, Arc::clone(&self.violations)));
        Arc::clone(self.watchers.lock().entry(name.clone()).or_insert_with(new))
    }

    /// True if every send has ended, and every watcher was shown all accepted messages.
    pub fn complete(&self) -> bool {
        // Copied, so that nobody waits for a look at all flows.
        let flows: Vec<_> = self.flows.lock().values().cloned().collect();
        let groups: Vec<_> = self.groups.lock().values().cloned().collect();
        flows.iter().all(|flow| flow.complete()) && groups.iter().all(|group| group.complete())
    }

    /// The senders were stopped: a send that has no answer by now is unknown, and does not keep the run open.
    pub(crate) fn give_up(&self) {
        self.flows.lock().values().for_each(|flow| flow.give_up());
    }

    /// How many violations are known by now, without what is lost: that is known at the end.
    pub(crate) fn broken(&self) -> u64 {
        self.violations.so_far().counts.values().sum()
    }

    /// The violations and counts, called after everything accepted should have reached its watchers.
    pub fn finish(&self) -> Findings {
        self.find(false)
    }

    /// The same; both inboxes of each flow must also have the same messages, the unknown ones included.
    pub(crate) fn finish_restored(&self) -> Findings {
        self.find(true)
    }

    fn find(&self, restored: bool) -> Findings {
        let mut kept = self.violations.so_far();
        let mut summary = Summary::default();
        let mut unread = Vec::new();
        for watcher in self.watchers.lock().values() {
            unread.extend(watcher.as_unread());
            let count = if watcher.reads_back { &mut summary.read_back } else { &mut summary.delivered };
            *count += watcher.shown();
        }
        unread.sort_unstable_by(|a, b| a.watcher.cmp(&b.watcher));
        let mut flows: Vec<_> = self.flows.lock().values().cloned().collect();
        flows.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for flow in flows {
            flow.finish(&mut summary, &mut kept);
            if restored {
                flow.compare_readers(&mut kept);
            }
        }
        let mut groups: Vec<_> = self.groups.lock().values().cloned().collect();
        groups.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        groups.iter().for_each(|group| group.finish(&mut summary, &mut kept));
        Findings { summary, counts: kept.counts, violations: kept.first, unread }
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        let Self { sent, accepted, refused, unknown, delivered, read_back } = other;
        self.sent += sent;
        self.accepted += accepted;
        self.refused += refused;
        self.unknown += unknown;
        self.delivered += delivered;
        self.read_back += read_back;
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.sender, self.recipient)
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unread: {}: {}", self.watcher, self.why)
    }
}

impl fmt::Display for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.user, self.device)
    }
}
