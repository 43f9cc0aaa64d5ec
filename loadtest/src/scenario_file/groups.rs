//! Users who are members of groups.

use serde::{Deserialize, Serialize};

use super::{ScenarioFile, bytes, length::Length, one, setting::SEND_TIMEOUT, window};
use crate::scenario::groups::{GroupsConfig, Plan, Unrest};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupsPart {
    /// Who are signed in.
    pub(crate) users: usize,
    #[serde(default = "one")]
    pub(crate) devices: usize,
    pub(crate) groups: usize,
    /// Of each group, of the users.
    pub(crate) members: usize,
    /// Further members of each group, who are not signed in.
    #[serde(default)]
    pub(crate) absent: usize,
    /// Of each group.
    #[serde(default = "one")]
    pub(crate) senders: usize,
    /// Messages a second over all groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<f64>,
    /// Sends of each user without an answer.
    #[serde(default = "window")]
    pub(crate) window: usize,
    #[serde(default = "bytes")]
    pub(crate) bytes: usize,
    /// So often, a member goes and comes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) change_every: Option<Length>,
    /// So often, a device that does not send starts again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) restart_every: Option<Length>,
}

/// As many members as a group can have.
const MOST_MEMBERS: usize = 100_000;

impl GroupsPart {
    pub(super) fn plan(&self) -> Plan {
        Plan { users: self.users, groups: self.groups, members: self.members }
    }

    /// Users who send, at least.
    pub(super) fn senders(&self) -> usize {
        self.users.min(self.groups * self.senders)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        use super::check::{ensure, within};

        let Self { users, devices, groups, members, absent, senders, window: at_once, bytes: size, .. } = *self;
        for (key, value, least) in [
            ("groups.users", users, 1),
            ("groups.devices", devices, 1),
            ("groups.groups", groups, 1),
            ("groups.members", members, 1),
            ("groups.senders", senders, 1),
            ("groups.window", at_once, 1),
            ("groups.bytes", size, 0),
        ] {
            within(key, value, least)?;
        }
        ensure(members <= users, || format!("groups.members is {members}, and there are {users} groups.users"))?;
        ensure(senders <= members, || format!("groups.senders is {senders}, and groups.members {members}"))?;
        ensure(members.saturating_add(absent) <= MOST_MEMBERS, || {
            format!(
                "groups.members and groups.absent are {members} and {absent}: a group has {MOST_MEMBERS} members at most"
            )
        })?;
        for (key, every) in [("change_every", self.change_every), ("restart_every", self.restart_every)] {
            ensure(every.is_none_or(|every| !every.is_zero()), || format!("groups.{key} is 0"))?;
        }
        ensure(self.change_every.is_none() || members > 1, || {
            "groups.change_every needs groups.members of 2 at least: the owner stays".to_owned()
        })
    }

    /// The share of a worker: groups of its own, of users of its own.
    pub(super) fn share(&mut self, share: impl Fn(usize) -> usize) {
        let all = self.senders();
        (self.users, self.groups) = (share(self.users), share(self.groups));
        self.rate = self.rate.map(|rate| rate * self.senders() as f64 / all as f64);
    }

    /// How many workers can share it.
    pub(super) fn most_workers(&self) -> usize {
        (self.users / self.members.max(1)).min(self.groups)
    }
}

impl ScenarioFile {
    pub(crate) fn groups_config(&self) -> Option<GroupsConfig> {
        let part = self.groups.as_ref()?;
        let every = |length: Option<Length>| length.map(|length| length.0);
        Some(GroupsConfig {
            plan: part.plan(),
            devices: part.devices,
            absent: part.absent,
            senders: part.senders,
            rate: part.rate,
            window: part.window,
            bytes: part.bytes,
            send_timeout: SEND_TIMEOUT.min(self.time.patience.0),
            unrest: Unrest { changes: every(part.change_every), restarts: every(part.restart_every) },
        })
    }
}
