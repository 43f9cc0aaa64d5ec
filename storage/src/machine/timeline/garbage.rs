//! Removes the rows of timelines that have ended.

use std::io;

use carillon_proto::pb::store::CollectGarbage;

use super::{Batch, Outcome, done};
use crate::machine::keys::{self, RowBytes, Stored};

impl Batch<'_> {
    pub(super) fn collect_garbage(&mut self, op: &CollectGarbage) -> io::Result<Outcome> {
        let garbage = keys::garbage(op.number);
        if self.get(&garbage, |_| Ok(()))?.is_none() {
            return Ok(done());
        }
        let limit = op.limit as usize;
        let mut removed = Vec::new();
        for prefix in keys::all_of(op.number) {
            // Some may have been written in this batch: other replicas may batch the entries differently.
            let pending = self.changes.with_prefix(&prefix).filter(|(_, value)| value.is_some());
            let pending = pending.map(|(key, value)| Ok((key.into(), expires_ms(key, value.unwrap_or_default())?)));
            let mut found: Vec<(RowBytes, u64)> = pending.collect::<io::Result<_>>()?;
            let mut stored = 0;
            let end = [&*prefix, &[0xff; 17]].concat().into();
            for record in self.shard.view().range(prefix..=end) {
                let (key, value) = record?;
                if self.changes.get(&key).is_none() {
                    found.push((RowBytes::new(&key), expires_ms(&key, &value)?));
                    stored += 1;
                }
                if stored == limit {
                    break;
                }
            }
            found.sort_unstable();
            removed.extend(found);
        }
        let all = removed.len() < limit;
        for (key, expires_ms) in removed.into_iter().take(limit) {
            self.forget_scheduled(&key)?;
            if expires_ms != 0 {
                self.forget_expiry(expires_ms, op.number, keys::seq_of(&key)?);
            }
            self.changes.delete(key);
        }
        if all {
            self.changes.delete(garbage);
        }
        Ok(done())
    }
}

/// When the content is to be removed, if this is a row of a message that expires; otherwise 0.
fn expires_ms(key: &[u8], value: &[u8]) -> io::Result<u64> {
    if keys::seq_of(key).is_err() {
        return Ok(0);
    }
    Ok(Stored::decode(value)?.header.expires_ms)
}
