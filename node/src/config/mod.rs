//! The settings of an operator: one typed structure, filled from the defaults, a file, the environment and flags.

mod keys;
mod layers;
mod secrets;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use carillon_canary::CanaryConfig;
use carillon_gateway::GatewayConfig;
use carillon_media::MediaConfig;
use carillon_proto::peer::Tier;
use carillon_router::RouterConfig;
use carillon_storage::StorageConfig;
use serde::{Deserialize, Serialize};

pub(crate) use keys::is_secret;
pub use layers::{ConfigError, Layers};
pub(crate) use secrets::peer_tls;
pub use secrets::{Secret, SecretError, Secrets};

use crate::Role;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where this process keeps its data and generated secrets.
    pub data_dir: PathBuf,
    /// Time limit for an orderly stop.
    pub shutdown_deadline_ms: u64,
    pub cluster: ClusterConfig,
    pub admin: AdminConfig,
    pub log: LogConfig,
    pub trace: TraceConfig,
    pub storage: StorageConfig,
    pub router: RouterConfig,
    pub gateway: GatewayConfig,
    /// Of gateways and routers.
    pub media: MediaConfig,
    pub canary: CanaryConfig,
}

/// How nodes authenticate to each other.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// The cluster's secret, the same on all nodes: 16 to 512 visible ASCII characters. Set this, or `secret_file`, or
    /// neither: then the file in `data_dir/secrets` is used.
    pub secret: Secret,
    /// A file with one secret a line, at most two: the first one is used for calls, both are accepted from callers.
    pub secret_file: PathBuf,
    /// Tokens of single tiers, for nodes that must not have the secret.
    pub tokens: TokensConfig,
    /// Mutual TLS between nodes.
    pub tls: Option<ClusterTlsConfig>,
}

/// Files in the form of `secret_file`. A tier with a file here uses its tokens instead of those derived from the
/// secret.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokensConfig {
    pub storage_file: PathBuf,
    pub router_file: PathBuf,
    pub gateway_file: PathBuf,
    pub operator_file: PathBuf,
}

impl TokensConfig {
    /// The file of this tier; empty if it is not set.
    pub fn of(&self, tier: Tier) -> &Path {
        match tier {
            Tier::Storage => &self.storage_file,
            Tier::Router => &self.router_file,
            Tier::Gateway => &self.gateway_file,
            Tier::Operator => &self.operator_file,
        }
    }
}

/// Files in PEM.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterTlsConfig {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The name that every node's certificate carries. If it is empty, the host of the node's address is checked.
    #[serde(default)]
    pub server_name: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// HTTP: /metrics, /healthz, /startedz, /readyz.
    pub listen: SocketAddr,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// One of error, warn, info, debug and trace, or directives such as `info,carillon_router=debug`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TraceConfig {
    /// OTLP over gRPC, for example http://127.0.0.1:4317. Empty: no traces.
    pub otlp_endpoint: String,
    /// The share of traces that are kept: 0 to 1.
    pub sample_ratio: f64,
    /// Empty: carillon-ROLE.
    pub service_name: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            shutdown_deadline_ms: 20_000,
            cluster: ClusterConfig::default(),
            admin: AdminConfig::default(),
            log: LogConfig::default(),
            trace: TraceConfig::default(),
            storage: StorageConfig::default(),
            router: RouterConfig::default(),
            gateway: GatewayConfig::default(),
            media: MediaConfig::default(),
            canary: CanaryConfig::default(),
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 7400)) }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Default for TraceConfig {
    fn default() -> Self {
        Self { otlp_endpoint: String::new(), sample_ratio: 0.01, service_name: String::new() }
    }
}

impl Config {
    /// Sets what follows from other settings: the storage's folder below `data_dir`.
    pub(crate) fn complete(mut self) -> Self {
        if self.storage.data_dir == StorageConfig::default().data_dir {
            self.storage.data_dir = self.data_dir.join("storage");
        }
        self
    }

    /// Checks the values that these roles use.
    pub fn validate(&self, roles: &[Role]) -> Result<(), ConfigError> {
        self.invalid(roles).into_iter().next().map_or(Ok(()), Err)
    }

    /// The invalid values of these roles: the first one of each role, and each token key of the gateway.
    pub(crate) fn invalid(&self, roles: &[Role]) -> Vec<ConfigError> {
        let mut invalid = Vec::new();
        let mut add =
            |key: &str, why: &str| invalid.push(ConfigError::Value { key: key.to_owned(), why: why.to_owned() });
        if self.data_dir.as_os_str().is_empty() {
            add("data_dir", "is empty, but must name a folder");
        }
        if !(100..=600_000).contains(&self.shutdown_deadline_ms) {
            add("shutdown_deadline_ms", "must be 100 to 600000");
        }
        if !self.cluster.secret.is_empty() && !self.cluster.secret_file.as_os_str().is_empty() {
            add("cluster.secret", "and cluster.secret_file are both set, but one of them is enough");
        }
        if !(0.0..=1.0).contains(&self.trace.sample_ratio) {
            add("trace.sample_ratio", "must be 0.0 to 1.0");
        }
        if let Err(why) = check_endpoint(&self.trace.otlp_endpoint) {
            add("trace.otlp_endpoint", why);
        }
        if let Err(why) = crate::telemetry::filter(&self.log.level) {
            add("log.level", &format!("is \"{}\": {why}", self.log.level));
        }
        if roles.iter().any(|role| matches!(role, Role::Router | Role::Gateway))
            && let Err((key, why)) = self.media.validate()
        {
            add(&format!("media.{key}"), &why);
        }
        let deadline_ms = self.shutdown_deadline_ms;
        let given_up = format!("a stop is given up after shutdown_deadline_ms, which is {deadline_ms}");
        for role in roles {
            let mut add = |key: &str, why: &str| add(&format!("{role}.{key}"), why);
            match role {
                Role::Storage => {
                    if let Err(error) = self.storage.validate() {
                        add(error.key, &error.why);
                    }
                }
                Role::Router => {
                    let drain_ms = self.router.drain_ms;
                    if let Err(error) = self.router.validate() {
                        add(error.key, &error.why);
                    }
                    if u64::from(drain_ms) >= deadline_ms {
                        add("drain_ms", &format!("is {drain_ms}, but {given_up}"));
                    }
                }
                Role::Canary => {
                    if let Err(error) = self.canary.validate() {
                        add(error.key, &error.why);
                    }
                }
                Role::Gateway => {
                    let (delay_ms, spread_ms) = (self.gateway.drain_delay_ms, self.gateway.drain_spread_ms);
                    for error in self.gateway.invalid() {
                        add(error.key, &error.why);
                    }
                    if delay_ms.saturating_add(spread_ms) >= deadline_ms {
                        let begins =
                            format!("is {spread_ms}, and begins after gateway.drain_delay_ms, which is {delay_ms}");
                        add("drain_spread_ms", &format!("{begins}, but {given_up}"));
                    }
                }
            }
        }
        invalid
    }

