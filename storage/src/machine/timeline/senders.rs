//! Senders whose sessions have ended, and those that are being erased. See docs/adr/0023-user-data.md.

use std::io;

use bytes::Bytes;
use carillon_proto::pb::store::{EndSender, EraseSender, Redact, SenderErased, SenderErasure, rejected::Reason};

use super::{Batch, Outcome, annotations::silent, done, rejected};
use crate::machine::{
    erasure,
    keys::{self, Stored},
};

impl Batch<'_> {
    pub(super) fn end_sender(&mut self, op: &EndSender) -> Outcome {
        self.senders.end(op.sender.as_bytes(), op.generation, self.clock_ms, &mut self.changes);
        done()
    }

    pub(super) fn erase_sender(&mut self, op: &EraseSender) -> io::Result<Outcome> {
        let EraseSender { sender, generation } = op;
        self.senders.end(sender.as_bytes(), *generation, self.clock_ms, &mut self.changes);
        let done = self.get(&keys::erased_sender(sender.as_bytes()), keys::number_of)?;
        let done = done.is_some_and(|done| done >= *generation);
        if !done {
            let key = keys::erasing_sender(sender.as_bytes());
            let before = self.get(&key, keys::number_of)?;
            self.forget_reports_of(sender)?;
            self.changes.put(key, keys::number_value(before.map_or(*generation, |before| before.max(*generation))));
        }
        Ok(Outcome::SenderErasure(SenderErasure { done }))
    }

    pub(super) fn redact(&mut self, op: &Redact) -> io::Result<Outcome> {
        if self.get(&keys::erasing_sender(op.sender.as_bytes()), keys::number_of)? != Some(op.generation) {
            return Ok(rejected(Reason::NotFound, "the user is not being erased"));
        }
        for message in &op.messages {
            let key = keys::record(message.number, message.seq);
            let left = self.get(&key, |record| {
                let stored = Stored::decode(record)?;
                let Some(envelope) = erasure::erased(stored.envelope, &op.sender)? else { return Ok(None) };
                let (message, expires_ms) = (stored.header.message.clone(), stored.header.expires_ms);
                let header = silent(stored.header);
                Ok(Some((Stored { header, envelope: &envelope, ..stored }.encode(), message, expires_ms)))
            })?;
            // Trimmed meanwhile, or replaced already.
            if let Some((left, header, expires_ms)) = left.flatten() {
                self.changes.put(key, left);
                self.forget_expiry(expires_ms, message.number, message.seq);
                if let Some(header) = header {
                    self.release_media(&header.media)?;
                    self.withdraw(message.number, message.seq, &op.sender, &header)?;
                }
            }
        }
        Ok(done())
    }

    /// What is left of this envelope, if its sender was erased, or is being. `generation`: that of the session that has sent it.
    pub(super) fn left_of(&self, envelope: &Bytes, generation: u64) -> io::Result<Option<Bytes>> {
        let sender = erasure::sender_of(envelope).unwrap_or_default();
        if sender.is_empty() || !erasure::is_erased(&sender, generation, |key| self.get(key, keys::number_of))? {
            return Ok(None);
        }
        Ok(erasure::tombstone(envelope)?.map(Bytes::from))
    }

    pub(super) fn sender_erased(&mut self, op: &SenderErased) -> io::Result<Outcome> {
        let key = keys::erasing_sender(op.sender.as_bytes());
        if self.get(&key, keys::number_of)? == Some(op.generation) {
            self.changes.delete(key);
            self.changes.put(keys::erased_sender(op.sender.as_bytes()), keys::number_value(op.generation));
            self.changes.put(keys::ERASED, keys::number_value(self.index));
        }
        Ok(done())
    }
}
