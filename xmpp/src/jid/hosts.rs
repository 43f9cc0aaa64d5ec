//! Addresses of users and groups, and the ids that Carillon has for them.

use carillon_proto::{DeviceId, DomainId, GroupId, UserId};

use super::Jid;
use crate::error::StanzaCondition;

/// The label before the domain of users in the domain of their groups.
const ROOMS: &str = "conference";

/// The domains by which users and groups are addressed. The ids of the default domain do not name it; addresses always do. Groups of
/// `example.org` are at `conference.example.org`, so that no users can be at a domain that begins so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    default: DomainId,
}

/// The address is valid, and cannot be that of a user or a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    /// The address is a domain.
    #[error("the address has no localpart")]
    NoLocal,
    /// No user may have such a name.
    #[error("no user and no group can have this address")]
    Name,
    /// The domain is neither one of users nor one of groups.
    #[error("the domain has no users or groups")]
    Domain,
}

impl NotOurs {
    /// The error for the sender of a stanza to this address. A name that no user can have is answered as one that no user has, so that
    /// the two are not told apart (RFC 6121, section 8.5.1).
    pub fn stanza_condition(self) -> StanzaCondition {
        match self {
            Self::NoLocal | Self::Name => StanzaCondition::ServiceUnavailable,
            Self::Domain => StanzaCondition::RemoteServerNotFound,
        }
    }
}

/// The user or the group of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressee {
    User(UserId),
    Group(GroupId),
}

impl Hosts {
    /// `default`: the domain whose users have ids without a domain.
    pub fn new(default: DomainId) -> Self {
        Self { default }
    }

    /// The domain of the users with these ids.
    pub fn domain<'a>(&'a self, of_id: Option<&'a str>) -> &'a str {
        of_id.unwrap_or(self.default.as_str())
    }

    /// The domain of the groups of a domain of users.
    pub fn rooms(domain: &str) -> String {
        format!("{ROOMS}.{domain}")
    }

    /// The user or group of an address; the resource does not matter.
    pub fn addressee(&self, jid: &Jid) -> Result<Addressee, NotOurs> {
        let local = jid.local().ok_or(NotOurs::NoLocal)?;
        let rooms = jid.domain().strip_prefix(ROOMS).and_then(|rest| rest.strip_prefix('.'));
        let domain = DomainId::new(rooms.unwrap_or(jid.domain())).map_err(|_| NotOurs::Domain)?;
        let domain = Some(&domain).filter(|domain| **domain != self.default);
        let user = UserId::local(local, domain).map_err(|_| NotOurs::Name)?;
        match rooms {
            // The rules are the same.
            Some(_) => GroupId::new(user.as_str()).map(Addressee::Group).map_err(|_| NotOurs::Name),
            None => Ok(Addressee::User(user)),
        }
    }

    /// The bare address of a user.
    pub fn of_user(&self, user: &UserId) -> Jid {
        self.jid(user.as_str(), |domain| domain.to_owned())
    }

    /// The bare address of a group.
    pub fn of_group(&self, group: &GroupId) -> Jid {
        self.jid(group.as_str(), Self::rooms)
    }

    fn jid(&self, id: &str, host: impl Fn(&str) -> String) -> Jid {
        let (local, domain) = id.split_once('@').unwrap_or((id, self.default.as_str()));
        // Ids are normal by the rules of addresses, too.
        Jid::of_normal(local, &host(domain))
    }
}

/// The device of a resource. `None`: no device can have that name, and the server chooses a resource.
pub fn device(resource: &str) -> Option<DeviceId> {
    DeviceId::new(resource).ok()
}
