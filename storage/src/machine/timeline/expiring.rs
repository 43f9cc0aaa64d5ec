//! Messages whose time is over: what they said is removed, as if they had been recalled for good. See docs/adr/0034-expiring.md.

use std::io;

use carillon_proto::{
    expiring_at,
    pb::{
        client::Envelope,
        store::{Append, ExpireMessages, Header, TimelineKey, header::Kind, rejected::Reason},
    },
};
use prost::Message as _;

use super::{
    Batch, Outcome,
    annotations::{Place, owner_of},
    done, rejected, timeline_key,
};
use crate::machine::{
    annotations::EnvelopeHead,
    broken, emptied,
    expiring_reader::EXPIRED,
    keys::{self, RowBytes, Stored},
    timeline_reader::is_group,
};

/// The message as the group's rule ends it; `None`: it ends as early as that by itself, or there is no rule. `at_ms`: by the times of the
/// envelopes; 0: there is no rule.
pub(super) fn ended(op: &Append, at_ms: u64) -> io::Result<Result<Option<Append>, Outcome>> {
    let own_ms = op.header.as_ref().map_or(0, |header| header.expires_at_ms);
    if at_ms == 0 || (1..=at_ms).contains(&own_ms) {
        return Ok(Ok(None));
    }
    // Its content will be taken out of it.
    let readable = Envelope::decode(&*op.envelope).is_ok();
    let Some(envelope) = expiring_at(&op.envelope, at_ms).filter(|_| readable) else {
        return Ok(Err(rejected(Reason::Invalid, "envelope can't be read")));
    };
    let plain = || Box::new(Header { countable: true, ..Header::default() });
    let mut header = op.header.clone().unwrap_or_else(plain);
    (header.expires_at_ms, header.ended_by_rule) = (at_ms, true);
    Ok(Ok(Some(Append { envelope: envelope.into(), header: Some(header), ..op.clone() })))
}

impl Batch<'_> {
    /// When the content of this message is to be removed, by the shard's clock; 0: never. The times in the command say for how long it is
    /// shown, and nothing else.
    pub(super) fn expires_ms(&self, op: &Append, header: &Header) -> u64 {
        match header.expires_at_ms {
            0 => 0,
            at_ms => self.clock_ms.saturating_add(at_ms.saturating_sub(op.time_ms)).max(1),
        }
    }

    pub(super) fn expire_messages(&mut self, op: &ExpireMessages) -> io::Result<Outcome> {
        for (key, timeline) in self.due_messages(op.until_ms.min(self.clock_ms))? {
            let (_, number, seq) = keys::expiring_of(&key)?;
            self.expire(&keys::expiring_in_of(&timeline)?, number, seq)?;
            self.changes.delete(key);
        }
        Ok(done())
    }

    /// The first rows up to this time, each with its value.
    fn due_messages(&self, until_ms: u64) -> io::Result<Vec<(RowBytes, RowBytes)>> {
        let range = keys::expiring_until(until_ms);
        // Some may have come or gone in this batch: other replicas may batch the entries differently.
        let pending = self.changes.within(&range).filter_map(|(key, value)| Some((key.into(), value?.into())));
        let mut found: Vec<(RowBytes, RowBytes)> = pending.collect();
        let mut stored = 0;
        for row in self.shard.view().range(range) {
            let (key, value) = row?;
            if self.changes.get(&key).is_none() {
                found.push((RowBytes::new(&key), RowBytes::new(&value)));
                stored += 1;
            }
            if stored == EXPIRED {
                break;
            }
        }
        found.sort_unstable();
        found.truncate(EXPIRED);
        Ok(found)
    }

    fn expire(&mut self, timeline: &TimelineKey, number: u64, seq: u64) -> io::Result<()> {
        let held = self.held(&timeline_key(Some(timeline))?)?;
        let Some(state) = held.map(|held| held.state).filter(|state| state.number == number) else {
            // The message goes with the remains of its timeline.
            return Ok(());
        };
        let found = self.get(&keys::record(number, seq), |record| {
            let Stored { header, envelope, .. } = Stored::decode(record)?;
            let said = EnvelopeHead::decode(envelope).map_err(|_| broken("envelope of an expiring message"))?;
            let number = emptied::number_of(&header);
            Ok((said, number, header.message.unwrap_or_default()))
        })?;
        let (said, counts_by, header) = found.ok_or_else(|| broken("time of a message that is not there"))?;
        // An edit has a row of its own, and goes with what it edits.
        if header.kind() == Kind::Message {
            let place = Place { state, owner: owner_of(Some(timeline))?, in_group: is_group(timeline) };
            self.forget_annotated(place, &said, seq, &header)?;
            if let Some(counts_by) = counts_by {
                self.empty(place, &said, counts_by)?;
            }
        }
        self.leave_nothing(number, seq)
    }

    /// The content of the message at this position is removed now, or with the rest of the message.
    pub(super) fn forget_expiry(&mut self, expires_ms: u64, number: u64, seq: u64) {
        if expires_ms != 0 {
            self.changes.delete(keys::expiring(expires_ms, number, seq));
        }
    }
}
