//! A canary is no node of the cluster: it tells of itself at its admin listener alone.

use std::time::Duration;

use super::super::{admin_http::get_within, doctor::release_and_roles};
use crate::{Config, Role, running::from_here};

/// More than a canary has.
const BYTES: u64 = 8 << 20;
const DEADLINE: Duration = Duration::from_secs(5);

/// Where a canary may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    address: String,
    /// An operator has named it: without an answer something is missing.
    is_named: bool,
}

/// The state of a canary, as its admin listener answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Canary {
    pub(super) release: String,
    pub(super) is_ready: bool,
    /// The answer of `/readyz`: what has failed last, if it is not ready.
    pub(super) says: String,
    pub(super) metrics: String,
}

impl Place {
    /// Those that are named, or else the admin listener of this configuration: the bundle may be made beside a canary.
    pub(super) fn of(named: &[String], config: Option<&Config>) -> Vec<Self> {
        let own = config.map(|config| from_here(config.admin.listen).to_string());
        let own = own.filter(|_| named.is_empty()).map(|address| Self { address, is_named: false });
        let named = named.iter().map(|address| Self { address: address.clone(), is_named: true });
        named.chain(own).collect()
    }

    /// The folder in the bundle.
    pub(super) fn folder(&self) -> String {
        let name: String = self.address.chars().take(48).collect();
        format!("canaries/{}", name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "_"))
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// `Ok(None)`: none runs here, and none was named.
    pub(super) async fn ask(&self) -> Result<Option<Canary>, String> {
        let get = async |path| get_within(&self.address, path, BYTES, DEADLINE).await;
        let metrics = match get("/metrics").await {
            Ok((_, metrics)) => metrics,
            Err(_) if !self.is_named => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let release = match release_and_roles(&metrics) {
            Some((release, roles)) if roles.contains(&Role::Canary) => release,
            _ if !self.is_named => return Ok(None),
            Some((release, _)) => return Err(format!("a node of release {release} answers there, and no canary")),
            None => return Err("the answer is not that of a canary".to_owned()),
        };
        let (status, says) = get("/readyz").await.map_err(|error| format!("/readyz: {error}"))?;
        Ok(Some(Canary { release, is_ready: status == 200, says, metrics }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_canary_is_asked_and_otherwise_this_machine() {
        let config = Config::default();
        let own = Place::of(&[], Some(&config));
        assert_eq!(own, [Place { address: "127.0.0.1:7400".into(), is_named: false }]);
        let named = Place::of(&["canary.example:7400".into()], Some(&config));
        assert_eq!(named, [Place { address: "canary.example:7400".into(), is_named: true }]);
        assert_eq!(named[0].folder(), "canaries/canary.example_7400");
        assert!(Place::of(&["x".repeat(300)], None)[0].folder().len() < 60, "names of archives are short");
        assert_eq!(Place::of(&[], None), []);
    }

    #[tokio::test]
    async fn only_a_named_canary_can_be_missing() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
        let place = |is_named| Place { address: free.to_string(), is_named };
        assert_eq!(place(false).ask().await, Ok(None));
        let why = place(true).ask().await.expect_err("nobody is there");
        assert!(why.contains("refused"), "{why}");
    }
}