    /// The configuration as TOML, without secrets.
    pub fn to_toml(&self) -> String {
        // The types above have string keys, and numbers that fit.
        toml::to_string(self).expect("the configuration is representable as TOML")
    }
}

fn check_endpoint(endpoint: &str) -> Result<(), &'static str> {
    let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    match rest {
        None if endpoint.is_empty() => Ok(()),
        None | Some("") => Err("must be http://host:port or https://host:port"),
        // The endpoint is shown with the rest of the configuration.
        Some(rest) if rest.contains('@') => Err("must not have a user or a password in it"),
        Some(_) => Ok(()),
    }
}

/// The names of the settings that differ. Secrets in the configuration itself are not compared.
pub(crate) fn changed(before: &Config, after: &Config) -> Vec<String> {
    let settings = |config: &Config| {
        let mut settings = BTreeMap::new();
        // As in `to_toml`.
        let table = toml::Table::try_from(config).expect("the configuration is representable as TOML");
        keys::flat(&toml::Value::Table(table), "", &mut |key, value| {
            settings.insert(key.to_owned(), value.clone());
        });
        settings
    };
    let (before, after) = (settings(before), settings(after));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_for_all_roles() {
        Config::default().validate(Role::ALL).expect("valid");
    }

    #[test]
    fn bad_values_are_named_in_full() {
        let why = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.validate(Role::ALL).expect_err("refused").to_string()
        };
        assert!(why(|config| config.gateway.max_connections = 0).starts_with("gateway.max_connections"));
        assert!(why(|config| config.media.max_uploads = 0).starts_with("media.max_uploads"));
        assert!(why(|config| config.router.lease_ms = 0).starts_with("router.lease_ms"));
        assert!(why(|config| config.storage.heartbeat_ms = 0).starts_with("storage.heartbeat_ms"));
        assert!(why(|config| config.log.level = "info,,=loud".into()).starts_with("log.level"));
        assert!(why(|config| config.log.level = "loud".into()).starts_with("log.level"));
        assert!(why(|config| config.trace.sample_ratio = 1.5).starts_with("trace.sample_ratio"));
    }

    #[test]
    fn the_printed_configuration_is_read_back_as_it_was_without_secrets() {
        let mut config = Config::default();
        config.cluster.secret = Secret::new("a secret that nobody may see");
        let printed = config.to_toml();
        assert!(!printed.contains("nobody"), "{printed}");
        let read = Layers::default().text(&printed, "printed").load().expect("valid");
        assert_eq!(read.to_toml(), printed);
    }

    #[test]
    fn the_storage_folder_follows_data_dir() {
        let load = |set: &[&str]| {
            let sets: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
            Layers::default().sets(&sets).expect("valid").load().expect("valid").storage.data_dir
        };
        assert_eq!(load(&["data_dir=/x"]), PathBuf::from("/x/storage"));
        assert_eq!(load(&["data_dir=/x", "storage.data_dir=/y"]), PathBuf::from("/y"));
    }

    const SAMPLE: &str = include_str!("../../../deploy/carillon.toml");

    fn flat(value: &toml::Value, path: &str, into: &mut Vec<String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    flat(value, &format!("{path}.{key}"), into);
                }
            }
            value => into.push(format!("{path} = {value}")),
        }
    }

    #[test]
    fn the_sample_has_every_setting_with_its_default() {
        let settings = |text: &str| {
            let table: toml::Table = text.parse().expect("TOML");
            let mut settings = Vec::new();
            flat(&toml::Value::Table(table), "", &mut settings);
            settings.sort();
            settings
        };
        assert_eq!(settings(SAMPLE), settings(&Config::default().to_toml()));
    }

    #[test]
    fn what_the_sample_has_as_a_comment_is_valid_too() {
        let is_setting = |line: &str| {
            line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains([' ', '`']))
        };
        let lines = SAMPLE.lines().filter(|line| *line != "keys = []").map(|line| match line.strip_prefix("# ") {
            Some(comment) if is_setting(comment) => comment,
            _ => line,
        });
        let config = Layers::default().text(&lines.collect::<Vec<_>>().join("\n"), "sample").load().expect("valid");
        config.validate(Role::ALL).expect("valid");
        assert!(config.gateway.tls.is_some() && config.cluster.tls.is_some());
        assert_eq!(config.gateway.jwt.keys.len(), 1);
        assert!(config.gateway.jwt.audience.is_some() && config.gateway.jwt.issuer.is_some());
    }
}
