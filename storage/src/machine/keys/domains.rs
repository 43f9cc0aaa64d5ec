//! Keys of domains.

use std::{io, ops::RangeInclusive};

use super::{DOMAIN, DOMAIN_ACCOUNTS, DOMAIN_GROUP, DOMAIN_USER, RowBytes, broken, key};

/// Empty: the default domain.
pub(crate) fn domain(name: &str) -> RowBytes {
    key(DOMAIN, &[name.as_bytes()])
}

/// The prefix of all rows of domains.
pub(crate) fn domains() -> RowBytes {
    key(DOMAIN, &[])
}

pub(crate) fn domain_accounts(name: &str) -> RowBytes {
    key(DOMAIN_ACCOUNTS, &[name.as_bytes()])
}

/// The domain in a key of `DOMAIN` or `DOMAIN_ACCOUNTS`.
pub(crate) fn domain_of(key: &[u8]) -> io::Result<String> {
    let [DOMAIN | DOMAIN_ACCOUNTS, name @ ..] = key else { return Err(broken("key of a domain")) };
    String::from_utf8(name.to_vec()).map_err(|_| broken("name in the key of a domain"))
}

/// No name of a domain contains 0x00.
pub(crate) fn domain_user(domain: &str, user: &str) -> RowBytes {
    key(DOMAIN_USER, &[domain.as_bytes(), &[0], user.as_bytes()])
}

/// The prefix of all users of the domain.
pub(crate) fn domain_users(domain: &str) -> RowBytes {
    domain_user(domain, "")
}

pub(crate) fn domain_user_of(key: &[u8]) -> io::Result<String> {
    behind_domain(DOMAIN_USER, key).ok_or_else(|| broken("key of a user of a domain"))
}

/// The key of this group in its domain.
pub(crate) fn domain_group(group: &str) -> RowBytes {
    let domain = carillon_proto::domain_of(group);
    key(DOMAIN_GROUP, &[domain.as_bytes(), &[0], group.as_bytes()])
}

/// The range of all groups of the domain; `None`: of all domains.
pub(crate) fn domain_groups(domain: Option<&str>) -> RangeInclusive<RowBytes> {
    match domain {
        Some(domain) => key(DOMAIN_GROUP, &[domain.as_bytes(), &[0]])..=key(DOMAIN_GROUP, &[domain.as_bytes(), &[1]]),
        None => key(DOMAIN_GROUP, &[])..=key(DOMAIN_GROUP + 1, &[]),
    }
}

pub(crate) fn domain_group_of(key: &[u8]) -> io::Result<String> {
    behind_domain(DOMAIN_GROUP, key).ok_or_else(|| broken("key of a group of a domain"))
}

fn behind_domain(first: u8, key: &[u8]) -> Option<String> {
    let rest = key.strip_prefix(&[first])?;
    let at = rest.iter().position(|byte| *byte == 0)?;
    String::from_utf8(rest[at + 1..].to_vec()).ok()
}
