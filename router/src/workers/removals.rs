//! Rows of the outbox that ask for the bytes of files to be removed. That takes as long as the place for files takes, so such a row holds
//! up nothing: the row is settled in a later pass, when its files are gone. So do those that ask many shards about files, see `collection.rs`.

use std::collections::BTreeMap;

use carillon_proto::{MediaId, pb::store::RemoveObjects};
use tokio::time::Instant;

use super::{
    later::put_off,
    outbox::{Effect, OutboxWorker, RowPlace},
};

/// Rows about files that are carried out at once.
const AT_ONCE: usize = 4;

/// Which bytes of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removed {
    All,
    /// The uploaded bytes of pictures in whose place stripped ones stand by now.
    Uploaded,
}

/// How far a row about files is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    UnderWay,
    Done,
}

/// Bounded by what is under way, and by the rows of one pass.
#[derive(Default)]
pub(super) struct Removals(BTreeMap<RowPlace, Removal>);

impl Removals {
    pub(super) fn settled(&mut self, place: RowPlace) {
        self.0.remove(&place);
    }

    pub(super) fn note(&mut self, place: RowPlace, removal: Removal) {
        self.0.insert(place, removal);
    }

    /// True if what this row asks for may begin, and now has.
    fn begin(&mut self, place: RowPlace) -> bool {
        let has_room = self.0.values().filter(|removal| **removal == Removal::UnderWay).count() < AT_ONCE;
        if has_room {
            self.0.insert(place, Removal::UnderWay);
        }
        has_room
    }
}

impl OutboxWorker {
    /// Whether the files of this row are gone. If nobody removes them yet, that begins as soon as there is room.
    pub(super) fn is_removed(&mut self, place: RowPlace, row: &RemoveObjects) -> bool {
        self.is_done_aside(place, || {
            let ids = row.ids.iter().filter_map(|id| MediaId::from_bytes(id)).collect();
            Effect::Remove(place, ids, if row.uploaded { Removed::Uploaded } else { Removed::All })
        })
    }

    /// Whether what this row asks for is done. If nobody does it yet, that begins as soon as there is room.
    pub(super) fn is_done_aside(&mut self, place: RowPlace, effect: impl FnOnce() -> Effect) -> bool {
        if let Some(removal) = self.removals.0.get(&place) {
            return *removal == Removal::Done;
        }
        if self.removals.begin(place) {
            self.effects.push(effect());
        }
        false
    }

    /// What `Effect::Remove` came to. While the place for files is away, it is tried again.
    pub(super) fn removed(&mut self, place: RowPlace, result: Result<(), String>, now: Instant) {
        match result {
            Ok(()) => {
                self.removals.0.insert(place, Removal::Done);
                self.nudge(now);
            }
            Err(why) => {
                tracing::warn!(shard = %self.shard, why, "files that nobody needs can't be removed now");
                self.removals.0.remove(&place);
                put_off(&mut self.later, place, now);
            }
        }
    }
}
