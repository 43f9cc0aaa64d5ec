//! The listeners for clients, and the proxies in front of them.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use super::InvalidConfig;
use crate::listener::proxies::{Cidr, ForwardedHeader, Proxies};

#[derive(Debug, Clone, Serialize)]
pub struct ListenConfig {
    pub enabled: bool,
    /// host:port; with port 0 the system chooses a free one.
    pub listen: String,
    /// Most connections of this listener; 0: nine tenths of the gateway's, or all if this is the only listener.
    pub max_connections: usize,
    /// Each connection begins with the PROXY protocol (version 1 or 2) and comes from a trusted proxy.
    pub proxy_protocol: bool,
}

impl ListenConfig {
    /// A listener on a free port of this machine, for tests.
    pub fn anywhere() -> Self {
        Self::at("127.0.0.1:0".to_owned())
    }

    pub(super) fn at(listen: String) -> Self {
        Self { enabled: true, listen, max_connections: 0, proxy_protocol: false }
    }
}

/// The section of a listener in the configuration. Without `listen`, each listener takes its own default address.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct GivenListen {
    enabled: bool,
    listen: Option<String>,
    max_connections: usize,
    proxy_protocol: bool,
}

impl Default for GivenListen {
    fn default() -> Self {
        Self { enabled: true, listen: None, max_connections: 0, proxy_protocol: false }
    }
}

pub(super) fn listen_by_default<'de, D: Deserializer<'de>, const PORT: u16>(
    given: D,
) -> Result<ListenConfig, D::Error> {
    let GivenListen { enabled, listen, max_connections, proxy_protocol } = Deserialize::deserialize(given)?;
    let listen = listen.unwrap_or_else(|| format!("127.0.0.1:{PORT}"));
    Ok(ListenConfig { enabled, listen, max_connections, proxy_protocol })
}

pub(super) const TCP_PORT: u16 = 7410;
pub(super) const WS_PORT: u16 = 7411;
pub(super) const GRPC_PORT: u16 = 7412;

/// Proxies that may say whose connection they forward.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxiesConfig {
    /// Addresses and networks (`10.0.0.0/8`) of proxies.
    pub trusted: Vec<String>,
    /// The header in which they name the client, on WebSocket and gRPC.
    pub header: ForwardedHeader,
}

impl ProxiesConfig {
    /// The parsed list; `validate` has refused invalid entries.
    pub(crate) fn to_proxies(&self) -> Proxies {
        Proxies { trusted: self.trusted.iter().filter_map(|text| text.parse().ok()).collect(), header: self.header }
    }

    pub(super) fn validate(&self) -> Result<(), InvalidConfig> {
        match self.trusted.iter().find_map(|text| text.parse::<Cidr>().err()) {
            Some(error) => {
                Err(InvalidConfig { key: "proxies.trusted", why: format!("has an entry that is none: {error}") })
            }
            None => Ok(()),
        }
    }
}

/// PEM files.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

pub(super) fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use crate::config::GatewayConfig;

    #[test]
    fn a_listener_of_which_something_is_said_keeps_its_address() {
        let said = r#"{"tcp": {"max_connections": 50}, "ws": {"proxy_protocol": true}, "grpc": {"enabled": false}}"#;
        let config: GatewayConfig = serde_json::from_str(said).expect("valid");
        let addresses = [&config.tcp, &config.ws, &config.grpc].map(|listen| listen.listen.as_str());
        assert_eq!(addresses, ["127.0.0.1:7410", "127.0.0.1:7411", "127.0.0.1:7412"]);
        assert_eq!((config.tcp.max_connections, config.ws.proxy_protocol, config.grpc.enabled), (50, true, false));
        serde_json::from_str::<GatewayConfig>(r#"{"tcp": {"listne": ""}}"#).expect_err("an unknown key");
    }
}
