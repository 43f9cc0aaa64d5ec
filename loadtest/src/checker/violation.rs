//! Violations of what the service promises.

use std::{collections::BTreeMap, fmt};

use parking_lot::Mutex;

use super::{Flow, Watcher};

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// The message was accepted, but the watcher was never shown it.
    Lost { watcher: Watcher, flow: Flow, counter: u64 },
    /// The watcher was shown the message again.
    Doubled { watcher: Watcher, flow: Flow, counter: u64 },
    /// The watcher was shown the message after `after`, which was sent later.
    Reordered { watcher: Watcher, flow: Flow, counter: u64, after: u64 },
    /// The message was never sent, or was refused.
    Invented { watcher: Watcher, flow: Flow, counter: u64 },
    /// The content is not the sent one, or can't be read.
    Corrupted { watcher: Watcher, why: String },
    /// The message stands in another inbox, but not in the watcher's, in a cluster that was restored.
    Halved { watcher: Watcher, flow: Flow, counter: u64 },
    /// The position is not the next one.
    Gap { watcher: Watcher, expected: u64, got: u64 },
    /// The watcher, a member, was never shown what stands at this position of the group's log.
    Unheard { watcher: Watcher, group: String, seq: u64 },
    /// The watcher was shown the position of the group again.
    Repeated { watcher: Watcher, group: String, seq: u64 },
    /// The position is not the next one of the group.
    Skipped { watcher: Watcher, group: String, expected: u64, got: u64 },
    /// Something else was shown to others at this position of the group.
    Misplaced { watcher: Watcher, group: String, seq: u64 },
    /// The watcher was shown what was said while its user was no member.
    Overheard { watcher: Watcher, group: String, seq: u64 },
    /// A message in the group's log of a user who was no member then.
    Intruded { sender: String, group: String, seq: u64 },
    /// The watcher sees of others, or of its own conversations, what is not so.
    Untrue { view: View, watcher: Watcher, why: String },
}

/// Of what a device is told beside messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    Presence,
    /// A number of unread messages, or how far a user has read.
    Mark,
    ChatState,
}

impl Violation {
    /// The class, in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Lost { .. } | Self::Unheard { .. } => "lost",
            Self::Doubled { .. } | Self::Repeated { .. } => "doubled",
            Self::Reordered { .. } => "reordered",
            Self::Invented { .. } => "invented",
            Self::Corrupted { .. } => "corrupted",
            Self::Halved { .. } => "halved",
            Self::Gap { .. } | Self::Skipped { .. } => "gap",
            Self::Misplaced { .. } => "misplaced",
            Self::Overheard { .. } => "overheard",
            Self::Intruded { .. } => "intruded",
            Self::Untrue { view: View::Presence, .. } => "presence wrong",
            Self::Untrue { view: View::Mark, .. } => "mark wrong",
            Self::Untrue { view: View::ChatState, .. } => "chat state wrong",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match self {
            Self::Lost { watcher, flow, counter }
            | Self::Doubled { watcher, flow, counter }
            | Self::Invented { watcher, flow, counter }
            | Self::Halved { watcher, flow, counter } => write!(f, "{kind}: {watcher}: {flow} #{counter}"),
            Self::Reordered { watcher, flow, counter, after } => {
                write!(f, "{kind}: {watcher}: {flow} #{counter} after #{after}")
            }
            Self::Corrupted { watcher, why } | Self::Untrue { watcher, why, .. } => {
                write!(f, "{kind}: {watcher}: {why}")
            }
            Self::Gap { watcher, expected, got } => {
                write!(f, "{kind}: {watcher}: position {got} where {expected} is next")
            }
            Self::Unheard { watcher, group, seq }
            | Self::Repeated { watcher, group, seq }
            | Self::Misplaced { watcher, group, seq }
            | Self::Overheard { watcher, group, seq } => {
                write!(f, "{kind}: {watcher}: position {seq} of group {group}")
            }
            Self::Skipped { watcher, group, expected, got } => {
                write!(f, "{kind}: {watcher}: position {got} of group {group} where {expected} is next")
            }
            Self::Intruded { sender, group, seq } => write!(f, "{kind}: {sender}: position {seq} of group {group}"),
        }
    }
}

/// Counts all violations and keeps the first ones.
#[derive(Default)]
pub(crate) struct Violations(Mutex<Kept>);

#[derive(Default, Clone)]
pub(crate) struct Kept {
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// At most [`KEPT`] of each class: losses are found last, and would have no room behind many violations of other
    /// classes.
    pub(crate) first: Vec<Violation>,
}

/// A broken run has thousands of violations; the first ones show the cause.
const KEPT: u64 = 1000;

impl Violations {
    pub(crate) fn add(&self, violation: Violation) {
        self.0.lock().add(violation);
    }

    pub(crate) fn so_far(&self) -> Kept {
        self.0.lock().clone()
    }
}

impl Kept {
    pub(crate) fn add(&mut self, violation: Violation) {
        let count = self.counts.entry(violation.kind()).or_default();
        *count += 1;
        if *count <= KEPT {
            self.first.push(violation);
        }
    }
}
