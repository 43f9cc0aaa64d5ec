//! Removes the rows of timelines that have ended.

use std::io;

use carillon_proto::pb::store::CollectGarbage;

use super::{Batch, Outcome, done};
use crate::machine::keys::{self, RowBytes};

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
            let mut found: Vec<RowBytes> = pending.map(|(key, _)| key.into()).collect();
            let mut stored = 0;
            let end = [&*prefix, &[0xff; 17]].concat().into();
            for record in self.shard.view().range(prefix..=end) {
                let (key, _) = record?;
                if self.changes.get(&key).is_none() {
                    found.push(RowBytes::new(&key));
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
        for key in removed.into_iter().take(limit) {
            self.forget_scheduled(&key)?;
            self.changes.delete(key);
        }
        if all {
            self.changes.delete(garbage);
        }
        Ok(done())
    }
}
