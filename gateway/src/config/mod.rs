//! The settings of a gateway.

mod jwt;
mod listen;
mod xmpp;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use carillon_proto::{DomainId, address::check_reachable, limits};
use serde::{Deserialize, Serialize};

pub(crate) use jwt::TokenAccounts;
pub use jwt::{JwtAlgorithm, JwtConfig, JwtKeyConfig, Secret, UserForm};
pub use listen::{ListenConfig, ProxiesConfig, TlsConfig};
pub use xmpp::{XmppConfig, XmppTls};

use crate::{
    cluster_domains::ClusterDomains,
    listener::{REFUSING, origin::Origins},
    rebalance::Bounds,
    throttle::{Allowed, Tries},
    users::Users,
};
use listen::{GRPC_PORT, TCP_PORT, WS_PORT, is_host_port, listen_by_default};

/// Configuration of the gateway role. The defaults work on one machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayConfig {
    /// Protobuf frames over TCP.
    #[serde(deserialize_with = "listen_by_default::<_, TCP_PORT>")]
    pub tcp: ListenConfig,
    /// WebSocket, path `/ws`.
    #[serde(deserialize_with = "listen_by_default::<_, WS_PORT>")]
    pub ws: ListenConfig,
    /// Origins of web pages that may open a WebSocket, such as "https://chat.example.org"; "https://*.example.org"
    /// stands for all subdomains. Empty: any. Programs other than browsers send no origin.
    pub origins: Vec<String>,
    /// gRPC `ClientService.Connect`.
    #[serde(deserialize_with = "listen_by_default::<_, GRPC_PORT>")]
    pub grpc: ListenConfig,
    /// XMPP clients; off by default.
    pub xmpp: XmppConfig,
    /// Certificate and key for all listeners; without them clients are served in plain text.
    pub tls: Option<TlsConfig>,
    /// host:port of the routers to contact first; the registry names the others.
    pub routers: Vec<String>,
    /// How long the gateway's registration lasts without a renewal.
    pub lease_ms: u64,
    /// Proxies in front of the listeners.
    pub proxies: ProxiesConfig,
    /// Most connections of all protocols together; further ones are refused.
    pub max_connections: usize,
    /// Most connections of one address (of one /64 with IPv6); 0: no bound.
    pub max_connections_per_address: usize,
    /// From the first byte to SignedIn, including the TLS and WebSocket handshakes.
    pub sign_in_timeout_ms: u64,
    /// How often clients have to send something. Over WebSocket the gateway pings silent clients after 1¼ of it, by default
    /// just before most proxies end a silent connection, which is after a minute.
    pub heartbeat_ms: u32,
    /// A connection without input for this long is closed. Well above a minute, because browsers run the timers of
    /// hidden tabs once a minute, and phones sleep.
    pub silence_ms: u64,
    pub max_frame_bytes: usize,
    /// Longest content of one message, encoded as protobuf, in bytes.
    pub max_content_bytes: usize,
    pub sends_per_second: u32,
    pub send_burst: u32,
    /// Sends a second of one user over all of its connections to this gateway; 0: four times those of one connection.
    pub user_sends_per_second: u32,
    pub user_send_burst: u32,
    /// Most connections of one user to this gateway.
    pub max_connections_per_user: u32,
    /// Most unanswered sends of one connection.
    pub max_pending_sends: u32,
    /// Requests for history of one connection: the sustained rate, and the burst.
    pub fetches_per_second: u32,
    pub fetch_burst: u32,
    /// Most entries in one page of history.
    pub max_page: u32,
    /// Bytes of envelopes after which a page of history, or a read of missed envelopes, ends.
    pub max_page_bytes: u32,
    /// How long a request to the routers is retried before the client is told to try again.
    pub send_deadline_ms: u64,
    /// A connection with pending output is closed after this long without progress.
    pub write_timeout_ms: u64,
    /// Bytes of pending output of one connection above which nothing more is delivered or read.
    pub max_outgoing_bytes: usize,
    /// How long a gap in the pushes may fill itself before it is read from the store.
    pub gap_grace_ms: u64,
    /// A device's acknowledgements in its inbox are stored at most once in this time.
    pub ack_interval_ms: u64,
    /// A device's acknowledgements in its groups are stored at most once in this time. Nobody is told of them at once, and a large group has one
    /// of each member for each message: so they wait longer.
    pub group_ack_interval_ms: u64,
    /// Presences of contacts are written to a connection at most once in this time, unless something else is written anyway; 0: at once.
    pub presence_interval_ms: u64,
    /// Most unanswered requests to routers, of all connections together; further ones are refused.
    pub max_pending_requests: usize,
    /// At shutdown, how long new clients are still served after the gateway has reported that it is not ready.
    pub drain_delay_ms: u64,
    /// At shutdown, the time over which the clients are sent away.
    pub drain_spread_ms: u64,
    pub drain_per_second: u32,
    /// Above the mean of all gateways times this, and above the mean by more than `rebalance_margin` clients, some are asked to move to
    /// other gateways; 0: never.
    pub rebalance_factor: f64,
    pub rebalance_margin: u32,
    /// For how long it must have been so, while no gateway and no router has come or gone.
    pub rebalance_after_ms: u64,
    pub rebalance_per_second: u32,
    /// How long nobody is asked after a run; only clients that have been here as long are asked.
    pub rebalance_rest_ms: u64,
    /// Sign-in with SCRAM-SHA-256.
    pub password_sign_in: bool,
    pub jwt: JwtConfig,
    /// Further domains by their names. Their users are named with the domain, as in alice@acme.example.
    pub domains: BTreeMap<String, DomainConfig>,
    /// For how many seconds after it gave its credential a device may sign in again by a resume ticket; 0: there are none.
    pub resume_ticket_s: u32,
    /// For how many seconds after it was sent a message can be edited; 0: at any time.
    pub edit_window_s: u32,
    /// Whether users read what messages said before they were edited.
    pub edit_history: bool,
    /// Sign-ins of all clients: the sustained rate, and the burst. One that begins anew counts for two.
    pub sign_ins_per_second: u32,
    pub sign_in_burst: u32,
    /// Failed sign-ins of one network address: the burst, and the number that comes back each minute.
    pub failed_sign_ins_burst: u32,
    pub failed_sign_ins_per_minute: u32,
    /// Wrong passwords for one user, from one address, and from all others together: the burst, and the number each
    /// minute.
    pub user_failed_sign_ins_burst: u32,
    pub user_failed_sign_ins_per_minute: u32,
    /// Unfinished password sign-ins of one address: the burst, and the number each minute.
    pub password_sign_ins_burst: u32,
    pub password_sign_ins_per_minute: u32,
}

