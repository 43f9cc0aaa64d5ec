//! Addresses of XMPP (RFC 7622).

mod hosts;

use std::{borrow::Cow, fmt, str::FromStr};

use carillon_proto::{DomainId, UserId};
use precis_profiles::{OpaqueString, UsernameCaseMapped, precis_core::profile::PrecisFastInvocation as _};

pub use hosts::{Addressee, Hosts, NotOurs, device};

use crate::error::{StanzaCondition, StreamCondition};

/// The longest part of an address, in bytes.
pub const MAX_PART_BYTES: usize = 1023;

/// An address: `[localpart@]domainpart[/resourcepart]`, in its normal form.
///
/// The localpart has the rules of PRECIS (UsernameCaseMapped), and beside these all that ids of users may have: they are of before PRECIS, so
/// that some have symbols that PRECIS does not know.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Jid {
    text: String,
    /// The length of the localpart; 0 if there is none.
    local: usize,
    /// The offset behind the domainpart.
    domain_end: usize,
}

/// The part of an address that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJid {
    #[error("the address is too long")]
    TooLong,
    #[error("the localpart is not 1 to 1023 bytes without spaces and \" & ' / : < > @ (RFC 7622, section 3.3)")]
    Local,
    #[error("the domainpart is no host name, IPv4 address or IPv6 address in square brackets (RFC 7622, section 3.2)")]
    Domain,
    #[error("the resourcepart is not 1 to 1023 bytes without control characters (RFC 7622, section 3.4)")]
    Resource,
    #[error("the address has a resourcepart where none may be")]
    NotBare,
}

impl InvalidJid {
    /// The error for the sender of a stanza whose `to` this is.
    pub fn stanza_condition(self) -> StanzaCondition {
        StanzaCondition::JidMalformed
    }

    /// The error for the peer whose stream's header has this in `to`: no host can have that name.
    pub fn condition_of_to(self) -> StreamCondition {
        StreamCondition::HostUnknown
    }

    /// The error for the peer whose stream's header has this in `from`, or whose stanza has.
    pub fn condition_of_from(self) -> StreamCondition {
        StreamCondition::InvalidFrom
    }
}

impl Jid {
    /// Reads an address, and brings it into its normal form.
    pub fn new(given: &str) -> Result<Self, InvalidJid> {
        if given.len() > 3 * MAX_PART_BYTES + "@/".len() {
            return Err(InvalidJid::TooLong);
        }
        // RFC 7622, section 3.1: "an implementation needs to match the separator characters '@' and '/' before applying any
        // transformation algorithms". Section 3.2: "Remove any portion from the first '/' character to the end of the string", then
        // "any portion from the beginning of the string to the first '@' character".
        let (bare, resource) = match given.split_once('/') {
            Some((bare, resource)) => (bare, Some(resource)),
            None => (given, None),
        };
        match bare.split_once('@') {
            Some((local, domain)) => Self::of_parts(Some(local), domain, resource),
            None => Self::of_parts(None, bare, resource),
        }
    }

    /// Makes an address of its parts.
    pub fn of_parts(local: Option<&str>, domain: &str, resource: Option<&str>) -> Result<Self, InvalidJid> {
        let local = local.map(normal_local).transpose()?;
        let domain = normal_domain(domain)?;
        let resource = resource.map(normal_resource).transpose()?;
        let mut text = String::with_capacity(
            local.as_deref().map_or(0, |local| local.len() + 1)
                + domain.len()
                + resource.as_deref().map_or(0, |resource| resource.len() + 1),
        );
        let local_bytes = local.as_deref().map_or(0, str::len);
        if let Some(local) = local {
            text.push_str(&local);
            text.push('@');
        }
        text.push_str(&domain);
        let domain_end = text.len();
        if let Some(resource) = resource {
            text.push('/');
            text.push_str(&resource);
        }
        Ok(Self { text, local: local_bytes, domain_end })
    }

    /// Makes a bare address of parts that are normal.
    fn of_normal(local: &str, domain: &str) -> Self {
        let text = format!("{local}@{domain}");
        Self { domain_end: text.len(), text, local: local.len() }
    }

