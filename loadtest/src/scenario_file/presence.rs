//! Users with contacts, who change what they show.

use serde::{Deserialize, Serialize};

use super::{
    ScenarioFile,
    check::{above_zero, ensure, within},
    length::Length,
    setting::SEND_TIMEOUT,
};
use crate::scenario::presence::{PresenceConfig, ring::Ring};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PresencePart {
    /// Who are signed in, with a device each.
    pub(crate) users: usize,
    /// Of each user, in both directions.
    pub(crate) contacts: usize,
    /// Changes a second over all users.
    pub(crate) rate: f64,
    /// So often, a device goes and comes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) restart_every: Option<Length>,
}

/// A service keeps more contacts, but so many requests that are not answered yet.
const MOST_CONTACTS: usize = 1_000;
/// Changes of a user in a second that a service tells.
const TOLD: f64 = 1.0;
/// A service waits some seconds before it says that a user is offline.
const PATIENCE: Length = Length::of_ms(10_000);

impl PresencePart {
    fn ring(&self) -> Ring {
        Ring { users: self.users, contacts: self.contacts }
    }

    pub(super) fn check(&self, patience: Length) -> Result<(), String> {
        let Self { users, contacts, rate, restart_every } = *self;
        within("presence.users", users, 3)?;
        within("presence.contacts", contacts, 2)?;
        ensure(contacts.is_multiple_of(2), || {
            format!("presence.contacts is {contacts}, and must be even: half of them are on each side")
        })?;
        ensure(contacts <= MOST_CONTACTS, || {
            format!("presence.contacts is {contacts}, and must be at most {MOST_CONTACTS}")
        })?;
        ensure(contacts < users, || format!("presence.contacts is {contacts}, and there are {users} presence.users"))?;
        above_zero("presence.rate", rate)?;
        ensure(rate <= users as f64 * TOLD, || {
            format!(
                "{rate} changes a second of {users} presence.users are more than a service tells: {TOLD} a second for each. \
                 More presence.users, or a lower presence.rate"
            )
        })?;
        let Some(every) = restart_every else { return Ok(()) };
        ensure(!every.is_zero(), || "presence.restart_every is 0".to_owned())?;
        ensure(patience >= PATIENCE, || {
            format!(
                "time.patience is {patience}, and presence.restart_every needs {PATIENCE}: a service waits some seconds \
                 before it says that a user is offline"
            )
        })
    }

    /// The share of a worker: users of its own, who know each other.
    pub(super) fn share(&mut self, share: impl Fn(usize) -> usize) {
        let part = share(self.users) as f64 / self.users.max(1) as f64;
        self.users = share(self.users);
        self.rate *= part;
        let rarer = |every: Length| Length::of_ms((every.0.as_millis() as f64 / part).ceil() as u64);
        self.restart_every = self.restart_every.map(rarer);
    }

    /// How many workers can share it.
    pub(super) fn most_workers(&self) -> usize {
        self.users / (self.contacts + 1)
    }
}

impl ScenarioFile {
    pub(crate) fn presence_config(&self) -> Option<PresenceConfig> {
        let part = self.presence.as_ref()?;
        Some(PresenceConfig {
            ring: part.ring(),
            rate: part.rate,
            restarts: part.restart_every.map(|every| every.0),
            send_timeout: SEND_TIMEOUT.min(self.time.patience.0),
        })
    }
}
