//! Users who write to each other, read what comes, and show that they are writing.

use serde::{Deserialize, Serialize};

use super::{
    ScenarioFile, bytes,
    check::{above_zero, ensure, within},
    length::Length,
    setting::SEND_TIMEOUT,
    window,
};
use crate::scenario::marks::{MarksConfig, plan::Plan};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MarksPart {
    /// Two users each, who write to each other.
    #[serde(default)]
    pub(crate) pairs: usize,
    #[serde(default)]
    pub(crate) groups: usize,
    /// Of each group; all of them write.
    #[serde(default = "members")]
    pub(crate) members: usize,
    /// Messages a second over all users.
    pub(crate) rate: f64,
    /// From the first unread message until the mark is moved, for all that have come by then.
    #[serde(default)]
    pub(crate) read_after: Length,
    /// Users who read nothing.
    #[serde(default)]
    pub(crate) not_reading: usize,
    /// Sends of each user without an answer.
    #[serde(default = "window")]
    pub(crate) window: usize,
    #[serde(default = "bytes")]
    pub(crate) bytes: usize,
}

/// A request asks for the marks of so many others.
const MOST_MEMBERS: usize = 257;

fn members() -> usize {
    5
}

impl MarksPart {
    fn plan(&self) -> Plan {
        let Self { pairs, groups, members, not_reading, .. } = *self;
        Plan { pairs, groups, members, not_reading }
    }

    pub(super) fn users(&self) -> usize {
        self.plan().users()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let Self { pairs, groups, members, rate, not_reading, window: at_once, bytes: size, .. } = *self;
        for (key, value, least) in [
            ("marks.pairs", pairs, 0),
            ("marks.groups", groups, 0),
            ("marks.members", members, 2),
            ("marks.window", at_once, 1),
            ("marks.bytes", size, 0),
        ] {
            within(key, value, least)?;
        }
        ensure(pairs + groups > 0, || "marks has neither marks.pairs nor marks.groups".to_owned())?;
        ensure(members <= MOST_MEMBERS, || format!("marks.members is {members}, and must be at most {MOST_MEMBERS}"))?;
        let users = self.users();
        ensure(not_reading <= users, || {
            format!("marks.not_reading is {not_reading}, and there are {users} users in marks.pairs and marks.groups")
        })?;
        above_zero("marks.rate", rate)
    }

    /// The share of a worker: pairs and groups of its own.
    pub(super) fn share(&mut self, share: impl Fn(usize) -> usize) {
        let all = self.users();
        let part = |own: usize| own as f64 / all.max(1) as f64;
        (self.pairs, self.groups) = (share(self.pairs), share(self.groups));
        let own = self.users();
        self.rate *= part(own);
        self.not_reading = share(self.not_reading).min(own);
    }

    /// How many workers can share it.
    pub(super) fn most_workers(&self) -> usize {
        self.pairs.max(self.groups)
    }
}

impl ScenarioFile {
    pub(crate) fn marks_config(&self) -> Option<MarksConfig> {
        let part = self.marks.as_ref()?;
        Some(MarksConfig {
            plan: part.plan(),
            rate: part.rate,
            read_after: part.read_after.0,
            window: part.window,
            bytes: part.bytes,
            send_timeout: SEND_TIMEOUT.min(self.time.patience.0),
        })
    }
}
