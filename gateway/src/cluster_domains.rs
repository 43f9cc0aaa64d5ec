//! The operator's settings of domains, by which gateways narrow their own limits. See docs/adr/0036-domain-rules.md.

use std::sync::Arc;

use arc_swap::ArcSwap;
use carillon_proto::{Domains, UserId, domain_of, narrowed, pb::store::Domain};

/// The settings of domains that this gateway has heard last. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClusterDomains(Arc<ArcSwap<Domains>>);

impl ClusterDomains {
    /// Takes over the rows of the registry's view.
    pub(crate) fn heard(&self, rows: &[Domain]) {
        self.0.store(Arc::new(Domains::of(rows)));
    }

    /// True if users of the domains of these users and groups may talk to each other.
    pub(crate) fn allow(&self, one: &str, other: &str) -> bool {
        domain_of(one) == domain_of(other) || self.0.load().allow_ids(one, other)
    }

    /// Longest content of a message of this user.
    pub(crate) fn max_content_bytes(&self, user: &UserId, own: usize) -> usize {
        let of_domain = self.0.load().get(user.domain()).map_or(0, |domain| domain.max_message_bytes);
        narrowed(own, usize::try_from(of_domain).unwrap_or(usize::MAX))
    }

    /// Messages a second of a user of this domain; 0: the domain has no limit of its own.
    pub(crate) fn sends_per_second(&self, domain: Option<&str>) -> u32 {
        self.0.load().get(domain).map_or(0, |domain| domain.sends_per_second)
    }
}
