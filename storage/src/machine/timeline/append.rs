//! Appends: the position of a message, and the answer to a repeat.

use std::io;

use bytes::Bytes;
use carillon_proto::{
    Level,
    pb::store::{Append, Appended, RecordHeader, append::Admission, header, rejected::Reason, timeline_key::Kind},
};

use super::{
    Batch, CachedTimeline, Outcome, TimelineState, annotations::Kept, conversations::Conversed, duplicate_key,
    expiring, privacy, rejected, timeline_key,
};
use crate::machine::{
    broken,
    keys::{self, RowBytes, Stored},
};

impl Batch<'_> {
    pub(super) fn append(&mut self, op: &Append) -> io::Result<Outcome> {
        let duplicate = duplicate_key(op)?;
        if self.senders.has_ended(&op.sender, op.sender_generation) {
            return Ok(rejected(Reason::SenderGone, "the session that has sent it is over"));
        }
        let key = timeline_key(op.timeline.as_ref())?;
        let before = self.held(&key)?;
        // From this level on a group is made by `ChangeGroup`, and its log is of the one that there is.
        let is_group =
            self.reading.level >= Level::GROUPS && op.timeline.as_ref().is_some_and(|key| key.kind() == Kind::Group);
        let incarnation = if is_group { before.map_or(0, |before| before.state.incarnation) } else { op.incarnation };
        if before.is_some_and(|before| incarnation < before.state.incarnation) {
            return Ok(rejected(Reason::Gone, "the inbox of this user has ended"));
        }
        // A timeline of another owner is neither read nor continued.
        let held = before.filter(|before| before.state.number != 0 && before.state.incarnation == incarnation);
        let admission = privacy::admission(op)?;
        if let Some(Outcome::Appended(first)) = self.repeated(held.as_ref(), &duplicate)? {
            let request = self.is_in_request(held.as_ref(), op, admission)?;
            return Ok(Outcome::Appended(Appended { request, ..first }));
        }
        if op.only_repeat {
            return Ok(rejected(Reason::NotFound, "the message is not in the timeline"));
        }
        if !self.follows(held.as_ref(), op)? && (is_group || !self.follows_withheld(held.as_ref(), op, admission)?) {
            return Ok(rejected(Reason::OutOfOrder, "the message that this one follows is not in the timeline"));
        }
        let about_another = op.header.as_ref().is_some_and(|header| header.kind() != header::Kind::Message);
        let mut ends_at_ms = 0;
        if is_group && op.group_incarnation.is_some_and(|wanted| wanted != incarnation) {
            return Ok(rejected(Reason::NotFound, "the group for which the message was scheduled was deleted"));
        }
        if is_group && !about_another {
            ends_at_ms = match self.may_write(held.as_ref(), op)? {
                Ok(ends_at_ms) => ends_at_ms,
                Err(refused) => return Ok(refused),
            };
        }
        let ended = match expiring::ended(op, ends_at_ms)? {
            Ok(ended) => ended,
            Err(refused) => return Ok(refused),
        };
        let op = ended.as_ref().unwrap_or(op);
        let takes_back = !is_group && self.takes_back(held.as_ref(), op, admission, &duplicate)?;
        // The members of a group have rights instead.
        let admission = if is_group || takes_back { Admission::Unspecified } else { admission };
        if held.is_none() && privacy::is_refused(None, op, admission) {
            return Ok(privacy::refused());
        }
        let kept = match &op.header {
            // A message that does not enter the inbox changes no other message either.
            Some(_) if !is_group && self.is_kept_out(held.as_ref(), op, admission, &duplicate)? => Kept::default(),
            Some(header) => match self.refer(held.as_ref(), op, header, is_group)? {
                Ok(kept) => kept,
                Err(refused) => return Ok(refused),
            },
            None => Kept::default(),
        };
        let mut held = match held {
            Some(held) => held,
            None => {
                self.end(op.timeline.as_ref(), before)?;
                CachedTimeline::new(self.create(key.clone(), op.new_epoch, op.incarnation)?)
            }
        };
        let Conversed { header, in_request, moved } = match is_group {
            true if about_another => Conversed { header: held.header(true), ..Conversed::default() },
            true => Conversed { header: held.count(), ..Conversed::default() },
            false => match self.converse(op, admission, &duplicate, &held.state, takes_back)? {
                Ok(conversed) => conversed,
                Err(kept_out) => {
                    self.touched.insert(key, Some(held));
                    return Ok(kept_out);
                }
            },
        };
        let moved = moved.or(kept.moved);
        let Kept { header: message, envelope, expires_ms, recalled, .. } = kept;
        let header = RecordHeader { message, expires_ms, recalled, ..header };
        let envelope = envelope.as_ref().unwrap_or(&op.envelope);
        match self.record(key, held, duplicate, header, envelope)? {
            Outcome::Appended(appended) => {
                let expires_at_ms = if ended.is_some() { ends_at_ms } else { 0 };
                Ok(Outcome::Appended(Appended { request: in_request, moved, expires_at_ms, ..appended }))
            }
            other => Ok(other),
        }
    }

    /// The first answer to what has this duplicate key, if it is in the timeline.
    pub(super) fn repeated(&self, held: Option<&CachedTimeline>, duplicate: &[u8; 16]) -> io::Result<Option<Outcome>> {
        let known = held.map(|held| held.state);
        #[cfg(feature = "planted-bugs")]
        let known = super::planted::forget_duplicates(known);
        // An empty timeline has no duplicate keys.
        let Some(TimelineState { number, epoch, .. }) = known.filter(|state| state.first <= state.last) else {
            return Ok(None);
        };
        let Some(seq) = self.get(&keys::duplicate(number, duplicate), keys::number_of)? else { return Ok(None) };
        let first = self.get(&keys::record(number, seq), |value| {
            let stored = Stored::decode(value)?;
            let message = stored.header.message.as_ref().filter(|message| message.ended_by_rule);
            let expires_at_ms = message.map_or(0, |message| message.expires_at_ms);
            Ok((stored.shown(), expires_at_ms))
        })?;
        let (first_envelope, expires_at_ms) = first.ok_or_else(|| broken("duplicate key without its envelope"))?;
        Ok(Some(Outcome::Appended(Appended { epoch, seq, first_envelope, expires_at_ms, ..Appended::default() })))
    }

    /// Gives the envelope the next position of the timeline.
    pub(super) fn record(
        &mut self,
        key: RowBytes,
        mut held: CachedTimeline,
        duplicate: [u8; 16],
        header: RecordHeader,
        envelope: &Bytes,
    ) -> io::Result<Outcome> {
        if let Some(message) = &header.message {
            self.hold_media(&message.media)?;
        }
        let seq = held.append(duplicate);
        let TimelineState { number, epoch, .. } = held.state;
        if header.expires_ms != 0 {
            self.changes.put(keys::expiring(header.expires_ms, number, seq), keys::expiring_in(&key));
        }
        let stored = Stored { clock_ms: self.clock_ms, duplicate, header, envelope };
        self.changes.put(keys::record(number, seq), stored.encode());
        self.changes.put(keys::duplicate(number, &duplicate), keys::number_value(seq));
        self.touched.insert(key, Some(held));
        Ok(Outcome::Appended(Appended { epoch, seq, ..Appended::default() }))
    }

    /// True if the message that must precede this one, if it names one, is in the timeline.
    fn follows(&self, held: Option<&CachedTimeline>, op: &Append) -> io::Result<bool> {
        if op.after_key.is_empty() {
            return Ok(true);
        }
        let after: [u8; 16] = op.after_key.as_ref().try_into().map_err(|_| broken("key of the message before"))?;
        match held {
            Some(held) if held.tail_contains(&after) => Ok(true),
            Some(CachedTimeline { state, .. }) if state.first <= state.last => {
                Ok(self.get(&keys::duplicate(state.number, &after), keys::number_of)?.is_some())
            }
            Some(_) | None => Ok(false),
        }
    }
}
