//! The settings of all sessions of a gateway: times, sizes, rates, and keys of tokens.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use carillon_media::MediaConfig;
use carillon_proto::{Level, UserId};

use super::{
    ticket::TicketKeys,
    token::{InvalidTokenKey, TokenDomains},
};
use crate::{
    cluster_domains::ClusterDomains,
    cluster_level::ClusterLevel,
    config::{GatewayConfig, TokenAccounts},
    herd::Herd,
    media::PassKeys,
    throttle::Throttle,
    users::Users,
};

pub(crate) struct Rules {
    pub(crate) heartbeat_ms: u32,
    /// The time for which a client may say nothing.
    pub(crate) silence: Duration,
    /// The time for which a client of XMPP may say nothing until it is asked for a sign of life.
    pub(crate) xmpp_silence: Duration,
    pub(crate) sign_in_timeout: Duration,
    pub(crate) max_frame_bytes: usize,
    pub(crate) max_content_bytes: usize,
    pub(crate) sends_per_second: u32,
    pub(crate) send_burst: u32,
    pub(crate) max_pending_sends: u32,
    pub(crate) fetches_per_second: u32,
    pub(crate) fetch_burst: u32,
    pub(crate) max_page: u32,
    pub(crate) max_page_bytes: u32,
    pub(crate) gap_grace: Duration,
    pub(crate) ack_interval: Duration,
    pub(crate) group_ack_interval: Duration,
    /// Of users of the default domain.
    pub(crate) password_sign_in: bool,
    /// Replaced when the keys change.
    pub(crate) tokens: ArcSwap<TokenDomains>,
    /// Replaced when the cluster's secrets change.
    pub(crate) tickets: ArcSwap<TicketKeys>,
    /// For how long a resume ticket counts; zero: there are none.
    pub(crate) ticket_lifetime: Duration,
    /// Makes up credentials for users who have none.
    pub(crate) decoy_key: [u8; 32],
    pub(crate) throttle: Throttle,
    pub(crate) herd: Herd,
    pub(crate) users: Arc<Users>,
    pub(crate) level: ClusterLevel,
    pub(crate) domains: ClusterDomains,
    /// For how long a message can be edited; 0: at any time.
    pub(crate) edit_window_ms: u64,
    /// Whether users read what messages said before they were edited.
    pub(crate) edit_history: bool,
    /// `None`: this gateway has no place for files.
    pub(crate) media: Option<MediaRules>,
}

pub(crate) struct MediaRules {
    pub(crate) config: MediaConfig,
    /// Replaced when the cluster's secrets change.
    pub(crate) keys: Arc<ArcSwap<PassKeys>>,
}

impl Rules {
    /// True once all parts of the service know messages that refer to messages.
    pub(crate) fn has_references(&self) -> bool {
        self.level.get() >= Level::GROUPS
    }

    /// Whether this domain is one of the service's; `None`: the default one.
    pub(crate) fn has_domain(&self, domain: Option<&str>) -> bool {
        domain.is_none_or(|domain| self.tokens.load().has_domain(domain))
    }

    /// Whether users of this domain may sign in by password; `None`: the default one.
    pub(crate) fn has_passwords(&self, domain: Option<&str>) -> bool {
        self.tokens.load().have_passwords(domain, self.password_sign_in)
    }

    /// Whether the user may sign in by password.
    pub(crate) fn have_passwords(&self, user: &UserId) -> bool {
        self.has_passwords(user.domain())
    }

    /// When a token makes an account for its user.
    pub(crate) fn token_accounts(&self, user: &UserId) -> TokenAccounts {
        self.tokens.load().accounts(user.domain())
    }

    /// Longest content of one message of this user.
    pub(crate) fn max_content_bytes(&self, user: &UserId) -> usize {
        self.domains.max_content_bytes(user, self.max_content_bytes)
    }

    /// True once all parts of the service know groups.
    pub(crate) fn has_groups(&self) -> bool {
        self.level.get() >= Level::GROUPS
    }

    /// Gives no resume tickets until `tickets` has keys.
    pub(crate) fn new(config: &GatewayConfig, decoy_key: [u8; 32]) -> Result<Self, InvalidTokenKey> {
        let domains = ClusterDomains::default();
        Ok(Self {
            heartbeat_ms: config.heartbeat_ms,
            silence: Duration::from_millis(config.silence_ms),
            xmpp_silence: Duration::from_secs(config.xmpp.silence_s.into()),
            sign_in_timeout: Duration::from_millis(config.sign_in_timeout_ms),
            max_frame_bytes: config.max_frame_bytes,
            max_content_bytes: config.max_content_bytes,
            sends_per_second: config.sends_per_second,
            send_burst: config.send_burst,
            max_pending_sends: config.max_pending_sends,
            fetches_per_second: config.fetches_per_second,
            fetch_burst: config.fetch_burst,
            max_page: config.max_page,
            max_page_bytes: config.max_page_bytes,
            gap_grace: Duration::from_millis(config.gap_grace_ms),
            ack_interval: Duration::from_millis(config.ack_interval_ms),
            group_ack_interval: Duration::from_millis(config.group_ack_interval_ms),
            password_sign_in: config.password_sign_in,
            tokens: ArcSwap::from_pointee(TokenDomains::load(config)?),
            tickets: ArcSwap::default(),
            ticket_lifetime: Duration::from_secs(config.resume_ticket_s.into()),
            decoy_key,
            throttle: Throttle::new(config.tries()),
            herd: Herd::new(config.sign_ins_per_second, config.sign_in_burst),
            users: config.users(domains.clone()),
            level: ClusterLevel::default(),
            domains,
            media: None,
            edit_window_ms: u64::from(config.edit_window_s) * 1000,
            edit_history: config.edit_history,
        })
    }
}
