//! Files that something in the shard refers to, and what becomes of those that nothing refers to. The files are of any shards: each shard counts
//! for itself, and the shard of a file asks the others before it removes the file. See docs/adr/0030-media.md.

use std::io;

use bytes::Bytes;
use carillon_proto::{
    MediaId,
    pb::store::{
        CheckMedia, CollectMedia, FindMediaHolders, ForgetReleasedMedia, Header, MediaHold, MediaReleased, MediaRow,
        NoteReleasedMedia, OutboxRow, media_row::State, outbox_row::Task, rejected::Reason,
    },
};
use prost::Message as _;

use super::{
    Batch, Outcome, done,
    media::{decode, media_id},
    rejected,
};
use crate::machine::{
    broken,
    keys::{self, RowBytes, Stored},
};

/// After so long a check that has not ended begins anew: somebody may have discarded its row of the outbox. Replicas with different numbers would
/// diverge.
const CHECK_MS: u64 = 24 * 3_600_000;

/// True if a check of the file may begin, as none is under way.
pub(in crate::machine) fn may_check(row: &MediaRow, clock_ms: u64) -> bool {
    row.check == 0 || clock_ms.saturating_sub(row.check_ms) > CHECK_MS
}

/// The files that a record with this value holds.
pub(super) fn held_by(stored: &Stored<'_>) -> Vec<Bytes> {
    stored.header.message.as_ref().map(|message| message.media.clone()).unwrap_or_default()
}

impl Batch<'_> {
    /// One more refers to each of these files.
    pub(super) fn hold_media(&mut self, ids: &[Bytes]) -> io::Result<()> {
        for id in ids {
            let id = media_id(id)?;
            let before = self.media_hold(&id)?.unwrap_or_default();
            if before.released_ms != 0 {
                self.changes.delete(keys::media_released(before.released_ms, &id));
            }
            let after = MediaHold { count: before.count + 1, released_ms: 0 };
            self.changes.put(keys::media_hold(&id), after.encode_to_vec());
        }
        Ok(())
    }

    /// One less refers to each of these files. The last one leaves the row: for a while the shard still says that it holds the file.
    pub(super) fn release_media(&mut self, ids: &[Bytes]) -> io::Result<()> {
        for id in ids {
            let id = media_id(id)?;
            let before = self.media_hold(&id)?.unwrap_or_default();
            let count = before.count.checked_sub(1).ok_or_else(|| broken("count of what refers to a file"))?;
            // 0 says that it is held.
            let released_ms = if count == 0 { self.clock_ms.max(1) } else { 0 };
            if count == 0 {
                self.changes.put(keys::media_released(released_ms, &id), RowBytes::default());
            }
            self.changes.put(keys::media_hold(&id), MediaHold { count, released_ms }.encode_to_vec());
        }
        Ok(())
    }

    pub(super) fn hold_media_of(&mut self, header: Option<&Header>) -> io::Result<()> {
        header.map_or(Ok(()), |header| self.hold_media(&header.media))
    }

    pub(super) fn release_media_of(&mut self, header: Option<&Header>) -> io::Result<()> {
        header.map_or(Ok(()), |header| self.release_media(&header.media))
    }

    pub(super) fn forget_released_media(&mut self, op: &ForgetReleasedMedia) -> io::Result<Outcome> {
        // The leader finds them again.
        if !self.outbox.has_room() {
            return Ok(done());
        }
        let mut ids = Vec::new();
        for seen in &op.files {
            let id = media_id(&seen.id)?;
            let hold = self.media_hold(&id)?;
            if hold.is_none_or(|hold| hold.count != 0 || hold.released_ms != seen.released_ms) {
                continue;
            }
            self.changes.delete(keys::media_hold(&id));
            self.changes.delete(keys::media_released(seen.released_ms, &id));
            ids.push(id_bytes(&id));
        }
        if !ids.is_empty() {
            self.put_media_task(Task::MediaReleased(MediaReleased { ids }))?;
        }
        Ok(done())
    }

    pub(super) fn note_released_media(&mut self, op: &NoteReleasedMedia) -> io::Result<Outcome> {
        for id in &op.ids {
            let id = media_id(id)?;
            if let Some(row) = self.media(&id)? {
                let row = MediaRow { released_ms: self.clock_ms.max(1), ..row };
                self.changes.put(keys::media(&id), row.encode_to_vec());
            }
        }
        Ok(done())
    }

    pub(super) fn check_media(&mut self, op: &CheckMedia) -> io::Result<Outcome> {
        // The leader finds them again.
        if !self.outbox.has_room() {
            return Ok(done());
        }
        let mut ids = Vec::new();
        for id in &op.ids {
            let id = media_id(id)?;
            let may_begin = |row: &MediaRow| row.state() == State::Complete && may_check(row, self.clock_ms);
            let Some(row) = self.media(&id)?.filter(may_begin) else { continue };
            let row = MediaRow { check: self.index, check_ms: self.clock_ms, released_ms: 0, ..row };
            self.changes.put(keys::media(&id), row.encode_to_vec());
            ids.push(id_bytes(&id));
        }
        if !ids.is_empty() {
            self.put_media_task(Task::FindMediaHolders(FindMediaHolders { ids, check: self.index }))?;
        }
        Ok(done())
    }

    pub(super) fn collect_media(&mut self, op: &CollectMedia) -> io::Result<Outcome> {
        if !self.outbox.has_room() {
            return Ok(rejected(Reason::Full, "too many files wait to be removed"));
        }
        for id in &op.held {
            let id = media_id(id)?;
            if let Some(row) = self.media_in_check(&id, op.check)? {
                let row = MediaRow { check: 0, check_ms: 0, held_ms: self.clock_ms.max(1), ..row };
                self.changes.put(keys::media(&id), row.encode_to_vec());
            }
        }
        let mut unheld = Vec::new();
        for id in &op.unheld {
            let id = media_id(id)?;
            let Some(row) = self.media_in_check(&id, op.check)? else { continue };
            if row.released_ms != 0 {
                self.changes.put(keys::media(&id), MediaRow { check: 0, check_ms: 0, ..row }.encode_to_vec());
                continue;
            }
            self.drop_media(&id, &row)?;
            unheld.push(id_bytes(&id));
        }
        self.put_removed_media(unheld)?;
        Ok(done())
    }

    /// The row of a file, if this check of it is under way.
    fn media_in_check(&self, id: &MediaId, check: u64) -> io::Result<Option<MediaRow>> {
        Ok(self.media(id)?.filter(|row| row.check == check))
    }

    fn media_hold(&self, id: &MediaId) -> io::Result<Option<MediaHold>> {
        self.get(&keys::media_hold(id), decode)
    }

    fn put_media_task(&mut self, task: Task) -> io::Result<()> {
        self.put_outbox(&OutboxRow { task: Some(task), ..OutboxRow::default() })
    }
}

fn id_bytes(id: &MediaId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}
