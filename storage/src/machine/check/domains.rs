//! Checks of what is decided for domains.

use carillon_proto::{
    ANY_DOMAIN, DomainId, duration,
    limits::{DOMAIN_CROSSINGS, LEAST_DOMAIN_AGE_MS, MOST_DOMAIN_AGE_MS},
    pb::store::{Rejected, SetDomain},
};

use super::invalid;

/// Of the hash of a token.
const HASH_BYTES: usize = 32;

pub(super) fn check_set(op: &SetDomain) -> Result<(), Rejected> {
    if !op.name.is_empty() {
        DomainId::check(&op.name).map_err(invalid)?;
    }
    if op.name.is_empty() && op.max_users.is_some_and(|users| users != 0) {
        return Err(invalid("accounts of the default domain are not counted, so their number has no limit"));
    }
    for (what, age_ms) in [("messages", op.message_age_ms), ("reports", op.report_age_ms)] {
        let is_bounded = |age_ms: u64| age_ms == 0 || (LEAST_DOMAIN_AGE_MS..=MOST_DOMAIN_AGE_MS).contains(&age_ms);
        if age_ms.is_some_and(|age_ms| !is_bounded(age_ms)) {
            let [least, most] = [LEAST_DOMAIN_AGE_MS, MOST_DOMAIN_AGE_MS].map(duration::ms_in_words);
            return Err(invalid(format!(
                "{what} are kept for 0 (as the cluster says), or at least {least} and at most {most}"
            )));
        }
    }
    check_crossings(&op.name, &op.cross_to)?;
    check_crossings(&op.name, &op.part_from)?;
    let is_hash = |bytes: &[u8]| bytes.len() == HASH_BYTES;
    if op.add_key.as_ref().is_some_and(|key| !is_hash(&key.sha256)) {
        return Err(invalid("a key is the SHA-256 of a token, 32 bytes"));
    }
    if !op.remove_key.is_empty() && !is_hash(&op.remove_key) {
        return Err(invalid("a key is named by the SHA-256 of its token, 32 bytes"));
    }
    let nothing = SetDomain { name: op.name.clone(), remove: op.remove, ..SetDomain::default() };
    if (*op == nothing) != op.remove {
        let why = if op.remove { "what is removed is not set as well" } else { "nothing is to be set" };
        return Err(invalid(why));
    }
    Ok(())
}

fn check_crossings(domain: &str, others: &[String]) -> Result<(), Rejected> {
    if others.len() > DOMAIN_CROSSINGS {
        return Err(invalid(format!("{} other domains at once, not up to {DOMAIN_CROSSINGS}", others.len())));
    }
    others.iter().try_for_each(|other| match other.as_str() {
        other if other == domain => Err(invalid("users of one domain always reach each other")),
        "" | ANY_DOMAIN => Ok(()),
        other => DomainId::check(other).map_err(invalid),
    })
}
