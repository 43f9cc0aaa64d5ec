//! Users whose older sessions are over: appends by those sessions are rejected. See docs/adr/0007-incarnations.md.

use std::io;

use carillon_proto::KeyedMap;

use super::keys;
use crate::engine::{Changes, fjall::TimelineShard};

/// How long an entry is kept, by the shard's clock: longer than any send's deadline and any lease.
pub(super) const KEPT_MS: u64 = 24 * 3600 * 1000;

/// All entries of the shard, in memory, so that an append costs no read: some 100 bytes for each user whose sessions
/// were ended within the last day.
#[derive(Default)]
pub(super) struct EndedSenders(KeyedMap<Vec<u8>, Ended>);

#[derive(Clone, Copy)]
struct Ended {
    /// Sessions of lower generations are over.
    generation: u64,
    /// By the shard's clock.
    told_ms: u64,
}

impl EndedSenders {
    pub(super) fn load(shard: &TimelineShard) -> io::Result<Self> {
        let mut senders = KeyedMap::default();
        for row in shard.view().range(keys::all_ended_senders()) {
            let (key, value) = row?;
            let [generation, told_ms] = keys::numbers_of(&value)?;
            senders.insert(keys::ended_sender_of(&key)?.to_vec(), Ended { generation, told_ms });
        }
        Ok(Self(senders))
    }

    /// True if appends by a session of this generation are rejected.
    pub(super) fn has_ended(&self, sender: &[u8], generation: u64) -> bool {
        self.0.get(sender).is_some_and(|ended| generation < ended.generation)
    }

    pub(super) fn end(&mut self, sender: &[u8], generation: u64, clock_ms: u64, changes: &mut Changes) {
        let known = self.0.get(sender).map_or(0, |ended| ended.generation);
        let ended = Ended { generation: generation.max(known), told_ms: clock_ms };
        self.0.insert(sender.to_vec(), ended);
        changes.put(keys::ended_sender(sender), keys::numbers_value([ended.generation, ended.told_ms]));
    }

    pub(super) fn forget_old(&mut self, clock_ms: u64, changes: &mut Changes) {
        // The order does not matter: each is a change of its own.
        self.0.retain(|sender, ended| {
            let stays = clock_ms.saturating_sub(ended.told_ms) <= KEPT_MS;
            if !stays {
                changes.delete(keys::ended_sender(sender));
            }
            stays
        });
    }
}
