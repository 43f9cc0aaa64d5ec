//! Removes the rows of timelines that have ended.

use std::io;

use bytes::Bytes;
use carillon_proto::pb::store::CollectGarbage;

use super::{Batch, Outcome, done, media_holds};
use crate::machine::keys::{self, RowBytes, Stored};

impl Batch<'_> {
    pub(super) fn collect_garbage(&mut self, op: &CollectGarbage) -> io::Result<Outcome> {
        let garbage = keys::garbage(op.number);
        if self.get(&garbage, |_| Ok(()))?.is_none() {
            return Ok(done());
        }
        let limit = op.limit as usize;
        let mut removed: Vec<(RowBytes, Held)> = Vec::new();
        for prefix in keys::all_of(op.number) {
            // Some may have been written in this batch: other replicas may batch the entries differently.
            let pending = self.changes.with_prefix(&prefix).filter(|(_, value)| value.is_some());
            let mut found = Vec::new();
            for (key, value) in pending {
                found.push((key.into(), Held::by(key, value.unwrap_or_default())?));
            }
            let mut stored = 0;
            let end = [&*prefix, &[0xff; 17]].concat().into();
            for record in self.shard.view().range(prefix..=end) {
                let (key, value) = record?;
                if self.changes.get(&key).is_none() {
                    found.push((RowBytes::new(&key), Held::by(&key, &value)?));
                    stored += 1;
                }
                if stored == limit {
                    break;
                }
            }
            found.sort_unstable_by(|(a, _): &(RowBytes, Held), (b, _)| a.cmp(b));
            removed.extend(found);
        }
        let all = removed.len() < limit;
        for (key, Held { media, expires_ms }) in removed.into_iter().take(limit) {
            self.release_media(&media)?;
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

/// The things that go when a row goes.
#[derive(Default)]
struct Held {
    /// The files that a record holds.
    media: Vec<Bytes>,
    /// When the content of a record is to be removed; 0: never.
    expires_ms: u64,
}

impl Held {
    fn by(key: &[u8], value: &[u8]) -> io::Result<Self> {
        if !keys::is_record(key) {
            return Ok(Self::default());
        }
        let stored = Stored::decode(value)?;
        Ok(Self { media: media_holds::held_by(&stored), expires_ms: stored.header.expires_ms })
    }
}