/// How users of a domain sign in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DomainConfig {
    /// The tokens' users are named by local parts, or by whole ids.
    pub jwt: JwtConfig,
    pub password_sign_in: bool,
}

impl Default for DomainConfig {
    fn default() -> Self {
        Self { jwt: JwtConfig::default(), password_sign_in: true }
    }
}

/// Most further domains.
const MAX_DOMAINS: usize = 1000;

/// An invalid setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} {why}")]
pub struct InvalidConfig {
    pub key: &'static str,
    pub why: String,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        let listen = |port: u16| ListenConfig::at(format!("127.0.0.1:{port}"));
        Self {
            tcp: listen(TCP_PORT),
            ws: listen(WS_PORT),
            origins: Vec::new(),
            grpc: listen(GRPC_PORT),
            xmpp: XmppConfig::default(),
            tls: None,
            routers: vec!["127.0.0.1:7402".to_owned()],
            lease_ms: 10_000,
            proxies: ProxiesConfig::default(),
            max_connections: 100_000,
            max_connections_per_address: 20_000,
            sign_in_timeout_ms: 10_000,
            heartbeat_ms: 45_000,
            silence_ms: 150_000,
            max_frame_bytes: 256 * 1024,
            max_content_bytes: 64 * 1024,
            sends_per_second: 50,
            send_burst: 200,
            user_sends_per_second: 0,
            user_send_burst: 0,
            max_connections_per_user: 200,
            max_pending_sends: 256,
            fetches_per_second: 20,
            fetch_burst: 100,
            max_page: 100,
            max_page_bytes: 128 * 1024,
            send_deadline_ms: 10_000,
            write_timeout_ms: 10_000,
            max_outgoing_bytes: 256 * 1024,
            gap_grace_ms: 20,
            ack_interval_ms: 100,
            group_ack_interval_ms: 2000,
            presence_interval_ms: 1000,
            max_pending_requests: 65_536,
            drain_delay_ms: 500,
            drain_spread_ms: 2_000,
            drain_per_second: 2_000,
            rebalance_factor: 1.1,
            rebalance_margin: 1_000,
            rebalance_after_ms: 60_000,
            rebalance_per_second: 100,
            rebalance_rest_ms: 600_000,
            password_sign_in: true,
            jwt: JwtConfig::default(),
            domains: BTreeMap::new(),
            resume_ticket_s: 24 * 3600,
            edit_window_s: 48 * 3600,
            edit_history: false,
            sign_ins_per_second: 5_000,
            sign_in_burst: 10_000,
            failed_sign_ins_burst: 20,
            failed_sign_ins_per_minute: 10,
            user_failed_sign_ins_burst: 10,
            user_failed_sign_ins_per_minute: 5,
            password_sign_ins_burst: 2_000,
            password_sign_ins_per_minute: 600,
        }
    }
}

