//! Messages that are taken back.

use std::io;

use carillon_proto::pb::store::{Annotated, Append, ConversationsMoved, Stamp, append::Admission, header::Kind};
use prost::Message as _;

use super::{
    Batch, CachedTimeline, EnvelopeHead, Place, Target, annotations, broken, erasure, media_holds, owner_of, silent,
};
use crate::machine::keys::{self, Stored};

impl Batch<'_> {
    /// True if the message takes back something that its sender has in this inbox, whose owner lets the sender say nothing more.
    pub(in crate::machine::timeline) fn takes_back(
        &mut self,
        held: Option<&CachedTimeline>,
        op: &Append,
        admission: Admission,
        duplicate: &[u8; 16],
    ) -> io::Result<bool> {
        let header = op.header.as_ref().filter(|header| header.kind() == Kind::Recall);
        let (Some(held), Some(header)) = (held, header) else { return Ok(false) };
        if admission == Admission::Unspecified || self.was_withheld_before(held, op, duplicate)? {
            return Ok(false);
        }
        let said = EnvelopeHead::decode(op.envelope.clone()).map_err(|_| broken("envelope of a recall"))?;
        let reference = header.refers_to.as_ref().ok_or_else(|| broken("reference"))?;
        let place = Place { state: held.state, owner: owner_of(op.timeline.as_ref())?, in_group: false };
        let Some(target) = self.target(place, reference, &said)? else { return Ok(false) };
        let row = self.annotated(place.state.number, target.seq)?;
        Ok(self.may_refer(place, None, header, &said, &target, &row)?.is_ok())
    }

    pub(super) fn recall(
        &mut self,
        place: Place<'_>,
        erase: bool,
        stamp: Stamp,
        said: &EnvelopeHead,
        target: &Target,
        row: &mut Annotated,
    ) -> io::Result<Option<Box<ConversationsMoved>>> {
        let number = place.state.number;
        if annotations::is_later(&stamp, row.recall.as_ref(), place.in_group) {
            row.recall = Some(stamp);
        }
        self.set_pinned(place, said, target.seq, row, false)?;
        #[cfg(feature = "planted-bugs")]
        if super::super::planted::recalls_take_evidence() {
            self.lose_evidence_of(place.owner)?;
        }
        if place.in_group {
            self.forget_mentions_of(number, target.seq, row, &target.header)?;
        }
        row.reactions.clear();
        row.votes.clear();
        row.voters = 0;
        for seq in std::iter::once(target.seq).chain(row.edits.iter().map(|edit| edit.seq)) {
            self.hide(number, seq)?;
        }
        if erase && !row.erased {
            row.erased = true;
            self.leave_nothing(number, target.seq)?;
            for edit in &row.edits {
                self.leave_nothing(number, edit.seq)?;
            }
        }
        match target.number {
            Some(counts_by) => self.empty(place, &target.said, counts_by),
            None => Ok(None),
        }
    }

    /// Readers get nothing of what this record says any more.
    fn hide(&mut self, number: u64, seq: u64) -> io::Result<()> {
        let key = keys::record(number, seq);
        let hidden = self.get(&key, |record| {
            let mut stored = Stored::decode(record)?;
            Ok((!std::mem::replace(&mut stored.header.recalled, true)).then(|| stored.encode()))
        })?;
        if let Some(hidden) = hidden.flatten() {
            self.changes.put(key, hidden);
        }
        Ok(())
    }

    /// Replaces what the record says by what is left of a message that was taken back for good, or whose time is over.
    pub(in crate::machine::timeline) fn leave_nothing(&mut self, number: u64, seq: u64) -> io::Result<()> {
        let key = keys::record(number, seq);
        let left = self.get(&key, |record| {
            let stored = Stored::decode(record)?;
            let Some(envelope) = erasure::tombstone(stored.envelope)? else { return Ok(None) };
            let (media, expires_ms) = (media_holds::held_by(&stored), stored.header.expires_ms);
            let header = silent(stored.header);
            Ok(Some((Stored { header, envelope: &envelope, ..stored }.encode(), media, expires_ms)))
        })?;
        if let Some((left, media, expires_ms)) = left.flatten() {
            self.changes.put(key, left);
            #[cfg(feature = "planted-bugs")]
            let media = if super::super::planted::expired_hold() { Vec::new() } else { media };
            self.release_media(&media)?;
            self.forget_expiry(expires_ms, number, seq);
        }
        Ok(())
    }
}
