//! Rows about messages go with their messages.

use std::io;

use carillon_proto::pb::store::{Annotated, TimelineKey};
use prost::Message as _;

use super::{Batch, EnvelopeHead, Place, TimelineState, broken, decode, owner_of};
use crate::machine::keys::{self, AnnotationKey, RowBytes, Stored};

/// Most rows of messages that one command removes: it bounds the time of one command. Replicas with different numbers would diverge: a
/// change needs a new level.
const FORGOTTEN: usize = 4096;

impl Batch<'_> {
    /// Removes the rows of messages from `first` on that stand before `end`, as many as one command may. Returns before which position
    /// all are removed.
    pub(in crate::machine::timeline) fn forget_annotations(
        &mut self,
        timeline: &TimelineKey,
        state: TimelineState,
        end: u64,
    ) -> io::Result<u64> {
        let rows = self.annotations_between(state.number, state.first, end)?;
        for (key, pinned) in rows.iter().take(FORGOTTEN) {
            if *pinned {
                self.forget_pin(timeline, state, keys::annotation_of(key)?.seq())?;
            }
            self.changes.delete(key.clone());
        }
        match rows.get(FORGOTTEN) {
            Some((key, _)) => Ok(keys::annotation_of(key)?.seq()),
            None => Ok(end),
        }
    }

    /// In order, at least one more than one command removes if there are as many; each with whether it is that of a pinned message.
    fn annotations_between(&self, number: u64, first: u64, end: u64) -> io::Result<Vec<(RowBytes, bool)>> {
        let range = keys::annotations_between(number, first, end);
        let is_pinned = |key: &[u8], value: &[u8]| match keys::annotation_of(key)? {
            AnnotationKey::OfMessage { .. } => Ok::<_, io::Error>(decode::<Annotated>(value)?.pinned),
            _ => Ok(false),
        };
        let mut rows = Vec::new();
        for row in self.shard.view().range(range.clone()) {
            let (key, value) = row?;
            if self.changes.get(&key).is_none() {
                rows.push((RowBytes::new(&key), is_pinned(&key, &value)?));
            }
            if rows.len() > FORGOTTEN {
                break;
            }
        }
        // Some may have been written in this batch: other replicas may batch the entries differently.
        for (key, value) in self.changes.within(&range) {
            if let Some(value) = value {
                rows.push((key.into(), is_pinned(key, value)?));
            }
        }
        rows.sort_unstable();
        Ok(rows)
    }

    fn forget_pin(&mut self, timeline: &TimelineKey, state: TimelineState, seq: u64) -> io::Result<()> {
        let said = self.get(&keys::record(state.number, seq), |record| {
            EnvelopeHead::decode(Stored::decode(record)?.envelope).map_err(|_| broken("envelope of a pinned message"))
        })?;
        let Some(said) = said else { return Ok(()) };
        let in_group = said.recipient().is_none();
        let place = Place { state, owner: owner_of(Some(timeline))?, in_group };
        let (key, mut pins) = self.pins(place, &said)?;
        pins.seqs.retain(|known| *known != seq);
        self.put_pins(key, &pins);
        Ok(())
    }
}