impl GatewayConfig {
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        self.invalid().into_iter().next().map_or(Ok(()), Err)
    }

    /// Most refused connections at a time: open files in addition to those of `max_connections`. Listeners for XMPP count only if they are on.
    pub fn max_refused(&self) -> usize {
        let xmpp = [self.xmpp.plain_listener(), self.xmpp.tls_listener()];
        let listeners = 3 + xmpp.iter().filter(|listener| listener.enabled).count();
        listeners * REFUSING
    }

    /// How tokens of users of this domain are checked, of the default one if it is `None`.
    pub fn jwt_of(&self, domain: Option<&str>) -> Option<&JwtConfig> {
        match domain {
            None => Some(&self.jwt),
            Some(domain) => self.domains.get(domain).map(|domain| &domain.jwt),
        }
    }

    /// The token keys of all domains.
    pub fn token_keys(&self) -> impl Iterator<Item = &JwtKeyConfig> {
        self.jwt.keys.iter().chain(self.domains.values().flat_map(|domain| &domain.jwt.keys))
    }

    /// All invalid token keys, and the first other invalid value.
    pub fn invalid(&self) -> Vec<InvalidConfig> {
        let domains = self.domains.values().flat_map(|domain| domain.jwt.invalid());
        self.validate_values().err().into_iter().chain(self.jwt.invalid()).chain(domains).collect()
    }

    fn validate_values(&self) -> Result<(), InvalidConfig> {
        let within = |key: &'static str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(InvalidConfig { key, why: format!("is {value} but must be {least} to {most}") })
            }
        };
        for (key, listen) in [("tcp.listen", &self.tcp), ("ws.listen", &self.ws), ("grpc.listen", &self.grpc)] {
            if listen.enabled && !is_host_port(&listen.listen) {
                return Err(InvalidConfig { key, why: format!("is {:?} but must be host:port", listen.listen) });
            }
        }
        if !(self.tcp.enabled || self.ws.enabled || self.grpc.enabled) {
            let why = "is false, as ws.enabled and grpc.enabled are, but clients need one of the three".to_owned();
            return Err(InvalidConfig { key: "tcp.enabled", why });
        }
        if self.routers.is_empty() {
            return Err(InvalidConfig { key: "routers", why: "is empty but must name at least one router".to_owned() });
        }
        for address in &self.routers {
            check_reachable(address).map_err(|error| InvalidConfig { key: "routers", why: error.to_string() })?;
        }
        within("lease_ms", self.lease_ms, 1_000, 600_000)?;
        within("max_connections", self.max_connections as u64, 1, 10_000_000)?;
        within("max_connections_per_address", self.max_connections_per_address as u64, 0, 10_000_000)?;
        self.proxies.validate()?;
        for (bound, proxy, listener) in [
            ("tcp.max_connections", "tcp.proxy_protocol", &self.tcp),
            ("ws.max_connections", "ws.proxy_protocol", &self.ws),
            ("grpc.max_connections", "grpc.proxy_protocol", &self.grpc),
        ] {
            within(bound, listener.max_connections as u64, 0, 10_000_000)?;
            if listener.proxy_protocol && self.proxies.trusted.is_empty() {
                let why = "is true, but proxies.trusted names nobody from whom it could be taken".to_owned();
                return Err(InvalidConfig { key: proxy, why });
            }
        }
        self.xmpp.validate(self)?;
        within("sign_in_timeout_ms", self.sign_in_timeout_ms, 100, 600_000)?;
        within("heartbeat_ms", self.heartbeat_ms.into(), 100, 3_600_000)?;
        // Must leave time for a client that sends at each heartbeat, and for one that answers a ping.
        within("silence_ms", self.silence_ms, u64::from(self.heartbeat_ms) * 2, 86_400_000)?;
        self.origins()?;
        let frames = (limits::MAX_FRAME_BYTES_BEFORE_SIGN_IN as u64, limits::MAX_FRAME_BYTES as u64);
        within("max_frame_bytes", self.max_frame_bytes as u64, frames.0, frames.1)?;
        // A frame has room for its content, its ids, and the overhead of JSON.
        within("max_content_bytes", self.max_content_bytes as u64, 1, self.max_frame_bytes as u64 - 1024)?;
        within("sends_per_second", self.sends_per_second.into(), 1, 1_000_000)?;
        within("send_burst", self.send_burst.into(), 1, 1_000_000)?;
        within("user_sends_per_second", self.user_sends_per_second.into(), 0, 1_000_000)?;
        within("user_send_burst", self.user_send_burst.into(), 0, 1_000_000)?;
        within("max_connections_per_user", self.max_connections_per_user.into(), 1, 10_000_000)?;
        within("max_pending_sends", self.max_pending_sends.into(), 1, 65_536)?;
        within("fetches_per_second", self.fetches_per_second.into(), 1, 1_000_000)?;
        within("fetch_burst", self.fetch_burst.into(), 1, 1_000_000)?;
        within("max_page", self.max_page.into(), 1, 10_000)?;
        within("max_page_bytes", self.max_page_bytes.into(), 1_024, limits::MAX_NODE_MESSAGE_BYTES as u64 / 2)?;
        within("send_deadline_ms", self.send_deadline_ms, 100, 600_000)?;
        within("write_timeout_ms", self.write_timeout_ms, 100, 600_000)?;
        within("max_outgoing_bytes", self.max_outgoing_bytes as u64, 4_096, 64 * 1024 * 1024)?;
        within("gap_grace_ms", self.gap_grace_ms, 0, 10_000)?;
        within("ack_interval_ms", self.ack_interval_ms, 0, 60_000)?;
        within("group_ack_interval_ms", self.group_ack_interval_ms, 0, 60_000)?;
        within("presence_interval_ms", self.presence_interval_ms, 0, 60_000)?;
        within("max_pending_requests", self.max_pending_requests as u64, 1, 10_000_000)?;
        within("drain_delay_ms", self.drain_delay_ms, 0, 600_000)?;
        within("drain_spread_ms", self.drain_spread_ms, 0, 600_000)?;
        within("drain_per_second", self.drain_per_second.into(), 1, 1_000_000)?;
        if self.rebalance_factor != 0.0 && !(1.0..=100.0).contains(&self.rebalance_factor) {
            let why = format!("is {} but must be 0 (never), or 1 to 100", self.rebalance_factor);
            return Err(InvalidConfig { key: "rebalance_factor", why });
        }
        within("rebalance_margin", self.rebalance_margin.into(), 0, 10_000_000)?;
        within("rebalance_after_ms", self.rebalance_after_ms, 0, 3_600_000)?;
        within("rebalance_per_second", self.rebalance_per_second.into(), 1, 1_000_000)?;
        within("rebalance_rest_ms", self.rebalance_rest_ms, 0, 86_400_000)?;
        within("resume_ticket_s", self.resume_ticket_s.into(), 0, 30 * 24 * 3600)?;
        within("sign_ins_per_second", self.sign_ins_per_second.into(), 1, 1_000_000)?;
        within("sign_in_burst", self.sign_in_burst.into(), 2, 1_000_000)?;
        within("failed_sign_ins_burst", self.failed_sign_ins_burst.into(), 1, 1_000_000)?;
        within("failed_sign_ins_per_minute", self.failed_sign_ins_per_minute.into(), 1, 1_000_000)?;
        within("user_failed_sign_ins_burst", self.user_failed_sign_ins_burst.into(), 1, 1_000_000)?;
        within("user_failed_sign_ins_per_minute", self.user_failed_sign_ins_per_minute.into(), 1, 1_000_000)?;
        within("password_sign_ins_burst", self.password_sign_ins_burst.into(), 1, 1_000_000)?;
        within("password_sign_ins_per_minute", self.password_sign_ins_per_minute.into(), 1, 1_000_000)?;
        within("jwt.leeway_s", self.jwt.leeway_s, 0, 3_600)?;
        within("domains", self.domains.len() as u64, 0, MAX_DOMAINS as u64)?;
        for (name, domain) in &self.domains {
            let invalid = |why: String| InvalidConfig { key: "domains", why };
            DomainId::check(name).map_err(|error| invalid(format!("has a {error}")))?;
            within("domains", domain.jwt.leeway_s, 0, 3_600)?;
            if !domain.password_sign_in && domain.jwt.keys.is_empty() {
                return Err(invalid(format!("{name:?} has neither passwords nor token keys, so nobody can sign in")));
            }
        }
        if !self.password_sign_in && self.jwt.keys.is_empty() {
            let why = "is false and jwt.keys is empty, but there must be one way to sign in".to_owned();
            return Err(InvalidConfig { key: "password_sign_in", why });
        }
        Ok(())
    }

    pub(crate) fn origins(&self) -> Result<Origins, InvalidConfig> {
        Origins::parse(&self.origins).map_err(|error| InvalidConfig { key: "origins", why: error.to_string() })
    }

    pub(crate) fn users(&self, domains: ClusterDomains) -> Arc<Users> {
        let or_four_times = |own: u32, one: u32| if own == 0 { one.saturating_mul(4) } else { own };
        Users::new(
            self.max_connections_per_user,
            or_four_times(self.user_sends_per_second, self.sends_per_second),
            or_four_times(self.user_send_burst, self.send_burst),
            domains,
        )
    }

    pub(crate) fn tries(&self) -> Tries {
        let allowed = |burst, per_minute| Allowed { burst, per_minute };
        Tries {
            of_address: allowed(self.failed_sign_ins_burst, self.failed_sign_ins_per_minute),
            of_user: allowed(self.user_failed_sign_ins_burst, self.user_failed_sign_ins_per_minute),
            begun: allowed(self.password_sign_ins_burst, self.password_sign_ins_per_minute),
        }
    }

    pub(crate) fn rebalance(&self) -> Bounds {
        Bounds {
            factor: self.rebalance_factor,
            margin: self.rebalance_margin,
            settled: Duration::from_millis(self.rebalance_after_ms),
            rest: Duration::from_millis(self.rebalance_rest_ms),
            per_second: self.rebalance_per_second,
        }
    }

    pub(crate) fn send_deadline(&self) -> Duration {
        Duration::from_millis(self.send_deadline_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        GatewayConfig::default().validate().expect("valid");
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let config = GatewayConfig { routers: vec!["router".to_owned()], ..Default::default() };
        assert_eq!(config.validate().expect_err("refused").key, "routers");
        let config = GatewayConfig { max_content_bytes: 1 << 20, ..Default::default() };
        assert_eq!(config.validate().expect_err("refused").key, "max_content_bytes");
        let config = GatewayConfig { password_sign_in: false, ..Default::default() };
        assert_eq!(config.validate().expect_err("refused").key, "password_sign_in");
        let off = || ListenConfig { enabled: false, ..ListenConfig::anywhere() };
        let config = GatewayConfig { tcp: off(), ws: off(), grpc: off(), ..Default::default() };
        assert_eq!(config.validate().expect_err("refused").key, "tcp.enabled");
        let config = GatewayConfig { tcp: off(), ws: off(), ..Default::default() };
        config.validate().expect("one is enough");
    }
}
