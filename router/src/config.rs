//! The settings of a router.

use std::{net::SocketAddr, time::Duration};

use carillon_proto::{address::check_reachable, limits};
use serde::{Deserialize, Serialize};

/// Times in milliseconds, sizes in items unless the name says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouterConfig {
    /// Address of the internal gRPC listener.
    pub listen: SocketAddr,
    /// host:port under which gateways and other routers reach this listener. Empty: the address that was bound.
    pub advertise: String,
    /// host:port of some storage nodes; the others are learned from them.
    pub storage: Vec<String>,
    /// After this long without a renewal, the cluster goes on without this router.
    pub lease_ms: u32,
    /// Longest time that one request may take; a caller may ask for less.
    pub send_deadline_ms: u32,
    /// How long a stopping router waits for requests in flight.
    pub drain_ms: u32,
    /// What to do with a message to a user who has no account.
    pub unknown_recipient: UnknownRecipient,
    /// Most devices of one user that are signed in at the same time, in the whole cluster; further ones are refused.
    pub max_devices_per_user: u32,
    /// How many accounts of recipients are kept in memory.
    pub directory_entries: usize,
    /// How often the inbox of each signed-in user is compared with what was pushed, many users in one read.
    pub head_check_ms: u32,
    /// Acknowledgements of one device within this time are stored as one.
    pub cursor_flush_ms: u32,
    /// Unanswered requests of one link; at this number the link is no longer read.
    pub link_requests: usize,
    /// Pushes that wait for one gateway; further ones are dropped, and the gateway learns later how far they reached.
    pub link_pushes: usize,
    /// Writes of one shard that wait for the store; further ones are refused.
    pub shard_writes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownRecipient {
    /// Refused as not found.
    Refuse,
    /// Kept in the inbox until the account is made.
    Accept,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("router.{key} {why}")]
pub struct InvalidConfig {
    pub key: &'static str,
    pub why: String,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7402)),
            advertise: String::new(),
            storage: vec!["127.0.0.1:7401".to_owned()],
            lease_ms: 3000,
            send_deadline_ms: 10_000,
            drain_ms: 3000,
            unknown_recipient: UnknownRecipient::Refuse,
            max_devices_per_user: 256,
            directory_entries: 200_000,
            head_check_ms: 60_000,
            cursor_flush_ms: 100,
            link_requests: 16_384,
            link_pushes: 16_384,
            shard_writes: 8192,
        }
    }
}

impl RouterConfig {
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let within = |key, value: u64, low: u64, high: u64| {
            let why = || format!("is {value}, but must be {low} to {high}");
            if (low..=high).contains(&value) { Ok(()) } else { Err(InvalidConfig { key, why: why() }) }
        };
        within("lease_ms", self.lease_ms.into(), 500, 60_000)?;
        within("send_deadline_ms", self.send_deadline_ms.into(), 100, 120_000)?;
        within("drain_ms", self.drain_ms.into(), 0, 120_000)?;
        within("max_devices_per_user", self.max_devices_per_user.into(), 1, 10_000)?;
        within("directory_entries", self.directory_entries as u64, 16, 100_000_000)?;
        within("head_check_ms", self.head_check_ms.into(), 1000, 86_400_000)?;
        within("cursor_flush_ms", self.cursor_flush_ms.into(), 1, 10_000)?;
        within("link_requests", self.link_requests as u64, limits::BATCH_ITEMS as u64, 1_000_000)?;
        within("link_pushes", self.link_pushes as u64, 16, 1_000_000)?;
        within("shard_writes", self.shard_writes as u64, 16, 1_000_000)?;
        if self.storage.is_empty() {
            return Err(InvalidConfig { key: "storage", why: "is empty, but must name a storage node".to_owned() });
        }
        for address in &self.storage {
            reachable("storage", address)?;
        }
        if !self.advertise.is_empty() {
            reachable("advertise", &self.advertise)?;
        } else if self.listen.ip().is_unspecified() {
            let why = format!("is empty, but must be set where listen is {}", self.listen);
            return Err(InvalidConfig { key: "advertise", why });
        }
        Ok(())
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms.into())
    }

    pub(crate) fn send_deadline(&self) -> Duration {
        Duration::from_millis(self.send_deadline_ms.into())
    }
}

fn reachable(key: &'static str, address: &str) -> Result<(), InvalidConfig> {
    check_reachable(address).map_err(|error| InvalidConfig { key, why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_errors_name_the_key() {
        RouterConfig::default().validate().expect("valid");
        let wrong = RouterConfig { storage: vec!["nowhere".into()], ..RouterConfig::default() };
        assert_eq!(wrong.validate().expect_err("refused").key, "storage");
        let wrong = RouterConfig { listen: SocketAddr::from(([0, 0, 0, 0], 7402)), ..RouterConfig::default() };
        assert_eq!(wrong.validate().expect_err("refused").key, "advertise");
        let wrong = RouterConfig { advertise: "[::]:7402".into(), ..RouterConfig::default() };
        assert_eq!(wrong.validate().expect_err("refused").key, "advertise");
        let wrong = RouterConfig { lease_ms: 1, ..RouterConfig::default() };
        assert_eq!(
            wrong.validate().expect_err("refused").to_string(),
            "router.lease_ms is 1, but must be 500 to 60000"
        );
    }
}
