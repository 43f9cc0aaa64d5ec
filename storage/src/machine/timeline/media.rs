//! Files: whose they are, and whether they are whole. Their bytes are elsewhere. See docs/adr/0030-media.md.

use std::io;

use bytes::Bytes;
use carillon_proto::{
    MediaId,
    pb::store::{
        CompleteMedia, CreateMedia, MediaRow, MediaSum, OutboxRow, Person, RemoveMedia, RemoveObjects, TimelineKey,
        media_row::State, outbox_row::Task, rejected::Reason,
    },
};
use prost::Message;

use super::{Batch, Outcome, done, rejected, timeline_key};
use crate::machine::{broken, keys};

impl Batch<'_> {
    pub(super) fn create_media(&mut self, op: &CreateMedia) -> io::Result<Outcome> {
        let (id, owner) = (media_id(&op.id)?, owner_of(op.timeline.as_ref(), op.incarnation)?);
        let inbox = self.held(&timeline_key(op.timeline.as_ref())?)?;
        if inbox.is_some_and(|inbox| op.incarnation < inbox.state.incarnation) {
            return Ok(rejected(Reason::Gone, "the account of this user has ended"));
        }
        if self.senders.has_ended(owner.user.as_bytes(), op.sender_generation) {
            return Ok(rejected(Reason::SenderGone, "the session that asks for it is over"));
        }
        let row = MediaRow {
            owner: Some(owner.clone()),
            size_bytes: op.size_bytes,
            media_type: op.media_type.clone(),
            name: op.name.clone(),
            state: State::Pending.into(),
            changed_ms: self.clock_ms,
            sender_generation: op.sender_generation,
            ..MediaRow::default()
        };
        if let Some(known) = self.media(&id)? {
            let is_repeated = known.owner == row.owner && known.size_bytes == row.size_bytes;
            return Ok(if is_repeated { done() } else { rejected(Reason::Exists, "there is another file of this id") });
        }
        let sum = match self.media_sum(&owner.user)? {
            Some(sum) if sum.incarnation > op.incarnation => {
                return Ok(rejected(Reason::Gone, "the account of this user has ended"));
            }
            // Files of earlier owners of the name are not this one's.
            Some(sum) if sum.incarnation == op.incarnation => sum,
            Some(_) | None => MediaSum { incarnation: op.incarnation, ..MediaSum::default() },
        };
        let bytes = sum.bytes.saturating_add(op.size_bytes);
        if bytes > op.most_bytes || sum.files >= op.most_files {
            let why = format!(
                "the user has {} files of {} bytes, and may have {} of {}",
                sum.files, sum.bytes, op.most_files, op.most_bytes
            );
            return Ok(rejected(Reason::Full, &why));
        }
        let sum = MediaSum { bytes, files: sum.files + 1, ..sum };
        self.changes.put(keys::media_sum(owner.user.as_bytes()), sum.encode_to_vec());
        self.changes.put(keys::media(&id), row.encode_to_vec());
        Ok(done())
    }

    pub(super) fn complete_media(&mut self, op: &CompleteMedia) -> io::Result<Outcome> {
        let id = media_id(&op.id)?;
        let Some(row) = self.media(&id)?.filter(|row| row.owner == op.owner) else {
            return Ok(rejected(Reason::NotFound, "there is no such file of this user"));
        };
        if row.state() != State::Pending {
            return Ok(done());
        }
        let (media_type, sha256) = (op.media_type.clone(), op.sha256.clone());
        let mut whole =
            MediaRow { state: State::Complete.into(), changed_ms: self.clock_ms, media_type, sha256, ..row };
        if !op.sha256.is_empty() {
            if !self.outbox.has_room() {
                return Ok(rejected(Reason::Full, "too many files wait to be removed"));
            }
            self.recount(&whole, 0, op.size_bytes)?;
            whole.size_bytes = op.size_bytes;
            let task = Some(Task::RemoveObjects(RemoveObjects { ids: vec![op.id.clone()], uploaded: true }));
            self.put_outbox(&OutboxRow { task, ..OutboxRow::default() })?;
        }
        self.changes.put(keys::media(&id), whole.encode_to_vec());
        Ok(done())
    }

    pub(super) fn remove_media(&mut self, op: &RemoveMedia) -> io::Result<Outcome> {
        // The leader finds them again.
        if !self.outbox.has_room() {
            return Ok(done());
        }
        let mut removed = Vec::new();
        for seen in &op.files {
            let id = media_id(&seen.id)?;
            let Some(row) = self.media(&id)? else { continue };
            if (row.state(), row.changed_ms) != (seen.state(), seen.changed_ms) {
                continue;
            }
            self.drop_media(&id, &row)?;
            removed.push(seen.id.clone());
        }
        self.put_removed_media(removed)?;
        Ok(done())
    }

    /// Removes the row of a file, which no longer counts for its owner.
    pub(super) fn drop_media(&mut self, id: &MediaId, row: &MediaRow) -> io::Result<()> {
        self.recount(row, 1, 0)?;
        self.changes.delete(keys::media(id));
        Ok(())
    }

    /// The bytes of these files are to be removed.
    pub(super) fn put_removed_media(&mut self, ids: Vec<Bytes>) -> io::Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let task = Some(Task::RemoveObjects(RemoveObjects { ids, uploaded: false }));
        self.put_outbox(&OutboxRow { task, ..OutboxRow::default() })
    }

    /// Takes so many files and the bytes of this one off the sum of the owner's files, and adds these bytes.
    fn recount(&mut self, row: &MediaRow, files: u32, more: u64) -> io::Result<()> {
        let owner = row.owner.as_ref().ok_or_else(|| broken("file without an owner"))?;
        let Some(sum) = self.media_sum(&owner.user)?.filter(|sum| sum.incarnation == owner.incarnation) else {
            return Ok(());
        };
        let less = || Some((sum.files.checked_sub(files)?, sum.bytes.checked_sub(row.size_bytes)?));
        let (files, bytes) = less().ok_or_else(|| broken("sum of a user's files"))?;
        let bytes = bytes.saturating_add(more);
        // It stays when nothing is left: it says which owner of the name it is that counts.
        self.changes.put(keys::media_sum(owner.user.as_bytes()), MediaSum { bytes, files, ..sum }.encode_to_vec());
        Ok(())
    }

    pub(super) fn media(&self, id: &MediaId) -> io::Result<Option<MediaRow>> {
        self.get(&keys::media(id), decode)
    }

    fn media_sum(&self, user: &str) -> io::Result<Option<MediaSum>> {
        self.get(&keys::media_sum(user.as_bytes()), decode)
    }
}

pub(super) fn media_id(bytes: &[u8]) -> io::Result<MediaId> {
    MediaId::from_bytes(bytes).ok_or_else(|| broken("id of a file"))
}

fn owner_of(inbox: Option<&TimelineKey>, incarnation: u64) -> io::Result<Person> {
    let user = inbox.and_then(|inbox| inbox.owner_str().ok()).ok_or_else(|| broken("owner of a file"))?;
    Ok(Person { user: user.to_owned(), incarnation })
}

pub(super) fn decode<M: Message + Default>(value: &[u8]) -> io::Result<M> {
    M::decode(value).map_err(|_| broken("row of a file"))
}
