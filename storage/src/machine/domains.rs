//! Settings of domains: rows of directory shard 0, held in memory as the rest of the registry. See
//! docs/adr/0036-domain-rules.md.

use std::{collections::BTreeMap, io, sync::Arc};

use carillon_proto::{
    ANY_DOMAIN,
    limits::{CROSSINGS, DOMAIN_CROSSINGS, DOMAIN_KEYS, DOMAINS},
    pb::store::{Domain, SetDomain, rejected::Reason},
};
use prost::Message as _;

use super::{broken, keys};
use crate::engine::{Changes, sled::DirectoryShard};

/// By name; "" is the default domain.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct DomainRows(Arc<BTreeMap<String, Domain>>);

/// Times in milliseconds, of domains that have one of their own.
pub(crate) type Ages = Arc<BTreeMap<String, u64>>;

/// The times for which domains keep messages and reports.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct DomainAges {
    pub(crate) messages: Ages,
    pub(crate) reports: Ages,
}

impl DomainAges {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.reports.is_empty()
    }
}

impl DomainRows {
    pub(super) fn load(shard: &DirectoryShard) -> io::Result<Self> {
        let mut rows = BTreeMap::new();
        for record in shard.with_prefix(&keys::domains()) {
            let (key, value) = record?;
            let row = Domain::decode(&*value).map_err(|_| broken("row of a domain"))?;
            rows.insert(keys::domain_of(&key)?, row);
        }
        Ok(Self(Arc::new(rows)))
    }

    /// Ordered by name.
    pub(crate) fn all(&self) -> Vec<Domain> {
        self.0.values().cloned().collect()
    }

    pub(crate) fn ages(&self) -> DomainAges {
        let of = |age_ms: fn(&Domain) -> u64| -> Ages {
            let aged = self.0.iter().filter(|(_, row)| age_ms(row) != 0);
            Arc::new(aged.map(|(name, row)| (name.clone(), age_ms(row))).collect())
        };
        DomainAges { messages: of(|row| row.message_age_ms), reports: of(|row| row.report_age_ms) }
    }

    pub(super) fn set(&mut self, op: &SetDomain, changes: &mut Changes) -> Result<(), (Reason, String)> {
        let known = self.0.get(&op.name);
        if op.remove {
            if known.is_none() {
                return Err((Reason::NotFound, format!("nothing is decided for domain {:?}", op.name)));
            }
            changes.delete(keys::domain(&op.name));
            Arc::make_mut(&mut self.0).remove(&op.name);
            let others: Vec<String> = self.0.keys().cloned().collect();
            others.iter().for_each(|other| self.unname(other, &op.name, changes));
            return Ok(());
        }
        if known.is_none() && self.0.len() >= DOMAINS {
            return Err((Reason::Full, format!("{DOMAINS} domains have rows, which is the most")));
        }
        let mut row = known.cloned().unwrap_or_else(|| Domain { name: op.name.clone(), ..Domain::default() });
        set_keys(&mut row, op)?;
        set_limits(&mut row, op);
        self.set_crossings(&mut row, op)?;
        if known != Some(&row) {
            changes.put(keys::domain(&op.name), row.encode_to_vec());
            Arc::make_mut(&mut self.0).insert(op.name.clone(), row);
        }
        for other in &op.part_from {
            self.unname(other, &op.name, changes);
        }
        Ok(())
    }

    /// Changes which others the row names. Those that name it are not changed yet.
    fn set_crossings(&self, row: &mut Domain, op: &SetDomain) -> Result<(), (Reason, String)> {
        for other in &op.part_from {
            let before = row.crosses_to.len();
            row.crosses_to.retain(|name| name != other);
            if before == row.crosses_to.len() && !self.names(other, &op.name) {
                return Err((Reason::NotFound, self.why_not_named(&op.name, other)));
            }
        }
        let before = row.crosses_to.len();
        row.crosses_to.extend(op.cross_to.iter().cloned());
        row.crosses_to.sort_unstable();
        row.crosses_to.dedup();
        if row.crosses_to.len() > DOMAIN_CROSSINGS {
            let why = format!("domain {:?} would cross to more than {DOMAIN_CROSSINGS} others", op.name);
            return Err((Reason::Full, why));
        }
        let others = self.0.values().filter(|other| other.name != op.name).map(|other| other.crosses_to.len());
        if row.crosses_to.len() > before && others.sum::<usize>() + row.crosses_to.len() > CROSSINGS {
            return Err((Reason::Full, format!("domains would cross to others more than {CROSSINGS} times in all")));
        }
        Ok(())
    }

    fn names(&self, domain: &str, other: &str) -> bool {
        self.0.get(domain).is_some_and(|row| row.crosses_to.iter().any(|name| name == other))
    }

    fn why_not_named(&self, domain: &str, other: &str) -> String {
        for (of, to) in [(domain, other), (other, domain)] {
            if self.names(of, ANY_DOMAIN) {
                return format!("domain {of:?} crosses to any, so also to {to:?}: take {ANY_DOMAIN:?} from it");
            }
        }
        format!("domain {domain:?} does not cross to {other:?}")
    }

    /// Takes the name of this domain from the row of that one.
    fn unname(&mut self, of: &str, domain: &str, changes: &mut Changes) {
        if !self.names(of, domain) {
            return;
        }
        if let Some(row) = Arc::make_mut(&mut self.0).get_mut(of) {
            row.crosses_to.retain(|name| name != domain);
            changes.put(keys::domain(of), row.encode_to_vec());
        }
    }
}

fn set_limits(row: &mut Domain, op: &SetDomain) {
    fn to<T: Copy>(place: &mut T, given: Option<T>) {
        *place = given.unwrap_or(*place);
    }
    to(&mut row.max_message_bytes, op.max_message_bytes);
    to(&mut row.sends_per_second, op.sends_per_second);
    to(&mut row.max_users, op.max_users);
    to(&mut row.max_groups_of_user, op.max_groups_of_user);
    to(&mut row.max_group_members, op.max_group_members);
    to(&mut row.max_media_bytes, op.max_media_bytes);
    to(&mut row.message_age_ms, op.message_age_ms);
    to(&mut row.report_age_ms, op.report_age_ms);
    to(&mut row.closed, op.closed);
    to(&mut row.no_new_groups, op.no_new_groups);
}

/// One key may be replaced by another one in the same command.
fn set_keys(row: &mut Domain, op: &SetDomain) -> Result<(), (Reason, String)> {
    if !op.remove_key.is_empty() {
        let before = row.keys.len();
        row.keys.retain(|key| key.sha256 != op.remove_key);
        if row.keys.len() == before {
            return Err((Reason::NotFound, format!("domain {:?} has no such key", op.name)));
        }
    }
    if let Some(key) = op.add_key.as_ref().filter(|key| row.keys.iter().all(|known| known.sha256 != key.sha256)) {
        if row.keys.len() >= DOMAIN_KEYS {
            let why = format!("domain {:?} has {DOMAIN_KEYS} keys already: remove one first", op.name);
            return Err((Reason::Full, why));
        }
        row.keys.push(key.clone());
    }
    Ok(())
}
