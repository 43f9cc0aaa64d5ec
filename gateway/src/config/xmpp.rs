//! XMPP.

use carillon_proto::DomainId;
use serde::{Deserialize, Serialize};

use super::{GatewayConfig, InvalidConfig, ListenConfig, listen::is_host_port};

/// XMPP clients. What works is in docs/xmpp.md.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct XmppConfig {
    pub enabled: bool,
    /// The name of the default domain in addresses: its users are alice@DOMAIN. The domains of `gateway.domains` have names already.
    pub domain: String,
    /// host:port for streams that begin without TLS; empty: none.
    pub listen: String,
    /// host:port for streams inside TLS; empty: none.
    pub tls_listen: String,
    pub tls: XmppTls,
    /// Most connections of each of the two listeners; 0 as for other listeners.
    pub max_connections: usize,
    /// True if a trusted proxy names the client by the PROXY protocol, on both listeners.
    pub proxy_protocol: bool,
    /// A client that has said nothing for so many seconds is asked for a sign of life, and has a minute for its answer.
    pub silence_s: u32,
}

/// The place where TLS ends, and whether there must be any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XmppTls {
    /// No client signs in without TLS.
    #[default]
    Required,
    /// Clients without TLS may sign in by SCRAM, which shows no password.
    Optional,
    /// A proxy in front ends TLS: the plain text that comes here counts as encrypted.
    Outside,
}

impl Default for XmppConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            domain: String::new(),
            listen: "127.0.0.1:5222".to_owned(),
            tls_listen: "127.0.0.1:5223".to_owned(),
            tls: XmppTls::Required,
            max_connections: 0,
            proxy_protocol: false,
            silence_s: 900,
        }
    }
}

impl XmppConfig {
    /// The listener for streams that begin without TLS.
    pub fn plain_listener(&self) -> ListenConfig {
        self.listener(&self.listen)
    }

    /// The listener for streams inside TLS. A proxy that ends TLS needs only the other one.
    pub fn tls_listener(&self) -> ListenConfig {
        let listener = self.listener(&self.tls_listen);
        ListenConfig { enabled: listener.enabled && self.tls != XmppTls::Outside, ..listener }
    }

    fn listener(&self, listen: &str) -> ListenConfig {
        let enabled = self.enabled && !listen.is_empty();
        let (max_connections, proxy_protocol) = (self.max_connections, self.proxy_protocol);
        ListenConfig { enabled, listen: listen.to_owned(), max_connections, proxy_protocol }
    }

    /// `of`: the configuration of which this is a part.
    pub(super) fn validate(&self, of: &GatewayConfig) -> Result<(), InvalidConfig> {
        let invalid = |key: &'static str, why: String| Err(InvalidConfig { key, why });
        if !(60..=86_400).contains(&self.silence_s) {
            return invalid("xmpp.silence_s", format!("is {} but must be 60 to 86400", self.silence_s));
        }
        if !self.enabled {
            return Ok(());
        }
        if self.domain.is_empty() {
            let why = "is empty, but XMPP needs the name of the default domain, for example chat.example.org";
            return invalid("xmpp.domain", why.to_owned());
        }
        if let Err(error) = DomainId::check(&self.domain) {
            return invalid("xmpp.domain", format!("is no domain: {error}"));
        }
        if of.domains.contains_key(&self.domain) {
            return invalid("xmpp.domain", format!("is {:?}, which is one of the further domains, too", self.domain));
        }
        for (key, listen) in [("xmpp.listen", &self.listen), ("xmpp.tls_listen", &self.tls_listen)] {
            if !listen.is_empty() && !is_host_port(listen) {
                return invalid(key, format!("is {listen:?} but must be host:port, or empty for no listener"));
            }
        }
        if !self.plain_listener().enabled && !self.tls_listener().enabled {
            return invalid("xmpp.listen", "is empty, so that no XMPP client can come in".to_owned());
        }
        if self.tls != XmppTls::Outside && of.tls.is_none() {
            let why = "needs gateway.tls with a certificate, unless it is \"outside\": a proxy in front ends TLS";
            return invalid("xmpp.tls", why.to_owned());
        }
        if self.proxy_protocol && of.proxies.trusted.is_empty() {
            let why = "is true, but proxies.trusted names nobody from whom it could be taken";
            return invalid("xmpp.proxy_protocol", why.to_owned());
        }
        if self.max_connections > 10_000_000 {
            return invalid("xmpp.max_connections", format!("is {} but must be 0 to 10000000", self.max_connections));
        }
        if !of.password_sign_in && !of.domains.values().any(|domain| domain.password_sign_in) {
            let why = "is true, but XMPP clients sign in by password, which is off in all domains";
            return invalid("xmpp.enabled", why.to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DomainConfig, TlsConfig};

    fn on() -> GatewayConfig {
        let tls = TlsConfig { certificate: "a".into(), key: "b".into() };
        let xmpp = XmppConfig { enabled: true, domain: "chat.example.org".to_owned(), ..XmppConfig::default() };
        GatewayConfig { tls: Some(tls), xmpp, ..GatewayConfig::default() }
    }

    fn refused(change: impl FnOnce(&mut GatewayConfig)) -> &'static str {
        let mut config = on();
        change(&mut config);
        config.validate().expect_err("refused").key
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        on().validate().expect("valid");
        assert_eq!(refused(|config| config.xmpp.domain.clear()), "xmpp.domain");
        assert_eq!(refused(|config| config.xmpp.domain = "Chat.example.org".to_owned()), "xmpp.domain");
        let further = |config: &mut GatewayConfig| {
            config.domains.insert("chat.example.org".to_owned(), DomainConfig::default());
        };
        assert_eq!(refused(further), "xmpp.domain");
        assert_eq!(refused(|config| config.xmpp.listen = "5222".to_owned()), "xmpp.listen");
        assert_eq!(refused(|config| config.xmpp.tls_listen = "host".to_owned()), "xmpp.tls_listen");
        let nowhere = |config: &mut GatewayConfig| (config.xmpp.listen.clear(), config.xmpp.tls_listen.clear());
        assert_eq!(refused(|config| _ = nowhere(config)), "xmpp.listen");
        assert_eq!(refused(|config| config.tls = None), "xmpp.tls");
        assert_eq!(refused(|config| config.xmpp.proxy_protocol = true), "xmpp.proxy_protocol");
        assert_eq!(refused(|config| config.xmpp.silence_s = 1), "xmpp.silence_s");
        assert_eq!(refused(|config| config.xmpp.max_connections = 10_000_001), "xmpp.max_connections");
    }

    #[test]
    fn a_proxy_that_ends_tls_needs_no_certificate_here() {
        let mut config = on();
        (config.tls, config.xmpp.tls) = (None, XmppTls::Outside);
        config.validate().expect("valid");
        assert!(config.xmpp.plain_listener().enabled && !config.xmpp.tls_listener().enabled);
        config.xmpp.listen.clear();
        assert_eq!(config.validate().expect_err("nowhere").key, "xmpp.listen");
    }

    #[test]
    fn settings_that_do_not_work_yet_are_unknown() {
        let read = serde_json::from_str::<XmppConfig>;
        for unknown in [r#"{"resume_s": 300}"#, r#"{"scram_sha1": true}"#, r#"{"tls": "none"}"#] {
            read(unknown).expect_err(unknown);
        }
        assert_eq!(read(r#"{"tls": "outside"}"#).expect("valid").tls, XmppTls::Outside);
        assert!(!read("{}").expect("valid").enabled, "off unless it is switched on");
    }
}
