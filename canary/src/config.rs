//! The settings of a canary.

use std::{path::PathBuf, time::Duration};

use carillon_client::Address;
use carillon_proto::{DeviceId, UserId};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CanaryConfig {
    /// Gateways, as clients reach them. One account uses the WebSockets, the other one the rest; if all are of one kind, both use all.
    pub gateways: Vec<String>,
    /// PEM file with the authority that signed the gateways' certificate; empty: the public ones.
    pub ca_file: PathBuf,
    /// Its accounts are this name with `-1` and `-2` behind it.
    pub user: String,
    /// A file with the password of both accounts, which must be there. Empty: the canary makes its accounts, with the operator's token.
    pub password_file: PathBuf,
    /// Names the device of both accounts; empty: the name of the host.
    pub device: String,
    pub interval_ms: u32,
    /// Time for a message to be accepted and delivered.
    pub deadline_ms: u32,
    /// The canary is ready if a message of each account has gone well within this time.
    pub ready_ms: u32,
    /// Messages of an inbox after which the canary makes its accounts anew, so that they do not grow; 0: never.
    pub history: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("{key} {why}")]
pub struct InvalidConfig {
    pub key: &'static str,
    pub why: String,
}

impl Default for CanaryConfig {
    fn default() -> Self {
        Self {
            gateways: vec!["tcp://127.0.0.1:7410".to_owned(), "ws://127.0.0.1:7411/ws".to_owned()],
            ca_file: PathBuf::new(),
            user: "carillon-canary".to_owned(),
            password_file: PathBuf::new(),
            device: String::new(),
            interval_ms: 5000,
            deadline_ms: 10_000,
            ready_ms: 20_000,
            history: 100_000,
        }
    }
}

impl CanaryConfig {
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let invalid = |key, why: String| Err(InvalidConfig { key, why });
        if let Err(why) = self.addresses() {
            return invalid("gateways", why);
        }
        for name in ["1", "2"] {
            if let Err(error) = UserId::new(&format!("{}-{name}", self.user)) {
                return invalid("user", format!("is \"{}\": {error}", self.user));
            }
        }
        if !self.device.is_empty()
            && let Err(error) = DeviceId::new(&self.device)
        {
            return invalid("device", format!("is \"{}\": {error}", self.device));
        }
        for (key, value, least) in [
            ("interval_ms", self.interval_ms, 100),
            ("deadline_ms", self.deadline_ms, 1000),
            ("ready_ms", self.ready_ms, 1000),
        ] {
            if !(least..=3_600_000).contains(&value) {
                return invalid(key, format!("is {value}, but must be {least} to 3600000"));
            }
        }
        if self.ready_ms / 2 < self.interval_ms {
            let why = format!(
                "is {}, but each account sends a message only every {} ms (twice canary.interval_ms)",
                self.ready_ms,
                u64::from(self.interval_ms) * 2
            );
            return invalid("ready_ms", why);
        }
        if (1..10).contains(&self.history) {
            return invalid("history", format!("is {}, but must be 0 or at least 10", self.history));
        }
        Ok(())
    }

    /// True if the canary needs the operator's token.
    pub fn makes_accounts(&self) -> bool {
        self.password_file.as_os_str().is_empty()
    }

    pub(crate) fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms.into())
    }

    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms.into())
    }

    pub(crate) fn ready_within(&self) -> Duration {
        Duration::from_millis(self.ready_ms.into())
    }

    pub(crate) fn users(&self) -> [String; 2] {
        ["1", "2"].map(|number| format!("{}-{number}", self.user))
    }

    /// The addresses of the two accounts.
    pub(crate) fn addresses(&self) -> Result<[Vec<Address>; 2], String> {
        let all = self.gateways.iter().map(|text| text.parse::<Address>()).collect::<Result<Vec<_>, _>>();
        let all = all.map_err(|error| error.to_string())?;
        if all.is_empty() {
            return Err("names none, but the canary signs in there".to_owned());
        }
        let is_ws = |address: &Address| matches!(address.transport, carillon_client::Transport::WebSocket { .. });
        let (ws, others): (Vec<_>, Vec<_>) = all.iter().cloned().partition(is_ws);
        Ok(if ws.is_empty() || others.is_empty() { [all.clone(), all] } else { [others, ws] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_account_has_a_transport_of_its_own_where_there_are_two() {
        let hosts = |gateways: &[&str]| {
            let gateways = gateways.iter().map(|url| (*url).to_owned()).collect();
            let addresses = CanaryConfig { gateways, ..CanaryConfig::default() }.addresses().expect("valid");
            addresses.map(|list| list.into_iter().map(|address| address.host).collect::<Vec<_>>())
        };
        assert_eq!(hosts(&["ws://a/ws", "tcp://b:1", "grpc://c:1"]), [vec!["b", "c"], vec!["a"]]);
        assert_eq!(hosts(&["tcp://a:1", "tcp://b:1"]), [vec!["a", "b"], vec!["a", "b"]]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        CanaryConfig::default().validate().expect("valid");
        for (change, key) in [
            ((|config| config.gateways.clear()) as fn(&mut CanaryConfig), "gateways"),
            (|config| config.gateways = vec!["127.0.0.1".into()], "gateways"),
            (|config| config.user = "A User".into(), "user"),
            (|config| config.device = "\n".into(), "device"),
            (|config| config.interval_ms = 0, "interval_ms"),
            (|config| config.ready_ms = 9000, "ready_ms"),
            (|config| config.history = 3, "history"),
        ] {
            let mut config = CanaryConfig::default();
            change(&mut config);
            assert_eq!(config.validate().expect_err(key).key, key);
        }
    }
}
