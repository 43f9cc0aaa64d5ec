//! The settings and limits that the streams of all clients share.

use std::sync::Arc;

use carillon_proto::{DomainId, InvalidId, UserId};
use carillon_xmpp::{
    Jid,
    jid::{Addressee, Hosts},
    sasl::{Hash, Keys},
};

use super::checks::Checks;
use crate::{
    config::{XmppConfig, XmppTls},
    conversation::Rules,
};

pub(crate) struct Service {
    pub(super) hosts: Hosts,
    /// The name of the default domain.
    pub(super) domain: DomainId,
    pub(super) tls: XmppTls,
    rules: Arc<Rules>,
    pub(crate) checks: Checks,
}

impl Service {
    /// An error if the name of the default domain is not one.
    pub(crate) fn new(config: &XmppConfig, rules: Arc<Rules>) -> Result<Self, InvalidId> {
        let domain = DomainId::new(&config.domain)?;
        let hosts = Hosts::new(domain.clone());
        Ok(Self { hosts, domain, tls: config.tls, rules, checks: Checks::new() })
    }

    /// Whether TLS ends here.
    pub(crate) fn has_tls(&self) -> bool {
        self.tls != XmppTls::Outside
    }

    /// Whether users are at this domain.
    pub(super) fn serves(&self, host: &str) -> bool {
        self.rules.has_domain(self.of_ids(host))
    }

    /// Whether users at this domain may sign in by password.
    pub(super) fn has_passwords(&self, host: &str) -> bool {
        self.rules.has_passwords(self.of_ids(host))
    }

    /// The user of this address; `None`: no user can have it.
    pub(super) fn user(&self, jid: &Jid) -> Option<UserId> {
        match self.hosts.addressee(jid) {
            Ok(Addressee::User(user)) => Some(user),
            Ok(Addressee::Group(_)) | Err(_) => None,
        }
    }

    /// Keys for an address that no user can have.
    pub(super) fn decoy(&self, jid: &Jid) -> Keys {
        Keys::decoy(Hash::Sha256, &self.rules.decoy_key, jid.as_str())
    }

    /// The domain as ids have it.
    fn of_ids<'a>(&self, host: &'a str) -> Option<&'a str> {
        (host != self.domain.as_str()).then_some(host)
    }
}