    /// Reads an address without a resource.
    pub fn bare_of(given: &str) -> Result<Self, InvalidJid> {
        let jid = Self::new(given)?;
        if jid.resource().is_some() { Err(InvalidJid::NotBare) } else { Ok(jid) }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn local(&self) -> Option<&str> {
        (self.local > 0).then(|| &self.text[..self.local])
    }

    pub fn domain(&self) -> &str {
        let begin = if self.local > 0 { self.local + 1 } else { 0 };
        &self.text[begin..self.domain_end]
    }

    pub fn resource(&self) -> Option<&str> {
        self.text[self.domain_end..].strip_prefix('/')
    }

    /// The address without its resource, as text.
    pub fn bare(&self) -> &str {
        &self.text[..self.domain_end]
    }

    pub fn is_bare(&self) -> bool {
        self.domain_end == self.text.len()
    }

    /// The address without its resource.
    pub fn to_bare(&self) -> Self {
        Self { text: self.bare().to_owned(), ..*self }
    }

    /// The address with this resource.
    pub fn with_resource(&self, resource: &str) -> Result<Self, InvalidJid> {
        let resource = normal_resource(resource)?;
        Ok(Self { text: format!("{}/{resource}", self.bare()), ..*self })
    }
}

impl fmt::Display for Jid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Jid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl FromStr for Jid {
    type Err = InvalidJid;

    fn from_str(given: &str) -> Result<Self, InvalidJid> {
        Self::new(given)
    }
}

/// Whether a part has a length that is allowed. A part is checked as it is given, too: PRECIS takes a time in the square of the length,
/// because each digit of Arabic is compared with all characters of the part.
fn fits(part: &str) -> bool {
    (1..=MAX_PART_BYTES).contains(&part.len())
}

/// RFC 7622, section 3.3: "The localpart of a JID MUST NOT be zero octets in length and MUST NOT be more than 1023 octets in length." "The
/// localpart of a JID is an instance of the UsernameCaseMapped profile of the PRECIS IdentifierClass [...]. The rules and considerations
/// provided in that specification MUST be applied to XMPP localparts." Section 3.3.1: "the following characters are explicitly disallowed".
fn normal_local(given: &str) -> Result<Cow<'_, str>, InvalidJid> {
    const EXCLUDED: &[char] = &['"', '&', '\'', '/', ':', '<', '>', '@'];
    let has_excluded = |local: &str| local.contains(EXCLUDED);
    if !fits(given) || has_excluded(given) {
        return Err(InvalidJid::Local);
    }
    // An id of a user is normal as it is, for whom has made it and for XMPP before PRECIS.
    if UserId::check(given).is_ok() {
        return Ok(given.into());
    }
    let local = UsernameCaseMapped::enforce(given).map_err(|_| InvalidJid::Local)?;
    // Width mapping may make an excluded character of another one, and case mapping something that has a normal form of its own.
    let again = UsernameCaseMapped::enforce(&*local).map_err(|_| InvalidJid::Local)?;
    if again == local && fits(&local) && !has_excluded(&local) { Ok(local) } else { Err(InvalidJid::Local) }
}

/// RFC 7622, section 3.2: "The domainpart for every XMPP service MUST be a fully qualified domain name (FQDN), an IPv4 address, an IPv6
/// address, or an unqualified hostname". "If the domainpart includes a final character considered to be a label separator (dot) by
/// [RFC1034], this character MUST be stripped". Section 3.2.1: "each A-label MUST be converted to a U-label".
fn normal_domain(given: &str) -> Result<Cow<'_, str>, InvalidJid> {
    let given = given.strip_suffix('.').unwrap_or(given);
    if DomainId::check(given).is_ok() {
        return Ok(given.into());
    }
    if let Some(address) = given.strip_prefix('[').and_then(|address| address.strip_suffix(']')) {
        let address: std::net::Ipv6Addr = address.parse().map_err(|_| InvalidJid::Domain)?;
        return Ok(format!("[{address}]").into());
    }
    DomainId::normalised(given).map(|domain| domain.as_str().to_owned().into()).map_err(|_| InvalidJid::Domain)
}

/// RFC 7622, section 3.4: "The resourcepart of a JID MUST NOT be zero octets in length and MUST NOT be more than 1023 octets in length." "The
/// resourcepart of a JID is an instance of the OpaqueString profile of the PRECIS FreeformClass [...]. The rules and considerations
/// provided in that specification MUST be applied to XMPP resourceparts."
fn normal_resource(given: &str) -> Result<Cow<'_, str>, InvalidJid> {
    if !fits(given) {
        return Err(InvalidJid::Resource);
    }
    let resource = if given.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        given.into()
    } else {
        OpaqueString::enforce(given).map_err(|_| InvalidJid::Resource)?
    };
    // Section 3.5, example 18: no space at the beginning.
    if fits(&resource) && !resource.starts_with(' ') { Ok(resource) } else { Err(InvalidJid::Resource) }
}

#[cfg(test)]
mod tests;
